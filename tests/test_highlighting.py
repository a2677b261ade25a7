"""Highlighting, by Pygments and by the TextMate grammar: nothing is left unread or, if known, plain."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from layouts import random_source, shaken
from pygments.token import Comment, Error, Keyword, Name, Operator, String, _TokenType
from textmate import pieces

from implicit_dsl import vocabulary
from implicit_dsl.errors import render
from implicit_dsl.highlighting import ImplLexer
from implicit_dsl.parse import parse
from implicit_dsl.parse.tables import language
from implicit_dsl.resolve.annotations import NAMES
from implicit_dsl.resolve.builtins import BUILTINS
from implicit_dsl.source import Source

ROOT = Path(__file__).parents[1]
VSCODE = ROOT / "editors" / "vscode"
PROGRAMS = [
    *sorted((ROOT / "examples").glob("*.impl")),
    *sorted((ROOT / "tests" / "programs").glob("*.impl")),
    *sorted((ROOT / "tests" / "programs" / "messy").glob("*.impl")),
    *sorted((ROOT / "tests" / "golden" / "formatting").glob("*.impl")),
]
GRAMMAR = json.loads((VSCODE / "syntaxes" / "impl.tmLanguage.json").read_text(encoding="utf-8"))
# How a keyword stands where it is one.
USED = {"over": "recurrent x over u", "as": "open A as B", "extends": "model M extends B", "in": "for i in v"}


def kinds(text: str) -> list[tuple[_TokenType, str]]:
    return [(kind, piece) for kind, piece in ImplLexer(ensurenl=False, stripnl=False).get_tokens(text)]


def kind_of(word: str, text: str) -> _TokenType:
    return next(kind for kind, piece in kinds(text) if piece == word)


def scope_of(word: str, text: str) -> str:
    return next(piece.scope for piece in pieces(GRAMMAR, text) if piece.text == word)


def signs() -> list[str]:
    return [sign for sign in language().fixed if not sign[0].isalpha() and sign != ";"]


# --------------------------------------------------------------------------- one table


def test_the_vocabulary_is_that_of_the_grammar() -> None:
    assert {word for word in language().fixed if word.isalpha()} == vocabulary.KEYWORDS
    assert vocabulary.OPENING | vocabulary.MIDDLE <= vocabulary.KEYWORDS


def test_the_textmate_grammar_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("textmate_of_editors", ROOT / "editors" / "textmate.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    assert module.TARGET.read_text(encoding="utf-8") == module.written(), "run `python editors/textmate.py`"


# --------------------------------------------------------------------------- words


@pytest.mark.parametrize("word", sorted(vocabulary.KEYWORDS))
def test_every_keyword_is_highlighted(word: str) -> None:
    text = USED.get(word, f"{word} x")

    assert kind_of(word, text) in Keyword or kind_of(word, text) is Operator.Word
    assert scope_of(word, text).startswith(("keyword", "storage", "constant.language"))
    for longer in (f"{word}_", f"{word}2", f"a_{word}", f"{word}\u0302"):
        assert kind_of(longer, f"{longer} = 1") in Name
        assert scope_of(longer, f"{longer} = 1") == "variable.other.impl"


@pytest.mark.parametrize("word", sorted(vocabulary.SOFT))
def test_soft_keywords_are_names_elsewhere(word: str) -> None:
    for text in (f"{word} = 1", f"y = {word} + 1", f"[{word} for {word} in v]", f"f(x, {word})"):
        assert kind_of(word, text) is Name
        assert scope_of(word, text) == "variable.other.impl"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_annotation_is_highlighted(name: str) -> None:
    assert kind_of(f"@{name}", f"    @{name} x") is Name.Decorator
    assert scope_of(f"@{name}", f"    @{name}(x)") == "entity.name.function.decorator.impl"


@pytest.mark.parametrize("name", sorted(BUILTINS))
def test_everything_built_in_is_highlighted(name: str) -> None:
    assert kind_of(name, f"y = {name}(x)") is Name.Builtin
    if name in ("pi", "π"):
        assert scope_of(name, f"y = {name}*x") == "constant.language.impl"
    else:
        assert scope_of(name, f"y = {name}(x)").startswith("support.")
        assert scope_of(name, f"y = x |> {name}").startswith("support.")


def test_definitions_are_told_from_calls() -> None:
    text = "swish(x) = f(x; k = 1)\nmodel Net(n = 3)\n    y = Basic(3)(x)\nend\n"

    assert kind_of("swish", text) is Name.Function
    assert (kind_of("Net", text), kind_of("Basic", text)) == (Name.Class, Name.Class)
    assert scope_of("swish", text) == "entity.name.function.definition.impl"
    assert (scope_of("Net", text), scope_of("Basic", text)) == ("entity.name.type.impl", "support.class.impl")
    assert scope_of("f", text) == "support.function.impl"
    assert kind_of("Mine", "param A[n] in Mine(1) = normal()") is Name.Class


def test_comments_and_strings_hold_no_keywords() -> None:
    text = '"""\nfor end "x" \\n\n"""\n# for\n#= for\nend =# y = "for \\" end" # end\nz = 1\n'
    code = ["y", "=", "z", "=", "1"]
    quiet = [piece for kind, piece in kinds(text) if kind not in Comment and kind not in String]
    scopes = [
        p.text for p in pieces(GRAMMAR, text) if not p.scope.startswith(("comment", "string", "constant.ch"))
    ]

    assert code == " ".join(quiet).split()
    assert code == " ".join(scopes).split()


# --------------------------------------------------------------------------- whole programs


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_programs_are_read_to_the_last_character(path: Path) -> None:
    _read_wholly(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("seed", range(40))
def test_random_programs_are_read_to_the_last_character(seed: int) -> None:
    chance = random.Random(seed)
    text = random_source(chance)
    _read_wholly(text)
    _read_wholly(shaken(text, chance).replace("\r\n", "\n").replace("\f", " "))


def _read_wholly(text: str) -> None:
    found = kinds(text)
    assert not [piece for kind, piece in found if kind is Error]
    assert "".join(piece for _, piece in found) == text
    scoped = pieces(GRAMMAR, text)
    assert "".join(piece.text for piece in scoped) == text.replace("\n", "")
    assert not [piece for piece in scoped if not piece.scope and re.search(r"[^\s;]", piece.text)]


def test_every_sign_of_the_grammar_is_read() -> None:
    for sign in signs():
        _read_wholly(f"a {sign} b")


def test_what_is_no_program_is_an_error_and_never_a_crash() -> None:
    assert Error in {kind for kind, _ in kinds("x = {1}\n")}
    for text in ('"never closed\nx = 1', '"""never', "#= never", "\\", "\0", "@", ""):
        assert "".join(piece for _, piece in kinds(text)) == text
        assert "".join(piece.text for piece in pieces(GRAMMAR, text)) == text.replace("\n", "")
    assert kind_of("x", '"never closed\nx = 1') is Name


