"""One term of a `@penalty`: its value, and its proximal operator where that is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import import_module
from typing import Any, TypeAlias

import torch
from torch import Tensor

from implicit_dsl.demands import Family, Measured
from implicit_dsl.runtime.constraints.capping import caps_of
from implicit_dsl.runtime.measures.cells import Cells, Separate, cells_of_pieces, separated
from implicit_dsl.runtime.measures.composing import Atom, composed
from implicit_dsl.runtime.measures.gathering import replaced, selected
from implicit_dsl.runtime.measures.proximal import prox_of_family, prox_of_numbers, shrink_singular_values
from implicit_dsl.runtime.measures.values import expression, of_cells, of_family, of_matrix
from implicit_dsl.runtime.structures import Structure, matrix_of
from implicit_dsl.sets.linear import LinearSet

Steps: TypeAlias = float | Mapping[str, Tensor]  # one number, or one for each entry of tensors by id

_OF_GROUPS = ("l1", "l2", "linf", "squares")


@dataclass(frozen=True)
class Penalty:
    """factor · measure, a convex function of weights. `text` and `line` are where the source asks for it.

    `shapes` are those of its tensors, `structures` the sets that some are in, and `made` those that a
    parametrisation makes of others. `system` is the structure of the model, for assembled matrices.
    """

    text: str
    line: int
    factor: float
    measured: Measured
    shapes: Mapping[str, tuple[int, ...]]
    structures: Mapping[str, Structure] = field(default_factory=dict)
    made: tuple[str, ...] = ()
    system: Mapping[str, Any] | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """The ids of the trained tensors, each once."""
        return self.measured.tensors

    def value(self, weights: Mapping[str, Tensor], made: Mapping[str, Tensor] | None = None) -> Tensor:
        """The number [], differentiable, from trained tensors by id, and the matrices `made` of them."""
        matrices = {id: self._matrix(id, weights[id]) for id in self.tensors}
        matrices.update(made or {})
        if self.measured.matrix:
            found = of_matrix(self.measured.name, expression(self.measured.matrix, matrices))
        else:
            found = torch.stack(
                [self._of_family(family, weights, matrices) for family in self.measured.families]
            )
            found = found.sum()
        return found if self.factor == 1 else self.factor * found

    def _matrix(self, id: str, weight: Tensor) -> Tensor:
        return matrix_of(self.structures[id], weight) if id in self.structures else weight

    def _of_family(
        self, family: Family, weights: Mapping[str, Tensor], matrices: Mapping[str, Tensor]
    ) -> Tensor:
        if family.part is None:
            return of_family(self.measured.name, family, matrices)
        linear = {id for id, made in self.structures.items() if isinstance(made, LinearSet)}
        numbers = {id: weights[id] if id in linear else matrices[id] for id in family.tensors}
        if _is_of_sensitivity(family):
            found: Tensor = self._sensitivities[family].measure(
                self.measured.name, family.axis, numbers, f"`{self.text}` (line {self.line})"
            )
            return found
        return of_cells(self.measured.name, self._cells[family], numbers)

    @cached_property
    def _sensitivities(self) -> dict[Family, Any]:
        """S of the model, for the families that are of it."""
        sensitivity = import_module("implicit_dsl.runtime.measures.sensitivity")
        return {
            family: sensitivity.Sensitivity.of(self.system, family.part)
            for family in self.measured.families
            if _is_of_sensitivity(family)
        }

    @cached_property
    def _cells(self) -> dict[Family, Cells]:
        """The entries of assembled matrices, and of members of sets, with what they are made of."""
        found = {}
        linear = {id: made for id, made in self.structures.items() if isinstance(made, LinearSet)}
        for family in self.measured.families:
            if family.part is not None:
                assembled = import_module("implicit_dsl.runtime.measures.assembled")
                found[family] = assembled.cells_of_system(self.system, family.part, family.axis)
            else:
                found[family] = cells_of_pieces(family, linear, self.shapes)
        return found

    # ----------------------------------------------------------------------- its proximal operator

    @property
    def proximal(self) -> bool:
        """Whether its proximal operator is known in closed form, or as the root of one equation."""
        if set(self.tensors) & set(self.made) or self.measured.matrix:
            return False
        if any(map(_is_of_sensitivity, self.measured.families)):
            return False
        if any(not isinstance(made, LinearSet) for made in self.structures.values()):
            return False
        if self.measured.name not in _OF_GROUPS:
            return not self.structures and all(self._is_plain(family) for family in self.measured.families)
        return all(
            self._is_plain(family) or self.separate[family] is not None for family in self.measured.families
        )

    def _is_plain(self, family: Family) -> bool:
        """Whether its groups are rows of tensors that are trained as they are, each once."""
        pieces = [piece.tensor for piece in family.pieces]
        inside = set(pieces) & set(self.structures)
        return family.part is None and not inside and len(set(pieces)) == len(pieces)

    @cached_property
    def separate(self) -> dict[Family, Separate | None]:
        """The families whose groups are not rows of plain tensors, as groups of numbers, where they are."""
        found = {}
        for family in self.measured.families:
            if not self._is_plain(family):
                counts = {id: self._count(id) for id in family.tensors}
                found[family] = separated(self._cells[family], family.tensors, counts, self.measured.name)
        return found

    def _count(self, id: str) -> int:
        made = self.structures.get(id)
        return made.count if isinstance(made, LinearSet) else torch.Size(self.shapes[id]).numel()

    def prox(self, weights: Mapping[str, Tensor], step: Steps) -> dict[str, Tensor]:
        """argmin Σ |θ − w|² ∕ (2 step) + value(θ): the tensors of this term by id, in the dtypes given.

        With a step for each entry, the squares are weighted. Singular values and the largest row or column
        take one step, and of several the mean. Raises ValueError if `proximal` is false.
        """
        if not self.proximal:
            raise ValueError(f"`{self.text}` (line {self.line}) has no proximal operator: use its gradient")
        wide = {id: weights[id].detach().double() for id in self.tensors}
        found = composed(self.atoms, wide, self.steps(wide, step))
        return {id: found[id].to(weights[id].dtype) for id in self.tensors}

    def steps(self, weights: Mapping[str, Tensor], step: Steps) -> dict[str, Tensor]:
        """The steps of its tensors in their dtype and on their device, one number or one for each entry."""
        found = {}
        for id in self.tensors:
            given = step if isinstance(step, float | int) else step[id]
            found[id] = torch.as_tensor(given, dtype=weights[id].dtype, device=weights[id].device)
        return found

    @cached_property
    def atoms(self) -> tuple[Atom, ...]:
        """Its families as functions with operators of their own, which may overlap."""
        return tuple(
            Atom(
                self.measured.name,
                self._owners(family),
                partial(self.prox_of, family),
                uniform=self.separate.get(family) is None or self._counts_alike(family),
            )
            for family in self.measured.families
        )

    def _counts_alike(self, family: Family) -> bool:
        made = self.separate[family]
        counted = [weights for _, weights in made.buckets] if made is not None else []
        flat = torch.cat([one.flatten() for one in counted]) if counted else torch.zeros(1)
        return bool((flat == flat[0]).all())

    def _owners(self, family: Family) -> dict[str, Tensor]:
        """To which group each trained number belongs."""
        cells = self._cells[family]
        found = {id: torch.full((self._count(id),), -1) for id in family.tensors}
        for one in cells.contributions:
            if one.id in found and one.slots is not None:
                found[one.id][one.slots] = cells.groups[one.cells]
        return found

    def prox_of(
        self, family: Family, weights: Mapping[str, Tensor], steps: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The operator of factor · one family, of float64 tensors."""
        name = self.measured.name
        steps = {id: self.factor * step for id, step in steps.items()}
        if name in _OF_GROUPS:
            separate = self.separate.get(family)
            if separate is not None:
                return prox_of_numbers(name, separate, weights, steps)
            return prox_of_family(name, family, weights, steps)
        (piece,) = family.pieces
        return _prox_of_matrix(name, family, weights, float(steps[piece.tensor].mean()))


def _is_of_sensitivity(family: Family) -> bool:
    return family.part is not None and family.part.matrix == "S"


def _prox_of_matrix(
    name: str, family: Family, weights: Mapping[str, Tensor], step: float
) -> dict[str, Tensor]:
    """The operator of a norm of one matrix: what its projection onto the dual ball leaves over (Moreau)."""
    (piece,) = family.pieces
    matrix = selected(weights[piece.tensor], piece)
    if name in ("spectral", "nuclear"):
        moved = shrink_singular_values("spectral" if name == "spectral" else "nuclear", matrix, step)
    else:
        across = matrix if name == "largest_row" else matrix.movedim(1, 0)
        rows = across.flatten(1)
        (cap,) = (
            caps_of([rows.abs()], step) if float(rows.abs().amax(1).sum()) > step else (rows.abs().amax(1),)
        )
        left = rows - rows.clamp(-cap[:, None], cap[:, None])
        left = left.reshape(across.shape)
        moved = left if name == "largest_row" else left.movedim(0, 1)
    return {piece.tensor: replaced(weights[piece.tensor], piece, moved)}


__all__ = ["Penalty", "Steps"]
