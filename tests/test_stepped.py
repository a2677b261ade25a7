"""`@solver euler(steps = K)`: loops that are cut after some steps of learned lengths."""

from __future__ import annotations

import pytest
import torch
from comparing import random, same
from torch import Tensor

import implicit_dsl
from implicit_dsl.compiler import check
from implicit_dsl.source import Source

KAG = """
model M(n = 4, p = 3, K = 3)
    input u[_, p]
    param U[n, n], W[n, p], b[n] = normal(1.0)
    recurrent x over u
        state h[n] = 0
        h ~ tanh(U*(h + prev(h)) + W*x + b) / 2 - prev(h)
    end
    output y = h
    @solver euler(steps = K)
end
"""


@pytest.mark.parametrize("standalone", [False, True], ids=["imports", "standalone"])
def test_a_network_that_evolves_in_equilibrium(standalone: bool) -> None:
    """Kag et al. with α = 2: g + η/α (φ − α (g + h)), as their equation says, with η/α as the length."""
    model = implicit_dsl.loads(KAG, standalone=standalone).M(dtype=torch.float64)
    lengths = [model.h_step1, model.h_step2, model.h_step3]
    assert [float(one.detach()) for one in lengths] == [pytest.approx(1 / 3)] * 3
    with torch.no_grad():
        for number, one in enumerate(lengths):
            one.copy_(0.7 - 0.2 * number)
    for steps in (0, 1, 4):
        u = random(2, steps, 3).requires_grad_()
        h, hs = torch.zeros(2, 4).double(), []
        for x in u.unbind(1):
            g = torch.zeros_like(h)
            for eta in lengths:
                g = g + eta / 2 * (torch.tanh((g + h) @ model.U.T + x @ model.W.T + model.b) - 2 * (g + h))
            h = g
            hs.append(h)
        made = model(u)
        same(made, torch.stack(hs, 1) if hs else made)
        if hs and not standalone:
            same(made, model.system(length=steps).solve(u))
            wanted = torch.autograd.grad(torch.stack(hs, 1).sum(), (u, *model.parameters()))
            same(torch.autograd.grad(made.sum(), (u, *model.parameters())), wanted)
    assert torch.autograd.gradcheck(model, (random(2, 3, 3).requires_grad_(),))


EQUATIONS = {
    "one of two": (
        "a ~ tanh(U*g + W*u)\n    g ~ relu(V*a + g)\n    z = a",
        "@solver(g, euler(steps = 2, step = 0.4))",
        ["g"],
    ),
    "both": (
        "a ~ tanh(U*g + W*u)\n    g ~ relu(V*a + g)\n    z = a",
        "@solver euler(steps = 2, step = 0.4)",
        "ag",
    ),
    "not enough": (
        "a ~ tanh(U*g + W*u + 0.1*a)\n    g ~ relu(V*a + g)\n    z = a",
        "@solver(g, euler(steps = 2, step = 0.4))",
        "ag",
    ),
}


@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.parametrize("start", ["", " = 0.5", " = [1, -1, 0, 2]"])
def test_what_the_steps_move(name: str, start: str) -> None:
    equations, said, moved = EQUATIONS[name]
    text = f"""
model M(n = 4, p = 3)
    input u[p]
    param U[n, n], V[n, n], W[n, p]
    state a[n], g[n]{start}
    {equations}
    output y = g, w = z
    {said}
end
"""
    model = implicit_dsl.loads(text).M(dtype=torch.float64)
    u = random(2, 3)
    first = {"": [0.0] * 4, " = 0.5": [0.5] * 4}.get(start, [1.0, -1.0, 0.0, 2.0])
    g, a = torch.tensor(first, dtype=torch.float64).expand(2, -1), torch.zeros(2, 4).double()
    own = 0.1 if name == "not enough" else 0.0

    def of_a(a: Tensor, g: Tensor) -> Tensor:
        return torch.tanh(g @ model.U.T + u @ model.W.T + own * a)

    for _ in range(2):
        now = a if "a" in moved else of_a(a, g)
        right = torch.relu(now @ model.V.T + g)
        if "a" in moved:
            a = a + 0.4 * (of_a(a, g) - a)
        g = g + 0.4 * (right - g)
    a = a if "a" in moved else of_a(a, g)

    same(tuple(model(u)), (g, a))
    same(tuple(model(u)), tuple(model.system().solve(u)))
    assert not implicit_dsl.compile(text).count("runtime.Equilibrium")


@pytest.mark.parametrize(
    ("said", "codes"),
    [
        ("@solver euler", ["E0702"]),
        ("@solver euler(0)", ["E0104"]),
        ("@solver euler(steps = 0)", ["E0703"]),
        ("@solver euler(steps = 3, step = -1)", ["E0703"]),
        ("@solver euler(steps = 3); @wellposed norm(U, Inf) <= 0.9", ["W0401"]),
        ("@solver euler(steps = 3); @backward jfb", ["W0401"]),
        ("@solver euler(steps = 3); @solver picard", ["E0705"]),
        ("@solver euler(steps = 3)", []),
    ],
)
def test_what_is_wrong_is_told(said: str, codes: list[str]) -> None:
    lines = ["input u[4]", "param U[4, 4]", "state h[4] ~ tanh(U*h + u)", "output y = h", said]
    text = "\n    ".join(["model M", *lines]) + "\nend\n"
    assert [found.code for found in check(Source(text)).diagnostics] == codes


def test_a_feed_forward_net_has_no_loop_to_cut() -> None:
    text = "model M\n    input u[4]\n    output y = tanh(u)\n    @solver euler(steps = 3)\nend\n"
    assert [found.code for found in check(Source(text)).diagnostics] == ["W0401"]
