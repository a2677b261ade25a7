"""Equations by name: what a captured graph keeps of them, by which another process finds them again."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import lru_cache, reduce
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

from implicit_dsl.runtime.implicit.problem import Primal
from implicit_dsl.runtime.implicit.purity import contents


def described(problem: Primal) -> str | None:
    """Step, φ and settings of an equation as text; None for steps that no other process could import."""
    if problem.around is not None:
        return None
    parts = {"settings": problem.settings, "step": problem.step, "phi": problem.phi}
    try:
        written = {name: _written(part) for name, part in parts.items()}
    except LookupError:
        return None
    return json.dumps({**written, "code": digest(problem)})


@lru_cache(maxsize=1024)
def recalled(text: str) -> Primal:
    """The equation of a description. Raises RuntimeError if it cannot be imported, or is another one now."""
    written = json.loads(text)
    try:
        found = {name: _read(written[name]) for name in ("settings", "step", "phi")}
    except (ImportError, AttributeError) as error:
        name = written["settings"]["of"]["name"]
        raise RuntimeError(
            f"this graph solves the equilibrium `{name}`, whose step cannot be imported here: {error}; what "
            "was compiled to a file must be on the path, and what was loaded must be loaded first"
        ) from error
    problem = Primal(found["settings"], 0, 0, True, found["step"], found["phi"])
    if digest(problem) != written["code"]:
        raise RuntimeError(
            f"this graph solves the equilibrium `{problem.settings.name}`, whose step has changed since the "
            "graph was captured, or was captured by another version of Python: capture it again"
        )
    return problem


def _written(thing: Any) -> Any:
    """A value as JSON. Raises LookupError for what cannot be found by its name."""
    match thing:
        case None | bool() | int() | float() | str():
            return thing
        case FunctionType() | BuiltinFunctionType():
            return {"name": _place(thing)}
        case _ if is_dataclass(thing):
            of = {part.name: _written(getattr(thing, part.name)) for part in fields(thing)}
            return {"made": _place(type(thing)), "of": of}
        case _:
            raise LookupError


def _place(thing: Any) -> str:
    """module:name of a function or class that is there."""
    module, name = thing.__module__ or "torch", thing.__qualname__
    for path in (name, thing.__name__):
        if "<" not in path and _at(sys.modules.get(module), path) is thing:
            return f"{module}:{path}"
    raise LookupError


def _read(written: Any) -> Any:
    """What was written. Raises ImportError or AttributeError if it is not there."""
    match written:
        case {"name": str(place)}:
            return _imported(place)
        case {"made": str(place), "of": dict(of)}:
            kind = _imported(place)
            if not hasattr(kind, "__dataclass_fields__"):
                raise AttributeError(f"{place} is no record")
            return kind(**{name: _read(part) for name, part in of.items()})
        case _:
            return written


def _imported(place: str) -> Any:
    module, _, path = place.partition(":")
    found = _at(importlib.import_module(module), path)
    if found is None:
        raise AttributeError(f"{module} has no {path}")
    return found


def _at(module: Any, path: str) -> Any:
    return reduce(lambda thing, name: getattr(thing, name, None), path.split("."), module)


def digest(problem: Primal) -> str:
    """What tells an equation from others of its name, in every process of one version of Python."""
    parts = (repr(problem.settings), *_features(problem.step), *_features(problem.phi))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def _features(thing: Any) -> Iterator[str]:
    match thing:
        case CodeType():
            yield thing.co_code.hex()
            yield repr(thing.co_names)
            for constant in thing.co_consts:
                yield from _features(constant)
        case FunctionType():
            yield from _features(thing.__code__)
            for part in contents(thing):
                yield from _features(part)
        case MethodType():
            yield from _features(thing.__func__)
            yield from _features(thing.__self__)
        case nn.Module():
            yield repr(thing)
            yield from _features(type(thing).forward)
        case None | bool() | int() | float() | str():
            yield repr(thing)
