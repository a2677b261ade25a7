"""What is written in place: `relu_`, `x += 1`. A program has no places, so what is written is a new tensor.

That is the same unless the old tensor is read under another name, as a part or a view of it.
"""

from __future__ import annotations

import torch.fx

_NOTHING = (
    "aten.dropout.",
    "aten.feature_dropout.",
    "aten.alpha_dropout.",
    "aten.contiguous.",
    "aten.detach",
)


def is_written(node: torch.fx.Node) -> bool:
    """Whether a call writes into its first argument."""
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable)


def names_of_written(node: torch.fx.Node) -> list[torch.fx.Node]:
    """The nodes that are the very tensor that a call writes into, the last first.

    In evaluation a dropout gives the tensor itself.
    """
    found: list[torch.fx.Node] = []
    one = node.args[0]
    while isinstance(one, torch.fx.Node):
        found.append(one)
        if not (is_written(one) or str(one.target).startswith(_NOTHING)):
            break
        one = one.args[0]
    return found


def writes_into_views(graph: torch.fx.Graph) -> bool:
    """Whether something is written that is read under another name, before or behind."""
    place = {node: at for at, node in enumerate(graph.nodes)}
    root: dict[torch.fx.Node, torch.fx.Node] = {}
    group: dict[torch.fx.Node, list[torch.fx.Node]] = {}
    for node in graph.nodes:
        first = node.args[0] if node.args else None
        base = root[first] if isinstance(first, torch.fx.Node) and _may_alias(node) else node
        root[node] = base
        if is_written(node):
            same = names_of_written(node)
            if base not in same:
                return True
            others = (one for one in group[base] if one not in same)
            if any(place[user] > place[node] for one in others for user in one.users):
                return True
        group.setdefault(base, []).append(node)
    return False


def _may_alias(node: torch.fx.Node) -> bool:
    """Whether the result may lie where the first argument does."""
    if node.op != "call_function":
        return False
    schema = getattr(node.target, "_schema", None)
    if schema is None or str(node.target).startswith(_NOTHING):
        return True
    return any(one.alias_info is not None for one in schema.returns)
