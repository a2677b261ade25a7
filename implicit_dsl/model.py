"""The intermediate representation: the implicit model itself, in structured blocks, without numbers.

x = φ(A x + B u + b),    y = C x + D u + d
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

from implicit_dsl.clock import Clock
from implicit_dsl.demands import NO_DEMANDS, Demands
from implicit_dsl.guarantees import Constraint, Guarantee
from implicit_dsl.integrators import Method
from implicit_dsl.opened import Opened
from implicit_dsl.operators.base import Operator
from implicit_dsl.operators.initialisers import Initialiser, fixed_entries
from implicit_dsl.plain import demand_data, demand_of, operator_data, operator_of, shape_data, shape_of
from implicit_dsl.recurrence import Carry, Recurrence
from implicit_dsl.sets import MatrixSet
from implicit_dsl.shapes import Shape, Size, Total, bind, bind_size, bind_some, count, show

Chain: TypeAlias = tuple[Operator, ...]
BlockMatrix: TypeAlias = dict[tuple[str, str], tuple[Chain, ...]]


@dataclass(frozen=True, slots=True)
class Block:
    """A named piece of u, x or y. `line` and `text` are where the source says it, which is the
    program itself or an imported `file`.

    An input of `tokens` t[n] has unit vectors along its last axis, [n, vocab].
    """

    name: str
    shape: Shape
    activation: Operator | None = None
    declared: bool = True
    line: int = 0
    text: str = ""
    file: str = ""
    tokens: bool = False
    start: tuple[float, ...] = ()  # of a solver: one number, one for each entry, or () for zero

    @property
    def given(self) -> Shape:
        """The shape of what stands for it in Python: tokens are numbers there, and unit vectors here."""
        return self.shape[:-1] if self.tokens else self.shape

    @property
    def slots(self) -> Shape:
        """The shape of its pre-activation z."""
        return self.shape if self.activation is None else self.activation.source

    @property
    def phi(self) -> str:
        """The name of its activation."""
        if self.activation is None:
            return "identity"
        return str(self.activation["name"]) if self.activation.kind == "function" else self.activation.kind


@dataclass(frozen=True, slots=True)
class Term:
    """One summand of a pre-activation or output: a chain applied to `source` (None: to 1)."""

    target: str
    source: str | None
    chain: Chain


@dataclass(frozen=True, slots=True)
class Tensor:
    """A parameter (or, if not trainable, a buffer). `id` is its key in the state_dict.

    `shape` is that of the numbers in which the matrices are linear. One that is `within` a set is made of
    a trained tensor with that key; members of linear sets are linear in it, of others in themselves.
    """

    id: str
    shape: tuple[int, ...]
    trainable: bool = True
    initialiser: Initialiser | None = None
    line: int = 0
    file: str = ""
    within: MatrixSet | None = None
    opens: Opened | None = None  # the block that an `open` made it for

    @property
    def trained(self) -> tuple[int, ...]:
        """The shape of the tensor that the module holds."""
        return self.shape if self.within is None else self.within.free

    @property
    def fixed(self) -> tuple[float, ...]:
        """Its entries, or the one that all are, if it is not trained and no layer holds it."""
        return fixed_entries(self.initialiser)


@dataclass(frozen=True, slots=True)
class Holder:
    """A module that holds tensors, named `name`; `operator` says which."""

    name: str
    operator: Operator
    line: int = 0
    file: str = ""


@dataclass(frozen=True, slots=True)
class Loop:
    """States that read one another in a circle, solved together as one equilibrium.

    `iterated` are the unknowns, a set of states that cuts every circle: with these given, the
    others follow by substitution in the order of `states`, where the iterated ones come last. A
    sweep gives new values of the iterated states from the old ones and from these others.
    `rate` is the contraction rate in the ∞-norm where one is proved for all feasible weights.
    """

    states: tuple[str, ...]
    iterated: tuple[str, ...]
    guarantee: Guarantee = Guarantee.UNCHECKED
    rate: float | None = None

    @property
    def name(self) -> str:
        """What the loop is called: the first iterated state."""
        return self.iterated[0]


@dataclass(frozen=True)
class ImplicitModel:
    """x = φ(A x + B u + b), y = C x + D u + d, as a sum of terms over named blocks.

    A block of A that no term names is zero. Rows of A and B count slots (entries of the
    pre-activation), columns of A and C count states: they agree unless an activation
    takes several slots, as max-pooling does. States stand in an order in which
    they can be computed; those of a loop stand together.
    """

    name: str
    doc: str | None
    arguments: tuple[tuple[str, str], ...]
    inputs: tuple[Block, ...]
    states: tuple[Block, ...]
    outputs: tuple[Block, ...]
    terms: tuple[Term, ...]
    tensors: tuple[Tensor, ...]
    holders: tuple[Holder, ...]
    loops: tuple[Loop, ...] = ()
    demands: Demands = NO_DEMANDS
    constraints: tuple[Constraint, ...] = ()
    recurrences: tuple[Recurrence[ImplicitModel], ...] = ()

    @property
    def summary(self) -> str:
        """The first sentence of its documentation on one line, or ''."""
        paragraph = " ".join((self.doc or "").strip().partition("\n\n")[0].split())
        return re.split(r"(?<=[.!?])(?<!\bal\.)(?<!e\.g\.)(?<!i\.e\.) (?=[A-ZÀ-Þ`])", paragraph)[0]

    @cached_property
    def blocks(self) -> dict[str, Block]:
        """Inputs and states by name (an output may have the name of neither)."""
        return {block.name: block for block in (*self.inputs, *self.states)}

    @cached_property
    def terms_of(self) -> dict[str, tuple[Term, ...]]:
        """The summands of each state and output, in the order of the source."""
        grouped: dict[str, list[Term]] = {block.name: [] for block in (*self.states, *self.outputs)}
        for term in self.terms:
            grouped[term.target].append(term)
        return {name: tuple(terms) for name, terms in grouped.items()}

    def _select(self, rows: tuple[Block, ...], columns: tuple[Block, ...]) -> BlockMatrix:
        wanted = {block.name for block in columns}
        found: BlockMatrix = {}
        for row in rows:
            for term in self.terms_of[row.name]:
                if term.source in wanted:
                    key = (row.name, term.source)
                    found[key] = (*found.get(key, ()), term.chain)
        return found

    @property
    def A(self) -> BlockMatrix:
        """(state, state) -> the chains whose sum is that block."""
        return self._select(self.states, self.states)

    @property
    def B(self) -> BlockMatrix:
        """(state, input) -> chains."""
        return self._select(self.states, self.inputs)

    @property
    def C(self) -> BlockMatrix:
        """(output, state) -> chains."""
        return self._select(self.outputs, self.states)

    @property
    def D(self) -> BlockMatrix:
        """(output, input) -> chains."""
        return self._select(self.outputs, self.inputs)

    @property
    def free(self) -> tuple[tuple[str, int], ...]:
        """The free axes of the inputs: (input, axis from 0)."""
        return tuple(
            (block.name, axis)
            for block in self.inputs
            for axis, size in enumerate(block.shape)
            if size == Size(block.name, axis)
        )

    @property
    def step_axes(self) -> tuple[tuple[str, int], ...]:
        """The free axes that are the steps of its recurrences; without these, the free first axes."""
        first = [self.blocks[of].shape[0] for one in self.recurrences for _, of in one.sequences]
        found = [(size.source, size.axis) for size in first if isinstance(size, Size)]
        found = [axis for axis in found if Size(*axis) in first]
        return tuple(dict.fromkeys(found)) or tuple(axis for axis in self.free if axis[1] == 0)

    def bind(self, shapes: Mapping[str, tuple[int, ...]], length: int | None = None) -> ImplicitModel:
        """The model for inputs of given shapes (without batch), with no free size left.

        `length` is that of the `step_axes`, in place of shapes. Raises ValueError if a shape does not fit,
        or if a free size is not given.
        """
        sizes: dict[tuple[str, int], int] = {}
        if length is not None:
            if not self.step_axes:
                raise ValueError("no input has a free number of steps, so that there is no length to give")
            sizes = dict.fromkeys(self.step_axes, length)
        for block in self.inputs:
            given = bind_some(block.shape, sizes)
            if block.name in shapes:
                given = (*shapes[block.name], *given[len(block.given) :])
            fits = len(given) == len(block.shape) and all(
                isinstance(have, Size) or have == got for have, got in zip(block.shape, given)
            )
            if not fits:
                given = given[: -1 if block.tokens else None]
                raise ValueError(
                    f"`{block.name}` has shape {show(block.given)}, which {show(given)} does not fit"
                )
            for axis, size in enumerate(given):
                if not isinstance(size, int):
                    known = f"its shape, as {block.name}=(…)"
                    if (block.name, axis) in self.step_axes:
                        known += ", or the number of steps, as length=…"
                    raise ValueError(f"axis {axis + 1} of `{block.name}` is free: give {known}")
                if sizes.setdefault((block.name, axis), size) != size:
                    raise ValueError(
                        f"`{block.name}` has shape {show(given)}, which the length {length} does not fit"
                    )
            if bind(block.shape, sizes) != given:
                raise ValueError(f"`{block.name}` has shape {show(given)}, which does not fit other inputs")
        unknown = set(shapes) - {block.name for block in self.inputs}
        if unknown:
            raise ValueError(f"there is no input `{min(unknown)}`")
        return self if not self.free else self._bound(sizes)

    def _bound(self, sizes: dict[tuple[str, int], int]) -> ImplicitModel:
        def operator(op: Operator) -> Operator:
            settings = tuple(
                (name, bind_size(value, sizes) if isinstance(value, Size | Total) else value)
                for name, value in op.settings
            )
            return replace(
                op, source=bind(op.source, sizes), target=bind(op.target, sizes), settings=settings
            )

        def block(b: Block) -> Block:
            activation = None if b.activation is None else operator(b.activation)
            return replace(b, shape=bind(b.shape, sizes), activation=activation)

        return replace(
            self,
            inputs=tuple(map(block, self.inputs)),
            states=tuple(map(block, self.states)),
            outputs=tuple(map(block, self.outputs)),
            terms=tuple(replace(t, chain=tuple(map(operator, t.chain))) for t in self.terms),
            recurrences=tuple(replace(one, step=one.step._bound(sizes)) for one in self.recurrences),
        )

    @property
    def parameter_count(self) -> int:
        """How many numbers are trained."""
        return sum(count(tensor.trained) for tensor in self.tensors if tensor.trainable)

    def tensor_ids(self, state: str) -> tuple[str, ...]:
        """The ids of the tensors in the equation of a state or output."""
        ids = (id for term in self.terms_of[state] for op in term.chain for _, id in op.parameters)
        return tuple(dict.fromkeys(ids))

    def as_data(self) -> dict[str, Any]:
        """The structure as plain tuples, for the generated module. `from_data` is the inverse.

        Solver and gradient are not in it: the module holds them itself.
        """
        return {
            "name": self.name,
            "inputs": tuple(
                (b.name, shape_data(b.shape), *((b.tokens,) if b.tokens else ())) for b in self.inputs
            ),
            "states": tuple(
                (b.name, shape_data(b.shape), b.activation and operator_data(b.activation))
                for b in self.states
            ),
            "outputs": tuple((b.name, shape_data(b.shape)) for b in self.outputs),
            "terms": tuple((t.target, t.source, *map(operator_data, t.chain)) for t in self.terms),
            "tensors": tuple((t.id, t.shape, t.trainable) for t in self.tensors),
            **({"opened": opened} if (opened := self._opened_data()) else {}),
            **(self._loop_data() if self.loops else {}),
            **({"recurrences": tuple(map(_recurrence_data, self.recurrences))} if self.recurrences else {}),
        }

    def _opened_data(self) -> tuple[tuple[str, str, str, str], ...]:
        made = ((tensor.id, tensor.opens) for tensor in self.tensors)
        return tuple((id, one.matrix, one.to, one.source) for id, one in made if one is not None)

    def _loop_data(self) -> dict[str, Any]:
        return {
            "loops": tuple(
                (loop.states, loop.iterated, loop.guarantee.name, loop.rate) for loop in self.loops
            ),
            "wellposed": tuple(map(demand_data, self.demands.wellposed)),
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> ImplicitModel:
        """The model that `as_data` described (without documentation, lines and initialisers)."""
        opened = {id: Opened(*of) for id, *of in data.get("opened", ())}
        return ImplicitModel(
            data["name"],
            None,
            (),
            tuple(
                Block(name, shape_of(shape), tokens=any(tokens)) for name, shape, *tokens in data["inputs"]
            ),
            tuple(Block(name, shape_of(s), op and operator_of(op)) for name, s, op in data["states"]),
            tuple(Block(name, shape_of(shape)) for name, shape in data["outputs"]),
            tuple(Term(to, source, tuple(map(operator_of, chain))) for to, source, *chain in data["terms"]),
            tuple(
                Tensor(id, tuple(shape), trainable, opens=opened.get(id))
                for id, shape, trainable in data["tensors"]
            ),
            (),
            tuple(
                Loop(tuple(states), tuple(iterated), Guarantee[guarantee], rate)
                for states, iterated, guarantee, rate in data.get("loops", ())
            ),
            Demands(tuple(map(demand_of, data.get("wellposed", ())))),
            recurrences=tuple(map(_recurrence, data.get("recurrences", ()))),
        )


def _recurrence_data(recurrence: Recurrence[ImplicitModel]) -> dict[str, Any]:
    step, clock, method = recurrence.step.as_data(), recurrence.clock, recurrence.method
    return {
        "name": recurrence.name,
        "step": {key: value for key, value in step.items() if key not in ("tensors", "opened")},
        "sequences": recurrence.sequences,
        "same": recurrence.same,
        "carried": tuple((carry.before, carry.now, carry.start) for carry in recurrence.carried),
        "gives": recurrence.gives,
        **({} if clock is None else {"clock": (clock.marks, clock.steps, clock.every, clock.free)}),
        **({} if method is None else {"method": (method.name, method.settings)}),
        **({"truncated": recurrence.truncated} if recurrence.truncated else {}),
    }


def _recurrence(data: Mapping[str, Any]) -> Recurrence[ImplicitModel]:
    carried = tuple(Carry(before, now, start) for before, now, start in data["carried"])
    step = ImplicitModel.from_data({**data["step"], "tensors": ()})
    clock = Clock(*data["clock"]) if "clock" in data else None
    sequences, same, gives = data["sequences"], data["same"], data["gives"]
    method = Method(*data["method"]) if "method" in data else None
    return Recurrence(
        data["name"],
        step,
        sequences,
        same,
        carried,
        gives,
        clock=clock,
        method=method,
        truncated=data.get("truncated", 0),
    )
