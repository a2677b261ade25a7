"""Recurrent networks against the same ones of PyTorch, with the same weights.

    OMP_NUM_THREADS=1 python benchmarks/recurrent.py [--rounds 31] [--steps 100] [--only elman] [--training]

Elman networks, LSTM and GRU against the modules of `torch.nn`, other cells against the loop that one writes
by hand, a linear recurrence against such a loop as well. Inference without gradients, and forward + backward
with the gradients of all parameters and of the input.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from interleave import interleave, report
from torch import Tensor, nn

import implicit_dsl

HEAD = """
model M(n = SIZE)
    input u[_, n]
"""
TAIL = """
    end
    output y = h
end
"""
ELMAN = """
    layer I = Dense(n), R = Dense(n; bias = false)
    recurrent x over u
        state h[n] = 0
        h ~ tanh(I*x + R*prev(h))
"""
LSTM = """
    layer I = Dense(4*n), R = Dense(4*n)
    recurrent x over u
        state h[n] = 0, c[n] = 0
        a = I*x + R*prev(h)
        i = σ(a[1:n])
        f = σ(a[n+1:2*n])
        g = tanh(a[2*n+1:3*n])
        o = σ(a[3*n+1:4*n])
        c ~ f .* prev(c) + i .* g
        h ~ o .* tanh(c)
"""
LSTM_OF_FOUR = """
    layer Ii = Dense(n), If = Dense(n), Ig = Dense(n), Io = Dense(n)
    layer Ri = Dense(n; bias = false), Rf = Dense(n; bias = false)
    layer Rg = Dense(n; bias = false), Ro = Dense(n; bias = false)
    recurrent x over u
        state h[n] = 0, c[n] = 0
        i ~ σ(Ii*x + Ri*prev(h))
        f ~ σ(If*x + Rf*prev(h))
        g ~ tanh(Ig*x + Rg*prev(h))
        o ~ σ(Io*x + Ro*prev(h))
        c ~ f .* prev(c) + i .* g
        h ~ o .* tanh(c)
"""
GRU = """
    layer I = Dense(3*n), R = Dense(3*n)
    recurrent x over u
        state h[n] = 0
        a = I*x
        d = R*prev(h)
        r = σ(a[1:n] + d[1:n])
        z = σ(a[n+1:2*n] + d[n+1:2*n])
        m = tanh(a[2*n+1:3*n] + r .* d[2*n+1:3*n])
        h ~ (1 - z) .* m + z .* prev(h)
"""
MINIMAL = """
    layer If = Dense(n), Ig = Dense(n), Rf = Dense(n; bias = false), Rg = Dense(n; bias = false)
    recurrent x over u
        state h[n] = 0
        f ~ σ(If*x + Rf*prev(h))
        g ~ tanh(Ig*x + Rg*(f .* prev(h)))
        h ~ (1 - f) .* prev(h) + f .* g
"""
PARAMS = """
    param U[n, n], W[n, n], b[n] = normal(1.0), d[n] = normal(1.0)
    recurrent x over u
        state h[n] = 0
        h ~ tanh(U*x + W*prev(h) + b) - 0.1*d .* prev(h)
"""
LINEAR = """
    layer Z = Dense(n), I = Dense(n)
    recurrent x over u
        state h[n] = 0
        z = σ(Z*x)
        h ~ (1 - z) .* prev(h) + z .* (I*x)
"""


class Minimal(nn.Module):
    """A minimal gated unit as one writes it by hand."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.If, self.Ig, self.Rf, self.Rg = model.If, model.Ig, model.Rf, model.Rg

    def forward(self, u: Tensor) -> Tensor:
        h = u.new_zeros((len(u), u.shape[2]))
        steps = []
        for x in u.unbind(1):
            f = torch.sigmoid(self.If(x) + self.Rf(h))
            g = torch.tanh(self.Ig(x) + self.Rg(f * h))
            h = (1 - f) * h + f * g
            steps.append(h)
        return torch.stack(steps, 1)


