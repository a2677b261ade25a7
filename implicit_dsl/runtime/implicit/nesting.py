"""What PyTorch cannot nest."""

from __future__ import annotations

import torch


def forbid_nested_forward(name: str) -> None:
    """Raise where PyTorch would silently return zeros: forward mode in forward mode, through a Function."""
    stack = torch._C._functorch.get_interpreter_stack() or ()
    forward = torch._C._functorch.TransformType.Jvp
    if sum(interpreter.key() == forward for interpreter in stack) > 1:
        raise RuntimeError(
            f"`{name}`: PyTorch cannot nest forward mode (jvp, jacfwd) around a custom operation; take "
            "jacfwd(jacrev(f)), which is torch.func.hessian, or jacrev(jacrev(f))"
        )
