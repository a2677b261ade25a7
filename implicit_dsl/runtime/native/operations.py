"""The kernels that others use, on tensors. Each returns None where there is no kernel for what is given."""

from __future__ import annotations

import torch
from torch import Tensor

from implicit_dsl.runtime.native.library import Kernels, kernels


def residuals(image: Tensor, x: Tensor, dual: bool) -> tuple[Tensor, Tensor] | None:
    """image − x (batch, n), and in float64 the sizes (2, batch) of it and of x, in one pass.

    Sizes are max |·|, or with `dual` Σ |·|; nan where a row has one.
    """
    library = _library((image, x))
    if library is None or not (image.is_contiguous() and x.is_contiguous()):
        return None
    if image.shape != x.shape or x.ndim != 2:
        raise ValueError(f"{tuple(image.shape)} is no image of {tuple(x.shape)}")
    batch, n = x.shape
    residual, found = torch.empty_like(x), x.new_empty((batch, 2), dtype=torch.float64)
    library.residuals(
        image.data_ptr(), x.data_ptr(), residual.data_ptr(), found.data_ptr(), batch, n, dual,
        torch.get_num_threads(),
    )  # fmt: skip
    return residual, found.T


def anderson_differences(
    residual: Tensor,
    before: Tensor,
    target: Tensor,
    target_before: Tensor,
    dr: Tensor,
    dt: Tensor,
    slot: int,
    used: int,
) -> Tensor | None:
    """Enter the newest differences, and what Anderson acceleration needs to know of them, in one pass.

    residual, target and those of the step before are (batch, n); dr and dt (batch, memory, n),
    contiguous, whose `slot` is overwritten by residual − before and target − target_before.
    Returns (batch, used + 2) in float64: ⟨dr_slot, dr_i⟩ for i < used, ⟨dr_slot, r⟩ and ⟨r, r⟩.
    """
    states = (residual, before, target, target_before)
    batch, memory, n = dr.shape
    library = _library((*states, dr, dt))
    if library is None or not (dr.is_contiguous() and dt.is_contiguous()):
        return None
    if dt.shape != dr.shape or any(state.shape != (batch, n) for state in states):
        raise ValueError(
            f"histories are {tuple(dr.shape)} and {tuple(dt.shape)}, states {tuple(residual.shape)}"
        )
    if not 0 <= slot < used <= memory:
        raise ValueError(f"slot {slot} of {used} used ones does not lie in a memory of {memory}")
    found = dr.new_empty((batch, used + 2), dtype=torch.float64)
    held = [state.contiguous() for state in states]
    library.differences(
        *(state.data_ptr() for state in held), dr.data_ptr(), dt.data_ptr(), found.data_ptr(),
        batch, n, memory, used, slot, torch.get_num_threads(),
    )  # fmt: skip
    return found


def anderson_combine(target: Tensor, dt: Tensor, gamma: Tensor) -> Tensor | None:
    """target − Σ_i γ_i dt_i: (batch, n), (batch, memory, n) contiguous and (batch, used) -> (batch, n).

    A difference whose coefficient is zero may hold anything.
    """
    batch, memory, n = dt.shape
    library = _library((target, dt))
    if library is None or not dt.is_contiguous():
        return None
    used = gamma.shape[1]
    if target.shape != (batch, n) or gamma.shape[0] != batch or used > memory:
        raise ValueError(f"{tuple(target.shape)}, {tuple(dt.shape)} and {tuple(gamma.shape)} do not fit")
    target, gamma = target.contiguous(), gamma.to(torch.float64).contiguous()
    mixed = torch.empty_like(target)
    library.combine(
        target.data_ptr(), dt.data_ptr(), gamma.data_ptr(), mixed.data_ptr(), batch, n, memory, used,
        torch.get_num_threads(),
    )  # fmt: skip
    return mixed


def project_rows(
    a: Tensor, radius: Tensor, weights: Tensor | None = None, out: Tensor | None = None
) -> Tensor | None:
    """argmin ‖x − a‖₂ subject to Σⱼ wⱼ |xⱼ| ≤ r for each row of a (rows, n).

    `radius` (rows,) > 0; `weights` (n,) or (rows, n) > 0, None: ones. Rows inside, and those with
    numbers that are not finite, stay as they are. `out`: where to write, contiguous, which may be `a` itself.
    """
    held = _held(a, weights)
    if held is None or not radius.is_cpu:
        return None
    if out is not None and (out.shape != a.shape or out.dtype != a.dtype or not out.is_contiguous()):
        raise ValueError(f"rows {tuple(a.shape)} are not written into {tuple(out.shape)}, or it has gaps")
    rows, n = a.shape
    if radius.shape != (rows,):
        raise ValueError(f"rows {tuple(a.shape)} have radii {tuple(radius.shape)}")
    library, a, w = held
    radius, found = radius.to(torch.float64).contiguous(), torch.empty_like(a) if out is None else out
    failed = library.project(
        a.data_ptr(), radius.data_ptr(), 0 if w is None else w.data_ptr(), w is not None and w.ndim == 2,
        found.data_ptr(), rows, n, torch.get_num_threads(),
    )  # fmt: skip
    return None if failed else found


def row_sums(a: Tensor, weights: Tensor | None = None) -> Tensor | None:
    """Σⱼ wⱼ |aⱼ| (rows,) in float64 for a (rows, n) and `weights` as above."""
    held = _held(a, weights)
    if held is None:
        return None
    library, a, w = held
    rows, n = a.shape
    found = a.new_empty(rows, dtype=torch.float64)
    library.sums(
        a.data_ptr(), 0 if w is None else w.data_ptr(), w is not None and w.ndim == 2, found.data_ptr(),
        rows, n, torch.get_num_threads(),
    )  # fmt: skip
    return found


def magnitude_product(a: Tensor, v: Tensor) -> Tensor | None:
    """|A| v (rows,) in float64, for A (rows, n) and v (n,) in float64, without a copy of A."""
    library = _library((a,))
    if library is None or not a.is_contiguous() or v.dtype != torch.float64 or not v.is_cpu:
        return None
    rows, n = a.shape
    if v.shape != (n,):
        raise ValueError(f"{tuple(a.shape)} takes no {tuple(v.shape)}")
    v, found = v.contiguous(), a.new_empty(rows, dtype=torch.float64)
    library.magnitude(a.data_ptr(), v.data_ptr(), found.data_ptr(), rows, n, torch.get_num_threads())
    return found


def _held(a: Tensor, weights: Tensor | None) -> tuple[Kernels, Tensor, Tensor | None] | None:
    """The kernels for rows and their weights, and both contiguous."""
    library = _library((a,) if weights is None else (a, weights))
    if library is None:
        return None
    rows, n = a.shape
    if weights is not None and weights.shape not in ((n,), (rows, n)):
        raise ValueError(f"rows {tuple(a.shape)} have weights {tuple(weights.shape)}")
    return library, a.contiguous(), None if weights is None else weights.contiguous()


def _library(tensors: tuple[Tensor, ...]) -> Kernels | None:
    """The kernels for these tensors, if they are plain ones of one dtype on the CPU."""
    dtype = tensors[0].dtype
    if torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling():
        return None
    if any(t.dtype != dtype or not t.is_cpu or t.is_neg() for t in tensors):
        return None
    return kernels(dtype)
