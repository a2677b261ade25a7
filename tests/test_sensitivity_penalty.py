"""S = |C| (I − M|A|)⁻¹ M|B| + |D| in `@penalty`: against dense formulas, and against changes of outputs."""

from __future__ import annotations

import copy
import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as checked
from random_programs import RandomProgram, programs
from test_exactness import QUIET, build, outputs
from torch import Tensor

import implicit_dsl
from implicit_dsl.compiler import check
from implicit_dsl.operators import activation_rule
from implicit_dsl.runtime.measures import resolvent
from implicit_dsl.runtime.measures.applying import by_gradient
from implicit_dsl.runtime.measures.sensitivity import NoSensitivity
from implicit_dsl.source import Source
from implicit_dsl.train import ProximalStep

torch.set_num_threads(1)

LOOP = """
model M(n = 5, p = 4, q = 3)
    input u[p]
    param A[n, n], B[n, p], C[q, n], D[q, p], b[n]
    state x[n] ~ {φ}(A*x + B*u + b)
    output y = C*x + D*u
    @wellposed norm(A, Inf) <= 0.9
    @penalty {penalty}
end
"""
MIXED = """
model M
    input u[1, 6, 6], v[3]
    layer K = Conv(1 => 2, 3; pad = 1)
    param W[4, 4], F[4, 4] in LowRank(1), T[4, 4] in Symmetric()
    state c[2, 6, 6] ~ leaky_relu(K*u)
    state s[2, 3, 3] ~ MaxPool(2)(c)
    state h[4] ~ sigmoid(Dense(4)*flatten(s) + Dense(4)*v)
    state x[4] ~ tanh(W*x + 0.5*x + F*h + T*h)
    state p[4] ~ softmax(Dense(4)*x)
    output y[2] = Dense(2)*p + Dense(2)*v
    output z[3] = Dense(3)*x
    @wellposed unchecked
    @penalty {penalty}
end
"""


def made(text: str, scale: float = 0.5, seed: int = 0, **more: Any) -> Any:
    torch.manual_seed(seed)
    module = implicit_dsl.loads(text, **more).M(dtype=torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=scale)
        if hasattr(module, "project_"):
            module.project_()
    return module


def loop(penalty: str, φ: str = "relu", **more: Any) -> Any:
    return made(LOOP.replace("{φ}", φ).replace("{penalty}", penalty), **more)


def mixed(penalty: str, **more: Any) -> Any:
    module = made(MIXED.replace("{penalty}", penalty), **more)
    with torch.no_grad():
        module.W.mul_(0.2)
    return module


def slopes(system: Any) -> np.ndarray:
    """M [states, slots] of a system, from the definitions of its activations."""
    rows, columns = system.partition("states"), system.partition("slots")
    M = np.zeros((rows.total, columns.total))
    for block in system.states:
        here = M[rows[block.name], columns[block.name]]
        if block.activation is None:
            here[:] = np.eye(len(here))
            continue
        rule = activation_rule(block.activation)
        for slot in range(here.shape[1]):
            unit = np.zeros((1, here.shape[1]))
            unit[0, slot] = 1.0
            moved = rule.majorant(block.activation, unit.reshape(1, *block.slots))
            here[:, slot] = moved.reshape(-1)
    return M


def sensitivity(system: Any) -> np.ndarray:
    A, B, C, D = (abs(getattr(system, name).to_numpy()) for name in "ABCD")
    M = slopes(system)
    found: np.ndarray = C @ np.linalg.inv(np.eye(len(M)) - M @ A) @ M @ B + D
    return found


MEASURES = {
    "norm(system.S, Inf)": lambda S: S.sum(1).max(),
    "norm(system.S, 1)": lambda S: S.sum(0).max(),
    "norm(S, 2)": lambda S: np.linalg.norm(S, 2),
    "norm(S, Fro)": np.linalg.norm,
    "norm(S, Fro)^2": lambda S: (S**2).sum(),
    "nuclear(S)": lambda S: np.linalg.norm(S, "nuc"),
    "entries(S)": np.sum,
    "sum(abs(S))": np.sum,
    "maxabs(S)": np.max,
    "rows(S)": lambda S: S.max(1).sum(),
    "columns(S)": lambda S: S.max(0).sum(),
}


