"""Tensors of the traced module, and how they lie in values of the language.

A tensor has a batch axis somewhere, may have it merged with others, and may be transposed and reshaped
many times; the value in the program has no batch axis, and moving its axes costs a line. So both are
described by **atoms**, factors of axes that are never taken apart: `stored` groups them as the axes of
the program's value, `axes` as those of the tensor. Reshapes and transposes change `axes` alone, and
a value is moved only where an operator needs its axes in another order. An axis of size 1 has no atoms.
Atoms in `axes` that are not in `stored` are repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TypeAlias

import torch

from implicit_dsl.translation import terms
from implicit_dsl.translation.terms import Declaration, Term


@dataclass(frozen=True, eq=False, slots=True)
class Atom:
    """A factor of an axis: a number above 1, or a size that is free, by its symbol."""

    size: int | str


BATCH = Atom("batch")
Axis: TypeAlias = tuple[Atom, ...]
Axes: TypeAlias = tuple[Axis, ...]


class Misfit(Exception):  # noqa: N818 (it is no error yet: the place is not known)
    """Axes that do not fit for this operator, with the reason and what helps."""

    def __init__(self, reason: str, help: str = "") -> None:
        super().__init__(reason)
        self.reason, self.help = reason, help


MIXES = Misfit(
    "it computes across the samples of a batch, and a program sees one sample at a time",
    "leave the batch axis out of it, or name the right one by `batch_axis`",
)


@dataclass(frozen=True, slots=True)
class Scores:
    """What queries and keys make before softmax: scale · q kᵀ, and the places that are left out."""

    query: Value
    key: Value
    scale: float
    keep: Value | None = None  # 1 where a key counts
    causal: bool = False  # keys behind the query do not count
    weights: bool = False  # behind softmax


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """A tensor: a term or numbers that are known, of the axes `stored`, seen with the axes `axes`."""

    term: Term | None
    stored: Axes
    axes: Axes
    constant: torch.Tensor | None = None  # its numbers, of the shape of `stored`
    parameter: str | None = None  # its name in the state_dict, of a parameter as it is
    parts: tuple[Value, ...] = ()  # of a stack along axis 0
    scores: Scores | None = None
    log: bool = False  # the tensor is the logarithm of this: 0 where it is 1, −∞ where it is 0

    @property
    def folded(self) -> bool:
        """Whether its numbers are known and nothing else stands for it."""
        return self.term is None

    @property
    def uniform(self) -> bool:
        """Whether it is one known number everywhere."""
        return self.folded and self.constant is not None and self.constant.ndim == 0

    @property
    def number(self) -> float:
        assert self.constant is not None
        return float(self.constant.item())


def flat(axes: Iterable[Axis]) -> Axis:
    return tuple(atom for axis in axes for atom in axis)


def without_batch(axes: Iterable[Axis]) -> Axes:
    """The axes without the batch, and without an axis that was nothing else."""
    return tuple(tuple(a for a in axis if a is not BATCH) for axis in axes if axis != (BATCH,))


def size(axis: Axis) -> int | str:
    """The size as the program writes it; `_` for a free one."""
    free = [atom for atom in axis if isinstance(atom.size, str)]
    return "_" if free else prod(atom.size for atom in axis if isinstance(atom.size, int))


def length(axis: Axis) -> int:
    """The size, which must be known."""
    known = size(axis)
    if isinstance(known, str):
        raise MIXES if BATCH in axis else Misfit("it needs to know the size of an axis that is free")
    return known


def atoms(*sizes: int | str) -> Axes:
    """Axes of new atoms."""
    return tuple(() if one == 1 else (Atom(one),) for one in sizes)


def constant(tensor: torch.Tensor) -> Value:
    """A tensor whose numbers are known."""
    kept = atoms(*tensor.shape)
    if tensor.numel() and bool((tensor == tensor.reshape(-1)[0]).all()):
        return Value(None, (), kept, tensor.reshape(-1)[0])
    return Value(None, kept, kept, tensor)


def renamed(value: Value, names: Mapping[Atom, Axis]) -> Value:
    """The same with some atoms replaced by others, or split into several."""

    def axes(old: Axes) -> Axes:
        return tuple(tuple(new for atom in axis for new in names.get(atom, (atom,))) for axis in old)

    return replace(value, stored=axes(value.stored), axes=axes(value.axes), parts=())


def fresh(value: Value) -> Value:
    """The same with atoms of its own, so that it can meet itself."""
    found = dict.fromkeys((*flat(value.stored), *flat(value.axes)))
    return renamed(value, {atom: (Atom(atom.size),) for atom in found if atom is not BATCH})


def seen(value: Value, axes: Axes) -> Value:
    """The same numbers, seen with other axes."""
    return replace(value, axes=axes, parts=(), parameter=None, scores=None)


# --------------------------------------------------------------------------- moving


def reshaped(value: Value, stored: Axes) -> Value:
    """Grouped otherwise: the order of atoms is the same."""
    if stored == value.stored:
        return value
    term, held = value.term, value.constant
    before, after = [size(axis) for axis in value.stored], [size(axis) for axis in stored]
    if term is not None and before != after:
        if "_" in after:
            raise Misfit("it needs axes of free sizes in another shape")
        if not after:
            term = terms.index(term, [1] * len(before))
        elif len(after) == 1:
            term = terms.call("flatten", term)
        else:
            term = terms.reshape(term, *after)
    if held is not None:
        held = held.reshape([length(axis) for axis in stored])
    return replace(value, term=term, constant=held, stored=stored, parameter=None, parts=())


def permuted(value: Value, order: Sequence[int]) -> Value:
    """The axes of the program in another order."""
    if list(order) == list(range(len(order))):
        return value
    term, held = value.term, value.constant
    if term is not None:
        if list(order) == [*range(len(order) - 2), len(order) - 1, len(order) - 2]:
            term = terms.call("transpose", term)
        else:
            term = terms.call("permute", term, *(terms.number(one + 1) for one in order))
    if held is not None:
        held = held.permute(*order)
    stored = tuple(value.stored[one] for one in order)
    return replace(value, term=term, constant=held, stored=stored, parameter=None, parts=())


def materialised(value: Value, wanted: Axes, like: Term | None = None) -> Value:
    """The same with the axes `wanted` in the program. Atoms that it lacks are repeated, as in `like`.

    `like` is a term whose axes are `wanted`. Raises Misfit where the sizes are free.
    """
    if value.stored == wanted:
        return value
    have, want = flat(value.stored), flat(wanted)
    missing = tuple(atom for atom in want if atom not in have)
    assert set(have) <= set(want), "an axis would be lost"
    if missing:
        return _repeated(value, wanted, missing, like)
    if have == want:
        return reshaped(value, wanted)
    whole, target = tuple(filter(None, value.stored)), tuple(filter(None, wanted))
    if set(whole) != set(target):  # axes are taken apart: move the longest runs
        target = _runs(have, want)
        whole = tuple(sorted(target, key=lambda run: have.index(run[0])))
    moved = permuted(reshaped(value, whole), [whole.index(axis) for axis in target])
    return reshaped(moved, wanted)


def _runs(have: Axis, want: Axis) -> Axes:
    """What follows one another in both, in the order of the second."""
    runs: list[list[Atom]] = []
    place = {atom: at for at, atom in enumerate(have)}
    for atom in want:
        if runs and place[atom] == place[runs[-1][-1]] + 1:
            runs[-1].append(atom)
        else:
            runs.append([atom])
    return tuple(map(tuple, runs))


def _repeated(value: Value, wanted: Axes, missing: Axis, like: Term | None) -> Value:
    kept = tuple(atom for atom in flat(wanted) if atom not in missing)
    if value.term is None:
        assert value.constant is not None
        narrow = materialised(value, tuple((atom,) for atom in kept))
        shape = [length((atom,)) if atom in kept else 1 for atom in flat(wanted)]
        assert narrow.constant is not None
        held = narrow.constant.reshape(shape).expand([length((atom,)) for atom in flat(wanted)])
        return replace(value, constant=held.reshape([length(axis) for axis in wanted]), stored=wanted)
    if like is not None and kept:
        return _expanded(value, wanted, kept, missing, like)
    total = prod(length((atom,)) for atom in missing)
    narrow = materialised(value, (*((atom,) for atom in kept), ()))
    ones = Declaration("param", f"repeat_{total}", f"[{total}, 1] = fixed(1)")
    wide = replace(
        narrow,
        term=terms.times(terms.name(ones), network_term(narrow)),
        stored=(*narrow.stored[:-1], missing),
        constant=None,
    )
    return materialised(wide, wanted)


def _expanded(value: Value, wanted: Axes, kept: Axis, missing: Axis, like: Term) -> Value:
    """By `expand(s, x)`: s is repeated over the axes that x has behind those of s."""
    model = Value(like, wanted, wanted)
    if any(set(axis) & set(kept) and set(axis) & set(missing) for axis in wanted):
        model = reshaped(model, tuple((atom,) for atom in flat(wanted)))
    own = tuple(axis for axis in model.stored if set(axis) & set(kept))
    rest = tuple(axis for axis in model.stored if axis not in own or not axis)
    model = materialised(model, (*own, *rest))
    narrow = materialised(value, own)
    assert narrow.term is not None and model.term is not None
    wide = replace(
        narrow, term=terms.call("expand", narrow.term, model.term), stored=(*own, *rest), constant=None
    )
    return materialised(wide, wanted)


# --------------------------------------------------------------------------- axes that operators need


def canonical(value: Value) -> Axes:
    """The axes of the tensor without the batch."""
    return without_batch(value.axes)


def whole(value: Value) -> Value:
    """With the axes of the tensor, which are those of the program, the batch apart."""
    return materialised(value, canonical(value))


def isolated(value: Value, dims: Iterable[int]) -> tuple[Value, list[int]]:
    """With each of these axes of the tensor as an axis of the program, and the places of these.

    Raises Misfit if one of them holds the batch.
    """
    chosen = [dim % max(1, len(value.axes)) for dim in dims]
    if any(BATCH in value.axes[dim] for dim in chosen):
        raise MIXES
    if all(value.axes[dim] and value.axes[dim] in value.stored for dim in chosen):
        return value, [value.stored.index(value.axes[dim]) for dim in chosen]
    moved = whole(value)
    places = [sum(axis != (BATCH,) for axis in value.axes[:dim]) for dim in chosen]
    return moved, places


def samples_first(value: Value, rank: int) -> tuple[Value, Axis]:
    """With the last `rank` axes of the tensor behind what else there is: `[items, …]`, or no items.

    The axis before these holds the batch, maybe merged with others, which are the items.
    """
    inner, outer = value.axes[len(value.axes) - rank :], value.axes[: len(value.axes) - rank]
    if any(BATCH in axis for axis in inner):
        raise MIXES
    items = tuple(atom for atom in flat(outer) if atom is not BATCH)
    return materialised(value, (items, *inner) if items else inner), items


# --------------------------------------------------------------------------- terms


def network_term(value: Value) -> Term:
    """The term that stands for a value, and not for a matrix, as a parameter does."""
    term = term_of(value)
    if not term.is_param or not value.stored:
        return term
    return terms.reshape(term, *map(size, value.stored))


def term_of(value: Value) -> Term:
    """The term that stands for a value; of known numbers, a number or a `fixed` parameter."""
    if value.log:
        raise Misfit("it reads -inf, which a program cannot have: only softmax of attention may")
    if value.term is not None:
        return value.term
    held = value.constant
    assert held is not None
    if held.ndim == 0:
        return terms.number(_real(held))
    shape = ", ".join(map(str, held.shape))
    if bool((held == held.reshape(-1)[0]).all()):
        listed = _listed(held.reshape(-1)[0])
        return terms.name(Declaration("param", "known", f"[{shape}] = fixed({listed})"))
    if held.numel() > LARGEST_LIST:
        if not bool(torch.isfinite(held.double()).all()):
            raise Misfit("it needs numbers that are not finite, which a program cannot have")
        kept = Declaration("param", "known", f"[{shape}]", note="not trained", numbers=held)
        return terms.name(kept)
    return terms.name(Declaration("param", "known", f"[{shape}] = fixed({_listed(held)})"))


LARGEST_LIST = 1024  # numbers that are written down; more are loaded as weights are


def _real(entry: torch.Tensor) -> float | int:
    found = entry.item()
    if isinstance(found, complex) or found != found or found in (float("inf"), float("-inf")):
        raise Misfit(f"it needs the number {found}, which a program cannot have")
    return float(found) if isinstance(found, float) else int(found)


def _listed(tensor: torch.Tensor) -> str:
    if tensor.ndim == 0:
        return terms.number(_real(tensor)).text
    return "[" + ", ".join(map(_listed, tensor)) + "]"
