"""Whole stores and their past: equal contents, equal histories, replay elsewhere, what a log tells, what differs."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import detmem

RECORDS: dict[str, tuple[list[int], dict[str, Any], str | None]] = {
    "a": [[1, 2], {"k": 1, "s": "x"}, "first"],  # type: ignore[dict-item]
    "b": [[3, 4], {}, None],  # type: ignore[dict-item]
    "é": [[5, 6], {"l": [1, 2.5, None, True]}, ""],  # type: ignore[dict-item]
}


def put(c: detmem.Collection, id: str, method: str = "add") -> None:
    vector, metadata, document = RECORDS[id]
    getattr(c, method)(id, vector, metadatas=metadata, documents=document)


def one_by_one(db: detmem.Database, order: tuple[str, ...]) -> None:
    c = db.collection("c", dim=2, metric="l2")
    for id in order:
        put(c, id)


def in_bulk(db: detmem.Database, order: tuple[str, ...]) -> None:
    c = db.collection("c", dim=2, metric="l2")
    vectors, metadatas, documents = zip(*(RECORDS[id] for id in order), strict=True)
    c.add(list(order), vectors, metadatas=metadatas, documents=documents)


def by_upsert_over_other_values(db: detmem.Database, order: tuple[str, ...]) -> None:
    c = db.collection("c", dim=2, metric="l2")
    c.add([*order, "z"], [[9, 9]] * 4, metadatas=[{"old": 1}] * 4, documents=["old"] * 4)
    for id in order:
        put(c, id, "upsert")
    c.delete("z")


def by_update(db: detmem.Database, order: tuple[str, ...]) -> None:
    c = db.collection("c", dim=2, metric="l2")
    for id in order:
        vector, metadata, document = RECORDS[id]
        c.add(id, [0, 1], metadatas={"gone": 1}, documents=None if document is None else "old")
        c.update(id, vectors=vector, metadatas={"gone": None} | metadata, documents=document)


def in_a_batch_after_a_drop(db: detmem.Database, order: tuple[str, ...]) -> None:
    db.collection("c", dim=5).add("a", [1, 2, 3, 4, 5])
    db.collection("other", dim=1)
    with db.batch():
        db.drop("c")
        one_by_one(db, order)
        db["c"].delete(order[0])
        put(db["c"], order[0])
        db.drop("other")


WAYS = [one_by_one, in_bulk, by_upsert_over_other_values, by_update, in_a_batch_after_a_drop]


def test_the_state_root_knows_the_contents_and_the_log_root_the_way() -> None:
    roots = {}
    for way, order in itertools.product(WAYS, itertools.permutations(RECORDS)):
        with detmem.open(":memory:") as db:
            way(db, order)
            roots[way.__name__, order] = (db.state_root, db.log_root, db.head)
            assert db.verify().ok
    assert len({state for state, _, _ in roots.values()}) == 1
    assert len({log for _, log, _ in roots.values()}) == len(roots)
    assert len({head for _, _, head in roots.values()}) == len(roots)


def test_equal_commands_give_equal_checkpoints_and_links(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "a") as a, detmem.open(":memory:", durability="os") as b:
        for db in (a, b):
            by_update(db, ("b", "é", "a"))
        assert a.checkpoint() == b.checkpoint()
        assert a.head == b.head


CHILD = """
import hashlib, json, sys, detmem
source, dest = sys.argv[1:]
checkpoint = detmem.replay(source, dest)
with detmem.open(dest) as db:
    with open(db.snapshot().path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    print(json.dumps([str(checkpoint), str(db.checkpoint()), db.head, digest]))
"""


def test_replay_in_another_process_gives_the_same_checkpoint_and_snapshot_bytes(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "source") as db:
        in_a_batch_after_a_drop(db, ("é", "a", "b"))
        db.collection("big", dim=400).add([f"{i:03}" for i in range(700)], [[i - 350.5] * 400 for i in range(700)])
        path = db.snapshot().path  # 700 x 400 x 4 bytes and some: more than one chunk of 1 MiB
        assert path is not None
        snapshot = Path(path).read_bytes()
        assert len(snapshot) > 1 << 20
        expected = [str(db.checkpoint()), str(db.checkpoint()), db.head, hashlib.sha256(snapshot).hexdigest()]
    for number in range(2):
        arguments = [sys.executable, "-c", CHILD, str(tmp_path / "source"), str(tmp_path / f"dest{number}")]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == expected


def test_a_snapshot_is_the_same_whenever_and_wherever_it_is_written(tmp_path: Path) -> None:
    """Once after every commit, and once at the end only, with a reopening in between: no older snapshot shows."""
    digests = set()
    for often in (True, False):
        folder = tmp_path / str(often)
        with detmem.open(folder) as db:
            c = db.collection("c", dim=2, metric="l2")
            for id in RECORDS:
                put(c, id)
                if often:
                    db.snapshot()
        with detmem.open(folder) as db:
            db["c"].update("b", documents="new")
            path = db.snapshot().path
        assert path is not None
        digests.add(hashlib.sha256(Path(path).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_replay_until_gives_every_moment_of_the_past(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "source") as db:
        checkpoints = [db.checkpoint()]
        for id in RECORDS:
            put(db.collection("c", dim=2, metric="l2"), id)
            checkpoints.append(db.checkpoint())
        for checkpoint in checkpoints:
            dest = tmp_path / f"at{checkpoint.seq}"
            assert detmem.replay(db, dest, until=checkpoint.seq) == checkpoint
            with detmem.open(dest, "r", expect=checkpoint) as past:
                assert past.checkpoint() == checkpoint
                if checkpoint.seq > 1:
                    assert list(past["c"]) == list(RECORDS)[: checkpoint.seq - 1]


def test_replay_does_not_write_over_anything(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "source") as db:
        one_by_one(db, ("a",))
    (tmp_path / "there").mkdir()
    for dest in (tmp_path / "source", tmp_path / "there"):
        with pytest.raises(detmem.StoreExistsError):
            detmem.replay(tmp_path / "source", dest)
    with pytest.raises(detmem.StoreNotFoundError):
        detmem.replay(tmp_path / "nowhere", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_log_tells_each_kind_of_operation_and_collection_of_each_commit() -> None:
    with detmem.open(":memory:") as db:
        c = db.collection("c", dim=2, metric="l2")
        links = [db.head]
        c.add(["b", "a"], [[1, 2], [3, 4]])
        links.append(db.head)
        with db.batch():
            c.update("a", documents="x")
            c.add("d", [0, 0])
            other = db.collection("o", dim=1)
            other.add("a", [1])
            c.add("e", [0, 0])
        links.append(db.head)
        c.delete(where={"k": {"$exists": False}})
        links.append(db.head)
        told = [(entry.seq, entry.op, entry.collection, entry.ids, entry.link) for entry in db.log()]
        assert told == [
            (1, "create_collection", "c", [], links[0]),
            (2, "add", "c", ["b", "a"], links[1]),
            (3, "update", "c", ["a"], links[2]),
            (3, "add", "c", ["d", "e"], links[2]),
            (3, "create_collection", "o", [], links[2]),
            (3, "add", "o", ["a"], links[2]),
            (4, "delete", "c", ["a", "b", "d", "e"], links[3]),
        ]
        assert [entry.seq for entry in db.log(2, 4)] == [2, 3, 3, 3, 3]
        assert [entry.seq for entry in db.log(stop=1)] == []
        assert [entry.seq for entry in db.log(5)] == []
        assert [entry.seq for entry in db.log(4, 99)] == [4]
        assert [(e.seq, e.op, e.ids) for e in db.log(id="a", collection="c")] == [
            (2, "add", ["a"]),
            (3, "update", ["a"]),
            (4, "delete", ["a"]),
        ]
        assert [(e.seq, e.collection) for e in db.log(id="a")] == [(2, "c"), (3, "c"), (3, "o"), (4, "c")]
        assert [e.op for e in db.log(collection="o")] == ["create_collection", "add"]
        assert list(db.log(collection="never")) == []


def test_the_log_is_told_across_segments_and_snapshots(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "s") as db:
        c = db.collection("c", dim=2, metric="l2")
        for id in RECORDS:
            put(c, id)
            db.snapshot()  # each begins a new segment
        expected = list(db.log())
        assert [entry.seq for entry in expected] == [1, 2, 3, 4]
        assert [entry.seq for entry in db.log(2, 4)] == [2, 3]
        for start, stop in ((1, 0), (1, 1), (2, 2), (3, 2), (3, 1)):
            assert list(db.log(start, stop)) == []  # once the first of a segment that another follows was told
    with detmem.open(tmp_path / "s", "r") as reader:
        assert list(reader.log()) == expected


def test_a_log_asked_for_earlier_does_not_show_what_came_later() -> None:
    with detmem.open(":memory:") as db:
        c = db.collection("c", dim=2, metric="l2")
        told = db.log()
        put(c, "a")
        assert [entry.op for entry in told] == ["create_collection"]


def test_diff_says_what_the_second_store_has_more_less_and_otherwise(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "a") as a:
        one_by_one(a, ("a", "b", "é"))
        detmem.replay(a, tmp_path / "b")
        common = a.seq
        a.collection("only-a", dim=1).add("q", [1])
    with detmem.open(tmp_path / "b") as b:
        b["c"].update("a", metadatas={"k": 2})
        b["c"].delete("b")
        b["c"].add("new", [0, 0])
        b["c"].upsert("é", RECORDS["é"][0], metadatas=RECORDS["é"][1], documents="")  # as it was
        expected = detmem.Diff(common, [("c", "new")], [("c", "b"), ("only-a", "q")], [("c", "a")], ["only-a"])
        assert detmem.diff(tmp_path / "a", b) == expected
    assert detmem.diff(tmp_path / "a", tmp_path / "b") == expected
    back = detmem.diff(tmp_path / "b", tmp_path / "a")
    assert (back.added, back.removed, back.changed) == (expected.removed, expected.added, expected.changed)
    assert not expected.same
    same = detmem.diff(tmp_path / "a", tmp_path / "a")
    assert same.same
    assert same.common_seq == common + 2


def test_diff_sees_each_part_of_a_record(tmp_path: Path) -> None:
    def store(**more: Any) -> detmem.Database:
        db = detmem.open(":memory:")
        db.collection("c", dim=1, metric="l2").add("a", **({"vectors": [1], "documents": "x"} | more))
        return db

    with store() as plain:
        for change in ({"vectors": [2]}, {"documents": ""}, {"documents": None}, {"metadatas": {"k": 1}}):
            with store(**change) as other:
                assert detmem.diff(plain, other) == detmem.Diff(1, [], [], [("c", "a")])
        with store(metadatas={}) as equal:
            assert detmem.diff(plain, equal).same


def test_diff_of_equal_contents_with_other_histories_is_empty() -> None:
    with detmem.open(":memory:") as a, detmem.open(":memory:") as b:
        one_by_one(a, ("a", "b", "é"))
        by_update(b, ("é", "b", "a"))
        assert detmem.diff(a, b) == detmem.Diff(1, [], [], [])


def test_verify_finds_a_flipped_bit_and_says_how_much_is_intact(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "s") as db:
        one_by_one(db, ("a", "b", "é"))
        roots = {entry.seq for entry in db.log()}
        root = db.state_root
    assert roots == {1, 2, 3, 4}
    assert detmem.verify(tmp_path / "s") == detmem.Report(True, 4, root)
    (segment,) = (tmp_path / "s" / "log").iterdir()
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    for level in ("chain", "replay"):
        report = detmem.verify(tmp_path / "s", level=level)
        assert (report.ok, report.seq, report.first_bad_seq) == (False, 3, 4)
        assert report.reason is not None
        assert "offset" in report.reason
    with pytest.raises(detmem.LogDamaged):
        detmem.open(tmp_path / "s")
