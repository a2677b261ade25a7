"""h[t] = φ(W h[t−1] + x[t]) for all steps, faster than step by step in autograd.

The values of all steps stand in one buffer with time in front, which is all that is kept for
gradients. With D[t] = φ′(z[t]) ⊙ (g[t] + Wᵀ D[t+1]), from the last step to the first, D is the gradient
of x, and Σ D[t] h[t−1]ᵀ that of W: backpropagation through time, with one product for all steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from implicit_dsl.runtime.recurrence import one_kernel

ELMAN: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
_ACTIVATE: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": ELMAN["identity"],
    "relu": torch.relu_,
    "sigmoid": torch.sigmoid_,
    "tanh": torch.tanh_,
}


def elman(x: Tensor, start: Tensor | None, weight: Tensor, phi: str) -> tuple[Tensor, Tensor]:
    """All h (batch, steps, n), and the last, for x (batch, steps, n), weight (n, n) and a start (batch, n).

    Without a start, h is zero before the first step. `phi` is a name in ELMAN. Differentiable to any order.
    """
    batch, _, n = x.shape
    h = x.new_zeros((batch, n)) if start is None else start
    if not one_kernel(x, h, weight):
        return _step_by_step(x, h, weight, ELMAN[phi])
    if torch.is_grad_enabled() and (x.requires_grad or h.requires_grad or weight.requires_grad):
        steps: Tensor = ElmanFunction.apply(x, h, weight, phi)  # type: ignore[no-untyped-call]  # of PyTorch
    else:
        steps = _forward(x, h, weight, phi)
    return steps.transpose(0, 1), steps[-1].clone() if len(steps) else h.expand(batch, n)


def _step_by_step(
    x: Tensor, h: Tensor, weight: Tensor, phi: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    steps = []
    for x_now in x.unbind(1):
        h = phi(x_now + torch.nn.functional.linear(h, weight))
        steps.append(h)
    return torch.stack(steps, 1) if steps else x, h


def _forward(x: Tensor, h: Tensor, weight: Tensor, phi: str) -> Tensor:
    """All h, (steps, batch, n). x is copied once, and so is the weight: each step is then done in place."""
    steps = x.transpose(0, 1).clone(memory_format=torch.contiguous_format)
    turned = weight.t().contiguous()
    activate = _ACTIVATE[phi]
    for now in steps.unbind(0):
        now.addmm_(h, turned)
        activate(now)
        h = now
    return steps


class ElmanFunction(torch.autograd.Function):
    """(x (batch, steps, n), start (batch, n), weight (n, n), phi) -> h (steps, batch, n)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, start: Tensor, weight: Tensor, phi: str) -> Tensor:
        steps = _forward(x, start, weight, phi)
        ctx.phi = phi
        ctx.save_for_backward(start, weight, steps)
        return steps

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        start, weight, steps = ctx.saved_tensors
        of_x, of_start, of_weight, _ = ctx.needs_input_grad
        again = torch.is_grad_enabled() or not one_kernel(g, start, weight)
        d = (_adjoint_again if again else _adjoint)(g, weight, steps, ctx.phi)
        d_start = d_weight = None
        if of_start:
            d_start = d[0] @ weight if len(d) else torch.zeros_like(start)
        if of_weight:
            d_weight = d[1:].flatten(0, 1).t() @ steps[:-1].flatten(0, 1)
            if len(d):
                d_weight = torch.addmm(d_weight, d[0].t(), start)
        return d.transpose(0, 1) if of_x else None, d_start, d_weight, None


def _adjoint(g: Tensor, weight: Tensor, steps: Tensor, phi: str) -> Tensor:
    """All D, (steps, batch, n)."""
    found = g.clone(memory_format=torch.contiguous_format)
    slopes = _slopes(steps, phi)
    later = None
    for number in range(len(found) - 1, -1, -1):
        d = found[number]
        if later is not None:
            d.addmm_(later, weight)
        if slopes is not None:
            d.mul_(slopes[number])
        elif phi == "relu":
            torch.ops.aten.threshold_backward.grad_input(d, steps[number], 0, grad_input=d)
        later = d
    return found


def _slopes(steps: Tensor, phi: str) -> Tensor | None:
    """φ′ at all steps, where it is not only 0 and 1."""
    if phi == "tanh":
        return torch.rsub(steps * steps, 1)
    return steps * (1 - steps) if phi == "sigmoid" else None


def _adjoint_again(g: Tensor, weight: Tensor, steps: Tensor, phi: str) -> Tensor:
    """The same, to be differentiated: in terms of g, the weight and h, which belongs to its own Function."""
    found: list[Tensor] = []
    for g_now, h in zip(reversed(g.unbind(0)), reversed(steps.unbind(0))):
        d = g_now + found[-1] @ weight if found else g_now
        match phi:
            case "tanh":
                d = d * (1 - h * h)
            case "relu":
                d = d * (h > 0)
            case "sigmoid":
                d = d * (h * (1 - h))
        found.append(d)
    return torch.stack(found[::-1]) if found else g
