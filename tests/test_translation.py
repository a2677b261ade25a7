"""Any PyTorch module as a program: the same function, exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from translating import assert_same

import implicit_dsl

ACTIVATIONS = [
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.LeakyReLU(0.2),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.Softplus(),
    nn.Softplus(beta=2),
    nn.ELU(),
    nn.ELU(0.7),
    nn.CELU(0.6),
    nn.SELU(),
    nn.Hardtanh(),
    nn.Hardtanh(-0.5, 0.3),
    nn.Softsign(),
    nn.ReLU6(),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.Softshrink(0.3),
    nn.Mish(),
    nn.LogSigmoid(),
    nn.Tanhshrink(),
    nn.PReLU(),
    nn.PReLU(6),
    nn.RReLU(),
    nn.GLU(),
    nn.Softmax(-1),
    nn.Softmin(-1),
    nn.LogSoftmax(-1),
    nn.Identity(),
    nn.Dropout(0.3),
    nn.AlphaDropout(0.3),
    nn.LayerNorm(6),
    nn.LayerNorm(6, elementwise_affine=False),
    nn.LayerNorm(6, bias=False, eps=1e-3),
    nn.RMSNorm(6, eps=1e-4),
    nn.BatchNorm1d(6),
    nn.BatchNorm1d(6, affine=False, eps=1e-3, momentum=0.3),
    nn.GroupNorm(2, 6),
    nn.Unflatten(1, (2, 3)),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_a_perceptron_with_any_activation(activation: nn.Module) -> None:
    width = 3 if isinstance(activation, (nn.GLU, nn.Unflatten)) else 6
    # PyTorch has some constants of these two gradients in single precision
    slopes = 1e-7 if isinstance(activation, (nn.CELU, nn.Hardsigmoid)) else 1e-10
    module = nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(width, 3))
    assert_same(module, torch.randn(5, 4), slopes=slopes)


IMAGES = [
    nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)),
    nn.Sequential(
        nn.Conv2d(3, 4, (3, 1), stride=2, padding=(1, 0), bias=False), nn.BatchNorm2d(4), nn.ReLU()
    ),
    nn.Sequential(nn.Conv2d(3, 6, 3, padding="same", groups=3, dilation=2), nn.GroupNorm(3, 6), nn.SiLU()),
    nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.AvgPool2d(2), nn.Tanh()),
    nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="replicate"), nn.AdaptiveAvgPool2d((2, 3))),
    nn.Sequential(nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), nn.InstanceNorm2d(4)),
    nn.Sequential(nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4, affine=True), nn.Upsample(scale_factor=2)),
    nn.Sequential(nn.Conv2d(3, 4, 1), nn.Upsample(scale_factor=2, mode="bilinear"), nn.PReLU(4)),
    nn.Sequential(nn.Conv2d(3, 4, 1), nn.Upsample((16, 24), mode="bilinear", align_corners=True)),
    nn.Sequential(nn.Conv2d(3, 4, 1), nn.PixelShuffle(2), nn.ZeroPad2d((1, 0, 2, 1)), nn.Dropout2d(0.2)),
    nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 1), nn.ReflectionPad2d(1), nn.ConstantPad2d(1, 0.5)),
    nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
    nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveMaxPool2d(3), nn.LayerNorm([4, 3, 3])),
    nn.Sequential(nn.MaxPool2d(3, stride=2, padding=1), nn.LocalResponseNorm(2), nn.CrossMapLRN2d(2))[:2],
    nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 1, ceil_mode=True), nn.Softmax2d(), nn.ReplicationPad2d(1)
    ),
    nn.Sequential(nn.AvgPool2d(2, divisor_override=3), nn.ChannelShuffle(3), nn.Flatten(2), nn.Linear(16, 3)),
]


@pytest.mark.parametrize("at", range(len(IMAGES)))
def test_networks_for_images(at: int) -> None:
    assert_same(IMAGES[at], torch.randn(2, 3, 8, 8))


def test_networks_for_signals_and_volumes() -> None:
    signal = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2))
    assert_same(
        nn.Sequential(signal, nn.ConvTranspose1d(4, 3, 2), nn.AdaptiveAvgPool1d(2)), torch.randn(3, 2, 8)
    )
    volume = nn.Sequential(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2), nn.ELU(), nn.AvgPool3d(2), nn.Flatten())
    assert_same(volume, torch.randn(2, 1, 5, 5, 5))


class Residual(nn.Module):
    """The basic block of ResNet-18."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or before != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet18(nn.Module):
    """ResNet-18 with thin layers."""

    def __init__(self, width: int = 2, classes: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        for s in range(1, 5):
            first = Residual(widths[s - 1], widths[s], 1 if s == 1 else 2)
            setattr(self, f"layer{s}", nn.Sequential(first, Residual(widths[s], widths[s], 1)))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def test_resnet18() -> None:
    made = assert_same(ResNet18(), torch.randn(2, 3, 32, 32))

    assert made.keys["layer2.0.downsample.1.running_var"] == "layer2_0_downsample_1.running_var"
    assert made.keys["fc.weight"] == "fc.weight"
    assert "layer1_0_relu" in made.source
    assert len(made.keys) == len(ResNet18().state_dict())


class Functional(nn.Module):
    """Everything by functions, with parameters and buffers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.W1, self.b1 = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(6))
        self.W2 = nn.Parameter(torch.randn(6, 3))
        self.gain = nn.Parameter(torch.randn(()))
        self.scale = nn.Parameter(torch.randn(6))
        self.register_buffer("shift", torch.randn(4))
        self.register_buffer("steps", torch.arange(4.0), persistent=False)

    def forward(self, x: Tensor, z: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        h = torch.relu(F.linear(x - self.shift, self.W1, self.b1)) * self.scale
        y = (self.gain * h) @ self.W2 + 1
        s = torch.cat([x[:, 1:3], z * self.steps / 2, -x.mean(1, keepdim=True)], dim=1)
        return {"y": y, "more": (s.clamp(-1, 1), (x - z).abs().sum(dim=-1) ** 2, torch.maximum(x, z).exp())}


def test_functional_style_with_two_inputs_and_several_outputs() -> None:
    made = assert_same(Functional(), torch.randn(3, 4), torch.randn(3, 4))

    assert made.keys == {
        "W1": "W1.weight",
        "b1": "W1.bias",
        "W2": "W2",
        "gain": "gain",
        "scale": "scale",
        "shift": "shift",
    }
    assert list(made.batch_axes) == ["x", "z", "y", "more", "more_2", "more_3"]
    assert not made.model.shift.requires_grad


class Tied(nn.Module):
    """One layer used twice, a weight with two biases, a decoder that is the transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.twice = nn.Linear(4, 5), nn.Linear(5, 5)
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
        self.b.weight = self.a.weight
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.twice(torch.tanh(self.twice(torch.tanh(self.enter(x))))))
        h = torch.sigmoid(self.a(h)) + self.b(h)
        return h @ self.enter.weight + self.bias


