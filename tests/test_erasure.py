"""Erasure: what held a record is gone from every file, and everything that was ever committed to still verifies.

The files are searched byte by byte, the way somebody with the folder and no respect for formats would.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import detmem
from detmem import database, exchange
from detmem.errors import LogDamaged
from detmem.exchange import export_log, load
from detmem.history import repair, salvage
from detmem.journal.disk import MemoryDisk, OsDisk
from detmem.journal.files import frames
from detmem.opening import open_disk
from tests.faults.simdisk import Fault, SimDisk
from tests.faults.workloads import fixed_identity
from tests.journal.stores import copy
from tests.twin import TWIN, perform

RAW = [1_000_003, -7, 77_777, 5]
METADATA = {"name": "MARKER-metadata"}
DOCUMENT = "MARKER-document"
LATER = {"name": "MARKER-later"}
VECTOR = struct.pack("<4i", *RAW)
MARKS = (VECTOR, b"MARKER")


def holding(path: Path, *marks: bytes) -> list[str]:
    """Files below ``path`` that hold any of these bytes."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return [str(file.relative_to(path)) for file in files if any(mark in file.read_bytes() for mark in marks)]


def fill(db: detmem.Database, *, erasable: bool = False) -> None:
    """Record "x" among others, in three versions, alone and in a run; eight commits, 39 operations."""
    notes = db.collection("notes", dim=4, metric="l2", erasable=erasable)
    notes.add("a", raw=[1, 2, 3, 4], metadatas={"name": "a"}, documents="a")
    notes.add("x", raw=RAW, metadatas=METADATA, documents=DOCUMENT)
    notes.update("x", metadatas=LATER)
    notes.link("a", "knows", "x")
    many = [f"r{number}" for number in range(30)]
    notes.upsert([*many, "x"], raw=[[n, 0, 0, 1] for n in range(30)] + [RAW], documents=[None] * 30 + [DOCUMENT])
    notes.delete(["r3", "r4"])
    notes.add("b", raw=[4, 3, 2, 1], documents="b")


def small(disk: Any, **more: Any) -> detmem.Database:
    """Small segments, so that there are several."""
    return open_disk(disk, **{"segment_bytes": 700, **more})


def marked(disk: MemoryDisk) -> list[str]:
    return [name for name, data in disk.files.items() if any(mark in data for mark in MARKS)]


# ----------------------------------------------------------------------------------------------- what is gone, what not


@pytest.mark.parametrize("erasable", [False, True], ids=["plain", "salted"])
@pytest.mark.parametrize("durability", ["always", "os", "group:1", "interval:50"])
def test_no_file_holds_what_was_erased_and_every_checkpoint_still_verifies(
    tmp_path: Path, erasable: bool, durability: str
) -> None:
    path = tmp_path / "store"
    with detmem.open(path, durability=durability) as db:
        fill(db, erasable=erasable)
        db.snapshot()
        assert len(holding(path, *MARKS)) == 2  # the log and the snapshot
        (path / "quarantine" / "00000000000000000001-128.0").write_bytes(b"torn " + VECTOR)
        (path / "log" / "00000000000000000001.seg.tmp").write_bytes(b"MARKER")
        before = [db.at(seq).checkpoint() for seq in range(db.seq + 1)]
        commit = db.erase("notes", "x")
        assert (commit.seq, commit.state_root, commit.durable) == (db.seq, db.state_root, True)
        assert holding(path, *MARKS) == []
        assert [db.at(seq).checkpoint() for seq in range(len(before))] == before
        assert "x" not in db["notes"]
        assert db["notes"].neighbors("a") == []
        report = db.verify()
        assert (report.ok, report.operations, report.erased, report.remaining) == (True, 40, 3, 0)
    for checkpoint in before:
        assert detmem.verify(path, expect=checkpoint, level="chain").ok
        assert detmem.verify(path, expect=checkpoint).ok
        detmem.open(path, "r", expect=checkpoint).close()
    with detmem.open(path, expect=before[-1]) as db:
        assert db.recovery is None
        assert db.log(db.seq).__next__().op == "erase"
    assert holding(path, *MARKS) == []


