"""Sparse attacks: few entries, chosen by slopes or by S, against all choices of a small model."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch

import implicit_dsl
from implicit_dsl.analysis import NoBound, attack

torch.set_num_threads(1)

LINEAR = "model M\ninput u[6]\nparam W[3, 6]\noutput y[3] = W*u\nend"
LOOP = """
model Loop(n = 6, p = 7)
    input u[p]
    param A[n, n], B[n, p], C[3, n]
    state x[n] ~ tanh(A*x + B*u)
    output y[3] = C*x
    @wellposed norm(A, Inf) <= 0.5
end
"""


def made(text: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    module = implicit_dsl.loads(text)
    model = getattr(module, next(name for name in module.__all__ if "Output" not in name))(
        dtype=torch.float64
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
        if hasattr(model, "project_"):
            model.project_()
    return model.eval()


def margin(model: Any, u: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    scores = model(u).detach()
    own = scores.gather(1, labels[:, None])[:, 0]
    return scores.scatter(1, labels[:, None], -torch.inf).amax(1) - own


@pytest.mark.parametrize("guide", ["slopes", "sensitivity"])
@pytest.mark.parametrize("entries", [1, 2, 4])
def test_of_linear_models_the_best_entries_are_found(guide: Any, entries: int) -> None:
    """With two classes in reach, the best k entries are those with the largest |w_c − w_j| (closed form)."""
    model = made(LINEAR)
    with torch.no_grad():
        model.W[2] = 0.0
        model.W[2, 0] = -100.0
    u = torch.rand(20, 6, dtype=torch.float64)
    u[:, 0] = 0.5 + u[:, 0]
    labels = model(u).argmax(1)
    ε = 0.3

    found = attack(model, u, labels, ε, method="sparse", entries=entries, guide=guide, norm="inf", lower=0.0)

    W = model.W.detach()[:2]
    for sample in range(20):
        w = W[1 - labels[sample]] - W[labels[sample]]
        low = torch.clamp(u[sample] - ε, min=0.0)
        gains = torch.where(w > 0, w * ε, w * (low - u[sample]))
        best = gains.topk(entries).values.sum() + w @ u[sample]
        changed = found.inputs[sample] != u[sample]  # type: ignore[call-overload]
        assert int(changed.sum()) <= entries and float((found.inputs[sample] - u[sample]).abs().max()) <= ε
        if guide == "slopes":
            torch.testing.assert_close(found.margins[sample], best)
        assert float(found.margins[sample]) <= float(best) + 1e-12


@pytest.mark.parametrize("guide", ["slopes", "sensitivity"])
def test_few_entries_do_little_less_than_the_best_of_all_choices(guide: Any) -> None:
    model = made(LOOP)
    u = torch.randn(12, 7, dtype=torch.float64)
    labels = model(u).argmax(1)
    found = attack(model, u, labels, 0.5, method="sparse", entries=2, guide=guide)
    inputs = found.inputs
    assert isinstance(inputs, torch.Tensor) and found.queries > 40
    assert int((inputs != u).sum(1).max()) <= 2
    torch.testing.assert_close(margin(model, inputs, labels), found.margins)
    assert torch.equal(found.success, found.margins > 0)
    best = torch.full((12,), -torch.inf, dtype=torch.float64)
    for pair in combinations(range(7), 2):
        for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            moved = u.clone()
            moved[:, pair[0]] += 0.5 * signs[0]
            moved[:, pair[1]] += 0.5 * signs[1]
            best = torch.maximum(best, margin(model, moved, labels))
    before = margin(model, u, labels)
    gained = (found.margins - before) / (best - before)
    assert bool((found.margins >= before).all()) and float(gained.mean()) > 0.75


def test_the_guide_is_the_row_of_s_of_the_nearest_class() -> None:
    model = made(LOOP, 3)
    u = torch.randn(8, 7, dtype=torch.float64)
    scores = model(u).detach()
    labels = scores.argmax(1)
    rivals = scores.scatter(1, labels[:, None], -torch.inf).argmax(1)
    found = attack(model, u, labels, 0.4, method="sparse", entries=1, guide="sensitivity")
    from implicit_dsl.analysis import sensitivity

    rows = sensitivity(model).rows((torch.eye(3)[rivals] - torch.eye(3)[labels]).numpy())
    for sample in range(8):
        changed = (found.inputs[sample] != u[sample]).nonzero().flatten().tolist()  # type: ignore[call-overload]
        assert changed in ([], [int(rows[sample].argmax())])


def test_without_s_and_with_wrong_words() -> None:
    model = made(LOOP.replace("norm(A, Inf) <= 0.5", "unchecked"))
    with torch.no_grad():
        model.A.copy_(-2.0 * torch.eye(6))
    u = torch.randn(3, 7, dtype=torch.float64)
    labels = torch.zeros(3, dtype=torch.long)
    with pytest.raises(NoBound, match="loop"):
        attack(model, u, labels, 0.1, method="sparse", guide="sensitivity")
    with pytest.raises(ValueError, match='no guide "s"'):
        attack(model, u, labels, 0.1, method="sparse", guide="s")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='the text "inf"'):
        attack(model, u, labels, 0.1, norm=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0 to 2"):
        attack(model, u, labels + 3, 0.1)
    for wrong in (torch.zeros(3, 6), torch.zeros(3, 7, 1), torch.zeros(2, 7)):
        with pytest.raises(ValueError, match=r"shape|labels"):
            attack(model, wrong, labels, 0.1)
    several = made("model T\ninput u[3]\noutput y[2] = Dense(2)*u, z[2] = Dense(2)*u\nend")
    with pytest.raises(ValueError, match="one output"):
        attack(several, torch.zeros(3, 3), labels, 0.1)
    assert model.training is False and all(p.requires_grad and p.grad is None for p in model.parameters())
