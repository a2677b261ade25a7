"""The structure of the models as literals at the end of the generated file, for `system()`."""

from __future__ import annotations

import textwrap

from implicit_dsl.emit.wording import WIDTH
from implicit_dsl.model import ImplicitModel

_INTRODUCTION = [
    "# The models in matrix form, x = φ(A x + B u + b) and y = C x + D u + d, without the numbers:",
    "# blocks with their shapes and activations, and the chains of operators between them.",
    "# fmt: off",
]


def literals(models: tuple[ImplicitModel, ...]) -> list[str]:
    """The lines that assign `_STRUCTURES`."""
    lines = [*_INTRODUCTION, "_STRUCTURES: dict[str, dict[str, Any]] = {"]
    for model in models:
        lines.append(f'    "{model.name}": {{')
        for key, value in model.as_data().items():
            if not isinstance(value, tuple):
                lines.append(f"        {key!r}: {value!r},")
                continue
            lines.append(f"        {key!r}: (")
            lines.extend(f"            {item!r}," for item in value)
            lines.append("        ),")
        lines.append("    },")
    return [*lines, "}", *_numbers(models), "# fmt: on"]


def _numbers(models: tuple[ImplicitModel, ...]) -> list[str]:
    """The lines that assign `_NUMBERS`: the entries of fixed tensors, by model and name."""
    lines: list[str] = []
    for model in models:
        for tensor in model.tensors:
            if len(tensor.fixed) > 1:
                written = f"{', '.join(map(repr, tensor.fixed))},"
                lines.append(f'    ("{model.name}", "{tensor.id}"): (')
                lines += textwrap.wrap(written, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)
                lines.append("    ),")
    if not lines:
        return []
    return ["", "_NUMBERS: dict[tuple[str, str], tuple[float, ...]] = {", *lines, "}"]
