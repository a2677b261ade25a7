from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from implicit_dsl import _resources, syntax
from implicit_dsl.errors import Diagnostic, render
from implicit_dsl.parse import parse
from implicit_dsl.source import Source, Span

PROGRAMS = Path(__file__).with_name("programs")
TOUR = (PROGRAMS / "tour.impl").read_text(encoding="utf-8")
CODES = [f"E{number:04}" for number in range(9)]  # those of this stage


def read(text: str) -> tuple[syntax.Statement, ...]:
    program, diagnostics = parse(Source(text))
    assert diagnostics == (), "\n".join(render(d) for d in diagnostics)
    return program.body


def statement(text: str) -> Any:
    (only,) = read(text)
    return only


def expression(text: str) -> Any:
    bare = statement(text)
    assert isinstance(bare, syntax.Bare)
    return bare.value


def findings(text: str) -> tuple[Diagnostic, ...]:
    return parse(Source(text))[1]


def codes(text: str) -> list[str]:
    return [diagnostic.code for diagnostic in findings(text)]


def is_node(value: object) -> bool:
    return dataclasses.is_dataclass(value) and hasattr(value, "span")


def children(node: Any) -> Iterator[Any]:
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        for part in value if isinstance(value, tuple) and not isinstance(value, Span) else (value,):
            if is_node(part):
                yield part


def nodes(program: syntax.Program) -> Iterator[tuple[Any, Any]]:
    """Every node with its parent."""
    waiting: list[tuple[Any, Any]] = [(statement, None) for statement in program.body]
    while waiting:
        node, parent = waiting.pop()
        yield node, parent
        waiting += [(child, node) for child in children(node)]


def shown(node: Any) -> str:
    """A node with all its brackets and none of its spans."""
    match node:
        case syntax.Name(name=name):
            return name
        case syntax.Literal(value=value):
            return repr(value)
        case syntax.Binary(operator=operator, left=left, right=right):
            return f"({shown(left)} {operator} {shown(right)})"
        case syntax.Unary(operator=operator, operand=operand):
            return f"({operator}{shown(operand)})"
        case tuple():
            return f"[{' '.join(shown(part) for part in node)}]"
        case _ if dataclasses.is_dataclass(node):
            fields = [f.name for f in dataclasses.fields(node) if "span" not in f.name and f.name != "header"]
            return f"{type(node).__name__}({' '.join(shown(getattr(node, name)) for name in fields)})"
        case _:
            return str(node)


# --------------------------------------------------------------------------- expressions

