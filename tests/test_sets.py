"""`param W[m, n] in …`: each set against a matrix built by other means, in all that a module does with it."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl.errors import ImplicitError, Severity
from implicit_dsl.runtime.structures import matrix_of
from implicit_dsl.sets import LINEAR, SETS

torch.set_num_threads(1)

PROGRAM = """
model M
    input u[{n}]
    param W[{m}, {n}] in {text}
    state x[{m}] ~ tanh(W*u)
    output y = W' * x
end
"""


@dataclass(frozen=True)
class Member:
    """A set with the matrix that its trained numbers stand for, built by hand."""

    text: str
    shape: tuple[int, int]
    matrix: Callable[..., np.ndarray]
    keys: tuple[str, ...] = ("W",)

    @property
    def source(self) -> str:
        return PROGRAM.format(m=self.shape[0], n=self.shape[1], text=self.text)


def filled(mask: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Numbers put where a mask of zeros and ones has ones, one after another."""

    def build(numbers: np.ndarray) -> np.ndarray:
        made, left = np.zeros(np.shape(mask)), list(numbers)
        for place in np.ndindex(*np.shape(mask)):
            if mask[place[0]][place[1]]:
                made[place] = left.pop(0)
        assert not left
        return made

    return build


def upper(numbers: np.ndarray, n: int, first: int) -> np.ndarray:
    made = np.zeros((n, n))
    made[np.triu_indices(n, first)] = numbers
    return made


def rotation(numbers: np.ndarray, n: int, k: int) -> np.ndarray:
    S = np.zeros((n, n))
    at = 0
    for i in range(n):
        for j in range(min(i, k)):
            S[i, j], S[j, i] = numbers[at], -numbers[at]
            at += 1
    return np.asarray(scipy.linalg.expm(S)[:, :k])


ONES = np.ones
BLOCKS = np.repeat([0, 1, 2], [2, 1, 2])
RING = [[int(j == (i + 1) % 4) for j in range(4)] for i in range(4)]
MEMBERS = {
    "Diagonal": Member("Diagonal()", (4, 4), np.diag),
    "Diagonal wide": Member("Diagonal()", (2, 3), lambda w: np.diag([*w, 0.0])[:2]),
    "Symmetric": Member(
        "Symmetric()",
        (4, 4),
        lambda w: upper(w, 4, 0) + upper(w, 4, 0).T - np.diag(np.diag(upper(w, 4, 0))),
    ),
    "Skew": Member("Skew()", (4, 4), lambda w: upper(w, 4, 1) - upper(w, 4, 1).T),
    "Banded": Member("Banded(-1, 2)", (5, 4), filled(np.triu(np.tril(ONES((5, 4)), 2), -1))),
    "UpperTriangular": Member("UpperTriangular()", (4, 5), filled(np.triu(ONES((4, 5))))),
    "LowerTriangular": Member("LowerTriangular()", (4, 3), filled(np.tril(ONES((4, 3))))),
    "StrictUpper": Member("StrictUpper()", (4, 4), filled(np.triu(ONES((4, 4)), 1))),
    "StrictLower": Member("StrictLower()", (4, 3), filled(np.tril(ONES((4, 3)), -1))),
    "BlockUpper": Member("BlockUpper([2, 1, 2])", (5, 5), filled(BLOCKS[:, None] <= BLOCKS)),
    "BlockLower": Member("BlockLower([2, 1, 2])", (5, 5), filled(BLOCKS[:, None] >= BLOCKS)),
    "BlockStrictUpper": Member("BlockStrictUpper([2, 1, 2])", (5, 5), filled(BLOCKS[:, None] < BLOCKS)),
    "BlockStrictLower": Member("BlockStrictLower([2, 1, 2])", (5, 5), filled(BLOCKS[:, None] > BLOCKS)),
    "BlockDiagonal": Member("BlockDiagonal([2, 1, 2])", (5, 5), filled(BLOCKS[:, None] == BLOCKS)),
    "Toeplitz": Member("Toeplitz()", (3, 4), lambda w: scipy.linalg.toeplitz(w[3:], w[3::-1])),
    "Circulant": Member("Circulant()", (4, 4), scipy.linalg.circulant),
    "Sparse": Member("Sparse([[1, 0, 1], [0, true, 0]])", (2, 3), filled([[1, 0, 1], [0, 1, 0]])),
    "Sparse places": Member("Sparse([i => i % 4 + 1 for i in 1:4])", (4, 4), filled(RING)),
    "Orthogonal": Member("Orthogonal()", (4, 4), lambda w: rotation(w, 4, 4)),
    "Orthogonal tall": Member("Orthogonal()", (5, 2), lambda w: rotation(w, 5, 2)),
    "Orthogonal wide": Member("Orthogonal()", (2, 3), lambda w: rotation(w, 3, 2).T),
    "LowRank": Member("LowRank(2)", (4, 3), lambda L, R: L @ R, ("W_left", "W_right")),
    "Nonneg": Member("Nonneg()", (3, 4), lambda w: np.log1p(np.exp(w))),
}
members = pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS.keys())
linear = pytest.mark.parametrize(
    "member",
    [m for name, m in MEMBERS.items() if name.split()[0] not in ("Orthogonal", "Nonneg")],
    ids=[name for name in MEMBERS if name.split()[0] not in ("Orthogonal", "Nonneg")],
)


