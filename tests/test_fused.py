"""Recurrences that are lowered to one function over all steps: recognised, and the same as the loop."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from comparing import random, same, several
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl.emit import recurrences

STANDALONE = pytest.mark.parametrize("standalone", [False, True], ids=["imports", "standalone"])
LENGTHS = (5, 1, 2, 7)


def module(text: str) -> types.ModuleType:
    made = types.ModuleType("generated")
    sys.modules["generated"] = made  # where data classes look for their module
    exec(compile(text, "generated.py", "exec"), made.__dict__)
    return made


def plainly(text: str, standalone: bool = False) -> str:
    """The program with a loop over its steps, whatever they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recurrences, "gated", lambda *_: None)
        patch.setattr(recurrences, "simple", lambda *_: None)
        made = implicit_dsl.compile(text, standalone=standalone)
    assert not called(made)
    return made


def called(text: str) -> list[str]:
    """The functions over all steps that a generated file calls."""
    return [name for name in ("elman", "gru", "lstm", "scan") for _ in range(text.count(f"runtime.{name}("))]


def program(
    step: str, *, states: str = "h[n] = 0", params: str = "", outputs: str = "y = h, hn = last(h)"
) -> str:
    indented = "\n        ".join(line.strip() for line in step.strip().split("\n"))
    return f"""
model M(n = 4, p = 3)
    input u[_, p], h0[n], s[n]
    {params}
    recurrent x over u
        state {states}
        {indented}
    end
    output {outputs}
    @allow unused_input
    @allow unused_parameter
end
"""


ELMAN_PARAMS = (
    "param b0[n] = normal(1.0), W[n, n], U[n, p], b[n] = normal(1.0), a[n] = normal(0.5)\n    "
    "layer I = Dense(n), R = Dense(n)"
)
LSTM_PARAMS = (
    "param Wi[n, p], Wf[n, p], Wg[n, p], Wo[n, p], Ui[n, n], Uf[n, n], Ug[n, n], Uo[n, n]\n    "
    "param bi[n] = normal(1.0), bf[n] = normal(1.0), bo[n] = normal(1.0), bg[n] = normal(1.0)\n    "
    "param V[n, n], D[n] = normal(1.0)\n    "
    "layer I = Dense(4*n), R = Dense(4*n; bias = false), B = Dense(4*n)\n    "
    "layer E = Dense(n), G = Dense(n), F = Dense(n)"
)
GRU_PARAMS = (
    "param Wr[n, p], Wz[n, p], Wn[n, p], Ur[n, n], Uz[n, n], Un[n, n]\n    "
    "param br[n] = normal(1.0), bz[n] = normal(1.0), bn[n] = normal(1.0), cn[n] = normal(1.0)\n    "
    "layer I = Dense(3*n), R = Dense(3*n), E = Dense(n), F = Dense(n)"
)
TAIL = "\nc ~ f .* prev(c) + i .* g\nh ~ o .* tanh(c)"
CELL = {
    "states": "h[n] = h0, c[n] = s",
    "params": LSTM_PARAMS,
    "outputs": "y = h, hn = last(h), cn = last(c)",
}
SLICED = "\ni = σ(a[1:n])\nf = σ(a[n+1:2*n])\ng = tanh(a[2*n+1:3*n])\no = σ(a[3*n+1:4*n])"
GRU = {"states": "h[n] = h0", "params": GRU_PARAMS}
SLICED_GRU = (
    "a = I*x\nd = R*prev(h)\nr = σ(a[1:n] + d[1:n])\nz = σ(a[n+1:2*n] + d[n+1:2*n])\n"
    "m = tanh(a[2*n+1:3*n] + r .* d[2*n+1:3*n])\n"
)
FREE = "\nv = tanh(E*x)"
SCAN = {"params": ELMAN_PARAMS, "states": "h[n] = h0"}

