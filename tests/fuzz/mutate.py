"""From programs to other programs: by bytes, by tokens, by splices, and from the grammar."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

from fuzz.grammar import drawer
from fuzz.seeds import Corpus, names, parts
from implicit_dsl.operators import ACTIVATIONS

_TOKEN = re.compile(r'"[^"\n]*"|\w+|[^\w\s]+|\s+')
_BYTES = [b"\x00", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\n", b"\t", b'"""', b"#=", b"=#"]
_BYTES += ["κ".encode(), "\u202e".encode(), "\u0301".encode(), "\U0001f600".encode(), b"(", b"[", b"end"]
_VALUES = ["0", "1", "-1", "2", "0.5", "1e400", "2^31", "2^62", "10^9", "Inf", "true", '"a"', "[]", "()"]
_VALUES += ["1:3", "3:-1:1", "_", ":", "[1, 2]", "u", "x", "W", "K", "K'", "0:0", "1:10^6", "NaN"]
_SYNTAX = ["=", "~", "=>", "->", "|>", "..", ",", ";", "\n", "(", ")", "[", "]", ".", "'", "*", ".*", "+"]
_WORDS = ["end", "model", "block", "for", "in", "if", "else", "elseif", "input", "output", "state"]
_WORDS += ["param", "layer", "recurrent", "ode", "open", "import", "extends", "over", "as", "lambda"]
_WORDS += ["__init__", "self", "class", "@wellposed", "@solver", "@backward", "@allow"]


def by_bytes(random: Random, corpus: Corpus) -> bytes:
    """Bytes flipped, dropped, doubled, moved and put in."""
    data = bytearray(random.choice(corpus.texts).encode())
    for _ in range(random.choice((1, 1, 2, 3, 8))):
        at = random.randrange(len(data) + 1)
        span = random.choice((1, 1, 2, 5, 40))
        match random.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << random.randrange(8)
            case 1:
                data[at:at] = random.choice(_BYTES)
            case 2:
                del data[at : at + span]
            case 3:
                data[at:at] = data[at : at + span] * random.choice((1, 2, 50))
            case 4:
                piece = data[at : at + span]
                del data[at : at + span]
                other = random.randrange(len(data) + 1)
                data[other:other] = piece
            case _:
                data[at:at] = random.randbytes(random.choice((1, 1, 4)))
    if random.random() < 0.05:
        del data[random.randrange(len(data) + 1) :]
    return bytes(data)


def by_tokens(random: Random, corpus: Corpus) -> bytes:
    """Tokens dropped, doubled, swapped and replaced by others of the language."""
    tokens: list[str] = _TOKEN.findall(random.choice(corpus.texts))
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        if not tokens:
            break
        at = random.randrange(len(tokens))
        match random.randrange(7):
            case 0:
                del tokens[at]
            case 1:
                tokens.insert(at, tokens[at])
            case 2:
                other = random.randrange(len(tokens))
                tokens[at], tokens[other] = tokens[other], tokens[at]
            case 3:
                tokens[at] = random.choice(_VALUES)
            case 4:
                tokens[at] = random.choice(names())
            case 5:
                tokens.insert(at, random.choice(_SYNTAX))
            case _:
                tokens[at] = random.choice((*_WORDS, *_SYNTAX, random.choice(tokens)))
    return "".join(tokens).encode()


def by_splice(random: Random, corpus: Corpus) -> bytes:
    """An expression, a statement or a block replaced by another of its kind."""
    text = random.choice(corpus.texts)
    for _ in range(random.choice((1, 1, 2, 3))):
        found = parts(text)
        if not found:
            break
        kind, span = random.choice(found)
        match random.random():
            case share if share < 0.6:
                new = random.choice(corpus.pieces[kind])
            case share if share < 0.8 and kind == "expression":
                new = drawer().expression(random)
            case share if share < 0.9 and kind == "expression":
                new = random.choice(_VALUES)
            case _ if kind == "statement":
                new = span.text + "\n" + random.choice(corpus.pieces["statement"])
            case _:
                new = span.text
        text = text[: span.start] + new + text[span.end :]
        if len(text) > 20_000:
            break
    return text.encode()


def by_joining(random: Random, corpus: Corpus) -> bytes:
    """Two programs in one file, or the lines of one in another."""
    first, second = random.choice(corpus.texts), random.choice(corpus.texts)
    if random.random() < 0.4:
        return (first + "\n" + second).encode()
    lines, others = first.splitlines(), second.splitlines()
    at, start = random.randrange(len(lines) + 1), random.randrange(len(others) + 1)
    lines[at:at] = others[start : start + random.randint(1, 8)]
    return "\n".join(lines).encode()


def by_grammar(random: Random, corpus: Corpus) -> bytes:
    """A program that the grammar allows, with nothing to make it meaningful."""
    if random.random() < 0.1:
        return drawer().draw(random, "start", random.randint(20, 34)).encode()
    return drawer().program(random).encode()


def by_wrapping(random: Random, corpus: Corpus) -> bytes:
    """Expressions inside of what mostly keeps their shape, numbers near what they were: often still right."""
    text = random.choice(corpus.right)
    for _ in range(random.choice((1, 1, 2, 4))):
        found = parts(text)
        if not found:
            break
        kind, span = random.choice(found)
        piece = span.text
        if piece.isdecimal() and random.random() < 0.7:
            new = str(max(0, int(piece) + random.choice((-1, 1, 2, 0)))) if len(piece) < 5 else "2"
        elif piece in ACTIVATIONS:
            new = random.choice(list(ACTIVATIONS))
        elif kind == "expression":
            new = random.choice(_WRAPPINGS).format(piece)
        elif kind == "statement" and random.random() < 0.3:
            new = ""
        elif kind == "statement":
            value = random.choice(_WRAPPINGS).format("u")
            new = f"{piece}\n{random.choice(_NEW)} {random.choice('=~')} {value}"
        else:
            continue
        text = text[: span.start] + new + text[span.end :]
    return text.encode()


_NEW = ["new", "new[1]", "output new", "state new[_]", "layer new", "param new[2, 2]", "q(a, b)"]
_WRAPPINGS = [
    *("relu({0})", "tanh({0})", "({0} + {0})", "(2*{0})", "-({0})", "identity({0})", "({0} |> softmax)"),
    *("({0} .* {0})", "sum([{0}, {0}])", "({0})'", "(x -> x)({0})", "chain(relu, tanh)({0})", "({0} / 3)"),
    *("ifelse(true, {0}, 1)", "[{0}][1]", "({0} - 0.5)", "cat({0}, {0})", "flatten({0})", "Dense(4)({0})"),
    *("Conv(2, 1)({0})", "BatchNorm()({0})", "LayerNorm()({0})", "Dropout()({0})", "({0})[1]", "({0})[:]"),
    *(
        "[{0} for i in 1:2]",
        "size({0})",
        "I(4)*{0}",
        "prev({0})",
        "({0}, {0})",
        "AvgPool(1)({0})",
        "{0}; {0}",
    ),
]


WAYS: dict[str, Callable[[Random, Corpus], bytes]] = {
    "bytes": by_bytes,
    "tokens": by_tokens,
    "splice": by_splice,
    "joining": by_joining,
    "wrapping": by_wrapping,
    "grammar": by_grammar,
}
SHARES = {"bytes": 2, "tokens": 3, "splice": 4, "joining": 1, "grammar": 2, "wrapping": 6}


def program(random: Random, corpus: Corpus) -> tuple[str, bytes]:
    """The next program, and the way that it was made."""
    (way,) = random.choices(list(SHARES), list(SHARES.values()))
    return way, WAYS[way](random, corpus)
