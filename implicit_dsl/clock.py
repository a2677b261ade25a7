"""The times of an integration, and numbers that depend on the time.

Such a number is a float, or a tuple of plain data: ("t",) is the time at which a step begins, ("h",) its
length, ("+", a, b) a sum, ("sin", a) a function.
"""

from __future__ import annotations

import math
import operator as python
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

Timed: TypeAlias = float | tuple[Any, ...]

TIME: Timed = ("t",)
LENGTH: Timed = ("h",)
EVEN = 1e-12  # relative difference of steps that count as equally long
FUNCTIONS: Mapping[str, Callable[[float], float]] = {
    "sin": math.sin,
    "cos": math.cos,
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "tanh": math.tanh,
    "abs": abs,
}
_BINARY: Mapping[str, Callable[[float, float], float]] = {
    "+": python.add,
    "-": python.sub,
    "*": python.mul,
    "/": python.truediv,
    "^": math.pow,
}
_RANK = {"+": 1, "-": 1, "*": 2, "/": 2, "^": 4}  # how tightly an operator binds; a sign before stands for 3


@dataclass(frozen=True, slots=True)
class Clock:
    """The times that an integration goes through: between two `marks`, it takes so many equal `steps`.

    What it gives are the values at the first mark, and behind each `every` steps. If it is `free`, the
    times in between are chosen as it goes.
    """

    marks: tuple[float, ...]
    steps: int = 1
    every: int = 1
    free: bool = False

    @property
    def count(self) -> int:
        """How many steps there are in all."""
        return self.steps * (len(self.marks) - 1)

    @property
    def given(self) -> int:
        """How many values it gives."""
        return self.count // self.every + 1

    @property
    def even(self) -> float | None:
        """The length of a step, if all are equally long."""
        whole = self.marks[-1] - self.marks[0]
        each = whole / (len(self.marks) - 1)
        same = all(abs(b - a - each) <= EVEN * abs(whole) for a, b in pairwise(self.marks))
        return whole / self.count if same else None

    def begin(self, step: int) -> float:
        """When a step begins, counted from 0."""
        if self.even is not None:
            return self.marks[0] + self.even * step
        mark, inner = divmod(step, self.steps)
        return self.marks[mark] + self.length(step) * inner

    def length(self, step: int) -> float:
        """How long a step is, counted from 0."""
        if self.even is not None:
            return self.even
        mark = step // self.steps
        return (self.marks[mark + 1] - self.marks[mark]) / self.steps

    def largest(self, number: Timed) -> float | None:
        """The largest absolute value of a number at all steps, None if nothing is known of it.

        Raises ArithmeticError or ValueError if it is no finite number at one of the steps.
        """
        if not isinstance(number, tuple):
            return abs(number)
        if self.free:
            return None
        found = max(abs(at(number, self.begin(step), self.length(step))) for step in range(self.count))
        if not math.isfinite(found):
            raise OverflowError
        return found


def at(number: Timed, t: float, h: float) -> float:
    """A number at one step. Raises ArithmeticError or ValueError where it is none."""
    if not isinstance(number, tuple):
        return number
    name, *parts = number
    if name in ("t", "h"):
        return t if name == "t" else h
    values = [at(part, t, h) for part in parts]
    return float(_BINARY[name](*values) if name in _BINARY else FUNCTIONS[name](*values))


def combined(name: str, *parts: Timed) -> Timed:
    """An operation on such numbers, carried out where they are floats. Raises as `at` does."""
    parts = tuple(part if isinstance(part, tuple) else float(part) for part in parts)
    if not any(isinstance(part, tuple) for part in parts):
        return at((name, *parts), 0.0, 0.0)
    first, last = parts[0], parts[-1]
    if name == "+" and 0 in parts:
        return last if first == 0 else first
    if name in ("-", "/", "^") and last == (name != "-"):
        return first
    if name == "*" and 0 in parts:
        return 0.0
    if name == "*" and 1 in parts:
        return last if first == 1 else first
    return (name, *parts)


def later(number: Timed, delay: Timed) -> Timed:
    """The same number, where the time is later than the begin of a step."""
    if number == TIME:
        return combined("+", TIME, delay)
    if not isinstance(number, tuple):
        return number
    return combined(number[0], *(later(part, delay) for part in number[1:])) if len(number) > 1 else number


def uses(number: Timed, name: str) -> bool:
    """Whether a number depends on the time `t`, or on the length `h` of its step."""
    return isinstance(number, tuple) and (number[0] == name or any(uses(part, name) for part in number[1:]))


def negated(number: Timed) -> Timed | None:
    """What a number is the negative of, if it is written so."""
    return number[2] if isinstance(number, tuple) and number[:2] == ("*", -1.0) else None


def text(number: Timed, variables: Mapping[str, str]) -> str:
    """A number as Python, for variables of the time and the length of a step.

    `math` is where its functions are from: the module of that name, or torch for tensors.
    """
    return _text(number, variables)[0]


def factor(number: Timed, variables: Mapping[str, str]) -> str:
    """The same as the first factor of a product."""
    written, rank = _text(number, variables)
    return written if rank > 1 else f"({written})"


def _text(number: Timed, variables: Mapping[str, str]) -> tuple[str, int]:
    if not isinstance(number, tuple):
        return repr(float(number)), 5 if number >= 0 else 3
    name, *parts = number
    if name in variables:
        return variables[name], 5
    if name not in _RANK:
        inner = text(parts[0], variables)
        return (f"abs({inner})" if name == "abs" else f"{variables.get('math', 'math')}.{name}({inner})"), 5
    rank = _RANK[name]
    (left, tight), (right, tighter) = (_text(part, variables) for part in parts)
    if negated(number) is not None:
        return (f"-{right}" if tighter > rank else f"-({right})"), 3
    if tight < rank or (name == "^" and tight == rank):
        left = f"({left})"
    if tighter < rank or (tighter == rank and name in ("-", "/")) or (right.startswith("-")):
        right = f"({right})"
    if name == "^":
        simple = re.fullmatch(r"[\w.]+", left) and re.fullmatch(r"[\w.]+", right)
        return f"{left}**{right}" if simple else f"{left} ** {right}", rank
    return f"{left} {name} {right}", rank
