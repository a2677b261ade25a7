"""Train each family of equilibrium models and print accuracy, certificate and solver statistics.

    python examples/train_equilibria.py [program.impl ...]

Images are scikit-learn's 1,797 handwritten digits of 8 × 8 pixels, every fifth one kept for the
test. The graphs are generated: chains of nodes where only the first says which class the whole
chain has, so that a network has to carry it along as many edges as the chain is long.
"""

from __future__ import annotations

import argparse
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from tqdm import trange

import implicit_dsl
from implicit_dsl import runtime

HERE = Path(__file__).parent
PROGRAMS = (
    "implicit",
    "conv_deq",
    "residual_deq",
    "monotone_deq",
    "nemon",
    "multiscale_deq",
    "deq_transformer",
    "graph",
)
Data = tuple[tuple[Tensor, ...], Tensor]


def digits(shape: tuple[int, ...]) -> Data:
    """All digits in the shape that a model takes, with values around 0, and their labels [1797]."""
    data = load_digits()
    pixels = torch.tensor(data.data, dtype=torch.float32) / 8 - 1
    return (pixels.reshape(-1, *shape),), torch.tensor(data.target)


def chains(count: int = 600, nodes: int = 20, features: int = 8) -> Data:
    """Chains of nodes [count, nodes, features] with their adjacency matrices, and a class for each node.

    The task of Gu et al. 2020: the class stands in the first node alone, and all nodes have to
    know it. The adjacency matrix is normalised to row sums of 1.
    """
    labels = torch.randint(2, (count,))
    u = torch.zeros(count, nodes, features)
    u[:, 0, :2] = F.one_hot(labels, 2).float()
    u += 0.01 * torch.randn_like(u)
    near = torch.eye(nodes) + torch.diag(torch.ones(nodes - 1), -1)
    G = (near / near.sum(1, keepdim=True)).expand(count, -1, -1).contiguous()
    return (u, G), labels[:, None].expand(-1, nodes).contiguous()


def accuracy(model: nn.Module, inputs: tuple[Tensor, ...], labels: Tensor) -> float:
    """The share of samples (or nodes) whose largest score is that of their label."""
    model.eval()
    with torch.no_grad():
        return (model(*inputs).argmax(-1) == labels).float().mean().item()


def train(model: nn.Module, data: Data, epochs: int) -> tuple[float, float]:
    """Test accuracy after training, and seconds for an epoch."""
    inputs, labels = data
    test = torch.arange(len(labels)) % 5 == 0
    kept, held = torch.nonzero(~test).flatten(), torch.nonzero(test).flatten()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    if hasattr(model, "project_"):
        runtime.project_after(optimizer, model)  # the one line that keeps the weights in their set
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    began = time.process_time()
    with trange(epochs, unit="epoch", leave=False, disable=None) as bar:  # only in a terminal
        for _ in bar:
            model.train()
            for batch in kept[torch.randperm(len(kept))].split(64):
                scores = model(*(tensor[batch] for tensor in inputs))
                loss = F.cross_entropy(scores.flatten(0, -2), labels[batch].flatten())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                bar.set_postfix(loss=f"{loss.item():.3f}")
            schedule.step()
    seconds = (time.process_time() - began) / epochs
    return accuracy(model, tuple(tensor[held] for tensor in inputs), labels[held]), seconds


def data_for(model: nn.Module, name: str) -> Data:
    """The task of a program."""
    if name == "graph":
        return chains()
    shapes: dict[str, tuple[int, ...]] = {
        "conv_deq": (1, 8, 8),
        "residual_deq": (1, 8, 8),
        "multiscale_deq": (1, 8, 8),
        "deq_transformer": (8, 8),
    }
    return digits(shapes.get(name, (64,)))


def report(name: str, path: Path, epochs: int, seed: int) -> None:
    """Train each model of a program, and print one line for it."""
    generated = implicit_dsl.load(path)
    for title in generated.__all__:
        torch.manual_seed(seed)
        make: Callable[[], nn.Module] = getattr(generated, title)
        model = make()
        reached, seconds = train(model, data_for(model, name), epochs)
        size = sum(weight.numel() for weight in model.parameters())
        print(
            f"{title:<18} {size:>7,} parameters  test accuracy {reached:.2%}  {seconds:.2f} s an epoch",
            flush=True,
        )
        if hasattr(model, "certify"):
            print(textwrap.indent(str(model.certify()), "    "))
            for loop, found in model.stats.items():
                print(f"    {loop}: {found}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("programs", nargs="*", default=PROGRAMS, help="names of programs beside this file")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in options.programs:
        report(Path(name).stem, HERE / f"{Path(name).stem}.impl", options.epochs, options.seed)


if __name__ == "__main__":
    main()
