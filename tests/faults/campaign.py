"""The long runs: ``python tests/faults/campaign.py [--only 8,9] [--states N] [--seconds S] [--seed X] [--workers W]``.

Each campaign of ``CAMPAIGNS`` examines as much as ``SIZES`` says and gives an account of it; the accounts are kept in
bench/results/faults.json, and bench/results/faults.md is written from them anew.  ``--only`` runs some, and leaves the
others' accounts, with their own dates and commits, as they are.  Each failure comes with the call that replays it.

``--states`` sets the size of campaign 1 and, a tenth of it, of campaign 2; ``--seconds`` ends these two, and 6 and 7,
early: the account then says how far they came.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from bench import common
from tests.faults import (
    beside,
    contending,
    copies,
    hostile,
    killing,
    test_copies,
    test_crash,
    test_damage,
    test_errors,
    test_injected_bugs,
    test_threads_on_simdisk,
)
from tests.faults.simdisk import Fault
from tests.faults.workloads import Broken, Examiner, Workload, workloads
from tests.stateful.test_model import run_crashing

WAYS_PER_MOMENT = 48
SHARES = {"1": 0.55, "2": 0.25, "6": 0.20}  # of --seconds
KILLS = 10_000
PAIRS = 2_000  # of openers
STRANGERS = 20_000
CROWDS = 500
WATCHED = 1_000  # stores
STEPS = 50_000
STORIES = 1_000
HOSTILE_PARTS = 16
COPY_WAYS = 24
BITS_AT_ONCE = 4_096
ACCOUNTS = common.RESULTS / "faults.json"


@dataclass
class Tally:
    """One campaign's account."""

    runs: int = 0
    states: int = 0
    opened: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    dearest: int = 0
    slowest: float = 0.0

    def add(self, other: Tally) -> None:
        self.runs += other.runs
        self.states += other.states
        self.opened += other.opened
        self.failures += other.failures
        self.counts += other.counts
        self.dearest = max(self.dearest, other.dearest)
        self.slowest = max(self.slowest, other.slowest)


@dataclass
class Options:
    """How large, from which seed, and by how many."""

    states: int
    seconds: float
    seed: int
    workers: int


# --------------------------------------------------------------------------------------------------- one task each


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


def kills(seed: int) -> Tally:
    killing.warm()
    with tempfile.TemporaryDirectory() as folder:
        found = killing.run(killing.ROUNDS, seed, Path(folder))
    return Tally(found.loops, found.acknowledged, found.lives, 0.0, found.failures, found.endings)


def openings(task: tuple[int, bool]) -> Tally:
    seed, two_processes = task
    killing.warm()
    with tempfile.TemporaryDirectory() as folder:
        found = contending.run(contending.ROUNDS, seed, Path(folder), two_processes)
    counts: Counter[str] = Counter()
    for kind, count in found.kinds.items():
        counts["two processes" if two_processes else kind.partition(", ")[0]] += count
    return Tally(found.rounds, found.openings, found.readers, 0.0, found.failures, counts)


def watching(seed: int) -> Tally:
    killing.warm()
    with tempfile.TemporaryDirectory() as folder:
        found = beside.run(10, seed, Path(folder))
    return Tally(found.rounds, found.commits, sum(found.looks.values()), 0.0, found.failures, found.looks)


def damages(task: tuple[str, str, int]) -> Tally:
    """A file with every bit of a stretch flipped, cut at every byte of one, or its sectors moved about."""
    name, kind, start = task
    data = bytes(test_damage.store().files[name])
    if kind == "flips":
        changed: Iterable[bytes | bytearray] = test_damage.flips(
            data, range(start, min(8 * len(data), start + BITS_AT_ONCE))
        )
    elif kind == "cuts":
        changed = (data[:size] for size in range(start, min(len(data), start + BITS_AT_ONCE)))
    else:
        changed = test_damage.sector_cases(data)
    tally = Tally()
    for number, one in enumerate(changed):
        for write in (True, False):
            found = test_damage.verdict(name, one, write=write)
            tally.runs += 1
            tally.counts[f"{kind} {found}"] += 1
            if found == "changed":
                tally.failures.append(
                    f"{name}, {kind} from {start}, number {number}, write={write}: silently different"
                )
    return tally


def strangers(task: tuple[int, int]) -> Tally:
    tally = Tally()
    for seed in range(*task):
        tally.add(_counted(lambda examiner, seed=seed: test_damage.meet_strangers(seed)))
    return tally


