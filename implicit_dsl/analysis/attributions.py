"""What of an input an output depends on: at that input, and at most.

Three views of one output: its slope along each entry (Simonyan et al. 2014), the slope times how far the
entry is from a baseline (gradient × input, Shrikumar et al. 2016), and the row of S, which bounds the slopes
at all inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis.jacobians import rows_at
from implicit_dsl.analysis.sensitivities import Sensitivity
from implicit_dsl.analysis.systems import system_for
from implicit_dsl.runtime.certificates.majorants import NoBound
from implicit_dsl.runtime.system import System, _columns
from implicit_dsl.shapes import sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

Parts = Mapping[str, torch.Tensor]
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """What the output entries `target` [batch] depend on, by input; all are [batch, *shape] in float64.

    `slopes` are ∂y/∂u there, `shares` the slopes times (u − baseline), and `bounds` what no slope exceeds for
    any input (None where nothing bounds it; `why` says so). |slopes| ≤ bounds.
    """

    target: torch.Tensor
    slopes: Parts
    shares: Parts
    bounds: Parts | None
    why: str = ""

    def top(self, sample: int, entries: int = _MOST_NAMED) -> list[tuple[str, tuple[int, ...], float]]:
        """The entries with the largest |shares| of a sample: input, index, share."""
        found = []
        for name, shares in self.shares.items():
            flat = shares[sample].reshape(-1)
            for at in flat.abs().topk(min(entries, flat.numel())).indices.tolist():
                index = np.unravel_index(at, shares.shape[1:]) if shares.ndim > 1 else ()
                found.append((name, tuple(int(i) for i in index), float(flat[at])))
        return sorted(found, key=lambda one: -abs(one[2]))[:entries]

    def __str__(self) -> str:
        lines = [f"attribution of {len(self.target)} samples: slope × (input − baseline), the largest first"]
        for sample in range(min(len(self.target), _MOST_NAMED)):
            listed = ", ".join(
                f"{name}{list(index)} {share:+.3g}" for name, index, share in self.top(sample, 4)
            )
            lines.append(f"  sample {sample}, output {int(self.target[sample])}: {listed}")
        if len(self.target) > _MOST_NAMED:
            lines.append("  …")
        lines += [f"  no bound of the slopes: {self.why}"] if self.bounds is None else []
        return "\n".join(lines)


def attribution(
    model: nn.Module | System,
    inputs: torch.Tensor | Sequence[torch.Tensor],
    target: int | torch.Tensor | None = None,
    *,
    baseline: float | torch.Tensor | Sequence[torch.Tensor] = 0.0,
    output: str = "",
) -> Attribution:
    """What one entry of an output depends on, at inputs [batch, *shape] (several: a sequence of tensors).

    `target` is the entry, an int for all samples or a tensor of them [batch], counted row by row; if it is
    not given, the largest entry of each sample, such as its class. `output` names the output, if there are
    several. `baseline` is what inputs are compared with: a number, or one tensor [*shape] for each input.

    Raises ValueError for targets, baselines and inputs that do not fit, NaN and tokens; TypeError if the
    model is not a compiled one.
    """
    given = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
    system = system_for(model, given)
    rows = system.partition("outputs")
    name = output or system.outputs[0].name
    if name not in rows.names or (not output and len(rows.names) > 1):
        raise ValueError(f"name one output, as output=…: there are {', '.join(rows.names)}")
    chosen = _targets(system, given, target, rows[name])
    unit = np.zeros((len(chosen), 1, rows.total))
    unit[np.arange(len(chosen)), 0, rows[name].start + chosen] = 1.0
    J = [found[0] for _, found in rows_at(system, given, unit)]
    slopes = np.stack(J) if J else np.zeros((0, system.partition("inputs").total))
    U = _columns(system._inputs(given, {})).T
    moved = slopes * (U - _baseline(system, baseline))
    bounds, why = _bounds(system, unit)
    return Attribution(
        torch.from_numpy(chosen),
        _parts(system, slopes),
        _parts(system, moved),
        None if bounds is None else _parts(system, bounds),
        why,
    )


def _targets(
    system: System, inputs: tuple[torch.Tensor, ...], target: int | torch.Tensor | None, rows: slice
) -> np.ndarray:
    """The entries [batch]. Raises ValueError for what there is not."""
    samples, entries = len(inputs[0]), rows.stop - rows.start
    if target is None:
        U = _columns(system._inputs(inputs, {}))
        X, _ = system.solve_columns(U)
        Y = system.C.to_scipy() @ X + system.D.to_scipy() @ U + system.d[:, None]
        return np.asarray(Y[rows].argmax(0))
    chosen = np.asarray(target.cpu() if isinstance(target, torch.Tensor) else target)
    if chosen.dtype.kind not in "iu" or chosen.shape not in ((), (samples,)):
        raise ValueError(f"a target is a whole number, or a tensor of {samples} of them, one for each sample")
    if samples and not (0 <= chosen.min() and chosen.max() < entries):
        raise ValueError(f"targets go from 0 to {entries - 1}, and {chosen.max()} was given")
    return np.broadcast_to(chosen, (samples,)).astype(np.int64)


def _baseline(system: System, baseline: float | torch.Tensor | Sequence[torch.Tensor]) -> np.ndarray:
    """What inputs are compared with, [inputs]."""
    if isinstance(baseline, int | float):
        return np.full(system.partition("inputs").total, float(baseline))
    tensors = (baseline,) if isinstance(baseline, torch.Tensor) else tuple(baseline)
    if len(tensors) != len(system.inputs):
        raise ValueError(f"there are {len(system.inputs)} inputs, and {len(tensors)} baselines were given")
    for block, tensor in zip(system.inputs, tensors):
        if tuple(tensor.shape) != sizes(block.shape):
            raise ValueError(
                f"the baseline of `{block.name}` has shape {list(sizes(block.shape))}, "
                f"and {list(tensor.shape)} was given"
            )
    return np.asarray(_columns([tensor[None].double() for tensor in tensors])[:, 0])


def _bounds(system: System, unit: np.ndarray) -> tuple[np.ndarray | None, str]:
    """The rows of S that belong to the targets, [batch, inputs]; or why there are none."""
    different, of = np.unique(unit[:, 0], axis=0, return_inverse=True)
    try:
        return Sensitivity(system).rows(different)[of.reshape(-1)], ""
    except NoBound as none:
        return None, str(none)


def _parts(system: System, values: np.ndarray) -> dict[str, torch.Tensor]:
    """[batch, inputs] by input, in their shapes."""
    parts = system.partition("inputs")
    return {
        block.name: torch.from_numpy(np.ascontiguousarray(values[:, parts[block.name]])).reshape(
            len(values), *sizes(block.shape)
        )
        for block in system.inputs
    }


__all__ = ["Attribution", "attribution"]
