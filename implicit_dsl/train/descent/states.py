"""The block of states: one state after another, all samples at once, with the weights held.

Of a state x, with z = A x + r its own pre-activation and z_t = M_t x + r_t those of the rows that read it,

    λ (f(x) + f*(z) − ⟨x, z⟩)  +  Σ_t goal_t(z_t)

is f plus a smooth function, whose curvature is at most the largest eigenvalue of

    Σ_t curvature_t M_tᵀ M_t  +  λ (K Aᵀ A − A − Aᵀ),        K the largest slope of φ.

It is convex if x does not read itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from implicit_dsl.train.descent.goals import Divergence, Goal
from implicit_dsl.train.descent.lifted import Lifted
from implicit_dsl.train.descent.links import Link, Row, Weights

_DENSE = 1536  # entries of a state, up to which eigenvalues are computed
_POWER_STEPS = 20
_MARGIN = 1.1  # on what power steps find, which is below the largest eigenvalue
_FLAT = 1e-6  # of λ: the least curvature that steps go by

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Reader:
    """A row that reads the state, through `push` [batch, n] -> [batch, size] and its adjoint."""

    row: Row
    push: Map
    pull: Map
    matrix: Tensor | None


@dataclass(frozen=True, eq=False)
class StateProblem:
    """The problem of one state. `z` are the pre-activations without what the state adds to them."""

    name: str
    goal: Divergence  # at the current x; its weight and activation are used
    rest: Mapping[str, Tensor]
    readers: tuple[Reader, ...]
    goals: Mapping[str, Goal]

    def value(self, x: Tensor) -> Tensor:
        """What x is part of, for each sample [batch]."""
        own = self.rest[self.name]
        total = torch.zeros_like(x[:, 0])
        for reader in self.readers:
            if reader.row.name == self.name:
                own = own + reader.push(x)
            else:
                z = self.rest[reader.row.name] + reader.push(x)
                total = total + self.goals[reader.row.name].value(z)
        return total + self.goal.weight * self.goal.activation.divergence(x, own).sum(1)

    def gradient(self, x: Tensor) -> Tensor:
        """The gradient [batch, n] of all but λ f(x)."""
        weight, activation, own = self.goal.weight, self.goal.activation, self.rest[self.name]
        total = torch.zeros_like(x)
        for reader in self.readers:
            if reader.row.name == self.name:
                own = own + reader.push(x)
                total = total + weight * reader.pull(activation.phi(own) - x)
            else:
                z = self.rest[reader.row.name] + reader.push(x)
                total = total + reader.pull(self.goals[reader.row.name].gradient(z))
        return total - weight * own

    def lipschitz(self, width: int) -> float:
        """The largest eigenvalue in the head of this module, or a little above what power steps find."""
        weight, steepest = self.goal.weight, self.goal.activation.steepest
        matrices = [reader.matrix for reader in self.readers]
        if width <= _DENSE and all(matrix is not None for matrix in matrices):
            H = self.rest[self.name].new_zeros(width, width)
            for reader in self.readers:
                M = reader.matrix
                assert M is not None
                if reader.row.name == self.name:
                    H += weight * (steepest * (M.mT @ M) - M - M.mT)
                else:
                    H += self.goals[reader.row.name].curvature * (M.mT @ M)
            found = float(torch.linalg.eigvalsh(H)[-1]) * (1 + 64 * torch.finfo(H.dtype).eps)
        else:
            found = _MARGIN * self._by_powers(width)
        return max(found, _FLAT * weight)

    def _by_powers(self, width: int) -> float:
        weight, steepest = self.goal.weight, self.goal.activation.steepest
        generator = torch.Generator(device="cpu").manual_seed(0)
        like = self.rest[self.name]
        v = torch.randn((1, width), generator=generator, dtype=torch.float64).to(like)
        found = 0.0
        for _ in range(_POWER_STEPS):
            v = v / v.norm().clamp_min(torch.finfo(v.dtype).tiny)
            w = torch.zeros_like(v)
            for reader in self.readers:
                z = reader.push(v)
                if reader.row.name == self.name:
                    # (I + A)ᵀ (I + A) ⪰ 0, so that − A − Aᵀ ⪯ I + Aᵀ A
                    w = w + weight * (steepest + 1) * reader.pull(z) + weight * v
                else:
                    w = w + self.goals[reader.row.name].curvature * reader.pull(z)
            found, v = float(w.norm()), w
        return found


def state_problem(
    lifted: Lifted,
    name: str,
    weights: Weights,
    states: Weights,
    z: Mapping[str, Tensor],
    goals: Mapping[str, Goal],
) -> StateProblem:
    """The problem of one state, for all blocks, all pre-activations and the goals of all rows by name."""
    x, goal = states[name], goals[name]
    assert isinstance(goal, Divergence)
    readers, rest = [], {name: z[name]}
    for row in lifted.readers[name]:
        (link,) = [link for link in row.links if link.source == name]
        reader = _reader(row, link, weights, x.shape[1])
        readers.append(reader)
        rest[row.name] = z[row.name] - reader.push(x)
    return StateProblem(name, goal, rest, tuple(readers), goals)


def _reader(row: Row, link: Link, weights: Weights, width: int) -> Reader:
    if link.matrix is not None:
        M = link.matrix.at(weights)
        return Reader(row, lambda x: x @ M.mT, lambda g: g @ M, M)
    return Reader(row, lambda x: link.apply(weights, x), lambda g: link.pull(weights, g, width), None)


def improved_states(problem: StateProblem, x: Tensor, steps: int) -> Tensor:
    """x after some accelerated proximal gradient steps; no sample is worse than before."""
    weight, activation = problem.goal.weight, problem.goal.activation
    L = problem.lipschitz(x.shape[1])
    ahead, here, t = x, x, 1.0
    for _ in range(steps):
        moved = activation.prox(ahead - problem.gradient(ahead) / L, weight / L)
        if bool(((ahead - moved) * (moved - here)).sum() > 0):
            t = 1.0
        following = (1 + (1 + 4 * t * t) ** 0.5) / 2
        # f may be infinite beside the values of φ, but its smooth rest is not
        ahead = moved + (t - 1) / following * (moved - here)
        here, t = moved, following
    better = problem.value(here) < problem.value(x)
    return torch.where(better[:, None], here, x)


__all__ = ["Reader", "StateProblem", "improved_states", "state_problem"]
