"""The matrices of a model: golden figures of LeNet-5, and laws on a model with one of everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sparse
import torch
from handmade import conv, lenet, made, mixed, model, op, perturbed, state
from torch import nn

from implicit_dsl.matrices import Layout, Partition, TooLarge, partition, pattern, triplets
from implicit_dsl.model import Block, Term
from implicit_dsl.operators import linear_rule
from implicit_dsl.runtime import System
from implicit_dsl.shapes import count

torch.set_num_threads(1)

BOTH = pytest.mark.parametrize("build", [lenet, mixed])
MATRICES = pytest.mark.parametrize("name", ["A", "B", "C", "D"])


def same(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def distinct(slots: np.ndarray | None) -> int:
    assert slots is not None
    return len(np.unique(slots))


def test_golden_figures_of_lenet() -> None:
    system, _ = made(lenet)
    A = system.A

    assert A.shape == (8084, 8084)
    assert A.nnz == 304_384
    assert round(100 * A.nnz / 8084**2, 4) == 0.4658
    assert (system.B["c1", "u"].shape, system.B.nnz) == ((4704, 1024), 117_600)
    assert {pair: A[pair].nnz for pair in system.model.A} == {
        ("s2", "c1"): 4_704,
        ("c3", "s2"): 240_000,
        ("s4", "c3"): 1_600,
        ("c5", "s4"): 48_000,
        ("f6", "c5"): 10_080,
    }
    assert distinct(system.ties("B")["c1.weight"].slots) == 150
    assert distinct(system.ties("A")["c3.weight"].slots) == 2_400
    assert np.unique(A["s2", "c1"].to_scipy().data).tolist() == [0.25]
    assert system.model.parameter_count == 61_706


@BOTH
def test_entries_are_counted_without_the_matrix(build: Any) -> None:
    system, _ = made(build)
    for operator in (system.A, system.B, system.C, system.D):
        assert operator.nnz == operator.to_scipy().nnz


def test_last_state_first_is_strictly_upper() -> None:
    system, _ = made(lenet)

    assert system.partition("states").names == ("f6", "c5", "s4", "c3", "s2", "c1")
    assert sparse.tril(system.A.to_scipy()).nnz == 0


def test_the_other_order_is_a_permutation() -> None:
    upper, lower = made(lenet)[0], made(lenet, order="lower")[0]
    A = lower.A.to_scipy()

    assert sparse.triu(A).nnz == 0
    same(lower.A["c5", "s4"].to_numpy(), upper.A["c5", "s4"].to_numpy())


def test_slots_and_states_differ_where_pooling_takes_windows() -> None:
    system, _ = made(mixed)

    assert (system.partition("slots").size("p"), system.partition("states").size("p")) == (144, 36)
    assert system.A.shape == (system.partition("slots").total, system.partition("states").total)
    assert system.A["p", "n"].shape == (144, 144)


@MATRICES
@BOTH
def test_operator_form_is_the_matrix(build: Any, name: str) -> None:
    operator = getattr(made(build)[0], name)
    M, rng = operator.to_scipy(), np.random.default_rng(0)

    for form, known in ((operator, M), (abs(operator), abs(M))):
        for actual, expected in ((form, known), (form.T, known.T)):
            x = rng.normal(size=(actual.shape[1], 2))
            same(actual @ x, expected @ x)
            same(actual @ x[:, 0], expected @ x[:, 0])
            same((actual @ torch.from_numpy(x)).numpy(), expected @ x)
            same(actual.to_scipy() @ x, expected @ x)


def test_operator_returns_what_it_was_given() -> None:
    system, _ = made(mixed)
    x = torch.ones(system.A.shape[1], dtype=torch.float32)

    assert (system.A @ x).dtype == torch.float32
    assert (system.A @ x.numpy()).dtype == np.float64
    with pytest.raises(ValueError, match=r"A has 333 columns, but is applied to shape \(4, 2\)"):
        system.A @ np.ones((4, 2))


def test_parallel_terms_meet_in_one_absolute_value() -> None:
    system, _ = made(mixed)
    block = system.A["p", "n"]
    x = np.random.default_rng(0).normal(size=144)

    same(abs(block) @ x, np.abs(block.to_numpy()) @ x)
    same(abs(block).T @ x, np.abs(block.to_numpy()).T @ x)


def test_zeros_stay_in_the_pattern() -> None:
    described, module = lenet()
    for tensor in module.state_dict().values():
        tensor.zero_()
    system = System.of(module, described.as_data())

    assert system.A.to_scipy().nnz == 304_384


@MATRICES
@BOTH
def test_pattern_needs_no_weights(build: Any, name: str) -> None:
    described, module = build()
    rows, cols, row_partition, col_partition = pattern(described, name)
    full = getattr(System.of(perturbed(module), described.as_data()), name)

    assert (row_partition, col_partition) == (full.row_partition, full.col_partition)
    found = sparse.csr_array((np.ones(len(rows)), (rows, cols)), shape=full.shape)
    expected = full.to_scipy()
    expected.data[:] = 1
    assert (found.astype(bool) != expected.astype(bool)).nnz == 0


@pytest.mark.parametrize("name", ["A", "B", "C", "D", "b", "d"])
@BOTH
def test_the_tie_map_is_linear_in_the_parameters(build: Any, name: str) -> None:
    """⟨G, M(θ + δ) − M(θ)⟩ = ⟨adjoint(G), δ⟩ for every form in which G can be given."""
    described, module = build()
    system = System.of(perturbed(module, seed=0), described.as_data())
    before, rng = dict(system.weights), np.random.default_rng(0)
    change = {id: rng.normal(size=w.shape) if "running" not in id else 0 * w for id, w in before.items()}
    after = {id: before[id] + change[id] for id in before}
    layout = Layout.of(system.model, name)
    L, R = rng.normal(size=(layout.shape[0], 2)), rng.normal(size=(layout.shape[1], 2))
    delta = layout.triplets(after).to_csr() - layout.triplets(before).to_csr()

    pair = system._operator(name).adjoint((L, R))

    same(sum(np.sum(pair[id] * change[id]) for id in pair), np.sum(L * (delta @ R)))
    if build is mixed:
        for G in (L @ R.T, sparse.csr_array(L @ R.T), lambda i, j: np.einsum("ek,ek->e", L[i], R[j])):
            other = system._operator(name).adjoint(G)
            assert other.keys() == pair.keys()
            for id in pair:
                same(other[id], pair[id])


def test_chains_compose() -> None:
    """The matrix of a chain is the product of the matrices; its offset is the bias, sent through the rest."""
    chain = (
        op("select", (2, 9), slices=(None, (1, 2, 4))),
        op("scale", (2, 4), factor=-0.5),
        op("place", (2, 4), axis=0, start=1, total=4),
        conv((4, 4), "k", 3, 3, pad=1),
        op("select", (3, 4), slices=((0, 2, 2), (1, 1, 2))),
        op("reshape", (2, 2), shape=None),
        op("place", (4,), axis=0, start=2, total=7),
        op("scale", (7,), factor=3.0),
    )
    module = nn.Module()
    module.add_module("k", nn.Conv1d(4, 3, 3))
    block = Block("u", (2, 9))
    described = model("Chain", (block,), (), (Block("y", (7,)),), (Term("y", "u", chain),), module)
    system = System.of(perturbed(module), described.as_data())

    product, shift = np.eye(18), np.zeros(18)
    for each in chain:
        tensors = {role: system.weights[id] for role, id in each.parameters}
        parts = (linear_rule(each).entries(each, tensors), linear_rule(each).offsets(each, tensors))
        M, bias = np.zeros((count(each.target), count(each.source))), np.zeros(count(each.target))
        for part in parts[0]:
            np.add.at(M, (part.rows, part.cols), part.values(tensors))
        for part in parts[1]:
            np.add.at(bias, part.rows, part.values(tensors))
        product, shift = M @ product, M @ shift + bias

    assert np.count_nonzero(product) > 0
    assert np.count_nonzero(shift) > 0
    same(system.D.to_numpy(), product)
    same(system.d, shift)
    same(system.D @ np.ones(18), product.sum(1))
    same(abs(system.D).T @ np.ones(7), np.abs(product).sum(0))
    assert system.D.nnz == np.count_nonzero(product)


def test_ties_without_weights_are_those_of_new_statistics() -> None:
    (tie,) = [t for t in Layout.of(mixed()[0], "A").ties() if t.parameter == "n.weight"]

    same(tie.coefficients, np.full(144, 1 / np.sqrt(1 + 1e-5)))


def test_adjoint_reads_zeros_outside_of_a_sparse_gradient() -> None:
    system, _ = made(mixed)
    G = sparse.random_array(system.A.shape, density=0.3, rng=np.random.default_rng(0), format="coo")

    for id, gradient in system.A.adjoint(G.toarray()).items():
        same(system.A.adjoint(G)[id], gradient)


def test_adjoint_of_a_block_and_of_a_transpose() -> None:
    system, _ = made(mixed)
    block = system.A["g", "h"]
    G = np.random.default_rng(0).normal(size=block.shape)

    same(block.adjoint(G)["V"], G.T)  # V' stands there
    same(block.T.adjoint(sparse.csr_array(G.T))["V"], G.T)
    with pytest.raises(ValueError, match=r"A has shape \(4, 5\), but the gradient has shape \(5, 4\)"):
        block.adjoint(G.T)
    with pytest.raises(ValueError, match="not linear in the parameters"):
        abs(block).ties()


def test_large_matrices_are_refused_before_they_are_made() -> None:
    shape = (64, 512, 512)
    huge = model(
        "Huge",
        (Block("u", shape),),
        (state("x", shape),),
        (),
        (Term("x", "u", (conv(shape, "k", 64, 3, pad=1),)),),
        nn.Module(),
    )

    with pytest.raises(TooLarge) as caught:
        triplets(huge, "B", {})

    assert str(caught.value) == (
        "B is 16777216 × 16777216 with 9638526976 entries, about 144 GiB, above the limit of 100000000: "
        "use the operator form, which makes no matrix (`B @ x`), or allow it with `limit=9638526976`"
    )
    system, _ = made(mixed, limit=1000)
    with pytest.raises(TooLarge):
        system.A.to_scipy()
    with pytest.raises(TooLarge):
        system.C.to_numpy()
    assert system.A.to_scipy(limit=10**6).shape == system.A.shape


def test_partitions() -> None:
    parts = Partition.of([("a", 2), ("b", 3)])

    assert (parts.total, parts["b"], parts.only("b").offsets) == (5, slice(2, 5), (0,))
    with pytest.raises(KeyError, match="there is no block `c` here; there are a, b"):
        parts["c"]
    with pytest.raises(ValueError, match="there is no axis `rows`"):
        partition(mixed()[0], "rows")
    with pytest.raises(ValueError, match="there is no matrix `E`"):
        pattern(mixed()[0], "E")
