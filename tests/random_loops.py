"""Random programs with loops, as text: what certificates are held to.

Each draws one shape, states of it that read one another, and operators that give back what they take.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

Shape = tuple[int, ...]

SHAPES: tuple[Shape, ...] = (
    (1,), (2,), (3,), (4,), (2, 2), (2, 4), (3, 2), (1, 4), (1, 4, 4), (2, 2, 2), (2, 4, 4),
)  # fmt: skip
FACTORS = ("0.5", "-0.5", "0.1", "-1", "0.25", "1.5", "0.3", "-0.7", "2", "0.125")
ACTIVATIONS = (
    "relu({})", "relu({})", "tanh({})", "sigmoid({})", "softsign({})", "softplus({})", "identity({})",
    "gelu({})", "silu({})", "softmax({})", "leaky_relu({}; slope = 0.1)", "leaky_relu({}; slope = 2.0)",
    "leaky_relu({}; slope = -0.5)", "leaky_relu({}; slope = -3)", "elu({}; alpha = 0.5)",
    "elu({}; alpha = 2.5)", "elu({}; alpha = -1)", "hardtanh({})", "hardtanh({}; low = -0.2, high = 6)",
)  # fmt: skip


@dataclass
class Draw:
    """A program that is being drawn. `bounded`: without what bounds on weights can never make contract."""

    random: random.Random
    bounded: bool
    shape: Shape = ()
    declared: list[str] = field(default_factory=list)
    defined: list[str] = field(default_factory=list)
    pool: dict[str, list[str]] = field(default_factory=dict)
    matrices: list[str] = field(default_factory=list)  # what a bound can be about

    def _named(self, prefix: str) -> str:
        return f"{prefix}{len(self.declared) + len(self.defined)}"

    def _held(self, declaration: str, prefix: str, matrix: bool = True) -> str:
        """A parameter or layer; one that was declared so before may be used again."""
        made = self.pool.setdefault(declaration, [])
        if made and self.random.random() < 0.4:
            return self.random.choice(made)
        name = self._named(prefix)
        self.declared.append(declaration.format(name))
        made.append(name)
        if matrix:
            self.matrices.append(name)
        return name

    def matrix(self, rows: int, columns: int) -> str:
        return self._held(f"param {{}}[{rows}, {columns}]", "W")

    def layer(self, constructor: str) -> str:
        return self._held(f"layer {{}} = {constructor}", "K", "Norm" not in constructor)

    def definition(self, value: str) -> str:
        name = self._named("t")
        self.defined.append(f"{name} = {value}")
        return name

    def linear(self, x: str) -> str:
        """A linear operator that keeps the shape."""
        n = self.shape[-1]
        bias = self.random.choice(("true", "false"))
        choices: list[Callable[[], str]] = [
            lambda: f"{self.random.choice(FACTORS)}*({x})",
            lambda: f"{self.matrix(n, n)}*({x})",
            lambda: f"{self.layer(f'Dense({n} => {n}; bias = {bias})')}*({x})",
            lambda: f"({self.matrix(n, n + 1)} * {self.matrix(n + 1, n)})*({x})",
            lambda: f"({self.matrix(n, n)} + 0.5*{self.matrix(n, n)})*({x})",
            lambda: f"({self.matrix(n, n)}*({x}) - {self.matrix(n, n)}*({x}))",
            lambda: f"({self.matrix(n, n)} - 0.5*I({n}))*({x})",
            lambda: f"Dropout(0.5)*({x})",
            self._rotated(x),
        ]
        if not self.bounded:
            choices.append(lambda: f"{self.matrix(n, n)}'*({x})")
        choices += {1: self._of_vectors, 2: self._of_sequences, 3: self._of_images}[len(self.shape)](x)
        return self.random.choice(choices)()

    def _rotated(self, x: str) -> Callable[[], str]:
        def made() -> str:
            first, rest = self.shape[0], ", :" * (len(self.shape) - 1)
            if first < 2:
                return f"-({x})"
            t, k = self.definition(x), self.random.randint(1, first - 1)
            return f"cat({t}[{k + 1}:{first}{rest}], 0.5*{t}[1:{k}{rest}])"

        return made

    def _of_vectors(self, x: str) -> list[Callable[[], str]]:
        (n,) = self.shape
        return [lambda: f"{self._held(f'param {{}}[{n}] = uniform(1.0)', 'w', False)} .* ({x})"]

    def _of_sequences(self, x: str) -> list[Callable[[], str]]:
        c, n = self.shape
        return [
            lambda: f"{self.layer(f'Conv({c} => {c}, 3; pad = 1, bias = false)')}*({x})",
            lambda: f"AvgPool(3; stride = 1, pad = 1)*({x})",
            lambda: f"reshape({self.matrix(c * n, c * n)}*flatten({x}), {c}, {n})",
            lambda: f"reshape(reshape({x}, {n}, {c}), {c}, {n})",
        ]

    def _of_images(self, x: str) -> list[Callable[[], str]]:
        c = self.shape[0]

        def pooled() -> str:
            t = self.definition(x)
            return f"expand(GlobalAvgPool()*{t}, {t})"

        convolutions = ("3; pad = 1", "3; pad = 2, dilation = 2", f"3; pad = 1, groups = {c}")
        return [
            *(lambda k=k: f"{self.layer(f'Conv({c} => {c}, {k}, bias = false)')}*({x})"  # type: ignore[misc]
              for k in convolutions),
            lambda: f"Upsample(2)*({self.layer(f'Conv({c} => {c}, 3; pad = 1, stride = 2)')}*({x}))",
            lambda: f"Upsample(2)*(AvgPool(2)*({x}))",
            lambda: f"{self.layer('BatchNorm()')}*({x})",
            pooled,
        ]  # fmt: skip

    def active(self, x: str) -> str:
        """An activation that keeps the shape."""
        if not self.bounded and self.random.random() < 0.25:
            return self._steep(self.definition(x))
        pools = ("MaxPool(3; stride = 1, pad = 1)({})",)
        if len(self.shape) > 1 and all(size % 2 == 0 for size in self.shape[1:]):
            pools += ("(Upsample(2)*MaxPool(2)({}))",)
        return self.random.choice(ACTIVATIONS + pools * (len(self.shape) > 1)).format(x)

    def _steep(self, t: str) -> str:
        """One that has a Lipschitz constant only on boxes, or a large one."""
        choices = [
            f"(σ({self.linear(t)}) .* tanh({self.linear(t)}))",
            f"(tanh({t}) .* hardtanh({self.linear(t)}; low = -1, high = 0.5))",
            f"0.003*RMSNorm()({t})",
        ]
        if self.shape[-1] > 1:
            choices.append(f"0.003*LayerNorm()({t})")
        if len(self.shape) == 2:
            causal = self.random.choice(("true", "false"))
            q = self.linear(f"tanh({t})")
            choices.append(f"attend({q}, tanh({t}), tanh({t}); causal = {causal})")
        if len(self.shape) == 2 and self.shape[0] == self.shape[1]:
            choices.append(f"matmul(tanh({t}), σ({t}))")
        return self.random.choice(choices)

    def expression(self, sources: list[str], depth: int) -> str:
        chance = self.random.random()
        if depth <= 0 or chance < 0.15:
            return self.random.choice(sources)
        inner = self.expression(sources, depth - 1)
        if chance < 0.6:
            return self.linear(inner)
        if chance < 0.78:
            return f"({inner} {self.random.choice('+-')} {self.expression(sources, depth - 1)})"
        return self.active(inner)


def random_loop(seed: int, demand: Callable[[Draw], str] | None = None) -> str:
    """A model M with the states x0, x1, …, some of them in loops, and the input u.

    `demand` writes what stands behind `@wellposed`; without one it is `unchecked`.
    """
    chance = random.Random(seed)
    draw = Draw(chance, demand is not None, chance.choice(SHAPES))
    states = [f"x{k}" for k in range(chance.choice((1, 1, 1, 2, 2, 3)))]
    equations = []
    for k, x in enumerate(states):
        before = states[k - 1]
        made = draw.expression([before, before, x, chance.choice(states)], chance.choice((1, 2, 2, 3, 4)))
        made = f"({made} + 0.3*{before}) + u"
        equations.append(f"{x} ~ {draw.active(made) if chance.random() < 0.85 else made}")
    shape = ", ".join(map(str, draw.shape))
    asked = ["unchecked"] if demand is None else demand(draw).split("\n")
    lines = [
        "@allow unused_parameter, unused_state, unused_annotation",
        f"input u[{shape}]",
        *draw.declared,
        *(f"state {x}[{shape}]" for x in states),
        *draw.defined,
        *equations,
        f"output y = {' + '.join(states)}",
        *(f"@wellposed {line}" for line in asked),
    ]
    return "model M\n" + "".join(f"    {line}\n" for line in lines) + "end\n"
