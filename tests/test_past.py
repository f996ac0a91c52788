"""The past: at any seq the store says what a store said that had received only the commands up to there."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import detmem
from detmem.journal.disk import MemoryDisk
from detmem.machine import links, records
from detmem.machine.vectors import Vectors
from detmem.opening import open_disk
from tests.stateful.test_model import CALLS, WHERE
from tests.twin import TWIN, Call, check_contents, perform, perform_batch

QUERIES = ([0, 0], [1, -2], [1 << 29, 0])


def play(db: detmem.Database, memory: Any, calls: list[Call]) -> Iterator[Any]:
    """The twin's memory after each further commit of the calls that are legal; ``memory`` stays as it is."""
    memory = copy.deepcopy(memory)
    for call in calls:
        try:
            commit = memory.write(call)
        except TWIN.Refused:
            continue
        if call[0] == "batch":
            perform_batch(db, call[1])
        else:
            perform(db, call)
        if commit is not None:
            yield copy.deepcopy(memory)


def check_past(db: detmem.Database, past: list[Any], where: Any) -> None:
    for seq, memory in enumerate(past):
        with db.at(seq) as then:
            assert (str(then.checkpoint()), then.head) == (memory.checkpoint(), memory.link.hex())
            assert (then.seq, then.state_root) == (seq, memory.state_root().hex())
            check_contents(then, memory)
            for name in memory.state:
                for query in QUERIES:
                    result = then[name].search(raw=query, k=3)
                    assert list(zip(result.ids, result.raw.tolist(), strict=True)) == memory.search(name, query, 3)
                    assert result.seq == seq
                try:
                    expected = memory.search(name, QUERIES[0], 5, where)
                except TWIN.Refused:
                    with pytest.raises(detmem.UsageError):
                        then[name].search(raw=QUERIES[0], k=5, where=where)
                else:
                    assert then[name].search(raw=QUERIES[0], k=5, where=where).ids == [id for id, _ in expected]


@st.composite
def histories(draw: st.DrawFn) -> list[Call]:
    """Calls of which most are legal: what exists is drawn from what the twin says exists."""
    memory = TWIN.Memory()
    calls: list[Call] = [("create", name, 2, "l2", "Q16.16") for name in ("c", "d")]
    for call in calls:
        memory.write(call)
    for _ in range(draw(st.integers(3, 14))):
        nodes = sorted((name, id) for name, c in memory.state.items() for id in c.records)
        edges = sorted(memory.state.links)
        kinds = ["any", "any"] + ["link"] * 3 * bool(nodes) + ["unlink"] * bool(edges) + ["delete"] * bool(nodes)
        kind = draw(st.sampled_from(kinds))
        if kind == "any":
            call = draw(CALLS | st.lists(CALLS, max_size=3).map(lambda some: ("batch", some)))
        elif kind == "unlink":
            call = ("unlink", *draw(st.sampled_from(edges)))
        elif kind == "delete":
            name, id = draw(st.sampled_from(nodes))
            call = ("delete", name, [id])
        else:
            (name, id), other = draw(st.sampled_from(nodes)), draw(st.sampled_from(nodes))
            call = ("link", name, id, draw(st.sampled_from(["r", "s"])), *other)
        calls.append(call)
        try:
            memory.write(call)
        except TWIN.Refused:
            continue
    return calls


@pytest.mark.parametrize("kept", [1024, 0], ids=["held", "let go"])
@given(calls=histories(), where=WHERE, snapshot_at=st.integers(0, 15), reopened=st.booleans())
def test_any_seq_of_any_history(kept: int, calls: list[Call], where: Any, snapshot_at: int, reopened: bool) -> None:
    """``let go``: dead rows and links leave memory as soon as may be, so that most moments are folded anew."""
    before = records._DEAD_KEPT, links._DEAD_KEPT
    records._DEAD_KEPT = links._DEAD_KEPT = kept
    try:
        disk = MemoryDisk()
        with open_disk(disk, segment_bytes=700) as db:
            past = [TWIN.Memory()]
            past += play(db, past[0], calls[:snapshot_at])
            db.snapshot()
        with open_disk(disk, segment_bytes=700) as db:
            past += list(play(db, past[-1], calls[snapshot_at:]))
            if not reopened:
                check_past(db, past, where)
        if reopened:
            with open_disk(disk, write=False) as db:
                check_past(db, past, where)
    finally:
        records._DEAD_KEPT, links._DEAD_KEPT = before


