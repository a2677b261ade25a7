"""How long the command line takes to start, over the time of `python -c pass`.

    python benchmarks/startup.py

The bars: `--help` ≤ 6×, `check` of a small file ≤ 12×. Whole processes in turn; the first round,
which fills caches, is not counted.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

SMALL = Path(__file__).parents[1] / "examples" / "lenet5.impl"
ROUNDS = 31


def main() -> None:
    run = [sys.executable, "-m", "implicit_dsl"]
    commands = {
        "python -c pass": ([sys.executable, "-c", "pass"], None),
        "implicitc --help": ([*run, "--help"], 6),
        "implicitc check": ([*run, "check", str(SMALL)], 12),
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS + 1):
        for name, (command, _bar) in commands.items():
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            times[name].append(time.perf_counter() - start)
    base = times["python -c pass"][1:]
    for name, (_, bar) in commands.items():
        ratios = [t / b for t, b in zip(times[name][1:], base)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        verdict = "" if bar is None else f"   bar {bar}× {'met' if middle <= bar else 'MISSED'}"
        print(
            f"{name:<18} {1000 * statistics.median(times[name][1:]):6.1f} ms"
            f"   {middle:5.2f}× [{low:.2f}, {high:.2f}]{verdict}"
        )


if __name__ == "__main__":
    main()
