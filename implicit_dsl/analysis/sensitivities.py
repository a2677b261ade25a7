"""How far outputs can move with inputs, whatever these are: the sensitivity matrix S.

    |y − y'| ≤ S |u − u'|  for all inputs,   S = |C| (I − K |A|)⁻¹ K |B| + |D|

with the majorant K of the activations, the identity for slopes up to 1 (El Ghaoui et al. 2021).
For activations whose majorant M is not linear, as maxima, column j of S is |C| δ + |D| e_j with the least δ
that has M(|A| δ + |B| e_j) ≤ δ: by subadditivity these columns add up. All is proved, and rounded up.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from torch import nn

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis.systems import Shapes, system_of
from implicit_dsl.matrices import TooLarge
from implicit_dsl.model import Block
from implicit_dsl.runtime.certificates.majorants import magnitudes, product
from implicit_dsl.runtime.certificates.rounding import growth, upwards
from implicit_dsl.runtime.certificates.spreading import Spread
from implicit_dsl.runtime.system import System
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse
else:
    np = lazy_module("numpy")
    sparse = lazy_module("scipy.sparse")

Over: TypeAlias = Literal["sum", "max"]
Index: TypeAlias = int | tuple[int, ...]
MOST_ENTRIES = 50_000_000  # of S, and of rows asked for at once
_KEPT = 16_000_000  # numbers of the changes of all states with all inputs
_CHUNK = 1 << 23  # numbers held at once


class Sensitivity:
    """|y − y'| ≤ S |u − u'| for all inputs of a system, proved for its weights in exact arithmetic.

    Nothing dense is made but what is asked for. Outputs and inputs are counted as in the system: the blocks
    one after another, entries of a block in the order of its rows. Tokens are unit vectors.
    """

    def __init__(self, system: System) -> None:
        """Raises NoBound (a ValueError) for a loop that is not proved to contract, and where an activation
        has no bounded slope; the text names it.
        """
        self.system, self._spread = system, Spread(system)
        self._C, self._D = magnitudes(system, "C"), magnitudes(system, "D")
        self._inputs, self._outputs = system.partition("inputs"), system.partition("outputs")

    @property
    def shape(self) -> tuple[int, int]:
        """The number of outputs and of inputs."""
        return self._outputs.total, self._inputs.total

    @property
    def is_linear(self) -> bool:
        """Whether the majorant is linear: then a row is had by one solve, and otherwise from all columns."""
        return self._spread.is_linear

    @cached_property
    def matrix(self) -> np.ndarray:
        """S [outputs, inputs]. Raises TooLarge (a ValueError) if it has too many entries to be made."""
        self._refuse_large(self.shape[0])
        if self.is_linear and self.shape[1] <= self.shape[0]:
            return self._from_columns(self._C, self._D)
        return self._from_magnitudes(self._C, self._D)

    def rows(self, combinations: np.ndarray) -> np.ndarray:
        """A bound [k, inputs] for linear combinations P y of outputs, P [k, outputs]: |P Δy| ≤ rows |Δu|.

        The rows of P C and P D are added up before |·|, so that it is less than |P| S: take e_c − e_j for
        the difference of two classes. Raises ValueError for another shape and for NaN, TooLarge for too many.
        """
        P = np.asarray(combinations, np.float64)
        if P.ndim != 2 or P.shape[1] != self.shape[0]:
            raise ValueError(
                f"combinations of outputs are [k, {self.shape[0]}] here, and {list(P.shape)} was given"
            )
        if not np.isfinite(P).all():
            raise ValueError("a combination of outputs holds a value that is not finite")
        self._refuse_large(len(P))
        return self._from_magnitudes(*(self._combined(P, name) for name in ("C", "D")))

    def row(self, output: str, index: Index = 0) -> dict[str, np.ndarray]:
        """How much each entry of each input can move one entry of an output, in the shapes of the inputs.

        Raises KeyError if there is no such output, IndexError for an index out of its shape.
        """
        at = self._place(self.system.outputs, output, index)
        return self._by_input(self._from_magnitudes(self._C[[at]], self._D[[at]])[0])

    def between(self, output: str, input: str) -> np.ndarray:
        """The block of S of an output and an input, [*output, *input]. Raises KeyError for unknown names."""
        rows, columns = self._outputs[output], self._inputs[input]
        target, source = _named(self.system.outputs, output), _named(self.system.inputs, input)
        if "matrix" in self.__dict__:
            found = self.matrix[rows, columns]
        else:
            self._refuse_large(count(target.shape))
            found = self._from_magnitudes(self._C[rows], self._D[rows])[:, columns]
        return found.reshape(*sizes(target.shape), *sizes(source.shape))

    def inputs(self, over: Over = "sum") -> dict[str, np.ndarray]:
        """How much each entry of each input can move the outputs: the sum over all, or the largest."""
        _check_over(over)
        if over == "sum" and self.is_linear and "matrix" not in self.__dict__:
            return self._by_input(self._from_magnitudes(*map(_total, (self._C, self._D)))[0])
        return self._by_input(_taken(self.matrix, over))

    def states(self, over: Over = "sum") -> dict[str, np.ndarray]:
        """How much a change of each entry of each state alone can move the outputs: |C| (I − K |A|)⁻¹.

        The sum over all outputs, or the largest. What maxima choose from is added up, for once. Raises
        NoBound for an activation with too many slots for that.
        """
        _check_over(over)
        if over == "max":
            self._refuse_large(self.shape[0])
        pulled = _total(self._C) if over == "sum" else self._C
        found = np.zeros(self._spread.states.total)
        step = max(1, _CHUNK // max(1, self._spread.slots.total))
        for at in range(0, pulled.shape[0], step):
            t, _ = self._spread.backward(pulled[at : at + step].toarray().T)
            found = np.maximum(found, t.max(1, initial=0.0))
        parts = self._spread.states
        return {
            block.name: found[parts[block.name]].reshape(sizes(block.shape))
            for block in self.system.model.states
        }

    def moved(self, *changes: np.ndarray | float) -> dict[str, np.ndarray]:
        """How far each output can move if each input moves by no more than `changes`, by name.

        One for each input: a number, or an array of its shape. No more than S times the changes.
        """
        delta, given = self._delta(changes)
        made = product(self._C, delta, product(self._D, given))[:, 0]
        return {
            block.name: made[self._outputs[block.name]].reshape(sizes(block.shape))
            for block in self.system.outputs
        }

    def states_moved(self, *changes: np.ndarray | float) -> dict[str, np.ndarray]:
        """The same for the states: (I − K |A|)⁻¹ K |B| times the changes."""
        delta, _ = self._delta(changes)
        parts = self._spread.states
        return {
            block.name: delta[parts[block.name], 0].reshape(sizes(block.shape))
            for block in self.system.model.states
        }

    def state_row(self, state: str, index: Index = 0) -> dict[str, np.ndarray]:
        """How much each entry of each input can move one entry of a state, as `row` does for outputs."""
        at = self._spread.states[state].start + _flat(_named(self.system.states, state), index)
        unit = sparse.csr_array(([1.0], ([0], [at])), shape=(1, self._spread.states.total))
        return self._by_input(self._from_magnitudes(unit, sparse.csr_array((1, self.shape[1])))[0])

    def rates(self) -> tuple[tuple[str, float], ...]:
        """For each loop its states and a factor by which changes shrink each time round, at the slowest."""
        parts = (part for part in self._spread.parts if part.loop is not None)
        return tuple((", ".join(m.block.name for m in part.majorants), part.rate) for part in parts)

    def __str__(self) -> str:
        """A table: how far outputs move if one input moves by 1 in each entry, and what moves them most."""
        return describe(self)

    def __repr__(self) -> str:
        return f"<Sensitivity of {self.system.model.name}: S [{self.shape[0]} × {self.shape[1]}]>"

    def _delta(self, changes: tuple[np.ndarray | float, ...]) -> tuple[np.ndarray, np.ndarray]:
        blocks = self.system.inputs
        if len(changes) != len(blocks):
            names = ", ".join(f"`{block.name}`" for block in blocks)
            raise ValueError(
                f"there are {len(blocks)} inputs, {names}, and {len(changes)} changes were given"
            )
        made = []
        for block, change in zip(blocks, changes):
            given = np.asarray(change, np.float64)
            if given.ndim and given.shape != sizes(block.shape):
                raise ValueError(
                    f"a change of `{block.name}` has shape {list(sizes(block.shape))}, "
                    f"and {list(given.shape)} was given"
                )
            if not (np.isfinite(given).all() and (given >= 0).all()):
                raise ValueError(f"a change of `{block.name}` is a number of at least 0")
            made.append(np.broadcast_to(given, sizes(block.shape)).reshape(-1))
        flat = np.concatenate(made)[:, None]
        return self._spread.forward(product(self._spread.B, flat)), flat

    def _from_magnitudes(self, P: sparse.csr_array, Q: sparse.csr_array) -> np.ndarray:
        """P (I − K |A|)⁻¹ K |B| + Q [k, inputs], for P [k, states] and Q [k, inputs] ≥ 0."""
        if not self.is_linear:
            return self._from_columns(P, Q)
        made, step = np.empty((P.shape[0], self.shape[1])), max(1, _CHUNK // max(1, self._spread.slots.total))
        B_t = self._spread.B.T.tocsr()
        for at in range(0, len(made), step):
            here = slice(at, at + step)
            _, w = self._spread.backward(P[here].toarray().T)
            made[here] = product(B_t, w, Q[here].toarray().T).T
        return made

    def _from_columns(self, P: sparse.csr_array, Q: sparse.csr_array) -> np.ndarray:
        """The same, column by column."""
        made, step = np.empty((P.shape[0], self.shape[1])), max(1, _CHUNK // max(1, self._spread.slots.total))
        for at in range(0, self.shape[1], step):
            here = slice(at, at + step)
            delta = self._kept[:, here] if self._kept is not None else self._column(here)
            made[:, here] = product(P, delta, Q[:, here].toarray())
        return made

    @cached_property
    def _kept(self) -> np.ndarray | None:
        """The changes of all states with each input, if they are few enough to be kept."""
        states, inputs = self._spread.states.total, self.shape[1]
        if states * inputs > _KEPT:
            return None
        step = max(1, _CHUNK // max(1, self._spread.slots.total))
        parts = [self._column(slice(at, at + step)) for at in range(0, inputs, step)]
        return np.concatenate(parts, 1) if parts else np.zeros((states, 0))

    def _column(self, here: slice) -> np.ndarray:
        return self._spread.forward(self._spread.B[:, here].toarray())

    def _combined(self, P: np.ndarray, matrix: str) -> sparse.csr_array:
        """|P M| for M one of C and D, no less than it is in exact arithmetic."""
        size = self._C if matrix == "C" else self._D
        signed = getattr(self.system, matrix).to_scipy()
        inexact = 2 * (size - abs(signed)) + growth(P.shape[1]) * size  # of entries, and of their sums
        made, error = np.abs(P @ signed), np.abs(P) @ inexact
        return sparse.csr_array(np.where(error == 0, 0.0, upwards(made + error, P.shape[1])))

    def _by_input(self, row: np.ndarray) -> dict[str, np.ndarray]:
        return {
            block.name: row[self._inputs[block.name]].reshape(sizes(block.shape))
            for block in self.system.inputs
        }

    def _place(self, blocks: tuple[Block, ...], name: str, index: Index) -> int:
        block = _named(blocks, name)
        return int(self._outputs[name].start) + _flat(block, index)

    def _refuse_large(self, rows: int) -> None:
        if rows * self.shape[1] > MOST_ENTRIES:
            raise TooLarge(
                f"S would have {rows} × {self.shape[1]} entries here, more than {MOST_ENTRIES}: take single "
                "rows, `row(output, index)` or `rows(combinations)`, or bounds of changes, `moved(…)`"
            )


def sensitivity(
    model: nn.Module | System, *, shapes: Shapes | None = None, length: int | None = None
) -> Sensitivity:
    """How far the outputs of a compiled model with its weights can move with its inputs, for all inputs.

    `shapes` are those of inputs with free sizes, without batch, as `{"u": (7, 3)}`; `length` is the number of
    steps of sequences. Or a `System` (`model.system()`). It is about the evaluation mode.

    Raises NoBound (a ValueError) where nothing bounds a loop or an activation, with what to do about it;
    ValueError for sizes that are not given or do not fit, TypeError if the model is not a compiled one.
    """
    return Sensitivity(system_of(model, shapes, length))


def describe(found: Sensitivity) -> str:
    """The table of `str(sensitivity(model))`."""
    outputs, inputs = found.shape
    lines = [
        f"{found.system.model.name}: |y − y'| ≤ S |u − u'| for all inputs, proved; S [{outputs} × {inputs}]",
        "",
        "  output        input         moved at most, if all entries move by 1   on average",
    ]
    blocks = found.system.inputs
    for source in blocks:
        changes = [float(block is source) for block in blocks]
        for name, values in found.moved(*changes).items():
            shown = f"{values.max(initial=0.0):.4g}", f"{values.mean() if values.size else 0.0:.4g}"
            lines.append(f"  {name:<12}  {source.name:<12}  {shown[0]:<42} {shown[1]}")
    for loop, root in found.rates():
        lines.append(
            f"  the loop {{{loop}}} contracts: changes shrink by {root:.4g} each time round, at least"
        )
    return "\n".join(lines)


def _check_over(over: str) -> None:
    if over not in get_args(Over):
        raise ValueError(f'over is "sum" or "max", and "{over}" was given')


def _taken(S: np.ndarray, over: Over) -> np.ndarray:
    """Over the outputs [inputs]."""
    return np.asarray(upwards(S.sum(0), len(S)) if over == "sum" else S.max(0, initial=0.0))


def _total(M: sparse.csr_array) -> sparse.csr_array:
    """The sum of its rows, rounded up, as a matrix of one row."""
    return sparse.csr_array(product(M.T.tocsr(), np.ones((M.shape[0], 1))).T)


def _named(blocks: tuple[Block, ...], name: str) -> Block:
    """The block of that name. Raises KeyError if there is none."""
    found = next((block for block in blocks if block.name == name), None)
    if found is None:
        listed = ", ".join(f"`{block.name}`" for block in blocks) or "none"
        raise KeyError(f"there is no `{name}` here; there are {listed}")
    return found


def _flat(block: Block, index: Index) -> int:
    """The number of an entry. An int counts entries row by row. Raises IndexError if there is none such."""
    shape = sizes(block.shape)
    if isinstance(index, int):
        if not 0 <= index < count(shape):
            raise IndexError(f"`{block.name}` has {count(shape)} entries, from 0, and {index} was asked for")
        return index
    if len(index) != len(shape) or not all(0 <= i < size for i, size in zip(index, shape)):
        raise IndexError(f"`{block.name}` has shape {list(shape)}, and {list(index)} was asked for")
    return int(np.ravel_multi_index(index, shape)) if shape else 0


__all__ = ["Index", "Over", "Sensitivity", "sensitivity"]
