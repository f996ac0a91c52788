"""The outside world: short writes, strange files, locks. Every refusal is typed, and nothing waits for ever."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

import detmem
from detmem.errors import DetmemError, FormatError, LockedError, StorageError, UsageError
from detmem.journal import disk as disk_module
from detmem.journal.disk import Disk, MemoryDisk, OsDisk
from tests.journal.stores import contents

posix = os.name == "posix"


@pytest.fixture(params=["os", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return MemoryDisk() if request.param == "memory" else OsDisk(str(tmp_path))


def make_store(path: Path) -> Any:
    with detmem.open(path) as database:
        notes = database.collection("notes", dim=2, metric="l2")
        notes.add("a", raw=[1, 2], documents="text")
        database.snapshot()
        notes.add("b", raw=[3, 4])
        return contents(database)


# ----------------------------------------------------------------------------------- what both implementations do alike


def test_what_was_written_is_read_back_at_any_offset(disk: Disk) -> None:
    file = disk.open("f", create=True)
    file.pwrite(b"hello", 0)
    file.pwrite(memoryview(b"world"), 3)
    file.pwrite(b"!", 10)  # a hole reads as zeros
    assert file.size() == 11
    assert file.pread(100, 0) == b"helworld\0\0!"
    assert file.pread(3, 9) == b"\0!"
    assert file.pread(3, 11) == b""
    file.truncate(3)
    assert file.pread(100, 0) == b"hel"
    file.sync()
    file.close()
    file.close()


def test_create_empties_open_needs_a_file(disk: Disk) -> None:
    disk.open("f", create=True).pwrite(b"old", 0)
    assert disk.open("f", create=True).size() == 0
    with pytest.raises(StorageError) as caught:
        disk.open("absent")
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(StorageError):
        disk.open("absent", write=True)


def test_listings_are_sorted_and_an_absent_folder_is_empty(disk: Disk) -> None:
    assert disk.list("log") == []
    disk.make_folder("log")
    disk.make_folder("log")
    for name in ("b", "a", "c.tmp"):
        disk.open(f"log/{name}", create=True).close()
    disk.rename("log/c.tmp", "log/b")
    disk.remove("log/a")
    disk.sync_folder("log")
    assert disk.list("log") == ["b"]
    assert disk.list("") == ["log"]


# ---------------------------------------------------------------------------------------------------------- OsDisk only


@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_short_writes_and_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    whole_write, whole_read = disk_module._pwrite, disk_module._pread
    monkeypatch.setattr(disk_module, "_pwrite", lambda fd, data, at: whole_write(fd, data[:at_once], at))
    monkeypatch.setattr(disk_module, "_pread", lambda fd, size, at: whole_read(fd, min(size, at_once), at))
    expected = make_store(tmp_path / "store")
    with detmem.open(tmp_path / "store", "r") as database:
        assert contents(database) == expected
        assert database.verify().ok
    monkeypatch.undo()
    with detmem.open(tmp_path / "store", "r") as database:
        assert contents(database) == expected


def test_a_write_that_writes_nothing_is_an_error_not_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = OsDisk(str(tmp_path)).open("f", create=True)
    monkeypatch.setattr(disk_module, "_pwrite", lambda fd, data, at: 0)
    with pytest.raises(StorageError, match="nothing was written"):
        file.pwrite(b"x", 0)


def test_an_error_of_the_system_names_call_and_file(tmp_path: Path) -> None:
    disk = OsDisk(str(tmp_path))
    with pytest.raises(StorageError, match="open failed") as caught:
        disk.open("absent")
    assert str(tmp_path / "absent") in str(caught.value)
    assert isinstance(caught.value, OSError)
    disk.open("f", create=True).pwrite(b"x", 0)
    file = disk.open("f")  # not for writing
    for call, what in ((lambda: file.pwrite(b"x", 0), "write"), (lambda: file.truncate(0), "truncate")):
        with pytest.raises(StorageError, match=f"{what} failed"):
            call()
    with pytest.raises(StorageError, match="rename failed"):
        disk.rename("absent", "g")
    with pytest.raises(StorageError, match="remove failed"):
        disk.remove("absent")


def strange(path: Path, kind: str) -> None:
    """Something that is no regular file (or, for a folder's name, no folder) where the store's own should stand."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(path.parent / "elsewhere")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text("text", encoding="ascii")


KINDS = ["fifo", "folder", "link", "loop", "device", "text"] if posix else ["folder", "text"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["HEAD", "LOCK", "segment", "snapshot"])
def test_something_else_in_place_of_a_file_is_refused_and_never_waited_for(
    tmp_path: Path, place: str, kind: str
) -> None:
    store = tmp_path / "store"
    make_store(store)
    folder = {"segment": "log", "snapshot": "snap"}.get(place)
    path = store / place if folder is None else sorted((store / folder).iterdir())[-1]
    path.unlink()
    strange(path, kind)
    for mode in ("r", "r+", "a"):
        if place == "LOCK" and (mode == "r" or kind == "text"):
            continue  # readers take no lock, and its text is only for people
        if place == "snapshot" and kind == "text":
            detmem.open(store, mode).close()  # a bad snapshot gives way to an older one or to the log
            continue
        with pytest.raises(DetmemError):
            detmem.open(store, mode)
    if place != "LOCK":
        if kind == "text":
            assert not detmem.verify(store).ok
        else:
            with pytest.raises(DetmemError):
                detmem.verify(store)


@pytest.mark.parametrize("kind", ["fifo", "loop", "text"] if posix else ["text"])
@pytest.mark.parametrize("place", ["log", "snap", "quarantine"])
def test_something_else_in_place_of_a_folder_is_refused(tmp_path: Path, place: str, kind: str) -> None:
    store = tmp_path / "store"
    make_store(store)
    (store / place).rename(tmp_path / "aside")
    strange(store / place, kind)
    with pytest.raises(DetmemError):
        detmem.open(store)
    if place != "quarantine":
        with pytest.raises(DetmemError):
            detmem.open(store, "r")


@pytest.mark.parametrize("kind", KINDS[:1] + KINDS[2:] if posix else ["text"])
def test_a_path_that_is_no_folder_is_refused(tmp_path: Path, kind: str) -> None:
    strange(tmp_path / "path", kind)
    for mode in ("r", "r+", "a", "x"):
        with pytest.raises(DetmemError):
            detmem.open(tmp_path / "path", mode)


@pytest.mark.parametrize("path", ["", "nul\0inside", 5, None, b"bytes"])
def test_a_path_that_is_no_text_is_refused(path: Any) -> None:
    with pytest.raises(UsageError, match="path"):
        detmem.open(path)


# ---------------------------------------------------------------------------------------------------------------- locks


def test_one_writer_and_the_second_hears_who_at_once(tmp_path: Path) -> None:
    expected = make_store(tmp_path / "store")
    with detmem.open(tmp_path / "store") as writer:
        for _ in range(3):
            with pytest.raises(LockedError, match=f"process {os.getpid()}") as caught:
                detmem.open(tmp_path / "store")
        assert isinstance(caught.value, OSError)
        with detmem.open(tmp_path / "store", "r") as reader:
            assert contents(reader) == contents(writer) == expected
        writer["notes"].add("c", raw=[5, 6])  # the refused ones took nothing away
    detmem.open(tmp_path / "store").close()


def test_a_reader_needs_no_lock_and_leaves_no_file(tmp_path: Path) -> None:
    expected = make_store(tmp_path / "store")
    (tmp_path / "store" / "LOCK").unlink()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")}
    with detmem.open(tmp_path / "store", "r") as reader:
        assert contents(reader) == expected
        assert reader.verify().ok
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")} == before


def test_a_reader_works_on_read_only_media(tmp_path: Path) -> None:
    expected = make_store(tmp_path / "store")
    everything = [tmp_path / "store", *(tmp_path / "store").rglob("*")]
    for path in everything:
        path.chmod(stat.S_IRUSR | (stat.S_IXUSR if path.is_dir() else 0))
    try:
        with detmem.open(tmp_path / "store", "r") as reader:
            assert contents(reader) == expected
    finally:
        for path in everything:
            path.chmod(stat.S_IRWXU)


HOLDER = """
import sys, detmem
database = detmem.open(sys.argv[1])
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_killed_holder_never_blocks(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "store")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=f"process {holder.pid} on "):
        detmem.open(tmp_path / "store")
    start = time.monotonic()
    with pytest.raises(LockedError):
        detmem.open(tmp_path / "store", lock_timeout=0.2)
    assert time.monotonic() - start >= 0.2
    holder.kill()
    holder.wait()
    for stream in (holder.stdin, holder.stdout):
        stream.close()
    with detmem.open(tmp_path / "store", lock_timeout=5.0) as database:
        assert database.seq == 3


def test_a_failed_open_lets_go_of_the_lock(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    head = (tmp_path / "store" / "HEAD").read_bytes()
    (tmp_path / "store" / "HEAD").unlink()
    with pytest.raises(DetmemError) as caught:
        detmem.open(tmp_path / "store")
    assert caught.value is not None  # its traceback is alive, and so are the frames of the failed open
    (tmp_path / "store" / "HEAD").write_bytes(head)
    detmem.open(tmp_path / "store").close()


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "1", None, True])
def test_a_lock_timeout_that_is_no_number_of_seconds(tmp_path: Path, timeout: Any) -> None:
    with pytest.raises(UsageError, match="lock_timeout"):
        detmem.open(tmp_path / "store", lock_timeout=timeout)
    assert not (tmp_path / "store").exists()


def test_a_newer_store_is_refused_by_the_door_and_the_lock_left_alone(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    lock = (tmp_path / "store" / "LOCK").read_bytes()
    head = bytearray((tmp_path / "store" / "HEAD").read_bytes())
    head[8:10] = (9).to_bytes(2, "little")
    head[136:140] = crc32(head[:136]).to_bytes(4, "little")
    (tmp_path / "store" / "HEAD").write_bytes(head)
    for mode in ("r", "r+", "a"):
        with pytest.raises(FormatError, match="format 9"):
            detmem.open(tmp_path / "store", mode)
    assert (tmp_path / "store" / "LOCK").read_bytes() == lock


def test_a_process_without_locks_still_refuses_its_own_second_writer(tmp_path, monkeypatch):
    """WebAssembly: neither fcntl nor msvcrt, and no other process to meet."""
    monkeypatch.setattr(disk_module, "fcntl", None)
    monkeypatch.setattr(disk_module, "msvcrt", None)
    first = OsDisk(str(tmp_path)).lock("LOCK", 0.0)
    with pytest.raises(LockedError, match="is being written by process"):
        OsDisk(str(tmp_path)).lock("LOCK", 0.0)
    other = OsDisk(str(tmp_path)).lock("OTHER", 0.0)
    first.close()
    again = OsDisk(str(tmp_path)).lock("LOCK", 0.0)
    again.close()
    other.close()
