"""What a generated file calls the things of the runtime, and what it calls its own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from implicit_dsl.emit.loops import function_name
from implicit_dsl.model import ImplicitModel
from implicit_dsl.recurrence import with_steps

# What `forward` calls of the runtime, beside what fusions call: no local variable may have these names.
CALLED_IN_FORWARD = (
    "channels_last",
    "elman",
    "first_guesses",
    "gru",
    "integrate",
    "last",
    "lstm",
    "or_zeros",
    "require",
    "require_finite",
    "require_finite_steps",
    "scan",
    "stack",
    "update_statistics",
)


@dataclass(frozen=True, slots=True)
class Names:
    """How a file calls the runtime: `runtime.Auto`, or `Auto` where it carries that.

    What it carries gives way to the names of the models: where one is called `Auto`, it is `Auto_`.
    """

    standalone: bool = False
    own: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()

    @staticmethod
    def of(models: Collection[ImplicitModel], standalone: bool) -> Names:
        """The names of the file that holds the models."""
        plain = Names(standalone, models=frozenset(model.name for model in models))
        own = {"_NUMBERS", "_STRUCTURES", *plain.models}
        for model in models:
            own.add(plain.class_of_outputs(model))
            for part in with_steps(model):
                for loop in part.loops:
                    own |= {f"{function_name(part, loop)}{suffix}" for suffix in ("", "_affine", "_phi")}
        return replace(plain, own=frozenset(own))

    def __call__(self, name: str) -> str:
        return self.carried(name) if self.standalone else f"runtime.{name}"

    def carried(self, name: str) -> str:
        """What a name of the runtime, or of what it imports, becomes where it is copied."""
        while name in self.own:
            name += "_"
        return name

    def class_of_outputs(self, model: ImplicitModel) -> str:
        """The class of what several outputs are returned as: no model has its name."""
        name = f"{model.name}Output"
        while name in self.models:
            name += "_"
        return name
