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
    return described((Block("x", (1, n), pool),), (Term("x", "x", chain),), (Loop(("x",), ("x",)),), {"A": A})


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


def by_rule(system: System, tolerance: float = 1e-5) -> dict[Rule, Proof | None]:
    """What each rule says by itself."""
    case = Case(swept(system), system.weights, tolerance)
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
    examples = {
        Rule.TRIANGULAR: [[0.0, 5.0], [0.0, 0.0]],
        Rule.INFINITY: [[0.5, 0.4], [0.1, -0.2]],
        Rule.PERRON: [[0.0, 5.0], [0.1, 0.0]],
        Rule.MEASURE: [[-5.0, 0.5], [0.5, 0.1]],
        Rule.MONOTONE: [[0.0, 4.0], [-4.0, 0.0]],
        Rule.DIAGONAL: [[0.0, 0.4], [-40.0, 0.0]],
        Rule.MINORS: [[0.0, 4.0, 0.0], [-3.0, 0.0, 4.0], [4.0, 0.0, -4.0]],
    }
    for rule, A in examples.items():
        proof = certify_system(single(A)).loops[0].proof
        assert proof is not None and proof.rule is rule


@pytest.mark.parametrize("steps", range(-4, 5))
def test_one_is_never_below_one(steps: int) -> None:
    """κ within a few units in the last place of 1: only exact arithmetic may accept, and only below 1."""
    a = 1.0 + steps * (2 * ULP if steps > 0 else ULP)
    for A in ([[a]], [[0.0, a], [1.0, 0.0]], [[0.5, a - 0.5], [0.5, 0.5]]):
        proofs = by_rule(single(A))
        assert exact(A) == (proofs[Rule.MINORS] is not None)
        proved = [rule for rule, proof in proofs.items() if proof is not None]
        assert exact(A) or not proved


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
    """A = −11: φ' is about −0.1 somewhere, where A φ' exceeds 1. With relu there is one equilibrium."""
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
    rng, tolerance = np.random.default_rng(seed), 10.0 ** -(2 + seed % 5)
    for phi in ("relu", "tanh", "sigmoid", "leaky_relu"):
        options = {"slope": 0.1} if phi == "leaky_relu" else {}
        system = single(random_matrix(seed), phi, **options)
        for proof in by_rule(system, tolerance).values():
            if proof is None or proof.rate is None:
                continue
            b = rng.standard_normal(5)
            for _ in range(5):
                x, y = rng.standard_normal((2, 5)) * 3
                moved = iterated(system, proof, x, b) - iterated(system, proof, y, b)
                assert size_of(proof, moved) <= proof.rate * size_of(proof, x - y) * (1 + 1e-12) + 1e-14
            if proof.steps is None or proof.steps > 3000:
                continue
            x = rng.standard_normal(5)
            first = size_of(proof, iterated(system, proof, x, b) - x)
            for _ in range(proof.steps):
                x = iterated(system, proof, x, b)
            solution = x
            for _ in range(4 * proof.steps + 50):
                solution = iterated(system, proof, solution, b)
            assert size_of(proof, x - solution) <= tolerance * first * (1 + 1e-6) + 1e-13


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
    system = single(A, "gelu")
    proof = certify_system(system).loops[0].proof
    assert proof is not None and proof.rule is Rule.TRIANGULAR and proof.steps is not None

    x, y = rng.standard_normal((2, n))
    for _ in range(proof.steps):
        x, y = (np.abs(A @ z) - 0.1 * (A @ z) for z in (x, y))  # not monotone, and steep
    np.testing.assert_array_equal(x, y)


def test_what_is_tiny_is_not_zero() -> None:
    proofs = by_rule(single([[0.0, 1e-300], [5e-324, 0.0]]))

    assert proofs[Rule.TRIANGULAR] is None and proofs[Rule.INFINITY] is not None
    assert by_rule(single([[0.0, 1e-300], [0.0, 0.0]]))[Rule.TRIANGULAR] is not None


