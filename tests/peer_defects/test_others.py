"""What goes wrong in other libraries, by the names of docs/peers.md, asked of modules that are compiled here.

mon: monotone_op_net and NEMON; al: alicia-tsai/implicit-deep-learning; jl: DeepEquilibriumNetworks.jl;
ignn: IGNN; gu: beeperman/idl; jaxopt, deepinv, torchode, optimistix; pt: PyTorch itself.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
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
    inputs,
    inputs_of,
    made,
    of_program,
    rows_of_one_norm,
    square,
)
from loop_programs import LoopProgram
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl import runtime
from implicit_dsl.errors import ImplicitError
from implicit_dsl.runtime import ConvergenceError, solvers

ROOT = Path(__file__).resolve().parents[2]
by_path = pytest.mark.parametrize("program", PATHS, ids=lambda program: program.name)


def in_fresh_python(script: str, folder: Path) -> str:
    """What a script prints in a process of its own."""
    made = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
    )
    assert made.returncode == 0, made.stderr
    return made.stdout


# -- monotone_op_net -------------------------------------------------------------------------------

# With these a step of one diverges: I − A ⪰ 0.5 I, but ‖I − A‖ is about 9
STRONG = 3.0


def monotone(solver: str) -> nn.Module:
    program = BY_NAME["forward_backward"]
    text = re.sub(r"@solver .*", f"@solver {solver}", program.text)
    module: nn.Module = generated(text).M(dtype=torch.float64)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.normal_(std=STRONG if name == "S" else 0.8)
    return module


@pytest.mark.parametrize("solver", ["forward_backward", "peaceman_rachford", "newton", "auto"])
def test_mon_splitting_chooses_a_step_for_the_weights_that_it_gets(solver: str) -> None:
    module, u = monotone(f"{solver}(tol = 1e-11)"), inputs_of(BY_NAME["forward_backward"])
    weights = dict(module.state_dict())
    A = (
        0.5 * torch.eye(6, dtype=torch.float64)
        - weights["P"].mT @ weights["P"]
        + weights["S"]
        - weights["S"].mT
    )
    d = F.linear(u, weights["B"]) + weights["b"]
    x = torch.zeros(3, 6, dtype=torch.float64)
    for _ in range(40_000):  # short enough by hand
        x = 0.995 * x + 0.005 * torch.relu(x @ A.mT + d)
    assert float(torch.linalg.matrix_norm(torch.eye(6).double() - A, 2)) > 5

    y = module(u)

    assert distance(F.linear(x, weights["y_dense.weight"], weights["y_dense.bias"]), y) <= 1e-7


def test_mon_a_step_that_is_too_long_raises_where_it_is_demanded() -> None:
    """There: |z| = 2.2e12 after 50 iterations of the default α = 1, and no warning."""
    module = monotone("forward_backward(α = 1, maxiter = 50)")
    with pytest.raises(ConvergenceError, match="`x`"):
        module(inputs_of(BY_NAME["forward_backward"]))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_mon_what_is_not_finite_never_looks_converged(solver: str, value: float) -> None:
    module, u = made(square(phi="relu", solver=solver)), inputs(3)
    u[1, 2] = value

    with pytest.raises(ConvergenceError, match=r"not finite.*in 1 of 3 samples"):
        module(u)


def test_mon_a_convolutional_equilibrium_trains() -> None:
    program = BY_NAME["conv"]
    module = generated(program.text.replace("tol = 1e-13", "tol = 1e-5")).M()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    runtime.project_after(optimizer, module)
    u, target = inputs_of(program, 16).float(), torch.arange(16) % 3
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = F.cross_entropy(module(u), target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))

    assert losses[-1] < 0.7 * losses[0]


def test_mon_the_margin_holds_by_construction_whatever_is_trained() -> None:
    module = generated(BY_NAME["forward_backward"].text).M(dtype=torch.float64)
    optimizer = torch.optim.SGD(module.parameters(), lr=3.0)
    for _ in range(10):
        optimizer.zero_grad()
        module(inputs_of(BY_NAME["forward_backward"])).square().sum().backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        A = torch.from_numpy(module.system().A["x", "x"].to_numpy())
        I_A = torch.eye(6, dtype=torch.float64) - A
        assert float(torch.linalg.eigvalsh(I_A + I_A.mT).min()) / 2 >= 0.5 - 1e-9
    assert module.certify().proved


def test_mon_splitting_of_a_convolution_needs_no_fourier_transform() -> None:
    program = BY_NAME["conv"]
    exact = of_program(program)
    u = inputs_of(program)
    for solver in ("peaceman_rachford", "forward_backward", "newton"):
        module = generated(re.sub(r"@solver .*", f"@solver {solver}(tol = 1e-12)", program.text)).M(
            dtype=torch.float64
        )
        module.load_state_dict(exact.state_dict())
        assert distance(exact(u), module(u)) <= 1e-9


def test_mon_nothing_more_is_imported_than_is_needed(tmp_path: Path) -> None:
    """Nor does an import leave anything behind (al: a folder of logs)."""
    script = f"""
