"""Go's sumdb/tlog and sumdb/note say the same: paths, tiles, tile names, keys and signatures (go_vectors.go)."""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from detmem.journal import tiles
from detmem.journal.disk import MemoryDisk
from detmem.journal.tiles import Tiles
from detmem.proof import merkle
from detmem.proof.note import SignerKey, VerifierKey
from tests.twin import TWIN

GO: dict[str, Any] = json.loads(Path(__file__).with_name("go_vectors.json").read_text("utf-8"))


@cache
def leaves(count: int) -> bytes:
    """As Go made them: leaf i is H(00 | decimal digits of i)."""
    return b"".join(sha256(b"\x00%d" % i).digest() for i in range(count))


@cache
def laid_down(count: int) -> tuple[MemoryDisk, Tiles]:
    disk = MemoryDisk()
    made = Tiles(disk, write=True)
    made._append(leaves(count))
    made._save()
    return disk, made


def test_inclusion_paths() -> None:
    node = laid_down(66_000)[1].node
    for case in GO["inclusion"]:
        size, index, root = case["size"], case["index"], bytes.fromhex(case["root"])
        assert merkle.log_root(node, size) == root
        assert merkle.inclusion_path(node, index, size).hex() == case["path"]
        leaf = leaves(66_000)[32 * index : 32 * index + 32]
        merkle.verify_inclusion(leaf, index, size, bytes.fromhex(case["path"]), root)


def test_consistency_paths() -> None:
    node = laid_down(66_000)[1].node
    for case in GO["consistency"]:
        assert merkle.consistency_path(node, case["old"], case["new"]).hex() == case["path"]
        roots = bytes.fromhex(case["old_root"]), bytes.fromhex(case["new_root"])
        merkle.verify_consistency(case["old"], roots[0], case["new"], roots[1], bytes.fromhex(case["path"]))


@pytest.mark.parametrize("size", [1, 300, 66_000])
def test_tiles(size: int) -> None:
    files = laid_down(size)[0].files
    expected = {case["path"]: case["sha256"] for case in GO["tiles"] if case["size"] == size}
    found = {name.removeprefix("tiles/"): sha256(data).hexdigest() for name, data in files.items()}
    assert {name: found.get(name) for name in expected} == expected
    if size < 66_000:  # of the largest Go wrote down only some
        assert found == expected


def test_names_of_tiles() -> None:
    for case in GO["paths"]:
        assert tiles._path(case["number"]) == case["path"]


def test_keys_and_a_note_of_gos() -> None:
    pytest.importorskip("cryptography")
    case = GO["note"]
    key = SignerKey.parse(case["signer_key"])
    assert str(key.verifier) == case["verifier_key"]
    checkpoint = VerifierKey.parse(case["verifier_key"]).open(case["note"])
    assert (checkpoint.seq, checkpoint.log_size, checkpoint.state_root) == (2, 3, "ab" * 32)
    assert key.sign(checkpoint).splitlines()[:7] == case["note"].splitlines()[:7]  # behind it stands another signer


def test_the_example_in_gos_documentation() -> None:
    """Its text is no checkpoint, so only the parts that know notes are asked."""
    case = GO["documented"]
    name, public = TWIN.read_verifier_key(case["verifier_key"])
    assert TWIN.open_note(case["note"], name, public).startswith("If you think cryptography")
    pytest.importorskip("cryptography")
    key = SignerKey.parse(case["signer_key"])
    assert str(key.verifier) == case["verifier_key"]
    text, _, line = case["note"].partition("\n\n")
    assert line == f"— {name} {TWIN.sign_note(text + chr(10), name, key.seed).split()[-1]}\n"
