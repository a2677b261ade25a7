"""Certified accuracy and radii lie below what attacks reach, and are exact where that can be computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from bounded import loop
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl.analysis import NoBound, attack, certified_accuracy, certified_radius

torch.set_num_threads(1)
LINEAR = """
model Linear
    input u[4]
    output y[3] = Dense(3)*u
end
"""
CLASSES = """
model Net
    input u[4]
    param A[8, 8], B[8, 4]
    state x[8] ~ relu(A*x + B*u)
    output y[3] = Dense(3)*x
    @wellposed norm(A, Inf) <= 0.9
end
"""


def linear() -> Any:
    torch.manual_seed(0)
    return implicit_dsl.loads(LINEAR).Linear(dtype=torch.float64)


def trained(seed: int = 0) -> tuple[Any, Tensor, Tensor]:
    """A network fitted to three clouds of points."""
    torch.manual_seed(seed)
    labels = torch.arange(60) % 3
    inputs = (
        torch.randn(60, 4, dtype=torch.float64) * 0.4 + 1.2 * torch.eye(3, 4, dtype=torch.float64)[labels]
    )
    model = implicit_dsl.loads(CLASSES).Net(dtype=torch.float64)
    model.project_()
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(80):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        model.project_()
    return model, inputs, labels


def exact_radii(model: Any, inputs: Tensor, labels: Tensor, norm: str) -> Tensor:
    """Of a linear classification: the distance to each border, in the dual norm."""
    W, b = model.y_dense.weight.detach(), model.y_dense.bias.detach()
    y = inputs @ W.T + b
    radii = torch.full((len(inputs),), float("inf"), dtype=torch.float64)
    for j in range(3):
        rows = W[labels] - W[j]
        size = rows.abs().sum(1) if norm == "inf" else rows.norm(dim=1)
        margin = y.gather(1, labels[:, None])[:, 0] - y[:, j]
        radii = torch.where(labels == j, radii, torch.minimum(radii, margin / size))
    return radii.clamp_min(0)


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_of_linear_models_radii_are_exact_and_attacks_reach_them(norm: Any) -> None:
    model, inputs = linear(), torch.randn(20, 4, dtype=torch.float64)
    labels = model(inputs).argmax(1)
    exact = exact_radii(model, inputs, labels, norm)
    found = certified_radius(model, inputs, norm=norm, most=50.0, tolerance=1e-4)
    assert bool((found <= exact * (1 + 1e-9)).all()) and bool((found >= exact * (1 - 1e-3)).all())
    middle = float(exact.median())
    for method in ("fgsm", "pgd"):
        made = attack(model, inputs, labels, middle, method=method, norm=norm, steps=100)
        far = (exact - middle).abs() > 0.02 * middle
        assert torch.equal(made.success[far], (exact < middle)[far])
    at = certified_accuracy(model, inputs, labels, middle, norm=norm)
    assert at.certified == pytest.approx(float((exact > middle).double().mean()))


def test_certified_is_below_attacked_is_below_clean() -> None:
    model, inputs, labels = trained()
    before = 1.0
    for epsilon in (0.0, 0.05, 0.2, 0.4):
        found = certified_accuracy(model, inputs, labels, epsilon, thorough=True)
        assert found.attacked is not None
        assert found.certified <= found.attacked <= found.clean and found.certified <= before
        if epsilon == 0:
            assert found.certified == found.clean
        before = found.certified
        assert f"ε = {epsilon:g}" in str(found) and "under attack" in str(found)


def test_methods_and_effort_are_ordered_and_branches_close_the_gap() -> None:
    model, inputs, labels = trained()
    shares = [
        certified_accuracy(model, inputs, labels, 0.2, method=method, thorough=thorough).certified
        for method, thorough in (
            ("sensitivity", False),
            ("interval", False),
            ("nemon", False),
            ("crown", False),
            ("crown", True),
        )
    ]
    assert shares == sorted(shares) and shares[0] < shares[-1]
    exact = certified_accuracy(model, inputs, labels, 0.2, thorough=True)
    assert exact.attacked is not None and exact.attacked - exact.certified < 0.02  # but for near ties


def test_branches_agree_with_samples() -> None:
    """What is proved by branch and bound has no counterexample among many samples."""
    model, inputs, labels = trained(1)
    found = certified_accuracy(model, inputs, labels, 0.3, thorough=True, attack=False)
    proved = torch.from_numpy(found.proved)
    assert bool(proved.any()) and not bool(proved.all())
    u, own = inputs[proved], labels[proved]
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        noise = (2 * torch.rand(u.shape, generator=generator, dtype=torch.float64) - 1) * 0.3
        with torch.no_grad():
            assert torch.equal(model(u + noise).argmax(1), own)
    assert not bool(attack(model, u, own, 0.3, restarts=5).success.any())


def test_processes_find_the_same() -> None:
    model, inputs, labels = trained()
    one = certified_accuracy(model, inputs, labels, 0.2)
    two = certified_accuracy(model, inputs, labels, 0.2, processes=2)
    np.testing.assert_array_equal(one.proved, two.proved)


def test_progress_is_told() -> None:
    model, inputs, labels = trained()
    seen: list[tuple[int, int]] = []
    certified_accuracy(model, inputs, labels, 0.05, attack=False, progress=lambda *at: seen.append(at))
    assert seen and seen[-1][0] == seen[-1][1]


def test_a_range_of_the_data_cuts_the_ball() -> None:
    model, inputs = linear(), torch.rand(30, 4, dtype=torch.float64)
    labels = model(inputs).argmax(1)
    free = certified_radius(model, inputs, most=50.0)
    cut = certified_radius(model, inputs, most=50.0, lower=0.0, upper=1.0)
    assert bool((cut >= free * (1 - 2e-3)).all()) and bool((cut > free * 1.01).any())
    made = attack(model, inputs, labels, 0.5, lower=0.0, upper=1.0)
    assert isinstance(made.inputs, Tensor)
    assert float(made.inputs.min()) >= 0 and float(made.inputs.max()) <= 1


# ------------------------------------------------------------------------------------- attacks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("norm", ["inf", "2"])
def test_attacks_stay_within_the_ball(dtype: torch.dtype, norm: Any) -> None:
    model, inputs, labels = trained()
    model, inputs = model.to(dtype), inputs.to(dtype)
    for method in ("fgsm", "pgd", "sparse"):
        for epsilon in (1e-6, 0.1):
            made = attack(model, inputs, labels, epsilon, method=method, norm=norm)
            assert isinstance(made.inputs, Tensor)
            moved = made.inputs.double() - inputs.double()
            size = moved.abs().amax(1) if norm == "inf" else moved.norm(dim=1)
            assert float(size.max()) <= epsilon
            with torch.no_grad():
                scores = model(made.inputs)
            wrong = scores.argmax(1) != labels
            assert torch.equal(made.success, wrong)


def test_several_steps_reach_further_than_one_and_few_entries_are_few() -> None:
    model, inputs, labels = trained()
    one = attack(model, inputs, labels, 0.4, method="fgsm")
    many = attack(model, inputs, labels, 0.4, method="pgd", restarts=4)
    assert bool((many.margins >= one.margins - 1e-9).all()) and many.accuracy <= one.accuracy
    for entries in (1, 2):
        few = attack(model, inputs, labels, 0.8, method="sparse", entries=entries)
        assert isinstance(few.inputs, Tensor)
        assert int((few.inputs != inputs).sum(1).max()) <= entries
    assert "samples are classified wrong" in str(many)


def test_an_attack_leaves_the_model_as_it_is() -> None:
    model, inputs, labels = trained()
    model.train()
    model.B.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attack(model, inputs, labels, 0.1)
    assert model.training and not model.B.requires_grad and model.A.requires_grad
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "run",
    [
        lambda *given: certified_accuracy(*given, 0.1, attack=False),
        lambda *given: certified_radius(*given),
        lambda *given: attack(*given, 0.1),
    ],
    ids=["certified_accuracy", "certified_radius", "attack"],
)
def test_parts_in_evaluation_mode_stay_in_it(run: Callable[..., object]) -> None:
    """Those that a user froze in a model that is being trained."""
    model, inputs, labels = trained()
    model.train()
    model.y_dense.eval()
    run(model, inputs, labels)
    assert model.training and not model.y_dense.training


def test_a_tolerance_below_rounding_ends() -> None:
    model, inputs = linear(), torch.randn(2, 4, dtype=torch.float64)
    found = certified_radius(model, inputs, most=50.0, tolerance=1e-300)
    exact = exact_radii(model, inputs, model(inputs).argmax(1), "inf")
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=0)


# ------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": -0.1}, "ε is a number of at least 0, and this is -0.1"),
        ({"epsilon": float("nan")}, "ε is a number of at least 0"),
        ({"norm": "1"}, 'no norm "1"'),
        ({"method": "ibp"}, 'no method "ibp"'),
        ({"labels": torch.full((60,), 3)}, "labels go from 0 to 2, and these from 3 to 3"),
        ({"labels": torch.zeros(60)}, "labels are whole numbers"),
        ({"labels": torch.zeros(59, dtype=torch.long)}, "59 labels for 60 samples"),
        ({"inputs": torch.zeros(60, 5)}, r"has shape \[batch, 4\]"),
        ({"inputs": torch.full((60, 4), float("inf"))}, "not finite, in sample 0"),
        ({"lower": 10.0}, "do not lie between 10 and inf|out of the range"),
        ({"processes": 0}, "one process at least"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    model, inputs, labels = trained()
    given: dict[str, Any] = {"inputs": inputs, "labels": labels, "epsilon": 0.1, **change}
    with pytest.raises(ValueError, match=message):
        certified_accuracy(model, given.pop("inputs"), given.pop("labels"), given.pop("epsilon"), **given)


def test_what_has_no_bounds_is_refused_before_anything_is_run() -> None:
    model = loop("relu", "unchecked", scale=3.0)
    inputs, labels = torch.randn(4, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.long)
    with pytest.raises(NoBound, match="not proved to have one equilibrium"):
        certified_accuracy(model, inputs, labels, 0.1)
    with pytest.raises(ValueError, match="a classification has one output"):
        single = implicit_dsl.loads("model M\ninput u[2]\noutput y[1] = Dense(1)*u\nend").M()
        certified_accuracy(single, torch.zeros(3, 2), torch.zeros(3, dtype=torch.long), 0.1)
    with pytest.raises(ValueError, match="all inputs are tokens"):
        words = implicit_dsl.loads(
            "model M\ninput t[3] in Tokens(5)\nstate e[3, 4] ~ Embedding(5, 4)(t)\n"
            "output y[2] = Dense(2)*flatten(e)\nend"
        ).M()
        certified_accuracy(words, torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, dtype=torch.long), 0.1)
    with pytest.raises(TypeError, match="not a model that implicitc compiled"):
        certified_radius(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="the largest radius"):
        certified_radius(linear(), torch.zeros(1, 4), most=0.0)
