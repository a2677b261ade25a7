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
    """Fit a compiled model in place."""
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
