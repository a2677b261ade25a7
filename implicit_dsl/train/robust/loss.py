"""The worst cross-entropy within a box around each input, as a loss to train on (Gowal et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from implicit_dsl.model import Block, ImplicitModel
from implicit_dsl.shapes import sizes
from implicit_dsl.train.robust.equations import Equations, Interval, Weighted
from implicit_dsl.train.robust.intervals import bounds_of_states
from implicit_dsl.train.robust.weights import tensors_of_model
from implicit_dsl.train.structure import structure_of
from implicit_dsl.unroll import unrolled

_KNOWN: WeakKeyDictionary[nn.Module, dict[object, object]] = WeakKeyDictionary()


def robust_loss(
    model: nn.Module,
    inputs: Tensor | Sequence[Tensor],
    labels: Tensor,
    epsilon: float | Sequence[float],
    *,
    lower: float | None = None,
    upper: float | None = None,
    share: float = 1.0,
    output: str | None = None,
    tolerance: float | None = None,
) -> Tensor:
    """The mean over a batch of the largest cross-entropy that intervals allow: [], differentiable.

        for u, labels in batches:
            optimizer.zero_grad()
            robust_loss(model, u, labels, 0.02, lower=0.0, upper=1.0).backward()
            optimizer.step()
            model.project_()

    `inputs` are as the model takes them, `labels` [batch] from 0. Each entry of an input may move by
    `epsilon`, between `lower` and `upper`: one number, or one for each input, of which 0 leaves it as it is.
    With a `share` below 1 it is share · worst + (1 − share) · cross-entropy of the model's own scores; share
    and ε are usually raised in the first epochs. Of several outputs, `output` names the one with the scores.
    `tolerance` is that of loops.

    The worst case is that of `worst_margins`, in evaluation mode; it is no proof, as rounding is not
    counted: `implicit_dsl.analysis.certified_accuracy` proves. Raises TypeError for what is no compiled
    model, ValueError for activations that are not monotone, for a loop without a bound, and for inputs,
    labels and numbers that do not fit.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"`share` is between 0 and 1, and this is {share:g}")
    margins = worst_margins(
        model, inputs, labels, epsilon, lower=lower, upper=upper, output=output, tolerance=tolerance
    )
    worst = F.cross_entropy(margins, labels)
    if share == 1:
        return worst
    given = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    made = model(*given)
    names = [block.name for block in _equations(model, given).model.outputs]
    scores = made if isinstance(made, Tensor) else made[names.index(output) if output is not None else 0]
    return share * worst + (1 - share) * F.cross_entropy(scores, labels)


def worst_margins(
    model: nn.Module,
    inputs: Tensor | Sequence[Tensor],
    labels: Tensor,
    epsilon: float | Sequence[float],
    *,
    lower: float | None = None,
    upper: float | None = None,
    output: str | None = None,
    tolerance: float | None = None,
) -> Tensor:
    """Bounds of yⱼ − y_label from above [batch, classes], zero at the label; the others as for `robust_loss`.

    A class is certain where all others are negative. Rows are differenced before they are bounded,
    Cⱼ − C_label, which is never worse than bounds of each yⱼ.
    """
    given = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    equations = _equations(model, given)
    target = _scores(equations.model, output)
    boxes = _boxes(equations.model, given, epsilon, lower, upper)
    (classes,) = sizes(target.shape)
    _check_labels(labels, len(given[0]), classes)
    like = next(box[0] for box in boxes.values())
    weighted = Weighted(equations, tensors_of_model(model, equations.model), like)
    values = bounds_of_states(weighted, boxes, tolerance)
    offset = weighted.offset(target.name, (classes,), "d")
    centre, radius = offset - offset[labels, None], like.new_zeros(len(labels), classes)
    for source in equations.chains(target.name):
        rows = weighted.rows(target.name, source)
        low, high = (end.flatten(1) for end in values[source])
        scores = ((low + high) / 2) @ rows.T
        centre = centre + scores - scores.gather(1, labels[:, None])
        radius = radius + _differenced(rows, (high - low) / 2, labels)
    return centre + radius


def _differenced(rows: Tensor, half: Tensor, labels: Tensor) -> Tensor:
    """|C − C_label| r [batch, classes], label by label."""
    order = labels.argsort()
    present, counts = torch.unique_consecutive(labels[order], return_counts=True)
    parts = [
        half[chosen] @ (rows - rows[label]).abs().T
        for label, chosen in zip(present.tolist(), torch.split(order, counts.tolist()))
    ]
    return torch.cat(parts)[order.argsort()]