import sys, torch, implicit_dsl
before = set(sys.modules)
module = implicit_dsl.loads({square()!r}).M()
module(torch.randn(2, 4)).sum().backward()
loaded = {{name.partition(".")[0] for name in sys.modules}}
print(sorted(loaded & {{"torchvision", "cvxpy", "mosek", "sklearn", "matplotlib", "sphinx", "pandas"}}))
"""
    assert in_fresh_python(script, tmp_path).strip() == "[]"
    assert list(tmp_path.iterdir()) == []


# -- alicia-tsai/implicit-deep-learning ------------------------------------------------------------


@pytest.mark.parametrize("size", [8.0, 32.0, 1e4])
@pytest.mark.parametrize("n", [50, 1000])
def test_al_projecting_wild_rows_in_float32_neither_fails_nor_leaves_any_outside(n: int, size: float) -> None:
    """There the projection asserts that it has hit the bound to 1e-8, and kills the training."""
    module = generated(square(n, 1, demand="norm(A, Inf) <= 0.95")).M()
    torch.manual_seed(n)
    with torch.no_grad():
        module.A.normal_().mul_(size / module.A.abs().sum(1).mean())

    module.project_()
    module(torch.zeros(1, 1))

    assert float(module.A.detach().double().abs().sum(1).max()) <= 0.95 * (1 + 1e-6)


def test_al_a_checkpoint_between_two_steps_is_within_the_bound() -> None:
    """There weights are only projected in the next forward pass: ‖A‖∞ = 3.86 was saved."""
    module = made(square(demand="norm(A, Inf) <= 0.95"))
    optimizer = torch.optim.SGD(module.parameters(), lr=10.0)
    runtime.project_after(optimizer, module)

    module(inputs(3)).sum().backward()
    optimizer.step()

    saved = module.state_dict()["A"]
    assert 0.5 < float(saved.abs().sum(1).max()) <= 0.95 * (1 + 1e-12)


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e5, 1e9])
@pytest.mark.parametrize("solver", ["auto", "anderson", "newton", "forward_backward"])
def test_al_inputs_of_any_scale_are_solved_to_the_same_relative_error(solver: str, scale: float) -> None:
    """There the tolerance is absolute, and the warnings "can be safely ignored" for inputs of 1e5."""
    module, u = made(square(solver=solver), b=torch.zeros(6), A=rows_of_one_norm(6, 0.9)), inputs(3) * scale
    fine = made(square(solver="newton(tol = 1e-14)"), b=torch.zeros(6), A=rows_of_one_norm(6, 0.9))

    x = module(u)

    assert distance(fine(u), x) <= 1e-8


# -- DeepEquilibriumNetworks.jl --------------------------------------------------------------------


@pytest.mark.parametrize("backward", ["implicit", "unrolled"])
def test_jl_a_penalty_on_the_jacobian_has_its_value_and_its_gradient(backward: str) -> None:
    """There it is zero in unrolled pre-training, or vᵀJv instead of ‖J‖². Here: of dy/du, Frobenius."""
    text = square(3, 2, phi="tanh", solver="picard(tol = 1e-13, maxiter = 500)")
    module = made(text.replace("@solver", f"@backward {backward}\n    @solver"))
    u = inputs(1, 2)
    weights = {name: w.detach().clone().requires_grad_() for name, w in module.named_parameters()}

    def by_matrices() -> Tensor:
        with torch.no_grad():
            x = module(u)[0]
        for _ in range(200):  # x as a function of the weights
            x = torch.tanh(weights["A"] @ x + weights["B"] @ u[0] + weights["b"])
        D = torch.diag(1 - x**2)
        J = torch.linalg.solve(torch.eye(3, dtype=torch.float64) - D @ weights["A"], D @ weights["B"])
        return J.square().sum()

    def penalty() -> Tensor:
        v = u.clone().requires_grad_()
        y = module(v)
        rows = [torch.autograd.grad(y[0, i], v, create_graph=True)[0] for i in range(3)]
        return torch.stack(rows).square().sum()

    expected, found = by_matrices(), penalty()

    assert float(expected.detach()) > 0.01
    assert distance(expected, found) <= 1e-9
    for one, other in zip(
        torch.autograd.grad(expected, list(weights.values())),
        torch.autograd.grad(found, list(module.parameters())),
    ):
        assert distance(one, other) <= 1e-8


@by_path
def test_jl_batches_of_any_size(program: LoopProgram) -> None:
    """jl#105: the first example of its documentation fails for a batch of 100."""
    module = of_program(program)
    u = inputs_of(program, 100)
    y = module(u)
    for batch in (1, 2, 17, 100):
        assert distance(y[:batch], module(u[:batch])) <= 1e-10


