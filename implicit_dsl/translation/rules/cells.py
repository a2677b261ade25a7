"""One step of a recurrent network: nn.LSTMCell, nn.GRUCell and nn.RNNCell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from implicit_dsl.translation import terms
from implicit_dsl.translation.joining import ranged
from implicit_dsl.translation.rules.linear import linear
from implicit_dsl.translation.site import Result, Rule, Site
from implicit_dsl.translation.terms import Term
from implicit_dsl.translation.values import Misfit, Value, length


def lstm_cell(
    site: Site,
    x: Value,
    states: Sequence[Value],
    input_weight: Value,
    weight: Value,
    input_bias: Value | None = None,
    bias: Value | None = None,
) -> Result:
    h, c = states
    gates = _sum(site, linear(site, x, input_weight, input_bias), linear(site, h, weight, bias))
    i, f, g, o = _parts(gates, 4)
    after = _each(
        site,
        lambda f, c, i, g: terms.add(
            terms.multiply(_sigmoid(f), c), terms.multiply(_sigmoid(i), terms.call("tanh", g))
        ),
        f,
        c,
        i,
        g,
    )
    return _each(site, lambda o, c: terms.multiply(_sigmoid(o), terms.call("tanh", c)), o, after), after


def gru_cell(
    site: Site,
    x: Value,
    h: Value,
    input_weight: Value,
    weight: Value,
    input_bias: Value | None = None,
    bias: Value | None = None,
) -> Value:
    ours = _parts(linear(site, x, input_weight, input_bias), 3)
    theirs = _parts(linear(site, h, weight, bias), 3)
    reset, update = (
        _each(site, lambda a, b: _sigmoid(terms.add(a, b)), a, b) for a, b in zip(ours[:2], theirs[:2])
    )
    new = _each(
        site,
        lambda a, r, b: terms.call("tanh", terms.add(a, terms.multiply(r, b))),
        ours[2],
        reset,
        theirs[2],
    )
    return _each(
        site,
        lambda z, n, h: terms.add(
            terms.multiply(terms.subtract(terms.number(1), z), n), terms.multiply(z, h)
        ),
        update,
        new,
        h,
    )


def rnn_cell(act: str) -> Rule:
    def rule(
        site: Site,
        x: Value,
        h: Value,
        input_weight: Value,
        weight: Value,
        input_bias: Value | None = None,
        bias: Value | None = None,
    ) -> Value:
        both = _sum(site, linear(site, x, input_weight, input_bias), linear(site, h, weight, bias))
        return _each(site, partial(terms.call, act), both)

    return rule


def _sigmoid(x: Term) -> Term:
    return terms.call("sigmoid", x)


def _sum(site: Site, a: Value, b: Value) -> Value:
    return _each(site, terms.add, a, b)


def _parts(x: Value, count: int) -> list[Value]:
    """The last axis in equal parts."""
    dim = len(x.axes) - 1
    width = length(x.axes[dim]) // count
    return [ranged(x, dim, at * width, (at + 1) * width) for at in range(count)]


def _each(site: Site, make: Callable[..., Term], *values: Value) -> Value:
    return site.each(make, *values, fold=_known)


def _known(*_: object) -> torch.Tensor:
    raise Misfit("it is a step of known numbers alone")


RULES: dict[str, Rule] = {
    "aten.lstm_cell.default": lstm_cell,
    "aten.gru_cell.default": gru_cell,
    "aten.rnn_tanh_cell.default": rnn_cell("tanh"),
    "aten.rnn_relu_cell.default": rnn_cell("relu"),
}
