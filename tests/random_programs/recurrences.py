"""A network for each step of a sequence, with what it was one and two steps before."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from random_programs.activations import ACTIVATIONS
from random_programs.drawing import define, expressions
from random_programs.plain import PLAIN
from random_programs.program import Draw, Held, Made, Maker, Makers, RandomProgram, Shape, Values, show


def _start(draw: Draw, program: RandomProgram, shape: Shape) -> tuple[str, str | list[float]]:
    """What a state is before the first step: numbers, or a value around the steps."""
    ways: list[tuple[str, str | list[float]]] = [("", [0.0]), (" = 0.5", [0.5])]
    ways += [(f" = {name}", name) for name in program.of_shape(shape)]
    if len(shape) == 1:
        numbers = [float(k) - 1 for k in range(shape[0])]
        ways.append((f" = {numbers}", numbers))
    return draw(st.sampled_from(ways))


@st.composite
def _recurrent(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """Two states, one of which may be read two steps before, and values that are made on the way."""
    steps, inner = shape[0], shape[1:]
    own = draw(st.sampled_from([inner, (draw(st.integers(1, 4)),)]))
    x, h, g = program.fresh("s"), program.fresh("h"), program.fresh("g")
    lag = draw(st.integers(1, 3))
    before = {f"prev({h})": own, f"prev({g}, {lag})" if lag > 1 else f"prev({g})": inner}
    starts = {h: _start(draw, program, own), g: _start(draw, program, inner)}
    backward = draw(st.booleans())
    body = replace(
        program,
        inputs={},
        lines=[],
        shapes={x: inner, **before, **_outer(draw, program)},
        steps=[],
    )
    for _ in range(draw(st.integers(0, 2))):
        define(draw, body, draw(expressions(body, PLAIN)))
    for name, size in ((h, own), (g, inner)):
        phi = draw(st.sampled_from(["tanh", "softsign", "sigmoid"]))
        read = draw(st.lists(st.sampled_from(body.of_shape(size)), min_size=1, max_size=3, unique=True))
        body.lines.append(f"{name} ~ {phi}({' + '.join(read)})")

        def sum_of(held: Held, values: Values, read: list[str] = read, phi: str = phi) -> Tensor:
            return ACTIVATIONS[phi](torch.stack([values[one] for one in read]).sum(0))

        body.value(name, size, sum_of)
    program.names = body.names
    program.lines += [
        f"recurrent {x} over {f'reverse({source})' if backward else source}",
        f"    state {h}{show(own)}{starts[h][0]}, {g}{show(inner)}{starts[g][0]}",
        *("    " + line for line in body.lines),
        "end",
    ]
    lags = dict(zip(before, (1, lag)))

    def run(held: Held, values: Values) -> Values:
        """The values of all steps, by name."""
        sequence = values[source].flip(1) if backward else values[source]
        past = {
            name: [_first(starts[name][1], values, sequence, size)] * 3
            for name, size in ((h, own), (g, inner))
        }
        rows: list[Values] = []
        for now in sequence.unbind(1):
            local = {**values, x: now}
            for text, name in zip(before, (h, g)):
                local[text] = past[name][-lags[text]]
            for name, step in body.steps:
                local[name] = step(held, local)
            for name in (h, g):
                past[name].append(local[name])
            rows.append(local)
        return {name: torch.stack([row[name] for row in rows], 1) for name, _ in body.steps}

    for name in (name for name, _ in body.steps[:-1] if len(body.shapes[name]) < 3):
        program.value(
            name, (steps, *body.shapes[name]), lambda held, values, name=name: run(held, values)[name]
        )
    program.value(g, shape, lambda held, values: run(held, values)[g])
    match draw(st.sampled_from(["all", "last", "first", "reversed"])):
        case "last":
            return f"last({h})", own, lambda held, values: run(held, values)[h][:, -1]
        case "first":
            index = ", ".join(["1", *":" * len(own)])
            return f"{h}[{index}]", own, lambda held, values: run(held, values)[h][:, 0]
        case "reversed":
            return f"reverse({h})", (steps, *own), lambda held, values: run(held, values)[h].flip(1)
    return h, (steps, *own), lambda held, values: run(held, values)[h]


def _outer(draw: Draw, program: RandomProgram) -> dict[str, Shape]:
    """Values around the steps that these read."""
    names = draw(st.lists(st.sampled_from(list(program.shapes)), max_size=2, unique=True))
    return {name: program.shapes[name] for name in names}


def _first(start: str | list[float], values: Values, like: Tensor, shape: Shape) -> Tensor:
    if isinstance(start, str):
        return values[start]
    return like.new_tensor(start).expand(len(like), *shape)


MAKERS: Makers = {"recurrent": Maker(_recurrent, axes=(2, 3), often=3)}
