"""What goes wrong in torchdeq 0.1.0, by the numbers of docs/peers.md, asked of generated modules."""

from __future__ import annotations

import cmath
import copy
import io
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from asked import (
    BY_NAME,
    PATHS,
    SOLVERS,
    compiled_afresh,
    distance,
    generated,
    gradients,
    in_float32,
    inputs,
    inputs_of,
    made,
    of_program,
    rows_of_one_norm,
    square,
    swept,
    turned,
)
from functorch.compile import aot_module, nop
from loop_programs import PROGRAMS, LoopProgram
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

import implicit_dsl
from implicit_dsl import runtime
from implicit_dsl.errors import ImplicitError, Severity
from implicit_dsl.runtime import ConvergenceError, ConvergenceWarning
from implicit_dsl.runtime.solution import Status

by_path = pytest.mark.parametrize("program", PATHS, ids=lambda program: program.name)
by_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
by_solver = pytest.mark.parametrize("solver", SOLVERS)

# -- D1: no convergence signal ---------------------------------------------------------------------

# x = relu(3 x + 1) has no solution: 3 x + 1 > x for every x ≥ 0
WITHOUT_SOLUTION = {"A": 3 * torch.eye(2), "B": torch.zeros(2, 4), "b": torch.ones(2)}


@by_solver
def test_d1_a_loop_without_solution_raises(solver: str) -> None:
    module = made(square(2, demand="unchecked", solver=solver), **WITHOUT_SOLUTION)

    with pytest.raises(ConvergenceError, match=r"`x` \(line 5\).*in 3 of 3 samples.*To mend it") as found:
        module(inputs(3))

    assert found.value.unsolved == 3
    assert not found.value.status.solved


@by_solver
def test_d1_where_it_is_asked_to_warn_it_warns_and_the_stats_tell(solver: str) -> None:
    module = made(square(2, demand="unchecked", solver=f'{solver}(on_failure = "warn")'), **WITHOUT_SOLUTION)

    with pytest.warns(ConvergenceWarning, match="`x`"):
        module(inputs(3))

    assert module.stats["x"].unsolved == 3
    assert not module.stats["x"].status.solved


@by_solver
def test_d1_falling_back_ends_in_the_error(solver: str) -> None:
    module = made(
        square(2, demand="unchecked", solver=f'{solver}(on_failure = "fall_back")'), **WITHOUT_SOLUTION
    )

    with pytest.raises(ConvergenceError, match="`x`"):
        module(inputs(3))


@pytest.mark.parametrize("demand", ["norm(A, Inf) <= 0.9", "unchecked"])
def test_d1_an_adjoint_that_is_not_found_raises(demand: str) -> None:
    """The forward solve starts at its solution, and needs a step; the adjoint has as many, and needs more."""
    given = {"A": 0.9 * torch.eye(6).flip(0), "B": torch.ones(6, 4), "b": torch.linspace(0.1, 1, 6)}
    exact = made(square(demand=demand, solver="auto(tol = 1e-13)"), **given)
    few = made(square(demand=demand, solver="picard(maxiter = 4)"), **given)
    u = inputs(3).abs()
    x = exact(u).detach()

    y = few(u, x0={"x": x})

    with pytest.raises(ConvergenceError, match="adjoint"):
        y.sum().backward()


# -- D2: residuals that are not those of the result ------------------------------------------------


@by_solver
@pytest.mark.parametrize("phi", ["relu", "softplus"])
@pytest.mark.parametrize("stop", [1, 2, 3, 7, 20])
def test_d2_the_residual_is_that_of_what_is_returned(solver: str, phi: str, stop: int) -> None:
    """A loop of one dense matrix returns f(x) with the residual of x where f contracts: a bound, then."""
    for n, A in ((2, turned(0.9)), (2, turned(-0.99)), (2, turned(1.01)), (50, rows_of_one_norm(50, 0.99))):
        settings = f'maxiter = {stop}, tol = 1e-13, on_failure = "warn"'
        text = square(n, phi=phi, demand="unchecked", solver=f"{solver}({settings})")
        module, u = made(text, A=A), inputs(3)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            x = module(u)
            image = getattr(F, phi)(x @ module.A.mT + u @ module.B.mT + module.b)
        true = (image - x).abs().amax(1) / x.abs().amax(1).clamp(min=1)
        told = module.stats["x"].forward.residual

        assert module.stats["x"].steps <= stop
        assert bool((true <= told * (1 + 1e-6) + 1e-14).all())
        if phi == "softplus" or solver not in ("auto", "picard", "anderson"):
            torch.testing.assert_close(told, true, rtol=1e-6, atol=1e-14)


