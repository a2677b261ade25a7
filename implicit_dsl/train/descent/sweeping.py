"""One sweep over the blocks of a lifted model, and what the objective is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from implicit_dsl.runtime.constraints import Constraint
from implicit_dsl.train.descent.blocks import Component, WeightProblem
from implicit_dsl.train.descent.data import Data
from implicit_dsl.train.descent.fista import improved
from implicit_dsl.train.descent.goals import Divergence, Goal
from implicit_dsl.train.descent.lifted import Lifted
from implicit_dsl.train.descent.links import Row, Weights
from implicit_dsl.train.descent.proximal import Proximal, Term
from implicit_dsl.train.descent.states import improved_states, state_problem


@dataclass(frozen=True, eq=False)
class Problem:
    """A lifted model with its penalties and sets, the ridge on C and D, and the steps for each block."""

    lifted: Lifted
    terms: tuple[Term, ...]
    ridge: float
    weight_steps: int
    state_steps: int
    damping: float = 0.0

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """The rows that must be fitted together; those of outputs alone first."""
        lifted = self.lifted
        rows: list[Row] = [*lifted.outputs.values(), *lifted.rows.values()]
        held: list[tuple[set[str], list[Row], list[Term]]] = []
        parts: list[tuple[set[str], list[Row], list[Term]]] = [
            *(({*row.ids} & lifted.trained, [row], []) for row in rows),
            *((set(term.tensors), [], [term]) for term in self.terms),
        ]
        for ids, own_rows, own_terms in parts:
            apart = []
            for other in held:
                if ids & other[0]:
                    ids, own_rows, own_terms = other[0] | ids, other[1] + own_rows, other[2] + own_terms
                else:
                    apart.append(other)
            held = [*apart, (ids, own_rows, own_terms)]
        order = {id: at for at, id in enumerate(lifted.weights)}
        found = [
            Component(
                tuple(own_rows),
                tuple(sorted(ids & lifted.trained, key=lambda id: order[id])),
                Proximal.of(own_terms, lifted.weights),
                self.ridged,
            )
            for ids, own_rows, own_terms in held
            if own_rows and ids & lifted.trained
        ]
        return tuple(sorted(found, key=lambda component: not self.of_outputs(component)))

    @cached_property
    def ridged(self) -> frozenset[str]:
        """The tensors in C and D."""
        outputs = self.lifted.outputs.values()
        return frozenset(id for row in outputs for link in row.links for id in link.ids)

    def of_outputs(self, component: Component) -> bool:
        """Whether a component is of outputs alone."""
        return all(
            row.name in self.lifted.outputs and row is self.lifted.outputs[row.name] for row in component.rows
        )

    def projected(self, weights: Weights) -> Weights:
        """Weights moved into the sets of the source."""
        found = dict(weights)
        for component in self.components:
            sets = tuple(term for term in component.proximal.terms if isinstance(term, Constraint))
            if sets:
                held = {id: found[id] for id in component.ids}
                found.update(Proximal.of(sets, held).apply(held, 0.0))
        return found

    def penalties(self, weights: Weights) -> float:
        """The penalties of the source, as they are added to the loss."""
        return sum(float(term.value(weights)) for term in self.terms if not isinstance(term, Constraint))


@dataclass(frozen=True, eq=False)
class Point:
    """Weights and states at which the lifted objective is looked at; `states` hold the inputs as well."""

    problem: Problem
    data: Data
    weights: Weights
    states: Weights
    weight: float  # λ

    def goals(self) -> dict[str, Goal]:
        """What is asked of each row: a small divergence of states, a small loss of outputs."""
        lifted = self.problem.lifted
        found: dict[str, Goal] = {
            name: Divergence(lifted.activations[name], self.states[name], self.weight) for name in lifted.rows
        }
        return found | dict(self.data.losses)

    def pre_activations(self) -> dict[str, Tensor]:
        """z of each state, and y, by name."""
        lifted = self.problem.lifted
        rows = (*lifted.rows.items(), *lifted.outputs.items())
        return {name: row.value(self.weights, self.states) for name, row in rows}

    def objective(self) -> float:
        """mean (loss + λ Σ F) + ½ ridge ‖(C, D)‖² + penalties."""
        goals, problem = self.goals(), self.problem
        total = sum(goals[name].value(z).mean() for name, z in self.pre_activations().items())
        ridge = sum(self.weights[id].square().sum() for id in problem.ridged & problem.lifted.trained)
        return float(total + 0.5 * problem.ridge * ridge) + problem.penalties(self.weights)

    def divergences(self) -> dict[str, float]:
        """The mean F(x, z) of an entry of each state."""
        lifted = self.problem.lifted
        return {
            name: float(
                lifted.activations[name]
                .divergence(self.states[name], row.value(self.weights, self.states))
                .mean()
            )
            for name, row in lifted.rows.items()
        }

    def curvature(self) -> float:
        """The mean diagonal of CᵀC over the states that outputs read, times the curvature of the loss."""
        found: list[Tensor] = []
        for name, row in self.problem.lifted.outputs.items():
            bound = self.data.losses[name].curvature
            for link in row.links:
                if link.source in self.problem.lifted.rows:
                    squares = self._squares(link.source, row)
                    found += [bound * squares]
        mean = float(torch.cat(found).mean()) if found else 1.0
        return mean if mean > 0 else 1.0

    def _squares(self, source: str, row: Row) -> Tensor:
        """The mean square of the entries of a column of C, times how many there are."""
        (link,) = [link for link in row.links if link.source == source]
        if link.matrix is not None:
            return link.matrix.at(self.weights).square().sum(0)
        width = self.states[source].shape[1]
        generator = torch.Generator(device="cpu").manual_seed(0)
        v = torch.randn((8, width), generator=generator, dtype=torch.float64).to(self.states[source])
        return link.apply(self.weights, v).square().mean(0).sum()[None] / width  # E ‖C v‖² = ‖C‖²

    def after_weights(self, components: Sequence[Component]) -> Point:
        """The point with the weights of some components improved."""
        goals, weights = self.goals(), dict(self.weights)
        for component in components:
            problem = WeightProblem.of(
                component,
                weights,
                self.states,
                goals,
                self.problem.ridge,
                self.problem.damping,
            )
            theta = problem.design.read(weights)
            weights.update(problem.tensors(improved(problem, theta, self.problem.weight_steps)))
        return replace(self, weights=weights)

    def after_states(self) -> Point:
        """The point with all states improved, those that stand last first."""
        lifted, states, z = self.problem.lifted, dict(self.states), self.pre_activations()
        goals = self.goals()
        for name in reversed(tuple(lifted.rows)):
            problem = state_problem(lifted, name, self.weights, states, z, goals)
            x = improved_states(problem, states[name], self.problem.state_steps)
            states[name] = x
            goals[name] = Divergence(lifted.activations[name], x, self.weight)
            for reader in problem.readers:
                z[reader.row.name] = problem.rest[reader.row.name] + reader.push(x)
        return replace(self, states=states)


def true_loss(data: Data, lifted: Lifted, weights: Weights, blocks: Mapping[str, Tensor]) -> float:
    """The mean loss of the outputs at these states."""
    outputs = lifted.outputs.items()
    return sum(float(data.losses[name].value(row.value(weights, blocks)).mean()) for name, row in outputs)


__all__ = ["Point", "Problem", "true_loss"]
