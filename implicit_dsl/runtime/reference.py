"""The definition, solved by other means than generated code: float64, assembled matrices, Newton's method.

x = φ(A x + B u + b),    Λ = φ'(Z)ᵀ (AᵀΛ + CᵀG)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.matrices import Partition
from implicit_dsl.model import Block, ImplicitModel
from implicit_dsl.operators import activation_rule
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse
else:
    np = lazy_module("numpy")

EXACT = 1e-13  # residual at which an equilibrium counts as solved, relative to max(1, |x|)
LARGEST_NEWTON = 3000  # states of a loop, above which its Jacobian is not made
_NEWTON_STEPS = 60
_SWEEPS = 20_000
_HALVINGS = 30


class NoEquilibrium(ArithmeticError):  # noqa: N818 (it is what was found, not a fault of the program)
    """The reference found no solution of a loop."""


def solve_states(
    model: ImplicitModel, A: sparse.csr_array, Z: np.ndarray, slots: Partition, states: Partition
) -> tuple[np.ndarray, np.ndarray]:
    """x [states, batch] and z [slots, batch], for Z = B u + b [slots, batch].

    Feed-forward states by substitution, each loop by Newton's method, sample by sample. Raises
    NoEquilibrium if a loop has none that is found, ValueError if states stand in no solvable order.
    """
    check_order(model)
    X, Z = np.zeros((states.total, Z.shape[1])), Z.copy()
    for blocks in groups(model):
        here, there = indices(slots, blocks), indices(states, blocks)
        Z[here] += A[here] @ X  # the states of this group and those behind it are still zero
        if len(blocks) == 1 and not _loop_of(model, blocks[0]):
            X[there] = _phi(blocks, Z[here])
            continue
        inner = A[here][:, there]
        for sample in range(X.shape[1]):
            x = _equilibrium(blocks, inner, Z[here, sample])
            X[there, sample] = x
        Z[here] += inner @ X[there]
    return X, Z


def solve_adjoint(
    model: ImplicitModel,
    A: sparse.csr_array,
    Z: np.ndarray,
    pulled: np.ndarray,
    slots: Partition,
    states: Partition,
) -> np.ndarray:
    """Λ [slots, batch], for z [slots, batch] and CᵀG [states, batch]; loops by a linear solve."""
    At, L = A.T.tocsr(), np.zeros_like(Z)
    for blocks in reversed(list(groups(model))):
        here, there = indices(slots, blocks), indices(states, blocks)
        g = pulled[there] + At[there] @ L  # this group has no Λ yet
        if len(blocks) == 1 and not _loop_of(model, blocks[0]):
            L[here] = vjp(blocks, Z[here], g)
            continue
        inner = A[here][:, there].toarray()
        for sample in range(Z.shape[1]):
            slope = slopes(blocks, Z[here, sample])
            L[here, sample] = np.linalg.solve(np.eye(len(here)) - slope.T @ inner.T, slope.T @ g[:, sample])
    return L


def check_order(model: ImplicitModel) -> None:
    place = {block.name: at for at, block in enumerate(model.states)}
    member = {name: loop for loop in model.loops for name in loop.states}
    for row, col in model.A:
        if place[col] >= place[row] and (row not in member or member.get(col) is not member[row]):
            raise ValueError(
                f"`{row}` reads `{col}`, which is not computed before it: A is not block "
                "triangular in this order, and substitution cannot solve it"
            )


def groups(model: ImplicitModel) -> Iterator[list[Block]]:
    """Single states, and the states of a loop together, in the order in which they are solved."""
    member = {name: loop for loop in model.loops for name in loop.states}
    done: set[str] = set()
    for block in model.states:
        if block.name in done:
            continue
        loop = member.get(block.name)
        names = (block.name,) if loop is None else loop.states
        done.update(names)
        yield [model.blocks[name] for name in names]


def _loop_of(model: ImplicitModel, block: Block) -> bool:
    return any(block.name in loop.states for loop in model.loops)


def indices(parts: Partition, blocks: list[Block]) -> np.ndarray:
    pieces = [np.arange(parts[block.name].start, parts[block.name].stop) for block in blocks]
    return np.concatenate(pieces)


def _phi(blocks: list[Block], Z: np.ndarray) -> np.ndarray:
    """φ on the slots [slots, batch] of some blocks."""
    made, start = [], 0
    for block in blocks:
        z = Z[start : start + count(block.slots)]
        start += count(block.slots)
        if block.activation is not None:
            rule, batch = activation_rule(block.activation), Z.shape[1]
            x = rule.reference(block.activation, z.T.reshape(batch, *sizes(block.slots)))
            z = x.reshape(batch, count(block.shape)).T
        made.append(z)
    return np.concatenate(made)


def vjp(blocks: list[Block], Z: np.ndarray, g: np.ndarray) -> np.ndarray:
    """φ'(z)ᵀ g for slots [slots, batch] and g [states, batch]."""
    made, slot, state, batch = [], 0, 0, Z.shape[1]
    for block in blocks:
        z, part = Z[slot : slot + count(block.slots)], g[state : state + count(block.shape)]
        slot, state = slot + count(block.slots), state + count(block.shape)
        if block.activation is not None:
            rule = activation_rule(block.activation)
            z = z.T.reshape(batch, *sizes(block.slots))
            part = rule.vjp(block.activation, z, part.T.reshape(batch, *sizes(block.shape)))
            part = part.reshape(batch, count(block.slots)).T
        made.append(part)
    return np.concatenate(made)