def test_jl_defaults_are_those_that_are_documented() -> None:
    page = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    assert re.search(r"^\| `tol` \| .* \| 1e-5, in float64 1e-10 \|$", page, re.MULTILINE)
    assert "`m`, how many steps it remembers, 5;" in page
    assert "| `broyden` | Broyden's method | `m`, 10 |" in page
    assert solvers.Auto().tolerance_for(torch.float32) == 1e-5
    assert solvers.Auto().tolerance_for(torch.float64) == 1e-10
    assert solvers.Anderson().memory == 5
    assert solvers.Broyden().memory == 10
    assert solvers.PeacemanRachford().step == 1
    assert runtime.Phantom() == runtime.Phantom(5, 0.5)
    assert runtime.Neumann() == runtime.Neumann(5)


# -- IGNN ------------------------------------------------------------------------------------------


def test_ignn_training_stops_where_the_loop_stops_converging() -> None:
    """There "Iterations not converging!" is printed, and the training goes on with what was left."""
    module = made(
        square(demand="unchecked", solver="anderson(maxiter = 60)"), A=rows_of_one_norm(6, 0.5).abs()
    )
    optimizer = torch.optim.SGD([module.A], lr=1.0)
    u = inputs(3).abs()

    def train() -> None:
        for _ in range(100):
            optimizer.zero_grad()
            (-module(u).sum()).backward()  # towards larger feedback, beyond where there is an equilibrium
            optimizer.step()

    with warnings.catch_warnings(), pytest.raises(ConvergenceError, match="To mend it"):
        warnings.simplefilter("error")
        train()


# -- beeperman/idl ---------------------------------------------------------------------------------


def test_gu_batch_norm_divides_by_the_root_of_the_sum() -> None:
    """1 / √(σ² + ε), and not 1 / (σ + ε): 4.8 % at σ² = 1e-4."""
    text = "model M\n    input u[3, 4, 4]\n    output y = relu(BatchNorm()*u)\nend\n"
    module = implicit_dsl.loads(text).M(dtype=torch.float64).eval()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.fill_(1e-4)
    u = torch.randn(2, 3, 4, 4, dtype=torch.float64)

    assert distance(torch.relu(u / (1e-4 + 1e-5) ** 0.5), module(u)) <= 1e-12
    assert distance(module(u), module.system().solve(u)) <= 1e-12


def test_gu_lenet_is_exact_in_matrix_form() -> None:
    module = implicit_dsl.load(ROOT / "examples" / "lenet5.impl").LeNet5(dtype=torch.float64)
    u = torch.randn(2, 1, 32, 32, dtype=torch.float64)

    assert distance(module(u), module.system().solve(u)) <= 1e-12


@pytest.mark.parametrize(
    "expression",
    [
        "Dense(5; bias = false)*flatten(u)",
        "flatten(AvgPool(2; pad = 1)*u)",
        "flatten(Conv(4, 3; stride = 2, pad = 1, groups = 2, bias = false)*u)",
        "flatten(Conv(4, (3, 1); stride = (1, 2), dilation = 1)*u)",
        "flatten(MaxPool(2)(u))",
    ],
)
def test_gu_layers_without_bias_with_padding_with_groups(expression: str) -> None:
    module = implicit_dsl.loads(f"model M\n    input u[2, 6, 6]\n    output y = {expression}\nend\n").M(
        dtype=torch.float64
    )
    u = torch.randn(2, 2, 6, 6, dtype=torch.float64)

    assert distance(module(u), module.system().solve(u)) <= 1e-12


def test_gu_a_layer_that_is_not_known_is_an_error() -> None:
    with pytest.raises(ImplicitError, match="Convv"):
        implicit_dsl.loads("model M\n    input u[2, 6, 6]\n    output y = Convv(4, 3)*u\nend\n")


