"""What an operator is, and what its rule has to say.

An `Operator` is plain data: a kind, the shapes it maps between, its settings and the parameters it uses.
Everything known about a kind stands in its `Rule`: the shape rule, the parameters, the exact matrix, the
majorant, bounds on boxes, the PyTorch expression and the documentation. Linear operators live on the edges
of the graph (blocks of A, B, C, D), activations on its nodes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators import relaxation
from implicit_dsl.operators.initialisers import ParameterSpec
from implicit_dsl.operators.relaxation import Lines
from implicit_dsl.shapes import Dim, Shape, per_channel, show

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_module("numpy")

Setting: TypeAlias = Dim | float | bool | str | tuple["Setting", ...] | None
Settings: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Operator:
    """One use of an operator. Two uses with the same parameter ids are tied."""

    kind: str
    source: Shape  # of what it reads, without the batch axis
    target: Shape  # of what it gives
    settings: tuple[tuple[str, Setting], ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()  # role -> parameter id, which is the state_dict key

    def __getitem__(self, name: str) -> Any:
        """The setting called `name`. Raises KeyError if the kind has none such."""
        for key, value in self.settings:
            if key == name:
                return value
        raise KeyError(name)

    def get(self, name: str, default: Any) -> Any:
        """The setting called `name`, or a default: what most operators of a kind do not say."""
        return dict(self.settings).get(name, default)

    def parameter(self, role: str) -> str | None:
        """The id of the parameter in a role, or None (a convolution without bias)."""
        for key, value in self.parameters:
            if key == role:
                return value
        return None


@dataclass(frozen=True, slots=True)
class Formal:
    """One argument of a constructor.

    `kind` says what may be given: `width` (`16` or `6 => 16`), `size` (≥ 1, or one for
    each axis), `pad` (≥ 0, or one for each axis), `integer` (≥ 1), `axis` (from 1), `index` (any whole
    number), `number`, `flag`, `list`, or one of the strings in `choices`. These are also taken by a `pad` or
    `size` that has some. `value`: one more argument of an activation, which may be left out and is
    given by name.
    """

    name: str
    kind: str
    doc: str
    default: Any = None
    required: bool = False
    choices: tuple[str, ...] = ()
    shown: str = ""  # what stands for a default of None

    @property
    def default_text(self) -> str:
        """The default as it would be written."""
        if isinstance(self.default, bool):
            return "true" if self.default else "false"
        if isinstance(self.default, str):
            return f'"{self.default}"'
        return self.shown if self.default is None else str(self.default)


class ShapeError(Exception):
    """An operator cannot take this input. `argument` is the formal to blame, if one is.

    `takes` is what the input has where a width `in => out` says something else before its `=>`.
    """

    def __init__(
        self,
        message: str,
        text: str = "",
        argument: str = "",
        notes: tuple[str, ...] = (),
        help: str = "",
        takes: int | None = None,
    ) -> None:
        super().__init__(message)
        self.takes = takes
        self.message, self.text, self.argument, self.notes, self.help = message, text, argument, notes, help


@dataclass(frozen=True, slots=True)
class Entries:
    """Part of a matrix as triplets: M[rows, cols] += coefficients · θ.flat[slots].

    θ is the parameter in `role`; a constant part has no role and no slots, and its entries are the
    coefficients. This is the tie map: linear in θ. Its adjoint collects a matrix of gradients back onto θ.
    """

    role: str
    rows: np.ndarray
    cols: np.ndarray
    slots: np.ndarray | None
    coefficients: np.ndarray | float = 1.0

    def values(self, weights: Mapping[str, np.ndarray]) -> np.ndarray:
        """The numbers that stand at (rows, cols)."""
        if self.slots is None:
            return np.broadcast_to(np.asarray(self.coefficients, dtype=np.float64), self.rows.shape)
        return np.asarray(weights[self.role].reshape(-1)[self.slots] * self.coefficients)


@dataclass(frozen=True, slots=True)
class Expression:
    """A piece of generated Python. `tight` text can be called or indexed as it stands.

    `lines` is how it is written where `text` is too long for one line (empty: no other way). `fresh`: a new
    tensor that nothing else holds, whose values its own gradient does not need, so that what is applied
    to it may overwrite it.
    """

    text: str
    tight: bool = True
    lines: tuple[str, ...] = ()
    fresh: bool = False

    @property
    def atom(self) -> str:
        return self.text if self.tight else f"({self.text})"

    @property
    def in_place(self) -> str:
        """What the name of a function of PyTorch ends with, if it may overwrite this."""
        return "_" if self.fresh else ""


class Rule(ABC):
    """All that is known of one kind of operator. `kind` is its name inside the compiler,
    `names` what it is called in the language; `example` is a body that uses it."""

    kind: ClassVar[str]
    names: ClassVar[tuple[str, ...]] = ()
    formals: ClassVar[tuple[Formal, ...]] = ()
    takes_tokens: ClassVar[bool] = False  # its source has one more axis, of unit vectors
    calls: ClassVar[tuple[str, ...]] = ()  # what its expressions call of the runtime, as `runtime.NAME(`
    doc: ClassVar[str] = ""
    example: ClassVar[str] = ""

    @abstractmethod
    def operator(self, settings: Settings, source: Shape) -> Operator:
        """The operator on inputs of shape `source`. Raises ShapeError if there is none."""

    def parameters(self, operator: Operator) -> tuple[ParameterSpec, ...]:
        """The tensors that a new instance needs."""
        return ()

    def holder(self, operator: Operator) -> str | None:
        """The `torch.nn` module that holds the parameters, as a constructor call without device and dtype."""
        return None


class LinearRule(Rule):
    """A linear operator, with an offset if it has a bias.

    `mixing` operators may add several inputs into one output or have parameters; the
    others (partial permutations with factors) compose with them without loss.
    """

    mixing: ClassVar[bool] = True
    offset_roles: ClassVar[tuple[str, ...]] = ("bias",)  # the tensors that only the offset needs
    instead_of_transpose: ClassVar[str] = ""  # what to write where the language has no transpose of it

    @abstractmethod
    def entry_count(self, operator: Operator) -> int:
        """How many triplets `entries` gives, at most, without making them."""

    @abstractmethod
    def entries(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        """The exact matrix, row-major in both shapes. `weights` are the current tensors by role."""

    def offsets(self, operator: Operator, weights: Mapping[str, np.ndarray]) -> tuple[Entries, ...]:
        """The offset as a matrix with one column, read by the constant 1."""
        return ()

    def offset_count(self, operator: Operator) -> int:
        """How many triplets `offsets` gives."""
        return 0

    @abstractmethod
    def apply(self, operator: Operator, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The linear part on x [batch, *source] -> [batch, *target], without making the matrix."""

    def transposed(self, operator: Operator) -> bool:
        """Whether the rows of the matrix are counted by axis 1 of its weight, and the columns by axis 0."""
        return False

    def transpose(self, operator: Operator) -> Operator | None:
        """The operator of the transposed matrix with the weight of this one, without its id.

        None if the language has none. Raises ShapeError if these sizes have none.
        """
        return None

    def onto(self, settings: Settings, target: Shape, like: Operator | None) -> Operator:
        """The operator that gives `target`, if the settings say what it takes, or another use of its layer.

        Raises ShapeError if they do not.
        """
        name = self.names[0]
        raise ShapeError(
            f"what this {name} takes is not known here, so neither is what its transpose gives",
            f"on {show(target)}",
            help="apply it itself in a line before"
            + (f", or write `{name}(… => {settings['width'][1]}, …)`" if "width" in settings else ""),
        )

    def follows(self, operator: Operator) -> tuple[int | None, ...]:
        """For each axis of what a constant operator gives, the axis of its input that it follows by index."""
        return (None,) * len(operator.target)

    def overlap(self, operator: Operator) -> int:
        """How many triplets of `entries` may meet at one place of the matrix, at most."""
        return 1

    def absolute(
        self, operator: Operator, weights: Mapping[str, torch.Tensor]
    ) -> tuple[Operator, Mapping[str, torch.Tensor]]:
        """The operator whose matrix is the entrywise absolute value: its own majorant.

        |op u − op v| ≤ |op| |u − v|, with equality possible, so this is the best one. Where triplets
        meet (`overlap`), it is the sum of their absolute values: a majorant, and not the best one.
        """
        return operator, {role: w.abs() for role, w in weights.items()}

    @abstractmethod
    def emit(self, operator: Operator, x: Expression, layer: str) -> Expression:
        """The PyTorch expression. `layer` is the module that holds the parameters, such as `self.c1_conv`."""

    @abstractmethod
    def emit_with(self, operator: Operator, x: Expression, weights: Mapping[str, str]) -> Expression:
        """The same in evaluation mode with a text for each tensor, by role, in place of the layer.

        Without its `offset_roles` it is the linear part alone.
        """

    def emit_offset(self, operator: Operator, weights: Mapping[str, str]) -> Expression | None:
        """What `emit_with` adds for the `offset_roles` among the weights, without a batch axis.

        It broadcasts to the target. None if there is no offset. The default: a bias for each channel.
        """
        bias = weights.get("bias")
        return None if bias is None else Expression(bias + per_channel(operator.target))

    @abstractmethod
    def gain(self, operator: Operator, bounds: Mapping[str, float]) -> float | None:
        """A bound of the ∞-norm of the matrix (its largest absolute row sum), None if there is none.

        `bounds` are those of the tensors by id: the largest Σ|…| over all axes but the first, so
        for a vector its largest entry. The bound of a transposed matrix W is that of `W'`.
        """


