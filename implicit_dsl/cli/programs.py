"""Programs named on the command line, read and checked."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from implicit_dsl.cli.messages import Refusal, plural, show_findings
from implicit_dsl.cli.options import USAGE, unique
from implicit_dsl.cli.reading import read
from implicit_dsl.compiler import Checked, check
from implicit_dsl.errors import Diagnostic
from implicit_dsl.files import include_path
from implicit_dsl.unroll import unrolled

if TYPE_CHECKING:
    from implicit_dsl.certify import Certified
    from implicit_dsl.model import ImplicitModel
    from implicit_dsl.source import Source


def checked(file: str, options: Namespace) -> Checked:
    """What the compiler finds in a file, or in standard input. A file that cannot be read is a finding."""
    unique(options.parameters, "-P")  # a mistake of the command line goes first
    source = read(file)
    return Checked((), (source,), (), ()) if isinstance(source, Diagnostic) else found_in(source, options)


def found_in(source: Source, options: Namespace) -> Checked:
    """What the compiler finds in a text, with the options of the command."""
    return check(
        source,
        parameters=unique(options.parameters, "-P"),
        model=options.model,
        include=_include(options),
        pedantic=getattr(options, "pedantic", False),
    )


def _include(options: Namespace) -> tuple[str, ...]:
    """The folders of the include path. Raises Refusal if one of the command line is none."""
    try:
        return include_path(options.include)
    except NotADirectoryError as error:
        raise Refusal(f"`-I {error.filename}`: there is no such folder", code=USAGE) from None


def sound(file: str, options: Namespace) -> Checked | None:
    """The same, with the findings printed; None if there are errors."""
    found = checked(file, options)
    return None if show_findings(found.diagnostics) else found


def only(found: Checked) -> Certified:
    """The one model of a file. Raises Refusal if there are several."""
    if len(found.certified) > 1:
        names = [one.graph.name for one in found.certified]
        listed = ", ".join(f"`{name}`" for name in names)
        raise Refusal(f"there are {len(names)} models: {listed}", f"choose one: `--model {names[0]}`", USAGE)
    return found.certified[0]


def bound(model: ImplicitModel, options: Namespace) -> ImplicitModel:
    """The model for the inputs given by `--size`. Raises Refusal if sizes are still free, or do not fit."""
    shapes: dict[str, tuple[int, ...]] = unique(options.sizes, "--size")  # type: ignore[assignment]
    given = model.step_axes if options.length is not None else ()
    for name, axis in model.free:
        if name not in shapes and (name, axis) not in given:
            if (name, axis) in model.step_axes:
                raise Refusal(
                    f"axis {axis + 1} of `{name}` is free, so the matrices have no size yet",
                    f"give the number of steps, `--length 8`, or its shape, `--size {_example(model, name)}`",
                    USAGE,
                )
            raise Refusal(
                f"axis {axis + 1} of `{name}` is free, so the matrices have no size yet",
                f"give the shape of the input: `--size {_example(model, name)}`",
                USAGE,
            )
    try:
        made = unrolled(model.bind(shapes, options.length))
    except ValueError as error:
        raise Refusal(str(error), code=USAGE) from None
    for block in (*made.inputs, *made.states, *made.outputs):
        if any(isinstance(size, int) and size < 1 for size in (*block.shape, *block.slots)):
            raise Refusal(f"the input is too small: `{block.name}` would be empty", code=USAGE)
    return made


def _example(model: ImplicitModel, name: str) -> str:
    shape = model.blocks[name].given
    return f"{name}=" + ",".join(str(size) if isinstance(size, int) else "32" for size in shape)


def outline(model: ImplicitModel) -> str:
    """`LeNet5: 6 states, 61,706 parameters`."""
    return f"{model.name}: {plural(len(model.states), 'state')}, {plural(model.parameter_count, 'parameter')}"
