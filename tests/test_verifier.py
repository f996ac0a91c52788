"""The standalone verifier: it stands alone, says of whole things what is true, and refuses everything else.

Expected values come from the twin's vectors, from RFC 8032, and from what the package says of its own stores; nothing
that the verifier printed is pasted in.
"""

from __future__ import annotations

import ast
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

import detmem
from detmem import exchange
from detmem.proof.proofs import key_of
from detmem.proof.receipt import Refutation
from tests import mutations
from tests.mutations import VECTORS, VERIFIER, lived
from tests.twin import TWIN, perform, perform_batch

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "detmem" / "verifier.py"
GOLDEN = ROOT / "spec" / "vectors" / "golden"
Refused: Any = VERIFIER.Refused


# --- alone ------------------------------------------------------------------------------------------------------------


def test_it_is_written_in_the_python_of_2020() -> None:
    ast.parse(SOURCE.read_text(encoding="utf-8"), feature_version=(3, 9))


def run(*words: object, python: str = sys.executable) -> tuple[int, str, str]:
    """A copy somewhere else, run by a Python that sees nothing of this checkout."""
    command = [python, "-I", "-S", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="ascii", check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("python", [sys.executable, "python3.9", "python3.10"])
def test_a_copy_verifies_on_its_own(tmp_path: Path, python: str) -> None:
    if shutil.which(python) is None or run("-c", "", python=python)[0]:
        pytest.skip(f"NO {python} on this machine")
    copy = tmp_path / "verifier.py"
    shutil.copy(SOURCE, copy)
    lived(tmp_path / "store")
    checkpoint = tmp_path / "checkpoint"
    with detmem.open(tmp_path / "store", "r") as db:
        checkpoint.write_text(str(db.checkpoint()), encoding="ascii", newline="\n")
        with open(tmp_path / "printed", "w", encoding="ascii", newline="\n") as file:
            print(db.checkpoint(), file=file)
        expected = f"ok 1..{db.seq} state {db.state_root}\n{db.checkpoint()}"
    assert run(copy, "store", tmp_path / "store", python=python) == (0, expected, "")
    for kept in (checkpoint, tmp_path / "printed"):  # once the empty line that print leaves was refused
        assert run(copy, "store", tmp_path / "store", "--checkpoint", kept, python=python) == (0, expected, "")
    (tmp_path / "store" / "HEAD").unlink()
    code, out, err = run(copy, "store", tmp_path / "store", python=python)
    assert (code, out, err.split(":")[0]) == (1, "", "REFUSED")


# --- whole stores -----------------------------------------------------------------------------------------------------


def checkpoint_of(path: Path) -> Any:
    with detmem.open(path, "r") as db:
        return VERIFIER.read_checkpoint(str(db.checkpoint()))


def test_golden_stores_arrive_at_their_checkpoints() -> None:
    stores = [path for path in sorted(GOLDEN.iterdir()) if path.is_dir()]
    assert stores
    for store in stores:
        checkpoint = VERIFIER.read_checkpoint(store.with_suffix(".checkpoint").read_text(encoding="ascii"))
        assert VERIFIER.verify_store(store, checkpoint) == (checkpoint, [])


def test_a_store_with_every_operation_arrives_where_the_package_does(tmp_path: Path) -> None:
    lived(tmp_path / "s")
    found = VERIFIER.verify_store(tmp_path / "s")
    assert found == (checkpoint_of(tmp_path / "s"), [])


def test_an_empty_store_and_the_moments_of_another(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "empty") as db:
        for _ in range(2):
            assert VERIFIER.verify_store(tmp_path / "empty").checkpoint.text() == str(db.checkpoint())
            db.snapshot()  # of nothing
    lived(tmp_path / "s")
    with detmem.open(tmp_path / "s", "r") as db:
        for seq in range(db.seq + 1):
            then = VERIFIER.read_checkpoint(str(db.at(seq).checkpoint()))
            assert VERIFIER.verify_store(tmp_path / "s", then).checkpoint.seq == db.seq
            with pytest.raises(Refused, match=f"checkpoint at seq {seq}"):
                VERIFIER.verify_store(tmp_path / "s", then._replace(log_root=bytes(32)))
        late = VERIFIER.read_checkpoint(str(db.checkpoint()))._replace(seq=db.seq + 1)
        with pytest.raises(Refused, match="before the checkpoint's"):
            VERIFIER.verify_store(tmp_path / "s", late)


def test_drawn_commands_arrive_where_the_package_and_the_twin_do(tmp_path: Path) -> None:
    """The first 300 commands of the accumulated vector, with snapshots in between."""
    memory = TWIN.Memory()
    with detmem.open(tmp_path / "s", durability="os") as db:
        for number, (command, _) in zip(range(300), TWIN.Draw().rounds(), strict=False):
            try:
                memory.write(command)
            except TWIN.Refused:
                continue
            (perform_batch(db, command[1]) if command[0] == "batch" else perform(db, command))
            if number % 100 == 50:
                db.snapshot()
    found = VERIFIER.verify_store(tmp_path / "s")
    assert found == (VERIFIER.read_checkpoint(memory.checkpoint()), [])


def test_a_store_that_was_left_open_or_torn_is_good_and_noted(tmp_path: Path) -> None:
    lived(tmp_path / "s")
    whole = checkpoint_of(tmp_path / "s")
    last = sorted((tmp_path / "s" / "log").iterdir())[-1]
    last.write_bytes(last.read_bytes() + b"DMF1 torn")
    found = VERIFIER.verify_store(tmp_path / "s")
    assert found.checkpoint == whole
    assert [note for note in found.notes if "a torn tail" in note]


def test_a_payload_may_be_gone_exactly_where_a_later_erasure_names_it(tmp_path: Path) -> None:
    """Exported logs of the twin's: with the payload and without, with the erasure and without."""
    said: dict[tuple[bool, bool], Any] = {}
    for gone in (False, True):
        for erased in (False, True):
            memory, nobody = TWIN.Memory(), bytes(16)
            data = TWIN.segment_header(TWIN.Segment(nobody, 1, 0, memory.link, memory.log_root()))
            calls = [("create", "c", 1, "l2", "Q16.16"), ("add", "c", [("a", [1], {"k": 1}, "one")])]
            for call in [*calls, ("erase", "c", ["a"])] if erased else calls:
                commit = memory.write(call)
                if gone:
                    stripped = [TWIN.without_payload(o) if o.type == TWIN.ADD else o for o in commit.operations]
                    commit = commit._replace(operations=tuple(stripped))
                data += TWIN.commit_frame(commit, 0, nobody, 1)
            data += TWIN.seal_frame(*[memory.seq] * 3, memory.log_size, memory.link, memory.log_root(), nobody, 1)
            (tmp_path / "log").write_bytes(data)
            try:
                found = VERIFIER.verify_log(tmp_path / "log")
                assert found.checkpoint.text() == memory.checkpoint()
                said[gone, erased] = found.notes
            except Refused as error:
                said[gone, erased] = str(error)
    assert said[False, False] == said[True, True] == []
    assert "no erasure names" in said[True, False]
    assert said[False, True] == ["an erasure is unfinished: 1 payloads that it names are still there"]


def test_what_is_less_than_a_closed_store_leaves_is_noted(tmp_path: Path) -> None:
    lived(tmp_path / "s")
    whole, head = checkpoint_of(tmp_path / "s"), (tmp_path / "s" / "HEAD").read_bytes()
    newest = sorted((tmp_path / "s" / "snap").iterdir())[-1]
    newest.rename(tmp_path / "elsewhere")
    assert "a snapshot of seq" in VERIFIER.verify_store(tmp_path / "s", whole).notes[0]
    (tmp_path / "elsewhere").rename(newest)
    (tmp_path / "s" / "HEAD").write_bytes(head[:4096] + bytes(4096))
    assert "a slot of HEAD" in VERIFIER.verify_store(tmp_path / "s", whole).notes[0]
    (tmp_path / "s" / "HEAD").write_bytes(head[:-1] + b"x")
    assert "zeros but for its slots" in VERIFIER.verify_store(tmp_path / "s", whole).notes[0]


def test_a_head_that_says_otherwise_is_refused(tmp_path: Path) -> None:
    lived(tmp_path / "s")
    head = (tmp_path / "s" / "HEAD").read_bytes()
    said = {}
    for what, at in {
        "generation": 16,
        "store": 24,
        "durable seq": 40,
        "segment": 48,
        "link": 64,
        "digest": 104,
    }.items():
        changed = bytearray(head)
        for slot in (0, 4096):
            changed[slot + at] ^= 0x20
            changed[slot + 136 : slot + 140] = crc32(changed[slot : slot + 136]).to_bytes(4, "little")
        (tmp_path / "s" / "HEAD").write_bytes(changed)
        try:
            said[what] = VERIFIER.verify_store(tmp_path / "s").notes
        except Refused as refused:
            said[what] = str(refused)
    assert said.pop("generation") == []  # it says which slot is the newer, and nothing of the memory
    for what, expected in {
        "store": "border in the header",
        "durable seq": "had been acknowledged",
        "segment": "names segment",
        "link": "HEAD: link at seq",
        "digest": "digest in HEAD",
    }.items():
        assert expected in said[what]
    (tmp_path / "s" / "HEAD").write_bytes(bytes(8192))
    with pytest.raises(Refused, match="no readable slot"):
        VERIFIER.verify_store(tmp_path / "s")


def test_exported_logs_are_verified_and_cut_ones_refused(tmp_path: Path) -> None:
    lived(tmp_path / "s")
    with detmem.open(tmp_path / "s", "r") as db:
        exchange.export_log(db, tmp_path / "log")
    assert VERIFIER.verify_log(tmp_path / "log") == (checkpoint_of(tmp_path / "s"), [])
    data = (tmp_path / "log").read_bytes()
    changed = [data[:cut] for cut in (0, 100, len(data) - 144, len(data) - 1)]
    changed.append(data[:300] + bytes([data[300] ^ 1]) + data[301:])  # in a frame, with a whole seal at the end
    for at in (0, 8, 10, 12, 16, 32, 40, 48, 80, 112):  # each field of the header, under a right CRC
        head = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 : 124]
        changed.append(head + crc32(head).to_bytes(4, "little") + data[128:])
    for bad in changed:
        (tmp_path / "log").write_bytes(bad)
        with pytest.raises(Refused):
            VERIFIER.verify_log(tmp_path / "log")