@pytest.mark.parametrize("large", (False, True), ids=("factored", "summed"))
@pytest.mark.parametrize("measure", MEASURES)
def test_measures_are_those_of_the_dense_matrix(
    measure: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(resolvent, "LARGEST_DENSE", 0)
    for module in (loop(f"0.5*{measure}", "tanh"), mixed(f"0.5*{measure}")):
        expected = 0.5 * MEASURES[measure](sensitivity(module.system()))
        np.testing.assert_allclose(float(module.penalty().detach()), expected, rtol=1e-11)


def test_blocks_are_named() -> None:
    penalty = "maxabs(S[y, v]) + 10*norm(S[:, u], Inf) + 100*entries(S[[y, z], v]) + 1000*blocks(S)"
    module = mixed(penalty)
    system = module.system()
    S, rows, columns = sensitivity(system), system.partition("outputs"), system.partition("inputs")
    expected = S[rows["y"], columns["v"]].max() + 10 * S[:, columns["u"]].sum(1).max()
    expected += 100 * S[:, columns["v"]].sum()
    expected += 1000 * sum(S[rows[y], columns[u]].max() for y in rows.names for u in columns.names)

    np.testing.assert_allclose(float(module.penalty().detach()), expected, rtol=1e-12)


def gradients_are_those_of_differences(module: Any) -> None:
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    given = tuple(dict(module.named_parameters())[name].detach().clone() for name in names)

    def value(*tensors: Tensor) -> Tensor:
        weights = dict(zip(names, tensors))
        return torch.stack(
            [one.value({id: weights[id] for id in one.tensors}) for one in module.penalties]
        ).sum()

    point = tuple(tensor.requires_grad_() for tensor in given)
    assert torch.autograd.gradcheck(value, point, fast_mode=True)
    module.penalty().backward()
    expected = torch.autograd.grad(value(*point), point, allow_unused=True)
    for name, gradient in zip(names, expected):
        own = dict(module.named_parameters())[name].grad
        assert gradient is None or (own is not None and torch.equal(own, gradient))


@pytest.mark.parametrize("large", (False, True), ids=("factored", "summed"))
@pytest.mark.parametrize(
    "measure", ("norm(S, Inf)", "norm(S, 1)", "norm(S, Fro)^2", "norm(S, 2)", "maxabs(S)")
)
def test_gradients_are_exact(measure: str, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:
        monkeypatch.setattr(resolvent, "LARGEST_DENSE", 0)
    gradients_are_those_of_differences(loop(measure, "sigmoid"))
    gradients_are_those_of_differences(mixed(measure))


def test_of_a_feed_forward_network_it_is_the_product_of_absolute_values() -> None:
    text = """
    model M
        input u[5]
        layer A = Dense(6), B = Dense(4), C = Dense(2)
        output y = C*tanh(B*relu(A*u))
        @penalty entries(S)
    end
    """
    module = made(text)
    product = module.C.weight.abs() @ module.B.weight.abs() @ module.A.weight.abs()
    expected = torch.autograd.grad(
        product.sum(), tuple(layer.weight for layer in (module.A, module.B, module.C))
    )
    module.penalty().backward()

    torch.testing.assert_close(module.penalty(), product.sum())
    for layer, gradient in zip((module.A, module.B, module.C), expected):
        torch.testing.assert_close(layer.weight.grad, gradient)


@given(program=programs())
@checked(QUIET, max_examples=60)
def test_outputs_of_random_programs_change_by_no_more_than_it_says(program: RandomProgram) -> None:
    lines = program.text.rstrip().removesuffix("end")
    text = f"{lines}    @penalty norm(system.S, Fro)\nend\n"
    refused = [one for one in check(Source(text)).diagnostics if one.code.startswith("E")]
    assert {one.code for one in refused} <= {"E0404"}  # a product, a size that is left open, statistics
    if refused:
        return
    torch.manual_seed(0)
    module: Any = build(text).Random(dtype=torch.float64).eval()
    if not hasattr(module, "penalty") or program.tokens:
        return
    expected = np.linalg.norm(sensitivity(module.system()))
    np.testing.assert_allclose(float(module.penalty().detach()), expected, rtol=1e-9)
    S = torch.from_numpy(sensitivity(module.system()))
    one, other = program.given(8), program.given(8)
    with torch.no_grad():
        flat = [
            torch.cat([tensor.reshape(8, -1) for tensor in values], 1)
            for values in (one, other, outputs(module(*one)), outputs(module(*other)))
        ]
    u, v, y, z = flat
    allowed = (u - v).abs() @ S.T
    assert bool(((y - z).abs() <= allowed * (1 + 1e-9) + 1e-9 * (1 + y.abs())).all())


def test_a_loop_that_does_not_die_out_is_refused_by_name() -> None:
    module = loop("0.1*norm(system.S, Inf)")
    with torch.no_grad():
        module.A.mul_(10)
    with pytest.raises(NoSensitivity, match=r"`norm\(system.S, Inf\)`.*line 8.*that of `x`.*project_"):
        module.penalty()
    module.project_()
    assert float(module.penalty().detach()) > 0
    with torch.no_grad():
        module.B[0, 0] = float("nan")
    with pytest.raises(NoSensitivity, match="not finite numbers"):
        module.penalty()


@pytest.mark.parametrize("root", (0.5, 0.999, 1.001, 2.0))
@pytest.mark.parametrize("large", (False, True), ids=("factored", "summed"))
def test_it_has_a_value_where_the_perron_root_is_below_one(
    root: float, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(resolvent, "LARGEST_DENSE", 0)
    module = loop("entries(S)")
    with torch.no_grad():
        module.A.mul_(root / np.abs(np.linalg.eigvals(module.A.abs().numpy())).max())
    if root < 1:
        expected = sensitivity(module.system()).sum()
        np.testing.assert_allclose(float(module.penalty().detach()), expected, rtol=1e-9)
    else:
        with pytest.raises(NoSensitivity):
            module.penalty()


@pytest.mark.parametrize("large", (False, True), ids=("factored", "summed"))
def test_a_perron_root_of_one_is_refused(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is one exactly, without rounding: one circle through all states."""
    if large:
        monkeypatch.setattr(resolvent, "LARGEST_DENSE", 0)
    module = loop("entries(S)")
    with torch.no_grad():
        module.A.copy_(torch.roll(torch.eye(len(module.A)), 1, 0))
    with pytest.raises(NoSensitivity):
        module.penalty()


@pytest.mark.parametrize("below", [1e-4, 1e-9, 1e-13, 2e-16])
@pytest.mark.parametrize("mixing", [0.0, 0.5])
def test_sums_end_however_near_to_one_a_perron_root_is(
    below: float, mixing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = loop("entries(S)")
    size = len(module.A)
    circle = torch.roll(torch.eye(size, dtype=torch.float64), 1, 0)
    with torch.no_grad():
        module.A.copy_((1 - below) * ((1 - mixing) * circle + mixing / size))
    factored = float(module.penalty().detach()) if below > 1e-10 else float("inf")
    monkeypatch.setattr(resolvent, "LARGEST_DENSE", 0)
    if below > 1e-5:
        np.testing.assert_allclose(float(module.penalty().detach()), factored, rtol=1e-9)
    else:
        with pytest.raises(NoSensitivity, match=r"not by enough to compute S \(that of `x`, 1"):
            module.penalty()


def test_cycles_without_a_positive_perron_vector_have_a_value() -> None:
    module = loop("entries(S)", "tanh")
    with torch.no_grad():
        module.A.zero_()
        module.A[0, 1] = 100.0
        module.A[1, 2] = 100.0
    np.testing.assert_allclose(
        float(module.penalty().detach()), sensitivity(module.system()).sum(), rtol=1e-9
    )


def test_it_is_dealt_with_by_its_gradient() -> None:
    module = loop("0.05*norm(system.S, Inf) + 0.1*sum(abs(C))")
    assert [one.text for one in by_gradient(module.penalties)] == ["norm(system.S, Inf)"]
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.prox_(0.5)
    assert torch.equal(module.B, before["B"]) and not torch.equal(module.C, before["C"])
    sizes = []
    step = ProximalStep(torch.optim.SGD(module.parameters(), 0.05), module)
    for _ in range(30):
        step.zero_grad()
        module(torch.ones(2, 4, dtype=torch.float64)).sum().mul(0.0).backward()
        sizes.append(float(step.penalty().detach()))
        step.step()
    assert all(after < before for before, after in itertools.pairwise(sizes))


def test_standalone_files_copies_and_other_dtypes_have_it() -> None:
    penalty = "0.1*norm(system.S, Inf) + entries(S[y, v])"
    module, alone = mixed(penalty), mixed(penalty, standalone=True)
    alone.load_state_dict(module.state_dict())
    value = float(module.penalty().detach())
    copied, stored = copy.deepcopy(module), pickle.loads(pickle.dumps(module.penalties))
    assert value == float(alone.penalty().detach()) == float(copied.penalty().detach())
    assert [one.text for one in stored] == [one.text for one in module.penalties]
    single = module.float().penalty()
    assert single.dtype == torch.float32
    np.testing.assert_allclose(float(single.detach()), value, rtol=1e-5)


def test_a_parametrised_loop_is_measured_as_it_is_made() -> None:
    text = LOOP.replace("{φ}", "relu").replace("{penalty}", "norm(S, Inf)")
    module = made(text.replace("<= 0.9", '<= 0.9, method = "parametrize"'), scale=2.0)
    np.testing.assert_allclose(
        float(module.penalty().detach()), sensitivity(module.system()).sum(1).max(), rtol=1e-11
    )
    module.penalty().backward()
    assert bool(module.A.grad.isfinite().all())


def test_a_recurrent_network_of_known_length_is_unrolled() -> None:
    text = """
    model M
        input u[4, 3]
        param W[2, 2], U[2, 3]
        recurrent h over u
            state h[2] ~ tanh(W*prev(h) + U*u)
        end
        output y = Dense(2)*last(h)
        @penalty norm(S, Inf) + entries(S[y, u])
    end
    """
    module = made(text.replace("recurrent h", "recurrent x").replace("U*u)", "U*x)"))
    W, U, C = (tensor.abs().detach().numpy() for tensor in (module.W, module.U, module.y_dense.weight))
    S = np.concatenate([C @ np.linalg.matrix_power(W, 3 - step) @ U for step in range(4)], axis=1)

    np.testing.assert_allclose(float(module.penalty().detach()), S.sum(1).max() + S.sum(), rtol=1e-12)


def test_a_name_of_the_program_comes_first() -> None:
    text = """
    model M
        input u[3]
        param S[2, 3]
        output y = S*u
        @penalty entries(S) + 10*norm(system.S, Inf)
    end
    """
    module = made(text)
    S = module.S.detach().abs()
    assert float(module.penalty().detach()) == pytest.approx(float(S.sum() + 10 * S.sum(1).max()))


def test_of_constants_alone_it_has_no_effect() -> None:
    found = check(Source("model M\n input u[3]\n output y = tanh(2*u)\n @penalty maxabs(S[y, u])\nend"))
    assert "W0401" in {one.code for one in found.diagnostics}


def test_what_is_too_large_says_what_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    from implicit_dsl.runtime.measures import sensitivity as module_of

    monkeypatch.setattr(module_of, "MOST_CELLS", 40)
    assert float(loop("norm(S, Inf)").penalty().detach()) > 0
    monkeypatch.setattr(module_of, "MOST_CELLS", 14)
    with pytest.raises(ValueError, match="too many for a penalty on S"):
        loop("norm(S, Inf)").penalty()


@pytest.mark.parametrize("name", ("lenet5", "lenet5_relu", "multiscale_deq"))
def test_networks_of_convolutions_have_it(name: str) -> None:
    path = Path(__file__).parents[1] / "examples" / f"{name}.impl"
    text = path.read_text(encoding="utf-8")
    before, end, after = text.rstrip().rpartition("end")
    program = implicit_dsl.loads(f"{before}    @penalty norm(system.S, Inf)\n{end}{after}\n")
    module = getattr(program, program.__all__[0])()
    value = module.penalty()
    value.backward()
    assert bool(value.isfinite()) and float(value.detach()) > 0
