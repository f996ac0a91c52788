"""One collection through the public door: every sentence of its contract as a small story.

Vectors are short and whole-numbered, so that every distance can be checked on paper: under ``l2`` and ``Q16.16`` the
distance of (x) and (y) is (x - y)^2, and its raw value that times 2^32.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import detmem

ONE = 1 << 16  # 1.0 in Q16.16
SQUARE = 1 << 32  # a squared distance of 1.0
WORDS = {"plum": [0.0, 0.0], "pear": [3.0, 4.0], "fig": [-1.0, 0.0], "lime": [6.0, 8.0]}


@pytest.fixture
def db() -> Iterator[detmem.Database]:
    with detmem.open(":memory:") as database:
        yield database


@pytest.fixture
def notes(db: detmem.Database) -> detmem.Collection:
    return db.collection("notes", dim=2, metric="l2")


@pytest.fixture
def fruit(notes: detmem.Collection) -> detmem.Collection:
    """Four records; 'fig' has no document and 'lime' neither document nor metadata."""
    notes.add(
        list(WORDS),
        list(WORDS.values()),
        metadatas=[{"kind": "stone", "n": 1}, {"kind": "pome", "n": 2.5}, {"kind": "other", "tags": ["a", 1]}, None],
        documents=["a plum", "", None, None],
    )
    return notes


# --------------------------------------------------------------------------------------------------------- what it is


def test_a_collection_says_what_it_is(db: detmem.Database) -> None:
    made = db.collection("c", dim=7, metric="sqeuclidean", format="Q8.24")
    assert (made.name, made.dim, made.metric, made.format) == ("c", 7, "l2", "Q8.24")
    plain = db.collection("d", dim=1)
    assert (plain.metric, plain.format) == ("cosine", "Q16.16")


def test_len_in_and_iteration_are_over_ids_in_utf8_order(notes: detmem.Collection) -> None:
    ids = ["b", "a", "Z", "é", "\U0001f600", "\uffff", "aa"]
    notes.add(ids, np.zeros((7, 2)))
    assert len(notes) == notes.count() == 7
    assert list(notes) == sorted(ids, key=str.encode)
    assert "é" in notes
    assert "e" not in notes
    assert 5 not in notes


def test_ids_of_all_admitted_lengths_stand(notes: detmem.Collection) -> None:
    for id in ("x", "x" * 512, "é" * 256, "\0", "a/b\n c"):
        notes.add(id, [1, 2])
        assert notes.get(id).ids == [id]


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.add("z", [0, 0], metadata={}),
        lambda c: c.upsert("z", [0, 0], ids="z"),
        lambda c: c.update("plum", vector=[0, 0]),
        lambda c: c.delete("plum", wher={}),
        lambda c: c.get("plum", includes=()),
        lambda c: c.search([0, 0], filter={}),
        lambda c: c.search([0, 0], 1, [0, 0]),
        lambda c: c.count(where={}, k=1),
        lambda c: c.add(),
        lambda c: c.update(),
    ],
)
def test_an_unknown_or_missing_argument_is_pythons_own_type_error(fruit: detmem.Collection, call: Any) -> None:
    with pytest.raises(TypeError):
        call(fruit)


# ------------------------------------------------------------------------------------------------------------- adding


def test_each_accepted_write_is_one_seq(db: detmem.Database) -> None:
    assert db.seq == 0
    c = db.collection("c", dim=2, metric="l2")
    assert db.seq == 1
    assert c.add(["a", "b", "c"], np.zeros((3, 2))).seq == db.seq == 2
    assert c.upsert(["a", "d"], np.ones((2, 2))).seq == db.seq == 3
    assert c.update("a", metadatas={"k": 1}).seq == db.seq == 4
    assert c.delete(["a", "b"]).seq == db.seq == 5
    assert db.drop("c").seq == db.seq == 6


def test_a_commit_carries_the_root_that_stands_after_it(db: detmem.Database, notes: detmem.Collection) -> None:
    commit = notes.add("a", [1, 2])
    assert commit == detmem.Commit(2, db.state_root, False)  # nothing in memory is durable


def test_calls_that_change_nothing_log_nothing_and_return_what_stands(
    db: detmem.Database, fruit: detmem.Collection
) -> None:
    before = db.checkpoint()
    standing = detmem.Commit(db.seq, db.state_root, False)
    assert db.collection("notes", dim=2, metric="sqeuclidean", format="Q16.16").name == "notes"
    assert fruit.delete("nobody") == standing
    assert fruit.delete(["nobody", "none"]) == standing
    assert fruit.delete([]) == standing
    assert fruit.delete(where={"kind": "absent"}) == standing
    assert fruit.update(["plum", "pear"], metadatas=[None, None]) == standing
    with db.batch() as batch:
        pass
    assert batch.commit == standing
    assert db.checkpoint() == before


def test_adding_an_existing_id_writes_none_of_the_call(db: detmem.Database, fruit: detmem.Collection) -> None:
    before = db.checkpoint()
    with pytest.raises(detmem.DuplicateIdError, match="'pear'"):
        fruit.add(["new", "pear"], np.zeros((2, 2)))
    assert db.checkpoint() == before
    assert "new" not in fruit


def test_a_bare_id_with_a_flat_vector_is_one_record(notes: detmem.Collection) -> None:
    notes.add("abc", [1, 2], metadatas={"k": 1}, documents="text")
    assert list(notes) == ["abc"]
    assert notes.get("abc").documents == ["text"]
    notes.upsert("abc", [[5, 6]], metadatas=[{"k": 2}], documents=["other"])  # lists of one are the same thing
    assert notes.get("abc").metadatas == [{"k": 2}]
    notes.update("abc", vectors=[7, 8], documents="third")
    assert notes.get("abc", include=["raw"]).raw.tolist() == [[7 * ONE, 8 * ONE]]
    notes.delete("abc")
    assert len(notes) == 0


def test_one_flat_vector_does_not_go_with_a_list_of_ids(notes: detmem.Collection) -> None:
    with pytest.raises(detmem.DimensionError, match="bare id"):
        notes.add(["a"], [1, 2])
    with pytest.raises(detmem.DimensionError):
        notes.add(["a", "b"], [1, 2])


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1, 2], [3, -4]], dtype=np.float16),
        np.array([[1, 2], [3, -4]], dtype=np.float32),
        np.array([[1, 2], [3, -4]], dtype=np.float64),
        np.array([[1, 2], [3, -4]], dtype=">f4"),
        np.array([[1, 2], [3, -4]], dtype=np.int8),
        np.array([[1, 2], [3, -4]], dtype=np.int64),
        np.array([[1, 3], [2, -4]], dtype=np.float32).T,
        np.array([[1, 0, 2], [9, 9, 9], [3, 0, -4]], dtype=np.float64)[::2, ::2],
        np.array([[3, -4], [1, 2]], dtype=np.float32)[::-1],
        [[1, 2], [3, -4]],
        ([1.0, 2.0], np.array([3, -4])),
    ],
    ids=["f2", "f4", "f8", "big-endian", "i1", "i8", "transposed", "strided", "reversed", "lists", "mixed"],
)
def test_every_array_like_of_the_same_numbers_is_the_same_commit(db: detmem.Database, array: Any) -> None:
    plain = db.collection("plain", dim=2, metric="l2")
    plain.add(["a", "b"], np.array([[1.0, 2.0], [3.0, -4.0]]))
    raw = plain.get(include=["raw"]).raw
    assert raw.tolist() == [[ONE, 2 * ONE], [3 * ONE, -4 * ONE]]
    other = db.collection("other", dim=2, metric="l2")
    kept = np.array(array, copy=True)
    if isinstance(array, np.ndarray):
        array.flags.writeable = False
    other.add(["a", "b"], array)
    assert other.get(include=["raw"]).raw.tolist() == raw.tolist()
    assert other.search(array).raw.tolist() == [[0, 40 * SQUARE], [0, 40 * SQUARE]]  # 2^2 + 6^2 = 40
    assert np.array_equal(np.array(array), kept)


def test_a_memory_mapped_array_goes_in_and_stays_as_it_is(notes: detmem.Collection, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.arange(2000, dtype=np.float32).reshape(1000, 2))
    before = (tmp_path / "v.npy").read_bytes()
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    notes.add([f"{i:04}" for i in range(1000)], mapped)
    assert notes.get("0999", include=["vectors"]).vectors.tolist() == [[1998.0, 1999.0]]
    assert (tmp_path / "v.npy").read_bytes() == before


def test_ids_and_texts_may_be_arrays_and_tuples(notes: detmem.Collection) -> None:
    notes.add(np.array(["a", "b"]), np.eye(2), metadatas=({"k": np.int16(3)}, None), documents=np.array(["x", "y"]))
    found = notes.get()
    assert (found.ids, found.metadatas, found.documents) == (["a", "b"], [{"k": 3}, {}], ["x", "y"])
    assert all(type(id) is str for id in found.ids)


def test_raw_vectors_go_in_as_they_stand(db: detmem.Database) -> None:
    c = db.collection("c", dim=3)  # cosine, and yet nothing is normalised
    raw = np.array([[1, -2, 3], [1 << 30, 0, 0]], dtype=np.int32)
    c.add(["a", "b"], raw=raw)
    assert c.get(include=["raw"]).raw.tolist() == raw.tolist()
    assert c.search(raw=[1, -2, 3], k=1).raw.tolist() == [0]


def test_a_stored_vector_is_its_own_nearest_neighbour_at_zero_under_cosine(db: detmem.Database) -> None:
    c = db.collection("c", dim=3)
    c.add(["a", "b"], [[0.1, 0.7, -3e-300], [5e-324, 0, 0]])
    hits = c.search([[0.1, 0.7, -3e-300], [1e300, 0, 0]], k=1)
    assert hits.ids == [["a"], ["b"]]
    assert hits.raw.tolist() == [[0], [0]]


def test_none_in_metadatas_and_documents_of_add_is_absent(fruit: detmem.Collection) -> None:
    found = fruit.get(["plum", "pear", "fig", "lime"])
    assert found.documents == ["a plum", "", None, None]
    assert found.metadatas[3] == {}


def test_metadata_none_and_empty_are_one_value_and_document_none_and_empty_are_two() -> None:
    roots = {}
    for name, metadata, document in (("none", None, None), ("empty", {}, None), ("text", None, "")):
        with detmem.open(":memory:") as db:
            db.collection("c", dim=1, metric="l2").add("a", [1], metadatas=metadata, documents=document)
            roots[name] = db.state_root
    assert roots["none"] == roots["empty"]
    assert roots["none"] != roots["text"]


@pytest.mark.parametrize(
    "other",
    [
        {"vector": [2]},
        {"id": "b"},
        {"metadata": {"k": 1.0}},
        {"metadata": {"k": True}},
        {"metadata": {"j": 1}},
        {"document": "tex"},
        {"name": "d"},
        {"metric": "ip"},
        {"format": "Q8.24", "vector": [1 / 256]},
    ],
)
def test_everything_that_an_answer_depends_on_moves_the_root(other: dict[str, Any]) -> None:
    def root(name="c", id="a", vector=(1,), metadata=None, document="text", metric="l2", format="Q16.16") -> str:  # type: ignore[no-untyped-def]
        with detmem.open(":memory:") as db:
            db.collection(name, dim=1, metric=metric, format=format).add(
                id, list(vector), metadatas=metadata or {"k": 1}, documents=document
            )
            return db.state_root

    assert root(**other) != root()


def test_progress_is_told_and_an_interruption_writes_nothing(db: detmem.Database, notes: detmem.Collection) -> None:
    told: list[tuple[int, int]] = []
    notes.add(
        [f"{i:04}" for i in range(2500)], np.zeros((2500, 2)), progress=lambda done, total: told.append((done, total))
    )
    assert told[0] == (0, 2500)
    assert told[-1] == (2500, 2500)
    assert told == sorted(told)

    def stop(done: int, total: int) -> None:
        if done:
            raise RuntimeError("enough")

    before = db.checkpoint()
    with pytest.raises(RuntimeError, match="enough"):
        notes.upsert("0000", [1, 1], progress=stop)
    assert db.checkpoint() == before


def test_progress_true_prints_one_line_on_stderr_off_a_terminal(
    notes: detmem.Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    notes.add(["a", "b"], np.zeros((2, 2)), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "2 of 2 records\n"


# ---------------------------------------------------------------------------------------- upsert, update, delete


def test_upsert_replaces_the_whole_record(fruit: detmem.Collection) -> None:
    fruit.upsert(["plum", "new"], [[9, 9], [8, 8]])
    found = fruit.get(["plum", "new"], include=["metadatas", "documents", "vectors"])
    assert found.metadatas == [{}, {}]
    assert found.documents == [None, None]
    assert found.vectors.tolist() == [[9, 9], [8, 8]]


def test_update_merges_metadata_and_none_removes_a_key(fruit: detmem.Collection) -> None:
    fruit.update(["plum", "pear"], metadatas=[{"n": None, "new": [1, 2], "absent": None}, None])
    found = fruit.get(["plum", "pear"], include=["metadatas", "documents", "vectors"])
    assert found.metadatas == [{"kind": "stone", "new": [1, 2]}, {"kind": "pome", "n": 2.5}]
    assert found.documents == ["a plum", ""]
    assert found.vectors.tolist() == [[0, 0], [3, 4]]


def test_update_keeps_a_stored_none_that_it_does_not_name(notes: detmem.Collection) -> None:
    notes.add("a", [0, 0], metadatas={"seen": None, "k": 1})
    notes.update("a", metadatas={"k": 2})
    assert notes.get("a").metadatas == [{"seen": None, "k": 2}]
    notes.update("a", metadatas={"seen": None})
    assert notes.get("a").metadatas == [{"k": 2}]


def test_update_of_one_part_leaves_the_others(fruit: detmem.Collection) -> None:
    fruit.update("plum", vectors=[1, 1])
    fruit.update("pear", documents="a pear")
    fruit.update("fig", raw=[5, 6])
    found = fruit.get(["plum", "pear", "fig"], include=["metadatas", "documents", "raw"])
    assert found.documents == ["a plum", "a pear", None]
    assert found.metadatas[0] == {"kind": "stone", "n": 1}
    assert found.raw.tolist() == [[ONE, ONE], [3 * ONE, 4 * ONE], [5, 6]]


def test_update_with_an_unknown_id_writes_none_of_the_call(db: detmem.Database, fruit: detmem.Collection) -> None:
    before = db.checkpoint()
    with pytest.raises(detmem.NotFoundError, match="nobody"):
        fruit.update(["plum", "nobody"], documents=["x", "y"])
    with pytest.raises(detmem.NotFoundError, match="nobody"):
        fruit.update(["plum", "nobody"], documents=[None, None])
    assert db.checkpoint() == before


def test_what_is_wrong_with_vectors_is_said_of_the_argument_they_came_in(fruit: detmem.Collection) -> None:
    for name, rows in (("vectors", [[1.0, 2.0]]), ("raw", [[1, 2]])):
        for call in (fruit.add, fruit.upsert, fruit.update):
            with pytest.raises(detmem.DimensionError, match=f"^{name}: expected 2, one for each id, found 1"):
                call(["fig", "lime"], **{name: rows})
            with pytest.raises(detmem.DimensionError, match=f"^{name}: expected 1 x 2, found one vector of 2"):
                call(["fig"], **{name: rows[0]})
        with pytest.raises(detmem.DimensionError, match=f"^{name}: expected 3, one for each id, found 2"):
            fruit.update(["fig", "lime", "pear"], **{name: [None, rows[0]]})
        with pytest.raises(detmem.DimensionError, match=rf"^{name}\[1\]"):
            fruit.update(["fig", "lime"], **{name: [None, [*rows[0], 3]]})


def test_an_update_that_would_outgrow_the_metadata_limit_is_refused(
    db: detmem.Database, notes: detmem.Collection
) -> None:
    notes.add("a", [0, 0], metadatas={"x": "x" * 40_000})
    before = db.checkpoint()
    with pytest.raises(detmem.UsageError, match="65536"):
        notes.update("a", metadatas={"y": "y" * 40_000})
    assert db.checkpoint() == before


def test_the_state_after_an_update_is_that_of_an_add_of_the_result() -> None:
    roots = []
    for updated in (True, False):
        with detmem.open(":memory:") as db:
            c = db.collection("c", dim=1, metric="l2")
            if updated:
                c.add("a", [1], metadatas={"x": 1, "y": 2}, documents="old")
                c.update("a", vectors=[2], metadatas={"x": None, "z": "z"}, documents="new")
            else:
                c.add("a", [2], metadatas={"z": "z", "y": 2}, documents="new")
            roots.append(db.state_root)
    assert roots[0] == roots[1]


def test_delete_by_ids_by_where_and_with_unknown_ids(db: detmem.Database, fruit: detmem.Collection) -> None:
    fruit.delete(["plum", "nobody"])
    assert list(fruit) == ["fig", "lime", "pear"]
    fruit.delete(where={"kind": {"$in": ["pome", "other"]}})
    assert list(fruit) == ["lime"]
    before = db.checkpoint()
    with pytest.raises(detmem.NotFoundError, match="plum"):
        fruit.delete(["lime", "plum"], missing="error")
    assert db.checkpoint() == before


def test_nothing_deletes_everything_by_default(db: detmem.Database, fruit: detmem.Collection) -> None:
    before = db.checkpoint()
    for call in (fruit.delete, lambda: fruit.delete(where={}), lambda: fruit.delete("plum", where={"n": 1})):
        with pytest.raises(detmem.UsageError):
            call()
    assert db.checkpoint() == before


def test_a_deleted_id_can_be_added_again(fruit: detmem.Collection) -> None:
    fruit.delete("plum")
    fruit.add("plum", [7, 7])
    assert fruit.get("plum", include=["vectors", "documents"]).vectors.tolist() == [[7, 7]]
    assert fruit.search([7, 7], k=1).ids == ["plum"]


# ------------------------------------------------------------------------------------------------------------ getting


def test_get_gives_ids_in_the_order_asked_repeated_ones_too(fruit: detmem.Collection) -> None:
    found = fruit.get(["pear", "fig", "pear"])
    assert found.ids == ["pear", "fig", "pear"]
    assert len(found) == 3
    found.metadatas[0]["kind"] = "changed"
    assert found.metadatas[2]["kind"] == "pome"


def test_get_of_an_unknown_id_is_refused_or_skipped(fruit: detmem.Collection) -> None:
    with pytest.raises(detmem.NotFoundError, match="nobody") as caught:
        fruit.get(["pear", "nobody"])
    assert isinstance(caught.value, KeyError)
    assert str(caught.value) == "no record 'nobody' in collection 'notes'"
    assert fruit.get(["pear", "nobody", "fig"], missing="ignore").ids == ["pear", "fig"]
    assert fruit.get([]).ids == []


def test_paging_is_in_id_order_whatever_the_history(notes: detmem.Collection) -> None:
    for id in ("d", "a", "c", "e", "b"):
        notes.add(id, [0, 0])
    notes.upsert("a", [1, 1])
    notes.delete("c")
    assert [notes.get(limit=2, offset=at).ids for at in (0, 2, 4, 9)] == [["a", "b"], ["d", "e"], [], []]
    assert notes.get(limit=0).ids == []
    assert notes.get(offset=1).ids == ["b", "d", "e"]
    assert notes.get(["e", "a", "b"], offset=1, limit=1).ids == ["a"]


def test_records_are_one_by_one_what_they_are_by_position(fruit: detmem.Collection) -> None:
    found = fruit.get(["pear", "fig"], include=("metadatas", "documents", "vectors", "raw"))
    pear, fig = found
    assert (pear.id, pear.metadata, pear.document) == ("pear", {"kind": "pome", "n": 2.5}, "")
    assert (fig.id, fig.metadata, fig.document) == ("fig", {"kind": "other", "tags": ["a", 1]}, None)
    assert (pear.vector.tolist(), fig.raw.tolist()) == ([3.0, 4.0], [-ONE, 0])
    assert found[-1].id == "fig"
    assert [one.id for one in found[::-1]] == ["fig", "pear"]
    assert list(fruit.get([])) == []
    (bare,) = fruit.get("plum", include=())
    assert (bare.id, bare.metadata, bare.document, bare.vector, bare.raw) == ("plum", None, None, None, None)
    with pytest.raises(IndexError):
        found[2]
    with pytest.raises(detmem.UsageError, match="records index: expected int or slice, found str"):
        found["pear"]


def test_get_with_where_and_ids_means_both(fruit: detmem.Collection) -> None:
    assert fruit.get(where={"n": {"$gt": 0}}).ids == ["pear", "plum"]
    assert fruit.get(["plum", "lime", "pear"], where={"n": {"$gt": 0}}).ids == ["plum", "pear"]


def test_what_is_not_included_is_none(fruit: detmem.Collection) -> None:
    bare = fruit.get("plum", include=())
    assert (bare.ids, bare.metadatas, bare.documents, bare.vectors, bare.raw) == (["plum"], None, None, None, None)
    numbers = fruit.get(include=("vectors", "raw"))
    assert numbers.metadatas is None
    assert numbers.vectors.dtype == np.float64
    assert numbers.raw.dtype == np.int32
    assert numbers.vectors.tolist() == [WORDS[id] for id in sorted(WORDS)]
    assert fruit.get([], include=("vectors", "raw")).raw.shape == (0, 2)


def test_results_are_copies(db: detmem.Database, fruit: detmem.Collection) -> None:
    before = db.checkpoint()
    found = fruit.get(include=("metadatas", "documents", "vectors", "raw"))
    found.metadatas[0]["tags"].append("mine")
    found.raw[:] = 0
    found.vectors[:] = 0
    found.ids.clear()
    hits = fruit.search([0, 0])
    hits.metadatas[0]["kind"] = "mine"
    hits.ids.clear()
    assert fruit.get("fig").metadatas == [{"kind": "other", "tags": ["a", 1]}]
    assert fruit.search([0, 0]).metadatas[0] == {"kind": "stone", "n": 1}
    assert fruit.get(include=["vectors"]).vectors.tolist() == [WORDS[id] for id in sorted(WORDS)]
    assert db.verify().ok
    assert db.checkpoint() == before


def test_metadata_handed_in_is_copied(notes: detmem.Collection) -> None:
    metadata = {"b": [1, 2], "a": "x"}
    vector = np.array([1.0, 2.0])
    notes.add("a", vector, metadatas=metadata)
    metadata["b"].append(3)  # type: ignore[attr-defined]
    vector[:] = 9
    assert notes.get("a", include=["metadatas", "vectors"]).metadatas == [{"b": [1, 2], "a": "x"}]
    assert notes.search([1, 2]).raw.tolist() == [0]


# ---------------------------------------------------------------------------------------------------------- searching


def test_one_query_gives_a_flat_result_with_hits(db: detmem.Database, fruit: detmem.Collection) -> None:
    result = fruit.search([0, 0], k=3)
    assert result.ids == ["plum", "fig", "pear"]
    assert result.raw.tolist() == [0, SQUARE, 25 * SQUARE]
    assert result.raw.dtype == np.int64
    assert result.distances.tolist() == [0.0, 1.0, 25.0]
    assert result.distances.dtype == np.float64
    assert result.documents == ["a plum", None, ""]
    assert result.seq == db.seq
    assert len(result) == 3
    first = detmem.Hit("plum", 0.0, 0, {"kind": "stone", "n": 1}, "a plum")
    assert result[0] == next(iter(result)) == first
    assert result[-1].id == "pear"
    assert [hit.id for hit in result] == [hit.id for hit in result[:]] == result.ids
    with pytest.raises(IndexError):
        result[3]


def test_several_queries_give_a_result_of_results(fruit: detmem.Collection) -> None:
    result = fruit.search([[0, 0], [3, 4], [6, 8]], k=2)
    assert result.ids == [["plum", "fig"], ["pear", "lime"], ["lime", "pear"]]  # to 'pear' it is 25 from both others
    assert result.raw.shape == (3, 2)
    assert len(result) == 3
    assert [one.ids for one in result] == result.ids
    assert result[1][0].id == "pear"
    assert fruit.search([[0, 0]], k=1).ids == [["plum"]]


def test_ties_go_to_the_lower_id_in_utf8_order(notes: detmem.Collection) -> None:
    ids = ["\U0001f600", "\uffff", "b", "a", "ab", "Z"]
    notes.add(ids, np.zeros((6, 2)))
    order = sorted(ids, key=str.encode)
    for k in range(1, 7):
        assert notes.search([1, 0], k=k).ids == order[:k]


def test_fewer_matches_than_k_give_fewer_hits_without_padding(fruit: detmem.Collection) -> None:
    assert len(fruit.search([0, 0], k=99)) == 4
    assert fruit.search([[0, 0], [1, 1]], k=99, ids=["fig"]).raw.shape == (2, 1)
    none = fruit.search([0, 0], where={"kind": "absent"})
    assert (none.ids, none.raw.shape, none.distances.shape, list(none)) == ([], (0,), (0,), [])
    many = fruit.search([[0, 0], [1, 1]], ids=[])
    assert (many.ids, many.raw.shape, many.distances.shape) == ([[], []], (2, 0), (2, 0))


def test_an_empty_collection_answers_with_nothing(notes: detmem.Collection) -> None:
    assert notes.search([0, 0]).ids == []
    assert notes.get().ids == []
    assert notes.count(where={"x": {"$gt": 1}}) == 0
    assert list(notes) == []


def test_ids_restrict_and_unknown_ones_cannot_answer(fruit: detmem.Collection) -> None:
    assert fruit.search([0, 0], ids=["pear", "nobody", "pear", "lime"]).ids == ["pear", "lime"]
    assert fruit.search([0, 0], ids="pear").ids == ["pear"]
    assert fruit.search([0, 0], ids=["pear", "fig"], where={"kind": "other"}).ids == ["fig"]


def test_search_includes_only_what_was_asked(fruit: detmem.Collection) -> None:
    bare = fruit.search([0, 0], k=1, include=())
    assert (bare.metadatas, bare.documents) == (None, None)
    assert bare[0] == detmem.Hit("plum", 0.0, 0, None, None)
    assert fruit.search([[0, 0]], k=1, include=["documents"]).documents == [["a plum"]]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, ["fig", "lime", "pear", "plum"]),
        ({}, ["fig", "lime", "pear", "plum"]),
        ({"kind": "stone"}, ["plum"]),
        ({"kind": {"$eq": "stone"}}, ["plum"]),
        ({"kind": {"$ne": "stone"}}, ["fig", "lime", "pear"]),
        ({"n": {"$gt": 1}}, ["pear"]),
        ({"n": {"$gte": 1, "$lt": 2}}, ["plum"]),
        ({"n": {"$lte": 2.5}, "kind": "pome"}, ["pear"]),
        ({"kind": {"$in": ["pome", "stone"]}}, ["pear", "plum"]),
        ({"kind": {"$nin": ["pome", "stone"]}}, ["fig", "lime"]),
        ({"tags": {"$exists": True}}, ["fig"]),
        ({"tags": {"$exists": False}}, ["lime", "pear", "plum"]),
        ({"tags": {"$contains": 1}}, ["fig"]),
        ({"tags": {"$contains": True}}, []),
        ({"kind": {"$contains": "o"}}, ["fig", "pear", "plum"]),
        ({"tags": ["a", 1]}, ["fig"]),
        ({"tags": ["a"]}, []),
        ({"n": True}, []),
        ({"n": 1.0}, ["plum"]),
        ({"$and": [{"n": {"$exists": True}}, {"$not": {"n": 1}}]}, ["pear"]),
        ({"$or": [{"n": 1}, {"tags": {"$exists": True}}]}, ["fig", "plum"]),
    ],
)
def test_where_chooses_the_same_records_in_get_search_count_and_delete(
    db: detmem.Database, fruit: detmem.Collection, where: Any, expected: list[str]
) -> None:
    assert fruit.get(where=where).ids == expected
    assert sorted(fruit.search([0, 0], where=where).ids) == expected
    assert fruit.count(where=where) == len(expected)
    if where:
        fruit.delete(where=where)
        assert list(fruit) == [id for id in sorted(WORDS) if id not in expected]


@pytest.mark.parametrize("most", [1, 3, 50])
def test_few_and_many_matches_come_in_id_order(db: detmem.Database, most: int) -> None:
    numbers = db.collection("numbers", dim=1)
    shuffled = np.random.default_rng(8).permutation(50).tolist()
    numbers.add([f"{n:02}" for n in shuffled], np.ones((50, 1)), metadatas=[{"n": n} for n in shuffled])
    assert numbers.get(where={"n": {"$lt": most}}).ids == [f"{n:02}" for n in range(most)]
    assert numbers.get(where={"n": {"$lt": most}}, limit=1, offset=most - 1).ids == [f"{most - 1:02}"]


def test_a_delete_chooses_alike_within_a_batch_and_without(db: detmem.Database) -> None:
    """First of a batch, after writes of the batch, and alone: three ways to the same records."""
    ids, where = [f"{n}" for n in range(9)], {"n": {"$gte": 5}}
    for name in ("alone", "first", "later"):
        db.collection(name, dim=1).add(ids, np.ones((9, 1)), metadatas=[{"n": n} for n in range(9)])
    db["alone"].upsert("0", [1], metadatas={"n": 7})
    db["alone"].delete(where=where)
    with db.batch():
        db["first"].delete(where={"n": 5})
        db["first"].upsert("0", [1], metadatas={"n": 7})
        db["first"].delete(where=where)
    with db.batch():
        db["later"].upsert("0", [1], metadatas={"n": 7})
        db["later"].delete(where=where)
    assert list(db["alone"]) == list(db["first"]) == list(db["later"]) == ["1", "2", "3", "4"]


def test_an_order_against_another_type_is_refused_whatever_the_rest_says(
    db: detmem.Database, fruit: detmem.Collection
) -> None:
    """'n' is a number somewhere, so ordering it against a str is an error, also where nobody would look."""
    before = db.checkpoint()
    conflict = {"$or": [{"kind": {"$exists": False}}, {"n": {"$gt": "x"}}]}
    for call in (
        lambda: fruit.get(where=conflict),
        lambda: fruit.get("lime", where=conflict),
        lambda: fruit.get([], where=conflict),
        lambda: fruit.search([0, 0], where=conflict),
        lambda: fruit.search([0, 0], where=conflict, ids=["lime"]),
        lambda: fruit.search([0, 0], where=conflict, ids=[]),
        lambda: fruit.count(where=conflict),
        lambda: fruit.delete(where=conflict),
    ):
        with pytest.raises(detmem.UsageError, match="'n'"):
            call()
    assert db.checkpoint() == before
    fruit.delete(["plum", "pear"])  # the records that stored numbers: dead ones do not conflict
    assert fruit.get(where=conflict).ids == ["lime"]
    assert fruit.search([0, 0], where=conflict).ids == ["lime"]


def test_a_dead_version_neither_answers_nor_conflicts(fruit: detmem.Collection) -> None:
    fruit.upsert("plum", [100, 0], metadatas={"n": "text"})
    fruit.update("pear", metadatas={"n": None})
    assert fruit.search([0, 0], k=2).ids == ["fig", "pear"]
    assert fruit.count(where={"n": {"$gte": "a"}}) == 1


# ------------------------------------------------------------------------------------------------ exact, by big ints

LONGEST = 1 << 30  # of an admitted vector, in raw units


def _admitted(raw: list[int]) -> bool:
    return sum(x * x for x in raw) <= LONGEST * LONGEST


def _brute(metric: str, rows: dict[str, list[int]], query: list[int], k: int) -> list[tuple[str, int]]:
    """The definition, in Python integers."""

    def distance(row: list[int]) -> int:
        if metric == "ip":
            return -sum(x * q for x, q in zip(row, query, strict=True))
        return sum((x - q) ** 2 for x, q in zip(row, query, strict=True))

    return sorted(((id, distance(row)) for id, row in rows.items()), key=lambda hit: (hit[1], hit[0].encode()))[:k]


@st.composite
def _worlds(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]]]:
    """Rows and queries over the whole admitted range, with duplicates, opposite extremes and near ties."""
    dimension = draw(st.integers(1, 200))
    bound = LONGEST if dimension == 1 else draw(st.sampled_from([1, 3, 1 << 16, 1 << 25, LONGEST]))
    seed = draw(st.integers(0, 2**32 - 1))
    source = np.random.default_rng(seed)
    count = draw(st.integers(1, 24))
    rows = [[int(x) for x in source.integers(-bound, bound, dimension, endpoint=True)] for _ in range(count)]
    for row in rows:  # shorten what is too long: the longest that is admitted stays interesting
        squared = sum(x * x for x in row)
        if squared > LONGEST * LONGEST:
            factor = LONGEST / squared**0.5 * 0.999999
            row[:] = [int(x * factor) for x in row]
    spike = [0] * dimension
    spike[draw(st.integers(0, dimension - 1))] = draw(st.sampled_from([LONGEST, -LONGEST]))
    rows += [spike, [-x for x in spike], list(rows[0]), [0] * dimension]
    rows[-1][0] = 1
    queries = [list(draw(st.sampled_from(rows))) for _ in range(draw(st.integers(1, 4)))]
    if draw(st.booleans()):
        queries[0][-1] += 1
    return rows, queries


@pytest.mark.parametrize("kernel", ["reference", "portable"])
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@settings(max_examples=25)
@given(world=_worlds(), k=st.integers(1, 40), modulus=st.integers(1, 4), dead=st.integers(0, 6))
@example(world=([[LONGEST], [-LONGEST], [0]], [[-LONGEST], [LONGEST]]), k=3, modulus=1, dead=0)
def test_top_k_is_the_big_integer_answer(
    kernel: str, metric: str, world: tuple[list[list[int]], list[list[int]]], k: int, modulus: int, dead: int
) -> None:
    rows, queries = world
    assume(all(map(_admitted, rows + queries)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETMEM_KERNEL", kernel)
        db = detmem.open(":memory:")
    c = db.collection("c", dim=len(rows[0]), metric=metric)
    ids = [f"{index * 7 % len(rows):03}" if len(rows) % 7 else f"{index:03}" for index in range(len(rows))]
    c.add(ids, raw=rows, metadatas=[{"m": index % modulus} for index in range(len(rows))])
    gone = ids[: min(dead, len(ids) - 1)]
    c.delete(gone)
    live = {id: row for id, row in zip(ids, rows, strict=True) if id not in gone}
    matching = {id: live[id] for index, id in enumerate(ids) if id in live and index % modulus == 0}
    few = sorted(live)[::2]
    for where, restricted, candidates in (
        (None, None, live),
        ({"m": 0}, None, matching),
        ({"m": {"$lt": 1}}, few, {id: row for id, row in matching.items() if id in few}),
    ):
        batch = c.search(raw=queries, k=k, where=where, ids=restricted)
        for index, query in enumerate(queries):
            expected = _brute(metric, candidates, query, k)
            single = c.search(raw=query, k=k, where=where, ids=restricted)
            assert list(zip(single.ids, single.raw.tolist(), strict=True)) == expected
            assert list(zip(batch[index].ids, batch[index].raw.tolist(), strict=True)) == expected
            shorter = c.search(raw=query, k=max(1, k // 2), where=where, ids=restricted)
            assert shorter.ids == single.ids[: max(1, k // 2)]
            scale = 2**33 if metric == "cosine" else 2**32
            assert single.distances.tolist() == [raw / scale for _, raw in expected]
