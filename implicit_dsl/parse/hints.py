"""What people write who come from other languages, and how it is written here."""

from __future__ import annotations

from collections.abc import Collection

from implicit_dsl.parse.tokens import Token

COMMA = "statements end with the line and need no comma"
COLON = "a block begins at the end of the line and needs no `:`"
_PART = "a function is written `f(x) = ...`, a reusable part `block Name(...) ... end`"
_MODEL = "write `model Name(...) ... end`"
_IMPORT = 'write `import "file.impl": Name`, or `import std.vision: Name` for the library'
_QUOTES = 'strings take double quotes: "same"'

CHARACTERS = {
    "`": "names and strings take no back quotes",
    "$": "there is no string interpolation",
    "{": "use `[...]` for shapes and lists",
    "}": "use `[...]` for shapes and lists",
    "&": "write `&&`",
    "|": "write `||`, or `|>` for a pipeline",
    "?": "write `ifelse(condition, a, b)`",
    "@": "an annotation is written `@name`, without a space",
    "\\": "a line goes on after an operator or inside brackets, without `\\`",
    "“": 'strings take straight quotes: "same"',
    "”": 'strings take straight quotes: "same"',
    "‘": _QUOTES,
    "’": _QUOTES,
    "−": "write the minus sign of the keyboard: `-`",
    "–": "write the minus sign of the keyboard: `-`",
    "×": "write `*`, or `.*` for the elementwise product",
    "·": "write `*`, or `.*` for the elementwise product",
    "→": "write `->`",
    "⇒": "write `=>`",
    "…": "an interval is written `a..b`, a range `a:b`",
    "\u00a0": "replace it with an ordinary space",
    "\ufeff": "remove this invisible character",
}
# What each is surely meant for.
REPLACED = {"−": "-", "–": "-", "→": "->", "⇒": "=>", "“": '"', "”": '"', "\u00a0": " ", "\ufeff": ""}
CONTROLS = {"\0": "NULL", "\x0b": "LINE TABULATION", "\x1b": "ESCAPE", "\x7f": "DELETE"}

_FOREIGN = {
    "def": _PART,
    "function": _PART,
    "fn": _PART,
    "class": _MODEL,
    "struct": _MODEL,
    "module": _MODEL,
    "from": _IMPORT,
    "using": _IMPORT,
    "let": "write `x = ...`",
    "const": "write `x = ...`",
    "var": "write `x = ...`",
    "and": "write `&&`",
    "or": "write `||`",
    "not": "write `!`",
    "is": "write `==`",
    "elif": "write `elseif`",
    "while": "models have no run-time loops: use `for i in 1:n`, `recurrent` or `~`",
    "return": "write `output y = ...`",
    "lambda": "write `x -> ...`",
}
_FOREIGN_BLOCKS = frozenset(("def", "function", "fn", "class", "struct", "module", "while", "let", "begin"))
_SPELLED = {"and": "&&", "or": "||", "is": "==", "elif": "elseif"}
_BLOCKS = frozenset(("model", "block", "recurrent", "ode", "for", "if"))
_DOUBLED = {
    "*": "powers are written `x^2`",
    "/": "integer division is written `a ÷ b` or `div(a, b)`",
    "+": "there is no `++`",
    "&": "write `&&`",
}
_STARTS = (
    *("model", "block", "input", "output", "state", "param", "layer", "open", "import"),
    *("recurrent", "ode", "for", "if", "elseif", "else", "end"),
)
_HEADERS = frozenset(("for", "if", "elseif", "recurrent", "ode"))


def help_for(statement: list[Token], token: Token, last: bool, expected: Collection[str]) -> str:
    """How the statement is written here, if it can be guessed from what stands before `token`."""
    before = statement[-1] if statement else None
    if before is None:
        return _without_opener(token)
    for guess in (_by_keyword, _by_sign):
        help_text = guess(statement, before, token, last, expected)
        if help_text:
            return help_text
    return _by_word(statement, before, token)


