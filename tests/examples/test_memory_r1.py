"""The manager decides as one of lists and float64 does that shares no line with it, and exactly once."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

import detmem
from detmem.examples import memory_r1, story

TOLD = story.sample()
SENT = memory_r1.messages(TOLD)
BEFORE = 2 + 7  # seq before the first decision: two collections, seven deliveries

CHANGES = {  # what a decision may do to the memory
    "ADD": [{"add"}],
    "UPDATE": [{"update"}, {"add", "update", "link"}],
    "DELETE": [{"delete"}],
    "NOOP": [set()],
}

CHILD = """
import sys
import detmem
from detmem.examples import memory_r1, story

sent = memory_r1.messages(story.sample())
with detmem.open(sys.argv[1]) as db:
    for name in ("inbox", "memory"):
        db.collection(name, dim=story.DIMENSIONS)
    for number, first in enumerate(range(0, len(sent), memory_r1.DELIVERY)):
        memory_r1.deliver(db, number, sent[first : first + memory_r1.DELIVERY])
    while memory_r1.manage(db, limit=1):
        print("decided", flush=True)
"""


def naive_manager():
    """[(decision, target or None)] for each message, from the rules as the docstring states them."""
    memory, decisions = [], []  # of [id, unit vector, words]
    for message in SENT:
        vector = message.vector.astype(float)
        vector /= np.linalg.norm(vector)
        near = sorted((1 - record[1] @ vector, record) for record in memory)
        distance, nearest = near[0] if near else (9.0, None)
        same_word = [record for record in memory if message.word in record[2]]
        if message.kind == "retract":
            if distance <= 0.35:
                memory.remove(nearest)
                decisions.append(("DELETE", nearest[0]))
            else:
                decisions.append(("NOOP", None))
        elif distance <= 0.02 and message.word in nearest[2]:
            decisions.append(("NOOP", nearest[0]))
        elif distance <= 0.02:
            nearest[2].append(message.word)
            decisions.append(("UPDATE", nearest[0]))
        elif same_word:
            memory.remove(same_word[0])
            memory.append([message.id, vector, [message.word]])
            decisions.append(("UPDATE", same_word[0][0]))
        else:
            memory.append([message.id, vector, [message.word]])
            decisions.append(("ADD", None))
    return decisions, {record[0]: record[2] for record in memory}


@pytest.fixture
def db(kept):
    with detmem.open(kept("memory_r1").path, "r") as db:
        yield db


def test_every_decision_and_what_is_current_are_those_of_the_naive_manager(db):
    decisions, current = naive_manager()
    inbox = db["inbox"].get()
    assert inbox.ids == [message.id for message in SENT]
    assert [(one["decision"], one.get("target")) for one in inbox.metadatas] == decisions
    standing = db["memory"].get(where={"current": True})
    assert {id: one["words"] for id, one in zip(standing.ids, standing.metadatas, strict=True)} == current
    assert Counter(decision for decision, _ in decisions).keys() == {"ADD", "UPDATE", "DELETE", "NOOP"}


def test_the_counts_that_are_shown(kept):
    counts = Counter(decision for decision, _ in naive_manager()[0])
    for decision, count in counts.items():
        assert f"\n            {decision:<7}{count:>4}\n" in kept("memory_r1").text


def test_what_was_said_again_from_another_machine_is_other_bits_and_a_noop_on_the_first(db):
    first = {message.text: message for message in reversed(SENT) if message.vector.dtype == np.float32}
    again = [message for message in SENT if message.vector.dtype == np.float16]
    assert len(again) == 5
    for message in again:
        original = first[message.text]
        assert not np.array_equal(original.vector, message.vector)
        found = db["inbox"].get(message.id).metadatas[0]
        assert (found["decision"], found["target"]) == ("NOOP", original.id)
        assert message.id not in db["memory"]


def test_a_word_of_two_meanings_has_its_later_one_and_a_link_to_the_earlier(db):
    twice = {word for word, count in Counter(TOLD.words).items() if count == 2}
    assert twice == {"break", "capitalize", "fuel", "smack"}
    for word in sorted(twice):
        earlier, later = (m.id for m in SENT if m.word == word and m.vector.dtype == np.float32)
        assert db["memory"].neighbors(later) == [(later, "supersedes", earlier)]
        assert db["memory"].get([earlier, later]).metadatas == [
            {"words": [word], "current": False},
            {"words": [word], "current": True},
        ]
        vector = TOLD.vectors[TOLD.words.index(word)]  # of the earlier meaning
        assert earlier not in db["memory"].search(vector, k=1, where=memory_r1.CURRENT).ids


def test_equal_texts_of_two_words_are_one_record(db):
    pairs = [(a, b) for a in range(len(SENT)) for b in range(a) if SENT[a].text == SENT[b].text]
    pairs = [(SENT[b], SENT[a]) for a, b in pairs if SENT[a].word != SENT[b].word]
    joined = {
        (first.id, first.word, second.word) for first, second in pairs if first.id in db["memory"] and second.word
    }
    assert {words[1:] for words in joined} == {
        ("Walt Whitman Bridge", "Benjamin Franklin Bridge"),
        ("pianissimo assai", "pianissimo"),
    }
    for id, *words in joined:
        assert db["memory"].get(id).metadatas[0]["words"] == words


def test_each_decision_is_one_commit_with_its_change(db):
    assert db.seq == BEFORE + len(SENT)
    for number, message in enumerate(SENT, BEFORE + 1):
        entries = [(entry.op, entry.collection, entry.ids) for entry in db.log(number, number + 1)]
        assert ("update", "inbox", [message.id]) in entries
        changed = {op for op, collection, _ in entries if collection == "memory"}
        assert changed in CHANGES[db["inbox"].get(message.id).metadatas[0]["decision"]]


def test_between_any_two_decisions_the_rest_is_pending(db):
    pending = {"decision": {"$exists": False}}
    for done in (0, 1, memory_r1.STOP_AFTER, len(SENT)):
        then = db.at(BEFORE + done)["inbox"].get(where=pending)
        assert then.ids == [message.id for message in SENT[done:]]


def test_a_manager_that_is_killed_again_and_again_ends_in_the_same_history(kept, tmp_path):
    """Each child sends everything again, goes on deciding, and is killed somewhere in that, but for the last."""
    path = tmp_path / "killed.detmem"
    for decisions in (1, 30, 80, None):
        command = [sys.executable, "-c", CHILD, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="ascii") as child:
            if decisions is None:
                child.stdout.read()
            else:
                assert [child.stdout.readline() for _ in range(decisions)] == ["decided\n"] * decisions
                child.kill()
    assert child.returncode == 0
    with detmem.open(path, "r") as killed, detmem.open(kept("memory_r1").path, "r") as calm:
        assert killed.checkpoint() == calm.checkpoint()


def test_a_delivery_that_comes_twice_writes_nothing_and_one_that_changed_is_refused(db):
    with detmem.open(":memory:") as again:
        for name in ("inbox", "memory"):
            again.collection(name, dim=story.DIMENSIONS)
        assert memory_r1.deliver(again, 0, SENT[:5]) is True
        memory_r1.manage(again)
        before = again.checkpoint()
        assert memory_r1.deliver(again, 0, SENT[:5]) is False
        assert not memory_r1.manage(again)
        with pytest.raises(detmem.UsageError, match="'delivery-0' was used at seq 3 for another call"):
            memory_r1.deliver(again, 0, SENT[:4])
        assert again.checkpoint() == before


def test_what_a_second_retraction_would_have_deleted_is_named_and_still_there(kept, db):
    debt = TOLD.queries[7] / np.linalg.norm(TOLD.queries[7].astype(float))
    distances = 1 - TOLD.vectors @ debt / np.linalg.norm(TOLD.vectors.astype(float), axis=1)
    first, second = np.argsort(distances)[:2]
    gone, named = (next(m.id for m in SENT if m.word == TOLD.words[row]) for row in (first, second))
    assert gone not in db["memory"]
    assert named in db["memory"]
    assert f"{named} at {distances[second]:.4f}  {TOLD.words[second]}: " in kept("memory_r1").text


def test_the_past_still_holds_what_was_deleted(db):
    (deleted,) = [m for m in SENT if m.word == "bad debt"]
    decided = BEFORE + 1 + next(n for n, m in enumerate(SENT) if m.text == "an unpaid debt")
    assert db.at(decided - 1)["memory"].get(deleted.id).documents == [deleted.text]
    assert deleted.id not in db.at(decided)["memory"]
