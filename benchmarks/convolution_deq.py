"""A convolutional equilibrium (48 channels, 32 × 32, GroupNorm) against torchdeq at equal tolerance.

    pip install torchdeq
    python benchmarks/convolution_deq.py [--batch 8] [--rounds 9]

The cell is that of Bai, Kolter and Koltun (2020): z = norm(relu(z + norm(e + K2 norm(relu(K1 z))))).
Each method gets the loosest tolerance with which its solution has a relative residual of at most
1e-4 for each sample, checked in float64 in the Euclidean norm; so does the adjoint λ = Jᵀλ + g, with
J at the point where the method takes it (relu has kinks: elsewhere J differs by a few per cent).
λ is the gradient of what is added to the cell, which is left out when it is timed. Forward, and
forward with the gradients of the injection and all parameters; one thread; interleaved rounds.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from interleave import interleave, report
from torch import Tensor, nn
from torchdeq import get_deq

import implicit_dsl
from implicit_dsl import runtime

TOLERANCE = 1e-4
BAR = 0.75  # of the time of torchdeq's best
GRID = [10.0 ** (-k / 8) for k in range(20, 56)]  # 3e-3 … 1e-7
PROGRAM = Path(__file__).parents[1] / "examples" / "residual_deq.impl"


class Cell(nn.Module):
    """The same map, written by hand."""

    def __init__(self, c: int, inner: int, groups: int) -> None:
        super().__init__()
        self.K1 = nn.Conv2d(c, inner, 3, padding=1, bias=False)
        self.K2 = nn.Conv2d(inner, c, 3, padding=1, bias=False)
        self.n1, self.n2, self.n3 = (nn.GroupNorm(groups, channels) for channels in (inner, c, c))
        for layer in (self.K1, self.K2):
            nn.init.normal_(layer.weight, std=0.01)

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        a = self.n1(F.relu(self.K1(z)))
        return self.n3(F.relu(z + self.n2(e + 0.2 * self.K2(a))))


def relative(difference: Tensor, whole: Tensor) -> float:
    """The largest relative size of the samples, in the Euclidean norm."""
    sizes = difference.flatten(1).norm(dim=1) / whole.flatten(1).norm(dim=1)
    return sizes.max().item()


class Judge:
    """Residuals of a solution and of an adjoint, in float64."""

    def __init__(self, cell: Cell, e: Tensor, g: Tensor) -> None:
        self.cell, self.e, self.g = copy.deepcopy(cell).double(), e.double(), g.double()

    def forward(self, z: Tensor) -> float:
        with torch.no_grad():
            image = self.cell(z.double(), self.e)
        return relative(image - z.double(), image)

    def adjoint(self, adjoint: Tensor, point: Tensor) -> float:
        """Of λ = Jᵀλ + g, with J at a point."""
        at, lam = point.detach().double().requires_grad_(), adjoint.double()
        image = self.cell(at, self.e)
        return relative(torch.autograd.grad(image, at, lam)[0] + self.g - lam, lam)


@dataclass
class Method:
    """solve(forward tolerance, adjoint's, e, d) is the solution z of z = cell(z, e) + d."""

    solve: Callable[[float, float, Tensor, Tensor | None], Tensor]
    point: list[Tensor]  # where it has taken J; empty: at the solution


def tuned(method: Method, judge: Judge, e: Tensor, g: Tensor) -> tuple[float, float] | None:
    """The loosest tolerances with which solution and adjoint are as exact as demanded."""
    zero = torch.zeros_like(e)
    forward = None
    for tolerance in GRID:
        if forward is None:
            with torch.no_grad():
                reached = judge.forward(method.solve(tolerance, tolerance, e, zero))
            if reached > TOLERANCE:
                continue
            forward = tolerance
        added = zero.clone().requires_grad_()
        z = method.solve(forward, tolerance, e, added)
        (adjoint,) = torch.autograd.grad(z, added, g)
        error = judge.adjoint(adjoint, method.point[-1] if method.point else z)
        if error <= TOLERANCE:
            print(f"    residuals {judge.forward(z.detach()):.1e}, {error:.1e}")
            return forward, tolerance
    return None


def peers(cell: Cell) -> dict[str, Method]:
    """torchdeq with each of its solvers; `anderson tuned` has another regularisation."""
    from torchdeq.solver import register_solver
    from torchdeq.solver.anderson import anderson_solver

    def less_regular(func: Any, x0: Tensor, **settings: Any) -> Any:
        return anderson_solver(func, x0, **{**settings, "lam": 1e-7})

    register_solver("anderson_1e7", less_regular)

    def with_solver(name: str) -> Method:
        points: list[Tensor] = []

        def solve(forward: float, backward: float, e: Tensor, d: Tensor | None) -> Tensor:
            points.clear()

            def step(z: Tensor) -> Tensor:
                if torch.is_grad_enabled():
                    points[:] = [z]
                return cell(z, e) if d is None else cell(z, e) + d

            deq = get_deq(
                f_solver=name, b_solver=name, ift=True, f_tol=forward, b_tol=backward,
                f_stop_mode="rel", b_stop_mode="rel", f_max_iter=100, b_max_iter=100,
            )  # fmt: skip
            deq.train(torch.is_grad_enabled())
            found, _ = deq(step, torch.zeros_like(e))
            return found[-1]

        return Method(solve, points)

    names = {
        "fixed point": "fixed_point_iter",
        "anderson": "anderson",
        "broyden": "broyden",
        "anderson tuned": "anderson_1e7",
    }
    return {f"torchdeq {title}": with_solver(name) for title, name in names.items()}


def ours(cell: Cell, c: int, inner: int, groups: int) -> tuple[dict[str, Method], tuple[Tensor, ...]]:
    """The equilibrium of the generated module, with the same weights, and these."""
    generated = implicit_dsl.load(PROGRAM, channels=3, size=32, c=c, inner=inner, groups=groups)
    model = generated.ResidualDEQ()
    model.load_state_dict(
        {f"{name}.weight": getattr(cell, name).weight for name in ("K1", "K2", "n1", "n2", "n3")}
        | {f"{name}.bias": getattr(cell, name).bias for name in ("n1", "n2", "n3")},
        strict=False,
    )
    n1, n2, n3 = ((layer.weight, layer.bias) for layer in (model.n1, model.n2, model.n3))
    weights = (model.K1.weight, *n1, 0.2 * model.K2.weight, *n2, *n3)

    step = generated._ResidualDEQ_z

    def added(z: Tensor, e: Tensor, d: Tensor, *w: Tensor) -> Tensor:
        return step(z, e, *w) + d

    @cache
    def loop(memory: int, forward: float, backward: float, plain: bool) -> nn.Module:
        solver = runtime.Anderson(memory=memory, delay=0, tolerance=forward, max_steps=100)
        gradient = runtime.Implicit(tolerance=backward)
        return runtime.Equilibrium(step if plain else added, "z", solver=solver, backward=gradient)

    def with_memory(memory: int) -> Method:
        def solve(forward: float, backward: float, e: Tensor, d: Tensor | None) -> Tensor:
            injected = e.contiguous(memory_format=torch.channels_last)  # as the generated module does
            given = (injected,) if d is None else (injected, d)
            (z,) = loop(memory, forward, backward, d is None)((torch.zeros_like(e),), given, weights)
            return z

        return Method(solve, [])

    return {f"implicitc anderson(m = {memory})": with_memory(memory) for memory in (2, 3, 5)}, weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    c, inner, groups = 48, 64, 8
    cell = Cell(c, inner, groups)
    e, g = torch.randn(2, options.batch, c, 32, 32)
    judge = Judge(cell, e, g)
    own, weights = ours(cell, c, inner, groups)
    candidates = {**own, **peers(cell)}
    forwards: dict[str, Callable[[], object]] = {}
    both: dict[str, Callable[[], object]] = {}
    for name, method in candidates.items():
        found = tuned(method, judge, e, g)
        print(f"{name:<26} tolerances {found}")
        if found is None:
            continue

        def forward(method: Method = method, at: tuple[float, float] = found) -> Tensor:
            with torch.no_grad():
                return method.solve(*at, e, None)

        def backward(method: Method = method, at: tuple[float, float] = found) -> tuple[Tensor, ...]:
            injected = e.clone().requires_grad_()
            leaves = [injected, *(weights if method in own.values() else cell.parameters())]
            return torch.autograd.grad(method.solve(*at, injected, None), leaves, g)

        forwards[name], both[name] = forward, backward
    for title, timed in (("forward", forwards), ("forward + backward", both)):
        times = interleave(timed, rounds=options.rounds, seconds=0.01)
        middle = {name: statistics.median(found) for name, found in times.items()}
        print(f"{title}: " + ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in middle.items()))
        mine, peer = (
            min((name for name in times if name.startswith(kind)), key=middle.__getitem__)
            for kind in ("implicitc", "torchdeq")
        )
        report(f"{title}: over {peer}", {mine: times[mine], peer: times[peer]}, peer, BAR)


if __name__ == "__main__":
    main()
