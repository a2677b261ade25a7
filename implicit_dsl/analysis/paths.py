"""The strongest paths of a graph of influence: products of gains, where a loop counts as one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import TYPE_CHECKING, TypeAlias

from implicit_dsl._lazy import lazy_module

if TYPE_CHECKING:
    import networkx as nx
    import numpy as np
else:
    nx = lazy_module("networkx")

_SHOWN = 10  # blocks of a path that is printed
Graph: TypeAlias = "nx.DiGraph[str]"
Transfers: TypeAlias = "Sequence[tuple[tuple[str, ...], np.ndarray]]"


@dataclass(frozen=True, slots=True)
class Path:
    """Blocks from an input to an output. `gain` is no less than what goes along it: |Δy| ≤ gain for |Δu| ≤ 1.

    `looped` are the steps at which a loop is entered and left: (place among the blocks, gain of the loop).
    """

    blocks: tuple[str, ...]
    gain: float
    looped: tuple[tuple[int, float], ...] = ()

    def __str__(self) -> str:
        around = dict(self.looped)
        named = [
            f"{name} (×{around[at]:.3g} around its loop)" if at in around else name
            for at, name in enumerate(self.blocks)
        ]
        if len(named) > _SHOWN:
            left = len(named) - _SHOWN + 1
            named[_SHOWN // 2 : -_SHOWN // 2 + 1] = [f"… {left} more …"]
        return f"{self.gain:<10.4g} {' → '.join(named)}"


def strongest(graph: Graph, transfers: Transfers, source: str, target: str, most: int) -> tuple[Path, ...]:
    """The `most` strongest paths from `source`, or any input, to `target`, or any output.

    `transfers`: for each loop its states and how far each moves in the end if one is pushed, [to, from].
    Dynamic programming over the graph without its loops, with the best paths to each block.
    """
    for name in filter(None, (source, target)):
        if name not in graph:
            raise KeyError(f"there is no `{name}` here; there are {', '.join(graph)}")
    kinds = {name: held["kind"] for name, held in graph.nodes(data=True)}
    if (source and kinds[source] == "output") or (target and kinds[target] == "input"):
        raise ValueError("a path goes from an input or a state to a state or an output")
    of_loop = {name: at for at, (names, _) in enumerate(transfers) for name in names}
    best: dict[str, list[Path]] = {name: [] for name in graph}
    for one in _order(graph, of_loop):
        if isinstance(one, int):
            _enter(graph, *transfers[one], best, of_loop, source, most)
        else:
            best[one] = _best(_arriving(graph, one, best, of_loop), most)
            if one == source or (not source and kinds[one] == "input"):
                best[one].append(Path((one,), 1.0))
    ends = [target] if target else [name for name in graph if kinds[name] == "output"]
    return tuple(_best([path for end in ends for path in best[end] if len(path.blocks) > 1], most))


def _order(graph: Graph, of_loop: dict[str, int]) -> list[str | int]:
    """Blocks, and loops by their number, in an order in which they can be computed."""
    folded: nx.DiGraph[str | int] = nx.DiGraph()
    folded.add_nodes_from(of_loop.get(name, name) for name in graph)
    edges = ((of_loop.get(a, a), of_loop.get(b, b)) for a, b in graph.edges)
    folded.add_edges_from((a, b) for a, b in edges if a != b)
    return list(nx.topological_sort(folded))


def _arriving(graph: Graph, name: str, best: dict[str, list[Path]], of_loop: dict[str, int]) -> list[Path]:
    """Paths to a block along each edge that does not stay within a loop."""
    own = of_loop.get(name, -1)
    return [
        Path((*path.blocks, name), path.gain * held["gain"], path.looped)
        for before, _, held in graph.in_edges(name, data=True)
        if of_loop.get(before, -2) != own
        for path in best[before]
    ]


def _enter(
    graph: Graph,
    names: tuple[str, ...],
    transfer: np.ndarray,
    best: dict[str, list[Path]],
    of_loop: dict[str, int],
    source: str,
    most: int,
) -> None:
    """Paths that enter a loop at any of its states and leave it at any other."""
    entering = {name: _best(_arriving(graph, name, best, of_loop), most) for name in names}
    if source in entering:
        entering[source].append(Path((source,), 1.0))
    for to, name in enumerate(names):
        found = []
        for at, first in enumerate(names):
            gain = float(transfer[to, at])
            for path in entering[first] if gain > 0 else ():
                blocks = path.blocks if first == name else (*path.blocks, name)
                looped = (*path.looped, (len(blocks) - 1, gain))
                found.append(Path(blocks, path.gain * gain, looped))
        best[name] = _best(found, most)


def _best(paths: list[Path], most: int) -> list[Path]:
    return nlargest(most, paths, key=lambda path: path.gain)


__all__ = ["Path", "strongest"]
