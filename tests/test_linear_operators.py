"""Whole programs of linear operators, each against a module written by hand, and against their matrices."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl.compiler import check
from implicit_dsl.source import Source

torch.set_num_threads(1)
BATCH = 3
TOLERANCE = 1e-12


@dataclass(frozen=True)
class Whole:
    """A program, the twin that takes the same state_dict, and the shapes of its inputs."""

    name: str
    body: str
    twin: Callable[[], nn.Module]
    inputs: tuple[tuple[int, ...], ...]

    @property
    def text(self) -> str:
        return f"model M\n{self.body}\nend\n"

    def __repr__(self) -> str:
        return self.name


def generated(text: str, standalone: bool = False) -> types.ModuleType:
    module = types.ModuleType("generated")
    exec(compile(implicit_dsl.compile(text, standalone=standalone), "generated.py", "exec"), module.__dict__)
    return module


def tensors(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)


def same(one: Tensor, other: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


class Padded(nn.Module):
    """Convolutions with each kind of padding, on one and two axes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 3, 3, padding="same")
        self.b = nn.Conv2d(3, 4, (3, 5), padding="same", padding_mode="circular", bias=False)
        self.c = nn.Conv2d(4, 4, 3, stride=2, padding=(2, 1), padding_mode="reflect", groups=2)
        self.d = nn.Conv2d(4, 4, 4, padding="same", padding_mode="replicate", groups=4)
        self.e = nn.Conv1d(2, 2, 4, padding="same", dilation=3)

    def forward(self, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        y = self.d(torch.tanh(self.c(torch.tanh(self.b(torch.tanh(self.a(u)))))))
        return y, self.e(v)


class Decoded(nn.Module):
    """Transposed convolutions of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1)
        self.b = nn.ConvTranspose2d(6, 4, (3, 2), stride=(2, 3), output_padding=(1, 2), groups=2, bias=False)
        self.c = nn.ConvTranspose1d(2, 3, 3, padding=1, dilation=2)
        self.d = nn.ConvTranspose3d(1, 2, 2, stride=2)

    def forward(self, u: Tensor, v: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        return self.b(torch.tanh(self.a(u))), self.c(v), self.d(w)


class Tied(nn.Module):
    """Decoders with the weights of their encoders."""

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Linear(6, 4)
        self.K = nn.Conv2d(2, 3, 3, stride=2, padding=1)
        self.G = nn.Conv1d(4, 6, 4, padding="same", groups=2, bias=False)
        self.T = nn.ConvTranspose2d(3, 2, 2, stride=2, bias=False)

    def forward(self, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        h = torch.tanh(self.K(u))
        back = F.conv_transpose2d(h, self.K.weight, stride=2, padding=1, output_padding=(0, 1))
        s = torch.relu(self.G(v))
        signal = F.conv_transpose1d(s, self.G.weight, padding=1, groups=2)[..., :6]
        code = torch.sigmoid(self.W(v))
        again = F.conv2d(torch.tanh(self.T(h)), self.T.weight, stride=2)
        return back, signal, code @ self.W.weight, again


class Pooled(nn.Module):
    """A pyramid: pooled to given sizes, and brought back by interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.K = nn.Conv2d(3, 4, 3, padding=1)
        self.S = nn.Conv1d(2, 2, 3, padding=1)
        self.W = nn.Linear(8, 5)

    def forward(self, u: Tensor, v: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        h = torch.relu(self.K(u))
        coarse = F.adaptive_avg_pool2d(h, (2, 3))
        peaks = F.adaptive_max_pool2d(h, 3)
        fine = F.interpolate(torch.tanh(coarse), scale_factor=(3, 2), mode="bilinear", align_corners=True)
        both = torch.cat([h.flatten(2).amax(2), h.flatten(2).mean(2)], 1)
        signal = F.interpolate(self.S(v), scale_factor=2, mode="linear", align_corners=False)
        volume = F.interpolate(w, scale_factor=2, mode="trilinear", align_corners=False)
        return fine + h, peaks, self.W(both), signal, volume


class Moved(nn.Module):
    """Axes in another order, and cells around them."""

    def __init__(self) -> None:
        super().__init__()
        self.K = nn.Conv2d(2, 3, 3)
        self.W = nn.Linear(3, 4)

    def forward(self, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        h = torch.tanh(self.K(F.pad(u, (2, 0, 1, 3), mode="reflect")))
        last = self.W(h.permute(0, 2, 3, 1))
        padded = F.pad(F.pad(v, (1, 1), mode="circular"), (0, 2))
        return last.permute(0, 3, 1, 2), padded.mT, F.pad(h, (1, 1, 1, 1)) + 1, v.mT @ v


class Reduced(nn.Module):
    """Sums and means over axes, of values and of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros(4))
        self.W = nn.Parameter(torch.zeros(3, 4))

    def forward(self, u: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        h = torch.tanh(u)
        features = h.mean(3).sum(1) + self.b + self.b.mean() * v.square().sum(1)
        return features, h.sum((1, 3)), h.mean((1, 2, 3)) + self.W.sum(), h.reshape(len(u), 12, 5) + 1


class Scalars(nn.Module):
    """Numbers of the network times and plus values, and parameters among themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.g, self.t = nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.tensor(0.0))
        self.b, self.c = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
        self.W = nn.Parameter(torch.zeros(4, 4))
        self.k_1, self.k_2 = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))

    def forward(self, u: Tensor, v: Tensor, s: Tensor) -> tuple[Tensor, ...]:
        skip = u + self.g * torch.tanh(u @ self.W.T) - self.t
        gated = s[:, None] * u + (1 - self.g) * u + s[:, None]
        pair = (1 - self.b) * u + (self.b + self.c) * u / 2 - self.b / 2
        entries = (self.W.T * self.W * (0.5 * self.W + 2 * self.W.T)).sum(1) + u @ self.W
        rest = v - v.mean((1, 2))[:, None, None], self.g * s + self.t, s[:, None] * self.c
        slices = self.b[2] * torch.tanh(self.W[1] + u) + self.k_2[3] * self.k_1
        return skip, gated, pair, *rest, entries, slices


