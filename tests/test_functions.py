"""Functions of a program as activations: their graph, their code, and proved bounds of their slopes."""

from __future__ import annotations

import math
import types
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BODIES, CASES

import implicit_dsl
from implicit_dsl.compiler import check, read_source
from implicit_dsl.errors import ImplicitError
from implicit_dsl.model import ImplicitModel
from implicit_dsl.operators import OPERATORS, activation_rule
from implicit_dsl.operators.base import Operator
from implicit_dsl.operators.body import Body
from implicit_dsl.operators.elementwise import Elementwise
from implicit_dsl.operators.functions import derived
from implicit_dsl.source import Source

TURNING = {"sin", "cos"}  # again and again, so that nothing is derived of what is made of them
ELEMENTWISE = sorted(
    k for k, rule in OPERATORS.items() if isinstance(rule, Elementwise) and k not in {"function", *TURNING}
)
KINDS = ["phi", "phi", "product", "sum", "maximum", "minimum", "scale", "constant"]
PARTS = [
    ("sigmoid", ()),
    ("tanh", ()),
    ("relu", ()),
    ("gelu", ()),
    ("gelu", (("approximate", True),)),
    ("silu", ()),
    ("mish", ()),
    ("softplus", ()),
    ("softsign", ()),
    ("elu", (("alpha", -0.5),)),
    ("selu", ()),
    ("hardswish", ()),
    ("relu6", ()),
    ("abs", ()),
    ("hardtanh", (("high", 2.0), ("low", -0.5))),
    ("clamp", (("high", None), ("low", 0.5))),
]


def model(text: str) -> ImplicitModel:
    found = check(Source(text))
    assert found.diagnostics == ()
    return found.models[0]


def generated(text: str) -> types.ModuleType:
    module = types.ModuleType("generated")
    exec(compile(implicit_dsl.compile(text), "generated.py", "exec"), module.__dict__)
    return module


@st.composite
def bodies(draw: st.DrawFn) -> Body:
    """A few instructions, of which the last one uses others."""
    made: list[tuple[object, ...]] = []
    for _ in range(draw(st.integers(1, 5))):
        value = st.integers(max(0, len(made) - 2), len(made)) | st.just(0)
        kind = draw(st.sampled_from(KINDS))
        if kind == "phi":
            made.append(("phi", *draw(st.sampled_from(PARTS)), draw(value)))
        elif kind in ("scale", "constant"):
            number = draw(st.sampled_from([-1.0, 0.5, 3.0, -0.25]))
            made.append((kind, number, *([draw(value)] if kind == "scale" else [])))
        else:
            made.append((kind, draw(value), draw(value)))
    return tuple(made)


def points() -> np.ndarray:
    far = np.logspace(0.5, 5, 2000)
    return np.concatenate([np.linspace(-6, 6, 20001), far, -far])


@settings(max_examples=60, deadline=None)
@given(body=bodies())
def test_derived_bounds_hold_everywhere_and_are_close(body: Body) -> None:
    operator = Operator("function", (), (), (("body", body), ("name", "f")))
    rule = activation_rule(operator)
    assert isinstance(rule, Elementwise)
    x = points()
    with np.errstate(all="ignore"):
        slopes = rule.derivative(operator, x)
    found = derived(body)
    if found is None:
        return
    low, high = found
    slack = 1e-9 * (1 + np.abs(x))  # of the derivative itself, in floating point

    assert np.all(slopes >= low - slack) and np.all(slopes <= high + slack)
    bounds = rule.range(operator)
    values = rule.reference(operator, x)
    assert bounds is None or (bounds[0] - 1e-9 <= values.min() and values.max() <= bounds[1] + 1e-9)


@settings(max_examples=60, deadline=None)
@given(body=bodies(), low=st.floats(-5, 5), width=st.floats(0, 3))
def test_within_a_box_the_majorant_is_sound(body: Body, low: float, width: float) -> None:
    operator = Operator("function", (200,), (200,), (("body", body), ("name", "f")))
    rule = activation_rule(operator)
    lower, upper = np.full((1, 200), low), np.full((1, 200), low + width)
    u = np.linspace(low, low + width, 200)[None]
    v = u[:, ::-1]

    moved = np.abs(rule.reference(operator, u) - rule.reference(operator, v))

    assert np.all(moved <= rule.majorant_on(operator, np.abs(u - v), lower, upper) + 1e-9)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("swish", -0.09983932012886, 1.09983932012886),
        ("shrink", 0.5, 1.0),
        ("bump", -0.0962250448650, 0.0962250448650),  # 1 ÷ (6 √3)
        ("squared", -1.11311582, 1.11311582),
    ],
)
def test_known_bounds_are_found(name: str, low: float, high: float) -> None:
    found = derived(BODIES[name])
    assert found is not None

    assert found[0] <= low + 1e-8 and found[1] >= high - 1e-8
    assert math.isclose(found[0], low, abs_tol=1e-6) and math.isclose(found[1], high, abs_tol=1e-6)


