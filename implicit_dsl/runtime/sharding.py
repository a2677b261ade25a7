"""Tensors of which each process has a part, as those of FSDP2 between calls."""

from __future__ import annotations

from torch import Tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor, or all of one of which each process has a part (DTensor, as of FSDP2): all meet here."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def parted(full: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor, which all processes have, that this one has of `like`."""
    if not hasattr(like, "full_tensor"):
        return full
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(like, DTensor)
    everywhere = [Replicate()] * like.device_mesh.ndim
    made = DTensor.from_local(full, like.device_mesh, everywhere, run_check=False)
    return made.redistribute(placements=like.placements)
