"""Bounds of outputs hold for all that is sampled, and are ordered as theory says."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from bounded import assert_within, boxes_around, loop, mlp, samples
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import RandomProgram, programs
from test_exactness import QUIET, outputs, twins
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl.analysis import NoBound, output_bounds
from implicit_dsl.analysis.bounds import Effort, boxes_for, tightened
from implicit_dsl.analysis.boxes import boxes_of
from implicit_dsl.analysis.crown import relaxed
from implicit_dsl.analysis.matrices import Applied, Made
from implicit_dsl.analysis.network import Network
from implicit_dsl.analysis.outputs import network_for
from implicit_dsl.analysis.regions import box
from implicit_dsl.runtime.certificates.result import Rule

torch.set_num_threads(1)
METHODS = ("sensitivity", "interval", "nemon", "crown")

# ------------------------------------------------------------------------------------- soundness


@given(program=programs(), width=st.sampled_from([0.0, 1e-3, 0.05, 0.5]), seed=st.integers(0, 10**6))
@settings(QUIET, max_examples=40)
def test_no_sample_of_a_random_program_leaves_its_bounds(
    program: RandomProgram, width: float, seed: int
) -> None:
    module, _, inputs = twins(program)
    low, high = boxes_around(inputs, width, seed)
    points = samples(low, high, 12, seed)
    for method in METHODS:
        try:
            bounds = output_bounds(module, low, high, method=method, tighten=1, optimise=1)
        except NoBound:
            continue
        assert_within(module, points, *bounds)
        if width == 0:
            assert all(float((b - a).abs().max()) < 1e-6 for a, b in zip(*map(outputs, bounds)) if a.numel())


def test_a_single_number_is_added_to_what_is_steep_far_out() -> None:
    """log(1 + |x|) is bounded by boxes of what it reads, and those by the number g."""
    model = implicit_dsl.loads(
        "model M\ninput u[3, 1]\nparam g[] = 0.5\nstate x[3, 1] ~ tanh(u)\nstate v[3, 1] ~ tanh(x + g)\n"
        "state w[3, 1] ~ tanh(log(1 + abs(v)))\noutput y[3, 1] = w\nend"
    ).M(dtype=torch.float64)
    u = torch.randn(2, 3, 1, dtype=torch.float64)
    points = samples([u - 0.1], [u + 0.1], 60, 0)
    for method in METHODS:
        assert_within(model, points, *output_bounds(model, u - 0.1, u + 0.1, method=method))


@pytest.mark.slow
def test_no_sample_of_a_million_leaves_its_bounds() -> None:
    total = 0

    @given(program=programs(), width=st.sampled_from([1e-3, 0.05, 0.5]), seed=st.integers(0, 10**6))
    @settings(QUIET, max_examples=600)
    def check(program: RandomProgram, width: float, seed: int) -> None:
        nonlocal total
        module, _, inputs = twins(program)
        low, high = boxes_around([u.repeat(4, *[1] * (u.ndim - 1)) for u in inputs], width, seed)
        points = samples(low, high, 60, seed)
        for method in METHODS:
            try:
                bounds = output_bounds(module, low, high, method=method, tighten=1, optimise=2)
            except NoBound:
                continue
            total += assert_within(module, points, *bounds)

    check()
    assert total >= 10**6


@pytest.mark.parametrize("act", ["relu", "tanh", "σ", "leaky_relu", "elu", "softplus", "gelu", "softmax"])
@pytest.mark.parametrize("seed", range(4))
def test_loops_stay_within_their_bounds_and_methods_are_ordered(act: str, seed: int) -> None:
    """Interval bounds contain those that solve for own entries, and these the backward ones."""
    bound = "norm(A, Inf) <= 0.85" if act in ("gelu",) else "norm(A, Inf) <= 0.9"
    model = loop(act, bound, seed)
    u = torch.randn(5, 3, dtype=torch.float64)
    low, high = u - 0.2, u + 0.2
    points = samples([low], [high], 200, seed)
    made = {method: output_bounds(model, low, high, method=method) for method in METHODS}
    made["closer"] = output_bounds(model, low, high, method="crown", tighten=3, optimise=10)
    for bounds in made.values():
        assert_within(model, points, *bounds)
    order = [made[name] for name in METHODS]
    for (a, b), (c, d) in pairwise(order):
        assert bool((c >= a - 1e-7).all()) and bool((d <= b + 1e-7).all())
    widths = {name: float((high - low).mean()) for name, (low, high) in made.items()}
    assert widths["closer"] <= 1.001 * widths["crown"]


def test_attacks_with_gradients_do_not_leave_the_bounds() -> None:
    model = loop(seed=3)
    u = torch.randn(8, 3, dtype=torch.float64)
    low, high = output_bounds(model, u - 0.3, u + 0.3, tighten=3, optimise=20)
    for output in range(2):
        for sign in (1.0, -1.0):
            v = u.clone()
            for step in range(60):
                v.requires_grad_()
                (slope,) = torch.autograd.grad(model(v)[:, output].sum(), v)
                v = (v.detach() + sign * 0.3 * (1 - step / 60) * slope.sign()).clamp(u - 0.3, u + 0.3)
            y = model(v)[:, output]
            assert bool((y <= high[:, output] + 1e-8).all()) and bool((y >= low[:, output] - 1e-8).all())


# ------------------------------------------------------------------------------------- other networks


MONDEQ = """
model M(n = 5)
    input u[3]
    param A[n, n], B[n, 3]
    state x[n] ~ relu(A*x + B*u)
    output y = x
    @wellposed {bound}