FUSED: dict[str, tuple[str, str]] = {
    "tanh": ("elman", program("h ~ tanh(W*prev(h) + U*x + b)", params=ELMAN_PARAMS)),
    "relu": ("elman", program("h ~ relu(U*x + W*prev(h))", params=ELMAN_PARAMS, states="h[n] = 0.5")),
    "sigmoid transposed": ("elman", program("h ~ σ(I*x + 0.5*W'*prev(h))", params=ELMAN_PARAMS)),
    "identity": ("elman", program("h ~ R*prev(h) + I*x", params=ELMAN_PARAMS, states="h[n] = h0")),
    "learned start": (
        "elman",
        program("h ~ tanh(R*prev(h) + I*(x .* x))", params=ELMAN_PARAMS, states="h[n] = b0"),
    ),
    "two steps": ("elman", program("g = R*prev(h)\nk = g + I*x\nh ~ tanh(k)", params=ELMAN_PARAMS)),
    "without a matrix": (
        "elman",
        program(
            "h ~ tanh(R*prev(h) + x[1])",
            params=ELMAN_PARAMS.replace("R = Dense(n)", "R = Dense(1)"),
            states="h[1] = 0",
        ),
    ),
    "context": ("elman", program("h ~ tanh(R*prev(h) + s)", params=ELMAN_PARAMS)),
    "nothing else": ("elman", program("h ~ tanh(W*prev(h))", params=ELMAN_PARAMS, states="h[n] = h0")),
    "an offset alone": ("elman", program("h ~ tanh(W*prev(h) + b)", params=ELMAN_PARAMS)),
    "concatenation": (
        "elman",
        program("h ~ tanh(C*cat(x, prev(h)))", params="layer C = Dense(n)", states="h[n] = h0"),
    ),
    "concatenations": (
        "elman",
        program(
            "h ~ σ(C*cat(s, prev(h), x) + D*cat(x, s) + b - 0.5*(R*x))",
            params="param C[n, 2*n + p], D[n, n + p], R[n, p], b[n] = normal(1.0)",
        ),
    ),
    "behind": (
        "elman",
        program(
            "h ~ tanh(R*prev(h) + I*x)\nk ~ relu(J*h + s + U*x)\nj = tanh(k) .* h",
            params=ELMAN_PARAMS + ", J = Dense(n)",
            outputs="y = h, kn = last(k), w = k, v = last(j)",
        ),
    ),
    "last of behind": (
        "elman",
        program(
            "h ~ tanh(R*prev(h) + I*x)\nk ~ relu(J*h + s + U*x)",
            params=ELMAN_PARAMS + ", J = Dense(n)",
            outputs="kn = last(k)",
        ),
    ),
    "banded": (
        "elman",
        program("h ~ tanh(W*prev(h) + U*x)", params="param W[n, n] in Banded(-1, 1), U[n, p]"),
    ),
    "lstm of pytorch": ("lstm", program("a = I*x + R*prev(h)" + SLICED + TAIL, **CELL)),
    "lstm, two biases": ("lstm", program("a = B*prev(h) + I*x" + SLICED + TAIL, **CELL)),
    "lstm, other order": (
        "lstm",
        program(
            "a = I*x + R*prev(h)\no = σ(a[1:n])\ni = σ(a[n+1:2*n])\n"
            "f = σ(a[2*n+1:3*n])\ng = tanh(a[3*n+1:4*n])" + TAIL,
            **CELL,
        ),
    ),
    "lstm of params": (
        "lstm",
        program(
            "f ~ σ(Wf*x + Uf*prev(h) + bf)\ni ~ σ(bi + Wi*x + Ui*prev(h))\no ~ σ(Uo*prev(h) + bo + Wo*x)\n"
            "g ~ tanh(Wg*x + Ug*prev(h) + bg)\nc ~ i .* g + prev(c) .* f\nh ~ tanh(c) .* o",
            **CELL,
        ),
    ),
    "lstm without biases": (
        "lstm",
        program(
            "h ~ σ(Wo*x + Uo*prev(h)) .* tanh(c)\n"
            "c ~ σ(Wf*x + Uf*prev(h)) .* prev(c) + σ(Wi*x + Ui'*prev(h)) .* tanh(Wg*x + Ug*prev(h))",
            **CELL,
        ),
    ),
    "lstm of a concatenation": (
        "lstm",
        program(
            "a = K*cat(x, prev(h))" + SLICED + TAIL, **{**CELL, "params": LSTM_PARAMS + ", K = Dense(4*n)"}
        ),
    ),
    "lstm of several inputs": (
        "lstm",
        program(
            "v = tanh(F*x)\nf = σ(Uf*prev(h) + bf)\ni = σ(Wi*x - 0.5*Ui*prev(h))\n"
            "g = tanh(E*v + Ug*prev(h) + D)\no = σ(V*s + bo + Uo*prev(h) + Wo*x)" + TAIL,
            **{**CELL, "outputs": CELL["outputs"] + ", k = v"},
        ),
    ),
    "gru of pytorch": ("gru", program(SLICED_GRU + "h ~ (1 - z) .* m + z .* prev(h)", **GRU)),
    "gru, exchanged": ("gru", program(SLICED_GRU + "h ~ z .* m + (1 - z) .* prev(h)", **GRU)),
    "gru, as a step": ("gru", program(SLICED_GRU + "h ~ prev(h) + z .* (m - prev(h))", **GRU)),
    "gru of params": (
        "gru",
        program(
            "z ~ σ(Wz*x + Uz*prev(h) + bz)\nr ~ σ(Wr*x + Ur*prev(h))\n"
            "m ~ tanh(Wn*x + r .* (Un*prev(h) + cn) + bn)\nh ~ z .* prev(h) + (1 - z) .* m",
            **GRU,
        ),
    ),
    "gru without biases": (
        "gru",
        program(
            "z ~ σ(Wz*x + Uz*prev(h))\nr ~ σ(Wr*x + Ur*prev(h))\nm ~ tanh(Wn*x + r .* (Un*prev(h)))\n"
            "h ~ z .* prev(h) + (1 - z) .* m",
            **GRU,
        ),
    ),
    "scan by a parameter": ("scan", program("h ~ a .* prev(h) + I*x", **SCAN)),
    "scan by a number": ("scan", program("h ~ 0.9*prev(h) + 0.1*tanh(I*x)", **SCAN)),
    "scan by a gate": (
        "scan",
        program("z = σ(R*x)\nh ~ (1 - z) .* prev(h) + z .* tanh(I*x)", **{**SCAN, "states": "h[n] = 0"}),
    ),
    "scan by a context": ("scan", program("h ~ s .* prev(h) - a .* prev(h) + b", **SCAN)),
    "scan of products": ("scan", program("h ~ a .* prev(h)", **SCAN)),
    "scans of two": (
        "scan scan",
        program(
            "h ~ a .* prev(h) + I*x\ng ~ σ(R*x) .* prev(g) - b\nk = Q*h + g",
            params=ELMAN_PARAMS + ", Q = Dense(2*n => n)".replace("2*n", "n"),
            states="h[n] = h0, g[n] = 1",
            outputs="y = h, gn = last(g), w = k",
        ),
    ),
}


