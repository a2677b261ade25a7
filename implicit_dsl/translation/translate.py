"""`from_torch`: a module traced, written as a program, compiled, and given its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
import torch.fx
from torch import nn
from torch.utils import _pytree as pytree

from implicit_dsl.errors import ImplicitError
from implicit_dsl.loading import loads
from implicit_dsl.runtime.system import System
from implicit_dsl.translation.declaring import Declaring
from implicit_dsl.translation.exporting import Exported, check_values, export, prepared, preserving
from implicit_dsl.translation.program import program
from implicit_dsl.translation.refusal import TranslationError, path_of, refusal
from implicit_dsl.translation.regrouping import axis_of, size_of
from implicit_dsl.translation.terms import Declaration, Term, multiply, name
from implicit_dsl.translation.values import (
    BATCH,
    Misfit,
    Value,
    constant,
    materialised,
    network_term,
    size,
    without_batch,
)
from implicit_dsl.translation.walking import Walk


@dataclass(frozen=True)
class Translated:
    """A module as a program of the language.

    `source` is the program, `model` the compiled module that holds copies of the weights, in evaluation
    mode, and `keys` lead from names of the original's state_dict to those of the model's. The batch
    is axis 0 of what the model takes and gives; `batch_axes` says where it is for the original.
    """

    source: str
    model: nn.Module
    keys: Mapping[str, str]
    batch_axes: Mapping[str, int]

    def system(self, **shapes: Any) -> System:
        """The exact matrices A, B, C, D of the model with its weights, as `model.system(…)`."""
        made: System = cast(Any, self.model).system(**shapes)
        return made


def from_torch(
    module: nn.Module,
    example_inputs: torch.Tensor | Sequence[Any],
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    batch_axis: int = 0,
    free_axes: Mapping[str, int | Sequence[int]] | None = None,
) -> Translated:
    """The module, as it is in evaluation mode, as a program of the language and a compiled model.

    `example_inputs` are what `forward` takes, with a batch of any size on `batch_axis`: one tensor
    or several. Axes in `free_axes`, `{"x": 1}`, may have another size at each call, as far as `torch.export`
    and the language allow. Tensors of whole numbers are tokens, which an nn.Embedding reads. The module is
    left as it is. Raises TranslationError with the operator, the module and the line of what cannot be
    translated, TypeError for what is no module, and what the module itself raises for the inputs.
    """
    args = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    if not isinstance(module, nn.Module):
        raise TypeError(f"{type(module).__name__} is no nn.Module: put what it computes into a `forward`")
    check_values(module)
    args, kwargs = prepared(args, dict(example_kwargs or {}), batch_axis)
    with preserving(module):
        _called(module, args, kwargs)  # errors such as those of wrong shapes are the user's own
        exported = export(module, args, kwargs, batch_axis, free_axes or {})
        written = _written(module, exported)
        model = _compiled(written)
        _load(model, module, written, exported)
        _check(module, model, written, exported)
    return Translated(
        written.source, model, MappingProxyType(written.public), MappingProxyType(written.batch_axes)
    )


@dataclass(frozen=True)
class _Written:
    """A program, and how it relates to the module."""

    source: str
    title: str
    keys: dict[str, str]  # first key of each tensor -> key of the model
    sets: tuple[tuple[str, str, int], ...]  # attributes of layers: name of the layer and attribute, value
    numbers: dict[str, torch.Tensor]  # key of the model -> what it holds that is no tensor of the module
    public: dict[str, str]  # each key of the state_dict of the module -> key of the model
    batch_axes: dict[str, int]
    outputs: tuple[int, ...]  # the batch axis of each output


def _written(module: nn.Module, exported: Exported) -> _Written:
    """The program for a traced module. Raises TranslationError."""
    tensors, first = _tensors(module)
    held = {place: first[key] for place, key in exported.held.items()}
    walk = Walk(exported.batch, Declaring(exported.graph, held, tensors), _calls(exported.graph))
    inputs: list[Declaration] = []
    free: dict[str, str] = {}
    for node in exported.graph.nodes:
        if node.name in exported.inputs:
            walk.values[node], declaration = _input(node, exported.batch, free)
            inputs.append(declaration)
        elif node.name in held:
            walk.values[node] = walk.declaring.value(held[node.name])
        elif node.name in exported.constants:
            walk.values[node] = constant(exported.constants[node.name].detach().cpu())
    walk.run(exported.graph)
    nodes = {node.name: node for node in exported.graph.nodes}
    given = [_output(walk.values[nodes[made]], nodes[made]) for _, made in exported.outputs]
    single = len(given) == 1
    wanted = [name or ("y" if single else f"y{at}") for at, (name, _) in enumerate(exported.outputs, 1)]
    kind = type(module).__name__
    ends = {one: f" in Tokens({count})" for one, count in walk.vocabularies.items()}
    outputs = [(one, term) for one, (term, _) in zip(wanted, given)]
    made = program(kind, inputs, ends, outputs, walk.hints)
    keys = {key: called + rest for one, called in made.names.items() for key, rest in one.holds}
    numbers = {called: one.numbers for one, called in made.names.items() if one.numbers is not None}
    public = {key: keys[first[key]] for key in module.state_dict() if first.get(key) in keys}
    axes = {made.names[one]: axis for one, axis in zip(inputs, exported.inputs.values())}
    axes |= {one: place for one, (_, place) in zip(made.outputs, given)}
    sets = tuple((called, *one) for declared, called in made.names.items() for one in declared.sets)
    places = tuple(place for _, place in given)
    return _Written(made.text, made.title, keys, sets, numbers, public, axes, places)


def _tensors(module: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a module by their first key, and from each key to the first one of the same tensor."""
    named: dict[str, torch.Tensor] = dict(module.named_parameters(remove_duplicate=False))
    named |= dict(module.named_buffers(remove_duplicate=False))
    seen: dict[int, str] = {}
    first = {key: seen.setdefault(id(tensor), key) for key, tensor in named.items()}
    return {key: named[key] for key in seen.values()}, first


