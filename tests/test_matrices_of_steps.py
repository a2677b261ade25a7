"""The matrices of recurrences of a given length, their proofs, and the commands that take one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from comparing import random, same

import implicit_dsl
from implicit_dsl.cli import main

EQUILIBRATED = """
model M(n = 6, p = 3)
    input u[_, p]
    param W[n, n], U[n, p], b[n]
    recurrent x over u
        state h[n] = 0
        h ~ 0.5*tanh(W*(h + prev(h)) + U*x + b)
    end
    output y = last(h)
    @wellposed norm(W, Inf) <= 1.8
end
"""


def test_a_length_makes_the_matrices() -> None:
    model = implicit_dsl.loads(EQUILIBRATED).M(dtype=torch.float64)
    system = model.system(length=4)

    assert [name for name in system.model.blocks if name.startswith("h[")] == [f"h[{t}]" for t in range(5)]
    assert system.A.shape == (4 * 18 + 12, 4 * 18 + 12)
    with pytest.raises(ValueError, match="which the length 4 does not fit"):
        model.system(length=4, u=(5, 3))
    with pytest.raises(ValueError, match="axis 1 of `u` is free"):
        model.system()
    # the loops of all steps have one matrix, so that no length is needed
    assert model.certify().proved and model.certify(length=3).proved
    assert model.certify().loops[0].rate == model.certify(length=3).loops[2].rate


def test_an_input_called_length_keeps_its_name() -> None:
    text = EQUILIBRATED.replace("u[_", "length[_").replace("over u", "over length")
    model = implicit_dsl.loads(text).M(dtype=torch.float64)
    x = random(2, 3, 3)
    same(model(x), model.system(length=(3, 3)).solve(x), 1e-5)


def test_products_in_loops_are_proved_for_a_length() -> None:
    """Bounds of what they multiply come from the steps before, so that one step does not tell of all."""
    text = EQUILIBRATED.replace("0.5*tanh(W*(h + prev(h))", "0.1*tanh((W*h .* tanh(prev(h)))")
    text = text.replace("norm(W, Inf) <= 1.8", "unchecked")
    model = implicit_dsl.loads(text).M(dtype=torch.float64)
    with pytest.raises(ValueError, match="axis 1 of `u` is free"):
        model.certify()
    assert model.certify(length=3).proved


def test_commands_take_a_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.impl"
    path.write_text(EQUILIBRATED)
    assert main(["plot", str(path), "--length", "8", "-o", str(tmp_path / "m.svg")]) == 0
    assert "8 loops" in (tmp_path / "m.svg").read_text()
    assert main(["verify", str(path)]) == 0
    assert main(["show", str(path)]) == 0
    out = capsys.readouterr().out
    assert "no loops but in each step" in out and "loop {h}" in out
    assert main(["plot", str(path), "-o", str(tmp_path / "m.svg")]) == 2
    assert "--length 8" in capsys.readouterr().err
