"""Entries that move: slices, concatenation, other shapes and orders."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from random_programs.program import Draw, Made, Maker, Makers, RandomProgram, Shape, count


@st.composite
def _flatten(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    total = count(shape)
    if total % 2 or draw(st.booleans()):
        return f"flatten({source})", (total,), lambda _, values: values[source].flatten(1)
    return (
        f"reshape({source}, 2, {total // 2})",
        (2, total // 2),
        lambda _, values: values[source].reshape(-1, 2, total // 2),
    )


@st.composite
def _cat(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    axis = draw(st.integers(0, len(shape) - 1))
    rest = (shape[:axis], shape[axis + 1 :])
    fitting = [
        n for n, s in program.shapes.items() if len(s) == len(shape) and (s[:axis], s[axis + 1 :]) == rest
    ]
    names = [source, *draw(st.lists(st.sampled_from(fitting), min_size=1, max_size=2))]
    total = sum(program.shapes[name][axis] for name in names)
    text = f"cat({', '.join(names)}; dim = {axis + 1})"
    return (
        text,
        (*rest[0], total, *rest[1]),
        lambda _, values: torch.cat([values[name] for name in names], axis + 1),
    )


@st.composite
def _slice(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    pieces: list[str] = []
    index: list[slice | int] = [slice(None)]
    for number, size in enumerate(shape):
        kind = draw(st.sampled_from(["whole", "range", "one"]))
        if kind == "one" and (number or len(shape) > 1) and len(shape) > 1 and number < len(shape) - 1:
            at = draw(st.integers(1, size))
            pieces.append(str(at))
            index.append(at - 1)
        elif kind == "whole":
            pieces.append(":")
            index.append(slice(None))
        else:
            low = draw(st.integers(1, size))
            high = draw(st.integers(low, size))
            step = draw(st.integers(1, 2))
            pieces.append(f"{low}:{high}" if step == 1 else f"{low}:{step}:{high}")
            index.append(slice(low - 1, high, step))
    sample = torch.zeros(1, *shape)[tuple(index)]
    return (
        f"{source}[{', '.join(pieces)}]",
        tuple(sample.shape[1:]),
        lambda _, values: values[source][tuple(index)],
    )


@st.composite
def _reorder(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    order = draw(st.permutations(range(len(shape))))
    text = f"permute({source}, [{', '.join(str(axis + 1) for axis in order)}])"
    moved = [0, *(axis + 1 for axis in order)]
    return text, tuple(shape[axis] for axis in order), lambda _, values: values[source].permute(moved)


@st.composite
def _expand(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    longer = [name for name, size in program.shapes.items() if size[: len(shape)] == shape]
    like = draw(st.sampled_from(longer))
    behind = program.shapes[like][len(shape) :]
    return (
        f"expand({source}, {like})",
        (*shape, *behind),
        lambda _, values: values[source].reshape(-1, *shape, *[1] * len(behind)).expand(-1, *shape, *behind),
    )


@st.composite
def _join(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """The entries of two values, whatever their shapes."""
    other = draw(st.sampled_from(program.unread()))
    return (
        f"cat(flatten({source}), flatten({other}))",
        (count(shape) + count(program.shapes[other]),),
        lambda _, values: torch.cat([values[source].flatten(1), values[other].flatten(1)], 1),
    )


MAKERS: Makers = {
    "flatten": Maker(_flatten),
    "cat": Maker(_cat),
    "join": Maker(_join),
    "slice": Maker(_slice),
    "reorder": Maker(_reorder, axes=(2, 3)),
    "expand": Maker(_expand),
}
