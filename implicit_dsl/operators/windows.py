"""Geometry shared by convolutions and pooling: windows that slide over the axes behind the channels."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import ShapeError
from implicit_dsl.shapes import Dim, Shape, count, show, windows

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

Axes = tuple[int, ...]
MODES = ("zeros", "reflect", "circular", "replicate")  # what stands in the cells of the padding


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


def margins(before: Axes, after: Axes) -> Axes:
    """The argument of `F.pad`: the last axis first, both sides of each."""
    return tuple(cells for sides in zip(reversed(before), reversed(after)) for cells in sides)


def check_margins(source: Shape, what: str, pad: Axes, mode: str, argument: str = "pad") -> None:
    """Raises ShapeError if the padding would read further out than the input goes."""
    for size, p in zip(source[1:], pad):
        if not isinstance(size, int) or mode in ("zeros", "replicate"):
            continue
        most = size - 1 if mode == "reflect" else size
        if p > most:
            reads = (
                f"the border is not repeated: {size} - 1 = {most}"
                if mode == "reflect"
                else f"the axis is read once around: {most}"
            )
            raise ShapeError(
                f"{what} cannot pad an axis of {size} by {p} in the mode `{mode}`",
                f"at most {most}",
                argument,
                notes=(f"{reads} cells on each side",),
            )


def read_at(places: np.ndarray, extent: int, mode: str) -> np.ndarray:
    """Which cell of an axis each place reads, for places outside of 0 … extent − 1, too."""
    match mode:
        case "reflect":
            last = extent - 1
            return np.asarray(last - np.abs(last - np.abs(places)))
        case "circular":
            return places % extent
        case "replicate":
            return places.clip(0, extent - 1)
        case _:
            return places


def copies(size: Dim, outputs: Dim, k: int, s: int, before: int, after: int, d: int, mode: str) -> int:
    """How many windows of one axis may read a cell with the same entry of the kernel, at most."""
    if mode == "zeros":
        return 1
    if isinstance(size, int) and isinstance(outputs, int):
        along = (np.arange(outputs) * s - before)[:, None] + np.arange(k) * d
        read = read_at(along, size, mode)
        return max(int(np.bincount(read[:, tap], minlength=size).max()) for tap in range(k))
    return 1 + before + after if mode == "replicate" else 1 + (before > 0) + (after > 0)


def overlap(source: Shape, kernel: Axes, pad: Axes, dilation: Axes, mode: str) -> int:
    """How many entries of a kernel may read the same cell for the same output, at most."""
    if mode == "zeros":
        return 1
    extents = (count((size,)) for size in source[1:])
    return prod(
        1 if not p or (mode == "circular" and d * (k - 1) < extent) else k
        for extent, k, p, d in zip(extents, kernel, pad, dilation)
    )


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
    source: Shape,
    target: Shape,
    kernel: Axes,
    stride: Axes,
    pad: Axes,
    dilation: Axes | None = None,
    mode: str = "zeros",
) -> int:
    """How many pairs (output position, kernel position) read inside the input: a product over the axes."""
    if mode != "zeros":
        return count(target[1:]) * prod(kernel)
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
    source: Shape, target: Shape, kernel: Axes, stride: Axes, pad: Axes, dilation: Axes, mode: str = "zeros"
) -> tuple[np.ndarray, np.ndarray | None]:
    """For each output position (row-major) and kernel position: which input position it reads.

    Returns the positions [outputs, kernel entries], and which of them lie inside the
    input (None if all do: no padding, or one that reads inside).
    """
    positions, inside = np.zeros((1, 1), dtype=np.int32), None
    for size, out, k, s, p, d in zip(source[1:], target[1:], kernel, stride, pad, dilation):
        extent = count((size,))
        along = (np.arange(count((out,)), dtype=np.int32) * s - p)[:, None] + np.arange(k, dtype=np.int32) * d
        along = read_at(along, extent, mode)
        # outer sum over the axes already done, outputs with outputs and kernel with kernel
        grid = (positions * extent)[:, None, :, None] + along[None, :, None, :]
        shape = (grid.shape[0] * grid.shape[1], -1)
        if mode == "zeros" and (p or inside is not None or along[-1, -1] >= extent):
            fits = ((along >= 0) & (along < extent))[None, :, None, :]
            before = np.ones(positions.shape, bool) if inside is None else inside
            inside = (before[:, None, :, None] & fits).reshape(shape)
        positions = grid.reshape(shape)
    return positions, inside
