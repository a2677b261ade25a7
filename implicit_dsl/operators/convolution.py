"""Convolutions: tied diagonal stripes, which wrap or turn back at the borders where the padding does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

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
from implicit_dsl.operators.initialisers import ParameterSpec
from implicit_dsl.operators.windows import (
    MODES,
    Axes,
    channels_and_axes,
    check_margins,
    inside_count,
    margins,
    overlap,
    per_axis,
    slide,
    window_indices,
)
from implicit_dsl.shapes import Dim, Shape, count, floor_affine, show

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")
    torch = lazy_module("torch")


MOST_TRIED = 2**20  # a size at which any kernel fits
MODE = Formal("mode", "choice", "what the padding holds", default="zeros", choices=MODES)


class Conv(LinearRule):
    """Cross-correlation, as in PyTorch: with zero padding its matrix is

    T[(o, i), (c, s i + d a − p)] = K[o, c, a]   (theory of the Toeplitz operator, one index per axis).

    In the other modes what lies outside of the input reads the cell that it copies, and entries add up
    there. With `tied`, the weight belongs to the transposed convolution that this is the transpose of.
    """

    kind = "conv"
    names = ("Conv",)
    formals: ClassVar[tuple[Formal, ...]] = (
        Formal("width", "width", "`out` channels, or `in => out` to have the input checked", required=True),
        Formal("kernel", "size", "size of the kernel: one number, or one for each axis", required=True),
        Formal("stride", "size", "step of the windows", default=1),
        Formal(
            "pad",
            "pad",
            'cells added on both sides, or "same": as many as keep the size',
            default=0,
            choices=("same",),
        ),
        Formal("dilation", "size", "distance of the kernel's entries", default=1),
        Formal("groups", "integer", "channels are split into so many independent groups", default=1),
        Formal("bias", "flag", "add a learned offset for each output channel", default=True),
        MODE,
    )
    doc = (
        "Convolution over the axes behind the channels (1, 2 or 3 of them). "
        "Weights are [out, in ÷ groups, kernel…], as in `nn.Conv2d`."
    )
    example = "input u[2, 7, 6]\noutput y[4, 4, 3] = Conv(2 => 4, 3; stride = 2, pad = 1, groups = 2) * u"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        axes = channels_and_axes(source, self.names[0])
        kernel = per_axis(settings["kernel"], axes, "the kernel", "kernel")
        stride = per_axis(settings["stride"], axes, "the stride", "stride")
        dilation = per_axis(settings["dilation"], axes, "the dilation", "dilation")
        channels = output_channels(settings, source, "Conv")
        if settings["pad"] == "same":
            before, after, sizes = _same(source, kernel, stride, dilation)
        else:
            before = after = per_axis(settings["pad"], axes, "the padding", "pad")
            sizes = slide(source, self.names[0], kernel, stride, before, dilation)
        check_margins(source, self.names[0], tuple(map(max, before, after)), settings["mode"])
        chosen = {
            "bias": settings["bias"],
            "dilation": dilation,
            "groups": settings["groups"],
            "kernel": kernel,
            "pad": before,
            "stride": stride,
        }
        if any(after) and settings["mode"] != "zeros":
            chosen["mode"] = settings["mode"]
        if after != before:
            chosen["after"] = after
        return Operator("conv", source, (channels, *sizes), tuple(chosen.items()))

    def parameters(self, operator: Operator) -> tuple[ParameterSpec, ...]:
        width = count(operator.target[:1])
        shape = (width, count(operator.source[:1]) // operator["groups"], *operator["kernel"])
        bias = (ParameterSpec("bias", (width,)),) if operator["bias"] else ()
        return (ParameterSpec("weight", shape), *bias)

    def holder(self, operator: Operator) -> str | None:
        if operator.get("tied", False):
            return None
        axes = len(operator.source) - 1
        text = f"nn.Conv{axes}d({operator.source[0]}, {operator.target[0]}, {short(operator['kernel'])}"
        text += window_options(operator, _padding(operator)) + group_option(operator)
        text += "" if operator["bias"] else ", bias=False"
        return text + ("" if mode_of(operator) == "zeros" else f', padding_mode="{mode_of(operator)}"') + ")"

    def transpose(self, operator: Operator) -> Operator | None:
        source, target, before = operator.target, operator.source, operator["pad"]
        more: list[int] = []
        for small, large, k, s, p, d in zip(
            source[1:], target[1:], operator["kernel"], operator["stride"], before, operator["dilation"]
        ):
            if isinstance(small, int) and isinstance(large, int):
                # none where `after` cuts the last cell off
                more.append(max(0, large - ((small - 1) * s - 2 * p + d * (k - 1) + 1)))
            elif s == 1:
                more.append(0)
            else:
                raise ShapeError(
                    f"the transpose of a convolution with a stride of {s} needs to know all sizes, "
                    f"and it gives {show(target)}",
                    "a size is free",
                )
        chosen = {**dict(operator.settings), "bias": False, "output_pad": tuple(more), "tied": True}
        return Operator("conv_transpose", source, target, tuple(sorted(chosen.items())))

    def onto(self, settings: Settings, target: Shape, like: Operator | None) -> Operator:
        """With `in =>` and a stride of 1, sizes follow from those of the output."""
        axes, channels = (
            channels_and_axes(target, "the transpose of Conv"),
            self.taken(settings, target, like),
        )
        stride = per_axis(settings["stride"], axes, "the stride", "stride")
        if any(s != 1 for s in stride):
            raise ShapeError(
                f"several sizes give {show(target)} with a stride of {short(stride)}, "
                "so it is not known which of them the transpose gives",
                f"on {show(target)}",
                help="apply the Conv itself to what is meant in a line before",
            )
        if channels is None:
            return super().onto(settings, target, like)
        one = self.operator(settings, (channels, *(MOST_TRIED,) * axes))
        sizes = (
            floor_affine(size, MOST_TRIED - count((tried,)), 1)
            for size, tried in zip(target[1:], one.target[1:])
        )
        made = self.operator(settings, (channels, *sizes))
        if made.target != target:
            raise ShapeError(
                f"this convolution gives {made.target[0]} channels, "
                f"and its transpose is applied to {show(target)}",
                f"takes {made.target[0]} channels",
                "width",
            )
        return made

    def taken(self, settings: Settings, target: Shape, like: Operator | None) -> Dim | None:
        """The channels that it takes where it gives `target`, if that is known."""
        expected: int | None = settings["width"][0]
        return expected if like is None else like.source[0]

    def entry_count(self, operator: Operator) -> int:
        width, each = self.parameters(operator)[0].shape[:2]
        return width * each * inside_count(operator.source, operator.target, *_geometry(operator))

    def overlap(self, operator: Operator) -> int:
        widest: Axes = tuple(map(max, operator["pad"], after_of(operator)))
        return overlap(operator.source, operator["kernel"], widest, operator["dilation"], mode_of(operator))

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        width, each = self.parameters(operator)[0].shape[:2]
        position, inside = window_indices(operator.source, operator.target, *_geometry(operator))
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
        pad = operator["pad"]
        if _padded_before(operator):
            mode = "constant" if mode_of(operator) == "zeros" else mode_of(operator)
            x, pad = F.pad(x, margins(operator["pad"], after_of(operator)), mode), (0,) * len(pad)
        result: torch.Tensor = convolve(
            x, weights["weight"], None, operator["stride"], pad, operator["dilation"], operator["groups"]
        )
        return result

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        if mode_of(operator) == "zeros" and _padded_before(operator):
            x = _padded(operator, x)
        return Expression(f"{layer}({x.text})")

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        axes = len(operator.source) - 1
        bias = f", {weights['bias']}" if "bias" in weights else ""
        padding = _padding(operator)
        if _padded_before(operator):
            x, padding = _padded(operator, x), ""
        options = window_options(operator, padding) + group_option(operator)
        return Expression(f"F.conv{axes}d({x.text}, {weights['weight']}{bias}{options})", fresh=True)

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        # a row of the matrix reads the kernel of its channel at most once (theory §3); where entries meet
        # in one place, the absolute value of their sum is no more than the sum of theirs
        return bounds.get(operator.parameter("weight") or "")


def output_channels(settings: Settings, source: Shape, name: str) -> int:
    """The output channels, once channels and groups are seen to fit. Raises ShapeError if they do not."""
    (expected, width), groups = settings["width"], settings["groups"]
    if not isinstance(source[0], int):
        raise ShapeError(f"{name} needs to know the number of channels, which is free here", "the first axis")
    if expected is not None and expected != source[0]:
        raise ShapeError(
            f"this convolution takes {expected} channels, but its input has {source[0]}",
            f"expects {expected}",
            "width",
            help=f"write `{name}({source[0]} => {width}, …)`, "
            f"or `{name}({width}, …)` to take the channels of the input",
            takes=source[0],
        )
    if source[0] % groups or width % groups:
        raise ShapeError(
            f"{groups} groups do not divide {source[0]} input and {width} output channels",
            "must divide both",
            "groups",
        )
    return int(width)


def _same(source: Shape, kernel: Axes, stride: Axes, dilation: Axes) -> tuple[Axes, Axes, Shape]:
    """The padding before and after that keeps the sizes, the odd cell after, as in PyTorch."""
    if any(step != 1 for step in stride):
        raise ShapeError(
            f'`pad = "same"` keeps the size of the input, and a stride of {short(stride)} does not',
            f"a stride of {short(stride)}",
            "stride",
            help=f"write the padding as a number: `pad = {short(tuple(k // 2 for k in kernel))}`",
        )
    total = tuple(d * (k - 1) for k, d in zip(kernel, dilation))
    before = tuple(cells // 2 for cells in total)
    return before, tuple(cells - first for cells, first in zip(total, before)), source[1:]


def mode_of(operator: Operator) -> str:
    """What the padding of a convolution holds."""
    mode: str = operator.get("mode", "zeros")
    return mode


def after_of(operator: Operator) -> Axes:
    """The cells that are padded at the end of each axis; `pad` are those at its beginning."""
    after: Axes = operator.get("after", operator["pad"])
    return after


def _geometry(operator: Operator) -> tuple[Axes, Axes, Axes, Axes, str]:
    names = ("kernel", "stride", "pad", "dilation")
    kernel, stride, pad, dilation = (operator[name] for name in names)
    return kernel, stride, pad, dilation, mode_of(operator)


def _padded_before(operator: Operator) -> bool:
    """Whether the padding is none that PyTorch's functions take as numbers."""
    return mode_of(operator) != "zeros" or operator["pad"] != after_of(operator)


