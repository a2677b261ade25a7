"""The blocks of block-coordinate descent: gradients, Lipschitz constants, and what may not rise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl.train.descent.blocks import Full, Tied, WeightProblem
from implicit_dsl.train.descent.data import Data, checked_inputs, checked_losses
from implicit_dsl.train.descent.gauge import Gauge
from implicit_dsl.train.descent.goals import Divergence, Goal
from implicit_dsl.train.descent.lifted import Lifted
from implicit_dsl.train.descent.links import Weights
from implicit_dsl.train.descent.states import improved_states, state_problem
from implicit_dsl.train.descent.sweeping import Point, Problem

torch.set_num_threads(1)

PROGRAMS = {
    "implicit": """
model M(n = 5)
    input u[4]
    param A[n, n], B[n, 4], C[3, n], D[3, 4], b[n] = zeros(), d[3] = zeros()
    state x[n] ~ relu(A*x + B*u + b)
    output y[3] = C*x + D*u + d
    @wellposed norm(A, Inf) <= 0.9
end""",
    "feed forward": """
model M
    input u[4]
    h1 ~ tanh(Dense(6) * u)
    h2 ~ leaky_relu(Dense(5) * h1 + Dense(5; bias = false) * u; slope = 0.2)
    h3 ~ σ(Dense(4) * cat(h1, h2))
    output y[3] = Dense(3) * h3
end""",
    "tied": """
model M
    input u[4]
    layer K = Dense(4)
    h1 ~ tanh(K * u)
    h2 ~ tanh(K * h1 + 0.5*h1)
    output y[4] = K * h2, z[2] = Dense(2) * h2
end""",
    "convolutions": """
model M
    input u[2, 6, 6]
    h ~ tanh(Conv(3, 3; pad = 1) * u)
    g ~ relu(Conv(2, 3) * (AvgPool(2) * h) |> BatchNorm())
    output y[3] = Dense(3) * flatten(g)
end""",
    "loop of two states": """
model M
    input u[4]
    param V[3, 5], W[5, 3], S[5, 5] in Symmetric()
    state a[5], c[3]
    a ~ relu(W*c + 0.2*S*a + Dense(5)*u)
    c ~ tanh(V*a)
    output y[3] = Dense(3) * cat(a, c)
    @wellposed norm(W, Inf) <= 0.5
    @wellposed norm(V, Inf) <= 0.5
    @wellposed norm(S, Inf) <= 0.9
end""",
    "a recurrence": """
model M(n = 3)
    input u[4, 2]
    param U[n, n], W[n, 2]
    recurrent x over u
        state h[n] = 0
        h ~ tanh(U*prev(h) + W*x)
    end
    output y[3] = Dense(3) * last(h)
