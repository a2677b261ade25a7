"""Equilibria under the transforms of PyTorch: the same numbers and gradients, or an error that says why."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from equations import (
    ATTENTION,
    CASES,
    CONVOLUTION,
    TANH,
    TWO,
    Case,
    affine,
    data,
    largest,
    matrix,
    tanh_step,
)
from loop_programs import PROGRAMS
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import implicit_dsl
from implicit_dsl.runtime import (
    Auto,
    ConvergenceError,
    DenseEquilibrium,
    Equilibrium,
    ForwardBackward,
    Solver,
)

TOLERANCE = 1e-13
FORWARD_MODE = "ignore:.*torch.jit.script"  # PyTorch's own, in forward mode
pytestmark = pytest.mark.filterwarnings(FORWARD_MODE)
KINDS = [(case, False) for case in CASES] + [(case, True) for case in CASES if case.phi]
SOME = [(TANH, False), (TANH, True), (TWO, False), (ATTENTION, False), (CONVOLUTION, False)]


def named(value: object) -> str:
    return value.name if isinstance(value, Case) else "split" if value is True else "whole"


every = pytest.mark.parametrize(("case", "split"), KINDS, ids=named)
some = pytest.mark.parametrize(("case", "split"), SOME, ids=named)


@pytest.fixture(autouse=True)
def math_kernel() -> Iterator[None]:
    with sdpa_kernel(SDPBackend.MATH):
        yield


def solver_of(split: bool) -> Solver:
    return ForwardBackward(tolerance=TOLERANCE) if split else Auto(tolerance=TOLERANCE)


def scalar(states: tuple[Tensor, ...]) -> Tensor:
    weights = (torch.linspace(1, 2, state.numel(), dtype=state.dtype) for state in states)
    return sum((w.reshape(s.shape) * s.square()).sum() for w, s in zip(weights, states))  # type: ignore[return-value]


class Network(nn.Module):
    """A case with its shared tensors as parameters."""

    def __init__(self, case: Case, split: bool = False) -> None:
        super().__init__()
        self.case, self.layer = case, case.layer(solver_of(split), split=split)
        self.weights = nn.ParameterList([nn.Parameter(tensor.clone()) for tensor in case.shared])

    def forward(self, b: Tensor) -> tuple[Tensor, ...]:
        start = tuple(b.new_zeros((b.shape[0], *shape)) for shape in self.case.states)
        states: tuple[Tensor, ...] = self.layer(start, (b,), tuple(self.weights))
        return states


def gradients(
    network: Callable[[Tensor], tuple[Tensor, ...]], owner: nn.Module, b: Tensor
) -> tuple[Tensor, ...]:
    leaf = b.clone().requires_grad_()
    return torch.autograd.grad(scalar(network(leaf)), (leaf, *owner.parameters()))


# -- torch.func ------------------------------------------------------------------------------------


@every
def test_jacobians_in_both_modes(case: Case, split: bool) -> None:
    layer, places = case.layer(solver_of(split), split=split), tuple(range(len(case.given)))
    expected = torch.autograd.functional.jacobian(lambda *given: case.swept(*given), case.given)
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        found = transform(lambda *given: case.solved(layer, *given), argnums=places)(*case.given)
        for one, other in zip(expected, found):
            assert largest(one, other) <= 1e-11


@some
def test_hessians_of_all_nestings_but_one(case: Case, split: bool) -> None:
    layer, places = case.layer(solver_of(split), split=split), tuple(range(len(case.given)))
    loss = lambda *given: scalar(case.solved(layer, *given))  # noqa: E731
    expected = torch.autograd.functional.hessian(lambda *given: scalar(case.swept(*given)), case.given)
    reverse, forward = torch.func.jacrev, torch.func.jacfwd
    for outer, inner in ((forward, reverse), (reverse, forward), (reverse, reverse)):
        found = outer(inner(loss, argnums=places), argnums=places)(*case.given)
        for one, other in zip(expected, found):
            assert largest(one, other) <= 1e-9


def test_forward_mode_in_forward_mode_is_refused() -> None:
    """PyTorch would leave terms out without a word."""
    b, A = TANH.given
    dense = DenseEquilibrium("tanh", "tanh", solver=Auto(tolerance=TOLERANCE))
    layer = TANH.layer()
    for solve in (lambda A: dense(A, b), lambda A: TANH.solved(layer, b, A)[0]):
        along = lambda A, solve=solve: torch.func.jvp(solve, (A,), (A,))[1]  # noqa: E731
        with pytest.raises(RuntimeError, match=r"`tanh`: PyTorch cannot nest forward mode.*hessian"):
            torch.func.jvp(along, (A,), (A,))
        with pytest.raises(RuntimeError, match=r"`tanh`: PyTorch cannot nest forward mode"):
            torch.func.jacfwd(torch.func.jacfwd(solve))(A)


@every
def test_products_with_jacobians(case: Case, split: bool) -> None:
    layer = case.layer(solver_of(split), split=split)
    directions = tuple(data(*tensor.shape, seed=40 + n) for n, tensor in enumerate(case.given))
    expected = torch.func.jvp(lambda *given: case.swept(*given), case.given, directions)
    found = torch.func.jvp(lambda *given: case.solved(layer, *given), case.given, directions)
    assert largest((*expected[0], *expected[1]), (*found[0], *found[1])) <= 1e-11


@every
def test_samples_are_mapped_in_one_solve(case: Case, split: bool) -> None:
    """And weights one by one; along any axis, and one map in another."""
    layer = case.layer(solver_of(split), split=split)
    solve = lambda *given: case.solved(layer, *given)  # noqa: E731
    shared = (None,) * len(case.shared)
    b = torch.stack([case.batched[0], -case.batched[0], 0.5 * case.batched[0]])
    expected = tuple(torch.stack(parts) for parts in zip(*(case.swept(part, *case.shared) for part in b)))
    assert largest(expected, torch.vmap(solve, (0, *shared))(b, *case.shared)) <= 1e-11
    assert layer.stats.steps_of_samples.shape == (3 * case.batch,)
    assert largest(expected, torch.vmap(solve, (1, *shared))(b.movedim(0, 1), *case.shared)) <= 1e-11
    nested = torch.vmap(torch.vmap(solve, (0, *shared)), (0, *shared))(torch.stack([b, b]), *case.shared)
    assert largest(expected, tuple(part[1] for part in nested)) <= 1e-11
    weights = tuple(torch.stack([tensor, 0.5 * tensor]) for tensor in case.shared)
    each = (case.swept(case.batched[0], *(weight[i] for weight in weights)) for i in range(2))
    expected = tuple(torch.stack(parts) for parts in zip(*each))
    found = torch.vmap(solve, (None, *(0 for _ in weights)))(case.batched[0], *weights)
    assert largest(expected, found) <= 1e-11


@every
def test_gradients_of_each_sample(case: Case, split: bool) -> None:
    layer, places = case.layer(solver_of(split), split=split), tuple(range(len(case.given)))

    def loss(b: Tensor, *shared: Tensor) -> Tensor:
        return scalar(case.solved(layer, b[None], *shared))

    shared = (None,) * len(case.shared)
    found = torch.vmap(torch.func.grad(loss, argnums=places), (0, *shared))(*case.given)
    rows = [
        torch.func.grad(lambda b, *s: scalar(case.swept(b[None], *s)), argnums=places)(row, *case.shared)
        for row in case.batched[0]
    ]
    assert largest(tuple(torch.stack(parts) for parts in zip(*rows)), found) <= 1e-11


def test_ensembles_are_stacked() -> None:
    networks = [Network(TANH) for _ in range(3)]
    with torch.no_grad():
        for number, network in enumerate(networks):
            network.weights[0].mul_(0.5 * number)
    weights, _ = torch.func.stack_module_state(networks)
    run = lambda w: torch.func.functional_call(networks[0], w, (TANH.batched[0],))[0]  # noqa: E731
    expected = torch.stack([network(TANH.batched[0])[0] for network in networks])
    assert largest((expected,), (torch.vmap(run)(weights),)) <= 1e-11


# -- torch.compile and torch.export ------------------------------------------------------------------


@some
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_in_one_graph(case: Case, split: bool, backend: str) -> None:
    network, (b,) = Network(case, split), case.batched
    expected, by_hand = network(b), gradients(network, network, b)
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend=backend)
    assert largest(expected, compiled(b)) == 0
    steps = network.layer.stats.steps
    assert steps > 5
    assert largest(by_hand, gradients(compiled, network, b)) <= 1e-14
    with torch.no_grad():
        assert largest(expected, compiled(b)) == 0


@pytest.mark.slow
def test_compiled_by_inductor() -> None:
    torch._dynamo.reset()
    network = Network(TANH)
    compiled = torch.compile(network, fullgraph=True)
    b = TANH.batched[0]
    assert largest(gradients(network, network, b), gradients(compiled, network, b)) <= 1e-14


def test_one_graph_serves_all_batches() -> None:
    torch._dynamo.reset()
    graphs = torch._dynamo.testing.CompileCounter()
    network = Network(CONVOLUTION)
    compiled = torch.compile(network, fullgraph=True, backend=graphs, dynamic=True)
    for batch in (5, 4, 7):
        b = data(batch, 2, 3, 3, seed=batch)
        assert largest(network(b), compiled(b)) <= 1e-14
    assert graphs.frame_count == 1


@some
def test_derivatives_of_a_captured_graph_that_runs_as_it_is(case: Case, split: bool) -> None:
    """PyTorch has no second derivatives of compiled graphs, but of those that the eager backend runs."""
    network, (b,) = Network(case, split), case.batched
    weights = list(network.parameters())

    def third(run: Callable[[Tensor], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        total, found = scalar(run(b)), ()
        for _ in range(2):
            first = torch.autograd.grad(total, weights, create_graph=True)
            total, found = sum(g.square().sum() for g in first), (*found, *first)  # type: ignore[assignment]
        return (*found, *torch.autograd.grad(total, weights))

    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    assert largest(third(network), third(compiled)) <= 1e-9


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of PyTorch's fallback
def test_transforms_inside_of_a_graph_are_refused_and_work_beside_it() -> None:
    """PyTorch drops the gradients of custom operations there (pytorch#193279)."""
    network, (b,) = Network(TANH), TANH.batched
    loss = lambda b: scalar(network(b))  # noqa: E731
    expected = torch.func.grad(loss)(b)
    for transform in (torch.func.grad, torch.vmap):
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.Unsupported, match=r"cannot be captured inside of torch\.func"):
            torch.compile(transform(loss), fullgraph=True, backend="aot_eager")(b)
    torch._dynamo.reset()
    assert largest((expected,), (torch.compile(torch.func.grad(loss), backend="aot_eager")(b),)) <= 1e-14
    torch._dynamo.reset()  # of a graph with breaks in it
    compiled, leaf = torch.compile(loss, fullgraph=True, backend="aot_eager"), b.clone().requires_grad_()
    assert largest((expected,), torch.autograd.grad(compiled(leaf), leaf)) <= 1e-14


