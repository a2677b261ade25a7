"""`@sparse` and `@penalty`: what is asked of weights beside the loops."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

from implicit_dsl import syntax as s
from implicit_dsl.demands import Family, Measured, MeasureName, PenaltyDemand, Piece, SparseDemand, SystemPart
from implicit_dsl.errors import Diagnostic
from implicit_dsl.graph import Edge, Node, Role
from implicit_dsl.resolve.annotations.forms import no_keywords, number, unknown_word
from implicit_dsl.resolve.annotations.linearity import check_known, check_linear, factors_of
from implicit_dsl.resolve.annotations.matrices import SENSITIVITY
from implicit_dsl.resolve.annotations.measures import Atom, atoms, is_measure, measures
from implicit_dsl.resolve.annotations.selections import Assembled, Selection, names_of
from implicit_dsl.resolve.annotations.sensitivity import of_sensitivity, refused
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import Problem, problem
from implicit_dsl.resolve.scope import Noted
from implicit_dsl.resolve.subscripts import matrix_of, order_of_states, region_of
from implicit_dsl.source import Span

_FORMS = "`columns(X) <= κ`, `rows(X) <= κ`, `entries(X) <= κ` or `blocks(A) <= κ`"
_WORDS = ("columns", "rows", "entries", "blocks")
_OF_GROUPS = ("l1", "l2", "linf")


@dataclass(frozen=True, slots=True)
class Asked:
    """One bound or penalty as it is written: `bound` None for a penalty."""

    atoms: tuple[Atom, ...]
    bound: float | None
    line: int
    text: str
    span: Span


def read_sparse(context: Context, noted: Noted) -> list[Asked]:
    """The bounds of one `@sparse`. Raises Problem, or Poisoned if the cause was reported."""
    no_keywords(noted.annotation, (), "its bounds are kept by projection")
    if not noted.annotation.arguments:
        raise problem("E0702", "`@sparse` has no bound", noted.annotation.span, help=f"write {_FORMS}")
    return [_bound(context, noted, form) for form in noted.annotation.arguments]


def _bound(context: Context, noted: Noted, form: s.Expression) -> Asked:
    text = _text(form.span)
    match form:
        case s.Comparison((s.Call(s.Name(word)) as inner, limit), (operator,)) if not is_measure(inner):
            raise unknown_word("kind of groups", word, inner.function.span, _WORDS, _FORMS)
        case s.Comparison((inner, limit), (operator,)) if is_measure(inner):
            pass
        case _:
            raise problem("E0702", f"`{text}` is no bound of groups", form.span, help=f"write {_FORMS}")
    if operator != "<=":
        raise problem("E0702", "this bound is written `<=`", form.span, f"this is `{operator}`")
    bound = number(context, limit, noted.environment, "a bound")
    if bound <= 0:
        raise problem("E0703", "a bound must be positive", limit.span, f"this is {bound:g}")
    found = atoms(context, inner, noted.environment)
    if not found:
        raise problem("E0702", f"`{text}` is a bound of nothing", form.span, "a sum without any term")
    names, factors = {atom.name for atom in found}, {atom.factor for atom in found}
    if not names <= set(_OF_GROUPS):
        raise problem(
            "E0702",
            f"`{text}` is no bound of groups",
            form.span,
            help=f"write {_FORMS}; a bound of a matrix in a loop is `@wellposed norm(X, Inf) <= κ`",
        )
    if len(names) > 1 or len(factors) > 1 or 0 in factors:
        raise problem("E0702", "a bound is of one measure", form.span, help="give each a bound of its own")
    for atom in found:
        if isinstance(atom.what, Selection):
            for piece in atom.what.pieces:
                _check_groups(context, piece, atom)
        elif not isinstance(atom.what, Assembled):
            raise _of_product(atom.span)
        elif atom.what.matrix == SENSITIVITY:
            raise refused(text, atom.what.span)
    (factor,) = factors
    plain = tuple(replace(atom, factor=1.0) for atom in found)
    return Asked(plain, bound / factor, noted.annotation.span.line, text, form.span)


def _of_product(span: Span) -> Problem:
    return problem(
        "E0404",
        "groups of a matrix that is made of others cannot be made small one by one",
        span,
        help="bound the matrices that it is made of, or use `@penalty`",
    )


def _check_groups(context: Context, piece: Piece, atom: Atom) -> None:
    """Raises Problem for matrices whose groups cannot be projected onto."""
    within = next((t.within for t in context.tensors if t.id == piece.tensor), None)
    linear = within.linear if within is not None else None
    if within is not None and (linear is None or (linear.tied and atom.name != "l1")):
        raise problem(
            "E0404",
            f"groups of a matrix in {within.name}(…) cannot be made small one by one",
            atom.span,
            help="use a full, banded, triangular or sparse one, or `@penalty`",
        )


def read_penalty(context: Context, noted: Noted) -> list[Asked]:
    """The terms of one `@penalty`. Raises Problem, or Poisoned if the cause was reported."""
    no_keywords(noted.annotation)
    if len(noted.annotation.arguments) != 1:
        raise problem(
            "E0702",
            "`@penalty` takes one sum",
            noted.annotation.span,
            help="write `@penalty 0.01 * columns(B)`, for example",
        )
    (form,) = noted.annotation.arguments
    found = tuple(atoms(context, form, noted.environment))
    if not found:
        raise problem("E0702", "a penalty on nothing", form.span, "a sum without any term")
    text = _text(form.span)
    return [Asked(found, None, noted.annotation.span.line, text, form.span)]


# --------------------------------------------------------------------------- when the graph is known


def assembled(
    context: Context, asked: list[Asked], nodes: tuple[Node, ...], edges: tuple[Edge, ...], steps: set[str]
) -> tuple[tuple[SparseDemand, ...], tuple[PenaltyDemand, ...]]:
    """The bounds and penalties with the weights that they are about; those of nothing are dropped.

    `steps` names the nodes that are computed step by step, and what is given by them.
    """
    used = {id for edge in edges for id in edge.parameters}
    bounds: list[SparseDemand] = []
    penalties: list[PenaltyDemand] = []
    for one in asked:
        try:
            if steps:
                _refuse_steps(one, nodes, steps)
            found = [term for term in _terms(context, one, nodes, edges) if set(term[1].tensors) <= used]
        except Problem as wrong:
            context.report(wrong.diagnostic)
            continue
        if one.bound is None:
            for factor, measured, span in found:
                penalties.append(PenaltyDemand(factor, measured, one.line, _text(span), span))
        elif found:
            families = tuple(family for _, measured, _ in found for family in measured.families)
            measured = Measured(found[0][1].name, families)
            bounds.append(SparseDemand(measured, one.bound, one.line, one.text, one.span))
            _warn_ways_around(context, bounds[-1], nodes, edges)
    return tuple(bounds), tuple(penalties)


def _refuse_steps(asked: Asked, nodes: tuple[Node, ...], steps: set[str]) -> None:
    """Raises Problem for a part of the assembled matrices that may hold blocks of the steps."""
    for atom in asked.atoms:
        what = atom.what
        if not isinstance(what, Assembled) or what.matrix == SENSITIVITY:
            continue
        sides = [
            names_of(one, nodes, what.matrix, side) for side, one in enumerate((what.rows, what.columns))
        ]
        if any(named is None or steps & set(named) for named in sides):
            raise problem(
                "E0404",
                f"{_shown(what)} holds the step of a `recurrent` or `ode` as often as there are steps",
                atom.span,
                help="measure weights by their names, with their `param` before the `recurrent`, or a block "
                "of states outside of it, `A[to, from]`",
            )


def _terms(
    context: Context, asked: Asked, nodes: tuple[Node, ...], edges: tuple[Edge, ...]
) -> list[tuple[float, Measured, Span]]:
    found: list[tuple[float, Measured, Span]] = []
    plain: list[Atom] = []
    for atom in asked.atoms:
        if isinstance(atom.what, Selection):
            plain.append(atom)
        elif isinstance(atom.what, Assembled):
            of = of_sensitivity if atom.what.matrix == SENSITIVITY else _of_system
            measured = of(context, atom, atom.what, nodes, edges)
            if measured is not None:
                found.append((atom.factor, measured, atom.span))
        else:
            found.append((atom.factor, Measured(atom.name, matrix=atom.what), atom.span))
    return [*found, *measures(plain)]


def _of_system(
    context: Context, atom: Atom, what: Assembled, nodes: tuple[Node, ...], edges: tuple[Edge, ...]
) -> Measured | None:
    """A measure of an assembled matrix, of its tensors alone where its blocks are these. Raises Problem."""
    roles = {node.name: node.role for node in nodes}
    rows, columns = (
        names_of(one, nodes, what.matrix, side) for side, one in enumerate((what.rows, what.columns))
    )
    opened = {tensor.id: tensor.opens for tensor in context.tensors if tensor.opens is not None}
    base = tuple(edge for edge in edges if not opened.keys() & set(edge.parameters))
    order = order_of_states(nodes, base, ())
    inside: list[Edge] = []
    factored = False
    for edge in edges:
        matrix, pair = _place(edge, roles), (edge.target, edge.source or "")
        opens = next((opened[id] for id in edge.parameters if id in opened), None)
        if not what.is_whole and opens is not None:  # also what goes through a state of its own
            matrix, pair = opens.matrix, (opens.to, opens.source)
        region = region_of(order.get(pair[0], 0), order.get(pair[1], 0))
        if (
            matrix == what.matrix
            and (rows is None or pair[0] in rows)
            and (columns is None or pair[1] in columns)
            and what.region in (None, region)
        ):
            inside.append(edge)
            factored |= pair != (edge.target, edge.source or "")
    trained = list(dict.fromkeys(id for edge in inside for id in factors_of(edge)))
    if not trained:
        message = f"{_shown(what)} is zero, or of constants alone, so `{_text(atom.span)}` has no effect"
        context.report(Diagnostic("W0401", message, atom.span, help="remove it"))
        return None
    if factored and atom.name not in ("l1", "squares"):
        raise problem(
            "E0404",
            f"{_shown(what)} holds a product of factors, which have only entries to be measured",
            atom.span,
            help=f"write `entries({_text(what.span)})`, or measure the factors by their names: "
            + ", ".join(f"`{id}`" for id in trained[:4]),
        )
    blocks = tuple(dict.fromkeys((edge.target, edge.source or "") for edge in inside))
    if all(_is_matrix(edge, edges) for edge in inside) and len(blocks) == len(inside):
        families = _of_matrices(atom, inside)
        if families is not None:
            return Measured(atom.name, families)
    if any(_place(edge, roles) != what.matrix for edge in inside):
        raise problem(
            "E0404",
            f"{_shown(what)} holds a product of factors beside other operators",
            atom.span,
            help="measure its blocks one by one",
        )
    by_name = {node.name: node for node in nodes}
    for edge in inside:
        assert edge.source is not None
        for name in (edge.source, edge.target):
            check_known(by_name[name], atom.span)
        check_linear(edge, atom.span)
    part = SystemPart(what.matrix, blocks, tuple(trained))
    return Measured(atom.name, (Family(atom.axis, part=part),))


def _place(edge: Edge, roles: dict[str, Role]) -> str:
    """The matrix in which an edge stands; "" for offsets, and for what is computed step by step."""
    if edge.source not in roles or edge.target not in roles:
        return ""
    return matrix_of(roles[edge.target], roles[edge.source])


def _shown(what: Assembled) -> str:
    return f"the assembled {what.matrix}" if what.is_whole else f"`{_text(what.span)}`"


def _text(span: Span) -> str:
    return " ".join(span.text.split())


def _is_matrix(edge: Edge, edges: tuple[Edge, ...]) -> bool:
    """Whether a block is one matrix, which stands nowhere else."""
    if len(edge.chain) != 1 or edge.chain[0].kind not in ("dense", "matrix"):
        return False
    operator = edge.chain[0]
    if dict(operator.settings).get("transposed") or len(operator.source) != 1:
        return False
    ids = set(factors_of(edge))
    return len(ids) == 1 and sum(bool(ids & set(other.parameters)) for other in edges) == 1


def _of_matrices(atom: Atom, inside: list[Edge]) -> tuple[Family, ...] | None:
    """The families of blocks that are matrices; None where these do not tell the measure."""
    ids = [factors_of(edge)[0] for edge in inside]
    if atom.name not in get_args(MeasureName)[:4]:
        return (Family("whole", (Piece(ids[0]),)),) if len(ids) == 1 else None
    if atom.axis == "blocks" or atom.name in ("l1", "squares"):
        return tuple(Family("whole", (Piece(id),)) for id in ids)
    if atom.axis == "whole":
        return (Family("whole", tuple(Piece(id) for id in ids)),)
    families: dict[str | None, list[Piece]] = {}
    for edge, id in zip(inside, ids):
        families.setdefault(edge.source if atom.axis == "columns" else edge.target, []).append(Piece(id))
    return tuple(Family(atom.axis, tuple(pieces)) for pieces in families.values())


def _warn_ways_around(
    context: Context, demand: SparseDemand, nodes: tuple[Node, ...], edges: tuple[Edge, ...]
) -> None:
    """Columns that select inputs select nothing if these are read in another way as well (W0404)."""
    if not all(family.axis == "columns" for family in demand.measured.families):
        return
    inputs = {node.name for node in nodes if node.role is Role.INPUT}
    ids = set(demand.measured.tensors)
    read = {edge.source for edge in edges if edge.source in inputs and ids & set(edge.parameters)}
    for edge in edges:
        if edge.source in read and not ids & set(edge.parameters):
            assert demand.span is not None
            others = ", ".join(id for id in edge.parameters if "bias" not in id) or "itself"
            around = f"`{edge.source}` also reaches `{edge.target}` through {others}"
            context.report(
                Diagnostic(
                    "W0404",
                    f"`{demand.text}` selects nothing: {around}",
                    demand.span,
                    help="bound both, as in `columns(vcat(B, D)) <= κ`, or remove the other way",
                )
            )
            return
