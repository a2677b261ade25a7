"""What is right and yet worth a second look: the warnings of `--pedantic`."""

from __future__ import annotations

import math
from collections.abc import Iterator

from implicit_dsl.certify import Certified
from implicit_dsl.demands import applying
from implicit_dsl.errors import Diagnostic
from implicit_dsl.graph import Role, SignalGraph
from implicit_dsl.guarantees import Guarantee
from implicit_dsl.source import Span

NEAR = 0.99  # a bound above this makes for many steps
RESIDUAL = 1e-5  # to which they are counted, the default tolerance
LARGE = 10**7  # weights of one matrix
_RATES = ("norm", "pf", "spectral")


def remarks(certified: Certified) -> Iterator[Diagnostic]:
    """All remarks about one model."""
    graph = certified.graph
    yield from _hidden_matrices(graph)
    steps = tuple(_steps(certified))
    for remark in (_slow_bounds, _slow_solvers, _loops_from_zero):
        found = {one.span: one for step in steps for one in remark(step, graph)}
        yield from found.values()
    yield from _without_inputs(graph)
    yield from _large_matrices(graph)
    yield from _large_openings(graph)


def _steps(certified: Certified) -> Iterator[Certified]:
    """A model, and the steps of its recurrences."""
    yield certified
    for step in certified.steps:
        yield from _steps(step)


def _hidden_matrices(graph: SignalGraph) -> Iterator[Diagnostic]:
    places: dict[str, Span] = {}
    for node in graph.nodes:
        places.setdefault(node.name, node.span)
    for layer in graph.layers:
        places.setdefault(layer.name, layer.span)
    for tensor in graph.parameters:
        places.setdefault(tensor.id, tensor.span)
    for name in "ABCD":
        if name in places:
            yield Diagnostic(
                "W0901",
                f"`{name}` hides the assembled matrix of this name",
                places[name],
                notes=("A, B, C and D are the matrices of x = φ(A x + B u), y = C x + D u",),
                help=f"write `system.{name}` for the assembled one, or choose another name",
            )


def _slow_bounds(certified: Certified, _: SignalGraph) -> Iterator[Diagnostic]:
    if all(group.guarantee in (Guarantee.ACYCLIC, Guarantee.UNCHECKED) for group in certified.groups):
        return
    for demand in certified.graph.demands.wellposed:
        if demand.criterion in _RATES and NEAR < demand.bound < 1 and demand.span is not None:
            steps = math.ceil(math.log(RESIDUAL) / math.log(demand.bound))
            yield Diagnostic(
                "W0902",
                f"`{demand.text}` lets the loop converge slowly",
                demand.span,
                "within 1 % of 1",
                notes=(
                    f"at that rate a residual of {RESIDUAL:g} takes {steps:,} steps of Picard's iteration",
                ),
                help="0.95 is a usual bound",
            )


def _slow_solvers(certified: Certified, _: SignalGraph) -> Iterator[Diagnostic]:
    for group in certified.groups:
        solver = applying(certified.graph.demands.solvers, group)
        named = solver is not None and solver.name == "picard" and solver.span is not None
        if solver is None or not named or group.rate is None or group.rate <= NEAR:
            continue
        assert solver.span is not None
        yield Diagnostic(
            "W0903",
            f"Picard's iteration is slow here: each step may leave {group.rate:.4g} of the residual",
            solver.span,
            help="write `@solver anderson`, or leave the choice to the compiler",
        )


def _loops_from_zero(certified: Certified, graph: SignalGraph) -> Iterator[Diagnostic]:
    homes = {name: i for i, group in enumerate(certified.groups) if group.iterated for name in group.states}
    inside: set[str] = set()
    for edge in certified.graph.edges:
        if edge.source in homes and homes[edge.source] == homes.get(edge.target):
            inside.update(edge.parameters)
    for tensor in graph.parameters:
        start = tensor.initialiser
        zero = start is not None and (
            start.name == "zeros" or (start.name == "constant" and not any(start.numbers))
        )
        if zero and tensor.opens is None and tensor.id in inside and len(tensor.shape) > 1:
            yield Diagnostic(
                "W0904",
                f"the loop begins without its matrix `{tensor.id}`, which starts at 0",
                tensor.span,
                help="leave out the initialiser, or write `normal(0.01)`",
            )


def _without_inputs(graph: SignalGraph) -> Iterator[Diagnostic]:
    sources: dict[str, list[str | None]] = {}
    for edge in graph.edges:
        sources.setdefault(edge.target, []).append(edge.source)
    for recurrence in graph.recurrences:
        for given, _, _ in recurrence.gives:
            sources.setdefault(given, []).extend(recurrence.reads)
    inputs = {node.name for node in graph.nodes if node.role is Role.INPUT}
    waiting: list[str | None] = [node.name for node in graph.nodes if node.role is Role.OUTPUT]
    reached: set[str | None] = set()
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += sources.get(name, ()) if name is not None else ()
    if inputs and not inputs & reached:
        message = f"no output of `{graph.name}` depends on an input"
        yield Diagnostic("W0905", message, graph.span, help="every call gives the same")


def _large_matrices(graph: SignalGraph) -> Iterator[Diagnostic]:
    shapes = {tensor.id: tensor.shape for tensor in graph.parameters}
    for layer in graph.layers:
        shape = shapes.get(f"{layer.name}.weight", ())
        if layer.operator.kind == "dense" and math.prod(shape) > LARGE:
            yield Diagnostic(
                "W0906",
                f"this Dense has {math.prod(shape):,} weights",
                layer.span,
                f"[{', '.join(map(str, shape))}]",
                help="pool the input first, or make the matrix a product of two narrow ones",
            )


def _large_openings(graph: SignalGraph) -> Iterator[Diagnostic]:
    """Opened blocks with more parameters than the model that they are opened in."""
    opened = [one for one in graph.parameters if one.opens is not None]
    added = sum(math.prod(one.trained) for one in opened)
    whole = sum(math.prod(one.trained) for one in graph.parameters if one.trainable)
    if added <= whole - added:
        return
    largest = max(opened, key=lambda one: math.prod(one.trained))
    assert largest.opens is not None
    shape = ", ".join(map(str, largest.trained))
    yield Diagnostic(
        "W0907",
        f"what is opened has {added:,} parameters, and the model itself {whole - added:,}",
        largest.span,
        f"`{largest.opens.text}` alone has [{shape}]" if len(opened) > 1 else "",
        help="open products of narrow matrices, `as LowRank(2)`, or fewer blocks",
    )