def test_failures_are_those_of_plain_calls() -> None:
    torch._dynamo.reset()
    network = Network(TANH)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    b = TANH.batched[0].clone()
    b[1, 2] = torch.nan
    with pytest.raises(ConvergenceError, match="already not finite: `b`"):
        compiled(b)


BATCH = ({0: torch.export.Dim("batch")},)
READ = """
import sys, torch
sys.path.insert(0, {folder!r})
{prepare}
exported = torch.export.load({folder!r} + "/{name}.pt2").module()
u, y, gradient = torch.load({folder!r} + "/{name}.data")
leaf = u.requires_grad_()
found = exported(leaf)
found.square().sum().backward()
torch.testing.assert_close(found, y, rtol=1e-9, atol=1e-9)
torch.testing.assert_close(leaf.grad, gradient, rtol=1e-8, atol=1e-8)
"""


@pytest.mark.parametrize("name", ["relu", "nested", "conv"])
@pytest.mark.parametrize("standalone", [False, True], ids=["package", "standalone"])
def test_exported_programs_run_in_another_process(name: str, standalone: bool, tmp_path: Path) -> None:
    """With any batch. What is needed there: the runtime, and the generated file on the path."""
    program = next(program for program in PROGRAMS if program.name == name)
    title = f"generated_{name}_{int(standalone)}"
    (tmp_path / f"{title}.py").write_text(implicit_dsl.compile(program.text, standalone=standalone))
    sys.path.insert(0, str(tmp_path))
    try:
        module = __import__(title).M(dtype=torch.float64)
    finally:
        sys.path.remove(str(tmp_path))
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(std=0.1)
    module.project_() if hasattr(module, "project_") else None
    exported = torch.export.export(module, (data(3, *program.shape),), dynamic_shapes=BATCH)
    torch.export.save(exported, str(tmp_path / f"{title}.pt2"))
    u = data(7, *program.shape, seed=1).requires_grad_()
    y = module(u)
    (gradient,) = torch.autograd.grad(y.square().sum(), u)
    torch.save((u.detach(), y.detach(), gradient), tmp_path / f"{title}.data")
    needed = f"import {title}" if standalone else "import implicit_dsl.runtime"
    script = READ.format(folder=str(tmp_path), prepare=needed, name=title)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr


