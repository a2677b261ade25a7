"""The operators of the language: the open set. One family, one file; see `base` for what a family says.

Every module of this package that has `RULES` is part of the registry. `OPERATORS` maps the kind of an
operator to its rule, `CONSTRUCTORS` and `ACTIVATIONS` the names of the language to the rules
that they make.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from implicit_dsl.operators.base import ActivationRule, LinearRule, Operator, Rule

_MODULES = sorted(module.name for module in iter_modules(__path__))
_RULES: tuple[Rule, ...] = tuple(
    rule for name in _MODULES for rule in getattr(import_module(f"{__name__}.{name}"), "RULES", ())
)

OPERATORS: dict[str, Rule] = {rule.kind: rule for rule in _RULES}
CONSTRUCTORS: dict[str, Rule] = {name: rule for rule in _RULES for name in rule.names if name[0].isupper()}
ACTIVATIONS: dict[str, ActivationRule] = {
    name: rule
    for rule in _RULES
    if isinstance(rule, ActivationRule)
    for name in rule.names
    if not name[0].isupper()
}


def linear_rule(operator: Operator) -> LinearRule:
    """The rule of a linear operator."""
    rule = OPERATORS[operator.kind]
    assert isinstance(rule, LinearRule), f"`{operator.kind}` is not linear"
    return rule


def activation_rule(operator: Operator) -> ActivationRule:
    """The rule of an activation."""
    rule = OPERATORS[operator.kind]
    assert isinstance(rule, ActivationRule), f"`{operator.kind}` is not an activation"
    return rule
