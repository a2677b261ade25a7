"""A `param` matrix in a linear set: `param W[m, n] in Symmetric()`, applied to the last axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import Entries, Expression, LinearRule, Operator, Rule, Settings, ShapeError
from implicit_dsl.sets.linear import LINEAR, LinearSet
from implicit_dsl.shapes import Shape, count, show

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")
    torch = lazy_module("torch")


def set_of(operator: Operator) -> LinearSet:
    """The set that the matrix of a structured operator is in."""
    kind, *arguments = operator["set"]
    return LINEAR[kind](*arguments)


def places(linear: LinearSet) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(rows, columns, numbers, signs) [entries] of the members of a set, row by row."""
    i, j = np.arange(linear.rows, dtype=np.int64)[:, None], np.arange(linear.columns, dtype=np.int64)[None]
    rows, columns = np.nonzero(linear.inside(i, j))
    signs = np.broadcast_to(np.asarray(linear.sign(i, j), np.float64), (linear.rows, linear.columns))
    return rows, columns, linear.numbers(i, j)[rows, columns], signs[rows, columns]


def numbers_of(linear: LinearSet, matrix: np.ndarray) -> np.ndarray:
    """The vector [count] that a member of a set is made of; a square diagonal one may be its diagonal."""
    if matrix.ndim == 1:
        return matrix
    rows, columns, numbers, signs = places(linear)
    found = np.empty(linear.count)
    found[numbers] = matrix[rows, columns] * signs
    return found


def matrix_of(linear: LinearSet, theta: np.ndarray) -> np.ndarray:
    """The member of a set that is made of a vector [count]."""
    rows, columns, numbers, signs = places(linear)
    matrix = np.zeros((linear.rows, linear.columns))
    matrix[rows, columns] = theta[numbers] * signs
    return matrix


class Structured(LinearRule):
    """W*x, or W'*x when `transposed`, for W in a linear set; its weight is the vector that is trained.

    In generated code the text of the weight is that of the matrix, which is made once for each call of
    `forward`; of a square diagonal matrix it is that of the diagonal.
    """

    kind = "structured"
    doc = "A `param` matrix in a set such as Symmetric(), applied to the last axis."
    example = "input u[4]\nparam W[4, 4] in Symmetric()\noutput y[4] = W*u"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        """`set`: the name of the class and its arguments; `name`: what messages call the matrix."""
        rows, columns = settings["set"][1:3]
        outputs, inputs = (columns, rows) if settings["transposed"] else (rows, columns)
        if not source or source[-1] != inputs:
            raise ShapeError(
                f"`{settings['name']}` maps {inputs} to {outputs}, but its input is {show(source)}",
                f"takes [{inputs}]",
            )
        chosen = (("set", tuple(settings["set"])), ("transposed", settings["transposed"]))
        return Operator(self.kind, source, (*source[:-1], outputs), chosen)

    def transposed(self, operator: Operator) -> bool:
        return bool(operator["transposed"])

    def entry_count(self, operator: Operator) -> int:
        return set_of(operator).entries * count(operator.source[:-1])

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        rows, columns, numbers, signs = places(set_of(operator))
        if operator["transposed"]:
            rows, columns = columns, rows
        if _is_absolute(operator):
            signs = np.abs(signs)
        positions = np.arange(count(operator.source[:-1]))[:, None]
        outputs, inputs = count(operator.target[-1:]), count(operator.source[-1:])
        full = (len(positions), len(rows))
        return (
            Entries(
                "weight",
                (positions * outputs + rows).reshape(-1).astype(np.int32),
                (positions * inputs + columns).reshape(-1).astype(np.int32),
                np.broadcast_to(numbers, full).reshape(-1),
                np.broadcast_to(signs, full).reshape(-1),
            ),
        )

    def matrix(self, operator: Operator, weight: torch.Tensor) -> torch.Tensor:
        """The matrix [rows, columns] of the trained vector, before it is transposed."""
        linear = set_of(operator)
        rows, columns, numbers, signs = (torch.from_numpy(np.array(part)) for part in places(linear))
        factors = (signs.abs() if _is_absolute(operator) else signs).to(weight)
        empty = weight.new_zeros(linear.rows, linear.columns)
        return empty.index_put((rows, columns), weight[numbers] * factors)

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        W = self.matrix(operator, weights["weight"])
        return torch.nn.functional.linear(x, W.mT if operator["transposed"] else W)

    def absolute(
        self, operator: Operator, weights: Mapping[str, torch.Tensor]
    ) -> tuple[Operator, Mapping[str, torch.Tensor]]:
        made = replace(operator, settings=(("absolute", True), *operator.settings))
        return made, {role: w.abs() for role, w in weights.items()}

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        if set_of(operator).is_diagonal:
            return Expression(f"{x.atom} * {layer}", tight=False)
        weight = f"{layer}.mT" if operator["transposed"] else layer
        return Expression(f"F.linear({x.text}, {weight})")

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        return self.emit(operator, x, weights["weight"])

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        return bounds.get((operator.parameter("weight") or "") + ("'" if operator["transposed"] else ""))


def _is_absolute(operator: Operator) -> bool:
    return any(name == "absolute" for name, _ in operator.settings)


RULES: tuple[Rule, ...] = (Structured(),)
