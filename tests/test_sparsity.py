"""`@sparse` and `@penalty`: projections against scipy, penalties against numpy, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import implicit_dsl
from implicit_dsl.compiler import check
from implicit_dsl.errors import ImplicitError
from implicit_dsl.runtime import Family, GroupBound, Measured, Piece
from implicit_dsl.source import Source

torch.set_num_threads(1)


class Held(nn.Module):
    def __init__(self, **tensors: np.ndarray) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(torch.from_numpy(tensor)))


def by_linear_search(a: np.ndarray, bound: float) -> np.ndarray:
    """The projection of [groups, entries] onto Σ max |.| ≤ bound, multiplier and caps by root finders."""
    size = np.abs(a)

    def caps(theta: float) -> np.ndarray:
        made = []
        for row in size:
            if row.sum() <= theta:
                made.append(0.0)
            else:
                made.append(
                    scipy.optimize.brentq(
                        lambda m, r=row: np.maximum(r - m, 0).sum() - theta, 0, row.max(), xtol=1e-15
                    )
                )
        return np.array(made)

    if size.max(1).sum() <= bound:
        return a
    theta = scipy.optimize.brentq(lambda t: caps(t).sum() - bound, 0, size.sum(1).max(), xtol=1e-15)
    return np.sign(a) * np.minimum(size, caps(theta)[:, None])


@settings(max_examples=30, deadline=None)
@given(
    groups=st.integers(1, 6),
    entries=st.integers(1, 5),
    seed=st.integers(0, 1000),
    size=st.sampled_from((0.1, 1.0, 50.0)),
)
def test_columns_are_projected_to_the_nearest_point(
    groups: int, entries: int, seed: int, size: float
) -> None:
    a = np.random.default_rng(seed).normal(size=(entries, groups)) * size
    module = Held(B=a.copy())
    measure = Measured("linf", (Family("columns", (Piece("B"),)),))
    constraint = GroupBound("columns(B) <= 1", bound=1.0, measured_by=measure)

    constraint.project_(module)

    np.testing.assert_allclose(module.B.detach().numpy(), by_linear_search(a.T, 1.0).T, atol=1e-9 * size)
    assert constraint.violation(module) <= 0


def test_families_share_columns_and_the_bound() -> None:
    rng = np.random.default_rng(0)
    B, D, C = rng.normal(size=(3, 4)), rng.normal(size=(2, 4)), rng.normal(size=(4, 2, 3))
    module = Held(B=B.copy(), D=D.copy(), C=C.copy())
    families = (Family("columns", (Piece("B"), Piece("D"))), Family("columns", (Piece("C"),)))
    constraint = GroupBound("B, D, C", bound=2.0, measured_by=Measured("linf", families))

    constraint.project_(module)

    wide = np.zeros((6, 12))  # groups of both families, padded with zeros
    wide[:4, :5] = np.concatenate([B, D]).T
    wide[4:, :12] = C.transpose(1, 0, 2).reshape(2, 12)
    expected = by_linear_search(wide, 2.0)
    np.testing.assert_allclose(module.B.detach().numpy(), expected[:4, :3].T, atol=1e-9)
    np.testing.assert_allclose(module.D.detach().numpy(), expected[:4, 3:5].T, atol=1e-9)
    np.testing.assert_allclose(
        module.C.detach().numpy(), expected[4:].reshape(2, 4, 3).transpose(1, 0, 2), atol=1e-9
    )


FEATURES = """
model M(n = 4, p = 12, q = 6; κ = 0.6)
    input u[p]
    param A[n, n], B[n, p] = normal(1), C[q, n]
    state x[n] ~ relu(A*x + B*u)
    output y[q] = C*x
    @wellposed norm(A, Inf) <= 0.9
    @sparse columns(B) <= κ
    @penalty 0.5*columns(B) + 0.25*norm(A, Fro)^2
