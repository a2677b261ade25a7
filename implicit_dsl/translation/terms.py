"""Expressions of the program that is written, as a graph: a term that is read twice is one object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import torch

from implicit_dsl.operators import ACTIVATIONS
from implicit_dsl.translation.refusal import TranslationError


class Form(Enum):
    """What a term looks like."""

    NAME = "a declared name"
    NUMBER = "a number"
    CALL = "a function of the language, applied"
    APPLY = "a layer, applied"
    TIMES = "a matrix or a linear layer in front of what it is applied to"
    BINARY = "an operator between two"
    MINUS = "the negative"
    TRANSPOSED = "the transpose of a matrix"
    INDEX = "a part"
    FIELD = "one output of a block"
    REFUSED = "what cannot be written"


@dataclass(frozen=True, eq=False, slots=True)
class Declaration:
    """A name and what stands behind it: `[3, 32, 32]` of an input, `= Dense(10)` of a layer."""

    kind: str  # "input", "param" or "layer"
    wanted: str  # the name, if it is free
    text: str
    holds: tuple[tuple[str, str], ...] = ()  # key of the module -> what stands behind the name in the new key
    block: str = ""  # the text of the block that it is an instance of
    note: str = ""  # a comment behind it
    numbers: torch.Tensor | None = None  # what it holds, if that is no tensor of the module
    sets: tuple[tuple[str, int], ...] = ()  # attributes of the PyTorch layer that a program has no word for


@dataclass(frozen=True, eq=False, slots=True)
class Term:
    """An expression. `text` is what its form needs: a name, a number, an operator, indices."""

    form: Form
    text: str = ""
    operands: tuple[Term, ...] = ()
    settings: str = ""
    declaration: Declaration | None = None
    refused: TranslationError | None = None

    @property
    def is_param(self) -> bool:
        """Whether this is a tensor itself: alone, the language takes it for a matrix."""
        return self.declaration is not None and self.declaration.kind == "param"

    @property
    def is_state(self) -> bool:
        """Whether this is one activation, so that an equation gives the state that it makes its name."""
        return self.form is Form.CALL and self.text.split("(")[0] in _STATES

    @property
    def value(self) -> float | int:
        """The number that this is."""
        assert self.form is Form.NUMBER
        return float(self.text) if set(self.text) & set(".einf") else int(self.text)


_STATES = frozenset(ACTIVATIONS) | {"MaxPool", "AdaptiveMaxPool", "GlobalMaxPool"}
Index: TypeAlias = int | tuple[int, int] | tuple[int, int, int] | None
"""One index from 1, the ends of a range, its first, step and last, or the whole axis."""


def name(declaration: Declaration) -> Term:
    return Term(Form.NAME, declaration=declaration)


def number(value: float | int | bool) -> Term:
    """Written so that it is read as the same number."""
    assert isinstance(value, (bool, int, float)), "sizes that are not known are refused before"
    plain = int(value) if float(value).is_integer() and abs(value) < 1e15 else float(value)
    return Term(Form.NUMBER, repr(plain))


def call(function: str, *operands: Term, settings: str = "") -> Term:
    """`function(operands; settings)`; of a constructor, `MaxPool(2)`, the function is all of that."""
    return Term(Form.CALL, function, operands, settings)


def reshape(x: Term, *sizes: int | str) -> Term:
    """The same entries with axes of these sizes; `_` for one that follows from the others."""
    return call("reshape", x, *(Term(Form.NUMBER, str(one)) for one in sizes))


def apply(layer: Term, *operands: Term) -> Term:
    return Term(Form.APPLY, operands=(layer, *operands))


def attend(operands: tuple[Term, ...], settings: str) -> Term:
    """Attention of queries, keys and values; a fourth operand is the mask."""
    return Term(Form.CALL, "attend", operands, settings)


def times(matrix: Term, operand: Term) -> Term:
    return Term(Form.TIMES, operands=(matrix, operand))


def transposed(matrix: Term) -> Term:
    return Term(Form.TRANSPOSED, operands=(matrix,))


def field(term: Term, which: str) -> Term:
    return Term(Form.FIELD, which, (term,))


def refused(error: TranslationError) -> Term:
    """A term that must not be reached: who needs it raises the error."""
    return Term(Form.REFUSED, refused=error)


def index(term: Term, indices: Iterable[Index]) -> Term:
    """A part of it, axis by axis; all of it is the term itself."""
    chosen = tuple(indices)
    if all(one is None for one in chosen):
        return term
    written = (
        ":" if one is None else str(one) if isinstance(one, int) else ":".join(map(str, one))
        for one in chosen
    )
    return Term(Form.INDEX, ", ".join(written), (term,))


def _is(term: Term, value: float) -> bool:
    return term.form is Form.NUMBER and term.value == value


def add(a: Term, b: Term) -> Term:
    if _is(a, 0):
        return b
    if _is(b, 0):
        return a
    if b.form is Form.MINUS:
        return Term(Form.BINARY, "-", (a, b.operands[0]))
    if b.form is Form.NUMBER and b.value < 0:
        return Term(Form.BINARY, "-", (a, number(-b.value)))
    return Term(Form.BINARY, "+", (a, b))


def subtract(a: Term, b: Term) -> Term:
    if _is(a, 0):
        return minus(b)
    if _is(b, 0):
        return a
    if b.form is Form.NUMBER and b.value < 0:
        return Term(Form.BINARY, "+", (a, number(-b.value)))
    return Term(Form.BINARY, "-", (a, b))


def minus(a: Term) -> Term:
    return a.operands[0] if a.form is Form.MINUS else Term(Form.MINUS, operands=(a,))


def scaled(factor: float, a: Term) -> Term:
    """A number times it; two such numbers are one."""
    if a.form is Form.BINARY and a.text == "*" and a.operands[0].form is Form.NUMBER:
        factor, a = factor * a.operands[0].value, a.operands[1]
        if abs(factor - 1) < 1e-15:  # 8 ÷ √64, taken back
            factor = 1.0
    if factor == 1:
        return a
    return minus(a) if factor == -1 else Term(Form.BINARY, "*", (number(factor), a))


def multiply(a: Term, b: Term) -> Term:
    """Entry by entry."""
    if a.form is Form.NUMBER:
        return scaled(a.value, b)
    if b.form is Form.NUMBER:
        return scaled(b.value, a)
    return Term(Form.BINARY, ".*", (a, b))


def divide(a: Term, b: Term) -> Term:
    if b.form is Form.NUMBER:
        return a if b.value == 1 else Term(Form.BINARY, "/", (a, b))
    return Term(Form.BINARY, "./", (a, b))


def power(a: Term, b: Term) -> Term:
    return a if _is(b, 1) else Term(Form.BINARY, ".^", (a, b))


def reached(roots: Iterable[Term]) -> Iterator[Term]:
    """Everything that the roots read and they themselves, each once, operands first."""
    done: set[Term] = set()
    stack = [(root, False) for root in reversed(tuple(roots))]
    while stack:
        term, opened = stack.pop()
        if term in done:
            continue
        if opened:
            done.add(term)
            yield term
        else:
            stack.append((term, True))
            stack.extend((operand, False) for operand in reversed(term.operands))
