"""Tables of vectors, one for each token: linear on tokens as unit vectors.

An input of tokens t[n] counts as the matrix [n, vocab] whose row i has a one in the place of t[i]. On it a
table E [vocab, width] is the linear operator I ⊗ Eᵀ. Generated code never makes that matrix.
"""

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
from implicit_dsl.operators.dense import kronecker
from implicit_dsl.operators.initialisers import ParameterSpec
from implicit_dsl.shapes import Shape, count, show

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")
    torch = lazy_module("torch")


class _Table(LinearRule):
    """A row of a table for each token. Its source has the unit vectors along the last axis."""

    takes_tokens = True

    def _by_columns(self, operator: Operator) -> bool:
        """Whether the tensor has the vectors as its columns, [width, vocab]."""
        return False

    def transposed(self, operator: Operator) -> bool:
        return not self._by_columns(operator)

    def entry_count(self, operator: Operator) -> int:
        return count(operator.source) * count(operator.target[-1:])

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        return kronecker(operator, transposed=not self._by_columns(operator))

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        table = weights["weight"]
        return torch.nn.functional.linear(x, table if self._by_columns(operator) else table.mT)

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        turned = ".mT" if self._by_columns(operator) else ""
        return Expression(f"F.embedding({x.text}, {weights['weight']}{turned})")

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        # rows of the matrix are columns of a table, of which the bound of its rows says nothing
        return bounds.get((operator.parameter("weight") or "") + ("" if self._by_columns(operator) else "'"))


class Embedding(_Table):
    kind = "embedding"
    names = ("Embedding",)
    formals = (
        Formal("vocab", "integer", "how many tokens there are", required=True),
        Formal("width", "integer", "the length of the vector of each; the only argument is this", shown="…"),
    )
    doc = (
        "A learned vector for each token, `nn.Embedding`: `Embedding(1000, 32)(t)`. With one argument, "
        "`Embedding(32)(t)`, there are as many as the set of t has tokens."
    )
    example = "input t[5] in Tokens(100)\noutput y[5, 8] = Embedding(100, 8)(t)"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        vocab, width = settings["vocab"], settings["width"]
        if width is None:
            vocab, width = source[-1], vocab
        if source[-1] != vocab:
            raise ShapeError(
                f"this Embedding has {vocab} vectors, but its input is in Tokens({source[-1]})",
                f"must be {source[-1]}",
                "vocab",
            )
        return Operator(self.kind, source, (*source[:-1], width), (("width", width),))

    def transpose(self, operator: Operator) -> Operator | None:
        return Operator("matrix", operator.target, operator.source, (("transposed", False),))

    def onto(self, settings: Settings, target: Shape, like: Operator | None) -> Operator:
        if target[-1:] != (settings["width"],):
            raise ShapeError(
                f"this Embedding gives vectors of {settings['width']}, "
                f"and its transpose is applied to {show(target)}",
                f"takes {settings['width']} features",
                "width",
            )
        return self.operator(settings, (*target[:-1], settings["vocab"]))

    def parameters(self, operator: Operator) -> tuple[ParameterSpec, ...]:
        return (ParameterSpec("weight", (count(operator.source[-1:]), operator["width"])),)

    def holder(self, operator: Operator) -> str:
        return f"nn.Embedding({operator.source[-1]}, {operator['width']})"

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        return Expression(f"{layer}({x.text})")


class Lookup(_Table):
    """A `param` matrix applied to tokens: E'*t takes rows of E [vocab, width], W*t columns of W."""

    kind = "lookup"
    doc = "A `param` matrix applied to tokens: `E' * t` takes the row of E of each token."
    example = "input t[5] in Tokens(100)\nparam E[100, 8] = normal(1)\noutput y[5, 8] = E' * t"

    def _by_columns(self, operator: Operator) -> bool:
        return bool(operator["by_columns"])

    def operator(self, settings: Settings, source: Shape) -> Operator:
        rows, cols = settings["shape"]
        width, vocab = (cols, rows) if settings["transposed"] else (rows, cols)
        if source[-1] != vocab:
            raise ShapeError(
                f"`{settings['name']}` takes {vocab} tokens, but its input is in Tokens({source[-1]})"
            )
        chosen = (("by_columns", not settings["transposed"]),)
        return Operator(self.kind, source, (*source[:-1], width), chosen)

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        return self.emit_with(operator, x, {"weight": layer})


RULES: tuple[Rule, ...] = (Embedding(), Lookup())
