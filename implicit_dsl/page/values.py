"""The values that states take on data, as far as a page shows them: to a few digits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from implicit_dsl.model import Block
from implicit_dsl.operators import activation_rule
from implicit_dsl.runtime import System
from implicit_dsl.shapes import count, sizes

_SWEEPS = 1000
_SETTLED = 1e-7  # of the largest state
_MOST_SAMPLES = 100
_MOST_SOLVED = 4  # samples for which loops that do not settle are solved one by one


def states_on(system: System, inputs: Sequence[torch.Tensor]) -> tuple[dict[str, np.ndarray], int]:
    """The states [samples, size] by name, and of how many samples they are.

    x ← φ(A x + B u + b) for all samples at once; where that does not settle, loops are solved by Newton's
    method, for fewer samples. Raises NoEquilibrium where there is no solution, and TooLarge for matrices
    beyond the limit.
    """
    taken = [tensor[:_MOST_SAMPLES] for tensor in inputs]
    X = _settled(system, _columns(taken, system.inputs))
    if X is None:
        taken = [tensor[:_MOST_SOLVED] for tensor in taken]
        with np.errstate(all="ignore"):  # what diverges is refused, or seen in the values
            solved = system.states_of(*taken)
        return {name: values.double().flatten(1).numpy() for name, values in solved.items()}, len(taken[0])
    parts = system.partition("states")
    return {block.name: X[parts[block.name]].T for block in system.model.states}, len(taken[0])


def _columns(tensors: Sequence[torch.Tensor], blocks: Sequence[Block]) -> np.ndarray:
    """u [inputs, samples], tokens as unit vectors."""
    made = []
    for tensor, block in zip(tensors, blocks):
        if block.tokens:
            tensor = torch.nn.functional.one_hot(tensor, sizes(block.shape)[-1])
        made.append(tensor.double().flatten(1).numpy().T)
    return np.concatenate(made)


def _settled(system: System, U: np.ndarray) -> np.ndarray | None:
    """x [states, samples], or None if the iteration does not come to rest."""
    A, B = system.A.to_scipy(), system.B.to_scipy()
    incoming = B @ U + system.b[:, None]
    X = np.zeros((A.shape[1], U.shape[1]))
    with np.errstate(all="ignore"):
        for _ in range(max(_SWEEPS, len(system.states) + 1)):
            following = _phi(system.states, A @ X + incoming)
            moved, X = float(np.abs(following - X).max(initial=0.0)), following
            if moved <= _SETTLED * float(np.abs(X).max(initial=0.0)):
                return X
            if not np.isfinite(moved):
                break
    return None


def _phi(blocks: Sequence[Block], Z: np.ndarray) -> np.ndarray:
    """φ on the slots [slots, samples] of all states, in the order of the matrices."""
    made, start, samples = [], 0, Z.shape[1]
    for block in blocks:
        z = Z[start : start + count(block.slots)]
        start += count(block.slots)
        if block.activation is not None:
            rule = activation_rule(block.activation)
            x = rule.reference(block.activation, z.T.reshape(samples, *sizes(block.slots)))
            z = x.reshape(samples, count(block.shape)).T
        made.append(z)
    return np.concatenate(made)
