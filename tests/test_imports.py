"""Imports: from the library, from files beside the program, from the include path, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import implicit_dsl
from implicit_dsl import ImplicitError, _resources
from implicit_dsl.compiler import Checked, check, compile, read_source
from implicit_dsl.errors import Diagnostic, render

CELL = "block Cell(n)\n    input x[_]\n    output y = {phi}(Dense(n)*x)\nend\n"
USE = "model M\n    input u[4]\n    output y = u |> {cell}\nend\n"
LIBRARY = _resources.names("std", ".impl")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a program's folder `net`, two of the include path, and a secret."""
    for folder in ("net/sub", "lib/deep", "more"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "secret.impl").write_text(CELL.format(phi="relu"))
    (tmp_path / "net" / "near.impl").write_text(CELL.format(phi="relu"))
    (tmp_path / "lib" / "near.impl").write_text(CELL.format(phi="tanh"))
    (tmp_path / "lib" / "far.impl").write_text(CELL.format(phi="tanh"))
    (tmp_path / "more" / "far.impl").write_text(CELL.format(phi="sigmoid"))
    (tmp_path / "more" / "farther.impl").write_text('import "far.impl": Cell\n')
    (tmp_path / "lib" / "deep" / "cell.impl").write_text('import "../far.impl": Cell\n')
    return tmp_path


def checked(home: Path, text: str, *include: str, name: str = "main.impl") -> Checked:
    path = home / "net" / "main.impl"
    path.write_text(text)
    return check(read_source(str(path), name), include=[str(home / folder) for folder in include])


def activation(found: Checked) -> str:
    assert not found.diagnostics, "\n".join(map(render, found.diagnostics))
    (state,) = found.models[0].states
    return state.phi


def only(found: Checked) -> Diagnostic:
    (diagnostic,) = found.diagnostics
    return diagnostic


# --------------------------------------------------------------------------- the include path


@pytest.mark.parametrize(
    ("line", "include", "phi"),
    [
        ('import "near.impl": Cell', (), "relu"),
        ('import "near.impl": Cell', ("lib",), "relu"),  # what is near comes first
        ('import "far.impl": Cell', ("lib", "more"), "tanh"),  # then in order
        ('import "far.impl": Cell', ("more", "lib"), "sigmoid"),
        ("import far: Cell", ("lib",), "tanh"),
        ("import deep.cell: Cell", ("lib",), "tanh"),  # `..` stays inside
        ('import "deep/../far.impl": Cell', ("lib",), "tanh"),
        ("import farther: Cell", ("lib", "more"), "sigmoid"),  # relative to the importing file
    ],
)
def test_a_file_is_looked_for_beside_the_program_and_then_along_the_include_path(
    home: Path, line: str, include: tuple[str, ...], phi: str
) -> None:
    assert activation(checked(home, f"{line}\n{USE.format(cell='Cell(3)')}", *include)) == phi


def test_every_door_takes_the_include_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "net" / "main.impl"
    path.write_text("import far: Cell\n" + USE.format(cell="Cell(3)"))
    lib = str(home / "lib")
    assert "torch.tanh" in compile(read_source(str(path)), include=[lib])
    assert (1, 3) == implicit_dsl.load(path, include=[home / "lib"]).M()(torch.ones(1, 4)).shape
    loaded = {implicit_dsl.load(path, include=[home / folder]) for folder in ("lib", "more")}
    assert len(loaded) == 2
    with pytest.raises(NotADirectoryError):
        implicit_dsl.load(path, include=[home / "gone"])
    with pytest.raises(ImplicitError, match=r"there is no file `far\.impl`"):
        implicit_dsl.load(path)
    monkeypatch.setenv("IMPLICITC_PATH", os.pathsep.join(["", str(home / "gone"), lib]))
    assert (1, 3) == implicit_dsl.load(path).M()(torch.ones(1, 4)).shape


