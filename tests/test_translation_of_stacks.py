"""Random stacks of layers, and names that were chosen to do harm."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from translating import assert_same

from implicit_dsl import from_torch

Layers = list[nn.Module]
ELEMENTWISE: list[Callable[[], nn.Module]] = [
    nn.ReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.PReLU,
    nn.LeakyReLU,
    nn.Softplus,
    nn.Identity,
    lambda: nn.Dropout(0.2),
]


class Skip(nn.Module):
    """x and f(x), added or side by side."""

    def __init__(self, inner: nn.Module, dim: int | None) -> None:
        super().__init__()
        self.inner, self.dim = inner, dim

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x) if self.dim is None else torch.cat([x, self.inner(x)], dim=self.dim)


@st.composite
def vector_layers(draw: st.DrawFn, width: int, most: int = 5) -> tuple[Layers, int]:
    """Layers for vectors [batch, width], and the width behind them."""
    made: Layers = []
    for _ in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from(["dense", "act", "act", "norm", "skip", "cat", "softmax"]))
        if kind == "dense":
            after = draw(st.integers(1, 5))
            made.append(nn.Linear(width, after, bias=draw(st.booleans())))
            width = after
        elif kind == "act":
            made.append(draw(st.sampled_from(ELEMENTWISE))())
        elif kind == "norm":
            made.append(
                draw(st.sampled_from([nn.BatchNorm1d, nn.LayerNorm] if width > 1 else [nn.BatchNorm1d]))(
                    width
                )
            )
        elif kind == "softmax":
            made.append(nn.Softmax(dim=draw(st.sampled_from([1, -1]))))
        else:
            inner = nn.Sequential(nn.Linear(width, width), draw(st.sampled_from(ELEMENTWISE))())
            made.append(Skip(inner, None if kind == "skip" else 1))
            width *= 1 if kind == "skip" else 2
    return made, width


@st.composite
def image_layers(draw: st.DrawFn) -> tuple[Layers, tuple[int, ...]]:
    """Layers for images, then for vectors, and the shape of the images."""
    channels, rows, columns = draw(st.integers(1, 3)), draw(st.integers(4, 7)), draw(st.integers(4, 7))
    shape, made = (channels, rows, columns), list[nn.Module]()
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["conv", "conv", "act", "norm", "pool", "skip", "flip"]))
        least = min(rows, columns)
        if kind == "conv":
            kernel, pad = draw(st.integers(1, min(3, least))), draw(st.integers(0, 1))
            after, stride = draw(st.integers(1, 4)), draw(st.integers(1, 2))
            mode = draw(st.sampled_from(["zeros", "circular", "replicate"]))
            made.append(nn.Conv2d(channels, after, kernel, stride, pad, padding_mode=mode))
            channels, rows, columns = (
                after,
                *((n + 2 * pad - kernel) // stride + 1 for n in (rows, columns)),
            )
        elif kind == "act":
            made.append(draw(st.sampled_from(ELEMENTWISE))())
        elif kind == "norm":
            groups = draw(st.sampled_from([n for n in range(1, channels + 1) if channels % n == 0]))
            norm = (
                nn.GroupNorm(groups, channels)
                if channels * rows * columns > groups
                else nn.BatchNorm2d(channels)
            )
            made.append(draw(st.sampled_from([nn.BatchNorm2d(channels), norm])))
        elif kind == "pool" and least >= 2:
            made.append(draw(st.sampled_from([nn.MaxPool2d, nn.AvgPool2d]))(2))
            rows, columns = rows // 2, columns // 2
        elif kind == "skip":
            made.append(Skip(nn.Conv2d(channels, channels, 3, padding=1), draw(st.sampled_from([None, 1]))))
            channels *= 1 if made[-1].dim is None else 2
    made.append(nn.Flatten())
    behind, _ = draw(vector_layers(channels * rows * columns, 3))
    return [*made, *behind], shape


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_stacks_for_vectors(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 5))
    layers, _ = data.draw(vector_layers(width))

    assert_same(nn.Sequential(*layers), torch.randn(3, width), slopes=1e-8)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(image_layers())
def test_stacks_for_images(drawn: tuple[Layers, tuple[int, ...]]) -> None:
    layers, shape = drawn

    assert_same(nn.Sequential(*layers), torch.randn(2, *shape), slopes=1e-8)


NAMES = [
    "end",
    "model",
    "relu",
    "A",
    "self",
    "weight",
    "class",
    "0",
    "1x",
    "_",
    "λ",
    "x y",
    'a"b',
    "a\nend\nmodel B",
    "forward",
]


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.one_of(st.sampled_from(NAMES), st.text(min_size=1, max_size=8)),
        min_size=1,
        max_size=4,
        unique=True,
    )
)
def test_names_are_only_names(names: list[str]) -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            made = {}
            for name, layer in self._modules.items():
                x = made[name] = torch.relu(layer(x))
            return made

    module = Named()
    for name in names:
        if "." in name or hasattr(module, name):
            continue
        module.add_module(name, nn.Linear(3, 3))
    if not module._modules:
        return
    Named.__name__ = names[0].replace("\0", "")

    made = from_torch(module, torch.randn(2, 3))

    kept = [name for name in names if name in module._modules]
    assert len(made.keys) == 2 * len(kept) == len(set(made.keys.values()))
    assert len(made.batch_axes) == 1 + len(kept)
    assert all(name.isidentifier() for name in made.batch_axes)