# --------------------------------------------------------------------------- majorants


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_pool_is_as_bad_as_its_worst_selection(seed: int, n: int) -> None:
    """The root of the majorant is the largest Perron root of the 2ⁿ matrices with one slot of each window."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((2 * n, n)) * rng.choice([0.3, 0.6, 1.0]) * rng.choice([0.0, 1.0], (2 * n, n))
    worst = max(
        np.abs(np.linalg.eigvals(np.abs(A[[2 * k + pick for k, pick in enumerate(picks)]]))).max()
        for picks in itertools.product([0, 1], repeat=n)
    )
    certificate = certify_system(pooled(A))

    assert not certificate.proved or worst < 1
    assert certificate.proved or worst > 1 - 1e-6
    found = perron(flat(swept(pooled(A))), n)
    assert found.lower * (1 - 1e-6) <= worst <= found.upper * (1 + 1e-6) + 1e-9


def test_a_pool_without_solution_is_refused_though_its_matrix_is_nilpotent() -> None:
    """x = max(b, 2x + b'): every row of A has zeros enough for a naive test."""
    certificate = certify_system(pooled([[0.0], [2.0]]))

    assert not certificate.proved
    assert certificate.loops[0].cycle is not None
    assert certificate.loops[0].cycle.gain == pytest.approx(2)
    assert certify_system(pooled([[0.0], [0.99]])).proved


def convolved(K: Any, phi: str = "relu", size: int = 5, demands: tuple[Demand, ...] = ()) -> System:
    """z = φ(K z + u) with a convolution of channels [c, size, size]."""
    shape = (len(K), size, size)
    operator = conv(shape, "K", len(K), 3, pad=1, bias=False)
    block, loop = state("z", shape, phi), Loop(("z",), ("z",))
    return described((block,), (Term("z", "z", (operator,)),), (loop,), {"K.weight": K}, demands)


def test_a_convolution_moves_states_as_its_matrix_does() -> None:
    rng = np.random.default_rng(0)
    system = convolved(rng.standard_normal((3, 3, 3, 3)) * 0.03)
    change = rng.uniform(0, 1, 75)
    moved = flat(swept(system))(change)
    exactly = abs(system.A.to_scipy()) @ change

    assert (moved >= exactly).all()
    np.testing.assert_allclose(moved, exactly, rtol=1e-12)
    proof = by_rule(system)[Rule.INFINITY]
    assert proof is not None and proof.rate == pytest.approx(abs(system.A.to_numpy()).sum(1).max(), rel=1e-10)


def test_a_large_convolution_needs_no_matrix() -> None:
    rng = np.random.default_rng(0)
    K = rng.standard_normal((24, 24, 3, 3))
    K *= 0.99 / np.abs(K).sum((1, 2, 3)).max()
    K[0] *= 3  # ‖A‖∞ is 3 × larger, and the Perron root is not
    system = convolved(K, "tanh", 32)
    certificate = certify_system(system)
    proof = certificate.loops[0].proof
    assert proof is not None and proof.rule is Rule.PERRON and proof.rate is not None
    assert isinstance(Case(swept(system), system.weights, 1e-5).folded, str)

    v = dict(proof.vector)["z"].reshape(-1)
    assert (v > 0).all() and (flat(swept(system))(v) <= proof.rate * v).all()


@pytest.mark.parametrize("seed", range(12))
def test_products_are_bounded_by_what_they_read(seed: int) -> None:
    """x = σ(W x + u) .* tanh(V x): each factor is bounded. From several starts, one equilibrium."""
    rng = np.random.default_rng(seed)
    W, V = rng.standard_normal((2, 3, 3)) * rng.choice([0.2, 0.5, 2.0])
    system = gated(W, V)
    certificate = certify_system(system)
    boxed = boxes(system.model, system.weights, Magnitudes(system.weights))
    u = rng.standard_normal(3)

    def step(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        g, h = 1 / (1 + np.exp(-(W @ x + u))), np.tanh(V @ x)
        return g, h, g * h

    found = []
    for _ in range(4):
        x = rng.standard_normal(3) * 10
        for _ in range(3):
            g, h, x = step(x)
        lower, upper = boxed.slots["x"]
        assert (lower <= np.stack([g, h])).all() and (np.stack([g, h]) <= upper).all()
        for _ in range(500):
            x = step(x)[-1]
        found.append(x)
    if certificate.proved:
        assert np.abs(np.array(found) - found[0]).max() < 1e-10
    assert certificate.proved or np.abs(np.concatenate([W, V])).max() > 0.3


def test_the_rate_of_a_product_holds_in_its_box() -> None:
    rng = np.random.default_rng(3)
    W, V = rng.standard_normal((2, 3, 3)) * 0.2
    proof = certify_system(gated(W, V)).loops[0].proof
    assert proof is not None and proof.rate is not None and proof.after == 2
    v = dict(proof.vector)["x"]

    def step(x: np.ndarray, u: np.ndarray) -> np.ndarray:
        return np.asarray(np.tanh(V @ x) / (1 + np.exp(-(W @ x + u))))

    for _ in range(200):
        u = rng.standard_normal(3) * 3
        x, y = (step(step(z, u), u) for z in rng.standard_normal((2, 3)) * 5)
        moved = np.abs((step(x, u) - step(y, u)) / v).max()
        assert moved <= proof.rate * np.abs((x - y) / v).max() + 1e-14


def test_a_product_of_unbounded_factors_is_named() -> None:
    W = np.full((2, 2), 1e-3)
    loop = certify_system(gated(W, W, "relu")).loops[0]

    assert not loop.proved
    assert "`x`" in loop.attempts[1].why and "no Lipschitz constant" in loop.attempts[1].why
    assert "bounded activation" in loop.advice


def test_batch_norm_uses_its_running_statistics() -> None:
    shape, held = (2, 3), "n"
    norm = op("batch_norm", shape, held, eps=1e-5, momentum=0.1, affine=True)
    names = ("weight", "bias", "running_mean", "running_var")
    for variance, proved in ((4.0, True), (0.25, False)):
        weights = {f"n.{name}": np.ones(2) for name in names} | {"n.running_var": np.full(2, variance)}
        loop = Loop(("x",), ("x",))
        system = described((state("x", shape, "relu"),), (Term("x", "x", (norm,)),), (loop,), weights)
        certificate = certify_system(system)
        assert certificate.proved is proved
        figure = dict(certificate.loops[0].attempts[1].figures)["κ"]
        assert figure == pytest.approx(1 / np.sqrt(variance + 1e-5), rel=1e-12)


# --------------------------------------------------------------------------- folding, several loops


def folding(W: Any, V: Any) -> System:
    """l = W x linear, x = relu(V l − l + u)."""
    n = len(W)
    return described(
        (state("x", (n,), "relu"), state("l", (n,))),
        (
            Term("l", "x", (matrix((n,), "W", (n, n)),)),
            Term("x", "l", (matrix((n,), "V", (n, n)),)),
            Term("x", "l", (op("scale", (n,), factor=-1.0),)),
        ),
        (Loop(("l", "x"), ("x",)),),
        {"W": W, "V": V},
    )


def test_cancellation_through_linear_states_is_seen() -> None:
    """V − I is small though |V| + I is not."""
    rng = np.random.default_rng(0)
    W, V = rng.standard_normal((4, 4)), np.eye(4) + 0.05 * rng.standard_normal((4, 4))
    system = folding(W, V)
    system = System(replace(system.model, states=system.model.states[::-1]), system.weights)
    proofs = by_rule(system)
    proof = proofs[Rule.PERRON]
    assert proofs[Rule.INFINITY] is None and proof is not None and proof.rate is not None

    A, v = (V - np.eye(4)) @ W, dict(proof.vector)["x"]
    assert (np.abs(A) @ v <= proof.rate * v).all()
    assert proof.rate == pytest.approx(np.abs(np.linalg.eigvals(np.abs(A))).max(), rel=1e-2)


@given(matrices(3), matrices(3))
@settings(max_examples=60, deadline=None)
def test_folding_proves_nothing_that_is_false(W: list[list[float]], V: list[list[float]]) -> None:
    n = min(len(W), len(V))
    W, V = [row[:n] for row in W[:n]], [row[:n] for row in V[:n]]
    system = folding(W, V)
    system = System(replace(system.model, states=system.model.states[::-1]), system.weights)
    exactly = [
        [sum((Fraction(V[i][k]) - (i == k)) * Fraction(W[k][j]) for k in range(n)) for j in range(n)]
        for i in range(n)
    ]
    K = [[Fraction(int(i == j)) - a for j, a in enumerate(row)] for i, row in enumerate(exactly)]
    proofs = by_rule(system)

    assert (proofs[Rule.MINORS] is not None) == is_p_matrix(K)
    assert is_p_matrix(K) or not any(proofs.values())


def test_each_loop_has_its_own_rule() -> None:
    A, B = np.diag([0.5, 0.5]), np.array([[0.0, 4.0], [-4.0, 0.0]])
    system = described(
        (state("x", (2,), "relu"), state("h", (2,), "gelu"), state("w", (2,), "relu")),
        (
            Term("x", "x", (matrix((2,), "A", (2, 2)),)),
            Term("h", "x", (op("scale", (2,), factor=50.0),)),
            Term("w", "h", ()),
            Term("w", "w", (matrix((2,), "B", (2, 2)),)),
        ),
        (Loop(("x",), ("x",)), Loop(("w",), ("w",))),
        {"A": A, "B": B},
    )
    certificate = certify_system(system)
    rules = [loop.proof and loop.proof.rule for loop in certificate.loops]

    assert certificate.proved and rules == [Rule.INFINITY, Rule.MONOTONE]
    assert certificate["w"].name == "w"
    with pytest.raises(KeyError, match="`h` is in no loop"):
        certificate["h"]


def test_a_loop_that_is_not_listed_is_not_overlooked() -> None:
    system = single([[0.5]])
    with pytest.raises(ValueError, match="no loop holds both"):
        certify_system(System(replace(system.model, loops=()), system.weights))
    gates = gated([[0.1]], [[0.1]])
    wrong = replace(gates.model, loops=(Loop(("g", "h", "x"), ("g",)),))
    with pytest.raises(ValueError, match="not computed before it"):
        certify_system(System(wrong, gates.weights))


def test_without_loops_everything_is_proved() -> None:
    x = state("x", (2,), "gelu")
    certificate = certify_system(described((x,), (), (), {}))

    assert certificate.proved and "no loops" in str(certificate)


# --------------------------------------------------------------------------- what is said


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_the_strongest_cycle_has_the_largest_mean(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    names = tuple("abcde"[:n])
    weights = {way: float(rng.normal()) for way in itertools.product(names, names) if rng.random() < 0.5}
    graph = nx.DiGraph(list(weights))
    means = [
        sum(weights[way] for way in zip(cycle, [*cycle[1:], cycle[0]])) / len(cycle)
        for cycle in nx.simple_cycles(graph)
    ]
    found = _largest_mean(names, weights)

    assert (found is None) == (not means)
    if found is not None:
        assert found[0] == found[-1]
        mean = sum(weights[way] for way in itertools.pairwise(found)) / (len(found) - 1)
        assert mean == pytest.approx(max(means))


def test_a_refusal_names_rules_cycle_and_advice() -> None:
    loop = certify_system(single([[0.5, 2.0], [1.0, 0.5]])).loops[0]
    figures = {attempt.rule: dict(attempt.figures) for attempt in loop.attempts}
    root = 0.5 + np.sqrt(2)

    assert not loop.proved and loop.proof is None and loop.rate is None
    assert figures[Rule.INFINITY]["κ"] == pytest.approx(2.5)
    assert figures[Rule.PERRON]["λ ≥"] <= root <= figures[Rule.PERRON]["λ ≤"] <= root * 1.001
    assert figures[Rule.MEASURE]["μ"] == pytest.approx(root, rel=1e-3)
    assert figures[Rule.MONOTONE]["m"] == pytest.approx(-1.0)
    assert loop.cycle is not None and loop.cycle.ways[0].operators == ("A", "relu")
    text = str(certify_system(single([[0.5, 2.0], [1.0, 0.5]])))
    for said in ("not proved", "x → x", "through A · relu", "norm(A, Inf)", "P-matrix"):
        assert said in text


def test_the_certificate_is_json() -> None:
    for system in (single([[0.5]]), single([[2.0]]), gated([[1.0]], [[1.0]], "relu"), single([[np.nan]])):
        certificate = certify_system(system)
        data = json.loads(certificate.as_json())
        assert data["proved"] is certificate.proved
        assert data["loops"][0]["iterated"] == list(certificate.loops[0].iterated)
    data = json.loads(certify_system(single([[0.5]])).as_json())
    assert data["loops"][0]["proof"]["rule"] == "∞-norm" and data["loops"][0]["proof"]["vector"] == {
        "x": [1.0]
    }


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_prove_nothing(value: float) -> None:
    certificate = certify_system(single([[0.1, value], [0.0, 0.1]]))

    assert not certificate.proved and "`A` holds values that are not finite" in str(certificate)
    assert not certify_system(single([[1e308, 1e308], [1e308, 1e308]])).proved


def test_a_tolerance_is_a_tolerance() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        certify_system(single([[0.5]]), 0.0)


def test_steps_grow_with_the_tolerance() -> None:
    steps = [certify_system(single([[0.5]]), 10.0**-k).loops[0].proof for k in (2, 4, 8)]

    # κᵗ ÷ (1 − κ) ≤ ε: 2 · 2⁻ᵗ ≤ ε
    assert [proof.steps for proof in steps if proof is not None] == [8, 15, 28]


# --------------------------------------------------------------------------- demands


def demand(criterion: Any, bound: float, named: bool = True, **options: Any) -> Demand:
    term = (MatrixTerm(1.0, (("A", False),)),) if named else None
    return Demand(criterion, bound, term, line=3, text=f"{criterion} {bound}", **options)


A_DEMANDED = np.array([[0.2, -0.5], [0.1, 0.3]])
VALUES = {
    "norm": np.abs(A_DEMANDED).sum(1).max(),
    "spectral": np.linalg.norm(A_DEMANDED, 2),
    "pf": np.abs(np.linalg.eigvals(np.abs(A_DEMANDED))).max(),
    "nemon": 0.25 + np.sqrt(0.05**2 + 0.05),
    "monotone": np.linalg.eigvalsh(np.eye(2) - (A_DEMANDED + A_DEMANDED.T) / 2)[0],
}


@pytest.mark.parametrize("criterion", list(VALUES))
@pytest.mark.parametrize("named", [True, False])
def test_a_demand_is_compared_with_its_value(criterion: str, named: bool) -> None:
    value = VALUES[criterion]
    better = -1 if criterion == "monotone" else 1
    demands = tuple(demand(criterion, value + better * room, named) for room in (1e-3, -1e-3))
    fits, fails = certify_system(single(A_DEMANDED, demands=demands)).verdicts

    assert fits.satisfied and not fails.satisfied
    assert fits.value == pytest.approx(value, rel=1e-3) and fits.line == 3
    assert "FAILS" in str(certify_system(single(A_DEMANDED, demands=demands)))


def test_float32_at_the_bound_satisfies_it() -> None:
    A = np.full((3, 3), np.float32(0.3)).astype(np.float64)

    assert np.abs(A).sum(1).max() > 0.9
    assert certify_system(single(A, demands=(demand("norm", 0.9),))).verdicts[0].satisfied


def test_a_demand_about_a_product_and_a_convolution() -> None:
    product = (MatrixTerm(0.5), MatrixTerm(-2.0, (("A", True), ("A", False))))
    made = 0.5 * np.eye(2) - 2 * A_DEMANDED.T @ A_DEMANDED
    found = certify_system(single(A_DEMANDED, demands=(Demand("norm", 1.0, product),))).verdicts[0]
    assert found.value == pytest.approx(np.abs(made).sum(1).max())

    K = np.random.default_rng(0).standard_normal((2, 2, 3, 3)) * 0.01
    asked = Demand("norm", 0.9, (MatrixTerm(1.0, (("K.weight", False),)),))
    found = certify_system(convolved(K, demands=(asked,))).verdicts[0]
    assert found.satisfied and found.value == pytest.approx(np.abs(K).sum((1, 2, 3)).max())


def test_prove_is_satisfied_by_a_proof() -> None:
    asked = (Demand("prove"), Demand("unchecked"))
    proved = certify_system(single([[0.5]], demands=asked)).verdicts
    refused = certify_system(single([[2.0]], demands=asked)).verdicts

    assert [verdict.satisfied for verdict in (*proved, *refused)] == [True, True, False, True]
    assert "the loop of `x` is not proved" in refused[0].why


# --------------------------------------------------------------------------- modules


class Held(nn.Module):
    def __init__(self, A: Any, effective: float | None = None) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.tensor(A, dtype=torch.float32))
        self.effective = effective
        if effective is not None:
            self.effective_weights = lambda: {"A": self.A * effective}


def test_a_module_is_certified_with_the_weights_that_it_uses() -> None:
    structure = single([[2.0]]).model.as_data()

    assert not certify(Held([[2.0]]), structure).proved
    found = certify(Held([[2.0]], 0.25), structure).loops[0]
    assert found.rate == pytest.approx(0.5)
    with pytest.raises(ValueError, match="has shape"):
        certify(Held([[2.0, 1.0]]), structure)


def test_free_sizes_need_shapes() -> None:
    system = convolved(np.full((1, 1, 3, 3), 0.1))
    free = (1, Size("u", 1), Size("u", 2))
    operator = replace(system.model.terms[0].chain[0], source=free, target=free)
    model = replace(
        system.model,
        inputs=(Block("u", free),),
        states=(state("z", free, "relu"),),
        outputs=(Block("y", free),),
        terms=(replace(system.model.terms[0], chain=(operator,)), *system.model.terms[1:]),
    )
    module = nn.Module()
    module.K = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.constant_(module.K.weight, 0.1)

    with pytest.raises(ValueError, match="is free"):
        certify(module, model.as_data())
    loop = certify(module, model.as_data(), {"u": (1, 4, 4)}).loops[0]
    assert loop.rate == pytest.approx(0.9, rel=1e-6)


# --------------------------------------------------------------------------- other units


@pytest.mark.parametrize("phi", ["relu", "tanh", "sigmoid", "leaky_relu", "max_pool"])
def test_other_units_compute_the_same_to_the_last_bit(phi: str) -> None:
    rng = np.random.default_rng(1)
    n = 6
    units = 10.0 ** rng.uniform(-2, 2, n)
    A = rng.standard_normal((2 * n if phi == "max_pool" else n, n))
    A = (np.repeat(units, 2) if phi == "max_pool" else units)[:, None] * A / units
    A *= (2.4 if phi == "sigmoid" else 0.6) / np.abs(np.linalg.eigvals(np.abs(A[:n]))).max() / 2
    options = {"slope": 0.1} if phi == "leaky_relu" else {}
    system = pooled(A / 4) if phi == "max_pool" else single(A, phi, **options)
    made = rescaled(system)
    U = rng.standard_normal((made.B.shape[1], 3))

    assert made.exact and made.norm < 1 < np.abs(system.A.to_numpy()).sum(1).max()
    assert np.abs(made.A.toarray()).sum(1).max() <= made.norm
    ones = replace(
        made, A=system.A.to_scipy(), B=system.B.to_scipy(), b=system.b,
        states=np.ones_like(made.states), slots=np.ones_like(made.slots),
    )  # fmt: skip
    x, y = np.zeros((2, n, 3))
    for _ in range(20):
        x, y = made.step(x, U), ones.step(y, U)
        np.testing.assert_array_equal(x, made.states[:, None] * y)


@pytest.mark.parametrize("phi", ["relu", "tanh", "sigmoid", "gelu", "max_pool"])
def test_a_step_in_other_units_contracts_and_solves_the_same(phi: str) -> None:
    rng = np.random.default_rng(2)
    n = 5
    A = rng.standard_normal((2 * n if phi == "max_pool" else n, n)) * 0.15
    A[0] *= 5
    A *= 0.7
    system = pooled(A) if phi == "max_pool" else single(A, phi)
    made = rescaled(system)
    u = torch.from_numpy(rng.standard_normal((4, *sizes(system.inputs[0].shape))))
    U = u.flatten(1).numpy().T
    for _ in range(20):
        x, y = rng.standard_normal((2, n, 4)) * 3
        moved = np.abs(made.step(x, U) - made.step(y, U)).max(0)
        assert (moved <= made.norm * np.abs(x - y).max(0) * (1 + 1e-12) + 1e-14).all()

    expected, actual = system.solve(u), made.solve(u)
    assert isinstance(expected, torch.Tensor) and isinstance(actual, torch.Tensor)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


def test_what_its_signs_prove_has_no_such_units() -> None:
    system = single([[-20.0, 0.5], [0.3, -3.0]])
    assert certify_system(system).proved

    with pytest.raises(CannotRescale, match="Perron root"):
        rescaled(system)


def test_certificates_are_exported() -> None:
    assert isinstance(certify_system(single([[0.5]])), Certificate)
