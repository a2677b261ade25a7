"""`implicitc check`: what is wrong with a program."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from implicit_dsl.cli.messages import plural, show_findings, tally, write
from implicit_dsl.cli.options import Parser

if TYPE_CHECKING:
    from implicit_dsl.compiler import Checked

_EXAMPLES = """
implicitc check net.impl
implicitc check -W error --pedantic examples/*.impl
implicitc check net.impl --fix             # mend what can be meant in one way only
implicitc check net.impl -P n=200 --json
"""


def main(words: Sequence[str]) -> int:
    """Check each file; print what was found, or that it is fine."""
    parser = Parser("check", "Say what is wrong with programs. Writes no file, but for `--fix`.", _EXAMPLES)
    parser.files()
    parser.program()
    parser.add_argument("-W", dest="strict", choices=("error",), help="-W error: warnings count as errors")
    parser.add_argument("--pedantic", action="store_true", help="also what is right and worth a second look")
    parser.add_argument("--fix", action="store_true", help="write what mends a program, where it is certain")
    parser.add_argument(
        "--format", choices=("text", "json", "github"), default="text", help="json and github are for tools"
    )
    parser.add_argument("--json", dest="format", action="store_const", const="json", help="--format json")
    options = parser.read(words)
    if options.fix:
        from implicit_dsl.cli.mend import mended as looked_at
    else:
        from implicit_dsl.cli.programs import checked as looked_at

    results = [(file, looked_at(file, options)) for file in options.files]
    shown = {"text": _as_text, "json": _as_json, "github": _as_workflow}[options.format]
    return shown(results, options)


def _as_text(results: list[tuple[str, Checked]], options: Namespace) -> int:
    found = [one for _, result in results for one in result.diagnostics]
    fatal = show_findings(found, bool(options.strict))
    for _, result in results:
        if result.sources and not tally(result.diagnostics)[0]:
            write(f"{result.sources[0].name}: fine ({_states(result)})\n")
    return int(fatal)


def _states(result: Checked) -> str:
    sizes = [sum(node.role.value == "state" for node in one.graph.nodes) for one in result.certified]
    models = f"{plural(len(sizes), 'model')}, " if len(sizes) > 1 else ""
    return models + plural(sum(sizes), "state")


def _as_json(results: list[tuple[str, Checked]], options: Namespace) -> int:
    import json

    found = [one for _, result in results for one in result.diagnostics]
    errors, warnings = tally(found)
    fatal = bool(errors or (options.strict and warnings))
    data = {
        "version": 1,
        "diagnostics": [one.as_data() for one in found],
        "summary": {"files": len(results), "errors": errors, "warnings": warnings, "ok": not fatal},
    }
    write(json.dumps(data, indent=2) + "\n")
    return int(fatal)


def _as_workflow(results: list[tuple[str, Checked]], options: Namespace) -> int:
    """Commands that make annotations of a pull request, as GitHub Actions reads them from the log."""
    found = [one for _, result in results for one in result.diagnostics]
    for one in found:
        line, column = one.span.source.locate(one.span.start)
        said = "\n".join(filter(None, (one.message, one.text, *one.notes, one.help)))
        place = f"file={_escaped(one.span.source.name, ',:')},line={line},col={column}"
        write(f"::{one.severity.value} {place},title={one.code}::{_escaped(said)}\n")
    errors, warnings = tally(found)
    return int(bool(errors or (options.strict and warnings)))


def _escaped(text: str, also: str = "") -> str:
    for character in ("%", "\r", "\n", *also):
        text = text.replace(character, f"%{ord(character):02X}")
    return text
