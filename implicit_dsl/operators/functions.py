"""Functions that a program defines, as activations of their own: `swish(x) = x .* σ(x)`.

The bounds of the derivative are proved: between −M and M by branch and bound with intervals
(`enclosure`), beyond by what the function tends to (`tails`). Where it grows without end, as x² does,
there is no bound, and the function counts as steep only far out (`majorant_on`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.operators.base import Expression, Operator, Rule, Settings
from implicit_dsl.operators.body import Body, Instruction, run
from implicit_dsl.operators.elementwise import Elementwise, example
from implicit_dsl.operators.enclosure import Pair, enclose, greatest_slope
from implicit_dsl.operators.relaxation import outwards
from implicit_dsl.operators.tails import Unbounded, ends
from implicit_dsl.shapes import Shape

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")

_STARTS = (8.0, 32.0, 256.0, 4096.0, 2.0**20)
_CLOSE = 1e-7


def _rule(operator: Operator) -> Elementwise:
    from implicit_dsl.operators import activation_rule

    rule = activation_rule(operator)
    assert isinstance(rule, Elementwise)
    return rule


def known(operator: Operator) -> bool:
    """Whether functions made of this activation can be bounded."""
    from implicit_dsl.operators import OPERATORS

    rule = OPERATORS[operator.kind]
    return isinstance(rule, Elementwise) and rule.curve(operator) is not None


class _Numbers:
    """Values and derivatives, in NumPy."""

    def __init__(self, like: np.ndarray) -> None:
        self._zero = np.zeros_like(like)

    def constant(self, number: float) -> tuple[np.ndarray, np.ndarray]:
        return self._zero + number, self._zero

    def scale(self, number: float, a: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return number * a[0], number * a[1]

    def add(
        self, a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        return a[0] + b[0], a[1] + b[1]

    def multiply(
        self, a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        return a[0] * b[0], a[1] * b[0] + a[0] * b[1]

    def maximum(
        self, a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        first = (1 + np.sign(a[0] - b[0])) / 2  # half of each where they are equal
        return np.maximum(a[0], b[0]), first * a[1] + (1 - first) * b[1]

    def phi(self, operator: Operator, a: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        rule = _rule(operator)
        return rule.reference(operator, a[0]), rule.derivative(operator, a[0]) * a[1]


@lru_cache(maxsize=256)
def derived(body: Body) -> tuple[float, float] | None:
    """Bounds of the derivative, rounded outwards and close to the best; None if there are none."""
    found = None
    for start in _STARTS:
        try:
            far = [ends(body, _rule, start, side).slope.bounds() for side in (-1, 1)]
        except Unbounded:
            continue
        middle = -greatest_slope(body, _rule, start, -1.0), greatest_slope(body, _rule, start, 1.0)
        low, high = min(end[0] for end in far), max(end[1] for end in far)
        found = min(middle[0], low), max(middle[1], high)
        if middle[0] - _CLOSE <= low and high <= middle[1] + _CLOSE:
            break
    return found


@lru_cache(maxsize=256)
def _values(body: Body) -> tuple[float, float] | None:
    """Bounds of the values; None if there are none."""
    for start in _STARTS[1:2]:
        try:
            far = [ends(body, _rule, start, side).value.bounds() for side in (-1, 1)]
        except Unbounded:
            return None
        edges = np.linspace(-start, start, 4097)
        middle = enclose(body, _rule, edges[:-1], edges[1:]).value
        low, high = float(middle.lower.min()), float(middle.upper.max())
        return min(low, *(end[0] for end in far)), max(high, *(end[1] for end in far))
    return None


def steepest(body: Body) -> tuple[float, float]:
    """The largest |f'| at many points, and where it is: what a claim is held to."""
    far = np.logspace(0.9, 6, 4000)
    x = np.concatenate([np.linspace(-8, 8, 32001), far, -far])
    with np.errstate(all="ignore"):
        slopes = np.abs(run(body, _Numbers(x), (x, np.ones_like(x)))[1])
    slopes = np.where(np.isfinite(slopes), slopes, 0.0)
    at = int(slopes.argmax())
    return float(slopes[at]), float(x[at])


def claims(operators: Iterable[Operator | None]) -> tuple[str, ...]:
    """What the bounds of functions rest on that is not proved: `|f'| <= 1.1`."""
    found = (
        f"|{operator['name']}'| <= {dict(operator.settings)['claimed']:g}"
        for operator in operators
        if operator is not None and operator.kind == "function" and "claimed" in dict(operator.settings)
    )
    return tuple(dict.fromkeys(found))


