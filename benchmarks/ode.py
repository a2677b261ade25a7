"""Neural ODEs against the same ones written with torchdiffeq by hand, with the same weights.

    OMP_NUM_THREADS=1 python benchmarks/ode.py [--rounds 31] [--batch 64] [--width 64]

The twin is what one writes in PyTorch: a module for the derivative, and `torchdiffeq.odeint` with the same
method, steps and tolerances. Inference without gradients, and forward + backward with the gradients of all
parameters, from the same start. `rk4` of torchdiffeq is the 3/8 rule, which is `rk38` here. The bars:
fixed steps ≥ 1.5× faster, adaptive methods no slower. Needs torchdiffeq.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torchdiffeq
from interleave import interleave, report
from torch import Tensor, nn

import implicit_dsl

STEPS = 20
METHODS = {  # of a program, and of torchdiffeq
    "euler": (f"euler(steps = {STEPS})", {"method": "euler", "options": {"step_size": 1 / STEPS}}),
    "midpoint": (f"midpoint(steps = {STEPS})", {"method": "midpoint", "options": {"step_size": 1 / STEPS}}),
    "rk38": (f"rk38(steps = {STEPS})", {"method": "rk4", "options": {"step_size": 1 / STEPS}}),
    "dopri5": ("dopri5(rtol = 1e-5, atol = 1e-6)", {"method": "dopri5", "rtol": 1e-5, "atol": 1e-6}),
    "dopri5 adjoint": (
        "dopri5(rtol = 1e-5, atol = 1e-6, adjoint = true)",
        {"method": "dopri5", "rtol": 1e-5, "atol": 1e-6},
    ),
}
PROGRAMS = {
    "mlp": """
model M(d = WIDTH)
    input u[d]
    layer first = Dense(2*d), second = Dense(d)
    ode t in 0..1
        state x[d] = u
        D(x) ~ second * tanh(first * x)
    end
    output y = last(x)
    @solver(x, METHOD)
end
""",
    "timed": """
model M(d = WIDTH)
    input u[d]
    param A[d, d], b[d] = normal(0.5), c[d] = normal(0.5)
    ode t in 0..1
        state x[d] = u
        D(x) ~ tanh(A*x + b*t + c)
    end
    output y = last(x)
    @solver(x, METHOD)
end
""",
}


class MLP(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.first, self.second = model.first, model.second

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class Timed(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.A, self.b, self.c = model.A, model.b, model.c

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.A.T + self.b * t + self.c)


class ByHand(nn.Module):
    def __init__(self, rate: nn.Module, settings: dict[str, object], adjoint: bool) -> None:
        super().__init__()
        self.rate, self.settings = rate, settings
        self.solve = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint

    def forward(self, u: Tensor) -> Tensor:
        return self.solve(self.rate, u, torch.tensor([0.0, 1.0]), **self.settings)[-1]


def runs(model: nn.Module, u: Tensor, training: bool) -> Callable[[], object]:
    def infer() -> Tensor:
        with torch.no_grad():
            return model(u)

    def train() -> None:
        model.zero_grad()
        model(u).square().mean().backward()

    return train if training else infer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    given = parser.parse_args()
    torch.manual_seed(0)
    for name, text in PROGRAMS.items():
        for title, (method, settings) in METHODS.items():
            source = text.replace("METHOD", method).replace("WIDTH", str(given.width))
            ours = implicit_dsl.loads(source).M()
            theirs = ByHand({"mlp": MLP, "timed": Timed}[name](ours), settings, "adjoint" in title)
            u = torch.randn(given.batch, given.width)
            torch.testing.assert_close(ours(u), theirs(u), rtol=1e-4, atol=1e-5)
            for training in (False, True):
                what = "fwd + bwd" if training else "inference"
                candidates = {"by hand": runs(theirs, u, training), "generated": runs(ours, u, training)}
                bar = 1 / 1.5 if "steps" in method else 1.0
                report(f"{name}  {title}  {what}", interleave(candidates, given.rounds), "by hand", bar)


if __name__ == "__main__":
    main()
