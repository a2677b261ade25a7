"""The inputs that bounds are about: boxes, and balls within them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from implicit_dsl._lazy import lazy_module
from implicit_dsl.model import Block
from implicit_dsl.runtime.certificates.rounding import growth
from implicit_dsl.shapes import sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

Norm: TypeAlias = Literal["inf", "2"]
Inputs: TypeAlias = torch.Tensor | Sequence[torch.Tensor]


@dataclass(frozen=True)
class Region:
    """For each sample a box of each input, [batch, size], and perhaps a Euclidean ball that it is cut by.

    `radius` [batch] is that of the ball around `centre`, over all inputs together.
    """

    lower: Mapping[str, np.ndarray]
    upper: Mapping[str, np.ndarray]
    centre: Mapping[str, np.ndarray]
    radius: np.ndarray | None = None

    @property
    def batch(self) -> int:
        return len(next(iter(self.lower.values())))

    def part(self, samples: slice | np.ndarray) -> Region:
        """The same of some of the samples."""

        def taken(one: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: x[samples] for name, x in one.items()}

        radius = None if self.radius is None else self.radius[samples]
        return Region(taken(self.lower), taken(self.upper), taken(self.centre), radius)

    def most(self, g: Mapping[str, np.ndarray]) -> np.ndarray:
        """No less than max Σ g·u over the region, for g [batch, k, size] by input; [batch, k]."""
        over_box, at_centre, square = 0.0, 0.0, 0.0
        terms = 4
        for name, slope in g.items():
            low, high, centre = (one[name][:, None] for one in (self.lower, self.upper, self.centre))
            terms += slope.shape[-1]
            size = (np.abs(slope) * np.maximum(np.abs(low), np.abs(high))).sum(-1)
            slack = growth(slope.shape[-1]) * size
            over_box = over_box + np.where(slope > 0, slope * high, slope * low).sum(-1) + slack
            at_centre = at_centre + (slope * centre).sum(-1) + slack
            square = square + (slope * slope).sum(-1)
        if self.radius is None:
            return np.asarray(over_box)
        over_ball = at_centre + self.radius[:, None] * np.sqrt(square) * (1 + growth(terms))
        return np.asarray(np.minimum(over_box, over_ball))


def box(blocks: Sequence[Block], lower: Inputs, upper: Inputs) -> Region:
    """A box for each sample. Raises ValueError for shapes that do not fit, NaN, and empty boxes.

    Inputs of tokens are whole numbers, and the same below and above.
    """
    low, high = arrays(blocks, lower, "the lower end"), arrays(blocks, upper, "the upper end")
    if len(next(iter(low.values()))) != len(next(iter(high.values()))):
        raise ValueError("the two ends of the box have different numbers of samples")
    for name in low:
        wrong = np.argwhere(low[name] > high[name])
        if len(wrong):
            sample, entry = wrong[0]
            raise ValueError(
                f"the box of `{name}` is empty: in sample {sample} the lower end of entry {entry} is "
                f"{low[name][sample, entry]:g}, above the upper one, {high[name][sample, entry]:g}"
            )
    return Region(low, high, {name: (low[name] + high[name]) / 2 for name in low})


def ball(
    blocks: Sequence[Block],
    inputs: Inputs,
    epsilon: float | np.ndarray,
    norm: Norm = "inf",
    lower: float | None = None,
    upper: float | None = None,
) -> Region:
    """All inputs within ε of those given, in the ∞-norm or the Euclidean norm, and between two numbers.

    `epsilon` is one for all samples, or one for each, [batch]. Inputs of tokens stay as they are. Raises
    ValueError for ε that is negative or not finite, and for inputs that do not lie between the two numbers.
    """
    return around(blocks, arrays(blocks, inputs, "the inputs"), epsilon, norm, lower, upper)


def around(
    blocks: Sequence[Block],
    centre: Mapping[str, np.ndarray],
    epsilon: float | np.ndarray,
    norm: Norm = "inf",
    lower: float | None = None,
    upper: float | None = None,
) -> Region:
    """The same of arrays [batch, size] by name."""
    radius = checked_radius(epsilon)
    if norm not in ("inf", "2"):
        raise ValueError(f'there is no norm "{norm}": it is "inf" or "2"')
    low, high = {}, {}
    for block in blocks:
        u = centre[block.name]
        moved = np.zeros(1) if block.tokens else np.broadcast_to(radius, len(u))[:, None]
        least = -np.inf if lower is None or block.tokens else lower
        most = np.inf if upper is None or block.tokens else upper
        if ((u < least) | (u > most)).any():
            raise ValueError(
                f"`{block.name}` holds values from {u.min():g} to {u.max():g}, "
                f"which do not lie between {least:g} and {most:g}"
            )
        pad = np.where(moved > 0, 2.0**-52 * (np.abs(u) + moved), 0.0)
        low[block.name] = np.maximum(u - moved - pad, least)
        high[block.name] = np.minimum(u + moved + pad, most)
    samples = len(next(iter(centre.values())))
    return Region(low, high, centre, np.broadcast_to(radius, samples) if norm == "2" else None)


def checked_radius(epsilon: float | np.ndarray) -> np.ndarray:
    """ε as an array. Raises ValueError unless it is a number of at least 0, or several."""
    radius = np.asarray(epsilon, np.float64)
    if not ((radius >= 0) & (radius < np.inf)).all():
        raise ValueError(f"ε is a number of at least 0, and this is {radius.min():g}")
    return radius


def arrays(blocks: Sequence[Block], given: Inputs, what: str) -> dict[str, np.ndarray]:
    """Tensors [batch, *shape], one for each input, as [batch, size] in float64, by name."""
    tensors = (given,) if isinstance(given, torch.Tensor) else tuple(given)
    if len(tensors) != len(blocks):
        names = ", ".join(f"`{block.name}`" for block in blocks)
        raise ValueError(f"{what}: there are {len(blocks)} inputs, {names}, and {len(tensors)} were given")
    made: dict[str, np.ndarray] = {}
    for block, tensor in zip(blocks, tensors):
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{what}: `{block.name}` is a tensor, and a {type(tensor).__name__} was given")
        if tuple(tensor.shape[1:]) != sizes(block.given) or not tensor.ndim:
            wanted = ", ".join(map(str, ("batch", *block.given)))
            raise ValueError(
                f"{what}: `{block.name}` has shape [{wanted}], and {list(tensor.shape)} was given"
            )
        if not len(tensor) or len(tensor) != len(tensors[0]):
            raise ValueError(f"{what}: there are {len(tensor)} samples of `{block.name}`")
        made[block.name] = _flat(block, tensor, what)
    return made


def _flat(block: Block, tensor: torch.Tensor, what: str) -> np.ndarray:
    if block.tokens:
        vocab = sizes(block.shape)[-1]
        if tensor.dtype.is_floating_point or not 0 <= int(tensor.min()) <= int(tensor.max()) < vocab:
            raise ValueError(f"{what}: `{block.name}` holds tokens, whole numbers from 0 to {vocab - 1}")
        tensor = torch.nn.functional.one_hot(tensor.long(), vocab)
    flat = np.asarray(tensor.detach().cpu().to(torch.float64).reshape(len(tensor), -1).numpy())
    if not np.isfinite(flat).all():
        sample = int(np.argwhere(~np.isfinite(flat))[0][0])
        raise ValueError(f"{what}: `{block.name}` holds a value that is not finite, in sample {sample}")
    return flat