end
"""


def test_a_monotone_loop_whose_magnitudes_do_not_contract_has_bounds() -> None:
    """I − A ⪰ m I bounds the states where |A| says nothing (Winston and Kolter 2020)."""
    torch.manual_seed(0)
    model = implicit_dsl.loads(MONDEQ.format(bound="monotone(A; m = 0.2)")).M(dtype=torch.float64).eval()
    with torch.no_grad():
        skew = torch.randn(5, 5, dtype=torch.float64)
        model.A.copy_(3 * (skew - skew.T) - 0.5 * torch.eye(5))
    model.project_()
    assert model.certify().proved and float(model.A.detach().abs().sum(1).max()) > 2
    u = torch.randn(3, 3, dtype=torch.float64)
    low, high = u - 0.05, u + 0.05
    for method in METHODS[1:]:
        bounds = output_bounds(model, low, high, method=method)
        assert_within(model, samples([low], [high], 100, 0), *bounds)
    with pytest.raises(NoBound, match="x"):
        output_bounds(model, low, high, method="sensitivity")


COUPLED = """
model M(n = 4)
    input u[3]
    param P[n, n], Q[n, n], R[n, n]
    state x[n] ~ relu(P*z + Dense(n; bias = false)*u)
    h = R*x + 0.1*z
    state z[n] ~ {act}(Q*h + Dense(n; bias = false)*u)
    output y[2] = Dense(2)*(x + z)
    @wellposed unchecked
    @solver newton
end
"""


@pytest.mark.parametrize("act", ["relu", "softplus"])
def test_several_states_in_a_monotone_loop_have_bounds(act: str) -> None:
    """Two that pull against each other, one of them through a linear state."""
    torch.manual_seed(1)
    model = implicit_dsl.loads(COUPLED.format(act=act)).M(dtype=torch.float64).eval()
    with torch.no_grad():
        K = torch.randn(4, 4, dtype=torch.float64)
        model.P.copy_(2 * K)
        model.Q.copy_(-2 * K.T)
        model.R.copy_(torch.eye(4))
    found = model.certify()
    assert found.proved and found.loops[0].proof.rule in (Rule.MONOTONE, Rule.DIAGONAL)
    assert float(max(abs(np.linalg.eigvals(abs(model.system().A.to_scipy().toarray()))))) > 1.5
    u = torch.randn(3, 3, dtype=torch.float64)
    low, high = u - 0.05, u + 0.05
    widths = []
    for method in METHODS[1:]:
        bounds = output_bounds(model, low, high, method=method)
        assert_within(model, samples([low], [high], 200, 0), *bounds)
        widths.append(float((bounds[1] - bounds[0]).max()))
    assert widths[-1] <= widths[0] * (1 + 1e-9) and widths[0] < 50


def test_bounded_activations_bound_loops_without_a_certificate() -> None:
    model = loop("tanh", "unchecked", scale=2.0)
    assert not model.certify().proved
    u = torch.randn(3, 3, dtype=torch.float64)
    low, high = output_bounds(model, u - 0.1, u + 0.1, method="interval")
    assert bool(torch.isfinite(low).all()) and bool((high > low).all())
    unproved = loop("relu", "unchecked", scale=2.0)
    with pytest.raises(NoBound, match="not proved to have one equilibrium"):
        output_bounds(unproved, u - 0.1, u + 0.1)


CONV = """
model Net
    input u[1, 8, 8]
    state c[4, 6, 6] ~ relu(BatchNorm()(Conv(4, 3)*u))
    state p[4, 3, 3] ~ MaxPool(2)(c)
    state z[4, 3, 3] ~ relu(Conv(4 => 4, 3; pad = 1, bias = false)*z + p)
    state s[3] ~ softmax(Dense(3)*flatten(z))
    output y = s
    @wellposed norm(A, Inf) <= 0.8
