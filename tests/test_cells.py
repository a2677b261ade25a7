"""Cells of PyTorch as kernels for all steps: the same as step by step, in value and in all derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from implicit_dsl.runtime.elman import ELMAN, elman

PHIS = pytest.mark.parametrize("phi", ELMAN)
SIZES = [(2, 5, 4), (1, 1, 3), (3, 0, 4), (0, 2, 4)]


def given(batch: int, steps: int, n: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """x with time in front in memory, so not contiguous; a start; and a weight."""
    x = torch.randn(steps, batch, n, dtype=dtype).transpose(0, 1)
    start, weight = torch.randn(batch, n, dtype=dtype), torch.randn(n, n, dtype=dtype) / 2
    return tuple(one.requires_grad_() for one in (x, start, weight))


def by_hand(x: Tensor, h: Tensor, weight: Tensor, phi: str) -> tuple[Tensor, Tensor]:
    steps = [x[:, :0]]
    for t in range(x.shape[1]):
        h = ELMAN[phi](x[:, t] + F.linear(h, weight))
        steps.append(h[:, None])
    return torch.cat(steps, 1), h


def same(found: Any, wanted: Any, **within: float) -> None:
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, **within)


@PHIS
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_an_elman_network_is_the_same_as_step_by_step(
    phi: str, size: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    parts = given(*size, dtype=dtype)
    found, wanted = elman(*parts, phi), by_hand(*parts, phi)
    within = {"rtol": 0.05, "atol": 0.05} if dtype is torch.bfloat16 else {}
    same(found, wanted, **within)
    with torch.no_grad():
        same(elman(*parts, phi), wanted, **within)
    g = tuple(map(torch.randn_like, wanted))
    gradients = [
        torch.autograd.grad(values, parts, g, allow_unused=True, materialize_grads=True)
        for values in (found, wanted)
    ]
    same(*gradients, **within)


@pytest.mark.parametrize("phi", ["tanh", "relu"])
def test_it_is_that_of_pytorch(phi: str) -> None:
    twin = nn.RNN(3, 4, nonlinearity=phi, batch_first=True).double()
    u, start = torch.randn(2, 5, 3).double(), torch.randn(2, 4).double()
    x = F.linear(u, twin.weight_ih_l0, twin.bias_ih_l0 + twin.bias_hh_l0)
    found, (steps, last) = elman(x, start, twin.weight_hh_l0, phi), twin(u, start[None])
    same(found, (steps, last[0]))
    found, (steps, last) = elman(x, None, twin.weight_hh_l0, phi), twin(u)
    same(found, (steps, last[0]))
    parameters = list(twin.parameters())
    wanted = torch.autograd.grad(steps.square().sum(), parameters)
    same(torch.autograd.grad(found[0].square().sum(), parameters), wanted)


@PHIS
def test_gradients_of_gradients(phi: str) -> None:
    torch.manual_seed(3)  # no argument of relu is near to zero
    parts = given(2, 3, 3)
    assert torch.autograd.gradcheck(lambda *p: elman(*p, phi), parts)
    assert torch.autograd.gradgradcheck(lambda *p: elman(*p, phi), parts)


@pytest.mark.parametrize("of", range(3))
def test_gradients_of_some_arguments(of: int) -> None:
    parts = [part.detach().requires_grad_(at == of) for at, part in enumerate(given(2, 4, 3))]
    (found,) = torch.autograd.grad(elman(*parts, "tanh")[0].sum(), [parts[of]])
    (wanted,) = torch.autograd.grad(by_hand(*parts, "tanh")[0].sum(), [parts[of]])
    torch.testing.assert_close(found, wanted)


def test_gradients_that_come_from_the_last_step_alone_or_within_autocast() -> None:
    parts = given(2, 4, 3, dtype=torch.float32)
    wanted = torch.autograd.grad(by_hand(*parts, "tanh")[1].sum(), parts)
    same(torch.autograd.grad(elman(*parts, "tanh")[1].sum(), parts), wanted)
    value = elman(*parts, "tanh")[1].sum()
    with torch.autocast("cpu", torch.bfloat16):
        same(torch.autograd.grad(value, parts), wanted, rtol=0.05, atol=0.05)
        same(elman(*parts, "tanh"), by_hand(*parts, "tanh"))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # PyTorch's, in jacfwd
def test_transforms_of_torch_func() -> None:
    x, start, weight = (part.detach() for part in given(2, 4, 3))
    xs = torch.stack([x, 2 * x])
    mapped = torch.vmap(lambda x: elman(x, start, weight, "tanh")[0])(xs)
    same(mapped, [by_hand(x, start, weight, "tanh")[0] for x in xs])
    jacobians = [
        way(lambda W: elman(x, start, W, "tanh")[0])(weight) for way in (torch.func.jacrev, torch.func.jacfwd)
    ]
    wanted = torch.autograd.functional.jacobian(lambda W: by_hand(x, start, W, "tanh")[0], weight)
    same(jacobians, [wanted, wanted])


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return elman(x, None, self.weight, "tanh")


def test_it_is_compiled_and_exported() -> None:
    model, x = Module(), torch.randn(2, 4, 3)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    same(compiled(x), model(x))
    wanted = torch.autograd.grad(model(x)[0].sum(), model.weight)
    same(torch.autograd.grad(compiled(x)[0].sum(), model.weight), wanted)
    same(torch.export.export(model, (x,)).module()(x), model(x))
