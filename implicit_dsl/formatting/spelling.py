"""Signs that may be written in ASCII or not, and mean the same syntax."""

from __future__ import annotations

from enum import Enum

from implicit_dsl.parse.expressions import ASCII

_UNICODE = {plain: sign for sign, plain in ASCII.items() if plain != "*"}  # `*` is how `⋅` is mostly written


class Spelling(Enum):
    """Which of two spellings a sign gets. Names, `÷` and `∘` have only one."""

    AS_WRITTEN = "as written"
    ASCII = "ascii"
    UNICODE = "unicode"

    def of(self, kind: str, text: str) -> str:
        """A token as it is to be written."""
        if kind in ("NAME", "STRING", "DOCSTRING") or self is Spelling.AS_WRITTEN:
            return text
        return (ASCII if self is Spelling.ASCII else _UNICODE).get(text, text)
