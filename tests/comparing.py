"""Random tensors in float64, and whether one or several of them are the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def several(value: Any) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)


def same(one: Any, other: Any, within: float = 1e-12) -> None:
    for a, b in zip(several(one), several(other), strict=True):
        torch.testing.assert_close(a, b, rtol=within, atol=within)
