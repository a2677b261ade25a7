"""One program through the whole pipeline, as `implicitc` runs it, and everything that may not happen."""

from __future__ import annotations

import ast
import gc
import io
import json
import os
import re
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

from fuzz.guard import Guard
from fuzz.seeds import ROOT
from implicit_dsl.cli import check, compile
from implicit_dsl.cli.messages import Refusal
from implicit_dsl.compiler import read_source
from implicit_dsl.source import Source

SECONDS = 2.0  # of the processor, for one program
IMPORTS = {"__future__", "typing", "collections.abc", "collections", "math", "torch", "implicit_dsl"}


class Hang(BaseException):
    """The program took longer than it may. Not an Exception, so that nothing catches it."""


@dataclass(frozen=True)
class Result:
    """What came of a program: its problem, or '', and what was new about it."""

    problem: str
    signs: frozenset[str]
    accepted: bool
    seconds: float


class Examiner:
    """Runs programs in a folder of their own. `seconds` is the limit for each."""

    def __init__(self, folder: Path, guard: Guard, seconds: float = SECONDS) -> None:
        self.folder, self.guard, self.seconds = folder, guard, seconds
        self.file = folder / "program.impl"
        self.target = folder / "made"
        self.target.mkdir(exist_ok=True)
        for example in (ROOT / "examples").glob("*.impl"):  # for programs that import
            (folder / example.name).write_bytes(example.read_bytes())

    def examine(self, data: bytes) -> Result:
        """Compile and check a program. A problem is a traceback, a hang, a stray write or a wrong output."""
        self.file.write_bytes(data)
        (self.target / "program.py").unlink(missing_ok=True)
        before = os.listdir(self.folder)
        out, err = io.StringIO(), io.StringIO()
        start = time.process_time()
        code, problem = 3, ""
        watch = self.guard.watching(str(self.target), str(self.folder))
        with watch as seen, redirect_stdout(out), redirect_stderr(err):
            try:
                with _limit(4 * self.seconds):
                    code = compile.main([str(self.file), "-o", str(self.target)])
            except Refusal:
                code = 1
            except Hang:
                problem = "hang\n" + _where()
            except RecursionError as error:
                problem = "RecursionError\n" + "".join(traceback.format_tb(error.__traceback__)[-6:])
            except Exception:
                problem = traceback.format_exc()
        seconds = time.process_time() - start
        if problem:
            return Result(problem, frozenset(), False, seconds)
        if seconds > self.seconds:
            return Result(f"took {seconds:.1f} s", frozenset(), False, seconds)
        if seen:
            return Result("; ".join(seen), frozenset(), False, seconds)
        if os.listdir(self.folder) != before:
            return Result("left files beside the program", frozenset(), False, seconds)
        return self._outcome(code, err.getvalue(), seconds)

    def _outcome(self, code: int, said: str, seconds: float) -> Result:
        made = self.target / "program.py"
        if code == 0:
            text = made.read_text(encoding="utf-8")
            return Result(wrong_module(text), _signs(said) | _kinds(text), True, seconds)
        problem = "refused without a message" if not said.strip() else ""
        problem = problem or ("wrote a module in spite of errors" if made.exists() else "")
        return Result(problem, _signs(said), False, seconds)

    def as_data(self) -> tuple[str, dict[str, object]]:
        """The findings of the last program as JSON, and what is wrong with them."""
        out = io.StringIO()
        with redirect_stdout(out):
            check.main([str(self.file), "--json"])
        data = json.loads(out.getvalue())
        try:
            source = read_source(str(self.file))
        except UnicodeDecodeError:
            source = Source("")
        return wrong_places(data, source), data


def wrong_module(text: str) -> str:
    """What is wrong with a generated module, as far as can be told without running it."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"the module is no Python: {error}"
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module):
                modules = [module or ""]
            case ast.Call(ast.Name("eval" | "exec" | "open" | "compile" | "__import__" as called)):
                return f"the module calls {called}"
            case _:
                continue
        for name in modules:
            if name.split(".")[0] not in IMPORTS and name not in IMPORTS:
                return f"the module imports {name}"
    return ""


def wrong_places(data: dict[str, object], source: Source) -> str:
    """Whether each place lies in its file, and lines and columns are those of the offset."""
    waiting: list[object] = [data]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting.extend(node)
        elif isinstance(node, dict):
            if node.get("file", source.name) != source.name:
                continue  # an imported file
            waiting.extend(node.values())
            if {"line", "column", "offset"} <= set(node) and source.text:
                if not 0 <= node["offset"] <= len(source.text):
                    return f"a place outside of the file: {node}"
                if source.locate(node["offset"]) != (node["line"], node["column"]):
                    return f"line and column are not those of the offset: {node}"
    return ""


_NUMBERS = re.compile(r"`[^`]*`|\[[^\]]*\]|[\d.]+")


def _signs(said: str) -> frozenset[str]:
    """The messages without what is special to this program: a new one is worth keeping."""
    heads = re.findall(r"^(?:error|warning)\[[^\n]*", said, re.MULTILINE)
    return frozenset(_NUMBERS.sub("…", head)[:120] for head in heads)


def _kinds(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"(?:nn|F|torch|runtime)\.\w+", text))


def _where() -> str:
    return "".join(traceback.format_exc().splitlines(True)[-12:])


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise Hang if this takes longer, by the clock of the processor."""

    def stop(number: int, frame: object) -> None:
        raise Hang

    with suppress(ValueError, AttributeError):  # not the main thread, or not a Unix
        before = signal.signal(signal.SIGPROF, stop)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
        return
    yield


def warm_up(examiner: Examiner) -> None:
    """Load what is loaded lazily, and write the cache of the grammar, before anything is watched or timed."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        for text in (b"model M\n    input u[2]\n    output y = relu(u)\nend\n", b"model M(\n"):
            examiner.file.write_bytes(text)
            with suppress(Refusal):
                compile.main([str(examiner.file), "-o", str(examiner.target)])
            examiner.as_data()
    gc.collect()
