"""The states of a trained network on some inputs: what its activations read, and what they return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from implicit_dsl.runtime.evaluating import evaluating
from implicit_dsl.train.state_driven.activations import Layer, found_in, layer_of, why_not
from implicit_dsl.train.state_driven.compiled import is_compiled, states_of_compiled


@dataclass(frozen=True)
class States:
    """U [m, p], Z and X = φ(Z) [m, n], Y [m, q] of m samples; n = Σ layer.size, in the order of `layers`.

    `layers` stand in the order in which the network computes them. `input_shape` and `output_shape` are
    without batch, and `dtype` is that of the outputs.
    """

    U: Tensor
    Z: Tensor
    X: Tensor
    Y: Tensor
    layers: tuple[Layer, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    dtype: torch.dtype

    def __post_init__(self) -> None:
        m, n = len(self.U), sum(layer.size for layer in self.layers)
        shapes = {
            "U": (self.U, prod(self.input_shape)),
            "Z": (self.Z, n),
            "X": (self.X, n),
            "Y": (self.Y, prod(self.output_shape)),
        }
        for name, (tensor, width) in shapes.items():
            if tuple(tensor.shape) != (m, width):
                raise ValueError(f"`{name}` has shape {list(tensor.shape)}, not [{m}, {width}]")
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"`{name}` holds values that are not finite: no row can be fitted to them")
        if not (n and m > 1):
            raise ValueError(f"{m} samples of {n} states: two samples and one state are the least")


def collect_states(
    network: nn.Module, inputs: Tensor, *, layers: Sequence[str] | None = None, batch: int = 1024
) -> States:
    """The states of a network on inputs [m, *shape], in evaluation mode and without gradients.

    Of a PyTorch module they are taken by hooks on its activation modules (relu, leaky_relu, tanh, sigmoid):
    all of them, or those that `layers` names as `named_modules()` does, among them nn.Identity, whose states
    are linear. A module that is called k times counts k times. Functions such as `torch.relu` are no modules,
    and cannot be seen. Of a compiled model they are the states of its matrices. Raises ValueError for inputs
    of a wrong shape or with NaN, for a name that is no module, where no activation is found, and for an
    activation outside of the family; TypeError if the network is no module, or
    returns no tensor.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"{type(network).__name__} is no network: give a PyTorch module or a compiled model")
    if not isinstance(inputs, Tensor) or inputs.ndim < 2 or not inputs.dtype.is_floating_point:
        given = list(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ValueError(f"inputs are real numbers of shape [samples, …], and {given} was given")
    if not bool(torch.isfinite(inputs).all()):
        raise ValueError("the inputs hold values that are not finite")
    if batch < 1:
        raise ValueError(f"a batch of {batch} samples is none")
    if is_compiled(network):
        if layers is not None:
            raise ValueError("`layers` names modules; of a compiled model all states are taken")
        U, Z, X, Y, taken, shape, dtype = states_of_compiled(network, inputs)
        return States(U, Z, X, Y, taken, tuple(inputs.shape[1:]), shape, dtype)
    chosen = _modules(network, layers)
    with evaluating(network), torch.no_grad():
        parts = [_observed(network, piece, chosen) for piece in inputs.split(batch)]  # type: ignore[no-untyped-call]  # of PyTorch
    taken = parts[0][2]
    if any(part[2] != taken for part in parts):
        raise ValueError("the network computes other layers for other batches: its states are not the same")
    Z = torch.cat([part[0] for part in parts])
    outputs = torch.cat([part[1] for part in parts])
    U, Y = inputs.detach().double().flatten(1), outputs.double().flatten(1)
    return States(
        U, Z, _applied(Z, taken), Y, taken, tuple(inputs.shape[1:]), tuple(outputs.shape[1:]), outputs.dtype
    )


def _applied(Z: Tensor, layers: tuple[Layer, ...]) -> Tensor:
    """X = φ(Z), in float64: the network's own are rounded."""
    parts = torch.split(Z, [layer.size for layer in layers], 1)
    return torch.cat([layer.phi(part) for layer, part in zip(layers, parts)], 1)


def _modules(network: nn.Module, layers: Sequence[str] | None) -> dict[str, nn.Module]:
    """The activation modules to watch, by name."""
    if layers is None:
        return found_in(network)
    modules = dict(network.named_modules(remove_duplicate=False))
    for name in layers:
        if name not in modules:
            raise ValueError(f"the network has no module `{name}`")
        reason = why_not(modules[name])
        if reason:
            raise ValueError(
                f"`{name}` ({type(modules[name]).__name__}) cannot be a layer of states: {reason}"
            )
    if not layers:
        raise ValueError("no layers are named: there would be no states")
    return {name: modules[name] for name in layers}


def _observed(
    network: nn.Module, inputs: Tensor, chosen: dict[str, nn.Module]
) -> tuple[Tensor, Tensor, tuple[Layer, ...]]:
    """Z [batch, n], the outputs, and the layers in the order of their calls."""
    seen: list[tuple[str, nn.Module, Tensor]] = []

    def before(name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
            seen.append((name, module, given[0].detach().clone()))  # it may act in place

        return hook

    handles = [module.register_forward_pre_hook(before(name)) for name, module in chosen.items()]
    try:
        outputs = network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(outputs, Tensor):
        raise TypeError(f"the network returns {type(outputs).__name__}, and one tensor is needed")
    if not seen:
        raise ValueError(f"none of the layers {', '.join(chosen)} is called")
    if outputs.ndim < 2 or len(outputs) != len(inputs):
        raise ValueError(f"outputs of shape {list(outputs.shape)} are none for each of {len(inputs)} inputs")
    made, calls = [], dict.fromkeys(chosen, 0)
    for name, module, z in seen:
        if z.ndim < 2 or len(z) != len(inputs):
            raise ValueError(f"`{name}` reads {list(z.shape)}: its first axis does not count the samples")
        calls[name] += 1
        called = name if calls[name] == 1 else f"{name}#{calls[name]}"
        made.append(layer_of(called, module, prod(z.shape[1:])))
    return torch.cat([z.double().flatten(1) for _, _, z in seen], 1), outputs, tuple(made)
