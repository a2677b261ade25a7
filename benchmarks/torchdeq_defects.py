"""What docs/peers.md says of torchdeq 0.1.0, run again: prints a line for each of its numbers.

    pip install --no-deps torchdeq==0.1.0      # in a separate environment, if you like
    python benchmarks/torchdeq_defects.py [D1 D7 …]

No figure here is a time. A line that begins with `fixed` says that a defect is not there any more.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torchdeq import get_deq
from torchdeq.loss import power_method
from torchdeq.norm import apply_norm, reset_norm
from torchdeq.solver import get_solver

Claim = Callable[[], tuple[bool, str]]  # whether the defect is there, and its figures
SOLVERS = ("fixed_point_iter", "anderson", "broyden")


def turned(size: float) -> Tensor:
    return size * torch.tensor([[0.0, -1.0], [1.0, 0.0]])


def contraction(n: int, rate: float, dtype: torch.dtype = torch.float64) -> Tensor:
    W = torch.randn(n, n, dtype=dtype)
    return rate * W / torch.linalg.matrix_norm(W, 2)


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def d1() -> tuple[bool, str]:
    f = lambda z: 3 * z + 1  # noqa: E731
    residuals = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for solver in SOLVERS:
            z = get_deq(f_solver=solver, f_max_iter=20)(f, torch.zeros(2, 3))[0][-1]
            residuals.append(float((f(z) - z).abs().max()))
        h = lambda z: torch.tanh(z + 2) + z  # noqa: E731 (no fixed point)
        z = get_deq(f_solver="fixed_point_iter")(h, torch.zeros(2, 3))[0][-1]
        residuals.append(float((h(z) - z).abs().max()))
    return not told and max(residuals) > 0.1, f"true residuals {residuals}, {len(told)} warnings"


def d2() -> tuple[bool, str]:
    A, b = turned(0.9), torch.tensor([1.0, 2.0])
    z, _, info = get_solver("anderson")(lambda z: A @ z + b, torch.zeros(2), max_iter=40, tol=1e-3)
    told, true = float(info["abs_lowest"].max()), float((A @ z + b - z).norm())
    return true > 10 * told, f"a state without batch: reports {told:.1e}, true {true:.1e}"


def d3() -> tuple[bool, str]:
    scale = torch.tensor([[0.5], [1e30]])
    f = lambda z: (z + 1) * scale  # noqa: E731
    z, _, info = get_solver("fixed_point_iter")(f, torch.zeros(2, 1), max_iter=40)
    return bool(z.isnan().any()), f"result {z.flatten().tolist()}, reported {info['abs_lowest'].tolist()}"


def d4_d5() -> tuple[bool, str]:
    W, b = contraction(10, 0.5), torch.randn(4, 10, dtype=torch.float64)
    errors = {}
    for core in ("sliced", "indexing"):
        theta = torch.ones((), dtype=torch.float64, requires_grad=True)
        f = lambda z, theta=theta: torch.tanh(theta * z @ W.T + b)  # noqa: E731
        deq = get_deq(core=core, ift=True, f_max_iter=60, f_tol=1e-12, b_tol=1e-12, indexing=[10, 60])
        z = deq(f, torch.zeros(4, 10, dtype=torch.float64))[0][-1]
        (found,) = torch.autograd.grad(z.sum(), theta)
        x = torch.zeros(4, 10, dtype=torch.float64)
        for _ in range(200):
            x = f(x)
        (exact,) = torch.autograd.grad(x.sum(), theta)
        errors[core] = (float((z - x).detach().abs().max()), relative(found, exact))
    return errors["indexing"][1] > 1e-3, f"(error of z, of its gradient with ift=True): {errors}"


def d6() -> tuple[bool, str]:
    W, b = contraction(10, 0.6), torch.randn(4, 10, dtype=torch.float64)
    theta = torch.ones((), dtype=torch.float64, requires_grad=True)
    f = lambda z: torch.tanh(theta * z @ W.T + b)  # noqa: E731
    z = get_deq(f_tol=1e-12, f_max_iter=200)(f, torch.zeros(4, 10, dtype=torch.float64))[0][-1]
    (found,) = torch.autograd.grad(z.sum(), theta)
    x = torch.zeros(4, 10, dtype=torch.float64)
    for _ in range(200):
        x = f(x)
    (exact,) = torch.autograd.grad(x.sum(), theta)
    return relative(found, exact) > 0.01, f"default gradient is off by {relative(found, exact):.0%}"


def d7() -> tuple[bool, str]:
    W, b = contraction(10, 0.6), torch.randn(4, 10, dtype=torch.float64, requires_grad=True)

    def second(z: Tensor) -> tuple[Tensor, Tensor]:
        (first,) = torch.autograd.grad(z.square().sum(), b, create_graph=True)
        return first.detach(), torch.autograd.grad(first.square().sum(), b)[0]

    f = lambda z: torch.tanh(z @ W.T + b)  # noqa: E731
    deq = get_deq(ift=True, f_tol=1e-14, f_max_iter=300, b_tol=1e-14, b_max_iter=300)
    found = second(deq(f, torch.zeros_like(b))[0][-1])
    x = torch.zeros_like(b)
    for _ in range(200):
        x = f(x)
    exact = second(x)
    errors = [relative(one, other) for one, other in zip(found, exact)]
    return errors[1] > 1e-6, f"errors of the first and the second derivative: {errors}"


def d8() -> tuple[bool, str]:
    script = """
