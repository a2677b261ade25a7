"""`prune_`: what becomes zero, what has no effect, and the bound of the change, against brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import implicit_dsl

torch.set_num_threads(1)

LOOP = """
model Loop(n = 6, p = 4)
    input u[p]
    param A[n, n], B[n, p], b[n], C[2, n], D[2, p]
    state x[n] ~ {φ}(A*x + B*u + b)
    output y[2] = C*x + D*u
    @wellposed norm(A, Inf) <= 0.8
end
"""
DEEP = """
model Deep
    input u[1, 6, 6]
    layer K = Conv(1 => 3, 3)
    state c[3, 4, 4] ~ relu(K*u)
    state s[3, 2, 2] ~ MaxPool(2)(c)
    state h[5] ~ tanh(Dense(5)*flatten(s))
    state z[4] ~ softmax(Dense(4)*h)
    output y[2] = Dense(2)*z + Dense(2)*h
end
"""


def made(text: str, seed: int = 0, **more: Any) -> nn.Module:
    torch.manual_seed(seed)
    module = implicit_dsl.loads(text, **more)
    model: nn.Module = getattr(module, module.__all__[0])(dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
        if hasattr(model, "project_"):
            model.project_()
    return model


def inputs_of(model: nn.Module, batch: int = 5) -> tuple[torch.Tensor, ...]:
    blocks = model.system().inputs  # type: ignore[operator]
    return tuple(torch.randn(batch, *block.shape, dtype=torch.float64) for block in blocks)


PROGRAMS = {
    **{φ: LOOP.replace("{φ}", φ) for φ in ("relu", "tanh", "sigmoid", "leaky_relu", "elu")},
    "deep": DEEP,
}


@pytest.mark.parametrize("name", PROGRAMS)
@settings(max_examples=10, deadline=None)
@given(tolerance=st.sampled_from((0.0, 0.01, 0.1, 0.4, 2.0, 10.0)), seed=st.integers(0, 1000))
def test_the_change_is_within_its_bound(name: str, tolerance: float, seed: int) -> None:
    model = made(PROGRAMS[name], seed)
    u = inputs_of(model)
    before = model(*u).detach()

    report = model.prune_(tolerance, *u)  # type: ignore[operator]

    moved = float((model(*u).detach() - before).abs().max())
    assert report.bound is not None and report.change is not None, report.why
    assert moved <= report.bound["y"] + 1e-9 and abs(moved - report.change["y"]) <= 1e-9
    assert report.bound["y"] > 0 or moved == 0
    if tolerance == 0.0:
        assert report.bound["y"] <= 1e-12


def test_small_weights_are_zero_and_offsets_are_kept() -> None:
    model = made(PROGRAMS["sigmoid"])
    kept = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    report = model.prune_(0.1)  # type: ignore[operator]

    for name in "ABCD":
        expected = kept[name].masked_fill(kept[name].abs() <= 0.1, 0.0)
        assert torch.equal(getattr(model, name).detach(), expected)
    assert torch.equal(model.b.detach(), kept["b"])
    counts = [sum(int((held[n] != 0).sum()) for n in "ABCD") for held in (kept, model.state_dict())]
    assert report.weights == tuple(counts)
    assert report.bound is None and "no inputs" in report.why and "6" in str(report)


def test_what_has_no_effect_becomes_zero() -> None:
    model = made(LOOP.replace("{φ}", "relu"))
    with torch.no_grad():
        model.A[0] = 0.0  # x[0] reads nothing: it is zero
        model.B[0] = 0.0
        model.b[0] = 0.0
        model.C[:, 1] = 0.0  # x[1] is read by x[2] alone, and that by nothing else
        model.A[:, 1] = 0.0
        model.A[2, 1] = 0.5
        model.C[:, 2] = 0.0
        model.A[:, 2] = 0.0
        model.project_()  # type: ignore[operator]
    u = inputs_of(model)
    before = model(*u).detach()

    report = model.prune_(0.0, *u)  # type: ignore[operator]

    assert report.dead == {"x": 1} and report.unobserved == {"x": 2}
    torch.testing.assert_close(model(*u).detach(), before, rtol=0, atol=1e-10)
    assert (
        not model.A.detach()[1:3].any()
        and not model.B.detach()[1:3].any()
        and not model.b.detach()[1:3].any()
    )
    assert not model.C.detach()[:, :3].any() and not model.A.detach()[:, :3].any()
    assert report.bound is not None and report.bound["y"] <= 1e-12


def test_numbers_of_a_kernel_are_dropped_where_all_their_places_are() -> None:
    model = made(DEEP)
    with torch.no_grad():
        model.K.weight[1] = 0.001  # type: ignore[union-attr]
        model.K.bias[1] = 0.0  # type: ignore[union-attr]
    u = inputs_of(model)
    report = model.prune_(0.01, *u)  # type: ignore[operator]

    assert not model.K.weight.detach()[1].any()  # type: ignore[union-attr]
    (reader,) = [m for m in model.modules() if isinstance(m, nn.Linear) and m.in_features == 12]
    assert not reader.weight.detach()[:, 4:8].any()
    assert report.dead["s"] == 4 and report.dead["c"] == 16


def test_blocks_that_are_emptied_are_named() -> None:
    model = made(PROGRAMS["tanh"])
    with torch.no_grad():
        model.D.mul_(1e-3)
    report = model.prune_(0.01)  # type: ignore[operator]

    assert [(block.matrix, block.target, block.source) for block in report.emptied] == [("D", "y", "u")]
    assert "D[y, u]" in str(report)


def test_what_bounds_nothing_is_said() -> None:
    text = "model M\ninput u[3]\nstate h[4] ~ (Dense(4)*u) .* (Dense(4)*u)\noutput y[2] = Dense(2)*h\nend"
    model = made(text)
    report = model.prune_(0.1, *inputs_of(model))  # type: ignore[operator]
    assert report.bound is None and "no bounded slope" in report.why
    unchecked = made(LOOP.replace("{φ}", "tanh").replace("norm(A, Inf) <= 0.8", "unchecked"))
    with torch.no_grad():
        unchecked.A.copy_(torch.eye(6) * 0.9 + 0.2)
    report = unchecked.prune_(0.1, *inputs_of(unchecked))  # type: ignore[operator]
    assert report.bound is None and "v > 0" in report.why


@pytest.mark.parametrize("tolerance", [-1.0, float("nan")])
def test_wrong_tolerances_change_nothing(tolerance: float) -> None:
    model = made(PROGRAMS["relu"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="tolerance"):
        model.prune_(tolerance)  # type: ignore[operator]
    with pytest.raises(ValueError, match="shape"):
        model.prune_(0.1, torch.zeros(2, 5))  # type: ignore[operator]
    with torch.no_grad():
        model.B[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        model.prune_(0.1)  # type: ignore[operator]
    for name, value in model.state_dict().items():
        assert name == "B" or torch.equal(value, before[name])


def test_sets_and_sequences_are_pruned_by_their_numbers() -> None:
    text = """
    model M(n = 4)
        input u[n]
        param S[n, n] in Symmetric(), R[n, n] in LowRank(2), O[n, n] in Orthogonal()
        state x[n] ~ tanh(S*u + R*u + O*u)
        output y[n] = x
    end
    """
    model = made(text)
    rotation = model.O.detach().clone()
    model.prune_(0.3)  # type: ignore[operator]
    assert bool(((model.S.detach().abs() > 0.3) | (model.S.detach() == 0)).all())
    assert torch.equal(model.O.detach(), rotation)
    recurrent = """
    model R(n = 3)
        input u[_, 2]
        layer W = Dense(n; bias = false), V = Dense(n)
        recurrent v over u
            state h[n] = 0
            h ~ tanh(W*prev(h) + V*v)
        end
        output y[n] = last(h)
    end
    """
    model = made(recurrent)
    u = torch.randn(4, 5, 2, dtype=torch.float64)
    before = model(u).detach()
    report = model.prune_(0.2, u)  # type: ignore[operator]
    moved = float((model(u).detach() - before).abs().max())
    assert report.bound is not None and 0 < moved <= report.bound["y"]
    assert bool(((model.W.weight.detach().abs() > 0.2) | (model.W.weight.detach() == 0)).all())  # type: ignore[union-attr]


def test_a_standalone_file_prunes_with_the_package() -> None:
    model = made(PROGRAMS["relu"], standalone=True)
    report = model.prune_(0.2, *inputs_of(model))  # type: ignore[operator]
    assert report.bound["y"] > 0 and np.isfinite(report.bound["y"])