def test_what_lies_around_the_erased_record_is_as_it_was() -> None:
    with small(MemoryDisk()) as db:
        fill(db)
        expected = db["notes"].get(include=("metadatas", "documents", "raw"))
        db.erase("notes", "x")
        found = db["notes"].get(include=("metadatas", "documents", "raw"))
        rows = [at for at, id in enumerate(expected.ids) if id != "x"]
        assert found.ids == [expected.ids[at] for at in rows]
        assert found.documents == [expected.documents[at] for at in rows]
        assert found.raw.tolist() == [expected.raw[at].tolist() for at in rows]


def test_a_past_search_raises_or_leaves_out_and_says_so() -> None:
    with small(MemoryDisk()) as db:
        fill(db)
        answers = [db.at(seq)["notes"].search(raw=RAW, k=50) for seq in range(2, 9)]
        db.erase("notes", "x")
        assert db["notes"].search(raw=RAW, k=50).ids == [id for id in answers[-1].ids if id != "x"]
        assert db.at(2)["notes"].search(raw=RAW, k=50).ids == answers[0].ids == ["a"]  # "x" was not there yet
        for seq, before in zip(range(3, 9), answers[1:], strict=True):
            with pytest.raises(detmem.Erased, match="'x'"):
                db.at(seq)["notes"].search(raw=RAW, k=1)
            with pytest.raises(detmem.Erased, match="'x'"):
                db.at(seq)["notes"].get("x")
            assert db.at(seq)["notes"].get("a").ids == ["a"]
            assert "x" in db.at(seq)["notes"]  # ids are not erased
            then = db.at(seq, erased="omit")["notes"]
            result = then.search(raw=RAW, k=50)
            assert (result.ids, result.erased) == ([id for id in before.ids if id != "x"], ["x"])
            assert then.get().erased == ["x"]


def test_a_commitment_without_salt_can_be_confirmed_by_guessing_and_a_salted_one_cannot(tmp_path: Path) -> None:
    """What the README says of it.  H(10 | salt | bytes) is spec/commitments.md's."""
    guess = sha256(b"\x10" + VECTOR).digest()
    for erasable in (False, True):
        path = tmp_path / str(erasable)
        with detmem.open(path) as db:
            fill(db, erasable=erasable)
            db.erase("notes", "x")
        assert bool(holding(path, guess)) is not erasable
    key = (tmp_path / "True" / "keys" / "store.key").read_bytes()
    with detmem.open(tmp_path / "again") as db:  # whoever has the key makes the same salts, and can guess again
        (tmp_path / "again" / "keys").mkdir(exist_ok=True)
        (tmp_path / "again" / "keys" / "store.key").write_bytes(key)
        fill(db, erasable=True)
        db.erase("notes", "x")
        assert db.checkpoint() == detmem.open(tmp_path / "True", "r").checkpoint()


def test_bytes_and_roots_are_the_twins() -> None:
    """The same commands for spec/reference.py; then each frame of ours is the twin's, without the erased payloads."""
    run = [(f"r{number}", [number, 1], {"n": number}, "d") for number in range(20)]
    commands: list[Any] = [
        ("create", "c", 2, "l2", "Q16.16"),
        ("add", "c", run),
        ("update", "c", [("r3", None, {"m": 1}, None)]),
        ("delete", "c", ["r5"]),
        ("erase", "c", ["r3", "r5"]),
        ("upsert", "c", [("r3", [7, 7], None, "new"), ("s", [1, 2], None, None)]),
        ("erase", "c", ["s"]),
    ]
    disk, twin = MemoryDisk(), TWIN.Memory()
    with small(disk, segment_bytes=1) as db:
        commits = []
        for command in commands:
            commits.append(twin.write(command))
            perform(db, command)
            assert str(db.checkpoint()) == twin.checkpoint()
        erased = {("c", "r3"): 5, ("c", "r5"): 5, ("c", "s"): 7}
        assert db._state.erased == twin.state.erased == erased
        snapshot = bytes(disk.files[f"snap/{7:020d}.snap"])
        assert snapshot == TWIN.write_snapshot(twin)
    segments = [bytes(data) for name, data in sorted(disk.files.items()) if name.startswith("log/")]
    again = TWIN.Memory()
    for data, commit in zip(segments, commits, strict=False):
        operations = tuple(
            TWIN.without_payload(one)
            if one.type in TWIN.WRITES and erased.get((one.collection, one.id), 0) > commit.seq
            else one
            for one in commit.operations
        )
        header = TWIN.read_segment_header(data[:128])
        frame = TWIN.commit_frame(commit._replace(operations=operations), commit.seq - 1, header.store_id, commit.seq)
        assert data[128 : 128 + len(frame)] == frame
        again.replay(commit._replace(operations=operations))
    assert again.checkpoint() == twin.checkpoint()
    assert not again.state.missing


