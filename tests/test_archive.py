"""Compaction with the audit kept: payloads move out, and every root, link and proof can still be computed."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import detmem
from detmem.errors import LogDamaged
from detmem.exchange import export_log
from detmem.history import repair, salvage
from detmem.journal import archive
from detmem.journal.disk import MemoryDisk, OsDisk
from detmem.journal.erasure import singles
from detmem.journal.files import frames
from tests.faults.simdisk import Fault, SimDisk, choices
from tests.faults.workloads import fixed_identity
from tests.journal.stores import copy
from tests.test_erasure import MARKS, RAW, Beside, fill, holding, small
from tests.twin import TWIN, perform


def archived(tmp_path: Path) -> tuple[Path, list[detmem.Checkpoint]]:
    """A store whose first eight commits lie in ``tmp_path/archive``, and every checkpoint it had."""
    path = tmp_path / "store"
    with detmem.open(path) as db:
        fill(db)
        checkpoints = [db.at(seq).checkpoint() for seq in range(db.seq + 1)]
        info = db.archive(tmp_path / "archive")
        assert (info.seq, info.path) == (8, str(tmp_path / "archive"))
        assert info.segments == ["log/00000000000000000001.seg"]
    return path, checkpoints


def put_back(tmp_path: Path, path: Path) -> None:
    for file in (tmp_path / "archive" / "log").iterdir():
        shutil.copy(file, path / "log")


def test_payloads_move_and_everything_that_was_committed_to_still_verifies(tmp_path: Path) -> None:
    path, checkpoints = archived(tmp_path)
    assert holding(path, *MARKS) == ["snap/00000000000000000008.snap"]  # what lives is here
    assert holding(tmp_path / "archive", *MARKS) == ["log/00000000000000000001.seg"]
    for checkpoint in checkpoints:
        for level in ("chain", "replay"):
            report = detmem.verify(path, level=level, expect=checkpoint)
            assert (report.ok, report.operations, report.archived, report.erased) == (True, 39, 35, 0)
    with detmem.open(path, expect=checkpoints[-1]) as db:
        assert db.recovery is None
        assert db["notes"].search(raw=RAW, k=1).ids == ["x"]
        assert [entry.seq for entry in db.log()] == list(range(1, 9))
        assert [db.at(seq).checkpoint() for seq in (0, 8)] == [checkpoints[0], checkpoints[8]]
        for old in checkpoints[1:]:
            assert db.prove_consistency(old).old == old
        assert detmem.check_receipt(db["notes"].search(raw=RAW, k=3).receipt("R1"), db).level == "R2"
        db["notes"].add("later", raw=[1, 1, 1, 1])
        assert db.at(8)["notes"].search(raw=RAW, k=1).ids == ["x"]


def test_bytes_are_the_twins() -> None:
    commands: list[Any] = [
        ("create", "c", 2, "l2", "Q16.16"),
        ("add", "c", [(f"r{number}", [number, 1], {"n": number}, "d") for number in range(20)]),
        ("update", "c", [("r3", None, {"m": 1}, None)]),
        ("link", "c", "r3", "knows", "c", "r4"),
        ("erase", "c", ["r5"]),
    ]
    disk, twin, commits = MemoryDisk(), TWIN.Memory(), []
    there = MemoryDisk()
    there.path = lambda name: "/elsewhere"  # type: ignore[method-assign, assignment, return-value]
    with small(disk, segment_bytes=1) as db:
        for command in commands:
            commits.append(twin.write(command))
            perform(db, command)
        assert db._journal is not None
        db.snapshot()
        archive.move(disk, there)  # type: ignore[arg-type]
        assert db.verify().ok
    again = TWIN.Memory()
    for number, commit in enumerate(commits, start=1):
        data = bytes(disk.files[f"log/{number:020d}.seg"])
        operations = tuple(
            TWIN.without_payload(one, archived=(one.id != "r5")) if one.type in TWIN.WRITES else one
            for one in commit.operations
        )
        header = TWIN.read_segment_header(data[:128])
        frame = TWIN.commit_frame(commit._replace(operations=operations), commit.seq - 1, header.store_id, commit.seq)
        assert data[128 : 128 + len(frame)] == frame
        again.replay(commit._replace(operations=operations))
    assert again.checkpoint() == twin.checkpoint()
    assert not again.state.missing


def test_what_needs_the_payloads_says_where_they_are(tmp_path: Path) -> None:
    path, _ = archived(tmp_path)
    place = str(tmp_path / "archive")
    with detmem.open(path) as db:
        assert len(db.at(1)["notes"]) == 0  # nothing had been written
        for seq in range(2, 8):
            with pytest.raises(detmem.Archived, match=place):
                db.at(seq)["notes"].get()
        for make in (
            lambda: detmem.replay(db, tmp_path / "new"),
            lambda: detmem.replay(path, tmp_path / "new", until=3),
            lambda: export_log(db, tmp_path / "new"),
        ):
            with pytest.raises(detmem.Archived, match=place):
                make()
            assert not (tmp_path / "new").exists()
        with pytest.raises(detmem.Archived):
            salvage(path, tmp_path / "saved")


def test_put_back_they_are_what_they_were(tmp_path: Path) -> None:
    path, checkpoints = archived(tmp_path)
    put_back(tmp_path, path)
    assert detmem.verify(path).archived == 0
    with detmem.open(path, expect=checkpoints[-1]) as db:
        assert db.at(3)["notes"].get("x").documents == ["MARKER-document"]
        assert detmem.replay(db, tmp_path / "again") == checkpoints[-1]


def test_archiving_goes_on_and_does_nothing_twice(tmp_path: Path) -> None:
    path, _ = archived(tmp_path)
    with detmem.open(path) as db:
        db["notes"].add("next", raw=RAW)
        assert db.archive(tmp_path / "archive").segments == ["log/00000000000000000009.seg"]
        assert db.archive(tmp_path / "archive").segments == []
        db["notes"].add("more", raw=RAW)
        assert len(db.archive(tmp_path / "another").segments) == 1
        assert (path / "ARCHIVES").read_text().splitlines() == [str(tmp_path / "archive"), str(tmp_path / "another")]
        assert db.verify().archived == 37
    with detmem.open(path) as db:
        assert len(db["notes"]) == 33


def test_a_path_may_hold_what_else_ends_a_line(tmp_path: Path) -> None:
    """U+2028 and seven more were taken for the end of a line, and the archive was then not found."""
    place = tmp_path / "of \u2028 two \x85 three \x0b"
    with detmem.open(tmp_path / "store") as db:
        fill(db)
        db.archive(place)
        db.erase("notes", "x")
    assert holding(place, *MARKS) == []


def test_a_path_of_two_lines_is_refused_before_anything_is_copied_there(tmp_path: Path) -> None:
    """ARCHIVES cannot name it, so no erasure would have reached what was copied."""
    with detmem.open(tmp_path / "store") as db:
        fill(db)
        with pytest.raises(detmem.UsageError, match="one line"):
            db.archive(tmp_path / "two\nlines")
    assert holding(tmp_path / "two\nlines", *MARKS) == []


def test_an_erasure_goes_to_the_archive_too_and_is_refused_while_it_is_not_there(tmp_path: Path) -> None:
    path, checkpoints = archived(tmp_path)
    (tmp_path / "archive").rename(tmp_path / "away")
    with detmem.open(path) as db:
        with pytest.raises(detmem.StorageError, match="not there"):
            db.erase("notes", "x")
        assert db.seq == 8
        (tmp_path / "away").rename(tmp_path / "archive")
        db.erase("notes", "x")
        assert holding(tmp_path, *MARKS) == []
        report = db.verify()
        assert (report.ok, report.erased, report.archived, report.remaining) == (True, 3, 32, 0)
    for checkpoint in checkpoints:
        assert detmem.verify(path, expect=checkpoint).ok
    put_back(tmp_path, path)
    report = detmem.verify(path)
    assert (report.ok, report.erased, report.archived) == (True, 3, 0)


@pytest.mark.parametrize("at", [40, 400, -1], ids=["header", "payload", "seal"])
def test_an_erasure_is_refused_while_an_archive_is_damaged(tmp_path: Path, at: int) -> None:
    """It was found behind the Erase: no handle could write to that store any more."""
    path, _ = archived(tmp_path)
    name = tmp_path / "archive" / "log" / "00000000000000000001.seg"
    whole = name.read_bytes()
    damaged = bytearray(whole)
    damaged[at] ^= 1
    name.write_bytes(damaged)
    with detmem.open(path) as db:
        with pytest.raises(LogDamaged, match=r"00000000000000000001\.seg', in an archive"):
            db.erase("notes", "x")
        assert db["notes"].add("later", raw=RAW).seq == 9
    with detmem.open(path) as db:
        name.write_bytes(whole)
        assert db.erase("notes", "x").seq == 10
    assert holding(tmp_path, b"MARKER") == []


def test_without_the_snapshot_that_stands_in_the_store_is_refused(tmp_path: Path) -> None:
    path, checkpoints = archived(tmp_path)
    snapshot = path / "snap" / "00000000000000000008.snap"
    data = bytearray(snapshot.read_bytes())
    data[len(data) // 2] ^= 1
    snapshot.write_bytes(data)
    for mode in ("r", "r+"):
        with pytest.raises(LogDamaged, match="archive"):
            detmem.open(path, mode)
    assert not detmem.verify(path).ok
    snapshot.unlink()
    for level in ("chain", "replay"):
        report = detmem.verify(path, level=level)
        assert not report.ok
        assert "archive" in (report.reason or "")
    put_back(tmp_path, path)
    detmem.open(path, expect=checkpoints[-1]).close()
    assert detmem.verify(path).ok


def test_what_is_no_archive_is_left_alone(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "other") as db:
        db.collection("c", dim=1)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    with detmem.open(tmp_path / "store") as db:
        fill(db)
        for name, error in (("file", FileExistsError), ("folder", detmem.UsageError), ("other", detmem.UsageError)):
            with pytest.raises(error):
                db.archive(tmp_path / name)
        with pytest.raises(detmem.UsageError), db.batch():
            db.archive(tmp_path / "new")
        assert not (tmp_path / "store" / "ARCHIVES").exists()
        assert db.verify().archived == 0
    shutil.copytree(tmp_path / "store", tmp_path / "twin")
    with detmem.open(tmp_path / "third") as db:  # the same seqs of another store
        fill(db)
        db.archive(tmp_path / "archive")
    with detmem.open(tmp_path / "twin") as db, pytest.raises(detmem.UsageError, match="another store"):
        db.archive(tmp_path / "archive")


def test_an_archive_is_of_one_store_though_no_name_in_it_is_taken(tmp_path: Path) -> None:
    """An erasure then went through the other store's segments as well, and took what had the same names."""
    archived(tmp_path)
    with detmem.open(tmp_path / "another") as db:
        fill(db)
        db.archive(tmp_path / "of another")
        db["notes"].add("y", raw=RAW)
        with pytest.raises(detmem.UsageError, match="another store"):
            db.archive(tmp_path / "archive")
        assert (tmp_path / "another" / "ARCHIVES").read_text() == f"{tmp_path / 'of another'}\n"
        db.erase("notes", "x")
    assert holding(tmp_path / "archive", *MARKS)
    assert not holding(tmp_path / "of another", b"MARKER")


