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
# On the CPU all of them are, in place, where that is faster: from so many entries of a step on, or up to
# so many steps.
_LARGE_STEP, _SHORT = 512, 32


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
        steps: Tensor = ScanFunction.apply(factors, b, h)  # type: ignore[no-untyped-call]  # of PyTorch
    else:
        steps = _scan(factors, b, h)
    return steps, steps[:, -1].clone()


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
    steps = b.clone(memory_format=torch.contiguous_format)
    for now, factor in zip(steps.unbind(1), a.expand(-1, b.shape[1], -1).unbind(1)):
        start = now.addcmul_(factor, start)
    return steps


def _adjoint_in_place(a: Tensor, g: Tensor) -> Tensor:
    """All D."""
    found = g.clone(memory_format=torch.contiguous_format)
    nows, factors = found.unbind(1), a.expand(-1, g.shape[1], -1).unbind(1)
    for t in range(len(nows) - 2, -1, -1):
        nows[t].addcmul_(factors[t + 1], nows[t + 1])
    return found


def _adjoint_scan(a: Tensor, g: Tensor) -> Tensor:
    """All D, in operations that can be differentiated."""
    moved = a if a.shape[1] == 1 else torch.cat((a[:, :1], a[:, 1:].flip(1)), 1)
    found, _ = scan(moved, g.flip(1), None)
    return found.flip(1)


def _is_in_place(b: Tensor) -> bool:
    batch, length, n = b.shape
    return b.device.type == "cpu" and (batch * n >= _LARGE_STEP or length <= _SHORT)


class ScanFunction(torch.autograd.Function):
    """(a, b (batch, steps, n), start (batch, n)) -> h (batch, steps, n)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, start: Tensor) -> Tensor:
        steps = (_in_place if _is_in_place(b) else _scan)(a, b, start)
        ctx.save_for_backward(a, start, steps)
        return steps

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        a, start, steps = ctx.saved_tensors
        of_a, _, of_start = ctx.needs_input_grad
        again = torch.is_grad_enabled() or not one_kernel(g, a, start)
        d = (_adjoint_in_place if _is_in_place(g) and not again else _adjoint_scan)(a, g)
        d_a = None
        if of_a and again:
            d_a = d * torch.cat((start[:, None], steps[:, :-1]), 1)
        elif of_a:
            d_a = torch.empty_like(d)
            torch.mul(d[:, 0], start, out=d_a[:, 0])
            torch.mul(d[:, 1:], steps[:, :-1], out=d_a[:, 1:])
        d_start = d[:, 0] * a[:, 0] if of_start else None
        return None if d_a is None else d_a.sum_to_size(a.shape), d, d_start
