"""`open`: the function is what it was, weights of the base fit, and the new blocks are where they say."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_programs import RandomProgram, programs
from test_exactness import QUIET, assert_close, build, outputs, randomise
from torch import Tensor, nn

from implicit_dsl.cli import main
from implicit_dsl.compiler import check
from implicit_dsl.errors import Diagnostic
from implicit_dsl.runtime import ConvergenceError
from implicit_dsl.source import Source
from implicit_dsl.train import TransferError, opened_of, transfer_

Opened = tuple[str, str, str]  # matrix, to, from

BASE = """
model Base(n = 5)
    input u[4], v[3]
    state h[2, 3] ~ tanh(reshape(Dense(6)*u, 2, 3))
    state g[n] ~ softmax(Dense(n)*flatten(h) + Dense(n)*v)
    state p[n] ~ g .* (Dense(n)*u)
    state m[1, 2] ~ MaxPool((1, 2); pad = (0, 1))(Conv(1, 1)*reshape(p, 1, 1, n))[1, :, 1:2]
    output y[3] = relu(Dense(3)*p + Dense(3)*flatten(m)), z[2] = Dense(2)*g
end
"""


def findings(text: str, pedantic: bool = False) -> tuple[Diagnostic, ...]:
    return check(Source(text), pedantic=pedantic).diagnostics


def pair(text: str, lines: str, asked: str = "") -> tuple[nn.Module, nn.Module, tuple[str, ...]]:
    """The base with random weights, the model that opens zeros of it, with these, and what that lacked."""
    body = "\n".join(f"    {line}" for line in (*lines.split("\n"), *asked.split("\n")) if line)
    whole = f"{text}\nmodel Opened extends Base\n{body}\nend\n"
    made = build(whole)
    base, opened = made.Base(dtype=torch.float64).eval(), made.Opened(dtype=torch.float64).eval()
    missing = loaded(base, opened)
    return base, opened, missing


def loaded(base: nn.Module, opened: nn.Module) -> tuple[str, ...]:
    """Random numbers for the base, also where nothing is trained, and for the other; what that lacked."""
    randomise(base)
    found = opened.load_state_dict(base.state_dict(), strict=False)
    with torch.no_grad():
        for name, buffer in base.named_buffers():
            opened.get_buffer(name).copy_(buffer)
    assert not found.unexpected_keys
    return tuple(found.missing_keys)


def opened_blocks(module: nn.Module) -> dict[str, Opened]:
    """What each opened parameter is for."""
    structure = type(module).forward.__globals__["_STRUCTURES"][type(module).__name__]
    return {id: (matrix, to, source) for id, matrix, to, source in structure["opened"]}


def inputs(batch: int = 3) -> tuple[Tensor, ...]:
    return torch.randn(batch, 4, dtype=torch.float64), torch.randn(batch, 3, dtype=torch.float64)


def block(module: nn.Module, of: Opened) -> Tensor:
    """A block of an assembled matrix, as a dense one."""
    matrix, to, source = of
    return torch.from_numpy(getattr(module.system(), matrix)[to, source].to_numpy())  # type: ignore[operator]


def fill(module: nn.Module, size: float = 0.1) -> None:
    """Random numbers in opened blocks."""
    with torch.no_grad():
        for id in opened_blocks(module):
            module.get_parameter(id).normal_(std=size)


# -- the moment of opening -------------------------------------------------------------------------


REGIONS = ("A[forward]", "A[feedback]", "A[self]", "A", "B", "C", "D", "A[:, h]", "A[[g, m], [p, h]]")


@pytest.mark.parametrize("region", REGIONS)
def test_a_region_is_opened_without_a_change(region: str) -> None:
    torch.manual_seed(0)
    base, opened, missing = pair(BASE, f"open {region}", "@wellposed unchecked" if "A" in region else "")
    made, given = opened_blocks(opened), inputs()

    assert missing and set(missing) == set(made)
    assert_close(outputs(base(*given)), outputs(opened(*given)))
    assert not any(opened.get_parameter(id).any() for id in made)
    fill(opened)
    for id, of in made.items():
        assert torch.equal(block(opened, of), opened.get_parameter(id))
    assert_close(outputs(opened.system().solve(*given)), outputs(opened(*given)), 1e-7)  # type: ignore[operator]


def test_the_regions_are_the_zeros_of_the_base_in_its_order() -> None:
    made = {}
    for region in ("forward", "feedback", "self"):
        base, opened, _ = pair(BASE, f"open A[{region}]", "@wellposed unchecked")
        made[region] = {(to, source) for _, to, source in opened_blocks(opened).values()}
    system = base.system()  # type: ignore[operator]
    order = [one.name for one in reversed(system.states)]
    held = {(to, source) for to in order for source in order if system.A[to, source].nnz}
    every = {(to, source) for to in order for source in order}

    assert made["forward"] == {(to, f) for to, f in every - held if order.index(to) > order.index(f)}
    assert made["feedback"] == {(to, f) for to, f in every - held if order.index(to) < order.index(f)}
    assert made["self"] == {(name, name) for name in order}
    assert len(made["forward"]) > 5 and not made["feedback"] & held


def test_named_blocks_go_before_regions_wherever_they_stand() -> None:
    _, opened, missing = pair(BASE, "open A[forward]\nopen A[p, h] as LowRank(2)")

    assert {"A_p_h_left", "A_p_h_right"} <= set(missing) and "A_p_h" not in missing
    assert opened.get_parameter("A_p_h_left").shape == (10, 2)  # a product has two arguments
    assert sum(of == ("A", "p", "h") for of in opened_blocks(opened).values()) == 2


FAMILY = """
model Base(n = 3)
    input u[4], v[3]
    z[1] ~ tanh(Dense(n)*u)
    state z[i in 2:4][n] ~ tanh(Dense(n)*z[i - 1] + v)
    output y = z[4]
