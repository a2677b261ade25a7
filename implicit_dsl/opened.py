"""What a parameter is for that an `open` of the source made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Opened:
    """The block of A, B, C or D that a parameter fills, or one of its factors: where it goes to, and what
    it comes from, as the states, inputs and outputs of the model are called.
    """

    matrix: str
    to: str
    source: str

    @property
    def text(self) -> str:
        """`A[f6, c3]`, as in the source."""
        return f"{self.matrix}[{self.to}, {self.source}]"
