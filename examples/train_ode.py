"""Train neural ODEs and a flow beside the same field integrated by hand or by torchdiffeq.

    python examples/train_ode.py [moons circles flow] [--quick]

Nothing is downloaded. For each network: its parameters, its figures on held-out points as mean ± spread
over the seeds, and seconds for an epoch of 1,000 points. What is integrated by torchdiffeq needs
`pip install torchdiffeq`, and is left out without it.

moons       two half circles that reach into each other
circles     a disc and a ring around it, which no flow in the plane can part
flow        the density of the two moons
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import implicit_dsl

HERE = Path(__file__).parent
HAS_TORCHDIFFEQ = find_spec("torchdiffeq") is not None
Make = Callable[[], nn.Module]
Data = tuple[Tensor, Tensor]
NOISE = 0.1


# -- data ---------------------------------------------------------------------------------------------


def arcs(angle: Tensor, which: Tensor) -> Tensor:
    """Points [count, 2] of the two half circles."""
    points = torch.stack([angle.cos(), angle.sin()], 1)
    return torch.where(which[:, None] == 0, points, torch.tensor([1.0, 0.5]) - points)


def moons(count: int) -> Data:
    """Points [count, 2] near two half circles, and which of them."""
    which = torch.randint(2, (count,))
    return arcs(math.pi * torch.rand(count), which) + NOISE * torch.randn(count, 2), which


def moons_density(points: Tensor, parts: int = 2000) -> Tensor:
    """log p of points [count, 2] in nats: the noise around each part of the arcs, summed up."""
    angle = math.pi * (torch.arange(parts) + 0.5) / parts
    centres = torch.cat([arcs(angle, torch.full((parts,), which)) for which in (0, 1)])
    apart = torch.cdist(points, centres).square() / (2 * NOISE**2)
    return torch.logsumexp(-apart, 1) - math.log(2 * parts * 2 * math.pi * NOISE**2)


def circles(count: int) -> Data:
    """Points [count, 2] of a disc and of a ring around it, and which of them."""
    which = torch.randint(2, (count,))
    radius = torch.where(which == 0, 0.5 * torch.rand(count).sqrt(), 1 + 0.5 * torch.rand(count))
    angle = 2 * math.pi * torch.rand(count)
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1), which


# -- networks by hand -----------------------------------------------------------------------------------


class Integrated(nn.Module):
    """The field of the examples, integrated by torchdiffeq."""

    def __init__(self, n: int, extra: int = 0, **how: object) -> None:
        super().__init__()
        d = 2 + extra
        self.V, self.W, self.head = nn.Linear(d + 1, n), nn.Linear(n, d), nn.Linear(d, 2)
        self.extra, self.how = extra, how

    def rate(self, t: Tensor, x: Tensor) -> Tensor:
        rate: Tensor = self.W(torch.tanh(self.V(torch.cat([x, t.expand(len(x), 1)], 1))))
        return rate

    def forward(self, u: Tensor) -> Tensor:
        from torchdiffeq import odeint

        x = odeint(self.rate, F.pad(u, (0, self.extra)), torch.tensor([0.0, 1.0]), **self.how)[-1]
        scores: Tensor = self.head(x)
        return scores


class IntegratedFlow(nn.Module):
    """The flow, integrated by torchdiffeq, with the trace that autograd finds, dimension by dimension."""

    def __init__(self, n: int, steps: int) -> None:
        super().__init__()
        self.V, self.W = nn.Linear(3, n), nn.Linear(n, 2)
        self.steps = steps

    def rate(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = state[0] if state[0].requires_grad else state[0].detach().requires_grad_()
            rate = self.W(torch.tanh(self.V(torch.cat([x, t.expand(len(x), 1)], 1))))
            trace = sum(
                torch.autograd.grad(rate[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2)
            )
        assert isinstance(trace, Tensor)
        return rate, trace

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        from torchdiffeq import odeint

        start = (u, u.new_zeros(len(u)))
        times = torch.tensor([0.0, 1.0])
        x, change = odeint(self.rate, start, times, method="rk4", options={"step_size": 1 / self.steps})
        return x[-1], -0.5 * x[-1].square().sum(1) - math.log(2 * math.pi) + change[-1]


def layers(n: int) -> Make:
    """Two layers, of as many weights as the field."""
    return lambda: nn.Sequential(nn.Linear(2, n), nn.Tanh(), nn.Linear(n, 4), nn.Tanh(), nn.Linear(4, 2))


def compiled(example: str, model: str, **parameters: object) -> Make:
    """The class that a program gives."""
    module = implicit_dsl.load(HERE / f"{example}.impl", model=model, parameters=parameters)
    found: Make = getattr(module, model)
    return found


# -- training -------------------------------------------------------------------------------------------


def train(model: nn.Module, data: Data, loss: Callable[[object, Tensor], Tensor], epochs: int) -> float:
    """Seconds for an epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    began = time.process_time()
    for _ in range(epochs):
        for batch in torch.randperm(len(data[0])).split(100):
            value = loss(model(data[0][batch]), data[1][batch])
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        schedule.step()
    return (time.process_time() - began) / epochs