end
"""


def test_families_lists_and_loops_name_blocks() -> None:
    lines = "open A[z, z[1]]\nopen B[[z[2], z[4]], u]\nfor i in 3:4\n    open A[z[i - 1], z[i]]\nend"
    lines += "\nopen C[y, [z[i] for i in 1:2]]\nopen D[y, :]"
    base, opened, _ = pair(FAMILY, lines, "@wellposed unchecked")
    given = inputs()

    assert set(opened_blocks(opened).values()) == {
        ("A", "z[1]", "z[1]"), ("A", "z[3]", "z[1]"), ("A", "z[4]", "z[1]"),
        ("A", "z[2]", "z[3]"), ("A", "z[3]", "z[4]"), ("B", "z[2]", "u"), ("B", "z[4]", "u"),
        ("C", "y", "z[1]"), ("C", "y", "z[2]"), ("D", "y", "u"), ("D", "y", "v"),
    }  # fmt: skip
    assert "A_z_2_z_3" in opened.state_dict()
    assert_close(outputs(base(*given)), outputs(opened(*given)))


NAMED = """
model Base(n = 3)
    input u[4], v[3]
    κ = Dense(n)*u
    state h[n] ~ tanh(κ + v)
    state unread[n] ~ relu(Dense(n)*v)
    output y = Dense(2)*h |> relu |> Dense(2) |> tanh
end
"""


def test_linear_values_unread_states_and_nested_ones_are_named() -> None:
    lines = "open A[κ, h]\nopen A[h, unread]\nopen A[y.relu1, κ]\nopen B[κ, v]"
    base, opened, missing = pair(NAMED, lines, "@wellposed unchecked")
    given = inputs()

    assert {*opened_blocks(opened)} == {"A_kappa_h", "A_h_unread", "A_y_relu1_kappa", "B_kappa_v"}
    assert set(missing) - {*opened_blocks(opened)} == {"unread_dense.weight", "unread_dense.bias"}
    assert_close(outputs(base(*given)), outputs(opened(*given)))
    fill(opened)
    assert_close(outputs(opened.system().solve(*given)), outputs(opened(*given)), 1e-7)  # type: ignore[operator]
    assert (outputs(opened(*given))[0] - outputs(base(*given))[0]).abs().max() > 1e-4


def test_what_a_recurrence_gives_is_read_by_opened_blocks() -> None:
    text = """
