"""The terms of blocks as text, and the layers and parameters that they need, with what is left of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from implicit_dsl._lazy import lazy_module
from implicit_dsl.discovery.declaring import Declarations
from implicit_dsl.discovery.keeping import backward, forward, is_separate, mixing
from implicit_dsl.discovery.naming import Naming
from implicit_dsl.discovery.operating import Operators
from implicit_dsl.discovery.spelling import CannotWrite, added, applied, body, constructor
from implicit_dsl.model import Block, Chain, ImplicitModel, Term
from implicit_dsl.operators import activation_rule, linear_rule
from implicit_dsl.operators.base import Operator
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")


class Terms:
    """What the equations of a model say of the places that are kept, and what these declare."""

    def __init__(
        self,
        model: ImplicitModel,
        weights: Mapping[str, np.ndarray],
        chosen: Mapping[str, np.ndarray],
        naming: Naming,
    ) -> None:
        self._model, self._weights, self._chosen, self._naming = model, weights, chosen, naming
        self._declared = Declarations(naming)
        self._joined = {name: op for name, op in ((b.name, _joined(b, model)) for b in model.states) if op}
        self._operators = Operators(model, weights, naming, self._declared)

    @property
    def declarations(self) -> list[str]:
        """The lines of layers and parameters."""
        return self._declared.lines

    @property
    def tensors(self) -> Mapping[str, np.ndarray]:
        """Their weights by key."""
        return self._declared.tensors

    def total(self, block: Block) -> str:
        """The pre-activation of a block, or the value of an output."""
        terms = self._model.terms_of[block.name]
        if terms and all(term.chain and term.chain[-1].kind == "place" for term in terms):
            return self._concatenation(terms)
        written = [text for term in terms for text in self._written(term.source, term.chain, block)]
        shape = list(sizes(block.slots))
        if shape and block.name in self._chosen:
            shape[0] = len(self._chosen[block.name])
        if written and all(_is_number(text) for text in written):
            return self._declared.filled(shape, sum(map(float, written)))
        return added(written) if written else self._declared.filled(shape, 0.0)

    def activated(self, block: Block) -> str:
        """The activation of one argument on the pre-activation of a block."""
        value, operator = self.total(block), block.activation
        if operator is None:
            return value
        if operator.kind == "function" and operator["name"] != "function":
            made = self._declared.function(operator["name"], body(operator), operator.get("claimed", None))
            return f"{made}({value})"
        return applied(operator, value)

    def is_joined(self, block: Block) -> bool:
        """Whether a state is written together with what follows it."""
        return block.name in self._joined

    def layer_of(self, block: Block) -> tuple[str, Operator] | None:
        """The layer of an activation with parameters, and what they do behind it."""
        op = self._joined.get(block.name)
        if op is None:
            return None
        assert block.activation is not None
        held = {role: self._weights[id] for role, id in op.parameters}
        return self._declared.layer(op.parameters[0][1], constructor(block.activation), held), op

    def stacked(self, block: Block) -> list[str]:
        """The arguments of an activation of several values."""
        slots: dict[int, list[Term]] = {}
        for term in self._model.terms_of[block.name]:
            if not term.chain or term.chain[-1].kind != "slot":
                raise CannotWrite(f"what `{block.name}` multiplies is not written back")
            slots.setdefault(int(term.chain[-1]["start"]), []).append(term)
        return [self._part(slots[start], block) for start in sorted(slots)]

    def _part(self, terms: Sequence[Term], block: Block | None) -> str:
        """The sum of some terms without their last operators, which put it in its place."""
        parts = [text for term in terms for text in self._written(term.source, term.chain[:-1], block)]
        shape = sizes(terms[0].chain[-1].source)
        if parts and all(_is_number(text) for text in parts):
            return self._declared.filled(shape, sum(map(float, parts)))
        return added(parts) if parts else self._declared.filled(shape, 0.0)

    def _concatenation(self, terms: Sequence[Term]) -> str:
        """`cat(a, b; dim = 2)`: parts side by side, which are all whole."""
        axes = {int(term.chain[-1]["axis"]) for term in terms}
        if len(axes) > 1:
            raise CannotWrite("values that are put side by side along several axes are not written back")
        (axis,) = axes
        starts: dict[int, list[Term]] = {}
        for term in terms:
            starts.setdefault(int(term.chain[-1]["start"]), []).append(term)
        covered = 0
        for start in sorted(starts):
            if start != covered:
                raise CannotWrite("a value that has gaps is not written back")
            covered = start + count(starts[start][0].chain[-1].source[axis : axis + 1])
        parts = ", ".join(self._part(starts[start], None) for start in sorted(starts))
        return f"cat({parts}{f'; dim = {axis + 1}' if axis else ''})"

    # ----------------------------------------------------------------------- one chain

    def _written(self, source: str | None, chain: Chain, block: Block | None) -> list[str]:
        """The summands that a chain comes to, none if it is zero."""
        if source is None:
            return self._offset(chain, block)
        if not len(self._chosen[source]):
            return self._constant(chain, block)
        value = self._naming.block(source)
        columns = self._chosen[source]
        at = mixing(chain)
        behind: list[str] = []
        for place, op in enumerate(chain):
            if place == 0 and source in self._joined:  # it is in the value of its block
                columns = forward(op, columns)
            elif place == at:
                rows = self._rows(chain[place + 1 :], block, op)
                made = self._operators.mixed(op, value, columns, rows)
                if made is None:
                    return behind
                value, more = made
                behind += [self._behind(text, chain[place + 1 :], rows) for text in more]
                columns = rows
            else:
                value = self._operators.applied(op, value, columns)
                columns = forward(op, columns)
        return [value, *behind]

    def _constant(self, chain: Chain, block: Block | None) -> list[str]:
        """What a chain adds to a value that is zero: its offsets."""
        if not chain:
            return []
        values = np.zeros((1, count(chain[0].source)))
        for op in chain:
            values = _applied(op, values, self._weights)
        if not values.any():
            return []
        values = values.reshape(sizes(chain[-1].target))
        if block is not None and block.name in self._chosen and values.ndim:
            alike = block.slots == chain[-1].target and block.slots[:1] == block.shape[:1]
            values = values[self._chosen[block.name]] if alike else values
        return [self._declared.further("value", values)]

    def _rows(self, after: Chain, block: Block | None, op: Operator) -> np.ndarray:
        if block is None or block.name not in self._chosen or not op.target:
            return np.arange(count(op.target[:1]))
        rows = self._chosen[block.name]
        whole = len(rows) == (count(block.slots[:1]) if block.slots else 1)
        if whole or not is_separate(block):
            return np.arange(count(op.target[:1]))
        for later in reversed(after):
            rows = backward(later, rows)
        return rows

    def _behind(self, value: str, chain: Chain, rows: np.ndarray) -> str:
        for op in chain:
            value = self._operators.applied(op, value, rows)
            rows = forward(op, rows)
        return value

    def _offset(self, chain: Chain, block: Block | None) -> list[str]:
        op = chain[0]
        if op.kind == "constant":
            rows = self._rows(chain[1:], block, op)
            shape = [len(rows), *sizes(op.target)[1:]] if op.target else []
            made = self._behind(f"{float(op['value'])!r}", chain[1:], rows)
            return [made] if shape else [f"{float(op['value'])!r}"]
        if op.kind != "offset":
            raise CannotWrite(f"`{op.kind}` is not written back")
        rows = self._rows(chain[1:], block, op)
        id = op.parameters[0][1]
        weight = self._weights[id]
        cut = weight[rows] if weight.ndim and weight.ndim == len(op.target) else weight
        if not cut.any():
            return []
        name = self._declared.parameter(id, cut)
        return [self._behind(name, chain[1:], rows)]


def _joined(block: Block, model: ImplicitModel) -> Operator | None:
    """What follows an activation with the parameters of its layer; None if nothing does, or not everywhere.

    Factors and offsets of a normalisation are: they are written as part of it.
    """
    if block.activation is None:
        return None
    behind = activation_rule(block.activation).affine(block.activation)
    first = {term.chain[0] if term.chain else None for term in model.terms if term.source == block.name}
    if behind is None or len(first) != 1:
        return None
    (op,) = first
    return op if op is not None and op.kind == behind.kind else None


def _applied(op: Operator, x: np.ndarray, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """An operator with its offset on x [batch, entries]."""
    rule = linear_rule(op)
    tensors = {role: torch.from_numpy(weights[id]) for role, id in op.parameters}
    made = rule.apply(op, torch.from_numpy(x).reshape(len(x), *sizes(op.source)), tensors)
    found = made.reshape(len(x), -1).numpy().copy()
    for entries in rule.offsets(op, {role: weights[id] for role, id in op.parameters}):
        given = np.asarray(entries.coefficients, dtype=float)
        id = op.parameter(entries.role)
        if entries.slots is not None and id is not None:
            given = given * weights[id].reshape(-1)[entries.slots]
        found += np.bincount(entries.rows, np.broadcast_to(given, entries.rows.shape), found.shape[1])
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
