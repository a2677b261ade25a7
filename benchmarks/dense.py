"""Dense equilibria x = relu(A x + B u) against torchdeq, torchidl and unrolled loops, at equal accuracy.

    pip install --no-deps torchdeq==0.1.0 torchidl==0.0.4      # in a separate environment, if you like
    OMP_NUM_THREADS=1 python benchmarks/dense.py [--cells pos] [--rounds 9] [--out found.jsonl]

Everyone reaches, checked in float64, ‖x − relu(A x + B u)‖∞ ≤ 1e-5 · max(1, ‖x‖∞) and an adjoint
residual ≤ 1e-5 · ‖λ‖∞, each at the loosest tolerance that does. Three families of A, with ‖A‖∞ = κ,
since κ alone says little about difficulty:

    sign  Gaussian rows, a model at initialisation: a few steps, whatever κ
    pos   |Gaussian|: Perron root near κ
    band  a random walk on a ring: the spectrum fills an interval

torchdeq is the fastest, in every cell anew, of its three solvers and of its Anderson with lam = 1e-7.
Times are of forward + backward, with gradients of A, B and u; rounds are interleaved, ratios taken
within a round. Solvers that cannot be the fastest (four times slower) leave after tuning.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from interleave import interleave, ratio
from torch import Tensor

from implicit_dsl.runtime.dense import DenseEquilibrium
from implicit_dsl.runtime.native import build, library
from implicit_dsl.runtime.solvers import Auto

WANTED = 1e-5
TOLERANCES = [3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7]
PATIENCE = 12.0  # seconds of tuning, for each method and cell
HOPELESS = 4.0  # times slower than the fastest of its kind: not timed further
MOST_STEPS = 3000
BARS = {  # (geometric mean, worst cell) of the speed-up, in PyTorch and with kernels
    ("torchdeq", "sign+pos"): ((3.5, 1.2), (7.0, 1.4)),
    ("torchdeq", "band"): ((5.0, 0.0), (20.0, 0.0)),
    ("torchidl", "sign+pos"): ((3.5, 2.0), (7.0, 2.0)),
    ("unrolled", "sign+pos"): ((0.0, 0.9), (0.0, 1.1)),
}

Run = Callable[[Tensor, Tensor, Tensor, float, float], Tensor]  # (A, B, u, tolerance, adjoint's) -> x


@dataclass(frozen=True)
class Cell:
    """One problem."""

    family: str
    n: int
    batch: int
    kappa: float

    def __str__(self) -> str:
        return f"{self.family:4} n {self.n:4} batch {self.batch:3} κ {self.kappa:<4}"

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A, B, u and the gradient that arrives at x."""
        generator = torch.Generator().manual_seed(0)
        A = torch.randn(self.n, self.n, generator=generator, dtype=torch.float64)
        if self.family == "pos":
            A = A.abs()
        elif self.family == "band":
            A, places = torch.zeros_like(A), torch.arange(self.n)
            for offset in range(-4, 5):
                A[places, (places + offset) % self.n] = 0.1 + torch.rand(
                    self.n, generator=generator, dtype=torch.float64
                )
        A = (A / A.abs().sum(1, keepdim=True) * self.kappa).float()
        u = torch.randn(self.batch, self.n, generator=generator)
        return A, torch.eye(self.n), u, torch.randn(self.batch, self.n, generator=generator)


def cells() -> Iterator[Cell]:
    """42 cells of sign and pos, 12 of band."""
    for family in ("sign", "pos", "band"):
        for n in (64, 256, 1024):
            for batch in (1, 64, 512):
                for kappa in (0.5, 0.9, 0.99):
                    if (n == 1024 and (kappa != 0.9 or family == "band")) or (
                        family == "band" and kappa < 0.9
                    ):
                        continue
                    yield Cell(family, n, batch, kappa)


# ------------------------------------------------------------------------------- who takes part


def ours(native: bool) -> Run:
    """DenseEquilibrium, with or without kernels."""

    @functools.cache
    def layer(tolerance: float) -> DenseEquilibrium:
        return DenseEquilibrium("relu", "x", solver=Auto(tolerance=tolerance))

    def run(A: Tensor, B: Tensor, u: Tensor, tolerance: float, _: float) -> Tensor:
        os.environ[library.SWITCH] = "1" if native else "0"
        return layer(tolerance)(A, torch.nn.functional.linear(u, B))

    return run


