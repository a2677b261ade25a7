"""The fused relu and max-pooling: the same numbers, the same gradients, under every transformation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from implicit_dsl.runtime import convolution as pooling


@pytest.fixture(autouse=True)
def fused_at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "_MANY", 0)
    monkeypatch.setattr(pooling, "_MANY_FOR_GRADIENT", 0)


def plain(z: Tensor) -> Tensor:
    return F.max_pool2d(F.relu(z), 2)


@st.composite
def images(draw: st.DrawFn) -> Tensor:
    """Small integers, so that ties and zeros abound."""
    shape = [draw(st.integers(1, 3)), draw(st.integers(1, 3)), *(2 * draw(st.integers(1, 4)) for _ in "hw")]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return torch.randint(-2, 3, shape, generator=generator).double()


@given(images())
@settings(max_examples=60, deadline=None)
def test_values_and_gradients_are_those_of_the_plain_path(z: Tensor) -> None:
    pooling._MANY = pooling._MANY_FOR_GRADIENT = 0
    one, other = z.clone().requires_grad_(), z.clone().requires_grad_()
    expected, actual = plain(one), pooling.relu_max_pool2d(other)
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (actual * weight).sum().backward()

    assert torch.equal(expected, actual)
    assert torch.equal(one.grad, other.grad)
    with torch.no_grad():
        assert torch.equal(expected, pooling.relu_max_pool2d(z))


def test_nan_is_not_hidden() -> None:
    z = torch.zeros(1, 1, 4, 4)
    z[0, 0, 1, 1] = float("nan")

    assert torch.equal(plain(z).isnan(), pooling.relu_max_pool2d(z).isnan())


def test_second_derivatives() -> None:
    z = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(pooling.relu_max_pool2d, (z,))
    assert torch.autograd.gradgradcheck(pooling.relu_max_pool2d, (z,))


def test_vmap_and_gradients_of_single_samples() -> None:
    z, w = torch.randn(5, 3, 4, 4), torch.randn(5, 3, 2, 2)

    def loss(sample: Tensor, weight: Tensor, pool=pooling.relu_max_pool2d) -> Tensor:
        return (pool(sample[None])[0] * weight).sum()

    expected = torch.func.vmap(torch.func.grad(lambda a, b: loss(a, b, plain)))(z, w)
    assert torch.equal(expected, torch.func.vmap(torch.func.grad(loss))(z, w))
    leaf = z.clone().requires_grad_()
    pooled = pooling.relu_max_pool2d(leaf)
    seeds = torch.eye(pooled.numel()).reshape(-1, *pooled.shape)
    batched = torch.autograd.grad(pooled, leaf, seeds, is_grads_batched=True)[0]
    assert torch.equal(batched[7], torch.autograd.grad(plain(leaf), leaf, seeds[7])[0])


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_torch_compile_takes_it_whole() -> None:
    z = torch.randn(2, 3, 4, 4, requires_grad=True)
    compiled = torch.compile(pooling.relu_max_pool2d, fullgraph=True, backend="aot_eager")

    assert torch.equal(plain(z), compiled(z))
    expected = torch.autograd.grad(plain(z).sum(), z)[0]
    assert torch.equal(expected, torch.autograd.grad(compiled(z).sum(), z)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_and_memory_format(dtype: torch.dtype) -> None:
    z = torch.randn(2, 3, 4, 4, dtype=dtype).to(memory_format=torch.channels_last)

    assert torch.equal(plain(z), pooling.relu_max_pool2d(z))
    assert pooling.relu_max_pool2d(z[:0]).shape == (0, 3, 2, 2)
