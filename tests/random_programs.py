"""Random well-shaped programs, each with a twin written in PyTorch by other means.

The twin shares nothing with the compiler: every statement that is drawn appends a line of
`.impl` and a Python closure on `torch.nn` layers of the same names, so that one state_dict
fits both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

Shape = tuple[int, ...]
Values = dict[str, Tensor]
Step = Callable[["Twin", Values], Tensor]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
    "silu": lambda x: x * torch.sigmoid(x),
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "elu": lambda x: torch.where(x > 0, x, torch.expm1(x)),
    "hardtanh": F.hardtanh,
    "softsign": lambda x: x / (1 + x.abs()),
    "abs": lambda x: torch.where(x < 0, -x, x),
    "relu6": lambda x: F.relu(x) - F.relu(x - 6),
    "hardswish": lambda x: x * F.hardtanh(x / 6 + 0.5, 0, 1),
    "mish": lambda x: x * torch.tanh(torch.logaddexp(x, torch.zeros_like(x))),
    "selu": lambda x: 1.0507009873554805 * F.elu(x, 1.6732632423543772),
    "identity": lambda x: x,
}


class Twin(nn.Module):
    """Runs the closures of a program in order and gives its outputs."""

    def __init__(self, program: RandomProgram) -> None:
        super().__init__()
        self.steps, self.outputs, self.inputs = program.steps, program.outputs, list(program.inputs)
        for name, make in program.layers.items():
            setattr(self, name, make())
        for name, shape in program.parameters.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values: Values = dict(zip(self.inputs, inputs))
        for name, step in self.steps:
            values[name] = step(self, values)
        return tuple(values[name] for name in self.outputs)


@dataclass
class RandomProgram:
    """A program as text, and the pieces of its twin."""

    inputs: dict[str, Shape] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    steps: list[tuple[str, Callable[[Twin, Values], Tensor]]] = field(default_factory=list)
    layers: dict[str, Callable[[], nn.Module]] = field(default_factory=dict)
    applied: dict[str, Shape] = field(default_factory=dict)  # of each layer, what it takes
    parameters: dict[str, Shape] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(["model Random()", *("    " + line for line in self.lines), "end"]) + "\n"

    def fresh(self, letter: str) -> str:
        return f"{letter}{len(self.lines)}"

    def __repr__(self) -> str:
        return self.text


def _show(shape: Shape) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


Made = tuple[str, Shape, Callable[[Twin, Values], Tensor]]  # an expression, its shape, its twin


@st.composite
def programs(draw: st.DrawFn, steps: int = 6) -> RandomProgram:
    """A program with 1 or 2 inputs, a few equations and definitions, and 1 or 2 outputs."""
    program = RandomProgram()
    for name in draw(st.sampled_from([("u",), ("u", "v")])):
        shape = draw(input_shapes())
        program.inputs[name] = program.shapes[name] = shape
        program.lines.append(f"input {name}{_show(shape)}")
    for _ in range(draw(st.integers(1, steps))):
        expression, shape, twin = draw(expressions(program))
        _define(draw, program, expression, shape, twin)
    names = list(program.shapes)
    for _ in range(draw(st.integers(1, 2))):
        source = draw(st.sampled_from(names[-3:]))
        name = program.fresh("y")
        program.lines.append(f"output {name}{_show(program.shapes[source])} = {source}")
        program.steps.append((name, lambda _, values, source=source: values[source]))
        program.outputs.append(name)
    return program


def input_shapes() -> st.SearchStrategy[Shape]:
    """Vectors, signals and images."""
    small = st.integers(1, 3)
    return st.one_of(
        st.tuples(st.integers(1, 6)),
        st.tuples(small, st.integers(3, 8)),
        st.tuples(small, st.integers(4, 8), st.integers(4, 8)),
    )


def _define(
    draw: st.DrawFn,
    program: RandomProgram,
    expression: str,
    shape: Shape,
    twin: Callable[[Twin, Values], Tensor],
) -> None:
    """Enter a value as an equation with or without a declared shape, or as a definition."""
    relation = draw(st.sampled_from(["declared", "~", "="]))
    name = program.fresh("x")
    activation = draw(st.sampled_from(sorted(ACTIVATIONS)))
    phi = ACTIVATIONS[activation]
    if relation == "=" and draw(st.booleans()):
        line, run = f"{name} = {expression}", twin
    else:
        head = {"declared": f"state {name}{_show(shape)} ~", "~": f"{name} ~", "=": f"{name} ="}[relation]
        line = f"{head} {activation}({expression})"

        def run(module: Twin, values: Values) -> Tensor:
            return phi(twin(module, values))

    program.lines.append(line)
    program.shapes[name] = shape
    program.steps.append((name, run))


@st.composite
def expressions(draw: st.DrawFn, program: RandomProgram) -> Made:
    """One operation on values that exist already."""
    source = draw(st.sampled_from(list(program.shapes)))
    shape = program.shapes[source]
    kinds = ["scale", "plus", "dense", "matrix", "flatten", "dropout", "cat", "slice", "offset"]
    if len(shape) > 1:
        kinds += ["conv", "conv", "pool", "global", "tied"]
        kinds += ["upsample", "spread", "mirror", "adaptive", "interpolate"]
    if len(shape) == 2:
        kinds += ["matmul", "attend"]
    kinds += ["norm", "sum", "sum", "product", "product", "weigh", "softmax", "standardise", "expand"]
    kinds += ["maximum", "prelu"]
    return draw(_MAKERS[draw(st.sampled_from(kinds))](program, source, shape))


def _layer(program: RandomProgram, text: str, make: Callable[[], nn.Module], shape: Shape) -> str:
    name = program.fresh("L")
    program.lines.append(f"layer {name} = {text}")
    program.layers[name] = make
    program.applied[name] = shape
    return name


def _apply(draw: st.DrawFn, layer: str, source: str) -> str:
    return draw(st.sampled_from([f"{layer}*{source}", f"{layer}({source})", f"({source} |> {layer})"]))


def _run(layer: str, source: str) -> Callable[[Twin, Values], Tensor]:
    return lambda module, values: getattr(module, layer)(values[source])


@st.composite
def _dense(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    width, bias = draw(st.integers(1, 5)), draw(st.booleans())
    head = f"{shape[-1]} => {width}" if draw(st.booleans()) else str(width)
    text = f"Dense({head}; bias = {str(bias).lower()})"
    name = _layer(program, text, lambda: nn.Linear(shape[-1], width, bias=bias), shape)
    return _apply(draw, name, source), (*shape[:-1], width), _run(name, source)


@st.composite
def _conv(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    axes, channels = len(shape) - 1, shape[0]
    groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
    width = groups * draw(st.integers(1, 3))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    stride, pad = draw(st.integers(1, 2)), draw(st.integers(0, 2))
    fits = all(size + 2 * pad >= 2 * (k - 1) + 1 for size, k in zip(shape[1:], kernel))
    dilation = draw(st.integers(1, 2)) if fits else 1
    bias = draw(st.booleans())
    mode = draw(st.sampled_from(["zeros", "reflect", "circular", "replicate"]))
    if pad >= min(shape[1:]):
        mode = "zeros"
    settings = f'stride = {stride}, pad = {pad}, dilation = {dilation}, groups = {groups}, mode = "{mode}"'
    text = f"Conv({width}, ({', '.join(map(str, kernel))},); {settings}, bias = {str(bias).lower()})"
    sizes = tuple((s + 2 * pad - dilation * (k - 1) - 1) // stride + 1 for s, k in zip(shape[1:], kernel))
    if min(sizes) < 1:
        return draw(_dense(program, source, shape))
    kind = {1: nn.Conv1d, 2: nn.Conv2d}[axes]
    name = _layer(
        program,
        text,
        lambda: kind(channels, width, kernel, stride, pad, dilation, groups, bias, mode),  # type: ignore[arg-type]
        shape,
    )
    return _apply(draw, name, source), (width, *sizes), _run(name, source)


@st.composite
def _spread(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A transposed convolution."""
    axes, channels = len(shape) - 1, shape[0]
    groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
    width, kernel = groups * draw(st.integers(1, 2)), draw(st.integers(1, 3))
    stride, pad = draw(st.integers(1, 2)), draw(st.integers(0, kernel // 2))
    more = draw(st.integers(0, stride - 1))
    sizes = tuple((size - 1) * stride - 2 * pad + kernel + more for size in shape[1:])
    if min(sizes) < 1 or torch.Size(sizes).numel() > 200:
        return draw(_dense(program, source, shape))
    bias = draw(st.booleans())
    settings = f"stride = {stride}, pad = {pad}, output_pad = {more}, groups = {groups}"
    text = f"ConvTranspose({width}, {kernel}; {settings}, bias = {str(bias).lower()})"
    kind = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}[axes]
    name = _layer(
        program, text, lambda: kind(channels, width, kernel, stride, pad, more, groups, bias), shape
    )
    return _apply(draw, name, source), (width, *sizes), _run(name, source)


@st.composite
def _mirror(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A convolution and its transpose, tied."""
    axes, channels = len(shape) - 1, shape[0]
    kernel, stride, width = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    pad = draw(st.integers(0, 1))
    if min(shape[1:]) + 2 * pad < kernel:
        return draw(_dense(program, source, shape))
    text = f"Conv({width}, {kernel}; stride = {stride}, pad = {pad})"
    kind = {1: nn.Conv1d, 2: nn.Conv2d}[axes]
    name = _layer(program, text, lambda: kind(channels, width, kernel, stride, pad), shape)

    def run(module: Twin, values: Values) -> Tensor:
        layer, x = getattr(module, name), values[source]
        point = torch.zeros_like(x, requires_grad=True)
        with torch.enable_grad():
            made = layer(point)
            return torch.autograd.grad(made, point, torch.tanh(layer(x)), create_graph=True)[0]

    return f"({name}' * tanh({name}*{source}))", shape, run


@st.composite
def _tied(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A layer that is there already, on another value of the same shape."""
    fitting = [name for name, taken in program.applied.items() if taken == shape]
    if not fitting:
        return draw(_conv(program, source, shape))
    name = draw(st.sampled_from(fitting))
    with torch.no_grad():
        given = program.layers[name]().eval()(torch.zeros(1, *shape))
    return f"{name}({source})", tuple(given.shape[1:]), _run(name, source)


@st.composite
def _pool(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    kernel, pad = draw(st.integers(1, 3)), draw(st.integers(0, 1))
    pad = min(pad, kernel // 2)
    stride = draw(st.integers(1, 3))
    kernel = min(kernel, min(shape[1:]))
    pad = min(pad, kernel // 2)
    sizes = tuple((s + 2 * pad - kernel) // stride + 1 for s in shape[1:])
    maximum = draw(st.booleans())
    text = f"{'Max' if maximum else 'Avg'}Pool({kernel}; stride = {stride}, pad = {pad})"
    functions = {
        (1, True): F.max_pool1d,
        (2, True): F.max_pool2d,
        (1, False): F.avg_pool1d,
        (2, False): F.avg_pool2d,
    }
    pool = functions[len(shape) - 1, maximum]
    applied = f"{text}({source})" if maximum else f"{text} * {source}"
    return applied, (shape[0], *sizes), lambda _, values: pool(values[source], kernel, stride, pad)


@st.composite
def _halving(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    """What a fused path may replace: max-pooling of a relu, by two."""
    if len(shape) != 3 or any(size % 2 for size in shape[1:]):
        return draw(_pool(program, source, shape))
    first = draw(st.booleans())
    text = f"MaxPool(2)(relu({source}))" if first else f"relu(MaxPool(2)({source}))"
    sizes = tuple(size // 2 for size in shape[1:])
    return text, (shape[0], *sizes), lambda _, values: F.max_pool2d(F.relu(values[source]), 2)


@st.composite
def _norm(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    affine = draw(st.booleans())
    kind = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d}[len(shape)]
    text = f"BatchNorm(; affine = {str(affine).lower()})"
    name = _layer(program, text, lambda: kind(shape[0], affine=affine), shape)
    return _apply(draw, name, source), shape, _run(name, source)


@st.composite
def _matrix(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    width, transposed = draw(st.integers(1, 4)), draw(st.booleans())
    name = program.fresh("W")
    size = (shape[-1], width) if transposed else (width, shape[-1])
    program.lines.append(f"param {name}{_show(size)} = normal(0.5)")
    program.parameters[name] = size

    def run(module: Twin, values: Values) -> Tensor:
        W = getattr(module, name)
        return values[source] @ (W if transposed else W.T)

    return f"{name}{chr(39) if transposed else ''}*{source}", (*shape[:-1], width), run


@st.composite
def _offset(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    name = program.fresh("b")
    program.lines.append(f"param {name}{_show(shape)} = normal(0.5)")
    program.parameters[name] = shape
    minus = draw(st.booleans())
    sign = -1 if minus else 1
    text = f"({source} {'-' if minus else '+'} {name})"
    return text, shape, lambda module, values: values[source] + sign * getattr(module, name)


@st.composite
def _sum(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    """Two or three values of one shape, one of them perhaps subtracted or scaled."""
    fitting = [name for name, other in program.shapes.items() if other == shape]
    names = [source, *draw(st.lists(st.sampled_from(fitting), min_size=1, max_size=2))]
    factors = [draw(st.sampled_from([1.0, -1.0, 0.5, -2.0])) for _ in names]
    text = " + ".join(f"({factor})*{name}" for factor, name in zip(factors, names))
    return (
        f"({text})",
        shape,
        lambda _, values: sum(f * values[n] for f, n in zip(factors, names)),  # type: ignore[return-value]
    )


@st.composite
def _cat(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    axis = draw(st.integers(0, len(shape) - 1))
    rest = (shape[:axis], shape[axis + 1 :])
    fitting = [
        n for n, s in program.shapes.items() if len(s) == len(shape) and (s[:axis], s[axis + 1 :]) == rest
    ]
    names = [source, *draw(st.lists(st.sampled_from(fitting), min_size=1, max_size=2))]
    total = sum(program.shapes[name][axis] for name in names)
    text = f"cat({', '.join(names)}; dim = {axis + 1})"
    return (
        text,
        (*rest[0], total, *rest[1]),
        lambda _, values: torch.cat([values[name] for name in names], axis + 1),
    )


@st.composite
def _slice(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    pieces: list[str] = []
    index: list[slice | int] = [slice(None)]
    for number, size in enumerate(shape):
        kind = draw(st.sampled_from(["whole", "range", "one"]))
        if kind == "one" and (number or len(shape) > 1) and len(shape) > 1 and number < len(shape) - 1:
            at = draw(st.integers(1, size))
            pieces.append(str(at))
            index.append(at - 1)
        elif kind == "whole":
            pieces.append(":")
            index.append(slice(None))
        else:
            low = draw(st.integers(1, size))
            high = draw(st.integers(low, size))
            step = draw(st.integers(1, 2))
            pieces.append(f"{low}:{high}" if step == 1 else f"{low}:{step}:{high}")
            index.append(slice(low - 1, high, step))
    sample = torch.zeros(1, *shape)[tuple(index)]
    return (
        f"{source}[{', '.join(pieces)}]",
        tuple(sample.shape[1:]),
        lambda _, values: values[source][tuple(index)],
    )


def _dropout(program: RandomProgram, source: str, shape: Shape) -> st.SearchStrategy[Made]:
    return st.just((f"Dropout(0.25) * {source}", shape, lambda _, values: values[source]))


@st.composite
def _flatten(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    total = torch.Size(shape).numel()
    if total % 2 or draw(st.booleans()):
        return f"flatten({source})", (total,), lambda _, values: values[source].flatten(1)
    return (
        f"reshape({source}, 2, {total // 2})",
        (2, total // 2),
        lambda _, values: values[source].reshape(-1, 2, total // 2),
    )


@st.composite
def _scale(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    factor = draw(st.sampled_from([0.5, -1.5, 2.0]))
    text, value = draw(
        st.sampled_from([(f"{factor}*{source}", factor), (f"-{source}", -1.0), (f"{source} / 4", 0.25)])
    )
    return text, shape, lambda _, values: value * values[source]


@st.composite
def _plus(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    number = draw(st.sampled_from([1.0, -0.5, 2.0]))
    if draw(st.booleans()):
        return f"({number} - {source})", shape, lambda _, values: number - values[source]
    return f"({source} + {number})", shape, lambda _, values: values[source] + number


def _global(program: RandomProgram, source: str, shape: Shape) -> st.SearchStrategy[Made]:
    return st.sampled_from(
        [
            (f"GlobalAvgPool() * {source}", shape[:1], lambda _, values: values[source].flatten(2).mean(2)),
            (f"GlobalMaxPool()({source})", shape[:1], lambda _, values: values[source].flatten(2).amax(2)),
        ]
    )


@st.composite
def _product(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A gate: one factor is bounded, so that numbers stay small."""
    other = draw(st.sampled_from([name for name, size in program.shapes.items() if size == shape]))
    dot = draw(st.sampled_from([".*", "⊙"]))
    if draw(st.booleans()):
        text, gate = f"(σ({source}) {dot} {other})", torch.sigmoid
    else:
        text, gate = f"({other} {dot} tanh({source}))", torch.tanh
    return text, shape, lambda _, values: gate(values[source]) * values[other]


@st.composite
def _weigh(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    name = program.fresh("w")
    program.lines.append(f"param {name}{_show(shape)} = normal(0.5)")
    program.parameters[name] = shape
    text = draw(st.sampled_from([f"{name} .* {source}", f"{source} .* {name}"]))
    return text, shape, lambda module, values: values[source] * getattr(module, name)


@st.composite
def _matmul(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    """A product with another value, or with a `param` as one."""
    fitting = [name for name, size in program.shapes.items() if len(size) == 2 and size[0] == shape[1]]
    if fitting and draw(st.booleans()):
        other = draw(st.sampled_from(fitting))
        target = (shape[0], program.shapes[other][1])
        return (
            f"matmul(tanh({source}), {other})",
            target,
            lambda _, values: torch.einsum("bij,bjk->bik", torch.tanh(values[source]), values[other]),
        )
    name, width = program.fresh("P"), draw(st.integers(1, 3))
    program.lines.append(f"param {name}{_show((shape[1], width))} = normal(0.5)")
    program.parameters[name] = (shape[1], width)
    return (
        f"matmul({source}, {name})",
        (shape[0], width),
        lambda module, values: torch.einsum("bij,jk->bik", values[source], getattr(module, name)),
    )


@st.composite
def _attend(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    """Attention of a value to others as wide, written as sums over the heads."""
    wide = [name for name, size in program.shapes.items() if len(size) == 2 and size[1] == shape[1]]
    keys = draw(st.sampled_from(wide))
    values_ = draw(st.sampled_from([n for n in wide if program.shapes[n] == program.shapes[keys]]))
    heads = draw(st.sampled_from([h for h in (1, 2, 3) if shape[1] % h == 0]))
    causal = program.shapes[keys][0] == shape[0] and draw(st.booleans())
    width = shape[1] // heads
    text = f"attend({source}, {keys}, {values_}; heads = {heads}, causal = {str(causal).lower()}"
    mask = draw(
        st.sampled_from(["", *(n for n, s in program.shapes.items() if s == program.shapes[keys][:1])])
    )
    text += f", mask = max({mask}, 0))" if mask else ")"

    def run(module: Twin, values: Values) -> Tensor:
        made = []
        for head in range(heads):
            q, k, v = (values[n][..., head * width : (head + 1) * width] for n in (source, keys, values_))
            scores = torch.einsum("btd,bsd->bts", q, k) / width**0.5
            if causal:
                scores = scores + torch.full((shape[0], shape[0]), -torch.inf).triu(1)
            if mask:
                scores = scores.masked_fill((values[mask] <= 0)[:, None, :], -torch.inf)
            weights = torch.softmax(scores, -1).nan_to_num()  # zeros where no key is left
            made.append(torch.einsum("bts,bse->bte", weights, v))
        return torch.cat(made, -1)

    return text, shape, run


@st.composite
def _standardise(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    """The normalisations of one sample."""
    affine, eps = draw(st.booleans()), draw(st.sampled_from([0.1, 0.5]))
    settings = f"eps = {eps}, affine = {str(affine).lower()}"
    groups = [g for g in (1, 2, 3) if shape[0] % g == 0 and torch.Size(shape).numel() > g]
    kinds = ["group"] * bool(groups) + ["layer"] * (shape[-1] > 1) + ["rms"]
    kind = draw(st.sampled_from(kinds))
    if kind == "group":
        count = draw(st.sampled_from(groups))
        name = _layer(
            program,
            f"GroupNorm({count}; {settings})",
            lambda: nn.GroupNorm(count, shape[0], eps, affine),
            shape,
        )
    elif kind == "layer":
        name = _layer(program, f"LayerNorm({settings})", lambda: nn.LayerNorm(shape[-1], eps, affine), shape)
    else:
        name = _layer(program, f"RMSNorm({settings})", lambda: nn.RMSNorm(shape[-1], eps, affine), shape)
    applied = draw(st.sampled_from([f"{name}({source})", f"({source} |> {name})"]))
    return applied, shape, _run(name, source)


@st.composite
def _softmax(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    dim = draw(st.integers(1, len(shape)))
    setting = f"; dim = {dim}" if dim < len(shape) or draw(st.booleans()) else ""

    def logarithm(_: Twin, values: Values) -> Tensor:
        return values[source] - values[source].logsumexp(dim, keepdim=True)

    if draw(st.booleans()):
        return f"log_softmax({source}{setting})", shape, logarithm
    return f"softmax({source}{setting})", shape, lambda _, values: logarithm(_, values).exp()


@st.composite
def _maximum(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    """The larger or smaller of two values, of a value and a number, or of neighbouring channels."""
    kind = draw(st.sampled_from(["values", "number", "maxout"]))
    if kind == "maxout" and shape[0] % 2 == 0:
        return (
            f"maxout({source})",
            (shape[0] // 2, *shape[1:]),
            lambda _, values: torch.maximum(values[source][:, ::2], values[source][:, 1::2]),
        )
    if kind == "number":
        return f"max({source}, 0.5)", shape, lambda _, values: values[source].clamp(min=0.5)
    other = draw(st.sampled_from([name for name, size in program.shapes.items() if size == shape]))
    return (
        f"min({source}, {other})",
        shape,
        lambda _, values: torch.where(values[source] < values[other], values[source], values[other]),
    )


@st.composite
def _prelu(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    each = draw(st.booleans())
    text = f"PReLU(; per_channel = {str(each).lower()})"
    name = _layer(program, text, lambda: nn.PReLU(shape[0] if each else 1), shape)
    return f"{name}({source})", shape, _run(name, source)


@st.composite
def _upsample(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    factor = tuple(draw(st.integers(1, 3)) for _ in shape[1:])
    sizes = tuple(size * times for size, times in zip(shape[1:], factor))
    if torch.Size(sizes).numel() > 200:
        return draw(_global(program, source, shape))

    def run(module: Twin, values: Values) -> Tensor:
        x = values[source]
        for axis, times in enumerate(factor, 2):
            x = x.repeat_interleave(times, axis)
        return x

    return f"Upsample([{', '.join(map(str, factor))}]) * {source}", (shape[0], *sizes), run


@st.composite
def _interpolate(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    """Linear interpolation along each axis: the cells on both sides of a place, by their distances."""
    times, corners = draw(st.integers(1, 3)), draw(st.booleans())
    sizes = tuple(size * times for size in shape[1:])
    if torch.Size(sizes).numel() > 200:
        return draw(_global(program, source, shape))

    def run(module: Twin, values: Values) -> Tensor:
        x = values[source]
        for axis, (size, wanted) in enumerate(zip(shape[1:], sizes), 2):
            places = torch.arange(wanted, dtype=torch.float64)
            if corners:
                places = places * (size - 1) / max(1, wanted - 1)
            else:
                places = ((places + 0.5) / times - 0.5).clamp(0)
            cells = torch.arange(size, dtype=torch.float64)
            weights = (1 - (places.clamp(max=size - 1)[:, None] - cells).abs()).clamp(0).to(x)
            x = torch.tensordot(x, weights, ([axis], [1])).movedim(-1, axis)
        return x

    mode = draw(st.sampled_from(["linear", ("linear", "bilinear")[len(shape) - 2]]))
    text = f'Upsample({times}; mode = "{mode}", align_corners = {str(corners).lower()}) * {source}'
    return text, (shape[0], *sizes), run


@st.composite
def _adaptive(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    """Pooling to a size, window by window."""
    sizes = tuple(draw(st.integers(1, 4)) for _ in shape[1:])
    maximum = draw(st.booleans())

    def run(module: Twin, values: Values) -> Tensor:
        x = values[source]
        for axis, (size, wanted) in enumerate(zip(shape[1:], sizes), 2):
            parts = []
            for i in range(wanted):
                first, after = math.floor(i * size / wanted), math.ceil((i + 1) * size / wanted)
                part = x.narrow(axis, first, after - first)
                parts.append(part.amax(axis) if maximum else part.mean(axis))
            x = torch.stack(parts, axis)
        return x

    text = f"Adaptive{'Max' if maximum else 'Avg'}Pool([{', '.join(map(str, sizes))}])"
    return f"{text}({source})", (shape[0], *sizes), run


@st.composite
def _expand(draw: st.DrawFn, program: RandomProgram, source: str, shape: Shape) -> Made:
    longer = [name for name, size in program.shapes.items() if size[: len(shape)] == shape]
    like = draw(st.sampled_from(longer))
    behind = program.shapes[like][len(shape) :]
    return (
        f"expand({source}, {like})",
        (*shape, *behind),
        lambda _, values: values[source].reshape(-1, *shape, *[1] * len(behind)).expand(-1, *shape, *behind),
    )


_MAKERS = {
    "product": _product,
    "weigh": _weigh,
    "matmul": _matmul,
    "attend": _attend,
    "standardise": _standardise,
    "softmax": _softmax,
    "maximum": _maximum,
    "prelu": _prelu,
    "upsample": _upsample,
    "interpolate": _interpolate,
    "adaptive": _adaptive,
    "expand": _expand,
    "dense": _dense,
    "conv": _conv,
    "spread": _spread,
    "mirror": _mirror,
    "tied": _tied,
    "pool": lambda *given: st.one_of(_pool(*given), _halving(*given)),
    "norm": _norm,
    "matrix": _matrix,
    "offset": _offset,
    "sum": _sum,
    "cat": _cat,
    "slice": _slice,
    "dropout": _dropout,
    "flatten": _flatten,
    "scale": _scale,
    "plus": _plus,
    "global": _global,
}
