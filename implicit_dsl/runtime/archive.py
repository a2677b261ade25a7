"""Matrices on disk: NumPy archives and the Matrix Market format, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import uuid4

from implicit_dsl._lazy import lazy_module

if TYPE_CHECKING:
    import numpy as np
    import scipy.io as files

    from implicit_dsl.runtime.system import System
else:
    np = lazy_module("numpy")
    files = lazy_module("scipy.io")


def save_npz(system: System, path: Path) -> tuple[Path, ...]:
    """A, B, C, D in compressed rows, b, d and the blocks as one archive; see `System.save`."""
    arrays: dict[str, Any] = {"b": system.b, "d": system.d}
    for operator in (system.A, system.B, system.C, system.D):
        made, name = operator.to_scipy(), operator.name
        arrays |= {f"{name}.{part}": getattr(made, part) for part in ("data", "indices", "indptr")}
        arrays[f"{name}.shape"] = np.asarray(made.shape)
    blocks = {
        "slots": [(block.name, block.slots) for block in system.states],
        "states": [(block.name, block.shape) for block in system.states],
        "inputs": [(block.name, block.shape) for block in system.inputs],
        "outputs": [(block.name, block.shape) for block in system.outputs],
    }
    for axis, listed in blocks.items():
        parts = system.partition(axis)
        arrays[f"{axis}.names"] = np.asarray(parts.names, dtype=np.str_)
        arrays[f"{axis}.offsets"] = np.asarray((*parts.offsets, parts.total), dtype=np.int64)
        arrays[f"{axis}.shapes"] = np.asarray([json.dumps(shape) for _, shape in listed], dtype=np.str_)
    arrays["states.activations"] = np.asarray([block.phi for block in system.states], dtype=np.str_)
    _write(path, lambda file: np.savez(file, **arrays))
    return (path,)


def save_market(system: System, path: Path) -> tuple[Path, ...]:
    """`name.A.mtx`, `name.B.mtx`, … beside each other, for `path` = `name.mtx`; see `System.save`."""
    made: dict[str, Any] = {
        operator.name: operator.to_scipy() for operator in (system.A, system.B, system.C, system.D)
    }
    made |= {"b": system.b[:, None], "d": system.d[:, None]}
    written = []
    for name, matrix in made.items():
        target = path.with_suffix(f".{name}.mtx")
        comment = f"{name} of {system.model.name}: x = phi(A x + B u + b), y = C x + D u + d"
        # 17 digits give back the same float64
        _write(target, partial(files.mmwrite, a=matrix, comment=comment, precision=17))
        written.append(target)
    return tuple(written)


def _write(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Write beside `path`, then rename: readers see the old file or the new one, never a part."""
    beside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with beside.open("xb") as file:
            fill(file)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
