"""Whatever is registered refuses what it cannot take, with one message, at the right place.

Programs are made from the registries: each operator, activation and function on values of every rank,
with settings that do not fit, and with arguments of every kind.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import product

import pytest

from implicit_dsl.compiler import check
from implicit_dsl.errors import Diagnostic
from implicit_dsl.operators import ACTIVATIONS, CONSTRUCTORS
from implicit_dsl.operators.base import Formal, Rule
from implicit_dsl.resolve.builtins import BUILTINS
from implicit_dsl.source import Source

HEAD = """model M
    input a[], b[6], c[6, 5], d[6, 5, 7], e[6, 5, 7, 8], f[6, 5, 7, 8, 9], g[6, 5, 7, 8, 9, 2], p[_], q[3, _]
    input t[5] in Tokens(2)
    param W[4, 6], w[6]
    layer K = Dense(4)
    output y = b
"""
VALUES = "abcdefgpqt"
OTHERS = ["3", "-1", "0.5", "2^70", '"text"', "true", "[1, 2]", "[]", "1:3", "(b, c)", "W", "w", "K", "relu"]
OTHERS += ["Conv", "size", "x -> x", "zeros()", "Inf", "1 => 2", "[b, c]", "[W, W]"]


def findings_by_line(lines: list[str]) -> dict[str, list[Diagnostic]]:
    """What is found in each of some lines of a model; nothing may be found elsewhere."""
    source = Source(HEAD + "".join(f"    r{i} = {line}\n" for i, line in enumerate(lines)) + "end\n")
    first = HEAD.count("\n") + 1
    found: dict[str, list[Diagnostic]] = defaultdict(list)
    for one in check(source).diagnostics:
        if one.code[0] == "E":
            found[lines[one.span.line - first]].append(one)
            inside = source.line_text(one.span.line)[6:]
            assert one.span.text and one.span.text in inside, f"the caret is not on a part of {inside}"
    return found


def check_lines(lines: list[str]) -> list[str]:
    """Each line has one message at most, which says something, and is not about this version; the refused."""
    found = findings_by_line(lines)
    for line, diagnostics in found.items():
        (one,) = diagnostics
        assert not one.code.startswith("E9"), f"{line}: {one.message}"
        assert one.code not in ("E0107", "E0101"), f"{line}: {one.message}"
        assert len(one.message) > 15 and "None" not in one.message, f"{line}: {one.message}"
    return list(found)


def wrong(formal: Formal) -> list[str]:
    """Settings of a kind, of which some fit some values."""
    of_kind = {
        "width": ["4", "99 => 4"],
        "size": ["3", "[2, 2]", "99"],
        "pad": ["1", "[1, 1]", "99"],
        "integer": ["1", "2", "7"],
        "number": ["0.5", "-2"],
        "flag": ["true"],
    }
    return of_kind.get(formal.kind, ["2", '"text"', "[2, 2]"])


def calls(name: str, rule: Rule) -> list[str]:
    """The constructor with its required arguments, and with one of the others."""
    required = [wrong(formal) for formal in rule.formals if formal.required]
    made = [f"{name}({', '.join(chosen)})" for chosen in product(*required)]
    first = ", ".join(choices[0] for choices in required)
    for formal in rule.formals:
        if not formal.required:
            made += [f"{name}({first}; {formal.name} = {value})" for value in wrong(formal)]
    return made


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructors_refuse_shapes_with_one_message(name: str) -> None:
    lines = [f"{call}({value})" for call in calls(name, CONSTRUCTORS[name]) for value in VALUES]
    refused = check_lines(lines)
    assert len(refused) < len(lines), f"`{name}` takes nothing"
    if CONSTRUCTORS[name].formals:
        assert refused, f"`{name}` takes everything"


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if len(ACTIVATIONS[name].arguments) > 1])
def test_activations_of_several_values_refuse_shapes_with_one_message(name: str) -> None:
    count = len(ACTIVATIONS[name].arguments)
    lines = [f"{name}({', '.join(values)})" for values in product("abcdepq"[: 9 - count], repeat=count)]
    assert check_lines(lines[:400]), f"`{name}` takes everything"


@pytest.mark.parametrize("name", [n for n, value in BUILTINS.items() if not isinstance(value, float)])
def test_arguments_of_every_kind_are_taken_or_refused(name: str) -> None:
    lines = [f"{name}()", f"{name}(b, b, b, b, b, b)", f"{name}(b; nonsense = 1)", f"{name}({name})"]
    lines += [f"{name}({one})" for one in (*OTHERS, *VALUES)]
    lines += [f"{name}({one}, {other})" for one, other in product(("b", "e", "3", "q", "W"), OTHERS)]
    lines += [f"{name}({one}, {other})" for one, other in product(OTHERS, ("b", "q", "2"))]
    lines += [f"{name}({one}, 1, {other})" for one, other in product(("b", "c"), OTHERS)]
    lines += [f"{name}(2)({one})" for one in (*OTHERS, "b")]
    refused = check_lines(list(dict.fromkeys(lines)))
    assert f"{name}(b; nonsense = 1)" in refused or f"{name}()" in refused


@pytest.mark.parametrize("name", BUILTINS)
def test_names_of_the_language_are_refused_where_they_make_no_sense(name: str) -> None:
    forms = [
        "{0} + b",
        "b + {0}",
        "{0} * b",
        "b * {0}",
        "{0} .* b",
        "b |> {0}",
        "{0}'",
        "{0}[1]",
        "{0}.x",
        "-{0}",
    ]
    forms += [
        "{0} * W",
        "W * {0}",
        "{0} + W",
        "{0} + {0}",
        "{0} == 1",
        "1 in {0}",
        "b[{0}, 1]",
        "b[{0}]",
        "!{0}",
    ]
    forms += ["[{0}, 1]", "cat({0}, b)", "sum([{0}, 1])", "chain({0})(b)", "b / {0}", "2^{0}", "{0}.(b)"]
    forms += [
        "Dense({0})(b)",
        "Conv(3, {0})(d)",
        "1:{0}",
        "ifelse({0}, 1, 2)",
        "[1 for i in {0}]",
        "b |> {0}()",
    ]
    check_lines([form.format(name) for form in forms])
