"""How parameters start, and those that stay what they are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Initialiser:
    """How a parameter starts: the name of an initialiser of the language and its numbers."""

    name: str
    numbers: tuple[float, ...] = ()


def fixed_entries(initialiser: Initialiser | None) -> tuple[float, ...]:
    """The entries of a tensor that is not trained, `fixed([…])`, or the one that all are; else none."""
    return initialiser.numbers if initialiser is not None and initialiser.name == "fixed" else ()


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """A tensor that an operator needs, in PyTorch's own layout."""

    role: str
    shape: tuple[int, ...]
    trainable: bool = True
    initialiser: Initialiser | None = None  # where no layer of PyTorch holds it
