"""Rows of state-driven models against the solvers of torchidl 0.0.4, for the same problem.

    pip install --no-deps torchidl==0.0.4      # and scikit-learn; in a separate environment, if you like
    OMP_NUM_THREADS=1 python benchmarks/sim.py [--epochs 100 1000] [--rounds 3]

min ½ ‖Xᵀa + Uᵀb − z‖² + λ (‖a‖₁ + ‖b‖₁) subject to ‖a‖₁ ≤ κ for each row, without offsets, as its ADMM solver
has it, which runs for a number of epochs (1000 by default) and returns an average that no constraint holds
for. Theirs is projected onto the ball, so that it can be compared; ours is stopped at the loosest duality gap
of 1e-1, …, 1e-6 of the objective at zero at which it is as low. Both are timed with everything that they
need: products of the data, too. Float32 for theirs, float64 for ours.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torchidl_solvers import solvers

from implicit_dsl.runtime.constraints.balls import onto_balls
from implicit_dsl.train.state_driven import collect_states
from implicit_dsl.train.state_driven.moments import Moments
from implicit_dsl.train.state_driven.rows import solve_rows

KAPPA = 0.95
TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5, 1e-6)


def digits() -> tuple[Tensor, Tensor, Tensor]:
    """X [m, n], U [m, p] and Z [m, n] of an MLP trained on handwritten digits."""
    from sklearn.datasets import load_digits

    data = load_digits()
    u, target = torch.tensor(data.data).float() / 16, torch.tensor(data.target)
    net = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 60), nn.ReLU(), nn.Linear(60, 10))
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(u), target).backward()
        optimizer.step()
    states = collect_states(net, u)
    return states.X.float(), states.U.float(), states.Z.float()


def synthetic(n: int, p: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """States of a random sparse relu layer."""
    X, U = torch.relu(torch.randn(m, n // 4) @ torch.randn(n // 4, n)) / n**0.5, torch.randn(m, p)
    A = torch.randn(n, n) * (torch.rand(n, n) < 10 / n) / 5
    B = torch.randn(n, p) * (torch.rand(n, p) < 10 / p) / 5
    return X, U, X @ A.T + U @ B.T + 0.05 * torch.randn(m, n)


def seconds(run: Callable[[], Tensor], rounds: int) -> tuple[list[float], Tensor]:
    found, W = [], torch.empty(0)
    for _ in range(rounds):
        start = time.perf_counter()
        W = run()
        found.append(time.perf_counter() - start)
    return found, W


@dataclass(frozen=True)
class Rows:
    """One problem, and both ways to solve it."""

    X: Tensor
    U: Tensor
    Z: Tensor
    penalty: float

    def theirs(self, epochs: int) -> Tensor:
        solver = solvers("admm_consensus").ADMMSolver(
            num_epoch_ab=epochs, lambda_z=self.penalty, batch_feature_size=len(self.Z.T) + 1
        )
        F = torch.hstack([self.X, self.U])
        with contextlib.redirect_stdout(io.StringIO()):
            W = solver.parallel_solve_matrix(F, self.Z, False, self.X.shape[1], KAPPA, False, "cpu")
        return torch.tensor(W)

    def ours(self, tolerance: float) -> Tensor:
        F, T, m = torch.hstack([self.X, self.U]).double(), self.Z.double(), len(self.X)
        none = F.new_zeros(1)
        means = none.expand(F.shape[1]), none.expand(T.shape[1])
        moments = Moments(*means, F.T @ F / m, T.T @ F / m, T.square().mean(0))
        penalties = torch.full_like(moments.Q, self.penalty / m)
        return solve_rows(moments, penalties, self.X.shape[1], KAPPA, None, tolerance).W

    def objective(self, W: Tensor) -> float:
        F = torch.hstack([self.X, self.U]).double()
        fit = (F @ W.double().T - self.Z.double()).square().sum()
        return float(0.5 * fit + self.penalty * W.double().abs().sum())

    def inside(self, W: Tensor) -> Tensor:
        """The nearest matrix that is within the ball."""
        n, made = self.X.shape[1], W.double().clone()
        made[:, :n] = onto_balls(made[:, :n].contiguous(), made.new_full((len(made),), KAPPA))
        return made

    def described(self, W: Tensor) -> str:
        outside = float(W[:, : self.X.shape[1]].double().abs().sum(1).max() - KAPPA)
        zeros = float((W == 0).float().mean())
        return f"objective {self.objective(W):.3f}   ‖A‖∞ − κ {outside:+.1e}   zeros {zeros:.3f}"


def compare(rows: Rows, epochs: int, rounds: int) -> None:
    spent, V = seconds(lambda: rows.theirs(epochs), 1)
    goal = rows.objective(rows.inside(V))
    print(f"    ADMM, {epochs:>4} epochs {spent[0]:7.2f} s {'':23} {rows.described(V)}, projected {goal:.3f}")
    for tolerance in TOLERANCES:
        times, W = seconds(partial(rows.ours, tolerance), rounds)
        if rows.objective(W) <= goal:
            break
    found = {f"{tolerance:.0e}": (times, W), "1e-06": seconds(partial(rows.ours, 1e-6), rounds)}
    for name, (times, W) in found.items():
        middle = statistics.median(times)
        spread = f"[{min(times):.2f}, {max(times):.2f}], {spent[0] / middle:.1f}x"
        print(f"    ours, gap {name}   {middle:7.2f} s {spread:<23} {rows.described(W)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for title, (X, U, Z) in {"digits": digits(), "synthetic": synthetic(300, 100, 3000)}.items():
        largest = float((torch.hstack([X, U]).T @ Z).abs().max())
        for share in (1e-2, 1e-3):
            sizes = f"{Z.shape[1]} rows, {X.shape[1] + U.shape[1]} features, {len(X)} samples"
            print(f"{title}: {sizes}, λ = {share:g} of the largest", flush=True)
            for epochs in options.epochs:
                compare(Rows(X, U, Z, share * largest), epochs, options.rounds)


if __name__ == "__main__":
    main()
