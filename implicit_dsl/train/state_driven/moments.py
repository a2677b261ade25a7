"""What the rows need of the data: means, and products of features with each other and with the targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK = 1 << 22  # numbers of the features that are cast to float64 at once
_CONSTANT = 1e-12  # of the largest size of a column: a spread below is rounding


@dataclass(frozen=True)
class Moments:
    """Features f [d] and targets t [rows] over m samples, without their means, in float64.

    `G` = cov(f, f) [d, d], `Q` = cov(t, f) [rows, d], `power` = var(t) [rows]; all divided by m.
    """

    feature_means: Tensor
    target_means: Tensor
    G: Tensor
    Q: Tensor
    power: Tensor

    @staticmethod
    def of(features: Tensor, targets: Tensor) -> Moments:
        """For features [m, d] and targets [m, rows]."""
        means, levels = features.double().mean(0), targets.double().mean(0)
        d, rows, m = features.shape[1], targets.shape[1], len(features)
        G = features.new_zeros((d, d), dtype=torch.float64)
        Q = features.new_zeros((rows, d), dtype=torch.float64)
        power = features.new_zeros(rows, dtype=torch.float64)
        step = max(1, _CHUNK // max(1, d + rows))
        for start in range(0, m, step):
            F = features[start : start + step].double() - means
            T = targets[start : start + step].double() - levels
            G.addmm_(F.mT, F)
            Q.addmm_(T.mT, F)
            power += T.square().sum(0)
        sizes = features.abs().amax(0).double(), targets.abs().amax(0).double()
        flat = (G.diagonal() / m).sqrt() <= _CONSTANT * sizes[0]
        still = (power / m).sqrt() <= _CONSTANT * sizes[1]
        G[flat], G[:, flat], Q[:, flat], Q[still], power[still] = 0.0, 0.0, 0.0, 0.0, 0.0
        return Moments(means, levels, G / m, Q / m, power / m)

    @property
    def spreads(self) -> Tensor:
        """The standard deviations of the features [d]; zero where they are constant."""
        return self.G.diagonal().sqrt()

    def rows(self, part: slice | Tensor) -> Moments:
        """The same for some of the targets."""
        return Moments(
            self.feature_means, self.target_means[part], self.G, self.Q[part], self.power[part]
        )  # fmt: skip

    def offsets(self, W: Tensor) -> Tensor:
        """The offsets [rows] that go with W [rows, d]: they are not penalised."""
        return self.target_means - W @ self.feature_means
