"""What is done to a store while the disk misbehaves, and what must hold afterwards.

A *workload* is a few operations under one policy.  ``Runner`` does them and keeps what an application could know: which
commits it was told are durable (``floor``), which calls returned (``returned``: they outlive the process), and what
was under way.  The truth comes from ``model``: the same commits on a ``MemoryDisk``, without any crash.  ``examine``
opens what a crash left and demands the promises of spec/log.md of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from unittest import mock

from detmem.database import Database
from detmem.errors import CorruptionError, DetmemError, FormatError
from detmem.journal import recovery
from detmem.journal.disk import MemoryDisk
from detmem.journal.files import LOCK
from detmem.journal.head import HEAD, newest_head, read_heads
from detmem.opening import open_disk
from tests.faults.simdisk import SimDisk

__all__ = [
    "POLICIES",
    "Broken",
    "Examiner",
    "Found",
    "Runner",
    "Workload",
    "fixed_identity",
    "given_up",
    "model",
    "workloads",
]

POLICIES = ("always", "paranoid", "group:1", "os", "interval:99999")  # that timer never fires; "tick" stands for it
PROMPT = ("always", "paranoid", "group:1")  # a call that returned is durable
OPERATIONS = ("add", "batch", "delete", "erase", "snapshot", "reopen", "kill", "tick")
SEGMENT_BYTES = (1, 700, 1 << 26)  # a segment per commit; one every few; one for all


class Broken(AssertionError):  # noqa: N818 - what a simulation found
    """A promise that was not kept.  The message starts with what replays it."""


@contextmanager
def fixed_identity() -> Iterator[None]:
    """Store ids from no random source: equal runs give equal bytes, and a failure replays."""
    with mock.patch.object(recovery, "random_bytes", lambda size: bytes(range(size))):
        yield


# ----------------------------------------------------------------------------------------------------------- workloads


@dataclass(frozen=True, slots=True)
class Workload:
    """``open`` comes before ``operations``, ``close`` after them."""

    policy: str
    segment_bytes: int
    operations: tuple[str, ...]


def workloads() -> list[Workload]:
    """Every workload of at most three operations."""
    sequences = [operations for length in range(4) for operations in itertools.product(OPERATIONS, repeat=length)]
    return [
        Workload(policy, segment_bytes, operations)
        for operations in sequences
        for policy in POLICIES
        for segment_bytes in SEGMENT_BYTES
        if "tick" not in operations or policy.startswith("interval")
    ]


def _commit(db: Database, kind: str) -> None:
    """One commit, decided by its kind and by where the store stands (or none: there may be nothing to delete)."""
    seq = db.seq
    if kind == "create":
        db.collection("notes", dim=2, metric="l2")
        return
    notes = db["notes"]
    if kind == "add":  # three sectors
        notes.add(f"a{seq}", raw=[seq, 1], metadatas={"seq": seq}, documents=chr(97 + seq % 26) * 900)
    elif kind == "batch":
        with db.batch():
            notes.add([f"b{seq}", f"c{seq}"], raw=[[seq, 2], [seq, 3]], request_id=f"r{seq}")
            notes.delete(notes.get(limit=1).ids)
            notes.upsert("same", raw=[seq, 4], documents="d")
            notes.link(f"b{seq}", "next", f"c{seq}")
            notes.link("same", "holds", f"b{seq}")
    elif kind == "erase":
        db.erase("notes", notes.get(limit=1).ids)
    else:
        assert kind == "delete"
        notes.delete(notes.get(limit=1).ids)


def _marks(erased: Iterable[tuple[str, str]]) -> list[bytes]:
    """The documents of erased records, which no other record has: their ids say what they were."""
    return [(chr(97 + int(id[1:]) % 26) * 900).encode() for _, id in erased if id.startswith("a")]


_models: dict[tuple[str, ...], tuple[str, str, str]] = {}
_given_up: dict[tuple[str, ...], list[bytes]] = {}


def model(commits: tuple[str, ...]) -> tuple[str, str, str]:
    """(state root, log root, link) after these commits, on a disk that never fails."""
    if commits not in _models:
        db = open_disk(MemoryDisk(), durability="os")
        for length in range(len(commits) + 1):
            if length:
                _commit(db, commits[length - 1])
            _models[commits[:length]] = (db.state_root, db.log_root, db.head)
            _given_up[commits[:length]] = _marks(db._erasures)
        db.close()
    return _models[commits]


def given_up(commits: tuple[str, ...]) -> list[bytes]:
    """What no file may hold any more once these commits have returned."""
    model(commits)
    return _given_up[commits]


# -------------------------------------------------------------------------------------------------------------- runner


@dataclass(slots=True)
class Runner:
    """An application on a disk.  ``operations`` done one by one; after an error it can say what it had been told."""

    disk: SimDisk
    policy: str
    segment_bytes: int
    history: tuple[str, ...] = ()  # commits whose calls returned
    under_way: tuple[str, ...] = ()  # the commit whose call has not returned
    floor: int = 0  # seqs up to here have been acknowledged as durable
    swept: int = 0  # what the commits up to here erase is gone
    database: Database | None = field(default=None, repr=False)
    trail: list[str] = field(default_factory=list)

    @property
    def returned(self) -> int:
        """Seqs up to here outlive the process."""
        return len(self.history)

    def run(self, operations: tuple[str, ...]) -> None:
        """Open, do all, close."""
        self.open()
        for operation in operations:
            self.do(operation)
        self.close()

    def open(self) -> None:
        self.trail.append("open")
        database = open_disk(self.disk, durability=self.policy, segment_bytes=self.segment_bytes)
        if self.trail[-2:-1] == ["close"] and database.recovery is not None:
            raise Broken(f"closed, and opening had something to do: {database.recovery}")
        self.database = database
        self._settle_history(database)
        self.floor = max(self.floor, database.seq)  # an opened store has synced what it shows
        self.swept = self.returned

    def close(self) -> None:
        self.trail.append("close")
        assert self.database is not None
        self.database.close()
        self.floor = self.returned

    def do(self, operation: str) -> None:
        database = self.database
        assert database is not None
        if operation == "reopen":
            self.close()
            self.open()
        elif operation == "kill":  # the process dies, the machine does not; what it had written is not synced for that
            self.trail.append("kill")
            before = self.disk
            self.abandon()
            self.disk = before.kill()
            self.disk.watch, self.disk.fault = before.watch, before.fault
            self.disk.calls, self.disk.changes = before.calls, before.changes + 1
            self.open()
        elif operation == "snapshot":
            self.trail.append("snapshot")
            database.snapshot()
            self.floor = self.returned
        elif operation == "tick":  # the interval has passed
            self.trail.append("tick")
            journal = database._journal
            assert journal is not None
            with journal._guarded():
                journal._sync()
            self.floor = self.returned
        else:
            if "notes" not in database:
                self.commit("create")
            self.commit(operation)

    def commit(self, kind: str) -> None:
        """One commit, and what it was told."""
        database = self.database
        assert database is not None
        self.trail.append(kind)
        self.under_way = (kind,)
        before = database.seq
        _commit(database, kind)
        self.under_way = ()
        if database.seq == before + 1:
            self.history += (kind,)
        if self.policy in PROMPT:
            self.floor = self.returned
        if kind == "erase":
            self.floor = self.swept = self.returned

    @property
    def moment(self) -> tuple[object, ...]:
        """Equal at two calls: no crash between them can be told from a crash at the first."""
        return self.disk.changes, self.floor, self.history, self.under_way

    def abandon(self) -> None:
        """What a killed process's handle leaves in this one: a thread that waits."""
        if self.database is not None and self.database._journal is not None:
            journal = self.database._journal
            journal._stopping.set()
            if journal._background is not None:
                journal._background.join()
        self.database = None

    def _settle_history(self, database: Database) -> None:
        """After a crash: what was under way is in, or it is not."""
        possible = self.history + self.under_way
        self.history, self.under_way = possible[: database.seq], ()


