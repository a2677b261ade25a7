"""What pruning did, as data."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BlockCount:
    """Entries that are not zero in one block of A, B, C or D, before and after."""

    matrix: str
    target: str
    source: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """What `prune_(tolerance)` did to a model.

    `weights` are trained numbers that are not zero, before and after. `dead` states are zero for every input,
    `unobserved` ones have no effect on any output: how many entries of each, by state. `bound` is what is
    proved of |Δy| on the given inputs, by output, the largest of all entries; None if no inputs were given,
    or `why` it is not known. `change` is |Δy| as it was on them.
    """

    model: str
    tolerance: float
    weights: tuple[int, int]
    blocks: tuple[BlockCount, ...]
    dead: dict[str, int] = field(default_factory=dict)
    unobserved: dict[str, int] = field(default_factory=dict)
    bound: dict[str, float] | None = None
    change: dict[str, float] | None = None
    why: str = ""

    @property
    def emptied(self) -> tuple[BlockCount, ...]:
        """The blocks that have no entry left."""
        return tuple(block for block in self.blocks if block.before and not block.after)

    def __str__(self) -> str:
        before, after = self.weights
        lines = [f"{self.model}: {after} of {before} weights are left, those above {self.tolerance:g}"]
        for block in self.blocks:
            if block.before != block.after:
                place = f"{block.matrix}[{block.target}, {block.source}]"
                lines.append(f"  {place:<24} {block.before:>9} -> {block.after} entries")
        for title, held in (("zero for every input", self.dead), ("unobserved", self.unobserved)):
            listed = ", ".join(f"{count} of {name}" for name, count in held.items() if count)
            lines += [f"  {title}: {listed}"] if listed else []
        if self.bound is not None and self.change is not None:
            for name, value in self.bound.items():
                lines.append(f"  |Δ{name}| ≤ {value:.3g} on these inputs, and was {self.change[name]:.3g}")
        elif self.why:
            lines.append(f"  no bound of the outputs: {self.why}")
        return "\n".join(lines)
