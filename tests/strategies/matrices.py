"""Operators that are matrices, their factors and offsets."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from implicit_dsl.sets import LINEAR, LinearSet
from strategies.cases import Build, Case, Draw, case, numbers, shapes


def _dense(draw: Draw) -> Case:
    source = draw(shapes())
    width = (draw(st.sampled_from((None, source[-1]))), draw(st.integers(1, 4)))
    return case(draw, "dense", {"width": width, "bias": draw(st.booleans())}, source)


def _matrix(draw: Draw) -> Case:
    shape, transposed = draw(shapes(2, 2)), draw(st.booleans())
    source = (*draw(shapes(0, 2)), shape[0] if transposed else shape[1])
    return case(draw, "matrix", {"shape": shape, "transposed": transposed, "name": "W"}, source, weight=shape)


def linear_sets(draw: Draw) -> LinearSet:
    """A linear set of matrices, of any shape that it allows."""
    kind = draw(st.sampled_from(sorted(LINEAR)))
    m, n = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    arguments: tuple[Any, ...] = ()
    match kind:
        case "Banded":
            arguments = (draw(st.integers(-3, 1)), draw(st.integers(1, 3)))
        case "BlockBanded":
            blocks = tuple(draw(st.lists(st.integers(1, 2), min_size=1, max_size=3)))
            m = n = sum(blocks)
            arguments = (blocks, draw(st.integers(-2, 0)), draw(st.integers(0, 2)))
        case "Sparse":
            columns = st.sets(st.integers(0, n - 1)).map(lambda held: tuple(sorted(held)))
            arguments = (tuple(draw(columns) for _ in range(m)),)
        case "Symmetric" | "Circulant":
            n = m
        case "Skew":
            m = n = m + 1
    made = LINEAR[kind](m, n, *arguments)
    assume(made.count > 0)  # the language refuses a set whose only member is zero
    return made


def _structured(draw: Draw) -> Case:
    made, transposed = linear_sets(draw), draw(st.booleans())
    kind = type(made).__name__
    written = (kind, *(getattr(made, field.name) for field in fields(made)))
    source = (*draw(shapes(0, 2)), made.rows if transposed else made.columns)
    settings = {"set": written, "transposed": transposed, "name": "W"}
    return case(draw, "structured", settings, source, weight=(made.count,))


def _batch_norm(draw: Draw) -> Case:
    settings = {"eps": draw(st.sampled_from((1e-5, 0.1))), "momentum": 0.1, "affine": draw(st.booleans())}
    return case(draw, "batch_norm", settings, draw(shapes(1, 4)))


def _offset(draw: Draw) -> Case:
    shape = draw(shapes(0, 3))
    return case(draw, "offset", {"shape": shape}, (), weight=shape)


def _diagonal(draw: Draw) -> Case:
    source = draw(shapes())
    first = draw(st.integers(0, len(source)))
    axes = draw(st.integers(0, len(source) - first))
    own = source[first : first + axes]
    return case(draw, "diagonal", {"first": first, "axes": axes}, source, weight=own)


def _affine(draw: Draw) -> Case:
    source, bias = draw(shapes()), draw(st.booleans())
    first = draw(st.integers(0, len(source) - 1))
    tensors = {"weight": source[first : first + 1]} | ({"bias": source[first : first + 1]} if bias else {})
    return case(draw, "affine", {"first": first, "axes": 1, "bias": bias}, source, **tensors)


def _scaling(draw: Draw) -> Case:
    source = draw(shapes())
    settings = {
        "factor": draw(st.none() | numbers()),
        "start": 0.5,
        "axis": draw(st.integers(1, len(source))),
    }
    return case(draw, "scaling", settings, source)


def _embedding(draw: Draw) -> Case:
    vocab, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return case(draw, "embedding", {"vocab": vocab, "width": width}, (*draw(shapes(0, 2)), vocab))


def _lookup(draw: Draw) -> Case:
    shape, transposed = draw(shapes(2, 2)), draw(st.booleans())
    source = (*draw(shapes(0, 2)), shape[0] if transposed else shape[1])
    settings = {"shape": shape, "transposed": transposed, "name": "E"}
    return case(draw, "lookup", settings, source, weight=shape)


OWN: dict[str, Build] = {
    "dense": _dense,
    "matrix": _matrix,
    "embedding": _embedding,
    "lookup": _lookup,
    "structured": _structured,
    "batch_norm": _batch_norm,
    "scaling": _scaling,
    "offset": _offset,
    "constant": lambda draw: case(
        draw, "constant", {"shape": draw(shapes(0, 3)), "value": draw(numbers())}, ()
    ),
    "diagonal": _diagonal,
    "affine": _affine,
}
