"""Receipts and proofs through the public door: made by a store, checked without it, and asked of it again."""

from __future__ import annotations

import base64
import copy
import dataclasses
import os
import pickle
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import detmem
from detmem import verifier
from detmem.errors import CorruptionError, Divergence, StorageError, UsageError
from detmem.machine.commitment import LogTree
from detmem.proof.checkpoint import Checkpoint
from detmem.proof.merkle import prove_state
from detmem.proof.note import SignerKey, VerifierKey
from detmem.proof.proofs import key_of
from detmem.proof.receipt import Named, Receipt, Refutation, list_hash
from tests.twin import TWIN, perform

WORDS = ("episodic", "semantic", "procedural")


def small(db: detmem.Database, count: int = 200, metric: str = "l2") -> detmem.Collection:
    notes = db.collection("notes", dim=4, metric=metric)
    raw = np.arange(4 * count).reshape(count, 4) * 7919 % 2000 - 1000
    notes.add(
        [f"n{i}" for i in range(count)], raw=raw, metadatas=[{"kind": WORDS[i % 3], "n": i} for i in range(count)]
    )
    return notes


def forged(receipt: Receipt, db: detmem.Database, results: tuple[Named, ...]) -> Receipt:
    """The receipt with another answer, as its maker would forge it: with a right proof of what it names."""
    tree = db._state.tree
    keys = [key_of("notes", ""), *(key_of("notes", one.id) for one in results)]
    buckets, nodes = prove_state(tree.bucket, tree.node, keys)
    assert receipt.part is not None
    return replace(receipt, results=results, part=receipt.part._replace(buckets=tuple(buckets), nodes=nodes))


# --------------------------------------------------------------------------------------------------------------- levels


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_each_level_shows_what_it_says_and_no_more(metric: str, tmp_path: Path) -> None:
    with detmem.open(tmp_path / "s") as db:
        notes = small(db, metric=metric)
        hits = notes.search(
            raw=[1, 2, 3, 4], k=5, where={"kind": {"$in": ["episodic", "semantic"]}}, ids=list(notes)[:150]
        )
        checkpoint = db.checkpoint()
        for level, shown in [("R0", "R2"), ("R1", "R2"), ("R2", "R2"), ("R3", "R3")]:
            receipt = hits.receipt(level)
            alone = detmem.check_receipt(receipt)
            assert (alone.ok, alone.level) == (level == "R0", "R0")
            offline = detmem.check_receipt(receipt, checkpoint=checkpoint)
            assert (offline.ok, offline.level) == (True, "R0" if level == "R0" else "R1")
            assert offline.not_shown
            again = detmem.check_receipt(receipt, db)
            assert (again.ok, again.level) == (True, shown)
            assert detmem.check_receipt(receipt.encode(), tmp_path / "s").ok
            receipt.save(tmp_path / "r")
            assert Receipt.load(tmp_path / "r") == receipt
            assert detmem.check_receipt(tmp_path / "r", db).ok
            assert [one.id for one in receipt.results] == hits.ids
            assert [one.raw for one in receipt.results] == hits.raw.tolist()


