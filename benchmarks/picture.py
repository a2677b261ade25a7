"""How long it takes to assemble and to draw the matrix A of LeNet-5.

Prints median and quartiles in milliseconds: python benchmarks/picture.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from time import perf_counter

import implicit_dsl
from implicit_dsl.compiler import check, read_source
from implicit_dsl.matrices import Layout
from implicit_dsl.pictures import spy_of, spy_png, spy_svg, spy_text

LENET = Path(__file__).parents[1] / "examples" / "lenet5.impl"
REPEATS = 51


def measure(name: str, action: Callable[[], object]) -> None:
    """Time an action, once unmeasured and then again and again."""
    action()
    times = []
    for _ in range(REPEATS):
        start = perf_counter()
        action()
        times.append(1000 * (perf_counter() - start))
    low, median, high = quantiles(times, n=4)
    print(f"{name:<28} {median:7.2f} ms   (quartiles {low:.2f} … {high:.2f})")


def main() -> None:
    (model,) = check(read_source(str(LENET))).models
    system = implicit_dsl.load(str(LENET)).LeNet5().system()
    spy = spy_of(model, "A")
    print(f"A of LeNet-5: n = {spy.n_rows}, {len(spy.rows)} entries, {REPEATS} runs")
    measure("assemble the triplets", lambda: Layout.of(model, "A").triplets(system.weights))
    measure("assemble as scipy matrix", lambda: system.A.to_scipy())
    measure("draw as SVG", lambda: spy_svg(spy))
    measure("draw as PNG", lambda: spy_png(spy))
    measure("draw as text", lambda: spy_text(spy))
    measure("from the model to SVG", lambda: spy_svg(spy_of(model, "A")))
    measure("from the model to PNG", lambda: spy_png(spy_of(model, "A")))


if __name__ == "__main__":
    main()
