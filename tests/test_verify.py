"""`implicitc verify`: proofs from the command line, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from implicit_dsl import cli

torch.set_num_threads(1)

DEQ = """
model DEQ(n = 3)
    input u[n]
    param A[n, n]
    state x[n] ~ relu(A*x + u)
    output y[n] = x
    @wellposed norm(A, Inf) <= 0.5
end
"""
IMAGE = """
model Image
    input u[2, _, _]
    state z[2, _, _] ~ tanh(Conv(2 => 2, 3; pad = 1, bias = false)*z + u)
    output y[2] = GlobalAvgPool()*z
    @wellposed unchecked
end
"""
NET = "model Net\n    input u[4]\n    output y[2] = Dense(2)*u\nend\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    for name, text in (("deq", DEQ), ("image", IMAGE), ("net", NET)):
        (tmp_path / f"{name}.impl").write_text(text)
    good, bad = torch.eye(3) * 0.4, torch.eye(3) * 2
    save_file({"A": good}, tmp_path / "good.safetensors")
    torch.save({"A": bad}, tmp_path / "bad.pt")
    np.savez(tmp_path / "measured.npz", A=np.diag([-9.0, 0.1, 0.2]).astype(np.float32))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["verify", *words])
    caught = capsys.readouterr()
    return code, caught.out, caught.err


def test_a_proof_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "deq.impl", "--weights", "good.safetensors")

    assert code == 0 and not err
    for said in ("∞-norm", "0.4", "picard", "@wellposed norm(A, Inf) <= 0.5", "holds", "1e-05"):
        assert said in out


def test_a_refusal_names_cycle_and_advice(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "deq.impl", "--weights", "bad.pt")

    assert code == 1
    for said in ("not proved", "x → x", "A · relu", "FAILS", "shrink by 0.5 ", "P-matrix"):
        assert said in out


def test_what_is_proved_and_what_is_demanded_are_two_things(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "deq.impl", "--weights", "measured.npz")

    assert code == 0
    assert "matrix measure" in out and "FAILS, with 9" in out


def test_json_is_for_tools(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "deq.impl", "--weights", "bad.pt", "--json")
    data = json.loads(out)

    assert code == 1 and not data["proved"]
    assert data["loops"][0]["cycle"]["gain"] == pytest.approx(2)
    assert [verdict["satisfied"] for verdict in data["wellposed"]] == [False]


def test_steps_are_counted_for_the_tolerance(capsys: pytest.CaptureFixture[str]) -> None:
    steps = []
    for tolerance in ("1e-2", "1e-6"):
        words = ("deq.impl", "--weights", "good.safetensors", "--tolerance", tolerance, "--json")
        steps.append(json.loads(run(capsys, *words)[1])["loops"][0]["proof"]["steps"])

    # 0.4ᵗ ÷ 0.6 ≤ ε
    assert steps == [6, 16]


def test_without_loops_there_is_nothing_to_prove(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "net.impl")

    assert code == 0 and "no loops" in out


def test_sizes_parameters_and_seed(capsys: pytest.CaptureFixture[str]) -> None:
    def loop(*words: str) -> dict[str, Any]:
        code, out, _ = run(capsys, *words, "--json")
        data = json.loads(out)
        assert code == (0 if data["proved"] else 1)
        found: dict[str, Any] = data["loops"][0]
        return found

    seeds = [loop("image.impl", "--size", "u=2,5,4", "--seed", seed) for seed in ("0", "0", "1")]
    assert seeds[0] == seeds[1] != seeds[2]
    assert len(loop("deq.impl", "-P", "n=5")["proof"]["vector"]["x"]) == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("image.impl",), "is free"),
        (("image.impl", "--size", "u=3,5,5"), "does not fit"),
        (("deq.impl", "--tolerance", "2"), "between 0 and 1"),
        (("deq.impl", "--tolerance", "small"), "between 0 and 1"),
        (("deq.impl", "--weights", "weights.txt"), "must end in"),
        (("deq.impl", "--wieghts", "good.safetensors"), "--wieghts"),
    ],
)
def test_a_wrong_call_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    code, out, err = run(capsys, *words)

    assert (2, "") == (code, out)
    assert said in err


def test_weights_that_do_not_fit_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "deq.impl", "-P", "n=2", "--weights", "good.safetensors")

    assert code == 1 and "another shape" in err


def test_the_module_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    import implicit_dsl

    made = implicit_dsl.load("deq.impl").DEQ()
    with torch.no_grad():
        made.A.copy_(torch.eye(3) * 0.4)
    _, out, _ = run(capsys, "deq.impl", "--weights", "good.safetensors")

    assert out == f"{made.certify()}\n"
