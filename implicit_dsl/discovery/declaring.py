"""The layers and parameters of a program that is written, with what is left of their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.discovery.naming import Naming
from implicit_dsl.discovery.spelling import ARGUMENT

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

_SPARSE = 0.5  # a matrix with at most this share of entries is written by its pattern
_MOST_LISTED = 5_000  # entries of a pattern


class Declarations:
    """`lines` of layers and parameters, and `tensors`, their weights by key. Each name is declared once."""

    def __init__(self, naming: Naming) -> None:
        self._naming = naming
        self._done: set[str] = set()
        self._plain: dict[str, str] = {}  # layers without tensors, and functions
        self.lines: list[str] = []
        self.tensors: dict[str, np.ndarray] = {}

    def layer(self, id: str, made: str, held: Mapping[str, np.ndarray]) -> str:
        """The name of the layer that a tensor is of; `held` are its tensors by role."""
        name = self._naming.tensor(id)
        if self._is_new(name):
            self.lines.append(f"layer {name} = {made}")
            self.tensors.update({f"{name}.{role}": weight for role, weight in held.items()})
        return name

    def scaling(self, id: str, made: str, weight: np.ndarray) -> str:
        """The name of a layer that is one tensor."""
        name = self._naming.tensor(id)
        if self._is_new(name):
            self.lines.append(f"layer {name} = {made}")
            self.tensors[name] = weight
        return name

    def unnamed(self, kind: str, made: str) -> str:
        """The name of a layer without tensors."""
        if made not in self._plain:
            self._plain[made] = name = self._naming.beside(kind)
            self.lines.append(f"layer {name} = {made}")
        return self._plain[made]

    def function(self, wanted: str, made: str, claimed: float | None) -> str:
        """The name of a function of one number, with what its author says of its slope."""
        key = f"{made} <= {claimed}"
        if key not in self._plain:
            self._plain[key] = name = self._naming.beside(wanted)
            self.lines.append(f"{name}({ARGUMENT}) = {made}")
            self.lines += [] if claimed is None else [f"@lipschitz {name} <= {claimed!r}"]
        return self._plain[key]

    def parameter(self, id: str, weight: np.ndarray) -> str:
        name = self._naming.tensor(id)
        if self._is_new(name):
            self._param(name, weight)
        return name

    def matrix(self, id: str, weight: np.ndarray) -> str:
        """A matrix as a parameter, by its pattern if that is sparse."""
        if not is_sparse(weight):
            return self.parameter(id, weight)
        name = self._naming.tensor(id)
        if self._is_new(name):
            rows, columns = np.nonzero(weight)
            places = ", ".join(f"{i + 1} => {j + 1}" for i, j in zip(rows.tolist(), columns.tolist()))
            shape = ", ".join(map(str, weight.shape))
            self.lines.append(f"param {name}[{shape}] in Sparse([{places}])")
            self.tensors[name] = weight[rows, columns]
        return name

    def further(self, wanted: str, value: np.ndarray) -> str:
        """A parameter of its own."""
        name = self._naming.beside(wanted)
        self._param(name, value)
        return name

    def filled(self, shape: Sequence[int], value: float) -> str:
        """A parameter for a value that does not depend on any input."""
        name = self._naming.beside("value")
        self.lines.append(f"param {name}[{', '.join(map(str, shape))}] = constant({value!r})")
        self.tensors[name] = np.full(tuple(shape), value)
        return name

    def shaped(self, shape: Sequence[int]) -> str:
        """A value of which nothing but the shape counts: no module holds it."""
        name = self._naming.beside("shape")
        self.lines.append(f"param {name}[{', '.join(map(str, shape))}]")
        return name

    def _param(self, name: str, weight: np.ndarray) -> None:
        self.lines.append(f"param {name}[{', '.join(map(str, weight.shape))}]")
        self.tensors[name] = weight

    def _is_new(self, name: str) -> bool:
        known = name in self._done
        self._done.add(name)
        return not known


def is_sparse(weight: np.ndarray) -> bool:
    """Whether a matrix has few enough entries for a list of their places."""
    held = int(np.count_nonzero(weight))
    return 0 < held <= min(_SPARSE * weight.size, _MOST_LISTED)
