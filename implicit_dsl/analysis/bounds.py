"""Bounds of outputs, and of linear functions of them, over regions of inputs: what all methods share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis import lp, sdp
from implicit_dsl.analysis.boxes import Boxes, boxes_of, output_boxes
from implicit_dsl.analysis.crown import Objectives, Relaxed, relaxed, upper_bounds
from implicit_dsl.analysis.intervals import Box, image
from implicit_dsl.analysis.network import Network, Node
from implicit_dsl.analysis.regions import Region
from implicit_dsl.operators import activation_rule
from implicit_dsl.runtime.certificates.rounding import growth, upwards

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

Method: TypeAlias = Literal["sensitivity", "interval", "nemon", "crown", "lp", "sdp"]
METHODS: tuple[str, ...] = get_args(Method)
_MOST_NUMBERS = 8_000_000  # of an array of a backward pass
MOST_TIGHTENED = 2_048  # slots of a model whose boxes are tightened unless told otherwise


@dataclass(frozen=True)
class Effort:
    """How hard backward bounds are worked on.

    `tighten`: rounds in which the boxes of the slots are bounded backwards as well; `optimise`: steps in
    which slopes are chosen for each bound of outputs, and `within` for those of slots.
    """

    tighten: int = 0
    optimise: int = 0
    within: int = 0

    @staticmethod
    def of(network: Network, tighten: int | None, optimise: int) -> Effort:
        """`tighten` is 2 if not given, and 0 for models with many slots. Raises ValueError below 0."""
        if (tighten or 0) < 0 or optimise < 0:
            raise ValueError("rounds and steps are numbers of at least 0")
        slots = sum(node.slots for node in network.states if not node.is_linear)
        usual = 2 if slots <= MOST_TIGHTENED else 0
        return Effort(usual if tighten is None else tighten, optimise, optimise // 4)


def checked_method(method: str) -> None:
    """Raises ValueError for a method that there is not."""
    if method not in METHODS:
        listed = ", ".join(f'"{name}"' for name in METHODS)
        raise ValueError(f'there is no method "{method}": there are {listed}')


def objectives_of(network: Network, rows: np.ndarray) -> Objectives:
    """Linear functions [batch or 1, k, outputs] of all outputs as those of states and inputs.

    What rounding makes of their numbers is left to `slack_of`.
    """
    states: dict[str, np.ndarray] = {}
    inputs: dict[str, np.ndarray] = {}
    offset, start = np.zeros(rows.shape[:2]), 0
    for node in network.outputs:
        part = rows[..., start : start + node.slots]
        start += node.slots
        offset = offset + part @ node.offset
        for source, block in node.reads.items():
            into = states if source in network.node else inputs
            into[source] = into.get(source, 0.0) + block.pull(part)
    return Objectives(states, inputs, offset)


def slack_of(network: Network, boxes: Boxes, rows: np.ndarray) -> np.ndarray:
    """What rounding can make of linear functions of the outputs, [batch, k]."""
    total, start = np.zeros(rows.shape[:2]), 0
    for node in network.outputs:
        part = np.abs(rows[..., start : start + node.slots])
        start += node.slots
        size = np.abs(node.offset)
        for source, block in node.reads.items():
            size = size + block.magnitude(np.maximum(*map(np.abs, boxes.values[source])))
        terms = node.terms + rows.shape[-1]
        size = np.broadcast_to(size, (len(boxes.values[next(iter(boxes.values))][0]), node.slots))
        total = total + 4 * growth(terms) * (part * size[:, None]).sum(-1)
    return np.asarray(total)


def tightened(network: Network, region: Region, boxes: Boxes, effort: Effort) -> Boxes:
    """Boxes whose slots are bounded backwards as well, where φ is not linear on them."""
    bounded: Relaxed | None = None
    for _ in range(effort.tighten):
        for _, nodes in network.parts():
            for node in nodes:
                if not node.is_linear and not _reads_inputs_alone(network, node):
                    bounded = relaxed(network, boxes, bounded)
                    boxes = _with_tighter(network, region, bounded, node, effort.within)
    return boxes


def _reads_inputs_alone(network: Network, node: Node) -> bool:
    return not any(source in network.node for source in node.reads)


def _with_tighter(network: Network, region: Region, bounded: Relaxed, node: Node, optimise: int) -> Boxes:
    boxes = bounded.boxes
    lower, upper = boxes.slots[node.name]
    open_ = np.flatnonzero(_is_open(node, lower, upper).any(0))
    if not len(open_):
        return boxes
    low, high = lower.copy(), upper.copy()
    step = _rows_at_once(network, 2 * region.batch)
    for at in range(0, len(open_), step):
        chosen = open_[at : at + step]
        wanted = _rows_of(network, node, chosen)
        slack = _slack_of_slots(node, boxes, chosen)
        both = _stacked(wanted, wanted.negated())
        found = upper_bounds(network, region, bounded, both, optimise)
        top, bottom = found[:, : len(chosen)] + slack, -found[:, len(chosen) :] - slack
        low[:, chosen] = np.maximum(low[:, chosen], bottom)
        high[:, chosen] = np.minimum(high[:, chosen], top)
    slots = np.minimum(low, high), np.maximum(low, high)
    made = image(node, slots)
    before = boxes.values[node.name]
    cut = np.maximum(before[0], made[0]), np.minimum(before[1], made[1])
    values = {**boxes.values, node.name: (np.minimum(*cut), np.maximum(*cut))}
    return Boxes(values, {**boxes.slots, node.name: slots})


def _widest(network: Network) -> int:
    """The numbers that a backward pass needs for one function of one sample, at one state."""
    found = [1]
    for node in network.states:
        activation = node.block.activation
        reads = 1 if activation is None else activation_rule(activation).reads(activation)
        found += [node.slots, max(1, reads) * node.size]
    return max(found)


def _rows_at_once(network: Network, batch: int) -> int:
    """How many functions of each of so many samples are bounded at once, so that arrays are not too large."""
    return max(1, _MOST_NUMBERS // (batch * _widest(network)))


def _is_open(node: Node, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Where tighter slots would make of φ something closer to linear."""
    activation = node.block.activation
    assert activation is not None
    if activation.kind == "relu":
        return (lower < 0) & (upper > 0)
    if not activation_rule(activation).elementwise:
        return np.ones(lower.shape, bool)
    return np.asarray(upper - lower > 1e-9 * (1 + np.abs(lower) + np.abs(upper)))


