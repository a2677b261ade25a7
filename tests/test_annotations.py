"""What annotations ask for: every form gives exactly its demands, and goes to exactly its loops."""

from __future__ import annotations

import pytest
import torch

import implicit_dsl
from implicit_dsl import runtime
from implicit_dsl.certify.solvers import MOST_INVERTED
from implicit_dsl.compiler import check, read_source
from implicit_dsl.demands import (
    BACKWARDS,
    SOLVERS,
    BackwardDemand,
    Demand,
    Demands,
    Matrix,
    MatrixTerm,
    SolverDemand,
)
from implicit_dsl.errors import Diagnostic, Findings
from implicit_dsl.graph import SignalGraph
from implicit_dsl.guarantees import Guarantee
from implicit_dsl.parse import parse
from implicit_dsl.resolve import resolve
from implicit_dsl.resolve.annotations.loops import loops_of
from implicit_dsl.shapes import Size
from implicit_dsl.source import Source

LOOPS = """input u[n], image[2, 6, 6]
param W[n, n], V[n, n], F[n, n], b[n] = zeros()
layer H = Dense(n), J = Dense(n; bias = false)
layer K[i in 1:2] = Conv(2 => 2, 3; pad = 1, bias = false)
state x[n] ~ relu(W*x + V*x + F*x + u + b)
state h[n] ~ tanh(H*h + J*h + u)
state z[i in 1:2][2, 6, 6]
z[1] ~ relu(K[1]*z[2] + image)
z[2] ~ tanh(K[2]*z[1])
g ~ relu(x)
output y = g, q = h, p = z[1], r = z[2]
"""


def resolved(text: str) -> tuple[list[SignalGraph], list[Diagnostic]]:
    program, diagnostics = parse(Source(text))
    findings = Findings(list(diagnostics))
    graphs, _ = resolve(program, findings, parse=parse, read=read_source)
    return list(graphs), list(findings)


def demands(lines: str, body: str = LOOPS, head: str = "M(n = 4, κ = 0.9)", before: str = "") -> Demands:
    graphs, found = resolved(f"{before}\nmodel {head}\n{body}\n{lines}\nend\n")
    assert found == []
    return graphs[0].demands


def codes(lines: str, body: str = LOOPS, before: str = "") -> list[str]:
    return [d.code for d in resolved(f"{before}\nmodel M(n = 4, κ = 0.9)\n{body}\n{lines}\nend\n")[1]]


def messages(lines: str) -> list[str]:
    found = resolved(f"model M(n = 4, κ = 0.9)\n{LOOPS}\n{lines}\nend\n")[1]
    return [f"{d.message} | {d.text} | {d.help}" for d in found]


def of(*ids: str, factor: float = 1.0) -> MatrixTerm:
    """A term from ids; a `'` behind one transposes it."""
    return MatrixTerm(factor, tuple((id.removesuffix("'"), id.endswith("'")) for id in ids))


def single(*ids: str) -> Matrix:
    return (of(*ids),)


# --------------------------------------------------------------------------- wellposed

BOUNDS = {
    "norm(A, Inf) <= 0.95": Demand("norm", 0.95),
    "norm(A, ∞) ≤ κ": Demand("norm", 0.9),
    "opnorm(A, Inf) <= 1 - κ^2": Demand("norm", 1 - 0.9**2),
    "0.95 >= norm(A, Inf)": Demand("norm", 0.95),
    "norm(system.A, Inf) <= 0.95": Demand("norm", 0.95),
    "norm(abs(A), Inf) <= 0.95": Demand("norm", 0.95),
    "norm(W, 2) <= 0.5": Demand("spectral", 0.5, single("W")),
    "norm(W, 2.0) <= 0.5": Demand("spectral", 0.5, single("W")),
    "spectral(W) <= 0.5": Demand("spectral", 0.5, single("W")),
    "spectral(abs(A)) <= 0.9": Demand("pf", 0.9),
    "spectral(abs.(A)) <= 0.9": Demand("pf", 0.9),
    "pf(A) <= 0.9": Demand("pf", 0.9),
    "pf(abs(W)) <= 0.9": Demand("pf", 0.9, single("W")),
    "pf(K[1]) <= 0.9": Demand("pf", 0.9, single("K_1.weight")),
    "monotone(W; m = 0.1)": Demand("monotone", 0.1, single("W")),
    "monotone(W, m = 1 - κ)": Demand("monotone", 1 - 0.9, single("W")),
    "monotone(W) >= 0.1": Demand("monotone", 0.1, single("W")),
    "nemon(W; m = 0.9)": Demand("nemon", 0.9, single("W")),
    "nemon(W) <= -2": Demand("nemon", -2.0, single("W")),
    "norm(H, Inf) <= 0.9": Demand("norm", 0.9, single("H.weight")),
    "norm(K[1], Inf) <= 2": Demand("norm", 2.0, single("K_1.weight")),
    "unchecked": Demand("unchecked"),
    "": Demand("prove"),
}