# -- jaxopt, deepinv, optimistix, torchode ---------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("phi", ["tanh", "softplus"])
def test_jaxopt_a_gradient_of_any_size_has_its_adjoint(solver: str, phi: str) -> None:
    """jaxopt#466: the linear solve failed silently, and the gradient was zero."""
    for dtype in (torch.float32, torch.float64):
        module = made(square(phi=phi, demand="norm(A, Inf) <= 0.97", solver=solver), dtype=dtype)
        u = inputs(3).to(dtype)
        x = module(u)
        g = torch.rand_like(x) + 0.5
        (expected,) = torch.autograd.grad(x, module.b, g, retain_graph=True)
        accuracy = 1e-3 if dtype is torch.float32 else 1e-7
        for exponent in (-120, -100, -80, -70, -60, -30, 30, 60, 90):
            size = 2.0 ** (exponent if dtype is torch.float32 else 8 * exponent)
            (found,) = torch.autograd.grad(x, module.b, g * size, retain_graph=True)
            assert distance(expected, found / size) <= accuracy
        (zero,) = torch.autograd.grad(x, module.b, 0 * g)
        assert not bool(zero.any())


@by_path
def test_deepinv_weights_that_are_made_of_others_get_their_gradients(program: LoopProgram) -> None:
    """deepinv#1145: wrong gradients for parameters that are no leaves, as those of a hypernetwork."""
    module, u = of_program(program), inputs_of(program)
    expected = gradients(module(u), *module.parameters())
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    leaves = {name: (w.detach() / 2).requires_grad_() for name, w in module.named_parameters()}

    y = torch.func.functional_call(module, {name: scale * leaf for name, leaf in leaves.items()}, (u,))
    *found, to_scale = gradients(y, *leaves.values(), scale)

    for one, other in zip(expected, found):
        assert distance(2 * one, other) <= 1e-9
    total = sum((one * leaf).sum() for one, leaf in zip(expected, leaves.values()))
    assert distance(total, to_scale) <= 1e-9


@pytest.mark.parametrize("phi", ["relu", "softplus"])
def test_deepinv_acceleration_that_is_asked_for_accelerates(phi: str) -> None:
    """deepinv#1023: Anderson acceleration was silently switched off, which no test saw."""
    steps = {}
    for solver in ("picard", "anderson", "broyden"):
        text = square(40, phi=phi, demand="norm(A, Inf) <= 0.99", solver=solver)
        module = made(text, A=0.99 * torch.full((40, 40), 1 / 40))
        module(inputs(3))
        steps[solver] = module.stats["x"].steps
        assert module.stats["x"].solver == solver
    assert 4 * steps["anderson"] < steps["picard"]
    assert 4 * steps["broyden"] < steps["picard"]


def test_optimistix_a_first_guess_has_no_gradient_and_the_rest_has() -> None:
    """optimistix#54: implicit gradients that are zero where none was expected."""
    module, u = made(square(solver="auto(tol = 1e-12)")), inputs(3)
    guess = torch.rand(3, 6, dtype=torch.float64, requires_grad=True)
    expected = gradients(module(u), *module.parameters())

    y = module(u, x0={"x": guess})

    assert torch.autograd.grad(y.sum(), guess, allow_unused=True, retain_graph=True) in ((None,),)
    for one, other in zip(expected, gradients(y, *module.parameters())):
        assert distance(one, other) <= 1e-9


@by_path
def test_torchode_each_sample_has_its_own_steps(program: LoopProgram) -> None:
    module = of_program(program)
    u = torch.cat((1e-3 * inputs_of(program, 1), inputs_of(program, 1), 1e3 * inputs_of(program, 1)))

    module(u)

    together = {name: stats.steps_of_samples.tolist() for name, stats in module.stats.items()}
    for row in range(3):
        module(torch.cat([u[row : row + 1]] * 3))
        for name, stats in module.stats.items():
            assert stats.steps_of_samples.tolist() == [together[name][row]] * 3


# -- PyTorch ---------------------------------------------------------------------------------------


