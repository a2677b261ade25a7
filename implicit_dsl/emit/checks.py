"""What `forward` asks of its inputs: wrong shapes are refused at the door, with the shape that is taken."""

from __future__ import annotations

from collections.abc import Mapping

from implicit_dsl.emit.loops import size_text
from implicit_dsl.emit.wording import batched, fitted
from implicit_dsl.model import ImplicitModel
from implicit_dsl.shapes import Size, known


def checks(model: ImplicitModel, inputs: Mapping[str, str]) -> list[str]:
    """The lines that raise ValueError. `inputs` are the local variables of the inputs."""
    lines: list[str] = []
    for block in model.inputs:
        name = inputs[block.name]
        wrong = [f"{name}.ndim != {len(block.given) + 1}"]
        sizes = known(block.given)
        if sizes:
            wrong.append(f"{name}.shape[1:] != {sizes!r}")
        elif sizes is None:
            wrong += [
                f"{name}.shape[{axis}] != {size}"
                for axis, size in enumerate(block.given, 1)
                if not isinstance(size, Size)
            ]
        lines.append(f"if {' or '.join(wrong)}:")
        message = f"`{block.name}` has shape {{tuple({name}.shape)}}, but must be {batched(block.given)}"
        lines += ["    " + line for line in fitted(f'raise ValueError(f"{message}")')]
        if block.tokens:
            lines.append(f"if {name}.dtype not in (torch.int64, torch.int32):")
            message = f"`{block.name}` holds tokens, of int64 or int32, but is of {{{name}.dtype}}"
            lines += ["    " + line for line in fitted(f'raise ValueError(f"{message}")')]
    for block in model.inputs:
        for axis, size in enumerate(block.given):
            if isinstance(size, Size) and size != Size(block.name, axis):
                lines += _shared_size(inputs, block.name, axis, size)
    first, *others = inputs.values()
    for other in others:
        lines.append(f"if {other}.shape[0] != {first}.shape[0]:")
        lines.append(f'    raise ValueError("`{first}` and `{other}` have batches of different size")')
    return lines


def _shared_size(inputs: Mapping[str, str], name: str, axis: int, size: Size) -> list[str]:
    """An axis whose length follows from a free one of another input."""
    own, other = f"{inputs[name]}.shape[{axis + 1}]", size_text(size, inputs)
    there = f"axis {size.axis + 1} of `{size.source}` is {{{inputs[size.source]}.shape[{size.axis + 1}]}}"
    if size != Size(size.source, size.axis):
        there = f"must be {{{other}}}, as {there}"
    message = f"axis {axis + 1} of `{name}` is {{{own}}}, but {there}"
    return [
        f"if {own} != {other}:",
        *("    " + line for line in fitted(f'raise ValueError(f"{message}")')),
    ]
