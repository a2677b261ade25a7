"""Random well-shaped programs, each with a twin written in PyTorch by other means.

The twin shares nothing with the compiler: every statement that is drawn appends a line of
`.impl` and a Python closure on `torch.nn` layers of the same names, so that one state_dict
fits both. What can be drawn stands in the `MAKERS` of each file, by its subject.
"""

from __future__ import annotations

from hypothesis import strategies as st

from random_programs import blocks, control
from random_programs.drawing import define, fill, input_shapes
from random_programs.plain import PLAIN
from random_programs.program import Draw, Makers, RandomProgram, Twin
from random_programs.tokens import token_input

__all__ = ["MAKERS", "RandomProgram", "Twin", "programs"]

MAKERS: Makers = {**PLAIN, **blocks.MAKERS, **control.MAKERS}


@st.composite
def programs(draw: Draw, steps: int = 6) -> RandomProgram:
    """A program with 1 or 2 inputs, a few equations and definitions, and 1 to 3 outputs."""
    program = RandomProgram()
    for name in draw(st.sampled_from([("u",), ("u", "v"), ("t",), ("u", "t")])):
        if name == "t":
            define(draw, program, token_input(draw, program, name))
            continue
        shape = draw(input_shapes())
        program.inputs[name] = program.shapes[name] = shape
        first = program.number(draw, shape[0])
        program.lines.append(f"input {name}[{', '.join([first, *map(str, shape[1:])])}]")
    fill(draw, program, MAKERS, steps)
    return program
