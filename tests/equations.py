"""Steps x = f(x, b, s) in float64, each with its equilibrium by other means: sweeps under autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from implicit_dsl.demands import Failure
from implicit_dsl.runtime import Auto, Backward, Equilibrium, Solver

Tensors = tuple[Tensor, ...]


def data(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix(n: int, rate: float, seed: int) -> Tensor:
    """A (n, n) with all absolute row sums equal to `rate`."""
    A = data(n, n, seed=seed)
    return rate * A / A.abs().sum(1, keepdim=True)


def affine(x: Tensor, b: Tensor, A: Tensor) -> Tensor:
    return x @ A.T + b


def relu_step(x: Tensor, b: Tensor, A: Tensor) -> Tensor:
    return torch.relu(affine(x, b, A))


def tanh_step(x: Tensor, b: Tensor, A: Tensor) -> Tensor:
    return torch.tanh(affine(x, b, A))


def sigmoid_step(x: Tensor, b: Tensor, A: Tensor) -> Tensor:
    return torch.sigmoid(affine(x, b, A))


def two_states(x: Tensor, z: Tensor, b: Tensor, A: Tensor, B: Tensor) -> Tensors:
    """States of different shapes, in a ring, with a product of both."""
    return torch.tanh(z.flatten(1) @ A.T + b), torch.sin(x @ B.T).unflatten(1, (2, 2)) * torch.sigmoid(z)


def attention(x: Tensor, b: Tensor, Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
    heads = F.scaled_dot_product_attention(x @ Q, x @ K, x @ V)
    return torch.tanh(0.5 * heads + b)


def convolution(x: Tensor, b: Tensor, K: Tensor) -> Tensor:
    return torch.tanh(F.conv2d(x, K, padding=1) + b)


@dataclass(frozen=True)
class Case:
    """A step with the tensors that it is given, and φ where it is φ of an affine map."""

    name: str
    step: Callable[..., Tensor | Tensors]
    states: tuple[tuple[int, ...], ...]
    batched: Tensors
    shared: Tensors
    phi: Callable[[Tensor], Tensor] | None = None

    @property
    def given(self) -> Tensors:
        return (*self.batched, *self.shared)

    @property
    def batch(self) -> int:
        return len(self.batched[0])

    def start(self, batch: int | None = None) -> Tensors:
        size = self.batch if batch is None else batch
        return tuple(torch.zeros(size, *shape, dtype=torch.float64) for shape in self.states)

    def layer(
        self,
        solver: Solver | None = None,
        backward: Backward | None = None,
        failure: Failure = "raise",
        split: bool = True,
    ) -> Equilibrium:
        split = split and self.phi is not None
        return Equilibrium(
            self.step,
            self.name,
            affine=affine if split else None,
            phi=self.phi if split else None,
            solver=solver or Auto(tolerance=1e-13),
            backward=backward,
            failure=failure,
        )

    def solved(self, layer: Equilibrium, *given: Tensor) -> Tensors:
        """The states of the layer, for tensors like `given`."""
        count = len(self.batched)
        return layer(self.start(len(given[0])), given[:count], given[count:])

    def swept(self, *given: Tensor, sweeps: int = 150) -> Tensors:
        """The states by plain sweeps."""
        x = self.start(len(given[0]))
        for _ in range(sweeps):
            image = self.step(*x, *given)
            x = (image,) if isinstance(image, Tensor) else image
        return x


def dense(name: str, step: Callable[..., Tensor], phi: Callable[[Tensor], Tensor], rate: float = 0.7) -> Case:
    return Case(name, step, ((4,),), (data(3, 4, seed=1),), (matrix(4, rate, 2),), phi)


RELU = dense("relu", relu_step, torch.relu)
TANH = dense("tanh", tanh_step, torch.tanh)
SIGMOID = dense("sigmoid", sigmoid_step, torch.sigmoid, 2.0)
TWO = Case(
    "two",
    two_states,
    ((3,), (2, 2)),
    (data(2, 3, seed=3),),
    (matrix(4, 0.8, 4)[:3], matrix(4, 0.8, 5)[:, :3]),
)
ATTENTION = Case(
    "attention",
    attention,
    ((3, 2),),
    (data(2, 3, 2, seed=6),),
    tuple(data(2, 2, seed=seed, scale=0.5) for seed in (7, 8, 9)),
)
CONVOLUTION = Case(
    "convolution",
    convolution,
    ((2, 3, 3),),
    (data(2, 2, 3, 3, seed=10),),
    (data(2, 2, 3, 3, seed=11, scale=0.06),),
)
CASES = (RELU, TANH, SIGMOID, TWO, ATTENTION, CONVOLUTION)


def largest(expected: Tensors, found: Tensors) -> float:
    """The largest difference, relative to 1 or to the expected."""
    return max(
        float((one - other).detach().abs().max() / one.detach().abs().max().clamp(min=1))
        for one, other in zip(expected, found, strict=True)
    )