def test_graphs_of_steps_that_are_gone_or_changed_say_so(tmp_path: Path) -> None:
    exported = torch.export.export(Network(TWO), TWO.batched, dynamic_shapes=BATCH)
    torch.export.save(exported, str(tmp_path / "gone.pt2"))
    torch.save((TWO.batched[0], None, None), tmp_path / "gone.data")

    def complaint(prepare: str) -> str:
        script = READ.format(folder=str(tmp_path), prepare=prepare, name="gone")
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/").stderr

    assert "`two`, whose step cannot be imported here: No module named 'equations'" in complaint(
        "import implicit_dsl.runtime"
    )
    (tmp_path / "equations.py").write_text("def two_states(x, z, b, A, B):\n    return x, z\n")
    assert "whose step has changed since" in complaint("import implicit_dsl.runtime")


# -- precision -----------------------------------------------------------------------------------------


class Mixed(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.first, self.last = kind, nn.Linear(5, 4), nn.Linear(4, 2)
        self.A = nn.Parameter(TANH.shared[0].float())
        self.general, self.dense = Equilibrium(tanh_step, "x"), DenseEquilibrium("tanh", "x")
        self.split = Equilibrium(tanh_step, "x", affine=affine, phi=torch.tanh, solver=ForwardBackward())
        self.dtypes: tuple[torch.dtype, ...] = ()

    def forward(self, u: Tensor) -> Tensor:
        c = self.first(u)
        if self.kind == "dense":
            x = self.dense(self.A, c)
        else:
            layer = self.general if self.kind == "general" else self.split
            x = layer((torch.zeros_like(c),), (c,), (self.A,))[0]
        self.dtypes = c.dtype, x.dtype
        return self.last(x)


kinds = pytest.mark.parametrize("kind", ["general", "split", "dense"])


@kinds
def test_autocast_solves_in_float32(kind: str) -> None:
    """Also where the gradient is taken inside of it; gradients of weights have their dtype."""
    module, u = Mixed(kind), data(6, 5).float()
    expected = module(u)
    module.zero_grad()
    expected.square().sum().backward()
    plain = [p.grad.clone() for p in module.parameters()]
    for inside in (False, True):
        module.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = module(u)
            assert module.dtypes == (torch.bfloat16, torch.float32)
            if inside:
                y.float().square().sum().backward()
        if not inside:
            y.float().square().sum().backward()
        torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.02)
        for parameter, gradient in zip(module.parameters(), plain):
            assert parameter.grad.dtype == torch.float32
            assert float((parameter.grad - gradient).norm()) <= 0.05 * float(gradient.norm())


