"""Bounds on matrices in sets: nearest points against scipy, parametrisations, certificates, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import linear_sets
from torch import nn

import implicit_dsl
from implicit_dsl.errors import ImplicitError
from implicit_dsl.runtime import (
    Block,
    MeasureBound,
    MonotoneBound,
    RowBound,
    SpectralBound,
    Within,
)
from implicit_dsl.runtime.constraints import Constraint
from implicit_dsl.runtime.structures import matrix_of, nearest_of
from implicit_dsl.sets import LINEAR

torch.set_num_threads(1)

SETS: dict[str, Any] = {
    "Diagonal": LINEAR["Diagonal"](4, 4),
    "Symmetric": LINEAR["Symmetric"](4, 4),
    "Skew": LINEAR["Skew"](4, 4),
    "Toeplitz": LINEAR["Toeplitz"](4, 4),
    "Circulant": LINEAR["Circulant"](4, 4),
    "Banded": LINEAR["Banded"](4, 4, -1, 2),
    "BlockBanded": LINEAR["BlockBanded"](4, 4, (1, 2, 1), 0, 2),
    "Sparse": LINEAR["Sparse"](4, 4, ((0, 2), (1, 3), (), (0, 1, 2, 3))),
}


class Held(nn.Module):
    """Tensors by name."""

    def __init__(self, **tensors: Any) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(torch.as_tensor(tensor)))


def drawn(made: Any, seed: int, size: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=made.count) * size


def basis_of(made: Any) -> np.ndarray:
    """The matrix [entries, numbers] that makes the entries of a member, row by row, of its numbers."""
    units = torch.eye(made.count, dtype=torch.float64)
    return np.stack([matrix_of(made, unit).numpy().reshape(-1) for unit in units], 1)


def nearest(made: Any, theta: np.ndarray, measured: Any, limit: float) -> np.ndarray:
    """The nearest member in the Frobenius norm with measured(W) ≤ limit, by a general method."""

    basis = basis_of(made)
    target = basis @ theta

    def matrix(x: np.ndarray) -> np.ndarray:
        return np.asarray((basis @ x).reshape(made.rows, made.columns))

    start = 0.01 * theta
    found = scipy.optimize.minimize(
        lambda x: ((basis @ x - target) ** 2).sum(),
        start,
        jac=lambda x: 2 * basis.T @ (basis @ x - target),
        constraints={"type": "ineq", "fun": lambda x: limit - measured(matrix(x))},
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-14},
    )
    return matrix(found.x)


MEASURES: dict[type[Constraint], Any] = {
    RowBound: lambda W: np.abs(W).sum(1),
    SpectralBound: lambda W: np.linalg.svd(W, compute_uv=False),
    MonotoneBound: lambda W: np.linalg.eigvalsh((W + W.T) / 2),
    MeasureBound: lambda W: np.diag(W) + np.abs(W - np.diag(np.diag(W))).sum(1),
}
CASES = [
    *((RowBound, name) for name in SETS),
    *(
        (bound, name)
        for bound in (SpectralBound, MonotoneBound)
        for name in ("Diagonal", "Symmetric", "Circulant")
    ),
    (SpectralBound, "Skew"),
    *((MeasureBound, name) for name in SETS),
]


@pytest.mark.parametrize(("bound", "name"), CASES)
@pytest.mark.parametrize("seed", range(2))
def test_a_projection_is_the_nearest_member_within_the_bound(
    bound: type[Constraint], name: str, seed: int
) -> None:
    made = SETS[name]
    theta = drawn(made, seed)
    module = Held(W=theta.copy())
    constraint = bound("W", bound=0.7, blocks=(Block("x", "x", "W"),), within=Within({"W": made}))
    before = matrix_of(made, torch.from_numpy(theta)).numpy()

    constraint.project_(module)

    W = matrix_of(made, module.W.detach()).numpy()
    expected = nearest(made, theta, MEASURES[bound], constraint.limit)
    assert MEASURES[bound](W).max() <= constraint.limit * (1 + 1e-12)
    assert np.linalg.norm(W - before) <= np.linalg.norm(expected - before) * (1 + 1e-6) + 1e-9
    np.testing.assert_allclose(W, expected, atol=5e-3)  # what the general method reaches


def test_rows_of_several_matrices_share_their_budget() -> None:
    S, T = SETS["Symmetric"], SETS["Toeplitz"]
    rng = np.random.default_rng(0)
    theta, tau, V = drawn(S, 1), drawn(T, 2), rng.normal(size=(4, 3))
    module = Held(S=theta.copy(), T=tau.copy(), V=V.copy())
    blocks = (Block("x", "x", "S"), Block("x", "x", "T", 1, 0.5), Block("x", "z", "V"))
    constraint = RowBound("A", bound=0.9, blocks=blocks, fixed={"x": 0.1}, within=Within({"S": S, "T": T}))

    constraint.project_(module)

    of_S, of_T = basis_of(S), basis_of(T)

    def parts(x: np.ndarray) -> tuple[np.ndarray, ...]:
        s, t, v = np.split(x, [S.count, S.count + T.count])
        return (of_S @ s).reshape(4, 4), (of_T @ t).reshape(4, 4), v.reshape(4, 3)

    def room(x: np.ndarray) -> np.ndarray:
        a, b, c = parts(x)
        return np.asarray(0.8 - np.abs(a).sum(1) - 0.5 * np.abs(b).sum(0) - np.abs(c).sum(1))

    start = np.concatenate([theta, tau, V.reshape(-1)])
    found = scipy.optimize.minimize(
        lambda x: sum(((a - b) ** 2).sum() for a, b in zip(parts(x), parts(start))),
        0.01 * start,
        constraints={"type": "ineq", "fun": room},
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-15},
    )
    mine = np.concatenate([module.S.detach(), module.T.detach(), module.V.detach().reshape(-1)])
    assert room(mine).min() >= -1e-12
    np.testing.assert_allclose(mine, found.x, atol=2e-4)


def test_a_matrix_beside_its_transpose_is_projected_as_one() -> None:
    W = np.random.default_rng(0).normal(size=(4, 4))
    module = Held(W=W.copy())
    blocks = (Block("x", "x", "W", 0, 0.5), Block("x", "x", "W", 1, 0.5))

    RowBound("A", bound=0.9, blocks=blocks).project_(module)

    found = scipy.optimize.minimize(
        lambda x: ((x - W.reshape(-1)) ** 2).sum(),
        0.01 * W.reshape(-1),
        constraints={
            "type": "ineq",
            "fun": lambda x: 0.9 - 0.5 * (np.abs(x.reshape(4, 4)).sum(1) + np.abs(x.reshape(4, 4)).sum(0)),
        },
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-15},
    )
    np.testing.assert_allclose(module.W.detach(), found.x.reshape(4, 4), atol=2e-4)


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(), seed=st.integers(0, 1000), size=st.sampled_from((0.01, 1.0, 100.0)), single=st.booleans()
)
def test_rows_are_feasible_and_projections_repeat_themselves(
    data: st.DataObject, seed: int, size: float, single: bool
) -> None:
    made = linear_sets(data.draw)
    dtype = torch.float32 if single else torch.float64
    module = Held(W=torch.from_numpy(drawn(made, seed, size)).to(dtype))
    constraint = RowBound("W", bound=0.9, blocks=(Block("x", "x", "W"),), within=Within({"W": made}))

    constraint.project_(module)
    once = module.W.detach().clone()
    constraint.project_(module)

    assert constraint.violation(module) <= 0
    torch.testing.assert_close(module.W.detach(), once, rtol=0, atol=0)
    torch.testing.assert_close(nearest_of(made, matrix_of(made, once)), once, rtol=1e-6, atol=0)


PROGRAM = """
model M(n = 5)
    input u[n]
    param W[n, n] in {text}
    state x[n] ~ tanh(W*x + u)
    output y = x
    {bound}
