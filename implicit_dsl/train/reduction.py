"""Weights of a model with full matrices as those of one with matrices in sets, and back.

Both are compiled from programs with the same names, such as `param W[n, n]` and
`param W[n, n] in LowRank(2)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from implicit_dsl.runtime.structures import Nonneg, Orthogonal, Structure, matrix_of, nearest_of
from implicit_dsl.sets.linear import LinearSet
from implicit_dsl.train.rotations import nearest_rotation
from implicit_dsl.train.transfer import TransferError

EXACT = 1e-6  # of its norm, by which a matrix may be off that is held exactly
_LEAST = 1e-30  # what stands for zero where entries are positive
_SIDES = ("left", "right")


@dataclass(frozen=True, slots=True)
class _Held:
    """How a module holds a matrix: in one tensor, which may be within a set, or as the product of two."""

    keys: tuple[str, ...]
    structure: Structure | None = None

    def matrix(self, state: Mapping[str, Tensor]) -> Tensor:
        """The matrix, in float64."""
        parts = [state[key].detach().double() for key in self.keys]
        if len(parts) == 2:
            return parts[0] @ parts[1]
        return parts[0] if self.structure is None else matrix_of(self.structure, parts[0])

    def nearest(self, matrix: Tensor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What to store for the nearest matrix that can be held, in float64."""
        if len(self.keys) == 2:
            return dict(zip(self.keys, _factors(matrix, state[self.keys[0]].shape[1])))
        (key,) = self.keys
        match self.structure:
            case None:
                return {key: matrix}
            case LinearSet():
                return {key: nearest_of(self.structure, matrix)}
            case Orthogonal():
                return {key: nearest_rotation(self.structure, matrix)}
            case Nonneg():
                size = matrix.clamp_min(_LEAST)
                return {key: size + torch.log(-torch.expm1(-size))}


def reduce_(reduced: nn.Module, full: nn.Module) -> dict[str, float]:
    """Store the weights of `full` in `reduced`: of each matrix the nearest one in its set, by Frobenius norm.

    Of low rank that is the sum of the largest singular values (Eckart and Young 1936), in equal parts in both
    factors, of linear sets the orthogonal projection, of orthogonal matrices the polar factor. What both hold
    in one way is copied. Returns the distance ‖W − W'‖ of each matrix that is held in another way, by name.

    Bounds of `@wellposed` are kept by `project_()`, which is to be called behind this where there is one.
    Raises TransferError if names or shapes differ; then nothing is stored.
    """
    return _convert(reduced, full, None)


def expand_(full: nn.Module, reduced: nn.Module) -> dict[str, float]:
    """Store the weights of `reduced` in `full`, which can hold them exactly. Returns distances, of rounding.

    Raises TransferError as `reduce_` does, and if a matrix is not in the set that it should be stored in,
    with its distance from it; then nothing is stored.
    """
    return _convert(full, reduced, EXACT)


def _convert(target: nn.Module, source: nn.Module, within: float | None) -> dict[str, float]:
    have, given = target.state_dict(), source.state_dict()
    ours, theirs = _matrices(target, given), _matrices(source, have)
    wrong = dict.fromkeys(ours.keys() ^ theirs.keys(), "there is none of this name in the other model")
    stored: dict[str, Tensor] = {}
    distances: dict[str, float] = {}
    for name in ours.keys() & theirs.keys():
        mine, other = ours[name], theirs[name]
        same = mine == other and all(have[key].shape == given[key].shape for key in mine.keys)
        if same:
            stored |= {key: given[key] for key in mine.keys}
            continue
        matrix, shape = other.matrix(given), mine.matrix(have).shape
        if matrix.shape != shape:
            wrong[name] = f"has shape {[*matrix.shape]}, and in the other model {[*shape]}"
            continue
        found = {key: value.to(have[key].dtype) for key, value in mine.nearest(matrix, have).items()}
        distances[name] = float((mine.matrix(found) - matrix).norm())
        if within is not None and not distances[name] <= within * float(matrix.norm()):
            wrong[name] = f"is not in the set of the other model: ‖W − W'‖ = {distances[name]:.4g}"
        stored |= found
    if wrong:
        raise TransferError({name: wrong[name] for name in sorted(wrong)})
    with torch.no_grad():
        for key, value in stored.items():
            have[key].copy_(value)
    return {name: distances[name] for name in ours if name in distances}


def _matrices(module: nn.Module, other: Mapping[str, Tensor]) -> dict[str, _Held]:
    """How a module holds each of its tensors, by the name that both modules know."""
    structures: Mapping[str, Structure] = getattr(module, "structures", {})
    state = module.state_dict()
    found: dict[str, _Held] = {}
    for key in state:
        name, _, side = key.rpartition("_")
        pair = tuple(f"{name}_{part}" for part in _SIDES)
        factored = side in _SIDES and all(part in state for part in pair)
        if factored and (name in other or _is_product(state, other, pair)):
            found[name] = _Held(pair)
        else:
            found[key] = _Held((key,), structures.get(key))
    return found


def _is_product(state: Mapping[str, Tensor], other: Mapping[str, Tensor], pair: tuple[str, ...]) -> bool:
    """Whether both models hold a product of factors, of another rank."""
    if any(part not in other or state[part].ndim != 2 or other[part].ndim != 2 for part in pair):
        return False
    (left, right), (left2, right2) = ([held[part].shape for part in pair] for held in (state, other))
    fits = left[1] == right[0] and left2[1] == right2[0]
    return bool(fits and left[0] == left2[0] and right[1] == right2[1] and left != left2)


def _factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product of factors of a rank, with the singular values in equal parts in both."""
    U, s, V = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    return U[:, :rank] * root, root[:, None] * V[:rank]
