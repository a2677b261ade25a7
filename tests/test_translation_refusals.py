"""What cannot be translated is refused by name, with its place, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from implicit_dsl import from_torch
from implicit_dsl.translation import TranslationError


class Made(nn.Module):
    """A module of one function, between two layers."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.first, self.function = nn.Linear(4, 6), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.first(x))


def branching(x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def counted(x: Tensor) -> Tensor:
    return x.reshape(3, 6) + 1


REFUSED = {
    "topk": (lambda x: x.topk(2, dim=1)[0], "aten.topk.default", "no counterpart"),
    "sort": (lambda x: x.sort(dim=1)[0], "aten.sort.default", "no counterpart"),
    "round": (torch.round, "aten.round.default", "no counterpart"),
    "fft": (lambda x: torch.fft.rfft(x).real, "aten", "no counterpart"),
    "mean over the batch": (lambda x: x - x.mean(0), "aten.mean.dim", "across the samples"),
    "norm over all": (lambda x: x / x.norm(), "aten.linalg_vector_norm.default", "across the samples"),
    "softmax over the batch": (lambda x: x.softmax(0), "aten.softmax.int", "across the samples"),
    "a Gram matrix": (lambda x: x @ x.T, "aten.matmul.default", "samples of the batch"),
    "joined along the batch": (lambda x: torch.cat([x, x]), "aten.cat.default", "across the samples"),
    "reversed batch": (lambda x: x.flip(0), "aten.flip.default", "across the samples"),
    "first sample": (lambda x: x + x[0], "aten.select.int", "across the samples"),
    "batch merged for good": (lambda x: x.reshape(-1), None, "no batch axis"),
    "not of the batch": (lambda x: torch.ones(3), None, "no batch axis"),
    "a comparison": (lambda x: torch.where(x > 0, x, 2 * x), "aten.gt.Scalar", "compares"),
    "argmax": (lambda x: x.max(dim=1, keepdim=True)[1] + x, "aten.max.dim", "places of maxima"),
    "a branch": (branching, None, "one path for all inputs"),
    "a fixed batch": (counted, None, "batch size"),
    "random": (lambda x: x + torch.rand_like(x), "aten.rand_like.default", "at random"),
    "dropout that stays on": (lambda x: F.dropout(x, 0.5, training=True), "aten.dropout.default", "random"),
    "another number type": (lambda x: x.to(torch.float16), "aten.to.dtype", "one type of numbers"),
    "a cut gradient": (lambda x: x.detach(), "aten.detach.default", "gradient"),
    "no gradients": (lambda x: _without_gradient(x), None, "torch.no_grad"),
    "statistics of the batch": (
        nn.BatchNorm1d(6, track_running_stats=False),
        "aten.batch_norm.default",
        "batch",
    ),
    "sums of a cumulated kind": (lambda x: x.cumprod(1), "aten.cumprod.default", "no counterpart"),
    "ceil": (nn.MaxPool1d(4, ceil_mode=True), "aten", "beyond the end"),
    "single numbers": (lambda x: F.layer_norm(x[:, :1], (1,)), "aten.layer_norm.default", "single numbers"),
    "single numbers in groups": (lambda x: F.group_norm(x, 6), "aten.group_norm.default", "single numbers"),
    "the number of samples": (lambda x: x / x.shape[0], "aten.div.Tensor", "may differ from call to call"),
    "filled with it": (lambda x: x + torch.full_like(x, x.shape[0]), "aten.full_like", "may differ"),
    "a root of it": (lambda x: x * x.shape[0] ** 0.5, "aten.mul.Tensor", "may differ from call to call"),
    "whole numbers": (
        lambda x: (x, torch.zeros(x.shape[0], 2, dtype=torch.int64)),
        "aten.zeros",
        "real numbers",
    ),
    "indices": (lambda x: x.gather(1, torch.zeros_like(x).long()), "aten.gather", "no counterpart"),
    "a gap": (nn.MaxPool1d(2, dilation=2), "aten", "gaps"),
    "no tensor": (lambda x: (x, 3), None, "no tensor"),
    "threshold": (nn.Threshold(0.1, 20), "aten.threshold.default", "jumps"),
}


def _without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        y = x * 2
    return x + y


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_is_named(case: str) -> None:
    function, operator, reason = REFUSED[case]
    module = Made(function)

    with pytest.raises(TranslationError) as caught:
        from_torch(module, torch.randn(3, 4))

    assert reason in str(caught.value)
    if operator is not None:
        assert str(caught.value.operator).startswith(operator)
        assert caught.value.file == __file__
        assert caught.value.line is not None and caught.value.module is not None
    assert isinstance(caught.value, ValueError)
    assert "help: " in str(caught.value)
    assert module.training and module.first.training
