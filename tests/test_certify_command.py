"""`implicitc certify`: certified accuracy from the command line, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import implicit_dsl
from implicit_dsl import cli
from implicit_dsl.analysis import bounds, certified_accuracy
from implicit_dsl.cli.certifying import METHODS

torch.set_num_threads(1)

NET = """
model Net(n = 6)
    input u[4]
    param A[n, n]
    state x[n] ~ tanh(A*x + Dense(n)*u)
    output y[3] = Dense(3)*x
    @wellposed norm(A, Inf) <= 0.9
end
"""
FREE = "model Free\n    input u[_, 4]\n    output y[3] = Dense(3)*mean(u; dim = 1)\nend\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    (tmp_path / "net.impl").write_text(NET)
    module = net()
    save_file(module.state_dict(), tmp_path / "net.safetensors")
    inputs = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    with torch.no_grad():
        labels = module(torch.from_numpy(inputs)).argmax(1).numpy()
    labels[:5] = (labels[:5] + 1) % 3  # these are wrong
    np.savez(tmp_path / "points.npz", inputs=inputs, labels=labels)
    return tmp_path


def net() -> Any:
    torch.manual_seed(0)
    module = implicit_dsl.load("net.impl").Net()
    module.project_()
    return module.eval()


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    given = ["--weights", "net.safetensors", "--data", "points.npz"]
    code = cli.main(["certify", "net.impl", *given, *words])
    caught = capsys.readouterr()
    return code, caught.out, caught.err


def test_the_table_brackets_the_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--epsilon", "0.5,0.001,0.05")

    assert (0, "") == (code, err)
    head, _, names, *rows = out.splitlines()
    assert head == "Net: 20 samples of points.npz, ∞-norm, bounds by crown"
    assert names.split() == ["ε", "clean", "certified", "attacked", "seconds"]
    found = [[float(cell) for cell in re.findall(r"[\d.]+", row)] for row in rows]
    assert [row[0] for row in found] == [0.001, 0.05, 0.5]
    assert all(certified <= attacked <= clean for _, clean, certified, attacked, _ in found)
    assert {row[1] for row in found} == {75.0}
    assert found[0][2] > found[2][2]


def test_as_data_it_is_what_the_function_returns(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, err = run(capsys, "--epsilon", "0.05", "--json", "--norm", "2")
    data = json.loads(out)
    with np.load(folder / "points.npz") as held:
        expected = certified_accuracy(
            net(), torch.from_numpy(held["inputs"]), torch.from_numpy(held["labels"]), 0.05, norm="2"
        )

    assert (0, "", 1, "Net", "crown", "2") == (
        code,
        err,
        *(data[k] for k in ("version", "model", "method", "norm")),
    )
    (found,) = data["results"]
    assert found["epsilon"] == 0.05 and found["samples"] == 20
    assert (found["clean"], found["certified"], found["attacked"]) == (
        expected.clean,
        expected.certified,
        expected.attacked,
    )
    assert found["proved"] == expected.proved.tolist()


def test_limits_of_the_inputs_only_help(capsys: pytest.CaptureFixture[str]) -> None:
    def certified(*words: str) -> float:
        return float(
            json.loads(run(capsys, "--epsilon", "0.2", "--json", *words)[1])["results"][0]["certified"]
        )

    assert certified("--lower", "-3", "--upper", "3") >= certified()


def test_without_an_attack_there_is_no_column_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--epsilon", "0.01", "--no-attack")
    assert code == 0 and "attacked" not in out
    found = json.loads(run(capsys, "--epsilon", "0.01", "--no-attack", "--json")[1])
    assert found["results"][0]["attacked"] is None


def test_some_samples_alone(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--epsilon", "0.01", "--samples", "5")

    assert code == 0 and "5 samples" in out
    assert "  0.00 %" in out


def test_processes_change_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def proved(*words: str) -> list[bool]:
        found: list[bool] = json.loads(run(capsys, "--epsilon", "0.1", "--json", *words)[1])["results"][0][
            "proved"
        ]
        return found

    assert proved() == proved("--processes", "2")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "the following arguments are required: --epsilon"),
        (["--epsilon", "much"], 2, "`much` is no radius of at least 0; write for example 0.01,0.02"),
        (["--epsilon", "inf"], 2, "`inf` is no radius"),
        (["--epsilon", "0.1", "--method", "guess"], 2, "invalid choice: 'guess'"),
        (["--epsilon", "0.1", "--lower", "a"], 2, "`a` is no number"),
        (["--epsilon", "0.1", "--processes", "0"], 2, "`0` is no number of at least 1"),
        (["--epsilon", "0.1", "--weights", "absent.pt"], 1, "`absent.pt` cannot be read"),
        (
            ["--epsilon", "0.1", "--data", "bare.npz"],
            1,
            "there is no accuracy to certify: bare.npz has no array `labels`",
        ),
        (
            ["--epsilon", "0.1", "--data", "points.npz", "--weights", "other.npz"],
            1,
            "`other.npz` does not fit Net",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(
    capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    np.savez("bare.npz", inputs=np.zeros((2, 4)))
    np.savez("other.npz", A=np.zeros((2, 2)))
    found, out, err = run(capsys, *words)

    assert (code, "", True) == (found, out, said in err), err


def test_a_loop_that_is_not_proved_is_refused_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.impl").write_text(NET.replace("@wellposed norm(A, Inf) <= 0.9", "@wellposed unchecked"))
    from safetensors.torch import load_file

    weights = load_file("net.safetensors")
    save_file({**weights, "A": 9 * weights["A"]}, "net.safetensors")
    code, out, err = run(capsys, "--epsilon", "0.1")

    assert (1, "") == (code, out)
    assert err.startswith("error: ") and "internal" not in err and "= help: " in err


def test_radii_without_a_bound_are_named_beside_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--epsilon", "0.01,1e308")
    assert (0, "") == (code, err)
    assert "  0.01  75.00 %" in out and "\n  nothing is proved for ε = 1e+308: " in out
    (one,) = json.loads(run(capsys, "--epsilon", "0.01,1e308", "--json")[1])["unproved"]
    assert one["epsilon"] == 1e308 and one["reason"]


def test_tokens_are_nothing_to_disturb(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.impl").write_text(
        "model Net\n    input t[4] in Tokens(6)\n    state e[4, 3] ~ Embedding(6, 3)*t\n"
        "    output y[3] = Dense(3)*flatten(e)\nend\n"
    )
    np.savez("points.npz", t=np.zeros((2, 4), int), labels=np.zeros(2, int))
    code, _, err = run(capsys, "--epsilon", "0.1")

    assert code == 1 and err.startswith("error: all inputs are tokens, which no ε disturbs")


def test_the_methods_are_those_of_the_bounds() -> None:
    assert sorted(METHODS) == sorted(bounds.METHODS)


def test_its_help_loads_no_heavy_library() -> None:
    script = "import sys; from implicit_dsl import cli; "
    script += "; ".join(f"cli.main(['{command}', '--help'])" for command in ("certify", "report"))
    made = subprocess.run(
        [sys.executable, "-c", f"{script}; print(sorted({{'torch', 'numpy', 'jinja2'}} & set(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )

    assert made.stdout.splitlines()[-1] == "[]"


def test_free_sizes_come_from_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    Path("free.impl").write_text(FREE)
    save_file(implicit_dsl.load("free.impl").Free().state_dict(), "free.safetensors")
    np.savez("rows.npz", u=np.zeros((3, 5, 4)), labels=np.zeros(3, int))
    given = ["free.impl", "--weights", "free.safetensors", "--data", "rows.npz", "--epsilon", "0.1"]

    assert cli.main(["certify", *given]) == 0
    assert "Free: 3 samples" in capsys.readouterr().out
    assert cli.main(["certify", *given, "--size", "u=6,4"]) == 1
    assert (
        "samples of `u` in `rows.npz` have the shape [5, 4], and the model has [6, 4]"
        in capsys.readouterr().err
    )


def test_a_program_with_errors_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.impl").write_text(NET.replace("Dense(3)*x", "Dense(3)*q"))
    code, out, err = run(capsys, "--epsilon", "0.1")

    assert (1, "") == (code, out) and "error[E" in err


def test_a_package_that_is_missing_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    code, out, err = run(capsys, "--epsilon", "0.01", "--method", "sdp")
    assert (code, out) == (1, "")
    assert "`--method sdp` needs a package" in err and 'pip install "implicitc[sdp]"' in err
