"""`robust_loss`: intervals against dense formulas, gradients against differences, and samples of boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as checked
from random_programs import RandomProgram, programs
from test_exactness import QUIET, build
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl.analysis import output_bounds
from implicit_dsl.operators import activation_rule
from implicit_dsl.train import robust_loss, worst_margins
from implicit_dsl.train.robust.equations import Equations, Weighted
from implicit_dsl.train.robust.intervals import bounds_of_states
from implicit_dsl.train.robust.loss import _equations
from implicit_dsl.train.robust.weights import tensors_of_model

torch.set_num_threads(1)

PROGRAMS = {
    "mlp": """
        input u[5]
        output y = Dense(3)*relu(Dense(4)*sigmoid(Dense(6)*u))
    """,
    "loop": """
        input u[5]
        param A[6, 6], B[6, 5], C[3, 6], D[3, 5], b[6], d[3]
        state x[6] ~ relu(A*x + B*u + b)
        output y = C*x + D*u + d
        @wellposed norm(A, Inf) <= 0.9
    """,
    "two states": """
        input u[5]
        param A[4, 4], B[4, 3], E[3, 4], F[3, 3] in Symmetric(), G[4, 4] in LowRank(1)
        state x[4] ~ tanh(A*x + 0.5*x + B*z + G*x + Dense(4)*u)
        state z[3] ~ leaky_relu(E*x + F*z - 0.1*z + Dense(3)*u)
        output y = Dense(3)*x + Dense(3)*z
        @wellposed spectral(abs(A)) <= 0.5
        @wellposed unchecked
    """,
    "images": """
        input u[1, 6, 6]
        state c[2, 6, 6] ~ relu(Conv(1 => 2, 3; pad = 1)*u)
        state p[2, 3, 3] ~ MaxPool(2)(c)
        state a[2, 3, 3] ~ softplus(AvgPool(2)*c + p)
        state r[2, 3, 3] ~ relu(Conv(2 => 2, 3; pad = 1)*a + a)
        output y = Dense(3)*flatten(r)
    """,
    "convolutions in a loop": """
        input u[1, 4, 4]
        layer K = Conv(2 => 2, 3; pad = 1, bias = false)
        state z[2, 4, 4] ~ relu(K*z + Conv(1 => 2, 3; pad = 1)*u)
        output y = Dense(3)*flatten(AvgPool(2)*z)
        @wellposed norm(K, Inf) <= 0.8
    """,
    "statistics": """
        input u[1, 4, 4]
        state z[2, 4, 4] ~ relu(BatchNorm()*(Conv(1 => 2, 3; pad = 1)*u))
        output y = Dense(3)*flatten(z)
    """,
    "parametrised": """
        input u[5]
        param W[4, 4]
        state x[4] ~ relu(W*x + Dense(4)*u)
        output y = Dense(3)*x
        @wellposed norm(W, Inf) <= 0.8, method = "parametrize"
    """,
    "in sets": """
        input u[5]
        param Q[5, 5] in Orthogonal(), T[5, 5] in Banded(-1, 1), N[5, 5] in Nonneg()
        output y = Dense(3)*max(relu(Q*u), tanh(T*u + N*u))
    """,
}


def made(name: str, seed: int = 0, scale: float = 0.5) -> Any:
    torch.manual_seed(seed)
    text = PROGRAMS.get(name, name)
    module = implicit_dsl.loads(f"model M\n{text}\nend").M(dtype=torch.float64).eval()
    with torch.no_grad():
        for id, tensor in (*module.named_parameters(), *module.named_buffers()):
            if id.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            elif tensor.is_floating_point():
                tensor.normal_(std=scale)
        if name == "two states":
            for id, tensor in module.named_parameters():
                tensor.mul_(0.2 if id[0] in "BEFG" else 1.0)
        if hasattr(module, "project_"):
            module.project_()
    return module


def data(module: Any, batch: int = 4, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    (block,) = module.system().inputs
    u = torch.rand(batch, *block.shape, generator=generator, dtype=torch.float64)
    return u, torch.randint(0, 3, (batch,), generator=generator)


def positive(M: np.ndarray) -> np.ndarray:
    return np.maximum(M, 0.0)


def negative(M: np.ndarray) -> np.ndarray:
    return np.minimum(M, 0.0)


def dense_margins(module: Any, u: Tensor, labels: Tensor, epsilon: float) -> np.ndarray:
    """Bounds of yⱼ − y_label by the matrices of the system: the interval fixed point, swept to its end."""
    system = module.system()
    A, B, C, D = (getattr(system, name).to_numpy() for name in "ABCD")
    flat = u.flatten(1).numpy().T
    low, high = np.clip(flat - epsilon, 0, 1), np.clip(flat + epsilon, 0, 1)

    def phi(z: np.ndarray) -> np.ndarray:
        parts = system.partition("slots")
        found = []
        for block in system.states:
            piece = z[parts[block.name]]
            if block.activation is not None:
                rule = activation_rule(block.activation)
                piece = rule.reference(block.activation, piece.T.reshape(-1, *block.slots))
                piece = piece.reshape(len(piece), -1).T
            found.append(piece)
        return np.concatenate(found) if found else z

    b = system.b[:, None]
    l = h = np.zeros((A.shape[1], len(u)))  # noqa: E741 (as in the formula)
    for _ in range(600):
        l, h = (  # noqa: E741
            phi(positive(A) @ l + negative(A) @ h + positive(B) @ low + negative(B) @ high + b),
            phi(positive(A) @ h + negative(A) @ l + positive(B) @ high + negative(B) @ low + b),
        )
    found = []
    for at, label in enumerate(labels.tolist()):
        M, N, d = C - C[label], D - D[label], system.d - system.d[label]
        states = positive(M) @ h[:, at] + negative(M) @ l[:, at]
        found.append(states + positive(N) @ high[:, at] + negative(N) @ low[:, at] + d)
    return np.stack(found)


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("epsilon", (0.0, 0.03, 0.4))
def test_margins_are_those_of_the_dense_formulas(name: str, epsilon: float) -> None:
    module = made(name)
    u, labels = data(module)
    expected = dense_margins(module, u, labels, epsilon)
    found = worst_margins(module, u, labels, epsilon, lower=0.0, upper=1.0, tolerance=1e-12)

    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-8, atol=1e-9)
    assert bool((found.gather(1, labels[:, None]) == 0).all())
    loss = robust_loss(module, u, labels, epsilon, lower=0.0, upper=1.0, tolerance=1e-12)
    worst = torch.from_numpy(expected)
    torch.testing.assert_close(loss, F.cross_entropy(worst, labels), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", PROGRAMS)
def test_gradients_are_those_of_differences(name: str) -> None:
    module = made(name)
    u, labels = data(module)
    names = [id for id, parameter in module.named_parameters() if parameter.requires_grad]
    robust_loss(module, u, labels, 0.05, lower=0.0, upper=1.0, tolerance=1e-13).backward()
    generator = torch.Generator().manual_seed(3)
    for id in names:
        parameter = dict(module.named_parameters())[id]
        assert parameter.grad is not None, id
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        with torch.no_grad():
            for step in (1e-6, -1e-6):
                parameter.add_(step * direction)
                values.append(
                    float(robust_loss(module, u, labels, 0.05, lower=0.0, upper=1.0, tolerance=1e-13))
                )
                parameter.sub_(step * direction)
        slope = (values[0] - values[1]) / 2e-6
        found = float((parameter.grad * direction).sum())
        assert found == pytest.approx(slope, rel=2e-5, abs=2e-8), id


def test_gradients_reach_the_inputs_and_pass_gradcheck() -> None:
    module = made("loop")
    u, labels = data(module)
    u = u.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda u: robust_loss(module, u, labels, 0.05, tolerance=1e-13), (u,), fast_mode=True
    )


@pytest.mark.parametrize("name", ("loop", "two states", "images", "convolutions in a loop", "statistics"))
def test_no_input_of_the_box_is_worse(name: str) -> None:
    module = made(name)
    u, labels = data(module)
    bound = worst_margins(module, u, labels, 0.1, lower=0.0, upper=1.0).detach()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for corner in (False, True):
            for _ in range(100):
                change = 2 * torch.rand(u.shape, generator=generator, dtype=torch.float64) - 1
                moved = (u + 0.1 * (change.sign() if corner else change)).clamp(0, 1)
                scores = module(moved)
                assert bool((scores - scores.gather(1, labels[:, None]) <= bound + 1e-7).all())


@given(program=programs())
@checked(QUIET, max_examples=25)
def test_states_of_random_programs_lie_within_their_bounds(program: RandomProgram) -> None:
    torch.manual_seed(0)
    module: Any = build(program.text).Random(dtype=torch.float64).eval()
    inputs = tuple(program.given(4))
    if program.tokens:
        return
    try:
        equations = _equations(module, inputs)
    except ValueError as refused:
        assert "is not monotone" in str(refused)
        return
    boxes = {block.name: (u - 0.1, u + 0.1) for block, u in zip(equations.model.inputs, inputs)}
    like = inputs[0].new_zeros(0)
    weighted = Weighted(equations, tensors_of_model(module, equations.model), like)
    bounds = bounds_of_states(weighted, boxes, None)
    moved = [u + 0.2 * torch.rand_like(u) - 0.1 for u in inputs]
    for name, value in module.system().states_of(*moved).items():
        lower, upper = bounds[name]
        room = 1e-9 * (1 + value.abs())
        assert bool((lower - room <= value).all()) and bool((value <= upper + room).all()), name


def test_it_agrees_with_the_proved_intervals() -> None:
    module = made("images")
    u, labels = data(module)
    low, high = (u - 0.02).clamp(0, 1), (u + 0.02).clamp(0, 1)
    _, upper = output_bounds(module, low, high, method="interval")
    lower, _ = output_bounds(module, low, high, method="interval")
    assert isinstance(upper, Tensor) and isinstance(lower, Tensor)
    margins = worst_margins(module, u, labels, 0.02, lower=0.0, upper=1.0).detach()
    apart = upper - lower.gather(1, labels[:, None])
    others = F.one_hot(labels, 3) == 0
    assert bool((margins[others] <= apart[others] + 1e-9).all())


def test_a_share_is_mixed_with_the_plain_loss() -> None:
    module = made("loop")
    u, labels = data(module)
    worst = robust_loss(module, u, labels, 0.1)
    mixed = robust_loss(module, u, labels, 0.1, share=0.25)
    plain = F.cross_entropy(module(u), labels)
    torch.testing.assert_close(mixed, 0.25 * worst + 0.75 * plain)
    torch.testing.assert_close(robust_loss(module, u, labels, 0.0), plain, rtol=1e-7, atol=1e-7)


def test_training_makes_certain() -> None:
    torch.manual_seed(0)
    module = made("loop")
    u = torch.rand(64, 5, dtype=torch.float64)
    labels = (3 * u[:, 0]).long()
    keep = (u[:, 0] * 3 % 1 - 0.5).abs() < 0.3
    u, labels = u[keep], labels[keep]
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    for step in range(120):
        optimizer.zero_grad()
        radius = 0.03 * min(1.0, step / 50)
        robust_loss(module, u, labels, radius, lower=0.0, upper=1.0).backward()
        optimizer.step()
        module.project_()
    margins = worst_margins(module, u, labels, 0.03, lower=0.0, upper=1.0)
    certain = (margins + F.one_hot(labels, 3) * -1 < 0).all(1).double().mean()
    assert float(certain) > 0.8


def test_several_inputs_and_outputs_have_names_and_radii() -> None:
    module = made("""
        input u[3], v[2]
        state x[4] ~ relu(Dense(4)*u + Dense(4)*v)
        output y = Dense(3)*x
        output z = Dense(2)*x
    """)
    u, v, labels = torch.rand(4, 3).double(), torch.rand(4, 2).double(), torch.tensor([0, 1, 1, 0])
    one = worst_margins(module, (u, v), labels, (0.1, 0.0), output="z")
    scores = module(u, v)[1].detach()
    assert one.shape == (4, 2)
    assert bool((one >= scores - scores.gather(1, labels[:, None]) - 1e-12).all())
    with pytest.raises(ValueError, match=r"several outputs.*`output='y'`"):
        robust_loss(module, (u, v), labels, 0.1)
    with pytest.raises(ValueError, match="no output `w`; it has y, z"):
        robust_loss(module, (u, v), labels, 0.1, output="w")
    with pytest.raises(ValueError, match="2 inputs, but 3 radii"):
        robust_loss(module, (u, v), labels, (0.1, 0.2, 0.3), output="z")
    with pytest.raises(ValueError, match="2 inputs, but 1 were given"):
        robust_loss(module, u, labels, 0.1, output="z")


def test_what_does_not_fit_is_named() -> None:
    module = made("mlp")
    u, labels = data(module)
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("at least 0", {"epsilon": -0.1}),
        ("at least 0", {"epsilon": float("nan")}),
        ("`share` is between", {"share": 2.0}),
        ("below `lower`", {"lower": 0.9}),
        ("above `upper`", {"upper": 0.1}),
        ("labels go from 0 to 2, and here is one of 3", {"labels": labels * 0 + 3}),
        ("whole numbers", {"labels": labels.double()}),
        ("whole numbers", {"labels": labels[:2]}),
        ("not finite", {"inputs": u * float("nan")}),
        ("shape", {"inputs": u[:, :3]}),
        ("as large as the others", {"inputs": u[:0], "labels": labels[:0]}),
        ("real numbers", {"inputs": u.long()}),
    ]
    for text, change in wrong:
        given = {"inputs": u, "labels": labels, "epsilon": 0.1, **change}
        with pytest.raises(ValueError, match=text):
            robust_loss(module, **given)
    with pytest.raises(TypeError, match="not compiled from a program"):
        robust_loss(nn.Linear(5, 3), u, labels, 0.1)
    with pytest.raises(ValueError, match=r"gelu of `y.gelu1` is not monotone"):
        robust_loss(made("input u[5]\n output y = Dense(3)*gelu(Dense(4)*u)"), u, labels, 0.1)
    with pytest.raises(ValueError, match="one for each class"):
        robust_loss(made("input u[5]\n output y[5, 1] = reshape(u, 5, 1)"), u, labels, 0.1)
    with pytest.raises(ValueError, match="holds tokens"):
        tokens = made("input t[4] in Tokens(7)\n output y = Dense(3)*flatten(Embedding(7, 2)(t))")
        robust_loss(tokens, torch.ones(4, 4, dtype=torch.long), labels, 0.1)


def test_a_loop_without_a_bound_says_what_to_do() -> None:
    module = made("""
        input u[5]
        param A[4, 4]
        state x[4] ~ relu(A*x + Dense(4)*u)
        output y = Dense(3)*x
        @wellposed unchecked
    """)
    u, labels = data(module)
    with torch.no_grad():
        module.A.fill_(2.0)
    with pytest.raises(ValueError, match=r"loop of `x` do not settle.*project_"):
        robust_loss(module, u, labels, 0.1)


def test_equations_are_found_once_and_follow_the_weights() -> None:
    module = made("mlp")
    u, labels = data(module)
    first = worst_margins(module, u, labels, 0.1)
    kept: Equations = _equations(module, (u,))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2.0)
    assert not torch.allclose(first, worst_margins(module, u, labels, 0.1))
    assert _equations(module, (u,)) is kept
    single = module.float()
    assert worst_margins(single, u.float(), labels, 0.1).dtype == torch.float32
