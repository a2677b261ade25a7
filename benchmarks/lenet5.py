"""The generated LeNet-5 against the same network written by hand as `nn.Sequential`, same weights.

    OMP_NUM_THREADS=1 python benchmarks/lenet5.py [--threads 1] [--batches 1 16 64 256]

The bars: with max-pooling and relu, inference ≤ 1.00× at batch 1, ≤ 0.6× at 16, ≤ 0.45× at 64
and 256; forward + backward ≤ 1.00× everywhere and ≤ 0.9× at 64. The network of 1998, with
average pooling and tanh, ≤ 1.00× everywhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from interleave import interleave, report
from torch import nn

import implicit_dsl

EXAMPLES = Path(__file__).parents[1] / "examples"
INFERENCE = {1: 1.0, 16: 0.6, 64: 0.45, 256: 0.45}
TRAINING = {1: 1.0, 16: 1.0, 64: 0.9, 256: 1.0}


def by_hand(modern: bool) -> nn.Sequential:
    """LeNet-5 as one would write it."""
    phi = nn.ReLU if modern else nn.Tanh
    pool = nn.MaxPool2d if modern else nn.AvgPool2d
    if modern:
        head = [nn.Flatten(), nn.Linear(400, 120)]
    else:
        head = [nn.Conv2d(16, 120, 5), nn.Flatten()]
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), phi(), pool(2), nn.Conv2d(6, 16, 5), phi(), pool(2), *head, phi(),
        nn.Linear(120, 84), phi(), nn.Linear(84, 10),
    )  # fmt: skip


def compiled(modern: bool, weights: dict[str, torch.Tensor]) -> nn.Module:
    """The generated module with the weights of the other, which come in the same order."""
    name = "lenet5_relu" if modern else "lenet5"
    generated = implicit_dsl.load(EXAMPLES / f"{name}.impl")
    model: nn.Module = getattr(generated, generated.__all__[0])()
    model.load_state_dict(dict(zip(model.state_dict(), weights.values())))
    return model


def compare(modern: bool, batch: int, rounds: int) -> None:
    torch.manual_seed(0)
    reference = by_hand(modern)
    model = compiled(modern, reference.state_dict())
    images = torch.randn(batch, 1, 32, 32)
    images[:, :, :8] = 0  # blank borders, as in digits: ties for max-pooling
    labels = torch.randint(0, 10, (batch,))
    torch.testing.assert_close(model(images), reference(images))

    def inference(network: nn.Module):
        def run() -> None:
            with torch.no_grad():
                network(images)

        return run

    def training(network: nn.Module):
        parameters = list(network.parameters())
        return lambda: torch.autograd.grad(F.cross_entropy(network(images), labels), parameters)

    for one, other in zip(training(reference)(), training(model)()):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    kind = "max-pool, relu" if modern else "avg-pool, tanh"
    for title, make, bars in (("inference", inference, INFERENCE), ("fwd + bwd", training, TRAINING)):
        found = interleave({"by hand": make(reference), "generated": make(model)}, rounds)
        bar = bars.get(batch) if modern else 1.0
        report(f"{kind}  {title}  batch {batch}", found, "by hand", bar)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 256])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} thread(s); medians, paired ratios [quartiles]")
    for modern in (True, False):
        for batch in options.batches:
            compare(modern, batch, options.rounds)


if __name__ == "__main__":
    main()
