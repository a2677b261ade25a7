"""The structure of the models as literals at the end of the generated file, for `system()`."""

from __future__ import annotations

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
    return [*lines, "}", "# fmt: on"]
