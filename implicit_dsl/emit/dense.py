"""Loops that are one dense equation x = φ(M x + c): solved by faster code than sweeps."""

from __future__ import annotations

from dataclasses import dataclass

from implicit_dsl.emit.loops import SweepPlan
from implicit_dsl.model import Block, ImplicitModel, Loop, Tensor, Term
from implicit_dsl.operators import linear_rule
from implicit_dsl.operators.base import Expression
from implicit_dsl.shapes import Shape, count

ACTIVATIONS = ("identity", "relu", "leaky_relu", "tanh", "sigmoid")
_LINEAR = ("dense", "matrix", "structured", "scale")


@dataclass(frozen=True, slots=True)
class Product:
    """factor · T₁ T₂ … : parameter ids, transposed or not, the last applied first. None: the identity."""

    factor: float
    tensors: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class DensePlan:
    """M as a sum of products of parameters, the activation, and biases that belong to c."""

    activation: str
    slope: float | None  # of leaky_relu
    products: tuple[Product, ...]
    bias: tuple[str, ...]
    size: int
    diagonals: frozenset[str]  # parameters whose text is that of the diagonal of a matrix

    def matrix(self, explicit: dict[str, str]) -> Expression:
        """M as Python."""
        anchor = next((id for product in self.products for id, _ in product.tensors), None)
        text = ""
        lines: list[str] = []
        for product in self.products:
            factors = []
            for id, turned in product.tensors:
                factor = explicit.get(id, f"self.{id}")
                factor = f"torch.diag({factor})" if id in self.diagonals else factor
                factors.append(factor + (".mT" if turned else ""))
            if not factors:
                assert anchor is not None
                like = explicit.get(anchor, f"self.{anchor}")
                factors = [f"torch.eye({self.size}, dtype={like}.dtype, device={like}.device)"]
            sign = "-" if product.factor < 0 else "+"
            size = abs(product.factor)
            piece = ("" if size == 1 else f"{size!r} * ") + " @ ".join(factors)
            if text:
                text += f" {sign} {piece}"
                lines.append(f"    {sign} {piece}")
            else:
                text = f"-{piece}" if sign == "-" else piece
                lines.append(f"    {text}")
        return Expression(text, tight=False, lines=("(", *lines, ")"))


def dense_plan(model: ImplicitModel, loop: Loop, sweep: SweepPlan) -> DensePlan | None:
    """The dense form of a loop, or None if it is not of that kind."""
    if len(loop.iterated) != 1 or sweep.masks or len(sweep.injections) != 1:
        return None
    block = model.blocks[loop.name]
    if block.phi not in ACTIVATIONS or not block.shape or not isinstance(block.shape[-1], int):
        return None
    if sweep.injections[0].target != block.name:
        return None
    bias: list[str] = []
    products = _products(model, loop, block, bias)
    if products is None or not any(product.tensors for product in products):
        return None
    slope = None
    if block.activation is not None and block.phi == "leaky_relu":
        slope = float(block.activation["slope"])
        if not 0 <= slope <= 1:  # the dense solvers rest on slopes from 0 to 1
            return None
    if not _pays(model, products, block.shape):
        return None
    made = (tensor for tensor in model.tensors if tensor.within is not None)
    diagonals = frozenset(t.id for t in made if t.within and t.within.linear and t.within.linear.is_diagonal)
    return DensePlan(block.phi, slope, tuple(products), tuple(bias), block.shape[-1], diagonals)


def _products(model: ImplicitModel, loop: Loop, block: Block, bias: list[str]) -> list[Product] | None:
    """The ways from the iterated state to itself; None if one is not a product of matrices."""
    inside = set(loop.states)
    forms: dict[str, list[Product]] = {block.name: [Product(1.0, ())]}
    for name in loop.states:
        found: list[Product] = []
        inner = name != block.name
        if inner and model.blocks[name].activation is not None:
            return None
        for term in model.terms_of[name]:
            if term.source not in inside:
                if inner:
                    return None  # what comes in would have to be carried along
                continue
            assert term.source is not None
            own = _chain(term, bias, inner)
            if own is None or len(found) > 16:
                return None
            found += [
                Product(own.factor * before.factor, (*own.tensors, *before.tensors))
                for before in forms[term.source]
            ]
        if inner:
            forms[name] = found
        else:
            return found
    return None


def _chain(term: Term, bias: list[str], inner: bool) -> Product | None:
    factor = 1.0
    tensors: list[tuple[str, bool]] = []
    for operator in term.chain:
        if operator.kind not in _LINEAR:
            return None
        if operator.kind == "scale":
            factor *= float(operator["factor"])
            continue
        weight = operator.parameter("weight")
        assert weight is not None
        tensors.insert(0, (weight, linear_rule(operator).transposed(operator)))
        offset = operator.parameter("bias")
        if offset is not None:
            if inner or factor != 1.0 or operator is not term.chain[-1]:
                return None
            bias.append(offset)
    return Product(factor, tuple(tensors))


def _pays(model: ImplicitModel, products: list[Product], shape: Shape) -> bool:
    """Whether M is not dearer to apply than its factors, such as those of low rank."""
    n = shape[-1]
    assert isinstance(n, int)
    costs = {tensor.id: _cost(tensor) for tensor in model.tensors}
    apart = sum(costs[id] for product in products for id, _ in product.tensors)
    return 2 * apart >= n * n


def _cost(tensor: Tensor) -> int:
    """How many multiplications a matrix takes for one vector."""
    within = tensor.within
    if within is not None and within.linear is not None:
        return within.linear.count if within.linear.is_diagonal else count(within.shape)
    return count(tensor.shape)
