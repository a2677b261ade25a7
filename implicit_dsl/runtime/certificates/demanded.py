"""Whether the current weights satisfy each `@wellposed` of the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.demands import Demand, Matrix
from implicit_dsl.model import Block
from implicit_dsl.operators import activation_rule
from implicit_dsl.runtime.certificates.contraction import Map, perron, proving
from implicit_dsl.runtime.certificates.folded import Folded, linear_states
from implicit_dsl.runtime.certificates.interval import Interval
from implicit_dsl.runtime.certificates.magnitudes import Weights
from implicit_dsl.runtime.certificates.measure import measure
from implicit_dsl.runtime.certificates.result import LoopCertificate, Verdict
from implicit_dsl.runtime.certificates.rounding import largest_singular_value, upwards
from implicit_dsl.runtime.certificates.rules import Case
from implicit_dsl.runtime.certificates.sweep import Sweep
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse
else:
    np = lazy_module("numpy")
    sparse = lazy_module("scipy.sparse")

ROUNDING = 1e-6  # of the bound: weights in float32 that were projected onto it may stand above by so much
_LARGEST = 1500


@dataclass(frozen=True)
class Certified:
    """One loop with what was proved of it, and what more can be asked of it (not without numbers)."""

    certificate: LoopCertificate
    case: Case | None


def verdict(demand: Demand, loops: Sequence[Certified], weights: Weights) -> Verdict:
    """What the weights say to one demand."""
    concerned = [
        loop for loop in loops if not demand.states or set(demand.states) & set(loop.certificate.states)
    ]
    if demand.criterion == "unchecked":
        return Verdict(demand.text, demand.line, True, None, "nothing is asked")
    if demand.criterion == "prove":
        refused = [loop.certificate.name for loop in concerned if not loop.certificate.proved]
        why = f"the loop of `{refused[0]}` is not proved" if refused else ""
        return Verdict(demand.text, demand.line, not refused, None, why)
    if demand.matrix is not None:
        made = _matrix(demand.matrix, weights, demand.criterion)
        values = [made if isinstance(made, str) else _value(demand.criterion, Interval(made, 0 * made))]
    else:
        values = [_of_loop(demand, loop) for loop in concerned if _has_parameters(loop)]
    unknown = [value for value in values if isinstance(value, str)]
    if unknown:
        return Verdict(demand.text, demand.line, False, None, unknown[0])
    return _compared(demand, [value for value in values if not isinstance(value, str)])


def _compared(demand: Demand, values: list[float]) -> Verdict:
    if not values:
        return Verdict(demand.text, demand.line, True, None, "there is nothing that could be bounded")
    if demand.criterion == "monotone":  # I − A ⪰ m I: the value is to be large
        worst = min(values)
        return Verdict(demand.text, demand.line, worst >= demand.bound * (1 - ROUNDING), worst)
    worst = max(values)
    room = ROUNDING * max(abs(demand.bound), 1e-300)
    return Verdict(demand.text, demand.line, worst <= demand.bound + room, worst)


def _has_parameters(loop: Certified) -> bool:
    return loop.case is None or any(_bounded(loop.case.sweep, ()).values())


def _of_loop(demand: Demand, loop: Certified) -> float | str:
    case, criterion = loop.case, demand.criterion
    if case is None:
        return loop.certificate.attempts[0].why
    folded = case.folded
    if criterion == "norm":
        sums = _row_sum(case.sweep)
        if isinstance(folded, str):
            return sums
        bounded = _bounded(case.sweep, linear_states(case.sweep.model, case.sweep.loop))
        rows = np.concatenate([np.full(count(block.slots), bounded[block.name]) for block in folded.blocks])
        size = folded.A.mid.shape[1]
        return min(float(upwards(folded.A.magnitude.sum(1), size)[rows].max(initial=0.0)), sums)
    if criterion == "pf" and (isinstance(folded, str) or folded.size > _LARGEST):
        return _without_matrix(case.sweep, demand.bound)
    if isinstance(folded, str):
        return folded
    if criterion == "pf" and folded.slopes is None:
        return perron(_shared_out(folded), folded.size, close=0.0).upper
    return _value(criterion, folded.A)


def _without_matrix(sweep: Sweep, bound: float) -> float:
    """An upper bound of the Perron root of |A|, where that is too large to be made; `bound` is low enough.

    Linear states are folded unless they are iterated, and nothing cancels.
    """
    linear = _folded_states(sweep)
    kept = sweep.blocks(tuple(name for name in sweep.loop.states if name not in linear))

    def moved(v: np.ndarray) -> np.ndarray:
        known, start = {}, 0
        for block in kept:
            known[block.name] = v[start : start + count(block.shape)].reshape(sizes(block.shape))
            start += count(block.shape)
        made = dict(known)
        for name in linear:
            made[name] = _reads(sweep, name, made)
        return np.concatenate([_of_slots(sweep, block, _reads(sweep, block.name, made)) for block in kept])

    return perron(moved, sum(count(block.shape) for block in kept), close=0.0, enough=bound).upper


def _folded_states(sweep: Sweep) -> tuple[str, ...]:
    """The linear states of a loop that are not iterated, each behind those that it reads."""
    model, loop = sweep.model, sweep.loop
    found = linear_states(model, loop)
    return tuple(n for n in found if n not in loop.iterated and model.blocks[n].activation is None)


def _reads(sweep: Sweep, name: str, known: Mapping[str, np.ndarray]) -> np.ndarray:
    """Σ |A| v over what a state reads within the loop, by its slots, rounded up."""
    terms = sweep.terms[name]
    made = np.zeros(sizes(sweep.model.blocks[name].slots))
    for term in terms:
        assert term.source is not None
        made = made + sweep.magnitudes.upper(term.chain, known[term.source])
    return upwards(made, len(terms))


def _of_slots(sweep: Sweep, block: Block, part: np.ndarray) -> np.ndarray:
    """What changes of slots come to in a state, by an activation of gain 1, in a row."""
    rule = None if block.activation is None else activation_rule(block.activation)
    if rule is not None and not rule.elementwise:
        assert block.activation is not None
        gain = rule.gain(block.activation)
        part = sweep.activated(block, part) / (1.0 if gain is None else gain)
    return part.reshape(-1)


def _shared_out(folded: Folded) -> Map:
    """|A| v for activations with several slots for each state: as those share them out, with gain 1."""

    def moved(v: np.ndarray) -> np.ndarray:
        made, start = upwards(folded.A.magnitude @ v, folded.size), 0
        parts = []
        for block in folded.blocks:
            part = made[start : start + count(block.slots)].reshape(sizes(block.slots))
            start += count(block.slots)
            parts.append(_of_slots(folded.sweep, block, part))
        return np.concatenate(parts)

    return moved


def _bounded(sweep: Sweep, linear: tuple[str, ...]) -> dict[str, bool]:
    """For each state of a loop, whether its row of A holds a parameter: only such rows can be bounded.

    Some linear states are folded, so that what they read belongs to the rows that read them.
    """
    found: dict[str, bool] = {}
    for name in (*linear, *sweep.loop.states):
        found[name] = any(
            any(operator.parameters for operator in term.chain)
            or (term.source in linear and found[term.source])
            for term in sweep.terms[name]
        )
    return found


def _row_sum(sweep: Sweep) -> float:
    """The largest Σ |A| 1 over the rows that hold parameters, rounded up, as projections count them.

    Linear states are folded unless they are iterated, and nothing cancels.
    """
    linear = _folded_states(sweep)
    bounded, largest = _bounded(sweep, linear), 0.0
    reached = {block.name: np.ones(sizes(block.shape)) for block in sweep.blocks(sweep.loop.states)}
    for name in (*linear, *(name for name in sweep.loop.states if name not in linear)):
        made = _reads(sweep, name, reached)
        if name in linear:
            reached[name] = made
        elif bounded[name]:
            largest = max(largest, float(made.max(initial=0.0)))
    return largest


def _value(criterion: str, A: Interval) -> float | str:
    """What a criterion bounds, of a matrix."""
    if criterion == "norm":
        return float(upwards(A.magnitude.sum(1), A.mid.shape[1]).max(initial=0.0))
    rows, size = A.mid.shape
    if max(rows, size) > _LARGEST:
        return f"the matrix is {rows} × {size}, above the limit of {_LARGEST}"
    if criterion == "spectral":
        return largest_singular_value(*A.dense())
    if rows != size:
        return f"the matrix is {rows} × {size}, which is not square"
    if criterion == "pf":
        magnitude = A.magnitude
        starts = proving(magnitude, np.ones(size))
        return perron(lambda v: upwards(magnitude @ v, size), size, starts, close=0.0).upper
    if criterion == "nemon":
        return measure(A).measure
    assert criterion == "monotone", criterion
    mid, rad = A.dense()
    S = np.eye(size) - (mid + mid.T) / 2
    return float(np.linalg.eigvalsh(S)[0]) - float((rad + rad.T).sum(1).max(initial=0.0)) / 2


def _matrix(matrix: Matrix, weights: Weights, criterion: str) -> sparse.csr_array | str:
    """A sum of products of parameters. Tensors with more axes are rows of what follows the first one."""
    total: np.ndarray | None = None
    identity = 0.0
    for term in matrix:
        if not term.tensors:
            identity += term.factor
            continue
        made: np.ndarray | None = None
        for id, turned in term.tensors:
            tensor = weights[id]
            if tensor.ndim != 2 and (turned or len(term.tensors) > 1 or len(matrix) > 1):
                return f"`{id}` is no matrix"
            if tensor.ndim > 2 and criterion == "pf":  # channel by channel: |K| v ≤ Σ |K[o, c]| v_c
                tensor = np.abs(tensor).reshape(*tensor.shape[:2], -1).sum(2)
            if tensor.ndim != 2 and criterion != "norm":
                return f"`{id}` has {tensor.ndim} axes: bound the loop, or use `norm`"
            W = tensor.reshape(len(tensor), -1).T if turned else tensor.reshape(len(tensor), -1)
            made = W if made is None else made @ W
        assert made is not None
        total = term.factor * made if total is None else total + term.factor * made
    if total is None:
        return "there is no parameter in it"
    return sparse.csr_array(total + identity * np.eye(*total.shape))