def test_offline_nobody_knows_what_was_asked_and_the_verdict_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The verdict left the question out of what R1 does not show, as if query, k and filter were bound by a root."""
    with detmem.open(":memory:") as db:
        notes = small(db)
        receipt = notes.search(raw=[1, 2, 3, 4], k=5).receipt("R1")
        checkpoint = db.checkpoint()
        other = replace(receipt, query=bytes(16), k=9, where={"kind": "episodic"}, max_distance=0.5)
        verdict = detmem.check_receipt(other, checkpoint=checkpoint)
        assert (verdict.ok, verdict.level) == (True, "R1")
        assert verdict.not_shown[0] == "the question (query, k, filter, ids, max_distance)"
        assert not detmem.check_receipt(other, db).ok
    (tmp_path / "trusted").write_text(str(checkpoint), encoding="ascii", newline="\n")
    other.save(tmp_path / "receipt")
    assert verifier.main(["receipt", str(tmp_path / "receipt"), "--checkpoint", str(tmp_path / "trusted")]) == 0
    assert f"not shown: {', '.join(verdict.not_shown[:1])}, the distances" in capsys.readouterr().out


def test_a_receipt_is_of_the_moment_that_answered() -> None:
    """Later writes do not change what is said; the proof leads from that moment to where the store stands."""
    with detmem.open(":memory:") as db:
        notes = small(db)
        hits = notes.search(raw=[0, 0, 0, 0], k=4)
        then = db.checkpoint()
        notes.delete(hits.ids[:2])
        notes.upsert("n9", raw=[1, 1, 1, 1])
        notes.delete(where={"kind": "semantic"})
        for level in detmem.proof.receipt.LEVELS[1:]:
            receipt = hits.receipt(level)
            assert receipt.checkpoint == db.checkpoint()
            assert receipt.seq == then.seq
            assert detmem.check_receipt(receipt, checkpoint=db.checkpoint()).ok
            assert detmem.check_receipt(receipt, db).ok
            assert hits.receipt(level, checkpoint=then).checkpoint == then
        with pytest.raises(Divergence):
            hits.receipt("R1", checkpoint=replace(then, state_root="00" * 32))
        early = hits.receipt(checkpoint=then)
        assert not detmem.check_receipt(early, checkpoint=db.checkpoint()).ok
        proof = db.prove_consistency(then)
        assert detmem.check_receipt(early, checkpoint=db.checkpoint(), consistency=proof).ok
        with pytest.raises(UsageError, match="consistency: leads to a checkpoint"):  # once it was not looked at
            detmem.check_receipt(early, consistency=proof)


def test_a_receipt_under_an_older_checkpoint_is_refused_where_that_is_before_the_answer() -> None:
    with detmem.open(":memory:") as db:
        notes = small(db)
        before = db.checkpoint()
        notes.add("late", raw=[1, 1, 1, 1])
        with pytest.raises(UsageError, match="later"):
            notes.search(raw=[1, 1, 1, 1]).receipt(checkpoint=before)


def test_a_receipt_is_of_one_query() -> None:
    with detmem.open(":memory:") as db:
        notes = small(db)
        hits = notes.search(raw=[[0, 0, 0, 0], [5, 5, 5, 5], [9, 9, 9, 9]], k=3)
        with pytest.raises(UsageError, match="one query"):
            hits.receipt()
        for number in (0, 1, 2, -1):
            receipt = hits[number].receipt("R2")
            assert receipt.query == np.full(4, [0, 5, 9][number], "<i4").tobytes()
            assert detmem.check_receipt(receipt, db).ok
        assert hits[-1].receipt() == hits[2].receipt()
        with pytest.raises(UsageError, match="level"):
            hits[0].receipt("R9")


def test_what_the_caller_changes_after_asking_does_not_show() -> None:
    with detmem.open(":memory:") as db:
        notes = small(db)
        query, where, ids = np.array([1, 2, 3, 4]), {"n": {"$in": [np.int64(3), 5, 8]}}, ["n5", "n3", "n8", "n5"]
        hits = notes.search(raw=query, k=2, where=where, ids=ids)
        expected = hits.receipt("R2").encode()
        query[:] = 9
        where["n"]["$in"].append(7)
        where["kind"] = {"$eq": "x"}
        ids.clear()
        receipt = hits.receipt("R2")
        assert receipt.encode() == expected
        assert (receipt.ids, receipt.where) == (("n3", "n5", "n8"), {"n": {"$in": [3, 5, 8]}})
        assert detmem.check_receipt(receipt, db).ok


def test_copies_of_a_result_ask_the_same_store_and_pickled_ones_none() -> None:
    with detmem.open(":memory:") as db:
        hits = small(db).search(raw=[1, 2, 3, 4], k=2)
        assert copy.deepcopy(hits).receipt() == hits.receipt()
        assert dataclasses.asdict(hits)["ids"] == hits.ids
        away = pickle.loads(pickle.dumps(hits))
        assert (away.ids, away.raw.tolist(), away.seq) == (hits.ids, hits.raw.tolist(), hits.seq)
        with pytest.raises(UsageError, match="was not made by a search"):
            away.receipt()


def test_a_filter_deeper_than_a_receipt_can_hold_is_said() -> None:
    where: dict[str, object] = {"n": 1}
    for _ in range(9):
        where = {"$not": {"$and": [where]}} if _ % 2 else {"$or": [where]}
    with detmem.open(":memory:") as db:
        hits = small(db).search(raw=[1, 2, 3, 4], where=where)
        with pytest.raises(UsageError, match="where"):
            hits.receipt().encode()


def test_an_empty_answer_has_a_receipt() -> None:
    with detmem.open(":memory:") as db:
        notes = db.collection("notes", dim=4, metric="l2")
        receipt = notes.search(raw=[1, 2, 3, 4]).receipt("R3")
        assert receipt.results == ()
        assert detmem.check_receipt(receipt, db).ok
        for number in (0, key_of("notes", "")[0], 255):
            assert receipt.check_subtree(db.subtree("notes", number), db.checkpoint()).ok


def test_the_past_is_proven_from_now() -> None:
    """A view of the past answers for its seq, under the checkpoint that the store stands at."""
    with detmem.open(":memory:") as db:
        notes = small(db)
        hits = notes.search(raw=[0, 0, 0, 0], k=4)
        then = db.checkpoint()
        notes.delete(hits.ids[:2])
        view, now = db.at(then.seq), db.checkpoint()
        proof = view.prove("notes", hits.ids[0])
        assert (proof.present, proof.seq) == (True, then.seq)
        assert proof.verify(now, "notes", hits.ids[0]).ok
        again = view["notes"].search(raw=[0, 0, 0, 0], k=4)
        for level in ("R1", "R3"):
            assert again.receipt(level) == hits.receipt(level)
            assert again.receipt(level).verify(now).ok
            assert again.receipt(level, checkpoint=then).verify(then).ok
        receipt, subtree = again.receipt("R3"), view.subtree("notes", key_of("notes", hits.ids[0])[0])
        assert receipt.check_subtree(subtree, now).ok
        first = view.prove_consistency(then)
        assert (first.old, first.new) == (then, then)
        with pytest.raises(Divergence):
            view.prove_consistency(now)
        assert detmem.diff(view, db).common_seq == then.seq


def test_links_requests_and_recorded_receipts_stand_beside_the_records() -> None:
    """Links are leaves of the state like any other, the rest leaves of the log alone."""
    with detmem.open(":memory:") as db:
        notes = small(db, 60)
        for number in range(0, 50, 2):
            notes.link(f"n{number}", "after", f"n{number + 1}")
        notes.upsert("n7", raw=[1, 1, 1, 1], request_id="r1")
        hits = notes.search(raw=[0, 0, 0, 0], k=4, expand="after")
        receipt = hits.receipt("R3")
        commit = db.record(receipt, "asked by the planner")
        assert commit is not None
        assert (commit.seq, commit.state_root) == (receipt.seq + 1, db.state_root)
        with pytest.raises(UsageError):
            db.record(receipt.sha256)  # type: ignore[arg-type]
        assert receipt.verify(receipt.checkpoint).ok
        view = db.at(receipt.seq)
        others = [view.subtree("notes", number) for number in range(0, 256, 5)]
        assert any(one.others for one in others)
        now, proof = db.checkpoint(), db.prove_consistency(receipt.checkpoint)
        assert all(receipt.check_subtree(one, now, consistency=proof).ok for one in others)
        assert detmem.check_receipt(receipt, db).level == "R3"


def test_salted_records_are_shown_with_their_salts() -> None:
    with detmem.open(":memory:") as db:
        notes = db.collection("notes", dim=2, metric="l2", erasable=True)
        notes.add([f"n{i}" for i in range(30)], raw=[[i, 2 * i] for i in range(30)], documents=["text"] * 30)
        notes.update("n3", documents="another")
        receipt, checkpoint = notes.search(raw=[0, 0], k=3).receipt("R3"), db.checkpoint()
        missing = receipt.results[2]
        fourth = notes.search(raw=[0, 0], k=4).receipt().results[3]
        lying = forged(receipt, db, (*receipt.results[:2], fourth))
        subtree = db.subtree("notes", key_of("notes", missing.id)[0])
        assert all(row.vector_salt and row.content_salt for row in subtree.records)
        assert receipt.check_subtree(subtree, checkpoint).ok
        refutation = lying.refute(subtree, checkpoint)
        assert refutation is not None
        assert detmem.Refutation.decode(refutation.encode()).verify(lying, checkpoint).ok
        assert db.prove("notes", "n3").verify(checkpoint, "notes", "n3").ok


def test_an_r0_receipt_is_held_against_the_checkpoint_that_is_given() -> None:
    with detmem.open(":memory:") as db, detmem.open(":memory:") as other:
        hits = small(db).search(raw=[1, 2, 3, 4], k=3)
        small(other, 7)
        said, own = hits.receipt("R0"), db.checkpoint()
        db["notes"].delete("n0")
        assert detmem.check_receipt(said, checkpoint=own).level == "R0"
        assert not detmem.check_receipt(said, checkpoint=other.checkpoint()).ok
        assert not detmem.check_receipt(said, checkpoint=db.checkpoint()).ok
        later = db.prove_consistency(own)
        assert detmem.check_receipt(said, checkpoint=db.checkpoint(), consistency=later).ok


def test_a_receipt_that_asks_for_nothing_is_none() -> None:
    with detmem.open(":memory:") as db:
        receipt = replace(small(db).search(raw=[1, 2, 3, 4], k=1).receipt("R0"), k=0, results=())
        with pytest.raises(CorruptionError, match="k must be at least 1"):
            Receipt.decode(receipt.encode())


def test_an_anchor_of_a_commit_without_operations_is_none() -> None:
    with detmem.open(":memory:") as db:
        receipt = small(db).search(raw=[1, 2, 3, 4], k=1).receipt("R1")
        assert receipt.part is not None
        assert receipt.part.anchor is not None
        empty = receipt.part._replace(anchor=receipt.part.anchor._replace(operations=0))
        with pytest.raises(CorruptionError, match="number of a commit's operations"):
            Receipt.decode(replace(receipt, part=empty).encode())


def test_a_vector_that_no_store_admits_is_no_record() -> None:
    with detmem.open(":memory:") as db:
        receipt = small(db).search(raw=[1, 2, 3, 4], k=3, max_distance=1e9).receipt("R3")
        subtree = db.subtree("notes", key_of("notes", "n0")[0])
        huge = subtree.records[0]._replace(vector=np.full(4, 2**31 - 1, "<i4").tobytes())
        with pytest.raises(CorruptionError, match="admitted|norm|2\\^60"):
            receipt.candidates([huge])


def test_a_store_that_may_not_look_any_more_leaves_what_was_shown_before(tmp_path: Path) -> None:
    """Neither shown nor refuted is told apart from a lie by its level."""
    with detmem.open(tmp_path / "s") as db:
        notes = db.collection("notes", dim=2, metric="l2")
        notes.add([f"n{i}" for i in range(9)], raw=[[i, 0] for i in range(9)])
        hits = notes.search(raw=[0, 0], k=3)
        receipts = {level: hits.receipt(level) for level in ("R0", "R1", "R3")}
        lie = forged(receipts["R1"], db, receipts["R1"].results[:2])
        db.erase("notes", ["n1"])
        for level, kept in (("R0", "R0"), ("R1", "R1"), ("R3", "R1")):
            verdict = detmem.check_receipt(receipts[level], db)
            assert (verdict.ok, verdict.level) == (False, kept)
            assert "neither shown nor refuted" in verdict.reason
        forged_part = replace(lie, collection="others")
        assert detmem.check_receipt(forged_part, db).level is None


def test_keys_and_notes_are_utf8_without_control_characters() -> None:
    for name in ("a\x01b", "a\ud800", "a b", "a+b", ""):
        with pytest.raises(UsageError, match="key name"):
            detmem.SignerKey.generate(name)
    key = detmem.SignerKey.generate("example.org/memory")
    with detmem.open(":memory:") as db:
        small(db)
        note = key.sign(db.checkpoint())
        assert key.verifier.open(note) == db.checkpoint()
    for bad in (note.replace("example", "ex\ud800mple"), "x" * (1 << 20) + note):
        with pytest.raises(CorruptionError):
            key.verifier.open(bad)
        with pytest.raises(verifier.Refused):
            verifier.check_note(bad, str(key.verifier))


def test_bytes_of_a_content_do_not_pass_for_a_salt() -> None:
    """The end of U+12020 is that of a content without metadata: opened so, the record would escape every filter."""
    with detmem.open(":memory:") as db:
        notes = db.collection("notes", dim=2, metric="l2")
        notes.add([f"n{i}" for i in range(50)], raw=[[i + 5, 0] for i in range(50)], metadatas=[{"k": 1}] * 50)
        notes.add("victim", raw=[0, 0], metadatas={"k": 1}, documents="x" * 25 + "\U00012020")
        now, number = db.checkpoint(), key_of("notes", "victim")[0]
        honest = db.subtree("notes", number)
        row = next(row for row in honest.records if row.id == "victim")
        assert (len(row.content), row.content[-3:]) == (35, bytes.fromhex("9280a0"))
        other = row._replace(content_salt=row.content[:32], content=row.content[32:])
        assert other.leaf("notes") == row.leaf("notes")  # which is why the size must be asked for
        shifted = replace(honest, records=tuple(other if one is row else one for one in honest.records))

        asked = notes.search(raw=[0, 0], k=3, where={"k": 1})
        receipt = asked.receipt("R3")
        left_out = notes.search(raw=[0, 0], k=4, where={"k": 1}).receipt("R1").results[1:]
        lying = forged(receipt, db, left_out)
        lists = bytearray(lying.subtrees or b"")
        shown = sorted(one for one in left_out if key_of("notes", one.id)[0] == number)
        lists[32 * number : 32 * number + 32] = list_hash(number, shown)
        lying = replace(lying, subtrees=bytes(lists))
        assert "salt" in lying.check_subtree(shifted, now).reason

        without = notes.search(raw=[0, 0], k=3, where={"k": {"$exists": False}}).receipt("R3")
        refutation = Refutation(now, without.seq, bytes.fromhex(without.sha256), other, honest.part_of(row))
        assert "salt" in refutation.verify(without, now).reason

        trusted = verifier.read_checkpoint(str(now))
        with pytest.raises(verifier.Refused, match="size of a salt"):
            verifier.check_subtree(shifted.encode(), verifier.check_receipt(lying.encode(), trusted), trusted)
        with pytest.raises(verifier.Refused, match="size of a salt"):
            verifier.check_refutation(refutation.encode(), verifier.check_receipt(without.encode(), trusted), trusted)
        with pytest.raises(TWIN.Refused, match="salts of another size"):
            TWIN.check_subtree(shifted.encode(), lying.encode(), str(now))
        with pytest.raises(TWIN.Refused, match="salts of another size"):
            TWIN.check_refutation(refutation.encode(), without.encode(), str(now))


def test_an_erasure_breaks_no_proof_and_no_receipt_of_what_is_left(tmp_path: Path) -> None:
    """It rewrites segments under the reader of the leaf hashes; the hashes stay."""
    with detmem.open(tmp_path / "s") as db:
        notes = db.collection("notes", dim=2, metric="l2", erasable=True)
        for number in range(40):
            notes.add(f"n{number}", raw=[number, 1], documents=f"text {number} " * 20)
        hits, old = notes.search(raw=[0, 0], k=3), db.checkpoint()
        receipt, proof = hits.receipt("R3"), db.prove("notes", "n1")
        db.erase("notes", ["n1", "n30"])
        for number in range(40, 45):
            notes.add(f"n{number}", raw=[number, 1])
        now, chain = db.checkpoint(), db.prove_consistency(old)
        assert chain.verify(old, now).ok
        assert proof.verify(old, "notes", "n1").ok
        assert proof.verify(now, "notes", "n1", consistency=chain).ok
        assert receipt.verify(now, consistency=chain).ok
        assert db.prove("notes", "n1").verify(now, "notes", "n1").ok
        assert not db.prove("notes", "n1").present
        verdict = detmem.check_receipt(receipt, db)
        assert not verdict.ok
        assert "erased" in verdict.reason
        assert hits.receipt("R1", checkpoint=old).verify(old).ok  # its leaves are known, though not what they held
        kept = notes.search(raw=[40, 0], k=3)
        assert detmem.check_receipt(kept.receipt("R3"), db).level == "R3"
    with detmem.open(tmp_path / "s", "r") as db:
        assert db.prove_consistency(old).verify(old, now).ok


@pytest.mark.parametrize("within", [-1.0, 0.0, 1e-4, 0.5, float("inf")])
def test_a_greatest_distance_is_part_of_the_question(within: float) -> None:
    with detmem.open(":memory:") as db:
        notes = small(db)
        receipt = notes.search(raw=[0, 0, 0, 0], k=9, max_distance=within).receipt("R3")
        assert Receipt.decode(receipt.encode()) == receipt
        assert receipt.max_distance == (None if within == float("inf") else within)
        assert detmem.check_receipt(receipt, db).level == "R3"
        for number in range(0, 256, 9):
            assert receipt.check_subtree(db.subtree("notes", number), db.checkpoint()).ok


# ------------------------------------------------------------------------------------------------------- false answers


def test_another_answer_is_named_by_its_first_rank() -> None:
    with detmem.open(":memory:") as db:
        notes = small(db)
        receipt = notes.search(raw=[0, 0, 0, 0], k=5).receipt("R2")
        sixth = notes.search(raw=[0, 0, 0, 0], k=6).receipt().results[-1]
        lying = forged(receipt, db, (*receipt.results[:2], *receipt.results[3:], sixth))
        assert detmem.check_receipt(lying, checkpoint=db.checkpoint()).level == "R1"
        verdict = detmem.check_receipt(lying, db)
        assert (verdict.ok, verdict.rank) == (False, 3)
        assert receipt.results[2].id in verdict.reason
        nearer = receipt.results[0]._replace(raw=receipt.results[0].raw - 1)
        verdict = detmem.check_receipt(replace(receipt, results=(nearer, *receipt.results[1:])), db)
        assert (verdict.ok, verdict.rank) == (False, 1)
        verdict = detmem.check_receipt(replace(receipt, results=receipt.results[:4]), db)
        assert not verdict.ok


def test_a_planted_missing_neighbour_is_refuted_by_the_one_subtree_that_has_it() -> None:
    with detmem.open(":memory:") as db:
        notes = small(db, 600)
        receipt = notes.search(raw=[0, 0, 0, 0], k=5, where={"kind": "semantic"}).receipt("R3")
        more = notes.search(raw=[0, 0, 0, 0], k=6, where={"kind": "semantic"}).receipt()
        missing = receipt.results[1]
        lying = forged(receipt, db, tuple(one for one in more.results if one != missing))
        checkpoint = db.checkpoint()
        assert detmem.check_receipt(lying, checkpoint=checkpoint).ok  # R1: all it names is live
        guilty = key_of("notes", missing.id)[0]
        for number in range(0, 256, 17):
            if number != guilty:
                assert lying.check_subtree(db.subtree("notes", number), checkpoint).ok
        subtree = detmem.Subtree.decode(db.subtree("notes", guilty).encode())
        verdict = lying.check_subtree(subtree, checkpoint)
        assert not verdict.ok
        assert repr(missing.id) in verdict.reason
        refutation = lying.refute(subtree, checkpoint)
        assert refutation is not None
        assert len(refutation.encode()) < 4096
        refutation = detmem.Refutation.decode(refutation.encode())
        db.drop("notes")  # nobody needs the store for this
        assert refutation.verify(lying, checkpoint).ok
        assert not refutation.verify(receipt, checkpoint).ok
        assert not refutation.verify(lying, db.checkpoint()).ok
        assert refutation.verify(lying, db.checkpoint(), consistency=db.prove_consistency(checkpoint)).ok


def test_a_wrong_distance_is_refuted_as_well() -> None:
    with detmem.open(":memory:") as db:
        receipt = small(db).search(raw=[0, 0, 0, 0], k=3).receipt("R3")
        first = receipt.results[0]
        lying = replace(receipt, results=(first._replace(raw=first.raw - 5), *receipt.results[1:]))
        subtree = db.subtree("notes", key_of("notes", first.id)[0])
        refutation = lying.refute(subtree, db.checkpoint())
        assert refutation is not None
        assert refutation.row.id == first.id
        assert refutation.verify(lying, db.checkpoint()).ok


def test_false_local_lists_show_though_the_answer_is_right() -> None:
    with detmem.open(":memory:") as db:
        receipt = small(db).search(raw=[0, 0, 0, 0], k=3).receipt("R3")
        lists = receipt.subtrees or b""
        lying = replace(receipt, subtrees=lists[:320] + bytes(32) + lists[352:])
        assert receipt.check_subtree(db.subtree("notes", 10), db.checkpoint()).ok
        assert not lying.check_subtree(db.subtree("notes", 10), db.checkpoint()).ok
        assert lying.check_subtree(db.subtree("notes", 11), db.checkpoint()).ok
        assert not detmem.check_receipt(lying, db).ok
        assert lying.subtree_root != receipt.subtree_root


def test_a_receipt_of_another_store_is_not_of_this_one() -> None:
    with detmem.open(":memory:") as db, detmem.open(":memory:") as other:
        receipt = small(db).search(raw=[0, 0, 0, 0], k=3).receipt()
        assert detmem.check_receipt(receipt, db).ok
        assert not detmem.check_receipt(receipt, other).ok  # it ends before
        small(other, 199)
        assert not detmem.check_receipt(receipt, other).ok
        assert not detmem.check_receipt(receipt, checkpoint=other.checkpoint()).ok
        assert not detmem.check_receipt(receipt, db, checkpoint=other.checkpoint()).ok


# ---------------------------------------------------------------------------------------------------------- mutations


def every_mutation(data: bytes) -> list[bytes]:
    """Each byte changed in two ways, and cut, lengthened, repeated."""
    changed = [data[:i] + bytes([data[i] ^ bit]) + data[i + 1 :] for i in range(len(data)) for bit in (1, 0x80)]
    return [*changed, data[:-1], data + b"\0", data[1:], data[: len(data) // 2], data * 2, b""]


def test_every_changed_byte_of_every_file_is_refused() -> None:
    with detmem.open(":memory:") as db:
        notes = small(db, 40)
        old = db.checkpoint()
        notes.delete("n3")
        now = db.checkpoint()
        receipt = notes.search(raw=[0, 0, 0, 0], k=2).receipt("R1")
        third = notes.search(raw=[0, 0, 0, 0], k=3).receipt("R1")
        lying = forged(receipt, db, third.results[1:])
        refutation = next(x for x in (lying.refute(db.subtree("notes", n), now) for n in range(256)) if x is not None)
        subtree = db.subtree("notes", key_of("notes", "n5")[0])
        third = notes.search(raw=[0, 0, 0, 0], k=3).receipt("R3")
        files = [
            (detmem.Proof, db.prove("notes", "n5"), lambda file: file.verify(now, "notes", "n5")),
            (detmem.Proof, db.prove("notes", "n3"), lambda file: file.verify(now, "notes", "n3")),
            (detmem.Proof, db.prove_consistency(old), lambda file: file.verify(old, now)),
            (detmem.Receipt, receipt, lambda file: file.verify(now)),
            (detmem.Subtree, subtree, lambda file: third.check_subtree(file, now)),
            (detmem.Refutation, refutation, lambda file: file.verify(lying, now)),
        ]
        for kind, file, check in files:
            data = file.encode()
            assert check(kind.decode(data)).ok
            for broken in every_mutation(data):
                try:
                    found = kind.decode(broken)
                except CorruptionError:
                    continue
                assert not check(found).ok, (kind, broken)


def test_files_that_are_not_there_or_no_files() -> None:
    with pytest.raises(StorageError):
        Receipt.load("nowhere/at/all")
    with pytest.raises(UsageError):
        Receipt.load(3.5)
    with detmem.open(":memory:") as db:
        small(db)
        receipt = db["notes"].search(raw=[1, 2, 3, 4], k=1).receipt("R0")
    descriptor = os.open(os.devnull, os.O_RDONLY)
    for path in (descriptor, True, b"bytes", "a\0b", None):  # a number was once read, and closed, as a file descriptor
        for call in (Receipt.load, receipt.save):
            with pytest.raises(UsageError, match="path: expected a str"):
                call(path)
    os.close(descriptor)
    for data in ("text", 5, None, [1], np.ones(2)):
        for kind in (Receipt, detmem.Subtree, detmem.Proof):
            with pytest.raises(UsageError, match="data: expected bytes"):
                kind.decode(data)
    assert Receipt.decode(bytearray(receipt.encode())) == Receipt.decode(memoryview(receipt.encode())) == receipt
    with pytest.raises(CorruptionError):
        detmem.check_receipt(b"hello")
    with pytest.raises(CorruptionError):
        detmem.Proof.decode(b"\xc0")


# -------------------------------------------------------------------------------------------------- records, histories


def test_records_that_are_there_and_that_are_not() -> None:
    with detmem.open(":memory:") as db:
        assert not db.prove("notes", "n1").present
        assert db.prove("notes", "n1").verify(db.checkpoint(), "notes", "n1").ok  # nothing is there at all
        notes = small(db)
        before = db.checkpoint()
        there = db.prove("notes", "n1")
        assert there.present
        assert there.verify(before, "notes", "n1").ok
        assert not there.verify(before, "notes", "n2").ok
        assert not there.verify(before, "other", "n1").ok
        notes.delete("n1")
        assert not there.verify(db.checkpoint(), "notes", "n1").ok
        assert there.verify(db.checkpoint(), "notes", "n1", consistency=db.prove_consistency(before)).ok  # it was, then
        gone = db.prove("notes", "n1")
        assert not gone.present
        assert gone.verify(db.checkpoint(), "notes", "n1").ok
        for wrong in ("", "x" * 513, 5):
            with pytest.raises(UsageError):
                db.prove("notes", wrong)


CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), st.sampled_from("abcdefg"), st.integers(-50, 50)),
        st.tuples(st.just("delete"), st.sampled_from("abcdefg"), st.just(0)),
    ),
    min_size=1,
    max_size=25,
)


@given(CALLS)
def test_every_past_root_and_every_record_is_provable_after_any_history(calls: list[tuple[str, str, int]]) -> None:
    """From one log root: each result's receipt, each earlier checkpoint, and each id, there or not."""
    with detmem.open(":memory:") as db:
        c = perform(db, ("create", "c", 2, "l2", "Q16.16"))
        told = TWIN.Told()
        told.write(("create", "c", 2, "l2", "Q16.16"))
        checkpoints, answers = [db.checkpoint()], [c.search(raw=[0, 0], k=3)]
        for kind, id, value in calls:
            if kind == "delete" and id not in c:
                continue
            call = (kind, "c", [id]) if kind == "delete" else (kind, "c", [(id, [value, 1], None, None)])
            perform(db, call)
            told.write(call)
            checkpoints.append(db.checkpoint())
            answers.append(c.search(raw=[0, 0], k=3))
        now = db.checkpoint()
        for hits, old in zip(answers, checkpoints, strict=True):
            assert hits.receipt("R1").verify(now).ok
            proof = db.prove_consistency(old)
            assert proof.verify(old, now).ok
            assert proof.encode() == TWIN.write_consistency(told, old.seq, now.seq)
            assert hits.receipt("R3").encode() == TWIN.write_receipt(
                told, old.seq, now.seq, "R3", "c", [0, 0], 3, None, None
            )
        for id in "abcdefg":
            proof = db.prove("c", id)
            assert (proof.verify(now, "c", id).ok, proof.present) == (True, id in c)
            assert proof.encode() == TWIN.write_state_proof(told, now.seq, now.seq, [("c", id)])


