"""The system of what is analysed: of a compiled model with its weights, for inputs of given sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from implicit_dsl.model import ImplicitModel
from implicit_dsl.runtime.system import System
from implicit_dsl.train.discovering import structure_of

Shapes = Mapping[str, tuple[int, ...]]


def system_of(model: nn.Module | System, shapes: Shapes | None = None, length: int | None = None) -> System:
    """The system of a compiled model. `shapes` and `length` are those of inputs with free sizes.

    Raises TypeError if the model is not a compiled one, ValueError if a size is not given or does not fit.
    """
    if not isinstance(model, System):
        return System.of(model, structure_of(model), shapes, length=length)
    if shapes or length is not None:
        raise ValueError("a system has its sizes already: give `shapes` and `length` where it is made")
    return model


def system_for(model: nn.Module | System, inputs: Sequence[torch.Tensor]) -> System:
    """The same for inputs [batch, *shape] of these sizes. Raises TypeError if the model is not compiled."""
    if isinstance(model, System):
        return model
    structure = ImplicitModel.from_data(structure_of(model))
    for one in inputs:
        if not isinstance(one, torch.Tensor):
            raise TypeError(f"inputs are tensors [batch, …], and a {type(one).__name__} was given")
    free = {name for name, _ in structure.free}
    pairs = zip(structure.inputs, inputs)
    return system_of(model, {block.name: tuple(u.shape[1:]) for block, u in pairs if block.name in free})


def tensors_for(model: nn.Module, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The inputs on the device of a model and, unless they are tokens, in its dtype, without gradients."""
    like = next((p for p in (*model.parameters(), *model.buffers()) if p.dtype.is_floating_point), None)
    if like is None:
        return [u.detach() for u in inputs]
    return [u.detach().to(like.device, like.dtype if u.dtype.is_floating_point else u.dtype) for u in inputs]


__all__ = ["system_for", "system_of", "tensors_for"]
