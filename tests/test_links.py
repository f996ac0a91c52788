"""Links between records: who may be linked, what goes with a record, and answers that bring along what they lead to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import detmem
from detmem import Link


@pytest.fixture
def db() -> Iterator[detmem.Database]:
    with detmem.open(":memory:") as db:
        notes = db.collection("notes", dim=2, metric="l2")
        notes.add(["a", "b", "c", "d"], [[0, 0], [1, 0], [2, 0], [3, 0]], documents=["A", "B", "C", "D"])
        people = db.collection("people", dim=1, metric="l2")
        people.add(["ann", "bob"], [[1], [2]], metadatas=[{"age": 44}, None])
        yield db


def test_neighbors_stand_in_the_order_relation_then_id(db: detmem.Database) -> None:
    notes = db["notes"]
    for relation, dst in (("z", "a"), ("next", "d"), ("about", ("people", "bob")), ("next", "b"), ("about", "c")):
        notes.link("a", relation, dst)
    assert notes.neighbors("a") == [
        Link("a", "about", ("people", "bob")),
        Link("a", "about", "c"),
        Link("a", "next", "b"),
        Link("a", "next", "d"),
        Link("a", "z", "a"),
    ]
    assert notes.neighbors("a", "next") == [Link("a", "next", "b"), Link("a", "next", "d")]
    assert notes.neighbors("b") == []
    assert notes.neighbors("b", direction="in") == [Link("a", "next", "b")]
    assert db["people"].neighbors("bob", direction="in") == [Link(("notes", "a"), "about", "bob")]
    assert notes.neighbors("a", "z", "both") == [Link("a", "z", "a")]


def test_a_link_is_a_commit_and_the_same_again_is_none(db: detmem.Database) -> None:
    first = db["notes"].link("a", "r", "b")
    assert first is not None
    assert (first.seq, first.state_root) == (db.seq, db.state_root)
    assert db["notes"].link("a", "r", "b") == first
    assert db["notes"].unlink("b", "r", "a") == first  # the other direction is another link
    gone = db["notes"].unlink("a", "r", "b")
    assert gone is not None
    assert gone.seq == first.seq + 1
    assert [(e.op, e.ids) for e in db.log(first.seq)] == [("link", ["a"]), ("unlink", ["a"])]
    assert db.state_root == db.at(first.seq - 1).state_root  # equal contents, equal roots


def test_deleting_a_record_takes_its_links_in_both_directions(db: detmem.Database) -> None:
    notes, root = db["notes"], db.at(db.seq)
    notes.link("a", "r", "b")
    notes.link("b", "r", "c")
    notes.link("c", "r", "a")
    db["people"].link("ann", "wrote", ("notes", "b"))
    notes.delete("b")
    assert notes.neighbors("a") == []
    assert notes.neighbors("c") == [Link("c", "r", "a")]
    assert db["people"].neighbors("ann") == []
    notes.add("b", [1, 0], documents="B")  # the same record again, and none of its links
    assert notes.neighbors("b", direction="both") == []
    notes.unlink("c", "r", "a")
    assert db.state_root == root.state_root


def test_a_replaced_record_keeps_its_links_and_a_dropped_collection_takes_them(db: detmem.Database) -> None:
    notes = db["notes"]
    notes.link("a", "about", ("people", "ann"))
    notes.link("a", "next", "b")
    notes.upsert("a", [9, 9])
    assert len(notes.neighbors("a")) == 2
    db.drop("people")
    assert notes.neighbors("a") == [Link("a", "next", "b")]
    db.collection("people", dim=1).add("ann", [1])
    assert notes.neighbors("a") == [Link("a", "next", "b")]


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda c: c.link("x", "r", "a"), detmem.NotFoundError),
        (lambda c: c.link("a", "r", "x"), detmem.NotFoundError),
        (lambda c: c.link("a", "r", ("nowhere", "x")), detmem.NotFoundError),
        (lambda c: c.link("a", "r", ("people", "a")), detmem.NotFoundError),
        (lambda c: c.link("a", "", "b"), detmem.UsageError),
        (lambda c: c.link("a", "r" * 129, "b"), detmem.UsageError),
        (lambda c: c.link("a", None, "b"), detmem.UsageError),
        (lambda c: c.link("a", "r", ("people", "ann", "x")), detmem.UsageError),
        (lambda c: c.link("a", "r", None), detmem.UsageError),
        (lambda c: c.link(["a"], "r", "b"), detmem.UsageError),
        (lambda c: c.neighbors("x"), detmem.NotFoundError),
        (lambda c: c.neighbors("a", direction="up"), detmem.UsageError),
        (lambda c: c.neighbors("a", relation=5), detmem.UsageError),
        (lambda c: c.neighbors("a", direction=["in"]), detmem.UsageError),
        (lambda c: c.search([0, 0], expand=""), detmem.UsageError),
        (lambda c: c.search([0, 0], expand={}), detmem.UsageError),
        (lambda c: c.search([0, 0], expand={"r": 0}), detmem.UsageError),
        (lambda c: c.search([0, 0], expand={"r": True}), detmem.UsageError),
        (lambda c: c.search([0, 0], expand=["r"]), detmem.UsageError),
        (lambda c: c.search([0, 0], expand=0), detmem.UsageError),
        (lambda c: c.search([0, 0], expand=1.5), detmem.UsageError),
    ],
)
def test_what_cannot_be_linked_or_walked_is_refused_and_nothing_changes(
    db: detmem.Database, call: Any, error: type[Exception]
) -> None:
    before = db.checkpoint()
    with pytest.raises(error):
        call(db["notes"])
    assert db.checkpoint() == before


def test_links_live_through_snapshot_and_reopening(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "s") as db:
        c = db.collection("c", dim=1)
        c.add(["a", "b"], [[1], [2]])
        c.link("a", "r", "b")
        db.snapshot()
        c.link("b", "r", "a")
        root = db.state_root
    with detmem.open(tmp_path / "s", "r") as db:
        assert db.state_root == root
        assert db["c"].neighbors("a", direction="both") == [Link("a", "r", "b"), Link("b", "r", "a")]
    assert detmem.verify(tmp_path / "s").ok


def test_a_batch_links_what_it_adds(db: detmem.Database) -> None:
    with db.batch():
        db["notes"].add("e", [4, 0])
        db["notes"].link("e", "r", "a")
        db["notes"].link("a", "r", "e")
        db["notes"].delete("e")
        db["notes"].add("e", [5, 0])
        db["notes"].link("e", "r", "b")
    assert db["notes"].neighbors("e", direction="both") == [Link("e", "r", "b")]


def shown(linked: list[detmem.Linked]) -> list[tuple[Any, ...]]:
    return [(one.depth, one.relation, one.collection, one.id) for one in linked]


def test_a_search_brings_what_its_hits_lead_to(db: detmem.Database) -> None:
    notes = db["notes"]
    notes.link("a", "next", "b")
    notes.link("b", "next", "c")
    notes.link("c", "next", "a")
    notes.link("a", "about", ("people", "ann"))
    one = notes.search([0, 0], k=2, expand="next")
    assert one.ids == ["a", "b"]
    assert [shown(linked) for linked in one.linked or []] == [
        [(1, "next", "notes", "b")],
        [(1, "next", "notes", "c")],
    ]
    deep = notes.search([0, 0], k=1, expand={"next": 5, "about": 1})[0]
    assert shown(deep.linked) == [
        (1, "about", "people", "ann"),
        (1, "next", "notes", "b"),
        (2, "next", "notes", "c"),  # and a, where it began, is not listed again
    ]
    assert [(one.metadata, one.document) for one in deep.linked] == [({"age": 44}, None), ({}, "B"), ({}, "C")]
    anything = notes.search([0, 0], k=1, expand=2, include=["documents"])[0]
    assert shown(anything.linked) == shown(deep.linked)
    assert [(one.metadata, one.document) for one in anything.linked] == [(None, None), (None, "B"), (None, "C")]
    batch = notes.search([[0, 0], [3, 0]], k=1, expand="next")
    assert [shown(one) for one in (batch[0].linked[0], batch[1].linked[0])] == [[(1, "next", "notes", "b")], []]
    assert notes.search([0, 0], k=1).linked is None
    assert notes.search([0, 0], k=1)[0].linked is None


def test_what_a_hit_leads_to_says_from_where(db: detmem.Database) -> None:
    """Several ways lead to d; the least depth counts, then the relation, then where the way comes from."""
    notes = db["notes"]
    for src, relation, dst in (("a", "z", "c"), ("a", "y", "b"), ("c", "r", "d"), ("b", "r", "d"), ("c", "s", "b")):
        notes.link(src, relation, dst)
    notes.link("d", "about", ("people", "ann"))
    (hit,) = notes.search([0, 0], k=1, expand=3)
    assert [(one.source, one.relation, one.id) for one in hit.linked] == [
        (("notes", "a"), "y", "b"),
        (("notes", "a"), "z", "c"),
        (("notes", "b"), "r", "d"),
        (("notes", "d"), "about", "ann"),
    ]


def test_an_expanded_search_of_the_past_walks_the_links_of_then(db: detmem.Database) -> None:
    notes = db["notes"]
    notes.link("a", "next", "b")
    then = db.seq
    notes.unlink("a", "next", "b")
    notes.link("a", "next", "d")
    db["notes"].update("b", documents="another")
    hit = db.at(then)["notes"].search([0, 0], k=1, expand="next")[0]
    assert [(one.id, one.document) for one in hit.linked] == [("b", "B")]
    assert [one.id for one in notes.search([0, 0], k=1, expand="next")[0].linked] == ["d"]


def test_max_distance_keeps_the_near_ones(db: detmem.Database) -> None:
    notes = db["notes"]
    assert notes.search([0, 0], k=10, max_distance=1.0).ids == ["a", "b"]
    assert notes.search([0, 0], k=1, max_distance=1).ids == ["a"]
    assert notes.search([0, 0], max_distance=-1).ids == []
    assert notes.search([0, 0], max_distance=float("inf")).ids == ["a", "b", "c", "d"]
    empty = notes.search([9, 9], max_distance=0.5)
    assert (len(empty), empty.raw.dtype, empty.distances.dtype, empty.documents) == (0, "int64", "float64", [])
    for bad in ("1", None.__class__, float("nan"), True, [1], 10**400):
        with pytest.raises(detmem.UsageError, match="max_distance"):
            notes.search([0, 0], max_distance=bad)
    with pytest.raises(detmem.UsageError, match="max_distance"):
        notes.search([[0, 0], [1, 1]], max_distance=1)


def test_the_log_tells_what_was_linked_to_both_ends_and_what_was_recorded(db: detmem.Database) -> None:
    db["people"].link("ann", "wrote", ("notes", "b"))
    db.record(bytes(range(32)), "asked at night")
    entry, trail = list(db.log(db.seq - 1))
    assert (entry.op, entry.collection, entry.ids) == ("link", "people", ["ann"])
    assert entry.links == [Link(("people", "ann"), "wrote", ("notes", "b"))]
    assert (trail.op, trail.recorded) == ("record", [(bytes(range(32)).hex(), "asked at night")])
    assert [e.op for e in db.log(id="b")] == ["add", "link"]
    assert [e.op for e in db.log(id="b", collection="notes")] == ["add", "link"]
    assert [e.op for e in db.log(id="b", collection="people")] == []


def test_a_difference_names_links(db: detmem.Database, tmp_path: Path) -> None:
    before = db.seq
    db["notes"].link("a", "r", "b")
    db["notes"].link("a", "r", "c")
    then = db.seq
    db["notes"].unlink("a", "r", "b")
    link = {id: Link(("notes", "a"), "r", ("notes", id)) for id in "bc"}
    assert detmem.diff(db.at(before), db).linked == [link["c"]]
    found = detmem.diff(db.at(then), db)
    assert (found.linked, found.unlinked, found.same, found.changed) == ([], [link["b"]], False, [])
    detmem.replay(db, tmp_path / "all")
    detmem.replay(db, tmp_path / "then", until=then)
    assert detmem.diff(tmp_path / "all", tmp_path / "then").linked == [link["b"]]
    assert detmem.diff(tmp_path / "all", db).same
