"""Weights of full matrices as those of matrices in sets, and back: the nearest ones, and exactly."""

from __future__ import annotations

import pytest
import torch
from citizens_in_sets import Member, members
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl.runtime.structures import matrix_of
from implicit_dsl.train import TransferError, expand_, reduce_

BODY = """
model M
    input u[{columns}]
    {declared}
    layer K = Dense(3)
    state x[{rows}] ~ tanh(W*u)
    output y = BatchNorm()*(K*x)
end
"""


def made(member: Member, text: str | None = None) -> nn.Module:
    """A model with one matrix, in the set of the member, in another, or full."""
    declared = Member(member.name, member.rows, member.columns, member.text if text is None else text)
    body = BODY.format(rows=member.rows, columns=member.columns, declared=declared.declared("W"))
    module: nn.Module = implicit_dsl.loads(body).M(dtype=torch.float64).eval()
    return module


def randomised(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
        for name, buffer in module.named_buffers():
            if name.endswith(("mean", "var")):
                buffer.uniform_(0.5, 2)
    return module


def matrix(module: nn.Module) -> Tensor:
    """W, however it is held."""
    state = dict(module.named_parameters())
    if "W_left" in state:
        return (state["W_left"] @ state["W_right"]).detach()
    structures = getattr(module, "structures", {})
    W = state["W"].detach()
    return matrix_of(structures["W"], W) if "W" in structures else W


@pytest.mark.parametrize("member", members(), ids=lambda member: member.text)
def test_a_full_matrix_is_reduced_to_the_nearest_of_its_set(member: Member) -> None:
    torch.manual_seed(0)
    full, reduced = randomised(made(member, "")), randomised(made(member))
    distances = reduce_(reduced, full)

    found = matrix(reduced)
    assert set(distances) == {"W"}
    assert distances["W"] == pytest.approx(float((matrix(full) - found).norm()), abs=1e-12)
    stored = {name: p.clone() for name, p in reduced.named_parameters() if name.startswith("W")}
    for size in (1e-3, 1e-2, 0.1, 1.0):  # no other member is nearer
        for _ in range(20):
            with torch.no_grad():
                for name, value in stored.items():
                    reduced.get_parameter(name).copy_(value + size * torch.randn_like(value))
            assert (matrix(full) - matrix(reduced)).norm() >= distances["W"] - 1e-9
    for key in ("K.weight", "K.bias", "y_batchnorm.running_var"):
        assert torch.equal(full.state_dict()[key], reduced.state_dict()[key])


@pytest.mark.parametrize("member", members(), ids=lambda member: member.text)
def test_a_matrix_of_a_set_is_expanded_exactly(member: Member) -> None:
    torch.manual_seed(1)
    full, reduced, again = randomised(made(member, "")), randomised(made(member)), made(member)
    distances = expand_(full, reduced)
    u = torch.randn(5, member.columns, dtype=torch.float64)

    assert distances["W"] <= 1e-14
    torch.testing.assert_close(full(u), reduced(u), rtol=0, atol=1e-12)
    assert reduce_(again, full)["W"] <= 1e-9
    torch.testing.assert_close(matrix(again), matrix(reduced), rtol=0, atol=1e-9)


def test_low_rank_is_that_of_the_largest_singular_values() -> None:
    member = Member("LowRank", 6, 5, "LowRank(2)")
    full, reduced = randomised(made(member, "")), made(member)
    distances = reduce_(reduced, full)
    s = torch.linalg.svdvals(matrix(full))

    assert distances["W"] == pytest.approx(float(s[2:].norm()))
    assert float(torch.linalg.svdvals(matrix(reduced))[0]) == pytest.approx(float(s[0]))
    factors = [reduced.get_parameter(name).detach() for name in ("W_left", "W_right")]
    assert float(factors[0].norm()) == pytest.approx(float(factors[1].norm()))  # in equal parts


def test_sets_are_converted_into_one_another() -> None:
    member = Member("", 4, 4, "")
    low = randomised(made(member, "LowRank(1)"))
    more, bands = made(member, "LowRank(3)"), made(member, "Banded(-1, 1)")

    assert expand_(more, low)["W"] <= 1e-12
    assert reduce_(bands, more)["W"] > 0.1
    with pytest.raises(TransferError, match=r"W: is not in the set of the other model: .*= \d"):
        expand_(bands, more)
    same = made(member, "Banded(-1, 1)")
    assert expand_(same, bands) == {}
    assert torch.equal(matrix(same), matrix(bands))


def test_what_does_not_fit_is_told_and_nothing_is_stored() -> None:
    member = Member("", 4, 4, "")
    target = randomised(made(member, "Symmetric()"))
    before = {key: value.clone() for key, value in target.state_dict().items()}
    other = implicit_dsl.loads("model M\n input u[4]\n param V[4, 4]\n output y = V*u\nend").M()
    larger = made(Member("", 5, 5, ""), "")

    with pytest.raises(TransferError) as caught:
        reduce_(target, other)
    assert {"V", "W", "K.weight"} <= set(caught.value.wrong)
    with pytest.raises(TransferError, match=r"W: has shape \[5, 5\], and in the other model \[4, 4\]"):
        reduce_(target, larger)
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())


def test_opened_blocks_are_reduced_too() -> None:
    text = """
model Base
    input u[4]
    state h[6] ~ tanh(Dense(6)*u)
    state g[6] ~ tanh(Dense(6)*h)
    output y = Dense(2)*g
end
model Full extends Base
    open D
    open B[g, u]
end
model Low extends Base
    open D as LowRank(1)
    open B[g, u] as Banded(0, 1)
end
"""
    module = implicit_dsl.loads(text)
    full, low = randomised(module.Full(dtype=torch.float64)), module.Low(dtype=torch.float64)
    again = module.Full(dtype=torch.float64)
    u = torch.randn(3, 4, dtype=torch.float64)

    distances = reduce_(low, full)
    assert set(distances) == {"D_y_u", "B_g_u"} and min(distances.values()) > 0.1
    assert max(expand_(again, low).values()) <= 1e-12
    torch.testing.assert_close(again(u), low(u), rtol=0, atol=1e-12)


def test_lower_precision_is_stored_as_such() -> None:
    member = Member("", 4, 4, "")
    full, low = randomised(made(member, "")), made(member, "Toeplitz()").float()
    reduce_(low, full)

    assert low.get_parameter("W").dtype == torch.float32
    assert expand_(made(member, ""), low)["W"] == 0
