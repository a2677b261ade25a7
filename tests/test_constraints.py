"""Bounds from the source: projections are nearest points, computed weights stay inside, leaving shows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode

import implicit_dsl
from implicit_dsl import runtime
from implicit_dsl.runtime import ConstraintError
from implicit_dsl.runtime.constraints.balls import onto_balls
from implicit_dsl.runtime.native.library import SWITCH

DENSE = """
model M(n = 7)
    input u[3]
    param W[n, n], B[n, 3]
    state x[n] ~ relu(W*x + B*u)
    output y = x
    @wellposed {bound}
end
"""
CONV = """
model M(c = 4)
    input u[2, 6, 6]
    layer inject = Conv(c, 3; pad = 1), K = Conv(c => c, 3; {settings}, bias = false)
    state z[c, 6, 6] ~ relu({term} + inject*u)
    output y[2] = Dense(2) * flatten(z)
    @wellposed {bound}
end
"""
BLOCKS = """
model M(n = 5, m = 4)
    input u[3]
    param V[n, n], W[n, m], P[m, n]
    state x[n], w[m]
    x ~ relu(V*x + 0.5*W*w + Dense(n)*u)
    w ~ tanh(P*x)
    output y = x
    @wellposed {bound}
end
"""
TIED = """
model M(n = 4)
    input u[n]
    param W[n, n], V[n, n]
    state x[n], w[n]
    x ~ relu(W*w + V*x + u)
    w ~ tanh(W*x)
    output y = x
    @wellposed norm(A, Inf) <= 0.8
end
"""
PROGRAMS = {
    "rows": DENSE.format(bound="norm(W, Inf) <= 0.8"),
    "Perron": DENSE.format(bound="pf(W) <= 0.8"),
    "singular values": DENSE.format(bound="norm(W, 2) <= 0.8"),
    "measure": DENSE.format(bound="nemon(W; m = 0.5)"),
    "monotone": DENSE.format(bound="monotone(W; m = 0.3)"),
    "convolution": CONV.format(settings="pad = 1", term="K*z", bound="norm(K, Inf) <= 0.8"),
    "scaled groups": CONV.format(settings="pad = 1, groups = 2", term="0.5*K*z", bound="norm(A, Inf) <= 0.8"),
    "strided": CONV.format(
        settings="pad = 1, stride = 2", term="Upsample(2)*(K*z)", bound="norm(A, Inf) <= 0.8"
    ),
    "Perron of a convolution": CONV.format(settings="pad = 1", term="K*z", bound="spectral(abs(A)) <= 0.8"),
    "blocks": BLOCKS.format(bound="norm(A, Inf) <= 0.8"),
    "Perron of blocks": BLOCKS.format(bound="pf(A) <= 0.8"),
    "tied": TIED,
}
by_name = pytest.mark.parametrize("name", PROGRAMS)


@cache
def generated(text: str) -> ModuleType:
    return implicit_dsl.loads(text)


def wild(name: str, size: float = 3.0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A module with weights far outside of its bound."""
    torch.manual_seed(0)
    module: nn.Module = generated(PROGRAMS[name]).M(dtype=dtype)
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(std=size)
    return module


def value(name: str, module: nn.Module) -> float:
    """What is bounded, from the assembled matrix of the loop."""
    A = np.asarray(module.system().A.to_scipy().todense(), dtype=np.float64)
    if name.startswith("Perron"):
        return float(np.abs(np.linalg.eigvals(np.abs(A))).max())
    match name:
        case "singular values":
            return float(np.linalg.norm(A, 2))
        case "measure":  # weighted, if the weights are computed
            scale = getattr(module, "W_scale", torch.zeros(len(A))).detach().exp().numpy()
            A = scale[:, None] * A / scale
            return float((np.diag(A) + np.abs(A - np.diag(np.diag(A))).sum(1)).max())
        case "monotone":
            return float(np.linalg.eigvalsh((A + A.T) / 2)[-1])
        case "strided":  # the state between the two operators is folded into the loop
            return float(np.abs(A @ A).sum(1).max())
        case _:
            return float(np.abs(A).sum(1).max())