end
"""
ROWS = "@wellposed norm(W, Inf) <= 0.8"
WAYS = {
    f"{name} {bound}": (text, bound)
    for name, text in {
        "Symmetric": "Symmetric() = normal(1)",
        "Skew": "Skew() = normal(1)",
        "Toeplitz": "Toeplitz() = normal(1)",
        "Circulant": "Circulant() = normal(1)",
        "Diagonal": "Diagonal() = normal(2)",
        "Banded": "Banded(-1, 1) = normal(1)",
        "Lower": "LowerTriangular() = normal(1)",
        "Sparse": "Sparse([i => i % 5 + 1 for i in 1:5]) = normal(2)",
    }.items()
    for bound in (
        ROWS,
        f'{ROWS}, method = "parametrize"',
        "@wellposed norm(A, Inf) <= 0.8",
        "@wellposed pf(A) <= 0.8",
    )
}
WAYS["Nonneg"] = ("Nonneg() = normal(1)", f'{ROWS}, method = "parametrize"')
WAYS["Symmetric spectral"] = ("Symmetric() = normal(1)", "@wellposed norm(W, 2) <= 0.8")
WAYS["Symmetric monotone"] = ("Symmetric() = normal(1)", "@wellposed monotone(W) >= 0.2")
WAYS["Banded spectral"] = (
    "Banded(-1, 1) = normal(1)",
    '@wellposed norm(W, 2) <= 0.8, method = "parametrize"',
)
WAYS["Banded measure"] = ("Banded(-1, 1) = normal(1)", "@wellposed nemon(W) <= 0.8")
WAYS["Toeplitz measure"] = ("Toeplitz() = normal(1)", "@wellposed nemon(W) <= 0.8")
WAYS["Sparse measure"] = ("Sparse([1 => 2, 2 => 1, 3 => 3]) = normal(2)", "@wellposed nemon(W) <= 0.8")
WAYS["Circulant perron"] = ("Circulant() = normal(1)", "@wellposed pf(W) <= 0.8")
PROVED = {
    "StrictUpper": ("StrictUpper() = normal(2)", ""),
    "BlockStrictUpper": ("BlockStrictUpper([2, 2, 1]) = normal(2)", ""),
    "BlockStrictLower": ("BlockStrictLower([2, 2, 1]) = normal(2)", "@wellposed"),
    "Sparse": ("Sparse([1 => 3, 2 => 5, 3 => 4]) = normal(2)", ""),
    "Skew": ("Skew() = normal(2)", ""),
    "Skew monotone": ("Skew() = normal(2)", "@wellposed monotone(W; m = 1)"),
}


@pytest.mark.parametrize("name", [*WAYS, *PROVED])
def test_a_loop_within_a_set_is_solved_proved_and_differentiated(name: str) -> None:
    text, bound = {**WAYS, **PROVED}[name]
    torch.manual_seed(0)
    module = implicit_dsl.loads(PROGRAM.format(text=text, bound=bound)).M(dtype=torch.float64)
    u = torch.randn(3, 5, dtype=torch.float64)
    G = torch.randn(3, 5, dtype=torch.float64)

    y = module(u)
    (y * G).sum().backward()

    system, certificate = module.system(), module.certify()
    torch.testing.assert_close(system.solve(u), y.detach(), rtol=1e-7, atol=1e-7)
    assert certificate.proved and all(verdict.satisfied for verdict in certificate.verdicts)
    if "parametrize" not in bound:
        gradient = system.parameter_gradients(u, G)["W"]
        np.testing.assert_allclose(gradient, module.W.grad, rtol=1e-6, atol=1e-7)
    with torch.no_grad():  # any step, and back
        module.W += torch.randn_like(module.W)
    if hasattr(module, "project_"):
        module.project_()
    torch.testing.assert_close(module.system().solve(u), module(u).detach(), rtol=1e-6, atol=1e-6)
    assert module.certify().proved


@pytest.mark.parametrize(
    "name", ["Symmetric @wellposed pf(A) <= 0.8", "Toeplitz @wellposed norm(A, Inf) <= 0.8", "Nonneg"]
)
def test_standalone_files_carry_what_bounds_within_sets_need(name: str) -> None:
    source = PROGRAM.format(text=WAYS[name][0], bound=WAYS[name][1])
    alone = implicit_dsl.loads(source, standalone=True).M(dtype=torch.float64)
    usual = implicit_dsl.loads(source).M(dtype=torch.float64)
    with torch.no_grad():
        alone.W += 1
        usual.W.copy_(alone.W)
    for module in (alone, usual):
        if hasattr(module, "project_"):
            module.project_()
    u = torch.randn(3, 5, dtype=torch.float64)

    assert torch.equal(alone.W, usual.W)
    torch.testing.assert_close(alone(u), usual(u), rtol=1e-7, atol=1e-7)


def test_strictly_triangular_loops_are_solved_exactly() -> None:
    """In as many sweeps as there are blocks, whatever the size of the weights."""
    source = PROGRAM.format(text="BlockStrictUpper([2, 2, 1]) = normal(1000)", bound="")
    torch.manual_seed(0)
    module = implicit_dsl.loads(source).M(dtype=torch.float64)
    W, u = module.effective_weights()["W"].detach(), torch.randn(4, 5, dtype=torch.float64)
    x = torch.zeros(4, 5, dtype=torch.float64)
    for part in (slice(4, 5), slice(2, 4), slice(0, 2)):  # the last block reads nothing
        x[:, part] = torch.tanh(x @ W[part].T + u[:, part])

    torch.testing.assert_close(module(u), x, rtol=1e-14, atol=0)
    assert int(module.stats["x"].forward.steps.max()) <= 5
    assert [loop.proof.rule.value for loop in module.certify().loops] == ["triangular"]


def test_scaled_rotations_contract_by_structure() -> None:
    source = PROGRAM.format(text="Orthogonal()", bound="").replace("W*x", "0.5*W'*x + 0.6*x")
    with pytest.raises(ImplicitError):
        implicit_dsl.compile(source)  # its norm may be 1.1
    source = PROGRAM.format(text="Orthogonal()", bound="@wellposed norm(0.9*W, 2) <= 0.9").replace(
        "W*x", "0.9*W*x"
    )
    module = implicit_dsl.loads(source).M(dtype=torch.float64)
    u = torch.randn(3, 5, dtype=torch.float64)

    torch.testing.assert_close(module.system().solve(u), module(u).detach(), rtol=1e-7, atol=1e-7)
    assert module.certify().proved and not hasattr(module, "project_")


REFUSED = {
    ("Toeplitz()", "@wellposed norm(W, 2) <= 0.8"): "parametrize",
    ("Banded(-1, 1)", "@wellposed monotone(W) >= 0.1"): "norm(A, Inf)",
    ("Symmetric()", "@wellposed monotone(W) >= 1.5"): "m of at most 1",
    ("Toeplitz()", "@wellposed nemon(W) <= 0"): "larger bound",
    ("Banded(-1, 1)", "@wellposed nemon(W) <= -0.8"): "larger bound",
    ("Symmetric()", '@wellposed pf(W) <= 0.8, method = "parametrize"'): "norm(A, Inf)",
    ("Symmetric()", '@wellposed monotone(W) >= 0.1, method = "parametrize"'): "project",
    ("Nonneg()", "@wellposed norm(W, Inf) <= 0.8"): "parametrize",
    ("Nonneg()", "@wellposed monotone(W) >= 0.1"): "norm(A, Inf)",
    ("Orthogonal()", "@wellposed norm(W, Inf) <= 0.8"): "0.9*W",
    ("LowRank(2)", "@wellposed pf(W) <= 0.8"): "norm(…, Inf)",
}


@pytest.mark.parametrize(("text", "bound"), REFUSED)
def test_what_cannot_be_kept_is_refused_with_another_way(text: str, bound: str) -> None:
    with pytest.raises(ImplicitError) as caught:
        implicit_dsl.compile(PROGRAM.format(text=text, bound=bound))

    (found,) = caught.value.diagnostics
    assert found.code == "E0404"
    assert REFUSED[text, bound] in found.help


PRODUCTS = {
    "sum with a low rank": ("(W + F)*x", "norm(W + F, Inf) <= 0.9"),
    "low rank": ("F*x", "norm(F, Inf) <= 0.9"),
    "product": ("W*(V*x)", "norm(W*V, Inf) <= 0.9"),
    "assembled": ("W*(V*x) - 0.5*(F*x)", "norm(A, Inf) <= 0.9"),
    "transposed": ("(F' + 2*W*V')*x", "norm(F' + 2*W*V', Inf) <= 0.9"),
    "small factors": ("(0.5*W + 0.25*V)*x", "norm(0.5*W + 0.25*V, Inf) <= 0.9"),
    "half of a bounded sum": ("(0.5*W + V)*x", "norm(W + 2*V, Inf) <= 1.8"),
    "of itself": ("(W'*W)*x", "norm(W'*W, Inf) <= 0.9"),
}


@pytest.mark.parametrize("method", ["project", "parametrize"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_row_sums_of_products_are_bounded_by_their_factors(name: str, method: str) -> None:
    reads, bound = PRODUCTS[name]
    text = f"""