# ------------------------------------------------------------------------------------------------------- which records


def test_what_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "store") as db:
        fill(db)
        before = db.checkpoint()
        for ids in ("never", ["x", "never"]):
            with pytest.raises(detmem.NotFoundError, match="'never'"):
                db.erase("notes", ids)
        for collection, ids, error in [
            ("other", "x", detmem.NotFoundError),
            ("", "x", detmem.UsageError),
            ("notes", 5, detmem.UsageError),
            ("notes", ["x", 5], detmem.UsageError),
            ("notes", "", detmem.UsageError),
            ("notes", {"x"}, detmem.UsageError),
            ("notes", ["x", "x"], detmem.DuplicateIdError),
        ]:
            with pytest.raises(error):
                db.erase(collection, ids)  # type: ignore[arg-type]
        with pytest.raises(detmem.UsageError, match="batch"), db.batch():
            db.erase("notes", "x")
        with pytest.raises(detmem.ReadOnlyError):
            db.at(3).erase("notes", "x")
        assert db.checkpoint() == before
        assert db["notes"].get("x").documents == [DOCUMENT]
        assert db.erase("notes", []).seq == before.seq
    with detmem.open(tmp_path / "store", "r") as db, pytest.raises(detmem.ReadOnlyError):
        db.erase("notes", "x")


@pytest.mark.parametrize("how", ["deleted", "dropped", "made again"])
def test_what_has_left_the_state_can_be_erased_as_well(how: str) -> None:
    disk = MemoryDisk()
    with small(disk) as db:
        fill(db)
        if how == "deleted":
            db["notes"].delete("x")
        else:
            db.drop("notes")
        if how == "made again":
            db.collection("notes", dim=9)
        assert db.erase("notes", ["x"]).seq == db.seq
        assert marked(disk) == []
        assert db.verify().ok
        assert db.at(4).checkpoint() == db.at(4, erased="omit").checkpoint()


def test_a_record_written_again_is_a_new_one() -> None:
    disk = MemoryDisk()
    with small(disk) as db:
        fill(db)
        first = db.erase("notes", "x").seq
        assert db.erase("notes", "x").seq == first  # nothing has been written since: nothing to log
        db["notes"].add("x", raw=RAW, documents=DOCUMENT)
        second = db.seq
        db["notes"].add("y", raw=RAW)
        assert db.at(second)["notes"].get("x").documents == [DOCUMENT]
        assert db.verify().erased == 3
        db.close()
        db = small(disk)
        assert db["notes"].get("x").documents == [DOCUMENT]
        assert db.at(second)["notes"].search(raw=RAW, k=1).ids == ["x"]
        assert db.erase("notes", ["x", "y"]).seq == second + 2
        assert marked(disk) == []
        assert db.verify().erased == 5
        db.close()


def test_erasing_again_looks_through_files_that_were_put_back(tmp_path: Path) -> None:
    """An older file of the same history verifies, and holds what it held: ``verify`` counts it, erasing removes it."""
    path = tmp_path / "store"
    with detmem.open(path) as db:
        fill(db)
        db.snapshot()
        name = "00000000000000000001.seg"
        shutil.copy(path / "log" / name, tmp_path / name)
        seq = db.erase("notes", "x").seq
        shutil.copy(tmp_path / name, path / "log" / name)
        report = db.verify("chain")
        assert (report.ok, report.erased, report.remaining) == (True, 0, 3)
        assert db.erase("notes", "x").seq == seq
        assert holding(path, *MARKS) == []
        assert db.verify("chain").remaining == 0


