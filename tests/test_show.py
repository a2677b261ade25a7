"""`implicitc show` on programs with loops: it says what the generated module does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import implicit_dsl
from implicit_dsl import cli
from implicit_dsl.cli import table
from implicit_dsl.compiler import check, read_source
from implicit_dsl.resolve.annotations.settings import as_written
from implicit_dsl.runtime import DenseEquilibrium, Equilibrium
from implicit_dsl.source import Source

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.impl"))
LOOPS = [path for path in EXAMPLES if "@wellposed" in path.read_text(encoding="utf-8")]
each_loop = pytest.mark.parametrize("path", LOOPS, ids=lambda path: path.stem)


def page(capsys: pytest.CaptureFixture[str], path: Path) -> str:
    assert cli.main(["show", str(path)]) == 0
    return capsys.readouterr().out


def unwrapped(text: str) -> str:
    return " ".join(text.split())


@each_loop
def test_it_draws_the_blocks_of_A(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = page(capsys, path).split("\n\n  A ")[1:]
    with_loops = [model for model in check(read_source(str(path), path.name)).models if model.loops]
    for text, model in zip(pages, with_loops, strict=True):
        states = [block.name for block in reversed(model.states)]
        rows = [line.split() for line in text.split("\n")[1 : len(states) + 1]]

        assert states == [row[0] for row in rows]
        member = {name: loop for loop in model.loops for name in loop.states}
        for row in rows:
            for column, mark in zip(states, row[1:], strict=True):
                inside = row[0] in member and member[row[0]] is member.get(column)
                assert mark == (("◉" if inside else "●") if (row[0], column) in model.A else "·")


@each_loop
def test_it_names_each_loop_its_proof_and_its_solver(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = unwrapped(page(capsys, path))
    for model in check(read_source(str(path), path.name)).models:
        for loop in model.loops:
            assert f"loop {{{', '.join(loop.iterated)}}}" in text
            assert f"well posed {loop.guarantee.value}" in text
        for demand in model.demands.wellposed:
            assert demand.criterion == "unchecked" or f"{demand.text} (line {demand.line})" in text
        for solver in model.demands.solvers:
            assert f"solver {as_written(solver)}" in text


@each_loop
def test_it_says_which_loops_go_to_the_solver_of_one_matrix(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, module = page(capsys, path), implicit_dsl.load(path)
    layers = [layer for name in module.__all__ for layer in getattr(module, name)().children()]
    short = [one for one in layers if isinstance(one, DenseEquilibrium) and one._memory is not None]
    plain = [one for one in layers if isinstance(one, Equilibrium) and one.settings.solver.name == "auto"]

    assert text.count("native kernel") == len(short)
    assert text.count("picard; anderson") == len(plain)


def test_the_order_of_the_solves_is_that_of_the_groups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "two.impl"
    path.write_text("""
model Two(n = 3)
    input u[n]
    param V[n, n], W[n, n]
    state x[n] ~ relu(V*x + u)
    h ~ tanh(Dense(n)*x)
    state z[n] ~ relu(W*z + h)
    output y = z
    @wellposed(x, norm(V, Inf) <= 0.5)
    @wellposed(z, norm(W, Inf) <= 0.9)
    @solver(z, picard(maxiter = 50))
end
""")
    text = page(capsys, path)

    assert "solved in 3 steps: {x}, then h, then {z}" in text
    first, second = text.partition("loop {z}")[::2]
    assert "norm(V, Inf) <= 0.5 (line 9)" in first and "picard(maxiter = 50)" not in first
    assert "norm(W, Inf) <= 0.9 (line 10)" in second and "solver      picard(maxiter = 50)" in second


@each_loop
def test_nothing_of_a_loop_is_cut_on_a_narrow_terminal(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = 80
    wide = page(capsys, path)
    monkeypatch.setattr(table, "_terminal_width", lambda: columns)
    narrow = page(capsys, path)

    def said(text: str) -> str:
        pages = text.split("\n  loop {")[1:]  # behind the tables, which are cut
        return unwrapped("\n".join(page.split("\n\n")[0] for page in pages))

    assert said(wide) == said(narrow) and "well posed" in said(wide)
    listed = narrow[narrow.index("\n\n  ") : narrow.index("\n  loop {")].split("\n")
    assert all(
        table.columns(line) <= columns
        for line in listed
        if "parameters;" not in line and ".impl:" not in line
    )


@pytest.mark.parametrize(
    "written",
    [
        "@solver auto(tol = 0.001)",
        "@solver picard(damping = 0.5, maxiter = 20, per_sample = false)",
        '@solver anderson(m = 3, damping = 0.9, tol = 0.01, warm_start = true, on_failure = "fall_back")',
        "@solver broyden(m = 7)",
        "@solver newton",
        "@solver forward_backward(α = 0.25)",
        "@backward neumann(k = 3)",
        "@backward phantom(steps = 2, τ = 0.8)",
        "@backward jfb",
    ],
)
def test_settings_are_shown_as_a_program_writes_them(written: str) -> None:
    text = (
        "model M(n = 3)\n    input u[n]\n    param W[n, n]\n    state x[n] ~ relu(W*x + u)\n"
        f"    output y = x\n    @wellposed norm(W, Inf) <= 0.5\n    {written}\nend\n"
    )
    demands: Any = check(Source(text)).models[0].demands
    (demand,) = (*demands.solvers, *demands.backwards)

    assert written == f"@{written[1:].split()[0]} {as_written(demand)}"


def test_a_model_without_loops_has_no_such_part(capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, next(path for path in EXAMPLES if path.stem == "mlp"))

    assert "no loops: solved by substitution, depth 2" in text
    assert "well posed" not in text