@pytest.fixture
def db() -> Iterator[detmem.Database]:
    with detmem.open(":memory:") as db:
        notes = db.collection("notes", dim=2, metric="l2")
        notes.add(["a", "b"], [[0, 0], [3, 4]], documents=["one", "two"])  # seq 2
        notes.upsert("a", [9, 9], documents="another")  # seq 3
        notes.delete("b")  # seq 4
        yield db


def test_a_view_stays_where_it_is_while_the_store_moves_on(db: detmem.Database) -> None:
    then = db.at(2)
    notes = then["notes"]
    for number in range(3000):  # more dead rows than are kept
        db["notes"].upsert("a", [number, 0])
    assert notes.get().documents == ["one", "two"]
    assert notes.search([0, 0], k=5).ids == ["a", "b"]
    assert (len(notes), "b" in notes, list(notes), then.seq) == (2, True, ["a", "b"], 2)
    again = db.at(2)  # these rows have left memory: it is folded anew
    assert again["notes"].search([0, 0], k=5).raw.tolist() == notes.search([0, 0], k=5).raw.tolist()


def test_the_past_is_read_and_not_written(db: detmem.Database) -> None:
    then = db.at(2)
    for write in (
        lambda: then["notes"].add("c", [0, 0]),
        lambda: then["notes"].delete("a"),
        lambda: then["notes"].link("a", "r", "b"),
        lambda: then.collection("new", dim=2),
        lambda: then.drop("notes"),
        lambda: then.batch().__enter__(),
        then.snapshot,
    ):
        with pytest.raises(detmem.ReadOnlyError, match="seq 2"):
            write()
    with pytest.raises(detmem.UsageError, match="until=seq"):
        then.backup("anywhere")
    assert then.refresh() == 2


@pytest.mark.parametrize("seq", [5, -1, 1.0, None, "2", True])
def test_a_seq_that_has_not_been_is_refused(db: detmem.Database, seq: Any) -> None:
    with pytest.raises(detmem.UsageError, match="seq"):
        db.at(seq)


def test_at_zero_there_is_nothing(db: detmem.Database) -> None:
    then = db.at(0)
    assert (then.collections(), then.state_root, list(then.log())) == ([], "0" * 64, [])
    with pytest.raises(detmem.NotFoundError):
        then["notes"]


def test_a_view_of_a_view_and_the_end_of_both(db: detmem.Database) -> None:
    then = db.at(3)
    before = then.at(2)
    assert before["notes"].get("b").documents == ["two"]
    with pytest.raises(detmem.UsageError, match="expected 0..3"):
        then.at(4)
    then.close()
    with pytest.raises(detmem.UsageError, match="closed"):
        then["notes"]
    assert before["notes"].get("a").documents == ["one"]
    assert db["notes"].get().ids == ["a"]


def test_a_view_is_closed_with_its_database(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "s") as db:
        db.collection("c", dim=1).add("a", [1])
        then = db.at(2)
    with pytest.raises(detmem.UsageError, match="closed"):
        then["c"].get()


def test_a_dropped_collection_is_there_before_its_end(db: detmem.Database) -> None:
    db.drop("notes")
    db.collection("notes", dim=3, metric="ip").add("x", [1, 2, 3])
    assert db.at(4)["notes"].dim == 2
    assert db.at(2)["notes"].get().documents == ["one", "two"]
    assert "notes" not in db.at(5)
    assert db.at(6)["notes"].dim == 3
    assert len(db.at(6)["notes"]) == 0


def test_two_moments_differ_by_what_happened_between_them(db: detmem.Database) -> None:
    found = detmem.diff(db.at(2), db.at(4))
    assert (found.common_seq, found.added, found.removed, found.changed) == (2, [], [("notes", "b")], [("notes", "a")])
    assert detmem.diff(db.at(4), db).same
    assert detmem.diff(db.at(1), db.at(2)).added == [("notes", "a"), ("notes", "b")]


