"""Programs with loops, each with its sweep written by hand in PyTorch: what generated modules are held to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]
Twin = Callable[[Weights, Tensor], Tensor]
SWEEPS = 400  # to the limit of float64 for the gains of these programs


@dataclass(frozen=True)
class LoopProgram:
    """`twin` computes the output from the state_dict and the input, sweep by sweep, for autograd."""

    name: str
    text: str
    shape: tuple[int, ...]
    twin: Twin
    small: tuple[str, ...] = ()  # tensors to be made small, so that unconstrained loops contract
    scale: float = 0.3
    extra: dict[str, object] = field(default_factory=dict)


def repeated(step: Callable[..., tuple[Tensor, ...]], *start: Tensor) -> tuple[Tensor, ...]:
    state = start
    for _ in range(SWEEPS):
        state = step(*state)
    return state


def _implicit(phi: Callable[[Tensor], Tensor]) -> Twin:
    def twin(w: Weights, u: Tensor) -> Tensor:
        (x,) = repeated(lambda x: (phi(x @ w["A"].mT + u @ w["B"].mT + w["b"]),), u.new_zeros(len(u), 7))
        return x @ w["C"].mT + u @ w["D"].mT

    return twin


def _implicit_text(phi: str, demand: str) -> str:
    return f"""
model M(n = 7, p = 5, q = 3)
    input u[p]
    param A[n, n], B[n, p], C[q, n], D[q, p], b[n] = normal(0.5)
    state x[n] ~ {phi}(A*x + B*u + b)
    output y[q] = C*x + D*u
    @wellposed {demand}
    @solver auto(tol = 1e-13, maxiter = 4000)
end
"""


def _nested(w: Weights, u: Tensor) -> Tensor:
    def step(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        a = torch.tanh(F.linear(x, w["W"]) + 0.3 * z)
        return torch.relu(0.5 * a + F.linear(u, w["x_dense.weight"], w["x_dense.bias"])), torch.sigmoid(
            F.linear(x, w["z_dense.weight"], w["z_dense.bias"]) - 0.5 * z
        )

    x, z = repeated(step, u.new_zeros(len(u), 6), u.new_zeros(len(u), 6))
    h = torch.relu(F.linear(z, w["h_dense.weight"], w["h_dense.bias"]))
    (v,) = repeated(lambda v: (torch.tanh(F.linear(v, w["V"]) + h),), torch.zeros_like(h))
    return F.linear(torch.cat((v, x), 1), w["y_dense.weight"], w["y_dense.bias"])


_NESTED = """
model M()
    input u[4]
    param W[6, 6], V[5, 5]
    state x[6], z[6], v[5]
    a = tanh(W*x + 0.3*z)
    x ~ relu(0.5*a + Dense(6)*u)
    z ~ sigmoid(Dense(6)*x - 0.5*z)
    h ~ relu(Dense(5)*z)
    v ~ tanh(V*v + h)
    output y[3] = Dense(3) * cat(v, x)
    @wellposed unchecked
    @solver auto(tol = 1e-13, maxiter = 4000)
end
"""


def _conv(w: Weights, u: Tensor) -> Tensor:
    e = F.conv2d(u, w["inject.weight"], w["inject.bias"], padding=1)
    (z,) = repeated(lambda z: (torch.relu(F.conv2d(z, w["K.weight"], padding=1) + e),), torch.zeros_like(e))
    return F.linear(F.avg_pool2d(z, 2).flatten(1), w["y_dense.weight"], w["y_dense.bias"])


_CONV = """
model M(c = 4)
    input u[2, 6, 6]
    layer inject = Conv(c, 3; pad = 1), K = Conv(c => c, 3; pad = 1, bias = false)
    state z[c, 6, 6] ~ relu(K*z + inject*u)
    output y[3] = z |> AvgPool(2) |> flatten |> Dense(3)
    @wellposed norm(K, Inf) <= 0.9
    @solver anderson(tol = 1e-13, maxiter = 2000)
end
"""


def _residual(w: Weights, u: Tensor) -> Tensor:
    e = F.conv2d(u, w["inject.weight"], w["inject.bias"], padding=1)

    def step(z: Tensor) -> tuple[Tensor]:
        a = F.group_norm(torch.tanh(F.conv2d(z, w["K1.weight"], padding=1)), 2, w["n1.weight"], w["n1.bias"])
        inner = F.group_norm(
            e + F.conv2d(0.7 * a + 0.6 * z, w["K2.weight"], padding=1), 2, w["n2.weight"], w["n2.bias"]
        )
        return (F.softplus(0.2 * z + 0.3 * inner),)

    (z,) = repeated(step, torch.zeros_like(e))
    return F.linear(z.mean((2, 3)), w["y_dense.weight"], w["y_dense.bias"])


_RESIDUAL = """
model M(c = 4)
    input u[2, 5, 5]
    layer inject = Conv(c, 3; pad = 1), K1 = Conv(c => c, 3; pad = 1, bias = false)
    layer K2 = Conv(c => c, 3; pad = 1, bias = false), n1 = GroupNorm(2), n2 = GroupNorm(2)
    e = inject*u
    state z[c, 5, 5]
    a = z |> K1 |> tanh |> n1
    z ~ softplus(0.2*z + 0.3*n2(e + 0.7*K2*a - 0.4*K2*z + K2*z))
    output y[3] = GlobalAvgPool()*z |> Dense(3)
    @wellposed unchecked
    @solver anderson(tol = 1e-13, maxiter = 2000)
