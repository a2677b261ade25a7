"""Pooling: averages are linear and constant, maxima are activations that take a window of slots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import (
    ActivationRule,
    Entries,
    Expression,
    Formal,
    LinearRule,
    Operator,
    Rule,
    Settings,
    ShapeError,
)
from implicit_dsl.operators.reduction import Mean
from implicit_dsl.operators.relaxation import Lines, largest_lines
from implicit_dsl.operators.windows import (
    Axes,
    channels_and_axes,
    inside_count,
    per_axis,
    slide,
    window_indices,
)
from implicit_dsl.shapes import Shape, count, floor_affine, known, show, sizes

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")
    torch = lazy_module("torch")

_FORMALS = (
    Formal("kernel", "size", "size of the windows: one number, or one for each axis", required=True),
    Formal("stride", "size", "step of the windows; by default they do not overlap", shown="kernel"),
    Formal("pad", "pad", "cells added on both sides, at most half a window", default=0),
)


def _pool(rule: Rule, settings: Settings, source: Shape) -> Operator:
    """The operator of either pooling, its windows checked."""
    name = rule.names[0]
    axes = channels_and_axes(source, name)
    kernel = per_axis(settings["kernel"], axes, "the kernel", "kernel")
    stride = kernel if settings["stride"] is None else settings["stride"]
    stride = per_axis(stride, axes, "the stride", "stride")
    pad = per_axis(settings["pad"], axes, "the padding", "pad")
    if any(2 * p > k for p, k in zip(pad, kernel)):
        raise ShapeError(
            f"the padding of {name} is more than half of its kernel",
            f"at most {min(kernel) // 2}",
            "pad",
            notes=("some windows would lie wholly outside of the input",),
        )
    sizes = slide(source, name, kernel, stride, pad, (1,) * axes)
    chosen = (("kernel", kernel), ("pad", pad), ("stride", stride))
    return Operator(rule.kind, source, (source[0], *sizes), chosen)


def _windows(operator: Operator) -> tuple[np.ndarray, np.ndarray | None]:
    kernel: Axes = operator["kernel"]
    ones = (1,) * len(kernel)
    return window_indices(operator.source, operator.target, kernel, operator["stride"], operator["pad"], ones)


def _arguments(operator: Operator, pad: Axes) -> str:
    """What follows the input in PyTorch's pooling functions."""
    kernel, stride = operator["kernel"], operator["stride"]
    short = [str(v[0]) if len(set(v)) == 1 else repr(v) for v in (kernel, stride, pad)]
    text = short[0]
    if stride != kernel:
        text += f", stride={short[1]}"
    if any(pad):
        text += f", padding={short[2]}"
    return text


class AvgPool(LinearRule):
    kind = "avg_pool"
    names = ("AvgPool",)
    formals = _FORMALS
    doc = "The mean of each window. Padding counts as zeros, as in `nn.AvgPool2d`."
    example = "input u[3, 6, 6]\noutput y[3, 3, 3] = AvgPool(2) * u"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        return _pool(self, settings, source)

    def transpose(self, operator: Operator) -> Operator | None:
        along = zip(operator.source[1:], operator["stride"])
        if any(not isinstance(size, int) and step != 1 for size, step in along):
            raise ShapeError(
                "the transpose of AvgPool with a stride above 1 needs to know all sizes, "
                f"and it gives {show(operator.source)}",
                "a size is free",
            )
        return Operator("avg_pool_adjoint", operator.target, operator.source, operator.settings)

    def onto(self, settings: Settings, target: Shape, like: Operator | None) -> Operator:
        """With a stride of 1, sizes follow from those of the output."""
        axes = channels_and_axes(target, "the transpose of AvgPool")
        kernel = per_axis(settings["kernel"], axes, "the kernel", "kernel")
        stride = kernel if settings["stride"] is None else settings["stride"]
        pad = per_axis(settings["pad"], axes, "the padding", "pad")
        if any(step != 1 for step in per_axis(stride, axes, "the stride", "stride")):
            return super().onto(settings, target, like)
        behind = (floor_affine(n, k - 1 - 2 * p, 1) for n, k, p in zip(target[1:], kernel, pad))
        return self.operator(settings, (target[0], *behind))

    def follows(self, operator: Operator) -> tuple[int | None, ...]:
        return (0, *(None,) * (len(operator.target) - 1))

    def entry_count(self, operator: Operator) -> int:
        geometry = (operator["kernel"], operator["stride"], operator["pad"])
        return count(operator.target[:1]) * inside_count(operator.source, operator.target, *geometry)

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        positions, inside = _windows(operator)
        outputs, taps = positions.shape
        channels = np.arange(count(operator.source[:1]), dtype=np.int32)[:, None, None]
        full = (len(channels), outputs, taps)
        rows = np.broadcast_to(channels * outputs + np.arange(outputs, dtype=np.int32)[:, None], full)
        cols = np.broadcast_to(channels * count(operator.source[1:]) + positions, full)
        if inside is None:
            rows, cols = rows.reshape(-1), cols.reshape(-1)
        else:
            keep = np.broadcast_to(inside, full)
            rows, cols = rows[keep], cols[keep]
        return (Entries("", rows, cols, None, 1 / taps),)

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        F = torch.nn.functional
        pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(operator.source) - 1]
        before, pad = _padding(operator)
        result: torch.Tensor = pool(F.pad(x, before), operator["kernel"], operator["stride"], pad)
        return result

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        before, pad = _padding(operator)
        inner = f"F.pad({x.text}, {before!r})" if any(before) else x.text
        return Expression(f"F.avg_pool{len(operator.source) - 1}d({inner}, {_arguments(operator, pad)})")

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        return self.emit(operator, x, "")

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        return 1.0


