"""From states to an implicit model: rows of (A, B), then of (C, D), then the program that holds them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from implicit_dsl.train.state_driven.collecting import States, collect_states
from implicit_dsl.train.state_driven.moments import Moments
from implicit_dsl.train.state_driven.parallel import solve_in_processes
from implicit_dsl.train.state_driven.program import Matrices, model_of, source_of
from implicit_dsl.train.state_driven.result import StateDriven, StateError
from implicit_dsl.train.state_driven.rows import Solved
from implicit_dsl.train.state_driven.scaling import units_of

_SETTLED = 1e-7  # of the states: the equilibria that C and D are fitted on
_LOST = 1e-2  # of the spread of a state collected: less is not read by the outputs
_SHOWN = 3
Reads: TypeAlias = Literal["all", "others", "before"]


class SimWarning(UserWarning):
    """What will disappoint in a fit to states: constant columns, a penalty that kills all, gaps left."""


@dataclass(frozen=True)
class Settings:
    """What `sim` is told, checked."""

    kappa: float
    output_penalty: float | None
    reads: Reads
    relative: bool
    rescale: bool
    regenerate: bool
    tolerance: float
    max_steps: int
    processes: int
    name: str

    def __post_init__(self) -> None:
        if not 0 < self.kappa < 1:
            raise ValueError(
                f"κ must lie between 0 and 1 for the model to be well posed, and {self.kappa:g} does not"
            )
        if self.reads not in get_args(Reads):
            raise ValueError(f'`reads` is "all", "others" or "before", and {self.reads!r} was given')
        if not 0 < self.tolerance < 1:
            raise ValueError(f"the tolerance must lie between 0 and 1, and {self.tolerance:g} does not")
        if self.max_steps < 1 or self.processes < 1:
            raise ValueError("there must be one step and one process, at least")
        if not (self.name.isidentifier() and self.name.isascii() and self.name[0].isupper()):
            raise ValueError(f"`{self.name}` is no name for a model: it begins with a capital letter")


def sim(
    network: nn.Module | States,
    inputs: Tensor | None = None,
    *,
    penalty: float = 1e-2,
    kappa: float = 0.95,
    output_penalty: float | None = None,
    reads: Reads = "others",
    relative: bool = True,
    rescale: bool = True,
    regenerate: bool = True,
    layers: Sequence[str] | None = None,
    tolerance: float = 1e-6,
    max_steps: int = 20_000,
    processes: int = 1,
    name: str = "StateDriven",
) -> StateDriven:
    """An implicit model with the states of a trained network, ‖A‖∞ ≤ κ, and sparse matrices.

    `network` is a PyTorch module or a compiled model, with `inputs` [m, *shape], or `States` collected
    before. For each row, over the m samples:

        min ½ ‖z − Xᵀa − Uᵀb − c‖² ÷ m + λ (‖a‖₁ + ‖b‖₁)   subject to   ‖a‖₁ ≤ κ,

    and the same for the outputs, without the ball, with `output_penalty` (`penalty` if None). With
    `relative`, λ counts for rows and features of unit spread, so that it does not depend on units, and 1
    kills everything where there is nothing but noise; without, it is as written. A state may read the
    `others`, `all` states and so itself, or those of layers `before` its own. `rescale` gives positively
    homogeneous states units in which the network itself has ‖A‖∞ < κ; `regenerate` fits C and D to the
    equilibria of the fitted A and B, not to the states collected. The rows are solved until their duality
    gaps are below `tolerance` of ½ var(z), in float64, on the device of the states, by so many `processes`
    (on CPUs). Raises ValueError and TypeError as `collect_states` does, and for settings that cannot be;
    warns with SimWarning.
    """
    return sim_path(
        network, inputs, [penalty], kappa=kappa, output_penalty=output_penalty, reads=reads,
        relative=relative, rescale=rescale, regenerate=regenerate, layers=layers, tolerance=tolerance,
        max_steps=max_steps, processes=processes, name=name,
    )[0]  # fmt: skip


def sim_path(
    network: nn.Module | States,
    inputs: Tensor | None = None,
    penalties: Sequence[float] = (),
    *,
    kappa: float = 0.95,
    output_penalty: float | None = None,
    reads: Reads = "others",
    relative: bool = True,
    rescale: bool = True,
    regenerate: bool = True,
    layers: Sequence[str] | None = None,
    tolerance: float = 1e-6,
    max_steps: int = 20_000,
    processes: int = 1,
    name: str = "StateDriven",
) -> tuple[StateDriven, ...]:
    """`sim` for several λ, best from large to small: each starts where the one before ended."""
    if not penalties or any(not 0 <= penalty < math.inf for penalty in penalties):
        raise ValueError(f"penalties are numbers, not negative and at least one; {list(penalties)} was given")
    if output_penalty is not None and not 0 <= output_penalty < math.inf:
        raise ValueError(f"the penalty of the outputs is {output_penalty:g}")
    settings = Settings(
        kappa, output_penalty, reads, relative, rescale, regenerate, tolerance, max_steps, processes, name
    )
    if isinstance(network, States):
        if inputs is not None or layers is not None:
            raise ValueError(
                "states are given: `inputs` and `layers` are those that they were collected with"
            )
        states = network
    else:
        if inputs is None:
            raise ValueError("the inputs are missing, on which the states of the network are collected")
        states = collect_states(network, inputs, layers=layers)
    task = _Task.of(states, settings)
    made = []
    fitted: Solved | None = None
    with torch.no_grad():
        for penalty in penalties:
            fitted = task.states_fitted(penalty, None if fitted is None else fitted.W)
            made.append(task.finished(penalty, fitted))
    return tuple(made)


@dataclass(frozen=True)
class _Task:
    """States in the order and in the units of the model, and what all λ share."""

    states: States
    settings: Settings
    units: Tensor
    place: Tensor  # of each state in the network: its layer counts
    moments: Moments

    @staticmethod
    def of(states: States, settings: Settings) -> _Task:
        device = states.Z.device
        units = torch.ones(states.Z.shape[1], dtype=torch.float64, device=device)
        if settings.rescale:
            units = units_of(states, settings.kappa)
        kinds = list(dict.fromkeys(layer.group for layer in states.layers))
        chosen = sorted(range(len(states.layers)), key=lambda k: kinds.index(states.layers[k].group))
        pieces = torch.split(
            torch.arange(states.Z.shape[1], device=device), [layer.size for layer in states.layers]
        )
        order = torch.cat([pieces[k] for k in chosen])
        place = torch.cat([torch.full_like(pieces[k], k) for k in chosen])
        layers, units = tuple(states.layers[k] for k in chosen), units[order]
        U, Z, X = states.U.double(), states.Z.double()[:, order] * units, states.X.double()[:, order] * units
        states = replace(states, U=U, Z=Z, X=X, Y=states.Y.double(), layers=layers)
        moments = Moments.of(torch.cat((X, U), 1), Z)
        _warn_of_constants(moments, states)
        return _Task(states, settings, units, place, moments)

    def states_fitted(self, penalty: float, start: Tensor | None) -> Solved:
        """The rows of (A, B)."""
        n, chosen = self.states.Z.shape[1], self.settings
        penalties = _penalties(self.moments, penalty, chosen.relative)
        if chosen.reads == "others":
            penalties[:, :n].fill_diagonal_(math.inf)
        elif chosen.reads == "before":
            later = self.place[None, :] >= self.place[:, None]
            penalties[:, :n] = torch.where(later, math.inf, penalties[:, :n])
        solved = solve_in_processes(
            self.moments,
            penalties,
            n,
            chosen.kappa,
            start,
            chosen.tolerance,
            chosen.max_steps,
            chosen.processes,
        )
        _warn_of_rows(solved, self.moments, penalties, penalty, "A and B")
        return solved

    def finished(self, penalty: float, solved: Solved) -> StateDriven:
        states, chosen = self.states, self.settings
        n = states.Z.shape[1]
        A = _within(solved.W[:, :n].to(states.dtype), chosen.kappa)
        B, b = solved.W[:, n:].to(states.dtype), self.moments.offsets(solved.W).to(states.dtype)
        X = _equilibria(A, B, b, states, self.units, chosen.kappa) if chosen.regenerate else states.X
        moments = Moments.of(torch.cat((X, states.U), 1), states.Y)
        weight = penalty if chosen.output_penalty is None else chosen.output_penalty
        penalties = _penalties(moments, weight, chosen.relative)
        # what is left of a state that does not move any more is no signal, and would be blown up
        lost = moments.spreads[:n] < _LOST * self.moments.spreads[:n]
        penalties[:, :n] = torch.where(lost, math.inf, penalties[:, :n])
        outputs = solve_in_processes(
            moments, penalties, 0, 1.0, None, chosen.tolerance, chosen.max_steps, chosen.processes
        )
        _warn_of_rows(outputs, moments, penalties, weight, "C and D")
        C, D = outputs.W[:, :n].to(states.dtype), outputs.W[:, n:].to(states.dtype)
        matrices = Matrices(A, B, C, D, b, moments.offsets(outputs.W).to(states.dtype))
        error = StateError.of(matrices, states.U, states.Z, states.X, self.units, chosen.kappa)
        source = source_of(chosen.name, states.layers, chosen.kappa, states.input_shape, states.output_shape)
        model = model_of(source, chosen.name, states.layers, matrices)
        return StateDriven(
            A, B, C, D, b, matrices.d, states.layers, self.units, chosen.kappa, penalty, solved.objective,
            solved.gap, outputs.objective, outputs.gap, error, source, model,
        )  # fmt: skip


def _penalties(moments: Moments, penalty: float, relative: bool) -> Tensor:
    """λ for each entry [rows, d]."""
    if not relative:
        return torch.full_like(moments.Q, penalty)
    return penalty * moments.power.sqrt()[:, None] * moments.spreads


def _within(A: Tensor, kappa: float) -> Tensor:
    """A with ‖A‖∞ ≤ κ for the numbers as they are stored, summed in float64."""
    eps = torch.finfo(A.dtype).eps
    factor = 1.0
    while float((factor * A).to(A.dtype).double().abs().sum(1).max()) > kappa:
        factor -= eps
    return A if factor == 1.0 else (factor * A).to(A.dtype)


def _equilibria(A: Tensor, B: Tensor, b: Tensor, states: States, units: Tensor, kappa: float) -> Tensor:
    """X̂ = φ(A X̂ + B U + b) [m, n] from the states collected, by Picard's iteration: it contracts with κ."""
    incoming = states.U @ B.double().mT + b.double()
    wide, sizes, X = A.double().mT, [layer.size for layer in states.layers], states.X
    for _ in range(math.ceil(math.log(_SETTLED * float(units.min())) / math.log(kappa)) + 1):
        parts = torch.split(X @ wide + incoming, sizes, 1)
        following = torch.cat([layer.phi(part) for layer, part in zip(states.layers, parts)], 1)
        moved, X = float(((following - X) / units).abs().max()), following
        if moved <= _SETTLED * float((X / units).abs().max()):
            break
    return X


