"""From a module to the graph of its calls, by `torch.export`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils import _pytree as pytree

from implicit_dsl.runtime.evaluating import evaluating
from implicit_dsl.translation.mutation import writes_into_views
from implicit_dsl.translation.refusal import TranslationError


@dataclass(frozen=True)
class Exported:
    """The traced graph, and what its placeholders are."""

    graph: torch.fx.Graph
    inputs: Mapping[str, int]  # placeholder -> its batch axis
    held: Mapping[str, str]  # placeholder -> name of the parameter or buffer
    constants: Mapping[str, torch.Tensor]  # placeholder -> a tensor that `forward` writes down
    outputs: tuple[tuple[str, str], ...]  # name of the output, node that gives it
    batch: str  # the symbol of the batch size
    args: tuple[Any, ...]  # the example inputs, with a batch of two or more
    kwargs: dict[str, Any]

    @property
    def examples(self) -> tuple[torch.Tensor, ...]:
        """The example inputs, one by one."""
        return tuple(pytree.tree_leaves((self.args, self.kwargs)))


@contextmanager
def preserving(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode; modes, buffers and random numbers are as before afterwards."""
    buffers = [
        (part, name, buffer, buffer.detach().clone())
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
    ]
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # the path taken in training, operator by operator
        with evaluating(module), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for part, name, buffer, before in buffers:
            if getattr(part, name) is not buffer:
                setattr(part, name, buffer)
            if not torch.equal(buffer, before):
                buffer.detach().copy_(before)


def check_values(module: nn.Module) -> None:
    """Raises TranslationError if a tensor of the module has no values to be copied."""
    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
            raise TranslationError(
                f"`{key}` has no shape yet", help="run the module once before translating it"
            )
        if tensor.is_meta:
            raise TranslationError(
                f"`{key}` is on the meta device and has no values", help="load its weights first"
            )