@pytest.mark.parametrize("kind", ["snapshots", "none", "archived"])
def test_verifier_and_package_agree_on_every_kind_of_damage(tmp_path: Path, kind: str) -> None:
    """The same changes for both: neither accepts what the other refuses.  A snapshot with other requests or erasures
    than the log's, rightly hashed, passed ``verify``; one that stood in for archived payloads could hold vectors that
    nobody admits, for the verifier."""
    rng = random.Random(11)
    lived(tmp_path / "s", snapshots=kind != "none")
    if kind == "archived":
        with detmem.open(tmp_path / "s") as db:
            db.archive(tmp_path / "elsewhere")
            db["notes"].add("behind it", [1, 2, 3])
    refused = 0
    for how, _ in mutations.changes(tmp_path / "s", 120, rng):
        try:
            VERIFIER.verify_store(tmp_path / "s")
            good = True
        except Refused:
            good = False
            refused += 1
        try:
            found = detmem.verify(tmp_path / "s").ok
        except detmem.FormatError:  # another version
            found = False
        assert found == good, how
    assert refused > 70


# --- proofs -----------------------------------------------------------------------------------------------------------


def vectors() -> dict[str, Any]:
    return json.loads(VECTORS.read_text(encoding="ascii"))  # type: ignore[no-any-return]


