"""What the structure of a loop proves: a guarantee for all weights that its constraints admit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from implicit_dsl.certify.gains import Way, Ways, activation_gain, matrix_of, ways
from implicit_dsl.certify.reports import (
    no_guarantee,
    not_below_one,
    not_this_matrix,
    unbounded_activation,
    wrong_activation,
)
from implicit_dsl.certify.schedule import Component
from implicit_dsl.demands import Demand, Matrix
from implicit_dsl.errors import Diagnostic
from implicit_dsl.graph import SignalGraph
from implicit_dsl.guarantees import Guarantee
from implicit_dsl.operators import activation_rule
from implicit_dsl.operators.base import Operator

_ROUNDING = 1 + 1e-12  # covers the rounding of gains computed in float64
_SWEEPS = 500  # of the power iteration on the gains of a loop


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
    for name in found:
        gain = activation_gain(graph.by_name[name].activation)
        if gain is None:
            return unbounded_activation(graph, loop, name, demands)
    for demand in demands:
        match demand.criterion:
            case "norm" if demand.matrix is None:
                return _by_rows(graph, loop, found, demand)
            case "pf" | "spectral" | "monotone" | "nemon":
                made = _by_criterion(graph, loop, found, demand)
                if made is not None:
                    return made
    return _by_gains(graph, loop, found, demands)


def _by_rows(graph: SignalGraph, loop: Component, found: Ways, demand: Demand) -> Proof | Diagnostic:
    """All rows of A at most κ: a contraction with κ times the Lipschitz constant of φ."""
    name = max(found, key=lambda state: activation_gain(graph.by_name[state].activation) or 0.0)
    gain = activation_gain(graph.by_name[name].activation)
    assert gain is not None
    rate = demand.bound * gain
    if not rate < 1:
        return not_below_one(graph, loop, demand, name, gain, rate)
    return Proof(Guarantee.GAIN, rate * _ROUNDING)


def _by_gains(
    graph: SignalGraph, loop: Component, found: Ways, demands: Sequence[Demand]
) -> Proof | Diagnostic:
    """A block norm: |Δxᵢ|∞ ≤ Lip(φᵢ) Σⱼ ‖Aᵢⱼ‖∞ |Δxⱼ|∞, a contraction if these gains have Perron root < 1."""
    bounds, joint = _bounds(demands)
    table: dict[str, dict[str, float]] = {}
    for name, listed in found.items():
        lipschitz = activation_gain(graph.by_name[name].activation)
        assert lipschitz is not None
        shared = _shared(listed, joint)
        if shared is not None:
            table[name] = {listed[0].source: lipschitz * shared}
            continue
        row: dict[str, float] = {}
        for way in listed:
            gain = way.gain(bounds)
            if gain is None:
                return no_guarantee(graph, loop, way, "")
            row[way.source] = row.get(way.source, 0.0) + lipschitz * gain
        table[name] = row
    root, uniform = _perron(table)
    if not root < 1:
        if demands and any(demand.criterion == "norm" for demand in demands):
            return not_below_one(graph, loop, demands[0], loop.iterated[0], None, root)
        return no_guarantee(graph, loop, None, f"its gain is {root:.4g}, which is not below 1")
    return Proof(Guarantee.GAIN, root if uniform else None)


def _bounds(demands: Sequence[Demand]) -> tuple[dict[str, float], list[tuple[frozenset[str], float]]]:
    """What is demanded of single parameters, and of sums of several."""
    bounds: dict[str, float] = {}
    joint: list[tuple[frozenset[str], float]] = []
    for demand in demands:
        if demand.criterion != "norm" or demand.matrix is None:
            continue
        if any(len(term.tensors) > 1 or abs(term.factor) < 1 for term in demand.matrix):
            continue
        ids = frozenset(id for term in demand.matrix for id, turned in term.tensors if not turned)
        for id in ids:
            bounds[id] = min(demand.bound, bounds.get(id, demand.bound))
        if len(ids) > 1:
            joint.append((ids, demand.bound))
    return bounds, joint


def _shared(ways: tuple[Way, ...], joint: list[tuple[frozenset[str], float]]) -> float | None:
    """The gain of a state that reads one source through exactly the matrices of one bounded sum."""
    single = [way for way in ways if len(way.tensors) == 1 and way.factor == 1.0]
    if len(single) != len(ways) or len({way.source for way in ways}) != 1:
        return None
    ids = [way.tensors[0].id for way in ways]
    return next((bound for these, bound in joint if sorted(these) == sorted(ids)), None)


def _perron(table: Mapping[str, Mapping[str, float]]) -> tuple[float, bool]:
    """An upper bound of the Perron root (Collatz and Wielandt), and whether it is the largest row sum."""
    vector = dict.fromkeys(table, 1.0)
    best, uniform = float("inf"), True
    for sweep in range(_SWEEPS):
        image = {row: sum(g * vector[col] for col, g in entries.items()) for row, entries in table.items()}
        bound = max((image[row] / vector[row] for row in table), default=0.0) * _ROUNDING
        if bound < best:
            best, uniform = bound, sweep == 0
        if best < 1:
            break
        largest = max(image.values())
        if largest == 0:
            return 0.0, True
        # a little of the constant vector keeps it positive where the loop is reducible
        vector = {row: value / largest + 1e-9 for row, value in image.items()}
    return best, uniform


def _by_criterion(
    graph: SignalGraph, loop: Component, found: Ways, demand: Demand
) -> Proof | Diagnostic | None:
    """Perron root, singular value, monotonicity or matrix measure; None: it is about another matrix."""
    matrix = matrix_of(found)
    if demand.criterion == "pf" and demand.matrix is None:
        return _by_perron(graph, loop, found, demand)
    if demand.matrix is not None and (matrix is None or _sorted(demand.matrix) != _sorted(matrix)):
        if matrix is None or not _mentions(demand.matrix, matrix):
            return None
        return not_this_matrix(graph, loop, demand)
    exact = all(way.sign is not None for listed in found.values() for way in listed)
    if len(found) != 1 or (demand.criterion != "pf" and not exact):
        # of a convolution or an upsampling, the parameter is not the matrix
        return not_this_matrix(graph, loop, demand)
    (name,) = found
    activation = graph.by_name[name].activation
    low, high = _slope(activation)
    match demand.criterion:
        case "pf":
            return _by_perron(graph, loop, found, demand)
        case "spectral":
            if low is None or high is None:
                return wrong_activation(graph, loop, name, demand, "has slopes entry by entry")
            gain = max(abs(low), abs(high))
            if not demand.bound * gain < 1:
                return not_below_one(graph, loop, demand, name, gain, demand.bound * gain)
            return Proof(Guarantee.SPECTRAL)
        case _:
            if low is None or high is None or low < 0 or high > 1:
                return wrong_activation(graph, loop, name, demand, "is increasing with slopes of at most 1")
            if demand.criterion == "nemon":
                if not demand.bound < 1:
                    return not_below_one(graph, loop, demand, name, 1.0, demand.bound)
                return Proof(Guarantee.MEASURE)
            return Proof(Guarantee.MONOTONE)


def _by_perron(graph: SignalGraph, loop: Component, found: Ways, demand: Demand) -> Proof | Diagnostic:
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
