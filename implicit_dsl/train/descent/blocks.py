"""The blocks of weights: convex problems that share no tensor, solved one by one with the states held.

minimise  Σ rows mean g(z)  +  ½ ridge ‖θ of outputs‖²  +  penalties(θ)  over the sets of θ,  z = rows at θ
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from implicit_dsl.train.descent.goals import Goal
from implicit_dsl.train.descent.links import Row, Weights
from implicit_dsl.train.descent.proximal import Proximal

_POWER_STEPS = 30
_SLIGHT = 1e-7  # of the mean curvature, added where samples do not determine weights


@dataclass(frozen=True, eq=False)
class Component:
    """Rows that share tensors, or whose tensors share sets or penalties. `ids` are those that are trained."""

    rows: tuple[Row, ...]
    ids: tuple[str, ...]
    proximal: Proximal
    ridged: frozenset[str]  # the tensors that the ridge is on

    @cached_property
    def full(self) -> bool:
        """Whether it is one full matrix [links, offset], all of whose entries are trained."""
        return len(self.rows) == 1 and self.rows[0].free and set(self.rows[0].ids) == set(self.ids)


@dataclass(frozen=True, eq=False)
class Full:
    """One full matrix: θ = [M, offset], z = θ [x; 1]."""

    row: Row
    features: Tensor  # [batch, columns]

    @staticmethod
    def of(row: Row, states: Weights) -> Full:
        parts = [states[link.source] for link in row.links]
        if row.offset.places:
            parts.append(parts[0].new_ones(len(parts[0]), 1))
        return Full(row, torch.cat(parts, 1))

    def values(self, theta: Tensor) -> list[Tensor]:
        return [self.features @ theta.mT]

    def pull(self, gradients: Sequence[Tensor]) -> Tensor:
        return gradients[0].mT @ self.features

    def read(self, weights: Weights) -> Tensor:
        parts = [link.matrix.at(weights) for link in self.row.links if link.matrix is not None]
        return torch.cat([*parts, self.row.offset.at(weights)] if self.row.offset.places else parts, 1)

    def weights(self, theta: Tensor) -> Weights:
        matrices = [link.matrix for link in self.row.links if link.matrix is not None]
        if self.row.offset.places:
            matrices.append(self.row.offset)
        found: dict[str, Tensor] = {}
        for matrix, part in zip(matrices, torch.split(theta, [matrix.columns for matrix in matrices], 1)):
            matrix.collect(part, found)  # entries are exact: each goes back to where it was read
        return found

    def ridge(self, ids: frozenset[str]) -> Tensor:
        """Where the ridge is [columns]: a matrix is on it as a whole."""
        held = [(link.matrix, link.ids) for link in self.row.links]
        marks = [
            self.features.new_full((matrix.columns,), float(ids.issuperset(own)))
            for matrix, own in held
            if matrix is not None
        ]
        if self.row.offset.places:
            marks.append(self.features.new_zeros(1))
        return torch.cat(marks)


@dataclass(frozen=True, eq=False)
class Tied:
    """Any rows: θ are the tensors one after another, scaled by the roots of their masses."""

    rows: tuple[Row, ...]
    states: Weights
    held: Weights  # all tensors, those that are not of this component as they are
    ids: tuple[str, ...]
    root: Tensor | None  # √mass of each number

    @property
    def _sizes(self) -> list[int]:
        return [self.held[id].numel() for id in self.ids]

    def values(self, theta: Tensor) -> list[Tensor]:
        weights = {**self.held, **self.weights(theta)}
        return [row.value(weights, self.states) for row in self.rows]

    def pull(self, gradients: Sequence[Tensor]) -> Tensor:
        found: dict[str, Tensor] = {}
        for row, gradient in zip(self.rows, gradients):
            row.collect(self.held, self.states, gradient, found)
        like = gradients[0]
        made = torch.cat(
            [found[id] if id in found else like.new_zeros(n) for id, n in zip(self.ids, self._sizes)]
        )
        return made if self.root is None else made / self.root

    def read(self, weights: Weights) -> Tensor:
        made = torch.cat([weights[id].reshape(-1) for id in self.ids])
        return made if self.root is None else made * self.root

    def weights(self, theta: Tensor) -> Weights:
        theta = theta if self.root is None else theta / self.root
        return {
            id: part.view(self.held[id].shape) for id, part in zip(self.ids, torch.split(theta, self._sizes))
        }

    def ridge(self, ids: frozenset[str]) -> Tensor:
        """Where the ridge is, for each number."""
        like = next(iter(self.held.values()))
        marks = torch.cat([like.new_full((n,), float(id in ids)) for id, n in zip(self.ids, self._sizes)])
        return marks if self.root is None else marks / self.root.square()


@dataclass(frozen=True, eq=False)
class WeightProblem:
    """One component at states that are held."""

    component: Component
    design: Full | Tied
    goals: tuple[Goal, ...]
    marks: Tensor  # the ridge on each number of θ
    batch: int
    shapes: Mapping[str, torch.Size]
    anchor: Tensor | None = None  # where damping pulls to
    pull: float = 0.0

    @staticmethod
    def of(
        component: Component,
        weights: Weights,
        states: Weights,
        goals: Mapping[str, Goal],
        ridge: float,
        damping: float = 0.0,
    ) -> WeightProblem:
        """From all tensors and blocks by name, and the goals of rows.

        With damping, ½ damping · L ‖θ − θ₀‖² is added, L the Lipschitz constant and θ₀ the given weights.
        """
        root = _root(component, weights)
        design: Full | Tied
        if component.full and root is None:
            design = Full.of(component.rows[0], states)
        else:
            design = Tied(component.rows, states, weights, component.ids, root)
        held = tuple(goals[row.name] for row in component.rows)
        batch = len(next(iter(states.values())))
        shapes = {id: weights[id].shape for id in component.ids}
        marks = ridge * design.ridge(component.ridged)
        made = WeightProblem(component, design, held, marks, batch, shapes)
        if not damping:
            return made
        return replace(made, anchor=design.read(weights), pull=damping * made.lipschitz())

    def tensors(self, theta: Tensor) -> Weights:
        """θ as tensors by id, in their shapes."""
        return {id: part.reshape(self.shapes[id]) for id, part in self.design.weights(theta).items()}

    def smooth(self, theta: Tensor) -> Tensor:
        """The objective without penalties."""
        total = 0.5 * (self.marks * theta.square()).sum()
        if self.anchor is not None:
            total = total + 0.5 * self.pull * (theta - self.anchor).square().sum()
        for goal, z in zip(self.goals, self.design.values(theta)):
            total = total + goal.value(z).sum() / self.batch
        return total

    def value(self, theta: Tensor) -> float:
        """The objective."""
        return float(self.smooth(theta)) + self.component.proximal.value(self.tensors(theta))

    def gradient(self, theta: Tensor) -> Tensor:
        """That of `smooth`."""
        pulled = self.design.pull(
            [goal.gradient(z) / self.batch for goal, z in zip(self.goals, self.design.values(theta))]
        )
        pulled = pulled + self.marks * theta
        return pulled if self.anchor is None else pulled + self.pull * (theta - self.anchor)

    def prox(self, theta: Tensor, step: float) -> Tensor:
        """The proximal point of penalties and sets."""
        if not self.component.proximal.terms:
            return theta
        return self.design.read(self.component.proximal.apply(self.tensors(theta), step))

    @cached_property
    def exact(self) -> bool:
        """Whether `lipschitz` is a bound for sure, and not an estimate from below."""
        return isinstance(self.design, Full) or (self.design.root is None and self._apart)

    @property
    def _apart(self) -> bool:
        rows = self.component.rows
        ids = [id for row in rows for id in row.ids]
        return all(row.free for row in rows) and len(ids) == len(set(ids))

    def lipschitz(self) -> float:
        """A Lipschitz constant of the gradient.

        For z = J θ it is the largest eigenvalue of Jᵀ diag(curvature) J ÷ batch, and the ridge. Of a full
        matrix J is that of its features, [x; 1] for all of A, B and b together.
        """
        ridge = float(self.marks.max()) + self.pull
        if isinstance(self.design, Full):
            return self.goals[0].curvature * _largest(self.design.features) / self.batch + ridge
        if self.exact:
            bounds = [
                goal.curvature * _largest(Full.of(row, self.design.states).features) / self.batch
                for row, goal in zip(self.component.rows, self.goals)
            ]
            return max(bounds) + ridge
        return self._by_powers() + ridge

    def _by_powers(self) -> float:
        assert isinstance(self.design, Tied)
        start = self.design.read(self.design.held)
        offsets = self.design.values(torch.zeros_like(start))
        generator = torch.Generator(device="cpu").manual_seed(0)
        v = torch.randn(start.shape, generator=generator, dtype=torch.float64).to(start)
        found = 0.0
        for _ in range(_POWER_STEPS):
            v = v / v.norm().clamp_min(torch.finfo(v.dtype).tiny)
            made = self.design.values(v)
            w = self.design.pull(
                [
                    goal.curvature / self.batch * (z - offset)
                    for goal, z, offset in zip(self.goals, made, offsets)
                ]
            )
            found, before = float(w.norm()), found
            v = w
            if abs(found - before) <= 1e-3 * found:
                break
        return found

    @cached_property
    def metric(self) -> Tensor | None:
        """The Cholesky factor of curvature · mean [x; 1][x; 1]ᵀ + ridge, above the Hessian of each row.

        None where steps in it would not do: where there are sets or penalties, and for tied tensors.
        """
        if not isinstance(self.design, Full) or self.component.proximal.terms:
            return None
        H = (
            self.design.features.double()
            if self.design.features.device.type != "mps"
            else self.design.features
        )
        gram = self.goals[0].curvature / self.batch * (H.mT @ H)
        slight = _SLIGHT * float(gram.diagonal().mean()) + 1e-30
        gram.diagonal().add_(self.marks.to(gram) + self.pull + slight)
        factor, wrong = torch.linalg.cholesky_ex(gram)
        return None if int(wrong) else factor


def _root(component: Component, weights: Weights) -> Tensor | None:
    masses = component.proximal.masses
    if not masses:
        return None
    parts = [masses[id] if id in masses else torch.ones_like(weights[id]) for id in component.ids]
    return torch.cat([part.reshape(-1) for part in parts]).sqrt()


def _largest(features: Tensor) -> float:
    """The largest eigenvalue of Hᵀ H."""
    gram = features.mT @ features if features.shape[1] <= len(features) else features @ features.mT
    return float(torch.linalg.eigvalsh(gram)[-1]) * (1 + 64 * torch.finfo(gram.dtype).eps)


__all__ = ["Component", "Full", "Tied", "WeightProblem"]
