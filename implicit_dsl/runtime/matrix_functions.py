"""Matrix exponential and spectral norm in every floating dtype, and of products alone in exported graphs.

PyTorch has no kernels for decompositions of half precision (matrix_exp gives NaN), and ONNX none at all.
"""

from __future__ import annotations

from math import log2

import torch
from torch import Tensor

from implicit_dsl.runtime.autocast import unautocast

_HALVINGS = 16  # of the exponent: norms up to 2¹² are exact to rounding
_TERMS = 8  # of the series of the halved exponent
_MORE_SQUARINGS = 4  # of the Gram matrix, than digits: what they leave is ln(n) eps ÷ 32, relatively


def exponential(X: Tensor) -> Tensor:
    """exp(X) of a square matrix [n, n], in float32 at least and rounded to the dtype of X."""
    with unautocast(X.device):
        given = widened(X)
        found: Tensor = _summed(given) if torch.compiler.is_exporting() else torch.linalg.matrix_exp(given)
    return found.to(X.dtype)


def spectral_norm(W: Tensor) -> Tensor:
    """The largest singular value of a matrix [m, n], in float32 at least and rounded to the dtype of W.

    Where it is exported it is an upper bound of that, which is near it to rounding.
    """
    with unautocast(W.device):
        given = widened(W)
        exported = torch.compiler.is_exporting()
        found: Tensor = _squared(given) if exported else torch.linalg.matrix_norm(given, 2)
    return found.to(W.dtype)


def widened(X: Tensor) -> Tensor:
    """The same numbers in float32 at least."""
    return X.float() if X.dtype in (torch.float16, torch.bfloat16) else X


def _summed(X: Tensor) -> Tensor:
    """exp(X) by scaling and squaring (Moler and Van Loan 2003) with a fixed number of products.

    Y = exp(X ÷ 2ᵏ) − I is summed, and exp(2X) − I = 2Y + Y²: nothing is lost to the identity.
    """
    scaled = X / 2**_HALVINGS
    term: Tensor = scaled
    Y = term
    for k in range(2, _TERMS + 1):
        term = term @ scaled / k
        Y = Y + term
    for _ in range(_HALVINGS):
        Y = 2 * Y + Y @ Y
    return Y + torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)


def _squared(W: Tensor) -> Tensor:
    """‖W‖₂ from above, as tr(Gᵖ)^(1 ÷ 2p) with G = WᵀW and p = 2ᵏ: a Schatten norm (Bhatia 1997).

    G is divided by its trace t before each squaring, so that ‖G‖ is the product of all t^(1 ÷ 2ʲ).
    """
    least = torch.finfo(W.dtype).tiny
    size = W.abs().max().clamp_min(least)
    scaled = W / size
    G = scaled.mT @ scaled if W.shape[-1] <= W.shape[-2] else scaled @ scaled.mT
    logarithm, share = torch.zeros_like(size), 1.0
    squarings = _MORE_SQUARINGS - round(log2(torch.finfo(W.dtype).eps))
    for _ in range(squarings):
        trace = G.diagonal().sum().clamp_min(least)
        logarithm = logarithm + share * trace.log()
        G = G / trace
        G, share = G @ G, share / 2
    return size * (logarithm / 2).exp()


__all__ = ["exponential", "spectral_norm", "widened"]
