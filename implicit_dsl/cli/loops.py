"""What `implicitc show` says of loops: where they stand in A, why they have a solution, how it is found."""

from __future__ import annotations

import math
from collections.abc import Iterator
from textwrap import wrap
from typing import TYPE_CHECKING

from implicit_dsl.cli.messages import bold, plural
from implicit_dsl.cli.table import printable, width
from implicit_dsl.demands import BackwardDemand, SolverDemand, applying
from implicit_dsl.guarantees import Guarantee
from implicit_dsl.resolve.annotations.settings import as_written
from implicit_dsl.shapes import count, known

if TYPE_CHECKING:
    from implicit_dsl.certify import Certified, Group
    from implicit_dsl.model import ImplicitModel, Loop

LARGEST_PATTERN = 40  # states of which the blocks are drawn; beyond it there is `implicitc plot`
LONGEST_SCHEDULE = 12  # groups that are listed; beyond it there is `--stage schedule`
_LABEL = 12  # columns for `well posed` and the like
_SPLITTING = (Guarantee.MONOTONE, Guarantee.MEASURE)
_BATCH = 64  # samples for which the choice of a solver is shown


def pattern(model: ImplicitModel) -> list[str]:
    """The blocks of A, the last state first as in the picture: ● where one is, ◉ within a loop."""
    states = [block.name for block in reversed(model.states)]
    if len(states) > LARGEST_PATTERN:
        return [f"  A has {len(states)} × {len(states)} blocks: `implicitc plot` draws it"]
    member = {name: loop.name for loop in model.loops for name in loop.states}
    blocks = model.A
    wide = max(map(len, states))
    lines = [f"  {'A'.ljust(wide)}  rows read columns, in the same order; ◉ within a loop"]
    for row in states:
        marks = ["·" if (row, column) not in blocks else "●" for column in states]
        for at, column in enumerate(states):
            if marks[at] == "●" and row in member and member[row] == member.get(column):
                marks[at] = "◉"
        lines.append(f"  {printable(row).ljust(wide)}  {' '.join(marks)}")
    return lines


def order(certified: Certified) -> list[str]:
    """Which states are solved together, and in which order."""
    groups = certified.groups
    loops = sum(bool(group.iterated) for group in groups)
    if len(groups) > LONGEST_SCHEDULE:
        text = f"solved in {len(groups)} steps, {plural(loops, 'loop')} among them: see `--stage schedule`"
    else:
        text = f"solved in {plural(len(groups), 'step')}: {', then '.join(map(_group, groups))}"
    return _wrapped("  ", text)


def _group(group: Group) -> str:
    """`{z[1], z[2]}` for a loop, `y` for a state that follows from those before."""
    return f"{{{', '.join(group.iterated)}}}" if group.iterated else ", ".join(group.states)


def paragraph(model: ImplicitModel, loop: Loop) -> list[str]:
    """One loop: its states, its certificate and how it is solved."""
    others = [name for name in loop.states if name not in loop.iterated]
    title = f"loop {{{', '.join(loop.iterated)}}}"
    lines = [f"  {bold(printable(title))}"]
    if others:
        lines += _entry("with", ", ".join(others))
    lines += _entry("well posed", _certificate(model, loop))
    solver, backward = applying(model.demands.solvers, loop), applying(model.demands.backwards, loop)
    lines += _entry("solver", _solver(loop, solver))
    for place, route in _routes(model, loop, solver, backward):
        lines += _wrapped(f"{' ' * (4 + _LABEL)}{place:<13}", route)
    return [*lines, *_entry("gradient", as_written(backward) if backward else "implicit")]


def _entry(label: str, text: str) -> list[str]:
    return _wrapped(f"    {label:<{_LABEL}}", text)


def _wrapped(head: str, text: str) -> list[str]:
    rows = wrap(printable(text), max(30, width() - len(head)), break_long_words=False, break_on_hyphens=False)
    return [f"{head if not number else ' ' * len(head)}{row}" for number, row in enumerate(rows or [""])]


