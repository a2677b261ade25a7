"""Pictures show what is there: every entry, every label in its own place, whatever the names."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from itertools import combinations, pairwise
from xml.etree import ElementTree

import networks
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from implicit_dsl.graph import SignalGraph
from implicit_dsl.pictures import Spy, diagram_svg, dot, mermaid, spy_of, spy_png, spy_svg, spy_text
from implicit_dsl.pictures import diagram as diagrams
from implicit_dsl.pictures.layers import layered
from implicit_dsl.pictures.lettering import columns
from implicit_dsl.pictures.raster import axes, occupied, path, runs
from implicit_dsl.pictures.sheet import lay_out
from implicit_dsl.pictures.spacing import spread

BRAILLE = 0x2800  # Unicode numbers the dots of a character 1 to 8, the bits of its code
DOTS = ((1, 4), (2, 5), (3, 6), (7, 8))
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = (
    '"><script>alert(1)</script>',
    "a & b",
    "]]>",
    "x`y`",
    "line\nbreak\x00\x0b",
    "\u202eback",
    "\ud800",
    "漢字",
    "#quot;|}{",
)


def spy(rows: list[int], cols: list[int], height: int, width: int, blocks: tuple[str, ...] = ("x",)) -> Spy:
    def cut(size: int) -> tuple[tuple[str, int], ...]:
        sizes = [size // len(blocks)] * len(blocks)
        sizes[-1] += size - sum(sizes)
        return tuple(zip(blocks, sizes))

    return Spy("A of M", np.array(rows, int), np.array(cols, int), height, width, cut(height), cut(width))


@st.composite
def spies(draw: st.DrawFn) -> Spy:
    height, width = (draw(st.integers(1, 3000)) for _ in range(2))
    count = draw(st.integers(0, 200))
    rows = draw(st.lists(st.integers(0, height - 1), min_size=count, max_size=count))
    cols = draw(st.lists(st.integers(0, width - 1), min_size=count, max_size=count))
    return spy(rows, cols, height, width)


def decoded(picture: str, height: int, width: int) -> np.ndarray:
    """The grid that a renderer sees: the strokes of the entries' path, one cell wide."""
    entries = ElementTree.fromstring(picture).find(f"{SVG}path[@id='entries']")
    assert entries is not None
    grid = np.zeros((height, width), bool)
    vertical = "translate(.5 0)" in entries.attrib["transform"]
    for x, y, pen, length in re.findall(r"M(\d+) (\d+)([hv])(\d+)", entries.attrib["d"]):
        assert pen == ("v" if vertical else "h")
        x, y, length = int(x), int(y), int(length)
        covered = grid[y : y + length, x] if vertical else grid[y, x : x + length]
        assert covered.size == length
        assert not covered.any()
        covered[:] = True
    return grid


