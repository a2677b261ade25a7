"""`prune_`: small weights become zero, and so does what then has no effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from implicit_dsl._lazy import lazy_module
from implicit_dsl.runtime.constraints.base import tensor_of
from implicit_dsl.runtime.pruning.bound import NoBound, output_bound
from implicit_dsl.runtime.pruning.report import BlockCount, Pruned
from implicit_dsl.runtime.pruning.units import not_zero, observed, slots_of
from implicit_dsl.runtime.reference import NoEquilibrium
from implicit_dsl.runtime.system import System, _columns

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

_MATRICES = ("A", "B", "C", "D")
_SCALING = ("RowBound", "SpectralBound", "PerronBound", "GroupBound")  # of which zeros stay zeros


def prune_(
    module: nn.Module,
    structure: Mapping[str, Any],
    tolerance: float = 0.0,
    inputs: tuple[torch.Tensor, ...] = (),
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    length: int | None = None,
) -> Pruned:
    """Make weights of at most `tolerance` zero, in place, and all that then has no effect on any output.

    Numbers that stand in several places, as those of kernels and of members of sets, are kept or dropped as
    one. Weights of states that are zero for every input, or that no output depends on, become zero as well,
    which changes nothing. With `inputs`, |Δy| is bounded on them (see `output_bound`) and measured.

    Raises ValueError for a tolerance that is negative or not a number, for weights that are not finite, and
    for inputs that do not fit: nothing is changed then.
    """
    if not tolerance >= 0:
        raise ValueError(f"a tolerance is at least 0, and this is {tolerance:g}")
    if inputs and not shapes:
        shapes = _shapes_of(structure, inputs)
    before = System.of(module, structure, shapes, length=length)
    for id, weight in before.weights.items():
        if not np.isfinite(weight).all():
            raise ValueError(f"the tensor `{id}` holds values that are not finite")
    U = X = None
    if inputs:
        U = _columns(before._inputs(inputs, {}))
        X, _ = before.solve_columns(U)
    chosen = _prunable(module, before)
    kept = sum(int((tensor_of(module, id) != 0).sum()) for id in chosen)
    counts = _counts(before)
    with torch.no_grad():
        for id in chosen:
            tensor = tensor_of(module, id)
            tensor.masked_fill_(tensor.abs() <= tolerance, 0.0)
        dead, unobserved = _without_effect(module, structure, shapes, length, chosen)
    after = System.of(module, structure, shapes, length=length)
    left = sum(int((tensor_of(module, id) != 0).sum()) for id in chosen)
    bound, change, why = _certified(before, after, U, X)
    remaining = _counts(after)
    blocks = tuple(BlockCount(*key, count, remaining[key]) for key, count in counts.items() if count)
    return Pruned(before.model.name, tolerance, (kept, left), blocks, dead, unobserved, bound, change, why)


def _shapes_of(structure: Mapping[str, Any], inputs: tuple[torch.Tensor, ...]) -> dict[str, tuple[int, ...]]:
    names = [held[0] for held in structure["inputs"]]
    return {name: tuple(tensor.shape[1:]) for name, tensor in zip(names, inputs)}


def _prunable(module: nn.Module, system: System) -> tuple[str, ...]:
    """The trained tensors that entries of the matrices are multiples of."""
    parameters = dict(module.named_parameters())
    fixed = {
        id
        for constraint in getattr(module, "constraints", ())
        if constraint.method == "parametrize" and type(constraint).__name__ not in _SCALING
        for id in constraint.tensors
    }
    made = {id for id, held in getattr(module, "structures", {}).items() if not hasattr(held, "count")}
    found = dict.fromkeys(id for matrix in _MATRICES for id in system.ties(matrix))
    return tuple(id for id in found if id in parameters and id not in fixed | made)


def _counts(system: System) -> dict[tuple[str, str, str], int]:
    """The entries of each block that are not zero."""
    found = {}
    for name in _MATRICES:
        operator = getattr(system, name)
        matrix = operator.to_scipy()
        matrix.eliminate_zeros()
        rows, columns = _axes(name)
        targets, sources = system.partition(rows), system.partition(columns)
        for target in targets.names:
            part = matrix[targets[target]]
            for source in sources.names:
                found[(name, target, source)] = int(part[:, sources[source]].nnz)
    return found


def _axes(matrix: str) -> tuple[str, str]:
    return ("slots" if matrix in "AB" else "outputs", "states" if matrix in "AC" else "inputs")


def _without_effect(
    module: nn.Module,
    structure: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]] | None,
    length: int | None,
    chosen: tuple[str, ...],
) -> tuple[dict[str, int], dict[str, int]]:
    """Zero the numbers all of whose entries have no effect; how many states are dead and unobserved."""
    system = System.of(module, structure, shapes, length=length)
    alive, seen = not_zero(system), observed(system)
    rows = slots_of(system.states, seen)
    effect = {
        "A": (rows, alive),
        "B": (rows, np.ones(system.partition("inputs").total, bool)),
        "C": (np.ones(system.partition("outputs").total, bool), alive),
        "b": (rows, np.ones(1, bool)),
    }
    used: dict[str, np.ndarray] = {}
    parameters = dict(module.named_parameters())
    offsets = {*system.ties("b"), *system.ties("d")} - set(getattr(module, "structures", {}))
    affected = {*chosen, *(offsets & set(parameters))}
    for name in ("A", "B", "C", "D", "b", "d"):
        row, column = effect.get(name, (None, None))
        for id, tie in system.ties(name).items():
            if id not in affected or tie.slots is None:
                continue
            counted = used.setdefault(id, np.zeros(parameters[id].numel(), bool))
            has = np.ones(len(tie.rows), bool)
            if row is not None and column is not None:
                has = row[tie.rows] & column[tie.cols]
            counted[tie.slots[has]] = True
    for id, has in used.items():
        tensor = tensor_of(module, id)
        mask = torch.from_numpy(has).reshape(tensor.shape).to(tensor.device)
        tensor.masked_fill_(~mask, 0.0)
    states = system.partition("states")
    dead = {name: int((~alive[states[name]]).sum()) for name in states.names}
    blind = {name: int((~seen[states[name]]).sum()) for name in states.names}
    return {k: n for k, n in dead.items() if n}, {k: n for k, n in blind.items() if n}


def _certified(
    before: System, after: System, U: np.ndarray | None, X: np.ndarray | None
) -> tuple[dict[str, float] | None, dict[str, float] | None, str]:
    if U is None or X is None:
        return None, None, "no inputs are given"
    parts = after.partition("outputs")
    try:
        moved, _ = after.solve_columns(U)
        own = before.C.to_scipy() @ X + before.D.to_scipy() @ U + before.d[:, None]
        new = after.C.to_scipy() @ moved + after.D.to_scipy() @ U + after.d[:, None]
        found = output_bound(before, after, U, X)
    except (NoBound, NoEquilibrium) as none:
        return None, None, str(none)
    change = np.abs(new - own)
    return (
        {name: float(found[parts[name]].max(initial=0.0)) for name in parts.names},
        {name: float(change[parts[name]].max(initial=0.0)) for name in parts.names},
        "",
    )
