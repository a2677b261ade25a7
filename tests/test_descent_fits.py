"""Fitting whole models by block-coordinate descent: true losses, histories, what is refused, what is left."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_descent_blocks import PROGRAMS, compiled
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl.train import History, bcd
from implicit_dsl.train.descent import (
    ConstantWarning,
    DataError,
    NothingLeftWarning,
    OutsideFamilyError,
    Sweep,
)

torch.set_num_threads(1)

SHAPES = {"convolutions": (2, 6, 6), "a recurrence": (4, 2)}


def inputs_of(name: str, samples: int = 60) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(samples, *SHAPES.get(name, (4,)), generator=generator, dtype=torch.float64)


def a_task(name: str, samples: int = 60) -> tuple[nn.Module, Tensor, Any]:
    """A model, inputs, and the outputs of another model of its kind."""
    module, u = compiled(name), inputs_of(name, samples)
    torch.manual_seed(77)
    other = implicit_dsl.loads(PROGRAMS[name]).M(dtype=torch.float64)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
        if hasattr(other, "project_"):
            other.project_()
        return module, u, other.eval()(u)


def squared(module: nn.Module, u: Tensor, target: Any) -> float:
    with torch.no_grad():
        y = module.eval()(u)
    pairs = zip(y, target) if isinstance(y, tuple) else [(y, target)]
    return float(sum(0.5 * (a - b).square().flatten(1).sum(1).mean() for a, b in pairs))


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_true_loss_falls(name: str) -> None:
    module, u, target = a_task(name)
    before = squared(module, u, target)
    history = bcd(module, u, target, sweeps=12, ridge=1e-4)
    after = squared(module, u, target)
    assert history.loss_before == pytest.approx(before, rel=1e-6)
    assert history.loss == pytest.approx(after, rel=1e-4)
    assert after < 0.5 * before


@pytest.mark.parametrize("name", ["implicit", "feed forward", "convolutions"])
def test_classes_are_learned(name: str) -> None:
    module, u, target = a_task(name, samples=90)
    labels = target.argmax(1)
    history = bcd(module, u, labels, loss="cross_entropy", sweeps=15)
    with torch.no_grad():
        y = module.eval()(u)
    assert float(F.cross_entropy(y, labels)) == pytest.approx(history.loss, rel=1e-4)
    assert float((y.argmax(1) == labels).double().mean()) > 0.85
    by_shares = compiled(name)
    shares = bcd(by_shares, u, F.one_hot(labels, 3).double(), loss="cross_entropy", sweeps=15)
    assert shares.loss == pytest.approx(history.loss, rel=1e-9)


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_with_one_weight_the_objective_never_rises(name: str, loss: Any) -> None:
    module, u, target = a_task(name)
    if loss == "cross_entropy":
        target = tuple(y.argmax(1) for y in target) if isinstance(target, tuple) else target.argmax(1)
    history = bcd(module, u, target, loss=loss, sweeps=6, continuation=(0.7, 0.7), gauge=False)
    values = [
        value
        for sweep in history.sweeps
        for step in (sweep.outputs, sweep.states, sweep.weights)
        for value in (step.before, step.after)
    ]
    for before, after in pairwise(values):
        assert after <= before * (1 + 1e-9)
    assert history.sweeps[-1].objective < history.sweeps[0].outputs.before


class Columns:
    """β Σ_j ‖B_:j‖, as a penalty of one's own."""

    tensors = ("B",)

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def value(self, weights: Mapping[str, Tensor]) -> Tensor:
        return self.factor * weights["B"].norm(dim=0).sum()

    def prox(self, weights: Mapping[str, Tensor], step: float) -> dict[str, Tensor]:
        B = weights["B"]
        shrunk = 1 - step * self.factor / B.norm(dim=0).clamp_min(1e-300)
        return {"B": B * shrunk.clamp_min(0.0)}


SPARSE = """
model S(n = 4; β = 0.02)
    input u[8]
    param A[n, n], B[n, 8], C[5, n], b[n], d[5]
    state x[n] ~ relu(A*x + B*u + b)
    output y[5] = C*x + d
    @wellposed norm(A, Inf) <= 0.9
    @penalty β * sum(norm(B[:, j]) for j in 1:8)
end"""


