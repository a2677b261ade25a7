"""Weights that are too small to matter, made zero: what becomes of matrices, and a bound of the change."""

from implicit_dsl.runtime.pruning.prune import prune_
from implicit_dsl.runtime.pruning.report import BlockCount, Pruned

__all__ = ["BlockCount", "Pruned", "prune_"]
