"""Bad input: each wrong call is a typed error that says what and where, and nothing has happened.

Every line of the tables runs against a store on disk.  Before and after, all its bytes are hashed: none may change.
Afterwards the handle still writes and answers.
"""

from __future__ import annotations

import hashlib
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

import detmem
from detmem import (
    DimensionError,
    DuplicateIdError,
    FormatError,
    LockedError,
    NotFoundError,
    RangeError,
    ReadOnlyError,
    StoreExistsError,
    StoreNotFoundError,
    UsageError,
)

NAN, INF = math.nan, math.inf
DIMENSION = 3


def fingerprint(folder: Path) -> dict[str, str]:
    """Every name under a folder, with the hash of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def db(store: Path) -> Iterator[detmem.Database]:
    with detmem.open(store) as database:
        notes = database.collection("notes", dim=DIMENSION, metric="l2")
        notes.add(["a", "b"], [[1, 2, 3], [4, 5, 6]], metadatas=[{"n": 1}, {"s": "x"}], documents=["one", None])
        database.collection("angles", dim=DIMENSION)
        yield database


def row(*values: Any, count: int = 2) -> list[list[Any]]:
    """``count`` good rows of which the last ends in ``values``."""
    good: list[list[Any]] = [[1.0, 2.0, 3.0] for _ in range(count)]
    good[-1][DIMENSION - len(values) :] = values
    return good


class Ruined:
    """An array_like that breaks when it is looked at."""

    def __array__(self, *args: object, **kwargs: object) -> None:
        raise RuntimeError("no array here")


NEW = ["x", "y"]
LONG_METADATA = {"k": "v" * 65_536}

# (a name, the call, the error, what its message must hold)
VECTORS: list[tuple[str, Any, type[Exception], list[str]]] = [
    ("nan", row(NAN), RangeError, ["vector 1, column 2", "nan"]),
    ("infinite", row(INF, 0), RangeError, ["vector 1, column 1", "inf"]),
    ("minus infinite", row(-INF), RangeError, ["vector 1, column 2", "-inf"]),
    ("too large", row(32768.0), RangeError, ["vector 1, column 2", "32768"]),
    ("too small", row(-32768.1), RangeError, ["vector 1, column 2", "-32768.1"]),
    ("1e300", row(1e300), RangeError, ["vector 1, column 2", "1e+300"]),
    ("rounds out of range", row(32767.999999), RangeError, ["vector 1, column 2"]),
    ("norm too long", row(16384.0, 1.0), RangeError, ["vector 1", "16384"]),
    ("norm too long by one bit", row(0.0, 16384.0, 1 / 65536), RangeError, ["vector 1", str(2**60 + 1)]),
    ("an int that float64 cannot hold", row(2**53 + 1), RangeError, [str(2**53 + 1)]),
    ("one too short", [[1.0, 2.0], [1.0, 2.0]], DimensionError, ["vector 0 has 2 dimensions", "'notes' has 3"]),
    ("one too long", np.zeros((2, 4)), DimensionError, ["vector 0 has 4 dimensions", "'notes' has 3"]),
    ("ragged", [[1, 2, 3], [1, 2]], DimensionError, ["vector 1 has 2 dimensions, collection 'notes' has 3"]),
    ("one vector for two ids", np.zeros((1, 3)), DimensionError, ["expected 2", "found 1"]),
    ("three vectors for two ids", np.zeros((3, 3)), DimensionError, ["expected 2", "found 3"]),
    ("flat for a list of ids", [1, 2, 3], DimensionError, ["2 x 3"]),
    ("3-D", np.zeros((2, 3, 1)), DimensionError, ["3-D"]),
    ("0-D", 5, DimensionError, ["0-D"]),
    ("empty list", [], DimensionError, ["none"]),
    ("no rows", np.zeros((0, 3)), DimensionError, ["none"]),
    ("rows of nothing", [[], []], DimensionError, ["0 dimensions", "3"]),
    ("objects", np.array([[1, 2, 3], [1, 2, 3]], dtype=object), UsageError, ["object"]),
    ("None inside", row(None), UsageError, ["object"]),
    ("ints beyond 64 bits", row(2**70), RangeError, ["vector 1, column 2", "one of 71"]),
    ("ints beyond what Python prints", row(10**5000), RangeError, ["vector 1, column 2", "one of 16610"]),
    ("strings", [["1", "2", "3"]] * 2, UsageError, ["<U1"]),
    ("a str", "abc", UsageError, ["<U3"]),
    ("bytes", b"abc", UsageError, ["S3"]),
    ("bools", [[True, False, True]] * 2, UsageError, ["bool"]),
    ("complex", row(1j), UsageError, ["complex"]),
    ("dates", np.zeros((2, 3), dtype="M8[D]"), UsageError, ["datetime64"]),
    ("long doubles", np.zeros((2, 3), dtype=np.longdouble), UsageError, ["expected float16, float32, float64"]),
    ("masked", np.ma.masked_invalid([[1, 2, NAN], [1, 2, 3]]), UsageError, ["masked"]),
    ("structured", np.zeros((2, 3), dtype=[("f", "f4")]), UsageError, ["expected float16, float32, float64"]),
    ("a set", {1, 2, 3}, UsageError, ["object"]),
    ("a generator", (x for x in ([1, 2, 3], [4, 5, 6])), UsageError, ["object"]),
    ("a broken array_like", Ruined(), UsageError, ["no array here"]),
]
if np.dtype(np.longdouble) == np.dtype(np.float64):  # Windows, some ARM: then it is an ordinary float
    VECTORS = [case for case in VECTORS if case[0] != "long doubles"]

RAW: list[tuple[str, Any, type[Exception], list[str]]] = [
    ("floats", np.zeros((2, 3)), UsageError, ["float64"]),
    ("beyond int32", [[1, 2, 3], [1, 2, 2**31]], RangeError, ["vector 1, column 2", str(2**31)]),
    ("beyond int32, unsigned", np.full((2, 3), 2**32 - 1, dtype=np.uint32), RangeError, ["vector 0, column 0"]),
    ("too long by one unit", [[0, 0, 1], [2**30, 0, 1]], RangeError, ["vector 1", str(2**60 + 1)]),
    ("the end of int32", [[0, 0, 1], [-(2**31), 0, 0]], RangeError, ["vector 1", str(2**62)]),
    ("one too short", np.zeros((2, 2), dtype=np.int32), DimensionError, ["2 dimensions", "'notes' has 3"]),
]

IDS: list[tuple[str, Any, type[Exception], list[str]]] = [
    ("twice in one call", ["x", "x"], DuplicateIdError, ["ids[1]", "'x'", "ids[0]"]),
    ("an int", ["x", 5], UsageError, ["ids[1]", "int"]),
    ("None", ["x", None], UsageError, ["ids[1]", "NoneType"]),
    ("bytes", [b"x", "y"], UsageError, ["ids[0]", "bytes"]),
    ("a numpy int", np.array([1, 2]), UsageError, ["ids[0]", "int"]),
    ("the empty str", ["x", ""], UsageError, ["ids[1]", "1..512", "found 0"]),
    ("513 bytes", ["x", "é" * 256 + "x"], UsageError, ["ids[1]", "1..512", "513"]),
    ("a lone surrogate", ["x", "\ud800"], UsageError, ["ids[1]", "U+D800"]),
    ("a set", {"x", "y"}, UsageError, ["ids", "set"]),
    ("a map", {"x": 1, "y": 2}, UsageError, ["ids", "dict"]),
    ("a generator", (id for id in NEW), UsageError, ["ids", "generator"]),
    ("an int alone", 5, UsageError, ["ids", "int"]),
    ("None alone", None, UsageError, ["ids", "NoneType"]),
    ("bytes alone", b"xy", UsageError, ["ids", "bytes"]),
    ("no ids", [], UsageError, ["ids", "none"]),
    ("nested", [["x"], ["y"]], UsageError, ["ids[0]", "list"]),
    ("2-D", np.array([["x"], ["y"]]), UsageError, ["ids", "ndarray"]),
]

METADATAS: list[tuple[str, Any, list[str]]] = [
    ("an int for a map", [{}, 5], ["metadatas[1]", "int"]),
    ("a list for a map", [{}, [1]], ["metadatas[1]", "list"]),
    ("too few", [{}], ["metadatas", "expected 2", "found 1"]),
    ("too many", [{}, {}, {}], ["metadatas", "expected 2", "found 3"]),
    ("one map for two", {"k": 1}, ["metadatas", "dict"]),
    ("a str", "ab", ["metadatas", "str"]),
    ("a key that is no str", [{}, {1: 1}], ["metadatas[1]", "int", "1"]),
    ("a surrogate key", [{}, {"\ud800": 1}], ["metadatas[1]", "U+D800"]),
    ("nan", [{}, {"k": NAN}], ["metadatas[1]['k']", "nan"]),
    ("inf", [{}, {"k": [1, INF]}], ["metadatas[1]['k'][1]", "inf"]),
    ("2**63", [{}, {"k": 2**63}], ["metadatas[1]['k']", "64 bits"]),
    ("-2**63 - 1", [{}, {"k": -(2**63) - 1}], ["metadatas[1]['k']", "64 bits"]),
    ("uint64 beyond", [{}, {"k": np.uint64(2**63)}], ["metadatas[1]['k']", "64 bits"]),
    ("bytes", [{}, {"k": b"x"}], ["metadatas[1]['k']", "bytes"]),
    ("a tuple", [{}, {"k": (1,)}], ["metadatas[1]['k']", "tuple"]),
    ("a set", [{}, {"k": {1}}], ["metadatas[1]['k']", "set"]),
    ("a nested map", [{}, {"k": {"a": 1}}], ["metadatas[1]['k']", "dict"]),
    ("a nested list", [{}, {"k": [[1]]}], ["metadatas[1]['k'][0]", "list"]),
    ("an array", [{}, {"k": np.zeros(2)}], ["metadatas[1]['k']", "ndarray"]),
    ("complex", [{}, {"k": 1j}], ["metadatas[1]['k']", "complex"]),
    ("a date", [{}, {"k": np.datetime64("2024-01-01")}], ["metadatas[1]['k']", "datetime64"]),
    ("a duration", [{}, {"k": np.timedelta64(1, "s")}], ["metadatas[1]['k']", "timedelta64"]),
    ("an object", [{}, {"k": object()}], ["metadatas[1]['k']", "object"]),
    ("a surrogate", [{}, {"k": "\udfff"}], ["metadatas[1]['k']", "U+DFFF"]),
    ("more than 64 KiB", [{}, LONG_METADATA], ["metadatas[1]", "65536"]),
]

DOCUMENTS: list[tuple[str, Any, list[str]]] = [
    ("an int", ["x", 5], ["documents[1]", "int"]),
    ("bytes", ["x", b"y"], ["documents[1]", "bytes"]),
    ("a map", ["x", {}], ["documents[1]", "dict"]),
    ("too few", ["x"], ["documents", "expected 2", "found 1"]),
    ("a str for two", "xy", ["documents", "str"]),
    ("a surrogate", ["x", "\ud83d"], ["documents[1]", "U+D83D"]),
    ("more than 8 MiB", ["x", "é" * (4 * 1024 * 1024) + "x"], ["documents[1]", str(8 * 1024 * 1024)]),
]

WHERE: list[tuple[str, Any]] = [
    ("an unknown operator", {"n": {"$near": 1}}),
    ("an operator as a field", {"$gt": 1}),
    ("an unknown $-key", {"$xor": [{}]}),
    ("operators beside plain keys", {"n": {"$gt": 1, "x": 2}}),
    ("no operator", {"n": {}}),
    ("a list", [{"n": 1}]),
    ("an empty list", []),
    ("a str", "n = 1"),
    ("an int", 0),
    ("$and of a map", {"$and": {"n": 1}}),
    ("$or of nothing", {"$or": []}),
    ("$not of a list", {"$not": [{"n": 1}]}),
    ("$not of None", {"$not": None}),
    ("$not inside a field", {"n": {"$not": {"$gt": 1}}}),
    ("$in of a scalar", {"n": {"$in": 1}}),
    ("$nin of a set", {"n": {"$nin": {1}}}),
    ("$exists of an int", {"n": {"$exists": 1}}),
    ("$contains of a list", {"n": {"$contains": [1]}}),
    ("an order with a bool", {"n": {"$gt": True}}),
    ("an order with None", {"n": {"$lt": None}}),
    ("an order with a list", {"n": {"$lt": [1]}}),
    ("an order with nan", {"n": {"$lt": NAN}}),
    ("equal to nan", {"n": NAN}),
    ("equal to a tuple", {"n": (1,)}),
    ("equal to 2**63", {"n": 2**63}),
    ("a key that is no str", {1: 1}),
    ("a number ordered with a str", {"n": {"$gte": "x"}}),
    ("a str ordered with a number", {"s": {"$lt": 3.5}}),
    ("a conflict behind a clause that decides", {"$and": [{"n": 77}, {"s": {"$lt": 3}}]}),
]


def named(table: list[Any]) -> Any:
    return [pytest.param(*case[1:], id=case[0]) for case in table]


def refused(
    db: detmem.Database, store: Path, error: type[Exception], words: list[str], call: Callable[[], Any]
) -> None:
    """The call raises exactly this error, with these words, and nothing has changed; afterwards all still works."""
    before, checkpoint = fingerprint(store), db.checkpoint()
    with pytest.raises(detmem.DetmemError) as caught:
        call()
    assert type(caught.value) is error, repr(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert fingerprint(store) == before
    assert db.checkpoint() == checkpoint
    notes = db.collection("notes")
    notes.add("after", [7, 8, 9])
    assert notes.search([7, 8, 9], k=1).ids == ["after"]
    assert db.seq == checkpoint.seq + 1
    assert db.verify().ok


# ---------------------------------------------------------------------------------------------------------- the tables


@pytest.mark.parametrize("vectors, error, words", named(VECTORS))
def test_bad_vectors_in_add(
    db: detmem.Database, store: Path, vectors: Any, error: type[Exception], words: list[str]
) -> None:
    refused(db, store, error, words, lambda: db["notes"].add(NEW, vectors))


@pytest.mark.parametrize("method", ["upsert", "update"])
@pytest.mark.parametrize("vectors, error, words", named([case for case in VECTORS if case[0] not in ("a generator",)]))
def test_bad_vectors_in_upsert_and_update(
    db: detmem.Database, store: Path, method: str, vectors: Any, error: type[Exception], words: list[str]
) -> None:
    refused(db, store, error, words, lambda: getattr(db["notes"], method)(["a", "b"], vectors=vectors))


@pytest.mark.parametrize(
    "query, words",
    [
        ([1, 2, NAN], ["nan", "column 2"]),
        ([[1, 2, 3], [INF, 0, 0]], ["query 1, column 0", "inf"]),
        ([16384, 16384, 0], ["query", "16384"]),
        ([1, 2], ["query", "2 dimensions", "'notes' has 3"]),
        ([[1, 2, 3, 4]], ["query", "4 dimensions", "'notes' has 3"]),
        ([], ["query", "none"]),
        (np.zeros((0, 3)), ["query", "none"]),
        (np.zeros((1, 1, 3)), ["query", "3-D"]),
        ("abc", ["query", "<U3"]),
        (None, ["exactly one", "none"]),
        ([None, 1, 2], ["object"]),
    ],
)
def test_bad_queries(db: detmem.Database, store: Path, query: Any, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        db["notes"].search(query)
    refused(db, store, type(caught.value), words, lambda: db["notes"].search(query))


@pytest.mark.parametrize("raw, error, words", named(RAW))
def test_bad_raw_vectors(db: detmem.Database, store: Path, raw: Any, error: type[Exception], words: list[str]) -> None:
    refused(db, store, error, words, lambda: db["notes"].add(NEW, raw=raw))


@pytest.mark.parametrize(
    "vectors, word",
    [([0, 0, 0], "zero"), ([0.0, -0.0, 0.0], "zero"), ([0, NAN, 0], "column 1"), ([INF, 0, 0], "column 0")],
)
def test_what_has_no_direction_is_refused_under_cosine(
    db: detmem.Database, store: Path, vectors: Any, word: str
) -> None:
    refused(db, store, RangeError, [word], lambda: db["angles"].add("x", vectors))
    with pytest.raises(RangeError):
        db["angles"].search(vectors)


def test_vectors_and_raw_exclude_each_other(db: detmem.Database, store: Path) -> None:
    good = np.ones((2, 3), dtype=np.int32)
    refused(db, store, UsageError, ["both"], lambda: db["notes"].add(NEW, good, raw=good))


def test_neither_vectors_nor_raw(db: detmem.Database, store: Path) -> None:
    refused(db, store, UsageError, ["none"], lambda: db["notes"].add(NEW))


@pytest.mark.parametrize("ids, error, words", named(IDS))
def test_bad_ids(db: detmem.Database, store: Path, ids: Any, error: type[Exception], words: list[str]) -> None:
    refused(db, store, error, words, lambda: db["notes"].add(ids, np.ones((2, 3))))


@pytest.mark.parametrize("ids", [5, b"a", {"a"}, ["a", 5], ["a", ""], ["\ud800"], "", {"a": 1}, [["a"]]])
def test_bad_ids_of_other_calls(db: detmem.Database, store: Path, ids: Any) -> None:
    notes = db["notes"]
    for call in (
        lambda: notes.get(ids),
        lambda: notes.delete(ids),
        lambda: notes.update(ids, documents=["x", "y"]),
        lambda: notes.search([1, 2, 3], ids=ids),
    ):
        with pytest.raises(UsageError, match="id"):
            call()
    refused(db, store, UsageError, ["id"], lambda: notes.delete(ids))


@pytest.mark.parametrize("metadatas, words", named(METADATAS))
def test_bad_metadatas(db: detmem.Database, store: Path, metadatas: Any, words: list[str]) -> None:
    with pytest.raises(UsageError):
        db["notes"].update(["a", "b"], metadatas=metadatas)
    refused(db, store, UsageError, words, lambda: db["notes"].add(NEW, np.ones((2, 3)), metadatas=metadatas))


@pytest.mark.parametrize("documents, words", named(DOCUMENTS))
def test_bad_documents(db: detmem.Database, store: Path, documents: Any, words: list[str]) -> None:
    with pytest.raises(UsageError):
        db["notes"].update(["a", "b"], documents=documents)
    refused(db, store, UsageError, words, lambda: db["notes"].add(NEW, np.ones((2, 3)), documents=documents))


@pytest.mark.parametrize("where", named(WHERE))
def test_bad_where(db: detmem.Database, store: Path, where: Any) -> None:
    notes = db["notes"]
    for call in (
        lambda: notes.get(where=where),
        lambda: notes.get(["a"], where=where),
        lambda: notes.count(where),
        lambda: notes.search([1, 2, 3], where=where),
        lambda: notes.search([1, 2, 3], where=where, ids=["b"]),
    ):
        with pytest.raises(UsageError):
            call()
    refused(db, store, UsageError, [], lambda: notes.delete(where=where))


AN_ARRAY = np.array(["a", "b"])


@pytest.mark.parametrize(
    "call, error, words",
    named(
        [
            ("k = 0", lambda c: c.search([1, 2, 3], k=0), UsageError, ["k", "at least 1", "0"]),
            ("k = -1", lambda c: c.search([1, 2, 3], k=-1), UsageError, ["k", "-1"]),
            ("k = True", lambda c: c.search([1, 2, 3], k=True), UsageError, ["k", "True"]),
            ("k = 1.0", lambda c: c.search([1, 2, 3], k=1.0), UsageError, ["k", "1.0"]),
            ("k = None", lambda c: c.search([1, 2, 3], k=None), UsageError, ["k", "None"]),
            ("k = '1'", lambda c: c.search([1, 2, 3], k="1"), UsageError, ["k", "'1'"]),
            ("k = 2**70", lambda c: c.search([1, 2, 3], k=2**70), UsageError, ["k"]),
            ("limit = -1", lambda c: c.get(limit=-1), UsageError, ["limit", "-1"]),
            ("limit = 1.5", lambda c: c.get(limit=1.5), UsageError, ["limit", "1.5"]),
            ("offset = -1", lambda c: c.get(offset=-1), UsageError, ["offset", "-1"]),
            ("offset = None", lambda c: c.get(offset=None), UsageError, ["offset", "None"]),
            ("include unknown", lambda c: c.get(include=["vector"]), UsageError, ["include", "'vector'"]),
            ("include a str", lambda c: c.get(include="vectors"), UsageError, ["include", "str"]),
            ("include None", lambda c: c.get(include=None), UsageError, ["include", "NoneType"]),
            ("include an array", lambda c: c.get(include=[AN_ARRAY]), UsageError, ["include"]),
            ("search vectors", lambda c: c.search([1, 2, 3], include=["vectors"]), UsageError, ["include", "vectors"]),
            ("missing unknown", lambda c: c.get("a", missing="skip"), UsageError, ["missing", "'skip'"]),
            ("missing None", lambda c: c.delete("a", missing=None), UsageError, ["missing", "None"]),
            ("missing an array", lambda c: c.get("a", missing=AN_ARRAY), UsageError, ["missing"]),
            ("an unknown id", lambda c: c.get("zz"), NotFoundError, ["'zz'", "'notes'"]),
            ("an update of nothing", lambda c: c.update("a"), UsageError, ["at least one"]),
            ("an update of nobody", lambda c: c.update("zz", documents="x"), NotFoundError, ["'zz'", "'notes'"]),
            ("an existing id", lambda c: c.add(["x", "a"], np.ones((2, 3))), DuplicateIdError, ["'a'", "'notes'"]),
            ("progress = 1", lambda c: c.add("x", [1, 2, 3], progress=1), UsageError, ["progress", "int"]),
            ("delete nothing", lambda c: c.delete(), UsageError, ["exactly one"]),
            ("delete both", lambda c: c.delete("a", where={"n": 1}), UsageError, ["exactly one"]),
            ("delete all", lambda c: c.delete(where={}), UsageError, ["everything"]),
            ("receipt under 5", lambda c: c.search([1, 2, 3]).receipt(checkpoint=5), UsageError, ["checkpoint", "int"]),
            ("receipt under text", lambda c: c.search([1, 2, 3]).receipt(checkpoint="x"), UsageError, ["checkpoint"]),
            ("a result's index", lambda c: c.search([1, 2, 3])["a"], UsageError, ["index", "str"]),
        ]
    ),
)
def test_bad_calls_of_a_collection(
    db: detmem.Database, store: Path, call: Any, error: type[Exception], words: list[str]
) -> None:
    refused(db, store, error, words, lambda: call(db["notes"]))


@pytest.mark.parametrize(
    "call, error, words",
    named(
        [
            ("unknown collection", lambda db: db["no"], NotFoundError, ["'no'"]),
            ("unknown without dim", lambda db: db.collection("no", metric="l2"), NotFoundError, ["'no'", "dim"]),
            ("drop unknown", lambda db: db.drop("no"), NotFoundError, ["'no'"]),
            ("dim differs", lambda db: db.collection("notes", dim=4), UsageError, ["'notes'", "3", "4"]),
            ("metric differs", lambda db: db.collection("notes", metric="ip"), UsageError, ["'l2'", "'ip'"]),
            ("format differs", lambda db: db.collection("notes", format="Q8.24"), UsageError, ["Q16.16", "Q8.24"]),
            ("unknown metric", lambda db: db.collection("n", dim=3, metric="l1"), UsageError, ["metric", "'l1'"]),
            ("unknown format", lambda db: db.collection("n", dim=3, format="Q1"), UsageError, ["format", "'Q1'"]),
            ("a metric of a type", lambda db: db.collection("n", dim=3, metric=2), UsageError, ["metric", "2"]),
            ("a format of a type", lambda db: db.collection("n", dim=3, format=["Q8.24"]), UsageError, ["format"]),
            ("dim = 0", lambda db: db.collection("n", dim=0), UsageError, ["dim", "0"]),
            ("dim = -3", lambda db: db.collection("n", dim=-3), UsageError, ["dim", "-3"]),
            ("dim too large", lambda db: db.collection("n", dim=65537), UsageError, ["dim", "65536", "65537"]),
            ("dim = True", lambda db: db.collection("n", dim=True), UsageError, ["dim", "True"]),
            ("dim = 3.0", lambda db: db.collection("n", dim=3.0), UsageError, ["dim", "3.0"]),
            ("dim = '3'", lambda db: db.collection("n", dim="3"), UsageError, ["dim", "'3'"]),
            ("empty name", lambda db: db.collection("", dim=3), UsageError, ["name", "1..128", "0"]),
            ("long name", lambda db: db.collection("é" * 65, dim=3), UsageError, ["name", "1..128", "130"]),
            ("bytes name", lambda db: db.collection(b"n", dim=3), UsageError, ["name", "bytes"]),
            ("no name", lambda db: db.collection(None, dim=3), UsageError, ["name", "NoneType"]),
            ("surrogate name", lambda db: db.collection("\ud800", dim=3), UsageError, ["name", "U+D800"]),
            ("an int as name", lambda db: db[5], UsageError, ["name", "int"]),
            ("drop an int", lambda db: db.drop(5), UsageError, ["name", "int"]),
            ("log from 0", lambda db: db.log(0), UsageError, ["start", "0"]),
            ("log from a str", lambda db: db.log("1"), UsageError, ["start", "'1'"]),
            ("log to -1", lambda db: db.log(1, -1), UsageError, ["stop", "-1"]),
            ("log of an int", lambda db: db.log(collection=5), UsageError, ["collection", "int"]),
            ("log of an empty id", lambda db: db.log(id=""), UsageError, ["id", "0"]),
            ("unknown level", lambda db: db.verify("deep"), UsageError, ["level", "'deep'"]),
            ("level an array", lambda db: db.verify(AN_ARRAY), UsageError, ["level"]),
            ("replay too far", lambda db: detmem.replay(db, ":memory:", until=99), UsageError, ["until", "99", "3"]),
            ("replay to -1", lambda db: detmem.replay(db, ":memory:", until=-1), UsageError, ["until", "-1"]),
            ("replay of an int", lambda db: detmem.replay(5, ":memory:"), UsageError, ["path", "int"]),
            ("signed by a text", lambda db: db.sign("key"), UsageError, ["key", "SignerKey", "str"]),
            ("diff with None", lambda db: detmem.diff(db, None), UsageError, ["path", "NoneType"]),
        ]
    ),
)
def test_bad_calls_of_a_database(
    db: detmem.Database, store: Path, call: Any, error: type[Exception], words: list[str]
) -> None:
    refused(db, store, error, words, lambda: call(db))


_HUGE = 10**5_000  # Python does not write it out: the message's own repr raised a bare ValueError


@pytest.mark.parametrize("huge", [_HUGE, -_HUGE, [_HUGE], {"n": _HUGE}], ids=["int", "negative", "list", "map"])
def test_an_int_of_more_digits_than_python_writes_is_refused_as_any_other(
    db: detmem.Database, store: Path, tmp_path: Path, huge: Any
) -> None:
    notes, before = db["notes"], fingerprint(store)
    calls: list[Callable[[], object]] = [
        lambda: db.at(huge),
        lambda: db.at(1, erased=huge),
        lambda: db.log(huge),
        lambda: db.collection("new", dim=huge),
        lambda: db.collection("new", dim=3, metric=huge),
        lambda: db.collection("new", dim=3, format=huge),
        lambda: db.collection("new", dim=3, erasable=huge),
        lambda: db.record(huge),
        lambda: db.verify(huge),
        lambda: notes.search([1, 2, 3], k=huge),
        lambda: notes.search([1, 2, 3], max_distance=huge),
        lambda: notes.search([1, 2, huge]),
        lambda: notes.get(limit=huge),
        lambda: notes.get("a", missing=huge),
        lambda: notes.get(include=[huge]),
        lambda: notes.get(where={"n": {"$gt": huge}}),
        lambda: notes.neighbors("a", None, huge),
        lambda: notes.add("c", raw=[1, 2, huge]),
        lambda: notes.add("c", [1, 2, 3], metadatas={"n": huge}),
        lambda: notes.add("c", [1, 2, 3], progress=huge),
        lambda: detmem.open(tmp_path / "other", huge),
        lambda: detmem.open(tmp_path / "other", durability=huge),
        lambda: detmem.open(tmp_path / "other", lock_timeout=huge),
        lambda: detmem.open(tmp_path / "other", accept_missing_head=huge),
        lambda: detmem.quantize([1], huge),
        lambda: detmem.check_receipt(huge),
    ]
    for call in calls:
        with pytest.raises(detmem.DetmemError) as refused:
            call()
        assert len(str(refused.value)) < 400
    if isinstance(huge, int):
        with pytest.raises(IndexError):
            notes.search([1, 2, 3])[huge]
    assert fingerprint(store) == before
    assert not (tmp_path / "other").exists()


def test_what_is_no_name_is_in_no_store(db: detmem.Database) -> None:
    """Once an array was compared with every name, and had no truth value."""
    for value in (AN_ARRAY, None, 5, b"notes", ["notes"]):
        assert value not in db
        assert value not in db["notes"]


@pytest.mark.parametrize("method", ["collection", "drop", "batch", "log", "snapshot", "verify", "checkpoint"])
def test_an_unknown_keyword_is_a_type_error(db: detmem.Database, store: Path, method: str) -> None:
    before = fingerprint(store)
    with pytest.raises(TypeError):
        getattr(db, method)(unheard_of=1)
    with pytest.raises(TypeError):
        detmem.open(store, durable="always")  # type: ignore[call-arg]
    assert fingerprint(store) == before


@pytest.mark.parametrize(
    "call, error, words",
    named(
        [
            ("nan", lambda: detmem.quantize([1, NAN]), RangeError, ["column 1", "nan"]),
            ("beyond 64 bits", lambda: detmem.quantize([[0], [2**70]]), RangeError, ["row 1, column 0", "one of 71"]),
            ("nan clipped", lambda: detmem.quantize(NAN, overflow="clip"), RangeError, ["nan"]),
            ("too large", lambda: detmem.quantize([[0], [8.0]], "Q4.28"), RangeError, ["row 1, column 0", "8.0"]),
            ("empty", lambda: detmem.quantize([]), UsageError, ["empty"]),
            ("text", lambda: detmem.quantize("1"), UsageError, ["<U1"]),
            ("unknown format", lambda: detmem.quantize(1, "Q8.8"), UsageError, ["format", "'Q8.8'"]),
            ("unknown overflow", lambda: detmem.quantize(1, overflow="wrap"), UsageError, ["overflow", "'wrap'"]),
            ("overflow an array", lambda: detmem.quantize(1, overflow=AN_ARRAY), UsageError, ["overflow"]),
            ("floats as raw", lambda: detmem.dequantize([1.5]), UsageError, ["float64"]),
            ("raw beyond int32", lambda: detmem.dequantize([2**31]), RangeError, ["column 0", str(2**31)]),
        ]
    ),
)
def test_bad_numbers_for_quantize_and_dequantize(call: Any, error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value)


# ------------------------------------------------------------------------------------------------------------- opening


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"mode": "w"}, ["mode", "'w'"]),
        ({"mode": None}, ["mode", "None"]),
        ({"mode": AN_ARRAY}, ["mode"]),
        ({"durability": "never"}, ["durability", "'never'"]),
        ({"durability": AN_ARRAY}, ["durability"]),
        ({"lock_timeout": -1}, ["lock_timeout", "-1"]),
        ({"lock_timeout": NAN}, ["lock_timeout", "nan"]),
        ({"lock_timeout": INF}, ["lock_timeout", "inf"]),
        ({"lock_timeout": "1"}, ["lock_timeout", "'1'"]),
        ({"accept_missing_head": "no"}, ["accept_missing_head", "'no'"]),
        ({"expect": "nonsense"}, ["checkpoint", "nonsense"]),
        ({"expect": 5}, ["expect", "int"]),
        ({"expect": detmem.Checkpoint("3", 1, "zz", "q")}, ["expect"]),  # type: ignore[arg-type]
        ({"expect": detmem.Checkpoint(-1, 1, "00" * 32, "00" * 32)}, ["checkpoint"]),
    ],
)
def test_bad_arguments_of_open_make_no_folder(store: Path, arguments: dict[str, Any], words: list[str]) -> None:
    """Once, the folder of a new store was made before its arguments were checked: mode 'x' then failed for ever."""
    for mode in ("a", "x"):
        with pytest.raises(UsageError) as caught:
            detmem.open(store, **{"mode": mode} | arguments)
        for word in words:
            assert word in str(caught.value)
        assert not store.exists()
    with detmem.open(store, "x"):
        pass
    before = fingerprint(store)
    with pytest.raises(UsageError):
        detmem.open(store, **arguments)
    assert fingerprint(store) == before


@pytest.mark.parametrize("path", [None, 5, b"bytes", "", "nul\0inside", ["list"], "lone\ud800surrogate"])
def test_what_is_no_path(path: Any) -> None:
    for call in (detmem.open, detmem.verify, lambda p: detmem.replay(":memory:", p), lambda p: detmem.diff(p, p)):
        with pytest.raises(detmem.DetmemError):
            call(path)
    with pytest.raises(UsageError, match="path"):
        detmem.open(path)


def test_verify_says_what_it_cannot_expect(db: detmem.Database, store: Path) -> None:
    for expect in (5, "nonsense", b""):
        with pytest.raises(UsageError):
            detmem.verify(store, expect=expect)  # type: ignore[arg-type]


def test_an_unknown_kernel_in_the_environment_is_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETMEM_KERNEL", "fastest")
    for call in (lambda: detmem.open(store), detmem.kernels):
        with pytest.raises(UsageError, match="DETMEM_KERNEL.*'fastest'"):
            call()
    assert not store.exists()


@pytest.mark.parametrize("mode", ["r", "r+", "a"])
def test_a_folder_that_is_no_store_stays_as_it_is(tmp_path: Path, mode: str) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    before = fingerprint(tmp_path)
    with pytest.raises(FormatError, match="not a detmem store"):
        detmem.open(tmp_path, mode)
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize("mode", ["r", "r+", "a"])
def test_a_file_that_is_no_store_stays_as_it_is(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    with pytest.raises(FormatError, match="not a detmem store"):
        detmem.open(file, mode)
    with pytest.raises(StoreExistsError):
        detmem.open(file, "x")
    assert fingerprint(tmp_path) == {"notes.txt": hashlib.sha256(b"mine").hexdigest()}


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_an_empty_folder_is_no_store_for_modes_that_do_not_create(tmp_path: Path, mode: str) -> None:
    with pytest.raises(FormatError):
        detmem.open(tmp_path, mode)
    assert fingerprint(tmp_path) == {}


def test_a_missing_and_an_existing_path_are_also_pythons_own_errors(store: Path) -> None:
    for mode in ("r", "r+"):
        with pytest.raises(FileNotFoundError, match=re.escape(str(store))) as missing:
            detmem.open(store, mode)
        assert type(missing.value) is StoreNotFoundError
    for path in (store, ":memory:"):
        with pytest.raises(StoreNotFoundError):
            detmem.diff(path, path)
    assert not store.exists()
    detmem.open(store, "x").close()
    before = fingerprint(store)
    with pytest.raises(FileExistsError) as existing:
        detmem.open(store, "x")
    assert type(existing.value) is StoreExistsError
    assert isinstance(existing.value, detmem.DetmemError)
    assert fingerprint(store) == before


@pytest.mark.parametrize("mode", ["r", "r+", "a"])
def test_a_newer_format_is_refused_by_name_and_left_alone(store: Path, mode: str) -> None:
    """Once, opening such a store to write put new text into LOCK before the format was looked at."""
    detmem.open(store).close()
    head = bytearray((store / "HEAD").read_bytes())
    for slot in (0, 4096):  # version is the u16 behind the magic of eight bytes; the CRC ends the slot of 140
        head[slot + 8 : slot + 10] = (3).to_bytes(2, "little")
        head[slot + 136 : slot + 140] = crc32(head[slot : slot + 136]).to_bytes(4, "little")
    (store / "HEAD").write_bytes(head)
    (store / "LOCK").write_text("somebody else's words\n")
    (store / "log" / "half.tmp").write_text("of the newer version")
    before = fingerprint(store)
    with pytest.raises(FormatError, match="format 3.*reads format 2"):
        detmem.open(store, mode)
    assert fingerprint(store) == before


def test_a_second_writer_is_refused_and_told_who_writes(db: detmem.Database, store: Path) -> None:
    before = fingerprint(store)
    for mode in ("r+", "a"):
        with pytest.raises(LockedError, match="process [0-9]+ on ") as caught:
            detmem.open(store, mode)
        assert isinstance(caught.value, OSError)
    assert fingerprint(store) == before
    refused(db, store, LockedError, ["process", str(store)], lambda: detmem.open(store))


def test_a_second_writer_in_another_process_is_refused(db: detmem.Database, store: Path) -> None:
    before = fingerprint(store)
    script = (
        "import sys, detmem\n"
        "try:\n    detmem.open(sys.argv[1], lock_timeout=0.1)\n"
        "except detmem.LockedError as error:\n    print(error); sys.exit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(store)], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert "process" in done.stdout
    assert fingerprint(store) == before


def test_a_reader_writes_nothing_whatever_it_is_asked(db: detmem.Database, store: Path) -> None:
    db.close()
    before = fingerprint(store)
    with detmem.open(store, "r") as reader:
        notes = reader["notes"]
        for call in (
            lambda: notes.add("x", [1, 2, 3]),
            lambda: notes.upsert("a", [1, 2, 3]),
            lambda: notes.update("a", documents="x"),
            lambda: notes.delete("a"),
            lambda: notes.delete("nobody"),
            lambda: reader.collection("new", dim=3),
            lambda: reader.drop("notes"),
            reader.snapshot,
            lambda: reader.batch().__enter__(),
        ):
            with pytest.raises(ReadOnlyError, match="mode 'r'"):
                call()
        assert notes.search([1, 2, 3], k=1).ids == ["a"]
    assert fingerprint(store) == before


def test_a_closed_database_refuses_everything_and_closes_again(db: detmem.Database, store: Path) -> None:
    notes = db["notes"]
    db.close()
    db.close()
    before = fingerprint(store)
    for call in (
        lambda: notes.add("x", [1, 2, 3]),
        lambda: notes.search([1, 2, 3]),
        lambda: notes.get("a"),
        lambda: len(notes),
        lambda: list(notes),
        lambda: "a" in notes,
        lambda: "notes" in db,
        lambda: db["notes"],
        db.collections,
        db.checkpoint,
        db.log,
        db.verify,
        db.snapshot,
        lambda: db.drop("notes"),
        lambda: db.batch().__enter__(),
        lambda: detmem.diff(db, db),
        lambda: detmem.replay(db, ":memory:"),
        db.__enter__,
    ):
        with pytest.raises(UsageError, match="closed"):
            call()
    assert fingerprint(store) == before
