"""Units of the states in which the network's own matrix has ‖A‖∞ below a bound.

With x' = S x and z' = S z, S = diag(s), a positively homogeneous φ stays what it is, and A' = S A S⁻¹. The
pre-activations of each layer are regressed on the states before it: that A is block triangular, so that
v = 1 + |A| v ÷ κ ends after as many steps as there are layers, and s = 1 ÷ v has ‖A'‖∞ < κ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from implicit_dsl.train.state_driven.activations import HOMOGENEOUS
from implicit_dsl.train.state_driven.collecting import States
from implicit_dsl.train.state_driven.moments import Moments

_RIDGE = 1e-9  # of the largest eigenvalue: data that says nothing is not followed
_WIDEST = 2.0**60  # of v: below what rounding could lose


def units_of(states: States, kappa: float) -> Tensor:
    """s [n] in float64, powers of two. States of a φ that is not homogeneous keep their units: 1."""
    v = torch.ones(states.Z.shape[1], dtype=torch.float64, device=states.Z.device)
    start = 0
    for layer in states.layers:
        here = slice(start, start + layer.size)
        if start and layer.kind in HOMOGENEOUS:
            moments = Moments.of(torch.cat((states.X[:, :start], states.U), 1), states.Z[:, here])
            A = _regressed(moments)[:, :start]
            needed = (A.abs() @ v[:start]) / kappa
            v[here] = torch.exp2(needed.clamp(1.0, _WIDEST).log2().ceil())
        start += layer.size
    return 1 / v


def _regressed(moments: Moments) -> Tensor:
    """Least squares [rows, d], damped a little, on features of unit spread."""
    spreads = moments.spreads
    units = torch.where(spreads > 0, spreads, 1.0)
    G = moments.G / (units[:, None] * units)
    damping = _RIDGE * float(torch.linalg.matrix_norm(G, 1))
    G = G + max(damping, 1e-300) * torch.eye(len(G), dtype=G.dtype, device=G.device)
    W: Tensor = torch.linalg.solve(G, (moments.Q / units).mT).mT / units
    return W
