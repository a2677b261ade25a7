"""Numbers that are another at each step of an integration: they scale values, or are added to them.

Once the steps are unrolled these are the operators `scale` and `constant`, whose matrices are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from implicit_dsl import clock
from implicit_dsl._lazy import lazy_module
from implicit_dsl.clock import Timed
from implicit_dsl.operators.base import Entries, Expression, LinearRule, Operator, Rule, Settings
from implicit_dsl.operators.monomial import Monomial
from implicit_dsl.operators.offsets import Constant
from implicit_dsl.shapes import Shape, count, sizes

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")
    torch = lazy_module("torch")

_VARIABLES = {"t": "t", "h": "h"}


def _number(operator: Operator) -> float:
    """The number, where it does not depend on the time after all. Raises ValueError if it does."""
    number: Timed = operator["number"]
    if isinstance(number, tuple) and (clock.uses(number, "t") or clock.uses(number, "h")):
        raise ValueError("numbers of the time are known once the steps are unrolled")
    return clock.at(number, 0.0, 0.0)


def _bound(operator: Operator) -> float | None:
    largest: float | None = operator["largest"]
    return largest


class TimedScale(Monomial):
    """`largest` bounds the absolute value of its number at all steps, if that is known."""

    kind = "timed_scale"
    doc = "A number that depends on the time of an `ode` times a value: `sin(t)*x`, `b*t`."
    example = (
        "input u[4]\node t in 0..1\n    state x[4] = u\n    D(x) ~ -cos(t)*x\nend\noutput y[4] = last(x)"
    )

    def operator(self, settings: Settings, source: Shape) -> Operator:
        made = (("largest", settings["largest"]), ("number", settings["number"]))
        return Operator(self.kind, source, source, made)

    def columns(self, operator: Operator) -> np.ndarray:
        return np.arange(count(operator.source))

    def factor(self, operator: Operator) -> float:
        return _number(operator)

    def follows(self, operator: Operator) -> tuple[int | None, ...]:
        return tuple(range(len(operator.target)))

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return x * _number(operator)

    def absolute(
        self, operator: Operator, weights: Mapping[str, torch.Tensor]
    ) -> tuple[Operator, Mapping[str, torch.Tensor]]:
        settings = {"number": float(operator["largest"]), "largest": operator["largest"]}
        return self.operator(settings, operator.source), weights

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        return self.emit_with(operator, x, {})

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        written = clock.factor(operator["number"], {**_VARIABLES, **weights})
        return Expression(f"{written} * {x.atom}", tight=False)

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        return _bound(operator)


class TimedConstant(LinearRule):
    """`largest` bounds the absolute value of its number at all steps, if that is known."""

    kind = "timed_constant"
    doc = "A number that depends on the time of an `ode` added to each entry of a value: `x + sin(t)`."
    example = (
        "input u[4]\node t in 0..1\n    state x[4] = u\n    D(x) ~ cos(t) - x\nend\noutput y[4] = last(x)"
    )

    def operator(self, settings: Settings, source: Shape) -> Operator:
        made = (("largest", settings["largest"]), ("number", settings["number"]))
        return Operator(self.kind, (), settings["shape"], made)

    def entry_count(self, operator: Operator) -> int:
        return count(operator.target)

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        rows = np.arange(count(operator.target))
        return (Entries("", rows, np.zeros_like(rows), None, _number(operator)),)

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        ones = x.new_full(sizes(operator.target), _number(operator))
        return x.reshape(-1, *(1,) * len(operator.target)) * ones

    def absolute(
        self, operator: Operator, weights: Mapping[str, torch.Tensor]
    ) -> tuple[Operator, Mapping[str, torch.Tensor]]:
        number = float(operator["largest"])
        settings = {"number": number, "largest": number, "shape": operator.target}
        return self.operator(settings, ()), weights

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        return self.emit_with(operator, x, {})

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        written = clock.text(operator["number"], {**_VARIABLES, **weights})
        return Expression(written, tight=written.isidentifier())

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        return _bound(operator)


TIMED = (TimedScale.kind, TimedConstant.kind)


def bound(operator: Operator, t: float, h: float) -> Operator:
    """An operator at one step, whose time and length are known."""
    if operator.kind not in TIMED:
        return operator
    number = clock.at(operator["number"], t, h)
    if operator.kind == TimedScale.kind:
        return replace(operator, kind="scale", settings=(("factor", number),))
    made = Constant().operator({"shape": operator.target, "value": number}, ())
    return replace(operator, kind=made.kind, settings=made.settings)


RULES: tuple[Rule, ...] = (TimedScale(), TimedConstant())