def prepared(
    args: tuple[Any, ...], kwargs: dict[str, Any], batch_axis: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Copies of the example inputs, with a batch of at least two. Raises TranslationError."""
    found: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map(
        lambda one: _example(one, batch_axis), (args, kwargs)
    )
    _check_batches(pytree.tree_leaves(found), batch_axis)
    return found


def export(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batch_axis: int,
    free_axes: Mapping[str, int | Sequence[int]],
) -> Exported:
    """The graph of a module in evaluation mode. Raises TranslationError where it cannot be captured."""
    examples = pytree.tree_leaves((args, kwargs))
    batch = Dim("batch")
    free = _free(module, args, kwargs, batch_axis, free_axes)
    collected: Any = ShapesCollection
    shapes = collected()
    for one in examples:
        axes = {axis: Dim.DYNAMIC for given, axis in free if given is one}
        shapes[one] = {**axes, batch_axis % one.ndim: batch}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, args, kwargs, dynamic_shapes=shapes)
            if writes_into_views(program.graph):
                program = program.run_decompositions({})
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, LookupError) as error:
        raise _uncaptured(error, bool(free)) from error
    return _read(program, batch_axis, args, kwargs)


def _free(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batch_axis: int,
    free_axes: Mapping[str, int | Sequence[int]],
) -> list[tuple[torch.Tensor, int]]:
    """The inputs with free axes, and each of these."""
    named = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    found = []
    for name, axes in free_axes.items():
        one = named.get(name)
        if not isinstance(one, torch.Tensor):
            raise TranslationError(
                f"`free_axes` names `{name}`, which is no tensor that `forward` takes",
                help=f"it takes {', '.join(named)}",
            )
        for axis in (axes,) if isinstance(axes, int) else axes:
            if not -one.ndim <= axis < one.ndim or axis % one.ndim == batch_axis % one.ndim:
                raise TranslationError(
                    f"`free_axes` names axis {axis} of `{name}` {list(one.shape)}",
                    help="name axes that it has, beside that of the batch",
                )
            if one.shape[axis] < 2:
                raise TranslationError(
                    f"axis {axis} of `{name}` is free and of size {one.shape[axis]}",
                    help="give an example of size 2 or more, as sizes of 1 are taken for fixed",
                )
            found.append((one, axis % one.ndim))
    return found


def _example(one: Any, batch_axis: int) -> torch.Tensor:
    """An input with a batch of at least two, as sizes of one are taken for fixed."""
    if not isinstance(one, torch.Tensor):
        raise TranslationError(
            f"an input is {one!r} ({type(one).__name__}), and the inputs of a program are tensors",
            help="wrap the module in one whose `forward` takes tensors alone, and writes down the rest",
        )
    if one.ndim == 0 or not -one.ndim <= batch_axis < one.ndim:
        raise TranslationError(
            f"an input of shape {list(one.shape)} has no batch axis {batch_axis}",
            help="give each example input a batch axis, of any size; `batch_axis` says which it is",
        )
    if one.layout is not torch.strided or one.is_complex():
        raise TranslationError(f"an input is {one.dtype}, {one.layout}: it must be dense and real")
    one = one.detach()
    repeated: torch.Tensor = one.repeat_interleave(2 if one.shape[batch_axis] == 1 else 1, batch_axis)
    return repeated  # each input is a tensor of its own, also if one was given twice


def _check_batches(examples: Sequence[torch.Tensor], batch_axis: int) -> None:
    if not examples:
        raise TranslationError("there are no example inputs", help="give one tensor for each input")
    batches = {one.shape[batch_axis] for one in examples}
    if len(batches) > 1 or 0 in batches:
        raise TranslationError(
            f"the example inputs have batches of {', '.join(map(str, sorted(batches)))} samples",
            help="give each input the same number of samples; `batch_axis` says along which axis they lie",
        )


def _uncaptured(error: Exception, free: bool) -> TranslationError:
    """The failure of `torch.export`, with what it mostly means."""
    said = " ".join(str(error).split())
    short = said if len(said) <= 300 else said[:300] + " …"
    if "data-dependent" in said.lower() or "GuardOnDataDependent" in type(error).__name__:
        reason = "`forward` decides by numbers in its tensors, and a program has one path for all inputs"
        help = "compute both branches and weigh them, or fix the choice before translating"
    elif "onstraint" in said or "specializ" in said or "batch" in said:
        reason = "`forward` needs a certain batch size"
        help = "write sizes with `x.shape[0]` or `-1` where the batch is, or name it by `batch_axis`"
        if free:
            reason = "`forward` needs certain sizes of the batch or of axes that are free"
            help = "leave `free_axes` out: of recurrent networks, torch.export fixes the number of steps"
    else:
        reason = "`torch.export` cannot capture this module"
        help = "`torch.export.export(module.eval(), example_inputs)` shows where"
    return TranslationError(f"{reason} ({type(error).__name__}: {short})", help=help)


# --------------------------------------------------------------------------- the signature


def _read(
    program: ExportedProgram, batch_axis: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Exported:
    inputs: dict[str, int] = {}
    held: dict[str, str] = {}
    constants: dict[str, torch.Tensor] = {}
    batch = ""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    for spec in program.graph_signature.input_specs:
        target = spec.target
        if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, TensorArgument):
            value = values[spec.arg.name]
            assert isinstance(value, torch.Tensor)
            axis = batch_axis % value.ndim
            inputs[spec.arg.name] = axis
            batch = str(value.shape[axis])
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and target is not None:
            held[spec.arg.name] = target
        elif spec.kind is InputKind.CONSTANT_TENSOR and target is not None:
            constants[spec.arg.name] = program.constants[target]
        else:
            raise TranslationError(f"the input `{spec.arg.name}` is no tensor ({spec.kind.name})")
    return Exported(program.graph, inputs, held, constants, _outputs(program), batch, args, kwargs)


STATELESS = "and a program keeps nothing from one call to the next"
OUTSIDE = "give it to `forward` as an input, and take it back as an output"


def _outputs(program: ExportedProgram) -> tuple[tuple[str, str], ...]:
    """The tensors that the module gives, by names that are made of the keys of dictionaries."""
    specs = program.graph_signature.output_specs
    for spec in specs:
        if spec.kind is OutputKind.BUFFER_MUTATION:
            raise TranslationError(f"`forward` changes the buffer `{spec.target}`, {STATELESS}", help=OUTSIDE)
    given = [spec for spec in specs if spec.kind is OutputKind.USER_OUTPUT]
    spec = program.call_spec.out_spec
    assert spec is not None
    paths = pytree.tree_leaves_with_path(pytree.tree_unflatten(list(range(len(given))), spec))
    found = []
    for (path, _), one in zip(paths, given):
        if isinstance(one.arg, TensorArgument):
            found.append((_called(path), one.arg.name))
        elif not (isinstance(one.arg, ConstantArgument) and one.arg.value is None):
            raise TranslationError(
                f"the output `{pytree.keystr(path)}` is no tensor",
                help="let `forward` give tensors alone; None is left out",
            )
    if not found:
        raise TranslationError("the module gives no tensor")
    return tuple(found)


def _called(path: Sequence[Any]) -> str:
    """The keys on the way to an output, without the places in lists."""
    keys = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
    return "_".join(filter(None, keys))
