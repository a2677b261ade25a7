"""Each block of the library against the same block written by hand in PyTorch, weights and all."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import twins_of_std as hand
from test_exactness import assert_close, outputs, randomise
from torch import Tensor, nn

from implicit_dsl import _resources
from implicit_dsl.compiler import check, compile
from implicit_dsl.parse import parse
from implicit_dsl.source import Source
from implicit_dsl.syntax import Template

FILES = tuple(name.removesuffix(".impl") for name in _resources.names("std", ".impl"))


class Case(NamedTuple):
    """A block with arguments, what it is given, and the network by hand."""

    block: str
    inputs: tuple[tuple[int, ...], ...]
    by_hand: Callable[[], nn.Module]
    said: str = ""  # annotations of the model
    masked: bool = False  # whether the last input is a mask


IMAGE, SEQUENCE = (6, 8, 8), (5, 8)
CASES = {
    "Skip": Case("basic.Skip(relu)", ((7,),), lambda: hand.Skip(nn.ReLU())),
    "MLP": Case("basic.MLP([5, 4, 3]; act = tanh)", ((7,),), lambda: hand.MLP(7, [5, 4, 3], nn.Tanh())),
    "MLP of one layer": Case("basic.MLP([5]; bias = false)", ((2, 7),), lambda: hand.MLP(7, [5], bias=False)),
    "GLU": Case("basic.GLU(5; gate = silu)", ((2, 7),), lambda: hand.GLU(7, 5, nn.SiLU())),
    "Highway": Case("basic.Highway(act = tanh)", ((6,),), lambda: hand.Highway(6, nn.Tanh())),
    "ConvNormAct": Case(
        "vision.ConvNormAct(4, 5; stride = 2, groups = 2, act = silu)",
        (IMAGE,),
        lambda: hand.ConvNormAct(6, 4, 5, 2, 2, nn.SiLU()),
    ),
    "Stem": Case("vision.Stem(6 => 5)", ((6, 16, 16),), lambda: hand.Stem(6, 5)),
    "Shortcut": Case("vision.Shortcut(9)", (IMAGE,), lambda: hand.Shortcut(6, 9, 1)),
    "Shortcut that fits": Case("vision.Shortcut(6)", (IMAGE,), lambda: hand.Shortcut(6, 6, 1)),
    "Residual": Case("vision.Residual(9; stride = 2)", (IMAGE,), lambda: hand.Residual(6, 9, 2)),
    "Residual that fits": Case("vision.Residual(6)", (IMAGE,), lambda: hand.Residual(6, 6, 1)),
    "PreActResidual": Case("vision.PreActResidual(9)", (IMAGE,), lambda: hand.PreActResidual(6, 9, 1)),
    "PreActResidual that fits": Case(
        "vision.PreActResidual(6)", (IMAGE,), lambda: hand.PreActResidual(6, 6, 1)
    ),
    "Bottleneck": Case("vision.Bottleneck(4; stride = 2)", (IMAGE,), lambda: hand.Bottleneck(6, 4, 2)),
    "Bottleneck of ResNeXt": Case(
        "vision.Bottleneck(4; groups = 2, base = 32, ratio = 2)",
        (IMAGE,),
        lambda: hand.Bottleneck(6, 4, 1, ratio=2, groups=2, inner=4),
    ),
    "InvertedResidual": Case(
        "vision.InvertedResidual(6; ratio = 2)", (IMAGE,), lambda: hand.InvertedResidual(6, 6, 1, 2)
    ),
    "InvertedResidual that shrinks": Case(
        "vision.InvertedResidual(5; ratio = 1, stride = 2)",
        (IMAGE,),
        lambda: hand.InvertedResidual(6, 5, 2, 1),
    ),
    "SqueezeExcite": Case("vision.SqueezeExcite(3)", (IMAGE,), lambda: hand.SqueezeExcite(6, 3)),
    "Inception": Case(
        "vision.Inception(3, [2, 4], [1, 2], 5)", (IMAGE,), lambda: hand.Inception(6, 3, (2, 4), (1, 2), 5)
    ),
    "DenseLayer": Case("vision.DenseLayer(3; bottleneck = 2)", (IMAGE,), lambda: hand.DenseLayer(6, 3, 2)),
    "DenseBlock": Case("vision.DenseBlock(3; growth = 2)", (IMAGE,), lambda: hand.DenseBlock(6, 3, 2)),
    "Transition": Case("vision.Transition(4)", (IMAGE,), lambda: hand.Transition(6, 4)),
    "Fire": Case("vision.Fire(2, 4, 5)", (IMAGE,), lambda: hand.Fire(6, 2, 4, 5)),
    "SelfAttention": Case("attention.SelfAttention(2)", (SEQUENCE,), lambda: hand.Attention(8, 2)),
    "CrossAttention": Case(
        "attention.CrossAttention(2; bias = false)",
        (SEQUENCE, (3, 8)),
        lambda: hand.Attention(8, 2, bias=False),
    ),
    "SelfAttention, masked": Case(
        "attention.SelfAttention(2; masked = true, causal = true)",
        (SEQUENCE, (5,)),
        lambda: hand.Attention(8, 2, causal=True),
        masked=True,
    ),
    "CrossAttention, masked": Case(
        "attention.CrossAttention(2; masked = true)",
        (SEQUENCE, (3, 8), (3,)),
        lambda: hand.Attention(8, 2),
        masked=True,
    ),
    "FeedForward": Case("attention.FeedForward(3)", (SEQUENCE,), lambda: hand.FeedForward(8, 3)),
    "EncoderLayer": Case(
        "attention.EncoderLayer(2)", (SEQUENCE,), lambda: hand.Encoder(1, 8, 2, True, bare=True)
    ),
    "EncoderLayer, causal": Case(
        "attention.EncoderLayer(2; causal = true)",
        (SEQUENCE,),
        lambda: hand.Encoder(1, 8, 2, True, bare=True, causal=True),
    ),
    "TransformerEncoder": Case(
        "attention.TransformerEncoder(2, 2)", (SEQUENCE,), lambda: hand.Encoder(2, 8, 2, True)
    ),
    "TransformerEncoder, post-norm": Case(
        "attention.TransformerEncoder(2, 2; norm_first = false, act = relu)",
        (SEQUENCE,),
        lambda: hand.Encoder(2, 8, 2, False, "relu"),
    ),
    "TransformerEncoder, masked": Case(
        "attention.TransformerEncoder(2, 2; masked = true)",
        (SEQUENCE, (5,)),
        lambda: hand.Encoder(2, 8, 2, True),
        masked=True,
    ),
    "TransformerDecoder, masked": Case(
        "attention.TransformerDecoder(2, 2; masked = true, norm_first = false)",
        (SEQUENCE, (3, 8), (3,)),
        lambda: hand.Decoder(2, 8, 2, False),
        masked=True,
    ),
    "DecoderLayer": Case(
        "attention.DecoderLayer(2)", (SEQUENCE, (3, 8)), lambda: hand.Decoder(1, 8, 2, True, bare=True)
    ),
    "TransformerDecoder": Case(
        "attention.TransformerDecoder(2, 2)", (SEQUENCE, (3, 8)), lambda: hand.Decoder(2, 8, 2, True)
    ),
    "TransformerDecoder, post-norm": Case(
        "attention.TransformerDecoder(2, 2; norm_first = false)",
        (SEQUENCE, (3, 8)),
        lambda: hand.Decoder(2, 8, 2, False),
    ),
    "GPT": Case("attention.GPT(2, 4)", (SEQUENCE,), lambda: hand.Encoder(2, 8, 4, True, causal=True)),
    "Positions": Case("attention.Positions()", (SEQUENCE,), lambda: hand.Positions(5, 8)),
    "DoubleConv": Case("unet.DoubleConv(4)", (IMAGE,), lambda: hand.DoubleConv(6, 4)),
    "Encoder": Case("unet.Encoder(4)", (IMAGE,), lambda: hand.Down(6, 4)),
    "Decoder": Case("unet.Decoder(4)", (IMAGE, (3, 16, 16)), lambda: hand.Up(6, 3, 4)),
    "UNet": Case("unet.UNet(5, 2; width = 3)", ((2, 8, 8),), lambda: hand.UNet(2, 5, 2, 3)),
    "Implicit": Case(
        "deq.Implicit(5; act = tanh, κ = 0.8)", ((6,),), lambda: hand.Implicit(6, 5, torch.tanh)
    ),
    "Monotone": Case("deq.Monotone(5; m = 0.3)", ((6,),), lambda: hand.Monotone(6, 5, 0.3)),
    "ConvImplicit": Case("deq.ConvImplicit(3)", ((2, 6, 5),), lambda: hand.ConvImplicit(2, 3)),
    "ResidualCell": Case(
        "deq.ResidualCell(4; groups = 2)", (IMAGE, IMAGE), lambda: hand.ResidualCell(6, 4, 2)
    ),
}  # fmt: skip
LOOPS = ("Implicit", "Monotone", "ConvImplicit")


def program(case: Case) -> str:
    names = "uvw"[: len(case.inputs)]
    inputs = ", ".join(f"{name}{list(shape)}" for name, shape in zip(names, case.inputs))
    file = case.block.split(".")[0]
    lines = [f"input {inputs}", f"layer b = {case.block}", f"o = b({', '.join(names)})"]
    outputs = "output y = o"
    if case.block.startswith("unet.Encoder"):
        outputs = "output skip = o.skip, down = o.down"
    return f"import std.{file}\nmodel M\n    " + "\n    ".join([*lines, outputs]) + "\nend\n"


def pair(case: Case) -> tuple[nn.Module, nn.Module]:
    """The generated module with random weights, and the one by hand with the same."""
    namespace: dict[str, Callable[..., nn.Module]] = {}
    exec(compile(program(case)), namespace)
    module = namespace["M"](dtype=torch.float64)
    torch.manual_seed(0)
    randomise(module)
    if hasattr(module, "project_"):
        module.project_()
    by_hand = case.by_hand().double()
    held = module.state_dict()
    mine = {key: held.pop(generated(key, held)) for key in by_hand.state_dict()}
    assert not held, f"nothing by hand is like {list(held)}"
    by_hand.load_state_dict(mine)
    return module, by_hand


def generated(key: str, held: dict[str, Tensor]) -> str:
    """What the generated module calls a tensor: `b_conv1.weight`, or `b_A` for one of the block itself."""
    *path, last = key.split(".")
    names = ["_".join(["b", *path]) + f".{last}", "_".join(["b", *path, last])]
    (found,) = [name for name in names if name in held]
    return found


def inputs_of(case: Case) -> list[Tensor]:
    made = [torch.randn(3, *shape, dtype=torch.float64, requires_grad=True) for shape in case.inputs]
    if case.masked:
        steps = torch.arange(made[-1].shape[1])
        made[-1] = (steps < torch.tensor([[1], [2], [len(steps)]])).double()
    return made


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("training", [False, True])
def test_a_block_is_the_one_written_by_hand(name: str, training: bool) -> None:
    case = CASES[name]
    module, by_hand = (network.train(training) for network in pair(case))
    inputs = inputs_of(case)
    twins = [given.detach().clone().requires_grad_(given.requires_grad) for given in inputs]

    actual, expected = outputs(module(*inputs)), outputs(by_hand(*twins))
    assert_close(expected, actual, 1e-8 if name in LOOPS else 1e-10)
    weights = [torch.randn_like(value) for value in expected]
    sum((value * weight).sum() for value, weight in zip(actual, weights)).backward()
    sum((value * weight).sum() for value, weight in zip(expected, weights)).backward()
    mine = {key: value.grad for key, value in module.named_parameters()}
    theirs = {generated(key, mine): value.grad for key, value in by_hand.named_parameters()}
    assert_close(tuple(theirs.values()), tuple(mine[key] for key in theirs), 1e-7)
    moved = [pair for pair in zip(twins, inputs) if pair[0].requires_grad]
    assert_close(tuple(one.grad for one, _ in moved), tuple(other.grad for _, other in moved), 1e-7)
    held = dict(module.named_buffers())
    buffers = tuple(held[generated(key, held)] for key, _ in by_hand.named_buffers())
    assert_close(tuple(by_hand.buffers()), buffers)


@pytest.mark.parametrize("name", CASES)
def test_a_block_is_the_solution_of_its_matrices(name: str) -> None:
    case = CASES[name]
    module, _ = pair(case)
    module.eval()
    inputs = [given[:1].detach() for given in inputs_of(case)]

    assert_close(outputs(module(*inputs)), outputs(module.system().solve(*inputs)), 1e-7)


# --------------------------------------------------------------------------- the library as a whole


def templates(file: str) -> list[Template]:
    text = _resources.read_text("std", f"{file}.impl")
    program, diagnostics = parse(Source(text))
    assert not diagnostics
    return [statement for statement in program.body if isinstance(statement, Template)]


@pytest.mark.parametrize("file", FILES)
def test_every_block_of_the_library_has_a_docstring_and_a_twin(file: str) -> None:
    tested = {case.block.partition("(")[0] for case in CASES.values()}
    for template in templates(file):
        assert template.doc, f"{file}.{template.name.name} has no docstring"
        assert f"{file}.{template.name.name}" in tested


@pytest.mark.parametrize("file", FILES)
def test_the_page_of_the_library_lists_every_block_with_its_parameters(file: str) -> None:
    page = (hand.ROOT / "docs" / "std.md").read_text(encoding="utf-8")
    for template in templates(file):
        assert f"`{signature(template)}`" in page, f"docs/std.md lacks `{signature(template)}`"


def signature(template: Template) -> str:
    """`Residual(width; stride = 1, act = relu)`, as it is written, on one line."""
    text = template.header.text.removeprefix("block ").strip()
    text = re.sub(r"\s+", " ", text).replace("( ", "(").replace(" )", ")").replace(",)", ")")
    return text if "(" in text else f"{text}()"


@pytest.mark.parametrize(
    ("block", "dropped"),
    [
        ("basic.MLP([5, 4, 3]; dropout = 0.1)", 2),
        ("attention.FeedForward(dropout = 0.1)", 1),
        ("attention.EncoderLayer(2; dropout = 0.1)", 3),
        ("attention.TransformerEncoder(2, 2; dropout = 0.1)", 6),
        ("attention.GPT(2, 2; dropout = 0.1)", 6),
        ("attention.GPT(2, 2)", 0),
    ],
)
def test_dropout_stands_where_it_is_asked_for(block: str, dropped: int) -> None:
    (model,) = check(Source(program(Case(block, (SEQUENCE,), nn.Identity)))).models
    operators = [operator for term in model.terms for operator in term.chain]

    assert dropped == sum(operator.kind == "dropout" for operator in operators)
