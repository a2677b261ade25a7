"""What a small text can ask for is limited: a diagnostic comes, and comes soon.

Time is that of the processor. The bound is the stated one, two seconds; what is linear in the text
takes a fraction of it.
"""

from __future__ import annotations

import time

import pytest

from implicit_dsl.compiler import LARGEST_SOURCE, check
from implicit_dsl.emit import emit
from implicit_dsl.errors import MOST_SHOWN, Diagnostic, ImplicitError, render
from implicit_dsl.source import Source

SECONDS = 2.0  # on a processor of the year 2020 that is not shared
REFERENCE = 0.02  # what `reference` takes on one


def model(body: str, before: str = "") -> str:
    return f"{before}\nmodel M\n    input u[4]\n    {body}\nend\n"


def doubled(first: str, again: str, times: int) -> str:
    """Definitions of which each has the one before it twice: 2^times in a few lines."""
    return "\n".join([first, *(again.format(i, i - 1) for i in range(1, times))]) + "\n"


BLOCKS = "block B0\n input x[_]\n output y = relu(x)\nend\n"
BLOCK = "block B{0}\n input x[_]\n output y = B{1}()(B{1}()(x))\nend"

REFUSED = {
    "a loop": model("h[0] = u\nfor i in 1:10^9\nh[i] ~ relu(h[i - 1])\nend\noutput y = h[3]"),
    "a loop of slips": model("for W in 1:10^9\nh[i] ~ relu(u)\nend\noutput y = u"),
    "an empty loop": model("for i in 1:10^9\nend\noutput y = u"),
    "loops in loops": model("for i in 1:10^4, j in 1:10^4, k in 1:10^4\nend\noutput y = u"),
    "loops in loops in loops": model("for i in 1:2\n" * 90 + "end\n" * 90 + "output y = u"),
    "a list": model("a = [0 for i in 1:10^9]\noutput y = u"),
    "an empty list": model("a = [0 for i in 1:10^9, j in 1:10^9 if false]\noutput y = u"),
    "rows of a pattern": model("param W[10^9, 4] in Sparse([1 => 1])\noutput y = W*u"),
    "a power": model("a = 2^10^9\noutput y = u"),
    "a tower of powers": model("a = 9^9^9^9\noutput y = u"),
    "a power of a float": model("a = 2.5^10^9\noutput y = u"),
    "blocks in blocks": doubled(BLOCKS, BLOCK, 31) + model("output y = B30()(u)"),
    "functions of functions": doubled("f0(x) = relu(x)", "f{0}(x) = f{1}(f{1}(x))", 39)
    + model("output y = f38(u)"),
    "lists of lists, compared": doubled("l0 = [1, 2]", "l{0} = [l{1}, l{1}]", 60)
    + "b = l58 in l59\n"
    + model("output y = u"),
    "joined lists": doubled("l0 = [1, 2]", "l{0} = l{1} + l{1}", 60) + model("output y = u"),
    "joined strings": doubled('l0 = "ab"', "l{0} = l{1} + l{1}", 60) + model("output y = u"),
    "a sum": model("a = sum(1:10^15)\noutput y = u"),
    "a maximum": model("a = max(1:10^15)\noutput y = u"),
    "a slice of a range": model("a = (1:10^15)[1:10^12]\noutput y = u"),
    "round brackets": model("output y = " + "(" * 10**5 + "u" + ")" * 10**5),
    "open brackets": model("output y = " + "(" * 10**5 + "u"),
    "square brackets": model("a = " + "[" * 10**5 + "]" * 10**5 + "\noutput y = u"),
    "signs": model("a = " + "-" * 10**5 + "1\noutput y = u"),
    "lambdas": model("a = " + "x -> " * 10**5 + "1\noutput y = u"),
    "powers of powers": model("a = " + "1^" * 10**5 + "1\noutput y = u"),
    "transposes": model("param W[4, 4]\noutput y = W" + "'" * 10**5 + "*u"),
    "conditions": model("if true\n" * 5000 + "end\n" * 5000 + "output y = u"),
    "an integer": model("a = " + "9" * 900_000 + "\noutput y = u"),
    "a shape": model("input v[10^9, 10^9]\noutput y = u + v"),
    "a weight": model("output y = Dense(2^31 - 1)*(Dense(2^31 - 1)*u)"),
    "a kernel": model("input v[3, 9, 9]\noutput y = Conv(3, 10^9; pad = 10^9)*v"),
    "axes": model("input v[" + ",".join(["1"] * 10**5) + "]\noutput y = v"),
    "a function of itself": model("output y = f(u)", "f(x) = f(x) + f(x)"),
    "a lambda of itself": model("w = x -> [x(x), x(x)]\nb = w(w)\noutput y = u"),
    "a block of itself": "block B\n input x[_]\n output y = B()(x) + B()(x)\nend\n"
    + model("output y = B()(u)"),
    "states": model("h[0] = u\nfor i in 1:10^6\nh[i] ~ relu(h[i - 1])\nend\noutput y = h[10^6]"),
    "a family": model("state h[1:10^6, 1:10^6][4]\noutput y = u"),
    "parts": model("output y = cat([u for i in 1:10^5])"),
    "a loop of all with all": model(
        "state h[1:300][4]\nfor i in 1:300\nh[i] ~ tanh(sum(Dense(4)*h[j] for j in 1:300))\nend\n"
        "output y = h[1]"
    ),
    "a text": "#" * (LARGEST_SOURCE + 1),
    "errors": model("\n".join(f"a{i} = foo{i}" for i in range(20_000)) + "\noutput y = u"),
    "errors in one line": model(";".join(f"a{i} = foo{i}" for i in range(20_000)) + "\noutput y = u"),
    "models of one name": "model M\n" * 50_000,
    "ends": "end\n" * 50_000,
    "a name": model("output y = " + "a" * 900_000),
}
TAKEN = {
    "a long sum": model("output y = " + " + ".join(["u"] * 20_000)),
    "a long product of matrices": model("param W[4, 4]\noutput y = (" + "*".join(["W"] * 10_000) + ")*u"),
    "a long pipeline": model("output y = u" + "|> relu" * 10_000),
    "a pipeline of many lines": model("output y = u" + "\n|> Dense(4)" * 5000),
    "many states": model("h[0] = u\nfor i in 1:10^4\nh[i] ~ relu(h[i - 1])\nend\noutput y = h[10^4]"),
    "many parts": model("output y = cat([" + "cat(u, u)," * 5000 + "])"),
    "many loops": model(
        "".join(f"state x{i}[4] ~ tanh(0.5*x{i} + u)\n" for i in range(1000)) + "output y = x9"
    ),
    "a long list": model("a = [" + ",".join(map(str, range(10**5))) + "]\noutput y = u"),
    "a band of many rows": model("param W[10^9, 4] in Banded(-1, 1)\noutput y = W*u"),
    "a long comment": "#=" + "x" * 900_000 + "=#" + model("output y = u"),
}


