"""Certificates in words: a table, and for a refusal what to do about it."""

from __future__ import annotations

import math

from implicit_dsl.runtime.certificates.cycles import Cycle, Way
from implicit_dsl.runtime.certificates.result import Attempt, Certificate, LoopCertificate, Proof, Verdict

_MOST_NAMES = 6
_HEADER = ("loop", "proved by", "κ", "steps", "")


def describe(certificate: Certificate) -> str:
    """The certificate as printed."""
    if not certificate.loops:
        return f"{certificate.model}: no loops, so exactly one solution whatever the weights are"
    proved = sum(loop.proved for loop in certificate.loops)
    counted = f"{proved} of {len(certificate.loops)} loops" if len(certificate.loops) > 1 else "its loop"
    verb = "proved" if certificate.proved else "proved" if len(certificate.loops) > 1 else "not proved"
    lines = [f"{certificate.model}: {counted} {verb} to have exactly one equilibrium", ""]
    rows = [_HEADER, *(row(loop) for loop in certificate.loops)]
    widths = [max(len(cells[k]) for cells in rows) for k in range(len(_HEADER))]
    lines += ["  " + "  ".join(cell.ljust(w) for cell, w in zip(cells, widths)).rstrip() for cells in rows]
    if any(loop.proof is not None and loop.proof.steps is not None for loop in certificate.loops):
        lines += ["", f"  steps: enough for an error of {certificate.tolerance:g} times the first step"]
    rests = dict.fromkeys(claim for loop in certificate.loops for claim in loop.claims)
    lines += [f"  this rests on a claim of the source, which is not proved: {claim}" for claim in rests]
    for loop in certificate.loops:
        if not loop.proved:
            lines += ["", *refusal(loop)]
    if certificate.verdicts:
        lines += ["", *(f"  {_verdict(verdict)}" for verdict in certificate.verdicts)]
    return "\n".join(lines)


def row(loop: LoopCertificate) -> tuple[str, ...]:
    """A loop, what proves it, κ, the steps, and the iteration that these are about."""
    proof = loop.proof
    if proof is None:
        return (named(loop), "nothing", "", "", "refused")
    rate = "" if proof.rate is None else f"{proof.rate:.6g}"
    return (named(loop), proof.rule.value, rate, "" if proof.steps is None else str(proof.steps), _how(proof))


def _how(proof: Proof) -> str:
    if proof.method == "substitution":
        return "exact after so many sweeps"
    if proof.rate is None:
        return "no rate is proved: solve it with newton"
    said = {"picard": "picard", "averaged": "averaged", "forward_backward": "forward-backward"}[proof.method]
    damping = "" if proof.damping is None else f", α = {proof.damping:.4g}"
    after = f", after {proof.after} steps" if proof.after else ""
    return f"{said}, in the {proof.norm}{damping}{after}"


def named(loop: LoopCertificate) -> str:
    """`z`, or `z, w, …` with the iterated states first."""
    names = list(dict.fromkeys((*loop.iterated, *loop.states)))
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def refusal(loop: LoopCertificate) -> list[str]:
    """How far each rule got with a loop, its strongest cycle, and what to do."""
    shown = ", ".join(loop.states[:_MOST_NAMES]) + (", …" if len(loop.states) > _MOST_NAMES else "")
    lines = [f"  the loop {{{shown}}} is not proved:"]
    width = max((len(attempt.rule.value) for attempt in loop.attempts), default=0)
    lines += [f"    {attempt.rule.value:<{width}}  {_attempt(attempt)}" for attempt in loop.attempts]
    if loop.cycle is not None:
        lines += ["", *(f"    {line}" for line in _cycle(loop.cycle))]
    if loop.advice:
        lines += ["", *(f"    {line}" for line in loop.advice.split("\n"))]
    return lines


def _attempt(attempt: Attempt) -> str:
    figures = ", ".join(f"{name} = {value:.6g}" for name, value in attempt.figures)
    return "; ".join(part for part in (figures, attempt.why) if part)


def _cycle(cycle: Cycle) -> list[str]:
    head = f"its strongest cycle has the gain {cycle.gain:.4g}"
    if len(cycle.ways) > 1 and math.isfinite(cycle.gain):
        head += f", {cycle.mean:.4g} for each state"
    names = [way.source for way in cycle.ways] + [cycle.ways[-1].target]
    return [f"{head}: {' → '.join(names)}", *(f"  {_way(way)}" for way in cycle.ways)]


def _way(way: Way) -> str:
    through = " · ".join(way.operators) or "itself"
    return f"{way.gain:<10.4g} {way.source} → {way.target}  through {through}"


def _verdict(verdict: Verdict) -> str:
    mark = "holds" if verdict.satisfied else "FAILS"
    value = "" if verdict.value is None else f", with {verdict.value:.6g}"
    line = f" (line {verdict.line})" if verdict.line else ""
    why = f": {verdict.why}" if verdict.why else ""
    return f"@wellposed {verdict.text or '…'}{line} {mark}{value}{why}"


def advice(cycle: Cycle | None, root: float | None, unbounded: bool, steep: str) -> str:
    """What to do about a loop that is refused.

    `root` is the lower bound of its Perron root; `unbounded`: an activation has no majorant at
    all; `steep` is a state whose activation has none of use.
    """
    if unbounded:
        return (
            "put a bounded activation in front of it (tanh, sigmoid, a normalisation), move it out of the\n"
            "loop, or write `@wellposed unchecked`: the residual is then checked at every call"
        )
    lines = []
    if cycle is not None and 1 <= cycle.gain < float("inf"):
        tensors = tuple(dict.fromkeys(id for way in cycle.ways for id in way.tensors))
        shown = ", ".join(tensors[:_MOST_NAMES]) + (", …" if len(tensors) > _MOST_NAMES else "")
        named = f" ({shown})" if tensors else ""
        lines.append(f"the gains of this cycle{named} have to shrink by {1 / cycle.gain:.3g} in product")
    elif cycle is not None:
        lines.append("no single cycle has a gain of 1: it is what states read in parallel that adds up")
    if steep:
        lines.append(
            f"`{steep}` may be very steep, as normalisations are where their input hardly varies: without"
        )
        lines.append(
            "it in the loop there may be a proof; `@wellposed unchecked` checks the residual at every call"
        )
        return "\n".join(lines)
    lines.append("to enforce a contraction while training, write `@wellposed norm(A, Inf) <= 0.95`, and call")
    lines.append("`project_()` after each step of the optimiser")
    if root is not None and root < 1:
        lines.append("the Perron root may still be below 1, but so close that rounding hides it")
    return "\n".join(lines)
