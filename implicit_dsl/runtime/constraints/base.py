"""What a set of feasible weights is: a constraint of the source on tensors of a module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from implicit_dsl.demands import Method
from implicit_dsl.runtime.autocast import unautocast
from implicit_dsl.runtime.sharding import parted, whole

Weights: TypeAlias = Mapping[str, Tensor]  # by id


@dataclass(frozen=True, slots=True)
class Block:
    """A tensor in a block of A: `axis` is the one that counts its rows, `factor` multiplies its entries.

    Dense weights [out, in] and kernels [out, in, …] have axis 0, a transposed matrix 1. The
    absolute row sums of a convolution are those of its kernel, Σ|K[o]|, at most: rows at a border have
    less where zeros are padded, or where entries of the kernel meet in one place. Blocks of one row with
    another `part` count other rows of it, as a kernel and a full matrix do.
    """

    row: str
    column: str
    tensor: str
    axis: int = 0
    factor: float = 1.0
    part: int = 0


class ConstraintError(ValueError):
    """Weights are outside of the set that the source demands, or no weights are in it."""


class Sets(Protocol):
    """The sets of matrices that tensors are in, by id; others are what they are."""

    def member(self, id: str, tensor: Tensor) -> Tensor:
        """The matrix that a trained tensor stands for."""
        ...

    def used(self, id: str, matrix: Tensor) -> Tensor:
        """What `forward` takes of a matrix."""
        ...

    def scales_rows(self, id: str) -> bool:
        """Whether rows can be scaled one by one without leaving the set."""
        ...

    def nearest(self, constraint: Constraint, weights: Weights) -> dict[str, Tensor]:
        """What to store, so that matrices are in their sets and within a constraint, as near as can be."""
        ...


@dataclass(frozen=True)
class Constraint(ABC):
    """A set of weights. `text` and `line` are where the source demands it, `bound` is its number.

    `fixed` is what constant operators use of the budget of a row block. With `method`
    "project" the parameters are the weights; with "parametrize" the weights are computed
    from the parameters, and `project_` has nothing to do. `within` are the sets that tensors
    are in beside: these are made of trained tensors, and stay in their sets.
    """

    convex: ClassVar[bool] = True  # whether `nearest` projects onto a convex set
    text: str
    line: int = 0
    bound: float = 1.0
    blocks: tuple[Block, ...] = ()
    fixed: Mapping[str, float] = field(default_factory=dict)
    method: Method = "project"
    within: Sets | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """The ids of the tensors, each once."""
        return tuple(dict.fromkeys(block.tensor for block in self.blocks))

    @abstractmethod
    def measured(self, weights: Mapping[str, Tensor]) -> float:
        """The number that must not exceed `limit`, in float64."""

    @property
    def limit(self) -> float:
        """What `measured` must not exceed."""
        return self.bound

    def rounding(self, weights: Mapping[str, Tensor]) -> float:
        """What storing feasible weights in their dtypes may add to `measured`.

        Never so much that a limit below 1 would no longer be one: a proof may rest on that.
        """
        added = self._added(weights, max(_unit(weight.dtype) for weight in weights.values()))
        return min(added, (1 - self.limit) / 2) if self.limit < 1 else added

    def _added(self, weights: Mapping[str, Tensor], unit: float) -> float:
        """The same, if each entry moves by at most `unit`, relatively: here sums of absolute entries."""
        return unit * abs(self.limit)

    @property
    @abstractmethod
    def measure(self) -> str:
        """What `measured` is, in words."""

    @abstractmethod
    def nearest(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights in the set, as near as each class says, in the dtypes given."""

    @abstractmethod
    def made(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights in the set, differentiable in the given tensors and in the extra parameters."""

    def extra_shapes(self, weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """The parameters, by attribute, that `made` needs beside the tensors; they start at zero."""
        return {}

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        """The tensors of a module by id, those within sets as they are made.

        Those of which each process has a part come as a whole.
        """
        return {id: self._weight(id, whole(tensor_of(module, id))) for id in self.tensors}

    def _weight(self, id: str, tensor: Tensor) -> Tensor:
        return tensor if self.within is None else self.within.member(id, tensor)

    def violation(self, module: nn.Module) -> float:
        """How far the current weights are outside, relative to the bound; at most 0 inside."""
        with torch.no_grad():
            scale = max(abs(self.limit), 1e-12)
            return (self.measured(self.weights(module)) - self.limit) / scale

    def project_(self, module: nn.Module) -> None:
        """Move the weights of a module into the set, in place."""
        if self.method != "project":
            return
        with torch.no_grad():
            weights = self.weights(module)
            if any(weight.is_meta for weight in weights.values()):
                return
            kept = self.nearest(weights) if self.within is None else self.within.nearest(self, weights)
            for id, weight in kept.items():
                target = tensor_of(module, id)
                target.copy_(parted(weight, target))

    def effective(self, module: nn.Module) -> dict[str, Tensor]:
        """The weights that the loops use, by tensor id: members of their sets."""
        if self.method == "project":
            return self.weights(module)
        weights = self.weights(module)
        extra = {name: whole(tensor_of(module, name)) for name in self.extra_shapes(weights)}
        with unautocast(next(iter(weights.values())).device):  # bounds hold for what is not rounded
            return self.made({**weights, **extra})


def _unit(dtype: torch.dtype) -> float:
    """The relative error of an entry that is stored, and of the sums in float64 that measure them."""
    return max(torch.finfo(dtype).eps, 32 * torch.finfo(torch.float64).eps)


def tensor_of(module: nn.Module, id: str) -> Tensor:
    """The tensor with an id of the state_dict, such as `K.weight`. Raises AttributeError."""
    found: object = module
    for name in id.split("."):
        found = getattr(found, name)
    assert isinstance(found, Tensor)
    return found


def inward(bound: float, dtype: torch.dtype) -> float:
    """A little below a bound, so that rounding to a dtype does not lead out again.

    In float64 sums are rounded as much as what is added up: more room is left for them.
    """
    return bound * (1 - (16 if dtype == torch.float64 else 4) * torch.finfo(dtype).eps)


def matrix_rows(weight: Tensor, axis: int) -> Tensor:
    """A tensor as a matrix [rows, entries] of the rows that an axis counts."""
    return weight.movedim(axis, 0).flatten(1) if weight.ndim > 1 else weight[:, None]


def like_rows(rows: Tensor, weight: Tensor, axis: int) -> Tensor:
    """The inverse of `matrix_rows`: a matrix in the shape of the tensor."""
    if weight.ndim == 1:
        return rows[:, 0]
    return rows.reshape(weight.movedim(axis, 0).shape).movedim(0, axis)
