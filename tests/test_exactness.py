"""The backbone: generated module = twin written in PyTorch = sparse solve, and so are the gradients."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from random_programs import MAKERS, RandomProgram, Twin, programs, programs_with
from torch import Tensor, nn

import implicit_dsl

TOLERANCE = 1e-12
QUIET = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def build(text: str, standalone: bool = False) -> types.ModuleType:
    """The generated file as a module that is imported."""
    module = sys.modules["generated"] = types.ModuleType("generated")
    exec(compile(implicit_dsl.compile(text, standalone=standalone), "generated.py", "exec"), module.__dict__)
    return module


def randomise(module: nn.Module) -> None:
    """Random parameters and statistics, also those that start as constants."""
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            elif tensor.is_floating_point():
                tensor.normal_(std=0.7)


def twins(program: RandomProgram) -> tuple[nn.Module, Twin, list[Tensor]]:
    """The generated module and its twin with the same weights, and inputs for both."""
    twin = Twin(program).double().eval()
    randomise(twin)
    module = build(program.text).Random(dtype=torch.float64).eval()
    have = module.state_dict()
    module.load_state_dict({key: value for key, value in twin.state_dict().items() if key in have})
    return module, twin, program.given(3)


def outputs(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)


def assert_close(
    expected: tuple[Tensor, ...], actual: tuple[Tensor, ...], tolerance: float = TOLERANCE
) -> None:
    assert len(expected) == len(actual)
    for one, other in zip(expected, actual):
        assert one.shape == other.shape
        scale = max(1.0, one.abs().max().item()) if one.numel() else 1.0
        assert (one - other).abs().max().item() <= tolerance * scale if one.numel() else True


@given(programs())
@QUIET
def test_the_module_computes_what_its_twin_does(program: RandomProgram) -> None:
    module, twin, inputs = twins(program)
    assert_close(twin(*inputs), outputs(module(*inputs)))


@given(programs())
@QUIET
def test_the_sparse_system_has_the_same_solution(program: RandomProgram) -> None:
    module, twin, inputs = twins(program)
    assert_close(twin(*inputs), outputs(module.system().solve(*inputs)))


@pytest.mark.parametrize("kind", MAKERS)
def test_each_kind_of_operation_computes_what_its_twin_does(kind: str) -> None:
    @given(programs_with(kind))
    @settings(QUIET, max_examples=6 * MAKERS[kind].often)
    def check(program: RandomProgram) -> None:
        module, twin, inputs = twins(program)
        expected = twin(*inputs)
        assert_close(expected, outputs(module(*inputs)))
        assert_close(expected, outputs(module.system().solve(*inputs)))

    check()


@given(programs())
@settings(QUIET, max_examples=40)
def test_the_gradients_are_those_of_the_twin(program: RandomProgram) -> None:
    module, twin, inputs = twins(program)
    for tensor in inputs:
        tensor.requires_grad_(tensor.is_floating_point())
    results = outputs(module(*inputs))
    weights = [torch.randn_like(result) for result in results]

    def gradients(values: tuple[Tensor, ...], model: nn.Module) -> dict[str, Tensor]:
        loss = sum((value * weight).sum() for value, weight in zip(values, weights))
        for tensor in (*inputs, *model.parameters()):
            tensor.grad = None
        if isinstance(loss, Tensor) and loss.requires_grad:
            loss.backward()
        found = {name: p.grad for name, p in model.named_parameters()}
        found |= {f"input {i}": tensor.grad for i, tensor in enumerate(inputs)}
        return {name: grad.clone() for name, grad in found.items() if grad is not None}

    ours, theirs = gradients(results, module), gradients(twin(*inputs), twin)
    for name, grad in ours.items():
        assert_close((theirs[name] if name in theirs else torch.zeros_like(grad),), (grad,), 1e-10)
    for name, grad in theirs.items():
        assert name in ours or not grad.any(), name


@given(programs())
@settings(QUIET, max_examples=40)
def test_the_adjoint_of_the_tie_map_is_the_gradient(program: RandomProgram) -> None:
    module, _, inputs = twins(program)
    results = outputs(module(*inputs))
    weights = tuple(torch.randn_like(result) for result in results)
    parameters = dict(module.named_parameters())
    loss = sum((value * weight).sum() for value, weight in zip(results, weights))
    if not parameters or not (isinstance(loss, Tensor) and loss.requires_grad):
        return
    expected = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    actual = module.system().parameter_gradients(tuple(inputs), weights)
    for (name, parameter), grad in zip(parameters.items(), expected):
        wanted = torch.zeros_like(parameter) if grad is None else grad
        found = torch.as_tensor(actual[name]) if name in actual else torch.zeros_like(parameter)
        if name in program.made and name in actual:  # the gradient at the matrix that is made of it
            (found,) = torch.autograd.grad(program.made[name](parameter), parameter, found)
        assert_close((wanted,), (found.reshape(wanted.shape),), 1e-10)


@given(programs(steps=4))
@settings(QUIET, max_examples=15)
def test_gradcheck(program: RandomProgram) -> None:
    if any(kind in program.text for kind in ("relu", "MaxPool", "hardtanh")):
        return  # kinks: the twin has the same, and is compared above
    module, _, inputs = twins(program)
    inputs = [tensor[:1].requires_grad_(tensor.is_floating_point()) for tensor in inputs]
    names, parameters = zip(*module.named_parameters()) if list(module.parameters()) else ((), ())

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(names, tensors[len(inputs) :]))
        return outputs(torch.func.functional_call(module, given, tensors[: len(inputs)]))

    if any(result.requires_grad for result in function(*inputs, *parameters)):
        assert torch.autograd.gradcheck(function, (*inputs, *parameters))


@given(programs())
@settings(QUIET, max_examples=25)
def test_a_standalone_file_computes_the_same(program: RandomProgram) -> None:
    module, _, inputs = twins(program)
    alone = build(program.text, standalone=True).Random(dtype=torch.float64).eval()
    alone.load_state_dict(module.state_dict())
    for one, other in zip(outputs(module(*inputs)), outputs(alone(*inputs))):
        assert torch.equal(one, other)


@given(programs())
@settings(QUIET, max_examples=25)
def test_the_structure_of_a_module_is_strictly_triangular(program: RandomProgram) -> None:
    module = build(program.text).Random()
    system = module.system()
    names = [block.name for block in system.states]
    for row, column in system.model.A:
        assert names.index(row) < names.index(column)


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_the_same_program_gives_the_same_bytes(hash_seed: str) -> None:
    import os
    import subprocess

    text = (
        "model M()\n input u[2, 6, 6]\n x ~ relu(Conv(3, 3)*u)\n output y = x |> flatten |> Dense(2)\nend\n"
    )
    script = f"import implicit_dsl; print(implicit_dsl.compile({text!r}))"
    found = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        check=True,
    )
    assert found.stdout == implicit_dsl.compile(text) + "\n"


def test_long_sums_and_lists_are_written_over_several_lines() -> None:
    text = """model M()
    input u[8]
    heads = [u |> Dense(8) |> relu |> Dense(2) for _ in 1:19]
    h ~ tanh(sum(heads))
    g ~ tanh(sum(-h for _ in 1:40) - 0.25*h + 1)
    output y = sum(heads) / length(heads) + h + g, z = cat(heads)
end
"""
    generated = implicit_dsl.compile(text)
    code = generated.split("_STRUCTURES: dict")[0]

    assert max(map(len, code.split("\n"))) <= 110
    module = build(text).M(dtype=torch.float64)
    u = torch.randn(2, 8, dtype=torch.float64)
    assert_close(outputs(module(u)), outputs(module.system().solve(u)))
