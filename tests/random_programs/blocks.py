"""Blocks of the program: each is a random program of its own, and its instances may be used again."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from random_programs.activations import ACTIVATIONS
from random_programs.drawing import fill
from random_programs.plain import PLAIN
from random_programs.program import Draw, Made, Maker, Makers, Part, RandomProgram, Shape, Step


def _written(draw: Draw, program: RandomProgram, given: list[str]) -> tuple[str, RandomProgram]:
    """A block that takes values of these shapes, at the top of the file."""
    inner = RandomProgram(head=program.head, depth=program.depth + 1)
    for letter, value in zip("pq", given):
        shape = program.shapes[value]
        inner.inputs[letter] = inner.shapes[letter] = shape
        sizes = ", ".join(draw(st.sampled_from(["_", str(size)])) for size in shape)
        inner.lines.append(f"input {letter}[{sizes}]")
    inner.settings |= {"k": 1.0, "act": "tanh"}
    inner.lines.append("s = k*act(p)")
    inner.value("s", inner.shapes["p"], lambda held, values: held.k * held.act(values["p"]))
    fill(draw, inner, {**PLAIN, **(MAKERS if inner.depth < 2 else {})}, 3)
    name = program.outside("Block")
    program.head.extend(inner.written(f"block {name}"))
    return name, inner


def _instance(draw: Draw, program: RandomProgram, given: list[str]) -> str:
    """A new instance of a new block, with its weights in the program."""
    block, inner = _written(draw, program, given)
    settings: dict[str, Any] = {"k": 1.0, "act": ACTIVATIONS["tanh"]}
    arguments = ""
    if draw(st.booleans()):
        settings["k"] = draw(st.sampled_from([0.5, -1.5]))
        arguments = program.number(draw, settings["k"])
    if draw(st.booleans()):
        act = draw(st.sampled_from(sorted(ACTIVATIONS)))
        settings["act"] = ACTIVATIONS[act]
        arguments += f"; act = {act}"
    name = program.fresh("B")
    program.lines.append(f"layer {name} = {block}({arguments})")
    program.layers |= {f"{name}_{own}": make for own, make in inner.layers.items()}
    program.parameters |= {f"{name}_{own}": shape for own, shape in inner.parameters.items()}
    program.made |= {f"{name}_{own}": matrix for own, matrix in inner.made.items()}
    program.instances[name] = (inner, settings)
    return name


@st.composite
def _block(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A block with one or two inputs and outputs, whose instance may be there already."""
    fitting = [
        name
        for name, (inner, _) in program.instances.items()
        if next(iter(inner.inputs.values())) == shape
        and all(size in program.shapes.values() for size in inner.inputs.values())
    ]
    if fitting and draw(st.booleans()):
        name = draw(st.sampled_from(fitting))
        _, *others = program.instances[name][0].inputs.values()
        given = [source, *(draw(st.sampled_from(program.of_shape(size))) for size in others)]
    else:
        given = [source, *draw(st.lists(st.sampled_from(list(program.shapes)), max_size=1))]
        name = _instance(draw, program, given)
    inner, settings = program.instances[name]

    def step(number: int) -> Step:
        return lambda held, values: inner.run(
            Part(held, name, **settings), tuple(values[value] for value in given)
        )[number]

    text = f"{name}({', '.join(given)})"
    if len(inner.outputs) == 1:
        return text, inner.shapes[inner.outputs[0]], step(0)
    several = program.fresh("o")
    program.lines.append(f"{several} = {text}")
    for number, output in enumerate(inner.outputs):
        program.value(f"{several}.{output}", inner.shapes[output], step(number))
    chosen = draw(st.integers(0, len(inner.outputs) - 1))
    output = inner.outputs[chosen]
    return f"{several}.{output}", inner.shapes[output], step(chosen)


MAKERS: Makers = {"block": Maker(_block, often=4)}