def unrolled(steps: int) -> Run:
    """Plain steps, as many as are needed, under autograd."""

    def run(A: Tensor, B: Tensor, u: Tensor, tolerance: float, adjoint: float) -> Tensor:
        c, At = torch.nn.functional.linear(u, B), A.T
        x = c.relu()
        for _ in range(steps):
            x = torch.addmm(c, x, At).relu()
        return x

    return run


def torchdeq_methods() -> dict[str, Run]:
    """Its solvers, and its Anderson with a regularisation that suits."""
    from torchdeq import get_deq
    from torchdeq.solver import register_solver
    from torchdeq.solver.anderson import anderson_solver

    def tuned_anderson(func, x0, **settings):
        return anderson_solver(func, x0, **{**settings, "lam": 1e-7})

    register_solver("tuned", tuned_anderson)

    def method(solver: str, most: int) -> Run:
        steps = SimpleNamespace(forward=0, backward=0, most=(most, most))

        @functools.cache
        def model(tolerance: float, adjoint: float, most: tuple[int, int], train: bool):
            return get_deq(
                f_solver=solver, b_solver=solver, ift=True, f_stop_mode="rel", b_stop_mode="rel",
                f_tol=tolerance, b_tol=adjoint, f_max_iter=most[0], b_max_iter=most[1],
            ).train(train)  # fmt: skip

        def note(info) -> None:
            steps.backward = int(info["nstep"].max())

        def run(A: Tensor, B: Tensor, u: Tensor, tolerance: float, adjoint: float) -> Tensor:
            c, At = torch.nn.functional.linear(u, B), A.T
            solve = model(tolerance, adjoint, steps.most, torch.is_grad_enabled())
            z, info = solve(
                lambda x: torch.relu(torch.addmm(c, x, At)), torch.zeros_like(c), backward_writer=note
            )
            steps.forward = int(info["nstep"].max())
            return z[-1]

        run.steps = steps
        return run

    return {
        "torchdeq fixed point": method("fixed_point_iter", MOST_STEPS),
        "torchdeq anderson": method("anderson", 1000),
        "torchdeq anderson, tuned": method("tuned", 1000),
        "torchdeq broyden": method("broyden", 150),
    }


@functools.cache
def torchidl_method() -> Run:
    """Its function, whose settings are attributes of a class; the package around it imports much besides."""
    spec = importlib.util.find_spec("torchidl")
    if spec is None or spec.origin is None:
        raise ImportError("torchidl is not installed: pip install --no-deps torchidl==0.0.4")
    package = type(sys)("torchidl")
    package.__path__ = [str(Path(spec.origin).parent)]
    sys.modules["torchidl"] = package  # without its __init__
    from torchidl.implicit_function import ImplicitFunctionInf

    def run(A: Tensor, B: Tensor, u: Tensor, tolerance: float, adjoint: float) -> Tensor:
        ImplicitFunctionInf.mitr = ImplicitFunctionInf.grad_mitr = 5000
        ImplicitFunctionInf.tol, ImplicitFunctionInf.grad_tol = tolerance, adjoint
        ImplicitFunctionInf.kappa = 1.0
        return ImplicitFunctionInf.apply(A, B, torch.zeros(len(A), len(u)), u.T).T

    return run


# ------------------------------------------------------------------------------- equal accuracy


def residual(x: Tensor, A: Tensor, c: Tensor) -> float:
    """Of the equilibrium, the worst sample, in float64."""
    x, A, c = x.double(), A.double(), c.double()
    worst = (x - torch.relu(x @ A.T + c)).abs().amax(1) / x.abs().amax(1).clamp(min=1)
    return float(worst.max())