model Base(n = 3)
    input u[4], v[3]
    state a[2, 4] ~ reshape(Dense(8)*u, 2, 4)
    recurrent x over a
        state h[n] = 0
        h ~ tanh(Dense(n)*prev(h) + Dense(n)*x)
    end
    state b[n] ~ tanh(Dense(n)*last(h) + v)
    output y = Dense(2)*b
end
"""
    base, opened, _ = pair(text, "open A[forward]\nopen C[y, last(h)]\nopen B")
    given = inputs()

    assert {of[1:] for of in opened_blocks(opened).values()} == {
        ("b", "a"), ("y", "h.last"), ("a", "v"), ("b", "u"),
    }  # fmt: skip
    assert_close(outputs(base(*given)), outputs(opened(*given)))
    fill(opened)
    assert_close(outputs(opened.system().solve(*given)), outputs(opened(*given)))  # type: ignore[operator]


# -- what stands behind `as` --------------------------------------------------------------------------

SETS = {
    "LowRank(2)": ("A[g, k]", 2),
    "Diagonal()": ("A[g, k]", 1),
    "Banded(-1, 2)": ("A[g, k]", 1),
    "UpperTriangular()": ("A[g, k]", 1),
    "LowerTriangular()": ("A[g, k]", 1),
    "StrictUpper()": ("A[g, k]", 1),
    "StrictLower()": ("A[g, k]", 1),
    "Toeplitz()": ("A[g, k]", 1),
    "Sparse([1 => 2, 3 => 4])": ("A[g, k]", 1),
    "Symmetric()": ("A[k, g]", 1),
    "Skew()": ("A[k, g]", 1),
    "Circulant()": ("A[k, g]", 1),
    "BlockUpper([2, 4])": ("A[k, g]", 1),
    "BlockLower([2, 4])": ("A[k, g]", 1),
    "BlockStrictUpper([2, 4])": ("A[k, g]", 1),
    "BlockStrictLower([2, 4])": ("A[k, g]", 1),
    "BlockDiagonal([2, 4])": ("A[k, g]", 1),
    "Conv(2, 3; pad = 1)": ("A[c, e]", 1),
    "ConvTranspose(2, 3; pad = 1)": ("A[c, e]", 1),
    "DepthwiseConv(3; pad = 1)": ("A[c, c]", 1),
    "Dense(3)": ("A[c, e]", 1),
}
SQUARE = """
model Base
    input u[4], v[3]
    state e[2, 3, 3] ~ tanh(reshape(Dense(18)*u, 2, 3, 3))
    state c[2, 3, 3] ~ tanh(Conv(2, 1)*tanh(Conv(2, 1)*e))
    state g[6] ~ tanh(Dense(6)*flatten(c))
    state k[6] ~ tanh(Dense(6)*tanh(Dense(6)*g))
    output y = k
