"""Operators between several operands, and how tightly they stand.

Blanks show precedence. In a sum, products stand tightly: `A*x + B*u`. Alone, a product stands tightly
between simple operands, `W*x`, and else with blanks: `Dense(10) * x`. In a range, all is tight: `1:n+1`.
"""

from __future__ import annotations

from implicit_dsl.formatting.documents import HARD, LINE, Compound, Document, Group, Indented
from implicit_dsl.formatting.pieces import CLOSE, PLAIN, TIGHT, Node, Tokens

SUM, PRODUCT, PIPE, COMPARISON = "SUM", "PRODUCT", "PIPE", "COMPARISON"
_TIGHT = frozenset("*/⋅")  # the products that stand tightly at times


class Chain(Node):
    """A chain of operators of one kind, `a + b - c`, that grows to the right as it is read.

    Its documents are made when they are asked for, as it is complete by then.
    """

    __slots__ = ("kind", "operands", "operators", "tokens")

    def __init__(self, tokens: Tokens, kind: str, first: Node) -> None:
        self.start, self.end, self.simple = first.start, first.end, False
        self.tokens, self.kind = tokens, kind
        self.operands, self.operators = [first], list[int]()
        self._documents: dict[str, Document] = {}

    def add(self, operator: int, operand: Node) -> None:
        self.operators.append(operator)
        self.operands.append(operand)
        self.end = operand.end

    def document(self, manner: str) -> Document:
        first, rest, breaks = self._parts(manner)
        return Group((first, Indented(rest) if breaks else Compound(rest)))

    def unindented(self, manner: str) -> Document:
        first, rest, _ = self._parts(manner)
        return Group((first, *rest))

    def _parts(self, manner: str) -> tuple[Document, list[Document], bool]:
        """The first operand, all others with their operators, and whether a line may end between them."""
        return self._pipeline() if self.kind == PIPE else self._operation(manner)

    def _operation(self, manner: str) -> tuple[Document, list[Document], bool]:
        inside = CLOSE if manner == PLAIN and self.kind == SUM else manner
        touching = manner != PLAIN or all(operand.simple for operand in self.operands)
        parts: list[Document] = []
        for operator, operand in zip(self.operators, self.operands[1:]):
            sign = self.tokens.tokens[operator].text
            if manner == TIGHT or (self.kind == PRODUCT and touching and sign in _TIGHT):
                parts.append(self.tokens.put(operator))
            else:
                parts += [" ", self.tokens.put(operator), LINE]
            parts.append(operand.document(inside))
        return self.operands[0].document(inside), parts, LINE in parts

    def _pipeline(self) -> tuple[Document, list[Document], bool]:
        """Each `|>` begins a line if one is too long. Where the source breaks, its lines are kept."""
        lines: list[Document] = []
        line: list[Document] = []
        for operator, operand in zip(self.operators, self.operands[1:]):
            if self.tokens.begins_line(operator):
                lines += [Group(line), HARD]
                line = []
            else:
                line.append(LINE)
            line += [self.tokens.put(operator, " "), operand.plain]
        return self.operands[0].plain, [*lines, Group(line)], True
