"""Activations and arithmetic, entry by entry."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from implicit_dsl.translation import terms
from implicit_dsl.translation.scores import masked, scaled
from implicit_dsl.translation.site import Rule, Site, known
from implicit_dsl.translation.terms import Term
from implicit_dsl.translation.values import Value


def _function(function: str) -> Rule:
    """An activation of the language without settings."""

    def rule(site: Site, x: Value) -> Value:
        return _unary(site, x, partial(terms.call, function))

    return rule


def _unary(site: Site, x: Value, make: Callable[[Term], Term], *settings: object, **named: object) -> Value:
    return site.each(make, x, fold=lambda one: site.operator(one, *settings, **named))


def _setting(function: str, **settings: float) -> Callable[[Term], Term]:
    """An activation with settings, each written if it is not that of the language."""
    written = ", ".join(f"{key} = {terms.number(value).text}" for key, value in settings.items())
    return lambda x: terms.call(function, x, settings=written)


def leaky_relu(site: Site, x: Value, slope: float) -> Value:
    return _unary(site, x, _setting("leaky_relu", slope=slope), slope)


def rrelu(site: Site, x: Value, lower: float, upper: float, training: bool, generator: object) -> Value:
    slope = (lower + upper) / 2  # in evaluation
    return _unary(site, x, _setting("leaky_relu", slope=slope), lower, upper, False)


def gelu(site: Site, x: Value, approximate: str) -> Value:
    settings = "" if approximate == "none" else "approximate = true"
    return _unary(site, x, lambda z: terms.call("gelu", z, settings=settings), approximate=approximate)


def softplus(site: Site, x: Value, beta: float, threshold: float) -> Value:
    """log(1 + exp(βx)) ÷ β; above the threshold PyTorch takes βx, which differs by exp(−βx)."""
    if threshold != 20:
        raise site.refuse(f"its threshold is {threshold}, and that of the language 20")
    return _unary(
        site, x, lambda z: terms.scaled(1 / beta, terms.call("softplus", terms.scaled(beta, z))), beta
    )


def elu(site: Site, x: Value, alpha: float, scale: float, input_scale: float) -> Value:
    if input_scale != 1:
        raise site.refuse("it scales the input of one side")
    make = _setting("elu", **({"alpha": alpha} if alpha != 1 else {}))
    return _unary(site, x, lambda z: terms.scaled(scale, make(z)), alpha, scale)


def celu(site: Site, x: Value, alpha: float) -> Value:
    """max(x, 0) + min(0, α(exp(x ÷ α) − 1)) = α·elu(x ÷ α)."""
    return _unary(
        site, x, lambda z: terms.scaled(alpha, terms.call("elu", terms.scaled(1 / alpha, z))), alpha
    )


def hardtanh(site: Site, x: Value, low: float, high: float) -> Value:
    plain = (low, high) == (-1, 1)
    make = partial(terms.call, "hardtanh") if plain else _setting("hardtanh", low=low, high=high)
    return _unary(site, x, make, low, high)


def softshrink(site: Site, x: Value, amount: float) -> Value:
    return _unary(site, x, _setting("softshrink", **{"lambda": amount}), amount)


def log_sigmoid(site: Site, x: Value) -> Value:
    return _unary(site, x, lambda z: terms.minus(terms.call("softplus", terms.minus(z))))


def threshold(site: Site, x: Value, limit: float, value: float) -> Value:
    if limit != 0 or value != 0:
        raise site.refuse("it jumps at its threshold, and the activations of the language are continuous")
    return _unary(site, x, partial(terms.call, "relu"), limit, value)


def clamp(site: Site, x: Value, low: float | None = None, high: float | None = None) -> Value:
    def make(z: Term) -> Term:
        above = z if low is None else terms.call("max", z, terms.number(low))
        return above if high is None else terms.call("min", above, terms.number(high))

    return _unary(site, x, make, low, high)


def clamp_max(site: Site, x: Value, high: float) -> Value:
    return site.each(partial(terms.call, "min"), x, high)


def clamp_min(site: Site, x: Value, low: float) -> Value:
    return site.each(partial(terms.call, "max"), x, low)


def add(site: Site, a: Value, b: Value | float, alpha: float = 1) -> Value:
    noted = masked(a, b) if alpha == 1 else None
    if noted is not None:
        return noted
    return site.each(lambda x, y: terms.add(x, terms.scaled(alpha, y)), a, b, fold=lambda x, y: x + alpha * y)


def sub(site: Site, a: Value, b: Value | float, alpha: float = 1) -> Value:
    return site.each(
        lambda x, y: terms.subtract(x, terms.scaled(alpha, y)), a, b, fold=lambda x, y: x - alpha * y
    )


def rsub(site: Site, a: Value, b: Value | float, alpha: float = 1) -> Value:
    return sub(site, b if isinstance(b, Value) else known(b), a, alpha)


def mul(site: Site, a: Value, b: Value | float) -> Value:
    return scaled(site.each(terms.multiply, a, b), a, b)


def div(site: Site, a: Value, b: Value | float) -> Value:
    made = site.each(terms.divide, a, b)
    other = b if not isinstance(b, Value) else b.number if b.uniform else None
    return made if other is None or other == 0 else scaled(made, a, 1 / other)


def divided(site: Site, a: Value, b: Value | float, rounding_mode: str | None) -> Value:
    if rounding_mode is not None:
        raise site.refuse("it rounds, and what is rounded has no gradient")
    return div(site, a, b)


def lerp(site: Site, a: Value, b: Value, weight: Value | float) -> Value:
    """a + weight · (b − a)."""
    return site.each(
        lambda x, y, w: terms.add(x, terms.multiply(w, terms.subtract(y, x))),
        a,
        b,
        weight,
        fold=lambda x, y, w: x + w * (y - x),
    )


def power(site: Site, a: Value, exponent: float | Value) -> Value:
    if isinstance(exponent, Value) and not exponent.uniform:
        raise site.refuse("the exponent is not one number", "write it as exp(b * log(a)), for a positive a")
    number = exponent.number if isinstance(exponent, Value) else exponent
    if number == 0.5:
        return _unary(site, a, partial(terms.call, "sqrt"), number)
    return _unary(site, a, lambda z: terms.power(z, terms.number(number)), number)


def exponential(site: Site, base: float, exponent: Value) -> Value:
    if base <= 0:
        raise site.refuse(f"its base {base} is not positive")
    return site.each(terms.power, base, exponent)


def _composed(make: Callable[[Term], Term]) -> Rule:
    return lambda site, x: _unary(site, x, make)


def _inverse(term: Term) -> Term:
    return terms.divide(terms.number(1), term)


def _hyperbolic(sign: int) -> Callable[[Term], Term]:
    def make(z: Term) -> Term:
        plus, minus = terms.call("exp", z), terms.call("exp", terms.minus(z))
        both = terms.add(plus, minus) if sign > 0 else terms.subtract(plus, minus)
        return terms.scaled(0.5, both)

    return make


def _identity(site: Site, x: Value, *_: object, **__: object) -> Value:
    return x


def dropout(site: Site, x: Value, p: float, train: bool) -> Value:
    return _dropped(site, x, f"Dropout({terms.number(p).text})", p, train)


def feature_dropout(site: Site, x: Value, p: float, train: bool) -> Value:
    return _dropped(site, x, f"Dropout({terms.number(p).text}; channels = true)", p, train)


def _dropped(site: Site, x: Value, layer: str, p: float, train: bool) -> Value:
    if train:
        raise site.refuse(
            "it is random in evaluation as well", "give it `training=self.training`, or leave it out"
        )
    if p == 0 or x.folded:
        return x
    made = site.each(partial(terms.call, layer), x)
    return replace(made, scores=x.scores)


def where(site: Site, condition: Value, a: Value | float, b: Value | float) -> Value:
    """a where a condition holds that is known or a mask of the inputs, and b elsewhere."""
    yes, no = condition, negation(site, condition)
    if condition.folded and condition.constant is not None:
        yes = replace(condition, constant=condition.constant.double())
    return site.each(
        lambda m, n, x, y: terms.add(terms.multiply(m, x), terms.multiply(n, y)),
        yes,
        no,
        a,
        b,
        fold=lambda m, n, x, y: x.where(m.bool(), y),
    )


_NO_CHOICE = "write it with max, min and abs, or with a product by a mask that is an input of real numbers"


def compared(site: Site, a: Value, b: Value | float) -> Value:
    """Of known numbers alone; those of buffers are known as well."""
    taken = [one if isinstance(one, Value) else known(one) for one in (a, b)]
    if any(one.constant is None for one in taken):
        raise site.refuse("it compares values that depend on the inputs", _NO_CHOICE)
    return site.each(terms.add, *(replace(one, term=None) for one in taken))


def negation(site: Site, x: Value) -> Value:
    """Of a boolean that is an input, 1 − x."""
    return site.each(lambda z: terms.subtract(terms.number(1), z), x, fold=lambda z: 1 - z.double())


RULES: dict[str, Rule] = {
    **{
        f"aten.{operator}.default": _function(function)
        for operator, function in {
            "relu": "relu",
            "tanh": "tanh",
            "sigmoid": "sigmoid",
            "silu": "silu",
            "relu6": "relu6",
            "hardswish": "hardswish",
            "hardsigmoid": "hardsigmoid",
            "mish": "mish",
            "selu": "selu",
            "abs": "abs",
            "exp": "exp",
            "log": "log",
            "sin": "sin",
            "cos": "cos",
            "sqrt": "sqrt",
        }.items()
    },
    "aten.leaky_relu.default": leaky_relu,
    "aten.rrelu.default": rrelu,
    "aten.gelu.default": gelu,
    "aten.softplus.default": softplus,
    "aten.elu.default": elu,
    "aten.celu.default": celu,
    "aten.hardtanh.default": hardtanh,
    "aten.softshrink.default": softshrink,
    "aten.log_sigmoid.default": log_sigmoid,
    "aten.threshold.default": threshold,
    "aten.clamp.default": clamp,
    "aten.clip.default": clamp,
    "aten.clamp_min.default": clamp_min,
    "aten.clamp_max.default": clamp_max,
    "aten.maximum.default": lambda site, a, b: site.each(partial(terms.call, "max"), a, b),
    "aten.minimum.default": lambda site, a, b: site.each(partial(terms.call, "min"), a, b),
    "aten.max.other": lambda site, a, b: site.each(partial(terms.call, "max"), a, b),
    "aten.min.other": lambda site, a, b: site.each(partial(terms.call, "min"), a, b),
    "aten.add.Tensor": add,
    "aten.add.Scalar": add,
    "aten.sub.Tensor": sub,
    "aten.sub.Scalar": sub,
    "aten.subtract.Tensor": sub,
    "aten.rsub.Tensor": rsub,
    "aten.rsub.Scalar": rsub,
    "aten.mul.Scalar": mul,
    "aten.multiply.Tensor": mul,
    "aten.div.Tensor": div,
    "aten.div.Scalar": div,
    "aten.true_divide.Tensor": div,
    "aten.div.Tensor_mode": divided,
    "aten.lerp.Scalar": lerp,
    "aten.lerp.Tensor": lerp,
    "aten.neg.default": _composed(terms.minus),
    "aten.square.default": _composed(lambda z: terms.power(z, terms.number(2))),
    "aten.reciprocal.default": _composed(_inverse),
    "aten.rsqrt.default": _composed(lambda z: _inverse(terms.call("sqrt", z))),
    "aten.exp2.default": _composed(lambda z: terms.power(terms.number(2), z)),
    "aten.expm1.default": _composed(lambda z: terms.subtract(terms.call("exp", z), terms.number(1))),
    "aten.log1p.default": _composed(lambda z: terms.call("log", terms.add(z, terms.number(1)))),
    "aten.log2.default": _composed(lambda z: terms.scaled(1 / math.log(2), terms.call("log", z))),
    "aten.log10.default": _composed(lambda z: terms.scaled(1 / math.log(10), terms.call("log", z))),
    "aten.tan.default": _composed(lambda z: terms.divide(terms.call("sin", z), terms.call("cos", z))),
    "aten.cosh.default": _composed(_hyperbolic(1)),
    "aten.sinh.default": _composed(_hyperbolic(-1)),
    "aten.pow.Tensor_Scalar": power,
    "aten.pow.Tensor_Tensor": power,
    "aten.pow.Scalar": exponential,
    "aten.dropout.default": dropout,
    "aten.feature_dropout.default": feature_dropout,
    "aten.alpha_dropout.default": lambda site, x, p, train: _dropped(site, x, "", 0, train),
    "aten.feature_alpha_dropout.default": lambda site, x, p, train: _dropped(site, x, "", 0, train),
    "aten.logical_not.default": negation,
    "aten.bitwise_not.default": negation,
    "aten.logical_and.default": lambda site, a, b: site.each(terms.multiply, a, b),
    "aten.bitwise_and.Tensor": lambda site, a, b: site.each(terms.multiply, a, b),
    "aten.logical_or.default": lambda site, a, b: site.each(partial(terms.call, "max"), a, b),
    "aten.bitwise_or.Tensor": lambda site, a, b: site.each(partial(terms.call, "max"), a, b),
    "aten.where.self": where,
    "aten.where.ScalarSelf": where,
    "aten.where.ScalarOther": where,
    "aten.where.Scalar": where,
    **{
        f"aten.{operator}.{kind}": compared
        for operator in ("eq", "ne", "lt", "le", "gt", "ge")
        for kind in ("Scalar", "Tensor")
    },
    **{
        f"aten.{operator}.default": _identity
        for operator in ("clone", "contiguous", "alias", "lift_fresh_copy", "positive", "lift_fresh")
    },
}
