"""`recurrent`: as graph, unrolled matrices and generated code, against cells of PyTorch and loops by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comparing import random, same
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl.errors import ImplicitError

STANDALONE = pytest.mark.parametrize("standalone", [False, True], ids=["imports", "standalone"])
LENGTHS = (5, 1, 2)


ELMAN = """
model M(n = 4, p = 3)
    input u[_, p]
    param W[n, n], U[n, p], b[n] = normal(1.0)
    recurrent x over u
        state h[n] = 0
        h ~ tanh(W*prev(h) + U*x + b)
    end
    output y = h, z = last(h)
end
"""


@STANDALONE
def test_an_elman_network_is_that_of_pytorch(standalone: bool) -> None:
    model = implicit_dsl.loads(ELMAN, standalone=standalone).M(dtype=torch.float64)
    twin = nn.RNN(3, 4, batch_first=True).double()
    twin.load_state_dict(
        {
            "weight_ih_l0": model.U.detach(),
            "weight_hh_l0": model.W.detach(),
            "bias_ih_l0": model.b.detach(),
            "bias_hh_l0": torch.zeros(4),
        }
    )
    for length in LENGTHS:
        u = random(2, length, 3).requires_grad_()
        y, last = twin(u)
        made = model(u)
        same(made, (y, last[0]))
        g = random(*y.shape)
        same(torch.autograd.grad(made.y, u, g), torch.autograd.grad(y, u, g))
        if not standalone:
            same(made, model.system(u=(length, 3)).solve(u))


LSTM = """
model M(n = 4, p = 3)
    input u[_, p], h0[n], c0[n]
    layer I = Dense(4*n), R = Dense(4*n)
    recurrent x over u
        state h[n] = h0, c[n] = c0
        a = I*x + R*prev(h)
        i = σ(a[1:n])
        f = σ(a[n+1:2*n])
        g = tanh(a[2*n+1:3*n])
        o = σ(a[3*n+1:4*n])
        c ~ f .* prev(c) + i .* g
        h ~ o .* tanh(c)
    end
    output y = h, hn = last(h), cn = last(c)
end
"""


def test_a_long_short_term_memory_is_that_of_pytorch_and_gives_back_its_states() -> None:
    model = implicit_dsl.loads(LSTM).M(dtype=torch.float64)
    twin = nn.LSTM(3, 4, batch_first=True).double()
    names = {"weight_ih_l0": "I.weight", "bias_ih_l0": "I.bias", "weight_hh_l0": "R.weight"}
    state = model.state_dict()
    twin.load_state_dict({**{a: state[b] for a, b in names.items()}, "bias_hh_l0": state["R.bias"]})
    for length in LENGTHS:
        u, h, c = random(2, length, 3), random(2, 4), random(2, 4)
        y, (hn, cn) = twin(u, (h[None], c[None]))
        same(model(u, h, c), (y, hn[0], cn[0]))
        same(model(u, h, c), model.system(u=(length, 3)).solve(u, h, c))
    first, *states = model(u, h, c)
    again = torch.cat([first, model(u, *states).y], 1)
    same(again, twin(torch.cat([u, u], 1), (h[None], c[None]))[0])


EVERYTHING = """
model M(n = 4, p = 3)
    input u[_, p], v[size(u, 1), 2], s[n], t[size(u, 1)] in Tokens(7)
    layer In = Dense(n), C = Dense(n; bias = false), E = Embedding(7, n)
    param h0[n] = normal(1.0), W[n, n], V[n, n]
    context = tanh(In * s)
    recurrent x over u, w over v, k over t
        state h[n] = h0, c[n] = s, g[n] = 0.5, d[2] = [1, -2]
        a = relu(Dense(n)*x)
        g ~ tanh(V*prev(g, 2) + a + C*w)
        h ~ tanh(W*prev(h) + 0.5*prev(c) + g + context + E(k))
        c ~ σ(W*h) .* prev(c) + 0.1*h
        d ~ tanh(prev(d, 3) - w)
    end
    recurrent x over reverse(h)
        state b[n] = 0
        b ~ tanh(V*prev(b) + x)
    end
    both = cat(h, reverse(b); dim = 2)
    output y = Dense(2) * both, z = last(c), q = last(both), e = mean(a; dim = 1), r = d, l = last(a)
