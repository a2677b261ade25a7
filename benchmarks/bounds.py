"""How close bounds are to what an attack reaches, by method, and what they cost.

    OMP_NUM_THREADS=1 python benchmarks/bounds.py [--draws 20] [--epsilon 0.1]

Random networks with six inputs; the largest value of an output over the box of radius ε (ε ÷ 10 for the
layer of a transformer) around a random input, less its value there, divided by the same of an attack with
gradients (which is below the truth, so that true ratios are smaller). Medians over draws, with the quartiles,
and seconds per network.
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
from implicit_dsl.analysis import NoBound, output_bounds

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
ENCODER = """
model Encoder
    input u[6]
    state e[3, 8] ~ LayerNorm()(reshape(Dense(24)*u, 3, 8))
    state a[3, 8] ~ attend(Dense(8)*e, Dense(8)*e, Dense(8)*e; heads = 2)
    state r[3, 8] ~ LayerNorm()(e + Dense(8)*a)
    state h[3, 16] ~ relu(Dense(16)*r)
    state g[3, 8] ~ LayerNorm()(r + Dense(8)*h)
    output y[1] = Dense(1)*flatten(g)
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


def encoder() -> Any:
    """Initialised as PyTorch does: its softmax is not far from uniform."""
    return implicit_dsl.loads(ENCODER).Encoder(dtype=torch.float64).eval()


# Networks, and the share of ε that they are bounded on.
FAMILIES: dict[str, tuple[Callable[[], Any], float]] = {
    "loop, root 0.6": (lambda: loop(0.6, 0.0), 1.0),
    "loop, root 0.9, negative diagonal": (lambda: loop(0.9, -6.0), 1.0),
    "three layers of 10": (layers, 1.0),
    "layer of a transformer": (encoder, 0.1),
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
    for title, (made, share) in FAMILIES.items():
        epsilon = share * options.epsilon
        ratios: dict[str, list[float]] = {name: [] for name in METHODS}
        seconds = dict.fromkeys(METHODS, 0.0)
        draws = 0
        for seed in range(options.draws):
            torch.manual_seed(seed)
            model, u = made(), torch.randn(1, 6, dtype=torch.float64)
            gain = attacked(model, u, epsilon) - model(u).item()
            if gain < 1e-3 * share:  # the output hardly moves
                continue
            draws += 1
            for name, settings in METHODS.items():
                began = time.perf_counter()
                try:
                    _, high = output_bounds(model, u - epsilon, u + epsilon, **settings)
                except (NoBound, ValueError):  # products have no S, and the SDP is for small networks
                    continue
                seconds[name] += time.perf_counter() - began
                ratios[name].append((float(high) - model(u).item()) / gain)
        print(f"{title} ({draws} draws)")
        for name in METHODS:
            if not ratios[name]:
                print(f"  {name:18}        –")
                continue
            low, middle, high = np.quantile(ratios[name], (0.25, 0.5, 0.75))
            print(f"  {name:18} {middle:8.3f}  [{low:.3f}, {high:.3f}]  {seconds[name] / draws:8.4f} s")


if __name__ == "__main__":
    main()
