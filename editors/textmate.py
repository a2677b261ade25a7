"""Writes the TextMate grammar of the language, with which VS Code, Sublime Text and JetBrains highlight.

    python editors/textmate.py

Keywords are those of the compiler, numbers and signs are written as in its grammar. Operators and activations
are told by how they are used, so that new ones need nothing here: `Conv(…)` begins with a
capital, `relu(…)` is called, and `|> relu` stands behind a pipe. What is written is understood
by Oniguruma, which editors use, and by Python, which the tests use.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from implicit_dsl.vocabulary import CONSTANTS, CONTROL, DECLARATIONS, IN, SOFT, TEMPLATES

TARGET = Path(__file__).parent / "vscode" / "syntaxes" / "impl.tmLanguage.json"

LETTER = "\\w\u0300-\u036f"  # the accents as characters: the escapes of the two engines differ
NAME = rf"[^\W\d][{LETTER}]*"
START, END = rf"(?<![{LETTER}])", rf"(?![{LETTER}])"


def _words(names: frozenset[str]) -> str:
    return f"{START}(?:{'|'.join(sorted(names))}){END}"


def _rule(name: str, match: str) -> dict[str, Any]:
    return {"name": f"{name}.impl", "match": match}


def _captured(match: str, *names: str) -> dict[str, Any]:
    captures = {str(number): {"name": f"{name}.impl"} for number, name in enumerate(names, 1) if name}
    return {"match": match, "captures": captures}


def _quoted(name: str, quotes: str) -> dict[str, Any]:
    mark = {"0": {"name": "punctuation.definition.string.impl"}}
    escape = _rule("constant.character.escape", r'\\(?:u[0-9a-fA-F]{4}|["\\nt])')
    rule = {"name": f"{name}.impl", "begin": quotes, "beginCaptures": mark, "endCaptures": mark}
    return {**rule, "end": quotes if len(quotes) == 3 else '"|$', "patterns": [escape]}


def grammar() -> dict[str, Any]:
    """The grammar as data; the first pattern that matches wins."""
    block_comment = {"name": "comment.block.impl", "begin": "#=", "end": "=#"}
    digits = r"[0-9]+(?:_[0-9]+)*"
    templates, soft = "|".join(sorted(TEMPLATES)), "|".join(sorted(SOFT))
    fraction = rf"(?:\.{digits}(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)"
    patterns = [
        block_comment,
        _rule("comment.line.number-sign", r"#(?!=).*$"),
        _quoted("string.quoted.docstring", '"""'),
        _quoted("string.quoted.double", '"'),
        _rule("entity.name.function.decorator", f"@{NAME}"),
        _captured(rf"{START}({templates})[ \t]+({NAME})", "storage.type", "entity.name.type"),
        _rule("storage.modifier", _words(DECLARATIONS)),
        _rule("keyword.control", _words(CONTROL | TEMPLATES | {"end"})),
        _rule("keyword.operator.word", _words(IN)),
        _rule("constant.language", f"{_words(CONSTANTS | {'pi', 'π'})}|∞"),
        # words only between two names: elsewhere they are names
        _rule("keyword.other", rf"(?<=[\w)\]\"' ])(?:{soft})(?=[ \t]+(?!(?:in|for|if){END}){NAME})"),
        _captured(rf"^[ \t]*({NAME})(?=\([^()]*\)[ \t]*=(?!=))", "entity.name.function.definition"),
        _captured(rf"(\.?\|>)[ \t]*({NAME})(?![{LETTER}.(])", "keyword.operator.pipe", "support.function"),
        _rule("support.class", rf"{START}[A-Z]\w*(?=\.?\()"),
        _rule("support.function", rf"{START}{NAME}(?=\.?\()"),
        _rule("constant.numeric.float", f"{START}{digits}{fraction}"),
        _rule("constant.numeric.integer", f"{START}{digits}"),
        _rule("variable.other", NAME),
        _rule("keyword.operator.relation", r"~|(?<![=<>!])=(?![=>])"),
        _rule("keyword.operator", r"\.?\|>|->|=>|\.\.|::|&&|\|\||[<>=!]=|\.?[+\-*/^]|[<>≤≥≠∈%÷⊙∘⋅!']"),
        _rule("punctuation.section", r"\.\(|[()\[\]]"),
        _rule("punctuation.separator", r"[,;:.]"),
    ]
    return {
        "$schema": "https://raw.githubusercontent.com/martinring/tmlanguage/master/tmlanguage.json",
        "name": "Implicit",
        "scopeName": "source.impl",
        "fileTypes": ["impl"],
        "patterns": patterns,
    }


def written() -> str:
    """The grammar as the text of its file."""
    return json.dumps(grammar(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(written(), encoding="utf-8", newline="\n")