def _warn_of_constants(moments: Moments, states: States) -> None:
    flat = moments.spreads == 0
    n = states.Z.shape[1]
    for title, columns in (("states", flat[:n]), ("inputs", flat[n:])):
        at = columns.nonzero()[:, 0].tolist()
        if at:
            shown = ", ".join(map(str, at[:_SHOWN])) + (", …" if len(at) > _SHOWN else "")
            warnings.warn(
                f"{len(at)} of {len(columns)} {title} are constant over the samples and carry no information "
                f"({shown}): their coefficients are zero",
                SimWarning,
                stacklevel=4,
            )
    still = int(((states.Y - states.Y[:1]) == 0).all(0).sum())
    if still:
        warnings.warn(
            f"{still} of {states.Y.shape[1]} outputs are constant: they are offsets", SimWarning, stacklevel=4
        )


def _warn_of_rows(solved: Solved, moments: Moments, penalties: Tensor, penalty: float, what: str) -> None:
    if penalty > 0 and not bool((solved.W != 0).any()):
        ratios = torch.where(penalties > 0, moments.Q.abs() / penalties, 0.0)
        least = penalty * float(ratios.max()) if ratios.numel() else 0.0
        warnings.warn(
            f"λ = {penalty:g} makes all of {what} zero: for λ above {least:.4g} everything is",
            SimWarning,
            stacklevel=4,
        )
    left = int((~solved.done).sum())
    if left:
        worst = float((solved.gap / moments.power.clamp_min(1e-300) * 2).max())
        warnings.warn(
            f"{left} rows of {what} are not solved to the tolerance after {solved.steps} steps: "
            f"the largest duality gap is {worst:.2g} of ½ var",
            SimWarning,
            stacklevel=4,
        )
