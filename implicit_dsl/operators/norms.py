"""Normalisation of each sample by itself: GroupNorm, InstanceNorm, LayerNorm and RMSNorm.

The layer of PyTorch is split: what normalises has no parameters and is an activation, and its
factors and offsets are linear (`affine`), so that the matrix form is exact.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import (
    ActivationRule,
    Expression,
    Formal,
    Operator,
    Rule,
    Settings,
    ShapeError,
)
from implicit_dsl.operators.initialisers import ParameterSpec
from implicit_dsl.operators.joint import LARGEST, of_sets
from implicit_dsl.operators.relaxation import LIBRARY, Lines
from implicit_dsl.operators.scaled import Scaled
from implicit_dsl.operators.windows import channels_and_axes
from implicit_dsl.shapes import Shape, count, known, show, sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

_EPS = Formal("eps", "number", "added to the variance", default=1e-5)
_AFFINE = Formal("affine", "flag", "learn a factor and an offset for each channel", default=True)

_ENTRYWISE = Formal(
    "affine", "flag", "learn a factor and an offset for each entry of these axes", default=True
)
_AXES = Formal("axes", "integer", "how many of the last axes are normalised together", default=1)


class Normalisation(ActivationRule):
    """y = (z − μ) ÷ √(σ² + ε) over sets of n entries each, or with μ = 0 where not `centred`."""

    elementwise = False
    has_useful_majorant = False  # it is of size 1/√ε
    centred: ClassVar[bool] = True

    @abstractmethod
    def sets(self, operator: Operator) -> int:
        """How many sets of entries there are, one after another."""

    @abstractmethod
    def parameter_axis(self, operator: Operator) -> int:
        """The first of the axes whose entries have factors of their own."""

    def parameter_axes(self, operator: Operator) -> int:
        """How many such axes there are."""
        return 1

    def operator(self, settings: Settings, source: Shape) -> Operator:
        if not settings["eps"] > 0:
            raise ShapeError("`eps` must be positive", "not positive", "eps")
        operator = Operator(self.kind, source, source, tuple(sorted(settings.items())))
        if self.centred and known(source) is not None and self._size(operator) == 1:
            raise ShapeError(
                f"{self.names[0]} of {show(source)} normalises single numbers, which gives zeros",
                "one number less its mean is 0",
            )
        return operator

    def _size(self, operator: Operator) -> int:
        return count(operator.source) // self.sets(operator)

    def parameters(self, operator: Operator) -> tuple[ParameterSpec, ...]:
        axis = self.parameter_axis(operator)
        shape = sizes(operator.source[axis : axis + self.parameter_axes(operator)])
        if not operator["affine"]:
            return ()
        weight, bias = ParameterSpec("weight", shape), ParameterSpec("bias", shape)
        return (weight, bias) if self.centred else (weight,)

    def affine(self, operator: Operator) -> Operator | None:
        if not operator["affine"]:
            return None
        axes, first = self.parameter_axes(operator), self.parameter_axis(operator)
        chosen = (("axes", axes), ("bias", self.centred), ("first", first))
        return Operator("affine", operator.target, operator.target, chosen)

    def monotone(self, operator: Operator) -> bool:
        return False

    def _split(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return z.reshape(len(z), self.sets(operator), -1)

    def _scale(self, operator: Operator, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """z without its mean and √(σ² + ε), for z [batch, sets, n]."""
        centre = z - z.mean(-1, keepdims=True) if self.centred else z
        return centre, np.sqrt((centre**2).mean(-1, keepdims=True) + operator["eps"])

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        centre, scale = self._scale(operator, self._split(operator, z))
        return np.asarray((centre / scale).reshape(z.shape))

    def vjp(self, operator: Operator, z: np.ndarray, g: np.ndarray) -> np.ndarray:
        # the Jacobian (I − 11ᵀ/n − yyᵀ/n) ÷ √(σ² + ε) is symmetric
        centre, scale = self._scale(operator, self._split(operator, z))
        y, g = centre / scale, self._split(operator, g)
        mean = g.mean(-1, keepdims=True) if self.centred else 0.0
        return np.asarray(((g - mean - y * (y * g).mean(-1, keepdims=True)) / scale).reshape(z.shape))

    def majorant(self, operator: Operator, change: np.ndarray) -> np.ndarray:
        """(1 − 1/n) Δ_i + ½ Σ_{j≠i} Δ_j, over √ε; without centring Δ_i in full.

        P = I − 11ᵀ/n − yyᵀ/n has 0 ⪯ P ⪯ I − 11ᵀ/n, as |y|² ≤ n and Σ y = 0. So its diagonal lies
        between 0 and 1 − 1/n, and other entries of a matrix between 0 and I are at most ½.
        """
        parts, size = self._split(operator, change), self._size(operator)
        own = 1 - 1 / size if self.centred else 1.0
        total = parts.sum(-1, keepdims=True)
        made = (own * parts + 0.5 * (total - parts)) / math.sqrt(operator["eps"])
        return np.asarray(made.reshape(change.shape))

    def majorant_on(
        self, operator: Operator, change: np.ndarray, lower: np.ndarray, upper: np.ndarray
    ) -> np.ndarray:
        """The same over the least √(σ² + ε) of the box."""
        least = self._on(operator, lower, upper).scales[0]
        share = np.minimum(math.sqrt(operator["eps"]) / least * (1 + 8 * LIBRARY), 1.0)
        made = self._split(operator, self.majorant(operator, change)) * share[..., None]
        return np.asarray(made.reshape(change.shape))

    def _on(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> Scaled:
        ends = self._split(operator, lower), self._split(operator, upper)
        return Scaled(*ends, eps=operator["eps"], centred=self.centred)

    def image(
        self, operator: Operator, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """By the bounds of the scale, and by the majorant, which is closer on small boxes."""
        low, high = (end.reshape(lower.shape) for end in self._on(operator, lower, upper).ends)
        moved = super().image(operator, lower, upper)
        return np.maximum(low, moved[0]), np.minimum(high, moved[1])

    def reads(self, operator: Operator) -> int:
        size = self._size(operator)
        return size if size <= LARGEST else 0

    def lines(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> Lines:
        n = self.reads(operator)
        if not n:
            return super().lines(operator, lower, upper)
        low, high = (self._split(operator, end) for end in self.image(operator, lower, upper))
        value = self._split(operator, self.reference(operator, (lower + upper) / 2))
        below, above = self._on(operator, lower, upper).planes(value, low, high)
        return of_sets(np.arange(count(operator.source)).reshape(-1, n), below, above)

    def range(self, operator: Operator) -> tuple[float, float] | None:
        """|y|² ≤ n, and the other entries of a set have to make up for the mean of one."""
        if known(operator.source) is None:
            return None
        size = self._size(operator)
        bound = math.sqrt(size - 1 if self.centred else size) * (1 + 1e-12)
        return -bound, bound

    @abstractmethod
    def emit_affine(self, operator: Operator, z: Expression, weights: Mapping[str, str]) -> Expression:
        """The function of PyTorch."""

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return self.emit_affine(operator, z, {})


def _learned(weights: Mapping[str, str]) -> str:
    return "".join(f", {weights[role]}" for role in ("weight", "bias") if role in weights)


def _eps(operator: Operator) -> str:
    """The argument of PyTorch, where it is not the default."""
    return "" if operator["eps"] == 1e-5 else f", eps={operator['eps']!r}"


def _flag(operator: Operator, name: str) -> str:
    return "" if operator["affine"] else f", {name}=False"


class GroupNorm(Normalisation):
    kind = "group_norm"
    names = ("GroupNorm",)
    formals = (
        Formal("groups", "integer", "channels are split into so many sets", required=True),
        _EPS,
        _AFFINE,
    )
    doc = (
        "Normalises the channels of each group, over all axes behind them: `GroupNorm(4)(x)`, `nn.GroupNorm`."
    )
    example = "input u[4, 3, 3]\noutput y[4, 3, 3] = GroupNorm(2)(u)"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        if not source or not isinstance(source[0], int):
            raise ShapeError(
                f"GroupNorm needs to know its channels, the first axis, and its input is {show(source)}",
                "such as [channels, height, width]",
            )
        if source[0] % settings["groups"]:
            raise ShapeError(
                f"{settings['groups']} groups do not divide {source[0]} channels",
                "must divide the channels",
                "groups",
            )
        return super().operator(settings, source)

    def sets(self, operator: Operator) -> int:
        return int(operator["groups"])

    def parameter_axis(self, operator: Operator) -> int:
        return 0

    def holder(self, operator: Operator) -> str:
        flag = _flag(operator, "affine")
        return f"nn.GroupNorm({operator['groups']}, {operator.source[0]}{_eps(operator)}{flag})"

    def emit_affine(self, operator: Operator, z: Expression, weights: Mapping[str, str]) -> Expression:
        return Expression(
            f"F.group_norm({z.text}, {operator['groups']}{_learned(weights)}{_eps(operator)})", fresh=True
        )


class InstanceNorm(Normalisation):
    kind = "instance_norm"
    names = ("InstanceNorm",)
    formals = (_EPS, Formal("affine", "flag", _AFFINE.doc, default=False))
    doc = "Normalises each channel over the axes behind it: `InstanceNorm()(x)`, `nn.InstanceNorm2d`."
    example = "input u[4, 3, 3]\noutput y[4, 3, 3] = InstanceNorm()(u)"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        channels_and_axes(source, "InstanceNorm")
        if not isinstance(source[0], int):
            raise ShapeError(
                f"InstanceNorm needs to know its channels, the first axis, and its input is {show(source)}",
                "such as [channels, height, width]",
            )
        return super().operator(settings, source)

    def sets(self, operator: Operator) -> int:
        return count(operator.source[:1])

    def parameter_axis(self, operator: Operator) -> int:
        return 0

    def holder(self, operator: Operator) -> str:
        affine = ", affine=True" if operator["affine"] else ""
        return f"nn.InstanceNorm{len(operator.source) - 1}d({operator.source[0]}{_eps(operator)}{affine})"

    def emit_affine(self, operator: Operator, z: Expression, weights: Mapping[str, str]) -> Expression:
        learned = "".join(f", {role}={weights[role]}" for role in ("weight", "bias") if role in weights)
        return Expression(f"F.instance_norm({z.text}{learned}{_eps(operator)})")


class _LastAxes(Normalisation):
    """Over the last axes, of known sizes: one, if nothing is said."""

    def operator(self, settings: Settings, source: Shape) -> Operator:
        axes = settings["axes"]
        if len(source) < axes or known(source[-axes:]) is None:
            which = "the last axis" if axes == 1 else f"the last {axes} axes"
            raise ShapeError(
                f"{self.names[0]} needs to know the size of {which}, and its input is {show(source)}",
                which,
                "axes" if axes > 1 else "",
            )
        return super().operator({k: v for k, v in settings.items() if k != "axes" or v != 1}, source)

    def parameter_axes(self, operator: Operator) -> int:
        return int(operator.get("axes", 1))

    def sets(self, operator: Operator) -> int:
        return count(operator.source[: self.parameter_axis(operator)])

    def parameter_axis(self, operator: Operator) -> int:
        return len(operator.source) - self.parameter_axes(operator)

    def shape(self, operator: Operator) -> str:
        """What PyTorch calls `normalized_shape`."""
        return repr(sizes(operator.source[self.parameter_axis(operator) :]))


class LayerNorm(_LastAxes):
    kind = "layer_norm"
    names = ("LayerNorm",)
    formals = (_EPS, _ENTRYWISE, _AXES)
    doc = "Normalises the last axis, or the last few together: `LayerNorm()(x)`, `nn.LayerNorm`."
    example = "input u[3, 4]\noutput y[3, 4] = LayerNorm()(u)"

    def holder(self, operator: Operator) -> str:
        flag = _flag(operator, "elementwise_affine")
        shape = operator.source[-1] if self.parameter_axes(operator) == 1 else self.shape(operator)
        return f"nn.LayerNorm({shape}{_eps(operator)}{flag})"

    def emit_affine(self, operator: Operator, z: Expression, weights: Mapping[str, str]) -> Expression:
        text = f"F.layer_norm({z.text}, {self.shape(operator)}{_learned(weights)}{_eps(operator)})"
        return Expression(text, fresh=True)


class RMSNorm(_LastAxes):
    kind = "rms_norm"
    names = ("RMSNorm",)
    formals = (
        _EPS,
        Formal("affine", "flag", "learn a factor for each entry of these axes", default=True),
        _AXES,
    )
    doc = "Divides the last axis, or the last few together, by its root mean square: `nn.RMSNorm`."
    example = "input u[3, 4]\noutput y[3, 4] = RMSNorm()(u)"
    centred = False

    def holder(self, operator: Operator) -> str:
        flag = _flag(operator, "elementwise_affine")
        shape = operator.source[-1] if self.parameter_axes(operator) == 1 else self.shape(operator)
        return f"nn.RMSNorm({shape}, eps={operator['eps']!r}{flag})"

    def emit_affine(self, operator: Operator, z: Expression, weights: Mapping[str, str]) -> Expression:
        learned = f"{self.shape(operator)}{_learned(weights)}"
        return Expression(f"F.rms_norm({z.text}, {learned}, eps={operator['eps']!r})")


RULES: tuple[Rule, ...] = (GroupNorm(), InstanceNorm(), LayerNorm(), RMSNorm())
