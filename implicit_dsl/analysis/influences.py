"""Which blocks of a trained model talk to which, how strongly, on which paths, and how deep that goes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from torch import nn

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis.depth import Depth, depth_of
from implicit_dsl.analysis.paths import Path, strongest
from implicit_dsl.analysis.systems import Shapes, system_of
from implicit_dsl.runtime.certificates.majorants import Majorant, NoBound, magnitudes, majorants, product
from implicit_dsl.runtime.certificates.roots import perron_bounds
from implicit_dsl.runtime.certificates.spreading import Part, parts_of
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


@dataclass(frozen=True)
class Influence:
    """The graph of influence of a model with its weights, its loops and its effective depth.

    `depth` is None where nothing bounds the outputs, and `why` says so.
    """

    model: str
    graph: nx.DiGraph[str]
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
    gains are bounds. Raises ValueError for weights that are not finite and sizes that do not fit, and
    TypeError if the model is not a compiled one.
    """
    system = system_of(model, shapes, length)
    for id, values in system.weights.items():
        if not np.isfinite(values).all():
            raise ValueError(f"the tensor `{id}` holds values that are not finite")
    bounds = {one.block.name: one for one in majorants(system)}
    A = magnitudes(system, "A")
    with np.errstate(all="ignore"):
        edges = _edges(system, bounds)
        parts = [part for part in parts_of(system, A, bounds) if part.loop is not None]
        loops = tuple(map(_loop_gain, parts))
        transfers = tuple((_names(part), _transfer(part, gain.upper)) for part, gain in zip(parts, loops))
    try:
        depth, why = depth_of(system), ""
    except NoBound as none:
        depth, why = None, str(none)
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
    """Bounds of the Perron root of K |A|; infinite where K is unbounded or too large to be made."""
    names = _names(part)
    if any(one.matrix is None for one in part.majorants) or not np.isfinite(part.step_matrix.data).all():
        return LoopGain(names, 0.0, float("inf"), float("inf"))
    lower, upper, _ = perron_bounds(part.step_matrix)
    most = float(_solved(part, np.ones(len(part.there))).max()) if upper < 1 else float("inf")
    return LoopGain(names, lower, upper, most)


def _transfer(part: Part, upper: float) -> np.ndarray:
    """How far each state of a loop moves in the end if one is pushed by 1, [to, from]."""
    ends = np.cumsum([0, *(count(one.block.shape) for one in part.majorants)])
    size = len(part.majorants)
    made = np.full((size, size), np.inf)
    if upper < 1:
        for at in range(size):
            pushed = np.zeros(ends[-1])
            pushed[ends[at] : ends[at + 1]] = 1.0
            moved = _solved(part, pushed)
            made[:, at] = [moved[a:b].max(initial=0.0) for a, b in pairwise(ends)]
    return made


def _solved(part: Part, pushed: np.ndarray) -> np.ndarray:
    """(I − K |A|)⁻¹ p."""
    return np.asarray(np.maximum(np.asarray(part.factors.solve(pushed)), 0.0))


def _graph(system: System, edges: tuple[Edge, ...]) -> nx.DiGraph[str]:
    graph: nx.DiGraph[str] = nx.DiGraph(name=system.model.name)
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
    kinds = [str(held["kind"]) for held in found.graph.nodes.values()]
    counted = ", ".join(f"{kinds.count(kind)} {kind}s" for kind in ("input", "state", "output"))
    lines = [f"{found.model}: {counted}, {len(found.edges)} blocks that are not zero", ""]
    ranked = sorted(found.edges, key=lambda edge: -edge.gain)
    head = ("", "from", "to", "gain", "‖·‖∞", "‖·‖₂", "‖·‖F", "not zero")
    rows = [head, *map(_cells, ranked[:_SHOWN])]
    lines += _table(rows, left=3)
    lines += [f"  … and {len(ranked) - _SHOWN} weaker ones"] if len(ranked) > _SHOWN else []
    lines += ["", "  strongest paths, by the product of their gains"]
    lines += [f"    {path}" for path in found.paths()] or ["    none: no output depends on an input"]
    for loop in found.loops:
        names = ", ".join(loop.states[:4]) + (", …" if len(loop.states) > 4 else "")
        between = (
            f"{loop.upper:.4g}" if loop.upper - loop.lower < 1e-3 else f"{loop.lower:.4g} … {loop.upper:.4g}"
        )
        ends = (
            f"a push by 1 ends as {loop.amplification:.4g} at most"
            if loop.upper < 1
            else "it is not proved to contract"
        )
        lines += ["", f"  loop {{{names}}}: gain {between} each time round; {ends}"]
    lines += ["", *(f"  {line}" for line in str(found.depth or f"no depth: {found.why}").split("\n"))]
    return "\n".join(lines)


def _cells(edge: Edge) -> tuple[str, ...]:
    numbers = (edge.gain, edge.infinity, edge.spectral, edge.frobenius)
    shown = (f"{number:.4g}" for number in numbers)
    return (edge.matrix, edge.source, edge.target, *shown, f"{100 * edge.share:.3g} %")


def _table(rows: list[tuple[str, ...]], left: int) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    made = []
    for row in rows:
        cells = [c.ljust(w) if k < left else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths))]
        made.append("  " + "  ".join(cells).rstrip())
    return made


__all__ = ["Edge", "Influence", "LoopGain", "influence"]