def limit(name: str) -> float:
    return {"measure": 0.5, "monotone": 0.7}.get(name, 0.8)


@by_name
def test_initial_and_projected_weights_are_within_the_bound_of_the_assembled_matrix(name: str) -> None:
    torch.manual_seed(0)
    fresh = generated(PROGRAMS[name]).M(dtype=torch.float64)
    assert value(name, fresh) <= limit(name) * (1 + 1e-12)
    for dtype, rounding in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        for size in (0.1, 3.0, 1e4):
            module = wild(name, size, dtype)
            module.project_()
            assert value(name, module) <= limit(name) * (1 + rounding)
            module(torch.zeros(2, *input_shape(name), dtype=dtype))


def input_shape(name: str) -> tuple[int, ...]:
    if "inject" in PROGRAMS[name]:
        return (2, 6, 6)
    return (4,) if name == "tied" else (3,)


@by_name
def test_a_projection_repeated_changes_nothing(name: str) -> None:
    module = wild(name)
    module.project_()
    once = copy.deepcopy(module.state_dict())
    module.project_()
    for key, weight in module.state_dict().items():
        torch.testing.assert_close(weight, once[key], rtol=1e-9, atol=1e-9)


CONVEX = [name for name in PROGRAMS if not name.startswith("Perron")]


@pytest.mark.parametrize("name", CONVEX)
def test_a_projection_is_the_nearest_point(name: str) -> None:
    """⟨a − P(a), x − P(a)⟩ ≤ 0 for every x of a convex set; where it is the nearest one."""
    if name in ("strided", "scaled groups"):
        pytest.skip("rows of one kernel: covered by `convolution`")
    module = wild(name, 1.0)
    before = {key: weight.clone() for key, weight in module.state_dict().items()}
    module.project_()
    after = module.state_dict()
    moved = [key for key in before if not torch.equal(before[key], after[key])]
    assert moved
    for seed in range(50):
        other = wild(name)
        torch.manual_seed(seed)
        with torch.no_grad():
            for key in moved:
                near = after[key] + 10.0 ** -(seed % 4) * torch.randn_like(after[key])
                other.get_parameter(key).copy_(near)
        other.project_()
        away = [before[key] - after[key] for key in moved]
        along = [other.get_parameter(key).detach() - after[key] for key in moved]
        inner = sum(float((a * d).sum()) for a, d in zip(away, along))
        size = sum(float(a.norm() * d.norm()) for a, d in zip(away, along))
        assert inner <= 1e-7 * max(size, 1e-12)


def test_a_tensor_tied_into_two_rows_is_projected_as_a_tensor() -> None:
    """The nearest (W, V) with |W| 1 ≤ κ and |W| 1 + |V| 1 ≤ κ, by another method."""
    module = wild("tied", 0.6)
    a = np.concatenate([module.W.detach().abs().numpy().ravel(), module.V.detach().abs().numpy().ravel()])
    module.project_()
    for row in range(4):
        at = np.r_[4 * row : 4 * row + 4, 16 + 4 * row : 16 + 4 * row + 4]
        found = optimize.minimize(
            lambda x, at=at: 0.5 * ((x - a[at]) ** 2).sum(), np.full(8, 0.05), bounds=[(0, None)] * 8,
            jac=lambda x, at=at: x - a[at], method="SLSQP", options={"ftol": 1e-15, "maxiter": 500},
            constraints=[{"type": "ineq", "fun": lambda x: 0.8 - x.sum()}],
        )  # fmt: skip
        made = torch.cat([module.W[row], module.V[row]]).abs().detach().numpy()
        np.testing.assert_allclose(made, found.x, atol=1e-6)


