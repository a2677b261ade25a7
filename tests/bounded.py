"""Networks with random weights whose outputs are bounded, and points of the boxes they are bounded on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from test_exactness import outputs
from torch import Tensor, nn

import implicit_dsl

LOOP = """
model M(n = 6, p = 3)
    input u[p]
    param A[n, n], B[n, p], b[n], D[2, p]
    state x[n] ~ {act}(A*x + B*u + b)
    output y[2] = Dense(2)*x + D*u
    @wellposed {bound}
end
"""


def loop(act: str = "relu", bound: str = "norm(A, Inf) <= 0.9", seed: int = 0, scale: float = 1.0) -> Any:
    torch.manual_seed(seed)
    model = implicit_dsl.loads(LOOP.format(act=act, bound=bound)).M(dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=scale)
    if hasattr(model, "project_"):
        model.project_()
    return model.eval()


def boxes_around(inputs: list[Tensor], width: float, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    low, high = [], []
    for u in inputs:
        room = width * torch.rand(u.shape, generator=generator, dtype=torch.float64)
        low.append(u - room if u.dtype.is_floating_point else u)
        high.append(u + room if u.dtype.is_floating_point else u)
    return low, high


def samples(low: list[Tensor], high: list[Tensor], number: int, seed: int) -> list[list[Tensor]]:
    """Points of boxes, many of which are corners."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for k in range(number):
        point = []
        for a, b in zip(low, high):
            if not a.dtype.is_floating_point:
                point.append(a)
                continue
            share = torch.rand(a.shape, generator=generator, dtype=torch.float64)
            u = a + (b - a) * (share.round() if k % 2 else share)
            point.append(torch.minimum(torch.maximum(u, a), b))
        made.append(point)
    return made


def assert_within(model: nn.Module, points: list[list[Tensor]], low: Any, high: Any) -> int:
    """All outputs lie within their bounds, but for what the solver leaves; how many samples that were."""
    count = 0
    for point in points:
        with torch.no_grad():
            made = outputs(model(*point))
        count += len(point[0])
        for y, bottom, top in zip(made, outputs(low), outputs(high)):
            slack = 1e-7 * (1 + y.double().abs())
            assert bool(((y >= bottom - slack) & (y <= top + slack)).all())
    return count


MLP = """
model Net
    input u[4]
    state a[10] ~ {act}(Dense(10)*u)
    state b[8] ~ {act}(Dense(8)*a)
    output y[3] = Dense(3)*b
end
"""


def mlp(act: str = "relu", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    made: nn.Module = implicit_dsl.loads(MLP.format(act=act)).Net(dtype=torch.float64).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.7)
    return made


def layers(model: nn.Module) -> list[tuple[np.ndarray, np.ndarray]]:
    held = dict(model.named_parameters())
    return [
        (held[f"{name}.weight"].detach().numpy(), held[f"{name}.bias"].detach().numpy())
        for name in ("a_dense", "b_dense", "y_dense")
    ]