class Function(Elementwise):
    kind = "function"
    has_useful_majorant = False  # unless it has a gain
    doc = "A function of the program of one value, entry by entry: `swish(x) = x .* σ(x)`."
    example = example("(z -> z .* σ(z))(u)")

    def operator(self, settings: Settings, source: Shape) -> Operator:
        return Operator(self.kind, source, source, tuple(sorted(settings.items())))

    def _run(self, operator: Operator, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        made, slope = run(operator["body"], _Numbers(z), (z, np.ones_like(z)))
        return np.asarray(made), np.asarray(slope)

    def reference(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return self._run(operator, z)[0]

    def derivative(self, operator: Operator, z: np.ndarray) -> np.ndarray:
        return self._run(operator, z)[1]

    def slope(self, operator: Operator) -> tuple[float, float] | None:
        """What is proved, or what its author claims where that is less."""
        proved, claimed = derived(operator["body"]), dict(operator.settings).get("claimed")
        if not isinstance(claimed, float):
            return proved
        low, high = proved or (-claimed, claimed)
        return max(low, -claimed), min(high, claimed)

    def range(self, operator: Operator) -> tuple[float, float] | None:
        return _values(operator["body"])

    def majorant_on(
        self, operator: Operator, change: np.ndarray, lower: np.ndarray, upper: np.ndarray
    ) -> np.ndarray:
        """The largest slope within each interval; where these are infinite, the gain."""
        everywhere = self.gain(operator)
        finite = np.isfinite(lower) & np.isfinite(upper)
        bounded: Pair = enclose(
            operator["body"], _rule, np.where(finite, lower, 0.0), np.where(finite, upper, 0.0)
        )
        most = np.inf if everywhere is None else everywhere
        slope = np.where(finite, np.fmin(bounded.slope.magnitude, most), most)
        return np.where(change > 0, change * np.where(change > 0, slope, 0.0), 0.0)

    def image(
        self, operator: Operator, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.monotone(operator):
            return super().image(operator, lower, upper)
        value = enclose(operator["body"], _rule, lower, upper).value
        return outwards(value.lower, value.upper, *(self.range(operator) or (-np.inf, np.inf)))

    def slopes_on(
        self, operator: Operator, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        least, most = self.slope(operator) or (-np.inf, np.inf)
        found = enclose(operator["body"], _rule, lower, upper).slope
        return np.fmax(found.lower, least), np.fmin(found.upper, most)

    def emit(self, operator: Operator, z: Expression) -> Expression:
        return self.emit_kept(operator, [z], lambda value: value)

    def emit_kept(
        self, operator: Operator, parts: list[Expression], keep: Callable[[Expression], Expression]
    ) -> Expression:
        (z,) = parts
        body: Body = operator["body"]
        uses = [0] * (len(body) + 1)
        for instruction in body:
            for value in _read(instruction):
                uses[value] += 1
        values = [keep(z) if uses[0] > 1 and not z.text.isidentifier() else z]
        for number, instruction in enumerate(body, 1):
            made = _written(body, instruction, values)
            plain = instruction[0] in ("constant", "scale")
            values.append(keep(made) if uses[number] > 1 and not plain else made)
        return values[-1]


def _read(instruction: Instruction) -> tuple[int, ...]:
    """The values that an instruction takes."""
    name, *rest = instruction
    start = {"constant": 1, "scale": 1, "phi": 2}.get(name, 0)
    return tuple(rest[start:])


def _written(body: Body, instruction: Instruction, values: list[Expression]) -> Expression:
    """An instruction as Python."""
    name, *rest = instruction
    match name:
        case "constant":
            return Expression(repr(rest[0]), tight=rest[0] >= 0)
        case "scale" if rest[0] == -1:
            return Expression(f"-{values[rest[1]].atom}", tight=False)
        case "scale":
            return Expression(f"{rest[0]!r} * {values[rest[1]].atom}", tight=False)
        case "product":
            return Expression(" * ".join(values[i].atom for i in rest), tight=False)
        case "maximum" | "minimum":
            return Expression(f"torch.{name}({', '.join(values[i].text for i in rest)})")
        case "sum":
            text = ""
            for i in rest:
                sign, part = _signed(body, i, values)
                text = f"{text} {sign or '+'} {part}" if text else f"{sign}{part}"
            return Expression(text, tight=False)
        case _:
            kind, settings, i = rest
            return _rule(Operator(kind, (), ())).emit(Operator(kind, (), (), settings), values[i])


def _signed(body: Body, i: int, values: list[Expression]) -> tuple[str, str]:
    """A summand, and '-' if it is subtracted."""
    made = body[i - 1] if i else ("x",)
    if made[0] == "scale" and made[1] == -1:
        return "-", values[made[2]].atom
    if made[0] == "scale" and made[1] < 0:
        return "-", f"{-made[1]!r} * {values[made[2]].atom}"
    if made[0] == "constant" and made[1] < 0:
        return "-", repr(-made[1])
    bare = values[i].tight or made[0] in ("product", "scale")  # they bind more tightly than a sum
    return "", values[i].text if bare else values[i].atom


RULES: tuple[Rule, ...] = (Function(),)
