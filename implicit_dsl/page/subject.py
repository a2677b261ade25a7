"""What a page is about: a program, its model with trained weights, and perhaps data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

from implicit_dsl.graph import SignalGraph
from implicit_dsl.model import ImplicitModel
from implicit_dsl.shapes import sizes
from implicit_dsl.source import Source

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from implicit_dsl.runtime import Certificate, System


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs [samples, *shape] of a model, and the right classes [samples]; if there are none, why."""

    name: str  # of the file
    inputs: tuple[torch.Tensor, ...]
    labels: np.ndarray | None
    unlabelled: str = ""
    left_out: int = 0  # samples of the file that were not asked for

    def __len__(self) -> int:
        return len(self.inputs[0])


@dataclass(frozen=True, slots=True)
class Certifying:
    """How the accuracy is certified: radii ε, and what `certified_accuracy` takes."""

    radii: tuple[float, ...]
    method: str
    norm: Literal["inf", "2"]
    lower: float | None = None
    upper: float | None = None
    processes: int = 1
    attack: bool = True
    thorough: bool = False


@dataclass(frozen=True)
class Subject:
    """A model to report on. `module` is in evaluation mode, in the dtype in which it is used."""

    sources: tuple[Source, ...]
    graph: SignalGraph
    model: ImplicitModel  # without free sizes
    module: nn.Module
    weights: str  # the name of their file, or ''
    samples: Samples | None
    certifying: Certifying
    timed: bool = False

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of the inputs, without batch."""
        return {block.name: sizes(block.given) for block in self.model.inputs}

    @cached_property
    def system(self) -> System:
        """The matrices of the weights."""
        return cast("System", cast(Any, self.module).system(**self.shapes))

    @cached_property
    def certificate(self) -> Certificate:
        """What is proved with the weights."""
        from implicit_dsl.runtime.certificates import certify_system

        return certify_system(self.system)

    @cached_property
    def loop_of(self) -> dict[str, str]:
        """The loop of each state that is in one."""
        return {name: loop.name for loop in self.model.loops for name in loop.states}


def no_answer() -> tuple[type[Exception], ...]:
    """What computations raise where there is no answer; the text says why.

    ImportError: a package is missing; RuntimeError: a loop finds no equilibrium, or PyTorch no memory.
    """
    return (ValueError, ArithmeticError, ImportError, RuntimeError, MemoryError)


def reason(error: Exception) -> str:
    """The text of an error as a sentence."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")
