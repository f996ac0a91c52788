"""Campaigns 1 and 2: the power fails, or the process dies, at any moment, while writing and while recovering."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from detmem.errors import StorageError
from tests.faults.simdisk import Fault, SimDisk, choices, random_choice
from tests.faults.workloads import (
    POLICIES,
    Broken,
    Examiner,
    Runner,
    Workload,
    fixed_identity,
    workloads,
)

QUICK_STATES = 10_000
QUICK_WALKS = 1_000
SEED = 20_260_101


@dataclass(frozen=True, slots=True)
class Place:
    """Replays one state of campaign 1: ``replay(place)``."""

    workload: Workload
    call: int
    choice: tuple[int, ...] | str

    def __str__(self) -> str:
        return f"replay with tests.faults.test_crash.replay({self!r})"


def crash_everywhere(workload: Workload, examiner: Examiner, most: int, rng: random.Random) -> None:
    """Campaign 1 for one workload: before every call, up to ``most`` power cuts, and the death of the process."""
    runner = Runner(SimDisk(), workload.policy, workload.segment_bytes)
    moment: tuple[object, ...] = ()

    def look(disk: SimDisk, call: str) -> None:
        nonlocal moment
        before, moment = moment, runner.moment
        if moment == before:
            return
        for choice in choices(disk, most, rng):
            _check(examiner, disk.survivors(choice), runner, runner.floor, Place(workload, disk.calls, choice), call)
        _check(examiner, disk.files, runner, runner.returned, Place(workload, disk.calls, "kill"), call)

    _run(runner, workload, look)


def replay(place: Place) -> None:
    """Run one state again; ``Broken`` as before."""
    runner = Runner(SimDisk(), place.workload.policy, place.workload.segment_bytes)

    def look(disk: SimDisk, call: str) -> None:
        if disk.calls != place.call:
            return
        if isinstance(place.choice, str):
            _check(Examiner(), disk.files, runner, runner.returned, place, call)
        elif len(disk.units) == len(place.choice):
            _check(Examiner(), disk.survivors(place.choice), runner, runner.floor, place, call)

    _run(runner, place.workload, look)


def _run(runner: Runner, workload: Workload, look) -> None:
    runner.disk.watch = look
    with fixed_identity():
        runner.run(workload.operations)
    look(runner.disk, "the end")


def _check(examiner: Examiner, files, runner: Runner, floor: int, place: Place, call: str) -> None:
    try:
        if examiner.check(files, runner, floor).untidy:
            raise Broken("HEAD is clean, and zeros stand behind the log")
    except Broken as broken:
        raise Broken(f"{place}\nbefore {call!r}, behind {runner.trail}: {broken}") from None


def walk(seed: int, examiner: Examiner) -> int:
    """Campaign 2, one walk; returns how many crashes it had.

    A workload crashes, its recovery crashes, and the recovery from that, up to three deep, each at a random call in a
    random way (power cut or death of the process); what each leaves is examined.  In some of them a call fails first.
    """
    rng = random.Random(seed)
    operations = ("add", "batch", "delete", "erase", "snapshot", "reopen", "kill", "add", "add")
    policy = rng.choice(POLICIES)
    runner = Runner(SimDisk(), policy, rng.choice((1, 700, 1 << 26)))
    depth = rng.randint(1, 4)  # the first is the workload's own crash
    story: list[str] = []
    for _ in range(depth):
        steps = tuple(rng.choice(operations) for _ in range(rng.randint(0, 3)))
        taken: list[tuple[Runner, str]] = []
        seen = 0

        def look(disk: SimDisk, call: str, runner: Runner = runner, taken: list[tuple[Runner, str]] = taken) -> None:
            nonlocal seen
            seen += 1
            if rng.random() * seen < 1:  # a reservoir of one: every call is as likely
                left = Runner(
                    disk.kill(),
                    runner.policy,
                    runner.segment_bytes,
                    runner.history,
                    runner.under_way,
                    runner.floor,
                    runner.swept,
                )
                taken[:] = [(left, call)]

        runner.disk.watch = look
        if rng.random() < 0.3:
            runner.disk.fault = Fault(rng.randrange(90), short=rng.random() < 0.5)
        try:
            with fixed_identity():
                runner.run(steps)
        except Exception as error:
            if not isinstance(error, StorageError) or not runner.disk.failures:
                where = f"{story} {runner.policy} {steps} {runner.trail}: {error!r}"
                raise Broken(f"replay with tests.faults.test_crash.walk({seed}): {where}") from error
            story.append(f"{runner.disk.last_failure!r} failed")
        runner.abandon()
        look(runner.disk, "the end")
        runner, call = taken[0]
        possible = runner.history + runner.under_way
        if rng.random() < 0.4:
            story.append(f"{runner.policy} {steps}: killed before {call!r}")
            seen_floor = runner.returned  # what a call returned for outlives the process
        elif rng.random() < 0.1:
            story.append(f"{runner.policy} {steps}: killed, failed pages evicted, before {call!r}")
            runner.disk, seen_floor = runner.disk.evicted(), runner.floor
        else:
            choice = random_choice(runner.disk, rng)
            story.append(f"{runner.policy} {steps}: power cut {choice} before {call!r}")
            runner.disk, seen_floor = runner.disk.crash(choice), runner.floor
        try:
            found = examiner.check(runner.disk.files, runner, seen_floor)
            if runner.disk.units:
                examiner.check(runner.disk.survivors(random_choice(runner.disk, rng)), runner, runner.floor)
        except Broken as broken:
            raise Broken(f"replay with tests.faults.test_crash.walk({seed}): {story}: {broken}") from None
        runner.history, runner.under_way = possible[: found.seq], ()
        runner.policy = rng.choice(POLICIES)
    return depth


def test_a_power_cut_or_a_death_before_any_call_loses_nothing_acknowledged():
    rng = random.Random(SEED)
    every = workloads()
    rng.shuffle(every)
    examiner = Examiner()
    for workload in every:
        crash_everywhere(workload, examiner, 12, rng)
        if examiner.states >= QUICK_STATES:
            break
    assert examiner.states >= QUICK_STATES


def test_recovery_survives_its_own_crashes_three_deep():
    examiner = Examiner()
    depths = [walk(seed, examiner) for seed in range(QUICK_WALKS)]
    assert max(depths) == 4  # the workload's crash, and three of the recoveries behind it


ERASURES = [
    Workload("always", 1, ("add", "add", "erase")),
    Workload("always", 700, ("add", "snapshot", "erase", "add")),
    Workload("os", 1 << 26, ("add", "batch", "erase", "kill", "erase")),
    Workload("group:1", 700, ("add", "kill", "erase")),
    Workload("paranoid", 1, ("add", "snapshot", "add", "erase")),
]


@pytest.mark.parametrize("workload", ERASURES, ids=lambda one: f"{one.policy}-{one.segment_bytes}-{one.operations}")
def test_an_erasure_cut_off_anywhere_is_finished_by_the_next_open(workload):
    """Before its Erase is durable nothing has changed; behind that every open for writing ends without what it held."""
    crash_everywhere(workload, Examiner(), 12, random.Random(SEED))


def test_the_first_open_ever_may_crash_at_any_call():
    """Every subset of what is under way, where 2^10 allow: a store is there, whole and empty, or not at all."""
    examiner = Examiner()
    for policy in POLICIES:
        crash_everywhere(Workload(policy, 1, ()), examiner, 1 << 11, random.Random(SEED))


def test_both_slots_of_head_were_at_risk_when_a_killed_writer_was_followed_by_another():
    """The opener took the slot it read for synced, and wrote the other one: a power cut then tore both, and the store
    was refused.  It now writes and syncs the slot it read before it goes to the other."""
    workload = Workload("always", 1, ("add", "add", "kill"))
    crash_everywhere(workload, Examiner(), 60, random.Random(SEED))


def test_a_snapshot_of_the_empty_store_verifies_before_head_names_it():
    """``verify`` took "HEAD names no snapshot" (seq 0) for "HEAD names the snapshot at seq 0, with another digest"."""
    crash_everywhere(Workload("os", 1, ("snapshot", "delete", "delete")), Examiner(), 8, random.Random(SEED))


def test_a_segment_whose_rename_was_never_synced_is_not_built_upon():
    """A writer died between the rename of a new segment and the sync of its folder.  The next opener found the segment,
    appended to it, synced the file and acknowledged; a power cut then took the name, and HEAD spoke of what was not
    there.
    """
    for operations in (("add",), ("add", "snapshot")):
        for number in (1, 2, 3):
            runner = Runner(SimDisk(), "always", 1)
            left: list[Runner] = []

            def look(disk: SimDisk, call: str, runner: Runner = runner, left: list[Runner] = left) -> None:
                if call == "sync_folder log":
                    following = Runner(
                        disk.kill(), "always", 1, runner.history, runner.under_way, runner.floor, runner.swept
                    )
                    left.append(following)

            runner.disk.watch = look
            with fixed_identity():
                runner.run(operations)
                following = left[number % len(left)]
                following.open()
                following.do("add")
            nothing = (0,) * len(following.disk.units)
            Examiner().check(following.disk.survivors(nothing), following, following.floor)
