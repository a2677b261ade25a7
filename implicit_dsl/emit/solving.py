"""How a generated module holds its loops: equilibria with their solvers, and constraints on weights."""

from __future__ import annotations

from collections.abc import Mapping

from implicit_dsl.demands import BackwardDemand, SolverDemand, applying
from implicit_dsl.emit.equilibria import Network, convolves_images
from implicit_dsl.emit.loops import function_name
from implicit_dsl.emit.members import structure
from implicit_dsl.emit.naming import Names
from implicit_dsl.emit.penalties import measured, measured_names
from implicit_dsl.emit.wording import INDENT, fitted, place, quoted
from implicit_dsl.guarantees import Constraint, Guarantee
from implicit_dsl.model import ImplicitModel, Loop
from implicit_dsl.sets import MatrixSet

_SOLVERS = {
    "auto": "Auto",
    "picard": "Picard",
    "anderson": "Anderson",
    "broyden": "Broyden",
    "forward_backward": "ForwardBackward",
    "peaceman_rachford": "PeacemanRachford",
    "newton": "Newton",
}
_BACKWARDS = {
    "implicit": "Implicit",
    "neumann": "Neumann",
    "jfb": "JFB",
    "phantom": "Phantom",
    "unrolled": "Unrolled",
}
_PLAIN_STEPS = 2000  # that Picard takes at most, if nothing is said
_OF_THE_LOOP = ("warm_start", "failure")  # settings of @solver that belong to the loop, not to its solver
_CONSTRAINTS = {
    "norm": "RowBound",
    "pf": "PerronBound",
    "spectral": "SpectralBound",
    "monotone": "MonotoneBound",
    "nemon": "MeasureBound",
    "sparse": "GroupBound",
}


def equilibria(model: ImplicitModel, network: Network) -> list[str]:
    """What `__init__` assigns for each loop."""
    lines: list[str] = []
    for loop in model.loops:
        kind = "DenseEquilibrium" if loop.name in network.dense else "Equilibrium"
        given = ", ".join(_arguments(model, network, loop))
        made = f"self.{network.attributes[loop.name]} = {network.names(kind)}({given})"
        lines += fitted(made, f"  # {place(model.blocks[loop.name])}")
    return lines


def _arguments(model: ImplicitModel, network: Network, loop: Loop) -> list[str]:
    solver = applying(model.demands.solvers, loop)
    backward = applying(model.demands.backwards, loop)
    dense = network.dense.get(loop.name)
    first = f'"{dense.activation}"' if dense is not None else function_name(model, loop)
    made = [first, quoted(loop.name), str(model.blocks[loop.name].line)]
    if dense is not None and dense.slope is not None:
        made.append(f"slope={dense.slope!r}")
    if dense is None and network.plans[loop.name].split:
        name = function_name(model, loop)
        made += [f"affine={name}_affine", f"phi={name}_phi"]
    last = next(reversed(model.blocks[loop.name].shape), None)
    text = _solver(network.names, solver, loop, last if isinstance(last, int) else 0)
    if text:
        made.append(f"solver={text}")
    text = _backward(network.names, backward)
    if text:
        made.append(f"backward={text}")
    if loop.rate is not None:
        made.append(f"rate={loop.rate:.12g}")
    if solver is not None:
        made += [f"{name}={_literal(value)}" for name, value in solver.settings if name in _OF_THE_LOOP]
    return made


def _solver(names: Names, demand: SolverDemand | None, loop: Loop, longest: int = 0) -> str:
    """The solver that the source asks for; some loops have one of their own.

    A triangular one with `longest` entries in a row may take so many steps.
    """
    splitting = loop.guarantee in (Guarantee.MONOTONE, Guarantee.MEASURE)
    triangular = loop.guarantee is Guarantee.TRIANGULAR  # plain steps end with the exact solution
    if demand is None or (demand.name == "auto" and (splitting or triangular)):
        settings = demand.settings if demand is not None else ()
        name = "forward_backward" if splitting else "picard" if triangular else "auto"
        if name == "auto":
            return ""
    else:
        name, settings = demand.name, demand.settings
    given = [f"{key}={_literal(value)}" for key, value in settings if key not in _OF_THE_LOOP]
    if triangular and longest > _PLAIN_STEPS and not any(key == "max_steps" for key, _ in settings):
        given.append(f"max_steps={longest + 1}")
    return f"{names(_SOLVERS[name])}({', '.join(given)})"


def _backward(names: Names, demand: BackwardDemand | None) -> str:
    if demand is None:
        return ""
    given = ", ".join(f"{key}={value!r}" for key, value in demand.settings)
    return f"{names(_BACKWARDS[demand.name])}({given})"


