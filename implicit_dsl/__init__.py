"""implicitc: networks as equations in, certified PyTorch out.

import implicit_dsl
LeNet5 = implicit_dsl.load("lenet5.impl").LeNet5     # the generated module, without a file
text = implicit_dsl.compile(source_text)             # the generated text
made = implicit_dsl.from_torch(module, example)      # a PyTorch module as a program, compiled
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from implicit_dsl.compiler import compile
    from implicit_dsl.errors import Diagnostic, ImplicitError
    from implicit_dsl.loading import load, loads
    from implicit_dsl.translation import from_torch

__version__ = "0.1.0"
__all__ = ["Diagnostic", "ImplicitError", "__version__", "compile", "from_torch", "load", "loads"]

_HOMES = {
    "compile": "implicit_dsl.compiler",
    "load": "implicit_dsl.loading",
    "loads": "implicit_dsl.loading",
    "from_torch": "implicit_dsl.translation",
    "Diagnostic": "implicit_dsl.errors",
    "ImplicitError": "implicit_dsl.errors",
}


def __getattr__(name: str) -> Any:
    # lazily: `implicitc --help` must not pay for the compiler
    import importlib

    if name == "train":
        return importlib.import_module("implicit_dsl.train")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
