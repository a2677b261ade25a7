"""`discover`: a compiled model with its weights as a program of what is left of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from implicit_dsl._lazy import lazy_module
from implicit_dsl.discovery.keeping import kept
from implicit_dsl.discovery.naming import Naming
from implicit_dsl.discovery.spelling import CannotWrite, activated
from implicit_dsl.discovery.terms import Terms
from implicit_dsl.model import Block, ImplicitModel
from implicit_dsl.operators import activation_rule
from implicit_dsl.runtime.certificates.roots import perron_bounds
from implicit_dsl.runtime.pruning.units import not_zero, observed, slots_of
from implicit_dsl.runtime.system import System
from implicit_dsl.shapes import sizes

if TYPE_CHECKING:
    import numpy as np
    from torch import nn
else:
    np = lazy_module("numpy")

_STACKED = {"product": " .* "}
_MOST_GAIN = 0.999  # of a loop whose bound is written


@dataclass(frozen=True, slots=True)
class Discovered:
    """A program, the weights of its module by their keys in float64, and what became of the model.

    `weights` are how many trained numbers there are, and `entries` how many of A, B, C and D are not zero,
    before and after. `states` are (name, shape before, shape after) of what shrank; None: it is gone.
    """

    name: str
    source: str
    tensors: Mapping[str, np.ndarray]
    weights: tuple[int, int]
    entries: tuple[int, int]
    states: tuple[tuple[str, tuple[int, ...], tuple[int, ...] | None], ...]

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {self.weights[1]:,} of {self.weights[0]:,} trained numbers, "
            f"{self.entries[1]:,} of {self.entries[0]:,} entries of A, B, C and D"
        ]
        for name, before, after in self.states:
            lines.append(f"  {name} {list(before)} -> {'gone' if after is None else list(after)}")
        return "\n".join(lines)


def discover(
    module: nn.Module,
    structure: Mapping[str, Any],
    name: str = "",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Discovered:
    """The program of what matters in a module whose structure is `ImplicitModel.as_data()`.

    States that are zero for every input, or that no output depends on, are gone, and so are channels and
    units of which that is true; blocks that are zero are not written, and matrices of which at most half of
    the entries are left are members of `Sparse`. The program is called `name`, or as the model with
    `Discovered` behind it, and computes the same function in evaluation mode.

    Raises CannotWrite for recurrences, `ode`, and operators that are not written back, and ValueError if a
    free size is not given in `shapes`.
    """
    given = ImplicitModel.from_data(structure)
    if given.recurrences:
        raise CannotWrite("what is computed step by step (`recurrent`, `ode`) is not written back")
    system = System.of(module, structure, shapes, order="lower")
    model, chosen = system.model, kept(system)
    naming = Naming(model)
    terms = Terms(model, system.weights, chosen, naming)
    left = [block for block in model.states if len(chosen[block.name])]
    equations = [_equation(block, model, terms, naming, chosen) for block in left]
    outputs = [_output(block, terms, naming) for block in model.outputs]
    title = name or f"{model.name}Discovered"
    lines = [f'"""What is left of {model.name}, whose weights are beside it."""', f"model {title}"]
    lines += [_input(block, naming) for block in model.inputs]
    lines += terms.declarations + equations + outputs
    lines += _wellposed(system, chosen)
    text = "\n".join([lines[0], lines[1], *(f"    {line}" for line in lines[2:]), "end", ""])
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    counted = sum(held.size for key, held in terms.tensors.items() if key.rpartition(".")[2] not in buffers)
    before = sum(int(parameter.numel()) for parameter in module.parameters())
    return Discovered(
        title,
        text,
        terms.tensors,
        (before, counted),
        _entries(system),
        tuple(_changed(model, chosen)),
    )


def _entries(system: System) -> tuple[int, int]:
    """How many entries of A, B, C and D are not zero, and of these matter to an output."""
    seen, alive = observed(system), not_zero(system)
    rows = slots_of(system.states, seen)
    inputs, outputs = (np.ones(system.partition(axis).total, bool) for axis in ("inputs", "outputs"))
    sides = {"A": (rows, alive), "B": (rows, inputs), "C": (outputs, alive), "D": (outputs, inputs)}
    every = matter = 0
    for name, (row, column) in sides.items():
        at = getattr(system, name).to_scipy().nonzero()
        every += len(at[0])
        matter += int((row[at[0]] & column[at[1]]).sum())
    return every, matter


def _input(block: Block, naming: Naming) -> str:
    shape = ", ".join(map(str, sizes(block.given)))
    tokens = f" in Tokens({sizes(block.shape)[-1]})" if block.tokens else ""
    return f"input {naming.block(block.name)}" + (f"[{shape}]" if shape else "[]") + tokens


def _equation(
    block: Block, model: ImplicitModel, terms: Terms, naming: Naming, chosen: Mapping[str, np.ndarray]
) -> str:
    looped = {name for loop in model.loops for name in loop.states}
    name, shape = naming.block(block.name), list(sizes(block.shape))
    if shape:
        shape[0] = len(chosen[block.name])
    stacked = _STACKED.get(block.phi)
    if stacked is not None:
        value = stacked.join(f"({argument})" for argument in terms.stacked(block))
    else:
        value = activated(block, terms.total(block))
    # a name for a parameter would be that parameter, and a matrix is not what it is applied to
    if block.activation is None and block.name not in looped and value not in terms.tensors:
        return f"{name} = {value}"
    return f"state {name}[{', '.join(map(str, shape))}] ~ {value}"


def _output(block: Block, terms: Terms, naming: Naming) -> str:
    return f"output {naming.block(block.name)} = {terms.total(block)}"


def _wellposed(system: System, chosen: Mapping[str, np.ndarray]) -> list[str]:
    """What keeps the loops that are left well posed, as far as these weights are within it."""
    loops = [loop for loop in system.model.loops if any(len(chosen[name]) for name in loop.states)]
    if not loops:
        return []
    A, slots, states = system.A.to_scipy(), system.partition("slots"), system.partition("states")
    rows = roots = 0.0
    for loop in loops:
        reads = np.concatenate([np.arange(slots.total)[slots[name]] for name in loop.states])
        columns = np.concatenate([np.arange(states.total)[states[name]] for name in loop.states])
        part = abs(A[reads][:, columns])
        rows = max(rows, float(part.sum(1).max()))
        square = part.shape[0] == part.shape[1]  # else a state has several arguments, and no root
        roots = max(roots, perron_bounds(part).upper if square else math.inf)
    blocks = [system.model.blocks[name] for loop in loops for name in loop.states]
    if not all(block.activation is None or activation_rule(block.activation).elementwise for block in blocks):
        roots = math.inf  # a root says nothing of entries that are mixed
    slope = max(map(_gain, blocks))
    for form, gain in (("norm(system.A, Inf)", rows), ("spectral(abs(system.A))", roots)):
        if slope * (gain + 1e-3) <= _MOST_GAIN:
            return [f"@wellposed {form} <= {_above(gain)}"]
    return ["@wellposed unchecked"]


def _gain(block: Block) -> float:
    """The largest change of an entry of the state for changes of its slots by 1; infinite if not known."""
    if block.activation is None:
        return 1.0
    ones = np.ones((1, *sizes(block.slots)))
    return float(activation_rule(block.activation).majorant(block.activation, ones).max(initial=0.0))


def _above(gain: float) -> float:
    """A bound with three digits that holds, and leaves room for float32."""
    return math.ceil(gain * 1000 + 0.01) / 1000


def _changed(model: ImplicitModel, chosen: Mapping[str, np.ndarray]) -> Any:
    for block in model.states:
        shape = sizes(block.shape)
        left = len(chosen[block.name])
        if not left:
            yield block.name, shape, None
        elif shape and left < shape[0]:
            yield block.name, shape, (left, *shape[1:])


def tensors_of(found: Discovered, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights of what was found, to be loaded into its module."""
    made = {}
    for name, value in found.tensors.items():
        held = torch.from_numpy(np.array(value))
        made[name] = held.to(dtype).contiguous() if held.is_floating_point() else held
    return made


__all__ = ["Discovered", "discover", "tensors_of"]
