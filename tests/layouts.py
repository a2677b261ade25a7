"""Programs with their layout shaken: blanks, line breaks and comments at random places that mean nothing."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from implicit_dsl.parse.tables import END_OF_FILE, NEWLINE, language
from implicit_dsl.parse.tokens import CLOSING, CONTINUING, OPENING, STATEMENTS, Token, tokenize

COMMENT = re.compile(r"#=[\s\S]*?=#|#[^\r\n]*")
BREAKS = ("\n", "\n", "\n\n", "\r\n", "\n   \n\t\n")
BLANKS = ("", "", " ", " ", "  ", "     ", "\t")


def comments(text: str) -> list[str]:
    """The comments of a program in their order, without what is blank at the ends of their lines."""
    found: list[str] = []
    end = 0
    for token in [*tokenize(text, language()), Token("", "", len(text), len(text))]:
        found += COMMENT.findall(text, end, max(end, token.start))
        end = max(end, token.end)
    return [re.sub(r"[ \t\f]*(\r\n?|\n)\s*", "\n", comment).rstrip() for comment in found]


def shaken(text: str, chance: random.Random, comment_rate: float = 0.05) -> str:
    """The same program: the same tokens, with other blanks, line breaks and comments between them."""
    tokens = tokenize(text, language())
    made = [_own_lines(chance, comment_rate)]
    depth = 0
    for token, following in zip(tokens, [*tokens[1:], tokens[-1]]):
        if token.kind == END_OF_FILE:
            break
        depth += (token.kind in OPENING) - (token.kind in CLOSING)
        if token.kind == NEWLINE:
            made.append(
                _trailing(chance, comment_rate) + _line_end(chance) + _own_lines(chance, comment_rate)
            )
            continue
        made.append(token.text)
        if following.kind == NEWLINE:
            continue
        free = (
            depth > 0 or (token.kind in CONTINUING and token.kind != ",") or following.kind in ("|>", ".|>")
        )
        if free and following.kind not in STATEMENTS and chance.random() < 0.15:
            made.append(_trailing(chance, 3 * comment_rate) + chance.choice(BREAKS))
            made.append(_own_lines(chance, comment_rate) + chance.choice(BLANKS))
        else:
            glue = token.text[-1].isalnum() and following.text[:1].isalnum()
            blank = chance.choice(BLANKS) or (" " if glue or _touching(token, following) else "")
            if chance.random() < comment_rate / 2:
                blank += chance.choice(("#= in the line =#", "#= over\n  lines =#")) + (blank or " ")
            made.append(blank)
    return "".join(made)


def _touching(token: Token, following: Token) -> bool:
    """Whether two tokens would be read as others without a blank between them."""
    joined = token.text + following.text
    found = tokenize(joined, language())
    words = token.text[-1] in "_" or token.text[-1].isalnum()
    return [one.text for one in found[:2]] != [token.text, following.text] or (
        words and following.text[:1] in '_"'
    )


def _line_end(chance: random.Random) -> str:
    return chance.choice(BREAKS)


def _trailing(chance: random.Random, rate: float) -> str:
    if chance.random() >= rate:
        return ""
    kinds = (
        "  # behind %d",
        "# close %d",
        " #= block %d =#",
        "  #= two %d =# # more",
        " #= over\n   lines %d =#",
    )
    kind = chance.choice(kinds)
    return kind % chance.randrange(1000)


def _own_lines(chance: random.Random, rate: float) -> str:
    made = ""
    while chance.random() < rate:
        text = chance.choice(("# alone %d", "#= block %d =#", "#= over %d\n      lines\n  =#", "#", "#%d  "))
        made += " " * chance.randrange(9) + (text % chance.randrange(1000) if "%" in text else text)
        made += chance.choice(BREAKS)
    return made + " " * chance.randrange(9)


# --------------------------------------------------------------------------- random syntax


def random_source(chance: random.Random) -> str:
    """A text without errors in its syntax. It means nothing."""
    lines = ['"""What it is."""'] if chance.random() < 0.5 else []
    for _ in range(chance.randrange(1, 4)):
        lines += _template(chance) if chance.random() < 0.7 else _statement(chance, 2)
    return "\n".join(lines) + "\n"


def _template(chance: random.Random) -> list[str]:
    rest = ("", "::Int", f" = {_expression(chance, 1)}")
    formals = ", ".join(_name(chance) + chance.choice(rest) for _ in range(2))
    head = f"{chance.choice(('model', 'block'))} {_name(chance)}"
    head += chance.choice(("", f"({formals})", f"({formals}; k = {_expression(chance, 1)})", "(; n)", "()"))
    if head.startswith("model") and chance.random() < 0.3:
        head += " extends Base(n)"
    return [head, *_body(chance, 3), "end"]


def _body(chance: random.Random, depth: int) -> list[str]:
    return [line for _ in range(chance.randrange(5)) for line in _statement(chance, depth)]


def _statement(chance: random.Random, depth: int) -> list[str]:
    def one(levels: int = 3) -> str:
        return _expression(chance, levels)

    def declared() -> str:
        brackets = ("", "[n, _]", f"[1:3][{one(1)}]", "[s in 1:2][c = 3]")
        rest = ("", f" = {one()}", f" ~ {one()}", " in Banded(1, 1)", f" in Sparse() = {one(1)}")
        return _name(chance) + chance.choice(brackets) + chance.choice(rest)

    simple = [
        lambda: f"{_name(chance)} = {one(4)}",
        lambda: f"{_name(chance)}[{one(1)}] ~ {one(4)}",
        lambda: f"f({_name(chance)}) = {one()}",
        lambda: (
            f"{chance.choice(('input', 'output', 'state', 'param', 'layer'))} "
            + ", ".join(declared() for _ in range(chance.randrange(1, 4)))
        ),
        lambda: f"@{_name(chance)} {one()}, k = {one(1)}",
        lambda: f"@{_name(chance)}({one()}; k = {one(1)})",
        lambda: f"@{_name(chance)}",
        lambda: f"open {one(1)}" + chance.choice(("", " as LowRank(2)")),
        lambda: chance.choice(('import "a.impl": A, B as C', "import a.b.c", 'import "b.impl"')),
        lambda: one(),
        lambda: '"""A docstring\n        over lines."""\n' + f"state {_name(chance)}",
    ]
    if depth and chance.random() < 0.3:
        head = chance.choice(
            (
                f"for {_name(chance)} in {one(2)}, j = 1:2",
                f"if {one(2)}",
                f"recurrent x over {one(1)}, y over v",
                f"ode t in {_number(chance)}..{_number(chance)}",
            )
        )
        inner = _body(chance, depth - 1)
        if head.startswith("if") and chance.random() < 0.5:
            inner += [chance.choice((f"elseif {one(2)}", "else")), *_body(chance, depth - 1)]
        return [head, *inner, "end"]
    return [chance.choice(simple)()]


def _name(chance: random.Random) -> str:
    names = ("x", "W", "h1", "κ", "ĥ", "over", "as", "_", "a_rather_long_name_of_a_layer", "Conv", "σ")
    return chance.choice(names)


def _number(chance: random.Random) -> str:
    return chance.choice(("1", "2.5", "1_000", "3e-4", "0"))


def _expression(chance: random.Random, depth: int) -> str:
    """An expression in which all that binds more loosely is in brackets; others may be as well."""
    if depth <= 0:
        return chance.choice((_name(chance), _name(chance), _number(chance), '"text"', "true", "Inf", "∞"))

    def one() -> str:
        return _expression(chance, depth - 1)

    def grouped() -> str:
        made = one()
        return made if re.fullmatch(r"[\w.]+", made) else f"({made})"

    def several() -> str:
        return ", ".join(one() for _ in range(chance.randrange(1, 5)))

    def named() -> str:
        return f"{_name(chance)}{chance.choice(('', '.part', '[1]', chr(39)))}"

    signs = [*"+-**/⊙⋅÷%∘^≥", ".*", ".^", ".+", "<=", "==", "&&", "||", "|>"]
    makers: tuple[Callable[[], str], ...] = (
        lambda: f" {chance.choice(signs)} ".join(grouped() for _ in range(chance.randrange(2, 4))),
        lambda: f" {chance.choice(('+', '*', '|>'))} ".join(grouped() for _ in range(chance.randrange(2, 6))),
        lambda: f"{grouped()} + {grouped()}*{grouped()} - {grouped()} * {grouped()}",
        lambda: f"{named()}({several()})",
        lambda: f"{named()}({several()}; k = {one()}, l = {one()})",
        lambda: f"{named()}.({one()})",
        lambda: f"{named()}[{one()}, :, {grouped()}:{grouped()} + 1]",
        lambda: f"{named()}({one()} for i in {one()}, j = {one()} if {one()})",
        lambda: f"[{one()} for i in {grouped()}]",
        lambda: f"[{several()}]",
        lambda: f"({one()},)",
        lambda: f"({several()}, {one()})",
        lambda: f"(x -> {one()})",
        lambda: f"({grouped()} => {one()})",
        lambda: f"-{grouped()}",
        lambda: f"!{grouped()}",
        lambda: f"{grouped()}'",
        lambda: f"[{', '.join(_number(chance) for _ in range(chance.randrange(40)))}]",
        lambda: f"({grouped()}:-{grouped()}:{grouped()})",
    )
    return chance.choice(makers)()
