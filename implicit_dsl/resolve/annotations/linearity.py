"""Which tensors the entries of assembled matrices are multiples of, and where they are not."""

from __future__ import annotations

from implicit_dsl.graph import Edge, Node
from implicit_dsl.operators import linear_rule
from implicit_dsl.resolve.problem import problem
from implicit_dsl.source import Span


def factors_of(edge: Edge) -> tuple[str, ...]:
    """The tensors of an edge that are factors of a value, and not added to it."""
    adding = {own for operator in edge.chain for role, own in operator.parameters if role == "bias"}
    return tuple(id for id in edge.parameters if id not in adding)


def check_known(node: Node, span: Span) -> None:
    """Raises Problem for a block whose entries have no given number."""
    if any(not isinstance(size, int) for size in (*node.shape, *node.slots)):
        raise problem(
            "E0404",
            f"`{node.name}` has sizes that are left open, so the assembled matrix has no given entries",
            span,
            help="measure its layers by their names, or give all sizes",
        )


def check_linear(edge: Edge, span: Span) -> None:
    """Raises Problem for an edge whose entries are not numbers times trained ones."""
    for operator in edge.chain:
        roles = {spec.role for spec in linear_rule(operator).parameters(operator)}
        if not roles <= {"weight", "bias"}:
            raise problem(
                "E0404",
                f"what `{edge.target}` reads of `{edge.source}` is not linear in its weights",
                span,
                f"they are those of {operator.kind}",
                help="measure the other blocks, or layers by their names",
            )


__all__ = ["check_known", "check_linear", "factors_of"]
