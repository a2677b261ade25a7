"""`@sparse` and `@penalty`: what is asked of weights beside the loops."""

from __future__ import annotations

from dataclasses import dataclass

from implicit_dsl import syntax as s
from implicit_dsl.demands import PenaltyDemand, SparseDemand
from implicit_dsl.errors import Diagnostic
from implicit_dsl.graph import Edge, Node, Role
from implicit_dsl.operators.base import LinearRule
from implicit_dsl.resolve.annotations.forms import is_free, no_keywords, number, unknown_word
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import Problem, problem
from implicit_dsl.resolve.scope import Environment, Noted
from implicit_dsl.resolve.values import Layer, LowRank, ParameterValue, describe
from implicit_dsl.source import Span

_AXES = {"columns": 1, "rows": 0}
_BESIDE = {"columns": "vcat", "rows": "hcat"}  # what joins matrices that have the same groups
_FORMS = "`columns(X) <= κ` or `rows(X) <= κ`"
_MEASURES = (
    "`columns(X)`, `rows(X)`, `norm(X, Fro)`, `norm(X, Fro)^2`, `norm(X, Inf)`, `norm(X, 2)`, `sum(abs(X))`"
)


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of the model; `product` if it is made of two. `shape` is that of the matrix or kernel."""

    ids: tuple[str, ...]
    shape: tuple[int, ...]
    product: bool = False


def read_sparse(context: Context, noted: Noted) -> list[SparseDemand]:
    """The bounds of one `@sparse`. Raises Problem, or Poisoned if the cause was reported."""
    no_keywords(noted.annotation, (), "its bounds are kept by projection")
    if not noted.annotation.arguments:
        raise problem("E0702", "`@sparse` has no bound", noted.annotation.span, help=f"write {_FORMS}")
    return [_bound(context, noted, form) for form in noted.annotation.arguments]


def _bound(context: Context, noted: Noted, form: s.Expression) -> SparseDemand:
    environment = noted.environment
    match form:
        case s.Comparison((s.Call(s.Name(word), (inner,), ()), limit), (operator,)):
            pass
        case _:
            text = " ".join(form.span.text.split())
            raise problem("E0702", f"`{text}` is no bound of groups", form.span, help=f"write {_FORMS}")
    if word not in _AXES:
        raise unknown_word("kind of groups", word, form.operands[0].span, tuple(_AXES), _FORMS)
    if operator != "<=":
        raise problem("E0702", "this bound is written `<=`", form.span, f"this is `{operator}`")
    bound = number(context, limit, environment, "a bound")
    if bound <= 0:
        raise problem("E0703", "a bound must be positive", limit.span, f"this is {bound:g}")
    span, text = noted.annotation.span, " ".join(form.span.text.split())
    if isinstance(inner, s.Name) and inner.name in ("B", "C", "D") and is_free(inner.name, environment):
        families: tuple[tuple[str, ...], ...] = ((inner.name,),)  # the assembled matrix, for now
        return SparseDemand(-1 - _AXES[word], families, bound, span.line, text, form.span)
    held = _beside(context, inner, environment, word)
    for weight, place in held:
        _check_groups(context, weight, place)
    ids = tuple(id for weight, _ in held for id in weight.ids)
    return SparseDemand(_AXES[word], (ids,), bound, span.line, text, form.span)


def _beside(
    context: Context, inner: s.Expression, environment: Environment, word: str
) -> list[tuple[Weight, Span]]:
    """The weights of `B` or `vcat(B, D)`, which must have as many groups."""
    join, axis = _BESIDE[word], _AXES[word]
    parts: tuple[s.Expression, ...] = (inner,)
    if (
        isinstance(inner, s.Call)
        and isinstance(inner.function, s.Name)
        and inner.function.name in ("vcat", "hcat")
    ):
        if inner.function.name != join or not inner.arguments:
            raise problem("E0702", f"matrices with the same {word} are joined by `{join}(X, Y)`", inner.span)
        parts = inner.arguments
    held = [(_weight(context, part, environment), part.span) for part in parts]
    sizes = {weight.shape[axis] for weight, _ in held}
    if len(sizes) > 1:
        shown = " and ".join(str(weight.shape[axis]) for weight, _ in held[:2])
        raise problem("E0204", f"matrices with {shown} {word} have no {word} in common", inner.span)
    return held


def _weight(context: Context, expression: s.Expression, environment: Environment) -> Weight:
    """The weight that an expression names. Raises Problem if it is none."""
    value = context.evaluate(expression, environment)
    match value:
        case ParameterValue() if len(value.tensor.shape) >= 2:
            return Weight((value.tensor.id,), value.tensor.shape)
        case LowRank():
            left, right = (part.tensor for part in value.parts)
            return Weight((left.id, right.id), (left.shape[0], right.shape[1]), True)
        case Layer() if isinstance(value.rule, LinearRule):
            weight = next((t for t in value.tensors if t.id.endswith(".weight") and len(t.shape) > 1), None)
            grouped = (
                value.operator is not None and value.operator.kind == "conv" and value.operator["groups"] != 1
            )
            if weight is not None and not grouped:
                return Weight((weight.id,), weight.shape)
    what = "a layer without a matrix" if isinstance(value, Layer) else describe(value)
    raise problem("E0404", "this is about a matrix or a layer", expression.span, f"this is {what}")


def _check_groups(context: Context, weight: Weight, place: Span) -> None:
    """Raises Problem for matrices whose groups cannot be projected onto."""
    within = next((t.within for t in context.tensors if t.id == weight.ids[0]), None)
    linear = within.linear if within is not None else None
    if weight.product or (within is not None and (linear is None or linear.tied)):
        name = "LowRank" if weight.product else within.name if within is not None else ""
        raise problem(
            "E0404",
            f"groups of a matrix in {name}(…) cannot be made small one by one",
            place,
            help="use a full, banded, triangular or sparse one, or `@penalty`",
        )


# --------------------------------------------------------------------------- when the graph is known


def assembled(
    context: Context, demands: list[SparseDemand], nodes: tuple[Node, ...], edges: tuple[Edge, ...]
) -> tuple[SparseDemand, ...]:
    """The bounds with the weights that make up the assembled B, C and D; those of nothing are dropped."""
    used = {id for edge in edges for id in edge.parameters}
    found = []
    for demand in demands:
        if demand.axis < 0:
            made = _of_system(context, demand, nodes, edges)
            if made is None:
                continue
            demand = made
        if {id for family in demand.families for id in family} <= used:
            _warn_ways_around(context, demand, nodes, edges)
            found.append(demand)
    return tuple(found)


_BLOCKS = {"B": (Role.INPUT, Role.STATE), "C": (Role.STATE, Role.OUTPUT), "D": (Role.INPUT, Role.OUTPUT)}


def _of_system(
    context: Context, demand: SparseDemand, nodes: tuple[Node, ...], edges: tuple[Edge, ...]
) -> SparseDemand | None:
    ((name,),) = demand.families
    axis = -1 - demand.axis
    roles = {node.name: node.role for node in nodes}
    source, target = _BLOCKS[name]
    families: dict[str, list[str]] = {}
    assert demand.span is not None
    for edge in edges:
        if edge.source is None or (roles[edge.source], roles[edge.target]) != (source, target):
            continue
        held = [op for op in edge.chain if op.kind != "scale"]
        if (
            len(held) != 1
            or held[0].kind not in ("dense", "matrix")
            or dict(held[0].settings).get("transposed")
        ):
            message = (
                f"what `{edge.target}` reads of `{edge.source}` is no matrix by itself, so it has no groups"
            )
            context.report(
                Diagnostic("E0404", message, edge.span, help="name the matrices: `columns(vcat(X, Y))`")
            )
            return None
        shared = families.setdefault(edge.source if axis else edge.target, [])
        shared += [id for id in edge.parameters if id not in shared and not id.endswith(".bias")]
    if not families:
        message = f"the assembled {name} is zero, so `{demand.text}` has no effect"
        context.report(Diagnostic("W0401", message, demand.span, help="remove it"))
        return None
    made = tuple(tuple(ids) for ids in families.values())
    return SparseDemand(axis, made, demand.bound, demand.line, demand.text, demand.span)


def _warn_ways_around(
    context: Context, demand: SparseDemand, nodes: tuple[Node, ...], edges: tuple[Edge, ...]
) -> None:
    """Columns that select inputs select nothing if these are read in another way as well (W0404)."""
    if demand.axis != 1:
        return
    inputs = {node.name for node in nodes if node.role is Role.INPUT}
    ids = {id for family in demand.families for id in family}
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


# --------------------------------------------------------------------------- penalties


def read_penalty(context: Context, noted: Noted) -> list[PenaltyDemand]:
    """The terms of one `@penalty`. Raises Problem, or Poisoned if the cause was reported."""
    no_keywords(noted.annotation)
    if len(noted.annotation.arguments) != 1:
        raise problem(
            "E0702",
            "`@penalty` takes one sum",
            noted.annotation.span,
            help="write `@penalty 0.01 * columns(B)`, for example",
        )
    return _terms(context, noted, noted.annotation.arguments[0], 1.0)


def _terms(context: Context, noted: Noted, form: s.Expression, factor: float) -> list[PenaltyDemand]:
    match form:
        case s.Binary("+", left, right):
            return [*_terms(context, noted, left, factor), *_terms(context, noted, right, factor)]
        case s.Binary("*", left, right) if _is_measure(right):
            weight = number(context, left, noted.environment, "the factor of a penalty")
            if weight < 0:
                raise problem(
                    "E0703", "the factor of a penalty is at least 0", left.span, f"this is {weight:g}"
                )
            return _terms(context, noted, right, factor * weight)
        case s.Binary("^", s.Call(s.Name("norm"), (inner, s.Name("Fro"))), s.Literal(2)):
            return [_term(context, noted, "squares", inner, factor)]
        case s.Call(s.Name("norm" | "opnorm"), (inner, s.Name("Fro"))):
            return [_term(context, noted, "frobenius", inner, factor)]
        case s.Call(s.Name("norm" | "opnorm"), (inner, order)):
            value = context.evaluate(order, noted.environment)
            if value in (2, float("inf")) and not isinstance(value, bool):
                return [_term(context, noted, "spectral" if value == 2 else "largest_row", inner, factor)]
        case s.Call(s.Name("columns" | "rows" as word), (inner,)):
            return [_term(context, noted, word, inner, factor)]
        case s.Call(s.Name("sum"), (s.Call(s.Name("abs"), (inner,)),)):
            return [_term(context, noted, "entries", inner, factor)]
    raise _no_measure(form)


def _is_measure(form: s.Expression) -> bool:
    inner = form.left if isinstance(form, s.Binary) and form.operator == "^" else form
    words = ("norm", "opnorm", "columns", "rows", "sum")
    is_call = (
        isinstance(inner, s.Call) and isinstance(inner.function, s.Name) and inner.function.name in words
    )
    return is_call or (isinstance(form, s.Binary) and form.operator in ("+", "*"))


def _no_measure(form: s.Expression) -> Problem:
    text = " ".join(form.span.text.split())[:60]
    return problem(
        "E0702",
        f"`{text}` is no measure of weights",
        form.span,
        help=f"a penalty is a sum of numbers times measures: {_MEASURES}",
    )


def _term(context: Context, noted: Noted, measure: str, inner: s.Expression, factor: float) -> PenaltyDemand:
    line = noted.annotation.span.line
    if measure in _AXES:
        held = _beside(context, inner, noted.environment, measure)
    else:
        held = [(_weight(context, inner, noted.environment), inner.span)]
    if (measure == "spectral" or len(held) > 1) and any(len(weight.shape) > 2 for weight, _ in held):
        raise problem("E0404", "this is for matrices, and a kernel has more axes", inner.span)
    if len(held) > 1 and any(weight.product for weight, _ in held):
        raise problem("E0404", "a product of two factors is measured by itself", inner.span)
    ids = tuple(id for weight, _ in held for id in weight.ids)
    return PenaltyDemand(factor, measure, ids, held[0][0].product, line)
