"""Units of states: of positively homogeneous ones they are free, and are chosen anew in each sweep.

x → x / s, rows of [A B b] by 1 / s, columns of [A; C] by s leave z = A x + B u + b and y what they were, in
other units, and let the divergence shrink with x (F is homogeneous of degree 2). With a root mean square of 1
the weight λ has a meaning, and so have penalties on B.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from implicit_dsl.train.descent.lifted import Lifted
from implicit_dsl.train.descent.links import Matrix, Weights

_STILL = 1e-3  # a state that is smaller keeps its unit


@dataclass(frozen=True, eq=False)
class Gauge:
    """The states whose units may be changed: all that reads and makes them are full matrices of their own."""

    lifted: Lifted
    names: tuple[str, ...]

    @staticmethod
    def of(lifted: Lifted) -> Gauge:
        """The gauge of a model; it may be of no state."""
        uses: dict[str, int] = {}
        for row in (*lifted.rows.values(), *lifted.outputs.values()):
            for part in (*(link.matrix for link in row.links), row.offset):
                for id in () if part is None else part.ids:
                    uses[id] = uses.get(id, 0) + 1
            for link in row.links:
                for id in link.ids if link.matrix is None else ():
                    uses[id] = 2

        def own(matrix: Matrix | None) -> bool:
            return matrix is not None and matrix.free and _own(matrix.ids)

        def _own(ids: tuple[str, ...]) -> bool:
            return all(uses[id] == 1 and id in lifted.trained for id in ids)

        def is_free(name: str) -> bool:
            row = lifted.rows[name]
            return (
                lifted.activations[name].homogeneous
                and row.free
                and _own(row.ids)
                and bool(lifted.readers[name])
                and all(
                    own(link.matrix)
                    for reader in lifted.readers[name]
                    for link in reader.links
                    if link.source == name
                )
            )

        return Gauge(lifted, tuple(name for name in lifted.rows if is_free(name)))

    def unit(self, weights: Weights, states: Weights) -> tuple[Weights, Weights]:
        """The same model in units in which these states have a root mean square of 1."""
        weights, states = dict(weights), dict(states)
        for name in self.names:
            x = states[name]
            scale = x.square().mean(0).sqrt()
            scale = torch.where(scale < _STILL, 1.0, scale)
            states[name] = x / scale
            row = self.lifted.rows[name]
            for matrix in (*(link.matrix for link in row.links), row.offset):
                if matrix is not None and matrix.places:
                    _scale(weights, matrix, 1 / scale[:, None])
            for reader in self.lifted.readers[name]:
                for link in reader.links:
                    if link.source == name and link.matrix is not None:
                        _scale(weights, link.matrix, scale)
        return weights, states


def _scale(weights: dict[str, Tensor], matrix: Matrix, factor: Tensor) -> None:
    found: dict[str, Tensor] = {}
    matrix.collect(matrix.at(weights) * factor, found)
    for id, flat in found.items():
        weights[id] = flat.reshape(weights[id].shape)


__all__ = ["Gauge"]
