"""The same function with ‖A'‖∞ < 1: states and slots in other units.

For a vector v > 0 with M(v) ≤ κ v let sᵢ = 1 ÷ vᵢ, x' = S x and z' = T z. Then x' = φ'(A'x' + B'u + b') and
y = C'x' + D u + d with A' = T A S⁻¹, B' = T B, b' = T b, C' = C S⁻¹ and φ'(z') = S φ(T⁻¹ z'). For an
elementwise φ with slopes up to K, T = K S keeps those of φ' at 1, and the rows of |A'| sum up to
K sᵢ Σⱼ |aᵢⱼ| vⱼ ≤ κ. In general t_k is the largest gain of the slot on a state times its s: for max-pooling
the largest s of the windows that hold the slot. With powers of two for s and t every product is exact,
so that the iterates are those of the given system to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from implicit_dsl._lazy import lazy_module
from implicit_dsl.model import Block
from implicit_dsl.operators import activation_rule
from implicit_dsl.runtime.certificates.contraction import Map, perron, proving
from implicit_dsl.runtime.certificates.rounding import upwards
from implicit_dsl.runtime.system import System, Tensors, _columns
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse
else:
    np = lazy_module("numpy")
    sparse = lazy_module("scipy.sparse")

_SETTLED = 4e-16  # of the largest state: a step that is a matter of rounding
_MOST_STEPS = 200_000
_SUMMED = 4000  # steps of v ← 1 + M(v)
_SHIFTS = 16  # roundings of v to powers of two that are tried
_MOST_SLOTS = 4096  # of one activation that is not elementwise


class CannotRescale(ValueError):  # noqa: N818 (it is what was found, not a fault of the program)
    """No vector v > 0 with M(v) < v was found."""


@dataclass(frozen=True)
class Rescaled:
    """x' = φ'(A'x' + B'u + b'), y = C'x' + D u + d: the function of `system`, with ‖A'‖∞ ≤ `norm` < 1.

    `states` is s and `slots` is t, in the order of the matrices. `exact`: both are powers of two.
    φ' is 1-Lipschitz in the ∞-norm, so that `norm` is a contraction rate.
    """

    system: System
    A: sparse.csr_array
    B: sparse.csr_array
    C: sparse.csr_array
    b: np.ndarray
    states: np.ndarray
    slots: np.ndarray
    norm: float
    exact: bool

    def phi(self, z: np.ndarray) -> np.ndarray:
        """φ'(z') [states, batch] for z' [slots, batch]."""
        return np.asarray(self.states[:, None] * _phi(self.system, z / self.slots[:, None]))

    def step(self, x: np.ndarray, u: np.ndarray) -> np.ndarray:
        """φ'(A'x' + B'u + b') for x' [states, batch] and u [inputs, batch]."""
        return self.phi(self.A @ x + (self.B @ u + self.b[:, None]))

    def solve(self, *u: torch.Tensor, **named: torch.Tensor) -> Tensors:
        """y for inputs [batch, *shape] as `System.solve` takes and returns them, by x' ← φ'(A'x' + B'u + b').

        Raises as it does, and ArithmeticError if rounding keeps the steps from becoming small.
        """
        system = self.system
        inputs = system._inputs(u, named)
        U = _columns(inputs)
        Y = self.C @ self._equilibrium(U) + system.D.to_scipy() @ U + system.d[:, None]
        made = system._blocks_of(Y, system.partition("outputs"), system.outputs, inputs[0])
        if len(made) == 1:
            return next(iter(made.values()))
        return tuple(made.values()) if system.result is None else system.result(*made.values())

    def _equilibrium(self, U: np.ndarray) -> np.ndarray:
        """x' [states, batch] for u [inputs, batch]."""
        x = np.zeros((len(self.states), U.shape[1]))
        for _ in range(_MOST_STEPS):
            following = self.step(x, U)
            moved = np.abs(following - x).max(0, initial=0.0)
            x = following
            if (moved <= _SETTLED * np.abs(x).max(0, initial=0.0)).all():
                return x
        raise ArithmeticError(f"the steps are still above {_SETTLED:g} of the states after {_MOST_STEPS}")


def rescaled(system: System) -> Rescaled:
    """The system in units in which ‖A‖∞ < 1.

    Raises CannotRescale if no vector v > 0 with M(v) < v is found: a system that is proved by its
    signs (matrix measure, monotone) has none.
    """
    with np.errstate(all="ignore"):
        return _rescaled(system, system.A.to_scipy())


