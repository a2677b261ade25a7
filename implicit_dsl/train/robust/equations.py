"""The equations of a model, x = φ(A x + B u + b) and y = C x + D u + d, differentiable in its weights.

Chains of operators are applied as they are, so that a convolution needs no matrix; with absolute weights they
carry radii. Where several terms meet in one block, |M₁ + M₂| is that of the sum, which is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from implicit_dsl import runtime
from implicit_dsl.matrices import Layout
from implicit_dsl.model import Block, Chain, ImplicitModel
from implicit_dsl.operators import activation_rule, linear_rule
from implicit_dsl.operators.base import Expression, Operator
from implicit_dsl.runtime.measures.assembled import cells_of_layout
from implicit_dsl.runtime.measures.cells import Cells
from implicit_dsl.runtime.measures.resolvent import Places, product
from implicit_dsl.shapes import count, sizes

Interval: TypeAlias = tuple[Tensor, Tensor]  # lower and upper, or centre and radius: [batch, *shape] each


class Equations:
    """The blocks of a model without free sizes, and what of them does not change with the weights."""

    def __init__(self, model: ImplicitModel) -> None:
        """Raises ValueError for a model with an activation that is not monotone, by the name of its state."""
        self.model = model
        self.loop_of = {name: loop for loop in model.loops for name in loop.states}
        for block in model.states:
            phi = block.activation
            if phi is not None and not activation_rule(phi).monotone(phi):
                raise ValueError(
                    f"{block.phi} of `{block.name}` is not monotone, and intervals are known of monotone "
                    "activations: relu, tanh, sigmoid and others, max-pooling, maxima and minima"
                )
        self._summed: dict[tuple[str, str, str], Cells] = {}

    def meets(self, chains: list[Chain]) -> bool:
        """Whether numbers of a block are sums, so that the absolute values of its parts are above its own."""
        return len(chains) > 1 or any(linear_rule(operator).overlap(operator) > 1 for operator in chains[0])

    def matrix_of(self, source: str, target: str) -> str:
        """A, B, C or D: where the block from an input or a state to a state or an output stands."""
        of_inputs = any(block.name == source for block in self.model.inputs)
        if any(block.name == target for block in self.model.states):
            return "B" if of_inputs else "A"
        return "D" if of_inputs else "C"

    def chains(self, target: str) -> dict[str, list[Chain]]:
        """What a state or an output reads, by the names of inputs and states."""
        found: dict[str, list[Chain]] = {}
        for term in self.model.terms_of[target]:
            if term.source is not None:
                found.setdefault(term.source, []).append(term.chain)
        return found

    def cells(self, matrix: str, row: str, col: str) -> Cells | None:
        """The entries of a block as numbers times weights; None where they are not, as for statistics."""
        key = (matrix, row, col)
        if key not in self._summed:
            terms = self.model.terms_of[row]
            chains = [term.chain for term in terms if term.source == col or matrix in ("b", "d")]
            if not all(_is_linear(operator) for chain in chains for operator in chain):
                return None
            layout = Layout.of(self.model, matrix, "lower").block(row, col)
            self._summed[key] = cells_of_layout(layout)
        return self._summed[key]


class Weighted:
    """The equations with tensors by id, which gradients reach; `like` has the dtype and device of all."""

    def __init__(
        self,
        equations: Equations,
        tensors: Mapping[str, Tensor],
        like: Tensor,
        summed: Mapping[tuple[str, str], Tensor] | None = None,
    ) -> None:
        """`summed` are the entries of blocks |M| by (to, from) where they are known already."""
        self.equations, self.like = equations, like
        self.tensors = {id: t.to(like) if t.is_floating_point() else t for id, t in tensors.items()}
        self.summed = dict(summed or {})

    def centre(self, chain: Chain, x: Tensor) -> Tensor:
        """M x, without an offset, for x [batch, *source]."""
        for operator in chain:
            x = linear_rule(operator).apply(operator, x, self._roles(operator))
        return x

    def radius(self, target: str, source: str, chains: list[Chain], r: Tensor) -> Tensor:
        """|M| r ≥ 0 for the block of a state that is the sum of some chains, and r ≥ 0."""
        values = self.entries(target, source, chains)
        if values is None:
            return torch.stack([self._absolute(chain, r) for chain in chains]).sum(0)
        cells = self.equations.cells(self.equations.matrix_of(source, target), target, source)
        assert cells is not None, "its entries were found"
        places = Places(cells.rows, cells.columns, cells.shape).to(r)
        flat = product(values, r.flatten(1).T.contiguous(), places).T
        longest = max(chains, key=len)
        return flat.reshape(len(r), *(sizes(longest[-1].target) if longest else r.shape[1:]))

    def entries(self, target: str, source: str, chains: list[Chain]) -> Tensor | None:
        """|M| of a block in which terms meet [entries]; None if none do, or if they are not linear."""
        if not self.equations.meets(chains):
            return None
        if (target, source) not in self.summed:
            cells = self.equations.cells(self.equations.matrix_of(source, target), target, source)
            if cells is None:
                return None
            self.summed[target, source] = self._values(cells).abs()
        return self.summed[target, source]

    def _absolute(self, chain: Chain, r: Tensor) -> Tensor:
        for operator in chain:
            rule = linear_rule(operator)
            own, tensors = rule.absolute(operator, self._roles(operator))
            r = rule.apply(own, r, tensors)
        return r

    def _roles(self, operator: Operator) -> dict[str, Tensor]:
        return {role: self.tensors[id] for role, id in operator.parameters}

    def _values(self, cells: Cells) -> Tensor:
        return cells.values({"": self.like.new_zeros(0), **self.tensors})

    def rows(self, target: str, source: str) -> Tensor:
        """The block of an output as a matrix [outputs, size of the source]."""
        block = self.equations.model.blocks[source]
        cells = self.equations.cells(self.equations.matrix_of(source, target), target, source)
        if cells is not None:
            at = cells.rows.to(self.like.device), cells.columns.to(self.like.device)
            return self.like.new_zeros(cells.shape).index_put(at, self._values(cells))
        units = torch.eye(count(block.shape), dtype=self.like.dtype, device=self.like.device)
        chains = self.equations.chains(target)[source]
        units = units.reshape(-1, *sizes(block.shape))
        return torch.stack([self.centre(chain, units).flatten(1) for chain in chains]).sum(0).T

    def offset(self, target: str, shape: tuple[int, ...], matrix: str) -> Tensor:
        """The part of b, or of d, of a block [*shape]."""
        cells = self.equations.cells(matrix, target, "1")
        if cells is None:
            layout = Layout.of(self.equations.model, matrix, "lower").block(target, "1")
            return self._offset_by_ties(layout).reshape(shape)
        at = (cells.rows.to(self.like.device),)
        return self.like.new_zeros(cells.shape[0]).index_put(at, self._values(cells)).reshape(shape)

    def _offset_by_ties(self, layout: Layout) -> Tensor:
        """An offset whose coefficients are made of statistics, which are read as they are now."""
        read = {id: tensor.detach().double().cpu().numpy() for id, tensor in self.tensors.items()}
        made = self.like.new_zeros(layout.rows.total)
        for tie in layout.ties(read):
            coefficients = torch.as_tensor(tie.coefficients).to(self.like)
            values = coefficients.expand(len(tie.rows))
            if tie.parameter is not None and tie.slots is not None:
                slots = torch.from_numpy(tie.slots).long().to(self.like.device)
                values = values * self.tensors[tie.parameter].flatten()[slots]
            made = made.index_add(0, torch.from_numpy(tie.rows).long().to(self.like.device), values)
        return made

    def read(self, target: Block, values: Mapping[str, Interval], like: Interval) -> Interval:
        """Centre M c and radius |M| r of what a state reads of some inputs and states, added to `like`."""
        centre, radius = like
        for source, chains in self.equations.chains(target.name).items():
            if source in values:
                lower, upper = values[source]
                middle, half = (lower + upper) / 2, (upper - lower) / 2
                for chain in chains:
                    centre = centre + self.centre(chain, middle)
                radius = radius + self.radius(target.name, source, chains, half)
        return centre, radius

    def offsets(self, target: Block, batch: int) -> Interval:
        """Centre and radius of the offset of a state [batch, *slots]."""
        offset = self.offset(target.name, sizes(target.slots), "b")
        centre = offset.expand(batch, *offset.shape)
        return centre, torch.zeros_like(centre)


def activated(block: Block, z: Interval) -> Interval:
    """Lower and upper bounds of a state, whose activation is monotone, for z = centre ± radius."""
    lower, upper = z[0] - z[1], z[0] + z[1]
    if block.activation is None:
        return lower, upper
    phi = function_of(block.activation)
    return phi(lower), phi(upper)


@lru_cache(maxsize=512)
def function_of(activation: Operator) -> Callable[[Tensor], Tensor]:
    """φ on z [batch, *slots], as generated code has it."""
    text = activation_rule(activation).emit(activation, Expression("z")).text
    names = {"torch": torch, "F": F, "math": math, "runtime": runtime}
    found: Callable[[Tensor], Tensor] = eval(f"lambda z: {text}", names)
    return found


def _is_linear(operator: Operator) -> bool:
    """Whether the entries of an operator are numbers times its weights."""
    return {role for role, _ in operator.parameters} <= {"weight", "bias"}


__all__ = ["Equations", "Interval", "Weighted", "activated", "function_of"]
