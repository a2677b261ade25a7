"""Linear layers and products of matrices."""

from __future__ import annotations

import torch.fx

from implicit_dsl.translation import terms
from implicit_dsl.translation.joining import axis_of_size, ranged
from implicit_dsl.translation.products import attended, product, turned
from implicit_dsl.translation.regrouping import ONE, measure
from implicit_dsl.translation.rules.elementwise import add, mul
from implicit_dsl.translation.site import Rule, Site
from implicit_dsl.translation.terms import Declaration, Form, Term
from implicit_dsl.translation.values import (
    BATCH,
    MIXES,
    Axis,
    Value,
    flat,
    length,
    materialised,
    network_term,
    seen,
    without_batch,
)


def last_axis(x: Value) -> Value:
    """The same with the last axis of the tensor as the last of the program."""
    features = x.axes[-1]
    if BATCH in features:
        raise MIXES
    if x.stored and x.stored[-1] == features and (features or x.axes[:-1]):
        return x
    rest = tuple(axis for axis in without_batch(x.axes[:-1]))
    here = {*flat(x.stored), *features}
    return materialised(x, (*(tuple(a for a in axis if a in here) for axis in rest), features))


def applied(matrix: Term, x: Value, new: Axis) -> Value:
    """A matrix or linear layer on the last axis."""
    moved = last_axis(x)
    return Value(terms.times(matrix, network_term(moved)), (*moved.stored[:-1], new), (*x.axes[:-1], new))


def times(site: Site, a: Value, b: Value | float) -> Value:
    """A product entry by entry; a parameter for the last of several axes is a diagonal matrix."""
    for x, weight in ((a, b), (b, a)):
        if isinstance(x, Value) and isinstance(weight, Value) and _is_diagonal(site, x, weight):
            count = length(weight.axes[0])
            held = ((str(weight.parameter), ""),)
            text = f"[{count}, {count}] in Diagonal()"
            matrix = terms.name(Declaration("param", str(weight.parameter), text, held))
            return applied(matrix, x, axis_of_size(count))
    return mul(site, a, b)


def _is_diagonal(site: Site, x: Value, weight: Value) -> bool:
    """Whether this parameter of one axis, read here alone, is for the last axis of a value of several."""
    read = [one for one in site.node.args if isinstance(one, torch.fx.Node) and one.op == "placeholder"]
    alone = any(
        len(one.users) == 1 and site.declaring.key(one) == weight.parameter is not None for one in read
    )
    several = len(without_batch(x.axes)) > 1 and x.term is not None and not x.term.is_param
    known = weight.constant is not None or weight.axes != weight.stored or len(weight.axes) != 1
    return alone and several and not known and measure(x.axes[-1]) == measure(weight.axes[0]) != ONE


def linear(site: Site, x: Value, weight: Value, bias: Value | None = None) -> Value:
    if len(weight.axes) == 2 and weight.parameter is not None:
        layer = _dense(site, weight, bias)
        if layer is not None:
            return applied(layer, x, axis_of_size(length(weight.axes[0])))
    base, rows = _rows(site, weight)
    if base is not None and base.term is not None:
        shared, same = _rows(site, bias) if bias is not None else (None, rows)
        layer = _dense(site, base, shared) if same == rows else None
        every = applied(layer or base.term, x, base.axes[0])
        made = ranged(every, len(x.axes) - 1, rows.start, rows.stop)
        return made if bias is None or layer is not None else add(site, made, bias)
    made = matmul(site, x, turned(weight))
    return made if bias is None else add(site, made, bias)


def _dense(site: Site, weight: Value, bias: Value | None) -> Term | None:
    """The layer that holds these; of it, rows may be wanted, as in nn.MultiheadAttention."""
    text = f"Dense({length(weight.axes[0])}{'' if bias is not None else '; bias = false'})"
    return site.layer(text, {"weight": weight, "bias": bias})


def _rows(site: Site, x: Value) -> tuple[Value | None, range]:
    """The parameter that this is some rows of, and which; none for others."""
    term = x.term
    if term is None or term.form is not Form.INDEX or x.stored != x.axes:
        return None, range(0)
    (base,), (rows, *others) = term.operands, term.text.split(", ")
    if base.declaration is None or not base.is_param or rows.count(":") != 1 or set(others) > {":"}:
        return None, range(0)
    ((key, _),) = base.declaration.holds
    first, last = map(int, rows.split(":"))
    return site.declaring.value(key), range(first - 1, last)


def _matrix(x: Value) -> Term | None:
    """The parameter that a value is, as a matrix from its last axis but one to its last; or None."""
    if len(x.axes) != 2 or x.term is None or not x.term.is_param or len(x.stored) != 2:
        return None
    if x.stored == x.axes:
        return terms.transposed(x.term)
    return x.term if x.stored == x.axes[::-1] else None


def matmul(site: Site, a: Value, b: Value) -> Value:
    """Products as `torch.matmul` has them: a matrix parameter is applied, two values are multiplied."""
    if len(b.axes) == 1 and len(a.axes) == 1:
        return _summed(site, a, b)
    if len(b.axes) == 1:
        made = matmul(site, a, seen(b, (*b.axes, ())))
        return seen(made, made.axes[:-1])
    if len(a.axes) == 1:
        made = matmul(site, seen(a, ((), *a.axes)), b)
        return seen(made, (*made.axes[:-2], made.axes[-1]))
    matrix = _matrix(b)
    if matrix is not None and not (a.term is not None and _matrix(a) is not None):
        return applied(matrix, a, b.axes[-1] and axis_of_size(length(b.axes[-1])))
    matrix = _matrix(turned(a))
    if matrix is not None and len(b.axes) > 1:
        return turned(applied(matrix, turned(b), a.axes[-2] and axis_of_size(length(a.axes[-2]))))
    if a.scores is not None and a.scores.weights:
        return attended(site, a.scores, b)
    return product(site, a, b)


def _summed(site: Site, a: Value, b: Value) -> Value:
    """The inner product of two vectors."""
    both = site.each(terms.multiply, a, b, fold=lambda x, y: x * y)
    if BATCH in both.axes[0]:
        raise MIXES
    moved = materialised(both, both.axes)
    return Value(terms.call("sum", network_term(moved)), (), ())


def addmm(site: Site, bias: Value, a: Value, b: Value, beta: float = 1, alpha: float = 1) -> Value:
    """beta·bias + alpha·a b."""
    product = matmul(site, a, b)
    if alpha != 1:
        product = mul(site, product, alpha)
    return add(site, product, bias if beta == 1 else mul(site, bias, beta))


RULES: dict[str, Rule] = {
    "aten.mul.Tensor": times,
    "aten.linear.default": linear,
    "aten.matmul.default": matmul,
    "aten.mm.default": matmul,
    "aten.bmm.default": matmul,
    "aten.mv.default": matmul,
    "aten.dot.default": matmul,
    "aten.addmm.default": addmm,
    "aten.baddbmm.default": addmm,
    "aten.addmv.default": addmm,
}