@given(spies())
def test_strokes_cover_exactly_the_occupied_cells(picture: Spy) -> None:
    rows, cols = axes(picture.n_rows, picture.n_cols)
    expected = np.zeros((rows.cells, cols.cells), bool)
    for row, col in zip(picture.rows.tolist(), picture.cols.tolist()):
        expected[row * rows.cells // picture.n_rows, col * cols.cells // picture.n_cols] = True
    assert np.array_equal(occupied(picture, rows, cols), expected)
    assert np.array_equal(decoded(spy_svg(picture), rows.cells, cols.cells), expected)


@pytest.mark.parametrize("shape", [(1, 9), (9, 1)])
def test_runs_go_the_shorter_way(shape: tuple[int, int]) -> None:
    found = runs(np.ones(shape, bool))
    assert (len(found.line), found.vertical) == (1, shape == (9, 1))
    assert path(found) == ("M0 0v9" if found.vertical else "M0 0h9")


@settings(max_examples=30)
@given(spies())
def test_png_shows_the_same_cells(picture: Spy) -> None:
    from PIL import Image

    sheet = lay_out(picture)
    pixels = np.asarray(Image.open(io.BytesIO(spy_png(picture))))
    assert pixels.shape == (sheet.height, sheet.width)
    inside = pixels[sheet.top :, sheet.left :][: sheet.rows.length, : sheet.cols.length]
    shown = (inside == 0)[:: sheet.rows.pixel, :: sheet.cols.pixel]
    assert np.array_equal(shown, occupied(picture, sheet.rows, sheet.cols))


def test_png_of_upright_and_foreign_names() -> None:
    names = tuple(f"stage_{i}.λ漢" for i in range(12))
    assert spy_png(spy([0], [5], 600, 600, names)).startswith(b"\x89PNG")


def test_png_without_pillow_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["implicit_dsl.pictures.spy_png"]  # the package shows the function of that name
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install implicitc\[png\]"):
        spy_png(spy([], [], 3, 3))


@given(spies(), st.integers(20, 120))
def test_braille_decodes_to_the_grid(picture: Spy, wide: int) -> None:
    lines = spy_text(picture, wide).splitlines()
    body = [line[:-1] for line in lines if line.endswith("│")]
    body = [line[min(i for i, c in enumerate(line) if ord(c) >= BRAILLE) :] for line in body]
    rows, cols = axes(
        picture.n_rows, picture.n_cols, most=2 * max(4, wide - lines[1].index("┌") - 2), largest=1
    )
    grid = np.zeros((4 * len(body), 2 * len(body[0])), bool)
    for i, line in enumerate(body):
        for j, character in enumerate(line):
            for row, pair in enumerate(DOTS):
                for column, number in enumerate(pair):
                    grid[4 * i + row, 2 * j + column] = bool((ord(character) - BRAILLE) >> (number - 1) & 1)
    rows_used, cols_used = min(rows.cells, len(grid)), min(cols.cells, grid.shape[1])
    assert np.array_equal(grid[:rows_used, :cols_used], occupied(picture, rows, cols))
    assert not grid[rows_used:].any() and not grid[:, cols_used:].any()
    assert max(map(columns, lines[1:-1])) <= max(wide, lines[1].index("┌") + 6)


def test_text_names_every_block_that_has_a_line_and_keeps_their_order() -> None:
    text = spy_text(spy_of(networks.model(networks.lenet())))
    assert re.findall(r"(\w+ \d+) ┤", text) == ["f6 84", "c5 120", "s4 400", "c3 1600", "s2 1176", "c1 4704"]


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@given(
    st.lists(st.tuples(st.text(max_size=40), st.integers(1, 5000)), min_size=1, max_size=150),
    st.lists(st.tuples(st.text(max_size=40), st.integers(1, 5000)), min_size=1, max_size=150),
    st.sampled_from(["A", "A" * 200]),
)
@example([("x", 1)], [("w" * 40, 1)], "A")
@example([("w" * 40, 9000)], [("x", 1)] * 99, "A")
def test_labels_overlap_neither_each_other_nor_the_matrix(
    down: list[tuple[str, int]], across: list[tuple[str, int]], title: str
) -> None:
    none, height, width = np.zeros(0, int), sum(s for _, s in down), sum(s for _, s in across)
    sheet = lay_out(Spy(title, none, none, height, width, tuple(down), tuple(across)))
    boxes = [text.box for text in (sheet.title, *sheet.labels, sheet.caption)]
    matrix = (sheet.left, sheet.top, sheet.left + sheet.cols.length, sheet.top + sheet.rows.length)
    assert not [pair for pair in combinations((*boxes, matrix), 2) if overlap(*pair)]
    assert all(min(box) >= 0 and box[2] <= sheet.width and box[3] <= sheet.height for box in boxes)


def test_each_lenet_block_is_named_on_both_axes() -> None:
    sheet = lay_out(spy_of(networks.model(networks.lenet())))
    names = [part.strip() for text in sheet.labels for part, _ in text.parts if not part.strip().isdigit()]
    assert names == ["f6", "c5", "s4", "c3", "s2", "c1"] * 2


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(1, 50)), max_size=30))
def test_spread_keeps_order_and_distance_and_moves_no_more_than_it_must(
    items: list[tuple[float, float]],
) -> None:
    wanted, extents = [w for w, _ in items], [e for _, e in items]
    found = spread(wanted, extents)
    needed = [(a + b) / 2 for a, b in pairwise(extents)]
    assert all(b - a >= need - 1e-6 for (a, b), need in zip(pairwise(found), needed))
    if all(b - a >= need for (a, b), need in zip(pairwise(wanted), needed)):
        assert found == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("height", "width", "words"),
    [
        (1, 1, "n = 1  ·  1 entry  ·  density 100 %"),
        (3, 3, "n = 3  ·  1 entry  ·  density 11.1 %"),
        (8084, 1024, "8 084 × 1 024  ·  1 entry  ·  density 1.21e-05 %  ·  axes scaled"),
        (10, 84, "10 × 84  ·  1 entry  ·  density 0.119 %  ·  axes scaled"),
        (84, 20, "84 × 20  ·  1 entry  ·  density 0.0595 %"),
    ],
)
def test_caption_says_what_is_shown_and_when_it_is_not_to_scale(height: int, width: int, words: str) -> None:
    sheet = lay_out(spy([height - 1], [width - 1], height, width))
    assert sheet.caption.parts[0][0] == words
    lengths = sorted((sheet.rows.length, sheet.cols.length))
    assert lengths[1] <= 1000 and lengths[1] <= 6 * lengths[0]


