"""What is asked of rows: convex functions of z or y for each sample, with bounds of their curvature."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from implicit_dsl.train.descent.fenchel import Activation

Kind: TypeAlias = Literal["squared", "cross_entropy"]


class Goal(ABC):
    """A convex function of z [batch, entries], for each sample by itself."""

    quadratic = False

    @property
    @abstractmethod
    def curvature(self) -> float:
        """A Lipschitz constant of the gradient."""

    @abstractmethod
    def value(self, z: Tensor) -> Tensor:
        """The number of each sample [batch]."""

    @abstractmethod
    def gradient(self, z: Tensor) -> Tensor:
        """Its gradient [batch, entries]."""


@dataclass(frozen=True, eq=False)
class Divergence(Goal):
    """λ Σ F(x, z) of a state, for x that is held."""

    activation: Activation
    x: Tensor
    weight: float

    @property
    def curvature(self) -> float:
        return self.weight * self.activation.steepest

    def value(self, z: Tensor) -> Tensor:
        return self.weight * self.activation.divergence(self.x, z).sum(1)

    def gradient(self, z: Tensor) -> Tensor:
        return self.weight * (self.activation.phi(z) - self.x)


@dataclass(frozen=True, eq=False)
class Loss(Goal):
    """A loss of outputs, with its targets."""

    target: Tensor

    def only(self, samples: Tensor) -> Loss:
        """The same for some of the samples."""
        return type(self)(self.target[samples])


@dataclass(frozen=True, eq=False)
class Squared(Loss):
    """½ ‖y − target‖², summed over the entries of a sample; targets are [batch, entries]."""

    quadratic = True

    @property
    def curvature(self) -> float:
        return 1.0

    def value(self, z: Tensor) -> Tensor:
        return 0.5 * (z - self.target).square().sum(1)

    def gradient(self, z: Tensor) -> Tensor:
        return z - self.target


@dataclass(frozen=True, eq=False)
class CrossEntropy(Loss):
    """−Σ p log softmax(y) over the last axis of an output, the mean over its other axes.

    Targets are probabilities [batch, positions, classes]. The Jacobian of softmax has the norm ½ at most.
    """

    @property
    def curvature(self) -> float:
        return 0.5 / self.target.shape[1]

    def value(self, z: Tensor) -> Tensor:
        scores = torch.log_softmax(z.reshape(self.target.shape), 2)
        return -torch.where(self.target > 0, self.target * scores, 0.0).sum(2).mean(1)

    def gradient(self, z: Tensor) -> Tensor:
        found = torch.softmax(z.reshape(self.target.shape), 2) - self.target
        return (found / self.target.shape[1]).reshape(z.shape)


__all__ = ["CrossEntropy", "Divergence", "Goal", "Kind", "Loss", "Squared"]
