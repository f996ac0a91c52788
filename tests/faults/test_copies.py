"""Copies on the disk that forgets, in CI's size; ``make faults`` looks at more ways and at every errno."""

from __future__ import annotations

import errno
from collections import Counter

import pytest

from detmem.errors import LogDamaged
from detmem.journal.copies import backup, repair
from detmem.journal.head import newest_head
from detmem.opening import open_disk
from tests.faults.copies import COMMITS, DAMAGES, SOURCES, Copying, damaged, expected, source, whole
from tests.faults.simdisk import Fault, SimDisk
from tests.faults.workloads import Runner, fixed_identity

SEED = 20_260_501
VICTIMS = [(name, how) for name in SOURCES for how in DAMAGES if (name, how) != ("a segment each", "head behind")]


def promised(how: str) -> int:
    """With HEAD gone back, the last commit is known by nothing: the frame behind a commit says that it arrived."""
    return len(COMMITS) - 1 if how == "head behind" else len(COMMITS)


@pytest.mark.parametrize("name", SOURCES)
def test_a_backup_that_is_cut_off_is_absent_refused_or_complete(name: str) -> None:
    copying = Copying(source(name), f"{SEED} {name}", 8)
    copying.backup()
    assert copying.endings["complete"] > 0
    assert copying.endings["absent"] > 0
    assert copying.states > 50


@pytest.mark.parametrize("name", SOURCES)
def test_a_backup_whose_calls_fail_says_so_and_leaves_the_source_alone(name: str) -> None:
    files = source(name)
    old, new = SimDisk(files), SimDisk()
    head = newest_head(old)
    assert head is not None
    old.calls = 0
    backup(old, new, head.store_id, len(COMMITS))
    assert whole(new.files) == expected(len(COMMITS))
    copying = Copying(files, f"{SEED} {name} errors", 1)
    for at in range(0, new.calls, 3):
        copying.backup(Fault(at, errno.ENOSPC, short=True, lasting=True))
    for at in range(0, old.calls, 7):
        copying.backup(Fault(-1 - at, errno.EIO))
    assert copying.states > 20


@pytest.mark.parametrize(("name", "how"), VICTIMS)
def test_repair_mends_every_damage_and_may_be_cut_off_anywhere(name: str, how: str) -> None:
    files = source(name)
    victim = damaged(files, how)
    seen = whole(victim)
    assert isinstance(seen, str) or not seen[2], "nothing is damaged"
    copying = Copying(files, f"{SEED} {name} {how}", 4)
    copying.repair(victim, promised=promised(how))
    assert copying.endings["complete"] > 0
    assert copying.endings["refused"] > 0


@pytest.mark.parametrize("how", ["flip", "two", "cut at a border"])
def test_a_repair_whose_calls_fail_can_be_done_again(how: str) -> None:
    files = source("a segment each")
    victim = damaged(files, how)
    disk = SimDisk(victim)
    repair(disk, SimDisk(files))
    copying = Copying(files, f"{SEED} {how} errors", 2)
    for at in range(0, disk.calls, 2):
        copying.repair(victim, Fault(at, errno.ENOSPC, short=True, lasting=at % 4 == 0))
    assert copying.states > 40


def test_a_repair_of_a_missing_segment_tells_of_every_call_that_failed() -> None:
    """Once, it left off reading the log at the gap, and what closing that file met was told to nobody."""
    files = source("closed")
    victim = damaged(files, "gone")
    copying = Copying(files, f"{SEED} gone errors", 2)
    for at in range(40):
        copying.repair(victim, Fault(at, errno.EROFS), promised("gone"))


@pytest.mark.parametrize("how", ["flip the last", "gone", "seal"])
def test_a_salvage_that_is_cut_off_leaves_a_beginning(how: str) -> None:
    copying = Copying(source("closed"), f"{SEED} {how} salvage", 4)
    copying.salvage(damaged(copying.original, how))
    endings = Counter(copying.endings)
    assert endings["absent"] > 0
    assert sum(count for ending, count in endings.items() if ending.startswith("a beginning")) > 20


# ------------------------------------------------------------------------------------------------ what they found first


def test_a_log_cut_at_a_frames_border_is_mended_in_its_own_segment() -> None:
    """The frames that were left were all good, so repair wrote a second segment behind an unsealed one; where nothing
    was left but the header, it never ended."""
    for name in SOURCES:
        files = source(name)
        disk = SimDisk(damaged(files, "cut at a border"))
        done = repair(disk, SimDisk(files))
        assert len(done.segments) == 1
        assert done.segments[0] in files
        assert whole(disk.files) == expected(len(COMMITS))


