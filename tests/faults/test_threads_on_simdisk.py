"""Threads under each policy, on the disk that forgets, in an order that a seed draws.

Some threads write, one takes snapshots, one reads the store as another process would, one makes backups.  Before every
disk call there may be a power cut or the death of the process; in some runs a call fails.  What each leaves is opened
afterwards: it must be a prefix of what the log's order turned out to be, with everything that a returned call had been
promised.  The roots are the twin's.
"""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from typing import Any

import pytest

from detmem.database import Database
from detmem.errors import LogDamaged, StorageError, StorePoisoned
from detmem.journal.copies import backup
from detmem.opening import open_disk
from tests.faults.killing import Model, do, thread_call
from tests.faults.schedule import Scheduler
from tests.faults.simdisk import Fault, SimDisk, choices
from tests.faults.workloads import Broken, Examiner, fixed_identity

POLICIES = ("group:1", "interval:1", "always", "os")
PROMPT = ("group:1", "always")
SEGMENT_BYTES = (1, 2_000, 1 << 26)
SEEDS = 24


class Story:
    """One run of several threads; ``judge`` afterwards, when the order of their commits is known."""

    def __init__(self, seed: int, examiner: Examiner) -> None:
        rng = random.Random(f"threads {seed}")
        self.seed, self.rng, self.examiner = seed, rng, examiner
        self.policy = rng.choice(POLICIES)
        self.segment_bytes = rng.choice(SEGMENT_BYTES)
        self.writers = rng.randint(2, 3)
        self.commits_each = rng.randint(1, 4)
        self.disk = SimDisk()
        self.fault = None
        if rng.random() < 0.4:
            self.fault = Fault(rng.randrange(120), short=rng.random() < 0.5, lasting=rng.random() < 0.3)
        self.scheduler = Scheduler(seed)
        self.order: list[str] = []  # the id that each published commit added, the collection's first
        self.under_way: dict[int, int] = {}
        self.returned = self.floor = 0
        self.seen: list[tuple[str, dict[str, bytes], int]] = []
        self.reads: list[tuple[str, int, tuple[str, str, str]]] = []
        self.pace = rng.choice((1, 5, 20))

    def run(self) -> None:
        """All threads, until they have ended; the fault's error is the only one there may be."""
        with fixed_identity(), self.scheduler.planted():
            self.scheduler.run(self._first)
        if self.disk.open_handles and not self.disk.failures:
            raise Broken(f"left open: {self.disk.open_handles}")

    def _first(self) -> None:
        db = open_disk(self.disk, durability=self.policy, segment_bytes=self.segment_bytes)
        publish = db._publish

        def noted(change: Any) -> None:
            publish(change)
            added = [operation.id for operation in change.operations if operation.name == "add"]
            self.order.append(added[0] if added else "")

        db._publish = noted  # type: ignore[method-assign]
        db.collection("notes", dim=2, metric="l2")
        self.returned = 1
        self.floor = 1 if self.policy in PROMPT else 0
        self.disk.watch = self._watch
        if self.fault is not None:
            self.disk.fault = replace(self.fault, at=self.disk.calls + self.fault.at)
        works = [lambda thread=thread: self._write(db, thread) for thread in range(self.writers)]
        works += [lambda: self._snapshot(db), self._read, lambda: self._backup(db)]
        tasks = [self.scheduler.spawn(work, f"task {at}") for at, work in enumerate(works)]
        for task in tasks:
            self.scheduler.join(task)
        try:
            db.close()
            if not self.disk.failures:  # a poisoned handle only lets go
                self.floor = self.returned
        except StorageError:
            self._expected_failure()

    def _write(self, db: Database, thread: int) -> None:
        for number in range(self.commits_each):
            self.under_way[thread] = number
            try:
                commit = do(db, thread_call(self.seed, thread, number))
            except StorageError:
                self._expected_failure()
                return
            del self.under_way[thread]
            self.returned = max(self.returned, commit.seq)
            if self.policy in PROMPT:
                assert commit.durable
                self.floor = max(self.floor, commit.seq)

    def _snapshot(self, db: Database) -> None:
        try:
            info = db.snapshot()
        except StorageError:
            self._expected_failure()
            return
        self.floor = max(self.floor, info.seq)

    def _read(self) -> None:
        """As another process does: it sees nothing but the disk."""
        try:
            reader = open_disk(self.disk, write=False)
            for _ in range(3):
                self.reads.append(("a reader", reader.seq, (reader.state_root, reader.log_root, reader.head)))
                reader.refresh()
        except StorageError:
            self._expected_failure()

    def _backup(self, db: Database) -> None:
        dest = SimDisk()
        try:
            seq = db.seq
            backup(self.disk, dest, db._opened.head.store_id, seq)
        except StorageError:
            self._expected_failure()
            return
        found = open_disk(dest.crash((0,) * len(dest.units)), write=False)
        if found.seq != seq:
            raise Broken(f"a backup at seq {seq} opens at {found.seq}")
        self.reads.append(("a backup", found.seq, (found.state_root, found.log_root, found.head)))

    def _expected_failure(self) -> None:
        if not self.disk.failures:
            raise Broken("an error, and no call had failed")

    def _watch(self, disk: SimDisk, call: str) -> None:
        self.scheduler.pause()
        if self.rng.randrange(self.pace):
            return
        for choice in choices(disk, 3, self.rng):
            self.seen.append((f"power cut {choice} before {call!r}", disk.survivors(choice), self.floor))
        self.seen.append((f"killed before {call!r}", disk.files, self.returned))

    # -- afterwards

    def judge(self) -> int:
        """How many states there were; ``Broken`` at the first that kept a promise not."""
        disk = self.disk
        for name, left in (("at the end", disk), ("at the end, evicted", disk.evicted())):
            for choice in choices(left, 6, self.rng):
                self.seen.append((f"power cut {choice} {name}", left.survivors(choice), self.floor))
        self.seen.append(("at the end", disk.files, self.returned))
        model = Model(self.seed)
        for what, files, floor in self.seen:
            found = self.examiner.find(files)
            if found.complaint:
                raise Broken(f"{what}: {found.complaint}")
            if found.seq < floor:
                raise Broken(f"{what}: acknowledged were {floor} commits, {found.seq} are left")
            if found.roots not in self._possible(model, found.seq):
                raise Broken(f"{what}: other roots at seq {found.seq} than the twin's")
        for who, seq, roots in self.reads:
            if roots not in self._possible(model, seq):
                raise Broken(f"{who} at seq {seq} saw other roots than the twin's")
        return len(self.seen)

    def _possible(self, model: Model, seq: int) -> list[tuple[str, str, str]]:
        """The twin's roots at ``seq``: one, or behind the last commit that was published, one for each under way."""
        known = len(self.order)
        if seq <= known:
            return [model.at(seq, lambda one: self.order[one - 1])]
        if seq > known + 1:
            raise Broken(f"{seq} commits, and {known} were published")
        model.at(known, lambda one: self.order[one - 1])
        found = []
        for thread, number in self.under_way.items():
            other = copy.deepcopy(model)
            found.append(other.at(seq, lambda one, id=f"{thread}-{number}": id))
        return found


