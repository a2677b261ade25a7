"""The graph of influence against its matrices, paths against all walks, depth against the powers of A."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import RandomProgram, programs
from test_exactness import QUIET, twins
from torch import nn

import implicit_dsl
from implicit_dsl.analysis import influence, sensitivity
from implicit_dsl.analysis.influences import spectral_norm

torch.set_num_threads(1)

LOOP = """
model Loop(n = 5, p = 3)
    input u[p]
    param A[n, n], B[n, p], C[2, n], D[2, p]
    state x[n] ~ tanh(A*x + B*u)
    output y[2] = C*x + D*u
    @wellposed norm(A, Inf) <= 0.8
end
"""
TWO_LOOPS = """
model TwoLoops
    input u[2], v[3]
    param P[3, 3], Q[3, 3], R[3, 3], S[2, 2]
    state a[3] ~ relu(P*b + Dense(3)*u)
    state b[3] ~ sigmoid(Q*a + R*b + Dense(3)*v)
    state c[4] ~ tanh(Dense(4)*b)
    state e[2] ~ relu(S*e + Dense(2)*c + Dense(2)*u)
    output y[2] = Dense(2)*e, z[1] = Dense(1)*c + Dense(1)*v
    @wellposed norm(A, Inf) <= 0.7
end
"""
LAYERS = """
model Layers
    input u[4]
    state a[5] ~ relu(Dense(5)*u)
    state b[6] ~ tanh(Dense(6)*a)
    output y[2] = Dense(2)*b + Dense(2)*a + Dense(2)*u
