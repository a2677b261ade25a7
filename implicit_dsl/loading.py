"""From a program to a Python module in memory: what `compile` writes, executed without a file."""

from __future__ import annotations

import hashlib
import linecache
import os
import sys
from collections.abc import Mapping, Sequence
from threading import RLock
from types import ModuleType
from typing import Any, NamedTuple

from implicit_dsl.compiler import check, read_source
from implicit_dsl.errors import Findings, ImplicitError
from implicit_dsl.files import cannot_read, include_path
from implicit_dsl.source import Source

_HOME = "implicit_dsl._loaded"


class _Loaded(NamedTuple):
    """A module, and the texts that it was made from: it holds as long as they do."""

    module: ModuleType
    sources: tuple[Source, ...]


_cache: dict[tuple[object, ...], _Loaded] = {}
_lock = RLock()


def load(
    path: str | os.PathLike[str],
    /,
    *,
    model: str | None = None,
    standalone: bool = False,
    include: Sequence[str | os.PathLike[str]] = (),
    parameters: Mapping[str, object] | None = None,
    **more: object,
) -> ModuleType:
    """The generated module of a program in a file: `load("net.impl", n=200).Net()`.

    Keywords are parameters of the model; one that is called `model`, `standalone`, `include` or
    `parameters` goes into `parameters`. `include` are folders in which imports are looked for,
    behind that of the importing file and before those of the environment variable IMPLICITC_PATH.
    As long as the file and its imports stay the same, the same module is returned. Its classes
    can be pickled within this process; for other processes, compile to a file. Raises
    ImplicitError with all findings, and OSError if there is no such file or folder.
    """
    file = os.fspath(path)
    try:
        source = read_source(file)
    except UnicodeDecodeError as error:
        raise ImplicitError([cannot_read(file, error)]) from None
    return _load(source, model, standalone, include, {**(parameters or {}), **more})


def loads(
    text: str,
    /,
    *,
    model: str | None = None,
    standalone: bool = False,
    include: Sequence[str | os.PathLike[str]] = (),
    parameters: Mapping[str, object] | None = None,
    **more: object,
) -> ModuleType:
    """The same for a program that is given as text. Imports start at the working directory."""
    return _load(Source(text), model, standalone, include, {**(parameters or {}), **more})


def _load(
    source: Source,
    model: str | None,
    standalone: bool,
    include: Sequence[str | os.PathLike[str]],
    parameters: Mapping[str, object],
) -> ModuleType:
    folders = include_path([os.fspath(folder) for folder in include])
    given = tuple((name, repr(value)) for name, value in parameters.items())
    where = source.path or os.getcwd()
    key = (where, source.name, source.text, model, standalone, folders, given)
    with _lock:
        kept = _cache.get(key)
        if kept is None or not all(map(_unchanged, kept.sources[1:])):
            kept = _cache[key] = _made(source, model, standalone, folders, parameters)
        return kept.module


def _unchanged(source: Source) -> bool:
    """Whether an imported file still holds what was read from it."""
    try:
        return source.path is not None and read_source(source.path).text == source.text
    except (OSError, UnicodeDecodeError):
        return False


def _made(
    source: Source,
    model: str | None,
    standalone: bool,
    include: tuple[str, ...],
    parameters: Mapping[str, object],
) -> _Loaded:
    checked = check(source, parameters=parameters, model=model, include=include)
    Findings(list(checked.diagnostics)).raise_errors()
    from implicit_dsl.emit import emit

    text = emit(checked.models, checked.sources, checked.parameters, standalone=standalone, include=include)
    return _Loaded(execute(text, _name(source, text, model)), checked.sources)


def _name(source: Source, text: str, model: str | None) -> str:
    """A name that no other module has: programs of one name may differ, and so may their parameters."""
    stem = os.path.splitext(os.path.basename(source.name))[0]
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in stem).strip("_") or "text"
    digest = hashlib.sha256(
        "\0".join((source.path or "", model or "", text)).encode("utf-8", "surrogatepass")
    )
    return f"{_HOME}.{plain}_{digest.hexdigest()[:16]}"


def execute(text: str, name: str) -> ModuleType:
    """Generated text as a module called `name`, which tracebacks, `inspect` and pickle can find."""
    module = ModuleType(name)
    file = f"<{name}>"
    module.__file__ = file
    # without a modification time, linecache keeps an entry although there is no such file
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    space: dict[str, Any] = vars(module)
    sys.modules[name] = module
    try:
        exec(compile(text, file, "exec", dont_inherit=True), space)
    except BaseException:
        del sys.modules[name]
        raise
    return module
