"""What goes wrong in torchidl 0.0.4, by the numbers of docs/peers.md, asked of generated modules."""

from __future__ import annotations

import copy
import importlib
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from asked import (
    PATHS,
    compiled_afresh,
    distance,
    generated,
    gradients,
    in_float32,
    inputs,
    inputs_of,
    made,
    of_program,
    square,
)
from loop_programs import PROGRAMS, LoopProgram
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

import implicit_dsl
from implicit_dsl import runtime
from implicit_dsl.errors import ImplicitError
from implicit_dsl.operators import ACTIVATIONS

ROOT = Path(__file__).resolve().parents[2]
by_path = pytest.mark.parametrize("program", PATHS, ids=lambda program: program.name)

# -- T1: settings of a class -----------------------------------------------------------------------


@pytest.mark.parametrize("phi", ["relu", "softplus"])
def test_t1_a_second_model_changes_nothing_about_the_first(phi: str) -> None:
    fine = square(phi=phi, demand="norm(A, Inf) <= 0.5", solver="auto(tol = 1e-12, maxiter = 900)")
    coarse = square(phi=phi, demand="norm(A, Inf) <= 0.99", solver="picard(tol = 1e-1, maxiter = 90)")
    first, u = made(fine), inputs(3)
    before = first(u)

    second = made(coarse)
    second(u)
    third = generated(fine).M(dtype=torch.float64)  # the same class once more

    assert torch.equal(before, first(u))
    assert first.stats["x"].tolerance == 1e-12
    assert second.stats["x"].tolerance == 1e-1
    assert third.stats["x"] is None
    bounds = [module.constraints[0].bound for module in (first, second, third)]
    assert bounds == [0.5, 0.99, 0.5]


# -- T2: gradients where a constraint is active ----------------------------------------------------


@pytest.mark.parametrize("norm", ["norm(A, Inf)", "norm(A, 2)", "spectral(abs(A))"])
def test_t2_the_gradient_at_the_bound_is_that_of_the_weights(norm: str) -> None:
    module, u = made(square(phi="tanh", demand=f"{norm} <= 0.7", solver="auto(tol = 1e-13)")), inputs(3)
    with torch.no_grad():
        module.A.mul_(9)
    module.project_()  # onto the bound
    weights = [w.detach().clone().requires_grad_() for w in (module.A, module.B, module.b)]
    x = torch.zeros(3, 6, dtype=torch.float64)
    for _ in range(300):
        x = torch.tanh(x @ weights[0].mT + u @ weights[1].mT + weights[2])

    found = gradients(module(u), module.A, module.B, module.b)

    for one, other in zip(gradients(x, *weights), found):
        assert distance(one, other) <= 1e-8


@pytest.mark.parametrize(
    "demand",
    [
        "norm(A, Inf) <= 0.7",
        "spectral(abs(A)) <= 0.7",
        "norm(A, 2) <= 0.7",
        "nemon(A; m = 0.7)",
        "monotone(A; m = 0.3)",
    ],
)
def test_t2_where_weights_are_made_of_parameters_the_gradient_goes_through(demand: str) -> None:
    """By finite differences of the whole module, with the bound active: ten times outside of it."""
    text = square(3, 2, phi="tanh", demand=f'{demand}, method = "parametrize"', solver="auto(tol = 1e-13)")
    module, u = made(text), inputs(2, 2)
    with torch.no_grad():
        module.A.mul_(10)
    names, weights = zip(*module.named_parameters())

    def of_weights(*given: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, given)), (u,))

    assert torch.autograd.gradcheck(of_weights, weights, eps=1e-6, atol=1e-6, fast_mode=True)


# -- T3: steps that do not suffice -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("solver", "bound"), [("auto", 0.99), ("auto", 0.9999), ("picard", 0.99)])
@pytest.mark.parametrize("n", [1, 50])
def test_t3_the_default_steps_are_enough(solver: str, n: int, bound: float, dtype: torch.dtype) -> None:
    """In the worst case: every row on the bound, every entry positive, x = 1 / (1 − κ)."""
    module = generated(square(n, 1, demand=f"norm(A, Inf) <= {bound}", solver=solver)).M(dtype=dtype)
    with torch.no_grad():
        module.A.fill_(1.0)
        module.b.fill_(0.0), module.B.fill_(1.0)
    module.project_()

    x = module(torch.ones(2, 1, dtype=dtype)).detach()

    kappa = float(module.A.detach().double().sum(1).max())
    error = float((x.double() * (1 - kappa) - 1).abs().max())
    assert error <= module.stats["x"].error_bound
    assert module.stats["x"].error_bound <= 1.2 * (1e-5 if dtype is torch.float32 else 1e-10) / (1 - kappa)


