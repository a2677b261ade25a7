"""What a definition reads, as far as the text shows it, in an order in which it can be evaluated.

Definitions are evaluated when they are first needed, by recursion. A long chain that is
written last one first would nest as deep as it is long, so a deep one is put in order here.
"""

from __future__ import annotations

from collections.abc import Iterator

from implicit_dsl import syntax as s
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.indexing import is_member, labels
from implicit_dsl.resolve.lookup import find
from implicit_dsl.resolve.problem import Poisoned, Problem
from implicit_dsl.resolve.scope import Environment
from implicit_dsl.resolve.values import Definition

_SPANS = ("span", "operator_span")


def needed_first(context: Context, definition: Definition) -> list[Definition]:
    """The unevaluated definitions that this one reads, directly or not, each behind those it reads itself."""
    found: list[Definition] = []
    seen = {id(definition)}
    waiting = [(definition, _reads(context, definition))]
    while waiting:
        current, reads = waiting[-1]
        for other in reads:
            if id(other) not in seen and other.status == "new":
                seen.add(id(other))
                waiting.append((other, _reads(context, other)))
                break
        else:
            waiting.pop()
            found.append(current)
    return found[:-1]


def _reads(context: Context, definition: Definition) -> Iterator[Definition]:
    """The definitions whose names stand in an expression. Names bound within it give none."""
    waiting: list[object] = [definition.expression]
    environment = definition.environment
    while waiting:
        node = waiting.pop()
        if isinstance(node, tuple):
            waiting.extend(reversed(node))
        elif isinstance(node, s.Name):
            bound = find(node.name, environment)
            if isinstance(bound, Definition):
                yield bound
        elif isinstance(node, s.Index) and is_member(node, environment):
            yield from _member(context, node, environment)
        elif hasattr(node, "span"):
            names: tuple[str, ...] = type(node).__slots__  # type: ignore[attr-defined]
            waiting.extend(getattr(node, name) for name in reversed(names) if name not in _SPANS)


def _member(context: Context, node: s.Index, environment: Environment) -> Iterator[Definition]:
    assert environment.body is not None and isinstance(node.value, s.Name)
    name = node.value.name
    body = environment.body.holding(name)
    rank = len(next(iter(body.families[name]))) - 1
    try:
        key = (name, *labels(context, node.subscripts[:rank], environment))
    except (Problem, Poisoned):
        return  # labels bound within the expression
    member = body.definitions.get(key)
    if member is not None:
        yield member
