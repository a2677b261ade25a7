"""The derivative of outputs with respect to inputs at a point, by implicit differentiation.

    ∂y/∂u = C (I − φ'(z) A)⁻¹ φ'(z) B + D

row by row from the adjoint equations, from the matrices alone and in float64: no solver stops early.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import nn

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis.systems import system_for
from implicit_dsl.matrices import Partition
from implicit_dsl.model import Block
from implicit_dsl.operators import activation_rule
from implicit_dsl.runtime.reference import groups, indices, slopes, vjp
from implicit_dsl.runtime.system import System, _columns
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse
    import scipy.sparse.linalg as linalg
else:
    np = lazy_module("numpy")
    sparse = lazy_module("scipy.sparse")
    linalg = lazy_module("scipy.sparse.linalg")

Derivatives: TypeAlias = torch.Tensor | tuple["Derivatives", ...]


def jacobian(model: nn.Module | System, *inputs: torch.Tensor) -> Derivatives:
    """∂y/∂u [batch, *output, *input] at inputs [batch, *shape], in float64, in evaluation mode.

    Of several outputs it is a tuple, and so is each of its parts of several inputs. At a kink it takes the
    one-sided derivative that autograd takes. Compute: one sparse factorisation for each sample and loop.

    Raises ValueError for inputs that do not fit, hold NaN, or are tokens, along which there is no
    derivative; NoEquilibrium for a loop of which no solution is found; TypeError if the model is not a
    compiled one.
    """
    system = system_for(model, inputs)
    outputs = system.partition("outputs")
    unit = np.eye(outputs.total)
    made = np.stack([rows for _, rows in rows_at(system, inputs, unit)])
    return _as_tensors(system, made)


def rows_at(
    system: System, inputs: tuple[torch.Tensor, ...], combinations: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each sample z [slots] and P ∂y/∂u [k, inputs], for P [k, outputs] or [batch, k, outputs]."""
    _check(system, inputs)
    columns = system._inputs(inputs, {})
    U = _columns(columns)
    _, Z = system.solve_columns(U)
    B, C, D = (getattr(system, name).to_scipy() for name in "BCD")
    walk = _Backwards(system)
    for sample in range(U.shape[1]):
        P = combinations if combinations.ndim == 2 else combinations[sample]
        pulled = walk.pulled(Z[:, sample], C.T @ P.T)
        yield Z[:, sample], np.asarray(B.T @ pulled + D.T @ P.T).T


class _Backwards:
    """Λ = φ'(z)ᵀ (AᵀΛ + G) for one z and several G."""

    def __init__(self, system: System) -> None:
        A = system.A.to_scipy()
        self._slots: Partition = system.partition("slots")
        self._parts = []
        looped = {name for loop in system.model.loops for name in loop.states}
        for blocks in groups(system.model):
            here = indices(self._slots, blocks)
            there = indices(system.partition("states"), blocks)
            inner = A[here][:, there] if blocks[0].name in looped else None
            self._parts.append((blocks, here, there, A[:, there].T.tocsr(), inner))

    def pulled(self, z: np.ndarray, given: np.ndarray) -> np.ndarray:
        """Λ [slots, k] for G [states, k]."""
        made = np.zeros((self._slots.total, given.shape[1]))
        for blocks, here, there, readers, inner in reversed(self._parts):
            g = given[there] + readers @ made  # nothing of its own is there yet
            if inner is not None:
                slope = _slopes(blocks, z[here])
                whole = sparse.eye_array(len(there), format="csc") - (inner.T @ slope.T).tocsc()
                g = linalg.splu(whole.tocsc()).solve(np.ascontiguousarray(g))
            made[here] = vjp(blocks, np.repeat(z[here, None], g.shape[1], 1), g)
        return made


def _slopes(blocks: list[Block], z: np.ndarray) -> sparse.csr_array:
    """φ'(z) [states, slots] at one z."""
    made, start = [], 0
    for block in blocks:
        part = z[start : start + count(block.slots)]
        start += count(block.slots)
        if block.activation is None or activation_rule(block.activation).elementwise:
            diagonal = vjp([block], part[:, None], np.ones((len(part), 1)))[:, 0]
            made.append(sparse.diags_array(diagonal, format="csr"))
        else:
            made.append(sparse.csr_array(slopes([block], part)))
    return sparse.block_diag(made, format="csr")


def _check(system: System, inputs: tuple[torch.Tensor, ...]) -> None:
    for block, given in zip(system.inputs, inputs):
        if block.tokens:
            raise ValueError(
                f"`{block.name}` holds tokens, along which there is no derivative: there is a bound for "
                "them, of unit vectors (`sensitivity`)"
            )
        if not bool(torch.isfinite(given).all()):
            raise ValueError(f"`{block.name}` holds values that are not finite")


def _as_tensors(system: System, J: np.ndarray) -> Derivatives:
    """J [batch, outputs, inputs] by blocks."""
    rows, columns = system.partition("outputs"), system.partition("inputs")
    made = []
    for output in system.outputs:
        parts = []
        for given in system.inputs:
            part = np.ascontiguousarray(J[:, rows[output.name], columns[given.name]])
            shape = len(J), *sizes(output.shape), *sizes(given.shape)
            parts.append(torch.from_numpy(part).reshape(shape))
        made.append(parts[0] if len(parts) == 1 else tuple(parts))
    return made[0] if len(made) == 1 else tuple(made)


__all__ = ["jacobian", "rows_at"]
