"""What the structure of a loop proves: a guarantee for all weights that its constraints admit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from implicit_dsl.certify.constraints import counts_wholes, sole
from implicit_dsl.certify.contraction import Row, perron_root, swept
from implicit_dsl.certify.gains import Way, Ways, activation_gain, matrix_of, misaligned, ways
from implicit_dsl.certify.reports import (
    no_guarantee,
    not_below_one,
    not_by_channels,
    not_this_matrix,
    unbounded_activation,
    wrong_activation,
)
from implicit_dsl.certify.structure import (
    by_construction,
    held_in,
    is_triangular,
    largest_norm,
    largest_symmetric,
)
from implicit_dsl.demands import Demand, Matrix
from implicit_dsl.errors import Diagnostic
from implicit_dsl.graph import SignalGraph
from implicit_dsl.guarantees import Guarantee
from implicit_dsl.operators import activation_rule
from implicit_dsl.operators.base import Operator
from implicit_dsl.schedule import Component


@dataclass(frozen=True, slots=True)
class Proof:
    """A guarantee, and the contraction rate in the ∞-norm, where one is proved."""

    guarantee: Guarantee
    rate: float | None = None


def prove(graph: SignalGraph, loop: Component, demands: Sequence[Demand]) -> Proof | Diagnostic:
    """The guarantee of a loop under the demands that apply to it, or why there is none."""
    if any(demand.criterion == "unchecked" for demand in demands):
        return Proof(Guarantee.UNCHECKED)
    found = ways(graph, loop)
    if found is None:
        return no_guarantee(graph, loop, None, "its states read one another in more ways than can be listed")
    bounding = [demand for demand in demands if demand.criterion != "prove"]
    if not bounding and is_triangular(graph, found):
        return Proof(Guarantee.TRIANGULAR)
    made = _by_demands(graph, loop, found, demands)  # row sums give a rate, sets alone do not
    return _by_structure(graph, found) or made if isinstance(made, Diagnostic) else made


def _by_structure(graph: SignalGraph, found: Ways) -> Proof | None:
    """What the sets prove that the parameters of a loop with one state are in, without any bound."""
    if is_triangular(graph, found):
        return Proof(Guarantee.TRIANGULAR)
    matrix = matrix_of(found)
    if matrix is None:
        return None
    (name,) = found
    low, high = _slope(graph.by_name[name].activation)
    if low is None or high is None:
        return None
    norm = largest_norm(matrix, held_in(graph))
    if norm is not None and norm * max(abs(low), abs(high)) < 1:
        return Proof(Guarantee.SPECTRAL)
    largest = largest_symmetric(matrix, held_in(graph))
    if largest is not None and largest < 1 and 0 <= low and high <= 1:
        return Proof(Guarantee.MONOTONE)
    return None


def _by_demands(
    graph: SignalGraph, loop: Component, found: Ways, demands: Sequence[Demand]
) -> Proof | Diagnostic:
    for name in found:
        gain = activation_gain(graph.by_name[name].activation)
        if gain is None:
            return unbounded_activation(graph, loop, name, demands)
    for demand in demands:
        match demand.criterion:
            case "norm" if demand.matrix is None:
                return _by_gains(graph, loop, found, demands, demand)
            case "pf" | "spectral" | "monotone" | "nemon":
                made = _by_criterion(graph, loop, found, demand)
                if made is not None:
                    return made
    return _by_gains(graph, loop, found, demands, None)


def _by_gains(
    graph: SignalGraph, loop: Component, found: Ways, demands: Sequence[Demand], whole: Demand | None
) -> Proof | Diagnostic:
    """A block norm: |Δxᵢ|∞ ≤ Lip(φᵢ) Σⱼ ‖Aᵢⱼ‖∞ |Δxⱼ|∞, a contraction if these gains have Perron root < 1.

    `whole` bounds the rows of A that hold parameters; the others are as their operators make them.
    """
    bounds, joint = _bounds(demands)
    table: dict[str, Row] = {}
    for name, listed in found.items():
        lipschitz = activation_gain(graph.by_name[name].activation)
        assert lipschitz is not None
        most = math.inf
        if whole is not None and any(way.tensors for way in listed):
            most = whole.bound * lipschitz
            if not most < 1:
                return not_below_one(graph, loop, whole, name, lipschitz, most)
        shared = _shared(listed, joint)
        gains: dict[str, float] = {}
        for way in listed:
            gain = way.gain(bounds)
            if gain is None and most == shared == math.inf:
                return no_guarantee(graph, loop, way, "")
            gains[way.source] = gains.get(way.source, 0.0) + lipschitz * (math.inf if gain is None else gain)
        if shared < math.inf:
            (source,) = gains
            gains[source] = min(gains[source], lipschitz * shared)
        table[name] = Row(gains, most)
    rate = swept(table, loop.iterated)
    if rate < 1:
        return Proof(Guarantee.GAIN, rate)
    root = perron_root(table)
    if root < 1:
        return Proof(Guarantee.GAIN)
    bounding = next((demand for demand in demands if demand.criterion == "norm"), None)
    if bounding is not None:
        fixed = next((name for name, listed in found.items() if not any(way.tensors for way in listed)), "")
        return not_below_one(graph, loop, bounding, fixed or loop.iterated[0], None, root, fixed)
    return no_guarantee(graph, loop, None, f"its gain is {root:.4g}, which is not below 1")


Chain: TypeAlias = tuple[str, ...]  # the factors of a product by their keys, the last applied first
Joint: TypeAlias = list[tuple[list[tuple[Chain, float]], float]]  # sums of products, and their bounds


def _bounds(demands: Sequence[Demand]) -> tuple[dict[str, float], Joint]:
    """What is demanded of single parameters, and of sums of several: see `constraints.of_matrix`."""
    bounds: dict[str, float] = {}
    joint: Joint = []
    for demand in demands:
        if demand.criterion != "norm" or demand.matrix is None:
            continue
        terms = [term for term in demand.matrix if term.tensors and term.factor]
        chains = [tuple(id + "'" * turned for id, turned in term.tensors) for term in terms]
        for (first, *inner), term in zip(chains, terms):
            most = {first: demand.bound / abs(term.factor)}
            for key, bound in (*most.items(), *((key, 1.0) for key in inner)):
                bounds[key] = min(bound, bounds.get(key, bound))
        joint.append((sorted(zip(chains, (abs(term.factor) for term in terms))), demand.bound))
    return bounds, joint


def _shared(ways: tuple[Way, ...], joint: Joint) -> float:
    """The gain of a state that reads one source through the matrices of one bounded sum, row by row.

    ∞ if there is no such sum.
    """
    held = [(way, way.factor) for way in ways if way.tensors and way.factor is not None]
    if len(held) != len(ways) or len({way.source for way in ways}) != 1:
        return math.inf
    rows = {way.tensors[-1].rows for way in ways}
    if len(ways) > 1 and (len(rows) > 1 or rows == {None}):
        return math.inf
    mine = sorted((tuple(tensor.key for tensor in reversed(way.tensors)), factor) for way, factor in held)
    found = math.inf
    for theirs, bound in joint:
        if [chain for chain, _ in theirs] == [chain for chain, _ in mine]:
            times = max(factor / most for (_, factor), (_, most) in zip(mine, theirs))
            found = min(found, times * bound)
    return found


def _by_criterion(
    graph: SignalGraph, loop: Component, found: Ways, demand: Demand
) -> Proof | Diagnostic | None:
    """Perron root, singular value, monotonicity or matrix measure; None: it is about another matrix."""
    matrix = matrix_of(found)
    if demand.matrix is not None and (matrix is None or _sorted(demand.matrix) != _sorted(matrix)):
        if matrix is None or not _mentions(demand.matrix, matrix):
            return None
        return not_this_matrix(graph, loop, demand)
    if demand.criterion == "pf":
        if not any(way.tensors for listed in found.values() for way in listed):
            return None  # nothing can be bounded: what the operators are decides
        return _by_perron(graph, loop, found, demand)
    built = by_construction(graph, demand, [found])
    if not (built or sole(found, demand.criterion)):
        return not_this_matrix(graph, loop, demand)
    (name,) = found
    activation = graph.by_name[name].activation
    low, high = _slope(activation)
    if demand.criterion == "spectral":
        if low is None or high is None:
            return wrong_activation(graph, loop, name, demand, "has slopes entry by entry")
        gain = max(abs(low), abs(high))
        if not demand.bound * gain < 1:
            return not_below_one(graph, loop, demand, name, gain, demand.bound * gain)
        return Proof(Guarantee.SPECTRAL)
    if low is None or high is None or low < 0 or high > 1:
        return wrong_activation(graph, loop, name, demand, "is increasing with slopes of at most 1")
    if demand.criterion == "monotone":
        return Proof(Guarantee.MONOTONE)
    if not demand.bound < 1:
        return not_below_one(graph, loop, demand, name, 1.0, demand.bound)
    return Proof(Guarantee.MEASURE)


def _by_perron(graph: SignalGraph, loop: Component, found: Ways, demand: Demand) -> Proof | Diagnostic:
    if counts_wholes(demand):
        # it is kept of A with the linear states between parameters, whose slope is 1
        found = ways(graph, loop, apart=True) or found
    odd = misaligned(graph, found)
    if odd is not None and not counts_wholes(demand):
        return not_by_channels(graph, loop, demand, odd)
    name = max(found, key=lambda state: activation_gain(graph.by_name[state].activation) or 0.0)
    gain = activation_gain(graph.by_name[name].activation)
    assert gain is not None
    if not demand.bound * gain < 1:
        return not_below_one(graph, loop, demand, name, gain, demand.bound * gain)
    return Proof(Guarantee.PERRON)


def _slope(activation: Operator | None) -> tuple[float | None, float | None]:
    if activation is None:
        return 1.0, 1.0
    slope = activation_rule(activation).slope(activation)
    return (None, None) if slope is None else slope


def _sorted(matrix: Matrix) -> Counter[tuple[float, tuple[tuple[str, bool], ...]]]:
    return Counter((term.factor, term.tensors) for term in matrix)


def _mentions(demanded: Matrix, matrix: Matrix) -> bool:
    ids = {id for term in matrix for id, _ in term.tensors}
    return any(id in ids for term in demanded for id, _ in term.tensors)