def test_a_segment_and_the_header_behind_it_are_mended_one_after_the_other() -> None:
    """With the next header unreadable, the first was written on to the end of the log, over what the others hold."""
    files = source("a segment each")
    disk = SimDisk(damaged(files, "two"))
    assert len(repair(disk, SimDisk(files)).segments) == 2
    assert sorted(name for name in disk.files if name.startswith("log/")) == sorted(
        name for name in files if name.startswith("log/")
    )


def test_repair_keeps_what_only_the_frames_say_was_acknowledged() -> None:
    """HEAD trails under ``always``.  Repair stopped where HEAD did: what later frames say had been acknowledged was
    left out, and the store opened without it, as if nothing were missing."""
    files = source("one segment")
    victim = damaged(files, "head behind")
    with pytest.raises(LogDamaged, match=f"acknowledged were {len(COMMITS) - 1}"):
        open_disk(SimDisk(victim))
    disk = SimDisk(victim)
    assert len(repair(disk, SimDisk(files)).segments) == 1
    assert whole(disk.files) == expected(len(COMMITS) - 1)


def test_a_copy_that_does_not_reach_as_far_is_refused_and_nothing_is_changed() -> None:
    files = source("one segment")
    short = Runner(SimDisk(), "always", 700)
    with fixed_identity():
        short.open()
        for kind in COMMITS[:4]:
            short.commit(kind)
        short.close()
    for how in ("flip", "head behind", "gone"):
        victim = SimDisk(damaged(files, how))
        before = victim.files
        with pytest.raises(LogDamaged, match="another history"):
            repair(victim, SimDisk(short.disk.files))
        assert victim.files == before


def test_an_empty_segment_that_head_names_is_made_again() -> None:
    files = source("a segment each")
    runner = Runner(SimDisk(files), "always", 1)
    with fixed_identity():
        db = open_disk(runner.disk, segment_bytes=1)
        db.snapshot()  # moves on to a new segment
        db.close()
    whole_files = runner.disk.files
    last = max(name for name in whole_files if name.startswith("log/"))
    victim = SimDisk({name: data for name, data in whole_files.items() if name != last})
    assert isinstance(whole(victim.files), str)
    assert repair(victim, SimDisk(files)).segments == (last,)
    assert whole(victim.files) == expected(len(COMMITS))


def test_salvage_stops_before_a_missing_segment() -> None:
    """It went on with the first commit behind the gap: that was committed to the new store, at the wrong seq, before
    its link was looked at."""
    copying = Copying(source("closed"), f"{SEED} gap", 1)
    copying.salvage(damaged(copying.original, "gone"))
    assert "a beginning of 2" in copying.endings
    assert "a beginning of 3" not in copying.endings


def test_a_torn_tail_is_left_to_opening() -> None:
    """Nobody was promised what lies behind the last acknowledged commit; it is not damage, and nothing to repair."""
    files = source("killed")
    last = max(name for name in files if name.startswith("log/"))
    torn = SimDisk({**files, last: files[last] + b"DMF1 half a frame"})
    done = repair(torn, SimDisk(files))
    assert (done.segments, done.quarantined) == ((), ())
    assert whole(torn.files) == expected(len(COMMITS))


def test_a_snapshot_taken_while_the_segments_are_copied_stays_behind() -> None:
    """It came along without the segment that begins behind it; the copy verified, and then did not open."""
    disk = SimDisk()
    with fixed_identity():
        db = open_disk(disk, segment_bytes=1 << 26)
        db.collection("notes", dim=2, metric="l2").add("a", raw=[1, 1])
        taken: list[str] = []

        def look(disk: SimDisk, call: str) -> None:
            if call.startswith("pread log/") and not taken:
                taken.append(call)
                db.snapshot()

        disk.watch = look
        dest = SimDisk()
        backup(disk, dest, db._opened.head.store_id, db.seq)
        assert taken
        copy = open_disk(dest)
        assert (copy.seq, copy.state_root) == (db.seq, db.state_root)


def test_a_frame_half_written_behind_the_backup_is_no_trouble() -> None:
    """The backup of a store at seq 2 read one frame too far, and met the writer in the middle of seq 3."""
    disk = SimDisk()
    with fixed_identity():
        db = open_disk(disk)
        db.collection("notes", dim=2, metric="l2").add("a", raw=[1, 1])
        name = max(name for name in disk.files if name.startswith("log/"))
        at = len(disk.files[name])
        file = disk.open(name, write=True)
        file.pwrite(b"DMF1 half a frame", at)
        dest = SimDisk()
        backup(disk, dest, db._opened.head.store_id, 2)
        assert open_disk(dest).seq == 2
