"""The solvers of torchidl 0.0.4, without what they import and do not need: drawing and progress bars.

pip install --no-deps torchidl==0.0.4      # and scikit-learn; in a separate environment, if you like
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from functools import cache
from types import ModuleType
from typing import Any

UNUSED = ("matplotlib", "matplotlib.pyplot", "cvxpy", "ray", "ray.util", "ray.util.queue")


@cache
def solvers(name: str) -> Any:
    """A module of `torchidl.sim.solvers`, such as "admm_consensus"; its logging and its bars are off."""
    spec = importlib.util.find_spec("torchidl")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("torchidl is not installed: pip install --no-deps torchidl==0.0.4")
    for package in ("torchidl", "torchidl.sim", "torchidl.sim.solvers"):
        if package not in sys.modules:
            made = ModuleType(package)  # without its __init__, which imports all solvers
            made.__path__ = [
                spec.submodule_search_locations[0] + package.removeprefix("torchidl").replace(".", "/")
            ]
            sys.modules[package] = made
    absent = [name for name in UNUSED if name not in sys.modules and not _is_there(name)]
    for stand_in in absent:
        sys.modules[stand_in] = ModuleType(stand_in)
    logging.getLogger("torchidl").setLevel(logging.ERROR)
    found = importlib.import_module(f"torchidl.sim.solvers.{name}")
    for stand_in in absent:
        del sys.modules[stand_in]
    if hasattr(found, "tqdm"):
        found.tqdm = _Silent
    return found


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


class _Silent:
    """A progress bar that draws nothing."""

    def __init__(self, steps: Any, **_: Any) -> None:
        self.steps = steps

    def __iter__(self) -> Any:
        return iter(self.steps)

    @staticmethod
    def write(text: str) -> None: ...
