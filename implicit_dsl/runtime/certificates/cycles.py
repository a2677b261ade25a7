"""The strongest cycle of a loop: where its gain comes from.

The gain of a way from one state to another is the largest change of the one that a change of 1 in all
entries of the other can cause, ‖M_ij‖∞. The cycle with the largest geometric mean is found as the one
with the largest mean of logarithms (Karp 1978).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from implicit_dsl._lazy import lazy_module
from implicit_dsl.model import Chain
from implicit_dsl.operators import OPERATORS, linear_rule
from implicit_dsl.operators.base import Operator
from implicit_dsl.shapes import sizes

if TYPE_CHECKING:
    import numpy as np

    from implicit_dsl.runtime.certificates.sweep import Sweep
else:
    np = lazy_module("numpy")


@dataclass(frozen=True, slots=True)
class Way:
    """`target` reads `source` with this gain; `operators` are what the change passes, the first first."""

    source: str
    target: str
    gain: float
    operators: tuple[str, ...]
    tensors: tuple[str, ...]

    def as_data(self) -> dict[str, Any]:
        gain = self.gain if math.isfinite(self.gain) else str(self.gain)
        return {
            "source": self.source,
            "target": self.target,
            "gain": gain,
            "operators": self.operators,
            "tensors": self.tensors,
        }


@dataclass(frozen=True, slots=True)
class Cycle:
    """Ways from a state back to itself."""

    ways: tuple[Way, ...]

    @property
    def gain(self) -> float:
        """The product of the gains."""
        return math.prod(way.gain for way in self.ways)

    @property
    def mean(self) -> float:
        """The geometric mean of the gains."""
        return math.exp(sum(_log(way.gain) for way in self.ways) / len(self.ways))

    def as_data(self) -> dict[str, Any]:
        gain = self.gain if math.isfinite(self.gain) else str(self.gain)
        return {"gain": gain, "ways": [way.as_data() for way in self.ways]}


def strongest_cycle(sweep: Sweep) -> Cycle | None:
    """The cycle of a loop with the largest geometric mean of gains; None if all gains are zero."""
    gains: dict[tuple[str, str], float] = {}
    for name in sweep.loop.states:
        for source in dict.fromkeys(term.source for term in sweep.terms[name]):
            assert source is not None
            ones = np.ones(sizes(sweep.model.blocks[source].shape))
            gain = float(sweep.state(name, {source: ones}).max(initial=0.0))
            if gain > 1e-200:  # less is what outward rounding adds to zero
                gains[source, name] = gain
    names = _largest_mean(sweep.loop.states, {way: _log(gain) for way, gain in gains.items()})
    if names is None:
        return None
    return Cycle(
        tuple(_way(sweep, source, target, gains[source, target]) for source, target in pairwise(names))
    )


def _way(sweep: Sweep, source: str, target: str, gain: float) -> Way:
    chains = [term.chain for term in sweep.terms[target] if term.source == source]
    activation = sweep.model.blocks[target].activation
    listed = [_named(operator) for chain in chains for operator in chain]
    if activation is not None:
        listed.append(_named(activation))
    return Way(source, target, gain, tuple(listed), _tensors(chains))


def _tensors(chains: list[Chain]) -> tuple[str, ...]:
    ids = [op.parameter("weight") for chain in chains for op in chain]
    return tuple(dict.fromkeys(id for id in ids if id is not None))


def _named(operator: Operator) -> str:
    """`Conv(z_conv.weight)`, `scale(0.5)`, `relu`."""
    names = OPERATORS[operator.kind].names
    name, id = names[0] if names else operator.kind, operator.parameter("weight")
    if operator.kind == "scale":
        return f"{operator['factor']:g}"
    if operator.kind in ("matrix", "structured"):
        return f"{id}'" if operator["transposed"] else str(id)
    if id is not None and operator.get("tied", False):
        layer = "Conv" if linear_rule(operator).transposed(operator) else "ConvTranspose"
        return f"{layer}({id})'"
    return name if id is None else f"{name}({id})"


def _log(gain: float) -> float:
    return math.log(min(gain, 1e300)) if gain > 0 else -math.inf


def _largest_mean(nodes: tuple[str, ...], weights: Mapping[tuple[str, str], float]) -> tuple[str, ...] | None:
    """The nodes of a cycle with the largest mean weight, the first one again last; None without cycles.

    D_k(v) is the weight of the heaviest walk of k edges that ends in v. Each node may be the first.
    With n nodes, max_v min_k (D_n(v) − D_k(v)) ÷ (n − k) is the mean, and the walk of n edges to the
    best v holds the cycle.
    """
    heaviest: list[dict[str, float]] = [dict.fromkeys(nodes, 0.0)]
    before: list[dict[str, str]] = [{}]
    for _ in nodes:
        last = heaviest[-1]
        best: dict[str, float] = {}
        came: dict[str, str] = {}
        for (source, target), weight in weights.items():
            if source in last and last[source] + weight > best.get(target, -math.inf):
                best[target], came[target] = last[source] + weight, source
        heaviest.append(best)
        before.append(came)
    size = len(nodes)
    means = {
        node: min((total - heaviest[k][node]) / (size - k) for k in range(size) if node in heaviest[k])
        for node, total in heaviest[size].items()
    }
    if not means:
        return None
    walk = [max(means, key=lambda node: means[node])]
    for k in range(size, 0, -1):
        walk.append(before[k][walk[-1]])
    walk.reverse()
    found: list[tuple[float, tuple[str, ...]]] = []
    seen: list[str] = []
    for node in walk:  # take the walk apart into cycles
        if node in seen:
            at = seen.index(node)
            cycle = (*seen[at:], node)
            total = sum(weights[way] for way in pairwise(cycle))
            found.append((total / (len(cycle) - 1), cycle))
            del seen[at:]
        seen.append(node)
    return max(found)[1]
