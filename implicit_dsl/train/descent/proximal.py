"""Constraints and penalties of weights as one convex function, through its proximal operator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from implicit_dsl.runtime.constraints import Constraint, Within
from implicit_dsl.runtime.structures import matrix_of
from implicit_dsl.sets.linear import LinearSet
from implicit_dsl.train.descent.links import Weights

_ROUNDS, _AT_REST = 200, 1e-10  # of Dykstra's method, and the relative change at which it ends


class Penalty(Protocol):
    """A convex function of some tensors, which is added to the loss."""

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
    """The sum of constraints and penalties on some tensors."""

    terms: tuple[Term, ...]

    @property
    def convex(self) -> bool:
        """Whether all its sets are, and are projected onto exactly."""
        return all(getattr(term, "convex", True) for term in self.terms)

    def value(self, weights: Weights) -> float:
        """The penalties; the sets count as met."""
        return sum(float(term.value(weights)) for term in self.terms if not isinstance(term, Constraint))

    def apply(self, weights: Weights, step: float) -> Weights:
        """argmin ½ ‖w − weights‖² + step · (penalties + sets), in the shapes of the tensors.

        Terms without a tensor in common are taken one by one. Those with are taken in turn with corrections
        until they agree, by the method of Dykstra for proximal operators (Bauschke and Combettes 2008).
        """
        found = dict(weights)
        for group in self._groups:
            found.update(
                self._one(group[0], found, step) if len(group) == 1 else self._agreed(group, found, step)
            )
        return found

    @cached_property
    def _groups(self) -> list[list[Term]]:
        return clusters((term.tensors, term) for term in self.terms)

    def _one(self, term: Term, weights: Weights, step: float) -> Weights:
        held = {id: weights[id] for id in term.tensors}
        if isinstance(term, Constraint):
            return projected(term, held)
        return term.prox(held, step) if step > 0 else held

    def _agreed(self, terms: Sequence[Term], weights: Weights, step: float) -> Weights:
        # sets last, so that what comes out is in one of them, and in all in the limit
        terms = sorted(terms, key=lambda term: isinstance(term, Constraint))
        ids = dict.fromkeys(id for term in terms for id in term.tensors)
        current = {id: weights[id] for id in ids}
        memory = [{id: torch.zeros_like(weights[id]) for id in term.tensors} for term in terms]
        scale = max(1e-300, *(float(weight.abs().max()) for weight in current.values()))
        for _ in range(_ROUNDS):
            change = 0.0
            for term, kept in zip(terms, memory):
                moved = {id: current[id] + kept[id] for id in term.tensors}
                for id, weight in self._one(term, moved, step).items():
                    kept[id] = moved[id] - weight
                    change = max(change, float((weight - current[id]).abs().max()))
                    current[id] = weight
            if change <= _AT_REST * scale:
                break
        return current


def clusters(listed: Iterable[tuple[Sequence[str], Term]]) -> list[list[Term]]:
    """Terms that have tensors in common, directly or through others, together."""
    found: list[tuple[set[str], list[Term]]] = []
    for ids, term in listed:
        names, members = set(ids), [term]
        apart = []
        for held in found:
            if names & held[0]:
                names, members = names | held[0], held[1] + members
            else:
                apart.append(held)
        found = [*apart, (names, members)]
    return [members for _, members in found]


def projected(constraint: Constraint, weights: Weights) -> Weights:
    """The nearest tensors in the set of a constraint."""
    within = constraint.within
    if within is None:
        return constraint.nearest(weights)
    members = {id: within.member(id, weight) for id, weight in weights.items()}
    return {**weights, **within.nearest(constraint, members)}


def masses(constraint: Constraint, weights: Weights) -> dict[str, Tensor]:
    """How often each trained number of a set stands in its matrix: projections are nearest there."""
    within = constraint.within
    if not isinstance(within, Within):
        return {}
    found = {}
    for id, made in within.structures.items():
        if id in weights and isinstance(made, LinearSet):
            count = torch.zeros_like(weights[id], requires_grad=True)
            with torch.enable_grad():
                half = 0.5 * matrix_of(made, count + 1.0).square().sum()
            found[id] = torch.autograd.grad(half, count)[0]
    return found


__all__ = ["Penalty", "Proximal", "Term", "clusters", "masses", "projected"]
