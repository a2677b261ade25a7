"""What the compiler says: one message for one cause, and a page for each code."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from implicit_dsl import _resources
from implicit_dsl.compiler import check, read_source
from implicit_dsl.errors import Diagnostic, render
from implicit_dsl.source import Source

HERE = Path(__file__).parent
BAD = [path for path in sorted((HERE / "programs" / "bad").glob("*.impl")) if "syntax" not in path.stem]
PACKAGE = HERE.parent / "implicit_dsl"
CODES = sorted(
    {
        code
        for path in PACKAGE.rglob("*.py")
        for code in re.findall(r'"((?:E0[1-9]|W0)\d{2,3})"', path.read_text(encoding="utf-8"))
    }
)
# A file that imports itself, one that lacks a name, and one called like the library take more than the
# page: what it gives alone. Of the first two there are bad programs that import one another.
NEEDS_FILES = {"E0802": {"E0801"}, "E0804": {"E0801"}, "W0801": set()}


def findings(text: str, pedantic: bool = False) -> tuple[Diagnostic, ...]:
    return check(Source(text), pedantic=pedantic).diagnostics


def findings_of(path: Path) -> tuple[Diagnostic, ...]:
    return check(read_source(str(path), path.name), pedantic=path.stem == "pedantic").diagnostics


def fenced(page: str, heading: str) -> str:
    found = re.search(rf"^## {heading}\n+```impl\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert found, f"no program under {heading}"
    return found[1]


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad_programs_are_explained(path: Path, golden: Callable[[Path, str], None]) -> None:
    found = findings_of(path)
    assert found
    golden(path.with_suffix(".expected"), "\n\n".join(render(d) for d in found) + "\n")


def test_every_code_has_a_bad_program() -> None:
    shown = {d.code for path in BAD for d in findings_of(path)}
    assert set(CODES) - shown == {"W0801"}  # that needs a folder of its own


@pytest.mark.parametrize("code", CODES)
def test_pages_show_what_is_wrong_and_what_is_right(code: str) -> None:
    page = _resources.read_text("explain", f"{code}.md")
    assert page.startswith(f"# {code}: ")
    assert len(page.splitlines()) <= 40
    pedantic = code.startswith("W09")
    assert findings(fenced(page, "Right"), pedantic) == ()
    wrong = {d.code for d in findings(fenced(page, "Wrong"), pedantic)}
    assert not pedantic or not findings(fenced(page, "Wrong"))
    assert wrong == NEEDS_FILES.get(code, {code})


IN_A_STEP = """
model M(n = 4)
    input u[_, 3], x0[n]
    param W[n, n] = zeros(), U[n, 3]
    recurrent x over u
        state h[n] = x0
        h ~ tanh(W*(h + prev(h)) + U*x)
    end
    ode t in 0..1
        state z[n] = last(h)
        D(z) ~ z
    end
    output y = last(z)
    @wellposed norm(W, Inf) <= 0.999
    @solver picard
