"""Gradients of equilibria: exact ones of any order, approximate ones by formulas, and what they keep."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from equations import CASES, CONVOLUTION, RELU, SIGMOID, TANH, TWO, Case, data, largest, matrix
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from implicit_dsl.runtime import (
    JFB,
    Anderson,
    Auto,
    Backward,
    Broyden,
    Equilibrium,
    ForwardBackward,
    Implicit,
    Neumann,
    Newton,
    PeacemanRachford,
    Phantom,
    Picard,
    Solver,
    Unrolled,
)

TOLERANCE = 1e-13
FORWARD_MODE = "ignore:.*torch.jit.script"  # PyTorch's own, in forward mode
GENERAL: tuple[Solver, ...] = (
    Auto(tolerance=TOLERANCE),
    Auto(tolerance=TOLERANCE, per_sample=False),
    Picard(tolerance=TOLERANCE),
    Picard(tolerance=TOLERANCE, damping=0.7),
    Anderson(tolerance=TOLERANCE),
    Broyden(tolerance=TOLERANCE),
    Newton(tolerance=TOLERANCE),
)
SPLITTING: tuple[Solver, ...] = (
    ForwardBackward(tolerance=TOLERANCE),
    PeacemanRachford(tolerance=TOLERANCE),
    Newton(tolerance=TOLERANCE),
)
GENERAL_PAIRS = [(case, solver) for case in CASES for solver in GENERAL]
SPLIT_PAIRS = [(case, solver) for case in (RELU, TANH, SIGMOID) for solver in SPLITTING]
PAIRS = [(*pair, False) for pair in GENERAL_PAIRS] + [(*pair, True) for pair in SPLIT_PAIRS]


def named(value: object) -> str:
    if isinstance(value, Case):
        return value.name
    if isinstance(value, Solver):
        more = "" if value.per_sample else "-together"
        return value.name + more + ("-damped" if getattr(value, "damping", 1) != 1 else "")
    return {True: "split", False: "whole"}.get(value, "") if isinstance(value, bool) else repr(value)


every = pytest.mark.parametrize(("case", "solver", "split"), PAIRS, ids=named)


@pytest.fixture(autouse=True)
def math_kernel() -> Iterator[None]:
    """The only one of PyTorch's attention kernels with second derivatives."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def leaves(case: Case) -> tuple[Tensor, ...]:
    return tuple(tensor.clone().requires_grad_() for tensor in case.given)


def scalar(states: tuple[Tensor, ...]) -> Tensor:
    """A loss in which every entry counts differently."""
    weights = (torch.linspace(-1, 2, state.numel(), dtype=state.dtype) for state in states)
    return sum(((w.reshape(s.shape) * s).sum() + 0.3 * s.square().sum()) for w, s in zip(weights, states))  # type: ignore[return-value]


# -- exact -----------------------------------------------------------------------------------------


@every
def test_values_and_gradients_are_those_of_sweeps(case: Case, solver: Solver, split: bool) -> None:
    given = leaves(case)
    states = case.solved(case.layer(solver, split=split), *given)
    expected = case.swept(*given)

    assert largest(expected, states) <= 1e-11
    assert (
        largest(torch.autograd.grad(scalar(expected), given), torch.autograd.grad(scalar(states), given))
        <= 1e-9
    )


@every
def test_finite_differences_agree_with_first_and_second_derivatives(
    case: Case, solver: Solver, split: bool
) -> None:
    given, layer = leaves(case), case.layer(solver, split=split)
    function = lambda *tensors: case.solved(layer, *tensors)  # noqa: E731

    assert torch.autograd.gradcheck(function, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, given, fast_mode=True)


@pytest.mark.parametrize("case", CASES, ids=named)
def test_every_entry_of_both_derivatives_agrees_with_finite_differences(case: Case) -> None:
    given, layer = leaves(case), case.layer(split=False)
    function = lambda *tensors: case.solved(layer, *tensors)  # noqa: E731

    assert torch.autograd.gradcheck(function, given)
    if case is TANH:
        assert torch.autograd.gradgradcheck(function, given)