def sparse_task() -> tuple[Tensor, Tensor]:
    """Points of which the first two of eight inputs matter."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(200, 8, generator=generator, dtype=torch.float64)
    W = torch.randn(5, 2, 2, generator=generator, dtype=torch.float64)
    return u, torch.relu(u[:, :2] @ W[0] + 0.3) @ torch.randn(2, 5, generator=generator).double()


def test_penalties_of_the_source_and_of_ones_own_make_the_same_zeros() -> None:
    u, y = sparse_task()
    found = []
    for own in (False, True):
        torch.manual_seed(2)
        module = implicit_dsl.loads(SPARSE).S(dtype=torch.float64)
        bcd(module, u, y, sweeps=25, penalties=[Columns(0.02)] if own else None, keep="last")
        found.append(module.B.detach())
        assert module.B.norm(dim=0).nonzero()[:, 0].tolist() == [0, 1]
    assert torch.allclose(*found, atol=1e-8)


def test_penalties_may_be_left_out() -> None:
    u, y = sparse_task()
    module = implicit_dsl.loads(SPARSE).S(dtype=torch.float64)
    bcd(module, u, y, sweeps=5, penalties=())
    assert bool((module.B.norm(dim=0) > 0).all())


def test_a_penalty_that_kills_everything_is_told() -> None:
    u, y = sparse_task()
    module = implicit_dsl.loads(SPARSE, β=1e4).S(dtype=torch.float64)
    with pytest.warns(NothingLeftWarning, match=r"all of B is zero: .* leaves nothing") as seen:
        bcd(module, u, y, sweeps=10, keep="last")
    assert seen[0].filename == __file__
    assert not bool(module.B.any())


def test_a_bound_on_columns_and_a_frozen_tensor() -> None:
    source = SPARSE.replace("@penalty β * sum(norm(B[:, j]) for j in 1:8)", "@sparse columns(B) <= 1.2")
    u, y = sparse_task()
    module = implicit_dsl.loads(source).S(dtype=torch.float64)
    module.A.requires_grad_(False)
    kept = module.A.detach().clone()
    before = squared(module, u, y)
    bcd(module, u, y, sweeps=10)
    assert torch.equal(module.A, kept)
    assert float(module.B.detach().abs().amax(0).sum()) <= 1.2
    assert squared(module, u, y) < before


def test_float32_and_float64_agree_and_the_module_keeps_its_dtype() -> None:
    module, u, target = a_task("implicit")
    narrow = compiled("implicit", torch.float32)
    narrow.load_state_dict(module.state_dict())
    wide = bcd(module, u, target, sweeps=10)
    found = bcd(narrow, u, target, sweeps=10)  # in float64, and then rounded
    assert narrow.A.dtype is torch.float32
    assert found.loss == pytest.approx(wide.loss, rel=1e-3)
    narrow(u.float())  # its weights are in their set
    again = compiled("implicit", torch.float32)
    assert bcd(again, u.float(), target.float(), sweeps=10, dtype=torch.float32).loss < 0.5 * wide.loss_before


def test_minibatches_are_drawn_by_the_generator() -> None:
    losses = []
    for seed in (0, 0, 1):
        module, u, target = a_task("feed forward", samples=100)
        history = bcd(module, u, target, sweeps=5, batch=30, generator=torch.Generator().manual_seed(seed))
        losses.append(history.loss)
        assert history.loss < 0.5 * history.loss_before
    assert losses[0] == losses[1] != losses[2]


def test_what_is_kept_is_the_best_or_the_last() -> None:
    module, u, target = a_task("implicit")
    history = bcd(module, u, target, sweeps=8)
    looked = [sweep.loss for sweep in history.sweeps]
    assert history.loss == min(loss for loss in looked if loss is not None)
    assert looked[history.kept - 1] == history.loss
    other = compiled("implicit")
    last = bcd(other, u, target, sweeps=8, look_every=3, keep="last")
    assert last.kept == 8
    assert [sweep.loss is None for sweep in last.sweeps] == [
        True,
        True,
        False,
        True,
        True,
        False,
        True,
        False,
    ]


def test_a_fit_that_finds_nothing_better_leaves_a_trained_model() -> None:
    module, u, _ = a_task("feed forward")
    kept = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        exact = module(u)
    history = bcd(module, u, exact, sweeps=2, ridge=1.0)
    assert history.kept == 0
    assert history.loss == history.loss_before < 1e-20
    assert all(torch.equal(tensor, kept[name]) for name, tensor in module.state_dict().items())


def test_the_history_is_a_table_and_data(capsys: pytest.CaptureFixture[str]) -> None:
    module, u, target = a_task("feed forward")
    seen: list[Sweep] = []
    history = bcd(module, u, target, sweeps=3, progress=seen.append)
    assert isinstance(history, History)
    assert tuple(seen) == history.sweeps
    data = json.loads(json.dumps(history.as_data()))
    assert data["model"] == "M" and len(data["sweeps"]) == 3
    assert set(data["sweeps"][0]["divergence"]) == {"h1", "h2", "h3", "h3.cat1"}
    assert all(value >= 0 for value in data["sweeps"][0]["divergence"].values())
    lines = history.table().splitlines()
    assert len(lines) == 5 and lines[1].split()[0] == "1"
    with pytest.raises(AttributeError):
        history.loss = 0.0  # type: ignore[misc]
    assert capsys.readouterr().err == ""  # it is no terminal
    bcd(module, u, target, sweeps=2, progress=True)
    assert "2/2" in capsys.readouterr().err


# -- what is refused ------------------------------------------------------------------------------------


def unchanged_after(
    module: nn.Module, error: type[BaseException], match: str, *data: Any, **how: Any
) -> None:
    kept = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(error, match=match):
        bcd(module, *data, **how)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in module.state_dict().items())


def nan_at(tensor: Tensor, sample: int) -> Tensor:
    made = tensor.clone()
    made[sample] = float("nan")
    return made


U, Y = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("match", "inputs", "targets", "how"),
    [
        (r"input `u` has shape \[20, 3\], but must be \[samples, 4\]", U[:, :3], Y, {}),
        (r"target `y` has shape \[20, 2\], but must be \[samples, 3\]", U, Y[:, :2], {}),
        (r"target `y` has shape \[19, 3\], but the inputs have 20 samples", U, Y[:19], {}),
        (r"input `u` has 4 numbers that are NaN or infinite, first in sample 7", nan_at(U, 7), Y, {}),
        (r"target `y` has 3 numbers that are NaN or infinite, first in sample 2", U, nan_at(Y, 2), {}),
        (r"there is no input `v`; there are u", {"v": U}, Y, {}),
        (r"target `y` is missing", U, {}, {}),
        (r"the model has 1 inputs \(u\), but 2 were given", (U, U), Y, {}),
        (r"input `u` has no sample", U[:0], Y[:0], {}),
        (r"there is no loss \"hinge\"", U, Y, {"loss": "hinge"}),
        (r"has class 3, but they go from 0 to 2", U, torch.arange(20) % 4, {"loss": "cross_entropy"}),
        (r"holds probabilities", U, Y, {"loss": "cross_entropy"}),
        (r"target `y` is a list, not a tensor", U, [[1.0]], {}),
    ],
)
def test_data_that_does_not_fit_is_refused(match: str, inputs: Any, targets: Any, how: Any) -> None:
    unchanged_after(compiled("implicit"), DataError, match, inputs, targets, **how)


@pytest.mark.parametrize(
    ("match", "how"),
    [
        ("sweeps must be at least 1", {"sweeps": 0}),
        ("continuation goes between two positive numbers", {"continuation": (0.0, 1.0)}),
        ("a batch has at least 2 samples", {"batch": 1}),
        ("look_every must be at least 1", {"look_every": 0}),
        ("keep is", {"keep": "worst"}),
        ("ridge must be a number from 0 on", {"ridge": -1.0}),
        ("weight_steps must be at least 1", {"weight_steps": 0}),
        ("a penalty is about `B`, which no equation of M uses", {"penalties": [Columns(1.0)]}),
    ],
)
def test_settings_that_make_no_sense_are_refused(match: str, how: Any) -> None:
    name = "feed forward" if "penalties" in how else "implicit"
    unchanged_after(compiled(name), ValueError, match, U, Y, **how)


OUTSIDE = {
    "h ~ gelu(Dense(3) * u)": r"M cannot be lifted at `h`: its activation `gelu` has no Fenchel divergence",
    "h ~ relu(Dense(3)*u) .* tanh(Dense(3)*u)": r"M cannot be lifted at `h`: its activation `product`",
    "h = Dense(3) * LayerNorm()(u)": r"M cannot be lifted at `.*layernorm.*`",
    "h = reshape(u, [2, 2]) |> softmax |> flatten |> Dense(3)": r"M cannot be lifted at .* `softmax`",
    "h = MaxPool(2)(reshape(u, [1, 4])) |> flatten |> Dense(3)": r"M cannot be lifted at .*`max_pool`",
    "h ~ leaky_relu(Dense(3) * u; slope = -0.5)": "`leaky_relu` with slope -0.5 falls below 0",
}


@pytest.mark.parametrize("line", OUTSIDE)
def test_models_outside_of_the_family_are_refused_by_name(line: str) -> None:
    module = implicit_dsl.loads(f"model M\n    input u[4]\n    {line}\n    output y[3] = 1*h\nend").M()
    unchanged_after(module, OutsideFamilyError, OUTSIDE[line], U, Y)


@pytest.mark.parametrize(
    ("declared", "bound", "match"),
    [
        ("W[4, 4]", '(norm(W, Inf) <= 0.9; method = "parametrize")', "makes its weights of free parameters"),
        ("W[4, 4] in Orthogonal()", " unchecked", "the matrix `W` is in a set that is not linear"),
    ],
)
def test_weights_that_are_made_of_others_are_refused(declared: str, bound: str, match: str) -> None:
    source = f"""
