"""Findings as data, and the fixes in them: applied, they give a program that compiles."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from implicit_dsl.cli import main
from implicit_dsl.compiler import check, read_source
from implicit_dsl.errors import Diagnostic
from implicit_dsl.fixes import Edit, Fix, applied
from implicit_dsl.source import Source

HERE = Path(__file__).parent
BAD = sorted((HERE / "programs" / "bad").glob("*.impl"))
SCHEMA = json.loads((HERE.parent / "docs" / "check.schema.json").read_text(encoding="utf-8"))


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, list[dict[str, object]]]:
    main(["check", "--json", *words])
    data: dict[str, list[dict[str, object]]] = json.loads(capsys.readouterr().out)
    jsonschema.validate(data, SCHEMA)
    return data


# --------------------------------------------------------------------------- data


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_findings_are_data_of_the_schema(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = as_json(capsys, str(path))
    found = check(read_source(str(path))).diagnostics
    assert [d["message"] for d in data["diagnostics"]] == [d.message for d in found]
    source = read_source(str(path)).text
    for one, diagnostic in zip(data["diagnostics"], found):
        start, end = one["span"]["start"], one["span"]["end"]  # type: ignore[index]
        assert source[start["offset"] : end["offset"]] == diagnostic.span.text
        assert source.split("\n")[start["line"] - 1][start["column"] - 1 :].startswith(
            diagnostic.span.text.split("\n")[0].rstrip("\r")
        )


def test_columns_count_code_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "κ.impl"
    file.write_text("model M\n    input u[4]\n    #= 𝔽é =# output y = Σx\nend\n", encoding="utf-8")
    (one,) = as_json(capsys, str(file))["diagnostics"]
    assert one["span"]["start"] == {"line": 3, "column": 25, "offset": 47}  # type: ignore[index]
    assert one["span"]["end"]["column"] == 27  # type: ignore[index]


def test_what_is_no_text_is_data_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bytes.impl"
    file.write_bytes(b"model \xff\n")
    assert as_json(capsys, str(file), str(tmp_path / "gone.impl"))["summary"]["errors"] == 2  # type: ignore[call-overload]


def test_findings_as_commands_of_a_workflow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a,b.impl"
    file.write_text("model M\n    input u[4], v[4]\n    output y = 2*u\nend\n", encoding="utf-8")
    assert main(["check", "--format", "github", str(file)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("::warning file=") and "a%2Cb.impl,line=2,col=17,title=W0101::" in line
    assert "never used%0A" in line


def test_pedantic_remarks_are_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(HERE / "programs" / "bad" / "pedantic.impl")
    assert main(["check", "-W", "error", file]) == 0
    assert main(["check", "--pedantic", file]) == 0
    assert "7 warnings" in capsys.readouterr().err
    assert main(["check", "--pedantic", "-W", "error", file]) == 1
    capsys.readouterr()
    assert len(as_json(capsys, "--pedantic", file)["diagnostics"]) == 7


# --------------------------------------------------------------------------- fixes

CERTAIN = "    state x[4] ~ tanh(0.5*u)\n    output y = x\n"
SLIPS = {
    "a misspelt name": ("h = rleu(u)", "h = relu(u)"),
    "the name of another framework": ("h = Linear(3)*u", "h = Dense(3)*u"),
    "a name of the other alphabet": ("κ = 0.5\n    h = kappa*u", "κ = 0.5\n    h = κ*u"),
    "two letters that changed places": ("h = Dense(3; bais = false)*u", "h = Dense(3; bias = false)*u"),
    "an argument of another framework": (
        "h = MaxPool(2; padding = 1)(reshape(u, 1, 4))",
        "h = MaxPool(2; pad = 1)(reshape(u, 1, 4))",
    ),
    "an equation as a definition": (
        "state h[4]\n    h = relu(0.5*h + u)",
        "state h[4]\n    h ~ relu(0.5*h + u)",
    ),
    "an output as an equation": ("output z ~ relu(u)", "output z = relu(u)"),
    "a layer as an equation": ("layer K ~ Dense(3)", "layer K = Dense(3)"),
    "a state as a definition": ("state h[4]\n    h = relu(u)", "state h[4]\n    h ~ relu(u)"),
    "a product of values": ("h = u * u", "h = u .* u"),
    "an operator behind its value": ("h = u * Dense(3)", "h = Dense(3) * u"),
    "an activation before a star": ("h = relu * u + u", "h = relu(u) + u"),
    "a normalisation before a star": ("h = LayerNorm()*u", "h = LayerNorm()(u)"),
    "the width of an input": ("h = Dense(3 => 2)*u", "h = Dense(4 => 2)*u"),
    "the channels of an input": (
        "h = Conv(3 => 2, 1)*reshape(u, 2, 2)",
        "h = Conv(2 => 2, 1)*reshape(u, 2, 2)",
    ),
    "a loop over a number": (
        "for i in 3\n        h[i] = u\n    end",
        "for i in 1:3\n        h[i] = u\n    end",
    ),
    "a comma at the end": ("h = relu(u),", "h = relu(u)"),
    "a colon at the end": (
        "for i in 1:2:\n        h[i] = u\n    end",
        "for i in 1:2\n        h[i] = u\n    end",
    ),
    "a misspelt keyword": ("ouput z = u", "output z = u"),
    "a power as in Python": ("h = 2**3*u", "h = 2^3*u"),
    "a quotient as in Python": ("h = (7 // 2)*u", "h = (7 ÷ 2)*u"),
    "a product without a sign": ("h = 2u", "h = 2*u"),
    "a word for a sign": ("h = ifelse(true and true, u, 2)", "h = ifelse(true && true, u, 2)"),
    "else if": (
        "if false\n        h = u\n    else if true\n        h = u\n    end",
        "if false\n        h = u\n    elseif true\n        h = u\n    end",
    ),
    "a long minus": ("h = u − 1", "h = u - 1"),
    "an arrow": ("f = a → relu(a)\n    h = f(u)", "f = a -> relu(a)\n    h = f(u)"),
    "a hard space": ("h =\u00a0relu(u)", "h = relu(u)"),
    "a misspelt annotation": ("@alow unused_input", "@allow unused_input"),
    "a misspelt warning": ("@allow unused_inputs", "@allow unused_input"),
}


def program(line: str) -> str:
    return f"model M\n    input u[4]\n    {line}\n{CERTAIN}    @wellposed\nend\n"


def errors(text: str) -> list[Diagnostic]:
    return [one for one in check(Source(text)).diagnostics if one.code[0] == "E"]


def certain(source: Source) -> list[Fix]:
    return [one.fixes[0] for one in check(source).diagnostics if len(one.fixes) == 1]


@pytest.mark.parametrize(("wrong", "right"), SLIPS.values(), ids=SLIPS.keys())
def test_a_fix_gives_the_program_that_was_meant(wrong: str, right: str) -> None:
    source = Source(program(wrong))
    assert len(errors(source.text)) == 1
    text, count = applied(source, certain(source))
    assert count == 1
    assert text == program(right)
    assert errors(text) == []


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_fix_removes_its_finding_and_leaves_the_others(path: Path) -> None:
    source = read_source(str(path), path.name)
    found = check(source).diagnostics
    for one in found:
        for fix in one.fixes:
            assert all(0 <= e.span.start <= e.span.end <= len(source.text) for e in fix.edits)
            text, count = applied(source, [fix])
            assert count == 1 and text != source.text
            again = check(Source(text, source.name, source.path)).diagnostics
            here = [(d.code, d.message, d.span.line, d.span.column) for d in again]
            assert (one.code, one.message, one.span.line, one.span.column) not in here


def test_fixes_that_meet_are_not_made_together() -> None:
    source = Source("abcdef")

    def fix(start: int, end: int, text: str) -> Fix:
        return Fix("t", (Edit(source.span(start, end), text),))

    assert applied(source, [fix(0, 2, "X"), fix(1, 3, "Y"), fix(4, 5, "Z")]) == ("XcdZf", 2)
    assert applied(source, [fix(3, 3, "X"), fix(3, 3, "Y")]) == ("abcXdef", 1)
    other = Source("abcdef")
    assert applied(other, [fix(0, 1, "X")]) == ("abcdef", 0)


def test_check_fix_mends_a_file_until_nothing_is_certain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.impl"
    text = program("h = rleu(u),\r\n    k = 2h * ReLU(h)")
    file.write_bytes(text.encode())
    assert main(["check", "--fix", str(file)]) == 0
    assert "5 fixes made" in capsys.readouterr().out
    assert file.read_bytes() == program("h = relu(u)\r\n    k = 2*h .* relu(h)").encode()
    assert main(["check", "--fix", str(file)]) == 0
    assert "made" not in capsys.readouterr().out


def test_check_fix_leaves_what_it_cannot_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "net.impl"
    file.write_text(program("h = foo(u)"), encoding="utf-8")
    assert main(["check", "--fix", str(file)]) == 1
    assert file.read_text(encoding="utf-8") == program("h = foo(u)")
    assert "E0101" in capsys.readouterr().err
    assert main(["check", "--fix", "-"]) == 2
    assert main(["check", "--fix", str(tmp_path / "gone.impl")]) == 1
