"""Laws that each registered operator keeps: its matrix, its emission, its majorant and its slopes agree."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import CASES, Case
from torch import nn

from implicit_dsl import runtime
from implicit_dsl.operators import OPERATORS, activation_rule, linear_rule
from implicit_dsl.operators.base import ActivationRule, Entries, Expression, LinearRule, Operator, ShapeError
from implicit_dsl.operators.structured import set_of
from implicit_dsl.runtime.structures import weight_of
from implicit_dsl.shapes import count, sizes

torch.set_num_threads(1)

LINEAR = sorted(kind for kind, rule in OPERATORS.items() if isinstance(rule, LinearRule))
ACTIVATIONS = sorted(kind for kind, rule in OPERATORS.items() if isinstance(rule, ActivationRule))
ELEMENTWISE = sorted(kind for kind in ACTIVATIONS if activation_rule(Operator(kind, (), ())).elementwise)
BOUNDED = [kind for kind in ELEMENTWISE if activation_rule(Operator(kind, (), ())).has_useful_majorant]
TOLERANCE = 1e-12
BATCH = 3
LENGTHS = ("upto", "at_step", "reverse_upto")
CONSTANT = ("offset", "constant", "timed_constant")
SEVERAL = sorted(kind for kind in ACTIVATIONS if len(activation_rule(Operator(kind, (), ())).arguments) > 1)

law = settings(max_examples=20, deadline=None)
linear_kinds = pytest.mark.parametrize("kind", LINEAR)
activation_kinds = pytest.mark.parametrize("kind", ACTIVATIONS)


def same(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


def dense(parts: tuple[Entries, ...], shape: tuple[int, int], weights: dict[str, np.ndarray]) -> np.ndarray:
    """The matrix that triplets stand for."""
    matrix = np.zeros(shape)
    for part in parts:
        np.add.at(matrix, (part.rows, part.cols), part.values(weights))
    return matrix


def matrix_of(case: Case) -> np.ndarray:
    op, weights = case.operator, case.weights()
    return dense(linear_rule(op).entries(op, weights), (count(op.target), count(op.source)), weights)


def offset_of(case: Case) -> np.ndarray:
    op, weights = case.operator, case.weights()
    return dense(linear_rule(op).offsets(op, weights), (count(op.target), 1), weights)[:, 0]


def tensors_of(case: Case) -> dict[str, torch.Tensor]:
    return {role: torch.from_numpy(array) for role, array in case.weights().items()}


def used_of(case: Case) -> dict[str, torch.Tensor]:
    """The tensors that the texts of an expression stand for: of a matrix in a set, the matrix."""
    tensors = tensors_of(case)
    if case.operator.kind != "structured":
        return tensors
    return {"weight": weight_of(set_of(case.operator), tensors["weight"])}


def vectors(case: Case, *shapes: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    rng = case.numbers()
    return tuple(torch.from_numpy(rng.normal(size=shape)) for shape in shapes)


def inputs_of(case: Case) -> torch.Tensor:
    """Values [batch, *source]: numbers, unit vectors where tokens are taken, and ones for constants."""
    (x,) = vectors(case, (BATCH, *sizes(case.operator.source)))
    if OPERATORS[case.operator.kind].takes_tokens:
        return F.one_hot(x.argmax(-1), x.shape[-1]).double()
    return torch.ones_like(x) if case.operator.kind in CONSTANT else x


def given_to(case: Case, x: torch.Tensor) -> torch.Tensor:
    """What generated code gets for values [batch, *source]."""
    return x.argmax(-1) if OPERATORS[case.operator.kind].takes_tokens else x


def layer_of(case: Case) -> Any:
    """What holds the tensors in a generated module, in evaluation mode, with the weights of the case."""
    holder = OPERATORS[case.operator.kind].holder(case.operator)
    if case.operator.kind in ("affine", "slopes"):  # the layer of an activation holds its tensors
        return SimpleNamespace(**tensors_of(case))
    if holder is None:
        return used_of(case).get("weight")
    layer = eval(holder, {"nn": nn}).double().eval()
    layer.load_state_dict(tensors_of(case), strict=False)  # batch normalisation also counts its batches
    return layer


def emitted(case: Case, x: torch.Tensor) -> torch.Tensor:
    """The value of the generated expression, [batch, *target]."""
    op, rule = case.operator, OPERATORS[case.operator.kind]
    module = nn.Module().eval()
    if isinstance(rule, LinearRule):
        object.__setattr__(module, "layer", layer_of(case))
        text = rule.emit(op, Expression("x"), "self.layer").text
    else:
        text = activation_rule(op).emit(op, Expression("x")).text
    names = {"torch": torch, "F": F, "math": math, "runtime": runtime, "self": module, "x": given_to(case, x)}
    value = torch.as_tensor(eval(text, names), dtype=torch.float64)
    return value.expand(len(x), *sizes(op.target))


def written(case: Case, x: torch.Tensor, roles: set[str]) -> torch.Tensor | None:
    """The value of the expression with the tensors of these roles written out, [batch, *target]."""
    op, rule = case.operator, linear_rule(case.operator)
    texts = {role: f"w[{role!r}]" for role in case.tensors if role in roles}
    expression = rule.emit_with(op, Expression("x"), texts)
    names = {
        "torch": torch,
        "F": F,
        "math": math,
        "runtime": runtime,
        "w": used_of(case),
        "x": given_to(case, x),
    }
    value = eval(expression.text, names)
    return torch.as_tensor(value, dtype=torch.float64).expand(len(x), *sizes(op.target))


def within(op: Operator, z: np.ndarray) -> np.ndarray:
    """Numbers for which an activation is a number, and not steep without end."""
    low, _ = activation_rule(op).domain(op)
    return z if np.isinf(low) else np.asarray(low + 0.5 + np.abs(z))


def without_masks(op: Operator, change: np.ndarray) -> np.ndarray:
    """The change of an activation's arguments, where masks and lengths stay as they are."""
    rule = activation_rule(op)
    if op.kind in LENGTHS:
        return np.where(np.arange(count(op.source)) < 1, 0.0, change)
    if len(rule.slots(op)) == len(rule.arguments):
        return change
    kept = sum(count(shape) for shape in rule.slots(op)[: len(rule.arguments)])
    moves = np.arange(count(op.source)).reshape(sizes(op.source)) < kept
    return np.where(moves, change, 0.0)


