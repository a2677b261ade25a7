"""Proofs about compiled models with the weights that they have: bounds of outputs, radii, dependences."""

from implicit_dsl.analysis.attacks import Attack, attack
from implicit_dsl.analysis.attributions import Attribution, attribution
from implicit_dsl.analysis.depth import Depth
from implicit_dsl.analysis.influences import Edge, Influence, LoopGain, influence
from implicit_dsl.analysis.jacobians import jacobian
from implicit_dsl.analysis.network import NoBound
from implicit_dsl.analysis.outputs import output_bounds
from implicit_dsl.analysis.paths import Path
from implicit_dsl.analysis.robustness import CertifiedAccuracy, certified_accuracy, certified_radius
from implicit_dsl.analysis.sensitivities import Sensitivity, sensitivity

__all__ = [
    "Attack",
    "Attribution",
    "CertifiedAccuracy",
    "Depth",
    "Edge",
    "Influence",
    "LoopGain",
    "NoBound",
    "Path",
    "Sensitivity",
    "attack",
    "attribution",
    "certified_accuracy",
    "certified_radius",
    "influence",
    "jacobian",
    "output_bounds",
    "sensitivity",
]
