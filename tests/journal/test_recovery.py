"""Recovery: one story for each row of the table in spec/log.md, then every combination of the rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

import detmem
from detmem.database import verify_disk
from detmem.errors import Divergence, FormatError, LogDamaged, StorageError
from detmem.journal.copies import repair
from detmem.journal.disk import File, MemoryDisk
from detmem.journal.head import HEAD
from detmem.machine.commitment import LINK_ZERO
from tests.journal.stores import (
    add,
    contents,
    contents_of,
    copy,
    frames_of,
    last_segment,
    make_bare,
    names,
    newest_head,
    opened,
    set_heads,
    small_store,
    without_head_and_lock,
)


def refused(disk: MemoryDisk, **options: bool) -> LogDamaged:
    """Opening refuses, for a writer and for a reader, and changes nothing."""
    before = {name: bytes(data) for name, data in disk.files.items() if name != "LOCK"}
    with pytest.raises(LogDamaged):
        opened(disk, write=False, **options)
    with pytest.raises(LogDamaged) as caught:
        opened(disk, **options)
    assert {name: bytes(data) for name, data in disk.files.items() if name != "LOCK"} == before
    return caught.value


def actions_of(disk: MemoryDisk, **options: bool) -> tuple[str, ...]:
    """What opening reports; the store must then open again without a report, and with the same bytes."""
    with opened(disk, **options) as database:
        actions = () if database.recovery is None else database.recovery.actions
        seen = contents(database)
    after = without_head_and_lock(disk)
    with opened(disk) as database:
        assert database.recovery is None
        assert contents(database) == seen
    assert without_head_and_lock(disk) == after
    return actions


def watermark(disk: MemoryDisk, seq: int) -> None:
    """Let HEAD say that no more than ``seq`` was acknowledged, and that the close was not clean."""
    name = last_segment(disk)
    links = {frame.seq: (frame.link, frame.offset + frame.size) for frame in frames_of(disk, name)}
    head = newest_head(disk)
    if seq in links:
        link, end = links[seq]
    else:
        head = replace(head, durable_seq=0, segment=0, durable_offset=0, link=LINK_ZERO)
        seq, link, end = 0, head.link, 0
    head = replace(head, durable_seq=seq, link=link, durable_offset=end, clean=False)
    set_heads(disk, head, replace(head, generation=head.generation + 1))


# --------------------------------------------------------------------------------------------------------- step 1: HEAD


def test_two_good_slots_open_without_a_word() -> None:
    disk = small_store()
    assert actions_of(disk) == ()


def test_no_head_no_segment_and_no_snapshot_is_a_new_store() -> None:
    disk = MemoryDisk()
    with opened(disk) as database:
        assert (database.seq, database.recovery) == (0, None)
    with pytest.raises(FormatError):
        opened(MemoryDisk(), write=False)


@pytest.mark.parametrize("leave", ["log", "snap", "both"])
def test_no_good_slot_but_files_is_refused(leave: str) -> None:
    for spoil in (lambda disk: set_heads(disk, None, None), lambda disk: disk.files.pop(HEAD)):
        disk = small_store()
        if leave != "both":
            for name in names(disk, "snap" if leave == "log" else "log"):
                disk.remove(name)
        spoil(disk)
        assert "HEAD" in str(refused(disk))


def test_no_good_slot_and_nothing_else_is_not_a_new_store() -> None:
    """A file HEAD that we cannot read is damage, or another program's (git has one): it is never replaced unasked."""
    disk = MemoryDisk()
    disk.files[HEAD] = bytearray(8192)
    refused(disk)
    actions = actions_of(disk, accept_missing_head=True)
    assert len(actions) == 1
    assert "HEAD" in actions[0]


@pytest.mark.parametrize("gone", [False, True])
def test_a_missing_head_can_be_accepted_and_is_reported(gone: bool) -> None:
    disk = small_store()
    expected = contents_of(disk)
    set_heads(disk, None, None)
    if gone:
        disk.remove(HEAD)
    with opened(disk, write=False, accept_missing_head=True) as database:
        assert contents(database)[2] == expected[2] or database.seq == 7  # what later frames say is durable
        assert database.recovery is not None
    actions = actions_of(disk, accept_missing_head=True)
    assert "HEAD was missing" in actions[0]
    assert contents_of(disk) == expected


def test_an_open_that_accepts_a_missing_head_and_then_refuses_leaves_no_head_behind() -> None:
    """Else the next open would find a HEAD that acknowledges nothing, and lose the tail without a word."""
    disk = small_store(snapshots=())
    disk.remove(HEAD)
    disk.files[names(disk, "log")[0]][200] ^= 1
    refused(disk, accept_missing_head=True)
    assert HEAD not in disk.files
    refused(disk)


