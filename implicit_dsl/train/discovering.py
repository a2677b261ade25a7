"""The program that is left in the weights of a compiled model."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

from implicit_dsl.discovery import Discovered
from implicit_dsl.discovery import discover as of_structure


def discover(model: nn.Module, name: str = "", **shapes: tuple[int, ...]) -> Discovered:
    """The architecture that is left in the weights of a compiled model, as a program with weights.

    Call `model.prune_(tolerance)` first. `shapes` are those of inputs with free sizes. The program is what
    `implicit_dsl.loads(found.source)` takes, and `discovery.tensors_of(found, dtype)` are its weights.

    Raises TypeError if the model is not a compiled one, and CannotWrite (a ValueError) for parts that are
    not written back.
    """
    return of_structure(model, structure_of(model), name, shapes)


def structure_of(model: nn.Module) -> Mapping[str, Any]:
    """The blocks of a compiled model, as data. Raises TypeError if it is none."""
    module = sys.modules.get(type(model).__module__)
    held: Mapping[str, Mapping[str, Any]] = getattr(module, "_STRUCTURES", {})
    if type(model).__name__ not in held:
        raise TypeError(f"{type(model).__name__} is not a model that implicitc compiled")
    return held[type(model).__name__]


__all__ = ["discover", "structure_of"]
