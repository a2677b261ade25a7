"""Geometry shared by convolutions and pooling: windows that slide over the axes behind the channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import ShapeError
from implicit_dsl.shapes import Dim, Shape, count, show, windows

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

Axes = tuple[int, ...]


def per_axis(value: int | Axes, axes: int, what: str, argument: str) -> Axes:
    """One number for each axis. Raises ShapeError if another count was given."""
    if isinstance(value, int):
        return (value,) * axes
    if len(value) != axes:
        raise ShapeError(
            f"{what} has {len(value)} numbers, but the input has {axes} axes behind its channels",
            f"needs 1 or {axes}",
            argument,
        )
    return value


def channels_and_axes(source: Shape, what: str) -> int:
    """How many axes stand behind the channels. Raises ShapeError unless 1, 2 or 3."""
    axes = len(source) - 1
    if axes not in (1, 2, 3):
        raise ShapeError(
            f"{what} needs channels and 1, 2 or 3 axes behind them, but its input is {show(source)}",
            "such as [channels, height, width]",
        )
    return axes


def slide(source: Shape, what: str, kernel: Axes, stride: Axes, pad: Axes, dilation: Axes) -> Shape:
    """The sizes behind the channels after the windows have slid. Raises ShapeError if none fits."""
    sizes: list[Dim] = []
    for size, k, s, p, d in zip(source[1:], kernel, stride, pad, dilation):
        fitting = windows(size, k, s, p, d)
        if isinstance(fitting, int) and fitting < 1:
            raise ShapeError(
                f"the kernel of this {what} is larger than its input {show(source)}",
                f"{k} does not fit into {size}",
                "kernel",
                notes=(f"({size} + 2*{p} - {d}*({k} - 1) - 1) ÷ {s} + 1 = {fitting}",),
                help=f"use a smaller kernel, or `pad = {(d * (k - 1) + 1) // 2}`",
            )
        sizes.append(fitting)
    return tuple(sizes)


def inside_count(
    source: Shape, target: Shape, kernel: Axes, stride: Axes, pad: Axes, dilation: Axes | None = None
) -> int:
    """How many pairs (output position, kernel position) read inside the input: a product over the axes."""
    pairs = 1
    for size, out, k, s, p, d in zip(
        source[1:], target[1:], kernel, stride, pad, dilation or (1,) * len(kernel)
    ):
        extent, outputs = count((size,)), count((out,))
        first = (-(-max(0, p - tap * d) // s) for tap in range(k))  # the first output whose tap is inside
        after = (min(outputs, (extent - 1 + p - tap * d) // s + 1) for tap in range(k))
        pairs *= sum(max(0, b - a) for a, b in zip(first, after))
    return pairs


def window_indices(
    source: Shape, target: Shape, kernel: Axes, stride: Axes, pad: Axes, dilation: Axes
) -> tuple[np.ndarray, np.ndarray | None]:
    """For each output position (row-major) and kernel position: which input position it reads.

    Returns the positions [outputs, kernel entries], and which of them lie inside the
    input (None if all do: no padding).
    """
    positions, inside = np.zeros((1, 1), dtype=np.int32), None
    for size, out, k, s, p, d in zip(source[1:], target[1:], kernel, stride, pad, dilation):
        extent = count((size,))
        along = (np.arange(count((out,)), dtype=np.int32) * s - p)[:, None] + np.arange(k, dtype=np.int32) * d
        # outer sum over the axes already done, outputs with outputs and kernel with kernel
        grid = (positions * extent)[:, None, :, None] + along[None, :, None, :]
        shape = (grid.shape[0] * grid.shape[1], -1)
        if p or inside is not None:
            fits = ((along >= 0) & (along < extent))[None, :, None, :]
            before = np.ones(positions.shape, bool) if inside is None else inside
            inside = (before[:, None, :, None] & fits).reshape(shape)
        positions = grid.reshape(shape)
    return positions, inside