@pytest.mark.parametrize("name", FUSED)
@STANDALONE
def test_it_is_recognised_and_the_same_as_the_loop(name: str, standalone: bool) -> None:
    wanted, text = FUSED[name]
    assert called(implicit_dsl.compile(text)) == wanted.split()
    model = module(implicit_dsl.compile(text, standalone=standalone)).M(dtype=torch.float64)
    loop = module(plainly(text)).M(dtype=torch.float64)
    loop.load_state_dict(model.state_dict())
    for length in LENGTHS:
        given = [one.requires_grad_() for one in (random(2, length, 3), random(2, 4), random(2, 4))]
        made, by_hand = several(model(*given)), several(loop(*given))
        same(made, by_hand)
        if not standalone:
            same(made, model.system(u=(length, 3)).solve(*given))
        g = [torch.randn_like(one) for one in made]
        of = [[*given, *one.parameters()] for one in (model, loop)]
        gradients = [
            torch.autograd.grad(values, inputs, g, allow_unused=True, materialize_grads=True)
            for values, inputs in zip((made, by_hand), of)
        ]
        same(*gradients)
        with torch.no_grad():
            same(model(*given), by_hand)
    empty = random(2, 0, 3), *given[1:]
    same(model(*empty), loop(*empty))


@pytest.mark.parametrize("name", FUSED)
def test_derivatives_of_second_order_and_of_transforms(name: str) -> None:
    _, text = FUSED[name]
    torch.manual_seed(1)
    model = module(implicit_dsl.compile(text)).M(dtype=torch.float64)
    given = [one.requires_grad_() for one in (random(2, 3, 3), random(2, 4), random(2, 4))]
    used = torch.autograd.grad(
        sum(one.sum() for one in several(model(*given))), given, allow_unused=True, materialize_grads=True
    )
    which = [at for at, g in enumerate(used) if g.any()] or [0]

    def run(*some: Tensor) -> tuple[Tensor, ...]:
        filled = list(given)
        for at, one in zip(which, some):
            filled[at] = one
        return several(model(*filled))

    some = [given[at] for at in which]
    if any(g.any() for g in used):
        assert torch.autograd.gradcheck(run, some)
        assert torch.autograd.gradgradcheck(run, some)
    mapped = torch.vmap(run)(*[torch.stack([one, 2 * one]).detach() for one in some])
    same([one[1] for one in mapped], run(*[2 * one for one in some]))


