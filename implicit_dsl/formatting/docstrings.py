"""Docstrings: on one line if they have one line and fit, or else between lines of quotes."""

from __future__ import annotations

from implicit_dsl.formatting.documents import WIDTH
from implicit_dsl.parse.build import Build, dedent
from implicit_dsl.parse.report import Report
from implicit_dsl.parse.tokens import Token
from implicit_dsl.source import Source

_QUOTES = '"""'


def docstring(text: str, indent: int) -> str:
    """The literal as it stands at the column `indent`. It says the same, blanks at ends of lines apart."""
    lines = dedent(text[3:-3]).split("\n")
    only = lines[0] if len(lines) == 1 else None
    if only is not None and not only.endswith('"') and indent + len(only) + 2 * len(_QUOTES) <= WIDTH:
        laid_out = f"{_QUOTES}{only}{_QUOTES}"
    else:
        margin = " " * indent
        rows = [_QUOTES, *lines, _QUOTES]
        laid_out = "\n".join(margin + row if number and row else row for number, row in enumerate(rows))
    if "\\" in text and _meaning(laid_out) != _meaning(text):
        return "\n".join(line.rstrip() for line in text.splitlines())  # `\n` and `\t` shift its lines
    return laid_out


def _meaning(text: str) -> str:
    """What the compiler reads."""
    source = Source(text)
    return Build(source, Report(source)).doc([Token("DOCSTRING", text, 0, len(text))], 0, len(text)).text
