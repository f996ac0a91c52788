"""What a write got when it returned, who may write, and how copies follow, save and mend a store."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import detmem
from detmem.database import Database
from detmem.exchange import export, export_log
from detmem.history import repair, salvage
from detmem.journal import disk as disk_module
from detmem.journal.disk import MemoryDisk, OsDisk
from detmem.journal.head import Head, HeadFile
from detmem.opening import open_disk

POLICIES = ["paranoid", "always", "group:1", "interval:5", "os"]
SMALL_SEGMENT = 1000


def filled(path: Path, count: int = 30, **options: object) -> Database:
    """A writer with several segments behind it."""
    path.mkdir()
    db = open_disk(OsDisk(str(path)), segment_bytes=SMALL_SEGMENT, **options)  # type: ignore[arg-type]
    collection = db.collection("notes", dim=3)
    for number in range(count):
        collection.add(str(number), [1, number, 2], documents=f"text {number}")
    return db


class CountingDisk(MemoryDisk):
    """Counts syncs by file, and pretends to last."""

    durable = True

    def __init__(self) -> None:
        super().__init__()
        self.syncs: dict[str, int] = {}
        self.fail: Callable[[str], None] = lambda name: None

    def open(self, name: str, *, write: bool = False, create: bool = False):  # type: ignore[no-untyped-def]
        file = super().open(name, write=write, create=create)
        disk = self

        class Counting:
            def __getattr__(self, attribute: str) -> object:
                return getattr(file, attribute)

            def sync(self) -> None:
                disk.fail(name)
                disk.syncs[name.split("/")[0]] = disk.syncs.get(name.split("/")[0], 0) + 1

        return Counting()


# ------------------------------------------------------------------------------------------------------------- policies


@pytest.mark.parametrize(
    ("policy", "log_syncs", "head_syncs", "durable"),
    [("paranoid", 1, 1, True), ("always", 1, 0, True), ("group:1", 1, 0, True), ("os", 0, 0, False)],
)
def test_a_policy_syncs_what_it_says_and_the_commit_says_what_it_got(
    policy: str, log_syncs: int, head_syncs: int, durable: bool
) -> None:
    disk = CountingDisk()
    db = open_disk(disk, durability=policy)
    collection = db.collection("notes", dim=2)
    before = dict(disk.syncs)
    for number in range(10):
        commit = collection.add(str(number), [1, number])
        assert commit is not None
        assert commit.durable is durable
    assert disk.syncs["log"] - before["log"] == 10 * log_syncs
    assert disk.syncs["HEAD"] - before["HEAD"] == 10 * head_syncs


def test_interval_syncs_in_the_background() -> None:
    disk = CountingDisk()
    arrived = threading.Event()
    db = open_disk(disk, durability="interval:1")
    before = disk.syncs["log"]
    disk.fail = lambda name: arrived.set() if name.startswith("log") else None
    commit = db.collection("notes", dim=2).add("a", [1, 2])
    assert commit is not None
    assert commit.durable is False
    assert arrived.wait(10)
    db.close()
    assert disk.syncs["log"] > before


def test_a_failed_background_sync_poisons_the_next_write() -> None:
    disk = CountingDisk()
    failed = threading.Event()

    def fail(name: str) -> None:
        if name.startswith("log"):
            failed.set()
            raise detmem.StorageError(5, "sync failed", name)

    db = open_disk(disk, durability="interval:1")
    collection = db.collection("notes", dim=2)
    disk.fail = fail
    while True:  # the write that raises is the first one behind the failure
        try:
            collection.add(str(db.seq), [1, 2])
        except detmem.StorePoisoned:
            break
    assert failed.is_set()
    assert len(collection) == db.seq - 1


def test_a_handle_dropped_unclosed_writes_no_more_once_another_writer_can_come(tmp_path: Path) -> None:
    """Once, the background thread of ``interval`` kept the journal of such a handle without its lock, and wrote an old
    HEAD over the next writer's: what was then cut off behind it was no longer missed, whatever the policy."""
    syncing, go_on = threading.Event(), threading.Event()
    go_on.set()

    class Slow(OsDisk):
        def open(self, name: str, *, write: bool = False, create: bool = False):  # type: ignore[no-untyped-def]
            file = super().open(name, write=write, create=create)
            sync = file.sync

            def slowly() -> None:
                syncing.set()
                assert go_on.wait(30)
                sync()

            file.sync = slowly  # type: ignore[method-assign]
            return file

    root = tmp_path / "store"
    root.mkdir()

    def leave_behind(durability: str) -> None:
        db = open_disk(Slow(str(root)), durability=durability)
        syncing.clear()
        go_on.clear()
        db.collection(f"notes {db.seq}", dim=2)

    leave_behind("interval:1")
    assert syncing.wait(30)  # in the midst of its sync it still holds the lock
    gc.collect()
    with pytest.raises(detmem.LockedError):
        detmem.open(root)
    go_on.set()
    with detmem.open(root, lock_timeout=30) as db:
        assert db.seq == 1
    leave_behind("interval:500")
    go_on.set()
    gc.collect()
    with detmem.open(root, durability="paranoid") as db:
        db.collection("others", dim=2)
        before = (root / "HEAD").read_bytes()
        for thread in threading.enumerate():
            if thread.name == "detmem interval":
                thread.join()
        assert (root / "HEAD").read_bytes() == before


