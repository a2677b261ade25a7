"""How close linear bounds are; those of softmax, normalisation and attention against references.

That they hold on random boxes is tested with those of all activations, in `test_relaxation`.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from bounded import assert_within, samples
from scipy.optimize import linprog
from torch import Tensor

import implicit_dsl
from implicit_dsl.analysis import certified_accuracy, output_bounds
from implicit_dsl.analysis.pulling import pulled_back
from implicit_dsl.operators import activation_rule
from implicit_dsl.operators.attention import Attend
from implicit_dsl.operators.base import Operator, Setting
from implicit_dsl.operators.joint import LARGEST
from implicit_dsl.shapes import count

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
NORM = (("affine", False), ("eps", 1e-5))


def alone(kind: str, shape: tuple[int, ...], *settings: tuple[str, Setting]) -> Operator:
    return Operator(kind, shape, shape, tuple(sorted(settings)))


def attention(*shapes: tuple[int, ...], heads: int = 1, causal: bool = False) -> Operator:
    return Attend().join({"heads": heads, "causal": causal}, shapes)


CASES = {
    "softmax": alone("softmax", (3, 5)),
    "softmax over the first axis": alone("softmax", (5, 3), ("dim", 1)),
    "log_softmax": alone("log_softmax", (3, 5)),
    "layer_norm": alone("layer_norm", (3, 5), *NORM),
    "rms_norm": alone("rms_norm", (3, 5), *NORM),
    "group_norm": alone("group_norm", (4, 3), ("groups", 2), *NORM),
    "instance_norm": alone("instance_norm", (2, 3, 3), *NORM),
    "attend": attention((4, 6), (5, 6), (5, 8), heads=2),
    "causal attend": attention((4, 6), (4, 6), (4, 8), heads=2, causal=True),
    "quotient": Operator("quotient", (2, 4), (4,)),
    "product": Operator("product", (2, 4), (4,)),
    **{kind: alone(kind, (8,)) for kind in ("sin", "cos", "exp", "log", "sqrt", "tanh", "gelu", "softsign")},
    **{f"power {p}": alone("power", (8,), ("exponent", p)) for p in (3, 2, 1.5, -1, -0.5)},
    "reciprocal": alone("reciprocal", (8,), ("numerator", -2.0)),
}


def gap(operator: Operator, middle: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Between the first lines in the middle of a box, and between the ends of the image."""
    rule = activation_rule(operator)
    lower, upper = middle - width / 2, middle + width / 2
    lines = rule.lines(operator, lower, upper)
    read = middle.reshape(len(middle), -1)[:, lines.index]
    low, high = rule.image(operator, lower, upper)
    return lines.above[0].at(read) - lines.below[0].at(read), (high - low).reshape(len(middle), -1)


@pytest.mark.parametrize("name", CASES)
def test_lines_are_off_by_the_square_of_the_width(name: str) -> None:
    """An image is off by the width itself: lines are closer on small boxes."""
    operator = CASES[name]
    middle = RNG.normal(size=(20, *operator.source))
    if activation_rule(operator).domain(operator)[0] == 0:
        middle = 1 + np.abs(middle)
    wide, image = gap(operator, middle, 0.02)
    narrow, _ = gap(operator, middle, 0.002)
    assert np.median(wide / image) < 0.05
    assert np.median(wide / narrow) > 50


@pytest.mark.parametrize("kind", ["softmax", "log_softmax"])
def test_images_of_softmax_are_reached_in_corners(kind: str) -> None:
    operator = alone(kind, (4,))
    rule = activation_rule(operator)
    lower = RNG.normal(size=(6, 4))
    upper = lower + RNG.random((6, 4))
    corners = [rule.reference(operator, np.where(which, upper, lower)) for which in product((0, 1), repeat=4)]
    low, high = rule.image(operator, lower, upper)
    np.testing.assert_allclose(low, np.min(corners, 0), atol=1e-12)
    np.testing.assert_allclose(high, np.max(corners, 0), atol=1e-12)


def test_images_of_normalisation_are_close_on_wide_boxes() -> None:
    """Where derivatives are as large as 1/√ε, and say nothing: the sign and the scale of the values count."""
    operator = alone("layer_norm", (4,), *NORM)
    lower = np.array([[5.0, -6.0, -0.5, -0.5]])
    upper = np.array([[6.0, -5.0, 0.5, 0.5]])
    points = lower + RNG.random((4_000, 4)) * (upper - lower)
    y = activation_rule(operator).reference(operator, points)
    low, high = (end[0] for end in activation_rule(operator).image(operator, lower, upper))
    assert ((high - low) < 2.2 * (y.max(0) - y.min(0))).all()


