"""|M| for chains of linear operators, without making a matrix: |conv| is a conv with |K|."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import torch

from implicit_dsl._lazy import lazy_module
from implicit_dsl.model import Chain
from implicit_dsl.operators import linear_rule
from implicit_dsl.operators.base import Operator
from implicit_dsl.runtime.certificates.rounding import growth, upwards
from implicit_dsl.shapes import count

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

Weights: TypeAlias = "Mapping[str, np.ndarray]"
Tensors: TypeAlias = Mapping[str, torch.Tensor]


class Magnitudes:
    """Chains of operators with the current weights, in float64, on single values [*shape]."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._absolute: dict[Operator, tuple[Operator, Tensors]] = {}

    def upper(self, chain: Chain, x: np.ndarray) -> np.ndarray:
        """No less than |M| x, for x ≥ 0; infinite where that is not known."""
        for operator in chain:
            own, tensors = self._magnitude(operator)
            x = upwards(_applied(own, x, tensors), _terms(operator))
        return x

    def pattern(self, chain: Chain, x: np.ndarray) -> np.ndarray:
        """Where |M| x is not zero, for x of zeros and ones. Exact: nothing can vanish by underflow."""
        for operator in chain:
            own, tensors = self._magnitude(operator)
            ones = {role: (tensor != 0).to(tensor.dtype) for role, tensor in tensors.items()}
            x = (_applied(own, x, ones) != 0).astype(float)
        return x

    def value(self, chain: Chain, x: np.ndarray) -> tuple[np.ndarray, float]:
        """M x as computed, and ε in |computed − exact| ≤ ε |M| |x|."""
        error = 0.0
        for operator in chain:
            x = _applied(operator, x, self._tensors(operator))
            error += growth(_terms(operator))
        return x, 1.01 * error

    def _tensors(self, operator: Operator) -> Tensors:
        return {role: torch.from_numpy(self._weights[id]) for role, id in operator.parameters}

    def _magnitude(self, operator: Operator) -> tuple[Operator, Tensors]:
        found = self._absolute.get(operator)
        if found is None:
            own, tensors = linear_rule(operator).absolute(operator, self._tensors(operator))
            found = self._absolute[operator] = (own, tensors)
        return found


def _terms(operator: Operator) -> int:
    """How many products a row of its matrix adds up, at most."""
    return count(operator.source) * linear_rule(operator).overlap(operator)


def _applied(operator: Operator, x: np.ndarray, tensors: Tensors) -> np.ndarray:
    batch = torch.from_numpy(np.asarray(x, np.float64, order="C"))[None]  # keeps [], unlike ascontiguousarray
    with torch.no_grad():
        made = linear_rule(operator).apply(operator, batch, tensors)
    return np.asarray(made[0].numpy())