@pytest.mark.parametrize("name", FUSED)
def test_it_is_compiled_and_exported(name: str) -> None:
    _, text = FUSED[name]
    model = module(implicit_dsl.compile(text)).M(dtype=torch.float64)
    given = random(2, 3, 3), random(2, 4), random(2, 4)
    wanted = several(model(*given))
    made = several(torch.compile(model, fullgraph=True, backend="aot_eager")(*given))
    same(made, wanted)
    torch._dynamo.reset()
    parameters = list(model.parameters())
    found = [
        torch.autograd.grad(
            sum(one.sum() for one in values), parameters, allow_unused=True, materialize_grads=True
        )
        for values in (made, wanted)
    ]
    same(*found)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, given, dynamic_shapes=[{0: batch}] * 3).module()
    same(several(exported(*given)), wanted)
    more = random(5, 3, 3), random(5, 4), random(5, 4)
    same(several(exported(*more)), several(model(*more)))


TWINS = {
    "lstm of pytorch": (nn.LSTM, ("I.weight", "R.weight", "I.bias", "")),
    "gru of pytorch": (nn.GRU, ("I.weight", "R.weight", "I.bias", "R.bias")),
    "tanh": (nn.RNN, ("U", "W", "b", "")),
}


@pytest.mark.parametrize("name", TWINS)
def test_it_is_that_of_pytorch(name: str) -> None:
    kind, keys = TWINS[name]
    model = module(implicit_dsl.compile(FUSED[name][1])).M(dtype=torch.float64)
    twin = kind(3, 4, batch_first=True).double()
    parts = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    state = model.state_dict()
    zeros = torch.zeros_like(twin.bias_ih_l0)
    twin.load_state_dict({part: state[key] if key else zeros for part, key in zip(parts, keys)})
    for length in LENGTHS:
        u, h, c = (one.requires_grad_() for one in (random(2, length, 3), random(2, 4), random(2, 4)))
        start = {nn.LSTM: (h[None], c[None]), nn.GRU: h[None], nn.RNN: None}[kind]
        y, _ = twin(u, start)
        made = model(u, h, c)
        same(made.y, y)
        g = random(*y.shape)
        of_model = [dict(model.named_parameters())[key] for key in keys if key]
        of_twin = [getattr(twin, part) for part, key in zip(parts, keys) if key]
        found = torch.autograd.grad(made.y, [u, *of_model], g)
        same(found, torch.autograd.grad(y, [u, *of_twin], g))


SOME = (
    "tanh",
    "lstm of pytorch",
    "lstm without biases",
    "gru of pytorch",
    "gru, exchanged",
    "scan by a gate",
)


@pytest.mark.parametrize("name", SOME)
def test_other_dtypes_empty_batches_and_no_memory(name: str) -> None:
    M = module(implicit_dsl.compile(FUSED[name][1])).M
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for batch in (0, 2):
            u, h, s = (torch.randn(batch, *size, dtype=dtype) for size in ((5, 3), (4,), (4,)))
            made = several(M(dtype=dtype)(u.requires_grad_(), h, s))
            sum(one.sum() for one in made).backward()
            assert made[0].shape == (batch, 5, 4) and made[0].dtype is dtype and u.grad is not None
    u, h, s = (torch.randn(2, *size, device="meta") for size in ((5, 3), (4,), (4,)))
    assert several(M(device="meta")(u, h, s))[0].shape == (2, 5, 4)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.filterwarnings("ignore")