end
"""


def made(text: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    module = implicit_dsl.loads(text)
    name = next(name for name in module.__all__ if "Output" not in name)
    model = getattr(module, name)(dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
        if hasattr(model, "project_"):
            model.project_()
    return model.eval()


@pytest.mark.parametrize("text", [LOOP, TWO_LOOPS, LAYERS])
def test_edges_are_the_blocks_that_are_not_zero(text: str) -> None:
    model = made(text)
    system = model.system()
    found = influence(model)
    edges = {(edge.source, edge.target): edge for edge in found.edges}
    sizes = {"A": ("slots", "states"), "B": ("slots", "inputs"), "C": ("outputs", "states")}
    for name in "ABCD":
        rows, cols = sizes.get(name, ("outputs", "inputs"))
        whole = getattr(system, name).to_numpy()
        for to in system.partition(rows).names:
            for source in system.partition(cols).names:
                block = whole[system.partition(rows)[to], system.partition(cols)[source]]
                assert block.any() == ((source, to) in edges)
                if block.any():
                    edge = edges[source, to]
                    assert edge.matrix == name and found.graph.edges[source, to]["matrix"] == name
                    slope = 0.25 if to == "b" and text is TWO_LOOPS else 1.0
                    norms = [np.linalg.norm(block, ord) for ord in (np.inf, "fro", 2)]
                    np.testing.assert_allclose([edge.infinity, edge.frobenius, edge.spectral], norms)
                    np.testing.assert_allclose(edge.gain, slope * norms[0], rtol=1e-9)
                    assert edge.share == (block != 0).mean()
    kinds = {name: held["kind"] for name, held in found.graph.nodes(data=True)}
    assert [name for name, kind in kinds.items() if kind == "state"] == [b.name for b in system.model.states]


def test_blocks_that_are_zero_have_no_edge() -> None:
    model = made(LOOP)
    with torch.no_grad():
        model.D.zero_()
        model.A.zero_()
    found = influence(model)
    assert {edge.matrix for edge in found.edges} == {"B", "C"} and len(found.paths()) == 1
    assert found.depth is not None and found.depth.mean == 1.0 and found.loops[0].upper < 1e-200


@pytest.mark.parametrize("shape", [(400, 350), (3, 500), (350, 400)])
def test_spectral_norms_of_large_blocks(shape: tuple[int, int]) -> None:
    import scipy.sparse as sparse

    M = sparse.random_array(shape, density=0.05, rng=np.random.default_rng(0), format="csr")
    expected = np.linalg.norm(M.toarray(), 2)
    np.testing.assert_allclose(spectral_norm(sparse.csr_array(M)), expected, rtol=1e-4)


def test_depths_are_shares_of_the_powers_of_a() -> None:
    model = made(LOOP)
    A, B, C, D = (abs(getattr(model.system(), name).to_numpy()) for name in "ABCD")
    terms = [D.sum(), *((C @ np.linalg.matrix_power(A, k) @ B).sum() for k in range(200))]
    found = influence(model).depth
    assert found is not None
    expected = np.array(terms) / sum(terms)
    np.testing.assert_allclose(found.shares, expected[: len(found.shares)], rtol=1e-7)
    np.testing.assert_allclose(found.mean, np.arange(201) @ expected, rtol=1e-6)
    np.testing.assert_allclose(sensitivity(model).matrix.sum(), sum(terms), rtol=1e-9)
    assert found.rest <= 1e-9 and np.cumsum(expected)[found.quantile(0.5)] >= 0.5
    assert np.cumsum(expected)[found.quantile(0.5) - 1] < 0.5 and "effective depth" in str(found)


def test_depths_of_layers_end_with_them() -> None:
    model = made(LAYERS)
    found = influence(model).depth
    assert found is not None and len(found.shares) == 3 and found.rest == 0.0
    A, B, C, D = (abs(getattr(model.system(), name).to_numpy()) for name in "ABCD")
    terms = np.array([D.sum(), (C @ B).sum(), (C @ A @ B).sum()])
    np.testing.assert_allclose(found.shares, terms / terms.sum(), rtol=1e-9)


def test_loops_have_the_gains_of_their_matrices() -> None:
    model = made(TWO_LOOPS)
    system = model.system()
    found = {frozenset(loop.states): loop for loop in influence(model).loops}
    assert set(found) == {frozenset("ab"), frozenset("e")}
    A = abs(system.A.to_numpy())
    for names, slope in (("ab", {"a": 1.0, "b": 0.25}), ("e", {"e": 1.0})):
        places = {name: system.partition("states")[name] for name in names}
        at = np.concatenate([np.arange(part.start, part.stop) for part in places.values()])
        K = np.concatenate([np.full(part.stop - part.start, slope[n]) for n, part in places.items()])
        N = K[:, None] * A[np.ix_(at, at)]
        root = abs(np.linalg.eigvals(N)).max()
        loop = found[frozenset(names)]
        assert loop.lower <= root * (1 + 1e-12) and root <= loop.upper * (1 + 1e-12)
        assert loop.upper - loop.lower <= 2e-3 * root
        np.testing.assert_allclose(
            loop.amplification, np.linalg.solve(np.eye(len(N)) - N, np.ones(len(N))).max(), rtol=1e-9
        )


@pytest.mark.parametrize("text", [LOOP, TWO_LOOPS, LAYERS])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_paths_are_the_strongest_of_all(text: str, seed: int) -> None:
    found = influence(made(text, seed))
    of_loop = {name: at for at, (names, _) in enumerate(found.transfers) for name in names}
    kinds = {name: held["kind"] for name, held in found.graph.nodes(data=True)}
    expected = sorted(all_paths(found, of_loop, kinds), key=lambda path: -path[1])
    paths = found.paths(most=5)
    assert len(paths) == min(5, len(expected))
    for path, (_, gain) in zip(paths, expected):
        np.testing.assert_allclose(path.gain, gain)
        assert path.blocks in [b for b, g in expected if abs(g - gain) <= 1e-9 * gain]
    # together they are all of S, at least
    total = sum(gain for blocks, gain in expected if blocks[-1] == "y")
    S = sensitivity(made(text, seed))
    assert S.moved(*[1.0] * len(S.system.inputs))["y"].max() <= total * (1 + 1e-9)


def all_paths(
    found: Any, of_loop: dict[str, int], kinds: dict[str, str]
) -> list[tuple[tuple[str, ...], float]]:
    """Every path by its definition: simple ones, each loop entered and left once, and crossed in one step."""
    outside = nx.DiGraph()
    for a, b, held in found.graph.edges(data=True):
        if a not in of_loop or of_loop[a] != of_loop.get(b):
            outside.add_edge((a, "out"), (b, "in"), gain=held["gain"])
    for name in kinds:
        if name not in of_loop:
            outside.add_edge((name, "in"), (name, "out"), gain=1.0)
    for names, transfer in found.transfers:
        for j, a in enumerate(names):
            for i, b in enumerate(names):
                if transfer[i, j] > 0:
                    outside.add_edge((a, "in"), (b, "out"), gain=transfer[i, j])
    made_ = []
    for start in (name for name, kind in kinds.items() if kind == "input"):
        for end in (name for name, kind in kinds.items() if kind == "output"):
            for path in nx.all_simple_paths(outside, (start, "out"), (end, "in")):
                gain = float(np.prod([outside.edges[edge]["gain"] for edge in pairwise(path)]))
                blocks = [name for name, _ in path]
                short = tuple(b for at, b in enumerate(blocks) if not at or b != blocks[at - 1])
                made_.append((short, gain))
    return made_


def test_paths_between_given_blocks() -> None:
    found = influence(made(TWO_LOOPS))
    assert all(path.blocks[0] == "v" and path.blocks[-1] == "z" for path in found.paths("v", "z"))
    assert {path.blocks for path in found.paths("c", "y")} == {("c", "e", "y")}
    assert found.paths("b", "a")[0].blocks == ("b", "a")
    assert not found.paths("e", "z")
    with pytest.raises(KeyError, match="no `w`"):
        found.paths("w")
    with pytest.raises(ValueError, match="input"):
        found.paths(target="u")


@given(programs())
@settings(QUIET, max_examples=20)
def test_random_programs_have_reports(program: RandomProgram) -> None:
    module, _, _ = twins(program)
    system = module.system()
    found = influence(system)
    assert str(found).startswith(system.model.name)
    if found.depth is not None:
        assert abs(found.depth.shares.sum() + found.depth.rest - 1) < 1e-6


def test_models_without_a_bound_have_a_graph() -> None:
    model = made(LOOP.replace("norm(A, Inf) <= 0.8", "unchecked"))
    with torch.no_grad():
        model.A.copy_(torch.eye(5) * 0.9 + 0.2)
    found = influence(model)
    assert found.depth is None and "loop {x}" in found.why
    (loop,) = found.loops
    assert loop.lower <= 1.9 + 1e-6 and loop.upper >= 1.9 - 1e-6 and loop.amplification == float("inf")
    strongest, *_ = found.paths()
    assert strongest.gain == float("inf") and strongest.blocks == ("u", "x", "y")
    assert "not proved to contract" in str(found) and "no depth" in str(found)


def test_a_report_is_read() -> None:
    text = str(influence(made(TWO_LOOPS)))
    for part in (
        "2 inputs, 4 states, 2 outputs",
        "from",
        "strongest paths",
        "around its loop",
        "effective depth",
    ):
        assert part in text
    long = "model M\ninput u[2]\n" + "".join(
        f"state x{k}[2] ~ relu(Dense(2)*{f'x{k - 1}' if k else 'u'})\n" for k in range(30)
    )
    text = str(influence(made(long + "output y[2] = Dense(2)*x29\nend")))
    assert "weaker ones" in text and "more …" in text
    with pytest.raises(TypeError, match="compiled"):
        influence(nn.Linear(2, 2))
