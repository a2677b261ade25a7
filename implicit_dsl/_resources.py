"""Reads the text files that ship with the compiler.

`grammar/` and `codegen/` stand beside the package in a checkout and inside it when
installed; `explain/` is always inside. Plain paths: importing `importlib.resources` would
cost as much as the rest of the command line.
"""

from __future__ import annotations

import os

_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def _home(folder: str) -> str:
    inside = os.path.join(_PACKAGE, folder)
    return inside if os.path.isdir(inside) else os.path.join(os.path.dirname(_PACKAGE), folder)


def read_text(folder: str, name: str) -> str:
    """The text of `folder/name`. Raises FileNotFoundError if it does not ship."""
    with open(os.path.join(_home(folder), name), encoding="utf-8") as file:
        return file.read()


def names(folder: str, suffix: str) -> tuple[str, ...]:
    """The sorted names of the files in `folder` that end in `suffix`."""
    return tuple(sorted(name for name in os.listdir(_home(folder)) if name.endswith(suffix)))