def steps() -> tuple[np.ndarray, np.ndarray]:
    """Pairs of neighbouring numbers: close ones around zero, and others far out."""
    grids = (np.linspace(-4, 4, 8001), np.linspace(-2000, 2000, 8001))
    return np.concatenate([g[:-1] for g in grids]), np.concatenate([g[1:] for g in grids])


def test_each_rule_is_exercised() -> None:
    assert set(CASES) == set(OPERATORS)


@linear_kinds
@law
@given(data=st.data())
def test_matrix_and_offset_are_the_emitted_layer(kind: str, data: st.DataObject) -> None:
    case = data.draw(CASES[kind])
    x = inputs_of(case)

    expected = emitted(case, x).detach().numpy().reshape(BATCH, -1)

    same(x.numpy().reshape(BATCH, -1) @ matrix_of(case).T + offset_of(case), expected)


@linear_kinds
@law
@given(data=st.data())
def test_an_expression_with_explicit_tensors_is_the_layer(kind: str, data: st.DataObject) -> None:
    case = data.draw(CASES[kind])
    x = inputs_of(case)

    same(written(case, x, set(case.tensors)).numpy(), emitted(case, x).detach().numpy())


@linear_kinds
@law
@given(data=st.data())
def test_what_makes_the_offset_can_be_left_out_and_written_alone(kind: str, data: st.DataObject) -> None:
    case = data.draw(CASES[kind])
    op, rule = case.operator, linear_rule(case.operator)
    x = inputs_of(case)
    texts = {role: f"w[{role!r}]" for role in case.tensors}
    offset = rule.emit_offset(op, texts)
    value = (
        0.0 if offset is None else eval(offset.text, {"torch": torch, "math": math, "w": tensors_of(case)})
    )

    linear = written(case, x, set(case.tensors) - set(rule.offset_roles))

    same(linear.reshape(BATCH, -1), x.reshape(BATCH, -1).numpy() @ matrix_of(case).T)
    same(torch.as_tensor(value).expand(op.target).reshape(-1), offset_of(case))


