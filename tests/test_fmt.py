"""`implicitc fmt` from outside: what it writes, what it prints, its exit codes, and what it leaves alone."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from implicit_dsl import cli, files, formatting

MESSY = "model Net\n  input u[4]\n  output y=Dense(2)*u # two\nend"
TIDY = "model Net\n    input u[4]\n    output y = Dense(2) * u  # two\nend\n"
BROKEN = "model Net\n  input u[4\nend\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "messy.impl").write_text(MESSY)
    (tmp_path / "tidy.impl").write_text(TIDY)
    (tmp_path / "broken.impl").write_text(BROKEN)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(("fmt", *words))
    caught = capsys.readouterr()
    return code, caught.out, caught.err


def process(*words: str, given: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "implicit_dsl", "fmt", *words]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    return subprocess.run(command, input=given, capture_output=True, env=environment)


def test_a_file_is_rewritten_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "messy.impl"
    path.chmod(0o640)

    assert run(capsys, "messy.impl") == (0, "formatted messy.impl\n", "")
    assert path.read_text() == TIDY
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    before = path.stat()
    assert run(capsys, "messy.impl") == (0, "1 file: nothing to do\n", "")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_check_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--check", "messy.impl", "tidy.impl")

    assert (1, "messy.impl would change\n1 of 2 files would change\n") == (code, out)
    assert (folder / "messy.impl").read_text() == MESSY
    assert run(capsys, "--check", "tidy.impl") == (0, "1 file: nothing to do\n", "")


def test_diff_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--diff", "messy.impl", "tidy.impl")

    assert code == 0
    assert out.startswith("--- messy.impl\n+++ messy.impl (formatted)\n")
    assert "+    output y = Dense(2) * u  # two\n" in out
    assert "-end\n\\ No newline at end of file\n" in out
    assert (folder / "messy.impl").read_text() == MESSY
    assert run(capsys, "--diff", "--check", "messy.impl")[0] == 1
    assert run(capsys, "--diff", "--check", "tidy.impl") == (0, "", "")


def test_a_text_with_errors_is_left_and_the_others_are_done(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "broken.impl", "missing.impl", "messy.impl")

    assert code == 1
    assert "formatted messy.impl\n" in out
    assert "broken.impl:2:10" in err
    assert "there is no file `missing.impl`" in err
    assert (folder / "broken.impl").read_text() == BROKEN
    assert (folder / "messy.impl").read_text() == TIDY


def test_standard_input_goes_to_standard_output_in_utf8() -> None:
    made = process("-", given="x ~ κ*x # ∞\r\n".encode())
    assert (0, "x ~ κ*x  # ∞\n".encode(), b"") == (made.returncode, made.stdout, made.stderr)

    checked = process("-", "--check", given=b"x=1")
    assert (1, b"") == (checked.returncode, checked.stdout)

    wrong = process("-", given=b"x = (\n")
    assert (1, b"") == (wrong.returncode, wrong.stdout)
    assert b"<stdin>:1:5" in wrong.stderr


def test_folders_are_searched(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a/b/inner.impl", "a/other.txt", ".hidden/secret.impl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(MESSY)
    (folder / "broken.impl").unlink()
    code, out, _ = run(capsys, ".", "messy.impl", "./a")

    assert code == 0
    assert out.count("formatted") == 3
    assert (folder / "a" / "b" / "inner.impl").read_text() == TIDY
    assert (folder / "a" / "other.txt").read_text() == MESSY
    assert (folder / ".hidden" / "secret.impl").read_text() == MESSY
    (folder / "empty").mkdir()
    assert "no program in the folder `empty`" in run(capsys, "empty")[2]


def test_a_failing_write_leaves_the_old_file(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    code, _, err = run(capsys, "messy.impl")

    assert code == 1
    assert "`messy.impl` cannot be written: no space left on device" in err
    assert (folder / "messy.impl").read_text() == MESSY
    assert not list(folder.glob(".implicitc*"))


def test_a_mistake_of_ours_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formatting, "layout", lambda source, spelling: source.text.replace("*", "+"))
    code, _, err = run(capsys, "messy.impl")

    assert code == cli.INTERNAL
    assert "internal error" in err
    assert (folder / "messy.impl").read_text() == MESSY


def test_spellings_exclude_each_other(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "signs.impl").write_text("a = b <= ∞\n", encoding="utf-8")

    assert run(capsys, "--ascii", "--unicode", "signs.impl")[0] == cli.USAGE
    assert run(capsys, "--ascii", "signs.impl")[0] == 0
    assert (folder / "signs.impl").read_text(encoding="utf-8") == "a = b <= Inf\n"
    assert run(capsys, "--unicode", "signs.impl")[0] == 0
    assert (folder / "signs.impl").read_text(encoding="utf-8") == "a = b ≤ ∞\n"
    assert run(capsys, "-", "-")[0] == cli.USAGE


def test_formatting_loads_little(folder: Path) -> None:
    script = "import sys; from implicit_dsl import cli; cli.main(['fmt', 'messy.impl']); print(*sys.modules)"
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(made.stdout.split())

    assert "implicit_dsl.formatting" in loaded
    assert not {"torch", "numpy", "scipy", "networkx", "jinja2", "implicit_dsl.resolve"} & loaded
