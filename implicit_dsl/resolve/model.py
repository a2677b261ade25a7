"""One model: its inputs, its body, its outputs, and the graph of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from implicit_dsl import syntax as s
from implicit_dsl.demands import Demands
from implicit_dsl.errors import Diagnostic, Label
from implicit_dsl.graph import Edge, Layer, Node, Parameter, Role, SignalGraph
from implicit_dsl.names import TAKEN_GLOBALS, identifier
from implicit_dsl.operators.base import Operator
from implicit_dsl.recurrence import Recurrence, with_steps
from implicit_dsl.resolve.annotations import assembled, demands, read
from implicit_dsl.resolve.annotations.loops import loops_of
from implicit_dsl.resolve.arguments import Arguments, bind_template
from implicit_dsl.resolve.bases import parts_of
from implicit_dsl.resolve.constants import sizes
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.inputs import announce, claim_variables, in_order, make_inputs
from implicit_dsl.resolve.lift import lift
from implicit_dsl.resolve.lookup import no_equation
from implicit_dsl.resolve.mismatch import fits
from implicit_dsl.resolve.opened_blocks import open_blocks
from implicit_dsl.resolve.openings import read_opens
from implicit_dsl.resolve.problem import Poisoned, Problem, problem, too_deep
from implicit_dsl.resolve.scope import Body, Environment
from implicit_dsl.resolve.statements import run_body
from implicit_dsl.resolve.stepped import stepped
from implicit_dsl.resolve.values import (
    Instance,
    TemplateValue,
    short,
    show_key,
)
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.source import Span


def resolve_model(
    context: Context, value: TemplateValue, bindings: Mapping[str, s.Expression]
) -> SignalGraph | None:
    """The graph of a model, or None if something is wrong with it, which is reported."""
    try:
        return _resolve(context, value, bindings)
    except Problem as found:
        context.report(found.diagnostic)
    except Poisoned:
        pass
    except RecursionError:
        active = context.active[-1] if context.active else None
        context.report(too_deep(active.span if active else value.template.header))
    finally:
        for diagnostic in context.announced:
            context.report(diagnostic)
    return None


def _resolve(
    context: Context, value: TemplateValue, bindings: Mapping[str, s.Expression]
) -> SignalGraph | None:
    before = context.findings.errors
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
    body = Body(Instance(value, bound, "", "", template.name.span), "", (), 0, context.network)
    parts = parts_of(context, value, bound, body)
    announce(context, body, parts)
    claim_variables(context, body)
    run_body(context, body, parts, lambda: make_inputs(context, body))
    _collect_outputs(context, body, template, bool(value.module.lost))
    requests = read(context)
    openings = read_opens(context)
    wrong = context.poisoned or context.findings.errors > before
    if wrong or len(context.network.outputs) < max(1, len(body.outputs)):
        return None
    if not any(wire.kind == "input" for wire in context.network.wires):
        raise problem(
            "E0310",
            f"model `{template.name.name}` has no input",
            template.header,
            notes=("the size of the batch is that of the inputs",),
            help="write `input u[…]`; what is computed from parameters alone is no model",
        )
    lifted = lift(context.network, tuple(pair for opening in openings for pair in opening.pairs))
    recurrences = lifted.recurrences
    nodes, edges = open_blocks(context, openings, lifted, in_order(body, lifted.nodes))
    every = [graph for one in recurrences for graph in with_steps(one.step)]
    all_nodes = (*nodes, *(node for graph in every for node in graph.nodes))
    all_edges = (*edges, *(edge for graph in every for edge in graph.edges))
    asked = demands(context, requests, all_nodes, all_edges)
    if context.measured:
        steps = {node.name for graph in every for node in graph.nodes}
        steps |= {name for one in recurrences for name, *_ in one.gives}
        sparse, penalties = assembled(context, context.measured, all_nodes, all_edges, steps)
        asked = replace(asked, sparse=sparse, penalties=penalties)
    graph = _graph(context, body, template, name, bound, nodes, edges, recurrences, asked)
    return None if context.findings.errors > before else graph


def _collect_outputs(context: Context, body: Body, template: s.Template, unread: bool) -> None:
    """The outputs in order. `unread`: some lines could not be read, and may have had them."""
    if not body.outputs and not unread and not body.broken:
        name = template.name.name
        raise problem("E0303", f"model `{name}` has no output", template.header, help="write `output y = …`")
    for key, span in body.outputs.items():
        definition = body.definitions.get(key)
        if definition is None:
            if key[0] not in body.broken and not unread:
                meant = _unread_value(context, body, key)
                context.report(no_equation(show_key(key), "output", span, meant).diagnostic)
        elif definition.kind == "input":
            refused = problem(
                "E0302",
                f"`{show_key(key)}` is an input, and an output needs a name of its own",
                span,
                labels=(Label(definition.span, "the input"),),
                help=f"write `output y = {show_key(key)}`",
            )
            context.report(refused.diagnostic)
        elif definition.status == "done" and isinstance(definition.value, Wire):
            context.network.outputs.append((show_key(key), definition.value, span))


def _unread_value(context: Context, body: Body, output: tuple[Any, ...]) -> str:
    """The one named value that nothing reads and that fits an output without a definition."""
    declared = body.shapes.get(output)
    wanted = sizes(context, declared) if declared is not None else None
    read = {source for wire in context.network.wires for source in wire.sources}
    found = [
        definition.shown
        for definition in body.definitions.values()
        if definition.status == "done"
        and isinstance(definition.value, Wire)
        and definition.value not in read
        and (wanted is None or fits(wanted, definition.value.shape))
    ]
    return found[0] if len(found) == 1 else ""


def _graph(
    context: Context,
    body: Body,
    template: s.Template,
    name: str,
    bound: dict[str, Any],
    nodes: tuple[Node, ...],
    edges: tuple[Edge, ...],
    recurrences: tuple[Recurrence[SignalGraph], ...],
    asked: Demands,
) -> SignalGraph:
    steps = [graph for one in recurrences for graph in with_steps(one.step)]
    every = (*edges, *(edge for step in steps for edge in step.edges))
    used = {id for edge in every for id in edge.parameters}
    _warn_unused(context, body, nodes, edges, recurrences, used)
    graph = SignalGraph(
        name,
        template.doc,
        tuple((key, _shown(value)) for key, value in bound.items()),
        nodes,
        edges,
        tuple(
            Layer(layer.name, _held(layer.operator, layer.name, used), layer.span)
            for layer in context.layers
            if layer.operator is not None and any(tensor.id in used for tensor in layer.tensors)
        ),
        tuple(
            Parameter(
                tensor.id,
                tensor.shape,
                tensor.trainable,
                tensor.initialiser,
                tensor.span,
                tensor.within,
                tensor.opens,
            )
            for tensor in context.tensors
            if tensor.id in used
        ),
        template.header,
        asked,
    )
    whole = replace(graph, recurrences=tuple(_within(one, graph) for one in recurrences))
    return stepped(context, whole)


def _within(recurrence: Recurrence[SignalGraph], graph: SignalGraph) -> Recurrence[SignalGraph]:
    """A recurrence whose step knows the parameters and demands of the model."""
    inner = tuple(_within(one, graph) for one in recurrence.step.recurrences)
    name = f"{graph.name}.{recurrence.name}"
    step = replace(
        recurrence.step, name=name, parameters=graph.parameters, demands=graph.demands, recurrences=inner
    )
    return replace(recurrence, step=step)


def _held(operator: Operator, layer: str, used: set[str]) -> Operator:
    """What a layer holds: no bias, if only its transpose is used."""
    if not operator.get("bias", False) or f"{layer}.bias" in used:
        return operator
    settings = tuple((name, name != "bias" and value) for name, value in operator.settings)
    return replace(operator, settings=settings)


LONGEST = 60  # characters of a compile-time parameter in the documentation


def _shown(value: Any, room: int = LONGEST) -> str:
    """A compile-time parameter as text; lists are cut, as they may repeat within one another."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value}"' if len(value) <= room else f'"{value[:room]}…"'
        case int() | float():
            return short(value)
        case range() if len(value) and value.step == 1:
            return f"{value.start}:{value[-1]}"
        case tuple() | range():
            pieces: list[str] = []
            for item in value:
                if room <= 0:
                    pieces.append("…")
                    break
                pieces.append(_shown(item, room - 2))
                room -= len(pieces[-1]) + 2
            return f"[{', '.join(pieces)}]"
    name = getattr(value, "name", None)
    return name if isinstance(name, str) and name else "…"


