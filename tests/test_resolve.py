"""Names, control flow, blocks and shapes: what a program means as a graph."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from implicit_dsl.certify import certify
from implicit_dsl.compiler import check, read_source
from implicit_dsl.compiler import compile as compile_program
from implicit_dsl.errors import Diagnostic, Findings
from implicit_dsl.graph import Node, Role, SignalGraph
from implicit_dsl.names import TAKEN_ATTRIBUTES, identifier
from implicit_dsl.operators import linear_rule
from implicit_dsl.parse import parse
from implicit_dsl.resolve import resolve
from implicit_dsl.shapes import show
from implicit_dsl.source import Source

BLOCKS = """
block Cell(c)
    input x[c, _, _]
    layer K = Conv(c, 3; pad = 1)
    output y = relu(K*x + x)
end
block Split()
    input x[_]
    output a = Dense(2)*x, b = relu(x)
end
"""


def resolved(text: str) -> tuple[tuple[SignalGraph, ...], list[Diagnostic]]:
    source = Source(text)
    program, diagnostics = parse(source)
    findings = Findings(list(diagnostics))
    graphs, _ = resolve(program, findings, parse=parse, read=read_source)
    return graphs, list(findings)


def graph(body: str, head: str = "M(n = 4)", before: str = BLOCKS) -> SignalGraph:
    graphs, found = resolved(f"{before}\nmodel {head}\n{body}\nend\n")
    assert found == []
    (only,) = graphs
    verify(only)
    return only


def refusals(body: str, head: str = "M(n = 4)", before: str = BLOCKS) -> list[str]:
    return [d.code for d in resolved(f"{before}\nmodel {head}\n{body}\nend\n")[1]]


def edges(made: SignalGraph) -> list[str]:
    """`u -conv-> h`, in order."""
    return [f"{e.source} -{','.join(op.kind for op in e.chain)}-> {e.target}" for e in made.edges]


def states(made: SignalGraph) -> list[str]:
    return [
        f"{node.name}{show(node.shape)} {node.activation.kind if node.activation else '-'}"
        for node in made.nodes
        if node.role is Role.STATE
    ]


def verify(made: SignalGraph) -> None:
    """What holds of every graph."""
    blocks = {node.name: node for node in made.nodes if node.role is not Role.OUTPUT}
    outputs = {node.name: node for node in made.nodes if node.role is Role.OUTPUT}
    assert len(blocks) + len(outputs) == len(made.nodes), "names are unique"
    assert not {name for name, node in blocks.items() if node.role is Role.STATE} & set(outputs)
    for edge in made.edges:
        assert sum(linear_rule(operator).mixing for operator in edge.chain) <= 1
        shape = () if edge.source is None else blocks[edge.source].shape
        for operator in edge.chain:
            assert operator.source == shape
            shape = operator.target
        target: Node = outputs.get(edge.target) or blocks[edge.target]
        assert shape == target.slots
        assert all(op.kind != "place" for op in edge.chain[:-1] if len({*edge.chain}) == 1)
    assert {id for edge in made.edges for id in edge.parameters} == {p.id for p in made.parameters}
    read = set(outputs)
    while True:
        more = {e.source for e in made.edges if e.target in read and e.source is not None} - read
        if not more:
            break
        read |= more
    assert {node.name for node in made.nodes if node.role is Role.STATE} <= read, "all is reachable"


# --------------------------------------------------------------------------- equations and names


def test_nested_activations_are_named_states() -> None:
    made = graph("input u[4]\noutput y[2] = u |> Dense(3) |> relu |> Dense(3) |> tanh |> Dense(2)")
    assert states(made) == ["y.relu1[3] relu", "y.tanh1[3] tanh"]


def test_the_order_of_the_text_does_not_matter() -> None:
    lines = [
        "input u[n]",
        "output y = K*h",
        "layer K = Dense(m)",
        "h ~ tanh(g + u)",
        "g = relu(u)",
        "m = n - 1",
    ]
    forward, backward = graph("\n".join(lines)), graph("\n".join(reversed(lines)))
    assert set(edges(forward)) == set(edges(backward))
    assert {*states(forward)} == {*states(backward)}


def test_plain_names_of_a_loop_belong_to_one_iteration() -> None:
    body = "input u[n]\nh[0] = u\nfor i in 1:3\nwidth = n + i\ng = Dense(width)*h[i - 1]\nh[i] = relu(g)\nend"
    assert states(graph(body + "\noutput y = h[3]")) == ["h[1][5] relu", "h[2][6] relu", "h[3][7] relu"]
    assert refusals(body + "\noutput y = width*h[3]") == ["E0101"]


def test_declarations_in_a_loop_belong_to_one_iteration() -> None:
    body = """
    input u[n]
    h[0] = u
    for i in 1:2
        param W[n, n], b[n]
        state s[n]
        s ~ tanh(W*h[i - 1] + b)
        h[i] = s
    end
    output y = h[2]
    """
    made = graph(body)
    assert len(made.parameters) == 4
    assert states(made) == ["s[1][4] tanh", "s[2][4] tanh"]


def test_families_have_any_rank_and_labels() -> None:
    body = """
    input u[n]
    layer K[i in 1:2, j in 0:1] = Dense(n + i)
    state z[i in 1:2][n + i] ~ relu(K[i, 0]*u)
    state w["left"][n] ~ tanh(u)
    output y[i in 1:2][n + i] = z[i] + K[i, 1]*w["left"]
    """
    made = graph(body)
    assert states(made) == ["z[1][5] relu", "z[2][6] relu", "w[left][4] tanh"]
    assert [node.name for node in made.nodes if node.role is Role.OUTPUT] == ["y[1]", "y[2]"]
    assert [layer.name for layer in made.layers] == ["K_1_0", "K_2_0", "K_1_1", "K_2_1"]


def test_conditions_choose_and_loops_nest() -> None:
    body = """
    input u[n]
    h[0, 2] = u
    for i in 1:2, j in 1:2
        if j == 1
            h[i, j] ~ relu(h[i - 1, 2])
        elseif i in [1, 5] && !(j < 2)
            h[i, j] ~ tanh(h[i, j - 1])
        else
            h[i, j] ~ sigmoid(h[i, j - 1])
        end
    end
    output y = h[2, 2]
    """
    assert [s.split()[-1] for s in states(graph(body))] == ["relu", "tanh", "relu", "sigmoid"]


def test_comprehensions_filter_and_sum() -> None:
    body = "input u[n]\nlayer K[1:4] = Dense(2)\noutput y = sum(k*(K[k]*u) for k in 1:4 if k % 2 == 0)"
    assert edges(graph(body)) == ["u -dense,scale-> y", "u -dense,scale-> y"]


def test_functions_are_inlined_and_may_call_functions() -> None:
    before = "twice(f, x) = f(f(x))\nstep(x) = relu(Dense(4)*x)\n"
    made = graph("input u[n]\noutput y = twice(step, u) + twice(v -> tanh(v), u)", before=before)
    assert [s.split()[-1] for s in states(made)] == ["relu", "relu", "tanh", "tanh"]
    assert len(made.layers) == 2


def test_a_function_within_a_chain_makes_layers_of_its_own() -> None:
    made = graph("input u[n]\nstep(x) = relu(Dense(4)*x)\noutput y = chain(step, step)(u)")
    assert len(made.layers) == 2


# --------------------------------------------------------------------------- blocks and ties


def test_an_instance_applied_twice_shares_weights_and_not_states() -> None:
    made = graph("input u[3, 8, 8]\nlayer cell = Cell(3)\noutput y = cell(cell(u))")
    assert [layer.name for layer in made.layers] == ["cell_K"]
    assert [s.split("[")[0] for s in states(made)] == ["y.cell", "y.cell2"]


def test_two_constructors_have_two_weights() -> None:
    made = graph("input u[3, 8, 8]\noutput y = Cell(3)(Cell(3)(u))")
    assert len(made.layers) == 2


def test_layers_activations_and_functions_are_arguments_of_blocks() -> None:
    before = "block B(K, φ, f)\ninput x[_]\noutput y = φ(f(K*x))\nend\nhalf(x) = x / 2\n"
    body = "input u[n]\nlayer K = Dense(n)\noutput y = B(K, tanh, half)(B(K, relu, x -> -x)(u))"
    made = graph(body, before=before)
    assert [layer.name for layer in made.layers] == ["K"]
    assert edges(made)[:2] == [
        "u -dense,scale-> y.b",
        "y.b -dense,scale-> y.b2",
    ]


def test_blocks_make_blocks_and_hold_parameters() -> None:
    before = """
    block Inner(n)
        input x[n]
        param W[n, n]
        output y = tanh(W*x)
    end
    block Outer(n, B)
        input x[n]
        layer first = B(n), second = B(n)
        output y = second(first(first(x)))
    end
    """
    made = graph("input u[n]\nlayer o = Outer(n, Inner)\noutput y = o(u)", before=before)
    assert [p.id for p in made.parameters] == ["o_first_W", "o_second_W"]
    assert len(states(made)) == 3


def test_outputs_of_a_block_are_fields() -> None:
    body = "input u[n]\ns = Split()(u)\noutput y = s.a, z = s.b"
    assert edges(graph(body)) == ["u --> s.split.b", "u -dense-> y", "s.split.b --> z"]
    assert refusals("input u[n]\noutput y = Split()(u)") == ["E0207"]
    assert refusals("input u[n]\noutput y = Split()(u).c") == ["E0101"]


def test_a_model_extends_another() -> None:
    before = "model Base(n)\ninput u[n]\nstate h[n] ~ relu(u)\noutput y = h\nend\n"
    graphs, found = resolved(f"{before}model Big(m = 3) extends Base(m + 1)\noutput z = Dense(2)*h\nend\n")
    assert [d.code for d in found] == ["E0104"]  # Base has no size of its own
    graphs, found = resolved(
        before.replace("(n)", "(n = 2)") + "model Big() extends Base(4)\noutput z = -h\nend\n"
    )
    assert found == []
    assert [node.shape for node in graphs[1].nodes] == [(4,), (4,), (4,), (4,)]


# --------------------------------------------------------------------------- matrices and shapes


def test_matrices_are_made_of_matrices() -> None:
    before = "model Q(n = 4)\ninput u[n]\nparam A[n, n], F[n, n], P[2, n]\n"
    for text, wanted in {
        "(A + F)*u": ["u -matrix-> y", "u -matrix-> y"],
        "P'*P*u": ["u -matrix-> y.matrix1", "y.matrix1 -matrix-> y"],
        "(P' ∘ P)*u": ["u -matrix-> y.matrix1", "y.matrix1 -matrix-> y"],
        "(2*A - I(n))*u": ["u -matrix,scale-> y", "u -scale-> y"],
        "-(A')'*u / 2": ["u -matrix,scale-> y"],
        "sum([A, F])*u": ["u -matrix-> y", "u -matrix-> y"],
    }.items():
        graphs, found = resolved(f"{before}@allow unused_parameter\noutput y = {text}\nend\n")
        assert found == [], text
        assert edges(graphs[0]) == wanted, text


def test_numbers_scale_and_shift() -> None:
    made = graph("input u[n]\nparam b[n]\noutput y = 1 - 0.5*u / 2 + b - +(-u)")
    assert edges(made) == [
        "None -constant-> y",
        "u -scale-> y",
        "None -offset-> y",
        "u --> y",
    ]


def test_slices_and_concatenations_count_from_one() -> None:
    made = graph("input u[3, 4]\noutput y = cat(u[1, :], u[2:3, 4]; dim = 1), z = reshape(u[:, 1:2:3], 2, 3)")
    assert [node.shape for node in made.nodes if node.role is Role.OUTPUT] == [(6,), (2, 3)]
    assert made.edges[0].chain[0]["slices"] == (0, None)
    assert made.edges[1].chain[0]["slices"] == ((1, 1, 2), 3)


def test_free_sizes_flow_through_windows() -> None:
    made = graph("input u[3, _, _]\nh = AvgPool(2)*Conv(4, 3)*u\noutput y = Dense(2)*GlobalAvgPool()*h")
    assert made.nodes[-1].shape == (2,)


def test_free_sizes_agree_when_they_are_the_same_function() -> None:
    same = "input u[3, _, _]\na = Conv(4, 3; pad = 1)*u\nb = Conv(4, 5; pad = 2)*u\noutput y = a + b"
    other = "input u[3, _, _]\na = Conv(4, 3)*u\nb = Conv(4, 5)*u\noutput y = a + b"
    assert graph(same).nodes[-1].shape[0] == 4
    assert refusals(other) == ["E0204"]
    halves = "input u[3, _, _]\na = AvgPool(2)*AvgPool(2)*u\nb = AvgPool(4)*u\noutput y = a + b"
    assert graph(halves).nodes[-1].shape[0] == 3


# --------------------------------------------------------------------------- states


def test_linear_values_that_are_shared_are_one_state() -> None:
    made = graph("input u[n]\nh = Dense(n)*u\noutput y = relu(h) + tanh(h)")
    assert states(made)[0] == "h[4] -"
    assert edges(made)[0] == "u -dense-> h"


def test_dropout_read_twice_drops_once() -> None:
    made = graph("input u[n]\nd = Dropout(0.5)*u\noutput y = Dense(2)*d, z = d")
    assert [e for e in edges(made) if "dropout" in e] == ["u -dropout-> d"]


def test_a_concatenation_stands_at_the_root() -> None:
    made = graph("input u[n]\noutput y = Dense(2)*cat(u, relu(u)), z = cat(u, u) + cat(u, -u)")
    assert all(edge.chain[-1].kind == "place" for edge in made.edges if edge.target.endswith(".cat1"))
    assert "y.cat1[8] -" in states(made)
    assert edges(made)[-2:] == ["z.cat1 --> z", "z.cat2 --> z"]


def test_long_sums_and_chains_of_factors_stay_small() -> None:
    accumulated = (
        "input u[n]\nh[0] = u\nfor i in 1:300\nh[i] = 0.5*(h[i - 1] + relu(u))\nend\noutput y = h[300]"
    )
    made = graph(accumulated)
    assert len(made.edges) < 2000
    assert max(len(edge.chain) for edge in made.edges) <= 9


def test_names_of_states_are_unique() -> None:
    loops = "for i in 1:2\nh = relu(u)\nk[i] = h\nend\nfor i in 1:2\nh = tanh(u)\ng[i] = h\nend\n"
    made = graph(f"input u[n]\n{loops}output y = k[1] + k[2] + g[1] + g[2], h = u")
    assert [s.split("[4]")[0] for s in states(made)] == ["h[1]", "h[2]", "h[1]_2", "h[2]_2"]


# --------------------------------------------------------------------------- files


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "net" / "sub").mkdir(parents=True)
    (tmp_path / "secret.impl").write_text("block S()\ninput x[_]\noutput y = x\nend\n")
    (tmp_path / "net" / "blocks.impl").write_text(BLOCKS + "width = 7\nhalf(x) = x / 2\n")
    (tmp_path / "net" / "sub" / "deep.impl").write_text(
        'import "../blocks.impl": Cell\nblock D()\ninput x[3, _, _]\noutput y = Cell(3)(x)\nend\n'
    )
    (tmp_path / "net" / "a.impl").write_text('import "b.impl"\n')
    (tmp_path / "net" / "b.impl").write_text('import "a.impl"\n')
    (tmp_path / "net" / "latin.impl").write_bytes(b"block \xe9()\nend\n")
    os.symlink(tmp_path / "secret.impl", tmp_path / "net" / "link.impl")
    yield tmp_path / "net"


def codes_in(folder: Path, imports: str, body: str = "input u[3, 8, 8]\noutput y = u") -> list[str]:
    path = folder / "main.impl"
    path.write_text(f"{imports}\nmodel M()\n{body}\nend\n")
    return [d.code for d in check(read_source(str(path), "main.impl")).diagnostics]


@pytest.mark.parametrize(
    ("imports", "use"),
    [
        ('import "blocks.impl": Cell, width as w, half', "half(Dense(w)*Cell(3)(u))"),
        ('import "blocks.impl"', "Cell(3)(u)"),
        ("import blocks", "blocks.half(blocks.Cell(3)(u))"),
        ("import sub.deep", "deep.D()(u)"),
        ("import sub.deep: D as E", "E()(u)"),
    ],
)
def test_imports_bring_names(folder: Path, imports: str, use: str) -> None:
    assert codes_in(folder, imports, f"input u[3, 8, 8]\noutput y = {use}") == []


@pytest.mark.parametrize(
    ("imports", "code"),
    [
        ('import "missing.impl"', "E0801"),
        ('import "sub"', "E0803"),
        ('import "latin.impl"', "E0801"),
        ('import "a.impl"', "E0802"),
        ('import "main.impl"', "E0802"),
        ('import "blocks.impl": Cel', "E0804"),
        ('import "blocks.impl": Cell as class', "E0105"),
        ('import "../secret.impl"', "E0803"),
        ('import "sub/../../secret.impl"', "E0803"),
        ('import "link.impl"', "E0803"),
        ('import "/etc/hostname.impl"', "E0803"),
        ('import "\\u0000.impl"', "E0803"),
    ],
)
def test_imports_that_fail_say_why(folder: Path, imports: str, code: str) -> None:
    assert codes_in(folder, imports) == [code]


# --------------------------------------------------------------------------- names in Python


HOSTILE = ["class", "None", "True", "__init__", "__class__", "lambda", "import_", "self", "torch", "F", "nn"]
PLACES = {
    "input": "input {}[4]\noutput y = {}",
    "state": "input u[4]\nstate {}[4] ~ relu(u)\noutput y = {}",
    "param": "input u[4]\nparam {}[4]\noutput y = u + {}",
    "layer": "input u[4]\nlayer {} = Dense(4)\noutput y = {}*u",
    "definition": "input u[4]\n{} = relu(u)\noutput y = {}",
    "output": "input u[4]\noutput {} = u, y = u",
    "variable": "input u[4]\nfor {} in 1:2\nh[{}] = u\nend\noutput y = h[1]",
    "function": "input u[4]\n{}(x) = relu(x)\noutput y = {}(u)",
    "argument": "input u[4]\nf({}) = relu({})\noutput y = f(u)",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", [*HOSTILE, "forward", "_modules", "κ", "λ", "x̂", "ﬀ", "ℵ"])
def test_no_name_breaks_the_generated_file(place: str, name: str) -> None:
    text = f"model M()\n{PLACES[place].replace('{}', name)}\nend\n"
    found = check(Source(text)).diagnostics
    if any(d.code[0] == "E" for d in found):
        assert {d.code for d in found} <= {"E0105", "E0000"}
    else:
        assert {d.code for d in found} <= {"W0105"}
        compile(compile_program(text), "generated", "exec")


def test_names_of_models_and_parameters_are_checked_too() -> None:
    for name in ("class", "torch", "nn", "__all__", "None", "while"):
        codes = [d.code for d in resolved(f"model {name}()\ninput u[2]\noutput y = u\nend\n")[1]]
        assert codes == ["E0105"], name
    assert [d.code for d in resolved("model M(class = 1)\ninput u[2]\noutput y = u\nend\n")[1]] == ["E0105"]


def test_attributes_of_modules_are_never_taken() -> None:
    nn = pytest.importorskip("torch.nn")
    taken = {name for name in dir(nn.Module()) if not name.startswith("_")}
    assert taken <= TAKEN_ATTRIBUTES


@given(st.text(min_size=1, max_size=8))
def test_identifiers_are_plain_names_of_python(name: str) -> None:
    made = identifier(name)
    assert made.isascii() and made.isidentifier()


# --------------------------------------------------------------------------- limits


UNBOUNDED = {
    "a loop": "for i in 1:10^9\nh[i] = i\nend",
    "loops in loops": "\n".join(f"for i{k} in 1:2" for k in range(40)) + "\na = 1\n" + "end\n" * 40,
    "a comprehension": "a = [i for i in 1:10^9 if false]",
    "a family": "state z[1:10^5, 1:10^5][3]",
    "a sum": "a = sum(1:10^9)",
    "a power": "a = 2^999999",
    "a string": 's[0] = "aa"\nfor i in 1:100\ns[i] = s[i - 1] + s[i - 1]\nend',
    "a list": "s[0] = [1]\nfor i in 1:100\ns[i] = s[i - 1] + s[i - 1]\nend",
    "a shape": "a = reshape(u, 10^9, 10^9)",
    "a kernel": "a = Conv(10^9, 10^9; pad = 10^9)*reshape(u, 1, 2, 2)",
    "a concatenation": "h[0] = u\nfor i in 1:99\nh[i] = cat(h[i - 1], h[i - 1])\nend",
    "a function of itself": "f(x) = f(x) + f(x)\na = f(u)",
    "a function without end": "a = (x -> x(x))(x -> x(x))",
    "functions": "f0(x) = x\n"
    + "\n".join(f"f{i}(x) = f{i - 1}(x) + f{i - 1}(x)" for i in range(1, 40))
    + "\na = f39(u)",
    "matrices": "param A[4, 4]\nm[0] = A\nfor i in 1:60\nm[i] = m[i - 1]*m[i - 1]\nend\na = m[60]*u",
}


@pytest.mark.parametrize("body", UNBOUNDED.values(), ids=UNBOUNDED.keys())
def test_what_has_no_end_meets_a_limit(body: str) -> None:
    found = resolved(f"model M()\ninput u[4]\n{body}\noutput y = u\nend\n")[1]
    assert [d.code for d in found] in (["E0107"], ["E0208"])


def test_blocks_within_blocks_meet_a_limit() -> None:
    text = "block B0()\ninput x[4]\noutput y = relu(x)\nend\n"
    for i in range(1, 31):
        text += f"block B{i}()\ninput x[4]\noutput y = B{i - 1}()(B{i - 1}()(x))\nend\n"
    text += "block S()\ninput x[4]\noutput y = S()(x)\nend\n"
    use = "model M()\ninput u[4]\noutput y = {}()(u)\nend\n"
    assert [d.code for d in resolved(text + use.format("B30"))[1]] == ["E0107"]
    assert [d.code for d in resolved(text + use.format("S"))[1]] == ["E0107"]


def test_long_programs_are_not_deep_ones() -> None:
    n = 3000
    for body in (
        "h = u" + " + u" * n,
        "h = u" + " |> relu" * n,
        "h = " + "1 + " * n + "u",
        "a = true" + " && true" * n + "\nh = u",
        f"h = h{n}\nh0 = u\n" + "\n".join(f"h{i} = relu(h{i - 1})" for i in range(n, 0, -1)),
        f"k[0] = u\nfor i in {n}:-1:1\nk[i] ~ tanh(k[i - 1])\nend\nh = k[{n}]",
    ):
        made = graph(f"input u[4]\n{body}\noutput y = h")
        certified = certify(made, Findings())
        assert certified is not None


# --------------------------------------------------------------------------- never an exception


_VALUES = """
1 0 -2 2.5 true "s" Inf [1,2] [] (1,2) 1:3 3:1 u v w W b T K D MP r fam fam[1] k k[0] two two.a seq f
relu cat Conv Dense size n x->x (3=>4) [u,u] W' 2*W I(4) zeros() glorot() M prev A _ u[1] v[1,:,2:3]
2^3000 sum ifelse missing
"""
VALUES = _VALUES.split()
_OPERATORS = """
+ - * / .* ./ % ÷ ∘ ^ .^ && || < == in => |> .|> : ..
"""
OPERATORS = _OPERATORS.split()
STATEMENTS = [
    "q = {a} {o} {b}",
    "output q = {a} {o} {b}",
    "q ~ ({a})({b})",
    "q = ({a})({b}, {a}; dim = {b})",
    "q = ({a}).({b})",
    "q = ({a})[{b}]",
    "q = ({a})[{b}, :]",
    "q = [i for i in {a} if {b}]",
    "q = -({a}), ({b})'",
    "state q[{a}] ~ {b}",
    "state q[i in {a}][4] ~ {b}",
    "param q[{a}] = {b}",
    "layer q = {a}",
    "input q[{a}]",
    "{a} = {b}",
    "{a} ~ {b}",
    "({a})(q) = {b}",
    "for i in {a}\nq = {b}\nend",
    "if {a}\nq = {b}\nend",
    "@allow {a}",
    "open {a}",
    "import {a}",
    "recurrent x over {a}\nq ~ {b}\nend",
]
FRAME = """
block R(n = 4)
  input x[_]
  output y = relu(x)
