"""Constructs of the language, each against what it should compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_exactness import assert_close, outputs, randomise
from torch import Tensor, nn

from implicit_dsl.compiler import check, compile
from implicit_dsl.errors import ImplicitError, render
from implicit_dsl.source import Source


def module(text: str, model: str = "M", **parameters: object) -> nn.Module:
    """A model in float64 with random weights."""
    space: dict[str, Callable[..., nn.Module]] = {}
    exec(compile(text, parameters=parameters, model=model), space)
    made = space[model](dtype=torch.float64)
    torch.manual_seed(0)
    randomise(made)
    return made.eval()


def body(*lines: str) -> str:
    return "model M\n    " + "\n    ".join(lines) + "\nend\n"


def random(*shape: int) -> Tensor:
    return torch.randn(2, *shape, dtype=torch.float64)


def messages(text: str) -> list[str]:
    return [f"{d.code} {d.message}" for d in check(Source(text)).diagnostics]


def solved(made: nn.Module, *inputs: Tensor) -> None:
    """The module agrees with the solution of its matrices."""
    one = [value[:1] for value in inputs]
    assert_close(outputs(made(*one)), outputs(made.system().solve(*one)))


# --------------------------------------------------------------------------- functions


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["f = (x, y) -> 2*x - y", "output z = f(u, v)"], lambda u, v: 2 * u - v),
        (["f = (x) -> relu(x)", "output z = f(u) + v"], lambda u, v: u.relu() + v),
        (["half = () -> 0.5", "output z = half()*u + v"], lambda u, v: 0.5 * u + v),
        (["g(f, x, y) = f(f(x, y), y)", "output z = g((a, b) -> a .* b, u, v)"], lambda u, v: u * v * v),
        (["k = 3", "f = x -> y -> k*x - y", "output z = f(u)(v)"], lambda u, v: 3 * u - v),
        (["pick = (a, _, _) -> a", "output z = pick(u, v, v)"], lambda u, v: u),
        (["fs = [x -> i*x for i in 1:3]", "output z = fs[2](u) + fs[3](v)"], lambda u, v: 2 * u + 3 * v),
        (
            [
                "apply(f, n) = ifelse(n == 0, x -> x, x -> apply(f, n - 1)(f(x)))",
                "output z = apply(g, 3)(u)",
                "g(x) = tanh(x) + v",
            ],
            lambda u, v: torch.tanh(torch.tanh(torch.tanh(u) + v) + v) + v,
        ),
    ],
)
def test_functions_are_values(lines: list[str], expected: Callable[[Tensor, Tensor], Tensor]) -> None:
    made = module(body("@allow unused_input", "input u[4], v[4]", *lines))
    u, v = random(4), random(4)

    assert_close((expected(u, v),), outputs(made(u, v)))


def test_a_block_takes_functions_of_several_arguments() -> None:
    block = "block Mix(f)\n    input a[_], b[_]\n    output y = f(a, b) + f(b, a)\nend\n"
    made = module(block + body("input u[4], v[4]", "c = 2", "output z = Mix((p, q) -> c*p .* tanh(q))(u, v)"))
    u, v = random(4), random(4)

    assert_close((2 * u * v.tanh() + 2 * v * u.tanh(),), outputs(made(u, v)))


def test_each_call_of_a_function_without_a_name_has_layers_of_its_own() -> None:
    made = module(body("input u[4]", "step = (x, n) -> relu(Dense(n)*x)", "output y = step(step(u, 3), 2)"))

    assert [(3, 4), (2, 3)] == [tuple(p.shape) for p in made.parameters() if p.ndim == 2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("f = (x, x) -> x", "E0308 the arguments of a function are different names"),
        ("f = (x, 2*y) -> x", "E0308 the arguments of a function are different names"),
        ("f = (x, class) -> x", "E0105 `class` cannot be a name"),
        ("f = ((x, y) -> x)(u)", "E0104 `this function` takes 2 arguments, and 1 is given"),
    ],
)
def test_wrong_functions_say_why(line: str, message: str) -> None:
    assert messages(body("input u[4]", line, "output z = u")) == [message]


# --------------------------------------------------------------------------- matrices


def test_powers_of_matrices() -> None:
    made = module(
        body("input u[4]", "param A[4, 4], B[4, 4]", "output y = A^3*u, z = (A - 2*B)^2 * u, w = (A*B)'^2*u")
    )
    u, (A, B) = random(4), made.parameters()

    assert_close(
        (u @ (A @ A @ A).T, u @ torch.matrix_power(A - 2 * B, 2).T, u @ torch.matrix_power(A @ B, 2)),
        outputs(made(u)),
    )
    solved(made, u)


@pytest.mark.parametrize("power", ["0", "-1", "65", "10^30"])
def test_powers_of_matrices_have_limits(power: str) -> None:
    found = messages(body("input u[4]", "param A[4, 4]", f"output y = A^{power} * u"))
    assert found == ["E0205 the power of a matrix is at least 1 and at most 64"]


# --------------------------------------------------------------------------- families


def test_families_of_every_rank_and_kind() -> None:
    made = module(
        body(
            "input u[i in 1:2][i + 2]",
            'param W[i in 1:2, j in ["a", "b"]][3, i + 2], b[1:2, 0:1, ["x"]][3]',
            "layer K[i in 1:2] = Dense(3)",
            "state h[i in 1:2, j in 0:1][3]",
            "for i in 1:2",
            '    h[i, 0] ~ tanh(W[i, "a"]*u[i] + b[i, 0, "x"])',
            '    h[i, 1] ~ relu(W[i, "b"]*u[i] + b[i, 1, "x"]) + K[i]*u[i]',
            "end",
            "output y[i in 1:2][3] = h[i, 0] .* h[i, 1]",
        )
    )
    inputs = (random(3), random(4))
    held = dict(made.named_parameters())
    expected = []
    for i, u in enumerate(inputs, 1):
        plain = u @ held[f"W_{i}_a"].T + held[f"b_{i}_0_x"]
        second = torch.relu(u @ held[f"W_{i}_b"].T + held[f"b_{i}_1_x"])
        expected.append(plain.tanh() * (second + made.get_submodule(f"K_{i}")(u)))

    assert_close(tuple(expected), outputs(made(*inputs)))
    assert made(*inputs)._fields == ("y_1", "y_2")
    solved(made, *inputs)


def test_inputs_and_outputs_keep_the_order_of_the_text() -> None:
    text = (
        "block Pair(n)\n    input x[1:n][_], y[_]\n    output first[1:n][_] = x[1] + y, last = y\nend\n"
        "model Base\n    output early[1:2][3] = u[1]\n    input u[1:2][3]\n    output late = u[2]\nend\n"
        "model M(k = 2) extends Base\n"
        "    input v, w[k]\n    m = k + 1\n"
    ).replace("input v", "input v[m]")
    made = module(text + "    output own[1:1][3] = v, other = w\nend\n")
    u1, u2, v, w = random(3), random(3), random(3), random(2)

    result = made(u1, u2, v, w)
    assert result._fields == ("early_1", "early_2", "late", "own_1", "other")
    assert_close((u1, u1, u2, v, w), outputs(result))


def test_shapes_of_inputs_may_use_what_the_body_defines() -> None:
    block = "block B\n    input x[_]\n    n = size(x, 1)\n    input y[2*n]\n    output z = cat(x, y)\nend\n"
    made = module(block + body("n = 2 + m", "m = 1", "input u[n], v[2*size(u, 1)]", "output z = B()(u, v)"))
    u, v = random(3), random(6)
    assert_close((torch.cat([u, v], 1),), outputs(made(u, v)))

    wrong = block + body("input u[3], v[5]", "output z = B()(u, v)")
    assert messages(wrong) == ["E0201 input `y` takes [6], but is given [5]"]
    assert messages(body("input u[k]", "k = relu(u)", "output y = u"))[0].startswith("E0301")
    assert messages(body("input u[k]", "output y = u")) == ["E0101 unknown name `k`"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["input u[1:2][4]", "output y = u"], "E0206 `u` is a family, and one of its members is needed here"),
        (["input u[1:2][4]", "output y = u[3]"], "E0206 there is no `u[3]`"),
        (["input u[4], u[1:2][4]", "output y = u"], "E0103 `u` is defined twice"),
        (["input u[1:2][4]", "u[3] = u[1]", "output y = u[1]"], ""),
        (["input u[1:2][4]", "u[2] = u[1]", "output y = u[1]"], "E0302 `u` is an input and cannot"),
        (["input u[1:2][4], u_1[4]", "output y = u_1"], "E0106 two inputs are called `u_1` in Python"),
        (["for i in 1:2", "input u[4]", "end", "output y = 1"], "E0309 an input is declared outside"),
        (["input u[4]", "output q[i in 1:2] = i*u"], "E0205 a shape stands in the last"),
        (["input u[1:k][4]", "k = 2", "output y = u[1]"], "E0101 `k` is not known here"),
        (["input u[4]", "if k", "input v[4]", "end", "k = false", "output y = u"], "E0101 `k` is not known"),
        (["input u[4]", "if u", "input v[4]", "end", "output y = u"], "E0101 `u` is not known here"),
        (["if false", "input v[4]", "end", "input u[4]", "output y = v"], "E0101 unknown name `v`"),
    ],
)  # fmt: skip
def test_wrong_families_say_why(lines: list[str], message: str) -> None:
    found = [said for said in messages(body("@allow unused_input", *lines)) if said.startswith("E")]
    assert [message] == [said[: len(message)] for said in found[:1]] if message else not found


def test_a_block_with_a_family_of_inputs_takes_one_value_for_each_member() -> None:
    block = "block Mean(n)\n    input x[i in 1:n][4]\n    output y = sum(x[i] for i in 1:n) / n\nend\n"
    made = module(block + body("input u[1:3][4]", "output y = Mean(3)(u[1], u[2], u[3])"))
    inputs = (random(4), random(4), random(4))

    assert_close((sum(inputs) / 3,), outputs(made(*inputs)))
    wrong = messages(block + body("input u[4]", "output y = Mean(3)(u, u)"))
    assert wrong == ["E0104 `Mean` takes 3 arguments, and 2 are given"]


@pytest.mark.parametrize(("kind", "inputs"), [(1, "u"), (2, "u v"), (3, "u w_1 w_2"), (4, "u v w_1 w_2")])
def test_parameters_decide_which_inputs_there_are(kind: int, inputs: str) -> None:
    lines = [
        "input u[3]",
        "if k == 2 || k == 4",
        "input v[size(u, 1)]",
        "if k == 4",
        "input w[1:2][3]",
        "end",
    ]
    lines += ["elseif k == 3", "input w[1:2][n]", "end", "n = 3"]
    lines += ["a = ifelse(k == 2 || k == 4, v, u)", "b = ifelse(k > 2, w[1] - w[2], u)", "output y = a + b"]
    block = "block B(k)\n    " + "\n    ".join(lines) + "\nend\n"
    model = "model M\n    input u[3], v[3], w_1[3], w_2[3]\n    @allow unused_input\n"
    made = module(f"{block}{model}    output y = B({kind})({inputs.replace(' ', ', ')})\nend\n")
    u, v, w_1, w_2 = (random(3) for _ in range(4))

    expected = (v if kind in (2, 4) else u) + (w_1 - w_2 if kind > 2 else u)
    assert_close((expected,), outputs(made(u, v, w_1, w_2)))
    wrong = messages(f"{block}{model}    output y = B({kind})(u, u, u, u, u)\nend\n")
    assert wrong == [f"E0104 `B` takes {count(inputs)}, and 5 are given"]
    alone = module(block.replace("block B(k)", f"model M(k = {kind})"))
    given = {"u": u, "v": v, "w_1": w_1, "w_2": w_2}
    assert_close((expected,), outputs(alone(*(given[name] for name in inputs.split()))))


def test_a_block_says_which_inputs_it_takes() -> None:
    block = "block B(; masked = false)\ninput x[_]\nif masked\ninput m[size(x, 1)]\nend\noutput y = x\nend\n"
    model = "model M\ninput u[_], v[_]\n@allow unused_input\noutput y = {}\nend\n"

    with pytest.raises(ImplicitError) as caught:
        compile(block + model.format("B()(u, v)"))
    assert caught.value.diagnostics[0].help == "it takes `x`; with other parameters also `m`"
    with pytest.raises(ImplicitError) as caught:
        compile(block + model.format("B(; masked = true)(u, v)"))
    assert "write `size(u, 1)` for the free size of `v`" in caught.value.diagnostics[0].help


def count(inputs: str) -> str:
    number = len(inputs.split())
    return f"{number} argument{'s' if number > 1 else ''}"


# --------------------------------------------------------------------------- comprehensions


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("[i for i in 1:6 if i % 2 == 0 && i != 4]", [2, 6]),
        ("[i*j for i in 1:3, j in i:3]", [1, 2, 3, 4, 6, 9]),
        ("[[i*j for j in 1:i][i] for i in 1:3]", [1, 4, 9]),
        ("[length(w) for w in [\"a\", \"bcd\"] if w != \"a\"]", [3]),
        ("[x[1] for x in [(1, 2), (3, 4)]] + [5]", [1, 3, 5]),
        ("[f(2) for f in [x -> x + 1, x -> x^2, abs]]", [3, 4, 2]),
        ("[p[1] + p[2] for p in [1 => 2, 3 => 4]]", [3, 7]),
    ],
)  # fmt: skip
def test_comprehensions_compute(expression: str, expected: list[int]) -> None:
    made = module(body("input u[1]", f"found = {expression}", "output y = cat([c*u for c in found])"))

    assert [float(x) for x in expected] == made(torch.ones(1, 1).double())[0].tolist()


def test_comprehensions_of_layers_and_labels() -> None:
    made = module(
        body(
            "input u[4]",
            "layers = [chain(Dense(n), act) for n in [5, 3], act in [tanh]]",
            'for name in ["left", "right"]',
            "    h[name] = Dense(2) * (u |> chain(layers))",
            "end",
            'output y = sum(h[name] for name in ["left", "right"])',
        )
    )
    dense = [layer for layer in made.children() if isinstance(layer, nn.Linear)]
    u = random(4)
    hidden = dense[1](dense[0](u).tanh()).tanh()

    assert_close((dense[2](hidden) + dense[3](hidden),), outputs(made(u)))
    assert {name for name, _ in made.named_children()} >= {"h_left_dense", "h_right_dense"}


# --------------------------------------------------------------------------- extending


BASE = """
model Base(n = 3; act = relu)
    input u[4]
    h ~ act(Dense(n) * u)
    output y = Dense(2) * h