def table(
    networks: dict[str, Make],
    make_data: Callable[[int], Data],
    loss: Callable[[object, Tensor], Tensor],
    figures: Callable[[object, Tensor], tuple[float, ...]],
    shown: str,
    options: argparse.Namespace,
) -> None:
    for name, make in networks.items():
        found, seconds = [], []
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            data, held = make_data(options.points), make_data(2000)
            model = make()
            seconds.append(train(model, data, loss, options.epochs))
            with torch.no_grad():
                found.append(figures(model.eval()(held[0]), held[1]))
        size = sum(weight.numel() for weight in model.parameters())
        values = [f"{statistics.fmean(one):.3f} ± {statistics.pstdev(one):.3f}" for one in zip(*found)]
        said = shown.format(*values)
        print(f"  {name:<34} {size:>4} parameters  {said}  {min(seconds):.3f} s an epoch", flush=True)


def scores_loss(scores: object, target: Tensor) -> Tensor:
    assert isinstance(scores, Tensor)
    return F.cross_entropy(scores, target)


def scores_figures(scores: object, target: Tensor) -> tuple[float, ...]:
    assert isinstance(scores, Tensor)
    return (scores.argmax(1) == target).float().mean().item(), scores_loss(scores, target).item()


def classify(options: argparse.Namespace, title: str, data: Callable[[int], Data], extra: bool) -> None:
    print(f"\n{title}: accuracy, and cross-entropy in nats", flush=True)
    n = options.width
    networks = {"NeuralODE, rk4 in 10 steps": compiled("neural_ode", "NeuralODE", n=n)}
    if HAS_TORCHDIFFEQ:
        rk4 = {"method": "rk4", "options": {"step_size": 0.1}}
        networks["torchdiffeq, its rk4 in 10 steps"] = lambda: Integrated(n, **rk4)
        if not extra:
            adaptive = compiled("neural_ode", "NeuralODE", n=n, adaptive=True)
            networks["NeuralODE, dopri5"] = adaptive
            tolerances = {"rtol": 1e-4, "atol": 1e-4}
            networks["torchdiffeq, dopri5"] = lambda: Integrated(n, method="dopri5", **tolerances)
    if extra:
        networks["AugmentedODE, 3 more dimensions"] = compiled("augmented_ode", "AugmentedODE", n=n)
        if HAS_TORCHDIFFEQ:
            networks["torchdiffeq, 3 more dimensions"] = lambda: Integrated(n, 3, **rk4)
    networks["two layers"] = layers(n)
    table(networks, data, scores_loss, scores_figures, "{} {:>15}", options)


def flow_loss(output: tuple[Tensor, Tensor], _: Tensor) -> Tensor:
    _, density = output
    return -density.mean()


def flow(options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    points = moons(20_000)[0]
    own = moons_density(points).mean().item()
    covariance = torch.cov(points.T)
    normal = -0.5 * torch.logdet(2 * math.pi * math.e * covariance).item()
    print(
        f"\nflow: nats for each point; {own:.3f} is the density of the moons itself, "
        f"{normal:.3f} a normal distribution",
        flush=True,
    )
    n = 2 * options.width
    networks: dict[str, Make] = {"Flow": compiled("flow", "Flow", n=n)}
    if HAS_TORCHDIFFEQ:
        networks["torchdiffeq, trace by autograd"] = lambda: IntegratedFlow(n, 10)
    table(networks, moons, flow_loss, lambda y, target: (-flow_loss(y, target).item(),), "{}", options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", nargs="*", default=["moons", "circles", "flow"], help="some of the tasks")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that all of it runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    options.width, options.points = 32, 1000
    if options.quick:
        options.seeds, options.epochs, options.width, options.points = 1, 1, 8, 200
    for name in options.tasks:
        if name == "moons":
            classify(options, "two moons", moons, False)
        elif name == "circles":
            classify(options, "a disc and a ring around it", circles, True)
        elif name == "flow":
            flow(options)
        else:
            parser.error(f"there is no task {name}: moons, circles, flow")


if __name__ == "__main__":
    main()