def tell(seed: int, examiner: Examiner) -> tuple[int, int]:
    """One story: (states, switches).  ``Broken`` says how to tell it again."""
    story = Story(seed, examiner)
    try:
        story.run()
        return story.judge(), story.scheduler.switches
    except (Broken, AssertionError, LogDamaged) as broken:
        what = f"{story.policy}, segments of {story.segment_bytes}, {story.fault}"
        raise Broken(
            f"replay with tests.faults.test_threads_on_simdisk.tell({seed}, Examiner()): {what}: {broken}"
        ) from (broken)


def test_threads_keep_the_promises_of_their_policy_on_a_disk_that_forgets() -> None:
    examiner = Examiner()
    told = [tell(seed, examiner) for seed in range(SEEDS)]
    assert sum(states for states, _ in told) > 1_500
    assert sum(switches for _, switches in told) > 1_000


def test_a_sync_behind_one_that_failed_is_not_believed() -> None:
    """One thread rotated, and its sync failed; another waited to sync for its group.  It synced again, the kernel was
    content, since it had marked the lost pages clean, and a commit that was nowhere was acknowledged; in the background
    of ``interval``, HEAD said that it was durable, and the store was refused after a power cut."""
    disk = SimDisk()
    db = open_disk(disk, durability="group:1")
    notes = db.collection("notes", dim=2, metric="l2")
    journal = db._journal
    assert journal is not None
    syncing = journal._syncing

    class Contended:
        """Whoever gets this lock had to wait for one that failed."""

        def __enter__(self) -> None:
            syncing.acquire()
            journal._failure = StorageError(5, "sync failed in another thread", "log")

        def __exit__(self, *_: object) -> None:
            syncing.release()

    journal._syncing = Contended()  # type: ignore[assignment]
    calls: list[str] = []
    disk.watch = lambda disk, call: calls.append(call)
    with pytest.raises(StorePoisoned):
        notes.add("a", raw=[1, 1])
    assert [call for call in calls if call.startswith("sync")] == []
    db.close()


def test_equal_seeds_are_equal_runs() -> None:
    one, two = (Story(5, Examiner()) for _ in range(2))
    for story in (one, two):
        story.run()
    assert (one.order, one.scheduler.switches, one.disk.files) == (two.order, two.scheduler.switches, two.disk.files)


def test_a_deadlock_is_seen() -> None:
    scheduler = Scheduler(1)
    first, second = scheduler.threading.Lock(), scheduler.threading.Lock()

    def both(one: Any, other: Any) -> None:
        with one:
            scheduler.pause(lambda: first.owner is not None and second.owner is not None)
            with other:
                raise AssertionError("never here")

    def start() -> None:
        for one, other in ((first, second), (second, first)):
            scheduler.spawn(lambda one=one, other=other: both(one, other), "both")

    with pytest.raises(Broken, match="deadlock"):
        scheduler.run(start)