end""",
}
LOSSES = ("squared", "cross_entropy")


def compiled(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    module: nn.Module = implicit_dsl.loads(PROGRAMS[name]).M(dtype=dtype)
    return module


def a_point(name: str, seed: int = 0, samples: int = 7, loss: str = "squared", small: bool = False) -> Point:
    """A model at states away from its equilibrium. `small`: convolutions are applied as operators."""
    module = compiled(name)
    system = module.system()  # type: ignore[operator]
    lifted = Lifted.of(module, system, torch.float64)
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    given = {block.name: random(samples, *block.shape) for block in system.inputs}
    inputs = checked_inputs(given, system.inputs, random(1))
    targets = {
        block.name: (
            random(samples, *block.shape)
            if loss == "squared"
            else torch.randint(block.shape[0], (samples,), generator=generator)
        )
        for block in system.outputs
    }
    losses = checked_losses(targets, system.outputs, loss, samples, random(1))  # type: ignore[arg-type]
    states = lifted.equilibrium(lifted.weights, inputs, {}, 1e-10)
    for block in lifted.model.states:
        phi = lifted.activations[block.name]
        z = lifted.rows[block.name].value(lifted.weights, states)
        states = {**states, block.name: phi.phi(z + 0.7 * random(*z.shape))}
    terms = tuple(getattr(module, "constraints", ()))
    return Point(Problem(lifted, terms, 0.01, 10, 10), Data(inputs, losses), lifted.weights, states, 0.7)


def by_definition(point: Point, weights: Weights, states: Weights) -> Tensor:
    """The lifted objective, from the matrices of `system()` with these weights."""
    lifted = point.problem.lifted
    total = torch.zeros(())
    for name, row in lifted.rows.items():
        z = row.value(weights, states)
        phi = lifted.activations[name]
        F = phi.conjugate(states[name]) + phi.primitive(z) - states[name] * z
        total = total + point.weight * F.sum(1).mean()
    for name, row in lifted.outputs.items():
        total = total + point.data.losses[name].value(row.value(weights, states)).mean()
    ridge = sum(weights[id].square().sum() for id in point.problem.ridged)
    return total + 0.5 * point.problem.ridge * ridge


@pytest.mark.parametrize("name", PROGRAMS)
def test_rows_are_those_of_the_system(name: str) -> None:
    module, point = compiled(name), a_point(name)
    system, lifted = module.system(), point.problem.lifted  # type: ignore[operator]
    x = torch.cat([point.states[block.name] for block in system.states], 1).mT
    u = torch.cat([point.states[block.name] for block in system.inputs], 1).mT
    z = torch.cat([lifted.rows[block.name].value(point.weights, point.states) for block in system.states], 1)
    made = system.A @ x + system.B @ u + torch.from_numpy(system.b)[:, None]
    assert torch.allclose(z.mT, made, atol=1e-12)
    y = torch.cat([row.value(point.weights, point.states) for row in lifted.outputs.values()], 1)
    made = system.C @ x + system.D @ u + torch.from_numpy(system.d)[:, None]
    assert torch.allclose(y.mT, made, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_objective_is_the_definition(name: str, loss: str) -> None:
    point = a_point(name, loss=loss)
    made = by_definition(point, point.weights, point.states)
    assert point.objective() == pytest.approx(float(made), rel=1e-10)


@pytest.mark.parametrize("operators", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_gradients_of_weights_count_tied_ones_right(
    name: str, loss: str, operators: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if operators:  # no matrix is assembled: everything is applied as it stands in the network
        monkeypatch.setattr("implicit_dsl.train.descent.lifted.SMALL", -1)
        monkeypatch.setattr("implicit_dsl.train.descent.lifted.SPARSE", 0)
    point = a_point(name, loss=loss)
    weights = {id: weight.clone().requires_grad_() for id, weight in point.weights.items()}
    wanted = dict(
        zip(weights, torch.autograd.grad(by_definition(point, weights, point.states), list(weights.values())))
    )
    goals, seen = point.goals(), set()
    for component in point.problem.components:
        problem = WeightProblem.of(component, point.weights, point.states, goals, point.problem.ridge)
        assert not (operators and isinstance(problem.design, Full))
        theta = problem.design.read(point.weights)
        gradient = problem.gradient(theta)
        if isinstance(problem.design, Tied) and problem.design.root is not None:
            gradient = gradient * problem.design.root.square()  # of θ scaled by the roots of masses
        for id, found in problem.tensors(gradient).items():
            assert torch.allclose(found, wanted[id], atol=1e-9), id
            seen.add(id)
    assert seen == set(point.problem.lifted.trained)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_gradients_of_states(name: str, loss: str) -> None:
    point = a_point(name, loss=loss)
    lifted = point.problem.lifted
    for state in lifted.rows:
        x = point.states[state].clone().requires_grad_()
        objective = by_definition(point, point.weights, {**point.states, state: x})
        f = point.weight * lifted.activations[state].conjugate(x).sum(1).mean()
        (wanted,) = torch.autograd.grad(objective - f, x)
        problem = state_problem(
            lifted, state, point.weights, point.states, point.pre_activations(), point.goals()
        )
        assert torch.allclose(problem.gradient(x.detach()) / len(x), wanted, atol=1e-10)


@pytest.mark.parametrize("name", PROGRAMS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), loss=st.sampled_from(LOSSES), size=st.sampled_from((0.01, 1.0, 30.0)))
def test_lipschitz_constants_of_weights_are_sound(name: str, seed: int, loss: str, size: float) -> None:
    point = a_point(name, seed, loss=loss)
    generator = torch.Generator().manual_seed(seed)
    goals = point.goals()
    for component in point.problem.components:
        problem = WeightProblem.of(component, point.weights, point.states, goals, point.problem.ridge)
        theta = problem.design.read(point.weights)
        other = theta + size * torch.randn(theta.shape, generator=generator, dtype=torch.float64)
        change = (problem.gradient(theta) - problem.gradient(other)).norm()
        room = 1.0 if problem.exact else 1.1  # an estimate from below otherwise, and checked at each step
        assert float(change) <= room * problem.lipschitz() * float((theta - other).norm()) * (1 + 1e-9)


@pytest.mark.parametrize("name", PROGRAMS)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), loss=st.sampled_from(LOSSES), size=st.sampled_from((0.1, 1.0, 10.0)))
def test_curvatures_of_states_are_sound(name: str, seed: int, loss: str, size: float) -> None:
    point = a_point(name, seed, samples=3, loss=loss)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        id: size * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        for id, weight in point.weights.items()
    }
    point = Point(**{**vars(point), "weights": weights})
    for state in point.problem.lifted.rows:
        x = point.states[state]
        problem = state_problem(
            point.problem.lifted, state, weights, point.states, point.pre_activations(), point.goals()
        )
        bound = problem.lipschitz(x.shape[1])
        H = torch.autograd.functional.jacobian(lambda x, p=problem: p.gradient(x), x)
        for sample in range(len(x)):
            found = H[sample, :, sample]
            assert float(torch.linalg.eigvalsh((found + found.mT) / 2)[-1]) <= bound * (1 + 1e-9)


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("loss", LOSSES)
def test_no_block_raises_the_objective(name: str, loss: str) -> None:
    point = a_point(name, loss=loss)
    point = Point(**{**vars(point), "weights": point.problem.projected(point.weights)})
    value = point.objective()
    start = value
    outputs = [c for c in point.problem.components if point.problem.of_outputs(c)]
    others = [c for c in point.problem.components if not point.problem.of_outputs(c)]
    for _ in range(3):
        for following in (
            lambda p: p.after_weights(outputs),
            lambda p: p.after_states(),
            lambda p: p.after_weights(others),
        ):
            point = following(point)
            found = point.objective()
            assert found <= value * (1 + 1e-9)
            value = found
    assert value < 0.9 * start


def test_a_full_output_is_fitted_in_closed_form() -> None:
    point = a_point("implicit", samples=30)
    outputs = [c for c in point.problem.components if point.problem.of_outputs(c)]
    fitted = point.after_weights(outputs).weights
    features = torch.cat([point.states["x"], point.states["u"], torch.ones(30, 1)], 1).double()
    ridge = torch.diag(torch.tensor([0.01] * 9 + [0.0], dtype=torch.float64))
    target = point.data.losses["y"].target
    wanted = torch.linalg.solve(features.mT @ features / 30 + ridge, features.mT @ target / 30).mT
    assert torch.allclose(torch.cat([fitted["C"], fitted["D"], fitted["d"][:, None]], 1), wanted, atol=1e-6)


def test_weights_stay_in_their_sets_within_blocks() -> None:
    for name in ("implicit", "loop of two states"):
        point = a_point(name)
        point = Point(**{**vars(point), "weights": point.problem.projected(point.weights)})
        moved = point.after_weights(point.problem.components)
        assert moved.objective() < point.objective()
        for constraint in point.problem.terms:
            held = {id: moved.weights[id] for id in constraint.tensors}
            if constraint.within is not None:  # type: ignore[union-attr]
                held = {id: constraint.within.member(id, w) for id, w in held.items()}  # type: ignore[union-attr]
            assert constraint.measured(held) <= constraint.limit * (1 + 1e-9)  # type: ignore[union-attr,arg-type]


def test_projected_steps_reach_the_minimum_of_a_symmetric_matrix() -> None:
    """Numbers that stand twice are measured twice: the minimum is that of scipy, not of another metric."""
    import numpy as np
    import scipy.optimize

    source = """
