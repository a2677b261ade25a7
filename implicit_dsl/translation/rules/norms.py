"""Normalisations, PReLU and tables of vectors: layers that hold parameters and are no plain matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from implicit_dsl.translation import terms
from implicit_dsl.translation.joining import picked
from implicit_dsl.translation.regrouping import axis_of
from implicit_dsl.translation.rules.elementwise import add, mul
from implicit_dsl.translation.site import Rule, Site
from implicit_dsl.translation.terms import Form, Term
from implicit_dsl.translation.values import (
    BATCH,
    MIXES,
    Axes,
    Value,
    flat,
    length,
    materialised,
    network_term,
    seen,
    without_batch,
)


def _said(name: str, settings: Sequence[str], first: str = "") -> str:
    """A layer with the settings that have to be said, `LayerNorm(; eps = 1e-06)`."""
    written = ", ".join(one for one in settings if one)
    return f"{name}({first}{'; ' + written if written else ''})"


def _eps(eps: float) -> str:
    return "" if eps == 1e-5 else f"eps = {terms.number(eps).text}"


def _placed(x: Value, axes: Axes, term: Term) -> Value:
    return Value(term, axes, x.axes)


def _affine(site: Site, x: Value, weight: Value | None, bias: Value | None, behind: int = 0) -> Value:
    """weight · x + bias, with `behind` axes behind those that the two have."""
    for given, combine in ((weight, mul), (bias, add)):
        if given is not None:
            x = combine(site, x, seen(given, (*given.axes, *((),) * behind)))
    return x


def layer_norm(
    site: Site,
    x: Value,
    shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Value:
    return _of_last(site, "LayerNorm", x, len(shape), weight, bias, _eps(eps))


def rms_norm(
    site: Site, x: Value, shape: Sequence[int], weight: Value | None = None, eps: float | None = None
) -> Value:
    if eps is None:
        eps = torch.finfo(site.node.meta["val"].dtype).eps
    return _of_last(site, "RMSNorm", x, len(shape), weight, None, _eps(eps))


def _of_last(
    site: Site, name: str, x: Value, count: int, weight: Value | None, bias: Value | None, eps: str
) -> Value:
    """A normalisation of the last axes, as a layer with its parameters if it has all of them."""
    inner = x.axes[len(x.axes) - count :]
    if any(BATCH in axis for axis in inner):
        raise MIXES
    if name == "LayerNorm" and not any(inner):
        raise site.refuse(_SINGLE, _ZERO)
    if x.stored[len(x.stored) - count :] != inner:
        here = {*flat(x.stored), *flat(inner)}
        outer = without_batch(x.axes[: len(x.axes) - count])
        x = materialised(x, (*(tuple(a for a in axis if a in here) for axis in outer), *inner))
    axes = f"axes = {count}" if count > 1 else ""
    whole = weight is not None and (bias is not None or name == "RMSNorm")
    layer = site.layer(_said(name, (eps, axes)), {"weight": weight, "bias": bias}) if whole else None
    if layer is not None:
        return _placed(x, x.stored, terms.apply(layer, network_term(x)))
    text = _said(name, (eps, axes, "affine = false"))
    return _affine(site, _placed(x, x.stored, terms.call(text, network_term(x))), weight, bias)


def batch_norm(
    site: Site,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn: bool = True,
) -> Value:
    """In evaluation, a number times each channel and one more."""
    if training or mean is None or variance is None:
        raise site.refuse(
            "it takes means over the batch in evaluation as well, and a program sees one sample at a time",
            "keep running statistics (`track_running_stats=True`)",
        )
    channels = x.axes[1]
    if BATCH in channels or x.axes[0] == ():
        raise MIXES
    here = {*flat(x.stored), *channels}
    rest = without_batch((x.axes[0], *x.axes[2:]))
    stored = (channels, *(tuple(a for a in axis if a in here) for axis in rest))
    layer = None
    if (weight is None) == (bias is None) and len(stored) <= 4:
        said = [_eps(eps), "" if momentum in (0, 0.1) else f"momentum = {terms.number(momentum).text}"]
        said.append("affine = false" if weight is None else "")
        owner = (mean.parameter or "").rpartition(".")[0]
        counted = f"{owner}.num_batches_tracked" if owner else "num_batches_tracked"
        more = {"num_batches_tracked": counted} if counted in site.declaring.tensors else {}
        given = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": variance}
        layer = site.layer(_said("BatchNorm", said), given, more)
    if layer is not None:
        return _placed(x, stored, terms.apply(layer, network_term(materialised(x, stored))))
    behind = len(x.axes) - 2
    shifted, spread = (seen(one, (*one.axes, *((),) * behind)) for one in (mean, variance))
    scaled = site.each(
        lambda z, m, v: terms.divide(
            terms.subtract(z, m), terms.call("sqrt", terms.add(v, terms.number(eps)))
        ),
        x,
        shifted,
        spread,
    )
    return _affine(site, scaled, weight, bias, behind)


def group_norm(
    site: Site,
    x: Value,
    groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn: bool = True,
) -> Value:
    return _of_sample(site, "GroupNorm", str(groups), x, weight, bias, eps)


def instance_norm(
    site: Site,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    by_sample: bool,
    momentum: float,
    eps: float,
    cudnn: bool,
) -> Value:
    if not by_sample:
        return batch_norm(site, x, weight, bias, mean, variance, False, momentum, eps)
    return _of_sample(site, "InstanceNorm", "", x, weight, bias, eps)


def _of_sample(
    site: Site, name: str, first: str, x: Value, weight: Value | None, bias: Value | None, eps: float
) -> Value:
    """A normalisation of the channels of one sample."""
    outer, inner = x.axes[0], x.axes[1:]
    several = name == "GroupNorm" and any(
        isinstance(one.size, str) or one.size > int(first) for one in inner[0]
    )
    if not several and not any(inner[1:]):
        raise site.refuse(_SINGLE, _ZERO)
    if outer != (BATCH,):
        raise site.refuse("the axis before the channels holds more than the batch")
    said = "" if name == "GroupNorm" else "affine = true", "affine = false" if name == "GroupNorm" else ""
    layer = None
    if weight is not None and bias is not None:
        layer = site.layer(_said(name, (_eps(eps), said[0]), first), {"weight": weight, "bias": bias})
    moved = network_term(materialised(x, inner))
    if layer is not None:
        return _placed(x, inner, terms.apply(layer, moved))
    made = _placed(x, inner, terms.call(_said(name, (_eps(eps), said[1]), first), moved))
    return _affine(site, made, weight, bias, len(inner) - 1)


_SINGLE = "it normalises single numbers, and a number less its mean is 0"
_ZERO = "leave it out: what it gives is its bias, whatever the input"


def prelu(site: Site, x: Value, slope: Value) -> Value:
    """max(x, 0) + slope · min(x, 0)."""
    several = slope.axes != () and slope.axes[0] != ()
    layer = site.layer("PReLU(; per_channel = true)" if several else "PReLU()", {"weight": slope})
    if layer is None or (several and x.axes[0] != (BATCH,)):
        wide = seen(slope, (*slope.axes, *((),) * (len(x.axes) - 2))) if several else seen(slope, ())
        return site.each(
            lambda z, s: terms.add(
                terms.call("max", z, terms.number(0)),
                terms.multiply(s, terms.call("min", z, terms.number(0))),
            ),
            x,
            wide,
        )
    moved = materialised(x, x.axes[1:]) if several else x
    return _placed(x, moved.stored, terms.apply(layer, network_term(moved)))


def embedding(
    site: Site,
    table: Value,
    tokens: Value,
    padding: int = -1,
    by_frequency: bool = False,
    sparse: bool = False,
) -> Value:
    """A row of a table for each token; of tokens that are known, these rows of the parameter."""
    if by_frequency:
        raise site.refuse("it scales gradients by how often a token is there (`scale_grad_by_freq`)")
    count, width = length(table.axes[0]), table.axes[1]
    note = f"vector {padding} is not trained (padding_idx)" if padding >= 0 else ""
    sets = (("padding_idx", padding),) if padding >= 0 else ()
    layer = site.layer(f"Embedding({count}, {length(width)})", {"weight": table}, None, note, sets)
    if padding >= 0 and (layer is None or tokens.constant is not None):
        raise site.refuse(
            "one of its vectors is not trained (`padding_idx`), and the table is read in another way as well",
            "build the table without `padding_idx`; the vector of the padding may be zero as before",
        )
    if tokens.constant is not None:
        listed = tokens.constant.expand([length(axis) for axis in tokens.stored]).reshape(-1).tolist()
        made = picked(table, 0, [int(one) for one in listed])
        flat_axis = made.axes[0]
        rows = materialised(made, (flat_axis, width))
        return _unflattened(rows, tokens, width)
    matrix = layer
    if matrix is None:
        if table.term is None or not table.term.is_param:
            raise site.refuse("its table is computed", "read a parameter")
        matrix = terms.transposed(table.term)
    assert tokens.term is not None
    new = axis_of(site.sizes[-1])
    return Value(_looked_up(site, matrix, tokens.term, count), (*tokens.stored, new), (*tokens.axes, new))


def _unflattened(rows: Value, tokens: Value, width: tuple[object, ...]) -> Value:
    """Rows, one for each token, in the shape of the tokens."""
    return Value(
        rows.term, (flat(tokens.stored), rows.stored[1]), (*tokens.axes, rows.axes[1]), rows.constant
    )


def _looked_up(site: Site, matrix: Term, tokens: Term, count: int) -> Term:
    """The table applied to the whole input, and of that the part that is read."""
    if tokens.form is Form.NAME and tokens.declaration is not None:
        known = site.vocabularies.setdefault(tokens.declaration, count)
        if known != count:
            raise site.refuse(
                f"its input is read by tables of {known} and of {count} vectors", "give the module two inputs"
            )
        return terms.times(matrix, tokens)
    if tokens.form is Form.INDEX:
        inner = _looked_up(site, matrix, tokens.operands[0], count)
        return Term(Form.INDEX, f"{tokens.text}, :", (inner,))
    raise site.refuse("its tokens are computed, and not an input or a part of one")


RULES: dict[str, Rule] = {
    "aten.layer_norm.default": layer_norm,
    "aten.rms_norm.default": rms_norm,
    "aten.batch_norm.default": batch_norm,
    "aten._native_batch_norm_legit_no_training.default": lambda site, x, w, b, m, v, momentum, eps: (
        batch_norm(site, x, w, b, m, v, False, momentum, eps),
    ),
    "aten.group_norm.default": group_norm,
    "aten.instance_norm.default": instance_norm,
    "aten.prelu.default": prelu,
    "aten.embedding.default": embedding,
}