end
"""


def _pooled(w: Weights, u: Tensor) -> Tensor:
    e = F.conv2d(u, w["inject.weight"], w["inject.bias"], padding=1)

    def step(z: Tensor) -> tuple[Tensor]:
        pooled = F.max_pool2d(torch.relu(F.conv2d(z, w["K.weight"], padding=1) + e), 2)
        return (torch.tanh(F.interpolate(pooled, scale_factor=2)),)

    (z,) = repeated(step, torch.zeros_like(e))
    return F.linear(z.flatten(1), w["y_dense.weight"], w["y_dense.bias"])


_POOLED = """
model M(c = 3)
    input u[2, 4, 4]
    layer inject = Conv(c, 3; pad = 1), K = Conv(c => c, 3; pad = 1, bias = false)
    state z[c, 4, 4]
    p = K*z + inject*u |> relu |> MaxPool(2)
    z ~ tanh(Upsample(2)*p)
    output y[2] = Dense(2) * flatten(z)
    @wellposed norm(K, Inf) <= 0.8
    @solver picard(tol = 1e-13, maxiter = 3000)
end
"""


def _gated(w: Weights, u: Tensor) -> Tensor:
    g = torch.sigmoid(F.linear(u, w["g_dense.weight"], w["g_dense.bias"]))
    d = F.linear(u, w["x_dense.weight"], w["x_dense.bias"])

    def step(x: Tensor) -> tuple[Tensor]:
        return (torch.tanh(F.linear(g * x, w["A"]) + d) * torch.sigmoid(x),)

    (x,) = repeated(step, u.new_zeros(len(u), 6))
    return F.linear(x, w["y_dense.weight"], w["y_dense.bias"])


_GATED = """
model M(n = 6)
    input u[4]
    param A[n, n]
    g = σ(Dense(n)*u)
    state x[n]
    x ~ tanh(A*(g .* x) + Dense(n)*u) .* σ(x)
    output y[2] = Dense(2)*x
    @wellposed unchecked
    @solver auto(tol = 1e-13, maxiter = 3000)
end
"""


def _attention(w: Weights, u: Tensor) -> Tensor:
    e = F.linear(u, w["e_dense.weight"], w["e_dense.bias"])

    def step(z: Tensor) -> tuple[Tensor]:
        q, k, v = (
            F.linear(z, w[f"{name}.weight"]).unflatten(-1, (2, 2)).transpose(1, 2) for name in ("Q", "K", "V")
        )
        heads = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return (torch.tanh(0.5 * heads + e),)

    (z,) = repeated(step, torch.zeros_like(e))
    return F.linear(z.flatten(1), w["y_dense.weight"], w["y_dense.bias"])


_ATTENTION = """
model M(d = 4)
    input u[3, 2]
    layer Q = Dense(d => d; bias = false), K = Dense(d => d; bias = false), V = Dense(d => d; bias = false)
    e = Dense(d)*u
    state z[3, d]
    z ~ tanh(0.5*attend(Q*z, K*z, V*z; heads = 2) + e)
    output y[2] = Dense(2)*flatten(z)
    @wellposed unchecked
    @solver auto(tol = 1e-13, maxiter = 3000)
end
"""


def _monotone(w: Weights, u: Tensor) -> Tensor:
    """Damped sweeps: I − A is monotone, but A is no contraction."""
    A = 0.5 * torch.eye(6, dtype=u.dtype) - w["P"].mT @ w["P"] + w["S"] - w["S"].mT
    d = F.linear(u, w["B"]) + w["b"]
    x = u.new_zeros(len(u), 6)
    for _ in range(20 * SWEEPS):
        x = 0.95 * x + 0.05 * torch.relu(x @ A.mT + d)
    return F.linear(x, w["y_dense.weight"], w["y_dense.bias"])


def _monotone_text(solver: str) -> str:
    return f"""
model M(n = 6, m = 0.5)
    input u[4]
    param P[n, n], S[n, n], B[n, 4], b[n] = normal(0.3)
    A = (1 - m)*I(n) - P'*P + S - S'
    state x[n] ~ relu(A*x + B*u + b)
    output y[2] = Dense(2)*x
    @wellposed monotone(A; m = m)
    @solver {solver}
end
"""


PROGRAMS = (
    LoopProgram("relu", _implicit_text("relu", "norm(A, Inf) <= 0.9"), (5,), _implicit(torch.relu)),
    LoopProgram("tanh", _implicit_text("tanh", "norm(A, Inf) <= 0.9"), (5,), _implicit(torch.tanh)),
    LoopProgram("sigmoid", _implicit_text("sigmoid", "norm(A, Inf) <= 2"), (5,), _implicit(torch.sigmoid)),
    LoopProgram("pf", _implicit_text("relu", "spectral(abs(A)) <= 0.9"), (5,), _implicit(torch.relu)),
    LoopProgram("silu", _implicit_text("silu", "norm(A, Inf) <= 0.8"), (5,), _implicit(F.silu)),
    LoopProgram("nested", _NESTED, (4,), _nested, ("W", "V", "z_dense.weight")),
    LoopProgram("conv", _CONV, (2, 6, 6), _conv),
    LoopProgram("residual", _RESIDUAL, (2, 5, 5), _residual, ("K1.weight", "K2.weight")),
    LoopProgram("pooled", _POOLED, (2, 4, 4), _pooled),
    LoopProgram("gated", _GATED, (4,), _gated, ("A",)),
    LoopProgram("attention", _ATTENTION, (3, 2), _attention, ("Q.weight", "K.weight", "V.weight")),
    LoopProgram(
        "forward_backward", _monotone_text("forward_backward(tol = 1e-12, maxiter = 5000)"), (4,), _monotone
    ),
    LoopProgram(
        "peaceman_rachford", _monotone_text("peaceman_rachford(tol = 1e-12, maxiter = 5000)"), (4,), _monotone
    ),
    LoopProgram("newton", _monotone_text("newton(tol = 1e-12)"), (4,), _monotone),
)
