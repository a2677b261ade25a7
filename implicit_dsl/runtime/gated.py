"""LSTM and GRU over all steps, by the kernels of PyTorch: those of cuDNN on its devices.

What these cannot do is computed step by step: recorded graphs, and forward-mode and mapped derivatives. Those
of the CPU have gradients of gradients, which cuDNN refuses, and says so.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from implicit_dsl.runtime.recurrence import one_kernel


def lstm(
    x: Tensor,
    h: Tensor | None,
    c: Tensor | None,
    of_x: Tensor,
    of_h: Tensor,
    x_bias: Tensor | None = None,
    h_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """All h (batch, steps, n), the last, and the last c, for x (batch, steps, p).

    The weights, (4n, p) and (4n, n), and biases (4n,) have the gates i, f, g, o one below another, as in
    `torch.nn.LSTM`. Without starts (batch, n), h and c are zero before the first step.
    """
    h = _start(h, x, of_h)
    c = _start(c, x, of_h)
    weights = _gate_weights(of_x, of_h, x_bias, h_bias)
    if not x.shape[1]:
        return x.new_zeros((x.shape[0], 0, of_h.shape[1])), h, c
    if one_kernel(x, h, c, *weights, casts=True):
        steps, last, cell = torch.lstm(
            x, (h[None], c[None]), weights, len(weights) > 2, 1, 0.0, torch.is_grad_enabled(), False, True
        )
        return steps, last[0], cell[0]
    ahead = F.linear(x, of_x, x_bias)
    found = []
    for now in ahead.unbind(1):
        i, f, g, o = (now + F.linear(h, of_h, h_bias)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        found.append(h)
    return torch.stack(found, 1), h, c


def gru(
    x: Tensor,
    h: Tensor | None,
    of_x: Tensor,
    of_h: Tensor,
    x_bias: Tensor | None = None,
    h_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """All h (batch, steps, n), and the last, for x (batch, steps, p).

    The weights, (3n, p) and (3n, n), and biases (3n,) have the gates r, z, n one below another, as in
    `torch.nn.GRU`. Without a start (batch, n), h is zero before the first step.
    """
    h = _start(h, x, of_h)
    weights = _gate_weights(of_x, of_h, x_bias, h_bias)
    if not x.shape[1]:
        return x.new_zeros((x.shape[0], 0, of_h.shape[1])), h
    if one_kernel(x, h, *weights, casts=True):
        steps, last = torch.gru(
            x, h[None], weights, len(weights) > 2, 1, 0.0, torch.is_grad_enabled(), False, True
        )
        return steps, last[0]
    ahead = F.linear(x, of_x, x_bias)
    found = []
    for now in ahead.unbind(1):
        r, z, n = now.chunk(3, 1)
        hidden_r, hidden_z, hidden_n = F.linear(h, of_h, h_bias).chunk(3, 1)
        n = torch.tanh(n + torch.sigmoid(r + hidden_r) * hidden_n)
        h = n + torch.sigmoid(z + hidden_z) * (h - n)
        found.append(h)
    return torch.stack(found, 1), h


def _start(h: Tensor | None, x: Tensor, of_h: Tensor) -> Tensor:
    return x.new_zeros((x.shape[0], of_h.shape[1])) if h is None else h


def _gate_weights(of_x: Tensor, of_h: Tensor, x_bias: Tensor | None, h_bias: Tensor | None) -> list[Tensor]:
    """The list that the kernels take: they know of no bias, or of two."""
    if x_bias is None and h_bias is None:
        return [of_x, of_h]
    zeros = of_x.new_zeros((len(of_x),))
    return [of_x, of_h, zeros if x_bias is None else x_bias, zeros if h_bias is None else h_bias]
