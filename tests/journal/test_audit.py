"""Verify: reads everything, trusts no snapshot, and names the first commit that is not what was written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from zlib import crc32

import pytest

from detmem.database import verify_disk
from detmem.journal.disk import MemoryDisk
from detmem.journal.frame import SegmentHeader
from detmem.machine import commands
from detmem.machine.commitment import LINK_ZERO, commit, commit_leaf, link
from detmem.machine.stage import COMMIT_KIND, VERSION
from detmem.opening import open_disk
from tests.journal.stores import (
    add,
    contents,
    copy,
    frames_of,
    last_segment,
    names,
    newest_head,
    opened,
    set_heads,
    small_store,
)

LEVELS = ("chain", "replay")


def one_segment(commits: int = 5) -> MemoryDisk:
    disk = MemoryDisk()
    with open_disk(disk) as database:
        database.collection("c", dim=2, metric="l2")
        for number in range(2, commits + 1):
            add(database, number)
    return disk


def place(disk: MemoryDisk, seq: int, part: str) -> tuple[str, int]:
    """File and offset of one byte of a commit that adds one record."""
    for name in names(disk, "log"):
        for frame in frames_of(disk, name):
            if frame.seq == seq:
                (operation,) = frame.operations
                header = frame.offset + 32
                vector = header + len(operation.header) + 1
                end = frame.offset + frame.size
                assert operation.vector is not None
                content = vector + len(operation.vector)
                places = {
                    "magic": frame.offset,
                    "seq": frame.offset + 12,
                    "durable seq": frame.offset + 20,
                    "type": header,
                    "vector commitment": header + 16,
                    "content commitment": header + 48,
                    "collection": header + 80,
                    "id": header + 81,
                    "vector": vector,
                    "metadata": content + 3,
                    "document": end - 64 - 1,
                    "state root": end - 64,
                    "link": end - 1,
                }
                return name, places[part]
    raise AssertionError(f"no seq {seq}")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "part",
    [
        "magic",
        "seq",
        "durable seq",
        "type",
        "vector commitment",
        "content commitment",
        "collection",
        "id",
        "vector",
        "metadata",
        "document",
        "state root",
        "link",
    ],
)
def test_a_changed_byte_is_named_by_the_seq_of_its_commit(part: str, level: str) -> None:
    for disk in (small_store(commits=8, snapshots=(3, 6)), one_segment(8)):
        for seq in (2, 5, 8):
            damaged = copy(disk)
            name, at = place(damaged, seq, part)
            damaged.files[name][at] ^= 0x10
            report = verify_disk(damaged, level, None)
            assert not report.ok
            assert (report.seq, report.first_bad_seq) == (seq - 1, seq)
            assert report.reason is not None
            assert name in report.reason


@pytest.mark.parametrize("level", LEVELS)
def test_a_whole_store_is_good_and_its_roots_are_the_databases(level: str) -> None:
    disk = small_store()
    with opened(disk) as database:
        inside = database.verify(level)
        outside = verify_disk(copy(disk), level, database.checkpoint())
        assert inside == outside
        assert (inside.ok, inside.seq, inside.state_root) == (True, 8, database.state_root)
        assert (inside.first_bad_seq, inside.reason) == (None, None)


@pytest.mark.parametrize("level", LEVELS)
def test_a_torn_tail_is_good(level: str) -> None:
    disk = small_store()
    disk.files[last_segment(disk)] += b"DMF1 torn"
    report = verify_disk(disk, level, None)
    assert (report.ok, report.seq) == (True, 8)


@pytest.mark.parametrize("level", LEVELS)
def test_a_missing_tail_is_not(level: str) -> None:
    disk = small_store()
    name = last_segment(disk)
    frames = frames_of(disk, name)
    for cut in range(frames[-1].offset, len(disk.files[name])):
        shorter = copy(disk)
        del shorter.files[name][cut:]
        report = verify_disk(shorter, level, None)
        assert (report.ok, report.seq, report.first_bad_seq) == (False, 7, 8)


@pytest.mark.parametrize("level", LEVELS)
def test_a_bad_seal_or_header_is_named_by_the_first_commit_behind_it(level: str) -> None:
    """It used to be named as seq 1, wherever it stood."""
    disk = small_store(commits=8, snapshots=(3, 6))
    first, second, _ = names(disk, "log")
    spoils: list[tuple[Callable[[MemoryDisk], None], int]] = [
        (lambda disk: disk.files[first].__setitem__(-1, 0xEE), 3),
        (lambda disk: disk.files[second].__setitem__(-1, 0xEE), 6),
        (lambda disk: disk.files[second].__setitem__(100, 0xEE), 3),
        (lambda disk: disk.files[last_segment(disk)].__setitem__(100, 0xEE), 6),
        (lambda disk: disk.remove(second), 3),
        (lambda disk: disk.remove(first), 0),
        (lambda disk: disk.remove(last_segment(disk)), 6),
    ]
    for spoil, intact in spoils:
        damaged = copy(disk)
        spoil(damaged)
        report = verify_disk(damaged, level, None)
        assert (report.ok, report.seq, report.first_bad_seq) == (False, intact, intact + 1)


def test_a_sealed_segment_cut_short_is_named_where_it_was_cut() -> None:
    disk = small_store(commits=8, snapshots=(3, 6))
    name = names(disk, "log")[1]
    del disk.files[name][frames_of(disk, name)[1].offset + 10 :]
    report = verify_disk(disk, "chain", None)
    assert (report.seq, report.first_bad_seq) == (4, 5)


@pytest.mark.parametrize("level", LEVELS)
def test_a_missing_head_and_a_head_of_another_history(level: str) -> None:
    disk = small_store()
    head = replace(newest_head(disk), link=b"?" * 32)
    other = copy(disk)
    set_heads(other, head, head)
    disk.remove("HEAD")
    report = verify_disk(disk, level, None)
    assert (report.ok, report.file, report.offset, report.seq) == (False, "HEAD", None, 8)  # what is there is intact
    assert not verify_disk(other, level, None).ok


@pytest.mark.parametrize("level", LEVELS)
def test_a_snapshot_with_a_changed_byte_or_of_another_seq(level: str) -> None:
    disk = small_store()
    older, newer = names(disk, "snap")
    for name in (older, newer):
        damaged = copy(disk)
        damaged.files[name][150] ^= 1
        report = verify_disk(damaged, level, None)
        assert not report.ok
        assert report.reason is not None
        assert name in report.reason
    swapped = copy(disk)
    swapped.files[older], swapped.files[newer] = swapped.files[newer], swapped.files[older]
    assert not verify_disk(swapped, level, None).ok
    late = copy(disk)
    late.files["snap/00000000000000000042.snap"] = late.files[newer]
    assert not verify_disk(late, level, None).ok


def forged(disk: MemoryDisk, seq: int, change: Callable[[bytearray, int], bytes]) -> MemoryDisk:
    """A one-segment log in which commit ``seq`` was changed, and every link, CRC and HEAD behind it made right again.

    ``change`` gets the commit's body and the length of its operation's header, and returns the new state root (or b"").
    """
    name = last_segment(disk)
    data = disk.files[name]
    header = SegmentHeader.decode(bytes(data[:128]))
    before = LINK_ZERO
    out = bytearray(data[:128])
    for frame in frames_of(disk, name):
        head = bytes(data[frame.offset : frame.offset + 28])
        body = bytearray(data[frame.offset + 32 : frame.offset + frame.size - 64])
        root = frame.state_root
        if frame.seq == seq:
            root = change(body, len(frame.operations[0].header)) or root
        leaves = [operation.leaf for operation in commands.decode(memoryview(bytes(body)))]
        before = link(
            before, COMMIT_KIND, 0, VERSION, frame.seq, b"".join(leaves), commit_leaf(frame.seq, len(leaves), root)
        )
        out += head + crc32(head, header.seed).to_bytes(4, "little") + body + root + before
    other = copy(disk)
    other.files[name] = out
    newest = replace(newest_head(disk), link=before)
    set_heads(other, newest, newest)
    return other


def another_root(body: bytearray, header_size: int) -> bytes:
    return b"another state root, 32 bytes long"[:32]


def another_vector(body: bytearray, header_size: int) -> bytes:
    vector = slice(header_size + 1, header_size + 9)
    body[vector] = (77).to_bytes(4, "little") * 2
    body[16:48] = commit(bytes(body[vector]))
    return b""


def another_document(body: bytearray, header_size: int) -> bytes:
    body[-1] ^= 1
    body[48:80] = commit(bytes(body[header_size + 9 :]))
    return b""


def another_type(body: bytearray, header_size: int) -> bytes:
    body[0] = commands.UPDATE  # of a record that is not there
    return b""


@pytest.mark.parametrize("change", [another_root, another_vector, another_document, another_type])
def test_a_forger_who_mends_every_link_is_found_by_replaying(change: Callable[[bytearray, int], bytes]) -> None:
    disk = one_segment(6)
    assert verify_disk(forged(disk, 3, lambda body, size: b""), "replay", None).ok  # the forger's tools are right
    lie = forged(disk, 3, change)
    chain, replay = (verify_disk(lie, level, None) for level in LEVELS)
    assert chain.ok
    assert (replay.ok, replay.seq, replay.first_bad_seq) == (False, 2, 3)
    with opened(disk, write=False) as database:
        checkpoint = database.checkpoint()
    assert not verify_disk(lie, "chain", checkpoint).ok


@pytest.mark.parametrize("level", LEVELS)
def test_an_expected_checkpoint_must_be_passed_through(level: str) -> None:
    disk, shorter = small_store(), small_store(commits=5)
    with opened(disk, write=False) as database:
        newest = database.checkpoint()
        before = contents(database)
    with opened(shorter, write=False) as database:
        past = database.checkpoint()
    assert verify_disk(disk, level, past).ok
    assert verify_disk(disk, level, newest).ok
    assert not verify_disk(shorter, level, newest).ok
    assert not verify_disk(disk, level, replace(past, log_root="0" * 64)).ok
    with opened(disk, write=False) as database:
        assert contents(database) == before
