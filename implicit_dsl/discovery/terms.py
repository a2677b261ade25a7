"""The terms of blocks as text, and the layers and parameters that they need, with what is left of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from implicit_dsl._lazy import lazy_module
from implicit_dsl.discovery.keeping import backward, forward, is_separate, mixing
from implicit_dsl.discovery.naming import Naming
from implicit_dsl.discovery.spelling import CannotWrite, constructor, sliced
from implicit_dsl.model import Block, Chain, ImplicitModel, Term
from implicit_dsl.operators import linear_rule
from implicit_dsl.operators.base import Operator
from implicit_dsl.operators.structured import matrix_of, set_of
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

_SPARSE = 0.5  # a matrix with at most this share of entries is written by its pattern
_MOST_LISTED = 5_000  # entries of a pattern
_PLAIN = ("pad", "avg_pool", "global_avg_pool", "adaptive_avg_pool", "upsample")


class Terms:
    """What the equations of a model say of the places that are kept.

    `declarations` are the lines of layers and parameters, `tensors` their weights by key.
    """

    def __init__(
        self,
        model: ImplicitModel,
        weights: Mapping[str, np.ndarray],
        chosen: Mapping[str, np.ndarray],
        naming: Naming,
    ) -> None:
        self._model, self._weights, self._chosen, self._naming = model, weights, chosen, naming
        self._declared: dict[tuple[str, ...], str] = {}
        self.declarations: list[str] = []
        self.tensors: dict[str, np.ndarray] = {}

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
            return self._filled(shape, sum(map(float, written)))
        return _sum(written) if written else self._zero(shape)

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
            return self._filled(shape, sum(map(float, parts)))
        return _sum(parts) if parts else self._zero(shape)

    def _zero(self, shape: Sequence[int]) -> str:
        return self._filled(shape, 0.0)

    def _filled(self, shape: Sequence[int], value: float) -> str:
        """A parameter for a value that does not depend on any input."""
        name = self._naming.beside("value")
        self.declarations.append(f"param {name}[{', '.join(map(str, shape))}] = constant({value!r})")
        self.tensors[name] = np.full(tuple(shape), value)
        return name

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
            if place == at:
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
        name = self._naming.beside("value")
        self.declarations.append(f"param {name}[{', '.join(map(str, values.shape))}]")
        self.tensors[name] = values
        return [name]

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
        name = self._parameter(id, cut)
        return [self._behind(name, chain[1:], rows)]

    def _applied(self, op: Operator, value: str, places: np.ndarray) -> str:
        """An operator without a matrix of its own on a value that has these places."""
        match op.kind:
            case "scale":
                factor = float(op["factor"])
                return f"-{_atom(value)}" if factor == -1 else f"{factor!r}*{_atom(value)}"
            case "reshape" if len(op.target) == 1:
                return f"flatten({value})"
            case "reshape":
                shape = [len(forward(op, places)), *sizes(op.target)[1:]]
                return f"reshape({value}, {', '.join(map(str, shape))})"
            case "permute":
                return f"permute({value}, {', '.join(str(axis + 1) for axis in op['axes'])})"
            case "select":
                return sliced(_atom(value), op)
            case "dropout":
                return value  # in evaluation mode
            case "batch_norm":
                return self._normalised(op, value, places)
            case kind if kind in _PLAIN:
                return f"{constructor(op)}({value})"
        raise CannotWrite(f"`{op.kind}` is not written back")

    def _normalised(self, op: Operator, value: str, places: np.ndarray) -> str:
        ids = dict(op.parameters)
        name = self._naming.tensor(next(iter(ids.values())))
        if (name,) not in self._declared:
            self._declared[(name,)] = name
            self.declarations.append(f"layer {name} = {constructor(op)}")
            for role, id in ids.items():
                self.tensors[f"{name}.{role}"] = self._weights[id][places]
            self.tensors[f"{name}.num_batches_tracked"] = np.asarray(0)
        return f"{name}({value})"

    def _mixed(
        self, op: Operator, value: str, columns: np.ndarray, rows: np.ndarray
    ) -> tuple[str, list[str]] | None:
        """A matrix or kernel on a value, and further summands; None if it is zero, with no offset."""
        ids = dict(op.parameters)
        if op.kind in ("matrix", "structured"):
            weight = self._weights[ids["weight"]]
            if op.kind == "structured":
                weight = matrix_of(set_of(op), weight)
            turned = bool(op.get("transposed", False))
            if len(op.source) == 1:
                weight = weight[np.ix_(columns, rows) if turned else np.ix_(rows, columns)]
            cut = weight
            if not cut.any():
                return None
            return f"{self._matrix(ids['weight'], cut)}{chr(39) if turned else ''}*{_atom(value)}", []
        if op.kind == "dense":
            return self._dense(op, ids, value, columns, rows)
        if op.kind == "conv":
            weight = self._weights[ids["weight"]]
            cut = weight[np.ix_(rows, columns)] if op["groups"] == 1 else weight
            bias = self._weights[ids["bias"]][rows] if "bias" in ids else None
            if not cut.any() and (bias is None or not bias.any()):
                return None
            held = {"weight": cut} | ({"bias": bias} if bias is not None else {})
            name = self._layer(ids["weight"], constructor(op, len(rows), len(columns)), held)
            return f"{name}*{_atom(value)}", []
        if op.kind == "lookup":
            weight, turned = self._weights[ids["weight"]], bool(op["by_columns"])
            return f"{self._parameter(ids['weight'], weight)}{'' if turned else chr(39)}*{_atom(value)}", []
        if op.kind == "embedding":
            weight = self._weights[ids["weight"]]
            return f"{self._layer(ids['weight'], constructor(op), {'weight': weight})}({value})", []
        raise CannotWrite(f"`{op.kind}` is not written back")

    def _dense(
        self, op: Operator, ids: Mapping[str, str], value: str, columns: np.ndarray, rows: np.ndarray
    ) -> tuple[str, list[str]] | None:
        weight = self._weights[ids["weight"]]
        cut = weight[np.ix_(rows, columns)] if len(op.source) == 1 else weight
        bias = self._weights[ids["bias"]] if "bias" in ids else None
        if bias is not None and len(op.source) == 1:
            bias = bias[rows]
        sparse = len(op.source) == 1 and _is_sparse(cut)
        if not sparse and cut.any():
            held = {"weight": cut} | ({"bias": bias} if bias is not None else {})
            made = constructor(op, cut.shape[0], cut.shape[1])
            return f"{self._layer(ids['weight'], made, held)}*{_atom(value)}", []
        offset = []
        if bias is not None and bias.any():
            name = self._naming.beside(f"{self._naming.tensor(ids['weight'])}_bias")
            added = bias if len(op.source) == 1 else np.broadcast_to(bias, sizes(op.target))
            self.declarations.append(f"param {name}[{', '.join(map(str, added.shape))}]")
            self.tensors[name] = added
            offset = [name]
        if not cut.any():
            return (offset[0], []) if offset else None
        return f"{self._matrix(ids['weight'], cut)}*{_atom(value)}", offset

    # ----------------------------------------------------------------------- declarations

    def _layer(self, id: str, made: str, held: Mapping[str, np.ndarray]) -> str:
        name = self._naming.tensor(id)
        if (name,) not in self._declared:
            self._declared[(name,)] = name
            self.declarations.append(f"layer {name} = {made}")
            self.tensors.update({f"{name}.{role}": weight for role, weight in held.items()})
        return name

    def _parameter(self, id: str, weight: np.ndarray) -> str:
        name = self._naming.tensor(id)
        if (name,) not in self._declared:
            self._declared[(name,)] = name
            self.declarations.append(f"param {name}[{', '.join(map(str, weight.shape))}]")
            self.tensors[name] = weight
        return name

    def _matrix(self, id: str, weight: np.ndarray) -> str:
        """A matrix as a parameter, by its pattern if that is sparse."""
        if not _is_sparse(weight):
            return self._parameter(id, weight)
        name = self._naming.tensor(id)
        if (name,) not in self._declared:
            self._declared[(name,)] = name
            rows, columns = np.nonzero(weight)
            places = ", ".join(f"{i + 1} => {j + 1}" for i, j in zip(rows.tolist(), columns.tolist()))
            shape = ", ".join(map(str, weight.shape))
            self.declarations.append(f"param {name}[{shape}] in Sparse([{places}])")
            self.tensors[name] = weight[rows, columns]
        return name


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


def _is_sparse(weight: np.ndarray) -> bool:
    held = int(np.count_nonzero(weight))
    return 0 < held <= min(_SPARSE * weight.size, _MOST_LISTED)


def _atom(value: str) -> str:
    """A value as a factor: in brackets unless it is a name or a call."""
    plain = value.replace("_", "a")
    depth = 0
    for place, sign in enumerate(plain):
        depth += (sign in "([") - (sign in ")]")
        if depth == 0 and not (sign.isalnum() or sign in "()[]") and place < len(plain) - 1:
            return f"({value})"
    return value


def _sum(parts: list[str]) -> str:
    """a + b - c."""
    text = parts[0]
    for part in parts[1:]:
        text += f" - {part[1:]}" if part.startswith("-") else f" + {part}"
    return text