PRECEDENCE = {
    "-x^2": "(-(x ^ 2))",
    "2^-1": "(2 ^ (-1))",
    "a^b^c": "(a ^ (b ^ c))",
    "a.^b": "(a .^ b)",
    "a - b - c": "((a - b) - c)",
    "a*b + c*d": "((a * b) + (c * d))",
    "a .+ b .- c": "((a .+ b) .- c)",
    "a ⊙ b ÷ c": "((a .* b) ÷ c)",
    "a ⋅ b ∘ c % d": "(((a * b) ∘ c) % d)",
    "a./b.*c": "((a ./ b) .* c)",
    "2.*x": "(2 .* x)",
    "K*(S*z)": "(K * (S * z))",
    "A'*x": "(Transpose(A) * x)",
    "A*x'": "(A * Transpose(x))",
    "x''": "Transpose(Transpose(x))",
    "1:n+1": "Range(1 None (n + 1))",
    "3:-1:1": "Range(3 (-1) 1)",
    "0..1": "Interval(0 1)",
    "0.0 .. Inf": "Interval(0.0 inf)",
    "u |> f |> g": "Pipe(Pipe(u f False) g False)",
    "u .|> f": "Pipe(u f True)",
    "a + b |> f": "Pipe((a + b) f False)",
    "a |> f <= 1": "Comparison([Pipe(a f False) 1] [<=])",
    "0 < x ≤ 1 ≠ y ≥ z": "Comparison([0 x 1 y z] [< <= != >=])",
    "x ∈ 1:3": "Comparison([x Range(1 None 3)] [in])",
    "x in y == z": "Comparison([x y z] [in ==])",
    "!a < b": "(!Comparison([a b] [<]))",
    "a || b && !c": "(a || (b && (!c)))",
    "a => b => c": "Pair(a Pair(b c))",
    "a => b || c": "Pair(a (b || c))",
    "x -> 2*x": "Lambda([x] (2 * x))",
    "x -> y -> x": "Lambda([x] Lambda([y] x))",
    "(x -> x)(u)": "Call(Lambda([x] x) [u] [] False)",
    "(x, y) -> x + y": "Lambda([x y] (x + y))",
    "(x, (y) -> x) -> y": "Lambda([x Lambda([y] x)] y)",
    "() -> f((a, b) -> b)": "Lambda([] Call(f [Lambda([a b] b)] [] False))",
    "f()": "Call(f [] [] False)",
    "f.(x)": "Call(f [x] [] True)",
    "f(a; k = 1)": "Call(f [a] [Keyword(k 1)] False)",
    "f(a, k = 1,)": "Call(f [a] [Keyword(k 1)] False)",
    "f(; k = 1, l = 2)": "Call(f [] [Keyword(k 1) Keyword(l 2)] False)",
    "a.b.c(x)[1]'": "Transpose(Index(Call(Field(Field(a b) c) [x] [] False) [1]))",
    "sum(x for x in y if x > 1)": (
        "Call(sum [Comprehension(x [Binding(x y)] Comparison([x 1] [>]))] [] False)"
    ),
    "[a for a in 1:2, b = c]": "Comprehension(a [Binding(a Range(1 None 2)) Binding(b c)] None)",
    "u[:, 1:3]": "Index(u [Colon() Range(1 None 3)])",
    "u[c = 3, h]": "Index(u [Axis(c 3) h])",
    "[]": "Sequence([] False)",
    "[1, x,]": "Sequence([1 x] False)",
    "()": "Sequence([] True)",
    "(1,)": "Sequence([1] True)",
    "(1, 2)": "Sequence([1 2] True)",
    "(1)": "1",
    "1_000.5e-3": "1.0005",
    "1_000": "1000",
    "∞": "inf",
    "true": "True",
    r'"a\"\\\n\t\u00e9"': repr('a"\\\n\té'),
    "over + as * extends": "(over + (as * extends))",
    "φ(x₁)": "Call(φ [x₁] [] False)",
    "_": "_",
}


@pytest.mark.parametrize("text", PRECEDENCE)
def test_precedence_is_julias(text: str) -> None:
    assert shown(expression(text)) == PRECEDENCE[text]


@pytest.mark.parametrize("text", PRECEDENCE)
def test_layout_does_not_matter(text: str) -> None:
    layouts = (text + "\n", "\n\n" + text, text + "  # c", "#= c =#" + text, text.replace(" ", " \t "))
    for layout in (
        *layouts,
        text + "\r\n",
        text + "\r",
        "\ufeff" + text,
        f"({text})",
        f"(\n{text}\n)",
        "\f" + text,
    ):
        assert shown(expression(layout)) == PRECEDENCE[text], layout


@pytest.mark.parametrize("text", PRECEDENCE)
def test_the_text_of_a_span_is_the_expression(text: str) -> None:
    assert expression(f"({text})").span.text == text or text.startswith("(")


@pytest.mark.parametrize(
    "text",
    [
        "a +\nb",
        "f(a,\n  b\n)",
        "u\n  |> f",
        "u # c\n  # d\n\n  |> f",
        "[1,\n2]",
        "x ~\n  y",
        "u |>\n f",
        "x\n.|> f",
        "state a,\n  b",
        "f.(\n)",
        "@a(\n1)",
        "f(a, # c\n\n b)",
        "x =\r\n 1",
        "[x\nfor x in y]",
        "(#=\n=# 1)",
    ],
)
def test_a_statement_goes_on(text: str) -> None:
    program, diagnostics = parse(Source(text))
    assert diagnostics == ()
    assert len({statement.span.line for statement in program.body}) <= 2