@pytest.mark.parametrize("seed", range(6))
def test_old_roots_out_of_memory_are_the_logged_ones(seed: int) -> None:
    """Of histories with links, several collections, batches, and collections that come and go."""
    draw = random.Random(seed)
    with detmem.open(":memory:") as db:
        checkpoints = [db.checkpoint()]
        for number in range(60):
            names = db.collections()
            if not names or draw.random() < 0.08:
                db.collection(f"c{number}", dim=1, metric="l2", erasable=draw.random() < 0.3)
            elif draw.random() < 0.04:
                db.drop(draw.choice(names))
            else:
                c = db[draw.choice(names)]
                ids = [f"i{draw.randrange(9)}" for _ in range(draw.choice((1, 1, 3, 90)))]
                there = list(c)
                if len(there) > 1 and draw.random() < 0.3:
                    (c.link if draw.random() < 0.7 else c.unlink)(draw.choice(there), "to", draw.choice(there))
                elif there and draw.random() < 0.3:
                    c.delete(draw.sample(there, draw.randint(1, len(there))))
                else:
                    c.upsert(many := list(dict.fromkeys(ids)), raw=[[number]] * len(many))
            if db.seq == len(checkpoints):
                checkpoints.append(db.checkpoint())
        held = 0
        for checkpoint in checkpoints:
            with db._prover._standing(checkpoint.seq) as (_, then):
                assert then.root.hex() == checkpoint.state_root
                held += then._state is db._state
        assert held > 5