def test_group_lets_concurrent_writers_share_a_sync() -> None:
    disk = CountingDisk()
    db = open_disk(disk, durability="group:20")
    collection = db.collection("notes", dim=2)
    before = disk.syncs["log"]
    start = threading.Barrier(8)

    def write(writer: int) -> None:
        start.wait()
        for number in range(5):
            commit = collection.add(f"{writer}-{number}", [writer + 1, number])
            assert commit is not None
            assert commit.durable

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(collection) == 40
    assert disk.syncs["log"] - before < 40


def test_a_failed_group_sync_acknowledges_to_nobody() -> None:
    disk = CountingDisk()
    db = open_disk(disk, durability="group:20")
    collection = db.collection("notes", dim=2)

    def fail(name: str) -> None:
        if name.startswith("log"):
            raise detmem.StorageError(5, "sync failed", name)

    disk.fail = fail
    outcomes: list[type[BaseException] | None] = []

    def write(writer: int) -> None:
        try:
            collection.add(str(writer), [1, writer])
            outcomes.append(None)
        except detmem.StorageError as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 4
    assert None not in outcomes


def test_a_batch_whose_group_sync_failed_has_no_commit() -> None:
    """Once, its handle had one by then, and that said durable."""
    disk = CountingDisk()
    db = open_disk(disk, durability="group:1")
    collection = db.collection("notes", dim=2)

    def fail(name: str) -> None:
        raise detmem.StorageError(5, "sync failed", name)

    disk.fail = fail
    with pytest.raises(detmem.StorageError, match="sync failed"), db.batch() as batch:
        collection.add("a", [1, 2])
    assert batch.commit is None


def test_a_failed_background_sync_that_nobody_was_told_of_is_told_when_the_store_is_closed() -> None:
    """Once, a program whose last write came before the failure ended as if everything had reached the disk."""
    disk = CountingDisk()
    db = open_disk(disk, durability="interval:1")

    def fail(name: str) -> None:
        raise detmem.StorageError(5, "sync failed", name)

    disk.fail = fail
    db.collection("notes", dim=2)
    for thread in threading.enumerate():
        if thread.name == "detmem interval":
            thread.join(30)
    with pytest.raises(detmem.StorePoisoned, match="sync failed.*log/"):
        db.close()
    db.close()
    told = open_disk(CountingDisk(), durability="interval:1")
    told._disk.fail = fail  # type: ignore[attr-defined]
    with pytest.raises(detmem.StorePoisoned):
        while True:
            told.collection(f"c{told.seq}", dim=2)
    told.close()  # a write has raised it already


@pytest.mark.parametrize(
    "seconds", [pytest.param(10**400, id="1e400"), float("inf"), float("nan"), -1, True, "1", None]
)
def test_a_lock_timeout_that_no_clock_reaches_is_refused_and_nothing_is_made(seconds: object, tmp_path: Path) -> None:
    with pytest.raises(detmem.UsageError, match="lock_timeout"):
        detmem.open(tmp_path / "store", lock_timeout=seconds)  # type: ignore[arg-type]
    assert not (tmp_path / "store").exists()


def test_a_time_beyond_the_longest_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    for policy in ("interval:100000", "group:0.0001"):
        with pytest.raises(detmem.UsageError, match=r"below 100000.*three decimals"):
            detmem.open(tmp_path / "store", durability=policy)


