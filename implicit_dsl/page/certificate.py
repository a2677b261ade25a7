"""What is proved of the loops with the trained weights."""

from __future__ import annotations

from implicit_dsl.page.parts import Facts, Lines, Note, Part, Section, Table
from implicit_dsl.page.subject import Subject, no_answer, reason
from implicit_dsl.pictures.lettering import clean
from implicit_dsl.runtime.certificates import wording
from implicit_dsl.runtime.certificates.result import Certificate, Verdict

_ABOUT = (
    "Whether each loop has exactly one equilibrium for every input, proved for the weights as they are, in "
    "exact arithmetic with outward rounding. κ is the rate of contraction."
)


def certificate(subject: Subject) -> Section:
    """The proof of each loop, or how far the rules got, and each @wellposed line."""
    try:
        found = subject.certificate
    except no_answer() as error:
        return Section("certificate", "Certificate", _ABOUT, (Note(reason(error), "missing"),))
    return Section("certificate", "Certificate", _ABOUT, tuple(_parts(found)))


def _parts(found: Certificate) -> list[Part]:
    parts: list[Part] = [Note(_said(found), "good" if found.proved else "bad")]
    if found.loops:
        rows = tuple(tuple(map(clean, wording.row(loop))) for loop in found.loops)
        parts.append(
            Table(
                "Proofs", ("loop", "proved by", "κ", "steps", "iteration"), rows, frozenset({2, 3}), wide=True
            )
        )
    if any(loop.proof is not None and loop.proof.steps is not None for loop in found.loops):
        parts.append(Note(f"Steps are enough for an error of {found.tolerance:g} times the first step."))
    claims = dict.fromkeys(claim for loop in found.loops for claim in loop.claims)
    parts += [
        Note(f"This rests on a claim of the source, which is not proved: {clean(claim)}") for claim in claims
    ]
    for loop in found.loops:
        if not loop.proved:
            parts.append(Lines("\n".join(map(clean, wording.refusal(loop)))))
    if found.verdicts:
        pairs = tuple(
            (
                clean(f"@wellposed {one.text or '…'}") + (f" (line {one.line})" if one.line else ""),
                _verdict(one),
            )
            for one in found.verdicts
        )
        parts.append(Facts(pairs))
    return parts


def _said(found: Certificate) -> str:
    if not found.loops:
        return "There are no loops, so there is exactly one solution whatever the weights are."
    proved, all_of = sum(loop.proved for loop in found.loops), len(found.loops)
    if all_of == 1:
        return f"Its loop is {'' if proved else 'not '}proved to have exactly one equilibrium."
    counted = f"All {all_of}" if proved == all_of else f"{proved} of {all_of}"
    return f"{counted} loops are proved to have exactly one equilibrium."


def _verdict(one: Verdict) -> str:
    said = "holds" if one.satisfied else "FAILS"
    said += "" if one.value is None else f", with {one.value:.6g}"
    return said + (f": {clean(one.why)}" if one.why else "")
