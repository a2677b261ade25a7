"""What layouts are put together from: tokens with their comments, and what was made of expressions."""

from __future__ import annotations

from typing import Any, TypeAlias

from implicit_dsl.formatting.documents import Comment, Compound, Document, Inline
from implicit_dsl.formatting.spelling import Spelling
from implicit_dsl.formatting.trivia import NOTHING, Gap, gap
from implicit_dsl.parse.tables import END_OF_FILE, NEWLINE
from implicit_dsl.parse.tokens import CLOSING, OPENING, Token

# How an expression stands by itself, in a sum (products are tight), and in a range (all is tight).
PLAIN, CLOSE, TIGHT = "plain", "close", "tight"


class Node:
    """Some syntax, laid out. `simple` are names, numbers and members: what is multiplied without blanks."""

    __slots__ = ("_documents", "end", "simple", "start")

    def __init__(
        self,
        start: int,
        end: int,
        plain: Document,
        close: Document | None = None,
        tight: Document | None = None,
        *,
        simple: bool = False,
    ) -> None:
        self.start, self.end, self.simple = start, end, simple
        close = plain if close is None else close
        self._documents = {PLAIN: plain, CLOSE: close, TIGHT: close if tight is None else tight}

    def document(self, manner: str) -> Document:
        return self._documents[manner]

    def unindented(self, manner: str) -> Document:
        """The document where it begins a line, so that its further lines need no indentation."""
        return self.document(manner)

    @property
    def plain(self) -> Document:
        return self.document(PLAIN)


class Number(Node):
    """A number that is written out."""


class Condition(Node):
    """`if c` in a comprehension."""


class Several(Node):
    """Pieces that the brackets around them lay out."""

    __slots__ = ("pieces",)

    def __init__(self, start: int, end: int, pieces: list[Piece]) -> None:
        super().__init__(start, end, "")
        self.pieces = pieces


class Generator(Several):
    """`f(i) for i in 1:3` as the argument of a call."""


Piece: TypeAlias = Node | int  # of a symbol: its nodes, and the indices of the tokens between them


class Tokens:
    """The tokens of a text, to be laid out one by one."""

    def __init__(self, text: str, tokens: list[Token], spelling: Spelling) -> None:
        self.text, self.tokens, self.spelling = text, tokens, spelling
        self.index = {token.start: number for number, token in enumerate(tokens) if token.text}
        self.separators = _separators(tokens)
        self._gaps: dict[int, Gap] = {}

    def kind(self, number: int) -> str:
        return self.tokens[number].kind

    def before(self, number: int) -> Gap:
        """What stands between a token and the one before it in its statement; nothing before the first."""
        known = self._gaps.get(number)
        if known is None:
            known = NOTHING
            if number and number - 1 not in self.separators:
                known = gap(self.text, self.tokens[number - 1].end, self.tokens[number].start)
            self._gaps[number] = known
        return known

    def begins_line(self, number: int) -> bool:
        """Whether a line ends in the source between a token and the one before it."""
        found = self.before(number)
        return bool(found.lines_after or any(remark.lines_before for remark in found.remarks))

    def put(self, number: int, behind: str = "") -> Document:
        """A token, with `behind` glued to it, and the comments around it."""
        token = self.tokens[number]
        text = self.spelling.of(token.kind, token.text) + behind
        comments = self.comments_behind(number)
        ahead = self.inline_ahead(number)
        return Compound((*ahead, text, *comments)) if ahead or comments else text

    def dropped(self, number: int) -> Document:
        """The comments around a token that is left out."""
        ahead = (Comment(remark.text, False) for remark in self.before(number).split()[1])
        return Compound((*ahead, *self.comments_behind(number)))

    def inline_ahead(self, number: int) -> list[Inline]:
        return [Inline(remark.text) for remark in self.before(number).split()[1]]

    def comments_behind(self, number: int) -> list[Comment]:
        if number + 1 in self.separators:
            return []
        remarks = self.before(number + 1).split()[0]
        return [Comment(remark.text, bool(remark.lines_before)) for remark in remarks]

    def pieces(self, values: list[Any], start: int, end: int) -> list[Piece]:
        """The nodes among the values, and all tokens from `start` to `end` that are in none of them."""
        found: list[Piece] = []
        number = self.index[start]
        tokens = self.tokens
        for node in values:
            if isinstance(node, Node):
                while tokens[number].start < node.start:
                    found.append(number)
                    number += 1
                found.append(node)
                while tokens[number].start < node.end:
                    number += 1
        while tokens[number].start < end:
            found.append(number)
            number += 1
        return found

    def joined(self, pieces: list[Piece], between: str = "", manner: str = PLAIN) -> Document:
        """Nodes and tokens in a row."""
        parts: list[Document] = []
        for piece in pieces:
            parts += [between, self.put(piece) if isinstance(piece, int) else piece.document(manner)]
        return Compound(parts[1:])


def _separators(tokens: list[Token]) -> frozenset[int]:
    """What stands between statements: ends of lines, and `;` outside of brackets."""
    found = []
    depth = 0
    for number, (kind, *_) in enumerate(tokens):
        depth += (kind in OPENING) - (kind in CLOSING)
        if kind in (NEWLINE, END_OF_FILE) or (kind == ";" and not depth):
            found.append(number)
    return frozenset(found)
