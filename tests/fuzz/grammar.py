"""Programs drawn from the grammar itself: each rule is a choice, each terminal a word."""

from __future__ import annotations

from functools import cache
from random import Random

from fuzz.seeds import names
from implicit_dsl import _resources

_MINE = ["u", "x", "h", "y", "W", "K", "n", "A", "B", "M", "Part", "κ", "x₁", "i", "_", "v"]
_INTEGERS = ["0", "1", "2", "3", "4", "8", "1", "2", "3", "7", "-1", "1_000", "99999999999", "2147483648"]
_WORDS = {
    "INTEGER": _INTEGERS,
    "FLOAT": ["0.5", "1.0", "1e-3", "1e308", "0.0", "2.5e0"],
    "STRING": ['"zeros"', '"same"', '""', '"std/vision.impl"', '"../x.impl"', '"a\\n"', '"project"'],
    "DOCSTRING": ['"""A doc."""', '""""""'],
    "COMPARISON": ["==", "<=", "<", "≤", "≥", "!="],
    "SUM": ["+", "-", ".+", ".-"],
    "PRODUCT": ["*", "*", ".*", "/", "÷", "%", "⊙", "∘", "./"],
    "POWER": ["^", ".^"],
    "ERROR": ["?"],
    "_NL": ["\n"],
}
_ANNOTATIONS = ["wellposed", "solver", "backward", "allow", "sparse", "lipschitz", "penalty", "nothing"]


class Drawer:
    """Derives text from the rules. Each draw gets a depth, below which the shortest way out is taken."""

    def __init__(self) -> None:
        from lark import Lark

        lark = Lark(_resources.read_text("grammar", "impl.lark"), parser="lalr", maybe_placeholders=False)
        self.fixed = {str(t.name): t.pattern.value for t in lark.terminals if t.pattern.type == "str"}
        self.rules: dict[str, list[tuple[str, ...]]] = {}
        for rule in lark.rules:
            expansion = tuple(str(symbol.name) for symbol in rule.expansion)
            if "ERROR" not in expansion:
                self.rules.setdefault(str(rule.origin.name), []).append(expansion)
        self.least = self._least()
        self.depths = {origin: list(map(self._depth, found)) for origin, found in self.rules.items()}
        self.known = names()

    def _least(self) -> dict[str, int]:
        """The least depth of a derivation of each rule."""
        least: dict[str, int] = {}
        changed = True
        while changed:
            changed = False
            for origin, expansions in self.rules.items():
                depths = [
                    1 + max((least[name] if name in self.rules else 0 for name in expansion), default=0)
                    for expansion in expansions
                    if all(name in least or name not in self.rules for name in expansion)
                ]
                if depths and min(depths) < least.get(origin, 1000):
                    least[origin] = min(depths)
                    changed = True
        return least

    def _depth(self, expansion: tuple[str, ...]) -> int:
        return max((self.least[name] for name in expansion if name in self.rules), default=0)

    def draw(self, random: Random, origin: str, depth: int) -> str:
        """A text of the rule `origin`."""
        if origin not in self.rules:
            return self._word(random, origin)
        depths = self.depths[origin]
        most = max(depth - 1, min(depths))
        chosen = random.choice([one for one, least in zip(self.rules[origin], depths) if least <= most])
        return " ".join(self.draw(random, name, depth - 1) for name in chosen)

    def _word(self, random: Random, name: str) -> str:
        if name in self.fixed:
            return self.fixed[name]
        if name == "NAME":
            return random.choice(_MINE if random.random() < 0.6 else self.known)
        if name.startswith("ANNOTATION"):
            return "@" + random.choice(_ANNOTATIONS) + ("(" if name == "ANNOTATION_CALL" else "")
        return random.choice(_WORDS[name])

    def expression(self, random: Random) -> str:
        return self.draw(random, "expr", random.randint(14, 26))

    def statement(self, random: Random) -> str:
        return self.draw(random, "statement", random.randint(16, 28))

    def program(self, random: Random) -> str:
        """A model whose inputs and output are there, and whose lines are whatever the grammar allows."""
        lines = ["input u[4], v[3, 6, 6], w[_, 4]", "param W[4, 4]", "layer K = Dense(4)"]
        for _ in range(random.randint(1, 6)):
            if random.random() < 0.5:
                name = random.choice(["x", "h", "y", "z[1]", "z[2]", "f(a)"])
                lines.append(f"{name} {random.choice('~=')} {self.expression(random)}")
            else:
                lines.append(self.statement(random))
        lines.append(f"output out = {self.expression(random)}")
        body = "\n    ".join(lines)
        return f"block Part(c = 4)\n    input a[_]\n    output b = relu(a)\nend\nmodel M\n    {body}\nend\n"


@cache
def drawer() -> Drawer:
    """The one drawer: lark takes a second to read the grammar."""
    return Drawer()
