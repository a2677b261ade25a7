"""Where a faster path computes the same: chosen from the structure, tested against the plain path."""

from __future__ import annotations

from dataclasses import dataclass

from implicit_dsl.model import Block, ImplicitModel, Term
from implicit_dsl.operators import activation_rule
from implicit_dsl.operators.base import Operator
from implicit_dsl.shapes import count

# A convolution with fewer output channels than this leaves the vector units half empty, and one
# with kernels this large loses little when they grow by a row and a column.
_FEW_CHANNELS, _LARGE_KERNEL = 8, 5


@dataclass(frozen=True, slots=True)
class Fusion:
    """A state computed by the runtime, from the pre-activation of `start`.

    `function` takes that pre-activation; if it is empty, the layer of the convolution does it
    all. The states in `absorbed` are read by nothing else and get no line of their own.
    """

    function: str
    start: str
    absorbed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fusions:
    """The fused states by name, and the classes of the runtime that hold layers, by layer."""

    states: dict[str, Fusion]
    classes: dict[str, str]


def find_fusions(model: ImplicitModel) -> Fusions:
    """Relu and max-pooling by two, in either order, and convolutions with few channels."""
    looped = {name for loop in model.loops for name in loop.states}
    states = {
        name: fusion for name, fusion in _pooled(model).items() if not {name, *fusion.absorbed} & looped
    }
    classes = {held.name: "SingleChannelConv2d" for held in model.holders if _single_channel(held.operator)}
    uses: dict[str, int] = {}
    for term in model.terms:
        for operator in term.chain:
            for name in {id.split(".")[0] for _, id in operator.parameters}:
                uses[name] = uses.get(name, 0) + 1
    for name, fusion in states.items():
        terms = model.terms_of[fusion.start]
        if len(terms) != 1 or not terms[0].chain or not _few_and_large(terms[0].chain[-1]):
            continue
        layer = terms[0].chain[-1].parameters[0][1].split(".")[0]
        if uses[layer] == 1:
            states[name] = Fusion("", fusion.start, fusion.absorbed)
            classes[layer] = "ConvReluMaxPool2d"
    return Fusions(states, classes)


def layered(model: ImplicitModel) -> frozenset[str]:
    """The activations that only their own parameters read, as in normalisations: their layer does both."""
    readers: dict[str | None, list[Term]] = {}
    for term in model.terms:
        readers.setdefault(term.source, []).append(term)
    iterated = {name for loop in model.loops for name in loop.iterated}
    found = set()
    for block in model.states:
        phi, reading = block.activation, readers.get(block.name, [])
        affine = None if phi is None else activation_rule(phi).affine(phi)
        if affine is None or block.name in iterated:
            continue
        if len(reading) == 1 and reading[0].chain and reading[0].chain[0].kind == affine.kind:
            found.add(block.name)
    return frozenset(found)


def _pooled(model: ImplicitModel) -> dict[str, Fusion]:
    """By the state that is computed. relu and max commute: either may come first."""
    readers: dict[str, list[str]] = {}
    for term in model.terms:
        if term.source is not None:
            readers.setdefault(term.source, []).append(term.target)
    found: dict[str, Fusion] = {}
    for block in model.states:
        terms = model.terms_of[block.name]
        if len(terms) != 1 or terms[0].chain or terms[0].source is None:
            continue
        before = model.blocks[terms[0].source]
        kinds = {block.phi, before.phi}
        if kinds != {"relu", "max_pool"} or readers[before.name] != [block.name]:
            continue
        if before.name in found or not _halves(block if block.phi == "max_pool" else before):
            continue
        found[block.name] = Fusion("relu_max_pool2d", before.name, (before.name,))
    return found


def _halves(block: Block) -> bool:
    """Whether max-pooling halves two even axes."""
    pool = block.activation
    assert pool is not None
    even = all(isinstance(size, int) and size % 2 == 0 for size in pool.source[1:])
    return even and pool["kernel"] == pool["stride"] == (2, 2) and pool["pad"] == (0, 0)


def _single_channel(operator: Operator) -> bool:
    """Whether a layer is a convolution of images with one channel."""
    image = operator.kind == "conv" and len(operator.source) == 3 and operator.source[0] == 1
    return image and bool(operator["dilation"] == (1, 1)) and _pads_evenly(operator)


def _pads_evenly(operator: Operator) -> bool:
    """Whether a convolution pads with zeros, as many on both sides."""
    return operator.get("mode", "zeros") == "zeros" and operator.get("after", None) is None


def _few_and_large(operator: Operator) -> bool:
    """Whether a convolution of images has few output channels and a large kernel, and is else plain."""
    if operator.kind != "conv" or len(operator.source) != 3 or operator["groups"] != 1:
        return False
    plain = operator["stride"] == operator["dilation"] == (1, 1) and _pads_evenly(operator)
    few = count(operator.target[:1]) <= _FEW_CHANNELS
    return plain and few and min(operator["kernel"]) >= _LARGE_KERNEL


def count_uses(model: ImplicitModel) -> dict[str, int]:
    """How many terms read each input and state."""
    uses = {block.name: 0 for block in (*model.inputs, *model.states)}
    for term in model.terms:
        if term.source is not None:
            uses[term.source] += 1
    return uses
