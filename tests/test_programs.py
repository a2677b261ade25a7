"""The linear and the semidefinite program: sound whatever the solver gives, and closer."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from bounded import assert_within, layers, loop, mlp, samples
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

import implicit_dsl
from implicit_dsl.analysis import NoBound, output_bounds
from implicit_dsl.analysis.bounds import Effort, boxes_for, objectives_of
from implicit_dsl.analysis.crown import relaxed
from implicit_dsl.analysis.lp import dual_bound
from implicit_dsl.analysis.network import Network
from implicit_dsl.analysis.outputs import network_for
from implicit_dsl.analysis.regions import ball, box
from implicit_dsl.analysis.relaxation import program_of

torch.set_num_threads(1)


@pytest.mark.parametrize("act", ["relu", "tanh", "leaky_relu"])
@pytest.mark.parametrize("seed", range(2))
def test_programs_are_sound_and_closer(act: str, seed: int) -> None:
    model = loop(act, seed=seed)
    u = torch.randn(2, 3, dtype=torch.float64)
    low, high = u - 0.3, u + 0.3
    points = samples([low], [high], 300, seed)
    before = output_bounds(model, low, high, method="crown")
    for method in ("lp", "sdp"):
        bounds = output_bounds(model, low, high, method=method)
        assert_within(model, points, *bounds)
        assert bool((bounds[0] >= before[0] - 1e-9).all()) and bool((bounds[1] <= before[1] + 1e-9).all())
        before = bounds


def test_some_bounds_are_closer_by_much() -> None:
    widths = {}
    for method in ("crown", "lp", "sdp"):
        total = 0.0
        for seed in range(3):
            u = torch.randn(1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            low, high = output_bounds(loop(seed=seed), u - 0.8, u + 0.8, method=method)
            total += float((high - low).sum())
        widths[method] = total
    assert widths["lp"] < 0.97 * widths["crown"] and widths["sdp"] < 0.99 * widths["lp"]


def test_on_feedforward_networks_it_is_the_triangle_relaxation() -> None:
    """The linear program of Ehlers (2017), written out for two layers of relu on the same boxes."""
    model = mlp(seed=2)
    u = torch.randn(1, 4, dtype=torch.float64)
    low, high = u - 0.3, u + 0.3
    network = network_for(model, low)
    region = box(network.system.inputs, low, high)
    boxes = boxes_for(network, region, "lp", Effort(tighten=2))
    (V, b), (W, c), (Y, d) = layers(model)
    # the variables are u [4], a [10], b [8]
    bounds = [*zip(low[0].numpy(), high[0].numpy()), *[(0, None)] * 18]
    rows, most = [], []
    for matrix, offset, start, size, before, name in ((V, b, 4, 10, 0, "a"), (W, c, 14, 8, 4, "b")):
        l, h = (end[0] for end in boxes.slots[name])  # noqa: E741
        for i in range(size):
            z, x = np.zeros(22), np.zeros(22)
            z[before : before + matrix.shape[1]] = matrix[i]
            x[start + i] = 1
            rows.append(z - x)  # x ≥ z
            most.append(-offset[i])
            chord = 1.0 if l[i] >= 0 else 0.0 if h[i] <= 0 else h[i] / (h[i] - l[i])
            rows.append(x - chord * z)
            most.append(chord * offset[i] - (chord * l[i] if l[i] < 0 < h[i] else 0.0))
    for k in range(3):
        wanted = np.concatenate((np.zeros(14), Y[k]))
        found = optimize.linprog(-wanted, np.array(rows), np.array(most), bounds=bounds, method="highs")
        top = output_bounds(model, low, high, method="lp", tighten=2)[1][0, k]
        assert float(top) == pytest.approx(d[k] - found.fun, abs=1e-6)


@given(seed=st.integers(0, 1000), size=st.sampled_from([0.0, 0.1, 3.0]))
@settings(deadline=None, max_examples=25)
def test_any_multipliers_prove_a_bound(seed: int, size: float) -> None:
    model = loop(seed=1)
    u = torch.zeros(1, 3, dtype=torch.float64)
    network = network_for(model, u)
    region = ball(network.system.inputs, u, 0.2, "2")
    bounded = relaxed(network, boxes_for(network, region, "lp", Effort()))
    program = program_of(network, region, bounded, 0)
    objectives = objectives_of(network, np.eye(2)[None])
    wanted, offset = program.objective(objectives, 0, 0)
    rng = np.random.default_rng(seed)
    bound = offset + dual_bound(
        program,
        wanted,
        region,
        size * np.abs(rng.standard_normal(len(program.most))),
        size * rng.standard_normal(len(program.given)),
    )
    v = torch.randn(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    v = 0.2 * v / v.norm(dim=1, keepdim=True)
    with torch.no_grad():
        assert float(model(v)[:, 0].max()) <= bound + 1e-8


def test_what_programs_need_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model, u = loop(), torch.zeros(1, 3, dtype=torch.float64)
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(ImportError, match=r'pip install "implicitc\[sdp\]"'):
        output_bounds(model, u, u + 0.1, method="sdp")
    network = Network.of(model.system(), most=0)
    region = box(network.system.inputs, u, u + 0.1)
    with pytest.raises(NoBound, match="take the method `crown`"):
        program_of(network, region, relaxed(network, boxes_for(network, region, "lp", Effort())), 0)


def test_what_is_too_large_is_refused() -> None:
    model = implicit_dsl.loads(
        "model M\ninput u[150]\nstate x[60] ~ relu(Dense(60)*u)\noutput y = x\nend"
    ).M()
    with pytest.raises(ValueError, match="210 inputs and states are too many"):
        output_bounds(model, torch.zeros(1, 150), torch.ones(1, 150), method="sdp")