class Params(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.U, self.W, self.b, self.d = model.U, model.W, model.b, model.d

    def forward(self, u: Tensor) -> Tensor:
        h = u.new_zeros((len(u), u.shape[2]))
        steps = []
        for x in u.unbind(1):
            h = torch.tanh(F.linear(x, self.U, self.b) + F.linear(h, self.W)) - 0.1 * self.d * h
            steps.append(h)
        return torch.stack(steps, 1)


class Linear(nn.Module):
    """As one writes it by hand, with what can be computed for all steps at once so computed."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.Z, self.I = model.Z, model.I

    def forward(self, u: Tensor) -> Tensor:
        z = torch.sigmoid(self.Z(u))
        a, b = 1 - z, z * self.I(u)
        h = u.new_zeros((len(u), u.shape[2]))
        steps = []
        for factor, new in zip(a.unbind(1), b.unbind(1)):
            h = factor * h + new
            steps.append(h)
        return torch.stack(steps, 1)


class First(nn.Module):
    """A module of `torch.nn` with the weights of a model, that gives h alone."""

    def __init__(self, kind: Callable[..., nn.Module], model: nn.Module, size: int) -> None:
        super().__init__()
        self.cell = kind(size, size, batch_first=True)
        parts = [layer for name, layer in model.named_children() if name.startswith("I")]
        others = [layer for name, layer in model.named_children() if name.startswith("R")]
        with torch.no_grad():
            self.cell.weight_ih_l0.copy_(torch.cat([one.weight for one in parts]))
            self.cell.weight_hh_l0.copy_(torch.cat([one.weight for one in others]))
            self.cell.bias_ih_l0.copy_(torch.cat([one.bias for one in parts]))
            self.cell.bias_hh_l0.zero_()
            if others[0].bias is not None:
                self.cell.bias_hh_l0.copy_(torch.cat([one.bias for one in others]))

    def forward(self, u: Tensor) -> Tensor:
        return self.cell(u)[0]


SIZES = ((128, 1), (128, 16), (128, 64), (512, 16))
GATES = dict.fromkeys(SIZES, 1.02)
LOOPS = dict.fromkeys(SIZES, 1.0)
CELLS: dict[str, tuple[str, object, dict[tuple[int, int], float]]] = {  # bars of forward + backward
    "elman": (ELMAN, nn.RNN, dict(zip(SIZES, (0.5, 0.8, 1.0, 0.75)))),
    "lstm": (LSTM, nn.LSTM, GATES),
    "lstm of four": (LSTM_OF_FOUR, nn.LSTM, GATES),
    "gru": (GRU, nn.GRU, GATES),
    "minimal": (MINIMAL, Minimal, LOOPS),
    "params": (PARAMS, Params, LOOPS),
    "linear": (LINEAR, Linear, LOOPS),
}


def runs(model: nn.Module, u: Tensor, g: Tensor, training: bool) -> Callable[[], object]:
    def infer() -> Tensor:
        with torch.no_grad():
            return model(u)

    def train() -> None:
        model.zero_grad()
        u.grad = None
        model(u).backward(g)

    return train if training else infer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", choices=CELLS)
    parser.add_argument("--training", action="store_true", help="forward + backward alone")
    given = parser.parse_args()
    torch.manual_seed(0)
    for name, (text, kind, bars) in CELLS.items():
        if given.only not in (None, name):
            continue
        for size, batch in SIZES:
            ours = implicit_dsl.loads((HEAD + text + TAIL).replace("SIZE", str(size))).M()
            by_hand = kind in (Minimal, Params, Linear)
            theirs = kind(ours) if by_hand else First(kind, ours, size)
            u = torch.randn(batch, given.steps, size).requires_grad_()
            torch.testing.assert_close(ours(u), theirs(u), rtol=1e-4, atol=1e-5)
            g = torch.randn(batch, given.steps, size)
            base = "by hand" if by_hand else "torch.nn"
            for training in (True,) if given.training else (False, True):
                what = "fwd + bwd" if training else "inference"
                bar = bars[size, batch] if training else None
                pair = {base: runs(theirs, u, g, training), "generated": runs(ours, u, g, training)}
                report(f"{name}  n {size}, batch {batch}  {what}", interleave(pair, given.rounds), base, bar)


if __name__ == "__main__":
    main()