model M
    input u[3]
    param S[3, 3] in Symmetric()
    state x[3] ~ relu(S*x + u)
    output y[2] = Dense(2) * x
    @wellposed norm(S, Inf) <= 0.4
end"""
    torch.manual_seed(1)
    module = implicit_dsl.loads(source).M(dtype=torch.float64)
    system = module.system()
    lifted = Lifted.of(module, system, torch.float64)
    u, x = torch.randn(40, 3, dtype=torch.float64), torch.rand(40, 3, dtype=torch.float64)
    losses = checked_losses(torch.randn(40, 2), system.outputs, "squared", 40, x)
    problem = Problem(lifted, tuple(module.constraints), 0.0, 400, 1)
    point = Point(problem, Data({"u": u}, losses), problem.projected(lifted.weights), {"u": u, "x": x}, 1.0)
    loops = [c for c in problem.components if not problem.of_outputs(c)]
    found = point.after_weights(loops)
    F = Divergence(lifted.activations["x"], x, 1.0)

    def matrix(s: np.ndarray) -> np.ndarray:
        filled = np.zeros((3, 3))
        filled[np.tril_indices(3)] = s
        return filled + np.tril(filled, -1).T

    def objective(s: np.ndarray) -> float:
        return float(F.value(x @ torch.from_numpy(matrix(s)).mT + u).mean())

    room = {"type": "ineq", "fun": lambda s: 0.4 - np.abs(matrix(s)).sum(1)}
    wanted = scipy.optimize.minimize(objective, np.zeros(6), constraints=[room], tol=1e-12)
    value = float(F.value(lifted.rows["x"].value(found.weights, found.states)).mean())
    assert value <= wanted.fun + 1e-6


def test_units_of_states_change_neither_function_nor_rows() -> None:
    point = a_point("implicit")
    gauge = Gauge.of(point.problem.lifted)
    assert gauge.names == ("x",)
    weights, states = gauge.unit(point.weights, point.states)
    row, output = point.problem.lifted.rows["x"], point.problem.lifted.outputs["y"]
    scale = point.states["x"].square().mean(0).sqrt()
    assert torch.allclose(states["x"].square().mean(0), torch.ones(5, dtype=torch.float64))
    assert torch.allclose(row.value(weights, states) * scale, row.value(point.weights, point.states))
    assert torch.allclose(output.value(weights, states), output.value(point.weights, point.states))


@pytest.mark.parametrize("name", ["tied", "convolutions", "a recurrence", "feed forward"])
def test_what_cannot_take_other_units_keeps_its_own(name: str) -> None:
    lifted = a_point(name).problem.lifted
    assert all(lifted.activations[state].homogeneous for state in Gauge.of(lifted).names)
    assert not {"h", "h1", "h3"} & set(Gauge.of(lifted).names)


def test_no_sample_is_made_worse() -> None:
    for seed in range(4):  # far from convex: what reads itself strongly, with accelerated steps
        point = a_point("implicit", seed, samples=200)
        weights = {**point.weights, "A": 30 * point.weights["A"], "C": 0.1 * point.weights["C"]}
        problem = state_problem(
            point.problem.lifted, "x", weights, point.states, point.pre_activations(), point.goals()
        )
        x = point.states["x"]
        before = problem.value(x)
        for steps in (1, 3, 5, 8, 12, 20, 30):
            after = problem.value(improved_states(problem, x, steps))
            assert bool((after <= before).all())
            assert bool((after < before).any())


def test_goals_are_convex_functions_with_their_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    for name in ("implicit", "feed forward"):
        for loss in LOSSES:
            goals: dict[str, Goal] = a_point(name, loss=loss).goals()
            for state, z in a_point(name, loss=loss).pre_activations().items():
                z = z.clone().requires_grad_()
                (wanted,) = torch.autograd.grad(goals[state].value(z).sum(), z)
                assert torch.allclose(goals[state].gradient(z.detach()), wanted, atol=1e-12)
                step = torch.randn(z.shape, generator=generator, dtype=torch.float64)
                change = goals[state].gradient((z + step).detach()) - wanted
                assert bool(((change * step).sum(1) >= -1e-12).all())
                assert float(change.norm()) <= goals[state].curvature * float(step.norm()) * (1 + 1e-9)
