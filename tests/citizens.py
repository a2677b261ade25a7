"""Every model of every example, with inputs made for it: what the tests of citizenship run over.

A new example is among them by itself. What it needs beyond that stands in one of the tables here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl.runtime import Equilibrium

EXAMPLES = Path(__file__).parents[1] / "examples"
FREE = 8  # what a size is that the program leaves free

# Parameters with which a model is tested where its own would take long; its structure stays.
SMALLER: dict[str, dict[str, object]] = {
    "MLP": {"widths": [32, 16]},
    "ResNet": {"depth": 1, "widths": [4, 8]},
    "TiedResNet": {"width": 4, "times": 2},
    "ConvDEQ": {"c": 4, "κ": 0.5},
    "MultiscaleDEQ": {"c": [3, 4], "κ": 0.5},
    "ResidualDEQ": {"c": 8, "inner": 8},
    "DEQTransformer": {"d": 16},
    "Implicit": {"n": 20, "κ": 0.5},
    "StructuredImplicit": {"blocks": [8, 6, 6], "rank": 2, "κ": 0.5},
    "MonotoneDEQ": {"n": 12, "m": 0.5},
    "NEMON": {"n": 12, "m": 0.5},
    "GraphNetwork": {"nodes": 6, "κ": 0.5},
    "FiniteGraphNetwork": {"nodes": 6},
    "ElmanNet": {"n": 8},
    "LSTMNet": {"n": 8},
    "GRUNet": {"n": 8},
    "MGUNet": {"n": 8},
    "ConvLSTM": {"n": 8},
    "ConvGRU": {"n": 3},
    "ERNN": {"n": 8, "κ": 0.3},
    "Kag": {"n": 8},
    "KagConverged": {"n": 8, "κ": 0.3},
    "NeuralODE": {"n": 8, "steps": 3},
    "AugmentedODE": {"n": 8, "steps": 3},
    "Flow": {"n": 8, "steps": 3},
    "DEQSequence": {"d": 16},
    "TrellisDEQ": {"d": 8, "κ": 0.5},
}


def _neighbours(batch: int, nodes: int, _: int) -> Tensor:
    """Adjacency matrices whose rows sum to 1, without which the equation of a graph need not be solvable."""
    return torch.rand(batch, nodes, nodes).softmax(-1)


# Inputs that are not just numbers, by model and name.
GIVEN: dict[tuple[str, str], Callable[..., Tensor]] = {
    ("GraphNetwork", "G"): _neighbours,
    ("FiniteGraphNetwork", "G"): _neighbours,
}


@dataclass(frozen=True)
class Citizen:
    """A model of an example."""

    example: str
    model: str

    @property
    def text(self) -> str:
        """The program."""
        return (EXAMPLES / f"{self.example}.impl").read_text(encoding="utf-8")

    @property
    def own_text(self) -> str:
        """The lines of this model in it."""
        (found,) = re.findall(rf"^model {self.model}\b.*?^end$", self.text, re.MULTILINE | re.DOTALL)
        return str(found)

    @property
    def module(self) -> ModuleType:
        """The generated module."""
        path, parameters = EXAMPLES / f"{self.example}.impl", SMALLER.get(self.model, {})
        return implicit_dsl.load(path, model=self.model, parameters=parameters)

    @property
    def structure(self) -> dict[str, Any]:
        """Its matrix form, as data."""
        found: dict[str, Any] = self.module._STRUCTURES[self.model]
        return found

    def make(self, **factory: Any) -> nn.Module:
        """A new module in evaluation mode; its weights and statistics are the same in each process."""
        made: type[nn.Module] = getattr(self.module, self.model)
        torch.manual_seed(0)
        module = made(**factory).eval()
        for layer in module.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not layer.weight.is_meta:
                layer.running_mean.normal_(0, 0.1)
        return module

    def inputs(self, batch: int = 3, dtype: torch.dtype = torch.float32, seed: int = 1) -> tuple[Tensor, ...]:
        """Random inputs [batch, …]."""
        torch.manual_seed(seed)
        found = []
        for name, shape, *tokens in self.structure["inputs"]:
            sizes = [size if isinstance(size, int) else FREE for size in shape]
            make = GIVEN.get((self.model, name))
            if make is not None:
                value = make(batch, *sizes)
            elif tokens:  # the last axis is that of their unit vectors
                value = torch.randint(sizes[-1], (batch, *sizes[:-1]))
            else:
                value = torch.randn(batch, *sizes)
            found.append(value.to(dtype) if value.is_floating_point() else value)
        return tuple(found)


def citizens() -> list[Citizen]:
    """All of them, in the order of the files."""
    return [
        Citizen(path.stem, name)
        for path in sorted(EXAMPLES.glob("*.impl"))
        for name in re.findall(r"^model\s+(\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]


def loops_of(module: nn.Module) -> list[Equilibrium]:
    """The equilibria of a module."""
    return [part for part in module.modules() if isinstance(part, Equilibrium)]


def slack(module: nn.Module, dtype: torch.dtype = torch.float32) -> float:
    """How far results may be apart that are computed in different ways: solves end within a tolerance."""
    return max([1e-5, *(30 * loop.settings.solver.tolerance_for(dtype) for loop in loops_of(module))])


def flat(value: Any) -> tuple[Tensor, ...]:
    """One output or several as a tuple."""
    return (value,) if isinstance(value, Tensor) else tuple(value)


def loss_of(value: Any) -> Tensor:
    """A number that every entry of the outputs changes in its own way."""
    total = torch.zeros(())
    for part in flat(value):
        part = part.float() if part.dtype in (torch.bfloat16, torch.float16) else part
        total = (
            total + (part * torch.linspace(-1, 2, part.numel(), dtype=part.dtype).reshape(part.shape)).sum()
        )
    return total
