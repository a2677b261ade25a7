"""Block-coordinate descent, the implicit gradient, and the one after the other, for equal time.

    python benchmarks/descent.py [selection digits mlp] [--seeds 3] [--seconds 8]

selection  the points of examples/feature_selection.py, without the penalty: ½ ‖y − target‖² per sample
digits     scikit-learn's 1,797 digits and an implicit model with 40 states, x = relu(A x + B u + b)
mlp        the same and a perceptron 64-40-40-10: Fenchel lifted networks

Every fourth digit is held out, drawn anew for each seed. Each method has as many CPU seconds of one thread,
all from the same weights: descent alone, Adam on the implicit gradient alone, and descent for a fourth of the
time with Adam behind it. The learning rate of Adam falls along a cosine, from 1e-2 on the digits and 2e-2 on
the points.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl.train import bcd
from implicit_dsl.train.descent import ConstantWarning

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import feature_selection

PROGRAM = """
model Implicit(n = 40; κ = 0.95)
    input u[64]
    param A[n, n], B[n, 64], C[10, n], D[10, 64], b[n], d[10]
    state x[n] ~ relu(A*x + B*u + b)
    output y[10] = C*x + D*u + d
    @wellposed norm(A, Inf) <= κ
end

model Perceptron(n = 40)
    input u[64]
    h1 ~ relu(Dense(n) * u)
    h2 ~ relu(Dense(n) * h1)
    output y[10] = Dense(10) * h2
end
"""


@dataclass(frozen=True)
class Task:
    """A model, what it is fitted to and tested on."""

    make: Callable[[], nn.Module]
    data: tuple[Tensor, Tensor]
    other: tuple[Tensor, Tensor]
    loss: str
    rate: float
    descent: dict[str, Any]

    def of(self, model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        y = model(data[0])
        if self.loss == "squared":
            return 0.5 * (y - data[1]).square().sum(1).mean()
        return F.cross_entropy(y, data[1])

    def score(self, model: nn.Module) -> float:
        """Accuracy in per cent, or the relative error."""
        with torch.no_grad():
            y = model(self.other[0])
        if self.loss == "squared":
            spread = self.other[1] - self.other[1].mean(0)
            return float((y - self.other[1]).norm() / spread.norm())
        return 100 * float((y.argmax(1) == self.other[1]).double().mean())


def selection(seed: int) -> Task:
    points = feature_selection.a_task(100 + seed, even=False)
    data, other = (points.inputs, points.targets), (points.other_inputs, points.other_targets)
    make = lambda: feature_selection.a_model(seed, 0.0)  # noqa: E731
    return Task(make, data, other, "squared", 2e-2, {"penalties": (), "gauge": False})


def of_digits(seed: int, name: str) -> Task:
    held = load_digits()
    images, labels = torch.tensor(held.data) / 16, torch.tensor(held.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    test, train = order[: len(order) // 4], order[len(order) // 4 :]

    def make() -> nn.Module:
        torch.manual_seed(seed)
        model: nn.Module = getattr(implicit_dsl.loads(PROGRAM), name)(dtype=torch.float64)
        return model

    batch = {"batch": 256} if name == "Perceptron" else {}
    data, other = (images[train], labels[train]), (images[test], labels[test])
    return Task(make, data, other, "cross_entropy", 1e-2, batch)


TASKS: dict[str, Callable[[int], Task]] = {
    "selection": selection,
    "digits": lambda seed: of_digits(seed, "Implicit"),
    "mlp": lambda seed: of_digits(seed, "Perceptron"),
}


def fit(task: Task, model: nn.Module, sweeps: int) -> float:
    """Descent with so many sweeps; returns the CPU seconds that it took."""
    start = time.process_time()
    how: dict[str, Any] = {"loss": task.loss, "look_every": sweeps, **task.descent}
    bcd(model, *task.data, sweeps=sweeps, generator=torch.Generator().manual_seed(0), **how)
    return time.process_time() - start


def descend(task: Task, model: nn.Module, seconds: float) -> None:
    """As many sweeps as there is time for, which sets the continuation; to find out how many is not timed."""
    few, more = fit(task, task.make(), 2), fit(task, task.make(), 7)
    each = max((more - few) / 5, 1e-3)
    fit(task, model, max(2, round((seconds - few) / each) + 2))


def follow_gradient(task: Task, model: nn.Module, seconds: float) -> None:
    """Adam with minibatches of 100 until the time is over."""
    optimizer = torch.optim.Adam(model.parameters(), task.rate)
    start = time.process_time()
    while (spent := time.process_time() - start) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = task.rate * 0.5 * (1 + math.cos(math.pi * min(1.0, spent / seconds)))
        samples = torch.randperm(len(task.data[0]))[:100]
        optimizer.zero_grad()
        task.of(model, (task.data[0][samples], task.data[1][samples])).backward()
        optimizer.step()
        if hasattr(model, "project_"):
            model.project_()


def both(task: Task, model: nn.Module, seconds: float) -> None:
    """A quarter of the time for descent, the rest for the gradient."""
    descend(task, model, seconds / 4)
    follow_gradient(task, model, 3 * seconds / 4)


METHODS: dict[str, Callable[[Task, nn.Module, float], None]] = {
    "descent": descend,
    "gradient": follow_gradient,
    "descent, then gradient": both,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="selection, digits, mlp; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.5, 2.0, 8.0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConstantWarning)  # four pixels of the digits are always white
    for name in options.tasks or TASKS:
        for method in METHODS.values():
            method(TASKS[name](99), TASKS[name](99).make(), 0.5)  # what is compiled once is not timed
        for seconds in options.seconds:
            for title, method in METHODS.items():
                losses, scores = [], []
                for seed in range(options.seeds):
                    task = TASKS[name](seed)
                    model = task.make()
                    method(task, model, seconds)
                    with torch.no_grad():
                        losses.append(float(task.of(model, task.data)))
                    scores.append(task.score(model))
                found = f"loss {statistics.mean(losses):9.4f}   test {statistics.mean(scores):7.3f}"
                spread = statistics.pstdev(scores)
                print(f"{name:<10} {title:<24} {seconds:4.1f} s   {found} ± {spread:.3f}", flush=True)


if __name__ == "__main__":
    main()
