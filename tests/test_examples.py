"""The examples against the same networks written by hand in PyTorch, and against their matrices."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_exactness import assert_close, outputs, randomise
from torch import Tensor, nn

from implicit_dsl.compiler import compile, read_source
from implicit_dsl.emit.inline import MARKER
from implicit_dsl.header import Provenance, provenance
from implicit_dsl.matrices import Layout

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.impl"))


def generated(name: str, model: str, **parameters: object) -> nn.Module:
    """An example in float64 and evaluation mode, with random weights and statistics."""
    source = read_source(str(ROOT / "examples" / f"{name}.impl"), f"{name}.impl")
    namespace: dict[str, object] = {}
    exec(compile(source, parameters=parameters, model=model), namespace)
    module: nn.Module = namespace[model](dtype=torch.float64)  # type: ignore[operator]
    torch.manual_seed(0)
    randomise(module)
    return module.eval()


def same_weights(by_hand: nn.Module, module: nn.Module) -> nn.Module:
    """The network by hand, with the weights of the generated one, which come in the same order."""
    values = [v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")]
    names = [k for k in by_hand.state_dict() if not k.endswith("num_batches_tracked")]
    assert len(values) == len(names)
    by_hand.double().load_state_dict(dict(zip(names, values)), strict=False)
    return by_hand.eval()


def lenet5() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(16, 120, 5), nn.Flatten(), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
    )  # fmt: skip


def lenet5_relu() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))


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
        h = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(h + self.skip(x))


def resnet(depth: int, widths: list[int]) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, widths[0], 3, 1, 1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
    ]
    before = widths[0]
    for stage, width in enumerate(widths):
        for number in range(depth):
            layers.append(Basic(before, width, 2 if stage and not number else 1))
            before = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10)]
    return nn.Sequential(*layers, *head)


class TiedResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 1, 1)
        self.cell = Basic(6, 6, 1)
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for _ in range(3):
            x = self.cell(x)
        return self.head(x.mean((2, 3)))


class Branches(nn.Module):
    def __init__(self, inputs: int, widths: list[int], phi: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        a, b, c, d = widths
        self.narrow = nn.Conv2d(inputs, a, 1)
        self.middle = nn.Conv2d(inputs, b, 1)
        self.middle2 = nn.Conv2d(b, b, 3, padding=1)
        self.wide = nn.Conv2d(inputs, c, 1)
        self.wide2 = nn.Conv2d(c, c, 5, padding=2)
        self.pooled = nn.Conv2d(inputs, d, 1)
        self.phi = phi

    def forward(self, x: Tensor) -> Tensor:
        phi = self.phi
        parts = [
            phi(self.narrow(x)),
            phi(self.middle2(phi(self.middle(x)))),
            phi(self.wide2(phi(self.wide(x)))),
            phi(self.pooled(F.max_pool2d(x, 3, 1, 1))),
        ]
        return torch.cat(parts, 1)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = Branches(16, [8, 12, 4, 4], F.relu)
        self.second = Branches(28, [12, 16, 6, 6], F.gelu)
        self.embedding = nn.Linear(44, 24)
        self.scores = nn.Linear(24, 5)

    def forward(self, image: Tensor, measurements: Tensor) -> tuple[Tensor, Tensor]:
        x = self.second(self.first(F.max_pool2d(F.relu(self.stem(image)), 2))).mean((2, 3))
        code = torch.tanh(self.embedding(torch.cat([x, measurements], 1)))
        return self.scores(code), code


class OpenLeNet5(nn.Module):
    """LeNet-5 whose layers read all those before through two numbers each, as the scores read the image."""

    behind = (("c3", "c1"), ("s4", "c1"), ("s4", "s2"), ("c5", "c1"), ("c5", "s2"), ("c5", "c3"),
              ("f6", "c1"), ("f6", "s2"), ("f6", "c3"), ("f6", "s4"), ("y", "u"))  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        sizes = {"u": 1024, "c1": 4704, "s2": 1176, "c3": 1600, "s4": 400, "c5": 120, "f6": 84, "y": 10}
        for to, source in self.behind:
            setattr(self, f"{to}_{source}_left", nn.Parameter(torch.zeros(sizes[to], 2)))
            setattr(self, f"{to}_{source}_right", nn.Parameter(torch.zeros(2, sizes[source])))
        self.first, self.second = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.third, self.fourth, self.last = nn.Conv2d(16, 120, 5), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, u: Tensor) -> Tensor:
        values = {"u": u, "c1": torch.tanh(self.first(u))}

        def skipped(name: str) -> Tensor:
            total = torch.zeros(())
            for to, source in self.behind:
                if to == name:
                    left, right = (getattr(self, f"{to}_{source}_{part}") for part in ("left", "right"))
                    total = total + values[source].flatten(1) @ (left @ right).mT
            return total

        values["s2"] = F.avg_pool2d(values["c1"], 2)
        values["c3"] = torch.tanh(self.second(values["s2"]) + skipped("c3").reshape(-1, 16, 10, 10))
        values["s4"] = F.avg_pool2d(values["c3"], 2) + skipped("s4").reshape(-1, 16, 5, 5)
        values["c5"] = torch.tanh(self.third(values["s4"]).flatten(1) + skipped("c5"))
        values["f6"] = torch.tanh(self.fourth(values["c5"]) + skipped("f6"))
        return self.last(values["f6"]) + skipped("y")


SMALL = {"depth": 2, "widths": [3, 4, 5]}
CASES = {
    "mlp": (lambda: generated("mlp", "MLP"), mlp, [(784,)]),
    "lenet5": (lambda: generated("lenet5", "LeNet5"), lenet5, [(1, 32, 32)]),
    "open_lenet5": (lambda: generated("open_lenet5", "OpenLeNet5"), OpenLeNet5, [(1, 32, 32)]),
    "lenet5_relu": (lambda: generated("lenet5_relu", "LeNet5Relu"), lenet5_relu, [(1, 32, 32)]),
    "resnet": (lambda: generated("resnet", "ResNet", **SMALL), lambda: resnet(2, [3, 4, 5]), [(3, 32, 32)]),
    "tied": (lambda: generated("resnet", "TiedResNet", width=6, times=3), TiedResNet, [(3, 32, 32)]),
    "branching": (lambda: generated("branching", "BranchingNet"), Branching, [(3, 12, 10), (4,)]),
}


def inputs_of(shapes: list[tuple[int, ...]], batch: int = 2) -> list[Tensor]:
    return [torch.randn(batch, *shape, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("name", CASES)
def test_an_example_is_the_network_written_by_hand(name: str) -> None:
    make, by_hand, shapes = CASES[name]
    module = make()
    reference = same_weights(by_hand(), module)
    inputs = inputs_of(shapes)

    assert_close(outputs(reference(*inputs)), outputs(module(*inputs)))


@pytest.mark.parametrize("name", CASES)
def test_an_example_trains_like_the_network_written_by_hand(name: str) -> None:
    make, by_hand, shapes = CASES[name]
    module = make()
    reference = same_weights(by_hand(), module)
    inputs = inputs_of(shapes)
    for network in (module, reference):
        if name != "branching":  # dropout is random
            network.train()
        sum(result.sum() for result in outputs(network(*inputs))).backward()

    ours = [p.grad for p in module.parameters()]
    theirs = [p.grad for p in reference.parameters()]
    assert_close(tuple(theirs), tuple(ours), 1e-9)


@pytest.mark.parametrize("name", CASES)
def test_an_example_is_the_solution_of_its_matrices(name: str) -> None:
    make, _, shapes = CASES[name]
    module = make()
    inputs = inputs_of(shapes, 1)
    free = {"image": shapes[0]} if name == "branching" else {}
    system = module.system(**free)

    expected, actual = module(*inputs), system.solve(*inputs)
    assert type(expected) is type(actual)
    assert_close(outputs(expected), outputs(actual))


def test_the_golden_figures_of_lenet5() -> None:
    system = generated("lenet5", "LeNet5").system()
    A, B = system.A.to_scipy(), system.B.to_scipy()

    assert (8084, 8084) == A.shape
    assert A.nnz == system.A.nnz == 304_384
    assert (8084, 1024) == B.shape
    assert B.nnz == 117_600
    counts = {("f6", "c5"): 10_080, ("c5", "s4"): 48_000, ("s4", "c3"): 1_600, ("c3", "s2"): 240_000}
    counts["s2", "c1"] = 4_704
    assert counts == {key: system.A[key].nnz for key in counts}
    assert 6_508 == Layout.of(system.model, "b").nnz()
    assert 2_400 == len(set(system.ties("A")["c3_conv.weight"].slots))
    assert 150 == len(set(system.ties("B")["c1_conv.weight"].slots))
    assert ["f6", "c5", "s4", "c3", "s2", "c1"] == [block.name for block in system.states]
    rows, columns = A.nonzero()
    assert (rows < columns).all()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("standalone", [False, True])
def test_the_generated_file_is_as_reviewed(
    path: Path, standalone: bool, golden: Callable[[Path, str], None]
) -> None:
    text = compile(read_source(str(path), path.name), standalone=standalone)

    assert provenance(text) is Provenance.OURS
    if "Equilibrium(" in text.partition(MARKER)[0] and standalone:
        text = without_runtime(text)
    golden(ROOT / "tests" / "golden" / f"{path.stem}{'_standalone' if standalone else ''}.py.txt", text)


def without_runtime(text: str) -> str:
    """The models alone: the solvers that follow, and what these import, have tests of their own."""
    text = re.sub("# Contents: sha256 .*\n", "", text.partition(MARKER)[0])
    return re.sub(r"(?<=annotations\n).*(?=\n__all__)", "", text, flags=re.DOTALL)


def test_generated_files_are_formatted_linted_and_typed(tmp_path: Path) -> None:
    import subprocess
    import sys

    for path in EXAMPLES:
        for standalone in (False, True):
            text = compile(read_source(str(path), path.name), standalone=standalone)
            (tmp_path / f"{path.stem}_{standalone}.py").write_text(text, encoding="utf-8")
    ruff = [sys.executable, "-m", "ruff"]
    width = ["--isolated", "--line-length", "110"]
    subprocess.run([*ruff, "format", "--check", *width, str(tmp_path)], check=True)
    subprocess.run(
        [*ruff, "check", "--select", "F,W,B,UP,RET,SIM,PIE", "--ignore", "B905", *width, str(tmp_path)],
        check=True,
    )
    typed = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--cache-dir",
        str(tmp_path / "c"),
    ]
    subprocess.run([*typed, *map(str, tmp_path.glob("*.py"))], check=True, cwd=ROOT)