def edit_for(statement: list[Token], token: Token, last: bool) -> tuple[int, int, str] | None:
    """What mends the slip, if only one thing can be meant: from where to where, and what to write there."""
    before = statement[-1] if statement else None
    if before is None:
        return None
    touching = before.end == token.start
    if touching and before.text == token.text and token.text in ("*", "/", "&"):
        return before.start, token.end, {"*": "^", "/": "÷", "&": "&&"}[token.text]
    if statement[0].kind == "recurrent" and token.kind in ("in", "∈", "="):
        return token.start, token.end, "over"
    if before.kind == "else" and token.kind == "if":
        return before.start, token.end, "elseif"
    if token.kind in (",", ":") and last:
        return token.start, token.end, ""
    if touching and before.kind in ("INTEGER", "FLOAT") and token.kind in ("NAME", "("):
        return token.start, token.start, "*"
    if token.text in _SPELLED:
        return token.start, token.end, _SPELLED[token.text]
    if len(statement) == 1 and before.kind == "NAME" and token.kind in ("NAME", "INTEGER", "STRING"):
        if before.text in _SPELLED:
            return before.start, before.end, _SPELLED[before.text]
        close = "" if before.text in _FOREIGN else _closest(before.text)
        return (before.start, before.end, close) if close else None
    return None


def help_for_end(statement: list[Token]) -> str:
    """The same where the line ends too early."""
    word = statement[0].text if statement else ""
    if len(statement) > 1 and statement[-1].kind == "." and statement[-2].kind == "INTEGER":
        return f"write `{statement[-2].text}.0`"
    if word in _FOREIGN and len(statement) < 3:
        return _FOREIGN[word]
    return {
        "recurrent": "write `recurrent x over u`: x is one step of the sequence u",
        "for": "write `for i in 1:3`",
        "ode": "write `ode t in 0..1`",
        "import": _IMPORT,
    }.get(word, "")


def _without_opener(token: Token) -> str:
    if token.kind in ("else", "elseif"):
        return f"there is no `if` that this `{token.kind}` belongs to"
    return {"in": "a loop is written `for i in 1:3`", "'": _QUOTES}.get(token.kind, "")


def _by_keyword(
    statement: list[Token], before: Token, token: Token, last: bool, expected: Collection[str]
) -> str:
    kind, first = token.kind, statement[0].kind
    if first == "recurrent" and kind in ("in", "∈", "="):
        return "write `recurrent x over u`: x is then one step of the sequence u"
    if kind == "extends" or (kind == "NAME" and token.text == "extends" and first == "block"):
        return "only a `model` can extend another"
    if before.kind == "else" and kind == "if":
        return "write `elseif`"
    if kind == "if":
        return "write `ifelse(condition, a, b)`"
    if kind.isidentifier() and kind == token.text and "NAME" in expected:
        return f"`{kind}` is a keyword and cannot be a name"
    if kind == "DOCSTRING":
        return 'a string takes single quotation marks: "text"'
    if kind == "=" and first in _HEADERS and first != "for":
        return "equality is written `==`"
    return ""


def _by_sign(
    statement: list[Token], before: Token, token: Token, last: bool, expected: Collection[str]
) -> str:
    kind, text = token.kind, token.text
    touching = before.end == token.start
    if touching and before.text == text and text in _DOUBLED:
        return _DOUBLED[text]
    if kind == "=" and touching and before.kind in ("SUM", "PRODUCT", "POWER"):
        return "a name is defined once: there is no updating assignment"
    if kind == "'":
        return _QUOTES
    if kind == "." and before.kind == "INTEGER":
        return f"write `{before.text}.0`"
    if kind == ":":
        return COLON if last else ""
    if kind == ",":
        return COMMA if last else "write each statement on a line of its own"
    if touching and before.kind in ("INTEGER", "FLOAT") and kind in ("NAME", "("):
        return f"a product is always written out: `{before.text}*{text}`"
    return ""


def _by_word(statement: list[Token], before: Token, token: Token) -> str:
    if token.kind not in ("NAME", "INTEGER", "FLOAT", "(", "STRING", ":", "!", "SUM"):
        return ""
    for word in (token.text, before.text, statement[0].text):
        if word in _FOREIGN:
            return _FOREIGN[word]
    if len(statement) == 1 and before.kind == "NAME":
        return _misspelt(before.text)
    if token.kind in ("NAME", "INTEGER", "FLOAT", "STRING") and before.kind in (
        "NAME",
        "INTEGER",
        "FLOAT",
        ")",
        "]",
    ):
        return "an operator or a comma is missing before it"
    return ""


def loses_a_header(statement: list[Token], token: Token) -> bool:
    """Whether this seems to be the header of a block, so that an `end` will be left over."""
    if len(statement) != 1 or statement[0].kind != "NAME" or token.kind != "NAME":
        return False
    word = statement[0].text
    return word in _FOREIGN_BLOCKS or _closest(word) in _BLOCKS


def _misspelt(word: str) -> str:
    close = _closest(word)
    return f"did you mean `{close}`?" if close else ""


def _closest(word: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(word[:40].lower(), _STARTS, 1, 0.7)
    return close[0] if close else ""
