"""The grammar as tables: one regular expression for the tokens, one table for the parser.

lark computes them from `grammar/impl.lark`. That takes a second, so they are kept as JSON
in the user's cache directory; when they are found there, lark is not even imported.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from functools import cache
from threading import get_ident
from typing import TYPE_CHECKING, Any, NamedTuple

from implicit_dsl import _resources

if TYPE_CHECKING:
    from lark import Lark
    from lark.grammar import Rule as LarkRule

NEWLINE = "_NL"
END_OF_FILE = "$END"

# Tokens that no rule takes: what is left when nothing else fits.
_LEFTOVERS = (
    ("UNCLOSED_COMMENT", r"#=[\s\S]*"),
    ("UNCLOSED_DOC", r'"""[\s\S]*'),
    ("UNCLOSED_STRING", r'"[^\r\n]*'),
    ("STRANGE", r"[\s\S]"),
    (END_OF_FILE, r"\Z"),
)


class Rule(NamedTuple):
    """What to do when the right side of a rule has been read.

    `size` symbols are taken from the stack. `keep` says which of their values are handed to
    the action named `action`: i is the value of symbol i, ~i are all values of the list i.
    An empty action passes the one value on: only the state changes.
    """

    origin: str
    size: int
    action: str
    keep: tuple[int, ...]


LIST, ONLY = "[]", "()"  # the actions of `_rules` (gather the values) and of brackets around one value


@dataclass(frozen=True, slots=True)
class Tables:
    """`rows[state][kind]` is the next state, or ~r to apply rule r; `gotos[state][origin]` comes after."""

    pattern: re.Pattern[str]
    groups: tuple[str, ...]  # the kind of token of each group of the pattern
    fixed: frozenset[str]  # keywords and punctuation: their kind is their text
    rows: tuple[dict[str, int], ...]
    gotos: tuple[dict[str, int], ...]
    rules: tuple[Rule, ...]
    start: int
    end: int


@cache
def language() -> Tables:
    """The tables of the language, computed once per process at most."""
    grammar = _resources.read_text("grammar", "impl.lark")
    key = _cache_key(grammar)
    file = _cache_file()
    kept = _load(file, key) if file else None
    if kept is not None:
        return kept
    data = compute(grammar)
    if file:
        _save(file, {"key": key, "tables": data})
    return _from_data(data)


def _from_data(data: dict[str, Any]) -> Tables:
    intern = sys.intern
    return Tables(
        pattern=re.compile(data["pattern"]),
        groups=("", *map(intern, data["groups"])),
        fixed=frozenset(map(intern, data["fixed"])),
        rows=tuple({intern(kind): code for kind, code in row.items()} for row in data["rows"]),
        gotos=tuple(data["gotos"]),
        rules=tuple(Rule(origin, size, action, tuple(keep)) for origin, size, action, keep in data["rules"]),
        start=data["start"],
        end=data["end"],
    )


# --------------------------------------------------------------------------- from the grammar


def compute(grammar: str) -> dict[str, Any]:
    """The tables as plain data."""
    from lark import Lark

    lark = Lark(grammar, parser="lalr", lexer="basic", maybe_placeholders=False)
    kinds = {t.name: t.pattern.value for t in lark.terminals if t.pattern.type == "str"}
    pattern, groups = _token_pattern(lark)
    parser = lark.parse_interactive("").parser_state.parse_conf
    states = parser.parse_table.states
    rules = list(
        dict.fromkeys(
            arg for row in states.values() for action, arg in row.values() if action.name == "Reduce"
        )
    )
    index = {rule: number for number, rule in enumerate(rules)}
    rows: list[dict[str, int]] = []
    gotos: list[dict[str, int]] = []
    for state in range(len(states)):
        entries = states[state].items()
        codes = {n: arg if action.name == "Shift" else ~index[arg] for n, (action, arg) in entries}
        rows.append({kinds.get(n, n): code for n, code in codes.items() if _is_terminal(n)})
        gotos.append({n: code for n, code in codes.items() if not _is_terminal(n)})
    return {
        "pattern": pattern,
        "groups": groups,
        "fixed": sorted(kinds.values()),
        "rows": rows,
        "gotos": gotos,
        "rules": [_rule(rule) for rule in rules],
        "start": parser.start_state,
        "end": parser.end_state,
    }


