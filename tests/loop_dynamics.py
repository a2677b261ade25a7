"""The iterations that certificates are about, from assembled matrices and activations by definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from implicit_dsl.model import Loop
from implicit_dsl.operators import activation_rule
from implicit_dsl.runtime import System
from implicit_dsl.runtime.certificates import Proof
from implicit_dsl.runtime.certificates.folded import linear_states
from implicit_dsl.shapes import count, sizes

Values = dict[str, np.ndarray]
Step = Callable[[np.ndarray], np.ndarray]


class Dynamics:
    """A loop of a system, for one input u and given values of the states before it."""

    def __init__(self, system: System, loop: Loop, u: np.ndarray, before: Values) -> None:
        self.model, self.loop, self.before = system.model, loop, before
        self._A, self._slots, self._states = (
            system.A.to_numpy(),
            system.partition("slots"),
            system.partition("states"),
        )
        offset = system.b + system.B.to_numpy() @ u
        self._offset = {block.name: offset[self._slots[block.name]] for block in self.model.states}

    def size(self, names: tuple[str, ...]) -> int:
        return sum(count(self.model.blocks[name].shape) for name in names)

    def split(self, x: np.ndarray, names: tuple[str, ...]) -> Values:
        """A vector over some states, by name."""
        made, start = {}, 0
        for name in names:
            end = start + count(self.model.blocks[name].shape)
            made[name], start = x[start:end], end
        return made

    def slots(self, name: str, values: Values) -> np.ndarray:
        """The pre-activation of a state; what is not among the values is zero."""
        z = self._offset[name].copy()
        for source in {term.source for term in self.model.terms_of[name]} & set(values):
            z += self._A[self._slots[name], self._states[source]] @ values[source]
        return np.asarray(z)

    def activated(self, name: str, z: np.ndarray) -> np.ndarray:
        block = self.model.blocks[name]
        if block.activation is None:
            return z
        made = activation_rule(block.activation).reference(
            block.activation, z.reshape(1, *sizes(block.slots))
        )
        return np.asarray(made).reshape(-1)

    def completed(self, x: np.ndarray) -> Values:
        """All states of the loop, for the iterated ones."""
        values = self.before | self.split(x, self.loop.iterated)
        for name in self.loop.states:
            if name not in self.loop.iterated:
                values[name] = self.activated(name, self.slots(name, values))
        return values

    def sweep(self, x: np.ndarray) -> np.ndarray:
        values = self.completed(x)
        return np.concatenate([self.activated(n, self.slots(n, values)) for n in self.loop.iterated])


@dataclass(frozen=True)
class Method:
    """What a proof is about: the steps of its method, and its norm, on some states one below the other."""

    names: tuple[str, ...]
    step: Step
    norm: Callable[[np.ndarray], float]
    units: np.ndarray  # how large an entry of a vector of norm 1 may be


def method_of(proof: Proof, dynamics: Dynamics) -> Method:
    loop = dynamics.loop
    if proof.method in ("picard", "substitution"):
        names, step = loop.iterated, dynamics.sweep
    else:
        linear = linear_states(dynamics.model, loop)
        names = tuple(name for name in loop.states if name not in linear)
        step = _folded(proof, dynamics, linear, names)
    vectors = dict(proof.vector)
    v = np.concatenate(
        [
            vectors[name].reshape(-1) if vectors else np.ones(count(dynamics.model.blocks[name].shape))
            for name in names
        ]
    )
    if proof.method == "forward_backward":
        return Method(names, step, lambda z: float(np.sqrt((v * z * z).sum())), 1 / np.sqrt(v))
    return Method(names, step, lambda z: float(np.abs(z / v).max()), v)


def _folded(proof: Proof, dynamics: Dynamics, linear: tuple[str, ...], names: tuple[str, ...]) -> Step:
    def step(x: np.ndarray) -> np.ndarray:
        old = dynamics.split(x, names)
        values = dynamics.before | old
        for name in linear:
            values[name] = dynamics.slots(name, values)
        made = []
        for name in names:
            z, a = dynamics.slots(name, values), proof.damping
            if proof.method == "averaged":
                assert a is not None
                made.append((1 - a) * old[name] + a * dynamics.activated(name, z))
            elif proof.method == "forward_backward":
                assert a is not None
                made.append(dynamics.activated(name, (1 - a) * old[name] + a * z))
            else:
                made.append(dynamics.activated(name, z))
        return np.concatenate(made)

    return step


def solution(step: Step, x: np.ndarray, steps: int = 60) -> np.ndarray | None:
    """A fixed point near x by Newton's method with difference quotients and halved steps, if it is found."""
    for _ in range(steps):
        residual = step(x) - x
        if not np.isfinite(residual).all():
            return None
        if np.abs(residual).max() <= 1e-11 * max(1.0, np.abs(x).max()):
            return x
        J = np.empty((len(x), len(x)))
        for j in range(len(x)):
            moved = x.copy()
            moved[j] += 1e-7 * max(1.0, abs(x[j]))
            J[:, j] = (step(moved) - moved - residual) / (moved[j] - x[j])
        direction, size = np.linalg.lstsq(J, -residual, rcond=None)[0], 1.0
        while size > 1e-4:
            following = x + size * direction
            if np.abs(step(following) - following).max() < np.abs(residual).max():
                break
            size /= 2
        x = x + size * direction
    return None


def loops_of(system: System, u: np.ndarray, rng: np.random.Generator) -> list[Dynamics] | None:
    """The loops of a system, each with the solutions of those before it; None if one is not found."""
    values: Values = {}
    made: list[Dynamics] = []
    member = {name: loop for loop in system.model.loops for name in loop.states}
    for block in system.model.states:
        loop = member.get(block.name)
        if block.name in values:
            continue
        if loop is None:
            dynamics = Dynamics(system, Loop((block.name,), (block.name,)), u, values)
            values = values | {block.name: dynamics.activated(block.name, dynamics.slots(block.name, values))}
            continue
        made.append(Dynamics(system, loop, u, values))
        x = rng.standard_normal(made[-1].size(loop.iterated))
        for _ in range(200):
            x = made[-1].sweep(x)
        found = solution(made[-1].sweep, x if np.isfinite(x).all() else np.zeros_like(x))
        if found is None:
            return None if len(made) < len(system.model.loops) else made
        values = made[-1].completed(found)
    return made
