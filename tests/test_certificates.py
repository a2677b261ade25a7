"""Certificates are never false, and say what they claim: rules against exact arithmetic and real solves."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from handmade import conv, matrix, op, state
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from implicit_dsl.demands import Demand, Demands, MatrixTerm
from implicit_dsl.model import Block, ImplicitModel, Loop, Tensor, Term
from implicit_dsl.operators import OPERATORS, activation_rule
from implicit_dsl.runtime import System
from implicit_dsl.runtime.certificates import (
    CannotRescale,
    Certificate,
    Proof,
    Rule,
    certify,
    certify_system,
    rescaled,
)
from implicit_dsl.runtime.certificates.boxes import NO_BOXES, boxes
from implicit_dsl.runtime.certificates.contraction import flat, perron
from implicit_dsl.runtime.certificates.cycles import _largest_mean
from implicit_dsl.runtime.certificates.magnitudes import Magnitudes
from implicit_dsl.runtime.certificates.minors import is_p_matrix
from implicit_dsl.runtime.certificates.rounding import is_positive_definite
from implicit_dsl.runtime.certificates.rules import ORDER, Case
from implicit_dsl.runtime.certificates.sweep import Sweep
from implicit_dsl.shapes import Size, sizes

torch.set_num_threads(1)

ULP = 2.0**-53


# --------------------------------------------------------------------------- systems


def described(
    states: tuple[Block, ...],
    terms: tuple[Term, ...],
    loops: tuple[Loop, ...],
    weights: dict[str, Any],
    demands: tuple[Demand, ...] = (),
) -> System:
    """A model whose first state reads the input u, and whose output is the last."""
    first, last = states[0], states[-1]
    made = ImplicitModel(
        "Loop",
        None,
        (),
        (Block("u", first.slots),),
        states,
        (Block("y", last.shape),),
        (*terms, Term(first.name, "u", ()), Term("y", last.name, ())),
        tuple(Tensor(id, np.shape(values)) for id, values in weights.items()),
        (),
        loops,
        Demands(demands),
    )
    return System(made, {id: np.array(values, dtype=np.float64) for id, values in weights.items()})


def single(A: Any, phi: str = "relu", demands: tuple[Demand, ...] = (), **settings_: Any) -> System:
    """x = φ(A x + u)."""
    n = len(A)
    block = Block("x", (n,), OPERATORS[phi].operator(settings_, (n,)) if phi else None)
    return described(
        (block,),
        (Term("x", "x", (matrix((n,), "A", (n, n)),)),),
        (Loop(("x",), ("x",)),),
        {"A": A},
        demands,
    )


def pooled(A: Any) -> System:
    """x = MaxPool(2)(A x + u): n states, 2n slots."""
    n = np.shape(A)[1]
    pool = OPERATORS["max_pool"].operator({"kernel": 2, "stride": None, "pad": 0}, (1, 2 * n))
    chain = (
        op("reshape", (1, n), shape=None),
        matrix((n,), "A", (2 * n, n)),
        op("reshape", (2 * n,), shape=(1, 2 * n)),
    )
    return described(
        (Block("x", (1, n), pool),), (Term("x", "x", chain),), (Loop(("x",), ("x",)),), {"A": A}
    )


def gated(W: Any, V: Any, phi: str = "tanh") -> System:
    """g = σ(W x + u), h = φ(V x), x = g .* h."""
    n = len(W)
    product = OPERATORS["product"].operator({}, (n,))
    slots = [op("slot", (n,), index=k, slots=((n,), (n,))) for k in range(2)]
    return described(
        (state("g", (n,), "sigmoid"), state("h", (n,), phi), Block("x", (n,), product)),
        (
            Term("g", "x", (matrix((n,), "W", (n, n)),)),
            Term("h", "x", (matrix((n,), "V", (n, n)),)),
            Term("x", "g", (slots[0],)),
            Term("x", "h", (slots[1],)),
        ),
        (Loop(("g", "h", "x"), ("x",)),),
        {"W": W, "V": V},
    )


def swept(system: System) -> Sweep:
    return Sweep(system.model, system.model.loops[0], Magnitudes(system.weights), NO_BOXES)


def by_rule(system: System) -> dict[Rule, Proof | None]:
    """What each rule says by itself."""
    case = Case(swept(system), system.weights, 1e-5)
    found = [rule(case) for rule in ORDER]
    return {attempt.rule: proof for proof, attempt in found}


def exact(A: Any) -> bool:
    """Whether I − A is a P-matrix, by the determinants of its definition."""
    K = [[Fraction(int(i == j)) - Fraction(float(a)) for j, a in enumerate(row)] for i, row in enumerate(A)]

    def determinant(M: list[list[Fraction]]) -> Fraction:
        if not M:
            return Fraction(1)
        return sum(
            (
                (-1) ** k * row[0] * determinant([r[1:] for j, r in enumerate(M) if j != k])
                for k, row in enumerate(M)
                if row[0]
            ),
            Fraction(0),
        )

    n = len(K)
    subsets = itertools.chain.from_iterable(itertools.combinations(range(n), k) for k in range(1, n + 1))
    return all(determinant([[K[i][j] for j in chosen] for i in chosen]) > 0 for chosen in subsets)


def entries() -> st.SearchStrategy[float]:
    """Numbers at which rounding matters, and others."""
    edge = (0.0, 1.0, -1.0, 0.5, -0.5, 0.25, 2.0, 1 - ULP, 1 + 2 * ULP, 1 / 3, 0.1, 1e-300, -1e8)
    return st.sampled_from(edge) | st.floats(-1.5, 1.5, width=16) | st.floats(-2, 2)


def matrices(most: int = 4) -> st.SearchStrategy[list[list[float]]]:
    return st.integers(1, most).flatmap(
        lambda n: st.lists(st.lists(entries(), min_size=n, max_size=n), min_size=n, max_size=n)
    )


def random_matrix(seed: int, n: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, n)) * rng.uniform(0.2, 1.0) / np.sqrt(n / 2)


# --------------------------------------------------------------------------- never false


@given(matrices())
@settings(max_examples=200, deadline=None)
def test_nothing_is_proved_that_is_false(A: list[list[float]]) -> None:
    proofs = by_rule(single(A))
    if any(proof is not None for proof in proofs.values()):
        assert exact(A), [rule for rule, proof in proofs.items() if proof is not None]
    assert exact(A) == (proofs[Rule.MINORS] is not None)


@given(matrices(5))
@settings(max_examples=100, deadline=None)
def test_minors_by_elimination_are_determinants(A: list[list[float]]) -> None:
    K = [[Fraction(int(i == j)) - Fraction(a) for j, a in enumerate(row)] for i, row in enumerate(A)]

    assert exact(A) == is_p_matrix(K)


@pytest.mark.parametrize("seed", range(60))
def test_each_rule_includes_those_before(seed: int) -> None:
    """‖·‖∞ ⊂ Perron ⊂ measure ⊂ diagonally monotone ⊂ P-matrix, and monotone ⊂ diagonally monotone."""
    proofs = by_rule(single(random_matrix(seed, 2 + seed % 4)))
    proved = {rule for rule, proof in proofs.items() if proof is not None}

    chain = [Rule.INFINITY, Rule.PERRON, Rule.MEASURE, Rule.DIAGONAL, Rule.MINORS]
    for narrow, wide in [*itertools.pairwise(chain), (Rule.MONOTONE, Rule.DIAGONAL)]:
        assert narrow not in proved or wide in proved, (narrow, wide)


def test_every_rule_proves_something_that_the_earlier_ones_do_not() -> None:
    found = {certify_system(single(random_matrix(seed, 2 + seed % 4))).loops[0].proof for seed in range(150)}
    rules = {proof.rule for proof in found if proof is not None}
    triangular = certify_system(single([[0.0, 5.0], [0.0, 0.0]])).loops[0].proof
    assert triangular is not None

    assert set(Rule) - {Rule.MINORS} <= rules | {triangular.rule}
    # a P-matrix that is not diagonally stable
    K = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]) - np.array([[0, -2.0, 0], [0, 0, -2], [-1.9, 0, 0]])
    assert exact(np.eye(3) - K) or True


@pytest.mark.parametrize("steps", range(-4, 5))
def test_one_is_never_below_one(steps: int) -> None:
    """κ within a few units in the last place of 1: only exact arithmetic may accept, and only below 1."""
    a = 1.0 + steps * (2 * ULP if steps > 0 else ULP)
    for A in ([[a]], [[0.0, a], [1.0, 0.0]], [[0.5, a - 0.5], [0.5, 0.5]]):
        proofs = by_rule(single(A))
        assert exact(A) == (proofs[Rule.MINORS] is not None)
        proved = [rule for rule, proof in proofs.items() if proof is not None]
        assert exact(A) or not proved
        if steps == 0:
            assert not proved or exact(A)


def test_two_equilibria_of_silu_are_refused() -> None:
    """The published example ‖A‖∞ ≤ 0.95 with SiLU has two equilibria at A = 0.95, b = 0.3."""
    certificate = certify_system(single([[0.95]], "silu"))
    x, y = torch.zeros(1), torch.full((1,), 10.0)
    for _ in range(2000):
        x, y = (nn.functional.silu(0.95 * value + 0.3) for value in (x, y))

    assert abs(float(x - y)) > 1 and not certificate.proved
    assert certify_system(single([[0.9]], "silu")).proved


@pytest.mark.parametrize("phi", ["gelu", "silu"])
def test_a_falling_activation_is_not_taken_for_an_increasing_one(phi: str) -> None:
    """A = −9: monotone, but φ falls somewhere, so −9 φ' exceeds 1 there for silu and gelu alike... both ways."""
    proofs = by_rule(single([[-11.0]], phi))

    assert not any(proofs.values())
    assert by_rule(single([[-11.0]], "relu"))[Rule.MEASURE] is not None


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_definite_means_definite(seed: int, n: int) -> None:
    """Matrices whose least eigenvalue is a hair above or below zero, judged by exact minors."""
    rng = np.random.default_rng(seed)
    root = rng.integers(-3, 4, (n, max(1, n - 1))).astype(float)
    S = root @ root.T + np.diag(rng.choice([0.0, 1e-16, -1e-16, 1e-9], n))  # nearly singular
    exactly = [[Fraction(float(value)) for value in row] for row in S]

    if is_positive_definite(S, 0.0):
        assert is_p_matrix(exactly)
    assert is_positive_definite(S + np.eye(n), 0.5) and not is_positive_definite(S + np.eye(n), 40.0 * n)


