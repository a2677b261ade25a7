"""The laws of solvers: they solve, they say how well, and samples do not depend on each other."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from implicit_dsl.runtime.solution import Solution, Status
from implicit_dsl.runtime.solvers import (
    RULES,
    Anderson,
    Auto,
    Broyden,
    Equation,
    Features,
    ForwardBackward,
    Newton,
    Norm,
    PeacemanRachford,
    Picard,
    Point,
    Solver,
    choose,
    proved_steps,
    solve,
)
from implicit_dsl.runtime.solvers.anderson import History, anderson_mix
from implicit_dsl.runtime.solvers.broyden import Secants
from implicit_dsl.runtime.solvers.counting import STORED
from implicit_dsl.runtime.solvers.matrix import materialise
from implicit_dsl.runtime.solvers.proximal import proximal
from implicit_dsl.runtime.solvers.stamina import Stamina

ACCELERATED = [Anderson(), Anderson(memory=1), Anderson(damping=0.7), Broyden(), Broyden(memory=1), Auto()]
GENERAL: list[Solver] = [Picard(), *ACCELERATED, Newton()]
SPLITTING: list[Solver] = [ForwardBackward(), PeacemanRachford(), PeacemanRachford(step=0.3), Newton()]
EVERY: list[Solver] = [*GENERAL, ForwardBackward(), PeacemanRachford()]

Phi = Callable[[Tensor], Tensor]


def named(solver: Solver) -> str:
    given = {f.name: getattr(solver, f.name) for f in dataclasses.fields(solver)}
    changed = [f"{k}={v}" for k, v in given.items() if v != getattr(type(solver)(), k)]
    return f"{solver.name}({', '.join(changed)})"


def every(solvers: list[Solver]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("solver", solvers, ids=named)


def affine_equation(W: Tensor, c: Tensor, phi: Phi = torch.relu, split: bool = True) -> Equation:
    """x = φ(W x + c), evaluated so that a row has the same bits in every batch."""

    def affine(z: Tensor) -> Tensor:
        return (z.unsqueeze(1) * W).sum(2) + c

    def restrict(places: Tensor) -> Equation:
        return affine_equation(W, c[places], phi, split)

    parts = (affine, phi) if split else (None, None)
    return Equation(lambda z: phi(affine(z)), *parts, restrict=restrict)


def contraction(n: int, rate: float, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """W with ‖W‖∞ = rate."""
    W = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (W * rate / W.abs().sum(1, keepdim=True)).to(dtype)


def perron(n: int, rate: float, seed: int) -> Tensor:
    """|W| v = rate · v for a v of very different sizes: no contraction in the plain norm."""
    v = torch.logspace(-1, 1, n, dtype=torch.float64)
    return contraction(n, rate, seed) * v[:, None] / v


def measure(n: int, seed: int) -> Tensor:
    """NEMON: μ∞(W) ≤ 0.8 with diagonal entries down to −6, so that Picard's iteration diverges."""
    W = contraction(n, 0.8, seed)
    W.fill_diagonal_(0)
    return W - torch.diag(torch.linspace(0, 6, n, dtype=torch.float64))


def monotone(n: int, m: float, seed: int, turn: float = 1.5) -> Tensor:
    """I − W ⪰ m I with a strong antisymmetric part."""
    generator = torch.Generator().manual_seed(seed)
    P = torch.randn(n, n, generator=generator, dtype=torch.float64) / n**0.5
    Q = torch.randn(n, n, generator=generator, dtype=torch.float64) * turn / n**0.5
    return (1 - m) * torch.eye(n, dtype=torch.float64) - P.T @ P + Q - Q.T


