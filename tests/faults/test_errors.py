"""Campaigns 6 and 7: every call to the disk fails once, or for good, with every errno; then the power fails as well."""

from __future__ import annotations

import errno
import gc
import random
from unittest import mock

import pytest

from detmem.errors import StorageError, StorePoisoned
from detmem.journal.disk import File
from detmem.journal.log import Journal
from tests.faults.simdisk import Fault, SimDisk, choices
from tests.faults.workloads import POLICIES, Broken, Examiner, Runner, Workload, fixed_identity, model

ERRNOS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EMFILE)
SEED = 20_260_201
EXAMINER = Examiner()  # of all tests here: equal bytes are opened once
WORKLOADS = [
    Workload("always", 1 << 26, ("add", "batch", "delete")),
    Workload("always", 1, ("add", "snapshot", "delete")),
    Workload("always", 700, ("add", "kill", "add")),
    Workload("paranoid", 700, ("add", "reopen", "add")),
    Workload("group:1", 1, ("add", "batch", "snapshot")),
    Workload("os", 700, ("add", "kill", "batch")),
    Workload("os", 1 << 26, ("add", "snapshot", "add")),
    Workload("interval:99999", 1, ("add", "tick", "add")),
    Workload("os", 1, ("add", "snapshot", "erase")),
]


def faults(calls: int, every_errno: bool) -> list[Fault]:
    """Each of the first ``calls`` calls fails: plainly (one errno each, or all), by half, and from then on."""
    found = []
    for at in range(calls):
        found += [Fault(at, number) for number in (ERRNOS if every_errno else ERRNOS[at % 4 : at % 4 + 1])]
        found += [Fault(at, errno.ENOSPC, short=True), Fault(at, errno.ENOSPC, short=True, lasting=True)]
    return found


def count_calls(workload: Workload) -> int:
    """Calls of a run in which nothing fails."""
    runner = Runner(SimDisk(), workload.policy, workload.segment_bytes)
    with fixed_identity():
        runner.run(workload.operations)
    return runner.disk.calls


def fail_once(workload: Workload, fault: Fault, examiner: Examiner, seed: int = SEED, most: int = 12) -> bool:
    """One run with one fault; whether it was met.  ``Broken`` says how to run it again."""
    runner = Runner(SimDisk(), workload.policy, workload.segment_bytes)
    runner.disk.fault = fault
    try:
        with fixed_identity():
            _run(runner, workload.operations, fault)
            if runner.disk.failures:
                _after(runner, examiner, random.Random(seed), most)
    except Broken as broken:
        what = f"replay with tests.faults.test_errors.fail_once({workload!r}, {fault!r}, Examiner(), {seed}, {most})"
        raise Broken(f"{what}\nat {runner.disk.last_failure!r}, behind {runner.trail}: {broken}") from None
    return runner.disk.failures > 0


def _run(runner: Runner, operations: tuple[str, ...], fault: Fault) -> None:
    fill, spared = Journal._fill_ahead, []

    def filling(journal: Journal, file: File) -> None:
        fill(journal, file)
        if not journal._fills and fault.errno == errno.ENOSPC:
            spared.append(runner.disk.failures)

    try:
        with mock.patch.object(Journal, "_fill_ahead", filling):
            runner.run(operations)
    except StorageError as error:
        if error.errno != fault.errno or not runner.disk.failures:
            raise Broken(f"an error of its own: {error!r}") from None
    else:
        if runner.disk.failures > len(spared):  # a full disk is told to nobody when only zeros did not fit
            raise Broken("the error was swallowed")
    runner.disk.fault = None