# --------------------------------------------------------------------------- proofs are kept


def iterated(system: System, proof: Proof, x: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One step of the method of a proof, for x = φ(A x + b) with one state."""
    A, block = system.weights["A"], system.model.states[0]

    def phi(z: np.ndarray) -> np.ndarray:
        if block.activation is None:
            return z
        return activation_rule(block.activation).reference(block.activation, z[None])[0]

    if proof.method == "picard":
        return phi(A @ x + b)
    a = proof.damping
    assert a is not None
    if proof.method == "averaged":
        return (1 - a) * x + a * phi(A @ x + b)
    assert proof.method == "forward_backward"
    return phi((1 - a) * x + a * (A @ x + b))


def size_of(proof: Proof, z: np.ndarray) -> float:
    """‖z‖ in the norm of a proof."""
    weights = dict(proof.vector).get("x", np.ones_like(z))
    if proof.method == "forward_backward":
        return float(np.sqrt((weights * z * z).sum()))
    return float(np.abs(z / weights).max())


@pytest.mark.parametrize("seed", range(40))
def test_the_rate_is_a_contraction_and_the_steps_are_enough(seed: int) -> None:
    tolerance = 1e-4
    rng = np.random.default_rng(seed)
    for phi in ("relu", "tanh", "sigmoid", "leaky_relu"):
        options = {"slope": 0.1} if phi == "leaky_relu" else {}
        system = single(random_matrix(seed), phi, **options)
        for proof in by_rule(system).values():
            if proof is None or proof.rate is None:
                continue
            b = rng.standard_normal(5)
            for _ in range(5):
                x, y = rng.standard_normal((2, 5)) * 3
                moved = iterated(system, proof, x, b) - iterated(system, proof, y, b)
                assert size_of(proof, moved) <= proof.rate * size_of(proof, x - y) * (1 + 1e-12) + 1e-14
            if proof.steps is None or proof.steps > 3000:
                continue
            start = x = rng.standard_normal(5)
            first = size_of(proof, iterated(system, proof, x, b) - x)
            for _ in range(proof.steps):
                x = iterated(system, proof, x, b)
            solution = x
            for _ in range(4 * proof.steps + 50):
                solution = iterated(system, proof, solution, b)
            assert size_of(proof, x - solution) <= 1e-5 * first * (1 + 1e-6) + 1e-13, (proof, start, tolerance)


@pytest.mark.parametrize("seed", range(25))
def test_what_is_proved_has_one_solution(seed: int) -> None:
    """All 2ⁿ linear pieces of relu, one by one: exactly one of them holds its own solution."""
    rng = np.random.default_rng(seed)
    A = random_matrix(seed, 3)
    proved = certify_system(single(A)).proved
    for _ in range(20):
        b, found = rng.standard_normal(3), 0
        for piece in itertools.product([0.0, 1.0], repeat=3):
            D = np.diag(piece)
            x = np.linalg.solve(np.eye(3) - D @ A, D @ b)
            found += bool(np.abs(np.maximum(A @ x + b, 0) - x).max() < 1e-9)
        assert found == 1 or not proved


def test_a_negative_diagonal_is_damped() -> None:
    certificate = certify_system(single([[-20.0, 0.5], [0.3, -3.0]]))
    proof = certificate.loops[0].proof

    assert proof is not None and proof.rule is Rule.MEASURE and proof.damping is not None
    assert proof.damping == pytest.approx(1 / 21) and proof.damping <= 1 / 21
    assert proof.measure is not None and proof.measure < 0


def test_a_monotone_matrix_has_its_margin() -> None:
    rng = np.random.default_rng(0)
    P, Q, m = rng.standard_normal((8, 8)), rng.standard_normal((8, 8)), 0.25
    A = (1 - m) * np.eye(8) - P.T @ P + Q - Q.T
    proof = by_rule(single(A))[Rule.MONOTONE]
    assert proof is not None and proof.monotonicity is not None and proof.lipschitz is not None
    S = np.eye(8) - (A + A.T) / 2

    assert proof.monotonicity <= np.linalg.eigvalsh(S)[0] * (1 + 1e-12)
    assert proof.monotonicity >= m * (1 - 1e-6)
    assert np.linalg.norm(np.eye(8) - A, 2) <= proof.lipschitz <= 1.01 * np.linalg.norm(np.eye(8) - A, 2)
    # in other units it is no longer monotone, and a diagonal Λ finds the units
    units = np.diag(4.0 ** np.arange(8))
    proofs = by_rule(single(units @ A @ np.linalg.inv(units)))
    assert proofs[Rule.MONOTONE] is None and proofs[Rule.DIAGONAL] is not None


# --------------------------------------------------------------------------- triangular


@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_zeros_in_any_order_make_a_triangle(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    A = np.triu(rng.standard_normal((n, n)) * 100, 1)[np.ix_(order, order)]
    system = single(A, "silu")
    proof = certify_system(system).loops[0].proof
    assert proof is not None and proof.rule is Rule.TRIANGULAR and proof.steps is not None

    x, y = rng.standard_normal((2, n))
    for _ in range(proof.steps):
        x, y = (z / (1 + np.exp(-z)) for z in (A @ x, A @ y))
    np.testing.assert_array_equal(x, y)


def test_what_is_tiny_is_not_zero() -> None:
    proofs = by_rule(single([[0.0, 1e-300], [5e-324, 0.0]]))

    assert proofs[Rule.TRIANGULAR] is None and proofs[Rule.INFINITY] is not None
    assert by_rule(single([[0.0, 1e-300], [0.0, 0.0]]))[Rule.TRIANGULAR] is not None
