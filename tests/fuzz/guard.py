"""An audit hook that sees what a run does to the world outside of its folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Python's own events (PEP 578), and what of their arguments is the path.
_CHANGES = {
    **dict.fromkeys(
        ("os.mkdir", "os.rmdir", "os.remove", "os.truncate", "os.chmod", "os.chown", "os.utime"), (0,)
    ),
    "os.rename": (0, 1),
    "os.link": (0, 1),
    "os.symlink": (0, 1),
}
_NEVER = (
    *("subprocess.", "socket.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork"),
    *("ctypes.dlopen", "ftplib.", "http.", "smtplib.", "urllib.", "webbrowser.", "pty.", "os.kill"),
)


class Guard:
    """Lists what happened that must not, while it watches. A hook cannot be removed, so there is one."""

    def __init__(self) -> None:
        self.folder = self.home = ""
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    @contextmanager
    def watching(self, folder: str, home: str) -> Iterator[list[str]]:
        """While this lasts, files are written below `folder` alone, no process is started, and no code is
        run that lies below `home`, as that of the user does."""
        self.folder, self.home = os.path.join(os.path.realpath(folder), ""), os.path.join(home, "")
        self.seen = []
        try:
            yield self.seen
        finally:
            self.folder = ""

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.folder:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if (writes or (mode and set(mode) & set("wax+"))) and not self._inside(path):
                self.seen.append(f"opened {path!r} for writing")
        elif event in _CHANGES:
            for position in _CHANGES[event]:
                if not self._inside(arguments[position]):
                    self.seen.append(f"{event} {arguments[position]!r}")
        elif event == "exec":
            name = arguments[0].co_filename
            if name.startswith((self.home, "<string")):
                self.seen.append(f"ran {name}")
        elif event.startswith(_NEVER):
            self.seen.append(f"{event} {arguments!r}"[:200])

    def _inside(self, path: object) -> bool:
        if isinstance(path, int):
            return True  # a descriptor, which was opened before
        text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        return text == os.devnull or os.path.join(os.path.realpath(text), "").startswith(self.folder)
