"""The states of a compiled model, from its matrices: many samples at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from implicit_dsl.shapes import count, sizes
from implicit_dsl.train.state_driven.activations import FAMILY, NAMES, Layer

if TYPE_CHECKING:
    from implicit_dsl.model import Block
    from implicit_dsl.runtime import System

_SWEEPS = 2000
_SETTLED = 1e-12  # of the largest state: a step that is a matter of rounding


def is_compiled(network: nn.Module) -> bool:
    return callable(getattr(network, "system", None)) and hasattr(type(network), "system")


def states_of_compiled(
    network: nn.Module, inputs: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Layer, ...], tuple[int, ...], torch.dtype]:
    """U, Z, X, Y [m, ·], the layers, the shape of the outputs and their dtype.

    x ← φ(A x + B u + b) for all samples at once, which ends after as many steps as a feed-forward model has
    states in a row; where it does not settle, each sample by itself (`System.states_of`).
    """
    system: System = cast(Any, network).system()
    if len(system.inputs) != 1 or len(system.outputs) != 1:
        raise ValueError(
            f"a model with one input and one output is needed, and {system.model.name} has "
            f"{len(system.inputs)} and {len(system.outputs)}"
        )
    block = system.inputs[0]
    if tuple(inputs.shape[1:]) != tuple(block.shape) or block.tokens:
        raise ValueError(
            f"`{block.name}` has shape {list(block.shape)}, and {list(inputs.shape[1:])} was given"
        )
    U = inputs.detach().cpu().double().flatten(1).numpy().T
    layers = tuple(_layer(block) for block in system.model.states)
    order, parts = [layer.name for layer in layers], system.partition("states")
    incoming = system.B.to_scipy() @ U + system.b[:, None]
    A = system.A.to_scipy()

    def phi(z: np.ndarray) -> np.ndarray:
        x = np.empty_like(z)
        for layer in layers:
            part = parts[layer.name]
            x[part] = layer.phi(torch.from_numpy(z[part])).numpy()
        return x

    X = _by_picard(lambda x: phi(A @ x + incoming), np.zeros_like(incoming))
    if X is None:
        solved = system.states_of(inputs.detach().cpu().double())
        X = np.zeros_like(incoming)
        for name, x in solved.items():
            X[parts[name]] = x.flatten(1).numpy().T
    Z = A @ X + incoming
    Y = system.C.to_scipy() @ X + system.D.to_scipy() @ U + system.d[:, None]
    rows = np.concatenate([np.arange(parts[name].start, parts[name].stop) for name in order])
    shape = sizes(system.outputs[0].shape)

    def samples(M: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(M.T)).to(inputs.device)

    return samples(U), samples(Z[rows]), samples(phi(Z)[rows]), samples(Y), layers, shape, inputs.dtype


def _by_picard(step: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray | None:
    """Where x ← f(x) comes to rest; None if it does not."""
    for _ in range(_SWEEPS):
        following = step(x)
        moved, x = float(np.abs(following - x).max(initial=0.0)), following
        if moved <= _SETTLED * float(np.abs(x).max(initial=0.0)):
            return x
        if not np.isfinite(moved):
            return None
    return None


def _layer(block: Block) -> Layer:
    """The layer of a state. Raises ValueError if its activation is outside of the family."""
    kind = "identity" if block.activation is None else block.activation.kind
    if kind not in FAMILY.values():
        raise ValueError(
            f"the state `{block.name}` has the activation {block.phi}, and the family is {NAMES}"
        )
    slope = 0.0
    if kind == "leaky_relu":
        assert block.activation is not None
        slope = float(block.activation["slope"])
        if not 0 <= slope <= 1:
            raise ValueError(f"the slope {slope:g} of the state `{block.name}` is not within 0 and 1")
    return Layer(block.name, kind, count(block.shape), slope)