# ---------------------------------------------------------------------------------------------------- beside and behind


class Beside:
    """A disk on which something is done before call number ``at``, once: another process is at work."""

    def __init__(self, disk: Any, at: int, deed: Callable[[], object]) -> None:
        self._disk = disk
        self._left = at
        self._deed = deed
        self.done = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._disk, name)
        if not callable(found):
            return found

        def call(*given: Any, **named: Any) -> Any:
            if self._left == 0 and not self.done:
                self.done = True
                self._deed()
            self._left -= 1
            return found(*given, **named)

        return call


@pytest.mark.parametrize("segment_bytes", [1, 700, 1 << 26])
@pytest.mark.parametrize("asked", ["open", "refresh", "verify", "chain", "at", "log"])
def test_a_reader_is_not_disturbed_by_an_erasure_at_any_of_its_calls(asked: str, segment_bytes: int) -> None:
    """Its answer is of before or of after; never is a payload that is gone taken for damage."""
    base = MemoryDisk()
    with small(base, segment_bytes=segment_bytes) as db:
        fill(db)
        db.snapshot()
        db["notes"].add("behind the snapshot", raw=RAW, documents=DOCUMENT)
        db["notes"].add("last", raw=RAW)
    at, done = 0, True
    while done:
        disk = copy(base)
        with small(disk, segment_bytes=segment_bytes) as writer:
            beside = Beside(disk, 10**9, lambda writer=writer: writer.erase("notes", ["x", "behind the snapshot"]))  # type: ignore[misc]
            if asked == "open":
                beside._left = at
            reader = small(beside, write=False)
            if asked != "open":
                beside._left = at
            if asked == "refresh":
                writer["notes"].add("one more", raw=[1, 1, 1, 1])
                reader.refresh()
            elif asked in ("verify", "chain"):
                report = reader.verify("replay" if asked == "verify" else "chain")
                assert report.ok, report.reason
            elif asked == "at":
                assert reader.at(4).checkpoint() == writer.at(4).checkpoint()
                with reader.at(4) as then:
                    try:
                        assert then["notes"].get("x").metadatas == [LATER]
                    except detmem.Erased:
                        assert beside.done
            elif asked == "log":
                assert [entry.seq for entry in reader.log(1)][-1] == reader.seq
            done = beside.done
            assert reader.checkpoint() == writer.at(reader.seq).checkpoint()
            reader.refresh()
            assert reader.checkpoint() == writer.checkpoint()
        at += 1
    assert at > 2


@pytest.mark.parametrize("segment_bytes", [700, 1 << 26])
def test_a_reader_goes_on_by_seq_in_a_segment_that_was_written_anew_under_it(segment_bytes: int) -> None:
    disk = MemoryDisk()
    readers = []
    with small(disk, segment_bytes=segment_bytes) as writer:
        notes = writer.collection("notes", dim=4, metric="l2")
        for number in range(12):
            notes.upsert(["x", f"n{number}"], raw=[RAW, [number] * 4], documents=[DOCUMENT, None])
            readers.append(small(disk, write=False))
        writer.erase("notes", "x")
        notes.add("behind", raw=[5, 5, 5, 5])
        for reader in readers:
            reader.refresh()  # a sync of the last commit was not seen yet: HEAD is written lazily
            assert reader.checkpoint() == writer.at(reader.seq).checkpoint()
            assert reader.seq >= writer.seq - 1
            assert "x" not in reader["notes"]


@pytest.mark.parametrize("segment_bytes", [1, 1 << 26])
def test_a_backup_by_a_reader_is_whole_whenever_the_writer_erases(tmp_path: Path, segment_bytes: int) -> None:
    base = MemoryDisk()
    with small(base, segment_bytes=segment_bytes) as db:
        fill(db)
        db.snapshot()
        db["notes"].add("last", raw=RAW)
    at, done = 0, True
    while done:
        disk = copy(base)
        with small(disk, segment_bytes=segment_bytes) as writer:
            reader = small(disk, write=False)
            beside = Beside(disk, at, lambda writer=writer: writer.erase("notes", ["x", "last"]))  # type: ignore[misc]
            reader._disk = beside  # type: ignore[assignment]
            checkpoint = reader.backup(tmp_path / str(at))
            done = beside.done
            with detmem.open(tmp_path / str(at)) as there:
                assert there.checkpoint() == checkpoint
                assert there.verify().ok
                if checkpoint == writer.checkpoint():
                    assert done == (holding(tmp_path / str(at), *MARKS) == [])
        at += 1
    assert at > 5


