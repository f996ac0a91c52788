"""The log, open for writing: what is acknowledged stays, and after a failure the handle writes no more."""

from __future__ import annotations

import errno
import functools
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import detmem
from detmem.database import Database
from detmem.errors import DetmemError, StorageError, StorePoisoned, UsageError
from detmem.journal.disk import MemoryDisk, OsDisk
from detmem.journal.policy import parse_policy
from detmem.opening import open_disk
from tests.journal.stores import (
    DIM,
    SEGMENT_BYTES,
    add,
    contents,
    contents_of,
    copy,
    frames_of,
    identity,
    last_segment,
    names,
    newest_head,
    opened,
    small_store,
)


class FaultyDisk:
    """A disk whose ``fail_at``-th call fails, once or from then on; a failing write has written half of its bytes."""

    durable = True

    def __init__(self, inner: MemoryDisk, fail_at: int = 0, number: int = errno.EIO, *, lasting: bool = False) -> None:
        self.inner = inner
        self.calls: list[str] = []
        self.locks: list[FaultyFile] = []
        self._fail_at = fail_at
        self._number = number
        self._lasting = lasting

    def fails(self, what: str) -> bool:
        self.calls.append(what)
        count = len(self.calls)
        return self._fail_at > 0 and (count == self._fail_at or (self._lasting and count > self._fail_at))

    def error(self, what: str) -> StorageError:
        return StorageError(self._number, f"{what} failed: injected", what)

    def _call(self, what: str, *arguments: Any, **options: Any) -> Any:
        if self.fails(what):
            raise self.error(what)
        return getattr(self.inner, what)(*arguments, **options)

    def open(self, name: str, *, write: bool = False, create: bool = False) -> FaultyFile:
        return FaultyFile(self, self._call("open", name, write=write, create=create))

    def list(self, folder: str) -> Any:
        return self._call("list", folder)

    def make_folder(self, name: str) -> None:
        self._call("make_folder", name)

    def rename(self, old: str, new: str) -> None:
        self._call("rename", old, new)

    def remove(self, name: str) -> None:
        self._call("remove", name)

    def sync_folder(self, name: str) -> None:
        self._call("sync_folder", name)

    def lock(self, name: str, timeout: float) -> FaultyFile:
        self.locks.append(FaultyFile(self, self._call("lock", name, timeout)))
        return self.locks[-1]

    def path(self, name: str) -> None:
        return None


