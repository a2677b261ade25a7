"""Constraints on one matrix: its largest singular value, monotonicity of I − A, its matrix measure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from implicit_dsl.runtime.constraints.balls import onto_measures
from implicit_dsl.runtime.constraints.base import Constraint, ConstraintError, Weights, inward
from implicit_dsl.runtime.constraints.budgets import Group, Part
from implicit_dsl.runtime.matrix_functions import spectral_norm


@dataclass(frozen=True)
class _OneMatrix(Constraint):
    """A constraint on one tensor."""

    @property
    def tensor(self) -> str:
        """Its id."""
        if (
            len(self.tensors) != 1
            or any(block.factor != 1.0 for block in self.blocks)
            or any(self.fixed.values())
        ):
            raise ConstraintError(
                f"`{self.text}` (line {self.line}) holds for one matrix that stands alone in its loop, "
                "not for a sum; bound it with norm(A, Inf)"
            )
        return self.tensors[0]

    def square(self, weights: Weights) -> Tensor:
        """The matrix, which must be square."""
        weight = weights[self.tensor]
        if weight.ndim != 2 or weight.shape[0] != weight.shape[1]:
            raise ConstraintError(f"`{self.text}` (line {self.line}) holds for square matrices")
        return weight.mT if self.blocks[0].axis == 1 else weight

    def _added(self, weights: Weights, unit: float) -> float:
        # no singular value and no eigenvalue moves by more than the Frobenius norm of the change
        return unit * float(torch.linalg.vector_norm(weights[self.tensor].double()))

    def _stored(self, matrix: Tensor) -> Tensor:
        return matrix.mT if self.blocks[0].axis == 1 else matrix


@dataclass(frozen=True)
class SpectralBound(_OneMatrix):
    """The largest singular value is at most `bound`.

    Of a full matrix `nearest` is the projection: singular values are clipped. Of a convolution the
    norm is bounded by √(‖T‖₁ ‖T‖∞), from the sums of its kernel, and the kernel is scaled, which is
    feasible but not the nearest point. `made` divides by max(1, σ / κ).
    """

    @property
    def measure(self) -> str:
        return "the largest singular value"

    def measured(self, weights: Weights) -> float:
        weight = weights[self.tensor].double()
        if _is_symmetric(weight):
            return float(torch.linalg.eigvalsh(weight).abs().max())
        return float(_norm(weight))

    def nearest(self, weights: Weights) -> dict[str, Tensor]:
        weight = weights[self.tensor]
        target = inward(self.bound, weight.dtype)
        if weight.ndim != 2:
            found = self.measured(weights)
            return {self.tensor: weight * (target / found)} if found > self.bound else dict(weights)
        wide = weight.double()
        if _is_symmetric(wide):  # |eigenvalues| are the singular values, for a fraction of the cost
            values, Q = torch.linalg.eigh(wide)
            U, s, V = Q * values.sign(), values.abs(), Q.mT
        else:
            U, s, V = torch.linalg.svd(wide, full_matrices=False)
        if not float(s.max()) > self.bound:
            return dict(weights)
        return {self.tensor: ((U * s.clamp_max(target)) @ V).to(weight.dtype)}

    def made(self, weights: Weights) -> dict[str, Tensor]:
        weight = weights[self.tensor]
        target = inward(self.bound, weight.dtype)
        return {**weights, self.tensor: weight * (target / _norm(weight).clamp_min(target))}


def _is_symmetric(matrix: Tensor) -> bool:
    """Whether a matrix equals its transpose to the last bit."""
    return matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] and torch.equal(matrix, matrix.mT)


def _norm(weight: Tensor) -> Tensor:
    """The spectral norm of a matrix, or an upper bound of that of a convolution."""
    if weight.ndim == 2:
        return spectral_norm(weight)
    size = weight.abs()
    rows = size.flatten(1).sum(1).max()
    # a column of the convolution holds the taps of all outputs that read its channel
    columns = size.flatten(2).sum((0, 2)).max() if weight.ndim > 2 else size.sum(0).max()
    return (rows * columns).sqrt()


@dataclass(frozen=True)
class MonotoneBound(_OneMatrix):
    """I − A ⪰ m I, with m the `bound`: the eigenvalues of (A + Aᵀ)/2 are at most 1 − m.

    `nearest` clips them, which is the projection in the Frobenius norm. `made` is
    A = (1 − m) I − PᵀP + S − Sᵀ with S the parameter itself (Winston and Kolter 2020).
    """

    @property
    def measure(self) -> str:
        return "the largest eigenvalue of the symmetric part"

    @property
    def limit(self) -> float:
        return 1.0 - self.bound

    def measured(self, weights: Weights) -> float:
        A = self.square(weights).double()
        return float(torch.linalg.eigvalsh((A + A.mT) / 2).max())

    def nearest(self, weights: Weights) -> dict[str, Tensor]:
        weight = weights[self.tensor]
        if self.measured(weights) <= self.limit:
            return dict(weights)
        A = self.square(weights).double()
        values, Q = torch.linalg.eigh((A + A.mT) / 2)
        # rounding to the dtype moves an eigenvalue by at most the Frobenius norm of what it changes
        room = 2 * torch.finfo(weight.dtype).eps * float(torch.linalg.matrix_norm(A))
        clipped = (Q * values.clamp_max(self.limit - room)) @ Q.mT
        return {self.tensor: self._stored(clipped + (A - A.mT) / 2).to(weight.dtype)}

    def made(self, weights: Weights) -> dict[str, Tensor]:
        S, P = self.square(weights), weights[_beside(self.tensor, "P")]
        identity = torch.eye(len(S), dtype=S.dtype, device=S.device)
        return {**weights, self.tensor: self._stored(self.limit * identity - P.mT @ P + S - S.mT)}

    def extra_shapes(self, weights: Weights) -> dict[str, tuple[int, ...]]:
        n = len(self.square(weights))
        return {_beside(self.tensor, "P"): (n, n)}


@dataclass(frozen=True)
class MeasureBound(_OneMatrix):
    """μ∞(A) = maxᵢ (Aᵢᵢ + Σ_{j≠i} |Aᵢⱼ|) ≤ m, with m the `bound` (Jafarpour et al. 2021, NEMON).

    `nearest` is the Euclidean projection for the unweighted measure. `made` is the weighted one,
    A = m I + D⁻¹TD − diag(|T| 1), D = diag(e^d), with T the parameter and d free.
    """

    @property
    def measure(self) -> str:
        return "the matrix measure"

    def _added(self, weights: Weights, unit: float) -> float:
        return unit * float(self.square(weights).double().abs().sum(1).max())

    def measured(self, weights: Weights) -> float:
        A = self.square(weights).double()
        return float((A.diagonal() + (A - torch.diag(A.diagonal())).abs().sum(1)).max())

    def nearest(self, weights: Weights) -> dict[str, Tensor]:
        weight = weights[self.tensor]
        if self.measured(weights) <= self.bound:
            return dict(weights)
        A = self.square(weights).double()
        return {self.tensor: self._stored(onto_measures(A, self._inward(weights))).to(weight.dtype)}

    def groups(self, weights: Weights) -> list[Group]:
        """Its rows, with budgets a little inwards; diagonal entries count with their signs."""
        weight, axis = weights[self.tensor], self.blocks[0].axis
        one = torch.ones(1, 1, dtype=torch.float64, device=weight.device)
        ones = one.expand(self.square(weights).shape)
        return [Group((Part(self.tensor, axis, ones),), ones[:, 0] * self._inward(weights))]

    def _inward(self, weights: Weights) -> float:
        A = self.square(weights).double()
        room = 4 * torch.finfo(weights[self.tensor].dtype).eps
        return self.bound - room * float(A.abs().sum(1).max() + abs(self.bound))

    def made(self, weights: Weights) -> dict[str, Tensor]:
        T, d = self.square(weights), weights[_beside(self.tensor, "scale")]
        eps = torch.finfo(T.dtype).eps
        spread = T * (d[None, :] - d[:, None]).exp()
        # |T| is weighed a little more than needed, so that rounding does not lead out of the set
        diagonal = self.bound - T.abs().sum(1) * (1 + 4 * eps) - 4 * eps * abs(self.bound)
        return {**weights, self.tensor: self._stored(spread + torch.diag(diagonal))}

    def extra_shapes(self, weights: Weights) -> dict[str, tuple[int, ...]]:
        return {_beside(self.tensor, "scale"): (len(self.square(weights)),)}


def _beside(tensor: str, what: str) -> str:
    """The attribute of a parameter that goes with a tensor: `A_scale`."""
    return f"{tensor.replace('.', '_')}_{what}"
