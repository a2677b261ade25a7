"""Integration: steps that a method of torchdiffeq chooses, and what is asked of fixed ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from torch import Tensor

from implicit_dsl.runtime.asking import all_finite, may_ask

EVALUATIONS = {"dopri5": 6, "dopri8": 13, "bosh3": 3, "fehlberg2": 2, "adaptive_heun": 1}  # for each step
BEFORE = 4  # evaluations that choose the first step, and at its begin


class IntegrationError(RuntimeError):
    """An integration came to no end: it took too many steps, or its numbers are not finite."""


def integrate(
    rate: Callable[..., Tensor | tuple[Tensor, ...]],
    starts: tuple[Tensor, ...],
    times: tuple[float, ...],
    given: Sequence[Tensor],
    name: str,
    line: int,
    method: str = "dopri5",
    rtol: float = 1e-7,
    atol: float = 1e-9,
    max_steps: int = 10_000,
    adjoint: bool = False,
) -> tuple[Tensor, ...]:
    """The states [batch, times, …] of x' = rate(t, *x), which begin with `starts` [batch, …].

    The steps are chosen for all samples together. `given` are the tensors that `rate` reads beside the
    states; with `adjoint` their gradients are integrated back in time (Chen et al. 2018), else they are
    those of the steps. Raises IntegrationError after `max_steps` steps, and for numbers that are not finite.
    """
    torchdiffeq = _torchdiffeq(method)
    left = [max_steps * EVALUATIONS[method] + BEFORE]
    several = len(starts) > 1
    what = f"`{name}` (line {line})" if line else f"`{name}`"

    def derivative(t: Tensor, state: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise IntegrationError(
                f"{what}: {method} took more than {max_steps} steps. To mend it: raise rtol and atol, or "
                "maxiter; where it is stiff, take an implicit method"
            )
        return rate(t, *state) if several else rate(t, state)

    # an adjoint starts again when its forward is done
    solve, settings = torchdiffeq.odeint, {}
    if adjoint:
        solve, settings = torchdiffeq.odeint_adjoint, {"adjoint_params": tuple(given)}
        left[0] *= 2 * len(times)
    moments = starts[0].new_tensor(times)
    try:
        found = solve(
            derivative,
            starts if several else starts[0],
            moments,
            rtol=rtol,
            atol=atol,
            method=method,
            **settings,
        )
    except (
        AssertionError
    ) as error:  # what it raises for numbers that are not finite, and for steps of length 0
        raise IntegrationError(f"{what}: {method} found no way on: {error}") from error
    return tuple(one.movedim(0, 1) for one in (found if several else (found,)))


def _torchdiffeq(method: str) -> Any:
    try:
        torchdiffeq = import_module("torchdiffeq")
    except ImportError as error:
        message = f"the method {method} needs the package torchdiffeq: run `pip install torchdiffeq`"
        raise ImportError(message) from error
    return torchdiffeq


def require_finite(name: str, line: int, *states: Tensor) -> None:
    """Raises IntegrationError if some states at the end of their steps are not finite.

    Nothing is asked while a graph is captured, and under transforms of torch.func.
    """
    if may_ask(states[0]) and not all(map(all_finite, states)):
        what = f"`{name}` (line {line})" if line else f"`{name}`"
        raise IntegrationError(
            f"{what}: not finite at the end of the steps. To mend it: take more steps, or an implicit method"
        )