class Normed(nn.Module):
    """Normalisations of one sample, and factors."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.InstanceNorm2d(3, affine=True)
        self.b = nn.LayerNorm((4, 5))
        self.c = nn.RMSNorm((3, 4, 5), eps=0.1)
        self.d = nn.GroupNorm(3, 3)
        self.s = nn.Parameter(torch.ones(3))
        self.t = nn.Parameter(torch.ones(5))

    def forward(self, u: Tensor) -> tuple[Tensor, ...]:
        plain = F.instance_norm(u.flatten(2), eps=0.1)
        both = self.s[:, None, None] * self.a(u) + 0.5 * u * self.t
        return both, self.b(u), self.c(u), self.d(u), plain


PROGRAMS = [
    Whole(
        "normed",
        """
    input u[3, 4, 5]
    layer a = InstanceNorm(affine = true), b = LayerNorm(axes = 2), c = RMSNorm(; axes = 3, eps = 0.1)
    layer d = GroupNorm(3), s = Scale(), t = Scale(axis = 3)
    h = u |> a |> Dropout(0.3; channels = true)
    output y = s*h + (u |> t |> Scale(0.5)), z = b(u), w = c(u), v = d(u)
    output p = InstanceNorm(eps = 0.1)(reshape(u, 3, 20))
""",
        Normed,
        ((3, 4, 5),),
    ),
    Whole(
        "moved",
        """
    input u[2, 4, 5], v[3, 4]
    layer K = Conv(3, 3), W = Dense(4)
    h ~ tanh(K * (Pad([1, 2]; after = [3, 0], mode = "reflect") * u))
    output y[4, 6, 5] = permute(W * permute(h, [2, 3, 1]), 3, 1, 2)
    output p[8, 3] = transpose(v |> Pad(1; mode = "circular") |> Pad(0; after = 2))
    output q = Pad(1)(h) + 1, g = matmul(transpose(v, 2, 1), v)
