"""What is fitted: inputs and targets, checked against the blocks of a model before anything is done."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from implicit_dsl.model import Block
from implicit_dsl.shapes import sizes
from implicit_dsl.train.descent.goals import CrossEntropy, Kind, Loss, Squared

Given: TypeAlias = Tensor | Sequence[Tensor] | Mapping[str, Tensor]

_SIMPLEX = 1e-3  # by how much probabilities may miss 1


class DataError(ValueError):
    """Inputs or targets that do not fit the model or the loss."""


class ConstantWarning(UserWarning):
    """Data that says nothing: an entry that is the same in all samples."""


@dataclass(frozen=True, eq=False)
class Data:
    """Inputs [batch, entries] by name, and a loss for each output."""

    inputs: Mapping[str, Tensor]
    losses: Mapping[str, Loss]

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(next(iter(self.inputs.values())))

    def only(self, samples: Tensor) -> Data:
        """Some of the samples."""
        return Data(
            {name: x[samples] for name, x in self.inputs.items()},
            {name: loss.only(samples) for name, loss in self.losses.items()},
        )


def by_name(given: Given, blocks: Sequence[Block], what: str) -> dict[str, Tensor]:
    """Tensors by the names of their blocks. Raises DataError if they are too few, too many, or unknown."""
    names = [block.name for block in blocks]
    if isinstance(given, Tensor):
        given = (given,)
    if isinstance(given, Mapping):
        unknown = [name for name in given if name not in names]
        if unknown:
            raise DataError(f"there is no {what} `{unknown[0]}`; there are {', '.join(names)}")
        missing = [name for name in names if name not in given]
        if missing:
            raise DataError(f"{what} `{missing[0]}` is missing")
        found = {name: given[name] for name in names}
    else:
        if len(given) != len(names):
            raise DataError(
                f"the model has {len(names)} {what}s ({', '.join(names)}), but {len(given)} were given"
            )
        found = dict(zip(names, given))
    for name, tensor in found.items():
        if not isinstance(tensor, Tensor):
            raise DataError(f"{what} `{name}` is a {type(tensor).__name__}, not a tensor")
    return found


def checked_inputs(given: Given, blocks: Sequence[Block], like: Tensor) -> dict[str, Tensor]:
    """Inputs [batch, entries] by name, tokens as unit vectors, in the dtype and on the device of `like`."""
    found: dict[str, Tensor] = {}
    for block, tensor in zip(blocks, by_name(given, blocks, "input").values()):
        found[block.name] = _flat(_input(block, tensor), f"input `{block.name}`", like)
    counts = {name: len(tensor) for name, tensor in found.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"inputs have different numbers of samples: {_listed(counts)}")
    if not counts:
        raise DataError("the model reads no input")
    return found


def checked_losses(
    given: Given, blocks: Sequence[Block], kind: Kind, count: int, like: Tensor
) -> dict[str, Loss]:
    """The loss of each output, which holds its targets."""
    if kind not in ("squared", "cross_entropy"):
        raise DataError(f'there is no loss "{kind}": it is "squared" or "cross_entropy"')
    losses: dict[str, Loss] = {}
    for block, tensor in zip(blocks, by_name(given, blocks, "target").values()):
        what = f"target `{block.name}`"
        if tensor.ndim == 0 or len(tensor) != count:
            shape = list(tensor.shape)
            raise DataError(f"{what} has shape {shape}, but the inputs have {count} samples")
        if kind == "squared":
            _expect(what, tensor, sizes(block.shape))
            losses[block.name] = Squared(_flat(tensor, what, like))
        else:
            losses[block.name] = CrossEntropy(_probabilities(block, tensor, what, like))
    return losses


def warn_of_constants(inputs: Mapping[str, Tensor], losses: Mapping[str, Loss]) -> None:
    """Say which entries of inputs and targets are the same in all samples: nothing can be learned of them."""
    kinds = {f"input `{name}`": x for name, x in inputs.items()}
    kinds |= {f"target `{name}`": loss.target for name, loss in losses.items() if isinstance(loss, Squared)}
    for what, tensor in kinds.items():
        if len(tensor) < 2:
            continue
        still = (tensor == tensor[:1]).all(0)
        if bool(still.any()):
            count, first = int(still.sum()), int(still.nonzero()[0])
            warnings.warn(
                f"{count} of {tensor.shape[1]} entries of {what} are the same in all {len(tensor)} samples, "
                f"the first of them number {first}",
                ConstantWarning,
                stacklevel=4,
            )


def _input(block: Block, tensor: Tensor) -> Tensor:
    """An input in the shape of its block, if it is of its kind."""
    what = f"input `{block.name}`"
    _expect(what, tensor, sizes(block.given))
    if not block.tokens:
        return tensor
    (vocab,) = sizes(block.shape[-1:])
    if tensor.dtype not in (torch.int64, torch.int32):
        raise DataError(f"{what} holds tokens, but {tensor.dtype} was given")
    if tensor.numel() and not 0 <= int(tensor.min()) <= int(tensor.max()) < vocab:
        raise DataError(f"{what} has tokens below 0, or not below {vocab}")
    return F.one_hot(tensor.long(), vocab)


def _expect(what: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.ndim == 0 or tuple(tensor.shape[1:]) != shape:
        wanted = ", ".join(map(str, ("samples", *shape)))
        raise DataError(f"{what} has shape {list(tensor.shape)}, but must be [{wanted}]")


def _flat(tensor: Tensor, what: str, like: Tensor) -> Tensor:
    """[batch, entries] in the dtype of `like`, if all its numbers are finite."""
    if tensor.dtype.is_complex:
        raise DataError(f"{what} holds real numbers, but {tensor.dtype} was given")
    if not len(tensor):
        raise DataError(f"{what} has no sample")
    made = tensor.detach().reshape(len(tensor), -1).to(like.device, like.dtype)
    wrong = ~made.isfinite()
    if bool(wrong.any()):
        sample = int(wrong.any(1).nonzero()[0])
        raise DataError(
            f"{what} has {int(wrong.sum())} numbers that are NaN or infinite, first in sample {sample}"
        )
    return made


def _probabilities(block: Block, tensor: Tensor, what: str, like: Tensor) -> Tensor:
    """Labels, or probabilities of classes, as [batch, positions, classes]."""
    shape = sizes(block.shape)
    if not shape or shape[-1] < 2:
        raise DataError(
            f"cross-entropy needs scores of two classes or more along the last axis, but `{block.name}` has "
            f"shape {list(shape)}"
        )
    classes = shape[-1]
    if not tensor.dtype.is_floating_point:
        _expect(what, tensor, shape[:-1])
        if tensor.dtype is torch.bool or tensor.dtype.is_complex:
            raise DataError(f"{what} holds numbers of classes, but {tensor.dtype} was given")
        low, high = int(tensor.min()), int(tensor.max())
        if low < 0 or high >= classes:
            raise DataError(
                f"{what} has class {low if low < 0 else high}, but they go from 0 to {classes - 1}"
            )
        made = F.one_hot(tensor.long(), classes)
        return made.reshape(len(tensor), -1, classes).to(like.device, like.dtype)
    _expect(what, tensor, shape)
    found = _flat(tensor, what, like).reshape(len(tensor), -1, classes)
    if bool((found < 0).any()) or bool(((found.sum(2) - 1).abs() > _SIMPLEX).any()):
        raise DataError(f"{what} holds probabilities: numbers from 0 on that sum to 1 over the last axis")
    return found


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"`{name}` {count}" for name, count in counts.items())


__all__ = [
    "ConstantWarning",
    "Data",
    "DataError",
    "Given",
    "checked_inputs",
    "checked_losses",
    "warn_of_constants",
]
