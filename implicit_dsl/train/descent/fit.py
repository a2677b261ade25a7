"""Block-coordinate descent on the Fenchel divergences of a compiled model."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from implicit_dsl.runtime.constraints import Constraint
from implicit_dsl.runtime.constraints.base import tensor_of
from implicit_dsl.runtime.sharding import parted
from implicit_dsl.runtime.system import System
from implicit_dsl.train.descent.data import Data, Given, checked_inputs, checked_losses, warn_of_constants
from implicit_dsl.train.descent.goals import Kind
from implicit_dsl.train.descent.history import History
from implicit_dsl.train.descent.lifted import Lifted, OutsideFamilyError
from implicit_dsl.train.descent.links import Weights
from implicit_dsl.train.descent.progress import Progress, shown
from implicit_dsl.train.descent.proximal import Penalty, Term
from implicit_dsl.train.descent.run import Keep, Run, Settings
from implicit_dsl.train.descent.sweeping import Problem


class NothingLeftWarning(UserWarning):
    """A penalty or a bound has made all that it is about zero."""


@torch.no_grad()
def bcd(
    model: nn.Module,
    inputs: Given,
    targets: Given,
    *,
    loss: Kind = "squared",
    sweeps: int = 40,
    continuation: tuple[float, float] = (0.05, 5.0),
    ridge: float = 1e-3,
    penalties: Sequence[Penalty] | None = None,
    gauge: bool | None = None,
    weight_steps: int = 20,
    state_steps: int = 15,
    batch: int | None = None,
    damping: float = 0.01,
    look_every: int = 1,
    keep: Keep = "best",
    progress: Progress = None,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> History:
    """Fit a compiled model in place, by block-coordinate descent on a lifted problem; returns what it did.

        minimise  mean loss(C x + D u + d) + mean Σ λ F(x, A x + B u + b) + ½ ridge ‖(C, D)‖² + penalties

    over the weights and, for each sample, over the states x, which are free: the Fenchel divergences F ≥ 0
    take the place of x = φ(A x + B u + b), which holds where they are 0 (Gu, Askari and El Ghaoui 2018 for
    feed-forward networks, El Ghaoui et al. 2021 for implicit models). The blocks (C, D, d), X and (A, B, b)
    are improved in turn, each by accelerated proximal gradient steps with a proved or tested step size; none
    raises the objective. Weights stay within the sets of the source (`@wellposed`, `@sparse`), by projection
    in each step, and `@penalty` acts by its proximal operator. At the end of a sweep the states are solved
    for, the outputs fitted to them, and the true loss is that.

    Models: linear operators, and states with `relu`, `leaky_relu`, `tanh`, `sigmoid`, `hardtanh`, `relu6`
    or no activation, with or without loops; tied weights count at each of their places. BatchNorm keeps its
    statistics, and Dropout does nothing. Parameters without `requires_grad` stay.

    inputs, targets  tensors [samples, *shape] of the inputs and outputs: one, a sequence, or by name
    loss             "squared", ½ ‖y − target‖² summed over the entries of a sample; "cross_entropy" of
                     classes, or probabilities, along the last axis of an output. Several outputs add up.
    sweeps           passes over all blocks
    continuation     λ of the first and the last sweep, geometric between: relative to the mean diagonal
                     entry of CᵀC, times the curvature of the loss. Small: x serves the outputs; large: φ
    ridge            see above
    penalties        in place of those of the source (`model.penalties`): anything like `Penalty`
    gauge            whether states get units with a root mean square of 1 in each sweep, where φ is
                     positively homogeneous and nothing is tied; by default if there are penalties, whose
                     meaning depends on units. Then the objective may rise between sweeps.
    weight_steps, state_steps    proximal gradient steps in each block
    batch            samples in a minibatch; by default all. Then `damping` holds weights back, as
                     ½ damping L ‖θ − θ₀‖², and objectives fall within a minibatch only.
    look_every       after how many sweeps the true loss is computed
    keep             the weights of the "best" look, by true loss and penalties, or of the "last"
    progress         True: a bar on stderr; None: on a terminal only; or a function of each `Sweep`
    dtype            of the computation; float64, if the device has it
    generator        draws minibatches

    The model is written at the end, all of it or, on an error, nothing; after Ctrl-C it has what was kept so
    far. Gradients and modes are left alone. Raises OutsideFamilyError for a model that cannot be lifted,
    DataError for data that does not fit, ValueError for settings; warns of entries that never change
    (ConstantWarning) and of penalties that leave nothing (NothingLeftWarning).
    """
    system = _system(model, inputs)
    lifted = Lifted.of(model, system, _working(model) if dtype is None else dtype)
    like = next(iter(lifted.weights.values()))
    held = checked_inputs(inputs, system.inputs, like)
    losses = checked_losses(targets, system.outputs, loss, len(next(iter(held.values()))), like)
    warn_of_constants(held, losses)
    asked = (*getattr(model, "constraints", ()), *(_penalties(model) if penalties is None else penalties))
    terms = tuple(term for term in asked if _concerns(term, lifted))
    penalized = any(not isinstance(term, Constraint) for term in terms)
    units = penalized if gauge is None else gauge
    settings = Settings(
        sweeps, continuation, ridge, weight_steps, state_steps, damping, units, batch, look_every, keep
    )
    batched = batch is not None and batch < len(next(iter(held.values())))
    problem = Problem(lifted, terms, ridge, weight_steps, state_steps, damping if batched else 0.0)
    run = Run(problem, Data(held, losses), settings, generator)
    with shown(progress, sweeps) as show:
        try:
            for sweep in run:
                show(sweep)
        except KeyboardInterrupt:
            _write(model, run.kept)
            raise
    _write(model, run.kept)
    _warn_of_nothing(terms, run.kept)
    return run.history()


def _working(model: nn.Module) -> torch.dtype:
    """float64, or float32 on a device without it."""
    on_mps = any(parameter.device.type == "mps" for parameter in model.parameters())
    return torch.float32 if on_mps else torch.float64


def _system(model: nn.Module, inputs: Given) -> System:
    """The system of a module for inputs of these shapes. Raises OutsideFamilyError if it has none."""
    made = getattr(model, "system", None)
    name = type(model).__name__
    if made is None:
        raise OutsideFamilyError(f"{name} is no compiled module: it has no `system()`")
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    if isinstance(inputs, Mapping):
        named = dict(inputs)
    else:
        named = dict(zip(inspect.signature(model.forward).parameters, inputs))
    shapes = {id: tuple(x.shape[1:]) for id, x in named.items() if isinstance(x, Tensor)}
    try:
        found: System = made()
    except ValueError as problem:
        if "is free" not in str(problem):
            raise OutsideFamilyError(f"{name} cannot be lifted: {problem}") from problem
        found = made(**shapes)
    return found


def _penalties(model: nn.Module) -> tuple[Penalty, ...]:
    found = getattr(model, "penalties", ())
    for penalty in found:
        if not penalty.proximal:
            raise OutsideFamilyError(
                f"{type(model).__name__} cannot be fitted so: `{penalty.text}` (line {penalty.line}) has no "
                "proximal operator; give `penalties=` to fit without it"
            )
    return tuple(found)


def _concerns(term: Term, lifted: Lifted) -> bool:
    """Whether a term is about tensors that are trained. Raises ValueError if only some of its own are."""
    unknown = [id for id in term.tensors if id not in lifted.weights]
    frozen = [id for id in term.tensors if id in lifted.weights and id not in lifted.trained]
    name = _named(term)
    if unknown:
        raise ValueError(f"{name} is about `{unknown[0]}`, which no equation of {lifted.model.name} uses")
    if frozen and len(frozen) < len(term.tensors):
        raise ValueError(
            f"{name} is about `{frozen[0]}`, which has no gradient, together with others: let all of them be "
            "trained, or none"
        )
    return not frozen


def _named(term: Term) -> str:
    text = getattr(term, "text", "")
    return f"`{text}`" if text else "a penalty"


def _write(model: nn.Module, weights: Weights) -> None:
    """Put weights into a module, all of them or none."""
    targets = {id: tensor_of(model, id) for id in weights}
    before = {id: target.clone() for id, target in targets.items()}
    made = {
        id: parted(weight.reshape(targets[id].shape).to(targets[id]), targets[id])
        for id, weight in weights.items()
    }
    try:
        for id, weight in made.items():
            targets[id].copy_(weight)
        project = getattr(model, "project_", None)
        if project is not None:
            project()  # rounding to a narrower dtype may lead out of a set
    except BaseException:
        for id, weight in before.items():
            targets[id].copy_(weight)
        raise


def _warn_of_nothing(terms: Sequence[Term], weights: Weights) -> None:
    for term in terms:
        held = [weights[id] for id in term.tensors if id in weights]
        if held and not any(bool(weight.any()) for weight in held):
            warnings.warn(
                f"all of {', '.join(term.tensors)} is zero: {_named(term)} leaves nothing of it",
                NothingLeftWarning,
                stacklevel=4,
            )


__all__ = ["NothingLeftWarning", "bcd"]
