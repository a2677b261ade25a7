"""The tasks of train_sequences.py: generated numbers and sentences, and digits of scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Options:
    """What `--quick` makes smaller."""

    seeds: int
    epochs: int
    batches: int  # in an epoch of generated data
    length: int
    width: int
    long: int  # steps of the gradients
    patient: bool  # whether equilibria of each step are trained on long sequences


# -- tasks ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """Data, what a network is told about its output, and what is known about it."""

    title: str
    inputs: int  # entries of each step
    outputs: int
    every: bool  # whether there is an output at each step
    train: Callable[[], list[Data]]  # the batches of an epoch
    test: Callable[[], Data]
    loss: Callable[[Tensor, Tensor], Tensor]
    figure: Callable[[Tensor, Tensor], float]
    shown: str = "{:.3f}"
    rate: float = 1e-2  # of learning
    longer: int = 1  # how many times as many epochs
    steps: int = 0  # of a sequence


def cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    """Over all steps, where there are several."""
    return F.cross_entropy(scores.flatten(0, -2), target.flatten())


def accuracy(scores: Tensor, target: Tensor) -> float:
    return 100 * (scores.argmax(-1) == target).float().mean().item()


def adding_data(count: int, length: int) -> Data:
    """Numbers and marks [count, length, 2], a mark in each half, and the sums of the marked [count, 1]."""
    values, marks = torch.rand(count, length), torch.zeros(count, length)
    half = length // 2
    for at in (torch.randint(half, (count, 1)), torch.randint(half, length, (count, 1))):
        marks.scatter_(1, at, 1.0)
    return torch.stack([values, marks], 2), (values * marks).sum(1, keepdim=True)


def adding(options: Options) -> Task:
    T = options.length
    return Task(
        f"adding, T = {T}: mean squared error; 0.167 = 1/6 for who always answers 1",
        2,
        1,
        False,
        lambda: [adding_data(64, T) for _ in range(options.batches)],
        lambda: adding_data(1000, T),
        F.mse_loss,
        lambda y, target: F.mse_loss(y, target).item(),
        "{:.4f}",
        steps=T,
    )


def copy_data(count: int, blank: int) -> Data:
    """Ten of the symbols 0 to 7, blanks (8), a mark (9), blanks; the symbols are due behind the mark."""
    symbols = torch.randint(8, (count, 10))
    given = torch.full((count, blank + 20), 8)
    given[:, :10], given[:, blank + 9] = symbols, 9
    due = torch.full((count, blank + 20), 8)
    due[:, -10:] = symbols
    return F.one_hot(given, 10).float(), due


def copying(options: Options) -> Task:
    T = max(2, options.length // 5)
    floor = 10 * math.log(8) / (T + 20)
    return Task(
        f"copy, T = {T}: cross-entropy; {floor:.3f} = 10 ln 8 / (T + 20) for who remembers nothing",
        10,
        9,
        True,
        lambda: [copy_data(64, T) for _ in range(options.batches)],
        lambda: copy_data(500, T),
        cross_entropy,
        lambda y, target: cross_entropy(y, target).item(),
        longer=2,
        steps=T + 20,
    )


def digits(steps: int) -> Callable[[Options], Task]:
    """The 64 pixels of each digit in that many steps."""

    def task(options: Options) -> Task:
        data = load_digits()
        pixels = torch.tensor(data.data, dtype=torch.float32).reshape(-1, steps, 64 // steps) / 8 - 1
        labels, held = torch.tensor(data.target), torch.arange(len(pixels)) % 5 == 0
        kept = torch.nonzero(~held).flatten()

        def epoch() -> list[Data]:
            batches = kept[torch.randperm(len(kept))].split(64)
            return [(pixels[batch], labels[batch]) for batch in batches][: options.batches]

        return Task(
            f"digits in {steps} steps: test accuracy in %",
            64 // steps,
            10,
            False,
            epoch,
            lambda: (pixels[held], labels[held]),
            cross_entropy,
            accuracy,
            "{:.1f}",
            steps=steps,
        )

    return task


# -- a grammar ----------------------------------------------------------------------------------------

KINDS, LETTERS, DEEPEST = 3, 6, 4  # characters 0-2 open, 3-5 close, 6-11 are letters


def sentences(count: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Characters [count, length + 1], and the surprise of each under the grammar itself [count, length + 1].

    Brackets of three kinds are nested at most four deep, and within brackets of kind k there are only
    two of the letters. A bracket closes with probability 0.3, and opens with 0.3; else comes a letter.
    """
    rows, surprise = [], []
    draws = torch.rand(count, length + 1, 2, generator=generator).tolist()
    for row in draws:
        open: list[int] = []
        found, cost = [], []
        for which, what in row:
            close, deeper = 0.3 * bool(open), 0.3 * (len(open) < DEEPEST)
            if which < close:
                found.append(KINDS + open.pop())
                cost.append(-math.log(close))
            elif which < close + deeper:
                open.append(int(what * KINDS))
                found.append(open[-1])
                cost.append(-math.log(deeper / KINDS))
            else:
                choices = 2 if open else LETTERS
                letter = int(what * choices) + (2 * open[-1] if open else 0)
                found.append(2 * KINDS + letter)
                cost.append(-math.log((1 - close - deeper) / choices))
        rows.append(found)
        surprise.append(cost)
    return torch.tensor(rows), torch.tensor(surprise)


def grammar(options: Options) -> Task:
    generator = torch.Generator().manual_seed(0)
    T = options.length
    train, _ = sentences(64 * options.batches, T, generator)
    held, surprise = sentences(200, T, generator)

    def epoch() -> list[Data]:
        order = torch.randperm(len(train)).split(64)
        return [(train[batch, :-1], train[batch, 1:]) for batch in order]

    return Task(
        f"grammar, T = {T}: nats for each next character; {surprise[:, 1:].mean():.3f} is the grammar's own",
        0,
        2 * KINDS + LETTERS,
        True,
        epoch,
        lambda: (held[:, :-1], held[:, 1:]),
        cross_entropy,
        lambda y, target: cross_entropy(y, target).item(),
        rate=3e-3,
    )
