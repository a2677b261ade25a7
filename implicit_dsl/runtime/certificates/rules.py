"""The rules in the order in which they are tried: from the strongest conclusion to the weakest condition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators import OPERATORS
from implicit_dsl.runtime.certificates.boxes import needs_boxes
from implicit_dsl.runtime.certificates.contraction import by_state, flat, perron, proving
from implicit_dsl.runtime.certificates.folded import Folded, fold
from implicit_dsl.runtime.certificates.interval import Interval
from implicit_dsl.runtime.certificates.magnitudes import Weights
from implicit_dsl.runtime.certificates.measure import measure
from implicit_dsl.runtime.certificates.minors import LARGEST as MOST_MINORS
from implicit_dsl.runtime.certificates.minors import LARGEST_UNFOLDED, exact_difference, is_p_matrix
from implicit_dsl.runtime.certificates.monotone import LARGEST as LARGEST_MATRIX
from implicit_dsl.runtime.certificates.monotone import (
    LARGEST_SEARCH,
    Monotone,
    diagonally_monotone,
    monotone,
)
from implicit_dsl.runtime.certificates.result import Attempt, Proof, Rule, steps_for
from implicit_dsl.runtime.certificates.rounding import greatest_ratio
from implicit_dsl.runtime.certificates.sweep import Sweep
from implicit_dsl.runtime.certificates.triangular import depth
from implicit_dsl.shapes import count

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

Outcome: TypeAlias = tuple[Proof | None, Attempt]


@dataclass(frozen=True)
class Case:
    """One loop, and what several rules need of it."""

    sweep: Sweep
    weights: Weights
    tolerance: float

    @cached_property
    def folded(self) -> Folded | str:
        return fold(self.sweep, self.weights)

    @cached_property
    def size(self) -> int:
        """How many numbers are iterated."""
        return sum(count(block.shape) for block in self.sweep.blocks(self.sweep.loop.iterated))

    @cached_property
    def unbounded(self) -> str:
        """Why |f(x) − f(x')| has no bound, if an activation has none."""
        for block in self.sweep.unbounded():
            assert block.activation is not None
            names = OPERATORS[block.activation.kind].names
            shown = names[0] if names else block.phi
            return f"`{block.name}` ({shown}) has no Lipschitz constant, as what it reads is unbounded"
        return ""

    @cached_property
    def after(self) -> int:
        """Sweeps until the bounds hold that its majorants rest on."""
        rests = any(needs_boxes(block) for block in self.sweep.blocks(self.sweep.loop.states))
        return self.sweep.boxes.sweeps if rests else 0

    def matrix(self) -> Interval | str:
        """K Ā for the rules about matrices, or why they do not apply."""
        if isinstance(self.folded, str):
            return self.folded
        if self.folded.normalised is None:
            for block in self.folded.blocks:
                if block.activation is not None and _falls(block.activation.kind, self.folded, block.name):
                    return f"`{block.name}` ({block.phi}) is not increasing entry by entry"
            return "an activation is not increasing entry by entry"
        return self.folded.normalised


def _falls(kind: str, folded: Folded, name: str) -> bool:
    from implicit_dsl.operators import activation_rule

    activation = folded.sweep.model.blocks[name].activation
    assert activation is not None
    rule = activation_rule(activation)
    slope = rule.slope(activation) if rule.elementwise else None
    return slope is None or slope[0] < 0


def by_triangle(case: Case) -> Outcome:
    found = depth(case.sweep)
    if found is None:
        return None, Attempt(Rule.TRIANGULAR, False, (), "a state depends on itself")
    proof = Proof(Rule.TRIANGULAR, "substitution", "any norm", 0.0, found)
    return proof, Attempt(Rule.TRIANGULAR, True, (("sweeps", float(found)),))


def by_infinity(case: Case) -> Outcome:
    if case.unbounded:
        return None, Attempt(Rule.INFINITY, False, (), case.unbounded)
    ones = np.ones(case.size)
    rate = greatest_ratio(flat(case.sweep)(ones), ones)
    attempt = Attempt(Rule.INFINITY, rate < 1, (("κ", rate),))
    if not rate < 1:
        return None, attempt
    steps = steps_for(rate, case.tolerance, case.after)
    vector = by_state(case.sweep, ones)
    return Proof(Rule.INFINITY, "picard", "∞-norm", rate, steps, vector, after=case.after), attempt


def by_perron(case: Case) -> Outcome:
    if case.unbounded:
        return None, Attempt(Rule.PERRON, False, (), case.unbounded)
    folded = case.folded
    if isinstance(folded, str):
        found = perron(flat(case.sweep), case.size)
        vector = by_state(case.sweep, found.vector)
        swept = True
    else:
        found = perron(folded, folded.size, _starts(folded))
        vector = folded.by_state(found.vector)
        swept = set(case.sweep.loop.iterated) <= set(folded.names)
    attempt = Attempt(Rule.PERRON, found.upper < 1, (("λ ≥", found.lower), ("λ ≤", found.upper)))
    if not found.upper < 1:
        return None, attempt
    norm = "∞-norm weighted by v"
    if swept:
        steps = steps_for(found.upper, case.tolerance, case.after)
        # a sweep goes at least as far as all states at once: it uses new values of those that follow
        kept = tuple(part for part in vector if part[0] in case.sweep.loop.iterated)
        return Proof(Rule.PERRON, "picard", norm, found.upper, steps, kept, after=case.after), attempt
    assert isinstance(folded, Folded)
    # all states at once: what a sweep does at one go takes as many steps as there are states in a row
    after = case.after * len(folded.names)
    steps = steps_for(found.upper, case.tolerance, after)
    proof = Proof(Rule.PERRON, "averaged", norm, found.upper, steps, vector, damping=1.0, after=after)
    return proof, attempt


def _starts(folded: Folded) -> tuple[np.ndarray, ...]:
    """Good vectors for the Perron root, where the majorant is a matrix."""
    if folded.slopes is None:
        return ()
    gains = np.maximum(np.abs(folded.slopes[0]), np.abs(folded.slopes[1]))
    return proving(folded.A.magnitude, gains)


def by_measure(case: Case) -> Outcome:
    A = case.matrix()
    if isinstance(A, str):
        return None, Attempt(Rule.MEASURE, False, (), A)
    found = measure(A)
    attempt = Attempt(Rule.MEASURE, found.rate < 1, (("μ", found.measure),))
    if not found.rate < 1:
        return None, attempt
    assert isinstance(case.folded, Folded)
    proof = Proof(
        Rule.MEASURE,
        "averaged",
        "∞-norm weighted by v",
        found.rate,
        steps_for(found.rate, case.tolerance),
        case.folded.by_state(found.vector),
        damping=found.damping,
        measure=found.measure,
    )
    return proof, attempt


def by_monotonicity(case: Case) -> Outcome:
    A = case.matrix()
    if isinstance(A, str):
        return None, Attempt(Rule.MONOTONE, False, (), A)
    if A.mid.shape[1] > LARGEST_MATRIX:
        return None, _too_large(Rule.MONOTONE, A, LARGEST_MATRIX)
    return _monotone(case, Rule.MONOTONE, monotone(A))


def by_diagonal(case: Case) -> Outcome:
    A = case.matrix()
    if isinstance(A, str):
        return None, Attempt(Rule.DIAGONAL, False, (), A)
    found = diagonally_monotone(A)
    if found is None:
        return None, _too_large(Rule.DIAGONAL, A, LARGEST_SEARCH)
    return _monotone(case, Rule.DIAGONAL, found)


def _monotone(case: Case, rule: Rule, found: Monotone) -> Outcome:
    attempt = Attempt(rule, found.proved, (("m", found.least),))
    if not found.proved:
        return None, attempt
    assert isinstance(case.folded, Folded)
    # the steps are proximal steps of relu at every α, of other activations only at α = 1
    rate = found.rate if case.folded.is_relu else None
    weighted = rule is Rule.DIAGONAL
    proof = Proof(
        rule,
        "forward_backward" if rate is not None else "newton",
        "Euclidean norm weighted by λ" if weighted else "Euclidean norm",
        rate,
        None if rate is None else steps_for(rate, case.tolerance),
        case.folded.by_state(found.weights) if weighted else (),
        damping=None if rate is None else found.damping,
        monotonicity=found.monotonicity,
        lipschitz=found.lipschitz,
    )
    return proof, attempt


def by_minors(case: Case) -> Outcome:
    A = case.matrix()
    if isinstance(A, str):
        return None, Attempt(Rule.MINORS, False, (), A)
    if A.mid.shape[1] > MOST_MINORS:
        return None, _too_large(Rule.MINORS, A, MOST_MINORS)
    assert isinstance(case.folded, Folded)
    if sum(count(block.shape) for block in case.sweep.blocks(case.sweep.loop.states)) > LARGEST_UNFOLDED:
        return None, _too_large(Rule.MINORS, A, LARGEST_UNFOLDED)
    K = exact_difference(case.folded, case.weights)
    if K is None:
        return None, Attempt(
            Rule.MINORS, False, (), "the entries of A are rounded, so its minors are not exact"
        )
    if not is_p_matrix(K):
        return None, Attempt(Rule.MINORS, False, (), "a principal minor of I − A is not positive")
    return Proof(Rule.MINORS, "newton", "any norm"), Attempt(Rule.MINORS, True)


def _too_large(rule: Rule, A: Interval, limit: int) -> Attempt:
    return Attempt(rule, False, (), f"the loop has {A.mid.shape[1]:,} states, above the limit of {limit:,}")


ORDER: tuple[Callable[[Case], Outcome], ...] = (
    by_triangle,
    by_infinity,
    by_perron,
    by_measure,
    by_monotonicity,
    by_diagonal,
    by_minors,
)