def test_d2_a_sample_without_a_batch_is_refused() -> None:
    """There the best iterate was chosen entry by entry, as if each entry were a sample."""
    with pytest.raises(ValueError, match=r"must be \[batch, 4\]"):
        made(square())(inputs(1)[0])


# -- D3: overflow destroys the best iterate --------------------------------------------------------


@pytest.mark.parametrize("solver", [s for s in SOLVERS if s != "peaceman_rachford"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_d3_a_sample_that_overflows_harms_no_other(solver: str, dtype: torch.dtype) -> None:
    text = """
model M
    input u[2]
    state x[2] ~ relu(0.5*x .* u + 1)
    output y = x
    @wellposed unchecked
    @solver SOLVER(maxiter = 400, on_failure = "warn")
end
"""
    splits = solver in ("forward_backward", "newton")  # which divide by 1 − 0.5 u, whatever its size
    text = text.replace("relu(0.5*x .* u + 1)", "relu(0.5*x + u)") if splits else text
    module = generated(text.replace("SOLVER", solver)).M(dtype=dtype)
    huge = float("inf") if splits else 0.7 * torch.finfo(dtype).max
    u = torch.tensor([[0.2, -0.4], [huge, huge], [0.9, 1.1]], dtype=dtype)

    with pytest.warns(ConvergenceWarning, match="in 1 of 3 samples"):
        x = module(u)

    assert [s <= Status.FLOOR.value for s in module.stats["x"].forward.status.tolist()] == [True, False, True]
    expected = torch.relu(2 * u) if splits else torch.relu(1 / (1 - 0.5 * u))
    torch.testing.assert_close(x[[0, 2]], expected[[0, 2]], rtol=1e-4, atol=1e-5)


# -- D4: stale iterates ----------------------------------------------------------------------------


@pytest.mark.parametrize("program", [BY_NAME["relu"], BY_NAME["nested"]], ids=lambda program: program.name)
def test_d4_what_is_returned_is_the_last_solve_and_no_earlier_one(program: LoopProgram) -> None:
    """Also where solves start from the last: each input has its own solution, to the tolerance."""
    cold = of_program(program)
    warm = generated(re.sub(r"@solver (\w+)\(", r"@solver \1(warm_start = true, ", program.text)).M(
        dtype=torch.float64
    )
    warm.load_state_dict(cold.state_dict())
    for seed in (1, 2, 1, 3):
        u = inputs_of(program, seed=seed).requires_grad_()
        one, other = cold(u), warm(u)
        assert distance(one, other) <= 1e-10
        for a, b in zip(gradients(one, u), gradients(other, u)):
            assert distance(a, b) <= 1e-9
    u = inputs_of(program, batch=5)  # another size of the batch begins anew
    assert distance(cold(u), warm(u)) <= 1e-10


# -- D5, D6: gradients that are not what was asked for ---------------------------------------------


@by_solver
@pytest.mark.parametrize("phi", ["relu", "tanh"])
def test_d5_the_gradient_is_exact_whatever_the_solver(solver: str, phi: str) -> None:
    module, u = made(square(phi=phi, solver=f"{solver}(tol = 1e-13, maxiter = 4000)")), inputs(3)
    weights = {name: w.detach().clone().requires_grad_() for name, w in module.named_parameters()}
    v = u.clone().requires_grad_()
    x = torch.zeros(3, 6, dtype=torch.float64)
    for _ in range(400):
        x = getattr(torch, phi)(x @ weights["A"].mT + v @ weights["B"].mT + weights["b"])
    expected = gradients(x, v, *weights.values())

    v = u.clone().requires_grad_()
    found = gradients(module(v), v, *module.parameters())

    for one, other in zip(expected, found):
        assert distance(one, other) <= 1e-9


@pytest.mark.parametrize("gain", [0.6, 0.95])
def test_d6_the_default_gradient_is_the_exact_one_and_the_others_have_names(gain: float) -> None:
    A = gain * torch.eye(6, dtype=torch.float64).roll(1, 0)
    u = inputs(3).abs().requires_grad_()
    error = {}
    for backward in ("", "@backward implicit", "@backward jfb", "@backward neumann(200)"):
        text = square(demand="unchecked", solver="auto(tol = 1e-13)").replace(
            "@solver", f"{backward}\n@solver"
        )
        module = made(text, A=A, B=torch.ones(6, 4, dtype=torch.float64), b=torch.ones(6).double())
        (found,) = gradients(module(u), module.b)
        # every entry is positive, so that x = (I − A)⁻¹ (B u + b)
        weights = torch.linspace(-1, 2, 18, dtype=torch.float64).reshape(3, 6)
        exact = torch.linalg.solve((torch.eye(6).double() - A).mT, weights.sum(0))
        error[backward] = ((found - exact).norm() / exact.norm()).item()

    assert error[""] == error["@backward implicit"] <= 1e-10
    assert error["@backward jfb"] > 0.2
    assert error["@backward neumann(200)"] <= 1e-3


# -- D7: second order ------------------------------------------------------------------------------


@by_path
def test_d7_second_derivatives_in_inputs_and_weights_are_exact(program: LoopProgram) -> None:
    module, u = of_program(program), inputs_of(program, 2)
    names = [name for name, _ in module.named_parameters()]
    weights = {name: w.detach().clone().requires_grad_() for name, w in module.named_parameters()}

    def second(function: object, v: Tensor, *to: Tensor) -> tuple[Tensor, ...]:
        assert callable(function)
        y = function(v)
        first = torch.autograd.grad((y.sin() * 2).sum(), (v, *to), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), (v, *to), allow_unused=True)

    v = u.clone().requires_grad_()
    expected = second(
        lambda v: program.twin({**module.state_dict(), **weights}, v), v, *(weights[n] for n in names)
    )
    v = u.clone().requires_grad_()
    found = second(module, v, *module.parameters())

    for one, other in zip(expected, found):
        assert (one is None) == (other is None)
        assert one is None or distance(one, other) <= 1e-7


@pytest.mark.parametrize("backward", ["jfb", "neumann(3)", "phantom(3, 0.5)"])
@pytest.mark.parametrize("solver", ["auto", "forward_backward"])
def test_d7_an_approximate_gradient_refuses_to_be_differentiated(backward: str, solver: str) -> None:
    text = square(phi="tanh", solver=solver).replace("@solver", f"@backward {backward}\n    @solver")
    module, u = made(text), inputs(2).requires_grad_()

    (first,) = torch.autograd.grad(module(u).square().sum(), u, create_graph=True)

    with pytest.raises(RuntimeError, match="approximation"):
        first.square().sum().backward()


# -- D8: two calls before one backward -------------------------------------------------------------


@by_program
def test_d8_two_calls_before_one_backward(program: LoopProgram) -> None:
    module = of_program(program)
    u, v = inputs_of(program, 2), inputs_of(program, 3, seed=5)
    weights = {name: w.detach().clone().requires_grad_() for name, w in module.named_parameters()}
    named = {**module.state_dict(), **weights}

    expected = torch.autograd.grad(
        program.twin(named, u).square().sum() + program.twin(named, v).sin().sum(), list(weights.values())
    )
    one, other = module(u), module(v)
    found = torch.autograd.grad(one.square().sum() + other.sin().sum(), list(module.parameters()))

    for a, b in zip(expected, found):
        assert distance(a, b) <= 1e-8


@pytest.mark.parametrize("phi", ["tanh", "softplus"])
def test_d8_a_loop_that_feeds_itself_is_the_recurrent_net(phi: str) -> None:
    text = square(4, 4, phi=phi, demand="norm(A, Inf) <= 0.5", solver="auto(tol = 1e-13)")
    module = made(text)
    weights = {name: w.detach().clone().requires_grad_() for name, w in module.named_parameters()}

    def by_sweeps(h: Tensor) -> Tensor:
        x = torch.zeros_like(h)
        for _ in range(50):
            x = getattr(F, phi)(x @ weights["A"].mT + h @ weights["B"].mT + weights["b"])
        return x

    def both_orders(cell: Callable[[Tensor], Tensor], *to: Tensor) -> tuple[Tensor, ...]:
        h = inputs(2)
        for _ in range(15):
            h = 0.5 * h + cell(h)
        first = torch.autograd.grad(h.square().sum(), to, create_graph=True)
        return (*first, *torch.autograd.grad(sum(g.square().sum() for g in first), to))

    expected = both_orders(by_sweeps, *weights.values())
    for one, other in zip(expected, both_orders(module, *module.parameters())):
        assert distance(one, other) <= 1e-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("phi", "calls"), [("tanh", 1500), ("softplus", 100)])
