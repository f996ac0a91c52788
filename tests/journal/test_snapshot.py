"""Snapshots: a pure function of the log, believed only after every hash, bound and root has been checked."""

from __future__ import annotations

import tracemalloc
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

import detmem
from detmem.errors import FormatError, SnapshotDamaged
from detmem.journal import snapshot
from detmem.journal.disk import File, MemoryDisk
from detmem.machine.state import State
from detmem.opening import open_disk
from tests.journal.stores import add, contents, contents_of, copy, names, newest_head, opened, small_store

HEADER_BYTES = 8 + 2 + 2 + 4 + 8 + 8 + 32 + 32 + 32 + 4 + 4


def file_of(data: bytes | bytearray) -> File:
    file = MemoryDisk().open("snap", create=True)
    file.pwrite(bytes(data), 0)
    return file


def newest(disk: MemoryDisk) -> bytes:
    return bytes(disk.files[names(disk, "snap")[-1]])


def of_state(state: State) -> bytes:
    file = file_of(b"")
    snapshot.write(state, file)
    return file.pread(file.size(), 0)


def parts(data: bytes) -> tuple[bytearray, bytearray, int]:
    """Header fields with the frontier, the stream of a one-chunk snapshot, and seq."""
    frontier_count = int.from_bytes(data[HEADER_BYTES - 8 : HEADER_BYTES - 4], "little")
    end = HEADER_BYTES + 32 * frontier_count
    size = int.from_bytes(data[end + 32 : end + 36], "little")
    return bytearray(data[:end]), bytearray(data[end + 68 : end + 68 + size]), frontier_count


def assembled(head: bytes, *chunks: bytes) -> bytes:
    """A snapshot file with every hash right, as spec/snapshot.md says, whatever the bytes mean."""
    header_hash = sha256(head).digest()
    out, hashes, total = head + header_hash, b"", 0
    for index, chunk in enumerate(chunks):
        digest = sha256(b"\x19" + index.to_bytes(8, "little") + chunk).digest()
        out += len(chunk).to_bytes(4, "little") + digest + chunk
        hashes, total = hashes + digest, total + len(chunk)
    footer = (0).to_bytes(4, "little") + len(chunks).to_bytes(8, "little") + total.to_bytes(8, "little")
    return out + footer + sha256(b"\x1a" + header_hash + hashes).digest()


# ------------------------------------------------------------------------------------------------ a function of the log


def test_the_bytes_do_not_depend_on_segments_durability_earlier_snapshots_or_store() -> None:
    reference = newest(small_store(commits=8, snapshots=(8,)))
    for options in ({"segment_bytes": 1}, {"segment_bytes": 1 << 20}, {"durability": "os"}):
        disk = MemoryDisk()  # another store: its identity is random
        with opened(disk, **options) as database:
            database.collection("c", dim=2, metric="l2")
            for number in range(2, 9):
                add(database, number)
                if number == 4:
                    database.snapshot()
            database.snapshot()
        assert newest(disk) == reference
    reopened = small_store(commits=8, snapshots=(3, 6))
    with opened(reopened) as database:
        database.snapshot()
    assert newest(reopened) == reference


