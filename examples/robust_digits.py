"""Certified training of an equilibrium model on handwritten digits: what certainty costs in accuracy.

    python examples/robust_digits.py [--seeds 3] [--save folder] [--picture curve.svg] [--quick]

The same model of 40 states is trained on cross-entropy alone, with a price λ on its sensitivity S, and on
the worst cross-entropy that intervals allow within ε. For each, the share of test images that is classified
right is printed, and for several ε the share that is proved right for every image within ε, by intervals and
by implicit CROWN, and the share that an attack (PGD with restarts) leaves right: the truth lies between the
last two.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from tqdm import trange

import implicit_dsl
from implicit_dsl.analysis import attack, certified_accuracy
from implicit_dsl.train import robust_loss

HERE = Path(__file__).parent
PRICES = (3e-4, 1e-3, 3e-3)
RADII = (0.01, 0.03, 0.05, 0.1)  # trained on
EPSILONS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1)
EPOCHS, CERTIFIED = 60, 100  # passes, and test images that are certified


@dataclass(frozen=True)
class Recipe:
    """One way to train: a price on S, a radius for the worst case, or neither."""

    name: str
    price: float = 0.0
    radius: float = 0.0


@dataclass(frozen=True)
class Result:
    """Shares of test images that are right; by ε: proved by intervals, by CROWN, and left by the attack."""

    clean: float
    sensitivity: float
    interval: tuple[float, ...]
    crown: tuple[float, ...]
    attacked: tuple[float, ...]
    seconds: float


def digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images [n, 64] in [0, 1] and labels to train on, and a quarter of all for the test, by the seed."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=0.25, random_state=seed, stratify=labels)
    train, test, train_labels, test_labels = parts
    train, test = (torch.tensor(part, dtype=torch.float32) for part in (train, test))
    return train, torch.tensor(train_labels), test, torch.tensor(test_labels)


def train(recipe: Recipe, images: Tensor, labels: Tensor, epochs: int, seed: int) -> Any:
    """Adam in batches of 64, and the projection onto ‖A‖∞ ≤ κ behind each step.

    The radius and the share of the worst case grow over the first half of the epochs.
    """
    torch.manual_seed(seed)
    model = implicit_dsl.load(HERE / "robust_digits.impl", λ=recipe.price).RobustDigits()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for epoch in trange(epochs, desc=recipe.name, leave=False, disable=None):
        grown = min(1.0, 2 * (epoch + 1) / epochs)
        for batch in torch.randperm(len(images)).split(64):
            u, target = images[batch], labels[batch]
            if recipe.radius > 0:
                loss = robust_loss(
                    model, u, target, grown * recipe.radius, lower=0.0, upper=1.0, share=grown, tolerance=1e-4
                )
            else:
                loss = F.cross_entropy(model(u), target)
            if recipe.price > 0:
                loss = loss + model.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.project_()
    return model.eval()


def measured(model: Any, images: Tensor, labels: Tensor, count: int, seconds: float) -> Result:
    """What a trained model reaches on the test images; proofs and attacks are of the first `count`."""
    with torch.no_grad():
        clean = (model(images).argmax(1) == labels).float().mean().item()
    u, target = images[:count], labels[:count]
    proved: dict[str, list[float]] = {"interval": [], "crown": []}
    left = []
    for epsilon in EPSILONS:
        for method, shares in proved.items():
            found = certified_accuracy(
                model, u, target, epsilon, method=method, lower=0.0, upper=1.0, attack=False, progress=False
            )
            shares.append(found.certified)
        left.append(attack(model, u, target, epsilon, lower=0.0, upper=1.0).accuracy)
    return Result(clean, sensitivity(model), *(tuple(s) for s in (*proved.values(), left)), seconds)


def sensitivity(model: Any) -> float:
    """The largest row sum of S."""
    A, B, C = (abs(getattr(model, name).detach().double()) for name in "ABC")
    S = C @ torch.linalg.solve(torch.eye(len(A), dtype=A.dtype) - A, B)
    return float(S.sum(1).amax())


def shown(values: Sequence[float], scale: float = 100.0) -> str:
    """Mean ± standard deviation."""
    spread = f" ±{scale * stdev(values):4.1f}" if len(values) > 1 else ""
    return f"{scale * mean(values):5.1f}{spread}"


def table(results: dict[str, list[Result]]) -> str:
    """The trade-off, one line for each way to train."""
    seeds = len(next(iter(results.values())))
    wide = 12 if seeds > 1 else 9
    lines = [
        f"{'':18}{'clean':>{wide}}{'‖S‖∞':>8}  " + "".join(f"{f'ε = {e:g}':>{wide + 1}}" for e in EPSILONS)
    ]
    for name, found in results.items():
        first = f"{shown([one.clean for one in found]):>{wide}}"
        lines.append(f"{name:18}{first}{mean(one.sensitivity for one in found):8.0f}")
        for title in ("interval", "crown", "attacked"):
            values = [[getattr(one, title)[at] for one in found] for at in range(len(EPSILONS))]
            lines.append(f"  {title:16}{'':{wide + 10}}" + "".join(f"{shown(v):>{wide + 1}}" for v in values))
    return "\n".join(lines)


def curve(results: dict[str, list[Result]]) -> str:
    """Accuracy over ε as SVG: proved by CROWN as lines, under attack as dashes, a colour for each way."""
    chosen = [name for name in results if name == "plain" or name.startswith(("price", "worst"))]
    colours = ("#333", "#9ecae1", "#4292c6", "#08519c", "#fdae6b", "#f16913", "#d94801", "#8c2d04", "#54278f")
    width, height, left, top = 520, 320, 56, 20
    text = 'font-family="sans-serif" font-size="12" fill="#333"'

    def place(epsilon: float, share: float) -> str:
        return f"{left + width * epsilon / EPSILONS[-1]:.1f},{top + height * (1 - share):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 150} {top + height + 50}">',
        "<title>Certified accuracy, and accuracy under attack, over the radius</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = top + height * (1 - share)
        parts.append(f'<path d="M{left} {y:.1f}h{width}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end" {text}>{100 * share:.0f} %</text>'
        )
    for epsilon in EPSILONS[1:]:
        x = left + width * epsilon / EPSILONS[-1]
        parts.append(
            f'<text x="{x:.1f}" y="{top + height + 18}" text-anchor="middle" {text}>{epsilon:g}</text>'
        )
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle" {text}>ε</text>')
    for at, (name, colour) in enumerate(zip(chosen, colours)):
        found = results[name]
        clean = mean(one.clean for one in found)
        for title, style in (("crown", ""), ("attacked", ' stroke-dasharray="2 4"')):
            shares = [mean(getattr(one, title)[k] for one in found) for k in range(len(EPSILONS))]
            line = " ".join(place(e, s) for e, s in zip((0.0, *EPSILONS), (clean, *shares)))
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{style}/>')
        y = top + 14 + 20 * at
        parts.append(f'<path d="M{left + width + 12} {y - 4}h18" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{left + width + 36}" y="{y}" {text}>{name}</text>')
    notes = (("proved", ""), ("under attack", ' stroke-dasharray="2 4"'))
    for at, (note, style) in enumerate(notes):
        y = top + height - 20 * (1 - at)
        parts.append(f'<path d="M{left + width + 12} {y - 4}h18" stroke="#333" stroke-width="2"{style}/>')
        parts.append(f'<text x="{left + width + 36}" y="{y}" {text}>{note}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def recipes(quick: bool) -> list[Recipe]:
    """The ways to train."""
    prices, radii = (PRICES[1:2], RADII[1:2]) if quick else (PRICES, RADII)
    found = [Recipe("plain")]
    found += [Recipe(f"price λ = {price:g}", price=price) for price in prices]
    return found + [Recipe(f"worst ε = {radius:g}", radius=radius) for radius in radii]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--images", type=int, default=CERTIFIED, help="test images that are certified")
    parser.add_argument("--save", type=Path, help="a folder for the weights")
    parser.add_argument("--picture", type=Path, help="where to draw the curves, an SVG file")
    parser.add_argument("--quick", action="store_true", help="one seed, 8 epochs, 20 images, one λ and one ε")
    options = parser.parse_args()
    if options.seeds < 1 or options.epochs < 1 or options.images < 1:
        parser.error("--seeds, --epochs and --images are at least 1")
    if options.quick:
        options.seeds, options.epochs, options.images = 1, 8, 20
    torch.set_num_threads(1)
    results: dict[str, list[Result]] = {}
    for seed in range(options.seeds):
        images, labels, test_images, test_labels = digits(seed)
        for recipe in recipes(options.quick):
            start = perf_counter()
            model = train(recipe, images, labels, options.epochs, seed)
            seconds = perf_counter() - start
            found = measured(model, test_images, test_labels, options.images, seconds)
            results.setdefault(recipe.name, []).append(found)
            if options.save is not None:
                options.save.mkdir(parents=True, exist_ok=True)
                name = recipe.name.replace(" = ", "_").replace(" ", "_").replace("λ", "l").replace("ε", "e")
                torch.save(model.state_dict(), options.save / f"{name}_{seed}.pt")
            print(f"seed {seed}, {recipe.name}: {100 * found.clean:.1f} % in {seconds:.0f} s", flush=True)
    print(f"\nof {options.images} test images, in % (clean: of all), {options.seeds} seeds\n{table(results)}")
    if options.picture is not None:
        options.picture.write_text(curve(results), encoding="utf-8")
        print(f"wrote {options.picture}")


if __name__ == "__main__":
    main()