end
"""


@pytest.mark.parametrize("structure", SETS)
def test_blocks_of_every_form_start_from_zero_and_learn(structure: str) -> None:
    region, parts = SETS[structure]
    torch.manual_seed(1)
    base, opened, missing = pair(SQUARE, f"open {region} as {structure}", "@wellposed unchecked")
    made, given = opened_blocks(opened), inputs()
    of = next(iter(made.values()))

    assert len(made) == parts and set(missing) == set(made)
    assert_close(outputs(base(*given)), outputs(opened(*given)))
    outputs(opened(*given))[0].sum().backward()
    gradients = {id: opened.get_parameter(id).grad for id in made}
    assert any(gradient is not None and bool(gradient.any()) for gradient in gradients.values())
    fill(opened)
    if parts == 1:
        assert block(opened, of).any()
    assert_close(outputs(opened.system().solve(*given)), outputs(opened(*given)), 1e-7)  # type: ignore[operator]


def test_every_set_of_the_language_is_opened_or_refused() -> None:
    from implicit_dsl.sets import SETS as EVERY

    refused = {"Orthogonal", "Nonneg"}
    assert {name.partition("(")[0] for name in SETS} >= set(EVERY) - refused
    for name in refused:
        (found,) = findings(f"{SQUARE}\nmodel M extends Base\n  open A[k, c] as {name}()\nend")
        assert found.code == "E0507" and name in found.message


# -- weights that are carried over -----------------------------------------------------------------------


def test_weights_are_carried_over_or_nothing_is() -> None:
    base, opened, _ = pair(NAMED, "open A[h, unread]\nopen A[y.relu1, κ] as LowRank(2)")
    for parameter in opened.parameters():
        nn.init.normal_(parameter)
    before = {key: tensor.clone() for key, tensor in opened.state_dict().items()}

    with pytest.raises(TransferError, match=r"unread_dense\.weight: is missing, and was not opened"):
        transfer_(opened, base)
    wrong = {**base.state_dict(), "h_dense.weight": torch.zeros(2, 2), "q": torch.zeros(1)}
    with pytest.raises(TransferError) as caught:
        transfer_(opened, wrong, fresh=["unread_dense"])
    assert set(caught.value.wrong) == {"h_dense.weight", "q"} or "κ" in str(caught.value.wrong)
    assert all(torch.equal(before[key], tensor) for key, tensor in opened.state_dict().items())

    made = build(f"{NAMED}\nmodel Opened extends Base\n open A[h, unread]\n open D as LowRank(1)\nend").Opened
    fresh = made(dtype=torch.float64).eval()
    stayed = transfer_(fresh, base, fresh=["unread_dense"])
    given = inputs()
    assert set(stayed) == {*opened_of(fresh), "unread_dense.weight", "unread_dense.bias"}
    assert opened_of(fresh)["D_y_v_left"].text == "D[y, v]"
    assert_close(outputs(base(*given)), outputs(fresh(*given)))
    fill(fresh)
    again = made(dtype=torch.float64).eval()
    assert transfer_(again, fresh.state_dict()) == ()
    assert_close(outputs(fresh(*given)), outputs(again(*given)))
    with pytest.raises(TypeError, match="not compiled"):
        opened_of(nn.Linear(2, 2))


# -- loops ------------------------------------------------------------------------------------------------

LOOPS = ("spectral(abs(A)) <= 0.95", "pf(A) <= 0.5", "unchecked")


@pytest.mark.parametrize("asked", LOOPS)
@pytest.mark.parametrize("lines", ["A[g, k] as LowRank(2)", "A[feedback]", "A[c, c] as Conv(2, 1)"])
def test_loaded_weights_stay_as_they_are_under_a_bound_of_the_perron_root(asked: str, lines: str) -> None:
    torch.manual_seed(2)
    base, opened, _ = pair(SQUARE, f"open {lines}", f"@wellposed {asked}")
    given = inputs()
    before = {key: tensor.clone() for key, tensor in opened.state_dict().items()}
    if asked != "unchecked":
        opened.project_()  # type: ignore[operator]
    assert all(torch.equal(before[key], tensor) for key, tensor in opened.state_dict().items())
    assert_close(outputs(base(*given)), outputs(opened(*given)), 1e-8)
    if asked == "unchecked":
        return
    assert opened.certify().proved  # type: ignore[operator]
    fill(opened, 1.0)
    opened.project_()  # type: ignore[operator]
    assert opened.certify().proved  # type: ignore[operator]
    assert_close(outputs(opened.system().solve(*given)), outputs(opened(*given)), 1e-6)  # type: ignore[operator]


def test_gradients_of_opened_loops_are_those_of_the_adjoint_equations() -> None:
    """Also in a base that has a loop, and in one that extends another: A is that of all of it."""
    torch.manual_seed(4)
    text = """
