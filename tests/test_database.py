"""The store through the public door: collections, batches, modes, checkpoints, and what reopening leaves alone."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import detmem
from detmem.journal.disk import MemoryDisk
from detmem.opening import open_disk
from tests.search.asking import AVAILABLE


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file under a folder: when it was last written (ns), and the hash of its bytes."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def fill(db: detmem.Database) -> detmem.Collection:
    notes = db.collection("notes", dim=2, metric="l2")
    notes.add(["a", "b", "c"], [[0, 0], [1, 0], [0, 2]], metadatas=[{"n": 1}, {"n": 2}, {}], documents=["x", None, ""])
    return notes


# ------------------------------------------------------------------------------------------------------- collections


def test_collections_are_got_made_listed_and_dropped(db_path: Path) -> None:
    with detmem.open(db_path) as db:
        assert db.collections() == []
        for name in ("é", "b", "a", "\U0001f600", "\uffff", "x" * 128):
            db.collection(name, dim=1)
        assert db.collections() == sorted(["é", "b", "a", "\U0001f600", "\uffff", "x" * 128], key=str.encode)
        assert "a" in db
        assert "c" not in db
        assert 5 not in db
        assert db["b"].name == "b"
        commit = db.drop("a")
        assert (commit.seq, commit.state_root) == (7, db.state_root)
        assert "a" not in db
        with pytest.raises(KeyError, match="no collection 'a'"):
            db["a"]


@pytest.fixture
def db_path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_collections_do_not_see_each_other() -> None:
    with detmem.open(":memory:") as db:
        for metric in ("l2", "ip", "cosine"):
            db.collection(metric, dim=2, metric=metric).add(["x", metric], [[1, 0], [2, 0]])
        assert db["l2"].search([2, 0]).ids == ["l2", "x"]
        assert db["ip"].search([2, 0]).ids == ["ip", "x"]
        assert db["ip"].search([2, 0]).distances.tolist() == [-4.0, -2.0]
        assert db["cosine"].search([2, 0]).distances.tolist() == [0.0, 0.0]
        db["l2"].delete("x")
        assert "x" in db["ip"]


def test_a_handle_of_a_dropped_collection_finds_nothing_and_a_new_one_of_its_kind_again() -> None:
    with detmem.open(":memory:") as db:
        old = fill(db)
        db.drop("notes")
        for call in (lambda: len(old), lambda: old.search([0, 0]), lambda: old.add("z", [0, 0]), lambda: old.get()):
            with pytest.raises(detmem.NotFoundError, match="'notes'"):
                call()
        other = db.collection("notes", dim=3, metric="l2")
        for call in (lambda: len(old), lambda: old.search([0, 0]), lambda: old.add("z", [0, 0])):
            with pytest.raises(detmem.NotFoundError, match="'notes'"):
                call()
        assert len(other) == 0
        assert db.verify().ok


def test_dropping_leaves_the_root_of_a_store_that_never_had_it() -> None:
    with detmem.open(":memory:") as db, detmem.open(":memory:") as never:
        db.collection("kept", dim=1, metric="l2").add("k", [1])
        fill(db)
        db.drop("notes")
        never.collection("kept", dim=1, metric="l2").add("k", [1])
        assert db.state_root == never.state_root
        assert db.log_root != never.log_root
        db.drop("kept")
        assert db.state_root == "00" * 32


# ------------------------------------------------------------------------------------------------------------- batch


def test_a_batch_is_one_commit_and_its_writes_return_none() -> None:
    with detmem.open(":memory:") as db:
        notes = fill(db)
        seq = db.seq
        with db.batch() as batch:
            assert notes.add("d", [4, 4]) is None
            assert notes.update("a", documents="new") is None
            assert notes.delete("b") is None
            assert notes.delete("nobody") is None
            assert notes.upsert("c", [9, 9]) is None
            more = db.collection("more", dim=1)
            assert more.add("z", [1]) is None
            assert db.drop("more") is None
            assert batch.commit is None
        assert db.seq == seq + 1
        assert batch.commit == detmem.Commit(db.seq, db.state_root, False)
        assert list(notes) == ["a", "c", "d"]
        assert [entry.op for entry in db.log(db.seq)] == [
            "add", "update", "delete", "upsert", "create_collection", "add", "drop_collection",
        ]  # fmt: skip


def test_inside_a_batch_reads_see_the_committed_and_checks_the_pending() -> None:
    with detmem.open(":memory:") as db:
        notes = fill(db)
        before = db.checkpoint()
        with db.batch():
            notes.delete("a")
            assert "a" in notes
            assert notes.get("a").documents == ["x"]
            assert notes.search([0, 0], k=1).ids == ["a"]
            assert db.checkpoint() == before
            with pytest.raises(detmem.NotFoundError, match="'a'"):
                notes.update("a", documents="y")
            notes.add("a", [5, 5])
            with pytest.raises(detmem.DuplicateIdError, match="'a'"):
                notes.add("a", [6, 6])
            notes.update("a", metadatas={"k": 1})
            notes.update("a", metadatas={"j": 2}, documents="doc")
            notes.delete(where={"k": 1})  # the pending record has it
            notes.upsert("a", [7, 7], metadatas={"m": 3})
            new = db.collection("new", dim=1)
            assert db.collection("new").dim == 1  # a write would meet it
            assert "new" not in db.collections()
            with pytest.raises(detmem.NotFoundError, match="'new'"):
                len(new)
            new.add("z", [1])
        found = notes.get("a", include=["metadatas", "documents", "vectors"])
        assert found.metadatas == [{"m": 3}]
        assert found.documents == [None]
        assert found.vectors.tolist() == [[7, 7]]
        assert list(new) == ["z"]
        assert db.verify().ok


def test_an_exception_inside_a_batch_writes_nothing(db_path: Path) -> None:
    with detmem.open(db_path) as db:
        notes = fill(db)
        before, bytes_before = db.checkpoint(), contents(db_path)
        for error in (RuntimeError, KeyboardInterrupt):
            with pytest.raises(error), db.batch() as batch:
                notes.add("d", [1, 1])
                db.collection("more", dim=1)
                raise error
            assert batch.commit is None
        assert db.checkpoint() == before
        assert contents(db_path) == bytes_before
        assert "d" not in notes
        assert db.collections() == ["notes"]
        assert notes.add("d", [1, 1]).seq == before.seq + 1


def test_a_refused_call_inside_a_batch_leaves_the_batch_as_it_was() -> None:
    with detmem.open(":memory:") as db:
        notes = fill(db)
        with db.batch():
            notes.add("d", [1, 1])
            with pytest.raises(detmem.DuplicateIdError):
                notes.add(["e", "d"], [[1, 1], [1, 1]])
            with pytest.raises(detmem.UsageError):
                notes.add("f", [1, 1], metadatas={"k": b""})
        assert list(notes) == ["a", "b", "c", "d"]


def test_a_collection_can_be_dropped_and_made_anew_in_one_batch() -> None:
    with detmem.open(":memory:") as db, detmem.open(":memory:") as fresh:
        fill(db)
        with db.batch():
            db.drop("notes")
            with pytest.raises(detmem.NotFoundError):
                db["notes"]
            notes = db.collection("notes", dim=3, metric="ip")
            notes.add(["a", "q"], [[1, 2, 3], [4, 5, 6]])
        again = fresh.collection("notes", dim=3, metric="ip")
        again.add(["q", "a"], [[4, 5, 6], [1, 2, 3]])
        assert list(notes) == ["a", "q"]
        assert notes.dim == 3
        assert db.state_root == fresh.state_root
        with db.batch():  # dropped, made and dropped again
            db.drop("notes")
            db.collection("notes", dim=1).add("x", [1])
            db.drop("notes")
        assert db.collections() == []
        assert db.state_root == "00" * 32
        assert db.verify().ok


def test_what_cancels_out_in_a_batch_is_still_a_commit_that_happened() -> None:
    with detmem.open(":memory:") as db:
        notes = fill(db)
        before = db.checkpoint()
        with db.batch():
            notes.add("d", [1, 1])
            notes.delete("d")
        after = db.checkpoint()
        assert after.seq == before.seq + 1
        assert after.state_root == before.state_root
        assert after.log_root != before.log_root


@pytest.mark.parametrize("forbidden", ["batch", "snapshot", "close"])
def test_what_cannot_be_done_inside_a_batch_is_said(forbidden: str) -> None:
    with detmem.open(":memory:") as db:
        notes = fill(db)
        with db.batch():
            notes.add("d", [1, 1])
            with pytest.raises(detmem.UsageError, match="batch"):
                if forbidden == "batch":
                    with db.batch():
                        pass
                else:
                    getattr(db, forbidden)()
            notes.add("e", [1, 1])
        assert list(notes) == ["a", "b", "c", "d", "e"]


# ------------------------------------------------------------------------------------------------- modes and reopening


def test_a_path_like_works_and_close_may_be_called_again(db_path: Path) -> None:
    db = detmem.open(db_path, "x")
    assert isinstance(db_path, os.PathLike)
    db.close()
    db.close()
    with detmem.open(str(db_path), "r+") as again:
        assert again.seq == 0
        assert again.recovery is None


@pytest.mark.parametrize("durability", ["always", "os"])
def test_a_commit_says_whether_it_has_reached_the_disk(db_path: Path, durability: str) -> None:
    with detmem.open(db_path, durability=durability) as db:
        notes = db.collection("notes", dim=1)
        assert notes.add("a", [1]).durable is (durability == "always")
        checkpoint = db.checkpoint()
    with detmem.open(db_path, "r") as again:
        assert again.checkpoint() == checkpoint


STEPS: list[Callable[[detmem.Database], Any]] = [
    lambda db: fill(db),
    lambda db: db["notes"].upsert("b", [5, 5]),
    lambda db: db.snapshot(),
    lambda db: db["notes"].update("a", metadatas={"n": None, "s": "é"}),
    lambda db: db["notes"].delete("c"),
    lambda db: db["notes"].delete("nobody"),
    lambda db: db.collection("more", dim=1, format="Q4.28"),
    lambda db: db.snapshot(),
    lambda db: db.drop("notes"),
    lambda db: fill(db),
]


def everything(db: detmem.Database) -> list[Any]:
    found: list[Any] = [db.checkpoint(), db.head, list(db.log())]
    for name in db.collections():
        c = db[name]
        records = c.get(include=("metadatas", "documents", "raw"))
        found += [(name, c.dim, c.metric, c.format), records.ids, records.metadatas, records.documents]
        found += [records.raw.tolist(), c.search(np.ones(c.dim)).raw.tolist()]
    return found


def test_reopening_after_every_operation_changes_nothing(db_path: Path) -> None:
    with detmem.open(":memory:") as beside:
        for step in STEPS:
            step(beside)
            with detmem.open(db_path) as db:
                step(db)
                expected = everything(db)
            assert expected == everything(beside)
            before = contents(db_path)
            with detmem.open(db_path, "r") as reader:
                assert everything(reader) == expected
                assert reader.recovery is None
            assert contents(db_path) == before
            with detmem.open(db_path, "r+") as writer:
                assert everything(writer) == expected
                assert writer.recovery is None


def test_mode_r_takes_no_lock_and_opens_no_file_for_writing(db_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a live writer; and the folder may be read-only, for nothing in it is ever opened to be written."""
    with detmem.open(db_path) as db:
        fill(db)
        db.snapshot()
        db["notes"].delete("c")
        before, folders = contents(db_path), sorted(db_path.rglob("*"))
        flags_seen = []
        really_open = os.open

        def watching(path: Any, flags: int, *rest: Any, **more: Any) -> int:
            flags_seen.append(flags)
            return really_open(path, flags, *rest, **more)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", watching)
            with detmem.open(db_path, "r") as reader:
                assert list(reader["notes"]) == ["a", "b"]
                assert reader.verify().ok
                assert reader.checkpoint() == db.checkpoint()
                assert len(list(reader.log())) == 3
        assert flags_seen
        assert not [flags for flags in flags_seen if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)]
        assert contents(db_path) == before
        assert sorted(db_path.rglob("*")) == folders


