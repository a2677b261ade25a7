"""Which functions surely use nothing but their arguments."""

from __future__ import annotations

import builtins
import dis
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import lru_cache, partial
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import torch

_CONSTANTS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
_LIBRARIES = ("torch", "math", "typing")  # which hold no tensors of anybody's


def is_pure(function: object) -> bool:
    """Whether a function is known to use nothing but its arguments, constants and PyTorch.

    What its code refers to is followed, through other functions. False says only that it is not
    known: so it is for closures, and for objects with data of their own, such as an `nn.Module`.
    """
    return _pure(function, set())


def _pure(thing: Any, passed: set[int]) -> bool:
    if id(thing) in passed or isinstance(thing, _CONSTANTS):
        return True
    passed.add(id(thing))
    match thing:
        case FunctionType() if _of_library(thing.__module__):
            return _all_pure(tuple(contents(thing)), passed)
        case FunctionType():
            given = (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values())
            used = _globals(thing)
            return not thing.__closure__ and used is not None and _all_pure((*given, *used), passed)
        case BuiltinFunctionType():
            return isinstance(thing.__self__, ModuleType | type | None) and _of_library(thing.__module__)
        case ModuleType():
            return _of_library(thing.__name__)
        case type():
            return _of_library(thing.__module__) or thing.__module__ == "builtins"
        case partial():
            return _all_pure((thing.func, *thing.args, *thing.keywords.values()), passed)
        case tuple():
            return _all_pure(thing, passed)
        case _:
            return _is_frozen(thing) and _all_pure(_parts(thing), passed)


def _all_pure(things: tuple[Any, ...], passed: set[int]) -> bool:
    return all(_pure(thing, passed) for thing in things)


def _is_frozen(thing: Any) -> bool:
    return is_dataclass(thing) and bool(getattr(thing, "__dataclass_params__").frozen)  # noqa: B009


def _parts(record: Any) -> tuple[Any, ...]:
    """What a call of a frozen dataclass may use: its fields, and the methods that it refers to."""
    call = vars(type(record)).get("__call__")
    names = call.__code__.co_names if isinstance(call, FunctionType) else ()
    methods = (getattr(type(record), name, None) for name in names)
    called = (call, *(method for method in methods if isinstance(method, FunctionType)))
    return (*called, *(getattr(record, part.name) for part in fields(record)))


def _of_library(module: str | None) -> bool:
    return (module or "torch").split(".")[0] in _LIBRARIES


def _globals(function: FunctionType) -> tuple[Any, ...] | None:
    """The functions, modules and types that a function refers to; None if it refers to anything else.

    Numbers are something else: a global name may be bound to a tensor later.
    """
    found = []
    for name in _names(function.__code__):
        thing = function.__globals__.get(name, getattr(builtins, name, None))
        if name.startswith("import ") or not isinstance(
            thing, FunctionType | BuiltinFunctionType | ModuleType | type
        ):
            return None
        if name in function.__globals__:
            found.append(thing)
    return tuple(found)


@lru_cache(maxsize=1024)
def _names(code: CodeType) -> tuple[str, ...]:
    """The global names in a code and in its inner functions; imports as "import …"."""
    own = [
        step.argval if step.opname.startswith("LOAD_GLOBAL") else f"import {step.argval}"
        for step in dis.get_instructions(code)
        if step.opname in ("LOAD_GLOBAL", "IMPORT_NAME")
    ]
    inner = [name for part in code.co_consts if isinstance(part, CodeType) for name in _names(part)]
    return tuple(dict.fromkeys((*own, *inner)))


def contents(function: FunctionType) -> Iterator[object]:
    """What the free variables of a function hold."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # not bound yet
            yield cell.cell_contents