end
block Two()
  input x[_]
  output a = x, b = relu(x)
end
model M(n = 4, l = [1, 2])
  input u[4], v[2, 6, 6], w[_, 4]
  param W[4, 4], b[4], T[2, 2, 2]
  layer K = Conv(3, 3), D = Dense(4), MP = MaxPool(2), r = R(4)
  layer fam[i in 1:2] = Dense(4)
  k[0] = u
  k[1] = relu(u)
  two = Two()(u)
  seq = chain(D, relu)
  f(x) = D*x
  %s
  output y = u
end
"""


@st.composite
def confused(draw: st.DrawFn) -> str:
    """Any statement with any values in it, anywhere."""
    value, operator = st.sampled_from(VALUES), st.sampled_from(OPERATORS)
    lines = [
        template.format(a=draw(value), b=draw(value), o=draw(operator)).replace("q", f"q{number}", 1)
        for number, template in enumerate(draw(st.lists(st.sampled_from(STATEMENTS), min_size=1, max_size=4)))
    ]
    wrap = draw(st.sampled_from(["{}", "for j in 1:2\n{}\nend", "if true\n{}\nend"]))
    return FRAME % wrap.format("\n".join(lines))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(confused())
def test_confused_programs_get_diagnostics(text: str) -> None:
    graphs, _ = resolved(text)
    for made in graphs:
        verify(made)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_mutants_of_programs_get_diagnostics(data: st.DataObject) -> None:
    words = (FRAME % "h ~ r(seq(u)) + two.b\n  output z = flatten(K*v), h2 = h").split(" ")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(words) - 1))
        choice = data.draw(st.sampled_from(["drop", "double", "swap", "replace"]))
        other = data.draw(st.integers(0, len(words) - 1))
        if choice == "drop" and len(words) > 1:
            del words[at]
        elif choice == "double":
            words.insert(at, words[at])
        elif choice == "swap":
            words[at], words[other % len(words)] = words[other % len(words)], words[at]
        else:
            words[at] = data.draw(st.sampled_from([*VALUES, *OPERATORS, "end", "(", "\n"]))
    graphs, _ = resolved(" ".join(words))
    for made in graphs:
        verify(made)


def test_an_input_is_no_output_by_its_own_name() -> None:
    graphs, found = resolved("model M\n  input u[4]\n  output u\nend\n")
    assert not graphs
    assert [(d.code, d.help) for d in found] == [("E0302", "write `output y = u`")]


def test_what_has_no_effect_is_named_as_the_source_names_it() -> None:
    text = """model M
  input u[4]
  param W[1:2][4, 4], κ[4]
  layer K[s in 1:2] = Dense(4 => 4)
  output y = W[1]*u + K[1]*u + K[2]'*u
end
"""
    _, found = resolved(text)
    named = [d.message.split("`")[1] for d in found if d.code == "W0501"]
    assert named == ["W[2]", "κ", "K[2]"]
