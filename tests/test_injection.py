"""Text of the user cannot become code: hostile names, strings, comments and file names."""

from __future__ import annotations

import ast
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import implicit_dsl
from implicit_dsl.errors import ImplicitError
from implicit_dsl.header import Provenance, provenance
from implicit_dsl.source import Source

HOSTILE = [
    '"""\nimport os; os._exit(1)\n"""',
    '\\"\\"\\"; raise SystemExit #',
    '"',
    '""',
    "\\",
    "\\\\",
    "'''; raise SystemExit",
    "\\N{BULLET} \\x41 \\u0041 \\",
    "{{ 7*7 }} {% raw %} {# #}",
    "# fmt: on\x0craise SystemExit",
    "line\u2028raise SystemExit\u2029\x85raise SystemExit",
    "\u202eevil\u202c \u2066x\u2069",
    "trailing backslash \\\\\\",
    "\x00",
    "{u.__class__} %s %(x)s {0}",
]


def run(text: str) -> tuple[str, types.ModuleType]:
    generated = implicit_dsl.compile(text)
    module = types.ModuleType("generated")
    exec(compile(generated, "generated.py", "exec"), module.__dict__)
    return generated, module


def skeleton(generated: str) -> str:
    """The code without its documentation and literals."""
    tree = ast.parse(generated)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)


def escaped(text: str) -> str:
    """As the content of a documentation comment."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


PLAIN = '''"""{doc}"""
model M(label = "{string}")
    input u[3]
    x ~ tanh(u)  # {comment}
    output y = x
end
'''


@pytest.mark.parametrize("text", HOSTILE)
def test_documentation_strings_and_comments_stay_what_they_are(text: str) -> None:
    harmless = skeleton(run(PLAIN.format(doc="doc", string="s", comment="c"))[0])
    line = text.replace("\n", " ").replace("\x0c", " ").replace("\x85", " ").replace("\r", " ")
    for program in (
        PLAIN.format(doc=escaped(text), string="s", comment="c"),
        PLAIN.format(doc="doc", string=escaped(text).replace("\n", "\\n"), comment="c"),
        PLAIN.format(doc="doc", string="s", comment=line),
        PLAIN.format(doc=text, string="s", comment="c"),
    ):
        try:
            generated, module = run(program)
        except ImplicitError:
            continue  # a diagnostic is as good
        assert harmless == skeleton(generated)
        assert module.M().state_dict() == {}


@given(st.text(max_size=40))
@settings(max_examples=150, deadline=None)
def test_any_documentation_survives(text: str) -> None:
    generated, _ = run(PLAIN.format(doc=escaped(text), string="s", comment="c"))
    harmless = skeleton(run(PLAIN.format(doc="doc", string="s", comment="c"))[0])

    assert harmless == skeleton(generated)
    assert provenance(generated) is Provenance.OURS


@pytest.mark.parametrize("name", ["evil\nimport os", 'a"""b', "a'; x = '", "\u202e.impl", "a\x00b", "a`b"])
def test_file_names_stay_in_their_comment(name: str) -> None:
    program = PLAIN.format(doc="doc", string="s", comment="c")
    generated = implicit_dsl.compile(Source(program, name))

    assert skeleton(implicit_dsl.compile(program)) == skeleton(generated)
    assert provenance(generated) is Provenance.OURS


@pytest.mark.parametrize(
    "name",
    [
        "class",
        "lambda",
        "None",
        "__init__",
        "__class__",
        "import",
        "self",
        "torch",
        "F",
        "nn",
        "Tensor",
        "runtime",
        "forward",
        "state_dict",
        "training",
        "system",
        "super",
        "ValueError",
        "print",
        "exec",
        "len",
        "κ",
        "ĥ",
        "x₁",
    ],
)
@pytest.mark.parametrize(
    "program",
    [
        "model M()\n    input {0}[3]\n    output y = tanh({0})\nend\n",
        "model M()\n    input u[3]\n    state {0}[3] ~ tanh(u)\n    output y = {0}\nend\n",
        "model M()\n    input u[3]\n    param {0}[3] = ones()\n    output y = tanh(u + {0})\nend\n",
        "model M()\n    input u[3]\n    layer {0} = Dense(2)\n    output y = {0}*u\nend\n",
        "model M()\n    input u[3]\n    output {0} = tanh(u), other = u\nend\n",
        "model {0}()\n    input u[3]\n    output y = tanh(u)\nend\n",
        "block {0}()\n    input u[3]\n    output y = Dense(2)*u\nend\n"
        "model M()\n    input u[3]\n    output y = {0}()(u)\nend\n",
    ],
)
def test_a_name_is_refused_or_works(program: str, name: str) -> None:
    import torch

    try:
        _, module = run(program.format(name))
    except ImplicitError as error:
        assert error.diagnostics
        return
    made = getattr(module, module.__all__[0])()
    result = made(torch.ones(2, 3))
    assert (result if isinstance(result, torch.Tensor) else result[0]).shape[0] == 2
    assert made.training is True
    made.load_state_dict(made.state_dict())
    made.system()


def test_parameters_from_outside_cannot_leave_their_place() -> None:
    program = PLAIN.format(doc="doc", string="s", comment="c")
    for value in ('"x"); import os; ("', "1\nend\nmodel N()", '"""', "`id`", "$(id)", "u"):
        try:
            generated = implicit_dsl.compile(program, parameters={"label": value})
        except ImplicitError:
            continue
        assert skeleton(implicit_dsl.compile(program)) == skeleton(generated)