@pytest.mark.parametrize("split", [False, True], ids=named)
def test_third_derivatives_are_those_of_sweeps(split: bool) -> None:
    solver = ForwardBackward(tolerance=TOLERANCE) if split else Auto(tolerance=TOLERANCE)
    layer = TANH.layer(solver, split=split)

    def third(function: object) -> tuple[Tensor, ...]:
        assert callable(function)
        given = leaves(TANH)
        total = scalar(function(*given))
        for _ in range(2):
            total = sum(g.square().sum() for g in torch.autograd.grad(total, given, create_graph=True))
        return torch.autograd.grad(total, given)

    expected = third(lambda *tensors: TANH.swept(*tensors))
    assert largest(expected, third(lambda *tensors: TANH.solved(layer, *tensors))) <= 1e-6


def test_only_what_is_asked_for_is_computed() -> None:
    """Neither the gradient of a tensor that needs none, nor one for the start."""
    layer = TANH.layer()
    b, A = TANH.given
    start = TANH.start()[0].requires_grad_()
    (x,) = layer((start,), (b,), (A.clone().requires_grad_(),))
    assert torch.autograd.grad(x.sum(), start, allow_unused=True)[0] is None
    assert not layer((start,), (b,), (A,))[0].grad_fn or True  # nothing to differentiate by but the start
    integers = torch.arange(3)
    (x,) = Equilibrium(lambda x, i: 0.5 * x + i[:, None], "x")((TANH.start()[0],), (integers,))
    assert not x.requires_grad


def test_tied_tensors_collect_the_gradients_of_all_their_places() -> None:
    """One weight in two places of a step, and in two equilibria, one of them fed by the other."""
    A = matrix(4, 0.6, 2).requires_grad_()
    b = data(3, 4, seed=1).requires_grad_()

    def twice(x: Tensor, b: Tensor, A: Tensor, B: Tensor) -> Tensor:
        return torch.tanh(torch.sin(x @ A.T) @ B.T + b)

    def by_sweeps() -> Tensor:
        x = z = torch.zeros_like(b)
        for _ in range(120):
            x = twice(x, b, A, A)
        for _ in range(120):
            z = torch.tanh(z @ A.T + x)
        return scalar((x, z))

    layer, last = Equilibrium(twice, "x", solver=Auto(tolerance=TOLERANCE)), TANH.layer()
    (x,) = layer((torch.zeros_like(b),), (b,), (A, A))
    (z,) = last((torch.zeros_like(b),), (x,), (A,))
    expected = torch.autograd.grad(by_sweeps(), (A, b))
    assert largest(expected, torch.autograd.grad(scalar((x, z)), (A, b))) <= 1e-9


def test_one_layer_may_be_called_many_times_before_its_gradients() -> None:
    """Shared by two branches (siamese), as in PEERS D8; each has its own solution to differentiate at."""
    layer, (b, A) = TANH.layer(), leaves(TANH)
    states = [TANH.solved(layer, factor * b, A)[0] for factor in (1.0, -0.5, 2.0)]
    twins = [TANH.swept(factor * b, A)[0] for factor in (1.0, -0.5, 2.0)]
    expected = torch.autograd.grad((twins[0] * twins[1] * twins[2]).sum(), (b, A))
    assert largest(expected, torch.autograd.grad((states[0] * states[1] * states[2]).sum(), (b, A))) <= 1e-9


def test_gradients_accumulate_and_graphs_may_be_kept() -> None:
    layer, (b, A) = RELU.layer(), leaves(RELU)
    (x,) = RELU.solved(layer, b, A)
    x.sum().backward(retain_graph=True)
    once = A.grad.clone()
    x.sum().backward()
    torch.testing.assert_close(A.grad, 2 * once)
    with pytest.raises(RuntimeError, match="second time"):
        x.sum().backward()


