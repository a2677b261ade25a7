"""Feature selection by an implicit model with a column-sparse B: which of 50 inputs matter?

    python examples/feature_selection.py [plain even] [--seeds 20] [--picture norms.svg]

400 points are drawn from an implicit model with 20 hidden features, 50 inputs and 100 outputs, whose B has
10 columns that are not zero, D = 0 and no noise; a model with 10 hidden features is fitted to them. Nothing
is downloaded.

plain     the setting of El Ghaoui's "What is implicit deep learning?" (2019)
even      y(u) = y(−u): inputs and outputs have no covariance, and no linear method sees a thing

For each method and over seeds from 100 on, which nothing was chosen on: how often exactly the true columns
are not zero; how often they have the largest norms; how often they are those above the largest gap between
norms; the relative error on 2,000 other points; and the median and the largest number of CPU seconds for a
fit, on one thread. What there is to choose was chosen on seeds 0 to 9.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl.train import ProximalStep, bcd
from implicit_dsl.train.descent import NothingLeftWarning

HERE = Path(__file__).parent
STATES, INPUTS, OUTPUTS, ACTIVE = 20, 50, 100, 10
POINTS, OTHERS, FIRST_SEED = 400, 2_000, 100
PENALTY = 5.0  # of block-coordinate descent; on seeds 0 to 9, from 4 to 7 give the same supports
DESCENT: dict[str, Any] = {
    "sweeps": 40,
    "ridge": 0.1,
    "weight_steps": 12,
    "state_steps": 10,
    "look_every": 40,
    "keep": "last",
}
STEPS, RATE, LIGHT_PENALTY = 500, 0.02, 1.0  # of the implicit gradient
LASSO, LASSO_STEPS = 0.4, 400  # of the linear method; its penalty counts times the spread of the targets


# -- data ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """Points [count, inputs] with targets, and the column norms [inputs] of the B that made them."""

    inputs: Tensor
    targets: Tensor
    other_inputs: Tensor
    other_targets: Tensor
    norms: Tensor

    @property
    def active(self) -> Tensor:
        """The columns that are not zero."""
        return self.norms.nonzero()[:, 0]


def within(A: Tensor, bound: float) -> Tensor:
    """Rows of A, each scaled to an absolute sum of at most `bound`."""
    return A * (bound / A.abs().sum(1, keepdim=True)).clamp_max(1.0)


def a_task(seed: int, even: bool) -> Task:
    """Points of a model with random weights. `even`: its states are in pairs that read u and −u alike."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    A, B = within(normal(STATES, STATES), 0.9), torch.zeros(STATES, INPUTS, dtype=torch.float64)
    active = torch.randperm(INPUTS, generator=random)[:ACTIVE]
    B[:, active] = normal(STATES, ACTIVE)
    b, C = 0.3 * normal(STATES), normal(OUTPUTS, STATES) / math.sqrt(STATES)
    if even:
        half = STATES // 2
        A[half:, half:], A[half:, :half] = A[:half, :half], A[:half, half:].clone()
        B[half:], b[half:], C[:, half:] = -B[:half], b[:half], C[:, :half]

    def points(count: int) -> tuple[Tensor, Tensor]:
        u, x = normal(count, INPUTS), torch.zeros(count, STATES, dtype=torch.float64)
        for _ in range(500):
            x = torch.relu(x @ A.mT + u @ B.mT + b)
        return u, x @ C.mT

    return Task(*points(POINTS), *points(OTHERS), B.norm(dim=0))


# -- methods --------------------------------------------------------------------------------------------

Fitted = tuple[Tensor, Callable[[Tensor], Tensor]]  # column norms, and what predicts


def a_model(seed: int, penalty: float) -> nn.Module:
    torch.manual_seed(seed)
    program = implicit_dsl.load(HERE / "feature_selection.impl", parameters={"β": penalty})
    model: nn.Module = program.FeatureSelection(dtype=torch.float64)
    return model


def fitted(model: nn.Module) -> Fitted:
    return model.B.detach().norm(dim=0), model