def test_tied_weights_stay_tied() -> None:
    made = assert_same(Tied(), torch.randn(3, 4))

    assert made.keys["a.weight"] == made.keys["b.weight"]
    assert sum(p.numel() for p in made.model.parameters()) == sum(p.numel() for p in Tied().parameters())


FUNCTIONS = {
    "einsum": lambda x: torch.einsum("bij,bkj->bik", x, 2 * x),
    "outer": lambda x: torch.einsum("bi,bj->bij", x[:, 0], x[:, 1]),
    "decompositions": lambda x: torch.addcmul(x, x, x, value=0.3).lerp(x, 0.2) + torch.addcdiv(x, x, x.exp()),
    "statistics": lambda x: (
        (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1) + x.var(1, keepdim=True)
    ),
    "norms": lambda x: (
        F.normalize(x, dim=-1) * x.norm(p=1, dim=1, keepdim=True)
        + x.norm(p=torch.inf, dim=(1, 2))[:, None, None]
    ),
    "extremes": lambda x: x.amax(-1) + x.amin(dim=-1) + x.max(dim=-1).values - x.min(-1)[0] + x.logsumexp(-1),
    "roots": lambda x: (
        (x * x + 1).sqrt() + torch.rsqrt(x**2 + 2) + (x.exp() + 1).log() + torch.log1p(x.abs())
    ),
    "waves": lambda x: x.sin() + x.cos().tan() + torch.sinh(x) - torch.cosh(x) + torch.exp2(x) + 2.0**x,
    "quotients": lambda x: 1 / (2 + x * x) + x / (1 + x.abs()) - (3 - x) / 4 + torch.reciprocal(x.exp()),
    "powers": lambda x: x.pow(3) + x.square() + (x.abs() + 1) ** 0.5 + (x * x + 1) ** -1.5,
    "clamps": lambda x: x.clamp(min=-0.1) + x.clamp(max=0.2) + torch.minimum(x, -x) + x.clip(-0.3, 0.3),
    "transposes": lambda x: x.transpose(1, 2).reshape(-1, 3, 8).permute(0, 2, 1).movedim(1, 2).flatten(1),
    "odd reshape": lambda x: x.reshape(-1, 6, 4).transpose(1, 2).reshape(-1, 3, 8) + 1,
    "repeats": lambda x: x.repeat(1, 2, 1) * x.repeat_interleave(2, dim=1) + x[:, :1].expand(-1, 8, -1),
    "rolls": lambda x: x.roll(1, 1) + x.flip(2) + x.roll((1, -2), (1, 2)),
    "parts": lambda x: torch.stack([x[:, i, ::2] for i in range(3)], dim=1) + x[:, 1:4, [0, 2, 5]],
    "pieces": lambda x: sum(x.chunk(3, dim=2)) + sum(x.split([2, 2, 2], 2)) + torch.stack(x.unbind(2)[:2], 2),
    "broadcast": lambda x: x[:, :, None, :] * x[:, None, :, :] + x.mean(dim=(1, 2))[:, None, None, None],
    "pads": lambda x: F.pad(x, (1, 2, 0, 1)) + F.pad(x, (1, 2, 1, 0), value=0.5) + F.pad(x, (-1, 4, 1, 0)),
    "writes": lambda x: _written(x),
    "writes twice": lambda x: _accumulated(x),
    "masks": lambda x: x.masked_fill(torch.ones(4, 6).triu().bool(), 0.5) * torch.tril(torch.ones(4, 6)),
    "choice": lambda x: torch.where(torch.arange(6) % 2 == 0, x, -x),
    "products": lambda x: (
        (x @ x.transpose(1, 2)) @ x + torch.bmm(x, x.new_ones(6, 6).expand(x.shape[0], 6, 6))
    ),
    "inner products": lambda x: (x[:, 0] * x[:, 1]).sum(-1, keepdim=True) + x @ torch.arange(6).to(x.dtype),
    "upsampled": lambda x: F.interpolate(x, scale_factor=2, mode="linear") + F.interpolate(x, size=12),
    "glu": lambda x: F.glu(x, dim=1) + F.glu(x, dim=2).repeat(1, 1, 2)[:, :2],
    "sums so far": lambda x: x.cumsum(1) - x.cumsum(-1),
    "directions": lambda x: (
        F.cosine_similarity(x, x.flip(1), dim=-1) + F.pairwise_distance(x[:, 0], x[:, 1])[:, None]
    ),
    "a chain": lambda x: sum((x * i for i in range(1, 12)), start=x),
    "nothing": lambda x: x,
    "the same twice": lambda x: (x, x, x + 0),
}


