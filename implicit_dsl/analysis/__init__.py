"""Proofs about compiled models with the weights that they have: bounds of outputs, radii, dependences."""

from implicit_dsl.analysis.network import NoBound
from implicit_dsl.analysis.outputs import output_bounds

__all__ = ["NoBound", "output_bounds"]
