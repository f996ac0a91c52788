"""tiles/ is a cache: absent, behind, torn, damaged or another history's, it is made anew, and proofs are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import detmem
from detmem import verifier
from detmem.errors import CorruptionError, LogDamaged, StorageError
from detmem.journal.disk import MemoryDisk
from detmem.journal.files import frames
from detmem.opening import open_disk
from tests.twin import TWIN


def store(commits: int, disk: MemoryDisk | None = None, **options: object) -> detmem.Database:
    db = open_disk(disk or MemoryDisk(), **options)  # type: ignore[arg-type]
    notes = db.collection("notes", dim=2, metric="l2")
    grow(db, commits)
    assert notes.dim == 2
    return db


def grow(db: detmem.Database, commits: int) -> None:
    for _ in range(commits):
        db["notes"].upsert([f"{db.seq % 7}", f"{db.seq % 5 + 10}"], raw=np.array([[db.seq, 1], [2, db.seq]]))


def tiles_of(disk: MemoryDisk) -> dict[str, bytes]:
    return {name: bytes(data) for name, data in disk.files.items() if name.startswith("tiles/")}


def leaves_of(db: detmem.Database) -> list[bytes]:
    joined = b"".join(frame.leaves for _, frame in frames(db._disk, 1, db.seq + 1))
    return [joined[at : at + 32] for at in range(0, len(joined), 32)]


def check(db: detmem.Database) -> None:
    """A record's proof and those of old state roots hold, and they are the twin's."""
    assert db.prove("notes", "1").verify(db.checkpoint()).ok
    leaves, end = leaves_of(db), 0
    for _, frame in frames(db._disk, 1, db.seq + 1):
        count = len(frame.operations)
        end += count + 1
        if frame.seq % 37 in (1, db.seq % 37):
            anchor = db._prover._anchor(db._prover._now(), frame.seq, frame.state_root, db.checkpoint())
            assert anchor is not None
            assert anchor == (count, end - 1, b"".join(TWIN.inclusion_path(leaves, end - 1)))


def test_writing_touches_no_tiles() -> None:
    disk = MemoryDisk()
    db = store(300, disk)
    db.snapshot()
    db.close()
    assert tiles_of(disk) == {}


def test_tiles_follow_the_log_and_let_go_of_their_earlier_forms() -> None:
    disk = MemoryDisk()
    db = store(3, disk)
    for commits in (0, 1, 80, 1, 90, 700):
        grow(db, commits)
        check(db)
        leaves = leaves_of(db)
        parts = [name for name in tiles_of(disk) if ".p/" in name]
        full, rest = divmod(len(leaves), 256)
        assert [name for name in parts if name.startswith("tiles/0/")] == [f"tiles/0/{full:03d}.p/{rest}"]
        assert tiles_of(disk)[f"tiles/0/{full:03d}.p/{rest}"] == b"".join(leaves[256 * full :])
        for number in range(full):
            assert tiles_of(disk)[f"tiles/0/{number:03d}"] == b"".join(leaves[256 * number : 256 * number + 256])


@pytest.mark.parametrize("segment_bytes", [1 << 26, 4096])
def test_another_handle_goes_on_from_the_stored_tiles(segment_bytes: int) -> None:
    """Over segment borders too, and without reading what is before the segment in which they end."""
    disk = MemoryDisk()
    with store(200, disk, segment_bytes=segment_bytes) as db:
        check(db)
    with open_disk(disk, segment_bytes=segment_bytes) as db:
        grow(db, 150)
        check(db)
    with open_disk(disk, segment_bytes=segment_bytes) as db:
        check(db)
        read = db._prover._tiles
        assert len(read._held) <= 8  # what the paths went through


def cut(data: bytearray) -> None:
    del data[len(data) // 2 :]


def flip(data: bytearray) -> None:
    data[len(data) // 3] ^= 1


def zero(data: bytearray) -> None:
    data[:] = bytes(len(data))


@pytest.mark.parametrize("harm", [cut, flip, zero])
def test_each_tile_may_be_damaged(harm: Callable[[bytearray], None]) -> None:
    disk = MemoryDisk()
    with store(400, disk) as db:
        check(db)
        right = tiles_of(disk)
    for name in right:
        harm(disk.files[name])
        with open_disk(disk) as db:
            check(db)
        disk.files.update({name: bytearray(data) for name, data in right.items()})


def test_tiles_of_a_lost_tail_are_made_anew() -> None:
    """A proof was asked, then the unacknowledged tail was lost and another history grew over its place."""
    disk = MemoryDisk()
    with store(100, disk) as db:
        before = {name: bytearray(data) for name, data in disk.files.items()}
        grow(db, 60)
        check(db)
        tiles = {name: bytearray(data) for name, data in disk.files.items() if name.startswith("tiles/")}
    disk.files = before | tiles  # the log as it was, with tiles that are ahead
    with open_disk(disk) as db:
        check(db)
    disk.files = {name: bytearray(data) for name, data in before.items()} | tiles
    with open_disk(disk) as db:
        for number in range(200):
            db["notes"].upsert("x", raw=[number, 0])
        check(db)


def test_strange_names_in_tiles_are_no_tiles() -> None:
    disk = MemoryDisk()
    with store(10, disk) as db:
        check(db)
    disk.files["tiles/0/readme"] = bytearray(b"hello")
    disk.files["tiles/0/000.p/999"] = bytearray(32 * 999)
    with open_disk(disk) as db:
        check(db)


def test_a_reader_writes_nothing_and_proves_the_same() -> None:
    disk = MemoryDisk()
    with store(300, disk) as db:
        expected = db.prove("notes", "1").encode()
    kept = {name: bytes(data) for name, data in disk.files.items()}
    for with_tiles in (True, False):
        if not with_tiles:
            for name in tiles_of(disk):
                del disk.files[name], kept[name]
        with open_disk(disk, write=False) as db:
            assert db.prove("notes", "1").encode() == expected
        assert {name: bytes(data) for name, data in disk.files.items()} == kept


def test_a_damaged_log_behind_no_tiles_is_said() -> None:
    disk = MemoryDisk()
    with store(20, disk) as db:
        disk.files["log/00000000000000000001.seg"][500] ^= 1
        with pytest.raises(LogDamaged):
            db.prove("notes", "1")
        with pytest.raises(CorruptionError):
            db.prove_consistency(db.checkpoint())


def test_a_disk_that_is_full_while_tiles_are_written_costs_the_proof_and_nothing_else() -> None:
    """At every call of the disk: the error is raised, the store writes on, and the next proof is right."""

    class Full(MemoryDisk):
        left = 1 << 30

        def rename(self, old: str, new: str) -> None:
            if new.startswith("tiles/"):
                self.left -= 1
                if self.left < 0:
                    raise StorageError(28, "rename failed: no space left", new)
            super().rename(old, new)

    for calls in range(6):
        disk = Full()
        with store(300, disk) as db:
            disk.left = calls
            if calls < 5:
                with pytest.raises(StorageError):
                    db.prove("notes", "1")
            grow(db, 5)
            disk.left = 1 << 30
            check(db)
        with open_disk(disk) as db:
            check(db)


def test_the_standalone_verifier_does_not_mind_tiles(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "s") as db:
        db.collection("notes", dim=2, metric="l2")
        grow(db, 20)
        check(db)
    assert (tmp_path / "s" / "tiles").is_dir()
    assert verifier.main(["store", str(tmp_path / "s")]) == 0
    assert detmem.verify(tmp_path / "s").ok
