"""The kernels: how they are built and found, and that they compute what PyTorch computes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from implicit_dsl.runtime import native
from implicit_dsl.runtime.constraints.balls import onto_balls
from implicit_dsl.runtime.dense import DenseEquilibrium
from implicit_dsl.runtime.native import build
from implicit_dsl.runtime.native.library import SWITCH

ROOT = Path(__file__).parents[1]
needs_kernels = pytest.mark.skipif(native.kernels(torch.float32) is None, reason=native.status())
DTYPES = [torch.float32, torch.float64]


def python(code: str, **environment: str) -> subprocess.Popen[str]:
    """A process that runs `code` with its own cache."""
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
        env={**os.environ, **environment},
    )  # fmt: skip


def numbers(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# ------------------------------------------------------------------------------- building


def test_without_a_compiler_pytorch_does_it(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built = build.build("float")
    assert built.path is None and "no C++ compiler" in built.reason
    code = (
        "import torch; from implicit_dsl.runtime import DenseEquilibrium, native\n"
        "print(DenseEquilibrium('relu', 'x')(torch.eye(3) / 2, torch.ones(1, 3)), native.status())"
    )
    said = python(code, CXX="no-such-compiler", XDG_CACHE_HOME=str(tmp_path)).communicate()[0]
    assert "[2.0000, 2.0000, 2.0000]" in said and "no C++ compiler" in said


def test_a_compiler_that_fails_is_told_and_survived(monkeypatch, tmp_path) -> None:
    broken = tmp_path / "broken-c++"
    broken.write_text("#!/bin/sh\necho 'this compiler is ill' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built = build.build("float")
    assert built.path is None and "this compiler is ill" in built.reason
    assert not list((tmp_path / "implicitc" / "native").iterdir())


def test_a_cache_that_others_can_write_is_not_trusted(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.cache_folder().chmod(0o777)
    assert "others can write" in build.build("float").reason


def test_a_switch_turns_kernels_off(monkeypatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    assert native.kernels(torch.float32) is None
    assert native.status() == "off: IMPLICITC_NATIVE=0"
    assert native.project_rows(torch.ones(2, 2), torch.ones(2)) is None


def test_nothing_is_built_by_importing(tmp_path) -> None:
    code = "import implicit_dsl.runtime"
    assert python(code, XDG_CACHE_HOME=str(tmp_path)).communicate()[0] == ""
    assert not list(tmp_path.rglob("*.so"))


@needs_kernels
def test_processes_that_build_at_once_all_get_a_library(tmp_path) -> None:
    code = (
        "import torch; from implicit_dsl.runtime.native import build, kernels\n"
        "print(kernels(torch.float32) is not None, build.build('float').reason)"
    )
    running = [python(code, XDG_CACHE_HOME=str(tmp_path)) for _ in range(2)]
    for process in running:
        said = process.communicate()[0]
        assert said.startswith("True") and "from the cache" in said
    assert [path.suffix for path in (tmp_path / "implicitc" / "native").iterdir()] == [".so"]


def test_the_cache_knows_what_a_library_depends_on(monkeypatch) -> None:
    compiler = build.find_compiler()
    if compiler is None:
        pytest.skip("no compiler")
    keys = {build.key("float", compiler), build.key("double", compiler)}
    monkeypatch.setattr(build, "instructions", lambda: ("another machine",))
    keys.add(build.key("float", compiler))
    monkeypatch.setattr(build, "OPTIONS", (*build.OPTIONS, "-O3"))
    keys.add(build.key("float", compiler))
    assert len(keys) == 4


def test_every_source_is_shipped_and_known() -> None:
    folder = Path(build.__file__).parent
    assert set(build.SOURCES) == {path.name for path in folder.iterdir() if path.suffix in (".cpp", ".hpp")}


# ------------------------------------------------------------------------------- activations


@needs_kernels
@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_activations_are_exact_to_a_few_units_of_rounding(activation: str) -> None:
    z = torch.cat([torch.linspace(-100, 100, 20001), numbers(20000).float(), 1e-3 * numbers(999).float()])
    z = torch.cat([z, torch.tensor([0.0, -0.0, 1e-30, -1e-30, 88.0, -88.0, 1e30, -1e30])])[:, None]
    found = DenseEquilibrium(activation, "x")(torch.zeros(1, 1), z)  # A = 0: x = φ(c)
    expected = getattr(torch, activation)(z.double())
    error = (found.double() - expected).abs() / expected.abs().clamp(min=torch.finfo(torch.float32).tiny)
    assert float(error[expected.abs() > 1e-37].max()) <= 4 * torch.finfo(torch.float32).eps
    assert bool((found[expected.abs() <= 1e-37].abs() <= 1e-37).all())


# ------------------------------------------------------------------------------- Anderson


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "memory", "n"), [(1, 1, 1), (3, 5, 7), (8, 5, 5000), (2, 9, 33), (0, 5, 4)]
)
def test_differences_and_their_products(dtype: torch.dtype, batch: int, memory: int, n: int) -> None:
    r, r0, t, t0 = (numbers(batch, n, dtype=dtype, seed=seed) for seed in range(4))
    for used in range(1, memory + 1):
        slot = used // 2
        dr, dt = (numbers(batch, memory, n, dtype=dtype, seed=seed) for seed in (5, 6))
        expected_dr, expected_dt = dr.clone(), dt.clone()
        expected_dr[:, slot], expected_dt[:, slot] = r - r0, t - t0
        found = native.anderson_differences(r, r0, t, t0, dr, dt, slot, used)
        assert torch.equal(dr, expected_dr) and torch.equal(dt, expected_dt)
        newest = expected_dr[:, slot].double()
        row = (expected_dr[:, :used].double() * newest[:, None]).sum(2)
        more = torch.stack([(newest * r.double()).sum(1), r.double().square().sum(1)], 1)
        expected = torch.cat([row, more], 1)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * n**0.5)


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "n"), [(1, 1), (3, 15), (2, 16), (5, 3001), (64, 70_000)])
@pytest.mark.parametrize("dual", [False, True])
def test_residuals_and_their_sizes(dtype: torch.dtype, batch: int, n: int, dual: bool) -> None:
    image, x = torch.randn(2, batch, n, dtype=dtype)
    x[-1, -1] = float("nan")
    found = native.residuals(image, x, dual)
    assert found is not None
    residual, sizes = found
    torch.testing.assert_close(residual, image - x, rtol=0, atol=0, equal_nan=True)
    for size, rows in zip(sizes, (image - x, x)):
        magnitudes = rows.double().abs()
        expected = magnitudes.sum(1) if dual else magnitudes.amax(1)
        torch.testing.assert_close(size, expected, rtol=1e-6, atol=0, equal_nan=True)


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
def test_combinations_skip_what_counts_nothing(dtype: torch.dtype) -> None:
    t, dt, gamma = (numbers(*shape, dtype=dtype) for shape in ((3, 4099), (3, 5, 4099), (3, 4)))
    expected = t - torch.einsum("bi,bin->bn", gamma, dt[:, :4])
    torch.testing.assert_close(native.anderson_combine(t, dt, gamma), expected)
    gamma[1, 2], expected[1] = (
        0,
        t[1] - torch.einsum("i,in->n", gamma[1].clone().index_fill_(0, torch.tensor(2), 0), dt[1, :4]),
    )
    dt[1, 2] = float("nan")
    torch.testing.assert_close(native.anderson_combine(t, dt, gamma), expected)


@needs_kernels
def test_histories_that_do_not_fit_are_refused() -> None:
    state, history = torch.zeros(2, 3), torch.zeros(2, 5, 3)
    for bad in (
        (state[:1], history, history, 0, 1),
        (state, history, history, 2, 2),
        (state, history, history, 0, 6),
    ):
        with pytest.raises(ValueError, match=r"histories|slot"):
            native.anderson_differences(bad[0], state, state, state, *bad[1:])
    with pytest.raises(ValueError, match="do not fit"):
        native.anderson_combine(state, history, torch.zeros(2, 6))
    assert native.anderson_combine(state, history.transpose(1, 2).contiguous().transpose(1, 2), state) is None
    assert native.anderson_combine(state.double(), history, state) is None


# ------------------------------------------------------------------------------- projection


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (40, 64), (5, 1000), (0, 4), (400, 401)])
@pytest.mark.parametrize("scale", [0.01, 0.2, 5.0, 1e4])
def test_projection_is_that_of_sorting(dtype: torch.dtype, shape: tuple[int, int], scale: float) -> None:
    rows, n = shape
    a = scale * numbers(rows, n)
    a[a.abs() < 0.3 * scale] = 0  # ties and zeros
    a[:, : n // 3] = a[:, : n // 3].sign() * scale
    radius = 0.5 + numbers(rows, seed=1).abs()
    for weights in (None, 0.5 + numbers(n, seed=2).abs(), 0.5 + numbers(rows, n, seed=3).abs()):
        held = None if weights is None else weights.to(dtype)
        found = native.project_rows(a.to(dtype), radius.to(dtype), held)
        used = torch.ones(n, dtype=torch.float64) if held is None else held.double()
        expected = onto_balls(a.to(dtype).double(), radius.to(dtype).double(), used)
        tolerance = (
            1e-6 if dtype == torch.float32 else 1e-12 * max(1.0, scale)
        )  # in float32 whatever the scale
        assert found is not None
        assert float((found.double() - expected).abs().max()) <= tolerance if found.numel() else True
        assert bool((found * a.to(dtype) >= 0).all())


@needs_kernels
def test_projection_leaves_what_is_inside_or_not_finite() -> None:
    a = torch.tensor([[0.1, -0.2], [3.0, float("nan")], [float("inf"), 1.0]])
    found = native.project_rows(a, torch.ones(3))
    torch.testing.assert_close(found[:2], a[:2], equal_nan=True)
    with pytest.raises(ValueError, match="radii"):
        native.project_rows(a, torch.ones(2))


@needs_kernels
def test_projection_takes_strided_rows_and_leaves_transforms_alone() -> None:
    a, radius = 3 * numbers(20, 10).float(), torch.ones(10)
    torch.testing.assert_close(
        native.project_rows(a.T, radius), native.project_rows(a.T.contiguous(), radius)
    )
    assert native.project_rows(a.half(), radius) is None
    seen = []
    torch.func.vmap(lambda row: seen.append(native.project_rows(row[None], radius[:1])) or row)(a)
    assert seen == [None]
