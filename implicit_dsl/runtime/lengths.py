"""Sequences with a length of their own in each sample, padded to one number of steps."""

from __future__ import annotations

import torch
from torch import Tensor

from implicit_dsl.runtime.asking import may_ask


def upto(k: Tensor, x: Tensor) -> Tensor:
    """The first k [batch] steps of x [batch, steps, …], and zeros behind them.

    Raises ValueError for a whole number below 0 or above the number of steps. Nothing is asked while a graph
    is captured, and under transforms of torch.func. Real numbers are rounded down, to what there is.
    """
    whole = not k.is_floating_point()
    if whole and may_ask(k) and k.numel() and not 0 <= int(k.min()) <= int(k.max()) <= x.shape[1]:
        wrong = int(k.min()) if k.min() < 0 else int(k.max())
        raise ValueError(f"a sequence of {x.shape[1]} steps cannot have the length {wrong}")
    within = torch.arange(x.shape[1], device=x.device) < k.long().unsqueeze(-1)
    return torch.where(_for_each(within, x), x, torch.zeros((), dtype=x.dtype, device=x.device))


def at_step(k: Tensor, x: Tensor, start: Tensor | None = None) -> Tensor:
    """Step k of x [batch, steps, …], counted from 1; of none, the `start` [batch, …] or zeros."""
    before = x.new_zeros((x.shape[0], 1, *x.shape[2:])) if start is None else start.unsqueeze(1)
    whole = torch.cat([before, x], 1)
    place = k.long().clamp(0, x.shape[1]).unsqueeze(-1)
    return whole.gather(1, _for_each(place, x).expand(-1, -1, *x.shape[2:])).squeeze(1)


def reverse_upto(k: Tensor, x: Tensor) -> Tensor:
    """The first k [batch] steps of x [batch, steps, …] from the last to the first, others as they are."""
    t, steps = torch.arange(x.shape[1], device=x.device), k.long().clamp(0, x.shape[1]).unsqueeze(-1)
    order = torch.where(t < steps, steps - 1 - t, t)
    return x.gather(1, _for_each(order, x).expand(-1, -1, *x.shape[2:]))


def _for_each(steps: Tensor, like: Tensor) -> Tensor:
    """[batch, steps] beside [batch, steps, …]."""
    return steps.reshape(*steps.shape, *(1,) * (like.dim() - 2))
