"""The equations that belong to one equilibrium: itself, its adjoint, its tangent, and theirs in turn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from implicit_dsl.demands import Failure
from implicit_dsl.runtime.adjoints import Backward, Implicit
from implicit_dsl.runtime.implicit.layout import Layout, rows_of
from implicit_dsl.runtime.implicit.linearisation import Linearisation, Tensors, as_tuple, slope, vjp
from implicit_dsl.runtime.implicit.surroundings import Surroundings, check_followed
from implicit_dsl.runtime.solvers import Equation, ForwardBackward, PeacemanRachford, Solver

Step = Callable[..., Tensor | Tensors]

# A solution whose residual is so many units of rounding, and ten times the tolerance, is one of another step.
CHANGE = 1e4


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked of one equilibrium, and what is known of it: see `Equation` for the last four."""

    name: str
    line: int
    solver: Solver
    backward: Backward
    failure: Failure
    rate: float | None = None
    averaging: float = 1.0
    monotone: float | None = None
    homogeneous: bool | None = None

    @property
    def of_derivatives(self) -> Settings:
        """The same for adjoints and tangents, which may have a tolerance of their own."""
        if not isinstance(self.backward, Implicit) or self.backward.tolerance is None:
            return self
        return replace(self, solver=replace(self.solver, tolerance=self.backward.tolerance))