@pytest.mark.parametrize("switch", ["0", "1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_are_projected_exactly(
    monkeypatch: pytest.MonkeyPatch, switch: str, dtype: torch.dtype, weighted: bool
) -> None:
    """θ by bisection in float64, for rows inside, at the bound and 10⁴ times outside."""
    monkeypatch.setenv(SWITCH, switch)
    torch.manual_seed(0)
    for n in (1, 3, 64, 4000):
        a = torch.randn(9, n, dtype=dtype) * torch.logspace(-3, 4, 9, dtype=dtype)[:, None]
        w = (0.1 + torch.rand(n)).to(dtype) if weighted else torch.ones(n, dtype=dtype)
        radius = torch.full((9,), 0.9, dtype=dtype)
        found = onto_balls(a, radius, w if weighted else None).double()
        A, W = a.double(), w.double()
        low, high = torch.zeros(9, 1).double(), (A.abs() / W).amax(1, keepdim=True)
        for _ in range(200):
            middle = (low + high) / 2
            large = ((A.abs() - middle * W).clamp(min=0) * W).sum(1, keepdim=True) > 0.9
            low, high = torch.where(large, middle, low), torch.where(large, high, middle)
        outside = (A.abs() * W).sum(1, keepdim=True) > 0.9
        expected = torch.where(outside, A.sign() * (A.abs() - high * W).clamp(min=0), A)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 if dtype == torch.float64 else 1e-5)


def test_leaving_is_noticed_and_says_what_to_call() -> None:
    module = wild("rows", 0.05)
    module.project_()
    u = torch.randn(4, 3, dtype=torch.float64)
    module(u)
    with torch.no_grad():
        module.W += 1.0
    with pytest.raises(ConstraintError, match=r"project_\(\).*project_after"):
        module(u)
    outside = module.state_dict()
    module.project_()
    module(u)
    module.load_state_dict(outside)
    with torch.no_grad():
        module.W += 1.0
    with pytest.raises(ConstraintError, match="line 7"):
        module(u)


def test_looking_costs_nothing_while_nothing_changes() -> None:
    class Counting(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.calls += 1
            return func(*args, **(kwargs or {}))

    module = wild("rows", 0.05)
    module.project_()
    runtime.require(module, module.constraints)
    with Counting() as counting:
        runtime.require(module, module.constraints)
    assert counting.calls == 0


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "SGD": lambda m: torch.optim.SGD(m.parameters(), lr=0.5, momentum=0.9),
    "Adam": lambda m: torch.optim.Adam(m.parameters(), lr=0.1),
    "AdamW, fused": lambda m: torch.optim.AdamW(m.parameters(), lr=0.1, fused=True),
    "Adam, foreach": lambda m: torch.optim.Adam(m.parameters(), lr=0.1, foreach=True),
    "LBFGS": lambda m: torch.optim.LBFGS(m.parameters(), lr=0.5, max_iter=2),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["rows", "convolution", "blocks", "Perron", "tied"])
def test_one_line_keeps_the_weights_within_the_bound(name: str, optimizer: str) -> None:
    torch.manual_seed(1)
    module = generated(PROGRAMS[name]).M(dtype=torch.float64)
    stepping = OPTIMIZERS[optimizer](module)
    handle = runtime.project_after(stepping, module)
    u = torch.randn(6, *input_shape(name), dtype=torch.float64)

    def closure() -> Tensor:
        stepping.zero_grad()
        module.project_()  # LBFGS evaluates between projections
        loss = -module(u).square().mean()
        loss.backward()
        return loss

    for _ in range(4):
        stepping.step(closure)
        assert value(name, module) <= 0.8 * (1 + 1e-12)
    handle.remove()
    if optimizer != "LBFGS":  # its last evaluation may be where it ends
        stepping.step(closure)
        assert value(name, module) > 0.8


def test_copies_and_averages_keep_their_own_looks() -> None:
    module = wild("rows", 0.05)
    module.project_()
    u = torch.randn(4, 3, dtype=torch.float64)
    module(u)
    other, mean = copy.deepcopy(module), AveragedModel(module)
    mean.update_parameters(module)
    torch.testing.assert_close(mean(u), module(u))  # the set is convex: means stay within
    with torch.no_grad():
        other.W += 1.0
    module(u)
    with pytest.raises(ConstraintError):
        other(u)


PARAMETRISED = (
    "rows",
    "Perron",
    "singular values",
    "measure",
    "monotone",
    "convolution",
    "blocks",
    "scaled groups",
)