def test_snapshots_alone_are_refused_even_when_a_missing_head_is_accepted() -> None:
    disk = small_store()
    for name in [HEAD, *names(disk, "log")]:
        disk.remove(name)
    refused(disk, accept_missing_head=True)


# -------------------------------------------------------------------------------------------------------- step 2: files


def test_a_damaged_seal_is_refused() -> None:
    disk = small_store()
    for name in names(disk, "log")[:-1]:
        for at in range(len(disk.files[name]) - 144, len(disk.files[name])):
            damaged = copy(disk)
            damaged.files[name][at] ^= 1
            assert refused(damaged).segment == name


def test_a_segment_that_lost_its_seal_is_refused() -> None:
    disk = small_store()
    name = names(disk, "log")[0]
    del disk.files[name][-144:]
    error = refused(disk)
    assert error.segment == name


def test_a_bad_frame_in_an_older_segment_is_refused_where_no_snapshot_stands_in() -> None:
    disk = small_store(snapshots=())
    name = names(disk, "log")[0]
    second = frames_of(disk, name)[1]
    disk.files[name][second.offset + 40] ^= 1
    error = refused(disk)
    assert (error.segment, error.offset, error.first_lost_seq) == (name, second.offset, 2)


def test_a_missing_segment_is_refused_whichever() -> None:
    disk = small_store()
    segments = names(disk, "log")
    assert len(segments) == 3
    for name in segments:
        gap = copy(disk)
        gap.remove(name)
        refused(gap)


def test_a_refused_log_says_how_many_commits_before_the_gap_are_intact() -> None:
    """Once it counted those before the place that HEAD named, or the file, though they were gone as well."""
    disk = small_store()
    segments = names(disk, "log")
    firsts = [int(name[4:24]) for name in segments]
    for kept in range(len(segments)):
        gone = copy(disk)
        for name in segments[kept:]:
            gone.remove(name)
        error = refused(gone)
        assert (error.first_lost_seq, error.last_known_seq) == (firsts[kept], 8)
        assert f"; {firsts[kept] - 1} commits before it are intact" in str(error)
        verdict = verify_disk(gone, "chain", None)
        assert (verdict.seq, verdict.reason) == (firsts[kept] - 1, str(error))
    renamed = copy(disk)
    renamed.rename(segments[0], segments[0].replace("1.seg", "2.seg"))
    assert refused(renamed).first_lost_seq == 1
    strange = copy(disk)
    strange.files[segments[0].replace("1.seg", "0.seg")] = bytearray(b"no header")
    assert refused(strange).first_lost_seq == 1
    lost = copy(disk)
    lost.remove(segments[0])
    assert "SegmentHeader" not in str(refused(lost))
    assert "found one from seq 4 " in str(refused(lost))


def test_a_refusal_for_want_of_head_names_head() -> None:
    disk = small_store()
    disk.remove(HEAD)
    assert refused(disk).segment == HEAD


def test_another_stores_segment_is_refused() -> None:
    ours, theirs = small_store(), MemoryDisk()
    with opened(theirs) as database:
        for number in range(1, 8):
            add(database, number)
    for name in names(ours, "log"):
        mixed = copy(ours)
        mixed.files[name] = theirs.files[names(theirs, "log")[0]]
        error = refused(mixed)
        assert error.segment == name
        assert "another store" in str(error) or name != names(ours, "log")[0]  # else its name is wrong already


def test_a_header_that_head_does_not_name_is_a_crash_in_rotation() -> None:
    """The new segment never had a commit: HEAD is synced in between."""
    disk = small_store(commits=6, snapshots=(3, 6))
    expected = contents_of(disk)
    last = last_segment(disk)
    head = newest_head(disk)
    before = replace(head, segment=4, durable_offset=len(disk.files[names(disk, "log")[1]]), clean=False)
    for size in (0, 1, 127, 128):
        crashed = copy(disk)
        set_heads(crashed, before, replace(before, generation=0))
        header = crashed.files[last]
        header[size:] = b""
        if size == 128:
            header[64] ^= 1
        junk = bytes(header)
        with opened(copy(crashed), write=False) as database:
            assert contents(database) == expected
            assert database.recovery is not None
        (action, *_) = actions_of(crashed)
        assert "crash in rotation" in action
        (moved,) = names(crashed, "quarantine")
        assert bytes(crashed.files[moved]) == junk
        assert contents_of(crashed) == expected


