"""Faster paths of convolution and max-pooling on a CPU, each with the results of PyTorch's own.

The compiler chooses them from the structure of a network (`emit/fusion.py`). All follow from
two facts: relu and max commute, so relu can act on the pooled quarter of the data; and with
few channels PyTorch's kernels leave most of the processor idle. Thresholds were measured by
benchmarks/lenet5.py; on other devices, under autocast and in torch.compile PyTorch's own
path is taken.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# From so many entries on, maxima of strided views win over one call of `max_pool2d`,
# without and with a gradient.
_MANY, _MANY_FOR_GRADIENT = 8_192, 120_000
# From so many entries before pooling on (but for the margins), one convolution for all four corners
# of the windows wins.
_MANY_FOR_CORNERS = 80_000
# From so many images on, the gradient of a single channel is taken by windows ...
_MANY_IMAGES = 8
# ... of which so many entries are written out at a time.
_MOST_ENTRIES = 4_194_304


def relu_max_pool2d(z: Tensor) -> Tensor:
    """max_pool2d(relu(z), 2) for z [batch, channels, height, width] with even height and width."""
    # asked first, so that no size is read when a graph is captured for every size
    if torch.compiler.is_compiling() or not z.is_cpu:
        return torch.relu(torch.max_pool2d(z, 2))
    many = z.numel()
    if many < _MANY:
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


class SingleChannelConv2d(nn.Conv2d):
    """`nn.Conv2d` for one input channel: the same tensors and results, a faster gradient.

    The gradient of the weights is one product of the output's gradient with the windows of the
    input, which are small enough to be written out. For zero padding, given as numbers, and
    dilation 1; the compiler uses it for nothing else.
    """

    def forward(self, input: Tensor) -> Tensor:
        """input [batch, 1, height, width]."""
        if (
            torch.compiler.is_compiling()
            or not torch.is_grad_enabled()
            or input.shape[0] < _MANY_IMAGES
            or not input.is_cpu
            or torch.is_autocast_enabled("cpu")
        ):
            return super().forward(input)
        result: Tensor = _SingleChannel.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, self.stride, self.padding
        )
        return result


class _SingleChannel(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], pad: tuple[int, int]
    ) -> Tensor:
        return torch.conv2d(x, weight, bias, stride, pad)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.stride, ctx.pad = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            lacking = [  # rows and columns that no window reaches
                size - ((windows - 1) * stride - 2 * pad + kernel)
                for size, windows, stride, pad, kernel in zip(
                    x.shape[2:], grad.shape[2:], ctx.stride, ctx.pad, weight.shape[2:]
                )
            ]
            for_x = F.conv_transpose2d(grad, weight, None, ctx.stride, ctx.pad, lacking)
        if ctx.needs_input_grad[1]:
            for_weight = _weight_gradient(x, grad, weight.shape, ctx.stride, ctx.pad)
        if ctx.needs_input_grad[2]:
            for_bias = grad.sum((0, 2, 3))
        return for_x, for_weight, for_bias, None, None


def _weight_gradient(
    x: Tensor, grad: Tensor, shape: torch.Size, stride: tuple[int, int], pad: tuple[int, int]
) -> Tensor:
    """Σ grad[o, i] x[window of i]: a product of [out, positions] with [positions, taps] for each sample."""
    height, width = shape[2:]
    if pad != (0, 0):
        x = F.pad(x, (pad[1], pad[1], pad[0], pad[0]))
    total = grad.new_zeros((shape[0], height * width))
    positions = grad.shape[2] * grad.shape[3]
    each = max(1, _MOST_ENTRIES // max(1, positions * height * width))
    for images, parts in zip(torch.split(x, each), torch.split(grad, each)):
        windows = images[:, 0].unfold(1, height, stride[0]).unfold(2, width, stride[1])
        # taps before positions, so that rows of the image are copied as they stand
        windows = windows.permute(0, 3, 4, 1, 2).reshape(len(images), height * width, positions)
        total = total + torch.bmm(parts.flatten(2), windows.mT).sum(0)
    return total.reshape(shape)


class ConvReluMaxPool2d(SingleChannelConv2d):
    """max_pool2d(relu(conv2d(x)), 2), with the tensors of `nn.Conv2d`, for few and large kernels.

    For inference the four corners of the pooling windows are four times the channels of one
    convolution with stride 2, whose kernels are those of the layer, moved by one row or column
    (and padded with a zero row and column: a pixel that is not finite spoils a window more).
    For stride 1, dilation 1, one group, zero padding, and an even output before pooling; the
    compiler uses it for nothing else.
    """

    def forward(self, input: Tensor) -> Tensor:
        """input [batch, channels, height, width]."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or not input.is_cpu:
            single = self.in_channels == 1
            return relu_max_pool2d(super().forward(input) if single else nn.Conv2d.forward(self, input))
        weight, bias = self.weight, self.bias
        many = input.numel() * self.out_channels // self.in_channels
        if many < _MANY:
            return torch.relu(torch.max_pool2d(torch.conv2d(input, weight, bias, 1, self.padding), 2))
        if many < _MANY_FOR_CORNERS:
            return relu_max_pool2d(torch.conv2d(input, weight, bias, 1, self.padding))
        moved = F.pad(weight, (1, 1, 1, 1))
        corners = moved.unfold(2, weight.shape[2] + 1, 1).unfold(3, weight.shape[3] + 1, 1)
        corners = corners.permute(2, 3, 0, 1, 4, 5).reshape(-1, *corners.shape[1:2], *corners.shape[4:])
        z = torch.conv2d(input, corners, None if bias is None else bias.repeat(4), 2, self.padding)
        half = torch.maximum(*z.chunk(2, 1))
        return torch.maximum(*half.chunk(2, 1)).relu_()