def test_a_read_only_folder_can_be_read(db_path: Path) -> None:
    with detmem.open(db_path) as db:
        fill(db)
        checkpoint = db.checkpoint()
    everywhere = [db_path, *db_path.rglob("*")]
    for path in everywhere:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with detmem.open(db_path, "r") as reader:
            assert reader.checkpoint() == checkpoint
            assert reader["notes"].search([0, 0], k=1).ids == ["a"]
    finally:
        for path in everywhere:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_reader_sees_the_prefix_that_stood_when_it_opened(db_path: Path) -> None:
    with detmem.open(db_path) as db:
        notes = fill(db)
        with detmem.open(db_path, "r") as reader:
            seen = reader.checkpoint()
            notes.add("d", [1, 1])
            assert reader.checkpoint() == seen
            assert list(reader["notes"]) == ["a", "b", "c"]
            assert len(list(reader.log())) == 2
        with detmem.open(db_path, "r") as later:
            assert later.checkpoint() == db.checkpoint()


def test_a_reader_beside_a_writer_that_does_not_sync_sees_what_would_survive_a_power_cut(db_path: Path) -> None:
    with detmem.open(db_path, durability="os") as db:
        notes = fill(db)
        with detmem.open(db_path, "r") as reader:
            assert reader.seq == 0
        db.snapshot()  # which syncs
        notes.add("d", [1, 1])
        with detmem.open(db_path, "r") as reader:
            assert list(reader["notes"]) == ["a", "b", "c"]
    with detmem.open(db_path, "r") as reader:
        assert list(reader["notes"]) == ["a", "b", "c", "d"]


