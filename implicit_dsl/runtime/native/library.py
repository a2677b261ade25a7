"""The kernels, loaded."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from implicit_dsl.runtime.native.build import build

SWITCH = "IMPLICITC_NATIVE"
REALS = {torch.float32: "float", torch.float64: "double"}
_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64


@dataclass(frozen=True, slots=True)
class Kernels:
    """The functions of one library, for one dtype. They release the lock of the interpreter.

    They take addresses of contiguous tensors and trust them: see `kernels.cpp` for their arguments.
    """

    dtype: torch.dtype
    solve: Any
    differences: Any
    combine: Any
    residuals: Any
    project: Any
    sums: Any
    magnitude: Any


def kernels(dtype: torch.dtype) -> Kernels | None:
    """The kernels for tensors of this dtype on the CPU; None if there are none. The first call may build."""
    if dtype not in REALS or os.environ.get(SWITCH) == "0":
        return None
    return _load(dtype)[0]


def status() -> str:
    """Whether kernels are in use and, if not, why. Asking builds them."""
    if os.environ.get(SWITCH) == "0":
        return f"off: {SWITCH}=0"
    return "; ".join(f"{REALS[dtype]}: {_load(dtype)[1]}" for dtype in REALS)


@cache
def _load(dtype: torch.dtype) -> tuple[Kernels | None, str]:
    """The kernels, and where they come from or why there are none."""
    built = build(REALS[dtype])
    if built.path is None:
        return None, built.reason
    try:
        library = ctypes.CDLL(os.fspath(built.path))
        solve, project = library.implicitc_solve, library.implicitc_project
        differences, combine = library.implicitc_differences, library.implicitc_combine
        residuals, sums = library.implicitc_residuals, library.implicitc_sums
        magnitude = library.implicitc_magnitude
    except (OSError, AttributeError) as error:
        return None, f"{built.path} cannot be loaded: {error}"
    solve.argtypes, solve.restype = (_POINTER,) * 6, ctypes.c_int
    differences.argtypes, differences.restype = (_POINTER,) * 7 + (_COUNT,) * 6, None
    combine.argtypes, combine.restype = (_POINTER,) * 4 + (_COUNT,) * 5, None
    residuals.argtypes, residuals.restype = (_POINTER,) * 4 + (_COUNT,) * 4, None
    project.argtypes = (_POINTER, _POINTER, _POINTER, _COUNT, _POINTER, _COUNT, _COUNT, _COUNT)
    project.restype = ctypes.c_int
    sums.argtypes, sums.restype = (_POINTER, _POINTER, _COUNT, _POINTER, _COUNT, _COUNT, _COUNT), None
    magnitude.argtypes, magnitude.restype = (_POINTER,) * 3 + (_COUNT,) * 3, None
    made = Kernels(dtype, solve, differences, combine, residuals, project, sums, magnitude)
    return made, built.reason
