"""Whole networks that people write, by hand in PyTorch, their parts in the order in which they are used."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
import twins_of_std as hand
from torch import Tensor, nn


class ViT(nn.Module):
    def __init__(self, classes: int, patch: int, d: int, depth: int, heads: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, d))
        self.patches, self.places = nn.Conv2d(3, d, patch, patch), hand.Positions(17, d)
        self.body = hand.Encoder(depth, d, heads, True)
        self.head = nn.Linear(d, classes)

    def forward(self, image: Tensor) -> Tensor:
        sequence = self.patches(image).flatten(2).mT
        seen = torch.cat([self.token.expand(len(image), -1, -1), sequence], 1)
        return self.head(self.body(self.places(seen))[:, 0])


class Mixer(nn.Module):
    def __init__(self, classes: int, patch: int, d: int, depth: int, tokens: int, channels: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, d, patch, patch)
        self.cells = nn.ModuleList()
        for _ in range(depth):
            one = [nn.LayerNorm(d), self.mlp(16, tokens)]
            self.cells.append(nn.ModuleList([*one, nn.Sequential(nn.LayerNorm(d), self.mlp(d, channels))]))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, classes)

    @staticmethod
    def mlp(n: int, width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(n, width), nn.GELU(), nn.Linear(width, n))

    def forward(self, image: Tensor) -> Tensor:
        h = self.patches(image).flatten(2).mT
        for norm, mix, channels in self.cells:
            h = h + mix(norm(h).mT).mT
            h = h + channels(h)
        return self.head(self.norm(h).mean(1))


def googlenet(classes: int) -> nn.Sequential:
    return nn.Sequential(
        hand.ConvNormAct(3, 4, 7, 2), nn.MaxPool2d(3, 2, 1),
        hand.ConvNormAct(4, 4, 1), hand.ConvNormAct(4, 12),
        hand.Inception(12, 4, (6, 8), (1, 2), 2), hand.Inception(16, 8, (8, 12), (2, 6), 4),
        nn.MaxPool2d(3, 2, 1),
        hand.Inception(30, 12, (6, 13), (1, 3), 4), hand.Inception(32, 10, (7, 14), (2, 4), 4),
        nn.MaxPool2d(3, 2, 1), hand.Inception(32, 16, (10, 20), (2, 8), 8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(52, classes),
    )  # fmt: skip


class TransposedUNet(nn.Module):
    def __init__(self, classes: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(depth + 1)]
        self.down = nn.ModuleList(hand.DoubleConv(*pair) for pair in pairwise([1, *widths]))
        self.up = nn.ModuleList()
        for small, large in reversed(list(pairwise(widths))):
            self.up.append(nn.ConvTranspose2d(large, small, 2, 2))
            self.up.append(hand.DoubleConv(large, small))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        *levels, bottom = self.down
        for level in levels:
            skips.append(level(x))
            x = F.max_pool2d(skips[-1], 2)
        x = bottom(x)
        for enlarge, join in zip(self.up[::2], self.up[1::2]):
            x = join(torch.cat([skips.pop(), enlarge(x)], 1))
        return self.head(x)


class Inverted(nn.Module):
    """A block of MobileNetV3."""

    def __init__(
        self, inputs: int, kernel: int, inner: int, width: int, weigh: bool, act: hand.Phi, stride: int
    ) -> None:
        super().__init__()
        self.widen = hand.ConvNormAct(inputs, inner, 1, act=act)
        self.depthwise = hand.ConvNormAct(inner, inner, kernel, stride, inner, act)
        if weigh:
            self.squeeze, self.excite = nn.Linear(inner, inner // 4), nn.Linear(inner // 4, inner)
        self.project = hand.ConvNormAct(inner, width, 1, act=lambda x: x)
        self.weigh, self.skip = weigh, stride == 1 and inputs == width

    def forward(self, x: Tensor) -> Tensor:
        h = self.depthwise(self.widen(x))
        if self.weigh:
            # F.hardsigmoid, whose derivative PyTorch knows in single precision only
            s = F.relu6(self.excite(F.relu(self.squeeze(h.mean((2, 3))))) + 3) / 6
            h = h * s[..., None, None]
        g = self.project(h)
        return x + g if self.skip else g


def mobilenet3() -> nn.Sequential:
    return nn.Sequential(
        hand.ConvNormAct(3, 8, 3, 2, act=F.hardswish),
        Inverted(8, 3, 8, 8, True, F.relu, 2),
        Inverted(8, 3, 16, 8, False, F.relu, 1),
        Inverted(8, 5, 24, 12, True, F.hardswish, 1),
        hand.ConvNormAct(12, 36, 1, act=F.hardswish), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(36, 48), nn.Hardswish(), nn.Linear(48, 10),
    )  # fmt: skip


class Attention(nn.Module):
    """Attention over keys of which some are padding."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(d, d) for _ in range(4))
        self.heads = heads

    def forward(self, x: Tensor, memory: Tensor, present: Tensor) -> Tensor:
        maps = ((self.query, x), (self.key, memory), (self.value, memory))
        q, k, v = (layer(given).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer, given in maps)
        scores = q @ k.mT / q.shape[-1] ** 0.5
        scores = scores.masked_fill(present[:, None, None] == 0, -torch.inf)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Translator(nn.Module):
    """The parts of a layer of the decoder are held where the program uses them: its own attention first."""

    def __init__(self, vocab: int, d: int, depth: int, heads: int, source: int, target: int) -> None:
        super().__init__()
        self.E = nn.Parameter(torch.zeros(vocab, d))
        self.places = nn.ParameterList([torch.zeros(source, d), torch.zeros(target, d)])
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for _ in range(depth):
            tail = [nn.LayerNorm(d), hand.FeedForward(d, 2, "relu"), nn.LayerNorm(d)]
            self.encoder.append(nn.ModuleList([Attention(d, heads), *tail]))
        for _ in range(depth):
            own = [hand.Attention(d, heads, causal=True), nn.LayerNorm(d), Attention(d, heads)]
            tail = [nn.LayerNorm(d), hand.FeedForward(d, 2, "relu"), nn.LayerNorm(d)]
            self.decoder.append(nn.ModuleList([*own, *tail]))

    def forward(self, words: Tensor, present: Tensor, begun: Tensor) -> Tensor:
        e, f = self.E[words] + self.places[0], self.E[begun] + self.places[1]
        for attention, norm1, feedforward, norm2 in self.encoder:
            h = norm1(e + attention(e, e, present))
            e = norm2(h + feedforward(h))
        for attention, norm1, cross, norm2, feedforward, norm3 in self.decoder:
            h = norm1(f + attention(f))
            g = norm2(h + cross(h, e, present))
            f = norm3(g + feedforward(g))
        return f @ self.E.T


class ChannelNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Factors(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.factors * x


class ConvNeXtBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(c, c, 7, padding=3, groups=c)
        self.norm = nn.LayerNorm(c, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c), Factors(c))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.mlp(h).permute(0, 3, 1, 2)


def convnext() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), ChannelNorm(8), ConvNeXtBlock(8),
        ChannelNorm(8), nn.Conv2d(8, 16, 2, 2), ConvNeXtBlock(16), ConvNeXtBlock(16),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(16, eps=1e-6), nn.Linear(16, 10),
    )  # fmt: skip


def alexnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(8, 12, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 12, 3, padding=1), nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(),
        nn.Linear(48, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 10),
    )  # fmt: skip


def vgg(layout: list[int | str]) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for width in layout:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
    tail = [nn.Flatten(), nn.Linear(4 * before, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 10)]
    return nn.Sequential(*layers, *tail)


class StructuredImplicit(nn.Module):
    """Of A, the blocks above the diagonal are numbers, in the order of its rows."""

    def __init__(self, blocks: list[int], p: int, q: int) -> None:
        super().__init__()
        n = sum(blocks)
        block = torch.arange(len(blocks)).repeat_interleave(torch.tensor(blocks))
        self.above = block[:, None] < block
        shapes = [(int(self.above.sum()),), (n, 4), (4, n), (n, p), (q, n), (q, p), (n,)]
        self.parts = nn.ParameterList([torch.zeros(shape) for shape in shapes])

    def forward(self, u: Tensor) -> Tensor:
        numbers, left, right, B, C, D, b = self.parts
        A = torch.zeros(self.above.shape, dtype=u.dtype)
        A[self.above] = numbers
        weight, injected = A + left @ right, u @ B.T + b
        x = hand.iterated(lambda x: torch.relu(x @ weight.T + injected), torch.zeros_like(injected))
        return x @ C.T + u @ D.T


class FeatureSelection(nn.Module):
    def __init__(self, n: int, p: int, q: int) -> None:
        super().__init__()
        self.A, self.B, self.C = (nn.Parameter(torch.zeros(shape)) for shape in ((n, n), (n, p), (q, n)))

    def forward(self, u: Tensor) -> Tensor:
        injected = u @ self.B.T
        x = hand.iterated(lambda x: torch.relu(x @ self.A.T + injected), torch.zeros_like(injected))
        return x @ self.C.T


def pipeline() -> nn.Sequential:
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))
