"""Majorants of the activations of a system: M(|z − z'|) ≥ |φ(z) − φ(z')|, as matrices where they are linear.

M is monotone, positively homogeneous and subadditive (`ActivationRule.majorant`). So M(σ) ≤ K σ for σ ≥ 0 and
the matrix K whose columns are M(e_k), with equality where M is linear: for all elementwise activations,
products of bounded factors and norms. Maxima are not: for these K adds up what they choose from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.majorants import majorant_matrix
from implicit_dsl.model import Block
from implicit_dsl.operators import activation_rule
from implicit_dsl.operators.base import ActivationRule, Operator
from implicit_dsl.runtime.certificates.boxes import NO_BOXES, Boxes, boxes, needs_boxes
from implicit_dsl.runtime.certificates.magnitudes import Magnitudes
from implicit_dsl.runtime.certificates.rounding import growth, upwards
from implicit_dsl.runtime.system import System
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse
else:
    np = lazy_module("numpy")
    sparse = lazy_module("scipy.sparse")

_MOST_SLOTS = 16_384  # of an activation that is not elementwise and whose matrix is made
_SAFE = 1e-200  # no product of few numbers above it and slopes is lost to underflow


class NoBound(ValueError):  # noqa: N818 (it is what was found, not a fault of the program)
    """Nothing is proved; the text says why, and what to do."""


@dataclass(frozen=True)
class Majorant:
    """That of the activation of one block, on slots between `lower` and `upper` if these are given."""

    block: Block
    lower: np.ndarray | None = None
    upper: np.ndarray | None = None

    def __call__(self, change: np.ndarray) -> np.ndarray:
        """No less than M(σ) [states, k], for σ [slots, k]."""
        if self.block.activation is None:
            return change
        batch = change.shape[1]
        made = self._of_samples(change.T.reshape(batch, *sizes(self.block.slots)))
        return made.reshape(batch, count(self.block.shape)).T

    def _of_samples(self, change: np.ndarray) -> np.ndarray:
        """The same for σ [k, *slots]."""
        assert self.block.activation is not None
        rule = activation_rule(self.block.activation)
        with np.errstate(over="ignore", invalid="ignore"):
            made = np.asarray(self._moved(rule, self.block.activation, change))
        terms = 0 if rule.elementwise else 2 * count(self.block.slots)
        return _raised(made, terms, change.min(initial=np.inf, where=change > 0))

    def _moved(self, rule: ActivationRule, operator: Operator, given: np.ndarray) -> np.ndarray:
        if self.lower is None or self.upper is None:
            return rule.majorant(operator, given)
        return rule.majorant_on(operator, given, self.lower[None], self.upper[None])

    @cached_property
    def matrix(self) -> sparse.csr_array | None:
        """K [states, slots], rounded up; None if it is too large to be made."""
        slots, states = count(self.block.slots), count(self.block.shape)
        if self.block.activation is None:
            return sparse.eye_array(slots, format="csr")
        if slots > _MOST_SLOTS and not activation_rule(self.block.activation).elementwise:
            return None
        rows, columns, values = majorant_matrix(self.block.activation, self._of_samples)
        return sparse.csr_array((values, (rows, columns)), shape=(states, slots))

    @cached_property
    def is_linear(self) -> bool:
        """Whether K σ is no more than M(σ), where that is looked at."""
        if self.block.activation is None or activation_rule(self.block.activation).elementwise:
            return True
        K, slots = self.matrix, count(self.block.slots)
        if K is None:
            return False
        tried = np.random.default_rng(0).uniform(0.5, 1.0, (slots, 2))
        tried[:, 0] = 1.0
        return bool((K @ tried <= self(tried) * (1 + 1e-9)).all())


def majorants(system: System, within: bool = True) -> tuple[Majorant, ...]:
    """Those of the states of a system, in the order of its matrices.

    Activations that are steep only far out are looked at on the values that their slots can take, for any
    inputs (`boxes`), unless not `within`.
    """
    bounds = NO_BOXES
    if within and any(needs_boxes(block) for block in system.states):
        with np.errstate(all="ignore"):
            bounds = boxes(system.model, system.weights, Magnitudes(system.weights))
    return tuple(_majorant(block, bounds) for block in system.states)


def _majorant(block: Block, bounds: Boxes) -> Majorant:
    if needs_boxes(block) and block.name in bounds.slots:
        return Majorant(block, *bounds.slots[block.name])
    return Majorant(block)


def magnitudes(system: System, matrix: str) -> sparse.csr_array:
    """|M| of A, B, C or D, with what rounding made of its entries: no less than the exact numbers.

    Entries are sums over the terms of an equation, each a product of few factors.
    """
    triplets = getattr(system, matrix)._triplets(None)
    signed = triplets.to_csr()
    signed.sum_duplicates()
    sums = triplets._replace(values=np.abs(triplets.values)).to_csr()
    sums.sum_duplicates()
    made = abs(signed) + sums * growth(0)
    made.eliminate_zeros()
    return made.tocsr()


def product(M: sparse.csr_array, x: np.ndarray, more: np.ndarray | None = None) -> np.ndarray:
    """No less than M x + more, for what is not negative; zero where nothing adds to it."""
    made = M @ x if more is None else M @ x + more
    width = int(np.diff(M.indptr).max(initial=0))
    least = M.data.min(initial=np.inf, where=M.data > 0) * x.min(initial=np.inf, where=x > 0)
    return _raised(np.asarray(made), width + 1, least)


def _raised(values: np.ndarray, terms: int, least: float) -> np.ndarray:
    """`upwards`, but zeros stay zeros unless underflow may have made them of numbers as small as `least`."""
    made = upwards(values, terms)
    return np.asarray(np.where(values == 0, 0.0, made) if least > _SAFE else made)


__all__ = ["Majorant", "NoBound", "magnitudes", "majorants", "product"]
