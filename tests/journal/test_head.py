"""HEAD: two slots of which a power cut tears at most one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from zlib import crc32

import pytest

from detmem.errors import FormatError, LogDamaged
from detmem.journal.disk import MemoryDisk
from detmem.journal.head import Head, HeadFile, read_heads
from tests.journal.stores import HEAD_PAGE, add, contents_of, copy, newest_head, opened, set_heads, small_store

HEAD = Head(bytes(range(16)), 7, True, 5, 4, 999, b"l" * 32, 3, b"d" * 32)


class Journal:
    """A disk in memory that notes, for HEAD, which slot each write went to, and each sync."""

    durable = True

    def __init__(self, inner: MemoryDisk) -> None:
        self.inner = inner
        self.notes: list[int | str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def open(self, name: str, **options: bool) -> Any:
        file = self.inner.open(name, **options)
        if name.startswith("HEAD"):
            inner_write = file.pwrite

            def write(data: bytes, offset: int) -> None:
                self.notes.append(offset // HEAD_PAGE)
                inner_write(data, offset)

            file.pwrite = write  # type: ignore[method-assign]
            file.sync = lambda: self.notes.append("sync")  # type: ignore[method-assign]
        return file


def test_a_slot_is_read_back_cut_and_flipped() -> None:
    data = HEAD.encode()
    assert len(data) == 140
    assert Head.decode(data) == HEAD
    assert Head.decode(data + b"\0" * 100) == HEAD  # the rest of the page
    assert all(Head.decode(data[:size]) is None for size in range(len(data)))
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        assert Head.decode(bytes(changed)) is None


@pytest.mark.parametrize("at, value", [(10, 2), (10, 3), (10, 0x8001), (12, 1), (14, 1)])
def test_a_slot_with_an_unknown_field_and_a_right_crc_is_bad(at: int, value: int) -> None:
    data = bytearray(HEAD.encode())
    data[at : at + 2] = value.to_bytes(2, "little")
    data[136:] = crc32(data[:136]).to_bytes(4, "little")
    assert Head.decode(bytes(data)) is None


def test_a_newer_format_is_refused_and_left_alone() -> None:
    disk = small_store()
    for page in (0, HEAD_PAGE):
        slot = disk.files["HEAD"][page : page + 140]
        slot[8:10] = (3).to_bytes(2, "little")
        slot[136:] = crc32(slot[:136]).to_bytes(4, "little")
        newer = copy(disk)
        newer.files["HEAD"][page : page + 140] = slot
        before = {name: bytes(data) for name, data in newer.files.items()}
        with pytest.raises(FormatError, match="format 3"):
            opened(newer)
        assert {name: bytes(data) for name, data in newer.files.items()} == before


def test_a_new_head_has_two_good_slots_and_the_size_of_two_pages() -> None:
    disk = MemoryDisk()
    HeadFile.create(disk, Head(b"i" * 16))
    assert len(disk.files["HEAD"]) == 2 * HEAD_PAGE
    assert [None if head is None else head.generation for head in read_heads(disk)] == [0, 1]
    assert "HEAD.tmp" not in disk.files


def test_an_unsynced_slot_is_rewritten_and_the_other_waits_for_a_sync() -> None:
    disk = Journal(MemoryDisk())
    file = HeadFile.create(disk, Head(b"i" * 16))
    disk.notes.clear()
    for sync in (False, False, False, True, True, False, True, False):
        file.write(sync=sync)
    assert disk.notes == [0, 0, 0, 0, "sync", 1, "sync", 0, 0, "sync", 1]


def test_generations_rise_by_one_with_each_write() -> None:
    disk = MemoryDisk()
    file = HeadFile.create(disk, Head(b"i" * 16))
    for number in range(1, 9):
        file.write(sync=number % 3 == 0, durable_seq=number)
        head = newest_head(disk)
        assert (head.generation, head.durable_seq) == (1 + number, number)


def test_the_slot_that_was_read_is_safe_before_the_other_is_touched() -> None:
    """After a kill the newest slot may live in memory only: a write to the other one, and one power cut, took both."""
    disk = Journal(MemoryDisk())
    HeadFile.create(disk, Head(b"i" * 16))
    newest = HEAD.encode()
    disk.inner.files["HEAD"][:140] = newest
    disk.notes.clear()
    file = HeadFile(disk, HEAD, 0)
    assert disk.notes == [0, "sync"]
    assert bytes(disk.inner.files["HEAD"][:140]) == newest
    file.write(sync=True)
    assert disk.notes == [0, "sync", 1, "sync"]


def test_whichever_slot_is_torn_at_any_byte_the_other_opens_the_store() -> None:
    disk = small_store()
    expected = contents_of(disk)
    for slot in (0, 1):
        for size in range(0, 140, 3):
            torn = copy(disk)
            torn.files["HEAD"][slot * HEAD_PAGE + size : slot * HEAD_PAGE + 140] = b"\xff" * (140 - size)
            with opened(torn) as database:
                assert database.recovery is not None
                assert "slot of HEAD was bad" in database.recovery.actions[0]
                assert add(database, 100) == 9
            assert all(head is not None for head in read_heads(torn))
            assert contents_of(torn)[2] != expected[2]
            with opened(torn) as database:
                assert database.recovery is None


def test_the_newer_generation_counts_whichever_slot_it_is_in() -> None:
    disk = small_store()
    head = newest_head(disk)
    lost = replace(head, generation=head.generation + 1, durable_seq=head.durable_seq + 1)
    for heads in ((head, lost), (lost, head)):
        changed = copy(disk)
        set_heads(changed, *heads)
        with pytest.raises(LogDamaged):
            opened(changed)
    for heads in ((head, replace(lost, generation=0)), (replace(lost, generation=0), head)):
        changed = copy(disk)
        set_heads(changed, *heads)
        opened(changed).close()


def test_opening_for_writing_clears_clean_before_the_first_append_and_closing_sets_it() -> None:
    disk = small_store()
    assert newest_head(disk).clean
    database = opened(disk)
    assert not newest_head(disk).clean
    add(database, 100)
    assert not newest_head(disk).clean
    database.close()
    assert newest_head(disk).clean


def test_reading_leaves_head_as_it_is() -> None:
    disk = small_store()
    before = bytes(disk.files["HEAD"])
    opened(disk, write=False).close()
    assert bytes(disk.files["HEAD"]) == before


def test_after_always_head_names_the_last_commit_and_where_it_ends() -> None:
    disk = small_store(close=False, snapshots=())
    head = newest_head(disk)
    segment = disk.list("log")[-1]
    assert head.durable_seq == 8
    assert f"{head.segment:020d}.seg" == segment
    assert head.durable_offset == len(disk.files[f"log/{segment}"])