def slopes(blocks: list[Block], z: np.ndarray) -> np.ndarray:
    """φ'(z) [states, slots] at one z [slots]: its rows are pulled-back unit vectors."""
    total = sum(count(block.shape) for block in blocks)
    return vjp(blocks, np.repeat(z[:, None], total, 1), np.eye(total)).T


def _equilibrium(blocks: list[Block], inner: sparse.csr_array, b: np.ndarray) -> np.ndarray:
    """x = φ(A x + b) for one sample: Newton's method, with damped sweeps where it does not help."""

    def residual(x: np.ndarray) -> np.ndarray:
        return np.asarray(_phi(blocks, (inner @ x + b)[:, None])[:, 0] - x)

    def is_exact(x: np.ndarray, r: np.ndarray) -> bool:
        return bool(np.abs(r).max(initial=0.0) <= EXACT * max(1.0, np.abs(x).max(initial=0.0)))

    x = np.zeros(sum(count(block.shape) for block in blocks))
    r = residual(x)
    if len(x) <= LARGEST_NEWTON:
        for _ in range(_NEWTON_STEPS):
            if is_exact(x, r):
                return x
            slope = slopes(blocks, inner @ x + b)
            try:
                step = np.linalg.solve(np.eye(len(x)) - slope @ inner.toarray(), r)
            except np.linalg.LinAlgError:
                break
            x, r, better = _line_search(residual, x, r, step)
            if not better:
                break
    for sweep in range(_SWEEPS):
        if is_exact(x, r):
            return x
        x = x + (1.0 if sweep < _SWEEPS // 2 else 0.5) * r
        r = residual(x)
    if np.abs(r).max(initial=0.0) <= 100 * EXACT * max(1.0, np.abs(x).max(initial=0.0)):
        return x
    names = ", ".join(block.name for block in blocks)
    raise NoEquilibrium(f"the loop {{{names}}}: the residual is still {np.abs(r).max():.1e}")


def _line_search(
    residual: object, x: np.ndarray, r: np.ndarray, step: np.ndarray
) -> tuple[np.ndarray, np.ndarray, bool]:
    """The longest halved step that lowers the residual, and whether there is one."""
    assert callable(residual)
    size, factor = np.abs(r).max(), 1.0
    for _ in range(_HALVINGS):
        tried = x + factor * step
        found = residual(tried)
        if np.abs(found).max() < size:
            return tried, found, True
        factor /= 2
    return x, r, False
