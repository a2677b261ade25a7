"""The blocks of the assembled matrices, as subscripts name them: `A[x, h]`, `A[:, z]`, `A[[x, h], g]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from implicit_dsl import syntax as s
from implicit_dsl.graph import Edge, Node, Role, SignalGraph
from implicit_dsl.recurrence import Recurrence
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.indexing import is_member, labels
from implicit_dsl.resolve.lookup import scoped
from implicit_dsl.resolve.problem import Problem, problem
from implicit_dsl.resolve.scope import Environment
from implicit_dsl.resolve.values import describe, show_key
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.schedule import schedule
from implicit_dsl.source import Span

Subscript: TypeAlias = "s.Expression | s.Axis | s.Colon"
Region: TypeAlias = Literal["forward", "feedback", "self"]
REGIONS: tuple[Region, ...] = ("forward", "feedback", "self")
SIDES = {
    "A": (Role.STATE, Role.STATE),
    "B": (Role.STATE, Role.INPUT),
    "C": (Role.OUTPUT, Role.STATE),
    "D": (Role.OUTPUT, Role.INPUT),
    "S": (Role.OUTPUT, Role.INPUT),
}  # what the rows and the columns of each are
_MEANING = {
    "A": "A maps states to states",
    "B": "B maps inputs to states",
    "C": "C maps states to outputs",
    "D": "D maps inputs to outputs",
    "S": "S goes from inputs to outputs",
}
_MATRIX = {sides: name for name, sides in SIDES.items() if name != "S"}


@dataclass(frozen=True, slots=True)
class Named:
    """A block that a subscript names: a value of the network, or an output or nested state by its `name`."""

    wire: Wire | None
    name: str
    span: Span


def matrix_of(target: Role, source: Role) -> str:
    """The matrix with blocks that go to the one and come from the other; "" if there is none."""
    return _MATRIX.get((target, source), "")


def region_of(target: int, source: int) -> Region:
    """The region of A of a block, by when its states are computed."""
    return "forward" if target > source else "feedback" if target < source else "self"


def order_of_states(
    nodes: tuple[Node, ...], edges: tuple[Edge, ...], recurrences: tuple[Recurrence[SignalGraph], ...]
) -> dict[str, int]:
    """When each state is computed: what regions go by, without edges that were opened."""
    graph = SignalGraph("", None, (), nodes, edges, (), (), nodes[0].span, recurrences=recurrences)
    names = (name for component in schedule(graph) for name in component.states)
    return {name: number for number, name in enumerate(names)}


def check_side(node: Node, matrix: str, side: int, span: Span, code: str, before: str, behind: str) -> None:
    """Raises Problem unless a node stands among the rows (`side` 0) or the columns (1) of a matrix.

    `before` and `behind` are what stands around the name of the matrix.
    """
    sides = SIDES[matrix]
    if node.role is sides[side]:
        return
    fitting = matrix_of(node.role, sides[1]) if side == 0 else matrix_of(sides[0], node.role)
    fitting = "" if matrix == "S" else fitting
    raise problem(
        code,
        f"`{' '.join(span.text.split())}` is {_a(node.role)}, and {_MEANING[matrix]}",
        span,
        help=f"write `{before}{fitting}{behind}`" if fitting else "",
    )


def no_block(nodes: tuple[Node, ...], role: Role, span: Span, code: str) -> Problem:
    """That there is no block of a name."""
    have = [node.name for node in nodes if node.role is role]
    listed = ", ".join(f"`{name}`" for name in have[:8]) + (", …" if len(have) > 8 else "")
    shown = " ".join(span.text.split())
    return problem(code, f"there is no {role.value} `{shown}`", span, help=f"there are {listed}")


def _a(role: Role) -> str:
    return {Role.INPUT: "an input", Role.OUTPUT: "an output", Role.STATE: "a state"}[role]


def named(
    context: Context, node: Subscript, environment: Environment, outputs: bool, code: str
) -> tuple[tuple[Named, ...], bool] | None:
    """The blocks that a subscript names, and whether it is one alone; None for all of them.

    `outputs`: they are those of outputs. Raises Problem of a `code` if it names none.
    """
    if isinstance(node, s.Colon):
        return None
    if isinstance(node, s.Sequence) and not node.is_tuple:
        if not node.items:
            raise problem(code, "an empty list names no block", node.span)
        return tuple(_one(context, item, environment, outputs, code) for item in node.items), False
    body = environment.body
    assert body is not None, "blocks are named inside of models"
    if isinstance(node, s.Comprehension) and not outputs:
        value = context.evaluate(node, environment)
        if isinstance(value, tuple) and value and all(isinstance(item, Wire) for item in value):
            return tuple(Named(item, "", node.span) for item in value), False
    if isinstance(node, s.Name) and node.name in body.families and scoped(node.name, environment) is None:
        members = list(body.families[node.name])
        if outputs:
            return tuple(Named(None, show_key(key), node.span) for key in members), False
        values = (context.force(body.definitions[key]) for key in members if key in body.definitions)
        return tuple(_of_value(value, node, code) for value in values), False
    return (_one(context, node, environment, outputs, code),), True


def _one(context: Context, node: Subscript, environment: Environment, outputs: bool, code: str) -> Named:
    """The one block that an expression names."""
    if isinstance(node, s.Call) and isinstance(node.function, s.Name) and node.function.name == "last":
        return _of_value(context.evaluate(node, environment), node, code)
    text = _spelled(context, node, environment)
    if not text:
        whole = node.value if isinstance(node, s.Index) else None
        hint = ""
        if isinstance(whole, s.Name):
            hint = f"a block is taken as a whole: write `{whole.name}`"
        raise problem(
            code, "the blocks of a matrix are named by states, inputs and outputs", node.span, help=hint
        )
    if outputs:
        found = (name for name, _, _ in context.network.outputs)
        own = environment.body.outputs if environment.body is not None else {}
        names = list(dict.fromkeys((*found, *map(show_key, own))))
        if text not in names:
            have = ", ".join(f"`{name}`" for name in names[:6])
            raise problem(code, f"`{text}` is no output of this model", node.span, help=f"it has {have}")
        return Named(None, text, node.span)
    if isinstance(node, s.Field) and _is_state(context, node, text, environment):
        return Named(None, text, node.span)
    return _of_value(context.evaluate(node, environment), node, code)


def _is_state(context: Context, node: s.Field, text: str, environment: Environment) -> bool:
    """Whether a name with dots is that of a nested state, `y.relu1`, and nothing that has a value."""
    root: s.Expression = node
    while isinstance(root, s.Field):
        root = root.value
    try:
        context.evaluate(node, environment)
    except Problem:
        return isinstance(root, s.Name | s.Index)
    return False


def _of_value(value: Any, node: s.Expression, code: str) -> Named:
    if isinstance(value, Wire):
        return Named(value, "", node.span)
    raise problem(
        code,
        "the blocks of a matrix are named by states, inputs and outputs",
        node.span,
        f"this is {describe(value)}",
    )


def _spelled(context: Context, node: s.Expression, environment: Environment) -> str:
    """The name that an expression spells, `z[2]` or `y.relu1`; '' if it is none."""
    match node:
        case s.Name(name):
            return name
        case s.Index(s.Name(name), subscripts) if is_member(node, environment):
            return show_key((name, *labels(context, subscripts, environment)))
        case s.Field(value, s.Name(name)):
            before = _spelled(context, value, environment)
            return f"{before}.{name}" if before else ""
    return ""
