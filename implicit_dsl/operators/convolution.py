"""Convolutions: tied diagonal stripes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import (
    Entries,
    Expression,
    Formal,
    LinearRule,
    Operator,
    ParameterSpec,
    Rule,
    Settings,
    ShapeError,
)
from implicit_dsl.operators.windows import channels_and_axes, inside_count, per_axis, slide, window_indices
from implicit_dsl.shapes import Shape, count

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")
    torch = lazy_module("torch")


class Conv(LinearRule):
    """Cross-correlation, as in PyTorch: with zero padding its matrix is

    T[(o, i), (c, s i + d a − p)] = K[o, c, a]   (theory of the Toeplitz operator, one index per axis).
    """

    kind = "conv"
    fresh = True
    names = ("Conv",)
    formals = (
        Formal("width", "width", "`out` channels, or `in => out` to have the input checked", required=True),
        Formal("kernel", "size", "size of the kernel: one number, or one for each axis", required=True),
        Formal("stride", "size", "step of the windows", default=1),
        Formal("pad", "pad", "zeros added on both sides", default=0),
        Formal("dilation", "size", "distance of the kernel's entries", default=1),
        Formal("groups", "integer", "channels are split into so many independent groups", default=1),
        Formal("bias", "flag", "add a learned offset for each output channel", default=True),
    )
    doc = (
        "Convolution over the axes behind the channels (1, 2 or 3 of them). "
        "Weights are [out, in ÷ groups, kernel…], as in `nn.Conv2d`."
    )
    example = "input u[2, 7, 6]\noutput y[4, 4, 3] = Conv(2 => 4, 3; stride = 2, pad = 1, groups = 2) * u"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        axes = channels_and_axes(source, "Conv")
        kernel = per_axis(settings["kernel"], axes, "the kernel", "kernel")
        stride = per_axis(settings["stride"], axes, "the stride", "stride")
        pad = per_axis(settings["pad"], axes, "the padding", "pad")
        dilation = per_axis(settings["dilation"], axes, "the dilation", "dilation")
        channels = self._channels(settings, source)
        sizes = slide(source, "Conv", kernel, stride, pad, dilation)
        chosen = {
            "bias": settings["bias"],
            "dilation": dilation,
            "groups": settings["groups"],
            "kernel": kernel,
            "pad": pad,
            "stride": stride,
        }
        return Operator(self.kind, source, (channels, *sizes), tuple(chosen.items()))

    def _channels(self, settings: Settings, source: Shape) -> int:
        """The output channels, once channels and groups are seen to fit."""
        (expected, width), groups = settings["width"], settings["groups"]
        if not isinstance(source[0], int):
            raise ShapeError(
                "Conv needs to know the number of channels, which is free here", "the first axis"
            )
        if expected is not None and expected != source[0]:
            raise ShapeError(
                f"this convolution takes {expected} channels, but its input has {source[0]}",
                f"expects {expected}",
                "width",
                help=f"write `Conv({source[0]} => {width}, …)`, "
                f"or `Conv({width}, …)` to take the channels of the input",
            )
        if source[0] % groups or width % groups:
            raise ShapeError(
                f"{groups} groups do not divide {source[0]} input and {width} output channels",
                "must divide both",
                "groups",
            )
        return int(width)

    def parameters(self, operator: Operator) -> tuple[ParameterSpec, ...]:
        width = count(operator.target[:1])
        shape = (width, count(operator.source[:1]) // operator["groups"], *operator["kernel"])
        bias = (ParameterSpec("bias", (width,)),) if operator["bias"] else ()
        return (ParameterSpec("weight", shape), *bias)

    def holder(self, operator: Operator) -> str:
        axes = len(operator.source) - 1
        text = f"nn.Conv{axes}d({operator.source[0]}, {operator.target[0]}, {_short(operator['kernel'])}"
        text += _options(operator)
        if operator["groups"] != 1:
            text += f", groups={operator['groups']}"
        return text + ("" if operator["bias"] else ", bias=False") + ")"

    def entry_count(self, operator: Operator) -> int:
        width, each = self.parameters(operator)[0].shape[:2]
        geometry = (operator["kernel"], operator["stride"], operator["pad"], operator["dilation"])
        return width * each * inside_count(operator.source, operator.target, *geometry)

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        width, each = self.parameters(operator)[0].shape[:2]
        geometry = (operator["kernel"], operator["stride"], operator["pad"], operator["dilation"])
        position, inside = window_indices(operator.source, operator.target, *geometry)
        outputs, taps = position.shape
        out = np.arange(width, dtype=np.int32)[:, None, None, None]
        channel = np.arange(each, dtype=np.int32)[None, None, :, None]
        first = out // (width // operator["groups"]) * each  # of the input channels of this group
        full = (width, outputs, each, taps)
        rows = out * outputs + np.arange(outputs, dtype=np.int32)[None, :, None, None]
        cols = (first + channel) * count(operator.source[1:]) + position[None, :, None, :]
        slots = (out * each + channel) * taps + np.arange(taps, dtype=np.int32)
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
        convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(operator.source) - 1]
        result: torch.Tensor = convolve(
            x,
            weights["weight"],
            None,
            operator["stride"],
            operator["pad"],
            operator["dilation"],
            operator["groups"],
        )
        return result

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        return Expression(f"{layer}({x.text})")

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        axes = len(operator.source) - 1
        bias = f", {weights['bias']}" if "bias" in weights else ""
        options = _options(operator)
        if operator["groups"] != 1:
            options += f", groups={operator['groups']}"
        return Expression(f"F.conv{axes}d({x.text}, {weights['weight']}{bias}{options})")

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        # a row of the matrix reads the kernel of its channel at most once (theory §3)
        return bounds.get(operator.parameter("weight") or "")


def _options(operator: Operator) -> str:
    """The windows as arguments of PyTorch, where they are not the default."""
    text = ""
    for ours, theirs, default in (
        ("stride", "stride", 1),
        ("pad", "padding", 0),
        ("dilation", "dilation", 1),
    ):
        if any(size != default for size in operator[ours]):
            text += f", {theirs}={_short(operator[ours])}"
    return text


def _short(sizes: tuple[int, ...]) -> str:
    """`3` for (3, 3), as one would write it."""
    return str(sizes[0]) if len(set(sizes)) == 1 else repr(sizes)


RULES: tuple[Rule, ...] = (Conv(),)