""",
        Moved,
        ((2, 4, 5), (3, 4)),
    ),
    Whole(
        "scalars",
        """
    input u[4], v[2, 3], s[]
    param g[] = 1, t[], b[4], c[4], W[4, 4], k[1:2][4]
    output y = u + g*tanh(W*u) - t, a = s*u + (1 - g)*u + s
    output p = (1 - b) .* u + (b + c) .* u / 2 - b/2, q = v - mean(v), r = g .* s + t, d = s*c
    output e = sum(W' .* W .* (0.5*W + 2*W'); dim = 2) + W'*u
    output f = b[3]*tanh(W[2, :] + u) + k[2][4]*k[1]
""",
        Scalars,
        ((4,), (2, 3), ()),
    ),
    Whole(
        "reduced",
        """
    input u[3, 4, 5], v[6, 4]
    param b[4], W[3, 4]
    h ~ tanh(u)
    output y[4] = sum(mean(h; dim = 3); dim = 1) + b + expand(mean(b), b) .* sum(v .* v; dim = 1)
    output p[4] = sum(h; dim = [1, 3]), q[] = mean(h) + sum(W), r[12, 5] = reshape(h, [_, 5]) + 1
""",
        Reduced,
        ((3, 4, 5), (6, 4)),
    ),
    Whole(
        "pooled",
        """
    input u[3, 6, 6], v[2, 5], w[1, 2, 3, 2]
    layer K = Conv(4, 3; pad = 1), S = Conv(2, 3; pad = 1), W = Dense(5)
    g ~ relu(K*u)
    fine = Upsample([3, 2]; mode = "bilinear", align_corners = true) * tanh(AdaptiveAvgPool([2, 3]) * g)
    output y = fine + g, p = AdaptiveMaxPool(3)(g), q = W * cat(GlobalMaxPool()(g), GlobalAvgPool()*g)
    output s = Upsample(2; mode = "linear") * (S*v), t = w |> Upsample(2; mode = "trilinear")
""",
        Pooled,
        ((3, 6, 6), (2, 5), (1, 2, 3, 2)),
    ),
    Whole(
        "transposed",
        """
    input u[4, 3, 2], v[2, 5], w[1, 2, 2, 2]
    layer a = ConvTranspose(4 => 6, 4; stride = 2, pad = 1)
    layer b = ConvTranspose(4, [3, 2]; stride = [2, 3], output_pad = [1, 2], groups = 2, bias = false)
    layer c = ConvTranspose(3, 3; pad = 1, dilation = 2), d = ConvTranspose(2, 2; stride = 2)
    x ~ tanh(a*u)
    output y[4, 14, 13] = b*x, z[3, 7] = c*v, s[2, 4, 4, 4] = d*w
""",
        Decoded,
        ((4, 3, 2), (2, 5), (1, 2, 2, 2)),
    ),
    Whole(
        "tied",
        """
    input u[2, 7, 6], v[4, 6]
    layer W = Dense(4), K = Conv(3, 3; stride = 2, pad = 1), T = ConvTranspose(2, 2; stride = 2, bias = false)
    layer G = Conv(4 => 6, 4; pad = "same", groups = 2, bias = false)
    h ~ tanh(K*u)
    output y[2, 7, 6] = K'*h
    s = relu(G*v)
    output z = G' * s, w = W' * σ(W*v), t = T' * tanh(T*h)
""",
        Tied,
        ((2, 7, 6), (4, 6)),
    ),
    Whole(
        "padding",
        """
    input u[2, 7, 6], v[2, 11]
    layer a = Conv(3, 3; pad = "same"), b = Conv(4, [3, 5]; pad = "same", mode = "circular", bias = false)
    layer c = Conv(4, 3; stride = 2, pad = [2, 1], mode = "reflect", groups = 2)
    layer d = DepthwiseConv(4; pad = "same", mode = "replicate"), e = Conv(2, 4; pad = "same", dilation = 3)
    x ~ tanh(a*u)
    y = x |> b |> tanh |> c |> tanh |> d
    output z[4, 5, 3] = y, w[2, 11] = e*v
