"""`implicitc show`: the model as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from implicit_dsl.cli import loops
from implicit_dsl.cli.messages import bold, dim, plural, write
from implicit_dsl.cli.options import Parser
from implicit_dsl.cli.table import printable, table, width
from implicit_dsl.shapes import Shape, count, known, show

if TYPE_CHECKING:
    from implicit_dsl.certify import Certified
    from implicit_dsl.model import Block, ImplicitModel

_EXAMPLES = """
implicitc show net.impl
implicitc show net.impl -P n=200
implicitc show net.impl --stage schedule
"""
_HEADER = ("", "name", "shape", "size", "activation", "weights", "parameters", "line", "source")


def main(words: Sequence[str]) -> int:
    """Print each model of a file."""
    parser = Parser(
        "show",
        "List the blocks of each model: shapes, sizes, parameters. Say of each loop why it\n"
        "has a solution and how it is found, and draw which blocks A has.",
        _EXAMPLES,
    )
    parser.file()
    parser.program()
    stages = ("program", "graph", "model", "schedule")
    parser.add_argument("--stage", choices=stages, help="what the compiler makes on the way")
    options = parser.read(words)
    from implicit_dsl.cli.programs import sound

    found = sound(options.file, options)
    if found is None:
        return 1
    if options.stage:
        from implicit_dsl.cli import stages as shown

        write(shown.describe(found, options.stage))
        return 0
    pairs = zip(found.models, found.certified)
    write("\n".join(_page(model, one) for model, one in pairs))
    return 0


def _page(model: ImplicitModel, certified: Certified) -> str:
    given = ", ".join(f"{name} = {value}" for name, value in model.arguments)
    title = bold(printable(f"{model.name}({given})" if given else model.name))
    place = dim(certified.graph.span.where)
    doc = [printable(line) for line in wrap(model.summary, width())]
    blocks = [
        *(_row("input", block, model) for block in model.inputs),
        *_states(model, 0),
        *(_row("output", block, model) for block in model.outputs),
    ]
    listed = table(blocks, _HEADER, right="size weights line", long="parameters source")
    return "\n".join((f"{title}  {place}", *doc, "", listed, "", *_totals(model, certified), ""))


def _states(model: ImplicitModel, depth: int) -> Iterator[tuple[str, ...]]:
    """The states in order; before what a recurrence gives, those of its step, a dot for each level deep."""
    first = {one.gives[0][0]: one for one in model.recurrences}
    for block in model.states:
        if block.name in first:
            yield from _states(first[block.name].step, depth + 1)
        role, name, *rest = _row("step" if depth else "state", block, model)
        yield role, f"{'· ' * depth}{name}", *rest


def _row(role: str, block: Block, model: ImplicitModel) -> tuple[str, ...]:
    ids = () if role == "input" else model.tensor_ids(block.name)
    tensors = {tensor.id: tensor for tensor in model.tensors}
    weights = sum(count(tensors[id].trained) for id in ids if tensors[id].trainable)
    shape = show(block.shape) if block.slots == block.shape else f"{show(block.slots)} → {show(block.shape)}"
    return (
        role if block.declared else "",
        block.name,
        shape,
        _size(block.shape),
        block.phi if block.activation is not None else "",
        f"{weights:,}" if weights else "",
        _grouped(ids),
        (f"{block.file}:" if block.file else "") + (str(block.line) if block.line else ""),
        block.text if block.declared else "",
    )


def _size(shape: Shape) -> str:
    return f"{count(shape):,}" if known(shape) is not None else "_"


def _grouped(ids: Sequence[str]) -> str:
    """`c1_conv.weight .bias`: what holds them is said once."""
    said, last = [], ""
    for id in ids:
        holder, dot, role = id.rpartition(".")
        said.append(f".{role}" if dot and holder == last else id)
        last = holder
    return " ".join(said)


def _totals(model: ImplicitModel, certified: Certified) -> list[str]:
    sizes = ", ".join(
        f"{letter} = {_total([block.shape for block in blocks])}"
        for letter, blocks in (("n", model.states), ("p", model.inputs), ("q", model.outputs))
    )
    slots = _total([block.slots for block in model.states])
    if slots != _total([block.shape for block in model.states]):
        sizes += f", {slots} slots"
    fixed = sum(count(tensor.shape) for tensor in model.tensors if not tensor.trainable)
    buffers = f" and {fixed:,} fixed" if fixed else ""
    steps = list(within(model, certified))
    counted = plural(len(model.states), "state")
    if len(steps) > 1:
        counted += f", and {plural(sum(len(one.states) for one, _ in steps[1:]), 'state')} of each step"
    counted = f"{counted}, {plural(model.parameter_count, 'parameter')}{buffers}"
    head = [f"  {counted}; {sizes}"]
    if not any(one.loops for one, _ in steps):
        return [*head, f"  no loops: solved by substitution, depth {depth(certified)}"]
    said = [line for one, _ in steps for loop in one.loops for line in ("", *loops.paragraph(one, loop))]
    if not model.loops:
        return [*head, "  no loops but in each step", *said]
    return [*head, *loops.order(certified), *said, "", *loops.pattern(model)]


def within(model: ImplicitModel, certified: Certified) -> Iterator[tuple[ImplicitModel, Certified]]:
    """A model, and those of the steps of its recurrences."""
    yield model, certified
    for one, step in zip(model.recurrences, certified.steps):
        yield from within(one.step, step)


def _total(shapes: Sequence[Shape]) -> str:
    if any(known(shape) is None for shape in shapes):
        return "_"
    return f"{sum(map(count, shapes)):,}"


def depth(certified: Certified) -> int:
    """How many states the longest path has."""
    order = {name: number for number, group in enumerate(certified.groups) for name in group.states}
    edges = [e for e in certified.graph.edges if e.source in order and e.target in order]
    longest = dict.fromkeys(order, 1)
    for edge in sorted(edges, key=lambda edge: order[edge.target]):
        assert edge.source is not None
        longest[edge.target] = max(longest[edge.target], longest[edge.source] + 1)
    return max(longest.values(), default=0)
