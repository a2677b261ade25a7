"""How a product that is written the wrong way round is mended."""

from __future__ import annotations

from implicit_dsl import syntax as s
from implicit_dsl.fixes import Edit, Fix
from implicit_dsl.resolve.problem import quoted


def as_call(node: s.Binary) -> tuple[Fix, ...]:
    """`f * x` as `f(x)`, where both can be written so."""
    left, right, source = node.left.span, node.right.span, node.span.source
    if (
        not _stands_alone(node.left)
        or source.text[left.end : right.start].strip(" \t") != node.operator_span.text
    ):
        return ()
    edits = (Edit(source.span(left.end, right.start), "("), Edit(source.span(right.end, right.end), ")"))
    return (Fix(f"write `{quoted(left)}({quoted(right)})`", edits),)


def turned(node: s.Binary) -> tuple[Fix, ...]:
    """`x * K` as `K * x`, where both sides can change places."""
    left, right = node.left.span, node.right.span
    if not (_stands_alone(node.left) and _stands_alone(node.right)):
        return ()
    edits = (Edit(left, right.text), Edit(right, left.text))
    return (Fix(f"write `{quoted(right)} * {quoted(left)}`", edits),)


def _stands_alone(expression: s.Expression) -> bool:
    """Whether it binds more tightly than any operator."""
    return isinstance(expression, s.Name | s.Call | s.Index | s.Field)