# --------------------------------------------------------------------------- how it is found


def test_pygments_finds_the_lexer_by_name_and_by_file(tmp_path: Path) -> None:
    """With the entry points of the project, installed as a wheel installs them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = project["entry-points"]["pygments.lexers"]
    folder = tmp_path / "highlighted-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: highlighted\nVersion: 1\n")
    lines = [f"{name} = {value}\n" for name, value in points.items()]
    (folder / "entry_points.txt").write_text("[pygments.lexers]\n" + "".join(lines))
    script = (
        "from pygments.lexers import get_lexer_by_name, get_lexer_for_filename\n"
        "print(get_lexer_by_name('impl').name, get_lexer_for_filename('net.impl').name)"
    )
    made = _python(script, PYTHONPATH=os.pathsep.join((str(tmp_path), *sys.path)))

    assert made == "Implicit Implicit\n"


def test_the_compiler_does_not_load_pygments() -> None:
    script = "import sys, implicit_dsl.cli.fmt, implicit_dsl.compiler; print('pygments' in sys.modules)"

    assert _python(script) == "False\n"


def _python(script: str, **environment: str) -> str:
    command = [sys.executable, "-c", script]
    made = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **environment}
    )
    return made.stdout


def test_the_extension_names_files_that_exist() -> None:
    package = json.loads((VSCODE / "package.json").read_text(encoding="utf-8"))
    configuration = json.loads((VSCODE / "language-configuration.json").read_text(encoding="utf-8"))
    named = [one["path"] for one in package["contributes"]["grammars"]]
    named += [one["configuration"] for one in package["contributes"]["languages"]]

    assert all((VSCODE / name).is_file() for name in named)
    assert package["contributes"]["grammars"][0]["scopeName"] == GRAMMAR["scopeName"]
    more, less = (
        re.compile(configuration["indentationRules"][f"{one}IndentPattern"])
        for one in ("increase", "decrease")
    )
    for word in vocabulary.OPENING | vocabulary.MIDDLE:
        assert more.search(f"    {word} x")
    for word in vocabulary.MIDDLE | {"end"}:
        assert less.search(f"    {word}")
    assert not more.search("    end")
    assert not more.search("    model_size = 3")


def test_the_extension_reads_what_the_compiler_says() -> None:
    package = json.loads((VSCODE / "package.json").read_text(encoding="utf-8"))
    heading, place = (
        re.compile(one["regexp"]) for one in package["contributes"]["problemMatchers"][0]["pattern"]
    )
    source = Source("model M\n    x ~ (\nend\n", "folder/net.impl")
    _, (diagnostic, *_) = parse(source)
    first, second, *_ = render(diagnostic, colour=False).split("\n")

    assert heading.fullmatch(first)
    assert ("folder/net.impl", "2") == place.fullmatch(second).groups()[:2]  # type: ignore[union-attr]
