"""Orthogonal matrices as exp(S): the S of the nearest one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from implicit_dsl._lazy import lazy_module
from implicit_dsl.runtime.structures import Orthogonal, Rotating, matrix_of, nearest_of

if TYPE_CHECKING:
    import numpy as np
    import scipy.linalg as linalg
else:
    np = lazy_module("numpy")
    linalg = lazy_module("scipy.linalg")

_STEPS = 2000  # of the iteration for rectangular ones
_CLOSE = 1e-10  # largest entry by which exp(S) may be off


def nearest_rotation(structure: Orthogonal, matrix: Tensor) -> Tensor:
    """θ of the member nearest to a matrix, float64. It is the polar factor, square ones with determinant 1.

    Raises ArithmeticError if no logarithm of that is found.
    """
    n, k = max(structure.rows, structure.columns), min(structure.rows, structure.columns)
    tall = matrix.mT if structure.rows < structure.columns else matrix
    U, _, V = torch.linalg.svd(tall.double(), full_matrices=False)
    if n == k and torch.linalg.det(U) * torch.linalg.det(V) < 0:
        U = torch.cat((U[:, :-1], -U[:, -1:]), 1)  # the smallest singular value is turned
    Q = (U @ V).cpu().numpy()
    S = _logarithm(Q) if n == k else _of_columns(Q)
    theta = nearest_of(Rotating(n, n, k), torch.from_numpy(S))
    reached = matrix_of(Rotating(n, n, k), theta).numpy()
    if float(np.abs(linalg.expm(reached)[:, :k] - Q).max()) > _CLOSE:
        raise ArithmeticError(f"no logarithm was found of {k} orthonormal columns of {n} entries")
    return theta.to(matrix.device)


def _logarithm(R: np.ndarray) -> np.ndarray:
    """S = −Sᵀ with exp(S) = R, for a rotation R: the angles of its real Schur form, each at most π."""
    T, Z = linalg.schur(R, output="real")
    n = len(R)
    S = np.zeros((n, n))
    turned = []  # eigenvalues −1, two of which are half a turn
    i = 0
    while i < n:
        if i + 1 < n and abs(T[i + 1, i]) > 1e-12:
            angle = np.arctan2(T[i + 1, i] - T[i, i + 1], T[i, i] + T[i + 1, i + 1])
            S[i + 1, i], S[i, i + 1] = angle, -angle
            i += 2
            continue
        if T[i, i] < 0:
            turned.append(i)
        i += 1
    for a, b in zip(turned[::2], turned[1::2]):
        S[b, a], S[a, b] = np.pi, -np.pi
    return np.asarray(Z @ S @ Z.T)


def _of_columns(Q: np.ndarray) -> np.ndarray:
    """S with exp(S)[:, :k] = Q and a lower right block of zeros, for k < n orthonormal columns.

    Zimmermann 2017: Q is completed to a rotation, and the completion turned by exp(−C), with C the lower
    right block of its logarithm, until that is zero.
    """
    k = Q.shape[1]
    rest = linalg.null_space(Q.T)
    U, _, V = linalg.svd(rest[k:])
    rest = rest @ (U @ V).T  # as near to the unit vectors as can be
    if linalg.det(np.hstack((Q, rest))) < 0:
        rest[:, -1] *= -1
    S = _logarithm(np.hstack((Q, rest)))
    for _ in range(_STEPS):
        C = S[k:, k:]
        if np.abs(C).max(initial=0.0) < _CLOSE / 100:
            break
        rest = rest @ linalg.expm(-C)
        S = _logarithm(np.hstack((Q, rest)))
    return S


__all__ = ["nearest_rotation"]