def test_a_store_and_its_backup_that_parted_do_not_write_over_each_others_archive(tmp_path: Path) -> None:
    """The segment in which they part begins alike: the second's took the place of the first's, and its payloads."""
    with detmem.open(tmp_path / "store") as db:
        db.collection("notes", dim=4, metric="l2")
        db.backup(tmp_path / "copy")
        db["notes"].add("x", raw=RAW)
        segments = db.archive(tmp_path / "archive").segments
    with detmem.open(tmp_path / "copy") as db:
        db["notes"].add("other", raw=[1, 2, 3, 4])
        with pytest.raises(detmem.UsageError, match="another history"):
            db.archive(tmp_path / "archive")
        assert db.verify().archived == 0
    assert holding(tmp_path / "archive", MARKS[0]) == segments
    put_back(tmp_path, tmp_path / "store")
    assert detmem.verify(tmp_path / "store").archived == 0
    damaged = tmp_path / "archive" / segments[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with detmem.open(tmp_path / "store") as db:  # what is its own and damaged is written anew
        assert db.archive(tmp_path / "archive").segments == segments
    put_back(tmp_path, tmp_path / "store")
    assert detmem.verify(tmp_path / "store").ok


def test_a_copy_from_before_an_erasure_does_not_bring_it_back_into_the_archive(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "store") as db:
        fill(db)
        db.snapshot()
        db.backup(tmp_path / "copy")
        db.archive(tmp_path / "archive")
        db.erase("notes", "x")
        assert holding(tmp_path / "archive", *MARKS) == []
    with detmem.open(tmp_path / "copy") as db:
        with pytest.raises(detmem.UsageError, match="erase the same"):
            db.archive(tmp_path / "archive")
        assert not (tmp_path / "copy" / "ARCHIVES").exists()  # refused before it is named: no erasure goes there
        assert holding(tmp_path / "archive", *MARKS) == []
        db.erase("notes", "x")
        db.archive(tmp_path / "archive")
    assert holding(tmp_path, *MARKS) == []
    assert detmem.verify(tmp_path / "copy").ok


def test_what_was_left_in_an_archives_place_goes_when_archiving_there_is_done_again(tmp_path: Path) -> None:
    """Cut off before ARCHIVES named the place, and erased since: the erasure could not know of it."""
    with detmem.open(tmp_path / "store") as db:
        fill(db)
        db.snapshot()
        (tmp_path / "archive").mkdir()
        shutil.copytree(tmp_path / "store" / "log", tmp_path / "archive" / "log")
        (tmp_path / "archive" / "log" / "00000000000000000009.seg").unlink()
        db.erase("notes", "x")
        db.archive(tmp_path / "archive")
    assert holding(tmp_path, *MARKS) == []


def test_a_backup_and_a_repair_of_an_archived_store(tmp_path: Path) -> None:
    path, checkpoints = archived(tmp_path)
    with detmem.open(path) as db:
        db.backup(tmp_path / "copy")
    with detmem.open(tmp_path / "copy", expect=checkpoints[-1]) as db:
        assert db.verify().archived == 35
    name = path / "log" / "00000000000000000001.seg"
    data = bytearray(name.read_bytes())
    data[400] ^= 1
    name.write_bytes(data)
    assert repair(path, tmp_path / "copy").segments
    assert detmem.verify(path, expect=checkpoints[-1]).archived == 35
    with detmem.open(tmp_path / "whole") as db:
        fill(db)
    whole = tmp_path / "whole" / "log" / "00000000000000000001.seg"
    data = bytearray(whole.read_bytes())
    data[400] ^= 1
    whole.write_bytes(data)
    with pytest.raises(LogDamaged, match="archive"):  # it has no archive of its own that would explain it
        repair(tmp_path / "whole", tmp_path / "copy")


@pytest.mark.parametrize("asked", ["open", "refresh", "chain", "verify", "backup"])
def test_a_reader_is_not_disturbed_at_any_of_its_calls(tmp_path: Path, asked: str) -> None:
    base = MemoryDisk()
    with small(base) as db:
        fill(db)
    at, done = 0, True
    while done:
        disk = copy(base)
        with small(disk) as writer:
            beside = Beside(disk, 10**9, lambda writer=writer, at=at: writer.archive(tmp_path / f"archive {at}"))  # type: ignore[misc]
            if asked == "open":
                beside._left = at
            reader = small(beside, write=False)
            if asked != "open":
                beside._left = at
            if asked == "refresh":
                reader.refresh()
            elif asked == "backup":
                assert reader.backup(tmp_path / f"copy {at}") == writer.checkpoint()
                with detmem.open(tmp_path / f"copy {at}") as there:
                    assert there.verify().ok
            elif asked != "open":
                report = reader.verify("replay" if asked == "verify" else "chain")
                assert report.ok, report.reason
            done = beside.done
            assert reader.checkpoint() == writer.checkpoint()
            assert reader["notes"].get("x").documents == ["MARKER-document"]
        at += 1
    assert at > (0 if asked == "refresh" else 2)


def _whole(disk: SimDisk, place: OsDisk, root: str) -> None:
    """The store opens where it was, and every payload is here or in the archive, with its commitments."""
    there = {}
    for first in [int(name[:20]) for name in place.list("log") if name.endswith(".seg")]:
        there |= {frame.seq: frame for _, frame in frames(place, first, first + 1)}
    with small(disk, segment_bytes=1) as db:
        for _, frame in frames(disk, 1, db.seq + 1):
            for one in singles(frame):
                if one.archived:
                    assert frame.seq in there
                    assert not any(other.archived for other in singles(there[frame.seq]))
        assert (db.state_root, db["notes"].get("x").documents) == (root, ["MARKER-document"])
        assert db.verify("chain").ok


def test_cut_off_at_any_call_nothing_is_lost(tmp_path: Path) -> None:
    """The power fails before each call to the store's disk, in several ways; the archive's disk is another."""
    with fixed_identity():
        disk = SimDisk()
        db = small(disk, segment_bytes=1)
        notes = db.collection("notes", dim=4, metric="l2")
        notes.add("x", raw=RAW, documents="MARKER-document")
        notes.add("y", raw=RAW)
        place, root, rng = OsDisk(str(tmp_path / "archive")), db.state_root, random.Random(1)
        seen = 0

        def look(disk: SimDisk, call: str) -> None:
            nonlocal seen
            for choice in choices(disk, 4, rng):
                _whole(SimDisk(disk.survivors(choice)), place, root)
                seen += 1
            _whole(SimDisk(disk.files), place, root)

        disk.watch = look
        db.archive(tmp_path / "archive")
        disk.watch = None
        look(disk, "the end")
        assert seen > 100
        assert db.verify().archived == 2


@pytest.mark.parametrize("then", ["archive", "erase"])
def test_whichever_call_fails_the_store_stays_whole_and_can_go_on(then: str, tmp_path: Path) -> None:
    """Archiving again completes it.  An erasure reaches what was copied all the same: once, `ARCHIVES` was written
    behind the copies."""
    at = 0
    with fixed_identity():
        while True:
            disk = SimDisk()
            db = small(disk, segment_bytes=1)
            notes = db.collection("notes", dim=4, metric="l2")
            notes.add("x", raw=RAW, documents="MARKER-document")
            root = db.state_root
            disk.fault = Fault(disk.calls + at, short=at % 2 == 0)
            dest = tmp_path / str(at)
            try:
                db.archive(dest)
            except detmem.StorageError:
                pass
            else:
                break
            disk.fault = None
            left = disk.kill()
            _whole(SimDisk(left.files), OsDisk(str(dest)), root)
            with small(left, segment_bytes=1) as db:
                if then == "archive":
                    db.archive(dest)
                    assert db.verify().archived == 1
                else:
                    db.erase("notes", "x")
                    files = [one for one in dest.rglob("*") if one.is_file()]
                    assert not any(b"MARKER" in one.read_bytes() for one in files)
            at += 1
    assert at > 20


def test_no_folder_is_listed_for_each_segment(tmp_path: Path, listed: list[str]) -> None:
    """Archiving, and erasing with an archive, took time with the square of the number of segments."""
    counts = []
    for count in (2, 8):
        (tmp_path / f"{count}").mkdir()
        with small(OsDisk(str(tmp_path / f"{count}")), segment_bytes=1, durability="os") as db:
            for number in range(count):
                db.collection(f"c{number}", dim=1).add("x", raw=[1])
            listed.clear()
            db.archive(tmp_path / f"archive of {count}")
            db.erase("c1", "x")
            counts.append(len(listed))
    assert counts[0] == counts[1]


def test_an_archive_stands_outside_the_store(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "s") as db:
        db.collection("c", dim=1).add("a", [1])
        for inside in ("s", "s/log", "s/quarantine", "s/new"):
            with pytest.raises(detmem.UsageError, match="in the store itself"):
                db.archive(tmp_path / inside)


def test_an_empty_folder_in_an_archives_place_is_no_archive(tmp_path: Path) -> None:
    """A disk that is not mounted: an erasure must not be believed that has not been there."""
    with detmem.open(tmp_path / "s") as db:
        db.collection("c", dim=1).add("a", [1], documents="SECRET")
        db.archive(tmp_path / "usb")
        (tmp_path / "usb").rename(tmp_path / "disk")
        (tmp_path / "usb").mkdir()
        before = db.checkpoint()
        with pytest.raises(detmem.StorageError, match="was moved"):
            db.erase("c", "a")
        assert db.checkpoint() == before
        (tmp_path / "usb").rmdir()
        (tmp_path / "disk").rename(tmp_path / "usb")
        db.erase("c", "a")
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"SECRET" in file.read_bytes()]
