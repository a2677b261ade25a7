"""A declared shape against what the equation gives, and how the two could be made to agree."""

from __future__ import annotations

import itertools

from implicit_dsl.errors import Label
from implicit_dsl.operators.base import Operator
from implicit_dsl.resolve.constants import sizes
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import Problem, problem, quoted
from implicit_dsl.resolve.scope import DeclaredShape
from implicit_dsl.resolve.values import Definition
from implicit_dsl.resolve.wires import Wire
from implicit_dsl.shapes import Dim, Shape, count, known, show
from implicit_dsl.source import Span

Expected = tuple[Dim | None, ...]


def show_expected(expected: Expected, declared: DeclaredShape | None = None) -> str:
    """`[6, _]`, where `_` is a size left open; that of another value is shown as it is declared."""
    written = (quoted(size.span) for size in declared.sizes) if declared else itertools.repeat("_")
    shown = (
        "_" if size is None else str(size) if isinstance(size, int) else text
        for size, text in zip(expected, written)
    )
    return f"[{', '.join(shown)}]"


def fits(expected: Expected, shape: Shape) -> bool:
    """Whether a shape is what was declared."""
    return len(expected) == len(shape) and all(e is None or e == s for e, s in zip(expected, shape))


def check_declared(context: Context, definition: Definition, declared: DeclaredShape, value: Wire) -> None:
    """Raises Problem unless the equation gives the declared shape."""
    expected = sizes(context, declared)
    own = definition.wire
    if fits(expected, value.shape) and (own is None or own.shape == value.shape):
        return
    assert definition.expression is not None
    if own is not None and _reads(value, own):
        raise _not_kept(definition, value, definition.expression.span, declared.span)
    wanted, given = show_expected(expected, declared), show(value.shape)
    notes, help = _advice(expected, value)
    what = "equation" if definition.kind == "~" else "definition"
    raise problem(
        "E0202",
        f"`{definition.shown}` is declared {wanted}, but its {what} gives {given}",
        definition.expression.span,
        f"gives {given}",
        labels=(Label(declared.span, f"declared {wanted}"),),
        notes=notes,
        help=help,
    )


def check_kept(context: Context, sides: tuple[Wire, ...]) -> None:
    """Raises Problem if two values do not agree as one is a state that comes back in another shape."""
    for definition in reversed(context.active):
        own = definition.wire
        if own is None or own.shape not in (side.shape for side in sides):
            continue
        for side in sides:
            if side.shape != own.shape and _reads(side, own):
                raise _not_kept(definition, side, side.span, own.span)


def _reads(value: Wire, state: Wire) -> bool:
    """Whether a value depends on a state, as far as the equations are known."""
    seen: set[Wire] = set()
    waiting = [value]
    while waiting:
        wire = waiting.pop()
        if wire is state:
            return True
        if wire not in seen:
            seen.add(wire)
            waiting.extend(wire.sources if wire.drive is None else (wire.drive,))
    return False


def _not_kept(definition: Definition, value: Wire, span: Span, declared: Span) -> Problem:
    """What comes back to a state in a loop has another shape than the state."""
    assert definition.wire is not None
    wanted, given = show(definition.wire.shape), show(value.shape)
    notes, help = _advice(tuple(s if isinstance(s, int) else None for s in definition.wire.shape), value)
    if wanted == given:
        notes = ("each `_` depends on the size of an input, and these depend on it in different ways",)
    return problem(
        "E0203",
        f"`{definition.shown}` must keep its shape {wanted} in the loop, but `{quoted(span)}` is {given}",
        span,
        f"has shape {given}",
        labels=(Label(declared, f"declared {wanted}"),),
        notes=notes,
        help=help,
    )


def _advice(expected: Expected, value: Wire) -> tuple[tuple[str, ...], str]:
    """The arithmetic of the operator that made the shape, and what would make the declared one."""
    shape = value.shape
    while value.kind in ("activation", "sum") and value.sources and value.sources[0].shape == shape:
        value = value.sources[0]
    operator = value.operator
    if operator is not None and operator.kind in ("conv", "avg_pool", "max_pool"):
        return _windows(expected, operator, value.sources[0])
    if operator is not None and operator.kind == "conv_transpose":
        return _spread(expected, operator, value.sources[0])
    if operator is not None and operator.kind in ("dense", "matrix", "structured"):
        return _width(expected, operator, value)
    total = known(shape)
    if total and None not in expected and len(shape) > 1 and expected == (count(shape),):
        return (), f"write `flatten({quoted(value.span)})` for one axis of {count(shape)}"
    return (), ""


