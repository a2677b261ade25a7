"""The activations that states may have: elementwise, and no slope above one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FAMILY: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.Identity: "identity",
}
HOMOGENEOUS = {"relu", "leaky_relu", "identity"}  # φ(s z) = s φ(z) for s > 0
NAMES = "relu, leaky_relu, tanh, sigmoid and identity"


@dataclass(frozen=True, slots=True)
class Layer:
    """States that a network computes together. `slope` is that of a leaky_relu below zero."""

    name: str
    kind: str
    size: int
    slope: float = 0.0

    @property
    def group(self) -> tuple[str, float]:
        """What is the same for layers that one equation can hold."""
        return self.kind, self.slope

    def phi(self, z: Tensor) -> Tensor:
        match self.kind:
            case "relu":
                return F.relu(z)
            case "leaky_relu":
                return F.leaky_relu(z, self.slope)
            case "tanh":
                return torch.tanh(z)
            case "sigmoid":
                return torch.sigmoid(z)
        return z


def layer_of(name: str, module: nn.Module, size: int) -> Layer:
    """The layer of one call of an activation module of the family."""
    slope = module.negative_slope if isinstance(module, nn.LeakyReLU) else 0.0
    return Layer(name, FAMILY[type(module)], size, float(slope))


def why_not(module: nn.Module) -> str:
    """Why a module cannot be an activation of states; empty if it can."""
    if type(module) not in FAMILY:
        return f"the family is {NAMES}"
    if isinstance(module, nn.LeakyReLU) and not 0 <= module.negative_slope <= 1:
        return f"its slope {module.negative_slope:g} is not within 0 and 1"
    return ""


def found_in(network: nn.Module) -> dict[str, nn.Module]:
    """The activation modules of a network, by name. Raises ValueError if one is outside of the family, or
    none is there.
    """
    found: dict[str, nn.Module] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Identity):
            continue  # what stands for nothing; it counts where it is named
        activates = type(module).__module__ == "torch.nn.modules.activation" or type(module) in FAMILY
        reason = why_not(module) if activates else ""
        if reason:
            raise ValueError(
                f"`{name or 'the network'}` ({type(module).__name__}) cannot be a layer of states: {reason}. "
                "Name the layers to take with `layers=[…]`"
            )
        if activates:
            found[name] = module
    if not found:
        raise ValueError(
            f"no activation module is found in {type(network).__name__}: functions such as torch.relu "
            "cannot be seen, so write them as modules (nn.ReLU), or name layers with `layers=[…]`"
        )
    return found