def test_a_header_that_head_names_is_damage() -> None:
    disk = small_store(commits=6, snapshots=(3, 6))
    disk.files[last_segment(disk)][64] ^= 1
    assert refused(disk).segment == last_segment(disk)


def test_a_crash_between_the_seal_and_the_next_segment_costs_nothing() -> None:
    disk = small_store(commits=6, snapshots=(3, 6))
    expected = contents_of(disk)
    head = newest_head(disk)
    disk.remove(last_segment(disk))
    disk.remove(names(disk, "snap")[-1])
    before = replace(head, segment=4, snapshot_seq=0, durable_offset=128, clean=False)
    set_heads(disk, before, replace(before, generation=0))
    actions_of(disk)
    assert contents_of(disk) == expected
    with opened(disk) as database:
        assert add(database, 50) == 7


@pytest.mark.parametrize("bad", [[0], [1], [0, 1]])
def test_a_bad_snapshot_gives_way_to_the_next_older_or_to_the_log(bad: list[int]) -> None:
    disk = small_store()
    expected = contents_of(disk)
    for number in bad:
        disk.files[names(disk, "snap")[number]][100] ^= 1
    with opened(disk) as database:
        assert contents(database) == expected
        if bad == [0]:
            assert database.recovery is None  # it was not needed
        else:
            assert database.recovery is not None
            assert len(database.recovery.actions) == len(bad)
            assert "snapshot" in database.recovery.actions[0]


def test_a_snapshot_that_head_names_with_another_digest_gives_way_too() -> None:
    disk = small_store()
    expected = contents_of(disk)
    head = replace(newest_head(disk), snapshot_digest=b"x" * 32)
    set_heads(disk, head, head)
    with opened(disk) as database:
        assert contents(database) == expected
        assert database.recovery is not None
        assert "HEAD names digest" in database.recovery.actions[0]


def test_a_snapshot_of_another_history_is_refused() -> None:
    other = MemoryDisk()
    with opened(other) as database:
        for number in range(50, 55):
            add(database, number)
        assert database.seq == 6
        database.snapshot()
    disk = small_store()
    name = names(disk, "snap")[-1]
    assert names(other, "snap") == [name]
    disk.files[name] = other.files[name]
    head = replace(newest_head(disk), snapshot_seq=0)
    set_heads(disk, head, head)
    assert refused(disk).segment == name


def test_a_snapshot_behind_the_end_of_the_log_is_refused() -> None:
    disk, longer = small_store(commits=5, snapshots=()), small_store(commits=8, snapshots=(8,))
    (name,) = names(longer, "snap")
    disk.files[name] = longer.files[name]
    assert refused(disk).segment == name


# --------------------------------------------------------------------------------------------------------- step 3: tail


def test_a_clean_end_after_an_unclean_close_is_written_again_and_synced() -> None:
    disk = small_store(close=False)
    expected = contents_of(disk)
    before = without_head_and_lock(disk)
    actions = actions_of(disk)
    assert len(actions) == 1
    assert "not clean" in actions[0]
    assert without_head_and_lock(disk) == before
    assert contents_of(disk) == expected


def unacknowledged(cut: int) -> tuple[MemoryDisk, MemoryDisk, bytes]:
    """A store whose last commit is not acknowledged and torn after ``cut`` bytes; the store before; the torn bytes."""
    before, disk = small_store(commits=7, close=False), small_store(commits=8, close=False)
    name = last_segment(disk)
    start = frames_of(disk, name)[-1].offset
    torn = bytes(disk.files[name][start : start + cut])
    del disk.files[name][start + cut :]
    disk.files[HEAD] = bytearray(before.files[HEAD])
    return disk, before, torn


def test_a_torn_tail_is_quarantined_at_whatever_byte_it_was_torn() -> None:
    whole = frames_of(small_store(commits=8, close=False), last_segment(small_store()))[-1].size
    expected = contents_of(small_store(commits=7)), contents_of(small_store(commits=8))
    for cut in range(1, whole):
        disk, _, torn = unacknowledged(cut)
        with opened(disk) as database:
            assert contents(database) == expected[0]
            recovery = database.recovery
            assert recovery is not None
            (kept,) = recovery.quarantined
            assert bytes(disk.files[kept]) == torn.rstrip(b"\0")
            assert f"{len(disk.files[kept])} bytes" in recovery.actions[-1]
            assert add(database, 8) == 8
        assert contents_of(disk) == expected[1]
        assert actions_of(disk) == ()


