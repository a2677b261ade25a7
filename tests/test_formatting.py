"""The layout of programs: it is settled, it changes no meaning, it keeps comments, and it looks as it should.

`programs/messy` holds programs in disorder, `golden/formatting` what becomes of them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import comments, random_source, shaken
from random_loops import random_loop
from random_programs import RandomProgram, programs

from implicit_dsl import formatting
from implicit_dsl.formatting import Spelling, formatted
from implicit_dsl.formatting.documents import WIDTH
from implicit_dsl.formatting.same import same
from implicit_dsl.parse import parse
from implicit_dsl.source import Source

HERE = Path(__file__).parent
MESSY = sorted((HERE / "programs" / "messy").glob("*.impl"))
EXAMPLES = sorted((HERE.parent / "examples").glob("*.impl"))
PAGES = [
    HERE.parent / "README.md",
    *sorted((HERE.parent / "docs").glob("*.md")),
    *sorted((HERE.parent / "implicit_dsl" / "explain").glob("*.md")),
]
_BLOCK = re.compile(r"(^```impl\n)(.*?)(^```)", re.MULTILINE | re.DOTALL)
WRITTEN = [path.read_text(encoding="utf-8") for path in (*EXAMPLES, *MESSY, HERE / "programs" / "tour.impl")]

LAWS = settings(max_examples=25, deadline=None)


def laid_out(text: str, spelling: Spelling = Spelling.AS_WRITTEN) -> str:
    made, diagnostics = formatted(Source(text), spelling)
    assert made is not None, diagnostics
    return made


def lawful(text: str) -> str:
    """The layout of a program, which obeys the laws of layouts."""
    made = laid_out(text)
    before, after = parse(Source(text)), parse(Source(made))
    assert not after[1]
    assert same(before[0], after[0])
    assert comments(text) == comments(made)
    assert laid_out(made) == made
    lines = made.split("\n")
    assert all(line == line.rstrip() for line in lines)
    assert not made or (made.endswith("\n") and made.strip())
    assert "\n\n\n" not in "\n".join(line for line in lines) or '"""' in made or "#=" in made
    return made


# --------------------------------------------------------------------------- the style