def test_readers_of_the_past_beside_a_writer_that_lets_go_of_it() -> None:
    with detmem.open(":memory:", durability="os") as db:
        c = db.collection("c", dim=2, metric="l2")
        c.add([f"{n}" for n in range(50)], np.arange(100).reshape(50, 2))
        expected = c.search([0, 0], k=50).raw.tolist()
        wrong: list[Any] = []

        def read() -> None:
            for _ in range(40):
                found = db.at(2)["c"].search([0, 0], k=50).raw.tolist()
                if found != expected:
                    wrong.append(found)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for number in range(2500):
            c.upsert("7", [number, 1])
        for reader in readers:
            reader.join()
        assert wrong == []


def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that wait unsplit are split with a pause: what another thread may do in between, it does."""
    real = Vectors._split

    def split(self: Vectors, rows: Any) -> None:
        time.sleep(0.1)
        real(self, rows)

    monkeypatch.setattr(Vectors, "_split", split)


def test_a_snapshot_beside_a_reader_leaves_the_rows_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once both split the rows that waited, which then stood twice."""
    with detmem.open(":memory:") as db:
        c = db.collection("c", dim=2, metric="l2")
        c.add(["a", "b", "c"], [[1, 0], [2, 0], [3, 0]])
        with monkeypatch.context() as patch:
            slowly(patch)
            reader = threading.Thread(target=lambda: len(c))
            reader.start()
            time.sleep(0.03)
            db.snapshot()
            reader.join()
        c.add("new", [9, 9])
        assert c.get("new", include=["raw"]).raw.tolist() == [[9 << 16, 9 << 16]]
        assert c.search([9, 9], k=1).ids == ["new"]
        assert db.verify().ok


def test_two_views_of_one_folded_moment_share_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    with detmem.open(":memory:") as db:
        db.collection("c", dim=2, metric="l2").add(["a", "b"], [[1, 0], [2, 0]])
        db.drop("c")
        slowly(monkeypatch)
        found: list[Any] = []
        readers = [
            threading.Thread(target=lambda: found.append(db.at(2)["c"].search([2, 0], k=2).ids)) for _ in range(3)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert found == [["b", "a"]] * 3


def test_a_view_that_was_taken_before_an_erasure_does_not_give_it_away(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "s") as db:
        c = db.collection("c", dim=1)
        c.add(["a", "b"], [[1], [2]], documents=["kept", "SECRET"])
        before, left = db.at(2), db.at(2, erased="omit")
        assert before["c"].get("b").documents == ["SECRET"]
        db.erase("c", "b")
        for view in (before, db.at(2)):
            with pytest.raises(detmem.Erased):
                view["c"].get("b")
            with pytest.raises(detmem.Erased):
                view["c"].search([1])
        found = left["c"].search([1], k=5)
        assert (found.ids, found.erased) == (["a"], ["b"])


def test_a_walk_to_an_erased_record_says_whose_it_was(db: detmem.Database) -> None:
    people = db.collection("people", dim=1)
    people.add("ann", [1])
    db["notes"].link("a", "about", ("people", "ann"))
    then = db.seq
    db.erase("people", "ann")
    with pytest.raises(detmem.Erased, match="'people'"):
        db.at(then)["notes"].search([9, 9], expand="about")
    found = db.at(then, erased="omit")["notes"].search([9, 9], expand="about")
    assert (found.linked, found.erased) == ([[]], [("people", "ann")])
    with pytest.raises(detmem.Erased, match="left out"):
        found.receipt()


def test_a_difference_beside_a_writer_is_of_one_seq_each() -> None:
    with detmem.open(":memory:", durability="os") as db:
        c = db.collection("c", dim=1, metric="l2")
        c.add([f"{n}" for n in range(200)], np.arange(200)[:, None])
        then, stop = db.seq, threading.Event()

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                c.upsert(f"{number % 200}", [number])

        writer = threading.Thread(target=write)
        writer.start()
        for _ in range(30):
            found = detmem.diff(db.at(then), db)
            assert (found.added, found.removed, found.collections) == ([], [], [])
        stop.set()
        writer.join()


def test_a_closed_view_proves_nothing(db: detmem.Database) -> None:
    then = db.at(2)
    then.close()
    for ask in (lambda: then.prove("notes", "a"), lambda: then.subtree("notes", 0), then.checkpoint):
        with pytest.raises(detmem.UsageError, match="closed"):
            ask()