@pytest.mark.parametrize("form", BOUNDS)
def test_each_form_of_a_bound_is_its_demand(form: str) -> None:
    line = LOOPS.count("\n") + 4

    (found,) = demands(f"@wellposed {form}").wellposed

    expected = BOUNDS[form]
    assert found == Demand(expected.criterion, expected.bound, expected.matrix, (), "project", line, form)
    assert found.span is not None and found.span.text == f"@wellposed {form}".strip()


@pytest.mark.parametrize("form", BOUNDS)
def test_brackets_change_nothing(form: str) -> None:
    assert demands(f"@wellposed({form})") == demands(f"@wellposed {form}")


EXPRESSIONS = {
    "W": [of("W")],
    "W'": [of("W'")],
    "W''": [of("W")],
    "W + V": [of("W"), of("V")],
    "W - V": [of("W"), of("V", factor=-1)],
    "-W": [of("W", factor=-1)],
    "2*W/4": [of("W", factor=0.5)],
    "W + (0.1*I(n))'": [of("W"), of(factor=0.1)],
    "W*V": [of("W", "V")],
    "W∘V": [of("W", "V")],
    "(W*V)'": [of("V'", "W'")],
    "(W + V)*F'": [of("W", "F'"), of("V", "F'")],
    "((W + V)*F)'": [of("F'", "W'"), of("F'", "V'")],
    "(1 - 0.1)*I(n) - W'*W + V - V'": [
        of(factor=0.9), of("W'", "W", factor=-1), of("V"), of("V'", factor=-1)
    ],
    "2*H + W": [of("H.weight", factor=2), of("W")],
    "J*H'": [of("J.weight", "H.weight'")],
    "-0.5*K[2]": [of("K_2.weight", factor=-0.5)],
    "sum([W, V, F])": [of("W"), of("V"), of("F")],
}  # fmt: skip


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_matrix_expressions_are_multiplied_out(text: str) -> None:
    (found,) = demands(f"@wellposed norm({text}, Inf) <= 0.9").wellposed

    assert found.matrix == tuple(EXPRESSIONS[text])


def test_the_matrix_of_a_demand_is_that_of_the_equation() -> None:
    """The same expression in the equation and in the demand certifies the loop."""
    body = """input u[n]
    param P[n, n], S[n, n]
    A = (1 - m)*I(n) - P'*P + 0.5*(0.3*(S - S'))
    state x[n] ~ relu(A*x + u)
    output y = x
    @wellposed monotone(A; m = m)"""
    checked = check(Source(f"model M(n = 4, m = 0.1)\n{body}\nend\n"))

    assert checked.diagnostics == ()


def test_a_name_of_the_program_shadows_the_assembled_matrix() -> None:
    body = "input u[4]\nparam A[4, 4]\nstate x[4] ~ relu(A*x + u)\noutput y = x"

    assert demands("@wellposed norm(A, Inf) <= 0.9", body).wellposed[0].matrix == single("A")
    assert demands("@wellposed norm(system.A, Inf) <= 0.9", body).wellposed[0].matrix is None


METHODS = (
    '@wellposed norm(W, Inf) <= 0.9, method = "parametrize"',
    '@wellposed(norm(W, Inf) <= 0.9; method = "parametrize")',
    '@wellposed(norm(W, Inf) <= 0.9, method = "parametrize")',
    "@wellposed(norm(W, Inf) <= 0.9;\n    method = how)",
)


@pytest.mark.parametrize("line", METHODS)
def test_the_method_stands_behind_the_bound(line: str) -> None:
    found = demands(line, head='M(n = 4, how = "parametrize")').wellposed

    assert [(d.method, d.text, d.matrix) for d in found] == [
        ("parametrize", "norm(W, Inf) <= 0.9", single("W"))
    ]


