"""The semidefinite relaxation (Shor), which also knows that relu is x (x − z) = 0, and products of boxes.

With v = (1, u, x), P stands for v vᵀ: P ⪰ 0, P₀₀ = 1, and each quadratic inequality vᵀ G v ≥ 0 is
⟨G, P⟩ ≥ 0. For multipliers λ ≥ 0 and μ of any quality let M = γ e₀e₀ᵀ − F − Σ λ G − Σ μ E. Then
vᵀ F v ≤ γ − vᵀ M v, and so ≤ γ + max(0, −λ_min(M)) max ‖v‖², which is what is returned: the solver's
tolerances make it looser, never wrong. (Raghunathan, Steinhardt and Liang 2018; Chen et al. 2021 for
equilibria.)
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis.crown import Objectives, Relaxed
from implicit_dsl.analysis.network import Network
from implicit_dsl.analysis.regions import Region
from implicit_dsl.analysis.relaxation import Program, program_of
from implicit_dsl.runtime.certificates.rounding import UNIT, largest_row_sum
from implicit_dsl.shapes import count

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

MOST = 200  # inputs and states together


def require(network: Network) -> Any:
    """cvxpy, for a small network. Raises ImportError without it, ValueError for a larger network."""
    try:
        found = import_module("cvxpy")
    except ImportError:
        raise ImportError('the method "sdp" needs cvxpy: pip install "implicitc[sdp]"') from None
    size = _size(network)
    if size > MOST:
        raise ValueError(
            f"{size} inputs and states are too many for a semidefinite program, which takes {MOST} at most: "
            "`crown` or `lp` do without"
        )
    return found


def _size(network: Network) -> int:
    inputs = sum(count(block.shape) for block in network.system.inputs)
    return inputs + sum(node.size for node in network.states)


def upper_bounds(network: Network, region: Region, bounded: Relaxed, objectives: Objectives) -> np.ndarray:
    """Upper bounds [batch, k] of the objectives, each by a semidefinite program. Raises as `require` does."""
    cvxpy, size = require(network), _size(network)
    rows = objectives.offset.shape[1]
    made = np.empty((region.batch, rows))
    for sample in range(region.batch):
        shor = _Shor(network, program_of(network, region, bounded, sample), size)
        for row in range(rows):
            wanted, offset = shor.program.objective(objectives, sample, row)
            made[sample, row] = offset + shor.solved(cvxpy, wanted)
    return made


class _Shor:
    """The relaxation of one sample. Slots are linear in inputs and states, and take no room in P."""

    def __init__(self, network: Network, program: Program, size: int) -> None:
        self.program, self.size = program, size
        self.network = network
        self.low, self.high = program.low[:size], program.high[:size]
        self.slot = self._slots()
        self.inequal, self.equal = self._constraints()

    def _slots(self) -> np.ndarray:
        """z as rows over (1, u, x)."""
        made = []
        for node in self.network.states:
            rows = np.zeros((node.slots, 1 + self.size))
            rows[:, 0] = node.offset
            for source, block in node.reads.items():
                place = self.program.places[source]
                rows[:, 1 + place.start : 1 + place.stop] = block.pull(np.eye(node.slots))
            made.append(rows)
        return np.concatenate(made) if made else np.zeros((0, 1 + self.size))

    def _row(self, variables: np.ndarray) -> np.ndarray:
        """A row over v of the program as one over (1, u, x)."""
        own = np.concatenate(([0.0], variables[: self.size]))
        return np.asarray(own + variables[self.size :] @ self.slot)

    def _constraints(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """G with ⟨G, P⟩ ≥ 0 and E with ⟨E, P⟩ = 0."""
        program, first = self.program, np.eye(1 + self.size)[0]
        inequal, equal = [], []
        for row, most in zip(program.less.toarray(), program.most):
            inequal.append(_symmetric(first, most * first - self._row(row)))
        for row, low, high in zip(self.slot, program.low[self.size :], program.high[self.size :]):
            inequal += [_symmetric(first, row - low * first), _symmetric(first, high * first - row)]
        for at in range(self.size):  # (v − l)(h − v) ≥ 0
            unit = np.eye(1 + self.size)[1 + at]
            inequal.append(_symmetric(unit - self.low[at] * first, self.high[at] * first - unit))
        for node in self.network.states:
            slots = self.program.places["slots", node.name]
            start, place = slots.start - self.size, self.program.places[node.name]
            activation = node.block.activation
            for at in range(node.size):
                x, z = np.eye(1 + self.size)[1 + place.start + at], None
                if activation is None or activation.kind == "identity":
                    z = self.slot[start + at]
                    equal.append(_symmetric(first, x - z))
                elif activation.kind == "relu":
                    z = self.slot[start + at]
                    equal.append(_symmetric(x, x - z))
                    inequal += [_symmetric(first, x), _symmetric(first, x - z)]
        return inequal, equal

    def solved(self, cvxpy: Any, wanted: np.ndarray) -> float:
        first = np.eye(1 + self.size)[0]
        F = _symmetric(first, self._row(wanted))
        scale = max(1.0, float(np.abs(F).max()))
        P = cvxpy.Variable((1 + self.size, 1 + self.size), symmetric=True)
        G, E = (np.stack([one.reshape(-1) for one in some]) for some in (self.inequal, self.equal or [0 * F]))
        flat = cvxpy.vec(P, order="C")
        constraints = [P >> 0, P[0, 0] == 1, G @ flat >= 0, E @ flat == 0]
        problem = cvxpy.Problem(cvxpy.Maximize((F.reshape(-1) / scale) @ flat), constraints)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a solution that is not exact: the bound says how much
                problem.solve(solver=cvxpy.CLARABEL)
            more, equal = (np.asarray(constraints[k].dual_value, float) for k in (2, 3))
        except (cvxpy.error.SolverError, TypeError, ValueError):
            more, equal = np.zeros(len(G)), np.zeros(len(E))
        if not (np.isfinite(more).all() and np.isfinite(equal).all()):
            more, equal = np.zeros(len(G)), np.zeros(len(E))
        return min(
            self._proved(F, G, E, scale * np.maximum(more, 0.0), s * scale * equal) for s in (1.0, -1.0)
        )

    def _proved(
        self, F: np.ndarray, G: np.ndarray, E: np.ndarray, more: np.ndarray, equal: np.ndarray
    ) -> float:
        """The least γ + (−λ_min(M))₊ max ‖v‖² over a few γ, rounded upwards."""
        shape = F.shape
        M = -F - (more @ G).reshape(shape) - (equal @ E).reshape(shape)
        size = np.abs(F) + (more @ np.abs(G)).reshape(shape) + (np.abs(equal) @ np.abs(E)).reshape(shape)
        error = 4 * (len(G) + len(E) + 8) * UNIT * largest_row_sum(size)
        largest = 1.0 + float((np.maximum(self.low**2, self.high**2)).sum()) * (1 + 1e-12)
        rest, cross = M[1:, 1:], M[0, 1:]
        values, vectors = np.linalg.eigh(rest)
        made = np.inf
        for shift in (0.0, 1e-9, 1e-7, 1e-5, 1e-3):
            # γ with M ⪰ −shift I: the Schur complement of the rest
            room = np.maximum(values + shift, 1e-14)
            gamma = float(((vectors.T @ cross) ** 2 / room).sum()) - M[0, 0]
            whole = M.copy()
            whole[0, 0] += gamma
            least = float(np.linalg.eigvalsh(whole)[0])
            spread = 64 * UNIT * len(M) * float(np.abs(whole).sum(1).max())
            lost = max(0.0, -least + error + spread)
            made = min(made, gamma + lost * largest + 8 * UNIT * (abs(gamma) + lost * largest))
        return made


def _symmetric(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The symmetric matrix of the product of two linear functions."""
    return np.asarray((np.outer(a, b) + np.outer(b, a)) / 2)
