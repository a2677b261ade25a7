"""How long checking takes, and how it grows: 10,000-line programs and 1,000-block networks.

    python benchmarks/frontend.py [--lines 10000] [--blocks 1000] [--repeat 3]

For each kind of program the medians of parse, resolve, certify, assemble and emit at a
quarter, half and all of the lines, and the exponent p of their sum ~ lines^p: 1 is linear.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

from implicit_dsl.assemble import assemble
from implicit_dsl.certify import certify
from implicit_dsl.compiler import read_source
from implicit_dsl.emit import emit
from implicit_dsl.errors import Findings
from implicit_dsl.parse import parse
from implicit_dsl.resolve import resolve
from implicit_dsl.source import Source

STAGES = ("parse", "resolve", "certify", "assemble", "emit")


def states(lines: int) -> str:
    """One model, each state reading the two before it."""
    text = ["model M()", "input u[16]", "param W[16, 16]", "state h0[16] ~ tanh(W*u)"]
    text += [f"state h{i}[16] ~ tanh(W*h{i - 1} + 0.5*h{max(0, i - 2)})" for i in range(1, lines - 6)]
    return "\n".join([*text, f"output y = Dense(4)*h{lines - 7}", "end", ""])


def backwards(lines: int) -> str:
    """The same depth with the last state written first, and without declared shapes."""
    text = ["model M()", "input u[16]", f"output y = Dense(4)*h{lines - 6}"]
    text += [f"h{i} ~ tanh(Dense(16)*h{i - 1} + u)" for i in range(lines - 6, 0, -1)]
    return "\n".join([*text, "h0 ~ tanh(Dense(16)*u)", "end", ""])


def models(lines: int) -> str:
    """Many small models."""
    text: list[str] = []
    for i in range(lines // 8):
        text += [
            f"model M{i}(n = 8)",
            "input u[n, 8, 8]",
            "layer K = Conv(n, 3; pad = 1)",
            "h = K*u |> relu",
            "state z[n, 8, 8] ~ relu(BatchNorm()*K*h + u)",
            "f = flatten(z)",
            "output y = f |> Dense(10) |> relu |> Dense(3)",
            "end",
        ]
    return "\n".join([*text, ""])


def pipeline(lines: int) -> str:
    """One expression over all lines."""
    stages = ["    |> Dense(16) |> relu" if i % 2 else "    |> Dense(16)" for i in range(lines - 4)]
    return "\n".join(["model M()", "input u[16]", "output y = u", *stages, "end", ""])


def families(lines: int) -> str:
    """Families of states made in loops."""
    text = ["model M()", "input u[16]", "h0[0] = u"]
    for i in range(lines // 5):
        text += ["for i in 1:3", f"t = Dense(16)*h{i}[i - 1]", f"h{i}[i] ~ relu(t + h{i}[i - 1])", "end"]
        text.append(f"h{i + 1}[0] = h{i}[3]")
    return "\n".join([*text, f"output y = h{lines // 5}[0]", "end", ""])


def residual(blocks: int, order: str = "1:{}") -> str:
    """A network of convolutional blocks, instantiated in a loop."""
    return f"""
block Residual(c)
    input x[c, _, _]
    h = x |> Conv(c, 3; pad = 1, bias = false) |> BatchNorm() |> relu
    output y[c, _, _] = relu(x + BatchNorm()*Conv(c, 3; pad = 1)*h)
end
model Net()
    input u[3, 32, 32]
    for i in {order.format(blocks)}
        h[i] = Residual(8)(h[i - 1])
    end
    h[0] = Conv(8, 3; pad = 1)*u |> relu
    output y = h[{blocks}] |> GlobalAvgPool() |> Dense(10)
end
"""


def measure(text: str) -> dict[str, float]:
    """The seconds of each stage."""
    seconds: dict[str, float] = {}
    source, findings = Source(text, "program.impl"), Findings()

    def timed(stage: str, work: Callable[[], object]) -> object:
        started = time.perf_counter()
        result = work()
        seconds[stage] = time.perf_counter() - started
        return result

    program, diagnostics = timed("parse", lambda: parse(source))  # type: ignore[misc]
    graphs, _ = timed("resolve", lambda: resolve(program, findings, parse=parse, read=read_source))  # type: ignore[misc]
    certified = timed("certify", lambda: [certify(graph, findings) for graph in graphs])
    assert not diagnostics and not findings.errors, "the programs are right"
    built = timed("assemble", lambda: tuple(map(assemble, certified)))  # type: ignore[call-overload]
    timed("emit", lambda: emit(built, (source,), (), standalone=False))  # type: ignore[arg-type]
    return seconds


def median(text: str, repeat: int) -> dict[str, float]:
    runs = [measure(text) for _ in range(repeat)]
    return {stage: statistics.median(run[stage] for run in runs) for stage in STAGES}


def show(name: str, size: int, seconds: dict[str, float]) -> None:
    print(f"{name:12}{size:>8}" + "".join(f"{seconds[stage]:>10.3f}" for stage in STAGES), flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--lines", type=int, default=10_000)
    options.add_argument("--blocks", type=int, default=1_000)
    options.add_argument("--repeat", type=int, default=3)
    chosen = options.parse_args()
    measure(states(100))  # tables and imports are loaded before anything is timed
    print(f"{'program':12}{'size':>8}" + "".join(f"{stage:>10}" for stage in STAGES) + "   seconds")
    for make in (states, backwards, models, pipeline, families):
        sizes = [chosen.lines // 4, chosen.lines // 2, chosen.lines]
        totals: list[float] = []
        for size in sizes:
            seconds = median(make(size), chosen.repeat)
            show(make.__name__, size, seconds)
            totals.append(sum(seconds[stage] for stage in ("parse", "resolve", "certify")))
        print(f"{'':12}  check grows as lines^{math.log(totals[-1] / totals[0], sizes[-1] / sizes[0]):.2f}")
    show("blocks", chosen.blocks, median(residual(chosen.blocks), chosen.repeat))
    backward = residual(chosen.blocks, "{}:-1:1")
    show("blocks back", chosen.blocks, median(backward, chosen.repeat))


if __name__ == "__main__":
    main()