def _width(expected: Expected, operator: Operator, value: Wire) -> tuple[tuple[str, ...], str]:
    """Dense acts on the last axis, which flatten makes the only one."""
    source = operator.source
    if len(source) > len(expected) == 1 and known(source):
        note = f"it acts on the last axis of {show(source)} and keeps the others"
        return (
            note,
        ), f"write `flatten({quoted(value.sources[0].span)})` to take all {count(source)} entries"
    return (), ""


def _first_wrong(expected: Expected, operator: Operator) -> int | None:
    """The first axis behind the channels that is wrong, if the size that it comes from is known."""
    shape = operator.target
    if len(expected) != len(shape):
        return None
    wrong = [i for i, (e, s) in enumerate(zip(expected, shape)) if i and isinstance(e, int) and e != s]
    return wrong[0] if wrong and isinstance(operator.source[wrong[0]], int) else None


def _spread(expected: Expected, operator: Operator, source: Wire) -> tuple[tuple[str, ...], str]:
    """What transposed convolution does to the first axis that is wrong."""
    axis = _first_wrong(expected, operator)
    if axis is None:
        return (), ""
    names = ("kernel", "stride", "pad", "output_pad", "dilation")
    kernel, stride, pad, more, dilation = (operator[name][axis - 1] for name in names)
    place = f"`{source.name}` " if source.name else ""
    note = (
        f"({operator.source[axis]} - 1)*{stride} - 2*{pad} + {dilation}*({kernel} - 1) + {more} + 1 = "
        f"{operator.target[axis]} along axis {axis + 1}, from {place}{show(operator.source)}, "
        f"kernel {kernel}, stride {stride}, pad {pad}, output_pad {more}, dilation {dilation}"
    )
    wanted, given = expected[axis], operator.target[axis]
    assert isinstance(wanted, int) and isinstance(given, int)
    lacking = wanted - given + more
    alike = all(len(set(values)) == 1 for values in (operator.source[1:], expected[1:], operator["kernel"]))
    if operator.get("tied", False) or not alike or not 0 <= lacking < max(stride, dilation):
        return (note,), ""
    shown = show_expected(
        (operator.target[0] if isinstance(operator.target[0], int) else None, *expected[1:])
    )
    return (note,), f"`output_pad = {lacking}` gives {shown}"


def _windows(expected: Expected, operator: Operator, source: Wire) -> tuple[tuple[str, ...], str]:
    """What convolution and pooling do to the first axis that is wrong."""
    shape, axis = operator.target, _first_wrong(expected, operator)
    if axis is None:
        return (), ""
    size = operator.source[axis]
    assert isinstance(size, int)
    kernel, stride, pad = (operator[name][axis - 1] for name in ("kernel", "stride", "pad"))
    dilation = operator["dilation"][axis - 1] if operator.kind == "conv" else 1
    after = operator.get("after", operator["pad"])[axis - 1]
    cells = f"2*{pad}" if after == pad else f"{pad} + {after}"
    window = str(kernel) if dilation == 1 else f"({dilation}*({kernel} - 1) + 1)"
    step = f" dilation {dilation}," if dilation != 1 else ""
    place = f"`{source.name}` " if source.name else ""
    note = (
        f"({size} + {cells} - {window}) ÷ {stride} + 1 = {shape[axis]} along axis {axis + 1}, "
        f"from {place}{show(operator.source)}, kernel {kernel},{step} pad {pad}, stride {stride}"
    )
    target = expected[axis]
    assert isinstance(target, int)
    return (note,), _remedy(operator, (size, kernel, stride, pad, dilation), target, expected)


def _remedy(operator: Operator, geometry: tuple[int, ...], target: int, expected: Expected) -> str:
    """The padding, stride or kernel that gives the declared size, if all axes are alike."""
    size, kernel, stride, pad, dilation = geometry
    alike = all(len(set(values)) == 1 for values in (operator.source[1:], expected[1:], operator["kernel"]))
    if not alike:
        return ""

    def gives(kernel: int, stride: int, pad: int) -> bool:
        return (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 == target

    shown = show_expected(
        (operator.target[0] if isinstance(operator.target[0], int) else None, *expected[1:])
    )
    most = kernel * dilation if operator.kind == "conv" else kernel // 2
    for other in range(pad + 1, min(most, 64) + 1):
        if gives(kernel, stride, other):
            return f"`pad = {other}` gives {shown}"
    for other in range(1, 17):
        if other != stride and gives(kernel, other, pad):
            return f"`stride = {other}` gives {shown}"
    for other in range(1, min(size + 2 * pad, 64) + 1):
        if gives(other, stride, pad):
            return f"a kernel of {other} gives {shown}"
    return ""
