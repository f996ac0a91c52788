"""Idempotent writes: the same request again is the first commit, whatever came in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import detmem
from detmem.machine import state


@pytest.fixture
def db() -> Iterator[detmem.Database]:
    with detmem.open(":memory:") as db:
        db.collection("c", dim=2, metric="l2")
        yield db


def test_the_same_request_again_writes_nothing_and_returns_the_first_commit(db: detmem.Database) -> None:
    c = db["c"]
    first = c.add(["a", "b"], [[1, 2], [3, 4]], documents=["x", None], request_id="one")
    assert first is not None
    c.delete("a")
    before = db.checkpoint()
    assert c.add(["a", "b"], [[1, 2], [3, 4]], documents=["x", None], request_id="one") == first
    assert db.checkpoint() == before
    assert c.get().ids == ["b"]
    assert [(e.op, e.ids) for e in db.log(first.seq, first.seq + 1)] == [("add", ["a", "b"])]


@pytest.mark.parametrize(
    "other",
    [
        lambda c, d: c.add("a", [1, 3], request_id="one"),
        lambda c, d: c.add("b", [1, 2], request_id="one"),
        lambda c, d: c.upsert("a", [1, 2], request_id="one"),
        lambda c, d: c.add("a", [1, 2], metadatas={"k": 1}, request_id="one"),
        lambda c, d: c.add("a", [1, 2], documents="", request_id="one"),
        lambda c, d: c.add(["a", "b"], [[1, 2], [1, 2]], request_id="one"),
        lambda c, d: d.add("a", [1, 2], request_id="one"),
    ],
)
def test_the_same_id_for_another_call_is_refused(db: detmem.Database, other: Any) -> None:
    d = db.collection("d", dim=2, metric="l2")
    db["c"].add("a", [1, 2], request_id="one")
    before = db.checkpoint()
    with pytest.raises(detmem.UsageError, match="'one' was used at seq 3"):
        other(db["c"], d)
    assert db.checkpoint() == before


def test_a_refused_call_does_not_use_up_its_id(db: detmem.Database) -> None:
    c = db["c"]
    c.add("a", [1, 2])
    for bad in (lambda: c.add("a", [1, 2], request_id="r"), lambda: c.add("b", [1], request_id="r")):
        with pytest.raises(detmem.UsageError):
            bad()
    commit = c.add("b", [5, 6], request_id="r")
    assert commit is not None
    assert commit.seq == 3
    with pytest.raises(RuntimeError), db.batch():
        c.add("z", [0, 0], request_id="inside")
        raise RuntimeError
    assert "z" not in c
    assert c.add("z", [1, 1], request_id="inside").seq == 4


def test_requests_survive_snapshot_and_reopening(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "s") as db:
        c = db.collection("c", dim=1)
        first = c.upsert("a", [1], request_id="before")
        db.snapshot()
        second = c.upsert("a", [2], request_id="after")
    for mode in ("r+", "a"):
        with detmem.open(tmp_path / "s", mode) as db:
            assert db["c"].upsert("a", [1], request_id="before") == first
            assert db["c"].upsert("a", [2], request_id="after") == second
            assert db.seq == 3
    detmem.replay(tmp_path / "s", tmp_path / "copy")
    with detmem.open(tmp_path / "copy") as db:
        assert db["c"].upsert("a", [1], request_id="before").seq == 2
        assert db.seq == 3


def test_requests_in_a_batch(db: detmem.Database) -> None:
    c = db["c"]
    many = [f"{n}" for n in range(40)]
    with db.batch():
        assert c.add(many, np.zeros((40, 2)), request_id="many") is None
        assert c.add(many, np.zeros((40, 2)), request_id="many") is None  # the same again
        c.add([f"x{n}" for n in range(40)], np.zeros((40, 2)))  # a run behind the run
        with pytest.raises(detmem.UsageError, match="earlier in this batch"):
            c.add("y", [0, 0], request_id="many")
        c.upsert("z", [0, 0], request_id="z")
    assert (db.seq, len(c)) == (2, 81)
    assert c.add(many, np.zeros((40, 2)), request_id="many").seq == 2
    assert c.upsert("z", [0, 0], request_id="z").seq == 2
    assert db.verify().ok


def test_the_state_root_knows_nothing_of_requests_and_the_log_root_does() -> None:
    with detmem.open(":memory:") as one, detmem.open(":memory:") as two:
        for db, more in ((one, {}), (two, {"request_id": "r"})):
            db.collection("c", dim=1).add("a", [1], **more)
        assert one.state_root == two.state_root
        assert one.log_root != two.log_root


def test_the_oldest_of_too_many_is_forgotten(db: detmem.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """65,536 of them are kept; three here."""
    assert state.MAX_REQUESTS == 65_536
    monkeypatch.setattr(state, "MAX_REQUESTS", 3)
    for number in range(4):
        db["c"].upsert("a", [number, 0], request_id=f"r{number}")
    seq = db.seq
    assert db["c"].upsert("a", [1, 0], request_id="r1").seq == seq - 2
    assert db["c"].upsert("a", [0, 0], request_id="r0").seq == seq + 1


@pytest.mark.parametrize("bad", ["", "x" * 513, 5, b"r", "\ud800", ["r"]])
def test_a_wrong_request_id_is_refused(db: detmem.Database, bad: Any) -> None:
    with pytest.raises(detmem.UsageError, match="request_id"):
        db["c"].add("a", [1, 2], request_id=bad)
    assert db.seq == 1
