"""The map of a dense equilibrium or of its adjoint on some rows, evaluated without allocation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from implicit_dsl.runtime.dense.activation import Activation


@dataclass(frozen=True, slots=True)
class Rows:
    """f(x) = φ(x R + c), or slope ⊙ (x R + c), row by row.

    R (n, n) is Aᵀ for the equilibrium and A for the adjoint. `packed` is Rᵀ in the blocked
    layout of oneDNN, if that is faster here.
    """

    right: Tensor
    c: Tensor
    phi: Activation | None = None
    slope: Tensor | None = None
    packed: Tensor | None = None

    def step(self, x: Tensor, out: Tensor) -> Tensor:
        """f(x), written to `out`."""
        if self.packed is None:
            torch.addmm(self.c, x, self.right, out=out)
        else:
            out = packed_product(x, self.c, self.packed)
        if self.phi is not None:
            return self.phi.apply_(out)
        return out if self.slope is None else out.mul_(self.slope)

    def take(self, index: Tensor) -> Rows:
        """The same map on the rows of `index`."""
        slope = None if self.slope is None else self.slope.index_select(0, index)
        return replace(self, c=self.c.index_select(0, index), slope=slope)

    def between(self, first: int, last: int) -> Rows:
        """The same map on the rows from one to before another: views."""
        slope = None if self.slope is None else self.slope[first:last]
        return replace(self, c=self.c[first:last], slope=slope)

    def first(self) -> Tensor:
        """Where to start when nothing is known: f(0), at the price of no product."""
        start = self.c.clone()
        if self.phi is not None:
            return self.phi.apply_(start)
        return start if self.slope is None else start.mul_(self.slope)


def packed_product(x: Tensor, c: Tensor, packed: Tensor) -> Tensor:
    """c + x Wᵀ for a packed W, by oneDNN."""
    product: Tensor = _oneDNN()._linear_pointwise.binary(x, c, packed, None, "add")
    return product


def pack(weight: Tensor, rows: int) -> Tensor:
    """W (n, n) in the layout that oneDNN prefers for a batch of `rows`."""
    packed: Tensor = _oneDNN()._reorder_linear_weight(weight.contiguous(), rows)
    return packed


def _oneDNN() -> Any:
    return torch.ops.mkldnn
