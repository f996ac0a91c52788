"""Small stores for the tests of the journal, on a disk in memory: its bytes can be copied, changed and opened again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from detmem.database import Database
from detmem.journal.disk import MemoryDisk
from detmem.journal.erasure import stripped
from detmem.journal.frame import Frame, SegmentHeader, SegmentReader, encode_commit
from detmem.journal.head import Head, read_heads
from detmem.opening import open_disk

SEGMENT_BYTES = 600  # three small commits fill a segment
HEAD_PAGE = 4096
DIM = 2


@contextmanager
def identity(store_id: bytes = b"store of a test.") -> Iterator[None]:
    """New stores get this identity instead of a random one, so that every run sees the same bytes."""
    with patch("detmem.journal.recovery.random_bytes", lambda size: store_id[:size]):
        yield


def opened(disk: Any, **options: Any) -> Database:
    """The store on ``disk``, with small segments."""
    return open_disk(disk, **{"segment_bytes": SEGMENT_BYTES, **options})


def add(database: Database, number: int) -> int:
    """One small commit; returns its seq."""
    collection = database.collection("c", dim=DIM, metric="l2")
    commit = collection.add(f"id{number}", raw=[number, -number], metadatas={"n": number}, documents=f"d{number}")
    return commit.seq


def small_store(*, commits: int = 8, snapshots: tuple[int, ...] = (3, 6), close: bool = True) -> MemoryDisk:
    """A store of ``commits`` commits (the first makes the collection), in several segments, with snapshots."""
    disk = MemoryDisk()
    with identity():
        database = opened(disk)
        database.collection("c", dim=DIM, metric="l2")
        for number in range(2, commits + 1):
            if database.seq in snapshots:
                database.snapshot()
            assert add(database, number) == number
        if commits in snapshots:
            database.snapshot()
        if close:
            database.close()
    return copy(disk)


def copy(disk: MemoryDisk) -> MemoryDisk:
    """The same bytes, on a disk of their own."""
    other = MemoryDisk()
    other.files = {name: bytearray(data) for name, data in disk.files.items()}
    return other


def contents(database: Database) -> tuple[Any, ...]:
    """All that an answer can depend on, and all that a checkpoint says."""
    records = [(name, *_columns(database, name)) for name in database.collections()]
    return (str(database.checkpoint()), database.head, records)


def _columns(database: Database, name: str) -> tuple[Any, ...]:
    found = database[name].get(include=("metadatas", "documents", "raw"))
    assert found.raw is not None
    return found.ids, found.metadatas, found.documents, found.raw.tolist()


def contents_of(disk: MemoryDisk, **options: Any) -> tuple[Any, ...]:
    """As a reader sees a copy of it."""
    with opened(copy(disk), write=False, **options) as database:
        return contents(database)


def names(disk: MemoryDisk, folder: str) -> list[str]:
    """Full names of the files in a folder, sorted."""
    return [f"{folder}/{name}" for name in disk.list(folder)]


def last_segment(disk: MemoryDisk) -> str:
    return names(disk, "log")[-1]


def frames_of(disk: MemoryDisk, name: str) -> list[Frame]:
    """The good frames of one segment file."""
    file = disk.open(name)
    header = SegmentHeader.decode(file.pread(SegmentHeader.size_bytes, 0))
    return list(SegmentReader(file, header))


def make_bare(disk: MemoryDisk, name: str, collection: str, id: str) -> None:
    """Take the payloads of one record out of a segment, as if it had been erased."""
    header = SegmentHeader.decode(bytes(disk.files[name][: SegmentHeader.size_bytes]))
    data = disk.files[name]
    frames = frames_of(disk, name)
    tail = bytes(data[frames[-1].offset + frames[-1].size :])
    bare = [stripped(frame, {(collection, id): 1 << 60}) for frame in frames]
    parts = [encode_commit(frame, frame.durable_seq, header.seed) for frame in bare]
    assert sum(map(len, parts)) < sum(frame.size for frame in frames), "there was something to take"
    disk.files[name] = bytearray(header.encode() + b"".join(parts) + tail)


def newest_head(disk: MemoryDisk) -> Head:
    return max((head for head in read_heads(disk) if head is not None), key=lambda head: head.generation)


def set_heads(disk: MemoryDisk, *heads: Head | None) -> None:
    """Write both slots; None makes a slot unreadable."""
    for slot, head in enumerate(heads):
        data = bytes(140) if head is None else head.encode()
        disk.files["HEAD"][slot * HEAD_PAGE : slot * HEAD_PAGE + 140] = data


def without_head_and_lock(disk: MemoryDisk) -> dict[str, bytes]:
    """Every file's bytes but HEAD's, whose generation rises whenever it is opened, and the lock's."""
    return {name: bytes(data) for name, data in disk.files.items() if name not in ("HEAD", "LOCK")}
