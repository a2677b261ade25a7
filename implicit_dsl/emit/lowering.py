"""Recurrences in `forward` that are one function over all steps: those of the runtime for known cells."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import TypeAlias

from implicit_dsl.emit.cells import Bias, Elman, Gate, Gru, Linear, Lstm, Weight
from implicit_dsl.emit.equations import Factor, Given, Monomial, Offset, Sum, Times, mentions
from implicit_dsl.emit.equilibria import Network
from implicit_dsl.emit.wording import fitted, quoted
from implicit_dsl.model import ImplicitModel
from implicit_dsl.operators.base import Expression, Operator
from implicit_dsl.recurrence import Carry, Recurrence
from implicit_dsl.shapes import Shape

Found: TypeAlias = "dict[tuple[str, bool], Expression]"  # by state of the step, and whether of all steps
Summand: TypeAlias = "tuple[Monomial, float]"
Reads: TypeAlias = "dict[tuple[str, bool], str]"  # what it is called


class Lowering(Network):
    """Writes calls of the functions of the runtime for known cells.

    The values that a step is given have texts here for all steps, [batch, steps, …].
    """

    @abstractmethod
    def _called_in(self, function: str, arguments: str) -> str: ...

    @abstractmethod
    def _start(self, carry: Carry, step: ImplicitModel, first: str) -> str: ...

    def _fused(
        self,
        cell: Elman | Linear | Lstm | Gru,
        recurrence: Recurrence[ImplicitModel],
        rest: Recurrence[ImplicitModel],
        reads: Reads,
        sequences: dict[str, str],
        first: str,
    ) -> Found:
        """All steps of a cell, which is what is left of a recurrence. `first` has as many."""
        given = dict(sequences)
        for name, of in recurrence.same:
            given[name] = f"{self._values[of].atom}[:, None]"
        lengths = {name: block.shape for name, block in (recurrence.step.blocks | rest.step.blocks).items()}
        over = _Over(self, lengths, given, set(sequences), first)
        starts = {
            carry.before: "None"
            if not isinstance(carry.start, str) and not any(carry.start)
            else self._start(carry, rest.step, first)
            for carry in rest.carried
        }
        for block in rest.step.states:
            self._remark(block)
        self._show_comments()
        found: Found = {}
        match cell:
            case Elman(carry, phi, weight, x):
                size = over.size(carry.before)
                arguments = [over.whole(x, size), starts[carry.before], over.weight(weight), quoted(phi)]
                found |= self._all_steps("elman", arguments, [(carry.now, True), (carry.now, False)], reads)
            case Linear(parts):
                for carry, a, b in parts:
                    size = over.size(carry.before)
                    arguments = [over.text(a), over.whole(b, size), starts[carry.before]]
                    results = [(carry.now, True), (carry.now, False)]
                    if any(result in reads for result in results):
                        found |= self._all_steps("scan", arguments, results, reads)
            case Lstm(h, c, gates):
                weights = self._weights(over, h, gates, None)
                arguments = [over.inputs(gates), starts[h.before], starts[c.before], *weights]
                found |= self._all_steps(
                    "lstm", arguments, [(h.now, True), (h.now, False), (c.now, False)], reads
                )
            case Gru(h, gates, bias):
                weights = self._weights(over, h, gates, bias)
                arguments = [over.inputs(gates), starts[h.before], *weights]
                found |= self._all_steps("gru", arguments, [(h.now, True), (h.now, False)], reads)
        return found

    def _all_steps(
        self, function: str, arguments: list[str], results: list[tuple[str, bool]], reads: Reads
    ) -> Found:
        found: Found = {}
        targets = []
        for state, whole in results:
            if (state, whole) in reads:
                name = reads[state, whole]
                variable = self._variable(f"{name}.steps" if whole else name)
                found[state, whole] = Expression(variable)
                targets.append(variable)
            else:
                targets.append("_")
        call = self._called_in(function, ", ".join(arguments))
        self._lines += fitted(f"{', '.join(targets)} = {call}", indent=self.indent)
        return found

    def _weights(self, over: _Over, h: Carry, gates: tuple[Gate, ...], bias: Bias | None) -> list[str]:
        """The weights of x and of h, and the offsets that go with each, with the gates one below another."""
        size = over.size(h.before)
        pieces = over.pieces(gates)
        columns = [
            over.stacked([gate.inputs.get(piece, ()) for gate in gates], size, piece) for piece in pieces
        ]
        of_x = columns[0] if len(columns) == 1 else f"torch.cat(({', '.join(columns)}), 1)"
        of_h = over.stacked([gate.hidden for gate in gates], size, Given(h.before, 0, size))
        texts = {"x": of_x, "h": of_h}
        outer, inner = _biases(gates, bias)
        if any(outer) or any(inner):
            texts["x.bias"], texts["h.bias"] = (over.offsets(part, size) for part in (outer, inner))
        found = []
        for name, text in texts.items():
            if text.startswith("torch.cat("):
                variable = self._variable(f"{h.now}.weights.{name}")
                self._assign(variable, Expression(text), "")
                text = variable
            found.append(text)
        return found


def _biases(gates: tuple[Gate, ...], bias: Bias | None) -> tuple[list[Bias], list[Bias]]:
    """The offsets of gates as two vectors, one for x and one for h. `bias`: that of h in the last gate."""
    if not bias:
        rows = gates if bias is None else gates[:-1]
        outer, inner = [gate.bias[:1] for gate in rows], [gate.bias[1:] for gate in rows]
        return (outer, inner) if bias is None else ([*outer, gates[-1].bias], [*inner, ()])
    ids = {offset.id for offset, _ in bias}
    outer = [tuple(pair for pair in gate.bias if pair[0].id not in ids) for gate in gates[:-1]]
    inner = [tuple(pair for pair in gate.bias if pair[0].id in ids) for gate in gates[:-1]]
    return [*outer, gates[-1].bias], [*inner, bias]


class _Over:
    """Texts for canonical forms over all steps."""

    def __init__(
        self,
        writer: Network,
        shapes: dict[str, Shape],
        given: dict[str, str],
        sequences: set[str],
        first: str,
    ) -> None:
        self._writer = writer
        self._shapes = shapes
        self._given = given
        self._sequences = sequences
        self._first = first

    def size(self, name: str) -> int:
        """The length of a vector of the step."""
        (size,) = self._shapes[name]
        assert isinstance(size, int), "the cells that are recognised have known sizes"
        return size

    # ------------------------------------------------------------------ values

    def text(self, form: Sum) -> str:
        """A sum of products, which broadcasts to [batch, steps, size]."""
        total = ""
        products, offsets = _linear(form)
        rest = [pair for pair in form if pair not in products + offsets]
        for times, _ in products:
            (matrix,) = times
            assert isinstance(matrix, Times)
            assert isinstance(matrix.to[0], Given), "it is multiplied with a value"
            bias = (
                [self._entries(one) for (one,), _ in offsets if isinstance(one, Offset)] if not total else []
            )
            product = f"F.linear({', '.join([self._entries(matrix.to[0]), self._part(matrix), *bias])})"
            total = f"{total} + {product}" if total else product
        for monomial, factor in sorted(rest, key=lambda pair: -_values(pair[0])):
            texts = [self._factor(one) for one in monomial]
            sign = "-" if factor < 0 else "+"
            if abs(factor) != 1 or not texts:
                texts = [repr(abs(factor)), *texts]
            product = " * ".join(texts)
            total = f"{total} {sign} {product}" if total else f"{'-' * (factor < 0)}{product}"
        return total

    def whole(self, form: Sum, size: int) -> str:
        """A sum of products [batch, steps, size]."""
        shape = f"{self._first}.shape[0], {self._first}.shape[1], {size}"
        if mentions(form, self._sequences):
            return self.text(form)
        if not form:
            return f"{self._writer.real}.new_zeros({shape})"
        if not mentions(form, self._given):
            return f"{self._writer.real}.new_zeros({shape}) + {self.text(form)}"
        return f"({self.text(form)}).expand({shape})"

    def _factor(self, one: Factor) -> str:
        if isinstance(one, Times):
            assert isinstance(one.to[0], Given), "it is multiplied with a value"
            return f"F.linear({self._entries(one.to[0])}, {self._part(one)})"
        assert isinstance(one, Given | Offset), "cells are recognised that have nothing else"
        return self._entries(one)

    def _entries(self, one: Given | Offset) -> str:
        if isinstance(one, Offset):
            return self._offset(one)
        text = self._given[one.name]
        if one.size == self.size(one.name):
            return text
        return f"{text}[..., {one.first}:{one.first + one.size}]"

    def pieces(self, gates: Iterable[Gate]) -> list[Given]:
        """What gates read beside h, in the order of the inputs of the step."""
        found = dict.fromkeys(piece for gate in gates for piece in gate.inputs)
        order = list(self._given)
        return sorted(found, key=lambda piece: (order.index(piece.name), piece.first, piece.size))

    def inputs(self, gates: Iterable[Gate]) -> str:
        """That side by side, for all steps."""
        texts = []
        for piece in self.pieces(gates):
            text = self._entries(piece)
            if piece.name not in self._sequences:
                text += f".expand(-1, {self._first}.shape[1], -1)"
            texts.append(text)
        return texts[0] if len(texts) == 1 else f"torch.cat(({', '.join(texts)}), 2)"

    # ------------------------------------------------------------------ parameters

    def weight(self, weight: Weight) -> str:
        """A sum of parts of matrices."""
        texts = [(self._part(times), factor) for times, factor in weight]
        return _summed(texts)

    def stacked(self, weights: list[Weight], size: int, of: Given) -> str:
        """Matrices one below another, [sizes, size of what they multiply]."""
        rows: list[str] = []
        for weight in _joined_rows(weights):
            empty = f"{self._writer.real}.new_zeros(({size}, {of.size}))"
            rows.append(self.weight(weight) if weight else empty)
        return rows[0] if len(rows) == 1 else f"torch.cat(({', '.join(rows)}))"

    def offsets(self, biases: list[Bias], size: int) -> str:
        """Vectors one below another, or None if there are none."""
        if not any(biases):
            return "None"
        rows = []
        for bias in _joined_offsets(biases):
            texts = [(self._offset(offset), factor) for offset, factor in bias]
            rows.append(_summed(texts) if bias else f"{self._writer.real}.new_zeros(({size},))")
        return rows[0] if len(rows) == 1 else f"torch.cat(({', '.join(rows)}))"

    def _part(self, times: Times) -> str:
        operator = times.operator
        turned = bool(operator.get("transposed", False))
        rows = _range(times.rows, operator.target[0])
        columns = _range(times.columns, operator.source[0])
        if turned:
            rows, columns = columns, rows
        index = f"[{rows or ':'}, {columns}]" if columns else f"[{rows}]" if rows else ""
        return f"{self._tensor(operator, 'weight')}{index}{'.mT' if turned else ''}"

    def _tensor(self, operator: Operator, role: str) -> str:
        return self._writer._texts(operator)[role]

    def _offset(self, offset: Offset) -> str:
        text = self._writer.explicit.get(offset.id, f"self.{offset.id}")
        length = next(tensor.shape[0] for tensor in self._writer.model.tensors if tensor.id == offset.id)
        return text if offset.size == length else f"{text}[{offset.first}:{offset.first + offset.size}]"


def _linear(form: Sum) -> tuple[list[Summand], list[Summand]]:
    """The products with matrices in a sum, and the vector that the first of them adds, if there is one."""
    products = [pair for pair in form if len(pair[0]) == 1 and isinstance(pair[0][0], Times) and pair[1] == 1]
    offsets = [pair for pair in form if len(pair[0]) == 1 and isinstance(pair[0][0], Offset) and pair[1] == 1]
    return products, offsets[:1] if products else []


def _values(monomial: Monomial) -> int:
    """How many of its factors are values of the network: these come first in a sum."""
    return sum(isinstance(factor, Given | Times) for factor in monomial)


def _range(part: tuple[int, int], length: object) -> str:
    first, size = part
    return "" if size == length else f"{first}:{first + size}"


def _summed(texts: list[tuple[str, float]]) -> str:
    total = ""
    for text, factor in texts:
        scaled = text if abs(factor) == 1 else f"{abs(factor)!r} * {text}"
        sign = "-" if factor < 0 else "+"
        total = f"{total} {sign} {scaled}" if total else f"{'-' * (factor < 0)}{scaled}"
    return total


def _joined_rows(weights: list[Weight]) -> list[Weight]:
    """The same, where rows of one matrix that follow one another are taken together."""
    found: list[Weight] = []
    for weight in weights:
        if found and len(weight) == len(found[-1]) == 1:
            (before, one), (times, factor) = found[-1][0], weight[0]
            follows = times.rows[0] == before.rows[0] + before.rows[1]
            if follows and one == factor and _tied(before, times):
                rows = (before.rows[0], before.rows[1] + times.rows[1])
                found[-1] = ((Times(before.operator, rows, before.columns, before.to), one),)
                continue
        found.append(weight)
    return found


def _tied(one: Times, other: Times) -> bool:
    return one.operator == other.operator and one.columns == other.columns


def _joined_offsets(biases: list[Bias]) -> list[Bias]:
    found: list[Bias] = []
    for bias in biases:
        if found and len(bias) == len(found[-1]) == 1:
            (before, one), (offset, factor) = found[-1][0], bias[0]
            if one == factor and before.id == offset.id and offset.first == before.first + before.size:
                found[-1] = ((Offset(before.id, before.first, before.size + offset.size), one),)
                continue
        found.append(bias)
    return found
