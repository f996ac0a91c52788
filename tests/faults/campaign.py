"""The long runs: ``python tests/faults/campaign.py [--states N] [--seconds S] [--seed X] [--workers W]``.

Campaign 1 until N states of crashes were examined (10^6), campaign 2 for N / 10 walks, campaigns 6 and 7 with every
errno, campaign 12 whole.  Counts, seeds and failures go to bench/results/faults.md; each failure comes with the call
that replays it.  ``--seconds`` ends campaigns 1 and 2 early; the report then says how far they came.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from bench import common
from tests.faults import test_crash, test_errors, test_injected_bugs
from tests.faults.workloads import Broken, Examiner, Workload, workloads

WAYS_PER_MOMENT = 48
SHARES = {"1": 0.55, "2": 0.25, "6": 0.20}  # of --seconds


@dataclass
class Tally:
    """One campaign's account."""

    runs: int = 0
    states: int = 0
    opened: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.runs += other.runs
        self.states += other.states
        self.opened += other.opened
        self.failures += other.failures


_examiner = Examiner()  # of this worker


def _counted(work: Callable[[Examiner], object], runs: int = 1) -> Tally:
    states, opened = _examiner.states, _examiner.opened
    failures = []
    try:
        work(_examiner)
    except Broken as broken:
        failures.append(str(broken))
    return Tally(runs, _examiner.states - states, _examiner.opened - opened, 0.0, failures)


def crashes(task: tuple[int, Workload]) -> Tally:
    seed, workload = task
    rng = random.Random(f"{seed} {workload}")
    return _counted(lambda examiner: test_crash.crash_everywhere(workload, examiner, WAYS_PER_MOMENT, rng))


def walks(task: tuple[int, int]) -> Tally:
    tally = Tally()
    for seed in range(*task):
        tally.add(_counted(lambda examiner, seed=seed: test_crash.walk(seed, examiner)))
    return tally


def failures(task: tuple[int, Workload, test_errors.Fault]) -> Tally:
    seed, workload, fault = task
    return _counted(lambda examiner: test_errors.fail_once(workload, fault, examiner, seed, 6))


def bugs(number: int) -> tuple[str, str]:
    bug = test_injected_bugs.BUGS[number]
    return bug.name, test_injected_bugs.caught(bug)


def _gather(found: Iterable[Tally], until: Callable[[Tally], bool]) -> Tally:
    total, start = Tally(), time.monotonic()
    for tally in found:
        total.add(tally)
        total.seconds = time.monotonic() - start
        if until(total):
            break
    return total


def _fault_tasks(seed: int) -> Iterator[tuple[int, Workload, test_errors.Fault]]:
    others = workloads()
    random.Random(seed).shuffle(others)
    for number, workload in enumerate([*test_errors.WORKLOADS, *others[:64]]):
        every = number < len(test_errors.WORKLOADS)
        for fault in test_errors.faults(test_errors.count_calls(workload), every_errno=every):
            yield seed, workload, fault


def main() -> int:
    parser = argparse.ArgumentParser(description="the long fault campaigns")
    parser.add_argument("--states", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    every = workloads()
    random.Random(options.seed).shuffle(every)

    def limit(name: str, count: Callable[[Tally], int], most: int) -> Callable[[Tally], bool]:
        seconds = options.seconds * SHARES[name]
        return lambda tally: count(tally) >= most or tally.seconds >= seconds or len(tally.failures) >= 10

    first = options.seed * 10_000_000
    steps = [(first + at, first + at + 20) for at in range(0, options.states // 10, 20)]
    rows, failed = [], []
    plans = {
        "1 power cut or death at every call": (
            crashes,
            [(options.seed, workload) for workload in every],
            limit("1", lambda tally: tally.states, options.states),
            f"{len(every)} workloads in all, {WAYS_PER_MOMENT} ways a moment at most",
        ),
        "2 recovery crashes, three deep": (
            walks,
            steps,
            limit("2", lambda tally: tally.runs, options.states // 10),
            f"walk({first}) and following",
        ),
        "6, 7 a call fails, then a power cut": (
            failures,
            list(_fault_tasks(options.seed)),
            limit("6", lambda tally: tally.runs, sys.maxsize),
            "every call, every errno, short, lasting; 6 ways a moment at most",
        ),
    }
    for name, (work, tasks, until, what) in plans.items():
        with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
            tally = _gather(pool.imap_unordered(work, tasks), until)
            pool.terminate()
        failed += tally.failures
        count = f"{tally.runs:,}"
        rows.append(
            [name, count, f"{tally.states:,}", f"{tally.opened:,}", f"{tally.seconds:.0f}", len(tally.failures), what]
        )
        print(rows[-1], flush=True)
    start = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        verdicts = pool.map(bugs, range(len(test_injected_bugs.BUGS)), chunksize=1)
    redundant = test_injected_bugs.REDUNDANT
    missed = [name for name, said in verdicts if not said and name not in redundant]
    failed += [f"injected bug not caught: {name}" for name in missed]
    total = len(verdicts) - len(redundant)
    rows.append(["12 injected bugs", total, "", "", f"{time.monotonic() - start:.0f}", len(missed), "one line each"])
    columns = ["campaign", "runs", "states", "different disks opened", "seconds", "failures", "how"]
    hunts = sorted({said.partition(":")[0] for _, said in verdicts if said})
    caught = [[hunt, sum(said.startswith(f"{hunt}:") for _, said in verdicts)] for hunt in hunts]
    text = f"""\
`python tests/faults/campaign.py --states {options.states} --seconds {options.seconds} --seed {options.seed}`,
{options.workers} workers.  A *run* is a workload, a walk or a fault; a *state* is what one power cut (or the death
of the process) at one moment leaves; equal bytes are opened once by each worker.  Each opened disk is read, recovered,
verified at both levels, cut off from power again, and opened twice more.

{common.table(columns, rows)}

A failure is: refused though nothing was damaged, an acknowledged commit lost, other roots than the model's, a second
opening that finds something to do, an error swallowed, a handle left open.

## Injected bugs: which hunt met them first

{common.table(["hunt", "bugs"], caught)}

Lines that may be left out in this fault model, and why:

{common.table(["line", "reason"], list(redundant.items()))}

## Failures

{chr(10).join(f"- {one}" for one in failed) or "None."}
"""
    common.write("faults", "Faults", text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
