"""The report of a model: one page, which says what is there, escapes it, and is the same each time."""

from __future__ import annotations

import base64
import html
import io
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import implicit_dsl
from implicit_dsl import cli, files
from implicit_dsl.page.curve import Accuracy, curve, ticks
from implicit_dsl.page.program import highlighted
from implicit_dsl.page.values import states_on
from implicit_dsl.pictures import Spy
from implicit_dsl.pictures.png import data_uri, indexed_png
from implicit_dsl.pictures.values import SHADES, Scale, palette, values_svg

torch.set_num_threads(1)

NET = '''
"""Three classes of <b>points</b> & more."""
model Net(n = 6)
    input u[4]
    state h[5] ~ relu(Dense(5)*u)
    param A[n, n]
    state x[n] ~ tanh(A*x + Dense(n)*h)
    output y[3] = Dense(3)*x
    @wellposed norm(A, Inf) <= 0.9
end
'''
FREE = """
model Free
    input u[_, 4]
    recurrent x over u
        state h[3] ~ tanh(Dense(3)*prev(h) + Dense(3)*x)
    end
    output y[3] = Dense(3) * last(h)
end
"""
UNCHECKED = NET.replace("@wellposed norm(A, Inf) <= 0.9", "@wellposed unchecked")
VOID = {"meta", "img", "br", "rect", "path", "circle", "image", "link"}


