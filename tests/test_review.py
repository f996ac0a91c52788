"""What reviews found that no test had asked for: each docstring tells what once went wrong."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

import detmem
from detmem.journal.files import snapshot_name


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_relative_path_stays_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, a store opened by a relative path followed chdir into another store of the same name and damaged both."""
    checkpoints = {}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with detmem.open(tmp_path / name / "m.detmem") as db:
            db.collection("notes", dim=1).add(name, [1])
            checkpoints[name] = db.checkpoint()
    monkeypatch.chdir(tmp_path / "a")
    with detmem.open("m.detmem") as db:
        os.chdir(tmp_path / "b")
        db["notes"].add("more", [2])
        db.snapshot()
        db["notes"].add("and more", [3])
        assert [entry.ids for entry in db.log(2)] == [["a"], ["more"], ["and more"]]
        assert db.verify().ok
    assert detmem.verify(tmp_path / "a" / "m.detmem", expect=checkpoints["a"]).seq == 4
    with detmem.open(tmp_path / "b" / "m.detmem", "r", expect=checkpoints["b"]) as other:
        assert other.checkpoint() == checkpoints["b"]


def test_readers_and_verify_beside_a_writer_that_takes_snapshots(store: Path) -> None:
    """Once, a snapshot that the writer had replaced between a reader's listing and its open was a StorageError."""
    done = threading.Event()
    with detmem.open(store, durability="os") as writer:
        notes = writer.collection("notes", dim=2)
        writer.snapshot()

        def write() -> None:
            try:
                for number in range(60):
                    notes.add(str(number), [1, number])
                    writer.snapshot()
            finally:
                done.set()

        thread = threading.Thread(target=write)
        thread.start()
        rounds = 0
        while not done.is_set():
            with detmem.open(store, "r") as reader:
                assert reader["notes"].count() == reader.seq - 1
            assert detmem.verify(store, level="chain").ok
            rounds += 1
        thread.join()
        assert rounds > 0


def test_a_snapshot_that_vanishes_after_it_was_listed_is_passed_over(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, decided: the newest snapshot goes between listing and opening, and an older one is used."""
    with detmem.open(store) as db:
        notes = db.collection("notes", dim=1)
        for number in (1, 2):
            notes.add(str(number), [number])
            db.snapshot()
        checkpoint = db.checkpoint()
    listed = detmem.journal.recovery.snapshot_seqs

    def list_and_lose(disk: object) -> list[int]:
        seqs = listed(disk)
        (store / snapshot_name(seqs[-1])).unlink(missing_ok=True)
        return seqs

    monkeypatch.setattr(detmem.journal.recovery, "snapshot_seqs", list_and_lose)
    with detmem.open(store, "r") as db:
        assert db.checkpoint() == checkpoint
        assert db.recovery is None


def test_a_damaged_snapshot_is_reported_and_the_whole_log_still_verified(store: Path) -> None:
    """Once, verify stopped at a bad snapshot, and called the commit behind it the first bad one."""
    with detmem.open(store) as db:
        notes = db.collection("notes", dim=1)
        notes.add("a", [1])
        path = db.snapshot().path
        notes.add("b", [2])
        checkpoint = db.checkpoint()
    assert path is not None
    data = bytearray(Path(path).read_bytes())
    data[-1] ^= 1
    Path(path).write_bytes(data)
    report = detmem.verify(store)
    assert (report.ok, report.seq, report.state_root, report.first_bad_seq) == (False, 3, checkpoint.state_root, None)
    assert report.reason is not None
    assert Path(path).name in report.reason
    with detmem.open(store, expect=checkpoint) as db:
        assert db.recovery is not None
        assert "an older snapshot or the log was used" in db.recovery.actions[0]


def test_reads_inside_a_batch_see_the_committed_collections() -> None:
    """Once, `name in db` saw what the batch had pending, and `collections()` did not."""
    with detmem.open(":memory:") as db:
        old = db.collection("old", dim=1)
        with db.batch():
            new = db.collection("new", dim=2)
            new.add("x", [1, 2])
            db.drop("old")
            assert "new" not in db
            assert "old" in db
            assert db.collections() == ["old"]
            assert len(old) == 0
            with pytest.raises(detmem.NotFoundError, match="batch still open"):
                len(new)
        assert "new" in db
        assert "old" not in db
        assert len(new) == 1


@pytest.mark.parametrize("door", ["vectors", "raw"])
def test_a_none_among_the_vectors_of_an_update_leaves_that_vector(door: str) -> None:
    """Once, it was taken for a vector of the wrong type."""
    with detmem.open(":memory:") as db:
        notes = db.collection("notes", dim=2, metric="l2")
        one = 65536 if door == "raw" else 1
        notes.add(["a", "b", "c"], [[1, 1], [2, 2], [3, 3]])
        root = db.state_root
        commit = notes.update(["a", "b"], metadatas=[{"k": 1}, None], **{door: [None, [one, 0]]})
        assert commit is not None
        assert commit.seq == 3
        found = notes.get(include=("vectors", "metadatas"))
        assert found.vectors is not None
        assert found.vectors.tolist() == [[1, 1], [1, 0], [3, 3]]
        assert found.metadatas == [{"k": 1}, {}, {}]
        with pytest.raises(detmem.DimensionError, match=rf"{door}\[1\]"):
            notes.update(["a", "b"], **{door: [None, [one, one, one]]})
        with pytest.raises(detmem.DimensionError, match="expected 2"):
            notes.update(["a", "b"], **{door: [None]})
        assert db.seq == 3
        assert notes.update(["a", "b"], **{door: [None, None]}) == commit  # nothing was asked for
        assert db.state_root != root


def test_somebody_elses_file_called_lock_makes_no_store(tmp_path: Path) -> None:
    """Once, a folder with nothing but a file LOCK was adopted, and the file written over."""
    (tmp_path / "LOCK").write_text("mine, and precious\n")
    for mode in ("r", "r+", "a"):
        with pytest.raises(detmem.FormatError):
            detmem.open(tmp_path, mode)
    assert (tmp_path / "LOCK").read_text() == "mine, and precious\n"
    assert [path.name for path in tmp_path.iterdir()] == ["LOCK"]


def test_a_log_iterator_ends_with_its_database() -> None:
    """Once, it read on from the files of a closed handle."""
    db = detmem.open(":memory:")
    notes = db.collection("notes", dim=1)
    notes.add("a", [1])
    entries = db.log()
    assert next(entries).seq == 1
    db.close()
    with pytest.raises(detmem.UsageError, match="closed"):
        next(entries)


def test_an_interrupt_while_a_commit_is_taken_into_memory_poisons_the_handle(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between the disk and memory: the commit is on the disk, and half of it in memory must never be served."""
    db = detmem.open(store)
    notes = db.collection("notes", dim=1)
    notes.add("a", [1])

    def interrupted(change: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(db._state), "publish", lambda self, change: interrupted(change))
    with pytest.raises(KeyboardInterrupt):
        notes.add("b", [2])
    monkeypatch.undo()
    for attempt in (lambda: notes.add("c", [3]), lambda: len(notes), lambda: notes.search([1.0])):
        with pytest.raises(detmem.StorePoisoned):
            attempt()
    db.close()
    with detmem.open(store) as again:
        assert list(again["notes"]) == ["a", "b"]
        assert again.verify().ok
