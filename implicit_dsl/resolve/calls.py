"""Calls: layers and blocks are made, and layers, blocks, activations and functions applied."""

from __future__ import annotations

from typing import Any

from implicit_dsl import syntax as s
from implicit_dsl.clock import FUNCTIONS
from implicit_dsl.names import identifier
from implicit_dsl.operators.base import LinearRule, Rule
from implicit_dsl.resolve import apply, moments
from implicit_dsl.resolve.arguments import Arguments, arity, bind_template, settings_of
from implicit_dsl.resolve.context import CALL, Context
from implicit_dsl.resolve.functions import as_activation
from implicit_dsl.resolve.indexing import named_definition
from implicit_dsl.resolve.instantiate import apply_instance
from implicit_dsl.resolve.matrices import apply_matrix
from implicit_dsl.resolve.problem import Problem, later, problem, quoted
from implicit_dsl.resolve.recurrence import before
from implicit_dsl.resolve.scope import Body, Environment
from implicit_dsl.resolve.values import (
    REST,
    Activation,
    Builtin,
    ChainValue,
    Constructor,
    Function,
    Instance,
    Layer,
    MatrixExpression,
    ParameterValue,
    TemplateValue,
    TimeValue,
    describe,
    is_matrix,
    outputs_hint,
)
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.source import Span

LONGEST_LAG = 1000  # steps that `prev` looks back
DEEPEST_CALLS = 40  # functions calling functions


class _CallTag(int):
    """Where a function was called, in the tag of its scope."""


def evaluate_call(context: Context, node: s.Call, environment: Environment) -> Any:
    """The value of `f(a, b; k = 1)`."""
    function = context.evaluate(node.function, environment)
    if isinstance(function, Builtin) and function.name == "prev":
        return _prev(context, node, environment)
    if isinstance(function, Builtin) and function.name == "ifelse" and len(node.arguments) == 3:
        return _ifelse(context, node, environment)
    if node.elementwise:
        check_elementwise(function, node.function.span)
    arguments = Arguments([], [], {})
    sizes = isinstance(function, Builtin) and function.name == "reshape"
    behind = environment.inner({"_": REST}) if sizes else environment  # where sizes stand
    for argument in node.arguments:
        place = behind if arguments.values else environment
        arguments.values.append(context.evaluate(argument, place))
        arguments.spans.append(argument.span)
    for keyword in node.keywords:
        if keyword.name.name in arguments.keywords:
            raise problem("E0104", f"`{keyword.name.name}` is given twice", keyword.span)
        value = context.evaluate(keyword.value, environment)
        arguments.keywords[keyword.name.name] = (value, keyword.span)
    match function:
        case Constructor():
            return _construct(context, function, arguments, node, environment)
        case TemplateValue():
            return _instance(context, function, arguments, node, environment)
        case _:
            return call_value(context, function, arguments, node.span, environment)


def _prev(context: Context, node: s.Call, environment: Environment) -> Wire:
    """`prev(h)`, `prev(h, 2)`: h is not evaluated, as it may be what reads its own past."""
    if node.keywords or not 1 <= len(node.arguments) <= 2:
        raise problem("E0104", "`prev` takes a state, and how many steps before", node.span)
    target, *rest = node.arguments
    definition = named_definition(context, target, environment)
    body = definition.body if definition is not None else None
    if definition is None or body is None or body.recurrence is None or definition.kind not in ("~", "="):
        raise _no_past(target, node.span, environment)
    lag = context.evaluate(rest[0], environment) if rest else 1
    if isinstance(lag, bool) or not isinstance(lag, int) or not 1 <= lag <= LONGEST_LAG:
        raise problem("E0205", f"a lag is a whole number from 1 to {LONGEST_LAG}", rest[0].span)
    return before(context, definition, lag, node.span)


def _no_past(target: s.Expression, span: Span, environment: Environment) -> Problem:
    """`prev` of what is no name of a step."""
    if environment.body is not None and environment.body.ode is not None:
        help = "its steps are those of its method, and its equations are about one time"
        return problem("E0602", f"`prev({quoted(target.span)})` inside of an `ode`", span, help=help)
    if environment.body is not None and environment.body.recurrence is not None:
        return problem("E0602", "`prev` takes a name that is defined in the step", target.span)
    return problem(
        "E0602",
        f"`prev({quoted(target.span)})` outside of `recurrent`",
        span,
        help="put the equation in `recurrent x over u … end`; "
        f"for an equilibrium write `{quoted(target.span)}` alone",
    )


