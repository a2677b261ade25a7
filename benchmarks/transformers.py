"""Certified accuracy of a small transformer on handwritten digits, with and without an equilibrium behind it.

    OMP_NUM_THREADS=1 python benchmarks/transformers.py [--samples 100] [--steps 600]

One layer with attention of two heads and three LayerNorms over the eight rows of an image, trained on
cross-entropy alone; then the same with a loop of 24 states that reads it. The share of test images whose
class is proved for all images within ε, by each method, and the share that an attack leaves.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import implicit_dsl
from implicit_dsl import runtime
from implicit_dsl.analysis import attack, certified_accuracy

EPSILONS = (0.001, 0.003, 0.005)
LAYER = """
block Layer(d, h)
    input x[_, d]
    n = LayerNorm()(x)
    r = LayerNorm()(n + Dense(d) * attend(Dense(d) * n, Dense(d) * n, Dense(d) * n; heads = h))
    output y = LayerNorm()(r + Dense(d) * relu(Dense(2*d) * r))
end
"""
PROGRAMS = {
    "a layer": """
model Classifier(d = 12)
    input u[8, 8]
    output y[10] = Dense(10) * flatten(Layer(d, 2)(Dense(d) * u))
end
""",
    "a layer and a loop": """
model Classifier(d = 12)
    input u[8, 8]
    param A[24, 24]
    state z[24] ~ tanh(A*z + Dense(24) * flatten(Layer(d, 2)(Dense(d) * u)))
    output y[10] = Dense(10) * z
    @wellposed norm(A, Inf) <= 0.9
end
""",
}


def trained(text: str, steps: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The model, and the test images with their classes."""
    digits = load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32).reshape(-1, 8, 8)
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    model: Any = implicit_dsl.loads(LAYER + text).Classifier()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    if hasattr(model, "project_"):
        runtime.project_after(optimizer, model)
    for _ in range(steps):
        chosen = torch.randint(1_400, (64,))
        optimizer.zero_grad()
        cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return model.eval(), images[1_400:], labels[1_400:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    for title, text in PROGRAMS.items():
        model, images, labels = trained(text, options.steps)
        with torch.no_grad():
            right = (model(images).argmax(1) == labels).double().mean().item()
        print(
            f"{title}: {100 * right:.1f} % of {len(labels)} test images; "
            f"the first {options.samples}, ε = {EPSILONS}"
        )
        images, labels = images[: options.samples], labels[: options.samples]
        for method in ("interval", "crown"):
            made = [
                certified_accuracy(
                    model, images, labels, epsilon, method=method, attack=False, progress=False
                )
                for epsilon in EPSILONS
            ]
            shown = "".join(f"{100 * one.certified:7.1f} % ({one.seconds:5.1f} s)" for one in made)
            print(f"  {method:14}{shown}", flush=True)
        reached = [
            attack(model, images, labels, epsilon, steps=100, restarts=3).accuracy for epsilon in EPSILONS
        ]
        print(
            f"  {'under attack':14}" + "".join(f"{100 * one:7.1f} %          " for one in reached), flush=True
        )


if __name__ == "__main__":
    main()