def _after(runner: Runner, examiner: Examiner, rng: random.Random, most: int) -> None:
    """Poisoned, readable, nothing left open; and every way to go on keeps the promises."""
    database, disk = runner.database, runner.disk
    if database is not None and not database._closed:
        _is_poisoned(runner)
        database.close()
    if disk.open_handles or disk.locked is not None:
        gc.collect()  # what only a dead frame holds is closed with it, as a real file is
    if disk.open_handles or disk.locked is not None:
        raise Broken(f"left open: {disk.open_handles}, locked: {disk.locked is not None}")
    for choice in choices(disk, most, rng):
        _examine(examiner, disk.survivors(choice), runner, runner.floor, f"power cut {choice}")
    _examine(examiner, disk.files, runner, runner.returned, "the process ends")
    # The kernel that failed a sync says nothing twice: open again, write, be told it is durable, and lose the power.
    for name, left, floor in (("cache kept", disk.kill(), runner.returned), ("evicted", disk.evicted(), runner.floor)):
        following = Runner(
            left, "always", runner.segment_bytes, runner.history, runner.under_way, runner.floor, runner.swept
        )
        seen: list[object] = [None]

        def look(
            disk: SimDisk, call: str, following: Runner = following, name: str = name, seen: list[object] = seen
        ) -> None:
            before, seen[0] = seen[0], following.moment
            if before == seen[0]:
                return
            for choice in choices(disk, most, rng):
                where = f"{name}, power cut {choice} before {call!r} of {following.trail}"
                _examine(examiner, disk.survivors(choice), following, following.floor, where)

        left.watch = look
        try:
            following.open()
            if following.returned < floor:
                raise Broken(f"{name}: {floor} calls had returned, {following.returned} commits are left")
            following.do("add")
            following.close()
        except StorageError as error:
            raise Broken(f"{name}: {error!r}, and nothing fails any more") from None
        look(left, "the end")


def _is_poisoned(runner: Runner) -> None:
    database = runner.database
    assert database is not None
    possible = runner.history + runner.under_way
    if not runner.returned <= database.seq <= len(possible):
        raise Broken(f"shows seq {database.seq}; {runner.returned} commits returned, {len(possible)} were issued")
    if (database.state_root, database.log_root, database.head) != model(possible[: database.seq]):
        raise Broken("what was published is not what the model has")
    if "notes" in database:
        assert len(database["notes"].get().ids) == len(database["notes"])
    reading = (runner.disk.last_failure or "").split()[0] in ("open", "list", "pread", "size", "close")
    if reading and runner.under_way == ("erase",) and database._journal._failure is None:
        if database.seq != runner.returned:
            raise Broken("the Erase is logged, and the handle goes on without having finished it")
        return  # it looked who was ever there, and had not begun to write
    try:
        database.drop("notes") if "notes" in database else database.collection("other", dim=1)
    except StorePoisoned:
        return
    raise Broken("a handle that failed to write has written again")


def _examine(examiner: Examiner, files: dict[str, bytes], runner: Runner, floor: int, where: str) -> None:
    try:
        examiner.check(files, runner, floor)
    except Broken as broken:
        raise Broken(f"{where}: {broken}") from None


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: f"{one.policy}-{one.segment_bytes}-{one.operations}")
def test_a_failing_call_surfaces_poisons_and_costs_nothing_acknowledged(workload):
    met = [fail_once(workload, fault, EXAMINER, most=3) for fault in faults(count_calls(workload), every_errno=False)]
    assert all(met)


def test_zeros_whose_cut_was_never_synced_do_not_come_back_behind_a_seal():
    """The sync of a cut failed as the store was closed, and the kernel forgot it.  The next writer saw the file end
    there, went on, and sealed it; a power cut then gave the zeros back, and the store was refused."""
    met, examiner = 0, Examiner()
    while True:
        runner = Runner(SimDisk(), "always", 1 << 26)
        with fixed_identity():
            runner.open()
            for operation in ("add", "batch", "add", "delete", "delete"):
                runner.do(operation)
            runner.disk.fault = Fault(runner.disk.calls + met)
            try:
                runner.close()
            except StorageError:
                runner.disk.fault = None
            else:
                break
            met += 1
            before = runner.history, runner.under_way, runner.floor, runner.swept
            following = Runner(runner.disk.kill(), "always", 1 << 26, *before)
            following.open()
            following.do("delete")
            following.do("snapshot")
        for choice in choices(following.disk, 60, random.Random(SEED)):
            _examine(examiner, following.disk.survivors(choice), following, following.floor, f"call {met}, {choice}")
    assert met > 6


@pytest.mark.parametrize("policy", POLICIES)
def test_a_sync_that_fails_once_has_not_made_anything_durable(policy):
    """Campaign 7 proper: every sync, and no other call; more ways for the power to fail behind it."""
    workload = Workload(policy, 700, ("add", "batch", "snapshot"))
    runner = Runner(SimDisk(), policy, 700)
    syncs: list[int] = []
    runner.disk.watch = lambda disk, call: syncs.append(disk.calls) if call.startswith("sync") else None
    with fixed_identity():
        runner.run(workload.operations)
    assert len(syncs) > 10
    for at in syncs:
        assert fail_once(workload, Fault(at), EXAMINER, most=8)
