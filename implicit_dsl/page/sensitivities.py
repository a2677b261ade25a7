"""What outputs can depend on, and how strongly: the sensitivity matrix, its rows and its columns."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from implicit_dsl.model import Block
from implicit_dsl.page.figures import number
from implicit_dsl.page.matrix import grid_of
from implicit_dsl.page.parts import LARGE, Figure, Gallery, Note, Part, Picture, Scale, Section, Table
from implicit_dsl.page.subject import Subject, no_answer, reason
from implicit_dsl.pictures import Spy
from implicit_dsl.pictures import values as pictures
from implicit_dsl.pictures.lettering import clean
from implicit_dsl.pictures.png import data_uri
from implicit_dsl.pictures.sheet import lay_out
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    from implicit_dsl.model import ImplicitModel

_ABOUT = (
    "S = |C| (I − M|A|)⁻¹ M|B| + |D|, with the largest slopes M of the activations: whatever the inputs are, "
    "moving them by |Δu| moves the outputs by at most S |Δu|, which is more than happens near one of them."
)
_MOST_ENTRIES = 2_000_000
_MOST_OUTPUTS = 30
_MOST_INPUTS = 10
_SMALLEST_IMAGE = 3  # pixels of a side
_SHOWN = 112  # pixels of the page, of the longer side of a small picture


def sensitivities(subject: Subject) -> Section:
    """S, or why there is none."""
    from implicit_dsl.analysis import sensitivity

    try:
        S = np.asarray(sensitivity(subject.module, shapes=subject.shapes).matrix)
    except no_answer() as error:
        return Section("sensitivity", "Sensitivity", _ABOUT, (Note(reason(error), "missing"),))
    return Section("sensitivity", "Sensitivity", _ABOUT, tuple(_parts(subject.model, S)))


def _parts(model: ImplicitModel, S: np.ndarray) -> list[Part]:
    parts: list[Part] = []
    if S.size <= _MOST_ENTRIES:
        parts.append(_picture(model, S))
    else:
        said = f"The matrix has {S.shape[0]:,} × {S.shape[1]:,} entries, too many for a picture."
        parts.append(Note(said, "missing"))
    for block, columns in _blocks(model.inputs):
        shape = _image(block)
        if shape is not None:
            parts.append(_gallery(model, block, S[:, columns], shape))
    return [*parts, _by_output(model, S), _by_input(model, S)]


def _blocks(blocks: tuple[Block, ...]) -> list[tuple[Block, slice]]:
    made, start = [], 0
    for block in blocks:
        made.append((block, slice(start, start + count(block.shape))))
        start += count(block.shape)
    return made


def _picture(model: ImplicitModel, S: np.ndarray) -> Figure:
    rows, cols = np.nonzero(S)
    spy = Spy(
        f"S of {model.name}  ·  |Δy| ≤ S |Δu|",
        rows,
        cols,
        S.shape[0],
        S.shape[1],
        tuple((block.name, count(block.shape)) for block in model.outputs),
        tuple((block.name, count(block.shape)) for block in model.inputs),
    )
    values = S[rows, cols]
    label = f"{spy.title}: {S.shape[0]} outputs, {S.shape[1]} inputs"
    caption = (
        "Rows are outputs, columns inputs; blank means that an output does not depend on an input at all."
    )
    return Figure(
        pictures.values_svg(spy, values, pictures.Scale.of(values, proportional=True)),
        clean(label),
        caption,
        zoomed=True,
        large=lay_out(spy).width > LARGE,
        paper=True,
        scale=_scale(values),
        grid=grid_of(spy, values, ("depends on", "by at most")),
    )


def _scale(values: np.ndarray) -> Scale | None:
    if not values.size:
        return None
    said = f"from {number(float(values.min()), 3)} to {number(float(values.max()), 3)} where it is not zero"
    return Scale("0", number(pictures.Scale.of(values).most, 3), False, said)


def _image(block: Block) -> tuple[int, int, int] | None:
    """Channels, height and width of an input that is an image, or None."""
    shape = sizes(block.shape)
    if block.tokens or len(shape) < 2 or min(shape[-2:]) < _SMALLEST_IMAGE:
        return None
    return prod(shape[:-2]), shape[-2], shape[-1]


def _gallery(model: ImplicitModel, block: Block, S: np.ndarray, shape: tuple[int, int, int]) -> Gallery:
    """For each output how strongly it can depend on each place of an image, over channels the largest."""
    images = S.reshape(len(S), *shape).max(1)
    scale = pictures.Scale.of(images, proportional=True)
    names = output_names(model)
    listed = [("any output", images.max(0)), *zip(names, images[:_MOST_OUTPUTS])]
    height, width = shape[1:]
    enlarged = max(1, _SHOWN // max(height, width))
    made = tuple(
        Picture(title, data_uri(pictures.heat_png(image, scale)), width * enlarged, height * enlarged)
        for title, image in listed
    )
    caption = f"How strongly outputs can depend on each place of {clean(block.name)}."
    if shape[0] > 1:
        caption += " Of several channels the largest is shown."
    if len(names) > _MOST_OUTPUTS:
        caption += f" The first {_MOST_OUTPUTS} of {len(names)} outputs."
    return Gallery(made, caption, Scale("0", number(scale.most, 3), False))


def output_names(model: ImplicitModel) -> list[str]:
    """`y[1]`, `y[2]`, …: what each row of S is called."""
    return [name for block in model.outputs for name in _entries(block)]


def _entries(block: Block) -> list[str]:
    shape = sizes(block.shape)
    name = clean(block.name)
    if not shape:
        return [name]
    return [f"{name}[{', '.join(str(one + 1) for one in at)}]" for at in np.ndindex(*shape)]


def _by_output(model: ImplicitModel, S: np.ndarray) -> Table:
    inputs = [name for block in model.inputs for name in _entries(block)]
    rows = []
    for name, row in list(zip(output_names(model), S))[:_MOST_OUTPUTS]:
        at = int(row.argmax()) if row.size else 0
        most = f"{inputs[at]} ({number(float(row[at]), 3)})" if row.size and row[at] else ""
        rows.append((name, number(float(row.sum())), f"{int((row > 0).sum()):,} of {len(row):,}", most))
    header = ("output", "moves by at most, for |Δu| ≤ 1", "depends on", "most on")
    caption = (
        "By output" if len(S) <= _MOST_OUTPUTS else f"By output, the first {_MOST_OUTPUTS} of {len(S):,}"
    )
    return Table(caption, header, tuple(rows), frozenset({1, 2}))


def _by_input(model: ImplicitModel, S: np.ndarray) -> Table:
    names = [name for block in model.inputs for name in _entries(block)]
    strongest = S.max(0, initial=0.0)
    order = np.argsort(-strongest, kind="stable")[:_MOST_INPUTS]
    outputs = output_names(model)
    rows = tuple(
        (names[at], number(float(strongest[at])), outputs[int(S[:, at].argmax())])
        for at in order.tolist()
        if strongest[at] > 0
    )
    idle = int((strongest == 0).sum())
    caption = "Inputs of the largest influence" + (f"; {idle:,} of {len(names):,} have none" if idle else "")
    return Table(caption, ("input", "moves an output by at most", "which"), rows, frozenset({1}))
