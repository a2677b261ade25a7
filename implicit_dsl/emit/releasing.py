"""Large values are let go where they have been read for the last time.

Without gradients nothing else keeps them: memory that is used again is in the cache, and costs no
page faults, so that a network with large images is a quarter faster so.
"""

from __future__ import annotations

import ast

from implicit_dsl.emit.wording import WIDTH
from implicit_dsl.shapes import Shape, known

LARGE = 8192  # numbers in a sample, from which on a value is let go


def is_large(shape: Shape) -> bool:
    """Whether a value of this shape is let go; one whose size is free is."""
    sizes = known(shape)
    if sizes is None:
        return True
    total = 1
    for size in sizes:
        total *= size
    return total >= LARGE


def released(lines: list[str], variables: set[str], indent: int) -> list[str]:
    """The body of a function with a `del` behind the last line that reads each of some variables.

    What the last statements read is let go by returning. `indent` is that of the body.
    """
    if not variables:
        return lines
    body = ast.parse("\n".join(["def body():", *(f"    {line}" for line in lines)])).body[0]
    assert isinstance(body, ast.FunctionDef)
    last: dict[str, int] = {}
    for number, statement in enumerate(body.body):
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and node.id in variables:
                last[node.id] = number
    behind: dict[int, list[str]] = {}
    for name, number in last.items():
        if number < len(body.body) - 2:
            end = body.body[number].end_lineno
            assert end is not None
            behind.setdefault(end - 1, []).append(name)
    made: list[str] = []
    for number, line in enumerate(lines, 1):
        made.append(line)
        names = behind.get(number, [])
        together = f"del {', '.join(names)}"
        if names:
            made += [together] if len(together) + indent <= WIDTH else [f"del {name}" for name in names]
    return made
