"""Prove that the loops of a model have one equilibrium each, with the weights that it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from implicit_dsl._lazy import lazy_module
from implicit_dsl.model import ImplicitModel
from implicit_dsl.operators.functions import claims
from implicit_dsl.operators.structured import matrix_of, set_of
from implicit_dsl.recurrence import with_steps
from implicit_dsl.runtime.certificates.boxes import NO_BOXES, boxes, needs_boxes
from implicit_dsl.runtime.certificates.cycles import strongest_cycle
from implicit_dsl.runtime.certificates.demanded import Certified, verdict
from implicit_dsl.runtime.certificates.magnitudes import Magnitudes, Weights
from implicit_dsl.runtime.certificates.result import Attempt, Certificate, LoopCertificate, Rule
from implicit_dsl.runtime.certificates.rules import ORDER, Case
from implicit_dsl.runtime.certificates.sweep import Sweep
from implicit_dsl.runtime.certificates.wording import advice
from implicit_dsl.runtime.system import System

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

TOLERANCE = 1e-5


def certify(
    module: nn.Module,
    structure: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    tolerance: float = TOLERANCE,
    length: int | None = None,
) -> Certificate:
    """The certificate of a module whose structure is `ImplicitModel.as_data()`.

    `shapes` are those of inputs with free sizes, without batch, and `length` is the number of steps of
    sequences. Loops of a step have the same matrix in all: where that decides, one step is enough. It is
    about the evaluation mode in exact arithmetic. Raises ValueError if a shape or a tensor does not fit.
    """
    model = ImplicitModel.from_data(structure)
    if (
        length is None
        and same_in_all_steps(model)
        and not {name for name, _ in model.step_axes} & {*(shapes or ())}
    ):
        length = 1
    system = System.of(module, structure, shapes, length=length)
    return certify_system(system, tolerance)


def same_in_all_steps(model: ImplicitModel) -> bool:
    """Whether the loops of sequences of any length are proved as those of one step are."""
    _, *steps = with_steps(model)
    if model.loops or not any(one.sequences for part in (model, *steps) for one in part.recurrences):
        return False
    looped = (step.blocks[name] for step in steps for loop in step.loops for name in loop.states)
    return not any(needs_boxes(block) for block in looped)


def certify_system(system: System, tolerance: float = TOLERANCE) -> Certificate:
    """The certificate of a system. Raises ValueError if its states stand in no solvable order."""
    if not 0 < tolerance < 1:
        raise ValueError(f"the tolerance must lie between 0 and 1, and {tolerance:g} does not")
    check_order(system.model)
    with np.errstate(all="ignore"):  # infinite bounds prove nothing, and are meant to
        return _certificate(system.model, system.weights, tolerance)


def _certificate(model: ImplicitModel, weights: Weights, tolerance: float) -> Certificate:
    magnitudes = Magnitudes(weights)
    wanted = any(needs_boxes(model.blocks[name]) for loop in model.loops for name in loop.states)
    bounds = boxes(model, weights, magnitudes) if wanted else NO_BOXES
    found = [_certified(Sweep(model, loop, magnitudes, bounds), weights, tolerance) for loop in model.loops]
    matrices = _matrices(model, weights)
    verdicts = tuple(verdict(demand, found, matrices) for demand in model.demands.wellposed)
    return Certificate(model.name, tuple(one.certificate for one in found), verdicts, tolerance)


def _matrices(model: ImplicitModel, weights: Weights) -> Weights:
    """The weights, those in linear sets as the matrices that are made of them."""
    made = dict(weights)
    for op in (op for term in model.terms for op in term.chain if op.kind == "structured"):
        id = op.parameters[0][1]
        made[id] = matrix_of(set_of(op), weights[id])
    return made


def check_order(model: ImplicitModel) -> None:
    """Raises ValueError unless each state reads only states before it, or iterated ones of its loop."""
    place = {block.name: at for at, block in enumerate(model.states)}
    member = {name: loop for loop in model.loops for name in loop.states}
    for row, col in model.A:
        loop = member.get(row)
        if loop is not None and member.get(col) is loop:
            inner = loop.states
            if col not in loop.iterated and inner.index(col) >= inner.index(row):
                raise ValueError(f"`{row}` reads `{col}`, which is not computed before it in their loop")
        elif place[col] >= place[row]:
            raise ValueError(
                f"`{row}` reads `{col}`, which is not computed before it, and no loop holds both"
            )


def _certified(sweep: Sweep, weights: Weights, tolerance: float) -> Certified:
    """One loop by the first rule that proves it."""
    loop, attempts = sweep.loop, []
    wrong = _not_finite(sweep, weights)
    if wrong:
        attempt = Attempt(Rule.INFINITY, False, (), f"the tensor `{wrong}` holds values that are not finite")
        advised = "find the step of the training after which they appear, or load other weights"
        refused = LoopCertificate(loop.states, loop.iterated, None, (attempt,), None, advised)
        return Certified(refused, None)
    case = Case(sweep, weights, tolerance)
    for rule in ORDER:
        proof, attempt = rule(case)
        attempts.append(attempt)
        if proof is not None:
            rests = claims(block.activation for block in sweep.model.states)
            made = LoopCertificate(loop.states, loop.iterated, proof, tuple(attempts), claims=rests)
            return Certified(made, case)
    cycle = strongest_cycle(sweep)
    lower = next((dict(tried.figures).get("λ ≥") for tried in attempts if tried.rule is Rule.PERRON), None)
    steep = next((block.name for block in sweep.blocks(loop.states) if needs_boxes(block)), "")
    said = advice(cycle, lower, bool(case.unbounded), steep)
    return Certified(LoopCertificate(loop.states, loop.iterated, None, tuple(attempts), cycle, said), case)


def _not_finite(sweep: Sweep, weights: Weights) -> str:
    """The id of a tensor of the loop that holds nan or infinity, if there is one."""
    terms = (term for terms in sweep.terms.values() for term in terms)
    ids = (id for term in terms for operator in term.chain for _, id in operator.parameters)
    return next((id for id in ids if not np.isfinite(weights[id]).all()), "")