@pytest.mark.parametrize("tail", [b"\0" * 5000 + b"x", b"garbage", b"DMF1" * 50])
def test_garbage_behind_the_last_commit_is_a_torn_tail(tail: bytes) -> None:
    disk = small_store()
    expected = contents_of(disk)
    disk.files[last_segment(disk)] += tail
    (action,) = actions_of(disk)
    assert f"{len(tail)} bytes" in action
    assert contents_of(disk) == expected
    (kept,) = names(disk, "quarantine")
    assert bytes(disk.files[kept]) == tail


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("count", [1, 32, 5000])
def test_zeros_behind_the_last_commit_are_cut_off_and_nothing_was_torn(clean: bool, count: int) -> None:
    disk = small_store(close=clean)
    whole, expected = without_head_and_lock(disk), contents_of(disk)
    disk.files[last_segment(disk)] += bytes(count)
    assert contents_of(disk) == expected
    with opened(copy(disk), write=False) as reader:
        assert reader.recovery is None
        assert reader.verify().ok
    (action,) = actions_of(disk)
    assert f"{count} zeros behind it were cut off" in action
    assert ("not clean" in action) is not clean
    assert without_head_and_lock(disk) == whole


def test_what_is_torn_in_front_of_zeros_is_kept_without_them() -> None:
    disk, before, torn = unacknowledged(100)
    disk.files[last_segment(disk)] += bytes(5000)
    (action,) = actions_of(disk)
    assert "100 bytes of an unfinished commit" in action
    assert "5000 zeros" in action
    (kept,) = names(disk, "quarantine")
    assert disk.files[kept] == torn
    assert contents_of(disk) == contents_of(before)


def test_an_acknowledged_commit_that_has_become_zeros_is_refused() -> None:
    """HEAD knows of it; or HEAD lags, and the frame behind it knows."""
    disk = small_store()
    last = frames_of(disk, last_segment(disk))[-1]
    disk.files[last_segment(disk)][last.offset :] = bytes(last.size)
    assert (refused(disk).offset, refused(disk).first_lost_seq) == (last.offset, 8)
    disk = small_store(snapshots=())
    first, second = frames_of(disk, last_segment(disk))
    watermark(disk, 6)
    disk.files[last_segment(disk)][first.offset : second.offset] = bytes(first.size)
    assert (refused(disk).first_lost_seq, refused(disk).last_known_seq) == (7, 7)


def test_zeros_in_a_seals_place_are_no_end_of_a_segment_that_another_follows() -> None:
    disk = small_store()
    name = names(disk, "log")[0]
    disk.files[name][-144:] = bytes(144)
    refused(disk)


def test_two_torn_tails_are_both_kept() -> None:
    disk = small_store()
    for tail in (b"first", b"second"):
        disk.files[last_segment(disk)] += tail
        actions_of(disk)
    assert sorted(bytes(disk.files[name]) for name in names(disk, "quarantine")) == [b"first", b"second"]


def test_a_tail_cut_at_a_frame_border_is_refused_when_it_was_acknowledged() -> None:
    disk = small_store()
    last = frames_of(disk, last_segment(disk))[-1]
    del disk.files[last_segment(disk)][last.offset :]
    error = refused(disk)
    assert (error.segment, error.offset) == (last_segment(disk), last.offset)
    assert (error.first_lost_seq, error.last_known_seq) == (8, 8)


def test_a_bad_frame_that_was_acknowledged_is_refused() -> None:
    disk = small_store()
    first = frames_of(disk, last_segment(disk))[0]
    disk.files[last_segment(disk)][first.offset + 50] ^= 1
    error = refused(disk)
    assert (error.segment, error.offset) == (last_segment(disk), first.offset)
    assert (error.first_lost_seq, error.last_known_seq) == (7, 8)
    assert error.segment in str(error)
    assert str(error.offset) in str(error)


def test_what_a_later_header_says_was_acknowledged_counts_though_head_lags() -> None:
    """A power cut may take HEAD's last writes; the frame behind the damage still says that seq 7 had been synced."""
    disk = small_store(snapshots=())
    name = last_segment(disk)
    first, second = frames_of(disk, name)
    assert (first.seq, second.seq, second.durable_seq) == (7, 8, 7)
    watermark(disk, 6)
    disk.files[name][first.offset + 50] ^= 1
    error = refused(disk)
    assert (error.first_lost_seq, error.last_known_seq) == (7, 7)


def test_an_old_log_under_a_new_head_is_refused() -> None:
    old, new = small_store(commits=5), small_store(commits=8)
    old.files[HEAD] = new.files[HEAD]
    refused(old)
    nearly, new = small_store(commits=7), small_store(commits=8)
    nearly.files[HEAD] = new.files[HEAD]
    error = refused(nearly)
    assert (error.first_lost_seq, error.last_known_seq) == (8, 8)


