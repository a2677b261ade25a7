"""State-driven models: rows by other solvers, the certificate by force, functions recovered, every error."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl.train import SimWarning, StateDriven, States, collect_states, sim, sim_path
from implicit_dsl.train.state_driven.activations import Layer
from implicit_dsl.train.state_driven.moments import Moments
from implicit_dsl.train.state_driven.polishing import polished
from implicit_dsl.train.state_driven.rows import solve_rows
from implicit_dsl.train.state_driven.scaling import units_of

INFINITE = float("inf")


def data(m: int, d: int, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Correlated features [m, d] of unequal spread, and targets [m, rows] that some of them make."""
    g = torch.Generator().manual_seed(seed)
    F = torch.randn(m, d, generator=g, dtype=torch.float64) @ torch.randn(
        d, d, generator=g, dtype=torch.float64
    )
    F = F * torch.logspace(-1, 1, d, dtype=torch.float64) + 3
    W = torch.randn(rows, d, generator=g, dtype=torch.float64)
    W *= torch.rand(rows, d, generator=g, dtype=torch.float64) < 0.4
    return F, F @ W.T + torch.randn(m, rows, generator=g, dtype=torch.float64) + 5


def objective(F: Tensor, t: Tensor, w: np.ndarray, c: float, p: np.ndarray) -> float:
    residual = t.numpy() - F.numpy() @ w - c
    return float(0.5 * (residual**2).mean() + (p * np.abs(w)).sum())


def by_slsqp(F: Tensor, t: Tensor, p: np.ndarray, n: int, kappa: float) -> float:
    """The minimum over w = w⁺ − w⁻ and c by a general solver."""
    d = F.shape[1]
    scales = F.std(0).numpy()
    centred, aim = (F - F.mean(0)).numpy() / scales, (t - t.mean()).numpy()

    def value(v: np.ndarray) -> tuple[float, np.ndarray]:
        residual = centred @ (v[:d] - v[d:]) - aim
        slope = centred.T @ residual / len(aim)
        weights = p / scales
        return (
            0.5 * float((residual**2).mean()) + float(weights @ (v[:d] + v[d:])),
            np.r_[slope + weights, -slope + weights],
        )

    inside = np.r_[1 / scales[:n], np.zeros(d - n)]
    constraint = {"type": "ineq", "fun": lambda v: kappa - inside @ (v[:d] + v[d:])} if n else []
    found = optimize.minimize(
        value, np.full(2 * d, 1e-3), jac=True, bounds=[(0, None)] * (2 * d), method="SLSQP",
        constraints=constraint, options={"ftol": 1e-14, "maxiter": 2000},
    )  # fmt: skip
    return float(found.fun)


