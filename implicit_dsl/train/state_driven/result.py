"""What a fit to states gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from implicit_dsl.train.state_driven.activations import Layer
from implicit_dsl.train.state_driven.program import Matrices

_ROUNDING = 2.0**-40  # far above what float64 loses in the sums of a row


@dataclass(frozen=True)
class StateError:
    """How far the states of the implicit model are from those collected, at most, and from what.

    `bound` [n]: |x̂ − x| of each state, over all samples; `mean` [n]: its mean over the samples. `residual`
    [n]: the root mean square of z − A x − B u − b. All in the units of the network that the states are from.
    """

    bound: Tensor
    mean: Tensor
    residual: Tensor

    @property
    def largest(self) -> float:
        return float(self.bound.max())

    @staticmethod
    def of(matrices: Matrices, U: Tensor, Z: Tensor, X: Tensor, units: Tensor, kappa: float) -> StateError:
        """|X̂ − X| ≤ (I − |A|)⁻¹ |R| with R = Z − A X − B U − b, for X = φ(Z) and slopes of φ up to one.

        X̂ = φ(A X̂ + B U + b) has |X̂ − X| ≤ |A X̂ + B U + b − Z| ≤ |A| |X̂ − X| + |R|. What is computed, E,
        is made an upper bound: with δ ≥ (|A| E + |R| − E) ÷ (1 − κ), E + δ has |A| (E + δ) + |R| ≤ E + δ, as
        ‖A‖∞ ≤ κ < 1.
        """
        A = matrices.A.double()
        residual = Z - X @ A.mT - U @ matrices.B.double().mT - matrices.b.double()
        scale = (
            X.abs() @ A.abs().mT
            + U.abs() @ matrices.B.double().abs().mT
            + Z.abs()
            + matrices.b.double().abs()
        )
        size = residual.abs() + _ROUNDING * scale
        system = torch.eye(len(A), dtype=A.dtype, device=A.device) - A.abs()
        E = torch.linalg.solve(system, size.mT).mT.clamp_min(0.0)
        lacking = (E @ A.abs().mT + size - E).amax(1, keepdim=True).clamp_min(0.0)
        E = E + (lacking + _ROUNDING * (E + size).amax(1, keepdim=True)) / (1 - kappa)
        rms = residual.square().mean(0).sqrt()
        return StateError(E.amax(0) / units, E.mean(0) / units, rms / units)


@dataclass(frozen=True)
class StateDriven:
    """An implicit model x = φ(A x + B u + b), y = C x + D u + d fitted to the states of a network.

    Its states are those of the network times `units` [n], in the order of `layers`. ‖A‖∞ ≤ κ holds for the
    numbers stored. For each row of (A, B), and of (C, D): `objective` and `gap`, by how much that is above
    the minimum at most. `model` is the compiled program `source` with these weights.
    """

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    b: Tensor
    d: Tensor
    layers: tuple[Layer, ...]
    units: Tensor
    kappa: float
    penalty: float
    objective: Tensor
    gap: Tensor
    output_objective: Tensor
    output_gap: Tensor
    error: StateError
    source: str
    model: nn.Module

    @property
    def norm(self) -> float:
        """‖A‖∞ of the numbers stored, summed in float64."""
        return float(self.A.double().abs().sum(1).max())

    @property
    def zeros(self) -> float:
        """The share of zeros among the entries of A, B, C and D."""
        matrices = (self.A, self.B, self.C, self.D)
        total = sum(M.numel() for M in matrices)
        return sum(int((M == 0).sum()) for M in matrices) / max(1, total)

    def __repr__(self) -> str:
        kinds = ", ".join(dict.fromkeys(layer.kind for layer in self.layers))
        return (
            f"StateDriven: {len(self.A)} states ({kinds}), {self.B.shape[1]} inputs, {len(self.C)} outputs\n"
            f"  ‖A‖∞ = {self.norm:.6g} ≤ {self.kappa:g}, {100 * self.zeros:.1f} % zeros, "
            f"λ = {self.penalty:g}\n"
            f"  states within {self.error.largest:.3g} of those collected, proved; residuals "
            f"{float(self.error.residual.square().mean().sqrt()):.3g} (rms)"
        )