@law
@given(case=CASES["dropout"])
def test_a_mask_multiplies(case: Case) -> None:
    op = case.operator
    x, mask = vectors(case, *[(BATCH, *sizes(op.source))] * 2)
    text = linear_rule(op).emit_with(op, Expression("x"), {"mask": "mask"}).text

    same(eval(text, {"x": x, "mask": mask}), x * mask)


@linear_kinds
@law
@given(data=st.data())
def test_gain_bounds_the_rows_of_the_matrix(kind: str, data: st.DataObject) -> None:
    case = data.draw(CASES[kind])
    op = case.operator
    bounds = {}
    for role, id in op.parameters:
        weight = used_of(case)[role].abs().numpy()
        if weight.ndim:
            bounds[id] = float(weight.reshape(len(weight), -1).sum(1).max())
        if weight.ndim > 1:
            turned = weight.swapaxes(0, 1)
            bounds[f"{id}'"] = float(turned.reshape(len(turned), -1).sum(1).max())

    gain = linear_rule(op).gain(op, bounds)

    if gain is None:
        assert kind in ("batch_norm", "structured", "offset", "diagonal", "slopes", "embedding", "lookup")
    else:
        assert np.abs(matrix_of(case)).sum(1).max() <= gain * (1 + TOLERANCE)


@linear_kinds
@law
@given(data=st.data())
def test_the_transpose_of_an_operator_has_the_transposed_matrix(kind: str, data: st.DataObject) -> None:
    case = data.draw(CASES[kind])
    try:
        turned = linear_rule(case.operator).transpose(case.operator)
    except ShapeError:
        assert any(more >= s for more, s in zip(case.operator["output_pad"], case.operator["stride"]))
        return
    if turned is None:
        return
    role = dict(case.operator.parameters)
    held = ("weight",) if "weight" in role else ()
    turned = replace(turned, parameters=tuple((name, role[name]) for name in held))
    weights = {name: case.weights()[name] for name in held}
    shape = (count(turned.target), count(turned.source))
    made = dense(linear_rule(turned).entries(turned, weights), shape, weights)
    (x,) = vectors(case, (BATCH, *sizes(turned.source)))

    same(made, matrix_of(case).T)
    if held:
        assert linear_rule(turned).transposed(turned) != linear_rule(case.operator).transposed(case.operator)
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    text = linear_rule(turned).emit_with(turned, Expression("x"), dict.fromkeys(held, "W")).text
    value = eval(text, {"F": F, "runtime": runtime, "x": x, "W": tensors.get("weight")})
    same(value.numpy().reshape(BATCH, -1), x.numpy().reshape(BATCH, -1) @ made.T)
    same(linear_rule(turned).apply(turned, x, tensors), value)
    bounds = {"layer.weight'": 0.0, "layer.weight": 0.0}
    if held:  # of the rows of the transpose
        W = np.abs(weights["weight"])
        bounds = {"layer.weight'": W.sum(tuple(axis for axis in range(W.ndim) if axis != 1)).max()}
        bounds["layer.weight"] = W.reshape(len(W), -1).sum(1).max()
    gain = linear_rule(turned).gain(turned, bounds)
    assert gain is not None and np.abs(made).sum(1).max() <= gain * (1 + TOLERANCE)
    assert len(linear_rule(turned).entries(turned, weights)[0].rows) == linear_rule(turned).entry_count(
        turned
    )
    again = linear_rule(turned).transpose(turned)
    assert again is not None
    same(dense(linear_rule(again).entries(again, weights), shape[::-1], weights), matrix_of(case))


