"""How strongly the states of a loop read one another: the absolute row sums of A, from its structure.

Linear states of a loop are folded: what they read is read through them. A way from one state to
another is a chain of constant operators, whose induced ∞-norm is known, and of parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from implicit_dsl.certify.schedule import Component
from implicit_dsl.demands import Matrix, MatrixTerm
from implicit_dsl.graph import Edge, SignalGraph
from implicit_dsl.operators import activation_rule, linear_rule
from implicit_dsl.operators.base import Operator

MOST_WAYS = 4096  # through the linear states of one loop; beyond it nothing is proved by structure


@dataclass(frozen=True, slots=True)
class Tensor:
    """A parameter on a way; `axis` is the axis of its rows. `aligned`: row o of the tensor makes
    channel o of the state, on axis `channel` of its shape (None: not so)."""

    id: str
    transposed: bool
    channel: int | None


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which a state reads another. `factor` is the ∞-norm of all constant operators on
    it, None if one of them has no bound; `sign` the factor of its scalings, if there is nothing else."""

    source: str
    factor: float | None
    tensors: tuple[Tensor, ...]  # the first applied first
    edge: Edge
    sign: float | None = 1.0

    def gain(self, bounds: Mapping[str, float]) -> float | None:
        """The induced ∞-norm, if that of each parameter is at most its bound."""
        if self.factor is None or any(tensor.id not in bounds for tensor in self.tensors):
            return None
        return self.factor * prod(bounds[tensor.id] for tensor in self.tensors)


Ways = dict[str, tuple[Way, ...]]


def ways(graph: SignalGraph, loop: Component) -> Ways | None:
    """For each state of a loop that is not folded, how it reads the others. None: too many ways."""
    inside = set(loop.states)
    reads: dict[str, list[Edge]] = {name: [] for name in loop.states}
    for edge in graph.edges:
        if edge.target in inside and edge.source in inside:
            reads[edge.target].append(edge)
    found: Ways = {}
    total = 0
    for name in loop.states:  # the linear ones come behind what they read
        made: list[Way] = []
        for edge in reads[name]:
            assert edge.source is not None
            own = _way(edge)
            if is_folded(graph, loop, edge.source):
                made += [_joined(way, own) for way in found[edge.source]]
            else:
                made.append(own)
        total += len(made)
        if total > MOST_WAYS:
            return None
        found[name] = tuple(made)
    return {name: found[name] for name in loop.states if not is_folded(graph, loop, name)}


def is_folded(graph: SignalGraph, loop: Component, name: str) -> bool:
    """Whether a state of a loop is linear and follows from the others."""
    return graph.by_name[name].activation is None and name not in loop.iterated


def activation_gain(activation: Operator | None) -> float | None:
    """The Lipschitz constant of φ in the ∞-norm, or None."""
    return 1.0 if activation is None else activation_rule(activation).gain(activation)


def _way(edge: Edge) -> Way:
    factor: float | None = 1.0
    sign: float | None = 1.0
    tensors: list[Tensor] = []
    for operator in edge.chain:
        weight = operator.parameter("weight")
        bounds = {weight: 1.0} if weight is not None else {}
        gain = linear_rule(operator).gain(operator, bounds)
        factor = None if factor is None or gain is None else factor * gain
        if weight is not None:
            tensors.append(_tensor(operator, weight))
        else:
            tensors = [_behind(tensor, operator) for tensor in tensors]
        if operator.kind == "scale":
            sign = None if sign is None else sign * float(operator["factor"])
        elif weight is None or operator.kind not in ("matrix", "dense"):
            sign = None
    assert edge.source is not None
    return Way(edge.source, factor, tuple(tensors), edge, sign)


def _tensor(operator: Operator, id: str) -> Tensor:
    transposed = operator.kind == "matrix" and bool(operator["transposed"])
    channel = len(operator.target) - 1 if operator.kind in ("matrix", "dense") else 0
    return Tensor(id, transposed, channel)


def _behind(tensor: Tensor, operator: Operator) -> Tensor:
    """The rows of a tensor once a constant operator has been applied to what it gives."""
    keeps = operator.kind == "scale" or (
        tensor.channel == 0 and operator.kind in ("avg_pool", "upsample", "dropout")
    )
    return tensor if keeps else replace(tensor, channel=None)


def _joined(first: Way, then: Way) -> Way:
    factor = None if first.factor is None or then.factor is None else first.factor * then.factor
    sign = None if first.sign is None or then.sign is None else first.sign * then.sign
    before = tuple(replace(tensor, channel=None) if then.tensors else tensor for tensor in first.tensors)
    if not then.tensors:
        for operator in then.edge.chain:
            before = tuple(_behind(tensor, operator) for tensor in before)
    return Way(first.source, factor, (*before, *then.tensors), then.edge, sign)


def matrix_of(found: Ways) -> Matrix | None:
    """The matrix of a loop with one state as a sum of products of parameters, if it is one."""
    if len(found) != 1:
        return None
    (listed,) = found.values()
    terms: list[MatrixTerm] = []
    for way in listed:
        if way.sign is None:
            if len(way.tensors) != 1 or way.factor != 1.0:
                return None
            terms.append(MatrixTerm(1.0, ((way.tensors[0].id, way.tensors[0].transposed),)))
            continue
        factors = tuple((tensor.id, tensor.transposed) for tensor in reversed(way.tensors))
        terms.append(MatrixTerm(way.sign, factors))
    return tuple(terms)