end
"""


def everything(m: Any, u: Tensor, v: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, ...]:
    context, batch = torch.tanh(m.In(s)), len(u)
    h, c, bs = m.h0.expand(batch, -1), s, []
    gs = [torch.full_like(s, 0.5)] * 2
    ds = [torch.tensor([1.0, -2.0], dtype=u.dtype).expand(batch, -1)] * 3
    hs, as_ = [], []
    for i in range(u.shape[1]):
        as_.append(torch.relu(m.a_dense(u[:, i])))
        gs.append(torch.tanh(gs[-2] @ m.V.T + as_[-1] + m.C(v[:, i])))
        h = torch.tanh(h @ m.W.T + 0.5 * c + gs[-1] + context + m.E(t[:, i]))
        c = torch.sigmoid(h @ m.W.T) * c + 0.1 * h
        ds.append(torch.tanh(ds[-3] - v[:, i]))
        hs.append(h)
    b = torch.zeros_like(s)
    for h in reversed(hs):
        b = torch.tanh(b @ m.V.T + h)
        bs.append(b)
    both = torch.cat([torch.stack(hs, 1), torch.stack(bs[::-1], 1)], 2)
    a = torch.stack(as_, 1)
    return m.y_dense(both), c, both[:, -1], a.mean(1), torch.stack(ds[3:], 1), a[:, -1]


@STANDALONE
def test_lags_starts_tokens_several_sequences_and_both_directions(standalone: bool) -> None:
    model = implicit_dsl.loads(EVERYTHING, standalone=standalone).M(dtype=torch.float64)
    for length in LENGTHS:
        given = (random(2, length, 3), random(2, length, 2), random(2, 4), torch.randint(7, (2, length)))
        same(model(*given), everything(model, *given))
        if not standalone:
            shapes = {"u": (length, 3), "v": (length, 2), "t": (length,)}
            same(model(*given), model.system(**shapes).solve(*given))


def test_no_steps_give_the_start() -> None:
    made = implicit_dsl.loads(EVERYTHING.replace("q = last(both), ", "")).M(dtype=torch.float64)
    s = random(2, 4)
    given = (random(2, 0, 3), random(2, 0, 2), s, torch.zeros(2, 0, dtype=torch.int64))

    found = made(*given)

    assert found.y.shape == (2, 0, 2) and found.r.shape == (2, 0, 2)
    same((found.z, found.l), (s, torch.zeros(2, 4).double()))
    with pytest.raises(ValueError, match="has no steps"):
        made.system(u=(0, 3), v=(0, 2), t=(0,))


BLOCKS = """
block GRU(n)
    input u[_, _]
    p = size(u, 2)
    param Wz[n, p], Wr[n, p], Wh[n, p], Uz[n, n], Ur[n, n], Uh[n, n]
    recurrent x over u
        state h[n] = 0
        z ~ σ(Wz*x + Uz*prev(h))
        r ~ σ(Wr*x + Ur*prev(h))
        ĥ ~ tanh(Wh*x + Uh*(r .* prev(h)))
        h ~ (1 - z) .* prev(h) + z .* ĥ
    end
    output y = h
end
block Cell(n)
    input x[_], h[_]
    output y = tanh(Dense(n)*x + Dense(n)*h)
end
model M(n = 4, p = 3)
    input u[_, p]
    deep = u |> GRU(n) |> GRU(n)
    layer cell = Cell(n), tied = GRU(n)
    recurrent x over tied(deep), w over tied(deep)
        state c[n] = 0, z[1:2][n]
        c ~ cell(x, prev(c))
        z[1] ~ tanh(Dense(n)*c + prev(z[2]))
        for i in 2:2
            z[i] ~ tanh(Dense(n)*z[i - 1] + w)
        end
    end
    output y = last(deep), q = c, r = z[2], s = last(z[1])
end
"""


def test_blocks_within_and_around_and_families() -> None:
    model = implicit_dsl.loads(BLOCKS).M(dtype=torch.float64)
    for length in LENGTHS:
        u = random(2, length, 3)
        same(model(u), model.system(u=(length, 3)).solve(u))
    u = random(2, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: tuple(model(u)), (u,))
    assert not [name for name, parameter in model.named_parameters() if not parameter.requires_grad]


IMAGES = """
model M
    input u[_, 2, 6, 6]
    layer K = Conv(2 => 3, 3; pad = 1), R = Conv(3 => 3, 3; pad = 1, bias = false), N = BatchNorm()
    recurrent x over u
        state h[3, 6, 6] = 0
        h ~ tanh(N(K*x) + R*prev(h))
    end
    output y = last(h), z = mean(h; dim = [3, 4])
