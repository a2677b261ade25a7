"""`implicitc explain`: pages about messages, and the reference of operators."""

from __future__ import annotations

from collections.abc import Sequence

from implicit_dsl import _resources
from implicit_dsl.cli.messages import Refusal, bold, dim, write
from implicit_dsl.cli.options import Parser
from implicit_dsl.cli.reference import Section, sections
from implicit_dsl.operators import OPERATORS
from implicit_dsl.operators.base import ActivationRule, Formal, LinearRule, Rule
from implicit_dsl.sets import SETS, SetRule

_EXAMPLES = """
implicitc explain            # everything there is to read
implicitc explain E0303
implicitc explain Conv
implicitc explain state
"""


def main(words: Sequence[str]) -> int:
    """Print the page of a code, or what is known of an operator."""
    parser = Parser(
        "explain",
        "Tell about a message (E0303), an operator (Conv), a set (Banded), a function or a keyword.",
        _EXAMPLES,
    )
    parser.add_argument("name", metavar="CODE|NAME", nargs="?", help="without it, a list of all")
    name = parser.read(words).name
    if name is None:
        write(_contents())
        return 0
    codes, rules, others = _codes(), _rules(), sections()
    everything = (*others, *rules, *codes)
    by_lower = {known.lower(): known for known in everything}
    known = name if name in everything else by_lower.get(name.strip("[]").lower(), f"@{name}")
    if known not in everything:
        raise Refusal(f"there is nothing about `{name}`", _meant(name, everything))
    if known in codes:
        write(_page(known))
    elif known in rules:
        write(_operator(known, rules[known]))
    else:
        write(_section(others[known]))
    return 0


def _meant(name: str, known: Sequence[str]) -> str:
    import difflib

    lowered = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), lowered, 3, cutoff=0.6)
    if close:
        listed = " or ".join(f"`{lowered[other]}`" for other in close)
        return f"did you mean {listed}?"
    return "`implicitc explain` lists all there is"


def _codes() -> tuple[str, ...]:
    pages = (name.removesuffix(".md") for name in _resources.names("explain", ".md"))
    return tuple(page for page in pages if page[1:].isdecimal())


def _rules() -> dict[str, Rule | SetRule]:
    """Operators and sets by the names of the language."""
    return {**{name: rule for rule in OPERATORS.values() for name in rule.names}, **SETS}


def _section(section: Section) -> str:
    lines = [bold(" ".join(section.names)), "", section.text]
    if section.example:
        lines += ["", bold("example"), *(f"    {line}" for line in _program(section.example))]
    return "\n".join(lines) + "\n"


# --------------------------------------------------------------------------- pages


def _page(code: str) -> str:
    lines = _resources.read_text("explain", f"{code}.md").rstrip().splitlines()
    # fences of code are for web pages: here the code stands out by its indentation
    shown, inside = [], False
    for line in lines:
        if line.startswith("```"):
            inside = not inside
        elif inside:
            shown.append(f"    {line}".rstrip())
        else:
            shown.append(bold(line.lstrip("# ")) if line.startswith("#") else line)
    return "\n".join(shown) + "\n"


def _title(code: str) -> str:
    first = _resources.read_text("explain", f"{code}.md").split("\n", 1)[0].lstrip("# ")
    return first.removeprefix(code).lstrip(": ")


def _contents() -> str:
    codes = [f"  {bold(code)}  {_title(code)}" for code in _codes()]
    groups = {"operators": LinearRule, "activations": ActivationRule, "sets of matrices": SetRule}
    lines = [bold("messages"), *codes]
    for title, wanted in groups.items():
        names = {n: rule for n, rule in _rules().items() if isinstance(rule, wanted)}
        width = max(map(len, names))
        lines += ["", bold(title)]
        lines += [f"  {name:<{width}}  {_first_sentence(rule.doc)}" for name, rule in names.items()]
    others = dict.fromkeys(section.names for section in sections().values())
    lines += ["", bold("functions, keywords and words"), *(f"  {' '.join(names)}" for names in others)]
    return "\n".join(lines) + "\n"


def _first_sentence(doc: str) -> str:
    return doc.split(". ")[0].split(": ")[0].rstrip(".")


# --------------------------------------------------------------------------- operators


def _operator(name: str, rule: Rule | SetRule) -> str:
    aliases = [other for other in rule.names if other != name] if isinstance(rule, Rule) else []
    also = dim(f"  also {', '.join(aliases)}") if aliases else ""
    lines = [bold(_signature(name, rule)) + also, "", rule.doc]
    if rule.formals:
        width = max(len(formal.name) for formal in rule.formals)
        rows = (f"  {f.name:<{width}}  {f.doc}{_choices(f)}{_default(f)}" for f in rule.formals)
        lines += ["", *rows]
    if rule.example:
        lines += ["", bold("example"), *(f"    {line}" for line in _program(rule.example))]
    return "\n".join(lines) + "\n"


def _signature(name: str, rule: Rule | SetRule) -> str:
    required = [formal.name for formal in rule.formals if formal.required]
    optional = [f"{f.name} = {f.default_text}" for f in rule.formals if not f.required]
    if isinstance(rule, ActivationRule) and name[0].islower():
        required[:0] = rule.arguments
    return f"{name}({', '.join((*required, *optional))})"


def _choices(formal: Formal) -> str:
    if formal.kind != "choice":
        return ""
    return ": " + ", ".join(f'"{choice}"' for choice in formal.choices)


def _default(formal: Formal) -> str:
    return "" if formal.required or formal.default is None else f" ({formal.default_text} if not given)"


def _program(body: str) -> list[str]:
    return ["model Example", *(f"    {line}" for line in body.strip().splitlines()), "end"]
