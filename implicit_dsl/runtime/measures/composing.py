"""Proximal operators of sums: one after another where that is exact, else in turns until they agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

ById: TypeAlias = Mapping[str, Tensor]
Proximal: TypeAlias = Callable[[ById, ById], Mapping[str, Tensor]]  # of tensors and their steps

SHRINKS = "shrinks"

_TURNS = 2_000  # of Dykstra's method
_RESTS_AT = 1e-11  # relative change at which it has converged


@dataclass(frozen=True, eq=False)
class Atom:
    """A convex function with its operator: groups of entries and a norm of each, or a set (`bound`).

    `owners` say to which group each entry of its tensors [entries] belongs, −1: to none.
    `kind`: l1, linf, l2, squares, `SHRINKS` for a set onto which entries are projected towards zero, or
    another.
    `uniform`: the entries of a group count alike.
    """

    kind: str
    owners: Mapping[str, Tensor]
    operator: Proximal
    bound: bool = False
    uniform: bool = True

    @property
    def tensors(self) -> tuple[str, ...]:
        """The ids of its tensors."""
        return tuple(self.owners)


def composed(atoms: Sequence[Atom], weights: ById, steps: ById) -> dict[str, Tensor]:
    """argmin Σ |θ − w|² ∕ (2 s) + Σ of the atoms, from float64 tensors and steps by id.

    Operators one after another are exact where each leaves the subgradients of those before it as they are:
    groups inside of groups, from the inside out, a Euclidean norm (which scales) last, squares behind them
    (Jenatton et al. 2011; Yu 2013). They are taken so, too, where entries have steps of their own. Others are
    taken in turns, each on what the others have left (Dykstra's method for functions: Bauschke and Combettes
    2008). Entries that a norm has made zero are.
    """
    differing = any(step.ndim for step in steps.values())  # of steps that differ, sums are not known
    ordered = sorted(atoms, key=_rank) if differing else in_order(atoms)
    if ordered is not None:
        found = dict(weights)
        for atom in ordered:
            found.update(atom.operator(found, steps))
        return found
    return _in_turns(atoms, weights, steps)


def in_order(atoms: Sequence[Atom]) -> list[Atom] | None:
    """The order in which operators one after another are that of the sum; None if there is none."""
    ordered = sorted(atoms, key=_rank)
    for place, later in enumerate(ordered):
        for earlier in ordered[:place]:
            if not set(earlier.tensors) & set(later.tensors):
                continue
            if not _composes(earlier, later):
                return None
    return ordered


def _rank(atom: Atom) -> tuple[bool, bool, int, bool]:
    """Sets last, squares before them; of groups the small ones first, and Euclidean ones behind others."""
    largest = 0
    for owners in atom.owners.values():
        held = owners[owners >= 0]
        largest += int(torch.bincount(held).max()) if len(held) else 0
    return (atom.bound, atom.kind == "squares", 0 if atom.kind == "l1" else largest, atom.kind == "l2")


def _composes(earlier: Atom, later: Atom) -> bool:
    if _disjoint(earlier, later):
        return True
    if earlier.bound:
        return False
    if later.bound:
        scaled = earlier.kind == "squares" and earlier.uniform and _covers(earlier, later)
        return scaled or (earlier.kind == "l1" and later.kind == SHRINKS)
    if earlier.kind == "l1":
        return later.kind in ("l1", "l2", "linf", "squares")
    if later.kind == "squares":
        return earlier.kind == "squares" or (later.uniform and _covers(later, earlier))
    if later.kind == "l2":
        return later.uniform and earlier.kind in ("l2", "linf") and _inside(earlier, later)
    nested = later.kind == earlier.kind == "linf" and _inside(earlier, later)
    return nested and earlier.uniform and later.uniform


def _covers(whole: Atom, part: Atom) -> bool:
    """Whether each entry of the one is an entry of the other."""
    empty = torch.full((1,), -1)
    return all(
        bool((whole.owners.get(id, empty.expand_as(owners))[owners >= 0] >= 0).all())
        for id, owners in part.owners.items()
    )


def _disjoint(first: Atom, second: Atom) -> bool:
    shared = set(first.tensors) & set(second.tensors)
    return not any(bool(((first.owners[id] >= 0) & (second.owners[id] >= 0)).any()) for id in shared)


def _inside(inner: Atom, outer: Atom) -> bool:
    """Whether each group of the one is within one of the other."""
    pairs = []
    for id, owners in inner.owners.items():
        around = outer.owners.get(id)
        around = torch.full_like(owners, -1) if around is None else around
        held = owners >= 0
        pairs.append(torch.stack([owners[held], around[held]], 1))
    within, around = torch.cat(pairs).T
    order = within.argsort(stable=True)
    same = within[order][1:] == within[order][:-1]
    return bool((around[order][1:] == around[order][:-1])[same].all())


def _in_turns(atoms: Sequence[Atom], weights: ById, steps: ById) -> dict[str, Tensor]:
    ordered = sorted(atoms, key=_rank)
    current = dict(weights)
    left = [{id: torch.zeros_like(weights[id]) for id in atom.tensors} for atom in ordered]
    scale = max(1e-300, *(float(weight.abs().max()) for weight in weights.values()))
    zero: dict[str, Tensor] = {}
    for _ in range(_TURNS):
        change = 0.0
        zero = {id: torch.zeros_like(weight, dtype=torch.bool) for id, weight in weights.items()}
        for number, atom in enumerate(ordered):
            moved = {**current, **{id: current[id] + left[number][id] for id in atom.tensors}}
            found = atom.operator(moved, steps)
            for id in atom.tensors:
                left[number][id] = moved[id] - found[id]
                change = max(change, float((found[id] - current[id]).abs().max()))
                if not atom.bound:
                    zero[id] |= found[id] == 0
                current[id] = found[id]
        if change <= _RESTS_AT * scale:
            break
    if any(atom.bound and atom.kind != SHRINKS for atom in atoms):
        return current
    return {id: torch.where(zero[id], 0.0, current[id]) for id in current}


__all__ = ["SHRINKS", "Atom", "composed", "in_order"]