def _certificate(model: ImplicitModel, loop: Loop) -> str:
    """Why a loop has one solution, what keeps it so, and how many steps that means."""
    demands = [d for d in model.demands.wellposed if not d.states or set(d.states) & set(loop.states)]
    bounds = [demand for demand in demands if demand.text and demand.criterion != "unchecked"]
    asked = ", ".join(f"{demand.text} (line {demand.line})" for demand in bounds)
    if loop.guarantee is Guarantee.UNCHECKED:
        kept = f"; the weights are kept within {asked}" if asked else ""
        return f"unchecked, as the source says: the residual is checked at every call{kept}"
    text = loop.guarantee.value + ("" if loop.rate is None else f", at most {loop.rate:.4g}")
    text += f", as {asked}" if asked else ", by its structure"
    return text if loop.rate is None else f"{text}; at most {_steps(loop.rate):,} steps to 1e-5"


def _steps(rate: float, tolerance: float = 1e-5) -> int:
    """Sweeps after which the error is below `tolerance` times the first change: κᵀ / (1 − κ) ≤ tolerance."""
    return 1 if rate <= 0 else max(1, math.ceil(math.log(tolerance * (1 - rate)) / math.log(rate)))


def _solver(loop: Loop, demand: SolverDemand | None) -> str:
    asked = as_written(demand) if demand is not None else "auto"
    if demand is not None and demand.name != "auto":
        return asked
    if loop.guarantee is Guarantee.TRIANGULAR:
        return f"{asked}: picard, whose steps end with the exact solution"
    return (
        f"{asked}, by what is known:"
        if loop.guarantee not in _SPLITTING
        else f"{asked}: forward_backward, as the proof is one for splitting"
    )


def _routes(
    model: ImplicitModel, loop: Loop, solver: SolverDemand | None, backward: BackwardDemand | None
) -> Iterator[tuple[str, str]]:
    """What `auto` comes to, by the rules of the runtime: where, and how."""
    if loop.guarantee in (*_SPLITTING, Guarantee.TRIANGULAR) or (
        solver is not None and solver.name != "auto"
    ):
        return
    size = _dense(model, loop) if backward is None or backward.name == "implicit" else None
    yield from _general(model, loop) if size is None else _of_one_matrix(model, loop, size)


def _dense(model: ImplicitModel, loop: Loop) -> int | None:
    """The size of the one matrix of a loop that is solved by `DenseEquilibrium`."""
    from implicit_dsl.emit.dense import dense_plan
    from implicit_dsl.emit.loops import plan

    found = dense_plan(model, loop, plan(model, loop))
    return None if found is None else found.size


def _of_one_matrix(model: ImplicitModel, loop: Loop, size: int) -> Iterator[tuple[str, str]]:
    import torch

    from implicit_dsl.runtime.dense import dispatch

    phi = model.blocks[loop.name].phi
    for place, device, native in (
        ("CPU", "cpu", True),
        ("without C++", "cpu", False),
        ("GPU", "cuda", False),
    ):
        yield place, str(dispatch(size, _BATCH, torch.float32, device, phi, loop.rate, native))


def _general(model: ImplicitModel, loop: Loop) -> Iterator[tuple[str, str]]:
    from implicit_dsl.runtime.solvers.auto import SMALL, Features, choose

    shapes = [model.blocks[name].shape for name in loop.iterated]
    fixed = all(known(shape) is not None for shape in shapes)
    unknowns = sum(map(count, shapes)) if fixed else SMALL
    found = [choose(Features(unknowns, loop.rate, on_cpu=on_cpu)) for on_cpu in (True, False)]
    on_cpu, on_gpu = (f"{rule.when}: {rule.how}" for rule in found)
    if on_cpu == on_gpu:
        yield "CPU and GPU", on_cpu
    else:
        yield "CPU", on_cpu
        yield "GPU", on_gpu
