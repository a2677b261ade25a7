"""How evaluation stops: with a diagnostic, or silently where one was given before."""

from __future__ import annotations

from collections.abc import Collection

from implicit_dsl.errors import Diagnostic, Label
from implicit_dsl.fixes import Fix, replacing
from implicit_dsl.names import identifier
from implicit_dsl.source import Span


class Problem(Exception):  # noqa: N818 - the user's, not ours
    """The statement under evaluation is wrong. Caught where statements are run."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


class Poisoned(Exception):  # noqa: N818
    """The value needed is wrong, and that was reported already: one cause, one message."""


class Exhausted(Exception):  # noqa: N818
    """A limit is reached, so that nothing more is resolved. Caught in `resolve` alone."""

    def __init__(self, diagnostic: Diagnostic | None = None) -> None:
        super().__init__("a limit is reached")
        self.diagnostic = diagnostic


def problem(
    code: str,
    message: str,
    span: Span,
    text: str = "",
    *,
    labels: tuple[Label, ...] = (),
    notes: tuple[str, ...] = (),
    help: str = "",
    fixes: tuple[Fix, ...] = (),
) -> Problem:
    """The exception that reports a diagnostic."""
    return Problem(Diagnostic(code, message, span, text, labels, notes, help, fixes=fixes))


def later(what: str, span: Span, help: str = "") -> Problem:
    """A construct of the language whose meaning this version does not have yet."""
    return problem("E0900", f"{what} is not supported in this version", span, help=help)


def too_deep(span: Span) -> Diagnostic:
    """What stands for Python's own limit."""
    return Diagnostic(
        "E0107",
        "this is nested too deeply",
        span,
        "what this is made of is made of other things, again and again",
        help="give names to the parts, and define them before they are used",
    )


def quoted(span: Span, longest: int = 60) -> str:
    """The text of an expression for a message, or `…` if it is long."""
    text = span.text
    return text if len(text) <= longest and "\n" not in text else "…"


def instead(span: Span, meant: str) -> tuple[Fix, ...]:
    """The fix for a word that was misspelt, if it is known what was meant."""
    return replacing(span, meant) if meant else ()


MOST_COMPARED = 5000  # names; suggestions must not take longer than the program


def did_you_mean(name: str, known: Collection[str]) -> str:
    """A name that the user may have meant, or ''. Greek and spelled-out twins come first."""
    import difflib

    if len(known) > MOST_COMPARED or len(name) > 100:
        return ""
    plain = identifier(name)
    for other in known:
        if other != name and identifier(other) == plain:
            return other
    for other in known:
        if len(name) > 1 and other.lower() == name.lower():
            return other
    for other in difflib.get_close_matches(name, known, 3, cutoff=0.6):
        if _distance(name, other) <= max(1, len(name) // 3):
            return other
    return ""


def _distance(left: str, right: str) -> int:
    """How many letters must be changed, added, left out, or change places with the next (Damerau)."""
    above, row = [], list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        above, before, row = row, above, [i]
        for j, b in enumerate(right, 1):
            best = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and b == left[i - 2]:
                best = min(best, before[j - 2] + 1)
            row.append(best)
    return row[-1]
