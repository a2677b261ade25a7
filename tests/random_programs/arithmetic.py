"""Random formulas that act entry by entry, of values, numbers and functions, each with its twin.

They are tame, so that deep programs keep numbers and slopes of a moderate size: what grows is multiplied by
what is bounded, logarithms and roots are of what is above a half, and so are denominators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from random_programs.program import Draw, Made, Maker, Makers, RandomProgram, Shape

Formula = tuple[str, Callable[[Mapping[str, Tensor]], Tensor]]
Way = Callable[[], Formula]
Table = dict[str, Callable[[Tensor], Tensor]]

GROWING: Table = {
    "relu({})": lambda x: x * (x > 0),
    "leaky_relu({}; slope = 0.2)": lambda x: torch.where(x > 0, x, 0.2 * x),
    "abs({})": lambda x: torch.where(x < 0, -x, x),
    "softplus({})": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "gelu({})": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
    "elu({}; alpha = 0.5)": lambda x: torch.where(x > 0, x, 0.5 * torch.expm1(x)),
    "softshrink({}; lambda = 0.25)": lambda x: x - x.clamp(-0.25, 0.25),
    "max({}, 0.5)": lambda x: torch.where(x > 0.5, x, 0.5),
    "min({}, -0.25)": lambda x: torch.where(x < -0.25, x, -0.25),
    "(1.5 - {})": lambda x: 1.5 - x,
    "({} + 0.5)": lambda x: 0.5 + x,
    "-{}": lambda x: -1 * x,
    "0.5*{}": lambda x: x / 2,
    "{} / 2": lambda x: x / 2,
}
BOUNDED: Table = {
    "tanh({})": lambda x: 2 * torch.sigmoid(2 * x) - 1,
    "σ.({})": torch.sigmoid,
    "sin({})": torch.sin,
    "cos.({})": torch.cos,
    "softsign({})": lambda x: x / (1 + x.abs()),
    "hardsigmoid({})": lambda x: (x / 6 + 0.5).clamp(0, 1),
    "hardtanh({}; low = -0.5, high = 1.25)": lambda x: x.clamp(-0.5, 1.25),
    "exp(-abs({}))": lambda x: 1 / x.abs().exp(),
    "1 ./ (1 + abs({}))": lambda x: (1 + x.abs()).reciprocal(),
}
OF_BOUNDED: Table = {
    "{} .^ 2": lambda x: x * x,
    "{} .^ 3": lambda x: x * x * x,
    "exp({})": torch.exp,
    "2 .^ {}": lambda x: torch.exp(x * torch.log(torch.tensor(2.0, dtype=x.dtype))),
    "softshrink({})": lambda x: x - x.clamp(-0.5, 0.5),
}
OF_ABOVE: Table = {
    "log({})": torch.log,
    "sqrt({})": lambda x: torch.exp(torch.log(x) / 2),
    "{} .^ 1.5": lambda x: x * x.sqrt(),
    "{} .^ -0.5": lambda x: 1 / x.sqrt(),
    "{} .^ -1": lambda x: 1 / x,
}


def _applied(form: str, of: Formula, function: Callable[[Tensor], Tensor]) -> Formula:
    """A form of a formula, with brackets inside and around unless it is a call of a formula."""
    text, inner = of
    called = form[0].isalpha() and form.count("(") == 1
    made = form.format(text) if called else f"({form.format(f'({text})')})"
    return made, lambda values: function(inner(values))


def _joined(form: str, a: Formula, b: Formula, function: Callable[[Tensor, Tensor], Tensor]) -> Formula:
    return form.format(a[0], b[0]), lambda values: function(a[1](values), b[1](values))


class Formulas:
    """Draws formulas that read `leaves`, names of values of one shape."""

    def __init__(self, draw: Draw, leaves: Sequence[str]) -> None:
        self.draw, self.leaves = draw, leaves

    def leaf(self) -> Formula:
        name = self.draw(st.sampled_from(self.leaves))
        return name, lambda values: values[name]

    def _of(
        self, table: Mapping[str, Callable[[Tensor], Tensor]], of: Callable[[int], Formula], depth: int
    ) -> Way:
        def made() -> Formula:
            form = self.draw(st.sampled_from(sorted(table)))
            return _applied(form, of(depth - 1), table[form])

        return made

    def _two(
        self,
        form: str,
        of: tuple[Callable[[int], Formula], Callable[[int], Formula]],
        depth: int,
        function: Callable[[Tensor, Tensor], Tensor],
    ) -> Way:
        return lambda: _joined(form, of[0](depth - 1), of[1](depth - 1), function)

    def _one_of(self, *ways: Way) -> Formula:
        return self.draw(st.sampled_from(ways))()

    def growing(self, depth: int) -> Formula:
        """What grows no faster than its arguments do."""
        if depth <= 0:
            return self.leaf()
        both = (self.growing, self.growing)
        return self._one_of(
            self.leaf,
            self._of(GROWING, self.growing, depth),
            self._of(OF_ABOVE, self.above, depth),
            lambda: self.bounded(depth),
            self._two("({} + {})", both, depth, torch.add),
            self._two("({} - 0.5*{})", both, depth, lambda a, b: a - b / 2),
            self._two("max({}, {})", both, depth, lambda a, b: torch.where(a > b, a, b)),
            self._two("min({}, {})", both, depth, lambda a, b: torch.where(a < b, a, b)),
            self._two("({} .* {})", (self.growing, self.bounded), depth, torch.mul),
            self._two("({} ⊙ {})", (self.bounded, self.growing), depth, torch.mul),
            self._two("({} ./ {})", (self.growing, self.above), depth, lambda a, b: a * b.reciprocal()),
        )

    def bounded(self, depth: int) -> Formula:
        """What stays within a few units of zero."""
        if depth <= 1:
            return self._of(BOUNDED, self.growing, 1)()
        return self._one_of(
            self._of(BOUNDED, self.growing, depth),
            self._of(OF_BOUNDED, self.bounded, depth),
            self._two("({} .* {})", (self.bounded, self.bounded), depth, torch.mul),
            self._two("({} ./ {})", (self.bounded, self.above), depth, torch.div),
        )

    def above(self, depth: int) -> Formula:
        """What is at least a half."""
        x = self.leaf() if depth <= 1 else self.growing(depth - 1)
        return self._one_of(
            lambda: (f"(1 + abs({x[0]}))", lambda values: 1 + x[1](values).abs()),
            lambda: (f"(1.5 + tanh({x[0]}))", lambda values: 1.5 + torch.tanh(x[1](values))),
            lambda: (f"(2 - cos({x[0]}))", lambda values: 2 - torch.cos(x[1](values))),
            lambda: (f"(1 + tanh({x[0]}) .^ 2)", lambda values: 1 + torch.tanh(x[1](values)).square()),
            lambda: (f"(0.5 + softplus({x[0]}))", lambda values: 0.5 + F.softplus(x[1](values), 1.0, 1e9)),
        )


@st.composite
def _formula(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A formula of values of one shape."""
    others = draw(st.lists(st.sampled_from(program.of_shape(shape)), max_size=2))
    text, value = Formulas(draw, [source, *others]).growing(draw(st.integers(1, 3)))
    return text, shape, lambda _, values: value(values)