def test_tools_of_pytorch(name: str) -> None:
    """Exported to ONNX, traced, mapped over samples for their gradients, and within autocast."""
    model = module(implicit_dsl.compile(FUSED[name][1])).M()
    u, h, s = torch.randn(2, 5, 3), torch.randn(2, 4), torch.randn(2, 4)
    wanted = several(model(u, h, s))
    onnx = torch.onnx.export(model, (u, h, s), dynamo=True, verbose=False)
    assert onnx is not None
    same(onnx(u, h, s), wanted, 1e-5)
    same(several(torch.jit.trace(model, (u, h, s), check_trace=False)(u, h, s)), wanted, 1e-5)
    parameters = dict(model.named_parameters())

    def loss(weights: dict[str, Tensor], *one: Tensor) -> Tensor:
        made = torch.func.functional_call(model, weights, tuple(part[None] for part in one))
        return several(made)[0].square().sum()

    each = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))(parameters, u, h, s)
    total = torch.autograd.grad(
        wanted[0].square().sum(), list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    same([one.sum(0) for one in each.values()], total, 1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        same([one.float() for one in several(model(u, h, s))], [one.float() for one in wanted], 0.1)
        several(model(u, h, s))[0].float().sum().backward()


NESTED = """
model M(n = 4, p = 3)
    input u[_, 5, p], s[n]
    param b[n] = normal(1.0), c[2*n] = normal(1.0), V[2*n, p], W[n, n] in Orthogonal(), a[n] = normal(0.5)
    layer I = Dense(4*n), R = Dense(4*n), N = Dense(n), D = Dropout(0.5)
    recurrent x over u
        state h[n] = 0, c1[n] = s
        recurrent w over x
            state g[n] = prev(h)
            g ~ tanh(W*prev(g) + (V*w + c)[1:n] + b)
        end
        q = I*last(g) + R*prev(h)
        c1 ~ σ(q[n+1:2*n]) .* prev(c1) + σ(q[1:n]) .* tanh(q[2*n+1:3*n])
        h ~ σ(q[3*n+1:4*n]) .* tanh(c1)
    end
    recurrent v over h
        state k[n] = 0
        k ~ relu(W*prev(k) + N*v)
        r ~ D*k
    end
    output y = h, z = last(k), w = r
end
"""


def test_within_a_step_in_sets_and_with_dropout() -> None:
    torch.manual_seed(2)
    assert called(implicit_dsl.compile(NESTED)) == ["elman"]  # dropout is drawn step by step
    model, loop = (
        module(one).M(dtype=torch.float64) for one in (implicit_dsl.compile(NESTED), plainly(NESTED))
    )
    loop.load_state_dict(model.state_dict())
    for length in LENGTHS[:3]:
        u, s = random(2, length, 5, 3), random(2, 4)
        for one in (model, loop):
            one.eval()
        same(model(u, s), loop(u, s))
        same(model(u, s), model.system(u=(length, 5, 3)).solve(u, s))
        model.train()
        assert (model(u, s).w == 0).any()


TWO = {"states": "h[n] = h0, g[n] = s", "params": ELMAN_PARAMS, "outputs": "y = h, w = g"}
PLAIN: dict[str, str] = {
    "lag": program("h ~ tanh(W*prev(h, 2) + U*x)", params=ELMAN_PARAMS),
    "two lags": program("h ~ tanh(W*prev(h) + R*prev(h, 2) + U*x)", params=ELMAN_PARAMS),
    "two states": program("h ~ tanh(W*prev(g) + U*x)\ng ~ tanh(R*prev(h) + I*x)", **TWO),
    "a factor beside": program("h ~ tanh(W*prev(h) + a .* prev(h) + U*x)", params=ELMAN_PARAMS),
    "twice": program("h ~ tanh(W*tanh(R*prev(h)) + U*x)", params=ELMAN_PARAMS),
    "another activation": program("h ~ gelu(W*prev(h) + U*x)", params=ELMAN_PARAMS),
    "read before": program(
        "h ~ tanh(W*prev(h) + U*x)\nk = prev(h) .* s", params=ELMAN_PARAMS, outputs="y = h, w = k"
    ),
    "half of it": program(
        "h ~ tanh(W*cat(prev(h)[1:2], prev(h)[1:2]) + U*x)", params=ELMAN_PARAMS, outputs="y = h"
    ),
    "lstm without tanh": program("a = I*x + R*prev(h)" + SLICED + TAIL.replace("tanh(c)", "c"), **CELL),
    "lstm of what was": program(
        "a = I*x + R*prev(h)" + SLICED + TAIL.replace("tanh(c)", "tanh(prev(c))"), **CELL
    ),
    "lstm that shows c": program(
        "a = I*x + R*prev(h)" + SLICED + TAIL, **{**CELL, "outputs": "y = h, k = c"}
    ),
    "lstm with eyes": program(
        "a = I*x + R*prev(h)"
        + SLICED.replace("f = σ(a[n+1:2*n])", "f = σ(a[n+1:2*n] + D .* prev(c))")
        + TAIL,
        **CELL,
    ),
    "lstm with one gate for two": program(
        "a = I*x + R*prev(h)" + SLICED.replace("i = σ(a[1:n])", "i = 1 - f") + TAIL, **CELL
    ),
    "lstm, doubled": program("a = I*x + R*prev(h)" + SLICED + TAIL.replace("i .* g", "2*i .* g"), **CELL),
    "lstm with a gate of c": program(
        "a = I*x + R*prev(h)" + SLICED.replace("o = σ(a", "o = σ(Uo*prev(c) + a") + TAIL, **CELL
    ),
    "gru of Cho": program(
        "z ~ σ(Wz*x + Uz*prev(h))\nr ~ σ(Wr*x + Ur*prev(h))\nm ~ tanh(Wn*x + Un*(r .* prev(h)))\n"
        "h ~ z .* prev(h) + (1 - z) .* m",
        **GRU,
    ),
    "gru without a reset": program(
        "z ~ σ(Wz*x + Uz*prev(h))\nm ~ tanh(Wn*x + Un*prev(h))\nh ~ z .* prev(h) + (1 - z) .* m", **GRU
    ),
    "gru with two states kept": program(
        SLICED_GRU.replace("r .* d", "z .* d") + "h ~ (1 - z) .* m + r .* prev(h)", **GRU
    ),
    "gru with more": program(SLICED_GRU + "h ~ (1 - z) .* m + z .* prev(h) + br", **GRU),
    "nothing of its sequence": program(
        "h ~ relu(0.5*a .* prev(h) + 0.3*prev(h, 2))\nk ~ tanh(b)",
        params=ELMAN_PARAMS,
        outputs="y = h, w = k",
    ),
    "a square": program("h ~ a .* prev(h) .* prev(h) + I*x", params=ELMAN_PARAMS),
    "a factor of the step before": program("h ~ σ(R*prev(h)) .* prev(h) + I*x", params=ELMAN_PARAMS),
    "two that are coupled": program("h ~ a .* prev(g) + I*x\ng ~ a .* prev(h)", **TWO),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_only_near_to_a_cell_is_a_loop(name: str) -> None:
    text = PLAIN[name]
    assert called(implicit_dsl.compile(text)) == []
    model = module(implicit_dsl.compile(text)).M(dtype=torch.float64)
    for length in LENGTHS[:3]:
        given = random(2, length, 3), random(2, 4), random(2, 4)
        same(model(*given), model.system(u=(length, 3)).solve(*given))


WIDE = {
    "four gates with long names": program(
        "\n".join(
            f"{gate}_of_this_cell ~ {phi}(weights_of_the_{gate}_input*x "
            f"+ weights_of_the_{gate}_state*prev(h) + offset_of_the_{gate})"
            for gate, phi in (("forget", "σ"), ("entry", "σ"), ("output", "σ"), ("new", "tanh"))
        )
        + "\nc ~ forget_of_this_cell .* prev(c) + entry_of_this_cell .* new_of_this_cell\n"
        "h ~ output_of_this_cell .* tanh(c)",
        states="h[n] = h0, c[n] = s",
        params="\n    ".join(
            f"param weights_of_the_{gate}_input[n, p], weights_of_the_{gate}_state[n, n], "
            f"offset_of_the_{gate}[n] = normal(1.0)"
            for gate in ("forget", "entry", "output", "new")
        ),
    ),
    "a long step": program(
        "the_state_of_this_cell ~ tanh(weights_of_the_state_before*prev(the_state_of_this_cell) "
        "+ weights_of_the_state_two_steps_before*prev(the_state_of_this_cell, 2) + weights_of_x*x + offset)\n"
        "h ~ tanh(weights_of_the_state_before*the_state_of_this_cell "
        "+ weights_of_the_other_state*prev(h) + offset)",
        states="h[n] = h0, the_state_of_this_cell[n] = 0",
        params="param weights_of_the_state_before[n, n], weights_of_the_state_two_steps_before[n, n]\n    "
        "param weights_of_x[n, p], weights_of_the_other_state[n, n], offset[n]",
    ),
}


def test_what_is_written_is_formatted_and_typed(tmp_path: Path) -> None:
    texts = [*(text for _, text in FUSED.values()), *PLAIN.values(), *WIDE.values()]
    for number, text in enumerate(texts):
        (tmp_path / f"generated{number}.py").write_text(implicit_dsl.compile(text), encoding="utf-8")
    for number, text in enumerate(WIDE.values()):
        alone = implicit_dsl.compile(text, standalone=True)
        (tmp_path / f"alone{number}.py").write_text(alone, encoding="utf-8")

    ruff = [sys.executable, "-m", "ruff", "format", "--check", "--isolated", "--line-length", "110"]
    subprocess.run([*ruff, str(tmp_path)], check=True)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir"]
    subprocess.run([*mypy, str(tmp_path / "cache"), *map(str, tmp_path.glob("*.py"))], check=True)


def mostly(usual: st.SearchStrategy[str], odd: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.integers(0, 19).flatmap(lambda number: usual if number else odd)


def mixed(parts: list[str]) -> st.SearchStrategy[str]:
    """A sum of some of them in some order, with signs and factors."""
    pair = st.tuples(st.sampled_from(["", "", "", "-", "0.5*"]), st.sampled_from(parts))
    return st.lists(pair, min_size=1, max_size=4).map(lambda found: " + ".join(f"({a}{b})" for a, b in found))


OF_H = [
    "U1*prev(h)",
    "U2*prev(h)",
    "U2'*prev(h)",
    "C*cat(x, prev(h), v)",
    "d[1:n]",
    "d[n+1:2*n]",
    "d[2*n+1:3*n]",
]
OF_X = ["W1*x", "W2*x", "e[1:n]", "e[n+1:2*n]", "e[2*n+1:3*n]", "b1", "b2", "V*s"]
ODD = ["prev(h)", "q .* prev(h)", "s", "v", "U1*v", "prev(h, 2)", "U1*prev(k)", "U1*tanh(U2*prev(h))"]
CLEAN = st.tuples(mixed(OF_H), mixed(OF_X)).map(" + ".join)
ODDLY = st.one_of(mixed(OF_X), mixed(OF_H + OF_X + ODD))
AFFINE = mostly(CLEAN, ODDLY)
SIGMOID = mostly(st.just("σ"), st.just("tanh"))
TANH = mostly(st.just("tanh"), st.sampled_from(["σ", ""]))
ANY_PARAMS = (
    "param W1[n, p], W2[n, p], U1[n, n] = normal(0.4), U2[n, n] = normal(0.4), V[n, n], q[n] = normal(0.5), "
    "b1[n] = normal(1.0), b2[n] = normal(1.0), C[n, 2*n + p] = normal(0.3)\n    "
    "layer I = Dense(3*n), R = Dense(3*n), E = Dense(n), K = Dense(n)"
)


@st.composite
def elmans(draw: st.DrawFn) -> str:
    phi = draw(st.sampled_from(["tanh", "relu", "σ", ""]))
    return f"h ~ {phi}({draw(AFFINE)})"


@st.composite
def linear(draw: st.DrawFn) -> str:
    factor = draw(st.sampled_from(["q", "0.5", "σ(E*x)", "(1 - σ(V*s))", "σ(U1*prev(h))", "q .* v"]))
    other = draw(st.sampled_from(["", " + q .* prev(h)", " - 0.25*prev(h)", " + 0.1*U1*prev(h)"]))
    times = "" if factor == "0.5" else "."
    return f"h ~ {factor} {times}* prev(h){other} + {draw(mixed([*OF_X, 'v']))}"


@st.composite
def lstms(draw: st.DrawFn) -> str:
    gates = [f"{name} = {draw(SIGMOID)}({draw(AFFINE)})" for name in "ifo"]
    first, second = draw(st.permutations(["f .* prev(k)", "i .* g"]))
    more = draw(mostly(st.just(""), st.sampled_from([" + b1", " + i .* prev(k)", " + prev(h)"])))
    shown = draw(mostly(st.just("k"), st.sampled_from(["prev(k)", "k + b1"])))
    phi = draw(TANH)
    lines = [
        *gates,
        f"g = {draw(TANH)}({draw(AFFINE)})",
        f"k ~ {first} + {second}{more}",
        f"h ~ o .* {phi}({shown})",
    ]
    return "\n".join(lines)


@st.composite
def grus(draw: st.DrawFn) -> str:
    gates = [f"{name} = {draw(SIGMOID)}({draw(AFFINE)})" for name in "rz"]
    inner = draw(mostly(mixed([*OF_H, "b1", "b2"]), mixed(OF_H + ODD)))
    outer = draw(mostly(mixed(OF_X), mixed(OF_X + OF_H)))
    gate = draw(mostly(st.just("r"), st.just("z")))
    update = draw(
        st.sampled_from(
            [
                "(1 - z) .* m + z .* prev(h)",
                "z .* prev(h) + m - m .* z",
                "z .* m + (1 - z) .* prev(h)",
                "prev(h) - z .* (prev(h) - m)",
                "(1 - z) .* m + r .* prev(h)",
                "(1 - z) .* m + z .* prev(h) + b1",
                "(1 - z) .* m + z .* v",
                "(1 + z) .* m - z .* prev(h)",
            ]
        )
    )
    return "\n".join([*gates, f"m = {draw(TANH)}({outer} + {gate} .* ({inner}))", f"h ~ {update}"])


STEPS = {"elman": elmans(), "scan": linear(), "lstm": lstms(), "gru": grus()}
READ = ["last(h)", "last(h)", "last(k)", "last(k)", "v", "mean(h; dim = 1)", "last(t)", "t", "k"]


@pytest.mark.parametrize("kind", STEPS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_steps_near_to_cells_are_the_same_as_the_loop(kind: str, data: st.DataObject) -> None:
    step = data.draw(STEPS[kind])
    if "k ~" not in step:
        step += "\nk ~ tanh(q .* prev(k) + U1*h)" if data.draw(st.integers(0, 3)) == 0 else "\nk = 2*h + b1"
        step = step.replace("U1*prev(k)", "U1*v") if "k = " in step else step
    step = "v = tanh(E*x)\ne = I*x\nd = R*prev(h)\nt = relu(K*h) .* v\n" + step
    read = data.draw(st.lists(st.sampled_from(READ), max_size=2, unique=True))
    starts = ", ".join(
        f"{name}[n] = {data.draw(st.sampled_from(['0', 'h0', 's', 'b1', '0.5']))}"
        for name in ("h", "k")
        if f"prev({name}" in step or name == "h"
    )
    outputs = ", ".join(["y = h", *(f"out{number} = {one}" for number, one in enumerate(read))])
    text = program(step, states=starts, params=ANY_PARAMS, outputs=outputs)
    torch.manual_seed(data.draw(st.integers(0, 9)))
    made = implicit_dsl.compile(text)
    event(f"{kind}: {' '.join(called(made)) or 'loop'}")
    model, loop = (module(one).M(dtype=torch.float64) for one in (made, plainly(text)))
    loop.load_state_dict(model.state_dict())
    inputs = [one.requires_grad_() for one in (random(2, 4, 3), random(2, 4), random(2, 4))]
    values = [several(one(*inputs)) for one in (model, loop)]
    same(*values, within=1e-10)
    gradients = [
        torch.autograd.grad(
            sum(one.square().sum() for one in found),
            [*inputs, *one.parameters()],
            allow_unused=True,
            materialize_grads=True,
        )
        for found, one in zip(values, (model, loop))
    ]
    same(*gradients, within=1e-9)