class ActivationRule(Rule):
    """An activation: maps slots (the pre-activation z) to the state x, without parameters.

    For elementwise activations the two have one shape. `homogeneous`: φ(tz) = tφ(z) for t ≥ 0.
    `has_useful_majorant`: whether it is finite, and small enough that a loop could be certified with it.
    """

    arguments: ClassVar[tuple[str, ...]] = ("x",)
    elementwise: ClassVar[bool] = True
    homogeneous: ClassVar[bool] = False
    has_useful_majorant: ClassVar[bool] = True
    only_shapes: ClassVar[tuple[str, ...]] = ()  # the arguments of which nothing but the shape counts

    @property
    def optional(self) -> tuple[str, ...]:
        """The arguments that may be left out, given by name behind the others."""
        return tuple(formal.name for formal in self.formals if formal.kind == "value")

    def operator(self, settings: Settings, source: Shape) -> Operator:
        return Operator(self.kind, source, source, tuple(sorted(settings.items())))

    def join(self, settings: Settings, sources: tuple[Shape, ...]) -> Operator:
        """The operator on its arguments, which `source` holds one after another. Raises ShapeError."""
        (source,) = sources
        return self.operator(settings, source)

    def slots(self, operator: Operator) -> tuple[Shape, ...]:
        """The shapes of its arguments."""
        return (operator.source,)

    def affine(self, operator: Operator) -> Operator | None:
        """What is applied behind φ with the parameters of this layer, without their ids."""
        return None

    def axes(self, operator: Operator) -> tuple[int | None, ...]:
        """For each axis of the state, the axis of its slots that it follows index by index; None: none."""
        kept = len(operator.target)
        return tuple(range(kept)) if self.elementwise else (None,) * kept

    def domain(self, operator: Operator) -> tuple[float, float]:
        """An interval on whose inside φ is a number and has a slope."""
        return -inf, inf

    def monotone(self, operator: Operator) -> bool:
        """Whether φ(u) ≤ φ(v) for all u ≤ v."""
        return True

    @abstractmethod
    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        """φ in numpy on z [batch, *source], by its definition: the oracle of the emitted code."""

    @abstractmethod
    def vjp(self, operator: Operator, z: np.ndarray, g: np.ndarray) -> np.ndarray:
        """φ'(z)ᵀ g: g [batch, *target] pulled back onto the slots [batch, *source].

        At a kink it takes the one-sided derivative that PyTorch's autograd takes.
        """

    @abstractmethod
    def majorant(self, operator: Operator, change: np.ndarray) -> np.ndarray:
        """M(|u − v|) ≥ |φ(u) − φ(v)| for all u and v, componentwise, on [batch, *source].

        M is monotone, positively homogeneous and subadditive, so that M(v) < v is a certificate (theory §1).
        """

    def majorant_on(
        self, operator: Operator, change: np.ndarray, lower: np.ndarray, upper: np.ndarray
    ) -> np.ndarray:
        """The same for u and v between `lower` and `upper` [batch, *source], which may be infinite."""
        return self.majorant(operator, change)

    def gain(self, operator: Operator) -> float | None:
        """K in |φ(u) − φ(v)| ≤ K |u − v| in the ∞-norm, for all u and v; None if there is none of use."""
        return None

    def slope(self, operator: Operator) -> tuple[float, float] | None:
        """Bounds of φ', for elementwise activations."""
        return None

    def range(self, operator: Operator) -> tuple[float, float] | None:
        """Bounds of the values, if these are bounded on both sides."""
        return None

    def image(
        self, operator: Operator, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds [batch, *target] of φ on finite boxes [batch, *source], rounded outwards.

        Where φ is monotone, its values at the ends; otherwise its value in the middle and the majorant.
        """
        return relaxation.image(self, operator, lower, upper)

    def reads(self, operator: Operator) -> int:
        """How many slots the lines of an entry read, at most, which is what they need memory for."""
        return 1 if self.elementwise else 0

    def lines(self, operator: Operator, lower: np.ndarray, upper: np.ndarray) -> Lines:
        """Linear bounds of φ on finite boxes [batch, *source]; constants, where nothing better is known."""
        return relaxation.flat(self.image(operator, lower, upper))

    @abstractmethod
    def emit(self, operator: Operator, z: Expression) -> Expression:
        """The PyTorch expression."""

    def emit_slots(self, operator: Operator, parts: Sequence[Expression]) -> Expression:
        """The same on its arguments."""
        (z,) = parts
        return self.emit(operator, z)

    def emit_kept(
        self, operator: Operator, parts: list[Expression], keep: Callable[[Expression], Expression]
    ) -> Expression:
        """The same where `keep` gives what is read several times a name, in a line before."""
        return self.emit_slots(operator, parts)

    def emit_affine(self, operator: Operator, z: Expression, weights: Mapping[str, str]) -> Expression:
        """φ and what `affine` says behind it, in one expression, with a text for each tensor by role."""
        assert not weights, f"`{self.kind}` has no parameters"
        return self.emit(operator, z)
