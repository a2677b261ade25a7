"""What generated loops over the steps of a sequence need."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def stack(steps: list[Tensor], like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The values of all steps side by side, [batch, steps, *shape], with as many samples as `like` has."""
    return torch.stack(steps, 1) if steps else like.new_zeros((like.shape[0], 0, *shape))


def last(sequence: Tensor) -> Tensor:
    """The last entry of a sequence [batch, steps, …]; zeros if there is none."""
    if sequence.shape[1]:
        return sequence[:, -1]
    return sequence.new_zeros((sequence.shape[0], *sequence.shape[2:]))


def or_zeros(value: Tensor, sequence: Tensor) -> Tensor:
    """A value of the last step; zeros if the sequence [batch, steps, …] has none."""
    return value if sequence.shape[1] else torch.zeros_like(value)


def one_kernel(*tensors: Tensor) -> bool:
    """Whether all steps may be computed by operations that only know plain tensors and their gradients.

    Not where PyTorch records or maps what is computed, or chooses dtypes: there the steps are operations
    of their own.
    """
    if torch.compiler.is_compiling() or torch._C._is_tracing() or torch._C._are_functorch_transforms_active():
        return False
    first = tensors[0]
    if forward_ad._current_level >= 0 or torch.is_autocast_enabled(first.device.type):
        return False
    return first.is_floating_point() and all(
        type(one) in (Tensor, nn.Parameter) and one.dtype is first.dtype and one.device == first.device
        for one in tensors
    )
