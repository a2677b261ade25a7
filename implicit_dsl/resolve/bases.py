"""What a model extends: its lines are those of its base, and its own behind them."""

from __future__ import annotations

from typing import Any, TypeAlias

from implicit_dsl import syntax as s
from implicit_dsl.resolve.arguments import Arguments, bind_template
from implicit_dsl.resolve.context import DEEPEST_BLOCKS, Context
from implicit_dsl.resolve.problem import problem
from implicit_dsl.resolve.scope import Body, Environment
from implicit_dsl.resolve.values import TemplateValue, describe

Parts: TypeAlias = list[tuple[tuple[s.Statement, ...], Environment]]


def parts_of(
    context: Context, value: TemplateValue, bound: dict[str, Any], body: Body, depth: int = 0
) -> Parts:
    """The statements of a model or block, each with its scope, behind those of the model that it extends."""
    template = value.template
    own = (template.body, Environment(body, value.module, None, dict(bound), (), False, body))
    if template.base is None:
        return [own]
    call = template.base
    function = call.function if isinstance(call, s.Call) else call
    scope = Environment(None, value.module, None, dict(bound))
    base = context.evaluate(function, scope)
    if not isinstance(base, TemplateValue) or base.template.kind != "model":
        raise problem("E0207", "a model extends a model", call.span, f"this is {describe(base)}")
    if depth > DEEPEST_BLOCKS:
        raise problem("E0107", f"`{template.name.name}` extends itself", call.span)
    given = Arguments([], [], {})
    if isinstance(call, s.Call):
        for argument in call.arguments:
            given.values.append(context.evaluate(argument, scope))
            given.spans.append(argument.span)
        for keyword in call.keywords:
            given.keywords[keyword.name.name] = (context.evaluate(keyword.value, scope), keyword.span)
    base_bound = bind_template(context, base, given, call.span)
    return [*parts_of(context, base, base_bound, body, depth + 1), own]
