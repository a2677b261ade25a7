"""The linear relaxation of a network on one sample, as matrices: what the programs LP and SDP are made of.

The variables v are the inputs, then the states, then their slots: z = A x + B u + b are equations, and the
lines that bound each state on its slots are inequalities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis.crown import Objectives, Relaxed
from implicit_dsl.analysis.matrices import Made
from implicit_dsl.analysis.network import Network, NoBound
from implicit_dsl.analysis.regions import Region
from implicit_dsl.operators.relaxation import Line, Lines

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse
else:
    np = lazy_module("numpy")
    sparse = lazy_module("scipy.sparse")


@dataclass(frozen=True)
class Program:
    """max objective·v subject to `equal` v = `given` and `less` v ≤ `most`, for v between `low` and `high`.

    `places` says where each input, each state and the slots of each state (`("slots", name)`) are in v.
    """

    equal: sparse.csr_array
    given: np.ndarray
    less: sparse.csr_array
    most: np.ndarray
    low: np.ndarray
    high: np.ndarray
    places: dict[str | tuple[str, str], slice]

    def objective(self, objectives: Objectives, sample: int, row: int) -> tuple[np.ndarray, float]:
        """The linear function as one of v, and its constant."""
        made = np.zeros(len(self.low))
        for given in (objectives.states, objectives.inputs):
            for name, rows in given.items():
                made[self.places[name]] = _of_sample(rows, sample)[row]
        return made, float(_of_sample(objectives.offset, sample)[row])


def program_of(network: Network, region: Region, bounded: Relaxed, sample: int) -> Program:
    """The relaxation of one sample. Raises NoBound for a model whose blocks are too large to be made."""
    places, low, high = _places(network, region, bounded, sample)
    total = len(low)
    equal, given, less, most = [], [], [], []
    for node in network.states:
        z = places["slots", node.name]
        row = sparse.lil_array((node.slots, total))
        row[np.arange(node.slots), np.arange(z.start, z.stop)] = 1.0
        made = row.tocsr()
        for source, block in node.reads.items():
            if not isinstance(block, Made):
                raise NoBound(
                    f"the block of `{node.name}` and `{source}` is too large for a linear program: "
                    "take the method `crown`"
                )
            made = made - _at(block.csr(), total, places[source].start)
        equal.append(made)
        given.append(node.offset)
        x, lines = places[node.name], bounded.lines[node.name]
        if lines is None:
            same = sparse.eye_array(node.size, format="csr")
            equal.append(_at(same, total, x.start) - _at(same, total, z.start))
            given.append(np.zeros(node.size))
            continue
        for side, sign in ((lines.above, 1.0), (lines.below, -1.0)):
            for line in side:
                rows, offset = _line(lines, line, sample, total, x, z)
                less.append(sign * rows)
                most.append(sign * offset)
    empty = sparse.csr_array((0, total))
    return Program(
        sparse.vstack(equal).tocsr() if equal else empty,
        np.concatenate(given) if given else np.zeros(0),
        sparse.vstack(less).tocsr() if less else empty,
        np.concatenate(most) if most else np.zeros(0),
        low, high, places,
    )  # fmt: skip


def _places(
    network: Network, region: Region, bounded: Relaxed, sample: int
) -> tuple[dict[str | tuple[str, str], slice], np.ndarray, np.ndarray]:
    places: dict[str | tuple[str, str], slice] = {}
    low, high, total = [], [], 0
    listed: list[tuple[str | tuple[str, str], tuple[np.ndarray, np.ndarray]]] = [
        (name, (region.lower[name], region.upper[name])) for name in region.lower
    ]
    listed += [(node.name, bounded.boxes.values[node.name]) for node in network.states]
    listed += [(("slots", node.name), bounded.boxes.slots[node.name]) for node in network.states]
    for name, (bottom, top) in listed:
        places[name] = slice(total, total + bottom.shape[1])
        total += bottom.shape[1]
        low.append(bottom[sample])
        high.append(top[sample])
    return places, np.concatenate(low), np.concatenate(high)


def _at(matrix: sparse.csr_array, total: int, column: int) -> sparse.csr_array:
    """A block that begins in a column of a wider matrix."""
    made = matrix.tocoo()
    shape = (matrix.shape[0], total)
    return sparse.csr_array((made.data, (made.row, made.col + column)), shape=shape)


def _line(
    lines: Lines, line: Line, sample: int, total: int, x: slice, z: slice
) -> tuple[sparse.csr_array, np.ndarray]:
    """x − slope·z and the offset."""
    size = line.offset.shape[1]
    made = _at(sparse.eye_array(size, format="csr"), total, x.start)
    for slope, index in zip(line.slope[sample], lines.index):
        entries = (slope, (np.arange(size), z.start + index))
        made = made - sparse.csr_array(entries, shape=(size, total))
    return made, line.offset[sample]


def _of_sample(rows: np.ndarray, sample: int) -> np.ndarray:
    return np.asarray(rows[0] if len(rows) == 1 else rows[sample])
