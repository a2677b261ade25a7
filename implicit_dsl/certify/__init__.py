"""When and how each state can be computed: the graph, cut into groups, each with its guarantee."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from implicit_dsl.certify.constraints import OF_ONE_MATRIX, counts_wholes, of_loops, of_matrix
from implicit_dsl.certify.gains import Ways, ways
from implicit_dsl.certify.proof import prove
from implicit_dsl.certify.solvers import unsolvable
from implicit_dsl.certify.structure import by_construction
from implicit_dsl.demands import Demand
from implicit_dsl.errors import Diagnostic, Findings
from implicit_dsl.graph import SignalGraph
from implicit_dsl.guarantees import Constraint, Guarantee, Use
from implicit_dsl.schedule import Component, schedule

__all__ = ["Certified", "Group", "Guarantee", "certify"]


@dataclass(frozen=True, slots=True)
class Group:
    """States that are solved together, and why that works.

    `iterated` are the unknowns of a loop (none: the state follows from those before it), `rate`
    is its contraction rate in the ∞-norm, where that is proved for all feasible weights.
    """

    states: tuple[str, ...]
    guarantee: Guarantee
    iterated: tuple[str, ...] = ()
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Certified:
    """A graph whose groups, in this order, can each be solved from those before."""

    graph: SignalGraph
    groups: tuple[Group, ...]
    constraints: tuple[Constraint, ...] = ()
    steps: tuple[Certified, ...] = ()  # those of its recurrences


def certify(graph: SignalGraph, findings: Findings, is_step: bool = False) -> Certified | None:
    """The groups of a graph in solvable order, each with its guarantee, and the constraints they rest on.

    `is_step`: the graph is that of one step of a `recurrent`.

    A loop for which nothing is proved, and which the source does not call `unchecked`, is
    reported in `findings`, and None is returned.
    """
    components = schedule(graph)
    groups: list[Group] = []
    steps = [certify(one.step, findings, one.clock is None) for one in graph.recurrences]
    refused = None in steps
    for component in components:
        if not component.iterated:
            groups.append(Group(component.states, Guarantee.ACYCLIC))
            continue
        if stepped := _recurrent(graph, component):
            findings.add(stepped)
            refused = True
            continue
        found = prove(graph, component, _applying(graph, component))
        if isinstance(found, Diagnostic):
            said = _of_product(graph, component) or found
            findings.add(_of_step(said, graph, component) if is_step else said)
            refused = True
            continue
        blocked = unsolvable(graph, component)
        if blocked is not None:
            findings.add(blocked)
            refused = True
            continue
        groups.append(Group(component.states, found.guarantee, component.iterated, found.rate))
    _check_starts(graph, components, findings)
    unchecked = {group.states for group in groups if group.guarantee is Guarantee.UNCHECKED}
    loops = [one for one in components if one.iterated and one.states not in unchecked]
    constraints = None if refused else _constraints(graph, loops, findings)
    if constraints is not None and graph.demands.sparse:
        constraints = _with_sparse(graph, constraints, findings)
    if constraints is None:
        return None
    made = tuple(step for step in steps if step is not None)
    every = dict.fromkeys((*constraints, *(one for step in made for one in step.constraints)))
    return Certified(graph, tuple(groups), tuple(every), made)


def _of_step(found: Diagnostic, graph: SignalGraph, loop: Component) -> Diagnostic:
    """What is said of a loop, and that what it reads may have been meant to be of the step before."""
    declared = (name for name in loop.states if graph.by_name[name].declared)
    name = next(declared, loop.states[0])
    note = f"it is solved in each step: what `{name}` was one step before is `prev({name})`"
    return replace(found, notes=(*found.notes, note))


def _recurrent(graph: SignalGraph, component: Component) -> Diagnostic | None:
    """A loop from the end of a recurrence back to its begin, which is not solved."""
    for recurrence in graph.recurrences:
        inside = next((name for name, *_ in recurrence.gives if name in component.states), None)
        if inside is not None:
            what = "recurrent" if recurrence.clock is None else "ode"
            behind = ", without `prev`" if recurrence.clock is None else ""
            return Diagnostic(
                "E0604",
                f"the sequence `{inside}` depends on itself: a `{what}` stands in a loop around it",
                graph.by_name[inside].span,
                help=f"an equilibrium in each step is an equation inside of the `{what}`{behind}",
            )
    return None


def _with_sparse(
    graph: SignalGraph, constraints: tuple[Constraint, ...], findings: Findings
) -> tuple[Constraint, ...] | None:
    """The constraints and those of `@sparse`; None if both cannot be kept on one parameter (E0705).

    Projections onto rows and onto groups take no entry away from zero, so that they do not break each other.
    """
    made = list(constraints)
    for demand in graph.demands.sparse:
        ids = demand.measured.tensors
        if held := sorted(set(ids) & graph.fixed_norms.keys()):
            message = f"`{demand.text}` is to be kept by training, and `{held[0]}` is fixed"
            findings.add(Diagnostic("E0404", message, demand.span or graph.span, help="leave it out"))
            return None
        uses = tuple(Use("", "", id) for id in ids)
        for other in constraints:
            shared = set(ids) & set(other.tensors)
            if shared and (other.method != "project" or other.criterion not in ("norm", "pf")):
                message = f"`{min(shared)}` cannot be kept within `{demand.text}` and `{other.text}` at once"
                help = "remove one, or bound rows by projection: `norm(X, Inf) <= …`"
                findings.add(Diagnostic("E0705", message, demand.span or graph.span, help=help))
                return None
        made.append(
            Constraint("sparse", demand.bound, "project", uses, (), demand.line, demand.text, demand.measured)
        )
    return tuple(made)


def _of_product(graph: SignalGraph, component: Component) -> Diagnostic | None:
    """A bound on a product that cannot be kept, if that is why nothing is proved of a loop."""
    for demand in _applying(graph, component):
        if any(len(term.tensors) > 1 for term in demand.matrix or ()) and demand.criterion in ("norm", "pf"):
            made = of_matrix(graph, demand)
            if isinstance(made, Diagnostic):
                return made
    return None


def _check_starts(graph: SignalGraph, components: Sequence[Component], findings: Findings) -> None:
    """Say which states of loops have a start value that is not needed, as they follow from others."""
    for component in components:
        for name in component.states if component.iterated else ():
            node = graph.by_name[name]
            if node.start and name not in component.iterated:
                message = f"`{name}` follows from the unknowns of its loop, so its start value has no effect"
                unknowns = ", ".join(f"`{other}`" for other in component.iterated)
                help = f"give it to {unknowns}, from which the others of the loop follow"
                findings.add(Diagnostic("W0401", message, node.span, help=help))


def _applying(graph: SignalGraph, loop: Component) -> list[Demand]:
    """The demands that concern a loop; those that name it go first, and stand alone with `unchecked`."""
    named = [d for d in graph.demands.wellposed if d.states and set(d.states) & set(loop.states)]
    general = [d for d in graph.demands.wellposed if not d.states]
    if named:
        general = [d for d in general if d.criterion != "unchecked"]
    return [*named, *general]


def _constraints(
    graph: SignalGraph, loops: Sequence[Component], findings: Findings
) -> tuple[Constraint, ...] | None:
    """What the demands come to; None if one cannot be met, which is reported."""
    made: list[Constraint] = []
    for demand in graph.demands.wellposed:
        if demand.criterion in ("prove", "unchecked"):
            continue
        concerned = [
            found
            for loop in loops
            if not demand.states or set(demand.states) & set(loop.states)
            if (found := ways(graph, loop, counts_wholes(demand))) is not None
        ]
        # what is said of one matrix holds for that of each loop; rows are bounded all at once
        single = demand.matrix is None and demand.criterion in OF_ONE_MATRIX
        for together in [[one] for one in concerned] if single else [concerned]:
            found_ones = _constraint(graph, demand, together)
            if isinstance(found_ones, Diagnostic):
                findings.add(found_ones)
                return None
            made += [one for one in found_ones if one.uses and one not in made]
    return tuple(made)


def _constraint(
    graph: SignalGraph, demand: Demand, concerned: list[Ways]
) -> tuple[Constraint, ...] | Diagnostic:
    if by_construction(graph, demand, concerned):
        return ()
    return of_loops(graph, demand, concerned) if demand.matrix is None else of_matrix(graph, demand)