end
"""


@pytest.mark.parametrize("training", [False, True])
def test_convolutions_over_time_and_statistics_step_by_step(training: bool) -> None:
    model = implicit_dsl.loads(IMAGES).M(dtype=torch.float64).train(training)
    u = random(2, 4, 2, 6, 6)
    made, count = model(u), int(model.N.num_batches_tracked)
    h, norm = torch.zeros(2, 3, 6, 6).double(), nn.BatchNorm2d(3).double().train(training)
    hs = []
    for x in u.unbind(1):
        h = torch.tanh(norm(model.K(x)) + model.R(h))
        hs.append(h)

    same(made, (h, torch.stack(hs, 1).mean((3, 4))))
    same((model.N.running_mean, model.N.running_var), (norm.running_mean, norm.running_var))
    assert count == (4 if training else 0)
    if not training:
        same(made, model.system(u=(4, 2, 6, 6)).solve(u))


EQUILIBRIA = {
    "equilibrated": (
        "h ~ tanh(W*(h + prev(h)) + U*x + b) / 1.5 - prev(h)",
        "@wellposed norm(W, Inf) <= 1.4\n    @solver(h, picard(tol = 1e-13, maxiter = 2000))",
    ),
    "monotone": (
        "h ~ relu(W*h + U*x + b + 0.3*prev(h))",
        "@wellposed monotone(W; m = 0.2)\n    @solver auto(tol = 1e-12)",
    ),
    "two": (
        "g ~ tanh(0.4*h + V*prev(g) + b)\n        h ~ tanh(W*g + U*x + 0.5*prev(h))",
        "@wellposed norm(W, Inf) <= 0.9\n    @solver auto(tol = 1e-13)",
    ),
}


@pytest.mark.parametrize("name", EQUILIBRIA)
def test_an_equilibrium_in_each_step_is_solved_certified_and_differentiated(name: str) -> None:
    equation, said = EQUILIBRIA[name]
    text = f"""
model M(n = 5, p = 3)
    input u[_, p]
    param W[n, n] = normal(0.3), V[n, n] = normal(0.3), U[n, p], b[n] = normal(1.0)
    recurrent x over u
        state h[n] = 0, g[n] = 0
        {equation}
    end
    output y = h, z = last(h)
    {said}
    @allow unused_parameter
end
""".replace(", g[n] = 0", ", g[n] = 0" if name == "two" else "")
    model = implicit_dsl.loads(text).M(dtype=torch.float64)
    u = random(2, 3, 3).requires_grad_()

    same(model(u), model.system(u=(3, 3)).solve(u), 1e-9)
    assert model.certify(u=(3, 3)).proved
    assert torch.autograd.gradcheck(lambda u: tuple(model(u)), (u,), atol=1e-6)
    assert len(model.stats) == 1


WRONG = [
    (["output y = prev(u)"], "E0602 `prev(u)` outside of `recurrent`"),
    (["recurrent x over 3", "h = x", "end", "output y = h"], "E0601 a `recurrent` runs over a sequence"),
    (["recurrent x over u", "h ~ tanh(prev(h))", "end", "output y = h"], "E0304 the shape of `h` cannot be"),
    (["recurrent x over u", "state h[2] = 0", "h ~ tanh(x + prev(h))", "end", "output y = h"], "E0204"),
    (["recurrent x over u", "h ~ tanh(prev(u))", "end", "output y = h"], "E0602 `prev` takes a name that is"),
    (["recurrent x over u, w over v", "h = x + w", "end", "output y = h"], "E0602 the sequences have"),
    (
        ["recurrent x over u", "state h[3] = x", "h ~ tanh(prev(h))", "end", "output y = h"],
        "E0602 `h` starts from",
    ),
    (["recurrent x over u", "state h[3] = v[1, :]", "h ~ tanh(prev(h))", "end", "output y = h"], "E0205"),
    (["recurrent x over u", "h = tanh(x)", "end", "h = u", "output y = h"], "E0103 `h` is defined twice"),
    (["recurrent x over z", "h = tanh(x)", "end", "z ~ tanh(h)", "output y = z"], "E0"),
    (
        ["recurrent x over u", "state h[3] = 0", "h ~ tanh(prev(h, 0))", "end", "output y = h"],
        "E0205 a lag is",
    ),
    (["recurrent x over u", "input w[2]", "h = x", "end", "output y = h"], "E0309"),
    (["recurrent x over u", "output w = x", "h = x", "end", "output y = h"], "E0"),
]


@pytest.mark.parametrize(("lines", "message"), WRONG)
def test_what_is_wrong_is_said(lines: list[str], message: str) -> None:
    text = (
        "model M\n    input u[_, 3], v[_, 3]\n    @allow unused_input\n    "
        + "\n    ".join(lines)
        + "\nend\n"
    )
    with pytest.raises(ImplicitError) as caught:
        implicit_dsl.compile(text)
    first = caught.value.diagnostics[0]
    assert f"{first.code} {first.message}".startswith(message)


EQUILIBRATED = """
model M(n = 6, p = 3)
    input u[_, p]
    param W[n, n], U[n, p], b[n]
    recurrent x over u
        state h[n] = 0
        h ~ 0.5*tanh(W*(h + prev(h)) + U*x + b)
    end
    output y = last(h)
    @wellposed norm(W, Inf) <= 1.8
