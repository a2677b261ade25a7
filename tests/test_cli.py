"""The command line: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from implicit_dsl import cli, files
from implicit_dsl.header import Provenance, provenance

ROOT = Path(__file__).parents[1]
NET = (
    "model Net(n = 3)\n    input u[4]\n    state h[n] ~ relu(Dense(n)*u)\n    output y[2] = Dense(2)*h\nend\n"
)
BROKEN = NET.replace("relu(Dense(n)*u)", "relu(Dense(5 => n)*u)")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "net.impl").write_text(NET)
    (tmp_path / "broken.impl").write_text(BROKEN)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(words)
    caught = capsys.readouterr()
    return code, caught.out, caught.err


def process(*words: str, given: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "implicit_dsl", *words]
    return subprocess.run(command, input=given, capture_output=True, env={**os.environ, **environment})


def test_compile_writes_a_module_that_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "compile", "net.impl")

    assert (0, "wrote net.py  Net: 1 state, 23 parameters\n", "") == (
        code,
        out,
        err,
    )
    text = (folder / "net.py").read_text()
    assert provenance(text) is Provenance.OURS
    script = "import torch, net; print(tuple(net.Net()(torch.zeros(5, 4)).shape))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "(5, 2)\n"


def test_compile_again_touches_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "compile", "net.impl")
    before = (folder / "net.py").stat()
    code, out, _ = run(capsys, "compile", "net.impl")

    assert code == 0
    assert "up to date" in out
    assert before.st_mtime_ns == (folder / "net.py").stat().st_mtime_ns


@pytest.mark.parametrize("edit", ["# by hand\n", "", "import os\n"])
def test_compile_overwrites_only_what_it_wrote(
    folder: Path, capsys: pytest.CaptureFixture[str], edit: str
) -> None:
    target = folder / "net.py"
    target.write_text(edit)
    code, _, err = run(capsys, "compile", "net.impl")
    assert (1, edit) == (code, target.read_text())
    assert "was not written by implicitc" in err and "--force" in err

    assert run(capsys, "compile", "net.impl", "--force")[0] == 0
    target.write_text(target.read_text() + "x = 1\n")
    code, _, err = run(capsys, "compile", "net.impl")
    assert code == 1 and "was edited after implicitc wrote it" in err
    (folder / "net.impl").write_text(NET.replace("n = 3", "n = 7"))
    assert run(capsys, "compile", "net.impl", "--force")[0] == 0
    (folder / "net.impl").write_text(NET)
    assert run(capsys, "compile", "net.impl")[0] == 0


def test_a_failing_write_leaves_the_old_file(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(capsys, "compile", "net.impl")
    old = (folder / "net.py").read_text()
    (folder / "net.impl").write_text(NET.replace("n = 3", "n = 7"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    code, _, err = run(capsys, "compile", "net.impl")

    assert code == 1 and "no space left on device" in err
    assert old == (folder / "net.py").read_text()
    assert [] == [path for path in folder.iterdir() if path.suffix == ".tmp"]


def test_compile_check_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "compile", "--check", "net.impl")[0] == 1
    assert not (folder / "net.py").exists()
    run(capsys, "compile", "net.impl")
    assert run(capsys, "compile", "--check", "net.impl")[0] == 0
    assert run(capsys, "compile", "--check", "-P", "n=9", "net.impl")[0] == 1


def test_parameters_reach_the_module(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "compile", "-P", "n=11", "net.impl", "-o", "-")
    assert code == 0
    assert "nn.Linear(4, 11, " in out
    assert "run `implicitc compile net.impl -P n=11`" in out
    code, _, err = run(capsys, "compile", "-P", "m=11", "net.impl", "-o", "-")
    assert code == 1 and "no model has a parameter `m`" in err


def test_errors_are_shown_with_their_place(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, err = run(capsys, "compile", "broken.impl")

    assert (1, "") == (code, out)
    assert "error[E0201]: this Dense takes 5 features, but its input has 4" in err
    assert "broken.impl:3:29" in err and "1 error" in err
    assert not (folder / "broken.py").exists()


def test_check_as_text_and_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "check", "net.impl") == (0, "net.impl: fine (1 state)\n", "")
    code, out, _ = run(capsys, "check", "--json", "broken.impl")
    data = json.loads(out)

    assert (1, 1, 1) == (code, data["version"], data["summary"]["errors"])
    (found,) = data["diagnostics"]
    assert ("E0201", "error", 3) == (found["code"], found["severity"], found["span"]["start"]["line"])


def test_warnings_are_errors_on_request(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "w.impl").write_text(NET.replace("input u[4]", "input u[4], v[2]"))
    assert run(capsys, "check", "w.impl")[0] == 0
    code, _, err = run(capsys, "check", "-W", "error", "w.impl")
    assert code == 1 and "W0101" in err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"\xff\xfe\x00", "is not text in UTF-8"),
        (b"model M()\n input u[3]\n output y = relu(u\nend\n", "`(` is never closed"),
        (b"model M()\n input class[3]\n output y = class\nend\n", "`class` cannot be a name"),
        (b"x = " + b"(" * 5000 + b"1" + b")" * 5000, "nested too deeply"),
        (b"model M()\n input u[3]\n for i in 1:3\n output y = u\nend\n", "is never closed"),
        (b"", "there is no model in this file"),
        (b"\x00\x01", "unexpected character"),
        (b"model M()\n input u[3]\n x ~ relu(x + u)\n output y = x\nend\n", "loop"),
        (b"model M(n = 1)\n input u[3]\n output y = Dense(10^999999999)*u\nend\n", "out of range"),
    ],
)
def test_bad_programs_get_a_diagnostic_and_no_traceback(given: bytes, said: str) -> None:
    found = process("check", "-", given=given)

    assert found.returncode == 1
    assert said in found.stderr.decode()
    assert b"Traceback" not in found.stderr


def test_standard_input_and_output() -> None:
    found = process("compile", "-", given=NET.encode())
    assert found.returncode == 0
    assert b"class Net(nn.Module):" in found.stdout
    again = process("compile", "-", given=NET.encode(), PYTHONHASHSEED="7", LC_ALL="C")
    assert found.stdout == again.stdout


def test_missing_files_unknown_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "check", "nte.impl")
    assert code == 1 and "there is no file `nte.impl`" in err and "did you mean `net.impl`?" in err
    code, _, err = run(capsys, "chekc", "net.impl")
    assert code == 2 and "implicitc check" in err
    code, _, err = run(capsys, "check", "--jsn", "net.impl")
    assert code == 2 and "--jsn" in err
    assert run(capsys, "check")[0] == 2


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0 and "state x[100] ~ relu(Dense(100) * u)" in out
    for command in cli.COMMANDS:
        code, out, _ = run(capsys, command, "--help")
        assert code == 0 and f"implicitc {command}" in out


def test_show_lists_every_block(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", "net.impl")
    assert code == 0
    for piece in ("h_dense.weight .bias", "relu", "[3]", "state h[n] ~ relu(Dense(n)*u)", "23 parameters"):
        assert piece in out
    for stage in ("program", "graph", "model", "schedule"):
        assert run(capsys, "show", "--stage", stage, "net.impl")[0] == 0


@pytest.mark.parametrize("name", ["A.svg", "A.png", "A.txt"])
def test_plot_draws_each_format(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    for matrix in ("A", "B", "C", "D", "all"):
        assert run(capsys, "plot", "net.impl", "--matrix", matrix, "-o", name)[0] == 0
        assert (folder / name).stat().st_size > 0
    code, out, _ = run(capsys, "plot", "net.impl", "--matrix", "B")
    assert code == 0 and "h 3" in out


@pytest.mark.parametrize("name", ["g.svg", "g.mmd", "g.dot", "g.json"])
def test_graph_draws_each_format(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run(capsys, "graph", "net.impl", "-o", name)[0] == 0
    assert "dense" in (folder / name).read_text().lower()
    assert "flowchart" in run(capsys, "graph", "net.impl")[1]


def test_matrices_with_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np
    import safetensors.torch
    import torch

    import implicit_dsl

    net = implicit_dsl.load("net.impl").Net()
    torch.save(net.state_dict(), "w.pt")
    safetensors.torch.save_file(net.state_dict(), "w.safetensors")
    for weights in ("w.pt", "w.safetensors"):
        assert run(capsys, "matrices", "net.impl", "--weights", weights, "-o", "m.npz")[0] == 0
        with np.load(folder / "m.npz") as saved:
            (data,) = (saved[key] for key in saved if key.startswith("B") and key.endswith("data"))
        assert np.allclose(np.sort(data), np.sort(net.h_dense.weight.detach().numpy().ravel()))
    torch.save({"nothing": torch.zeros(1)}, "bad.pt")
    code, _, err = run(capsys, "matrices", "net.impl", "--weights", "bad.pt", "-o", "m.npz")
    assert code == 1 and "h_dense" in err
    code, out, _ = run(capsys, "matrices", "net.impl")
    assert code == 0 and "B[h, u]" in out


def test_explain_has_a_page_for_codes_and_operators(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("E0201", "Conv", "relu"):
        code, out, _ = run(capsys, "explain", name)
        assert code == 0 and name in out
    assert "E0900" in run(capsys, "explain")[1]
    code, _, err = run(capsys, "explain", "E2001")
    assert code == 1 and "did you mean" in err


def test_a_reader_that_has_enough_is_no_error() -> None:
    command = f"{sys.executable} -m implicit_dsl show {ROOT / 'examples' / 'resnet.impl'} | head -1"
    found = subprocess.run(command, shell=True, capture_output=True)
    assert found.returncode == 0
    assert found.stderr == b""


def test_colour_is_for_terminals() -> None:
    assert b"\x1b[" not in process("check", "broken.impl").stderr
    assert b"\x1b[" in process("check", "broken.impl", FORCE_COLOR="1").stderr
    assert b"\x1b[" not in process("check", "broken.impl", FORCE_COLOR="1", NO_COLOR="1").stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import implicit_dsl

    assert implicit_dsl.__version__ in run(capsys, "version")[1]
