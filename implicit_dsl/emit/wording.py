"""Documentation and comments of the generated file: text of the user, made harmless and fitted to lines."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from implicit_dsl.guarantees import Guarantee
from implicit_dsl.header import one_line
from implicit_dsl.model import Block, Holder, ImplicitModel, Loop, Tensor
from implicit_dsl.operators.functions import claims
from implicit_dsl.recurrence import Recurrence
from implicit_dsl.shapes import Shape, show

WIDTH = 110
INDENT = 8  # of a line of a method


def docstring(text: str, indent: str) -> list[str]:
    """A docstring whose text can hold anything: backslashes, quotes, control characters."""
    lines = [_harmless(line) for line in text.strip("\n").split("\n")]
    lines = [line.rstrip() for line in lines]
    if len(lines) == 1:
        return [f'{indent}"""{_closed(lines[0])}"""']
    return [f'{indent}"""{lines[0]}', *(indent + line if line else "" for line in lines[1:]), f'{indent}"""']


def _harmless(line: str) -> str:
    """One line of a docstring. A quote is escaped where three in a row would end the string."""
    return one_line(line).replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def _closed(line: str) -> str:
    """A last line must not run into the closing quotes."""
    return line[:-1] + '\\"' if line.endswith('"') and not line.endswith('\\"') else line


def place(thing: Block | Holder | Tensor | Recurrence[Any]) -> str:
    """`line 9`, or `blocks.impl:9` if it was imported from there."""
    return f"{one_line(thing.file)}:{thing.line}" if thing.file else f"line {thing.line}"


def comment(block: Block | Recurrence[Any]) -> str:
    """Where a state comes from: its line of the source, shortened to fit."""
    text = f"# {place(block)}: {one_line(block.text[:WIDTH])}"
    return text if len(text) <= WIDTH - INDENT else text[: WIDTH - INDENT - 1].rstrip() + "…"


def fitted(line: str, remark: str = "", indent: int = INDENT) -> list[str]:
    """A line, broken within its last brackets if it is too long, as `ruff format` breaks it.

    `remark` stands behind it. The arguments of a call get a line of their own. Each gets one, if
    that is too long as well or a comma stands behind the last of them, as the entries of a tuple do.
    """
    start = _opening(line)
    inner = line[start + 1 : -1]
    parts = _parts(inner)
    is_call = start > 0 and line[start - 1] not in " =(,"
    exploded = inner.endswith(",") and (is_call or len(parts) > 1)
    fits = indent + len(line) + len(remark) <= WIDTH
    if not fits and not exploded:
        *rows, last = _assigned(line, indent) or [""]
        if rows:
            return [*rows, last + remark]
    if start < 0 or (fits and not exploded):
        return [line + remark]
    head, tail = line[: start + 1], line[-1] + remark
    if is_call and indent + 4 + len(inner) <= WIDTH and not exploded:
        return [head, f"    {inner}", tail]
    broken = [f"    {row}" for part in parts for row in fitted(part, ",", indent + 4)]
    return [head, *broken, tail]


def opened(head: str, arguments: Sequence[str], tail: str, indent: int = INDENT) -> list[str]:
    """The head of a function or a loop, `head(arguments)tail`, broken as `ruff format` breaks it."""
    inner = ", ".join(arguments)
    line = f"{head}({inner}){tail}"
    if len(line) + indent <= WIDTH:
        return [line]
    rows = [f"    {inner}"]
    if len(rows[0]) + indent > WIDTH:
        rows = [f"    {argument}," for argument in arguments]
    return [f"{head}(", *rows, f"){tail}"]


def _assigned(line: str, indent: int) -> list[str]:
    """An assignment whose value is better not broken within its last brackets; [] if it is, or is none."""
    target, sign, value = line.partition(" = ")
    if not sign or not target.replace(": Tensor", "").replace(".", "").isidentifier():
        return []
    inside = [f"{target} = (", f"    {value}", ")"] if indent + 4 + len(value) <= WIDTH else []
    pairs, operators = _outermost(value)
    methods = _methods(value, pairs)
    if len(methods) > 2 and not operators:
        cuts = zip(methods, [*methods[1:], len(value)])
        rows = [row for a, b in cuts for row in fitted(value[a:b], indent=indent + 4)]
        return inside or [f"{target} = (", *(f"    {row}" for row in rows), ")"]
    if len(operators) > 1:
        cuts = zip([0, *operators], [*operators, len(value) + 1])
        return inside or [f"{target} = (", *(f"    {value[a : b - 1]}" for a, b in cuts), ")"]
    if operators and not value.endswith(")"):
        return inside
    for a, b in _chain(value, pairs):
        if indent + len(f"{target} = ") + a < WIDTH:
            rows = [f"{target} = {value[: a + 1]}", f"    {value[a + 1 : b]}", value[b:]]
            short = max(map(len, rows)) + indent <= WIDTH
            return rows if short and b < len(value) - 1 else []
    return inside


def _outermost(text: str) -> tuple[list[tuple[int, int]], list[int]]:
    """The brackets of a text that stand in no others, and where the loosest of its signs do that."""
    pairs: list[tuple[int, int]] = []
    sums: list[int] = []
    products: list[int] = []
    depth = start = 0
    for at, letter in _outside_of_strings(text):
        if letter in "([{":
            start, depth = start if depth else at, depth + 1
        elif letter in ")]}":
            depth -= 1
            if not depth:
                pairs.append((start, at))
        elif not depth and letter in "+-*/" and text[at - 1 : at] == " " and text[at + 1 : at + 2] == " ":
            (sums if letter in "+-" else products).append(at)
    return pairs, sums or products


def _methods(text: str, pairs: list[tuple[int, int]]) -> list[int]:
    """Where the parts of a chain of calls begin: the first at 0, the others at the dots behind brackets."""
    return [0, *(b + 1 for _, b in pairs if text[b + 1 : b + 2] == ".")]


def _chain(text: str, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The brackets at the end of a text that follow one another, the last first: `f(x)[:, 0].mean(1)`."""
    found: list[tuple[int, int]] = []
    end = len(text)
    for a, b in reversed(pairs):
        if re.fullmatch(r"(\.\w*)*", text[b + 1 : end]):
            found.append((a, b))
            end = a
        else:
            break
    return found


