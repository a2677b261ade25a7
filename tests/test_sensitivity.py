"""S against its dense formula, against derivatives and differences, and where there is none."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import RandomProgram, programs
from test_exactness import QUIET, outputs, twins
from torch import Tensor, nn
from torch.nn import functional as F

import implicit_dsl
from implicit_dsl.analysis import NoBound, Sensitivity, attribution, jacobian, sensitivity
from implicit_dsl.matrices import TooLarge
from implicit_dsl.shapes import count

torch.set_num_threads(1)

LOOP = """
model Loop(n = 6, p = 4)
    input u[p]
    param A[n, n], B[n, p], b[n], C[3, n], D[3, p]
    state x[n] ~ {φ}(A*x + B*u + b)
    output y[3] = C*x + D*u
    @wellposed norm(A, Inf) <= 0.9
    @solver newton(tol = 1e-13)
end
"""
TWO = """
model Two
    input u[3], v[2, 2]
    param W[4, 4]
    state s[4] ~ tanh(Dense(4)*u + W*t)
    state t[4] ~ sigmoid(Dense(4)*flatten(v) + 0.5*s)
    state p[3] ~ softmax(Dense(3)*t)
    output y[3] = p, z[1] = Dense(1)*s - Dense(1)*flatten(v)
    @wellposed norm(A, Inf) <= 0.9
    @solver newton(tol = 1e-13)
end
"""
PICTURE = """
model Picture
    input u[1, 8, 8]
    layer K1 = Conv(1 => 3, 3), K2 = Conv(3 => 4, 3; pad = 1)
    state c1[3, 6, 6] ~ tanh(K1*u)
    state s2[3, 3, 3] ~ MaxPool(2)(c1)
    state c3[4, 3, 3] ~ relu(K2*s2)
    output y[3] = Dense(3)*flatten(c3) + Dense(3)*flatten(c1)
end
"""
GATED = """
model Gated(n = 4)
    input u[_, 3]
    layer F = Dense(n), G = Dense(n), W = Dense(n; bias = false), V = Dense(n; bias = false)
    recurrent v over u
        state h[n] = 0
        state f[n] ~ sigmoid(F*v + W*prev(h))
        state g[n] ~ tanh(G*v + V*prev(h))
        h ~ f .* prev(h) + g - f .* g
    end
    output y[n] = last(h)
