"""Paired timing: candidates run in turn, round by round, and ratios are taken within a round."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable


def interleave(
    candidates: dict[str, Callable[[], object]],
    rounds: int = 21,
    seconds: float = 0.02,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds for each call, one figure a round; the order rotates, and a round's turn takes `seconds`.

    With time.process_time as `clock`, others on the machine are counted less.
    """
    calls: dict[str, int] = {}
    for name, run in candidates.items():
        run()
        run()
        start = clock()
        run()
        calls[name] = max(1, int(seconds / max(clock() - start, 1e-7)))
    names, found = list(candidates), {name: [] for name in candidates}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                run = candidates[name]
                start = clock()
                for _ in range(calls[name]):
                    run()
                found[name].append((clock() - start) / calls[name])
    finally:
        gc.enable()
    return found


def ratio(found: dict[str, list[float]], name: str, base: str) -> tuple[float, float, float]:
    """Median and quartiles of the time of `name` over that of `base`, pair by pair."""
    pairs = [a / b for a, b in zip(found[name], found[base])]
    low, middle, high = statistics.quantiles(pairs, n=4)
    return middle, low, high


def report(title: str, found: dict[str, list[float]], base: str, bar: float | None = None) -> None:
    """Print the median time of each candidate, and its ratio to `base` with quartiles."""
    for name, times in found.items():
        if name == base:
            continue
        middle, low, high = ratio(found, name, base)
        micro = statistics.median(times) * 1e6
        against = statistics.median(found[base]) * 1e6
        verdict = "" if bar is None else f"   bar {bar:.2f} {'met' if middle <= bar else 'MISSED'}"
        print(
            f"{title:<34} {name:<12} {micro:>9.1f} µs / {against:>9.1f} µs"
            f"   {middle:.3f}× [{low:.3f}, {high:.3f}]{verdict}",
            flush=True,
        )