end
"""


@pytest.mark.parametrize("standalone", [False, True])
def test_inputs_are_dropped_while_it_trains(standalone: bool) -> None:
    torch.manual_seed(0)
    module = implicit_dsl.loads(FEATURES, standalone=standalone).M(dtype=torch.float64)
    u, target = torch.randn(64, 12, dtype=torch.float64), torch.randn(64, 6, dtype=torch.float64)
    target[:, :] = u[:, :1].relu()  # depends on the first input alone
    optimizer = torch.optim.SGD(module.parameters(), 0.2)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (module(u) - target).square().mean() + 0.02 * module.penalty()
        loss.backward()
        optimizer.step()
        module.project_()
    columns = module.B.detach().abs().amax(0)

    assert float(columns.sum()) <= 0.6 + 1e-12
    assert int((columns == 0).sum()) >= 1 and float(columns[0]) > 10 * float(columns[1:].max())
    dropped = int((columns == 0).nonzero()[0])
    changed = u.clone()
    changed[:, dropped] += 10
    assert torch.equal(module(changed), module(u))


def test_weights_outside_of_the_bound_are_noticed() -> None:
    module = implicit_dsl.loads(
        "model M\ninput u[3]\nlayer K = Dense(2)\noutput y = K*u\n@sparse columns(K) <= 0.1\nend"
    ).M()
    module(torch.ones(1, 3))
    with torch.no_grad():
        module.K.weight += 1
    with pytest.raises(ValueError, match="columns"):
        module(torch.ones(1, 3))
    module.project_()
    module(torch.ones(1, 3))
    assert float(module.K.weight.detach().abs().amax(0).sum()) <= 0.1


def test_the_assembled_matrices_are_made_of_their_parameters() -> None:
    source = """
    model M
        input u[3], v[2]
        x ~ relu(Dense(4)*u + Dense(4)*v)
        z ~ tanh(Dense(5)*u)
        output y = Dense(2)*x, w = Dense(2)*z
        @sparse columns(B) <= 0.7, rows(C) <= 0.4
    end
    """
    module = implicit_dsl.loads(source).M(dtype=torch.float64)
    B, C = (abs(getattr(module.system(), name).to_numpy()) for name in "BC")

    assert B.max(0).sum() <= 0.7 + 1e-12 and C.max(1).sum() <= 0.4 + 1e-12


def test_penalties_are_what_they_say() -> None:
    source = """
    model M(n = 4)
        input v[n], u[2, 9, 9]
        layer K = Conv(3, 3), L = Dense(n)
        param S[n, n] in Symmetric(), F[n, n] in LowRank(2), D[n, n] in Diagonal(), W[1:2][n, n]
        output y = L*(S*v + F*v + D*v + W[1]*v + W[2]*v), z = K*u
        @penalty columns(K) + 0.5*rows(L) + 2*norm(S, 2) + 3*norm(F, Fro) + 4*sum(abs(D))
        @penalty 5*norm(L, Inf) + 6*columns(vcat(S, F.right))
        for k in 1:2
            @penalty 0.1*norm(W[k], Fro)^2
        end
    end
    """
    module = implicit_dsl.loads(source).M(dtype=torch.float64)
    made = {
        name: w.detach().numpy() for name, w in {**module.state_dict(), **module.effective_weights()}.items()
    }
    K, L, S, D = made["K.weight"], made["L.weight"], made["S"], made["D"]
    F = made["F_left"] @ made["F_right"]
    stacked = np.concatenate([S, made["F_right"]])
    expected = (
        np.abs(K).max((0, 2, 3)).sum()
        + 0.5 * np.abs(L).max(1).sum()
        + 2 * np.linalg.norm(S, 2)
        + 3 * np.linalg.norm(F)
        + 4 * np.abs(D).sum()
        + 5 * np.linalg.norm(L, np.inf)
        + 6 * np.abs(stacked).max(0).sum()
        + 0.1 * ((made["W_1"] ** 2).sum() + (made["W_2"] ** 2).sum())
    )

    value = module.penalty()
    value.backward()

    np.testing.assert_allclose(float(value.detach()), expected, rtol=1e-12)
    assert all(p.grad is not None for name, p in module.named_parameters() if "bias" not in name)
    narrow = implicit_dsl.loads(source, standalone=True).M().to(torch.bfloat16)
    narrow.load_state_dict(module.state_dict())
    np.testing.assert_allclose(narrow.penalty().float().item(), expected, rtol=0.02)


MODEL = """
model M(n = 4)
    input u[n]
    param A[n, n], B[n, n], C[n, n], S[n, n] in Symmetric()
    x ~ relu(B*u)
    output y = C*x + A*x + S*x{more}
    {line}
