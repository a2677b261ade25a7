"""Which blocks of a trained model talk to which, how strongly, on which paths, and how deep that goes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeAlias

from torch import nn

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis.depth import Depth, depth_of
from implicit_dsl.analysis.paths import Path, strongest
from implicit_dsl.analysis.systems import Shapes, system_of
from implicit_dsl.runtime.certificates.majorants import Majorant, NoBound, magnitudes, product
from implicit_dsl.runtime.certificates.spreading import Part, Spread
from implicit_dsl.runtime.system import System
from implicit_dsl.shapes import count

if TYPE_CHECKING:
    import networkx as nx
    import numpy as np
    import scipy.sparse as sparse
else:
    np = lazy_module("numpy")
    nx = lazy_module("networkx")
    sparse = lazy_module("scipy.sparse")

Graph: TypeAlias = "nx.DiGraph[str]"
_DENSE = 300  # rows or columns of a block whose singular values are all computed
_POWERS = 200  # steps of the power iteration for others
_SHOWN = 16


@dataclass(frozen=True, slots=True)
class Edge:
    """A block of A, B, C or D that is not zero.

    `share` is that of its entries that are not zero. `gain`: how far an entry of the target moves at most if
    all entries of the source move by 1, its activation included; infinite if that has no bound.
    """

    source: str
    target: str
    matrix: Literal["A", "B", "C", "D"]
    infinity: float
    frobenius: float
    spectral: float
    share: float
    gain: float


@dataclass(frozen=True, slots=True)
class LoopGain:
    """What comes back of a change that goes round a loop once: its Perron root with slopes, between bounds.

    `amplification`: how far an entry moves at most, in the end, if all are pushed by 1; infinite unless the
    loop is proved to contract.
    """

    states: tuple[str, ...]
    lower: float
    upper: float
    amplification: float

    def __str__(self) -> str:
        names = ", ".join(self.states[:4]) + (", …" if len(self.states) > 4 else "")
        close = self.upper - self.lower <= 0.02 * self.upper
        gain = f"{self.upper:.3g}" if close else f"{self.lower:.4g} … {self.upper:.4g}"
        if self.lower == 0 and not close:
            gain = f"{self.upper:.4g} at most"
        end = f"a push by 1 ends as {self.amplification:.4g} at most"
        if self.amplification == float("inf"):
            end = "it is not proved to contract"
        return f"the loop {{{names}}}: gain {gain} each time round; {end}"


@dataclass(frozen=True)
class Influence:
    """The graph of influence of a model with its weights, its loops and its effective depth.

    `depth` is None where nothing bounds the outputs, and `why` says so.
    """

    model: str
    graph: Graph
    edges: tuple[Edge, ...]
    loops: tuple[LoopGain, ...]
    depth: Depth | None
    why: str
    transfers: tuple[tuple[tuple[str, ...], np.ndarray], ...]

    def paths(self, source: str = "", target: str = "", most: int = 5) -> tuple[Path, ...]:
        """The `most` strongest paths from an input to an output (or any), by the product of their gains.

        A loop counts once, with all that goes round in it. Raises KeyError for a block that there is not,
        ValueError for one at which no path begins or ends.
        """
        return strongest(self.graph, self.transfers, source, target, most)

    def __str__(self) -> str:
        return describe(self)


def influence(
    model: nn.Module | System, *, shapes: Shapes | None = None, length: int | None = None
) -> Influence:
    """The graph of influence of a compiled model; `shapes` and `length` as for `sensitivity`.

    `graph` (networkx) has the inputs, states and outputs as nodes, with `kind`, `shape` and `loop`, and an
    edge for each block of A, B, C and D that is not zero, with the numbers of `Edge`. Norms are as computed;
    gains are bounds. Raises NoBound (a ValueError) for weights that are not finite, ValueError for sizes
    that do not fit, TypeError if the model is not a compiled one.
    """
    system = system_of(model, shapes, length)
    spread = Spread(system, prove=False)
    parts = [part for part in spread.parts if part.loop is not None]
    with np.errstate(all="ignore"):
        edges = _edges(system, spread.majorants)
        loops = tuple(map(_loop_gain, parts))
        transfers = tuple((_names(part), _transfer(part)) for part in parts)
        depth, why = None, ""
        try:
            spread.prove()
            depth = depth_of(spread)
        except NoBound as none:
            why = str(none)
    graph = _graph(system, edges)
    return Influence(system.model.name, graph, edges, loops, depth, why, transfers)


def _edges(system: System, bounds: dict[str, Majorant]) -> tuple[Edge, ...]:
    made = []
    matrices: tuple[Literal["A", "B", "C", "D"], ...] = ("A", "B", "C", "D")
    for matrix in matrices:
        whole = getattr(system, matrix).to_scipy()
        whole.eliminate_zeros()
        size = magnitudes(system, matrix)
        targets = system.partition("slots" if matrix in "AB" else "outputs")
        sources = system.partition("states" if matrix in "AC" else "inputs")
        for target in targets.names:
            rows, heights = whole[targets[target]], size[targets[target]]
            for source in sources.names:
                block = rows[:, sources[source]]
                if not block.nnz:
                    continue
                moved = product(heights[:, sources[source]], np.ones((block.shape[1], 1)))
                moved = bounds[target](moved) if matrix in "AB" else moved
                made.append(_edge(source, target, matrix, block, float(moved.max(initial=0.0))))
    return tuple(made)


def _edge(
    source: str, target: str, matrix: Literal["A", "B", "C", "D"], block: sparse.csr_array, gain: float
) -> Edge:
    return Edge(
        source,
        target,
        matrix,
        float(abs(block).sum(1).max(initial=0.0)),
        float(np.sqrt((block.data**2).sum())),
        spectral_norm(block),
        block.nnz / (block.shape[0] * block.shape[1]),
        gain,
    )


def spectral_norm(M: sparse.csr_array) -> float:
    """The largest singular value, as computed; of a large matrix by the power iteration, from below."""
    if min(M.shape) <= _DENSE:
        small = M @ M.T if M.shape[0] <= M.shape[1] else M.T @ M
        return float(np.sqrt(max(0.0, np.linalg.eigvalsh(small.toarray())[-1])))
    v, value = np.random.default_rng(0).standard_normal(M.shape[1]), 0.0
    for _ in range(_POWERS):
        image = M.T @ (M @ (v / np.linalg.norm(v)))
        found = float(np.sqrt(np.linalg.norm(image)))
        if abs(found - value) <= 1e-9 * found:
            return found
        v, value = image, found
    return value


def _names(part: Part) -> tuple[str, ...]:
    return tuple(majorant.block.name for majorant in part.majorants)


def _loop_gain(part: Part) -> LoopGain:
    lower, upper, _ = part.perron
    lower = lower if part.is_linear else 0.0  # of K, which may be more than M
    try:
        upper = min(upper, part.rate)
        most = float(part.pushed(np.ones((len(part.there), 1))).max(initial=0.0))
    except NoBound:
        most = float("inf")
    return LoopGain(_names(part), lower, upper, most)


def _transfer(part: Part) -> np.ndarray:
    """How far each state of a loop moves in the end if one is pushed by 1, [to, from]."""
    ends = np.cumsum([0, *(count(one.block.shape) for one in part.majorants)])
    pushed = np.zeros((ends[-1], len(part.majorants)))
    for at, (first, last) in enumerate(pairwise(ends)):
        pushed[first:last, at] = 1.0
    try:
        moved = part.pushed(pushed)
    except NoBound:
        return np.full((len(part.majorants),) * 2, np.inf)
    return np.stack([moved[first:last].max(0, initial=0.0) for first, last in pairwise(ends)])


def _graph(system: System, edges: tuple[Edge, ...]) -> Graph:
    graph: Graph = nx.DiGraph(name=system.model.name)
    loop_of = {name: loop.name for loop in system.model.loops for name in loop.states}
    groups = {"input": system.inputs, "state": system.model.states, "output": system.outputs}
    for kind, blocks in groups.items():
        for block in blocks:
            graph.add_node(block.name, kind=kind, shape=block.shape, loop=loop_of.get(block.name, ""))
    for edge in edges:
        named = {name: getattr(edge, name) for name in edge.__slots__ if name not in ("source", "target")}
        graph.add_edge(edge.source, edge.target, **named)
    return graph


def describe(found: Influence) -> str:
    """The report of `str(influence(model))`."""
    kinds = [held["kind"] for _, held in found.graph.nodes(data=True)]
    counted = ", ".join(
        f"{kinds.count(kind)} {kind}{'s' * (kinds.count(kind) != 1)}" for kind in ("input", "state", "output")
    )
    lines = [f"{found.model}: {counted}, {len(found.edges)} blocks that are not zero", ""]
    ranked = sorted(found.edges, key=lambda edge: -edge.gain)
    head = ("", "from", "to", "gain", "‖·‖∞", "‖·‖₂", "‖·‖F", "not zero")
    rows: list[tuple[str, ...]] = [head]
    for e in ranked[:_SHOWN]:
        numbers = (f"{x:.4g}" for x in (e.gain, e.infinity, e.spectral, e.frobenius))
        rows.append((e.matrix, e.source, e.target, *numbers, f"{100 * e.share:.3g} %"))
    lines += _table(rows, left=3)
    lines += [f"  … and {len(ranked) - _SHOWN} weaker ones"] if len(ranked) > _SHOWN else []
    lines += ["", "  strongest paths, by the product of their gains"]
    lines += [f"    {path}" for path in found.paths()] or ["    none: no output depends on an input"]
    for loop in found.loops:
        lines += ["", f"  {loop}"]
    lines += ["", *(f"  {line}" for line in str(found.depth or f"no depth: {found.why}").split("\n"))]
    return "\n".join(lines)


def _table(rows: list[tuple[str, ...]], left: int) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    made = []
    for row in rows:
        cells = [c.ljust(w) if k < left else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths))]
        made.append("  " + "  ".join(cells).rstrip())
    return made


__all__ = ["Edge", "Influence", "LoopGain", "influence"]