def trusted() -> Any:
    return VERIFIER.read_checkpoint(vectors()["signed_checkpoint"])


def test_every_proof_of_the_twin_is_accepted_and_says_what_it_should() -> None:
    found, unhex, read = vectors(), bytes.fromhex, VERIFIER.read_checkpoint
    for one in found["inclusion_paths"]:
        path = VERIFIER.split(unhex(one["path"]), "path")
        VERIFIER.check_inclusion(unhex(one["leaf"]), one["index"], one["size"], path, unhex(one["root"]))
    for one in found["consistency_paths"]:
        path = VERIFIER.split(unhex(one["path"]), "path")
        VERIFIER.check_growth(one["old"], unhex(one["old_root"]), one["new"], unhex(one["new_root"]), path)
    for one in found["state_proofs"]:
        shown = VERIFIER.check_state_proof(unhex(one["bytes"]), read(one["checkpoint"]))
        assert [[*names, there] for names, there in shown.items()] == one["shows"]
    for one in found["consistency_proofs"]:
        VERIFIER.check_consistency(unhex(one["bytes"]), read(one["old"]), read(one["new"]))
    for one in found["receipts"]:
        receipt = VERIFIER.check_receipt(unhex(one["bytes"]), read(one["checkpoint"]))
        assert [[name, raw] for name, (raw, _) in receipt.results.items()] == one["results"]
        assert receipt.sha256.hex() == one["sha256"]
    for one in found["notes"]:
        assert VERIFIER.check_note(one["note"], found["signer"]["verifier_key"]) == trusted()


def test_every_broken_neighbour_of_the_twin_is_refused() -> None:
    found, unhex, read = vectors(), bytes.fromhex, VERIFIER.read_checkpoint
    whole = VERIFIER.check_receipt(unhex(found["receipts"][-1]["bytes"]), trusted())
    false = VERIFIER.check_receipt(unhex(found["false_receipt"]["bytes"]), trusted())
    checks = {
        "invalid_state_proofs": lambda one: VERIFIER.check_state_proof(
            unhex(one["bytes"]), read(one.get("checkpoint", found["signed_checkpoint"]))
        ),
        "invalid_consistency_proofs": lambda one: VERIFIER.check_consistency(
            unhex(one["bytes"]), read(one["old"]), read(one["new"])
        ),
        "invalid_receipts": lambda one: VERIFIER.check_receipt(unhex(one["bytes"]), trusted()),
        "invalid_subtrees": lambda one: VERIFIER.check_subtree(unhex(one["bytes"]), whole, trusted()),
        "invalid_refutations": lambda one: VERIFIER.check_refutation(unhex(one["bytes"]), false, trusted()),
        "invalid_notes": lambda one: VERIFIER.check_note(one["note"], found["signer"]["verifier_key"]),
    }
    accepted = []
    for name, check in checks.items():
        assert found[name]
        for one in found[name]:
            try:
                check(one)
                accepted.append(f"{name}: {one['why']}")
            except Refused:
                pass
    assert accepted == []


def test_a_missing_neighbour_shows_in_its_subtree_and_by_its_refutation() -> None:
    found, unhex = vectors(), bytes.fromhex
    false = VERIFIER.check_receipt(unhex(found["false_receipt"]["bytes"]), trusted())  # R1 holds: the results are real
    wrong = 0
    for one in found["subtrees"]:
        if one["wrong"] is None:
            continue
        wrong += 1
        with pytest.raises(Refused, match=f"left out '{found['false_receipt']['missing']}'"):
            VERIFIER.check_subtree(unhex(one["bytes"]), false, trusted())
    assert wrong == 1
    missing = VERIFIER.check_refutation(unhex(found["refutation"]["bytes"]), false, trusted())
    assert missing == found["false_receipt"]["missing"]


def test_an_id_of_any_length_is_refused_and_not_stumbled_over() -> None:
    found = vectors()
    receipt = VERIFIER.check_receipt(bytes.fromhex(found["receipts"][-1]["bytes"]), trusted())
    false = VERIFIER.check_receipt(bytes.fromhex(found["false_receipt"]["bytes"]), trusted())
    kind, subtree = TWIN.decode(bytes.fromhex(found["subtrees"][0]["bytes"]))
    refuting, refutation = TWIN.decode(bytes.fromhex(found["refutation"]["bytes"]))
    for id in ("", "x" * 513, "x" * 70_000):
        with pytest.raises(Refused, match="size of an id"):
            record = [id, b"", b"", b"", b""]
            VERIFIER.check_subtree(TWIN.encode([kind, {**subtree, "records": [record]}]), receipt, trusted())
        with pytest.raises(Refused, match="size of an id"):
            VERIFIER.check_refutation(TWIN.encode([refuting, {**refutation, "id": id}]), false, trusted())