@law
@given(case=CASES["matrix"])
def test_the_bound_of_a_transposed_matrix_has_a_name_of_its_own(case: Case) -> None:
    op, W = case.operator, case.weights()["weight"]
    rows, columns = float(np.abs(W).sum(1).max()), float(np.abs(W).sum(0).max())
    bounds = {"layer.weight": rows, "layer.weight'": columns}

    same(linear_rule(op).gain(op, bounds), np.abs(matrix_of(case)).sum(1).max())
    assert not op["transposed"] or linear_rule(op).gain(op, {"layer.weight": rows}) is None


@law
@given(case=CASES["place"])
def test_place_is_a_part_of_a_concatenation(case: Case) -> None:
    op = case.operator
    (x,) = vectors(case, (BATCH, *sizes(op.source)))
    axis, start = op["axis"] + 1, op["start"]
    before, after = list(x.shape), list(x.shape)
    before[axis], after[axis] = start, sizes(op.target)[axis - 1] - start - x.shape[axis]
    whole = torch.cat([x.new_zeros(before), x, x.new_zeros(after)], dim=axis)

    same(x.numpy().reshape(BATCH, -1) @ matrix_of(case).T, whole.numpy().reshape(BATCH, -1))


@linear_kinds
@law
@given(data=st.data())
def test_apply_is_the_matrix(kind: str, data: st.DataObject) -> None:
    case = data.draw(CASES[kind])
    op = case.operator
    (x,) = vectors(case, (BATCH, *sizes(op.source)))

    applied = linear_rule(op).apply(op, x, tensors_of(case))

    assert applied.shape == (BATCH, *sizes(op.target))
    same(applied.numpy().reshape(BATCH, -1), x.numpy().reshape(BATCH, -1) @ matrix_of(case).T)


@linear_kinds
@law
@given(data=st.data())
def test_adjoint_law(kind: str, data: st.DataObject) -> None:
    """⟨A v, w⟩ = ⟨v, Aᵀ w⟩, with Aᵀ by automatic differentiation of `apply`."""
    case = data.draw(CASES[kind])
    op = case.operator
    v, w = vectors(case, (BATCH, *sizes(op.source)), (BATCH, *sizes(op.target)))
    point = torch.zeros_like(v, requires_grad=True)
    made = linear_rule(op).apply(op, point, tensors_of(case))
    pulled = torch.autograd.grad(made, point, w)[0]

    image = linear_rule(op).apply(op, v, tensors_of(case))

    same((image * w).sum(), (v * pulled).sum())
    same(pulled.numpy().reshape(BATCH, -1), w.numpy().reshape(BATCH, -1) @ matrix_of(case))


@linear_kinds
@law
@given(data=st.data())
def test_absolute_is_entrywise(kind: str, data: st.DataObject) -> None:
    case = data.draw(CASES[kind])
    op, weights = linear_rule(case.operator).absolute(case.operator, tensors_of(case))
    arrays = {role: tensor.numpy() for role, tensor in weights.items()}
    shape = (count(op.target), count(op.source))
    made, exact = dense(linear_rule(op).entries(op, arrays), shape, arrays), np.abs(matrix_of(case))

    if linear_rule(op).overlap(op) == 1:
        same(made, exact)
    else:
        assert np.all(made >= exact * (1 - TOLERANCE))


@linear_kinds
@law
@given(data=st.data())
def test_entry_count_is_exact_and_positions_are_distinct(kind: str, data: st.DataObject) -> None:
    """Distinct positions are what lets |op| be taken parameter by parameter; `overlap` tells where not."""
    case = data.draw(CASES[kind])
    op = case.operator
    parts = linear_rule(op).entries(op, case.weights())
    places = [(row, col) for part in parts for row, col in zip(part.rows.tolist(), part.cols.tolist())]

    assert len(places) == linear_rule(op).entry_count(op)
    assert max(Counter(places).values(), default=1) <= linear_rule(op).overlap(op)
    for part in linear_rule(op).offsets(op, case.weights()):
        assert len(np.unique(part.rows)) == len(part.rows)
    shifts = sum(len(part.rows) for part in linear_rule(op).offsets(op, case.weights()))
    assert shifts == linear_rule(op).offset_count(op)


