"""Where imported files lie: beside the program, on the include path, or in the library `std`.

Nothing else can be read: a file counts only if it lies, links followed, below the folder of
the program, below a folder of the include path, or in `std`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from implicit_dsl import _resources
from implicit_dsl.resolve.problem import Problem, did_you_mean, problem
from implicit_dsl.source import Source, Span

STD = "std"
SUFFIX = ".impl"


@dataclass(frozen=True, slots=True)
class Found:
    """A file that may be imported: where it lies, what diagnostics call it, and what comments call it."""

    path: str
    name: str
    title: str


@dataclass(frozen=True, slots=True)
class Places:
    """The folders that may be read: that of the program, and those of the include path."""

    root: str
    include: tuple[str, ...] = ()

    @property
    def allowed(self) -> tuple[str, ...]:
        return tuple(os.path.realpath(folder) for folder in (self.root, *self.include, library()))

    def find(self, importer: Source, written: str | tuple[str, ...], span: Span) -> Found:
        """The file that an import means. Raises Problem if there is none that may be read."""
        if isinstance(written, tuple):
            if written[0] == STD:
                return _of_library(written, span)
            text = "/".join(written) + SUFFIX
        else:
            text = written
            _check_written(text, span)
        allowed, outside = self.allowed, False
        for found in self._candidates(importer, text):
            if not any(_below(found.path, folder) for folder in allowed):
                outside = True
            elif os.path.lexists(found.path):
                return found
        raise self._outside(text, span) if outside else self._missing(importer, written, text, span)

    def beside(self, importer: Source, path: tuple[str, ...]) -> str:
        """The file of a user that `import std.….` might be thought to mean, or ''."""
        text = "/".join(path) + SUFFIX
        there = (found for found in self._candidates(importer, text) if os.path.lexists(found.path))
        return "" if in_library(importer) or next(there, None) is None else text

    def _candidates(self, importer: Source, text: str) -> Iterator[Found]:
        """Beside the importing file, then in the folders of the include path, in their order."""
        base = os.path.dirname(importer.path) if importer.path else self.root
        beside = os.path.normpath(os.path.join(os.path.dirname(importer.title), text)).replace(os.sep, "/")
        name = os.path.normpath(os.path.join(os.path.dirname(importer.name), text))
        yield Found(os.path.realpath(os.path.join(base, text)), name, beside)
        if _below(os.path.realpath(base), library()):
            return  # the library is closed: no folder of a user can change what it means
        for folder in self.include:
            path = os.path.realpath(os.path.join(folder, text))
            yield Found(path, os.path.normpath(os.path.join(folder, text)), text)

    def _outside(self, text: str, span: Span) -> Problem:
        also = " or of the include path" if self.include else ""
        return problem(
            "E0803",
            f"`{text}` lies outside of the folder of the program",
            span,
            help=f"imports stay below the folder of the file that is compiled{also}",
        )

    def _missing(self, importer: Source, written: str | tuple[str, ...], text: str, span: Span) -> Problem:
        base = os.path.dirname(importer.path) if importer.path else self.root
        dotted = isinstance(written, tuple)
        help = ""
        for folder in (base, *self.include):
            meant = did_you_mean(os.path.basename(text)[: -len(SUFFIX)], _programs(folder, text))
            if meant:
                close = os.path.join(os.path.dirname(text), meant).replace(os.sep, "/")
                help = f"did you mean `{close.replace('/', '.') if dotted else close + SUFFIX}`?"
                break
        if not help and dotted and text[: -len(SUFFIX)] in library_files():
            help = f"did you mean `{STD}.{text[: -len(SUFFIX)]}`, of the library?"
        notes: tuple[str, ...] = ()
        if self.include:
            listed = ", ".join(f"`{folder}`" for folder in self.include[:4])
            notes = (f"looked beside the importing file and in {listed}",)
        return problem("E0801", f"there is no file `{text}`", span, notes=notes, help=help)


def library() -> str:
    """The folder of the library `std`, as it ships."""
    return os.path.realpath(_resources.folder(STD))


def library_files() -> tuple[str, ...]:
    """What can stand behind `import std.`."""
    return tuple(name.removesuffix(SUFFIX) for name in _resources.names(STD, SUFFIX))


def in_library(source: Source) -> bool:
    """Whether a file belongs to the library."""
    return source.path is not None and _below(os.path.realpath(source.path), library())


def _of_library(written: tuple[str, ...], span: Span) -> Found:
    """`std.vision`: always the file that ships, whatever lies beside the program."""
    files = library_files()
    listed = ", ".join(f"`{STD}.{name}`" for name in files)
    if len(written) == 1:
        raise problem(
            "E0801", f"`{STD}` is the library: import one of its files", span, help=f"there are {listed}"
        )
    name = ".".join(written[1:])
    if name not in files:
        meant = did_you_mean(name, files)
        help = f"did you mean `{STD}.{meant}`?" if meant else f"there are {listed}"
        raise problem("E0801", f"the library has no file `{STD}.{name}`", span, help=help)
    title = f"{STD}/{name}{SUFFIX}"
    return Found(os.path.join(library(), name + SUFFIX), title, title)


def _check_written(text: str, span: Span) -> None:
    """Raises Problem unless a path is relative, of one line, and of a program."""
    if os.path.isabs(text) or not text.isprintable() or "\\" in text or not text.endswith(SUFFIX):
        raise problem(
            "E0803",
            f"`{text}` cannot be imported" if text.isprintable() else "this file cannot be imported",
            span,
            help="write the relative path of an `.impl` file, with `/` between folders",
        )


def _below(path: str, folder: str) -> bool:
    return path.startswith(os.path.join(folder, ""))


def _programs(folder: str, text: str) -> list[str]:
    """The programs in the folder where a file was looked for."""
    try:
        there = os.listdir(os.path.join(folder, os.path.dirname(text)))
    except OSError:
        return []
    return sorted(name.removesuffix(SUFFIX) for name in there if name.endswith(SUFFIX))