def test_a_backup_that_every_time_meets_another_erasure_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, whoever gave up said that the store was damaged."""
    disk = MemoryDisk()
    with small(disk, segment_bytes=1) as writer:
        notes = writer.collection("notes", dim=2, metric="l2")
        for number in range(20):
            notes.add(f"n{number}", raw=[number, 1], documents=f"words {number}")
        reader = small(disk, write=False)
        took, tries = database.backup, 0

        def meanwhile(*asked: Any) -> None:
            nonlocal tries
            writer.erase("notes", f"n{tries}")
            tries += 1
            took(*asked)

        monkeypatch.setattr(database, "backup", meanwhile)
        with pytest.raises(detmem.LockedError, match="erased or archived during each of 10 copyings"):
            reader.backup(tmp_path / "copy")
        assert tries == 10
        monkeypatch.undo()
        assert reader.backup(tmp_path / "another") == writer.checkpoint()


def test_an_erasure_that_was_cut_off_is_finished_by_the_next_open_for_writing() -> None:
    """At every call behind the durable Erase; until then ``verify`` says how many payloads remain, and readers read."""

    def store() -> SimDisk:
        disk = SimDisk()
        db = small(disk)
        fill(db)
        db.snapshot()
        db.close()
        return disk

    seen = set()
    with fixed_identity():
        at = 0
        while True:
            disk = store()
            db = small(disk)
            disk.fault = Fault(disk.calls + at)
            try:
                db.erase("notes", "x")
            except detmem.StorageError:
                at += 1
            else:
                break
            if db.seq == 8:  # nothing had been logged
                continue
            with pytest.raises(detmem.StorePoisoned):
                db["notes"].add("more", raw=[1, 1, 1, 1])
            assert "x" not in db["notes"]  # reads go on
            left = disk.kill()
            with small(left, write=False) as reader:
                if reader.seq < 9:  # the write of the Erase itself had failed
                    continue
                remaining = reader.verify().remaining
                seen.add(remaining)
            with small(left) as db:
                assert db.recovery is not None or remaining == 0
                if remaining:
                    assert any("erasure of seq 9 was finished" in action for action in db.recovery.actions)
                assert db.verify().remaining == 0
            assert not any(mark in data for data in left.files.values() for mark in MARKS)
    assert {0, 3} < seen  # and some in between: it was met in the middle


# --------------------------------------------------------------------------------------------------------------- copies


def test_replaying_an_erased_store_gives_the_same_and_holds_nothing(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "store") as db:
        fill(db)
        seq = db.erase("notes", "x").seq
        db["notes"].add("later", raw=[1, 1, 1, 1])
        assert detmem.replay(db, tmp_path / "again") == db.checkpoint()
        assert detmem.replay(db, tmp_path / "up to the erasure", until=seq) == db.at(seq).checkpoint()
        assert detmem.replay(db, tmp_path / "before x", until=2) == db.at(2).checkpoint()
        with pytest.raises(detmem.Erased, match=f"'x'.* erased at {seq}"):
            detmem.replay(db, tmp_path / "between", until=seq - 1)
        assert not (tmp_path / "between").exists()
    for name in ("again", "up to the erasure"):
        with detmem.open(tmp_path / name) as db:
            assert db.recovery is None
    assert holding(tmp_path, *MARKS) == []


def test_an_exported_log_holds_no_more_than_its_store_and_imports_again(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "store") as db:
        fill(db)
        seq = db.erase("notes", "x").seq
        export_log(db, tmp_path / "exported.log")
        with pytest.raises(detmem.Erased, match="'x'"):
            export_log(db.at(seq - 1), tmp_path / "no")
        assert load(tmp_path / "exported.log", tmp_path / "again") == db.checkpoint()
    with detmem.open(tmp_path / "again") as db:
        assert db.recovery is None
    assert holding(tmp_path, *MARKS) == []


def test_a_reader_behind_an_erasure_makes_no_copy_that_ends_before_it(tmp_path: Path) -> None:
    """Another process erased: that was called damage, or was not seen, and the exported log was good for nothing."""
    (tmp_path / "store").mkdir()
    with small(OsDisk(str(tmp_path / "store"))) as db:
        fill(db)
        with detmem.open(tmp_path / "store", "r") as reader:
            db.erase("notes", "x")
            for number, until in enumerate((None, 8, 5)):
                with pytest.raises(detmem.Erased, match="'x' in 'notes', written at seq 3, has been erased"):
                    detmem.replay(reader, tmp_path / f"no {number}", until=until)
            with pytest.raises(detmem.Erased, match="'x' in 'notes', written at seq 3, has been erased"):
                export_log(reader, tmp_path / "no.log")
            with pytest.raises(LogDamaged, match="seal"):
                load(tmp_path / "no.log", tmp_path / "nothing")
            assert detmem.replay(reader, tmp_path / "before x", until=2) == reader.at(2).checkpoint()
            reader.refresh()
            assert detmem.replay(reader, tmp_path / "again") == db.checkpoint()
            export_log(reader, tmp_path / "exported.log")
            assert load(tmp_path / "exported.log", tmp_path / "loaded") == db.checkpoint()


def test_a_log_that_is_exported_while_its_payloads_go_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store").mkdir()
    with small(OsDisk(str(tmp_path / "store"))) as db:
        fill(db)

        def meanwhile(call: Callable[[], object]) -> Callable[..., Any]:
            def walked(disk: Any, start: int, stop: int) -> Any:
                for number, found in enumerate(frames(disk, start, stop)):
                    if number == 1:  # x is written in the next segment
                        call()
                    yield found

            return walked

        for call, error in (
            (lambda: db.erase("notes", "x"), detmem.Erased),
            (lambda: db.archive(tmp_path / "archive"), detmem.Archived),
        ):
            monkeypatch.setattr(exchange, "frames", meanwhile(call))
            with pytest.raises(error):
                export_log(db, tmp_path / f"{error.__name__}.log")
            with pytest.raises(LogDamaged):
                load(tmp_path / f"{error.__name__}.log", tmp_path / error.__name__)


def test_a_backup_takes_the_key_along(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "store") as db:
        fill(db, erasable=True)
        db.backup(tmp_path / "copy")
        db["notes"].add("next", raw=RAW)
        with detmem.open(tmp_path / "copy") as other:
            other["notes"].add("next", raw=RAW)
            assert other.checkpoint() == db.checkpoint()


def test_a_backup_from_before_the_erasure_still_holds_it_and_erases_it_itself(tmp_path: Path) -> None:
    """Nobody can reach a copy; the README says so."""
    with detmem.open(tmp_path / "store") as db:
        fill(db)
        db.backup(tmp_path / "copy")
        db.erase("notes", "x")
        assert holding(tmp_path / "copy", *MARKS)
        with detmem.open(tmp_path / "copy") as other:
            other.erase("notes", "x")
            assert other.checkpoint() == db.checkpoint()
    assert holding(tmp_path, *MARKS) == []


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_repair_from_an_older_copy_does_not_bring_it_back(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "store") as db:
        fill(db)
        db.snapshot()
        db.backup(tmp_path / "copy")
        db.erase("notes", "x")
        checkpoint = db.checkpoint()
    _flip(tmp_path / "store" / "log" / "00000000000000000001.seg", 300)
    assert repair(tmp_path / "store", tmp_path / "copy").segments
    assert holding(tmp_path / "store", *MARKS) == []
    report = detmem.verify(tmp_path / "store", expect=checkpoint)
    assert (report.ok, report.erased) == (True, 3)


def test_repair_of_an_older_store_by_a_newer_copy_is_refused(tmp_path: Path) -> None:
    """The copy has given up what this log never erased: taken over, it would be damage."""
    with detmem.open(tmp_path / "store") as db:
        fill(db)
        db.snapshot()
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    with detmem.open(tmp_path / "copy") as db:
        db.erase("notes", "x")
    _flip(tmp_path / "store" / "log" / "00000000000000000001.seg", 300)
    with pytest.raises(LogDamaged, match="'x'"):
        repair(tmp_path / "store", tmp_path / "copy")


def test_salvage_logs_an_erasure_again_whose_own_commit_is_lost(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "store") as db:
        fill(db)
        seq = db.erase("notes", "x").seq
        root = db.at(seq - 1).state_root
    name = tmp_path / "store" / "log" / "00000000000000000001.seg"
    data = name.read_bytes()
    _flip(name, data.rindex(b"DMF1", 0, len(data) - 200) + 40)  # in the frame of the Erase
    with pytest.raises(LogDamaged):
        detmem.replay(tmp_path / "store", tmp_path / "not like this")
    found = salvage(tmp_path / "store", tmp_path / "saved")
    assert found.checkpoint.seq == seq
    assert f"logged again at {seq}" in (found.reason or "")
    with detmem.open(tmp_path / "saved") as db:
        assert db.recovery is None
        assert db.at(seq - 1).state_root == root
        assert "x" not in db["notes"]
        assert db.verify().ok


# --------------------------------------------------------------------------------------------------------------- damage


def test_verify_names_a_payload_that_nothing_erased(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "store") as db:
        fill(db)
        db.backup(tmp_path / "other")
        db.erase("notes", "x")
        seq = db.seq
        root = db.at(2).state_root
    with detmem.open(tmp_path / "other") as db:  # the same first eight commits, and no Erase
        db.snapshot()
        bare = (tmp_path / "store" / "log" / "00000000000000000001.seg").read_bytes()
    forged = tmp_path / "other" / "log" / "00000000000000000001.seg"
    _as_if_erased(forged, bare, seq - 1)
    for level in ("chain", "replay"):
        report = detmem.verify(tmp_path / "other", level=level)
        assert (report.ok, report.first_bad_seq, report.seq, report.state_root) == (False, 3, 2, root)
        assert "'x'" in (report.reason or "")


def _as_if_erased(path: Path, bare: bytes, count: int) -> None:
    """The segment at ``path`` with its first ``count`` commits as they stand in ``bare``, a segment of a store that
    has erased."""
    mine = path.read_bytes()
    header, store_id = TWIN.read_segment_header(mine[:128]), mine[16:32]
    frames, at = [mine[:128]], 128
    for _ in range(count):
        length = struct.unpack_from("<I", bare, at + 8)[0]
        seq, durable = struct.unpack_from("<QQ", bare, at + 12)
        body = bare[at + 32 : at + 32 + length + 64]
        frames.append(TWIN.frame_header(1, length, seq, durable, store_id, header.first_seq) + body)
        at += 32 + length + 64
    frames.append(mine[mine.rindex(b"DMF1") :])  # the seal
    path.write_bytes(b"".join(frames))


# ------------------------------------------------------------------------------------------------------------ receipts


def test_a_receipt_outlives_the_erasure_of_what_it_names_and_the_store_says_why_it_cannot_answer_again() -> None:
    with small(MemoryDisk()) as db:
        fill(db)
        receipt = db["notes"].search(raw=RAW, k=3).receipt("R1")
        trusted = receipt.checkpoint
        assert detmem.check_receipt(receipt, db).level == "R2"
        db.erase("notes", "x")
        assert detmem.check_receipt(receipt, checkpoint=trusted).level == "R1"  # with nothing but a checkpoint
        verdict = detmem.check_receipt(receipt, db)
        assert not verdict.ok
        assert "erased since" in verdict.reason
        with pytest.raises(detmem.Erased):
            db.at(receipt.seq, erased="omit")["notes"].search(raw=RAW, k=3).receipt("R0")
        assert db["notes"].search(raw=RAW, k=3).receipt("R1").checkpoint == db.checkpoint()
        db.prove_consistency(trusted)
        assert db.prove("notes", "x").present is False
