"""Which entries of each block are kept: whole channels, or units of vectors, that matter to an output.

Each block keeps some places of its first axis. A chain of operators between two blocks either picks
columns and rows of a matrix or kernel, or keeps channels as they are, or needs both blocks whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from implicit_dsl._lazy import lazy_module
from implicit_dsl.model import Block, Chain, Term
from implicit_dsl.operators import activation_rule
from implicit_dsl.operators.base import Operator
from implicit_dsl.runtime.pruning.units import not_zero, observed
from implicit_dsl.runtime.system import System
from implicit_dsl.shapes import Shape, count, sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

Places: TypeAlias = "np.ndarray"  # along the first axis, in their order

MATRICES = ("dense", "matrix", "structured", "conv", "conv_transpose", "embedding", "lookup")
AVERAGES = ("avg_pool", "global_avg_pool", "adaptive_avg_pool")
_BY_CHANNEL = (*AVERAGES, "upsample", "pad", "batch_norm", "dropout", "diagonal")
_POOLS = ("max_pool", "global_max_pool", "adaptive_max_pool")


class Rigid(Exception):  # noqa: N818 (what it says of a chain, which is no fault)
    """A chain needs all of the blocks that it joins."""


def kept(system: System) -> dict[str, Places]:
    """The places of the first axis that each block keeps; inputs and outputs keep all, some states none."""
    model = system.model
    chosen = {block.name: _all(block.shape) for block in (*model.inputs, *model.outputs)}
    alive = not_zero(system) & observed(system)
    parts = system.partition("states")
    for block in model.states:
        chosen[block.name] = _places(block, alive[parts[block.name]])
    uses = Counter(id for term in model.terms for op in term.chain for _, id in op.parameters)
    by_name = {block.name: block for block in (*model.inputs, *model.states, *model.outputs)}
    changed = True
    while changed:
        changed = False
        for term in model.terms:
            if term.source is None:
                needs = _of_offset(term, chosen, by_name)
            elif not len(chosen[term.source]) or not len(chosen[term.target]):
                continue
            elif any(uses[id] > 1 for op in term.chain for _, id in op.parameters):
                needs = _whole(term, by_name)
            else:
                needs = _of_term(term, chosen, by_name)
            for name, places in needs.items():
                joined = np.union1d(chosen[name], places)
                changed |= len(joined) > len(chosen[name])
                chosen[name] = joined.astype(int)
    return chosen


def _all(shape: Shape) -> Places:
    return np.arange(count(shape[:1]) if shape else 1)


def _places(block: Block, alive: np.ndarray) -> Places:
    """The places with an entry that matters; all, if one does and the activation joins the others."""
    if not alive.any():
        return np.zeros(0, int)
    if not block.shape or not is_separate(block):
        return _all(block.shape)
    return np.flatnonzero(alive.reshape(count(block.shape[:1]), -1).any(1))


def is_separate(block: Block) -> bool:
    """Whether places of its slots become the same places of its states."""
    if block.activation is None or block.phi in _POOLS:
        return True
    return activation_rule(block.activation).elementwise


def _whole(term: Term, blocks: Mapping[str, Block]) -> dict[str, Places]:
    named = [term.target] if term.source is None else [term.target, term.source]
    return {name: _all(blocks[name].shape) for name in named}


def _of_offset(term: Term, chosen: Mapping[str, Places], blocks: Mapping[str, Block]) -> dict[str, Places]:
    """An offset for each place can be cut with it, others need the whole block."""
    if not len(chosen[term.target]):
        return {}
    try:
        rows = chosen[term.target]
        for op in reversed(term.chain[1:]):
            rows = backward(op, rows)
    except Rigid:
        return _whole(term, blocks)
    op = term.chain[0]
    if op.kind == "constant" and len(term.chain) == 1:
        return {}
    return {} if op.kind == "offset" and len(op.target) == 1 else _whole(term, blocks)


def _of_term(term: Term, chosen: Mapping[str, Places], blocks: Mapping[str, Block]) -> dict[str, Places]:
    """What a term needs beside what is chosen."""
    assert term.source is not None
    at = mixing(term.chain)
    try:
        columns = chosen[term.source]
        for op in term.chain if at is None else term.chain[:at]:
            columns = forward(op, columns)
        separate = is_separate(blocks[term.target])
        if at is None:
            if not separate:
                return _whole(term, blocks)
            both = np.union1d(chosen[term.target], columns).astype(int)
            rows = both
            for op in reversed(term.chain):
                rows = backward(op, rows, up=True)
            return {term.source: rows, term.target: both}
        rows = chosen[term.target] if separate else _all(blocks[term.target].slots)
        for op in reversed(term.chain[at + 1 :]):
            rows = backward(op, rows)
        if not is_cut(term.chain[at]):
            full = _is_full(columns, term.chain[at].source) and _is_full(rows, term.chain[at].target)
            return {} if full else _whole(term, blocks)
    except Rigid:
        return _whole(term, blocks)
    return {}


def mixing(chain: Chain) -> int | None:
    """The place of the first operator of a chain that has rows and columns; None if there is none."""
    found = [at for at, op in enumerate(chain) if op.kind in MATRICES]
    return found[0] if found else None


def is_cut(operator: Operator) -> bool:
    """Whether rows and columns of an operator are places of the first axes of what it joins."""
    if operator.kind in ("dense", "matrix", "structured"):
        return len(operator.source) == 1
    return operator.kind in ("conv", "conv_transpose") and operator["groups"] == 1


def forward(operator: Operator, places: Places) -> Places:
    """The places of the target that those of the source become. Raises Rigid."""
    return _carried(operator, places, operator.source, operator.target)


def backward(operator: Operator, places: Places, up: bool = False) -> Places:
    """The places of the source that those of the target come from, `up`: at least these. Raises Rigid."""
    return _carried(operator, places, operator.target, operator.source, up)


def _keeps_places(operator: Operator) -> bool:
    same = operator.source[:1] == operator.target[:1] and bool(operator.source)
    return operator.kind == "scale" or (same and operator.kind in (*_BY_CHANNEL, "reshape"))


def _carried(
    operator: Operator,
    places: Places,
    source: Shape,
    target: Shape,
    up: bool = False,
) -> Places:
    if _keeps_places(operator):
        return places
    if operator.kind == "reshape" and source and target:
        first, after = sizes(source), sizes(target)
        entries = (
            places[:, None] * (count(first) // first[0]) + np.arange(count(first) // first[0])
        ).reshape(-1)
        width = count(after) // after[0]
        found = np.unique(entries // width)
        if up or len(found) * width == len(entries):
            return found
    elif _is_full(places, source):
        return _all(target)
    raise Rigid


def _is_full(places: Places, shape: Shape) -> bool:
    return len(places) == len(_all(shape))


__all__ = [
    "AVERAGES",
    "MATRICES",
    "Places",
    "Rigid",
    "backward",
    "forward",
    "is_cut",
    "is_separate",
    "kept",
    "mixing",
]
