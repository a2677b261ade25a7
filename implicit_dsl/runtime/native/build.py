"""The kernels as a shared library: built once for each machine, found in the user's cache ever after."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

SOURCES = ("kernels.cpp", "solve.hpp", "single.hpp", "panel.hpp", "problem.hpp", "products.hpp",
           "activations.hpp", "mixing.hpp", "projection.hpp", "threads.hpp", "vectors.hpp")  # fmt: skip
COMPILERS = ("c++", "g++", "clang++")
# The second where a compiler does not know its own machine; then the kernels use what every machine has.
TARGETS = (("-march=native",), ("-mcpu=native",), ())
OPTIONS = ("-std=c++17", "-O2", "-shared", "-fPIC", "-pthread", "-fno-math-errno", "-ffp-contract=fast",
           "-fno-exceptions", "-fno-rtti", "-w")  # fmt: skip
SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Built:
    """A library, or why there is none."""

    path: Path | None
    reason: str


def build(real: str) -> Built:
    """The library of the kernels for `real`, float or double. It is compiled if the cache has none."""
    compiler = find_compiler()
    if compiler is None:
        return Built(None, f"no C++ compiler was found (looked for $CXX, {', '.join(COMPILERS)})")
    try:
        folder = cache_folder()
        path = folder / f"{real}-{key(real, compiler)}.so"
        if path.exists():
            return Built(path, f"{path} (from the cache)")
        return compile_to(path, real, compiler)
    except OSError as error:
        return Built(None, f"the library could not be made: {error}")


def find_compiler() -> str | None:
    """The compiler that $CXX names, or the first that is there."""
    asked = os.environ.get("CXX")
    for name in (asked,) if asked else COMPILERS:
        found = shutil.which(name)
        if found is not None:
            return found
    return None


def compile_to(path: Path, real: str, compiler: str) -> Built:
    """Compile beside `path` and move there in one step: two processes may do so at once."""
    complaint = ""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="build-") as work:
        for name in SOURCES:
            (Path(work) / name).write_text(source(name), encoding="utf-8")
        made = Path(work) / path.name
        for target in TARGETS:
            command = [compiler, *OPTIONS, *target, f"-DREAL={real}", "kernels.cpp", "-o", str(made)]
            try:
                done = subprocess.run(
                    command, cwd=work, capture_output=True, text=True, timeout=SECONDS, errors="replace"
                )
            except subprocess.TimeoutExpired:
                return Built(None, f"{compiler} was not done after {SECONDS:.0f} seconds")
            if done.returncode == 0:
                os.replace(made, path)
                return Built(path, f"{path} (built by {compiler})")
            complaint = done.stderr.strip() or f"exit status {done.returncode}"
    return Built(None, f"{compiler} failed: {complaint[:500]}")


def source(name: str) -> str:
    """The text of one source file of the package. Raises FileNotFoundError in files that stand alone."""
    if not __package__:
        raise FileNotFoundError(f"{name} does not come with this file")
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def key(real: str, compiler: str) -> str:
    """What a library depends on: sources, options, compiler and the instructions that this machine has."""
    about = os.stat(compiler)
    parts = [
        real,
        compiler,
        str(about.st_size),
        str(about.st_mtime_ns),
        repr((OPTIONS, TARGETS)),
        *instructions(),
    ]
    parts += [source(name) for name in SOURCES]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def instructions() -> tuple[str, ...]:
    """Architecture and instruction sets: home directories are shared by machines that differ."""
    about = [platform.system(), platform.machine(), platform.processor()]
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name = line.split(":")[0].strip()
                if name in ("flags", "Features", "model name", "CPU part"):
                    about.append(line.strip())
                elif not line.strip():
                    break  # the first processor speaks for all
    except OSError:
        pass
    return tuple(about)


def cache_folder() -> Path:
    """Where libraries are kept. Raises OSError unless this user alone can write there, since they are run."""
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    if not home or not os.path.isabs(home):
        home = os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(home) / "implicitc" / "native"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for place in (folder, folder.parent):
        found = place.lstat()
        if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022):
            raise PermissionError(f"others can write to {place}")
    return folder
