"""Block-coordinate descent: divergences, gradients, Lipschitz constants, and objectives that only fall."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from implicit_dsl.train.descent.fenchel import Activation, Clipped, Leaky, Sigmoid, Tanh

torch.set_num_threads(1)

ACTIVATIONS: dict[str, Activation] = {
    "identity": Clipped(),
    "relu": Clipped(0.0),
    "hardtanh": Clipped(-1.0, 1.0),
    "hardtanh above 0": Clipped(0.5, 2.0),
    "relu6": Clipped(0.0, 6.0),
    "leaky_relu": Leaky(0.1),
    "leaky_relu, steep": Leaky(3.0),
    "tanh": Tanh(),
    "sigmoid": Sigmoid(),
}
NUMBERS = st.floats(-40, 40, allow_nan=False, width=64)


def number(x: float) -> torch.Tensor:
    return torch.tensor([x], dtype=torch.float64)


@pytest.mark.parametrize("name", ACTIVATIONS)
@settings(max_examples=60, deadline=None)
@given(z=NUMBERS, other=NUMBERS)
def test_divergences_are_zero_at_the_activation_and_positive_elsewhere(
    name: str, z: float, other: float
) -> None:
    phi = ACTIVATIONS[name]
    x, far = phi.phi(number(z)), phi.phi(number(other))
    assert phi.divergence(x, number(z)).abs().item() <= 1e-12 * max(1.0, abs(z)) ** 2
    found = phi.divergence(far, number(z)).item()
    assert found >= 0
    # F is strongly convex in x: f'' ≥ 1 / K, with K the largest slope of φ
    assert found >= 0.5 * (far - x).item() ** 2 / phi.steepest - 1e-12 * max(1.0, abs(z)) ** 2


@pytest.mark.parametrize("name", ACTIVATIONS)
@settings(max_examples=40, deadline=None)
@given(z=NUMBERS, other=NUMBERS)
def test_divergences_are_f_and_its_conjugate(name: str, z: float, other: float) -> None:
    phi, x = ACTIVATIONS[name], ACTIVATIONS[name].phi(number(other))
    made = phi.conjugate(x) + phi.primitive(number(z)) - x * number(z)
    assert torch.allclose(phi.divergence(x, number(z)), made, rtol=1e-9, atol=1e-9)
    point = number(z).requires_grad_()
    (slope,) = torch.autograd.grad(phi.primitive(point).sum(), point)
    assert torch.allclose(slope, phi.phi(number(z)), atol=1e-12)


@pytest.mark.parametrize("name", ["relu", "hardtanh", "relu6", "tanh", "sigmoid"])
def test_what_an_activation_never_gives_is_infinitely_far(name: str) -> None:
    assert ACTIVATIONS[name].divergence(number(-1.5), number(0.3)).item() == float("inf")


@pytest.mark.parametrize("name", ACTIVATIONS)
@settings(max_examples=40, deadline=None)
@given(v=NUMBERS, step=st.floats(1e-6, 1e6))
def test_proximal_points_are_minima(name: str, v: float, step: float) -> None:
    phi = ACTIVATIONS[name]

    def objective(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * (x - v) ** 2 + step * phi.conjugate(x)

    x = phi.prox(number(v), step)
    least = objective(x)
    assert bool(least.isfinite())
    for moved in (x + 1e-4, x - 1e-4, phi.phi(number(v)), phi.phi(number(0.0))):
        assert (objective(moved) >= least - 1e-9 * (1 + abs(least))).all()


def test_a_nan_is_never_a_divergence_of_zero() -> None:
    for phi in ACTIVATIONS.values():
        found = phi.divergence(phi.phi(number(0.2)), number(float("nan")))
        assert not bool(found.isfinite().all())