model M
    input u[4]
    param {declared}
    state x[4] ~ tanh(0.5*W*x + u)
    output y[3] = Dense(3) * x
    @wellposed{bound}
end"""
    unchanged_after(implicit_dsl.loads(source).M(), OutsideFamilyError, match, U, Y)


def test_other_modules_and_frozen_ones_are_refused() -> None:
    with pytest.raises(OutsideFamilyError, match="Linear is no compiled module"):
        bcd(nn.Linear(4, 3), U, Y)
    module = compiled("implicit").requires_grad_(False)
    unchanged_after(module, OutsideFamilyError, "nothing to train", U, Y)


def test_entries_that_never_change_are_told() -> None:
    module = compiled("implicit")
    still = U.clone()
    still[:, 2] = 1.0
    with pytest.warns(ConstantWarning, match="1 of 4 entries of input `u` are the same in all 20") as seen:
        bcd(module, still, Y, sweeps=1)
    assert seen[0].filename == __file__
    with pytest.warns(ConstantWarning, match="3 of 3 entries of target `y`"):
        bcd(module, U, torch.ones_like(Y), sweeps=1)


# -- nothing half written -----------------------------------------------------------------------------------


def test_an_error_on_the_way_leaves_the_model_as_it_was() -> None:
    def fail(sweep: Sweep) -> None:
        if sweep.number == 2:
            raise RuntimeError("stop")

    unchanged_after(compiled("implicit"), RuntimeError, "stop", U, Y, sweeps=5, progress=fail)


def test_an_interrupt_leaves_what_was_best_so_far() -> None:
    def interrupt(sweep: Sweep) -> None:
        if sweep.number == 3:
            raise KeyboardInterrupt

    module, u, target = a_task("implicit")
    before = squared(module, u, target)
    with pytest.raises(KeyboardInterrupt):
        bcd(module, u, target, sweeps=9, progress=interrupt)
    other = compiled("implicit")
    losses: list[float] = []
    bcd(other, u, target, sweeps=9, progress=lambda sweep: losses.append(sweep.loss or 0.0))
    assert squared(module, u, target) == pytest.approx(min(losses[:3]), rel=1e-6)
    assert squared(module, u, target) < before


def test_a_failure_while_writing_puts_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    module = compiled("implicit")

    def fail() -> None:
        raise RuntimeError("no projection")

    monkeypatch.setattr(module, "project_", fail)
    unchanged_after(module, RuntimeError, "no projection", U, Y, sweeps=2)


def test_modes_and_gradients_are_left_alone() -> None:
    module, u, target = a_task("convolutions")
    module.train()
    statistics = {name: buffer.clone() for name, buffer in module.named_buffers()}
    bcd(module, u, target, sweeps=2)
    assert module.training
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in module.named_buffers())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


def test_free_sizes_and_tokens() -> None:
    source = """
