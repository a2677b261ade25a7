"""Functions that torch.compile is not to look into."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


def undisturbed(function: Callable[_Given, _Made]) -> Callable[_Given, _Made]:
    """The function, run as it is where torch.compile has given up on its caller.

    It would go on to compile every function called, and a solver, whose every step differs in a
    number, again and again. `torch.compiler.disable` does this too, but takes seconds to load the
    compiler, also for programs that do not use it.
    """
    hidden: Callable[_Given, _Made] | None = None

    @wraps(function)
    def call(*args: _Given.args, **settings: _Given.kwargs) -> _Made:
        nonlocal hidden
        if hidden is None:
            compiler = sys.modules.get("torch._dynamo")
            if compiler is None or not hasattr(compiler, "disable"):
                return function(*args, **settings)
            hidden = compiler.disable(function)
        return hidden(*args, **settings)

    return call
