"""Highlighting of programs for Pygments, and so for Sphinx, MkDocs and the terminal: `pygmentize net.impl`.

Pygments finds the lexer by its entry point. It is no dependency: what needs it has it.
Keywords are those of the grammar, and names are looked up where the compiler looks them up.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from pygments.lexer import RegexLexer, bygroups, words
from pygments.token import (
    Comment,
    Keyword,
    Name,
    Number,
    Operator,
    Punctuation,
    String,
    Text,
    Whitespace,
    _TokenType,
)

from implicit_dsl.vocabulary import BLOCKS, CONSTANTS, CONTROL, DECLARATIONS, IN, SOFT

_NAME = r"[^\W\d][\w\u0300-\u036f]*"
_END = r"(?![\w\u0300-\u036f])"


@cache
def _known() -> dict[str, Any]:
    """What the language has by itself; loaded when the first name is read."""
    from implicit_dsl.resolve.builtins import BUILTINS

    return BUILTINS


def _named(lexer: RegexLexer, match: Any) -> Iterator[tuple[int, _TokenType, str]]:
    """A name that is used: of the language, or of a part, or of something else."""
    name = match[0]
    if name in _known():
        kind = Name.Builtin
    elif name[0].isupper() and match.string.startswith(("(", ".("), match.end()):
        kind = Name.Class
    else:
        kind = Name
    yield match.start(), kind, name


class ImplLexer(RegexLexer):
    """Implicit deep learning programs."""

    name = "Implicit"
    aliases = ("impl", "implicit", "implicitc")
    filenames = ("*.impl",)
    mimetypes = ("text/x-impl",)
    url = "https://arxiv.org/abs/1908.06315"
    version_added = ""

    tokens = {  # noqa: RUF012 (Pygments reads it from the class)
        "root": [
            (rf"^([ \t]*)({_NAME})(?=\([^()\r\n]*\)[ \t]*=(?!=))", bygroups(Whitespace, Name.Function)),
            (r"[ \t\f]+|[\r\n]+", Whitespace),
            (r"#=[\s\S]*?=#", Comment.Multiline),
            (r"#(?!=)[^\r\n]*", Comment.Single),
            (r'"""', String.Doc, "docstring"),
            (r'"', String.Double, "string"),
            (rf"@{_NAME}", Name.Decorator),
            (rf"(model|block)([ \t]+)({_NAME})", bygroups(Keyword.Declaration, Whitespace, Name.Class)),
            (words(sorted(BLOCKS | DECLARATIONS), suffix=_END), Keyword.Declaration),
            (words(sorted(CONTROL), suffix=_END), Keyword),
            (words(sorted(IN), suffix=_END), Operator.Word),
            (words(sorted(CONSTANTS), suffix=_END), Keyword.Constant),
            # words only between two names: elsewhere they are names
            (rf"(?<=[\w)\]\"' ])({'|'.join(sorted(SOFT))})(?=[ \t]+{_NAME}{_END})", Keyword),
            (r"[0-9]+(?:_[0-9]+)*(?:\.[0-9]+(?:_[0-9]+)*(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)", Number.Float),
            (r"[0-9]+(?:_[0-9]+)*", Number.Integer),
            (_NAME, _named),
            (r"\|>|\.\|>|->|=>|\.\.|::|&&|\|\||[<>=!]=|\.?[+\-*/^]|[<>≤≥≠∈%÷⊙∘⋅!=~']", Operator),
            (r"\.\(|[()\[\],;:.]", Punctuation),
            (r"∞", Keyword.Constant),
        ],
        "docstring": [
            (r'"""', String.Doc, "#pop"),
            (r'\\(?:u[0-9a-fA-F]{4}|["\\nt])', String.Escape),
            (r'[^"\\]+|["\\]', String.Doc),
        ],
        "string": [
            (r'"', String.Double, "#pop"),
            (r'\\(?:u[0-9a-fA-F]{4}|["\\nt])', String.Escape),
            (r'[^"\\\r\n]+|\\', String.Double),
            (r"[\r\n]", Text, "#pop"),  # never closed
        ],
    }
