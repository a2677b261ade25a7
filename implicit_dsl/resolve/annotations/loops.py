"""Which states depend on themselves, and on which of each other."""

from __future__ import annotations

from collections.abc import Mapping

from implicit_dsl.graph import Edge, Node, Role


def loops_of(nodes: tuple[Node, ...], edges: tuple[Edge, ...]) -> dict[str, int]:
    """The number of its loop for each state that is in one: states that reach one another (Tarjan 1972)."""
    reads: dict[str, list[str]] = {node.name: [] for node in nodes if node.role is Role.STATE}
    for edge in edges:
        if edge.source in reads and edge.target in reads:
            reads[edge.target].append(edge.source)
    found: dict[str, int] = {}
    for number, group in enumerate(_components(reads)):
        if len(group) > 1 or group[0] in reads[group[0]]:
            found.update(dict.fromkeys(group, number))
    return found


def _components(reads: Mapping[str, list[str]]) -> list[list[str]]:
    """Strongly connected components, without recursion."""
    order: dict[str, int] = {}  # of discovery
    lowest: dict[str, int] = {}  # the first discovered that can be reached
    open_: list[str] = []
    inside: set[str] = set()
    found: list[list[str]] = []
    for start in reads:
        walk = [(start, iter(reads[start]))] if start not in order else []
        while walk:
            name, rest = walk[-1]
            if name not in order:
                order[name] = lowest[name] = len(order)
                open_.append(name)
                inside.add(name)
            step = next((other for other in rest if other not in order or other in inside), None)
            if step is None:
                walk.pop()
                if walk:
                    lowest[walk[-1][0]] = min(lowest[walk[-1][0]], lowest[name])
                if lowest[name] == order[name]:
                    at = open_.index(name)
                    found.append(open_[at:])
                    inside.difference_update(open_[at:])
                    del open_[at:]
            elif step in order:
                lowest[name] = min(lowest[name], order[step])
            else:
                walk.append((step, iter(reads[step])))
    return found