end
"""


def test_remarks_look_into_steps_and_through_them() -> None:
    assert [found.code for found in findings(IN_A_STEP, pedantic=True)] == ["W0902", "W0903", "W0904"]


def test_every_page_is_of_a_code_in_use() -> None:
    pages = {path.stem for path in (PACKAGE / "explain").glob("[EW]*.md")}
    assert {page for page in pages if not page.startswith("E00")} == set(CODES)


# --------------------------------------------------------------------------- one cause, one message


CASCADES = {
    "an unknown name": "h = foo*u\ng ~ relu(h)\nk = g + h\noutput y = k",
    "a refused equation": "state h[3] ~ Dense(4)*u\ng = relu(h)\noutput y = g + h",
    "a refused declaration": "param A[4, 4] in Banded(1, 1)\nh ~ relu(A*u)\noutput y = A'*h",
    "a refused family": "layer K[i in 1:missing] = Dense(4)\nh = K[1]*u\noutput y = K[2]*h",
    "a loop that cannot run": "for i in 1:missing\nh[i] = u\ng = 1\nend\noutput y = h[3]",
    "a condition that is unknown": "if missing\nh = u\nend\noutput y = relu(h)",
    "an unsupported block": "recurrent x over u\nh ~ prev(h) + x\nend\noutput y = last(h)",
    "a member that is wrong": "h[0] = u\nfor i in 1:5\nh[i] ~ W*h[i - 1]\nend\noutput y = h[5]",
    "a reserved name": "lambda = u\noutput y = relu(lambda)",
    "a name defined by itself": "a = b + u\nb = a + u\nc = a + b\noutput y = c",
    "a line that could not be read": "state h[4] ~ relu(u\ng = h + h\noutput y = g",
    "a wrong input": "input v[missing]\nh = relu(v)\noutput y = u + v + h",
}


@pytest.mark.parametrize("body", CASCADES.values(), ids=CASCADES.keys())
def test_one_cause_gives_one_message(body: str) -> None:
    assert len(findings(f"model M()\ninput u[4]\n{body}\nend\n")) == 1


def test_a_failed_import_gives_one_message() -> None:
    text = 'import "nowhere.impl": A, B as C\nimport gone\n'
    text += "model M()\ninput u[4]\nh = A(1)(u) |> C()\noutput y = gone.D(h)\nend\n"
    assert [d.code for d in findings(text)] == ["E0801", "E0801"]
    whole = 'import "nowhere.impl"\nmodel M()\ninput u[4]\noutput y = Anything(1)(u)\nend\n'
    assert [d.code for d in findings(whole)] == ["E0801"]


def test_independent_mistakes_are_all_found() -> None:
    body = "a = foo*u\nb = Conv(3, 3)*u\nc = u + 2^99999\nstate d[5] ~ u\noutput y = u"
    codes = [d.code for d in findings(f"model M()\ninput u[4]\n{body}\nend\n")]
    assert codes == ["E0101", "E0201", "E0208", "E0202"]


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_findings_stand_in_the_order_of_the_text(path: Path) -> None:
    found = [d for d in findings_of(path) if "E00" not in d.code]
    starts = [d.span.start for d in found if not d.code.startswith(("E04", "E0604"))]  # of loops: found last
    assert starts == sorted(starts)


def test_suggestions_know_twins_in_greek_and_other_frameworks() -> None:
    def text_of(body: str) -> str:
        return findings(f"model M()\ninput u[4], κ[4]\nlayer inject = Dense(4)\n{body}\nend\n")[0].text

    assert text_of("output y = u + kappa") == "did you mean the input `κ`?"
    assert text_of("output y = injct*u + κ") == "did you mean the layer `inject`?"
    assert text_of("output y = Linear(3)*u + κ") == "did you mean the built-in `Dense`?"
    assert text_of("output y = ReLU(u + κ)") == "did you mean the built-in `relu`?"
    assert text_of("output y = foo*u + κ") == "not defined here"
    assert text_of("output y = u + κ + Linear[3]") == "not defined here"
    assert text_of("cell = u\noutput y = cel(κ)") == "did you mean `cell`?"
    assert text_of("state rel[4] ~ u + κ\noutput y = reli(rel)") == "did you mean the built-in `relu`?"
    assert text_of("state sing[4] ~ u + κ\noutput y = sng[2] + sing") == "did you mean the state `sing`?"


def test_a_message_tells_the_instance_it_is_about() -> None:
    text = "block A(c)\ninput x[_]\noutput y = Dense(c)*x + x\nend\n"
    text += "block B(c)\ninput x[_]\noutput y = A(c)(x)\nend\n"
    text += "model M()\ninput u[4]\noutput y = B(3)(u)\nend\n"
    (found,) = findings(text)
    assert [(frame.text, frame.span.line) for frame in found.path] == [("`A`", 7), ("`B`", 11)]
