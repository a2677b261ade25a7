"""Shapes, operators and demands as plain data, for generated modules, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from implicit_dsl.demands import Demand, MatrixTerm
from implicit_dsl.operators.base import Operator
from implicit_dsl.shapes import Dim, Shape, Size, Total


def shape_data(shape: Shape) -> tuple[Any, ...]:
    return tuple(map(dim_data, shape))


def dim_data(dim: Dim) -> Any:
    match dim:
        case int():
            return dim
        case Total(shapes):
            return {"total": tuple(map(shape_data, shapes))}
    plain = (dim.source, dim.axis, dim.add, dim.divide)
    if dim.of is None:
        return plain if dim.times == 1 else (*plain, dim.times)
    return (*plain, dim.times, dim_data(dim.of))


def shape_of(data: tuple[Any, ...]) -> Shape:
    return tuple(map(dim_of, data))


def dim_of(data: Any) -> Dim:
    if isinstance(data, int):
        return data
    if isinstance(data, dict):
        return Total(tuple(map(shape_of, data["total"])))
    if len(data) < 6:
        return Size(*data)
    inner = dim_of(data[5])
    assert isinstance(inner, Size), "a size is made of a size"
    source, axis, add, divide, times = data[:5]
    return Size(source, axis, add, divide, times, inner)


def operator_data(op: Operator) -> tuple[Any, ...]:
    settings = {
        name: {"size": dim_data(value)} if isinstance(value, Size | Total) else value
        for name, value in op.settings
    }
    return (op.kind, shape_data(op.source), shape_data(op.target), settings, dict(op.parameters))


def operator_of(data: tuple[Any, ...]) -> Operator:
    kind, source, target, settings, parameters = data
    read = (
        (name, dim_of(value["size"]) if isinstance(value, dict) else value)
        for name, value in settings.items()
    )
    return Operator(kind, shape_of(source), shape_of(target), tuple(read), tuple(parameters.items()))


def demand_data(demand: Demand) -> dict[str, Any]:
    matrix = None
    if demand.matrix is not None:
        matrix = tuple((term.factor, term.tensors) for term in demand.matrix)
    return {
        "criterion": demand.criterion,
        "bound": demand.bound,
        "matrix": matrix,
        "states": demand.states,
        "method": demand.method,
        "line": demand.line,
        "text": demand.text,
    }


def demand_of(data: Mapping[str, Any]) -> Demand:
    written = data["matrix"]
    matrix = None
    if written is not None:
        matrix = tuple(MatrixTerm(factor, tuple(tensors)) for factor, tensors in written)
    return Demand(**{**data, "matrix": matrix})
