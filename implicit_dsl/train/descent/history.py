"""What a fit did, sweep by sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Step:
    """The objective of the lifted problem before and after one block was improved."""

    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Sweep:
    """One pass over the blocks (C, D, d), X and (A, B, b), for one weight of the divergences.

    With minibatches, objectives are means over these. `divergence` is the mean F(x, z) of an entry of each
    state; `loss` is the true one, with the states solved for, None where it was not asked for.
    """

    number: int
    weight: float
    outputs: Step
    states: Step
    weights: Step
    divergence: Mapping[str, float]
    loss: float | None
    seconds: float

    @property
    def objective(self) -> float:
        """The objective at its end."""
        return self.weights.after


@dataclass(frozen=True, slots=True)
class History:
    """A fit of a model. Losses are the true ones: of the outputs at states that are solved for.

    `loss_before` is that of the weights that were given, `loss` that of those that were kept: of sweep
    `kept`, with its outputs fitted once more to the solved states; 0 where none was better than the start.
    """

    model: str
    loss_before: float
    loss: float
    kept: int
    seconds: float
    sweeps: tuple[Sweep, ...] = field(default=())

    def table(self) -> str:
        """A line for each sweep: objectives after its blocks, the divergence, the true loss."""
        lines = ["sweep    weight λ    outputs     states    weights   divergence    true loss  seconds"]
        for sweep in self.sweeps:
            divergence = sum(sweep.divergence.values()) / max(1, len(sweep.divergence))
            loss = "" if sweep.loss is None else f"{sweep.loss:.5g}"
            lines.append(
                f"{sweep.number:>5}  {sweep.weight:>10.4g} {sweep.outputs.after:>10.5g} "
                f"{sweep.states.after:>10.5g} {sweep.weights.after:>10.5g}   {divergence:>10.3e}   "
                f"{loss:>10}  {sweep.seconds:>7.3f}"
            )
        kept = f"sweep {self.kept}" if self.kept else "the weights that were given"
        lines.append(f"true loss {self.loss_before:.5g} before, {self.loss:.5g} after; kept: {kept}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def as_data(self) -> dict[str, Any]:
        """The same as plain dictionaries, lists and numbers."""
        made = asdict(self)
        made["sweeps"] = [{**sweep, "divergence": dict(sweep["divergence"])} for sweep in made["sweeps"]]
        return made


__all__ = ["History", "Step", "Sweep"]
