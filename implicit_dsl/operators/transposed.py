"""Transposed convolutions: the matrix of a convolution, transposed, as a layer or tied to one."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import (
    Entries,
    Expression,
    Formal,
    LinearRule,
    Operator,
    Rule,
    Settings,
    ShapeError,
)
from implicit_dsl.operators.convolution import (
    MOST_TRIED,
    after_of,
    group_option,
    mode_of,
    output_channels,
    short,
    window_options,
)
from implicit_dsl.operators.initialisers import ParameterSpec
from implicit_dsl.operators.windows import (
    Axes,
    channels_and_axes,
    copies,
    inside_count,
    margins,
    overlap,
    per_axis,
    slide,
    window_indices,
)
from implicit_dsl.shapes import Dim, Shape, affine, count, floor_affine, show

if TYPE_CHECKING:
    import numpy as np
    import torch

    from implicit_dsl.runtime import transposes
else:
    np = lazy_module("numpy")
    torch = lazy_module("torch")
    transposes = lazy_module("implicit_dsl.runtime.transposes")


class ConvTranspose(LinearRule):
    """T[(o, s i + d a − p), (c, i)] = K[c, o, a]: the transpose of a convolution from o to c channels.

    `output_pad` says which of the sizes that this convolution would map to its input is meant. With
    `tied`, the weight belongs to that convolution, and there is no bias; it may pad by copies, `mode`.
    """

    kind = "conv_transpose"
    calls = ("pad_transposed",)
    names = ("ConvTranspose",)
    formals = (
        Formal("width", "width", "`out` channels, or `in => out` to have the input checked", required=True),
        Formal("kernel", "size", "size of the kernel: one number, or one for each axis", required=True),
        Formal("stride", "size", "distance of the windows in the output", default=1),
        Formal("pad", "pad", "cells of the output cut off on both sides", default=0),
        Formal("output_pad", "pad", "cells added at the end of each axis", default=0),
        Formal("dilation", "size", "distance of the kernel's entries", default=1),
        Formal("groups", "integer", "channels are split into so many independent groups", default=1),
        Formal("bias", "flag", "add a learned offset for each output channel", default=True),
    )
    doc = (
        "Transposed convolution over the axes behind the channels (1, 2 or 3 of them). "
        "Weights are [in, out ÷ groups, kernel…], as in `nn.ConvTranspose2d`."
    )
    example = "input u[4, 3, 3]\noutput y[2, 6, 6] = ConvTranspose(2, 4; stride = 2, pad = 1) * u"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        axes = channels_and_axes(source, "ConvTranspose")
        kernel = per_axis(settings["kernel"], axes, "the kernel", "kernel")
        stride = per_axis(settings["stride"], axes, "the stride", "stride")
        pad = per_axis(settings["pad"], axes, "the padding", "pad")
        more = per_axis(settings["output_pad"], axes, "the output padding", "output_pad")
        dilation = per_axis(settings["dilation"], axes, "the dilation", "dilation")
        for cells, s, d in zip(more, stride, dilation):
            if cells >= max(s, d):
                raise ShapeError(
                    "`output_pad` of ConvTranspose must be below its stride or its dilation",
                    f"at most {max(s, d) - 1}",
                    "output_pad",
                )
        channels = output_channels(settings, source, "ConvTranspose")
        geometry = (kernel, stride, pad, more, dilation)
        sizes = tuple(_grown(source, size, *each) for size, *each in zip(source[1:], *geometry))
        chosen = {
            "bias": settings["bias"],
            "dilation": dilation,
            "groups": settings["groups"],
            "kernel": kernel,
            "output_pad": more,
            "pad": pad,
            "stride": stride,
        }
        return Operator(self.kind, source, (channels, *sizes), tuple(chosen.items()))

    def parameters(self, operator: Operator) -> tuple[ParameterSpec, ...]:
        width = count(operator.target[:1])
        shape = (count(operator.source[:1]), width // operator["groups"], *operator["kernel"])
        bias = (ParameterSpec("bias", (width,)),) if operator["bias"] else ()
        return (ParameterSpec("weight", shape), *bias)

    def holder(self, operator: Operator) -> str | None:
        if operator.get("tied", False):
            return None
        text = f"nn.ConvTranspose{len(operator.source) - 1}d("
        text += f"{operator.source[0]}, {operator.target[0]}, {short(operator['kernel'])}"
        return text + _options(operator) + ("" if operator["bias"] else ", bias=False") + ")"

    def transposed(self, operator: Operator) -> bool:
        return True

    def onto(self, settings: Settings, target: Shape, like: Operator | None) -> Operator:
        channels = settings["width"][0] if like is None else like.source[0]
        if channels is None:
            return super().onto(settings, target, like)
        axes = channels_and_axes(target, "the transpose of ConvTranspose")
        stride = per_axis(settings["stride"], axes, "the stride", "stride")
        one = self.operator(settings, (channels, *(MOST_TRIED,) * axes))
        sizes = tuple(
            floor_affine(size, (MOST_TRIED - 1) * s - count((tried,)), s, 1)
            for size, tried, s in zip(target[1:], one.target[1:], stride)
        )
        made = self.operator(settings, (channels, *sizes))
        if made.target != target:
            raise ShapeError(
                f"this ConvTranspose gives {show(made.target)} or another size, "
                f"and its transpose is applied to {show(target)}",
                f"takes {show(made.target)}",
            )
        return made

    def transpose(self, operator: Operator) -> Operator | None:
        source, target = operator.target, operator.source
        geometry = (operator[name] for name in ("kernel", "stride", "pad", "dilation"))
        if operator.get("after", None) is None and slide(source, "Conv", *geometry) != target[1:]:
            raise ShapeError(
                f"this ConvTranspose has no transpose that is a convolution: its output {show(source)} "
                "has room for more windows than its input",
                show(source),
            )
        chosen = {name: value for name, value in operator.settings if name != "output_pad"}
        chosen |= {"bias": False, "tied": True}
        return Operator("conv", source, target, tuple(sorted(chosen.items())))

    def _geometry(self, operator: Operator) -> tuple[Shape, Shape, Axes, Axes, Axes, Axes, str]:
        """The convolution that this is the transpose of: its input is the output here."""
        names = ("kernel", "stride", "pad", "dilation")
        kernel, stride, pad, dilation = (operator[name] for name in names)
        return operator.target, operator.source, kernel, stride, pad, dilation, mode_of(operator)

    def overlap(self, operator: Operator) -> int:
        widest: Axes = tuple(map(max, operator["pad"], after_of(operator)))
        return overlap(operator.target, operator["kernel"], widest, operator["dilation"], mode_of(operator))

    def entry_count(self, operator: Operator) -> int:
        channels, each = self.parameters(operator)[0].shape[:2]
        return channels * each * inside_count(*self._geometry(operator))

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        channels, each = self.parameters(operator)[0].shape[:2]
        position, inside = window_indices(*self._geometry(operator))
        inputs, taps = position.shape
        channel = np.arange(channels, dtype=np.int32)[:, None, None, None]
        out = np.arange(each, dtype=np.int32)[None, None, :, None]
        first = channel // (channels // operator["groups"]) * each  # of the output channels of this group
        full = (channels, inputs, each, taps)
        rows = (first + out) * count(operator.target[1:]) + position[None, :, None, :]
        cols = channel * inputs + np.arange(inputs, dtype=np.int32)[None, :, None, None]
        slots = (channel * each + out) * taps + np.arange(taps, dtype=np.int32)
        triplet = [np.broadcast_to(part, full) for part in (rows, cols, slots)]
        if inside is None:
            return (Entries("weight", *(part.reshape(-1) for part in triplet)),)
        keep = np.broadcast_to(inside[None, :, None, :], full)
        return (Entries("weight", *(part[keep] for part in triplet)),)

    def offset_count(self, operator: Operator) -> int:
        return count(operator.target) if operator["bias"] else 0

    def offsets(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        if not operator["bias"]:
            return ()
        rows = np.arange(count(operator.target))
        return (Entries("bias", rows, np.zeros_like(rows), rows // count(operator.target[1:])),)

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        F = torch.nn.functional
        convolve = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
        padded = mode_of(operator) == "zeros"
        pad: Axes = operator["pad"] if padded else (0,) * len(operator["pad"])
        geometry = (operator["stride"], pad, operator["output_pad"], operator["groups"], operator["dilation"])
        result: torch.Tensor = convolve[len(operator.source) - 1](x, weights["weight"], None, *geometry)
        if not padded:
            cells = margins(operator["pad"], after_of(operator))
            return transposes.pad_transposed(result, cells, mode_of(operator))
        return result[(..., *(slice(None, -cells or None) for cells in _cut(operator)))]

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        return Expression(f"{layer}({x.text})")

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        bias = f", {weights['bias']}" if "bias" in weights else ""
        axes = len(operator.source) - 1
        made = f"F.conv_transpose{axes}d({x.text}, {weights['weight']}{bias}{_options(operator)})"
        if mode_of(operator) != "zeros":
            cells = margins(operator["pad"], after_of(operator))
            return Expression(f'runtime.pad_transposed({made}, {cells!r}, "{mode_of(operator)}")')
        if any(_cut(operator)):
            made += f"[..., {', '.join(f':-{cells}' if cells else ':' for cells in _cut(operator))}]"
        return Expression(made)

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        # a row of the matrix reads an entry of the kernel at most once for each input channel, and with
        # several groups or a stride above 1 only some of them; what is copied may be read in several places
        bound = bounds.get(f"{operator.parameter('weight')}'")
        large, small, kernel, stride, pad, dilation, mode = self._geometry(operator)
        windows = zip(kernel, stride, pad, after_of(operator), dilation)
        along = zip(large[1:], small[1:], windows)
        return None if bound is None else bound * prod(copies(n, m, *axis, mode) for n, m, axis in along)


def _cut(operator: Operator) -> Axes:
    """Cells at the end of each axis that a convolution padded beyond as many as at the beginning."""
    before: Axes = operator["pad"]
    return tuple(a - p for a, p in zip(operator.get("after", before), before))


def _options(operator: Operator) -> str:
    pad = operator["pad"] if mode_of(operator) == "zeros" else ()
    more = operator["output_pad"]
    text = window_options(operator, short(pad) if any(pad) else "")
    return text + (f", output_padding={short(more)}" if any(more) else "") + group_option(operator)


def _grown(source: Shape, size: Dim, k: int, s: int, p: int, more: int, d: int) -> Dim:
    """The size behind: (size − 1) s − 2 p + d (k − 1) + output_pad + 1. Raises ShapeError."""
    cells = d * (k - 1) + 1 - 2 * p + more
    if not isinstance(size, int):
        return affine(size, s, cells - s, 1)
    grown = (size - 1) * s + cells
    if grown < 1:
        raise ShapeError(
            f"the padding of this ConvTranspose cuts off all of its output, for the input {show(source)}",
            f"cuts off {2 * p}",
            "pad",
            notes=(f"({size} - 1)*{s} - 2*{p} + {d}*({k} - 1) + {more} + 1 = {grown}",),
        )
    return grown


RULES: tuple[Rule, ...] = (ConvTranspose(),)
