"""Pictures, diagrams and data: where they go once they are made."""

from __future__ import annotations

import os

from implicit_dsl.cli.messages import Refusal, write
from implicit_dsl.cli.options import USAGE
from implicit_dsl.files import reason, write_whole


def ending(path: str | None, known: dict[str, str], otherwise: str) -> str:
    """The format that a file name asks for. `known` maps endings to formats. Raises Refusal."""
    if path is None or path == "-":
        return otherwise
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in known:
        raise Refusal(f"`{path}` must end in {_or(list(known))}", code=USAGE)
    return known[suffix]


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def deliver(made: str | bytes, target: str | None) -> None:
    """To a file, and say so; without one to standard output. Raises Refusal if that fails."""
    if target is None or target == "-":
        assert isinstance(made, str), "bytes need a file"
        write(made)
        return
    data = made.encode("utf-8") if isinstance(made, str) else made
    try:
        write_whole(target, data)
    except OSError as error:
        raise Refusal(f"`{target}` cannot be written: {reason(error)}") from None
    write(f"wrote {target}\n")