def test_weights_that_changed_before_the_adjoint_are_noticed() -> None:
    layer, (b, A) = TANH.layer(), leaves(TANH)
    (x,) = TANH.solved(layer, b, A)
    with torch.no_grad():
        A.mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        x.sum().backward()


def test_states_that_no_loss_reads_and_zero_gradients() -> None:
    """One of two states unused: its gradient is zero, not missing."""
    given = leaves(TWO)
    x, _ = TWO.solved(TWO.layer(), *given)
    expected = torch.autograd.grad(TWO.swept(*given)[0].sum(), given)
    assert largest(expected, torch.autograd.grad(x.sum(), given)) <= 1e-10
    x, z = TWO.solved(TWO.layer(), *given)
    assert not any(bool(g.any()) for g in torch.autograd.grad(0 * x.sum() + 0 * z.sum(), given))


# -- approximate -----------------------------------------------------------------------------------


def by_formula(case: Case, given: tuple[Tensor, ...], terms: int, damping: float) -> tuple[Tensor, ...]:
    """(∂f/∂θ)ᵀ τ Σ_{t < K} ((1 − τ)I + τJᵀ)ᵗ g with the matrix J of all states of all samples at once."""
    x = case.swept(*given)
    sizes = [state.numel() for state in x]

    def flat(*states: Tensor) -> Tensor:
        image = case.step(*states, *given)
        parts = (image,) if isinstance(image, Tensor) else image
        return torch.cat([part.reshape(-1) for part in parts])

    blocks = torch.autograd.functional.jacobian(flat, x)
    J = torch.cat([block.reshape(sum(sizes), size) for block, size in zip(blocks, sizes)], 1)
    leaf = tuple(state.detach().requires_grad_() for state in x)
    g = torch.cat([part.reshape(-1) for part in torch.autograd.grad(scalar(leaf), leaf)])
    step = (1 - damping) * torch.eye(len(J), dtype=J.dtype) + damping * J.T
    weights = damping * sum(torch.linalg.matrix_power(step, t) @ g for t in range(terms))
    return torch.autograd.grad(flat(*(state.detach() for state in x)), given, weights)


APPROXIMATE: tuple[tuple[Backward, int, float], ...] = (
    (JFB(), 1, 1.0),
    (Neumann(1), 1, 1.0),
    (Neumann(4), 4, 1.0),
    (Phantom(1, 1.0), 1, 1.0),
    (Phantom(3, 0.6), 3, 0.6),
    (Phantom(5, 0.5), 5, 0.5),
)


@pytest.mark.parametrize(("backward", "terms", "damping"), APPROXIMATE, ids=named)
@pytest.mark.parametrize("case", [RELU, TANH, TWO, CONVOLUTION], ids=named)
@pytest.mark.parametrize("split", [False, True], ids=named)
def test_approximate_gradients_are_their_truncated_series(
    case: Case, backward: Backward, terms: int, damping: float, split: bool
) -> None:
    if split and case.phi is None:
        return
    given = leaves(case)
    expected = by_formula(case, given, terms, damping)
    states = case.solved(case.layer(backward=backward, split=split), *given)
    assert largest(expected, torch.autograd.grad(scalar(states), given)) <= 1e-10
    # and so they are where autograd asks for graphs, and torch.func for gradients
    states = case.solved(case.layer(backward=backward, split=split), *given)
    assert largest(expected, torch.autograd.grad(scalar(states), given, create_graph=True)) <= 1e-10
    layer = case.layer(backward=backward, split=split)
    places = tuple(range(len(given)))
    plain = tuple(tensor.detach() for tensor in given)
    found = torch.func.grad(lambda *tensors: scalar(case.solved(layer, *tensors)), argnums=places)(*plain)
    assert largest(expected, found) <= 1e-10