@pytest.mark.parametrize(("height", "width"), [(0, 0), (0, 5), (3, 5), (1, 1)])
def test_matrices_without_entries_are_white(height: int, width: int) -> None:
    nothing = spy([], [], height, width)
    assert 'd=""' in spy_svg(nothing)
    assert spy_png(nothing).startswith(b"\x89PNG")
    assert "0 entries  ·  density 0 %" in spy_text(nothing)


def test_blocks_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="the row blocks have 2 entries together, but the matrix has 3"):
        Spy("t", np.zeros(0, int), np.zeros(0, int), 3, 3, (("x", 2),), (("x", 3),))


def test_lenet_has_the_entries_of_the_paper_above_the_diagonal() -> None:
    A = spy_of(networks.model(networks.lenet()))
    assert (A.title, A.n_rows, A.n_cols, len(A.rows)) == (
        "A of LeNet5  ·  x = φ(Ax + Bu)",
        8084,
        8084,
        304384,
    )
    assert (A.rows < A.cols).all()


def test_whole_picture_is_the_four_matrices_side_by_side() -> None:
    model = networks.model(networks.lenet())
    A, B, C, D, whole = (spy_of(model, m) for m in ("A", "B", "C", "D", "all"))
    assert (whole.n_rows, whole.n_cols) == (A.n_rows + C.n_rows, A.n_cols + B.n_cols)
    assert whole.quadrants == (6, 6)
    for part, down, across in ((A, 0, 0), (B, 0, A.n_cols), (C, A.n_rows, 0), (D, A.n_rows, A.n_cols)):
        inside = (whole.rows >= down) & (whole.rows < down + part.n_rows)
        inside &= (whole.cols >= across) & (whole.cols < across + part.n_cols)
        expected = sorted(zip((part.rows + down).tolist(), (part.cols + across).tolist()))
        assert sorted(zip(whole.rows[inside].tolist(), whole.cols[inside].tolist())) == expected
    sheet = lay_out(whole)
    assert sheet.row_split == 8084 * sheet.rows.cells // 8094
    assert sheet.col_split == 8084 * sheet.cols.cells // 9108


