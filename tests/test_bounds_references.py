"""Bounds of outputs equal what is published, or computed from its definition by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bounded import layers, loop, mlp
from torch import nn

import implicit_dsl
from implicit_dsl.analysis import output_bounds
from implicit_dsl.analysis.bounds import Effort, boxes_for
from implicit_dsl.analysis.outputs import network_for
from implicit_dsl.analysis.regions import box

torch.set_num_threads(1)


def test_the_example_of_jafarpour_is_reproduced() -> None:
    """Jafarpour, Abate, Davydov, Bullo and Coogan (2022): [.3939, 1.6061] × [.6364, 2.0303]."""
    model = implicit_dsl.loads("""
model M
    input u[2]
    param A[2, 2], B[2, 2]
    state x[2] ~ relu(A*x + B*u)
    output y = x
    @wellposed unchecked
end
""").M(dtype=torch.float64)
    with torch.no_grad():
        model.A.copy_(torch.tensor([[-0.25, -0.25], [0.75, -0.25]]))
        model.B.copy_(torch.tensor([[0.5, 1.0], [1.0, 0.5]]))
    low = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    high = torch.tensor([[1 / 3, 2.0]], dtype=torch.float64)
    found = output_bounds(model, low, high, method="nemon")
    np.testing.assert_allclose(found[0][0], [0.3939, 0.6364], atol=5e-5)
    np.testing.assert_allclose(found[1][0], [1.6061, 2.0303], atol=5e-5)
    wide = output_bounds(model, low, high, method="interval")
    np.testing.assert_allclose(wide[1][0], [2.1667, 2.9583], atol=5e-5)


def test_on_triangular_matrices_interval_bounds_are_those_of_gowal() -> None:
    model = mlp()
    u = torch.randn(5, 4, dtype=torch.float64)
    low, high = (u - 0.1).numpy(), (u + 0.1).numpy()
    for number, (W, b) in enumerate(layers(model)):
        centre, radius = (low + high) / 2 @ W.T + b, (high - low) / 2 @ abs(W).T
        low, high = centre - radius, centre + radius
        if number < 2:
            low, high = np.maximum(low, 0), np.maximum(high, 0)
    found = output_bounds(model, u - 0.1, u + 0.1, method="interval")
    np.testing.assert_allclose(found[0], low, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(found[1], high, rtol=1e-11, atol=1e-11)


def relu_lines(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slope and offset of the chord of relu, and the slope of the line below."""
    width = np.where(high > low, high - low, 1.0)
    chord = np.where(low >= 0, 1.0, np.where(high <= 0, 0.0, high / width))
    offset = np.where((low < 0) & (high > 0), -chord * low, 0.0)
    return chord, offset, np.where(low >= 0, 1.0, np.where(high <= 0, 0.0, (high > -low).astype(float)))


def crown_by_hand(model: nn.Module, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """CROWN (Zhang et al. 2018) of a network with relu, layer after layer, for one sample."""
    parts = layers(model)
    boxes: list[tuple[np.ndarray, np.ndarray]] = []

    def upper(rows: np.ndarray, depth: int) -> np.ndarray:
        W, b = parts[depth]
        k, total = rows @ W, rows @ b
        for layer in reversed(range(depth)):
            chord, offset, below = relu_lines(*boxes[layer])
            total = total + np.maximum(k, 0) @ offset
            k = np.where(k >= 0, k * chord, k * below)
            W, b = parts[layer]
            k, total = k @ W, total + k @ b
        return total + np.maximum(k, 0) @ high + np.minimum(k, 0) @ low

    x = low, high
    for depth, (W, b) in enumerate(parts):  # each is cut by the interval bounds from the one before
        centre, radius = W @ (x[0] + x[1]) / 2 + b, abs(W) @ (x[1] - x[0]) / 2
        unit = np.eye(len(W))
        below, above = -upper(-unit, depth), upper(unit, depth)
        boxes.append((np.maximum(below, centre - radius), np.minimum(above, centre + radius)))
        x = np.maximum(boxes[-1][0], 0), np.maximum(boxes[-1][1], 0)
    return boxes[-1]


@pytest.mark.parametrize("seed", range(3))
def test_on_feedforward_networks_it_is_crown(seed: int) -> None:
    model = mlp(seed=seed)
    u = torch.randn(4, 4, dtype=torch.float64)
    found = output_bounds(model, u - 0.1, u + 0.1, method="crown", tighten=1)
    for k in range(4):
        low, high = crown_by_hand(model, (u[k] - 0.1).numpy(), (u[k] + 0.1).numpy())
        np.testing.assert_allclose(found[0][k], low, atol=1e-8)
        np.testing.assert_allclose(found[1][k], high, atol=1e-8)


def test_around_a_loop_the_backward_pass_solves_its_equation() -> None:
    """Implicit CROWN without tightening, from its own definition: w = c + Aᵀ k(w), by many steps."""
    model = loop(seed=5)
    u = torch.randn(1, 3, dtype=torch.float64)
    low, high = u - 0.1, u + 0.1
    network = network_for(model, low)
    region = box(network.system.inputs, low, high)
    boxes = boxes_for(network, region, "nemon", Effort())
    system = network.system
    A, B = (matrix.to_scipy().toarray() for matrix in (system.A, system.B))
    C, D = (matrix.to_scipy().toarray() for matrix in (system.C, system.D))
    chord, offset, below = relu_lines(*(end[0] for end in boxes.slots["x"]))
    for row in range(2):
        w = np.zeros(6)
        for _ in range(2_000):
            w = C[row] + np.where(w >= 0, chord * w, below * w) @ A
        k = np.where(w >= 0, chord * w, below * w)
        g = k @ B + D[row]
        wanted = k @ system.b + np.maximum(w, 0) @ offset + system.d[row]
        wanted += np.maximum(g, 0) @ high[0].numpy() + np.minimum(g, 0) @ low[0].numpy()
        found = output_bounds(model, low, high, method="crown", tighten=0)[1][0, row]
        assert float(found) == pytest.approx(wanted, abs=1e-7)
