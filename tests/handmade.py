"""Implicit models written by hand, each beside the PyTorch module that it describes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from implicit_dsl.model import Block, ImplicitModel, Tensor, Term
from implicit_dsl.operators import OPERATORS
from implicit_dsl.operators.base import Operator
from implicit_dsl.runtime import System
from implicit_dsl.shapes import Shape, sizes


def op(kind: str, source: Shape, held: str = "", **settings: Any) -> Operator:
    """An operator on a shape; its tensors are called `held`.role."""
    rule = OPERATORS[kind]
    made = rule.operator(settings, source)
    return replace(made, parameters=tuple((s.role, f"{held}.{s.role}") for s in rule.parameters(made)))


def conv(source: Shape, held: str, width: int, kernel: int, **settings: Any) -> Operator:
    plain = {"stride": 1, "pad": 0, "dilation": 1, "groups": 1, "bias": True, "mode": "zeros"}
    return op("conv", source, held, width=(None, width), kernel=kernel, **(plain | settings))


def dense(source: Shape, held: str, width: int) -> Operator:
    return op("dense", source, held, width=(None, width), bias=True)


def matrix(source: Shape, id: str, shape: Shape, transposed: bool = False) -> Operator:
    made = OPERATORS["matrix"].operator({"shape": shape, "transposed": transposed, "name": id}, source)
    return replace(made, parameters=(("weight", id),))


def offset(id: str, shape: Shape) -> Operator:
    return replace(OPERATORS["offset"].operator({"shape": shape}, ()), parameters=(("weight", id),))


def state(name: str, shape: Shape, phi: str = "") -> Block:
    return Block(name, shape, OPERATORS[phi].operator({}, shape) if phi else None)


def model(
    name: str,
    inputs: tuple[Block, ...],
    states: tuple[Block, ...],
    outputs: tuple[Block, ...],
    terms: tuple[Term, ...],
    module: nn.Module,
) -> ImplicitModel:
    """The model with the tensors of its module."""
    trained = dict(module.named_parameters())
    held = {id: tensor for id, tensor in module.state_dict().items() if tensor.ndim}  # no counters
    tensors = tuple(Tensor(id, tuple(tensor.shape), id in trained) for id, tensor in held.items())
    return ImplicitModel(name, None, (), inputs, states, outputs, terms, tensors, ())


class LeNetModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c3 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.c5, self.f6, self.y = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        s2 = F.avg_pool2d(torch.tanh(self.c1(u)), 2)
        s4 = F.avg_pool2d(torch.tanh(self.c3(s2)), 2)
        y: torch.Tensor = self.y(torch.tanh(self.f6(torch.tanh(self.c5(s4.flatten(1))))))
        return y


def lenet() -> tuple[ImplicitModel, nn.Module]:
    """LeNet-5: 61 706 parameters, 8084 states."""
    module = LeNetModule()
    pool: dict[str, Any] = {"kernel": 2, "stride": None, "pad": 0}
    states = (
        state("c1", (6, 28, 28), "tanh"),
        state("s2", (6, 14, 14)),
        state("c3", (16, 10, 10), "tanh"),
        state("s4", (16, 5, 5)),
        state("c5", (120,), "tanh"),
        state("f6", (84,), "tanh"),
    )
    terms = (
        Term("c1", "u", (conv((1, 32, 32), "c1", 6, 5),)),
        Term("s2", "c1", (op("avg_pool", (6, 28, 28), **pool),)),
        Term("c3", "s2", (conv((6, 14, 14), "c3", 16, 5),)),
        Term("s4", "c3", (op("avg_pool", (16, 10, 10), **pool),)),
        Term("c5", "s4", (op("reshape", (16, 5, 5), shape=None), dense((400,), "c5", 120))),
        Term("f6", "c5", (dense((120,), "f6", 84),)),
        Term("y", "f6", (dense((84,), "y", 10),)),
    )
    return model("LeNet5", (Block("u", (1, 32, 32)),), states, (Block("y", (10,)),), terms, module), module


class MixedModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(2, 4, 3, padding=1, groups=2)
        self.n = nn.BatchNorm2d(4)
        self.K = nn.Conv2d(4, 4, 3, padding=1)
        self.q = nn.Linear(3, 2)
        self.W = nn.Parameter(torch.randn(5, 18))
        self.V = nn.Parameter(torch.randn(5, 4))
        self.o = nn.Parameter(torch.randn(5))

    def forward(self, u: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        c = F.relu(self.c(u))
        n = torch.tanh(self.n(c))
        p = F.max_pool2d(n + self.K(n), 2)
        h = torch.sigmoid(F.linear(p.flatten(1)[:, 0:35:2], self.W) + F.linear(v, self.V) + self.o)
        g = F.gelu(F.linear(h, self.V.mT) + 0.5 * v - 0.25)
        y = torch.cat([g, v[:, 1:4]], 1) + 1.5
        return y, -2 * self.q(h[:, 1:4])


def mixed() -> tuple[ImplicitModel, nn.Module]:
    """One of each: parallel terms (z + K*z), a tie (V and V'), slices, a concatenation, max-pooling,
    batch normalisation, offsets, an input that is read by an output, two inputs and two outputs.
    """
    module = MixedModule()
    image, pooled = (4, 6, 6), (4, 3, 3)
    states = (
        state("c", image, "relu"),
        state("n", image, "tanh"),
        Block("p", pooled, OPERATORS["max_pool"].operator({"kernel": 2, "stride": None, "pad": 0}, image)),
        state("h", (5,), "sigmoid"),
        state("g", (4,), "gelu"),
    )
    flat, even = op("reshape", pooled, shape=None), op("select", (36,), slices=((0, 2, 18),))
    some = op("select", (4,), slices=((1, 1, 3),))
    inner = op("select", (5,), slices=((1, 1, 3),))
    terms = (
        Term("c", "u", (conv((2, 6, 6), "c", 4, 3, pad=1, groups=2),)),
        Term("n", "c", (op("batch_norm", image, "n", eps=1e-5, momentum=0.1, affine=True),)),
        Term("p", "n", ()),
        Term("p", "n", (conv(image, "K", 4, 3, pad=1),)),
        Term("h", "p", (flat, even, matrix((18,), "W", (5, 18)))),
        Term("h", "v", (matrix((4,), "V", (5, 4)),)),
        Term("h", None, (offset("o", (5,)),)),
        Term("g", "h", (matrix((5,), "V", (5, 4), transposed=True),)),
        Term("g", "v", (op("scale", (4,), factor=0.5),)),
        Term("g", None, (op("constant", (), shape=(4,), value=-0.25),)),
        Term("y", "g", (op("place", (4,), axis=0, start=0, total=7),)),
        Term("y", "v", (some, op("place", (3,), axis=0, start=4, total=7))),
        Term("y", None, (op("constant", (), shape=(7,), value=1.5),)),
        Term("q", "h", (inner, dense((3,), "q", 2), op("scale", (2,), factor=-2.0))),
    )
    inputs, outputs = (Block("u", (2, 6, 6)), Block("v", (4,))), (Block("y", (7,)), Block("q", (2,)))
    return model("Mixed", inputs, states, outputs, terms, module), module


def perturbed(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64 and evaluation mode, with random tensors (variances positive)."""
    random = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for id, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.normal_(0, 0.3, generator=random)
                if id.endswith("running_var"):
                    tensor.abs_().add_(0.5)
    return module


def made(
    build: Callable[[], tuple[ImplicitModel, nn.Module]] = mixed, **options: Any
) -> tuple[System, nn.Module]:
    """The system of one of these models with random weights, and the module."""
    described, module = build()
    module = perturbed(module)
    return System.of(module, described.as_data(), **options), module


def inputs_of(system: System, batch: int = 3) -> tuple[torch.Tensor, ...]:
    """Random inputs [batch, *shape]."""
    random = torch.Generator().manual_seed(1)
    return tuple(
        torch.randn(batch, *sizes(block.shape), generator=random, dtype=torch.float64)
        for block in system.inputs
    )
