"""The parameters of one opened block, and the operators that carry a value through it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from implicit_dsl.errors import Label
from implicit_dsl.graph import Edge, Node, Role
from implicit_dsl.opened import Opened
from implicit_dsl.operators import OPERATORS, activation_rule
from implicit_dsl.operators.base import LinearRule, Operator, ShapeError
from implicit_dsl.operators.initialisers import Initialiser
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.openings import Opening
from implicit_dsl.resolve.problem import Problem, problem
from implicit_dsl.resolve.refusals import shape_problem
from implicit_dsl.resolve.values import Layer, SetValue
from implicit_dsl.resolve.wires import Tensor, Wire
from implicit_dsl.sets import MatrixSet, SetError
from implicit_dsl.shapes import Shape, count, show

MOST_ENTRIES = 10**8  # of one opened block; what is meant there is one of low rank
_ZEROS = Initialiser("zeros")


@dataclass(frozen=True, slots=True)
class Placed:
    """The edges of an opened block, and the states between its factors, which read `source`."""

    source: str
    edges: tuple[Edge, ...]
    nodes: tuple[Node, ...] = ()


def place(context: Context, opening: Opening, target: Node, source: Node, names: set[str]) -> Placed:
    """A block from `source` to `target`, with its parameters. `names` are those of all states.

    Raises Problem if there is no such block with the structure that is asked for.
    """
    opens = Opened(opening.matrix, target.name, source.name)
    structure = opening.structure
    if isinstance(structure, Layer):
        return _layer(context, opening, structure, opens, target, source)
    shape = count(target.slots), count(source.shape)
    if structure is None:
        _check_entries(opening, opens, shape)
        return _one(context, opening, opens, target, source, shape, None)
    made = _set(opening, structure, opens, shape)
    if made.kind == "LowRank":
        return _factors(context, opening, made, opens, target, source, names)
    if made.linear is None:
        assert opening.structure_place is not None
        raise problem(
            "E0507",
            f"no matrix in {made.name}(…) is zero, and a block that is opened begins as it was",
            opening.structure_place,
            help="leave `as` out for a full matrix, or write `as LowRank(2)`",
        )
    if not made.linear.is_diagonal:
        _check_entries(opening, opens, shape)
    return _one(context, opening, opens, target, source, shape, made)


def _check_entries(opening: Opening, opens: Opened, shape: tuple[int, int]) -> None:
    rows, columns = shape
    if rows * columns > MOST_ENTRIES:
        raise problem(
            "E0107",
            f"`{opens.text}` would have {rows:,} × {columns:,} entries, more than {MOST_ENTRIES:,}",
            opening.place,
            help="open it as the product of two narrow matrices, `as LowRank(2)`, or open smaller blocks",
        )


def _set(opening: Opening, value: SetValue, opens: Opened, shape: tuple[int, int]) -> MatrixSet:
    """The set for matrices of a shape. Raises Problem if there is none."""
    try:
        return value.rule.of(shape, value.settings)
    except SetError as error:
        span = value.blame.get(error.argument, value.span)
        size = f"`{opens.text}` is a matrix [{shape[0]}, {shape[1]}]"
        raise problem(
            "E0504",
            error.message,
            span,
            labels=(Label(opening.place, "opened here"),) if opening.place != span else (),
            notes=(f"{size}: the slots of `{opens.to}` by the entries of `{opens.source}`",),
            help=error.help,
        ) from None


# --------------------------------------------------------------------------- parameters


def _tensor(
    context: Context,
    opening: Opening,
    opens: Opened,
    shape: tuple[int, ...],
    start: Initialiser,
    part: str = "",
    within: MatrixSet | None = None,
) -> Tensor:
    """A parameter called as its block: `A_f6_c3`, or `A_f6_c3_left` for a part of it."""
    id = context.claim(opens.text + part, opening.place)
    tensor = Tensor(id, shape, True, start, opening.place, within, opens)
    context.tensors.append(tensor)
    return tensor


def _one(
    context: Context,
    opening: Opening,
    opens: Opened,
    target: Node,
    source: Node,
    shape: tuple[int, int],
    within: MatrixSet | None,
) -> Placed:
    tensor = _tensor(context, opening, opens, shape, _ZEROS, within=within)
    chain = (*_flat(source.shape), _matrix(tensor, (shape[1],)))
    return Placed(source.name, _edges(opening, target, source.name, chain))


def _factors(
    context: Context,
    opening: Opening,
    made: MatrixSet,
    opens: Opened,
    target: Node,
    source: Node,
    names: set[str],
) -> Placed:
    """L R with L zero, so that the product is, and R random, so that L has a gradient."""
    (rows, columns), (rank,) = made.shape, made.arguments
    assert isinstance(rank, int)
    _check_entries(opening, opens, (rows + columns, rank))
    left = _tensor(context, opening, opens, (rows, rank), _ZEROS, ".left")
    right = _tensor(context, opening, opens, (rank, columns), Initialiser("kaiming"), ".right")
    base, number = f"{target.name}.from_{source.name}", 1
    name = base
    while name in names:
        number += 1
        name = f"{base}_{number}"
    names.add(name)
    between = Node(name, Role.STATE, (rank,), None, False, opening.place)
    into = Edge(source.name, name, (*_flat(source.shape), _matrix(right, (columns,))), opening.place)
    out = _edges(opening, target, name, (_matrix(left, (rank,)),))
    return Placed(source.name, (into, *out), (between,))


def _matrix(tensor: Tensor, source: Shape) -> Operator:
    settings = {"shape": tensor.shape, "transposed": False, "name": tensor.id}
    kind = "matrix"
    if tensor.within is not None:
        settings["set"], kind = (tensor.within.kind, *tensor.within.arguments), "structured"
    made = OPERATORS[kind].operator(settings, source)
    return replace(made, parameters=(("weight", tensor.id),))


# --------------------------------------------------------------------------- shapes


def _flat(shape: Shape) -> tuple[Operator, ...]:
    """Row-major, as one axis."""
    return () if len(shape) == 1 else (OPERATORS["reshape"].operator({"shape": None}, shape),)


def _edges(opening: Opening, target: Node, source: str, chain: tuple[Operator, ...]) -> tuple[Edge, ...]:
    """From the slots in a row to where they stand: one edge for each argument of an activation."""
    slots = chain[-1].target
    shapes = () if target.activation is None else activation_rule(target.activation).slots(target.activation)
    if len(shapes) < 2:
        shaped = () if target.slots == slots else (_reshape(slots, target.slots),)
        return (Edge(source, target.name, (*chain, *shaped), opening.place),)
    assert target.activation is not None
    rule = activation_rule(target.activation)
    unread = [(*rule.arguments, *rule.optional).index(name) for name in rule.only_shapes]
    edges, start = [], 0
    for number, shape in enumerate(shapes):
        size = count(shape)
        pick = OPERATORS["select"].operator({"slices": ((start, 1, size),)}, slots)
        shaped = () if len(shape) == 1 else (_reshape(pick.target, shape),)
        slot = OPERATORS["slot"].operator(
            {"index": number, "slots": shapes, "empty": number in unread}, shape
        )
        edges.append(Edge(source, target.name, (*chain, pick, *shaped, slot), opening.place))
        start += size
    return tuple(edges)


def _reshape(source: Shape, target: Shape) -> Operator:
    return OPERATORS["reshape"].operator({"shape": target}, source)


# --------------------------------------------------------------------------- layers


def _layer(
    context: Context, opening: Opening, layer: Layer, opens: Opened, target: Node, source: Node
) -> Placed:
    """`as Conv(3; pad = 1)`: a linear layer without an offset, whose weights start from zero."""
    rule, span = layer.rule, opening.structure_place
    assert span is not None
    name = rule.names[0]
    settings = dict(layer.settings)
    if any(formal.name == "bias" for formal in rule.formals):
        if "bias" in layer.blame and settings["bias"]:
            raise problem(
                "E0507",
                f"a block of {opens.matrix} has no offset, and this {name} has one",
                layer.blame["bias"],
                help="leave `bias` out",
            )
        settings["bias"] = False
    if not isinstance(rule, LinearRule):
        raise problem("E0507", f"a block of {opens.matrix} is linear, and {name} is not", span)
    try:
        operator = rule.operator(settings, source.shape)
    except ShapeError as error:
        here = Wire("input", source.shape, source.span)
        raise shape_problem(error, layer.blame.get(error.argument, span), here) from None
    specs = rule.parameters(operator)
    if [spec.role for spec in specs] != ["weight"] or type(rule).holder is LinearRule.holder:
        why = "has no weights" if not specs else "is not linear in its weights alone"
        raise problem("E0507", f"{name} {why}, so that no block can be opened with it", span)
    if operator.target != target.slots or _several(target):
        raise _misfit(opening, opens, name, operator, target, source)
    held = context.claim(opens.text, opening.place)
    tensor = Tensor(f"{held}.weight", specs[0].shape, True, _ZEROS, opening.place, opens=opens)
    context.tensors.append(tensor)
    operator = replace(operator, parameters=(("weight", tensor.id),))
    made = Layer(
        rule, settings, held, opening.place, layer.blame, operator, opening.place, [tensor], [operator]
    )
    context.layers.append(made)
    return Placed(source.name, (Edge(source.name, target.name, (operator,), opening.place),))


def _several(target: Node) -> bool:
    activation = target.activation
    return activation is not None and len(activation_rule(activation).slots(activation)) > 1


def _misfit(
    opening: Opening, opens: Opened, name: str, operator: Operator, target: Node, source: Node
) -> Problem:
    wanted = show(target.slots)
    if _several(target):
        wanted = "several arguments one after another"
    assert opening.structure_place is not None
    return problem(
        "E0507",
        f"this {name} makes {show(operator.target)} of `{source.name}`, and `{opens.text}` gives {wanted}",
        opening.structure_place,
        labels=(Label(opening.place, f"from {show(source.shape)} to {wanted}"),),
        help="choose its width, kernel and padding so that it fits, or leave `as` out for a full matrix",
    )
