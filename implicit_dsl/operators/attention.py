"""Scaled dot-product attention (Vaswani et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import (
    Expression,
    Formal,
    Operator,
    Rule,
    Setting,
    Settings,
    ShapeError,
)
from implicit_dsl.operators.products import product_of_bounds
from implicit_dsl.operators.slots import SeveralSlots, joined
from implicit_dsl.operators.softmax import softmax, softmax_moved
from implicit_dsl.shapes import Shape, count, show

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")


class Attend(SeveralSlots):
    """softmax(q kᵀ ÷ √(d ÷ heads)) v for each head, with q [t, d], k [s, d] and v [s, e]."""

    kind = "attend"
    names = ("attend",)
    arguments = ("q", "k", "v")
    formals = (
        Formal(
            "heads", "integer", "the last axes are split into so many, each attending by itself", default=1
        ),
        Formal("causal", "flag", "each position attends to itself and those before it", default=False),
    )
    doc = "Attention of queries [t, d] to keys [s, d] with values [s, e]: `attend(q, k, v; heads = 4)`."
    example = "input q[4, 6], k[5, 6], v[5, 8]\noutput y[4, 8] = attend(q, k, v; heads = 2)"

    def join(self, settings: Settings, sources: tuple[Shape, ...]) -> Operator:
        q, k, v = sources
        heads, causal = settings["heads"], settings["causal"]
        if any(len(shape) != 2 for shape in sources) or q[1] != k[1] or k[0] != v[0]:
            raise ShapeError(
                "attend takes queries [t, d], keys [s, d] and values [s, e], "
                f"but these are {show(q)}, {show(k)} and {show(v)}",
            )
        for width in (q[1], v[1]):
            if not isinstance(width, int):
                raise ShapeError(
                    "attend needs to know the features of each position, and these are free here"
                )
            if width % heads:
                raise ShapeError(
                    f"{heads} heads do not divide the {width} features of each position",
                    "must divide them",
                    "heads",
                )
        if causal and q[0] != k[0]:
            raise ShapeError(
                f"causal attention needs as many queries as keys, but there are {q[0]} and {k[0]}",
                argument="causal",
            )
        source = joined(sources)
        chosen: dict[str, Setting] = {"causal": causal, "heads": heads}
        if not q == k == v:
            chosen |= {"keys": count(k[:1]), "width": count(q[1:])}
        return Operator(self.kind, source, (q[0], v[1]), tuple(chosen.items()))

    def slots(self, operator: Operator) -> tuple[Shape, ...]:
        if len(operator.source) == 3:
            return (operator.source[1:],) * 3
        (queries, features), keys, width = operator.target, operator["keys"], operator["width"]
        return (queries, width), (keys, width), (keys, features)

    def _heads(self, operator: Operator, part: np.ndarray) -> np.ndarray:
        """[batch, positions, features] as [batch, heads, positions, features of a head]."""
        split = part.reshape(*part.shape[:2], operator["heads"], -1)
        return split.transpose(0, 2, 1, 3)

    def _merged(self, part: np.ndarray) -> np.ndarray:
        turned = part.transpose(0, 2, 1, 3)
        return np.asarray(turned.reshape(*turned.shape[:2], -1))

    def _factor(self, operator: Operator) -> float:
        return 1 / math.sqrt(count(self.slots(operator)[0][1:]) // operator["heads"])

    def _seen(self, operator: Operator) -> np.ndarray:
        """[queries, keys]: which keys each query attends to."""
        q, k, _ = self.slots(operator)
        seen = np.ones((count(q[:1]), count(k[:1])), bool)
        return np.tril(seen) if operator["causal"] else seen

    def _weights(self, operator: Operator, q: np.ndarray, k: np.ndarray) -> np.ndarray:
        scores = self._factor(operator) * q @ k.swapaxes(-1, -2)
        return softmax(np.where(self._seen(operator), scores, -np.inf))

    def value(self, operator: Operator, *parts: np.ndarray) -> np.ndarray:
        q, k, v = (self._heads(operator, part) for part in parts)
        return self._merged(self._weights(operator, q, k) @ v)

    def pulled(self, operator: Operator, parts: list[np.ndarray], g: np.ndarray) -> tuple[np.ndarray, ...]:
        q, k, v, g = (self._heads(operator, part) for part in (*parts, g))
        P = self._weights(operator, q, k)
        dP = g @ v.swapaxes(-1, -2)
        dS = self._factor(operator) * P * (dP - (P * dP).sum(-1, keepdims=True))
        pulled = (dS @ k, dS.swapaxes(-1, -2) @ q, P.swapaxes(-1, -2) @ g)
        dq, dk, dv = (self._merged(part) for part in pulled)
        return dq, dk, dv

    def moved(self, operator: Operator, changes: list[np.ndarray], most: list[np.ndarray]) -> np.ndarray:
        # |Δ(Pv)| ≤ |ΔP| |v| + P' |Δv|, and a row of P' is a mean
        dq, dk, dv, q, k, v = (self._heads(operator, part) for part in (*changes, *most))
        dS = product_of_bounds(np.matmul, dq, k.swapaxes(-1, -2))
        dS = self._factor(operator) * (dS + product_of_bounds(np.matmul, q, dk.swapaxes(-1, -2)))
        seen = self._seen(operator)
        dP = np.where(seen, softmax_moved(np.where(seen, dS, 0.0)), 0.0)
        means = np.maximum.accumulate(dv, -2) if operator["causal"] else dv.max(-2, keepdims=True)
        return self._merged(product_of_bounds(np.matmul, dP, v) + means)

    def emit_slots(self, operator: Operator, parts: Sequence[Expression]) -> Expression:
        heads, given = operator["heads"], [part.text for part in parts]
        merged = [".transpose(1, 2)", ".flatten(2)"] if heads > 1 else []
        if merged:  # as a function: the method has no types
            given = [f"torch.unflatten({part}, -1, ({heads}, -1)).transpose(1, 2)" for part in given]
        given += ["is_causal=True"] if operator["causal"] else []
        call = "F.scaled_dot_product_attention("
        lines: tuple[str, ...] = (call, *(f"    {argument}," for argument in given), ")")
        if merged:
            lines = ("(", *(f"    {line}" for line in (*lines, *merged)), ")")
        return Expression(f"{call}{', '.join(given)}){''.join(merged)}", lines=lines)


RULES: tuple[Rule, ...] = (Attend(),)