def test_a_receipt_is_verified_in_50_milliseconds() -> None:
    data = max((bytes.fromhex(one["bytes"]) for one in vectors()["receipts"]), key=len)
    checkpoint = trusted()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        VERIFIER.check_receipt(data, checkpoint)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.050


# --- proofs that the package makes ------------------------------------------------------------------------------------


def asked(db: detmem.Database, level: str) -> list[Any]:
    """Receipts of every kind of question."""
    notes = db["notes"]
    query = [1, 0, 0]
    wheres: list[Any] = [None, {"n": {"$lt": 20}}, {"$not": {"kind": "a"}}, {"kind": {"$in": ["a", "c"]}}]
    results = [notes.search(query, k=k, where=where) for k in (1, 7, 500) for where in wheres]
    results.append(notes.search(query, k=9, ids=["id0", "id1", "id30", "none"]))
    results.append(notes.search(query, k=60, max_distance=0.5))
    return [result.receipt(level) for result in results]


def filled(path: Path, *, erasable: bool = False) -> detmem.Database:
    db = detmem.open(path, durability="os")
    notes = db.collection("notes", dim=3, metric="cosine", erasable=erasable)
    rng = random.Random(4)
    for start in range(0, 60, 12):
        ids = [f"id{n}" for n in range(start, start + 12)]
        vectors = [[rng.gauss(0, 1) for _ in range(3)] for _ in ids]
        metadatas = [{"n": n, "kind": "abc"[n % 3]} for n in range(start, start + 12)]
        notes.add(ids, vectors, metadatas=metadatas, documents=ids)
    notes.delete(["id3", "id40"])
    notes.link("id0", "next", "id1")
    return db


@pytest.mark.skipif(sys.platform == "win32", reason="needs links and FIFOs")
@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
@pytest.mark.parametrize("place", ["HEAD", "log", "snap"])
def test_something_else_in_place_of_a_file_is_refused_unread(tmp_path: Path, place: str, kind: str) -> None:
    with filled(tmp_path / "s") as db:
        db.snapshot()
    path = tmp_path / "s" / place
    path = path if place == "HEAD" else sorted(path.iterdir())[-1]
    VERIFIER.verify_store(tmp_path / "s")
    path.rename(tmp_path / "moved")
    if kind == "link":
        path.symlink_to(tmp_path / "moved")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(VERIFIER.Refused, match="regular file"):
        VERIFIER.verify_store(tmp_path / "s")


def test_a_receipt_without_a_proof_is_refuted_by_nothing_and_one_without_lists_meets_a_subtree(tmp_path: Path) -> None:
    with filled(tmp_path / "s") as db:
        hits, now = db["notes"].search([1.0, 0.0, 0.0], k=4), VERIFIER.read_checkpoint(str(db.checkpoint()))
        number = key_of("notes", hits.ids[0])[0]
        subtree = db.subtree("notes", number).encode()
        plain, said = (VERIFIER.check_receipt(hits.receipt(level).encode(), now) for level in ("R1", "R0"))
        assert VERIFIER.check_subtree(subtree, plain, now) == number
        assert hits.receipt("R1").check_subtree(db.subtree("notes", number), db.checkpoint()).ok
        for what in (
            lambda: VERIFIER.check_subtree(subtree, said, now),
            lambda: VERIFIER.check_refutation(refutation_of(hits.receipt("R0"), db, number).encode(), said, now),
        ):
            with pytest.raises(VERIFIER.Refused, match="level R0"):
                what()


def refutation_of(receipt: Any, db: detmem.Database, number: int) -> Any:
    subtree = db.subtree("notes", number)
    row = subtree.records[0]
    return Refutation(db.checkpoint(), receipt.seq, bytes.fromhex(receipt.sha256), row, subtree.part_of(row))


@pytest.mark.parametrize("erasable", [False, True])
def test_receipts_of_the_package_hold_and_their_subtrees_find_nothing_missing(tmp_path: Path, erasable: bool) -> None:
    with filled(tmp_path / "s", erasable=erasable) as db:
        now, subtrees = VERIFIER.read_checkpoint(str(db.checkpoint())), {}
        for level in ("R0", "R1", "R2", "R3"):
            for receipt in asked(db, level):
                found = VERIFIER.check_receipt(receipt.encode(), now)
                named = [(one.id, one.raw) for one in receipt.results]
                assert [(name, raw) for name, (raw, _) in found.results.items()] == named
                assert found.sha256.hex() == receipt.sha256
                with pytest.raises(Refused):
                    VERIFIER.check_receipt(receipt.encode(), now._replace(log_root=bytes(32)))
                if level == "R3":
                    for number in range(256):
                        if number not in subtrees:
                            subtrees[number] = db.subtree("notes", number).encode()
                        assert VERIFIER.check_subtree(subtrees[number], found, now) == number