def _rescaled(system: System, A: sparse.csr_array) -> Rescaled:
    magnitude = abs(A)
    blocks = system.states

    def moved(change: np.ndarray) -> np.ndarray:
        return _majorant(blocks, upwards(magnitude @ change, A.shape[1]))

    found = [
        (norm, states, slots, exact)
        for v, exact in _vectors(system, moved, magnitude)
        for states, slots in [_units(blocks, v)]
        for norm in [float(upwards((magnitude @ (1 / states)) * slots, A.shape[1]).max(initial=0.0))]
        if norm < 1 and np.isfinite(slots).all()
    ]
    if not found:
        raise CannotRescale(
            "no scaling with ‖A‖∞ < 1 is found: the Perron root of the loops is not below 1 "
            "(`certify()` says what else proves them)"
        )
    norm, states, slots, exact = min(found, key=lambda one: (not one[3], one[0]))
    inner, outer = sparse.diags_array(1 / states), sparse.diags_array(slots)
    exact = exact and bool((np.frexp(slots)[0] == 0.5).all())
    B, C = outer @ system.B.to_scipy(), system.C.to_scipy() @ inner
    scaled = (outer @ A @ inner).tocsr()
    return Rescaled(system, scaled, B.tocsr(), C.tocsr(), slots * system.b, states, slots, norm, exact)


def _vectors(system: System, M: Map, magnitude: sparse.csr_array) -> Iterator[tuple[np.ndarray, bool]]:
    """Vectors v that may have M(v) < v, and whether they are powers of two."""
    size = magnitude.shape[1]
    gains = _gains(system.states)
    found: list[np.ndarray] = []
    if gains is not None:
        found += proving(magnitude, gains)
    found.append(perron(M, size).vector)
    v = np.ones(size)
    for _ in range(_SUMMED):  # v ← 1 + M(v), which grows to (I − M)⁻¹ 1
        image = M(v)
        if (image < v).all() or not np.isfinite(image).all():
            break
        v = 1 + image
    found.append(v)
    for v in found:
        if not (np.isfinite(v).all() and (v > 0).all()):
            continue
        v = v / v.max()
        yield v, False
        for shift in range(_SHIFTS):
            yield 2.0 ** np.round(np.log2(v) + shift / _SHIFTS), True


def _gains(blocks: Sequence[Block]) -> np.ndarray | None:
    """The Lipschitz constant of each state; None if an activation is not elementwise."""
    parts = []
    for block in blocks:
        slope = (1.0, 1.0)
        if block.activation is not None:
            rule = activation_rule(block.activation)
            found = rule.slope(block.activation) if rule.elementwise else None
            if found is None:
                return None
            slope = found
        parts.append(np.full(count(block.shape), max(map(abs, slope))))
    return np.concatenate(parts) if parts else np.zeros(0)


def _majorant(blocks: Sequence[Block], change: np.ndarray) -> np.ndarray:
    """The majorants of the activations on changes [slots], one block below the other."""
    made, start = [], 0
    for block in blocks:
        part = change[start : start + count(block.slots)]
        start += count(block.slots)
        if block.activation is not None:
            rule = activation_rule(block.activation)
            part = rule.majorant(block.activation, part.reshape(1, *sizes(block.slots))).reshape(-1)
        made.append(part)
    return np.concatenate(made) if made else change


def _units(blocks: Sequence[Block], v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """s and t for v."""
    states, slots, start = 1 / v, [], 0
    for block in blocks:
        part = states[start : start + count(block.shape)]
        start += count(block.shape)
        slots.append(_slot_units(block, part))
    return states, np.concatenate(slots) if slots else states


def _slot_units(block: Block, s: np.ndarray) -> np.ndarray:
    """t for the s of one block, so that φ' is 1-Lipschitz in the ∞-norm."""
    if block.activation is None:
        return s
    rule, size = activation_rule(block.activation), count(block.slots)
    if rule.elementwise:
        gains = _gains((block,))
        return s if gains is None else s * gains
    if size > _MOST_SLOTS:
        raise CannotRescale(f"`{block.name}` has {size:,} slots, above the limit of {_MOST_SLOTS:,}")
    each = rule.majorant(block.activation, np.eye(size).reshape(size, *sizes(block.slots)))
    t = (each.reshape(size, -1) * s).max(1)
    t = np.where(t > 0, t, t.max(initial=0.0))
    if not (t > 0).all():
        return np.full(size, s.max())
    gain = (s * rule.majorant(block.activation, (1 / t).reshape(1, *sizes(block.slots))).reshape(-1)).max()
    return np.asarray(t if gain <= 1 else t * 2.0 ** np.ceil(np.log2(gain)))


def _phi(system: System, z: np.ndarray) -> np.ndarray:
    """φ(z) [states, batch] for z [slots, batch] of the given system."""
    made, start, batch = [], 0, z.shape[1]
    for block in system.states:
        part = z[start : start + count(block.slots)]
        start += count(block.slots)
        if block.activation is not None:
            rule = activation_rule(block.activation)
            x = rule.reference(block.activation, part.T.reshape(batch, *sizes(block.slots)))
            part = x.reshape(batch, count(block.shape)).T
        made.append(part)
    return np.concatenate(made) if made else z
