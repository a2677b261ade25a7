"""The matrix measure (NEMON: Jafarpour et al. 2021): a weighted norm with μ∞(A) < 1.

μ = max aᵢᵢ + Σ_{j≠i} |aᵢⱼ| ηⱼ ÷ ηᵢ. Let Δ be a difference of two x. For slopes dᵢ in [0, 1] and
g(x) = (1 − α) x + α φ(A x + b),

    Δgᵢ = (1 − α + α dᵢ aᵢᵢ) Δᵢ + α dᵢ Σ_{j≠i} aᵢⱼ Δⱼ,

where α ≤ 1 ÷ (1 − min(aᵢᵢ, 0)) makes the first factor non-negative. So |Δgᵢ| ÷ ηᵢ ≤
(1 − α (1 − dᵢ μ)) ‖Δ‖_η, and g contracts with 1 − α (1 − max(μ, 0)): its fixed point is the equilibrium.
A negative diagonal helps here; in |A| it harms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.runtime.certificates.contraction import candidates, perron
from implicit_dsl.runtime.certificates.interval import Interval
from implicit_dsl.runtime.certificates.rounding import UNIT, in_units, upwards

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse
else:
    np = lazy_module("numpy")
    sparse = lazy_module("scipy.sparse")

_LARGEST_DENSE = 1500


@dataclass(frozen=True, slots=True)
class Measure:
    """μ (rounded up) in the norm max |xᵢ| ÷ ηᵢ, α (rounded down) and the rate (rounded up)."""

    vector: np.ndarray
    measure: float
    damping: float
    rate: float


def measure(A: Interval) -> Measure:
    """The least μ that is found; the rate is below 1 if and only if it is."""
    size = A.mid.shape[1]
    diagonal, error = A.mid.diagonal(), A.rad.diagonal()
    above, below = (np.nextafter(diagonal + sign * error, sign * np.inf) for sign in (1, -1))
    others = _without_diagonal(A.magnitude)

    def of(eta: np.ndarray) -> float:
        quotient = upwards(others @ eta, size) / eta
        return float(np.nextafter((above + quotient * (1 + 2 * UNIT)).max(), np.inf))

    # the best η is the Perron vector of A with its other entries by magnitude, made non-negative by c I
    shift = max(0.0, -float(above.min(initial=0.0)))
    starts = candidates(others + np.diag(above)) if size <= _LARGEST_DENSE else ()
    found = perron(lambda v: upwards(others @ v + (above + shift) * v, size + 1), size, starts)
    eta, best = min(((v, of(v)) for v in (found.vector, *starts) if (v > 0).all()), key=lambda pair: pair[1])
    damping = 1 / (1 - min(0.0, float(below.min(initial=0.0)))) * (1 - 4 * UNIT)
    rate = float(np.nextafter(1 - damping * (1 - max(best, 0.0)) * (1 - 4 * UNIT), np.inf))
    return Measure(in_units(eta), best, damping, rate)


def _without_diagonal(M: sparse.csr_array) -> sparse.csr_array | np.ndarray:
    """M with zeros on its diagonal, dense if it is small."""
    if M.shape[1] > _LARGEST_DENSE:
        return M - sparse.diags_array(M.diagonal())
    made = M.toarray()
    np.fill_diagonal(made, 0.0)
    return np.asarray(made)