def run(home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "implicit_dsl", *words],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(Path(implicit_dsl.__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
    )


def test_the_command_line_takes_the_include_path(home: Path) -> None:
    (home / "net" / "main.impl").write_text("import far: Cell\n" + USE.format(cell="Cell(3)"))

    made = run(home, "compile", "net/main.impl", "-I", "lib", "-o", "-")
    assert "run `implicitc compile main.impl -I lib`" in made.stdout
    assert "# far.impl:3: output y = tanh(Dense(n)*x)" in made.stdout
    absolute = run(home, "compile", "net/main.impl", "-I", str(home / "lib"), "-o", "-")
    assert str(home) not in absolute.stdout.replace("net/main.impl", "")
    assert run(home, "check", "net/main.impl", IMPLICITC_PATH="lib").returncode == 0
    refused = run(home, "check", "net/main.impl", "-I", "gone")
    assert refused.returncode == 2 and "there is no such folder" in refused.stderr


# --------------------------------------------------------------------------- nothing outside of it


@pytest.mark.parametrize("include", [(), ("lib",)])
@pytest.mark.parametrize(
    "path",
    [
        "../secret.impl",
        "sub/../../secret.impl",
        "link.impl",
        "sub/up/secret.impl",
        "/etc/hostname.impl",
        "..\\\\secret.impl",
        "~/secret.impl\\n",
        "file:///etc/passwd",
        "\\u0000.impl",
        "near.impl\\u0000",
        "",
        ".impl/..",
    ],
)
def test_a_path_that_leads_outside_is_refused(home: Path, path: str, include: tuple[str, ...]) -> None:
    os.symlink(home / "secret.impl", home / "net" / "link.impl")
    os.symlink(home, home / "net" / "sub" / "up")

    found = only(checked(home, f'import "{path}"\n' + USE.format(cell="relu"), *include))

    assert found.code == "E0803"
    # whether such a file is there is not told
    assert "no file" not in found.message


def test_an_include_folder_does_not_open_what_lies_around_it(home: Path) -> None:
    (home / "lib" / "escape.impl").write_text('import "../secret.impl": Cell\n')
    os.symlink(home / "secret.impl", home / "lib" / "link.impl")

    found = only(checked(home, "import escape: Cell\n" + USE.format(cell="Cell(3)"), "lib"))
    assert (found.code, os.path.basename(found.span.source.name)) == ("E0803", "escape.impl")
    assert only(checked(home, "import link: Cell\n" + USE.format(cell="relu"), "lib")).code == "E0803"
    both = checked(home, "import escape: Cell\n" + USE.format(cell="Cell(3)"), "lib", ".")
    assert not both.diagnostics  # an outer folder was opened


def test_links_inside_are_followed(home: Path) -> None:
    os.symlink(home / "net" / "near.impl", home / "net" / "sub" / "alias.impl")

    assert activation(checked(home, "import sub.alias: Cell\n" + USE.format(cell="Cell(3)"))) == "relu"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_what_is_no_file_is_not_opened(home: Path) -> None:
    os.mkfifo(home / "net" / "pipe.impl")
    (home / "net" / "folder.impl").mkdir()
    os.symlink("loop.impl", home / "net" / "loop.impl")

    for name, why in (("pipe", "regular file"), ("folder", "regular file"), ("loop", "cannot be read")):
        found = only(checked(home, f'import "{name}.impl"\n' + USE.format(cell="relu")))
        assert found.code == "E0801" and why in found.message


# --------------------------------------------------------------------------- circles, and what is missing


def test_a_circle_is_told_with_all_its_files(home: Path) -> None:
    for name, other in ("ab", "bc", "ca"):
        (home / "net" / f"{name}.impl").write_text(f"import {other}\n")

    found = only(checked(home, "import a\n" + USE.format(cell="relu")))
    assert found.code == "E0802"
    assert found.span.source.name == "c.impl"
    assert found.notes == ("a.impl imports b.impl imports c.impl imports a.impl",)


@pytest.mark.parametrize(
    ("line", "help"),
    [
        ("import nearr", "did you mean `near`?"),
        ('import "nearr.impl"', "did you mean `near.impl`?"),
        ("import deep.cel", "did you mean `deep.cell`?"),
        ("import farthr", "did you mean `farther`?"),
        ("import basic", "did you mean `std.basic`, of the library?"),
        ("import std.bsic", "did you mean `std.basic`?"),
        ("import zzzz", ""),
    ],
)
def test_a_missing_file_comes_with_what_may_have_been_meant(home: Path, line: str, help: str) -> None:
    found = only(checked(home, f"{line}\n" + USE.format(cell="relu"), "lib", "more"))

    assert (found.code, found.help) == ("E0801", help)


def test_mistakes_in_imported_files_point_into_them(home: Path) -> None:
    (home / "net" / "sub" / "wrong.impl").write_text(
        "block Wrong\n    input x[_]\n    output y = Dens(3)*x\nend\n"
    )
    (home / "net" / "sub" / "torn.impl").write_text("block Torn(\n")
    text = "import sub.wrong: Wrong\n" + USE.format(cell="Wrong()")

    assert only(checked(home, text)).span.where == "sub/wrong.impl:3:16"
    there = only(checked(home, text, name="net/main.impl"))
    assert there.span.where == "net/sub/wrong.impl:3:16"
    assert [frame.span.where for frame in there.path] == ["net/main.impl:4:21"]
    torn = checked(home, "import sub.torn: Torn\n" + USE.format(cell="Torn()"))
    assert {d.span.source.name for d in torn.diagnostics} == {"sub/torn.impl"}


# --------------------------------------------------------------------------- the library


def test_std_is_the_library_whatever_lies_beside_the_program(home: Path) -> None:
    for folder in ("net/std", "lib/std"):
        (home / folder).mkdir()
        (home / folder / "basic.impl").write_text(CELL.format(phi="relu").replace("Cell", "MLP"))
    text = "import std.basic: MLP\n" + USE.format(cell="MLP([3, 2]; act = tanh)")

    found = checked(home, text)
    assert [state.phi for state in found.models[0].states if state.activation] == ["tanh"]
    assert [d.code for d in found.diagnostics] == ["W0801"]
    assert [d.code for d in checked(home, text, "lib").diagnostics] == ["W0801"]
    own = 'import "std/basic.impl": MLP\n' + USE.format(cell="MLP(3)")
    assert activation(checked(home, own)) == "relu"
    (home / "lib" / "std" / "mine.impl").write_text(CELL.format(phi="relu"))
    assert only(checked(home, "import std.mine\n" + USE.format(cell="relu"), "lib")).code == "E0801"


def test_the_library_is_named_by_its_files(home: Path) -> None:
    found = only(checked(home, "import std\n" + USE.format(cell="relu")))

    assert found.code == "E0801"
    for name in LIBRARY:
        assert f"`std.{name.removesuffix('.impl')}`" in found.help


def test_names_of_the_library_are_reached_in_three_ways(home: Path) -> None:
    for line, cell in (
        ("import std.basic: MLP as Perceptron", "Perceptron([3])"),
        ("import std.basic", "basic.MLP([3])"),
        ("import std.basic: MLP, Skip", "Skip(MLP([4]))"),
    ):
        assert not checked(home, f"{line}\n" + USE.format(cell=cell)).diagnostics


def test_mistakes_in_blocks_of_the_library_tell_where_they_were_used(home: Path) -> None:
    found = only(checked(home, "import std.basic: Skip\n" + USE.format(cell="Skip(Dense(3))")))

    assert found.code == "E0204"
    assert found.span.source.name == "std/basic.impl"
    assert found.path[0].span.where == "main.impl:4:21"
