"""Products of values of the network: entry by entry, and of matrices.

On boxes, |ab − a'b'| ≤ |b| |a − a'| + |a'| |b − b'| (theory §3).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import Expression, Operator, Rule, Settings, ShapeError
from implicit_dsl.operators.relaxation import Lines, outwards, product_lines
from implicit_dsl.operators.slots import EntryByEntry, SeveralSlots, joined
from implicit_dsl.shapes import Shape, count, show, sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")


def product_of_bounds(
    product: Callable[[np.ndarray, np.ndarray], np.ndarray], a: np.ndarray, b: np.ndarray
) -> np.ndarray:
    """A product of non-negative bounds, some of which may be infinite: zero times infinity is zero."""
    finite = product(np.where(np.isinf(a), 0.0, a), np.where(np.isinf(b), 0.0, b))
    a_infinite, b_infinite = np.isinf(a).astype(float), np.isinf(b).astype(float)
    infinite = product(a_infinite, (b > 0).astype(float)) + product((a > 0).astype(float), b_infinite)
    return np.where(infinite > 0, np.inf, finite)


class _Bilinear(SeveralSlots):
    """Each entry is a sum of products of an entry of a and one of b."""

    @abstractmethod
    def factors(self, operator: Operator, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The factors of each product of each entry, [batch, products, entries], of values [batch, *slot]."""

    def _ends(
        self, operator: Operator, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """The factors at both ends of their intervals."""
        return self.factors(operator, *self.parts(operator, lower)), self.factors(
            operator, *self.parts(operator, upper)
        )

    def image(
        self, operator: Operator, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        (al, bl), (au, bu) = self._ends(operator, lower, upper)
        products = [a * b for a in (al, au) for b in (bl, bu)]
        shape = (len(lower), *sizes(operator.target))
        low, high = np.minimum.reduce(products), np.maximum.reduce(products)
        slack = 1e-13 * np.maximum(np.abs(low), np.abs(high)).sum(1)  # of sums that cancel
        return outwards(
            (low.sum(1) - slack).reshape(shape), (high.sum(1) + slack).reshape(shape), -np.inf, np.inf
        )

    def reads(self, operator: Operator) -> int:
        return 2

    def lines(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> Lines:
        (al, bl), (au, bu) = self._ends(operator, lower, upper)
        places = np.arange(count(operator.source), dtype=float).reshape(1, *sizes(operator.source))
        index = np.stack(self.factors(operator, *self.parts(operator, places)))[:, 0].astype(np.intp)
        return product_lines((al, au), (bl, bu), index)


class Product(_Bilinear, EntryByEntry):
    kind = "product"
    done = "multiplied"
    doc = "The product of two values entry by entry: `a .* b`, also written `a ⊙ b`. Both have one shape."
    example = "input a[4], b[4]\nstate g[4] ~ σ(a)\noutput y[4] = g .* b"

    def value(self, operator: Operator, *parts: np.ndarray) -> np.ndarray:
        a, b = parts
        return np.asarray(a * b)

    def pulled(self, operator: Operator, parts: list[np.ndarray], g: np.ndarray) -> tuple[np.ndarray, ...]:
        a, b = parts
        return np.asarray(g * b), np.asarray(g * a)

    def moved(self, operator: Operator, changes: list[np.ndarray], most: list[np.ndarray]) -> np.ndarray:
        (da, db), (a, b) = changes, most
        return np.asarray(product_of_bounds(np.multiply, da, b) + product_of_bounds(np.multiply, a, db))

    def factors(self, operator: Operator, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return a.reshape(len(a), 1, -1), b.reshape(len(b), 1, -1)

    def emit_slots(self, operator: Operator, parts: Sequence[Expression]) -> Expression:
        a, b = parts
        return Expression(f"{a.atom} * {b.atom}", tight=False)


class MatMul(_Bilinear):
    """a [n, m] times b [m, d], both values of the network."""

    kind = "matmul"
    names = ("matmul",)
    arguments = ("a", "b")
    doc = "The matrix product of two values [n, m] and [m, d], such as a graph's adjacency and its features."
    example = "input G[4, 5], x[5, 3]\noutput y[4, 3] = matmul(G, x)"

    def join(self, settings: Settings, sources: tuple[Shape, ...]) -> Operator:
        a, b = sources
        if len(a) != 2 or len(b) != 2 or a[1] != b[0]:
            raise ShapeError(
                f"matmul takes values of shapes [n, m] and [m, d], but these are {show(a)} and {show(b)}",
                notes=("a `param` matrix is applied to the last axis of a value with `*`",),
            )
        source = joined(sources)
        return Operator(self.kind, source, (a[0], b[1]), (("inner", count(a[1:])),) if a != b else ())

    def slots(self, operator: Operator) -> tuple[Shape, ...]:
        if len(operator.source) == 3:
            return operator.source[1:], operator.source[1:]
        rows, columns = operator.target
        return (rows, operator["inner"]), (operator["inner"], columns)

    def value(self, operator: Operator, *parts: np.ndarray) -> np.ndarray:
        a, b = parts
        return np.asarray(a @ b)

    def pulled(self, operator: Operator, parts: list[np.ndarray], g: np.ndarray) -> tuple[np.ndarray, ...]:
        a, b = parts
        return np.asarray(g @ b.swapaxes(1, 2)), np.asarray(a.swapaxes(1, 2) @ g)

    def moved(self, operator: Operator, changes: list[np.ndarray], most: list[np.ndarray]) -> np.ndarray:
        (da, db), (a, b) = changes, most
        return np.asarray(product_of_bounds(np.matmul, da, b) + product_of_bounds(np.matmul, a, db))

    def factors(self, operator: Operator, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = operator.target
        shape = (len(a), a.shape[2], *sizes((rows, columns)))
        first = np.broadcast_to(a.swapaxes(1, 2)[..., None], shape)
        second = np.broadcast_to(b[:, :, None, :], shape)
        return first.reshape(len(a), a.shape[2], -1), second.reshape(len(a), a.shape[2], -1)

    def reads(self, operator: Operator) -> int:
        return 2 * count(self.slots(operator)[0][1:])

    def emit_slots(self, operator: Operator, parts: Sequence[Expression]) -> Expression:
        a, b = parts
        return Expression(f"torch.matmul({a.text}, {b.text})")


RULES: tuple[Rule, ...] = (Product(), MatMul())
