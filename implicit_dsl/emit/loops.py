"""A loop as a function of its own: one sweep, from the states as they were to what they become.

The sweep is emitted as a model whose inputs are the states that are iterated and whatever comes
in from outside of the loop; `Forward` calls it through an equilibrium of the runtime.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from implicit_dsl.clock import Timed
from implicit_dsl.demands import applying
from implicit_dsl.guarantees import Guarantee
from implicit_dsl.model import Block, ImplicitModel, Loop, Term
from implicit_dsl.names import identifier
from implicit_dsl.operators import OPERATORS, activation_rule
from implicit_dsl.operators.base import Operator
from implicit_dsl.operators.normalisation import Dropout
from implicit_dsl.operators.timed import TIMED
from implicit_dsl.shapes import Shape, Size


@dataclass(frozen=True, slots=True)
class Injection:
    """A value that a loop gets from outside: the sum of `terms`, called `name` in the sweep."""

    name: str
    target: str
    shape: Shape
    terms: tuple[Term, ...]

    @property
    def is_plain(self) -> bool:
        """Whether it is just a value of the network."""
        return len(self.terms) == 1 and not self.terms[0].chain


@dataclass(frozen=True, slots=True)
class Mask:
    """A dropout mask of a loop, drawn once for a whole solve. `id` stands for it in chains."""

    id: str
    shape: Shape
    p: float


@dataclass(frozen=True, slots=True)
class ScaledKernel:
    """A number times the kernel of a convolution, once for a whole solve. `id` stands for it in chains."""

    id: str
    kernel: str
    factor: float


@dataclass(frozen=True, slots=True)
class TimedNumber:
    """A number of the time of a step, known before a solve. `id` stands for it in chains."""

    id: str
    number: Timed


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What one sweep takes and computes. `model` has the new states under the names of `next_name`."""

    loop: Loop
    model: ImplicitModel
    injections: tuple[Injection, ...]
    masks: tuple[Mask, ...]
    scaled: tuple[ScaledKernel, ...]
    timed: tuple[TimedNumber, ...]
    tensors: tuple[str, ...]  # ids of the parameters and buffers
    split: bool  # into an affine function and φ, for solvers that apply φ themselves


def next_name(state: str) -> str:
    """What the new value of an iterated state is called."""
    return f"{state}.next"


def plan(model: ImplicitModel, loop: Loop) -> SweepPlan:
    """The sweep of a loop."""
    inside = set(loop.states)
    terms: list[Term] = []
    injections: list[Injection] = []
    masks: list[Mask] = []
    scaled: dict[tuple[str, float], ScaledKernel] = {}
    timed: dict[Timed, TimedNumber] = {}
    for name in loop.states:
        target = next_name(name) if name in loop.iterated else name
        for group in _slots(model.terms_of[name]):
            outer = [term for term in group if term.source not in inside]
            hoisted = [] if all(term.source is None for term in outer) else outer
            inner = [_at_its_time(_masked(term, masks), timed) for term in group if term not in hoisted]
            terms += [replace(_with_scaled_kernels(term, scaled), target=target) for term in inner]
            if hoisted:
                made, term = _injection(model, name, hoisted, len(injections))
                if made.name not in {other.name for other in injections}:
                    injections.append(made)
                terms.append(replace(term, target=target))
    iterated = [model.blocks[name] for name in loop.iterated]
    inputs = (
        *(Block(block.name, block.shape) for block in iterated),
        *(Block(made.name, made.shape) for made in injections),
    )
    states = (
        *(model.blocks[name] for name in loop.states if name not in loop.iterated),
        *(replace(block, name=next_name(block.name)) for block in iterated),
    )
    order = {block.name: number for number, block in enumerate(states)}
    terms.sort(key=lambda term: order[term.target])
    ids = (id for term in terms for op in term.chain for _, id in op.parameters)
    taken = {mask.id for mask in masks}
    tensors = tuple(id for id in dict.fromkeys(ids) if id not in taken)
    swept = replace(
        model, doc=None, inputs=inputs, states=states, outputs=(), terms=tuple(terms), holders=(), loops=()
    )
    kernels = tuple(scaled.values())
    numbers = tuple(timed.values())
    split = _splits(model, loop)
    return SweepPlan(loop, swept, tuple(injections), tuple(masks), kernels, numbers, tensors, split)


def _splits(model: ImplicitModel, loop: Loop) -> bool:
    """Whether the solver of a loop works on x = φ(affine(x)), and the loop has that form."""
    solver = applying(model.demands.solvers, loop)
    wanted = solver is not None and solver.name in ("forward_backward", "peaceman_rachford", "newton")
    if not wanted and loop.guarantee not in (Guarantee.MONOTONE, Guarantee.MEASURE):
        return False
    others = [model.blocks[name] for name in loop.states if name not in loop.iterated]
    activation = model.blocks[loop.name].activation
    elementwise = activation is None or activation_rule(activation).elementwise
    return len(loop.iterated) == 1 and elementwise and all(block.activation is None for block in others)