def _equations(model: nn.Module, inputs: tuple[Tensor, ...]) -> Equations:
    """The equations of a compiled model on inputs of these shapes, made once.

    Raises TypeError for another module, ValueError for shapes that do not fit.
    """
    structure = ImplicitModel.from_data(structure_of(model)) if model not in _KNOWN else None
    known = _KNOWN.setdefault(model, {})
    if structure is not None:
        known["blocks"] = structure
    names = [block.name for block in cast(ImplicitModel, known["blocks"]).inputs]
    if len(names) != len(inputs):
        raise ValueError(f"{type(model).__name__} has {len(names)} inputs, but {len(inputs)} were given")
    shapes = tuple(tuple(tensor.shape[1:]) for tensor in inputs)
    if shapes not in known:
        bound = cast(ImplicitModel, known["blocks"]).bind(dict(zip(names, shapes)), None)
        known[shapes] = Equations(unrolled(bound))
    return cast(Equations, known[shapes])


def _scores(model: ImplicitModel, output: str | None) -> Block:
    """The output with a number for each class. Raises ValueError if there is none, or if none is named."""
    named = {block.name: block for block in model.outputs}
    if output is not None and output not in named:
        raise ValueError(f"{model.name} has no output `{output}`; it has {', '.join(named)}")
    if output is None and len(named) > 1:
        raise ValueError(
            f"{model.name} has several outputs: name that of the scores, `output={next(iter(named))!r}`"
        )
    block = named[output] if output is not None else model.outputs[0]
    if len(block.shape) != 1:
        raise ValueError(
            f"scores are one for each class, [classes], and `{block.name}` is {list(block.shape)}"
        )
    return block


def _boxes(
    model: ImplicitModel,
    inputs: tuple[Tensor, ...],
    epsilon: float | Sequence[float],
    lower: float | None,
    upper: float | None,
) -> dict[str, Interval]:
    """The box around each input, by name. Raises ValueError for numbers and inputs that do not fit."""
    radii = list(epsilon) if isinstance(epsilon, Sequence) else [float(epsilon)] * len(inputs)
    if len(radii) != len(inputs):
        raise ValueError(f"there are {len(inputs)} inputs, but {len(radii)} radii: give one, or one for each")
    real = next((tensor for tensor in inputs if tensor.dtype.is_floating_point), None)
    found = {}
    for block, tensor, radius in zip(model.inputs, inputs, radii):
        if not (radius >= 0 and radius < float("inf")):
            raise ValueError(f"`epsilon` is a number of at least 0, and this is {radius:g}")
        if tensor.ndim == 0 or len(tensor) != len(inputs[0]) or not len(tensor):
            shown = list(tensor.shape)
            raise ValueError(f"`{block.name}` is [batch, …], as large as the others, and this is {shown}")
        if block.tokens:
            if radius > 0:
                raise ValueError(
                    f"`{block.name}` holds tokens, which nothing is near to: give it the radius 0"
                )
            width = sizes(block.shape)[-1]
            dtype = real.dtype if real is not None else torch.get_default_dtype()
            found[block.name] = (F.one_hot(tensor.long(), width).to(dtype),) * 2
            continue
        if not tensor.dtype.is_floating_point:
            raise ValueError(f"`{block.name}` holds real numbers, and {tensor.dtype} was given")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"`{block.name}` holds values that are not finite")
        found[block.name] = _box(block.name, tensor, radius, lower, upper)
    return found


def _box(name: str, u: Tensor, radius: float, lower: float | None, upper: float | None) -> Interval:
    if lower is not None and bool((u < lower).any()):
        raise ValueError(f"`{name}` has entries below `lower`, which is {lower:g}")
    if upper is not None and bool((u > upper).any()):
        raise ValueError(f"`{name}` has entries above `upper`, which is {upper:g}")
    if radius == 0:
        return u, u
    low, high = u - radius, u + radius
    return low if lower is None else low.clamp_min(lower), high if upper is None else high.clamp_max(upper)


def _check_labels(labels: Tensor, batch: int, classes: int) -> None:
    if labels.shape != (batch,) or labels.dtype.is_floating_point or labels.dtype is torch.bool:
        raise ValueError(
            f"`labels` are whole numbers [{batch}], one for each sample, "
            f"and these are {labels.dtype} {list(labels.shape)}"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels go from 0 to {classes - 1}, and here is one of {_beyond(labels)}")


def _beyond(labels: Tensor) -> int:
    return int(labels.min()) if int(labels.min()) < 0 else int(labels.max())


__all__ = ["robust_loss", "worst_margins"]
