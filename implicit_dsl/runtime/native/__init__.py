"""Kernels in C++, built by the system's compiler when they are first wanted.

Without a compiler, or with IMPLICITC_NATIVE=0 in the environment, everything is done in PyTorch,
with the same results. `status` tells which.
"""

from implicit_dsl.runtime.native.library import Kernels, kernels, status
from implicit_dsl.runtime.native.operations import (
    anderson_combine,
    anderson_differences,
    magnitude_product,
    project_rows,
    residuals,
    row_sums,
)

__all__ = [
    "Kernels",
    "anderson_combine",
    "anderson_differences",
    "kernels",
    "magnitude_product",
    "project_rows",
    "residuals",
    "row_sums",
    "status",
]
