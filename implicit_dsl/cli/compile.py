"""`implicitc compile`: from a program to the file with its module."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from implicit_dsl.cli.messages import Refusal, fail, write
from implicit_dsl.cli.options import USAGE, Parser
from implicit_dsl.files import reason

if TYPE_CHECKING:
    from implicit_dsl.compiler import Checked

_EXAMPLES = """
implicitc compile net.impl                  # writes net.py
implicitc compile *.impl -o built/ -P n=200
implicitc compile net.impl -o - | less
implicitc compile net.impl --check          # for CI: is net.py up to date?
"""


def main(words: Sequence[str]) -> int:
    """Compile each file; a wrong one does not keep the others from being written."""
    options = _parser().read(words)
    _refuse_contradictions(options)
    if options.emit != "module":
        from implicit_dsl.cli import stages

        return stages.write_json(options)
    targets = _targets(options)
    from implicit_dsl.cli.programs import sound

    code = 0
    for file, target in targets:
        found = sound(file, options)
        try:
            code = max(code, 1 if found is None else _emit(found, file, target, options))
        except Refusal as refused:
            fail(refused.message, refused.help)
            code = max(code, refused.code)
    return code


def _parser() -> Parser:
    parser = Parser("compile", "Write the PyTorch modules of programs, NAME.py for NAME.impl.", _EXAMPLES)
    parser.files()
    parser.program()
    parser.output("a folder, a file that ends in .py, or - for standard output")
    parser.add_argument("--standalone", action="store_true", help="a module that needs torch alone")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file would change")
    parser.add_argument("--force", action="store_true", help="replace files whoever wrote them")
    parser.add_argument(
        "--emit",
        choices=("module", "graph", "model"),
        default="module",
        help="what to write: the module, or an earlier stage as JSON",
    )
    return parser


def _refuse_contradictions(options: Namespace) -> None:
    several = len(options.files) > 1
    output = options.output
    if options.files.count("-") > 1:
        raise Refusal("standard input can be read once only", code=USAGE)
    if several and (options.emit != "module" or output == "-" or (output or "").endswith(".py")):
        raise Refusal(
            f"{len(options.files)} programs do not go into one file", "give one program, or a folder", USAGE
        )
    if options.check and (output == "-" or (output is None and "-" in options.files)):
        raise Refusal("`--check` compares with a file", "say which: `-o net.py`", USAGE)


def _targets(options: Namespace) -> list[tuple[str, str]]:
    """Where each module goes; "-" is standard output. Raises Refusal if two would meet."""
    taken: dict[str, str] = {}
    pairs = []
    for file in options.files:
        target = _target(file, options.output)
        place = os.path.realpath(target)
        if target != "-" and place in taken:
            raise Refusal(f"both `{taken[place]}` and `{file}` would be written to `{target}`", code=USAGE)
        if file != "-" and target != "-" and place == os.path.realpath(file):
            raise Refusal(f"`{target}` is the program itself", "name another file with `-o`", USAGE)
        taken[place] = file
        pairs.append((file, target))
    return pairs


def _target(file: str, output: str | None) -> str:
    if output == "-" or (output is None and file == "-"):
        return "-"
    if output is not None and output.endswith(".py"):
        return output
    if file == "-":
        raise Refusal("a program from standard input has no name", "name the file: `-o net.py`", USAGE)
    folder = os.path.dirname(file) if output is None else output
    return os.path.join(folder, module_name(os.path.splitext(os.path.basename(file))[0]) + ".py")


def module_name(stem: str) -> str:
    """A name that Python can import, for the name of a file: `01-net` -> `_01_net`."""
    import keyword

    from implicit_dsl.names import identifier

    made = identifier("".join(c if c.isalnum() else "_" for c in stem))
    return f"{made}_" if keyword.iskeyword(made) else made


def _emit(found: Checked, file: str, target: str, options: Namespace) -> int:
    from implicit_dsl.emit import emit

    models = found.models
    text = emit(models, found.sources, found.parameters, standalone=options.standalone, include=found.include)
    if target == "-":
        _to_standard_output(text)
        return 0
    from implicit_dsl.cli.programs import outline

    fresh = _place(text, target, file, options)
    if fresh is None:
        return 1
    stem = os.path.splitext(os.path.basename(file))[0]
    renamed = file != "-" and options.output != target and module_name(stem) != stem
    why = f"  (`{stem}` is no name that Python imports)" if renamed else ""
    summary = "; ".join(map(outline, models)) if fresh else "is up to date"
    write(f"{'wrote ' if fresh else ''}{target}{'  ' if fresh else ' '}{summary}{why}\n")
    return 0


def _to_standard_output(text: str) -> None:
    import sys

    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:
        write(text)
        return
    sys.stdout.flush()
    buffer.write(text.encode("utf-8"))  # Python reads UTF-8, whatever the terminal speaks
    buffer.flush()


def _place(text: str, target: str, file: str, options: Namespace) -> bool | None:
    """Write the module: True if it was written, False if it was there, None if `--check` misses it."""
    old = _old_text(target)
    if old is not None and old.replace("\r\n", "\n") == text:
        return False
    if options.check:
        state = "is missing" if old is None else "is not what its program compiles to"
        fail(f"`{target}` {state}", f"run `implicitc compile {file}`")
        return None
    if old is not None and not options.force:
        _refuse_unless_ours(old, target)
    from implicit_dsl.files import write_whole

    try:
        os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
        write_whole(target, text.encode("utf-8"))
    except OSError as error:
        raise Refusal(f"`{target}` cannot be written: {reason(error)}", "write elsewhere with `-o`") from None
    return True


def _old_text(target: str) -> str | None:
    """What the file holds; None if there is none. Bytes that are no text become a mark: it is not ours."""
    try:
        with open(target, "rb") as file:
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise Refusal(f"`{target}` is a folder", "name another file with `-o`") from None
    except NotADirectoryError:
        folder = os.path.dirname(target)
        help = "`-o` takes a folder, or a file that ends in .py"
        raise Refusal(f"`{folder}` is a file, not a folder", help) from None
    except OSError as error:
        raise Refusal(f"`{target}` cannot be read: {reason(error)}", "write elsewhere with `-o`") from None


def _refuse_unless_ours(old: str, target: str) -> None:
    from implicit_dsl.header import Provenance, provenance

    elsewhere = "write elsewhere with `-o`, or replace it with `--force`"
    match provenance(old):
        case Provenance.FOREIGN:
            raise Refusal(f"`{target}` was not written by implicitc, and is left as it is", elsewhere)
        case Provenance.EDITED:
            raise Refusal(f"`{target}` was edited after implicitc wrote it, and is left as it is", elsewhere)
        case Provenance.OURS:
            return
