"""The actions of the grammar that lay out statements and the heads of blocks, each a line of its own."""

from __future__ import annotations

from implicit_dsl.formatting.brackets import GENERATOR, ITEMS, bracketed
from implicit_dsl.formatting.documents import HARD, INDENT, LINE, Compound, Document, Group, Indented, Sign
from implicit_dsl.formatting.expressions import Expressions, Values
from implicit_dsl.formatting.pieces import Generator, Node, Piece, Several, Tokens
from implicit_dsl.formatting.trivia import column_of


class _Formals(Node):
    """The parameters of a model or block, which follow its name without a blank."""


class Statements(Expressions):
    """The actions of the whole grammar. `lines` has the document of each line, by its first token."""

    def __init__(self, tokens: Tokens) -> None:
        super().__init__(tokens)
        self.lines: dict[int, Document] = {}

    def start(self, values: Values, start: int, end: int) -> None:
        return None

    template = body = if_ = branch = error = stray_end = start

    def _line(self, start: int, document: Document) -> None:
        self.lines[self.tokens.index[start]] = document

    # ----------------------------------------------------------------------- definitions

    def head(self, values: Values, start: int, end: int) -> None:
        """`model Net(n = 3) extends Base(n)`."""
        parts: list[Document] = []
        for piece in self.tokens.pieces(values, start, end):
            if isinstance(piece, _Formals):
                parts.append(piece.plain)
            else:
                parts += [" ", piece.plain if isinstance(piece, Node) else self.tokens.put(piece)]
        self._line(start, Compound(parts[1:]))

    def formals(self, values: Values, start: int, end: int) -> Node:
        return _Formals(start, end, bracketed(self.tokens, self.tokens.pieces(values, start, end)))

    def keyword_formals(self, values: Values, start: int, end: int) -> Node:
        return Several(start, end, self.tokens.pieces(values, start, end))

    def formal(self, values: Values, start: int, end: int) -> Node:
        return self._row(values, start, end)

    kind = formal

    def default(self, values: Values, start: int, end: int) -> Node:
        sign, value = self.tokens.pieces(values, start, end)
        assert isinstance(sign, int) and isinstance(value, Node)
        return Node(start, end, Compound((" ", self.tokens.put(sign, " "), value.plain)))

    # ----------------------------------------------------------------------- declarations

    def declaration(self, values: Values, start: int, end: int) -> None:
        """Several names stand below one another if there is no room, or as the source has them."""
        keyword, *items = self.tokens.pieces(values, start, end)
        assert isinstance(keyword, int)
        if len(items) == 1:
            return self._line(start, self.tokens.joined([keyword, *items], " "))
        lines: list[Document] = []
        line: list[Document] = []
        for item in items:
            if isinstance(item, Node):
                line.append(item.plain)
                continue
            line.append(self.tokens.put(item))
            if self.tokens.begins_line(item + 1):
                lines += [Group(line), HARD]
                line = []
            else:
                line.append(LINE)
        margin = len(self.tokens.tokens[keyword].text) + 1
        listed = Indented((*lines, Group(line)), margin)
        return self._line(start, Compound((self.tokens.put(keyword, " "), listed)))

    def declared(self, values: Values, start: int, end: int) -> Node:
        return self._row(values, start, end)

    def bracket(self, values: Values, start: int, end: int) -> Node:
        return Node(start, end, bracketed(self.tokens, self.tokens.pieces(values, start, end)))

    def member(self, values: Values, start: int, end: int) -> Node:
        return Node(
            start, end, Compound((" ", self.tokens.joined(self.tokens.pieces(values, start, end), " ")))
        )

    def start_value(self, values: Values, start: int, end: int) -> Node:
        sign, value = self.tokens.pieces(values, start, end)
        assert isinstance(sign, int) and isinstance(value, Node)
        return Node(start, end, Compound((*self._sign(sign), value.plain)))

    drive = start_value

    def _sign(self, number: int) -> tuple[Document, ...]:
        """The sign between two sides."""
        token, text = self.tokens.tokens[number], self.tokens.text
        column = column_of(text, token.start)
        wide = column > 1 and text[token.start - 2 : token.start].isspace()
        comments = self.tokens.comments_behind(number)
        return (
            " ",
            *self.tokens.inline_ahead(number),
            Sign(token.text, column, wide),
            *comments,
            " ",
        )

    # ----------------------------------------------------------------------- simple statements

    def equation(self, values: Values, start: int, end: int) -> None:
        left, sign, right = self.tokens.pieces(values, start, end)
        assert isinstance(left, Node) and isinstance(sign, int) and isinstance(right, Node)
        self._line(start, Compound((left.plain, *self._sign(sign), right.plain)))

    definition = equation

    def bare(self, values: Values, start: int, end: int) -> None:
        self._line(start, values[0].plain)

    def doc(self, values: Values, start: int, end: int) -> None:
        return None  # it is laid out by `docstrings`

    def _words(self, values: Values, start: int, end: int) -> None:
        self._line(start, self.tokens.joined(self.tokens.pieces(values, start, end), " "))

    open_ = _words

    def branch_head(self, values: Values, start: int, end: int) -> None:
        """Further lines of a condition are indented more than the body."""
        condition = self.tokens.joined(self.tokens.pieces(values, start, end), " ")
        self._line(start, Indented((condition,)))

    def import_(self, values: Values, start: int, end: int) -> None:
        self._listed(start, self.tokens.pieces(values, start, end))

    def module(self, values: Values, start: int, end: int) -> Node:
        return self._row(values, start, end)

    def import_name(self, values: Values, start: int, end: int) -> Node:
        return self._spaced(values, start, end)

    def annotation(self, values: Values, start: int, end: int) -> None:
        """`@name a, b`, or `@name(a, b)`, which is no call if there is a blank before the bracket."""
        pieces = self.tokens.pieces(values, start, end)
        assert isinstance(pieces[0], int)
        if self.tokens.kind(pieces[0]) == "ANNOTATION_CALL":
            generator = bool(values) and isinstance(values[-1], Generator)
            return self._line(start, bracketed(self.tokens, pieces, GENERATOR if generator else ITEMS))
        return self._listed(start, pieces)

    # ----------------------------------------------------------------------- blocks

    def for_(self, values: Values, start: int, end: int) -> None:
        """The head alone: its body are lines of their own."""
        head = [value for value in values if isinstance(value, Node)]
        self._listed(start, self.tokens.pieces(head, start, head[-1].end), 2 * INDENT)

    recurrent = for_

    def ode(self, values: Values, start: int, end: int) -> None:
        head = [value for value in values if isinstance(value, Node)]
        self._words(head, start, head[-1].end)

    # ----------------------------------------------------------------------- lists without brackets

    def _listed(self, start: int, pieces: list[Piece], margin: int = INDENT) -> None:
        """Words, then items with commas between them."""
        parts: list[Document] = []
        for place, piece in enumerate(pieces):
            kind = "" if isinstance(piece, Node) else self.tokens.kind(piece)
            following = pieces[place + 1] if place + 1 < len(pieces) else None
            sticks = isinstance(following, int) and self.tokens.kind(following) in (",", ":")
            parts.append(piece.plain if isinstance(piece, Node) else self.tokens.put(piece))
            if following is not None and not sticks:
                parts.append(LINE if kind == "," else " ")
        self._line(start, Group((Indented(parts, margin),)))
