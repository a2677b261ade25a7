"""One call of the traced graph, as the rules see it: its place, its shape, and what it may declare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.fx

from implicit_dsl.translation.broadcasting import entrywise
from implicit_dsl.translation.declaring import Declaring
from implicit_dsl.translation.refusal import TranslationError, refusal
from implicit_dsl.translation.regrouping import Size, axis_of, regrouped, size_of
from implicit_dsl.translation.terms import Declaration, Term, refused
from implicit_dsl.translation.values import Axes, Misfit, Value, constant

Result: TypeAlias = "Value | tuple[Result, ...]"
Rule: TypeAlias = Callable[..., Result]


@dataclass(frozen=True)
class Site:
    """A call that is being translated."""

    node: torch.fx.Node
    batch: str
    declaring: Declaring
    vocabularies: dict[Declaration, int]  # of inputs that hold tokens

    def refuse(self, reason: str, help: str = "") -> TranslationError:
        """The error that says that this call cannot be written, and why."""
        return refusal(self.node, reason, help)

    @property
    def operator(self) -> Callable[..., Any]:
        """What is called, with whichever overload fits."""
        target = self.node.target
        assert isinstance(target, torch._ops.OpOverload)
        packet: Callable[..., Any] = target.overloadpacket
        return packet

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The shape of the result."""
        made = self.node.meta["val"]
        first = made if isinstance(made, torch.Tensor) else made[0]
        return tuple(size_of(one, self.batch) for one in first.shape)

    def new_axes(self, count: int) -> Axes:
        """New axes of the sizes of the last `count` axes of the result."""
        return tuple(axis_of(one) for one in self.sizes[len(self.sizes) - count :])

    def shaped(self, value: Value, sizes: Sequence[Size] | None = None) -> Value:
        """The value in the shape of the result, or another one."""
        return regrouped(value, self.sizes if sizes is None else sizes)

    def layer(
        self,
        text: str,
        held: Mapping[str, Value | None],
        more: dict[str, str] | None = None,
        note: str = "",
        sets: tuple[tuple[str, int], ...] = (),
    ) -> Term | None:
        """A layer that holds these parameters, the same one for each call that has the same.

        `more` are further keys that it holds, `note` is a comment, and `sets` are attributes of the layer.
        None if one of them is not a parameter as it is, or is used in another way elsewhere.
        """
        return self.declaring.layer(self.node, text, held, more or {}, note, sets)

    def each(self, make: Callable[..., Term], *values: Value | float, fold: Any = None) -> Value:
        """An operation entry by entry; of known numbers, what PyTorch makes of them."""
        taken = [value if isinstance(value, Value) else known(value) for value in values]
        return entrywise(taken, make, fold or self.operator)


UNKNOWN_SIZE = "it computes with a size that may differ from call to call, such as that of the batch"


def known(value: float) -> Value:
    """A number as a value. Raises Misfit for a size that is not known."""
    if not isinstance(value, (bool, int, float)):
        raise Misfit(UNKNOWN_SIZE)
    whole = isinstance(value, int)
    return constant(torch.tensor(value, dtype=torch.int64 if whole else torch.float64))


def unread(site: Site) -> Value:
    """The places of maxima, which a program does not have; who reads them is refused."""
    places = "it gives the places of maxima, and values of the language are real numbers"
    return Value(refused(site.refuse(places)), (), tuple(axis_of(one) for one in site.sizes))
