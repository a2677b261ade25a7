"""What generated loops over the steps of a sequence need."""

from __future__ import annotations

import torch
from torch import Tensor


def stack(steps: list[Tensor], like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The values of all steps side by side, [batch, steps, *shape], with as many samples as `like` has."""
    return torch.stack(steps, 1) if steps else like.new_zeros((like.shape[0], 0, *shape))


def last(sequence: Tensor) -> Tensor:
    """The last entry of a sequence [batch, steps, …]; zeros if there is none."""
    if sequence.shape[1]:
        return sequence[:, -1]
    return sequence.new_zeros((sequence.shape[0], *sequence.shape[2:]))