end
"""
REFUSED = {
    "@sparse": "E0702",
    "@sparse columns(B)": "E0702",
    "@sparse columns(B) < 1": "E0702",
    "@sparse columns(B) <= 0": "E0703",
    "@sparse columns(B) <= u": "E0703",
    "@sparse colums(B) <= 1": "E0702",
    "@sparse columns(u) <= 1": "E0404",
    "@sparse columns(S) <= 1": "E0404",
    "@sparse columns(hcat(B, C)) <= 1": "E0702",
    "@sparse columns(B) <= 1, method = 3": "E0104",
    "@penalty": "E0702",
    "@penalty B": "E0702",
    "@penalty -1*columns(B)": "E0703",
    "@penalty norm(B)": "E0702",
    "@penalty norm(B, 3)": "E0702",
    "@penalty norm(B[:, 5])": "E0205",
    "@penalty norm(B[1, 1, 1])": "E0205",
    "@penalty norm(B[:, [1, 1]], Fro)": "E0205",
    "@penalty columns(B[:, 1])": "E0404",
    "@penalty columns(B)^2": "E0702",
    "@penalty columns(B) / 0": "E0208",
    "@penalty blocks(B)": "E0404",
    "@penalty sum(norm(B[:, j]) for j in 1:n)^2": "E0702",
    "@penalty sum(norm(B[:, j]) for j in 1:0)": "E0702",
    "@sparse sum(norm(B[:, j]) for j in 1:0) <= 1": "E0702",
    "@penalty norm(2*B, 5)": "E0702",
    "@penalty norm(system.A[u, x], Fro)": "E0404",
    "@penalty norm(system.A[x, y], Fro)": "E0404",
    "@penalty norm(system.B[x, nothing], Fro)": "E0101",
    "@penalty entries(2*B)": "E0404",
    "@penalty abs(B)": "E0702",
    "@penalty norm(system.A[x])": "E0404",
    "@sparse norm(B, 2) <= 1": "E0702",
    "@sparse columns(B) + norm(C, Fro) <= 1": "E0702",
    "@penalty columns(u)": "E0404",
    "@penalty 0.1*columns(B) - columns(C)": "E0702",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_not_understood_is_refused_by_name(line: str) -> None:
    with pytest.raises(ImplicitError) as caught:
        implicit_dsl.compile(MODEL.format(line=line, more=""))

    assert [found.code for found in caught.value.diagnostics] == [REFUSED[line]]


@pytest.mark.parametrize("line", ["@penalty {}", "@sparse {} <= 1"])
@pytest.mark.parametrize("what", ["entries(A)", "entries(system.C)", "rows(system.A[h, h])"])
def test_matrices_that_hold_the_step_of_a_recurrence_are_refused(line: str, what: str) -> None:
    """There stands no A in this program outside of the step, so that it is the assembled one."""
    with pytest.raises(ImplicitError, match="as often as there are steps") as caught:
        implicit_dsl.compile(
            "model M\ninput u[5, 3]\nrecurrent v over u\nparam A[4, 4], B[4, 3]\n"
            f"state h[4] ~ tanh(A*prev(h) + B*v)\nend\noutput y = last(h)\n{line.format(what)}\nend"
        )
    assert [found.code for found in caught.value.diagnostics] == ["E0404"]


def test_blocks_behind_a_recurrence_are_measured() -> None:
    module = implicit_dsl.loads(
        "model M\ninput u[5, 3]\nparam W[4, 4], V[4, 3]\nrecurrent v over u\n"
        "state h[4] ~ tanh(W*prev(h) + V*v)\nend\nstate a[4] ~ relu(Dense(4)*last(h))\n"
        "state b[4] ~ relu(Dense(4)*a)\nstate c[4] ~ relu(Dense(4)*b)\nopen A[c, a]\noutput y = c\n"
        "@penalty entries(A[c, a])\nend"
    ).M(dtype=torch.float64)
    with torch.no_grad():
        module.A_c_a.normal_()
    block = module.system().A["c", "a"].to_numpy()
    np.testing.assert_allclose(module.penalty().item(), abs(block).sum(), rtol=1e-12)


def test_weights_of_a_step_are_counted_once() -> None:
    module = implicit_dsl.loads(
        "model M\ninput u[5, 3]\nparam A[4, 4], B[4, 3]\nrecurrent v over u\n"
        "state h[4] ~ tanh(A*prev(h) + B*v)\nend\noutput y = last(h)\n@penalty entries(A)\nend"
    ).M()
    torch.testing.assert_close(module.penalty(), module.A.abs().sum())


def test_a_way_around_the_selection_is_told() -> None:
    codes = [
        d.code for d in check(Source(MODEL.format(line="@sparse columns(B) <= 1", more=" + u"))).diagnostics
    ]

    assert codes == ["W0404"]


def test_bounds_that_cannot_hold_together_are_refused() -> None:
    lines = "param W[3, 3]\nstate x[3] ~ relu(W*x + u)\noutput y = x\n{}\n@sparse columns(W) <= 1"
    source = f"model M\ninput u[3]\n{lines}\nend"
    with pytest.raises(ImplicitError) as caught:
        implicit_dsl.compile(source.format("@wellposed norm(W, 2) <= 0.9"))
    assert [found.code for found in caught.value.diagnostics] == ["E0705"]
    module = implicit_dsl.loads(source.format("@wellposed norm(W, Inf) <= 0.9")).M(dtype=torch.float64)
    with torch.no_grad():
        module.W += 3
    module.project_()
    size = module.W.detach().abs()

    assert float(size.sum(1).max()) <= 0.9 and float(size.amax(0).sum()) <= 1