end
"""


def test_convolutions_max_pool_loops_and_softmax_with_blocks_made_or_applied() -> None:
    torch.manual_seed(0)
    model = implicit_dsl.loads(CONV).Net(dtype=torch.float64).eval()
    u = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    low, high = u - 0.02, u + 0.02
    bounds = output_bounds(model, low, high)
    assert_within(model, samples([low], [high], 60, 0), *bounds)
    made, applied = Network.of(model.system()), Network.of(model.system(), most=0)
    kinds = {type(block) for node in applied.states for block in node.reads.values()}
    assert kinds == {Applied}
    assert {type(block) for node in made.states for block in node.reads.values()} == {Made}
    region = box(made.system.inputs, low, high)
    for effort in (Effort(), Effort(tighten=1)):
        one, other = (
            tightened(network, region, boxes_of(network, region, solve_own=False), effort)
            for network in (made, applied)
        )
        for name in one.values:
            for a, b in zip(one.values[name], other.values[name]):
                np.testing.assert_allclose(a, b, atol=1e-8)


def test_unrolled_recurrences_are_bounded() -> None:
    model = (
        implicit_dsl.loads("""
model Rec
    input u[_, 3]
    recurrent x over u
        state h[5]
        h ~ tanh(Dense(5)*x + Dense(5)*prev(h))
    end
    output y[2] = Dense(2)*last(h)
end
""")
        .Rec(dtype=torch.float64)
        .eval()
    )
    u = torch.randn(3, 4, 3, dtype=torch.float64)
    low, high = u - 0.05, u + 0.05
    coarse = output_bounds(model, low, high, method="interval")
    close = output_bounds(model, low, high, method="crown")
    for bounds in (coarse, close):
        assert_within(model, samples([low], [high], 60, 0), *bounds)
    assert float((close[1] - close[0]).mean()) < 0.5 * float((coarse[1] - coarse[0]).mean())


def test_lines_are_made_again_only_where_slots_are_others() -> None:
    model = mlp()
    u = torch.randn(2, 4, dtype=torch.float64)
    network = network_for(model, u)
    region = box(network.system.inputs, u - 0.1, u + 0.1)
    boxes = boxes_for(network, region, "interval", Effort())
    first = relaxed(network, boxes)
    low, high = boxes.slots["b"]
    other = boxes.with_slots("b", (low + 0, high + 0))
    second = relaxed(network, other, first)
    assert second.lines["a"] is first.lines["a"] and second.lines["b"] is not first.lines["b"]


# ------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (torch.zeros(2, 4), torch.full((2, 4), -1.0), "is empty: in sample 0"),
        (torch.zeros(2, 5), torch.zeros(2, 5), r"has shape \[batch, 4\], and \[2, 5\] was given"),
        (torch.zeros(2, 4), torch.zeros(3, 4), "different numbers of samples"),
        (torch.full((2, 4), float("nan")), torch.zeros(2, 4), "not finite, in sample 0"),
        (torch.zeros(0, 4), torch.zeros(0, 4), "there are 0 samples"),
    ],
)
def test_wrong_boxes_are_refused(low: Tensor, high: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        output_bounds(mlp(), low, high)


def test_wrong_methods_models_and_weights_are_refused() -> None:
    u = torch.zeros(1, 4)
    with pytest.raises(ValueError, match='no method "ibp"'):
        output_bounds(mlp(), u, u, method="ibp")
    with pytest.raises(TypeError, match="Linear is not a model that implicitc compiled"):
        output_bounds(nn.Linear(4, 2), u, u)
    with pytest.raises(ValueError, match="at least 0"):
        output_bounds(mlp(), u, u, tighten=-1)
    broken = mlp()
    with torch.no_grad():
        next(broken.parameters())[0, 0] = float("nan")
    with pytest.raises(NoBound, match="holds values that are not finite"):
        output_bounds(broken, u, u)
    with pytest.raises(ValueError, match="there are 1 inputs"):
        output_bounds(mlp(), [u, u], [u, u])
