"""S = |C| (I − K|A|)⁻¹ K|B| + |D| as a differentiable function of what is trained.

|y − y'| ≤ S |u − u'| for all inputs, if |φ(v) − φ(w)| ≤ K |v − w|: then
|x − x'| ≤ K (|A||x − x'| + |B||u − u'|), and (I − K|A|)⁻¹ is Σ (K|A|)ᵗ ≥ 0 where the Perron root of K|A| is
below 1 (El Ghaoui et al. 2021; Jafarpour et al. 2022). Without loops S is a product of absolute values.

Measures that are sums over rows or columns take one solve; others one for each output, or for each input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from implicit_dsl._lazy import lazy_module
from implicit_dsl.demands import GroupAxis, MeasureName, SystemPart
from implicit_dsl.majorants import majorant_matrix
from implicit_dsl.matrices import Layout, Partition, partition
from implicit_dsl.model import ImplicitModel
from implicit_dsl.runtime.measures.assembled import cells_of_layout
from implicit_dsl.runtime.measures.cells import Cells
from implicit_dsl.runtime.measures.resolvent import Engine, Places, engine_of, product, resolvent
from implicit_dsl.runtime.measures.values import MOST_CELLS, of_groups, of_matrix
from implicit_dsl.unroll import unrolled

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse
else:
    np = lazy_module("numpy")
    sparse = lazy_module("scipy.sparse")

_SHOWN = 3  # loops that a message names
_NEAR_ONE = 1 - 1e-9  # Perron roots that it names, beside the largest
_LARGEST_ROOT = 1_500  # states of a loop whose Perron root a message tells


class NoSensitivity(ValueError):  # noqa: N818 (it is what was found, not a fault of the program)
    """S is not finite for these weights; the text says why, and what to do."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """One of A, B, C, D: its entries as linear functions of trained numbers, and where they stand."""

    cells: Cells
    places: Places

    @staticmethod
    def of(layout: Layout) -> Matrix:
        """Those of a layout. Raises ValueError if there are too many entries."""
        entries = layout.entry_count()
        if entries > MOST_CELLS:
            raise ValueError(
                f"{layout.matrix} has {entries} entries, too many for a penalty on S (at most {MOST_CELLS}): "
                "measure layers by their names"
            )
        cells = cells_of_layout(layout)
        return Matrix(cells, Places(cells.rows, cells.columns, cells.shape))

    def sizes(self, numbers: Mapping[str, Tensor]) -> Tensor:
        """|M| at its places [entries]."""
        return self.cells.values(numbers).abs()

    def on(self, like: Tensor) -> Matrix:
        return replace(self, places=self.places.to(like))


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """S of some outputs and inputs of a model. `K` [states, slots] is the majorant of the activations."""

    A: Matrix
    B: Matrix
    C: Matrix
    D: Matrix
    K: sparse.csr_array
    states: Partition
    outputs: Partition
    inputs: Partition
    loops: tuple[tuple[str, ...], ...]

    @staticmethod
    def of(structure: Mapping[str, Any], part: SystemPart) -> Sensitivity:
        """The rows and columns that a part names, of a model without free sizes.

        Raises ValueError for a matrix that is too large.
        """
        model = unrolled(ImplicitModel.from_data(structure).bind({}, None))
        rows, columns = ({pair[side] for pair in part.blocks} for side in (0, 1))
        outputs, inputs = (
            Partition.of((name, size) for name, size in zip(whole.names, whole.sizes) if name in chosen)
            for whole, chosen in ((partition(model, "outputs"), rows), (partition(model, "inputs"), columns))
        )
        A, B, C, D = (Layout.of(model, name, "lower") for name in "ABCD")
        return Sensitivity(
            Matrix.of(A),
            Matrix.of(replace(B, cols=inputs)),
            Matrix.of(replace(C, rows=outputs)),
            Matrix.of(replace(D, rows=outputs, cols=inputs)),
            _majorant(model),
            partition(model, "states", "lower"),
            outputs,
            inputs,
            tuple(loop.states for loop in model.loops),
        )

    def measure(
        self, name: MeasureName, axis: GroupAxis, numbers: Mapping[str, Tensor], asked: str = "S"
    ) -> Tensor:
        """A measure of S [], differentiable, from numbers by id; computed in float64, in their dtype.

        `asked` is what a message calls it. Raises NoSensitivity where no bound of the changes exists,
        ValueError where S itself is to be made and has too many entries.
        """
        like = next(iter(numbers.values()))
        wide = {id: number.double() for id, number in numbers.items()}
        solver = _Solver.of(self, wide, asked)
        if name in ("l1", "largest_row"):
            sums = solver.times(next(iter(wide.values())).new_ones(self.inputs.total, 1))[:, 0]
            return (sums.sum() if name == "l1" else sums.amax()).to(like.dtype)
        if name == "largest_column":
            sums = solver.transposed_times(next(iter(wide.values())).new_ones(self.outputs.total, 1))[:, 0]
            return sums.amax().to(like.dtype)
        S = solver.matrix(asked)
        return self._of_entries(name, axis, S).to(like.dtype)

    def _of_entries(self, name: MeasureName, axis: GroupAxis, S: Tensor) -> Tensor:
        if name == "linf" and axis == "rows":
            return S.amax(1).sum()
        if name == "linf" and axis == "columns":
            return S.amax(0).sum()
        if name == "linf" and axis == "blocks":
            rows, columns = self.outputs, self.inputs
            parts = [S[rows[row], columns[column]].amax() for row in rows.names for column in columns.names]
            return torch.stack(parts).sum()
        if name in ("linf", "l2", "squares"):
            return of_groups(name, S.flatten()[None])
        return of_matrix(name, S)


@dataclass(frozen=True, eq=False)
class _Solver:
    """S with the numbers that it has now: |A|, |B|, |C|, |D| at their places."""

    of_model: Sensitivity
    A: Matrix
    B: Matrix
    C: Matrix
    D: Matrix
    sizes: dict[str, Tensor]
    engine: Engine
    K: Tensor

    @staticmethod
    def of(model: Sensitivity, numbers: Mapping[str, Tensor], asked: str) -> _Solver:
        like = next(iter(numbers.values()))
        A, B, C, D = (matrix.on(like) for matrix in (model.A, model.B, model.C, model.D))
        sizes = {
            name: matrix.sizes(numbers) for name, matrix in zip("ABCD", (model.A, model.B, model.C, model.D))
        }
        if not all(bool(size.isfinite().all()) for size in sizes.values()):
            raise NoSensitivity(f"{asked} has no value: there are weights that are not finite numbers")
        engine = engine_of(sizes["A"], A.places, model.K)
        if engine.vector is None:
            raise NoSensitivity(_no_inverse(model, sizes["A"].detach(), asked))
        coo = model.K.tocoo()
        places = Places(torch.from_numpy(coo.row).long(), torch.from_numpy(coo.col).long(), coo.shape)
        K = places.to(like).sparse(torch.from_numpy(coo.data).to(like)).coalesce()
        return _Solver(model, A, B, C, D, sizes, engine, K)

    def times(self, x: Tensor) -> Tensor:
        """S x [outputs, k] for x [inputs, k]."""
        given = torch.sparse.mm(self.K, product(self.sizes["B"], x, self.B.places))
        states = resolvent(self.sizes["A"], given, self.engine, self.K, self.A.places)
        return product(self.sizes["C"], states, self.C.places) + product(self.sizes["D"], x, self.D.places)

    def transposed_times(self, y: Tensor) -> Tensor:
        """Sᵀ y [inputs, k] for y [outputs, k]."""
        given = product(self.sizes["C"], y, self.C.places, turned=True)
        states = resolvent(self.sizes["A"], given, self.engine, self.K, self.A.places, turned=True)
        through = product(self.sizes["B"], torch.sparse.mm(self.K.t(), states), self.B.places, turned=True)
        return through + product(self.sizes["D"], y, self.D.places, turned=True)

    def matrix(self, asked: str) -> Tensor:
        """S [outputs, inputs], from the side that has fewer."""
        rows, columns = self.of_model.outputs.total, self.of_model.inputs.total
        fewer = min(rows, columns)
        most = max(rows, columns, self.A.places.shape[0])
        if fewer * most > MOST_CELLS:
            raise ValueError(
                f"{asked} needs {fewer} × {most} numbers at once, of at most {MOST_CELLS}: measure sums, "
                "`norm(system.S, Inf)` or `entries(system.S)`, which need one vector, or a part: `S[y, u]`"
            )
        like = self.sizes["C"]
        if columns < rows:
            return self.times(torch.eye(columns, dtype=like.dtype, device=like.device))
        return self.transposed_times(torch.eye(rows, dtype=like.dtype, device=like.device)).T


def _majorant(model: ImplicitModel) -> sparse.csr_array:
    """K [states, slots], block by block, in the order in which states are computed."""
    slots, states = (partition(model, axis, "lower") for axis in ("slots", "states"))
    rows, columns, values = [], [], []
    for block in model.states:
        here, there = states[block.name], slots[block.name]
        if block.activation is None:
            size = here.stop - here.start
            found = np.arange(size), np.arange(size), np.ones(size)
        else:
            found = majorant_matrix(block.activation)
            if not np.isfinite(found[2]).all():
                raise NoSensitivity(
                    f"S is infinite: {block.phi} of `{block.name}` may enlarge changes without bound"
                )
        rows.append(found[0] + here.start)
        columns.append(found[1] + there.start)
        values.append(found[2])
    shape = (states.total, slots.total)
    if not rows:
        return sparse.csr_array(shape)
    triplets = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_array(triplets, shape=shape)


def _no_inverse(model: Sensitivity, sizes: Tensor, asked: str) -> str:
    """Why (I − K|A|)⁻¹ is not positive, and what to do."""
    places = model.A.places
    triplets = (sizes.cpu().numpy(), (places.rows.numpy(), places.columns.numpy()))
    P = (model.K @ sparse.csr_array(triplets, shape=places.shape)).tocsr()
    found = []
    for states in model.loops:
        at = np.concatenate([np.arange(*model.states[name].indices(model.states.total)) for name in states])
        if len(at) <= _LARGEST_ROOT:
            root = float(np.abs(np.linalg.eigvals(P[at][:, at].toarray())).max(initial=0.0))
            found.append((root, states))
    found.sort(reverse=True)
    shown = [(root, states) for root, states in found if root > _NEAR_ONE][:_SHOWN] or found[:1]
    named = [f"that of `{states[0]}`, {root:.6g}" for root, states in shown]
    where = ", ".join(named) or "of its loops, which are too large to tell which"
    return (
        f"{asked} has no value: S = |C|(I − M|A|)⁻¹M|B| + |D| needs loops in which changes die out, and the "
        f"Perron root of M|A| is not below 1, or not by enough to compute S ({where}). Bound them, by "
        "`@wellposed norm(A, Inf) <= 0.95` or `@wellposed spectral(abs(A)) <= 0.95`, and call "
        "`model.project_()` before `penalty()` and after each step of the optimiser"
    )


__all__ = ["NoSensitivity", "Sensitivity"]