def _is_terminal(name: str) -> bool:
    return name.isupper() or name == END_OF_FILE


def _token_pattern(lark: Lark) -> tuple[str, list[str]]:
    """One regular expression: what is ignored, then one group for each kind of token.

    Keywords match as NAME first; which word is a keyword is seen from its text. The order of
    the terminals is lark's. Possessive (`*+`), so that a long blank is not read twice.
    """
    ignored = set(lark.ignore_tokens)
    ordered = sorted(
        lark.terminals, key=lambda t: (-t.priority, -t.pattern.max_width, -len(t.pattern.value), t.name)
    )
    blanks = [t.pattern.value for t in ordered if t.name in ignored]
    varied = [(t.name, t.pattern.value) for t in ordered if t.pattern.type == "re" and t.name not in ignored]
    fixed = sorted(
        (t.pattern.value for t in lark.terminals if t.pattern.type == "str"), key=lambda v: (-len(v), v)
    )
    signs = "|".join(re.escape(value) for value in fixed if not value[0].isalpha())
    parts = [*varied, *_LEFTOVERS[:3], ("SIGN", signs), *_LEFTOVERS[3:]]
    alternatives = "|".join(f"({pattern})" for _, pattern in parts)
    return f"(?:{'|'.join(blanks)})*+(?:{alternatives})", [name for name, _ in parts]


def _rule(rule: LarkRule) -> tuple[str, int, str, list[int]]:
    name = rule.origin.name
    keep = []
    for position, symbol in enumerate(rule.expansion):
        if symbol.is_term and getattr(symbol, "filter_out", False) and not rule.options.keep_all_tokens:
            continue
        keep.append(~position if symbol.name.startswith("_") and not symbol.is_term else position)
    if name.startswith("_"):
        action = "" if keep == [~0] and len(rule.expansion) == 1 else LIST
    elif rule.options.expand1 and rule.alias is None and len(keep) == 1 and keep[0] >= 0:
        action = "" if len(rule.expansion) == 1 else ONLY
    else:
        action = rule.alias or name
    return name, len(rule.expansion), action, keep


# --------------------------------------------------------------------------- the cache


def _cache_key(grammar: str) -> str:
    """Everything the tables depend on. lark's version is read from its files, without importing it."""
    from importlib.util import find_spec

    lark = find_spec("lark")
    stamps = [_stamp(path) for path in (__file__, lark.origin if lark else None)]
    return repr((grammar, sys.version, stamps))


def _stamp(path: str | None) -> tuple[str, int] | None:
    try:
        return (path, os.stat(path).st_mtime_ns) if path else None
    except OSError:
        return None


def _cache_file() -> str | None:
    """Where the tables are kept, or None if there is no directory that only this user can write."""
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    if not home or not os.path.isabs(home):
        home = os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(home, "implicitc")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.lstat(folder)
    except OSError:
        return None
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022):
        return None
    return os.path.join(folder, f"grammar-{sys.implementation.cache_tag}.json")


def _load(file: str, key: str) -> Tables | None:
    try:
        with open(file, encoding="utf-8") as stream:
            data = json.load(stream)
        return _from_data(data["tables"]) if data["key"] == key else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, re.error, RecursionError):
        return None  # missing or spoilt: computed again


def _save(file: str, data: dict[str, Any]) -> None:
    """Write to a name of our own first, so that a reader finds the old file or the new, never half of one."""
    draft = f"{file}.{os.getpid()}.{get_ident()}"
    try:
        with open(draft, "x", encoding="utf-8") as stream:
            json.dump(data, stream, ensure_ascii=False)
        os.replace(draft, file)
    except OSError:
        return
