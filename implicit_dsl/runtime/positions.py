"""Encodings of positions that are not learned."""

from __future__ import annotations

import torch
from torch import Tensor


def sinusoids(x: Tensor, base: float = 10000.0) -> Tensor:
    """sin and cos of i ÷ base^(2k ÷ d) in turn, for the positions i of x [batch, n, d] and all k.

    Vaswani et al. (2017). They are computed in single precision at least, and have the dtype of x.
    """
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    positions = torch.arange(x.shape[1], dtype=exact, device=x.device)
    waves = torch.arange(0, x.shape[2], 2, dtype=exact, device=x.device) / x.shape[2]
    angle = positions[:, None] * base**-waves
    encoded = torch.stack((angle.sin(), angle.cos()), -1).flatten(1)[:, : x.shape[2]]
    return encoded.to(x.dtype).expand_as(x)