def _slots(terms: tuple[Term, ...]) -> list[list[Term]]:
    """The terms by the place in the pre-activation that they reach: each place is a sum of its own."""
    groups: dict[object, list[Term]] = {}
    for term in terms:
        groups.setdefault(_place(term), []).append(term)
    return list(groups.values())


def _place(term: Term) -> tuple[Operator, ...]:
    """The end of a chain that says where in the pre-activation it stands: in a concatenation, in a slot."""
    at = len(term.chain)
    while at and term.chain[at - 1].kind in ("place", "slot"):
        at -= 1
    return term.chain[at:]


def _injection(model: ImplicitModel, state: str, terms: list[Term], number: int) -> tuple[Injection, Term]:
    """What a place of a state gets from outside, and the term that reads it inside."""
    chain = _place(terms[0])
    if chain:
        terms = [replace(term, chain=term.chain[: -len(chain)]) for term in terms]
        shape = chain[0].source
        name = f"{state}.in{number + 1}"
    else:
        shape = model.blocks[state].slots
        name = f"{state}.in"
    made = Injection(name, state, shape, tuple(terms))
    if made.is_plain and terms[0].source is not None:
        source = model.blocks[terms[0].source]
        made = Injection(source.name, state, source.shape, made.terms)
    return made, Term(state, made.name, chain)


def _masked(term: Term, masks: list[Mask]) -> Term:
    """A term whose dropouts multiply by masks that are drawn before the solve."""
    chain: list[Operator] = []
    for operator in term.chain:
        if operator.kind == "dropout":
            rule = OPERATORS[operator.kind]
            assert isinstance(rule, Dropout)
            mask = Mask(f"{term.target}.mask{len(masks) + 1}", rule.mask(operator), float(operator["p"]))
            masks.append(mask)
            operator = replace(operator, parameters=(("mask", mask.id),))
        chain.append(operator)
    return replace(term, chain=tuple(chain))


def _at_its_time(term: Term, timed: dict[Timed, TimedNumber]) -> Term:
    """A term whose numbers of the time are given to the sweep."""
    chain: list[Operator] = []
    for operator in term.chain:
        if operator.kind in TIMED:
            number: Timed = operator["number"]
            made = timed.setdefault(number, TimedNumber(f"number{len(timed) + 1}", number))
            settings = (("largest", operator["largest"]), ("number", (made.id,)))
            operator = replace(operator, settings=settings)
        chain.append(operator)
    return replace(term, chain=tuple(chain))


def _with_scaled_kernels(term: Term, scaled: dict[tuple[str, float], ScaledKernel]) -> Term:
    """A term whose convolutions have the number in their kernel that their result would be multiplied by."""
    chain: list[Operator] = []
    for operator in term.chain:
        before = chain[-1] if chain else None
        convolved = before is not None and before.kind in ("conv", "conv_transpose") and not before["bias"]
        if operator.kind == "scale" and convolved:
            assert before is not None
            ((role, kernel),) = before.parameters
            factor = float(operator["factor"])
            number = 1 + sum(made.kernel == kernel for made in scaled.values())
            name = f"{kernel}.scaled{number}" if number > 1 else f"{kernel}.scaled"
            made = scaled.setdefault((kernel, factor), ScaledKernel(name, kernel, factor))
            chain[-1] = replace(before, parameters=((role, made.id),))
        else:
            chain.append(operator)
    return replace(term, chain=tuple(chain))


def needed_outside(model: ImplicitModel, loop: Loop) -> set[str]:
    """The states of a loop, other than the iterated ones, that something behind it reads."""
    inside, inner = set(loop.states), set(loop.states) - set(loop.iterated)
    waiting = [t.source for t in model.terms if t.source in inner and t.target not in inside]
    for name in loop.states:  # statistics are taken of what a BatchNorm reads
        waiting += [
            term.source
            for term in model.terms_of[name]
            if any(op.kind == "batch_norm" for op in term.chain) and term.source in inner
        ]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name is None or name in found:
            continue
        found.add(name)
        waiting += [term.source for term in model.terms_of[name] if term.source in inner]
    return found


def shape_text(shape: Shape, inputs: dict[str, str], axes: Iterable[str] = ()) -> str:
    """A shape as Python, free sizes from the inputs: `(48, u.shape[2] // 2)`."""
    sizes = [*axes, *(size_text(dim, inputs) if isinstance(dim, Size) else str(dim) for dim in shape)]
    return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"


def size_text(size: Size, inputs: Mapping[str, str]) -> str:
    """A free size as Python: `u.shape[2] // 2`."""
    if size.of is None:
        text = f"{inputs[size.source]}.shape[{size.axis + 1}]"
    else:
        text = size_text(size.of, inputs)
        text = f"({text})" if size.times != 1 and " " in text else text
    if size.times != 1:
        text = f"{size.times} * {text}"
    if size.add:
        text = f"{text} {'+' if size.add > 0 else '-'} {abs(size.add)}"
    if size.divide == 1:
        return text
    return f"({text}) // {size.divide}" if " " in text else f"{text} // {size.divide}"


def function_name(model: ImplicitModel, loop: Loop) -> str:
    """The name of the function of a sweep: `_ConvDEQ_z`."""
    return f"_{identifier(model.name)}_{identifier(loop.name)}".replace("__", "_")