def test_a_checkpoint_of_another_history_is_not_continued() -> None:
    with detmem.open(":memory:") as db, detmem.open(":memory:") as other:
        small(db)
        small(other, 199)
        at_start = other.checkpoint()
        db["notes"].delete("n1")
        for wrong in (at_start, replace(at_start, seq=3), replace(db.checkpoint(), state_root="11" * 32)):
            with pytest.raises(Divergence):
                db.prove_consistency(wrong)
        other["notes"].delete("n1")
        other["notes"].delete("n2")
        with pytest.raises(Divergence):  # it lies in the future
            db.prove_consistency(other.checkpoint())
        assert db.prove_consistency(str(db.checkpoint())).verify(db.checkpoint(), db.checkpoint()).ok
        with pytest.raises(UsageError):
            db.prove_consistency(None)
        zero = Checkpoint.of(0, LogTree(), bytes(32))
        assert db.prove_consistency(zero).verify(zero, db.checkpoint()).ok


@pytest.mark.parametrize("parting", [1, 2, 3, 40, 41, 300, 301])
def test_replicas_part_at_the_first_seq_that_differs(parting: int) -> None:
    with detmem.open(":memory:") as a, detmem.open(":memory:") as b:
        for number in range(1, 301):
            for db in (a, b):
                if number == 1:
                    db.collection("c", dim=2 if db is a or parting > 1 else 3, metric="l2")
                else:
                    value = number if db is a or number < parting else -number
                    db["c"].upsert(f"{number % 13}", raw=[value, 1] if db["c"].dim == 2 else [value, 1, 1])
        assert a._prover.first_difference(b._prover) == parting
        assert detmem.diff(a, b).common_seq == parting - 1
        b.collection("more", dim=1)
        assert a._prover.first_difference(b._prover) == parting
        assert b._prover.first_difference(a._prover) == parting
        assert a._prover.first_difference(a._prover) == 301


