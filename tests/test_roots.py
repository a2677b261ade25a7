"""Bounds of Perron roots, against eigenvalues and against roots that are known exactly."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from implicit_dsl.runtime import PerronBounds, perron_bounds
from implicit_dsl.runtime.native.library import SWITCH


def holds(found: PerronBounds, A: np.ndarray, gap: float) -> None:
    """The bounds enclose the root and are close, and the vector proves the upper one exactly."""
    root = float(np.abs(np.linalg.eigvals(np.abs(A))).max())
    slack = 1e-6 * np.abs(A).max()  # of eigenvalues in floating point, where they are defective
    assert found.lower - slack <= root <= found.upper + slack
    assert 0 <= found.lower <= found.upper <= found.lower * (1 + 2.1 * gap) + 1e-289
    if found.vector is None:
        return
    v = [Fraction(float(value)) for value in found.vector]
    assert min(v) > 0
    for row, size in zip(np.abs(A), v):
        assert sum(Fraction(float(a)) * w for a, w in zip(row, v) if a) <= Fraction(found.upper) * size


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    """Dense, sparse, banded, triangular, cyclic and block triangular ones, also badly scaled."""
    n, seed = draw(st.integers(1, 24)), draw(st.integers(0, 2**20))
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n))
    match draw(
        st.sampled_from(["dense", "sparse", "banded", "triangular", "cycle", "blocks", "scaled", "zero"])
    ):
        case "sparse":
            A *= rng.random((n, n)) < 2 / n
        case "banded":
            A = np.triu(np.tril(A, 1), -1)
        case "triangular":
            A = np.triu(A)
        case "cycle":
            A = np.roll(np.diag(rng.uniform(0.1, 10, n)), 1, axis=1)
        case "blocks":
            A[n // 2 :, : n // 2] = 0
        case "scaled":
            units = 10.0 ** rng.uniform(-4, 4, n)
            A = units[:, None] * A / units
        case "zero":
            A = 0 * A
    return A


@settings(deadline=None, max_examples=200)
@given(
    A=matrices(),
    gap=st.sampled_from([1e-2, 1e-4, 1e-8]),
    form=st.sampled_from(["array", "tensor", "csr", "float32"]),
)
def test_bounds_enclose_the_root_and_are_as_close_as_asked(A: np.ndarray, gap: float, form: str) -> None:
    if form == "float32":
        A = A.astype(np.float32).astype(np.float64)
    made = {
        "array": lambda: A,
        "tensor": lambda: torch.tensor(A),
        "csr": lambda: sparse.csr_array(A),
        "float32": lambda: torch.tensor(A).float(),
    }[form]()
    holds(perron_bounds(made, gap=gap), A, gap)


@pytest.mark.parametrize("path", ["0", "1"])
def test_the_kernel_and_numpy_agree(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv(SWITCH, path)
    A = np.random.default_rng(0).standard_normal((65, 65))
    holds(perron_bounds(A, gap=1e-10), A, 1e-10)
    holds(perron_bounds(torch.tensor(A).T, gap=1e-10), A.T, 1e-10)


@pytest.mark.parametrize("n", [2, 50, 3000])
def test_roots_that_are_known(n: int) -> None:
    """A path has 2 cos(π ∕ (n + 1)), a cycle 1, a triangle its largest diagonal entry: slow, or periodic."""
    path = sparse.diags_array([np.ones(n - 1), np.ones(n - 1)], offsets=[-1, 1])
    cycle = sparse.diags_array([np.ones(n - 1), [1.0]], offsets=[-1, n - 1])
    triangle = sparse.diags_array([np.linspace(0.1, 0.7, n), np.ones(n - 1)], offsets=[0, 1])
    for A, root in ((path, 2 * np.cos(np.pi / (n + 1))), (cycle, 1.0), (triangle, 0.7)):
        lower, upper, _ = perron_bounds(A, gap=1e-7)
        assert lower <= root * (1 + 1e-15) and root <= upper * (1 + 1e-15)
        assert upper <= lower * (1 + 2e-7)


def test_states_that_the_vector_hardly_reaches() -> None:
    """A localised eigenvector falls below the smallest numbers: both bounds close in all the same."""
    rng, n = np.random.default_rng(1), 2000
    A = sparse.diags_array([rng.random(n - abs(k)) for k in range(-2, 3)], offsets=range(-2, 3))
    lower, upper, v = perron_bounds(A, gap=1e-8)
    exact = sparse.csr_array(A)
    assert upper <= lower * (1 + 1e-8) and v is not None
    assert float((exact @ v / v).max()) <= upper
    window = exact[:, [int(v.argmax())]].nonzero()[0]
    part = exact[max(0, window[0] - 100) : window[-1] + 100, max(0, window[0] - 100) : window[-1] + 100]
    assert (
        float(np.abs(np.linalg.eigvals(part.toarray())).max()) <= upper
    )  # a principal part has a smaller root


def test_chains_too_long_for_a_vector_have_bounds_still() -> None:
    links = 400
    A = sparse.diags_array([np.ones(links), np.full(links - 1, 1e3)], offsets=[0, 1])
    lower, upper, vector = perron_bounds(A, gap=1e-6)
    assert (lower, upper, vector) == (1.0, 1.0, None)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), "not square"),
        (np.ones(3), "not square"),
        (np.array([[np.nan]]), "not finite"),
        (np.array([[np.inf, 1.0], [0.0, 1.0]]), "not finite"),
        (np.full((2, 2), 1e308), "too large"),
    ],
)
def test_what_has_no_root_is_refused(matrix: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        perron_bounds(matrix)


def test_a_gap_must_be_one_and_nothing_has_the_root_zero() -> None:
    for gap in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="gap"):
            perron_bounds(np.ones((2, 2)), gap=gap)
    lower, upper, vector = perron_bounds(np.zeros((0, 0)))
    assert (lower, upper) == (0.0, 0.0) and vector is not None and len(vector) == 0
