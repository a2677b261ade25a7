"""The blocks of the model as a table, with the values that states take on the data."""

from __future__ import annotations

from implicit_dsl.model import Block
from implicit_dsl.page.figures import number, plural
from implicit_dsl.page.parts import Note, Part, Section, Table
from implicit_dsl.page.subject import Subject, no_answer, reason
from implicit_dsl.page.values import states_on
from implicit_dsl.pictures.lettering import clean
from implicit_dsl.shapes import count, show

_MOST_ROWS = 200
_HEADER = ("state", "shape", "activation", "reads", "loop", "parameters")
_ABOUT = "Each block of x with what stands in its equation, in the order in which they are computed."


def states(subject: Subject) -> Section:
    """A table of inputs, states and outputs."""
    ranges, notes = _ranges(subject)
    header = (*_HEADER, "values on the data", "zero") if ranges else _HEADER
    blocks = [*subject.model.inputs, *subject.model.states, *subject.model.outputs]
    rows = [_row(subject, block, at) for at, block in enumerate(blocks[:_MOST_ROWS])]
    if ranges:
        outer = len(subject.model.inputs)
        named = [
            block.name if outer <= at < outer + len(subject.model.states) else ""
            for at, block in enumerate(blocks)
        ]
        rows = [(*row, *ranges.get(name, ("", ""))) for row, name in zip(rows, named)]
    if len(blocks) > _MOST_ROWS:
        notes.append(Note(f"{len(blocks) - _MOST_ROWS} further blocks are left out.", "plain"))
    right = frozenset({5, 7}) if ranges else frozenset({5})
    listed = Table("Inputs, states and outputs", header, tuple(rows), right).without_empty()
    return Section("states", "States", _ABOUT, (listed, *notes))


def _row(subject: Subject, block: Block, at: int) -> tuple[str, ...]:
    model = subject.model
    name = clean(block.name)
    if at < len(model.inputs):
        kind = "input tokens" if block.tokens else "input"
        return (name, show(block.given), kind, "", "", "")
    state = at < len(model.inputs) + len(model.states)
    reads = dict.fromkeys(term.source or "1" for term in model.terms_of[block.name])
    tensors = {tensor.id: tensor for tensor in model.tensors}
    used = [tensors[id] for id in model.tensor_ids(block.name)]
    trained = sum(count(tensor.trained) for tensor in used if tensor.trainable)
    shape = show(block.shape) if block.slots == block.shape else f"{show(block.slots)} → {show(block.shape)}"
    phi = block.phi if block.activation is not None else "none"
    loop = subject.loop_of.get(block.name, "") if state else ""
    return (
        name,
        shape,
        phi if state else "output",
        clean(", ".join(reads)),
        clean(loop),
        f"{trained:,}" if trained else "",
    )


def _ranges(subject: Subject) -> tuple[dict[str, tuple[str, str]], list[Part]]:
    """The values of each state over the data, and the share of them that is exactly zero."""
    samples = subject.samples
    if samples is None:
        return {}, [Note("Give --data to see which values the states take.", "missing")]
    if not subject.model.states:
        return {}, []
    try:
        found, taken = states_on(subject.system, samples.inputs)
    except no_answer() as error:
        return {}, [Note(f"The values of the states are not known: {reason(error)}", "missing")]
    made = {}
    for name, values in found.items():
        if values.size:
            zero = float((values == 0).mean())
            said = f"{number(float(values.min()), 3)} … {number(float(values.max()), 3)}"
            made[name] = (said, f"{100 * zero:.0f} %" if zero else "")
    return made, [Note(f"Values of {plural(taken, 'sample')}, from the matrices alone.")]
