"""Reads the text files that ship with the compiler.

`grammar/` and `codegen/` stand beside the package in a checkout and inside it when
installed; `explain/` is always inside.
"""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

_PACKAGE = resources.files("implicit_dsl")


def _home(folder: str) -> Traversable:
    inside = _PACKAGE.joinpath(folder)
    if inside.is_dir():
        return inside
    return resources.files("implicit_dsl").joinpath("..", folder)


def read_text(folder: str, name: str) -> str:
    """The text of `folder/name`. Raises FileNotFoundError if it does not ship."""
    return _home(folder).joinpath(name).read_text(encoding="utf-8")


def names(folder: str, suffix: str) -> tuple[str, ...]:
    """The sorted names of the files in `folder` that end in `suffix`."""
    return tuple(sorted(f.name for f in _home(folder).iterdir() if f.name.endswith(suffix)))