def test_older_receipts_and_proofs_hold_by_a_consistency_proof(tmp_path: Path) -> None:
    with filled(tmp_path / "s") as db:
        old, receipt = db.checkpoint(), db["notes"].search([0, 1, 0], k=4).receipt("R1")
        proofs = {id: db.prove("notes", id) for id in ("id0", "id3", "never")}
        db.record(receipt, "what was said")
        db["notes"].delete("id0")
        now = VERIFIER.read_checkpoint(str(db.checkpoint()))
        via = db.prove_consistency(old).encode()
        VERIFIER.check_consistency(via, VERIFIER.read_checkpoint(str(old)), now)
        assert VERIFIER.check_receipt(receipt.encode(), now, via).seq == receipt.seq
        for id, there in (("id0", True), ("id3", False), ("never", False)):
            assert VERIFIER.check_state_proof(proofs[id].encode(), now, via) == {("notes", id): there}
            with pytest.raises(Refused, match="not the trusted one"):
                VERIFIER.check_state_proof(proofs[id].encode(), now)
        assert VERIFIER.check_state_proof(db.prove("notes", "id0").encode(), now) == {("notes", "id0"): False}
        for seq in range(db.seq + 1):
            then = db.at(seq).checkpoint()
            VERIFIER.check_consistency(db.prove_consistency(then).encode(), VERIFIER.read_checkpoint(str(then)), now)


def test_a_lie_of_the_package_is_found_by_one_subtree_and_refuted(tmp_path: Path) -> None:
    with filled(tmp_path / "s") as db:
        now = VERIFIER.read_checkpoint(str(db.checkpoint()))
        receipt = db["notes"].search([1, 0, 0], k=5).receipt("R3")
        more = db["notes"].search([1, 0, 0], k=6).receipt("R1")
        missing = receipt.results[2].id
        lie = replace(
            receipt, results=tuple(one for one in more.results if one.id != missing), part=_proof_of(db, more, missing)
        )
        found = VERIFIER.check_receipt(lie.encode(), now)
        guilty = []
        for number in range(256):
            subtree = db.subtree("notes", number)
            try:
                VERIFIER.check_subtree(subtree.encode(), found, now)
            except Refused:
                guilty.append(number)
                refutation = lie.refute(subtree, db.checkpoint())
                assert refutation is not None
                assert VERIFIER.check_refutation(refutation.encode(), found, now) == missing
                with pytest.raises(Refused):
                    honest = VERIFIER.check_receipt(receipt.encode(), now)
                    VERIFIER.check_refutation(refutation.encode(), honest, now)
        assert guilty == [VERIFIER.state_key("notes", missing)[0]]


def _proof_of(db: detmem.Database, more: Any, missing: str) -> Any:
    """The state part for all results of ``more`` but one, as a search of the others gives it."""
    ids = [one.id for one in more.results if one.id != missing]
    return db["notes"].search([1, 0, 0], k=5, ids=ids).receipt("R1").part


def test_the_command_line_checks_what_the_commands_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with filled(tmp_path / "s") as db:
        receipt = db["notes"].search([0, 0, 1], k=3).receipt("R3")
        files = {
            "now": str(db.checkpoint()).encode(),
            "old": str(db.at(2).checkpoint()).encode(),
            "receipt": receipt.encode(),
            "subtree": db.subtree("notes", 5).encode(),
            "state-proof": db.prove("notes", "id1").encode(),
            "consistency": db.prove_consistency(db.at(2).checkpoint()).encode(),
        }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    def said(*words: str) -> tuple[int, str, str]:
        code = VERIFIER.main([words[0], *(str(tmp_path / word) if word in files else word for word in words[1:])])
        return code, *capsys.readouterr()

    trusting = ("--checkpoint", "now")
    assert said("receipt", "receipt", *trusting)[1].startswith(f"ok seq {receipt.seq}: 3 results were live records")
    assert said("subtree", "subtree", "--of", "receipt", *trusting)[1] == "ok, nothing is missing from subtree 5\n"
    assert said("state-proof", "state-proof", *trusting)[1] == "ok present 'notes' 'id1'\n"
    assert said("consistency", "consistency", "--old", "old", *trusting)[1].startswith("ok, the newer log")
    for words in (
        ("receipt", "receipt", "--checkpoint", "old"),
        ("receipt", "receipt"),
        ("receipt", "subtree", *trusting),
        ("subtree", "subtree", *trusting),
        ("consistency", "consistency", "--old", "now", *trusting),
        ("state-proof", "nowhere", *trusting),
        ("note", "now", "--key", "x"),
    ):
        code, out, err = said(*words)
        assert (code, out, err[:9]) == (1, "", "REFUSED: "), words


# --- signatures: RFC 8032, section 7.1 --------------------------------------------------------------------------------

RFC_8032 = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize("public, message, signature", RFC_8032)
def test_the_signatures_of_rfc_8032_verify_and_no_neighbour_does(public: str, message: str, signature: str) -> None:
    key, text, sign = map(bytes.fromhex, (public, message, signature))
    VERIFIER.check_signature(key, text, sign)
    with pytest.raises(Refused):
        VERIFIER.check_signature(key, text + b"\0", sign)
    for at in range(0, 64, 3):
        with pytest.raises(Refused):
            VERIFIER.check_signature(key, text, sign[:at] + bytes([sign[at] ^ 1]) + sign[at + 1 :])
    above = int.from_bytes(sign[32:], "little") + VERIFIER.ORDER  # the same number, in a second spelling
    with pytest.raises(Refused, match="order"):
        VERIFIER.check_signature(key, text, sign[:32] + above.to_bytes(32, "little"))


# --- the encoding -----------------------------------------------------------------------------------------------------


