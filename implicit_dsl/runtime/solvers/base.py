"""What is solved, in which norm it is measured, and what a solver is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from implicit_dsl.runtime.native import residuals

# What can be reached with room to spare where the terms of a sum are not much larger than the sum:
# 84 units of rounding in float32, 450 000 in float64.
TOLERANCE, DOUBLE_TOLERANCE = 1e-5, 1e-10
# From so many entries on, two passes for the maximum and the minimum cost less than writing |z|.
_LARGE = 16_384

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """The size of each sample, never of a batch: max_i |z_i| / v_i, or its dual Σ_i v_i |z_i|.

    `weights` v (n,) > 0; None: ones. A residual counts relative to max(unit, ‖x‖): unit = 1 asks of
    small equilibria what it asks of those of size 1; the adjoint, which is linear in a gradient of
    any size, has unit = 0.
    """

    weights: Tensor | None = None
    dual: bool = False
    unit: float = 1.0

    def size(self, z: Tensor) -> Tensor:
        """The norms (batch,) of z (batch, n), nan where z has one. Sums are taken in float32 or wider."""
        if z.shape[1] == 0:
            return z.new_zeros(z.shape[0])
        if self.weights is not None:
            v = self.weights.to(z.device, z.dtype)
            z = z * v if self.dual else z / v
        if self.dual:
            return z.abs().sum(1, dtype=torch.promote_types(z.dtype, torch.float32))
        # `vector_norm(z, inf)` and `aminmax` by rows are ten times slower on a CPU
        if z.numel() < _LARGE:
            return z.abs().amax(1)
        return torch.maximum(z.amax(1), z.amin(1).neg_())

    def residual(self, image: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """image − x, and what `relative` says of it."""
        found = residuals(image, x, self.dual) if self.weights is None else None
        if found is None:
            residual = image - x
            return residual, self.relative(residual, x)
        residual, (size, scale) = found
        return residual, self._ratio(size, scale)

    def relative(self, residual: Tensor, x: Tensor) -> Tensor:
        """‖residual‖ / max(unit, ‖x‖) of each sample, and that scale: (2, batch), in float64 if there is one.

        For x = 0 and unit = 0 it is 1, or 0 for no residual.
        """
        wide = wide_dtype(x)
        return self._ratio(self.size(residual).to(wide), self.size(x).to(wide))

    def _ratio(self, size: Tensor, scale: Tensor) -> Tensor:
        scale = scale.clamp(min=self.unit)
        # dividing a size by itself leaves nan and infinity what they are: not finite
        relative = torch.where(size == 0, size, size / torch.where(scale == 0, size, scale))
        return torch.stack((relative, scale))


def wide_dtype(like: Tensor) -> torch.dtype:
    """float64, or float32 on a device without it."""
    return torch.float32 if like.device.type == "mps" else torch.float64


@dataclass(frozen=True, slots=True, eq=False)
class Equation:
    """x = f(x), for each sample of a batch by itself.

    f            (batch, n) -> (batch, n). It neither changes its argument nor, later, what it returned.
    affine, phi  f = phi ∘ affine, where phi is elementwise with slopes in [0, 1]; both or neither.
    homogeneous  whether phi(t z) = t phi(z) for t ≥ 0, as relu; None: not known.
    rate         a proved factor of contraction of (1 − averaging) x + averaging f(x), in the norm used.
    monotone     m in I − W ⪰ m I (symmetric part), for affine z ↦ W z + c.
    restrict     makes the same equation for some of the samples only, given their places (k,) in this.
    """

    f: Map
    affine: Map | None = None
    phi: Map | None = None
    homogeneous: bool | None = None
    rate: float | None = None
    averaging: float = 1.0
    monotone: float | None = None
    restrict: Callable[[Tensor], Equation] | None = None

    def __post_init__(self) -> None:
        if (self.affine is None) != (self.phi is None):
            raise ValueError("affine and phi come together: f = phi ∘ affine")
        if self.rate is not None and not 0 <= self.rate < 1:
            raise ValueError(f"the rate of a contraction is in [0, 1), not {self.rate}")
        if not 0 < self.averaging <= 1:
            raise ValueError(f"averaging must be in (0, 1], not {self.averaging}")

    def only(self, places: Tensor) -> Equation:
        """The equation of the samples at these places, with what is proved of this one."""
        assert self.restrict is not None
        proved = {name: getattr(self, name) for name in ("homogeneous", "rate", "averaging", "monotone")}
        return replace(self.restrict(places), **proved)

    def split(self, solver: str) -> tuple[Map, Map]:
        """(affine, phi). Raises ValueError if f is not given in this form, which `solver` needs."""
        if self.affine is None or self.phi is None:
            raise ValueError(
                f"{solver} needs the equation as x = φ(affine(x)) with an elementwise φ of slopes in [0, 1]; "
                "for other loops choose newton, anderson or picard"
            )
        return self.affine, self.phi


class State(Protocol):
    """What a solver remembers between its steps, with the batch as first axis of all its tensors."""

    def take(self, places: Tensor) -> None:
        """Keep only the samples at these places (k,)."""


class Stateless:
    """The memory of a solver that has none."""

    __slots__ = ()

    def take(self, places: Tensor) -> None:
        """Nothing to keep."""


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """Where a solve stands before step number `step + 1`: x, its image f(x), and what was measured.

    x, image   (batch, n); the image is x itself for solvers that did not ask for it and are not measured
    residual   image − x, if it was measured at this step
    remaining  (batch,) float32: how many further steps the observed rate of each sample predicts;
               inf where it does not fall, nan where it is not known yet
    """

    x: Tensor
    image: Tensor
    step: int
    residual: Tensor | None = None
    remaining: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Solver(ABC):
    """How an equation is solved. Stateless: one object serves any number of solves.

    `tolerance` on the residual relative to max(1, ‖x‖), for each sample; None: 1e-5, in float64 1e-10.
    `max_steps`: after which it gives up; None: the default of the solver.
    `per_sample`: each sample stops by itself, and its result does not depend on the others; otherwise
    all go on until the last is done.
    """

    tolerance: float | None = None
    max_steps: int | None = None
    per_sample: bool = True

    name: ClassVar[str]
    default_steps: ClassVar[int] = 1000
    reads_image: ClassVar[bool] = True  # whether every step needs f(x), measured or not
    # The next check comes after this share of the steps that the observed rate predicts: 1 would save
    # the most checks, and overshoot where convergence is faster than geometric.
    look_ahead: ClassVar[float] = 0.75
    # Steps without progress, after which a small residual may be one that only rounding keeps up.
    patience: ClassVar[int] = 16
    # Without a proof of convergence, a sample ends that made no progress in so many steps, and in half of
    # all its steps. Long chains of states may rest for as many sweeps as they have links.
    endurance: ClassVar[int] = 200

    def __post_init__(self) -> None:
        if self.tolerance is not None and not (self.tolerance > 0 and math.isfinite(self.tolerance)):
            raise ValueError(f"the tolerance must be a positive number, not {self.tolerance}")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, not {self.max_steps}")

    def tolerance_for(self, dtype: torch.dtype) -> float:
        """The tolerance in a solve of this dtype."""
        if self.tolerance is not None:
            return self.tolerance
        return DOUBLE_TOLERANCE if dtype == torch.float64 else TOLERANCE

    @property
    def last_step(self) -> int:
        """The number of the last step that may be made."""
        return self.default_steps if self.max_steps is None else self.max_steps

    @property
    def geometric(self) -> float | None:
        """d, if a step is x ← (1 − d) x + d g(x) for the averaged map g of the equation; None: it is not."""
        return None

    def chosen(self, equation: Equation, start: Tensor) -> Solver:
        """The solver that solves this equation: itself, unless it is one that chooses."""
        return self

    @abstractmethod
    def init(self, equation: Equation, start: Tensor) -> State:
        """The memory before the first step. Raises ValueError for an equation that it cannot solve."""

    def evaluate(self, equation: Equation, state: State, x: Tensor) -> Tensor:
        """f(x). Solvers that split f keep its parts in the state."""
        return equation.f(x)

    @abstractmethod
    def advance(self, equation: Equation, state: State, point: Point) -> Tensor:
        """The next x, from one whose image is known. Neither is changed."""


def in_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless low < value ≤ high."""
    if not low < value <= high:
        limits = f"in ({low:g}, {high:g}]" if math.isfinite(high) else f"greater than {low:g}"
        raise ValueError(f"{name} must be {limits}, not {value}")