@linear_kinds
@law
@given(data=st.data())
def test_parameters_are_those_of_the_module(kind: str, data: st.DataObject) -> None:
    case = data.draw(CASES[kind])
    rule, op = OPERATORS[kind], case.operator
    text = rule.holder(op)
    if text is None:
        assert all(spec.initialiser is not None for spec in rule.parameters(op))
        return
    layer = eval(text, {"nn": nn})
    trained = {name for name, _ in layer.named_parameters()}
    held = {
        name: tuple(tensor.shape)
        for name, tensor in layer.state_dict().items()
        if name != "num_batches_tracked"
    }

    assert {spec.role: spec.shape for spec in rule.parameters(op)} == held
    assert {spec.role for spec in rule.parameters(op) if spec.trainable} == trained


@activation_kinds
@law
@given(data=st.data())
def test_reference_is_the_emitted_activation(kind: str, data: st.DataObject) -> None:
    case = data.draw(CASES[kind])
    op = case.operator
    (z,) = vectors(case, (BATCH, *sizes(op.source)))

    made = activation_rule(op).reference(op, 3 * z.numpy())

    assert made.shape == (BATCH, *sizes(op.target))
    same(made, emitted(case, 3 * z).numpy())


@activation_kinds
@law
@given(data=st.data())
def test_majorant_is_sound(kind: str, data: st.DataObject) -> None:
    case = data.draw(CASES[kind])
    op, rule = case.operator, activation_rule(case.operator)
    shape = (20, *sizes(op.source))
    u, change = (part.numpy() for part in vectors(case, shape, shape))
    v = u + change * 10.0 ** case.numbers().integers(-3, 2, shape)
    u, v = within(op, u), within(op, v)

    moved = np.abs(rule.reference(op, u) - rule.reference(op, v))

    assert np.all(moved <= rule.majorant(op, np.abs(u - v)) * (1 + TOLERANCE) + 1e-15)


@pytest.mark.parametrize("kind", BOUNDED)
@law
@given(data=st.data())
def test_majorant_is_nearly_attained(kind: str, data: st.DataObject) -> None:
    case = data.draw(CASES[kind])
    rule, op = activation_rule(case.operator), case.operator
    u, v = steps()
    ratio = np.abs(rule.reference(op, u) - rule.reference(op, v)) / rule.majorant(op, np.abs(u - v))

    assert 1 - 1e-3 < ratio.max() <= 1 + TOLERANCE


@pytest.mark.parametrize("kind", BOUNDED)
@law
@given(data=st.data())
def test_slopes_lie_between_their_bounds_and_come_close_to_both(kind: str, data: st.DataObject) -> None:
    case = data.draw(CASES[kind])
    rule, op = activation_rule(case.operator), case.operator
    bounds = rule.slope(op)
    assert bounds is not None
    low, high = bounds
    u, v = steps()
    points = np.concatenate([u, [1e-9, -1e-9, 3 - 1e-9, 1e-9 - 3]])  # beside kinks
    slopes, tangents = (
        (rule.reference(op, v) - rule.reference(op, u)) / (v - u),
        rule.vjp(op, points, 1 + 0 * points),
    )

    assert low - TOLERANCE <= min(slopes.min(), tangents.min()) and tangents.min() < low + 1e-6
    assert high + TOLERANCE >= max(slopes.max(), tangents.max()) and tangents.max() > high - 1e-6
    assert rule.gain(op) == max(-low, high)


