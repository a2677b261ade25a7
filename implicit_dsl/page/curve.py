"""Accuracy over the radius of disturbances, as a drawing: between what is proved and what was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from implicit_dsl.page.figures import number
from implicit_dsl.pictures.lettering import markup
from implicit_dsl.pictures.spacing import spread

_WIDTH, _HEIGHT = 560, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 104, 18, 58  # around the axes; names of curves stand at the right
_TEXT = 14
_LINE = 18.0
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares of samples: classified rightly as they are, proved to stay so, and still right under attack."""

    epsilon: float
    clean: float
    certified: float
    attacked: float | None


def curve(found: Sequence[Accuracy], norm: str) -> str:
    """The curves as SVG text: at ε = 0 all of them begin at the clean accuracy."""
    farthest = max((one.epsilon for one in found), default=0.0) or 1.0
    clean = found[0].clean
    points = [Accuracy(0.0, clean, clean, clean if found[0].attacked is not None else None), *found]
    points = [one for at, one in enumerate(points) if at or found[0].epsilon > 0]
    attacked = [(one.epsilon, one.attacked) for one in points if one.attacked is not None]
    certified = [(one.epsilon, one.certified) for one in points]
    curves = [("clean", [(0.0, clean), (farthest, clean)]), ("certified", certified)]
    if attacked:
        curves.insert(1, ("under attack", attacked))
    drawn = [_axes(farthest, norm)]
    if attacked:
        around = [_at(*pair, farthest) for pair in (*attacked, *reversed(certified))]
        drawn.append(f'<path class="band" d="M{_course(around)}Z"/>')
    drawn += [_curve(name, pairs, farthest) for name, pairs in curves]
    heights = [_at(*pairs[-1], farthest)[1] for _, pairs in curves]
    order = sorted(range(len(curves)), key=lambda at: heights[at])
    places = spread([heights[at] for at in order], [_LINE] * len(order), None, _TOP, _HEIGHT - _BOTTOM)
    for at, y in zip(order, places):
        name = curves[at][0]
        drawn.append(_text(_WIDTH - _RIGHT + 12, y + 5, name, "start", _class(name)))
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" width="{_WIDTH}" height="{_HEIGHT}" '
            f'viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" font-size="{_TEXT}">',
            "<title>Accuracy over the radius of disturbances</title>",
            *drawn,
            "</svg>",
        )
    )


def _class(name: str) -> str:
    return {"clean": "clean", "certified": "proved", "under attack": "attacked"}[name]


def _at(epsilon: float, share: float, farthest: float) -> tuple[float, float]:
    """Where a value stands in the drawing."""
    across, down = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    return _LEFT + across * epsilon / farthest, _TOP + down * (1 - share)


def _course(points: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _curve(name: str, pairs: Sequence[tuple[float, float]], farthest: float) -> str:
    points = [_at(*pair, farthest) for pair in pairs]
    dashes = ' stroke-dasharray="5 4"' if name == "clean" else ""
    line = f'<path class="{_class(name)}" stroke-width="2.2"{dashes} d="M{_course(points)}"/>'
    if name == "clean":
        return line
    return line + "".join(
        f'<circle class="{_class(name)}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in points
    )


def _axes(farthest: float, norm: str) -> str:
    made, bottom, right = [], _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        _, y = _at(0.0, share, farthest)
        made.append(f'<path class="rule" d="M{_LEFT} {y:.1f}H{right}"/>')
        made.append(_text(_LEFT - 10, y + 5, f"{100 * share:.0f} %", "end", "soft"))
    for value in ticks(farthest):
        x, _ = _at(value, 0.0, farthest)
        made.append(f'<path class="rule" d="M{x:.1f} {bottom}v6"/>')
        made.append(_text(x, bottom + 22, number(value), "middle", "soft"))
    shown = "∞" if norm == "inf" else norm
    made.append(
        _text(
            (_LEFT + right) / 2,
            bottom + 46,
            f"radius ε of the disturbance, in the {shown}-norm",
            "middle",
            "",
        )
    )
    return "".join(made)


def ticks(most: float) -> tuple[float, ...]:
    """A few round numbers from 0 to `most`."""
    rough = most / _TICKS
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * one for one in (1, 2, 2.5, 5, 10) if size * one >= rough * (1 - 1e-9))
    count = math.floor(most / step * (1 + 1e-9))
    return tuple(float(f"{at * step:.10g}") for at in range(count + 1))


def _text(x: float, y: float, text: str, anchor: str, kind: str) -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{markup(text)}</text>'
