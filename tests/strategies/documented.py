"""Operators from what their rule says of itself: its formal arguments, and its example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from implicit_dsl.compiler import check
from implicit_dsl.operators import OPERATORS
from implicit_dsl.operators.base import Formal, Operator, ShapeError
from implicit_dsl.operators.elementwise import Elementwise
from implicit_dsl.source import Source
from strategies.cases import Case, Draw, case, shapes, used


def example_of(kind: str) -> Operator:
    """The operator that the example of a rule uses."""
    checked = check(Source(f"model Example\n{OPERATORS[kind].example}\nend\n"))
    assert checked.certified, f"the example of `{kind}` does not compile"
    graph = checked.certified[0].graph
    activations = [node.activation for node in graph.nodes if node.activation is not None]
    used = [*activations, *(operator for edge in graph.edges for operator in edge.chain)]
    return next(operator for operator in used if operator.kind == kind)


def _argument(formal: Formal, written: Any) -> st.SearchStrategy[Any]:
    """What may be given for a formal argument; the choice of the example where any other may be wrong."""
    match formal.kind:
        case "choice":
            return st.sampled_from(formal.choices)
        case "flag":
            return st.booleans()
        case "number":
            return st.sampled_from([number for number in (written, formal.default) if number is not None])
        case "size" | "integer" | "axis":
            return st.integers(1, 3)
        case "pad":
            return st.integers(0, 2)
        case "width":
            return st.integers(1, 4).map(lambda width: (None, width))
        case _:
            return st.just(formal.default if written is None else written)


def as_documented(kind: str) -> Callable[[Draw], Case]:
    """A rule with random arguments on a random shape, if it takes that; else the operator of its example."""

    def build(draw: Draw) -> Case:
        rule, example = OPERATORS[kind], example_of(kind)
        drawn = {f.name: draw(_argument(f, example.get(f.name, None))) for f in rule.formals}
        axes = len(example.source)
        source = draw(shapes(0, 3) if isinstance(rule, Elementwise) else shapes(axes, axes, size=9))
        try:
            assume(np.prod(source) < 400)
            return case(draw, kind, dict(example.settings) | drawn, source)
        except ShapeError:
            return used(draw, rule, example, {})

    return build
