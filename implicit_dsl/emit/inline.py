"""What a standalone file carries of the runtime: the source of the functions that it calls.

The runtime is real, tested Python; its definitions are copied with what they refer to.
"""

from __future__ import annotations

import ast

from implicit_dsl import _resources

_HOMES = dict.fromkeys(("ConvReluMaxPool2d", "SingleChannelConv2d", "relu_max_pool2d"), "convolution.py")


def functions(called: set[str]) -> list[str]:
    """The lines that define the called functions, each with all it needs of its own file."""
    lines: list[str] = []
    for home in sorted({_HOMES[name] for name in called}):
        text = _resources.read_text("runtime", home)
        tree = ast.parse(text)
        definitions = {name: node for node in tree.body for name in _names(node)}
        needed = _closure({name for name in called if _HOMES[name] == home}, definitions)
        rows = text.split("\n")
        for node in tree.body:
            if needed.intersection(_names(node)):
                assert node.end_lineno is not None
                start = _with_comment(rows, node.lineno)
                blank = [""] if isinstance(node, ast.Assign) else ["", ""]
                lines += [*blank, *rows[start - 1 : node.end_lineno]]
    return ["", "", "# What these models use of the runtime of implicitc.", *lines] if lines else []


def _names(node: ast.stmt) -> list[str]:
    """The names that a statement of a file defines."""
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
        case _:
            return []


def _closure(wanted: set[str], definitions: dict[str, ast.stmt]) -> set[str]:
    """The wanted definitions, and all that these refer to."""
    needed: set[str] = set()
    waiting = sorted(wanted)
    while waiting:
        name = waiting.pop()
        if name in needed or name not in definitions:
            continue
        needed.add(name)
        waiting += sorted(n.id for n in ast.walk(definitions[name]) if isinstance(n, ast.Name))
    return needed


def _with_comment(rows: list[str], line: int) -> int:
    """The first line (from 1) of the comment directly above a definition."""
    while line > 1 and rows[line - 2].startswith("#"):
        line -= 1
    return line
