"""The effective depth of a trained model: how much of its sensitivity comes from paths of which length.

S = |D| + Σ_k |C| (K |A|)^{k−1} K |B|, where the k-th term has all paths through k states. Weighed by the sums
of their entries, k has a mean: the depth that the weights make use of, whatever the program has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.runtime.certificates.majorants import magnitudes, product
from implicit_dsl.runtime.certificates.spreading import Spread

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

_NEGLIGIBLE = 1e-9  # of all, which longer paths have together, before they are left out
_MOST = 1 << 16  # states on a path
_LOOKS = frozenset(1 << k for k in range(3, 17))  # lengths at which what is left is computed
_BARS, _ROWS = 40, 12


@dataclass(frozen=True, slots=True, eq=False)
class Depth:
    """`shares[k]` of the sensitivity come from paths through k states (k = 0: from D). They add up to 1.

    `mean` is the effective depth. Paths that are left out, as those that go round a loop very often, have
    `rest` of it together, about.
    """

    shares: np.ndarray
    rest: float = 0.0

    @property
    def mean(self) -> float:
        """Σ k · share."""
        return float(np.arange(len(self.shares)) @ self.shares)

    def quantile(self, share: float) -> int:
        """The least length up to which paths have `share` of the sensitivity."""
        return int(np.searchsorted(np.cumsum(self.shares), share * (1 - 1e-12)))

    def __str__(self) -> str:
        lines = [
            f"effective depth {self.mean:.3g}: half of the sensitivity comes from paths through up to "
            f"{self.quantile(0.5)} states, 95 % through up to {self.quantile(0.95)}"
        ]
        groups = _grouped(self.shares)
        most = max((share for _, share in groups), default=0.0)
        for name, share in groups:
            bar = "█" * round(_BARS * share / most) if most else ""
            lines.append(f"  {name:>9}  {100 * share:5.1f} %  {bar}".rstrip())
        return "\n".join(lines)


def depth_of(spread: Spread) -> Depth:
    """That of a system whose loops are proved to contract.

    For maxima, the terms are those of changes of all inputs at once.
    """
    system = spread.system
    C = magnitudes(system, "C").sum(0)
    sums, rest = [float(magnitudes(system, "D").sum())], 0.0
    moved = spread.swept(spread.B.sum(1)[:, None])
    while moved.any() and len(sums) < _MOST:
        sums.append(float(C @ moved[:, 0]))
        slots = product(spread.A, moved)
        if len(sums) in _LOOKS:
            rest = float(C @ spread.forward(slots)[:, 0])
            if rest <= _NEGLIGIBLE * sum(sums):
                break
        moved, rest = spread.swept(slots), 0.0
    total = sum(sums)
    if not total > 0:
        return Depth(np.array([1.0]))
    return Depth(np.trim_zeros(np.array(sums) / total, "b"), rest / total)


def _grouped(shares: np.ndarray) -> list[tuple[str, float]]:
    """Lengths and what they have, several lengths in a row together where there are many."""
    used = np.flatnonzero(shares >= 5e-4)
    if not len(used):
        return []
    first, last = int(used[0]), int(used[-1])
    step = -(-(last - first + 1) // _ROWS)
    made = []
    for at in range(first, last + 1, step):
        end = min(at + step - 1, last)
        name = f"{at}" if end == at else f"{at}…{end}"
        made.append((name, float(shares[at : end + 1].sum())))
    return made


__all__ = ["Depth", "depth_of"]
