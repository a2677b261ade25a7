"""What the compiler makes on the way, for reading (`show --stage`) and as JSON (`compile --emit`)."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from implicit_dsl.cli.messages import bold
from implicit_dsl.cli.table import printable, table
from implicit_dsl.shapes import Shape, Size, Total, show

if TYPE_CHECKING:
    from implicit_dsl.certify import Certified
    from implicit_dsl.compiler import Checked
    from implicit_dsl.graph import SignalGraph
    from implicit_dsl.model import Chain, ImplicitModel, Term
    from implicit_dsl.operators.base import Operator
    from implicit_dsl.recurrence import Recurrence


def describe(found: Checked, stage: str) -> str:
    """A stage of each model as text."""
    if stage == "program":
        from implicit_dsl.parse import parse

        program, _ = parse(found.sources[0])
        return "\n".join(_tree("", program, 0)) + "\n"
    pages = {"graph": _graph, "model": _model, "schedule": _schedule}
    return "\n".join(pages[stage](one, model) for one, model in zip(found.certified, found.models))


# --------------------------------------------------------------------------- the program


def _tree(label: str, value: Any, depth: int) -> Iterator[str]:
    """Syntax as an outline: one line for a construct, its parts below."""
    indent, mark = "  " * depth, f"{label}: " if label else ""
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        if value:
            yield f"{indent}{label}"
        for item in value:
            yield from _tree("", item, depth + 1)
        return
    fields = getattr(value, "__dataclass_fields__", None)
    if fields is None:
        if value is not None and value is not False:
            yield printable(f"{indent}{mark}{value!r}")
        return
    name = type(value).__name__
    if name == "Name":
        yield printable(f"{indent}{mark}{value.name}")
        return
    yield f"{indent}{mark}{name}"
    for field in fields:
        if field not in ("span", "header", "source") and not field.endswith("_span"):
            yield from _tree(field, getattr(value, field), depth + 1)


# --------------------------------------------------------------------------- the graph


def _graph(certified: Certified, model: ImplicitModel) -> str:
    graph = certified.graph
    nodes = [
        (node.role.value, node.name, show(node.shape), node.activation.kind if node.activation else "")
        for node in graph.nodes
    ]
    edges = [(edge.source or "1", "→", edge.target, chain_text(edge.chain)) for edge in graph.edges]
    return "\n".join(
        (
            bold(graph.name),
            table(nodes, ("", "node", "shape", "activation")),
            "",
            table(edges, ("from", "", "to", "operators, the first applied first")),
            "",
        )
    )


def chain_text(chain: Chain) -> str:
    """`conv(c1_conv.weight, c1_conv.bias) · reshape`."""
    parts = []
    for operator in chain:
        ids = ", ".join(id for _, id in operator.parameters)
        parts.append(f"{operator.kind}({ids})" if ids else operator.kind)
    return " · ".join(parts)


# --------------------------------------------------------------------------- the model


def _model(certified: Certified, model: ImplicitModel) -> str:
    """One equation for each block: x = φ(Ax + Bu + b), y = Cx + Du + d, block by block."""
    lines = [bold(model.name)]
    for block in model.states:
        inner = _sum(model.terms_of[block.name])
        equation = inner if block.activation is None else f"{block.phi}({inner})"
        lines.append(f"  {printable(block.name)} = {printable(equation)}")
    lines += [printable(f"  {block.name} = {_sum(model.terms_of[block.name])}") for block in model.outputs]
    return "\n".join(lines) + "\n"


def _sum(terms: tuple[Term, ...]) -> str:
    return " + ".join(map(_term, terms)) or "0"


def _term(term: Term) -> str:
    said = term.source or "1"
    for operator in term.chain:
        ids = ", ".join(id for _, id in operator.parameters)
        said = f"{operator.kind}[{ids}]({said})" if ids else f"{operator.kind}({said})"
    return said


# --------------------------------------------------------------------------- the schedule


def _schedule(certified: Certified, model: ImplicitModel) -> str:
    reads = {block.name: [term.source for term in model.terms_of[block.name]] for block in model.states}
    rows = []
    for number, group in enumerate(certified.groups, 1):
        sources = dict.fromkeys(source for name in group.states for source in reads[name] if source)
        rows.append((str(number), ", ".join(group.states), ", ".join(sources), group.guarantee.value))
    listed = table(rows, ("step", "solve", "from", "because"), right="step") if rows else "  nothing to solve"
    return f"{bold(model.name)}\n{listed}\n"


# --------------------------------------------------------------------------- JSON


def write_json(options: Namespace) -> int:
    """The graph or the implicit model of each model of a file, as JSON."""
    from implicit_dsl.cli.artefacts import deliver
    from implicit_dsl.cli.programs import sound

    if options.check:
        from implicit_dsl.cli.messages import Refusal
        from implicit_dsl.cli.options import USAGE

        raise Refusal("`--check` is for modules", "leave out `--emit`", USAGE)
    found = sound(options.files[0], options)
    if found is None:
        return 1
    import json

    data: list[Any] = (
        [graph_data(one.graph) for one in found.certified]
        if options.emit == "graph"
        else [model.as_data() for model in found.models]
    )
    name = f"{os.path.splitext(os.path.basename(options.files[0]))[0]}.{options.emit}.json"
    to_folder = options.output and os.path.isdir(options.output)
    target = os.path.join(options.output, name) if to_folder else options.output
    deliver(json.dumps({"version": 1, "models": data}, indent=2, ensure_ascii=False) + "\n", target)
    return 0


def graph_data(graph: SignalGraph) -> dict[str, Any]:
    """A graph as plain data."""
    return {
        "name": graph.name,
        "arguments": dict(graph.arguments),
        "nodes": [
            {
                "name": node.name,
                "role": node.role.value,
                "shape": _shape_data(node.shape),
                "activation": node.activation and node.activation.kind,
                "declared": node.declared,
                "line": node.span.line,
            }
            for node in graph.nodes
        ],
        "edges": [
            {
                "source": edge.source,
                "target": edge.target,
                "chain": [
                    {"kind": op.kind, "settings": _settings(op), "parameters": dict(op.parameters)}
                    for op in edge.chain
                ],
                "line": edge.span.line,
            }
            for edge in graph.edges
        ],
        "parameters": [
            {"id": tensor.id, "shape": tensor.trained, "trainable": tensor.trainable}
            for tensor in graph.parameters
        ],
        **(
            {"recurrences": [_recurrence_data(one) for one in graph.recurrences]} if graph.recurrences else {}
        ),
    }


def _recurrence_data(one: Recurrence[SignalGraph]) -> dict[str, Any]:
    """A recurrence as plain data: the graph of its step, and how that is tied to the graph around it."""
    return {
        "step": graph_data(one.step),
        "sequences": [{"input": name, "of": block} for name, block in one.sequences],
        "same": [{"input": name, "of": block} for name, block in one.same],
        "carried": [{"input": carry.before, "of": carry.now, "start": carry.start} for carry in one.carried],
        "gives": [{"name": name, "of": state, "all_steps": whole} for name, state, whole in one.gives],
        "line": one.line,
    }


def _settings(operator: Operator) -> dict[str, Any]:
    """The settings of an operator, with what depends on free sizes as null."""
    return {name: None if isinstance(value, Size | Total) else value for name, value in operator.settings}


def _shape_data(shape: Shape) -> list[int | None]:
    """Free sizes as null."""
    return [size if isinstance(size, int) else None for size in shape]
