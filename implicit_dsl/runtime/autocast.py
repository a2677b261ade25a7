"""Whether operations are autocast, and a context in which they are not."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def autocasts(device: torch.device) -> bool:
    """Whether operations on a device are autocast now. Some, such as meta, know no autocast."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def unautocast(device: torch.device) -> AbstractContextManager[object]:
    """A context without autocast, for solves and bounds: what is rounded meets them only nearly."""
    if autocasts(device):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
