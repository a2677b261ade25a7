"""Whether the numbers in a tensor may decide what happens, and whether they are finite."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def may_ask(tensor: Tensor) -> bool:
    """Not while a graph is captured, under transforms of torch.func, or where there are no numbers."""
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return False
    return not torch._C._are_functorch_transforms_active() and not tensor.is_meta


def all_finite(tensor: Tensor) -> bool:
    """Whether all numbers are. Their sum goes first: one kernel, finite unless they are not or are huge."""
    values = tensor.detach()
    return math.isfinite(values.sum().item()) or bool(values.isfinite().all())