def descend(task: Task, seed: int) -> Fitted:
    """Block-coordinate descent with Fenchel divergences."""
    model = a_model(seed, PENALTY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingLeftWarning)  # of B: it is what happens to even functions
        bcd(model, task.inputs, task.targets, **DESCENT)
    return fitted(model)


def follow_gradient(model: nn.Module, task: Task, steps: int, rate: float = RATE) -> None:
    """Adam on the implicit gradient, with the proximal operator of the penalty behind each step."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    step = ProximalStep(optimizer, model, metric="euclidean")
    for _ in range(steps):
        step.zero_grad()
        (0.5 * (model(task.inputs) - task.targets).square().sum(1).mean()).backward()
        step.step()
        schedule.step()


def by_gradient(task: Task, seed: int) -> Fitted:
    """The implicit gradient alone."""
    model = a_model(seed, LIGHT_PENALTY)
    with torch.no_grad():
        model.d.copy_(task.targets.mean(0))
    follow_gradient(model, task, STEPS)
    return fitted(model)


def both(task: Task, seed: int) -> Fitted:
    """Block-coordinate descent, then the implicit gradient on the columns that it left."""
    norms, first = descend(task, seed)
    model = a_model(seed, 0.0)
    model.load_state_dict(first.state_dict())
    kept = norms > 0
    model.B.register_hook(lambda gradient: gradient * kept)
    follow_gradient(model, task, STEPS // 2, RATE / 2)
    return fitted(model)


def linear(task: Task, seed: int) -> Fitted:
    """y = W u + c with the penalty on the columns of W: the group lasso, by accelerated proximal gradient."""
    c, penalty = task.targets.mean(0), LASSO * float(task.targets.std())
    W = ahead = torch.zeros(OUTPUTS, INPUTS, dtype=torch.float64)
    gram = task.inputs.mT @ task.inputs / POINTS
    cross = (task.targets - c).mT @ task.inputs / POINTS
    L, t = float(torch.linalg.eigvalsh(gram)[-1]), 1.0
    for _ in range(LASSO_STEPS):
        moved = ahead - (ahead @ gram - cross) / L
        moved = moved * (1 - penalty / L / moved.norm(dim=0).clamp_min(1e-300)).clamp_min(0.0)
        following = (1 + math.sqrt(1 + 4 * t * t)) / 2
        ahead, W, t = moved + (t - 1) / following * (moved - W), moved, following
    return W.norm(dim=0), lambda u: u @ W.mT + c


METHODS: dict[str, Callable[[Task, int], Fitted]] = {
    "block-coordinate descent": descend,
    "implicit gradient": by_gradient,
    "descent, then gradient": both,
    "linear group lasso": linear,
}


# -- figures --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What one fit found of one task."""

    norms: Tensor
    exact: bool
    ranked: bool
    gap: bool
    error: float
    seconds: float


def above_the_gap(norms: Tensor) -> Tensor:
    """The columns above the largest ratio of neighbouring norms, none below 1/1000 of the largest."""
    falling, order = norms.sort(descending=True)
    if falling[0] == 0:
        return order[:0]
    falling = falling.clamp_min(1e-3 * falling[0])
    return order[: int((falling[:-1] / falling[1:]).argmax()) + 1]


def result(task: Task, seed: int, method: Callable[[Task, int], Fitted]) -> Result:
    started = time.process_time()  # of one thread, whatever else the machine does
    norms, predict = method(task, seed)
    seconds, true = time.process_time() - started, set(task.active.tolist())
    with torch.no_grad():
        missed = predict(task.other_inputs) - task.other_targets
    spread = task.other_targets - task.other_targets.mean(0)
    return Result(
        norms,
        set(norms.nonzero()[:, 0].tolist()) == true,
        set(norms.argsort(descending=True)[:ACTIVE].tolist()) == true and bool(norms.any()),
        set(above_the_gap(norms).tolist()) == true,
        float(missed.norm() / spread.norm()),
        seconds,
    )