import resource, torch
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
from torchdeq import get_deq
w = torch.tensor(0.5, requires_grad=True)
deq = get_deq(hook_ift=True)
one = deq(lambda z: torch.tanh(w * z + 1), torch.zeros(2, 3))[0][-1]
other = deq(lambda z: torch.tanh(w * z - 1), torch.zeros(2, 3))[0][-1]
(one.sum() + other.sum()).backward()
"""
    try:
        made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return True, "hook_ift, two calls before one backward: no end within two minutes"
    lines = made.stderr.strip().splitlines() or [""]
    return (
        made.returncode != 0,
        f"hook_ift, two calls before one backward: exit {made.returncode}, {lines[-1][:80]}",
    )


def d9() -> tuple[bool, str]:
    deq = get_deq(stop_mode="rel", f_sover="broyden")
    there = (deq.f_stop_mode, deq.f_solver) == ("abs", get_solver("fixed_point_iter"))
    return there, f"stop_mode='rel' and f_sover=… are swallowed: {deq.f_stop_mode}, {deq.f_solver.__name__}"


def d10() -> tuple[bool, str]:
    given = {"f_max_iter": 5}
    get_deq(given, f_tol=7)
    return given != {"f_max_iter": 5}, f"the caller's dict has become {given}"


def d11() -> tuple[bool, str]:
    W, b = contraction(10, 0.5, torch.float32), torch.randn(10, requires_grad=True)
    f = lambda z: torch.tanh(torch.nn.functional.linear(z, W, b))  # noqa: E731
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = get_deq(ift=True)(f, torch.zeros(4, 10))[0][-1]
        z.float().sum().backward()
    except RuntimeError as error:
        return True, f"autocast, ift=True: RuntimeError {str(error)[:70]}"
    return False, "autocast, ift=True works"


def d12() -> tuple[bool, str]:
    b = torch.randn(2, 3, requires_grad=True)
    try:
        deq = get_deq(ift=True, b_solver="simple_fixed_point_iter")
        deq(lambda z: torch.tanh(0.5 * z + b), torch.zeros(2, 3))[0][-1].sum().backward()
    except TypeError as error:
        return True, f"simple_fixed_point_iter as b_solver: TypeError {error}"
    return False, "simple_fixed_point_iter works as b_solver"


def d13() -> tuple[bool, str]:
    f = lambda z: 0.5 * z + 1  # noqa: E731
    z, _, info = get_solver("anderson")(f, torch.zeros(2, 3), max_iter=2)
    told = float(info["abs_lowest"].max())
    try:
        get_solver("anderson")(f, torch.zeros(2, 3), m=1)
        one = "m = 1 works"
    except IndexError:
        one = "m = 1 raises IndexError"
    return not bool(z.any()), f"two steps of Anderson return {z[0].tolist()} with residual {told:.0e}; {one}"


def d14() -> tuple[bool, str]:
    layer = torch.nn.Linear(20, 20)
    apply_norm(layer, "spectral_norm")
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(100):
        reset_norm(layer)
        optimizer.zero_grad()
        (-layer(torch.ones(4, 20)).square().mean()).backward()
        optimizer.step()
    reset_norm(layer)
    size = float(torch.linalg.matrix_norm(layer.weight.detach(), 2))
    return size > 1.01, f"‖W‖₂ under spectral_norm after 100 steps: {size:.2f}"


def d15() -> tuple[bool, str]:
    layer = torch.nn.Linear(3, 3)
    apply_norm(layer, "weight_norm")
    layer(torch.randn(2, 3)).sum()
    try:
        copy.deepcopy(layer)
        copied = "deepcopy works"
    except RuntimeError as error:
        copied = f"deepcopy: {str(error)[:60]}"
    layer.double()
    return layer.weight.dtype != torch.float64, f"{copied}; after .double() `weight` is {layer.weight.dtype}"


def d16() -> tuple[bool, str]:
    z = torch.randn(1, 2, requires_grad=True)
    found = float(power_method(z @ turned(0.9).T, z)[1].max())
    return abs(found - 0.9) > 0.1, f"spectral radius of 0.9 times a quarter turn: {found:.2f}"


def d17() -> tuple[bool, str]:
    b = torch.randn(2, 3, requires_grad=True)
    deq = get_deq(ift=True).eval()
    z = deq(lambda z: torch.tanh(0.5 * z + b), torch.zeros(2, 3))[0][-1]
    return not z.requires_grad, f"eval mode: requires_grad={z.requires_grad}"


def d18() -> tuple[bool, str]:
    W = contraction(10, 0.9)
    b = torch.randn(8, 10, dtype=torch.float64) * torch.logspace(-2, 2, 8, dtype=torch.float64)[:, None]

    def solved(b: Tensor) -> Tensor:
        return get_deq(f_max_iter=400)(lambda z: torch.tanh(z @ W.T + b), torch.zeros_like(b))[0][-1]

    apart = float((solved(b)[:1] - solved(b[:1])).abs().max())
    return apart > 1e-9, f"a sample alone and among others differ by {apart:.1e}"


def d19() -> tuple[bool, str]:
    W, b = contraction(10, 0.5, torch.float32), torch.randn(4, 10)
    deq = get_deq(ift=True)
    run = lambda b: deq(lambda z: torch.tanh(z @ W.T + b), torch.zeros_like(b))[0][-1]  # noqa: E731
    said = {}
    for name, attempt in (
        ("fullgraph", lambda: torch.compile(run, fullgraph=True, backend="eager")(b)),
        ("jacrev", lambda: torch.func.jacrev(run)(b)),
        ("vmap", lambda: torch.func.vmap(lambda row: run(row[None]))(b)),
    ):
        try:
            attempt()
            said[name] = "works"
        except Exception as error:
            said[name] = type(error).__name__
    return "works" not in said.values(), str(said)


def d21() -> tuple[bool, str]:
    norm = torch.nn.BatchNorm1d(3)
    deq = get_deq(f_max_iter=15, f_tol=0.0)
    deq(lambda z: torch.tanh(0.5 * norm(z) + torch.ones(4, 3)), torch.zeros(4, 3))
    return int(
        norm.num_batches_tracked
    ) > 1, f"BatchNorm in f moved {int(norm.num_batches_tracked)} times in one call"


def d22() -> tuple[bool, str]:
    steps = {}
    for n in (16, 4096):
        _, _, info = get_solver("fixed_point_iter")(
            lambda z: 0.9 * z + 1, torch.zeros(1, n), max_iter=400, tol=1e-3
        )
        steps[n] = int(info["nstep"].max())
    return len(set(steps.values())) > 1, f"steps for x = 0.9 x + 1 of so many unknowns: {steps}"


CLAIMS: dict[str, Claim] = {
    "D1": d1, "D2": d2, "D3": d3, "D4, D5": d4_d5, "D6": d6, "D7": d7, "D8": d8, "D9": d9, "D10": d10,
    "D11": d11, "D12": d12, "D13": d13, "D14": d14, "D15": d15, "D16": d16, "D17": d17, "D18": d18,
    "D19": d19, "D21": d21, "D22": d22,
}  # fmt: skip


def main(wanted: list[str]) -> None:
    for number, claim in CLAIMS.items():
        if wanted and not set(number.split(", ")) & set(wanted):
            continue
        torch.manual_seed(0)
        there, figures = claim()
        print(f"{'there' if there else 'fixed'}  {number}: {figures}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
