"""Peak memory of a training step, after 10 and after 1,000 steps of the solver.

    python benchmarks/memory.py

A convolutional loop (16 channels, 32 × 32, batch 16) and a dense one (n = 256, batch 512), each with a
tolerance that only the last step reaches, so that the steps are those allowed. Memory is the growth of
the high-water mark that Linux keeps for a process (/proc/self/clear_refs), in a process of its own for
each figure; unrolled steps under autograd stand beside it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from implicit_dsl import runtime

STEPS = (10, 1000)


def convolution(z: Tensor, e: Tensor, K: Tensor) -> Tensor:
    return torch.tanh(F.conv2d(z, K, padding=1) + e)


def dense(x: Tensor, c: Tensor, A: Tensor) -> Tensor:
    return torch.relu(F.linear(x, A) + c)


def problem(kind: str) -> tuple[Callable[..., Tensor], Tensor, Tensor]:
    """The step, what comes in, and the weight: slow enough for a thousand steps."""
    torch.manual_seed(0)
    if kind == "convolution":
        K = torch.rand(16, 16, 3, 3)
        return convolution, torch.randn(16, 16, 32, 32), 0.999 * K / K.flatten(1).sum(1)[:, None, None, None]
    A = torch.rand(256, 256)
    return dense, torch.randn(512, 256), 0.999 * A / A.sum(1, keepdim=True)


def step(kind: str, method: str, count: int) -> None:
    """Forward and backward, once."""
    sweep, c, weight = problem(kind)
    c, weight = c.requires_grad_(), weight.requires_grad_()
    if method == "unrolled":
        x = torch.zeros_like(c)
        for _ in range(count):
            x = sweep(x, c, weight)
    else:
        solver = runtime.Picard(tolerance=1e-30, max_steps=count)
        loop = runtime.Equilibrium(sweep, "x", solver=solver, failure="warn")
        (x,) = loop((torch.zeros_like(c),), (c,), (weight,))
    torch.autograd.grad(x.sum(), (c, weight))


def resident(name: str) -> int:
    """kB: VmRSS now, VmHWM at most since the mark was reset."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def measured(kind: str, method: str, count: int) -> float:
    """MB above what there was before, in this process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    step(kind, method, 2)  # what is loaded and kept anyway
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    step(kind, method, count)
    return (resident("VmHWM") - before) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, method, count = options.one
        print(measured(kind, method, int(count)))
        return
    for kind in ("convolution", "dense"):
        for method in ("implicitc", "unrolled"):
            found = [
                float(subprocess.check_output([sys.executable, __file__, "--one", kind, method, str(count)]))
                for count in STEPS
            ]
            print(
                f"{kind:12} {method:10} "
                + "  ".join(f"{n:5} steps {mb:8.1f} MB" for n, mb in zip(STEPS, found))
            )


if __name__ == "__main__":
    main()
