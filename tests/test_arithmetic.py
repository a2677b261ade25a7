"""Arithmetic on values of the network: each line computes what the same line of PyTorch does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_exactness import assert_close
from torch import Tensor

import implicit_dsl
from implicit_dsl.compiler import check
from implicit_dsl.source import Source

Twin = Callable[[Tensor, Tensor], Tensor]

LINES: dict[str, Twin] = {
    "exp(a)": lambda a, b: a.exp(),
    "log(1 + exp(a))": lambda a, b: (1 + a.exp()).log(),
    "sqrt(a .* a + 1)": lambda a, b: (a * a + 1).sqrt(),
    "sin(30*a) + cos.(b)": lambda a, b: (30 * a).sin() + b.cos(),
    "a .^ 2 - b .^ 3": lambda a, b: a**2 - b**3,
    "abs(a) .^ 0.5": lambda a, b: a.abs() ** 0.5,
    "a .^ -2": lambda a, b: a**-2,
    "a .^ 0 + b .^ 1": lambda a, b: 1 + b,
    "2 .^ a": lambda a, b: 2**a,
    "a ./ b": lambda a, b: a / b,
    "3 ./ (1 + abs(a))": lambda a, b: 3 / (1 + a.abs()),
    "a ./ w": lambda a, b: a / WEIGHT,
    "w ./ a": lambda a, b: WEIGHT / a,
    "1 ./ w + a": lambda a, b: 1 / WEIGHT + a,
    "exp(w) .* a": lambda a, b: WEIGHT.exp() * a,
    "sum(a)": lambda a, b: a.sum((1, 2)),
    "mean(a)": lambda a, b: a.mean((1, 2)),
    "sum(a; dim = 1)": lambda a, b: a.sum(1),
    "mean(a; dim = 2)": lambda a, b: a.mean(2),
    "mean(a; dim = [2, 1])": lambda a, b: a.mean((1, 2)),
    "mean([a, b, a])": lambda a, b: (2 * a + b) / 3,
    "sum([a, b])": lambda a, b: a + b,
    "a ./ expand(sqrt(sum(a .^ 2; dim = 2)), a)": lambda a, b: torch.nn.functional.normalize(a, dim=2),
    "a ./ (1e-5 + expand(mean(abs(a); dim = 2), a))": lambda a, b: a / (1e-5 + a.abs().mean(2, True)),
}
WEIGHT = torch.tensor([[0.5, 2.0, -1.0, 3.0]] * 3, dtype=torch.float64)


@pytest.mark.parametrize("line", LINES)
def test_a_line_computes_what_it_says(line: str) -> None:
    lines = ["input a[3, 4], b[3, 4]", "param w[3, 4]", f"output y = {line}, used = w .* a + b"]
    module = implicit_dsl.loads("\n".join(["model Line", *lines, "end"])).Line(dtype=torch.float64)
    with torch.no_grad():
        module.w.copy_(WEIGHT)
    a, b = (torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    expected = LINES[line](a, b)

    actual = module(a, b).y

    assert_close((expected,), (actual,))
    assert_close((expected,), (module.system().solve(a.detach(), b.detach()).y,))
    for one, other in zip(
        *(torch.autograd.grad(y.sin().sum(), (a, b), allow_unused=True) for y in (expected, actual))
    ):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert_close((one,), (other,), 1e-9)


@pytest.mark.parametrize(
    "line, said",
    [
        ("a / b", "`/` does not apply to values of the network entry by entry"),
        ("a^2", "`^` does not apply to values of the network entry by entry"),
        ("2 / a", "`/` does not apply to values of the network entry by entry"),
        ("a .^ b", "`.^` takes a value of the network and a number, or a positive number and a value"),
        ("-2 .^ a .^ b", "`.^` takes a value of the network and a number, or a positive number and a value"),
        ("a ./ c", "values of shapes [3, 4] and [3] cannot be divided entry by entry"),
        ("sum(a; dim = 3)", "a value of shape [3, 4] has no axis 3"),
        ("mean(a; dim = [1, 1])", "`mean` names each axis once"),
        ("mean(a, 2)", "`mean` adds up numbers, or values of the network"),
        ("mean()", "`mean` needs at least one number or value"),
        ("exp(a, b)", "`exp` takes 1 argument, and 2 are given"),
        ("a ./ 0", "division by zero"),
    ],
)
def test_a_wrong_line_is_refused(line: str, said: str) -> None:
    text = f"model Line\n    input a[3, 4], b[3, 4], c[3]\n    output y = {line}, used = a + b, more = c\nend"

    (found,) = check(Source(text)).diagnostics

    assert found.message == said


@pytest.mark.parametrize(
    "equation, proved",
    [
        ("0.5*sin(x) + u", True),
        ("4*(sigmoid(x) .^ 2) + u", False),
        ("sigmoid(x) .^ 2 + u", True),
        ("0.3*(sigmoid(x) .^ 2) + u", True),
        ("0.2*exp(tanh(x)) + u", True),
        ("0.2*exp(x) + u", False),
        ("0.5*tanh(x) ./ (1 + sigmoid(x)) + u", True),
        ("tanh(x) ./ x + u", False),
        ("0.5*log(1 + sigmoid(x)) + u", True),
        ("0.4*sqrt(1 + sigmoid(x)) + u", True),
    ],
)
def test_a_loop_is_proved_where_its_slopes_are_bounded(equation: str, proved: bool) -> None:
    lines = ["input u[3]", f"state x[3] ~ {equation}", "output y = x", "@wellposed unchecked"]
    module = implicit_dsl.loads("\n".join(["model Loop", *lines, "end"])).Loop(dtype=torch.float64)

    assert module.certify().proved is proved
    if proved:
        u = torch.randn(4, 3, dtype=torch.float64)
        x = module(u)
        assert_close((x,), (module.system().solve(u),), 1e-6)
