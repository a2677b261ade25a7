"""Loops with a proved rate, as they are solved on a GPU: nothing is read from the device, either way."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import implicit_dsl
from implicit_dsl.runtime.dense import solve as dense_solve
from implicit_dsl.runtime.dense.route import Method, Route
from implicit_dsl.runtime.implicit import solving
from implicit_dsl.runtime.native.library import SWITCH
from implicit_dsl.runtime.solvers.counting import counted_steps

PROGRAMS = {
    "dense": """
model M(n = 12)
    input u[5]
    param A[n, n], B[n, 5]
    state x[n] ~ relu(A*x + B*u)
    output y[2] = Dense(2)*x
    @wellposed norm(A, Inf) <= 0.8
end
""",
    "convolution": """
model M(c = 3)
    input u[2, 6, 6]
    layer inject = Conv(c, 3; pad = 1), K = Conv(c => c, 3; pad = 1, bias = false)
    state z[c, 6, 6] ~ tanh(K*z + inject*u)
    output y[3] = z |> AvgPool(2) |> flatten |> Dense(3)
    @wellposed norm(K, Inf) <= 0.8
end
""",
    "two states": """
model M(n = 6)
    input u[5]
    param V[n, n], W[n, n]
    state x[n], w[n]
    x ~ relu(V*w + Dense(n)*u)
    w ~ tanh(W*x)
    output y[2] = Dense(2)*x
    @wellposed norm(A, Inf) <= 0.8
end
""",
}


class NoReading(TorchDispatchMode):
    """Raises where a value is read from a device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = str(func)
        if any(part in name for part in ("_local_scalar_dense", "is_nonzero", "aten.nonzero", "aten.equal")):
            raise AssertionError(f"{name} reads from the device")
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is decided for a device that is not the CPU."""

    def counted(equation, solver, start, asked):  # type: ignore[no-untyped-def]
        known = equation.rate is not None and solver.geometric is not None
        return counted_steps(equation, solver, start, True) if known else None

    monkeypatch.setattr(
        importlib.import_module("implicit_dsl.runtime.solvers.solve"), "counted_steps", counted
    )
    monkeypatch.setattr(solving, "counted_steps", counted)
    monkeypatch.setenv(SWITCH, "0")
    route = Route(Method.COUNTED, False, False, "a test")
    monkeypatch.setattr(dense_solve, "choose", lambda *_: route)


def gradients(model: nn.Module, u: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    """The output, and the gradients of the input and of all parameters."""
    u = u.clone().requires_grad_()
    y = model(u)
    return y, *torch.autograd.grad(y, (u, *model.parameters()), g)


@pytest.mark.parametrize("name", PROGRAMS)
def test_forward_and_backward_read_nothing(name: str) -> None:
    torch.manual_seed(0)
    model = implicit_dsl.loads(PROGRAMS[name]).M(dtype=torch.float64)
    u = torch.randn(4, *((2, 6, 6) if name == "convolution" else (5,)), dtype=torch.float64)
    g = torch.randn_like(model(u))  # looks at the weights, which is not repeated until they change
    with NoReading():
        found = gradients(model, u, g)

    (stats,) = model.stats.values()
    assert "counted" in str(stats) or "proved" in str(stats)
    expected = gradients(with_looks(name, model), u, g)
    for one, other in zip(expected, found):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8)


def with_looks(name: str, model: nn.Module) -> nn.Module:
    """The same with a solver that looks at residuals, and to a finer tolerance."""
    source = PROGRAMS[name].replace("\nend", "\n    @solver anderson(tol = 1e-13)\nend")
    other: nn.Module = implicit_dsl.loads(source).M(dtype=torch.float64)
    other.load_state_dict(model.state_dict())
    return other


def test_what_looks_is_noticed() -> None:
    model = with_looks("dense", implicit_dsl.loads(PROGRAMS["dense"]).M(dtype=torch.float64))
    u = torch.randn(4, 5, dtype=torch.float64)
    model(u)
    with pytest.raises(AssertionError, match="reads from the device"), NoReading():
        model(u)[0, 0].item()
