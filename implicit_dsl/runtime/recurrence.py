"""What generated loops over the steps of a sequence need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from implicit_dsl.runtime.asking import all_finite, may_ask
from implicit_dsl.runtime.autocast import autocasts


def stack(steps: list[Tensor], like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The values of all steps side by side, [batch, steps, *shape], with as many samples as `like` has."""
    return torch.stack(steps, 1) if steps else like.new_zeros((like.shape[0], 0, *shape))


def last(sequence: Tensor) -> Tensor:
    """The last entry of a sequence [batch, steps, …]; zeros if there is none."""
    if sequence.shape[1]:
        return sequence[:, -1]
    return sequence.new_zeros((sequence.shape[0], *sequence.shape[2:]))


class RecurrenceError(RuntimeError):
    """A state of a recurrence is not finite from some step on."""


def require_finite_steps(
    line: int, states: Mapping[str, Tensor], steps: Mapping[str, Sequence[Tensor] | Tensor]
) -> None:
    """Raises RecurrenceError if some `states` behind the last step are not finite.

    It names the first such step where all `steps` of a state are given: a list, or [batch, steps, …].
    Nothing is asked while a graph is captured, and under transforms of torch.func.
    """
    if not all(map(may_ask, states.values())):
        return
    for name, last in states.items():
        if all_finite(last):
            continue
        what = f"`{name}` (line {line})" if line else f"`{name}`"
        raise RecurrenceError(
            f"{what} is not finite {_since(steps.get(name))}. To mend it: look for such numbers in the "
            "inputs, bound the activation or the weights, clip gradients, or lower the learning rate"
        )


def _since(steps: Sequence[Tensor] | Tensor | None) -> str:
    """From which step on, and in which sample."""
    each = () if steps is None else steps.unbind(1) if isinstance(steps, Tensor) else steps
    for number, step in enumerate(each, 1):
        wrong = ~step.detach().isfinite().reshape(len(step), -1).all(1)
        if bool(wrong.any()):
            return f"from step {number} on, in sample {int(wrong.nonzero()[0])}"
    return "behind the last step"


def or_zeros(value: Tensor, sequence: Tensor) -> Tensor:
    """A value of the last step; zeros if the sequence [batch, steps, …] has none."""
    return value if sequence.shape[1] else torch.zeros_like(value)


def one_kernel(*tensors: Tensor, casts: bool = False) -> bool:
    """Whether all steps may be computed by operations that only know plain tensors and their gradients.

    Not where PyTorch records or maps what is computed: there the steps are operations of their own. Nor
    where it chooses dtypes, unless the operations have it do so: what `casts` says.
    """
    if torch.compiler.is_compiling() or torch._C._is_tracing() or torch._C._are_functorch_transforms_active():
        return False
    first = tensors[0]
    if forward_ad._current_level >= 0 or not all(type(one) in (Tensor, nn.Parameter) for one in tensors):
        return False
    if first.is_meta:
        return False
    if autocasts(first.device):
        return casts and all(one.device == first.device for one in tensors)
    return first.is_floating_point() and all(
        one.dtype is first.dtype and one.device == first.device for one in tensors
    )
