"""Faster convolutions: the same as `nn.Conv2d`, under every transformation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from implicit_dsl.runtime import ConvReluMaxPool2d, SingleChannelConv2d, convolution


@pytest.fixture(autouse=True)
def fast_at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_MANY", "_MANY_FOR_GRADIENT", "_MANY_FOR_CORNERS", "_MANY_IMAGES"):
        monkeypatch.setattr(convolution, name, 0)


def pair(*arguments: object, **named: object) -> tuple[nn.Conv2d, SingleChannelConv2d]:
    """Both layers in float64 with the same weights."""
    plain = nn.Conv2d(*arguments, dtype=torch.float64, **named)  # type: ignore[arg-type]
    ours = SingleChannelConv2d(*arguments, dtype=torch.float64, **named)  # type: ignore[arg-type]
    ours.load_state_dict(plain.state_dict())
    return plain, ours


@given(
    st.integers(1, 4), st.tuples(st.integers(1, 3), st.integers(1, 3)), st.integers(1, 3), st.integers(0, 2),
    st.booleans(), st.integers(0, 5),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_values_and_gradients(
    width: int, kernel: tuple[int, int], stride: int, pad: int, bias: bool, batch: int
) -> None:
    plain, ours = pair(1, width, kernel, stride=stride, padding=pad, bias=bias)
    x = torch.randn(batch, 1, 7, 6, dtype=torch.float64)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, actual = plain(one), ours(other)
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (actual * weight).sum().backward()

    assert torch.equal(expected, actual)
    torch.testing.assert_close(one.grad, other.grad)
    for theirs, mine in zip(plain.parameters(), ours.parameters()):
        torch.testing.assert_close(theirs.grad, mine.grad)


def test_large_batches_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, ours = pair(1, 3, 3)
    x = torch.randn(7, 1, 6, 6, dtype=torch.float64)
    expected = torch.autograd.grad(plain(x).square().sum(), plain.weight)[0]
    monkeypatch.setattr(convolution, "_MOST_ENTRIES", 2 * 4 * 4 * 9)

    torch.testing.assert_close(expected, torch.autograd.grad(ours(x).square().sum(), ours.weight)[0])


def test_second_derivatives() -> None:
    _, ours = pair(1, 2, 2, padding=1)
    x = torch.randn(2, 1, 3, 4, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(ours, {"weight": weight, "bias": bias}, (x,))

    given_tensors = (x, *(p.detach().requires_grad_() for p in ours.parameters()))
    assert torch.autograd.gradcheck(function, given_tensors)
    assert torch.autograd.gradgradcheck(function, given_tensors)


def test_gradients_of_single_samples() -> None:
    plain, ours = pair(1, 2, 3)
    x = torch.randn(4, 1, 5, 5, dtype=torch.float64)

    def gradients(layer: nn.Module) -> dict[str, Tensor]:
        def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
            return torch.func.functional_call(layer, parameters, (sample[None],)).square().sum()

        return torch.func.vmap(torch.func.grad(loss), (None, 0))(dict(layer.named_parameters()), x)

    for name, expected in gradients(plain).items():
        torch.testing.assert_close(expected, gradients(ours)[name])


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_autocast_and_torch_compile() -> None:
    plain, ours = (layer.float() for layer in pair(1, 2, 3))
    x = torch.randn(4, 1, 5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, actual = plain(x), ours(x)
    actual.float().sum().backward()

    assert expected.dtype == actual.dtype == torch.bfloat16
    assert torch.equal(expected, actual)
    assert ours.weight.grad is not None
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(plain(x), compiled(x))


def test_frozen_weights_and_hooks() -> None:
    _, ours = pair(1, 2, 3)
    ours.weight.requires_grad_(False)
    seen = []
    ours.register_forward_hook(lambda *_: seen.append(True))
    ours(torch.randn(2, 1, 4, 4, dtype=torch.float64)).sum().backward()

    assert seen == [True]
    assert ours.weight.grad is None
    assert ours.bias is not None and ours.bias.grad is not None


@given(
    st.integers(1, 3), st.integers(1, 3), st.tuples(st.integers(1, 5), st.integers(1, 5)), st.integers(0, 2),
    st.booleans(), st.integers(0, 3),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_convolution_relu_and_pooling_in_one(
    channels: int, width: int, kernel: tuple[int, int], pad: int, bias: bool, batch: int
) -> None:
    for name in ("_MANY", "_MANY_FOR_CORNERS"):
        setattr(convolution, name, 0)
    plain = nn.Conv2d(channels, width, kernel, padding=pad, bias=bias, dtype=torch.float64)
    ours = ConvReluMaxPool2d(channels, width, kernel, padding=pad, bias=bias, dtype=torch.float64)
    ours.load_state_dict(plain.state_dict())
    size = [6 + k - 1 - 2 * pad for k in kernel]
    x = torch.randn(batch, channels, *(max(s, 2 + k - 1 - 2 * pad) for s, k in zip(size, kernel))).double()
    if min(x.shape[2:]) < 1:
        return
    expected = torch.nn.functional.max_pool2d(torch.relu(plain(x)), 2)

    torch.testing.assert_close(expected, ours(x))
    with torch.no_grad():
        torch.testing.assert_close(expected, ours(x), rtol=1e-12, atol=1e-12)
