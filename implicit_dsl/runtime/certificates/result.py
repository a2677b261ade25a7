"""What a certificate says: data, which can be printed and compared."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

from implicit_dsl.runtime.certificates.cycles import Cycle

if TYPE_CHECKING:
    import numpy as np

Figures: TypeAlias = tuple[tuple[str, float], ...]
MOST_STEPS = 10**9  # beyond it a number of steps is no help


class Rule(Enum):
    """What proves that a loop has one equilibrium; the value is its name in print."""

    TRIANGULAR = "triangular"  # no state depends on itself once the zeros of the weights are seen
    INFINITY = "∞-norm"  # M(1) < 1
    PERRON = "Perron-Frobenius"  # M(v) < v
    MEASURE = "matrix measure"  # μ∞(A) < 1 in a weighted norm (NEMON: Jafarpour et al. 2021)
    MONOTONE = "monotone"  # I − A ⪰ m I (Winston and Kolter 2020)
    DIAGONAL = "diagonally monotone"  # Λ (I − A) + (I − A)ᵀ Λ ≻ 0 (LBEN: Revay et al. 2020)
    MINORS = "P-matrix"  # all principal minors of I − A are positive (Cottle, Pang and Stone 1992)


@dataclass(frozen=True, slots=True, eq=False)
class Proof:
    """Why a loop has exactly one equilibrium for every input.

    `method` is the iteration that `rate` is about, a contraction in `norm` with κ = `rate` (rounded
    up; None: no rate is proved, and Newton's method is the one to use):
      picard            x ← f(x), one sweep of the loop; norm max |xᵢ| ÷ vᵢ over the iterated states
      averaged          x ← (1 − α) x + α φ(A x + b), α = `damping`; the same norm, over `vector`
      forward_backward  x ← prox_{αf}((1 − α) x + α (A x + b)), α = `damping`; Euclidean norm Σ λᵢ xᵢ²
    `vector` is v, or λ, by state, in the shape of the state; it is empty where none is needed. A is
    that of the loop with its linear states folded, for all rules about a matrix. `monotonicity` m and
    `lipschitz` L = ‖I − A‖₂ bound I − A, in the Euclidean norm of λ. `after`: steps of the method from
    any start until the contraction holds (bounds of products hold once states have been computed).
    """

    rule: Rule
    method: str
    norm: str
    rate: float | None = None
    steps: int | None = None
    vector: tuple[tuple[str, np.ndarray], ...] = ()
    damping: float | None = None
    monotonicity: float | None = None
    lipschitz: float | None = None
    measure: float | None = None
    after: int = 0

    def as_data(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("method", "norm", "rate", "steps", "damping")}
        plain |= {name: getattr(self, name) for name in ("monotonicity", "lipschitz", "measure", "after")}
        vectors = {name: values.tolist() for name, values in self.vector}
        return {"rule": self.rule.value, **plain, "vector": vectors}


def steps_for(rate: float, tolerance: float, after: int = 0) -> int | None:
    """How many steps are enough for ‖x_t − x*‖ ≤ tolerance · ‖x_{a+1} − x_a‖, with a = `after`.

    A contraction has ‖x_t − x*‖ ≤ Σ_{s ≥ t} ‖x_{s+1} − x_s‖ ≤ κᵗ ÷ (1 − κ) · ‖x₁ − x₀‖, so that
    t = ⌈ln(tolerance (1 − κ)) ÷ ln κ⌉ is enough. None above 10⁹.
    """
    if rate <= 0:
        return after + 1
    ratio = math.log(tolerance * (1 - rate)) / math.log(rate) * (1 + 1e-12)
    return after + max(1, math.ceil(ratio)) if ratio < MOST_STEPS else None


@dataclass(frozen=True, slots=True)
class Attempt:
    """How far a rule got: whether it proved the loop, its figures by name, and why not."""

    rule: Rule
    proved: bool
    figures: Figures = ()
    why: str = ""

    def as_data(self) -> dict[str, Any]:
        return {
            "rule": self.rule.value,
            "proved": self.proved,
            "figures": {name: _number(value) for name, value in self.figures},
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class LoopCertificate:
    """One loop: its proof, or how far each rule got, the strongest cycle, and advice."""

    states: tuple[str, ...]
    iterated: tuple[str, ...]
    proof: Proof | None
    attempts: tuple[Attempt, ...]
    cycle: Cycle | None = None
    advice: str = ""
    claims: tuple[str, ...] = ()  # of the source, which the proof takes for true

    @property
    def name(self) -> str:
        """What the loop is called: its first iterated state."""
        return self.iterated[0]

    @property
    def proved(self) -> bool:
        return self.proof is not None

    @property
    def rate(self) -> float | None:
        """κ, if a rate is proved."""
        return None if self.proof is None else self.proof.rate

    def as_data(self) -> dict[str, Any]:
        return {
            "states": self.states,
            "iterated": self.iterated,
            "proved": self.proved,
            "proof": self.proof and self.proof.as_data(),
            "attempts": [attempt.as_data() for attempt in self.attempts],
            "cycle": self.cycle and self.cycle.as_data(),
            "advice": self.advice,
            "claims": self.claims,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the current weights satisfy one `@wellposed`.

    `value` is what the demand bounds, as computed (rounded up where it has to be proved); None where
    the demand bounds nothing. `satisfied` allows for 10⁻⁶ of the bound, as float32 rounds.
    """

    text: str
    line: int
    satisfied: bool
    value: float | None = None
    why: str = ""

    def as_data(self) -> dict[str, Any]:
        value = None if self.value is None else _number(self.value)
        return {
            "text": self.text,
            "line": self.line,
            "satisfied": self.satisfied,
            "value": value,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is proved of a model with the weights that it has now, in exact arithmetic."""

    model: str
    loops: tuple[LoopCertificate, ...]
    verdicts: tuple[Verdict, ...]
    tolerance: float

    @property
    def proved(self) -> bool:
        """Whether each loop has exactly one equilibrium for every input. Without loops: yes."""
        return all(loop.proved for loop in self.loops)

    def __getitem__(self, state: str) -> LoopCertificate:
        """The loop that holds a state. Raises KeyError if there is none."""
        for loop in self.loops:
            if state in loop.states:
                return loop
        raise KeyError(f"`{state}` is in no loop of {self.model}")

    def as_data(self) -> dict[str, Any]:
        return {
            "version": 1,
            "model": self.model,
            "proved": self.proved,
            "tolerance": self.tolerance,
            "loops": [loop.as_data() for loop in self.loops],
            "wellposed": [verdict.as_data() for verdict in self.verdicts],
        }

    def as_json(self) -> str:
        """All of it as JSON; numbers that are not finite as text."""
        import json

        return json.dumps(self.as_data(), indent=2, ensure_ascii=False)

    def __str__(self) -> str:
        from implicit_dsl.runtime.certificates.wording import describe

        return describe(self)


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