""",
        Padded,
        ((2, 7, 6), (2, 11)),
    ),
]


# what PyTorch says of its own layer in the twin
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("standalone", [False, True], ids=["imports", "standalone"])
@pytest.mark.parametrize("program", PROGRAMS, ids=repr)
def test_a_program_is_its_twin_and_its_matrices(program: Whole, standalone: bool) -> None:
    torch.manual_seed(0)
    twin = program.twin().double().eval()
    with torch.no_grad():
        for name, tensor in (*twin.named_parameters(), *twin.named_buffers()):
            tensor.uniform_(0.5, 2.0) if name.endswith("running_var") else tensor.normal_(std=0.7)
    module = generated(program.text, standalone).M(dtype=torch.float64).eval()
    module.load_state_dict(twin.state_dict())
    inputs = [torch.randn(BATCH, *shape, dtype=torch.float64).requires_grad_() for shape in program.inputs]

    found, expected = tensors(module(*inputs)), tensors(twin(*inputs))
    assert [y.shape for y in found] == [y.shape for y in expected]
    for one, other in zip(found, expected):
        same(one, other)
    weights = [torch.randn_like(y) for y in expected]

    def gradients(values: tuple[Tensor, ...], model: nn.Module) -> dict[str, Tensor]:
        wanted = {**dict(model.named_parameters()), **{str(at): u for at, u in enumerate(inputs)}}
        loss = sum(((y * w).sum() for y, w in zip(values, weights)), torch.zeros(()))
        made = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        return {name: g for name, g in zip(wanted, made) if g is not None}

    ours, theirs = gradients(found, module), gradients(expected, twin)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        same(ours[name], gradient, 1e-10)
    if not standalone:
        for one, other in zip(tensors(module.system().solve(*inputs)), expected):
            same(one, other.detach())


@pytest.mark.parametrize("padding", ['"same"', '2, mode = "circular"', '2, mode = "reflect"'])
def test_faster_paths_are_for_zeros_on_both_sides(padding: str) -> None:
    """One channel, few and large kernels, relu and pooling: what zero padding would have a path for."""
    text = f"model M\ninput u[1, 8, 8]\nlayer K = Conv(2, 6; pad = {padding})\n"
    size = "[2, 4, 4]" if "same" in padding else "[2, 3, 3]"
    module = generated(f"{text}output y{size} = MaxPool(2)(relu(K*u))\nend\n").M(dtype=torch.float64)
    mode = padding.partition('"')[2].strip('"') if "mode" in padding else "constant"
    cells = (2, 3, 2, 3) if "same" in padding else (2, 2, 2, 2)
    u = torch.randn(9, 1, 8, 8, dtype=torch.float64)
    assert type(module.K) is nn.Conv2d

    expected = F.max_pool2d(F.conv2d(F.pad(u, cells, mode), module.K.weight, module.K.bias).relu(), 2)
    same(module(u), expected)
    with torch.no_grad():
        same(module(u), expected.detach())


# --------------------------------------------------------------------------- in loops


@dataclass(frozen=True)
class Looped:
    """A program with a loop, and one sweep of the twin: from the state_dict, the state and the input."""

    name: str
    body: str
    sweep: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]
    input: tuple[int, ...]
    state: tuple[int, ...]
    demand: str

    @property
    def text(self) -> str:
        return f"model M\n{self.body}\n    @wellposed {self.demand}\n    @solver auto(tol = 1e-13)\nend\n"

    def __repr__(self) -> str:
        return self.name


def _padded(mode: str) -> Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]:
    def sweep(w: dict[str, Tensor], x: Tensor, u: Tensor) -> Tensor:
        y = F.pad(x, (1, 2, 1, 2), "constant" if mode == "zeros" else mode)
        return torch.tanh(F.conv2d(y, w["K.weight"]) + u)

    return sweep


LOOPS = [
    Looped(
        f"padding-{mode}",
        f"""
    input u[2, 5, 4]
    layer K = Conv(2, 4; pad = "same", mode = "{mode}", bias = false)
    state x[2, 5, 4] ~ tanh(K*x + u)
    output y = x
