"""`@penalty`, `prox_` and `ProximalStep`: values against numpy, operators against what they minimise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl.runtime.measures.applying import by_gradient
from implicit_dsl.runtime.measures.shrinking import cap_groups, scale_entries, shrink_entries, shrink_groups
from implicit_dsl.train import ProximalStep

torch.set_num_threads(1)

NORMS = {
    shrink_entries: lambda x: x.abs().sum(1),
    scale_entries: lambda x: x.square().sum(1),
    shrink_groups: lambda x: torch.linalg.vector_norm(x, dim=1),
    cap_groups: lambda x: x.abs().amax(1),
}


@pytest.mark.parametrize("operator", NORMS, ids=lambda one: one.__name__)
@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(1, 4),
    entries=st.integers(1, 5),
    size=st.sampled_from((1e-6, 1.0, 1e4)),
    own=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_operators_minimise_what_they_say(
    operator: Any, groups: int, entries: int, size: float, own: bool, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    a = size * torch.randn(groups, entries, generator=rng, dtype=torch.float64)
    a[torch.rand(a.shape, generator=rng) < 0.2] = 0.0
    steps = size * torch.exp(2 * torch.randn((groups, entries) if own else (1, 1), generator=rng).double())
    x = operator(a, steps)

    def objective(x: Tensor) -> Tensor:
        return ((x - a).square() / (2 * steps)).sum(1) + NORMS[operator](x)

    found = objective(x)
    for scale in (1e-7, 1e-4, 1e-1, 1.0, 10.0):
        for _ in range(20):
            step = scale * size * torch.randn(x.shape, generator=rng, dtype=torch.float64)
            tolerance = 1e-12 * (1 + found.abs())
            assert bool((found <= objective(x + step) + tolerance).all())
            assert bool((found <= objective(x * (1 + step / size)) + tolerance).all())
    assert bool((found <= objective(torch.zeros_like(x)) + 1e-12 * (1 + found.abs())).all())


SOURCE = """
model M(n = 4)
    input u[1, 5, 5], v[3]
    param A[n, n], B[n, 3], C[2, n], b[n] = normal(1), S[n, n] in Symmetric(), F[n, n] in LowRank(2)
    layer K = Conv(1 => 2, 3; pad = 1), E = Dense(n)
    state c[2, 5, 5] ~ relu(K*u)
    state d[2, 5, 5] ~ tanh(K*c[1:1, :, :])
    state x[n] ~ relu(A*x + B*v + E*flatten(d) + S*b + F*b + b)
    output y[2] = C*x
    @wellposed norm(A, Inf) <= 0.9
    {lines}
