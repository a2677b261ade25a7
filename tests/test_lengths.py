"""Sequences with a length of their own in each sample: what packed sequences of PyTorch give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comparing import random, same
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import implicit_dsl
from implicit_dsl.errors import ImplicitError

LENGTHS = ([5, 1, 3], [2, 0, 5], [0, 0, 0], [1, 1, 1])


LSTM = """
block LSTM(n)
    input u[_, _], k[] in 0:size(u, 1)
    recurrent x over u[1:k, :]
        state h[n] = 0, c[n] = 0
        a = Dense(4*n)*x + Dense(4*n)*prev(h)
        c ~ σ(a[n+1:2*n]) .* prev(c) + σ(a[1:n]) .* tanh(a[2*n+1:3*n])
        h ~ σ(a[3*n+1:4*n]) .* tanh(c)
    end
    output y = h, hn = last(h), cn = last(c)
end
model M(n = 4, p = 3)
    input u[_, p], k[] in 0:size(u, 1)
    layer forward = LSTM(n), backward = LSTM(n)
    f = forward(u, k)
    b = backward(reverse(u[1:k, :]), k)
    output y = cat(f.y, reverse(b.y[1:k, :]); dim = 2),
           hn = cat(f.hn, b.hn; dim = 1),
           cn = cat(f.cn, b.cn; dim = 1)
end
"""


def twin_of(model: Any) -> nn.LSTM:
    twin = nn.LSTM(3, 4, batch_first=True, bidirectional=True).double()
    state = model.state_dict()
    keys = list(state)
    names = [key for way in ("forward", "backward") for key in keys if key.startswith(way)]
    groups = [names[:4], names[4:]]
    with torch.no_grad():
        for way, group in zip(("", "_reverse"), groups):
            for key in group:
                of_input = state[key.rpartition(".")[0] + ".weight"].shape[1] == 3
                kind = key.rpartition(".")[2]
                getattr(twin, f"{kind}_{'ih' if of_input else 'hh'}_l0{way}").copy_(state[key])
    return twin


@pytest.mark.parametrize("standalone", [False, True], ids=["imports", "standalone"])
def test_both_directions_are_those_of_packed_sequences(standalone: bool) -> None:
    model = implicit_dsl.loads(LSTM, standalone=standalone).M(dtype=torch.float64)
    twin = twin_of(model)
    u, k = random(3, 5, 3).requires_grad_(), torch.tensor([2, 5, 3])

    packed = pack_padded_sequence(u, k, batch_first=True, enforce_sorted=False)
    y, (h, c) = twin(packed)
    wanted = (
        pad_packed_sequence(y, batch_first=True, total_length=5)[0],
        torch.cat(list(h), 1),
        torch.cat(list(c), 1),
    )
    made = model(u, k)

    same(made, wanted)
    g = random(3, 5, 8)
    same(torch.autograd.grad(made.y, u, g), torch.autograd.grad(wanted[0], u, g))


ALL = """
model M(n = 4, p = 3)
    input u[_, p], k[] in 0:size(u, 1), h0[n]
    param W[n, n], V[n, n], U[n, p]
    recurrent x over u[1:k, :]
        state h[n] = h0, c[n] = 0.5, d[n] = [1, 2, 3, 4]
        a = relu(U*x)
        h ~ tanh(W*prev(h) + a)
        c ~ 0.5*prev(c) + tanh(h)
        d ~ prev(d) - 0.1*c
    end
    recurrent x over h, w over d
        state g[n] = 0
        g ~ tanh(V*prev(g, 2) + x + w)
    end
    output y = h, z = last(h), cn = last(c), dn = last(d), an = last(a), b = last(reverse(h)),
           e = last(u[1:k, :]), q = g, r = last(g)