def test_images_of_attention_are_the_largest_means_there_are() -> None:
    """Against linear programs over weights within their bounds that add up to 1."""
    operator = attention((3, 4), (5, 4), (5, 2))
    rule = Attend()
    lower = RNG.normal(size=(2, *operator.source))
    box = rule._on(operator, lower, lower + RNG.random(lower.shape))
    (least, most), (low, high) = box.weights, box.v
    for sample, query, feature in product(range(2), range(3), range(2)):
        limits = list(zip(least[sample, query], most[sample, query]))
        for sign, values, end in ((1, low, box.ends[0]), (-1, high, box.ends[1])):
            found = linprog(
                sign * values[sample, :, feature], A_eq=np.ones((1, 5)), b_eq=[1.0], bounds=limits
            )
            assert end[sample, query, feature] == pytest.approx(sign * found.fun, abs=1e-9)


def test_masks_that_are_not_known_have_bounds() -> None:
    model = implicit_dsl.loads("""
model Masked
    input u[4, 3], m[4]
    output y[4, 3] = attend(u, u, u; mask = m)
end
""").Masked(dtype=torch.float64)
    u = torch.randn(2, 4, 3, dtype=torch.float64)
    none, all_of_them = torch.zeros(2, 4, dtype=torch.float64), torch.ones(2, 4, dtype=torch.float64)
    bounds = output_bounds(model, [u - 0.1, none], [u + 0.1, all_of_them])
    for which in product((0.0, 1.0), repeat=4):
        mask = torch.tensor([which, which], dtype=torch.float64)
        assert_within(model, samples([u - 0.1, mask], [u + 0.1, mask], 10, 0), *bounds)
    seen = output_bounds(model, [u - 0.1, all_of_them], [u + 0.1, all_of_them])
    assert bool((seen[1] - seen[0] <= bounds[1] - bounds[0] + 1e-9).all())


def test_sets_that_are_large_keep_their_images() -> None:
    operator = alone("softmax", (LARGEST + 1,))
    rule = activation_rule(operator)
    lower = RNG.normal(size=(2, LARGEST + 1))
    lines, (low, high) = rule.lines(operator, lower, lower + 1), rule.image(operator, lower, lower + 1)
    assert len(lines.index) == rule.reads(operator) == 0
    np.testing.assert_array_equal(lines.below[0].offset, low)
    np.testing.assert_array_equal(lines.above[0].offset, high)


ENCODER = """
model Encoder
    input u[6, 4]
    state e[6, 8] ~ LayerNorm()(Dense(4 => 8) * u)
    state a[6, 8] ~ attend(Dense(8) * e, Dense(8) * e, Dense(8) * e; heads = 2)
    state r[6, 8] ~ RMSNorm()(e + Dense(8) * a)
    state h[6, 12] ~ gelu(Dense(12) * r)
    state p[6, 8] ~ softmax(r + Dense(8) * h)
    output y[3] = Dense(3) * flatten(p)
end
"""


@pytest.fixture
def encoder() -> torch.nn.Module:
    torch.manual_seed(0)
    return implicit_dsl.loads(ENCODER).Encoder(dtype=torch.float64).eval()


def test_backward_bounds_of_an_encoder_layer_are_close(encoder: torch.nn.Module) -> None:
    u = torch.randn(3, 6, 4, dtype=torch.float64)
    low, high = u - 0.01, u + 0.01
    points = samples([low], [high], 100, 0)
    widths: dict[str, Tensor] = {}
    for method in ("interval", "crown"):
        bounds = output_bounds(encoder, low, high, method=method)
        assert_within(encoder, points, *bounds)
        widths[method] = bounds[1] - bounds[0]
    assert bool((widths["crown"] < 0.2 * widths["interval"]).all())
    with torch.no_grad():
        y = torch.stack([encoder(*point) for point in points])
    assert float((widths["crown"] / (y.amax(0) - y.amin(0))).mean()) < 8


def test_an_encoder_layer_is_certified_where_intervals_say_nothing(encoder: torch.nn.Module) -> None:
    u = torch.randn(8, 6, 4, dtype=torch.float64)
    labels = encoder(u).argmax(1)
    shares = [
        certified_accuracy(encoder, u, labels, 0.01, method=method).certified
        for method in ("interval", "crown")
    ]
    assert shares[0] < shares[1] and shares[1] >= 0.5


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shared", [False, True])
def test_rows_are_pulled_through_lines_as_through_matrices(name: str, shared: bool) -> None:
    """Sets by one product of matrices, others place by place: against the matrix of each line."""
    operator = CASES[name]
    rule = activation_rule(operator)
    lower = 1 + RNG.random((3, *operator.source))
    lines = rule.lines(operator, lower, lower + 0.1)
    states, slots = lines.index.shape[1], count(operator.source)
    used = [
        (line, RNG.normal(size=(3, 4, states))) for line in (*lines.above, *lines.below)[: 4 if shared else 1]
    ]
    expected = np.zeros((3, 4, slots))
    for line, part in used:
        matrix = np.zeros((3, states, slots))
        for place, index in enumerate(lines.index):
            matrix[:, np.arange(states), index] += line.slope[:, place]
        expected += part @ matrix
    np.testing.assert_allclose(pulled_back(lines, used, slots), expected, atol=1e-12)
    assert (lines.sets is not None) == (name.split()[0] in ("softmax", "log_softmax") or "_norm" in name)
