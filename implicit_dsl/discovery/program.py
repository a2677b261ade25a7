"""`discover`: a compiled model with its weights as a program of what is left of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from implicit_dsl._lazy import lazy_module
from implicit_dsl.discovery.keeping import kept
from implicit_dsl.discovery.naming import Naming
from implicit_dsl.discovery.spelling import CannotWrite, several
from implicit_dsl.discovery.terms import Terms
from implicit_dsl.discovery.wellposed import as_tensors, with_bound
from implicit_dsl.model import Block, ImplicitModel
from implicit_dsl.operators import activation_rule
from implicit_dsl.operators.slots import SeveralSlots
from implicit_dsl.runtime.pruning.units import not_zero, observed, slots_of
from implicit_dsl.runtime.system import System
from implicit_dsl.shapes import sizes

if TYPE_CHECKING:
    import numpy as np
    from torch import nn
else:
    np = lazy_module("numpy")


STEPPED = "what is computed step by step (`recurrent`, `ode`) is not written back"


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
        raise CannotWrite(STEPPED)
    system = System.of(module, structure, shapes, order="lower")
    model, chosen = system.model, kept(system)
    naming = Naming(model)
    terms = Terms(model, system.weights, chosen, naming)
    alike = _same_as(model, terms, chosen)
    for layer, value in alike.items():
        naming.share(layer, value)
    left = [block for block in model.states if len(chosen[block.name]) and block.name not in alike.values()]
    equations = [_equation(block, model, terms, naming, chosen) for block in left]
    outputs = [_output(block, terms, naming) for block in model.outputs]
    title = name or f"{model.name}Discovered"
    lengths = {term.source for term in model.terms if term.chain and term.chain[0].kind == "number"}
    lines = [f"model {title}"]
    lines += [f"    {_input(block, naming, block.name in lengths)}" for block in model.inputs]
    lines += [f"    {line}" for line in (*terms.declarations, *equations, *outputs)]
    text = f'"""What is left of {model.name}, whose weights are beside it."""\n' + "\n".join(lines) + "\n"
    source = with_bound(text, title, terms.tensors, system, chosen)
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    counted = sum(held.size for key, held in terms.tensors.items() if key.rpartition(".")[2] not in buffers)
    before = sum(int(parameter.numel()) for parameter in module.parameters())
    return Discovered(
        title,
        source,
        terms.tensors,
        (before, counted),
        _entries(system),
        tuple(_changed(model, chosen)),
    )


def _same_as(model: ImplicitModel, terms: Terms, chosen: Mapping[str, np.ndarray]) -> dict[str, str]:
    """States that are a layer with what follows it, and the states that are these and nothing else."""
    found = {}
    states = {block.name: block for block in model.states}
    for block in model.states:
        readers = [term for term in model.terms if term.source == block.name]
        if len(readers) != 1 or len(readers[0].chain) != 1 or not terms.is_joined(block):
            continue
        reader = states.get(readers[0].target)
        if reader is None or reader.activation is not None or len(model.terms_of[reader.name]) > 1:
            continue
        if len(chosen[reader.name]) == len(chosen[block.name]):
            found[block.name] = reader.name
    return found


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


def _input(block: Block, naming: Naming, is_length: bool) -> str:
    shape = ", ".join(map(str, sizes(block.given)))
    among = ""
    if block.tokens:
        (size,) = sizes(block.shape[-1:])
        among = f" in 0:{size - 1}" if is_length else f" in Tokens({size})"
    return f"input {naming.block(block.name)}[{shape}]{among}"


def _equation(
    block: Block, model: ImplicitModel, terms: Terms, naming: Naming, chosen: Mapping[str, np.ndarray]
) -> str:
    looped = {name for loop in model.loops for name in loop.states}
    name, shape = naming.block(block.name), list(sizes(block.shape))
    if shape:
        shape[0] = len(chosen[block.name])
    layer = terms.layer_of(block)
    if layer is not None:
        made, behind = layer
        shape, value = list(sizes(behind.target)), f"{made}({terms.total(block)})"
    elif block.activation is not None and isinstance(activation_rule(block.activation), SeveralSlots):
        value = several(block.activation, terms.stacked(block))
    else:
        value = terms.activated(block)
    # a name for a parameter would be that parameter, and a matrix is not what it is applied to
    if block.activation is None and block.name not in looped and value not in terms.tensors:
        return f"{name} = {value}"
    return f"state {name}[{', '.join(map(str, shape))}] ~ {value}"


def _output(block: Block, terms: Terms, naming: Naming) -> str:
    return f"output {naming.block(block.name)} = {terms.total(block)}"


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
    return as_tensors(found.tensors, dtype)


__all__ = ["STEPPED", "Discovered", "discover", "tensors_of"]
