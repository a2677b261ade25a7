"""How lines of generated files are broken, and what is said of a model in one sentence."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

import implicit_dsl
from implicit_dsl.emit.wording import fitted


def expression(draw: random.Random, depth: int) -> str:
    """A random call, tuple, dictionary, string or name, written on one line."""

    def word() -> str:
        return "".join(draw.choice("abcdef_") for _ in range(draw.choice([1, 3, 8, 20, 40])))

    kind = draw.choice(["name", "string", "tuple", "single", "dict", "call", "call", "call"])
    if depth == 0 or kind == "name":
        return f"v{word()}"
    if kind == "string":
        return draw.choice(['"norm(K, Inf) <= κ"', '"a, b)"', "'a\"(b'", '"it is {x"'])
    inner = [expression(draw, depth - 1) for _ in range(draw.randint(2, 4))]
    if kind == "tuple":
        return f"({', '.join(inner)})"
    if kind == "single":
        return f"({inner[0]},)"
    if kind == "dict":
        return "{" + ", ".join(f'"{word()}": {value}' for value in inner) + "}"
    return f"f{word()}({', '.join([*inner[1:], *(f'k{word()}={value}' for value in inner[:1])])})"


@pytest.mark.parametrize("seed", range(3))
def test_lines_are_broken_as_ruff_breaks_them(seed: int) -> None:
    draw = random.Random(seed)
    lines = ["class Net:", "    def __init__(self):"]
    for number in range(150):
        text = f"self.a{number} = {expression(draw, 3)}"
        lines += [f"        {row}" for row in fitted(text, draw.choice(["", f"  # line {number}"]))]
    source = "\n".join(lines) + "\n"
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "110", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=True, encoding="utf-8")

    assert done.stdout == source


def chain(draw: random.Random) -> str:
    """A value, and what is called on it one after another; now and then in a product or a sum."""

    def word(least: int) -> str:
        return "".join(draw.choice("abcdef") for _ in range(draw.randint(least, 12)))

    text = draw.choice([f"self.{word(5)}({word(3)})", f"{word(5)}.{word(4)}(1)", f"({word(9)} * {word(4)})"])
    for _ in range(draw.randint(0, 3)):
        text += draw.choice(["[:, None]", ".mT", ".flatten(1)", ".transpose(1, 2)", f".expand({word(3)}, 8)"])
    for _ in range(draw.choice([0, 0, 0, 1, 2])):
        text = f"{draw.choice(['0.5 *', word(4) + ' +', word(4) + ' -'])} {text}"
    return text


@pytest.mark.parametrize("seed", range(3))
def test_chains_of_calls_are_broken_as_ruff_breaks_them(seed: int) -> None:
    draw = random.Random(seed)
    lines = ["class Net:", "    def f(self):"]
    for number in range(300):
        value = chain(draw)
        name = f"a{number:_>{draw.randint(100 - len(value), 112 - len(value))}}"
        lines += [f"        {row}" for row in fitted(f"{name} = {value}")]
    source = "\n".join(lines) + "\n"
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "110", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=True, encoding="utf-8")

    assert done.stdout == source


@pytest.mark.parametrize(
    ("doc", "summary"),
    [
        ("One line.", "One line."),
        ("A cell of Bai et al. 2020. It has no bound.", "A cell of Bai et al. 2020."),
        ("It is\nsplit over lines (2020). The rest\nfollows.", "It is split over lines (2020)."),
        ("No stop at the end\n\nAnother paragraph.", "No stop at the end"),
        ("Ends at a name. `G` is a graph.", "Ends at a name."),
    ],
)
def test_a_file_is_described_by_the_first_sentence_of_its_model(doc: str, summary: str) -> None:
    text = f'"""{doc}"""\nmodel Net\n    input u[2]\n    output y = u\nend\n'

    assert summary == implicit_dsl.loads(text).__doc__