def _padding(operator: Operator) -> tuple[Axes, Axes]:
    """Zeros to put around the input first (last axis first, both sides), and those left to the pooling."""
    pad: Axes = operator["pad"]
    fits = all(isinstance(n, int) and n >= k for n, k in zip(operator.source[1:], operator["kernel"]))
    if len(pad) < 3 or fits or not any(pad):
        return (), pad
    # PyTorch's avg_pool3d refuses an input smaller than its kernel, even where padding makes it fit
    return tuple(p for p in reversed(pad) for _ in range(2)), (0,) * len(pad)


class GlobalAvgPool(Mean):
    kind = "global_avg_pool"
    names = ("GlobalAvgPool",)
    doc = "The mean of each channel over all axes behind it: [C, …] becomes [C]."
    example = "input u[3, 4, 5]\noutput y[3] = GlobalAvgPool() * u"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        if len(source) < 2:
            raise ShapeError(
                f"GlobalAvgPool needs channels and axes behind them, but its input is {show(source)}",
                "such as [channels, height, width]",
            )
        return Operator(self.kind, source, source[:1])

    def transpose(self, operator: Operator) -> Operator | None:
        if known(operator.source[1:]) is None:
            raise ShapeError(
                f"the transpose of GlobalAvgPool gives {show(operator.source)}, "
                "and needs to know these sizes",
                "a size is free",
                help="write `expand(s, x)`, which repeats s over the axes of x",
            )
        return Operator("global_avg_pool_adjoint", operator.target, operator.source)

    def gone(self, operator: Operator) -> tuple[int, ...]:
        return tuple(range(1, len(operator.source)))


class MaxPool(ActivationRule):
    """Not linear, so a state of its own: z is the input, and each x is the maximum of its window of z."""

    kind = "max_pool"
    names = ("MaxPool",)
    formals: ClassVar[tuple[Formal, ...]] = _FORMALS
    elementwise = False
    homogeneous = True
    doc = (
        "The maximum of each window: an activation that takes a window of slots, "
        "applied as `MaxPool(2)(x)` or `x |> MaxPool(2)`."
    )
    example = "input u[3, 6, 6]\noutput y[3, 3, 3] = u |> MaxPool(2)"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        return _pool(self, settings, source)

    def axes(self, operator: Operator) -> tuple[int | None, ...]:
        return (0, *(None,) * (len(operator.target) - 1))

    def windows(self, operator: Operator) -> tuple[np.ndarray, np.ndarray | None]:
        """For each output and tap the position that it reads, and which are inside (None: all)."""
        return _windows(operator)

    def _gather(self, operator: Operator, z: np.ndarray, outside: float) -> np.ndarray:
        """The windows of z [batch, *source] as [batch, channels, outputs, taps]."""
        positions, inside = self.windows(operator)
        flat = z.reshape(len(z), count(operator.source[:1]), count(operator.source[1:]))
        if inside is None:
            return np.asarray(flat[:, :, positions])
        return np.where(inside, flat[:, :, np.where(inside, positions, 0)], outside)

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        gathered = self._gather(operator, z, -np.inf)
        return np.asarray(gathered.max(-1).reshape(len(z), *operator.target))

    def vjp(self, operator: Operator, z: np.ndarray, g: np.ndarray) -> np.ndarray:
        positions, _ = self.windows(operator)
        winner = self._gather(operator, z, -np.inf).argmax(-1)  # the first of several, as in PyTorch
        taken = np.take_along_axis(positions[None, None], winner[..., None], -1)[..., 0]
        planes, area = winner.shape[0] * winner.shape[1], count(operator.source[1:])
        cells = np.arange(planes)[:, None] * area + taken.reshape(planes, -1)
        pulled = np.bincount(cells.reshape(-1), g.reshape(-1), planes * area)  # windows may overlap
        return pulled.reshape(z.shape)

    def majorant(self, operator: Operator, change: np.ndarray) -> np.ndarray:
        # |max u − max v| ≤ max |u − v|: the maximum of the changes in the window, not their sum
        gathered = self._gather(operator, change, 0.0)
        return np.asarray(gathered.max(-1).reshape(len(change), *operator.target))

    def gain(self, operator: Operator) -> float:
        return 1.0

    def reads(self, operator: Operator) -> int:
        return int(self.windows(operator)[0].shape[-1])

    def lines(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> Lines:
        places = np.arange(count(operator.source), dtype=float).reshape(1, *sizes(operator.source))
        index, *bounds = (
            np.moveaxis(self._gather(operator, z, -1.0), -1, 1).reshape(len(z), -1, count(operator.target))
            for z in (places, lower, upper)
        )
        return largest_lines(np.maximum(index[0], 0).astype(np.intp), index[0] >= 0, *bounds)

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return Expression(
            f"F.max_pool{len(operator.source) - 1}d({z.text}, {_arguments(operator, operator['pad'])})"
        )


RULES: tuple[Rule, ...] = (AvgPool(), GlobalAvgPool(), MaxPool())