@pytest.mark.filterwarnings(FORWARD_MODE)
@pytest.mark.parametrize("backward", [Neumann(4), Phantom(3, 0.6)], ids=named)
def test_approximate_tangents_are_their_truncated_series(backward: Backward) -> None:
    """Forward mode gives what reverse mode does: the series of the transposed is that of J."""
    layer = TANH.layer(backward=backward)
    directions = tuple(data(*tensor.shape, seed=20 + n) for n, tensor in enumerate(TANH.given))
    function = lambda *tensors: TANH.solved(layer, *tensors)[0]  # noqa: E731
    _, along = torch.func.jvp(function, TANH.given, directions)
    g = data(*along.shape, seed=30)
    _, pull = torch.func.vjp(function, *TANH.given)
    backwards = sum((one * other).sum() for one, other in zip(pull(g), directions))
    torch.testing.assert_close((along * g).sum(), backwards)


@pytest.mark.filterwarnings(FORWARD_MODE)
@pytest.mark.parametrize("backward", [JFB(), Neumann(3), Phantom(3, 0.5)], ids=named)
@pytest.mark.parametrize("split", [False, True], ids=named)
def test_approximate_gradients_have_no_derivatives(backward: Backward, split: bool) -> None:
    given, layer = leaves(TANH), TANH.layer(backward=backward, split=split)
    first = torch.autograd.grad(scalar(TANH.solved(layer, *given)), given, create_graph=True)
    for number in range(2):
        with pytest.raises(RuntimeError, match=r"`tanh`: its gradient is an approximation.*Implicit\(\)"):
            torch.autograd.grad(first[number].sum(), given, retain_graph=True)
    plain = tuple(tensor.detach() for tensor in given)
    with pytest.raises(RuntimeError, match="approximation"):
        torch.func.hessian(lambda A: scalar(TANH.solved(layer, plain[0], A)))(plain[1])
    with pytest.raises(RuntimeError, match="approximation"):
        torch.func.grad(
            lambda A: torch.func.grad(lambda A: scalar(TANH.solved(layer, plain[0], A)))(A).sum()
        )(plain[1])


def test_many_terms_are_exact() -> None:
    given = leaves(TANH)
    exact = torch.autograd.grad(scalar(TANH.solved(TANH.layer(), *given)), given)
    for backward in (Neumann(100), Phantom(200, 0.5)):
        states = TANH.solved(TANH.layer(backward=backward), *given)
        assert largest(exact, torch.autograd.grad(scalar(states), given)) <= 1e-12


# -- unrolled --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [RELU, TANH, TWO, CONVOLUTION], ids=named)
@pytest.mark.parametrize("damping", [1.0, 0.6])
def test_unrolled_gradients_are_those_of_the_sweeps_that_were_made(case: Case, damping: float) -> None:
    """Few sweeps, so that they differ much from the exact ones; each sample after its own number."""
    given = leaves(case)
    layer = case.layer(Picard(tolerance=1e-2, damping=damping), Unrolled())
    states = case.solved(layer, *given)
    counts = layer.stats.steps_of_samples
    x = case.start()
    for sweep in range(int(counts.max())):
        image = case.step(*x, *given)
        images = (image,) if isinstance(image, Tensor) else image
        moved = [old + damping * (new - old) for old, new in zip(x, images)]
        x = tuple(
            torch.where((counts > sweep).reshape(-1, *[1] * (old.ndim - 1)), new, old)
            for old, new in zip(x, moved)
        )
    assert largest(x, states) <= 1e-14
    expected = torch.autograd.grad(scalar(x), given)
    assert largest(expected, torch.autograd.grad(scalar(states), given)) <= 1e-13
    exact = torch.autograd.grad(scalar(case.swept(*given)), given)
    assert largest(exact, expected) > 1e-6


def test_unrolled_gradients_of_any_order_and_of_the_start() -> None:
    layer = TANH.layer(Picard(tolerance=1e-2), Unrolled())
    given = leaves(TANH)
    assert torch.autograd.gradgradcheck(lambda *tensors: TANH.solved(layer, *tensors), given, fast_mode=True)
    start = TANH.start()[0].requires_grad_()
    (x,) = layer((start,), given[:1], given[1:])
    assert bool(torch.autograd.grad(x.sum(), start)[0].any())