STATES = {
    "@wellposed(x, norm(A, Inf) <= 0.9)": ("x",),
    "@wellposed(z[1], norm(A, Inf) <= 0.9)": ("z[1]",),
    "@wellposed z[2], norm(A, Inf) <= 0.9": ("z[2]",),
    "@wellposed(h)": ("h",),
    "@wellposed(z[2], unchecked)": ("z[2]",),
    '@wellposed(x, norm(A, Inf) <= 0.9; method = "project")': ("x",),
}


@pytest.mark.parametrize("line", STATES)
def test_a_state_before_the_bound_chooses_its_loop(line: str) -> None:
    assert demands(line).wellposed[0].states == STATES[line]


def test_a_value_that_became_part_of_a_state_names_that_state() -> None:
    body = "input u[4]\nparam W[4, 4]\nstate x[4] ~ s\ns = relu(t)\nt = W*x + u\noutput y = x"

    assert demands("@wellposed(s, norm(W, Inf) <= 0.9)", body).wellposed[0].states == ("x",)
    assert codes("@wellposed(t, norm(W, Inf) <= 0.9)", body) == ["E0704"]


# --------------------------------------------------------------------------- solvers and gradients

SETTINGS = {
    "auto": (),
    "picard": (),
    "anderson()": (),
    "auto(tol = 1e-3)": (("tolerance", 1e-3),),
    "picard(damping = 0.5, maxiter = 30, tol = 1e-5)": (
        ("damping", 0.5), ("tolerance", 1e-5), ("max_steps", 30)
    ),
    "anderson(; m = 5, damping = κ, tol = 1e-4, maxiter = 1e2)": (
        ("memory", 5), ("damping", 0.9), ("tolerance", 1e-4), ("max_steps", 100)
    ),
    "broyden(m = 2 + 3)": (("memory", 5),),
    "forward_backward(α = 0.5)": (("step", 0.5),),
    "forward_backward(alpha = 2)": (("step", 2.0),),
    "peaceman_rachford(α = 1.0, maxiter = 9)": (("step", 1.0), ("max_steps", 9)),
    "newton(tol = 1e-6)": (("tolerance", 1e-6),),
    'picard(per_sample = false, warm_start = true, on_failure = "fall_back")': (
        ("per_sample", False), ("warm_start", True), ("failure", "fall_back")
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", SETTINGS)
def test_each_solver_has_its_settings(form: str) -> None:
    for line in (f"@solver {form}", f"@solver({form})", f"@solver(x, {form})"):
        (found,) = demands(line).solvers
        states = ("x",) if "(x," in line else ()
        assert found == SolverDemand(form.split("(")[0], SETTINGS[form], states, found.line)  # type: ignore[arg-type]
        assert [type(value) for _, value in found.settings] == [type(value) for _, value in SETTINGS[form]]


GRADIENTS = {
    "implicit": (),
    "jfb": (),
    "unrolled": (),
    "neumann": (),
    "neumann(3)": (("terms", 3),),
    "neumann(k = 3)": (("terms", 3),),
    "phantom": (),
    "phantom(steps = 2, τ = 0.5)": (("steps", 2), ("damping", 0.5)),
    "phantom(2, 0.5)": (("steps", 2), ("damping", 0.5)),
    "phantom(tau = 1)": (("damping", 1.0),),
    "phantom(damping = 1.0)": (("damping", 1.0),),
}


@pytest.mark.parametrize("form", GRADIENTS)
def test_each_gradient_has_its_settings(form: str) -> None:
    for line in (f"@backward {form}", f"@backward({form})", f"@backward(z[1], {form})"):
        (found,) = demands(line).backwards
        states = ("z[1]",) if "(z[1]," in line else ()
        assert found == BackwardDemand(form.split("(")[0], GRADIENTS[form], states, found.line)  # type: ignore[arg-type]


def test_every_solver_and_gradient_can_be_named() -> None:
    assert {form.split("(")[0] for form in SETTINGS} == set(SOLVERS)
    assert {form.split("(")[0] for form in GRADIENTS} == set(BACKWARDS)
    assert all(codes(f"@solver {name}") == [] for name in SOLVERS)


def test_settings_are_those_of_the_runtime() -> None:
    """Whatever a program can ask for, the runtime has, and takes at both ends of its range."""
    solvers = pytest.importorskip("implicit_dsl.runtime.solvers")
    adjoints = pytest.importorskip("implicit_dsl.runtime.adjoints")
    from implicit_dsl.resolve.annotations import settings

    own = ("warm_start", "failure")  # of the loop
    classes = {"jfb": "JFB"}
    for table, module in ((settings._OF_SOLVERS, solvers), (settings._OF_BACKWARDS, adjoints)):
        for name, listed in table.items():
            made = getattr(
                module, classes.get(name) or "".join(part.capitalize() for part in name.split("_"))
            )
            for setting in listed:
                if setting.stored in own:
                    continue
                values = {"whole": [int(setting.low), 50], "number": [1e-6, 1.0], "flag": [True, False]}
                for value in values[setting.kind]:
                    made(**{setting.stored: value})


def test_the_compiler_and_the_runtime_agree_on_what_can_be_inverted() -> None:
    splitting = pytest.importorskip("implicit_dsl.runtime.solvers.splitting")

    assert MOST_INVERTED == splitting.LARGEST_INVERSE


# --------------------------------------------------------------------------- where annotations stand

BLOCK = """block Cell(w; how = 0.9)
    input x[_]
    layer K = Dense(w; bias = false)
    state z[w] ~ relu(K*z + x)
    output y = z
    @wellposed norm(K, Inf) <= how
    @solver(z, picard)
    @backward jfb
end
block Plain(w)
    input x[_], z[_]
    layer K = Dense(w; bias = false)
    output y = relu(K*z + x)
    @wellposed norm(K, Inf) <= 0.5
    @solver anderson
end
"""


def test_annotations_of_a_block_are_about_its_instances() -> None:
    made = demands("", "input u[4]\noutput y = u |> Cell(4) |> Cell(4; how = 0.8)", before=BLOCK)

    assert [(d.bound, d.matrix, d.states) for d in made.wellposed] == [
        (0.9, single("y_cell_K.weight"), ("y.cell.z",)),
        (0.8, single("y_cell2_K.weight"), ("y.cell2.z",)),
    ]
    assert [(d.name, d.states) for d in made.solvers] == [("picard", ("y.cell.z", "y.cell2.z"))]
    assert [(d.name, d.states) for d in made.backwards] == [("jfb", ("y.cell.z", "y.cell2.z"))]


def test_a_loop_through_the_output_of_a_block_is_its_loop() -> None:
    made = demands("", "input u[4]\nstate z[4] ~ Plain(4)(u, z)\noutput y = z", before=BLOCK)

    assert [(d.matrix, d.states) for d in made.wellposed] == [(single("z_plain_K.weight"), ("z",))]
    assert [d.states for d in made.solvers] == [("z",)]


def test_a_tied_block_is_bounded_once() -> None:
    body = "input u[4]\nlayer cell = Cell(4)\noutput y = cell(u), w = u |> cell"
    made = demands("", body, before=BLOCK)

    assert [(d.matrix, d.states) for d in made.wellposed] == [
        (single("cell_K.weight"), ("y.cell.z", "w.cell.z"))
    ]


def test_what_is_said_of_a_state_goes_before_what_is_said_of_a_block_and_of_all() -> None:
    body = "input u[4]\nstate z[4] ~ Plain(4)(u, z)\noutput y = Plain(4)(z, z)"
    lines = "@solver newton\n@solver(z, broyden)"

    assert [(d.name, d.states) for d in demands(lines, body, before=BLOCK).solvers] == [
        ("broyden", ("z",)),
        ("anderson", ("z", "y.plain.y")),
        ("newton", ()),
    ]


def test_control_flow_chooses_annotations() -> None:
    lines = """for i in 1:2
        @wellposed norm(K[i], Inf) <= κ^i
        @solver auto
    end
    if n > 3
        @wellposed(h, norm(A, Inf) <= 0.5)
    else
        @wellposed(h, unchecked)
    end"""
    made = demands(lines)

    assert [(d.criterion, d.bound, d.matrix, d.states) for d in made.wellposed] == [
        ("norm", 0.5, None, ("h",)),
        ("norm", 0.9, single("K_1.weight"), ()),
        ("norm", 0.9**2, single("K_2.weight"), ()),
    ]
    assert len(made.solvers) == 1


def test_annotations_are_inherited() -> None:
    before = f"model Base(n = 4, κ = 0.9)\n{LOOPS}\n@wellposed norm(A, Inf) <= κ\nend"
    graphs, found = resolved(f"{before}\nmodel M(k = 0.8) extends Base(4, k)\n@solver picard\nend\n")

    assert found == []
    assert [d.bound for d in graphs[1].demands.wellposed] == [0.8]
    assert [d.name for d in graphs[1].demands.solvers] == ["picard"]


def test_nothing_is_said_of_states_that_are_left_out() -> None:
    lines = "state left[n] ~ relu(W*left)\n@solver(left, picard)"

    assert codes(lines) == ["W0302"]


# --------------------------------------------------------------------------- without effect


def test_an_annotation_without_a_loop_is_said_to_have_no_effect() -> None:
    body = "input u[4]\nparam W[4, 4]\nx ~ relu(W*u)\noutput y = x"
    for line in (
        "@wellposed norm(A, Inf) <= 0.9",
        "@wellposed norm(W, Inf) <= 0.9",
        "@wellposed",
        "@wellposed unchecked",
        "@solver picard",
        "@solver(x, picard)",
        "@backward jfb",
    ):
        assert codes(line, body) == ["W0401"]
        assert codes(f"@allow unused_annotation\n{line}", body) == []
    assert codes("@wellposed(g, unchecked)") == ["W0401"]


def test_a_bound_on_a_matrix_outside_of_loops_is_kept() -> None:
    body = "input u[4]\nparam W[4, 4]\nx ~ relu(W*u)\noutput y = x\n@allow unused_annotation"

    assert demands("@wellposed norm(W, Inf) <= 0.9", body).wellposed[0].matrix == single("W")


def test_blocks_may_say_more_than_is_needed() -> None:
    assert codes("", "input u[4]\noutput y = Plain(4)(u, u)", before=BLOCK) == []


# --------------------------------------------------------------------------- what is refused

REFUSED = {
    "@wellposed norm(A, Inf) <= 0": "E0703",
    "@wellposed norm(A, Inf) <= -1": "E0703",
    "@wellposed norm(A, Inf) <= Inf": "E0703",
    "@wellposed norm(A, Inf) <= Inf - Inf": "E0703",
    "@wellposed norm(A, Inf) <= true": "E0703",
    "@wellposed norm(A, Inf) <= 10^400": "E0703",
    '@wellposed norm(A, Inf) <= "1"': "E0703",
    "@wellposed norm(A, Inf) <= u": "E0703",
    "@wellposed monotone(W; m = 0)": "E0703",
    "@wellposed nemon(W; m = Inf)": "E0703",
    "@wellposed norm(A, Inf) < 0.9": "E0702",
    "@wellposed norm(A, Inf) >= 0.9": "E0702",
    "@wellposed 0.9 <= norm(A, Inf)": "E0702",
    "@wellposed norm(A, Inf) == 0.9": "E0702",
    "@wellposed 0 <= norm(A, Inf) <= 0.9": "E0702",
    "@wellposed monotone(W) <= 0.9": "E0702",
    "@wellposed monotone(W) > 0.1": "E0702",
    "@wellposed monotone(W; m = 0.1) >= 0.1": "E0702",
    "@wellposed norm(A, Inf)": "E0702",
    "@wellposed spectral(W)": "E0702",
    "@wellposed monotone(W)": "E0702",
    "@wellposed norm": "E0702",
    "@wellposed 0.9": "E0702",
    "@wellposed norm(A, 1) <= 0.9": "E0702",
    "@wellposed norm(A, 3) <= 0.9": "E0702",
    "@wellposed norm(A, x) <= 0.9": "E0702",
    "@wellposed norms(A, Inf) <= 0.9": "E0702",
    "@wellposed radius(A) <= 0.9": "E0702",
    "@wellposed uncheked": "E0702",
    "@wellposed norm(abs(W), 2) <= 0.9": "E0702",
    "@wellposed monotone(abs(W); m = 0.1)": "E0702",
    "@wellposed norm(W, Inf) <= 0.9, norm(V, Inf) <= 0.9": "E0702",
    "@wellposed(x, h, unchecked)": "E0702",
    "@wellposed (x, unchecked)": "E0702",
    '@wellposed norm(A, Inf) <= 0.9; method = "parametrize"': "E0702",
    '@wellposed unchecked, method = "project"': "E0702",
    '@wellposed norm(A, Inf) <= 0.9, method = "projct"': "E0702",
    "@wellposed norm(A, Inf) <= 0.9, method = 2": "E0703",
    '@wellposed norm(A, Inf) <= 0.9, metod = "project"': "E0104",
    '@wellposed(norm(A, Inf) <= 0.9; method = "project", method = "project")': "E0104",
    "@wellposed norm(A) <= 0.9": "E0104",
    "@wellposed spectral(A, 2) <= 0.9": "E0104",
    "@wellposed nemon(A; κ = 0.9)": "E0104",
    "@wellposed nemon(A; m = 0.9, m = 0.9)": "E0104",
    "@wellposed norm(A, Inf; m = 0.9) <= 0.9": "E0104",
    "@wellposed norm(B, Inf) <= 0.9": "E0404",
    "@wellposed norm(system.D, Inf) <= 0.9": "E0404",
    "@wellposed norm(A + W, Inf) <= 0.9": "E0404",
    "@wellposed norm(system.A', Inf) <= 0.9": "E0404",
    "@wellposed norm(A[x, h], Inf) <= 0.9": "E0900",
    "@wellposed norm(x, Inf) <= 0.9": "E0404",
    "@wellposed norm(W*x, Inf) <= 0.9": "E0404",
    "@wellposed norm(b, Inf) <= 0.9": "E0404",
    "@wellposed norm(relu, Inf) <= 0.9": "E0404",
    "@wellposed norm(3, Inf) <= 0.9": "E0404",
    "@wellposed norm(MaxPool(2), Inf) <= 0.9": "E0404",
    "@wellposed norm(K[1] + K[2], Inf) <= 0.9": "E0404",
    "@wellposed norm(K[1]' + K[2], Inf) <= 0.9": "E0404",
    "@wellposed spectral(K[1]) <= 0.9": "E0404",
    "@wellposed monotone(K[1]; m = 0.1)": "E0404",
    "@wellposed nemon(K[1]; m = 0.1)": "E0404",
    "@wellposed norm(K, Inf) <= 0.9": "E0206",
    "@wellposed norm(K[3], Inf) <= 0.9": "E0206",
    "@wellposed norm(Q, Inf) <= 0.9": "E0101",
    "@wellposed norm(W + I(3), Inf) <= 0.9": "E0204",
    "@wellposed(u, unchecked)": "E0704",
    "@wellposed(W, unchecked)": "E0704",
    "@wellposed(nothing, unchecked)": "E0101",
    "@solver": "E0702",
    "@solver andersen(m = 5)": "E0702",
    "@solver anderson, picard": "E0702",
    "@solver(x, h, picard)": "E0702",
    "@solver 5": "E0702",
    "@solver tol = 1e-3": "E0104",
    "@solver anderson; tol = 1e-3": "E0702",
    "@solver anderson(5)": "E0104",
    "@solver picard(m = 5)": "E0104",
    "@solver anderson(memory = 5)": "E0104",
    "@solver picard(tol = 1, tol = 1)": "E0104",
    "@solver forward_backward(α = 1, alpha = 1)": "E0104",
    "@solver picard(tol = 0)": "E0703",
    "@solver picard(tol = 2)": "E0703",
    "@solver picard(maxiter = 0)": "E0703",
    "@solver picard(maxiter = 2.5)": "E0703",
    "@solver picard(damping = 1.5)": "E0703",
    "@solver anderson(m = 101)": "E0703",
    "@solver peaceman_rachford(α = 0)": "E0703",
    "@solver picard(per_sample = 1)": "E0703",
    '@solver picard(on_failure = "raises")': "E0703",
    "@solver picard(on_failure = 1)": "E0703",
    "@backward": "E0702",
    "@backward bptt": "E0702",
    "@backward jfb(1)": "E0104",
    "@backward neumann(0)": "E0703",
    "@backward neumann(1, 2)": "E0104",
    "@backward neumann(k = 1, terms = 2)": "E0104",
    "@backward phantom(τ = 0)": "E0703",
    "@backward phantom(τ = 1.1)": "E0703",
    "@backward(u, jfb)": "E0704",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_wrong_is_refused_with_one_message(line: str) -> None:
    assert codes(line) == [REFUSED[line]]


CLASHES = {
    "@solver picard\n@solver picard": ["E0705"],
    "@solver picard\n@solver anderson\n@solver newton": ["E0705", "E0705"],
    "@solver(z[1], picard)\n@solver(z[2], anderson)": ["E0705"],
    "@solver(x, picard)\n@solver(h, anderson)": [],
    "@solver picard\n@solver(h, anderson)": [],
    "for i in 1:2\n@solver picard(maxiter = i)\nend": ["E0705"],
    "@backward jfb\n@backward implicit": ["E0705"],
    "@backward unrolled\n@solver anderson": ["E0705"],
    "@backward unrolled\n@solver picard": [],
    "@backward unrolled": [],
    "@backward(x, unrolled)\n@solver anderson\n@solver(x, picard)": [],
    "@wellposed unchecked\n@wellposed norm(A, Inf) <= 0.9": ["E0705"],
    "@wellposed unchecked\n@wellposed norm(W, Inf) <= 0.9": [],
    "@wellposed\n@wellposed norm(W, Inf) <= 0.9": ["E0705"],
    "@wellposed norm(W, Inf) <= 0.9\n@wellposed": ["E0705"],
    "@wellposed\n@wellposed": ["E0705"],
    "@wellposed unchecked\n@wellposed(x, norm(A, Inf) <= 0.9)": [],
    "@wellposed norm(W, Inf) <= 0.9\n@wellposed norm(W, Inf) <= 0.8": ["E0705"],
    "@wellposed norm(W, Inf) <= 0.9\n@wellposed norm(V, Inf) <= 0.8": [],
    "@wellposed norm(W, Inf) <= 0.5\n@wellposed norm(A, Inf) <= 0.8": [],
    "@wellposed norm(W, Inf) <= 0.5\n@wellposed pf(A) <= 0.8": [],
    "@wellposed norm(W, Inf) <= 0.5\n@wellposed spectral(W) <= 0.8": ["E0705"],
    "@wellposed(x, spectral(A) <= 0.5)\n@wellposed norm(H, Inf) <= 0.8": [],
    "@wellposed(x, spectral(A) <= 0.5)\n@wellposed norm(W, Inf) <= 0.8": ["E0705"],
    '@wellposed norm(W, Inf) <= 0.5, method = "parametrize"\n@wellposed norm(A, Inf) <= 0.8': ["E0705"],
    "@wellposed(x, norm(A, Inf) <= 0.5)\n@wellposed norm(A, Inf) <= 0.8": [],
}


@pytest.mark.parametrize("lines", CLASHES)
def test_annotations_that_cannot_hold_together_are_refused(lines: str) -> None:
    assert codes(lines) == CLASHES[lines]


def test_a_clash_names_the_other_line() -> None:
    found = resolved(f"model M(n = 4)\n{LOOPS}\n@solver picard\n@solver newton\nend\n")[1]

    assert [(d.span.text, [label.span.text for label in d.labels]) for d in found] == [
        ("@solver newton", ["@solver picard"])
    ]


def test_suggestions_name_what_was_meant() -> None:
    assert "did you mean `norm`?" in messages("@wellposed norms(A, Inf) <= 0.9")[0]
    assert "did you mean `unchecked`?" in messages("@wellposed uncheked")[0]
    assert "did you mean `anderson`?" in messages("@solver andersen(m = 5)")[0]
    assert "did you mean `maxiter`?" in messages("@solver picard(max_iter = 5)")[0]
    assert "did you mean `m`?" in messages("@solver anderson(memory = 5)")[0]
    assert 'did you mean "raise"?' in messages('@solver picard(on_failure = "raises")')[0]
    assert "write `norm(A, Inf) <= 0.9`" in messages("@wellposed norm(A, Inf) < 0.9")[0]
    assert "write `norm(A, Inf) <= 0.9`" in messages("@wellposed 0.9 > norm(A, Inf)")[0]


def test_a_message_about_a_block_tells_the_instance() -> None:
    before = BLOCK.replace("picard", "picart")
    found = resolved(f"{before}model M()\ninput u[4]\noutput y = Cell(4)(u)\nend\n")[1]

    assert [(d.code, [frame.text for frame in d.path]) for d in found] == [("E0702", ["`Cell`"])]


def test_what_is_wrong_elsewhere_is_said_once() -> None:
    assert codes("layer Q = Dense(missing)\n@wellposed norm(Q, Inf) <= 0.9") == ["E0101"]
    assert codes("state w[n] ~ missing\n@solver(w, picard)") == ["E0101"]


@pytest.mark.parametrize("bound", ["spectral(A) <= 0.9", "monotone(A; m = 0.1)", "nemon(A; m = 0.9)"])
@pytest.mark.parametrize("equation", ["K*z", "Upsample(2)*(AvgPool(2)*z)"])
def test_a_criterion_of_the_matrix_itself_is_not_one_of_kernels(bound: str, equation: str) -> None:
    """The singular values of the kernels of a convolution are not those of its matrix, and so on."""
    body = f"input u[2, 6, 6]\nlayer K = Conv(2, 3; pad = 1)\nstate z[2, 6, 6] ~ relu({equation} + u)"
    body += "\noutput y = z"
    found = check(Source(f"model M()\n{body}\n@wellposed {bound}\nend\n")).diagnostics

    assert [d.code for d in found] == ["E0404"]


def test_a_matrix_that_is_named_is_kept_within_its_bound_where_nothing_is_proved() -> None:
    text = """
model M(n = 4)
    input G[n, n]
    param W[n, n] = normal(3)
    state x[n, n] ~ relu(matmul(G, W*x))
    output y = x
    @wellposed unchecked
    @wellposed norm(W, Inf) <= 0.5
end
"""
    (loop,) = check(Source(text)).models[0].loops
    module = implicit_dsl.loads(text).M()

    assert loop.guarantee is Guarantee.UNCHECKED and loop.rate is None
    assert module.W.abs().sum(1).max() <= 0.5
    with torch.no_grad():
        module.W.mul_(3)
    with pytest.raises(runtime.ConstraintError):
        module(torch.eye(4)[None])
    module.project_()
    assert module(torch.eye(4)[None]).shape == (1, 4, 4)


def test_a_loop_that_is_unchecked_is_not_bounded() -> None:
    """What names a state goes before what is said of all loops, in both directions."""
    body = """input u[4]
    param W[4, 4], V[4, 4]
    state x[4] ~ relu(W*x + u)
    state h[4] ~ LayerNorm()(V*h + x)
    output y = h"""
    for lines in (
        "@wellposed norm(A, Inf) <= 0.9\n@wellposed(h, unchecked)",
        "@wellposed unchecked\n@wellposed(x, norm(A, Inf) <= 0.9)",
    ):
        checked = check(Source(f"model M()\n{body}\n{lines}\nend\n"))
        (certified,) = checked.certified
        assert checked.diagnostics == ()
        assert [(g.states[-1], g.guarantee) for g in certified.groups if g.iterated] == [
            ("x", Guarantee.GAIN),
            ("h", Guarantee.UNCHECKED),
        ]
        assert [constraint.tensors for constraint in certified.constraints] == [("W",)]


# --------------------------------------------------------------------------- loops


def test_loops_are_the_states_that_reach_one_another() -> None:
    """Against the definition: i and j are in one loop if each can be reached from the other."""
    import itertools
    import random

    from implicit_dsl.graph import Edge, Node, Role
    from implicit_dsl.source import Span

    span = Span(Source(""), 0, 0)
    draw = random.Random(1)
    for _ in range(300):
        size = draw.randint(1, 7)
        names = [f"x{i}" for i in range(size)]
        arcs = [(a, b) for a, b in itertools.product(names, names) if draw.random() < 1.5 / size]
        reach = {(a, b) for a, b in arcs}
        for middle, a, b in itertools.product(names, names, names):
            if (a, middle) in reach and (middle, b) in reach:
                reach.add((a, b))
        found = loops_of(
            tuple(Node(name, Role.STATE, (1,), None, True, span) for name in names),
            tuple(Edge(a, b, (), span) for a, b in arcs),
        )
        assert set(found) == {name for name in names if (name, name) in reach}
        for a, b in itertools.combinations(found, 2):
            assert (found[a] == found[b]) == ((a, b) in reach and (b, a) in reach)


# --------------------------------------------------------------------------- states in loops


def test_shapes_of_states_in_loops() -> None:
    body = """input u[3, _, _]
    layer K = Conv(3, 3; pad = 1)
    state z[3, _, _] ~ relu(K*z + u)
    output y = z
    @wellposed norm(K, Inf) <= 0.9"""
    text = f"model M()\n{body}\nend\n"

    assert check(Source(text)).diagnostics == ()
    assert resolved(text)[0][0].by_name["z"].shape == (3, Size("u", 1), Size("u", 2))


def test_a_loop_keeps_the_shape_of_its_state() -> None:
    for equation in ("relu(K*z + u)", "relu(K*z)", "h + u"):
        body = (
            f"input u[3, 8, 8]\nlayer K = Conv(3, 3)\nstate z[3, 8, 8]\nh = K*z\nz ~ {equation}\noutput y = z"
        )
        (found,) = resolved(f"model M()\n{body}\nend\n")[1]
        assert (found.code, found.help) == ("E0203", "`pad = 1` gives [3, 8, 8]")


def test_every_order_of_the_lines_of_a_loop_is_the_same_program() -> None:
    import itertools

    lines = ["state z[4]", "z ~ h + u", "h = relu(g)", "state g[4] ~ W*z", "param W[4, 4]", "output y = h"]
    kinds = set()
    for order in itertools.permutations(lines):
        graphs, found = resolved("model M()\ninput u[4]\n" + "\n".join(order) + "\nend\n")
        assert found == []
        kinds.add(frozenset((e.source, e.target) for e in graphs[0].edges))
    assert len(kinds) == 1
