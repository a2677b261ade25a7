"""Modules of the programs of the command line, with weights from files of formats that carry no code."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from implicit_dsl.cli.messages import Refusal
from implicit_dsl.cli.options import USAGE
from implicit_dsl.files import reason

if TYPE_CHECKING:
    import torch
    from torch import nn

    from implicit_dsl.compiler import Checked

_MOST_LISTED = 5


def instance(found: Checked, seed: int = 0, weights: str | None = None) -> nn.Module:
    """The generated module of the first model, with the weights of a file or new ones.

    Raises Refusal unless the tensors of the file are exactly those of the module.
    """
    import torch

    from implicit_dsl.emit import emit
    from implicit_dsl.loading import execute

    text = emit(found.models, found.sources, found.parameters)
    module = execute(text, "implicit_dsl._loaded.weights")
    torch.manual_seed(seed)
    made: nn.Module = getattr(module, found.models[0].name)()
    if weights is not None:
        load_weights(made, weights)
    return made


def load_weights(module: nn.Module, path: str) -> None:
    """Put the tensors of a file into a module. Raises Refusal unless they are exactly its own."""
    tensors = _read(path)
    own = module.state_dict()
    troubles = [
        *_listed("is missing", [name for name in own if name not in tensors]),
        *_listed("is not one of the model's", [name for name in tensors if name not in own]),
        *_listed(
            "has another shape",
            [
                f"{name} {list(tensors[name].shape)}, not {list(own[name].shape)}"
                for name in own
                if name in tensors and tensors[name].shape != own[name].shape
            ],
        ),
    ]
    if troubles:
        about = f"`{path}` does not fit {type(module).__name__}: "
        raise Refusal(about + "; ".join(troubles), "save what `module.state_dict()` returns")
    module.load_state_dict(dict(tensors))


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    verb = what if len(names) == 1 else what.replace("is ", "are ", 1).replace("has ", "have ", 1)
    return [f"{', '.join(names[:_MOST_LISTED])}{more} {verb}"]


def _read(path: str) -> Mapping[str, torch.Tensor]:
    readers = {
        ".pt": _torch, ".pth": _torch, ".bin": _torch, ".npz": _numpy, ".safetensors": _safetensors
    }  # fmt: skip
    reader = readers.get(os.path.splitext(path)[1].lower())
    if reader is None:
        raise Refusal(f"`{path}` must end in .pt, .safetensors or .npz", code=USAGE)
    try:
        return reader(path)
    except OSError as error:
        raise Refusal(f"`{path}` cannot be read: {reason(error)}") from None


def _torch(path: str) -> Mapping[str, torch.Tensor]:
    import pickle

    import torch

    try:
        held: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        first = str(error).strip().splitlines()[:1]
        raise Refusal(
            f"`{path}` holds no plain weights: {' '.join(first)}",
            "save what `module.state_dict()` returns: files that run code when read are refused",
        ) from None
    if isinstance(held, Mapping) and isinstance(held.get("state_dict"), Mapping):
        held = held["state_dict"]  # a checkpoint with more than the weights
    if not isinstance(held, Mapping) or not _all_tensors(held.values()):
        raise Refusal(f"`{path}` is no state_dict", "save what `module.state_dict()` returns")
    return held


def _all_tensors(values: Iterable[Any]) -> bool:
    import torch

    return all(isinstance(value, torch.Tensor) for value in values)


def _numpy(path: str) -> Mapping[str, torch.Tensor]:
    import zipfile

    import numpy as np
    import torch

    try:
        with np.load(path, allow_pickle=False) as held:
            return {name: torch.from_numpy(held[name]) for name in held.files}
    except (ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise Refusal(f"`{path}` is no archive of arrays: {error}") from None


def _safetensors(path: str) -> Mapping[str, torch.Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise Refusal("reading .safetensors needs a package", "pip install safetensors") from None
    try:
        return load_file(path)
    except SafetensorError as error:
        raise Refusal(f"`{path}` is no safetensors file: {error}") from None
