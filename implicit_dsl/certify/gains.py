"""How strongly the states of a loop read one another: the absolute row sums of A, from its structure.

Linear states of a loop are folded: what they read is read through them. A way from one state to
another is a chain of constant operators, whose induced ∞-norm is known, and of parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import TypeAlias

from implicit_dsl.demands import Matrix, MatrixTerm
from implicit_dsl.graph import Edge, Node, SignalGraph
from implicit_dsl.operators import activation_rule, linear_rule
from implicit_dsl.operators.base import Operator
from implicit_dsl.schedule import Component

MOST_WAYS = 4096  # through the linear states of one loop; beyond it nothing is proved by structure

_MATRICES = ("matrix", "dense", "structured")  # full or not, on the last axis

Axes: TypeAlias = tuple[int | None, ...]  # for each axis of a value, which axis of another one it is


@dataclass(frozen=True, slots=True)
class Tensor:
    """A parameter on a way. `rows` is the axis of the state that its rows count: what stands at o
    along it is made by row o of the tensor alone. `columns` is that of the source. None: not so."""

    id: str
    transposed: bool
    rows: int | None
    columns: int | None

    @property
    def key(self) -> str:
        """Its id, with a prime if it is transposed: what a bound of its rows goes by."""
        return f"{self.id}'" if self.transposed else self.id


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which a state reads another. `factor` is the ∞-norm of all constant operators on
    it, None if one of them has no bound; `sign` the factor of its scalings, if there is nothing else.
    `axes`: those along which what stands at one index reads from the same index alone. `fixed`: one of
    these operators is a parameter that is not trained."""

    source: str
    factor: float | None
    tensors: tuple[Tensor, ...]  # the first applied first
    edge: Edge
    sign: float | None = 1.0
    axes: Axes = ()
    fixed: bool = False

    def gain(self, bounds: Mapping[str, float]) -> float | None:
        """The induced ∞-norm, if that of each parameter is at most its bound."""
        if self.factor is None or any(tensor.key not in bounds for tensor in self.tensors):
            return None
        return self.factor * prod(bounds[tensor.key] for tensor in self.tensors)


Ways = dict[str, tuple[Way, ...]]


def ways(graph: SignalGraph, loop: Component, apart: bool = False) -> Ways | None:
    """For each state of a loop that is not folded, how it reads the others. None: too many ways.

    With `apart`, a state between two parameters is not folded, so that no way is a product of both.
    """
    inside = set(loop.states)
    reads: dict[str, list[Edge]] = {name: [] for name in loop.states}
    for edge in graph.edges:
        if edge.target in inside and edge.source in inside:
            reads[edge.target].append(edge)
    between = _between(graph, reads) if apart else frozenset()
    kept = [name for name in loop.states if name in between or not is_folded(graph, loop, name)]
    found: Ways = {}
    total = 0
    for name in loop.states:  # the linear ones come behind what they read
        made: list[Way] = []
        for edge in reads[name]:
            assert edge.source is not None
            own = _way(graph, edge)
            if edge.source not in kept:
                made += [_joined(way, own) for way in found[edge.source]]
            else:
                made.append(own)
        total += len(made)
        if total > MOST_WAYS:
            return None
        found[name] = tuple(made)
    return {name: found[name] for name in kept}


def _between(graph: SignalGraph, reads: Mapping[str, list[Edge]]) -> frozenset[str]:
    """Linear states behind a parameter, also through others, that are read through one themselves."""
    trained = {one.id for one in graph.parameters if one.id not in graph.fixed_norms}
    behind: set[str] = set()  # linear states behind a parameter
    found: set[str] = set()
    for name, edges in reads.items():
        for edge in edges:
            held = not trained.isdisjoint(edge.parameters)
            if held and edge.source in behind:
                found.add(edge.source)
            if graph.by_name[name].activation is None and (held or edge.source in behind - found):
                behind.add(name)
    return frozenset(found)


def is_folded(graph: SignalGraph, loop: Component, name: str) -> bool:
    """Whether a state of a loop is linear and follows from the others."""
    return graph.by_name[name].activation is None and name not in loop.iterated


def activation_gain(activation: Operator | None) -> float | None:
    """The Lipschitz constant of φ in the ∞-norm, or None."""
    return 1.0 if activation is None else activation_rule(activation).gain(activation)