# -- T4: an ill-posed model ------------------------------------------------------------------------

TUTORIAL = """
model M
    input u[1]
    param A[1, 1], b[1]
    state x[1] ~ silu(A*x + b + 0*u)
    output y = x
    @wellposed DEMAND
end
"""


def test_t4_the_model_of_the_tutorial_has_two_equilibria() -> None:
    """A = 0.95, b = 0.3 and SiLU, whose slope reaches 1.0998: here by bisection of x − φ(A x + b)."""

    def gap(x: float) -> float:
        return x - F.silu(torch.tensor(0.95 * x + 0.3, dtype=torch.float64)).item()

    def root(low: float, high: float) -> float:
        assert gap(low) * gap(high) < 0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if gap(low) * gap(middle) > 0 else (low, middle)
        return low

    assert root(0, 1.5) == pytest.approx(0.691, abs=1e-3)
    assert root(4, 8) == pytest.approx(5.591, abs=1e-3)


def test_t4_it_is_refused_with_the_reason() -> None:
    for demand in ("norm(A, Inf) <= 0.95", "norm(A, Inf) <= 0.91", "norm(A, 2) <= 0.95"):
        with pytest.raises(ImplicitError) as found:
            implicit_dsl.loads(TUTORIAL.replace("DEMAND", demand))
        assert any(d.code in ("E0401", "E0403") for d in found.value.diagnostics), str(found.value)
    assert "1.0998" in str(found.value) or "1.1" in str(found.value)
    implicit_dsl.loads(TUTORIAL.replace("DEMAND", "norm(A, Inf) <= 0.9"))


def test_t4_nor_are_its_weights_certified_where_nothing_was_demanded() -> None:
    module = generated(TUTORIAL.replace("DEMAND", "unchecked")).M(dtype=torch.float64)
    for A, proved in ((0.95, False), (0.9, True)):
        with torch.no_grad():
            module.A.fill_(A)
        assert module.certify().proved == proved


# -- T5: derivatives of activations ----------------------------------------------------------------

BY_HAND = {
    "relu": F.relu,
    "leaky_relu": lambda z: F.leaky_relu(z, 0.01),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": F.softplus,
    "elu": F.elu,
    "hardtanh": F.hardtanh,
    "softsign": F.softsign,
    "softmax": lambda z: torch.softmax(z, -1),
    "identity": lambda z: z,
}


def test_t5_every_activation_is_asked() -> None:
    unary = {rule.names[0] for rule in ACTIVATIONS.values() if not getattr(rule, "arguments", ())[1:]}
    assert {name for name in ACTIVATIONS if ACTIVATIONS[name].names[0] in unary} >= set(BY_HAND) - {
        "identity"
    }


@pytest.mark.parametrize("phi", BY_HAND)
@pytest.mark.parametrize("solver", ["auto", "newton"])
def test_t5_an_activation_brings_its_derivative(phi: str, solver: str) -> None:
    text = square(phi=phi, demand="norm(A, Inf) <= 0.6", solver=f"{solver}(tol = 1e-13)")
    module, u = made(text), inputs(3).requires_grad_()
    weights = [w.detach().clone().requires_grad_() for w in (module.A, module.B, module.b)]
    v = u.detach().clone().requires_grad_()
    x = torch.zeros(3, 6, dtype=torch.float64)
    for _ in range(150):
        x = BY_HAND[phi](x @ weights[0].mT + v @ weights[1].mT + weights[2])

    y = module(u)

    assert distance(x, y) <= 1e-10
    for one, other in zip(gradients(x, v, *weights), gradients(y, u, module.A, module.B, module.b)):
        assert distance(one, other) <= 1e-9


# -- T6: what was saved comes back -----------------------------------------------------------------