@pytest.mark.parametrize("path", MESSY, ids=lambda path: path.stem)
def test_messy_programs_become_tidy(path: Path, golden: Callable[[Path, str], None]) -> None:
    made = lawful(path.read_text(encoding="utf-8"))
    golden(HERE / "golden" / "formatting" / path.name, made)
    assert all(len(line) <= WIDTH for line in made.split("\n"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_formatted(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert laid_out(text) == text, f"run `implicitc fmt {path}`"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_programs_of_the_documentation_are_formatted(
    path: Path, golden: Callable[[Path, str], None]
) -> None:
    """All but those that show an error of syntax. `pytest --update-golden` formats them."""

    def tidy(block: re.Match[str]) -> str:
        made, _ = formatted(Source(block[2]))
        return block[0] if made is None else f"{block[1]}{made}{block[3]}"

    golden(path, _BLOCK.sub(tidy, path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("y=A*x+B*u", "y = A*x + B*u"),
        ("y = W * x", "y = W*x"),
        ("y=Dense(10)*x", "y = Dense(10) * x"),
        ("y = Dense(2) * x + b", "y = Dense(2)*x + b"),
        ("y = up * (Upsample(2) * z) + u", "y = up*(Upsample(2)*z) + u"),
        ("y = f(Dense(2)*x + b) * z", "y = f(Dense(2)*x + b) * z"),
        ("y = a.*f(b)", "y = a .* f(b)"),
        ("y = 2 * n÷2 ^ s", "y = 2*n ÷ 2^s"),
        ("y = x[ i-1,: ]", "y = x[i - 1, :]"),
        ("y = x[1 : n+1]", "y = x[1:n+1]"),
        ("y = 1:2 * n:m", "y = 1:2*n:m"),
        ("y = - x ^ 2", "y = -x^2"),
        ("y = ! a==b", "y = !a == b"),
        ("y = f( x;k=1 )", "y = f(x; k = 1)"),
        ("y = f( ;k=1 )", "y = f(; k = 1)"),
        ("y = f(x, ;k=1,)", "y = f(x; k = 1)"),
        ("y = (1,)", "y = (1,)"),
        ("y = (1,2,)", "y = (1, 2)"),
        ("y = x->x|>f", "y = x -> x |> f"),
        ("y = W ' * x", "y = W'*x"),
        ("y = [a for i in 1:3,j=2:3 if i<j]", "y = [a for i in 1:3, j = 2:3 if i < j]"),
        ("y = std.f.( x )", "y = std.f.(x)"),
        ("@solver (z,picard)", "@solver (z, picard)"),  # a tuple, which is another thing than
        ("@solver(z,picard)", "@solver(z, picard)"),
        ("a = 1;b = 2", "a = 1\nb = 2"),
        ("y = 1_000+1e5", "y = 1_000 + 1e5"),
        ("x~(\n1\n)", "x ~ (1)"),
        ("ab  = 1\nc   = 2\nabc = f(\n1)", "ab  = 1\nc   = 2\nabc = f(1)"),  # aligned by the author
        ("ab  = 1\nc = 2", "ab = 1\nc = 2"),  # only by chance
        ("a  = 1\nb  ~ 2", "a = 1\nb ~ 2"),  # not the same sign
        ("a = 1 # x\nbcd = 2     # y\nc = 3 # z", "a = 1    # x\nbcd = 2  # y\nc = 3    # z"),
        (f"ab     = {'x' * 103}\nlonger = 1", f"ab = {'x' * 103}\nlonger = 1"),  # too wide to be aligned
        (f"ab = 1 # {'x' * 97}\nlonger = 1 # y", f"ab = 1  # {'x' * 97}\nlonger = 1  # y"),
        ('"""\n  a line\n"""\nx', '"""a line"""\nx'),
        ('"""a\n   b\n     c"""\nx', '"""\na\nb\n  c\n"""\nx'),
        ('"""say "so" """\nx', '"""\nsay "so"\n"""\nx'),
        ("\n\n\nx\n\n\n\ny\n\n", "x\n\ny"),
    ],
)
def test_how_lines_look(written: str, expected: str) -> None:
    assert lawful(written) == expected + "\n"


def test_line_breaks_of_the_author_are_kept_in_pipelines_and_declarations() -> None:
    kept = "y = u\n    |> f |> g\n    |> h\nparam A[n, n], B[n, p],\n      b[n] = zeros()\n"

    assert laid_out(kept) == kept


def test_the_last_line_and_the_kind_of_line_ends_do_not_matter() -> None:
    text = WRITTEN[0]

    assert laid_out(text.replace("\n", "\r\n")) == laid_out("\ufeff" + text.rstrip("\n")) == laid_out(text)
    assert laid_out("") == laid_out("\n\n  \n") == ""
    assert laid_out("# only a comment") == "# only a comment\n"


# --------------------------------------------------------------------------- spelling


def test_signs_are_spelled_as_wanted() -> None:
    unicode = "x ~ a ⊙ b\nfor i ∈ 1:n\n    c = κ ≤ ∞ && a ≠ b ≥ c\nend\n"
    plain = "x ~ a .* b\nfor i in 1:n\n    c = κ <= Inf && a != b >= c\nend\n"

    assert laid_out(unicode, Spelling.ASCII) == plain
    assert laid_out(plain, Spelling.UNICODE) == unicode
    assert laid_out("y = V ⋅ W\n", Spelling.ASCII) == "y = V*W\n"
    assert laid_out("y = V*W\n", Spelling.UNICODE) == "y = V*W\n"
    assert laid_out('y = "∞ in"  # ∞ in\n', Spelling.ASCII) == 'y = "∞ in"  # ∞ in\n'


# --------------------------------------------------------------------------- the laws, at random


@LAWS
@given(seed=st.integers(0, 10**9), rate=st.sampled_from((0.0, 0.02, 0.2)))
def test_programs_of_the_repository_with_another_layout(seed: int, rate: float) -> None:
    chance = random.Random(seed)
    text = chance.choice(WRITTEN)
    other = shaken(text, chance, rate)

    assert same(parse(Source(text))[0], parse(Source(other))[0])
    lawful(other)


@LAWS
@given(program=programs(), seed=st.integers(0, 10**9))
def test_random_networks(program: RandomProgram, seed: int) -> None:
    lawful(program.text)
    lawful(shaken(program.text, random.Random(seed)))


@LAWS
@given(seed=st.integers(0, 10**9))
def test_random_loops(seed: int) -> None:
    lawful(shaken(random_loop(seed), random.Random(seed)))


@LAWS
@given(seed=st.integers(0, 10**9))
def test_random_syntax(seed: int) -> None:
    """All constructs in each other, whatever they mean, in lines that are too long more often than not."""
    chance = random.Random(seed)
    text = random_source(chance)
    assert not parse(Source(text))[1]
    lawful(text)
    lawful(shaken(text, chance))
    for spelling in Spelling:
        laid_out(text, spelling)


def test_deep_and_long_programs() -> None:
    deep = "y = " + "(" * 90 + "a + b*c" + ")" * 90
    nested = "y = " + "f(a + b*" * 45 + "x" + ")" * 45
    long = "y = " + " + ".join(f"W{i}*x{i}" for i in range(3000))
    piped = "y = x" + " |> f" * 3000

    for text in (deep, nested, long, piped):
        lawful(text)


# --------------------------------------------------------------------------- what must not be written


def test_a_text_with_errors_is_not_laid_out() -> None:
    made, diagnostics = formatted(Source("model M\n  x ~ (\nend\n"))

    assert made is None
    assert [one.code for one in diagnostics]


def test_a_layout_that_would_change_the_meaning_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formatting, "layout", lambda source, spelling: source.text.replace("+", "-"))

    with pytest.raises(AssertionError, match="meaning"):
        formatted(Source("y = a + b\n"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("y = 1", "y = 1.0"),
        ("y = true", "y = 1"),
        ("y = a + b", "y = a - b"),
        ("y = a*(b*c)", "y = a*b*c"),
        ("y = (a,)", "y = (a)"),
        ("y = f(a; k = 1)", "y = f(a; l = 1)"),
        ("y = a", "y ~ a"),
        ('"""a"""\nmodel M\nend', '"""b"""\nmodel M\nend'),
        ("model M(a; b)\nend", "model M(a, b)\nend"),
        ("model M\nend", "block M\nend"),
        ("@solver (z, p)", "@solver(z, p)"),
    ],
)
def test_different_syntax_is_told_apart(one: str, other: str) -> None:
    left, right = (parse(Source(text + "\n"))[0] for text in (one, other))

    assert same(left, left)
    assert not same(left, right)
