"""Why a group of states has exactly one solution, and the constraints that keep it so."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from implicit_dsl.demands import Criterion, Measured, Method


class Guarantee(Enum):
    """Why a group of states has exactly one solution; the value says it in words."""

    ACYCLIC = "acyclic"  # one state that does not read itself: x = φ(…) is its definition
    GAIN = "its gain is below 1"  # a contraction in a (weighted) ∞-norm, for all feasible weights
    PERRON = "the Perron root is below 1"  # |A| v < v for some v > 0
    SPECTRAL = "the largest singular value is below 1"  # a contraction in the Euclidean norm
    TRIANGULAR = "A is strictly triangular"  # substitution, entry by entry
    MONOTONE = "I - A is strongly monotone"  # Winston and Kolter 2020
    MEASURE = "the matrix measure is below 1"  # Jafarpour et al. 2021
    UNCHECKED = "unchecked"  # the source says so; the residual is checked at every call


@dataclass(frozen=True, slots=True)
class Use:
    """A parameter in a row of A: `factor` · Σ|T[o, …]| of the row's budget, with `axis` the axis of o.

    Those of one row with another `part` count other rows of it.
    """

    row: str
    column: str
    tensor: str
    axis: int = 0
    factor: float = 1.0
    part: int = 0


@dataclass(frozen=True, slots=True)
class Constraint:
    """A set that some parameters must stay in: what a `Demand` comes to in this model.

    `fixed` is what constant operators already use of the budget of a row. `text` and `line`
    are where the source asks for it. `whole` are states that count as one channel each.
    """

    criterion: Criterion | Literal["sparse"]
    bound: float
    method: Method
    uses: tuple[Use, ...]
    fixed: tuple[tuple[str, float], ...] = ()
    line: int = 0
    text: str = ""
    measured: Measured | None = None  # of a `@sparse`, what is at most the bound
    whole: tuple[str, ...] = ()

    @property
    def tensors(self) -> tuple[str, ...]:
        """The ids of the parameters, each once."""
        return tuple(dict.fromkeys(use.tensor for use in self.uses))
