"""An equilibrium in each step of a sequence, against the same cell with torchdeq called in a Python loop.

    pip install --no-deps torchdeq==0.1.0
    OMP_NUM_THREADS=1 python benchmarks/step_equilibria.py [--steps 100] [--width 128] [--batch 1 64]

The cell is h ~ tanh(W h + V prev(h) + U x + b), ‖W‖∞ ≤ κ. Everyone starts each step from the one before, gets
the projections of the inputs for all steps at once, and reaches in every step, checked in float64, a residual
‖h − φ(h)‖∞ ≤ 1e-5 · max(1, ‖h‖∞) and gradients of W, V, U and b within 1e-3 of those in float64, each at
the loosest tolerance that does. torchdeq is the fastest, in every cell anew, of its solvers. Times are of
forward + backward; rounds are interleaved, ratios taken within a round.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from interleave import interleave, report
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl.runtime.native import library

PROGRAM = """
model Cell(n = 128, κ = 0.9, tol = 1e-5)
    input u[_, n]
    param W[n, n], V[n, n] = normal(0.05), U[n, n], b[n] = normal(0.1)
    recurrent x over u
        state h[n] = 0
        h ~ tanh(W*h + V*prev(h) + U*x + b)
    end
    output y = h
    @wellposed norm(W, Inf) <= κ
    @solver auto(tol = tol)
end
"""
WANTED, GRADIENTS = 1e-5, 1e-3
TOLERANCES = [1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7]
PATIENCE = 30.0  # seconds of tuning, for each method

Run = Callable[[nn.Module, Tensor], Tensor]


@functools.cache
def model_type(width: int, kappa: float, tolerance: float) -> type[nn.Module]:
    """The module that is compiled for a tolerance."""
    name = f"cell_{width}_{int(100 * kappa)}_{tolerance:g}".replace("-", "_").replace(".", "_")
    text = implicit_dsl.compile(PROGRAM, parameters={"n": width, "κ": kappa, "tol": tolerance})
    folder = Path(tempfile.gettempdir()) / "implicitc-benchmarks"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(text)
    sys.path.insert(0, str(folder))
    return importlib.import_module(name).Cell


def ours(native: bool, width: int, kappa: float, tolerance: float) -> Run:
    """The generated module, with or without kernels."""
    made: dict[torch.dtype, nn.Module] = {}

    def run(weights: nn.Module, u: Tensor) -> Tensor:
        os.environ[library.SWITCH] = "1" if native else "0"
        if u.dtype not in made:
            made[u.dtype] = model_type(width, kappa, tolerance)(dtype=u.dtype)
            for name, parameter in weights.named_parameters():
                setattr(made[u.dtype], name, parameter)
        return made[u.dtype](u)

    return run


def by_hand(solver: str, tolerance: float) -> Run:
    """A loop over the steps, with torchdeq in each."""
    from torchdeq import get_deq

    deq = get_deq(
        f_solver=solver, b_solver=solver, ift=True, f_stop_mode="rel", b_stop_mode="rel",
        f_tol=tolerance, b_tol=tolerance, f_max_iter=200, b_max_iter=200,
    )  # fmt: skip

    def run(weights: nn.Module, u: Tensor) -> Tensor:
        projected = F.linear(u, weights.U, weights.b)
        h, steps, Wt = torch.zeros_like(projected[:, 0]), [], weights.W.t()
        for x in projected.unbind(1):
            c = torch.addmm(x, h, weights.V.t())
            z, _ = deq(lambda h, c=c: torch.tanh(torch.addmm(c, h, Wt)), h.detach())
            h = z[-1]
            steps.append(h)
        return torch.stack(steps, 1)

    return run


def residual(weights: nn.Module, u: Tensor, h: Tensor) -> float:
    """Of the equilibria, that of the worst step and sample, in float64."""
    W, V, U, b = (getattr(weights, name).detach().double() for name in "WVUb")
    h, u = h.detach().double(), u.double()
    before = F.pad(h, (0, 0, 1, 0))[:, :-1]
    right = torch.tanh(h @ W.T + before @ V.T + u @ U.T + b)
    return float(((h - right).abs().amax(-1) / h.abs().amax(-1).clamp(min=1)).max())


def gradients(run: Run, weights: nn.Module, u: Tensor, g: Tensor) -> tuple[Tensor, list[Tensor]]:
    h = run(weights, u)
    return h, list(torch.autograd.grad((h * g).sum(), list(weights.parameters())))


def exact(width: int, kappa: float, weights: nn.Module, u: Tensor, g: Tensor) -> list[Tensor]:
    """The gradients in float64, of equilibria that are solved to the end."""
    double = model_type(width, kappa, 1e-12)(dtype=torch.float64)
    double.load_state_dict(weights.state_dict())
    h = double(u.double())
    return list(torch.autograd.grad((h * g.double()).sum(), list(double.parameters())))


def tuned(make: Callable[[float], Run], weights: nn.Module, u: Tensor, g: Tensor, truth: list[Tensor]):
    """The method at the loosest tolerance that is good enough; None if there is none in time."""
    began = time.perf_counter()
    for tolerance in TOLERANCES:
        if time.perf_counter() - began > PATIENCE:
            break
        run = make(tolerance)
        h, found = gradients(run, weights, u, g)
        wrong = max(float((a.double() - b).norm() / b.norm()) for a, b in zip(found, truth))
        if residual(weights, u, h) <= WANTED and wrong <= GRADIENTS:
            return run, tolerance
    return None, 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--kappa", type=float, default=0.9)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for batch in options.batch:
        torch.manual_seed(0)
        weights = model_type(options.width, options.kappa, 1e-5)()
        weights.project_()
        u, g = (
            torch.randn(batch, options.steps, options.width),
            torch.randn(batch, options.steps, options.width),
        )
        truth = exact(options.width, options.kappa, weights, u, g)
        makers: dict[str, Callable[[float], Run]] = {
            "PyTorch": lambda tol: ours(False, options.width, options.kappa, tol),
            "native": lambda tol: ours(True, options.width, options.kappa, tol),
        }
        for solver in ("fixed_point_iter", "anderson", "broyden"):
            makers[f"torchdeq {solver}"] = functools.partial(by_hand, solver)
        calls = {}
        for name, make in makers.items():
            run, tolerance = tuned(make, weights, u, g, truth)
            if run is None:
                print(f"batch {batch}: {name} is not good enough at any tolerance, or not in time")
                continue
            print(f"batch {batch}: {name} at tolerance {tolerance:g}")
            calls[name] = functools.partial(gradients, run, weights, u, g)
        found = interleave(calls, options.rounds, 0.0)
        peers = [name for name in found if name.startswith("torchdeq")]
        best = min(peers, key=lambda name: sorted(found[name])[len(found[name]) // 2])
        shown = {name: times for name, times in found.items() if name in ("PyTorch", "native", best)}
        report(f"n {options.width}, batch {batch}, T {options.steps}", shown, best)


if __name__ == "__main__":
    main()
