"""The options that commands share, and how they are read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from implicit_dsl.cli.messages import Refusal
from implicit_dsl.files import INCLUDE_PATH

USAGE = 2


class Parser(argparse.ArgumentParser):
    """Options of one command. Files may stand between them; a wrong one is refused in our words."""

    def __init__(self, command: str, about: str, examples: str) -> None:
        super().__init__(
            prog=f"implicitc {command}",
            description=about,
            epilog="examples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise Refusal(message, f"`{self.prog} --help` shows the options, with examples", USAGE)

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The options in the words behind the command."""
        return self.parse_intermixed_args(words)

    def files(self) -> None:
        self.add_argument("files", metavar="FILE", nargs="+", help="a program, or - for standard input")

    def file(self) -> None:
        self.add_argument("file", metavar="FILE", help="a program, or - for standard input")

    def program(self) -> None:
        """What is compiled: parameters, and which model."""
        self.add_argument(
            "-P",
            dest="parameters",
            metavar="NAME=VALUE",
            action="append",
            default=[],
            type=_parameter,
            help="give a parameter of the model a value (may be repeated)",
        )
        self.add_argument("--model", metavar="NAME", help="only this model of the file")
        self.add_argument(
            "-I",
            dest="include",
            metavar="DIR",
            action="append",
            default=[],
            help=f"look for imports in this folder, too (may be repeated; then ${INCLUDE_PATH})",
        )

    def sizes(self) -> None:
        self.add_argument(
            "--size",
            dest="sizes",
            metavar="INPUT=N,…",
            action="append",
            default=[],
            type=_size,
            help="the shape of an input that has free sizes (may be repeated)",
        )
        self.add_argument("--length", type=_length, metavar="T", help="the number of steps of its sequences")

    def output(self, help: str) -> None:
        self.add_argument("-o", dest="output", metavar="FILE", help=help)


def unique(pairs: Sequence[tuple[str, object]], option: str) -> dict[str, object]:
    """Pairs as a mapping. Raises Refusal if a name is given twice."""
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise Refusal(f"`{option} {name}=…` is given twice", code=USAGE)
        found[name] = value
    return found


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    name, value = _plain(name), value.strip()
    if not (equals and value and name.isidentifier()):
        raise argparse.ArgumentTypeError(f"`{text}` is not of the form name=value, such as n=20")
    return name, value


def _size(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, value = text.partition("=")
    sizes = value.strip().removeprefix("[").removesuffix("]").replace("×", ",").split(",")
    if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"`{text}` is not of the form input=sizes, such as u=3,32,32")
    return _plain(name), tuple(map(int, sizes))


def _length(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"`{text}` is no number of steps, such as 8")
    return int(text)


def _plain(name: str) -> str:
    """A name in the normal form in which the language reads it."""
    name = name.strip()
    if name.isascii():
        return name
    import unicodedata

    return unicodedata.normalize("NFC", name)
