"""What a generated file calls the things of the runtime, and what it calls its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from implicit_dsl.emit.loops import function_name
from implicit_dsl.model import ImplicitModel

# What `forward` calls of the runtime, beside what fusions call: no local variable may have these names.
CALLED_IN_FORWARD = ("first_guesses", "require", "update_statistics")


@dataclass(frozen=True, slots=True)
class Names:
    """How a file calls the runtime: `runtime.Auto`, or `Auto` where it carries that.

    What it carries gives way to the names of the models: where one is called `Auto`, it is `Auto_`.
    """

    standalone: bool = False
    own: frozenset[str] = frozenset()

    @staticmethod
    def of(models: Iterable[ImplicitModel], standalone: bool) -> Names:
        """The names of the file that holds the models."""
        own: set[str] = {"_STRUCTURES"}
        for model in models:
            own |= {model.name, class_of_outputs(model)}
            for loop in model.loops:
                own |= {f"{function_name(model, loop)}{suffix}" for suffix in ("", "_affine", "_phi")}
        return Names(standalone, frozenset(own))

    def __call__(self, name: str) -> str:
        return self.carried(name) if self.standalone else f"runtime.{name}"

    def carried(self, name: str) -> str:
        """What a name of the runtime, or of what it imports, becomes where it is copied."""
        while name in self.own:
            name += "_"
        return name


def class_of_outputs(model: ImplicitModel) -> str:
    """The class of what several outputs are returned as."""
    return f"{model.name}Output"
