"""max-pooling behind relu, faster than one after the other.

relu and max commute, so relu can act on the pooled quarter of the data. On a CPU the
maximum of strided views is also several times faster than `max_pool2d`, once there is
enough data to be worth the calls.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# From so many entries on, strided views win over the single call of `max_pool2d`:
# without and with a gradient (measured: benchmarks/lenet5.py).
_MANY, _MANY_FOR_GRADIENT = 8_192, 120_000


def relu_max_pool2d(z: Tensor) -> Tensor:
    """max_pool2d(relu(z), 2) for z [batch, channels, height, width] with even height and width."""
    many = z.numel()
    if many < _MANY or z.device.type != "cpu":
        return torch.relu(torch.max_pool2d(z, 2))
    gradient = z.requires_grad and torch.is_grad_enabled()
    if gradient and many < _MANY_FOR_GRADIENT:
        return torch.relu(torch.max_pool2d(z, 2))
    if not gradient:
        return _maximum(z)
    pooled: Tensor = _ReluMaxPool.apply(z)  # type: ignore[no-untyped-call]
    return pooled


def _maximum(z: Tensor) -> Tensor:
    # rows first: that pass runs over contiguous memory, and leaves half of the data for the other
    rows = torch.maximum(z[..., ::2, :], z[..., 1::2, :])
    return torch.maximum(rows[..., ::2], rows[..., 1::2]).relu_()


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
        upper, lower = z[..., ::2, :], z[..., 1::2, :]
        down = lower > upper
        rows = torch.maximum(upper, lower)
        left, right = rows[..., ::2], rows[..., 1::2]
        # equal maxima in both columns: the right one is first only if it alone is in the upper row
        tie = (right == left) & (down[..., ::2] > down[..., 1::2])
        grad = torch.ops.aten.threshold_backward(grad, pooled, 0)
        to_right = grad * ((right > left) | tie)
        by_rows = to_right.new_empty(rows.shape)
        by_rows[..., ::2], by_rows[..., 1::2] = grad - to_right, to_right
        to_lower = by_rows * down
        return torch.stack((by_rows - to_lower, to_lower), -2).reshape(z.shape)
