"""What a generated module knows of its own program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def structure_of(model: nn.Module) -> Mapping[str, Any]:
    """The matrix form of a module, as `ImplicitModel.as_data` writes it into the generated file.

    Subclasses have that of their base. Raises TypeError for a module that was not compiled from a program.
    """
    for made in type(model).__mro__:
        forward = made.__dict__.get("forward")
        structures = getattr(forward, "__globals__", {}).get("_STRUCTURES", {})
        if made.__name__ in structures:
            found: Mapping[str, Any] = structures[made.__name__]
            return found
    raise TypeError(f"{type(model).__name__} was not compiled from a program")