@st.composite
def _function(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A function of one value or two, at the top of the file or in the model, or without a name."""
    names = draw(st.sampled_from([["x"], ["x"], ["x", "z"]]))
    formulas = Formulas(draw, names)
    body, value = draw(st.sampled_from([formulas.growing, formulas.bounded]))(draw(st.integers(1, 3)))
    given = [source, *(draw(st.sampled_from(program.of_shape(shape))) for _ in names[1:])]
    head = ", ".join(names)
    match draw(st.sampled_from(["file", "model", "lambda"])):
        case "file":
            name = program.outside("phi")
            program.head.append(f"{name}({head}) = {body}")
        case "model":
            name = program.fresh("g")
            program.lines.append(f"{name}({head}) = {body}")
        case _:
            name = f"({f'({head})' if len(names) > 1 else head} -> {body})"
    ways = [f"{name}({', '.join(given)})"] + [f"({source} |> {name})"] * (len(names) == 1)
    return draw(st.sampled_from(ways)), shape, lambda _, v: value({n: v[g] for n, g in zip(names, given)})


@st.composite
def _passed(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A function that is given another one, and a number."""
    name, number = program.outside("twice"), draw(st.sampled_from([0.5, -1.25]))
    table = BOUNDED | GROWING
    form = draw(st.sampled_from(sorted(table)))
    f, inner = table[form], form.format("(z)")
    program.head.append(f"{name}(f, x, k) = f(f(x) + k*x)")
    text = f"{name}(z -> {inner}, {source}, {program.number(draw, number)})"
    return text, shape, lambda _, values: f(f(values[source]) + number * values[source])


MAKERS: Makers = {
    "formula": Maker(_formula, often=3),
    "function": Maker(_function, often=3),
    "passed": Maker(_passed),
}
