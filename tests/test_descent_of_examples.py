"""Every model of every example is fitted by block-coordinate descent, or it is named why not."""

from __future__ import annotations

import warnings

import pytest
import torch
from citizens import Citizen, citizens, flat

from implicit_dsl.train import bcd
from implicit_dsl.train.descent import ConstantWarning, NothingLeftWarning, OutsideFamilyError

torch.set_num_threads(1)

LARGE = {"OpenLeNet5", "ResNet", "TiedResNet", "MLP"}  # minutes, or the same as the others
OUTSIDE = {
    "BranchingNet": "`stem`: its activation `max_pool`",
    "LeNet5Relu": "its activation `max_pool`",
    "DEQSequence": "its activation `sinusoids`",
    "DEQTransformer": "its activation `layer_norm`",
    "ResidualDEQ": "its activation `group_norm`",
    "GraphNetwork": "its activation `matmul`",
    "FiniteGraphNetwork": "its activation `matmul`",
    "Tagger": "its activation `upto`",
    "RobustDigits": "`norm(system.S, Inf)` (line 16) has no proximal operator",
    **dict.fromkeys(
        ("ConvLSTM", "ConvGRU", "Flow", "GRUNet", "MGUNet", "LSTMNet", "LSTMStream"),
        "its activation `product`",
    ),
}


@pytest.mark.parametrize("citizen", [c for c in citizens() if c.model not in LARGE], ids=lambda c: c.model)
def test_it_is_fitted_or_named(citizen: Citizen) -> None:
    module, inputs = citizen.make(dtype=torch.float64), citizen.inputs(batch=4, dtype=torch.float64)
    with torch.no_grad():
        outputs = flat(module(*inputs))
    targets = tuple(y + 0.3 * torch.randn_like(y) for y in outputs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantWarning)
            warnings.simplefilter("ignore", NothingLeftWarning)
            history = bcd(module, inputs, targets, sweeps=2, weight_steps=3, state_steps=3)
    except OutsideFamilyError as error:
        assert OUTSIDE[citizen.model] in str(error)
        return
    assert citizen.model not in OUTSIDE
    with torch.no_grad():
        made = flat(module(*inputs))
    pairs = zip(made, targets, strict=True)
    loss = sum(float(0.5 * (y - target).square().flatten(1).sum(1).mean()) for y, target in pairs)
    assert history.loss == pytest.approx(loss, rel=1e-2, abs=1e-6)
    assert history.loss < history.loss_before or citizen.model == "FeatureSelection"