def adjoint_residual(adjoint: Tensor, x: Tensor, A: Tensor, c: Tensor, g: Tensor) -> float:
    """The same of the adjoint. Where z is nearly zero, either slope is right."""
    adjoint, x, A, c, g = (tensor.double() for tensor in (adjoint, x, A, c, g))
    z = x @ A.T + c
    active, inactive = (adjoint - (adjoint @ A + g)).abs(), adjoint.abs()
    wrong = torch.where(z > 0, active, inactive)
    near = z.abs() <= 1e-4 * max(1.0, float(x.abs().max()))
    return float(torch.where(near, torch.minimum(active, inactive), wrong).max() / adjoint.abs().max())


@dataclass
class Tuned:
    """The loosest tolerances that are good enough, or the best there are."""

    tolerance: float
    adjoint: float
    residual: float
    adjoint_residual: float

    @property
    def good(self) -> bool:
        return max(self.residual, self.adjoint_residual) <= WANTED


def tune(run: Run, cell: Cell, single: bool) -> Tuned | None:
    """Tolerances for one method; None: it does not get there. `single`: one tolerance for both directions."""
    A, B, u, g = cell.tensors()
    leaves = [tensor.clone().requires_grad_() for tensor in (A, B, u)]
    began, found, forward = time.perf_counter(), [], None
    for tolerance in TOLERANCES:
        if time.perf_counter() - began > PATIENCE:
            break
        if forward is None or single:
            x = run(*leaves, tolerance, tolerance)
            if not residual(x.detach(), A, u) <= WANTED:
                continue
            forward = tolerance
        else:
            x = run(*leaves, forward, tolerance)
        adjoint = torch.autograd.grad(x, leaves, g)[2]  # B = I: the gradient of u is the adjoint
        made = Tuned(
            forward, tolerance, residual(x.detach(), A, u), adjoint_residual(adjoint, x.detach(), A, u, g)
        )
        if made.good:
            return made
        found.append(made)
    # peers that take the slope at another iterate than they return stay a little above: as good as they get
    best = min((made.adjoint_residual for made in found), default=1.0)
    return next((m for m in found if m.adjoint_residual <= 1.2 * best), None) if best <= 1e-3 else None


def steps_needed(cell: Cell) -> int:
    """Plain steps until the residual is good enough."""
    A, _, u, _ = cell.tensors()
    x, steps = u.relu(), 0
    while residual(x, A, u) > WANTED:
        x, steps = torch.addmm(u, x, A.T).relu(), steps + 1
    return steps


# ------------------------------------------------------------------------------- measuring


@dataclass
class Found:
    """What was measured in one cell: seconds by method, and what each needed."""

    cell: Cell
    times: dict[str, list[float]]
    tuned: dict[str, Tuned]
    steps: dict[str, tuple[float, float]]  # of ours: mean, forward and adjoint

    def best(self, kind: str) -> str:
        """The fastest of the methods whose name begins so."""
        names = [name for name in self.times if name.startswith(kind)]
        return min(names, key=lambda name: statistics.median(self.times[name]))

    def speedup(self, peer: str, method: str) -> float | None:
        """How many times faster `method` is than the best of a peer, by paired rounds."""
        if not any(name.startswith(peer) for name in self.times):
            return None
        return ratio(self.times, self.best(peer), method)[0]


def once(run: Run, given: tuple[Tensor, ...], g: Tensor, tuned: Tuned) -> Callable[[], object]:
    """Forward + backward, as it is timed."""
    leaves = [tensor.clone().requires_grad_() for tensor in given]

    def call() -> object:
        return torch.autograd.grad(run(*leaves, tuned.tolerance, tuned.adjoint), leaves, g)

    return call


