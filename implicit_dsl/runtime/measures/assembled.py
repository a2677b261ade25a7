"""The entries of assembled matrices as linear functions of what is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from implicit_dsl.demands import SystemPart
from implicit_dsl.matrices import Layout
from implicit_dsl.model import ImplicitModel
from implicit_dsl.runtime.measures.cells import Cells, Contribution
from implicit_dsl.unroll import unrolled


def cells_of_system(structure: Mapping[str, Any], part: SystemPart, axis: str) -> Cells:
    """The cells of blocks of an assembled matrix of a model without free sizes."""
    model = unrolled(ImplicitModel.from_data(structure).bind({}, None))
    return cells_of_layout(Layout.of(model, part.matrix, "lower"), axis, part.blocks)


def cells_of_layout(
    layout: Layout, axis: str = "whole", blocks: tuple[tuple[str, str], ...] | None = None
) -> Cells:
    """The cells of an assembled matrix, or of some of its blocks (to, from)."""
    width = layout.shape[1]
    held = []
    for number, summand in enumerate(layout.summands()):
        if blocks is None or (summand.row, summand.col) in blocks:
            block = number if blocks is None else blocks.index((summand.row, summand.col))
            held += [(tie, block) for tie in layout.ties(only=summand)]
    if not held:
        held_rows = held_cols = held_blocks = np.zeros(0, dtype=np.int64)
    else:
        held_rows = np.concatenate([tie.rows for tie, _ in held]).astype(np.int64)
        held_cols = np.concatenate([tie.cols for tie, _ in held]).astype(np.int64)
        held_blocks = np.concatenate([np.full(len(tie.rows), block) for tie, block in held])
    places, first, inverse = np.unique(held_rows * width + held_cols, return_index=True, return_inverse=True)
    contributions, begin = [], 0
    for tie, _ in held:
        here = slice(begin, begin + len(tie.rows))
        begin = here.stop
        coefficients = np.broadcast_to(np.asarray(tie.coefficients, dtype=float), (len(tie.rows),)).copy()
        slots = None if tie.slots is None else torch.from_numpy(tie.slots.astype(np.int64))
        own = torch.from_numpy(inverse[here].copy())
        contributions.append(Contribution(tie.parameter, slots, torch.from_numpy(coefficients), own))
    rows, columns = places // max(width, 1), places % max(width, 1)
    chosen = {"rows": rows, "columns": columns, "blocks": held_blocks[first]}.get(axis)
    together = np.zeros(len(places), np.int64)
    numbered = together if chosen is None else np.unique(chosen, return_inverse=True)[1]
    groups, *at = (torch.from_numpy(np.ascontiguousarray(one)) for one in (numbered, rows, columns))
    return Cells(tuple(contributions), groups, at[0], at[1], layout.shape)
