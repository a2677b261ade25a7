"""What an expression can be worth while a program is resolved.

Numbers, strings, lists (Python tuples) and ranges stand for themselves; `Wire` is a value
of the network; here are the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from implicit_dsl.clock import Clock, Timed
from implicit_dsl.operators.base import ActivationRule, Operator, Rule, Settings
from implicit_dsl.operators.initialisers import Initialiser
from implicit_dsl.resolve.wires import Tensor, Wire
from implicit_dsl.sets import SetRule
from implicit_dsl.source import Span
from implicit_dsl.syntax import Expression, Template

if TYPE_CHECKING:
    from implicit_dsl.resolve.scope import Body, DeclaredShape, Environment, Module


@dataclass(frozen=True, slots=True)
class PairValue:
    """`3 => 16`."""

    left: Any
    right: Any


class Rest:
    """The size that follows from the others: `_` in `reshape(x, _, 8)`."""


REST = Rest()


@dataclass(eq=False, slots=True)
class Layer:
    """One instance of an operator with its arguments. Used twice, it is tied.

    `operator` is its first use, which fixes the shapes of its tensors; `uses` are all of them.
    """

    rule: Rule
    settings: Settings
    name: str
    span: Span
    blame: dict[str, Span]  # where each argument was written
    operator: Operator | None = None
    first_use: Span | None = None
    tensors: list[Tensor] = field(default_factory=list)
    uses: list[Operator] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class ParameterValue:
    """A `param`: a vector to add, or a matrix to apply."""

    tensor: Tensor
    name: str
    span: Span


@dataclass(frozen=True, slots=True)
class MatrixExpression:
    """A matrix made of others: `'`, `+`, `-`, `*`, `∘`, a number times a matrix, `I(n)`.

    `operation` is transpose, sum, product, scale or identity; `number` is the factor or n.
    """

    operation: str
    parts: tuple[Any, ...]
    number: float
    span: Span


@dataclass(frozen=True, slots=True)
class LowRank(MatrixExpression):
    """The product of two factors, which are parameters of their own: `W.left`, `W.right`."""

    name: str


@dataclass(frozen=True, slots=True)
class SetValue:
    """`Banded(-1, 1)`: a set of matrices, for `param W[n, n] in …`."""

    rule: SetRule
    settings: Settings
    blame: dict[str, Span]  # where each argument was written
    span: Span


@dataclass(frozen=True, slots=True)
class Function:
    """`f(x) = …` or `x -> …`, with the environment that it was written in."""

    name: str
    formals: tuple[str, ...]
    body: Expression
    environment: Environment
    span: Span


@dataclass(frozen=True, slots=True)
class Builtin:
    """A function of the language. `run` gets the evaluation and the call."""

    name: str
    run: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Activation:
    """`relu`, or `leaky_relu(slope = 0.2)` with its settings given before it is applied."""

    name: str
    rule: ActivationRule
    settings: Settings | None = None


@dataclass(frozen=True, slots=True)
class Constructor:
    """`Conv`, `Dense`, …: called with arguments it gives a Layer."""

    name: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class TemplateValue:
    """A `block` or `model` that can be instantiated, and the file that it stands in."""

    template: Template
    module: Module


@dataclass(eq=False, slots=True)
class Instance:
    """An instantiated block. Each call makes new states; its layers and parameters are shared.

    `name` is what its parameters begin with; `label` what the user called it, or its kind.
    """

    template: TemplateValue
    arguments: dict[str, Any]
    name: str
    label: str
    span: Span
    sites: dict[tuple[Any, ...], Any] = field(default_factory=dict)  # its own layers, by where they stand


@dataclass(frozen=True, slots=True)
class ChainValue:
    """`chain(f, g, …)`: applied one after another."""

    parts: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class TokensValue:
    """`Tokens(1000)`: the whole numbers from 0 to 999."""

    count: int


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a block with several outputs gives: its fields."""

    fields: dict[str, Any]
    block: str


@dataclass(frozen=True, slots=True)
class TimeValue:
    """A number that depends on the time of an `ode`: another one at each step, and known there."""

    number: Timed
    clock: Clock