def test_parallel_terms_are_counted_once() -> None:
    loops = spy_of(networks.model(networks.loops()))  # h -> g is a full block and a diagonal
    assert len(loops.rows) == 3 * 64


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(name: str) -> None:
    node, edge = networks.node, networks.edge
    dense = networks.op("Dense", (2,), name, width=2)
    nodes = [node(name, "input", (2,)), node(name + "2", "state", (2,)), node("y", "output", (2,))]
    graph = networks.graph(name, nodes, [edge(name, name + "2", dense), edge(name + "2", "y", dense)])
    picture = spy([0], [0], 2, 2, (name,))
    for svg in (diagram_svg(graph), spy_svg(picture)):
        assert {element.tag for element in ElementTree.fromstring(svg).iter()} <= {
            SVG + tag for tag in ("svg", "title", "desc", "rect", "path", "text", "tspan")
        }
        svg.encode()
    spy_text(picture).encode()
    lines = mermaid(graph).splitlines()
    shape = re.compile(r' {4}n\d(\(\["|\(")[^"`<>{}|]*(<br/>[^"`<>{}|]*)?("\]\)|"\)):::\w+')
    arrow = re.compile(r' {4}n\d -->(\|"[^"`<>{}|]*(<br/>[^"`<>{}|]*)?"\|)? n\d')
    assert all(shape.fullmatch(line) for line in lines[1:4]), lines
    assert all(arrow.fullmatch(line) for line in lines[4:6]), lines
    quoted = re.sub(r'"(?:[^"\\]|\\.)*"', '""', dot(graph))
    assert re.fullmatch(r"[\w\s\[\]{}=,;>\"-]*", quoted), quoted


def test_mermaid_and_dot_keep_the_names_readable() -> None:
    lenet = networks.lenet()
    assert '    n1("c1<br/>[6, 28, 28]  tanh"):::state' in mermaid(lenet).splitlines()
    assert '    n0 -->|"Conv 5<br/>c1_conv"| n1' in mermaid(lenet).splitlines()
    assert '    n4 -> n5 [label="Conv 5 · flatten\\nc5_conv"];' in dot(lenet).splitlines()


GRAPHS = {
    "lenet": networks.lenet(),
    "resnet": networks.resnet(30),
    "tied": networks.resnet(3, tied=True),
    "inception": networks.inception(),
    "loops": networks.loops(),
    "empty": networks.graph("Empty", [], []),
}


@st.composite
def tangles(draw: st.DrawFn) -> SignalGraph:
    """Any graph at all: cycles, loops, parallel edges, blocks that nothing reads."""
    count = draw(st.integers(1, 12))
    ends = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))
    chains = st.sampled_from([(), (networks.op("Dense", (4,), "W", width=4),)])
    found = draw(st.lists(st.tuples(ends, chains), max_size=25))
    nodes = [networks.node(f"x{i}" * (1 + i % 4), "state", (4,)) for i in range(count)]
    edges = [networks.edge(nodes[a].name, nodes[b].name, *chain) for (a, b), chain in found]
    return networks.graph("Tangle", nodes, edges)


def check_layout(graph: SignalGraph) -> None:
    drawing = diagrams.lay_out(graph)
    tags = [*(tag for tag in drawing.tags if tag), *drawing.loop_tags]
    assert not [pair for pair in combinations((*drawing.boxes, *tags), 2) if overlap(*pair)]
    for box in (*drawing.boxes, *tags):
        assert box[0] >= 0 and box[1] >= 0 and box[2] <= drawing.width and box[3] <= drawing.height
    names = [node.name for node in graph.nodes]
    for line, course in zip(drawing.layers.lines, drawing.courses):
        upper, lower = names[line.cells[0]], names[line.cells[-1]]
        ends = (lower, upper) if line.backward else (upper, lower)
        assert ends == (line.edge.source, line.edge.target)
        for (x0, y0), (x1, y1) in pairwise(course):
            assert y0 <= y1
            # A bend stays in the rectangle between its ends, as its control points do.
            reach = (min(x0, x1), y0 + 0.01, max(x0, x1) + 0.01, y1 - 0.01)
            assert not [box for box in drawing.boxes if reach[1] < reach[3] and overlap(reach, box)]


@pytest.mark.parametrize("name", GRAPHS)
def test_lines_run_round_the_boxes(name: str) -> None:
    check_layout(GRAPHS[name])


@settings(max_examples=60, deadline=None)
@given(tangles())
def test_lines_run_round_the_boxes_of_any_graph(graph: SignalGraph) -> None:
    check_layout(graph)
    ElementTree.fromstring(diagram_svg(graph))


