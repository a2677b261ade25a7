"""From Python, without files."""

from __future__ import annotations

import pickle
import traceback
from pathlib import Path

import pytest
import torch

import implicit_dsl
from implicit_dsl import ImplicitError

CELL = "block Cell(n)\n input x[_]\n output y = tanh(Dense(n)*x)\nend\n"
NET = "model Net(n = 3)\n    input u[4]\n    output y[n] = Dense(n)*u\nend\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.impl"
    path.write_text(NET)
    return path


def test_load_gives_the_module_and_keeps_it(file: Path) -> None:
    module = implicit_dsl.load(file)

    assert module.__all__ == ["Net"]
    assert (2, 3) == module.Net()(torch.zeros(2, 4)).shape
    assert implicit_dsl.load(str(file)) is module
    assert (2, 5) == implicit_dsl.load(file, n=5).Net()(torch.zeros(2, 4)).shape
    assert (2, 7) == implicit_dsl.load(file, parameters={"n": 7}).Net()(torch.zeros(2, 4)).shape


def test_a_changed_file_is_compiled_again(file: Path) -> None:
    implicit_dsl.load(file)
    file.write_text(NET.replace("n = 3", "n = 6"))

    assert (2, 6) == implicit_dsl.load(file).Net()(torch.zeros(2, 4)).shape


def test_instances_can_be_pickled(file: Path) -> None:
    net = implicit_dsl.load(file).Net()
    twin = pickle.loads(pickle.dumps(net))

    assert torch.equal(net(torch.ones(1, 4)), twin(torch.ones(1, 4)))


def test_tracebacks_show_the_generated_lines(file: Path) -> None:
    with pytest.raises(ValueError) as caught:
        implicit_dsl.load(file).Net()(torch.zeros(2, 9))

    assert "raise ValueError(f" in "".join(traceback.format_exception(caught.value))


def test_mistakes_carry_all_diagnostics(file: Path) -> None:
    with pytest.raises(ImplicitError) as caught:
        implicit_dsl.loads(NET.replace("Dense(n)*u", "Dense(n)*v"))
    assert ["E0101"] == [d.code for d in caught.value.diagnostics]
    assert "unknown name `v`" in str(caught.value)
    with pytest.raises(FileNotFoundError):
        implicit_dsl.load(file.with_name("other.impl"))
    file.with_name("bytes.impl").write_bytes(b"\xff")
    with pytest.raises(ImplicitError, match="is not text in UTF-8"):
        implicit_dsl.load(file.with_name("bytes.impl"))
    with pytest.raises(ImplicitError, match="no model has a parameter `m`"):
        implicit_dsl.load(file, m=5)


def test_imports_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "cell.impl").write_text(CELL)
    program = 'import "parts/cell.impl": Cell as Part\n' + NET.replace("Dense(n)*u", "Part(n)(u)")
    (tmp_path / "main.impl").write_text(program)

    assert (2, 3) == implicit_dsl.load(tmp_path / "main.impl").Net()(torch.zeros(2, 4)).shape