@pytest.mark.parametrize("kind", ["general", "split"])
def test_a_scaled_loss_that_overflows_skips_the_step(kind: str) -> None:
    """As the scaler wants it: gradients that are not finite, and no error; then smaller scales."""
    module, u = Mixed(kind), data(6, 5).float()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    before, scales = module.A.detach().clone(), []
    while torch.equal(before, module.A) and len(scales) < 20:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = module(u).float().square().sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    assert 2 <= len(scales) < 20
    assert bool(module.A.isfinite().all())


@pytest.mark.parametrize("split", [False, True], ids=named)
def test_gradients_of_any_size_have_adjoints(split: bool) -> None:
    """Near the largest and the smallest numbers of the format; torchdeq and plain sums overflow there."""
    A = matrix(40, 0.95, 1).abs().float()
    c = data(6, 40, seed=2, scale=0.1).float().requires_grad_()
    layer = TANH.layer(ForwardBackward() if split else Auto(), split=split)
    (x,) = layer((torch.zeros(6, 40),), (c,), (A,))
    g = data(6, 40, seed=3).float()
    (unit,) = torch.autograd.grad(x, c, g, retain_graph=True)
    sizes = torch.tensor([2.0**-120, 2.0**-60, 1.0, 2.0**60, 2.0**110, 2.0**122])[:, None]
    (found,) = torch.autograd.grad(x, c, g * sizes, retain_graph=True)
    torch.testing.assert_close(found / sizes, unit, rtol=1e-6, atol=1e-6)
    tiny = torch.autograd.grad(x, c, g * 1e-42, retain_graph=True)[0]
    torch.testing.assert_close(tiny * 2.0**100, unit * 1e-42 * 2.0**100, rtol=0, atol=1e-12)
    assert not bool(torch.autograd.grad(x, c, torch.full_like(g, 3e38))[0].isfinite().all())


