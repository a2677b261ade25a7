"""Whether the current weights satisfy each `@wellposed` of the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.demands import Demand, Matrix
from implicit_dsl.runtime.certificates.contraction import candidates, perron
from implicit_dsl.runtime.certificates.folded import Folded
from implicit_dsl.runtime.certificates.interval import Interval
from implicit_dsl.runtime.certificates.magnitudes import Weights
from implicit_dsl.runtime.certificates.measure import measure
from implicit_dsl.runtime.certificates.result import LoopCertificate, Verdict
from implicit_dsl.runtime.certificates.rounding import largest_singular_value, upwards

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
    """One loop with what was proved of it, and its matrix (or why there is none)."""

    certificate: LoopCertificate
    folded: Folded | str
    row_sum: float  # of |A|, without folding


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
        values = [_of_loop(demand.criterion, loop) for loop in concerned]
    unknown = [value for value in values if isinstance(value, str)]
    if unknown:
        return Verdict(demand.text, demand.line, False, None, unknown[0])
    return _compared(demand, [value for value in values if not isinstance(value, str)])


def _compared(demand: Demand, values: list[float]) -> Verdict:
    if not values:
        return Verdict(demand.text, demand.line, True, None, "there is no such loop")
    if demand.criterion == "monotone":  # I − A ⪰ m I: the value is to be large
        worst = min(values)
        return Verdict(demand.text, demand.line, worst >= demand.bound * (1 - ROUNDING), worst)
    worst = max(values)
    room = ROUNDING * max(abs(demand.bound), 1e-300)
    return Verdict(demand.text, demand.line, worst <= demand.bound + room, worst)


def _of_loop(criterion: str, loop: Certified) -> float | str:
    if isinstance(loop.folded, str):
        return loop.row_sum if criterion == "norm" else loop.folded
    value = _value(criterion, loop.folded.A)
    return min(value, loop.row_sum) if criterion == "norm" and not isinstance(value, str) else value


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
        starts = candidates(magnitude.toarray())
        return perron(lambda v: upwards(magnitude @ v, size), size, starts).upper
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
            if tensor.ndim != 2 and criterion != "norm":
                return f"`{id}` has {tensor.ndim} axes: bound the loop, or use `norm`"
            W = tensor.reshape(len(tensor), -1).T if turned else tensor.reshape(len(tensor), -1)
            made = W if made is None else made @ W
        assert made is not None
        total = term.factor * made if total is None else total + term.factor * made
    if total is None:
        return "there is no parameter in it"
    return sparse.csr_array(total + identity * np.eye(*total.shape))
