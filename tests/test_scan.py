"""The scan of a linear recurrence: the same as step by step, in value and in all derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from implicit_dsl.runtime.scan import ScanFunction, scan

SIZES = [(2, steps, 3) for steps in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 64, 100)] + [(0, 5, 3), (40, 50, 20)]
FACTORS = ["each", "of a sample", "of a step", "the same", "a vector", "a number"]


def given(size: tuple[int, int, int], kind: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    batch, steps, n = size
    shapes = {
        "each": size,
        "of a sample": (batch, 1, n),
        "of a step": (1, steps, n),
        "the same": (1, 1, 1),
        "a vector": (n,),
        "a number": (),
    }
    shape = shapes[kind]
    parts = (
        torch.randn(shape, dtype=dtype),
        torch.randn(size, dtype=dtype),
        torch.randn(batch, n, dtype=dtype),
    )
    return tuple(part.requires_grad_() for part in parts)


def by_hand(a: Tensor, b: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    factors, steps = a.expand(b.shape), [b[:, :0]]
    for t in range(b.shape[1]):
        h = factors[:, t] * h + b[:, t]
        steps.append(h[:, None])
    return torch.cat(steps, 1), h


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", FACTORS)
def test_values_and_gradients(size: tuple[int, int, int], kind: str) -> None:
    parts = given(size, kind)
    found, wanted = scan(*parts), by_hand(*parts)
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    g = torch.randn_like(wanted[0])
    gradients = [
        torch.autograd.grad(value, parts, g, allow_unused=True, materialize_grads=True)
        for value in (found[0], wanted[0])
    ]
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", FACTORS)
@pytest.mark.parametrize("steps", [3, 37])
def test_gradients_of_gradients(kind: str, steps: int) -> None:
    parts = given((1, steps, 2), kind)
    if kind != "each":
        parts = (parts[0].detach().tanh().requires_grad_(), *parts[1:])
    assert torch.autograd.gradcheck(scan, parts)
    assert torch.autograd.gradgradcheck(scan, parts)


def test_no_start_and_a_number() -> None:
    _, b, h = given((2, 9, 3), "each")
    for one, other in zip(scan(0.5, b, None), by_hand(b.new_tensor(0.5), b, torch.zeros_like(h))):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("size", [(1, 3000, 2), (30, 3000, 20)])
def test_long_sequences_neither_overflow_nor_divide(size: tuple[int, int, int]) -> None:
    """Products of factors underflow to zero, or are zero from the start: what they would divide is lost."""
    a, b, h = (part.detach() for part in given(size, "each", torch.float32))
    a = torch.sigmoid(a) * (torch.rand(size) > 0.1)
    a[:, :, 0] = -1.0
    parts = [part.requires_grad_() for part in (a, b, h)]
    found, wanted = scan(*parts)[0], by_hand(*(part.double() for part in parts))[0]
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)
    gradients = [torch.autograd.grad(value.sum(), parts) for value in (found, wanted)]
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-2)


def test_memory_grows_with_the_steps_alone() -> None:
    """What is kept for gradients are the factors, the start and h."""
    kept: list[Tensor] = []
    parts = given((2, 100, 3), "each")
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        ScanFunction.apply(*parts)
    assert sum(one.numel() for one in kept) == 2 * parts[1].numel() + parts[2].numel()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # PyTorch's, in jvp
def test_transforms_and_compiled_graphs() -> None:
    a, b, h = (part.detach() for part in given((2, 7, 3), "each"))
    mapped = torch.vmap(lambda b: scan(a, b, h)[0])(torch.stack([b, 2 * b]))
    torch.testing.assert_close(mapped[1], by_hand(a, 2 * b, h)[0])
    _, tangent = torch.func.jvp(lambda a: scan(a, b, h)[0], (a,), (b,))
    _, wanted = torch.func.jvp(lambda a: by_hand(a, b, h)[0], (a,), (b,))
    torch.testing.assert_close(tangent, wanted)
    compiled = torch.compile(scan, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(a, b, h)[0], by_hand(a, b, h)[0])
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(scan(a, b, h)[0], by_hand(a, b, h)[0])