def _calls(graph: torch.fx.Graph) -> dict[str, set[str]]:
    """Which operators each module calls."""
    found: dict[str, set[str]] = {}
    for node in graph.nodes:
        if node.op == "call_function":
            found.setdefault(path_of(node), set()).add(str(node.target))
    return found


def _input(node: torch.fx.Node, batch: str, free: dict[str, str]) -> tuple[Value, Declaration]:
    """An input with axes of its own. `free` has where free sizes were seen first, and is added to."""
    axes = tuple(axis_of(size_of(one, batch)) for one in node.meta["val"].shape)
    stored = without_batch(axes)
    called = "x" if node.name == "input" else node.name  # a keyword, and what nn.Sequential calls it
    written = []
    for place, axis in enumerate(stored, 1):
        symbol = axis[0].size if axis else 1
        written.append(str(size(axis)) if isinstance(symbol, int) else free.get(symbol, "_"))
        if isinstance(symbol, str):
            free.setdefault(symbol, f"size({called}, {place})")
    shape = ", ".join(written)
    declaration = Declaration("input", called, f"[{shape}]")
    term = name(declaration)
    if node.meta["val"].dtype is torch.bool:  # products with numbers are numbers
        term = multiply(term, name(Declaration("param", "one", "[] = fixed(1)")))
    return Value(term, stored, axes), declaration


def _output(value: Value, node: torch.fx.Node) -> tuple[Term, int]:
    """What the program gives, and where the batch was."""
    if not node.meta["val"].dtype.is_floating_point:
        raise refusal(
            node,
            f"the output is of {node.meta['val'].dtype}, and a program gives real numbers",
            "leave it out",
        )
    if (BATCH,) not in value.axes:
        raise refusal(
            node,
            "the output has no batch axis, and a program gives something for each sample",
            "let it depend on the inputs, sample by sample",
        )
    try:
        return network_term(materialised(value, without_batch(value.axes))), value.axes.index((BATCH,))
    except Misfit as misfit:
        raise refusal(node, misfit.reason, misfit.help) from None


def _compiled(written: _Written) -> nn.Module:
    """The model, with the random numbers of others left as they are."""
    try:
        with torch.random.fork_rng(devices=[]):
            model: nn.Module = getattr(loads(written.source), written.title)()
    except ImplicitError as error:
        raise TranslationError(
            f"the program does not compile:\n{error}\nin\n{written.source}",
            help="the message says which operator of the program does not fit",
        ) from error
    return model.eval()


def _load(model: nn.Module, module: nn.Module, written: _Written, exported: Exported) -> None:
    """Copies of the weights, in their number type and on their device."""
    tensors, _ = _tensors(module)
    real = [one for one in (*tensors.values(), *exported.examples) if one.is_floating_point()]
    if real:
        model.to(device=real[0].device, dtype=real[0].dtype)
    for layer, attribute, value in written.sets:
        setattr(model.get_submodule(layer), attribute, value)
    state = {new: tensors[old].detach().clone() for old, new in written.keys.items()}
    model.load_state_dict(state | written.numbers)
    trained = dict.fromkeys(written.numbers, False)
    trained |= {new: tensors[old].requires_grad for old, new in written.keys.items()}
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(trained[key])


def _called(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """What the module gives; it may write into its inputs."""
    with torch.no_grad():
        args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, (args, kwargs))
        return [one for one in pytree.tree_leaves(module(*args, **kwargs)) if isinstance(one, torch.Tensor)]


def _check(module: nn.Module, model: nn.Module, written: _Written, exported: Exported) -> None:
    """Both give the same for the examples and one sample more, or the translation is wrong and not given."""
    places = {id(one): axis for one, axis in zip(exported.examples, written.batch_axes.values())}

    def longer(one: torch.Tensor) -> torch.Tensor:
        axis = places[id(one)]
        return torch.cat([one, one.narrow(axis, 0, 1)], axis)

    args, kwargs = pytree.tree_map(longer, (exported.args, exported.kwargs))
    original = _called(module, args, kwargs)
    inputs = (one.movedim(axis, 0) for one, axis in zip(pytree.tree_leaves((args, kwargs)), places.values()))
    with torch.no_grad():
        made = model(*inputs)
    made = (made,) if isinstance(made, torch.Tensor) else tuple(made)
    for theirs, ours, axis in zip(original, made, written.outputs, strict=True):
        near = torch.finfo(ours.dtype).eps ** 0.5
        theirs = theirs.movedim(axis, 0).to(ours.dtype)
        far = near * max(1.0, float(theirs.abs().max()))
        if theirs.shape != ours.shape or not torch.allclose(ours, theirs, near, far, equal_nan=True):
            raise TranslationError(
                "the translation gives other numbers than the module for the example inputs",
                help="this is a mistake of the translation: please report it, with the module",
            )