end
"""


@pytest.mark.parametrize("equation", ["tanh(W*h + prev(h) + U*x)", "0.5*tanh(W*(h + prev(h)) + U*x)"])
def test_what_is_kept_for_gradients_does_not_grow_with_the_steps_of_a_solver(equation: str) -> None:
    def kept(tolerance: float) -> tuple[int, int]:
        text = EQUILIBRATED.replace("0.5*tanh(W*(h + prev(h)) + U*x + b)", equation).replace(", b[n]", "")
        text = text.replace("1.8", "0.95").replace(
            "    output", f"    @solver picard(tol = {tolerance})\n    output"
        )
        torch.manual_seed(0)
        model = implicit_dsl.loads(text).M(dtype=torch.float64)
        with torch.no_grad():
            model.W.copy_(0.95 * torch.eye(6))
        numbers: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            numbers.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(random(2, 4, 3))
        (stats,) = model.stats.values()
        return sum(numbers), int(stats.steps.max() if isinstance(stats.steps, Tensor) else stats.steps)

    (few, some), (also_few, many) = kept(1e-1), kept(1e-10)
    assert many > 5 * some and few == also_few


GROWING = """
model M(n = 3)
    input u[_, n]
    recurrent x over u
        state h[n] = 0, c[n] = 1
        c ~ prev(c) .* prev(c)
        h ~ 2*prev(h) + x + c
    end
    output y = {output}
end
"""


@pytest.mark.parametrize(("output", "place"), [("h", "from step 2 on, in sample 1"), ("last(h)", "behind")])
def test_what_is_not_finite_is_named_with_its_step(output: str, place: str) -> None:
    module = implicit_dsl.loads(GROWING.format(output=output))
    u = torch.zeros(3, 4, 3)
    u[1, 1, 2] = torch.nan
    with pytest.raises(module.runtime.RecurrenceError, match=rf"`h` \(line 4\) is not finite {place}"):
        module.M()(u)
    assert module.M()(u[:1]).isfinite().all()
    assert module.M()(u[:, :0]).isfinite().all()
    compiled = torch.compile(module.M(), backend="eager", fullgraph=True)
    assert compiled(u).isnan().any()


def test_what_is_computed_ahead_and_read_by_a_lag_alone_goes_through_the_steps() -> None:
    """g does not depend on a step before, x reads it two steps later, and h is computed behind all steps."""
    model = implicit_dsl.loads("""
model Lagged
    input v[5, 3]
    recurrent s over v
        state g[3], h[3]
        state x[3] ~ tanh(prev(g, 2))
        h ~ tanh(x)
        g ~ tanh(s)
    end
    output y[5, 3] = h
end
""").Lagged(dtype=torch.float64)
    v = torch.randn(2, 5, 3, dtype=torch.float64)
    lagged = torch.cat((torch.zeros(2, 2, 3, dtype=torch.float64), v.tanh()[:, :3]), 1)
    torch.testing.assert_close(model(v), lagged.tanh().tanh())
