"""Let the architecture emerge from data: open the zeros of A, put a price on entries, and see what is left.

    python examples/train_architecture.py digits --seeds 5
    python examples/train_architecture.py skip --seeds 10

`digits`: a small LeNet with all its zero blocks opened, on scikit-learn's handwritten digits, beside the
same LeNet with as many weights as are left. `skip`: data of a chain of layers with one connection that skips
two, which is to be found among all that could be.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from tqdm import trange

import implicit_dsl
from implicit_dsl.discovery import tensors_of
from implicit_dsl.train import ProximalStep, discover

HERE = Path(__file__).parent
CLEAR = 0.2  # the share of the largest norm below which a connection is weak


def digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images [n, 1, 8, 8] and labels to train on, and a quarter of all for the test, by the seed."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    test, train = order[:450], order[450:]
    return images[train], labels[train], images[test], labels[test]


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images whose largest score is that of their label, in percent."""
    with torch.no_grad():
        return 100 * (model(images).argmax(1) == labels).float().mean().item()


def fit(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, title: str) -> None:
    """Adam on cross-entropy with a falling rate, and the proximal step of the penalties of the model."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    step = ProximalStep(optimizer, model) if hasattr(model, "penalties") else optimizer
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in trange(epochs, desc=title, leave=False, disable=None):
        for batch in torch.randperm(len(images)).split(100):
            step.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            step.step()
        schedule.step()


def count(model: nn.Module) -> int:
    """The trained numbers of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def widths(weights: int) -> dict[str, int]:
    """The widths of the LeNet that is nearest to a number of weights, all in the same proportion."""
    scales = [0.25 + 0.05 * step for step in range(120)]
    tried = [{"a": round(4 * s), "b": round(8 * s), "c": round(24 * s), "d": round(16 * s)} for s in scales]
    return min(tried, key=lambda one: abs(size_of(**one) - weights))


def size_of(a: int, b: int, c: int, d: int) -> int:
    """The weights of the LeNet with these widths, with offsets."""
    return 10 * a + (4 * a + 1) * b + (4 * b + 1) * c + (c + 1) * d + (d + 1) * 10


def train_digits(options: argparse.Namespace) -> None:
    rows = []
    for seed in range(options.seeds):
        images, labels, test_images, test_labels = digits(seed)
        torch.manual_seed(seed)
        program = implicit_dsl.load(HERE / "emerging.impl", λ=options.price, model="OpenDigits")
        opened = program.OpenDigits()
        start = perf_counter()
        fit(opened, images, labels, options.epochs, "opened")
        seconds = perf_counter() - start
        report = opened.prune_(options.tolerance, test_images[:50])
        found = discover(opened, "Emerged")
        emerged = implicit_dsl.loads(found.source).Emerged()
        emerged.load_state_dict(tensors_of(found, torch.float32))
        left = accuracy(emerged, test_images, test_labels)
        wide = widths(found.weights[1])
        row = [found.weights[1], left]
        for sizes in ({"a": 4, "b": 8, "c": 24, "d": 16}, wide):
            torch.manual_seed(seed)
            closed = implicit_dsl.load(HERE / "emerging.impl", model="Digits", **sizes).Digits()
            fit(closed, images, labels, options.epochs, "closed")
            row += [count(closed), accuracy(closed, test_images, test_labels)]
        rows.append(row)
        bound = "" if report.bound is None else f", |Δy| ≤ {report.bound['y']:.2g} by pruning"
        print(
            f"seed {seed}: {row[0]} of {found.weights[0]} weights are left, {left:.1f} % "
            f"({seconds:.0f} s{bound}); closed {row[2]}: {row[3]:.1f} %, closed {row[4]}: {row[5]:.1f} %"
        )
        if seed == 0 and options.save is not None:
            options.save.write_text(found.source)  # `implicitc plot` draws its A
    print(f"\n{'':26}{'weights':>9}{'accuracy %':>14}")
    for title, at in (("opened, what is left", 0), ("closed, as it was", 2), ("closed, of equal size", 4)):
        sizes, scores = [row[at] for row in rows], [row[at + 1] for row in rows]
        spread = stdev(scores) if len(scores) > 1 else 0.0
        print(f"{title:26}{mean(sizes):9.0f}{mean(scores):9.2f} ± {spread:.2f}")


def train_skip(options: argparse.Namespace) -> None:
    hits = clear = exact = 0
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        programs = implicit_dsl.load(HERE / "emerging.impl", model="Teacher")
        teacher = programs.Teacher()
        with torch.no_grad():
            for name, parameter in teacher.named_parameters():
                if "weight" in name or name.startswith("A_"):
                    nn.init.normal_(parameter, std=1.5 / parameter.shape[1] ** 0.5)
        inputs = torch.randn(2000, 6)
        with torch.no_grad():
            targets = teacher(inputs)
        model = implicit_dsl.load(HERE / "emerging.impl", model="OpenChain", λ=options.price).OpenChain()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        step = ProximalStep(optimizer, model)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
        for _ in trange(options.epochs, desc="chain", leave=False, disable=None):
            step.zero_grad()
            loss = (model(inputs) - targets).square().mean()
            loss.backward()
            step.step()
            schedule.step()
        norms = {
            name: float(getattr(model, name).detach().norm()) for name in ("A_h3_h1", "A_h4_h1", "A_h4_h2")
        }
        first = max(norms, key=lambda name: norms[name]) == "A_h4_h1"
        weak = [norms[name] <= CLEAR * norms["A_h4_h1"] for name in ("A_h3_h1", "A_h4_h2")]
        gone = [norms[name] == 0.0 for name in ("A_h3_h1", "A_h4_h2")]
        hits, clear, exact = hits + first, clear + (first and all(weak)), exact + (first and all(gone))
        shown = ", ".join(f"‖{name}‖ = {norm:.2f}" for name, norm in norms.items())
        print(f"seed {seed}: {shown}; error {float(loss.detach() / targets.var()):.2%} of the variance")
    print(
        f"the true connection is the strongest in {hits} of {options.seeds}, five times as strong as any "
        f"other in {clear}, and the only one in {exact}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("task", choices=("digits", "skip"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="40 passes over the digits, or 2000 steps")
    parser.add_argument("--price", type=float, help="λ of the penalty")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="weights up to this are pruned")
    parser.add_argument(
        "--save", type=Path, help="where to write the program of the first seed, an .impl file"
    )
    options = parser.parse_args()
    options.epochs = options.epochs or {"digits": 40, "skip": 2000}[options.task]
    options.price = options.price or {"digits": 2e-3, "skip": 5e-3}[options.task]
    torch.set_num_threads(1)
    (train_digits if options.task == "digits" else train_skip)(options)


if __name__ == "__main__":
    main()