def line(name: str, results: list[Result]) -> str:
    counts = [[one.exact for one in results], [one.ranked for one in results], [one.gap for one in results]]
    shares = "   ".join(f"{sum(found):>3} of {len(found):<5}" for found in counts)
    error, seconds = statistics.mean(one.error for one in results), [one.seconds for one in results]
    return f"  {name:<26} {shares} {error:10.3f}  {statistics.median(seconds):7.2f}  {max(seconds):7.2f}"


def bars(task: Task, norms: Tensor, width: int = 28) -> str:
    """Learned norms to the left, true ones to the right, of the columns that have either."""
    learned, true = norms / norms.max().clamp_min(1e-300), task.norms / task.norms.max()
    lines = [f"  column  {'learned':>{width}} | true"]
    for j in ((learned > 0) | (true > 0)).nonzero()[:, 0].tolist():
        left, right = "█" * round(float(width * learned[j])), "█" * round(float(width * true[j]))
        lines.append(f"  {j:>6}  {left:>{width}} | {right}")
    return "\n".join(lines)


def picture(task: Task, norms: Tensor) -> str:
    """The picture of 2019 as SVG: a bar for each of the 50 columns, learned beside true."""
    row, half, top, middle = 11, 240, 44, 300
    height = top + row * INPUTS + 16
    text = 'font-family="sans-serif" fill="#333"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * middle} {height}">',
        "<title>Norms of the columns of B, learned and true</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{middle - 12}" y="26" font-size="15" text-anchor="end" {text}>learned, n = 10</text>',
        f'<text x="{middle + 12}" y="26" font-size="15" {text}>true, n = 20</text>',
    ]
    for sign, values, colour in ((-1, norms, "#3b6ea5"), (1, task.norms, "#8a8a8a")):
        longest = float(values.max().clamp_min(1e-300))
        for j, value in enumerate(values.tolist()):
            if value == 0:
                continue
            length = half * value / longest
            x = middle + 2 if sign > 0 else middle - 2 - length
            place = f'x="{x:.1f}" y="{top + row * j}" width="{length:.1f}" height="{row - 3}"'
            parts.append(f'<rect {place} fill="{colour}"/>')
    for j in range(0, INPUTS, 5):
        y = top + row * j + 8
        parts.append(f'<text x="{2 * middle - 8}" y="{y}" font-size="10" text-anchor="end" {text}>{j}</text>')
    parts.append(f'<path d="M{middle} {top - 6}V{height - 10}" stroke="#333"/></svg>')
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="plain, even; both by default")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=FIRST_SEED, help="the first seed")
    parser.add_argument("--picture", type=Path, help="where to write the norms of the first fit, as SVG")
    options = parser.parse_args()
    wrong = set(options.settings) - {"plain", "even"}
    if wrong or options.seeds < 1:
        parser.error(f"there is no setting `{min(wrong)}`" if wrong else "--seeds must be at least 1")

    torch.set_num_threads(1)
    for penalty in (PENALTY, LIGHT_PENALTY, 0.0):
        a_model(0, penalty)  # compiled once, before anything is timed
    for setting in options.settings or ("plain", "even"):
        seeds = range(options.first, options.first + options.seeds)
        tasks = [(seed, a_task(seed, setting == "even")) for seed in seeds]
        print(f"{setting}: {options.seeds} seeds from {options.first} on")
        print(f"  {'method':<26} {'exact':^11}   {'ranked':^11}   {'gap':^11}      error  seconds  longest")
        for name, method in METHODS.items():
            results = [result(task, seed, method) for seed, task in tasks]
            print(line(name, results), flush=True)
            if setting == "plain" and method is descend:
                shown = results[0].norms
        if setting == "plain":
            print(f"seed {options.first}, by block-coordinate descent:\n{bars(tasks[0][1], shown)}")
            if options.picture:
                options.picture.write_text(picture(tasks[0][1], shown), encoding="utf-8")
                print(f"wrote {options.picture}")


if __name__ == "__main__":
    main()
