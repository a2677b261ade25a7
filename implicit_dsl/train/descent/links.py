"""z = Σ M(θ) x + b(θ): bilinear in weights and states, held at the ones or at the others.

A link is what one row block (a state or an output) reads of one block. Small and dense ones are assembled as
matrices from their ties, where entries of θ stand in M; others, such as convolutions, are applied as
operators, whose adjoints are their vector-Jacobian products. Both count tied parameters once for each place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from implicit_dsl._lazy import lazy_module
from implicit_dsl.matrices import Tie
from implicit_dsl.model import Chain
from implicit_dsl.operators import linear_rule
from implicit_dsl.shapes import sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

Weights: TypeAlias = Mapping[str, Tensor]  # by id, in the shapes of the tensors

SMALL = 1 << 14  # entries of a matrix that is assembled whatever its density
SPARSE = 4  # numbers of an assembled matrix for each of its entries, at most
HUGE = 1 << 26  # numbers of an assembled matrix, at most


@dataclass(frozen=True, eq=False)
class Places:
    """Where the entries of one parameter stand: M.flat[at] += factor · θ.flat[slots]."""

    id: str
    at: Tensor  # [entries]
    slots: Tensor  # [entries]
    factor: Tensor | None  # [entries], None: 1
    count: int  # of θ
    exact: bool  # each entry of θ stands at one place, with factor 1, and no place twice

    @staticmethod
    def of(tie: Tie, width: int, count: int, like: Tensor) -> Places:
        """The places of a tie in a matrix with so many columns, row by row."""
        assert tie.parameter is not None and tie.slots is not None
        at = torch.from_numpy(tie.rows.astype(np.int64) * width + tie.cols)
        slots = torch.from_numpy(tie.slots.astype(np.int64))
        factors = np.broadcast_to(np.asarray(tie.coefficients, np.float64), tie.rows.shape)
        plain = bool((factors == 1.0).all())
        once = plain and len(at) == count == len(torch.unique(slots)) == len(torch.unique(at))
        factor = None if plain else torch.from_numpy(np.array(factors)).to(like)
        return Places(tie.parameter, at.to(like.device), slots.to(like.device), factor, count, once)

    def write(self, theta: Tensor, flat: Tensor) -> None:
        """Add the entries of θ to a matrix, both flat."""
        found = theta.reshape(-1)[self.slots]
        flat.index_add_(0, self.at, found if self.factor is None else found * self.factor)

    def collect(self, flat: Tensor) -> Tensor:
        """The gradient at θ [count] of a function with this gradient at the matrix, both flat."""
        found = flat[self.at]
        if self.factor is not None:
            found = found * self.factor
        return found.new_zeros(self.count).index_add_(0, self.slots, found)


@dataclass(frozen=True, eq=False)
class Matrix:
    """M(θ) [rows, columns], assembled: parameters at their places, and constants."""

    rows: int
    columns: int
    places: tuple[Places, ...]
    fixed: Tensor | None  # [rows · columns]: constants, None where there are none
    like: Tensor

    @staticmethod
    def of(ties: Sequence[Tie], rows: int, columns: int, counts: Mapping[str, int], like: Tensor) -> Matrix:
        """From the ties of a block, numbered within it."""
        places, fixed = [], None
        for tie in ties:
            if tie.parameter is not None:
                places.append(Places.of(tie, columns, counts[tie.parameter], like))
                continue
            fixed = like.new_zeros(rows * columns) if fixed is None else fixed
            at = torch.from_numpy(tie.rows.astype(np.int64) * columns + tie.cols).to(like.device)
            values = np.broadcast_to(np.asarray(tie.coefficients, np.float64), tie.rows.shape)
            fixed.index_add_(0, at, torch.from_numpy(np.array(values)).to(like))
        return Matrix(rows, columns, tuple(places), fixed, like)

    @property
    def ids(self) -> tuple[str, ...]:
        """The parameters in it."""
        return tuple(dict.fromkeys(place.id for place in self.places))

    @cached_property
    def free(self) -> bool:
        """Whether each of its entries is an entry of a parameter of its own."""
        held = [place.at for place in self.places]
        apart = len({place.id for place in self.places}) == len(held)
        return (
            apart
            and self.fixed is None
            and all(place.exact for place in self.places)
            and sum(map(len, held)) == self.rows * self.columns == len(torch.unique(torch.cat(held)))
        )

    def at(self, weights: Weights) -> Tensor:
        """M [rows, columns]."""
        whole = self._whole
        if whole is not None:
            return weights[whole].reshape(self.rows, self.columns)
        flat = self.like.new_zeros(self.rows * self.columns) if self.fixed is None else self.fixed.clone()
        for place in self.places:
            place.write(weights[place.id], flat)
        return flat.view(self.rows, self.columns)

    def collect(self, gradient: Tensor, into: dict[str, Tensor]) -> None:
        """Add the gradients at the parameters, flat, for that at M [rows, columns]."""
        whole = self._whole
        if whole is not None:
            _add(into, whole, gradient.reshape(-1))
            return
        for place in self.places:
            _add(into, place.id, place.collect(gradient.reshape(-1)))

    @cached_property
    def _whole(self) -> str | None:
        """The parameter that is the matrix itself, entry by entry in its order."""
        if not (self.free and len(self.places) == 1):
            return None
        (place,) = self.places
        return place.id if bool((place.at == place.slots).all()) else None


def _add(into: dict[str, Tensor], id: str, gradient: Tensor) -> None:
    into[id] = into[id] + gradient if id in into else gradient


@dataclass(frozen=True, eq=False)
class Link:
    """What a row block reads of one block: a matrix, or chains of operators."""

    source: str
    matrix: Matrix | None
    chains: tuple[Chain, ...] = ()
    buffers: Weights = field(default_factory=dict)  # what the chains read and nobody trains
    ids: tuple[str, ...] = ()

    def apply(self, weights: Weights, x: Tensor) -> Tensor:
        """M x, on [batch, columns] -> [batch, rows]."""
        if self.matrix is not None:
            return x @ self.matrix.at(weights).mT
        return self._through(weights, x)

    def pull(self, weights: Weights, gradient: Tensor, width: int) -> Tensor:
        """Mᵀ g, on [batch, rows] -> [batch, columns], of which there are `width`."""
        if self.matrix is not None:
            return gradient @ self.matrix.at(weights)
        with torch.enable_grad():
            point = gradient.new_zeros(len(gradient), width, requires_grad=True)
            made = self._through(weights, point)
        return torch.autograd.grad(made, point, gradient)[0]

    def collect(self, weights: Weights, x: Tensor, gradient: Tensor, into: dict[str, Tensor]) -> None:
        """Add the gradients at the parameters, flat, for that at M x [batch, rows]."""
        if self.matrix is not None:
            self.matrix.collect(gradient.mT @ x, into)
            return
        if not self.ids:
            return
        with torch.enable_grad():  # M x is linear in θ: the gradient does not depend on where it is taken
            held = {id: weights[id].detach().requires_grad_() for id in self.ids}
            made = self._through({**weights, **held}, x)
        for id, found in zip(self.ids, torch.autograd.grad(made, list(held.values()), gradient)):
            _add(into, id, found.reshape(-1))

    def _through(self, weights: Weights, x: Tensor) -> Tensor:
        total: Tensor | None = None
        for chain in self.chains:
            made = x.reshape(len(x), *sizes(chain[0].source)) if chain else x
            for op in chain:
                tensors = {
                    role: weights[id] if id in weights else self.buffers[id] for role, id in op.parameters
                }
                made = linear_rule(op).apply(op, made, tensors)
            made = made.reshape(len(x), -1)
            total = made if total is None else total + made
        assert total is not None, "a link has a chain"
        return total


@dataclass(frozen=True, eq=False)
class Row:
    """The pre-activation of a state, or an output: z = Σ links + offset."""

    name: str
    size: int
    links: tuple[Link, ...]
    offset: Matrix  # [size, 1]

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The parameters in it, each once."""
        found = [id for link in self.links for id in link.ids]
        return tuple(dict.fromkeys((*found, *self.offset.ids)))

    @cached_property
    def free(self) -> bool:
        """Whether it is a full matrix [links, offset], each entry a parameter of its own."""
        parts = [link.matrix for link in self.links] + ([self.offset] if self.offset.places else [])
        ids = [id for part in parts if part is not None for id in part.ids]
        fixed = self.offset.fixed is not None and not self.offset.places and bool(self.offset.fixed.any())
        return (
            bool(ids)
            and not fixed
            and len(ids) == len(set(ids))
            and all(part is not None and part.free for part in parts)
        )

    def value(self, weights: Weights, states: Weights, without: str = "") -> Tensor:
        """z [batch, size] for blocks [batch, columns] by name, one of which may be left out."""
        batch = len(next(iter(states.values())))
        total = self.offset.at(weights).mT.expand(batch, self.size)
        for link in self.links:
            if link.source != without:
                total = total + link.apply(weights, states[link.source])
        return total

    def collect(self, weights: Weights, states: Weights, gradient: Tensor, into: dict[str, Tensor]) -> None:
        """Add the gradients at the parameters, flat, for that at z [batch, size]."""
        for link in self.links:
            if link.ids:
                link.collect(weights, states[link.source], gradient, into)
        if self.offset.ids:
            self.offset.collect(gradient.sum(0)[:, None], into)


__all__ = ["Link", "Matrix", "Places", "Row", "Weights"]
