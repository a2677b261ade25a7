"""What a step uses beside its arguments: gradients reach it, or an error says why they do not."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from loop_programs import PROGRAMS
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl import runtime
from implicit_dsl.runtime import (
    JFB,
    Anderson,
    Auto,
    Backward,
    ConvergenceError,
    Equilibrium,
    ForwardBackward,
    Neumann,
    Newton,
    Unrolled,
)
from implicit_dsl.runtime.implicit import captured
from implicit_dsl.runtime.implicit.purity import is_pure

N, BATCH = 4, 3
TIGHT = Auto(tolerance=1e-13)


def data(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weight(seed: int = 1) -> Tensor:
    A = data(N, N, seed=seed)
    return (0.6 * A / A.abs().sum(1, keepdim=True)).requires_grad_()


ZERO = torch.zeros(BATCH, N, dtype=torch.float64)
U = data(BATCH, N, seed=2)


def swept(step: Callable[..., Tensor], *args: Tensor, start: Tensor = ZERO) -> Tensor:
    """The equilibrium by plain sweeps under autograd: the independent answer."""
    x = start
    for _ in range(80):
        x = step(x, *args)
    return x


def solved(step: Callable[..., Tensor], *args: Tensor, backward: Backward | None = None) -> Tensor:
    return Equilibrium(step, "x", solver=TIGHT, backward=backward)((ZERO,), args)[0]


def assert_same(expected: tuple[Tensor, ...], found: tuple[Tensor, ...], tolerance: float = 1e-10) -> None:
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance)


def assert_gradients(loss: Callable[[Callable[..., Tensor]], Tensor], *wanted: Tensor) -> None:
    """The gradients of `loss(solve)` are those of sweeps."""
    expected = torch.autograd.grad(loss(swept), wanted)
    assert all(bool(gradient.any()) for gradient in expected)
    assert_same(expected, torch.autograd.grad(loss(solved), wanted))


class Cell(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.A = nn.Parameter(weight(seed).detach())
        self.b = nn.Parameter(data(N, seed=seed + 1))
        self.c: Tensor | float = 0.0
        self.gain = 1.0

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        return torch.tanh(self.gain * F.linear(x, self.A, self.b) + sum(more) + self.c)


# -- gradients ------------------------------------------------------------------------------------


def test_tensors_of_a_closure_are_differentiated() -> None:
    A, c = weight(), U.clone().requires_grad_()
    assert_gradients(lambda solve: solve(lambda x: torch.tanh(x @ A.T + c)).square().sum(), A, c)


def test_values_that_are_no_leaves_are_too() -> None:
    """What is closed over was computed from parameters: its gradient goes on to these."""
    A, B = weight(), data(N, N, seed=3).requires_grad_()

    def loss(solve: Callable[..., Tensor]) -> Tensor:
        c, W = U @ B.T, A * A.sigmoid()
        return solve(lambda x: torch.tanh(x @ W.T + c)).square().sum()

    assert_gradients(loss, A, B)


def test_arguments_and_closures_may_be_the_same_tensor() -> None:
    A, c = weight(), U.clone().requires_grad_()
    assert_gradients(lambda solve: solve(lambda x, b: torch.tanh(x @ A.T + b * c), c).square().sum(), A, c)


def test_a_solution_is_closed_over_by_the_next() -> None:
    A, c = weight(), U.clone().requires_grad_()

    def loss(solve: Callable[..., Tensor]) -> Tensor:
        first = solve(lambda x: torch.tanh(x @ A.T + c))
        return solve(lambda x: torch.sin(0.3 * x + first)).square().sum()

    assert_gradients(loss, A, c)


def test_a_step_may_return_what_it_closes_over() -> None:
    c = U.clone().requires_grad_()
    assert_gradients(lambda solve: solve(lambda x: c).square().sum(), c)


def test_what_is_made_inside_is_no_closure() -> None:
    A = weight()

    def step(x: Tensor) -> Tensor:
        mask = torch.ones(N, dtype=x.dtype).cumsum(0) / N
        return torch.tanh(x @ (A * mask).T + torch.tensor(0.5))

    assert_gradients(lambda solve: solve(step).square().sum(), A)


@pytest.mark.parametrize("bind", ["closure", "method", "partial", "default", "module", "list", "callable"])
def test_any_way_to_a_module_will_do(bind: str) -> None:
    cell = Cell()
    step = {
        "closure": lambda x: cell(x, U),
        "method": lambda x: cell.forward(x, U),
        "partial": partial(lambda inner, x: inner(x, U), cell),
        "default": lambda x, inner=cell: inner(x, U),
        "module": cell,
        "list": lambda x, cells=[cell]: cells[0](x, U),
        "callable": Called(cell),
    }[bind]
    args = (U,) if bind in ("module", "method") else ()
    step = cell.forward if bind == "method" else step
    assert_gradients(lambda solve: solve(step, *args).square().sum(), cell.A, cell.b)


class Called:
    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    def __call__(self, x: Tensor) -> Tensor:
        return self.cell(x, U)


def test_modules_that_make_their_weights() -> None:
    cell = nn.utils.parametrizations.spectral_norm(nn.Linear(N, N, dtype=torch.float64)).eval()
    loss = lambda solve: solve(lambda x: torch.tanh(0.5 * cell(x) + U)).square().sum()  # noqa: E731
    assert_gradients(loss, *cell.parameters())


def test_several_states_and_what_is_around_them() -> None:
    A, B = weight(1), weight(2)

    def step(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(z @ A.T + U), torch.sin(0.5 * x @ B.T)

    x = z = ZERO
    for _ in range(100):
        x, z = step(x, z)
    expected = torch.autograd.grad((x * z).sum(), (A, B))
    x, z = Equilibrium(step, "x", solver=TIGHT)((ZERO, ZERO))
    assert_same(expected, torch.autograd.grad((x * z).sum(), (A, B)))


@pytest.mark.parametrize("solver", [ForwardBackward(tolerance=1e-13), Newton(tolerance=1e-13), TIGHT])
def test_an_activation_with_weights_is_differentiated(solver: runtime.Solver) -> None:
    """φ is x ↦ max(x, s x) with a slope that is learned: also of φ itself there is a derivative."""
    A, slope = weight(), torch.full((N,), 0.3, dtype=torch.float64, requires_grad=True)
    phi = lambda z: torch.where(z > 0, z, slope * z)  # noqa: E731
    affine = lambda x: x @ A.T + U  # noqa: E731
    expected = torch.autograd.grad(swept(lambda x: phi(affine(x))).square().sum(), (A, slope))
    layer = Equilibrium(lambda x: phi(affine(x)), "x", affine=affine, phi=phi, solver=solver)
    assert_same(expected, torch.autograd.grad(layer((ZERO,))[0].square().sum(), (A, slope)))
    assert torch.autograd.gradgradcheck(lambda A_, s: split_layer(A_, s, solver), (A, slope), fast_mode=True)
    found = torch.func.grad(lambda A_, s: split_layer(A_, s, solver).square().sum(), argnums=(0, 1))
    assert_same(expected, found(A.detach(), slope.detach()))


def split_layer(A: Tensor, slope: Tensor, solver: runtime.Solver) -> Tensor:
    phi = lambda z: torch.where(z > 0, z, slope * z)  # noqa: E731
    affine = lambda x: x @ A.T + U  # noqa: E731
    return Equilibrium(affine, "x", affine=affine, phi=phi, solver=solver)((ZERO,))[0]


def test_a_module_is_a_part_of_the_equilibrium() -> None:
    layer = Equilibrium(Cell(), "x", affine=Cell(), phi=nn.PReLU(dtype=torch.float64))
    assert [name for name, _ in layer.named_parameters()] == ["step.A", "step.b", "phi.weight"]
    assert not list(Equilibrium(torch.tanh, "x").parameters())


def test_frozen_weights_get_no_gradient_and_cost_nothing() -> None:
    cell = Cell().requires_grad_(False)
    layer = Equilibrium(cell, "x")
    assert not layer((ZERO,), (U,))[0].requires_grad
    cell.b.requires_grad_()
    layer((ZERO,), (U,))[0].sum().backward()
    assert cell.A.grad is None
    assert cell.b.grad is not None


@pytest.mark.parametrize("backward", [Neumann(3), JFB(), Unrolled()])
def test_other_gradients_reach_them_as_well(backward: Backward) -> None:
    A, c = weight(), U.clone().requires_grad_()
    pure = lambda x, c, A: torch.tanh(x @ A.T + c)  # noqa: E731
    layer = Equilibrium(pure, "x", solver=Auto(tolerance=1e-13), backward=backward)
    expected = torch.autograd.grad(layer((ZERO,), (c,), (A,))[0].square().sum(), (A, c))
    x = solved(lambda x: torch.tanh(x @ A.T + c), backward=backward)
    assert_same(expected, torch.autograd.grad(x.square().sum(), (A, c)))


# -- any order, and torch.func ---------------------------------------------------------------------


def closed(A: Tensor, c: Tensor) -> Tensor:
    return solved(lambda x: torch.tanh(x @ A.T + c))


def test_double_backward() -> None:
    A, c = weight(), U.clone().requires_grad_()
    assert torch.autograd.gradcheck(closed, (A, c), fast_mode=True)
    assert torch.autograd.gradgradcheck(closed, (A, c), fast_mode=True)


def test_hessian_vector_products_of_modules() -> None:
    cell = Cell()
    weights = tuple(cell.parameters())

    def second(solve: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(solve(cell, U).square().sum(), weights, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), weights)

    assert_same(second(swept), second(solved), 1e-8)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # PyTorch's own, in forward mode
def test_transforms_see_what_is_closed_over() -> None:
    A, c = weight().detach(), U
    loss = lambda A, c: closed(A, c).square().sum()  # noqa: E731
    twin = lambda A, c: swept(lambda x: torch.tanh(x @ A.T + c)).square().sum()  # noqa: E731
    for transform in (torch.func.grad, torch.func.jacfwd, torch.func.jacrev):
        assert_same(transform(twin, argnums=(0, 1))(A, c), transform(loss, argnums=(0, 1))(A, c))
    assert_same(
        (torch.func.jvp(twin, (A, c), (c.T @ c, c))[1],), (torch.func.jvp(loss, (A, c), (c.T @ c, c))[1],)
    )
    assert_same((torch.func.hessian(twin)(A, c),), (torch.func.hessian(loss)(A, c),), 1e-8)
    matrices, offsets = torch.stack([A, 0.5 * A]), torch.stack([c, -c, 2 * c])
    assert_same(
        (torch.func.vmap(twin, (0, None))(matrices, c),), (torch.func.vmap(loss, (0, None))(matrices, c),)
    )
    assert_same(
        (torch.func.vmap(twin, (None, 0))(A, offsets),), (torch.func.vmap(loss, (None, 0))(A, offsets),)
    )


def test_forward_mode_of_autograd() -> None:
    A, c, dA = weight().detach(), U, data(N, N, seed=9)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(A, dA)
        found = torch.autograd.forward_ad.unpack_dual(closed(dual, c)).tangent
    expected = torch.func.jvp(lambda A: swept(lambda x: torch.tanh(x @ A.T + c)), (A,), (dA,))[1]
    assert_same((expected,), (found,))


def test_functional_calls_of_a_network_with_a_module_in_it() -> None:
    """By the time of the adjoint the module has its own parameters again."""
    layer = Equilibrium(Cell(), "x", solver=TIGHT)
    weights = {name: 1.1 * w.detach() for name, w in layer.named_parameters()}

    def loss(weights: dict[str, Tensor], u: Tensor) -> Tensor:
        return torch.func.functional_call(layer, weights, ((ZERO[: len(u)],), (u,)))[0].square().sum()

    def twin(weights: dict[str, Tensor], u: Tensor) -> Tensor:
        inner = {name.removeprefix("step."): w for name, w in weights.items()}
        step = lambda x: torch.func.functional_call(layer.step, inner, (x, u))  # noqa: E731
        return swept(step, start=ZERO[: len(u)]).square().sum()

    expected, found = torch.func.grad(twin)(weights, U), torch.func.grad(loss)(weights, U)
    assert_same(tuple(expected.values()), tuple(found.values()))
    given = {name: w.clone().requires_grad_() for name, w in weights.items()}
    plain = torch.autograd.grad(loss(given, U), list(given.values()))
    assert_same(tuple(expected.values()), plain)
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, U[:, None])
    total = tuple(gradient.sum(0) for gradient in each.values())
    assert_same(tuple(expected.values()), total)


# -- what is bound anew before the adjoint -----------------------------------------------------------


def test_loop_variables_are_those_of_their_own_step() -> None:
    """The trap of re-evaluating adjoints: at the end the name `c` stands for the last one only."""
    A, B = weight(), data(N, N, seed=3).requires_grad_()

    def loss(solve: Callable[..., Tensor]) -> Tensor:
        h = U
        for t in range(3):
            c = h @ B.T
            h = solve(lambda x: torch.tanh((t + 1) / 3 * x @ A.T + c))  # noqa: B023
        return h.square().sum()

    assert_gradients(loss, A, B)


def test_attributes_of_modules_are_those_of_their_own_step() -> None:
    cell, B = Cell(), data(N, N, seed=3).requires_grad_()

    def loss(solve: Callable[..., Tensor]) -> Tensor:
        h = U
        for _ in range(3):
            cell.c = h @ B.T
            h = solve(cell)
        return h.square().sum()

    assert_gradients(loss, cell.A, B)


def test_functions_in_closures_are_held_as_well() -> None:
    A, B = weight(), data(N, N, seed=3).requires_grad_()

    def loss(solve: Callable[..., Tensor]) -> Tensor:
        h = U
        for _ in range(3):
            c = h @ B.T
            inject = lambda x: x + c  # noqa: B023, E731
            h = solve(lambda x: torch.tanh(inject(x @ A.T)))  # noqa: B023
        return h.square().sum()

    assert_gradients(loss, A, B)


def test_a_closure_may_count() -> None:
    calls = 0

    def step(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return 0.5 * x + U

    solved(step)
    assert calls > 2


def test_what_cannot_be_held_is_refused() -> None:
    A, box = weight(), [U.clone().requires_grad_()]
    x = solved(lambda x: torch.tanh(x @ A.T + box[0]))
    box[0] = box[0] * 1.0
    with pytest.raises(RuntimeError, match="has been replaced since"):
        x.sum().backward()

    cell = Cell()
    x = solved(cell, U)
    cell.gain = 0.5
    with pytest.raises(RuntimeError, match="gives something else than when it was solved"):
        x.sum().backward()
    loss = lambda b: solved(lambda x: torch.tanh(x @ A.T + box[0] + b))  # noqa: E731
    b = torch.zeros(N, dtype=torch.float64, requires_grad=True)
    x = loss(b)
    box[0] = box[0] * 1.0
    with pytest.raises(RuntimeError, match="has been replaced since"):
        torch.autograd.grad(x.sum(), b, create_graph=True)


class Cubed(torch.autograd.Function):
    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return z**3

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return 3 * z**2 * g


def test_custom_functions_of_states_are_followed_and_of_closures_refused() -> None:
    A, c = weight(), U.clone().requires_grad_()
    assert_gradients(lambda solve: solve(lambda x: 0.2 * Cubed.apply(torch.tanh(x @ A.T + c))).sum(), A, c)
    x = solved(lambda x: torch.tanh(x @ Cubed.apply(A).T + c))
    with pytest.raises(RuntimeError, match=r"custom autograd\.Function"):
        x.sum().backward()
    handed_in = lambda A: Equilibrium(lambda x, A: torch.tanh(x @ Cubed.apply(A).T + c), "x", solver=TIGHT)(  # noqa: E731
        (ZERO,), (), (A,)
    )[0]
    expected = torch.autograd.grad(swept(lambda x: torch.tanh(x @ (A**3).T + c)).sum(), A)
    assert_same(expected, torch.autograd.grad(handed_in(A).sum(), A))


# -- samples ---------------------------------------------------------------------------------------


def test_samples_leave_together_where_a_closure_has_their_batch() -> None:
    """Rows of very different rates: the fast ones would leave, but c has a row for each."""
    rates = torch.linspace(0, 0.98, 8, dtype=torch.float64)[:, None]
    c = data(8, N, seed=4)
    (x,) = Equilibrium(lambda x: torch.tanh(rates * x + c), "x", solver=TIGHT)((torch.zeros_like(c),))
    torch.testing.assert_close(x, torch.tanh(rates * x + c), rtol=1e-12, atol=1e-12)


def test_samples_leave_where_a_closure_has_no_batch() -> None:
    A, seen = weight(), []

    def step(x: Tensor, rates: Tensor, c: Tensor) -> Tensor:
        seen.append(len(x))
        return torch.tanh(rates * (x @ A.T) + c)

    rates = torch.linspace(0, 1.6, 9, dtype=torch.float64)[:, None]
    Equilibrium(step, "x", solver=TIGHT)((torch.zeros(9, N, dtype=torch.float64),), (rates, data(9, N)))
    assert min(seen) < 9


# -- pure steps --------------------------------------------------------------------------------------


def test_the_steps_of_generated_modules_are_pure_and_not_looked_into() -> None:
    """So that they cost no evaluation, and no graph of theirs can miss anything."""
    for program in PROGRAMS:
        module = implicit_dsl.loads(program.text).M()
        layers = [part for part in module.modules() if isinstance(part, Equilibrium)]
        assert layers
        assert all(layer._known.around is None for layer in layers)


SCALE = 2.0


def test_what_is_pure() -> None:
    def inner(x: Tensor) -> Tensor:
        return F.silu(x) + torch.ones_like(x) * math_pi(x)

    assert is_pure(torch.tanh)
    assert is_pure(F.max_pool2d)
    assert is_pure(partial(F.leaky_relu, negative_slope=0.1))
    assert is_pure(math_pi)
    assert not is_pure(inner.__call__)
    assert not is_pure(lambda x: x * SCALE)  # a global name may be bound to a tensor later
    assert not is_pure(lambda x: x * not_there_yet)  # type: ignore[name-defined] # noqa: F821
    assert not is_pure(lambda x, scale=U: x * scale)
    assert not is_pure(nn.Tanh())
    assert not is_pure(U.add)
    assert not is_pure(torch.func.vmap(Cell()))


def math_pi(x: Tensor) -> float:
    import_free = len([3.14 for _ in range(1)])
    return float(import_free)


# -- not pure enough -----------------------------------------------------------------------------------


def test_random_steps_and_batch_statistics_are_refused_by_name() -> None:
    double = {"dtype": torch.float64}
    for layer in (nn.Dropout(0.5), nn.RReLU()):
        step = nn.Sequential(nn.Linear(N, N, **double), layer)
        with pytest.raises(ValueError, match="`z` draws random numbers"):
            Equilibrium(step, "z")((ZERO,))
        state = torch.get_rng_state()
        Equilibrium(step.eval(), "z", failure="warn", solver=Anderson(max_steps=500))((ZERO,))
        assert torch.equal(state, torch.get_rng_state())
    step = nn.Sequential(nn.Linear(N, N, **double), nn.BatchNorm1d(N, **double), nn.Tanh())
    with pytest.raises(ValueError, match="`z` normalises by the statistics of the batch"):
        Equilibrium(step, "z")((ZERO,))
    with torch.no_grad():
        step[0].weight.mul_(0.1)
    x = Equilibrium(step.eval(), "z", solver=TIGHT)((ZERO,))[0]
    torch.testing.assert_close(x, step(x))


def noisy(x: Tensor) -> Tensor:
    return 0.5 * x + F.dropout(torch.ones_like(x), 0.5, True)


def test_a_random_step_that_was_not_looked_into_is_found_out_when_it_fails() -> None:
    assert is_pure(noisy)
    with pytest.raises(ConvergenceError, match="two different results for the same arguments"):
        Equilibrium(noisy, "z")((ZERO,))


# -- copies, and captured graphs ------------------------------------------------------------------------


def test_copies_and_pickles_have_modules_of_their_own() -> None:
    layer = Equilibrium(Cell(), "x", solver=TIGHT)
    expected = torch.autograd.grad(layer((ZERO,), (U,))[0].sum(), list(layer.parameters()))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.step is not layer.step
        assert_same(expected, torch.autograd.grad(twin((ZERO,), (U,))[0].sum(), list(twin.parameters())))
        with torch.no_grad():
            twin.step.A.zero_()
        assert bool(layer.step.A.any())


def test_steps_do_not_outlive_their_equilibria() -> None:
    known = len(captured._PROBLEMS)
    cell = Cell()
    watched = weakref.ref(cell)
    for _ in range(3):
        layer = Equilibrium(lambda x: cell(x, U), "x", solver=TIGHT)
        layer((ZERO,))[0].sum().backward()
    layer = cell = None
    gc.collect()
    assert watched() is None
    assert len(captured._PROBLEMS) <= known


class Network(nn.Module):
    def __init__(self, step: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.inject = nn.Linear(2, N, dtype=torch.float64)
        self.solve = Equilibrium(step or Cell(), "x", solver=TIGHT)

    def forward(self, v: Tensor) -> Tensor:
        x: Tensor = self.solve((v.new_zeros(v.shape[0], N),), (self.inject(v),))[0]
        return x


V = data(5, 2, seed=6)


def test_modules_as_steps_are_compiled_and_exported() -> None:
    network = Network()
    y = network(V)
    weights = list(network.parameters())
    expected = torch.autograd.grad(y.square().sum(), weights)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    assert_same(expected, torch.autograd.grad(compiled(V).square().sum(), weights))
    with torch.no_grad():
        network.solve.step.A.mul_(0.9)
    assert_same((network(V),), (compiled(V),))
    exported = torch.export.export(network, (V,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    more = data(9, 2, seed=7)
    assert_same((network(more),), (exported.module()(more),))


def test_what_a_captured_graph_cannot_see_is_refused() -> None:
    """A tensor in a closure, which the graph was not given: its gradient, or itself, would be an old one."""
    A = weight()
    for step in (lambda x, b: torch.tanh(x @ A.T + b), lambda x, b: torch.tanh(x @ A.detach().T + b)):
        network = torch.compile(Network(step), fullgraph=True, backend="aot_eager")
        with pytest.raises(RuntimeError, match="inside of a captured graph"):
            network(V)
    cell = Cell()
    cell.c = data(N, seed=8)  # an attribute, which is neither parameter nor buffer
    with pytest.raises(RuntimeError, match="inside of a captured graph"):
        torch.compile(Network(cell), fullgraph=True, backend="aot_eager")(V)
    torch._dynamo.reset()
    compiled = torch.compile(
        Network(lambda x, b: torch.tanh(0.5 * x + b)), fullgraph=True, backend="aot_eager"
    )
    assert_same((swept(lambda x: torch.tanh(0.5 * x + 1)),), (compiled_at_one(compiled),))


def compiled_at_one(network: nn.Module) -> Tensor:
    inner = network._orig_mod
    with torch.no_grad():
        inner.inject.weight.zero_()
        inner.inject.bias.fill_(1)
    return network(V[:BATCH])