def measure(cell: Cell, rounds: int, only: list[str]) -> Found:
    """Tune and time everyone who takes part."""
    methods: dict[str, Run] = {"implicitc": ours(False), "implicitc native": ours(True), **torchdeq_methods()}
    methods["torchidl"] = torchidl_method()
    if only:
        methods = {name: run for name, run in methods.items() if any(word in name for word in only)}
    tuned: dict[str, Tuned] = {}
    calls: dict[str, Callable[[], object]] = {}
    fastest: dict[str, float] = {}
    *given, g = cell.tensors()
    for name, run in methods.items():
        settled = tune(run, cell, single=name.startswith("implicitc"))
        if settled is None:
            continue
        steps = getattr(run, "steps", None)
        if steps is not None:  # its bookkeeping grows with the steps allowed: allow what is needed
            steps.most = (steps.forward + 4, steps.backward + 4)
        call = once(run, tuple(given), g, settled)
        call()
        began = time.perf_counter()
        call()
        seconds, kind = time.perf_counter() - began, name.split()[0]
        tuned[name] = settled
        fastest[kind] = min(fastest.get(kind, seconds), seconds)
        if seconds <= HOPELESS * fastest[kind]:
            calls[name] = call
    steps_alone = steps_needed(cell)
    if 8 * cell.n * cell.batch * steps_alone < 1.5e9 and (not only or "unrolled" in only):
        calls["unrolled"] = once(unrolled(steps_alone), tuple(given), g, Tuned(0, 0, 0, 0))
    turn = 0.01 if cell.n < 1024 else 0.0
    return Found(cell, interleave(calls, rounds, turn), tuned, own_steps(cell, tuned))


def own_steps(cell: Cell, tuned: dict[str, Tuned]) -> dict[str, tuple[float, float]]:
    """Mean steps of ours, forward and adjoint."""
    found = {}
    A, _, u, g = cell.tensors()
    A.requires_grad_()
    for name, native in (("implicitc", "0"), ("implicitc native", "1")):
        if name in tuned:
            os.environ[library.SWITCH] = native
            layer = DenseEquilibrium("relu", "x", solver=Auto(tolerance=tuned[name].tolerance))
            layer(A, u).backward(g)
            stats = layer.stats
            found[name] = stats.mean_steps, stats.adjoint.mean_steps
    return found


def fma_peak() -> float:
    """GFLOP/s of one thread in a loop of fused multiplications and additions that stay in registers."""
    compiler = build.find_compiler()
    if compiler is None:
        return float("nan")
    with tempfile.TemporaryDirectory() as work:
        source, program = Path(work) / "peak.cpp", Path(work) / "peak"
        source.write_text(PEAK, encoding="utf-8")
        subprocess.run([compiler, "-O3", "-march=native", source, "-o", program], check=True)
        return max(float(subprocess.check_output([program])) for _ in range(5))


PEAK = r"""
#include <chrono>
#include <cstdio>
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float V __attribute__((vector_size(BYTES)));
int main() {
    V b = {}, c = {};
    b += 0.999999f, c += 1e-7f;
    V a0 = b, a1 = b + c, a2 = a1 + c, a3 = a2 + c, a4 = a3 + c, a5 = a4 + c;
    V a6 = a5 + c, a7 = a6 + c, a8 = a7 + c, a9 = a8 + c, aa = a9 + c, ab = aa + c;
    const long steps = 20000000;
    auto began = std::chrono::steady_clock::now();
    for (long k = 0; k < steps; k++) {
        a0 = a0 * b + c, a1 = a1 * b + c, a2 = a2 * b + c, a3 = a3 * b + c, a4 = a4 * b + c, a5 = a5 * b + c;
        a6 = a6 * b + c, a7 = a7 * b + c, a8 = a8 * b + c, a9 = a9 * b + c, aa = aa * b + c, ab = ab * b + c;
    }
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    V sum = a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9 + aa + ab;
    volatile float used = sum[0] + sum[1];
    (void)used;
    std::printf("%f\n", 12.0 * (BYTES / 4) * 2 * steps / seconds / 1e9);
}
"""


def peak_memory(name: str) -> float:
    """MB that forward + backward takes at n = 256 and batch 512, beyond what was there, in a new process."""
    command = [sys.executable, __file__, "--memory-of", name]
    return float(subprocess.check_output(command, text=True).split()[-1])


def memory_of(name: str) -> float:
    """The same, in this process: by the high-water mark that Linux keeps, which can be reset."""
    methods = {"implicitc": ours(False), "implicitc native": ours(True), **torchdeq_methods()}
    methods["torchidl"] = torchidl_method()
    tolerances = Tuned(3e-6, 3e-6, 0, 0)
    A, _, u, _ = Cell("pos", 256, 512, 0.9).tensors()
    for left, right in ((u, A), (u, A.T), (u.T, u)):  # the workspace of products is nobody's
        torch.mm(left, right)
    for cell in (Cell("pos", 256, 64, 0.9), Cell("pos", 256, 512, 0.9)):  # the first loads what is needed
        *given, g = cell.tensors()
        call = once(methods[name], tuple(given), g, tolerances)
        before, _ = resident()
        Path("/proc/self/clear_refs").write_text("5")
        held = call()
        after = resident()[1] - before
        del held
    return after / 1e3