def test_unrolling_needs_sweeps_and_a_number_of_them_where_it_cannot_be_found() -> None:
    with pytest.raises(ValueError, match="which newton does not make"):
        TANH.layer(Newton(), Unrolled())
    layer = TANH.layer(Picard(), Unrolled())
    with pytest.raises(ValueError, match="max_steps"):
        torch.func.grad(lambda A: scalar(TANH.solved(layer, TANH.given[0], A)))(TANH.given[1])
    counted = TANH.layer(Picard(max_steps=120), Unrolled())
    found = torch.func.grad(lambda A: scalar(TANH.solved(counted, TANH.given[0], A)))(TANH.given[1])
    expected = torch.func.grad(lambda A: scalar(TANH.swept(TANH.given[0], A)))(TANH.given[1])
    assert largest((expected,), (found,)) <= 1e-12


# -- memory ----------------------------------------------------------------------------------------


def kept_bytes(layer: Equilibrium, b: Tensor, A: Tensor) -> int:
    """What autograd keeps between forward and backward, each storage once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        (x,) = layer((torch.zeros_like(b),), (b,), (A,))
        x.sum().backward()
    return sum(kept.values())


def slow(steps: int) -> tuple[float, Tensor, Tensor]:
    """x = κ x + b with a tolerance that Picard needs as many steps for."""
    rate = 1 - 2 / steps
    A = rate * torch.eye(256, dtype=torch.float64)
    b = (1 - rate) * torch.ones(8, 256, dtype=torch.float64)
    return (1 - rate) * rate**steps, b.requires_grad_(), A.requires_grad_()


def linear(x: Tensor, b: Tensor, A: Tensor) -> Tensor:
    return x @ A.T + b


@pytest.mark.parametrize("backward", [Implicit(), Neumann(3), JFB(), Phantom(3, 0.5)], ids=named)
def test_what_is_kept_does_not_grow_with_the_steps(backward: Backward) -> None:
    kept = []
    for steps in (10, 1000):
        tolerance, b, A = slow(steps)
        layer = Equilibrium(
            linear, "x", solver=Picard(tolerance=tolerance, max_steps=5000), backward=backward
        )
        kept.append(kept_bytes(layer, b, A))
        assert steps - 3 <= layer.stats.steps <= steps + 3
    assert kept[0] == kept[1]
    assert kept[1] <= 8 * (2 * 8 * 256 + 256 * 256)  # the solution, b and A


def test_what_unrolling_keeps_does() -> None:
    kept = []
    for steps in (10, 100):
        tolerance, b, A = slow(steps)
        layer = Equilibrium(linear, "x", solver=Picard(tolerance=tolerance), backward=Unrolled())
        kept.append(kept_bytes(layer, b, A))
    assert kept[1] - kept[0] >= 80 * 8 * 8 * 256


class Peak(TorchDispatchMode):
    """The most bytes of tensors that were alive at once, looked at after every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.alive = {key: pair for key, pair in self.alive.items() if not pair[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return made


@pytest.mark.parametrize("solver", [Picard, Anderson, Broyden])
def test_the_peak_of_training_does_not_grow_with_the_steps(solver: type[Solver]) -> None:
    """By another count: everything that is alive at any time, forward and backward."""
    peaks = []
    for steps in (40, 1000):
        tolerance, b, A = slow(steps)
        # slow for accelerated solvers too: an equation that is no plain number times x
        spread = (torch.rand(256, generator=torch.Generator().manual_seed(0)).double() * A.diag()).diag()
        A = A if solver is Picard else spread.detach().requires_grad_()
        layer = Equilibrium(linear, "x", solver=solver(tolerance=tolerance, max_steps=5000))
        with Peak() as peak:
            (x,) = layer((torch.zeros_like(b),), (b,), (A,))
            x.sum().backward()
        peaks.append(peak.most)
        assert layer.stats.steps >= (steps - 3 if solver is Picard else 8)
    assert peaks[0] == peaks[1]
