"""Data sets named on the command line: inputs of a model and their classes, from an archive of arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from implicit_dsl._lazy import lazy_module
from implicit_dsl.cli.messages import Refusal, plural
from implicit_dsl.cli.options import USAGE
from implicit_dsl.files import reason
from implicit_dsl.shapes import known, sizes

if TYPE_CHECKING:
    from argparse import Namespace

    import numpy as np
    import torch

    from implicit_dsl.model import Block, ImplicitModel
    from implicit_dsl.page.subject import Samples
else:
    np = lazy_module("numpy")

INPUTS, LABELS = "inputs", "labels"
HELP = f"an archive .npz: `{INPUTS}`, or one array for each input by its name, and `{LABELS}`"


def samples(path: str, model: ImplicitModel, most: int | None = None) -> Samples:
    """The samples of a file, at most the first `most`. Raises Refusal if they do not fit the model."""
    from implicit_dsl.page.subject import Samples

    arrays = _read(path)
    given = _inputs(path, arrays, model.inputs)
    count = len(given[0])
    for block, array in zip(model.inputs, given):
        if len(array) != count:
            first = model.inputs[0].name
            raise Refusal(
                f"`{path}` has {plural(count, 'sample')} of `{first}`, but {len(array):,} of `{block.name}`"
            )
    if not count:
        raise Refusal(f"`{path}` holds no samples")
    kept = count if most is None else min(most, count)
    tensors = tuple(_tensor(path, array[:kept], block) for array, block in zip(given, model.inputs))
    labels, why = _labels(path, arrays, model, count)
    name = os.path.basename(path)
    return Samples(name, tensors, None if labels is None else labels[:kept], why, count - kept)


def bind_to(found: Samples, model: ImplicitModel, options: Namespace) -> None:
    """Take free sizes of inputs that the command line leaves open from the data."""
    if model.free and not options.sizes and options.length is None:
        shapes = zip(model.inputs, found.inputs)
        options.sizes = [(block.name, tuple(tensor.shape[1:])) for block, tensor in shapes]


def fitting(path: str, found: Samples, model: ImplicitModel) -> None:
    """Raises Refusal unless the samples have the shapes of the bound model."""
    for block, tensor in zip(model.inputs, found.inputs):
        if tuple(tensor.shape[1:]) != sizes(block.given):
            got, wanted = _shape(tensor.shape[1:]), _shape(block.given)
            raise Refusal(
                f"samples of `{block.name}` in `{path}` have the shape {got}, and the model has {wanted}"
            )


def _read(path: str) -> dict[str, np.ndarray]:
    """The arrays of an archive by name; those that hold objects are left out."""
    import zipfile

    if os.path.splitext(path)[1].lower() != ".npz":
        raise Refusal(
            f"`{path}` must end in .npz", f"write it with `np.savez(path, {INPUTS}=…, {LABELS}=…)`", USAGE
        )
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as held:
            for name in held.files:
                try:
                    arrays[name] = held[name]
                except ValueError as error:
                    if "allow_pickle" not in str(error) and "Object arrays" not in str(error):
                        raise
    except OSError as error:
        raise Refusal(f"`{path}` cannot be read: {reason(error)}") from None
    except (ValueError, TypeError, EOFError, AttributeError, KeyError, zipfile.BadZipFile) as error:
        raise Refusal(f"`{path}` is no archive of arrays: {error}") from None
    return arrays


def _inputs(path: str, arrays: Mapping[str, np.ndarray], blocks: Sequence[Block]) -> list[np.ndarray]:
    names = [block.name for block in blocks]
    if not names:
        raise Refusal("the model has no inputs, so that there are no data to give it", code=USAGE)
    if len(names) == 1 and names[0] != INPUTS and INPUTS in arrays:
        if names[0] in arrays:
            raise Refusal(f"`{path}` has both `{INPUTS}` and `{names[0]}`", "leave one of them out")
        return [arrays[INPUTS]]
    missing = [name for name in names if name not in arrays]
    if missing:
        has = f"it has {_listed(arrays)}" if arrays else "it has none that is not made of objects"
        wanted = f"`{INPUTS}` or `{names[0]}`" if len(names) == 1 else f"`{missing[0]}`"
        example = INPUTS if len(names) == 1 else "=…, ".join(names)
        raise Refusal(
            f"`{path}` has no array {wanted}: {has}",
            f"write it with `np.savez(path, {example}=…, {LABELS}=…)`",
        )
    return [arrays[name] for name in names]


def _listed(arrays: Mapping[str, Any], most: int = 6) -> str:
    names = list(arrays)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _tensor(path: str, array: np.ndarray, block: Block) -> torch.Tensor:
    """Samples [samples, *shape] of one input, checked: float64, or int64 for tokens."""
    import torch

    wanted = block.given
    fits = array.ndim == 1 + len(wanted) and all(
        not isinstance(size, int) or size == got for size, got in zip(wanted, array.shape[1:])
    )
    if not fits:
        raise Refusal(
            f"samples of `{block.name}` in `{path}` have the shape {_shape(array.shape[1:])}, "
            f"and the model has {_shape(wanted)}",
            "the first axis counts samples, the others are those of the model",
        )
    if block.tokens:
        return torch.from_numpy(_tokens(path, array, block))
    if array.dtype.kind not in "fiub":
        raise Refusal(f"`{block.name}` in `{path}` holds {array.dtype} values, and real numbers are needed")
    real = array.astype(np.float64)
    wrong = ~np.isfinite(real.reshape(len(real), -1)).all(1)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise Refusal(
            f"`{block.name}` in `{path}` has values that are not finite, "
            f"in {plural(int(wrong.sum()), 'sample')}, the first of them number {first}",
            "leave these samples out, or fill in what is missing",
        )
    return torch.from_numpy(real)


def _tokens(path: str, array: np.ndarray, block: Block) -> np.ndarray:
    if array.dtype.kind not in "iu":
        raise Refusal(f"`{block.name}` in `{path}` holds {array.dtype} values, and tokens are whole numbers")
    vocab = block.shape[-1]
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    if low < 0 or (isinstance(vocab, int) and high >= vocab):
        raise Refusal(
            f"`{block.name}` in `{path}` has tokens from {low} to {high}, and the model has {vocab}"
        )
    return array.astype(np.int64)


def _labels(
    path: str, arrays: Mapping[str, np.ndarray], model: ImplicitModel, count: int
) -> tuple[np.ndarray | None, str]:
    """The right classes [samples], or why there are none. Raises Refusal for ones that are wrong."""
    if LABELS not in arrays:
        return None, f"{os.path.basename(path)} has no array `{LABELS}`"
    if len(model.outputs) != 1:
        return None, f"the model has {len(model.outputs)} outputs, and `{LABELS}` are about one"
    (output,) = model.outputs
    (classes,) = output.shape if len(output.shape) == 1 else (None,)
    if not isinstance(classes, int) or known(output.shape) is None or classes < 2:
        return (
            None,
            f"the output `{output.name}` has the shape {_shape(output.shape)}, and no number for each class",
        )
    labels = arrays[LABELS]
    if labels.shape != (count,):
        raise Refusal(f"`{LABELS}` in `{path}` has the shape {_shape(labels.shape)}, not {_shape((count,))}")
    if labels.dtype.kind not in "fiub" or not (np.isfinite(labels) & (labels == np.floor(labels))).all():
        raise Refusal(
            f"`{LABELS}` in `{path}` are not whole numbers", f"number the classes from 0 to {classes - 1}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise Refusal(
            f"`{LABELS}` in `{path}` are from {low} to {high}, those of the model from 0 to {classes - 1}",
            "number the classes from 0",
        )
    return labels.astype(np.int64), ""


def _shape(shape: Sequence[Any]) -> str:
    return f"[{', '.join(str(size) if isinstance(size, int) else '_' for size in shape)}]"
