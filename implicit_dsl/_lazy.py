"""Modules that are heavy to import and seldom needed: loaded at the first use of an attribute.

`implicitc check` must feel instant; numpy alone would double its time. Use as

    if TYPE_CHECKING:
        import numpy as np
    else:
        np = lazy_module("numpy")
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class _LazyModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self.__name__), name)
        setattr(self, name, value)
        return value


def lazy_module(name: str) -> ModuleType:
    """A stand-in for module `name`, which is imported when first looked into."""
    return _LazyModule(name)
