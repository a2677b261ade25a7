"""The keywords of the language by what they are for, as highlighting needs them.

The grammar is what reads them; a test holds the two together.
"""

from __future__ import annotations

TEMPLATES = frozenset(("model", "block"))
DECLARATIONS = frozenset(("input", "output", "state", "param", "layer"))
BLOCKS = TEMPLATES | {"end"}
OPENING = TEMPLATES | {"for", "if", "recurrent", "ode"}  # what `end` closes
MIDDLE = frozenset(("elseif", "else"))
CONTROL = frozenset(("for", "if", "recurrent", "ode", "open", "import")) | MIDDLE
IN = frozenset(("in",))
CONSTANTS = frozenset(("true", "false", "Inf"))
SOFT = frozenset(("over", "as", "extends"))  # names wherever the keyword cannot stand

KEYWORDS = BLOCKS | DECLARATIONS | CONTROL | IN | CONSTANTS | SOFT
