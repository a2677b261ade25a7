"""What the user is told: diagnostics as data, how they are drawn, and the exception that carries them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeAlias

from implicit_dsl.fixes import Fix
from implicit_dsl.source import Span

MOST_SHOWN = 20  # more errors than this help nobody


class Severity(Enum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Label:
    """A further place in the source, and what is to be seen there."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. `code` has a page under `implicitc explain`.

    `text` is the short label under the carets; `labels` are further places; `notes` say
    why, `help` how to mend it. `path` tells how an instance came to be, outermost last.
    `fixes` are edits of the text; where there is one, `implicitc check --fix` makes it.
    """

    code: str
    message: str
    span: Span
    text: str = ""
    labels: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    help: str = ""
    path: tuple[Label, ...] = ()
    fixes: tuple[Fix, ...] = ()

    @property
    def severity(self) -> Severity:
        return Severity.WARNING if self.code.startswith("W") else Severity.ERROR

    def as_data(self) -> dict[str, Any]:
        """The same as plain data, for `--json`. Lines and columns count from 1."""
        return {
            "code": self.code,
            "severity": self.severity.value,
            "message": self.message,
            "file": self.span.source.name,
            "span": _span_data(self.span),
            "text": self.text,
            "labels": [_label_data(label) for label in self.labels],
            "notes": list(self.notes),
            "help": self.help,
            "path": [_label_data(frame) for frame in self.path],
            "fixes": [_fix_data(fix) for fix in self.fixes],
        }


def _position_data(span: Span, offset: int) -> dict[str, int]:
    line, column = span.source.locate(offset)
    return {"line": line, "column": column, "offset": offset}


def _span_data(span: Span) -> dict[str, Any]:
    return {"start": _position_data(span, span.start), "end": _position_data(span, span.end)}


def _fix_data(fix: Fix) -> dict[str, Any]:
    edits = [
        {"file": edit.span.source.name, "span": _span_data(edit.span), "text": edit.text}
        for edit in fix.edits
    ]
    return {"title": fix.title, "edits": edits}


def _label_data(label: Label) -> dict[str, Any]:
    return {"file": label.span.source.name, "span": _span_data(label.span), "text": label.text}


class ImplicitError(Exception):
    """The program is wrong. `diagnostics` holds every finding, errors and warnings."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n\n".join(render(d) for d in self.diagnostics[:MOST_SHOWN]))


LONGEST_TEXT = 1000  # characters of a message; a name or a list in it may be as long as the program


def _shortened(diagnostic: Diagnostic) -> Diagnostic:
    """The same with every text readable."""

    def short(text: str) -> str:
        return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"

    said = (diagnostic.message, diagnostic.text, diagnostic.help, *diagnostic.notes)
    if all(len(text) <= LONGEST_TEXT for text in said):
        return diagnostic
    message, text, help, *notes = map(short, said)
    return replace(diagnostic, message=message, text=text, help=help, notes=tuple(notes))


def _key(code: str, message: str, span: Span) -> tuple[str, int, int, int, str]:
    return code, id(span.source), span.start, span.end, message[:LONGEST_TEXT]


@dataclass(slots=True)
class Findings:
    """Collects diagnostics while a stage runs; the same finding is kept once."""

    found: list[Diagnostic] = field(default_factory=list)
    _seen: set[tuple[str, int, int, int, str]] = field(default_factory=set)

    def add(self, diagnostic: Diagnostic) -> None:
        diagnostic = _shortened(diagnostic)
        key = _key(diagnostic.code, diagnostic.message, diagnostic.span)
        if key not in self._seen:
            self._seen.add(key)
            self.found.append(diagnostic)

    def knows(self, code: str, message: str, span: Span) -> bool:
        """Whether this was found before, so that nobody needs to look for its remedy again."""
        return _key(code, message, span) in self._seen

    @property
    def errors(self) -> int:
        return sum(d.severity is Severity.ERROR for d in self.found)

    def __iter__(self) -> Iterator[Diagnostic]:
        return iter(self.found)

    def raise_errors(self) -> None:
        """Raise ImplicitError if any finding is an error."""
        if self.errors:
            raise ImplicitError(self.found)


# --------------------------------------------------------------------------- drawing

