"""How evaluation stops: with a diagnostic, or silently where one was given before."""

from __future__ import annotations

from implicit_dsl.errors import Diagnostic, Label
from implicit_dsl.source import Span


class Problem(Exception):
    """The statement under evaluation is wrong. Caught where statements are run."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


class Poisoned(Exception):
    """The value needed is wrong, and that was reported already: one cause, one message."""


def problem(
    code: str,
    message: str,
    span: Span,
    text: str = "",
    *,
    labels: tuple[Label, ...] = (),
    notes: tuple[str, ...] = (),
    help: str = "",
) -> Problem:
    """The exception that reports a diagnostic."""
    return Problem(Diagnostic(code, message, span, text, labels, notes, help))


def later(what: str, span: Span, help: str = "") -> Problem:
    """A construct of the language whose meaning this version does not have yet."""
    return problem("E0900", f"{what} is not supported in this version", span, help=help)


def did_you_mean(name: str, known: list[str]) -> str:
    """A name that the user may have meant, or ''. Greek and spelled-out twins come first."""
    import difflib

    twins = {"κ": "kappa", "λ": "lambda_", "α": "alpha", "β": "beta", "γ": "gamma", "σ": "sigmoid"}
    for greek, spelled in twins.items():
        for ours, theirs in ((greek, spelled), (spelled, greek)):
            if name == ours and theirs in known:
                return theirs
    lowered = [other for other in known if other.lower() == name.lower()]
    if lowered:
        return lowered[0]
    close = difflib.get_close_matches(name, known, 1, cutoff=0.7 if len(name) > 3 else 0.6)
    return close[0] if close else ""