def reference() -> float:
    """How long a fixed piece of Python takes now: on a busy machine everything takes longer."""
    start = time.process_time()
    found: dict[int, tuple[int, int]] = {}
    for i in range(200_000):
        found[i % 1000] = (i, i + 1)
    return time.process_time() - start


def limit() -> float:
    """Far above what it takes on a busy machine, and far below what runs away."""
    return 5 * SECONDS * max(1.0, reference() / REFERENCE)


def timed(text: str) -> tuple[float, tuple[Diagnostic, ...], str]:
    start = time.process_time()
    checked = check(Source(text))
    drawn = [render(one) for one in checked.diagnostics[:MOST_SHOWN]]
    module = (
        "" if any(d.code[0] == "E" for d in checked.diagnostics) else emit(checked.models, checked.sources)
    )
    assert all(len(text) < 10_000 for text in drawn)
    return time.process_time() - start, checked.diagnostics, module


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_what_asks_for_too_much_is_refused_soon(text: str) -> None:
    seconds, found, module = timed(text)
    assert not module
    assert found[0].code in ("E0005", "E0006", "E0107", "E0208", "E0101", "E0103", "E0003", "E0000", "E0504")
    assert seconds < limit()


@pytest.mark.parametrize("text", TAKEN.values(), ids=TAKEN.keys())
def test_what_is_merely_long_takes_time_in_proportion(text: str) -> None:
    seconds, found, module = timed(text)
    assert module and not any(d.code[0] == "E" for d in found)
    assert seconds < limit()


def test_the_error_itself_is_short() -> None:
    found = check(Source(REFUSED["errors in one line"])).diagnostics
    assert len(found) > 100
    assert len(str(ImplicitError(found))) < 20_000
