"""What loops start from, and statistics that follow a solve."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def first_guesses(
    x0: Mapping[str, Tensor] | None,
    like: Tensor,
    shapes: Mapping[str, tuple[int, ...]],
    values: Mapping[str, float | tuple[float, ...]] | None = None,
) -> dict[str, Tensor]:
    """Where the states of loops start: the guesses [batch, *shape] of `x0` by state, else `values`, or zero.

    `like` is an input [batch, …], which gives batch, dtype and device. Raises ValueError for a
    state that is not iterated and for a wrong shape, TypeError for a value that is no tensor.
    """
    given = x0 or {}
    for name in given:
        if name not in shapes:
            known = ", ".join(f"`{state}`" for state in shapes)
            raise ValueError(f"x0 has a guess for `{name}`, but the loops iterate {known}")
    dtype = like.dtype if like.dtype.is_floating_point else torch.get_default_dtype()
    found: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        full = (like.shape[0], *shape)
        guess = given.get(name)
        if guess is None:
            value = (values or {}).get(name)
            if value is None:
                found[name] = like.new_zeros(full, dtype=dtype)
            else:
                found[name] = like.new_tensor(value, dtype=dtype).expand(full).contiguous()
            continue
        if not isinstance(guess, Tensor):
            raise TypeError(f"the guess for `{name}` must be a tensor, but it is a {type(guess).__name__}")
        if guess.shape != full:
            raise ValueError(f"the guess for `{name}` has shape {tuple(guess.shape)}, but must be {full}")
        found[name] = guess.to(like.device, dtype)
    return found


def channels_last(x: Tensor) -> Tensor:
    """x [batch, channels, height, width] with its channels last in memory; a loop keeps that format.

    Under transforms of torch.func it stays as it is: vmap knows no memory formats.
    """
    if torch._C._are_functorch_transforms_active():
        return x
    return x.contiguous(memory_format=torch.channels_last)


def update_statistics(layer: nn.Module, x: Tensor) -> None:
    """Move the running mean and variance of a BatchNorm in a loop towards those of x [batch, channels, …].

    A loop uses the running statistics also in training, so that the map does not change while it
    is solved; they follow once for each solve, from its result, as `nn.BatchNorm` would move them.
    """
    assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
    mean, variance = layer.running_mean, layer.running_var
    if mean is None or variance is None:
        return
    with torch.no_grad():
        axes = [axis for axis in range(x.ndim) if axis != 1]
        count = x.numel() // x.shape[1]
        if count < 2:
            raise ValueError("the statistics of a BatchNorm need more than one value for each channel")
        momentum = layer.momentum
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.add_(1)
            if momentum is None:  # a cumulative average
                momentum = 1.0 / float(layer.num_batches_tracked)
        assert momentum is not None
        values = x.detach().to(mean.dtype)
        mean.lerp_(values.mean(axes), momentum)
        variance.lerp_(values.var(axes, unbiased=True), momentum)