# -- checkpoints and processes ----------------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [False, True])
@some
def test_activation_checkpoints(case: Case, split: bool, reentrant: bool) -> None:
    network = Network(case, split)
    expected = gradients(network, network, case.batched[0])
    leaf = case.batched[0].clone().requires_grad_()
    scalar(checkpoint(network, leaf, use_reentrant=reentrant)).backward()
    assert largest(expected, (leaf.grad, *(weight.grad for weight in network.parameters()))) <= 1e-14


DISTRIBUTED = """
model M(n = 7)
    input u[5]
    param A[n, n], B[n, 5]
    state x[n] ~ tanh(A*x + B*u)
    v ~ silu(0.3*v + x + Dense(n)*u)
    state v[n]
    output y[3] = Dense(3)*v
    @wellposed(x, norm(A, Inf) <= 0.9)
    @wellposed(v, unchecked)
    @solver auto(tol = 1e-13)
end
"""
WORKER = """
import os, sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import implicit_dsl
from implicit_dsl import runtime

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
module = implicit_dsl.load(folder + "/m.impl").M(dtype=torch.float64)
torch.manual_seed(rank)  # each begins with weights of its own: those of the first are sent to the other
with torch.no_grad():
    for weight in module.parameters():
        weight.normal_(std=0.5)
module.project_()
u = torch.load(folder + "/u")[rank::2]
shared = DistributedDataParallel(module)
optimizer = torch.optim.SGD(module.parameters(), 0.5)
runtime.project_after(optimizer, module)
gradients = []
for _ in range(3):
    optimizer.zero_grad()
    shared(u).square().mean().backward()
    gradients.append([weight.grad.clone() for weight in module.parameters()])
    optimizer.step()
torch.save((module.state_dict(), gradients), f"{folder}/done{rank}")
dist.destroy_process_group()
"""


def test_two_processes_train_as_one_does_with_the_whole_batch(tmp_path: Path) -> None:
    (tmp_path / "m.impl").write_text(DISTRIBUTED)
    u = data(8, 5)
    torch.save(u, tmp_path / "u")
    commands = [[sys.executable, "-W", "ignore", "-c", WORKER, str(rank), str(tmp_path)] for rank in range(2)]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for worker in workers:
        _, complaint = worker.communicate(timeout=120)
        assert worker.returncode == 0, complaint
    module = implicit_dsl.load(str(tmp_path / "m.impl")).M(dtype=torch.float64)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(std=0.5)
    module.project_()
    optimizer = torch.optim.SGD(module.parameters(), 0.5)
    implicit_dsl.runtime.project_after(optimizer, module)
    found = [torch.load(tmp_path / f"done{rank}") for rank in range(2)]
    for step in range(3):
        optimizer.zero_grad()
        module(u).square().mean().backward()
        expected = tuple(weight.grad for weight in module.parameters())
        for _, gradients_of in found:
            assert largest(expected, tuple(gradients_of[step])) <= 1e-9
        optimizer.step()
    bound = float(module.A.detach().abs().sum(1).max())
    assert abs(bound - 0.9) < 1e-12  # the constraint was met
    for state, _ in found:
        assert largest(tuple(module.state_dict().values()), tuple(state.values())) <= 1e-9