def test_drift_is_found_with_few_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    """O(log n) roots, not n: 5,000 commits part within 2 x 14 of them."""
    with detmem.open(":memory:", durability="os") as a, detmem.open(":memory:", durability="os") as b:
        for db in (a, b):
            c = db.collection("c", dim=1, metric="l2")
            for number in range(5_000):
                c.upsert("x", raw=[number if db is a or number != 3_210 else -1])
        assert a._prover.first_difference(b._prover) == 3_212
        asked: list[tuple[int, int]] = []
        node = a._prover._tiles.node
        monkeypatch.setattr(a._prover._tiles, "node", lambda *place: asked.append(place) or node(*place))
        assert a._prover._parting(b._prover, a._state.log.size) == 3_212
        assert len(asked) <= 14


def test_a_proof_after_a_fork_of_threads_and_many_writes_is_of_one_moment() -> None:
    import threading

    with detmem.open(":memory:") as db:
        notes = small(db)
        stop = threading.Event()

        def write() -> None:
            number = 0
            while not stop.is_set():
                notes.upsert(f"n{number % 50}", raw=[number % 1000, 0, 0, 0])
                number += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(30):
                proof = db.prove("notes", f"n{number}")
                assert proof.verify(proof.checkpoint, "notes", f"n{number}").ok
                receipt = notes.search(raw=[0, 0, 0, 0], k=3).receipt("R1")
                assert receipt.verify(receipt.checkpoint).ok
        finally:
            stop.set()
            writer.join()


