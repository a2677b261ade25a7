"""Everything that is one operation on values, and needs no other statements around it."""

from __future__ import annotations

from random_programs import (
    arithmetic,
    convolutions,
    entries,
    grids,
    layers,
    library,
    matrices,
    places,
    reductions,
    sequences,
)
from random_programs.program import Makers

PLAIN: Makers = {
    **arithmetic.MAKERS,
    **convolutions.MAKERS,
    **entries.MAKERS,
    **grids.MAKERS,
    **layers.MAKERS,
    **library.MAKERS,
    **matrices.MAKERS,
    **places.MAKERS,
    **reductions.MAKERS,
    **sequences.MAKERS,
}
