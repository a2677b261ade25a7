"""PReLU, with a learned slope below zero (He et al. 2015).

The layer of PyTorch is split: the positive and the negative part of z are an activation without
parameters, and `slopes` weighs the latter, so that the matrix form is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

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
from implicit_dsl.operators.initialisers import ParameterSpec
from implicit_dsl.operators.relaxation import Lines, mirrored, relu_lines, side_by_side
from implicit_dsl.shapes import Shape, count, per_channel, show, sizes

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")


class PRelu(ActivationRule):
    """z ↦ (max(z, 0), min(z, 0)), one part after the other along a new first axis."""

    kind = "prelu"
    names = ("PReLU",)
    formals = (
        Formal("per_channel", "flag", "a slope for each channel, the first axis", default=False),
        Formal("init", "number", "what the slopes start from", default=0.25),
    )
    elementwise = False
    homogeneous = True
    doc = "max(z, 0) + slope·min(z, 0) with a learned slope, `nn.PReLU`: `PReLU()(x)`."
    example = "input u[6]\noutput y[6] = PReLU()(u)"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        if settings["per_channel"] and not (source and isinstance(source[0], int)):
            raise ShapeError(
                f"PReLU with a slope for each channel needs to know the first axis of {show(source)}",
                "the channels",
                "per_channel",
            )
        return Operator(self.kind, source, (2, *source), tuple(sorted(settings.items())))

    def axes(self, operator: Operator) -> tuple[int | None, ...]:
        return None, *range(len(operator.source))

    def _channels(self, operator: Operator) -> int:
        return count(operator.source[:1]) if operator["per_channel"] else 1

    def parameters(self, operator: Operator) -> tuple[ParameterSpec, ...]:
        return (ParameterSpec("weight", (self._channels(operator),)),)

    def holder(self, operator: Operator) -> str:
        given = [str(self._channels(operator))] if operator["per_channel"] else []
        given += [f"init={operator['init']!r}"] if operator["init"] != 0.25 else []
        return f"nn.PReLU({', '.join(given)})"

    def affine(self, operator: Operator) -> Operator:
        chosen = (("per_channel", operator["per_channel"]),)
        return Operator("slopes", operator.target, operator.source, chosen)

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return np.stack((np.maximum(z, 0.0), np.minimum(z, 0.0)), 1)

    def vjp(self, operator: Operator, z: np.ndarray, g: np.ndarray) -> np.ndarray:
        return np.where(z > 0, g[:, 0], g[:, 1])

    def majorant(self, operator: Operator, change: np.ndarray) -> np.ndarray:
        return np.stack((change, change), 1)

    def gain(self, operator: Operator) -> float:
        return 1.0

    def reads(self, operator: Operator) -> int:
        return 1

    def lines(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> Lines:
        low, high = (bound.reshape(len(bound), -1) for bound in (lower, upper))
        return side_by_side(relu_lines(low, high), mirrored(relu_lines(-high, -low)))

    def emit(self, operator: Operator, z: Expression) -> Expression:
        parts = (f"torch.relu({z.text})", f"{z.atom}.clamp(max=0)")
        lines = ("torch.stack(", f"    ({', '.join(parts)}),", "    1,", ")")
        return Expression(f"torch.stack(({', '.join(parts)}), 1)", lines=lines)

    def emit_affine(self, operator: Operator, z: Expression, weights: Mapping[str, str]) -> Expression:
        if not weights:
            return self.emit(operator, z)
        return Expression(f"F.prelu({z.text}, {weights['weight']})")


class Slopes(LinearRule):
    """p + a·n for the positive part p and the negative part n: one slope, or one for each channel."""

    kind = "slopes"
    doc = "The positive part, and the negative part times the slopes of a PReLU."
    example = "input u[6]\noutput y[6] = PReLU()(u)"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        return Operator(self.kind, source, source[1:], tuple(sorted(settings.items())))

    def entry_count(self, operator: Operator) -> int:
        return 2 * count(operator.target)

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        shape = sizes(operator.target)
        rows = np.arange(count(shape))
        slots = np.zeros_like(rows)
        if operator["per_channel"]:
            slots = np.repeat(np.arange(shape[0]), count(shape[1:]))
        return Entries("", rows, rows, None), Entries("weight", rows, rows + len(rows), slots)

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        slope = weights["weight"]
        if operator["per_channel"]:
            slope = slope.reshape(-1, *(1,) * (len(operator.target) - 1))
        return x[:, 0] + slope * x[:, 1]

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        return self.emit_with(operator, x, {"weight": f"{layer}.weight"})

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        spread = per_channel(operator.target) if operator["per_channel"] else ""
        return Expression(f"{x.atom}[:, 0] + {weights['weight']}{spread} * {x.atom}[:, 1]", tight=False)

    def emit_offset(self, operator: Operator, weights: Mapping[str, str]) -> Expression | None:
        return None

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        return None  # 1 + |a| does not shrink with the tensor, as the gains of ways do


RULES: tuple[Rule, ...] = (PRelu(), Slopes())
