"""x = φ(A x + c) with one dense matrix: solution, gradients and independence of rows, on every path."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl.runtime import native
from implicit_dsl.runtime.adjoints import JFB
from implicit_dsl.runtime.dense import DenseEquilibrium, Method, dispatch
from implicit_dsl.runtime.dense.activation import NAMES, Activation
from implicit_dsl.runtime.dense.goal import Goal
from implicit_dsl.runtime.dense.plan import Plan
from implicit_dsl.runtime.dense.rows import Rows, pack
from implicit_dsl.runtime.dense.solve import counted, solve_batch
from implicit_dsl.runtime.failure import ConvergenceError, ConvergenceWarning
from implicit_dsl.runtime.native.library import SWITCH
from implicit_dsl.runtime.solution import Status
from implicit_dsl.runtime.solvers import Anderson, Auto, Newton, Picard

torch.set_num_threads(1)  # of which BLAS always rounds alike

SIZES = [(1, 1), (1, 5), (2, 3), (7, 64), (13, 9), (64, 1), (65, 3), (33, 100), (130, 17)]


@pytest.fixture(params=["torch", "native"])
def path(request, monkeypatch) -> str:
    """Both ways to compute: in PyTorch, and by the kernels."""
    monkeypatch.setenv(SWITCH, "1" if request.param == "native" else "0")
    if request.param == "native" and native.kernels(torch.float64) is None:
        pytest.skip(native.status())
    return request.param


def system(
    n: int, batch: int, norm: float = 0.9, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """A with ‖A‖∞ = norm, and c."""
    generator = torch.Generator().manual_seed(100 * n + batch)
    A = torch.randn(n, n, generator=generator, dtype=torch.float64)
    A = norm * A / A.abs().sum(1, keepdim=True)
    return A.to(dtype), torch.randn(batch, n, generator=generator, dtype=torch.float64).to(dtype)


def reference(phi: Activation, A: Tensor, c: Tensor) -> Tensor:
    """The solution by Newton's method in float64, row by row."""
    A, c = A.double(), c.double()
    found = torch.empty_like(c)
    for number, offset in enumerate(c):
        x = phi(offset)
        for _ in range(100):
            image = phi(A @ x + offset)
            if float((image - x).abs().max()) <= 1e-14 * max(1.0, float(x.abs().max())):
                break
            slope = phi.slope(image)
            x = x + torch.linalg.solve(torch.eye(len(A), dtype=A.dtype) - slope[:, None] * A, image - x)
        found[number] = x
    return found


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize(("n", "batch"), SIZES)
def test_solution_is_that_of_newton_in_float64(path: str, activation: str, n: int, batch: int) -> None:
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        A, c = system(n, batch, dtype=dtype)
        layer = DenseEquilibrium(activation, "x", slope=0.2)
        x = layer(A, c)
        expected = reference(layer.activation, A, c)
        # residual / (1 − ‖A‖), relative to max(1, ‖x‖)
        error = (x - expected).abs().amax(1) / expected.abs().amax(1).clamp(min=1)
        assert float(error.max()) <= 10 * tolerance
        assert layer.stats.status is Status.CONVERGED
        assert layer.stats.residual <= tolerance


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize(("n", "batch"), SIZES)
def test_reported_residual_belongs_to_what_is_returned(
    path: str, activation: str, n: int, batch: int
) -> None:
    for norm in (
        0.9,
        3.0,
    ):  # without a contraction too: small random matrices of norm 3 still have spectra < 1
        A, c = system(n, batch, norm if n > 30 else 0.9)
        layer = DenseEquilibrium(activation, "x", solver=Auto(tolerance=1e-4))
        x = layer(A, c)
        size = (layer.activation(x @ A.T + c) - x).abs().amax(1) / x.abs().amax(1).clamp(min=1)
        assert bool((size <= 1.001 * layer.stats.forward.residual + 1e-12).all())


@pytest.mark.parametrize("activation", NAMES)
def test_gradients_of_first_and_second_order_are_exact(path: str, activation: str) -> None:
    A, c = system(5, 3)
    layer = DenseEquilibrium(activation, "x", slope=0.3, solver=Auto(tolerance=1e-13))
    given = A.requires_grad_(), c.requires_grad_()
    assert torch.autograd.gradcheck(layer, given)
    assert torch.autograd.gradgradcheck(layer, given)


