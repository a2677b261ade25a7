"""An operator that is drawn, with tensors and numbers for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from implicit_dsl.operators import OPERATORS
from implicit_dsl.operators.base import ActivationRule, Operator, Rule

Draw = st.DrawFn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """An operator with the shapes of its tensors by role, and a seed for numbers."""

    operator: Operator
    tensors: dict[str, Shape]
    seed: int

    def numbers(self) -> np.random.Generator:
        """The same random numbers each time."""
        return np.random.default_rng(self.seed)

    def weights(self) -> dict[str, np.ndarray]:
        """Random tensors by role; variances are positive."""
        rng, made = self.numbers(), {}
        for role, shape in self.tensors.items():
            made[role] = rng.uniform(0.5, 2.0, shape) if role == "running_var" else rng.normal(size=shape)
        return made


def shapes(least: int = 1, most: int = 3, size: int = 4) -> st.SearchStrategy[Shape]:
    """Shapes with `least` … `most` axes."""
    return st.lists(st.integers(1, size), min_size=least, max_size=most).map(tuple)


def case(draw: Draw, kind: str, settings: dict[str, Any], source: Shape, **tensors: Shape) -> Case:
    """An operator with settings on a shape; `tensors` are those that its rule does not tell by itself."""
    rule = OPERATORS[kind]
    return used(draw, rule, rule.operator(settings, source), tensors)


def used(draw: Draw, rule: Rule, operator: Operator, tensors: dict[str, Shape]) -> Case:
    """An operator whose parameters have ids."""
    needed = {spec.role: spec.shape for spec in rule.parameters(operator)} | tensors
    ids = tuple((role, f"layer.{role}") for role in needed)
    return Case(replace(operator, parameters=ids), needed, draw(st.integers(0, 2**32 - 1)))


def numbers() -> st.SearchStrategy[float]:
    """Numbers that stand in programs."""
    return st.sampled_from((-1.0, 0.0, 0.5, -2.5, 1e-3))


def plain(kind: str, **settings: st.SearchStrategy[Any]) -> Callable[[Draw], Case]:
    """Operators on any shape."""

    def build(draw: Draw) -> Case:
        drawn = {name: draw(values) for name, values in settings.items()}
        return case(draw, kind, drawn, draw(shapes(0, 3)))

    return build


def joined(draw: Draw, kind: str, settings: dict[str, Any], *sources: Shape) -> Case:
    """An activation of several arguments."""
    rule = OPERATORS[kind]
    assert isinstance(rule, ActivationRule)
    return Case(rule.join(settings, sources), {}, draw(st.integers(0, 2**32 - 1)))


Build = Callable[[Draw], Case]  # draws an operator of one kind
