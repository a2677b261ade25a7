"""Whether operations are run, or written down to be run later."""

from __future__ import annotations

import torch


def recorded() -> bool:
    """Whether operations are recorded now, or run on tensors without numbers, so that no data can be read.

    That is in torch.compile, torch.export, make_fx, torch.jit.trace and under FakeTensorMode. A solve
    that went on would become a record of the numbers of this one call.
    """
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return True
    if not torch._C._len_torch_dispatch_stack():
        return False
    keys = torch._C._TorchDispatchModeKey
    return any(torch._C._get_dispatch_mode(key) for key in (keys.PROXY, keys.FAKE, keys.FUNCTIONAL))


def replayed() -> bool:
    """Whether what is recorded takes the place of this call, with all that it leaves behind."""
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()
