"""Projections of rows onto weighted ℓ1 balls, by the kernel and in PyTorch, against sorting in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from implicit_dsl.runtime import Block, RowBound, native
from implicit_dsl.runtime.constraints.balls import onto_balls, row_sums
from implicit_dsl.runtime.constraints.budgets import Group, Part
from implicit_dsl.runtime.native.library import SWITCH

PATHS = ["0", "1"]
FALLBACKS = {"transposed", "view"}  # rows that are not contiguous are copied
ROUNDING = {torch.float32: 2.0**-22, torch.float64: 2.0**-50}


def by_sorting(a: np.ndarray, radius: float, w: np.ndarray) -> np.ndarray:
    """One row, by the breakpoints |a| ∕ w in falling order."""
    if not np.isfinite(a).all() or (np.abs(a) * w).sum() <= radius:
        return a
    order = np.argsort(-np.abs(a) / w)
    totals, squares = np.cumsum((np.abs(a) * w)[order]), np.cumsum((w * w)[order])
    thresholds = (totals - radius) / squares
    theta = thresholds[np.flatnonzero((np.abs(a) / w)[order] > thresholds)[-1]]
    return np.sign(a) * np.maximum(np.abs(a) - theta * w, 0)


sizes = st.one_of(
    st.just(0.0),
    st.sampled_from([1.0, 1.0, 2.0, 0.5]),  # ties
    st.floats(1e-3, 10),
    st.floats(1e-12, 1e-9),
    st.floats(1e5, 1e8),
)


@st.composite
def balls(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Rows, radii, and weights: none, for each entry, or for each entry of each row."""
    rows, n = draw(st.integers(0, 4)), draw(st.integers(1, 40))
    numbers = draw(st.lists(st.tuples(sizes, st.booleans()), min_size=rows * n, max_size=rows * n))
    a = np.array([size if up else -size for size, up in numbers]).reshape(rows, n)
    radius = np.array(draw(st.lists(st.floats(1e-3, 1e3), min_size=rows, max_size=rows)))
    shape = draw(st.sampled_from([None, (n,), (rows, n)]))
    if shape is None:
        return a, radius, None
    count = int(np.prod(shape))
    weights = draw(
        st.lists(st.sampled_from([0.01, 0.5, 1.0, 1.0, 3.0, 100.0]), min_size=count, max_size=count)
    )
    return a, radius, np.array(weights).reshape(shape)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(deadline=None, max_examples=120)
@given(ball=balls())
def test_rows_are_those_of_sorting_and_within_the_ball(
    path: str, dtype: torch.dtype, ball: tuple[np.ndarray, np.ndarray, np.ndarray | None]
) -> None:
    a, radius, weights = ball
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, path)
        held = None if weights is None else torch.tensor(weights).to(dtype)
        given_rows = torch.tensor(a).to(dtype)
        found = onto_balls(given_rows, torch.tensor(radius), held)
        sums = row_sums(found, held)
    assert found.dtype == dtype and found.shape == given_rows.shape
    wide = np.ones_like(a) if held is None else np.broadcast_to(held.double().numpy(), a.shape)
    exact = given_rows.double().numpy()
    for i, row in enumerate(exact):
        expected = by_sorting(row, radius[i], wide[i])
        # a threshold is known to a rounding of the largest entry, and no better: in float64, as everywhere
        slack = ROUNDING[dtype] * max(1.0, radius[i] / wide[i].min()) + 2.0**-46 * np.abs(row).max()
        np.testing.assert_allclose(found[i].double().numpy(), expected, rtol=ROUNDING[dtype], atol=slack)
        assert float(sums[i]) <= radius[i] * (1 + ROUNDING[dtype])
        if (np.abs(row) * wide[i]).sum() <= radius[i] * (1 - 1e-12):
            assert bool((found[i] == given_rows[i]).all())