""",
        _padded(mode),
        (2, 5, 4),
        (2, 5, 4),
        demand,
    )
    for mode in ("zeros", "reflect", "circular", "replicate")
    for demand in ("norm(A, Inf) <= 0.9", "norm(K, Inf) <= 0.9", 'pf(A) <= 0.9, method = "parametrize"')
]


def _transposed(w: dict[str, Tensor], x: Tensor, u: Tensor) -> Tensor:
    y = torch.tanh(F.conv2d(x, w["K.weight"], stride=2, padding=1, groups=2))
    y = F.conv_transpose2d(y, w["T.weight"], stride=2, padding=1, output_padding=1, groups=2)
    return torch.tanh(0.5 * y + u)


def _tied(w: dict[str, Tensor], x: Tensor, u: Tensor) -> Tensor:
    y = torch.relu(F.conv1d(x, w["K.weight"], stride=2))
    return torch.tanh(-0.5 * F.conv_transpose1d(y, w["K.weight"], stride=2, output_padding=1) + u)


LOOPS += [
    Looped(
        "transposed",
        """
    input u[2, 4, 6]
    layer K = Conv(4, 3; stride = 2, pad = 1, groups = 2, bias = false)
    layer T = ConvTranspose(2, 3; stride = 2, pad = 1, output_pad = 1, groups = 2, bias = false)
    state x[2, 4, 6] ~ tanh(0.5*(T * tanh(K*x)) + u)
    output y = x
