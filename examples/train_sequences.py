"""Train recurrent networks and equilibria over sequences beside the layers of torch.nn.

    python examples/train_sequences.py [adding copy rows pixels grammar gradients] [--quick | --all]

Nothing is downloaded. For each task a table has a line for each network: its parameters, its figure on
held-out data as mean ± spread over the seeds, and seconds for an epoch. The layers of torch.nn have
the same sizes, and are trained in the same way. What solves an equilibrium at each step takes longer:
it is trained with one seed, and on the long sequences only with `--all`.

adding      two of T numbers are marked, the answer is their sum (Hochreiter and Schmidhuber 1997)
copy        ten symbols have to be said again, T steps later (the same)
rows        scikit-learn's 1,797 digits, row by row: 8 steps of 8 pixels
pixels      the same, pixel by pixel: 64 steps of one
grammar     the next character of nested brackets and letters
gradients   how much the error at the end depends on the state before, over 500 steps
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sequence_tasks import Data, Options, Task, adding, adding_data, copying, digits, grammar
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl import runtime

HERE = Path(__file__).parent
Make = Callable[[], nn.Module]


# -- networks -----------------------------------------------------------------------------------------


class Layer(nn.Module):
    """A recurrent layer of PyTorch, read as the examples are."""

    def __init__(self, kind: type[nn.RNNBase], task: Task, width: int) -> None:
        super().__init__()
        self.layer = kind(task.inputs, width, batch_first=True)
        self.head = nn.Linear(width, task.outputs)
        self.every = task.every

    def forward(self, u: Tensor) -> Tensor:
        h, _ = self.layer(u)
        scores: Tensor = self.head(h if self.every else h[:, -1])
        return scores


class Minimal(nn.Module):
    """The minimal gated unit as a loop by hand, with the projections of the inputs ahead of it."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__()
        self.W = nn.Linear(task.inputs, 2 * width)
        self.Rf, self.Rh = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.head = nn.Linear(width, task.outputs)
        self.every = task.every

    def forward(self, u: Tensor) -> Tensor:
        ahead = self.W(u)
        h = u.new_zeros(len(u), self.Rf.in_features)
        found = []
        for a in ahead.unbind(1):
            given, new = a.chunk(2, 1)
            f = torch.sigmoid(given + self.Rf(h))
            h = (1 - f) * h + f * torch.tanh(new + self.Rh(f * h))
            found.append(h)
        scores: Tensor = self.head(torch.stack(found, 1) if self.every else h)
        return scores