@activation_kinds
@law
@given(data=st.data())
def test_gain_bounds_what_is_changed(kind: str, data: st.DataObject) -> None:
    """It is a bound in the ∞-norm, and not below the majorant's."""
    case = data.draw(CASES[kind])
    op, rule = case.operator, activation_rule(case.operator)
    shape = (20, *sizes(op.source))
    u, change = (part.numpy() for part in vectors(case, shape, shape))
    v = u + change * 10.0 ** case.numbers().integers(-3, 2, shape)
    gain, axes = rule.gain(op), tuple(range(1, len(shape)))

    if gain is None:
        assert not rule.has_useful_majorant
        return
    moved = np.abs(rule.reference(op, u) - rule.reference(op, v)).reshape(20, -1).max(1)
    assert np.all(moved <= gain * np.abs(u - v).max(axes) * (1 + TOLERANCE) + 1e-15)
    bounded = rule.majorant(op, np.ones((1, *shape[1:])))
    assert np.all(bounded <= gain * (1 + TOLERANCE))


@activation_kinds
@law
@given(data=st.data())
def test_values_lie_in_the_range(kind: str, data: st.DataObject) -> None:
    case = data.draw(CASES[kind])
    op, rule = case.operator, activation_rule(case.operator)
    (z,) = vectors(case, (BATCH, *sizes(op.source)))
    made = np.concatenate([rule.reference(op, 10.0**power * z.numpy()) for power in (-1, 0, 1, 3)])
    bounds = rule.range(op)

    if bounds is not None:
        assert bounds[0] - TOLERANCE <= made.min() and made.max() <= bounds[1] + TOLERANCE


@activation_kinds
@law
@given(data=st.data())
def test_the_majorant_on_a_box_is_sound_within_it(kind: str, data: st.DataObject) -> None:
    case = data.draw(CASES[kind])
    op, rule, rng = case.operator, activation_rule(case.operator), case.numbers()
    shape = (20, *sizes(op.source))
    lower, size = rng.normal(size=shape), np.abs(rng.normal(size=shape))
    size *= rng.random(shape) > 0.2  # some sides have no length
    lower, size = within(op, lower), without_masks(op, size)
    u, v = (lower + rng.random(shape).round(int(rng.integers(0, 3))) * size for _ in range(2))

    moved = np.abs(rule.reference(op, u) - rule.reference(op, v))
    bound = rule.majorant_on(op, np.abs(u - v), lower, lower + size)

    assert np.all(moved <= bound * (1 + TOLERANCE) + 1e-12)
    assert np.isfinite(bound).all()
    everywhere = rule.majorant_on(op, np.abs(u - v), np.full(shape, -np.inf), np.full(shape, np.inf))
    same(everywhere, rule.majorant(op, np.abs(u - v)))
    assert np.all(bound <= everywhere)


@activation_kinds
@law
@given(data=st.data())
def test_the_majorant_is_monotone_homogeneous_and_subadditive(kind: str, data: st.DataObject) -> None:
    """So that M(v) < v for one v is a certificate."""
    case = data.draw(CASES[kind])
    op, rule, rng = case.operator, activation_rule(case.operator), case.numbers()
    shape = (BATCH, *sizes(op.source))
    a, b = (np.abs(part.numpy()) for part in vectors(case, shape, shape))
    lower, upper = -np.abs(rng.normal(size=shape)), np.abs(rng.normal(size=shape))

    def M(change: np.ndarray) -> np.ndarray:
        return rule.majorant_on(op, change, lower, upper)

    assert np.all(M(a) <= M(a + b) * (1 + TOLERANCE))
    assert np.all(M(a + b) <= (M(a) + M(b)) * (1 + TOLERANCE))
    same(M(2.5 * a), 2.5 * M(a))
    assert not M(0 * a).any() and not rule.majorant(op, 0 * a).any()


