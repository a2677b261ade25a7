"""Equations of a step in a canonical form: sums of products, entry by entry, over what the step is given.

However an equation is written, with names for its parts or without, in one product with a matrix whose rows
are sliced or in several, over a concatenation or not, its form is the same. So cells are recognised by
what they compute. Only vectors have one; `NoFormError` is raised for all else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from implicit_dsl.model import Block, Term
from implicit_dsl.operators.base import Operator
from implicit_dsl.operators.structured import set_of

_MOST, _LONGEST = 64, 20_000  # summands of one form, and letters that it is written with


class NoFormError(Exception):
    """A value that has no canonical form."""


@dataclass(frozen=True, slots=True)
class Given:
    """Entries of a vector that the step gets: from `first` on, `size` of them."""

    name: str
    first: int
    size: int


@dataclass(frozen=True, slots=True)
class Offset:
    """Entries of a vector of parameters."""

    id: str
    first: int
    size: int


@dataclass(frozen=True, slots=True)
class Applied:
    """An activation, entry by entry."""

    phi: str
    to: Sum


@dataclass(frozen=True, slots=True)
class Times:
    """Rows and columns of a matrix of parameters, each (first, how many), times a product of factors."""

    operator: Operator
    rows: tuple[int, int]
    columns: tuple[int, int]
    to: Monomial


Factor: TypeAlias = "Given | Offset | Applied | Times"
Monomial: TypeAlias = "tuple[Factor, ...]"
Sum: TypeAlias = "tuple[tuple[Monomial, float], ...]"  # in a fixed order
Vector: TypeAlias = "tuple[tuple[int, Sum], ...]"  # parts side by side, each with its size

_ENTRY_BY_ENTRY = ("tanh", "sigmoid", "relu")


State: TypeAlias = "tuple[Block, tuple[Term, ...]]"


class Equations:
    """The canonical forms of the states of a step.

    All other values are given to it. Those in `seen_through` are so if they have no form of their own.
    """

    def __init__(self, states: Mapping[str, State], seen_through: Mapping[str, State]) -> None:
        self._states = states
        self._seen_through = seen_through
        self._known: dict[str, Vector] = {}

    def sum_of(self, name: str, size: int) -> Sum:
        """The form of a vector that is not made of parts. Raises NoFormError."""
        value = self._value(name, (size,))
        if len(value) != 1:
            raise NoFormError
        return value[0][1]

    def _value(self, name: str, shape: tuple[object, ...]) -> Vector:
        if name not in self._known:
            self._known[name] = self._found(name, shape)
        return self._known[name]

    def _found(self, name: str, shape: tuple[object, ...]) -> Vector:
        if name in self._states:
            return self._state(*self._states[name])
        try:
            if name in self._seen_through:
                return self._state(*self._seen_through[name])
        except NoFormError:
            pass
        size = _length(shape)
        return ((size, _one(Given(name, 0, size))),)

    def _state(self, block: Block, terms: tuple[Term, ...]) -> Vector:
        kind = "identity" if block.activation is None else block.activation.kind
        if kind == "product":
            slots: dict[object, list[Vector]] = {}
            for term in terms:
                if term.chain[-1].kind != "slot" or term.chain[-1].get("empty", False):
                    raise NoFormError
                slots.setdefault(term.chain[-1]["start"], []).append(self._term(term, term.chain[:-1]))
            if len(slots) != 2:
                raise NoFormError
            return _merged(_together(_product, [_total(parts) for parts in slots.values()]))
        total = _total([self._term(term, term.chain) for term in terms])
        if kind == "identity":
            return total
        if kind not in _ENTRY_BY_ENTRY:
            raise NoFormError
        return _merged((size, _one(Applied(kind, part))) for size, part in total)

    def _term(self, term: Term, chain: tuple[Operator, ...]) -> Vector:
        if term.source is None:
            first, *others = chain
            size = _length(first.target)
            if first.kind == "constant":
                value: Vector = ((size, (((), float(first["value"])),)),)
            elif first.kind == "offset":
                value = ((size, _one(Offset(_weight(first), 0, size))),)
            else:
                raise NoFormError
        else:
            others = list(chain)
            value = self._value(term.source, chain[0].source if chain else self._shape(term))
        for operator in others:
            value = _applied(operator, value)
        return value

    def _shape(self, term: Term) -> tuple[object, ...]:
        block, _ = self._states.get(term.target) or self._seen_through[term.target]
        if block.activation is None or block.activation.kind in _ENTRY_BY_ENTRY:
            return block.shape
        return block.activation.source[1:]  # one of two slots


def _length(shape: tuple[object, ...]) -> int:
    if len(shape) != 1 or not isinstance(shape[0], int):
        raise NoFormError
    return shape[0]


def _weight(operator: Operator) -> str:
    weight = operator.parameter("weight")
    assert weight is not None, "it has a parameter"
    return weight


def _one(factor: Factor) -> Sum:
    return (((factor,), 1.0),)


def _collected(pairs: Iterable[tuple[Monomial, float]]) -> Sum:
    """A sum in which each product of factors stands once."""
    found: dict[Monomial, float] = {}
    for monomial, coefficient in pairs:
        found[monomial] = found.get(monomial, 0.0) + coefficient
    written = {monomial: repr(monomial) for monomial, coefficient in found.items() if coefficient}
    if len(written) > _MOST or sum(map(len, written.values())) > _LONGEST:
        raise NoFormError
    return tuple((monomial, found[monomial]) for monomial in sorted(written, key=written.__getitem__))


def multiplied(factors: Iterable[Factor]) -> Monomial:
    """A product of factors, in a fixed order."""
    return tuple(sorted(factors, key=repr))


def _added(parts: list[Sum]) -> Sum:
    return _collected(pair for part in parts for pair in part)


def _product(parts: list[Sum]) -> Sum:
    a, b = parts
    return _collected((multiplied((*m, *n)), p * q) for m, p in a for n, q in b)


def _scaled(part: Sum, factor: float) -> Sum:
    return _collected((monomial, factor * coefficient) for monomial, coefficient in part)


def _total(values: list[Vector]) -> Vector:
    return _merged(_together(_added, values))


def _together(function: Callable[[list[Sum]], Sum], values: list[Vector]) -> Vector:
    """A function of vectors entry by entry, each cut where one of them is."""
    ends = sorted({end for value in values for end in _ends(value)})
    sizes = {value and _ends(value)[-1] for value in values}
    if len(sizes) != 1:
        raise NoFormError
    cuts = list(zip([0, *ends], ends))
    return tuple((b - a, function([_sliced(value, a, b - a)[0][1] for value in values])) for a, b in cuts)


def _ends(value: Vector) -> list[int]:
    ends, at = [], 0
    for size, _ in value:
        at += size
        ends.append(at)
    return ends


def _sliced(value: Vector, first: int, size: int) -> Vector:
    """Entries of a vector."""
    found = []
    at = 0
    for length, part in value:
        low, high = max(first, at), min(first + size, at + length)
        if low < high:
            found.append((high - low, part if high - low == length else _cut(part, low - at, high - low)))
        at += length
    return tuple(found)


def _cut(part: Sum, first: int, size: int) -> Sum:
    return _collected(
        (multiplied(_cut_factor(factor, first, size) for factor in monomial), coefficient)
        for monomial, coefficient in part
    )


def _cut_factor(factor: Factor, first: int, size: int) -> Factor:
    match factor:
        case Given(name, start, _):
            return Given(name, start + first, size)
        case Offset(id, start, _):
            return Offset(id, start + first, size)
        case Applied(phi, to):
            return Applied(phi, _cut(to, first, size))
        case Times(operator, (start, _), columns, to):
            return Times(operator, (start + first, size), columns, to)


def _merged(parts: Iterable[tuple[int, Sum]]) -> Vector:
    """The parts of a vector, where those that continue one another are one."""
    found: list[tuple[int, Sum]] = []
    for size, part in parts:
        if found:
            before, joined = found[-1][0], _joined(found[-1][1], part, found[-1][0], size)
            if joined is not None:
                found[-1] = (before + size, joined)
                continue
        found.append((size, part))
    return tuple(found)


def _joined(one: Sum, other: Sum, before: int, size: int) -> Sum | None:
    """What two parts side by side are parts of, if they are."""
    for pairs in (one, other):
        if any(len(monomial) != 1 or not isinstance(monomial[0], Given | Offset) for monomial, _ in pairs):
            return None
    longer = _collected(((_longer(m[0], before + size),), c) for m, c in one)
    return longer if _cut(longer, before, size) == other and len(one) == len(other) else None


def _longer(factor: Factor, size: int) -> Factor:
    if isinstance(factor, Given):
        return Given(factor.name, factor.first, size)
    assert isinstance(factor, Offset), "nothing else is joined"
    return Offset(factor.id, factor.first, size)


def _applied(operator: Operator, value: Vector) -> Vector:
    match operator.kind:
        case "scale":
            return tuple((size, _scaled(part, float(operator["factor"]))) for size, part in value)
        case "diagonal" if len(operator.source) == 1 and operator["axes"] == 1:
            size = _length(operator.source)
            return _together(_product, [value, ((size, _one(Offset(_weight(operator), 0, size))),)])
        case "select" if len(operator.source) == 1:
            (piece,) = operator["slices"]
            if piece is None:
                return value
            if isinstance(piece, int) or piece[1] != 1:
                raise NoFormError
            return _merged(_sliced(value, piece[0], piece[2]))
        case "place" if len(operator.source) == 1:
            before, size = int(operator["start"]), _length(operator.source)
            behind = _length(operator.target) - before - size
            nothing: Sum = ()
            sides = [((n, nothing),) if n else () for n in (before, behind)]
            return (*sides[0], *value, *sides[1])
        case "structured" if len(operator.source) == 1 and set_of(operator).is_diagonal:
            if operator.source != operator.target:
                raise NoFormError
            size = _length(operator.source)
            return _together(_product, [value, ((size, _one(Offset(_weight(operator), 0, size))),)])
        case "dense" | "matrix" | "structured" if len(operator.source) == 1:
            return _times(operator, value)
    raise NoFormError


def _times(operator: Operator, value: Vector) -> Vector:
    rows = _length(operator.target)
    pairs: list[tuple[Monomial, float]] = []
    at = 0
    for size, part in value:
        for monomial, coefficient in part:
            if not monomial:
                raise NoFormError
            pairs.append(((Times(operator, (0, rows), (at, size), monomial),), coefficient))
        at += size
    bias = operator.parameter("bias")
    if bias is not None:
        pairs.append(((Offset(bias, 0, rows),), 1.0))
    return ((rows, _collected(pairs)),)


def mentions(form: Sum | Monomial, names: Collection[str]) -> bool:
    """Whether a form depends on any of some values that the step is given."""
    factors = (factor for part in form for factor in _factors(part))
    return any(_mentioned(factor, names) for factor in factors)


def _factors(part: tuple[Monomial, float] | Factor) -> Monomial:
    return part[0] if isinstance(part, tuple) else (part,)


def _mentioned(factor: Factor, names: Collection[str]) -> bool:
    match factor:
        case Given(name):
            return name in names
        case Applied(_, to) | Times(_, _, _, to):
            return mentions(to, names)
    return False
