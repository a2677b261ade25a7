"""From syntax to the graph: names are bound, control flow is unrolled, shapes are inferred.

`resolve` is the one public function. The parts: `imports` (files), `model` (one graph),
`statements` (bodies), `definitions`, `expressions`, `calls`, `apply` (operators on values)
and `lift` (values to states).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MethodType

from implicit_dsl import syntax as s
from implicit_dsl._collector import collector_at_rest
from implicit_dsl.errors import Diagnostic, Findings, Label
from implicit_dsl.graph import SignalGraph
from implicit_dsl.names import identifier
from implicit_dsl.resolve.annotations import check_top
from implicit_dsl.resolve.context import MOST_STEPS, STEPS_PER_CHARACTER, Budget, Context
from implicit_dsl.resolve.definitions import force, introduce
from implicit_dsl.resolve.expressions import evaluate, scopes
from implicit_dsl.resolve.imports import Loader, Parse, Read, open_module, run_constants
from implicit_dsl.resolve.model import resolve_model
from implicit_dsl.resolve.places import Places
from implicit_dsl.resolve.problem import Exhausted, Problem, did_you_mean, problem
from implicit_dsl.resolve.scope import Module
from implicit_dsl.resolve.values import TemplateValue
from implicit_dsl.source import Source, Span


def resolve(
    program: s.Program,
    findings: Findings,
    *,
    parse: Parse,
    read: Read,
    bindings: Mapping[str, s.Expression] | None = None,
    model: str | None = None,
    include: Sequence[str] = (),
) -> tuple[tuple[SignalGraph, ...], tuple[Source, ...]]:
    """The graph of each model of a program (or of one), and the imported sources.

    `bindings` are compile-time parameters by name; each must be one of a model's. `include`
    are folders in which imports are looked for beside that of the program. What is wrong goes
    to `findings`, and a model with errors gives no graph.
    """
    path = program.source.path
    root = os.path.dirname(os.path.abspath(path)) if path else os.getcwd()
    loader = Loader(parse, read, findings, Places(root, tuple(include)))
    if path:
        loader.active[os.path.realpath(path)] = program.source.name
    graphs: list[SignalGraph] = []
    before = len(findings.found)
    with collector_at_rest():
        try:
            module = open_module(loader, program)
            text = sum(len(source.text) for source in (program.source, *loader.sources))
            budget = Budget(MOST_STEPS + STEPS_PER_CHARACTER * text)
            top = _context(findings, budget)
            run_constants(top, module)
            check_top(top, module)
            for value in _choose(findings, module, model, bindings or {}):
                graph = resolve_model(_context(findings, budget), value, bindings or {})
                if graph is not None:
                    graphs.append(graph)
        except Problem as found:
            findings.add(found.diagnostic)
        except Exhausted as end:
            if end.diagnostic is not None:
                findings.add(end.diagnostic)
    files = {id(source): number for number, source in enumerate((program.source, *loader.sources))}
    places = {id(d): (files.get(id(d.span.source), -1), d.span.start) for d in findings.found[before:]}
    findings.found[before:] = sorted(findings.found[before:], key=lambda d: places[id(d)])
    return tuple(graphs), tuple(loader.sources)


def _context(findings: Findings, budget: Budget) -> Context:
    context = Context(findings, budget)
    context.evaluate = MethodType(evaluate, context)
    context.scopes = MethodType(scopes, context)
    context.force = MethodType(force, context)
    context.introduce = MethodType(introduce, context)
    return context


def _choose(
    findings: Findings, module: Module, model: str | None, bindings: Mapping[str, s.Expression]
) -> list[TemplateValue]:
    """The models to resolve. Raises Problem if there are none."""
    templates = [
        value
        for value in module.names.values()
        if isinstance(value, TemplateValue) and value.template.kind == "model" and value.module is module
    ]
    start = Span(module.source, 0, 0)
    names = [value.template.name.name for value in templates]
    if model is None:
        if not templates and not findings.errors:
            raise problem("E0805", "there is no model in this file", start, help="write `model Name() … end`")
        chosen = templates
    else:
        chosen = [value for value in templates if value.template.name.name == model]
        if not chosen:
            meant = did_you_mean(model, names)
            have = ", ".join(f"`{name}`" for name in names[:10]) or "none"
            help = f"did you mean `{meant}`?" if meant else f"there are {have}"
            raise problem("E0805", f"there is no model `{model}` in this file", start, help=help)
    _check_class_names(findings, chosen)
    _check_bindings(findings, chosen, bindings)
    return chosen


def _check_class_names(findings: Findings, chosen: list[TemplateValue]) -> None:
    classes: dict[str, s.Name] = {}
    for value in chosen:
        name = value.template.name
        other = classes.setdefault(identifier(name.name), name)
        if other is not name:
            findings.add(
                Diagnostic(
                    "E0106",
                    f"`{name.name}` and `{other.name}` are both called `{identifier(name.name)}` in Python",
                    name.span,
                    labels=(Label(other.span, f"`{other.name}` is here"),),
                    help="rename one of them",
                )
            )


def _check_bindings(
    findings: Findings, chosen: list[TemplateValue], bindings: Mapping[str, s.Expression]
) -> None:
    known = {formal.name.name for value in chosen for formal in value.template.formals}
    for name, expression in bindings.items():
        if name not in known:
            meant = did_you_mean(name, known)
            have = ", ".join(f"`{other}`" for other in sorted(known)) or "none"
            help = f"did you mean `{meant}`?" if meant else f"there are {have}"
            message = f"no model has a parameter `{name}`"
            findings.add(Diagnostic("E0104", message, expression.span, help=help))
