"""Operators that move, pick and repeat entries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from strategies.cases import Build, Case, Draw, case, joined, numbers, plain, shapes


def _reshape(draw: Draw) -> Case:
    source = draw(shapes(0, 3))
    targets = [None, source[::-1], (1, *source), (int(np.prod(source)),), (*source, 1, 1)]
    return case(draw, "reshape", {"shape": draw(st.sampled_from(targets))}, source)


def _permute(draw: Draw) -> Case:
    source = draw(shapes(1, 4))
    return case(draw, "permute", {"axes": tuple(draw(st.permutations(range(len(source)))))}, source)


def _select(draw: Draw) -> Case:
    source, slices = draw(shapes(1, 3, size=6)), []
    for size in source:
        first, step = draw(st.integers(0, size - 1)), draw(st.integers(1, 3))
        length = draw(st.integers(1, (size - 1 - first) // step + 1))
        slices.append(draw(st.sampled_from((None, first, (first, step, length)))))
    return case(draw, "select", {"slices": tuple(slices)}, source)


def _place(draw: Draw) -> Case:
    source = draw(shapes())
    axis, start = draw(st.integers(0, len(source) - 1)), draw(st.integers(0, 3))
    total = start + source[axis] + draw(st.integers(0, 3))
    return case(draw, "place", {"axis": axis, "start": start, "total": total}, source)


def _expand(draw: Draw) -> Case:
    source = draw(shapes(0, 2))
    return case(draw, "expand", {"shape": (*source, *draw(shapes(0, 2)))}, source)


def _expand_as(draw: Draw) -> Case:
    source = draw(shapes(0, 2))
    return joined(draw, "expand_as", {}, source, (*source, *draw(shapes(0, 2))))


def _slot(draw: Draw) -> Case:
    several = draw(
        st.one_of(st.lists(shapes(0, 2), min_size=2, max_size=3), shapes(0, 2).map(lambda s: [s] * 3))
    )
    index = draw(st.integers(0, len(several) - 1))
    given = {"index": index, "slots": tuple(several), "empty": draw(st.sampled_from((False, False, True)))}
    return case(draw, "slot", given, several[index])


def _dropout(draw: Draw) -> Case:
    channels = draw(st.booleans())
    source = draw(shapes(2, 4) if channels else shapes(0, 3))
    return case(draw, "dropout", {"p": draw(st.sampled_from((0.0, 0.5))), "channels": channels}, source)


def _over_axes(kind: str) -> Callable[[Draw], Case]:
    def build(draw: Draw) -> Case:
        source = draw(shapes(1, 4))
        axes = draw(st.sets(st.integers(0, len(source) - 1), min_size=1))
        return case(draw, kind, {"axes": tuple(sorted(axes))}, source)

    return build


OWN: dict[str, Build] = {
    "sum": _over_axes("sum"),
    "mean": _over_axes("mean"),
    "dropout": _dropout,
    "scale": plain("scale", factor=numbers()),
    "reshape": _reshape,
    "permute": _permute,
    "select": _select,
    "place": _place,
    "sinusoids": lambda draw: case(
        draw, "sinusoids", {"base": draw(st.sampled_from((10000.0, 3.5)))}, draw(shapes(2, 2, size=5))
    ),
    "expand_as": _expand_as,
    "expand": _expand,
    "slot": _slot,
}
