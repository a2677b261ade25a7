"""A mapped axis (torch.func.vmap) folded into the batch, where the samples are independent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from implicit_dsl.runtime.implicit.linearisation import Tensors


def mapped(
    solve: Callable[..., Tensors],
    size: int,
    axes: Sequence[int | None],
    tensors: Tensors,
    per_sample: int,
    foldable: bool,
) -> Tensors:
    """`solve` for each of `size` slices, the results stacked along a new first axis.

    The first `per_sample` tensors have a batch: their mapped axis becomes a part of it. If one of
    the others is mapped, or samples are not independent, the slices are solved one by one.
    """
    if not foldable or any(axis is not None for axis in axes[per_sample:]):
        slices = [
            solve(*(t if axis is None else t.select(axis, i) for t, axis in zip(tensors, axes)))
            for i in range(size)
        ]
        return tuple(torch.stack(parts) for parts in zip(*slices))
    folded = tuple(_fold(t, axis, size) for t, axis in zip(tensors[:per_sample], axes))
    images = solve(*folded, *tensors[per_sample:])
    return tuple(image.reshape(size, len(image) // size, *image.shape[1:]) for image in images)


def _fold(tensor: Tensor, axis: int | None, size: int) -> Tensor:
    """[batch, …] with an axis of `size` somewhere, or none, as [size · batch, …]."""
    full = tensor.expand(size, *tensor.shape) if axis is None else tensor.movedim(axis, 0)
    return full.reshape(size * full.shape[1], *full.shape[2:])