@pytest.mark.parametrize(
    "body",
    [
        (("product", 0, 0),),
        (("phi", "relu", (), 0), ("product", 0, 1)),
        (("phi", "softplus", (), 0), ("phi", "silu", (), 0), ("product", 1, 2)),
    ],
)
def test_what_grows_without_end_has_no_bound(body: Body) -> None:
    assert derived(body) is None


@pytest.mark.parametrize("kind", [kind for kind in ELEMENTWISE if OPERATORS[kind].has_useful_majorant])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_curves_are_those_of_the_activation(kind: str, data: st.DataObject) -> None:
    """Between its turns φ' is monotone, and beyond its start φ is as near to its line as it says."""
    operator = data.draw(CASES[kind]).operator
    rule = activation_rule(operator)
    assert isinstance(rule, Elementwise)
    curve = rule.curve(operator)
    assert curve is not None
    edges = [-40.0, *sorted({point for point, _ in curve.turns}), 40.0]
    for first, last in pairwise(edges):
        x = np.linspace(first + 1e-6, last - 1e-6, 20001)
        steps = np.diff(rule.derivative(operator, x))
        assert np.all(steps >= -1e-12) or np.all(steps <= 1e-12)
    for point, value in curve.turns:
        beside = rule.derivative(operator, np.array([point - 1e-9, point + 1e-9]))
        assert np.abs(beside - value).min() < 1e-6
    z = curve.start + np.concatenate([np.linspace(0, 30, 3001), np.logspace(2, 6, 100)])
    for tail, sign in ((curve.above, 1), (curve.below, -1)):
        value = np.abs(rule.reference(operator, sign * z) - (tail.slope * sign * z + tail.offset))
        slope = np.abs(rule.derivative(operator, sign * z) - tail.slope)
        for far, decay in ((value, tail.value), (slope, tail.derivative)):
            bound = decay.factor * z**decay.power * np.exp(-decay.rate * z)
            assert np.all(far <= bound * (1 + 1e-9) + 1e-12 * (1 + z))


def test_a_function_is_one_state_and_reads_its_argument_once() -> None:
    made = model("swish(x) = x .* σ(x)\nmodel M\ninput u[4]\nx ~ swish(Dense(3)*u)\noutput y = x\nend")

    assert [(block.name, block.slots, block.phi) for block in made.states] == [("x", (3,), "swish")]


@pytest.mark.parametrize(
    ("function", "states"),
    [
        ("f(x) = relu(tanh(x))", ["y.tanh1 tanh", "y.relu1 relu"]),  # nothing is joined
        ("f(x) = 2*x + x", []),  # linear
        ("f(x) = tanh(Dense(4)*x) + x", ["y.tanh1 tanh"]),  # a layer
        ("f(x) = x .* softmax(x)", ["y.softmax1 softmax", "y.product1 product"]),  # over an axis
        ("f(x) = x .* v", ["y.product1 product"]),  # two values
        ("f(x) = tanh(x) - 0.5*x", ["y.function1 f"]),
        ("g(x) = x .* x\nf(x) = g(1 - tanh(x))", ["y.function1 f"]),
        ("f(x) = abs(x) |> (z -> max(z, 1) .* relu6(z))", ["y.function1 f"]),
    ],
)
def test_what_joins_values_entry_by_entry_becomes_an_activation(function: str, states: list[str]) -> None:
    made = model(f"model M\ninput u[4], v[4]\n{function}\noutput y = f(u), z = v\nend")

    assert [f"{block.name} {block.phi}" for block in made.states] == states


def test_a_loop_through_a_function_is_proved_solved_and_differentiated() -> None:
    text = """
    swish(x) = x .* σ(x)
    model M
        input u[4]
        param W[4, 4]
        state z[4] ~ swish(W*z + u)
        output y = z
        @wellposed norm(W, Inf) <= 0.9
    end
    """
    module = generated(text).M().double()
    u = torch.randn(3, 4, dtype=torch.float64)
    y = module(u)
    g = torch.randn_like(y)
    y.backward(g)
    system = module.system()

    assert module.certify().proved
    assert abs(module.system().model.loops[0].rate - 0.9 * 1.09983932) < 1e-6
    torch.testing.assert_close(y, system.solve(u), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        module.W.grad, torch.from_numpy(system.parameter_gradients(u, g)["W"]), rtol=1e-8, atol=1e-8
    )


def test_a_bound_of_the_weights_that_is_too_large_for_the_function_is_refused() -> None:
    text = "model M\ninput u[4]\nparam W[4, 4]\nstate z[4] ~ f(W*z + u)\nf(x) = x .* σ(x)\noutput y = z\n"
    (found,) = check(Source(f"{text}@wellposed norm(W, Inf) <= 0.95\nend")).diagnostics

    assert found.code == "E0403"


def test_what_is_read_twice_is_computed_once() -> None:
    text = implicit_dsl.compile(
        "sq(x) = x .* x\nmodel M\ninput u[4]\noutput y = sq(Dense(3)*u) + sq(1 - tanh(u[1:3]))\nend"
    )

    assert text.count("self.y_dense(u)") == 1 and text.count("torch.tanh(") == 1


