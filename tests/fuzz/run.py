"""The fuzzer as a script: `python tests/fuzz/run.py --programs 100000`.

Each program goes through the whole of `implicitc compile` in a folder of its own. A finding is a
traceback, more than two seconds of processor time, a file written or a process started outside of
that folder, a module that is no Python, or a diagnostic whose place is not in the text. Programs
that say something new become seeds themselves. Findings are made small and kept in `--keep`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[2]))

from fuzz.examine import Examiner, Result, warm_up
from fuzz.guard import Guard
from fuzz.mutate import program
from fuzz.seeds import Corpus, seeds
from fuzz.shrink import shrink

MOST_KEPT = 3000  # programs that become seeds
JSON_EVERY = 4


def fuzz(
    count: int, seed: int, keep: Path | None = None, progress: int = 0
) -> tuple[Counter[str], list[str]]:
    """Run so many programs; gives how many of each kind there were, and the findings."""
    random = Random(seed)
    corpus = Corpus(seeds())
    numbers: Counter[str] = Counter()
    findings: dict[str, str] = {}
    known: set[str] = set()
    slowest, began = 0.0, time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="implicitc-fuzz-") as name:
        examiner = Examiner(Path(name), Guard())
        warm_up(examiner)
        for number in range(count):
            way, data = program(random, corpus)
            result = examiner.examine(data)
            if not result.problem and number % JSON_EVERY == 0:
                wrong, _ = examiner.as_data()
                result = Result(wrong, result.signs, result.accepted, result.seconds)
            numbers[way] += 1
            numbers["accepted" if result.accepted else "refused"] += 1
            slowest = max(slowest, result.seconds)
            if result.problem:
                _note(findings, result.problem, data, examiner, keep)
            elif not result.signs <= known:
                known |= result.signs
                if len(data) < 6000 and len(corpus.texts) < MOST_KEPT:
                    text = data.decode("utf-8", "ignore")
                    corpus.add(text)
                    corpus.right += [text] * result.accepted
                    numbers["kept as seeds"] += 1
            if progress and (number + 1) % progress == 0:
                pace = (number + 1) / (time.perf_counter() - began)
                said = f"{number + 1} programs, {pace:.0f}/s, slowest {slowest:.2f} s, {len(known)} signs"
                print(f"{said}, {len(findings)} findings", flush=True)
    numbers["slowest in ms"] = round(1000 * slowest)
    return numbers, list(findings.values())


def _note(findings: dict[str, str], problem: str, data: bytes, examiner: Examiner, keep: Path | None) -> None:
    """Keep a finding, unless one with the same last lines is known."""
    key = _key(problem)
    if key in findings:
        return
    small = shrink(data, lambda other: _key(examiner.examine(other).problem) == key)
    text = small.decode("utf-8", "backslashreplace")
    findings[key] = f"{problem.strip()}\n--- program\n{text}"
    print(f"=== finding {len(findings)}\n{findings[key]}", flush=True)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{len(findings)}-{os.getpid()}.impl").write_bytes(small)


def _key(problem: str) -> str:
    """What two findings of one cause share: where the traceback ends, or what sort of finding it is."""
    if problem.startswith(("took", "hang")):
        return "slow"
    lines = [line for line in problem.strip().splitlines() if line.lstrip().startswith("File ")]
    return lines[-1] if lines else problem[:60]


def _one(arguments: tuple[int, int, str | None, int]) -> tuple[Counter[str], list[str]]:
    count, seed, keep, progress = arguments
    return fuzz(count, seed, Path(keep) if keep else None, progress)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--programs", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", help="a folder for the findings")
    parser.add_argument("--progress", type=int, default=1000, help="say something after so many programs")
    options = parser.parse_args()
    share = -(-options.programs // options.processes)
    jobs = [
        (min(share, options.programs - share * i), options.seed + i, options.keep, options.progress)
        for i in range(options.processes)
    ]
    if options.processes == 1:
        results = [_one(jobs[0])]
    else:
        with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
            results = pool.map(_one, jobs)
    numbers: Counter[str] = Counter()
    for counted, _ in results:
        slowest = max(numbers["slowest in ms"], counted["slowest in ms"])
        numbers += counted
        numbers["slowest in ms"] = slowest
    findings = [one for _, found in results for one in found]
    print(", ".join(f"{name}: {number}" for name, number in sorted(numbers.items())))
    print(f"{options.programs} programs, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
