"""Cells that are faster as one function over all steps: recognised by what they compute.

Elman: h = φ(W h⁻ + x). A linear cell: h = a ⊙ h⁻ + b, where a and b depend on no step before.
LSTM: c = σ(f) ⊙ c⁻ + σ(i) ⊙ tanh(g), h = σ(o) ⊙ tanh(c), where f, i, g and o are affine in x and h⁻.
GRU: h = (1 − σ(z)) ⊙ tanh(n) + σ(z) ⊙ h⁻ with n = W x + b + σ(r) ⊙ (U h⁻ + b′), as in PyTorch, or the same
with σ(z) = 1 − σ(−z) in place of 1 − σ(z).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

from implicit_dsl.emit.equations import (
    Applied,
    Equations,
    Given,
    Monomial,
    NoFormError,
    Offset,
    Sum,
    Times,
    mentions,
    multiplied,
)
from implicit_dsl.model import ImplicitModel
from implicit_dsl.recurrence import Carry, Recurrence

Weight: TypeAlias = "tuple[tuple[Times, float], ...]"  # a sum of parts of matrices, each times a number
Bias: TypeAlias = "tuple[tuple[Offset, float], ...]"


@dataclass(frozen=True, slots=True)
class Elman:
    """h = φ(W h⁻ + x) for the one thing that is carried."""

    carry: Carry
    phi: str
    weight: Weight
    x: Sum


@dataclass(frozen=True, slots=True)
class Linear:
    """h = a ⊙ h⁻ + b for each thing that is carried."""

    parts: tuple[tuple[Carry, Sum, Sum], ...]


@dataclass(frozen=True, slots=True)
class Gate:
    """W x + U h⁻ + b: by input the weight of that, then U, and b."""

    inputs: dict[Given, Weight]
    hidden: Weight
    bias: Bias


@dataclass(frozen=True, slots=True)
class Lstm:
    """The gates i, f, g and o."""

    h: Carry
    c: Carry
    gates: tuple[Gate, Gate, Gate, Gate]


@dataclass(frozen=True, slots=True)
class Gru:
    """The gates r, z and n. What r multiplies is apart: the hidden part of n, and its bias."""

    h: Carry
    gates: tuple[Gate, Gate, Gate]
    bias: Bias


Cell: TypeAlias = "Elman | Linear | Lstm | Gru"
Values: TypeAlias = "Collection[tuple[str, bool]]"  # a state of the step, and whether of all steps


def gated(rest: Recurrence[ImplicitModel], ahead: ImplicitModel | None, reads: Values) -> Lstm | Gru | None:
    """The LSTM or GRU that a recurrence is, if it is one whose sums stand in its step."""
    try:
        reads = _of_steps(rest, reads)
        match rest.carried:
            case (one, other):
                return _lstm(rest, ahead, reads, one, other) or _lstm(rest, ahead, reads, other, one)
            case (carry,):
                return _gru(rest, ahead, carry) if _only(reads, carry) else None
    except NoFormError:
        pass
    return None


def simple(rest: Recurrence[ImplicitModel], reads: Values) -> Elman | Linear | None:
    """The Elman or linear cell that a recurrence is, if it is one of whose sums all is computed ahead."""
    try:
        if all(state in {carry.now for carry in rest.carried} for state, _ in _of_steps(rest, reads)):
            return _linear(rest) or (_elman(rest, *rest.carried) if len(rest.carried) == 1 else None)
    except NoFormError:
        pass
    return None


def _of_steps(rest: Recurrence[ImplicitModel], reads: Values) -> Values:
    """What is read of the steps, and does not come from before them."""
    made = {block.name for block in rest.step.states} | {carry.before for carry in rest.carried}
    return [pair for pair in reads if pair[0] in made]


def _only(reads: Values, carry: Carry) -> bool:
    return all(state == carry.now for state, _ in reads)


def _equations(step: ImplicitModel, ahead: ImplicitModel | None = None) -> Equations:
    """The equations of a step. Of what is computed ahead, plain sums are seen through."""
    if step.loops or step.recurrences:
        raise NoFormError
    plain = {}
    if ahead is not None:
        looped = {name for loop in ahead.loops for name in loop.states}
        plain = {
            block.name: (block, ahead.terms_of[block.name])
            for block in ahead.states
            if block.activation is None and block.name not in looped
        }
    return Equations({block.name: (block, step.terms_of[block.name]) for block in step.states}, plain)


def _size(step: ImplicitModel, carry: Carry) -> int:
    """The length of a vector that is carried from one step to the next."""
    shape = step.blocks[carry.before].shape
    if len(shape) != 1 or not isinstance(shape[0], int) or carry.now not in step.terms_of:
        raise NoFormError
    return shape[0]


# ---------------------------------------------------------------------- h = φ(W h⁻ + x)


def _elman(rest: Recurrence[ImplicitModel], carry: Carry) -> Elman | None:
    size = _size(rest.step, carry)
    form = _equations(rest.step).sum_of(carry.now, size)
    phi = "identity"
    match form:
        case ((((Applied(applied, inner),), 1.0)),):
            phi, form = applied, inner
    late = tuple((monomial, factor) for monomial, factor in form if mentions(monomial, (carry.before,)))
    x = tuple(pair for pair in form if pair not in late)
    weight = _weight(late, Given(carry.before, 0, size))
    if weight is None or not _is_plain(x):
        return None
    return Elman(carry, phi, weight, x)


def _linear(rest: Recurrence[ImplicitModel]) -> Linear | None:
    equations = _equations(rest.step)
    before = [carry.before for carry in rest.carried]
    parts = []
    for carry in rest.carried:
        size = _size(rest.step, carry)
        a: list[tuple[Monomial, float]] = []
        b: list[tuple[Monomial, float]] = []
        for monomial, factor in equations.sum_of(carry.now, size):
            others = tuple(one for one in monomial if one != Given(carry.before, 0, size))
            if mentions(others, before) or len(others) < len(monomial) - 1:
                return None
            (b if len(others) == len(monomial) else a).append((others, factor))
        if not a or not (_is_plain(tuple(a)) and _is_plain(tuple(b))):
            return None
        parts.append((carry, tuple(a), tuple(b)))
    return Linear(tuple(parts)) if parts else None


def _is_plain(form: Sum) -> bool:
    """Whether a form is a sum of products of what is given and of parameters, or of a matrix and a value."""
    return all(_is_product(monomial) for monomial, _ in form)


def _is_product(monomial: Monomial) -> bool:
    match monomial:
        case (Times(_, _, _, (Given(),)),):
            return True
    return all(isinstance(factor, Given | Offset) for factor in monomial)


def _weight(form: Sum, of: Given) -> Weight | None:
    """The matrix that a form multiplies a value with, if it is one."""
    found = []
    for monomial, factor in form:
        match monomial:
            case (Times(_, _, _, (given,)) as times,) if given == of:
                found.append((times, factor))
            case _:
                return None
    return tuple(found) or None


# ---------------------------------------------------------------------- gates


def _lstm(
    rest: Recurrence[ImplicitModel], ahead: ImplicitModel | None, reads: Values, h: Carry, c: Carry
) -> Lstm | None:
    size = _size(rest.step, h)
    if size != _size(rest.step, c) or set(reads) - {(h.now, True), (h.now, False), (c.now, False)}:
        return None
    equations = _equations(rest.step, ahead)
    cell = equations.sum_of(c.now, size)
    before = Given(c.before, 0, size)
    match equations.sum_of(h.now, size):
        case ((((Applied("sigmoid", o), Applied("tanh", to)), 1.0)),) if to == cell:
            pass
        case _:
            return None
    kept = [monomial for monomial, factor in cell if before in monomial and factor == 1]
    new = [monomial for monomial, factor in cell if before not in monomial and factor == 1]
    match [tuple(one for one in monomial if one != before) for monomial in (*kept, *new)]:
        case [(Applied("sigmoid", f),), (Applied("sigmoid", i), Applied("tanh", g))] if len(cell) == 2:
            gates = [_gate(form, h, size, (h.before, c.before)) for form in (i, f, g, o)]
            first, second, third, fourth = gates
            if first and second and third and fourth and any(gate.inputs for gate in gates if gate):
                return Lstm(h, c, (first, second, third, fourth))
    return None


def _gru(rest: Recurrence[ImplicitModel], ahead: ImplicitModel | None, carry: Carry) -> Gru | None:
    size = _size(rest.step, carry)
    before = Given(carry.before, 0, size)
    form = dict(_equations(rest.step, ahead).sum_of(carry.now, size))
    new = [one for monomial in form for one in monomial if isinstance(one, Applied) and one.phi == "tanh"]
    updates = [one for monomial in form for one in monomial if isinstance(one, Applied) and one.phi != "tanh"]
    if not new or not updates or updates[0].phi != "sigmoid":
        return None
    n, z = new[0], updates[0]
    with_n, with_h = multiplied((z, n)), multiplied((z, before))
    if form == {(n,): 1.0, with_n: -1.0, with_h: 1.0}:
        update = z.to
    elif form == {(before,): 1.0, with_h: -1.0, with_n: 1.0}:  # 1 − σ(z) = σ(−z)
        update = tuple((monomial, -factor) for monomial, factor in z.to)
    else:
        return None
    resets = {
        one for monomial, _ in n.to if len(monomial) == 2 for one in monomial if isinstance(one, Applied)
    }
    if len(resets) != 1 or (reset := resets.pop()).phi != "sigmoid":
        return None
    hidden = tuple((_without(monomial, reset), factor) for monomial, factor in n.to if reset in monomial)
    others = tuple((monomial, factor) for monomial, factor in n.to if reset not in monomial)
    gates = [_gate(part, carry, size, (carry.before,)) for part in (reset.to, update, others, hidden)]
    r, u, outer, inner = gates
    if not (r and u and outer and inner) or outer.hidden or inner.inputs:
        return None
    if not any(gate.inputs for gate in (r, u, outer)):
        return None
    return Gru(carry, (r, u, Gate(outer.inputs, inner.hidden, outer.bias)), inner.bias)


def _without(monomial: Monomial, one: Applied) -> Monomial:
    return tuple(factor for factor in monomial if factor != one)


def _gate(form: Sum, h: Carry, size: int, before: Collection[str]) -> Gate | None:
    """The parts of an affine form. No gate reads anything else of the steps before than h."""
    inputs: dict[Given, list[tuple[Times, float]]] = {}
    hidden: list[tuple[Times, float]] = []
    bias: list[tuple[Offset, float]] = []
    for monomial, factor in form:
        match monomial:
            case (Offset() as offset,):
                bias.append((offset, factor))
            case (Times(_, _, _, (Given() as given,)) as times,):
                if given == Given(h.before, 0, size):
                    hidden.append((times, factor))
                elif given.name in before:
                    return None
                else:
                    inputs.setdefault(given, []).append((times, factor))
            case _:
                return None
    return Gate({given: tuple(parts) for given, parts in inputs.items()}, tuple(hidden), tuple(bias))
