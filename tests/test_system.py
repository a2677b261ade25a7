"""The system of a module: its reference solution, its gradients, its files and its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sparse
import torch
from handmade import conv, inputs_of, lenet, made, matrix, mixed, model, perturbed, state
from torch import nn

import implicit_dsl
from implicit_dsl.model import Block, ImplicitModel, Term
from implicit_dsl.runtime import System
from implicit_dsl.shapes import Size, sizes

torch.set_num_threads(1)

BOTH = pytest.mark.parametrize("build", [lenet, mixed])
MATRICES = pytest.mark.parametrize("name", ["A", "B", "C", "D"])


def same(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@BOTH
def test_solve_is_the_module(build: Any) -> None:
    system, module = made(build)
    u = inputs_of(system)

    expected = module(*u)

    for actual, wanted in zip(
        *(part if isinstance(part, tuple) else (part,) for part in (system.solve(*u), expected))
    ):
        same(actual, wanted.detach())
    named = {block.name: tensor for block, tensor in zip(system.inputs, u)}
    torch.testing.assert_close(system.solve(**named), system.solve(*u), rtol=0, atol=0)


@pytest.mark.parametrize("method", ["project", "parametrize"])
def test_the_matrices_are_those_that_the_module_uses(method: str) -> None:
    """Not the parameters that they are made of."""
    text = f"""
model M
    input u[3]
    param W[5, 5], B[5, 3]
    state x[5] ~ tanh(W*x + B*u)
    output y = x
    @wellposed norm(W, Inf) <= 0.5, method = "{method}"
    @solver auto(tol = 1e-14)
