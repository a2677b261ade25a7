"""An equilibrium as one operation of autograd, of any order, forward and reverse, and of torch.func."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from implicit_dsl.runtime.adjoints import Implicit, Series, Unrolled, series
from implicit_dsl.runtime.autocast import unautocast
from implicit_dsl.runtime.implicit.folding import mapped
from implicit_dsl.runtime.implicit.layout import Layout
from implicit_dsl.runtime.implicit.linearisation import Linearisation, Tensors, vjp
from implicit_dsl.runtime.implicit.nesting import forbid_nested_forward
from implicit_dsl.runtime.implicit.problem import Problem, adjoint, pushed, tangent
from implicit_dsl.runtime.implicit.scaling import divided, multiplied, unit_of
from implicit_dsl.runtime.implicit.solving import settled
from implicit_dsl.runtime.implicit.undisturbed import undisturbed
from implicit_dsl.runtime.statistics import Ledger


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One use of an equation: what the operation carries beside its tensors."""

    problem: Problem
    ledger: Ledger

    def parts(self, tensors: Sequence[Tensor]) -> tuple[Tensors, Tensors, Tensors]:
        """(states, batched, shared) of a flat list."""
        states, batched = self.problem.states, self.problem.states + self.problem.batched
        return tuple(tensors[:states]), tuple(tensors[states:batched]), tuple(tensors[batched:])


class Solve(torch.autograd.Function):
    """(call, *start, *batched, *shared) -> the states of the solution. The start has gradient zero.

    For `Implicit` both directions are equilibria in turn, so that they can be differentiated again:
    reverse  μ = D(Aᵀμ + g), then (∂h/∂θ)ᵀ μ;   forward  t = D(At + (∂h/∂θ) θ̇).
    """

    @staticmethod
    def forward(call: Call, *tensors: Tensor) -> Tensors:
        return settled(call.problem, *call.parts(tensors), call.ledger)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        call, *tensors = inputs
        ctx.call = call
        kept = (*output, *tensors[call.problem.states :])
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        call: Call = ctx.call
        states = call.problem.states
        needed = ctx.needs_input_grad[1 + states :]
        found = iter(pulled(call, gradients, ctx.saved_tensors, needed))
        return (None, *(None,) * states, *(next(found) if need else None for need in needed))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Any:
        call: Call = ctx.call
        forbid_nested_forward(call.problem.settings.name)
        return tangents_of(call, ctx.saved_tensors, tangents[call.problem.states :])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], call: Call, *tensors: Tensor) -> Any:
        problem = call.problem
        count = problem.states + problem.batched
        solve = lambda *given: Solve.apply(call, *given)  # noqa: E731
        found = mapped(solve, info.batch_size, in_dims[1:], tensors, count, problem.samples)
        return found, (0,) * len(found)


def pulled(call: Call, gradients: Tensors, saved: Tensors, needed: Sequence[bool]) -> Tensors:
    """The gradients of the `needed` of the tensors (batched, shared), from those of the states."""
    if not any(needed):
        return ()
    if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return _pulled_again(call, gradients, saved, needed)
    return pulled_once(call, gradients, saved, needed)


@undisturbed
def pulled_once(call: Call, gradients: Tensors, saved: Tensors, needed: Sequence[bool]) -> Tensors:
    """`pulled` for plain tensors: one linearisation serves the adjoint and the result."""
    problem = call.problem
    x, batched, shared = call.parts(saved)
    with unautocast(x[0].device):
        point = problem.linearised(x, (*batched, *shared), needed)
        dual = adjoint(problem)
        layout = Layout.of(x, batched)
        unit = unit_of(gradients)
        gradients = divided(gradients, unit)
        given = (*gradients, *x, *batched)
        flat = dual.flat_at(point, layout, given, shared)
        if isinstance(problem.settings.backward, Implicit):
            equation = dual.equation(layout, given, shared, flat)
            first = gradients if flat.outer is None else layout.split(flat.outer(layout.join(gradients)))
            mu = settled(dual, first, given, shared, call.ledger, equation)
        else:
            weigh = lambda t: t if flat.outer is None else layout.split(flat.outer(layout.join(t)))  # noqa: E731
            mu = weigh(truncated(lambda t: point.transposed(weigh(t)), gradients, _series(problem)))
        if not problem.outer_moves:
            return point.pullback(multiplied(mu, unit))
        lam = tuple(image + right for image, right in zip(point.transposed(mu), gradients))
        whole = Linearisation(problem.sweep, x, (*batched, *shared), needed)
        return whole.pullback(multiplied(lam, unit))