@pytest.mark.parametrize("path", PATHS)
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**20), n=st.integers(1, 200), scale=st.sampled_from([0.01, 1.0, 1e4]))
def test_no_point_of_the_ball_is_nearer(path: str, seed: int, n: int, scale: float) -> None:
    """⟨a − x, z − x⟩ ≤ 0 for all z of the ball: its corners suffice."""
    rng = np.random.default_rng(seed)
    a, w, radius = scale * rng.standard_normal((1, n)), rng.uniform(0.1, 2, n), rng.uniform(0.1, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, path)
        x = onto_balls(torch.tensor(a), torch.tensor([radius], dtype=torch.float64), torch.tensor(w)).numpy()
    gap = a - x
    furthest = (np.abs(gap[0]) * radius / w).max()  # of ⟨a − x, z⟩ over the corners ±r ∕ wⱼ eⱼ
    assert furthest <= float((gap * x).sum()) + 1e-12 * max(1.0, scale**2)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rows_with_nan_or_infinity_stay(
    monkeypatch: pytest.MonkeyPatch, path: str, dtype: torch.dtype
) -> None:
    monkeypatch.setenv(SWITCH, path)
    a = torch.full((4, 50), 3.0, dtype=dtype)
    a[1, 7], a[2, 9] = float("nan"), float("-inf")
    found = onto_balls(a, torch.ones(4))
    torch.testing.assert_close(found[1:3], a[1:3], equal_nan=True)
    torch.testing.assert_close(found[0], torch.full((50,), 0.02, dtype=dtype))
    assert onto_balls(a[:, :0], torch.ones(4)).shape == (4, 0)
    assert onto_balls(a[:0], torch.ones(0)).shape == (0, 50)