# ------------------------------------------------------------------------------------------------------------ examiner


@dataclass(frozen=True, slots=True)
class Found:
    """What opening the bytes of one crash gave; it depends on nothing but these bytes."""

    seq: int
    roots: tuple[str, str, str]
    complaint: str = ""
    untidy: bool = False  # HEAD is clean, and zeros stand behind the log: no harm, and only where a sync had failed


class Examiner:
    """Opens what crashes leave.  Equal bytes are opened once; ``opened`` counts the different ones."""

    def __init__(self, segment_bytes: int = 700) -> None:
        self._segment_bytes = segment_bytes
        self._found: dict[bytes, Found] = {}
        self.opened = 0
        self.states = 0

    def check(self, files: dict[str, bytes], runner: Runner, floor: int) -> Found:
        """The promises to ``runner`` hold for these files.  ``Broken`` otherwise, without the words that replay it."""
        left = [
            name for name, data in files.items() for mark in given_up(runner.history[: runner.swept]) if mark in data
        ]
        if left:
            raise Broken(f"an erasure had returned, and {left} hold what was erased")
        found = self.find(files)
        judge(found, runner, floor)
        return found

    def find(self, files: dict[str, bytes]) -> Found:
        """What opening these files gives."""
        self.states += 1
        key = _digest(files)
        found = self._found.get(key)
        if found is None:
            self.opened += 1
            found = self._found[key] = self._examine(files)
        return found

    def _examine(self, files: dict[str, bytes]) -> Found:
        try:
            seen = _read(files)
            disk = SimDisk(files)
            first = _open(disk, self._segment_bytes, verified=True)
            untidy = first[2] is not None and _is_clean(files) and any("zeros" in one for one in first[2].actions)
            cut = disk.crash((0,) * len(disk.units))  # a power cut right behind the recovery
            for left in (disk.files, cut.files):
                holding = [name for name, data in left.items() for mark in first[3] if mark in data]
                if holding:
                    return Found(*first[:2], f"opened for writing, and {holding} hold what was erased")
            again = _open(cut, self._segment_bytes)
            if again[:2] != first[:2]:
                return Found(*first[:2], f"opened at seq {first[0]}, after a power cut behind that at seq {again[0]}")
            if first[2] is not None and first[2].quarantined:
                _kept_in_quarantine(files, self._segment_bytes)
            before = _stable(cut.files)
            third = _open(cut, self._segment_bytes)
            if third[:2] != first[:2] or third[2] is not None or _stable(cut.files) != before:
                return Found(*first[:2], f"opening again found or did something: {third}")
            litter = [name for name in cut.files if name.endswith(".tmp")]
            if litter:
                return Found(*first[:2], f"left behind: {litter}")
            if seen is not None and seen[0] > first[0]:
                return Found(*first[:2], f"a reader saw seq {seen[0]}, then a writer seq {first[0]}")
            return Found(*first[:2], "" if seen is None or not seen[1] else seen[1], untidy)
        except (DetmemError, AssertionError) as error:
            return Found(-1, ("", "", ""), f"{type(error).__name__}: {error}")


