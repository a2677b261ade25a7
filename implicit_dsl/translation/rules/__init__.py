"""How the operators of PyTorch are written in the language: one family, one file.

A rule is a function of a `Site` and the arguments of the operator, in the order of its schema. Every module
of this package that has `RULES` is part of the table; the keys are names of overloads,
`aten.linear.default`. What writes in place has no rule of its own.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from implicit_dsl.translation.site import Rule

RULES: dict[str, Rule] = {
    name: rule
    for module in sorted(one.name for one in iter_modules(__path__))
    for name, rule in import_module(f"{__name__}.{module}").RULES.items()
}
