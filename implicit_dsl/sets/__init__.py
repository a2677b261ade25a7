"""Sets of matrices, for `param W[n, n] in …`: `linear` says what stands where, `rules` what is written."""

from implicit_dsl.sets.base import MatrixSet, SetError, SetRule
from implicit_dsl.sets.linear import LINEAR, LinearSet
from implicit_dsl.sets.rules import SETS

__all__ = ["LINEAR", "SETS", "LinearSet", "MatrixSet", "SetError", "SetRule"]
