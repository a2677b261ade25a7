"""What is decided and unrolled while compiling: families, loops, comprehensions, conditionals."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from random_programs.arithmetic import Formulas
from random_programs.drawing import expressions
from random_programs.plain import PLAIN
from random_programs.program import Draw, Held, Made, Maker, Makers, RandomProgram, Shape, Values, show

Condition = tuple[str, bool]


@st.composite
def _chain(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A family of layers or matrices, applied one behind the other, and what is made of the members."""
    length, width = draw(st.integers(1, 3)), shape[-1]
    h, K = program.fresh("h"), program.fresh("K")
    last = program.number(draw, length)
    kind = draw(st.sampled_from(["layer", "matrix"]))
    if kind == "layer":
        program.lines.append(f"layer {K}[i in 1:{last}] = Dense({width})")
        program.layers |= {f"{K}_{i}": lambda: nn.Linear(width, width) for i in range(1, length + 1)}
    else:
        program.lines.append(f"param {K}[1:{last}][{width}, {width}] = normal(0.5)")
        program.parameters |= {f"{K}_{i}": (width, width) for i in range(1, length + 1)}
        program.matrices |= {f"{K}[{i}]": f"{K}_{i}" for i in range(1, length + 1)}
    factor = draw(st.sampled_from(["", "(1 / i)*"]))
    program.lines += [
        f"{h}[0] = {source}",
        f"for i in 1:{last}",
        f"    {h}[i] {draw(st.sampled_from(['~', '=']))} tanh({factor}({K}[i]*{h}[i - 1]))",
        "end",
    ]
    program.value(f"{h}[0]", shape, lambda _, values: values[source])
    for i in range(1, length + 1):

        def run(held: Held, values: Values, i: int = i) -> Tensor:
            made, before = getattr(held, f"{K}_{i}"), values[f"{h}[{i - 1}]"]
            moved = made(before) if kind == "layer" else before @ made.T
            return torch.tanh(moved / i if factor else moved)

        program.value(f"{h}[{i}]", shape, run)
    members = [f"{h}[{i}]" for i in range(length + 1)]
    match draw(st.sampled_from(["last", "sum", "cat", "mean", "weighed"])):
        case "sum":
            text = f"sum({h}[i] for i in 0:{last})"
            return text, shape, lambda _, v: torch.stack([v[name] for name in members]).sum(0)
        case "mean":
            text = f"mean([{h}[i] for i in 0:{last}])"
            return text, shape, lambda _, v: torch.stack([v[name] for name in members]).mean(0)
        case "weighed":
            text = f"sum([i*{h}[i] for i in 0:{last} if i % 2 == 1])"
            odd = [(i, name) for i, name in enumerate(members) if i % 2]
            return text, shape, lambda _, v: torch.stack([i * v[name] for i, name in odd]).sum(0)
        case "cat":
            axis = draw(st.integers(1, len(shape)))
            text = f"cat([{h}[i] for i in 0:{last}]; dim = {axis})"
            target = (*shape[: axis - 1], (length + 1) * shape[axis - 1], *shape[axis:])
            return text, target, lambda _, v: torch.cat([v[name] for name in members], axis)
    return f"{h}[{last}]", shape, lambda _, values: values[members[-1]]


@st.composite
def _comprehension(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A formula for several numbers, and values of a family with labels of two axes or words."""
    text, value = Formulas(draw, [source]).growing(draw(st.integers(1, 2)))
    numbers = draw(st.lists(st.sampled_from([0.5, -1.0, 2.0, -0.25]), min_size=1, max_size=3))
    if draw(st.booleans()):
        made = f"sum(k*{text} for k in {numbers})"
        return made, shape, lambda _, values: sum(numbers) * value(values)
    e = program.fresh("e")
    words = ["left", "right"]
    program.lines += [
        f'for k in 1:{len(numbers)}, side in ["left", "right"]',
        f"    t = {numbers}[k]*{text}",
        f'    {e}[k, side] = ifelse(side == "left", t, tanh(t))',
        "end",
    ]
    for k, number in enumerate(numbers, 1):
        left, right = (f'{e}[{k}, "{word}"]' for word in words)
        program.value(left, shape, lambda _, values, number=number: number * value(values))
        program.value(right, shape, lambda _, values, number=number: torch.tanh(number * value(values)))
    word = draw(st.sampled_from(words))
    names = [f'{e}[{k}, "{word}"]' for k in range(1, len(numbers) + 1)]
    made = f'max({e}[1, "{word}"], sum({e}[k, "{word}"] for k in 1:{len(numbers)}))'
    return made, shape, lambda _, v: torch.maximum(v[names[0]], torch.stack([v[n] for n in names]).sum(0))


def _condition(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Condition:
    """Something that is known while compiling."""
    size, axis = shape[0], draw(st.integers(1, len(shape)))
    number = program.number(draw, size)
    conditions: list[Condition] = [
        (f"size({source}, {axis}) == {shape[axis - 1]}", True),
        (f"!(size({source}, 1) > {number})", True),
        (f"size({source}, 1) < {number} || {number} != {size}", False),
        (f"0 < {number} <= {size} && size({source}) == {show(shape)}", True),
        (f"{number} in [{size + 1}, {size + 2}]", False),
        (f"length(size({source})) > {len(shape)}", False),
    ]
    return draw(st.sampled_from(conditions))


@st.composite
def _branch(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """Two ways to define a value, of which one is taken."""
    text, taken = _condition(draw, program, source, shape)
    name, start = program.fresh("c"), len(program.lines)
    aside = replace(  # what the other way makes is of no concern to anything else
        program,
        **{
            key: type(held)(held)
            for key, held in vars(program).items()
            if isinstance(held, (dict, list, set)) and key != "head"
        },
    )
    other, _, _ = draw(expressions(aside, PLAIN))
    program.names = aside.names
    made, target, step = draw(expressions(program, PLAIN))
    ways = [[*program.lines[start:], f"{name} = {made}"], [*aside.lines[start:], f"{name} = {other}"]]
    first, second = ways if taken else ways[::-1]
    del program.lines[start:]
    program.lines += [f"if {text}", *("    " + line for line in first)]
    if draw(st.booleans()):
        program.lines += [f"elseif {'true' if taken else 'false'} && !({text})", f"    {name} = {source}"]
    program.lines += ["else", *("    " + line for line in second), "end"]
    return name, target, step


@st.composite
def _choice(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """One of two formulas."""
    text, taken = _condition(draw, program, source, shape)
    formulas = Formulas(draw, program.of_shape(shape))
    (one, a), (other, b) = formulas.growing(2), formulas.growing(1)
    return f"ifelse({text}, {one}, {other})", shape, lambda _, values: (a if taken else b)(values)


MAKERS: Makers = {
    "chain": Maker(_chain, often=2),
    "comprehension": Maker(_comprehension),
    "branch": Maker(_branch, often=2),
    "choice": Maker(_choice),
}
