"""Operators of the time of an `ode`."""

from __future__ import annotations

from hypothesis import strategies as st

from implicit_dsl.clock import at
from strategies.cases import Build, Case, Draw, case, numbers, shapes


def _timed(kind: str) -> Build:
    """A number of the time at a time that is known: a sum, a difference or a product of numbers."""

    def build(draw: Draw) -> Case:
        left, right = draw(numbers()), draw(numbers())
        number = (draw(st.sampled_from("+-*")), ("sin", left), right)
        source = draw(shapes(0, 3))
        settings = {"number": number, "largest": abs(at(number, 0.0, 0.0)), "shape": source}
        return case(draw, kind, settings, source if kind == "timed_scale" else ())

    return build


OWN: dict[str, Build] = {kind: _timed(kind) for kind in ("timed_scale", "timed_constant")}
