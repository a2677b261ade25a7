"""Constraints and penalties of weights as one convex function, through its proximal operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from implicit_dsl.runtime.constraints import Constraint, Within
from implicit_dsl.runtime.measures.applying import atom_of
from implicit_dsl.runtime.measures.composing import Atom, ById, composed, in_order
from implicit_dsl.runtime.measures.penalty import Penalty as Measured
from implicit_dsl.runtime.structures import matrix_of
from implicit_dsl.sets.linear import LinearSet
from implicit_dsl.train.descent.links import Weights


class Penalty(Protocol):
    """A convex function of some tensors, which is added to the loss: one of the source, or one's own."""

    @property
    def tensors(self) -> Sequence[str]:
        """The ids of the tensors."""

    def value(self, weights: Mapping[str, Tensor], /) -> Tensor:
        """What is added to the loss."""

    def prox(self, weights: Mapping[str, Tensor], step: float, /) -> Mapping[str, Tensor]:
        """argmin ½ ‖w − weights‖² + step · value(w), exactly."""


Term: TypeAlias = Constraint | Penalty


@dataclass(frozen=True, eq=False)
class Proximal:
    """The sum of constraints and penalties on some tensors, and their operators.

    `masses` say how often numbers of sets such as `Symmetric()` stand in their matrices: the distance to the
    nearest point is measured there.
    """

    terms: tuple[Term, ...]
    atoms: tuple[Atom, ...]
    masses: Weights

    @staticmethod
    def of(terms: Sequence[Term], weights: Weights) -> Proximal:
        """Of terms on these tensors."""
        atoms = tuple(atom for term in terms for atom in _atoms(term, weights))
        found: dict[str, Tensor] = {}
        for term in terms:
            if isinstance(term, Constraint):
                found.update(_masses(term, weights))
        return Proximal(
            tuple(terms), atoms, {id: mass for id, mass in found.items() if bool((mass != 1).any())}
        )

    @property
    def convex(self) -> bool:
        """Whether all its sets are."""
        return all(term.convex for term in self.terms if isinstance(term, Constraint))

    def value(self, weights: Weights) -> float:
        """The penalties; the sets count as met."""
        return sum(float(term.value(weights)) for term in self.terms if not isinstance(term, Constraint))

    def apply(self, weights: Weights, step: float) -> Weights:
        """argmin ½ ‖w − weights‖² + step · penalties(w) within the sets, in the shapes of the tensors.

        With a step of 0 it is the projection onto the sets.
        """
        wide = {id: weight.double() for id, weight in weights.items()}
        like = next(iter(wide.values()))
        alike = like.new_tensor(step)
        steps = {id: alike / self.masses[id].to(like) if id in self.masses else alike for id in wide}
        if self._ordered is None:
            found = composed(self.atoms, wide, steps)
        else:
            found = dict(wide)
            for atom in self._ordered:
                found.update(atom.operator(found, steps))
        return {id: found[id].to(weight.dtype) for id, weight in weights.items()}

    @cached_property
    def _ordered(self) -> list[Atom] | None:
        """The operators in an order that gives that of the sum; None if there is none."""
        return in_order(self.atoms)


def _atoms(term: Term, weights: Weights) -> tuple[Atom, ...]:
    """A term as functions with operators."""
    if isinstance(term, Measured):
        return term.atoms
    if isinstance(term, Constraint) and term.within is None:
        return (atom_of(term, weights),)
    owners = {id: torch.zeros(weights[id].numel(), dtype=torch.long) for id in term.tensors}
    if isinstance(term, Constraint):
        return (Atom(term.text, owners, partial(_onto_members, term), bound=True),)
    return (Atom("", owners, partial(_own, term)),)


def _onto_members(constraint: Constraint, weights: ById, steps: ById) -> Weights:
    """The nearest numbers whose matrices are within a constraint."""
    within = constraint.within
    assert within is not None
    held = {id: weights[id] for id in constraint.tensors}
    return {**held, **within.nearest(constraint, {id: within.member(id, held[id]) for id in held})}


def _own(penalty: Penalty, weights: ById, steps: ById) -> Mapping[str, Tensor]:
    held = {id: weights[id] for id in penalty.tensors}
    step = float(next(iter(steps[id] for id in held)).max())
    return penalty.prox(held, step) if step > 0 else held


def _masses(constraint: Constraint, weights: Weights) -> dict[str, Tensor]:
    """How often each number of a set stands in its matrix."""
    within = constraint.within
    if not isinstance(within, Within):
        return {}
    found = {}
    for id, made in within.structures.items():
        if id in weights and isinstance(made, LinearSet):
            point = torch.ones_like(weights[id], requires_grad=True)
            with torch.enable_grad():
                half = 0.5 * matrix_of(made, point).square().sum()
            found[id] = torch.autograd.grad(half, point)[0]
    return found


__all__ = ["Penalty", "Proximal", "Term"]
