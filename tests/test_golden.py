"""Stores that were written once, by the twin and from the pages alone, and that every later version opens."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import detmem

GOLDEN = Path(__file__).resolve().parent.parent / "spec" / "vectors" / "golden"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A copy, so that no test can touch what is kept."""
    return Path(shutil.copytree(GOLDEN / "store-2", tmp_path / "store-2"))


def checkpoint() -> detmem.Checkpoint:
    return detmem.Checkpoint.parse((GOLDEN / "store-2.checkpoint").read_text(encoding="ascii"))


@pytest.mark.parametrize("mode", ["r", "r+", "a"])
def test_a_golden_store_opens_to_its_checkpoint(store: Path, mode: str) -> None:
    with detmem.open(store, mode, expect=checkpoint()) as db:
        assert db.checkpoint() == checkpoint()
        assert db.recovery is None
        assert db.collections() == ["notes", "people", "sketches"]
        notes = db["notes"]
        assert list(notes) == ["b", "é"]
        records = notes.get(include=["metadatas", "documents", "raw"])
        assert records.metadatas == [{"kind": "semantic"}, {"tags": ["x", None]}]
        assert records.documents == [None, ""]
        assert records.raw is not None
        assert records.raw[0].tolist() == [3, 4, 5]
        assert list(db["people"]) == ["bob"]
        assert db["notes"].neighbors("é") == [detmem.Link("é", "about", ("people", "bob"))]
        hit = db["sketches"].search([1.5, -0.25], k=1)[0]
        assert (hit.id, hit.raw, hit.distance) == ("s", 0, 0.0)


def test_a_golden_store_verifies_at_both_levels(store: Path) -> None:
    for level in ("chain", "replay"):
        report = detmem.verify(store, level=level, expect=checkpoint())
        assert report == detmem.Report(True, checkpoint().seq, checkpoint().state_root)


def test_reading_a_golden_store_changes_no_byte(store: Path) -> None:
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    with detmem.open(store, "r") as db:
        db["notes"].search(np.ones(3), k=2)
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


def test_writing_goes_on_behind_a_golden_store(store: Path) -> None:
    with detmem.open(store, "r+") as db:
        commit = db["notes"].add("c", [1, 0, 0])
        assert commit is not None
        assert commit.seq == checkpoint().seq + 1
    assert detmem.verify(store, expect=checkpoint()).ok


def test_a_replayed_golden_store_has_the_golden_snapshot(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    detmem.replay(store, copy, until=9)
    with detmem.open(copy, "r+") as db:
        path = db.snapshot().path
    assert path is not None
    assert Path(path).read_bytes() == (GOLDEN / "store-2" / "snap" / Path(path).name).read_bytes()
