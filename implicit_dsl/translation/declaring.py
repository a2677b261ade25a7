"""What the program holds: layers and parameters, and which tensors of the module stand in them."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
import torch.fx

from implicit_dsl.translation import naming, terms
from implicit_dsl.translation.refusal import class_of, path_of
from implicit_dsl.translation.terms import Declaration, Term
from implicit_dsl.translation.values import Value, atoms, constant

# the calls that are layers of the language, by the places of their tensors
LAYERS: dict[str, tuple[int, ...]] = {
    "aten.linear.default": (1, 2),
    "aten.conv1d.default": (1, 2),
    "aten.conv2d.default": (1, 2),
    "aten.conv3d.default": (1, 2),
    "aten.conv1d.padding": (1, 2),
    "aten.conv2d.padding": (1, 2),
    "aten.conv3d.padding": (1, 2),
    "aten.conv_transpose1d.default": (1, 2),
    "aten.conv_transpose2d.input": (1, 2),
    "aten.conv_transpose3d.input": (1, 2),
    "aten.batch_norm.default": (1, 2, 3, 4),
    "aten._native_batch_norm_legit_no_training.default": (1, 2, 3, 4),
    "aten.layer_norm.default": (2, 3),
    "aten.group_norm.default": (2, 3),
    "aten.instance_norm.default": (1, 2),
    "aten.rms_norm.default": (2,),
    "aten.prelu.default": (1,),
    "aten.embedding.default": (0,),
}


class Declaring:
    """Makes declarations, the same one for the same tensors."""

    def __init__(self, graph: torch.fx.Graph, held: Mapping[str, str], tensors: Mapping[str, torch.Tensor]):
        """`held`: from placeholders to keys of the module; `tensors`: its tensors by their keys."""
        self.tensors = tensors
        self._held = held
        self._layers: dict[tuple[object, ...], Term] = {}
        self._params: dict[str, Term] = {}
        self._whole = _used_whole(graph, held)

    def layer(
        self,
        node: torch.fx.Node,
        text: str,
        held: Mapping[str, Value | None],
        more: Mapping[str, str],
        note: str = "",
        sets: tuple[tuple[str, int], ...] = (),
    ) -> Term | None:
        """The layer `text` with these tensors, by their names in the layer; see `Site.layer`."""
        keys = {role: value.parameter for role, value in held.items() if value is not None}
        if any(key is None or key not in self._whole for key in keys.values()):
            return None
        same = (text, *sorted((role, str(key)) for role, key in keys.items()))
        if not keys:  # nothing is learned, but what is one module is one layer
            same = (text, path_of(node))
        if same not in self._layers:
            holds = [
                (str(key), f".{role}") for role, key in (*keys.items(), *((r, k) for r, k in more.items()))
            ]
            wanted = _layer_name(node, [str(key) for key in keys.values()])
            self._layers[same] = terms.name(
                Declaration("layer", wanted, f"= {text}", tuple(holds), note=note, sets=sets)
            )
        return self._layers[same]

    def key(self, node: torch.fx.Node) -> str | None:
        """The key of the tensor that a placeholder stands for."""
        return self._held.get(node.name)

    def block(self, text: str, instance: str, wanted: str, held: Mapping[str, str]) -> Term:
        """An instance of a block whose text is part of the program; `held` from its parameters to keys."""
        same = (instance, *sorted(held.items()))
        if same not in self._layers:
            holds = tuple((key, f"_{role}") for role, key in held.items())
            self._layers[same] = terms.name(Declaration("layer", wanted, f"= {instance}", holds, text))
        return self._layers[same]

    def value(self, key: str) -> Value:
        """The tensor `key` as a parameter of its own; one of integers as numbers that are known."""
        tensor = self.tensors[key]
        if not tensor.is_floating_point():
            return constant(tensor.detach().cpu())
        if key not in self._params:
            shape = ", ".join(map(str, tensor.shape))
            note = "" if isinstance(tensor, torch.nn.Parameter) else "not trained"
            self._params[key] = terms.name(Declaration("param", key, f"[{shape}]", ((key, ""),), note=note))
        axes = atoms(*tensor.shape)
        known = None if isinstance(tensor, torch.nn.Parameter) else tensor.detach().cpu()
        if known is not None:
            known = known.reshape([*tensor.shape])
        return Value(self._params[key], axes, axes, known, parameter=key)


def _used_whole(graph: torch.fx.Graph, held: Mapping[str, str]) -> set[str]:
    """The tensors that only stand in layers, each in layers with the same tensors and settings."""
    uses: dict[str, set[tuple[object, ...]]] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if _is_part(node):  # the rows of a parameter are used where they are read
            continue
        places = LAYERS.get(str(node.target), ())
        kept = [_whole(node.args[at]) for at in places if at < len(node.args)]
        rest = (repr(one) for at, one in enumerate(node.args) if at and not isinstance(one, torch.fx.Node))
        layer = (str(node.target), str(kept), *rest)
        for read in map(_whole, node.all_input_nodes):
            if read.name in held:
                own = layer if read in kept else (node.name, None)
                uses.setdefault(held[read.name], set()).add(own)
    return {key for key, found in uses.items() if len(found) == 1 and next(iter(found))[1] is not None}


def _is_part(node: torch.fx.Node) -> bool:
    return node.target is operator.getitem or str(node.target).startswith(_PARTS)


def _whole(node: Any) -> Any:
    """The placeholder that a node is some rows of, or else the node."""
    base = node
    while isinstance(base, torch.fx.Node) and _is_part(base):
        base = base.args[0]
    return base if isinstance(base, torch.fx.Node) and base.op == "placeholder" else node


_PARTS = ("aten.split", "aten.chunk", "aten.slice.")


def _layer_name(node: torch.fx.Node, keys: list[str]) -> str:
    """That of the module that owns the tensors, or of the call if there are none."""
    if not keys:
        return naming.of_module(path_of(node), class_of(node))
    owner, _, last = keys[0].rpartition(".")
    rest = last.removesuffix("weight").removesuffix("running_mean").removesuffix("bias").strip("_")
    path = f"{owner}.{rest}" if owner and rest else owner or rest
    kind = class_of(node) if path_of(node) == owner else str(node.target).split(".")[1]
    return naming.of_module(path, kind) if path else kind.lower()