def test_d8_no_recursion_grows_with_the_calls_and_gradients_may_vanish(
    phi: str, calls: int, dtype: torch.dtype
) -> None:
    given = {"A": 0.9 * torch.eye(4), "B": 0.01 * torch.ones(4, 4), "b": torch.zeros(4)}
    module = made(square(4, 4, phi=phi, demand="unchecked"), dtype=dtype, **given)
    u = inputs(1).to(dtype).requires_grad_()

    h = u
    for _ in range(calls):
        h = module(h)
    (found,) = torch.autograd.grad(h.sum(), u)

    assert bool(found.isfinite().all())
    assert float(found.abs().max()) < 1e-30  # of both formats, less than what squares can hold


def test_d8_gradients_of_several_calls_accumulate() -> None:
    module, u = made(square(solver="auto(tol = 1e-13)")), inputs(6)
    module(u).square().sum().backward()
    whole = [w.grad.clone() for w in module.parameters()]
    module.zero_grad()

    losses = [module(part).square().sum() for part in u.chunk(3)]
    for loss in reversed(losses):
        loss.backward()

    for one, other in zip(whole, module.parameters()):
        assert distance(one, other.grad) <= 1e-9


# -- D9, D10: settings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("@solver anderson(tolerence = 1e-3)", "tol"),
        ("@solver andersen", "anderson"),
        ("@solver picard(m = 3)", "m"),
        ('@solver auto(on_failure = "ignore")', "warn"),
        ("@solver auto(tol = -1)", "tol"),
        ("@solver auto(maxiter = 0)", "maxiter"),
        ("@backward newmann(3)", "neumann"),
        ("@backward implicit(k = 3)", "k"),
        ("@solvr auto", "solver"),
        ("@wellposed norm(A, 3) <= 0.9", "norm"),
    ],
)
def test_d9_a_setting_that_is_not_known_is_an_error_with_a_place(line: str, said: str) -> None:
    text = square(solver="auto").replace("@solver auto", line)

    with pytest.raises(ImplicitError) as found:
        implicit_dsl.loads(text)

    (diagnostic,) = found.value.diagnostics
    assert diagnostic.severity is Severity.ERROR
    assert said in str(found.value)


