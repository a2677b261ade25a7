"""Normalisation with fixed statistics: a diagonal matrix and an offset."""

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
    Rule,
    Settings,
    ShapeError,
)
from implicit_dsl.operators.initialisers import ParameterSpec
from implicit_dsl.operators.windows import channels_and_axes
from implicit_dsl.shapes import Shape, count, per_channel, show

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")
    torch = lazy_module("torch")


class BatchNorm(LinearRule):
    """In evaluation y = g (x − μ) / √(σ² + ε) + b per channel, which is affine.

    In training the statistics are those of the batch: samples are coupled, no matrix acts
    on one sample alone, and `system()` describes the evaluation mode. Inside of a loop the
    running statistics are used in training, too: they stand still through a solve and its adjoint.
    """

    kind = "batch_norm"
    offset_roles = ("running_mean", "bias")
    instead_of_transpose = "it is a factor for each channel: `Scale()` is one with a transpose, itself"
    names = ("BatchNorm",)
    formals = (
        Formal("eps", "number", "added to the variance", default=1e-5),
        Formal("momentum", "number", "weight of a new batch in the running statistics", default=0.1),
        Formal("affine", "flag", "learn a factor and an offset for each channel", default=True),
    )
    doc = "Batch normalisation of each channel; affine in evaluation. The same tensors as `nn.BatchNorm2d`."
    example = "input u[3, 4, 5]\noutput y[3, 4, 5] = BatchNorm() * u"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        if source and not isinstance(source[0], int):
            raise ShapeError("BatchNorm needs to know its channels, and they are free here", show(source))
        if len(source) not in (1, 2, 3, 4):
            raise ShapeError(
                f"BatchNorm needs channels and at most 3 axes behind them, but its input is {show(source)}",
                "such as [channels, height, width]",
            )
        if not settings["eps"] > 0:
            raise ShapeError("`eps` must be positive", "not positive", "eps")
        return Operator(self.kind, source, source, tuple(sorted(settings.items())))

    def parameters(self, operator: Operator) -> tuple[ParameterSpec, ...]:
        shape = (count(operator.source[:1]),)
        learned = (ParameterSpec("weight", shape), ParameterSpec("bias", shape)) if operator["affine"] else ()
        return (
            *learned,
            ParameterSpec("running_mean", shape, trainable=False),
            ParameterSpec("running_var", shape, trainable=False),
        )

    def holder(self, operator: Operator) -> str:
        text = f"nn.BatchNorm{max(1, len(operator.source) - 1)}d({operator.source[0]}"
        for name, default in (("eps", 1e-5), ("momentum", 0.1), ("affine", True)):
            if operator[name] != default:
                text += f", {name}={operator[name]!r}"
        return text + ")"

    def entry_count(self, operator: Operator) -> int:
        return count(operator.source)

    def _channel(self, operator: Operator) -> np.ndarray:
        return np.arange(count(operator.source)) // count(operator.source[1:])

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        channel = self._channel(operator)
        diagonal = np.arange(len(channel))
        factor = (1 / np.sqrt(weights["running_var"] + operator["eps"]))[channel]
        if operator["affine"]:
            return (Entries("weight", diagonal, diagonal, channel, factor),)
        return (Entries("", diagonal, diagonal, None, factor),)

    def offset_count(self, operator: Operator) -> int:
        return count(operator.target) * (2 if operator["affine"] else 1)

    def offsets(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        channel = self._channel(operator)
        rows, zero = np.arange(len(channel)), np.zeros(len(channel), dtype=np.int64)
        shift = (-weights["running_mean"] / np.sqrt(weights["running_var"] + operator["eps"]))[channel]
        if operator["affine"]:
            return (Entries("weight", rows, zero, channel, shift), Entries("bias", rows, zero, channel))
        return (Entries("", rows, zero, None, shift),)

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        factor = torch.rsqrt(weights["running_var"] + operator["eps"])
        if operator["affine"]:
            factor = factor * weights["weight"]
        return x * factor.reshape(-1, *(1,) * (len(operator.source) - 1))

    def absolute(
        self, operator: Operator, weights: Mapping[str, torch.Tensor]
    ) -> tuple[Operator, Mapping[str, torch.Tensor]]:
        magnitudes = {role: w if role == "running_var" else w.abs() for role, w in weights.items()}
        return operator, magnitudes

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        return Expression(f"{layer}({x.text})")

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        if set(weights) == {spec.role for spec in self.parameters(operator)}:
            learned = f", {weights['weight']}, {weights['bias']}" if operator["affine"] else ""
            statistics = f"{weights['running_mean']}, {weights['running_var']}"
            return Expression(f"F.batch_norm({x.text}, {statistics}{learned}, eps={operator['eps']!r})")
        factor, offset = self._factor(operator, weights), self.emit_offset(operator, weights)
        made = f"{x.atom} * {factor.atom}{per_channel(operator.source)}"
        return Expression(made if offset is None else f"{made} + {offset.atom}", tight=False)

    def _factor(self, operator: Operator, weights: Mapping[str, str]) -> Expression:
        """What each channel is multiplied by."""
        text = f"torch.rsqrt({weights['running_var']} + {operator['eps']!r})"
        return (
            Expression(f"{weights['weight']} * {text}", tight=False)
            if operator["affine"]
            else Expression(text)
        )

    def emit_offset(self, operator: Operator, weights: Mapping[str, str]) -> Expression | None:
        if "running_mean" not in weights:
            return super().emit_offset(operator, weights)
        text = f"{weights['running_mean']} * {self._factor(operator, weights).text}"
        text = f"({weights['bias']} - {text})" if "bias" in weights else f"(-{text})"
        return Expression(text + per_channel(operator.target))

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        return None  # the running variance may be as small as it likes


class Dropout(LinearRule):
    """In evaluation the identity. In training it is random: a state of its own, so that a value
    that is read twice is dropped once."""

    kind = "dropout"
    names = ("Dropout",)
    instead_of_transpose = "each use drops other entries: write a `Dropout` of its own"
    formals = (
        Formal("p", "number", "probability that an entry is set to zero in training", default=0.5),
        Formal("channels", "flag", "drop whole channels, as `nn.Dropout2d` does", default=False),
    )
    doc = (
        "In training, sets entries to zero at random and scales the others by 1 ÷ (1 − p); "
        "in evaluation the identity."
    )
    example = "input u[5]\noutput y[5] = Dropout(0.2) * u"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        if not 0 <= settings["p"] < 1:
            raise ShapeError(
                "the probability of Dropout must be at least 0 and below 1", f"{settings['p']}", "p"
            )
        if not settings["channels"]:
            return Operator(self.kind, source, source, (("p", settings["p"]),))
        channels_and_axes(source, "Dropout of channels")
        return Operator(self.kind, source, source, (("channels", True), ("p", settings["p"])))

    def mask(self, operator: Operator) -> Shape:
        """The shape of what is drawn for one sample."""
        if operator.get("channels", False):
            return (operator.source[0], *(1,) * (len(operator.source) - 1))
        return operator.source

    def follows(self, operator: Operator) -> tuple[int | None, ...]:
        return tuple(range(len(operator.target)))

    def entry_count(self, operator: Operator) -> int:
        return count(operator.source)

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        diagonal = np.arange(count(operator.source))
        return (Entries("", diagonal, diagonal, None),)

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return x

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        axes = f"{len(operator.source) - 1}d" if operator.get("channels", False) else ""
        return Expression(f"F.dropout{axes}({x.text}, {operator['p']!r}, self.training)")

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        """Multiplied by `mask`, if there is one: entries 0 and 1 ÷ (1 − p), drawn once for a whole solve."""
        return Expression(f"{x.atom} * {weights['mask']}", tight=False) if "mask" in weights else x

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        return 1 / (1 - float(operator["p"]))


RULES: tuple[Rule, ...] = (BatchNorm(), Dropout())
