"""The implicit model of a module with its current weights: matrices, and a reference solution.

x = φ(A x + B u + b),    y = C x + D u + d
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from implicit_dsl._lazy import lazy_module
from implicit_dsl.matrices import ENTRY_LIMIT, Layout, Order, Partition, Tie, partition
from implicit_dsl.model import Block, ImplicitModel
from implicit_dsl.operators.structured import numbers_of, set_of
from implicit_dsl.runtime.archive import save_market, save_npz
from implicit_dsl.runtime.block_operator import BlockOperator
from implicit_dsl.runtime.reference import solve_adjoint, solve_states
from implicit_dsl.runtime.sharding import whole
from implicit_dsl.shapes import sizes
from implicit_dsl.unroll import unrolled

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse
else:
    np = lazy_module("numpy")

Tensors: TypeAlias = torch.Tensor | tuple[torch.Tensor, ...]


class System:
    """x = φ(A x + B u + b), y = C x + D u + d in float64, with the weights that a module had.

    The weights are copies, cast up exactly: training the module afterwards does not change
    the system. It describes the evaluation mode (fixed statistics, no dropout). States stand
    last first (`order="upper"`), or first first ("lower").
    """

    def __init__(
        self,
        model: ImplicitModel,
        weights: Mapping[str, np.ndarray],
        order: Order = "upper",
        limit: int = ENTRY_LIMIT,
        result: Callable[..., Tensors] | None = None,
    ) -> None:
        """For a model without free sizes and float64 tensors by id. `limit`: entries made at most.

        `result` makes of several outputs what `forward` gives, by default a tuple.
        """
        self.model, self.weights, self.order, self.limit = model, weights, order, limit
        self.result = result

    @staticmethod
    def of(
        module: nn.Module,
        structure: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        order: Order = "upper",
        limit: int = ENTRY_LIMIT,
        result: Callable[..., Tensors] | None = None,
        length: int | None = None,
    ) -> System:
        """The system of a module whose structure is `ImplicitModel.as_data()`.

        `shapes` are those of the inputs, without batch; inputs with free sizes need one, or the `length` of
        sequences.
        Raises ValueError if a shape does not fit, or if the state_dict lacks a tensor or
        has it in another shape.
        """
        model = unrolled(ImplicitModel.from_data(structure).bind(shapes or {}, length))
        return System(model, _weights(module, model), order, limit, result)

    @cached_property
    def A(self) -> BlockOperator:
        """From states to slots."""
        return self._operator("A")

    @cached_property
    def B(self) -> BlockOperator:
        """From inputs to slots."""
        return self._operator("B")

    @cached_property
    def C(self) -> BlockOperator:
        """From states to outputs."""
        return self._operator("C")

    @cached_property
    def D(self) -> BlockOperator:
        """From inputs to outputs."""
        return self._operator("D")

    @cached_property
    def b(self) -> np.ndarray:
        """The offset of the pre-activation [slots], float64."""
        return self._offset("b")

    @cached_property
    def d(self) -> np.ndarray:
        """The offset of the outputs [outputs], float64."""
        return self._offset("d")

    def _operator(self, matrix: str) -> BlockOperator:
        return BlockOperator(Layout.of(self.model, matrix, self.order), self.weights, self.limit)

    def _offset(self, matrix: str) -> np.ndarray:
        made = Layout.of(self.model, matrix, self.order).triplets(self.weights, self.limit)
        return np.bincount(made.rows, made.values, made.row_partition.total)

    def offset(self, matrix: str, name: str) -> np.ndarray:
        """The part of b or d of one block, in the shape of its slots. Raises KeyError if there is none."""
        vector, rows = {"b": (self.b, "slots"), "d": (self.d, "outputs")}[matrix]
        part = vector[self.partition(rows)[name]]
        blocks = self.model.states if matrix == "b" else self.model.outputs
        return part.reshape(next(sizes(block.slots) for block in blocks if block.name == name))

    @property
    def inputs(self) -> tuple[Block, ...]:
        """The blocks of u."""
        return self.model.inputs

    @property
    def states(self) -> tuple[Block, ...]:
        """The blocks of x, in the order of the matrices."""
        return self.model.states if self.order == "lower" else self.model.states[::-1]

    @property
    def outputs(self) -> tuple[Block, ...]:
        """The blocks of y."""
        return self.model.outputs

    def partition(self, axis: str) -> Partition:
        """Where the blocks of `slots`, `states`, `inputs` or `outputs` begin and end."""
        return partition(self.model, axis, self.order)

    def ties(self, matrix: str = "A") -> dict[str, Tie]:
        """For each parameter id: M[rows, cols] += coefficients · θ.flat[slots], M one of A, B, C, D, b, d."""
        return self._operator(matrix).ties()

    @cached_property
    def _sparse(self) -> dict[str, sparse.csr_array]:
        return {operator.name: operator.to_scipy() for operator in (self.A, self.B, self.C, self.D)}

    def solve(self, *u: torch.Tensor, **named: torch.Tensor) -> Tensors:
        """y for inputs [batch, *shape], as `forward` takes and returns them, from the matrices alone.

        An independent reference: float64, the assembled sparse matrices and the activations by
        definition; block substitution, and Newton's method for each loop. The result is in the
        dtype and on the device of the first input of real numbers, without gradients. Raises TypeError for a
        missing or unknown input,
        ValueError for a wrong shape, NoEquilibrium if a loop has no solution that is found.
        """
        inputs = self._inputs(u, named)
        U = _columns(inputs)
        X, _ = self.solve_columns(U)
        Y = self._sparse["C"] @ X + self._sparse["D"] @ U + self.d[:, None]
        made = self._blocks_of(Y, self.partition("outputs"), self.outputs, self._like(inputs))
        if len(made) == 1:
            return next(iter(made.values()))
        return tuple(made.values()) if self.result is None else self.result(*made.values())

    def states_of(self, *u: torch.Tensor, **named: torch.Tensor) -> dict[str, torch.Tensor]:
        """The states [batch, *shape] by name, in the order in which they are computed; see `solve`."""
        inputs = self._inputs(u, named)
        X, _ = self.solve_columns(_columns(inputs))
        return self._blocks_of(X, self.partition("states"), self.model.states, self._like(inputs))

    def parameter_gradients(self, u: Tensors, grad_y: Tensors) -> dict[str, np.ndarray]:
        """∂⟨G, y⟩/∂θ for each trainable parameter, from the adjoint equations and the tie maps.

            Λ = φ'(Z)ᵀ (AᵀΛ + CᵀG),   ∂A = ΛXᵀ, ∂B = ΛUᵀ, ∂C = GXᵀ, ∂D = GUᵀ, ∂b = Λ1, ∂d = G1

        `u` are the inputs and `grad_y` = G the gradients at the outputs, each one tensor
        [batch, *shape] or a tuple of them. Of a weight that is made of parameters, by
        `method = "parametrize"` or in the sets `Orthogonal` and `Nonneg`, it is the gradient at
        the weight. Raises as `solve` does.
        """
        inputs = self._inputs(u if isinstance(u, tuple) else (u,), {})
        G = _columns(_checked(grad_y if isinstance(grad_y, tuple) else (grad_y,), self.outputs))
        U = _columns(inputs)
        X, Z = self.solve_columns(U)
        L = self._adjoint_states(Z, G)
        one = np.ones((1, U.shape[1]))
        pairs = {"A": (L, X), "B": (L, U), "C": (G, X), "D": (G, U), "b": (L, one), "d": (G, one)}
        trained = {tensor.id for tensor in self.model.tensors if tensor.trainable}
        total = {id: np.zeros(w.shape) for id, w in self.weights.items() if id in trained}
        for matrix, pair in pairs.items():
            for id, gradient in self._operator(matrix).adjoint(pair).items():
                if id in trained:
                    total[id] += gradient
        return total

    def save(self, path: str | Path) -> tuple[Path, ...]:
        """Write the matrices; returns the files written, each of which is there in full or not at all.

        `name.npz`: for M in A, B, C, D the arrays `M.data`, `M.indices`, `M.indptr`, `M.shape`
        (compressed rows); `b`, `d`; for each axis (slots, states, inputs, outputs)
        `axis.names`, `axis.offsets`, `axis.shapes` (JSON) and `states.activations`. `name.mtx`:
        `name.A.mtx`, … `name.d.mtx` in the Matrix Market format. Raises ValueError for
        another ending, TooLarge above the limit on entries.
        """
        target = Path(path)
        if target.suffix == ".npz":
            return save_npz(self, target)
        if target.suffix == ".mtx":
            return save_market(self, target)
        raise ValueError(f"`{target.name}` must end in .npz (NumPy) or .mtx (Matrix Market)")

    def __repr__(self) -> str:
        lines = [f"System {self.model.name}: x = φ(A x + B u + b), y = C x + D u + d"]
        for operator in (self.A, self.B, self.C, self.D):
            (rows, cols), entries = operator.shape, operator.nnz
            density = 100 * entries / max(1, rows * cols)
            lines.append(f"  {operator.name}  {rows:>8} × {cols:<8} {entries:>12} entries {density:>10.4f} %")
        for title, blocks in (("u", self.inputs), ("x", self.model.states), ("y", self.outputs)):
            listed = ", ".join(f"{block.name}{list(block.shape)}" for block in blocks)
            lines.append(f"  {title}  {listed}")
        return "\n".join(lines)

    def _inputs(
        self, u: tuple[torch.Tensor, ...], named: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """The inputs in their order, checked."""
        names = [block.name for block in self.inputs]
        if len(u) > len(names):
            raise TypeError(f"{self.model.name} has {len(names)} inputs, but {len(u)} were given")
        given = dict(zip(names, u))
        for name, tensor in named.items():
            if name in given or name not in names:
                raise TypeError(
                    f"input `{name}` " + ("is given twice" if name in given else "does not exist")
                )
            given[name] = tensor
        missing = [name for name in names if name not in given]
        if missing:
            raise TypeError(f"input `{missing[0]}` is missing")
        return _checked([_counted(given[block.name], block) for block in self.inputs], self.inputs)

    def solve_columns(self, U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x [states, batch] and z [slots, batch] for u [inputs, batch]; see `solve`."""
        incoming = self._sparse["B"] @ U + self.b[:, None]
        return solve_states(
            self.model, self._sparse["A"], incoming, self.partition("slots"), self.partition("states")
        )

    def _adjoint_states(self, Z: np.ndarray, G: np.ndarray) -> np.ndarray:
        """Λ [slots, batch] for z [slots, batch] and the gradient G [outputs, batch]."""
        pulled = self._sparse["C"].T @ G
        slots, states = self.partition("slots"), self.partition("states")
        return solve_adjoint(self.model, self._sparse["A"], Z, pulled, slots, states)

    def _like(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """What results are like: the first input of real numbers, else float64."""
        pairs = zip(inputs, self.inputs)
        real = (tensor for tensor, block in pairs if tensor.dtype.is_floating_point and not block.tokens)
        return next(real, inputs[0].new_empty(0, dtype=torch.float64))

    @staticmethod
    def _blocks_of(
        values: np.ndarray, parts: Partition, blocks: Sequence[Block], like: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Columns [total, batch] as tensors [batch, *shape] by name."""
        return {
            block.name: torch.from_numpy(np.ascontiguousarray(values[parts[block.name]].T))
            .reshape(values.shape[1], *sizes(block.shape))
            .to(like.device, like.dtype)
            for block in blocks
        }


def _checked(tensors: Sequence[torch.Tensor], blocks: Sequence[Block]) -> tuple[torch.Tensor, ...]:
    """The tensors, if each has the shape [batch, *shape] of its block."""
    if len(tensors) != len(blocks):
        raise ValueError(f"there are {len(blocks)} blocks, but {len(tensors)} tensors were given")
    for tensor, block in zip(tensors, blocks):
        shape = tuple(tensor.shape)
        if shape[1:] != block.shape or not shape or shape[0] != len(tensors[0]):
            wanted = ", ".join(map(str, ("batch", *block.shape)))
            raise ValueError(f"`{block.name}` has shape [{wanted}], but {list(shape)} was given")
        if not (tensor.dtype.is_floating_point or tensor.dtype is torch.bool):
            raise ValueError(f"`{block.name}` holds real numbers, but {tensor.dtype} was given")
    return tuple(tensors)


def _counted(tensor: torch.Tensor, block: Block) -> torch.Tensor:
    """Tokens [batch, *shape] as unit vectors [batch, *shape, vocab]; other inputs as they are."""
    if not block.tokens:
        return tensor
    if tensor.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"`{block.name}` holds tokens, but {tensor.dtype} was given")
    (vocab,) = sizes(block.shape[-1:])
    if tensor.numel() and not 0 <= int(tensor.min()) <= int(tensor.max()) < vocab:
        raise ValueError(f"`{block.name}` has tokens below 0, or not below {vocab}")
    return torch.nn.functional.one_hot(tensor.long(), vocab).to(torch.float64)


def _columns(tensors: Sequence[torch.Tensor]) -> np.ndarray:
    """Tensors [batch, *shape], one below the other, as [total, batch] in float64."""
    return np.concatenate(
        [_numpy(tensor).reshape(len(tensor), prod(tensor.shape[1:])).T for tensor in tensors]
    )


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    # to the CPU first: some devices have no float64
    return np.asarray(whole(tensor).detach().cpu().to(torch.float64, copy=True).contiguous().numpy())


def _made(module: nn.Module) -> Mapping[str, torch.Tensor]:
    """The weights that a module makes of its parameters, by the ids of those that they stand for."""
    make = getattr(module, "effective_weights", None)
    if make is None or any(parameter.is_meta for parameter in module.parameters()):
        return {}
    with torch.no_grad():
        made: Mapping[str, torch.Tensor] = make()
    return made


def _weights(module: nn.Module, model: ImplicitModel) -> dict[str, np.ndarray]:
    """The tensors that the model names, by id, as copies in float64: those that the loops use.

    With `method = "parametrize"` these are made of the parameters.
    """
    made, name = dict(_made(module)), type(module).__name__
    parametrised = {
        id
        for constraint in getattr(module, "constraints", ())
        if constraint.method == "parametrize"
        for id in constraint.tensors
    }
    structured = (op for term in model.terms for op in term.chain if op.kind == "structured")
    for id, op in {op.parameters[0][1]: op for op in structured}.items():
        matrix = made.pop(id, None)  # matrices are linear in the numbers that they are made of
        if matrix is not None and id in parametrised:
            made[id] = torch.from_numpy(numbers_of(set_of(op), _numpy(matrix)))
    held = {**dict(module.named_buffers()), **module.state_dict(), **made}  # what is fixed is no state
    used = (id for term in model.terms for op in term.chain for _, id in op.parameters)
    shapes = {tensor.id: tensor.shape for tensor in model.tensors}
    found = {}
    for id in dict.fromkeys((*shapes, *used)):
        if id not in held:
            raise ValueError(f"the equations use the tensor `{id}`, which the state_dict of {name} lacks")
        tensor = held[id]
        if tensor.is_meta:
            raise ValueError(f"the tensor `{id}` of {name} is on the meta device and has no values")
        if tuple(tensor.shape) != shapes.get(id, tuple(tensor.shape)):
            raise ValueError(
                f"the tensor `{id}` of {name} has shape {list(tensor.shape)}, not {list(shapes[id])}"
            )
        found[id] = _numpy(tensor)
    return found
