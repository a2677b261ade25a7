"""The sections of `explain/names.md`, by the names that they are about."""

from __future__ import annotations

from dataclasses import dataclass

from implicit_dsl import _resources


@dataclass(frozen=True, slots=True)
class Section:
    """What is told of some names: the text, and the body of a model that uses them, or ''."""

    names: tuple[str, ...]
    text: str
    example: str


def sections() -> dict[str, Section]:
    """Every section, under each of its names."""
    _, *pieces = _resources.read_text("explain", "names.md").split("\n## ")
    found: dict[str, Section] = {}
    for piece in pieces:
        heading, _, rest = piece.partition("\n")
        text, _, fenced = rest.partition("```impl\n")
        section = Section(tuple(heading.split()), text.strip(), fenced.partition("```")[0].strip())
        found |= dict.fromkeys(section.names, section)
    return found