def data(batch: int, n: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(batch, n, generator=generator, dtype=torch.float64).to(dtype)


def by_active_sets(W: Tensor, c: Tensor) -> Tensor:
    """x = relu(W x + c) in float64 by trying every set of positive entries."""
    n = W.shape[0]
    found = torch.full_like(c, torch.nan)
    for row, right in enumerate(c):
        for mask in itertools.product((0.0, 1.0), repeat=n):
            on = torch.tensor(mask, dtype=torch.float64)
            x = torch.linalg.solve(torch.eye(n, dtype=torch.float64) - on[:, None] * W, on * right)
            z = W @ x + right
            if bool(((z >= -1e-12) == (on > 0)).all()):
                found[row] = x
                break
    return found


def by_scipy(W: Tensor, c: Tensor, phi: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """x = φ(W x + c) in float64 by MINPACK."""
    rows = []
    for right in c.numpy():
        result = scipy.optimize.root(
            lambda x, b=right: x - phi(W.numpy() @ x + b), np.zeros(len(right)), tol=1e-14
        )
        assert np.abs(result.fun).max() < 1e-11
        rows.append(torch.from_numpy(result.x))
    return torch.stack(rows)


def true_residual(equation: Equation, x: Tensor) -> Tensor:
    """‖x − f(x)‖∞ / max(1, ‖x‖∞) by definition, in the dtype of x."""
    return (equation.f(x) - x).abs().amax(1) / x.abs().amax(1).clamp(min=1)


def started(batch: int, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.zeros(batch, n, dtype=dtype)


# -- solutions -----------------------------------------------------------------------------------


@every(EVERY)
@pytest.mark.parametrize("seed", range(3))
def test_solution_is_that_of_the_active_sets(solver: Solver, seed: int) -> None:
    W, c = contraction(6, 0.9, seed), data(5, 6, seed)
    solution = solve(affine_equation(W, c), started(5, 6), solver)
    assert solution.worst_status is Status.CONVERGED
    torch.testing.assert_close(solution.x, by_active_sets(W, c), rtol=0, atol=1e-8)


@every([s for s in GENERAL if s != Broyden(memory=1)])
def test_solution_in_a_weighted_norm(solver: Solver) -> None:
    W, c = perron(6, 0.8, 1), data(4, 6, 1)
    weights = torch.logspace(-1, 1, 6, dtype=torch.float64)
    solution = solve(affine_equation(W, c), started(4, 6), solver, Norm(weights))
    assert solution.worst_status is Status.CONVERGED
    torch.testing.assert_close(solution.x, by_active_sets(W, c), rtol=0, atol=1e-7)


@every([Picard(damping=1 / 7), ForwardBackward(memory=0), *SPLITTING])
@pytest.mark.parametrize("phi", ["relu", "tanh", "sigmoid"])
def test_loops_with_a_negative_diagonal(solver: Solver, phi: str) -> None:
    W, c = measure(6, 2), data(4, 6, 2)
    solution = solve(affine_equation(W, c, getattr(torch, phi)), started(4, 6), solver)
    assert solution.worst_status is Status.CONVERGED
    torch.testing.assert_close(solution.x, reference(W, c, phi), rtol=0, atol=1e-8)


@every(SPLITTING)
@pytest.mark.parametrize("phi", ["relu", "tanh", "sigmoid"])
def test_monotone_loops_that_picard_cannot_solve(solver: Solver, phi: str) -> None:
    W, c = monotone(7, 0.3, 3, turn=4.0), data(4, 7, 3)
    equation = affine_equation(W, c, getattr(torch, phi))
    if phi != "sigmoid":
        assert not solve(equation, started(4, 7), Picard()).solved
    solution = solve(equation, started(4, 7), solver)
    assert solution.worst_status is Status.CONVERGED
    torch.testing.assert_close(solution.x, reference(W, c, phi), rtol=0, atol=1e-7)


def reference(W: Tensor, c: Tensor, phi: str) -> Tensor:
    if phi == "relu":
        return by_active_sets(W, c)
    functions = {"tanh": np.tanh, "sigmoid": lambda z: 1 / (1 + np.exp(-z))}
    return by_scipy(W, c, functions[phi])


@settings(deadline=None, max_examples=60)
@given(
    solver=st.one_of(
        st.builds(Picard, damping=st.floats(0.3, 1), per_sample=st.booleans()),
        st.builds(Anderson, memory=st.integers(1, 12), delay=st.integers(0, 4), per_sample=st.booleans()),
        st.builds(Broyden, memory=st.integers(1, 12), per_sample=st.booleans()),
        st.builds(Newton, krylov=st.integers(1, 20), per_sample=st.booleans()),
        st.builds(ForwardBackward, step=st.none() | st.floats(0.2, 1), per_sample=st.booleans()),
        st.builds(PeacemanRachford, step=st.floats(0.1, 3), per_sample=st.booleans()),
        st.builds(Auto, per_sample=st.booleans()),
    ),
    n=st.integers(1, 24),
    batch=st.integers(1, 9),
    rate=st.floats(0, 0.9),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    phi=st.sampled_from([torch.relu, torch.tanh]),
    seed=st.integers(0, 10_000),
)
def test_converged_means_that_the_residual_is_within_the_tolerance(
    solver: Solver, n: int, batch: int, rate: float, dtype: torch.dtype, phi: Phi, seed: int
) -> None:
    W, c = contraction(n, rate, seed, dtype), data(batch, n, seed, dtype)
    equation = affine_equation(W, c, phi)
    solution = solve(equation, data(batch, n, seed + 1, dtype), solver)
    assert solution.worst_status is Status.CONVERGED
    assert bool((true_residual(equation, solution.x) <= solver.tolerance_for(dtype)).all())
    torch.testing.assert_close(
        solution.residual, true_residual(equation, solution.x).double(), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every(EVERY)
def test_narrow_formats(solver: Solver, dtype: torch.dtype) -> None:
    W, c = contraction(12, 0.7, 4, dtype), data(5, 12, 4, dtype)
    solution = solve(
        affine_equation(W, c), started(5, 12, dtype), dataclasses.replace(solver, tolerance=0.03)
    )
    assert solution.x.dtype == dtype
    assert solution.worst_status is Status.CONVERGED
    exact = solve(affine_equation(W.double(), c.double()), started(5, 12), Newton()).x
    torch.testing.assert_close(solution.x.double(), exact, rtol=0, atol=0.15)
    # the default tolerance is below what these formats reach, which is no failure
    assert solve(affine_equation(W, c), started(5, 12, dtype), solver).solved


@every(EVERY)
def test_empty_batches_and_loops_without_unknowns(solver: Solver) -> None:
    for batch, n in ((0, 3), (3, 0), (0, 0)):
        solution = solve(
            affine_equation(torch.zeros(n, n), torch.zeros(batch, n)), torch.zeros(batch, n), solver
        )
        assert solution.x.shape == (batch, n)
        assert solution.status.shape == solution.residual.shape == solution.steps.shape == (batch,)
        assert solution.worst_status is Status.CONVERGED


@every(EVERY)
def test_a_single_unknown(solver: Solver) -> None:
    W, c = torch.tensor([[-0.5]], dtype=torch.float64), torch.tensor([[3.0], [-3.0]], dtype=torch.float64)
    solution = solve(affine_equation(W, c), started(2, 1), solver)
    torch.testing.assert_close(
        solution.x, torch.tensor([[2.0], [0.0]], dtype=torch.float64), rtol=0, atol=1e-9
    )


@every(EVERY)
def test_the_start_is_not_changed_and_may_be_the_solution(solver: Solver) -> None:
    W, c = contraction(6, 0.9, 5), data(3, 6, 5)
    exact = by_active_sets(W, c)
    start = exact.clone()
    solution = solve(affine_equation(W, c), start, solver)
    assert solution.most_steps == 1
    assert torch.equal(start, exact)


@every(EVERY)
def test_what_f_returns_is_not_changed(solver: Solver) -> None:
    start = data(3, 4, 6)
    kept = start.clone()
    identity = Equation(lambda z: z, lambda z: z, lambda z: z)
    solution = solve(identity, start, solver)
    assert torch.equal(start, kept)
    assert torch.equal(solution.x, kept)
    # a map that hands out a tensor of its own, again and again
    constant = data(3, 4, 7)
    kept = constant.clone()
    solution = solve(Equation(lambda z: constant, lambda z: constant, lambda z: z), start, solver)
    assert torch.equal(constant, kept)
    torch.testing.assert_close(solution.x, kept)


@every(EVERY)
@pytest.mark.parametrize("native", ["0", "1"])
def test_what_memory_held_before_has_no_part_in_it(
    solver: Solver, native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples that begin to accelerate at different steps, in memory that is full of nan."""
    monkeypatch.setenv("IMPLICITC_NATIVE", native)
    W, c = contraction(6, 0.95, 34).abs(), data(5, 6, 34) * torch.logspace(-9, 1, 5)[:, None]
    expected = solve(affine_equation(W, c), started(5, 6), solver)
    assert expected.solved
    torch.use_deterministic_algorithms(True)  # which fills what is new with nan
    try:
        assert bool(torch.empty(1).isnan())
        found = solve(affine_equation(W, c), started(5, 6), solver)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(expected.x, found.x)


@every(EVERY)
def test_no_graph_is_recorded(solver: Solver) -> None:
    W = contraction(4, 0.5, 8).requires_grad_()
    assert not solve(affine_equation(W, data(2, 4, 8)), started(2, 4), solver).x.requires_grad


@every(EVERY)
def test_inference_mode(solver: Solver) -> None:
    W = contraction(5, 0.8, 9)  # weights are made outside
    with torch.inference_mode():
        c = data(3, 5, 9)
        assert solve(affine_equation(W, c), started(3, 5), solver).solved


# -- independence ---------------------------------------------------------------------------------


@every(EVERY)
@pytest.mark.parametrize("leaving", [True, False], ids=["leaving", "frozen"])
def test_d18_a_sample_does_not_depend_on_its_batch_mates(solver: Solver, leaving: bool) -> None:
    """torchdeq D18. To the last bit, with mates that take longer and one that is not finite."""
    n = 9
    W = contraction(n, 0.95, 10, torch.float32)
    c = data(6, n, 10, torch.float32) * torch.tensor([1e-3, 1.0, 1.0, 30.0, 1.0, 1e-6])[:, None]
    c[4] = torch.nan
    together = affine_equation(W, c)
    if not leaving:
        together = dataclasses.replace(together, restrict=None)
    solution = solve(together, started(6, n, torch.float32), solver)
    assert solution.count(Status.NOT_FINITE) == 1
    for row in range(6):
        if row == 4:
            continue
        alone = solve(affine_equation(W, c[row : row + 1]), started(1, n, torch.float32), solver)
        assert (alone.steps[0], alone.status[0]) == (solution.steps[row], solution.status[row])
        if solver == PeacemanRachford():  # multiplies by a matrix, which BLAS rounds by the size of the batch
            torch.testing.assert_close(alone.x[0], solution.x[row], rtol=1e-5, atol=1e-5)
            continue
        assert torch.equal(alone.x[0], solution.x[row])
        assert alone.residual[0] == solution.residual[row]


@every([*GENERAL, ForwardBackward(), ForwardBackward(memory=0)])
@pytest.mark.parametrize("leaving", [True, False], ids=["leaving", "frozen"])
def test_d18_nor_on_when_others_are_looked_at(solver: Solver, leaving: bool) -> None:
    """Mates of quite different rates, so that residuals are measured at many steps that are not its own."""
    rates = torch.tensor([[0.2], [0.6], [0.9], [-0.9], [0.97], [0.99], [0.995]])

    def of(rates: Tensor, c: Tensor) -> Equation:
        def affine(z: Tensor) -> Tensor:
            return rates * z * torch.linspace(0.5, 1, 5) + c

        restrict = (lambda places: of(rates[places], c[places])) if leaving else None
        return Equation(lambda z: torch.tanh(affine(z)), affine, torch.tanh, restrict=restrict)

    c = 0.05 * data(7, 5, 33, torch.float32)
    solution = solve(of(rates, c), torch.zeros(7, 5), solver)
    for row in range(7):
        own = slice(row, row + 1)
        alone = solve(of(rates[own], c[own]), torch.zeros(1, 5), solver)
        assert alone.steps[0] == solution.steps[row]
        assert torch.equal(alone.x[0], solution.x[row])


@every([solver for solver in EVERY if solver != Newton()])
def test_samples_that_are_done_leave(solver: Solver) -> None:
    n, seen = 8, []
    W = contraction(n, 0.95, 11)
    W = W.abs()  # slow for the active samples

    def watched(c: Tensor) -> Equation:
        inner = affine_equation(W, c)
        assert inner.affine is not None and inner.phi is not None

        def affine(z: Tensor) -> Tensor:
            seen.append(len(z))
            return inner.affine(z)  # type: ignore[misc]

        return Equation(lambda z: torch.relu(affine(z)), affine, torch.relu, restrict=lambda i: watched(c[i]))

    c = torch.cat((-torch.ones(6, n, dtype=torch.float64), torch.ones(2, n, dtype=torch.float64)))
    solution = solve(watched(c), started(8, n), solver)
    assert solution.solved
    assert min(solution.steps) < max(solution.steps)
    assert 2 in seen[-4:] and 8 not in seen[-2:]


@every(EVERY)
def test_batchwise_all_go_on_until_the_last_is_done(solver: Solver) -> None:
    W, c = contraction(6, 0.95, 12).abs(), data(5, 6, 12).abs() * torch.logspace(-12, 2, 5)[:, None]
    c[2] = -1
    equation = affine_equation(W, c)
    solution = solve(equation, started(5, 6), dataclasses.replace(solver, per_sample=False))
    assert solution.worst_status is Status.CONVERGED
    assert solution.steps.unique().numel() == 1
    torch.testing.assert_close(solution.x, by_active_sets(W, c), rtol=1e-7, atol=1e-4)


def test_batchwise_a_sample_that_has_left_its_solution_is_not_converged() -> None:
    """The first starts near an unstable equilibrium, and drifts away while the second is slow."""
    rates, c = torch.tensor([[1.5], [0.9]]), torch.tensor([[0.0], [1.0]])
    start = torch.tensor([[1e-7], [0.0]])
    solution = solve(Equation(lambda z: rates * z + c), start, Picard(per_sample=False, max_steps=150))
    assert int(solution.status[0]) != Status.CONVERGED.value
    assert float(solution.residual[0]) > 0.1


def test_d22_tolerance_does_not_depend_on_the_dimension() -> None:
    """torchdeq D22: 80 steps for 16 unknowns, 106 for 4096."""
    steps = {
        solve(Equation(lambda z: 0.9 * z + 0.1), torch.zeros(2, n), Picard()).most_steps
        for n in (1, 16, 4096)
    }
    assert len(steps) == 1


# -- honesty --------------------------------------------------------------------------------------


@every(EVERY)
@pytest.mark.parametrize("per_sample", [True, False])
def test_d1_divergence_is_reported(solver: Solver, per_sample: bool) -> None:
    """torchdeq D1: residual 2.4, no warning. (Newton's method and Anderson's solve 3z + 1, but not z + 1.)"""
    for equation in (
        Equation(lambda z: z + 1, lambda z: z + 1, lambda z: z),
        Equation(lambda z: 3 * z.relu() + 1, lambda z: 3 * z.relu() + 1, torch.relu),
    ):
        solution = solve(equation, started(2, 3), dataclasses.replace(solver, per_sample=per_sample))
        assert not bool((solution.status <= Status.FLOOR.value).any())


@every([Picard(), ForwardBackward(step=1.0, memory=0)])
def test_three_z_plus_one_diverges(solver: Solver) -> None:
    equation = Equation(lambda z: 3 * z + 1, lambda z: 3 * z + 1, lambda z: z)
    assert solve(equation, started(2, 3, torch.float32), solver).worst_status is Status.NOT_FINITE


def test_d2_the_residual_is_that_of_what_is_returned() -> None:
    """torchdeq D2: 4e-4 reported, 0.576 true."""
    turn = 0.9 * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    for solver, stop in itertools.product(EVERY, (1, 2, 3, 5, 9, 20)):
        for W, c in ((turn, data(3, 2, 13)), (contraction(50, 0.99, 13), data(2, 50, 13))):
            equation = affine_equation(W, c)
            cut = dataclasses.replace(solver, max_steps=stop, tolerance=1e-12)
            solution = solve(equation, started(*c.shape), cut)
            assert solution.most_steps <= stop
            torch.testing.assert_close(
                solution.residual, true_residual(equation, solution.x), rtol=1e-6, atol=1e-15
            )


@every([*GENERAL, ForwardBackward()])
def test_d3_overflow_harms_no_other_sample(solver: Solver) -> None:
    """torchdeq D3: [2.0, nan]."""
    scale = torch.tensor([[0.5], [1e30]])

    def of(scale: Tensor) -> Equation:
        def f(z: Tensor) -> Tensor:
            return (z.relu() + 1) * scale

        return Equation(f, f, lambda z: z, restrict=lambda i: of(scale[i]))

    solution = solve(of(scale), torch.zeros(2, 1), solver)
    assert abs(float(solution.x[0]) - 1) < 1e-4
    assert int(solution.status[0]) == Status.CONVERGED.value
    assert int(solution.status[1]) != Status.CONVERGED.value


@every(EVERY)
@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_named_and_never_converged(
    solver: Solver, per_sample: bool, value: float
) -> None:
    W, c = contraction(5, 0.9, 14), data(4, 5, 14)
    c[2, 3] = value
    # identity, so that −∞ is not cut off
    equation = affine_equation(W, c, lambda z: z)
    solution = solve(equation, started(4, 5), dataclasses.replace(solver, per_sample=per_sample))
    assert solution.status.tolist() == [0, 0, Status.NOT_FINITE.value, 0]
    assert not bool(solution.residual[2].isfinite())
    assert solution.worst_status is Status.NOT_FINITE
    assert int(solution.steps[2]) <= 2


def test_the_step_is_told_at_which_it_was_found() -> None:
    calls = []

    def f(z: Tensor) -> Tensor:
        calls.append(None)
        image = 0.999 * z + 1
        if len(calls) >= 7:
            image = torch.where(torch.tensor([[False], [True]]), torch.nan, image)
        return image

    solution = solve(Equation(f), torch.zeros(2, 2), Picard(max_steps=30))
    assert solution.status.tolist() == [Status.MAX_STEPS.value, Status.NOT_FINITE.value]
    assert 7 <= int(solution.steps[1]) <= 11
    assert int(solution.steps[0]) == 30


def test_d13_few_steps_and_little_memory() -> None:
    """torchdeq D13: Anderson returns x0 with residual 1e8 for max_iter ≤ 2, and raises for m = 1."""
    W, c = contraction(6, 0.5, 15), data(3, 6, 15)
    equation = affine_equation(W, c)
    for solver in EVERY:
        first = solve(equation, started(3, 6), dataclasses.replace(solver, max_steps=1))
        assert first.most_steps == 1
        assert first.worst_status is Status.MAX_STEPS
        second = solve(equation, started(3, 6), dataclasses.replace(solver, max_steps=2))
        assert bool((second.residual < first.residual).all())


def test_d16_the_rate_of_a_rotation_is_seen() -> None:
    """torchdeq D16: the monitor says 0.0 for 0.9 · rotation. The rate is 0.9, and the prediction right."""
    turn = 0.9 * torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    calls = []

    def f(z: Tensor) -> Tensor:
        calls.append(None)
        return z @ turn.T + 1

    norm = Norm()
    solution = solve(Equation(f), started(1, 2), Picard(), norm)
    needed = np.log(1e-10) / np.log(0.9)
    assert solution.solved
    assert needed * 0.9 < len(calls) == solution.most_steps < needed * 1.2


@every([Picard(), Anderson(), Broyden(), Auto(), Newton(), ForwardBackward(), PeacemanRachford()])
@pytest.mark.parametrize("per_sample", [True, False])
def test_a_tolerance_below_rounding_is_recognised(solver: Solver, per_sample: bool) -> None:
    generator = torch.Generator().manual_seed(16)
    turn = 0.97 * torch.linalg.qr(torch.randn(40, 40, generator=generator))[0]
    c = data(6, 40, 16, torch.float32)
    # below any rounding, unless a residual happens to be exactly zero
    demanding = dataclasses.replace(solver, tolerance=1e-12, per_sample=per_sample)
    solution = solve(affine_equation(turn, c, torch.tanh), started(6, 40, torch.float32), demanding)
    assert set(solution.status.tolist()) <= {Status.FLOOR.value, Status.CONVERGED.value}
    assert solution.count(Status.FLOOR) > 0
    assert solution.worst_residual < 2e-6
    assert solution.most_steps < 600


def test_the_floor_is_that_of_the_terms() -> None:
    """Large terms that cancel leave their rounding in the residual, and no solver can do better."""
    equation = Equation(lambda z: ((z * 0.5 + 3e3) - torch.cos(z) * 0.1) - 3e3)
    for solver in (Picard(), Anderson(), Broyden()):
        demanding = dataclasses.replace(solver, tolerance=1e-9)
        solution = solve(equation, data(3, 8, 30, torch.float32), demanding)
        assert solution.worst_status.solved
        assert solution.most_steps < 200


def test_a_cycle_is_a_stall_and_not_a_floor() -> None:
    solution = solve(Equation(lambda z: 1 - z), torch.zeros(2, 3), Picard(max_steps=100_000))
    assert solution.worst_status is Status.STALLED
    assert solution.most_steps < 1000
    # averaged, the same equation is solved
    assert solve(Equation(lambda z: 1 - z), torch.zeros(2, 3), Picard(damping=0.5)).solved


def test_slow_convergence_is_neither() -> None:
    solution = solve(Equation(lambda z: 0.9995 * z + 1), torch.zeros(2, 3), Picard(max_steps=30_000))
    assert solution.worst_status is Status.CONVERGED
    assert 7_000 < solution.most_steps < 12_000


def test_long_chains_are_not_taken_for_stalls() -> None:
    """A nilpotent chain of states with gain: nothing falls until the last link has been reached."""
    n = 150
    W = torch.diag(torch.full((n - 1,), 1.01, dtype=torch.float64), -1)
    c = torch.zeros(1, n, dtype=torch.float64)
    c[0, 0] = 1
    solution = solve(affine_equation(W, c), started(1, n), Picard())
    assert solution.solved
    assert solution.most_steps <= 1.5 * n + 2


@every(ACCELERATED)
def test_acceleration_pays_where_picard_is_slow(solver: Solver) -> None:
    W, c = contraction(60, 0.99, 17).abs(), data(4, 60, 17)
    equation = affine_equation(W, c)
    plain, fast = (solve(equation, started(4, 60), s) for s in (Picard(), solver))
    assert fast.solved
    assert fast.most_steps < plain.most_steps / 4


def test_anderson_forgets_what_has_been_outrun() -> None:
    """Per sample: a residual that has tripled restarts, with a plain step."""
    history = History(memory=3, first=1)
    x = data(2, 5, 31)
    for step, growth in ((2, 1.0), (3, 0.5), (4, 0.3), (5, 100.0)):
        residual = data(2, 5, 40 + step) * torch.tensor([[growth], [0.5**step]])
        mixed = anderson_mix(history, x + residual, residual, step)
    assert history.valid.any(1).tolist() == [False, True]
    assert torch.equal(mixed[0], (x + residual)[0])
    assert not torch.equal(mixed[1], (x + residual)[1])


@pytest.mark.parametrize("memory", [1, 2, 5])
def test_the_newest_secant_of_broyden_holds(memory: int) -> None:
    """H dr = dx, also after older terms have been overwritten."""
    W, c = contraction(6, 0.9, 32).abs(), data(2, 6, 32)
    secants = Secants(c, memory)
    x = torch.zeros_like(c)
    previous = None
    for step in range(1, 12):
        image = torch.tanh(x @ W.T + c)
        ahead = secants.step(Point(x, image, step), 1.0)
        if previous is not None and bool(secants.valid[:, (step - 2) % memory].all()):
            last_x, last_residual = previous
            moved = -secants._apply(image - x - last_residual)
            torch.testing.assert_close(moved, x - last_x, rtol=1e-8, atol=1e-14)
        previous, x = (x, image - x), ahead
    assert float((torch.tanh(x @ W.T + c) - x).abs().max()) < 1e-4


def test_acceleration_rests_where_it_makes_no_progress() -> None:
    """Per sample, by averaged steps, and for a while only, each time for twice as long."""
    stamina = Stamina(torch.zeros(2, 1))
    point = Point(torch.zeros(2, 1), torch.ones(2, 1), 0)
    resting = []
    for step in range(1, 260):
        stamina.spend(torch.tensor([1.0, 0.9**step]), step)
        made = stamina.choose(torch.full((2, 1), 7.0), dataclasses.replace(point, step=step), 1.0)
        assert float(made[1]) == 7
        assert float(made[0]) in (7.0, 0.5)
        resting += [step] if float(made[0]) == 0.5 else []
    assert resting == [*range(42, 82), *range(123, 203), *range(244, 260)]


# -- norms ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(
    batch=st.integers(1, 5),
    n=st.integers(1, 6000),
    weighted=st.booleans(),
    dual=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_norms_by_definition(batch: int, n: int, weighted: bool, dual: bool, dtype: torch.dtype) -> None:
    z = data(batch, n, 18, dtype)
    v = torch.linspace(0.5, 2, n, dtype=dtype) if weighted else torch.ones(n, dtype=dtype)
    norm = Norm(v if weighted else None, dual)
    by_numpy = (np.abs(z.numpy()) * v.numpy()).sum(1) if dual else (np.abs(z.numpy()) / v.numpy()).max(1)
    torch.testing.assert_close(norm.size(z), torch.from_numpy(by_numpy), rtol=1e-5, atol=0)
    z[-1, n // 2] = torch.nan
    assert norm.size(z).isnan().tolist() == [False] * (batch - 1) + [True]


def test_an_adjoint_is_solved_relative_to_itself() -> None:
    """Linear in the gradient: the same steps for a gradient of any size, and none for a zero one."""
    A, slope = contraction(20, 0.9, 19), (data(3, 20, 19) > 0).double()
    norm = Norm(dual=True, unit=0.0)
    steps = set()
    for size in (1.0, 2.0**-200, 2.0**200):
        g = data(3, 20, 20) * size
        adjoint = Equation(lambda y, g=g: (slope * y) @ A + g)
        solution = solve(adjoint, g, Picard(), norm)
        assert solution.solved
        exact = torch.stack(
            [torch.linalg.solve(torch.eye(20).double() - A.T @ torch.diag(s), r) for s, r in zip(slope, g)]
        )
        assert float(((solution.x - exact).abs().sum(1) / exact.abs().sum(1)).max()) < 1e-8
        steps.add(tuple(solution.steps.tolist()))
    assert len(steps) == 1
    # also from zero, which is infinitely far off relative to itself
    again = solve(Equation(lambda y: (slope * y) @ A + g), started(3, 20), Picard(), norm)
    torch.testing.assert_close(again.x, solution.x, rtol=1e-7, atol=0)
    zero = solve(Equation(lambda y: (slope * y) @ A), started(3, 20), Picard(), norm)
    assert zero.worst_status is Status.CONVERGED
    assert zero.worst_residual == 0


# -- counted steps --------------------------------------------------------------------------------


class NoReading(TorchDispatchMode):
    """Raises where a value is read from a device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = str(func)
        forbidden = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal.default", "_to_copy.cpu", "item")
        if any(part in name for part in forbidden) and "not_equal" not in name:
            raise AssertionError(f"{name} reads from the device")
        return func(*args, **(kwargs or {}))


@every([Picard(), Picard(damping=0.8), Auto()])
def test_counted_steps_read_nothing(solver: Solver) -> None:
    W, c = contraction(10, 0.9, 21), data(3, 10, 21)
    equation = Equation(lambda z: torch.relu(z @ W.T + c), rate=0.9)
    with NoReading():
        solution = solve(equation, started(3, 10), solver, counted=True)
    assert solution.worst_status is Status.COUNTED
    assert bool((true_residual(equation, solution.x) <= 1e-10).all())
    with pytest.raises(AssertionError, match="reads from the device"), NoReading():
        bool(solution.residual[0] > 0)


@settings(deadline=None, max_examples=60)
@example(rate=0.79, damping=0.35957925151119585, size=0.0, start=0.0, seed=0, family="signs")
@given(
    rate=st.floats(0, 0.97),
    damping=st.floats(0.2, 1),
    size=st.sampled_from([0.0, 1e-6, 1.0, 1e6]),
    start=st.sampled_from([0.0, 1.0, 1e9]),
    seed=st.integers(0, 10_000),
    family=st.sampled_from(["signs", "positive", "negative"]),
)
def test_the_proved_number_of_steps_suffices(
    rate: float, damping: float, size: float, start: float, seed: int, family: str
) -> None:
    """Relative to ‖x‖ and from any start, for maps that contract no faster than they must."""
    n = 5
    W = {
        "signs": contraction(n, rate, seed),
        "positive": contraction(n, rate, seed).abs(),
        "negative": -rate * torch.eye(n, dtype=torch.float64),  # for which the bound is attained
    }[family]
    c = data(3, n, seed) * size
    equation = dataclasses.replace(affine_equation(W, c, lambda z: z), rate=rate)
    solver = Picard(damping=damping, tolerance=1e-5, max_steps=100_000)
    solution = solve(equation, data(3, n, seed + 1) * start, solver, Norm(unit=0.0), counted=True)
    assert solution.worst_status is Status.COUNTED
    counted = min(rate * STORED, (1 + rate) / 2)  # a rate of stored weights is rounded up
    steps = proved_steps(1 - damping * (1 - counted), 1e-5, damping)
    assert int(solution.steps[0]) == steps >= proved_steps(1 - damping * (1 - rate), 1e-5, damping)


def test_one_step_less_than_proved_may_not_suffice() -> None:
    """x = 1 − κ x from zero: ‖x_t − f(x_t)‖ = κᵗ (1 + κ) ‖x*‖."""
    for rate in (0.5, 0.9, 0.99):
        steps = proved_steps(rate, 1e-5)
        equation = Equation(lambda z, rate=rate: 1 - rate * z)
        measured = Picard(tolerance=1e-30, max_steps=steps)  # its last step measures x_{steps − 1}
        solution = solve(equation, started(1, 2), measured, Norm(unit=0.0))
        assert float(solution.residual[0]) > 0.99e-5
        equation = dataclasses.replace(equation, rate=rate)
        counted = solve(equation, started(1, 2), Picard(tolerance=1e-5), Norm(unit=0.0), counted=True)
        assert counted.worst_status is Status.COUNTED


def test_counting_knows_its_limits() -> None:
    W, c = contraction(10, 0.99, 22).abs(), data(2, 10, 22)
    equation = Equation(lambda z: z @ W.T + c, rate=0.99)
    cut = solve(equation, started(2, 10), Picard(max_steps=20), counted=True)
    assert cut.worst_status is Status.MAX_STEPS
    wrong = Equation(lambda z: 1.1 * z + c, rate=0.5)
    assert solve(wrong, started(2, 10), Picard(), counted=True).worst_status is Status.STALLED
    bad = Equation(lambda z: z * torch.nan, rate=0.5)
    assert solve(bad, started(2, 10), Picard(), counted=True).worst_status is Status.NOT_FINITE
    fine = Equation(lambda z: z.float().mul(0.5).add(c.float()), rate=0.5)
    small = solve(fine, torch.zeros(2, 10), Picard(tolerance=1e-30), counted=True)
    assert small.worst_status in (Status.FLOOR, Status.COUNTED)
    with pytest.raises(ValueError, match="no proved rate"):
        solve(Equation(lambda z: z), started(2, 2), Picard(), counted=True)
    with pytest.raises(ValueError, match="use picard"):
        solve(equation, started(2, 10), Anderson(), counted=True)


def test_on_a_cpu_residuals_decide_and_the_proof_does_not() -> None:
    equation = Equation(lambda z: 0.1 * z + 1, rate=0.99)
    solution = solve(equation, started(2, 3), Picard())
    assert solution.worst_status is Status.CONVERGED
    assert solution.most_steps < 15


# -- parts ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=80)
@given(
    phi=st.sampled_from(["relu", "tanh", "sigmoid", "softplus", "hardtanh"]),
    alpha=st.floats(0.01, 20),
    scale=st.floats(1e-3, 50),
    seed=st.integers(0, 1000),
)
def test_proximal_map_by_its_definition(phi: str, alpha: float, scale: float, seed: int) -> None:
    """x = φ(w) and u − x = α (w − x), which is u − x ∈ α ∂f(x) for φ = prox_f."""
    function: Phi = getattr(torch, phi, None) or getattr(torch.nn.functional, phi)
    u = data(4, 30, seed) * scale
    x, w = proximal(function, u, u.new_full((4, 1), alpha), torch.zeros_like(u))
    torch.testing.assert_close(x, function(w), rtol=0, atol=0)
    torch.testing.assert_close(u - x, alpha * (w - x), rtol=1e-12, atol=1e-12 * scale * max(1, alpha))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("leaving", [True, False])
@pytest.mark.parametrize("size", [1.0, 1e5])
def test_the_matrix_of_an_affine_map(shared: bool, leaving: bool, size: float) -> None:
    n, batch = 7, 3
    W = data(1 if shared else batch, n * n, 23).reshape(-1, n, n)
    c = data(batch, n, 23) * size

    def of(places: Tensor) -> Equation:
        chosen = W.expand(batch, n, n)[places]

        def affine(z: Tensor) -> Tensor:
            return torch.einsum("bij,bj->bi", chosen, z) + c[places]

        return Equation(affine, affine, lambda z: z, restrict=of if leaving else None)

    found = materialise(of(torch.arange(batch)), c, "newton")
    assert found.shared is shared
    torch.testing.assert_close(found.W, W[0] if shared else W, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.c, c)


@every([PeacemanRachford(), Newton()])
def test_samples_with_matrices_of_their_own(solver: Solver) -> None:
    """As dropout masks in a loop make them."""
    W = torch.stack([contraction(5, 0.9, seed) for seed in range(4)])
    c = data(4, 5, 24)

    def of(W: Tensor, c: Tensor) -> Equation:
        def affine(z: Tensor) -> Tensor:
            return torch.einsum("bij,bj->bi", W, z) + c

        return Equation(
            lambda z: torch.relu(affine(z)), affine, torch.relu, restrict=lambda i: of(W[i], c[i])
        )

    solution = solve(of(W, c), started(4, 5), solver)
    exact = torch.cat([by_active_sets(W[i], c[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(solution.x, exact, rtol=0, atol=1e-8)


@pytest.mark.parametrize("split", [True, False])
def test_newton_ends_by_itself_on_piecewise_linear_loops(split: bool) -> None:
    W, c = monotone(30, 0.2, 25), data(4, 30, 25)
    solution = solve(affine_equation(W, c, split=split), started(4, 30), Newton())
    assert solution.worst_residual < 1e-13
    assert solution.most_steps <= 12


def test_newton_by_krylov_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("implicit_dsl.runtime.solvers.newton.LARGEST_MATRIX", 0)
    W, c = monotone(40, 0.3, 26), data(3, 40, 26)
    equation = affine_equation(W, c)
    for solver in (Newton(), Newton(krylov=8), Newton(krylov=100)):
        solution = solve(equation, started(3, 40), solver)
        assert solution.solved, named(solver)
    exact = solve(equation, started(3, 40), PeacemanRachford(tolerance=1e-12)).x
    torch.testing.assert_close(solution.x, exact, rtol=0, atol=1e-8)


@every(EVERY)
def test_memory_does_not_grow_with_the_steps(solver: Solver) -> None:
    """Of the tensors that f returns at most a few are alive at any time."""
    W, c = contraction(6, 0.999, 27).abs(), data(2, 6, 27).abs()
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = {}
    for steps in (40, 400):
        count = 0

        def f(z: Tensor) -> Tensor:
            nonlocal count
            image = torch.relu(z @ W.T + c)
            alive.add(image)
            count = max(count, len(alive))
            return image

        equation = Equation(f, lambda z: z @ W.T + c, torch.relu)
        solve(equation, started(2, 6), dataclasses.replace(solver, max_steps=steps, tolerance=1e-300))
        most[steps] = count
    assert max(most.values()) <= 4


def test_the_choice_is_data() -> None:
    assert choose(Features(100_000)).solver == "auto"
    assert choose(Features(50, rate=0.8, on_cpu=False)).solver == "picard"
    assert choose(Features(50, rate=0.999, on_cpu=False)).solver == "auto"
    assert choose(Features(50, monotone=True)).solver == "forward_backward"
    assert choose(Features(50, monotone=True, rate=0.5)).solver == "auto"
    assert all(rule.when and rule.how for rule in RULES)
    W, c = monotone(6, 0.3, 28, turn=4.0), data(3, 6, 28)
    equation = dataclasses.replace(affine_equation(W, c), monotone=0.3)
    solution = solve(equation, started(3, 6), Auto())
    torch.testing.assert_close(solution.x, by_active_sets(W, c), rtol=0, atol=1e-8)


def test_averaging_of_the_equation_is_respected() -> None:
    """NEMON proves a rate of the averaged map only."""
    W, c = measure(6, 29), data(3, 6, 29)
    averaging = 1 / 7
    equation = dataclasses.replace(affine_equation(W, c), averaging=averaging, rate=1 - averaging * 0.2)
    assert not solve(dataclasses.replace(equation, averaging=1.0, rate=None), started(3, 6), Picard()).solved
    for solver in (Picard(), Auto(), Anderson()):
        solution = solve(equation, started(3, 6), solver)
        torch.testing.assert_close(solution.x, by_active_sets(W, c), rtol=0, atol=1e-7)
    counted = solve(equation, started(3, 6), Picard(), counted=True)
    assert counted.worst_status is Status.COUNTED


@pytest.mark.parametrize(
    "make",
    [
        lambda: Picard(damping=0.0),
        lambda: Picard(damping=1.5),
        lambda: Picard(tolerance=0.0),
        lambda: Picard(tolerance=float("nan")),
        lambda: Picard(max_steps=0),
        lambda: Anderson(memory=0),
        lambda: Anderson(delay=-1),
        lambda: Broyden(memory=0),
        lambda: Newton(krylov=0),
        lambda: ForwardBackward(step=0.0),
        lambda: PeacemanRachford(step=-1.0),
        lambda: Equation(lambda z: z, affine=lambda z: z),
        lambda: Equation(lambda z: z, rate=1.0),
        lambda: Equation(lambda z: z, averaging=0.0),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        make()


def test_equations_that_a_solver_cannot_solve_are_refused() -> None:
    for solver in (ForwardBackward(), PeacemanRachford()):
        with pytest.raises(ValueError, match=r"φ\(affine\(x\)\)"):
            solve(Equation(lambda z: z), started(1, 2), solver)
    with pytest.raises(ValueError, match="forward_backward"):
        large = Equation(lambda z: z, lambda z: z, lambda z: z)
        solve(large, torch.zeros(1, 5000), PeacemanRachford())
    for start in (
        torch.zeros(3),
        torch.zeros(2, 2, dtype=torch.int64),
        torch.zeros(2, 2, dtype=torch.complex64),
    ):
        with pytest.raises(ValueError, match="real numbers"):
            solve(Equation(lambda z: z), start, Picard())


@every(EVERY)
def test_solvers_are_values(solver: Solver) -> None:
    assert pickle.loads(pickle.dumps(solver)) == solver
    assert hash(solver) == hash(dataclasses.replace(solver))
    with pytest.raises(dataclasses.FrozenInstanceError):
        solver.tolerance = 1.0  # type: ignore[misc]


def test_a_solution_speaks_for_its_worst_sample() -> None:
    status = torch.tensor(
        [s.value for s in (Status.CONVERGED, Status.FLOOR, Status.STALLED)], dtype=torch.int8
    )
    solution = Solution(torch.zeros(3, 1), torch.tensor([0.0, 1e-7, 0.5]), torch.tensor([3, 9, 200]), status)
    assert solution.worst_status is Status.STALLED
    assert not solution.solved
    assert solution.worst_residual == 0.5
    assert (solution.most_steps, solution.mean_steps) == (200, pytest.approx(70.667, abs=1e-3))
    assert solution.count(Status.FLOOR) == 1
    assert all(s.meaning for s in Status)
    assert all(bool(s.advice) != s.solved or s is Status.FLOOR for s in Status)
