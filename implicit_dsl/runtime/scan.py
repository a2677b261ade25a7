"""h[t] = a[t] ⊙ h[t−1] + b[t] for all steps: a prefix sum in log₂ of their number (Blelloch 1990).

Two steps are one: h[t] = (a[t] ⊙ a[t−1]) ⊙ h[t−2] + (a[t] ⊙ b[t−1] + b[t]). So the steps with odd numbers
are a recurrence of half the length, and the others follow from these: no more work than step by step, and
nothing is divided by. With D[t] = g[t] + a[t+1] ⊙ D[t+1], the same backwards, D is the gradient of b, and
D[t] ⊙ h[t−1] that of a.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from implicit_dsl.runtime.recurrence import one_kernel

_FEW_STEPS = 4  # steps that are done one by one
_LARGE_STEP = 4096  # entries of a step on the CPU from which on it is faster to do all so, in place


def scan(a: Tensor | float, b: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor]:
    """All h (batch, steps, n), and the last, for b (batch, steps, n) and a start (batch, n).

    `a` broadcasts to b. Without a start, h is zero before the first step. Differentiable to any order.
    """
    batch, length, n = b.shape
    h = b.new_zeros((batch, n)) if start is None else start
    if not length:
        return b, h
    factors = a if isinstance(a, Tensor) else b.new_tensor(a)
    factors = factors[(None,) * (3 - factors.ndim)]
    if one_kernel(factors, b, h):
        steps: Tensor = ScanFunction.apply(factors, b, h)  # type: ignore[no-untyped-call]
    else:
        steps = _scan(factors, b, h)
    return steps, steps[:, -1]


def _scan(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    first = torch.addcmul(b[:, :1], a[:, :1], start[:, None])
    return _prefix(a, torch.cat((first, b[:, 1:]), 1))


def _prefix(a: Tensor, b: Tensor) -> Tensor:
    """All h from a start of zero, in terms of operations that can be differentiated."""
    length = b.shape[1]
    if length <= _FEW_STEPS:
        found = [b[:, :1]]
        for t in range(1, length):
            found.append(torch.addcmul(b[:, t : t + 1], _factor_at(a, t), found[-1]))
        return torch.cat(found, 1)
    half = length // 2
    even, odd = (a, a) if a.shape[1] == 1 else (a[:, 0::2], a[:, 1::2])
    pairs = torch.addcmul(b[:, 1::2], odd, b[:, 0 : 2 * half : 2])
    later = _prefix(odd * even[:, :half], pairs)
    behind = even if a.shape[1] == 1 else even[:, 1:]
    others = torch.addcmul(b[:, 2::2], behind, later[:, : (length - 1) // 2])
    both = torch.stack((torch.cat((b[:, :1], others), 1)[:, :half], later), 2).flatten(1, 2)
    return torch.cat((both, others[:, -1:]), 1) if length % 2 else both


def _factor_at(a: Tensor, t: int) -> Tensor:
    return a if a.shape[1] == 1 else a[:, t : t + 1]


def _in_place(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """All h, one step behind the other."""
    steps = b.transpose(0, 1).clone(memory_format=torch.contiguous_format)
    factors = a.transpose(0, 1).expand(len(steps), -1, -1)
    for now, factor in zip(steps.unbind(0), factors.unbind(0)):
        start = now.addcmul_(factor, start)
    return steps.transpose(0, 1)


class ScanFunction(torch.autograd.Function):
    """(a, b (batch, steps, n), start (batch, n)) -> h (batch, steps, n)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, start: Tensor) -> Tensor:
        large = b.device.type == "cpu" and start.numel() >= _LARGE_STEP
        steps = (_in_place if large else _scan)(a, b, start)
        ctx.save_for_backward(a, start, steps)
        return steps

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        a, start, steps = ctx.saved_tensors
        of_a, _, of_start = ctx.needs_input_grad
        turned = g.flip(1)
        moved = a if a.shape[1] == 1 else torch.cat((a[:, :1], a[:, 1:].flip(1)), 1)
        found, _ = scan(moved, turned, None)
        d = found.flip(1)
        d_a = None
        if of_a:
            before = torch.cat((start[:, None], steps[:, :-1]), 1)
            d_a = (d * before).sum_to_size(a.shape)
        d_start = d[:, 0] * a[:, 0] if of_start else None
        return d_a, d, d_start
