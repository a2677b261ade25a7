"""What keeps the loops of a program that is written well posed, as far as its weights are within it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from implicit_dsl._lazy import lazy_module
from implicit_dsl.errors import ImplicitError
from implicit_dsl.loading import loads
from implicit_dsl.model import Block
from implicit_dsl.operators import activation_rule
from implicit_dsl.runtime.certificates.roots import perron_bounds
from implicit_dsl.runtime.system import System
from implicit_dsl.shapes import sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

_MOST_GAIN = 0.999  # of a loop whose bound is written


def with_bound(
    text: str,
    title: str,
    tensors: Mapping[str, np.ndarray],
    system: System,
    chosen: Mapping[str, np.ndarray],
) -> str:
    """The program with its end, and before it a bound that its weights keep, if its loops need one.

    `text` lacks both. A module may measure its weights more coarsely than the exact matrix does, so that
    a bound is that of the module itself.
    """
    if not any(len(chosen[name]) for loop in system.model.loops for name in loop.states):
        return f"{text}end\n"
    slope, gains = _gains(system, chosen)
    for form, gain in gains:
        for _ in range(2):
            if not slope * (gain + 1e-3) <= _MOST_GAIN:
                break
            source = f"{text}    @wellposed {form} <= {_above(gain)}\nend\n"
            found = _measured(source, title, tensors)
            if found <= _above(gain):
                return source
            gain = found
    return f"{text}    @wellposed unchecked\nend\n"


def _gains(system: System, chosen: Mapping[str, np.ndarray]) -> tuple[float, tuple[tuple[str, float], ...]]:
    """The largest slope, and the largest row and root of |A| of the loops that are left."""
    loops = [loop for loop in system.model.loops if any(len(chosen[name]) for name in loop.states)]
    A, slots, states = system.A.to_scipy(), system.partition("slots"), system.partition("states")
    rows = roots = 0.0
    for loop in loops:
        reads = np.concatenate([np.arange(slots.total)[slots[name]] for name in loop.states])
        columns = np.concatenate([np.arange(states.total)[states[name]] for name in loop.states])
        part = abs(A[reads][:, columns])
        rows = max(rows, float(part.sum(1).max()))
        square = part.shape[0] == part.shape[1]  # else a state has several arguments, and no root
        roots = max(roots, perron_bounds(part).upper if square else math.inf)
    blocks = [system.model.blocks[name] for loop in loops for name in loop.states]
    if not all(block.activation is None or activation_rule(block.activation).elementwise for block in blocks):
        roots = math.inf  # a root says nothing of entries that are mixed
    slope = max(map(_gain, blocks))
    return slope, (("norm(system.A, Inf)", rows), ("spectral(abs(system.A))", roots))


def _measured(source: str, title: str, tensors: Mapping[str, np.ndarray]) -> float:
    """What the module of a program measures of its weights; infinite if it cannot keep its bound."""
    try:
        model = getattr(loads(source), title)(dtype=torch.float64)
    except ImplicitError:
        return math.inf
    model.load_state_dict(as_tensors(tensors, torch.float64))
    kept = getattr(model, "constraints", ())  # none where no tensor is in a loop
    with torch.no_grad():
        found = [constraint.measured(constraint.weights(model)) for constraint in kept]
    return max(map(float, found), default=0.0)


def _gain(block: Block) -> float:
    """The largest change of an entry of the state for changes of its slots by 1; infinite if not known."""
    if block.activation is None:
        return 1.0
    ones = np.ones((1, *sizes(block.slots)))
    return float(activation_rule(block.activation).majorant(block.activation, ones).max(initial=0.0))


def _above(gain: float) -> float:
    """A bound with three digits that holds, and leaves room for float32."""
    return math.ceil(gain * 1000 + 0.01) / 1000


def as_tensors(weights: Mapping[str, np.ndarray], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Weights as a state_dict."""
    made = {}
    for name, value in weights.items():
        held = torch.from_numpy(np.array(value))
        made[name] = held.to(dtype).contiguous() if held.is_floating_point() else held
    return made
