"""What stands in a bound: the assembled A, a layer, a `param`, or an expression of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

from implicit_dsl import syntax as s
from implicit_dsl.demands import Matrix, MatrixTerm
from implicit_dsl.operators import linear_rule
from implicit_dsl.operators.base import LinearRule
from implicit_dsl.resolve.annotations.forms import is_free
from implicit_dsl.resolve.context import CALL, Context
from implicit_dsl.resolve.matrices import spine
from implicit_dsl.resolve.problem import Problem, later, problem, quoted
from implicit_dsl.resolve.scope import Environment
from implicit_dsl.resolve.values import (
    Instance,
    Layer,
    MatrixExpression,
    ParameterValue,
    describe,
    is_matrix,
)
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.shapes import show
from implicit_dsl.source import Span

MOST_TERMS = 256  # of a matrix expression, multiplied out
SYSTEM = ("A", "B", "C", "D")
SENSITIVITY = "S"  # what is made of these: |C| (I − M|A|)⁻¹ M|B| + |D|
_OTHERS = {
    "B": "what inputs add to the states",
    "C": "what outputs read of the states",
    "D": "what outputs read of the inputs",
    SENSITIVITY: "how far outputs follow inputs",
}
_IS = dict.fromkeys(SYSTEM, "the matrix of all states") | {SENSITIVITY: "the sensitivity of the outputs"}


@dataclass(frozen=True, slots=True)
class Bounded:
    """What is bounded: a sum of products of parameters, or the assembled A (None).

    `is_operator` for a layer that is no matrix on the last axis, such as a convolution.
    """

    matrix: Matrix | None
    is_operator: bool = False


def bounded(context: Context, expression: s.Expression, environment: Environment) -> Bounded:
    """The matrix that an expression stands for. Raises Problem if it is none that can be bounded."""
    name = of_system(expression, environment)
    if name == "A":
        return Bounded(None)
    if name:
        raise problem(
            "E0404",
            f"{name} is {_OTHERS[name]}, and no part of a loop",
            expression.span,
            help="it is made small with `@penalty λ*norm(system.S, Inf)`"
            if name == SENSITIVITY
            else "loops are made of A; a single matrix is bounded by its own name",
        )
    _check_whole(expression, environment)
    value = context.evaluate(expression, environment)
    if isinstance(value, Wire):
        raise _value(expression, environment, value)
    scaled = _scaled_layer(value)
    if scaled is not None:
        layer, factor, turned = scaled
        tensor = _oriented(layer, turned, expression.span)
        return Bounded((MatrixTerm(factor, (tensor,)),), _shape(layer, expression.span) is None)
    if isinstance(value, ParameterValue) and len(value.tensor.shape) != 2:
        raise problem(
            "E0404",
            f"`{value.name}` has shape {show(value.tensor.shape)}, and a matrix [m, n] is bounded",
            expression.span,
        )
    if not is_matrix(value):
        text = f"this is {describe(value)}"
        help = "write it in the block, or bound the assembled A" if isinstance(value, Instance) else ""
        raise problem("E0404", "a matrix or a layer is bounded", expression.span, text, help=help)
    _size(value, expression.span)
    return Bounded(tuple(_terms(context, value, False, expression.span)))


# --------------------------------------------------------------------------- the assembled matrices


def of_system(expression: s.Expression, environment: Environment) -> str:
    """A, B, C, D or S if an expression is one of the assembled matrices, else ''."""
    known = (*SYSTEM, SENSITIVITY)
    match expression:
        case s.Field(s.Name("system"), s.Name(name)) if name in known and is_free("system", environment):
            return name
        case s.Name(name) if name in known and is_free(name, environment):
            return name
    return ""


def _check_whole(expression: s.Expression, environment: Environment) -> None:
    """Raises Problem if an assembled matrix is a part of an expression."""
    for part in _parts(expression):
        name = of_system(part, environment)
        if not name:
            continue
        if isinstance(expression, s.Index) and expression.value is part:
            raise later(f"a block of the assembled {name}", expression.span, "bound its layer or `param`")
        raise problem(
            "E0404",
            f"the assembled {name} cannot be part of an expression",
            part.span,
            notes=(f"there is no `{name}` in this program, so it is {_IS[name]}",)
            if isinstance(part, s.Name)
            else (),
            help="" if name == SENSITIVITY else "bound it as a whole, or parameters by their names",
        )


def _parts(expression: s.Expression) -> Iterator[s.Expression]:
    """The operands of the operators of an expression, and what is indexed in it."""
    waiting: list[s.Expression] = [expression]
    while waiting:
        part = waiting.pop()
        yield part
        match part:
            case s.Binary(_, left, right):
                waiting += [right, left]
            case s.Unary(_, operand):
                waiting.append(operand)
            case s.Transpose(value) | s.Index(value):
                waiting.append(value)


def _value(expression: s.Expression, environment: Environment, wire: Wire) -> Problem:
    if isinstance(expression, s.Name) and expression.name in SYSTEM:
        help = f"the assembled matrix is `system.{expression.name}`"
    else:
        help = "name the matrix or layer alone, or bound the assembled A"
    return problem(
        "E0404", "a matrix or a layer is bounded", expression.span, f"this is {describe(wire)}", help=help
    )


# --------------------------------------------------------------------------- layers and expressions


def _scaled_layer(value: Any) -> tuple[Layer, float, bool] | None:
    """A layer, its transpose, or a number times one (with the number): these need not be matrices."""
    factors: list[float] = []
    turned = False
    while isinstance(value, MatrixExpression) and value.operation in ("scale", "transpose"):
        if value.operation == "scale":
            factors.append(value.number)
        else:
            turned = not turned
        (value,) = value.parts
    return (value, prod(reversed(factors), start=1.0), turned) if isinstance(value, Layer) else None


def _oriented(layer: Layer, turned: bool, span: Span) -> tuple[str, bool]:
    """The tensor that a layer is linear in, and whether its axis 1 counts the rows."""
    id = _weight(layer, span)
    assert layer.operator is not None
    return id, linear_rule(layer.operator).transposed(layer.operator) != turned


def _weight(layer: Layer, span: Span) -> str:
    """The id of the tensor that a layer is linear in. Raises Problem if there is none."""
    name = layer.rule.names[0]
    if not isinstance(layer.rule, LinearRule):
        raise problem("E0404", f"{name} is not linear, so it has no matrix that could be bounded", span)
    if layer.operator is None:
        raise problem(
            "W0401",
            f"`{quoted(span)}` is applied to nothing, so there is nothing to bound",
            span,
            help="apply it, or remove the annotation",
        )
    roles = [spec.role for spec in layer.rule.parameters(layer.operator)]
    if "weight" not in roles:
        raise problem("E0404", f"{name} has no weights that could be bounded", span, "a constant operator")
    if not set(roles) <= {"weight", "bias"}:
        raise problem(
            "E0404",
            f"the matrix of {name} is not linear in its weights, so it cannot be bounded",
            span,
            help=f"move {name} out of the loop, or fold it into the layer before it",
        )
    return next(t.id for t, role in zip(layer.tensors, roles) if role == "weight")


def _shape(layer: Layer, span: Span) -> tuple[int, int] | None:
    """Rows and columns of a layer that is a matrix on the last axis, else None."""
    id = _weight(layer, span)
    shape = next(tensor.shape for tensor in layer.tensors if tensor.id == id)
    return (shape[0], shape[1]) if len(shape) == 2 else None


def _size(value: Any, span: Span) -> tuple[int, int]:
    """Rows and columns of a matrix expression. Raises Problem if its parts do not fit."""
    match value:
        case ParameterValue():
            rows, columns = value.tensor.shape
            return rows, columns
        case Layer():
            found = _shape(value, span)
            if found is None:
                raise problem(
                    "E0404",
                    f"{value.rule.names[0]} is no matrix, so it cannot be part of an expression in a bound",
                    span,
                    help="bound it alone, or bound the assembled A",
                )
            return found
        case MatrixExpression("identity", _, n):
            return int(n), int(n)
        case MatrixExpression("transpose", (inner,)):
            rows, columns = _size(inner, span)
            return columns, rows
        case MatrixExpression("scale", (inner,)):
            return _size(inner, span)
    sizes = [_size(part, span) for part in spine(value)]
    if value.operation == "sum":
        fit = len(set(sizes)) == 1
        whole = sizes[0]
    else:
        fit = all(left[1] == right[0] for left, right in pairwise(sizes))
        whole = (sizes[0][0], sizes[-1][1])
    if not fit:
        shown = " and ".join(show(size) for size in sizes[:2] if len(sizes) == 2) or "of these sizes"
        raise problem("E0204", f"matrices {shown} have no {value.operation}", value.span)
    return whole


def _terms(context: Context, value: Any, turned: bool, span: Span) -> list[MatrixTerm]:
    """A matrix expression, multiplied out in the order in which it would be applied."""
    context.step(span, CALL)
    match value:
        case ParameterValue():
            within = value.tensor.within
            sign = within.symmetry if turned and within is not None else 0
            return [MatrixTerm(sign or 1.0, ((value.tensor.id, turned and not sign),))]
        case Layer():
            return [MatrixTerm(1.0, (_oriented(value, turned, span),))]
        case MatrixExpression("identity"):
            return [MatrixTerm()]
        case MatrixExpression("transpose", (inner,)):
            return _terms(context, inner, not turned, span)
        case MatrixExpression("scale", (inner,), factor):
            made = _terms(context, inner, turned, span)
            return [MatrixTerm(term.factor * factor, term.tensors) for term in made]
    parts = [_terms(context, part, turned, span) for part in spine(value)]
    if value.operation == "sum":
        return [term for part in parts for term in part]
    if prod(map(len, parts)) > MOST_TERMS:
        raise problem("E0107", f"this product has more than {MOST_TERMS} terms", value.span)
    if turned:
        parts.reverse()
    found = parts[0]
    for part in parts[1:]:
        found = [MatrixTerm(a.factor * b.factor, a.tensors + b.tensors) for a in found for b in part]
    return found
