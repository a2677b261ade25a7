"""The exponential and the spectral norm: both ways against float64, in every dtype, with gradients."""

from __future__ import annotations

import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from implicit_dsl.runtime.matrix_functions import exponential, spectral_norm

torch.set_num_threads(1)

MATRICES = {
    "usual": torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    "wide": torch.randn(3, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
    "tall": torch.randn(40, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64),
    "one value": torch.eye(30, dtype=torch.float64),
    "rank one": torch.ones(7, 7, dtype=torch.float64),
    "zero": torch.zeros(4, 4, dtype=torch.float64),
}


class Called(nn.Module):
    """A module that is exported for a function."""

    def __init__(self, name: str, W: Tensor) -> None:
        super().__init__()
        self.name, self.W = name, nn.Parameter(W.clone())

    def forward(self, x: Tensor) -> Tensor:
        function = {"exponential": exponential, "spectral_norm": spectral_norm}[self.name]
        return x * function(self.W)


def exported(name: str, W: Tensor) -> Tensor:
    """What the products give that an exported graph holds."""
    one = torch.ones((), dtype=W.dtype)
    program = torch.export.export(Called(name, W), (one,))
    assert not any("linalg" in str(node.target) for node in program.graph.nodes)
    made: Tensor = program.module()(one)
    return made


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float64, 1.0), (torch.float32, 1e-9), (torch.float32, 1e9)]
)
def test_spectral_norms_of_exported_graphs_are_from_above(name: str, dtype: torch.dtype, size: float) -> None:
    W = (MATRICES[name] * size).to(dtype)
    expected = torch.linalg.matrix_norm(W.double(), 2).item()
    eps = torch.finfo(dtype).eps

    for found in (exported("spectral_norm", W).item(), spectral_norm(W).item()):
        assert expected * (1 - 8 * eps) <= found <= expected * (1 + 8 * eps) + 1e-30


@pytest.mark.parametrize("size", [0.01, 3.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_exponentials_of_exported_graphs(dtype: torch.dtype, size: float) -> None:
    skew = MATRICES["usual"] - MATRICES["usual"].mT
    S = (size * skew / torch.linalg.matrix_norm(skew, 2)).to(dtype)
    expected = torch.from_numpy(scipy.linalg.expm(S.double().numpy()))

    for found, slack in ((exported("exponential", S), 16), (exponential(S), 512)):  # matrix_exp is less exact
        assert (found - expected).abs().max() <= slack * max(size, 1.0) * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_at_the_end(dtype: torch.dtype) -> None:
    W = MATRICES["usual"].to(dtype).requires_grad_()
    S = W - W.mT

    rotation, norm = exponential(S), spectral_norm(W)
    (rotation.sum() + norm).backward()

    assert rotation.dtype == norm.dtype == dtype and W.grad is not None and W.grad.isfinite().all()
    assert torch.equal(rotation, torch.linalg.matrix_exp(S.float()).to(dtype))
    assert torch.equal(norm, torch.linalg.matrix_norm(W.float(), 2).to(dtype))


@pytest.mark.parametrize("name", ["exponential", "spectral_norm"])
def test_gradients_of_exported_graphs(name: str) -> None:
    one, G = torch.ones((), dtype=torch.float64), MATRICES["usual"].mT
    module = Called(name, MATRICES["usual"])
    program = torch.export.export(module, (one,)).module()
    (program(one) * G).sum().backward()
    (weight,) = program.parameters()

    (expected,) = torch.autograd.grad((module(one) * G).sum(), module.W)

    torch.testing.assert_close(weight.grad, expected, rtol=1e-9, atol=1e-9)


def test_autocast_does_not_round_rotations() -> None:
    S = (MATRICES["usual"] - MATRICES["usual"].mT).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(exponential(S), torch.linalg.matrix_exp(S))
        found = torch.export.export(Called("exponential", S), (torch.ones(()),)).module()(torch.ones(()))
    assert (found - torch.linalg.matrix_exp(S)).abs().max() <= 1e-5
