"""Networks that people write, each as a program and as PyTorch by hand, with the same weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
import twins_of_networks as nets
import twins_of_std as hand
from test_exactness import assert_close, outputs, randomise
from torch import Tensor, nn

from implicit_dsl.compiler import check, compile, read_source
from implicit_dsl.errors import render

HOME = Path(__file__).with_name("programs") / "architectures"


class Case(NamedTuple):
    """A model of a file, its parameters, its inputs without the batch, and the network by hand.

    By hand, the parts come in the order in which the program uses them.
    """

    file: str
    model: str
    parameters: dict[str, object]
    shapes: tuple[tuple[int, ...], ...]
    by_hand: Callable[[], nn.Module]
    tokens: int = 0
    tolerance: float = 1e-12  # of what is solved for, what its solver leaves


class Wired(nn.Module):
    """Layers and parameters in order, and how they are wired."""

    def __init__(self, parts: list[Any], wiring: Callable[..., Any]) -> None:
        super().__init__()
        for number, part in enumerate(parts):
            if isinstance(part, nn.Module):
                self.add_module(f"p{number:02}", part)
            else:
                self.register_parameter(f"p{number:02}", nn.Parameter(torch.zeros(part)))
        self.wiring = wiring

    def forward(self, *inputs: Tensor) -> Any:
        parts = [*self._parameters.items(), *self._modules.items()]
        return self.wiring(*(part for _, part in sorted(parts, key=lambda item: item[0])), *inputs)


def gpt() -> nn.Module:
    parts = [
        nn.Embedding(11, 8),
        (5, 8),
        hand.Encoder(2, 8, 2, True, causal=True),
        nn.Linear(8, 11, bias=False),
    ]
    return Wired(parts, lambda embed, position, body, head, t: head(body(embed(t) + position)))


def resnet18(width: int, depths: list[int]) -> nn.Module:
    layers: list[nn.Module] = [hand.Stem(3, width)]
    before = width
    for stage, depth in enumerate(depths):
        for number in range(depth):
            stride = 2 if stage and not number else 1
            layers.append(hand.Residual(before, width * 2**stage, stride))
            before = width * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 7))


def densenet() -> nn.Module:
    return nn.Sequential(
        hand.ConvNormAct(3, 8), hand.DenseBlock(8, 3, 4), hand.Transition(20, 10), hand.DenseBlock(10, 2, 4),
        nn.BatchNorm2d(18), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(18, 10),
    )  # fmt: skip


def mobilenet() -> nn.Module:
    layers: list[nn.Module] = [hand.ConvNormAct(3, 8, 3, 2, act=F.relu6)]
    before = 8
    for ratio, width, count, stride in ([1, 8, 1, 1], [6, 12, 2, 2], [6, 16, 2, 2]):
        for number in range(count):
            layers.append(hand.InvertedResidual(before, width, 1 if number else stride, ratio))
            before = width
    tail = [hand.ConvNormAct(before, 32, 1, act=F.relu6), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *tail, nn.Linear(32, 10))


def squeezenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2), hand.Fire(8, 2, 8, 8), hand.Fire(16, 2, 8, 8),
        nn.MaxPool2d(3, 2), hand.Fire(16, 4, 16, 16), nn.Conv2d(32, 10, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def autoencoder() -> nn.Module:
    def wiring(c1: Any, c2: Any, code: Any, wide: Any, t1: Any, t2: Any, image: Tensor) -> tuple[Tensor, ...]:
        z = code(c2(c1(image).relu()).relu().flatten(1))
        g = wide(z).relu().unflatten(1, (8, 4, 4))
        return torch.sigmoid(t2(t1(g).relu())), z

    parts = [nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1), nn.Linear(128, 8), nn.Linear(8, 128)]
    return Wired([*parts, nn.ConvTranspose2d(8, 4, 2, 2), nn.ConvTranspose2d(4, 1, 2, 2)], wiring)


def tied() -> nn.Module:
    def wiring(b: Tensor, c: Tensor, W: Any, x: Tensor) -> Tensor:
        return torch.tanh(W(x) + b) @ W.weight + c

    return Wired([(8,), (64,), nn.Linear(64, 8, bias=False)], wiring)


def siamese() -> nn.Module:
    def wiring(encoder: Any, head: Any, left: Tensor, right: Tensor) -> tuple[Tensor, ...]:
        a, b = encoder(left), encoder(right)
        return head((a - b).square()), a, b

    return Wired([hand.MLP(12, [16, 6], torch.tanh), nn.Linear(6, 1)], wiring)


def multitask() -> nn.Module:
    def wiring(c1: Any, c2: Any, dense: Any, *rest: Any) -> tuple[Tensor, ...]:
        *heads, image, context = rest
        features = torch.cat([c2(c1(image)).mean((2, 3)), dense(context).relu()], 1)
        scores = [last(F.gelu(first(features))) for first, last in zip(heads[::2], heads[1::2])]
        return *scores, torch.cat(scores, 1)

    heads = [layer for n in (3, 5, 2) for layer in (nn.Linear(18, 10), nn.Linear(10, n))]
    convolutions = [hand.ConvNormAct(3, 8, 3, 2), hand.ConvNormAct(8, 12, 3, 2)]
    return Wired([*convolutions, nn.Linear(4, 6), *heads], wiring)


class WaveNet(nn.Module):
    def __init__(self, width: int, depth: int, levels: int) -> None:
        super().__init__()
        self.start = nn.Conv1d(1, width, 1)
        self.cells = nn.ModuleList()
        for i in range(depth):
            gate = nn.Conv1d(width, 2 * width, 2, dilation=2**i)
            kept = [nn.Conv1d(width, width, 1)] if i < depth - 1 else []
            self.cells.append(nn.ModuleList([gate, *kept, nn.Conv1d(width, width, 1)]))
        self.end = nn.Sequential(
            nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, levels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        h, skipped = self.start(x), []
        for i, (gate, *kept, skip) in enumerate(self.cells):
            filtered, gated = gate(h).chunk(2, 1)
            z = torch.tanh(filtered) * torch.sigmoid(gated)
            skipped.append(skip(z))
            if kept:
                h = h[..., 2**i :] + kept[0](z)
        n = skipped[-1].shape[-1]
        return self.end(sum(value[..., -n:] for value in skipped))


class Gated(nn.Module):
    def __init__(self, n: int, depth: int) -> None:
        super().__init__()
        self.start = nn.Linear(5, n)
        self.cells = nn.ModuleList(nn.ModuleList(nn.Linear(n + 5, n) for _ in range(3)) for _ in range(depth))
        self.highway, self.glu = hand.Highway(n, F.relu), hand.GLU(n, 4, torch.sigmoid)

    def forward(self, x: Tensor) -> Tensor:
        h = self.start(x)
        for reset, update, candidate in self.cells:
            both = torch.cat([h, x], 1)
            r, z = torch.sigmoid(reset(both)), torch.sigmoid(update(both))
            h = (1 - z) * h + z * torch.tanh(candidate(torch.cat([r * h, x], 1)))
        return self.glu(self.highway(h))


def graph() -> nn.Module:
    def wiring(w1: Any, s1: Any, w2: Any, s2: Any, q: Any, k: Any, head: Any, G: Tensor, x: Tensor) -> Any:
        for own, shared in ((s1, w1), (s2, w2)):
            x = torch.relu(G @ shared(x) + own(x))
        split = [part.unflatten(2, (2, 4)).transpose(1, 2) for part in (q(x), k(x), x)]
        mixed = F.scaled_dot_product_attention(*split, attn_mask=(G != 0)[:, None])
        nodes = mixed.transpose(1, 2).flatten(2)
        return head(nodes), nodes.mean(1)

    maps = [nn.Linear(4, 8, bias=False), nn.Linear(4, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 8)]
    return Wired([*maps, nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)], wiring)


class Elman(nn.Module):
    def __init__(self, n: int, p: int, classes: int) -> None:
        super().__init__()
        self.W, self.U = nn.Parameter(torch.zeros(n, n)), nn.Parameter(torch.zeros(n, p))
        self.b = nn.Parameter(torch.zeros(n))
        self.head = nn.Linear(n, classes)

    def forward(self, u: Tensor) -> Tensor:
        h = torch.zeros(len(u), len(self.b), dtype=u.dtype)
        for step in u.unbind(1):
            h = torch.tanh(h @ self.W.T + step @ self.U.T + self.b)
        return self.head(h)


IMAGE = ((3, 16, 16),)
CASES = {
    "gpt": Case("gpt", "TinyGPT", {"vocab": 11, "T": 5, "d": 8, "heads": 2}, ((5,),), gpt, 11),
    "resnet18": Case(
        "resnet18", "ResNet18", {"classes": 7, "width": 3}, ((3, 32, 32),), lambda: resnet18(3, [2, 2, 2, 2])
    ),
    "densenet": Case("densenet", "DenseNet", {}, IMAGE, densenet),
    "mobilenet": Case("mobilenet", "MobileNetV2", {}, IMAGE, mobilenet),
    "squeezenet": Case("squeezenet", "SqueezeNet", {}, ((3, 31, 31),), squeezenet),
    "autoencoder": Case("autoencoder", "Autoencoder", {}, ((1, 16, 16),), autoencoder),
    "tied autoencoder": Case("autoencoder", "TiedAutoencoder", {}, ((64,),), tied),
    "siamese": Case("siamese", "Siamese", {}, ((12,), (12,)), siamese),
    "multitask": Case("multitask", "MultiTask", {}, ((3, 12, 12), (4,)), multitask),
    "wavenet": Case("wavenet", "WaveNet", {}, ((1, 40),), lambda: WaveNet(6, 4, 3)),
    "gated": Case("highway", "Gated", {}, ((5,),), lambda: Gated(8, 3)),
    "graph": Case("graph", "GraphNet", {}, ((6, 6), (6, 4)), graph),
    "elman": Case(
        "recurrent_unrolled", "UnrolledElman", {"T": 5, "n": 6}, ((5, 4),), lambda: Elman(6, 4, 10)
    ),
    "vit": Case("vit", "ViT", {}, IMAGE, lambda: nets.ViT(10, 4, 16, 2, 4)),
    "mixer": Case("mixer", "Mixer", {}, IMAGE, lambda: nets.Mixer(10, 4, 12, 2, 8, 24)),
    "googlenet": Case("googlenet", "GoogLeNet", {}, ((3, 32, 32),), lambda: nets.googlenet(10)),
    "unet": Case("unet", "TransposedUNet", {}, ((1, 16, 16),), lambda: nets.TransposedUNet(3, 4, 3)),
    "mobilenet3": Case("mobilenet3", "MobileNetV3", {}, ((3, 32, 32),), nets.mobilenet3),
    "translator": Case(
        "translator", "Translator", {}, ((6,), (6,), (4,)), lambda: nets.Translator(13, 8, 2, 2, 6, 4), 13
    ),
    "convnext": Case("convnext", "ConvNeXt", {}, ((3, 32, 32),), nets.convnext),
    "alexnet": Case("alexnet", "AlexNet", {}, ((3, 64, 64),), nets.alexnet),
    "structured": Case(
        "implicit",
        "StructuredImplicit",
        {"blocks": [5, 3, 4], "p": 6},
        ((6,),),
        lambda: nets.StructuredImplicit([5, 3, 4], 6, 10),
        tolerance=1e-9,
    ),
    "feature selection": Case(
        "implicit", "FeatureSelection", {}, ((50,),), lambda: nets.FeatureSelection(10, 50, 100), 0, 1e-9
    ),
    "pipeline": Case("implicit", "PipelineMLP", {}, ((784,),), nets.pipeline),
    "vgg": Case("alexnet", "VGG", {}, IMAGE, lambda: nets.vgg([4, "M", 8, "M", 12, 12, "M"])),
}


def pair(case: Case) -> tuple[nn.Module, nn.Module]:
    space: dict[str, Any] = {}
    source = read_source(str(HOME / f"{case.file}.impl"), f"{case.file}.impl")
    exec(compile(source, parameters=case.parameters, model=case.model), space)
    module = space[case.model](dtype=torch.float64).eval()
    torch.manual_seed(0)
    randomise(module)
    if hasattr(module, "project_"):
        module.project_()
    by_hand = case.by_hand().double().eval()
    held = module.state_dict()
    mine = [id for id, _, _ in space["_STRUCTURES"][case.model]["tensors"]]  # in the order of use
    theirs = [key for key in by_hand.state_dict() if not key.endswith("tracked")]
    if isinstance(by_hand, Wired):
        theirs.sort(key=lambda key: key.partition(".")[0])  # a parameter is not before all layers
    assert len(mine) == len(theirs)
    by_hand.load_state_dict({key: held[id] for key, id in zip(theirs, mine)}, strict=False)
    return module, by_hand


def inputs_of(case: Case) -> list[Tensor]:
    if case.file == "translator":
        words, begun = torch.randint(case.tokens, (2, 6)), torch.randint(case.tokens, (2, 4))
        return [words, torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6], dtype=torch.float64), begun]
    if case.tokens:
        return [torch.randint(case.tokens, (2, *shape)) for shape in case.shapes]
    values = [torch.randn(2, *shape, dtype=torch.float64) for shape in case.shapes]
    if case.file == "graph":  # neighbours, and each node its own
        values[0] = (torch.rand(2, 6, 6) < 0.5).double().clamp(min=torch.eye(6).double())
    return values


@pytest.mark.parametrize("name", CASES)
def test_a_program_is_the_network_written_by_hand(name: str) -> None:
    module, by_hand = pair(CASES[name])
    inputs = inputs_of(CASES[name])

    actual, expected = outputs(module(*inputs)), outputs(by_hand(*inputs))
    assert_close(expected, actual, CASES[name].tolerance)
    for values in (actual, expected):
        sum(value.sin().sum() for value in values).backward()
    ours = sorted(float(p.grad.norm()) for p in module.parameters() if p.grad is not None)
    theirs = sorted(float(p.grad.norm()) for p in by_hand.parameters() if p.grad is not None)
    assert_close((torch.tensor(theirs),), (torch.tensor(ours),), max(1e-9, 10 * CASES[name].tolerance))


@pytest.mark.parametrize("name", CASES)
def test_a_program_is_the_solution_of_its_matrices(name: str) -> None:
    case = CASES[name]
    module, _ = pair(case)
    inputs = [value[:1] for value in inputs_of(case)]
    free = {"image": case.shapes[0]} if case.shapes in (IMAGE, ((3, 31, 31),), ((3, 32, 32),)) else {}

    assert_close(outputs(module(*inputs)), outputs(module.system(**free).solve(*inputs)), 1e-8)


def test_what_is_written_is_formatted_and_typed(tmp_path: Path) -> None:
    for path in HOME.glob("*.impl"):
        text = compile(read_source(str(path), path.name))
        (tmp_path / f"{path.stem}.py").write_text(text, encoding="utf-8")

    ruff = [sys.executable, "-m", "ruff", "format", "--check", "--isolated", "--line-length", "110"]
    subprocess.run([*ruff, str(tmp_path)], check=True)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir"]
    subprocess.run([*mypy, str(tmp_path / "cache"), *map(str, tmp_path.glob("*.py"))], check=True)


@pytest.mark.parametrize("path", sorted(HOME.glob("*.impl")), ids=lambda path: path.stem)
def test_a_program_says_nothing_wrong_and_has_a_twin(path: Path) -> None:
    found = check(read_source(str(path), path.name))

    assert not found.diagnostics, "\n".join(map(render, found.diagnostics))
    written = {case.model for case in CASES.values() if case.file == path.stem}
    assert written == {model.name for model in found.models}
