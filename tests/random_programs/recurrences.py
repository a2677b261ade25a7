"""A network for each step of a sequence, with what it was one and two steps before."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from random_programs.activations import ACTIVATIONS
from random_programs.drawing import define, expressions
from random_programs.plain import PLAIN
from random_programs.program import Draw, Held, Made, Maker, Makers, RandomProgram, Shape, Step, Values, show


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
    limit = _length(draw, program, steps) if draw(st.booleans()) else ""
    over = f"{source}[1:{limit}{', :' * len(inner)}]" if limit else source
    body = replace(
        program,
        inputs={},
        lines=[],
        shapes={x: inner, **before, **_outer(draw, program)},
        steps=[],
        applied=dict(program.applied),  # what is declared among the steps has no name outside of them
        matrices=dict(program.matrices),
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
        f"recurrent {x} over {f'reverse({over})' if backward else over}",
        f"    state {h}{show(own)}{starts[h][0]}, {g}{show(inner)}{starts[g][0]}",
        *("    " + line for line in body.lines),
        "end",
    ]
    lags = dict(zip(before, (1, lag)))

    def walk(held: Held, values: Values, sequence: Tensor) -> Values:
        """The values of all steps, by name; those of no steps are the starts."""
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
        made = {
            name: torch.stack([row[name] for row in rows], 1)
            if rows
            else sequence.new_zeros(len(sequence), 0, *body.shapes[name])
            for name, _ in body.steps
        }
        return {**made, "last": past[h][-1]}

    def run(held: Held, values: Values) -> Values:
        """The same; with a length, sample by sample, each as long as it is."""
        if not limit:
            return walk(held, values, values[source].flip(1) if backward else values[source])
        samples = []
        for number, count in enumerate(values[limit].tolist()):
            alone = {name: value[number : number + 1] for name, value in values.items()}
            sequence = alone[source][:, :count]
            made = walk(held, alone, sequence.flip(1) if backward else sequence)
            last = made.pop("last")
            padded = {name: _padded(value, steps) for name, value in made.items()}
            turned = {"turned": _padded(made[h].flip(1), steps)}
            samples.append({**padded, **turned, "last": last})
        return {name: torch.cat([sample[name] for sample in samples]) for name in samples[0]}

    def value_of(name: str) -> Step:
        return lambda held, values: run(held, values)[name]

    whole = (steps, *own)
    way = draw(st.sampled_from(["all", "last", "first", "reversed"]))
    if limit:  # what ends at a length has it under any name, which the twin does not know: no name for it
        match way:
            case "last":
                return f"last({h})", own, value_of("last")
            case "reversed":
                return (
                    f"tanh(reverse({h}))",
                    whole,
                    lambda held, values: torch.tanh(run(held, values)["turned"]),
                )
        return f"tanh({h})", whole, lambda held, values: torch.tanh(run(held, values)[h])
    for name in (name for name, _ in body.steps[:-1] if len(body.shapes[name]) < 3):
        program.value(name, (steps, *body.shapes[name]), value_of(name))
    program.value(g, shape, value_of(g))
    match way:
        case "last":
            return f"last({h})", own, value_of("last")
        case "first":
            index = ", ".join(["1", *":" * len(own)])
            return f"{h}[{index}]", own, lambda held, values: run(held, values)[h][:, 0]
        case "reversed":
            return f"reverse({h})", whole, lambda held, values: run(held, values)[h].flip(1)
    return h, whole, value_of(h)


def _length(draw: Draw, program: RandomProgram, steps: int) -> str:
    """An input that says how many steps there are."""
    name = program.fresh("k")
    program.lines.append(f"input {name}[] in 0:{program.number(draw, steps)}")
    program.inputs[name], program.tokens[name] = (), steps + 1
    return name


def _padded(sequence: Tensor, steps: int) -> Tensor:
    rest = sequence.new_zeros(len(sequence), steps - sequence.shape[1], *sequence.shape[2:])
    return torch.cat([sequence, rest], 1)


def _outer(draw: Draw, program: RandomProgram) -> dict[str, Shape]:
    """Values around the steps that these read."""
    names = draw(st.lists(st.sampled_from(list(program.shapes)), max_size=2, unique=True))
    return {name: program.shapes[name] for name in names}


def _first(start: str | list[float], values: Values, like: Tensor, shape: Shape) -> Tensor:
    if isinstance(start, str):
        return values[start]
    return like.new_tensor(start).expand(len(like), *shape)


MAKERS: Makers = {"recurrent": Maker(_recurrent, axes=(2, 3), often=3)}
