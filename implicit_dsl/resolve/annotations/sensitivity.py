"""The sensitivity S = |C| (I − M|A|)⁻¹ M|B| + |D| in a `@penalty`: |y − y'| ≤ S |u − u'| for all u and u'.

M holds what the activations multiply changes by, at most.
"""

from __future__ import annotations

from implicit_dsl.demands import Family, Measured, SystemPart
from implicit_dsl.errors import Diagnostic
from implicit_dsl.graph import Edge, Node, Role
from implicit_dsl.majorants import is_bounded
from implicit_dsl.operators.base import Operator
from implicit_dsl.resolve.annotations.linearity import check_known, check_linear, factors_of
from implicit_dsl.resolve.annotations.measures import Atom
from implicit_dsl.resolve.annotations.selections import Assembled, names_of
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import Problem, problem
from implicit_dsl.source import Span


def refused(text: str, span: Span) -> Problem:
    """That S is not kept within bounds."""
    return problem(
        "E0404",
        "S is made of all weights together, and cannot be kept within a bound",
        span,
        help=f"make it small: `@penalty λ*{' '.join(text.partition('<=')[0].split())}`",
    )


def of_sensitivity(
    context: Context, atom: Atom, what: Assembled, nodes: tuple[Node, ...], edges: tuple[Edge, ...]
) -> Measured | None:
    """A measure of S, or of its rows of some outputs and columns of some inputs. Raises Problem."""
    rows, columns = (
        names_of(one, nodes, what.matrix, side) for side, one in enumerate((what.rows, what.columns))
    )
    outputs = [name for name, _, _ in context.network.outputs if rows is None or name in rows]
    wires = [wire for wire in context.network.wires if wire.kind == "input"]  # without those of steps
    inputs = [wire.name for wire in wires if columns is None or wire.name in columns]
    between = [edge for edge in edges if edge.source is not None]
    trained = tuple(dict.fromkeys(id for edge in between for id in factors_of(edge)))
    shown = " ".join(atom.span.text.split())
    if not trained:
        message = f"S is made of constants alone, so `{shown}` has no effect"
        context.report(Diagnostic("W0401", message, atom.span, help="remove it"))
        return None
    for node in nodes:
        check_known(node, atom.span)
        if node.role is Role.STATE and node.activation is not None and not is_bounded(node.activation):
            raise problem(
                "E0404",
                f"S is infinite: {_name(node.activation)} of `{node.name}` may enlarge changes without bound",
                atom.span,
                help="measure the weights themselves, such as `norm(system.A, Inf)` or `norm(W, 2)`",
            )
    for edge in between:
        check_linear(edge, atom.span)
    pairs = tuple((row, column) for row in outputs for column in inputs)
    return Measured(atom.name, (Family(atom.axis, part=SystemPart(what.matrix, pairs, trained)),))


def _name(activation: Operator) -> str:
    return str(activation["name"]) if activation.kind == "function" else activation.kind


__all__ = ["of_sensitivity", "refused"]