@pytest.mark.parametrize(("n", "batch"), [(1, 1), (40, 1), (40, 30), (130, 9)])
def test_gradients_are_those_of_the_unrolled_loop(path: str, n: int, batch: int) -> None:
    A, c = (tensor.requires_grad_() for tensor in system(n, batch))
    g = torch.randn(batch, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = c.relu()
    for _ in range(300):
        x = torch.relu(x @ A.T + c)
    expected = torch.autograd.grad(x, (A, c), g)
    found = torch.autograd.grad(DenseEquilibrium("relu", "x")(A, c), (A, c), g)
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("seed", range(6))
def test_slopes_are_those_of_the_pre_activation_where_acceleration_has_mixed(path: str, seed: int) -> None:
    """Where f expands, an accelerated x may be a little above zero at z well below it."""
    torch.manual_seed(seed)
    n = 10
    A = torch.randn(n, n, dtype=torch.float64).tril()
    A.diagonal().clamp_(-0.8, 0.8)
    c = torch.randn(64, n, dtype=torch.float64, requires_grad=True)
    x = DenseEquilibrium("relu", "x")(A, c)
    g = torch.randn_like(x)
    (found,) = torch.autograd.grad(x, c, g)
    D = (x @ A.T + c > 0).double()
    J = torch.eye(n, dtype=torch.float64) - D[:, :, None] * A
    expected = D * torch.linalg.solve(J.mT, g)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def hard(n: int, batch: int) -> tuple[Tensor, Tensor]:
    """Plain steps need hundreds: a positive matrix with Perron root near 0.99."""
    A, c = system(n, batch)
    A = A.abs()
    return 0.99 * A / A.sum(1, keepdim=True), c.abs() * torch.linspace(0.01, 3, batch).to(c)[:, None]


@pytest.mark.parametrize(("n", "batch"), [(64, 1), (64, 40), (200, 1), (200, 3), (130, 150)])
def test_slow_systems_are_accelerated(path: str, n: int, batch: int) -> None:
    A, c = (tensor.requires_grad_() for tensor in hard(n, batch))
    layer = DenseEquilibrium("relu", "x")
    x = layer(A, c)
    x.sum().backward()
    assert layer.stats.steps <= 300 and layer.stats.adjoint_steps <= 300  # Picard: some 2000
    x = x.detach()
    error = (x - reference(layer.activation, A.detach(), c.detach())).abs().max() / x.abs().max()
    assert float(error) <= 1e-8


@pytest.mark.parametrize("make", [system, hard])
def test_a_row_does_not_depend_on_its_neighbours(path: str, make) -> None:
    A, c = make(70, 40)
    loose = DenseEquilibrium("relu", "x", solver=Auto(tolerance=1e-3))
    alone = torch.cat([loose(A, row[None].expand(20, -1))[:1] for row in c])  # a batch of equals
    together = loose(A, c)
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-11)


def test_kernels_and_pytorch_agree() -> None:
    if native.kernels(torch.float32) is None:
        pytest.skip(native.status())
    for make in (system, hard):
        for n, batch in SIZES:
            A, c = (tensor.requires_grad_() for tensor in make(n, batch))
            found = []
            for switch in "01":
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv(SWITCH, switch)
                    x = DenseEquilibrium("relu", "x", solver=Auto(tolerance=1e-12))(A, c)
                    found.append((x, *torch.autograd.grad(x.square().sum(), (A, c))))
            for one, other in zip(*found):
                torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


def test_any_leading_dimensions_and_layouts_are_taken(path: str) -> None:
    A, c = system(6, 24)
    layer = DenseEquilibrium("tanh", "x")
    x = layer(A, c)
    torch.testing.assert_close(layer(A, c.reshape(2, 3, 4, 6)), x.reshape(2, 3, 4, 6))
    torch.testing.assert_close(layer(A, c[0]), x[0])
    torch.testing.assert_close(layer(A.T.contiguous().T, c.T.contiguous().T), x)
    torch.testing.assert_close(layer(A, c[::2]), x[::2])
    wide = torch.zeros(24, 12, dtype=c.dtype)
    wide[:, ::2] = c
    torch.testing.assert_close(layer(A, wide[:, ::2]), x)
    negated = torch._neg_view(-c)
    torch.testing.assert_close(layer(A, negated), x)
    assert layer(A, c[:0]).shape == (0, 6)
    assert layer(A, c.reshape(4, 6, 6)[:, :0]).shape == (4, 0, 6)
    assert layer(A[:0, :0], c[:, :0]).shape == (24, 0)


def test_gradients_flow_through_expanded_and_strided_tensors(path: str) -> None:
    A, c = system(6, 4)
    A.requires_grad_()
    base = c[:1].clone().requires_grad_()
    layer = DenseEquilibrium("relu", "x", solver=Auto(tolerance=1e-12))
    found = torch.autograd.grad(layer(A, base.expand(4, 6)).sum(), (A, base))  # the gradient is expanded too
    expected = torch.autograd.grad(4 * layer(A, base).sum(), (A, base))
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other)


