"""A step as it is now: an adjoint evaluates it again when what it uses may have been bound anew.

So it is in a loop over time, where `lambda z: cell(z, c)` finds the last `c` in the end; where a
module keeps its input in an attribute, `cell.c = c`; and under `torch.func.functional_call`, which
gives a module other parameters for the time of one call.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from implicit_dsl.runtime.implicit.purity import contents

# The dict of a module, a name in it, and the tensor that it holds.
Place = tuple[dict[str, Any], str, Tensor]


def held(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with what its free variables hold now."""
    return _held(function, {}) if isinstance(function, FunctionType) else function


def _held(function: FunctionType, made: dict[int, FunctionType]) -> FunctionType:
    if id(function) in made:
        return made[id(function)]
    if not function.__closure__ or _rebinds(function.__code__):
        return function
    cells = tuple(CellType() for _ in function.__closure__)
    copy = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, cells
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    made[id(function)] = copy
    for cell, old in zip(cells, function.__closure__):
        with suppress(ValueError):  # not bound yet
            content = old.cell_contents
            cell.cell_contents = _held(content, made) if isinstance(content, FunctionType) else content
    return copy


@lru_cache(maxsize=1024)
def _rebinds(code: CodeType) -> bool:
    """Whether a function assigns to its free variables (`nonlocal`): a copy would keep that to itself."""
    return any(
        step.opname in ("STORE_DEREF", "DELETE_DEREF") and step.argval in code.co_freevars
        for step in dis.get_instructions(code)
    ) or any(_rebinds(part) for part in code.co_consts if isinstance(part, CodeType))


def places_of(function: object, tensors: tuple[Tensor, ...]) -> tuple[Place, ...]:
    """Where the modules that a function leads to hold these tensors: parameters, buffers, attributes."""
    wanted = {id(tensor) for tensor in tensors}
    modules = {id(part): part for module in _modules(function, set()) for part in module.modules()}
    found: list[Place] = []
    for module in modules.values():
        spaces: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, vars(module))
        for space in spaces:
            found += [(space, name, value) for name, value in space.items() if id(value) in wanted]
    return tuple(found)


def _modules(thing: Any, passed: set[int]) -> Iterator[nn.Module]:
    if id(thing) in passed:
        return
    passed.add(id(thing))
    match thing:
        case nn.Module():
            yield thing
            parts: Any = ()
        case MethodType():
            parts = (thing.__self__, thing.__func__)
        case FunctionType():
            parts = (*contents(thing), *(thing.__defaults__ or ()))
        case partial():
            parts = (thing.func, *thing.args, *thing.keywords.values())
        case list() | tuple():
            parts = thing
        case dict():
            parts = thing.values()
        case _:
            parts = ()
    for part in parts:
        yield from _modules(part, passed)


@contextmanager
def restored(places: tuple[Place, ...]) -> Iterator[None]:
    """A context in which these places hold what they held: those that have changed are changed back."""
    changed = [(space, name, tensor) for space, name, tensor in places if space.get(name) is not tensor]
    now = [(space, name, space.get(name)) for space, name, _ in changed]
    try:
        for space, name, tensor in changed:
            space[name] = tensor
        yield
    finally:
        for space, name, value in now:
            space[name] = value
