"""Proofs that loops are well posed with the weights that they have: rules, majorants, exact arithmetic."""

from implicit_dsl.runtime.certificates.cycles import Cycle, Way
from implicit_dsl.runtime.certificates.prove import certify, certify_system, same_in_all_steps
from implicit_dsl.runtime.certificates.rescaling import CannotRescale, Rescaled, rescaled
from implicit_dsl.runtime.certificates.result import (
    Attempt,
    Certificate,
    LoopCertificate,
    Proof,
    Rule,
    Verdict,
)
from implicit_dsl.runtime.certificates.roots import PerronBounds, perron_bounds

__all__ = [
    "Attempt",
    "CannotRescale",
    "Certificate",
    "Cycle",
    "LoopCertificate",
    "PerronBounds",
    "Proof",
    "Rescaled",
    "Rule",
    "Verdict",
    "Way",
    "certify",
    "certify_system",
    "perron_bounds",
    "rescaled",
    "same_in_all_steps",
]
