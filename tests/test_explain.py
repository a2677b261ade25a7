"""`implicitc explain NAME`: every name of the language is told of, with an example that compiles."""

from __future__ import annotations

import pytest

from implicit_dsl.cli import main
from implicit_dsl.cli.explain import _rules
from implicit_dsl.cli.reference import sections
from implicit_dsl.compiler import check
from implicit_dsl.demands import BACKWARDS, SOLVERS, TRUNCATED
from implicit_dsl.integrators import METHODS
from implicit_dsl.parse.tables import language
from implicit_dsl.resolve.annotations import _OF_WEIGHTS, _READERS
from implicit_dsl.resolve.builtins import BUILTINS
from implicit_dsl.source import Source

KEYWORDS = sorted(word for word in language().fixed if word.isidentifier() or word == "∞")
ANNOTATIONS = [f"@{name}" for name in (*_READERS, *_OF_WEIGHTS, "allow")]
NAMES = [*dict.fromkeys((*BUILTINS, *KEYWORDS, *ANNOTATIONS, *SOLVERS, *BACKWARDS, *METHODS, TRUNCATED))]
MEASURES = ["columns", "rows", "entries", "blocks", "nuclear", "maxabs"]
BOUNDS = ["norm", "opnorm", "spectral", "pf", "monotone", "nemon", "unchecked"]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_the_language_is_told_of(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", name]) == 0
    out = capsys.readouterr().out
    assert name in out and len(out) > 60


@pytest.mark.parametrize("section", dict.fromkeys(sections().values()), ids=lambda s: s.names[0])
def test_examples_of_names_compile_and_use_them(section: object) -> None:
    names, example = section.names, section.example  # type: ignore[attr-defined]
    assert section.text  # type: ignore[attr-defined]
    if example:
        found = check(Source(f"model Example\n{example}\nend\n")).diagnostics
        assert not found, found[0].message
        assert any(name.lstrip("@") in f"model {example} end" for name in names)


def test_no_section_is_about_nothing() -> None:
    assert set(sections()) <= {*NAMES, *BOUNDS, *MEASURES}
    assert not set(sections()) & set(_rules()), "told of in two places"


def test_an_annotation_is_found_without_its_sign(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "solver"]) == 0
    assert "anderson" in capsys.readouterr().out
    assert main(["explain", "stat"]) == 1
    assert "did you mean `state`" in capsys.readouterr().err