model Root(n = 4)
    input u[4], v[3]
    param W[n, n]
    state x[n] ~ tanh(W*x + Dense(n)*u)
    state g[n] ~ relu(Dense(n)*x + Dense(n)*v)
    output y = g
    @wellposed spectral(abs(A)) <= 0.6
end

model Base() extends Root
    state k[3] ~ tanh(Dense(3)*g)
    output z = k
    open A[k, x]
end
"""
    _, opened, missing = pair(text, "open A[x, k] as LowRank(2)\nopen A[self]\nopen B")
    assert "A_k_x" not in missing and {of[1:] for of in opened_blocks(opened).values()} == {
        ("k", "x"), ("x", "k"), ("g", "g"), ("k", "k"), ("x", "v"), ("g", "u"), ("k", "u"), ("k", "v"),
    }  # fmt: skip
    fill(opened, 0.5)
    opened.project_()  # type: ignore[operator]
    given = inputs()
    weights = [torch.randn_like(one) for one in outputs(opened(*given))]
    sum((one * w).sum() for one, w in zip(outputs(opened(*given)), weights)).backward()  # type: ignore[union-attr]
    adjoint = opened.system().parameter_gradients(given, tuple(weights))  # type: ignore[operator]
    for id in (*opened_blocks(opened), "W", "g_dense.weight"):
        gradient = opened.get_parameter(id).grad
        assert gradient is not None
        torch.testing.assert_close(gradient, torch.from_numpy(adjoint[id]), rtol=1e-6, atol=1e-8)


def test_row_sums_of_an_opened_loop_are_kept_by_projection() -> None:
    _, opened, _ = pair(SQUARE, "open A[g, k]\nopen A[g, e]", "@wellposed norm(A, Inf) <= 0.9")
    fill(opened, 1.0)
    opened.project_()  # type: ignore[operator]
    assert opened.certify().proved  # type: ignore[operator]
    inner = {"g": "k", "k": "k.tanh1"}
    for to, source in inner.items():
        assert block(opened, ("A", to, source)).abs().sum(1).max() <= 0.9 + 1e-9
    assert block(opened, ("A", "g", "e")).abs().sum(1).max() > 1  # it is in no loop


def test_an_opened_model_trains_and_finds_a_skip_connection() -> None:
    """y reads v behind two layers that lost it: the block that was opened from v grows, and others less."""
    torch.manual_seed(3)
    text = """
model Base
    input u[4], v[3]
    state a[3] ~ tanh(Dense(3)*u)
    state b[3] ~ tanh(Dense(3)*a)
    output y = Dense(1)*b
