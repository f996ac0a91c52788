"""Backup, repair and salvage on the disk that forgets: a power cut, a death or an error at every one of their calls.

Whenever it happens, the source is as it was, byte for byte.  What a backup leaves is nothing, or is refused, or is
complete; what a repair leaves is refused, or is complete, and repairing again completes it; nothing of the damaged file
is gone.  A salvage writes commit by commit: what it leaves is a beginning of the source's history.
"""

from __future__ import annotations

import gc
import random
from collections import Counter
from collections.abc import Callable
from unittest import mock

from detmem import opening
from detmem.errors import DetmemError, StorageError
from detmem.history import salvage
from detmem.journal.copies import backup, repair
from detmem.journal.files import LOCK, frames, holds_store
from detmem.journal.head import newest_head
from detmem.opening import open_disk
from tests.faults.simdisk import Fault, SimDisk, choices
from tests.faults.workloads import Broken, Runner, fixed_identity, model

__all__ = ["COMMITS", "DAMAGES", "SOURCES", "Copying", "damaged", "expected", "source", "whole"]

COMMITS = ("create", "add", "batch", "add", "delete", "add")
SOURCES = {  # name: (segment_bytes, a snapshot behind these commits, closed)
    "closed": (700, (3,), True),
    "killed": (700, (3,), False),
    "one segment": (1 << 26, (), True),
    "a segment each": (1, (2, 4), True),
}
DAMAGES = ("flip", "flip the last", "header", "gone", "cut", "cut at a border", "two", "seal", "head behind")
Files = dict[str, bytes]
Roots = tuple[str, str, str]


def source(name: str) -> Files:
    """A small store's files."""
    segment_bytes, snapshots, closed = SOURCES[name]
    runner = Runner(SimDisk(), "always", segment_bytes)
    with fixed_identity():
        runner.open()
        for number, kind in enumerate(COMMITS, start=1):
            runner.commit(kind)
            if number in snapshots:
                runner.do("snapshot")
        if closed:
            runner.close()
    return runner.disk.files


def segments(files: Files) -> list[str]:
    return sorted(name for name in files if name.startswith("log/"))


def damaged(files: Files, how: str) -> Files:
    """The same files, one or two of them damaged where something had been acknowledged."""
    names = segments(files)
    middle, last = names[(len(names) - 1) // 2], names[-1]
    if len(files[last]) == 128:  # nothing in it yet
        last = names[-2] if len(names) > 1 else last

    def flipped(name: str, at: int) -> bytes:
        data = files[name]
        return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]

    if how == "flip":
        return {**files, middle: flipped(middle, 200)}
    if how == "flip the last":
        return {**files, last: flipped(last, len(files[last]) - 3)}
    if how == "header":
        return {**files, middle: flipped(middle, 30)}
    if how == "gone":
        return {name: data for name, data in files.items() if name != middle}
    if how == "cut":
        return {**files, middle: files[middle][:-10]}
    if how == "cut at a border":
        offsets = [frame.offset for segment, frame in frames(SimDisk(files), 1, None) if segment.name == last]
        return {**files, last: files[last][: offsets[-1]]}
    if how == "two":
        following = names[min(len(names) - 1, names.index(middle) + 1)]
        return {**files, middle: flipped(middle, 30), following: flipped(following, 31)}
    if how == "seal":
        return {**files, middle: flipped(middle, len(files[middle]) - 1)}
    assert how == "head behind"
    # A power cut took the writes to HEAD that were never synced, and a bit has changed since in front of what the
    # frames behind it say had been acknowledged.
    return {**files, "HEAD": _older_head(files), last: flipped(last, 200)}


def _older_head(files: Files) -> bytes:
    """HEAD as it was first synced for the last segment: with nothing in it."""
    disk = SimDisk(files)
    head = newest_head(disk)
    assert head is not None
    name = segments(files)[-1]
    position = [frame for _, frame in frames(disk, 1, None) if frame.seq < int(name[4:24])]
    before = position[-1] if position else None
    older = type(head)(head.store_id, head.generation, False, int(name[4:24]) - 1, int(name[4:24]), 128)
    if before is not None:
        older = type(head)(
            head.store_id, head.generation, False, before.seq, int(name[4:24]), 128, before.link,
            head.snapshot_seq if head.snapshot_seq <= before.seq else 0,
            head.snapshot_digest if head.snapshot_seq <= before.seq else bytes(32),
        )  # fmt: skip
    return (older.encode().ljust(4096, b"\0")) * 2


def whole(files: Files, *, write: bool = True) -> tuple[int, Roots, bool] | str:
    """What opening gives: (seq, roots, whether all of it verifies), or what it said no with.

    A store whose snapshot stands in for a damaged segment opens, as it was, and does not verify.
    """
    try:
        with fixed_identity(), open_disk(SimDisk(files), write=write, segment_bytes=700) as db:
            return db.seq, (db.state_root, db.log_root, db.head), db.verify().ok
    except DetmemError as error:
        return f"{type(error).__name__}: {error}"


def expected(seq: int) -> tuple[int, Roots, bool]:
    """What ``whole`` says of a store that is the model's up to ``seq``."""
    return seq, model(COMMITS[:seq]), True