def test_a_receipt_of_ten_among_many_is_small() -> None:
    """k = 10 of 100,000 records of 384 dimensions stays below 16 KiB: the query is all that dimensions add to."""
    with detmem.open(":memory:") as db:
        notes = db.collection("notes", dim=4, metric="l2")
        raw = np.arange(400_000).reshape(100_000, 4) * 7919 % 200_003 - 100_000
        notes.add([f"record number {i}" for i in range(100_000)], raw=raw)
        data = notes.search(raw=[1, 2, 3, 4], k=10).receipt("R1").encode()
        assert len(data) + 4 * (384 - 4) <= 16 * 1024


# ------------------------------------------------------------------------------------------------------------- signing


def test_a_key_signs_one_history(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    key = detmem.SignerKey.generate("example.org/memory")
    assert detmem.SignerKey.parse(key.encode()) == key
    assert key.seed.hex() not in repr(key)
    with detmem.open(tmp_path / "s") as db:
        small(db)
        first = db.sign(key)
        assert db.sign(key, first) == first
        assert key.verifier.open(first) == db.checkpoint()
        db.backup(tmp_path / "old")
        db["notes"].delete("n1")
        second = db.sign(key, first)
        assert key.verifier.open(second) == db.checkpoint()
        assert second != first
    with detmem.open(tmp_path / "old") as rolled_back:
        with pytest.raises(Divergence):  # behind what was signed
            rolled_back.sign(key, second)
        rolled_back["notes"].delete("n2")
        with pytest.raises(Divergence):  # beside what was signed
            rolled_back.sign(key, second)
        rolled_back["notes"].delete("n3")
        with pytest.raises(Divergence):
            rolled_back.sign(key, second)
        with pytest.raises(CorruptionError):  # what another key signed is not what this one did
            rolled_back.sign(detmem.SignerKey.generate("example.org/memory"), first)
        with pytest.raises(Divergence):
            key.sign(rolled_back.checkpoint(), second)
        assert key.verifier.open(rolled_back.sign(key, first)) == rolled_back.checkpoint()


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n", "detmem/v1", 5])
def test_a_name_that_no_key_can_have(name: object) -> None:
    pytest.importorskip("cryptography")
    with pytest.raises(UsageError):
        detmem.SignerKey.generate(name)  # type: ignore[arg-type]


def test_keys_are_read_in_one_spelling() -> None:
    pytest.importorskip("cryptography")
    key = detmem.SignerKey.generate("k")
    for text in (str(key.verifier), key.encode()):
        kind = detmem.VerifierKey if text[0] == "k" else detmem.SignerKey
        for broken in (text[:-1], text + "=", text + "\n", text.upper(), text.replace("+", "-"), " " + text, ""):
            with pytest.raises(UsageError):
                kind.parse(broken)
    with pytest.raises(UsageError) as refused:
        detmem.SignerKey.parse(key.encode()[:-1])
    assert key.encode()[20:-1] not in str(refused.value)


def test_only_signing_imports_cryptography() -> None:
    code = "import detmem, sys; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_cryptography_a_key_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    note = "n\n0\n=\n\n\u2014 n " + base64.b64encode(VerifierKey("n", bytes(32)).hash + bytes(64)).decode() + "\n"
    calls = (
        lambda: SignerKey.generate("n"),
        lambda: SignerKey("n", bytes(32)).verifier,
        lambda: VerifierKey("n", bytes(32)).open(note),
    )
    for call in calls:
        with pytest.raises(UsageError, match="pip install cryptography"):
            call()
