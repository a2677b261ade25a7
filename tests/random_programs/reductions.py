"""Sums and means over axes, and single numbers that are spread again."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from random_programs.program import Draw, Made, Maker, Makers, RandomProgram, Shape


@st.composite
def _reduce(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """Some axes left out, by an index sum that names the others."""
    left = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1, max_size=len(shape) - 1))
    axes = sorted(set(range(len(shape))) - left)
    letters = "cde"[: len(shape)]
    form = f"b{letters}->b{''.join(letters[axis] for axis in sorted(left))}"
    mean = draw(st.booleans())
    sizes = [shape[axis] for axis in axes]
    factor = 1 / torch.Size(sizes).numel() if mean else 1.0
    named = draw(st.permutations([axis + 1 for axis in axes]))
    dim = str(named[0]) if len(named) == 1 and draw(st.booleans()) else str(list(named))
    return (
        f"{'mean' if mean else 'sum'}({source}; dim = {dim})",
        tuple(shape[axis] for axis in sorted(left)),
        lambda _, values: factor * torch.einsum(form, values[source]),
    )


@st.composite
def _spread(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A number of each sample, of any value, in every entry of another one."""
    other = draw(st.sampled_from(list(program.shapes)))
    ones = [1] * len(shape)
    match draw(st.sampled_from(["added", "times", "centred"])):
        case "added":
            return (
                f"({source} + sum(tanh({other})))",
                shape,
                lambda _, v: v[source] + v[other].tanh().flatten(1).sum(1).reshape(-1, *ones),
            )
        case "times":
            return (
                f"tanh(mean({other}))*{source}",
                shape,
                lambda _, v: v[other].flatten(1).mean(1).tanh().reshape(-1, *ones) * v[source],
            )
    return (
        f"({source} - mean({source}))",
        shape,
        lambda _, v: v[source] - v[source].mean(list(range(1, len(shape) + 1)), keepdim=True),
    )


@st.composite
def _knob(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A number that is trained."""
    name = program.parameter("g", ())
    if draw(st.booleans()):
        return f"({source} + {name})", shape, lambda held, values: values[source] + getattr(held, name)
    return f"{name}*{source}", shape, lambda held, values: values[source] * getattr(held, name)


@st.composite
def _normalise(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """Over the axes behind some, a value is divided by its root mean square."""
    kept = draw(st.integers(1, len(shape) - 1))
    behind = list(range(kept + 1, len(shape) + 1))
    mean = f"mean({source} .^ 2; dim = {behind})"
    return (
        f"({source} ./ expand(sqrt(0.5 + {mean}), {source}))",
        shape,
        lambda _, v: v[source] / (0.5 + v[source].square().mean(behind, keepdim=True)).sqrt(),
    )


MAKERS: Makers = {
    "reduce": Maker(_reduce, axes=(2, 3)),
    "spread number": Maker(_spread),
    "knob": Maker(_knob),
    "normalise": Maker(_normalise, axes=(2, 3)),
}