def _way(graph: SignalGraph, edge: Edge) -> Way:
    assert edge.source is not None
    fixed = False
    factor: float | None = 1.0
    sign: float | None = 1.0
    axes: Axes = tuple(range(len(graph.by_name[edge.source].shape)))
    tensors: list[Tensor] = []
    for operator in edge.chain:
        weight = operator.parameter("weight")
        norms = None if weight is None else graph.fixed_norms.get(weight)
        rows, columns = norms or (1.0, 1.0)
        bounds = {} if weight is None else {weight: rows, f"{weight}'": columns}
        gain = linear_rule(operator).gain(operator, bounds)
        factor = None if factor is None or gain is None else factor * gain
        if norms is not None:  # nothing is trained, so that it is what it is
            fixed = True
            tensors = [replace(tensor, rows=None) for tensor in tensors]
            axes = (None,) * len(operator.target)
        elif weight is not None:
            tensors.append(_tensor(operator, weight, axes))
            axes = (None,) * len(operator.target)
        else:
            kept = linear_rule(operator).follows(operator)
            tensors = [replace(tensor, rows=_moved(tensor.rows, kept)) for tensor in tensors]
            axes = _composed(kept, axes)
        if operator.kind == "scale":
            sign = None if sign is None else sign * float(operator["factor"])
        elif weight is None or norms is not None or operator.kind not in _MATRICES:
            sign = None
    return Way(edge.source, factor, tuple(tensors), edge, sign, axes, fixed)


def _tensor(operator: Operator, id: str, axes: Axes) -> Tensor:
    """The parameter of an operator; `axes` are those of its input in the source of its way."""
    transposed = linear_rule(operator).transposed(operator)
    full = operator.kind in _MATRICES
    columns = len(operator.source) - 1 if full else 0
    whole = full or (operator.kind in ("conv", "conv_transpose") and operator["groups"] == 1)
    rows = len(operator.target) - 1 if full else operator.get("first", 0)
    if transposed and not whole:
        return Tensor(id, transposed, None, None)  # axis 1 of the kernel counts the channels of one group
    return Tensor(id, transposed, rows, axes[columns] if whole else None)


def _composed(then: Axes, first: Axes) -> Axes:
    return tuple(None if axis is None else first[axis] for axis in then)


def _moved(axis: int | None, axes: Axes) -> int | None:
    """Where an axis of the input is in the output."""
    return None if axis is None or axis not in axes else axes.index(axis)


def _joined(first: Way, then: Way) -> Way:
    factor = None if first.factor is None or then.factor is None else first.factor * then.factor
    sign = None if first.sign is None or then.sign is None else first.sign * then.sign
    inner, outer = first.axes, then.axes
    before = tuple(replace(tensor, rows=_moved(tensor.rows, outer)) for tensor in first.tensors)
    after = tuple(
        replace(tensor, columns=None if tensor.columns is None else inner[tensor.columns])
        for tensor in then.tensors
    )
    return Way(
        first.source,
        factor,
        (*before, *after),
        then.edge,
        sign,
        _composed(outer, inner),
        first.fixed or then.fixed,
    )


def misaligned(graph: SignalGraph, found: Ways) -> Way | None:
    """A way that keeps a vector over channels from bounding a loop, if there is one."""
    return next(iter(_misaligned(graph, found).values()), None)


def wholes(graph: SignalGraph, found: Ways) -> frozenset[str]:
    """The states on which a vector that bounds a loop has to be constant: they have no channels."""
    return frozenset(_misaligned(graph, found))


def _misaligned(graph: SignalGraph, found: Ways) -> dict[str, Way]:
    """States whose channels do not stay what they are, each with a way on which they do not.

    Let v depend on the channel only, and N[o, c] = Σ |T[o, c, …]|. Then |A| v ≤ N v if all parameters
    agree on which axis of each state counts its channels, and no activation mixes these: softmax over
    channels has the constant ½ in the ∞-norm, but none in a weighted one.
    """
    channels: dict[str, int] = {}
    odd: dict[str, Way] = {}
    for name, listed in found.items():
        through = _of_activation(graph.by_name[name])
        for way in listed:
            for tensor in way.tensors:
                for state, axis in ((name, _moved(tensor.rows, through)), (way.source, tensor.columns)):
                    if axis is None or channels.setdefault(state, axis) != axis:
                        odd.setdefault(state, way)
    return odd


def _of_activation(node: Node) -> Axes:
    """For each axis of a state, the axis of its slots that it follows index by index."""
    if node.activation is None:
        return tuple(range(len(node.shape)))
    return activation_rule(node.activation).axes(node.activation)


def matrix_of(found: Ways) -> Matrix | None:
    """The matrix of a loop with one state as a sum of products of parameters, if it is one."""
    if len(found) != 1:
        return None
    (listed,) = found.values()
    terms: list[MatrixTerm] = []
    for way in listed:
        if way.sign is None:
            if len(way.tensors) != 1 or way.factor != 1.0 or way.fixed:
                return None
            terms.append(MatrixTerm(1.0, ((way.tensors[0].id, way.tensors[0].transposed),)))
            continue
        factors = tuple((tensor.id, tensor.transposed) for tensor in reversed(way.tensors))
        terms.append(MatrixTerm(way.sign, factors))
    return tuple(terms)
