"""Which blocks act on which, and how strongly: a drawing, the strongest paths, and the gain of loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from implicit_dsl.page.drawing import MOST_BLOCKS, drawn
from implicit_dsl.page.figures import number
from implicit_dsl.page.parts import Facts, Figure, Note, Part, Section, Table
from implicit_dsl.page.subject import Subject, no_answer, reason
from implicit_dsl.pictures.lettering import clean

if TYPE_CHECKING:
    from implicit_dsl.analysis import Influence

_ABOUT = (
    "The strength of a block of A, B, C or D is how much the largest entry of what it gives can move when "
    "all entries that it reads move by one: its largest row sum of absolute values."
)
_MOST_PATHS = 12
_MOST_NAMES = 8  # of a path


def influences(subject: Subject) -> Section:
    """The influence graph of the trained model, or why there is none."""
    from implicit_dsl.analysis import influence

    try:
        found = influence(subject.module, shapes=subject.shapes)
        parts = _parts(subject, found)
    except no_answer() as error:
        parts = [Note(reason(error), "missing")]
    return Section("influence", "Influence", _ABOUT, tuple(parts))


def _parts(subject: Subject, found: Influence) -> list[Part]:
    strengths = {
        (source, target): float(of["infinity"]) for source, target, of in found.graph.edges(data=True)
    }
    deep = found.why if found.depth is None else f"{number(found.depth.mean)} states"
    pairs = [("effective depth", deep)]
    pairs += [
        (f"gain of the loop {clean(', '.join(loop.states))}", number(loop.upper)) for loop in found.loops
    ]
    parts: list[Part] = [Facts(tuple(pairs))]
    blocks = len(subject.model.blocks) + len(subject.model.outputs)
    if blocks <= MOST_BLOCKS:
        caption = "Blocks of a loop are outlined, lines that close one are dashed."
        svg = drawn(subject, strengths)
        parts.append(Figure(svg, "Which blocks act on which", caption, zoomed=True, paper=True))
    else:
        parts.append(Note(f"There are {blocks:,} blocks, too many for a drawing.", "missing"))
    rows = tuple((number(one.gain), _path(one.blocks)) for one in found.paths(most=_MOST_PATHS))
    if rows:
        parts.append(Table("The strongest paths", ("gain", "path"), rows))
    return parts


def _path(blocks: tuple[str, ...]) -> str:
    """The blocks of a path in order; of a long one the ends."""
    names = [clean(name) for name in blocks]
    if len(names) > _MOST_NAMES:
        half = _MOST_NAMES // 2
        names = [*names[:half], "…", *names[-half:]]
    return " → ".join(names)
