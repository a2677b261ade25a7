"""Names of a program that is written from a model: those of its source, as far as they can be names."""

from __future__ import annotations

from collections.abc import Iterable

from implicit_dsl.model import ImplicitModel
from implicit_dsl.names import RESERVED, TAKEN_ATTRIBUTES, TAKEN_GLOBALS, identifier
from implicit_dsl.operators import OPERATORS
from implicit_dsl.vocabulary import KEYWORDS

_FUNCTIONS = """
    D I abs ceil chain constant cos div exp fixed floor glorot hcat ifelse inf kaiming last length
    log max mean min mod normal ones orthogonal pi prev reverse round sin size sqrt sum uniform vcat
    zeros
"""  # of the language, beside operators
_BUILTINS = {name for rule in OPERATORS.values() for name in rule.names} | set(_FUNCTIONS.split())


class Naming:
    """One name for each block and each layer or parameter, none of them twice."""

    def __init__(self, model: ImplicitModel) -> None:
        self._taken = {
            *KEYWORDS,
            *RESERVED,
            *TAKEN_ATTRIBUTES,
            *TAKEN_GLOBALS,
            *_BUILTINS,
            "A",
            "B",
            "C",
            "D",
        }
        self._taken |= {"e", "pi", "Fro", "system", "x0"}
        self._blocks: dict[str, str] = {}
        self._tensors: dict[str, str] = {}
        inner = [*(block.name for block in model.inputs), *(block.name for block in model.outputs)]
        for name in (*inner, *(block.name for block in model.states)):
            self._blocks[name] = self._new(name)
        # `param A` is a usual name: those of parameters may be letters of the matrices
        self._taken -= {"A", "B", "C", "D"} - set(self._blocks.values())

    def block(self, name: str) -> str:
        """The name of an input, a state or an output."""
        return self._blocks[name]

    def share(self, name: str, other: str) -> None:
        """Give a state the name of another one, which is the same."""
        self._blocks[name] = self._blocks[other]

    def tensor(self, id: str) -> str:
        """The name of the layer or parameter that a tensor is of: `K` for `K.weight`."""
        held = id.rpartition(".")[0] or id
        if held not in self._tensors:
            self._tensors[held] = self._new(held)
        return self._tensors[held]

    def beside(self, name: str) -> str:
        """A further name like one."""
        return self._new(name)

    def _new(self, wanted: str) -> str:
        plain = identifier("".join(c if c.isalnum() or c == "_" else "_" for c in wanted)).strip("_") or "x"
        plain = plain if not plain[0].isdigit() else f"x{plain}"
        for name in _numbered(plain):
            if name not in self._taken:
                self._taken.add(name)
                return name
        raise AssertionError("there is always another number")


def _numbered(name: str) -> Iterable[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1