def _padded(operator: Operator, x: Expression) -> Expression:
    mode = "" if mode_of(operator) == "zeros" else f', mode="{mode_of(operator)}"'
    cells = margins(operator["pad"], after_of(operator))
    return Expression(f"F.pad({x.text}, {cells!r}{mode})")


def _padding(operator: Operator) -> str:
    """The padding as an argument of PyTorch's layers. Of zeros on one side more, they would warn."""
    if operator["pad"] != after_of(operator):
        return "" if mode_of(operator) == "zeros" else '"same"'
    return short(operator["pad"]) if any(operator["pad"]) else ""


def window_options(operator: Operator, padding: str) -> str:
    """The windows as arguments of PyTorch, where they are not the default."""
    stride, dilation = operator["stride"], operator["dilation"]
    text = f", stride={short(stride)}" if any(size != 1 for size in stride) else ""
    text += f", padding={padding}" if padding else ""
    return text + (f", dilation={short(dilation)}" if any(size != 1 for size in dilation) else "")


def group_option(operator: Operator) -> str:
    return "" if operator["groups"] == 1 else f", groups={operator['groups']}"


def short(sizes: tuple[int, ...]) -> str:
    """`3` for (3, 3), as one would write it."""
    return str(sizes[0]) if len(set(sizes)) == 1 else repr(sizes)


class DepthwiseConv(Conv):
    """A convolution of each channel by itself: as many groups as channels."""

    kind = "depthwise_conv"  # of the constructor: its operators are convolutions
    names = ("DepthwiseConv",)
    formals = (
        *Conv.formals[1:5],
        Formal("multiplier", "integer", "output channels for each input channel", default=1),
        *Conv.formals[6:],
    )
    doc = "A convolution of each channel by itself: `Conv(c, kernel; groups = c)` for an input of c channels."
    example = 'input u[3, 7, 6]\noutput y[3, 7, 6] = DepthwiseConv(3; pad = "same") * u'

    def operator(self, settings: Settings, source: Shape) -> Operator:
        channels_and_axes(source, self.names[0])
        if not isinstance(source[0], int):
            raise ShapeError(
                f"{self.names[0]} needs to know the number of channels, which is free here", "the first axis"
            )
        width = (None, source[0] * settings["multiplier"])
        return super().operator({**settings, "width": width, "groups": source[0]}, source)

    def taken(self, settings: Settings, target: Shape, like: Operator | None) -> Dim | None:
        return max(1, count(target[:1]) // settings["multiplier"]) if like is None else like.source[0]


RULES: tuple[Rule, ...] = (Conv(), DepthwiseConv())
