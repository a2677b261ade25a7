"""The architecture that is left in trained weights, as a program of its own."""

from implicit_dsl.discovery.program import STEPPED, Discovered, discover, tensors_of
from implicit_dsl.discovery.spelling import CannotWrite

__all__ = ["STEPPED", "CannotWrite", "Discovered", "discover", "tensors_of"]
