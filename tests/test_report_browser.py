"""The report in a real browser: it opens offline, logs nothing, fits, can be read, and its pictures move."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from browsing import Browser, browser, missing
from safetensors.torch import save_file

import implicit_dsl
from implicit_dsl import cli

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
torch.set_num_threads(1)

NET = """
\"\"\"Three classes of points <script>document.title = 'broken'</script>.\"\"\"
model Net(n = 30)
    input u[2, 4, 4]
    state a_long_name_of_a_state[24] ~ relu(Dense(24)*flatten(u))
    param A[n, n]
    state x[n] ~ tanh(A*x + Dense(n)*a_long_name_of_a_state)
    state z[12] ~ tanh(Dense(12)*x)
    output y[3] = Dense(3)*z
    @wellposed norm(A, Inf) <= 0.9
end
"""
WIDTHS = (1280, 400)
CHECKS = Path(__file__).parent / "pages"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("report")
    (home / "net.impl").write_text(NET)
    torch.manual_seed(0)
    module = implicit_dsl.load(home / "net.impl").Net()
    module.project_()
    save_file(module.state_dict(), home / "net.safetensors")
    rng = np.random.default_rng(0)
    np.savez(home / "points.npz", inputs=rng.normal(size=(12, 2, 4, 4)), labels=rng.integers(0, 3, 12))
    made = home / "page.html"
    words = [str(home / "net.impl"), "--weights", str(home / "net.safetensors"), "-o", str(made)]
    assert (
        cli.main(["report", *words, "--data", str(home / "points.npz"), "--epsilon", "0.001,0.01,0.1"]) == 0
    )
    return made


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    with browser() as window:
        yield window


@pytest.fixture
def window(running: Browser, page: Path) -> Browser:
    """The page, opened anew on a desk."""
    running.darken(False)
    running.resize(1280, 900)
    running.open(page)
    return running


def checking(name: str) -> str:
    """A script that finds what is wrong with how a page looks."""
    return (CHECKS / f"{name}.js").read_text(encoding="utf-8")


def view(window: Browser) -> list[float]:
    """The part of the first picture that is seen: left, top, width, height."""
    return [float(one) for one in window.run(f"return {_SVG}.getAttribute('viewBox')").split()]


_SVG = "document.querySelector('figure.zoom svg')"


def middle(window: Browser) -> tuple[int, int]:
    """Where the middle of the first picture is in the window, once it is scrolled to."""
    script = f"{_SVG}.scrollIntoView({{block: 'center'}}); const b = {_SVG}.getBoundingClientRect(); "
    x, y = window.run(script + "return [b.left + b.width / 2, b.top + b.height / 2]")
    return round(x), round(y)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_opens_offline_and_fits(window: Browser, width: int, dark: bool) -> None:
    from PIL import Image

    window.resize(width, 900)
    window.darken(dark)
    shown = window.screenshot()
    ground = np.asarray(Image.open(io.BytesIO(shown)).convert("L"))[:5].mean()

    assert window.logged() == []
    assert window.run("return document.title") == "Net"
    assert window.run("return document.documentElement.scrollWidth") <= width
    assert (
        window.run(
            "return performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length"
        )
        == 0
    )
    assert (ground < 60) == dark
    assert window.run(checking("overlaps")) == []
    assert window.run(checking("faint")) == []


def test_the_wheel_enlarges_what_is_under_it_and_the_page_scrolls_on(window: Browser) -> None:
    full, (x, y) = view(window), middle(window)
    window.wheel(x, y, -240)
    near = view(window)
    assert near[2] < full[2] * 0.7
    assert near[0] + near[2] / 2 == pytest.approx(full[0] + full[2] / 2, abs=full[2] / 50)
    assert near[2] / near[3] == pytest.approx(full[2] / full[3], rel=1e-3)
    for _ in range(8):
        window.wheel(x, y, 240)
    assert view(window) == full
    assert window.run("return scrollY") > 0
    before = window.run("return scrollY")
    window.wheel(x, y, 240)
    assert window.run("return new Promise(done => setTimeout(() => done(scrollY), 300))") > before


def test_what_is_enlarged_can_be_dragged(window: Browser) -> None:
    x, y = middle(window)
    window.drag((x, y), (x + 80, y + 50))
    whole = view(window)
    window.wheel(x, y, -240)
    before = view(window)
    scale = before[2] / float(window.run(f"return {_SVG}.getBoundingClientRect().width"))
    window.drag((x, y), (x + 80, y + 50))
    after = view(window)

    assert whole[2] > before[2]  # what is shown whole stays
    assert after[2:] == before[2:]
    assert before[0] - after[0] == pytest.approx(80 * scale, rel=0.05)
    assert before[1] - after[1] == pytest.approx(50 * scale, rel=0.05)
    for _ in range(30):
        window.drag((x, y), (x + 300, y + 200))
    assert view(window)[:2] == whole[:2]  # and not beyond its edge


def test_keys_and_buttons_do_the_same(window: Browser) -> None:
    full = view(window)
    window.run("document.querySelector('figure.zoom').focus()")
    window.press("+")
    window.press("+")
    by_keys = view(window)
    window.press("\ue014")  # the arrow to the right
    assert view(window)[0] > by_keys[0]
    window.press("0")
    assert view(window) == full
    for _ in range(2):
        window.run("document.querySelector('figure.zoom button[data-do=in]').click()")
    assert view(window) == by_keys
    window.run("document.querySelector('figure.zoom button[data-do=out]').click()")
    assert view(window)[2] > by_keys[2]
    window.run("document.querySelector('figure.zoom button[data-do=whole]').click()")
    assert view(window) == full


def test_the_entry_under_the_pointer_is_told(window: Browser) -> None:
    middle(window)
    script = f"""
    const grid = JSON.parse({_SVG}.closest('figure').dataset.grid), box = {_SVG}.getBoundingClientRect();
    const view = {_SVG}.viewBox.baseVal, [left, top, width, height] = grid.box,
      [at, value] = Object.entries(grid.values)[7];
    const row = Math.floor(at / grid.size[1]), col = at % grid.size[1];
    const x = left + (col + .5) / grid.size[1] * width, y = top + (row + .5) / grid.size[0] * height;
    return [box.left + x / view.width * box.width, box.top + y / view.height * box.height, row, col, value];
    """
    x, y, row, col, value = window.run(script)
    window.hover(round(x), round(y))
    told = window.run("return document.querySelector('figure.zoom output').textContent")
    rows = [("z", 12), ("x", 30), ("a_long_name_of_a_state", 24)]

    assert told == f"{named(rows, row)} reads {named(rows, col)} × {value}"
    window.hover(2, 2)
    assert window.run("return document.querySelector('figure.zoom output').textContent") == ""


def named(blocks: list[tuple[str, int]], index: int) -> str:
    for name, size in blocks:
        if index < size:
            return f"{name}[{index + 1}]"
        index -= size
    raise AssertionError("beyond the last block")


def test_without_script_all_of_it_is_there(running: Browser, page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    start, end = text.index("<script>"), text.index("</script>") + len("</script>")
    bare = tmp_path / "bare.html"
    bare.write_text(text[:start] + text[end:], encoding="utf-8")
    running.open(bare)
    buttons = running.run(
        "return [...document.querySelectorAll('button')].filter(b => b.getClientRects().length).length"
    )

    assert buttons == 0
    assert running.run("return document.querySelectorAll('section svg').length") >= 2
    assert running.logged() == []


def test_it_prints(window: Browser) -> None:
    assert window.print_page().startswith(b"%PDF")
    assert window.logged() == []


def test_a_script_that_gets_in_does_not_run(running: Browser, page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    text = page.read_text(encoding="utf-8").replace(
        "</main>", "<script>document.title = 'run'</script></main>"
    )
    broken.write_text(text, encoding="utf-8")
    running.open(broken)

    assert running.run("return document.title") == "Net"
    (said,) = running.logged()
    assert "Content Security Policy" in said