class FaultyFile:
    def __init__(self, disk: FaultyDisk, inner: Any) -> None:
        self._disk = disk
        self._inner = inner
        self.closed = False

    def pwrite(self, data: bytes | memoryview, offset: int) -> None:
        if self._disk.fails("pwrite"):
            self._inner.pwrite(bytes(data)[: len(data) // 2], offset)
            raise self._disk.error("pwrite")
        self._inner.pwrite(data, offset)

    def close(self) -> None:
        self.closed = True  # the system gives the descriptor back whatever close says
        if self._disk.fails("close"):
            raise self._disk.error("close")

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            if self._disk.fails(name):
                raise self._disk.error(name)
            return getattr(self._inner, name)(*arguments)

        return call


def write_all(database: Database, acknowledged: list[int]) -> None:
    """Commits 1 to 7 over several segments, a snapshot between; each seq is noted once it is acknowledged."""
    database.collection("c", dim=2, metric="l2")
    acknowledged.append(database.seq)
    for number in range(2, 8):
        if number in (3, 5, 6):
            database.snapshot()
        acknowledged.append(add(database, number))


@functools.cache
def at_each_seq() -> tuple[Any, ...]:
    """What the store holds after each commit, from a run without faults."""
    found = []
    disk = MemoryDisk()
    with opened(disk) as database:
        found.append(contents(database))
        database.collection("c", dim=2, metric="l2")
        found.append(contents(database))
        for number in range(2, 8):
            add(database, number)
            found.append(contents(database))
    return tuple(found)


def check_survivors(inner: MemoryDisk, acknowledged: int) -> None:
    """With the faults off: everything acknowledged is there, at most the commit in flight besides, and all verifies."""
    with opened(inner, write=False) if inner.list("log") else opened(MemoryDisk()) as reader:
        assert contents(reader) == at_each_seq()[reader.seq]
    with opened(inner) as database:
        assert acknowledged <= database.seq <= acknowledged + 1
        assert contents(database) == at_each_seq()[database.seq]
        assert database.verify().ok
        first = contents(database)
    with opened(inner) as database:
        assert database.recovery is None
        assert contents(database) == first


@functools.cache
def calls_of_a_whole_run() -> tuple[str, ...]:
    disk = FaultyDisk(MemoryDisk())
    with opened(disk) as database:
        write_all(database, [])
    return tuple(disk.calls)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("lasting", [False, True])
def test_whichever_call_fails_the_error_surfaces_and_no_acknowledged_commit_is_lost(number: int, lasting: bool) -> None:
    count = len(calls_of_a_whole_run())
    assert count > 150
    outcomes: Counter[str] = Counter()
    raised: set[tuple[type, int | None]] = set()
    for fail_at in range(1, count + 1):
        inner = MemoryDisk()
        disk = FaultyDisk(inner, fail_at, number, lasting=lasting)
        acknowledged: list[int] = []
        try:
            database = opened(disk)
        except StorageError as error:
            raised.add((type(error), error.errno))
            outcomes["at opening"] += 1
        else:
            try:
                write_all(database, acknowledged)
            except StorageError as error:
                raised.add((type(error), error.errno))
                outcomes[f"writing: {disk.calls[fail_at - 1]}"] += 1
                seen = contents(database)  # reads go on
                assert seen == at_each_seq()[database.seq]
                for _ in range(2):
                    with pytest.raises(StorePoisoned):
                        add(database, 100)
                    with pytest.raises(StorePoisoned):
                        database.snapshot()
                assert contents(database) == seen
            try:
                database.close()
            except StorageError:
                outcomes["at closing"] += 1
            database.close()  # again: nothing
        assert all(lock.closed for lock in disk.locks), "the lock is let go whatever fails"
        check_survivors(copy(inner), acknowledged[-1] if acknowledged else 0)
    assert raised == {(StorageError, number)}  # the error itself first, ``StorePoisoned`` only afterwards
    assert outcomes["at opening"] > 10
    assert outcomes["at closing"] > 3
    assert {"writing: pwrite", "writing: sync", "writing: rename", "writing: sync_folder"} <= set(outcomes)


def test_whichever_call_fails_in_recovery_the_next_open_recovers_the_same() -> None:
    before, torn = small_store(commits=7, close=False), small_store(commits=8, close=False)
    del torn.files[last_segment(torn)][frames_of(torn, last_segment(torn))[-1].offset + 50 :]
    torn.files["HEAD"] = before.files["HEAD"]
    expected = contents_of(before)
    probe = FaultyDisk(copy(torn))
    opened(probe)
    total = len(probe.calls)
    assert total > 40
    for fail_at in range(1, total + 1):
        for lasting in (False, True):
            inner = copy(torn)
            disk = FaultyDisk(inner, fail_at, lasting=lasting)
            with pytest.raises(StorageError):
                opened(disk)
            assert all(lock.closed for lock in disk.locks)
            with opened(inner) as database:
                assert contents(database) == expected
                assert database.verify().ok
            kept = {bytes(inner.files[name]) for name in names(inner, "quarantine")}
            assert len(kept) == 1
            assert {len(data) for data in kept} == {50}


def test_a_failed_sync_is_never_acknowledged_by_trying_again() -> None:
    """After one failed sync the kernel calls the lost pages clean, so a second sync would lie."""
    disk = FaultyDisk(MemoryDisk())
    database = opened(disk)
    database.collection("c", dim=2, metric="l2")
    start = len(disk.calls)
    add(database, 2)
    disk._fail_at = len(disk.calls) + disk.calls[start:].index("sync") + 1
    with pytest.raises(StorageError):
        add(database, 3)
    count = len(disk.calls)
    with pytest.raises(StorePoisoned):
        add(database, 3)
    database.close()
    assert {"pwrite", "sync"}.isdisjoint(disk.calls[count:])


def test_a_commit_too_large_is_the_callers_move_and_poisons_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detmem.journal.frame.MAX_FRAME_BYTES", 2000)
    disk = small_store()
    with opened(disk) as database:
        with pytest.raises(UsageError, match="2000 bytes"):
            database["c"].add("large", raw=[1, 1], documents="x" * 3000)
        assert add(database, 50) == 9
    assert contents_of(disk)[0].count("seq 9") == 1


# ----------------------------------------------------------------------------------------------- rotation and policies


def test_a_segment_that_is_full_is_sealed_before_the_next_commit() -> None:
    disk = MemoryDisk()
    with opened(disk) as database:
        for number in range(1, 12):
            add(database, number)
    segments = names(disk, "log")
    assert len(segments) > 3
    firsts = [frames_of(disk, name)[0].seq for name in segments]
    assert [f"log/{first:020d}.seg" for first in firsts] == segments
    assert [frame.seq for name in segments for frame in frames_of(disk, name)] == list(range(1, 13))
    for name in segments[:-1]:
        assert len(disk.files[name]) - 144 >= SEGMENT_BYTES
        assert len(disk.files[name]) - 144 - frames_of(disk, name)[-1].size < SEGMENT_BYTES


def test_a_frame_larger_than_a_segment_is_written_whole() -> None:
    disk = small_store(snapshots=())
    with opened(disk) as database:
        database["c"].add("large", raw=[1, 1], documents="x" * (5 * SEGMENT_BYTES))
        add(database, 50)
        assert database.verify().ok
        seen = contents(database)
    assert contents_of(disk) == seen


def test_links_roots_and_history_do_not_depend_on_segments_or_durability() -> None:
    expected = contents_of(small_store(snapshots=()))
    for options in ({"segment_bytes": 1}, {"segment_bytes": 1 << 20}, {"durability": "os"}):
        disk = MemoryDisk()
        with opened(disk, **options) as database:
            database.collection("c", dim=2, metric="l2")
            for number in range(2, 9):
                add(database, number)
        assert contents_of(disk) == expected


def test_what_a_commit_says_about_having_reached_the_disk(tmp_path: Path) -> None:
    for durability, durable in (("always", True), ("os", False)):
        with detmem.open(tmp_path / durability, durability=durability) as database:
            notes = database.collection("notes", dim=1, metric="l2")
            assert notes.add("a", raw=[1]).durable is durable
    with detmem.open(":memory:") as database:
        assert database.collection("notes", dim=1, metric="l2").add("a", raw=[1]).durable is False


def test_every_commit_under_always_is_synced_before_it_is_acknowledged() -> None:
    disk = FaultyDisk(MemoryDisk())
    with opened(disk, segment_bytes=1 << 20) as database:
        add(database, 1)
        for number in range(2, 6):
            start = len(disk.calls)
            add(database, number)
            calls = disk.calls[start:]
            assert calls[-3:] == ["pwrite", "sync", "pwrite"]  # the frame, its sync, HEAD lazily
            assert len(calls) == 3 or calls == ["pwrite", *calls[-3:]]  # zeros behind the frame
    disk = FaultyDisk(MemoryDisk())
    with opened(disk, segment_bytes=1 << 20, durability="os") as database:
        add(database, 1)
        start = len(disk.calls)
        add(database, 2)
        assert disk.calls[start:] == ["pwrite"]


def end_of(disk: Any) -> tuple[int, int]:
    """Where the last segment's commits end, and its file."""
    last = frames_of(disk, last_segment(disk))[-1]
    return last.offset + last.size, disk.open(last_segment(disk)).size()


@pytest.mark.parametrize("durability", ["paranoid", "always", "group:0.001", "interval:1", "os"])
def test_small_commits_that_are_waited_for_are_written_over_zeros(tmp_path: Path, durability: str) -> None:
    disk = OsDisk(str(tmp_path / "store"))
    with detmem.open(tmp_path / "store", durability=durability) as database:
        notes = database.collection("notes", dim=1, metric="l2")
        places = []
        for number in range(100):
            notes.add(f"id{number}", raw=[number])
            places.append(end_of(disk))
        if durability in ("interval:1", "os"):
            assert all(end == size for end, size in places)
            return
        assert len({size for _, size in places}) < 10
        assert all(end <= size < 2 * end for end, size in places)
        assert places[-1][0] < places[-1][1]
        with detmem.open(tmp_path / "store", "r") as reader:
            assert (reader.seq, reader.recovery, reader.verify().ok) == (101, None, True)
            notes.add("next", raw=[1])
            assert reader.refresh() == 102
        database.backup(tmp_path / "backup")
        copied = end_of(OsDisk(str(tmp_path / "backup")))
        assert copied[0] == copied[1]
        notes.add(["large", "too"], raw=[[0], [1]], documents=["x" * 40_000] * 2)
        end, size = end_of(disk)
        assert end == size
        for number in range(10):  # small ones again
            notes.add(f"more{number}", raw=[number])
        end, size = end_of(disk)
        assert end < size
        sealed = disk.open(last_segment(disk))
        database.snapshot()
        assert sealed.size() == end + 144
        notes.add(["a", "b"], raw=[[1], [2]])
        end, size = end_of(disk)
        assert end == size  # whoever opens and writes once pays nothing
        notes.add("c", raw=[3])
        assert end_of(disk)[0] < end_of(disk)[1]
    end, size = end_of(disk)
    assert end == size == newest_head(disk).durable_offset
    with detmem.open(tmp_path / "store") as database:
        assert database.recovery is None


def test_a_disk_too_full_for_zeros_is_not_too_full_for_a_commit() -> None:
    whole = FaultyDisk(MemoryDisk())
    with opened(whole, segment_bytes=1 << 20) as database:
        database.collection("c", dim=DIM, metric="l2")
        start = len(whole.calls)
        add(database, 1)
        assert whole.calls[start : start + 3] == ["pwrite", "pwrite", "sync"]
    for full in (errno.ENOSPC, errno.EFBIG):
        disk = FaultyDisk(MemoryDisk(), start + 2, full)
        with opened(disk, segment_bytes=1 << 20) as database:
            for number in range(1, 9):
                before = len(disk.calls)
                add(database, number)
                assert number == 1 or disk.calls[before:] == ["pwrite", "sync", "pwrite"]
            expected = contents(database)
        assert end_of(disk.inner)[0] == end_of(disk.inner)[1]
        assert contents_of(disk.inner) == expected
    disk = FaultyDisk(MemoryDisk(), start + 2, errno.EIO)
    database = opened(disk, segment_bytes=1 << 20)
    with pytest.raises(StorageError):
        add(database, 1)
    with pytest.raises(StorePoisoned):
        add(database, 2)
    database.close()
    with opened(disk.inner) as database:
        assert database.seq == 2


def test_frames_say_what_had_been_synced_when_they_were_written() -> None:
    always, lazy = small_store(snapshots=()), MemoryDisk()
    with opened(lazy, durability="os") as database:
        for number in range(1, 8):
            add(database, number)
    for disk in (always, lazy):
        for name in names(disk, "log"):
            found = frames_of(disk, name)
            if disk is always:
                assert [frame.durable_seq for frame in found] == [frame.seq - 1 for frame in found]
            else:
                assert {frame.durable_seq for frame in found} == {found[0].seq - 1}


def test_closing_leaves_head_clean_at_the_last_commit() -> None:
    for durability in ("always", "os"):
        disk = MemoryDisk()
        with opened(disk, durability=durability) as database:
            add(database, 1)
            link = database.head
        head = newest_head(disk)
        assert (head.clean, head.durable_seq, head.link.hex()) == (True, 2, link)


@pytest.mark.parametrize("durability", ["", "never", "ALWAYS", None, 1, ["always"]])
def test_an_unknown_policy_is_refused_before_anything_is_made(tmp_path: Path, durability: Any) -> None:
    with pytest.raises(UsageError, match="durability"):
        parse_policy(durability)
    with pytest.raises(DetmemError):
        detmem.open(tmp_path / "new", durability=durability)
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------------------------------------------------------------- kill -9

WRITER = """
import sys
from detmem.opening import open_disk
from detmem.journal.disk import OsDisk
with open_disk(OsDisk(sys.argv[1]), durability=sys.argv[2], segment_bytes=5000) as database:
    notes = database.collection("notes", dim=2, metric="l2")
    while True:
        number = database.seq
        commit = notes.add(f"{number}", raw=[number, 1], documents="text " * (number % 30))
        sys.stdout.write(f"{commit.seq} {commit.state_root}\\n")
        sys.stdout.flush()
        if number % 40 == 0:
            database.snapshot()
"""


@pytest.mark.parametrize("durability", ["always", "os"])
def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path, durability: str) -> None:
    """SIGKILL at a moment drawn by a seed, again and again in the same store; acknowledgements are read from a pipe."""
    store = tmp_path / "store"
    store.mkdir()
    draw = random.Random(f"kill {durability}")
    acknowledged: dict[int, str] = {}
    for _ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store), durability], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(draw.randint(1, 120)):
            seq, root = writer.stdout.readline().split()
            acknowledged[int(seq)] = root
        writer.kill()
        for line in writer.stdout.read().splitlines(keepends=True):
            if line.endswith("\n"):
                seq, root = line.split()
                acknowledged[int(seq)] = root
        writer.stdout.close()
        writer.wait()
        with open_disk(OsDisk(str(store))) as database:
            last = max(acknowledged)
            assert last <= database.seq <= last + 1
            assert {f"{seq - 1}" for seq in acknowledged} <= set(database["notes"])
            assert database.verify().ok
            assert database.recovery is not None
            acknowledged.setdefault(database.seq, database.state_root)
            assert acknowledged[database.seq] == database.state_root
            assert sorted(acknowledged) == list(range(2, database.seq + 1))
    assert len(acknowledged) > 50


def test_a_handle_dropped_without_closing_leaves_everything_acknowledged() -> None:
    disk = MemoryDisk()
    with identity():
        database = opened(disk)
        for number in range(1, 6):
            add(database, number)
        seen = contents(database)
    del database
    with opened(disk) as reopened:
        assert contents(reopened) == seen
        assert reopened.recovery is not None
