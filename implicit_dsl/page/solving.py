"""How the solvers did on the data."""

from __future__ import annotations

import time
from typing import Any

from implicit_dsl.page.figures import number
from implicit_dsl.page.parts import Facts, Note, Part, Section, Table
from implicit_dsl.page.subject import Samples, Subject, no_answer, reason
from implicit_dsl.pictures.lettering import clean

_ABOUT = (
    "The module as it is used, on all samples at once: how many steps each loop took, and how good its "
    "solution is."
)
_HEADER = ("loop", "solver", "steps", "mean", "residual", "tolerance", "error at most", "ended")
_ROUNDS = 5


def solving(subject: Subject) -> Section:
    """Steps and residuals of each loop, and with `timed` the time for a sample."""
    return Section("solver", "Solver", _ABOUT, tuple(_parts(subject)))


def _parts(subject: Subject) -> list[Part]:
    samples = subject.samples
    if samples is None:
        return [Note("Give --data to see how the solvers do on it.", "missing")]
    try:
        _forward(subject, samples)
    except no_answer() as error:
        return [Note(f"The module gives no output on these data: {reason(error)}", "bad")]
    parts = _loops(subject)
    if subject.timed:
        best = min(_seconds(subject, samples) for _ in range(_ROUNDS))
        said = f"{1e6 * best / len(samples):,.4g} µs"
        parts.append(
            Facts((("time for a sample", f"{said}, the best of {_ROUNDS} rounds over all of them"),))
        )
    return parts


def _loops(subject: Subject) -> list[Part]:
    found: dict[str, Any] = getattr(subject.module, "stats", {})
    rows = tuple(
        (
            clean(name),
            clean(stats.solver),
            f"{stats.steps:,}",
            f"{stats.mean_steps:.1f}",
            number(stats.residual, 2),
            number(stats.tolerance, 2),
            "" if stats.error_bound is None else number(stats.error_bound, 2),
            stats.status.meaning,
        )
        for name, stats in found.items()
        if stats is not None
    )
    if not rows:
        return [Note("There are no loops: states follow from one another by substitution.")]
    made: list[Part] = [Table("Solves on the data", _HEADER, rows, frozenset({2, 3, 4, 5, 6}), wide=True)]
    return [*made, *_spread(found)]


def _spread(found: dict[str, Any]) -> list[Part]:
    """How steps are spread over samples, where they differ."""
    pairs = []
    for name, stats in found.items():
        steps = [] if stats is None else sorted(stats.steps_of_samples.tolist())
        if steps and steps[0] < steps[-1]:
            middle, most = steps[len(steps) // 2], steps[min(len(steps) - 1, len(steps) * 9 // 10)]
            said = f"from {steps[0]} to {steps[-1]}; half of the samples took at most {middle}, "
            pairs.append((f"steps of {clean(name)}", f"{said}nine tenths at most {most}"))
    return [Facts(tuple(pairs))] if pairs else []


def _forward(subject: Subject, samples: Samples) -> Any:
    import torch

    dtype = next((p.dtype for p in subject.module.parameters() if p.is_floating_point()), torch.float32)
    given = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in samples.inputs]
    with torch.no_grad():
        return subject.module(*given)


def _seconds(subject: Subject, samples: Samples) -> float:
    start = time.perf_counter()
    _forward(subject, samples)
    return time.perf_counter() - start