def machines(seed: int) -> Tally:
    try:
        return Tally(1, run_crashing(seed, 20, 50))
    except Exception as error:  # noqa: BLE001 - whatever a step met is a finding
        return Tally(1, failures=[f"tests.stateful.test_model.run_crashing({seed}, 20, 50): {error!r}"])


def hostiles(part: int) -> Tally:
    cases = hostile.admitted()[part::HOSTILE_PARTS]
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        found = hostile.run(cases, Path(folder))
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        for one in hostile.weigh(list(hostile.DEAR)[part::HOSTILE_PARTS], Path(folder)):
            if one["read"] > one["allowed"]:
                found.failures.append(f"dear: {one}")
    tally = Tally(found.runs, found.cases, 0, 0.0, found.failures, found.endings)
    tally.dearest, tally.slowest = found.most_beyond, found.most_seconds
    return tally


def stories(seed: int) -> Tally:
    return _counted(lambda examiner: test_threads_on_simdisk.tell(seed, examiner))


def copyings(task: tuple[int, str, str]) -> Tally:
    """A backup of one source, or a repair or a salvage of one victim: cut off everywhere, then each call failing."""
    seed, name, how = task
    copying = copies.Copying(copies.source(name), f"{seed} {name} {how}", COPY_WAYS)
    tally = Tally(1)
    try:
        if how == "backup":
            copying.backup()
        else:
            victim = copies.damaged(copying.original, how)
            copying.repair(victim, promised=test_copies.promised(how))
        copying.most = 4
        for at in range(-40, 80):
            fault = Fault(at, test_errors.ERRNOS[at % 4], short=at % 3 == 0, lasting=at % 5 == 0)
            tally.runs += 1
            if how == "backup":
                copying.backup(fault)
            else:
                copying.repair(victim, fault, test_copies.promised(how))
        if how != "backup":
            salvaging = copies.Copying(copies.source(name), f"{seed} {name} {how} salvage", COPY_WAYS)
            salvaging.salvage(victim)
            copying.states += salvaging.states
            tally.runs += 1
    except (Broken, AssertionError) as error:
        tally.failures.append(f"copyings({task!r}): {error}")
    tally.states = copying.states
    tally.opened = len(copying._seen)
    return tally


# ------------------------------------------------------------------------------------------------------- campaigns


def _gathered(
    options: Options, work: Callable[[Any], Tally], tasks: Iterable[Any], until: Callable[[Tally], bool] | None = None
) -> Tally:
    """The sum over the tasks, by all workers; ends with the tasks, when ``until`` says so, or with ten failures."""
    total, start = Tally(), time.monotonic()
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        for tally in pool.imap_unordered(work, tasks):
            total.add(tally)
            total.seconds = time.monotonic() - start
            if len(total.failures) >= 10 or (until is not None and until(total)):
                break
        pool.terminate()
    return total


def campaign_1(options: Options) -> dict[str, Any]:
    every = workloads()
    random.Random(options.seed).shuffle(every)
    most = options.seconds * SHARES["1"]
    tasks = [(options.seed, workload) for workload in every]
    tally = _gathered(options, crashes, tasks, lambda so_far: so_far.states >= options.states or so_far.seconds >= most)
    how = f"{len(every)} workloads in all, {WAYS_PER_MOMENT} ways a moment at most"
    return _account("power cut or death at every call", tally, how)


