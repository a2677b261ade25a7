"""How close bounds are to what an attack reaches, by method, and what they cost.

    OMP_NUM_THREADS=1 python benchmarks/bounds.py [--draws 20] [--epsilon 0.1]

Random networks with six inputs; the largest value of an output over the box of radius ε around a random
input, less its value there, divided by the same of an attack with gradients (which is below the truth, so
that true ratios are smaller). Medians over draws, with the quartiles, and seconds per network.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import implicit_dsl
from implicit_dsl.analysis import output_bounds

METHODS: dict[str, dict[str, Any]] = {
    "sensitivity": {"method": "sensitivity"},
    "interval": {"method": "interval"},
    "nemon": {"method": "nemon"},
    "crown": {"method": "crown", "tighten": 0},
    "crown, tightened": {"method": "crown", "tighten": 3},
    "… and optimised": {"method": "crown", "tighten": 3, "optimise": 30},
    "lp": {"method": "lp", "tighten": 3},
    "sdp": {"method": "sdp", "tighten": 3},
}
LOOP = """
model Loop(n = 24, p = 6)
    input u[p]
    param A[n, n], B[n, p], b[n], C[1, n]
    state x[n] ~ relu(A*x + B*u + b)
    output y = C*x
    @wellposed unchecked
end
"""
MLP = """
model Layers(n = 10, p = 6)
    input u[p]
    state a[n] ~ relu(Dense(n)*u), b[n] ~ relu(Dense(n)*a), c[n] ~ relu(Dense(n)*b)
    output y[1] = Dense(1)*c
end
"""


def loop(root: float, diagonal: float) -> Any:
    """Random weights with a Perron root of |A|, and something added to its diagonal before."""
    model = implicit_dsl.loads(LOOP).Loop(dtype=torch.float64).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
        A = model.A.numpy() + diagonal * np.eye(24)
        A *= root / max(abs(np.linalg.eigvals(abs(A))))
        model.A.copy_(torch.from_numpy(A))
    return model


def layers() -> Any:
    model = implicit_dsl.loads(MLP).Layers(dtype=torch.float64).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.7)
    return model


FAMILIES: dict[str, Callable[[], Any]] = {
    "loop, root 0.6": lambda: loop(0.6, 0.0),
    "loop, root 0.9, negative diagonal": lambda: loop(0.9, -6.0),
    "three layers of 10": layers,
}


def attacked(model: Any, u: Tensor, epsilon: float, steps: int = 200, starts: int = 8) -> float:
    """The largest output that is found."""
    best = -np.inf
    for start in range(starts):
        v = u if start == 0 else u + epsilon * (2 * torch.rand_like(u) - 1)
        for step in range(steps):
            v = v.detach().requires_grad_()
            y = model(v)
            best = max(best, y.item())
            (slope,) = torch.autograd.grad(y.sum(), v)
            v = v.detach() + epsilon * (1 - step / steps) * slope.sign()
            v = torch.minimum(torch.maximum(v, u - epsilon), u + epsilon)
    return best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--epsilon", type=float, default=0.1)
    options = parser.parse_args()
    for title, made in FAMILIES.items():
        ratios: dict[str, list[float]] = {name: [] for name in METHODS}
        seconds = dict.fromkeys(METHODS, 0.0)
        draws = 0
        for seed in range(options.draws):
            torch.manual_seed(seed)
            model, u = made(), torch.randn(1, 6, dtype=torch.float64)
            gain = attacked(model, u, options.epsilon) - model(u).item()
            if gain < 1e-3:  # the output hardly moves
                continue
            draws += 1
            for name, settings in METHODS.items():
                began = time.perf_counter()
                _, high = output_bounds(model, u - options.epsilon, u + options.epsilon, **settings)
                seconds[name] += time.perf_counter() - began
                ratios[name].append((float(high) - model(u).item()) / gain)
        print(f"{title} ({draws} draws)")
        for name in METHODS:
            low, middle, high = np.quantile(ratios[name], (0.25, 0.5, 0.75))
            print(f"  {name:18} {middle:8.3f}  [{low:.3f}, {high:.3f}]  {seconds[name] / draws:8.4f} s")


if __name__ == "__main__":
    main()
