"""Documentation and comments of the generated file: text of the user, made harmless and fitted to lines."""

from __future__ import annotations

import textwrap

from implicit_dsl.guarantees import Guarantee
from implicit_dsl.header import one_line
from implicit_dsl.model import Block, ImplicitModel, Loop
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


def comment(block: Block) -> str:
    """Where a state comes from: its line of the source, shortened to fit."""
    text = f"# line {block.line}: {one_line(block.text)}"
    return text if len(text) <= WIDTH - INDENT else text[: WIDTH - INDENT - 1].rstrip() + "…"


def fitted(line: str, remark: str = "", indent: int = INDENT) -> list[str]:
    """A line of a method, broken within its outermost call if it is too long; `remark` stands behind it."""
    if indent + len(line) + len(remark) <= WIDTH or not line.endswith(")"):
        return [line + remark]
    depth = 0
    for at in range(len(line) - 1, -1, -1):
        depth += (line[at] == ")") - (line[at] == "(")
        if depth == 0:
            return [line[: at + 1], f"    {line[at + 1 : -1]}", f"){remark}"]
    return [line + remark]


def called(head: str, tuples: list[list[str]]) -> list[str]:
    """A call with tuples as its arguments, broken as `ruff format` does."""
    texts = [f"({listed[0]},)" if len(listed) == 1 else f"({', '.join(listed)})" for listed in tuples]
    joined = ", ".join(texts)
    if INDENT + len(head) + len(joined) + 2 <= WIDTH:
        return [f"{head}({joined})"]
    if INDENT + 4 + len(joined) <= WIDTH:
        return [f"{head}(", f"    {joined}", ")"]
    lines = [f"{head}("]
    for text, listed in zip(texts, tuples):
        if INDENT + 5 + len(text) <= WIDTH:
            lines.append(f"    {text},")
        else:
            lines += ["    (", *(f"        {item}," for item in listed), "    ),"]
    return [*lines, ")"]


def quoted(text: str) -> str:
    """A string literal as `ruff format` writes it, in double quotes unless that needs escapes."""
    plain = repr(text)
    return f'"{plain[1:-1]}"' if plain[0] == "'" and '"' not in text and "\\'" not in plain else plain


def batched(shape: Shape) -> str:
    """`[batch, 1, 32, 32]`."""
    return "[batch" + "".join(f", {size}" for size in shape) + "]"


def forward_doc(model: ImplicitModel, inputs: dict[str, str]) -> str:
    """`\"\"\"u [batch, 1, 32, 32] -> y [batch, 10]\"\"\"`."""
    left = ", ".join(f"{inputs[block.name]} {batched(block.shape)}" for block in model.inputs)
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
    shapes = max(len(show(block.shape)) for _, block in rows)
    table = []
    for role, block in rows:
        phi = "" if block.activation is None else block.phi
        table.append(f"{role:<6}  {block.name:<{wide}}  {show(block.shape):<{shapes}}  {phi}".rstrip())
    hidden = sum(not block.declared for block in model.states)
    if hidden:
        table.append(f"and {hidden} state{'s' if hidden > 1 else ''} of nested operations")
    table += [f"loop    {{{', '.join(loop.iterated)}}}  {reason(loop, model)}" for loop in model.loops]
    bound = ", ".join(f"{name} = {value}" for name, value in model.arguments)
    built = f"Built for {bound}; " if bound else ""
    closing = textwrap.wrap(f"{built}{model.parameter_count:,} parameters.", WIDTH - 4)
    doc = model.doc.strip("\n") if model.doc else model.name
    return docstring("\n".join([doc, "", *table, "", *closing]), "    ")


def reason(loop: Loop, model: ImplicitModel) -> str:
    """Why a loop has exactly one solution: `its gain is below 1 (at most 0.9): norm(K, Inf) <= 0.9`."""
    rate = f" (at most {loop.rate:.4g})" if loop.rate is not None else ""
    asked = [d.text for d in model.demands.wellposed if d.text and d.criterion not in ("prove", "unchecked")]
    asked = [d for d in asked if loop.guarantee is not Guarantee.UNCHECKED]
    return f"{loop.guarantee.value}{rate}" + (f": {', '.join(asked)}" if asked else "")
