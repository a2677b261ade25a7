"""Scaled dot-product attention (Vaswani et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.attended import Attended
from implicit_dsl.operators.base import (
    Expression,
    Formal,
    Operator,
    Rule,
    Setting,
    Settings,
    ShapeError,
)
from implicit_dsl.operators.joint import LARGEST
from implicit_dsl.operators.products import product_of_bounds
from implicit_dsl.operators.relaxation import Line, Lines, either
from implicit_dsl.operators.slots import SeveralSlots, joined
from implicit_dsl.operators.softmax import softmax, softmax_moved
from implicit_dsl.shapes import Shape, count, known, show, sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")


class Attend(SeveralSlots):
    """softmax(q kᵀ ÷ √(d ÷ heads)) v for each head, with q [t, d], k [s, d] and v [s, e].

    A mask m [s] or [t, s] is a fourth argument: keys with m = 0 are left out, and a query that attends
    to none gives zeros. In m it is a step, with the derivative zero and without a Lipschitz constant.
    """

    kind = "attend"
    calls = ("masked_attention",)
    names = ("attend",)
    arguments = ("q", "k", "v")
    formals = (
        Formal(
            "heads", "integer", "the last axes are split into so many, each attending by itself", default=1
        ),
        Formal("causal", "flag", "each position attends to itself and those before it", default=False),
        Formal(
            "mask", "value", "keys where it is 0 are left out: [s], or [t, s] for each query", shown="none"
        ),
    )
    doc = "Attention of queries [t, d] to keys [s, d] with values [s, e]: `attend(q, k, v; heads = 4)`."
    example = "input q[4, 6], k[5, 6], v[5, 8], m[5]\noutput y[4, 8] = attend(q, k, v; heads = 2, mask = m)"

    def join(self, settings: Settings, sources: tuple[Shape, ...]) -> Operator:
        q, k, v, *masks = sources
        heads, causal = settings["heads"], settings["causal"]
        if any(len(shape) != 2 for shape in (q, k, v)) or q[1] != k[1] or k[0] != v[0]:
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
            both = f"there are {q[0]} and {k[0]}"
            if known((q[0], k[0])) is None:
                both = "one number is free, and not the same as the other"
            raise ShapeError(
                f"causal attention needs as many queries as keys, but {both}",
                argument="causal",
            )
        for mask in masks:
            if mask not in (k[:1], (q[0], k[0])):
                raise ShapeError(
                    f"a mask has one number for each key, {show(k[:1])}, or for each query and key, "
                    f"{show((q[0], k[0]))}, but this is {show(mask)}",
                    show(mask),
                    "mask",
                )
        source = joined(sources)
        chosen: dict[str, Setting] = {"causal": causal, "heads": heads}
        if masks or not q == k == v:
            chosen |= {"width": count(q[1:])}
            chosen |= {} if k[0] == q[0] and known(k) is None else {"keys": k[0]}
        if masks:
            chosen["mask"] = "keys" if masks[0] == k[:1] else "pairs"
        return Operator(self.kind, source, (q[0], v[1]), tuple(sorted(chosen.items())))

    def slots(self, operator: Operator) -> tuple[Shape, ...]:
        settings: Settings = dict(operator.settings)
        if "width" not in settings:
            return (operator.source[1:],) * 3
        (queries, features), width = operator.target, settings["width"]
        keys = settings.get("keys", queries)  # free ones are as many as the queries
        found: tuple[Shape, ...] = ((queries, width), (keys, width), (keys, features))
        if "mask" in settings:
            found += ((keys,),) if settings["mask"] == "keys" else ((queries, keys),)
        return found

    def _heads(self, operator: Operator, part: np.ndarray) -> np.ndarray:
        """[batch, positions, features] as [batch, heads, positions, features of a head]."""
        split = part.reshape(*part.shape[:2], operator["heads"], -1)
        return split.transpose(0, 2, 1, 3)

    def _merged(self, part: np.ndarray) -> np.ndarray:
        turned = part.transpose(0, 2, 1, 3)
        return np.asarray(turned.reshape(*turned.shape[:2], -1))

    def _factor(self, operator: Operator) -> float:
        return 1 / math.sqrt(count(self.slots(operator)[0][1:]) // operator["heads"])

    def _seen(self, operator: Operator, masks: Sequence[np.ndarray] = ()) -> np.ndarray:
        """[1 or batch, 1, queries, keys]: which keys each query attends to."""
        q, k, *_ = self.slots(operator)
        seen = np.ones((1, 1, count(q[:1]), count(k[:1])), bool)
        for mask in masks:
            seen = seen & (mask != 0).reshape(len(mask), 1, -1, seen.shape[-1])
        return np.tril(seen) if operator["causal"] else seen

    def _weights(self, operator: Operator, q: np.ndarray, k: np.ndarray, seen: np.ndarray) -> np.ndarray:
        scores = self._factor(operator) * q @ k.swapaxes(-1, -2)
        some = seen.any(-1, keepdims=True)
        return np.where(some, softmax(np.where(seen, scores, np.where(some, -np.inf, 0.0))), 0.0)

    def value(self, operator: Operator, *parts: np.ndarray) -> np.ndarray:
        q, k, v = (self._heads(operator, part) for part in parts[:3])
        return self._merged(self._weights(operator, q, k, self._seen(operator, parts[3:])) @ v)

    def pulled(self, operator: Operator, parts: list[np.ndarray], g: np.ndarray) -> tuple[np.ndarray, ...]:
        masks = parts[3:]
        q, k, v, g = (self._heads(operator, part) for part in (*parts[:3], g))
        P = self._weights(operator, q, k, self._seen(operator, masks))
        dP = g @ v.swapaxes(-1, -2)
        dS = self._factor(operator) * P * (dP - (P * dP).sum(-1, keepdims=True))
        pulled = (dS @ k, dS.swapaxes(-1, -2) @ q, P.swapaxes(-1, -2) @ g)
        dq, dk, dv = (self._merged(part) for part in pulled)
        return dq, dk, dv, *(np.zeros_like(mask) for mask in masks)

    def moved(self, operator: Operator, changes: list[np.ndarray], most: list[np.ndarray]) -> np.ndarray:
        # |Δ(Pv)| ≤ |ΔP| |v| + P' |Δv|, and a row of P' is a mean, or zero; which keys a mask leaves does
        # not matter for these bounds, as long as it stays the same
        dq, dk, dv, q, k, v = (self._heads(operator, part) for part in (*changes[:3], *most[:3]))
        dS = product_of_bounds(np.matmul, dq, k.swapaxes(-1, -2))
        dS = self._factor(operator) * (dS + product_of_bounds(np.matmul, q, dk.swapaxes(-1, -2)))
        seen = self._seen(operator)
        dP = np.where(seen, softmax_moved(np.where(seen, dS, 0.0)), 0.0)
        means = np.maximum.accumulate(dv, -2) if operator["causal"] else dv.max(-2, keepdims=True)
        made = self._merged(product_of_bounds(np.matmul, dP, v) + means)
        for mask in changes[3:]:
            switched = mask.reshape(len(mask), -1).max(1) > 0
            made = np.where(switched[:, None, None], np.inf, made)
        return made

    def _on(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> Attended:
        """Its arguments on a box, with the heads among the samples."""
        low, high = self.parts(operator, lower), self.parts(operator, upper)
        q, k, v = (
            (self._alone(operator, least), self._alone(operator, most))
            for least, most in zip(low[:3], high[:3])
        )
        zero = [(least <= 0) & (most >= 0) for least, most in zip(low[3:], high[3:])]
        nothing = [one & (least == most) for one, least, most in zip(zero, low[3:], high[3:])]
        shape = (len(lower), operator["heads"], len(q[0][0]), len(k[0][0]))
        surely, maybe = (
            np.broadcast_to(self._seen(operator, [~one for one in masks]), shape).reshape(-1, *shape[2:])
            for masks in (zero, nothing)
        )
        return Attended(q, k, v, self._factor(operator), surely, maybe)

    def _alone(self, operator: Operator, part: np.ndarray) -> np.ndarray:
        """[batch · heads, positions, features of a head]."""
        split = self._heads(operator, part)
        return split.reshape(-1, *split.shape[2:])

    def image(
        self, operator: Operator, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """By bounds of the weights, and by the majorant, which may be closer on small boxes."""
        made = [
            self._merged(end.reshape(len(lower), -1, *end.shape[1:]))
            for end in self._on(operator, lower, upper).ends
        ]
        moved = super().image(operator, lower, upper)
        return np.maximum(made[0], moved[0]), np.minimum(made[1], moved[1])

    def reads(self, operator: Operator) -> int:
        """Its query, all keys, and its feature of all values."""
        q, k, *_ = self.slots(operator)
        width = count(q[1:]) // operator["heads"]
        read = width + count(k[:1]) * (width + 1)
        return read if read <= 4 * LARGEST else 0

    def lines(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> Lines:
        """What `Attended` says, or constants where these are closer, or where a mask is not known."""
        read, box = self.reads(operator), self._on(operator, lower, upper)
        constant = super().lines(operator, lower, upper)
        if not read or (box.surely != box.maybe).any():
            return constant
        heads, batch = operator["heads"], len(lower)
        slots = np.arange(count(operator.source)).reshape(1, *sizes(operator.source))
        q, k, v = (self._alone(operator, part) for part in self.parts(operator, slots)[:3])
        shape = (heads, q.shape[1], v.shape[2])

        def by_state(values: np.ndarray) -> np.ndarray:
            """[…, heads, t, e] as […, states]."""
            return np.moveaxis(values, -3, -2).reshape(*values.shape[:-3], -1)

        def together(*parts: np.ndarray) -> np.ndarray:
            """What belongs to each slot that is read, [samples, slots, states]."""
            flat = [part.reshape(-1, *shape, int(np.prod(part.shape[3:]))) for part in parts]
            return by_state(np.moveaxis(np.concatenate(flat, -1), -1, 1))

        whole = (heads, *shape[1:])
        index = together(
            np.broadcast_to(q[:, :, None], (*whole, q.shape[2])),
            np.broadcast_to(k[:, None, None], (*whole, *k.shape[1:])),
            np.broadcast_to(v.swapaxes(1, 2)[:, None], (*whole, v.shape[1])),
        )[0]
        middle = ((lower + upper) / 2).reshape(batch, -1)[:, index]
        made = []
        for sign, slopes, (end,) in zip((-1, 1), box.slopes(), (constant.below, constant.above)):
            line = Line(
                together(slopes.q, slopes.k, slopes.v), by_state(slopes.offset.reshape(batch, *shape))
            )
            flat = Line(np.zeros_like(line.slope), end.offset)
            made.append(_sorted(line, flat, middle, sign))
        return Lines(index, *made)

    def _masked(self, operator: Operator, mask: Expression) -> str:
        """The mask as booleans [batch, 1, queries or 1, keys], True where a key is attended to."""
        keys = dict(operator.settings)["mask"] == "keys"
        text = f"({mask.atom} != 0)[:, None{', None' if keys else ''}]"
        if not operator["causal"]:
            return text
        if not keys:
            return f"torch.tril({text})"
        (queries, *_) = operator.target
        size = queries if isinstance(queries, int) else f"{mask.atom}.shape[1]"
        return f"torch.tril({text}.expand(-1, -1, {size}, -1))"

    def emit_slots(self, operator: Operator, parts: Sequence[Expression]) -> Expression:
        # with an axis for the heads, even of one: what is fast, and what can be exported, has four axes
        heads = operator["heads"]
        given = [f"{part.atom}[:, None]" for part in parts[:3]]
        merged = ["[:, 0]"]
        if heads > 1:  # as a function: the method has no types
            given = [f"torch.unflatten({part.text}, -1, ({heads}, -1)).transpose(1, 2)" for part in parts[:3]]
            merged = [".transpose(1, 2)", ".flatten(2)"]
        call = "F.scaled_dot_product_attention("
        if len(parts) > 3:
            given.append(self._masked(operator, parts[3]))
            call = "runtime.masked_attention("
        elif operator["causal"]:
            given.append("is_causal=True")
        lines: tuple[str, ...] = (call, *(f"    {argument}," for argument in given), f"){merged[0]}")
        if heads > 1:
            lines = ("(", *(f"    {line}" for line in (*lines[:-1], ")", *merged)), ")")
        return Expression(f"{call}{', '.join(given)}){''.join(merged)}", lines=lines)


def _sorted(one: Line, other: Line, middle: np.ndarray, sign: int) -> tuple[Line, Line]:
    """The two with that first which is closer in the middle, and is a number."""
    usable = np.isfinite(one.slope).all(1) & np.isfinite(one.offset)
    slope, offset = np.where(usable[:, None], one.slope, 0.0), np.where(usable, one.offset, other.offset)
    one = Line(slope, offset)
    first = sign * one.at(middle) <= sign * other.at(middle)
    return either(first, one, other), either(first, other, one)


RULES: tuple[Rule, ...] = (Attend(),)