end
"""


def by_hand(m: Any, u: Tensor, k: Tensor, h0: Tensor) -> tuple[Tensor, ...]:
    """Sample by sample, each as long as it is."""
    rows = []
    for sample, length, start in zip(u, k.tolist(), h0):
        h, c, d = start, torch.full_like(start, 0.5), torch.arange(1.0, 5.0, dtype=u.dtype)
        a, e, hs, gs = torch.zeros_like(start), torch.zeros(3).double(), [], [torch.zeros_like(start)] * 2
        for x in sample[:length]:
            a, e = torch.relu(m.U @ x), x
            h = torch.tanh(m.W @ h + a)
            c = 0.5 * c + torch.tanh(h)
            d = d - 0.1 * c
            hs.append(h)
            gs.append(torch.tanh(m.V @ gs[-2] + h + d))
        zeros = [torch.zeros_like(start)] * (len(sample) - length)
        b = hs[0] if hs else torch.zeros_like(start)
        rows.append((torch.stack(hs + zeros), h, c, d, a, b, e, torch.stack(gs[2:] + zeros), gs[-1]))
    return tuple(torch.stack(column) for column in zip(*rows))


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_each_sample_ends_at_its_length(lengths: list[int]) -> None:
    model = implicit_dsl.loads(ALL).M(dtype=torch.float64)
    given = random(3, 5, 3), torch.tensor(lengths), random(3, 4)

    same(model(*given), by_hand(model, *given))
    same(model(*given), model.system(u=(5, 3)).solve(*given))


def test_the_padding_is_never_seen() -> None:
    model = implicit_dsl.loads(ALL).M(dtype=torch.float64)
    u, k, h0 = random(3, 5, 3), torch.tensor([5, 0, 3]), random(3, 4)
    other = u.clone()
    other[1], other[2, 3:] = torch.nan, torch.inf
    other.requires_grad_()

    made = model(other, k, h0)

    same(made, model(u, k, h0))
    for one in made:
        (grad,) = torch.autograd.grad(one.sum(), other, retain_graph=True, allow_unused=True)
        assert grad.isfinite().all() and not grad[1].any() and not grad[2, 3:].any()


def test_gradients() -> None:
    model = implicit_dsl.loads(ALL).M(dtype=torch.float64)
    k = torch.tensor([3, 0, 2])
    given = random(3, 3, 3).requires_grad_(), random(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda u, h0: tuple(model(u, k, h0)), given)


def test_a_length_may_be_a_real_number_and_one_of_the_model() -> None:
    text = """
model M
    input u[6, 3], k[]
    output y = u[1:k, :], z = last(u[1:k, :])
end
"""
    model = implicit_dsl.loads(text).M()
    u, k = torch.randn(2, 6, 3), torch.tensor([2.0, 6.0])
    made = model(u, k)
    assert torch.equal(made.y[0, :2], u[0, :2]) and not made.y[0, 2:].any() and torch.equal(made.y[1], u[1])
    assert torch.equal(made.z, torch.stack([u[0, 1], u[1, 5]]))


def test_wrong_lengths_are_said() -> None:
    model = implicit_dsl.loads(ALL).M(dtype=torch.float64)
    with pytest.raises(ValueError, match="a sequence of 5 steps cannot have the length 6"):
        model(random(3, 5, 3), torch.tensor([5, 6, 1]), random(3, 4))
    with pytest.raises(ValueError, match="cannot have the length -1"):
        model(random(3, 5, 3), torch.tensor([5, -1, 1]), random(3, 4))
    with pytest.raises(ValueError, match="of int64 or int32"):
        model(random(3, 5, 3), torch.tensor([5.0, 1, 1]), random(3, 4))


def test_graphs_are_whole_and_transforms_apply() -> None:
    model = implicit_dsl.loads(LSTM).M(dtype=torch.float64)
    u, k = random(3, 5, 3), torch.tensor([2, 5, 3])
    wanted = model(u, k)

    same(torch.compile(model, fullgraph=True, backend="aot_eager")(u, k), wanted)
    exported = torch.export.export(model, (u, k))
    same(tuple(exported.module()(u, k)), tuple(wanted))
    each = torch.func.vmap(lambda u, k: tuple(model(u[None], k[None])))(u, k)
    same(tuple(one[:, 0] for one in each), tuple(wanted))


WRONG = [
    ("recurrent x over u[2:k, :]", "E0205 a length is the end of a range"),
    ("recurrent x over u[1:k, 1:2]", "E0205 a length is the end of a range"),
    ("recurrent x over u[1:2:k, :]", "E0205 a length is the end of a range"),
    ("recurrent x over u[1:v, :]", "E0205 a length is one number"),
    ("recurrent x over u[1:k, :], w over u", "E0602 the sequences do not end together"),
]


@pytest.mark.parametrize(("line", "message"), WRONG)
def test_what_is_wrong_is_told(line: str, message: str) -> None:
    text = f"""
model M
    input u[5, 3], k[] in 0:5, v[5]
    {line}
        h = tanh(x)
    end
    output y = last(h)
    @allow unused_input
end
"""
    with pytest.raises(ImplicitError) as caught:
        implicit_dsl.compile(text)
    first = caught.value.diagnostics[0]
    assert f"{first.code} {first.message}".startswith(message)