def test_a_new_log_under_an_old_head_opens_as_it_is() -> None:
    new = small_store(commits=8)
    expected = contents_of(new)
    new.files[HEAD] = small_store(commits=5).files[HEAD]
    with opened(new) as database:
        assert contents(database) == expected


def test_a_head_of_another_history_is_refused() -> None:
    disk = small_store(snapshots=())
    head = replace(newest_head(disk), link=b"?" * 32)
    set_heads(disk, head, head)
    assert "not the same history" in str(refused(disk))


# ------------------------------------------------------------------------------------------------------- step 4: caller


def test_an_expected_checkpoint_is_met_or_refused() -> None:
    disk = small_store()
    older, other = small_store(commits=5), small_store(commits=3, snapshots=())
    with opened(disk, write=False) as database:
        newest = database.checkpoint()
    with opened(older, write=False) as database:
        past = database.checkpoint()
    with opened(other) as database:
        add(database, 99)
        stranger = database.checkpoint()
    for expect in (newest, past, str(newest)):
        opened(disk, expect=expect).close()
    for store, expect in ((older, newest), (disk, stranger)):
        for write in (False, True):
            with pytest.raises(Divergence):
                opened(store, expect=expect, write=write)


# ------------------------------------------------------------------------------------------------- readers and crashes


@pytest.mark.parametrize("mode", ["a", "x"])
def test_a_store_that_is_not_there_cannot_have_reached_a_checkpoint_and_none_is_made(mode: str, tmp_path: Path) -> None:
    """Once, an open that refused because of ``expect`` left a new, empty store behind."""
    with detmem.open(tmp_path / "lost") as database:
        database.collection("c", dim=2)
        wanted = database.checkpoint()
    with pytest.raises(Divergence, match="has reached seq 1"):
        detmem.open(tmp_path / "store", mode, expect=wanted)
    assert not (tmp_path / "store").exists()
    if mode == "a":
        (tmp_path / "empty").mkdir()
        with pytest.raises(Divergence, match="has reached seq 1"):
            detmem.open(tmp_path / "empty", mode, expect=wanted)
        assert list((tmp_path / "empty").iterdir()) == []
    with pytest.raises(Divergence, match="has reached seq 1"):
        detmem.open(":memory:", mode, expect=wanted)


def test_a_reader_of_a_torn_store_writes_nothing_and_sees_the_durable_prefix() -> None:
    for cut in (1, 31, 32, 100):
        disk, before, _ = unacknowledged(cut)
        frozen = {name: bytes(data) for name, data in disk.files.items()}
        with opened(disk, write=False) as database:
            assert contents(database) == contents_of(before)
            assert database.recovery is not None
            assert [entry.seq for entry in database.log()] == list(range(1, 8))
        assert {name: bytes(data) for name, data in disk.files.items()} == frozen


def test_the_history_of_a_torn_store_can_be_read_to_its_last_good_commit() -> None:
    """It used to look at the torn frame behind the last one asked for, and call it damage."""
    disk, _, _ = unacknowledged(40)
    with opened(disk, write=False) as database:
        checkpoint = database.checkpoint()
        assert [entry.seq for entry in database.log(5)] == [5, 6, 7]
    opened(disk, write=False, expect=checkpoint).close()


def test_a_reader_stops_where_the_last_sync_was_seen() -> None:
    disk = MemoryDisk()
    writer = opened(disk, durability="os", segment_bytes=1 << 20)  # a rotation would sync
    for number in range(1, 4):
        add(writer, number)
    with opened(disk, write=False) as reader:
        assert reader.seq == 0
    writer.close()
    with opened(disk, write=False) as reader:
        assert reader.seq == 4