@pytest.mark.parametrize(
    "policy", ["", "never", "group", "group:0", "group:-1", "interval:", "interval:x", 5, None, "os:1"]
)
def test_an_unknown_policy_is_refused_and_nothing_is_made(policy: object, tmp_path: Path) -> None:
    with pytest.raises(detmem.UsageError, match="durability"):
        detmem.open(tmp_path / "store", durability=policy)  # type: ignore[arg-type]
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("policy", POLICIES)
def test_links_and_roots_do_not_depend_on_the_policy(policy: str, tmp_path: Path) -> None:
    with filled(tmp_path / "a", durability=policy) as db, filled(tmp_path / "b", durability="always") as other:
        assert db.checkpoint() == other.checkpoint()
        assert db.head == other.head
    assert detmem.verify(tmp_path / "a").ok


@pytest.mark.parametrize("policy", POLICIES)
def test_kill_minus_nine_loses_nothing_that_was_acknowledged(policy: str, tmp_path: Path) -> None:
    program = (
        "import detmem, sys\n"
        f"db = detmem.open({str(tmp_path / 'store')!r}, durability={policy!r})\n"
        "notes = db.collection('notes', dim=2)\n"
        "for number in range(10**6):\n"
        "    print(notes.add(str(number), [1, number % 100]).seq, flush=True)\n"
    )
    root = Path(__file__).resolve().parent.parent
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=root) as child:
        assert child.stdout is not None
        for line in child.stdout:
            acknowledged = int(line)
            if acknowledged >= 40:
                child.kill()
                break
        rest = child.stdout.read().split()
    acknowledged = int(rest[-1]) if rest else acknowledged
    with detmem.open(tmp_path / "store") as db:
        assert db.seq >= acknowledged
        assert db.verify().ok


# -------------------------------------------------------------------------------------------------------- who may write


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("policy", POLICIES)
def test_a_forked_child_reads_on_and_cannot_write(policy: str, tmp_path: Path) -> None:
    db = filled(tmp_path / "store", 3, durability=policy)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        outcome = "wrote"
        try:
            db["notes"].add("child", [1, 2, 3])
        except detmem.StorePoisoned:
            outcome = f"refused, {len(db['notes'])} records"
        db.close()
        sender.send(outcome)
        os._exit(0)
    assert receiver.recv() == "refused, 3 records"
    os.waitpid(child, 0)
    with pytest.raises(detmem.LockedError, match=str(os.getpid())):
        detmem.open(tmp_path / "store")  # the child's end has not let go of the parent's lock
    assert db["notes"].add("parent", [1, 2, 3]) is not None
    db.close()
    assert detmem.verify(tmp_path / "store").ok


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_handle_that_fails_in_the_child_leaves_no_other_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, the first handle whose lock could not be closed in the child kept the later ones from being disowned."""
    first, second = filled(tmp_path / "first", 1), filled(tmp_path / "second", 1)
    assert first._lock is not None
    monkeypatch.setattr(first._lock, "close", lambda: exec("raise OSError('injected')"))
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        try:
            second["notes"].add("child", [1, 2, 3])
            sender.send("wrote")
        except detmem.StorePoisoned:
            sender.send("refused")
        os._exit(0)
    assert receiver.recv() == "refused"
    os.waitpid(child, 0)
    monkeypatch.undo()
    first.close()
    second.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_child_that_outlives_its_parent_does_not_keep_the_lock(tmp_path: Path) -> None:
    db = filled(tmp_path / "store", 3)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        sender.close()
        receiver.poll(60)  # live on until told, or until the other end is gone
        os._exit(0)
    receiver.close()
    db.close()
    with detmem.open(tmp_path / "store") as again:
        assert len(again["notes"]) == 3
    sender.send(None)
    os.waitpid(child, 0)


def test_of_two_that_create_at_once_only_one_has_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both had looked and found nothing; then one made the store, wrote, and closed, and the other, in mode "x", opened
    it as if it were its own."""
    make_root = OsDisk.make_root

    def after_the_other(disk: OsDisk, *, new: bool) -> None:
        monkeypatch.undo()
        with detmem.open(tmp_path / "store", "x") as other:
            other.collection("theirs", dim=2)
        make_root(disk, new=new)

    monkeypatch.setattr(OsDisk, "make_root", after_the_other)
    with pytest.raises(detmem.StoreExistsError, match="exists already"):
        detmem.open(tmp_path / "store", "x")
    with detmem.open(tmp_path / "store", "r") as db:
        assert db.collections() == ["theirs"]