def _ifelse(context: Context, node: s.Call, environment: Environment) -> Any:
    """Only the branch that is taken is evaluated, so that the other may be impossible."""
    condition = context.evaluate(node.arguments[0], environment)
    if not isinstance(condition, bool):
        raise problem(
            "E0205",
            "a condition must be true or false at compile time",
            node.arguments[0].span,
            describe(condition),
        )
    return context.evaluate(node.arguments[1 if condition else 2], environment)


def call_value(
    context: Context, function: Any, arguments: Arguments, span: Span, environment: Environment
) -> Any:
    """A value applied to arguments; also what `|>` does."""
    match function:
        case Layer():
            arguments.no_keywords(function.rule.names[0])
            arity(function.rule.names[0], arguments, 1, 1, span)
            return apply.apply_layer(context, function, wire_of(context, arguments, 0, span), span)
        case Activation():
            return _activation(context, function, arguments, span)
        case Builtin(name, run):
            return run(context, arguments, span, environment)
        case Instance():
            return apply_instance(context, function, arguments, span, environment)
        case ChainValue(parts):
            value = arguments.values[0] if len(arguments.values) == 1 else None
            if value is None:
                raise problem("E0104", "a chain is applied to one value", span)
            arguments.no_keywords("chain")
            for number, part in enumerate(parts):
                place = environment.inner({}, ("part", number))  # a function may stand in it twice
                value = call_value(context, part, Arguments([value], arguments.spans, {}), span, place)
            return value
        case Function():
            return _call_function(context, function, arguments, span, environment)
        case MatrixExpression() | ParameterValue():
            arguments.no_keywords("a matrix")
            arity("a matrix", arguments, 1, 1, span)
            return apply_matrix(context, function, wire_of(context, arguments, 0, span), span)
        case Constructor(name) | Builtin(name):
            raise _needs_arguments(name, span)
        case TemplateValue(template):
            raise _needs_arguments(template.name.name, span)
        case Wire():
            raise problem(
                "E0207",
                f"{describe(function)} cannot be applied to something",
                span,
                help="a product is written `*`, the elementwise one `.*`",
            )
        case _:
            raise problem("E0207", f"{describe(function)} cannot be called", span)


def _needs_arguments(name: str, span: Span) -> Problem:
    return problem(
        "E0104", f"`{name}` was not given its arguments", span, help=f"write `{name}(…)`, then apply that"
    )


def wire_of(context: Context, arguments: Arguments, index: int, span: Span) -> Wire:
    """An argument that must be a value of the network; a `param` is one, too."""
    value = arguments.values[index]
    place = arguments.spans[index] if index < len(arguments.spans) else span
    if isinstance(value, Wire):
        return value
    if isinstance(value, ParameterValue):
        return apply.offset(context, value, place)
    if isinstance(value, TimeValue):
        return apply.constant(context, value, (), place)
    hint = f"apply it first, as in `{quoted(place)} * …`" if is_matrix(value) else outputs_hint(value)
    raise problem(
        "E0207", "a value of the network is needed here", place, f"this is {describe(value)}", help=hint
    )


def check_elementwise(function: Any, span: Span) -> None:
    """`f.(x)` is for what acts on each entry: activations, and functions made of them."""
    if not isinstance(function, (Activation, Builtin, Function)):
        raise problem(
            "E0207",
            f"the `.` before `(` is for activations, and this is {describe(function)}",
            span,
            help="write it without the `.`",
        )


def _activation(
    context: Context, function: Activation, arguments: Arguments, span: Span
) -> Wire | Activation | TimeValue:
    """φ on a value; with settings alone, the activation that has them."""
    name, rule = function.name, function.rule
    if arguments.keywords and not arguments.values:
        settings, _ = settings_of(rule, name, arguments, span)
        return Activation(name, rule, settings)
    count = len(rule.arguments)
    arity(name, arguments, count, count, span)
    if name in FUNCTIONS and isinstance(arguments.values[0], TimeValue):
        return moments.function(name, arguments.values[0], span)
    named = {key: given for key, given in arguments.keywords.items() if key in rule.optional}
    extra = Arguments([value for value, _ in named.values()], [place for _, place in named.values()], {})
    wires = [wire_of(context, arguments, number, span) for number in range(count)]
    wires += [wire_of(context, extra, number, span) for number in range(len(named))]
    given = {key: value for key, value in arguments.keywords.items() if key not in named}
    settings, blame = settings_of(rule, name, Arguments([], [], given), span)
    if function.settings is not None:
        Arguments([], [], given).no_keywords(name)
        settings = function.settings
    blame |= {key: place for key, (_, place) in named.items()}
    return apply.activate(context, rule, settings, tuple(wires), span, blame)