def test_the_decoder_accepts_the_vectors_of_the_encoding_and_refuses_their_neighbours() -> None:
    found = json.loads((ROOT / "spec" / "vectors" / "encoding.json").read_text(encoding="ascii"))
    counts = [0, 0]
    for name, cases in found.items():
        for one in cases if isinstance(cases, list) else []:
            if not isinstance(one, dict) or "bytes" not in one or not isinstance(one["bytes"], str):
                continue
            data = bytes.fromhex(one["bytes"])
            try:
                expected = TWIN.decode(data)
            except TWIN.Refused:
                counts[1] += 1
                with pytest.raises(Refused):
                    VERIFIER.decode(data, name)
            else:
                counts[0] += 1
                assert repr(VERIFIER.decode(data, name)) == repr(expected)
    assert min(counts) > 20


# --- the twin's broken neighbours, page by page: what no random change would come upon ------------------------------


def page(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "spec" / "vectors" / f"{name}.json").read_text(encoding="ascii"))  # type: ignore[no-any-return]


def accepted(cases: list[dict[str, Any]], check: Callable[[dict[str, Any]], object]) -> list[str]:
    """Why each case is there that was not refused."""
    found = []
    for one in cases:
        try:
            check(one)
            found.append(str(one["why"]))
        except Refused:
            pass
    assert cases
    return found


def test_log_pages_operations_and_frames() -> None:
    log, unhex = page("log"), bytes.fromhex

    def operation(one: dict[str, Any]) -> Any:
        reader = VERIFIER.Reader(unhex(one["bytes"]), "operation")
        found = VERIFIER.read_operation(reader)
        reader.end()
        return found

    def frame(one: dict[str, Any]) -> Any:
        data, first = unhex(one["bytes"]), one["first_seq"]
        seed = crc32(unhex(one["store_id"]) + first.to_bytes(8, "little"))
        tree = VERIFIER.LogTree()
        if "log_size" in one or "seal" in one["why"] or one in log["invalid_seals"]:
            tree = Tree(seal["log_size"], unhex(seal["log_root"]))
        read = VERIFIER.read_frame(data, 0, seed, first, one["seq_before"], unhex(one["link_before"]), tree)
        VERIFIER.need(read.end == len(data), "bytes behind the frame")
        return read

    class Tree:
        """A log tree of which only size and root are known."""

        def __init__(self, size: int, root: bytes) -> None:
            self.size, self.root = size, lambda: root

    (seal,) = log["seals"]
    for one in log["operations"]:
        found = operation(one)
        assert (found.type, found.collection, found.id, found.leaf.hex()) == (
            one["type"],
            one["collection"],
            one["id"],
            one["leaf"],
        )
    for one in log["frames"]:
        found = frame(one)
        assert (found.link.hex(), found.state_root.hex(), found.closing.hex(), found.durable_seq) == (
            one["link"],
            one["state_root"],
            one["commit_leaf"],
            one["durable_seq"],
        )
    assert frame(seal).operations is None
    assert accepted(log["invalid_operations"], operation) == []
    assert accepted(log["invalid_frames"], frame) == []
    assert accepted(log["invalid_seals"], frame) == []


def test_log_pages_heads() -> None:
    log = page("log")
    for one in log["head_slots"]:
        head = VERIFIER.read_head_slot(bytes.fromhex(one["bytes"]).ljust(140, b"\0"))
        assert (head.generation, head.durable_seq, head.link.hex()) == (
            one["generation"],
            one["durable_seq"],
            one["link"],
        )
    cases = [one for one in log["invalid_head_slots"] if len(one["bytes"]) == 280]

    def read(one: dict[str, Any]) -> None:
        VERIFIER.need(VERIFIER.read_head_slot(bytes.fromhex(one["bytes"])), "a bad slot")

    assert accepted(cases, read) == []


def store_of(path: Path, memory: Any, commits: list[Any], snapshot: bytes) -> None:
    """A store of the twin's: one sealed segment, the snapshot at its end, and an empty segment behind it."""
    store_id = bytes(range(16))
    seq, size, link, root = memory.seq, memory.log_size, memory.link, memory.log_root()
    first = TWIN.Memory()
    data = TWIN.segment_header(TWIN.Segment(store_id, 1, 0, first.link, first.log_root()))
    data += b"".join(TWIN.commit_frame(commit, commit.seq - 1, store_id, 1) for commit in commits)
    data += TWIN.seal_frame(seq, seq, seq, size, link, root, store_id, 1)
    head = TWIN.head_slot(TWIN.Head(True, 1, store_id, seq, seq + 1, 128, link, seq, snapshot[-32:].rjust(32)))
    for name, content in {
        "HEAD": head.ljust(4096, b"\0") * 2,
        f"log/{1:020d}.seg": data,
        f"log/{seq + 1:020d}.seg": TWIN.segment_header(TWIN.Segment(store_id, seq + 1, size, link, root)),
        f"snap/{seq:020d}.snap": snapshot,
    }.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def test_snapshot_pages_whole_and_broken_snapshots_beside_their_log(tmp_path: Path) -> None:
    snapshots = page("snapshot")
    broken = [bytes.fromhex(one["bytes"]) for one in snapshots["invalid"]]
    taken = []
    for number, one in enumerate(snapshots["valid"]):
        if not one["commands"]:
            continue
        memory, path = TWIN.Memory(), tmp_path / str(number)
        commits = [memory.write(TWIN.from_json(command)) for command in one["commands"]]
        store_of(path, memory, commits, bytes.fromhex(one["bytes"]))
        assert VERIFIER.verify_store(path).checkpoint.text() == one["checkpoint"]
        for other, data in zip(snapshots["invalid"], broken, strict=True):
            store_of(path, memory, commits, data)
            taken += [
                f"{one['why']}: {why}" for why in accepted([other], lambda case, path=path: VERIFIER.verify_store(path))
            ]
    assert taken == []


