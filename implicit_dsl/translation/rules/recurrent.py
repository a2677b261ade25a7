"""LSTM, GRU and Elman networks: several layers, one direction or two, as instances of a block."""

from __future__ import annotations

from collections.abc import Sequence

from implicit_dsl.translation import terms
from implicit_dsl.translation.joining import axis_of_size, joined, selected
from implicit_dsl.translation.rules.elementwise import dropout
from implicit_dsl.translation.site import Result, Rule, Site
from implicit_dsl.translation.terms import Term
from implicit_dsl.translation.values import (
    BATCH,
    MIXES,
    Axis,
    Value,
    length,
    materialised,
    network_term,
    seen,
)

_LSTM = '''\
"""One direction of one layer of nn.LSTM (Hochreiter and Schmidhuber 1997)."""
block LSTM(n; bias = true, started = false)
    input u[_, _]
    if started
        input h0[n], c0[n]
    end
    param weight_ih[4*n, size(u, 2)] = uniform(1 / sqrt(n)), weight_hh[4*n, n] = uniform(1 / sqrt(n))
    if bias
        param bias_ih[4*n] = uniform(1 / sqrt(n)), bias_hh[4*n] = uniform(1 / sqrt(n))
    end
    recurrent x over u
        state h[n] = ifelse(started, h0, 0), c[n] = ifelse(started, c0, 0)
        if bias
            a = weight_ih*x + bias_ih + weight_hh*prev(h) + bias_hh
        else
            a = weight_ih*x + weight_hh*prev(h)
        end
        c ~ σ(a[n+1:2*n]) .* prev(c) + σ(a[1:n]) .* tanh(a[2*n+1:3*n])
        h ~ σ(a[3*n+1:4*n]) .* tanh(c)
    end
    output y = h, hn = last(h), cn = last(c)
end
'''

_PROJECTED = '''\
"""One direction of one layer of nn.LSTM whose output is projected (Sak, Senior and Beaufays 2014)."""
block ProjectedLSTM(n, m; bias = true, started = false)
    input u[_, _]
    if started
        input h0[m], c0[n]
    end
    param weight_ih[4*n, size(u, 2)] = uniform(1 / sqrt(n)), weight_hh[4*n, m] = uniform(1 / sqrt(n))
    param weight_hr[m, n] = uniform(1 / sqrt(n))
    if bias
        param bias_ih[4*n] = uniform(1 / sqrt(n)), bias_hh[4*n] = uniform(1 / sqrt(n))
    end
    recurrent x over u
        state h[m] = ifelse(started, h0, 0), c[n] = ifelse(started, c0, 0)
        if bias
            a = weight_ih*x + bias_ih + weight_hh*prev(h) + bias_hh
        else
            a = weight_ih*x + weight_hh*prev(h)
        end
        c ~ σ(a[n+1:2*n]) .* prev(c) + σ(a[1:n]) .* tanh(a[2*n+1:3*n])
        h ~ weight_hr * (σ(a[3*n+1:4*n]) .* tanh(c))
    end
    output y = h, hn = last(h), cn = last(c)
end
'''

_GRU = '''\
"""One direction of one layer of nn.GRU (Cho et al. 2014)."""
block GRU(n; bias = true, started = false)
    input u[_, _]
    if started
        input h0[n]
    end
    param weight_ih[3*n, size(u, 2)] = uniform(1 / sqrt(n)), weight_hh[3*n, n] = uniform(1 / sqrt(n))
    if bias
        param bias_ih[3*n] = uniform(1 / sqrt(n)), bias_hh[3*n] = uniform(1 / sqrt(n))
    end
    recurrent x over u
        state h[n] = ifelse(started, h0, 0)
        if bias
            a = weight_ih*x + bias_ih
            g = weight_hh*prev(h) + bias_hh
        else
            a = weight_ih*x
            g = weight_hh*prev(h)
        end
        r = σ(a[1:n] + g[1:n])
        z = σ(a[n+1:2*n] + g[n+1:2*n])
        m = tanh(a[2*n+1:3*n] + r .* g[2*n+1:3*n])
        h ~ (1 - z) .* m + z .* prev(h)
    end
    output y = h, hn = last(h)
end
'''

_ELMAN = '''\
"""One direction of one layer of nn.RNN (Elman 1990)."""
block RNN(n; act = tanh, bias = true, started = false)
    input u[_, _]
    if started
        input h0[n]
    end
    param weight_ih[n, size(u, 2)] = uniform(1 / sqrt(n)), weight_hh[n, n] = uniform(1 / sqrt(n))
    if bias
        param bias_ih[n] = uniform(1 / sqrt(n)), bias_hh[n] = uniform(1 / sqrt(n))
    end
    recurrent x over u
        state h[n] = ifelse(started, h0, 0)
        if bias
            h ~ act(weight_ih*x + bias_ih + weight_hh*prev(h) + bias_hh)
        else
            h ~ act(weight_ih*x + weight_hh*prev(h))
        end
    end
    output y = h, hn = last(h)
end
'''


def lstm(
    site: Site,
    x: Value,
    start: Sequence[Value],
    weights: Sequence[Value],
    biases: bool,
    layers: int,
    p: float,
    train: bool,
    both_ways: bool,
    batch_first: bool,
) -> Result:
    return _stacked(site, _Cell("LSTM", _LSTM), x, start, weights, biases, layers, p, both_ways, batch_first)


