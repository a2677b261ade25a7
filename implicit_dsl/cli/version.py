"""`implicitc version`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from implicit_dsl import __version__
from implicit_dsl.cli.messages import write
from implicit_dsl.cli.options import Parser


def main(words: Sequence[str]) -> int:
    """Print the version, and of what it stands on: the first thing that a bug report needs."""
    Parser("version", "Print the version, and those of Python and torch.", "implicitc version").read(words)
    python = ".".join(map(str, sys.version_info[:3]))
    write(f"implicitc {__version__} (Python {python}, torch {_torch()})\n")
    return 0


def _torch() -> str:
    """Its version, without the second that importing it takes."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torch")
    except PackageNotFoundError:
        return "is not installed"
