"""How accurate the model is proved to be when its inputs are disturbed, beside what attacks reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from implicit_dsl.page.curve import Accuracy, curve
from implicit_dsl.page.figures import number, percent, plural
from implicit_dsl.page.parts import Figure, Note, Part, Section, Table
from implicit_dsl.page.subject import Certifying, Samples, Subject, no_answer, reason
from implicit_dsl.pictures.lettering import clean

if TYPE_CHECKING:
    from torch import nn

    from implicit_dsl.analysis import CertifiedAccuracy

_ABOUT = (
    "Each sample may be moved by up to ε. “Certified”: proved to keep its right class whatever the "
    "disturbance is. “Under attack”: kept against all that were tried. The accuracy in the "
    "worst case lies between the two."
)
_MOST_CLASSES = 30
_MOST_COLUMNS = 6  # radii of the table by class


def robustness(subject: Subject) -> Section:
    """The curve of certified accuracy with its table, or why there is none."""
    return Section("robustness", "Robustness", _ABOUT, tuple(_parts(subject)))


def _parts(subject: Subject) -> list[Part]:
    samples, asked = subject.samples, subject.certifying
    if samples is None:
        return [Note("Give --data with inputs and labels to see the certified accuracy.", "missing")]
    if samples.labels is None:
        return [Note(f"There is no accuracy to certify: {samples.unlabelled}.", "missing")]
    still = [block.name for block in subject.model.inputs if block.tokens]
    if len(still) == len(subject.model.inputs):
        return [Note("All inputs are tokens, which no ε disturbs: they are these or others.", "missing")]
    found, without = accuracies(subject.module, samples, asked)
    notes: list[Part] = [
        Note(f"Nothing is proved for ε = {number(at)}: {why}", "missing") for at, why in without
    ]
    if still:
        notes.append(Note(f"Tokens are not disturbed: {clean(', '.join(still))} stays as it is."))
    if not found:
        return notes[:1]
    pairs = [Accuracy(one.epsilon, one.clean, one.certified, one.attacked) for one in found]
    caption = (
        f"{plural(len(samples), 'sample')} of {samples.name}, bounds by the method {asked.method}. Between "
        "the curves lie samples of which neither a proof nor an attack is found."
    )
    label = "Accuracy over the radius of disturbances; its numbers are in the table below"
    parts: list[Part] = [Figure(curve(pairs, asked.norm), label, caption)]
    parts.append(_table(found))
    return [*parts, *notes, *_classes(samples, samples.labels, found)]


def accuracies(
    module: nn.Module, samples: Samples, asked: Certifying
) -> tuple[list[CertifiedAccuracy], list[tuple[float, str]]]:
    """The certified accuracy for each radius; and the radii for which there is none, with the reason."""
    found, without = [], []
    for epsilon in asked.radii:
        try:
            found.append(_accuracy(module, samples, asked, epsilon))
        except no_answer() as error:
            without.append((epsilon, reason(error)))
    return found, without


def _accuracy(module: nn.Module, samples: Samples, asked: Certifying, epsilon: float) -> CertifiedAccuracy:
    from implicit_dsl.analysis import certified_accuracy

    assert samples.labels is not None
    inputs: Any = samples.inputs[0] if len(samples.inputs) == 1 else samples.inputs
    return certified_accuracy(
        module,
        inputs,
        torch.from_numpy(samples.labels),
        epsilon,
        method=asked.method,
        norm=asked.norm,
        lower=asked.lower,
        upper=asked.upper,
        attack=asked.attack,
        processes=asked.processes,
        thorough=asked.thorough,
    )


def _table(found: list[CertifiedAccuracy]) -> Table:
    rows = tuple(
        (
            number(one.epsilon),
            percent(one.clean),
            percent(one.certified),
            "" if one.attacked is None else percent(one.attacked),
            "" if one.attacked is None else percent(one.attacked - one.certified),
            f"{one.unbounded:,}" if one.unbounded else "",
        )
        for one in found
    )
    header = ("ε", "clean", "certified", "under attack", "open", "samples without a bound")
    return Table("Accuracy", header, rows, frozenset({1, 2, 3, 4, 5})).without_empty()


def _classes(samples: Samples, labels: np.ndarray, found: list[CertifiedAccuracy]) -> list[Part]:
    """Which classes are easy to disturb: at each radius, how many samples of them are certified."""
    present = np.unique(labels)
    if not 1 < len(present) <= _MOST_CLASSES:
        return []
    step = -(-len(found) // _MOST_COLUMNS)
    found = found[step - 1 :: step]
    rows = []
    for one in present.tolist():
        of = labels == one
        shares = [percent(float(each.proved[of].mean())) for each in found]
        rows.append((str(one), f"{int(of.sum()):,}", percent(float(found[0].right[of].mean())), *shares))
    header = ("class", "samples", "clean", *(f"ε = {number(one.epsilon)}" for one in found))
    return [
        Table("Clean and certified accuracy by class", header, tuple(rows), frozenset(range(1, len(header))))
    ]