@pytest.mark.parametrize(
    "text", ["a\n+ b", "a; b", ";a;;b;", "a\rb", "a\n\n# c\n\n\nb", "a\r\nb", "(a)\n(b)"]
)
def test_a_new_statement_begins(text: str) -> None:
    assert len(read(text)) == 2


@pytest.mark.parametrize(
    "text", ["", "\n", "# c", "#= c\nd =#\n\n", "\r\n\r\n", "  \t\n", "\ufeff", ";", "\f"]
)
def test_nothing_is_a_program(text: str) -> None:
    assert read(text) == ()


def test_names_are_composed() -> None:
    assert expression("h\u0302").name == "ĥ"


# --------------------------------------------------------------------------- statements


def test_a_declaration_has_a_family_and_a_shape() -> None:
    z = statement("state z[s in 1:2][c[s], 8] in Tokens(3) = 0.5")
    assert (z.kind, z.name.name, z.relation) == ("state", "z", "=")
    assert shown(z.family) == "[Comparison([s Range(1 None 2)] [in])]"
    assert shown(z.shape) == "[Index(c [s]) 8]"
    assert shown(z.member) == "Call(Tokens [3] [] False)"


def test_a_layer_has_a_family_and_no_shape() -> None:
    layer = statement("layer K[1:2] = Conv(3)")
    assert layer.shape is None
    assert shown(layer.family) == "[Range(1 None 2)]"


def test_each_name_is_declared_by_itself() -> None:
    first, second = read("param A[2, 2], b ~ x")
    assert (first.span.text, second.span.text) == ("param A[2, 2]", "b ~ x")
    assert (first.relation, second.relation, second.family, second.shape) == ("", "~", None, None)


def test_parameters_of_a_template() -> None:
    template = statement("model M(a, b::Int = 2; c = 3,) extends base.Net(a)\n  x = 1\nend")
    formals = [
        (f.name.name, f.kind and f.kind.name, shown(f.default), f.keyword_only) for f in template.formals
    ]
    assert formals == [("a", None, "None", False), ("b", "Int", "2", False), ("c", None, "3", True)]
    assert shown(template.base) == "Call(Field(base Net) [a] [] False)"
    assert template.header.text == "model M(a, b::Int = 2; c = 3,) extends base.Net(a)"
    assert template.span.text.endswith("end")


def test_branches_end_with_their_last_statement() -> None:
    branches = statement("if (a) # c\nelseif b\n  x = (1)\n\nelse\n  y\nend").branches
    assert [branch.span.text for branch in branches] == ["if (a)", "elseif b\n  x = (1)", "else\n  y"]
    assert [branch.condition is None for branch in branches] == [False, False, True]


def test_imports() -> None:
    names, module, whole = read('import "a.impl": A, B as C\nimport a.b.c: D\nimport x')
    assert names.path == "a.impl"
    assert [(n.name.name, n.alias.name) for n in names.names] == [("A", "A"), ("B", "C")]
    assert (module.path, whole.path, whole.names) == (("a", "b", "c"), ("x",), ())


def test_an_annotation_is_a_line_or_a_call() -> None:
    line, call, empty = read("@sparse a <= 1, b\n@wellposed(norm(A); method = 2)\n@allow")
    assert (line.name.name, line.name.span.text, len(line.arguments)) == ("sparse", "sparse", 2)
    assert (len(call.arguments), call.keywords[0].name.name, call.span.text[-1]) == (1, "method", ")")
    assert empty.arguments == ()


def test_a_doc_comment_belongs_to_what_follows() -> None:
    text = (
        '"""Of the file."""\n"""Of M."""\nmodel M()\n"""Of both."""\ninput a, b\n"""Of none."""\nx = 1\nend\n'
    )
    program, diagnostics = parse(Source(text))
    (model,) = program.body
    assert isinstance(model, syntax.Template)
    assert diagnostics == ()
    assert (program.doc, model.doc) == ("Of the file.", "Of M.")
    assert [getattr(s, "doc", None) for s in model.body] == ["Of both.", "Of both.", None]


