"""What the typed memory holds and recalls, against float64 brute force over the shipped vectors."""

from __future__ import annotations

import re

import numpy as np
import pytest

import detmem
from detmem.examples import engram, story

TOLD = story.sample()
VECTORS, QUERIES = (
    rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for rows in (TOLD.vectors.astype(float), TOLD.queries.astype(float))
)
DISTANCES = 1 - VECTORS @ QUERIES.T


def nearest(question, rows, k):
    """The k nearest of ``rows`` to a question, nearest first."""
    return sorted(rows, key=lambda row: DISTANCES[row, question])[:k]


def of_type(name, count=1000):
    return [row for row in range(count) if name in engram.route(TOLD.texts[row])]


def union(question, count=1000):
    """The rows that should be recalled."""
    found = [row for name in engram.TYPES for row in nearest(question, of_type(name, count), engram.EACH)]
    return nearest(question, {row for row in found if DISTANCES[row, question] <= engram.FAR}, 9)


def row(id):
    return int(id.removeprefix("gloss-"))


@pytest.fixture
def db(kept):
    with detmem.open(kept("engram").path, "r") as db:
        yield db


@pytest.mark.parametrize(
    ("text", "types"),
    [
        ("French painter (born in Russia) noted for his imagery (1887-1985)", ["episodic"]),
        ("a weapon (a sword or dagger) used for slashing", ["procedural", "semantic"]),
        ("cooked by browning in fat", ["procedural"]),
        ("a battle in World War I (May 1918)", ["episodic", "semantic"]),
        ("at an earlier time", ["semantic"]),
        ("(music) the family of bowed stringed instruments", ["semantic"]),
    ],
)
def test_the_router(text, types):
    assert engram.route(text) == types


def test_every_turn_is_one_commit_and_every_text_stands_where_it_is_routed(kept, db):
    kinds = [(entry.seq, entry.op) for entry in db.log()]
    assert {seq for seq, op in kinds if op == "add"} == set(range(4, 104))
    assert [seq for seq, op in kinds if op == "record"] == list(range(104, 116))
    for name in engram.TYPES:
        stored = db[name].get()
        assert [row(id) for id in stored.ids] == of_type(name)
        assert stored.documents == [TOLD.texts[n] for n in of_type(name)]
        assert [metadata["turn"] for metadata in stored.metadatas] == [n // 10 for n in of_type(name)]
        assert f"\n            {name:<12}{len(stored):>4}\n" in kept("engram").text
    twice = sum(sum(f"gloss-{n:04d}" in db[name] for name in engram.TYPES) > 1 for n in range(1000))
    assert f" {twice} of them stand in more than one type\n" in kept("engram").text


def test_the_union_is_that_of_brute_force_now_and_after_half_of_the_turns(db):
    for question, query in enumerate(TOLD.queries):
        assert [row(one.id) for one in engram.recall(db, query)[0]] == union(question)
        assert [row(one.id) for one in engram.recall(db.at(53), query)[0]] == union(question, count=500)


def test_a_record_of_two_types_is_recalled_once_and_names_both(db):
    context, _ = engram.recall(db, TOLD.queries[0])
    (saw,) = [one for one in context if one.text.startswith("power saw: ")]
    assert saw.types == ("procedural", "semantic")


def test_what_is_said_of_crowding_out_is_true(kept):
    recalled = crowded = 0
    for question in range(len(TOLD.questions)):
        rows = union(question)
        recalled += len(rows)
        crowded += len(set(rows) - set(nearest(question, range(1000), len(rows))))
    assert crowded > 0
    assert f" questions brought {recalled} records. " in kept("engram").text
    assert f", would have brought {crowded} others:" in kept("engram").text


def test_the_look_back_shows_what_was_nearest_then_and_is_now(kept):
    then, now = kept("engram").text.split("look back ")[1].splitlines()[1:3]
    for line, count in ((then, 500), (now, 1000)):
        (best,) = nearest(0, range(count), 1)
        seq, distance, text = re.fullmatch(r" +at seq (\d+) +(\S+)  (.*)", line).groups()
        assert int(seq) == (53 if count == 500 else 115)
        assert float(distance) == pytest.approx(DISTANCES[best, 0], abs=1e-4)
        assert text.startswith(f"{TOLD.words[best]}: ")


def test_receipts_hold_against_the_replayed_store_and_a_kept_checkpoint(kept, db):
    receipt = engram.recall(db, TOLD.queries[7])[1][2].receipt()
    assert [one.id for one in receipt.results] == [f"gloss-{n:04d}" for n in nearest(7, of_type("semantic"), 3)]
    assert detmem.check_receipt(receipt, kept("engram").replayed).level == "R2"
    assert detmem.check_receipt(receipt, checkpoint=db.checkpoint()).level == "R1"
    assert " 36 receipts of what was read are in the log" in kept("engram").text
    assert " to the questions of 36 receipts it gives 36 answers again\n" in kept("engram").text