# ------------------------------------------------------------------------------------------------------ readers, copies


def test_a_reader_follows_a_live_writer_over_segments_and_snapshots(tmp_path: Path) -> None:
    writer = filled(tmp_path / "store", 3)
    with writer, detmem.open(tmp_path / "store", "r") as reader:
        for round in range(4):
            for number in range(7):
                writer["notes"].add(f"{round}-{number}", [1, 2, number])
            if round == 1:
                writer.snapshot()
            seen = reader.seq
            assert len(reader["notes"]) == seen - 1
            assert reader.refresh() == writer.seq
            assert reader.checkpoint() == writer.checkpoint()
            query = np.array([1.0, 2.0, 3.0])
            assert reader["notes"].search(query).ids == writer["notes"].search(query).ids
        assert reader.refresh() == writer.seq


def test_a_store_without_a_segment_has_an_empty_log(tmp_path: Path) -> None:
    """A writer that is killed behind its HEAD and before its first segment leaves a store that a reader opens.  Asked
    for its log, it raised a ``ValueError``, and so did salvage."""
    detmem.open(tmp_path / "store").close()
    for segment in segments(tmp_path / "store"):
        segment.unlink()
    disk = OsDisk(str(tmp_path / "store"))
    HeadFile.create(disk, Head(b"store of a test.")).close()
    with detmem.open(tmp_path / "store", "r") as reader:
        assert (reader.seq, list(reader.log())) == (0, [])
    assert salvage(tmp_path / "store", tmp_path / "saved").checkpoint.seq == 0


def test_a_reader_sees_only_what_is_durable(tmp_path: Path) -> None:
    with filled(tmp_path / "store", 3, durability="os") as writer, detmem.open(tmp_path / "store", "r") as reader:
        durable = reader.seq
        writer["notes"].add("unsynced", [1, 2, 3])
        assert reader.refresh() == durable
        writer.snapshot()  # rotates, and so syncs
        assert reader.refresh() == writer.seq


def test_a_reader_whose_store_was_replaced_says_so(tmp_path: Path) -> None:
    filled(tmp_path / "store", 3).close()
    with detmem.open(tmp_path / "store", "r") as reader:
        shutil.rmtree(tmp_path / "store")
        filled(tmp_path / "store", 5).close()
        with pytest.raises(detmem.LogDamaged, match="another store"):
            reader.refresh()


@pytest.mark.parametrize("mode", ["writer", "reader"])
def test_a_backup_beside_a_live_writer_is_the_store_at_one_seq(mode: str, tmp_path: Path) -> None:
    with filled(tmp_path / "store", 10) as writer:
        writer.snapshot()
        writer["notes"].add("behind the snapshot", [3, 2, 1])
        with detmem.open(tmp_path / "store", "r") as reader:
            writer["notes"].add("behind the reader", [3, 2, 1])
            source = writer if mode == "writer" else reader
            checkpoint = source.backup(tmp_path / "copy")
            assert checkpoint == source.checkpoint()
    with detmem.open(tmp_path / "copy", expect=checkpoint) as copy:
        assert copy.checkpoint() == checkpoint
        assert copy.recovery is None
        copy["notes"].add("goes its own way", [1, 1, 1])
    assert detmem.verify(tmp_path / "copy", expect=checkpoint).ok


def test_a_reader_does_not_look_at_the_lock(tmp_path: Path) -> None:
    """It takes none, so it needs none: LOCK may be another's that it cannot read, or gone."""
    filled(tmp_path / "store").close()
    lock = tmp_path / "store" / "LOCK"
    lock.unlink()
    lock.mkdir()
    with detmem.open(tmp_path / "store", "r") as db:
        assert len(db["notes"]) == 30
    assert detmem.verify(tmp_path / "store").ok
    with pytest.raises(detmem.DetmemError, match="LOCK"):
        detmem.open(tmp_path / "store")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc to count in")
