"""The actions of the grammar that lay out expressions: from the inside to the outside, as they are read."""

from __future__ import annotations

from typing import Any, TypeAlias

from implicit_dsl.formatting.brackets import GENERATOR, GROUP, INDEX, ITEMS, ONE_TUPLE, bracketed
from implicit_dsl.formatting.chains import COMPARISON, PIPE, Chain
from implicit_dsl.formatting.documents import Compound
from implicit_dsl.formatting.pieces import CLOSE, PLAIN, TIGHT, Condition, Generator, Node, Number, Tokens

Values: TypeAlias = list[Any]


class Expressions:
    """One method for each kind of expression, named as in the grammar."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    def _row(self, values: Values, start: int, end: int) -> Node:
        return Node(start, end, self.tokens.joined(self.tokens.pieces(values, start, end)))

    def _spaced(self, values: Values, start: int, end: int) -> Node:
        return Node(start, end, self.tokens.joined(self.tokens.pieces(values, start, end), " "))

    # ----------------------------------------------------------------------- atoms

    def name(self, values: Values, start: int, end: int) -> Node:
        return Node(start, end, self.tokens.put(self.tokens.index[start]), simple=True)

    constant = string = colon = name

    def integer(self, values: Values, start: int, end: int) -> Node:
        return Number(start, end, self.tokens.put(self.tokens.index[start]), simple=True)

    float = integer

    def only(self, values: Values, start: int, end: int) -> Node:
        """A value in brackets; or a condition, `if` before a value."""
        pieces = self.tokens.pieces(values, start, end)
        if not isinstance(pieces[-1], int):
            return Condition(start, end, self.tokens.joined(pieces, " "))
        # in a sum `a + 2*(b*f(c))`, what is multiplied stands tightly at any depth
        plain, close = (bracketed(self.tokens, pieces, GROUP, manner) for manner in (PLAIN, CLOSE))
        return Node(start, end, plain, close)

    # ----------------------------------------------------------------------- operators

    def binary(self, values: Values, start: int, end: int) -> Node:
        left, operator, right = values
        return self._chained(operator.kind, left, self.tokens.index[operator.start], right)

    def pipe(self, values: Values, start: int, end: int) -> Node:
        left, operator, right = values
        return self._chained(PIPE, left, self.tokens.index[operator.start], right)

    def _chained(self, kind: str, left: Node, operator: int, right: Node) -> Node:
        chain = left if isinstance(left, Chain) and left.kind == kind else Chain(self.tokens, kind, left)
        chain.add(operator, right)
        return chain

    def comparison(self, values: Values, start: int, end: int) -> Node:
        first, *rest = self.tokens.pieces(values, start, end)
        assert isinstance(first, Node)
        chain = Chain(self.tokens, COMPARISON, first)
        for operator, operand in zip(rest[::2], rest[1::2]):
            assert isinstance(operator, int) and isinstance(operand, Node)
            chain.add(operator, operand)
        return chain

    def power(self, values: Values, start: int, end: int) -> Node:
        return self._glued(values, start, end)

    def unary(self, values: Values, start: int, end: int) -> Node:
        return self._glued(values, start, end)

    def _glued(self, values: Values, start: int, end: int) -> Node:
        """An operator without blanks. It is as simple as its operands, and stands as they do."""
        pieces = self.tokens.pieces(values, start, end)
        simple = all(piece.simple for piece in pieces if isinstance(piece, Node))
        manners = (self.tokens.joined(pieces, "", manner) for manner in (PLAIN, CLOSE, TIGHT))
        kind = Number if isinstance(pieces[-1], Number) and len(pieces) == 2 else Node  # -1
        return kind(start, end, *manners, simple=simple)

    def range(self, values: Values, start: int, end: int) -> Node:
        pieces = self.tokens.pieces(values, start, end)
        return Node(start, end, self.tokens.joined(pieces, "", TIGHT))

    interval = range
    pair = lambda_ = keyword = axis = binding = _spaced

    # ----------------------------------------------------------------------- after a value

    def field(self, values: Values, start: int, end: int) -> Node:
        pieces = self.tokens.pieces(values, start, end)
        return Node(start, end, self.tokens.joined(pieces), simple=values[0].simple)

    transpose = field

    def index(self, values: Values, start: int, end: int) -> Node:
        return self._applied(values, start, end, INDEX)

    def call(self, values: Values, start: int, end: int) -> Node:
        generator = isinstance(values[-1], Generator)
        return self._applied(values, start, end, GENERATOR if generator else ITEMS)

    broadcast = call

    def _applied(self, values: Values, start: int, end: int, kind: str) -> Node:
        function, *brackets = self.tokens.pieces(values, start, end)
        assert isinstance(function, Node)
        applied = Compound((function.plain, bracketed(self.tokens, brackets, kind)))
        return Node(start, end, applied, simple=kind == INDEX and function.simple)

    # ----------------------------------------------------------------------- several values

    def tuple(self, values: Values, start: int, end: int) -> Node:
        kind = ONE_TUPLE if len(values) == 1 else ITEMS
        return Node(start, end, bracketed(self.tokens, self.tokens.pieces(values, start, end), kind))

    def list(self, values: Values, start: int, end: int) -> Node:
        return Node(start, end, bracketed(self.tokens, self.tokens.pieces(values, start, end)))

    def comprehension(self, values: Values, start: int, end: int) -> Node:
        """With its brackets, or bare as the argument of a call."""
        pieces = self.tokens.pieces(values, start, end)
        if isinstance(pieces[0], int):
            return Node(start, end, bracketed(self.tokens, pieces, GENERATOR))
        return Generator(start, end, pieces)