def test_start_changes_the_way_and_not_the_place(path: str) -> None:
    A, c = hard(50, 20)
    layer = DenseEquilibrium("relu", "x")
    x = layer(A, c)
    steps = layer.stats.steps
    kept = x.clone()
    torch.testing.assert_close(layer(A, c, x), kept)
    torch.testing.assert_close(x, kept)  # a start is not written to
    assert layer.stats.steps < steps


def test_warm_start_begins_where_the_last_solve_ended(path: str) -> None:
    A, c = hard(50, 20)
    layer = DenseEquilibrium("relu", "x", warm_start=True)
    layer(A, c)
    steps = layer.stats.steps
    layer(A, c)
    assert layer.stats.steps <= 2 < steps
    layer(A, c[:3])  # another batch begins anew
    assert not layer.state_dict()


def test_diverging_systems_raise_and_say_what_to_do(path: str) -> None:
    A, c = torch.full((5, 5), 2.0), torch.ones(3, 5)
    with pytest.raises(ConvergenceError, match=r"`h` \(line 7\).*\n?.*‖A‖∞ = 10|not finite"):
        DenseEquilibrium("relu", "h", 7)(A, c)
    with pytest.warns(ConvergenceWarning, match="`h`"):
        DenseEquilibrium("relu", "h", 7, failure="warn")(A, c)


@pytest.mark.parametrize("batch", [1, 3, 40])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
def test_what_runs_away_is_no_solution(path: str, batch: int, tolerance: float) -> None:
    """x = x + 1 has none, though x + 1 comes as near to x as one likes, beside x."""
    A, c = torch.eye(5, dtype=torch.float64), torch.ones(batch, 5, dtype=torch.float64)
    layer = DenseEquilibrium("relu", "h", solver=Auto(tolerance=tolerance))
    with pytest.raises(ConvergenceError):
        layer(A, c)
    assert layer(0.9999 * A, c).isfinite().all()  # x = 10⁴ is one


def test_running_out_of_steps_raises(path: str) -> None:
    A, c = hard(30, 20)
    for count in (1, 20):
        layer = DenseEquilibrium("relu", "h", solver=Picard(max_steps=20))
        with pytest.raises(ConvergenceError) as caught:
            layer(A, c[:count])
        assert caught.value.status is Status.MAX_STEPS


def test_an_adjoint_that_is_not_found_raises(path: str) -> None:
    A = torch.tensor([[0.0, 3.0], [-3.0, 0.0]], dtype=torch.float64).requires_grad_()
    c = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    x = DenseEquilibrium("identity", "h", solver=Picard(max_steps=50))(A, c)  # starts at the solution
    with pytest.raises(ConvergenceError, match="adjoint"):
        x.backward(torch.ones_like(x))