class Encoder(nn.Module):
    """One layer of nn.TransformerEncoder, causal, of the size of the equilibrium model's cell."""

    def __init__(self, vocab: int, d: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab, d)
        layer = nn.TransformerEncoderLayer(
            d, 4, 2 * d, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layer = nn.TransformerEncoder(layer, 1, nn.LayerNorm(d), enable_nested_tensor=False)
        self.head = nn.Linear(d, vocab)

    def forward(self, t: Tensor) -> Tensor:
        words = self.words(t)
        mask = nn.Transformer.generate_square_subsequent_mask(t.shape[1])
        scores: Tensor = self.head(self.layer(words + runtime.sinusoids(words), mask=mask, is_causal=True))
        return scores


class Convolutions(nn.Module):
    """Two causal convolutions, one behind the other, with as many weights as the equilibrium of two."""

    def __init__(self, vocab: int, d: int, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab, d)
        self.first, self.second = nn.Conv1d(d, d, width), nn.Conv1d(d, d, width, bias=False)
        self.head = nn.Linear(d, vocab)

    def forward(self, t: Tensor) -> Tensor:
        x = self.words(t).transpose(1, 2)
        for convolution in (self.first, self.second):
            x = torch.tanh(convolution(F.pad(x, (convolution.kernel_size[0] - 1, 0))))
        scores: Tensor = self.head(x.transpose(1, 2))
        return scores


def compiled(example: str, model: str, **parameters: object) -> Make:
    """The class that a program gives."""
    module = implicit_dsl.load(HERE / f"{example}.impl", model=model, parameters=parameters)
    found: Make = getattr(module, model)
    return found


def recurrent(task: Task, options: Options) -> dict[str, Make]:
    """The examples, and layers of PyTorch beside them."""
    width = options.width
    sizes = {"n": width, "p": task.inputs, "q": task.outputs, "every": task.every}
    quick = {
        "ElmanNet": compiled("elman", "ElmanNet", depth=1, **sizes),
        "nn.RNN": lambda: Layer(nn.RNN, task, width),
        "LSTMNet": compiled("lstm", "LSTMNet", depth=1, **sizes),
        "nn.LSTM": lambda: Layer(nn.LSTM, task, width),
        "GRUNet": compiled("gru", "GRUNet", depth=1, **sizes),
        "nn.GRU": lambda: Layer(nn.GRU, task, width),
        "MGUNet": compiled("gru", "MGUNet", depth=1, **sizes),
        "a loop by hand": lambda: Minimal(task, width),
        "Kag": compiled("kag", "Kag", **sizes),
        "Kag, steps from 0.05": compiled("kag", "Kag", step=0.05, **sizes),
    }
    slow = {
        "ERNN": compiled("ernn", "ERNN", **sizes),
        "KagConverged": compiled("kag", "KagConverged", **sizes),
    }
    return {**quick, **slow} if options.patient or task.steps <= 10 else quick


def equilibria(task: Task, options: Options) -> dict[str, Make]:
    """The equilibria over whole sequences, and layers of PyTorch beside them."""
    vocab, width = task.outputs, options.width
    return {
        "DEQSequence": compiled("deq_sequence", "DEQSequence", vocab=vocab, d=width),
        "nn.TransformerEncoder": lambda: Encoder(vocab, width),
        "TrellisDEQ": compiled("deq_sequence", "TrellisDEQ", vocab=vocab, d=width),
        "two convolutions": lambda: Convolutions(vocab, width, 4),
    }


SLOW = ("ERNN", "KagConverged", "DEQSequence")


# -- training -----------------------------------------------------------------------------------------


def train(model: nn.Module, task: Task, epochs: int) -> float:
    """Seconds for an epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=task.rate)
    if hasattr(model, "project_"):
        runtime.project_after(optimizer, model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    spent = 0.0
    for _ in range(epochs):
        batches = task.train()
        began = time.process_time()
        for inputs, target in batches:
            loss = task.loss(model(inputs), target)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        schedule.step()
        spent += time.process_time() - began
    return spent / epochs


def table(task: Task, networks: dict[str, Make], options: Options) -> None:
    print(f"\n{task.title}", flush=True)
    for name, make in networks.items():
        figures, seconds = [], []
        for seed in range(1 if name in SLOW else options.seeds):
            torch.manual_seed(seed)
            model = make()
            seconds.append(train(model, task, options.epochs * task.longer))
            torch.manual_seed(1000)
            inputs, target = task.test()
            with torch.no_grad():
                figures.append(task.figure(model.eval()(inputs), target))
        size = sum(weight.numel() for weight in model.parameters())
        mean, spread = (
            task.shown.format(statistics.fmean(figures)),
            task.shown.format(statistics.pstdev(figures)),
        )
        print(
            f"  {name:<22} {size:>6,} parameters  {mean:>7} ± {spread}  {min(seconds):.2f} s an epoch",
            flush=True,
        )


# -- gradients ----------------------------------------------------------------------------------------


def streams(width: int) -> dict[str, tuple[Make, int]]:
    """Networks that take their state and give it back, and how many tensors it has."""
    sizes: dict[str, Any] = {"n": width, "p": 2, "q": 1}
    option = {**sizes, "stream": True}
    return {
        "Elman": (compiled("elman", "ElmanStream", **sizes), 1),
        "LSTM": (compiled("lstm", "LSTMStream", **sizes), 2),
        "ERNN": (compiled("ernn", "ERNN", **option), 1),
        "Kag": (compiled("kag", "Kag", **option), 1),
        "Kag, from 0.05": (compiled("kag", "Kag", step=0.05, **option), 1),
        "KagConverged": (compiled("kag", "KagConverged", **option), 1),
    }


class AtTheEnd(nn.Module):
    """A stream as a network that answers at its last step."""

    def __init__(self, stream: nn.Module, width: int, states: int) -> None:
        super().__init__()
        self.stream, self.width, self.states = stream, width, states
        if hasattr(stream, "project_"):
            self.project_ = stream.project_
            self.constraints = stream.constraints

    def forward(self, u: Tensor, *state: Tensor) -> Tensor:
        y: Tensor = self.stream(u, *(state or self.zeros(u)))[0]
        return y[:, -1] if y.ndim == 3 else y

    def zeros(self, u: Tensor) -> list[Tensor]:
        return [u.new_zeros(len(u), self.width)] * self.states


def sensitivities(model: AtTheEnd, data: Data, times: list[int]) -> list[float]:
    """‖∂L/∂h(t)‖ of a sample at these times, the median over the samples, in parts of that at the last."""
    u, target = data
    found = []
    for t in times:
        state = [one.detach() for one in model.stream(u[:, :t], *model.zeros(u))[1:]]
        for one in state:
            one.requires_grad_()
        loss = 0.5 * (model(u[:, t:], *state) - target).square().sum()
        parts = torch.cat(torch.autograd.grad(loss, state), 1).norm(dim=1)
        found.append(parts.median().item())
    return [one / found[-1] for one in found]


def alternating(model: AtTheEnd, u: Tensor) -> float:
    """How far h(T) is from z(T) − z(T − 1) + …, where z is what one input alone gives, in parts of ‖h(T)‖."""
    zero = model.zeros(u[:, :1])
    alone = [model.stream(u[:, t : t + 1], *zero)[1] for t in range(u.shape[1])]
    total = torch.zeros_like(alone[0])
    for z in alone:
        total = z - total
    state = model.stream(u, *zero)[1]
    return ((state - total).norm() / state.norm()).item()


def gradients(options: Options) -> None:
    T = options.long
    times = [*range(0, T, T // 5), T - 1]
    print(f"\ngradients: ‖∂L/∂h(t)‖ over that at t = {T - 1}, for the sum of two of {T} numbers")
    print(f"  {'t =':<32}" + "".join(f"{t:>10}" for t in times))
    torch.manual_seed(0)
    data = adding_data(16, T)
    task = adding(options)
    for name, (make, states) in streams(options.width).items():
        torch.manual_seed(0)
        model = AtTheEnd(make(), options.width, states)
        for when in ("at the start", f"trained, T = {options.length}"):
            if when.startswith("trained"):
                if name in SLOW and not options.patient:
                    continue
                train(model, task, options.epochs)
            found = "".join(f"{one:>10.1e}" for one in sensitivities(model, data, times))
            print(f"  {name:<15}{when:<17}{found}", flush=True)
        if states == 1:
            with torch.no_grad():
                apart = alternating(model, data[0][:, :20])
            print(f"  {name:<15}h(20) is {apart:.1e} away from an alternating sum of memoryless features")


TASKS: dict[str, Callable[[Options], Task]] = {
    "adding": adding,
    "copy": copying,
    "rows": digits(8),
    "pixels": digits(64),
    "grammar": grammar,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", nargs="*", default=[*TASKS, "gradients"], help="some of the tasks")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that all of it runs")
    parser.add_argument("--all", action="store_true", help="equilibria of each step on long sequences, too")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    given = parser.parse_args()
    options = (
        Options(seeds=1, epochs=1, batches=2, length=10, width=8, long=20, patient=False)
        if given.quick
        else Options(given.seeds, given.epochs, batches=50, length=30, width=32, long=500, patient=given.all)
    )
    for name in given.tasks:
        if name == "gradients":
            gradients(options)
            continue
        task = TASKS[name](options)
        networks = equilibria if name == "grammar" else recurrent
        table(task, networks(task, options), options)


if __name__ == "__main__":
    main()