# ---------------------------------------------------------------------------------------------- rows


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**16),
    n=st.integers(0, 6),
    kappa=st.sampled_from([0.05, 0.5, 3.0]),
    penalty=st.sampled_from([0.0, 0.01, 0.3, 5.0]),
)
def test_rows_are_those_of_a_general_solver(seed: int, n: int, kappa: float, penalty: float) -> None:
    d, rows = 8, 3
    F, T = data(40, d, rows, seed)
    moments = Moments.of(F, T)
    p = penalty * (
        0.5 + torch.rand(rows, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )
    solved = solve_rows(moments, p, n, kappa, tolerance=1e-9)
    assert bool(solved.done.all())
    offsets = moments.offsets(solved.W)
    for i in range(rows):
        w, c = solved.W[i].numpy(), float(offsets[i])
        assert np.abs(w[:n]).sum() <= kappa * (1 + 1e-12)
        reached = objective(F, T[:, i], w, c, p[i].numpy())
        assert reached == pytest.approx(float(solved.objective[i]), rel=1e-7, abs=1e-9)
        best = by_slsqp(F, T[:, i], p[i].numpy(), n, kappa)
        power = float(moments.power[i])
        assert reached <= best + 1e-8 * power
        assert best >= reached - float(solved.gap[i]) - 1e-5 * power  # the gap is a bound


@pytest.mark.parametrize("bounded", [0, 20])
def test_rows_fulfil_the_conditions_of_a_minimum(bounded: int) -> None:
    """−∇ ∈ p ∂|w| + θ ∂|a|, with one θ ≥ 0 for the ball, zero where it is not active."""
    F, T = data(300, 50, 20, 1)
    moments, kappa = Moments.of(F, T), 0.4
    p = torch.full((20, 50), 0.05, dtype=torch.float64)
    W = solve_rows(moments, p, bounded, kappa, tolerance=1e-12).W
    pull = moments.Q - W @ moments.G
    scale = moments.spreads * moments.power.sqrt()[:, None]
    for i in range(20):
        w, g = W[i], pull[i]
        held, inside = w != 0, torch.arange(50) < bounded
        theta = 0.0
        if bounded and float(w[:bounded].abs().sum()) > kappa * (1 - 1e-9):
            active = held & inside
            theta = float((g * w.sign() - p[i])[active].mean())
            assert theta >= -1e-9
        wanted = p[i] + theta * inside
        assert bool(((g - wanted * w.sign())[held].abs() <= 1e-5 * scale[i][held]).all())
        assert bool((g.abs() <= wanted + 1e-5 * scale[i]).all())


def test_entries_with_an_infinite_penalty_stay_zero_and_a_start_changes_nothing() -> None:
    F, T = data(100, 12, 4, 3)
    moments = Moments.of(F, T)
    p = torch.full((4, 12), 0.02, dtype=torch.float64)
    p[:, ::3] = INFINITE
    cold = solve_rows(moments, p, 6, 0.5, tolerance=1e-10)
    warm = solve_rows(moments, p, 6, 0.5, torch.randn(4, 12, dtype=torch.float64), 1e-10)
    assert bool((cold.W[:, ::3] == 0).all()) and bool((warm.W[:, ::3] == 0).all())
    torch.testing.assert_close(warm.W, cold.W, atol=1e-5, rtol=1e-4)


def test_a_step_on_supports_lowers_every_objective_and_leaves_no_ball() -> None:
    F, T = data(100, 30, 40, 5)
    moments = Moments.of(F, T)
    weights, bound = torch.ones(20, dtype=torch.float64), 0.7
    p = torch.full((40, 30), 0.1, dtype=torch.float64)
    W = torch.randn(40, 30, dtype=torch.float64) * (torch.rand(40, 30) < 0.5)
    W[:, :20] *= (bound * torch.rand(40, 1) / W[:, :20].abs().sum(1, keepdim=True).clamp_min(1e-9)).clamp(
        max=1
    )
    made = polished(moments.G, moments.Q, p, weights, bound, W, 1e12)

    def values(V: Tensor) -> Tensor:
        return 0.5 * ((V @ moments.G) * V).sum(1) - (V * moments.Q).sum(1) + (p * V.abs()).sum(1)

    assert bool((values(made) <= values(W) + 1e-9 * values(W).abs()).all())
    assert bool((values(made) < values(W) - 1e-6).any())
    assert float(made[:, :20].abs().sum(1).max()) <= bound * (1 + 1e-9)
    assert bool((made[W == 0] == 0).all()) and bool((made * W >= 0).all())


def test_constant_features_and_targets_have_no_coefficients() -> None:
    F, T = data(50, 6, 3, 0)
    F[:, 2], T[:, 1] = 7.0, -1e6
    moments = Moments.of(F, T)
    for penalty in (0.0, 0.1):
        W = solve_rows(moments, torch.full((3, 6), penalty, dtype=torch.float64), 3, 0.5).W
        assert bool((W[:, 2] == 0).all()) and bool((W[1] == 0).all())
        assert float(moments.offsets(W)[1]) == pytest.approx(-1e6)


def test_moments_are_those_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("implicit_dsl.train.state_driven.moments._CHUNK", 64)  # several chunks
    F, T = data(57, 5, 3, 2)
    moments = Moments.of(F.float(), T.float())
    joint = np.cov(np.c_[F.float().numpy(), T.float().numpy()].T.astype(float), bias=True)
    np.testing.assert_allclose(moments.G, joint[:5, :5], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moments.Q, joint[5:, :5], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moments.power, np.diag(joint)[5:], rtol=1e-9)


# ------------------------------------------------------------------------------------------- models


def network(*activations: nn.Module, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    sizes, parts = [6, 9, 8, 7], []
    for k, activation in enumerate(activations):
        parts += [nn.Linear(sizes[k], sizes[k + 1]), activation]
    return nn.Sequential(*parts, nn.Linear(sizes[len(activations)], 3))


def exactly(network: nn.Module | States, inputs: Tensor | None = None, **options: object) -> StateDriven:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SimWarning)
        return sim(network, inputs, **{"penalty": 0.0, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("reads", ["others", "before", "all"])
@pytest.mark.parametrize(
    "activations",
    [(nn.ReLU(), nn.ReLU()), (nn.LeakyReLU(0.2), nn.LeakyReLU(0.2)), (nn.ReLU(), nn.Tanh()), (nn.Sigmoid(),)],
)
def test_without_a_penalty_the_function_of_the_network_is_recovered(
    activations: tuple[nn.Module, ...], reads: str
) -> None:
    net = network(*activations)
    u = torch.randn(400, 6, generator=torch.Generator().manual_seed(1))
    if not isinstance(activations[-1], nn.Tanh):
        found = exactly(net, u, kappa=0.5, reads=reads, tolerance=1e-12)
    else:  # states of tanh keep their units: the second layer must be within the bound itself
        with torch.no_grad():
            net[2].weight *= 0.4 / net[2].weight.abs().sum(1).max()
        found = exactly(net, u, kappa=0.5, reads=reads, tolerance=1e-12)
    fresh = torch.randn(200, 6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(found.model(fresh), net(fresh), atol=2e-3, rtol=2e-3)
    assert found.norm <= 0.5 and found.error.largest < 0.02


def test_a_known_sparse_implicit_model_is_found_again() -> None:
    """The states of a compiled loop: its matrices come back, with their zeros."""
    text = """
    model Loop()
        input u[8]
        param A[12, 12]
        state x[12] ~ relu(A*x + (u |> Dense(12)))
        @wellposed norm(A, Inf) <= 0.8
        output y = x |> Dense(2)
    end
    """
    torch.manual_seed(0)
    model = implicit_dsl.loads(text).Loop(dtype=torch.float64)
    with torch.no_grad():
        model.A.copy_(torch.randn(12, 12) * (torch.rand(12, 12) < 0.25) * (1 - torch.eye(12)))
        model.project_()
    u = torch.randn(2000, 8, dtype=torch.float64)
    found = exactly(model, u, kappa=0.8, penalty=1e-5, tolerance=1e-10, rescale=False)
    torch.testing.assert_close(found.A, model.A.detach(), atol=2e-3, rtol=0)
    assert float(((found.A == 0) == (model.A == 0)).double().mean()) > 0.8
    fresh = torch.randn(100, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(found.model(fresh), model(fresh), atol=5e-3, rtol=0)


def test_states_of_a_compiled_model_are_those_of_its_equations() -> None:
    text = """
    model Mixed()
        input u[2, 3]
        param A[4, 4]
        h = leaky_relu(flatten(u) |> Dense(5); slope = 0.3)
        state x[4] ~ tanh(A*x + (h |> Dense(4)))
        @wellposed norm(A, Inf) <= 0.9
        output y[2, 2] = reshape(x |> Dense(4), 2, 2)
    end
    """
    torch.manual_seed(0)
    model = implicit_dsl.loads(text).Mixed()
    u = torch.randn(30, 2, 3)
    states = collect_states(model, u)
    assert {layer.kind: layer.size for layer in states.layers if layer.kind != "identity"} == {
        "leaky_relu": 5, "tanh": 4,
    }  # fmt: skip
    solved = model.system().states_of(u)
    start = 0
    for layer in states.layers:
        mine = states.X[:, start : start + layer.size]
        torch.testing.assert_close(mine.float(), solved[layer.name].flatten(1), atol=1e-6, rtol=0)
        torch.testing.assert_close(
            layer.phi(states.Z[:, start : start + layer.size]), mine, atol=1e-9, rtol=0
        )
        start += layer.size
    with torch.no_grad():
        torch.testing.assert_close(states.Y.float(), model(u).flatten(1), atol=1e-4, rtol=1e-4)
    found = exactly(states, kappa=0.9, tolerance=1e-10)
    with torch.no_grad():
        assert found.model(u).shape == (30, 2, 2)


@pytest.mark.parametrize("reads", ["others", "all", "before"])
@pytest.mark.parametrize("kappa", [0.99, 0.3])
@pytest.mark.parametrize("penalty", [0.3, 0.03])
def test_the_certificate_holds_for_every_sample(reads: str, kappa: float, penalty: float) -> None:
    net = network(nn.ReLU(), nn.Tanh(), nn.ReLU())  # the states are put into another order
    u = torch.randn(80, 6)
    states = collect_states(net, u)
    found = exactly(states, kappa=kappa, penalty=penalty, reads=reads)
    solved = found.model.double().system().states_of(u.double())
    groups = list(dict.fromkeys(layer.group for layer in found.layers))
    names = ["x"] if len(groups) == 1 else [f"x{k + 1}" for k in range(len(groups))]
    reached = torch.cat([solved[name].flatten(1) for name in names], 1) / found.units
    order = sorted(range(3), key=lambda k: groups.index(states.layers[k].group))
    parts = torch.split(states.X, [layer.size for layer in states.layers], 1)
    away = (reached - torch.cat([parts[k] for k in order], 1)).abs()
    assert bool((away.amax(0) <= found.error.bound + 1e-9).all())
    assert bool((away.mean(0) <= found.error.mean + 1e-9).all())
    assert found.norm <= kappa
    if reads == "before":  # nothing is amplified: the bound is not far off
        assert float(found.error.bound.max()) < 50 * float(away.max())


def test_what_is_read_is_what_may_be_read() -> None:
    net, u = network(nn.ReLU(), nn.ReLU()), torch.randn(100, 6)
    free = exactly(net, u, penalty=0.01, reads="all", kappa=0.99)
    others = exactly(net, u, penalty=0.01, reads="others", kappa=0.99)
    before = exactly(net, u, penalty=0.01, reads="before", kappa=0.99)
    assert bool((free.A.diagonal() != 0).any()) and bool((others.A.diagonal() == 0).all())
    assert bool((before.A[:9] == 0).all()) and bool((before.A[9:, 9:] == 0).all())
    assert bool((before.A[9:, :9] != 0).any()) and bool((others.A[:9, 9:] != 0).any())


def test_units_bring_the_network_within_the_bound() -> None:
    net, u = network(nn.ReLU(), nn.ReLU(), nn.ReLU()), torch.randn(500, 6)
    with torch.no_grad():
        net[2].weight *= 20
    states = collect_states(net, u)
    s = units_of(states, 0.5)
    assert bool((s[:9] == 1).all()) and bool((torch.frexp(s)[0] == 0.5).all())
    scaled = net[2].weight.detach().double() * s[9:17, None] / s[:9]
    assert float(scaled.abs().sum(1).max()) <= 0.5 * 1.01
    kept = exactly(net, u, kappa=0.5, rescale=False, penalty=1e-4)
    moved = exactly(net, u, kappa=0.5, penalty=1e-4)
    assert float(moved.error.residual.mean()) < 0.1 * float(kept.error.residual.mean())


def test_larger_penalties_leave_more_zeros_and_paths_end_where_fits_do() -> None:
    net, u = network(nn.ReLU(), nn.ReLU()), torch.randn(300, 6)
    states = collect_states(net, u)
    path = sim_path(states, penalties=(0.3, 0.1, 0.01), tolerance=1e-9)
    zeros = [found.zeros for found in path]
    assert zeros[0] > zeros[1] > zeros[2] and [found.penalty for found in path] == [0.3, 0.1, 0.01]
    alone = sim(states, penalty=0.01, tolerance=1e-9)
    torch.testing.assert_close(path[2].A, alone.A, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(path[2].objective, alone.objective, atol=1e-8, rtol=1e-6)


def test_several_processes_find_what_one_does() -> None:
    net, u = network(nn.ReLU(), nn.ReLU()), torch.randn(200, 6)
    one = sim(net, u, penalty=0.02, tolerance=1e-10)
    two = sim(net, u, penalty=0.02, tolerance=1e-10, processes=2)
    for name in ("A", "B", "C", "D", "b", "d"):
        torch.testing.assert_close(getattr(two, name), getattr(one, name), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(two.objective, one.objective, atol=1e-10, rtol=1e-8)


def test_the_program_is_one_that_compiles_and_holds_the_bound(tmp_path: Path) -> None:
    net, u = network(nn.ReLU(), nn.Tanh(), nn.ReLU()), torch.randn(60, 6)
    found = exactly(net, u, penalty=0.05, kappa=0.7, name="Small")
    assert "state x1[16] ~ relu(" in found.source and "state x2[8] ~ tanh(" in found.source
    assert found.source.startswith("model Small()\n") and "norm(A, Inf) <= 0.7" in found.source
    (tmp_path / "small.impl").write_text(found.source, encoding="utf-8")
    again = implicit_dsl.load(tmp_path / "small.impl").Small()
    again.load_state_dict(found.model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again(u), found.model(u))
    assert found.model.certify().proved
    before = {name: p.detach().clone() for name, p in found.model.named_parameters()}
    found.model.project_()
    assert all(bool((before[name] == p).all()) for name, p in found.model.named_parameters())
    assert f"{100 * found.zeros:.1f} % zeros" in repr(found)


def test_outputs_are_fitted_to_the_equilibria_and_not_to_the_states_collected() -> None:
    net, u = network(nn.ReLU(), nn.ReLU()), torch.randn(400, 6)
    fitted = [exactly(net, u, penalty=0.2, output_penalty=1e-4, regenerate=r) for r in (True, False)]
    with torch.no_grad():
        errors = [float((found.model(u) - net(u)).square().mean()) for found in fitted]
    assert errors[0] < errors[1]


def test_shapes_of_images_are_kept_and_modules_are_left_as_they_were() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8, 3),
    )
    net.train()
    net[4].eval()
    u = torch.randn(64, 1, 4, 4)
    states = collect_states(net, u, batch=10)
    assert [module.training for module in net] == [True, True, True, True, False, True]
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert bool((states.Z < 0).any()) and torch.equal(states.X, states.Z.clamp_min(0))
    assert states.layers == (Layer("2", "relu", 8),)
    with torch.no_grad():
        assert exactly(states, penalty=0.01).model(u).shape == (64, 3)


def test_modules_that_are_called_twice_count_twice_and_names_choose() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.act, self.gate, self.pass_on = nn.ReLU(), nn.GELU(), nn.Identity()

        def forward(self, u: Tensor) -> Tensor:
            return self.gate(self.pass_on(self.act(self.second(self.act(self.first(u))))))

    net, u = Twice(), torch.randn(20, 4)
    with pytest.raises(ValueError, match=r"`gate` \(GELU\) cannot be a layer of states.*layers="):
        collect_states(net, u)
    states = collect_states(net, u, layers=["act", "pass_on"])
    assert [layer.name for layer in states.layers] == ["act", "act#2", "pass_on"]
    assert [layer.kind for layer in states.layers] == ["relu", "relu", "identity"]
    found = exactly(states, penalty=0.01)
    with torch.no_grad():
        assert found.model(u).shape == (20, 4)


# ------------------------------------------------------------------------------------------- errors


class Functional(nn.Module):
    def forward(self, u: Tensor) -> Tensor:
        return torch.relu(u)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.act(u), u


@pytest.mark.parametrize(
    ("net", "u", "options", "error", "message"),
    [
        (network(nn.ReLU()), torch.randn(6), {}, ValueError, r"\[samples, …\], and \[6\]"),
        (network(nn.ReLU()), torch.ones(5, 6, dtype=torch.int64), {}, ValueError, "real numbers"),
        (
            network(nn.ReLU()),
            torch.full((5, 6), float("nan")),
            {},
            ValueError,
            "inputs hold values that are not finite",
        ),
        (network(nn.ReLU()), torch.randn(1, 6), {}, ValueError, "two samples"),
        (network(nn.ReLU()), None, {}, ValueError, "inputs are missing"),
        (network(nn.ReLU()), torch.randn(5, 6), {"layers": ["9"]}, ValueError, "no module `9`"),
        (network(nn.ReLU()), torch.randn(5, 6), {"layers": []}, ValueError, "no layers are named"),
        (network(nn.ReLU()), torch.randn(5, 6), {"layers": ["0"]}, ValueError, r"`0` \(Linear\) cannot be"),
        (network(nn.GELU()), torch.randn(5, 6), {}, ValueError, r"`1` \(GELU\) cannot.*the family is relu"),
        (network(nn.LeakyReLU(-0.5)), torch.randn(5, 6), {}, ValueError, r"slope -0.5 is not within 0 and 1"),
        (Functional(), torch.randn(5, 6), {}, ValueError, "no activation module.*torch.relu"),
        (Pair(), torch.randn(5, 6), {}, TypeError, "returns tuple"),
        (network(nn.ReLU()), torch.randn(5, 6), {"kappa": 1.0}, ValueError, "κ must lie between 0 and 1"),
        (network(nn.ReLU()), torch.randn(5, 6), {"penalty": -1.0}, ValueError, "penalties are numbers"),
        (
            network(nn.ReLU()),
            torch.randn(5, 6),
            {"penalty": float("nan")},
            ValueError,
            "penalties are numbers",
        ),
        (
            network(nn.ReLU()),
            torch.randn(5, 6),
            {"output_penalty": -1.0},
            ValueError,
            "penalty of the outputs",
        ),
        (network(nn.ReLU()), torch.randn(5, 6), {"tolerance": 0.0}, ValueError, "tolerance"),
        (network(nn.ReLU()), torch.randn(5, 6), {"processes": 0}, ValueError, "one process"),
        (network(nn.ReLU()), torch.randn(5, 6), {"reads": "none"}, ValueError, "`reads` is"),
        (network(nn.ReLU()), torch.randn(5, 6), {"name": "x; end"}, ValueError, "no name for a model"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    net: nn.Module, u: Tensor | None, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sim(net, u, **options)  # type: ignore[arg-type]


def test_states_are_checked_and_come_alone() -> None:
    states = collect_states(network(nn.ReLU()), torch.randn(20, 6))
    with pytest.raises(ValueError, match="states are given"):
        sim(states, torch.randn(20, 6))
    parts = {name: getattr(states, name) for name in ("U", "Z", "X", "Y", "layers")}
    shapes = {"input_shape": (6,), "output_shape": (3,), "dtype": torch.float32}
    with pytest.raises(ValueError, match=r"`Y` has shape \[20, 3\], not \[20, 4\]"):
        States(**parts, **{**shapes, "output_shape": (4,)})
    with pytest.raises(ValueError, match="`Z` holds values that are not finite"):
        States(**{**parts, "Z": states.Z / 0}, **shapes)


def test_compiled_models_outside_of_the_family_are_named() -> None:
    text = "model M()\n input u[4]\n h = gelu(u |> Dense(3))\n output y = h |> Dense(2)\nend\n"
    model = implicit_dsl.loads(text).M()
    with pytest.raises(ValueError, match="the state `h` has the activation gelu"):
        sim(model, torch.randn(9, 4))
    with pytest.raises(ValueError, match=r"`u` has shape \[4\], and \[5\] was given"):
        sim(model, torch.randn(9, 5))
    with pytest.raises(ValueError, match="all states are taken"):
        sim(model, torch.randn(9, 4), layers=["h"])


def test_constant_columns_are_told() -> None:
    net, u = network(nn.ReLU()), torch.randn(40, 6)
    u[:, 3] = 0.25
    with torch.no_grad():
        net[0].bias[2] = -100.0  # a dead state
        net[2].weight[1] = 0.0
    with pytest.warns(SimWarning) as told:
        found = sim(net, u, penalty=0.01)
    said = " / ".join(str(warning.message) for warning in told)
    assert "1 of 9 states are constant over the samples and carry no information (2)" in said
    assert "1 of 6 inputs are constant over the samples and carry no information (3)" in said
    assert "1 of 3 outputs are constant" in said
    assert (
        bool((found.B[:, 3] == 0).all())
        and bool((found.A[:, 2] == 0).all())
        and bool((found.C[1] == 0).all())
    )


def test_a_penalty_that_kills_everything_names_the_one_that_does_not() -> None:
    net, u = network(nn.ReLU(), nn.ReLU()), torch.randn(200, 6)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = sim(net, u, penalty=5.0)
    assert bool((found.A == 0).all()) and bool((found.B == 0).all())
    text = next(str(w.message) for w in told if "λ = 5 makes all of A and B zero" in str(w.message))
    least = float(text.split("above ")[1].split()[0])
    assert 0 < least <= 1.001
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        some, none = sim(net, u, penalty=0.99 * least), sim(net, u, penalty=1.01 * least)
    assert bool((some.B != 0).any() or (some.A != 0).any())
    assert bool((none.B == 0).all() and (none.A == 0).all())


def test_rows_that_are_not_done_are_told() -> None:
    net, u = network(nn.ReLU(), nn.ReLU()), torch.randn(200, 6)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        sim(net, u, penalty=1e-3, tolerance=1e-12, max_steps=1)
    assert any(
        "rows of A and B are not solved to the tolerance after 25 steps" in str(w.message) for w in told
    )


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(TypeError, match="int is no network"):
        sim(3, torch.zeros(4, 2))  # type: ignore[arg-type]