def module_of(member: Member, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return implicit_dsl.loads(member.source).M(dtype=torch.float64)


def inputs(member: Member, batch: int = 3) -> Tensor:
    return torch.randn(
        batch, member.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def numbers(member: Member, module: nn.Module) -> list[np.ndarray]:
    return [module.state_dict()[key].numpy() for key in member.keys]


def test_each_set_is_exercised() -> None:
    assert {name.split()[0] for name in MEMBERS} == set(SETS)


@members
def test_forward_is_that_of_the_matrix_built_by_hand(member: Member) -> None:
    module, u = module_of(member), inputs(member)
    W = torch.from_numpy(member.matrix(*numbers(member, module)))

    assert list(module.state_dict()) == list(member.keys)
    assert W.shape == member.shape
    with torch.no_grad():
        torch.testing.assert_close(module(u), torch.tanh(u @ W.T) @ W, rtol=1e-13, atol=1e-13)


@members
def test_the_matrix_form_is_forward(member: Member) -> None:
    module, u = module_of(member), inputs(member)
    W = member.matrix(*numbers(member, module))
    system = module.system()

    with torch.no_grad():
        torch.testing.assert_close(system.solve(u), module(u), rtol=1e-12, atol=1e-12)
    if len(member.keys) == 1:
        np.testing.assert_allclose(system.B["x", "u"].to_numpy(), W, rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(system.C["y", "x"].to_numpy(), W.T, rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose((abs(system.B) @ np.eye(member.shape[1])), abs(W), atol=1e-14)


@linear
def test_ties_lead_to_the_trained_numbers(member: Member) -> None:
    """∂⟨G, y⟩/∂θ through the tie maps is that of autograd, for what the state_dict holds."""
    module, u = module_of(member), inputs(member)
    G = torch.randn(3, member.shape[1], dtype=torch.float64)
    (module(u) * G).sum().backward()

    gradients = module.system().parameter_gradients(u, G)

    assert set(gradients) == set(member.keys)
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        np.testing.assert_allclose(gradients[name], parameter.grad.numpy(), rtol=1e-11, atol=1e-12)


@members
def test_gradients_are_those_of_finite_differences(member: Member) -> None:
    module, u = module_of(member), inputs(member, 2).requires_grad_()
    names = [name for name, _ in module.named_parameters()]

    def run(u: Tensor, *weights: Tensor) -> Tensor:
        made: Tensor = torch.func.functional_call(module, dict(zip(names, weights)), (u,))
        return made

    assert torch.autograd.gradcheck(run, (u, *module.parameters()))


@members
def test_a_saved_state_is_loaded(member: Member) -> None:
    module, other, u = module_of(member, 0), module_of(member, 5), inputs(member)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    assert not torch.equal(module(u), other(u))

    other.load_state_dict(torch.load(file))

    assert torch.equal(module(u), other(u))


@members
def test_a_meta_module_has_no_numbers(member: Member) -> None:
    made = implicit_dsl.loads(member.source).M(device="meta")

    made.to_empty(device="cpu").load_state_dict(module_of(member).float().state_dict())

    torch.testing.assert_close(made(inputs(member).float()), module_of(member)(inputs(member)).float())


SCRIPT = """
import sys, torch
for name in ("implicit_dsl", "scipy", "lark", "networkx"):
    sys.modules[name] = None
for number in range(int(sys.argv[1])):
    state, u, expected = torch.load(f"case{number}.pt")
    module = __import__(f"net{number}").M(dtype=torch.float64)
    module.load_state_dict(state)
    module(u).sum().backward()
    assert torch.equal(module(u), expected), number
"""


def test_standalone_files_need_torch_alone(tmp_path: Path) -> None:
    for number, member in enumerate(MEMBERS.values()):
        text = implicit_dsl.compile(member.source, standalone=True)
        (tmp_path / f"net{number}.py").write_text(text, encoding="utf-8")
        module, u = module_of(member), inputs(member)
        torch.save((module.state_dict(), u, module(u).detach()), tmp_path / f"case{number}.pt")
    (tmp_path / "run.py").write_text(SCRIPT, encoding="utf-8")

    found = subprocess.run(
        [sys.executable, "run.py", str(len(MEMBERS))], cwd=tmp_path, capture_output=True, text=True
    )

    assert not found.returncode, found.stderr


def test_places_that_are_kept_are_plain_tensors() -> None:
    """Whatever the first call is made in: what it leaves behind serves all others."""
    from torch._subclasses import FakeTensorMode

    def first(around: Any, n: int) -> None:
        made = LINEAR["Symmetric"](n, n)
        free = torch.randn(made.count)
        with around:
            matrix_of(made, torch.zeros(made.count))
        free.requires_grad_()
        matrix_of(made, free).sum().backward()
        assert free.grad is not None and free.grad.sum() == n * n

    first(torch.inference_mode(), 31)
    first(FakeTensorMode(), 32)
    first(torch.device("meta"), 33)
    made = LINEAR["Symmetric"](34, 34)
    torch.vmap(lambda free: matrix_of(made, free))(torch.randn(2, made.count))
    torch.func.grad(lambda free: matrix_of(made, free).sum())(torch.randn(made.count))
    assert matrix_of(made, torch.ones(made.count)).sum() == 34 * 34


def test_numbers_that_stand_in_many_places_have_exact_gradients_in_half_precision() -> None:
    made = LINEAR["Toeplitz"](600, 600)
    free = torch.zeros(made.count, dtype=torch.bfloat16, requires_grad=True)
    matrix_of(made, free).sum().backward()
    assert free.grad is not None and free.grad[599] == torch.tensor(600.0).bfloat16()  # in steps of 1: 256


# --------------------------------------------------------------------------- starts


def test_entries_start_as_the_set_says() -> None:
    torch.manual_seed(0)
    source = """
    model M(n = 300)
        input u[n]
        param K[n, n] in Banded(-1, 1), G[n, n] in Symmetric() = glorot(), C[n, n] in Skew() = constant(0.5),
              S[n, n] in Toeplitz() = normal(0.1), L[n, n] in LowRank(4) = normal(0.01)
        param Z[n, n] in LowRank(2) = zeros(), N[n, n] in Nonneg() = uniform(0.3)
        param O[n, n] in Orthogonal(), Q[n, n] in LowRank(3) = orthogonal()
        output y = (K + G + C + S + L + Z + N + O + Q)*u
    end
    """
    module = implicit_dsl.loads(source).M(dtype=torch.float64)
    W = {id: tensor.detach() for id, tensor in module.effective_weights().items()}
    state = module.state_dict()

    assert 0.9 < float(W["K"].abs().max()) * 3**0.5 <= 1.01  # 1 ÷ √(3 entries in a row), but for two ends
    assert 0.99 < float(W["G"].abs().max()) / (6 / 600) ** 0.5 <= 1
    assert set(W["C"].unique().tolist()) == {-0.5, 0.0, 0.5}
    assert abs(float(state["S"].std()) - 0.1) < 0.01
    assert abs(float((state["L_left"] @ state["L_right"]).std()) - 0.01) < 0.002
    assert not (state["Z_left"] @ state["Z_right"]).any() and state["Z_right"].any()
    assert float(W["N"].min()) > 0 and 0.29 < float(W["N"].max()) <= 0.3 + 1e-9
    torch.testing.assert_close(W["O"] @ W["O"].T, torch.eye(300, dtype=torch.float64), atol=1e-11, rtol=0)
    values = torch.linalg.svdvals(state["Q_left"] @ state["Q_right"])
    torch.testing.assert_close(
        values[:4], torch.tensor([1.0, 1, 1, 0], dtype=torch.float64), atol=1e-9, rtol=0
    )


# --------------------------------------------------------------------------- the language


def test_a_set_is_a_value() -> None:
    source = """
    block Mixed(S; n = 3)
        input x[n]
        param W[1:2][n, n] in S
        output y = W[1]*(W[2]*x)
    end
    model M
        input u[3]
        band = Banded(0, 1)
        output y = Mixed(band)(u) + Mixed(Skew())(u)
    end
    """
    module = implicit_dsl.loads(source).M(dtype=torch.float64)
    W = module.effective_weights()
    u = torch.randn(2, 3, dtype=torch.float64)

    assert [tuple(p.shape) for p in module.parameters()] == [(5,), (5,), (3,), (3,)]
    a, b, c, d = W.values()
    torch.testing.assert_close(module(u), u @ (a @ b + c @ d).T)


def test_factors_are_parameters_of_their_own() -> None:
    source = "model M\ninput u[4]\nparam W[3, 4] in LowRank(2)\noutput y = W*u, r = W.right*u\nend"
    module = implicit_dsl.loads(source).M(dtype=torch.float64)
    u = torch.randn(2, 4, dtype=torch.float64)

    y, r = module(u)

    torch.testing.assert_close(r, u @ module.W_right.T)
    torch.testing.assert_close(y, r @ module.W_left.T)


REFUSED = {
    "param W[4, 3] in Symmetric()": ("E0504", "square"),
    "param W[4] in Diagonal()": ("E0504", "1 axis"),
    "param W[4, 4] in Banded(1, 1)": ("E0504", "lower ≤ 0 ≤ upper"),
    "param W[4, 4] in Banded(1)": ("E0104", "upper"),
    "param W[4, 4] in Banded(0.5, 1)": ("E0205", "whole number"),
    "param W[4, 4] in BlockUpper([2, 1])": ("E0504", "3 rows in all"),
    "param W[4, 4] in BlockUpper(4)": ("E0504", "list"),
    "param W[4, 4] in Sparse([[1, 0], [0, 1]])": ("E0504", "2 rows"),
    "param W[2, 4] in Sparse([[1, 0], [0, 1]])": ("E0504", "row 1"),
    "param W[2, 2] in Sparse([[1, 2], [0, 1]])": ("E0504", "0 and 1"),
    "param W[2, 2] in Sparse([[0, 0], [0, 0]])": ("E0504", "zero"),
    "param W[2, 2] in Sparse([1 => 3])": ("E0504", "no place"),
    "param W[2, 2] in Sparse([])": ("E0504", "list of rows"),
    "param W[1, 1] in Skew()": ("E0504", "zero"),
    "param W[1, 1] in Orthogonal()": ("E0504", "rotation"),
    "param W[4, 4] in LowRank(5)": ("E0504", "rank 4"),
    "param W[4, 4] in LowRank(0)": ("E0205", "between"),
    "param W[4, 4] in Symmetric": ("E0504", "brackets"),
    "param W[4, 4] in Symetric()": ("E0101", "Symmetric"),
    "param W[4, 4] in 3": ("E0504", "set of matrices"),
    "param W[4, 4] in relu": ("E0504", "set of matrices"),
    "param W[4, 4] in Symmetric(3)": ("E0104", "at most"),
    "param W[4, 4] in Symmetric() = orthogonal()": ("E0502", "full matrices"),
    "param W[4, 4] in Orthogonal() = glorot()": ("E0502", "glorot"),
    "param W[4, 4] in Nonneg() = zeros()": ("E0502", "zero"),
    "param W[4, 4] in Nonneg() = -1": ("E0502", "zero"),
    "param W[4, 4] in LowRank(2) = ones()": ("E0502", "two factors"),
    "state W[4, 4] in Symmetric() ~ u": ("E0504", "a state"),
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_no_set_is_refused_by_name(line: str) -> None:
    code, words = REFUSED[line]
    with pytest.raises(ImplicitError) as caught:
        implicit_dsl.compile(f"model M\ninput u[4]\n{line}\noutput y = u\nend")
    (found,) = [one for one in caught.value.diagnostics if one.severity is Severity.ERROR]

    assert found.code == code
    assert words in str(found.message) + str(found.text) + str(found.help)


def test_entries_of_a_structured_matrix_are_no_value() -> None:
    for line in ("u + W", "W .* u", "flatten(W)"):
        with pytest.raises(ImplicitError) as caught:
            implicit_dsl.compile(
                f"model M\ninput u[2, 2]\nparam W[2, 2] in Symmetric()\noutput y = {line}\nend"
            )
        assert "E0504" in [one.code for one in caught.value.diagnostics]


def test_nonneg_is_a_set_of_tensors_of_any_shape() -> None:
    lines = "param b[4] in Nonneg() = constant(2), w[4] in Nonneg() = 0.5\noutput y = w .* u + b"
    source = f"model M\ninput u[4]\n{lines}\nend"
    module = implicit_dsl.loads(source).M(dtype=torch.float64)
    u = torch.randn(2, 4, dtype=torch.float64)

    torch.testing.assert_close(module(u), 0.5 * u + 2)
    torch.testing.assert_close(module.system().solve(u), module(u))


def test_variables_of_the_file_give_way_to_no_input() -> None:
    lines = "input weights[3], structures[3]\nparam W[3, 3] in Skew()\noutput y = W*weights + structures"
    source = f"model M\n{lines}\nend"
    module = implicit_dsl.loads(source).M(dtype=torch.float64)
    u, v = torch.randn(2, 2, 3, dtype=torch.float64)

    torch.testing.assert_close(module(u, v), u @ module.effective_weights()["W"].T + v)
