"""A solve by the native kernel: tensors are checked here, and nowhere further in."""

from __future__ import annotations

import ctypes
import struct
import threading

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
_SETTINGS, _FOUND = struct.Struct("13d"), struct.Struct("2d")  # what the kernel is told, and what it tells
_FOUND_AT = _SETTINGS.size - struct.calcsize("d")  # ‖A‖ is told, or filled in
_FLOORS = {dtype: FLOOR_UNITS * torch.finfo(dtype).eps for dtype in (torch.float32, torch.float64)}


class _Exchange(threading.local):
    """The settings of a solve in memory that the kernel can read and write: one for each thread."""

    def __init__(self) -> None:
        self.buffer = (ctypes.c_double * 14)()


_exchange = _Exchange()


def solve_compiled(system: System, plan: Plan, kernels: Kernels) -> Found | None:
    """The solution of each row, or None if there was no memory for it."""
    A, c, start, at, slope, transposed, norm = system
    dtype, phi = kernels.dtype, plan.activation
    A, c = plain(A, dtype), plain(c, dtype)
    number = _NUMBERS[phi.name]
    kind, given = number, 0
    if at is not None or slope is not None:
        kind = _LINEAR
        if slope is None:
            slope = at
        else:
            number = _LINEAR
        slope = plain(slope, dtype)
        given = slope.data_ptr()
        assert slope.shape == c.shape
    x = torch.empty_like(c) if start is None else start.clone(memory_format=torch.contiguous_format)
    batch, n = c.shape
    assert A.shape == (n, n) and x.shape == c.shape
    report = c.new_empty((2, batch))
    floor, buffer = _FLOORS[dtype], _exchange.buffer
    if kind == _LINEAR and not transposed:
        norm = float("inf")  # a bound in the norm of the adjoint is not one for the tangent
    elif plan.rate is not None:
        norm = plan.rate
    _SETTINGS.pack_into(
        buffer, 0, n, batch, kind, number, phi.negative_slope, transposed, start is not None, plan.tolerance,
        floor if plan.tolerance < floor else 0.0, plan.max_steps, plan.memory, torch.get_num_threads(),
        -1.0 if norm is None else norm,
    )  # fmt: skip
    if kernels.solve(A.data_ptr(), c.data_ptr(), given, x.data_ptr(), report.data_ptr(), buffer):
        return None
    norm, worst = _FOUND.unpack_from(buffer, _FOUND_AT)
    return Found(x, lambda: (report[0], report[1]), norm if norm >= 0 else None, False, worst)


def plain(tensor: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The tensor as the kernel reads it. Copied if it is not so already."""
    assert tensor is not None and tensor.dtype is dtype and tensor.is_cpu
    return tensor if tensor.is_contiguous() and not tensor.is_neg() else tensor.contiguous().resolve_neg()
