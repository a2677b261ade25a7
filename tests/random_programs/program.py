"""A program as text, and its twin in PyTorch, which grow together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

Shape = tuple[int, ...]
Values = dict[str, Tensor]
Held = Any  # the twin, or a part of it: layers and parameters by name
Step = Callable[[Held, Values], Tensor]
Made = tuple[str, Shape, Step]  # an expression, its shape, its twin
Draw = st.DrawFn

GRIDS = (2, 3)  # axes that values with channels and a grid behind them have


class Twin(nn.Module):
    """Runs the closures of a program in order and gives its outputs."""

    def __init__(self, program: RandomProgram) -> None:
        super().__init__()
        self.program = program
        for name, make in program.layers.items():
            self._hold(name, make())
        for name, shape in program.parameters.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))

    def _hold(self, name: str, layer: nn.Module) -> None:
        """A layer by its name, or one of several parts by theirs: `mlp.dense.1` is `mlp_dense_1`."""
        if type(layer).__module__.startswith("torch.") and not list(layer.children()):
            setattr(self, name, layer)
            return
        object.__setattr__(self, name, layer)  # only its parts are registered
        for part, made in layer.named_children():
            self._hold(f"{name}_{part}", made)
        for own, parameter in layer.named_parameters(recurse=False):
            setattr(self, f"{name}_{own}", parameter)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.program.run(self, inputs)


class Part:
    """An instance of a block: its settings, and layers and parameters with its name before theirs."""

    def __init__(self, whole: Held, name: str, **settings: Any) -> None:
        self._whole, self._name = whole, name
        self.__dict__.update(settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, f"{self._name}_{name}")


@dataclass
class RandomProgram:
    """A program as text, and the pieces of its twin."""

    inputs: dict[str, Shape] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)  # of the inputs that hold tokens, how many there are
    settings: dict[str, Any] = field(default_factory=dict)  # parameters of the model, and their defaults
    head: list[str] = field(default_factory=list)  # what stands before the model: imports, functions, blocks
    lines: list[str] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)  # of each value, by its name or how it is read
    steps: list[tuple[str, Step]] = field(default_factory=list)
    layers: dict[str, Callable[[], nn.Module]] = field(default_factory=dict)
    applied: dict[str, Shape] = field(default_factory=dict)  # of each layer, what it takes
    parameters: dict[str, Shape] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    made: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)  # matrices not linear in these
    matrices: dict[str, str] = field(default_factory=dict)  # as they are written, and their names in the twin
    instances: dict[str, tuple[RandomProgram, dict[str, Any]]] = field(default_factory=dict)  # of blocks
    names: int = 0
    depth: int = 0  # of blocks within blocks

    @property
    def text(self) -> str:
        return "\n".join([*self.head, *self.written("model Random")]) + "\n"

    def written(self, kind: str) -> list[str]:
        """The lines of a model or a block."""
        settings = ", ".join(f"{name} = {value}" for name, value in self.settings.items())
        return [f"{kind}({settings})", *("    " + line for line in self.lines), "end"]

    def run(self, held: Held, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The outputs, with the layers and parameters that a twin holds."""
        values = dict(zip(self.inputs, inputs))
        for name, step in self.steps:
            values[name] = step(held, values)
        return tuple(values[name] for name in self.outputs)

    def given(self, batch: int) -> list[Tensor]:
        """Random values for the inputs."""
        return [
            torch.randint(self.tokens[name], (batch, *shape))
            if name in self.tokens
            else torch.randn(batch, *shape, dtype=torch.float64)
            for name, shape in self.inputs.items()
        ]

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """How an example that fails is shown."""
        printer.text(f"\n{self.text}")

    def fresh(self, letter: str) -> str:
        """A name that is not taken."""
        self.names += 1
        return f"{letter}{self.names}"

    def outside(self, letter: str) -> str:
        """A name for what stands before the model."""
        return f"{letter}_{len(self.head)}"

    def number(self, draw: Draw, value: float) -> str:
        """A number as it is, by a parameter of the model, or computed."""
        ways = ["plain", "plain", "setting"] + ["computed", "chosen"] * isinstance(value, int)
        match draw(st.sampled_from(ways)):
            case "setting":
                name = self.fresh("n")
                self.settings[name] = value
                return name
            case "computed":
                return draw(
                    st.sampled_from([f"{2 * value + 1} ÷ 2", f"{value + 3} - 3", f"length(1:{value})"])
                )
            case "chosen":
                return f"ifelse({value} > 2, {value}, {value})"
        return str(value)

    def layer(self, text: str, make: Callable[[], nn.Module], shape: Shape) -> str:
        """A layer for values of a shape; gives its name."""
        name = self.fresh("L")
        self.lines.append(f"layer {name} = {text}")
        self.layers[name] = make
        self.applied[name] = shape
        return name

    def parameter(self, letter: str, shape: Shape) -> str:
        """A tensor that is trained; gives its name."""
        name = self.fresh(letter)
        self.lines.append(f"param {name}{show(shape)} = normal(0.5)")
        self.parameters[name] = shape
        if len(shape) == 2:
            self.matrices[name] = name
        return name

    def value(self, name: str, shape: Shape, step: Step) -> str:
        """What a name of the program stands for, once its line is written."""
        self.shapes[name] = shape
        self.steps.append((name, step))
        return name

    def unread(self) -> list[str]:
        """The values that nothing reads, the last one first."""
        words = Counter(re.findall(r"\w+", " ".join(self.lines)))
        found = [name for name in self.shapes if name.isidentifier() and words[name] <= 1]
        return (found or list(self.shapes))[::-1]

    def of_shape(self, shape: Shape) -> list[str]:
        """The values of a shape."""
        return [name for name, other in self.shapes.items() if other == shape]


@dataclass(frozen=True)
class Maker:
    """What draws one operation on a value, for values with so many axes, so often."""

    build: Callable[[RandomProgram, str, Shape], st.SearchStrategy[Made]]
    axes: tuple[int, ...] = (1, 2, 3)
    often: int = 1


Makers = Mapping[str, Maker]


def show(shape: Shape) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def count(shape: Shape) -> int:
    return torch.Size(shape).numel()


def call(draw: Draw, layer: str, source: str) -> str:
    """A layer that is linear, applied in one of the ways that there are."""
    return draw(st.sampled_from([f"{layer}*{source}", f"{layer}({source})", f"({source} |> {layer})"]))


def running(layer: str, source: str) -> Step:
    return lambda held, values: getattr(held, layer)(values[source])