def gru(
    site: Site,
    x: Value,
    start: Value,
    weights: Sequence[Value],
    biases: bool,
    layers: int,
    p: float,
    train: bool,
    both_ways: bool,
    batch_first: bool,
) -> Result:
    return _stacked(site, _Cell("GRU", _GRU), x, [start], weights, biases, layers, p, both_ways, batch_first)


def rnn(act: str) -> Rule:
    def rule(
        site: Site,
        x: Value,
        start: Value,
        weights: Sequence[Value],
        biases: bool,
        layers: int,
        p: float,
        train: bool,
        both_ways: bool,
        batch_first: bool,
    ) -> Result:
        cell = _Cell("RNN", _ELMAN, act)
        return _stacked(site, cell, x, [start], weights, biases, layers, p, both_ways, batch_first)

    return rule


class _Cell:
    """A block, and the settings of its instances."""

    def __init__(self, name: str, text: str, act: str = "tanh") -> None:
        self.name, self.text, self.act = name, text, act


def _stacked(
    site: Site,
    cell: _Cell,
    x: Value,
    start: Sequence[Value],
    weights: Sequence[Value],
    biases: bool,
    layers: int,
    p: float,
    both_ways: bool,
    batch_first: bool,
) -> Result:
    """Layers upon each other: all steps, and behind the last step each state [layers · directions, …]."""
    steps, features = (x.axes[1], x.axes[2]) if batch_first else (x.axes[0], x.axes[2])
    if BATCH in steps or BATCH in features:
        raise MIXES
    ways = 2 if both_ways else 1
    each = len(weights) // (layers * ways)
    lasts: list[list[Value]] = []
    for layer in range(layers):
        made = []
        for way in range(ways):
            at = layer * ways + way
            own = weights[at * each : (at + 1) * each]
            begin = [selected(one, 0, at) for one in start]
            ahead, ends = _direction(site, cell, x, begin, own, biases, bool(way), batch_first)
            made.append(ahead)
            lasts.append(ends)
        x = joined(made, 2)
        if p and layer < layers - 1:
            x = dropout(site, x, p, False)
    return x, *(_stack([one[at] for one in lasts]) for at in range(len(start)))


def _stack(values: Sequence[Value]) -> Value:
    made = joined([seen(one, ((), *one.axes)) for one in values], 0)
    return Value(made.term, made.stored, made.axes, parts=tuple(values))


def _direction(
    site: Site,
    cell: _Cell,
    x: Value,
    start: Sequence[Value],
    weights: Sequence[Value],
    biases: bool,
    back: bool,
    batch_first: bool,
) -> tuple[Value, list[Value]]:
    """One layer in one direction: all steps, and its states behind the last one."""
    roles = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if biases else [])]
    projected = len(weights) > len(roles)
    keys = [one.parameter for one in weights]
    if any(key is None for key in keys):
        raise site.refuse("its weights are computed", "remove parametrizations before translating")
    width = length(weights[1].axes[1])
    if projected:
        cell = _Cell("ProjectedLSTM", _PROJECTED)
        roles.append("weight_hr")
    inner = length(weights[-1].axes[1]) if projected else width
    settings = [] if cell.act == "tanh" else [f"act = {cell.act}"]
    settings += [] if biases else ["bias = false"]
    begins = not all(one.uniform and one.number == 0 for one in start)
    settings += ["started = true"] if begins else []
    said = ", ".join([str(inner), *([str(width)] if projected else [])])
    text = f"{cell.name}({said}{'; ' + ', '.join(settings) if settings else ''})"
    held = dict(zip(roles, map(str, keys)))
    instance = site.declaring.block(cell.text, text, _called(str(keys[0]), cell.name), held)
    return _run(instance, x, start if begins else (), len(start), width, inner, back, batch_first)


def _called(key: str, cell: str) -> str:
    """`encoder.weight_ih_l1_reverse` is a weight of `encoder_l1_reverse`."""
    owner, _, last = key.rpartition(".")
    rest = last.removeprefix("weight_ih").strip("_")
    return "_".join(filter(None, (owner or cell.lower(), rest)))


def _run(
    instance: Term,
    x: Value,
    start: Sequence[Value],
    states: int,
    width: int,
    inner: int,
    back: bool,
    batch_first: bool,
) -> tuple[Value, list[Value]]:
    steps, features = x.axes[1] if batch_first else x.axes[0], x.axes[2]
    sequence = network_term(materialised(x, (steps, features)))
    begins = [network_term(materialised(one, (one.axes[-1],))) for one in start]
    called = terms.apply(instance, terms.call("reverse", sequence) if back else sequence, *begins)
    every = terms.field(called, "y")
    new: Axis = axis_of_size(width)
    axes = ((BATCH,), steps, new) if batch_first else (steps, (BATCH,), new)
    ahead = Value(terms.call("reverse", every) if back else every, (steps, new), axes)
    ends = []
    for at, size in zip(range(states), (width, inner)):
        own = axis_of_size(size)
        ends.append(Value(terms.field(called, ("hn", "cn")[at]), (own,), ((BATCH,), own)))
    return ahead, ends


RULES: dict[str, Rule] = {
    "aten.lstm.input": lstm,
    "aten.gru.input": gru,
    "aten.rnn_tanh.input": rnn("tanh"),
    "aten.rnn_relu.input": rnn("relu"),
}