class Copying:
    """One operation from one disk to another, with something in its way; ``states`` and ``endings`` count."""

    def __init__(self, original: Files, seed: object, most: int) -> None:
        self.original = original
        self.rng = random.Random(str(seed))
        self.most = most
        self.states = 0
        self.endings: Counter[str] = Counter()
        self._seen: dict[tuple[tuple[str, bytes], ...], str] = {}
        self.expected = expected(len(COMMITS))

    # -- the three operations

    def backup(self, fault: Fault | None = None) -> None:
        """Of the whole source."""
        old, new = SimDisk(self.original), SimDisk()
        seq, head = self.expected[0], newest_head(old)
        assert head is not None
        self._run(old, new, lambda: backup(old, new, head.store_id, seq), self._absent_refused_or_complete, fault)

    def repair(self, victim: Files, fault: Fault | None = None, promised: int = len(COMMITS)) -> None:
        """Of ``victim``, from the original; ``promised`` is as far as anything in it says that it went."""
        old, new = SimDisk(self.original), SimDisk(victim)
        complete = expected(promised)

        def judge(files: Files) -> str:
            found = whole(files)
            if not isinstance(found, str) and found[:2] != complete[:2]:
                raise Broken(f"a silent difference: seq {found[0]}")
            kept = {data for name, data in files.items() if name.startswith(("log/", "quarantine/"))}
            for name, data in victim.items():
                if name.startswith("log/") and data not in kept and data != self.original.get(name):
                    raise Broken(f"{name} as it was is gone")
            again = SimDisk(files)
            repair(again, SimDisk(self.original))
            if whole(again.files) != complete:
                raise Broken(f"repairing again does not complete it: {whole(again.files)}")
            return "complete" if found == complete else "refused"

        self._run(old, new, lambda: repair(new, old), judge, fault)

    def salvage(self, victim: Files, fault: Fault | None = None) -> None:
        """From ``victim`` to a new store."""
        old, new = SimDisk(victim), SimDisk()
        disks = {"old": old, "new": new}

        def work() -> None:
            with mock.patch.object(opening, "_disk_at", lambda path, *rest: disks[str(path)]), fixed_identity():
                salvage("old", "new")

        self._run(old, new, work, self._a_beginning, fault)

    # -- what must hold

    def _absent_refused_or_complete(self, files: Files) -> str:
        if not holds_store(SimDisk(files)):
            return "absent"
        found = [whole(files, write=False), whole(files)]
        for one in found:
            if not isinstance(one, str) and one != self.expected:
                raise Broken(f"an unfinished backup opens, at seq {one[0]}")
        return "refused" if isinstance(found[1], str) else "complete"

    def _a_beginning(self, files: Files) -> str:
        if not holds_store(SimDisk(files)):
            return "absent"
        found = whole(files)
        if isinstance(found, str):
            raise Broken(f"an unfinished salvage does not open: {found}")
        if found[1] != model(COMMITS[: found[0]]):
            raise Broken(f"a salvage with other roots at seq {found[0]}")
        return f"a beginning of {found[0]}"

    # -- inside

    def _run(
        self,
        old: SimDisk,
        new: SimDisk,
        work: Callable[[], object],
        judge: Callable[[Files], str],
        fault: Fault | None,
    ) -> None:
        before = old.files
        changes = -1

        def look(disk: SimDisk, call: str) -> None:
            nonlocal changes
            if disk.changes == changes:
                return
            changes = disk.changes
            for choice in choices(disk, self.most, self.rng):
                self._judge(disk.survivors(choice), judge, f"power cut {choice} before {call!r}")
            self._judge(disk.files, judge, f"killed before {call!r}")

        if fault is None:
            new.watch = look
            work()
        else:
            side = new if fault.at >= 0 else old  # a negative number: a call to the source
            side.fault = Fault(fault.at if fault.at >= 0 else -1 - fault.at, fault.errno, fault.short, fault.lasting)
            try:
                work()
            except StorageError as error:
                if error.errno != fault.errno:
                    raise Broken(f"an error of its own: {error!r}") from None
            else:
                if side.failures:
                    raise Broken(f"the error of {side.last_failure!r} was swallowed")
            side.fault = None
        new.watch = None
        look(new, "the end")
        if fault is None:  # it has returned: that lasts, whatever happens now
            last = self._judge(new.files, judge, "returned")
            for choice in choices(new, self.most, self.rng):
                ending = self._judge(new.survivors(choice), judge, f"power cut {choice} behind its return")
                if ending != last or ending in ("absent", "refused"):
                    raise Broken(f"it had returned, and a power cut {choice} left it {ending}")
        gc.collect()  # what only a dead frame holds is closed with it, as a real file is
        if old.open_handles or new.open_handles:
            raise Broken(f"left open: {old.open_handles}, {new.open_handles}")
        left = {name: data for name, data in old.files.items() if name != LOCK}
        if old.units or left != {name: data for name, data in before.items() if name != LOCK}:
            raise Broken("the source was changed")

    def _judge(self, files: Files, judge: Callable[[Files], str], where: str) -> str:
        self.states += 1
        key = tuple(sorted(files.items()))
        if key not in self._seen:
            try:
                self._seen[key] = judge(files)
            except (Broken, DetmemError) as broken:
                raise Broken(f"{where}: {type(broken).__name__}: {broken}") from broken
        self.endings[self._seen[key]] += 1
        return self._seen[key]