@pytest.mark.parametrize(
    ("text", "doc"), [('"""a"""\nmodel M()\nend', None), ('"""a"""\nx = 1', "a"), ('"""a"""', "a")]
)
def test_the_first_doc_comment_may_be_of_the_file(text: str, doc: str | None) -> None:
    assert parse(Source(text))[0].doc == doc


def test_a_doc_comment_loses_its_indentation() -> None:
    assert parse(Source('"""\n    a\n\n      b\n    """'))[0].doc == "a\n\n  b"
    assert parse(Source('"""a\n    b\n      c"""'))[0].doc == "a\nb\n  c"


# --------------------------------------------------------------------------- spans


def test_the_tour_parses_and_shows_every_construct() -> None:
    program, diagnostics = parse(Source(TOUR))
    assert diagnostics == ()
    assert program.doc == "A file may say what it is about.\n\n    Indentation inside a doc comment stays."
    kinds = {type(node) for node, _ in nodes(program)}
    classes = {c for c in vars(syntax).values() if isinstance(c, type) and dataclasses.is_dataclass(c)}
    assert classes - kinds == {syntax.Program}


def test_children_lie_inside_their_parents() -> None:
    for node, parent in nodes(parse(Source(TOUR))[0]):
        assert 0 <= node.span.start < node.span.end <= len(TOUR)
        if parent is not None:
            assert parent.span.start <= node.span.start <= node.span.end <= parent.span.end


def test_the_text_of_an_expression_gives_it_back() -> None:
    for node, parent in nodes(parse(Source(TOUR))[0]):
        skipped = syntax.Keyword | syntax.Colon | syntax.Axis | syntax.Binding
        generator = isinstance(node, syntax.Comprehension) and isinstance(parent, syntax.Call)
        if isinstance(node, syntax.Expression) and not isinstance(node, skipped) and not generator:
            assert shown(expression(f"({node.span.text})")) == shown(node)


def test_the_text_of_a_statement_gives_it_back() -> None:
    for node, parent in nodes(parse(Source(TOUR))[0]):
        if isinstance(node, syntax.Statement) and not isinstance(node, syntax.Declaration | syntax.Template):
            assert shown(statement(node.span.text)) == shown(node), parent


# --------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize("path", sorted((PROGRAMS / "bad").glob("syntax_*.impl")), ids=lambda path: path.stem)
def test_bad_programs_are_explained(path: Path, golden: Callable[[Path, str], None]) -> None:
    found = findings_of(path)
    assert found
    golden(path.with_suffix(".expected"), "\n\n".join(render(d) for d in found) + "\n")


def findings_of(path: Path) -> tuple[Diagnostic, ...]:
    return parse(Source(path.read_bytes().decode("utf-8"), path.name))[1]


def test_every_code_has_a_bad_program_and_a_page() -> None:
    found = {d.code for path in (PROGRAMS / "bad").glob("syntax_*.impl") for d in findings_of(path)}
    assert found == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_pages_show_what_is_wrong_and_what_is_right(code: str) -> None:
    page = _resources.read_text("explain", f"{code}.md")
    assert page.startswith(f"# {code}: ")
    assert len(page.splitlines()) <= 40
    wrong, right = re.findall(r"```impl\n(.*?)```", page, re.DOTALL)
    assert codes(wrong) == [code]
    assert codes(right) == []


@pytest.mark.parametrize(
    "text",
    [
        "u[1:end]",
        "x = ",
        "x ~ ~ y",
        "f(a b)",
        "a b",
        "2x",
        "end = 1",
        "for = 1",
        "x[",
        "input",
        "model",
        "@",
        "{1}",
        "1..",
        "1.",
        "x = y = z",
        "'a'",
        "a ? b : c",
        "state x[1][2][3]",
        "block B() extends C\nend",
        "f(,)",
        "(,)",
        "import",
        "open",
        "x = else",
        "if\nend",
        "[x for]",
        "a -> ",
        "-",
        "a.1",
        "1__0",
        'x = """a"""',
        "٣",
    ],
)
def test_bad_lines_are_refused(text: str) -> None:
    found = findings(text)
    assert found
    assert all(d.code.startswith("E00") for d in found)