def _opening(line: str) -> int:
    """Where the bracket opens that closes at the end of a line; -1 if none does."""
    opened: list[int] = []
    for at, letter in _outside_of_strings(line):
        if letter in "([{":
            opened.append(at)
        elif letter in ")]}":
            start = opened.pop()
            if at == len(line) - 1:
                return start
    return -1


def _parts(text: str) -> list[str]:
    """What stands between the commas of a text, but not those in its brackets."""
    found, start, depth = [], 0, 0
    for at, letter in _outside_of_strings(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            found.append(text[start:at].strip())
            start = at + 1
    return [*found, *([text[start:].strip()] if text[start:].strip() else [])]


def _outside_of_strings(text: str) -> Iterator[tuple[int, str]]:
    """The letters of Python that are not in a string, with their places."""
    quote, escaped = "", False
    for at, letter in enumerate(text):
        if quote:
            if letter == quote and not escaped:
                quote = ""
            escaped = letter == "\\" and not escaped
        elif letter in "\"'":
            quote = letter
        else:
            yield at, letter


def called(head: str, tuples: list[list[str]]) -> list[str]:
    """A call with tuples as its arguments."""
    texts = [f"({', '.join(listed)}{',' * (len(listed) == 1)})" for listed in tuples]
    return fitted(f"{head}({', '.join(texts)})")


def quoted(text: str) -> str:
    """A string literal as `ruff format` writes it, in double quotes unless that needs escapes."""
    plain = repr(text)
    return f'"{plain[1:-1]}"' if plain[0] == "'" and '"' not in text and "\\'" not in plain else plain


def batched(shape: Shape) -> str:
    """`[batch, 1, 32, 32]`."""
    return "[batch" + "".join(f", {size}" for size in shape) + "]"


def forward_doc(model: ImplicitModel, inputs: dict[str, str]) -> str:
    """`\"\"\"u [batch, 1, 32, 32] -> y [batch, 10]\"\"\"`."""
    left = ", ".join(f"{inputs[block.name]} {batched(block.given)}" for block in model.inputs)
    right = ", ".join(f"{block.name} {batched(block.shape)}" for block in model.outputs)
    text = f'"""{left} -> {right}"""'
    return (
        text
        if len(text) <= WIDTH - 8
        else '"""Compute the outputs; each tensor has a batch axis in front."""'
    )


def class_doc(model: ImplicitModel) -> list[str]:
    """The documentation of the model, its blocks, and what it was built for."""
    rows = [("input", block) for block in model.inputs]
    rows += [("state", block) for block in model.states if block.declared]
    rows += [("output", block) for block in model.outputs]
    wide = max(len(block.name) for _, block in rows)
    shapes = max(len(show(block.given)) for _, block in rows)
    table = []
    for role, block in rows:
        said = "" if block.activation is None else block.phi
        said = tokens_of(block) if block.tokens else said
        table.append(f"{role:<6}  {block.name:<{wide}}  {show(block.given):<{shapes}}  {said}".rstrip())
    hidden = sum(not block.declared for block in model.states)
    if hidden:
        table.append(f"and {hidden} state{'s' if hidden > 1 else ''} of nested operations")
    table += [f"loop    {{{', '.join(loop.iterated)}}}  {reason(loop, model)}" for loop in model.loops]
    bound = ", ".join(f"{name} = {value}" for name, value in model.arguments)
    built = f"Built for {bound}; " if bound else ""
    closing = textwrap.wrap(f"{built}{model.parameter_count:,} parameters.", WIDTH - 4)
    doc = model.doc.strip("\n") if model.doc else model.name
    return docstring("\n".join([doc, "", *table, "", *closing]), "    ")


def tokens_of(block: Block) -> str:
    """What an input of tokens holds."""
    (vocab,) = block.shape[-1:]
    return f"tokens below {vocab:,}" if isinstance(vocab, int) else "a number of steps"


def reason(loop: Loop, model: ImplicitModel) -> str:
    """Why a loop has exactly one solution: `its gain is below 1 (at most 0.9): norm(K, Inf) <= 0.9`."""
    rate = f" (at most {loop.rate:.4g})" if loop.rate is not None else ""
    asked = [d.text for d in model.demands.wellposed if d.text and d.criterion not in ("prove", "unchecked")]
    asked = [d for d in asked if loop.guarantee is not Guarantee.UNCHECKED]
    rests = claims(model.blocks[name].activation for name in loop.states)
    claimed = f", if {' and '.join(rests)} as claimed" if rests else ""
    return f"{loop.guarantee.value}{rate}" + (f": {', '.join(asked)}" if asked else "") + claimed