end
"""
    torch.manual_seed(0)
    module = implicit_dsl.loads(text).M(dtype=torch.float64)
    with torch.no_grad():
        module.W.mul_(100)
    if method == "project":
        module.project_()
    u = torch.randn(4, 3, dtype=torch.float64)

    assert np.abs(module.system().A.to_numpy()).sum(1).max() <= 0.5 * (1 + 1e-9)
    same(module.system().solve(u), module(u).detach())


@BOTH
def test_states_satisfy_the_equation(build: Any) -> None:
    """x = φ(A x + B u + b), read off the matrices for the states that are linear in z."""
    system, _ = made(build)
    u = inputs_of(system)
    states = system.states_of(*u)

    flat = {name: value.flatten(1).numpy().T for name, value in states.items()}
    X = np.concatenate([flat[name] for name in system.partition("states").names])
    U = np.concatenate([part.flatten(1).numpy().T for part in u])
    Z = system.A @ X + system.B @ U + system.b[:, None]
    for block in system.states:
        z = torch.from_numpy(Z[system.partition("slots")[block.name]].T.copy()).reshape(
            3, *sizes(block.slots)
        )
        phi = {
            "identity": lambda z: z,
            "max_pool": lambda z: torch.nn.functional.max_pool2d(z, 2),
            "gelu": torch.nn.functional.gelu,
        }.get(block.phi) or getattr(torch, block.phi)
        same(states[block.name], phi(z))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_solve_answers_in_the_type_of_the_question(dtype: torch.dtype) -> None:
    described, module = lenet()
    system = System.of(perturbed(module).to(dtype), described.as_data())
    (u,) = inputs_of(system)

    y = system.solve(u.to(dtype))

    assert isinstance(y, torch.Tensor)
    assert y.dtype == dtype
    exact = module.double()(u.to(dtype).double()).to(dtype)
    torch.testing.assert_close(y, exact, rtol=torch.finfo(dtype).eps, atol=1e-7)


def test_an_empty_batch_is_solved() -> None:
    system, _ = made(mixed)
    assert [tuple(y.shape) for y in system.solve(*inputs_of(system, batch=0))] == [(0, 7), (0, 2)]


@BOTH
def test_gradients_of_the_adjoint_equations_are_those_of_autograd(build: Any) -> None:
    system, module = made(build)
    u = inputs_of(system)
    y = module(*u)
    y = y if isinstance(y, tuple) else (y,)
    grad_y = tuple(torch.randn(part.shape, dtype=part.dtype) for part in y)
    torch.autograd.backward(y, grad_y)

    found = system.parameter_gradients(u, grad_y)

    assert set(found) == {name for name, _ in module.named_parameters()}
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        same(found[name], parameter.grad)


def test_offsets_by_block() -> None:
    system, module = made(mixed)
    weights = module.state_dict()

    same(system.offset("b", "h"), weights["o"])
    same(system.offset("b", "g"), np.full(4, -0.25))
    same(system.offset("d", "q"), -2 * weights["q.bias"])
    same(system.offset("b", "c"), weights["c.bias"][:, None, None].expand(4, 6, 6))


def test_later_training_does_not_change_the_system() -> None:
    system, module = made(mixed)
    before = system.C.to_numpy()
    with torch.no_grad():
        module.get_parameter("q.weight").add_(1.0)

    np.testing.assert_array_equal(system.C.to_numpy(), before)


def test_tensors_that_lack_or_do_not_fit() -> None:
    described, _ = lenet()
    with pytest.raises(ValueError, match=r"tensor `c1\.weight`, which the state_dict of Linear lacks"):
        System.of(nn.Linear(2, 2), described.as_data())
    _, module = lenet()
    module.f6 = nn.Linear(120, 83)
    with pytest.raises(ValueError, match=r"`f6.weight` of \w+ has shape \[83, 120\], not \[84, 120\]"):
        System.of(module, described.as_data())


def test_wrong_inputs_are_named() -> None:
    system, _ = made(mixed)
    u, v = inputs_of(system)
    with pytest.raises(ValueError, match=r"`v` has shape \[batch, 4\], but \[3, 5\] was given"):
        system.solve(u, torch.zeros(3, 5))
    with pytest.raises(TypeError, match="input `v` is missing"):
        system.solve(u)
    with pytest.raises(TypeError, match="input `w` does not exist"):
        system.solve(u, v, w=v)
    with pytest.raises(TypeError, match="input `u` is given twice"):
        system.solve(u, u=u)
    with pytest.raises(ValueError, match="real numbers"):
        system.solve(u, v.long())


def test_loops_are_refused() -> None:
    shape = (3,)
    module = nn.Module()
    module.register_parameter("W", nn.Parameter(torch.eye(3)))
    looped = model(
        "Loop",
        (Block("u", shape),),
        (state("x", shape, "tanh"),),
        (Block("y", shape),),
        (Term("x", "x", (matrix(shape, "W", (3, 3)),)), Term("x", "u", ()), Term("y", "x", ())),
        module,
    )
    system = System.of(module, looped.as_data())

    assert system.A.nnz == 9
    with pytest.raises(ValueError, match="`x` reads `x`, which is not computed before it"):
        system.solve(torch.zeros(1, 3))


def free_model() -> tuple[ImplicitModel, nn.Module]:
    shape = (2, Size("u", 1))
    module = nn.Module()
    module.add_module("k", nn.Conv1d(2, 3, 3))
    kernel = conv(shape, "k", 3, 3)
    states = (state("x", kernel.target, "relu"),)
    terms = (Term("x", "u", (kernel,)), Term("y", "x", ()))
    return model("Free", (Block("u", shape),), states, (Block("y", kernel.target),), terms, module), module


def test_free_sizes_are_bound_first() -> None:
    described, module = free_model()
    module = perturbed(module)
    system = System.of(module, described.as_data(), {"u": (2, 9)})
    u = torch.randn(4, 2, 9, dtype=torch.float64)

    same(system.solve(u), torch.relu(module.get_submodule("k")(u)).detach())
    with pytest.raises(ValueError, match="free"):
        System.of(module, described.as_data())


def test_saved_archives_hold_the_matrices(tmp_path: Path) -> None:
    system, _ = made(mixed)

    assert system.save(tmp_path / "m.npz") == (tmp_path / "m.npz",)
    with np.load(tmp_path / "m.npz", allow_pickle=False) as held:
        for name in "ABCD":
            parts = tuple(held[f"{name}.{part}"] for part in ("data", "indices", "indptr"))
            loaded = sparse.csr_array(parts, shape=tuple(held[f"{name}.shape"]))
            same(loaded.toarray(), getattr(system, name).to_numpy())
        assert held["states.names"].tolist() == ["g", "h", "p", "n", "c"]
        assert held["slots.offsets"].tolist() == [0, 4, 9, 153, 297, 441]
        assert held["states.shapes"].tolist()[2] == "[4, 3, 3]"
        assert held["states.activations"].tolist() == ["gelu", "sigmoid", "max_pool", "tanh", "relu"]
        same(held["d"], system.d)
    written = system.save(tmp_path / "m.mtx")
    assert [path.name for path in written] == [f"m.{name}.mtx" for name in "ABCDbd"]
    np.testing.assert_array_equal(scipy.io.mmread(written[0]).toarray(), system.A.to_numpy())
    np.testing.assert_array_equal(scipy.io.mmread(written[4])[:, 0], system.b)
    with pytest.raises(ValueError, match=r"`m.txt` must end in .npz"):
        system.save(tmp_path / "m.txt")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, _ = made(mixed)
    (tmp_path / "m.npz").write_bytes(b"old")

    def fail(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(np, "savez", fail)
    monkeypatch.setattr("implicit_dsl.runtime.archive.np.savez", fail)
    with pytest.raises(OSError, match="full"):
        system.save(tmp_path / "m.npz")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_the_table_of_a_system() -> None:
    lines = str(made(lenet)[0]).splitlines()

    assert lines[:2] == [
        "System LeNet5: x = φ(A x + B u + b), y = C x + D u + d",
        "  A      8084 × 8084           304384 entries     0.4658 %",
    ]
    assert lines[-1] == "  y  y[10]"