end

model Middle(m = 5) extends Base(m; act = tanh)
    output z = Dense(1) * h
end

model M(k = 6) extends Middle(k)
    input v[k]
    output w = h .* v
end
"""


def test_models_extend_one_another_and_override_defaults() -> None:
    made = module(BASE)
    first, second, third = (layer for layer in made.children())
    u, v = random(4), random(6)
    h = torch.tanh(first(u))

    assert_close((second(h), third(h), h * v), outputs(made(u, v)))
    assert made(u, v)._fields == ("y", "z", "w")
    assert torch.Size([9, 4]) == module(BASE, k=9).get_parameter("h_dense.weight").shape
    assert torch.Size([5, 4]) == module(BASE, "Middle").get_parameter("h_dense.weight").shape


def test_a_model_that_extends_another_can_be_used_as_a_block() -> None:
    use = (
        "model Use\n    input u[4], v[6]\n    parts = M(6)(u, v)\n    output y = parts.y, w = parts.w\nend\n"
    )
    made = module(BASE + use, "Use")
    u, v = random(4), random(6)
    h = torch.tanh(made.get_submodule("parts_m_h_dense")(u))

    assert_close((made.get_submodule("parts_m_y_dense")(h), h * v), outputs(made(u, v)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model M extends M\n    input u[1]\n    output y = u\nend\n", "E0107 `M` extends itself"),
        ("block B\nend\nmodel M extends B\n    output y = 1\nend\n", "E0207 a model extends a model"),
        (BASE + "model N extends Base\n    h = u\nend\n", "E0103 `h` is defined twice"),
        (BASE + "model N extends Base(; acts = 3)\nend\n", "E0104 `Base` has no parameter `acts`"),
        (BASE + "model N extends Bas\n    output z = u\nend\n", "E0101 unknown name `Bas`"),
    ],
)  # fmt: skip
def test_wrong_bases_say_why(text: str, message: str) -> None:
    found = check(Source(text)).diagnostics
    assert f"{found[0].code} {found[0].message}" == message, "\n".join(map(render, found))


def test_state_dict_keys_follow_the_names_of_the_source() -> None:
    text = "block Cell(n)\n    input x[_]\n    layer W = Dense(n)\n    output y = tanh(W*x)\nend\n"
    lines: list[Any] = [
        "input u[4]",
        "layer cell[i in 1:2] = Cell(4)",
        "output y = cell[2](cell[1](u)) |> Cell(3)",
    ]
    made = module(text + body(*lines))

    assert list(dict(made.named_children())) == ["cell_1_W", "cell_2_W", "y_cell_W"]
