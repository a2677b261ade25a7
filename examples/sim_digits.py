"""From a trained network to an implicit model: how many zeros cost how much accuracy, on handwritten digits.

    python examples/sim_digits.py [--epochs 60] [--seed 0] [--picture sim_digits.png] [--save sparse.impl]

An MLP of plain PyTorch is trained on the digits of scikit-learn. Its states on the training images make an
implicit model x = relu(A x + B u + b), y = C x + D u + d, for several penalties λ and bounds ‖A‖∞ ≤ κ; the
test images tell what is left. `--save` writes the program of the sparsest model that loses no more than one
percent.
"""

from __future__ import annotations

import argparse
import importlib.util
import warnings
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from implicit_dsl.train import SimWarning, StateDriven, collect_states, sim_path

KAPPAS = (0.99, 0.5, 0.1)
PENALTIES = (0.3, 0.2, 0.1, 0.03, 0.01, 0.003)
TRAINED = 1347  # of 1797 images


def trained(u: Tensor, target: Tensor, epochs: int) -> nn.Module:
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, 40), nn.ReLU(), nn.Linear(40, 10)
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(u)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(u[batch]), target[batch]).backward()
            optimizer.step()
    return net


@torch.no_grad()
def accuracy(model: nn.Module, u: Tensor, target: Tensor) -> float:
    return float((model(u).argmax(1) == target).double().mean())


def picture(path: str, curves: dict[float, list[tuple[StateDriven, float]]], dense: float) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    for kappa, points in curves.items():
        zeros, found = [100 * s.zeros for s, _ in points], [100 * a for _, a in points]
        plt.plot(zeros, found, "o-", label=f"κ = {kappa:g}")
    plt.axhline(100 * dense, color="gray", label="the network")
    plt.xlabel("zeros in A, B, C and D (%)")
    plt.ylabel("test accuracy (%)")
    plt.legend()
    plt.savefig(path, dpi=150)
    print(f"{path} is written")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", help="a PNG or SVG file, if matplotlib is there")
    parser.add_argument("--save", help="an .impl file")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    digits = load_digits()
    order = torch.randperm(len(digits.images))
    u, target = torch.tensor(digits.images).float()[order] / 16, torch.tensor(digits.target)[order]
    net = trained(u[:TRAINED], target[:TRAINED], options.epochs)
    dense = accuracy(net, u[TRAINED:], target[TRAINED:])
    numbers = sum(p.numel() for p in net.parameters())
    print(f"the network: {numbers} parameters, test accuracy {100 * dense:.1f} %")

    states = collect_states(net, u[:TRAINED])
    curves: dict[float, list[tuple[StateDriven, float]]] = {}
    titles = f"{'κ':>5} {'λ':>6} {'zeros':>8} {'numbers':>8} {'accuracy':>9} {'‖A‖∞':>7}"
    print(f"\n{titles} {'states within':>14} {'residual':>9}")
    for kappa in KAPPAS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SimWarning)  # dead states and pixels that are always white
            path = sim_path(states, penalties=PENALTIES, kappa=kappa)
        curves[kappa] = [(found, accuracy(found.model, u[TRAINED:], target[TRAINED:])) for found in path]
        for found, reached in curves[kappa]:
            numbers = sum(int((M != 0).sum()) for M in (found.A, found.B, found.C, found.D, found.b, found.d))
            residual = float(found.error.residual.square().mean().sqrt())
            print(
                f"{kappa:>5g} {found.penalty:>6g} {100 * found.zeros:>6.1f} % {numbers:>8}"
                f" {100 * reached:>7.1f} % {found.norm:>7.4f} {found.error.largest:>14.3g} {residual:>9.3g}"
            )
    good = [found for points in curves.values() for found, reached in points if reached >= dense - 0.01]
    if options.save and good:
        best = max(good, key=lambda found: found.zeros)
        Path(options.save).write_text(best.source, encoding="utf-8")
        torch.save(best.model.state_dict(), Path(options.save).with_suffix(".pt"))
        print(f"\n{options.save} is written, with its weights beside it:\n{best!r}")
    if options.picture and importlib.util.find_spec("matplotlib"):
        picture(options.picture, curves, dense)
    elif options.picture:
        print("there is no matplotlib, so no picture")


if __name__ == "__main__":
    main()
