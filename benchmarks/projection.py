"""Projection of rows onto ℓ1 balls, against torchidl 0.0.4.

    pip install --no-deps torchidl==0.0.4      # in a separate environment, if you like
    OMP_NUM_THREADS=1 python benchmarks/projection.py [--sizes 1000 2000 4000] [--rounds 7]

Rows: 3 N(0, 1)/√n, far outside of ‖A‖∞ ≤ 0.95, and the same after one small step from the boundary;
against the rows of torchidl (its `project_w`), and sorting all rows in PyTorch (Duchi et al. 2008). The error
is the largest against float64. *project_* is the whole way of a compiled model with such an A: is it outside,
its rows, and back into the parameter.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

import torch
from interleave import interleave, report
from torch import Tensor
from torchidl_solvers import solvers

import implicit_dsl
from implicit_dsl.runtime.constraints.balls import onto_balls
from implicit_dsl.runtime.native.library import SWITCH

KAPPA = 0.95
PROGRAM = """
model Loop(n)
    input u[1]
    param A[n, n]
    state x[n] ~ relu(A*x + (u |> Dense(n)))
    @wellposed norm(A, Inf) <= 0.95
    output y = x |> Dense(1)
end
"""


def by_sorting(a: Tensor, radius: float = KAPPA) -> Tensor:
    """All rows at once."""
    falling = a.abs().sort(1, descending=True)[0]
    counts = torch.arange(1, a.shape[1] + 1, dtype=a.dtype)
    bounds = (falling.cumsum(1) - radius) / counts
    last = (falling > bounds).sum(1, keepdim=True) - 1
    theta = bounds.gather(1, last).clamp_min(0.0)
    return a.sign() * (a.abs() - theta).clamp_min(0.0)


def ours(a: Tensor, kernel: bool) -> Tensor:
    os.environ[SWITCH] = "1" if kernel else "0"
    return onto_balls(a, torch.full((len(a),), KAPPA, dtype=torch.float64))


def projected(model: torch.nn.Module, a: Tensor, kernel: bool) -> Tensor:
    os.environ[SWITCH] = "1" if kernel else "0"
    model.A.data.copy_(a)
    model.project_()
    return model.A.data


def rows(n: int, rounds: int) -> None:
    theirs = solvers("projected_gd_lowrank").LowRankModel.project_w
    model = implicit_dsl.loads(PROGRAM, n=n).Loop()
    far = 3 * torch.randn(n, n) / n**0.5
    near = by_sorting(far.double()).float() + 1e-4 * torch.randn(n, n)
    for title, a in (("far outside", far), ("after a step", near)):
        methods: dict[str, Callable[[], Tensor]] = {
            "torchidl": lambda a=a: theirs(None, a, KAPPA),
            "sorting": lambda a=a: by_sorting(a),
            "PyTorch": lambda a=a: ours(a, kernel=False),
            "native": lambda a=a: ours(a, kernel=True),
            "project_, PyTorch": lambda a=a: projected(model, a, kernel=False),
            "project_, native": lambda a=a: projected(model, a, kernel=True),
        }
        exact = by_sorting(a.double())
        errors = {name: float((run() - exact).abs().max()) for name, run in methods.items()}
        print(f"n = {n}, {title}; errors " + ", ".join(f"{name} {e:.0e}" for name, e in errors.items()))
        found = interleave(methods, rounds)
        report("    over torchidl", found, "torchidl")
        for name in ("PyTorch", "native", "project_, PyTorch", "project_, native"):
            times = sorted(b / a for a, b in zip(found[name], found["torchidl"]))
            bar = 50 if "native" in name else 2
            middle = times[len(times) // 2]
            print(f"    {name}: {middle:.1f} times as fast (aim {bar}) {'' if middle >= bar else 'MISSED'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000, 4000])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for n in options.sizes:
        rows(n, options.rounds)


if __name__ == "__main__":
    main()