def test_d9_nor_does_python_swallow_what_it_does_not_know() -> None:
    module, u = made(square()), inputs(2)
    for call in (
        lambda: module(u, x_0={}),
        lambda: module(u, tol=1e-3),
        lambda: generated(square()).M(tol=1e-3),
        lambda: runtime.Anderson(tolerence=1e-3),
        lambda: runtime.Equilibrium(lambda x: x, "x", tolerance=1e-3),
        lambda: runtime.Neumann(k=3),
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ValueError, match="no_such_state"):
        module(u, x0={"no_such_state": u})
    with pytest.raises(ImplicitError, match="kappa"):
        implicit_dsl.loads(square(), kappa=0.5)


def test_d10_what_the_caller_hands_in_is_left_as_it_is() -> None:
    text = square().replace("model M", "model M(k = 0.9)").replace("<= 0.9", "<= k")
    given, guesses = {"k": 0.5}, {"x": torch.ones(2, 6, dtype=torch.float64)}

    module = implicit_dsl.loads(text, parameters=given).M(dtype=torch.float64)
    module(inputs(2), x0=guesses)
    other = implicit_dsl.loads(text).M(dtype=torch.float64)

    assert given == {"k": 0.5}
    assert list(guesses) == ["x"]
    assert bool((guesses["x"] == 1).all())
    assert [m.constraints[0].bound for m in (module, other)] == [0.5, 0.9]
    with pytest.raises(AttributeError):
        module.x_equilibrium.settings.solver.tolerance = 1.0


# -- D11: autocast ---------------------------------------------------------------------------------


@by_program
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_d11_autocast_forward_and_backward(program: LoopProgram, dtype: torch.dtype) -> None:
    exact = of_program(program)
    module = in_float32(program, exact)
    u = inputs_of(program).requires_grad_()
    expected = gradients(exact(u), u, *exact.parameters())
    v = u.detach().float().requires_grad_()

    with torch.autocast("cpu", dtype=dtype):
        y = module(v)
    found = gradients(y.float(), v, *module.parameters())
    with torch.autocast("cpu", dtype=dtype):  # backward inside of autocast too
        again = gradients(module(v).float(), v, *module.parameters())

    coarse = 8 * torch.finfo(dtype).eps * 4
    assert distance(exact(u), y.double()) <= coarse
    for one, other, third in zip(expected, found, again):
        assert other.dtype == torch.float32
        assert float((one - other).norm() / (one.norm() + 1e-3)) <= 2 * coarse
        assert float((third - other).norm() / (other.norm() + 1e-3)) <= coarse