@pytest.mark.parametrize(
    "text", ["a\x00", "\x00", "a = \ud800", '"\ud800"', "a\x0bb", "a\u2028b", "a\ufeff", "\x7f"]
)
def test_strange_characters_are_named(text: str) -> None:
    (found,) = findings(text)
    assert found.code == "E0001"
    render(found).encode("utf-8")


def test_the_rest_is_read_all_the_same() -> None:
    program, diagnostics = parse(
        Source("a = 1\nb = (\nmodel M(x\n  c = ]\n  d = 2\nend\nfor i\n  e = 3\nend\nf = 4")
    )
    assert [d.code for d in diagnostics] == ["E0002", "E0002", "E0000", "E0000"]
    a, model, loop, f = program.body
    assert isinstance(model, syntax.Template) and isinstance(loop, syntax.For)
    assert [part.span.text for part in (a, *model.body, *loop.body, f)] == [
        "a = 1",
        "d = 2",
        "e = 3",
        "f = 4",
    ]
    assert model.name.name == "M"


def test_a_header_survives_a_colon_at_its_end() -> None:
    program, diagnostics = parse(
        Source("model M(n = 1):\n  if n > 1:\n    x = 1\n  else:\n    x = 2\n  end\nend")
    )
    assert [d.code for d in diagnostics] == ["E0000"] * 3
    (model,) = program.body
    assert isinstance(model, syntax.Template)
    (choice,) = model.body
    assert len(model.formals) == 1
    assert shown(choice).count("Definition") == 2


def test_blocks_that_are_not_closed_are_kept() -> None:
    program, diagnostics = parse(Source("model M()\n  for i in 1:2\n    x = 1\nmodel N()\n  y = 2\n"))
    assert [d.code for d in diagnostics] == ["E0003", "E0003"]
    assert [t.name.name for t in program.body if isinstance(t, syntax.Template)] == ["M", "N"]


def test_an_end_left_over_by_a_misspelt_header_is_excused_once() -> None:
    assert codes("modle M()\n  x = 1\nend") == ["E0000"]
    assert codes("modle M()\n  x = 1\nend\nend") == ["E0000", "E0000"]


def test_at_most_twenty_errors_and_one_for_each_line() -> None:
    found = findings("a b c = = d\n" * 50)
    assert len(found) == 20
    assert len({d.span.line for d in found}) == 20


# --------------------------------------------------------------------------- limits

NESTED = [("(", ")"), ("[", "]"), ("f(", ")"), ("f.(", ")"), ("x[", "]"), ("-", ""), ("!", ""), ("x^", "")]
NESTED += [("x=>", ""), ("x->", ""), ("(1+", ")"), ("", ".a"), ("", "(y)"), ("", "'"), ("", "[1]")]
NESTED += [("for i in 1:2\n", "\nend"), ("if y\n", "\nend"), ("recurrent x over u\n", "\nend")]


@pytest.mark.parametrize(("before", "after"), NESTED)
def test_nesting_ends_at_a_hundred(before: str, after: str) -> None:
    assert codes(before * 100 + "x" + after * 100) == []
    for depth in (101, 150, 3000):
        assert codes(before * depth + "x" + after * depth) == ["E0005"]


def test_a_long_chain_is_not_nested() -> None:
    (total,) = read("x = " + " + ".join("a" * 20_000))
    (piped,) = read("x = a" + "\n |> f" * 20_000)
    assert isinstance(total, syntax.Definition) and isinstance(piped, syntax.Definition)
    length, node = 0, total.value
    while isinstance(node, syntax.Binary):
        length, node = length + 1, node.left
    assert length == 19_999


