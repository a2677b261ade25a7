"""Files: what to say when one cannot be read, and writing one whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress

from implicit_dsl.errors import Diagnostic
from implicit_dsl.source import Source

STANDARD_INPUT = "<stdin>"
INCLUDE_PATH = "IMPLICITC_PATH"  # the environment variable with further folders for imports


def include_path(given: Sequence[str]) -> tuple[str, ...]:
    """The folders in which imports are looked for: those given, then those of the environment.

    Raises NotADirectoryError if one that was given is no folder. One of the environment may be missing.
    """
    for folder in given:
        if not os.path.isdir(folder):
            raise NotADirectoryError(20, "there is no such folder", folder)
    more = os.environ.get(INCLUDE_PATH, "").split(os.pathsep)
    return tuple(dict.fromkeys((*given, *(folder for folder in more if folder and os.path.isdir(folder)))))


def cannot_read(name: str, error: OSError | UnicodeDecodeError, path: str | None = None) -> Diagnostic:
    """The finding that a program is no file, or no text. Its source is empty: there is nothing to show.

    `path` is where the file was looked for, so that a misspelt name can be mended.
    """
    span = Source("", name, path).span(0, 0)
    if isinstance(error, UnicodeDecodeError):
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        return Diagnostic(
            "E0009",
            f"`{name}` is not text in UTF-8: byte {byte:#04x} in line {line}",
            span,
            help="save the file with the encoding UTF-8",
        )
    if isinstance(error, FileNotFoundError):
        meant = _neighbour(path) if path else ""
        return Diagnostic(
            "E0009",
            f"there is no file `{name}`",
            span,
            help=f"did you mean `{meant}`?" if meant else "",
        )
    if isinstance(error, IsADirectoryError):
        return Diagnostic(
            "E0009", f"`{name}` is a folder, not a file", span, help=f"name its programs: `{_inside(name)}`"
        )
    return Diagnostic("E0009", f"`{name}` cannot be read: {reason(error)}", span)


def reason(error: OSError) -> str:
    """What the system said, as the end of a sentence: `permission denied`."""
    said = error.strerror or type(error).__name__
    return said[:1].lower() + said[1:]


def _inside(folder: str) -> str:
    return os.path.join(folder, "*.impl")


def _neighbour(path: str) -> str:
    """A file beside a missing one that may have been meant, or ''."""
    import difflib

    folder, wanted = os.path.split(path)
    try:
        there = sorted(name for name in os.listdir(folder or ".") if name.endswith(".impl"))
    except OSError:
        return ""
    if f"{wanted}.impl" in there:
        return os.path.join(folder, f"{wanted}.impl")
    close = difflib.get_close_matches(wanted, there, 1, cutoff=0.7)
    return os.path.join(folder, close[0]) if close else ""


def write_whole(path: str, data: bytes) -> None:
    """Replace the contents of a file in one step: a reader sees the old file or the new one.

    A link is followed, the mode of an old file is kept. Raises OSError, and then nothing has
    changed. The text goes to a file beside the target, as a rename must not leave the disk.
    """
    target = os.path.realpath(path)
    mode = _mode(target)
    beside = os.path.join(os.path.dirname(target), f".implicitc-{os.urandom(8).hex()}.tmp")
    made = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with open(made, "wb") as file:
            if mode is not None:
                os.chmod(beside, mode)
            file.write(data)
            file.flush()
            os.fsync(made)
        os.replace(beside, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise
    _sync_folder(os.path.dirname(target))


def _mode(target: str) -> int | None:
    """The permissions of an existing file. Raises OSError if it must not be replaced."""
    try:
        status = os.stat(target)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(21, "it is a folder", target)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(22, "it is not a regular file", target)
    if not os.access(target, os.W_OK):
        # a rename needs leave of the folder only, but whoever locks a file means it
        raise PermissionError(13, "it is write-protected", target)
    return stat.S_IMODE(status.st_mode)


def _sync_folder(folder: str) -> None:
    """Make the rename last through a power cut, where the system can."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