# -- D12: solvers for the backward pass ------------------------------------------------------------


@by_solver
def test_d12_every_solver_solves_the_adjoint_too(solver: str) -> None:
    module, u = made(square(phi="tanh", solver=solver)), inputs(3)

    module(u).square().sum().backward()

    stats = module.stats["x"]
    assert stats.solver == solver
    assert stats.adjoint_status is Status.CONVERGED
    assert stats.adjoint_residual <= 1e-10


# -- D13: few steps, little memory -----------------------------------------------------------------


@pytest.mark.parametrize("solver", ["anderson(m = 1", "anderson(m = 5", "broyden(m = 1", "auto(", "picard("])
@pytest.mark.parametrize("demand", ["norm(A, Inf) <= 0.5", "unchecked"])
def test_d13_few_steps_and_little_memory_still_make_progress(solver: str, demand: str) -> None:
    first = solver + (", " if "=" in solver else "")
    residuals = []
    for steps in (1, 2, 3):
        text = square(demand=demand, solver=f'{first}maxiter = {steps}, on_failure = "warn")')
        module = made(text, A=rows_of_one_norm(6, 0.5))
        with pytest.warns(ConvergenceWarning):
            module(inputs(3))
        residuals.append(module.stats["x"].residual)

    assert residuals[2] < residuals[1] < residuals[0] < 2
    module = made(square(demand=demand, solver=f"{solver})"), A=rows_of_one_norm(6, 0.5))
    assert distance(swept(module, inputs(3)), module(inputs(3))) <= 1e-9


# -- D14: norms that do not bound ------------------------------------------------------------------

BOUNDS = {
    "norm(A, Inf)": lambda A: A.abs().sum(1).max(),
    "norm(A, 2)": lambda A: torch.linalg.matrix_norm(A, 2),
    "spectral(abs(A))": lambda A: torch.linalg.eigvals(A.abs()).abs().max(),
}


@pytest.mark.parametrize("method", ["project", "parametrize"])
@pytest.mark.parametrize("norm", BOUNDS)
def test_d14_a_bound_holds_from_the_start_and_after_each_step(norm: str, method: str) -> None:
    """Of the matrix that the loop uses, taken from the matrix form, in float32."""
    module = made(square(12, demand=f'{norm} <= 0.95, method = "{method}"'), dtype=torch.float32)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    if method == "project":
        runtime.project_after(optimizer, module)
    for _ in range(40):
        optimizer.zero_grad()
        module(inputs(8).float()).sum(1).exp().mean().neg().backward()  # pulls outwards
        optimizer.step()

        A = torch.from_numpy(module.system().A.to_numpy())
        assert float(BOUNDS[norm](A)) <= 0.95 * (1 + 1e-5)
    assert float(BOUNDS[norm](A)) >= 0.9


@pytest.mark.parametrize("method", ["project", "parametrize"])
def test_d14_the_norm_of_a_convolution_is_that_of_its_matrix(method: str) -> None:
    text = BY_NAME["conv"].text.replace("<= 0.9", f'<= 0.9, method = "{method}"')
    module = generated(text).M(dtype=torch.float64)
    with torch.no_grad():
        module.K.weight.normal_()
    if method == "project":
        module.project_()

    A = module.system().A.to_scipy()
    (rows, columns) = (module.system().partition(axis)["z"] for axis in ("slots", "states"))

    assert 0.85 <= abs(A[rows, columns]).sum(1).max() <= 0.9 * (1 + 1e-9)


# -- D15: copies, casts, loading -------------------------------------------------------------------


@pytest.mark.parametrize("method", ["project", "parametrize"])
@pytest.mark.parametrize("demand", ["norm(A, Inf) <= 0.9", "spectral(abs(A)) <= 0.9", "nemon(A; m = 0.9)"])
def test_d15_copies_casts_and_loaded_weights_are_not_stale(demand: str, method: str) -> None:
    text = square(demand=f'{demand}, method = "{method}"')
    module, u = made(text), inputs(3)
    y = module(u)

    double = copy.deepcopy(module.float()).double()
    if method == "project":  # the bound is kept to the rounding of the dtype
        double.project_()
    other = made(text, seed=7)
    other(u)
    file = io.BytesIO()
    torch.save(double.state_dict(), file)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue())))

    assert distance(y, double(u)) <= 1e-4
    assert torch.equal(double(u), other(u))
    assert {w.dtype for w in double.state_dict().values()} == {torch.float64}
    assert not [name for name, value in vars(double).items() if isinstance(value, Tensor)]


