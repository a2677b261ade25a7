"""Branch and bound over the signs of slots, where the linear program alone is not enough.

Where relu's slot may be of both signs, one branch has z ≥ 0 and so x = z, the other z ≤ 0 and x = 0:
together they are all there is, and in each the linear program is closer. A branch ends where multipliers
prove that the function is below zero on it, or that there is nothing on it. (Bunel et al. 2018; here also
around loops.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis.crown import Objectives, Relaxed
from implicit_dsl.analysis.lp import dual_bound
from implicit_dsl.analysis.network import Network
from implicit_dsl.analysis.regions import Region
from implicit_dsl.analysis.relaxation import Program, program_of

if TYPE_CHECKING:
    import numpy as np
    import scipy.optimize as optimize
    import scipy.sparse as sparse
else:
    np = lazy_module("numpy")
    optimize = lazy_module("scipy.optimize")
    sparse = lazy_module("scipy.sparse")

_ELASTIC = 1e3  # what an inequality costs that is not kept, to see that a branch is empty


def can_branch(network: Network) -> bool:
    """Whether all states that are not linear are relu."""
    phis = (node.block.activation for node in network.states)
    return all(phi is None or phi.kind in ("relu", "identity") for phi in phis)


def below_zero(
    network: Network, region: Region, bounded: Relaxed, objectives: Objectives, slack: np.ndarray, most: int
) -> bool:
    """Whether all objectives [1, k] plus `slack` are proved negative for one sample, in `most` branches."""
    splits = _Splits.of(network, program_of(network, region, bounded, 0))
    left = most
    for row in range(objectives.offset.shape[1]):
        wanted, offset = splits.program.objective(objectives, 0, row)
        left = splits.branched(wanted, offset + float(slack[0, row]), region, left)
        if left < 0:
            return False
    return True


@dataclass(frozen=True)
class _Splits:
    """A program with a row x − z ≤ room for each slot that may have both signs: 0 where z ≥ 0 is taken."""

    program: Program
    x: np.ndarray  # places of the states that are relu with an open sign
    z: np.ndarray
    row: np.ndarray

    @staticmethod
    def of(network: Network, program: Program) -> _Splits:
        xs: list[np.ndarray] = [np.zeros(0, np.intp)]
        zs: list[np.ndarray] = [np.zeros(0, np.intp)]
        for node in network.states:
            if node.block.activation is not None and node.block.activation.kind == "relu":
                own, slots = program.places[node.name], program.places["slots", node.name]
                open_ = np.flatnonzero((program.low[slots] < 0) & (program.high[slots] > 0))
                xs.append(own.start + open_)
                zs.append(slots.start + open_)
        x, z = np.concatenate(xs), np.concatenate(zs)
        count, rows = len(x), len(program.most)
        entries = (np.repeat((1.0, -1.0), count), (np.tile(np.arange(count), 2), np.concatenate((x, z))))
        more = sparse.csr_array(entries, shape=(count, len(program.low)))
        room = program.high[x] - program.low[z]
        whole = replace(
            program,
            less=sparse.vstack((program.less, more)).tocsr(),
            most=np.concatenate((program.most, room)),
        )
        return _Splits(whole, x, z, rows + np.arange(count))

    def branched(self, wanted: np.ndarray, offset: float, region: Region, left: int) -> int:
        """How many branches are left when the function is proved negative on all; −1 if it is not."""
        open_: list[dict[int, bool]] = [{}]
        while open_:
            signs = open_.pop()
            if left <= 0:
                return -1
            left -= 1
            program = self._with(signs)
            bound, v = _bound(program, wanted, region)
            if offset + bound < 0:
                continue
            at = None if v is None else self._widest(v, signs)
            if at is None:
                return -1
            # the branch that the solution is nearer to comes first
            first = bool(v[self.z[at]] > 0) if v is not None else True
            open_ += [{**signs, at: not first}, {**signs, at: first}]
        return left

    def _with(self, signs: dict[int, bool]) -> Program:
        low, high, most = self.program.low.copy(), self.program.high.copy(), self.program.most.copy()
        for at, positive in signs.items():
            if positive:
                low[self.z[at]], most[self.row[at]] = 0.0, 0.0
            else:
                high[self.z[at]], high[self.x[at]], low[self.x[at]] = 0.0, 0.0, 0.0
        return replace(self.program, low=low, high=high, most=most)

    def _widest(self, v: np.ndarray, signs: dict[int, bool]) -> int | None:
        """The slot on which x is furthest from relu (z)."""
        gap = v[self.x] - np.maximum(v[self.z], 0.0)
        gap[list(signs)] = -1.0
        at = int(gap.argmax()) if len(gap) else 0
        return at if len(gap) and gap[at] > 1e-9 else None


def _bound(program: Program, wanted: np.ndarray, region: Region) -> tuple[float, np.ndarray | None]:
    """A proved bound, and the solution; of an empty branch, what shows that it is."""
    box = np.stack((program.low, program.high), 1)
    found = optimize.linprog(
        -wanted, program.less, program.most, program.equal, program.given, box, method="highs"
    )
    if found.status == 0:
        multipliers = np.maximum(-found.ineqlin.marginals, 0.0), -found.eqlin.marginals
        return dual_bound(program, wanted, region, *multipliers), np.asarray(found.x)
    return _elastic(program, wanted, region), None


def _elastic(program: Program, wanted: np.ndarray, region: Region) -> float:
    """The bound from multipliers of the program whose rows may be left, for a price."""
    rows, equations = len(program.most), len(program.given)
    cost = _ELASTIC * (1.0 + float(np.abs(wanted).max(initial=0.0)))
    column = sparse.csr_array(np.ones((rows, 1)))
    both = sparse.csr_array(np.ones((equations, 1)))
    less = sparse.vstack(
        (
            sparse.hstack((program.less, -column)),
            sparse.hstack((program.equal, -both)),
            sparse.hstack((-program.equal, -both)),
        )
    )
    most = np.concatenate((program.most, program.given, -program.given))
    box = np.stack((np.append(program.low, 0.0), np.append(program.high, np.inf)), 1)
    found = optimize.linprog(-np.append(wanted, -cost), less.tocsr(), most, bounds=box, method="highs")
    if found.status != 0:
        return float("inf")
    made = np.maximum(-found.ineqlin.marginals, 0.0)
    equal = made[rows : rows + equations] - made[rows + equations :]
    return dual_bound(program, wanted, region, made[:rows], equal)
