"""Generated networks of four architectures against the same networks written by hand, with the same weights.

    OMP_NUM_THREADS=1 python benchmarks/architectures.py [--only resnet18] [--compiled] [--rounds 31]

The twins are written as one writes them in PyTorch. Inference in evaluation mode without gradients,
and forward + backward in training mode with the gradients of all parameters. The bars: eager ≤ 1.00×;
with --compiled (torch.compile by inductor, both sides) ≤ 1.00×. Equal code cannot be told apart better
than the rounds allow: a ratio whose quartiles enclose 1 is a tie.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from interleave import interleave, report
from torch import Tensor, nn

import implicit_dsl

PROGRAMS = Path(__file__).parent / "programs"


class Basic(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.skip = nn.Sequential()
        if stride != 1 or inputs != width:
            self.skip = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.skip(x))


def resnet18() -> nn.Module:
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    blocks = [
        Basic(64, 64, 1), Basic(64, 64, 1), Basic(64, 128, 2), Basic(128, 128, 1),
        Basic(128, 256, 2), Basic(256, 256, 1), Basic(256, 512, 2), Basic(512, 512, 1),
    ]  # fmt: skip
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


class Branches(nn.Module):
    def __init__(self, inputs: int, widths: list[int]) -> None:
        super().__init__()
        a, b, c, d, e, f = widths
        self.narrow = nn.Conv2d(inputs, a, 1)
        self.middle, self.middle2 = nn.Conv2d(inputs, b, 1), nn.Conv2d(b, c, 3, padding=1)
        self.wide, self.wide2 = nn.Conv2d(inputs, d, 1), nn.Conv2d(d, e, 5, padding=2)
        self.pooled = nn.Conv2d(inputs, f, 1)

    def forward(self, x: Tensor) -> Tensor:
        narrow = F.relu(self.narrow(x))
        middle = F.relu(self.middle2(F.relu(self.middle(x))))
        wide = F.relu(self.wide2(F.relu(self.wide(x))))
        pooled = F.relu(self.pooled(F.max_pool2d(x, 3, 1, 1)))
        return torch.cat([narrow, middle, wide, pooled], 1)


def inception() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 96, 3, 1, 1), nn.ReLU(),
        Branches(96, [64, 48, 64, 8, 16, 16]), Branches(160, [64, 64, 96, 16, 32, 32]), nn.MaxPool2d(2),
        Branches(224, [96, 64, 128, 16, 32, 32]), Branches(288, [128, 64, 128, 24, 48, 48]),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(352, 100),
    )  # fmt: skip


def double(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
    )  # fmt: skip


class UNet(nn.Module):
    def __init__(self, w: int = 32, classes: int = 4) -> None:
        super().__init__()
        self.down1, self.down2, self.down3 = double(3, w), double(w, 2 * w), double(2 * w, 4 * w)
        self.bottom = double(4 * w, 8 * w)
        self.less3, self.up3 = nn.Conv2d(8 * w, 4 * w, 1), double(8 * w, 4 * w)
        self.less2, self.up2 = nn.Conv2d(4 * w, 2 * w, 1), double(4 * w, 2 * w)
        self.less1, self.up1 = nn.Conv2d(2 * w, w, 1), double(2 * w, w)
        self.head = nn.Conv2d(w, classes, 1)

    def forward(self, u: Tensor) -> Tensor:
        one = self.down1(u)
        two = self.down2(F.max_pool2d(one, 2))
        three = self.down3(F.max_pool2d(two, 2))
        x = self.bottom(F.max_pool2d(three, 2))
        x = self.up3(torch.cat([three, self.less3(F.interpolate(x, scale_factor=2))], 1))
        x = self.up2(torch.cat([two, self.less2(F.interpolate(x, scale_factor=2))], 1))
        x = self.up1(torch.cat([one, self.less1(F.interpolate(x, scale_factor=2))], 1))
        return self.head(x)


class Encoder(nn.Module):
    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(d)
        self.Q, self.K, self.V, self.O = (nn.Linear(d, d) for _ in range(4))
        self.norm2 = nn.LayerNorm(d)
        self.wide, self.narrow = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, d = x.shape
        n = self.norm1(x)
        q, k, v = (
            layer(n).view(batch, tokens, self.heads, d // self.heads).transpose(1, 2)
            for layer in (self.Q, self.K, self.V)
        )
        heads = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, d)
        x = x + self.O(heads)
        return x + self.narrow(F.gelu(self.wide(self.norm2(x))))


class TransformerEncoder(nn.Module):
    def __init__(self, tokens: int = 64, features: int = 32, d: int = 128) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(tokens, d))
        self.embed = nn.Linear(features, d)
        self.blocks = nn.Sequential(*(Encoder(d, 4) for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, 10)

    def forward(self, u: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(u) + self.position)))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet18": (resnet18, (3, 64, 64)),
    "inception": (inception, (3, 56, 56)),
    "unet": (UNet, (3, 64, 64)),
    "transformer": (TransformerEncoder, (64, 32)),
}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """The network by hand and the generated one, whose tensors come in the same order."""
    torch.manual_seed(0)
    by_hand = CASES[name][0]()
    module = implicit_dsl.load(PROGRAMS / f"{name}.impl")
    generated: nn.Module = getattr(module, module.__all__[0])()
    weights = by_hand.state_dict()
    assert [tuple(t.shape) for t in weights.values()] == [
        tuple(t.shape) for t in generated.state_dict().values()
    ]
    generated.load_state_dict(dict(zip(generated.state_dict(), weights.values())))
    return by_hand, generated


def compare(name: str, batch: int, rounds: int, compiled: bool) -> None:
    by_hand, generated = pair(name)
    u = torch.randn(batch, *CASES[name][1])
    with torch.no_grad():
        torch.testing.assert_close(generated.eval()(u), by_hand.eval()(u), rtol=1e-4, atol=1e-4)
    networks = {"by hand": by_hand, "generated": generated}
    runs = {title: torch.compile(net) if compiled else net for title, net in networks.items()}
    kind = f"{name}{' compiled' if compiled else ''}"

    def inference(title: str) -> Callable[[], object]:
        networks[title].eval()

        def run() -> None:
            with torch.no_grad():
                runs[title](u)

        return run

    found = interleave({title: inference(title) for title in networks}, rounds, 0.2)
    report(f"{kind}  inference  batch {batch}", found, "by hand", 1.0)

    def training(title: str) -> Callable[[], object]:
        networks[title].train()
        parameters = list(networks[title].parameters())
        return lambda: torch.autograd.grad(runs[title](u).square().mean(), parameters)

    made = {title: training(title) for title in networks}
    for one, other in zip(made["by hand"](), made["generated"]()):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    report(f"{kind}  fwd + bwd  batch {batch}", interleave(made, rounds, 0.2), "by hand", 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread; medians, paired ratios [quartiles]")
    for name in options.only:
        for batch in options.batches:
            compare(name, batch, options.rounds, options.compiled)


if __name__ == "__main__":
    main()