def _written(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 1:3] = x[:, 0:2]
    y[:, 3] += 2 * x[:, 3]
    y *= 2
    return y.mul_(0.7).add_(x)


def _accumulated(x: Tensor) -> Tensor:
    y = x.clone()
    z = y.view(-1, 24)
    y += 1
    return z.sum(1) + y.flatten(1).mean(1)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_tensors(name: str) -> None:
    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(5, 6)

        def forward(self, x: Tensor) -> Any:
            made = FUNCTIONS[name](self.enter(x))
            return made if isinstance(made, tuple) else made.tanh()

    assert_same(Made(), torch.randn(3, 4, 5))


def test_parameters_of_any_shape_are_broadcast() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 1)
            self.one, self.channel = nn.Parameter(torch.randn(1)), nn.Parameter(torch.randn(3, 1, 1))
            self.place = nn.Parameter(torch.randn(1, 4, 1))

        def forward(self, x: Tensor) -> Tensor:
            h = self.one * self.conv(x) * torch.sigmoid(self.channel) + self.place
            return h / self.one.exp() + self.channel.exp() + (self.channel * self.place)[..., 0].sum()

    assert_same(Scaled(), torch.randn(2, 2, 4, 5))


def test_experts_graphs_and_queries() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
            self.gate, self.query = nn.Linear(4, 3), nn.Parameter(torch.randn(1, 2, 4))
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor, graph: Tensor) -> Tensor:
            weights = self.gate(x).softmax(-1)
            h = torch.stack([expert(x) for expert in self.experts], 2).mul(weights[..., None]).sum(2)
            query = self.query.expand(x.shape[0], -1, -1)
            return self.attention(query, graph @ h, h, need_weights=False)[0]

    assert_same(Mixed(), torch.randn(2, 5, 4), torch.randn(2, 5, 5))


def test_a_weight_that_is_computed_is_a_product() -> None:
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))

    made = assert_same(nn.Sequential(linear, nn.Tanh()), torch.randn(2, 4))

    assert "matmul" in made.source


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match="function_or_method is no"):
        implicit_dsl.from_torch(torch.relu, torch.zeros(4, 2))  # type: ignore[arg-type]
