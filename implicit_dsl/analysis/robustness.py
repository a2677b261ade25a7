"""Whether a classification stays what it is near each sample: certified accuracy and certified radii.

The class c of a sample stays if y_j − y_c < 0 for all other j over the whole region: bounds are of these
differences, whose rows are taken before |·| (the "relative classifier" of Jafarpour et al. 2022). Cheap
bounds go first, and samples that they leave open go on to closer ones.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis.attacks import attack as attacked
from implicit_dsl.analysis.bounds import (
    MOST_TIGHTENED,
    Effort,
    boxes_for,
    checked_method,
    objectives_of,
    samples_at_once,
    slack_of,
    some_of,
    upper_of_rows,
)
from implicit_dsl.analysis.boxes import boxes_of
from implicit_dsl.analysis.branching import below_zero, can_branch
from implicit_dsl.analysis.crown import relaxed, upper_bounds
from implicit_dsl.analysis.network import Network, NoBound
from implicit_dsl.analysis.outputs import network_for
from implicit_dsl.analysis.parallel import Found, Job, Settings, run_jobs
from implicit_dsl.analysis.progress import Progress
from implicit_dsl.analysis.regions import Inputs, Norm, Region, around, arrays, checked_radius
from implicit_dsl.analysis.systems import tensors_for
from implicit_dsl.analysis.threads import in_one_thread
from implicit_dsl.runtime.evaluating import evaluating
from implicit_dsl.shapes import count

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

_CLOSER = (Effort(), Effort(tighten=3, optimise=20))  # of backward bounds, one after another
_CLOSEST = Effort(tighten=3, optimise=30, within=10)
_BRANCHES, _MOST_BRANCHED = 300, 400  # of a sample, and slots of a model that is split into branches


@dataclass(frozen=True, slots=True, eq=False)
class CertifiedAccuracy:
    """What is proved and what is not of the samples within ε, as shares of all samples.

    `clean` are classified right, `certified` are so for every input within ε, and `attacked` still are under
    an attack (None: there was none): the truth lies between the last two. `right` and `proved` [samples] say
    which; `unbounded` counts samples for which no bound was found at all.
    """

    epsilon: float
    norm: str
    method: str
    samples: int
    clean: float
    certified: float
    attacked: float | None
    right: np.ndarray
    proved: np.ndarray
    broken: np.ndarray | None
    unbounded: int
    seconds: float

    def __str__(self) -> str:
        bracket = "" if self.attacked is None else f", under attack {100 * self.attacked:.1f} %"
        norm = "∞-norm" if self.norm == "inf" else "Euclidean norm"
        lost = f"; no bound for {self.unbounded}" if self.unbounded else ""
        return (
            f"ε = {self.epsilon:g} in the {norm}: certified {100 * self.certified:.1f} % by {self.method}"
            f"{bracket}, clean {100 * self.clean:.1f} % of {self.samples} samples "
            f"({self.seconds:.1f} s{lost})"
        )


@in_one_thread
def certified_accuracy(
    model: nn.Module,
    inputs: Inputs,
    labels: torch.Tensor,
    epsilon: float,
    *,
    method: str = "crown",
    norm: Norm = "inf",
    lower: float | None = None,
    upper: float | None = None,
    attack: bool = True,
    thorough: bool = False,
    processes: int = 1,
    progress: Progress = None,
    seed: int = 0,
) -> CertifiedAccuracy:
    """The share of samples whose class is proved right for all inputs within ε, and under attack.

    `inputs` [samples, *shape] and `labels` [samples] are data, ε the radius of an ∞-norm or Euclidean ball
    that is cut by `lower` and `upper`, the range of the data. `method` is one of `output_bounds`; crown goes
    from cheap bounds to close ones, sample by sample, and further if `thorough`. The attack is PGD with
    restarts (`attack`). Samples are shared out among so many `processes`, which are started afresh, so that
    a script needs `if __name__ == "__main__":`. `progress`: True shows a bar on stderr, None does so on a
    terminal, and a function is called with the samples done and all of them.

    The model has one output [classes], and is taken in evaluation mode, in exact arithmetic. Raises NoBound
    where no sample has a bound at all, with the reason; ValueError for ε below 0, wrong shapes, NaN, labels
    out of range; TypeError if the model is not a compiled one.
    """
    started = time.perf_counter()
    checked_radius(epsilon)
    checked_method(method)
    network = network_for(model, inputs)
    classes, data = _checked(network, inputs, labels)
    _require_bounds(network, data)
    right = _right(model, inputs, labels)
    broken = None
    if attack:
        made = attacked(model, inputs, labels, epsilon, norm=norm, lower=lower, upper=upper, seed=seed)
        broken = np.asarray(made.success.cpu().numpy(), bool)
    wanted = np.flatnonzero(right if broken is None else right & ~broken)
    settings = Settings(method, norm, lower, upper, thorough)
    job = Job(network.system, data, labels.cpu().numpy(), classes, float(epsilon), settings)
    found = run_jobs(_proofs, job, wanted, processes, progress)
    proved = np.zeros(len(right), bool)
    proved[wanted] = [one.proved for one in found]
    reasons = [one.reason for one in found if one.reason]
    if reasons and len(reasons) == len(found):
        raise NoBound(reasons[0])
    return CertifiedAccuracy(
        float(epsilon), norm, method, len(right), float(right.mean()), float(proved.mean()),
        None if broken is None else float((right & ~broken).mean()),
        right, proved, broken, len(reasons), time.perf_counter() - started,
    )  # fmt: skip


@in_one_thread
def certified_radius(
    model: nn.Module,
    inputs: Inputs,
    labels: torch.Tensor | None = None,
    *,
    method: str = "crown",
    norm: Norm = "inf",
    lower: float | None = None,
    upper: float | None = None,
    most: float = 1.0,
    tolerance: float = 1e-3,
    thorough: bool = False,
    processes: int = 1,
    progress: Progress = None,
) -> torch.Tensor:
    """For each sample a radius ε within which its class is proved to stay, up to `most`; [samples], float64.

    0 where the class is not that of `labels` [samples], which are the model's own if not given. The radius is
    found by bisection, to a share `tolerance` of itself; the rest as for `certified_accuracy`.
    """
    if not 0 < most < float("inf"):
        raise ValueError(f"the largest radius is a positive number, and this is {most:g}")
    if not 0 < tolerance < 1:
        raise ValueError(f"the tolerance lies between 0 and 1, and this is {tolerance:g}")
    checked_method(method)
    network = network_for(model, inputs)
    if labels is None:
        labels = _predicted(model, inputs)
    classes, data = _checked(network, inputs, labels)
    _require_bounds(network, data)
    wanted = np.flatnonzero(_right(model, inputs, labels))
    settings = Settings(method, norm, lower, upper, thorough)
    job = Job(network.system, data, labels.cpu().numpy(), classes, most, settings, tolerance)
    found = run_jobs(_radii, job, wanted, processes, progress)
    reasons = [one.reason for one in found if one.reason]
    if reasons and len(reasons) == len(found):
        raise NoBound(reasons[0])
    radii = torch.zeros(len(labels), dtype=torch.float64)
    radii[torch.from_numpy(wanted)] = torch.tensor([one.radius for one in found], dtype=torch.float64)
    return radii


def _checked(network: Network, inputs: Inputs, labels: torch.Tensor) -> tuple[int, dict[str, np.ndarray]]:
    """The number of classes, and the inputs as arrays. Raises ValueError for what is no classification."""
    outputs = network.outputs
    if len(outputs) != 1 or len(outputs[0].block.shape) != 1 or count(outputs[0].block.shape) < 2:
        shapes = ", ".join(f"`{node.name}`{list(node.block.shape)}" for node in outputs)
        raise ValueError(
            "a classification has one output [classes], with two classes at least, and this model has "
            f"{shapes}"
        )
    if all(block.tokens for block in network.system.inputs):
        raise ValueError("all inputs are tokens, which no ε moves: there is nothing to certify")
    classes = count(outputs[0].block.shape)
    data = arrays(network.system.inputs, inputs, "the inputs")
    samples = len(next(iter(data.values())))
    if not isinstance(labels, torch.Tensor) or labels.dtype.is_floating_point or labels.ndim != 1:
        raise ValueError("labels are whole numbers, a tensor [samples]")
    if len(labels) != samples:
        raise ValueError(f"there are {len(labels)} labels for {samples} samples")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels go from 0 to {classes - 1}, and these from {int(labels.min())} to {int(labels.max())}"
        )
    return classes, data


def _require_bounds(network: Network, data: dict[str, np.ndarray]) -> None:
    """Raises NoBound if not even the first sample has bounds, before anything is run that may diverge."""
    first = {name: values[:1] for name, values in data.items()}
    boxes_of(network, around(network.system.inputs, first, 0.0))


def _predicted(model: nn.Module, inputs: Inputs) -> torch.Tensor:
    """The class that the model finds, in evaluation mode."""
    tensors = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
    with evaluating(model), torch.no_grad():
        scores: torch.Tensor = model(*tensors_for(model, tensors))
    return scores.argmax(1).cpu()


def _right(model: nn.Module, inputs: Inputs, labels: torch.Tensor) -> np.ndarray:
    return np.asarray((_predicted(model, inputs) == labels.cpu()).numpy())


def _differences(classes: int, labels: np.ndarray) -> np.ndarray:
    """Rows e_j − e_c for each other class j, [samples, classes − 1, classes]."""
    rows = np.eye(classes)[None] - np.eye(classes)[labels][:, None]
    others = np.arange(classes) != labels[:, None]
    return np.asarray(rows[others].reshape(len(labels), classes - 1, classes))


def _proofs(job: Job, network: Network, chosen: np.ndarray) -> list[Found]:
    """Whether the samples `chosen` are proved within the radius of the job."""
    proved, reasons = _within(job, network, chosen, np.full(len(chosen), job.epsilon))
    return [Found(bool(ok), job.epsilon if ok else 0.0, reason) for ok, reason in zip(proved, reasons)]


def _radii(job: Job, network: Network, chosen: np.ndarray) -> list[Found]:
    """The largest radii of the samples `chosen` that are proved, by bisection for all at once."""
    low, high = np.zeros(len(chosen)), np.full(len(chosen), job.epsilon)
    proved, reasons = _within(job, network, chosen, high)
    low = np.where(proved, high, low)
    tried = high / 16
    while True:
        between = (low < tried) & (tried < high)  # no number is left, where the tolerance is below rounding
        open_ = np.flatnonzero((high - low > job.tolerance * high) & between)
        open_ = open_[high[open_] > 1e-9 * job.epsilon]
        if not len(open_):
            break
        proved, found = _within(job, network, chosen[open_], tried[open_])
        for at, reason in zip(open_, found):
            reasons[at] = reason if not low[at] else ""
        low[open_] = np.where(proved, tried[open_], low[open_])
        high[open_] = np.where(proved, high[open_], tried[open_])
        tried = np.where(low > 0, (low + high) / 2, high / 4)
    pairs = zip(low.tolist(), reasons)
    return [Found(radius > 0, radius, "" if radius > 0 else why) for radius, why in pairs]


def _within(
    job: Job, network: Network, chosen: np.ndarray, radii: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Which of the samples are proved within their radii; and why others have no bound at all."""
    settings, proved, reasons = job.settings, np.zeros(len(chosen), bool), [""] * len(chosen)
    stages: tuple[tuple[str, Effort], ...] = ((settings.method, Effort()),)
    if settings.method == "crown":
        small = sum(node.slots for node in network.states) <= MOST_TIGHTENED
        stages = (("interval", Effort()), *(("crown", e) for e in (_CLOSER if small else _CLOSER[:1])))
        stages += (("crown", _CLOSEST),) if small and settings.thorough else ()
    for method, effort in stages:
        step = samples_at_once(network, job.classes, effort)
        left = np.flatnonzero(~proved)
        parts = [left[at : at + step] for at in range(0, len(left), step)]
        while parts:
            part = parts.pop()
            try:
                proved[part] = _margins(job, network, chosen[part], radii[part], method, effort) < 0
                for at in part:
                    reasons[at] = ""
            except NoBound as none:
                if len(part) == 1:
                    reasons[part[0]] = str(none)
                else:  # some of them may have one
                    parts += [part[: len(part) // 2], part[len(part) // 2 :]]
    if settings.method == "crown" and settings.thorough and can_branch(network):
        for at in np.flatnonzero(~proved):
            if not reasons[at]:
                proved[at] = _by_branching(job, network, chosen[at : at + 1], radii[at : at + 1])
    return proved, reasons


def _by_branching(job: Job, network: Network, chosen: np.ndarray, radii: np.ndarray) -> bool:
    """Whether one sample is proved by branch and bound, on boxes that are as tight as they get."""
    region, rows = _region(job, network, chosen, radii), _differences(job.classes, job.labels[chosen])
    if sum(node.slots for node in network.states) > _MOST_BRANCHED:
        return False
    boxes = boxes_for(network, region, "crown", _CLOSEST)
    bounded, objectives = relaxed(network, boxes), objectives_of(network, rows)
    slack = slack_of(network, boxes, rows)
    before = upper_bounds(network, region, bounded, objectives, _CLOSEST.optimise) + slack
    open_ = np.flatnonzero(before[0] >= 0)
    part = some_of(objectives, open_)
    return below_zero(network, region, bounded, part, slack[:, open_], _BRANCHES)


def _region(job: Job, network: Network, chosen: np.ndarray, radii: np.ndarray) -> Region:
    settings, data = job.settings, {name: values[chosen] for name, values in job.data.items()}
    return around(network.system.inputs, data, radii, settings.norm, settings.lower, settings.upper)


def _margins(
    job: Job, network: Network, chosen: np.ndarray, radii: np.ndarray, method: str, effort: Effort
) -> np.ndarray:
    """The largest that another class can be above the right one, at most; [samples]."""
    region, rows = _region(job, network, chosen, radii), _differences(job.classes, job.labels[chosen])
    return np.asarray(upper_of_rows(network, region, rows, method, effort).max(1))