end
"""


def made(text: str, seed: int = 0, spread: float = 0.4) -> Any:
    torch.manual_seed(seed)
    module = implicit_dsl.loads(text)
    model = getattr(module, next(name for name in module.__all__ if "Output" not in name))(
        dtype=torch.float64
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=spread)
        if hasattr(model, "project_"):
            model.project_()
    return model.eval()


def flat(values: Tensor | tuple[Tensor, ...]) -> np.ndarray:
    """[batch, all entries]."""
    return torch.cat([value.flatten(1) for value in outputs(values)], 1).detach().double().numpy()


def dense(model: Any) -> np.ndarray:
    """|C| (I − K|A|)⁻¹ K|B| + |D| for elementwise activations of slopes up to 1 or ¼ (sigmoid)."""
    system = model.system()
    A, B, C, D = (abs(getattr(system, name).to_numpy()) for name in "ABCD")
    slope = {"sigmoid": 0.25}
    K = np.concatenate([np.full(int(np.prod(b.shape)), slope.get(b.phi, 1.0)) for b in system.states])
    return np.asarray(C @ np.linalg.solve(np.eye(len(A)) - K[:, None] * A, K[:, None] * B) + D)


@pytest.mark.parametrize("φ", ["relu", "tanh", "sigmoid", "softplus"])
@pytest.mark.parametrize("seed", range(2))
def test_it_is_what_the_formula_says_and_not_less(φ: str, seed: int) -> None:
    model = made(LOOP.replace("{φ}", φ), seed)
    S = sensitivity(model)
    expected = dense(model)
    for found in (S.matrix, S._from_columns(S._C, S._D), S.rows(np.eye(3))):
        assert (found >= expected * (1 - 1e-14)).all()
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_layers_multiply_and_windows_take_the_largest() -> None:
    states = "state a[5] ~ relu(Dense(5)*u)\nstate b[6] ~ tanh(Dense(6)*a)"
    model = made(f"model D\ninput u[4]\n{states}\noutput y[2] = Dense(2)*b\nend")
    S = sensitivity(model)
    first, second, last = (
        m.weight.detach().abs().numpy() for m in model.modules() if isinstance(m, nn.Linear)
    )
    for found in (S.matrix, S._from_columns(S._C, S._D)):
        np.testing.assert_allclose(found, last @ second @ first, rtol=1e-9)
        assert (found >= last @ second @ first * (1 - 1e-14)).all()

    model = made(PICTURE)
    K1, K2 = (m.weight.detach().abs() for m in model.modules() if isinstance(m, nn.Conv2d))
    heads = [m.weight.detach().abs() for m in model.modules() if isinstance(m, nn.Linear)]
    units = torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
    c1 = F.conv2d(units, K1)
    c3 = F.conv2d(F.max_pool2d(c1, 2), K2, padding=1)
    wide, narrow = sorted(heads, key=lambda weight: -weight.shape[1])
    expected = (c3.flatten(1) @ narrow.T + c1.flatten(1) @ wide.T).T.numpy()
    assert (sensitivity(model).matrix >= expected * (1 - 1e-14)).all()
    np.testing.assert_allclose(sensitivity(model).matrix, expected, rtol=1e-9)


def test_rows_blocks_and_sums_are_of_one_matrix() -> None:
    model = made(TWO)
    S = sensitivity(model)
    whole = Sensitivity(model.system()).matrix
    assert S.shape == (4, 7) == whole.shape and not S.is_linear
    names = {"y": slice(0, 3), "z": slice(3, 4)}
    for name, rows in names.items():
        for at, row in enumerate(whole[rows]):
            found = S.row(name, at)
            np.testing.assert_allclose(np.concatenate([found["u"], found["v"].ravel()]), row, rtol=1e-9)
        np.testing.assert_allclose(S.between(name, "v"), whole[rows, 3:].reshape(-1, 2, 2), rtol=1e-9)
    np.testing.assert_allclose(S.row("z", (0,))["v"], S.row("z")["v"])
    np.testing.assert_allclose(S.inputs()["u"], whole.sum(0)[:3], rtol=1e-9)
    np.testing.assert_allclose(S.inputs("max")["v"].ravel(), whole.max(0)[3:], rtol=1e-9)
    moved = S.moved(0.5, np.array([[1.0, 0.0], [0.2, 0.0]]))
    limit = whole @ np.array([0.5, 0.5, 0.5, 1.0, 0.0, 0.2, 0.0])
    assert (np.concatenate([moved["y"], moved["z"]]) <= limit * (1 + 1e-9)).all() and moved["z"] > 0
    assert "z" in str(S) and "loop" in str(S) and "S [4 × 7]" in repr(S)


def test_rows_of_differences_are_taken_before_their_sizes() -> None:
    model = made(LOOP.replace("{φ}", "relu"))
    S, system = sensitivity(model), model.system()
    A, B, C, D = (getattr(system, name).to_numpy() for name in "ABCD")
    P = np.array([[1.0, -1.0, 0.0], [0.5, 0.0, -2.0]])
    expected = abs(P @ C) @ np.linalg.solve(np.eye(6) - abs(A), abs(B)) + abs(P @ D)
    np.testing.assert_allclose(S.rows(P), expected, rtol=1e-9)
    assert (S.rows(P) >= expected * (1 - 1e-14)).all()
    assert (S.rows(P) <= abs(P) @ S.matrix * (1 + 1e-9)).all() and S.rows(P).sum() < (abs(P) @ S.matrix).sum()


def test_influence_of_states_is_that_of_their_inputs() -> None:
    model = made(LOOP.replace("{φ}", "sigmoid"))
    S, system = sensitivity(model), model.system()
    A, B, C = (abs(getattr(system, name).to_numpy()) for name in "ABC")
    whole = C @ np.linalg.inv(np.eye(6) - 0.25 * A)
    np.testing.assert_allclose(S.states()["x"], whole.sum(0), rtol=1e-9)
    np.testing.assert_allclose(S.states("max")["x"], whole.max(0), rtol=1e-9)
    within = np.linalg.solve(np.eye(6) - 0.25 * A, 0.25 * B)
    np.testing.assert_allclose(S.state_row("x", 2)["u"], within[2], rtol=1e-9)
    np.testing.assert_allclose(S.states_moved(0.3)["x"], 0.3 * within.sum(1), rtol=1e-9)


@pytest.mark.parametrize("text", [TWO, PICTURE, *(LOOP.replace("{φ}", φ) for φ in ("relu", "elu"))])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), size=st.sampled_from((1e-3, 0.3, 10.0)))
def test_outputs_move_no_further(text: str, seed: int, size: float) -> None:
    model = made(text, seed)
    S = sensitivity(model)
    u = [torch.randn(6, *block.shape, dtype=torch.float64) for block in S.system.inputs]
    v = [one + size * torch.randn_like(one) * (torch.rand_like(one) < 0.5) for one in u]
    moved = np.abs(flat(model(*u)) - flat(model(*v)))
    by = np.concatenate([(one - two).abs().flatten(1).numpy() for one, two in zip(u, v)], 1)
    assert (moved <= by @ S.matrix.T + 1e-9).all()
    for sample in range(2):
        changes = [(one - two).abs()[sample].numpy() for one, two in zip(u, v)]
        limit = np.concatenate([value.ravel() for value in S.moved(*changes).values()])
        assert (moved[sample] <= limit + 1e-9).all() and (limit <= by[sample] @ S.matrix.T * (1 + 1e-9)).all()
    before, after = S.system.states_of(*u), S.system.states_of(*v)
    limits = S.states_moved(*(np.abs((one - two).numpy()).max(0) for one, two in zip(u, v)))
    for name, limit in limits.items():
        assert (np.abs((before[name] - after[name]).numpy()) <= limit + 1e-9).all()


@given(programs())
@settings(QUIET, max_examples=25)
def test_random_programs_move_no_further_than_their_slopes_allow(program: RandomProgram) -> None:
    module, _, inputs = twins(program)
    system = module.system()
    try:
        S = sensitivity(system).matrix
    except (NoBound, TooLarge):
        return
    U = system._inputs(tuple(inputs), {})
    others = tuple(
        one if block.tokens else one + 0.3 * torch.randn_like(one)
        for one, block in zip(inputs, system.inputs)
    )
    moved = np.abs(flat(module(*inputs)) - flat(module(*others)))
    changes = [(one - two).abs().flatten(1) for one, two in zip(U, system._inputs(others, {}))]
    scale = 1 + np.abs(flat(module(*inputs)))
    assert (moved <= torch.cat(changes, 1).double().numpy() @ S.T + 1e-8 * scale).all()
    if not any(block.tokens for block in system.inputs):
        found = jacobian(system, *inputs)
        rows: Any = (found,) if len(system.outputs) == 1 else found
        parts = [(row,) if isinstance(row, Tensor) else row for row in rows]
        J = [
            torch.cat([part.reshape(len(moved), count(to.shape), -1) for part in row], 2)
            for row, to in zip(parts, system.outputs)
        ]
        assert (torch.cat(J, 1).abs().numpy() <= S * (1 + 1e-9) + 1e-12).all()


@pytest.mark.parametrize("text", [TWO, PICTURE, LOOP.replace("{φ}", "relu"), LOOP.replace("{φ}", "tanh")])
def test_jacobians_are_those_of_autograd(text: str) -> None:
    model = made(text, 1)
    system = model.system()
    u = [torch.randn(3, *block.shape, dtype=torch.float64) for block in system.inputs]
    found = jacobian(model, *u)
    rows = (found,) if isinstance(found, Tensor) else found
    S = sensitivity(model)
    for to, block in zip(rows, system.outputs):
        parts = (to,) if isinstance(to, Tensor) else to
        for part, given_, source in zip(parts, u, system.inputs):
            assert isinstance(part, Tensor)
            assert part.shape == (3, *block.shape, *source.shape)
            assert (part.abs().numpy() <= S.between(block.name, source.name) * (1 + 1e-9)).all()
            at = [one is given_ for one in u].index(True)
            for sample in range(3):

                def of(x: Tensor, sample: int = sample, at: int = at, block: Any = block) -> Tensor:
                    given = [one[sample : sample + 1] for one in u]
                    given[at] = x[None]
                    made_ = outputs(model(*given))
                    return made_[[one.name for one in system.outputs].index(block.name)][0]

                expected = torch.autograd.functional.jacobian(of, given_[sample])
                torch.testing.assert_close(part[sample], expected, rtol=1e-7, atol=1e-9)


def test_jacobians_of_sequences_and_refusals() -> None:
    model = made(GATED)
    u = torch.randn(2, 5, 3, dtype=torch.float64)
    J = jacobian(model, u)
    assert isinstance(J, Tensor) and J.shape == (2, 4, 5, 3)
    step = 1e-6 * torch.randn_like(u)
    with torch.no_grad():
        change = (model(u + step) - model(u - step)) / 2
    torch.testing.assert_close(torch.einsum("byij,bij->by", J, step), change, rtol=1e-6, atol=1e-12)
    S = sensitivity(model, length=5)  # gates are bounded, and so are their products
    assert (J.abs().numpy() <= S.between("y", "u")).all()
    with pytest.raises(ValueError, match="free"):
        sensitivity(model)
    with pytest.raises(ValueError, match="not finite"):
        jacobian(model, u * float("nan"))
    with pytest.raises(ValueError, match="shape"):
        jacobian(made(PICTURE), torch.zeros(2, 8, 8))
    words = "model W\ninput t[3] in Tokens(5)\noutput y[2] = Dense(2)*flatten(Embedding(5, 4)*t)\nend"
    with pytest.raises(ValueError, match="tokens"):
        jacobian(made(words), torch.zeros(2, 3, dtype=torch.long))
    assert sensitivity(made(words)).shape == (2, 15)
    with pytest.raises(TypeError, match="compiled"):
        sensitivity(nn.Linear(2, 2))


def test_what_has_no_bound_is_named() -> None:
    model = made(LOOP.replace("{φ}", "tanh").replace("norm(A, Inf) <= 0.9", "unchecked"))
    with torch.no_grad():
        model.A.copy_(torch.eye(6) * 0.9 + 0.2)
    with pytest.raises(NoBound, match=r"loop \{x\}.*Perron root.*at least 2\.[01].*project_"):
        sensitivity(model)
    squares = "model M\ninput u[3]\nstate h[4] ~ (Dense(4)*u) .* (Dense(4)*u)\noutput y[2] = Dense(2)*h\nend"
    with pytest.raises(NoBound, match="`product` of `h` has no bounded slope"):
        sensitivity(made(squares))
    with torch.no_grad():
        model.A.fill_(float("nan"))
    with pytest.raises(NoBound, match="`A` holds values that are not finite"):
        sensitivity(model)


def test_wrong_questions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    S = sensitivity(made(TWO))
    for wrong in (np.eye(2), np.ones(3)):
        with pytest.raises(ValueError, match=r"\[k, 4\]"):
            S.rows(wrong)
    with pytest.raises(ValueError, match="not finite"):
        S.rows(np.full((1, 4), np.nan))
    with pytest.raises(KeyError, match="`y`, `z`"):
        S.row("w")
    with pytest.raises(IndexError, match="from 0"):
        S.row("z", 1)
    with pytest.raises(ValueError, match="2 inputs"):
        S.moved(1.0)
    with pytest.raises(ValueError, match="at least 0"):
        S.moved(1.0, -1.0)
    with pytest.raises(ValueError, match="over"):
        S.inputs(cast(Any, "mean"))
    monkeypatch.setattr("implicit_dsl.analysis.sensitivities.MOST_ENTRIES", 10)
    with pytest.raises(TooLarge, match="row"):
        _ = S.matrix
    assert S.row("y", 1)["u"].shape == (3,)


def test_what_no_path_reaches_is_zero_and_exactly_so() -> None:
    model = made(LOOP.replace("{φ}", "relu"))
    with torch.no_grad():
        model.B[:, 2] = 0.0
        model.D[:, 2] = 0.0
    S = sensitivity(model)
    assert not S.matrix[:, 2].any() and (np.delete(S.matrix, 2, 1) > 0).all()


def test_attributions_agree_with_slopes_and_bounds() -> None:
    model = made(PICTURE)
    u = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    found = attribution(model, u, baseline=0.5)
    chosen = model(u).argmax(1)
    assert torch.equal(found.target, chosen) and found.bounds is not None
    J = jacobian(model, u)
    assert isinstance(J, Tensor)
    expected = J[torch.arange(4), chosen]
    torch.testing.assert_close(found.slopes["u"], expected)
    torch.testing.assert_close(found.shares["u"], expected * (u - 0.5))
    assert bool((found.slopes["u"].abs() <= found.bounds["u"]).all())
    (name, index, share), *_ = found.top(2)
    assert name == "u" and abs(share) == float(found.shares["u"][2].abs().max())
    assert float(found.shares["u"][2][index]) == share and "sample 3" in str(found)
    several = attribution(made(TWO), (torch.ones(2, 3), torch.ones(2, 2, 2)), 0, output="z")
    assert set(several.slopes) == {"u", "v"} and several.slopes["v"].shape == (2, 2, 2)
    with pytest.raises(ValueError, match="from 0 to 2"):
        attribution(model, u, 3)
    with pytest.raises(ValueError, match="name one output"):
        attribution(made(TWO), (torch.ones(2, 3), torch.ones(2, 2, 2)))
    with pytest.raises(ValueError, match="baseline"):
        attribution(model, u, baseline=torch.zeros(8, 8))
