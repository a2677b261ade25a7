"""A compiled module as a lifted model: its rows, activations and tensors, and which models have one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from implicit_dsl.matrices import Layout, Tie
from implicit_dsl.model import Block, Chain, ImplicitModel
from implicit_dsl.operators import linear_rule
from implicit_dsl.runtime.solution import Status
from implicit_dsl.runtime.solvers import Auto, Equation, Newton
from implicit_dsl.runtime.solvers.solve import solve
from implicit_dsl.runtime.system import System
from implicit_dsl.shapes import count
from implicit_dsl.train.descent.fenchel import Activation, activation_of
from implicit_dsl.train.descent.links import HUGE, SMALL, SPARSE, Link, Matrix, Row, Weights

if TYPE_CHECKING:
    import numpy as np

_MOST_SWEEPS = 500  # of a loop, before Newton's method is tried


class OutsideFamilyError(ValueError):
    """A model that cannot be lifted, with the state or parameter that is the reason."""


@dataclass(frozen=True, eq=False)
class Lifted:
    """z = A x + B u + b and y = C x + D u + d of a module, whose states x are free variables.

    Blocks are [batch, entries]; `weights` are the tensors that are trained, by id. `trained` are those that
    have a gradient, the others stay.
    """

    model: ImplicitModel
    rows: Mapping[str, Row]  # of the states, in the order in which they are computed
    outputs: Mapping[str, Row]
    activations: Mapping[str, Activation]
    weights: Weights
    trained: frozenset[str]

    @staticmethod
    def of(module: nn.Module, system: System, dtype: torch.dtype) -> Lifted:
        """The lifted model of a module. Raises OutsideFamilyError."""
        model = system.model
        _refuse_made(module, model)
        activations: dict[str, Activation] = {}
        for block in model.states:
            found = activation_of(block)
            if isinstance(found, str):
                raise OutsideFamilyError(f"{model.name} cannot be lifted at `{block.name}`: {found}")
            activations[block.name] = found
        held = dict(module.named_parameters())
        device = next((p.device for p in held.values()), torch.device("cpu"))
        like = torch.empty(0, dtype=dtype, device=device)
        tensors = {id: torch.from_numpy(w).to(like) for id, w in system.weights.items()}
        learned = {tensor.id for tensor in model.tensors if tensor.trainable}
        weights = {id: tensor for id, tensor in tensors.items() if id in learned}
        trained = frozenset(id for id in weights if id not in held or held[id].requires_grad)
        if not trained:
            raise OutsideFamilyError(f"{model.name} has nothing to train: no parameter has a gradient")
        made = _Rows(system, tensors, weights, like)
        return Lifted(
            model,
            {block.name: made.row(block, "A", "B", "b") for block in model.states},
            {block.name: made.row(block, "C", "D", "d") for block in model.outputs},
            activations,
            weights,
            trained,
        )

    @cached_property
    def readers(self) -> dict[str, tuple[Row, ...]]:
        """The rows that read each state, those of outputs last; a state may read itself."""
        found: dict[str, tuple[Row, ...]] = dict.fromkeys(self.rows, ())
        for row in (*self.rows.values(), *self.outputs.values()):
            for link in row.links:
                if link.source in found and row not in found[link.source]:
                    found[link.source] = (*found[link.source], row)
        return found

    def equilibrium(self, weights: Weights, inputs: Weights, start: Weights, tolerance: float) -> Weights:
        """The states [batch, entries] with x = φ(z) for inputs, and these, by name.

        A loop that is not solved is left where its solver stopped. `start` are first guesses.
        """
        blocks = dict(inputs)
        batch = len(next(iter(inputs.values())))
        like = next(iter(self.weights.values()))
        members = {name: loop for loop in self.model.loops for name in loop.states}
        for name, row in self.rows.items():
            if name in blocks:
                continue
            loop = members.get(name)
            if loop is None:
                blocks[name] = self.activations[name].phi(row.value(weights, blocks))
                continue
            guesses = [
                start[inner] if inner in start else like.new_zeros(batch, _width(self.model, inner))
                for inner in loop.iterated
            ]
            blocks.update(self._loop(loop.states, loop.iterated, weights, blocks, guesses, tolerance))
        return blocks

    def _loop(
        self,
        states: tuple[str, ...],
        iterated: tuple[str, ...],
        weights: Weights,
        outside: Weights,
        guesses: list[Tensor],
        tolerance: float,
    ) -> dict[str, Tensor]:
        """The states of one loop."""
        widths = [guess.shape[1] for guess in guesses]

        def sweep(x: Tensor) -> dict[str, Tensor]:
            found = dict(zip(iterated, torch.split(x, widths, 1)))
            blocks = {**outside, **found}
            fresh = {}
            for name in (*(name for name in states if name not in found), *iterated):
                fresh[name] = self.activations[name].phi(self.rows[name].value(weights, blocks))
                if name not in found:
                    blocks[name] = fresh[name]
            return fresh

        def image(x: Tensor) -> Tensor:
            fresh = sweep(x)
            return torch.cat([fresh[name] for name in iterated], 1)

        equation, start = Equation(image), torch.cat(guesses, 1)
        solution = solve(equation, start, Auto(tolerance=tolerance, max_steps=_MOST_SWEEPS))
        if bool((solution.status > Status.FLOOR.value).any()):
            solution = solve(equation, solution.x, Newton(tolerance=tolerance))
        return sweep(solution.x)


@dataclass(frozen=True, eq=False)
class _Rows:
    """What makes rows: ties of blocks, as matrices where these are small or dense."""

    system: System
    tensors: Weights
    weights: Weights
    like: Tensor

    def row(self, block: Block, states: str, inputs: str, offset: str) -> Row:
        """The row of a state or an output, from its parts in three of the matrices."""
        size, links = count(block.slots), []
        for matrix in (states, inputs):
            chains: dict[str, list[Chain]] = {}
            layout = self._layout(matrix)
            for term in self.system.model.terms_of[block.name]:
                if term.source is not None and term.source in layout.cols.names:
                    chains.setdefault(term.source, []).append(term.chain)
            for source, held in chains.items():
                links.append(self._link(layout, block.name, source, tuple(held)))
        ties = self._ties(self._layout(offset).block(block.name, "1"))
        return Row(block.name, size, tuple(links), self._matrix(ties, size, 1))

    def _layout(self, matrix: str) -> Layout:
        return Layout.of(self.system.model, matrix, self.system.order)

    def _link(self, layout: Layout, row: str, source: str, chains: tuple[Chain, ...]) -> Link:
        block = layout.block(row, source)
        rows, columns = block.shape
        if rows * columns <= max(SMALL, min(SPARSE * block.entry_count(), HUGE)):
            matrix = self._matrix(self._ties(block), rows, columns)
            return Link(source, matrix, ids=matrix.ids)
        named = [id for chain in chains for op in chain for _, id in op.parameters]
        linear = {
            id
            for chain in chains
            for op in chain
            for role, id in op.parameters
            if role not in linear_rule(op).offset_roles
        }
        buffers = {id: self.tensors[id] for id in named if id not in self.weights}
        ids = tuple(id for id in dict.fromkeys(named) if id in self.weights and id in linear)
        return Link(source, None, chains, buffers, ids)

    @cached_property
    def _numbers(self) -> dict[str, np.ndarray]:
        return {id: tensor.cpu().double().numpy() for id, tensor in self.tensors.items()}

    def _ties(self, block: Layout) -> list[Tie]:
        return list(block.ties(self._numbers))

    def _matrix(self, ties: list[Tie], rows: int, columns: int) -> Matrix:
        counts = {id: tensor.numel() for id, tensor in self.weights.items()}
        constant = {tie.parameter for tie in ties} - set(counts)
        fixed = [_held_fixed(tie, self._numbers) if tie.parameter in constant else tie for tie in ties]
        return Matrix.of(fixed, rows, columns, counts, self.like)


def _held_fixed(tie: Tie, tensors: Mapping[str, np.ndarray]) -> Tie:
    """A tie to a tensor that nobody trains, as constants."""
    if tie.parameter is None or tie.slots is None:
        return tie
    values = tensors[tie.parameter].reshape(-1)[tie.slots]
    return Tie(None, tie.rows, tie.cols, None, values * tie.coefficients)


def _width(model: ImplicitModel, name: str) -> int:
    return count(model.blocks[name].shape)


def _refuse_made(module: nn.Module, model: ImplicitModel) -> None:
    """Raise OutsideFamilyError for weights that are made of parameters in a way that is not linear."""
    for constraint in getattr(module, "constraints", ()):
        if constraint.method == "parametrize":
            raise OutsideFamilyError(
                f"{model.name} cannot be lifted: `{constraint.text}` (line {constraint.line}) makes its "
                'weights of free parameters; block-coordinate descent needs method = "project"'
            )
    make: Any = getattr(module, "effective_weights", None)
    if make is None:
        return
    linear = {
        id for term in model.terms for op in term.chain if op.kind == "structured" for _, id in op.parameters
    }
    with torch.no_grad():
        for id in make():
            if id not in linear:
                raise OutsideFamilyError(
                    f"{model.name} cannot be lifted: the matrix `{id}` is in a set that is not linear, so "
                    "that the blocks of weights would not be convex"
                )


__all__ = ["Lifted", "OutsideFamilyError"]
