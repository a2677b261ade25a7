"""From syntax to the graph: names are bound, control flow is unrolled, shapes are inferred.

`resolve` is the one public function. The parts: `imports` (files), `statements` (bodies),
`definitions`, `expressions`, `calls`, `apply` (operators on values) and `lift` (values to
states).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from implicit_dsl import syntax as s
from implicit_dsl.errors import Diagnostic, Findings
from implicit_dsl.graph import Edge, Layer, Node, Parameter, Role, SignalGraph
from implicit_dsl.names import TAKEN_GLOBALS, identifier
from implicit_dsl.resolve.arguments import Arguments, bind_template
from implicit_dsl.resolve.constants import sizes
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.definitions import force
from implicit_dsl.resolve.expressions import evaluate
from implicit_dsl.resolve.imports import Loader, Parse, Read, open_module, run_constants
from implicit_dsl.resolve.lift import lift
from implicit_dsl.resolve.lookup import no_equation
from implicit_dsl.resolve.problem import Poisoned, Problem, problem
from implicit_dsl.resolve.scope import Body, DeclaredShape, Environment, Module
from implicit_dsl.resolve.statements import run_body
from implicit_dsl.resolve.values import Definition, Instance, TemplateValue, show_key
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.shapes import Dim, Size
from implicit_dsl.source import Source, Span


def resolve(
    program: s.Program,
    findings: Findings,
    *,
    parse: Parse,
    read: Read,
    bindings: Mapping[str, s.Expression] | None = None,
    model: str | None = None,
) -> tuple[tuple[SignalGraph, ...], tuple[Source, ...]]:
    """The graph of each model of a program (or of one), and the imported sources.

    `bindings` are compile-time parameters by name; each must be one of a model's. What is
    wrong goes to `findings`, and a model with errors gives no graph.
    """
    path = program.source.path
    root = os.path.dirname(os.path.abspath(path)) if path else os.getcwd()
    loader = Loader(parse, read, findings)
    if path:
        loader.active.append(os.path.realpath(path))
    module = open_module(loader, program, root)
    constants = _context(findings)
    run_constants(constants, module)
    templates = [
        value
        for value in module.names.values()
        if isinstance(value, TemplateValue) and value.template.kind == "model" and value.module is module
    ]
    try:
        chosen = _choose(program, templates, model)
    except Problem as found:
        findings.add(found.diagnostic)
        return (), tuple(loader.sources)
    _check_bindings(program, findings, chosen, bindings or {})
    graphs = [_resolve_model(value, findings, bindings or {}) for value in chosen]
    return tuple(graph for graph in graphs if graph is not None), tuple(loader.sources)


def _context(findings: Findings) -> Context:
    context = Context(findings)
    context.evaluate = lambda expression, environment: evaluate(context, expression, environment)
    context.force = lambda definition: force(context, definition)
    return context


def _choose(program: s.Program, templates: list[TemplateValue], model: str | None) -> list[TemplateValue]:
    start = Span(program.source, 0, 0)
    if model is None:
        if not templates:
            raise problem("E0805", "there is no model in this file", start, help="write `model Name() … end`")
        return templates
    chosen = [value for value in templates if value.template.name.name == model]
    if not chosen:
        have = ", ".join(f"`{value.template.name.name}`" for value in templates) or "none"
        raise problem("E0805", f"there is no model `{model}` in this file", start, help=f"there are {have}")
    return chosen


def _check_bindings(
    program: s.Program, findings: Findings, chosen: list[TemplateValue], bindings: Mapping[str, s.Expression]
) -> None:
    known = {formal.name.name for value in chosen for formal in value.template.formals}
    for name, expression in bindings.items():
        if name not in known:
            have = ", ".join(f"`{other}`" for other in sorted(known)) or "none"
            findings.add(
                Diagnostic(
                    "E0104", f"no model has a parameter `{name}`", expression.span, help=f"there are {have}"
                )
            )


# --------------------------------------------------------------------------- one model


def _resolve_model(
    value: TemplateValue, findings: Findings, bindings: Mapping[str, s.Expression]
) -> SignalGraph | None:
    context = _context(findings)
    before = findings.errors
    template = value.template
    try:
        return _run_model(context, value, bindings, before)
    except Problem as found:
        findings.add(found.diagnostic)
    except Poisoned:
        pass
    except RecursionError:
        active = context.active[-1] if context.active else None
        findings.add(
            Diagnostic(
                "E0107",
                "this program depends on itself too deeply to be resolved",
                active.span if active else template.header,
                help="define things before they are used, or declare the shapes of states",
            )
        )
    return None


def _run_model(
    context: Context, value: TemplateValue, bindings: Mapping[str, s.Expression], before: int
) -> SignalGraph | None:
    template = value.template
    name = identifier(template.name.name)
    if name in TAKEN_GLOBALS:
        raise problem(
            "E0105",
            f"`{template.name.name}` cannot be the name of a model",
            template.name.span,
            "the generated file uses this name",
        )
    formals = {formal.name.name for formal in template.formals}
    given = Arguments([], [], {})
    module_scope = Environment(None, value.module)
    for key, expression in bindings.items():
        if key in formals:
            given.keywords[key] = (context.evaluate(expression, module_scope), expression.span)
    bound = bind_template(context, value, given, template.header)
    body = Body(Instance(value, bound, "", template.name.span), "", (), 0)
    parts = _parts(context, value, bound, body)
    for statements, environment in parts:
        _make_inputs(context, body, statements, environment)
    run_body(context, body, parts)
    _collect_outputs(context, body, template)
    if context.findings.errors > before:
        return None
    nodes, edges = lift(context.network)
    return _graph(context, body, template, name, bound, nodes, edges)


def _parts(
    context: Context, value: TemplateValue, bound: dict[str, Any], body: Body
) -> list[tuple[tuple[s.Statement, ...], Environment]]:
    """The body of a model, behind that of the model that it extends."""
    template = value.template
    environment = Environment(body, value.module, None, dict(bound), (), False, body)
    own = (template.body, environment)
    if template.base is None:
        return [own]
    call = template.base
    function = call.function if isinstance(call, s.Call) else call
    scope = Environment(None, value.module, None, dict(bound))
    base = context.evaluate(function, scope)
    if not isinstance(base, TemplateValue) or base.template.kind != "model":
        raise problem("E0207", "a model extends a model", call.span)
    if body.depth > 32:
        raise problem("E0107", f"`{template.name.name}` extends itself", call.span)
    body.depth += 1
    given = Arguments([], [], {})
    if isinstance(call, s.Call):
        for argument in call.arguments:
            given.values.append(context.evaluate(argument, scope))
            given.spans.append(argument.span)
        for keyword in call.keywords:
            given.keywords[keyword.name.name] = (context.evaluate(keyword.value, scope), keyword.span)
    base_bound = bind_template(context, base, given, call.span)
    return [*_parts(context, base, base_bound, body), own]


def _make_inputs(
    context: Context, body: Body, statements: tuple[s.Statement, ...], environment: Environment
) -> None:
    """The inputs of the model itself, with their free sizes."""
    for statement in statements:
        if not isinstance(statement, s.Declaration) or statement.kind != "input" or statement.shape is None:
            continue
        key = (statement.name.name,)
        if key in body.definitions or statement.family is not None:
            continue
        declared = DeclaredShape(statement.shape, environment, statement.name.span, "input")
        definition = Definition(
            key, "input", None, environment, statement.name.span, body, "poisoned", label=key[0]
        )
        body.definitions[key] = definition
        try:
            found = sizes(context, declared)
        except Problem as wrong:
            context.findings.add(wrong.diagnostic)
            continue
        except Poisoned:
            continue
        shape: tuple[Dim, ...] = tuple(Size(key[0], axis) if n is None else n for axis, n in enumerate(found))
        wire = context.wire("input", shape, statement.name.span)
        wire.name = key[0]
        definition.value, definition.status = wire, "done"


def _collect_outputs(context: Context, body: Body, template: s.Template) -> None:
    if not body.outputs:
        raise problem(
            "E0303",
            f"model `{template.name.name}` has no output",
            template.header,
            help="write `output y = …`",
        )
    for key, span in body.outputs:
        definition = body.definitions.get(key)
        if definition is None:
            context.findings.add(no_equation(show_key(key), "output", span).diagnostic)
        elif definition.status == "done" and isinstance(definition.value, Wire):
            context.network.outputs.append((show_key(key), definition.value, span))
    for key, shape in body.shapes.items():
        if key not in body.definitions and shape.kind == "state":
            context.findings.add(no_equation(show_key(key), "state", shape.span).diagnostic)


def _graph(
    context: Context,
    body: Body,
    template: s.Template,
    name: str,
    bound: dict[str, Any],
    nodes: tuple[Node, ...],
    edges: tuple[Edge, ...],
) -> SignalGraph:
    used = {id for edge in edges for id in edge.parameters}
    _warn_unused(context, body, nodes, edges, used)
    return SignalGraph(
        name,
        template.doc,
        tuple((key, _shown(value)) for key, value in bound.items()),
        nodes,
        edges,
        tuple(
            Layer(layer.name, layer.operator, layer.span)
            for layer in context.layers
            if layer.operator is not None and any(tensor.id in used for tensor in layer.tensors)
        ),
        tuple(
            Parameter(tensor.id, tensor.shape, tensor.trainable, tensor.initialiser, tensor.span)
            for tensor in context.tensors
            if tensor.id in used
        ),
        template.header,
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, range):
        return f"{value.start}:{value[-1]}" if len(value) and value.step == 1 else str(list(value))
    if isinstance(value, tuple):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    name = getattr(value, "name", None)
    return name if isinstance(name, str) else "…"


def _warn_unused(
    context: Context, body: Body, nodes: tuple[Node, ...], edges: tuple[Edge, ...], used: set[str]
) -> None:
    read = {edge.source for edge in edges}
    for node in nodes:
        if node.role is Role.INPUT and node.name not in read and "unused_input" not in body.allowed:
            hint = "remove it, or silence this with `@allow unused_input`"
            context.warn(Diagnostic("W0101", f"input `{node.name}` is never used", node.span, help=hint))
    made = {node.name for node in nodes}
    for wire in context.network.wires:
        if wire.kind == "state" and wire.name not in made and "unused_state" not in body.allowed:
            hint = "it is left out; remove it, or silence this with `@allow unused_state`"
            context.warn(
                Diagnostic("W0302", f"no output depends on state `{wire.name}`", wire.span, help=hint)
            )
    for tensor in context.tensors:
        if (
            tensor.id not in used
            and tensor.initialiser is not None
            and "unused_parameter" not in body.allowed
        ):
            hint = "it is left out; remove it, or silence this with `@allow unused_parameter`"
            context.warn(
                Diagnostic("W0501", f"parameter `{tensor.id}` has no effect", tensor.span, help=hint)
            )