class _Beside(MemoryDisk):
    """A disk on which a writer works: the last segment is met at ``cut`` bytes, with or without zeros behind them, and
    all of it stands there once it has been looked at ``looks`` times."""

    def __init__(self, disk: MemoryDisk, cut: int, zeros: bool, looks: int) -> None:
        super().__init__()
        self.files = dict(disk.files)
        self._name = last_segment(disk)
        self._whole = disk.files[self._name]
        self.files[self._name] = self._whole[:cut] + bytes(len(self._whole) - cut if zeros else 0)
        self.left = looks

    def open(self, name: str, *, write: bool = False, create: bool = False) -> File:
        file = super().open(name, write=write, create=create)
        if name == self._name:
            for call in ("pread", "size"):
                setattr(file, call, self._looked(getattr(file, call)))
        return file

    def _looked(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def look(*asked: int) -> Any:
            if self.left == 0:
                self.files[self._name][:] = self._whole
            self.left -= 1
            return call(*asked)

        return look


@pytest.mark.parametrize("zeros", [False, True])
def test_a_reader_that_meets_a_commit_half_written_is_not_refused_for_those_behind_it(zeros: bool) -> None:
    """Once, opening and verifying beside a busy writer were refused now and then: a commit was met half written, and by
    the time the rest was searched for a header the writer had gone on, which looked like damage in front of a good
    commit."""
    disk = MemoryDisk()
    with opened(disk, segment_bytes=1 << 20) as database:
        database.collection("c", dim=2, metric="l2")
        for number in range(2, 8):
            add(database, number)
    watermark(disk, 3)
    ends = {frame.seq: frame.offset + frame.size for frame in frames_of(disk, last_segment(disk))}
    for cut in range(ends[3], ends[5], 3):
        looks = 0
        while True:
            beside = _Beside(disk, cut, zeros, looks)
            with opened(beside, write=False) as database:
                assert database.seq >= 3
            over = beside.left >= 0
            beside = _Beside(disk, cut, zeros, looks)
            assert verify_disk(beside, "chain", None).ok
            looks += 1
            if over and beside.left >= 0:  # both have ended before the writer went on
                break


class _BeingMade(MemoryDisk):
    """A disk on which a writer makes a store: ``names`` are there once it has been looked at ``looks`` times."""

    def __init__(self, disk: MemoryDisk, names: list[str], looks: int) -> None:
        super().__init__()
        self._coming = {name: disk.files[name] for name in names}
        self.left = looks

    def list(self, folder: str) -> list[str]:
        if self.left == 0:
            self.files |= self._coming
        self.left -= 1
        return super().list(folder)


def test_a_reader_of_a_store_that_is_being_made_meets_none_or_a_whole_one() -> None:
    """Once, it looked for HEAD, then for segments; what was made between the two looks was a log that had lost HEAD."""
    disk = small_store(commits=2, snapshots=(2,))
    made = [name for name in disk.files if not name.endswith("LOCK")]
    met = set()
    for looks in range(12):
        beside = _BeingMade(disk, made, looks)
        try:
            with opened(beside, write=False) as database:
                met.add(database.seq)
        except FormatError:
            met.add(None)
    assert met == {None, 2}


def test_leftover_temporaries_are_removed_by_writers_and_ignored_by_readers() -> None:
    disk = small_store()
    expected = contents_of(disk)
    leftovers = [
        "HEAD.tmp",
        "log/00000000000000000009.seg.tmp",
        "snap/00000000000000000008.snap.tmp",
        "quarantine/x.tmp",
    ]
    for name in leftovers:
        disk.files[name] = bytearray(b"half made")
    with opened(disk, write=False) as database:
        assert contents(database) == expected
    assert set(leftovers) <= set(disk.files)
    assert actions_of(disk) == ()
    assert not set(leftovers) & set(disk.files)


@pytest.mark.parametrize("durability", ["always", "os"])
def test_a_store_copied_while_it_is_open_has_everything_acknowledged(tmp_path: Path, durability: str) -> None:
    source, target = tmp_path / "open.detmem", tmp_path / "copy.detmem"
    with detmem.open(source, durability=durability) as database:
        notes = database.collection("notes", dim=2, metric="l2")
        for number in range(20):
            notes.add(f"{number}", raw=[number, 0])
        for folder in ("log", "snap"):
            (target / folder).mkdir(parents=True)
        for path in [source / "HEAD", *(source / "log").iterdir(), *(source / "snap").iterdir()]:
            (target / path.relative_to(source)).write_bytes(path.read_bytes())
        with detmem.open(target) as reopened:
            assert contents(reopened) == contents(database)
            assert reopened.recovery is not None
            assert "not clean" in reopened.recovery.actions[0]
            assert reopened.verify().ok


def test_a_git_folder_is_not_a_store_and_stays_untouched(tmp_path: Path) -> None:
    """Its HEAD was taken for ours, unreadable, and replaced by a new store's."""
    for others in ([], ["config"]):
        folder = tmp_path / f"repository{len(others)}"
        folder.mkdir()
        for name in ["HEAD", *others]:
            (folder / name).write_text("ref: refs/heads/main\n", encoding="ascii")
        for mode in ("a", "r", "r+"):
            with pytest.raises(FormatError):
                detmem.open(folder, mode)
        assert {path.name: path.read_text(encoding="ascii") for path in folder.iterdir()} == dict.fromkeys(
            ["HEAD", *others], "ref: refs/heads/main\n"
        )


@pytest.mark.parametrize("strange", ["log/production.log", "snap/shot.png", "log", "README"])
def test_a_folder_with_other_peoples_files_is_not_a_store(tmp_path: Path, strange: str) -> None:
    file = tmp_path / strange
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine", encoding="ascii")
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    for mode in ("a", "r", "r+"):
        with pytest.raises(FormatError):
            detmem.open(tmp_path, mode)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


# --------------------------------------------------------------------------------------- step 4: payloads; 6: erasures


@pytest.mark.parametrize("torn", [b"", b"torn"])
def test_a_payload_that_is_gone_and_that_nothing_erased_is_refused(torn: bytes) -> None:
    disk = small_store()
    make_bare(disk, last_segment(disk), "c", "id8")
    disk.files[last_segment(disk)] += torn
    error = refused(disk)
    assert (error.first_lost_seq, error.last_known_seq) == (8, 8)
    assert "'id8'" in str(error)


def test_a_payload_that_is_gone_and_was_erased_later_opens() -> None:
    disk = small_store()
    make_bare(disk, last_segment(disk), "c", "id8")
    whole = small_store()
    with opened(whole) as database:
        database.erase("c", "id8")
        database.close()
    for name in names(whole, "snap"):  # from the log alone
        whole.remove(name)
    assert bytes(whole.files[last_segment(disk)]).startswith(bytes(disk.files[last_segment(disk)][:300]))
    with opened(whole, write=False) as database:
        assert database.seq == 9
        assert "id8" not in database["c"]


def test_a_last_segment_that_was_repaired_without_what_it_erases_opens() -> None:
    """Its frames are shorter than those that HEAD's offset counts, so the repaired segment ends with a seal."""
    disk = small_store(snapshots=())
    with patch("detmem.journal.log.Journal._rotate", side_effect=StorageError(5, "the power fails")):
        database = opened(disk)
        with pytest.raises(StorageError):
            database.erase("c", "id8")
    disk = copy(disk)
    last = last_segment(disk)
    assert newest_head(disk).durable_offset == len(disk.files[last])
    finished = copy(disk)
    opened(finished).close()
    disk.files[last][-200] ^= 1
    refused(disk)
    assert repair(disk, finished).segments == (last,)
    assert newest_head(disk).durable_offset > len(disk.files[last]) - 144  # where the seal begins
    for write in (False, True):
        with opened(disk, write=write) as database:
            assert (database.seq, "id8" in database["c"]) == (9, False)
            assert database.verify().ok


def test_an_erase_behind_the_snapshot_in_use_is_finished_first_and_reported() -> None:
    disk = small_store()
    with patch("detmem.journal.erasure.sweep", side_effect=StorageError(5, "the power fails")):
        database = opened(disk)
        with pytest.raises(StorageError):
            database.erase("c", "id7")
    with opened(disk, write=False) as database:
        assert (database.seq, database.verify().remaining) == (9, 1)
    actions = actions_of(disk)
    assert [action for action in actions if "the erasure of seq 9 was finished" in action]
    assert names(disk, "snap") == ["snap/00000000000000000009.snap"]
    with opened(disk) as database:
        report = database.verify()
        assert (report.ok, report.erased, report.remaining) == (True, 1, 0)


def test_a_snapshot_older_than_the_last_erasure_is_removed_by_a_writer_and_left_by_a_reader() -> None:
    disk = small_store()
    before = copy(disk)
    with opened(disk) as database:
        database.erase("c", "id2")
    expected = without_head_and_lock(disk)
    for name in names(before, "snap"):
        disk.files[name] = before.files[name]
    with opened(disk, write=False) as database:
        assert database.recovery is None
        assert len(names(disk, "snap")) == 3
    assert actions_of(disk) == ()
    assert without_head_and_lock(disk) == expected


# --------------------------------------------------------------------------------------------------------- combinations

Spoil = Callable[[MemoryDisk], None]


def _nothing(disk: MemoryDisk) -> None:
    """Leave it as it is."""


def _one_slot(disk: MemoryDisk) -> None:
    set_heads(disk, newest_head(disk), None)


def _no_slot(disk: MemoryDisk) -> None:
    set_heads(disk, None, None)


def _bad_seal(disk: MemoryDisk) -> None:
    disk.files[names(disk, "log")[0]][-1] ^= 1


def _another_segment(disk: MemoryDisk) -> None:
    disk.files["log/00000000000000000042.seg"] = bytearray(b"DETMEMSG")


def _bad_snapshot(disk: MemoryDisk) -> None:
    disk.files[names(disk, "snap")[-1]][-1] ^= 1


def _late_snapshot(disk: MemoryDisk) -> None:
    longer = small_store(commits=9, snapshots=(9,))
    disk.files["snap/00000000000000000009.snap"] = longer.files["snap/00000000000000000009.snap"]


def _torn(disk: MemoryDisk) -> None:
    disk.files[last_segment(disk)] += b"torn"


def _cut(disk: MemoryDisk) -> None:
    del disk.files[last_segment(disk)][frames_of(disk, last_segment(disk))[-1].offset :]


def _ahead(disk: MemoryDisk) -> None:
    disk.files[last_segment(disk)] += bytes(77)


def _zeroed(disk: MemoryDisk) -> None:
    last = frames_of(disk, last_segment(disk))[-1]
    disk.files[last_segment(disk)][last.offset :] = bytes(last.size)


def _damaged(disk: MemoryDisk) -> None:
    disk.files[last_segment(disk)][frames_of(disk, last_segment(disk))[-1].offset + 40] ^= 1


def _bare(disk: MemoryDisk) -> None:
    make_bare(disk, last_segment(disk), "c", "id7")


STEP_HEAD: dict[str, Spoil] = {"good": _nothing, "one": _one_slot, "none": _no_slot}
STEP_FILES: dict[str, Spoil] = {
    "good": _nothing,
    "seal": _bad_seal,
    "unsealed": _another_segment,
    "snapshot": _bad_snapshot,
    "late": _late_snapshot,
}
STEP_TAIL: dict[str, Spoil] = {
    "clean": _nothing,
    "ahead": _ahead,
    "torn": _torn,
    "cut": _cut,
    "zeroed": _zeroed,
    "damaged": _damaged,
}
STEP_PAYLOADS: dict[str, Spoil] = {"there": _nothing, "gone": _bare}
STEP_CALLER = ("silent", "met", "not met")
WORDS = {
    "one": "one slot of HEAD",
    "none": "HEAD was missing",
    "rotation": "crash in rotation",
    "snapshot": "an older snapshot",
    "ahead": "zeros behind it",
    "torn": "unfinished commit",
}


@pytest.mark.parametrize("accept", [False, True])
@pytest.mark.parametrize("head", STEP_HEAD)
def test_every_combination_meets_exactly_one_row_of_each_step(head: str, accept: bool) -> None:
    """The first step that refuses decides; else every row that reports has one sentence, and no other row has one."""
    whole = small_store()
    expected = contents_of(whole)
    with opened(copy(whole), write=False) as database:
        checkpoint = database.checkpoint()
    stranger = replace(checkpoint, state_root="0" * 64)
    refusals = opens = 0
    for files, tail, payloads, caller in itertools.product(STEP_FILES, STEP_TAIL, STEP_PAYLOADS, STEP_CALLER):
        disk = copy(whole)
        STEP_PAYLOADS[payloads](disk)
        STEP_TAIL[tail](disk)
        STEP_FILES[files](disk)
        STEP_HEAD[head](disk)
        expect = {"silent": None, "met": checkpoint, "not met": stranger}[caller]
        lost = tail in ("cut", "zeroed", "damaged")
        # Without HEAD, only seq 7 is known to have been acknowledged: frame 8 said so, where it can still be read.
        known = lost and not (head == "none" and accept)
        refusing = (head == "none" and not accept) or files in ("seal", "unsealed", "late") or known
        if refusing or payloads == "gone":
            error: type[Exception] | None = LogDamaged
        elif (caller == "met" and lost) or caller == "not met":
            error = Divergence
        else:
            error = None
        if error is not None:
            with pytest.raises(error):
                opened(disk, expect=expect, accept_missing_head=accept)
            refusals += 1
            continue
        with opened(disk, expect=expect, accept_missing_head=accept) as database:
            reported = () if database.recovery is None else database.recovery.actions
            if not lost:
                assert contents(database) == expected
            else:
                assert database.seq == 7
        opens += 1
        sentences = {row: sum(word in action for action in reported) for row, word in WORDS.items()}
        torn = tail in ("torn", "damaged")
        assert sentences == {
            "one": head == "one",
            "none": head == "none",
            "rotation": False,
            "snapshot": files == "snapshot",
            "ahead": tail in ("ahead", "zeroed"),
            "torn": torn,
        }
    assert refusals + opens == len(STEP_FILES) * len(STEP_TAIL) * len(STEP_PAYLOADS) * len(STEP_CALLER)
    assert (opens > 0) == (head != "none" or accept)