def test_the_bytes_after_a_replay_are_the_same(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with detmem.open(source) as database:
        notes = database.collection("notes", dim=2, metric="l2")
        notes.add(["b", "a"], raw=[[1, 2], [3, 4]], metadatas=[{"k": [1, 2.5]}, None], documents=["text", None])
        notes.delete("b")
        notes.upsert("b", raw=[5, 6])
        first = database.snapshot().path
    detmem.replay(source, target)
    with detmem.open(target) as database:
        second = database.snapshot().path
    assert first is not None
    assert second is not None
    assert Path(first).read_bytes() == Path(second).read_bytes()


def test_an_empty_store_has_a_snapshot() -> None:
    disk = MemoryDisk()
    with opened(disk) as database:
        assert database.snapshot().seq == 0
    assert newest(disk) == of_state(State())
    with opened(disk) as database:
        assert (database.seq, database.recovery) == (0, None)


# -------------------------------------------------------------------------------------------------------------- keeping


def test_the_two_newest_are_kept_and_head_names_the_newest() -> None:
    disk = MemoryDisk()
    with opened(disk) as database:
        for number in range(1, 7):
            add(database, number)
            info = database.snapshot()
            assert (info.seq, info.state_root, info.path) == (number + 1, database.state_root, None)
            head = newest_head(disk)
            assert (head.snapshot_seq, head.snapshot_digest) == (number + 1, newest(disk)[-32:])
    assert names(disk, "snap") == [f"snap/{seq:020d}.snap" for seq in (6, 7)]


def test_a_snapshot_taken_twice_is_the_same_file() -> None:
    disk = small_store(snapshots=())
    with opened(disk) as database:
        first = database.snapshot()
        data = newest(disk)
        assert database.snapshot() == first
        assert newest(disk) == data
    assert len(names(disk, "snap")) == 1
    assert contents_of(disk) == contents_of(small_store(snapshots=()))


def test_a_snapshot_lies_at_the_border_of_a_segment() -> None:
    disk = small_store(commits=8, snapshots=(2, 5))
    assert {"log/00000000000000000003.seg", "log/00000000000000000006.seg"} <= set(names(disk, "log"))


def test_what_the_snapshot_stands_for_is_not_replayed() -> None:
    """A damaged byte in a segment before it is not even read: opening is quick because of the snapshot."""
    disk = small_store(snapshots=(3, 6))
    disk.files[names(disk, "log")[0]][200] ^= 1
    with opened(disk) as database:
        assert contents(database) == contents_of(small_store(snapshots=(3, 6)))


# -------------------------------------------------------------------------------------------------------------- reading


def test_a_snapshot_is_read_back_cut_and_flipped() -> None:
    data = newest(small_store(commits=4, snapshots=(4,)))
    state, digest = snapshot.load(file_of(data), "s")
    assert of_state(state) == data
    assert digest == data[-32:]
    broken = [data[:size] for size in range(len(data))] + [data + b"\0", data + data]
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        broken.append(bytes(changed))
    for case in broken:
        with pytest.raises(SnapshotDamaged):
            snapshot.load(file_of(case), "s")
        with pytest.raises(SnapshotDamaged):
            snapshot.read_digest(file_of(case), "s")


def test_the_hashes_of_the_spec_are_the_hashes_of_the_file() -> None:
    data = newest(small_store(commits=4, snapshots=(4,)))
    head, stream, _ = parts(data)
    assert assembled(bytes(head), bytes(stream)) == data


def test_a_newer_format_is_no_damage() -> None:
    head, stream, _ = parts(newest(small_store(commits=4, snapshots=(4,))))
    head[8:10] = (3).to_bytes(2, "little")
    with pytest.raises(FormatError, match="format 3"):
        snapshot.load(file_of(assembled(bytes(head), bytes(stream))), "s")


def test_right_hashes_around_wrong_contents_are_refused() -> None:
    """Whoever forges a file also forges its hashes; the state's own root stands against it, bit by bit."""
    head, stream, _ = parts(newest(small_store(commits=4, snapshots=(4,))))
    refused = 0
    born = (stream.index(b"\x03\0id4") + 5, 3 * 8)  # the seqs of birth are the one column outside the state root
    for at in range(len(stream)):
        for bit in range(8):
            changed = bytearray(stream)
            changed[at] ^= 1 << bit
            if born[0] <= at < sum(born):
                continue
            with pytest.raises(SnapshotDamaged):
                snapshot.load(file_of(assembled(bytes(head), bytes(changed))), "s")
            refused += 1
    assert refused == 8 * (len(stream) - born[1])


def test_a_record_born_outside_the_history_is_refused() -> None:
    head, stream, _ = parts(newest(small_store(commits=4, snapshots=(4,))))
    at = stream.index(b"\x03\0id4") + 5
    for born in (0, 5, 1 << 63, (1 << 64) - 1):
        stream[at : at + 8] = born.to_bytes(8, "little")
        with pytest.raises(SnapshotDamaged, match="born"):
            snapshot.load(file_of(assembled(bytes(head), bytes(stream))), "s")


@pytest.mark.parametrize("seq", [4, (1 << 32) - 1, 1 << 32, (1 << 63) - 2])
def test_births_are_kept_whole_however_long_the_history_is(seq: int) -> None:
    """Below 2^32 they take four bytes each until somebody asks."""
    head, stream, _ = parts(newest(small_store(commits=4, snapshots=(4,))))
    head[16:24] = seq.to_bytes(8, "little")
    at = stream.index(b"\x03\0id4") + 5
    expected = [seq, 1, seq - 1]
    stream[at : at + 24] = b"".join(born.to_bytes(8, "little") for born in expected)
    state, _ = snapshot.load(file_of(assembled(bytes(head), bytes(stream))), "s")
    assert state.collections["c"].born.tolist() == expected
    assert of_state(state) == assembled(bytes(head), bytes(stream))


@pytest.mark.parametrize(
    "field", ["collections", "frontier", "log_size", "definition", "count", "id", "content", "chunk"]
)
@pytest.mark.parametrize("value", [0xFF, 0x7F, 0x80])
def test_a_hostile_count_costs_no_memory(field: str, value: int) -> None:
    """Every bound is checked before anything is allocated for it: 2^31 and more records in a file of half a KiB."""
    head, stream, frontier_count = parts(newest(small_store(commits=4, snapshots=(4,))))
    count_at = stream.index(b"\x03\0id2") - 8
    places = {
        "collections": (head, HEADER_BYTES - 4, 4),
        "frontier": (head, HEADER_BYTES - 8, 4),
        "log_size": (head, 24, 8),
        "definition": (stream, 3, 4),
        "count": (stream, count_at, 8),
        "id": (stream, count_at + 8, 2),
        "content": (stream, stream.index(b"\x92", count_at) - 4, 4),
    }
    if field == "chunk":
        data = bytearray(assembled(bytes(head), bytes(stream)))
        at = len(head) + 32
        data[at : at + 4] = bytes([0xFF, 0xFF, 0xFF, value])
    else:
        part, at, size = places[field]
        part[at : at + size] = b"\xff" * (size - 1) + bytes([value])
        data = bytearray(assembled(bytes(head), bytes(stream)))
    assert frontier_count > 0
    tracemalloc.start()
    try:
        with pytest.raises(SnapshotDamaged):
            snapshot.load(file_of(data), "s")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_bytes_behind_the_last_section_are_refused() -> None:
    head, stream, _ = parts(newest(small_store(commits=4, snapshots=(4,))))
    with pytest.raises(SnapshotDamaged, match="behind the last erasure"):
        snapshot.load(file_of(assembled(bytes(head), bytes(stream) + b"\0")), "s")


def test_chunks_that_are_not_full_are_refused() -> None:
    """One stream has one division into chunks, so one state has one file."""
    head, stream, _ = parts(newest(small_store(commits=4, snapshots=(4,))))
    for chunks in ((stream[:10], stream[10:]), (stream, b"")):
        with pytest.raises(SnapshotDamaged):
            snapshot.load(file_of(assembled(bytes(head), *(bytes(chunk) for chunk in chunks))), "s")


def test_every_bit_of_the_newest_snapshot_flipped_falls_back_with_a_report() -> None:
    disk = small_store(commits=4, snapshots=(2, 4))
    name = names(disk, "snap")[-1]
    expected = contents_of(disk)
    for bit in range(0, 8 * len(disk.files[name]), 3):
        damaged = copy(disk)
        damaged.files[name][bit // 8] ^= 1 << bit % 8
        with opened(damaged, write=False) as database:
            assert contents(database) == expected
            assert database.recovery is not None
            assert name in database.recovery.actions[0]


def test_many_tiny_records_are_read_within_the_memory_bound() -> None:
    """64 MiB and twice the file (spec/log.md): each record once took 1 KB on its way into memory."""
    with open_disk(MemoryDisk(), durability="os") as db:
        count = 100_000
        db.collection("c", dim=1, metric="l2").add([f"{n}" for n in range(count)], np.zeros((count, 1)))
        file = file_of(b"")
        snapshot.write(db._state, file)
    tracemalloc.start()
    try:
        snapshot.load(file, "s")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (64 << 20) + 2 * file.size()
