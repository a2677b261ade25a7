"""Proofs about compiled models with the weights that they have: bounds of outputs, radii, dependences."""

from implicit_dsl.analysis.attacks import Attack, attack
from implicit_dsl.analysis.network import NoBound
from implicit_dsl.analysis.outputs import output_bounds
from implicit_dsl.analysis.robustness import CertifiedAccuracy, certified_accuracy, certified_radius

__all__ = [
    "Attack",
    "CertifiedAccuracy",
    "NoBound",
    "attack",
    "certified_accuracy",
    "certified_radius",
    "output_bounds",
]
