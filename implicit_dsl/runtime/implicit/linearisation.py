"""A map at one point as a linear map that can be applied, transposed and pulled back many times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]


class Linearisation:
    """z = h(x; θ) near a point, from one evaluation of h.

    Only what is asked for is computed: `transposed` differentiates by x alone, also where θ
    needs gradients. All tensors are plain (no functorch transform), and no result leads back to x or θ.
    """

    def __init__(
        self,
        function: Callable[..., Tensor | Tensors],
        x: Sequence[Tensor],
        rest: Sequence[Tensor],
        needed: Sequence[bool] = (),
    ) -> None:
        wanted = tuple(needed) or (False,) * len(rest)
        self._x = tuple(tensor.detach().requires_grad_() for tensor in x)
        self._rest = tuple(t.detach().requires_grad_(need) for t, need in zip(rest, wanted))
        self._wanted = tuple(t for t in self._rest if t.requires_grad)
        with torch.enable_grad():
            z = as_tuple(function(*self._x, *self._rest))
        self._live = tuple(number for number, part in enumerate(z) if part.requires_grad)
        self._z = z
        self._dual: tuple[Tensors, Tensors] | None = None

    @property
    def value(self) -> Tensors:
        """h at the point."""
        return tuple(part.detach() for part in self._z)

    @property
    def graph(self) -> tuple[Tensors, Tensors]:
        """h with its graph, and the leaves of this."""
        return self._z, (*self._x, *self._rest)

    def transposed(self, cotangents: Sequence[Tensor]) -> Tensors:
        """(∂h/∂x)ᵀ applied to one tensor for each z: differentiable by these, where autograd follows them."""
        followed = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in cotangents)
        return self._gradients(self._x, cotangents, keep=True, differentiable=followed)

    def pullback(self, cotangents: Sequence[Tensor]) -> Tensors:
        """(∂h/∂θ)ᵀ for the θ that are needed. Frees the linearisation: the last use of it."""
        return self._gradients(self._wanted, cotangents, keep=False)

    def along(self, tangents: Sequence[Tensor]) -> Tensors:
        """(∂h/∂x) applied to one tensor for each x, differentiable as `transposed` is.

        The transposed of the transposed: w ↦ Jᵀw is linear, and its derivative by w, transposed,
        is J. Forward mode would be shorter, but PyTorch does not nest it.
        """
        if self._dual is None:
            with torch.enable_grad():
                w = tuple(torch.zeros_like(part).requires_grad_() for part in self._z)
                self._dual = w, self._gradients(self._x, w, keep=True, differentiable=True)
        w, pulled = self._dual
        live = [number for number, part in enumerate(pulled) if part.requires_grad]
        if not live:
            return tuple(torch.zeros_like(part) for part in w)
        return torch.autograd.grad(
            [pulled[number] for number in live],
            w,
            [tangents[number] for number in live],
            retain_graph=True,
            create_graph=torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tangents),
            allow_unused=True,
            materialize_grads=True,
        )

    def _gradients(
        self, inputs: Tensors, cotangents: Sequence[Tensor], keep: bool, differentiable: bool = False
    ) -> Tensors:
        if not self._live or not inputs:
            return tuple(torch.zeros_like(tensor) for tensor in inputs)
        return torch.autograd.grad(
            [self._z[number] for number in self._live],
            inputs,
            [cotangents[number] for number in self._live],
            retain_graph=keep or differentiable,
            create_graph=differentiable,
            allow_unused=True,
            materialize_grads=True,
        )


def slope(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """The derivative of an elementwise function at each element of z."""
    at = z.detach().requires_grad_()
    with torch.enable_grad():
        value = function(at)
    if not value.requires_grad:  # a constant
        return torch.zeros_like(z)
    (derivative,) = torch.autograd.grad(value, at, torch.ones_like(value))
    return derivative


def as_tuple(result: Tensor | Tensors) -> Tensors:
    """The states that a step returns: one tensor stands for a tuple of one."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def vjp(function: Callable[..., Any], *x: Tensor) -> tuple[Any, Callable[..., Tensors]]:
    """The value of a function at x, and its transposed derivative there: itself differentiable."""
    made = torch.func.vjp(function, *x)
    return made[0], made[1]