def resident() -> tuple[int, int]:
    """kB in memory now, and at most since the mark was reset."""
    lines = dict(
        line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line
    )
    return int(lines["VmRSS"].split()[0]), int(lines["VmHWM"].split()[0])


# ------------------------------------------------------------------------------- telling


def tell(found: Found) -> None:
    """One cell."""
    print(found.cell)
    for name, times in found.times.items():
        low, middle, high = (1e6 * q for q in statistics.quantiles(times, n=4))
        tuned, steps = found.tuned.get(name), found.steps.get(name)
        text = f"    {name:26}{middle:12.1f} µs [{low:.1f}, {high:.1f}]"
        if tuned is not None:
            text += f"   residual {tuned.residual:.0e} / {tuned.adjoint_residual:.0e}"
            text += "" if tuned.good else "   MISSED the tolerance"
        if steps is not None:
            text += f"   steps {steps[0]:.1f} / {steps[1]:.1f}"
        print(text, flush=True)


def summarise(all_found: list[Found], peak: float) -> None:
    """Geometric means and worst cells, against the bars."""
    print("\nspeed-up: geometric mean (worst cell)")
    for (peer, group), bars in BARS.items():
        for method, (mean_bar, worst_bar) in zip(("implicitc", "implicitc native"), bars):
            chosen = {}
            for found in all_found:
                if found.cell.family in group and method in found.times:
                    gain = found.speedup(peer, method)
                    if gain is not None:
                        chosen[found.cell] = gain
            if chosen:
                worst = min(chosen, key=chosen.__getitem__)
                mean = statistics.geometric_mean(chosen.values())
                verdict = "met" if mean >= mean_bar and chosen[worst] >= worst_bar else "MISSED"
                print(
                    f"  {method:17} over {peer:9} {group:9} {len(chosen):2} cells {mean:6.2f} "
                    f"({chosen[worst]:.2f}: {worst})   bar {mean_bar} ({worst_bar}) {verdict}"
                )
    for found in all_found:
        if found.cell.batch == 512 and found.cell.n >= 256:
            for name, steps in found.steps.items():
                if name in found.times:
                    flops = 2 * found.cell.batch * found.cell.n**2 * (sum(steps) + 4)  # dA, Bu and its two
                    share = flops / statistics.median(found.times[name]) / peak / 1e9
                    print(f"  {found.cell} {name:17} {100 * share:.0f} % of {peak:.0f} GFLOP/s")
    missed = [
        f"{found.cell} {name}"
        for found in all_found
        for name, tuned in found.tuned.items()
        if name.startswith("implicitc") and not tuned.good
    ]
    print(f"  cells of ours that missed the tolerance: {', '.join(missed) or 'none'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--cells", default="", help="only cells whose line contains this, such as 'pos  n   64'"
    )
    parser.add_argument(
        "--methods", nargs="*", default=[], help="only methods whose name contains one of these"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a line of JSON for each cell is added to this file")
    parser.add_argument("--memory", action="store_true", help="peak memory as well")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(memory_of(options.memory_of))
        return
    peak, all_found = fma_peak(), []
    for cell in cells():
        if options.cells in str(cell):
            all_found.append(measure(cell, options.rounds, options.methods))
            tell(all_found[-1])
            if options.out:
                record = {"cell": vars(cell), "times": all_found[-1].times, "steps": all_found[-1].steps}
                with options.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
    summarise(all_found, peak)
    if options.memory:
        for name in (
            "implicitc",
            "implicitc native",
            "torchidl",
            "torchdeq fixed point",
            "torchdeq anderson",
        ):
            print(f"  {name:26} {peak_memory(name):6.1f} MB at n 256, batch 512")


if __name__ == "__main__":
    main()