@pytest.mark.parametrize("call", ["_sync", "_pwrite"])
@pytest.mark.parametrize("torn", [False, True])
def test_an_open_that_fails_leaves_no_file_open_though_its_error_is_kept(
    call: str, torn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path / "store").close()
    original, kept = getattr(disk_module, call), []
    real = sorted(os.listdir("/proc/self/fd"))
    for number in range(1, 30):
        if torn:
            segment = segments(tmp_path / "store")[-1]
            segment.write_bytes(segment.read_bytes() + b"torn")
        left = number

        def failing(*asked: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.EIO, "failed")
            return original(*asked)

        monkeypatch.setattr(disk_module, call, failing)
        try:
            opened = detmem.open(tmp_path / "store")
        except detmem.StorageError as error:
            kept.append(error)
        else:
            monkeypatch.undo()
            opened.close()
            break
        monkeypatch.undo()
        assert sorted(os.listdir("/proc/self/fd")) == real
    assert len(kept) >= 3
    with detmem.open(":memory:") as ahead:
        for number in range(50):
            ahead.collection(str(number), dim=2)
        with pytest.raises(detmem.Divergence) as refused:
            detmem.open(tmp_path / "store", expect=ahead.checkpoint())
    assert sorted(os.listdir("/proc/self/fd")) == real
    assert refused.value.__traceback__ is not None