def _rows_of(network: Network, node: Node, chosen: np.ndarray) -> Objectives:
    """The slots `chosen` of a state as functions of what it reads."""
    unit = np.zeros((len(chosen), node.slots))
    unit[np.arange(len(chosen)), chosen] = 1.0
    states: dict[str, np.ndarray] = {}
    inputs: dict[str, np.ndarray] = {}
    for source, block in node.reads.items():
        (states if source in network.node else inputs)[source] = block.pull(unit)[None]
    return Objectives(states, inputs, node.offset[chosen][None])


def _slack_of_slots(node: Node, boxes: Boxes, chosen: np.ndarray) -> np.ndarray:
    size = np.abs(node.offset)
    for source, block in node.reads.items():
        size = size + block.magnitude(np.maximum(*map(np.abs, boxes.values[source])))
    return np.asarray(4 * growth(node.terms) * np.atleast_2d(size)[:, chosen])


def _stacked(one: Objectives, other: Objectives) -> Objectives:
    def joined(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.concatenate((a, b), 1)

    return Objectives(
        {name: joined(rows, other.states[name]) for name, rows in one.states.items()},
        {name: joined(rows, other.inputs[name]) for name, rows in one.inputs.items()},
        joined(one.offset, other.offset),
    )


def upper_of_rows(
    network: Network,
    region: Region,
    rows: np.ndarray,
    method: str,
    effort: Effort,
    boxes: Boxes | None = None,
) -> np.ndarray:
    """Upper bounds [batch, k] of linear functions `rows` [batch or 1, k, outputs] of the outputs.

    `boxes` are those that the method works on, if they are known.
    """
    rows = np.broadcast_to(rows, (region.batch, *rows.shape[1:]))
    if method == "sensitivity":
        return _by_sensitivity(network, region, rows)
    if method == "sdp":
        sdp.require(network)  # before boxes are worked on
    if boxes is None:
        boxes = boxes_for(network, region, method, effort)
    if method in ("interval", "nemon"):
        return _over_boxes(network, boxes, rows)
    objectives, made = objectives_of(network, rows), []
    bounded = relaxed(network, boxes)
    if method in ("lp", "sdp"):
        solvers = (upper_bounds, lp.upper_bounds, sdp.upper_bounds)[: 3 if method == "sdp" else 2]
        found = np.minimum.reduce([solve(network, region, bounded, objectives) for solve in solvers])
        found = found + slack_of(network, boxes, rows)
        return np.asarray(np.minimum(found, _over_boxes(network, boxes, rows)))
    step = _rows_at_once(network, region.batch)
    for at in range(0, rows.shape[1], step):
        part = some_of(objectives, slice(at, at + step))
        made.append(upper_bounds(network, region, bounded, part, effort.optimise))
    found = np.concatenate(made, 1) + slack_of(network, boxes, rows)
    return np.asarray(np.minimum(found, _over_boxes(network, boxes, rows)))


def _by_sensitivity(network: Network, region: Region, rows: np.ndarray) -> np.ndarray:
    """y₀ ± S |u − u₀| for the functions `rows` of y, around the middle u₀ of the region."""
    middle = Region(region.centre, region.centre, region.centre)
    at = _over_boxes(network, boxes_of(network, middle), rows)
    flat, index = np.unique(rows.reshape(-1, rows.shape[-1]), axis=0, return_inverse=True)
    S = network.sensitivity.rows(flat)[np.reshape(index, rows.shape[:2])]
    names = [block.name for block in network.system.inputs]
    room = np.concatenate(
        [
            np.maximum(region.upper[name] - region.centre[name], region.centre[name] - region.lower[name])
            for name in names
        ],
        1,
    )
    moved = upwards((S * room[:, None]).sum(-1), S.shape[-1] + 4)
    if region.radius is not None:
        ball = region.radius[:, None] * np.sqrt(upwards((S * S).sum(-1), S.shape[-1] + 4)) * (1 + growth(4))
        moved = np.minimum(moved, ball)
    return np.asarray(at + moved + growth(8) * (np.abs(at) + moved))


def boxes_for(network: Network, region: Region, method: str, effort: Effort) -> Boxes:
    """The boxes of the states that a method works on."""
    boxes = boxes_of(network, region, solve_own=method != "interval")
    return boxes if method in ("interval", "nemon") else tightened(network, region, boxes, effort)


def some_of(objectives: Objectives, rows: slice | np.ndarray) -> Objectives:
    """Some of the functions."""
    states, inputs = (
        {name: some[:, rows] for name, some in one.items()} for one in (objectives.states, objectives.inputs)
    )
    return Objectives(states, inputs, objectives.offset[:, rows])


def _over_boxes(network: Network, boxes: Boxes, rows: np.ndarray) -> np.ndarray:
    """The largest values of functions of C x + D u + d on boxes of x and u, their rows added up first."""
    objectives = objectives_of(network, rows)
    total = objectives.offset
    for given in (objectives.states, objectives.inputs):
        for name, slope in given.items():
            low, high = (end[:, None] for end in boxes.values[name])
            total = total + np.where(slope > 0, slope * high, slope * low).sum(-1)
    terms = sum(node.terms for node in network.outputs) + rows.shape[-1]
    return np.asarray(total + slack_of(network, boxes, rows) * (1 + growth(terms)))


def outputs_as_rows(network: Network) -> np.ndarray:
    """The outputs and their negatives, [1, 2 · outputs, outputs]."""
    total = sum(node.slots for node in network.outputs)
    return np.concatenate((np.eye(total), -np.eye(total)))[None]


def output_bounds_of(network: Network, region: Region, method: str, effort: Effort) -> Box:
    """Bounds [batch, outputs] of all outputs, one after another."""
    if method in ("interval", "nemon"):
        boxes = output_boxes(network, boxes_for(network, region, method, effort))
        ends = [np.concatenate([boxes[node.name][side] for node in network.outputs], 1) for side in (0, 1)]
        return ends[0], ends[1]
    found = upper_of_rows(network, region, outputs_as_rows(network), method, effort)
    half = found.shape[1] // 2
    return -found[:, half:], found[:, :half]


def samples_at_once(network: Network, rows: int, effort: Effort) -> int:
    """How many samples are bounded at once, so that arrays are not too large."""
    if effort.tighten:
        rows = max(rows, 2 * min(max([node.slots for node in network.states] + [1]), 64))
    return max(1, min(1_000, _MOST_NUMBERS // (_widest(network) * max(1, rows))))
