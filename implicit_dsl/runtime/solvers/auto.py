"""The solver that chooses: by rules that are data, then by the rate that each sample shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from implicit_dsl.runtime.solvers.anderson import History, anderson_mix
from implicit_dsl.runtime.solvers.base import Equation, Point, Solver, State
from implicit_dsl.runtime.solvers.counting import MOST_STEPS, proved_steps
from implicit_dsl.runtime.solvers.picard import Picard, average
from implicit_dsl.runtime.solvers.splitting import ForwardBackward
from implicit_dsl.runtime.solvers.stamina import Stamina

# Plain steps left, by a sample's own rate, from which on Anderson's bookkeeping pays. Below SMALL
# unknowns a step of it costs several steps of f.
STEPS_TO_SAVE, STEPS_TO_SAVE_WHEN_SMALL, SMALL = 12, 24, 1024
MEMORY = 5


@dataclass(frozen=True, slots=True)
class Features:
    """What the choice of a solver rests on."""

    n: int  # unknowns of a sample
    rate: float | None = None  # a proved factor of contraction
    averaging: float = 1.0  # of the map that has this rate
    monotone: bool = False  # I − W is proved to be strongly monotone, and f is split into φ ∘ affine
    on_cpu: bool = True
    tolerance: float = 1e-5

    @property
    def proved(self) -> int | None:
        """The proved number of steps."""
        if self.rate is None:
            return None
        return proved_steps(self.rate, self.tolerance, self.averaging)


@dataclass(frozen=True, slots=True)
class Choice:
    """A rule: when it applies, which solver it takes, and how. The first that applies is taken."""

    when: str
    solver: str
    how: str
    applies: Callable[[Features], bool]


RULES = (
    Choice(
        f"a proved number of steps, at most {MOST_STEPS}, on an accelerator",
        "picard",
        "that many steps; no residual is read back",
        lambda given: not given.on_cpu and given.proved is not None and given.proved <= MOST_STEPS,
    ),
    Choice(
        "proved monotone, but not to contract",
        "forward_backward",
        "the step is halved where the residual grows",
        lambda given: given.monotone and given.rate is None,
    ),
    Choice(
        f"{SMALL} unknowns or more",
        "auto",
        f"picard; anderson for samples with more than {STEPS_TO_SAVE} steps to go",
        lambda given: given.n >= SMALL,
    ),
    Choice(
        f"fewer than {SMALL} unknowns",
        "auto",
        f"picard; anderson for samples with more than {STEPS_TO_SAVE_WHEN_SMALL} steps to go",
        lambda given: True,
    ),
)


def choose(given: Features) -> Choice:
    """The rule that applies."""
    return next(rule for rule in RULES if rule.applies(given))


@dataclass(frozen=True, slots=True, kw_only=True)
class Auto(Solver):
    """Picard, then Anderson for the samples that need it, with rests for those it does not help.

    Equations that call for a solver of another kind get that: see `RULES`.
    """

    name: ClassVar[str] = "auto"
    default_steps: ClassVar[int] = 2000

    @property
    def geometric(self) -> float:
        return 1.0

    def chosen(self, equation: Equation, start: Tensor) -> Solver:
        split = equation.affine is not None and equation.monotone is not None
        tolerance = self.tolerance_for(start.dtype)
        n, on_cpu = start.shape[1], start.is_cpu
        given = Features(n, equation.rate, equation.averaging, split, on_cpu, tolerance)
        settings = {field.name: getattr(self, field.name) for field in fields(Solver)}
        match choose(given).solver:
            case "picard":
                return Picard(**settings)
            case "forward_backward":
                return ForwardBackward(**settings)
        return self

    def init(self, equation: Equation, start: Tensor) -> State:
        return Gears(start)

    def advance(self, equation: Equation, state: State, point: Point) -> Tensor:
        assert isinstance(state, Gears)
        return state.step(point, equation.averaging)


class Gears:
    """Which samples are accelerated, since when, and which of them rest."""

    def __init__(self, start: Tensor) -> None:
        self.threshold = STEPS_TO_SAVE if start.shape[1] >= SMALL else STEPS_TO_SAVE_WHEN_SMALL
        never = torch.iinfo(torch.int64).max
        self.woken = torch.full((start.shape[0],), never, dtype=torch.int64, device=start.device)
        self.stamina = Stamina(start)
        # slots by the steps of the solve, whenever a sample is woken: it knows nothing of the others
        self.history = History(MEMORY, first=0)

    def step(self, point: Point, averaging: float) -> Tensor:
        """The next x (batch, n)."""
        target = average(point, averaging)
        if point.remaining is not None:
            slow = point.remaining > self.threshold
            self.woken = torch.where(slow, self.woken.clamp(max=point.step), self.woken)
        if self.history.residual is None and (point.remaining is None or not bool(slow.any())):
            return target
        self.history.woken = self.woken
        residual = point.image - point.x if point.residual is None else point.residual
        mixed = anderson_mix(self.history, target, residual, point.step)
        self.stamina.spend(self.history.size.sqrt(), point.step, self.woken < point.step)
        return self.stamina.choose(mixed, point, averaging)

    def take(self, places: Tensor) -> None:
        self.woken = self.woken[places]
        self.stamina.take(places)
        self.history.take(places)
