"""A network as a drawing of boxes and lines: `svg` in our own layout, `mermaid` and `dot` for other tools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TypeAlias

from implicit_dsl.graph import Edge, Node, Role, SignalGraph
from implicit_dsl.pictures import wording
from implicit_dsl.pictures.colours import LEADER, MUTED, accent, css, outline
from implicit_dsl.pictures.layers import Layers, Line, layered, looped
from implicit_dsl.pictures.lettering import grouped, markup, width
from implicit_dsl.pictures.notation import dot, mermaid
from implicit_dsl.pictures.placing import place
from implicit_dsl.pictures.spacing import spread

__all__ = ["Drawing", "dot", "lay_out", "mermaid", "svg"]

FONTS = "'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif"
NAME, DETAIL, LABEL, TITLE = 17, 14, 13, 24  # sizes of text in pixels
BOX = 52  # height of a block
TAG = 22  # height of the label of a line
BARE = (10.0, 4.0)  # width and height kept free for a line where it has no label
PAD = 32
HEAD = 58  # title and numbers
ARROW = 8
LOOP = 26  # how far the line of a block that reads itself goes aside

Point: TypeAlias = tuple[float, float]
Course: TypeAlias = tuple[Point, ...]
Box: TypeAlias = tuple[float, float, float, float]
Ports: TypeAlias = dict[tuple[int, bool], float]  # (line, at its upper end) -> x


@dataclass(frozen=True, slots=True)
class Drawing:
    """The layout: a box (left, top, right, bottom) for each node, and a course for each line.

    A course lists the points at which a line enters and leaves layers. Between two points
    with the same x it is straight, elsewhere it bends between layers, where no box is.
    """

    layers: Layers
    boxes: tuple[Box, ...]
    courses: tuple[Course, ...]
    tags: tuple[Box | None, ...]  # of the label of each line
    loop_tags: tuple[Box, ...]  # of the label of each loop, at the right of its box
    width: float
    height: float


def lay_out(graph: SignalGraph) -> Drawing:
    """Place the blocks and the lines of a network from top to bottom."""
    layers, count = layered(graph), len(graph.nodes)
    sizes = [_box_size(graph, node) for node in graph.nodes]
    widths = [size + 2 * _loop_room(layers, node) for size, node in zip(sizes, graph.nodes)]
    heights = [float(BOX)] * count
    for line in layers.lines:
        for cell in line.cells[1:-1]:
            labelled = cell == line.cells[-2] and _label_width(line.edge) > 0
            widths.append(_label_width(line.edge) if labelled else BARE[0])
            heights.append(float(TAG) if labelled else BARE[1])
    places = place(layers, count, widths, heights)
    aside = PAD + max(0.0, (_head_width(graph) - places.width) / 2)
    middles = [(places.x[cell] + aside, places.y[cell] + PAD + HEAD) for cell in range(len(widths))]
    boxes = tuple((x - w / 2, y - BOX / 2, x + w / 2, y + BOX / 2) for (x, y), w in zip(middles, sizes))
    ports = _ports(layers, boxes, middles)
    courses, tags = [], []
    for number, line in enumerate(layers.lines):
        bands = [places.bands[layers.layer_of[cell]] for cell in line.cells[1:-1]]
        passing = [
            (middles[cell][0], edge + PAD + HEAD)
            for cell, band in zip(line.cells[1:-1], bands)
            for edge in band
        ]
        start = ports[number, True], boxes[line.cells[0]][3]
        end = ports[number, False], boxes[line.cells[-1]][1]
        courses.append((start, *passing, end))
        (x, y), w = middles[line.cells[-2]], _label_width(line.edge)
        tags.append((x - w / 2, y - TAG / 2, x + w / 2, y + TAG / 2) if w else None)
    size = places.width + 2 * aside, places.height + HEAD + 2 * PAD
    return Drawing(layers, boxes, tuple(courses), tuple(tags), tuple(_loop_tags(graph, layers, boxes)), *size)


def _loop_tags(graph: SignalGraph, layers: Layers, boxes: tuple[Box, ...]) -> Iterator[Box]:
    """The loops of a block share one line; their labels stand side by side next to it."""
    ends = {node.name: box[2] + LOOP for node, box in zip(graph.nodes, boxes)}
    middles = {node.name: (box[1] + box[3]) / 2 for node, box in zip(graph.nodes, boxes)}
    for edge in layers.loops:
        left, y = ends[edge.target], middles[edge.target]
        ends[edge.target] += _label_width(edge)
        yield (left, y - TAG / 2, ends[edge.target], y + TAG / 2)


def _box_size(graph: SignalGraph, node: Node) -> float:
    return max(width(wording.name(node), NAME, True), width(wording.detail(graph, node), DETAIL), 84) + 28


def _label_width(edge: Edge) -> float:
    said = [text for text in (wording.chain(edge), wording.held(edge)) if text]
    return width("  ".join(said), LABEL) + 16 if said else 0.0


def _loop_room(layers: Layers, node: Node) -> float:
    loops = [_label_width(edge) for edge in layers.loops if edge.target == node.name]
    return sum(loops) + LOOP if loops else 0.0


def _ports(layers: Layers, boxes: tuple[Box, ...], middles: list[Point]) -> Ports:
    """Where each line leaves its upper and enters its lower box."""
    ends: dict[tuple[int, bool], list[tuple[float, int]]] = {}
    for number, line in enumerate(layers.lines):
        ends.setdefault((line.cells[0], True), []).append((middles[line.cells[1]][0], number))
        ends.setdefault((line.cells[-1], False), []).append((middles[line.cells[-2]][0], number))
    ports = {}
    for (cell, upper), found in ends.items():
        left, _, right, _ = boxes[cell]
        middle, found = middles[cell][0], sorted(found)
        # Lines lean to where they come from, but stay together: a third of the way looks calm.
        wanted = [middle + (x - middle) / 3 if len(found) > 1 else middle for x, _ in found]
        step = min(16.0, (right - left - 16) / len(found))
        for (_, number), x in zip(found, spread(wanted, [step] * len(found), None, left + 8, right - 8)):
            ports[number, upper] = round(x, 1)
    return ports


def svg(graph: SignalGraph) -> str:
    """The network as SVG text.

    Ties share a colour, the blocks of a loop are outlined in one, and lines that close it are dashed.
    """
    drawing, ties, inside = lay_out(graph), wording.Ties.of(graph), looped(graph)
    lines = list(zip(drawing.layers.lines, drawing.courses, drawing.tags))
    nodes = list(zip(graph.nodes, drawing.boxes))
    loops = list(zip(drawing.layers.loops, drawing.loop_tags))
    reading = {edge.target: ties.number(edge) for edge in drawing.layers.loops}
    w, h = f"{drawing.width:.0f}", f"{drawing.height:.0f}"
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" '
            f'role="img" font-family="{FONTS}" text-anchor="middle">',
            f"<title>{markup(graph.name)}</title>",
            f'<rect width="{w}" height="{h}" rx="8" fill="#fff"/>',
            _write(drawing.width / 2, PAD + TITLE - 4, graph.name, TITLE, css(1), bold=True),
            _write(drawing.width / 2, PAD + TITLE + 18, _numbers(graph), DETAIL, css(MUTED)),
            *(_line(line, course, ties.number(line.edge)) for line, course, _ in lines),
            *(_tag(line.edge, tag, ties.number(line.edge)) for line, _, tag in lines if tag),
            *(_loop(box, reading[node.name]) for node, box in nodes if node.name in reading),
            *(_tag(edge, tag, ties.number(edge)) for edge, tag in loops if _label_width(edge)),
            *(_block(graph, node, box, node.name in inside) for node, box in nodes),
            "</svg>\n",
        )
    )


def _numbers(graph: SignalGraph) -> str:
    states = sum(node.role is Role.STATE for node in graph.nodes)
    trained = sum(prod(parameter.trained) for parameter in graph.parameters if parameter.trainable)
    return f"{states} {'state' if states == 1 else 'states'}  ·  {grouped(trained)} parameters"


def _head_width(graph: SignalGraph) -> float:
    return max(width(graph.name, TITLE, True), width(_numbers(graph), DETAIL))


def _write(x: float, y: float, text: str, size: int, colour: str, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}"{weight}'
    return f'<text {place} xml:space="preserve">{markup(text)}</text>'


def _pen(tie: int | None) -> tuple[str, str]:
    """The colour of a line, and its stroke."""
    colour = css(0.6) if tie is None else accent(tie)
    return colour, f'fill="none" stroke="{colour}" stroke-width="{1.4 if tie is None else 2.2}"'


def _line(line: Line, course: Course, tie: int | None) -> str:
    colour, pen = _pen(tie)
    (x, y), (end_x, end_y) = course[0], course[-1]
    # The stroke stops inside the head of its arrow, which would be blunt otherwise.
    inner = [(x, y + ARROW - 2) if line.backward else (x, y), *course[1:-1]]
    inner.append((end_x, end_y) if line.backward else (end_x, end_y - ARROW + 2))
    path = f"M{inner[0][0]:.1f} {inner[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(inner):
        if x0 == x1:
            path += f"V{y1:.1f}"
        else:
            middle = (y0 + y1) / 2
            path += f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}"
    dashes = ' stroke-dasharray="7 5"' if line.backward else ""
    tip = (x, y, 1) if line.backward else (end_x, end_y, -1)
    return f'<path d="{path}" {pen}{dashes}/>' + _arrow(*tip, colour)


def _arrow(x: float, y: float, way: int, colour: str) -> str:
    back = y + way * ARROW
    return f'<path d="M{x:.1f} {y:.1f}L{x - 4:.1f} {back:.1f}H{x + 4:.1f}Z" fill="{colour}"/>'


def _tag(edge: Edge, box: Box, tie: int | None) -> str:
    left, top, right, bottom = box
    stroke = "" if tie is None else f' stroke="{accent(tie)}" stroke-width="1.4" stroke-dasharray="4 3"'
    place = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
    held, chain = wording.held(edge), wording.chain(edge)
    tone = css(MUTED) if tie is None else accent(tie)
    gap = "  " if held and chain else ""
    words = f'<tspan fill="{css(1)}">{markup(chain)}</tspan><tspan fill="{tone}">{gap}{markup(held)}</tspan>'
    where = f'x="{(left + right) / 2:.1f}" y="{(top + bottom) / 2 + LABEL * 0.35:.1f}" font-size="{LABEL}"'
    pill = f'<rect {place} rx="{TAG / 2:g}" fill="#fff"{stroke}/>'
    return f'{pill}<text {where} xml:space="preserve">{words}</text>'


def _loop(box: Box, tie: int | None) -> str:
    """A block that reads itself: out at the right, round, and in again above."""
    colour, pen = _pen(tie)
    right, low, high = box[2], box[3] - 14, box[1] + 14
    out = right + LOOP
    path = (
        f"M{right:.1f} {low:.1f}C{out:.1f} {low + 4:.1f} {out:.1f} {high - 4:.1f} {right + 6:.1f} {high:.1f}"
    )
    head = f'<path d="M{right:.1f} {high:.1f}l8 -4v8Z" fill="{colour}"/>'
    return f'<path d="{path}" {pen} stroke-dasharray="7 5"/>{head}'


def _block(graph: SignalGraph, node: Node, box: Box, looped: bool) -> str:
    left, top, right, bottom = box
    kind = wording.kind(node)
    fill, stroke, ink = {
        "input": ("#e0f2f1", "#0f766e", "#134e4a"),
        "state": ("#fff", css(1), css(1)),
        "lifted": ("#fff", css(LEADER), css(0.8)),
        "output": (css(1), css(1), "#fff"),
    }[kind]
    stroke, thick = (outline(), 2.5) if looped else (stroke, 1.5)
    radius = BOX / 2 if kind in ("input", "output") else 9
    place = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
    dashes = ' stroke-dasharray="4 3"' if kind == "lifted" else ""
    middle, faint = (left + right) / 2, {"output": css(0.25), "input": "#0f766e"}.get(kind, css(MUTED))
    return (
        f'<rect {place} rx="{radius:g}" fill="{fill}" stroke="{stroke}" stroke-width="{thick:g}"{dashes}/>'
        + _write(middle, top + 22, wording.name(node), NAME, ink, bold=True)
        + _write(middle, top + 41, wording.detail(graph, node), DETAIL, faint)
    )
