"""The source text, highlighted."""

from __future__ import annotations

import os
from collections.abc import Iterator

from implicit_dsl.page.parts import Code, Section
from implicit_dsl.page.subject import Subject
from implicit_dsl.pictures.lettering import clean
from implicit_dsl.source import Source

_TAB = 4
_CLASSES = (  # of Pygments, those of most words first
    ("Token.Comment", "c"),
    ("Token.Literal.String", "s"),
    ("Token.Literal.Number", "n"),
    ("Token.Keyword", "k"),
    ("Token.Name.Decorator", "d"),
    ("Token.Name.Builtin", "b"),
    ("Token.Name.Class", "t"),
    ("Token.Name.Function", "f"),
    ("Token.Operator", "o"),
)


def program(subject: Subject) -> Section:
    """The program, and what it imports of the user's own."""
    first, *imported = subject.sources
    about = "The source text that was compiled"
    parts = [_code(first, True), *(_code(source, False) for source in imported)]
    return Section(
        "program", "Program", f"{about}, with what it imports." if imported else f"{about}.", tuple(parts)
    )


def _code(source: Source, shown: bool) -> Code:
    name = source.title or os.path.basename(source.name)
    return Code(clean(name), tuple(highlighted(source.text)), shown)


def highlighted(text: str) -> Iterator[tuple[tuple[str, str], ...]]:
    """The lines of a program, each in pieces of one kind; what cannot be printed is made visible."""
    line: list[tuple[str, str]] = []
    pieces = list(_pieces(text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")))
    for kind, piece in pieces:
        for number, part in enumerate(piece.split("\n")):
            if number:
                yield tuple(line)
                line = []
            if part:
                line.append((kind, clean(part.replace("\t", " " * _TAB))))
    yield tuple(line)


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """Stretches of the text with the class of each; without Pygments, all of it in one."""
    try:
        from implicit_dsl.highlighting import ImplLexer
    except ImportError:
        yield "", text
        return
    for token, value in ImplLexer(stripnl=False, ensurenl=False).get_tokens(text):
        said = str(token)
        yield next((name for prefix, name in _CLASSES if said.startswith(prefix)), ""), value