def test_an_open_that_cannot_say_who_holds_the_lock_does_not_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, on a full disk, the error kept the lock: who made room in its handler met "another writer", himself."""
    filled(tmp_path / "store").close()
    write = disk_module._pwrite

    def full(fd: int, data: bytes | memoryview, offset: int, /) -> int:
        if bytes(data).startswith(b"process"):
            raise OSError(errno.ENOSPC, "no space")
        return write(fd, data, offset)

    monkeypatch.setattr(disk_module, "_pwrite", full)
    with pytest.raises(detmem.StorageError, match="LOCK") as kept:
        detmem.open(tmp_path / "store")
    monkeypatch.undo()
    assert kept.value.errno == errno.ENOSPC
    with detmem.open(tmp_path / "store") as db:
        assert len(db["notes"]) == 30


def test_a_copy_of_a_store_cannot_lie_in_it(tmp_path: Path) -> None:
    """The next copy would not know what to do with the one before."""
    with filled(tmp_path / "store", 3) as db:
        inside = tmp_path / "store" / "copies" / "today"
        before = sorted((tmp_path / "store").rglob("*"))
        writing = (db.backup, db.archive, lambda dest: detmem.replay(db, dest))
        for copying in (*writing, lambda dest: export(db, dest), lambda dest: export_log(db, dest)):
            with pytest.raises(detmem.UsageError, match="lies in the store itself"):
                copying(inside)
        with pytest.raises(detmem.UsageError, match="lies in the store itself"):
            salvage(tmp_path / "store", str(inside))
        assert sorted((tmp_path / "store").rglob("*")) == before
        assert detmem.replay(db, ":memory:") == db.checkpoint()


def test_a_backup_needs_a_new_directory(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    with filled(tmp_path / "store", 3) as db, pytest.raises(FileExistsError):
        db.backup(tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []


# ------------------------------------------------------------------------------------------------------ salvage, repair


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def segments(path: Path) -> list[Path]:
    return sorted((path / "log").glob("*.seg"))


def test_salvage_takes_the_longest_good_prefix_and_says_what_is_lost(tmp_path: Path) -> None:
    with filled(tmp_path / "store") as db:
        seq = db.seq
    bad = segments(tmp_path / "store")[3]
    flip(bad, 300)
    first_bad = detmem.verify(tmp_path / "store").first_bad_seq
    assert first_bad is not None
    found = salvage(tmp_path / "store", tmp_path / "saved")
    assert found.checkpoint.seq == first_bad - 1
    assert found.last_known_seq == seq
    assert found.reason is not None
    assert bad.name in found.reason
    assert f"acknowledged were {seq}" in found.reason
    assert detmem.verify(tmp_path / "saved", expect=found.checkpoint).ok


def test_salvage_without_head_takes_everything_and_claims_nothing(tmp_path: Path) -> None:
    """Once it said that nothing was lost, though the log had been cut between two commits."""
    with filled(tmp_path / "store") as db:
        checkpoint = db.checkpoint()
    (tmp_path / "store" / "HEAD").unlink()
    found = salvage(tmp_path / "store", tmp_path / "saved")
    assert found.checkpoint == checkpoint
    assert found.reason is not None
    assert "HEAD is missing or unreadable" in found.reason


def test_salvage_names_the_segment_whose_header_is_bad(tmp_path: Path) -> None:
    with filled(tmp_path / "store"):
        pass
    bad = segments(tmp_path / "store")[2]
    flip(bad, 20)
    found = salvage(tmp_path / "store", tmp_path / "saved")
    assert found.reason is not None
    assert found.reason.startswith(f"log/{bad.name}, offset 0: ")
    with detmem.open(tmp_path / "saved", "r") as saved:
        assert saved.seq == int(bad.stem) - 1


@pytest.mark.parametrize("copy_is", ["a backup", "a replay with other segments"])
@pytest.mark.parametrize("damage", ["flip", "header", "remove", "truncate", "last"])
def test_repair_writes_a_damaged_segment_anew_from_a_copy(copy_is: str, damage: str, tmp_path: Path) -> None:
    with filled(tmp_path / "store") as db:
        if copy_is == "a backup":
            db.backup(tmp_path / "copy")
        checkpoint = db.checkpoint()
    if copy_is != "a backup":
        detmem.replay(tmp_path / "store", tmp_path / "copy")
    files = segments(tmp_path / "store")
    assert len(files) > 5
    if damage == "flip":
        flip(files[2], 300)
    elif damage == "header":
        flip(files[2], 20)
    elif damage == "remove":
        files[2].unlink()
    elif damage == "truncate":
        os.truncate(files[2], 200)
    else:
        flip(files[-1], 200)
    assert not detmem.verify(tmp_path / "store").ok
    done = repair(tmp_path / "store", tmp_path / "copy")
    assert len(done.segments) == 1
    assert detmem.verify(tmp_path / "store", expect=checkpoint) == detmem.Report(
        True, checkpoint.seq, checkpoint.state_root
    )
    with detmem.open(tmp_path / "store", expect=checkpoint) as db:
        assert db.checkpoint() == checkpoint


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_repair_brings_back_the_last_segments_when_several_are_gone(kept: int, tmp_path: Path) -> None:
    """Once, all went into one segment, HEAD still named one that was not there, and repairing again did nothing."""
    with filled(tmp_path / "store") as db:
        db.backup(tmp_path / "copy")
        checkpoint = db.checkpoint()
    for path in segments(tmp_path / "store")[kept:]:
        path.unlink()
    repair(tmp_path / "store", tmp_path / "copy")
    assert detmem.verify(tmp_path / "store", expect=checkpoint).ok
    with detmem.open(tmp_path / "store") as db:
        assert db.checkpoint() == checkpoint


def test_repair_refuses_a_copy_of_another_history_and_changes_nothing(tmp_path: Path) -> None:
    filled(tmp_path / "store").close()
    with filled(tmp_path / "other", 29) as other:
        other["notes"].add("elsewhere", [1, 2, 3])
    flip(segments(tmp_path / "store")[-1], 200)
    before = {path.name: path.read_bytes() for path in segments(tmp_path / "store")}
    with pytest.raises(detmem.LogDamaged, match="another history"):
        repair(tmp_path / "store", tmp_path / "other")
    assert {path.name: path.read_bytes() for path in segments(tmp_path / "store")} == before


def test_repair_lists_no_folder_for_each_segment(tmp_path: Path, listed: list[str]) -> None:
    """It took time with the square of the number of segments."""
    counts = []
    for count in (4, 12):
        path, copied = tmp_path / f"{count}", tmp_path / f"copy of {count}"
        path.mkdir()
        with open_disk(OsDisk(str(path)), segment_bytes=1, durability="os") as db:
            for number in range(count):
                db.collection(f"c{number}", dim=1)
        shutil.copytree(path, copied)
        name = path / "log" / "00000000000000000002.seg"
        name.write_bytes(name.read_bytes()[:-1])
        listed.clear()
        assert len(repair(path, copied).segments) == 1
        counts.append(len(listed))
    assert counts[0] == counts[1]


def test_repair_of_a_sound_store_does_nothing(tmp_path: Path) -> None:
    with filled(tmp_path / "store") as db:
        db.backup(tmp_path / "copy")
    done = repair(tmp_path / "store", tmp_path / "copy")
    assert (done.segments, done.quarantined) == ((), ())
