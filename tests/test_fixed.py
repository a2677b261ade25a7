"""What is not learned: sinusoidal positions, and parameters whose numbers stand in the source."""

from __future__ import annotations

import copy
import math
import types

import numpy as np
import pytest
import torch
from torch import Tensor

import implicit_dsl
from implicit_dsl.compiler import check
from implicit_dsl.source import Source

torch.set_num_threads(1)


def generated(text: str, standalone: bool = False) -> types.ModuleType:
    module = types.ModuleType("generated")
    exec(compile(implicit_dsl.compile(text, standalone=standalone), "generated.py", "exec"), module.__dict__)
    return module


def encoded(positions: int, features: int, base: float = 10000.0) -> Tensor:
    """By the formula of Vaswani et al., entry by entry."""
    table = torch.zeros(positions, features, dtype=torch.float64)
    for i in range(positions):
        for j in range(features):
            angle = i / base ** (2 * (j // 2) / features)
            table[i, j] = math.cos(angle) if j % 2 else math.sin(angle)
    return table


# --------------------------------------------------------------------------- positions


POSITIONS = """model M(n = 6, d = 5)
    input x[_, d], z[n, d]
    angle(i, j) = (i - 1) / 100^(2*((j - 1) ÷ 2) / d)
    param P[n, d] = fixed([ifelse(j % 2 == 1, sin, cos)(angle(i, j)) for i in 1:n, j in 1:d])
    output y = x + sinusoids(x), w = z + P - sinusoids(z; base = 100), s = sin(x) - cos(2*x)
end
"""


@pytest.mark.parametrize("standalone", [False, True], ids=["imports", "standalone"])
def test_positions_are_encoded_by_the_formula(standalone: bool) -> None:
    module = generated(POSITIONS, standalone).M(dtype=torch.float64)
    z = torch.randn(2, 6, 5, dtype=torch.float64)
    for length in (1, 4, 9):
        x = torch.randn(2, length, 5, dtype=torch.float64)
        y, w, s = module(x, z)
        torch.testing.assert_close(y, x + encoded(length, 5))
        torch.testing.assert_close(w, z)
        torch.testing.assert_close(s, x.sin() - (2 * x).cos())
        if not standalone:
            for one, other in zip(module.system(x=(length, 5)).solve(x, z), (y, w, s)):
                torch.testing.assert_close(one, other)
    torch.testing.assert_close(module.P, encoded(6, 5, 100.0))
    assert not list(module.parameters()) and not module.state_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_positions_have_the_dtype_of_what_they_are_added_to(dtype: torch.dtype) -> None:
    module = generated("model M\ninput x[_, 8]\noutput y = sinusoids(x)\nend\n").M()
    y = module(torch.randn(2, 900, 8, dtype=dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y[0].double(), encoded(900, 8), rtol=0, atol=4 * torch.finfo(dtype).eps + 5e-5)


def test_a_loop_through_positions_and_waves_is_proved() -> None:
    text = """model M
    input u[4, 6]
    layer W = Dense(6; bias = false)
    state x[4, 6] ~ sin(W*x + sinusoids(x) + u)
    output y = x
    @wellposed norm(W, Inf) <= 0.9
    @solver auto(tol = 1e-13)
end
"""
    module = generated(text).M(dtype=torch.float64)
    module.project_()
    u = torch.randn(3, 4, 6, dtype=torch.float64)
    x = torch.zeros_like(u)
    for _ in range(500):
        x = torch.sin(module.W(x) + encoded(4, 6) + u)
    torch.testing.assert_close(module(u), x)
    torch.testing.assert_close(module.system().solve(u), x)


# --------------------------------------------------------------------------- fixed numbers


FIXED = """model M
    input u[3, 5], v[2]
    param B[3, 3] = fixed([[0, 1, 0], [0.5, 0, 0.5], [0, 1, 0]]), c[2] = fixed(1:2), h[2] = fixed(0.5)
    param T[2, 2] = fixed([1, -1, 1, 1])
    layer W = Dense(2)
    output y = transpose(B * transpose(u)), z = tanh(W * (h .* (T*v))) + c, w = T' * v
end
"""


@pytest.mark.parametrize("standalone", [False, True], ids=["imports", "standalone"])
def test_fixed_numbers_are_no_parameters(standalone: bool) -> None:
    module = generated(FIXED, standalone).M(dtype=torch.float64)
    u, v = torch.randn(4, 3, 5, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    B = torch.tensor([[0, 1, 0], [0.5, 0, 0.5], [0, 1, 0]], dtype=torch.float64)
    T = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)

    y, z, w = module(u, v)

    assert set(module.state_dict()) == {"W.weight", "W.bias"}
    torch.testing.assert_close(y, B @ u)
    torch.testing.assert_close(z, torch.tanh(module.W(0.5 * v @ T.T)) + torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(w, v @ T)
    if not standalone:
        for one, other in zip(module.system().solve(u, v), (y, z, w)):
            torch.testing.assert_close(one, other)
    for other in (copy.deepcopy(module), module.float().double()):
        torch.testing.assert_close(other(u, v).y, y, rtol=1e-6, atol=1e-6)


def test_fixed_numbers_come_back_on_another_device() -> None:
    with torch.device("meta"):
        module = generated(FIXED).M()
    assert module.B.is_meta
    module.to_empty(device="cpu").reset_parameters()
    assert module.T.tolist() == [[1, -1], [1, 1]] and module.h.tolist() == [0.5, 0.5]


def test_the_system_has_gradients_of_what_is_trained_alone() -> None:
    module = generated(FIXED).M(dtype=torch.float64)
    u, v = torch.randn(4, 3, 5, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    made = module(u, v)
    weights = tuple(torch.randn_like(value) for value in made)
    sum((value * weight).sum() for value, weight in zip(made, weights)).backward()

    found = module.system().parameter_gradients((u, v), weights)

    assert set(found) == {"W.weight", "W.bias"}
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(torch.as_tensor(found[name]).reshape(parameter.shape), parameter.grad)


LOOP = """model M
    input u[3]
    param B[3, 3] = fixed([[0, {c}, 0], [0.2, 0, 0.2], [0, 0.4, 0]]), W[3, 3]
    state x[3] ~ tanh({A} + u)
    output y = x
    {demand}
    @solver auto(tol = 1e-13)
end
"""


@pytest.mark.parametrize(
    ("A", "demand"),
    [
        ("B*x", ""),
        ("B'*x", ""),
        ("B*x + W*x", "@wellposed norm(A, Inf) <= 0.9"),
        ("B*x + W*x", "@wellposed norm(W, Inf) <= 0.4"),
        ("B*(W*x)", "@wellposed norm(W, Inf) <= 1.5"),
    ],
)
def test_fixed_numbers_count_as_they_are_in_proofs(A: str, demand: str) -> None:
    module = generated(LOOP.format(c=0.5, A=A, demand=demand)).M(dtype=torch.float64)
    before = module.B.clone()
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.normal_(std=2.0)
    if demand:
        module.project_()
    u = torch.randn(4, 3, dtype=torch.float64)
    x = torch.zeros_like(u)
    for _ in range(800):
        step = {"B*x": x @ module.B.T, "B'*x": x @ module.B}
        if "W" in A:
            step |= {"B*x + W*x": x @ (module.B + module.W).T, "B*(W*x)": x @ module.W.T @ module.B.T}
        x = torch.tanh(step[A] + u)

    torch.testing.assert_close(module(u), x)
    torch.testing.assert_close(module.B, before, rtol=0, atol=0)
    assert module.certify()["x"].proof is not None
    if "A," in demand:
        assert np.abs(module.system().A.to_numpy()).sum(1).max() <= 0.9 + 1e-12


@pytest.mark.parametrize(
    ("A", "c", "demand", "code"),
    [
        ("B*x", 1.0, "", "E0401"),
        ("3*(B*x)", 0.5, "@wellposed norm(A, 2) <= 0.9", "E0404"),
        ("3*(B*x)", 0.5, "@wellposed spectral(A) <= 0.9", "E0404"),
        ("3*(B*x)", 0.5, "@wellposed monotone(A; m = 0.1)", "E0404"),
        ("B*(W*x)", 1.0, "@wellposed spectral(A) <= 0.9", "E0404"),
        ("B*(W*x)", 1.0, "@wellposed spectral(W) <= 0.9", "E0401"),
        ("B*(W*x)", 256 / 257, "@wellposed monotone(W; m = 0.1)", "E0401"),
        ("B*x - W'*(W*x)", 1.0, "", "E0401"),
        ("B*x", 0.5, "@wellposed norm(B, Inf) <= 0.9", "E0404"),
        ("B*x + W*x", 0.5, "@wellposed norm(A, Inf) <= 0.5", "E0404"),
        ("W*x", 0.5, "@wellposed norm(W, Inf) <= 0.5\n@sparse columns(B) <= 1", "E0404"),
    ],
)
def test_what_is_fixed_is_not_bounded_by_training(A: str, c: float, demand: str, code: str) -> None:
    text = LOOP.format(c=c, A=A, demand=demand).replace("y = x", "y = B*x")
    found = [one.code for one in check(Source(text)).diagnostics if one.code.startswith("E")]
    assert found == [code]


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ("P[2, 3] = fixed([1, 2])", "6 entries, and these are 2"),
        ("P[2] = fixed(u)", "known at compile time"),
        ("P[2] = fixed([])", "known at compile time"),
        ("P[2] = fixed([1, true])", "known at compile time"),
        ("P[2, 2] in Symmetric() = fixed(1)", "is fixed"),
        ("P[2] = [1, 2]", "an initialiser"),
    ],
)
def test_what_cannot_be_fixed_is_refused(declared: str, words: str) -> None:
    text = f"model M\ninput u[2]\nparam {declared}\noutput y = P .* u\nend\n"
    found = check(Source(text)).diagnostics
    assert found[0].code == "E0502" and words in found[0].message