@dataclass(frozen=True, slots=True)
class Flow:
    """What a state of an `ode` over `a..Inf` stands for behind its `end`: it has a limit, and no steps."""

    limit: Wire
    name: str


@dataclass(frozen=True, slots=True)
class Namespace:
    """An imported file, by the name it goes under."""

    name: str
    module: Module


Value: TypeAlias = (
    int
    | float
    | bool
    | str
    | tuple[Any, ...]
    | range
    | Wire
    | PairValue
    | Layer
    | ParameterValue
    | MatrixExpression
    | SetValue
    | Function
    | Builtin
    | Activation
    | Constructor
    | TemplateValue
    | Instance
    | ChainValue
    | Outputs
    | TokensValue
    | TimeValue
    | Flow
    | Namespace
    | Initialiser
)


def short(value: float) -> str:
    """A number for a message; some have a thousand digits."""
    text = str(value)
    return text if len(text) <= 24 else f"{text[:20]}…"


def describe(value: Any) -> str:
    """What a value is, for messages."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return f"the number {short(value)}"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, Wire):
        from implicit_dsl.shapes import show

        return f"a value of shape {show(value.shape)}"
    return _DESCRIPTIONS.get(type(value), "a value of another kind")


def outputs_hint(value: Any) -> str:
    """How one of several outputs is taken, or the limit of a flow, or ''."""
    if isinstance(value, Flow):
        return f"its limit is `last({value.name})`"
    if not isinstance(value, Outputs):
        return ""
    choices = " or ".join(f"`.{name}`" for name in value.fields)
    return f"it has {len(value.fields)} outputs: write {choices} behind it"


def is_matrix(value: Any) -> bool:
    """Whether a value can stand to the left of `*`."""
    return isinstance(value, (Layer, MatrixExpression)) or (
        isinstance(value, ParameterValue) and len(value.tensor.shape) == 2
    )


_DESCRIPTIONS: dict[type, str] = {
    tuple: "a list",
    range: "a range",
    PairValue: "a pair `a => b`",
    Rest: "`_`, a size that is left out",
    Layer: "a layer",
    ParameterValue: "a parameter",
    MatrixExpression: "a matrix",
    LowRank: "a matrix",
    SetValue: "a set of matrices",
    Function: "a function",
    Builtin: "a function",
    Activation: "an activation",
    Constructor: "a layer that was not given its arguments",
    TemplateValue: "a block that was not given its arguments",
    Instance: "a block",
    ChainValue: "a chain of layers",
    Outputs: "several outputs",
    TokensValue: "a set of tokens",
    TimeValue: "a number that depends on the time",
    Flow: "a flow to its limit",
    Namespace: "an imported file",
    Initialiser: "an initialiser",
}


@dataclass(eq=False, slots=True)
class Definition:
    """What a name stands for: evaluated when first needed, at most once.

    `kind` is `=`, `~`, input, param, layer or function. `status` is new, active, done or poisoned.
    """

    key: tuple[Any, ...]  # (name, *labels)
    kind: str
    expression: Expression | None
    environment: Environment
    span: Span
    body: Body | None
    status: str = "new"
    value: Any = None
    wire: Wire | None = None  # of a state whose shape is declared: exists before its equation is read
    label: str = ""  # how the state is called, `h[1]`
    local: bool = False  # whether it belongs to one iteration of a loop
    declared: DeclaredShape | None = None  # if it does; else the body knows
    member: Expression | None = None  # the set behind `in`

    @property
    def shown(self) -> str:
        """`h[1]`, as in the source."""
        return show_key(self.key)

    @property
    def declared_shape(self) -> DeclaredShape | None:
        """The shape that is declared of it, here or in another line of its body."""
        if self.local or self.body is None:
            return self.declared
        return self.body.shapes.get(self.key)


def show_key(key: tuple[Any, ...]) -> str:
    name, *labels = key
    return f"{name}[{', '.join(map(str, labels))}]" if labels else str(name)