_COLOURS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "note": "\x1b[1;36m", "bold": "\x1b[1m"}
_RESET = "\x1b[0m"
_TAB = "    "
Paint: TypeAlias = Callable[[str], str]
_WIDEST = 160  # a longer source line is cut around the carets


def render(diagnostic: Diagnostic, colour: bool = False) -> str:
    """Draw a diagnostic as text: message, source lines with carets, notes and help."""

    def paint(text: str, name: str) -> str:
        return f"{_COLOURS[name]}{text}{_RESET}" if colour else text

    severity = diagnostic.severity.value
    head = paint(f"{severity}[{diagnostic.code}]", severity) + paint(f": {diagnostic.message}", "bold")
    main = diagnostic.span
    places = [Label(main, diagnostic.text), *diagnostic.labels]
    here = [p for p in places if p.span.source is main.source]
    elsewhere = [p for p in places if p.span.source is not main.source]
    width = max(len(str(p.span.line)) for p in places)
    margin = " " * width
    lines = [head, f"{margin}{paint('-->', 'note')} {main.where}", f"{margin} {paint('|', 'note')}"]
    lines += _excerpt(here, width, lambda bar: paint(bar, "note"), lambda mark: paint(mark, severity))
    for place in elsewhere:
        lines.append(f"{margin} {paint('::', 'note')} {place.span.where}")
        lines += _excerpt([place], width, lambda bar: paint(bar, "note"), lambda mark: mark, mark="-")
    for note in diagnostic.notes:
        lines.append(_continued(f"{margin} {paint('=', 'note')} note: ", note, width + 9))
    for frame in diagnostic.path:
        lines.append(f"{margin} {paint('=', 'note')} in {frame.text} at {frame.span.where}")
    if diagnostic.help:
        lines.append(_continued(f"{margin} {paint('=', 'note')} help: ", diagnostic.help, width + 9))
    return "\n".join(lines)


def _continued(prefix: str, text: str, indent: int) -> str:
    return prefix + text.replace("\n", "\n" + " " * indent)


def _excerpt(
    places: list[Label], width: int, paint_bar: Paint, paint_mark: Paint, mark: str = "^"
) -> list[str]:
    """The source lines of some places of one file, in order, gaps shown as `...`."""
    first = places[0]
    ordered = sorted(places, key=lambda p: (p.span.line, p.span.column))
    shown: list[str] = []
    previous = None
    for place in ordered:
        line, column = place.span.source.locate(place.span.start)
        if previous is not None and line > previous + 1:
            shown.append(
                "..." if line > previous + 2 else _numbered(place.span, previous + 1, width, paint_bar)
            )
        text, start, length = _visible(place.span, line, column)
        if line != previous:
            shown.append(f"{line:>{width}} {paint_bar('|')} {text}".rstrip())
        carets = (mark if place is first else "-") * length
        carets = paint_mark(carets) if place is first else carets
        shown.append(f"{' ' * width} {paint_bar('|')} {' ' * start}{carets} {place.text}".rstrip())
        previous = line
    return shown


def _numbered(span: Span, line: int, width: int, paint_bar: Paint) -> str:
    return f"{line:>{width}} {paint_bar('|')} {_printable(span.source.line_text(line))}".rstrip()


def _printable(text: str) -> str:
    """Tabs as spaces; control and direction-changing characters made visible."""
    return "".join(
        c if c.isprintable() else (_TAB if c == "\t" else "\N{REPLACEMENT CHARACTER}") for c in text
    )


def _visible(span: Span, line: int, column: int) -> tuple[str, int, int]:
    """The line as shown, where its carets start, and how many there are."""
    first = max(0, column - 1 - _WIDEST)  # a line may be a whole program: what is far away is not read
    raw = span.source.line_text(line, first, 2 * _WIDEST + 1)
    before = _printable(raw[: column - 1 - first])
    inside = _printable(raw[column - 1 - first : column - 1 - first + max(0, span.end - span.start)])
    text = _printable(raw)
    start, length = len(before), max(1, len(inside))
    if first or len(text) > _WIDEST:
        cut = max(0, min(start - _WIDEST // 4, len(text) - _WIDEST))
        more = "…" if cut + _WIDEST < len(text) else ""
        text = ("…" if first or cut else "") + text[cut : cut + _WIDEST] + more
        start = start - cut + (1 if first or cut else 0)
        length = max(1, min(length, _WIDEST - start))
    return text, start, length