@dataclass(frozen=True)
class Problem(ABC):
    """x = φ(h(x; b, s)) for some tensors x [batch, …], b [batch, …] and s (shared, without batch).

    φ is elementwise, and the identity where nothing is known. `states` and `batched` count x and
    b; a flat list of tensors is always (*x, *b, *s). Every equation here has this form: with
    A = ∂h/∂x and D = φ′ at the solution, J = DA, and the adjoint in the cotangent μ of h is
    μ = D(Aᵀμ + g): a splitting solver that is proved for the equation is proved for its adjoint.
    """

    settings: Settings
    states: int
    batched: int
    samples: bool  # whether each sample is an equation of its own, so that some can be solved alone

    @property
    @abstractmethod
    def role(self) -> str:
        """What it is, in messages."""

    @property
    @abstractmethod
    def dual(self) -> bool:
        """Whether it contracts in the dual norm Σ|·|, and not in max|·|."""

    @property
    @abstractmethod
    def linear(self) -> bool:
        """Whether it is linear, with its first `states` tensors of b as the right-hand side."""

    @property
    @abstractmethod
    def splits(self) -> bool:
        """Whether φ is known."""

    @abstractmethod
    def inner(self, *tensors: Tensor) -> Tensors:
        """h(x; b, s), differentiable to any order and by torch.func."""

    @abstractmethod
    def outer(self, z: Tensor, rest: Tensors) -> Tensor:
        """φ(z) for one state, the same."""

    @property
    def outer_moves(self) -> bool:
        """Whether φ has other arguments than z: the slope D of an adjoint is one, which x and θ change."""
        return self.linear and self.splits

    def sweep(self, *tensors: Tensor) -> Tensors:
        """φ(h(x; b, s))."""
        z = self.inner(*tensors)
        return (self.outer(z[0], tensors[self.states :]),) if self.splits else z

    def linearised(self, x: Tensors, rest: Tensors, needed: Sequence[bool] = ()) -> Linearisation:
        """h near the solution x, for plain tensors."""
        return Linearisation(self.inner, x, rest, needed)

    def outer_slope(self, t: Tensor, x: Tensors, rest: Tensors) -> Tensor:
        """D t, with D = φ′ at the h of x: differentiable as `outer` is."""
        value, pull = vjp(lambda point: self.outer(point, rest), self.inner(*x, *rest)[0])
        (derivative,) = pull(torch.ones_like(value))
        scaled: Tensor = derivative * t
        return scaled

    @abstractmethod
    def flat(self, layout: Layout, batched: Tensors, shared: Tensors) -> Flat:
        """h and φ on rows (batch, n), for a solver: plain tensors, no gradient."""

    def equation(
        self, layout: Layout, batched: Tensors, shared: Tensors, flat: Flat | None = None
    ) -> Equation:
        """The same for a solver of the library. `flat`: what `self.flat` would return, if it is known."""

        def restrict(index: Tensor) -> Equation:
            return self.equation(layout, tuple(rows_of(tensor, index) for tensor in batched), shared)

        if flat is None:
            flat = self.flat(layout, batched, shared)
        settings = self.settings
        # D(Aᵀμ) contracts in the dual norm as DA does in the other, but its average need not where
        # the diagonal of A is what makes it contract: D(Aᵀ·) mixes rows of different slopes.
        proved = not (self.linear and self.splits) or settings.averaging == 1
        return Equation(
            flat,
            affine=flat.inner if self.splits else None,
            phi=flat.outer,
            homogeneous=flat.switches if self.linear and self.splits else settings.homogeneous,
            rate=settings.rate if proved else None,
            averaging=settings.averaging,
            monotone=settings.monotone if self.splits else None,
            restrict=restrict if self.samples else None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Flat:
    """φ∘h on rows (batch, n).

    `switches`: whether φ is known to have no slopes but 0 and 1, as relu; only then prox_{αf} = φ.
    """

    inner: Callable[[Tensor], Tensor]
    outer: Callable[[Tensor], Tensor] | None = None
    switches: bool | None = None

    def __call__(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        return z if self.outer is None else self.outer(z)


@dataclass(frozen=True)
class Primal(Problem):
    """The equilibrium itself: x = step(x, b, s), or x = phi(affine(x, b, s)).

    `around`: what step and phi use beside their arguments, None for nothing. The last of s stand
    for the tensors of it that gradients follow.
    """

    step: Step
    phi: Callable[[Tensor], Tensor] | None = None
    around: Surroundings | None = field(default=None, compare=False)

    role = "equilibrium"
    dual = False
    linear = False

    @property
    def splits(self) -> bool:
        return self.phi is not None

    @property
    def outer_moves(self) -> bool:
        return self.splits and self.around is not None and bool(self.around.followed)

    def inner(self, *tensors: Tensor) -> Tensors:
        if self.around is None:
            return as_tuple(self.step(*tensors))
        own, given = self._parted(self.around, tensors)
        return as_tuple(self.around.applied(self.step, own, given))

    def outer(self, z: Tensor, rest: Tensors) -> Tensor:
        if self.phi is None:
            return z
        if self.around is None:
            return self.phi(z)
        image: Tensor = self.around.applied(self.phi, (z,), self._parted(self.around, rest)[1])
        return image

    @staticmethod
    def _parted(around: Surroundings, tensors: Tensors) -> tuple[Tensors, Tensors]:
        """The arguments of the step, and what stands for the tensors around it."""
        count = len(tensors) - len(around.followed)
        return tensors[:count], tensors[count:]

    def linearised(self, x: Tensors, rest: Tensors, needed: Sequence[bool] = ()) -> Linearisation:
        """The same. Raises RuntimeError if the step is not what it was when it was solved."""
        point = super().linearised(x, rest, needed)
        if self.around is not None:
            check_followed(self.settings.name, point)
            self._check_solution(x, point.value if not self.splits else (self.outer(point.value[0], rest),))
        return point

    def _check_solution(self, x: Tensors, images: Tensors) -> None:
        if self.settings.failure == "warn":
            return  # x may be no solution
        units = CHANGE * torch.finfo(x[0].dtype).eps
        most = max(10 * self.settings.solver.tolerance_for(x[0].dtype), units)
        for state, image in zip(x, images):
            if state.numel() and bool((image - state).abs().max() > most * state.abs().max().clamp(min=1)):
                raise RuntimeError(
                    f"the step of `{self.settings.name}` gives something else than when it was solved: what "
                    "it uses beside its arguments has changed since; hand it in, by `batched` or `shared`"
                )

    def flat(self, layout: Layout, batched: Tensors, shared: Tensors) -> Flat:
        def inner(x: Tensor) -> Tensor:
            states = layout.split(x)
            return layout.join(self._checked(states, self.inner(*states, *batched, *shared))).to(x.dtype)

        def outer(z: Tensor) -> Tensor:
            return self.outer(z, (*batched, *shared))

        return Flat(inner, self.phi if self.phi is None or self.around is None else outer)

    def _checked(self, states: Tensors, images: Tensors) -> Tensors:
        """Raises ValueError if the step does not return what it takes."""
        if len(images) != len(states):
            raise ValueError(
                f"the step of `{self.settings.name}` takes {len(states)} states, but returns {len(images)}"
            )
        for state, image in zip(states, images):
            if image.shape != state.shape:
                raise ValueError(
                    f"the step of `{self.settings.name}` takes a state {tuple(state.shape)}, "
                    f"but returns {tuple(image.shape)}"
                )
        return images


@dataclass(frozen=True)
class Derived(Problem):
    """A linear equation at the solution of another, `base`: b is (right-hand side, x, b of base)."""

    base: Problem

    linear = True

    @property
    def splits(self) -> bool:
        return self.base.splits

    def parts(self, tensors: Sequence[Tensor]) -> tuple[Tensors, Tensors, Tensors]:
        """(right-hand side, x, rest) of the tensors after the unknowns."""
        count = self.states
        return tuple(tensors[:count]), tuple(tensors[count : 2 * count]), tuple(tensors[2 * count :])

    def outer(self, z: Tensor, rest: Tensors) -> Tensor:
        if not self.splits:
            return z
        _, x, others = self.parts(rest)
        return self.base.outer_slope(z, x, others)

    def flat(self, layout: Layout, batched: Tensors, shared: Tensors) -> Flat:
        _, x, others = self.parts((*batched, *shared))
        return self.flat_at(self.base.linearised(x, others), layout, batched, shared)

    def flat_at(self, point: Linearisation, layout: Layout, batched: Tensors, shared: Tensors) -> Flat:
        """`flat` from a linearisation that is there already."""
        right, _, others = self.parts((*batched, *shared))
        constant = layout.join(right)

        def inner(t: Tensor) -> Tensor:
            return layout.join(self.applied(point, layout.split(t))) + constant

        if not self.splits:
            return Flat(inner)
        derivative = layout.join((slope(lambda z: self.base.outer(z, others), point.value[0]),))
        switches = None
        if isinstance(self.settings.solver, ForwardBackward | PeacemanRachford):
            switches = bool(((derivative == 0) | (derivative == 1)).all())
        return Flat(inner, lambda z: derivative * z, switches)

    @abstractmethod
    def applied(self, point: Linearisation, t: Tensors) -> Tensors:
        """The linear part of h, applied."""


class Adjoint(Derived):
    """μ = D(Aᵀμ + g): what the gradient g of the solution of `base` becomes at h."""

    @property
    def role(self) -> str:
        return "adjoint" if isinstance(self.base, Primal) else f"adjoint of the {self.base.role}"

    @property
    def dual(self) -> bool:
        return not self.base.dual

    def inner(self, *tensors: Tensor) -> Tensors:
        count = self.states
        right, x, others = self.parts(tensors[count:])
        _, pull = vjp(lambda *point: self.base.inner(*point, *others), *x)
        return tuple(image + constant for image, constant in zip(pull(tensors[:count]), right))

    def applied(self, point: Linearisation, t: Tensors) -> Tensors:
        return point.transposed(t)


class Tangent(Derived):
    """t = D(At + c): what a change c of h makes of the solution of `base`."""

    @property
    def role(self) -> str:
        return "tangent" if isinstance(self.base, Primal) else f"tangent of the {self.base.role}"

    @property
    def dual(self) -> bool:
        return self.base.dual

    def inner(self, *tensors: Tensor) -> Tensors:
        count = self.states
        right, x, others = self.parts(tensors[count:])
        images = pushed(lambda *point: self.base.inner(*point, *others), x, tensors[:count])
        return tuple(image + constant for image, constant in zip(images, right))

    def applied(self, point: Linearisation, t: Tensors) -> Tensors:
        return point.along(t)


def adjoint(base: Problem) -> Adjoint:
    """The adjoint of an equation."""
    return Adjoint(
        base.settings.of_derivatives, base.states, 2 * base.states + base.batched, base.samples, base
    )


def tangent(base: Problem) -> Tangent:
    """The tangent of an equation."""
    return Tangent(
        base.settings.of_derivatives, base.states, 2 * base.states + base.batched, base.samples, base
    )


def pushed(function: Callable[..., Tensors], x: Tensors, tangents: Sequence[Tensor]) -> Tensors:
    """(∂function/∂x) applied to tangents, as the transposed of the transposed: see `Linearisation.along`."""
    value, pull = vjp(function, *x)
    zeros = tuple(torch.zeros_like(part) for part in value)
    _, back = vjp(lambda *w: pull(w), *zeros)
    images: Tensors = back(tuple(tangents))
    return images
