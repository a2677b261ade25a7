"""Samples shared out among processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, TypeAlias

import torch

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis.network import Network
from implicit_dsl.analysis.progress import Progress, shown
from implicit_dsl.analysis.regions import Norm
from implicit_dsl.runtime.system import System

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

_AT_ONCE = 250  # samples between two looks at the progress, at most


@dataclass(frozen=True)
class Settings:
    """How samples are proved."""

    method: str
    norm: Norm
    lower: float | None
    upper: float | None
    thorough: bool


@dataclass(frozen=True)
class Job:
    """A system, its data [samples, size] by input, labels [samples], and what is asked of them."""

    system: System | None  # None in a process that has it already
    data: Mapping[str, np.ndarray]
    labels: np.ndarray
    classes: int
    epsilon: float
    settings: Settings
    tolerance: float = 0.0


@dataclass(frozen=True)
class Found:
    """What is proved of a sample; `reason` says why nothing can be."""

    proved: bool
    radius: float
    reason: str = ""


Task: TypeAlias = Callable[[Job, Network, "np.ndarray"], list[Found]]


def run_jobs(task: Task, job: Job, chosen: np.ndarray, processes: int, progress: Progress) -> list[Found]:
    """What a task finds of the samples `chosen`, in their order. Raises ValueError for no process."""
    if processes < 1:
        raise ValueError(f"there must be one process at least, and not {processes}")
    size = max(1, min(_AT_ONCE, -(-len(chosen) // processes)))
    parts = [chosen[at : at + size] for at in range(0, len(chosen), size)]
    found: list[Found] = []
    with shown(progress, len(chosen)) as show:
        for made in _results(task, job, parts, processes):
            found += made
            show(len(found))
    return found


def _results(task: Task, job: Job, parts: list[np.ndarray], processes: int) -> Iterator[list[Found]]:
    assert job.system is not None
    if processes == 1 or len(parts) < 2:
        network = Network.of(job.system)
        yield from (task(job, network, part) for part in parts)
        return
    bare = System(job.system.model, job.system.weights, job.system.order, job.system.limit)
    with ProcessPoolExecutor(min(processes, len(parts)), get_context("spawn"), _start, (bare,)) as pool:
        yield from pool.map(_run, [(task, _of_samples(job, part), len(part)) for part in parts])


def _of_samples(job: Job, part: np.ndarray) -> Job:
    """A job of these samples alone, without its system, which the process has."""
    data = {name: values[part] for name, values in job.data.items()}
    return replace(job, system=None, data=data, labels=job.labels[part])


_network: list[Network] = []


def _start(system: System) -> None:
    torch.set_num_threads(1)
    _network[:] = [Network.of(system)]


def _run(given: tuple[Task, Job, int]) -> list[Found]:
    task, job, samples = given
    (network,) = _network
    return task(job, network, np.arange(samples))
