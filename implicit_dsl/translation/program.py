"""From terms to the text of a program."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from implicit_dsl.formatting import formatted
from implicit_dsl.source import Source
from implicit_dsl.translation.naming import Names
from implicit_dsl.translation.terms import Declaration, Form, Term, reached
from implicit_dsl.translation.written import Written

_DEEPEST = 6  # operators within one another, before a part gets a name of its own


@dataclass(frozen=True)
class Program:
    """The text of a model, its name, and the names of what it declares and gives."""

    text: str
    title: str
    names: Mapping[Declaration, str]
    outputs: tuple[str, ...]


def program(
    kind: str,
    inputs: Sequence[Declaration],
    ends: Mapping[Declaration, str],
    outputs: Sequence[tuple[str, Term]],
    hints: Mapping[Term, str],
) -> Program:
    """The program that gives these terms. `ends` stand behind inputs, and values are called after `hints`.

    Raises the error of a term that cannot be written.
    """
    order = list(reached(term for _, term in outputs))
    for term in order:
        if term.refused is not None:
            raise term.refused
    names = Names()
    instances = [term.declaration for term in order if term.declaration is not None]
    for block in dict.fromkeys(one.block for one in instances if one.block):
        names.take(re.findall(r"^block (\w+)", block, re.MULTILINE)[0])
    title = names.take(kind if names.is_free(kind) else f"{kind}Net")
    called = {declaration: names.take(declaration.wanted) for declaration in inputs}
    given = tuple(names.take(wanted) for wanted, _ in outputs)
    declared = _declared(order, called, names)
    written = Written(called)
    lines = _statements(order, [term for _, term in outputs], hints, names, written)
    read = {term.declaration for term in order}
    body = [
        *(["@allow unused_input"] if any(one not in read for one in inputs) else []),
        "input " + ", ".join(called[one] + one.text + ends.get(one, "") for one in inputs),
        "",
        *declared.values(),
        "",
        *lines,
        *(f"output {name} = {written.text(term)}" for name, (_, term) in zip(given, outputs)),
    ]
    blocks = dict.fromkeys(one.block for one in declared if one.block)
    doc = f'"""{title}, translated from PyTorch."""'
    model = "\n".join([doc, f"model {title}", *(f"    {line}" for line in body), "end"])
    text, wrong = formatted(Source("\n\n".join([*blocks, model]) + "\n", title))
    assert text is not None, wrong
    return Program(text, title, called, given)


def _declared(order: Sequence[Term], called: dict[Declaration, str], names: Names) -> dict[Declaration, str]:
    """The lines that declare parameters and layers; constants that are alike are one."""
    lines: dict[Declaration, str] = {}
    constants: dict[str, Declaration] = {}
    read = (*(one for term in order for one in term.operands), *order)  # as they are applied
    found = dict.fromkeys(one.declaration for one in read if one.declaration is not None)
    for one in sorted(found, key=lambda one: one.kind != "param"):
        if one in called:
            continue
        same = (
            constants.setdefault(one.text, one)
            if not one.holds and one.kind == "param" and one.numbers is None
            else one
        )
        if same in called:
            called[one] = called[same]
            continue
        called[one] = names.take(one.wanted)
        line = f"{one.kind} {called[one]}{one.text if one.kind == 'param' else ' ' + one.text}"
        lines[one] = f"{line}  # {one.note}" if one.note else line
    return lines


def _statements(
    order: Sequence[Term],
    outputs: Sequence[Term],
    hints: Mapping[Term, str],
    names: Names,
    written: Written,
) -> list[str]:
    """The definitions and equations, in order. What is read once is written where it is read."""
    uses = Counter(operand for term in order for operand in term.operands)
    ends = Counter(outputs)
    blocks = {term.operands[0] for term in order if term.form is Form.FIELD}
    lines = []
    depth: dict[Term, int] = {}
    for term in order:
        depth[term] = 1 + max((depth[one] for one in term.operands), default=-1)
        if term.form in (Form.NAME, Form.NUMBER, Form.TRANSPOSED) or (uses[term] == 0 and ends[term] == 1):
            continue
        if term.form is Form.FIELD:  # of a block that is called: the call has the name
            continue
        several = uses[term] + ends[term] > 1 or term in blocks
        if several or term.is_state or depth[term] >= _DEEPEST:
            text = written.text(term)
            sign = "~" if term.is_state else "="
            name = names.take(hints.get(term) or _unhinted(term, written))
            lines.append(f"{name} {sign} {text}")
            written.named(term, name)
            depth[term] = 0
    return lines


def _unhinted(term: Term, written: Written) -> str:
    """A name for what no call gives as it is: after its layer, or its function."""
    if term.form in (Form.APPLY, Form.TIMES):
        return f"{written.text(term.operands[0]).strip(_PRIME)}_out"
    return term.text.split("(")[0] if term.form is Form.CALL else "part"


_PRIME = "'"
