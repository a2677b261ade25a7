"""Reads the text files that ship with the compiler.

`grammar/` and `codegen/` stand beside the package in a checkout and inside it when
installed; `explain/` and `std/` are always inside. Plain paths: importing `importlib.resources` would
cost as much as the rest of the command line.
"""

from __future__ import annotations

import os

_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def folder(name: str) -> str:
    """Where a folder that ships lies."""
    inside = os.path.join(_PACKAGE, name)
    return inside if os.path.isdir(inside) else os.path.join(os.path.dirname(_PACKAGE), name)


def read_text(home: str, name: str) -> str:
    """The text of `home/name`. Raises FileNotFoundError if it does not ship."""
    with open(os.path.join(folder(home), name), encoding="utf-8") as file:
        return file.read()


def names(home: str, suffix: str) -> tuple[str, ...]:
    """The sorted names of the files in `home` that end in `suffix`."""
    return tuple(sorted(name for name in os.listdir(folder(home)) if name.endswith(suffix)))