PLATEAU = """
plateau(x) = tanh(x .* x .* x .* x .* x .* x .* x .* x)
model M
    input u[4]
    param W[4, 4]
    state z[4] ~ plateau(W*z + u)
    output y = z
    @lipschitz plateau <= 5
    @wellposed norm(W, Inf) <= 0.19
end
"""


def test_a_claim_is_used_where_nothing_is_proved_and_is_named() -> None:
    without = PLATEAU.replace("@lipschitz plateau <= 5", "")
    module = generated(PLATEAU).M().double()
    certificate = module.certify()

    assert [found.code for found in check(Source(without)).diagnostics] == ["E0402"]
    assert certificate.proved and certificate.loops[0].claims == ("|plateau'| <= 5",)
    assert "rests on a claim of the source" in str(certificate)
    assert "|plateau'| <= 5 as claimed" in (module.__doc__ or "")
    assert module.system().model.loops[0].rate <= 0.95 + 1e-9


def test_a_claim_may_stand_beside_its_function_and_be_imported(tmp_path: Path) -> None:
    function, rest = PLATEAU.strip().split("\n", 1)
    rest = rest.replace("    @lipschitz plateau <= 5\n", "")
    beside = f"{function}\n@lipschitz plateau <= 5\n{rest}"
    assert generated(beside).M().certify().loops[0].claims == ("|plateau'| <= 5",)

    (tmp_path / "functions.impl").write_text(f"{function}\n@lipschitz plateau <= 5\n", encoding="utf-8")
    net = tmp_path / "net.impl"
    net.write_text(f'import "functions.impl": plateau\n{rest}', encoding="utf-8")
    assert implicit_dsl.load(net).M().certify().loops[0].claims == ("|plateau'| <= 5",)

    net.write_text(f'import "functions.impl": plateau\n@lipschitz plateau <= 5\n{rest}', encoding="utf-8")
    (elsewhere,) = check(read_source(str(net), "net.impl")).diagnostics
    assert elsewhere.code == "E0702" and "another file" in elsewhere.message

    (steep,) = check(Source(beside.replace("<= 5", "<= 3", 1))).diagnostics
    assert steep.code == "E0407"


def test_a_claim_that_is_proved_is_no_claim() -> None:
    head = "swish(x) = x .* σ(x)\nmodel M\ninput u[4]\nparam W[4, 4]"
    text = f"{head}\nstate z[4] ~ swish(W*z + u)\noutput y = z\n"
    module = generated(f"{text}@lipschitz swish <= 1.2\n@wellposed norm(W, Inf) <= 0.9\nend").M()

    assert module.certify().loops[0].claims == ()


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("@lipschitz relu <= 1", "E0702", "a function of the program"),
        ("@lipschitz swish", "E0702", "`function <= number`"),
        ("@lipschitz other <= 1", "E0101", "unknown name `other`"),
        ("@wellposed", "E0309", "stands inside of it"),
        ("@lipshitz swish <= 2", "E0701", "unknown annotation"),
    ],
)
def test_what_stands_at_the_top_of_a_file_is_checked(line: str, code: str, says: str) -> None:
    text = f"swish(x) = x .* σ(x)\n{line}\nmodel M\n    input u[4]\n    output y = 2*u\nend\n"
    (found,) = check(Source(text)).diagnostics

    assert found.code == code and says in found.message


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("@lipschitz swish <= 1", "E0407", "`swish` is steeper than 1"),
        ("@lipschitz square <= 100", "E0407", "`square` is steeper than 100"),
        ("@lipschitz relu <= 1", "E0702", "a function of the program"),
        ("@lipschitz swish < 2", "E0702", "`function <= number`"),
        ("@lipschitz swish", "E0702", "`function <= number`"),
        ("@lipschitz swish <= -1", "E0702", "a number above 0"),
        ("@lipschitz other <= 1", "E0101", "unknown name `other`"),
        ("@lipschitz(swish <= 1.1; k = 2)", "E0104", "no argument `k`"),
        ("@lipschitz plain <= 1", "W0401", "has no effect"),
    ],
)
def test_wrong_claims_are_refused(line: str, code: str, says: str) -> None:
    text = f"""
    swish(x) = x .* σ(x)
    square(x) = x .* x
    plain(x) = relu(tanh(x))
    model M
        input u[4]
        output y = swish(u) + square(u) + plain(u)
        {line}
    end
    """
    (found,) = check(Source(text)).diagnostics

    assert found.code == code and says in found.message


@pytest.mark.parametrize("before", ["f(x; k = 1) = k*x\n", ""])
def test_functions_take_no_keywords(before: str) -> None:
    inside = "" if before else "f(x; k = 1) = k*x\n"
    text = f"{before}model M\ninput u[4]\n{inside}output y = f(u)\nend\n"
    with pytest.raises(ImplicitError, match=r"E0308.*without keywords or defaults") as caught:
        implicit_dsl.compile(text)
    assert len(caught.value.diagnostics) == 1