model M(n = 6)
    input u[n]
    param W[n, n] in Symmetric(), V[n, n], F[n, n] in LowRank(2)
    state x[n] ~ tanh({reads} + u)
    output y = x
    @allow unused_parameter
    @wellposed {bound}, method = "{method}"
end
"""
    if name == "of itself" and method == "parametrize":
        with pytest.raises(ImplicitError, match=r"E0404.*several factors"):
            implicit_dsl.compile(text)
        return
    module = implicit_dsl.loads(text).M(dtype=torch.float64)
    for _ in range(5):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(std=2.0)
        if method == "project":
            module.project_()
        size = row_sums(module)
        assert 0.01 < size <= 0.9 + 1e-12
        u = torch.randn(3, 6, dtype=torch.float64)
        torch.testing.assert_close(module.system().solve(u), module(u).detach(), rtol=1e-7, atol=1e-7)
        assert module.certify().proved


def row_sums(module: nn.Module) -> float:
    """The largest row sum of what x reads of itself, with the linear states between eliminated."""
    system = module.system()  # type: ignore[operator]
    A, slots, states = system.A.to_scipy().toarray(), system.partition("slots"), system.partition("states")
    x, y = slots["x"], states["x"]
    rest = np.ones(len(A), dtype=bool)
    rest[x] = False
    inner = np.linalg.inv(np.eye(rest.sum()) - A[np.ix_(rest, rest)])
    whole = A[x, y] + A[x][:, rest] @ inner @ A[rest][:, y]
    return float(np.abs(whole).sum(1).max())


def test_factors_are_bounded_one_by_one() -> None:
    bounds = "@wellposed norm(W.left, Inf) <= 1.5\n@wellposed norm(W.right, Inf) <= 0.6"
    module = implicit_dsl.loads(PROGRAM.format(text="LowRank(2) = normal(3)", bound=bounds)).M(
        dtype=torch.float64
    )
    u = torch.randn(3, 5, dtype=torch.float64)

    assert (
        float(module.W_left.detach().abs().sum(1).max()) <= 1.5
        and float(module.W_right.detach().abs().sum(1).max()) <= 0.6
    )
    torch.testing.assert_close(module.system().solve(u), module(u).detach(), rtol=1e-7, atol=1e-7)
    assert module.certify().proved


def test_monotone_matrices_may_be_made_of_members() -> None:
    source = """
    model M(n = 5; m = 0.1)
        input u[n]
        param P[n, n], S[n, n] in Skew(), Q[n, n] in Symmetric(), K[n, n] in Skew()
        A = (1 - m)*I(n) - P'*P + S - Q'*Q - K'*K
        state x[n] ~ relu(A*x + u)
        output y = x
        @wellposed monotone(A; m = m)
    end
    """
    module = implicit_dsl.loads(source).M(dtype=torch.float64)
    u = torch.randn(3, 5, dtype=torch.float64)

    torch.testing.assert_close(module.system().solve(u), module(u).detach(), rtol=1e-6, atol=1e-6)
    assert module.certify().proved
    with pytest.raises(ImplicitError):
        implicit_dsl.compile(source.replace("- K'*K", "+ K'*K"))
