"""Weights of a model into one that opens zeros of it: all that fits is copied, the new blocks stay zero."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from implicit_dsl.opened import Opened
from implicit_dsl.train.structure import structure_of


class TransferError(ValueError):
    """Weights are not those of the model before its zeros were opened; `wrong` says of each tensor why."""

    def __init__(self, wrong: Mapping[str, str]) -> None:
        self.wrong = dict(wrong)
        listed = [f"{key}: {why}" for key, why in wrong.items()]
        more = f"\n  and {len(listed) - 12} more" if len(listed) > 12 else ""
        super().__init__("the weights do not fit\n  " + "\n  ".join(listed[:12]) + more)


def opened_of(model: nn.Module) -> dict[str, Opened]:
    """What each parameter is for that an `open` made, by its name in the state_dict.

    Raises TypeError for a module that was not compiled from a program.
    """
    opened = {id: Opened(*of) for id, *of in structure_of(model).get("opened", ())}
    return {key: opened[key] for key in model.state_dict() if key in opened}


def transfer_(
    model: nn.Module, weights: nn.Module | Mapping[str, Tensor], *, fresh: Collection[str] = ()
) -> tuple[str, ...]:
    """Copy weights into a model that may have opened blocks beside; the names of what stayed as it was.

    `weights` are those of the model that it extends, a module or a state_dict, or its own. What is opened
    starts from zero, so that the model then computes what that one did; loops that are closed are solved to
    the tolerance of their solver. Layers named in `fresh` may be missing as well: those of states that
    came to life with a block from them.

    Raises TransferError if a tensor of the weights has no place or another shape, or if one of the model is
    neither there nor opened; then nothing is copied. Raises TypeError for a module that was not
    compiled from a program.
    """
    given = weights.state_dict() if isinstance(weights, nn.Module) else weights
    own = model.state_dict()
    may_stay = {*opened_of(model), *_of_parametrisations(model)}
    wrong: dict[str, str] = {}
    for key, tensor in given.items():
        if key not in own:
            wrong[key] = "there is none of this name in the model"
        elif tensor.shape != own[key].shape:
            wrong[key] = f"has shape {[*tensor.shape]}, and in the model {[*own[key].shape]}"
    stayed = tuple(key for key in own if key not in given)
    for key in stayed:
        if key not in may_stay and key not in fresh and key.rpartition(".")[0] not in fresh:
            wrong[key] = "is missing, and was not opened"
    if wrong:
        raise TransferError(wrong)
    with torch.no_grad():
        for key, tensor in given.items():
            own[key].copy_(tensor)
    return stayed


def _of_parametrisations(model: nn.Module) -> set[str]:
    """Free parameters that `method = "parametrize"` adds; they start from zero, too."""
    found: set[str] = set()
    for constraint in getattr(model, "constraints", ()):
        if constraint.method == "parametrize":
            found.update(constraint.extra_shapes(constraint.weights(model)))
    return found
