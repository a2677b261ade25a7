"""The report of a model with trained weights, as one HTML page that needs no other file."""

from __future__ import annotations

from implicit_dsl.page.certificate import certificate
from implicit_dsl.page.figures import plural
from implicit_dsl.page.influences import influences
from implicit_dsl.page.matrix import matrix
from implicit_dsl.page.parts import Section
from implicit_dsl.page.program import program
from implicit_dsl.page.robustness import robustness
from implicit_dsl.page.sensitivities import sensitivities
from implicit_dsl.page.solving import solving
from implicit_dsl.page.states import states
from implicit_dsl.page.subject import Certifying, Samples, Subject
from implicit_dsl.page.write import written
from implicit_dsl.pictures.lettering import clean
from implicit_dsl.shapes import count

__all__ = ["Certifying", "Samples", "Subject", "page"]

_SECTIONS = (program, matrix, states, certificate, solving, sensitivities, influences, robustness)


def page(subject: Subject) -> str:
    """The page: the same subject gives the same text, unless times are asked for."""
    sections: tuple[Section, ...] = tuple(make(subject) for make in _SECTIONS)
    model = subject.model
    return written(clean(model.name), clean(model.summary), _facts(subject), sections)


def _facts(subject: Subject) -> tuple[tuple[str, str], ...]:
    model, samples = subject.model, subject.samples
    given = ", ".join(f"{name} = {value}" for name, value in model.arguments)
    sizes = [
        f"{letter} = {sum(count(block.shape) for block in blocks):,}"
        for letter, blocks in (("n", model.states), ("p", model.inputs), ("q", model.outputs))
    ]
    loops = plural(len(model.loops), "loop") if model.loops else "no loops"
    facts = [
        ("size", ", ".join(sizes)),
        ("structure", f"{plural(len(model.states), 'state')}, {loops}"),
        ("trained", plural(model.parameter_count, "parameter")),
        ("weights", subject.weights or "new, not trained"),
    ]
    if given:
        facts.insert(0, ("parameters of the program", given))
    if samples is not None:
        more = f", the first of {len(samples) + samples.left_out:,}" if samples.left_out else ""
        facts.append(("data", f"{samples.name}: {plural(len(samples), 'sample')}{more}"))
    return tuple((name, clean(said)) for name, said in facts)
