"""Random programs whose inputs have free sizes: each is refused with a reason, or is its twin at any size."""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from random_programs import RandomProgram, Twin, programs
from test_exactness import QUIET, assert_close, build, outputs, randomise

from implicit_dsl.errors import ImplicitError


@st.composite
def freed(draw: st.DrawFn) -> RandomProgram:
    """A program with `_` in place of some sizes of its inputs; no other line declares a size."""
    program = draw(programs(steps=3))
    lines = []
    for line in program.lines:
        if line.startswith("input "):
            name, _, behind = line.removeprefix("input ").partition("[")
            sizes = program.inputs[name]
            some = [i for i in range(len(sizes)) if draw(st.booleans())] or [len(sizes) - 1]
            shown = ", ".join("_" if i in some else str(size) for i, size in enumerate(sizes))
            line = f"input {name}[{shown}]{behind[behind.rindex(']') + 1 :]}"
        lines.append(line)
    blocks = [re.sub(r"(?<=input \w\[)[\d, _]*(?=\])", _free, line) for line in program.head]
    return replace(program, lines=[_bare(line) for line in lines], head=[_bare(line) for line in blocks])


def _free(sizes: re.Match[str]) -> str:
    """The input of a block takes what it is given."""
    return re.sub(r"\d+", "_", sizes[0])


def _bare(line: str) -> str:
    """A line without the shape that it declares of a state or an output."""
    return re.sub(r"^(\s*)(?:state |(output ))(\w+)\[[\d, ]*\](?= [~=])", r"\1\2\3", line)


@given(freed())
@settings(QUIET, max_examples=100)
def test_free_sizes_are_refused_or_right(program: RandomProgram) -> None:
    try:
        module = build(program.text).Random(dtype=torch.float64).eval()
    except ImplicitError as refused:
        event(f"refused: {refused.diagnostics[0].code}")
        return
    event("taken")
    twin = Twin(program).double().eval()
    randomise(twin)
    have = module.state_dict()
    module.load_state_dict({key: value for key, value in twin.state_dict().items() if key in have})
    inputs = program.given(3)

    expected = twin(*inputs)
    assert_close(expected, outputs(module(*inputs)))
    shapes = dict(zip(program.inputs, program.inputs.values()))
    assert_close(expected, outputs(module.system(**shapes).solve(*inputs)), 1e-11)