""",
        _transposed,
        (2, 4, 6),
        (2, 4, 6),
        demand,
    )
    for demand in ("norm(A, Inf) <= 0.9", "norm(T, Inf) <= 0.9\n@wellposed norm(K, Inf) <= 1")
]
LOOPS += [
    Looped(
        "tied",
        """
    input u[2, 6]
    layer K = Conv(3, 3; stride = 2, bias = false)
    state x[2, 6] ~ tanh(-0.5*(K' * relu(K*x)) + u)
    output y = x
""",
        _tied,
        (2, 6),
        (2, 6),
        demand,
    )
    for demand in ("norm(A, Inf) <= 0.9", "norm(K', Inf) <= 0.9\n@wellposed norm(K, Inf) <= 1")
]


@pytest.mark.parametrize("program", LOOPS, ids=repr)
def test_a_loop_is_the_limit_of_its_sweeps(program: Looped) -> None:
    torch.manual_seed(0)
    module = generated(program.text).M(dtype=torch.float64).eval()
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.normal_()
        if hasattr(module, "project_"):
            module.project_()
    u = torch.randn(BATCH, *program.input, dtype=torch.float64)
    weights = dict(module.named_parameters())
    if hasattr(module, "effective_weights"):
        weights |= module.effective_weights()
    direction = torch.randn(BATCH, *program.state, dtype=torch.float64)

    y = module(u)
    x = torch.zeros(BATCH, *program.state, dtype=torch.float64)
    for _ in range(400):
        x = program.sweep(weights, x, u)

    same(y, x, 1e-10)
    wanted = list(module.parameters())
    ours = torch.autograd.grad((y * direction).sum(), wanted)
    theirs = torch.autograd.grad((x * direction).sum(), wanted)
    for one, other in zip(ours, theirs):
        assert other.any()
        same(one, other, 1e-8)


@pytest.mark.parametrize("program", LOOPS, ids=repr)
def test_a_bound_on_the_weights_bounds_the_assembled_matrix(program: Looped) -> None:
    torch.manual_seed(1)
    module = generated(program.text).M(dtype=torch.float64).eval()
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.normal_()
        if hasattr(module, "project_"):
            module.project_()
    system = module.system()
    A = system.A.to_numpy()
    certificate = module.certify()

    if "norm(A" in program.demand and len(system.model.states) == 1:
        assert np.abs(A).sum(1).max() <= 0.9 * (1 + 1e-9)
    longest = 0.9 ** (1 / len(system.model.states))  # linear states stand in A, but are folded in the bound
    assert np.abs(np.linalg.eigvals(np.abs(A))).max() <= longest * (1 + 1e-9)
    np.testing.assert_allclose(abs(system.A).to_numpy(), np.abs(A))
    x = np.random.default_rng(0).normal(size=(A.shape[1], 2))
    np.testing.assert_allclose(abs(system.A) @ x, np.abs(A) @ x, atol=1e-12)
    np.testing.assert_allclose(system.A.T @ x, A.T @ x, atol=1e-12)
    assert system.A.nnz == system.A.to_scipy().nnz
    proof = certificate["x"].proof
    assert proof is not None and proof.rate is not None and proof.rate <= 0.9 * (1 + 1e-9)


LOOPS += [
    Looped(
        "pyramid",
        """
    input u[2, 4, 6]
    layer K = Conv(2, 3; pad = 1, bias = false)
    state x[2, 4, 6] ~ tanh(Upsample(2; mode = "bilinear") * (K * AdaptiveAvgPool([2, 3])(x)) + u)
    output y = x
""",
        lambda w, x, u: torch.tanh(
            F.interpolate(
                F.conv2d(F.adaptive_avg_pool2d(x, (2, 3)), w["K.weight"], padding=1),
                scale_factor=2,
                mode="bilinear",
            )
            + u
        ),
        (2, 4, 6),
        (2, 4, 6),
        demand,
    )
    for demand in ("norm(A, Inf) <= 0.9", "norm(K, Inf) <= 0.9", "pf(A) <= 0.9")
]


LOOPS += [
    Looped(
        "moved",
        """
    input u[3, 2, 4]
    layer K = Conv(3, 3; bias = false)
    state x[3, 2, 4] ~ tanh(permute(K * (Pad(1; mode = "replicate") * permute(x, 1, 3, 2)), 1, 3, 2) + u)
    output y = x
""",
        lambda w, x, u: torch.tanh(
            F.conv2d(F.pad(x.mT, (1, 1, 1, 1), mode="replicate"), w["K.weight"]).mT + u
        ),
        (3, 2, 4),
        (3, 2, 4),
        demand,
    )
    for demand in ("norm(A, Inf) <= 0.9", "pf(A) <= 0.9")
]


LOOPS += [
    Looped(
        "scaled",
        """
    input u[2, 4]
    layer K = Conv(2, 3; pad = 1, bias = false), s = Scale(start = 0.1)
    state x[2, 4] ~ tanh(K*x + s*x + u)
    output y = x
""",
        lambda w, x, u: torch.tanh(F.conv1d(x, w["K.weight"], padding=1) + w["s"][:, None] * x + u),
        (2, 4),
        (2, 4),
        demand,
    )
    for demand in ("norm(A, Inf) <= 0.9", "norm(K, Inf) <= 0.5\n@wellposed norm(s, Inf) <= 0.4")
]


# --------------------------------------------------------------------------- sizes


def test_transposes_work_along_free_axes() -> None:
    text = """model M
    input u[3, _, _]
    layer K = Conv(4, 3; pad = 1), T = ConvTranspose(3, [3, 5]; pad = [1, 2], bias = false)
    layer S = Conv(2, 4; pad = "same", bias = false)
    output y = K' * relu(K*u), z = T * (K*u) + u, w = T' * u, s = S' * (S*u)
end
"""
    module = generated(text).M(dtype=torch.float64).eval()
    for sizes in ((5, 4), (6, 9)):
        u = torch.randn(2, 3, *sizes, dtype=torch.float64)
        y, z, w, s = module(u)
        K, T, S = module.K, module.T, module.S
        same(y, F.conv_transpose2d(torch.relu(K(u)), K.weight, padding=1))
        same(z, F.conv_transpose2d(K(u), T.weight, padding=(1, 2)) + u)
        same(w, F.conv2d(u, T.weight, padding=(1, 2)))
        padded = F.conv2d(F.pad(u, (1, 2, 1, 2)), S.weight)
        same(s, F.conv_transpose2d(padded, S.weight, padding=1)[..., :-1, :-1])
        for one, other in zip(module.system(u=tuple(u.shape[1:])).solve(u), (y, z, w, s)):
            same(one, other)


@pytest.mark.parametrize(
    ("layer", "applied", "shape"),
    [
        ("Dense(6 => 4)", "v[4]", "[6]"),
        ("Dense(6 => 4)", "v[2, 4]", "[2, 6]"),
        ("Conv(2 => 4, 3; pad = 1)", "v[4, 5, 6]", "[2, 5, 6]"),
        ("Conv(2 => 4, [3, 2]; dilation = 2)", "v[4, 5, 6]", "[2, 9, 8]"),
        ('Conv(2 => 4, 4; pad = "same")', "v[4, 5]", "[2, 5]"),
        ("DepthwiseConv(3; multiplier = 2)", "v[4, 5]", "[2, 7]"),
        ("ConvTranspose(2 => 4, 4; stride = 2, pad = 1)", "v[4, 8]", "[2, 4]"),
        ("ConvTranspose(2 => 4, 3)", "v[4, 8, 8]", "[2, 6, 6]"),
    ],
)
def test_the_sizes_of_a_transpose_follow_from_its_settings(layer: str, applied: str, shape: str) -> None:
    name, _, size = applied.partition("[")
    body = f"input {name}[{size}\nlayer K = {layer}\noutput y{shape} = K'*v\n@allow unused_parameter"
    found = check(Source(f"model M\n{body}\nend\n"))
    assert found.diagnostics == ()
    (tensor,) = found.models[0].tensors
    assert tensor.id == "K.weight"


def test_a_bias_without_effect_is_told_and_left_out() -> None:
    text = "model M\ninput v[4]\nlayer K = Dense(6 => 4)\noutput y = K'*v\nend\n"
    (found,) = check(Source(text)).diagnostics
    assert found.code == "W0501" and "bias" in found.message
    assert list(generated(text).M().state_dict()) == ["K.weight"]


# --------------------------------------------------------------------------- training


def test_dropout_of_channels_drops_whole_channels_once_for_a_solve() -> None:
    loop = """model M
    input u[6, 3, 4]
    state x[6, 3, 4] ~ tanh(0.4*(Dropout(0.5; channels = true) * x) + u)
    output y = x, z = Dropout(0.5; channels = true) * u
    @solver auto(tol = 1e-12)
end
"""
    module = generated(loop).M(dtype=torch.float64).train()
    torch.manual_seed(0)
    u = torch.rand(5, 6, 3, 4, dtype=torch.float64) + 0.5

    y, z = module(u)

    share = (torch.atanh(y) - u) / (0.4 * y)  # 0 or 2, alike in a channel
    same(share, share[:, :, :1, :1].expand_as(share), 1e-8)
    assert set(share.round(decimals=6).unique().tolist()) == {0.0, 2.0}
    dropped = (z == 0).flatten(2)
    assert bool((dropped.all(2) | ~dropped.any(2)).all()) and dropped.any() and not dropped.all()
    same(z[z != 0], 2 * u[z != 0])


def test_learned_factors_start_where_they_are_told_to() -> None:
    text = "model M\ninput u[3, 2]\nlayer s = Scale(start = 0.25)\noutput y = s*(Scale()*u)\nend\n"
    module = generated(text).M()
    values = {name: set(tensor.tolist()) for name, tensor in module.state_dict().items()}
    assert values == {"y_scaling": {1.0}, "s": {0.25}}


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('input u[2, 8]\noutput y = Conv(2, 3; pad = "same", stride = 2)*u', "E0201"),
        ('input u[2, 8]\noutput y = Conv(2, 3; pad = "sane")*u', "E0205"),
        ('input u[2, 8]\noutput y = Conv(2, 3; mode = "mirror")*u', "E0205"),
        ('input u[2, 3]\noutput y = Conv(2, 3; pad = 3, mode = "reflect")*u', "E0201"),
        ('input u[2, 3]\noutput y = Conv(2, 3; pad = 4, mode = "circular")*u', "E0201"),
    ],
)
def test_what_cannot_be_is_refused_by_name(body: str, code: str) -> None:
    (found,) = check(Source(f"model M\n{body}\nend\n")).diagnostics
    assert found.code == code
