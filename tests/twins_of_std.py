"""The blocks of the library, written by hand in PyTorch with the same names for their parts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
Phi = Callable[[Tensor], Tensor]


class Skip(nn.Module):
    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


class MLP(nn.Module):
    def __init__(self, inputs: int, widths: list[int], act: Phi = F.relu, bias: bool = True) -> None:
        super().__init__()
        sizes = [inputs, *widths]
        pairs = pairwise(sizes)
        self.dense = nn.ModuleDict({str(i): nn.Linear(*pair, bias=bias) for i, pair in enumerate(pairs, 1)})
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.dense.values()
        for layer in hidden:
            x = self.act(layer(x))
        return last(x)


class GLU(nn.Module):
    def __init__(self, inputs: int, width: int, gate: Phi) -> None:
        super().__init__()
        self.value, self.gated, self.gate = nn.Linear(inputs, width), nn.Linear(inputs, width), gate

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) * self.gate(self.gated(x))


class Highway(nn.Module):
    def __init__(self, n: int, act: Phi) -> None:
        super().__init__()
        self.carry, self.transform = nn.Linear(n, n, bias=False), nn.Linear(n, n)
        self.c = nn.Parameter(torch.zeros(n))
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        t = torch.sigmoid(self.carry(x) + self.c)
        return torch.lerp(x, self.act(self.transform(x)), t)


# --------------------------------------------------------------------------- vision


class ConvNormAct(nn.Module):
    def __init__(
        self, inputs: int, width: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: Phi = F.relu
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, width, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Stem(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.first = ConvNormAct(inputs, width, 7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.first(x), 3, 2, 1)


class Shortcut(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.plain = stride == 1 and inputs == width
        if not self.plain:
            self.conv = nn.Conv2d(inputs, width, 1, stride, bias=False)
            self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.plain else self.norm(self.conv(x))


class Residual(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.short = Shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.short(x))


class PreActResidual(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.plain = stride == 1 and inputs == width
        if not self.plain:
            self.short = nn.Conv2d(inputs, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        g = self.conv2(F.relu(self.norm2(self.conv1(h))))
        return g + (x if self.plain else self.short(h))


class Bottleneck(nn.Module):
    def __init__(
        self, inputs: int, width: int, stride: int, ratio: int = 4, groups: int = 1, inner: int | None = None
    ) -> None:
        super().__init__()
        inner = inner or width
        self.conv1, self.norm1 = nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv3, self.norm3 = nn.Conv2d(inner, ratio * width, 1, bias=False), nn.BatchNorm2d(ratio * width)
        self.short = Shortcut(inputs, ratio * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        h = F.relu(self.norm2(self.conv2(h)))
        return F.relu(self.norm3(self.conv3(h)) + self.short(x))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, ratio: int) -> None:
        super().__init__()
        inner = ratio * inputs
        if ratio != 1:
            self.widen = ConvNormAct(inputs, inner, 1, act=F.relu6)
        self.depthwise = ConvNormAct(inner, inner, 3, stride, inner, F.relu6)
        self.project, self.norm = nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)
        self.skip = stride == 1 and inputs == width

    def forward(self, x: Tensor) -> Tensor:
        h = self.widen(x) if hasattr(self, "widen") else x
        g = self.norm(self.project(self.depthwise(h)))
        return x + g if self.skip else g


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // ratio)
        self.excite = nn.Linear(channels // ratio, channels)

    def forward(self, x: Tensor) -> Tensor:
        s = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return x * s[:, :, None, None]


class Inception(nn.Module):
    def __init__(
        self, inputs: int, narrow: int, middle: tuple[int, int], wide: tuple[int, int], pooled: int
    ) -> None:
        super().__init__()
        self.one = ConvNormAct(inputs, narrow, 1)
        self.three1, self.three2 = ConvNormAct(inputs, middle[0], 1), ConvNormAct(*middle, 3)
        self.five1, self.five2 = ConvNormAct(inputs, wide[0], 1), ConvNormAct(*wide, 5)
        self.pool = ConvNormAct(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        three, five = self.three2(self.three1(x)), self.five2(self.five1(x))
        return torch.cat([self.one(x), three, five, self.pool(F.max_pool2d(x, 3, 1, 1))], 1)


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int, bottleneck: int) -> None:
        super().__init__()
        inner = bottleneck * growth
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, inner, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(inner), nn.Conv2d(inner, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(h)))], 1)


class DenseBlock(nn.Module):
    def __init__(self, inputs: int, depth: int, growth: int) -> None:
        super().__init__()
        layers = {str(i): DenseLayer(inputs + (i - 1) * growth, growth, 4) for i in range(1, depth + 1)}
        self.dense = nn.ModuleDict(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.dense.values():
            x = layer(x)
        return x


class Transition(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class Fire(nn.Module):
    def __init__(self, inputs: int, squeeze: int, expand1: int, expand3: int) -> None:
        super().__init__()
        self.narrow, self.one = nn.Conv2d(inputs, squeeze, 1), nn.Conv2d(squeeze, expand1, 1)
        self.three = nn.Conv2d(squeeze, expand3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        s = F.relu(self.narrow(x))
        return torch.cat([F.relu(self.one(s)), F.relu(self.three(s))], 1)


# --------------------------------------------------------------------------- attention


class Attention(nn.Module):
    """Multi-head attention, by `nn.functional.multi_head_attention_forward`."""

    def __init__(self, d: int, heads: int, bias: bool = True, causal: bool = False) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(d, d, bias=bias) for _ in range(4))
        self.heads, self.causal = heads, causal

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        """`given`: what is attended to, if it is not x, and which of its steps are there, [batch, steps]."""
        memory = next((each for each in given if each.ndim == 3), x)
        padding = next((each == 0 for each in given if each.ndim == 2), None)
        d, steps = x.shape[-1], x.shape[1]
        bias = (
            None if self.query.bias is None else torch.cat([self.query.bias, self.key.bias, self.value.bias])
        )
        mask = torch.ones(steps, steps, dtype=torch.bool).triu(1) if self.causal else None
        y, _ = F.multi_head_attention_forward(
            x.transpose(0, 1), memory.transpose(0, 1), memory.transpose(0, 1), d, self.heads, None, bias,
            None, None, False, 0.0, self.out.weight, self.out.bias, attn_mask=mask, need_weights=False,
            key_padding_mask=padding, use_separate_proj_weight=True, q_proj_weight=self.query.weight,
            k_proj_weight=self.key.weight, v_proj_weight=self.value.weight,
        )  # fmt: skip
        return y.transpose(0, 1)


class FeedForward(nn.Module):
    def __init__(self, d: int, ratio: int, act: str = "gelu") -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(d, ratio * d), nn.Linear(ratio * d, d)
        self.act = getattr(F, act)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.act(self.widen(x)))


class Layer(nn.Module):
    """A layer of an encoder, or with `cross` of a decoder."""

    def __init__(self, d: int, heads: int, norm_first: bool, act: str, causal: bool, cross: bool) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(d), Attention(d, heads, causal=causal)
        if cross:
            self.norm2, self.cross = nn.LayerNorm(d), Attention(d, heads)
        setattr(self, f"norm{2 + cross}", nn.LayerNorm(d))
        self.feedforward = FeedForward(d, 4, act)
        self.norm_first = norm_first

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        parts: list[Phi] = [self.attention, self.feedforward]
        if hasattr(self, "cross"):
            parts.insert(1, lambda z: self.cross(z, *given))
        else:
            parts[0] = lambda z: self.attention(z, *given)
        for number, part in enumerate(parts, 1):
            norm: Phi = getattr(self, f"norm{number}")
            x = x + part(norm(x)) if self.norm_first else norm(x + part(x))
        return x


class Encoder(nn.Module):
    """A stack of layers, or with `bare` one of them alone."""

    kind, crossed, always_causal = "encoder", False, False

    def __init__(
        self, depth: int, d: int, heads: int, norm_first: bool, act: str = "gelu", bare: bool = False,
        causal: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        causal = causal or self.always_causal
        layers = [Layer(d, heads, norm_first, act, causal, self.crossed) for _ in range(depth)]
        self.norm_first, self.bare = norm_first, bare
        if bare:
            for name, part in layers[0].named_children():
                self.add_module(name, part)
            self._layer = [layers[0]]  # hidden from the state_dict: its parts are here
        else:
            setattr(self, self.kind, nn.ModuleDict({str(i): layer for i, layer in enumerate(layers, 1)}))
            if norm_first:
                self.norm = nn.LayerNorm(d)

    def forward(self, x: Tensor, *memory: Tensor) -> Tensor:
        for layer in self._layer if self.bare else getattr(self, self.kind).values():
            x = layer(x, *memory)
        return self.norm(x) if self.norm_first and not self.bare else x


class Decoder(Encoder):
    kind, crossed, always_causal = "decoder", True, True


class Positions(nn.Module):
    def __init__(self, steps: int, d: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(steps, d))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.position


# --------------------------------------------------------------------------- U-Net


class DoubleConv(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.first, self.second = ConvNormAct(inputs, width), ConvNormAct(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Down(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv = DoubleConv(inputs, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.conv(x)
        return skip, F.max_pool2d(skip, 2)


class Up(nn.Module):
    def __init__(self, inputs: int, skipped: int, width: int) -> None:
        super().__init__()
        self.shrink, self.conv = nn.Conv2d(inputs, width, 1), DoubleConv(width + skipped, width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        larger = F.interpolate(self.shrink(x), scale_factor=2.0, mode="nearest")
        return self.conv(torch.cat([skip, larger], 1))


class UNet(nn.Module):
    def __init__(self, inputs: int, classes: int, depth: int, width: int) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(depth + 1)]
        sizes = [inputs, *widths]
        self.encoder = nn.ModuleDict({str(i): Down(sizes[i - 1], sizes[i]) for i in range(1, depth + 1)})
        self.bottom = DoubleConv(sizes[depth], sizes[depth + 1])
        ups = {str(i): Up(sizes[i + 1], sizes[i], sizes[i]) for i in range(1, depth + 1)}
        self.decoder = nn.ModuleDict(ups)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for encoder in self.encoder.values():
            skip, x = encoder(x)
            skips.append(skip)
        x = self.bottom(x)
        for number in range(len(skips), 0, -1):
            x = self.decoder[str(number)](x, skips[number - 1])
        return self.head(x)


# --------------------------------------------------------------------------- equilibria


def iterated(step: Phi, start: Tensor, times: int = 2000) -> Tensor:
    """A fixed point, by so many steps that more change nothing."""
    z = start
    for _ in range(times):
        z, before = step(z), z
        if (z - before).abs().max() < 1e-14:
            break
    return z


class Implicit(nn.Module):
    def __init__(self, inputs: int, n: int, act: Phi) -> None:
        super().__init__()
        self.A, self.inject, self.act = nn.Parameter(torch.zeros(n, n)), nn.Linear(inputs, n), act

    def forward(self, x: Tensor) -> Tensor:
        injected = self.inject(x)
        return iterated(lambda z: self.act(z @ self.A.T + injected), torch.zeros_like(injected))


class Monotone(nn.Module):
    """By averaged steps, z ← z + α (relu(W z + B x + b) - z), which are slow and simple."""

    def __init__(self, inputs: int, n: int, m: float) -> None:
        super().__init__()
        self.P, self.S = nn.Parameter(torch.zeros(n, n)), nn.Parameter(torch.zeros(n, n))
        self.inject, self.m = nn.Linear(inputs, n), m

    def forward(self, x: Tensor) -> Tensor:
        W = (1 - self.m) * torch.eye(len(self.P)) - self.P.T @ self.P + self.S - self.S.T
        injected = self.inject(x)
        step = 0.5 / (1 + float(torch.linalg.matrix_norm(W.detach(), 2)))
        return iterated(
            lambda z: torch.relu(z + step * (z @ W.T + injected - z)), torch.zeros_like(injected), 20_000
        )


class ConvImplicit(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.inject = nn.Conv2d(inputs, width, 3, padding=1)
        self.K = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        injected = self.inject(x)
        return iterated(lambda z: F.relu(self.K(z) + injected), torch.zeros_like(injected))


class ResidualCell(nn.Module):
    def __init__(self, width: int, inner: int, groups: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = (
            nn.Conv2d(width, inner, 3, padding=1, bias=False),
            nn.GroupNorm(groups, inner),
        )
        self.conv2, self.norm2 = (
            nn.Conv2d(inner, width, 3, padding=1, bias=False),
            nn.GroupNorm(groups, width),
        )
        self.norm3 = nn.GroupNorm(groups, width)

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        h = self.norm1(F.relu(self.conv1(z)))
        return self.norm3(F.relu(z + self.norm2(e + self.conv2(h))))
