"""A solve by the native kernel: tensors are checked here, and nowhere further in."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from implicit_dsl.runtime.dense.activation import NAMES
from implicit_dsl.runtime.dense.found import Found
from implicit_dsl.runtime.dense.goal import FLOOR_UNITS
from implicit_dsl.runtime.dense.plan import Plan
from implicit_dsl.runtime.dense.system import System
from implicit_dsl.runtime.native import Kernels

_LINEAR = len(NAMES)  # its number among the kinds of the kernel: that of "what is given is the slope"
_NUMBERS = {name: number for number, name in enumerate(NAMES)}
_Settings = ctypes.c_double * 14
_NORM, _WORST = 12, 13
_EPS = {dtype: torch.finfo(dtype).eps for dtype in (torch.float32, torch.float64)}


def solve_compiled(system: System, plan: Plan, kernels: Kernels) -> Found | None:
    """The solution of each row, or None if there was no memory for it."""
    A, c = plain(system.A, kernels.dtype), plain(system.c, kernels.dtype)
    phi = plan.activation
    number = _NUMBERS[phi.name]
    kind, slope = number, None
    if system.linear:
        kind, number = _LINEAR, number if system.slope is None else _LINEAR
        slope = plain(system.at if system.slope is None else system.slope, kernels.dtype)
    if system.start is None:
        x = torch.empty_like(c)
    else:
        x = system.start.clone(memory_format=torch.contiguous_format)
    batch, n = c.shape
    assert A.shape == (n, n) and x.shape == c.shape and (slope is None or slope.shape == c.shape)
    floor = FLOOR_UNITS * _EPS[kernels.dtype]
    floor = floor if plan.tolerance < floor else 0.0
    residual, steps = c.new_empty(batch), c.new_empty(batch)
    norm = known_norm(system, plan)
    settings = _Settings(
        n, batch, kind, number, phi.negative_slope, system.transposed, system.start is not None,
        plan.tolerance, floor, plan.max_steps, plan.memory, torch.get_num_threads(), norm,
    )  # fmt: skip
    failed = kernels.solve(
        A.data_ptr(), c.data_ptr(), 0 if slope is None else slope.data_ptr(), x.data_ptr(),
        residual.data_ptr(), steps.data_ptr(), settings,
    )  # fmt: skip
    if failed:
        return None
    norm = settings[_NORM]
    return Found(x, residual, steps, norm if norm >= 0 else None, worst=settings[_WORST])


def known_norm(system: System, plan: Plan) -> float:
    """‖A‖∞ or a bound of it, −1 if nothing is known."""
    if system.linear and not system.transposed:
        return float("inf")  # a bound in the norm of the adjoint is not one for the tangent
    if plan.rate is not None:
        return plan.rate
    return -1.0 if system.norm is None else system.norm


def plain(tensor: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The tensor as the kernel reads it. Copied if it is not so already."""
    assert tensor is not None and tensor.dtype == dtype and tensor.is_cpu
    return tensor if tensor.is_contiguous() and not tensor.is_neg() else tensor.contiguous().resolve_neg()
