"""`state x[n] = …`: where solvers start."""

from __future__ import annotations

import pytest
import torch

import implicit_dsl
from implicit_dsl.compiler import check
from implicit_dsl.errors import ImplicitError
from implicit_dsl.source import Source

TWO = """
model M
    input u[2]
    state x[2] = {start}
    x ~ tanh(3*x + 0*u)
    output y = x
    @wellposed unchecked
    @solver picard
end
"""


@pytest.mark.parametrize(
    ("start", "signs"),
    {
        "1": (1, 1),
        "-0.5": (-1, -1),
        "[1, -1]": (1, -1),
        "ones()": (1, 1),
        "constant(-2)": (-1, -1),
        "zeros()": (0, 0),
    }.items(),
)
def test_the_start_decides_which_solution_is_found(start: str, signs: tuple[int, int]) -> None:
    for standalone in (False, True):
        module = implicit_dsl.loads(TWO.format(start=start), standalone=standalone).M(dtype=torch.float64)
        y = module(torch.ones(3, 2, dtype=torch.float64))

        assert torch.equal(y.sign(), torch.tensor(signs, dtype=torch.float64).expand(3, 2))
    given = module(torch.ones(3, 2, dtype=torch.float64), x0={"x": -torch.ones(3, 2, dtype=torch.float64)})
    assert (given < 0).all()


def test_members_of_families_have_starts() -> None:
    source = (
        TWO.replace("state x[2] = {start}", "state x[i in 1:2][2] = i - 1.5")
        .replace("x ~ tanh(3*x + 0*u)", "x[1] ~ tanh(3*x[1] + 0*u)\n x[2] ~ tanh(3*x[2] + 0*u)")
        .replace("y = x", "y = cat(x[1], x[2])")
    )
    module = implicit_dsl.loads(source).M(dtype=torch.float64)

    assert module(torch.ones(1, 2, dtype=torch.float64)).sign().tolist() == [[-1, -1, 1, 1]]


REFUSED = {
    "state x[2] = u\nx ~ tanh(3*x)": "E0207",
    "state x[2] = [1, 2, 3]\nx ~ tanh(3*x)": "E0202",
    "state x[2] = relu\nx ~ tanh(3*x)": "E0207",
    "state x = 0\nx ~ tanh(3*x)": "E0308",
    "state x[2] = 0": "E0305",
    "state x[2] = normal(1)\nx ~ tanh(3*x)": "E0207",
}


@pytest.mark.parametrize("lines", REFUSED)
def test_wrong_starts_are_refused(lines: str) -> None:
    with pytest.raises(ImplicitError) as caught:
        implicit_dsl.compile(f"model M\ninput u[2]\n{lines}\noutput y = x + u\n@wellposed unchecked\nend")

    assert REFUSED[lines] in [found.code for found in caught.value.diagnostics]


def test_a_start_without_a_loop_is_told() -> None:
    source = "model M\ninput u[2]\nstate x[2] = 1\nx ~ tanh(u)\noutput y = x\n{allow}end"

    assert [d.code for d in check(Source(source.format(allow=""))).diagnostics] == ["W0401"]
    assert not check(Source(source.format(allow="@allow unused_annotation\n"))).diagnostics
