"""What goes to standard error: findings, refusals and our own mistakes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from implicit_dsl.errors import Diagnostic

_RED, _CYAN, _BOLD, _DIM, _RESET = "\x1b[1;31m", "\x1b[1;36m", "\x1b[1m", "\x1b[2m", "\x1b[0m"


class Refusal(Exception):  # noqa: N818 (it is raised for a wish, not for a fault)
    """What was asked for cannot be done. `help` says what can."""

    def __init__(self, message: str, help: str = "", code: int = 1) -> None:
        super().__init__(message)
        self.message, self.help, self.code = message, help, code


def coloured(stream: TextIO) -> bool:
    """Whether a stream is a terminal that shows colours, unless the environment says otherwise."""
    said = os.environ.get
    if said("NO_COLOR"):
        return False
    if said("FORCE_COLOR", "0") not in ("", "0") or said("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return said("TERM") != "dumb" and stream is not None and stream.isatty()


def bold(text: str) -> str:
    """A heading on standard output."""
    return f"{_BOLD}{text}{_RESET}" if coloured(sys.stdout) else text


def dim(text: str) -> str:
    """What may be passed over, on standard output."""
    return f"{_DIM}{text}{_RESET}" if coloured(sys.stdout) else text


def write(text: str) -> None:
    """Text on standard output; characters that its encoding lacks are spelled out."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), end="")


def fail(message: str, help: str = "") -> None:
    """`error: …`, and below it what to do."""
    _err(_headed("error", message, help))


def _headed(head: str, message: str, help: str) -> str:
    colour = coloured(sys.stderr)
    lines = [f"{_RED}{head}{_RESET}{_BOLD}: {message}{_RESET}" if colour else f"{head}: {message}"]
    if help:
        mark = f"{_CYAN}={_RESET}" if colour else "="
        indented = help.replace("\n", "\n          ")
        lines.append(f"  {mark} help: {indented}")
    return "\n".join(lines)


def _err(text: str) -> None:
    # a file name may hold bytes that are no text
    print(text.encode("utf-8", "backslashreplace").decode(), file=sys.stderr)


def show_findings(diagnostics: Iterable[Diagnostic], strict: bool = False) -> bool:
    """Print findings and their number; returns whether they are fatal. `strict`: warnings are."""
    from implicit_dsl.errors import MOST_SHOWN, render

    found = list(diagnostics)
    colour = coloured(sys.stderr)
    shown = found
    if len(found) > MOST_SHOWN:
        # an error must not be hidden behind warnings
        shown = sorted(found, key=lambda one: one.severity.value != "error")[:MOST_SHOWN]
    for one in shown:
        if one.span.source.text:
            _err(render(one, colour) + "\n")
        else:
            _err(_headed(f"error[{one.code}]", one.message, one.help) + "\n")
    errors, warnings = tally(found)
    if found:
        hidden = f" (the first {MOST_SHOWN} shown)" if len(found) > MOST_SHOWN else ""
        strictly = ", which `-W error` counts as errors" if strict and warnings else ""
        _err(f"{numbers(errors, warnings)}{strictly}{hidden}")
    return bool(errors or (strict and warnings))


def tally(found: Iterable[Diagnostic]) -> tuple[int, int]:
    """How many are errors, and how many warnings."""
    severities = [one.severity.value for one in found]
    return severities.count("error"), severities.count("warning")


def numbers(errors: int, warnings: int) -> str:
    """`2 errors, 1 warning`."""
    return ", ".join(plural(n, word) for n, word in ((errors, "error"), (warnings, "warning")) if n)


def plural(number: int, word: str) -> str:
    """`1 state`, `61,706 parameters`."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def internal(error: Exception, debug: bool) -> None:
    """Our own mistake: which, and where; the traceback only for those who ask."""
    if debug:
        import traceback

        traceback.print_exception(error)
    stage, line = "cli", 0
    at = error.__traceback__
    while at is not None:
        name = at.tb_frame.f_globals.get("__name__", "")
        if name.startswith("implicit_dsl."):
            stage, line = name.removeprefix("implicit_dsl."), at.tb_lineno
        at = at.tb_next
    said = f": {error}" if str(error) else ""
    advice = "please report it with the program" + ("" if debug else "; `--debug` shows the traceback")
    _err(_headed("internal error", f"{type(error).__name__} in {stage}, line {line}{said}", advice))
