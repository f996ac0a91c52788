"""Many records in one call are the same records one by one: the same log, the same roots, the same refusals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import detmem
from detmem.errors import DetmemError, DimensionError, DuplicateIdError, RangeError, StorageError, UsageError
from detmem.journal import disk, frame
from tests.journal.stores import identity

COUNT, DIM = 300, 24


def records(count: int = COUNT) -> tuple[list[str], np.ndarray, list[Any], list[Any]]:
    rng = np.random.default_rng(20260404)
    vectors = rng.standard_normal((count, DIM)).astype(np.float32)
    metadatas = [None if n % 7 == 0 else {"number": n, "kind": "x" * (n % 5), "tags": ["a", n]} for n in range(count)]
    documents = [None if n % 3 == 0 else f"document {n} é" for n in range(count)]
    return [f"record {n}" for n in range(count)], vectors, metadatas, documents


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("write", ["add", "upsert"])
def test_one_call_is_one_batch_of_single_calls(tmp_path: Path, metric: str, write: str) -> None:
    ids, vectors, metadatas, documents = records()
    seen = []
    for way in ("one call", "one by one", "two calls"):
        with identity(), detmem.open(tmp_path / way, durability="os") as db:
            notes = db.collection("notes", dim=DIM, metric=metric)
            with db.batch():
                step = {"one call": COUNT, "one by one": 1, "two calls": 200}[way]
                for at in range(0, COUNT, step):
                    part = slice(at, at + step)
                    columns = {"metadatas": metadatas[part], "documents": documents[part]}
                    getattr(notes, write)(ids[part], vectors[part], **columns)
            live = shown(db)
        with detmem.open(tmp_path / way, "r") as db:  # replayed
            assert shown(db) == live
        assert detmem.verify(tmp_path / way).ok
        seen.append((live, [file.read_bytes() for file in sorted((tmp_path / way / "log").iterdir())]))
    assert seen[0] == seen[1] == seen[2]


def shown(db: detmem.Database) -> tuple[str, str, str]:
    found = db["notes"].get(include=("metadatas", "documents", "raw"))
    assert len(found.ids) == COUNT
    return str(db.checkpoint()), db.head, repr((found.ids, found.metadatas, found.documents, found.raw.tolist()))


def test_documents_and_metadata_come_back_as_they_went_in(tmp_path: Path) -> None:
    ids, vectors, metadatas, documents = records()
    with detmem.open(tmp_path / "store") as db:
        notes = db.collection("notes", dim=DIM, metric="l2")
        notes.add(ids, vectors, metadatas=metadatas, documents=documents)
        found = notes.get(ids, include=("metadatas", "documents", "raw"))
    assert found.metadatas == [one or {} for one in metadatas]
    assert found.documents == documents
    assert np.array_equal(found.raw, detmem.quantize(vectors))


@pytest.fixture
def notes() -> Iterator[detmem.Collection]:
    with detmem.open(":memory:") as db:
        notes = db.collection("notes", dim=DIM)
        notes.add("record 5", np.ones(DIM))
        yield notes


def changed(column: list[Any], at: int, value: object) -> list[Any]:
    return [*column[:at], value, *column[at + 1 :]]


def test_each_refusal_names_its_row_and_changes_nothing(notes: detmem.Collection) -> None:
    ids, vectors, metadatas, documents = records(100)
    ids = [f"new {id}" for id in ids]
    zero, nan = vectors.copy(), vectors.copy()
    zero[40], nan[41, 3] = 0, np.nan
    before = str(notes._database.checkpoint())
    cases: list[tuple[type[DetmemError], str, tuple[Any, Any, Any, Any]]] = [
        (DuplicateIdError, "'record 5' exists already", (changed(ids, 60, "record 5"), vectors, metadatas, documents)),
        (
            DuplicateIdError,
            r"ids\[61\]: 'new record 3' stands at ids\[3\]",
            (changed(ids, 61, ids[3]), vectors, None, None),
        ),
        (UsageError, r"ids\[62\]: expected 1..512", (changed(ids, 62, ""), vectors, None, None)),
        (UsageError, r"ids\[62\]: expected str", (changed(ids, 62, 7), vectors, None, None)),
        (UsageError, r"ids\[63\]: .*surrogate", (changed(ids, 63, "\ud800"), vectors, None, None)),
        (RangeError, "vector 40 is zero", (ids, zero, None, None)),
        (RangeError, "vector 41, column 3", (ids, nan, None, None)),
        (DimensionError, "expected 100, one for each id, found 99", (ids, vectors[:99], None, None)),
        (UsageError, r"metadatas\[77\]\['a'\]: .*tuple", (ids, vectors, changed(metadatas, 77, {"a": ()}), documents)),
        (UsageError, r"metadatas\[78\]\['a'\]: .*64 bits", (ids, vectors, changed(metadatas, 78, {"a": 2**63}), None)),
        (UsageError, r"documents\[79\]: expected str or None", (ids, vectors, metadatas, changed(documents, 79, 7))),
        (UsageError, r"documents\[80\]: .*surrogate", (ids, vectors, metadatas, changed(documents, 80, "\udfff"))),
    ]
    for error, message, (names, matrix, maps, texts) in cases:
        with pytest.raises(error, match=message):
            notes.add(names, matrix, metadatas=maps, documents=texts)
        assert str(notes._database.checkpoint()) == before
        assert list(notes) == ["record 5"]
    notes.add(ids, vectors, metadatas=metadatas, documents=documents)


def test_a_bulk_write_inside_a_batch_is_seen_by_what_comes_after_it(notes: detmem.Collection) -> None:
    ids, vectors, metadatas, documents = records(100)
    with notes._database.batch():
        notes.upsert(ids, vectors, metadatas=metadatas, documents=documents)
        with pytest.raises(DuplicateIdError):
            notes.add(ids, vectors)
        notes.update("record 9", metadatas={"number": -1})
        notes.delete(where={"number": {"$gte": 90}})
        assert len(notes) == 1  # readers see the committed state
    assert len(notes) == 100 - sum(n % 7 != 0 for n in range(90, 100))
    assert notes.get("record 9").metadatas == [{**metadatas[9], "number": -1}]


def test_a_bulk_write_that_the_disk_refuses_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame is written in blocks; a failure in the second leaves a torn tail that the next open cuts off."""
    ids, vectors, metadatas, documents = records()
    monkeypatch.setattr(frame, "_BLOCK_BYTES", 5000)
    whole = disk._OsFile.pwrite
    blocks: list[int] = []

    def failing(self: Any, data: bytes, offset: int) -> None:
        if len(data) > 1000:
            blocks.append(len(data))
            if len(blocks) == 3:
                raise StorageError(28, "write failed: no space", "log")
        whole(self, data, offset)

    with detmem.open(tmp_path / "store") as db:
        notes = db.collection("notes", dim=DIM)
        before = str(db.checkpoint())
        monkeypatch.setattr(disk._OsFile, "pwrite", failing)
        with pytest.raises(StorageError):
            notes.add(ids, vectors, metadatas=metadatas, documents=documents)
        monkeypatch.setattr(disk._OsFile, "pwrite", whole)
        assert len(notes) == 0
        with pytest.raises(StorageError):
            notes.add(ids, vectors)
    with detmem.open(tmp_path / "store") as db:
        assert db.recovery is not None
        assert str(db.checkpoint()) == before
        db["notes"].add(ids, vectors, metadatas=metadatas, documents=documents)
        assert len(db["notes"]) == COUNT


def test_a_small_add_imports_no_numba(tmp_path: Path) -> None:
    program = (
        "import sys, detmem\n"
        f"db = detmem.open({str(tmp_path / 'store')!r})\n"
        "notes = db.collection('notes', dim=3)\n"
        "notes.add('a', [1, 2, 3])\n"
        "notes.add([str(n) for n in range(100)], [[1.0, 2, n] for n in range(100)])\n"
        "db.close()\n"
        "assert 'numba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
