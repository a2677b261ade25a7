"""`implicitc fmt`: programs in their canonical layout."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence

from implicit_dsl.cli.messages import Refusal, fail, plural, show_findings, write
from implicit_dsl.cli.options import USAGE, Parser
from implicit_dsl.cli.reading import read
from implicit_dsl.errors import Diagnostic
from implicit_dsl.files import reason, write_whole
from implicit_dsl.formatting import Spelling, formatted
from implicit_dsl.source import Source

_EXAMPLES = """
implicitc fmt net.impl                      # rewrites net.impl
implicitc fmt .                             # all programs in this folder, and in folders within
implicitc fmt --check examples              # for CI: is everything formatted?
implicitc fmt --diff net.impl               # what would change
implicitc fmt - < net.impl                  # to standard output
"""
_NO_NEWLINE = "\\ No newline at end of file"


def main(words: Sequence[str]) -> int:
    """Format each file; a wrong one does not keep the others from being formatted."""
    parser = Parser("fmt", "Lay out programs. What they mean and their comments stay as they are.", _EXAMPLES)
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="a program, a folder of programs, or - for standard input"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file would change")
    parser.add_argument("--diff", action="store_true", help="write nothing; show what would change")
    spelling = parser.add_mutually_exclusive_group()
    spelling.add_argument("--ascii", action="store_true", help="spell `≤` as `<=`, `∈` as `in`, and so on")
    spelling.add_argument("--unicode", action="store_true", help="spell `<=` as `≤`, `in` as `∈`, and so on")
    options = parser.read(words)
    return _format_all(_files(options.files), options)


def _format_all(files: list[str], options: Namespace) -> int:
    findings: list[Diagnostic] = []
    changed = refused = 0
    for file in files:
        source = read(file)
        if isinstance(source, Diagnostic):
            findings.append(source)
            continue
        text, found = formatted(source, _spelling(options))
        findings += found
        if text is None:
            continue
        changed += text != source.text
        refused += not _deliver(file, source, text, options)
    wrong = show_findings(findings)
    if "-" not in files and not options.diff:
        write(_summary(len(files), changed, options.check))
    return int(wrong or refused > 0 or (options.check and changed > 0))


def _spelling(options: Namespace) -> Spelling:
    if options.ascii:
        return Spelling.ASCII
    return Spelling.UNICODE if options.unicode else Spelling.AS_WRITTEN


def _deliver(file: str, source: Source, text: str, options: Namespace) -> bool:
    """Write or show what is to be written or shown; whether the system let it be written."""
    if options.diff:
        write(_difference(source, text))
    if options.check or options.diff:
        if options.check and not options.diff and file != "-" and text != source.text:
            write(f"{file} would change\n")
    elif file == "-":
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8"))  # a program is UTF-8, whatever the terminal is
    elif text != source.text:
        try:
            write_whole(file, text.encode("utf-8"))
        except OSError as error:
            fail(f"`{file}` cannot be written: {reason(error)}")
            return False
        write(f"formatted {file}\n")
    return True


def _difference(source: Source, text: str) -> str:
    import difflib

    old, new = source.text.splitlines(keepends=True), text.splitlines(keepends=True)
    lines = difflib.unified_diff(old, new, source.name, f"{source.name} (formatted)")
    return "".join(line if line.endswith("\n") else f"{line}\n{_NO_NEWLINE}\n" for line in lines)


def _summary(files: int, changed: int, check: bool) -> str:
    if not changed:
        return f"{plural(files, 'file')}: nothing to do\n" if files else ""
    done = "would change" if check else "formatted"
    return f"{changed:,} of {plural(files, 'file')} {done}\n" if files > 1 else ""


def _files(named: Sequence[str]) -> list[str]:
    """The files, with folders replaced by the programs in them. Each is taken once."""
    if named.count("-") > 1:
        raise Refusal("standard input can be read once only", code=USAGE)
    found: dict[str, str] = {}
    for name in named:
        inside = _programs(name) if name != "-" and os.path.isdir(name) else [name]
        if not inside:
            raise Refusal(f"there is no program in the folder `{name}`", "programs end in `.impl`")
        for file in inside:
            found.setdefault(file if file == "-" else os.path.realpath(file), file)
    return list(found.values())


def _programs(folder: str) -> list[str]:
    """All programs in a folder and those within, but for hidden ones."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(place, name) for name in sorted(files) if name.endswith(".impl")]
    return found
