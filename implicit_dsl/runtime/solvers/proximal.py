"""prox_{αf} for an elementwise φ with slopes in [0, 1], which is prox_f of a convex f.

    φ = prox_f:  x = φ(w)  ⇔  w − x ∈ ∂f(x).
    So x = prox_{αf}(u)  ⇔  u − x ∈ α ∂f(x)  ⇔  x = φ(w) with α w + (1 − α) φ(w) = u.

The left side increases in w with slopes between α and 1, so w is found entry by entry by Newton's
method inside of a bracket. For φ(t z) = t φ(z), t ≥ 0, as relu has it, prox_{αf} = φ for every α.
"""

from __future__ import annotations

import torch
from torch import Tensor

from implicit_dsl.runtime.solvers.base import Equation, Map

# Bisection alone gains a bit of w in each of them; Newton's method is done after about five.
_STEPS = 60
_PROBES = range(-24, 25, 4)


def is_homogeneous(equation: Equation, x: Tensor) -> bool:
    """Whether φ(t z) = t φ(z) for t ≥ 0: as the equation says, otherwise tried at powers of two.

    An elementwise φ with that property is z ↦ φ(1) z₊ − φ(−1) z₋, and scaling by a power of two is exact.
    """
    if equation.homogeneous is not None:
        return equation.homogeneous
    _, phi = equation.split("a splitting solver")
    for sign in (1.0, -1.0):
        once = torch.full_like(x, sign)
        image = phi(once)
        for power in _PROBES if x.dtype != torch.float16 else range(-8, 9, 4):
            if not torch.equal(phi(once * 2.0**power), image * 2.0**power):
                return False
    return True


def proximal(phi: Map, u: Tensor, alpha: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """prox_{αf}(u) (b, n), and the w that φ takes to it, from a guess of w; α (b, 1)."""
    low, high = torch.full_like(u, -torch.inf), torch.full_like(u, torch.inf)
    least, most = alpha.clamp(max=1), alpha.clamp(min=1)
    for _ in range(_STEPS):
        image, slope = value_and_slope(phi, w)
        excess = alpha * w + (1 - alpha) * image - u
        low = torch.where(excess <= 0, torch.maximum(low, w), low)
        high = torch.where(excess >= 0, torch.minimum(high, w), high)
        # the root lies at most this far, whatever φ does in between
        low, high = torch.maximum(low, w - excess.clamp(min=0) / least), high
        high = torch.minimum(high, w - excess.clamp(max=0) / least)
        step = excess / (alpha + (1 - alpha) * slope).clamp(min=least, max=most)
        rounding = 2 * torch.finfo(u.dtype).eps * (alpha * w.abs() + u.abs())
        done = excess.abs() <= rounding  # an entry that is done stays, whatever the others need
        if bool((done | excess.isnan()).all()):
            return image, w
        moved = w - step
        inside = (moved >= low) & (moved <= high)
        w = torch.where(done, w, torch.where(inside, moved, (low + high) / 2))
    return phi(w), w


def value_and_slope(phi: Map, z: Tensor) -> tuple[Tensor, Tensor]:
    """φ(z) and φ'(z) for an elementwise φ; at a kink the derivative that autograd takes."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = z.clone().requires_grad_()
        image = phi(leaf)
        (slope,) = torch.autograd.grad(image.sum(), leaf)
    return image.detach(), slope