@pytest.mark.parametrize("why", ["a vector that is not admitted", "a content that is not canonical"])
def test_a_snapshot_is_read_by_itself_where_the_log_has_only_commitments(tmp_path: Path, why: str) -> None:
    """It may stand in for archived payloads, of which the log has nothing to compare it with."""
    (data,) = (bytes.fromhex(one["bytes"]) for one in page("snapshot")["invalid"] if one["why"] == why)
    seq = int.from_bytes(data[16:24], "little")
    (tmp_path / f"{seq:020d}.snap").write_bytes(data)
    with pytest.raises(Refused):
        VERIFIER.read_snapshot(tmp_path / f"{seq:020d}.snap", seq)


def test_commitments_page() -> None:
    found, unhex = page("commitments"), bytes.fromhex
    for one in found["state_trees"]:
        tree = VERIFIER.StateTree()
        for key, leaf in one["entries"]:
            tree.put(unhex(key), unhex(leaf))
        assert tree.root().hex() == one["root"]
        for key, _ in one["entries"]:
            tree.put(unhex(key), None)
        assert tree.root() == bytes(32)
    log = VERIFIER.LogTree()
    for one in found["log_trees"]["sizes"]:
        while log.size < one["size"]:
            log.append(VERIFIER.sha256(b"\0", bytes([log.size])))
        assert (log.root().hex(), [root.hex() for root in log.roots]) == (one["root"], one["frontier"])
    for one in found["checkpoints"]:
        checkpoint = VERIFIER.read_checkpoint(one["text"])
        assert (checkpoint.seq, checkpoint.log_size, checkpoint.log_root.hex()) == (
            one["seq"],
            one["log_size"],
            one["log_root"],
        )
    assert accepted(found["invalid_checkpoints"], lambda one: VERIFIER.read_checkpoint(one["text"])) == []


def test_filters_page() -> None:
    found = page("filters")
    metadatas = {name: [TWIN.from_json(one) for one in some] for name, some in found["metadatas"].items()}

    def choose(one: dict[str, Any]) -> list[bool]:
        where = TWIN.from_json(one["where"])
        if where is None:
            where = {}
        VERIFIER.check_where(where)
        return [VERIFIER.matches(metadata, where) for metadata in metadatas[one["metadatas"]]]

    for one in found["cases"]:
        if "matches" in one:
            assert choose(one) == one["matches"], one["why"]
    # what no file of encoding.md can hold never reaches a filter: other kinds of values, and texts with surrogates
    cases = [one for one in found["cases"] if "refused" in one and _can_be_written(TWIN.from_json(one["where"]))]
    assert accepted(cases, choose) == []
    assert len(cases) > 30


def _can_be_written(where: Any) -> bool:
    try:
        return isinstance(where, dict) and bool(TWIN.encode(where))
    except (TWIN.Refused, UnicodeEncodeError):
        return False


ILLEGAL: dict[str, Callable[[Any], list[Any]]] = {
    "a collection twice": lambda w: [TWIN.plain(1, "c", "", TWIN.definition(1, "l2", "Q16.16"))],
    "another definition": lambda w: [TWIN.plain(1, "new", "", TWIN.encode({"dim": 1}))],
    **{
        f"a definition of {change}": lambda w, change=change: [
            TWIN.plain(
                1, "new", "", TWIN.encode({"dim": 1, "erasable": False, "format": "Q16.16", "metric": "l2", **change})
            )
        ]
        for change in ({"dim": 0}, {"dim": 65537}, {"dim": True}, {"erasable": 1}, {"metric": "L2"}, {"format": "Q8"})
    },
    "content that begins otherwise": lambda w: [w(TWIN.UPSERT, "c", "a", [1], b"\x82\x80\xc0")],
    "a document too long": lambda w: [w(TWIN.UPSERT, "c", "a", [1], TWIN.encode([{}, "x" * ((8 << 20) + 1)]))],
    "drop of nothing": lambda w: [TWIN.plain(2, "none", "")],
    "an id twice": lambda w: [w(TWIN.ADD, "c", "a", [1])],
    "no such collection": lambda w: [w(TWIN.UPSERT, "none", "a", [1])],
    "another dimension": lambda w: [w(TWIN.UPSERT, "c", "a", [1, 2])],
    "not admitted": lambda w: [w(TWIN.UPSERT, "c", "a", [2**30 + 1])],
    "content in another spelling": lambda w: [w(TWIN.UPSERT, "c", "a", [1], b"\x92\x80\xd9\x01x")],
    "content with a nested map": lambda w: [w(TWIN.UPSERT, "c", "a", [1], TWIN.encode([{"a": {}}, None]))],
    "content that is no pair": lambda w: [w(TWIN.UPSERT, "c", "a", [1], TWIN.encode({}))],
    "a document that is none": lambda w: [w(TWIN.UPSERT, "c", "a", [1], TWIN.encode([{}, 1]))],
    "salted where nothing is erasable": lambda w: [w(TWIN.UPSERT, "c", "a", [1], salt=bytes(32))],
    "update of nothing": lambda w: [w(TWIN.UPDATE, "c", "none", [1])],
    "another standing content": lambda w: [w(TWIN.UPDATE, "c", "a", [1], None)._replace(content_commitment=b"x" * 32)],
    "another standing vector": lambda w: [
        TWIN.Operation(TWIN.UPDATE, "c", "a", None, b"\x92\x80\xc0", b"x" * 32, TWIN.commitment(b"\x92\x80\xc0"))
    ],
    "gone, and of another dimension": lambda w: [TWIN.without_payload(w(TWIN.UPSERT, "c", "a", [1, 2]))],
    "delete of nothing": lambda w: [TWIN.plain(6, "c", "none")],
    "a link to nobody": lambda w: [TWIN.plain(7, "c", "a", TWIN.encode(["r", "c", "none"]))],
    "a link from nobody": lambda w: [TWIN.plain(7, "c", "none", TWIN.encode(["r", "c", "a"]))],
    "a link twice": lambda w: [TWIN.plain(7, "c", "a", TWIN.encode(["r", "c", "a"]))] * 2,
    "a link without a relation": lambda w: [TWIN.plain(7, "c", "a", TWIN.encode(["", "c", "a"]))],
    "a link of two": lambda w: [TWIN.plain(7, "c", "a", TWIN.encode(["r", "c"]))],
    "unlink of nothing": lambda w: [TWIN.plain(8, "c", "a", TWIN.encode(["r", "c", "a"]))],
    "a record of no hash": lambda w: [TWIN.plain(9, "", "", TWIN.encode([b"x", None]))],
    "a record of three": lambda w: [TWIN.plain(9, "", "", TWIN.encode([bytes(32), None, None]))],
    "a record with a number": lambda w: [TWIN.plain(9, "", "", TWIN.encode([bytes(32), 1]))],
    "a request used before": lambda w: [TWIN.plain(11, "c", "used", TWIN.encode(1)), w(TWIN.ADD, "c", "b", [1])],
    "a request for too many": lambda w: [TWIN.plain(11, "c", "r", TWIN.encode(2)), w(TWIN.ADD, "c", "b", [1])],
    "a request for none": lambda w: [TWIN.plain(11, "c", "r", TWIN.encode(0)), w(TWIN.ADD, "c", "b", [1])],
    "a request for a delete": lambda w: [TWIN.plain(11, "c", "r", TWIN.encode(1)), TWIN.plain(6, "c", "a")],
    "a request of another collection": lambda w: [TWIN.plain(11, "d", "r", TWIN.encode(1)), w(TWIN.ADD, "c", "b", [1])],
}


