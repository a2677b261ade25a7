"""A program as text, and its twin in PyTorch, which grow together."""

from __future__ import annotations

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


class Twin(nn.Module):
    """Runs the closures of a program in order and gives its outputs."""

    def __init__(self, program: RandomProgram) -> None:
        super().__init__()
        self.steps, self.outputs, self.inputs = program.steps, program.outputs, list(program.inputs)
        for name, make in program.layers.items():
            setattr(self, name, make())
        for name, shape in program.parameters.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(self.inputs, inputs))
        for name, step in self.steps:
            values[name] = step(self, values)
        return tuple(values[name] for name in self.outputs)


@dataclass
class RandomProgram:
    """A program as text, and the pieces of its twin."""

    inputs: dict[str, Shape] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)  # of each value, by its name or how it is read
    steps: list[tuple[str, Step]] = field(default_factory=list)
    layers: dict[str, Callable[[], nn.Module]] = field(default_factory=dict)
    applied: dict[str, Shape] = field(default_factory=dict)  # of each layer, what it takes
    parameters: dict[str, Shape] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    names: int = 0

    @property
    def text(self) -> str:
        return "\n".join(["model Random()", *("    " + line for line in self.lines), "end"]) + "\n"

    def __repr__(self) -> str:
        return self.text

    def fresh(self, letter: str) -> str:
        """A name that is not taken."""
        self.names += 1
        return f"{letter}{self.names}"

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
        return name

    def value(self, name: str, shape: Shape, step: Step) -> str:
        """What a name of the program stands for, once its line is written."""
        self.shapes[name] = shape
        self.steps.append((name, step))
        return name

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
