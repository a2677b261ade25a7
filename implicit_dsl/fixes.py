"""What mends a program: pieces of its text replaced by others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from implicit_dsl.source import Source, Span


@dataclass(frozen=True, slots=True)
class Edit:
    """A stretch of the source, and what is written there instead. An empty stretch is an insertion."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Fix:
    """A way to mend one finding: all of its edits together. `title` says what they do."""

    title: str
    edits: tuple[Edit, ...]


def replacing(span: Span, text: str, title: str = "") -> tuple[Fix, ...]:
    """The one fix that writes `text` in place of a stretch."""
    if not title:
        title = f"replace `{span.text}` with `{text}`" if text else f"remove `{span.text}`"
    return (Fix(title, (Edit(span, text),)),)


def applied(source: Source, fixes: Iterable[Fix]) -> tuple[str, int]:
    """The text with fixes applied, and how many were. Those that would meet an earlier one are left out."""
    chosen: list[Edit] = []
    count = 0
    for fix in fixes:
        if all(edit.span.source is source for edit in fix.edits) and not _meets(fix.edits, chosen):
            chosen += fix.edits
            count += 1
    text = source.text
    for edit in sorted(chosen, key=lambda edit: edit.span.start, reverse=True):
        text = text[: edit.span.start] + edit.text + text[edit.span.end :]
    return text, count


def _meets(edits: Iterable[Edit], others: Iterable[Edit]) -> bool:
    """Whether any two stretches overlap or touch."""
    spans = [(edit.span.start, edit.span.end) for edit in others]
    return any(edit.span.start <= end and start <= edit.span.end for edit in edits for start, end in spans)