@pytest.mark.parametrize("path", PATHS)
def test_huge_ratios_within_a_row(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv(SWITCH, path)
    a = torch.tensor([[1e30, 1.0, -1e-30, 0.0], [2.0, 2.0, -2.0, 1e-38], [1e-38, -1e-38, 0.0, 1e-38]])
    found = onto_balls(a, torch.tensor([1.0, 1.0, 1e-38]))
    third = torch.full((3,), 1 / 3)
    torch.testing.assert_close(found[0], torch.tensor([1.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(found[1], torch.cat((third * torch.tensor([1.0, 1.0, -1.0]), torch.zeros(1))))
    assert float(found[2].double().abs().sum()) <= 1e-38 * (1 + 1e-6)


@pytest.mark.parametrize("path", PATHS)
@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**20),
    n=st.integers(1, 60),
    scale=st.sampled_from([1e-3, 0.1, 3.0, 1e6]),
    bound=st.sampled_from([0.95, 0.1, 1.0, 0.37, 123.4]),
    dtypes=st.sampled_from(
        [(torch.float32,) * 2, (torch.float64,) * 2, (torch.float32, torch.float64), (torch.bfloat16,) * 2]
    ),
    factor=st.sampled_from([1.0, 0.3]),
)
def test_projected_weights_are_within_the_bound_to_the_last_bit(
    path: str, seed: int, n: int, scale: float, bound: float, dtypes: tuple[torch.dtype, ...], factor: float
) -> None:
    module = nn.Module()
    torch.manual_seed(seed)
    given_rows: dict[str, Tensor] = {}
    for name, dtype in zip(("A", "W"), dtypes):
        module.register_parameter(name, nn.Parameter((scale * torch.randn(n, n)).to(dtype)))
        given_rows[name] = getattr(module, name).detach().double().clone()
    constraint = RowBound("bound", 1, bound, (Block("x", "x", "A"), Block("x", "z", "W", 1, factor)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, path)
        constraint.project_(module)
    A, W = module.A.detach().double(), module.W.detach().double()
    # in long doubles, as sums in another order round otherwise
    sums = A.abs().numpy().astype(np.longdouble).sum(1)
    sums += np.longdouble(factor) * W.abs().numpy().astype(np.longdouble).sum(0)
    assert sums.max() <= bound
    for i in range(min(n, 3)):
        row = torch.cat((given_rows["A"][i], given_rows["W"][:, i])).numpy()
        weights = np.r_[np.ones(n), np.full(n, factor)]
        expected = by_sorting(row, bound, weights)
        made = torch.cat((A[i], W[:, i])).numpy()
        eps = max(torch.finfo(dtype).eps for dtype in dtypes)
        np.testing.assert_allclose(
            made, expected, rtol=0, atol=8 * eps * max(bound, 1.0) / factor + 1e-14 * scale
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("form", ["plain", "kernel of a convolution", "vector", "transposed", "view"])
def test_projecting_in_place_is_projecting(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, form: str
) -> None:
    torch.manual_seed(0)
    shape = {"kernel of a convolution": (30, 4, 3, 3), "vector": (40,)}.get(form, (40, 50))
    wild = (3 * torch.randn(shape)).to(dtype)
    wild[0] = 0.0
    if form == "transposed":
        wild = wild.T.contiguous().T
    if form == "view":
        wild = torch.cat((wild, wild), 1)[:, :50]
    found = []
    for path in PATHS:
        monkeypatch.setenv(SWITCH, path)
        module = nn.Module()
        module.A = nn.Parameter(wild.clone(memory_format=torch.preserve_format))
        module.B = nn.Parameter(wild.clone() / 1000)
        product = (module.A * module.A).sum()  # needs A as it is
        place, version = module.A.data_ptr(), module.A._version
        constraint = RowBound("bound", 1, 0.95, (Block("x", "x", "A"), Block("z", "x", "B", 0, 0.5)))
        constraint.project_(module)
        assert module.A.data_ptr() == place and module.A._version > version
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.backward()
        assert float(module.A.detach().double().reshape(shape[0], -1).abs().sum(1).max()) <= 0.95
        found.append((module.A.detach(), module.B.detach()))
        version = module.A._version
        constraint.project_(module)
        assert module.A._version == version or dtype == torch.bfloat16 or path == "0" or form in FALLBACKS
    for left, right in zip(*found):
        torch.testing.assert_close(left, right)


def test_weights_that_all_rows_share_take_no_memory_and_count() -> None:
    a = torch.randn(3, 4)
    shared = Part("A", 0, torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).expand(3, -1))
    full = Part("A", 0, shared.weights.clone())
    same = Part("A", 0, torch.full((1, 1), 2.0, dtype=torch.float64).expand(3, 4))
    radius = torch.full((3,), 0.5, dtype=torch.float64)
    assert (shared.shared.shape, full.shared.shape, same.factor, full.factor) == ((4,), (3, 4), 2.0, None)
    for one, other in ((shared, full), (same, Part("A", 0, same.weights.clone()))):
        left, right = Group((one,), radius), Group((other,), radius)
        torch.testing.assert_close(left.sums({"A": a}), right.sums({"A": a}))
        torch.testing.assert_close(left.nearest({"A": a})["A"], right.nearest({"A": a})["A"])


@pytest.mark.skipif(native.kernels(torch.float32) is None, reason="no kernels here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (5, 1), (7, 333), (400, 401)])
def test_row_sums_of_the_kernel_are_those_in_float64(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    a = torch.randn(*shape, dtype=dtype)
    for weights in (None, torch.rand(shape[1], dtype=dtype), torch.rand(*shape, dtype=dtype)):
        expected = (a.double().abs() * (1.0 if weights is None else weights.double())).sum(1)
        torch.testing.assert_close(native.row_sums(a, weights), expected, rtol=1e-13, atol=0)
    with pytest.raises(ValueError, match="weights"):
        native.row_sums(a, torch.ones(shape[1] + 1, dtype=dtype))
    assert native.row_sums(a, torch.ones(shape[1], dtype=torch.float16)) is None
