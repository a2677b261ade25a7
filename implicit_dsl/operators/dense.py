"""Full matrices: the layer `Dense`, and `param` matrices applied with `*`."""

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
from implicit_dsl.shapes import Shape, count, show

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")
    torch = lazy_module("torch")


def kronecker(operator: Operator, transposed: bool) -> tuple[Entries, ...]:
    """I ⊗ W: the same matrix for each position of the leading axes."""
    inputs, outputs = count(operator.source[-1:]), count(operator.target[-1:])
    positions = np.arange(count(operator.source[:-1]), dtype=np.int32)[:, None, None]
    row, col = np.arange(outputs, dtype=np.int32)[:, None], np.arange(inputs, dtype=np.int32)
    slot = col * outputs + row if transposed else row * inputs + col
    full = (len(positions), outputs, inputs)
    return (
        Entries(
            "weight",
            np.broadcast_to(positions * outputs + row, full).reshape(-1),
            np.broadcast_to(positions * inputs + col, full).reshape(-1),
            np.broadcast_to(slot, full).reshape(-1),
        ),
    )


class Dense(LinearRule):
    kind = "dense"
    names = ("Dense",)
    formals = (
        Formal("width", "width", "`out`, or `in => out` to have the input checked", required=True),
        Formal("bias", "flag", "add a learned offset", default=True),
    )
    doc = (
        "A full matrix on the last axis, with a bias: y = W x + b. Weights are [out, in], as in `nn.Linear`."
    )
    example = "input u[6]\noutput y[3] = Dense(6 => 3) * u"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        expected, width = settings["width"]
        if not source:
            raise ShapeError("Dense needs at least one axis", f"a number, {show(source)}")
        if not isinstance(source[-1], int):
            raise ShapeError(
                "Dense needs to know the size of its last axis, which is free here",
                show(source),
                help="give the input a size there, or reduce it with GlobalAvgPool()",
            )
        if expected is not None and expected != source[-1]:
            raise ShapeError(
                f"this Dense takes {expected} features, but its input has {source[-1]}",
                f"expects {expected}",
                "width",
                help=f"write `Dense({source[-1]} => {width})`, "
                f"or `Dense({width})` to take the width of the input",
                takes=source[-1],
            )
        chosen = (("bias", settings["bias"]), ("width", width))
        return Operator(self.kind, source, (*source[:-1], width), chosen)

    def parameters(self, operator: Operator) -> tuple[ParameterSpec, ...]:
        inputs, outputs = count(operator.source[-1:]), operator["width"]
        bias = (ParameterSpec("bias", (outputs,)),) if operator["bias"] else ()
        return (ParameterSpec("weight", (outputs, inputs)), *bias)

    def holder(self, operator: Operator) -> str:
        bias = "" if operator["bias"] else ", bias=False"
        return f"nn.Linear({operator.source[-1]}, {operator['width']}{bias})"

    def transpose(self, operator: Operator) -> Operator | None:
        return Operator("matrix", operator.target, operator.source, (("transposed", True),))

    def onto(self, settings: Settings, target: Shape, like: Operator | None) -> Operator:
        inputs, width = settings["width"]
        if like is not None:
            inputs = like.source[-1]
        if inputs is None:
            return super().onto(settings, target, like)
        if target[-1:] != (width,):
            raise ShapeError(
                f"this Dense gives {width} features, and its transpose is applied to {show(target)}",
                f"takes {width} features",
                "width",
            )
        return self.operator(settings, (*target[:-1], inputs))

    def entry_count(self, operator: Operator) -> int:
        return count(operator.source) * int(operator["width"])

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        return kronecker(operator, transposed=False)

    def offset_count(self, operator: Operator) -> int:
        return count(operator.target) if operator["bias"] else 0

    def offsets(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        if not operator["bias"]:
            return ()
        rows = np.arange(count(operator.target))
        return (Entries("bias", rows, np.zeros_like(rows), rows % operator["width"]),)

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.linear(x, weights["weight"])

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        return Expression(f"{layer}({x.text})")

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        bias = f", {weights['bias']}" if "bias" in weights else ""
        return Expression(f"F.linear({x.text}, {weights['weight']}{bias})", fresh=True)

    def emit_offset(self, operator: Operator, weights: Mapping[str, str]) -> Expression | None:
        return Expression(weights["bias"]) if "bias" in weights else None

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        return bounds.get(operator.parameter("weight") or "")


class Matrix(LinearRule):
    """A `param W[m, n]` used as W*x, or as W'*x when `transposed`."""

    kind = "matrix"
    doc = "A `param` matrix applied to the last axis: W*x, or W'*x for its transpose."
    example = "input u[6]\nparam W[4, 6], V[4, 3]\nstate x[4] ~ tanh(W*u)\noutput y[3] = V'*x"

    def operator(self, settings: Settings, source: Shape) -> Operator:
        rows, cols = settings["shape"]
        outputs, inputs = (cols, rows) if settings["transposed"] else (rows, cols)
        name = settings["name"]
        if not source or source[-1] != inputs:
            raise ShapeError(
                f"`{name}` maps {inputs} to {outputs}, but its input is {show(source)}", f"takes [{inputs}]"
            )
        chosen = (("transposed", settings["transposed"]),)
        return Operator(self.kind, source, (*source[:-1], outputs), chosen)

    def transposed(self, operator: Operator) -> bool:
        return bool(operator["transposed"])

    def transpose(self, operator: Operator) -> Operator | None:
        turned = (("transposed", not operator["transposed"]),)
        return Operator(self.kind, operator.target, operator.source, turned)

    def entry_count(self, operator: Operator) -> int:
        return count(operator.source) * count(operator.target[-1:])

    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        return kronecker(operator, operator["transposed"])

    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        W = weights["weight"]
        return torch.nn.functional.linear(x, W.mT if operator["transposed"] else W)

    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        weight = f"{layer}.mT" if operator["transposed"] else layer
        return Expression(f"F.linear({x.text}, {weight})")

    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        return self.emit(operator, x, weights["weight"])

    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        # the rows of Wᵀ are the columns of W, of which the bound of W says nothing
        return bounds.get((operator.parameter("weight") or "") + ("'" if operator["transposed"] else ""))


RULES: tuple[Rule, ...] = (Dense(), Matrix())
