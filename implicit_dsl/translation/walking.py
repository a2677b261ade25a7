"""From the traced graph to terms: each call by its rule, or by what PyTorch makes of it."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx
from torch._decomp import decomposition_table
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from implicit_dsl.translation import naming
from implicit_dsl.translation.declaring import Declaring
from implicit_dsl.translation.exporting import OUTSIDE, STATELESS
from implicit_dsl.translation.mutation import is_written, names_of_written
from implicit_dsl.translation.refusal import TranslationError, class_of, path_of, refusal
from implicit_dsl.translation.rules import RULES
from implicit_dsl.translation.site import UNKNOWN_SIZE, Site
from implicit_dsl.translation.terms import Declaration, Form, Term
from implicit_dsl.translation.values import Misfit, Value, constant, flat

_CHECKS = ("aten._assert", "aten.sym_constrain", "aten.sym_size", "aten._assert_tensor_metadata")
_MOST_EXPANSIONS = 4


@dataclass
class Walk:
    """The values of the nodes of a graph, made in order."""

    batch: str
    declaring: Declaring
    calls: Mapping[str, set[str]]  # which operators each module calls
    values: dict[torch.fx.Node, Any] = field(default_factory=dict)
    hints: dict[Term, str] = field(default_factory=dict)
    vocabularies: dict[Declaration, int] = field(default_factory=dict)

    def run(self, graph: torch.fx.Graph, depth: int = 0) -> Any:
        """What the graph gives, for the placeholders in `values`. Raises TranslationError."""
        for node in graph.nodes:
            if node.op == "output":
                return pytree.tree_map_only(torch.fx.Node, self._value, node.args[0])
            if node.op == "get_attr":
                held = getattr(graph.owning_module, str(node.target), None)
                if not isinstance(held, torch.Tensor):
                    self.values[node] = held
                    continue
                self.values[node] = constant(held.detach().cpu())
            elif node.op == "call_function":
                self._call(node, depth)
        raise AssertionError("a graph ends with its output")

    def _value(self, node: torch.fx.Node) -> Any:
        return self.values[node]

    def _call(self, node: torch.fx.Node, depth: int) -> None:
        made = node.meta.get("val")
        if node.target is operator.getitem:
            source, at = node.args
            assert isinstance(source, torch.fx.Node)
            self.values[node] = self.values[source][at]
            return
        if made is not None and all(isinstance(one, _SIZES) for one in pytree.tree_leaves(made)):
            self.values[node] = made
            return
        if str(node.target).startswith(_CHECKS):
            return
        if not isinstance(node.target, torch._ops.OpOverload):
            raise refusal(node, "it runs a part of the graph by itself", _WHOLE)
        try:
            result = self._made(node, depth)
        except Misfit as misfit:
            raise refusal(node, misfit.reason, misfit.help) from None
        self._hint(node, result)
        self.values[node] = result
        if is_written(node):
            for same in names_of_written(node):
                key = self.declaring.key(same)
                if key is not None:
                    raise refusal(node, f"it changes the buffer `{key}`, {STATELESS}", OUTSIDE)
                self.values[same] = result

    def _made(self, node: torch.fx.Node, depth: int) -> Any:
        arguments, named = self._arguments(node)
        target = node.target
        assert isinstance(target, torch._ops.OpOverload)
        if torch.Tag.nondeterministic_seeded in target.tags and not _off(str(target), arguments):
            raise refusal(node, "it draws numbers at random, and a program gives the same each time")
        known = self._known(node)
        if known is not None:
            return known
        name = _plain(str(target))
        symbolic = any(
            isinstance(one, (torch.SymInt, torch.SymFloat)) for one in pytree.tree_leaves((arguments, named))
        )
        if symbolic and not name.split(".")[1].startswith(_SIZED):
            raise Misfit(UNKNOWN_SIZE)
        if name in RULES:
            site = Site(node, self.batch, self.declaring, self.vocabularies)
            return RULES[name](site, *arguments, **named)
        return self._expanded(node, depth)

    def _arguments(self, node: torch.fx.Node) -> tuple[list[Any], dict[str, Any]]:
        """The arguments by their places, with what is not said filled in."""
        target = node.target
        assert isinstance(target, torch._ops.OpOverload)
        given = [self._argument(one) for one in node.args]
        named = {name: self._argument(one) for name, one in node.kwargs.items()}
        for at, formal in enumerate(target._schema.arguments):
            if at < len(given) or formal.name in _UNREAD:
                continue
            if formal.name in named:
                given.append(named.pop(formal.name))
            elif formal.has_default_value():
                given.append(formal.default_value)
        return given, {name: one for name, one in named.items() if name not in _UNREAD}

    def _argument(self, one: Any) -> Any:
        return pytree.tree_map_only(torch.fx.Node, self._value, one)

    def _known(self, node: torch.fx.Node) -> Any:
        """The result as known numbers, if everything that it is computed of is known."""
        target: Any = node.target
        arguments, named = self._argument(node.args), self._argument(dict(node.kwargs))
        leaves = pytree.tree_leaves((arguments, named))
        values = [one for one in leaves if isinstance(one, Value)]
        if any(isinstance(one, (torch.SymInt, torch.SymFloat)) for one in leaves):
            return None
        if any(not one.folded or one.log or not _sized(one) for one in values):
            return None
        if not values and not any(word in str(target) for word in _MAKERS):
            return None
        dense = pytree.tree_map_only(Value, _dense, (arguments, named))
        made = target(*dense[0], **dense[1])
        return pytree.tree_map_only(torch.Tensor, lambda one: constant(one.detach().cpu()), made)

    def _expanded(self, node: torch.fx.Node, depth: int) -> Any:
        """A call without a rule, by the simpler ones that PyTorch has for it."""
        target: Any = node.target
        if depth >= _MOST_EXPANSIONS:
            raise refusal(node, _MISSING)
        graph = _decomposed(node)
        if graph is None:
            raise refusal(node, _MISSING)
        arguments = [self._argument(one) for one in node.args]
        named = {name: self._argument(one) for name, one in node.kwargs.items()}
        leaves = [one for one in pytree.tree_leaves((arguments, named)) if isinstance(one, Value)]
        places = [one for one in graph.nodes if one.op == "placeholder"]
        for place, value in zip(places, leaves, strict=True):
            self.values[place] = value
        for one in graph.nodes:
            one.meta = {**node.meta, "val": one.meta.get("val")}
            if one.op == "call_function" and one.target == target:
                raise refusal(node, _MISSING)
        try:
            return self.run(graph, depth + 1)
        except TranslationError as inner:  # which speaks of a part of the call
            raise refusal(node, inner.reason, inner.help) from inner

    def _hint(self, node: torch.fx.Node, result: Any) -> None:
        """What the new values may be called: their module, or the operator in its module."""
        path = path_of(node)
        called = str(node.target).split(".")[1].strip("_")
        called = _CALLED.get(called, called)
        if path and len(self.calls.get(path, ())) == 1:
            hint = naming.of_module(path, class_of(node))
        else:
            hint = f"{path}_{called}" if path else called
        for one in pytree.tree_leaves(result):
            term = one.term if isinstance(one, Value) else None
            if term is not None and term.form not in (Form.APPLY, Form.TIMES, Form.FIELD):
                self.hints.setdefault(term, hint)  # these are called after their layers


_CALLED = {"scaled_dot_product_attention": "attention", "matmul": "product", "bmm": "product"}
_SIZES = (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)
# whose arguments may be sizes that are not known: their results say which
_SIZED = (
    "view", "_unsafe_view", "reshape", "expand", "broadcast_to", "unflatten", "repeat", "tile", "slice",
    "zeros", "ones", "full", "new_zeros", "new_ones", "new_full",
)  # fmt: skip
_UNREAD = ("device", "pin_memory", "layout", "memory_format", "non_blocking", "copy")
_MAKERS = (
    "arange",
    "linspace",
    "eye",
    "zeros",
    "ones",
    "full",
    "scalar_tensor",
    "tril_indices",
    "triu_indices",
)
_MISSING = "it has no counterpart in the language"
_WHOLE = "leave `torch.no_grad`, `torch.autocast`, `torch.cond` and the like out of `forward`"


def _plain(name: str) -> str:
    """The operator that does not write in place: `aten.relu.default` of `aten.relu_.default`."""
    space, operation, overload = name.split(".")
    if operation.endswith("_") and not operation.startswith("_"):
        operation = operation[:-1]
    return f"{space}.{operation}.{overload}"


def _off(name: str, arguments: list[Any]) -> bool:
    """Whether something random is switched off, as in evaluation."""
    kind = name.split(".")[1].strip("_")
    if kind in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"):
        return True  # their rule says so
    if kind == "rrelu":
        return not arguments[3]
    return kind in ("lstm", "gru", "rnn_tanh", "rnn_relu", "scaled_dot_product_attention")


def _sized(value: Value) -> bool:
    return all(isinstance(atom.size, int) for atom in flat(value.axes))


def _dense(value: Value) -> torch.Tensor:
    """The tensor of known numbers."""
    from implicit_dsl.translation.values import length, materialised

    assert value.constant is not None
    if not value.axes:
        return value.constant.reshape(())
    held = materialised(value, value.axes).constant
    assert held is not None
    return held.expand([length(axis) for axis in value.axes])


def _decomposed(node: torch.fx.Node) -> torch.fx.Graph | None:
    """The simpler calls that one is made of, or None if it is one of the simplest."""
    target: Any = node.target
    composite = target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    table = {target: one} if (one := decomposition_table.get(target)) else {}
    if not composite and not table:
        return None
    given = pytree.tree_map_only(torch.fx.Node, lambda one: one.meta["val"], (node.args, dict(node.kwargs)))
    leaves, spec = pytree.tree_flatten(given)
    at = [place for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    def call(*tensors: torch.Tensor) -> Any:
        filled = list(leaves)
        for place, tensor in zip(at, tensors):
            filled[place] = tensor
        args, kwargs = pytree.tree_unflatten(filled, spec)
        return target(*args, **kwargs)

    try:
        with torch.no_grad():
            return make_fx(call, decomposition_table=table)(*(leaves[place] for place in at)).graph
    except RuntimeError:  # it needs sizes as numbers
        return None
