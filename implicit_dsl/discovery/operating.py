"""Operators applied to the text of a value, with the layers and parameters that this declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.discovery.declaring import Declarations, is_sparse
from implicit_dsl.discovery.keeping import AVERAGES, MATRICES, forward
from implicit_dsl.discovery.naming import Naming
from implicit_dsl.discovery.spelling import CannotWrite, added, atom, constructor, sliced
from implicit_dsl.model import ImplicitModel
from implicit_dsl.operators import linear_rule
from implicit_dsl.operators.adjoints import Adjoint
from implicit_dsl.operators.base import Operator
from implicit_dsl.operators.structured import matrix_of, set_of
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

_PLAIN = (*AVERAGES, "pad", "upsample", "pixel_shuffle", "pixel_unshuffle")


class Operators:
    """The operators of a model, with what is left of their weights."""

    def __init__(
        self,
        model: ImplicitModel,
        weights: Mapping[str, np.ndarray],
        naming: Naming,
        declared: Declarations,
    ) -> None:
        self._weights, self._naming, self._declared = weights, naming, declared
        used = {op for term in model.terms for op in term.chain}
        inner = {rule.inner(op) for op in used if isinstance(rule := linear_rule(op), Adjoint)}
        self._transposed = inner & used
        self._layers = {
            op.parameters[0][1]: op
            for term in model.terms
            for op in term.chain
            if op.kind in ("dense", "conv", "embedding") and op.parameters
        }

    def applied(self, op: Operator, value: str, places: np.ndarray) -> str:
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
        made = self.mixed(op, value, columns, rows)
        return self._declared.filled(sizes(op.target), 0.0) if made is None else added([made[0], *made[1]])

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

    def mixed(
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
