"""The picture of A with the values of its entries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from implicit_dsl.page.figures import number, plural
from implicit_dsl.page.parts import LARGE, Figure, Note, Scale, Section
from implicit_dsl.page.subject import Subject, no_answer, reason
from implicit_dsl.pictures import spy_of, spy_svg
from implicit_dsl.pictures import values as pictures
from implicit_dsl.pictures.lettering import clean
from implicit_dsl.pictures.sheet import lay_out
from implicit_dsl.pictures.spy import Blocks, Spy

_MOST_VALUES = 6_000  # entries that the page tells one by one
_ABOUT = (
    "The rule is x = φ(A x + B u + b), y = C x + D u + d. Row i of A says what state i reads of each state; "
    "the last state stands first, so that all but loops lies above the diagonal."
)


def matrix(subject: Subject) -> Section:
    """A, or why it cannot be drawn."""
    title = "Matrix A"
    if not subject.model.states:
        return Section(
            "matrix", title, _ABOUT, (Note("The model has no states, so that A is empty.", "missing"),)
        )
    try:
        spy = spy_of(subject.model, "A")
    except no_answer() as error:
        return Section("matrix", title, _ABOUT, (Note(reason(error), "missing"),))
    try:
        made = subject.system.A.to_scipy().tocoo()
    except no_answer() as error:
        said = Note(f"Drawn without values: {reason(error)}", "missing")
        return Section("matrix", title, _ABOUT, (said, _figure(spy, spy_svg(spy), None, "")))
    kept = made.data != 0
    rows, cols, values = made.row[kept], made.col[kept], made.data[kept]
    if not len(values):
        return Section("matrix", title, _ABOUT, (Note("A is zero: no state reads a state."),))
    spy = replace(spy, rows=rows, cols=cols)
    scale = pictures.Scale.of(values)
    legend = Scale(number(-scale.most, 3), number(scale.most, 3), True, _range(values, scale.most))
    figure = _figure(spy, pictures.values_svg(spy, values), legend, _caption(spy), values)
    return Section("matrix", title, _ABOUT, (figure,))


def _range(values: np.ndarray, most: float) -> str:
    low, high = float(values.min()), float(values.max())
    beyond = int((np.abs(values) > 1.001 * most).sum())
    more = f"; {plural(beyond, 'entry').replace('entrys', 'entries')} beyond the scale" if beyond else ""
    return f"values from {number(low, 3)} to {number(high, 3)}{more}"


def _caption(spy: Spy) -> str:
    said = "Blue entries are negative, orange ones positive, the stronger the larger; zero is blank."
    if max(spy.n_rows, spy.n_cols) > 1000:
        said += " Where several entries share a point, the largest is shown."
    return said + (" Loops are outlined." if spy.loops else "")


def _figure(
    spy: Spy, svg: str, scale: Scale | None, caption: str, values: np.ndarray | None = None
) -> Figure:
    label = f"{spy.title}: {spy.n_rows} rows, {spy.n_cols} columns, {len(spy.rows)} entries"
    return Figure(
        svg,
        clean(label),
        caption,
        zoomed=True,
        large=lay_out(spy).width > LARGE,
        paper=True,
        scale=scale,
        grid=grid_of(spy, values, ("reads", "×")),
    )


def grid_of(spy: Spy, values: np.ndarray | None, words: tuple[str, str]) -> dict[str, Any]:
    """Where the matrix lies in the picture, its blocks, and its entries if they are few."""
    sheet = lay_out(spy)
    made: dict[str, Any] = {
        "box": [sheet.left, sheet.top, sheet.cols.length, sheet.rows.length],
        "size": [spy.n_rows, spy.n_cols],
        "rows": _named(spy.row_blocks),
        "cols": _named(spy.col_blocks),
        "words": list(words),
    }
    if values is not None and len(values) <= _MOST_VALUES:
        places = (spy.rows.astype(np.int64) * spy.n_cols + spy.cols).tolist()
        made["values"] = {str(at): number(value) for at, value in zip(places, values.tolist())}
    return made


def _named(blocks: Blocks) -> list[list[Any]]:
    return [[clean(name), size] for name, size in blocks]
