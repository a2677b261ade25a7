"""Loops from source to module: the same values and gradients as hand-written sweeps and as the matrices."""

from __future__ import annotations

import copy
import io
import types
from functools import cache

import pytest
import torch
from loop_programs import PROGRAMS, LoopProgram
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import implicit_dsl

by_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)


@cache
def generated(text: str) -> types.ModuleType:
    return implicit_dsl.loads(text)


def module_of(program: LoopProgram, seed: int = 0) -> nn.Module:
    """The generated module in float64 with random weights, feasible and small where they must be."""
    torch.manual_seed(seed)
    module: nn.Module = generated(program.text).M(dtype=torch.float64)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.normal_(std=program.scale if name in program.small or name in ("P", "S") else 0.8)
    if hasattr(module, "project_"):
        module.project_()
    return module.eval()


def inputs_of(program: LoopProgram, batch: int = 3) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, *program.shape, dtype=torch.float64)


def distance(one: Tensor, other: Tensor) -> float:
    return ((one - other).abs().max() / max(1.0, one.abs().max().item())).item()


@by_program
def test_values_are_those_of_sweeps_and_of_the_matrices(program: LoopProgram) -> None:
    module, u = module_of(program), inputs_of(program)

    y = module(u)

    assert distance(program.twin(dict(module.state_dict()), u), y) <= 1e-10
    assert distance(module.system().solve(u), y) <= 1e-10


@by_program
def test_gradients_are_those_of_unrolled_sweeps_and_of_the_adjoint_equations(program: LoopProgram) -> None:
    module, u = module_of(program), inputs_of(program).requires_grad_()
    weights = {name: w.detach().clone().requires_grad_() for name, w in module.named_parameters()}
    g = torch.randn_like(module(u)).detach()

    found = torch.autograd.grad(module(u), (u, *module.parameters()), g)

    unrolled = program.twin({**module.state_dict(), **weights}, u)
    expected = torch.autograd.grad(unrolled, (u, *weights.values()), g)
    for one, other in zip(expected, found):
        assert distance(one, other) <= 1e-8
    adjoint = module.system().parameter_gradients(u.detach(), g)
    for (name, _), other in zip(module.named_parameters(), found[1:]):
        assert distance(torch.from_numpy(adjoint[name]), other) <= 1e-8


@by_program
def test_finite_differences_agree(program: LoopProgram) -> None:
    module, u = module_of(program), inputs_of(program, 2).requires_grad_()

    assert torch.autograd.gradcheck(module, (u,), eps=1e-6, atol=1e-5)


@by_program
@sdpa_kernel(SDPBackend.MATH)  # the only one of PyTorch's attention kernels with second derivatives
def test_second_derivatives_agree_with_unrolled_ones(program: LoopProgram) -> None:
    module, u = module_of(program), inputs_of(program, 2).requires_grad_()
    weights = dict(module.state_dict())

    def second(function: object) -> Tensor:
        assert callable(function)
        (first,) = torch.autograd.grad(function(u).square().sum(), u, create_graph=True)
        return torch.autograd.grad(first.square().sum(), u)[0]

    assert distance(second(lambda v: program.twin(weights, v)), second(module)) <= 1e-7


@by_program
def test_copies_pickles_and_state_dicts_give_the_same(program: LoopProgram) -> None:
    module, u = module_of(program), inputs_of(program)
    y = module(u)

    twin = generated(program.text).M(dtype=torch.float64)
    twin.load_state_dict(module.state_dict())
    file = io.BytesIO()
    torch.save(module.state_dict(), file)

    assert torch.equal(y, copy.deepcopy(module)(u))
    assert torch.equal(y, twin.eval()(u))
    assert list(torch.load(io.BytesIO(file.getvalue()))) == list(module.state_dict())


@by_program
def test_a_sample_does_not_depend_on_its_batch(program: LoopProgram) -> None:
    module, u = module_of(program), inputs_of(program, 5)

    together = module(u)

    for number in range(5):
        assert distance(together[number : number + 1], module(u[number : number + 1])) <= 1e-11


@by_program
def test_stats_and_first_guesses(program: LoopProgram) -> None:
    module, u = module_of(program), inputs_of(program)
    y = module(u)
    cold = {name: found.steps for name, found in module.stats.items()}
    assert all(steps > 0 for steps in cold.values())

    with pytest.raises(ValueError, match="no_such_state"):
        module(u, x0={"no_such_state": u})

    reached = module.system().states_of(u)
    iterated = [name for loop in module.system().model.loops for name in loop.iterated]
    again = module(u, x0={name: reached[name] for name in iterated})
    assert distance(y, again) <= 1e-10
    assert all(found.steps <= max(3, cold[name] // 2) for name, found in module.stats.items())