# -- D16: the rate of complex pairs ----------------------------------------------------------------


@pytest.mark.parametrize("size", [0.9, 0.999, 1.1, 1.5])
@pytest.mark.parametrize("angle", [30, 45, 90, 135, 180])
def test_d16_no_rate_is_proved_below_that_of_the_complex_pair(size: float, angle: int) -> None:
    turn = cmath.rect(size, math.radians(angle))
    A = torch.tensor([[turn.real, -turn.imag], [turn.imag, turn.real]], dtype=torch.float64)

    certificate = made(square(2, phi="tanh", demand="unchecked"), A=A).certify()

    (proof,) = (loop.proof for loop in certificate.loops)
    assert certificate.proved == (proof is not None)
    if turn.real >= 1:  # x = tanh(A x) has other solutions than zero
        assert proof is None
    if size < 1:
        assert proof is not None
    if proof is not None and proof.rate is not None:
        damping = 1.0 if proof.method == "picard" else proof.damping
        assert proof.method in ("picard", "averaged")
        assert proof.rate >= abs(1 - damping + damping * turn) * (1 - 1e-12)
    if size < 1 and angle == 90:
        assert proof.rate == pytest.approx(size, rel=1e-9)


# -- D17: gradients in evaluation mode -------------------------------------------------------------


@by_program
def test_d17_evaluation_mode_changes_nothing_about_gradients(program: LoopProgram) -> None:
    module, u = of_program(program), inputs_of(program).requires_grad_()
    training = gradients(module.train()(u), u, *module.parameters())

    y = module.eval()(u)

    assert y.requires_grad
    for one, other in zip(training, gradients(y, u, *module.parameters())):
        assert distance(one, other) <= 1e-12


@by_path
def test_d17_frozen_weights_pass_gradients_on_and_frozen_inputs_too(program: LoopProgram) -> None:
    """torchdeq#8: inside a larger net that is partly frozen."""
    module, u = of_program(program), inputs_of(program)
    to_u = gradients(module(u.requires_grad_()), u)[0]
    to_weights = gradients(module(u.detach()), *module.parameters())

    frozen = copy.deepcopy(module).requires_grad_(False)
    assert distance(to_u, gradients(frozen(u), u)[0]) <= 1e-12
    assert not frozen(u.detach()).requires_grad
    with torch.no_grad():
        assert not module(u).requires_grad
    for name, one in zip(dict(module.named_parameters()), to_weights):
        partly = copy.deepcopy(module).requires_grad_(False)
        weight = partly.get_parameter(name).requires_grad_()
        assert distance(one, gradients(partly(u.detach()), weight)[0]) <= 1e-12


# -- D18: batch-mates ------------------------------------------------------------------------------


@by_program
def test_d18_other_batch_mates_do_not_change_a_sample(program: LoopProgram) -> None:
    """At a coarse tolerance, where it would show, with mates a thousand times larger, or not finite."""
    text = re.sub(r"tol = 1e-1\d", "tol = 1e-3", program.text).replace(
        ")\nend", ', on_failure = "warn")\nend'
    )
    exact = of_program(program)
    module = generated(text).M(dtype=torch.float64)
    module.load_state_dict(exact.state_dict())
    u, mates = inputs_of(program, 2), inputs_of(program, 4, seed=9)
    bad = mates.clone()
    bad[1] = torch.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = [module(torch.cat((u, others)))[:2] for others in (mates, 1000 * mates, 1e-6 * mates, bad)]

    for other in found[1:]:
        assert distance(found[0], other) <= 1e-12


@by_program
def test_d18_nor_its_gradient(program: LoopProgram) -> None:
    exact = of_program(program)
    module = generated(re.sub(r"tol = 1e-1\d", "tol = 1e-3", program.text)).M(dtype=torch.float64)
    module.load_state_dict(exact.state_dict())
    u, mates = inputs_of(program, 2), inputs_of(program, 4, seed=9)

    def to_first(others: Tensor) -> Tensor:
        v = torch.cat((u, others)).requires_grad_()
        return torch.autograd.grad(module(v)[:2].square().sum() + module(v)[2:].exp().sum(), v)[0][:2]

    assert distance(to_first(mates), to_first(3 * mates)) <= 1e-12