def parametrised(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    text = PROGRAMS[name]
    line = next(row for row in text.split("\n") if "@wellposed" in row)
    made: nn.Module = generated(text.replace(line, f'{line}, method = "parametrize"')).M(dtype=dtype)
    return made


@pytest.mark.parametrize("name", PARAMETRISED)
def test_parametrised_weights_are_within_the_bound_whatever_their_parameters_are(name: str) -> None:
    torch.manual_seed(0)
    module = parametrised(name)
    for size in (None, 0.1, 1.0) if name == "measure" else (None, 0.1, 1.0, 100.0):
        if size is not None:
            with torch.no_grad():
                for weight in module.parameters():
                    weight.normal_(std=size)
        assert value(name, module) <= limit(name) * (1 + 1e-9)
        if size != 100.0:
            module(torch.randn(2, *input_shape(name), dtype=torch.float64))


@pytest.mark.parametrize("name", PARAMETRISED)
def test_parametrisations_are_differentiable_and_train(name: str) -> None:
    torch.manual_seed(0)
    module = parametrised(name)
    u = torch.randn(3, *input_shape(name), dtype=torch.float64)
    target = torch.randn_like(module(u)).detach()
    names = [key for key, _ in module.named_parameters()]

    def loss(*weights: Tensor) -> Tensor:
        y = torch.func.functional_call(module, dict(zip(names, weights)), (u,))
        return (y - target).square().mean()

    weights = [weight.detach().clone() for weight in module.parameters()]
    directions = [torch.randn_like(weight) for weight in weights]
    eps = 1e-6
    ahead, behind = (loss(*(w + sign * eps * d for w, d in zip(weights, directions))) for sign in (1, -1))
    found = torch.autograd.grad(loss(*module.parameters()), list(module.parameters()), allow_unused=True)
    slope = sum(float((g * d).sum()) for g, d in zip(found, directions) if g is not None)
    assert slope == pytest.approx(float(ahead - behind) / (2 * eps), rel=1e-4, abs=1e-7)

    first = float(loss(*weights))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(30):
        optimizer.zero_grad()
        (module(u) - target).square().mean().backward()
        optimizer.step()
    assert float((module(u) - target).detach().square().mean()) < first
    again = parametrised(name)
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(u), copy.deepcopy(module)(u))


MIXED = {  # parameters of one row that have no rows in common: they share its budget
    "a kernel and factors along another axis": (
        "input u[4, 4]\nlayer K = Conv(4, 3; pad = 1, bias = false), s = Scale(axis = 2)\n"
        "state x[4, 4] ~ tanh(K*x + s*x + u)"
    ),
    "a kernel and a matrix": (
        "input u[2, 5]\nlayer K = Conv(2, 3; pad = 1, bias = false)\nparam W[10, 10]\n"
        "state x[2, 5] ~ tanh(K*x + reshape(W*flatten(x), 2, 5) + u)"
    ),
    "a kernel twice and factors": (
        "input u[3, 6]\nlayer K = Conv(3, 3; pad = 1, bias = false), s = Scale(axis = 2)\n"
        "state x[3, 6], z[3, 6]\nx ~ tanh(0.5*K*z + s*x + u)\nz ~ tanh(K*x)"
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("body", MIXED.values(), ids=MIXED)
def test_rows_with_parameters_of_several_kinds_are_projected_into_the_bound(
    body: str, dtype: torch.dtype
) -> None:
    source = f"model M\n{body}\noutput y = x\n@wellposed norm(A, Inf) <= 0.9\nend"
    made = implicit_dsl.loads(source).M(dtype=dtype)
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in made.parameters():
                size = 10.0 ** float(torch.randn((), generator=generator))
                weight.copy_(size * torch.randn(weight.shape, generator=generator))
        made.project_()
        rows = abs(made.system().A.to_scipy()).sum(1)
        assert rows.max() <= 0.9
        once = [weight.clone() for weight in made.parameters()]
        made.project_()
        assert all(torch.equal(a, b) for a, b in zip(once, made.parameters()))  # what is inside stays
    assert made.certify().proved
