"""Random well-shaped programs, each with a twin written in PyTorch by other means.

The twin shares nothing with the compiler: every statement that is drawn appends a line of
`.impl` and a Python closure on `torch.nn` layers of the same names, so that one state_dict
fits both. What can be drawn stands in the `MAKERS` of each file, by its subject.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from random_programs import blocks, control, recurrences
from random_programs.drawing import define, fill, value_input
from random_programs.plain import PLAIN
from random_programs.program import Draw, Makers, RandomProgram, Twin
from random_programs.tokens import token_input

__all__ = ["MAKERS", "RandomProgram", "Twin", "programs", "programs_with"]

MAKERS: Makers = {**PLAIN, **blocks.MAKERS, **control.MAKERS, **recurrences.MAKERS}


@st.composite
def programs(draw: Draw, steps: int = 6) -> RandomProgram:
    """A program with 1 or 2 inputs, a few equations and definitions, and 1 to 3 outputs."""
    program = RandomProgram()
    for name in draw(st.sampled_from([("u",), ("u", "v"), ("t",), ("u", "t")])):
        if name == "t":
            define(draw, program, token_input(draw, program, name))
        else:
            value_input(draw, program, name)
    fill(draw, program, MAKERS, steps)
    return program


@st.composite
def programs_with(draw: Draw, kind: str) -> RandomProgram:
    """A program of one kind of operation, on values that it takes."""
    program, maker = RandomProgram(), MAKERS[kind]
    for name in draw(st.sampled_from([("u",), ("u", "v")])):
        value_input(draw, program, name, maker.axes)
    fill(draw, program, {kind: replace(maker, often=4), "scale": MAKERS["scale"]}, 3)
    return program