def test_pt_a_standalone_file_needs_torch_alone(tmp_path: Path) -> None:
    """pytorch#100626: models of implicit layers that can be handed on without the code that made them."""
    text = implicit_dsl.compile(BY_NAME["relu"].text, standalone=True)
    (tmp_path / "net.py").write_text(text, encoding="utf-8")
    module, u = of_program(BY_NAME["relu"]), inputs_of(BY_NAME["relu"])
    torch.save((module.state_dict(), u, module(u).detach()), tmp_path / "known.pt")
    script = """
import sys
sys.modules["implicit_dsl"] = None  # an import of it raises
import torch, net
state, u, y = torch.load("known.pt")
module = net.M(dtype=torch.float64)
module.load_state_dict(state)
u.requires_grad_()
found = module(u)
found.sum().backward()
print(float((found.detach() - y).abs().max()), bool(u.grad.isfinite().all()))
"""
    error, finite = in_fresh_python(f"import sys; sys.path.insert(0, '.')\n{script}", tmp_path).split()
    assert float(error) <= 1e-10
    assert finite == "True"


TRANSFORMS = {
    "grad": torch.func.grad,
    "vjp": lambda f: lambda v: torch.func.vjp(f, v)[1](torch.ones((), dtype=v.dtype))[0],
    "jacrev": torch.func.jacrev,
    "jacfwd": torch.func.jacfwd,
    "jvp": lambda f: lambda v: torch.func.jvp(f, (v,), (torch.ones_like(v),))[1],
    "vmap of grad": lambda f: torch.func.vmap(torch.func.grad(lambda row: f(row[None]))),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # jacfwd of PyTorch
@by_path
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_pt_a_compiled_derivative_raises_where_pytorch_would_drop_it(
    program: LoopProgram, transform: str
) -> None:
    """pytorch#193279: torch.compile(torch.func.grad(f)) would differentiate the inside of the operation."""
    module, u = of_program(program), inputs_of(program)
    with compiled_afresh():
        compiled = torch.compile(
            TRANSFORMS[transform](lambda v: module(v).square().sum()), fullgraph=True, backend="aot_eager"
        )
        with pytest.raises(Exception, match=r"an equilibrium cannot be captured inside of torch\.func\.grad"):
            compiled(u)


@by_path
def test_pt_the_derivative_of_a_compiled_function_raises_or_is_right(program: LoopProgram) -> None:
    """The other order, torch.func.grad(torch.compile(f)), is refused by PyTorch itself; autograd does it."""
    module, u = of_program(program), inputs_of(program).requires_grad_()
    (expected,) = torch.autograd.grad(module(u).square().sum(), u)
    with compiled_afresh():
        compiled = torch.compile(lambda v: module(v).square().sum(), fullgraph=True, backend="aot_eager")
        with pytest.raises(Exception, match="functorch"):
            torch.func.grad(compiled)(u.detach())
        (found,) = torch.autograd.grad(compiled(u), u)
    assert distance(expected, found) <= 1e-9


@by_path
def test_pt_without_fullgraph_both_orders_are_right(program: LoopProgram) -> None:
    """PyTorch then runs the equilibrium outside of its graph."""
    module, u = of_program(program), inputs_of(program)

    def f(v: Tensor) -> Tensor:
        return module(v).square().sum()

    expected = torch.func.grad(f)(u)
    with compiled_afresh(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Dynamo, about what it does not trace
        assert distance(expected, torch.compile(torch.func.grad(f), backend="aot_eager")(u)) <= 1e-9
    with compiled_afresh(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert distance(expected, torch.func.grad(torch.compile(f, backend="aot_eager"))(u)) <= 1e-9


@by_path
def test_pt_a_compiled_gradient_is_not_differentiated_again_without_a_word(program: LoopProgram) -> None:
    """pytorch#91469: compiled backward passes have no derivative."""
    module, u = of_program(program), inputs_of(program).requires_grad_()
    with compiled_afresh():
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        with pytest.raises(RuntimeError, match=r"double backward|derivative"):
            (first,) = torch.autograd.grad(compiled(u).square().sum(), u, create_graph=True)
            first.square().sum().backward()


def test_pt_a_graph_is_as_small_for_many_steps_as_for_few() -> None:
    """pytorch#111441: long unrolled loops take half a minute to compile."""
    sizes = set()
    for bound in (0.5, 0.99, 0.999):
        module = made(
            square(solver=f"auto(tol = 1e-12, maxiter = {int(1e6 * bound)})").replace("0.9", str(bound))
        )
        graphs: list[torch.fx.GraphModule] = []

        def count(graph: torch.fx.GraphModule, _: object) -> object:
            graphs.append(graph)  # noqa: B023
            return graph.forward

        with compiled_afresh():
            torch.compile(module, fullgraph=True, backend=count)(inputs(2))
        sizes.add(sum(len(graph.graph.nodes) for graph in graphs))
    assert len(sizes) == 1
    assert max(sizes) < 60