def _pulled_again(call: Call, gradients: Tensors, saved: Tensors, needed: Sequence[bool]) -> Tensors:
    """`pulled` of operations that can be differentiated, mapped and batched in turn."""
    problem = call.problem
    x, batched, shared = call.parts(saved)
    rest = (*batched, *shared)
    with unautocast(x[0].device):
        if isinstance(problem.settings.backward, Implicit):
            dual = adjoint(problem)
            first = (problem.outer_slope(gradients[0], x, rest),) if problem.splits else gradients
            mu = Solve.apply(Call(dual, call.ledger), *first, *gradients, *x, *rest)
        else:
            terms = _series(problem)
            _, pull = vjp(lambda *point: problem.inner(*point, *rest), *x)
            weigh = lambda t: (problem.outer_slope(t[0], x, rest),) if problem.splits else t  # noqa: E731
            mu = truncated(lambda t: pull(weigh(t)), gradients, terms)
            mu = weigh(mu)
        function = problem.inner
        if problem.outer_moves:
            _, pull = vjp(lambda *point: problem.inner(*point, *rest), *x)
            mu = tuple(image + right for image, right in zip(pull(tuple(mu)), gradients))
            function = problem.sweep
        which = tuple(number for number, need in enumerate(needed) if need)
        at, image_of = _depending(function, x, rest, which)
        _, pull = vjp(image_of, *at)
        found: Tensors = pull(tuple(mu))
    if isinstance(problem.settings.backward, Implicit):
        return found
    return tuple(Once.apply(problem.settings.name, len(found), *found, *gradients, *saved))


def tangents_of(call: Call, saved: Tensors, given: Sequence[Tensor | None]) -> Tensors:
    """The change of the solution with changes of the tensors (batched, shared); None: no change."""
    problem = call.problem
    x, batched, shared = call.parts(saved)
    rest = (*batched, *shared)
    moved = tuple(number for number, change in enumerate(given) if change is not None)
    if not moved:
        return tuple(torch.zeros_like(state) for state in x)
    with unautocast(x[0].device):
        changes = tuple(change for change in given if change is not None)
        at, image_of = _depending(problem.inner, x, rest, moved)
        c = pushed(image_of, at, changes)
        if isinstance(problem.settings.backward, Implicit):
            return _settled_tangent(call, x, rest, moved, changes, c)
        forward = lambda t: pushed(lambda *point: problem.inner(*point, *rest), x, t)  # noqa: E731
        weigh = lambda t: (problem.outer_slope(t[0], x, rest),) if problem.splits else t  # noqa: E731
        found = truncated(lambda t: weigh(forward(t)), weigh(c), _series(problem))
    return tuple(Once.apply(problem.settings.name, len(found), *found, *changes, *saved))


def _settled_tangent(
    call: Call, x: Tensors, rest: Tensors, moved: tuple[int, ...], changes: Tensors, c: Tensors
) -> Tensors:
    """t = D(At + c), plus what θ changes in φ itself: t = d + s with s = D(As + Ad + c)."""
    problem = call.problem
    moves: Tensors = ()
    if problem.outer_moves:
        h = problem.inner(*x, *rest)
        at, image_of = _depending(lambda z, *given: (problem.outer(z, given),), h, rest, moved)
        moves = pushed(image_of, at, changes)
        along = pushed(lambda *point: problem.inner(*point, *rest), x, moves)
        c = tuple(old + new for old, new in zip(c, along))
    first = (problem.outer_slope(c[0], x, rest),) if problem.splits else c
    found: Tensors = Solve.apply(Call(tangent(problem), call.ledger), *first, *c, *x, *rest)
    return tuple(old + new for old, new in zip(found, moves)) if moves else found


def _depending(
    function: Callable[..., Tensors], x: Tensors, rest: Tensors, which: tuple[int, ...]
) -> tuple[Tensors, Callable[..., Tensors]]:
    """Some of `rest`, and the function of these alone."""

    def image(*tensors: Tensor) -> Tensors:
        full = list(rest)
        for number, tensor in zip(which, tensors):
            full[number] = tensor
        return function(*x, *full)

    return tuple(rest[number] for number in which), image


def truncated(transposed: Callable[[Tensors], Tensors], right: Tensors, terms: Series) -> Tensors:
    """τ Σ_{t < terms} ((1 − τ)I + τJᵀ)ᵗ applied to `right`, for the linear map `transposed` = Jᵀ."""
    damping = terms.damping
    total = term = tuple(right)
    for _ in range(terms.terms - 1):
        image = transposed(term)
        term = tuple((1 - damping) * old + damping * new for old, new in zip(term, image))
        total = tuple(old + new for old, new in zip(total, term))
    return tuple(damping * part for part in total)


def _series(problem: Problem) -> Series:
    backward = problem.settings.backward
    assert not isinstance(backward, Implicit | Unrolled)
    return series(backward)


class Once(torch.autograd.Function):
    """(name, count, *results, *what they depend on) -> the results, which cannot be differentiated again."""

    @staticmethod
    def forward(name: str, count: int, *tensors: Tensor) -> Tensors:
        return tuple(tensor.clone() for tensor in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise RuntimeError(once_text(ctx.name))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise RuntimeError(once_text(ctx.name))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], name: str, count: int, *tensors: Tensor) -> Any:
        return Once.apply(name, count, *tensors), in_dims[2 : 2 + count]


def once_text(name: str) -> str:
    """Why an approximate gradient has no derivative."""
    return (
        f"`{name}`: its gradient is an approximation, whose own derivative would be an approximation of "
        "nothing; use backward=Implicit() to differentiate twice"
    )
