"""Sets of weights that keep loops well posed: projections onto them, parametrisations of them."""

from implicit_dsl.runtime.constraints.base import Block, Constraint, ConstraintError
from implicit_dsl.runtime.constraints.groups import GroupBound
from implicit_dsl.runtime.constraints.keeping import (
    add_parameters,
    effective_weights,
    project_,
    project_after,
    require,
)
from implicit_dsl.runtime.constraints.matrices import MeasureBound, MonotoneBound, SpectralBound
from implicit_dsl.runtime.constraints.perron import PerronBound
from implicit_dsl.runtime.constraints.rows import RowBound
from implicit_dsl.runtime.constraints.within import Within

__all__ = [
    "Block",
    "Constraint",
    "ConstraintError",
    "GroupBound",
    "MeasureBound",
    "MonotoneBound",
    "PerronBound",
    "RowBound",
    "SpectralBound",
    "Within",
    "add_parameters",
    "effective_weights",
    "project_",
    "project_after",
    "require",
]