@by_path
def test_t6_saved_weights_and_matrices_are_read_back_without_running_code(
    program: LoopProgram, tmp_path: Path
) -> None:
    module, u = of_program(program), inputs_of(program)
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    module.system().save(tmp_path / "matrices.npz")

    again = generated(program.text).M(dtype=torch.float64)
    again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True), strict=True)
    arrays = np.load(tmp_path / "matrices.npz", allow_pickle=False)

    assert torch.equal(module(u), again(u))
    assert tuple(arrays["A.shape"]) == module.system().A.shape


# -- T8: projections that do not project -----------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 7, 300])
def test_t8_projected_rows_are_within_the_bound_and_nearest(dtype: torch.dtype, n: int) -> None:
    module = generated(square(n, 1, demand="norm(A, Inf) <= 0.9")).M(dtype=dtype)
    torch.manual_seed(n)
    wild = torch.randn(n, n).to(dtype)
    with torch.no_grad():
        module.A.copy_(wild)

    module.project_()

    A = module.A.detach().double()
    rows = A.abs().sum(1)
    slack = 40 * torch.finfo(dtype).eps
    assert bool((rows <= 0.9 * (1 + slack)).all())
    for row, given in zip(A[:20], wild.double()):  # by bisection of the threshold
        low, high = 0.0, float(given.abs().max())
        if float(given.abs().sum()) <= 0.9:
            continue
        for _ in range(80):
            middle = (low + high) / 2
            over = float((given.abs() - middle).clamp(min=0).sum()) > 0.9
            low, high = (middle, high) if over else (low, middle)
        nearest = given.sign() * (given.abs() - high).clamp(min=0)
        torch.testing.assert_close(row, nearest, rtol=slack, atol=slack)
    kept = module.A.detach().clone()
    module.project_()
    assert torch.equal(kept, module.A.detach())


def test_t8_a_step_of_the_optimiser_is_followed_by_the_projection_or_refused() -> None:
    module, u = made(square(demand="norm(A, Inf) <= 0.9")), inputs(3)
    with torch.no_grad():
        module.A.mul_(5)
    with pytest.raises(runtime.ConstraintError, match="project_"):
        module(u)
    module.project_()
    module(u)


# -- T9: biases ------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_t9_the_matrix_form_has_the_biases(program: LoopProgram) -> None:
    module, u = of_program(program).eval(), inputs_of(program)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.endswith("bias") or name == "b":
                weight.add_(1.0)

    assert distance(module(u), module.system().solve(u)) <= 1e-10


# -- T10: copies, pickles, other processes ---------------------------------------------------------


@by_path
def test_t10_copies_pickles_and_averages(program: LoopProgram) -> None:
    module, u = of_program(program).eval(), inputs_of(program)
    y = module(u)
    y.sum().backward()  # after use, with gradients

    file = io.BytesIO()
    torch.save(module, file)
    whole = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    average = AveragedModel(module)
    average.update_parameters(module)

    for twin in (
        copy.deepcopy(module),
        copy.copy(module),
        pickle.loads(pickle.dumps(module)),
        whole,
        average,
    ):
        assert distance(y, twin(u)) <= 1e-10
    with torch.no_grad():
        next(copy.deepcopy(module).parameters()).zero_()
    assert torch.equal(y, module(u))


def test_t10_a_fresh_process_reads_a_whole_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a spawned worker does: its class is found in the compiled file."""
    (tmp_path / "compiled_net.py").write_text(implicit_dsl.compile(square()), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("compiled_net").M(dtype=torch.float64)
    u = inputs(2)
    torch.save((module, u, module(u).detach()), tmp_path / "whole.pt")
    script = """
import torch
module, u, y = torch.load("whole.pt", weights_only=False)
assert torch.equal(y, module(u))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path)))}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)


# -- T11, T12: tensors that are no parameters; shapes ----------------------------------------------


def test_t11_every_tensor_is_a_parameter_or_a_buffer() -> None:
    for program in PROGRAMS:
        module = generated(program.text).M()
        held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for inner in module.modules():
            assert not [name for name, value in vars(inner).items() if isinstance(value, Tensor)]
        assert list(module.state_dict()) == list(held)
        module.double()(inputs_of(program))  # which leaves nothing behind either
        for inner in module.modules():
            assert not [name for name, value in vars(inner).items() if isinstance(value, Tensor)]
        assert {w.dtype for w in module.state_dict().values()} <= {torch.float64, torch.int64}


