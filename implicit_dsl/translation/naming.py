"""Names for the program: from paths of modules and keys of the state_dict, and never one that is taken."""

from __future__ import annotations

import re

from implicit_dsl.names import TAKEN_ATTRIBUTES, TAKEN_GLOBALS, identifier, reserved
from implicit_dsl.operators import ACTIVATIONS, CONSTRUCTORS
from implicit_dsl.resolve.builtins import BUILTINS
from implicit_dsl.sets import SETS
from implicit_dsl.vocabulary import KEYWORDS

_WORDS = KEYWORDS | set(ACTIVATIONS) | set(CONSTRUCTORS) | set(BUILTINS) | set(SETS)
_LONGEST = 80


class Names:
    """Names that are given out, each once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def is_free(self, wanted: str) -> bool:
        """Whether nothing has this name yet."""
        return spelled(wanted) not in self._taken and _free(spelled(wanted))

    def take(self, wanted: str) -> str:
        """`wanted` as a name of the language, with a number behind it if it is taken."""
        plain = spelled(wanted)
        made, count = plain, 0 if not _free(plain) else 1
        while made in self._taken or not _free(made):
            count += 1
            made = f"{plain}_{count}"
        self._taken.add(made)
        return made


def spelled(wanted: str) -> str:
    """Letters, digits and `_` of ASCII, not beginning with a digit or an underscore."""
    plain = re.sub(r"\W", "_", identifier(wanted), flags=re.ASCII)
    plain = re.sub(r"_+", "_", plain).strip("_")[:_LONGEST].rstrip("_")
    return plain if plain[:1].isalpha() else f"x{plain}"


def of_module(path: str, kind: str) -> str:
    """The name of a module: its path, behind the name of its class where that begins with a number.

    `layer1.0.conv1` is `layer1_0_conv1`, and `0` of a Sequential is `linear_0`.
    """
    return f"{kind.lower()}_{path}" if path[:1].isdigit() or not path else path


def _free(name: str) -> bool:
    return not (
        name in _WORDS
        or reserved(name)
        or name in TAKEN_ATTRIBUTES
        or name in TAKEN_GLOBALS
        or name in ("A", "B", "C", "D", "system")
    )
