"""Images and linear bounds of all registered activations hold on random boxes, and are close."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import CASES, Case
from test_operators import ACTIVATIONS, ELEMENTWISE, within, without_masks

from implicit_dsl.operators import activation_rule
from implicit_dsl.operators.base import Operator
from implicit_dsl.operators.elementwise import Elementwise
from implicit_dsl.shapes import sizes

law = settings(max_examples=15, deadline=None)
WIDTHS = st.sampled_from([0.0, 1e-7, 0.1, 1.0, 6.0])


def box(case: Case, width: float, batch: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A box of the slots within the domain, and points in it, [points, batch, *source]."""
    op, rng = case.operator, case.numbers()
    shape = (batch, *sizes(op.source))
    lower = within(op, rng.normal(size=shape))
    size = without_masks(op, width * rng.random(shape) * (rng.random(shape) > 0.2))
    upper = within(op, lower + size)
    shares = rng.random((40, *shape))
    shares[:8], shares[8:16] = np.round(shares[:8]), 0.5
    return lower, upper, np.clip(lower + shares * (upper - lower), lower, upper)


@pytest.mark.parametrize("kind", ACTIVATIONS)
@given(data=st.data())
@law
def test_images_and_lines_hold(kind: str, data: st.DataObject) -> None:
    case = data.draw(CASES[kind])
    operator = case.operator
    rule = activation_rule(operator)
    lower, upper, points = box(case, data.draw(WIDTHS))
    batch = len(lower)
    low, high = rule.image(operator, lower, upper)
    lines = rule.lines(operator, lower, upper)
    assert len(lines.index) <= rule.reads(operator)
    flat_low, flat_high = low.reshape(batch, -1), high.reshape(batch, -1)
    for z in points:
        x = rule.reference(operator, z).reshape(batch, -1)
        if not np.isfinite(x).all():
            continue
        assert (flat_low <= x).all() and (x <= flat_high).all()
        read = z.reshape(batch, -1)[:, lines.index]
        assert all((one.at(read) <= x + 1e-15 * (1 + np.abs(x))).all() for one in lines.below)
        assert all((x <= one.at(read) + 1e-15 * (1 + np.abs(x))).all() for one in lines.above)


@pytest.mark.parametrize("kind", ELEMENTWISE)
@given(data=st.data())
@law
def test_lines_are_closer_than_constants(kind: str, data: st.DataObject) -> None:
    """The area between the first lines is no more than that between the values at the ends."""
    case = data.draw(CASES[kind])
    operator = case.operator
    rule = activation_rule(operator)
    assert isinstance(rule, Elementwise)
    if rule.turns(operator) is None:
        return
    lower, upper, _ = box(case, data.draw(WIDTHS))
    lines = rule.lines(operator, lower, upper)
    middle = ((lower + upper) / 2).reshape(len(lower), 1, -1)
    low, high = (bound.reshape(len(lower), -1) for bound in rule.image(operator, lower, upper))
    gap = lines.above[0].at(middle) - lines.below[0].at(middle)
    assert (gap <= (high - low) * (1 + 1e-6) + 1e-9).all()


def test_the_lines_of_relu_and_tanh_are_those_of_the_literature() -> None:
    relu = Operator("relu", (3,), (3,))
    lower, upper = np.array([[-1.0, -3.0, 1.0]]), np.array([[2.0, 1.0, 2.0]])
    lines = activation_rule(relu).lines(relu, lower, upper)
    np.testing.assert_allclose(lines.above[0].slope[0, 0], [2 / 3, 1 / 4, 1])
    np.testing.assert_allclose(lines.above[0].offset[0], [2 / 3, 3 / 4, 0], atol=1e-11)
    np.testing.assert_allclose(lines.below[0].slope[0, 0], [1, 0, 1])
    np.testing.assert_allclose(lines.below[1].slope[0, 0], [0, 1, 1])
    tanh = Operator("tanh", (2,), (2,))
    lower, upper = np.array([[0.5, -3.0]]), np.array([[1.5, 2.0]])
    lines = activation_rule(tanh).lines(tanh, lower, upper)
    # concave: the tangent in the middle above, the chord below
    assert lines.above[0].slope[0, 0, 0] == pytest.approx(1 - np.tanh(1) ** 2, abs=1e-2)
    assert lines.below[0].slope[0, 0, 0] == pytest.approx(np.tanh(1.5) - np.tanh(0.5), abs=1e-9)
    # across the turning point: through the left end, and tangent on the right
    slope, offset = lines.above[0].slope[0, 0, 1], lines.above[0].offset[0, 1]
    assert offset - 3 * slope == pytest.approx(np.tanh(-3), abs=5e-3)
