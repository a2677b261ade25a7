from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from lark import Lark

from implicit_dsl import _resources
from implicit_dsl.parse import parse, tables, tokens
from implicit_dsl.source import Source

GRAMMAR = _resources.read_text("grammar", "impl.lark")
TOUR = Path(__file__).with_name("programs") / "tour.impl"


def test_the_grammar_has_no_conflicts_and_no_ambiguous_tokens() -> None:
    Lark(GRAMMAR, parser="lalr", lexer="basic", strict=True, maybe_placeholders=False)


def test_tokens_are_those_of_lark() -> None:
    text = TOUR.read_text(encoding="utf-8")
    lark = Lark(GRAMMAR, parser="lalr", lexer="basic", maybe_placeholders=False)
    ours = tokens._lex(text, tables.language())[:-1]
    theirs = [token for token in lark.lex(text) if token.type != "_NL"]
    assert [(t.text, t.start) for t in ours if t.kind != "_NL"] == [(str(t), t.start_pos) for t in theirs]


def test_every_keyword_is_refused_as_a_name() -> None:
    keywords = {word for word in tables.language().fixed if word.isidentifier()} - {"over", "as", "extends"}
    assert "end" in keywords
    values = {"true", "false", "Inf"}
    assert all(parse(Source(f"f(x) = {word} + 1\n"))[1] for word in keywords - values)
    assert all(parse(Source(f"a.{word} = 1\n"))[1] for word in keywords)


def test_words_that_only_begin_like_keywords_are_names() -> None:
    assert parse(Source("endx = state1 + inner * Info + models + over + as + extends\n"))[1] == ()


@pytest.fixture(scope="module")
def computed() -> dict[str, Any]:
    return tables.compute(GRAMMAR)


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, computed: dict[str, Any]) -> Iterator[Path]:
    """An empty cache; computing the tables, which takes a second, is done once for all tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tables, "compute", lambda grammar: computed)
    tables.language.cache_clear()
    yield tmp_path
    tables.language.cache_clear()


def cached(home: Path) -> Path:
    (file,) = (home / "implicitc").iterdir()
    return file


def test_tables_from_the_cache_are_those_that_were_computed(cache_home: Path) -> None:
    expected = tables.language()
    tables.language.cache_clear()
    file = cached(cache_home)
    written = file.stat().st_mtime_ns
    assert tables.language() == expected
    assert file.stat().st_mtime_ns == written


def test_lark_is_not_imported_when_the_tables_are_cached(cache_home: Path) -> None:
    tables.language()
    program = (
        "import sys; from implicit_dsl.parse import parse; from implicit_dsl.source import Source;"
        "assert parse(Source('x = 1'))[1] == ();"
        "print([m for m in ('lark', 'numpy', 'torch') if m in sys.modules])"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache_home)}
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("spoilt", [b"", b"{", b"\xff\x00", b"[]", b'{"key": 1}', b"[" * 10_000])
def test_a_spoilt_cache_is_replaced(cache_home: Path, spoilt: bytes) -> None:
    expected = tables.language()
    file = cached(cache_home)
    file.write_bytes(spoilt)
    tables.language.cache_clear()
    assert tables.language() == expected
    assert json.loads(file.read_text(encoding="utf-8"))["tables"]["start"] == expected.start


def test_a_cache_of_another_grammar_is_not_used(cache_home: Path) -> None:
    tables.language()
    file = cached(cache_home)
    data = json.loads(file.read_text(encoding="utf-8"))
    data["key"] += " "
    data["tables"]["rules"] = []
    file.write_text(json.dumps(data), encoding="utf-8")
    tables.language.cache_clear()
    assert tables.language().rules


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_the_cache_is_private(cache_home: Path) -> None:
    tables.language()
    assert stat.S_IMODE((cache_home / "implicitc").stat().st_mode) == 0o700
    (cache_home / "implicitc").chmod(0o777)
    assert tables._cache_file() is None


def test_without_a_place_for_the_cache_it_works_all_the_same(cache_home: Path) -> None:
    (cache_home / "implicitc").write_text("in the way")
    assert tables.language().rules


def test_many_at_once_get_the_same_tables(cache_home: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: tables.language(), range(4)))
    assert all(one == found[0] for one in found)
    assert [file.suffix for file in (cache_home / "implicitc").iterdir()] == [".json"]