def judge(found: Found, runner: Runner, floor: int) -> None:
    """``Broken`` unless this is a prefix of what was issued, with everything that was acknowledged, unchanged."""
    possible = runner.history + runner.under_way
    if found.complaint:
        raise Broken(found.complaint)
    if found.seq < floor:
        raise Broken(f"acknowledged were {floor} commits, {found.seq} are left")
    if found.seq > len(possible):
        raise Broken(f"issued were {len(possible)} commits, {found.seq} are there")
    if found.roots != model(possible[: found.seq]):
        raise Broken(f"other roots at seq {found.seq} than the model's")


def _open(
    disk: SimDisk, segment_bytes: int, verified: bool = False
) -> tuple[int, tuple[str, str, str], recovery.Recovery | None, list[bytes]]:
    """(seq, roots, recovery, what was erased).  ``verified``: read all of it again, leave the handle as a crash would;
    else close."""
    with fixed_identity():
        db = open_disk(disk, segment_bytes=segment_bytes)
    found = db.seq, (db.state_root, db.log_root, db.head), db.recovery, _marks(db._erasures)
    if verified:
        for level in ("chain", "replay"):
            report = db.verify(level)
            if not report.ok or report.remaining or (report.seq, report.state_root) != (db.seq, db.state_root):
                raise CorruptionError(f"verify({level!r}) of a recovered store at seq {db.seq}: {report}")
        return found
    db.close()
    if disk.open_handles:
        raise CorruptionError(f"left open: {disk.open_handles}")
    return found


def _kept_in_quarantine(files: dict[str, bytes], segment_bytes: int) -> None:
    """What recovery cuts off is safe in quarantine before it is gone from the log, whenever the power fails."""
    disk = SimDisk(files)
    last = max(name for name in files if name.startswith("log/"))
    tail = files[last].rstrip(b"\0")  # what was written ahead holds nothing, and is not kept
    changes = -1

    def look(disk: SimDisk, call: str) -> None:
        nonlocal changes
        before, changes = changes, disk.changes
        if before == changes:
            return
        count = len(disk.units)
        for choice in [(0,) * count, *((*(0,) * at, 1, *(0,) * (count - at - 1)) for at in range(count))]:
            left = disk.survivors(choice)
            if left.get(last, b"").startswith(tail):
                continue
            kept = [tail.endswith(data) for name, data in left.items() if name.startswith("quarantine/")]
            if not any(kept):
                raise CorruptionError(f"before {call!r}, power cut {choice}: the tail is neither in the log nor kept")

    disk.watch = look
    with fixed_identity():
        db = open_disk(disk, segment_bytes=segment_bytes)
    look(disk, "the end")
    assert db.recovery is not None
    for name in db.recovery.quarantined:
        offset = int(name.rpartition("-")[2].split(".")[0])
        kept = disk.survivors((0,) * len(disk.units)).get(name)
        if kept != tail[offset:]:
            raise CorruptionError(f"{name} holds {kept!r}")
    db.close()


def _read(files: dict[str, bytes]) -> tuple[int, str] | None:
    """(seq, complaint) of a reader, which must leave everything as it is; None where there is no store yet."""
    disk = SimDisk(files)
    if not any(name == HEAD for name in files):
        try:
            open_disk(disk, write=False)
        except FormatError:
            return None
        return 0, "a reader opened a store without HEAD"
    db = open_disk(disk, write=False)
    seq = db.seq
    db.close()
    if disk.units or disk.files != dict(sorted(files.items())) or disk.open_handles:
        return seq, "a reader wrote, or left a file open"
    return seq, ""


def _is_clean(files: dict[str, bytes]) -> bool:
    head = newest_head(SimDisk(files))
    return head is not None and head.clean


def _stable(files: dict[str, bytes]) -> object:
    """What must be the same after opening again: everything but how often HEAD was written."""
    disk = SimDisk(files)
    newest = newest_head(disk)
    assert newest is not None
    place = (newest.clean, newest.durable_seq, newest.segment, newest.durable_offset, newest.link, newest.snapshot_seq)
    return place, read_heads(disk).count(None), {name: data for name, data in files.items() if name not in (HEAD, LOCK)}


def _digest(files: dict[str, bytes]) -> bytes:
    digest = sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.digest()
