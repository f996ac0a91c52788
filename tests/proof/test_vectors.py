"""Every vector of spec/vectors/receipts.json against the package: what the twin made is read, shown and written again,
and its broken neighbours are refused."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from detmem.errors import CorruptionError
from detmem.proof import merkle
from detmem.proof.checkpoint import Checkpoint
from detmem.proof.merkle import BadProof
from detmem.proof.note import SignerKey, VerifierKey
from detmem.proof.proofs import ConsistencyProof, Proof, RecordProof
from detmem.proof.receipt import Receipt, Refutation, Subtree

PATH = Path(__file__).resolve().parents[2] / "spec" / "vectors" / "receipts.json"


@functools.cache
def vectors() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(PATH.read_text(encoding="ascii"))
    return value


def cases(group: str) -> Any:
    params = [pytest.param(case, id=f"{i}-{case.get('why', '')[:40]}") for i, case in enumerate(vectors()[group])]
    return pytest.mark.parametrize("case", params)


def hexed(case: dict[str, Any], name: str = "bytes") -> bytes:
    return bytes.fromhex(case[name])


def node_of(leaves: list[bytes]) -> merkle.LogNode:
    """The complete subtrees over some leaves."""
    rows = [leaves]
    while len(rows[-1]) > 1:
        below = rows[-1]
        rows.append([merkle._join(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])
    return lambda level, index: rows[level][index]


LEAVES = [hexed(case, "leaf") for case in vectors()["inclusion_paths"] if case["size"] == 20]


def test_inclusion_paths_are_those_of_the_recursion() -> None:
    for case in vectors()["inclusion_paths"]:
        size, index, path, root = case["size"], case["index"], hexed(case, "path"), hexed(case, "root")
        assert merkle.inclusion_path(node_of(LEAVES[:size]), index, size) == path
        assert merkle.log_root(node_of(LEAVES[:size]), size) == root
        merkle.verify_inclusion(LEAVES[index], index, size, path, root)
        for other in {*range(size + 1)} - {index}:
            with pytest.raises(BadProof):
                merkle.verify_inclusion(LEAVES[index], other, size, path, root)
        for broken in (path + bytes(32), path[32:], path[:-32], path + b"\0"):
            if broken != path:
                with pytest.raises(BadProof):
                    merkle.verify_inclusion(LEAVES[index], index, size, broken, root)


def test_consistency_paths_are_those_of_the_recursion() -> None:
    for case in vectors()["consistency_paths"]:
        old, new, path = case["old"], case["new"], hexed(case, "path")
        roots = hexed(case, "old_root"), hexed(case, "new_root")
        assert merkle.consistency_path(node_of(LEAVES[:new]), old, new) == path
        merkle.verify_consistency(old, roots[0], new, roots[1], path)
        for broken in (path + bytes(32), path[32:], path[:-32], path + b"\0"):
            if broken != path:
                with pytest.raises(BadProof):
                    merkle.verify_consistency(old, roots[0], new, roots[1], broken)
        if old:
            for wrong in ((bytes(32), roots[1]), (roots[0], bytes(32))):
                with pytest.raises(BadProof):
                    merkle.verify_consistency(old, wrong[0], new, wrong[1], path)


@cases("state_parts")
def test_state_part(case: dict[str, Any]) -> None:
    asked = {bytes.fromhex(key): leaf for key, leaf in case["keys"]}
    buckets, nodes = [bytes.fromhex(bucket) for bucket in case["buckets"]], hexed(case, "nodes")
    root, entries = merkle.verify_state(buckets, nodes, asked)
    assert root.hex() == case["root"]
    assert {key: None if key not in entries else entries[key].hex() for key in asked} == asked


@cases("state_proofs")
def test_state_proof(case: dict[str, Any]) -> None:
    proof = Proof.decode(hexed(case))
    assert isinstance(proof, RecordProof)
    assert proof.encode() == hexed(case)
    assert proof.verify(case["checkpoint"]).ok
    assert proof.seq == case["seq"]
    assert [[claim.collection, claim.id, claim.opening is not None] for claim in proof.claims] == case["shows"]


@cases("invalid_state_proofs")
def test_invalid_state_proof(case: dict[str, Any]) -> None:
    trusted = vectors()["state_proofs"][0]["checkpoint"]
    try:
        proof = RecordProof.decode(hexed(case))
    except CorruptionError:
        return
    assert not proof.verify(trusted).ok


@cases("consistency_proofs")
def test_consistency_proof(case: dict[str, Any]) -> None:
    proof = Proof.decode(hexed(case))
    assert isinstance(proof, ConsistencyProof)
    assert proof.encode() == hexed(case)
    assert proof.verify(case["old"], case["new"]).ok


@cases("invalid_consistency_proofs")
def test_invalid_consistency_proof(case: dict[str, Any]) -> None:
    try:
        proof = ConsistencyProof.decode(hexed(case))
    except CorruptionError:
        return
    assert not proof.verify(case["old"], case["new"]).ok


@cases("receipts")
def test_receipt(case: dict[str, Any]) -> None:
    receipt = Receipt.decode(hexed(case))
    assert receipt.encode() == hexed(case)
    assert receipt.sha256 == case["sha256"]
    assert (receipt.level, receipt.collection, receipt.seq, receipt.k) == tuple(
        case[name] for name in ("level", "collection", "seq", "k")
    )
    assert [[one.id, one.raw] for one in receipt.results] == case["results"]
    verdict = receipt.verify(case["checkpoint"])
    assert (verdict.ok, verdict.level) == ((False, None) if case["level"] == "R0" else (True, "R1"))


@cases("invalid_receipts")
def test_invalid_receipt(case: dict[str, Any]) -> None:
    trusted = vectors()["receipts"][0]["checkpoint"]
    try:
        receipt = Receipt.decode(hexed(case))
    except CorruptionError:
        return
    assert not receipt.verify(trusted).ok


def the_receipts() -> tuple[Receipt, Receipt, str]:
    """The true one of level R3, the false one, and what is trusted."""
    true = vectors()["receipts"][-1]
    return Receipt.decode(hexed(true)), Receipt.decode(hexed(vectors()["false_receipt"])), true["checkpoint"]


@cases("subtrees")
def test_subtree_finds_the_missing_record_exactly_where_it_is(case: dict[str, Any]) -> None:
    true, false, trusted = the_receipts()
    subtree = Subtree.decode(hexed(case))
    assert subtree.encode() == hexed(case)
    assert true.check_subtree(subtree, trusted).ok
    assert true.refute(subtree, trusted) is None
    assert false.verify(trusted).ok  # R1 says nothing about what is missing
    assert false.check_subtree(subtree, trusted).ok == (case["wrong"] is None)
    refutation = false.refute(subtree, trusted)
    assert (refutation is None) == (case["wrong"] is None)
    if refutation is not None:
        assert refutation.row.id == vectors()["false_receipt"]["missing"]
        assert refutation.encode() == hexed(vectors()["refutation"])


@cases("invalid_subtrees")
def test_invalid_subtree(case: dict[str, Any]) -> None:
    true, _, trusted = the_receipts()
    try:
        subtree = Subtree.decode(hexed(case))
    except CorruptionError:
        return
    verdict = true.check_subtree(subtree, trusted)
    assert not verdict.ok
    with pytest.raises(BadProof):
        true.refute(subtree, trusted)


def test_refutation() -> None:
    true, false, trusted = the_receipts()
    refutation = Refutation.decode(hexed(vectors()["refutation"]))
    assert refutation.encode() == hexed(vectors()["refutation"])
    assert refutation.verify(false, trusted).ok
    assert not refutation.verify(true, trusted).ok


@cases("invalid_refutations")
def test_invalid_refutation(case: dict[str, Any]) -> None:
    true, false, trusted = the_receipts()
    refutation = Refutation.decode(hexed(case))
    assert not refutation.verify(true if case["why"] == "of the true receipt" else false, trusted).ok


def test_keys_of_the_twin() -> None:
    pytest.importorskip("cryptography")
    case = vectors()["signer"]
    key = SignerKey.parse(case["signer_key"])
    assert (key.name, key.seed.hex()) == (case["name"], case["seed"])
    assert key.encode() == case["signer_key"]
    assert str(key.verifier) == case["verifier_key"]
    assert VerifierKey.parse(case["verifier_key"]) == key.verifier


def test_the_note_is_the_twins_byte_for_byte() -> None:
    pytest.importorskip("cryptography")
    checkpoint = Checkpoint.parse(vectors()["signed_checkpoint"])
    assert SignerKey.parse(vectors()["signer"]["signer_key"]).sign(checkpoint) == vectors()["notes"][0]["note"]


@cases("notes")
def test_note(case: dict[str, Any]) -> None:
    pytest.importorskip("cryptography")
    key = VerifierKey.parse(vectors()["signer"]["verifier_key"])
    assert str(key.open(case["note"])) == vectors()["signed_checkpoint"]


@cases("invalid_notes")
def test_invalid_note(case: dict[str, Any]) -> None:
    pytest.importorskip("cryptography")
    with pytest.raises(CorruptionError):
        VerifierKey.parse(vectors()["signer"]["verifier_key"]).open(case["note"])
