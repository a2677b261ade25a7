"""Products with the Jacobian of a map, and GMRES for many samples at once.

Y. Saad and M. H. Schultz, GMRES, SIAM J. Sci. Stat. Comput. 7 (1986).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from implicit_dsl.runtime.solvers.base import Map

# Of the right-hand side: what is left of it after this is for the next step of Newton's method.
FORCING = {torch.float64: 1e-6}
COARSE_FORCING = 1e-3


class Linearised:
    """J = f'(x) for each sample, as products, from one evaluation of f.

    J v is the derivative of u ↦ Jᵀu in the direction of v, so that f needs no forward mode, but
    must be differentiable twice; products Jᵀu need it only once.
    """

    def __init__(self, f: Map, x: Tensor) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            self._leaf = x.clone().requires_grad_()
            self._image = f(self._leaf)
        self._pair: tuple[Tensor, Tensor] | None = None

    @property
    def image(self) -> Tensor:
        """f(x)."""
        return self._image.detach()

    def pulled_back(self, u: Tensor) -> Tensor:
        """Jᵀu for u (batch, n), or for many of them (k, batch, n)."""
        if not self._image.requires_grad:  # f does not depend on x
            return torch.zeros_like(u)
        (product,) = torch.autograd.grad(
            self._image, self._leaf, u, retain_graph=True, is_grads_batched=u.ndim == 3, allow_unused=True
        )
        return torch.zeros_like(u) if product is None else product

    def __call__(self, v: Tensor) -> Tensor:
        """J v (batch, n)."""
        if not self._image.requires_grad:
            return torch.zeros_like(v)
        with torch.inference_mode(False), torch.enable_grad():
            if self._pair is None:
                u = torch.zeros_like(self._image, requires_grad=True)
                (back,) = torch.autograd.grad(self._image, self._leaf, u, create_graph=True)
                self._pair = u, back
            u, back = self._pair
            (product,) = torch.autograd.grad(back, u, v, retain_graph=True)
        return product


def gmres(J: Callable[[Tensor], Tensor], residual: Tensor, most: int) -> Tensor:
    """d (batch, n) with (I − J) d ≈ r, each sample in its own Krylov space of at most `most` vectors.

    Sums are taken in float32 or wider; a sample whose space is exhausted stays where it is.
    """
    working = torch.promote_types(residual.dtype, torch.float32)
    right = residual.to(working)
    batch, n = right.shape
    most = min(most, n)
    size = torch.linalg.vector_norm(right, dim=1)
    basis = right.new_zeros((batch, most + 1, n))
    H = right.new_zeros((batch, most + 1, most))
    basis[:, 0] = right / _nonzero(size)[:, None]
    goal = FORCING.get(residual.dtype, COARSE_FORCING) * size
    weights = right.new_zeros((batch, 0))
    for k in range(most):
        v = basis[:, k].to(residual.dtype)
        w = (v - J(v)).to(working)
        for _ in range(2):  # twice is enough to be orthogonal to working precision
            parts = torch.bmm(w.unsqueeze(1), basis[:, : k + 1].transpose(1, 2)).squeeze(1)
            w = torch.baddbmm(w.unsqueeze(1), parts.unsqueeze(1), basis[:, : k + 1], alpha=-1).squeeze(1)
            H[:, : k + 1, k] += parts
        length = torch.linalg.vector_norm(w, dim=1)
        H[:, k + 1, k] = length
        basis[:, k + 1] = w / _nonzero(length)[:, None]
        weights, left = _least_squares(H[:, : k + 2, : k + 1], size)
        if bool((left <= goal).all()):
            break
    used = weights.shape[1]
    return torch.bmm(weights.unsqueeze(1), basis[:, :used]).squeeze(1).to(residual.dtype)


def _least_squares(H: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """y (batch, k) that makes ‖size e₁ − H y‖ least, and what is left; H (batch, k + 1, k)."""
    right = torch.zeros_like(H[:, :, :1])
    right[:, 0, 0] = size
    # by the pseudo-inverse, since H is singular once a space is exhausted; nan is passed on
    finite = H.isfinite().all(2, keepdim=True).all(1, keepdim=True)
    inverse = torch.linalg.pinv(torch.where(finite, H, 0.0))
    y = torch.where(finite, inverse @ right, torch.nan)
    left = torch.linalg.vector_norm((right - H @ y).squeeze(2), dim=1)
    # a sample that is not finite is not waited for
    return y.squeeze(2), torch.where(left.isfinite(), left, 0.0)


def _nonzero(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, 1.0)
