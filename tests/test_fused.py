"""Recurrences that are lowered to one function over all steps: recognised, and the same as the loop."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
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
    assert " in range(" in made or ".unbind(1)" in made
    return made


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def several(value: Any) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)


def same(one: Any, other: Any, within: float = 1e-12) -> None:
    for a, b in zip(several(one), several(other), strict=True):
        torch.testing.assert_close(a, b, rtol=within, atol=within)


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
    exported = torch.export.export(model, given).module()
    same(several(exported(*given)), wanted)


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
