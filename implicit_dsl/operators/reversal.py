"""A sequence from its end: `reverse(x)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import Expression, Operator, Rule, Settings
from implicit_dsl.operators.monomial import Monomial
from implicit_dsl.shapes import Shape, count, sizes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import torch
else:
    np = lazy_module("numpy")


class Reverse(Monomial):
    """The settings have the `axis`, counted from 0."""

    kind = "reverse"
    names = ("reverse",)
    doc = "`reverse(x)`: a sequence from its last entry to its first; along another axis with `dim = 2`."
    example = "input u[4, 3]\noutput y[4, 3] = reverse(u), z = reverse(u; dim = 2)"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        return Operator(self.kind, source, source, (("axis", settings["axis"]),))

    def follows(self, operator: Operator) -> tuple[int | None, ...]:
        return tuple(range(len(operator.source)))

    def transpose(self, operator: Operator) -> Operator:
        return operator

    def columns(self, operator: Operator) -> np.ndarray:
        places = np.arange(count(operator.source)).reshape(sizes(operator.source))
        return np.asarray(np.flip(places, operator["axis"]).reshape(-1))

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return x.flip(operator["axis"] + 1)

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        return Expression(f"{x.atom}.flip({operator['axis'] + 1})")


RULES: tuple[Rule, ...] = (Reverse(),)
