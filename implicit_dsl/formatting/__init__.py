"""One layout for all programs: comments kept, meaning unchanged, and nothing to choose."""

from __future__ import annotations

from implicit_dsl._collector import collector_at_rest
from implicit_dsl.errors import Diagnostic
from implicit_dsl.formatting.layout import layout
from implicit_dsl.formatting.same import same
from implicit_dsl.formatting.spelling import Spelling
from implicit_dsl.parse import parse
from implicit_dsl.source import Source

__all__ = ["Spelling", "formatted"]

_MOST_ROUNDS = 8  # a comment may move outwards once or twice before it has found its place


def formatted(
    source: Source, spelling: Spelling = Spelling.AS_WRITTEN
) -> tuple[str | None, tuple[Diagnostic, ...]]:
    """The text in its canonical layout, or None with what is wrong with its syntax.

    The result is checked: it has the syntax of the source, and its layout is itself.
    """
    with collector_at_rest():
        program, diagnostics = parse(source)
        if diagnostics:
            return None, diagnostics
        text = source.text
        for _ in range(_MOST_ROUNDS):
            made = layout(Source(text, source.name, source.path), spelling)
            if made == text:
                return text, ()
            again, wrong = parse(Source(made))
            if wrong or not same(program, again):
                raise AssertionError("the layout would change the meaning")
            text = made
    raise AssertionError("the layout does not settle")
