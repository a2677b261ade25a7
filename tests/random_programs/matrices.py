"""Matrices of the program, on the last axis: alone, in sets, and in expressions of several."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from random_programs.program import Draw, Held, Made, Maker, Makers, RandomProgram, Shape, Values
from random_programs.sets import members

Affine = Callable[[Held], tuple[Tensor, Tensor]]  # a matrix and an offset
Written = tuple[str, Affine]


@st.composite
def _matrix(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """One matrix or its transpose, new or there already."""
    width, transposed = draw(st.integers(1, 4)), draw(st.booleans())
    axis = 0 if transposed else 1
    tied = [text for text, key in program.matrices.items() if program.parameters[key][axis] == shape[-1]]
    if tied and draw(st.booleans()):
        text = draw(st.sampled_from(tied))
    else:
        text = program.parameter("W", (shape[-1], width) if transposed else (width, shape[-1]))
    name = program.matrices[text]
    width = program.parameters[name][1 - axis]

    def run(held: Held, values: Values) -> Tensor:
        W = getattr(held, name)
        return values[source] @ (W if transposed else W.T)

    return f"{text}{chr(39) if transposed else ''}*{source}", (*shape[:-1], width), run


class Matrices:
    """Draws expressions of matrices."""

    def __init__(self, draw: Draw, program: RandomProgram) -> None:
        self.draw, self.program = draw, program
        self.turned = 0  # how many transposes stand around

    def leaf(self, m: int, n: int) -> Written:
        ways = [self.member, self.member, self.member, self._plain, self._layer, self._fixed]
        return self.draw(st.sampled_from(ways))(m, n)

    def _plain(self, m: int, n: int) -> Written:
        name = self.program.parameter("W", (m, n))
        return name, lambda held: (getattr(held, name), torch.zeros(m, dtype=torch.float64))

    def member(self, m: int, n: int) -> Written:
        member, name = self.draw(members(m, n)), self.program.fresh("M")
        start = "orthogonal()" if member.text == "Orthogonal()" else "normal(0.5)"
        self.program.lines.append(f"param {name}[{m}, {n}] in {member.text} = {start}")
        names = [name + ending for ending in member.tensors]
        self.program.parameters.update(zip(names, member.tensors.values()))
        if not member.linear:
            self.program.made[name] = lambda held: member.matrix([held])
        return name, lambda held: (
            member.matrix([getattr(held, own) for own in names]),
            torch.zeros(m, dtype=torch.float64),
        )

    def _layer(self, m: int, n: int) -> Written:
        bias = self.turned < 2  # what is transposed twice has none
        text = f"Dense({n} => {m}; bias = {str(bias).lower()})"
        name = self.program.layer(text, lambda: nn.Linear(n, m, bias=bias), (n,))
        none = torch.zeros(m, dtype=torch.float64)
        return name, lambda held: (getattr(held, name).weight, getattr(held, name).bias if bias else none)

    def _fixed(self, m: int, n: int) -> Written:
        rows = [[self.draw(st.sampled_from([0, 1, -0.5, 2.0])) for _ in range(n)] for _ in range(m)]
        name = self.program.fresh("S")
        self.program.lines.append(f"param {name}[{m}, {n}] = fixed({rows})")
        return name, lambda _: (torch.tensor(rows).double(), torch.zeros(m, dtype=torch.float64))

    def expression(self, m: int, n: int, depth: int) -> Written:
        """A matrix [m, n], in brackets where it is made of several."""
        if depth <= 0:
            return self.leaf(m, n)
        ways = [self._sum, self._scaled, self._product, self._transposed]
        ways += [self._power, self._less_identity] * (m == n)
        return self.draw(st.sampled_from(ways))(m, n, depth - 1)

    def _sum(self, m: int, n: int, depth: int) -> Written:
        (one, a), (other, b) = self.expression(m, n, depth), self.expression(m, n, depth)
        sign = self.draw(st.sampled_from([1, -1]))
        text = f"({one} {'+' if sign > 0 else '-'} {other})"

        def run(held: Held) -> tuple[Tensor, Tensor]:
            (A, offset), (B, other_offset) = a(held), b(held)
            return A + sign * B, offset + sign * other_offset

        return text, run

    def _scaled(self, m: int, n: int, depth: int) -> Written:
        text, a = self.expression(m, n, depth)
        factor, form = self.draw(st.sampled_from([(0.5, "(0.5*{})"), (-1.0, "(-{})"), (0.25, "({} / 4)")]))

        def run(held: Held) -> tuple[Tensor, Tensor]:
            A, offset = a(held)
            return factor * A, factor * offset

        return form.format(text), run

    def _product(self, m: int, n: int, depth: int) -> Written:
        inner = self.draw(st.integers(1, 4))
        (one, a), (other, b) = self.expression(m, inner, depth), self.expression(inner, n, depth)
        sign = self.draw(st.sampled_from(["*", "∘"]))
        return f"({one} {sign} {other})", lambda held: _after(a(held), b(held))

    def _transposed(self, m: int, n: int, depth: int) -> Written:
        self.turned += 1
        text, a = self.expression(n, m, depth)
        self.turned -= 1
        return f"{text}'", lambda held: (a(held)[0].T, torch.zeros(m, dtype=torch.float64))

    def _power(self, m: int, n: int, depth: int) -> Written:
        text, a = self.leaf(m, n)
        return f"({text}^2)", lambda held: _after(a(held), a(held))

    def _less_identity(self, m: int, n: int, depth: int) -> Written:
        text, a = self.expression(m, n, depth)
        return f"({text} - 0.5*I({n}))", lambda held: (
            a(held)[0] - 0.5 * torch.eye(n, dtype=torch.float64),
            a(held)[1],
        )


def _after(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What comes of one behind the other."""
    return one[0] @ other[0], one[0] @ other[1] + one[1]


@st.composite
def _in_a_set(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A member of a set, square more often than not."""
    m, n = draw(st.sampled_from([shape[-1], shape[-1], draw(st.integers(1, 4))])), shape[-1]
    return _applied(Matrices(draw, program).member(m, n), source, shape, m)


@st.composite
def _expression(draw: Draw, program: RandomProgram, source: str, shape: Shape) -> Made:
    m, n = draw(st.sampled_from([shape[-1], draw(st.integers(1, 4))])), shape[-1]
    written = Matrices(draw, program).expression(m, n, draw(st.integers(0, 2)))
    return _applied(written, source, shape, m)


def _applied(written: Written, source: str, shape: Shape, m: int) -> Made:
    text, affine = written

    def run(held: Held, values: Values) -> Tensor:
        matrix, offset = affine(held)
        return torch.einsum("...n,mn->...m", values[source], matrix) + offset

    return f"{text}*{source}", (*shape[:-1], m), run


MAKERS: Makers = {
    "matrix": Maker(_matrix),
    "in a set": Maker(_in_a_set, often=4),
    "matrices": Maker(_expression, often=3),
}
