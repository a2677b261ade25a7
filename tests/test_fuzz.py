"""A short run of the fuzzer, and that it would notice."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from fuzz.examine import Examiner, warm_up, wrong_module, wrong_places
from fuzz.guard import Guard
from fuzz.mutate import WAYS, program
from fuzz.seeds import Corpus, seeds
from fuzz.shrink import shrink

from implicit_dsl.cli import compile
from implicit_dsl.source import Source

PROGRAMS = 600
FOUND = sorted((Path(__file__).parent / "programs" / "found").iterdir())
RIGHT = b"model M\n    input u[2]\n    output y = relu(u)\nend\n"
guard = Guard()  # hooks cannot be removed


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus(seeds())


@pytest.fixture
def examiner(tmp_path: Path) -> Iterator[Examiner]:
    made = Examiner(tmp_path, guard)
    warm_up(made)
    yield made


def test_no_program_breaks_the_compiler(examiner: Examiner, corpus: Corpus) -> None:
    random, accepted = Random(2026), 0
    for _ in range(PROGRAMS):
        way, data = program(random, corpus)
        result = examiner.examine(data)
        wrong = result.problem or examiner.as_data()[0]
        assert not wrong, f"by {way}: {wrong}\n{data.decode('utf-8', 'backslashreplace')}"
        accepted += result.accepted
    assert accepted > PROGRAMS // 30  # else the later stages see nothing


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_what_was_found_once_stays_mended(path: Path, examiner: Examiner) -> None:
    assert not examiner.examine(path.read_bytes()).problem
    assert not examiner.as_data()[0]


def test_each_way_gives_other_programs(corpus: Corpus) -> None:
    for way in WAYS.values():
        assert len({way(Random(seed), corpus) for seed in range(20)}) > 15
        assert way(Random(7), corpus) == way(Random(7), corpus)


def test_seeds_are_many_and_mostly_right(corpus: Corpus) -> None:
    assert len(corpus.texts) > 200
    assert len(corpus.right) > len(corpus.texts) // 3


# --------------------------------------------------------------------------- it would notice


def broken(monkeypatch: pytest.MonkeyPatch, examiner: Examiner, what: object) -> str:
    real = compile._emit
    with monkeypatch.context() as patched:
        patched.setattr(compile, "_emit", lambda *words: (what(), real(*words))[1])  # type: ignore[operator]
        return examiner.examine(RIGHT).problem


def test_a_traceback_is_noticed(monkeypatch: pytest.MonkeyPatch, examiner: Examiner) -> None:
    assert "ZeroDivisionError" in broken(monkeypatch, examiner, lambda: 1 // 0)


def test_a_hang_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def loop() -> None:
        while True:
            pass

    assert broken(monkeypatch, Examiner(tmp_path, guard, seconds=0.05), loop).startswith("hang")


def test_stray_writes_are_noticed(
    monkeypatch: pytest.MonkeyPatch, examiner: Examiner, tmp_path: Path
) -> None:
    stray = tmp_path / "stray"
    assert "for writing" in broken(monkeypatch, examiner, lambda: stray.write_text("x"))
    assert "os.mkdir" in broken(monkeypatch, examiner, lambda: (tmp_path / "folder").mkdir())
    assert "os.remove" in broken(monkeypatch, examiner, lambda: os.remove(stray))


def test_processes_are_noticed(monkeypatch: pytest.MonkeyPatch, examiner: Examiner) -> None:
    assert "subprocess" in broken(monkeypatch, examiner, lambda: subprocess.run(["true"], check=True))


def test_modules_of_the_user_are_noticed(
    monkeypatch: pytest.MonkeyPatch, examiner: Examiner, tmp_path: Path
) -> None:
    (examiner.target / "evil_module_of_the_user.py").write_text("x = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(examiner.target))
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    assert "ran" in broken(monkeypatch, examiner, lambda: __import__("evil_module_of_the_user"))
    assert "ran" in broken(monkeypatch, examiner, lambda: exec("x = 1"))


def test_wrong_modules_and_places_are_noticed() -> None:
    assert "no Python" in wrong_module("def f(:\n")
    assert "imports os" in wrong_module("import os\n")
    assert "calls exec" in wrong_module("exec('x')\n")
    assert not wrong_module("import torch\nfrom torch import nn\n")
    source = Source("ab\nc")
    assert not wrong_places({"start": {"line": 2, "column": 1, "offset": 3}}, source)
    assert wrong_places({"start": {"line": 2, "column": 2, "offset": 3}}, source)
    assert wrong_places({"start": {"line": 9, "column": 1, "offset": 99}}, source)


def test_a_finding_is_made_small() -> None:
    text = b"model M\n    input u[2]\n    output y = bad(u) + relu(u)\nend\n"
    assert shrink(text, lambda data: b"bad" in data) == b"bad"
