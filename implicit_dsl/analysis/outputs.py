"""Bounds of outputs over boxes of inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import nn

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis.bounds import Effort, checked_method, output_bounds_of, samples_at_once
from implicit_dsl.analysis.network import Network
from implicit_dsl.analysis.regions import Inputs, box
from implicit_dsl.analysis.systems import system_for
from implicit_dsl.analysis.threads import in_one_thread
from implicit_dsl.runtime.system import System
from implicit_dsl.shapes import sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

Outputs: TypeAlias = torch.Tensor | tuple[torch.Tensor, ...]


@in_one_thread
def output_bounds(
    model: nn.Module | System,
    lower: Inputs,
    upper: Inputs,
    *,
    method: str = "crown",
    tighten: int | None = None,
    optimise: int = 0,
) -> tuple[Outputs, Outputs]:
    """Bounds of the outputs in evaluation mode for all inputs with lower ≤ u ≤ upper, proved.

    `lower` and `upper` are tensors [batch, *shape], or several, one for each input: a box for each sample.
    The bounds are float64, [batch, *shape] for one output and a tuple of these for several. Methods, from
    coarse to close:

        sensitivity  y₀ ± S (u − u₀), one matrix for all boxes
        interval     interval bound propagation, its fixed point around loops
        nemon        the same, where states that read themselves are solved for (Jafarpour et al. 2021)
        crown        implicit CROWN on these boxes; `tighten` rounds (2 for small models) bound the states
                     so as well, and `optimise` steps choose slopes
        lp, sdp      the linear and the semidefinite relaxation, for small models; the latter needs cvxpy

    They hold in exact arithmetic for the weights as they are. Raises NoBound (a ValueError) where nothing is
    proved, with what to do about it; ValueError for empty boxes, wrong shapes, NaN, unknown methods;
    TypeError if the model is not a compiled one.
    """
    checked_method(method)
    network = network_for(model, lower)
    region = box(network.system.inputs, lower, upper)
    effort = Effort.of(network, tighten, optimise)
    step = samples_at_once(network, 2 * sum(node.slots for node in network.outputs), effort)
    ends = [
        output_bounds_of(network, region.part(slice(at, at + step)), method, effort)
        for at in range(0, region.batch, step)
    ]
    low, high = (np.concatenate(side) for side in zip(*ends))
    return _as_outputs(network, low), _as_outputs(network, high)


def network_for(model: nn.Module | System, inputs: Inputs) -> Network:
    """The network of a compiled model with its weights, for inputs [batch, *shape] of these sizes.

    Raises TypeError if the model is not a compiled one.
    """
    given = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
    return Network.of(system_for(model, given))


def _as_outputs(network: Network, values: np.ndarray) -> Outputs:
    made, start = [], 0
    for node in network.outputs:
        part = values[:, start : start + node.slots]
        start += node.slots
        made.append(
            torch.from_numpy(np.ascontiguousarray(part)).reshape(len(values), *sizes(node.block.shape))
        )
    return made[0] if len(made) == 1 else tuple(made)


__all__ = ["network_for", "output_bounds"]
