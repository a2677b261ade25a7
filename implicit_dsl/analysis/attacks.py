"""Inputs near given ones that are classified wrong: the other side of a certificate.

FGSM (Goodfellow et al. 2015) is one step along the sign of the gradient, PGD (Madry et al. 2018) several,
each projected back, from several starts. The gradient is that of the margin max_{j≠c} y_j − y_c, by implicit
differentiation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor, nn

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis.regions import Inputs, Norm, checked_radius
from implicit_dsl.analysis.sensitivities import Sensitivity
from implicit_dsl.analysis.systems import system_for, tensors_for
from implicit_dsl.model import Block, ImplicitModel
from implicit_dsl.runtime.evaluating import evaluating
from implicit_dsl.train.discovering import structure_of

Guide: TypeAlias = Literal["slopes", "sensitivity"]
if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

METHODS = ("fgsm", "pgd", "sparse")
_ROUNDINGS = 8  # tries to round inputs into a Euclidean ball
_FIRST = 0.5  # of the radius: the first step, from which steps become shorter


@dataclass(frozen=True, slots=True, eq=False)
class Attack:
    """What was found: inputs [samples, *shape] within the ball, of which those with `success` [samples] are
    classified wrong. `margins` [samples] are max_{j≠c} y_j − y_c there. Of several inputs, a tuple.
    """

    inputs: Inputs
    success: Tensor
    margins: Tensor
    method: str
    epsilon: float
    queries: int = 0  # how often the model was run on each sample

    @property
    def accuracy(self) -> float:
        """The share of samples that is still classified right."""
        return float((~self.success).double().mean()) if len(self.success) else 1.0

    def __str__(self) -> str:
        return (
            f"{self.method} within ε = {self.epsilon:g}: {int(self.success.sum())} of {len(self.success)} "
            f"samples are classified wrong"
        )


def attack(
    model: nn.Module,
    inputs: Inputs,
    labels: Tensor,
    epsilon: float,
    *,
    method: str = "pgd",
    norm: Norm = "inf",
    lower: float | None = None,
    upper: float | None = None,
    steps: int = 40,
    restarts: int = 3,
    entries: int = 1,
    guide: Guide = "slopes",
    seed: int = 0,
) -> Attack:
    """Inputs within ε, between `lower` and `upper`, on which a compiled model errs, as far as they are found.

    fgsm takes one step; pgd `steps` from each of `restarts` starts, the first at the inputs themselves, the
    others random; sparse changes no more than `entries` entries of all inputs of a sample, those on which the
    margin depends most: by its slopes there, or by what S allows at most (`guide` "sensitivity"), times how
    far an entry may move. Inputs of tokens stay as they are. The model is run in evaluation mode, in its own
    dtype, and left as it is.

    Raises ValueError for an unknown method or norm, ε below 0, shapes and labels that do not fit, NaN, and
    inputs outside of the range; NoBound (a ValueError) where S is asked for and there is none; TypeError if
    the model is not a compiled one.
    """
    checked_radius(epsilon)
    if method not in METHODS:
        raise ValueError(f'there is no attack "{method}": there are "fgsm", "pgd" and "sparse"')
    if norm not in ("inf", "2"):
        raise ValueError(f'there is no norm "{norm}": it is the text "inf" or "2"')
    if guide not in ("slopes", "sensitivity"):
        raise ValueError(f'there is no guide "{guide}": it is "slopes" or "sensitivity"')
    if steps < 1 or restarts < 1 or entries < 1:
        raise ValueError("steps, restarts and entries are numbers of at least 1")
    blocks = ImplicitModel.from_data(structure_of(model)).inputs
    given = _prepared(model, blocks, inputs, labels, lower, upper)
    target = _Target(model, blocks, given, labels.to(given[0].device), epsilon, norm, lower, upper)
    generator = torch.Generator().manual_seed(seed)
    with evaluating(model), _frozen(model):
        best, margins = target.first()
        tries = restarts if method != "fgsm" else 1
        kept = target.largest(entries, guide) if method == "sparse" else None
        for number in range(tries):
            start = list(given) if number == 0 else target.random(generator)
            if kept is not None:
                start = [torch.where(k, s, u) for k, s, u in zip(kept, start, given)]
            ways = (1,) if method == "fgsm" else (1, steps)  # one long step is a candidate, too
            for u, found in (point for way in ways for point in target.climbed(start, way, kept)):
                better = found > margins
                margins = torch.where(better, found, margins)
                best = [torch.where(_beside(better, old), new, old) for new, old in zip(u, best)]
    made = best[0] if isinstance(inputs, Tensor) else tuple(best)
    return Attack(made, margins > 0, margins, method, float(epsilon), target.queries)


class _Target:
    """A model on its inputs, with what may be done to them."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[Block],
        given: Sequence[Tensor],
        labels: Tensor,
        epsilon: float,
        norm: Norm,
        lower: float | None,
        upper: float | None,
    ) -> None:
        self.model, self.given, self.labels = model, given, labels
        self.epsilon, self.norm = epsilon, norm
        self.moves = [not block.tokens for block in blocks]
        self.lower, self.upper = lower, upper
        self.queries = 0

    def scores(self, inputs: Sequence[Tensor]) -> Tensor:
        """y [samples, classes]."""
        self.queries += 1
        made: Tensor = self.model(*inputs)
        return made

    def margins(self, inputs: Sequence[Tensor]) -> Tensor:
        """max_{j≠c} y_j − y_c [samples]: wrong where it is not below zero, which counts as above."""
        return self.margins_of(self.scores(inputs))

    def margins_of(self, scores: Tensor) -> Tensor:
        """The same for y [samples, classes]."""
        own = scores.gather(1, self.labels[:, None])[:, 0]
        others = scores.scatter(1, self.labels[:, None], float("-inf")).amax(1)
        made: Tensor = others - own
        return made

    def first(self) -> tuple[list[Tensor], Tensor]:
        """The inputs themselves, with their margins. Raises ValueError for what is no classification."""
        with torch.no_grad():
            scores = self.scores(self.given)
            if not isinstance(scores, Tensor) or scores.ndim != 2 or scores.shape[1] < 2:
                raise ValueError("a classification has one output [classes], with two classes at least")
            if len(self.labels) and int(self.labels.max()) >= scores.shape[1]:
                raise ValueError(
                    f"labels go from 0 to {scores.shape[1] - 1}, and there is one of {int(self.labels.max())}"
                )
            return list(self.given), self.margins_of(scores)

    def random(self, generator: torch.Generator) -> list[Tensor]:
        """Random inputs of the ball."""
        made = []
        for u, moves in zip(self.given, self.moves):
            if not moves:
                made.append(u)
                continue
            noise = torch.rand(u.shape, generator=generator, dtype=torch.float64).to(u) * 2 - 1
            made.append(u + self.epsilon * noise)
        return self.projected(made)

    def projected(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The nearest inputs of the ball and the range, none of which leaves either by rounding."""
        moved = [(u - g).double() if moves else 0 * g for u, g, moves in zip(inputs, self.given, self.moves)]
        if self.norm == "inf":
            return [self._rounded(m, g) for m, g in zip(moved, self.given)]
        made = list(self.given)
        share, inside = self._shares(moved), torch.zeros(len(self.labels), dtype=torch.bool)
        for _ in range(_ROUNDINGS):
            tried = [self._rounded(m * _beside(share, m), g) for m, g in zip(moved, self.given)]
            apart = [(u.double() - g.double()) for u, g in zip(tried, self.given)]
            fits = self._sizes(apart).to(inside.device) <= self.epsilon
            fresh = fits & ~inside
            made = [torch.where(_beside(fresh.to(u.device), u), u, old) for u, old in zip(tried, made)]
            inside = inside | fits
            share = share * (1 - 1e-3)
        return made

    def _sizes(self, moved: Sequence[Tensor]) -> Tensor:
        """Euclidean norms [samples], of all inputs together."""
        return torch.stack([m.double().flatten(1).square().sum(1) for m in moved]).sum(0).sqrt()

    def _shares(self, moved: Sequence[Tensor]) -> Tensor:
        return (self.epsilon * (1 - 1e-6) / self._sizes(moved).clamp_min(1e-300)).clamp_max(1.0)

    def _rounded(self, moved: Tensor, given: Tensor) -> Tensor:
        """given + moved in the dtype of the model: no entry goes further than ε, or out of the range."""
        if not given.dtype.is_floating_point:
            return given
        exact = given.double()
        to = (exact + moved.clamp(-self.epsilon, self.epsilon)).to(given.dtype)
        # back by the spacing of numbers, where rounding has gone too far
        outside = (to.double() - exact).abs() > self.epsilon
        to = torch.where(outside, torch.nextafter(to, given), to)
        return to.clamp(self.lower, self.upper) if self._is_cut else to

    @property
    def _is_cut(self) -> bool:
        return self.lower is not None or self.upper is not None

    def gradients(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Those of the margins, zero for tokens, and the margins."""
        leaves = [u.detach().requires_grad_() if moves else u for u, moves in zip(inputs, self.moves)]
        with torch.enable_grad():
            margins = self.margins(leaves)
            moving = [leaf for leaf, moves in zip(leaves, self.moves) if moves]
            found = iter(torch.autograd.grad(margins.sum(), moving, allow_unused=True) if moving else ())
        made = []
        for leaf, moves in zip(leaves, self.moves):
            slope = next(found) if moves else None
            made.append(torch.zeros_like(leaf) if slope is None else slope.detach())
        return made, margins.detach()

    def climbed(
        self, start: Sequence[Tensor], steps: int, kept: Sequence[Tensor] | None
    ) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Each of the inputs on a way upwards, with its margins."""
        u = list(start)
        for step in range(steps):
            slopes, margins = self.gradients(u)
            yield u, margins
            length = self.epsilon * (1.0 if steps == 1 else _FIRST * (1 - step / steps))
            directions = self._directions(slopes)
            moved = [x + length * d if moves else x for x, d, moves in zip(u, directions, self.moves)]
            if kept is not None:
                moved = [torch.where(k, new, old) for k, new, old in zip(kept, moved, self.given)]
            u = self.projected(moved)
        with torch.no_grad():
            yield u, self.margins(u)

    def _directions(self, slopes: Sequence[Tensor]) -> list[Tensor]:
        if self.norm == "inf":
            return [slope.sign() for slope in slopes]
        size = torch.stack([slope.flatten(1).square().sum(1) for slope in slopes]).sum(0).sqrt()
        return [slope / _beside(size.clamp_min(1e-30), slope) for slope in slopes]

    def largest(self, entries: int, guide: Guide) -> list[Tensor]:
        """Where a sample may be changed: the entries that can move its margin most, in the room they have."""
        slopes, _ = self.gradients(self.given)
        bounds = self._bounds() if guide == "sensitivity" else [None] * len(slopes)
        rooms = []
        for u, slope, bound, moves in zip(self.given, slopes, bounds, self.moves):
            up, down = (self._end(u, end, sign) for end, sign in ((self.upper, 1.0), (self.lower, -1.0)))
            if bound is None:
                weights = (torch.where(slope > 0, up, down) - u).abs() * slope.abs()
            else:
                weights = torch.maximum(up - u, u - down) * bound
            rooms.append(weights.flatten(1) * moves)
        whole = torch.cat(rooms, 1)
        chosen = torch.zeros_like(whole, dtype=torch.bool)
        chosen.scatter_(1, whole.topk(min(entries, whole.shape[1]), 1).indices, True)
        parts = torch.split(chosen, [room.shape[1] for room in rooms], 1)
        return [part.reshape(u.shape) for part, u in zip(parts, self.given)]

    def _bounds(self) -> list[Tensor | None]:
        """How much each entry can move y_j − y_c at most, for the nearest other class j; None for tokens.

        Raises NoBound where there is no S.
        """
        with torch.no_grad():
            scores = self.scores(self.given)
        classes = torch.eye(scores.shape[1], dtype=torch.float64)
        rivals = scores.scatter(1, self.labels[:, None], float("-inf")).argmax(1)
        rows = (classes[rivals.cpu()] - classes[self.labels.cpu()]).numpy()
        different, of = np.unique(rows, axis=0, return_inverse=True)
        system = system_for(self.model, self.given)
        found = Sensitivity(system).rows(different)[of.reshape(-1)]
        parts = system.partition("inputs")
        made: list[Tensor | None] = []
        for block, u in zip(system.inputs, self.given):
            bound = torch.from_numpy(found[:, parts[block.name]])
            made.append(None if block.tokens else bound.to(u.device, u.dtype).reshape(u.shape))
        return made

    def _end(self, u: Tensor, end: float | None, sign: float) -> Tensor:
        moved = u + sign * self.epsilon
        if end is None:
            return moved
        return moved.clamp_max(end) if sign > 0 else moved.clamp_min(end)


def _beside(one: Tensor, like: Tensor) -> Tensor:
    """A number for each sample, beside a tensor [samples, …]."""
    return one.reshape(-1, *[1] * (like.ndim - 1))


def _prepared(
    model: nn.Module,
    blocks: Sequence[Block],
    inputs: Inputs,
    labels: Tensor,
    lower: float | None,
    upper: float | None,
) -> list[Tensor]:
    """The inputs in the dtype and on the device of the model. Raises ValueError for what does not fit."""
    tensors = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    if len(tensors) != len(blocks):
        raise ValueError(f"there are {len(blocks)} inputs, and {len(tensors)} tensors were given")
    if labels.dtype.is_floating_point or labels.ndim != 1 or len(labels) != len(tensors[0]):
        raise ValueError(f"labels are whole numbers [samples], one for each of {len(tensors[0])} samples")
    if len(labels) and int(labels.min()) < 0:
        raise ValueError(f"labels go from 0, and there is one of {int(labels.min())}")
    for block, u in zip(blocks, tensors):
        known = block.given
        fits = u.ndim == 1 + len(known) and all(
            not isinstance(size, int) or size == got for size, got in zip(known, u.shape[1:])
        )
        if not fits or len(u) != len(labels):
            wanted = ", ".join(map(str, (len(labels), *known)))
            raise ValueError(f"`{block.name}` has shape [{wanted}], and {list(u.shape)} was given")
        if block.tokens:
            continue
        if not bool(torch.isfinite(u).all()):
            raise ValueError(f"`{block.name}` holds values that are not finite")
        low, high = (float(u.min()), float(u.max())) if u.numel() else (0.0, 0.0)
        if (lower is not None and low < lower) or (upper is not None and high > upper):
            raise ValueError(f"`{block.name}` goes from {low:g} to {high:g}, out of the range that is given")
    return tensors_for(model, tensors)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """The model with parameters that need no gradients, and as it was behind."""
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)


__all__ = ["Attack", "attack"]
