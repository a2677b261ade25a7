"""The course of a fit: from first states through the sweeps to the weights that are kept."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, TypeAlias

import torch

from implicit_dsl.train.descent.data import Data
from implicit_dsl.train.descent.gauge import Gauge
from implicit_dsl.train.descent.history import History, Step, Sweep
from implicit_dsl.train.descent.links import Weights
from implicit_dsl.train.descent.sweeping import Point, Problem, true_loss

Keep: TypeAlias = Literal["best", "last"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a fit goes; see `bcd`. Raises ValueError for what makes no sense."""

    sweeps: int
    continuation: tuple[float, float]
    ridge: float
    weight_steps: int
    state_steps: int
    damping: float
    gauge: bool
    batch: int | None
    look_every: int
    keep: Keep

    def __post_init__(self) -> None:
        first, last = self.continuation
        if not (0 < first < math.inf and 0 < last < math.inf):
            raise ValueError(f"continuation goes between two positive numbers, not {self.continuation}")
        for name in ("sweeps", "weight_steps", "state_steps", "look_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("ridge", "damping"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number from 0 on, not {getattr(self, name)}")
        if self.batch is not None and self.batch < 2:
            raise ValueError(f"a batch has at least 2 samples, not {self.batch}")
        if self.keep not in ("best", "last"):
            raise ValueError(f'keep is "best" or "last", not {self.keep!r}')

    def ratio(self, sweep: int) -> float:
        """λ of a sweep from 0 on, relative to the mean diagonal entry of CᵀC: geometric."""
        first, last = self.continuation
        return float(first * (last / first) ** (sweep / max(1, self.sweeps - 1)))


@dataclass(eq=False)
class Run:
    """A fit under way. Iterating makes its sweeps; `kept` are the weights to write whenever it stops."""

    problem: Problem
    data: Data
    settings: Settings
    generator: torch.Generator | None
    kept: Weights = field(init=False)
    number: int = field(init=False, default=0)  # of the sweep that is kept
    before: float = field(init=False)
    loss: float = field(init=False)
    sweeps: list[Sweep] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.started = time.perf_counter()
        lifted = self.problem.lifted
        self.tolerance = max(1e-8, 100 * torch.finfo(next(iter(lifted.weights.values())).dtype).eps)
        weights = self.problem.projected(lifted.weights)
        states = lifted.equilibrium(weights, self.data.inputs, {}, self.tolerance)
        self.before = true_loss(self.data, lifted, weights, states)
        self.kept, self.loss = weights, self.before
        self.score = self.before + self.problem.penalties(weights)
        if not math.isfinite(self.before):
            raise ValueError("the loss of the weights that were given is not finite")
        self.weights, self.states = weights, states
        self.gauge = Gauge.of(lifted) if self.settings.gauge else None
        self.solved = states
        self.reference: float | None = None
        components = self.problem.components
        self.of_outputs = [one for one in components if self.problem.of_outputs(one)]
        self.of_states = [one for one in components if not self.problem.of_outputs(one)]

    def __iter__(self) -> Iterator[Sweep]:
        for at in range(self.settings.sweeps):
            started = time.perf_counter()
            sweep = self._sweep(at)
            last = at == self.settings.sweeps - 1
            loss = self._look(at + 1) if last or (at + 1) % self.settings.look_every == 0 else None
            self.sweeps.append(replace(sweep, loss=loss, seconds=time.perf_counter() - started))
            yield self.sweeps[-1]

    def history(self) -> History:
        """What was done so far."""
        seconds = time.perf_counter() - self.started
        name = self.problem.lifted.model.name
        return History(name, self.before, self.loss, self.number, seconds, tuple(self.sweeps))

    def _sweep(self, at: int) -> Sweep:
        if self.gauge is not None and self.gauge.names:
            self.weights, self.states = self.gauge.unit(self.weights, self.states)
            self.weights = self.problem.projected(self.weights)
        steps: list[tuple[Step, Step, Step]] = []
        parts = self._parts()
        for part in parts:
            data = self.data if part is None else self.data.only(part)
            states = self.states if part is None else {name: x[part] for name, x in self.states.items()}
            point, done = self._pass(Point(self.problem, data, self.weights, states, 1.0), at)
            steps.append(done)
            self.weights = point.weights
            if part is None:
                self.states = point.states
            else:
                moved = {
                    name: self.states[name].index_copy(0, part, point.states[name])
                    for name in self.problem.lifted.rows
                }
                self.states = {**self.states, **moved}
        weight = self._weight
        divergence = Point(self.problem, self.data, self.weights, self.states, weight).divergences()
        outputs, xs, ws = (_mean([step[i] for step in steps]) for i in range(3))
        return Sweep(at + 1, weight, outputs, xs, ws, divergence, None, 0.0)

    def _parts(self) -> list[torch.Tensor | None]:
        """The minibatches of a sweep, in an order drawn afresh; None is all samples."""
        size, count = self.settings.batch, self.data.count
        if size is None or size >= count:
            return [None]
        device = next(iter(self.data.inputs.values())).device
        order = torch.randperm(count, generator=self.generator).to(device)
        parts = list(torch.split(order, size))
        if len(parts) > 1 and len(parts[-1]) < size // 2:  # a small rest says little: it joins the one before
            parts[-2:] = [torch.cat(parts[-2:])]
        return [*parts]

    def _pass(self, point: Point, at: int) -> tuple[Point, tuple[Step, Step, Step]]:
        """One pass over the blocks: outputs, states, weights."""
        fitted = point.after_weights(self.of_outputs)
        if self.reference is None or self.gauge is not None:
            self.reference = fitted.curvature()
        self._weight = self.reference * self.settings.ratio(at)
        point = replace(point, weight=self._weight)
        fitted = replace(fitted, weight=self._weight)
        freed = fitted.after_states()
        done = freed.after_weights(self.of_states)
        values = [one.objective() for one in (point, fitted, freed, done)]
        steps = [Step(before, after) for before, after in pairwise(values)]
        return done, (steps[0], steps[1], steps[2])

    def _look(self, number: int) -> float:
        """The true loss of the current weights, with the outputs fitted to solved states; keeps them."""
        lifted = self.problem.lifted
        self.solved = lifted.equilibrium(self.weights, self.data.inputs, self.solved, self.tolerance)
        refitted = replace(self.problem, damping=0.0)
        point = Point(refitted, self.data, self.weights, self.solved, 1.0).after_weights(self.of_outputs)
        loss = true_loss(self.data, lifted, point.weights, self.solved)
        score = loss + self.problem.penalties(point.weights)
        if self.settings.keep == "last" or score < self.score:
            self.kept, self.loss, self.number, self.score = point.weights, loss, number, score
        return loss


def _mean(steps: list[Step]) -> Step:
    count = len(steps)
    return Step(sum(step.before for step in steps) / count, sum(step.after for step in steps) / count)


__all__ = ["Keep", "Run", "Settings"]