def _warn_unused(
    context: Context,
    body: Body,
    nodes: tuple[Node, ...],
    edges: tuple[Edge, ...],
    recurrences: tuple[Recurrence[SignalGraph], ...],
    used: set[str],
) -> None:
    """What the model itself declares and no output depends on; blocks may have more than is needed."""

    def warn(code: str, kind: str, message: str, span: Span, hint: str) -> None:
        if f"unused_{kind}" not in body.allowed:
            help = f"{hint}, or silence this with `@allow unused_{kind}`"
            context.report(Diagnostic(code, message, span, help=help))

    read = {edge.source for edge in edges} | {name for one in recurrences for name in one.reads}
    for node in nodes:
        if node.role is Role.INPUT and node.name not in read:
            warn("W0101", "input", f"input `{node.name}` is never used", node.span, "remove it")
    made = {node.name for node in nodes}
    for wire in context.network.wires:
        if wire.kind == "state" and not wire.path and wire.name not in made:
            message = f"no output depends on state `{wire.name}`"
            warn("W0302", "state", message, wire.span, "it is left out: remove it")
    looped = loops_of(nodes, edges) if any(node.start for node in nodes) else {}
    for node in nodes:
        if node.start and node.name not in looped:
            message = f"`{node.name}` is no unknown of a loop, so its start value has no effect"
            warn("W0401", "annotation", message, node.span, "leave it out")
    for tensor in context.tensors:
        if tensor.id not in used and tensor.initialiser is not None:
            message = f"parameter `{context.written(tensor.id)}` has no effect"
            warn("W0501", "parameter", message, tensor.span, "it is left out: remove it")
    for layer in context.layers:
        ids = [tensor.id for tensor in layer.tensors]
        unused = f"{layer.name}.bias" in ids and f"{layer.name}.bias" not in used
        if unused and f"{layer.name}.weight" in used:
            name = context.written(layer.name)
            message = f"the bias of `{name}` has no effect, as only its transpose is used"
            warn("W0501", "parameter", message, layer.span, "it is left out: write `bias = false`")