def test_a_closed_writer_lets_another_process_write(db_path: Path) -> None:
    with detmem.open(db_path) as db:
        fill(db)
    script = "import sys, detmem\nwith detmem.open(sys.argv[1]) as db: print(db['notes'].add('d', [1, 1]).state_root)"
    done = subprocess.run([sys.executable, "-c", script, str(db_path)], capture_output=True, text=True, check=True)
    with detmem.open(db_path) as db:
        assert done.stdout.strip() == db.state_root
        assert list(db["notes"]) == ["a", "b", "c", "d"]


def test_a_store_in_memory_does_all_that_one_on_disk_does(tmp_path: Path) -> None:
    with detmem.open(":memory:") as memory, detmem.open(tmp_path / "s") as disk:
        for db in (memory, disk):
            fill(db)
        assert memory.checkpoint() == disk.checkpoint()
        assert list(memory.log()) == list(disk.log())
        in_memory, on_disk = memory.snapshot(), disk.snapshot()
        assert in_memory.path is None
        assert on_disk.path is not None
        assert Path(on_disk.path).is_file()
        assert (in_memory.seq, in_memory.state_root) == (on_disk.seq, on_disk.state_root) == (2, disk.state_root)
        assert memory.verify() == disk.verify() == detmem.Report(True, 2, disk.state_root)
        assert memory.verify("chain").ok
        assert detmem.replay(memory, tmp_path / "t") == memory.checkpoint()
        assert detmem.diff(memory, disk) == detmem.Diff(2, [], [], [])
    assert not (tmp_path / ":memory:").exists()


