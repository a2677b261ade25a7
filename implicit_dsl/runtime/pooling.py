"""max-pooling behind relu, faster than one after the other.

relu and max commute, so relu can act on the pooled quarter of the data. On a CPU the
maximum of strided views is also several times faster than `max_pool2d`, once there is
enough data to be worth the calls.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# From so many entries on, strided views win over the single call of `max_pool2d`:
# without and with a gradient (measured: benchmarks/lenet5.py).
_MANY, _MANY_FOR_GRADIENT = 16_384, 131_072


def relu_max_pool2d(z: Tensor) -> Tensor:
    """max_pool2d(relu(z), 2) for z [batch, channels, height, width] with even height and width."""
    gradient = z.requires_grad and torch.is_grad_enabled()
    if z.device.type != "cpu" or z.numel() < (_MANY_FOR_GRADIENT if gradient else _MANY):
        return F.relu(F.max_pool2d(z, 2))
    if not gradient:
        return _maximum(z)
    pooled: Tensor = _ReluMaxPool.apply(z)  # type: ignore[no-untyped-call]
    return pooled


def _maximum(z: Tensor) -> Tensor:
    columns = torch.maximum(z[..., ::2], z[..., 1::2])
    return torch.maximum(columns[..., ::2, :], columns[..., 1::2, :]).relu_()


class _ReluMaxPool(torch.autograd.Function):
    """The gradient goes to the first maximum of each window in the order of `max_pool2d` (row by
    row), so that ties are broken as PyTorch breaks them, and nowhere where relu is flat."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return _maximum(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        z, pooled = ctx.saved_tensors
        # a b   the four corners of each window
        # c d
        a, b = z[..., ::2, ::2], z[..., ::2, 1::2]
        c, d = z[..., 1::2, ::2], z[..., 1::2, 1::2]
        grad = torch.ops.aten.threshold_backward(grad, pooled, 0)
        lower = grad * (torch.maximum(c, d) > torch.maximum(a, b))
        upper = grad - lower
        to_b, to_d = upper * (b > a), lower * (d > c)
        result = grad.new_empty(z.shape)
        result[..., ::2, ::2], result[..., ::2, 1::2] = upper - to_b, to_b
        result[..., 1::2, ::2], result[..., 1::2, 1::2] = lower - to_d, to_d
        return result