class Tags(HTMLParser):
    """What a browser would make of a page, roughly: its elements, and whether they nest."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.text.append(data)


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.impl").write_text(NET)
    save(NET, "net")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 20)
    np.savez(tmp_path / "points.npz", inputs=rng.normal(size=(20, 4)), labels=labels)
    return tmp_path


def save(text: str, stem: str, **parameters: object) -> None:
    """The program and new weights of its model."""
    Path(f"{stem}.impl").write_text(text)
    torch.manual_seed(0)
    (name,) = re.findall(r"model (\w+)", text)
    module = getattr(implicit_dsl.load(f"{stem}.impl", **parameters), name)()
    if hasattr(module, "project_"):
        module.project_()
    save_file(module.state_dict(), f"{stem}.safetensors")


def report(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = cli.main(["report", *words])
    return code, capsys.readouterr().err


def made(capsys: pytest.CaptureFixture[str], *words: str, stem: str = "net") -> str:
    code, err = report(capsys, f"{stem}.impl", "--weights", f"{stem}.safetensors", "-o", "page.html", *words)
    assert (0, "") == (code, err)
    return Path("page.html").read_text(encoding="utf-8")


def test_the_page_has_all_sections_and_needs_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    page = made(capsys, "--data", "points.npz", "--epsilon", "0.01,0.1")
    tags = parsed(page)
    headed = [attrs["id"] for tag, attrs in tags.found if tag == "section"]

    assert headed == [
        "program",
        "matrix",
        "states",
        "certificate",
        "solver",
        "sensitivity",
        "influence",
        "robustness",
    ]
    assert len(page) < 2**20
    links = [
        attrs[name] or ""
        for _, attrs in tags.found
        for name in ("src", "href", "xlink:href")
        if name in attrs
    ]
    assert links and all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert not re.search(
        r"url\(|@import|<link|<iframe|\son\w+=", re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    )
    anchors = {link[1:] for link in links if link.startswith("#")}
    assert anchors == set(headed)
    ids = [attrs["id"] for _, attrs in tags.found if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_the_page_says_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    said = " ".join(" ".join(parsed(made(capsys, "--data", "points.npz", "--epsilon", "0.01")).text).split())

    assert "Three classes of <b>points</b> & more." in said
    assert "Its loop is proved to have exactly one equilibrium." in said
    assert "@wellposed norm(A, Inf) <= 0.9 (line 9)" in said
    assert "points.npz: 20 samples" in said
    assert "the residual is within the tolerance" in said
    assert "x reads" not in said  # only under the pointer


def test_the_same_input_gives_the_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--data", "points.npz", "--epsilon", "0.05")
    assert made(capsys, *words) == made(capsys, *words)


def test_without_data_the_sections_that_need_it_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    said = " ".join(parsed(made(capsys)).text)

    assert "Give --data to see which values the states take." in said
    assert "Give --data to see how the solvers do on it." in said
    assert "Give --data with inputs and labels to see the certified accuracy." in said


def test_without_labels_there_is_no_curve(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("bare.npz", u=np.zeros((3, 4)))
    said = " ".join(parsed(made(capsys, "--data", "bare.npz")).text)

    assert "There is no accuracy to certify: bare.npz has no array `labels`." in said
    assert "the residual is within the tolerance" in said


HOSTILE = (
    "<script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "&lt;i&gt; &amp;",
    "{{ 7*7 }} {% raw %}",
    "</pre></code></details>",
    "\u202egnirts",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_the_program_is_never_markup(capsys: pytest.CaptureFixture[str], text: str) -> None:
    plain = parsed(made(capsys, "--data", "points.npz", "--epsilon", "0.01"))
    doc = text.replace('"', "'")
    save(NET.replace("Three classes", f"{doc} Three classes").replace("end", f"end  # {text}"), "net")
    page = made(capsys, "--data", "points.npz", "--epsilon", "0.01")
    tags = parsed(page)

    kinds = [tag for tag, _ in tags.found if tag not in ("i", "span")]
    assert kinds == [tag for tag, _ in plain.found if tag not in ("i", "span")]
    assert not [attrs for _, attrs in tags.found if any(name.startswith("on") for name in attrs)]
    shown = text.replace("\u202e", "\N{REPLACEMENT CHARACTER}")
    assert shown in "".join(tags.text) and shown.replace('"', "'") in "".join(tags.text)
    assert "\u202e" not in page


def test_the_policy_allows_the_own_script_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    import hashlib

    page = made(capsys)
    policy = html.unescape(re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[0])
    assert policy.startswith("default-src 'none'; img-src data:; ") and "unsafe" not in policy
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_no_name_of_a_folder_is_told(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, err = report(
        capsys,
        str(folder / "net.impl"),
        "--weights",
        str(folder / "net.safetensors"),
        "--data",
        str(folder / "points.npz"),
    )
    assert (0, "") == (code, err)
    assert str(folder) not in (folder / "net.html").read_text(encoding="utf-8")


def test_free_sizes_come_from_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    save(FREE, "free")
    np.savez("steps.npz", inputs=np.random.default_rng(0).normal(size=(6, 5, 4)), labels=np.arange(6) % 3)
    page = made(capsys, "--data", "steps.npz", "--epsilon", "0.01", stem="free")

    assert "[5, 4]" in page
    code, err = report(capsys, "free.impl", "--weights", "free.safetensors")
    assert code == 2 and "axis 1 of `u` is free" in err
    assert report(capsys, "free.impl", "--weights", "free.safetensors", "--length", "3")[0] == 0


def test_a_loop_that_is_not_proved_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    save(UNCHECKED, "net")
    weights = {name: value * (9 if name == "A" else 1) for name, value in tensors("net").items()}
    save_file(weights, "net.safetensors")
    said = " ".join(parsed(made(capsys, "--data", "points.npz", "--epsilon", "0.01")).text)

    assert "Its loop is not proved to have exactly one equilibrium." in said
    assert "its strongest cycle has the gain" in said
    assert "Nothing is proved for ε = 0.01: " in said


def tensors(stem: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(f"{stem}.safetensors"))


@pytest.mark.parametrize(
    "text", [NET, FREE, NET.replace("@wellposed norm(A, Inf) <= 0.9", "@wellposed unchecked")]
)
def test_the_values_of_states_are_those_of_the_reference(text: str) -> None:
    save(text, "net")
    (name,) = re.findall(r"model (\w+)", text)
    module = getattr(implicit_dsl.load("net.impl"), name)().double().eval()
    if "unchecked" in text:
        module.A.data *= 3 / module.A.abs().sum(1).max()  # no contraction: solved one by one
    shape = (7, 3, 4) if "_" in text.split("state")[0] else (7, 4)
    inputs = torch.randn(*shape, dtype=torch.float64)
    system = module.system(**({"u": (3, 4)} if len(shape) == 3 else {}))
    found, taken = states_on(system, (inputs,))
    expected = system.states_of(inputs[:taken])

    assert found.keys() == expected.keys() and taken in (4, 7)
    for state, values in expected.items():
        assert np.allclose(values.flatten(1).numpy(), found[state], atol=1e-5)


def test_tokens_have_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    save(
        "model Tagged\n    input t[4] in Tokens(6)\n    state e[4, 3] ~ Embedding(6, 3)*t\n"
        "    output y[3] = Dense(3)*flatten(e)\nend\n",
        "tagged",
    )
    np.savez("words.npz", t=np.arange(12).reshape(3, 4) % 6, labels=np.array([0, 1, 2]))
    said = " ".join(parsed(made(capsys, "--data", "words.npz", "--epsilon", "0.1", stem="tagged")).text)

    assert "input tokens" in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--data", "absent.npz"], 1, "`absent.npz` cannot be read: no such file or directory"),
        (["--data", "points.csv"], 2, "`points.csv` must end in .npz"),
        (["--epsilon", "-1"], 2, "`-1` is no radius of at least 0"),
        (["--epsilon", "0.1,nan"], 2, "`nan` is no radius of at least 0"),
        (["--samples", "0"], 2, "`0` is no number of at least 1"),
        (["--lower", "1", "--upper", "0"], 2, "`--lower 1` is not below `--upper 0`"),
        (["-o", "page.pdf"], 2, "`page.pdf` must end in .html"),
        (["--norm", "1"], 2, "invalid choice: '1'"),
        (["-o", "absent/page.html"], 1, "`absent/page.html` cannot be written: there is no such folder"),
    ],
)
def test_wrong_options_are_refused(
    capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    found, err = report(capsys, "net.impl", "--weights", "net.safetensors", *words)

    assert (code, True) == (found, said in err), err
    assert not Path("net.html").exists()


DATA = {
    "`wrong.npz` has no array `inputs` or `u`: it has X, y": {"X": np.zeros((2, 4)), "y": np.zeros(2)},
    "samples of `u` in `wrong.npz` have the shape [5], and the model has [4]": {"inputs": np.zeros((2, 5))},
    "samples of `u` in `wrong.npz` have the shape [], and the model has [4]": {"inputs": np.zeros(4)},
    "has values that are not finite, in 1 sample, the first of them number 1": {
        "inputs": np.array([[0.0] * 4, [np.nan] * 4])
    },
    "`wrong.npz` holds no samples": {"inputs": np.zeros((0, 4))},
    "`u` in `wrong.npz` holds complex128 values": {"inputs": np.zeros((2, 4), complex)},
    "has both `inputs` and `u`": {"inputs": np.zeros((2, 4)), "u": np.zeros((2, 4))},
    "`labels` in `wrong.npz` has the shape [3], not [2]": {
        "inputs": np.zeros((2, 4)),
        "labels": np.zeros(3, int),
    },
    "`labels` in `wrong.npz` are from 0 to 3, those of the model from 0 to 2": {
        "inputs": np.zeros((2, 4)),
        "labels": np.array([0, 3]),
    },
    "`labels` in `wrong.npz` are not whole numbers": {
        "inputs": np.zeros((2, 4)),
        "labels": np.array([0, 0.5]),
    },
    "no array `inputs` or `u`: it has none that is not made of objects": {"inputs": np.array([{}, {}])},
}


@pytest.mark.parametrize("said", DATA)
def test_data_that_do_not_fit_are_refused(capsys: pytest.CaptureFixture[str], said: str) -> None:
    np.savez("wrong.npz", **DATA[said])
    code, err = report(capsys, "net.impl", "--weights", "net.safetensors", "--data", "wrong.npz")

    assert (1, True) == (code, said in err), err


def dense() -> tuple[np.ndarray, ...]:
    """|A|, |B|, |C| and |D| of the model with its weights, states in the order of the picture."""
    module = implicit_dsl.load("net.impl").Net()
    module.load_state_dict(tensors("net"))
    system = module.system()
    return tuple(
        np.abs(operator.to_scipy().toarray()) for operator in (system.A, system.B, system.C, system.D)
    )


def rows_of(page: str, caption: str) -> list[list[str]]:
    """The cells of the table with this caption, without its header."""
    table = page.split(f"<caption>{caption}</caption>")[1].split("</table>")[0].split("<tbody>")[1]
    listed = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in listed]


def test_the_sensitivity_is_that_of_the_matrices(capsys: pytest.CaptureFixture[str]) -> None:
    page = made(capsys)
    A, B, C, D = dense()
    S = C @ np.linalg.solve(np.eye(len(A)) - A, B) + D

    rows = rows_of(page, "By output")
    assert [row[0] for row in rows] == ["y[1]", "y[2]", "y[3]"]
    assert [float(row[1]) for row in rows] == pytest.approx(S.sum(1).tolist(), rel=1e-3)
    assert [row[3].split(" ")[0] for row in rows] == [f"u[{at + 1}]" for at in S.argmax(1)]
    strongest = rows_of(page, "Inputs of the largest influence")
    assert [float(row[1]) for row in strongest] == pytest.approx(sorted(S.max(0), reverse=True), rel=1e-3)


def test_images_are_shown_as_images(capsys: pytest.CaptureFixture[str]) -> None:
    save("model Eye\n    input u[2, 3, 5]\n    output y[4] = Dense(4)*flatten(u)\nend\n", "eye")
    tags = parsed(made(capsys, stem="eye"))
    images = [attrs for tag, attrs in tags.found if tag == "img"]

    assert [image["alt"] for image in images] == ["any output", "y[1]", "y[2]", "y[3]", "y[4]"]
    assert {(image["width"], image["height"]) for image in images} == {("110", "66")}


def test_lines_of_the_drawing_carry_the_strength_of_their_block(capsys: pytest.CaptureFixture[str]) -> None:
    page = made(capsys)
    A, B, C, _ = dense()
    x, h = slice(0, 6), slice(6, 11)
    sums = [M.sum(1).max() for M in (B[h], A[x, h], A[x, x], C[:, x])]
    drawing = page.split('id="influence"')[1].split("</svg>")[0]
    written = re.findall(r"<tspan[^>]*>([\d.]+)</tspan>", drawing)

    assert sorted(map(float, written)) == pytest.approx(sorted(sums), rel=6e-3)


def test_several_inputs_go_by_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    save("model Two\n    input u[2], v[3]\n    output y[2] = Dense(2)*u + Dense(2)*v\nend\n", "two")
    np.savez("two.npz", u=np.zeros((4, 2)), v=np.zeros((4, 3)), labels=np.zeros(4, int))
    made(capsys, "--data", "two.npz", "--epsilon", "0.1", stem="two")
    np.savez("two.npz", u=np.zeros((4, 2)), v=np.zeros((3, 3)))
    assert (
        "has 4 samples of `u`, but 3 of `v`"
        in report(capsys, "two.impl", "--weights", "two.safetensors", "--data", "two.npz")[1]
    )
    np.savez("two.npz", u=np.zeros((4, 2)))
    assert (
        "`two.npz` has no array `v`: it has u"
        in report(capsys, "two.impl", "--weights", "two.safetensors", "--data", "two.npz")[1]
    )


def test_a_failing_write_leaves_the_old_page(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = made(capsys)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    code, err = report(
        capsys, "net.impl", "--weights", "net.safetensors", "--data", "points.npz", "-o", "page.html"
    )

    assert code == 1 and "no space left on device" in err
    assert old == Path("page.html").read_text(encoding="utf-8")


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_a_png_shows_its_grid(height: int, width: int, seed: int) -> None:
    from PIL import Image

    grid = np.random.default_rng(seed).integers(0, 2 * SHADES + 1, (height, width))
    pixels = np.asarray(Image.open(io.BytesIO(indexed_png(grid, palette()))).convert("RGBA"))

    assert np.array_equal(np.array(palette(), dtype=np.uint8)[grid], pixels)
    assert data_uri(indexed_png(grid, palette())).startswith("data:image/png;base64,iVBORw0KGgo")


@pytest.mark.parametrize("grid", [np.zeros((0, 3), int), np.full((2, 2), 99), np.full((2, 2), -1)])
def test_a_grid_that_is_no_picture_is_refused(grid: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"cannot be written|colours"):
        indexed_png(grid, palette())


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_shades_are_signed_and_grow_with_the_value(values: list[float]) -> None:
    array = np.array(values)
    shades = Scale.of(array).shades(array).astype(int)

    assert np.array_equal(shades == 0, array == 0)
    assert ((shades > SHADES) == (array > 0)).all()
    order = np.argsort(np.abs(array))
    strength = np.where(shades > SHADES, shades - SHADES, shades)[order]
    assert (np.diff(strength) >= 0).all()


def test_shades_are_in_proportion_or_by_the_square_root() -> None:
    values = np.array([0.0, 0.25, 0.5, 1.0])

    assert Scale(1.0).shades(values).tolist() == [0, SHADES + 12, SHADES + 17, 2 * SHADES]
    assert Scale(1.0, proportional=True).shades(values).tolist() == [0, SHADES + 6, SHADES + 12, 2 * SHADES]


def test_values_that_are_not_finite_are_seen() -> None:
    assert Scale.of(np.array([1.0, np.inf])).shades(np.array([np.nan, np.inf, -np.inf])).min() > 0
    assert Scale.of(np.zeros(3)).most == 1.0


def test_the_picture_of_a_matrix_has_the_largest_value_of_each_cell() -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    rows, cols = rng.integers(0, 4000, (2, 9000))
    once = np.unique(rows * 4000 + cols)
    rows, cols, values = once // 4000, once % 4000, rng.normal(size=len(once))
    svg = values_svg(Spy("A", rows, cols, 4000, 4000, (("x", 4000),), (("x", 4000),)), values)
    sizes = []
    for encoded in re.findall(r'href="data:image/png;base64,([^"]*)"', svg):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
        sizes.append(len(pixels))
        expected = np.zeros(pixels.shape)
        for at in np.argsort(np.abs(values)):
            expected[rows[at] * len(pixels) // 4000, cols[at] * len(pixels) // 4000] = values[at]
        assert np.array_equal(Scale.of(values).shades(expected), pixels)

    assert sizes == [1000, 4000]


@given(st.floats(1e-12, 1e12))
def test_ticks_are_a_few_round_numbers_within_the_axis(most: float) -> None:
    found = ticks(most)

    assert found[0] == 0 and 2 <= len(found) <= 8
    assert found[-1] <= most * (1 + 1e-9)
    assert np.allclose(np.diff(found), found[1], rtol=1e-6)


@pytest.mark.parametrize("attacked", [None, 0.7])
def test_the_curve_begins_at_the_clean_accuracy(attacked: float | None) -> None:
    svg = curve([Accuracy(0.1, 0.9, 0.5, attacked), Accuracy(0.2, 0.9, 0.25, attacked)], "inf")
    tags = parsed(svg)
    circles = [attrs for tag, attrs in tags.found if tag == "circle" and attrs["class"] == "proved"]
    heights = [float(attrs["cy"] or 0) for attrs in circles]
    top, bottom = 18, 360 - 58

    assert [round((bottom - y) / (bottom - top), 2) for y in heights] == [0.9, 0.5, 0.25]
    assert ("under attack" in svg) == (attacked is not None)
    assert "∞-norm" in svg


@pytest.mark.parametrize("radii", [[0.0], [0.0, 0.1], [1e-9]])
def test_a_curve_of_any_radii_is_drawn(radii: list[float]) -> None:
    svg = curve([Accuracy(epsilon, 1.0, 0.0, 1.0) for epsilon in radii], "2")

    assert "nan" not in svg and "inf" not in svg
    parsed(svg)


@given(st.text(alphabet='model Net\n\t"#=<>&é \r', max_size=60))
def test_highlighting_loses_no_text(text: str) -> None:
    lines = ["".join(piece for _, piece in line) for line in highlighted(text)]
    expected = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n").replace("\t", "    ").split("\n")

    assert expected == lines


def test_without_pygments_the_program_is_plain(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "implicit_dsl.highlighting", None)
    page = made(capsys)

    assert "state h[5] ~ relu(Dense(5)*u)" in html.unescape(page)
    assert '<i class="' not in page


def test_cells_of_a_file_are_compressed_whole() -> None:
    made_png = indexed_png(np.zeros((3, 2), int), palette())
    at = made_png.index(b"IDAT")
    length = int.from_bytes(made_png[at - 4 : at], "big")

    assert zlib.decompress(made_png[at + 4 : at + 4 + length]) == bytes(9)