end
"""
    _, opened, _ = pair(text, "open C\nopen D")
    optimizer = torch.optim.Adam(opened.parameters(), lr=0.05)
    for _ in range(300):
        u, v = inputs(64)
        loss = (outputs(opened(u, v))[0] - 2 * v[:, :1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1e-2
    found, *others = opened.get_parameter("D_y_v")[0]
    assert abs(found - 2) < 0.1 and max(map(abs, (*others, *opened.get_parameter("D_y_u")[0]))) < 0.1


# -- the tools ----------------------------------------------------------------------------------------------


def test_the_tools_know_opened_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "open.impl"
    path.write_text(f"{BASE}\nmodel Opened() extends Base\n    open A[p,h] as LowRank( 2 )\n  open D\nend\n")

    assert main(["fmt", str(path)]) == 0
    assert "    open A[p, h] as LowRank(2)\n    open D\n" in path.read_text()
    assert main(["show", str(path), "--model", "Opened"]) == 0
    assert "A_p_h_left" in capsys.readouterr().out
    assert main(["graph", str(path), "--model", "Opened"]) == 0
    assert "D_y_u" in capsys.readouterr().out
    assert main(["compile", str(path), "-o", str(tmp_path)]) == 0
    assert main(["verify", str(path), "--model", "Opened"]) == 0
    for file, command in (("A.svg", "plot"), ("A.png", "plot"), ("m.npz", "matrices")):
        assert main([command, str(path), "--model", "Opened", "-o", str(tmp_path / file)]) == 0
        assert (tmp_path / file).stat().st_size > 500


# -- random programs ------------------------------------------------------------------------------------

FEW = settings(
    QUIET, max_examples=20, suppress_health_check=[*QUIET.suppress_health_check, HealthCheck.filter_too_much]
)


@given(programs(), st.sampled_from(["A[forward]", "B", "C", "A[:, :]", "D"]), st.booleans())
@FEW
def test_random_programs_are_opened_without_a_change(program: RandomProgram, region: str, low: bool) -> None:
    """The outputs, the gradients of opened blocks, and those of the system with other numbers in them."""
    behind = " as LowRank(1)" if low else ""
    lines = f"    open {region}{behind}\n    @wellposed unchecked"
    text = f"{program.text}\nmodel Opened() extends Random\n{lines}\nend\n"
    found = {one.code for one in findings(text) if one.code[0] == "E"}
    # no zero block is left; tokens, free sizes and circles around recurrences
    assert found <= {"E0505", "E0506"}
    assume(not found)
    torch.manual_seed(0)
    made = build(text)
    base, opened = made.Random(dtype=torch.float64).eval(), made.Opened(dtype=torch.float64).eval()
    blocks, given = opened_blocks(opened), program.given(2)
    missing = loaded(base, opened)
    assert set(missing) == set(blocks)
    if region == "A[:, :]":  # loops, which are solved to a tolerance, from zero: not if that is divided by
        with contextlib.suppress(ConvergenceError):
            assert_close(outputs(base(*given)), outputs(opened(*given)), 1e-8)
        return
    assert_close(outputs(base(*given)), outputs(opened(*given)))
    fill(opened, 0.05)
    results = outputs(opened(*given))
    assume(all(one.isfinite().all() for one in results))  # log and quotients have no value everywhere
    assert_close(outputs(opened.system().solve(*given)), results, 1e-9)
    weights = [torch.randn_like(one) for one in results]
    sum((one * weight).sum() for one, weight in zip(results, weights)).backward()  # type: ignore[union-attr]
    adjoint = opened.system().parameter_gradients(tuple(given), tuple(weights))
    for id in blocks:
        gradient = opened.get_parameter(id).grad
        expected = torch.from_numpy(adjoint[id])
        actual = torch.zeros_like(expected) if gradient is None else gradient
        assert_close((expected,), (actual,), 1e-8)


@given(programs(), st.data())
@FEW
def test_single_blocks_of_random_programs_are_opened(program: RandomProgram, data: st.DataObject) -> None:
    """Between any two names, in any matrix: what is refused is refused for a reason that is told."""
    names = [name for name in (*program.inputs, *program.shapes) if name.isidentifier()]
    rows = st.sampled_from([*names, *program.outputs])
    to, source = data.draw(rows), data.draw(st.sampled_from(names))
    behind = data.draw(st.sampled_from(["", " as LowRank(1)", " as Diagonal()"]))
    line = f"open {data.draw(st.sampled_from('ABCD'))}[{to}, {source}]{behind}"
    text = f"{program.text}\nmodel Opened() extends Random\n    {line}\n    @wellposed unchecked\nend\n"
    found = {one.code for one in findings(text) if one.code[0] == "E"}
    assert found <= {"E0505", "E0506"}
    assume(not found)
    torch.manual_seed(0)
    made = build(text)
    base, opened = made.Random(dtype=torch.float64).eval(), made.Opened(dtype=torch.float64).eval()
    given = program.given(2)
    missing = loaded(base, opened)
    assert set(missing) >= set(opened_blocks(opened))
    with contextlib.suppress(ConvergenceError):
        assert_close(outputs(base(*given)), outputs(opened(*given)), 1e-8)