# ------------------------------------------------------------------------------------------------------- checkpoints


def test_a_store_passes_through_every_checkpoint_it_has_given(db_path: Path) -> None:
    given = []
    for step in STEPS:
        with detmem.open(db_path) as db:
            given.append(db.checkpoint())
            step(db)
            given.append(db.checkpoint())
    for checkpoint in given:
        for expect in (checkpoint, str(checkpoint)):
            with detmem.open(db_path, "r", expect=expect) as db:
                assert db.checkpoint() == given[-1]
        assert detmem.verify(db_path, expect=checkpoint).ok
        assert detmem.Checkpoint.parse(str(checkpoint)) == checkpoint


@pytest.mark.parametrize("field", ["seq", "log_size", "log_root", "state_root"])
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_forged_checkpoint_is_a_divergence_and_the_store_still_opens(db_path: Path, field: str, mode: str) -> None:
    with detmem.open(db_path) as db:
        fill(db)
        good = db.checkpoint()
        db["notes"].delete("a")
    values = {name: getattr(good, name) for name in ("seq", "log_size", "log_root", "state_root")}
    old = values[field]
    values[field] = old + 1 if isinstance(old, int) else ("0" if old[0] != "0" else "1") + old[1:]
    forged = detmem.Checkpoint(**values)
    with pytest.raises(detmem.Divergence, match="expected"):
        detmem.open(db_path, mode, expect=forged)
    report = detmem.verify(db_path, expect=forged)
    assert not report.ok
    assert report.reason is not None
    detmem.open(db_path, "r+", expect=good).close()  # the lock has been given back


