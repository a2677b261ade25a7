"""The terms of blocks as text, and the layers and parameters that they need, with what is left of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from implicit_dsl._lazy import lazy_module
from implicit_dsl.discovery.declaring import Declarations, is_sparse
from implicit_dsl.discovery.keeping import MATRICES, backward, forward, is_separate, mixing
from implicit_dsl.discovery.naming import Naming
from implicit_dsl.discovery.spelling import CannotWrite, applied, atom, body, constructor, sliced
from implicit_dsl.model import Block, Chain, ImplicitModel, Term
from implicit_dsl.operators import activation_rule, linear_rule
from implicit_dsl.operators.adjoints import Adjoint
from implicit_dsl.operators.base import Operator
from implicit_dsl.operators.structured import matrix_of, set_of
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

_AVERAGES = ("avg_pool", "global_avg_pool", "adaptive_avg_pool")
_PLAIN = (*_AVERAGES, "pad", "upsample", "pixel_shuffle", "pixel_unshuffle")


class Terms:
    """What the equations of a model say of the places that are kept, and what these declare."""

    def __init__(
        self,
        model: ImplicitModel,
        weights: Mapping[str, np.ndarray],
        chosen: Mapping[str, np.ndarray],
        naming: Naming,
    ) -> None:
        self._model, self._weights, self._chosen, self._naming = model, weights, chosen, naming
        self._declared = Declarations(naming)
        self._joined = {name: op for name, op in ((b.name, _joined(b, model)) for b in model.states) if op}
        used = {op for term in model.terms for op in term.chain}
        inner = {rule.inner(op) for op in used if isinstance(rule := linear_rule(op), Adjoint)}
        self._transposed = inner & used
        self._layers = {
            op.parameters[0][1]: op
            for term in model.terms
            for op in term.chain
            if op.kind in ("dense", "conv", "embedding") and op.parameters
        }

    @property
    def declarations(self) -> list[str]:
        """The lines of layers and parameters."""
        return self._declared.lines

    @property
    def tensors(self) -> Mapping[str, np.ndarray]:
        """Their weights by key."""
        return self._declared.tensors

    def total(self, block: Block) -> str:
        """The pre-activation of a block, or the value of an output."""
        terms = self._model.terms_of[block.name]
        if terms and all(term.chain and term.chain[-1].kind == "place" for term in terms):
            return self._concatenation(terms)
        written = [text for term in terms for text in self._written(term.source, term.chain, block)]
        shape = list(sizes(block.slots))
        if shape and block.name in self._chosen:
            shape[0] = len(self._chosen[block.name])
        if written and all(_is_number(text) for text in written):
            return self._declared.filled(shape, sum(map(float, written)))
        return _sum(written) if written else self._declared.filled(shape, 0.0)

    def activated(self, block: Block) -> str:
        """The activation of one argument on the pre-activation of a block."""
        value, operator = self.total(block), block.activation
        if operator is None:
            return value
        if operator.kind == "function" and operator["name"] != "function":
            made = self._declared.function(operator["name"], body(operator), operator.get("claimed", None))
            return f"{made}({value})"
        return applied(operator, value)

    def is_joined(self, block: Block) -> bool:
        """Whether a state is written together with what follows it."""
        return block.name in self._joined

    def layer_of(self, block: Block) -> tuple[str, Operator] | None:
        """The layer of an activation with parameters, and what they do behind it."""
        op = self._joined.get(block.name)
        if op is None:
            return None
        assert block.activation is not None
        held = {role: self._weights[id] for role, id in op.parameters}
        return self._declared.layer(op.parameters[0][1], constructor(block.activation), held), op

    def stacked(self, block: Block) -> list[str]:
        """The arguments of an activation of several values."""
        slots: dict[int, list[Term]] = {}
        for term in self._model.terms_of[block.name]:
            if not term.chain or term.chain[-1].kind != "slot":
                raise CannotWrite(f"what `{block.name}` multiplies is not written back")
            slots.setdefault(int(term.chain[-1]["start"]), []).append(term)
        return [self._part(slots[start], block) for start in sorted(slots)]

    def _part(self, terms: Sequence[Term], block: Block | None) -> str:
        """The sum of some terms without their last operators, which put it in its place."""
        parts = [text for term in terms for text in self._written(term.source, term.chain[:-1], block)]
        shape = sizes(terms[0].chain[-1].source)
        if parts and all(_is_number(text) for text in parts):
            return self._declared.filled(shape, sum(map(float, parts)))
        return _sum(parts) if parts else self._declared.filled(shape, 0.0)

    def _concatenation(self, terms: Sequence[Term]) -> str:
        """`cat(a, b; dim = 2)`: parts side by side, which are all whole."""
        axes = {int(term.chain[-1]["axis"]) for term in terms}
        if len(axes) > 1:
            raise CannotWrite("values that are put side by side along several axes are not written back")
        (axis,) = axes
        starts: dict[int, list[Term]] = {}
        for term in terms:
            starts.setdefault(int(term.chain[-1]["start"]), []).append(term)
        covered = 0
        for start in sorted(starts):
            if start != covered:
                raise CannotWrite("a value that has gaps is not written back")
            covered = start + count(starts[start][0].chain[-1].source[axis : axis + 1])
        parts = ", ".join(self._part(starts[start], None) for start in sorted(starts))
        return f"cat({parts}{f'; dim = {axis + 1}' if axis else ''})"

    # ----------------------------------------------------------------------- one chain

    def _written(self, source: str | None, chain: Chain, block: Block | None) -> list[str]:
        """The summands that a chain comes to, none if it is zero."""
        if source is None:
            return self._offset(chain, block)
        if not len(self._chosen[source]):
            return self._constant(chain, block)
        value = self._naming.block(source)
        columns = self._chosen[source]
        at = mixing(chain)
        behind: list[str] = []
        for place, op in enumerate(chain):
            if place == 0 and source in self._joined:  # it is in the value of its block
                columns = forward(op, columns)
            elif place == at:
                rows = self._rows(chain[place + 1 :], block, op)
                made = self._mixed(op, value, columns, rows)
                if made is None:
                    return behind
                value, more = made
                behind += [self._behind(text, chain[place + 1 :], rows) for text in more]
                columns = rows
            else:
                value = self._applied(op, value, columns)
                columns = forward(op, columns)
        return [value, *behind]

    def _constant(self, chain: Chain, block: Block | None) -> list[str]:
        """What a chain adds to a value that is zero: its offsets."""
        if not chain:
            return []
        values = np.zeros((1, count(chain[0].source)))
        for op in chain:
            values = _applied(op, values, self._weights)
        if not values.any():
            return []
        values = values.reshape(sizes(chain[-1].target))
        if block is not None and block.name in self._chosen and values.ndim:
            alike = block.slots == chain[-1].target and block.slots[:1] == block.shape[:1]
            values = values[self._chosen[block.name]] if alike else values
        return [self._declared.further("value", values)]

    def _rows(self, after: Chain, block: Block | None, op: Operator) -> np.ndarray:
        if block is None or block.name not in self._chosen or not op.target:
            return np.arange(count(op.target[:1]))
        rows = self._chosen[block.name]
        whole = len(rows) == (count(block.slots[:1]) if block.slots else 1)
        if whole or not is_separate(block):
            return np.arange(count(op.target[:1]))
        for later in reversed(after):
            rows = backward(later, rows)
        return rows

    def _behind(self, value: str, chain: Chain, rows: np.ndarray) -> str:
        for op in chain:
            value = self._applied(op, value, rows)
            rows = forward(op, rows)
        return value

    def _offset(self, chain: Chain, block: Block | None) -> list[str]:
        op = chain[0]
        if op.kind == "constant":
            rows = self._rows(chain[1:], block, op)
            shape = [len(rows), *sizes(op.target)[1:]] if op.target else []
            made = self._behind(f"{float(op['value'])!r}", chain[1:], rows)
            return [made] if shape else [f"{float(op['value'])!r}"]
        if op.kind != "offset":
            raise CannotWrite(f"`{op.kind}` is not written back")
        rows = self._rows(chain[1:], block, op)
        id = op.parameters[0][1]
        weight = self._weights[id]
        cut = weight[rows] if weight.ndim and weight.ndim == len(op.target) else weight
        if not cut.any():
            return []
        name = self._declared.parameter(id, cut)
        return [self._behind(name, chain[1:], rows)]

    def _applied(self, op: Operator, value: str, places: np.ndarray) -> str:
        """An operator without a matrix of its own on a value that has these places."""
        match op.kind:
            case "scale":
                factor = float(op["factor"])
                return f"-{atom(value)}" if factor == -1 else f"{factor!r}*{atom(value)}"
            case "reshape" if len(op.target) == 1:
                return f"flatten({value})"
            case "reshape":
                shape = [len(forward(op, places)), *sizes(op.target)[1:]]
                return f"reshape({value}, {', '.join(map(str, shape))})"
            case "permute":
                return f"permute({value}, {', '.join(str(axis + 1) for axis in op['axes'])})"
            case "select":
                return sliced(atom(value), op)
            case "dropout" | "number":
                return value  # in evaluation mode; a length as it is
            case "batch_norm":
                return self._normalised(op, value, places)
            case "diagonal":
                return self._scaled(op, value, places)
            case "sum" | "mean" if len(op["axes"]) == len(op.source):
                return f"{op.kind}({value})"
            case "sum" | "mean":
                for axis in sorted(op["axes"], reverse=True):
                    value = f"{op.kind}({value}; dim = {axis + 1})"
                return value
            case "reverse":
                return f"reverse({value}; dim = {op['axis'] + 1})"
            case "expand":
                return f"expand({value}, {self._declared.shaped(sizes(op.target))})"
            case kind if kind in MATRICES:
                return self._whole(op, value)
            case _ if isinstance(rule := linear_rule(op), Adjoint):
                return f"{self._plain(rule.inner(op))}'*{atom(value)}"
            case kind if kind in _PLAIN:
                return f"{self._plain(op)}({value})"
        raise CannotWrite(f"`{op.kind}` is not written back")

    def _plain(self, op: Operator) -> str:
        """A layer without tensors: with a name, where its transpose has to know what it takes."""
        return self._declared.unnamed(op.kind, constructor(op)) if op in self._transposed else constructor(op)

    def _whole(self, op: Operator, value: str) -> str:
        """A matrix behind another one, with all rows and columns."""
        rows, columns = (np.arange(count(shape[:1])) for shape in (op.target, op.source))
        made = self._mixed(op, value, columns, rows)
        return self._declared.filled(sizes(op.target), 0.0) if made is None else _sum([made[0], *made[1]])

    def _normalised(self, op: Operator, value: str, places: np.ndarray) -> str:
        ids = dict(op.parameters)
        held = {role: self._weights[id][places] for role, id in ids.items()}
        held["num_batches_tracked"] = np.asarray(0)
        return f"{self._declared.layer(next(iter(ids.values())), constructor(op), held)}({value})"

    def _scaled(self, op: Operator, value: str, places: np.ndarray) -> str:
        """A factor for each entry, or for each place along an axis."""
        id = op.parameters[0][1]
        weight = self._weights[id]
        cut = weight[places] if op["first"] == 0 and op["axes"] else weight
        if not op["axes"]:
            return f"{self._declared.parameter(id, weight)}*{atom(value)}"
        if op["axes"] == len(op.source):
            return f"{self._declared.parameter(id, cut)} .* {atom(value)}"
        axis = f"; axis = {op['first'] + 1}" if op["first"] else ""
        return f"{self._declared.scaling(id, f'Scale({axis})', cut)}*{atom(value)}"

    def _mixed(
        self, op: Operator, value: str, columns: np.ndarray, rows: np.ndarray
    ) -> tuple[str, list[str]] | None:
        """A matrix or kernel on a value, and further summands; None if it is zero, with no offset."""
        ids = dict(op.parameters)
        shared = self._turned(op, value)
        if shared is not None:
            return shared, []
        if op.kind in ("matrix", "structured"):
            weight = self._weights[ids["weight"]]
            if op.kind == "structured":
                weight = matrix_of(set_of(op), weight)
            transposed = bool(op.get("transposed", False))
            if len(op.source) == 1:
                weight = weight[np.ix_(columns, rows) if transposed else np.ix_(rows, columns)]
            cut = weight
            if not cut.any():
                return None
            return (
                f"{self._declared.matrix(ids['weight'], cut)}{chr(39) if transposed else ''}*{atom(value)}",
                [],
            )
        if op.kind == "dense":
            return self._dense(op, ids, value, columns, rows)
        if op.kind in ("conv", "conv_transpose"):
            weight = self._weights[ids["weight"]]
            places = (rows, columns) if op.kind == "conv" else (columns, rows)
            cut = weight[np.ix_(*places)] if op["groups"] == 1 else weight
            bias = self._weights[ids["bias"]][rows] if "bias" in ids else None
            if not cut.any() and (bias is None or not bias.any()):
                return None
            held = {"weight": cut} | ({"bias": bias} if bias is not None else {})
            name = self._declared.layer(ids["weight"], constructor(op, len(rows), len(columns)), held)
            return f"{name}*{atom(value)}", []
        if op.kind == "lookup":
            weight, turned = self._weights[ids["weight"]], bool(op["by_columns"])
            return (
                f"{self._declared.parameter(ids['weight'], weight)}{'' if turned else chr(39)}*{atom(value)}",
                [],
            )
        if op.kind == "embedding":
            weight = self._weights[ids["weight"]]
            return f"{self._declared.layer(ids['weight'], constructor(op), {'weight': weight})}({value})", []
        raise CannotWrite(f"`{op.kind}` is not written back")

    def _turned(self, op: Operator, value: str) -> str | None:
        """The transpose of a layer whose weight it shares, which is declared with all of it."""
        layer = self._layers.get(op.parameter("weight") or "")
        if layer is None or layer.kind == op.kind:
            return None
        transposed = op.get("transposed", False) != (layer.kind == "embedding")  # whose rows are the tokens
        if not (op.kind == "conv_transpose" or (op.kind == "matrix" and transposed)):
            raise CannotWrite(f"`{op.kind}` with the weight of a `{layer.kind}` is not written back")
        held = {role: self._weights[id] for role, id in layer.parameters}
        return f"{self._declared.layer(layer.parameters[0][1], constructor(layer), held)}'*{atom(value)}"

    def _dense(
        self, op: Operator, ids: Mapping[str, str], value: str, columns: np.ndarray, rows: np.ndarray
    ) -> tuple[str, list[str]] | None:
        weight = self._weights[ids["weight"]]
        cut = weight[np.ix_(rows, columns)] if len(op.source) == 1 else weight
        bias = self._weights[ids["bias"]] if "bias" in ids else None
        if bias is not None and len(op.source) == 1:
            bias = bias[rows]
        sparse = len(op.source) == 1 and is_sparse(cut)
        if not sparse and cut.any():
            held = {"weight": cut} | ({"bias": bias} if bias is not None else {})
            made = constructor(op, cut.shape[0], cut.shape[1])
            return f"{self._declared.layer(ids['weight'], made, held)}*{atom(value)}", []
        offset = []
        if bias is not None and bias.any():
            added = bias if len(op.source) == 1 else np.broadcast_to(bias, sizes(op.target))
            offset = [self._declared.further(f"{self._naming.tensor(ids['weight'])}_bias", added)]
        if not cut.any():
            return (offset[0], []) if offset else None
        return f"{self._declared.matrix(ids['weight'], cut)}*{atom(value)}", offset


def _joined(block: Block, model: ImplicitModel) -> Operator | None:
    """What follows an activation with the parameters of its layer; None if nothing does, or not everywhere.

    Factors and offsets of a normalisation are: they are written as part of it.
    """
    if block.activation is None:
        return None
    behind = activation_rule(block.activation).affine(block.activation)
    first = {term.chain[0] if term.chain else None for term in model.terms if term.source == block.name}
    if behind is None or len(first) != 1:
        return None
    (op,) = first
    return op if op is not None and op.kind == behind.kind else None


def _applied(op: Operator, x: np.ndarray, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """An operator with its offset on x [batch, entries]."""
    rule = linear_rule(op)
    tensors = {role: torch.from_numpy(weights[id]) for role, id in op.parameters}
    made = rule.apply(op, torch.from_numpy(x).reshape(len(x), *sizes(op.source)), tensors)
    found = made.reshape(len(x), -1).numpy().copy()
    for entries in rule.offsets(op, {role: weights[id] for role, id in op.parameters}):
        given = np.asarray(entries.coefficients, dtype=float)
        id = op.parameter(entries.role)
        if entries.slots is not None and id is not None:
            given = given * weights[id].reshape(-1)[entries.slots]
        found += np.bincount(entries.rows, np.broadcast_to(given, entries.rows.shape), found.shape[1])
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _sum(parts: list[str]) -> str:
    """a + b - c."""
    text = parts[0]
    for part in parts[1:]:
        text += f" - {part[1:]}" if part.startswith("-") else f" + {part}"
    return text
