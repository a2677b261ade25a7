"""The documentation: its programs compile, its Python and its commands run, its tables and links are right.

A block ```impl is a whole program, and compiles without any finding; with
`<!-- error: E0900 -->` on the line behind its fence it gives exactly these codes, and with
`<!-- warning: W0101 -->` it compiles with these. The blocks ```python and ```console of a page
are run in order, in a fresh interpreter and a folder with the examples; what a
console block shows behind a command is what the command prints.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [page for page in (ROOT / "README.md", *DOCS) if page.exists()]


class Block(NamedTuple):
    """A fenced block: its language, its text, where it begins, and the codes it should give."""

    language: str
    text: str
    page: Path
    line: int
    codes: tuple[str, ...]

    @property
    def where(self) -> str:
        return f"{self.page.name}:{self.line}"


_FENCE = re.compile(
    r"^```(\w+)\n(.*?)^```[ ]*\n(?:\s*<!-- (?:error|warning): ([EW\d, ]+) -->)?", re.MULTILINE | re.DOTALL
)


def blocks(page: Path, *languages: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        language, inside, codes = match.groups(default="")
        line = text.count("\n", 0, match.start()) + 1
        if language in languages:
            found.append(Block(language, inside, page, line, tuple(codes.replace(",", " ").split())))
    return found


# --------------------------------------------------------------------------- run as a program: one page


def run(page: Path) -> None:
    """Run the Python and the commands of a page here, in one namespace."""
    space: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page, "python", "console"):
        if block.language == "python":
            exec(compile("\n" * block.line + block.text, str(page), "exec"), space)
        else:
            _run_console(block)


def _run_console(block: Block) -> None:
    """Run the lines that begin with `$ `; together they print what stands below them."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, shown = part.split("\n", 1)
        script = f'implicitc() {{ "$PYTHON" -m implicit_dsl "$@"; }}\n{command}'
        made = subprocess.run(
            ["sh", "-c", script],
            env={**os.environ, "PYTHON": sys.executable},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        assert shown.rstrip() == made.stdout.rstrip(), f"{block.where}: `{command}` prints\n{made.stdout}"


if __name__ == "__main__":
    run(Path(sys.argv[1]))
    sys.exit()


# --------------------------------------------------------------------------- tests

import pytest  # noqa: E402 (not needed where a page is run)

from implicit_dsl.compiler import check  # noqa: E402
from implicit_dsl.operators import ACTIVATIONS, CONSTRUCTORS  # noqa: E402
from implicit_dsl.operators.base import ActivationRule, Rule  # noqa: E402
from implicit_dsl.resolve.builtins import BUILTINS  # noqa: E402
from implicit_dsl.sets import SETS  # noqa: E402
from implicit_dsl.source import Source  # noqa: E402

PROGRAMS = [block for page in PAGES for block in blocks(page, "impl")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the examples."""
    for program in (ROOT / "examples").glob("*.impl"):
        shutil.copy(program, tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: block.where)
def test_a_program_gives_what_the_page_says(block: Block, folder: Path) -> None:
    found = check(Source(block.text, block.where, str(folder / "page.impl")))

    assert list(block.codes) == [d.code for d in found.diagnostics], found.diagnostics
    if not any(code.startswith("E") for code in block.codes):
        assert found.models


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_and_the_commands_of_a_page_run(page: Path, folder: Path) -> None:
    if not blocks(page, "python", "console"):
        pytest.skip("nothing to run")
    path = os.pathsep.join(filter(None, (str(ROOT), str(folder), os.environ.get("PYTHONPATH"))))
    made = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(page)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )

    assert made.returncode == 0, made.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in _anchors(there), f"{page.name} links to {target}"


def _anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --------------------------------------------------------------------------- tables of docs/language.md


def _section(title: str) -> str:
    text = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def _first_column(section: str) -> set[str]:
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))


def _signature(name: str, rule: Rule) -> str:
    required = [formal.name for formal in rule.formals if formal.required]
    if isinstance(rule, ActivationRule) and name[0].islower():
        required += rule.arguments
    settings = [f"{f.name} = {f.default_text}" for f in rule.formals if not f.required]
    return f"{name}({', '.join(required)}{'; ' if settings else ''}{', '.join(settings)})"


def test_the_table_of_operators_is_the_registry() -> None:
    expected = {_signature(name, rule) for name, rule in CONSTRUCTORS.items()}

    assert expected == _first_column(_section("Operators"))


def test_the_table_of_activations_is_the_registry() -> None:
    assert all(isinstance(rule, ActivationRule) for rule in ACTIVATIONS.values())
    expected = {_signature(name, rule) for name, rule in ACTIVATIONS.items()}

    assert expected == _first_column(_section("Activations"))


def test_every_function_of_the_language_is_listed() -> None:
    listed = set(re.findall(r"`(\w+)[`(]", _section("Compile-time values")))

    assert set(BUILTINS) - set(CONSTRUCTORS) - set(ACTIVATIONS) - set(SETS) <= listed


def test_every_set_is_in_its_table() -> None:
    rows = [
        line.split("|")[1] for line in _section("Sets of matrices").splitlines() if line.startswith("| `")
    ]

    assert sorted(re.findall(r"`(\w+)\(", "".join(rows))) == sorted(SETS)


def test_every_initialiser_is_in_its_table() -> None:
    section = _section("Parameters and matrices")
    names = set(re.findall(r"^\| `(\w+)\(", section, re.MULTILINE))

    assert names == {
        "zeros", "ones", "constant", "normal", "uniform", "glorot", "kaiming", "orthogonal", "fixed"
    }  # fmt: skip