def campaign_2(options: Options) -> dict[str, Any]:
    first, most = options.seed * 10_000_000, options.seconds * SHARES["2"]
    tasks = [(first + at, first + at + 20) for at in range(0, options.states // 10, 20)]
    tally = _gathered(options, walks, tasks, lambda so_far: so_far.seconds >= most)
    return _account("recovery crashes, three deep", tally, f"walk({first}) and following")


def campaign_3(options: Options) -> dict[str, Any]:
    sizes = {name: len(test_damage.store().files[name]) for name in test_damage.FILES}
    tasks = [(name, "flips", at) for name, size in sizes.items() for at in range(0, 8 * size, BITS_AT_ONCE)]
    tally = _gathered(options, damages, tasks)
    how = f"every bit of {len(sizes)} files, {sum(sizes.values()):,} bytes, opened to write and to read"
    return _account("flipped bits", tally, f"{how}. {_list(tally.counts)}")


def campaign_4(options: Options) -> dict[str, Any]:
    sizes = {name: len(test_damage.store().files[name]) for name in test_damage.FILES}
    tasks = [(name, "cuts", at) for name, size in sizes.items() for at in range(0, size, BITS_AT_ONCE)]
    tally = _gathered(options, damages, [*tasks, *((name, "sectors", 0) for name in sizes)])
    how = "cut at every byte; every 512 bytes zeroed, duplicated, exchanged; opened to write and to read"
    return _account("cuts and sectors", tally, f"{how}. {_list(tally.counts)}")


def campaign_5(options: Options) -> dict[str, Any]:
    first = options.seed * 5_000_000
    tally = _gathered(options, strangers, [(first + at, first + at + 50) for at in range(0, STRANGERS, 50)])
    how = "noise, magics, and frames from elsewhere behind the log, then in documents and metadata of a torn commit"
    return _account("strange bytes and frames", tally, f"{how}: meet_strangers({first}) and following")


def campaign_6(options: Options) -> dict[str, Any]:
    most = options.seconds * SHARES["6"]
    tally = _gathered(options, failures, _fault_tasks(options.seed), lambda so_far: so_far.seconds >= most)
    how = "every call, every errno, short, lasting (a full disk); 6 ways a moment at most"
    return _account("(and 7) a call fails, then a power cut", tally, how)


def _fault_tasks(seed: int) -> Iterator[tuple[int, Workload, test_errors.Fault]]:
    others = workloads()
    random.Random(seed).shuffle(others)
    for number, workload in enumerate([*test_errors.WORKLOADS, *others[:64]]):
        every = number < len(test_errors.WORKLOADS)
        for fault in test_errors.faults(test_errors.count_calls(workload), every_errno=every):
            yield seed, workload, fault


def campaign_8(options: Options) -> dict[str, Any]:
    first = options.seed * 1_000_000
    tally = _gathered(options, kills, range(first, first + KILLS // killing.ROUNDS))
    how = f"kills; acknowledged commits; stores: killing.Life({first}) and following. {_list(tally.counts)}"
    return _account("kill -9 of a real process", tally, how)


def campaign_9(options: Options) -> dict[str, Any]:
    first = options.seed * 1_000_000
    pairs = [(first + number, True) for number in range(PAIRS // contending.ROUNDS)]
    crowds = [(first + 500_000 + number, False) for number in range(CROWDS // contending.ROUNDS + 1)]
    tally = _gathered(options, openings, [*pairs, *crowds])
    how = f"rounds; openers; readers among them: contending.Store({first}) and following. {_list(tally.counts)}"
    return _account("many openers, the holder killed", tally, how)


def campaign_10(options: Options) -> dict[str, Any]:
    first = options.seed * 1_000_000
    tally = _gathered(options, machines, range(first, first + STEPS), lambda so_far: so_far.states >= STEPS)
    return _account("state machine with crashes", tally, f"runs; steps: run_crashing({first}, 20, 50) and following")


def campaign_11(options: Options) -> dict[str, Any]:
    tally = _gathered(options, hostiles, range(HOSTILE_PARTS))
    beyond = f"at most {tally.dearest / 2**20:.1f} MiB beyond twice the largest file, {tally.slowest:.1f} s of CPU"
    return _account("hostile files", tally, f"operations; stores: {beyond}. {_list(tally.counts)}")


def campaign_13(options: Options) -> dict[str, Any]:
    first = options.seed * 1_000_000
    tally = _gathered(options, stories, range(first, first + STORIES))
    how = f"threads whose order a seed draws, power cuts and failing calls among them: tell({first}) and following"
    return _account("threads on the simulated disk", tally, how)


def campaign_14(options: Options) -> dict[str, Any]:
    tasks = [(options.seed, name, "backup") for name in copies.SOURCES]
    tally = _gathered(options, copyings, [*tasks, *((options.seed, *victim) for victim in test_copies.VICTIMS)])
    how = "cut off at every call, then every call failing; sources, victims and ways: tests/faults/copies.py"
    return _account("backup, repair, salvage", tally, how)


def campaign_15(options: Options) -> dict[str, Any]:
    every = [workload for workload in workloads() if "erase" in workload.operations] + test_crash.ERASURES
    random.Random(options.seed).shuffle(every)
    tasks = [(options.seed, workload) for workload in every]
    tally = _gathered(options, crashes, tasks, lambda so_far: so_far.states >= options.states // 10)
    how = f"campaign 1 of the {len(every)} workloads that erase; what an erasure gave up stands in no file"
    return _account("erasures cut off anywhere", tally, how)


def campaign_16(options: Options) -> dict[str, Any]:
    first = options.seed * 1_000_000
    tally = _gathered(options, watching, range(first, first + WATCHED, 10))
    how = f"stores; commits; looks at them: beside.Watched({first}) and following. {_list(tally.counts)}"
    return _account("readers beside a writer", tally, how)


def campaign_12(options: Options) -> dict[str, Any]:
    start = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        verdicts = pool.map(bugs, range(len(test_injected_bugs.BUGS)), chunksize=1)
    redundant = test_injected_bugs.REDUNDANT
    missed = [name for name, said in verdicts if not said and name not in redundant]
    tally = Tally(len(verdicts) - len(redundant), seconds=time.monotonic() - start)
    tally.failures = [f"injected bug not caught: {name}" for name in missed]
    caught = Counter(said.partition(":")[0] for _, said in verdicts if said)
    return {**_account("injected bugs", tally, "one line each"), "hunts": dict(sorted(caught.items()))}


CAMPAIGNS: dict[str, Callable[[Options], dict[str, Any]]] = {
    "1": campaign_1,
    "2": campaign_2,
    "3": campaign_3,
    "4": campaign_4,
    "5": campaign_5,
    "6": campaign_6,
    "8": campaign_8,
    "9": campaign_9,
    "10": campaign_10,
    "11": campaign_11,
    "12": campaign_12,
    "13": campaign_13,
    "14": campaign_14,
    "15": campaign_15,
    "16": campaign_16,
}


# --------------------------------------------------------------------------------------------------------- accounts


def _account(name: str, tally: Tally, how: str) -> dict[str, Any]:
    return {
        "name": name,
        "runs": tally.runs,
        "states": tally.states,
        "opened": tally.opened,
        "seconds": round(tally.seconds),
        "failures": tally.failures,
        "how": how,
    }


def _list(counts: Counter[str]) -> str:
    return "; ".join(f"{what}: {count:,}" for what, count in sorted(counts.items()))


def _report(accounts: dict[str, dict[str, Any]]) -> None:
    rows = []
    failed = []
    for number in sorted(accounts, key=int):
        one = accounts[number]
        counts = [f"{one[column]:,}" if one[column] else "" for column in ("runs", "states", "opened")]
        place = f"{one['commit']}, {one['date']}, seed {one['seed']}, {one['workers']} workers"
        rows.append([f"{number} {one['name']}", *counts, one["seconds"], len(one["failures"]), one["how"], place])
        failed += [f"campaign {number}: {failure}" for failure in one["failures"]]
    columns = ["campaign", "runs", "states", "opened", "seconds", "failures", "how", "where"]
    hunts = accounts.get("12", {}).get("hunts", {})
    text = f"""\
`python tests/faults/campaign.py`; `--only` renews single rows, so each says where it comes from (the line above is
of the last one).

{common.table(columns, rows)}

1, 2, 6, 7, 13, 14, 15: a *run* is a workload, a walk, a fault or a story; a *state* is what one power cut (or the death
of the process) at one moment leaves; equal bytes are *opened* once by each worker.  Each opened disk is read,
recovered, verified at both levels, cut off from power again, and opened twice more.  3 and 4: a *run* is one changed
file, opened; 5: one seed.
The others say in *how* what the three columns count.

A failure is: refused though nothing was damaged, an acknowledged commit lost, other roots than the model's, a second
opening that finds something to do, an error swallowed, a handle left open.

## Injected bugs: which hunt met them first

{common.table(["hunt", "bugs"], [[hunt, count] for hunt, count in hunts.items()])}

Lines that may be left out in this fault model, and why:

{common.table(["line", "reason"], list(test_injected_bugs.REDUNDANT.items()))}

## Failures

{chr(10).join(f"- {one}" for one in failed) or "None."}
"""
    common.write("faults", "Faults", text)


def main() -> int:
    parser = argparse.ArgumentParser(description="the long fault campaigns")
    parser.add_argument("--only", help="numbers of campaigns, with commas", default=",".join(CAMPAIGNS))
    parser.add_argument("--states", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    options = Options(arguments.states, arguments.seconds, arguments.seed, arguments.workers)
    wanted = arguments.only.split(",")
    strangers = [number for number in wanted if number not in CAMPAIGNS]
    if strangers:
        parser.error(f"no campaign {', '.join(strangers)}: there are {', '.join(CAMPAIGNS)}")
    accounts: dict[str, dict[str, Any]] = json.loads(ACCOUNTS.read_text("utf-8")) if ACCOUNTS.exists() else {}
    _, date, commit, *_ = common.header().split("; ")
    failed = False
    for number in wanted:
        account = CAMPAIGNS[number](options)
        failed = failed or bool(account["failures"])
        made = {"seed": options.seed, "workers": options.workers, "date": date, "commit": commit}
        accounts[number] = {**account, **made}
        print(f"campaign {number}: {accounts[number]}", flush=True)
        ACCOUNTS.write_text(json.dumps(accounts, indent=1) + "\n", encoding="utf-8", newline="\n")
    _report(accounts)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