end
"""


def made(lines: str, seed: int = 0, **more: Any) -> nn.Module:
    text = SOURCE.replace("S*b + F*b + b", "b").replace("{lines}", lines)
    text = text.replace(", S[n, n] in Symmetric(), F[n, n] in LowRank(2)", "")
    if "S" in lines or "F_" in lines or "F," in lines or "F)" in lines:
        text = SOURCE.replace("S*b + F*b + b", "S*x + F*x + b").replace("{lines}", lines)
        text = text.replace("@wellposed norm(A, Inf) <= 0.9", "@wellposed unchecked")
    torch.manual_seed(seed)
    module: nn.Module = implicit_dsl.loads(text, **more).M(dtype=torch.float64)
    return module


def test_sums_of_norms_are_what_they_say() -> None:
    module = made(
        """
        @penalty 0.5*sum(norm(B[:, j]) for j in 1:3) + sum(norm(A[i, :], Inf) for i in 2:3)
        @penalty 2*norm(b) + 3*norm(b, 1) + norm(b)^2 + maxabs(C) + abs(A[1, 2]) / 4
        @penalty sum(j*norm(vcat(B[:, j], B[:, 4 - j]), 1) for j in 1:3 if j != 2)
        @penalty nuclear(A) + norm(A, 1) + norm(A - A', Inf) + norm(A*A, Fro)^2 + norm(A[1:2, 2:3], Fro)
        @penalty sum(norm(A[i, j:j + 1]) for i in 1:2, j in 1:3) + norm(b[2:2])
        """
    )
    A, B, C, b = (getattr(module, name).detach().numpy() for name in ("A", "B", "C", "b"))
    norm = np.linalg.norm
    expected = 0.5 * norm(B, axis=0).sum() + abs(A[1:3]).max(1).sum()
    expected += 2 * norm(b) + 3 * abs(b).sum() + (b**2).sum() + abs(C).max() + abs(A[0, 1]) / 4
    expected += abs(B[:, [0, 2]]).sum() + 3 * abs(B[:, [2, 0]]).sum()
    expected += norm(A, "nuc") + norm(A, 1) + norm(A - A.T, np.inf) + (norm(A @ A) ** 2) + norm(A[:2, 1:3])
    expected += sum(norm(A[i, j : j + 2]) for i in range(2) for j in range(3)) + abs(b[1])

    value = module.penalty()  # type: ignore[operator]

    np.testing.assert_allclose(float(value.detach()), expected, rtol=1e-12)
    value.backward()
    assert all(getattr(module, name).grad is not None for name in ("A", "B", "C", "b"))


def test_assembled_matrices_count_tied_numbers_as_often_as_they_stand_there() -> None:
    module = made(
        """
        @penalty sum(abs(system.A)) + 2*norm(system.A, Fro)^2 + 3*norm(system.A[x, d], Fro)
        @penalty 4*norm(system.A, Inf) + 5*norm(system.B, 1) + 6*blocks(system.A) + 7*columns(system.B)
        @penalty 8*norm(system.A[d, c], 2) + 9*sum(abs(system.A[forward])) + 10*sum(abs(system.A[self]))
        @penalty 11*rows(system.B) + 12*sum(abs(system.B[c, u])) + 13*entries(system.C)
        """
    )
    system = module.system()  # type: ignore[operator]
    A, B, C = (abs(getattr(system, name).to_numpy()) for name in "ABC")
    states, slots = system.partition("states"), system.partition("slots")
    inputs = system.partition("inputs")
    norm = np.linalg.norm
    expected = A.sum() + 2 * (A**2).sum() + 3 * norm(A[slots["x"], states["d"]])
    expected += 4 * A.sum(1).max() + 5 * B.sum(0).max()
    expected += 6 * sum(A[slots[to], states[of]].max() for to in slots.names for of in states.names)
    expected += 7 * B.max(0).sum() + 8 * norm(A_signed(system)[slots["d"], states["c"]], 2)
    forward = A[slots["d"], states["c"]].sum() + A[slots["x"], states["d"]].sum()
    expected += 9 * forward + 10 * A[slots["x"], states["x"]].sum()
    expected += 11 * B.max(1).sum() + 12 * B[slots["c"], inputs["u"]].sum() + 13 * C.sum()

    np.testing.assert_allclose(float(module.penalty().detach()), expected, rtol=1e-12)  # type: ignore[operator]


def A_signed(system: Any) -> np.ndarray:
    found: np.ndarray = system.A.to_numpy()
    return found


TERMS = (
    "0.05*sum(abs(system.A))",
    "0.3*sum(norm(B[:, j]) for j in 1:3)",
    "0.2*columns(B)",
    "0.4*rows(B)",
    "0.2*sum(norm(B[i, :]) for i in 1:4)",
    "0.5*norm(B, Fro)",
    "0.1*norm(B, Fro)^2",
    "0.1*sum(abs(B))",
    "0.3*norm(A, 2)",
    "0.3*nuclear(C)",
    "0.3*norm(C, Inf)",
    "0.2*norm(C, 1)",
    "0.1*sum(abs(K))",
    "0.1*entries(system.A)",
    "0.02*norm(system.A[d, c], Fro)",
    "0.1*blocks(system.A)",
    "0.1*sum(norm(A[i, j:j + 1]) for i in 1:2, j in 1:3)",
    "0.2*maxabs(b)",
)
BOUNDS = (
    "",
    "@sparse columns(B) <= 0.5",
    "@sparse entries(B) <= 0.4",
    "@sparse sum(norm(B[:, j]) for j in 1:3) <= 0.3",
    "@sparse rows(C) <= 0.5, columns(K) <= 0.3",
    "@sparse entries(system.A) <= 1",
)


@settings(max_examples=60, deadline=None)
@given(
    terms=st.lists(st.sampled_from(TERMS), min_size=1, max_size=4, unique=True),
    bound=st.sampled_from(BOUNDS),
    step=st.sampled_from((0.05, 0.5, 2.0)),
    seed=st.integers(0, 1000),
)
def test_the_proximal_step_minimises_penalties_within_sets(
    terms: list[str], bound: str, step: float, seed: int
) -> None:
    module = made("\n".join(f"@penalty {term}" for term in terms) + f"\n{bound}", seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    assert not by_gradient(module.penalties)  # type: ignore[arg-type]

    def objective() -> float:
        moved = sum(
            float((parameter.detach() - before[name]).square().sum())
            for name, parameter in module.named_parameters()
        )
        return moved / (2 * step) + float(module.penalty().detach())  # type: ignore[operator]

    module.prox_(step)  # type: ignore[operator]
    found, at = objective(), [parameter.detach().clone() for parameter in module.parameters()]
    assert all(one.violation(module) <= 1e-12 for one in module.constraints)  # type: ignore[union-attr]
    for _ in range(6):  # towards other points within the sets, which are convex
        with torch.no_grad():
            for parameter, value in zip(module.parameters(), at):
                noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(value + float(torch.rand((), generator=generator)) * noise * (value != 0))
        module.project_()  # type: ignore[operator]
        other = [parameter.detach().clone() for parameter in module.parameters()]
        for part in (1e-5, 1e-3, 0.1, 1.0):
            with torch.no_grad():
                for parameter, value, end in zip(module.parameters(), at, other):
                    parameter.copy_(value + part * (end - value))
            assert objective() >= found - 1e-8 * (1 + abs(found))


def test_a_kernel_counts_in_all_places_where_it_stands() -> None:
    module = made("@penalty 0.01*entries(system.A)")
    before = module.K.weight.detach().clone()  # type: ignore[union-attr]
    places = np.zeros(before.numel())
    for block in ("A",):
        tie = module.system().ties(block)["K.weight"]  # type: ignore[operator]
        np.add.at(places, tie.slots, np.abs(tie.coefficients) * np.ones(len(tie.slots)))

    module.prox_(0.5)  # type: ignore[operator]

    expected = shrink_entries(before, torch.from_numpy(0.005 * places).reshape(before.shape))
    torch.testing.assert_close(module.K.weight.detach(), expected, rtol=1e-12, atol=1e-14)  # type: ignore[union-attr]


OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, 0.02, momentum=0.5),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.0),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.002, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.1),
    "adamax": lambda p: torch.optim.Adamax(p, 0.01),
}


QUICK = ("momentum", "adam")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS]
)
def test_features_that_are_not_needed_become_exactly_zero(name: str) -> None:
    text = """
    model M(n = 6, p = 8)
        input u[p]
        param A[n, n], B[n, p], b[n], C[1, n]
        state x[n] ~ relu(A*x + B*u + b)
        output y[1] = C*x
        @wellposed norm(A, Inf) <= 0.9
        @penalty 0.1*sum(norm(B[:, j]) for j in 1:p) + 0.05*norm(C, Fro)^2
    end
    """
    torch.manual_seed(0)
    model = implicit_dsl.loads(text).M(dtype=torch.float64)
    u = torch.randn(128, 8, dtype=torch.float64)
    target = (u[:, :1] - u[:, 1:2]).relu()
    step = ProximalStep(OPTIMIZERS[name](model.parameters()), model)

    def loss() -> Tensor:
        step.zero_grad()
        value = (model(u) - target).square().mean()
        value.backward()
        return value

    start = float(loss().detach())
    for _ in range(1500):
        loss()
        step.step()

    norms = model.B.detach().norm(dim=0)
    assert bool((norms[:2] > 0.02).all()) and bool((norms[2:] == 0).all())
    assert float(loss().detach()) < 0.3 * start
    assert float(model.A.detach().abs().sum(1).max()) <= 0.9
    assert float(step.penalty().detach()) == float(model.penalty().detach())


def test_terms_without_an_operator_are_added_to_the_gradient() -> None:
    model = made("@penalty 0.5*norm(A - A', Fro)^2 + sum(abs(C))")
    assert [one.text for one in by_gradient(model.penalties)] == ["norm(A - A', Fro)^2"]  # type: ignore[arg-type]
    before = model.A.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    step = ProximalStep(optimizer, model)
    step.zero_grad()
    optimizer.step()

    expected = before - 0.1 * 2 * (before - before.T)
    torch.testing.assert_close(model.A.detach(), expected)
    with pytest.raises(ValueError, match="no proximal operator"):
        model.penalties[0].prox({"A": before}, 0.1)  # type: ignore[index]
    step.remove()
    step.zero_grad()
    optimizer.step()
    torch.testing.assert_close(model.A.detach(), expected)


def test_closures_see_the_whole_objective() -> None:
    model = made("@penalty 0.5*norm(A - A', Fro)^2 + 0.3*sum(abs(C))")
    before = model.C.detach().clone()
    step = ProximalStep(torch.optim.LBFGS(model.parameters(), max_iter=20, tolerance_grad=1e-12), model)

    def closure() -> Tensor:
        step.zero_grad()
        loss = (model.A - 0.1 * torch.ones(4, 4).triu()).square().sum()  # type: ignore[operator]
        loss.backward()
        return loss

    step.step(closure)

    middle = 0.1 * torch.ones(4, 4, dtype=torch.float64).triu()
    symmetric = (middle + middle.T) / 2
    expected = symmetric + (middle - symmetric) / 3
    torch.testing.assert_close(model.A.detach(), expected, rtol=0.0, atol=1e-5)
    torch.testing.assert_close(model.C.detach(), shrink_entries(before, torch.tensor(0.3)))


def test_weights_that_the_optimiser_does_not_hold_stay() -> None:
    model = made("@penalty sum(abs(B)) + sum(abs(C))")
    before = model.C.detach().clone()
    step = ProximalStep(torch.optim.SGD([model.B], 0.5), model)
    model.B.grad = torch.zeros_like(model.B)
    step.step()

    assert torch.equal(model.C.detach(), before)
    with pytest.raises(ValueError, match="holds none"):
        ProximalStep(torch.optim.SGD([model.A], 0.1), model)
    with pytest.raises(TypeError, match="nothing is proximal"):
        ProximalStep(torch.optim.SGD([model.A], 0.1), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="step"):
        model.prox_(-1.0)  # type: ignore[operator]
    with pytest.raises(ValueError, match="step"):
        model.prox_(float("nan"))  # type: ignore[operator]


def test_members_of_sets_are_shrunk_by_their_numbers() -> None:
    model = made("@penalty sum(abs(S)) + nuclear(F)")
    assert [one.text for one in by_gradient(model.penalties)] == ["nuclear(F)"]  # type: ignore[arg-type]
    before = model.S.detach().clone()
    model.prox_(0.05)  # type: ignore[operator]

    counts = torch.full((10,), 2.0, dtype=torch.float64)
    counts[[0, 4, 7, 9]] = 1.0  # the diagonal stands there once
    torch.testing.assert_close(model.S.detach(), shrink_entries(before, 0.05 * counts))


def test_standalone_files_and_copies_have_the_same_penalties() -> None:
    import copy
    import pickle

    lines = "@penalty 0.1*columns(B) + 0.2*sum(norm(C[:, j]) for j in 1:4)\n@sparse entries(B) <= 1"
    model, alone = made(lines), made(lines, standalone=True)
    alone.load_state_dict(model.state_dict())
    copied = copy.deepcopy(model)
    values = {float(one.penalty().detach()) for one in (model, alone, copied)}  # type: ignore[operator]
    assert len(values) == 1
    model.prox_(0.3)  # type: ignore[operator]
    alone.prox_(0.3)  # type: ignore[operator]
    for name, value in model.state_dict().items():
        assert torch.equal(value, alone.state_dict()[name])
    pickle.dumps(model.penalties)


def test_constants_of_an_assembled_matrix_stand_beside_what_is_trained() -> None:
    text = """
    model M
        input u[1, 4, 4]
        state c[2, 4, 4] ~ relu(Conv(1 => 2, 1)*u)
        state s[2, 2, 2] ~ tanh(Conv(2 => 2, 1)*(AvgPool(2)*c))
        output y[3] = Dense(3)*flatten(s) + Dense(3)*flatten(AvgPool(2)*c)
        @penalty 0.1*entries(A) + 0.2*norm(A, Fro)
    end
    """
    torch.manual_seed(0)
    model = implicit_dsl.loads(text).M(dtype=torch.float64)
    A = model.system().A.to_numpy()
    expected = 0.1 * np.abs(A).sum() + 0.2 * np.linalg.norm(A)
    np.testing.assert_allclose(float(model.penalty().detach()), expected, rtol=1e-12)
    # absolute entries are separate, and constants only add a number; in a norm they have a part
    assert [one.text for one in by_gradient(model.penalties)] == ["norm(A, Fro)"]
    before = model.s_conv.weight.detach().clone()
    model.prox_(0.5)
    torch.testing.assert_close(model.s_conv.weight.detach(), shrink_entries(before, torch.tensor(0.05 * 4)))


def test_regions_are_those_of_the_order_of_computation_and_of_what_is_opened() -> None:
    text = """
    model Base(n = 3)
        input u[4]
        state h[n] ~ relu(Dense(n)*g)
        state g[n] ~ relu(Dense(n)*u)
        output y = Dense(2)*h
    end
    model M() extends Base()
        open A[g, h] as LowRank(1)
        open D as LowRank(1)
        @wellposed spectral(abs(A)) <= 0.9
        @penalty entries(A[forward]) + 10*entries(A[feedback]) + 100*entries(D[y, u]) + 1000*entries(A[g, h])
    end
    """
    torch.manual_seed(0)
    model = implicit_dsl.loads(text).M(dtype=torch.float64)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    sizes = {name: float(value.abs().sum()) for name, value in model.state_dict().items()}
    back = sizes["A_g_h_left"] + sizes["A_g_h_right"]
    expected = sizes["h_dense.weight"] + 1010 * back
    expected += 100 * (sizes["D_y_u_left"] + sizes["D_y_u_right"])

    np.testing.assert_allclose(float(model.penalty().detach()), expected, rtol=1e-12)