def test_t11_without_d_there_is_no_d() -> None:
    text = square(solver="auto(tol = 1e-12)")
    module = made(text).double()
    assert list(module.state_dict()) == ["A", "B", "b"]
    assert module(inputs(2)).dtype == torch.float64


@by_path
def test_t12_a_shape_that_does_not_fit_is_named_with_the_one_that_does(program: LoopProgram) -> None:
    module, u = of_program(program), inputs_of(program)
    for wrong in (u[0], u[None], u[..., :-1], torch.cat((u, u), -1)):
        with pytest.raises(ValueError, match=r"`u` has shape \(.*\), but must be \[batch, "):
            module(wrong)
    assert module(u[:0]).shape == (0, *module(u).shape[1:])


def test_t12_a_guess_that_does_not_fit_is_named() -> None:
    module, u = made(square()), inputs(2)
    with pytest.raises(ValueError, match=r"guess for `x` has shape"):
        module(u, x0={"x": torch.zeros(3, 6)})
    with pytest.raises(TypeError, match="`x` must be a tensor"):
        module(u, x0={"x": [0.0] * 6})


# -- T13: everything at once -----------------------------------------------------------------------


@by_path
def test_t13_a_training_step_under_autocast_and_compile(program: LoopProgram) -> None:
    exact = of_program(program)
    module = in_float32(program, exact)
    u = inputs_of(program)
    expected = gradients(exact(u), *exact.parameters())

    with compiled_afresh():
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = compiled(u.float())
        found = gradients(y.float(), *module.parameters())

    for one, other in zip(expected, found):
        assert other.dtype == torch.float32
        assert float((one - other).norm() / (one.norm() + 1e-3)) <= 0.2


# -- T14: a forward pass that changes parameters; deep chains --------------------------------------


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_t14_a_forward_pass_changes_no_parameter(program: LoopProgram) -> None:
    for mode in (True, False):
        module = of_program(program).train(mode)
        before = {name: (w.clone(), w._version) for name, w in module.state_dict(keep_vars=True).items()}
        module(inputs_of(program))
        with torch.no_grad():
            module(inputs_of(program))
        for name, w in module.state_dict(keep_vars=True).items():
            assert torch.equal(before[name][0], w)
            assert before[name][1] == w._version


@pytest.mark.parametrize("depth", [400, 2000])
def test_t14_a_deep_chain_is_substituted_and_exact(depth: int) -> None:
    """A is nilpotent: iterating it takes as many sweeps as it is deep. Here there is nothing to iterate."""
    text = f"""
model M(depth = {depth})
    input u[1]
    state x[k in 1:depth][1]
    x[1] ~ identity(u)
    for k in 2:depth
        x[k] ~ relu(1.0*x[k - 1])
    end
    output y = x[depth]
end
"""
    module = implicit_dsl.loads(text).M(dtype=torch.float64)
    u = torch.tensor([[1.0], [0.25]], dtype=torch.float64, requires_grad=True)

    y = module(u)

    assert torch.equal(y, u)
    assert torch.equal(torch.autograd.grad(y.sum(), u)[0], torch.ones_like(u))


def test_t14_a_loop_whose_matrix_is_nilpotent_takes_as_many_steps_as_it_is_deep() -> None:
    n = 400
    shift = torch.diag(torch.ones(n - 1, dtype=torch.float64), -1)
    B = torch.zeros(n, 1, dtype=torch.float64)
    B[0] = 1
    for solver in ("auto", "picard"):
        module = made(square(n, 1, demand="unchecked", solver=solver), A=shift, B=B, b=torch.zeros(n))
        x = module(torch.ones(2, 1, dtype=torch.float64))
        assert distance(torch.ones(2, n, dtype=torch.float64), x) <= 1e-9


# -- T15: imports ----------------------------------------------------------------------------------


def test_t15_everything_that_is_exported_can_be_imported() -> None:
    script = """
from implicit_dsl import *
from implicit_dsl.runtime import *
from implicit_dsl.runtime.constraints import *
from implicit_dsl.runtime.solvers import *
import implicit_dsl.runtime as m
assert all(hasattr(m, name) for name in m.__all__)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-W", "error", "-c", script], env=environment, check=True, cwd=os.sep)
