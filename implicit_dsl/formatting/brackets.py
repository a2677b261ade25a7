"""What stands in brackets: on one line, on a line of its own between them, or on a line for each item."""

from __future__ import annotations

from implicit_dsl.formatting.documents import (
    CLOSING,
    LINE,
    SOFT,
    Compound,
    Document,
    Group,
    IfBroken,
    Indented,
)
from implicit_dsl.formatting.pieces import PLAIN, Condition, Node, Number, Piece, Several, Tokens

# What is in brackets: items between commas, subscripts, one item as a tuple, a generator, or one value.
ITEMS, INDEX, ONE_TUPLE, GENERATOR, GROUP = "items", "index", "one tuple", "generator", "group"


def bracketed(tokens: Tokens, pieces: list[Piece], kind: str = ITEMS, manner: str = PLAIN) -> Document:
    """The pieces from an opening bracket to its partner.

    A comma behind the last item stands if each item has a line. `(a,)` keeps its
    comma, and `(a)` must not get one.
    """
    pieces = [one for piece in pieces for one in (piece.pieces if isinstance(piece, Several) else [piece])]
    opening, *inside, closing = pieces
    assert isinstance(opening, int)
    assert isinstance(closing, int)
    if not inside:
        return Compound((tokens.put(opening), tokens.put(closing)))
    parts: list[Document] = []
    filled = all(isinstance(piece, (Number, int)) for piece in inside)  # numbers: as many as a line takes
    for place, piece in enumerate(inside):
        if isinstance(piece, Node):
            if filled and place:
                continue  # it stands behind the comma
            parts += [LINE if isinstance(piece, Condition) else "", piece.unindented(manner)]
            continue
        sign = tokens.kind(piece)
        following = inside[place + 1] if place + 1 < len(inside) else None
        last = following is None or (isinstance(following, int) and tokens.kind(following) == ";")
        if sign == "," and kind in (ITEMS, INDEX) and last:
            parts.append(tokens.dropped(piece))
        elif sign == "for" and kind == GENERATOR:
            parts += [LINE, tokens.put(piece, " ")]
        else:
            space = Group((LINE, following.plain)) if filled and isinstance(following, Node) else LINE
            parts += [tokens.put(piece), "" if following is None else space]
    ends_with_item = not isinstance(inside[-1], int) or tokens.kind(inside[-1]) == ","
    if kind in (ITEMS, INDEX) and ends_with_item:
        # before the comments behind the last item, which wait for the end of the line
        parts.append(IfBroken(","))
    return Group((tokens.put(opening), Indented((SOFT, Group(parts))), CLOSING, tokens.put(closing)))
