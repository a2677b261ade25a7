"""What the fuzzer starts from: every program of the examples, the documentation and the tests."""

from __future__ import annotations

import re
from pathlib import Path

from implicit_dsl.compiler import check
from implicit_dsl.errors import Diagnostic
from implicit_dsl.operators import OPERATORS
from implicit_dsl.parse import parse
from implicit_dsl.resolve.builtins import BUILTINS
from implicit_dsl.source import Source, Span

ROOT = Path(__file__).parents[2]
_FENCED = re.compile(r"^```impl\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def seeds() -> list[str]:
    """All programs that lie in the repository, in a fixed order."""
    files = [*ROOT.glob("examples/*.impl"), *ROOT.glob("tests/programs/**/*.impl")]
    pages = [*ROOT.glob("docs/**/*.md"), ROOT / "README.md", *ROOT.glob("implicit_dsl/explain/*.md")]
    texts = [path.read_text(encoding="utf-8") for path in sorted(files)]
    for path in sorted(pages):
        texts += _FENCED.findall(path.read_text(encoding="utf-8"))
    for rule in OPERATORS.values():
        if rule.example:
            texts.append("model Example\n" + rule.example.strip() + "\nend\n")
    return list(dict.fromkeys(texts))


def names() -> list[str]:
    """Every name that the language knows by itself."""
    return sorted(BUILTINS)


def findings(text: str) -> tuple[Diagnostic, ...]:
    """What the compiler says of a text, which imports from the examples."""
    return check(Source(text, path=str(ROOT / "examples" / "seed.impl"))).diagnostics


class Corpus:
    """The seeds, those of them that compile, and their statements and expressions by class, for splices."""

    def __init__(self, texts: list[str]) -> None:
        self.texts: list[str] = []
        self.right = [text for text in texts if not any(d.code[0] == "E" for d in findings(text))]
        self.pieces: dict[str, list[str]] = {}
        self._known: set[str] = set()
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Keep a program, and what it is made of."""
        self.texts.append(text)
        for kind, span in parts(text):
            piece = span.text
            if piece not in self._known and len(piece) < 2000:
                self._known.add(piece)
                self.pieces.setdefault(kind, []).append(piece)


def parts(text: str) -> list[tuple[str, Span]]:
    """The pieces of a program: `expression`, `statement` or `template`, and where they stand."""
    program, _ = parse(Source(text))
    found: list[tuple[str, Span]] = []
    waiting: list[object] = list(program.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, tuple) and not isinstance(node, Span):
            waiting.extend(node)
            continue
        span = getattr(node, "span", None)
        if not isinstance(span, Span) or not hasattr(type(node), "__slots__"):
            continue
        found.append((_KINDS.get(type(node).__name__, "expression"), span))
        waiting.extend(getattr(node, name) for name in type(node).__slots__)
    return [(kind, span) for kind, span in found if span.end > span.start]


_KINDS = {
    "Template": "template",
    **dict.fromkeys(
        (
            *("Declaration", "Equation", "Definition", "Annotation", "Bare", "For", "If", "Branch"),
            *("Recurrent", "Ode", "Open", "Import", "ImportName", "Formal", "Binding", "Keyword"),
        ),
        "statement",
    ),
}