model M(d = 5)
    input t[_] in Tokens(6)
    param E[6, d] = normal(0.5)
    h ~ tanh(Dense(d) * (E'*t))
    output y[3] = Dense(3) * GlobalAvgPool()(transpose(h))
end"""
    torch.manual_seed(0)
    module = implicit_dsl.loads(source).M(dtype=torch.float64)
    t = torch.randint(6, (50, 4))
    labels = (t == 2).sum(1).clamp_max(2)
    history = bcd(module, t, labels, loss="cross_entropy", sweeps=15)
    assert history.loss < 0.5 * history.loss_before
    with torch.no_grad():
        assert float(F.cross_entropy(module(t), labels)) == pytest.approx(history.loss, rel=1e-6)
    unchanged_after(module, DataError, "not below 6", t + 1, labels, loss="cross_entropy")


def test_the_example_selects_the_true_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    monkeypatch.delitem(sys.modules, "feature_selection", raising=False)
    import feature_selection as example

    task = example.a_task(100, even=False)
    assert len(task.active) == 10
    found = example.result(task, 100, example.descend)
    assert found.exact and found.ranked and found.gap and found.error < 0.7
    even = example.a_task(100, even=True)
    covariance = (even.targets - even.targets.mean(0)).mT @ even.inputs / example.POINTS
    plain = (task.targets - task.targets.mean(0)).mT @ task.inputs / example.POINTS
    assert float(covariance[:, even.active].norm()) < 0.2 * float(plain[:, task.active].norm())
    assert example.picture(task, found.norms).count("<rect") == 1 + 2 * example.ACTIVE  # the paper, and bars
    assert len(example.bars(task, found.norms).splitlines()) == 11
