"""A module and its translation: the same values, matrices and gradients, in both number types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from implicit_dsl import from_torch
from implicit_dsl.formatting import formatted
from implicit_dsl.source import Source
from implicit_dsl.translation import Translated


def randomised(module: nn.Module, seed: int = 0, keep: Sequence[str] = ()) -> nn.Module:
    """The module with parameters and statistics that are all different, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_floating_point() and name not in keep:
                tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
        for name, tensor in module.named_buffers():
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return module.eval()


def results(made: Any) -> list[Tensor]:
    return [one for one in pytree.tree_leaves(made) if one is not None]


def given(
    module: nn.Module, translated: Translated, inputs: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """What both give, with the batch in front."""
    axes = list(translated.batch_axes.values())
    theirs = results(module(*inputs))
    places = axes[len(axes) - len(theirs) :]
    moved = [one.movedim(axis, 0) for one, axis in zip(inputs, axes)]
    return [one.movedim(at, 0) for one, at in zip(theirs, places)], results(translated.model(*moved))


def distance(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape and a.dtype == b.dtype, (a.shape, b.shape, a.dtype, b.dtype)
    return float((a - b).detach().abs().max() / max(1.0, float(a.detach().abs().max()))) if a.numel() else 0.0


def assert_same(
    module: nn.Module,
    *inputs: Tensor,
    solved: bool = True,
    seed: int = 0,
    slopes: float = 1e-10,
    keep: Sequence[str] = (),
    **settings: Any,
) -> Translated:
    """Exact in float64 (values, matrices, gradients of inputs and weights) and to 1e-6 in float32.

    `slopes` is how exact gradients are, `keep` what is not drawn at random.
    """
    randomised(module, seed, keep)
    single = from_torch(module, inputs, **settings)
    for a, b in zip(*given(module, single, inputs), strict=True):
        assert distance(a, b) < 1e-6
    module.double()
    doubled = [one.double().requires_grad_() if one.is_floating_point() else one for one in inputs]
    translated = from_torch(module, doubled, **settings)
    assert translated.source == single.source
    text, _ = formatted(Source(translated.source))
    assert text == translated.source
    theirs, ours = given(module, translated, doubled)
    for a, b in zip(theirs, ours, strict=True):
        assert distance(a, b) < 1e-11
    if solved:
        axes = translated.batch_axes.values()
        found = translated.system().solve(
            *(one.detach().movedim(axis, 0) for one, axis in zip(doubled, axes))
        )
        for a, b in zip(theirs, results(found), strict=True):
            assert distance(a.detach(), b) < 1e-10
    assert_same_gradients(module, translated, doubled, theirs, ours, slopes)
    return translated


def assert_same_gradients(
    module: nn.Module,
    translated: Translated,
    inputs: Sequence[Tensor],
    theirs: list[Tensor],
    ours: list[Tensor],
    near: float = 1e-10,
) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(one.shape, generator=generator, dtype=torch.float64) for one in theirs]
    original = dict(module.named_parameters(remove_duplicate=False))
    made = dict(translated.model.named_parameters())
    pairs = {old: new for old, new in translated.keys.items() if old in original}
    assert set(pairs) == set(original), "parameters without a place"
    real = [one for one in inputs if one.is_floating_point()]
    learned = [(old, new) for old, new in pairs.items() if original[old].requires_grad]

    def gradients(outputs: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
        loss = sum(((w * y).sum() for w, y in zip(weights, outputs)), torch.zeros((), dtype=torch.float64))
        found = torch.autograd.grad(loss, leaves, allow_unused=True) if leaves else ()
        return [torch.zeros_like(leaf) if one is None else one for one, leaf in zip(found, leaves)]

    for a, b in zip(
        gradients(theirs, [*real, *(original[old] for old, _ in learned)]),
        gradients(ours, [*real, *(made[new] for _, new in learned)]),
        strict=True,
    ):
        assert distance(a, b) < near, distance(a, b)