@pytest.mark.parametrize("why", ILLEGAL)
def test_an_illegal_operation_is_refused_before_any_root_is_compared(tmp_path: Path, why: str) -> None:
    """A log that is right in every hash; nobody knows the state root behind it, for there is none."""
    memory, nobody = TWIN.Memory(), bytes(16)
    data = TWIN.segment_header(TWIN.Segment(nobody, 1, 0, memory.link, memory.log_root()))
    for call in [
        ("create", "c", 1, "l2", "Q16.16"),
        ("create", "d", 1, "l2", "Q16.16"),
        ("request", "used", ("add", "c", [("a", [1], None, None)])),
    ]:
        data += TWIN.commit_frame(memory.write(call), 0, nobody, 1)

    def write(
        kind: int, name: str, id: str, raw: list[int], content: bytes | None = b"\x92\x80\xc0", salt: bytes = b""
    ) -> Any:
        vector = b"".join(component.to_bytes(4, "little", signed=True) for component in raw)
        of_content = bytes(32) if content is None else TWIN.commitment(content, salt)
        return TWIN.Operation(kind, name, id, vector, content, TWIN.commitment(vector, salt), of_content, salt)

    illegal = TWIN.make_commit(ILLEGAL[why](write), memory.seq + 1, memory.state_root(), memory.link)
    (tmp_path / "log").write_bytes(data + TWIN.commit_frame(illegal, 0, nobody, 1))
    with pytest.raises(Refused) as refused:
        VERIFIER.verify_log(tmp_path / "log")
    assert "state root after" not in str(refused.value)
    assert "seal is missing" not in str(refused.value)


@pytest.mark.parametrize("head", [0xC1, 0xC7, 0xC8, 0xC9, 0xCA, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xDF])
def test_a_byte_that_begins_no_value_begins_none_whatever_follows(head: int) -> None:
    for behind in (b"", b"\0", b"\0" * 4, b"\0" * 5, b"\xa1a\x05", b"\0\0\0\1\xa1a\5"):
        with pytest.raises(Refused):
            VERIFIER.decode(bytes([head]) + behind)


def test_limits_of_items_depth_and_size() -> None:
    VERIFIER.decode(TWIN.encode([[0] * 1000] * 100 + [0]))
    for data in (b"\xdd\x00\x02\x00\x00" + b"\0" * 131072, b"\x91" * 17 + b"\0", b"\xdd\xff\xff\xff\xff\0", b""):
        with pytest.raises(Refused):
            VERIFIER.decode(data)
    assert VERIFIER.decode(b"\x91" * 16 + b"\0") is not None
    with pytest.raises(Refused):
        VERIFIER.decode(b"\xc6\x00\x01\x00\x00" + bytes(65536), "value", 65540)


# --- campaigns, small; `make mutations` runs the large ones -----------------------------------------------------------


def test_no_mutation_of_a_store_is_accepted(tmp_path: Path) -> None:
    seen, accepted = mutations.mutate_store(tmp_path, 600, random.Random(20261))
    assert accepted == []
    assert sum(count for how, count in seen.items() if how.endswith("refused")) > 400


def test_no_mutation_of_a_proof_is_accepted() -> None:
    seen, accepted = mutations.mutate_proofs(6000, random.Random(20262))
    assert accepted == []
    assert len(seen) > 80
