"""Activations, each written by other means than the compiler's."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
    "silu": lambda x: x * torch.sigmoid(x),
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "elu": lambda x: torch.where(x > 0, x, torch.expm1(x)),
    "hardtanh": F.hardtanh,
    "softsign": lambda x: x / (1 + x.abs()),
    "abs": lambda x: torch.where(x < 0, -x, x),
    "relu6": lambda x: F.relu(x) - F.relu(x - 6),
    "hardswish": lambda x: x * F.hardtanh(x / 6 + 0.5, 0, 1),
    "mish": lambda x: x * torch.tanh(torch.logaddexp(x, torch.zeros_like(x))),
    "selu": lambda x: 1.0507009873554805 * F.elu(x, 1.6732632423543772),
    "hardsigmoid": lambda x: (x / 6 + 0.5).clamp(0, 1),
    "softshrink": lambda x: x - x.clamp(-0.5, 0.5),
    "sin": lambda x: torch.exp(1j * x).imag,
    "cos": lambda x: torch.exp(1j * x).real,
    "identity": lambda x: x,
}