def _literal(value: int | float | bool | str) -> str:
    return quoted(value) if isinstance(value, str) else repr(value)


def constraints(model: ImplicitModel, names: Names) -> list[str]:
    """What `__init__` assigns to `self.constraints`."""
    listed = [constraint for constraint in model.constraints if constraint.uses]
    if not listed:
        return []
    within = {tensor.id: tensor.within for tensor in model.tensors if tensor.within is not None}
    lines = ["self.constraints = ("]
    for constraint in listed:
        lines += ["    " + line for line in _constraint(constraint, within, names, model.name)]
    return [*lines, ")"]


def effective(model: ImplicitModel, network: Network) -> str:
    """What `effective_weights` returns; '' if no weight is made of others."""
    if not network.made:
        return ""
    members = f"{network.names('members')}(self, self.structures)"
    made = f"{network.names('effective_weights')}(self, self.constraints)"
    if not any(constraint.method == "parametrize" and constraint.uses for constraint in model.constraints):
        return members
    return f"{{**{members}, **{made}}}" if any(t.within is not None for t in model.tensors) else made


def _constraint(
    constraint: Constraint, within: Mapping[str, MatrixSet], names: Names, model: str
) -> list[str]:
    blocks = [
        f"{names('Block')}({quoted(use.row)}, {quoted(use.column)}, {quoted(use.tensor)}, "
        f"{use.axis}, {use.factor!r}{f', {use.part}' if use.part else ''})"
        for use in constraint.uses
    ]
    given = [quoted(constraint.text), f"line={constraint.line}", f"bound={constraint.bound!r}"]
    if constraint.measured is None:
        given.append(f"blocks=({', '.join(blocks)},)")
    else:
        given.append(f"measured_by={measured(constraint.measured, names)}")
        if any(family.part is not None for family in constraint.measured.families):
            given.append(f'system=_STRUCTURES["{model}"]')
    if constraint.fixed:
        listed = ", ".join(f"{quoted(row)}: {used!r}" for row, used in constraint.fixed)
        given.append(f"fixed={{{listed}}}")
    if constraint.whole:
        given.append(f"whole=({', '.join(map(quoted, constraint.whole))},)")
    held = [f"{quoted(id)}: {structure(within[id], names)}" for id in constraint.tensors if id in within]
    if held:
        given.append(f"within={names('Within')}({{{', '.join(held)}}})")
    if constraint.method != "project":
        given.append(f"method={quoted(constraint.method)}")
    made = f"{names(_CONSTRAINTS[constraint.criterion])}({', '.join(given)},)"
    return fitted(made, ",", INDENT + 4)


def runtime_names(model: ImplicitModel, network: Network) -> list[str]:
    """What a module uses of the runtime, beside what `forward` calls, by name."""
    within = [tensor.within for tensor in model.tensors if tensor.within is not None]
    names = ["members", "Structure", *(held.kind for held in within)] if within else []
    names += ["start_nonneg_"] if any(held.kind == "Nonneg" for held in within) else []
    names += _constraint_names(model)
    if model.demands.penalties:
        names += ["Penalty", "Steps", "penalty", "prox_"]
        names += [name for term in model.demands.penalties for name in measured_names(term.measured)]
    if not model.loops:
        return list(dict.fromkeys(names))
    plain = Names(standalone=True)
    names += ["first_guesses", "Stats", "unrolled"]
    for loop in model.loops:
        names.append("DenseEquilibrium" if loop.name in network.dense else "Equilibrium")
        text = _solver(plain, applying(model.demands.solvers, loop), loop)
        backward = applying(model.demands.backwards, loop)
        names += [made.partition("(")[0] for made in (text, _backward(plain, backward)) if made]
    if any(
        op.kind == "batch_norm" for plan in network.plans.values() for t in plan.model.terms for op in t.chain
    ):
        names.append("update_statistics")
    if any(convolves_images(plan) for plan in network.plans.values()):
        names.append("channels_last")
    return list(dict.fromkeys(names))


def _constraint_names(model: ImplicitModel) -> list[str]:
    names: list[str] = []
    held = [constraint for constraint in model.constraints if constraint.uses]
    if held:
        names += ["Block"] if any(constraint.measured is None for constraint in held) else []
        names += [_CONSTRAINTS[constraint.criterion] for constraint in held]
        for constraint in held:
            names += measured_names(constraint.measured) if constraint.measured is not None else []
        inside = {tensor.id for tensor in model.tensors if tensor.within is not None}
        names += ["Within"] if any(inside & set(constraint.tensors) for constraint in held) else []
    methods = {constraint.method for constraint in held}
    names += ["require", "project_"] if "project" in methods else []
    names += ["effective_weights", "add_parameters"] if "parametrize" in methods else []
    return names