def test_a_rolled_back_store_is_told_from_a_good_one(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "s") as db:
        fill(db)
        detmem.replay(db, tmp_path / "old")
        db["notes"].delete("a")
        newest = db.checkpoint()
    with pytest.raises(detmem.Divergence, match="rolled back"):
        detmem.open(tmp_path / "old", expect=newest)
    assert not detmem.verify(tmp_path / "old", expect=newest).ok
    assert detmem.verify(tmp_path / "old").ok


# ------------------------------------------------------------------------------------------------------------ kernels


def test_kernels_says_what_is_there_and_what_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETMEM_KERNEL", raising=False)
    assert detmem.kernels()["forced"] is None
    available = detmem.kernels()["available"]
    assert isinstance(available, dict)
    assert set(available) == {"reference", "portable", "native"}
    assert available["reference"] is None
    monkeypatch.setenv("DETMEM_KERNEL", "reference")
    assert detmem.kernels()["forced"] == "reference"
    monkeypatch.setenv("DETMEM_KERNEL", "")
    assert detmem.kernels()["forced"] is None


@pytest.mark.parametrize("name", AVAILABLE)
def test_a_forced_kernel_serves_even_the_smallest_search(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from detmem import search

    asked = []
    nearest = search.nearest

    def watching(*arguments: Any) -> Any:
        asked.append(arguments[6])
        return nearest(*arguments)

    monkeypatch.setattr(search, "nearest", watching)
    monkeypatch.setenv("DETMEM_KERNEL", name)
    with detmem.open(":memory:") as db:
        assert fill(db).search([0, 0]).ids == ["a", "b", "c"]
    assert asked == [name]


# ----------------------------------------------------------------------------------------------- an interrupted write


class Interrupted(MemoryDisk):
    """A disk on which the user presses Ctrl-C in the given call of a file's method; a write is then half done."""

    def __init__(self) -> None:
        super().__init__()
        self.method, self.count = "", 0

    def interrupted(self, file: Any, method: str) -> Callable[..., None]:
        def call(data: bytes = b"", offset: int = 0) -> None:
            if method == "pwrite":
                file.pwrite(data[: len(data) // 2], offset)
            raise KeyboardInterrupt

        return call

    def open(self, name: str, *, write: bool = False, create: bool = False) -> Any:
        file, disk = super().open(name, write=write, create=create), self

        class Watched:
            def __getattr__(self, method: str) -> Any:
                if method == disk.method:
                    disk.count -= 1
                    if disk.count == 0:
                        disk.method = ""
                        return disk.interrupted(file, method)
                return getattr(file, method)

        return Watched()


@pytest.mark.parametrize("method, count", [("pwrite", 1), ("pwrite", 2), ("sync", 1)])
def test_an_interrupted_commit_never_forks_history(method: str, count: int) -> None:
    """A commit that may or may not be on the disk: the handle reads on, writes no more, and reopening decides."""
    disk = Interrupted()
    db = open_disk(disk)
    notes = fill(db)
    before = db.checkpoint()
    disk.method, disk.count = method, count
    with pytest.raises(KeyboardInterrupt):
        notes.add("d", [1, 1])
    assert db.checkpoint() == before
    assert list(notes) == ["a", "b", "c"]
    assert [entry.seq for entry in db.log()] == [1, 2]  # once the torn frame behind was looked at: LogDamaged
    with pytest.raises(detmem.StorePoisoned):
        notes.add("e", [2, 2])
    db.close()
    with open_disk(disk, expect=before) as again:
        assert again.seq in (before.seq, before.seq + 1)
        again["notes"].add("e", [2, 2])
        assert again.verify().ok
