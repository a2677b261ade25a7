"""Activations of several arguments and normalisations: as a graph, as matrices and as generated code."""

from __future__ import annotations

import types

import pytest
import torch

import implicit_dsl
from implicit_dsl.compiler import check
from implicit_dsl.model import ImplicitModel
from implicit_dsl.source import Source


def model(body: str) -> ImplicitModel:
    found = check(Source(f"model M(n = 4)\n{body}\nend\n"))
    assert found.diagnostics == ()
    return found.models[0]


def terms(made: ImplicitModel) -> list[str]:
    """`u -conv-> h`, in order."""
    return [f"{t.source} -{','.join(op.kind for op in t.chain)}-> {t.target}" for t in made.terms]


def states(made: ImplicitModel) -> list[str]:
    return [f"{block.name}{list(block.slots)} {block.phi}" for block in made.states]


def generated(body: str) -> types.ModuleType:
    module = types.ModuleType("generated")
    text = implicit_dsl.compile(f"model M(n = 4)\n{body}\nend\n")
    exec(compile(text, "generated.py", "exec"), module.__dict__)
    module.__dict__["text"] = text
    return module


def body_of(made: types.ModuleType) -> list[str]:
    """The lines of `forward` that compute, without comments."""
    lines = made.text.split("def forward")[1].split("def system")[0].split("\n")
    return [line.strip() for line in lines if " = " in line and "#" not in line]


def test_a_product_is_a_state_with_two_slots() -> None:
    made = model("input u[n], v[n]\noutput y = tanh(u .* v)")

    assert states(made) == ["y.product1[2, 4] product", "y.tanh1[4] tanh"]
    assert terms(made)[:2] == ["u -slot-> y.product1", "v -slot-> y.product1"]


def test_a_named_product_is_its_own_state() -> None:
    made = model("input u[n], v[n]\nx ~ u ⊙ v\noutput y = x")

    assert states(made) == ["x[2, 4] product"]


def test_a_product_with_a_parameter_is_linear() -> None:
    made = model("input u[n]\nparam w[n]\noutput y = w .* u + u .* w")

    assert states(made) == []
    assert terms(made) == ["u -diagonal-> y", "u -diagonal-> y"]


def test_each_argument_keeps_its_own_sum_and_concatenation() -> None:
    made = model("input u[n], v[n]\nparam b[8]\nx ~ (cat(u, v) + b) .* cat(v, 2*u)\noutput y = x")

    assert terms(made) == [
        "u -place-> x.cat1",
        "v -place-> x.cat1",
        "x.cat1 -slot-> x",
        "None -offset,slot-> x",
        "v -place,slot-> x",
        "u -scale,place,slot-> x",
        "x --> y",
    ]


def test_a_square_reads_its_value_twice() -> None:
    module = generated("input u[n]\nx = Dense(3)*u\noutput y = x .* x")
    made = module.M(dtype=torch.float64)
    u = torch.randn(2, 4, dtype=torch.float64)

    assert torch.equal(made(u), made.x_dense(u) ** 2)
    assert (made.system().solve(u) - made(u)).abs().max() < 1e-14


def test_arguments_are_not_joined_in_generated_code() -> None:
    module = generated(
        "input q[5, n], k[6, n]\noutput y = attend(q, k, 2*k) + matmul(q, matmul(reshape(k, n, 6), k))"
    )

    assert body_of(module) == [
        "y_attend1 = F.scaled_dot_product_attention(q[:, None], k[:, None], (2.0 * k)[:, None])[:, 0]",
        "y_matmul1 = torch.matmul(torch.unflatten(k.flatten(1), 1, (4, 6)), k)",
        "y_matmul2 = torch.matmul(q, y_matmul1)",
        "y: Tensor = y_attend1 + y_matmul2",
    ]


def test_long_arguments_get_lines_of_their_own() -> None:
    words = " + ".join(f"Dense(4)*{'long_name_of_an_input'}" for _ in range(4))
    module = generated(f"input long_name_of_an_input[n]\noutput y = ({words}) .* ({words})")
    made = module.M(dtype=torch.float64)
    u = torch.randn(2, 4, dtype=torch.float64)

    assert max(map(len, body_of(module))) <= 110 - 8
    assert (made.system().solve(u) - made(u)).abs().max() < 1e-12


def test_free_sizes_stay_free_in_products() -> None:
    module = generated("input u[_, 6]\noutput y = attend(u, u .* u, softmax(u); heads = 3)")
    made = module.M(dtype=torch.float64)

    for length in (1, 5):
        u = torch.randn(2, length, 6, dtype=torch.float64)
        assert (made.system(u=(length, 6)).solve(u) - made(u)).abs().max() < 1e-14


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        ("GroupNorm(2)", "nn.GroupNorm(2, 4, device"),
        ("GroupNorm(2; eps = 0.1, affine = false)", ""),
        ("LayerNorm()", "nn.LayerNorm(3, device"),
        ("RMSNorm()", "nn.RMSNorm(3, eps=1e-05, device"),
    ],
)
def test_a_normalisation_is_one_layer_of_pytorch(layer: str, text: str) -> None:
    module = generated(f"input u[n, 3]\nlayer norm = {layer}\nx ~ relu(norm(Dense(3)*u))\noutput y = x")
    made = module.M(dtype=torch.float64)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    u = torch.randn(2, 4, 3, dtype=torch.float64)

    assert text in module.text
    assert ("self.norm(self.x_dense(u))" in module.text) == bool(text)
    assert [key for key in made.state_dict() if key.startswith("norm")] == (
        [] if not text else ["norm.weight"] if "RMS" in layer else ["norm.weight", "norm.bias"]
    )
    assert (made.system().solve(u) - made(u)).abs().max() < 1e-13


def test_a_normalisation_is_exact_in_matrix_form() -> None:
    made = model("input u[n]\nlayer norm = LayerNorm()\noutput y = norm(u) + norm(2*u)")

    assert states(made) == ["y.layernorm1[4] layer_norm", "y.layernorm2[4] layer_norm"]
    assert terms(made)[2:] == ["y.layernorm1 -affine-> y", "y.layernorm2 -affine-> y"]
    assert [tensor.id for tensor in made.tensors] == ["norm.weight", "norm.bias"]


def test_statistics_of_a_long_sum_are_taken_of_the_whole() -> None:
    words = " + ".join(["Dense(4; bias = false)*u"] * 8)
    module = generated(f"input u[n]\nx ~ tanh(LayerNorm()({words}))\noutput y = x")
    made = module.M(dtype=torch.float64)
    u = torch.randn(2, 4, dtype=torch.float64)

    assert (made.system().solve(u) - made(u)).abs().max() < 1e-13
    assert any(line.startswith("x_layernorm1_z = ") for line in body_of(module))