@pytest.mark.parametrize("kind", SEVERAL)
@law
@given(data=st.data())
def test_arguments_are_emitted_without_being_joined(kind: str, data: st.DataObject) -> None:
    case = data.draw(CASES[kind])
    op, rule = case.operator, activation_rule(case.operator)
    parts = vectors(case, *[(BATCH, *sizes(shape)) for shape in rule.slots(op)])
    joined = torch.cat([part.reshape(BATCH, -1) for part in parts], 1).reshape(BATCH, *sizes(op.source))
    text = rule.emit_slots(op, [Expression(f"parts[{at}]") for at in range(len(parts))]).text

    same(
        eval(text, {"torch": torch, "F": F, "runtime": runtime, "parts": parts}),
        rule.reference(op, joined.numpy()),
    )


@pytest.mark.parametrize("kind", ["group_norm", "instance_norm", "layer_norm", "rms_norm", "prelu"])
@law
@given(data=st.data())
def test_an_activation_and_what_its_layer_learns_are_the_layer_of_pytorch(
    kind: str, data: st.DataObject
) -> None:
    case = data.draw(CASES[kind])
    op, rule, weights = case.operator, activation_rule(case.operator), tensors_of(case)
    (z,) = vectors(case, (BATCH, *sizes(op.source)))
    layer, affine = layer_of(case), rule.affine(op)
    expected = layer(z).detach()
    made = torch.from_numpy(rule.reference(op, z.numpy()))
    if affine is not None:
        texts = {role: f"w[{role!r}]" for role in weights}
        after = linear_rule(affine).emit_with(affine, Expression("x"), texts)
        whole = rule.emit_affine(op, Expression("z"), texts)
        made = eval(after.text, {"x": made, "w": weights})
        same(eval(whole.text, {"z": z, "w": weights, "F": F}), expected)

    same(made, expected)
    assert {spec.role: spec.shape for spec in rule.parameters(op)} == {
        role: tuple(tensor.shape) for role, tensor in layer.state_dict().items()
    }


@activation_kinds
@law
@given(data=st.data())
def test_flags_of_activations_hold(kind: str, data: st.DataObject) -> None:
    case = data.draw(CASES[kind])
    op, rule = case.operator, activation_rule(case.operator)
    shape = (BATCH, *sizes(op.source))
    z, up = (part.numpy() for part in vectors(case, shape, shape))
    z = within(op, z)

    if rule.monotone(op):
        assert np.all(rule.reference(op, z) <= rule.reference(op, z + np.abs(up)))
    if rule.homogeneous:
        same(rule.reference(op, 2.5 * z), 2.5 * rule.reference(op, z))


@activation_kinds
@law
@given(data=st.data())
def test_vjp_is_the_finite_difference(kind: str, data: st.DataObject) -> None:
    case = data.draw(CASES[kind])
    op, rule, rng = case.operator, activation_rule(case.operator), case.numbers()
    shape, step = (BATCH, *sizes(op.source)), 1e-6
    # all values are apart from each other and from zero: no kink is near
    total = BATCH * count(op.source)
    z = (rng.permutation(total) - total // 2 + 0.2371).reshape(shape) * (6 / total)
    z = within(op, z)
    direction, g = rng.normal(size=shape), rng.normal(size=(BATCH, *sizes(op.target)))

    ahead, behind = (rule.reference(op, z + sign * step * direction) for sign in (1, -1))
    difference = np.sum(g * (ahead - behind)) / (2 * step)

    assert abs(difference - np.sum(rule.vjp(op, z, g) * direction)) <= 1e-6 * (1 + np.abs(g).sum())


@activation_kinds
@law
@given(data=st.data())
def test_vjp_is_autograd_also_at_kinks(kind: str, data: st.DataObject) -> None:
    case = data.draw(CASES[kind])
    op, rng = case.operator, case.numbers()
    z = rng.integers(-2, 3, (BATCH, *sizes(op.source))).astype(float)  # many zeros and equal maxima
    g = rng.normal(size=(BATCH, *sizes(op.target)))
    point = torch.from_numpy(z).requires_grad_()

    value = emitted(case, point) + 0 * point.sum()  # of some, nothing but the shape of the argument counts
    pulled = torch.autograd.grad(value, point, torch.from_numpy(g))[0]

    same(activation_rule(op).vjp(op, z, g), pulled.numpy())
