"""What the tests of this folder ask modules for: small programs, and what they should compute, in float64."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from loop_programs import PROGRAMS, LoopProgram
from torch import Tensor, nn

import implicit_dsl

SOLVERS = ("auto", "picard", "anderson", "broyden", "newton", "forward_backward", "peaceman_rachford")
BY_NAME = {program.name: program for program in PROGRAMS}
# one dense matrix, several states, images, and the two splittings: each is another path of the runtime
PATHS = tuple(BY_NAME[name] for name in ("relu", "nested", "conv", "forward_backward", "peaceman_rachford"))


@cache
def generated(text: str) -> types.ModuleType:
    """The module of a program."""
    return implicit_dsl.loads(text)


def square(
    n: int = 6, p: int = 4, *, phi: str = "relu", demand: str = "norm(A, Inf) <= 0.9", solver: str = "auto"
) -> str:
    """x = φ(A x + B u + b), y = x: tests can put the output into the equation."""
    return f"""
model M
    input u[{p}]
    param A[{n}, {n}], B[{n}, {p}], b[{n}] = normal(0.3)
    state x[{n}] ~ {phi}(A*x + B*u + b)
    output y = x
    @wellposed {demand}
    @solver {solver}
end
"""


def made(text: str, seed: int = 0, dtype: torch.dtype = torch.float64, **given: Tensor) -> nn.Module:
    """A module of the model M with random weights, feasible, except for those given."""
    torch.manual_seed(seed)
    module: nn.Module = generated(text).M(dtype=dtype)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.copy_(given[name]) if name in given else weight.normal_(std=0.6)
    if hasattr(module, "project_") and not given:
        module.project_()
    return module


def of_program(program: LoopProgram, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A module of a program with its twin: random weights, small where they must be."""
    torch.manual_seed(seed)
    module: nn.Module = generated(program.text).M(dtype=dtype)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.normal_(std=program.scale if name in (*program.small, "P", "S") else 0.8)
    if hasattr(module, "project_"):
        module.project_()
    return module


def in_float32(program: LoopProgram, exact: nn.Module) -> nn.Module:
    """The program in float32 with the weights of another module of it, and the default tolerance."""
    text = re.sub(r"tol = 1e-1\d(, )?", "", program.text)
    module: nn.Module = generated(text).M()
    module.load_state_dict({name: w.float() for name, w in exact.state_dict().items()})
    if hasattr(module, "project_"):
        module.project_()
    return module


def inputs_of(program: LoopProgram, batch: int = 3, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(batch, *program.shape, dtype=torch.float64)


def inputs(batch: int, p: int = 4, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(batch, p, dtype=torch.float64)


def rows_of_one_norm(n: int, norm: float, seed: int = 0) -> Tensor:
    """A with absolute row sums `norm`."""
    torch.manual_seed(seed)
    A = torch.randn(n, n, dtype=torch.float64)
    return norm * A / A.abs().sum(1, keepdim=True)


def turned(size: float) -> Tensor:
    """A quarter turn of the plane, times `size`."""
    return size * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)


def swept(module: nn.Module, u: Tensor, phi: Callable[[Tensor], Tensor] = torch.relu) -> Tensor:
    """One sweep φ(A x + B u + b) of a `square` from x = its output."""
    x = module(u)
    image: Tensor = phi(x @ module.A.mT + u @ module.B.mT + module.b)
    return image


def distance(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to max(1, ‖one‖)."""
    return ((one - other).abs().max() / max(1.0, one.abs().max().item())).item()


def gradients(y: Tensor, *to: Tensor) -> tuple[Tensor, ...]:
    """Of a fixed combination of the entries of y."""
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
    return torch.autograd.grad((y * weights).sum(), to)


@contextmanager
def compiled_afresh() -> Iterator[None]:
    """Without what torch.compile remembers of other tests."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