@settings(max_examples=60, deadline=None)
@given(tangles())
def test_layers_are_a_valid_order_and_hold_each_block_once(graph: SignalGraph) -> None:
    layers = layered(graph)
    assert sorted(cell for layer in layers.layers for cell in layer) == sorted(layers.layer_of)
    for line in layers.lines:
        assert [layers.layer_of[cell] for cell in line.cells] == list(
            range(layers.layer_of[line.cells[0]], layers.layer_of[line.cells[-1]] + 1)
        )
        assert len(line.cells) > 2
    read = sum(edge.source is not None for edge in graph.edges)
    assert len(layers.lines) + len(layers.loops) == read


def test_only_edges_that_close_a_cycle_go_backward() -> None:
    backward = [line.edge for line in layered(networks.loops()).lines if line.backward]
    assert [(edge.source, edge.target) for edge in backward] == [("g", "h")]
    assert not any(
        line.backward for name in ("lenet", "resnet", "inception") for line in layered(GRAPHS[name]).lines
    )


def test_blocks_of_loops_are_outlined_in_every_format() -> None:
    graph, plain = networks.loops(), networks.lenet()
    outlined = {name for name, box in named_boxes(graph) if 'stroke="#c2410c"' in box}
    assert outlined == {"h", "g"}
    assert "    class n1,n2 loop" in mermaid(graph).splitlines()
    marked = [line for line in dot(graph).splitlines() if 'color="#c2410c", penwidth=2]' in line]
    assert [line.split()[0] for line in marked] == ["n1", "n2"]
    assert not any("#c2410c" in text for text in (diagram_svg(plain), mermaid(plain), dot(plain)))


def named_boxes(graph: SignalGraph) -> list[tuple[str, str]]:
    """The blocks of a drawing: the name on each, and its rectangle."""
    return [
        (name, box)
        for box, name in re.findall(r'(<rect [^>]*/>)<text [^>]*600"[^>]*>([^<]*)</text>', diagram_svg(graph))
    ]


def test_the_frame_of_a_text_is_heavy_at_the_rows_of_loops() -> None:
    pattern = Spy(
        "A",
        np.arange(100),
        np.arange(100),
        100,
        100,
        (("a", 60), ("b", 40)),
        (("a", 60), ("b", 40)),
        loops=((60, 100, 60, 100),),
    )
    first, *rows, last, words = spy_text(pattern, 60).rstrip().split("\n")[1:]

    heavy = [row.endswith("┃") for row in rows]
    assert heavy == sorted(heavy) and 0.35 < sum(heavy) / len(heavy) < 0.48
    assert "1 loop at the rows ┃" in words and first.strip().startswith("┌") and last.strip().startswith("└")
    assert "┃" not in spy_text(spy_of(networks.model(networks.lenet())))


def test_ties_share_a_colour_and_their_name_is_shown() -> None:
    svg, text = diagram_svg(GRAPHS["tied"]), mermaid(GRAPHS["tied"])
    assert svg.count("cell.conv1") == svg.count("cell.conv2") == 3
    colours = re.findall(r"linkStyle \d+ stroke:(#\w+)", text)
    assert len(colours) == 6 and len(set(colours)) == 2
    assert "linkStyle" not in mermaid(GRAPHS["resnet"])


def test_the_same_input_gives_the_same_bytes() -> None:
    code = (
        "import hashlib, networks; from implicit_dsl.pictures import *;"
        "m = spy_of(networks.model(networks.lenet())); g = networks.inception();"
        "print(hashlib.sha256(b'|'.join((spy_png(m), *(t.encode() for t in"
        "(spy_svg(m), spy_text(m), diagram_svg(g), mermaid(g), dot(g)))))).hexdigest())"
    )
    environments = [{"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)} for seed in ("1", "2")]
    outputs = [
        subprocess.run([sys.executable, "-c", code], env=e, capture_output=True, text=True, check=True).stdout
        for e in environments
    ]
    assert outputs[0] == outputs[1] != ""


def test_importing_pictures_imports_nothing_heavy() -> None:
    code = (
        "import sys, implicit_dsl.pictures;"
        "print([m for m in ('numpy', 'networkx', 'PIL', 'torch') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "[]"