def _call_function(
    context: Context, function: Function, arguments: Arguments, span: Span, environment: Environment
) -> Any:
    """A function is inlined where it is used."""
    name = "this function" if function.name == "->" else function.name
    arguments.no_keywords(name)
    arity(name, arguments, len(function.formals), len(function.formals), span)
    if sum(isinstance(part, _CallTag) for part in environment.tag) >= DEEPEST_CALLS:
        raise problem(
            "E0107", f"more than {DEEPEST_CALLS} calls within calls", span, help=f"does `{name}` call itself?"
        )
    context.step(span, CALL + len(environment.tag))
    home = function.environment
    inner = Environment(
        home.body,
        home.module,
        home,
        dict(zip(function.formals, arguments.values)),
        (*environment.tag, _CallTag(span.start)),
        owner=environment.owner,
    )
    start = len(context.network.wires)
    result = context.evaluate(function.body, inner)
    if not isinstance(result, Wire):
        return result
    wires = [value for value in arguments.values if isinstance(value, Wire)]
    return as_activation(context, function, wires, result, start, span)


# --------------------------------------------------------------------------- making layers and blocks


def _owner(environment: Environment, span: Span, what: str) -> Body:
    if environment.owner is None:
        raise problem("E0309", f"{what} is made inside of a model or block", span)
    return environment.owner


def _direct_name(context: Context, node: s.Call, owner: Body) -> str:
    """The attribute that `layer K = Conv(…)` or `K = Conv(…)` asks for, or ''."""
    if not context.active:
        return ""
    definition = context.active[-1]
    if definition.expression is not node or definition.kind not in ("layer", "="):
        return ""
    name = f"{owner.instance.name}_{definition.shown}" if owner.instance.name else definition.shown
    if definition.environment.local:
        return context.invent(name, definition.span)
    return context.claim(name, definition.span)


def _invented_name(context: Context, kind: str, node: s.Call, owner: Body) -> str:
    # the one output of a block is called like the block
    target = "" if context.target() in ("", owner.sole) else identifier(context.target())
    parts = [part for part in (owner.instance.name, target, kind) if part]
    return context.invent("_".join(parts), node.span)


def _construct(
    context: Context, constructor: Constructor, arguments: Arguments, node: s.Call, environment: Environment
) -> Any:
    """A layer. The same text in the same place of the same instance is the same layer."""
    rule = constructor.rule
    owner = _owner(environment, node.span, f"a {constructor.name}")
    site = (id(node.span.source), node.span.start, environment.tag)
    if site in owner.instance.sites:
        return owner.instance.sites[site]
    for value, place in zip(arguments.values, arguments.spans):
        if isinstance(value, Wire):
            raise problem(
                "E0104",
                f"`{constructor.name}` takes its settings first, and then the value that it is applied to",
                place,
                describe(value),
                help=f"write `{constructor.name}(…) * {place.text}`"
                if isinstance(rule, LinearRule)
                else f"write `{constructor.name}(…)({place.text})`",
            )
    settings, blame = settings_of(rule, constructor.name, arguments, node.span)
    name = _direct_name(context, node, owner) or ""
    layer = Layer(rule, settings, name, node.span, blame)
    if not name and type(rule).parameters is not Rule.parameters:
        layer.name = _invented_name(context, rule.kind.replace("_", ""), node, owner)
    owner.instance.sites[site] = layer
    return layer


def _instance(
    context: Context, value: TemplateValue, arguments: Arguments, node: s.Call, environment: Environment
) -> Any:
    """A block with its arguments; its weights come to be at its first application."""
    owner = _owner(environment, node.span, f"the block `{value.template.name.name}`")
    site = (id(node.span.source), node.span.start, environment.tag)
    if site in owner.instance.sites:
        return owner.instance.sites[site]
    if value.template.base is not None and value.template.kind == "block":
        raise later("`extends` of a block", value.template.header)
    bound = bind_template(context, value, arguments, node.span)
    name, label = _direct_name(context, node, owner), context.target()
    if not name:
        label = identifier(value.template.name.name).lower()
        name = _invented_name(context, label, node, owner)
    instance = Instance(value, bound, name, label, node.span)
    owner.instance.sites[site] = instance
    return instance
