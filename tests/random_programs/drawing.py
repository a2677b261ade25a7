"""How a program is drawn: its inputs, then one value after another, and its outputs."""

from __future__ import annotations

from hypothesis import strategies as st

from random_programs.activations import ACTIVATIONS
from random_programs.program import Draw, Made, Makers, RandomProgram, Shape, show


def value_input(draw: Draw, program: RandomProgram, name: str, axes: tuple[int, ...] = (1, 2, 3)) -> None:
    """A vector, signal or image."""
    small = st.integers(1, 4)
    shapes: dict[int, st.SearchStrategy[Shape]] = {
        1: st.tuples(st.integers(1, 6)),
        2: st.tuples(small, st.integers(3, 8)),
        3: st.tuples(small, st.integers(4, 8), st.integers(4, 8)),
    }
    shape = draw(shapes[draw(st.sampled_from(axes))])
    program.inputs[name] = program.shapes[name] = shape
    sizes = [program.number(draw, shape[0]), *map(str, shape[1:])]
    program.lines.append(f"input {name}[{', '.join(sizes)}]")


@st.composite
def expressions(draw: Draw, program: RandomProgram, makers: Makers) -> Made:
    """One operation on values that exist already."""
    names = list(program.shapes)
    source = draw(st.sampled_from([*program.unread(), *program.unread(), *names]))
    shape = program.shapes[source]
    fitting = [maker for maker in makers.values() if len(shape) in maker.axes for _ in range(maker.often)]
    return draw(draw(st.sampled_from(fitting)).build(program, source, shape))


def define(draw: Draw, program: RandomProgram, made: Made) -> str:
    """Enter a value as an equation with or without a declared shape, or as a definition."""
    expression, shape, step = made
    relation = draw(st.sampled_from(["declared", "~", "="]))
    name = program.fresh("x")
    activation = draw(st.sampled_from(list(ACTIVATIONS)))
    phi = ACTIVATIONS[activation]
    if relation == "=" and draw(st.booleans()):
        program.lines.append(f"{name} = {expression}")
        return program.value(name, shape, step)
    head = {"declared": f"state {name}{show(shape)} ~", "~": f"{name} ~", "=": f"{name} ="}[relation]
    program.lines.append(f"{head} {activation}({expression})")
    return program.value(name, shape, lambda held, values: phi(step(held, values)))


def fill(draw: Draw, program: RandomProgram, makers: Makers, steps: int) -> None:
    """A few equations and definitions, and 1 to 3 outputs."""
    for _ in range(draw(st.integers(1, steps))):
        define(draw, program, draw(expressions(program, makers)))
    for source in draw(st.lists(st.sampled_from(program.unread()), min_size=1, max_size=3, unique=True)):
        name = program.fresh("y")
        program.lines.append(f"output {name}{show(program.shapes[source])} = {source}")
        program.value(name, program.shapes[source], lambda _, values, source=source: values[source])
        program.outputs.append(name)