@pytest.mark.parametrize("text", ["x = " + "9" * 1_000_000, "x = 1e999", "x = 1" + "0" * 400 + ".0"])
def test_numbers_have_a_limit(text: str) -> None:
    assert codes(text) == ["E0006"]
    assert expression("9" * 4000).value == 10**4000 - 1
    assert expression("Inf").value == math.inf


HOSTILE = [
    "(",
    "[",
    "-",
    '"',
    "@",
    "model",
    "model\n",
    "\n",
    "x=",
    "x=\n",
    "for i in x\n",
    "((\n",
    ")",
    "f(",
    "x'",
    "a.",
]
HOSTILE += [
    "#=",
    '"""',
    '\\"""\n',
    "end\n",
    "if x;",
    "a|>",
    "a\n|>",
    "x:\n",
    "state x,\n",
    "(]",
    "\x00",
    "\r",
    " ",
    "1",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_grows_with_the_text(piece: str) -> None:
    def seconds(size: int) -> float:
        text = piece * (size // len(piece))
        start = time.process_time()
        findings(text)
        return time.process_time() - start

    seconds(1000)
    assert seconds(80_000) < 10 * seconds(20_000) + 0.1


def test_a_long_program_is_read_at_a_steady_pace() -> None:
    lines = "".join(f"    state h{i + 1}[64] ~ relu(Dense(64) * h{i})\n" for i in range(2000))
    start = time.process_time()
    (model,) = read(f"model Long()\n{lines}end\n")
    assert isinstance(model, syntax.Template) and len(model.body) == 2000
    assert time.process_time() - start < 2


# --------------------------------------------------------------------------- anything at all

PIECES = re.findall(r"\w+|\s+|[^\w\s]", TOUR)
FRAGMENTS = [
    "end",
    "(",
    ")",
    "[",
    "]",
    "~",
    "=",
    ",",
    ":",
    "\n",
    ";",
    "model",
    "for i in 1:3",
    "if",
    "else",
    "@a(",
]
FRAGMENTS += [
    '"',
    '"""',
    "'",
    "|>",
    "#=",
    "1.",
    "->",
    "..",
    "over",
    "as",
    "∈",
    "\x00",
    "\ud800",
    "\r",
    "end end",
    ":\n",
]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["drop", "double", "swap", "insert", "cut"]),
        st.integers(0, len(PIECES) - 2),
        st.sampled_from(FRAGMENTS),
    ),
    min_size=1,
    max_size=6,
)


def edited(edits: list[tuple[str, int, str]]) -> str:
    pieces = list(PIECES)
    for kind, place, fragment in edits:
        place = min(place, max(len(pieces) - 2, 0))
        match kind:
            case "drop":
                del pieces[place : place + 1]
            case "double":
                pieces[place:place] = pieces[place : place + 3]
            case "swap":
                pieces[place : place + 2] = reversed(pieces[place : place + 2])
            case "insert":
                pieces.insert(place, fragment)
            case _:
                del pieces[place + 200 :]
    return "".join(pieces)


def check_findings(text: str) -> None:
    program, found = parse(Source(text))
    for diagnostic in found:
        for span in (diagnostic.span, *(label.span for label in diagnostic.labels)):
            assert 0 <= span.start <= span.end <= len(text)
        assert render(diagnostic)
    for node, _ in nodes(program):
        assert 0 <= node.span.start <= node.span.end <= len(text)


@settings(max_examples=60, deadline=None)
@given(EDITS)
def test_slips_are_found_and_never_raise(edits: list[tuple[str, int, str]]) -> None:
    check_findings(edited(edits))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([*FRAGMENTS, " ", "x", "1", "f("]) | st.text(max_size=3), max_size=30).map(
        "".join
    )
)
def test_any_text_is_read_and_never_raises(text: str) -> None:
    check_findings(text)


def test_one_parse_leaves_nothing_to_the_next() -> None:
    texts = [TOUR, "f((", 'x = """', "model M(\n for", "x = 1"] * 4
    expected = [findings_text(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(findings_text, texts)) == expected


def findings_text(text: str) -> list[str]:
    return [render(diagnostic) for diagnostic in findings(text)]
