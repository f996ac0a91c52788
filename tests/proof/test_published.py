"""What others publish about proofs and signatures, held against package, twin and verifier.

``transparency_merkle.json``: RFC 9162 paths with their broken neighbours; ``wycheproof_ed25519.json``: signatures of
C2SP's.  The C2SP pages on notes, checkpoints, cosignatures and tiles hold examples and no vectors (the keys of their
notes are not given); Go's note and tlog stand in ``test_go.py``.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from detmem.proof import merkle
from detmem.proof.merkle import BadProof
from detmem.proof.note import VerifierKey
from tests.mutations import VERIFIER
from tests.twin import TWIN

REFUSALS = (BadProof, VERIFIER.Refused, TWIN.Refused)
GARBAGE = bytes(range(32))


def published(name: str) -> Any:
    return json.loads(Path(__file__).with_name(f"{name}.json").read_text("ascii"))


def takes(check: Callable[[], object]) -> bool:
    try:
        check()
    except REFUSALS:
        return False
    return True


# --- paths ------------------------------------------------------------------------------------------------------------

Inclusion = tuple[int, int, bytes, bytes, list[bytes]]  # index, size, root, leaf, path
Growth = tuple[int, int, bytes, bytes, list[bytes]]  # old size, new size, old root, new root, path


def included(case: Inclusion) -> set[bool]:
    index, size, root, leaf, path = case
    return {
        takes(lambda: merkle.verify_inclusion(leaf, index, size, b"".join(path), root)),
        takes(lambda: VERIFIER.check_inclusion(leaf, index, size, path, root)),
        takes(lambda: VERIFIER.same("root", root, TWIN.root_from(leaf, index, size, path))),
    }


def grown(case: Growth) -> set[bool]:
    old, new, old_root, new_root, path = case
    return {
        takes(lambda: merkle.verify_consistency(old, old_root, new, new_root, b"".join(path))),
        takes(lambda: VERIFIER.check_growth(old, old_root, new, new_root, path)),
        takes(lambda: TWIN.check_consistency(old, old_root, new, new_root, path)),
    }


def inclusions() -> Iterator[tuple[str, bool, Inclusion]]:
    for one in published("transparency_merkle")["inclusion"]:
        root, leaf = b64decode(one["root"]), b64decode(one["leafHash"])
        yield (
            one["name"],
            one["wantErr"],
            (one["leafIdx"], one["treeSize"], root, leaf, [*map(b64decode, one["proof"])]),
        )


def growths() -> Iterator[tuple[str, bool, Growth]]:
    for one in published("transparency_merkle")["consistency"]:
        roots = b64decode(one["root1"]), b64decode(one["root2"])
        yield one["name"], one["wantErr"], (one["size1"], one["size2"], *roots, [*map(b64decode, one["proof"])])


def paths_beside(path: list[bytes], *roots: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """The names are those of the published files, which break each of the good ones in the same ways."""
    yield "trailing garbage", [*path, GARBAGE]
    yield "preceding garbage", [GARBAGE, *path]
    for root in roots:
        yield "trailing root", [*path, root]
        yield "preceding root", [root, *path]
    if path:
        yield "truncated", path[:-1]
        yield "preceding proof[0]", [path[0], *path]
        yield "empty", []
    for at, node in enumerate(path):
        yield f"modified proof[{at}] bit 4", [*path[:at], bytes([node[0] ^ 16]) + node[1:], *path[at + 1 :]]


def test_published_inclusion_paths_and_their_neighbours() -> None:
    count = 0
    for name, wrong, (index, size, root, leaf, path) in inclusions():
        assert included((index, size, root, leaf, path)) == {not wrong}, name
        if wrong:
            continue
        beside: dict[str, Inclusion] = {
            "leafIdx + 1": (index + 1, size, root, leaf, path),
            "leafIdx - 1": ((index - 1) % 2**64, size, root, leaf, path),
            "leafIdx ^ 2": (index ^ 2, size, root, leaf, path),
            "treeSize * 2": (index, size * 2, root, leaf, path),
            "treeSize div 2": (index, size // 2, root, leaf, path),
            "wrong leaf": (index, size, root, GARBAGE, path),
            "empty root": (index, size, TWIN.log_root([]), leaf, path),
            "random root": (index, size, GARBAGE, leaf, path),
            **{how: (index, size, root, leaf, other) for how, other in paths_beside(path, root)},
        }
        for how, case in beside.items():
            assert included(case) == {False}, f"{name}, {how}"
            count += 1
    assert count > 60


def test_published_consistency_paths_and_their_neighbours() -> None:
    """Two empty logs with other roots were taken for equal by package and twin (no checkpoint could have led there)."""
    count = 0
    for name, wrong, (old, new, first, second, path) in growths():
        if (old, first) == (0, TWIN.log_root([])) and new > 0:
            # The one difference: there such a proof is "useless" and an error, here every log continues the empty one.
            assert grown((old, new, first, second, path)) == {True}
            continue
        assert grown((old, new, first, second, path)) == {not wrong}, name
        if wrong or len(first) < 32:
            continue
        beside: dict[str, Growth] = {
            "size1 + 1": (old + 1, new, first, second, path),
            "size1 - 1": (old - 1, new, first, second, path),
            "size1 ^ 2": (old ^ 2, new, first, second, path),
            "size2 * 2": (old, new * 2, first, second, path),
            "size2 div 2": (old, new // 2, first, second, path),
            "wrong root1": (old, new, GARBAGE, second, path),
            "wrong root2": (old, new, first, GARBAGE, path),
            **{how: (old, new, first, second, other) for how, other in paths_beside(path, first, second)},
        }
        if first != second:
            beside["swapped roots"] = (old, new, second, first, path)
        for how, case in beside.items():
            assert grown(case) == {False}, f"{name}, {how}"
            count += 1
    assert count > 60


# --- signatures -------------------------------------------------------------------------------------------------------

ED25519 = published("wycheproof_ed25519")


def test_the_twin_and_the_verifier_take_the_published_signatures_and_no_others() -> None:
    public = bytes.fromhex(ED25519["pk"])
    for one in ED25519["tests"]:
        message, signature = bytes.fromhex(one["msg"]), bytes.fromhex(one["sig"])
        good = one["result"] == "valid"
        assert takes(lambda m=message, s=signature: VERIFIER.check_signature(public, m, s)) == good, one["tcId"]
        assert takes(lambda m=message, s=signature: TWIN.ed25519_check(public, m, s)) == good, one["tcId"]
    assert len(ED25519["tests"]) == 66


def test_the_package_takes_the_published_signatures_and_no_others() -> None:
    pytest.importorskip("cryptography")
    key = VerifierKey("published", bytes.fromhex(ED25519["pk"]))
    for one in ED25519["tests"]:
        good = key._is_good(bytes.fromhex(one["sig"]), bytes.fromhex(one["msg"]))
        assert good == (one["result"] == "valid"), one["tcId"]
