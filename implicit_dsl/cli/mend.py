"""`implicitc check --fix`: a program with the fixes of its findings applied."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from implicit_dsl.cli.messages import Refusal, tally, write
from implicit_dsl.cli.options import USAGE
from implicit_dsl.cli.programs import checked, found_in
from implicit_dsl.files import reason, write_whole
from implicit_dsl.fixes import Fix, applied
from implicit_dsl.source import Source

if TYPE_CHECKING:
    from implicit_dsl.compiler import Checked

MOST_ROUNDS = 20  # one mistake may hide another


def mended(file: str, options: Namespace) -> Checked:
    """What is found in a file once it is mended, which writes it.

    Only findings with exactly one fix are mended. Raises Refusal if the file cannot be written.
    """
    if file == "-":
        raise Refusal("`--fix` writes the program, and standard input is no file", code=USAGE)
    found = checked(file, options)
    if not found.sources:
        return found
    first = source = found.sources[0]
    mends = 0
    for _ in range(MOST_ROUNDS):
        text, count = applied(source, _fixes(found, source))
        if not count:
            break
        better = Source(text, source.name, source.path)
        again = found_in(better, options)
        if tally(again.diagnostics)[0] > tally(found.diagnostics)[0] and _syntax(again) >= _syntax(found):
            break  # it would make things worse
        source, found, mends = better, again, mends + count
    if source.text != first.text:
        _write(file, source.text)
        write(f"{file}: {mends} fix{'' if mends == 1 else 'es'} made\n")
    return found


def _fixes(found: Checked, source: Source) -> list[Fix]:
    return [one.fixes[0] for one in found.diagnostics if len(one.fixes) == 1 and one.span.source is source]


def _syntax(found: Checked) -> int:
    """Lines that cannot be read: when one can, its other mistakes come to light."""
    return sum(one.code.startswith("E00") for one in found.diagnostics)


def _write(file: str, text: str) -> None:
    try:
        write_whole(file, text.encode("utf-8"))
    except OSError as error:
        raise Refusal(f"`{file}` cannot be written: {reason(error)}") from None