# -- D19: torch.compile, export, torch.func --------------------------------------------------------


@by_path
def test_d19_fullgraph_compile_gives_values_and_gradients(program: LoopProgram) -> None:
    module, u = of_program(program), inputs_of(program).requires_grad_()
    y = module(u)
    expected = gradients(y, u, *module.parameters())

    with compiled_afresh():
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        found = compiled(u)
        assert distance(y, found) <= 1e-10
        for one, other in zip(expected, gradients(found, u, *module.parameters())):
            assert distance(one, other) <= 1e-9


@by_path
def test_d19_export_leaves_the_batch_free(program: LoopProgram) -> None:
    module, u = of_program(program), inputs_of(program)

    exported = torch.export.export(module, (u,), dynamic_shapes=({0: torch.export.Dim("batch")},))

    more = inputs_of(program, 7, seed=4)
    assert distance(module(more), exported.module()(more)) <= 1e-10


RECORDERS = {
    "make_fx": lambda module, u: make_fx(module)(u),
    "jit.trace": lambda module, u: torch.jit.trace(module, (u,), check_trace=False),
    "aot": lambda module, u: aot_module(module, fw_compiler=nop),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.* deprecated", "ignore::torch.jit.TracerWarning")  # of shapes
@pytest.mark.parametrize("recorder", RECORDERS)
@pytest.mark.parametrize("gradients_on", [True, False])
@by_path
def test_d19_what_is_recorded_solves_again_for_other_inputs(
    program: LoopProgram, gradients_on: bool, recorder: str
) -> None:
    """The answer to the first input, or its number of steps, must not be a constant of the record."""
    module, u, v = of_program(program), inputs_of(program), 3 * inputs_of(program, seed=8)
    with torch.set_grad_enabled(gradients_on):
        record = RECORDERS[recorder](module, u)
        found = record(v)

    assert distance(module(v), found) <= 1e-10
    assert distance(module(u), module(v)) > 1e-3


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # jacfwd of PyTorch
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # its attention under vmap
@sdpa_kernel(SDPBackend.MATH)
@by_program
def test_d19_transforms_of_torch_func(program: LoopProgram) -> None:
    module, u = of_program(program), inputs_of(program)
    rows = torch.stack([torch.autograd.functional.jacobian(lambda v: module(v[None])[0], r) for r in u])

    each = torch.func.vmap(torch.func.jacrev(lambda v: module(v[None])[0]))(u)
    forward = torch.func.vmap(torch.func.jacfwd(lambda v: module(v[None])[0]))(u)

    assert distance(rows, each) <= 1e-9
    assert distance(rows, forward) <= 1e-9


@by_path
def test_d19_gradients_of_each_sample(program: LoopProgram) -> None:
    module, u = of_program(program), inputs_of(program)
    expected = [gradients(module(row[None]).square(), *module.parameters()) for row in u]

    def loss(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        y = torch.func.functional_call(module, weights, (row[None],)).square()
        return (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)).sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(dict(module.named_parameters()), u)

    for number, row in enumerate(expected):
        for one, other in zip(row, found.values()):
            assert distance(one, other[number]) <= 1e-9


# -- D20: cost -------------------------------------------------------------------------------------


class Counting(TorchDispatchMode):
    """Counts the operations of one kind, and those that read from the device."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.number, self.readings = kind, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.number += self.kind in str(func)
        self.readings += any(name in str(func) for name in ("_local_scalar_dense", "is_nonzero", "nonzero"))
        return func(*args, **(kwargs or {}))


def test_d20_a_step_costs_one_evaluation() -> None:
    """Of a loop of convolutions: what comes in once, each step once, and no other."""
    module, u = of_program(BY_NAME["conv"]), inputs_of(BY_NAME["conv"])

    with Counting("convolution.default") as count, torch.no_grad():
        module(u)

    assert module.stats["z"].steps + 1 <= count.number <= module.stats["z"].steps + 2


@pytest.mark.parametrize("name", ["relu", "tanh", "conv"])
def test_d20_with_a_proved_rate_nothing_is_read_off_the_processor(name: str) -> None:
    """Tensors without numbers stand for a GPU: to read one raises. Forward and backward."""
    program = BY_NAME[name]
    text = re.sub(r"@solver .*", "@solver auto", program.text)
    module = generated(text).M(device="meta")
    u = torch.empty(3, *program.shape, device="meta", requires_grad=True)

    y = module(u)
    y.sum().backward()

    assert u.grad is not None and u.grad.shape == u.shape
    with pytest.raises(RuntimeError):
        bool(y.sum() > 0)


def test_d20_memory_does_not_grow_with_the_steps() -> None:
    """torchdeq#9, deq#28, deq#33: what is kept for the backward pass is the same for any number of steps."""
    kept = {}
    for steps in (10, 300):
        size = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal size
            size += tensor.numel()
            return tensor

        text = square(20, solver=f'picard(maxiter = {steps}, tol = 1e-30, on_failure = "warn")')
        text = text.replace("norm(A, Inf) <= 0.9", "unchecked")
        module = made(text, A=rows_of_one_norm(20, 0.99))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            module(inputs(3))
        kept[steps] = size

    assert kept[10] == kept[300] <= 2000


# -- D21: devices, dropout, BatchNorm --------------------------------------------------------------

NORMALISED = """
model M
    input u[3, 4, 4]
    layer K = Conv(3 => 3, 3; pad = 1, bias = false), n = BatchNorm()
    state z[3, 4, 4] ~ tanh(0.3*n(K*z) + u)
    output y = flatten(z)
    @wellposed unchecked
end
"""

DROPPED = """
model M
    input u[8]
    param W[8, 8]
    state x[8] ~ relu(W*(Dropout(0.5)*x) + u)
    output y = x
    @wellposed norm(W, Inf) <= 0.4
    @solver auto(tol = 1e-12)
end
"""


def test_d21_statistics_move_once_for_each_call() -> None:
    module = generated(NORMALISED).M(dtype=torch.float64).train()
    u = torch.randn(5, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = copy.deepcopy(module)

    z = module(u).reshape(5, 3, 4, 4)
    module(u).sum().backward()  # a backward pass moves nothing

    assert int(module.n.num_batches_tracked) == 2
    assert module.stats["z"].steps > 3
    expected = before.n.running_mean.lerp(F.conv2d(z, before.K.weight, padding=1).mean((0, 2, 3)), 0.1)
    once = copy.deepcopy(before)
    once(u)
    assert distance(expected, once.n.running_mean) <= 1e-8
    assert distance(before.eval()(u), z.flatten(1)) <= 1e-9  # solved with the running statistics


def test_d21_a_dropout_mask_stands_still_during_a_solve_and_fits_any_batch() -> None:
    module = generated(DROPPED).M(dtype=torch.float64).train()
    for batch in (2, 7, 1):
        torch.manual_seed(batch)
        u = torch.rand(batch, 8, dtype=torch.float64, requires_grad=True)
        torch.manual_seed(0)
        x = module(u)
        torch.manual_seed(0)
        mask = F.dropout(torch.ones(batch, 8, dtype=torch.float64), 0.5)
        assert distance(torch.relu((x * mask) @ module.W.mT + u), x) <= 1e-10
        (g,) = torch.autograd.grad(x.sum(), u)
        D = (x > 0).double()
        lam = torch.stack(
            [
                torch.linalg.solve(
                    (torch.eye(8) - (d[:, None] * module.W * m)).mT.detach(), torch.ones(8).double()
                )
                for d, m in zip(D, mask)
            ]
        )
        assert distance(lam * D, g) <= 1e-8
    assert not torch.equal(module(u), module(u))
    module.eval()
    assert torch.equal(module(u), module(u))


def test_d21_no_device_is_written_into_anything() -> None:
    root = Path(implicit_dsl.__file__).parent
    for file in root.rglob("*.py"):
        assert not re.search(r"\.cuda\(|device=[\"']cuda", file.read_text(encoding="utf-8")), file
    for program in PROGRAMS:
        assert "cuda" not in implicit_dsl.compile(program.text)


# -- D22: the tolerance and the dimension ----------------------------------------------------------


def test_d22_steps_and_errors_do_not_depend_on_the_dimension() -> None:
    text = (
        "model M(n)\n    input u[n]\n    state x[n] ~ 0.9*x + u\n    output y = x\n    @solver picard\nend\n"
    )
    steps, errors = set(), set()
    for n in (1, 16, 4096):
        module = implicit_dsl.loads(text, n=n).M()
        x = module(torch.ones(2, n))
        steps.add(module.stats["x"].steps)
        errors.add(float((x - 10).abs().max()))

    assert len(steps) == len(errors) == 1