def test_fall_back_solves_what_plain_steps_do_not(path: str) -> None:
    A = torch.tensor([[0.0, 3.0], [-3.0, 0.0]], dtype=torch.float64).requires_grad_()
    for batch in (1, 12):
        c = torch.randn(batch, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        layer = DenseEquilibrium("identity", "h", solver=Picard(max_steps=50), failure="fall_back")
        x = layer(A, c)
        x.sum().backward()
        torch.testing.assert_close(x, x @ A.T + c)
        assert layer.stats.unsolved == 0


def test_rotations_are_solved_without_a_contraction(path: str) -> None:
    for batch in (1, 12):
        A = torch.tensor([[0.0, 3.0], [-3.0, 0.0]], dtype=torch.float64)
        c = torch.randn(batch, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        x = DenseEquilibrium("identity", "h")(A, c)
        torch.testing.assert_close(x, x @ A.T + c)


@pytest.mark.parametrize("where", ["A", "c"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("batch", [1, 3, 40])
def test_what_is_not_finite_is_found_and_named(path: str, where: str, value: float, batch: int) -> None:
    A, c = system(20, batch)
    (A if where == "A" else c)[-1, 3] = value
    with pytest.raises(ConvergenceError, match="matrix A" if where == "A" else "offset c is not finite in 1"):
        DenseEquilibrium("relu", "h")(A, c)


def test_a_bad_row_does_not_spoil_the_others(path: str) -> None:
    A, c = hard(20, 100)
    expected = DenseEquilibrium("relu", "h")(A, c)
    c[::7] = float("nan")
    with pytest.warns(ConvergenceWarning, match="15 of 100"):
        found = DenseEquilibrium("relu", "h", failure="warn")(A, c)
    good = torch.arange(100) % 7 != 0
    torch.testing.assert_close(found[good], expected[good])
    assert bool(found[~good].isnan().any(1).all())


def test_an_overflowing_gradient_is_passed_on(path: str) -> None:
    A, c = (tensor.requires_grad_() for tensor in system(5, 3))
    x = DenseEquilibrium("relu", "h")(A, c)
    (found,) = torch.autograd.grad(x, c, torch.full_like(x, float("inf")))
    assert not bool(found.isfinite().all())


def test_a_zero_gradient_has_a_zero_adjoint(path: str) -> None:
    for batch in (1, 20):
        A, c = (tensor.requires_grad_() for tensor in system(5, batch))
        found = torch.autograd.grad(
            DenseEquilibrium("tanh", "h")(A, c), (A, c), torch.zeros(batch, 5).double()
        )
        assert not any(bool(gradient.any()) for gradient in found)


def test_tolerances_below_the_format_end_at_its_floor(path: str) -> None:
    for batch in (1, 20):
        A, c = hard(60, batch)
        layer = DenseEquilibrium("relu", "h", solver=Auto(tolerance=1e-12))
        with pytest.warns(ConvergenceWarning, match="below what float32 can reach"):
            layer(A.float(), c.float())
        assert layer.stats.status is Status.FLOOR and layer.stats.steps < 500
        layer(A.float(), c.float())  # told once


def test_shapes_and_types_that_do_not_fit_are_refused() -> None:
    layer = DenseEquilibrium("relu", "h")
    A, c = system(4, 2)
    for bad, match in (
        ((A[:3], c), "must be square"),
        ((A, c[:, :3]), "4 states, but its offset"),
        ((A, c, c[:1]), "start of `h`"),
    ):
        with pytest.raises(ValueError, match=match):
            layer(*bad)
    with pytest.raises(TypeError, match="real numbers"):
        layer(A.to(torch.int64), c)
    with pytest.raises(ValueError, match="none of relu"):
        DenseEquilibrium("silu", "h")
    with pytest.raises(ValueError, match="1-Lipschitz"):
        DenseEquilibrium("leaky_relu", "h", slope=2.0)


def test_half_precision_is_solved_in_float32(path: str) -> None:
    A, c = system(20, 5, dtype=torch.float32)
    layer = DenseEquilibrium("relu", "h")
    expected = layer(A, c)
    found = layer(A.bfloat16(), c.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        under = layer(A, c)
    assert under.dtype == torch.float32
    torch.testing.assert_close(under, expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # PyTorch's own, in forward mode
def test_transforms_of_torch_func_compose(path: str) -> None:
    A, c = system(4, 3)
    layer = DenseEquilibrium("tanh", "h", solver=Auto(tolerance=1e-13))
    expected = torch.autograd.functional.jacobian(lambda A, c: layer(A, c), (A, c))
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        found = jacobian(lambda A, c: layer(A, c), argnums=(0, 1))(A, c)
        for one, other in zip(found, expected):
            torch.testing.assert_close(one, other)
    each = torch.func.vmap(lambda row: layer(A, row))(c)
    torch.testing.assert_close(each, layer(A, c))
    matrices = torch.stack([A, 0.5 * A])
    found = torch.func.vmap(lambda A: layer(A, c))(matrices)
    torch.testing.assert_close(found, torch.stack([layer(A, c) for A in matrices]))
    loss = lambda A, row: layer(A, row).square().sum()  # noqa: E731
    samples = torch.func.vmap(torch.func.grad(loss), (None, 0))(A, c)
    one = torch.stack([torch.func.grad(loss)(A, row) for row in c])
    torch.testing.assert_close(samples, one)
    hessian = torch.func.hessian(loss)(A, c[0])
    by_autograd = torch.autograd.functional.hessian(lambda A: loss(A, c[0]), A)
    torch.testing.assert_close(hessian, by_autograd)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        A, _ = system(6, 1, 0.8, torch.float32)
        self.A = nn.Parameter(A)
        self.loop = DenseEquilibrium("relu", "h", 3)

    def forward(self, c: Tensor) -> Tensor:
        return self.loop(self.A, c)


def test_copies_and_pickles_work_and_have_nothing_to_store(path: str) -> None:
    model, c = Model(), torch.randn(4, 6)
    expected = model(c)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(again(c), expected)
    assert list(model.state_dict()) == ["A"]
    assert model.loop.stats is not None and copy.deepcopy(model).loop.stats is None


def test_compiling_and_exporting_give_the_same(path: str) -> None:
    model, c = Model(), torch.randn(4, 6)
    expected = model(c)
    gradient = torch.autograd.grad(expected.sum(), model.A)[0]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = compiled(c)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), model.A)[0], gradient, rtol=1e-4, atol=1e-4)
    exported = torch.export.export(model, (c,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    more = torch.randn(9, 6)
    torch.testing.assert_close(exported.module()(more), model(more), rtol=1e-4, atol=1e-5)


def test_other_solvers_and_gradients_are_those_of_the_general_layer(path: str) -> None:
    A, c = (tensor.requires_grad_() for tensor in system(6, 4))
    expected = reference(Activation("relu"), A.detach(), c.detach())
    for solver in (
        Newton(),
        Anderson(memory=3),
        Anderson(memory=9),
        Anderson(damping=0.5),
        Picard(damping=0.9),
    ):
        layer = DenseEquilibrium("relu", "h", solver=solver)
        torch.testing.assert_close(layer(A, c), expected, rtol=1e-8, atol=1e-9)
        assert layer.stats.solver == solver.name
    x = DenseEquilibrium("relu", "h", backward=JFB())(A, c)
    g = torch.ones_like(x)
    torch.testing.assert_close(torch.autograd.grad(x, c, g)[0], (x > 0).to(g))


def test_threads_that_solve_at_once_do_not_disturb_each_other(path: str) -> None:
    A, c = hard(60, 30)
    expected = DenseEquilibrium("relu", "h")(A, c)
    wrong: list[int] = []

    def work(number: int) -> None:
        layer = DenseEquilibrium("relu", "h")
        wrong.extend(number for _ in range(5) if not torch.equal(layer(A, c), expected))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch) -> None:
    A, c = hard(60, 90)
    expected = DenseEquilibrium("relu", "h")(A, c)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = DenseEquilibrium("relu", "h")(A, c)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_counted_steps_reach_the_tolerance_unseen() -> None:
    A, c = system(30, 9, 0.9)
    phi = Activation("relu")
    found = counted(Rows(A.T, c, phi=phi), phi(c), Goal(1e-6, 1000), Plan(phi, 1e-6, 1000, rate=0.9))
    size = (phi(found.x @ A.T + c) - found.x).abs().amax(1) / found.x.abs().amax(1).clamp(min=1)
    assert found.counted and float(size.max()) <= 1e-6


def test_packed_products_give_the_same() -> None:
    A, c = (tensor.float() for tensor in hard(256, 64))
    phi = Activation("relu")
    plan, goal = Plan(phi, 1e-5, 1000), Goal(1e-5, 1000)
    expected = solve_batch(Rows(A.T, c, phi=phi), None, goal, plan)
    found = solve_batch(Rows(A.T, c, phi=phi, packed=pack(A, 64)), None, goal, plan)
    torch.testing.assert_close(found.x, expected.x, rtol=1e-3, atol=1e-3)


def test_the_route_is_data_that_can_be_printed() -> None:
    assert dispatch(64, 1, torch.float32, native_available=True).method is Method.NATIVE
    assert dispatch(64, 1, torch.float32).method is Method.SINGLE
    assert dispatch(64, 2, torch.float32).method is Method.ROWS
    assert dispatch(64, 64, torch.float32, "cuda", rate=0.9).method is Method.COUNTED
    assert dispatch(64, 64, torch.float32, "cuda").method is Method.ROWS
    assert dispatch(256, 64, torch.float32, packed_faster=True).packed
    assert "native kernel" in str(dispatch(64, 1, torch.float32, native_available=True))


SINGULAR = {
    "no matrix at all": torch.eye(6),
    "a mean": torch.ones(6, 6).double() / 6,
    "a cycle": torch.eye(6).roll(1, 0),
}


@pytest.mark.parametrize("act", ["", "relu", "leaky_relu"])
@pytest.mark.parametrize("name", SINGULAR)
def test_what_grows_without_end_is_no_equilibrium(name: str, act: str) -> None:
    """x = A x + b with a singular I − A: relative to what x becomes, any residual is small."""
    model = implicit_dsl.loads(f"""
model Singular
    input u[4]
    param A[6, 6]
    state x[6] ~ {act}(A*x + Dense(6; bias = false)*u)
    output y = x
    @wellposed unchecked
end
""").Singular(dtype=torch.float64)
    torch.manual_seed(0)
    with torch.no_grad():
        model.A.copy_(SINGULAR[name])
        model.x_dense.weight.copy_(torch.rand(6, 4))  # so that a mean of what comes in is not small
    for size in (1e-3, 1.0, 1e3):
        with pytest.raises(ConvergenceError, match="no equilibrium"):
            model(size * torch.rand(3, 4, dtype=torch.float64))
