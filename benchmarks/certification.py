"""Certified accuracy of an equilibrium model on handwritten digits: how near an attack, and what it takes.

    python benchmarks/certification.py [--seeds 3] [--weights file.pt]

The model of examples/robust_digits.py, 40 states, trained on cross-entropy alone; the first 100 test images
by each method, and 1,000 images at one ε. Or the weights of a file: A, B, b, C, c of the same shapes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from robust_digits import HERE, Recipe, digits, train

import implicit_dsl
from implicit_dsl.analysis import attack, certified_accuracy

EPSILONS = (0.01, 0.02, 0.03)
METHODS: dict[str, dict[str, Any]] = {
    "sensitivity": {"method": "sensitivity"},
    "interval": {"method": "interval"},
    "crown": {"method": "crown"},
    "crown, thorough": {"method": "crown", "thorough": True},
}


def shares(model: Any, images: Tensor, labels: Tensor) -> None:
    for name, settings in METHODS.items():
        made = []
        for epsilon in EPSILONS:
            found = certified_accuracy(
                model, images, labels, epsilon, attack=False, progress=False, **settings
            )
            made.append(f"{found.certified:8.3f} ({found.seconds:6.2f} s)")
        print(f"  {name:18}" + "".join(made))
    reached = [attack(model, images, labels, epsilon, steps=200, restarts=5).accuracy for epsilon in EPSILONS]
    print(f"  {'under attack':18}" + "".join(f"{one:8.3f}           " for one in reached))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weights")
    options = parser.parse_args()
    for seed in range(options.seeds if options.weights is None else 1):
        images, labels, test, test_labels = digits(seed)
        if options.weights is None:
            model = train(Recipe("cross-entropy"), images, labels, 60, seed)
        else:
            model = implicit_dsl.load(HERE / "robust_digits.impl").RobustDigits(dtype=torch.float64)
            model.load_state_dict(torch.load(options.weights, weights_only=True))
        model = model.double().eval()
        images, test = images.double(), test.double()
        with torch.no_grad():
            right = (model(test).argmax(1) == test_labels).double().mean().item()
        print(f"seed {seed}: clean {right:.3f} of {len(test)} test images; at ε = {EPSILONS}, the first 100:")
        shares(model, test[:100], test_labels[:100])
        for settings in ({"attack": False}, {"attack": True}):
            began = time.perf_counter()
            found = certified_accuracy(model, images[:1000], labels[:1000], 0.02, progress=False, **settings)
            print(f"  1,000 training images, {settings}: {time.perf_counter() - began:.2f} s, {found}")


if __name__ == "__main__":
    main()
