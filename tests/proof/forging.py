"""Forgeries: files of spec/receipts.md changed at random, none of which may be accepted.

A *target* is one file and the check of whoever receives it.  ``scrambled`` changes bytes, and mixes in files of the
same kind; ``forged`` changes what the bytes say and writes it canonically again, with a right digest, as somebody would
who knows the format.

    python tests/proof/forging.py [--count 1250000] [--seed 1]        also: make audit

counts what was accepted, which must be nothing, and writes bench/results/audit.md.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import detmem
from bench import common
from detmem import verifier
from detmem.errors import CorruptionError, UsageError
from detmem.machine import encoding
from detmem.proof.merkle import prove_state
from detmem.proof.proofs import key_of

__all__ = ["Target", "forged", "scrambled", "targets"]

# What R1 does not bind (the page says so): in a forged receipt these may be anything, and nobody claims otherwise.
UNBOUND = ("query", "k", "where", "ids", "max_distance", "level", "result_raws", "subtrees")
FORGED_SHARE = 0.6


class Target(NamedTuple):
    """``others``: files of the same kind.  ``accepts``, ``alone``: whether the package, and the standalone verifier,
    take some bytes for what ``data`` are; ``seldom``: the latter is asked once in so many times."""

    name: str
    data: bytes
    others: tuple[bytes, ...]
    accepts: Callable[[bytes], bool]
    alone: Callable[[bytes], bool]
    forgeable: bool = True
    seldom: int = 1


def package(kind: Any, check: Callable[[Any], detmem.Verdict]) -> Callable[[bytes], bool]:
    def accepts(data: bytes) -> bool:
        try:
            return check(kind.decode(data)).ok
        except CorruptionError:
            return False

    return accepts


def standalone(check: Callable[[bytes], object], expected: object = ...) -> Callable[[bytes], bool]:
    """``expected``: what the check gives for the true file, where it gives something."""

    def accepts(data: bytes) -> bool:
        try:
            found = check(data)
        except verifier.Refused:
            return False
        return expected is ... or found == expected

    return accepts


def targets() -> list[Target]:
    """One or two of each kind, from a small store whose log has some hundred leaves."""
    with detmem.open(":memory:") as db:
        notes, other = db.collection("notes", dim=3, metric="l2"), db.collection("other", dim=2, metric="ip")
        raw = [[i * i % 97, i * 31 % 89, i] for i in range(120)]
        notes.add([f"n{i}" for i in range(120)], raw=raw, metadatas=[{"n": i % 4} for i in range(120)])
        for i in range(40):
            notes.upsert(f"n{i}", raw=[i, 2 * i, 3], metadatas={"n": i % 4}, documents=f"text {i}")
            other.upsert(f"o{i % 5}", raw=[i, 1])
        earlier = [db.checkpoint()]
        for i in range(15):
            notes.delete(f"n{i + 50}")
            earlier.append(db.checkpoint())
        old, now = earlier[3], earlier[-1]
        there, gone = db.prove("notes", "n7"), db.prove("notes", "n51")
        proofs = tuple(db.prove("notes", f"n{i}").encode() for i in range(8, 60, 9))
        chains = [db.prove_consistency(one).encode() for one in earlier]
        where = {"n": {"$in": [1, 3]}}
        receipts = [notes.search(raw=[q, q, q], k=4, where=where).receipt("R1") for q in range(6)]
        third = notes.search(raw=[0, 0, 0], k=4, where=where).receipt("R3")
        missing = third.results[1]
        subtrees = [db.subtree("notes", key_of("notes", one.id)[0]) for one in third.results]
        fifth = notes.search(raw=[0, 0, 0], k=5, where=where).receipt().results
        named = tuple(one for one in fifth if one != missing)
        keys = [key_of("notes", ""), *(key_of("notes", one.id) for one in named)]
        buckets, nodes = prove_state(db._state.tree.bucket, db._state.tree.node, keys)
        assert third.part is not None
        lying = replace(third, results=named, part=third.part._replace(buckets=tuple(buckets), nodes=nodes))
        refutation = lying.refute(subtrees[1], now)
        assert refutation is not None
    encoded = [receipt.encode() for receipt in receipts]
    cuts = [subtree.encode() for subtree in subtrees]
    before, trusted = verifier.read_checkpoint(str(old)), verifier.read_checkpoint(str(now))
    true, false = verifier.read_receipt(third.encode()), verifier.read_receipt(lying.encode())
    record = partial(verifier.check_state_proof, trusted=trusted)
    return [
        Target(
            "proof, there",
            there.encode(),
            proofs,
            package(detmem.Proof, lambda p: p.verify(now, "notes", "n7")),
            standalone(record, {("notes", "n7"): True}),
        ),
        Target(
            "proof, absent",
            gone.encode(),
            proofs,
            package(detmem.Proof, lambda p: p.verify(now, "notes", "n51")),
            standalone(record, {("notes", "n51"): False}),
        ),
        Target(
            "consistency",
            chains[3],
            tuple(chains[:3] + chains[4:]),
            package(detmem.Proof, lambda p: p.verify(old, now)),
            standalone(lambda data: verifier.check_consistency(data, before, trusted)),
        ),
        Target(
            "receipt",
            encoded[0],
            tuple(encoded[1:]),
            package(detmem.Receipt, lambda r: r.verify(now)),
            standalone(lambda data: verifier.check_receipt(data, trusted)),
        ),
        Target(
            "subtree",
            cuts[0],
            tuple(cuts[1:]),
            package(detmem.Subtree, lambda s: third.check_subtree(s, now)),
            standalone(lambda data: verifier.check_subtree(data, true, trusted)),
        ),
        Target(
            "refutation",
            refutation.encode(),
            (cuts[1],),
            package(detmem.Refutation, lambda r: r.verify(lying, now)),
            standalone(lambda data: verifier.check_refutation(data, false, trusted)),
        ),
        *signed_target(now, earlier),
    ]


def signed_target(now: detmem.Checkpoint, earlier: list[detmem.Checkpoint]) -> list[Target]:
    try:
        key = detmem.SignerKey("example.org/memory", bytes(range(32)))
        public, notes = key.verifier, [key.sign(one).encode() for one in earlier]
    except ImportError:
        return []

    def accepts(data: bytes) -> bool:
        try:
            return public.open(data.decode()) == now
        except (CorruptionError, UnicodeDecodeError):
            return False

    def alone(data: bytes) -> bool:
        try:
            return verifier.check_note(data.decode(), str(public)) == verifier.read_checkpoint(str(now))
        except (verifier.Refused, UnicodeDecodeError):
            return False

    return [Target("signed note", notes[-1], tuple(notes[:-1]), accepts, alone, forgeable=False, seldom=50)]


def scrambled(target: Target, draw: random.Random) -> bytes:
    """The file with its bytes changed, in one of the ways that bytes go wrong or are made to."""
    data = bytearray(target.data)
    at = draw.randrange(len(data))
    size = draw.choice((1, 2, 32, 32, 64, draw.randrange(1, len(data))))
    match draw.randrange(9):
        case 0 | 1:
            data[at] ^= 1 << draw.randrange(8)
        case 2:
            data[at] = draw.randrange(256)
        case 3:
            del data[at : at + size]
        case 4:
            data[at:at] = draw.randbytes(size)
        case 5:
            data[at : at + size] = draw.randbytes(len(data[at : at + size]))
        case 6:
            to = draw.randrange(len(data))
            data[to : to + size] = target.data[at : at + size]
        case 7:
            other = draw.choice(target.others)
            data[at : at + size] = other[at : at + size]
        case _:
            other = draw.choice(target.others)
            start = draw.randrange(len(other))
            data[at : at + size] = other[start : start + size]
    return bytes(data)


def forged(target: Target, draw: random.Random) -> bytes:
    """The file saying something else, in the one spelling and with the right digest."""
    sealed = target.name == "receipt"
    kind, fields = encoding.decode(target.data[:-32] if sealed else target.data, max_bytes=1 << 30)  # type: ignore[misc]
    other = draw.choice(target.others)
    _, theirs = encoding.decode(other[:-32] if sealed else other, max_bytes=1 << 30)  # type: ignore[misc]
    assert isinstance(fields, dict)
    for _ in range(draw.choice((1, 1, 1, 2))):
        change(fields, theirs, draw)
    try:
        body = encoding.encode([kind, fields])
    except UsageError:
        return b""
    return body + sha256(b"\x20" + body).digest() if sealed else body


def change(holder: Any, theirs: Any, draw: random.Random) -> None:
    """One value somewhere below ``holder`` becomes another; ``theirs`` is the same place in another file."""
    while True:
        place = draw.choice(sorted(holder)) if isinstance(holder, dict) else draw.randrange(len(holder))
        value = holder[place]
        known = isinstance(theirs, (dict, list)) and (
            place in theirs if isinstance(theirs, dict) else place < len(theirs)
        )
        there = theirs[place] if known else None
        if place in UNBOUND:
            return
        if not isinstance(value, (dict, list)) or not value or draw.random() < 0.15:
            break
        holder, theirs = value, there
    holder[place] = draw.choice((there, other_value(value, draw), other_value(value, draw), other_value(value, draw)))


def other_value(value: Any, draw: random.Random) -> Any:
    if isinstance(value, bytes):
        hashes = [value[at : at + 32] for at in range(0, len(value), 32)]
        match draw.randrange(6):
            case 0:
                draw.shuffle(hashes)
            case 1 if hashes:
                del hashes[draw.randrange(len(hashes))]
            case 2:
                hashes.insert(draw.randint(0, len(hashes)), draw.choice((bytes(32), draw.randbytes(32), *hashes)))
            case 3 if hashes:
                hashes[draw.randrange(len(hashes))] = bytes(32)
            case 4:
                return draw.choice((b"", None, value + b"\0", value[:-1], value + value))
            case _ if value:
                flipped = bytearray(value)
                flipped[draw.randrange(len(value))] ^= 1 << draw.randrange(8)
                return bytes(flipped)
        return b"".join(hashes)
    if isinstance(value, bool) or value is None:
        return draw.choice((0, b"", [], {}, draw.randbytes(32)))
    if isinstance(value, int):
        return draw.choice((value + 1, value - 1, 0, -1, value ^ 1 << draw.randrange(40), float(value), True, None))
    if isinstance(value, str):
        return draw.choice((f"n{draw.randrange(120)}", "other", "notes", "", value + "x", value[:-1], value.upper()))
    if isinstance(value, list):
        items = list(value)
        match draw.randrange(4):
            case 0:
                draw.shuffle(items)
            case 1 if items:
                del items[draw.randrange(len(items))]
            case 2 if items:
                items.insert(draw.randint(0, len(items)), draw.choice(items))
            case _:
                return draw.choice(([], None, {}, [*items, b""]))
        return items
    more = {**value, "more": 1} if isinstance(value, dict) else value
    return draw.choice(({}, None, [], more))


def run(count: int, seed: int) -> tuple[Counter[str], Counter[str], list[str]]:
    """(tried, not different, accepted) by target and way; accepted ones with the call that repeats them."""
    draw = random.Random(seed)
    found, tried, same, accepted = targets(), Counter[str](), Counter[str](), []
    for target in found:
        assert target.accepts(target.data), f"{target.name}: the true one is refused"
        assert target.alone(target.data), f"{target.name}: the true one is refused by the standalone verifier"
    for _ in range(count):
        target = draw.choice(found)
        way = forged if target.forgeable and draw.random() < FORGED_SHARE else scrambled
        name = f"{target.name}, {way.__name__}"
        state = draw.getrandbits(64)
        data = way(target, random.Random(state))
        if data == target.data or data in target.others:  # another true file may be accepted by right
            same[name] += 1
            continue
        tried[name] += 1
        if target.accepts(data) or (state % target.seldom == 0 and target.alone(data)):
            accepted.append(f"{name}: random.Random({state})")
    return tried, same, accepted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_250_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    began = time.perf_counter()
    tried, same, accepted = run(asked.count, asked.seed)
    seconds = time.perf_counter() - began
    rows = [[name, f"{tried[name]:,}", sum(one.startswith(f"{name}:") for one in accepted)] for name in sorted(tried)]
    rows.append(["all", f"{sum(tried.values()):,}", len(accepted)])
    command = f"python tests/proof/forging.py --count {asked.count} --seed {asked.seed}"
    body = f"""`{command}`, {seconds:.0f} s.

Files of spec/receipts.md, changed, and checked by the package and by the standalone verifier (signatures, which it
computes in plain Python, once in 50 times). *scrambled*: bytes flipped, set, cut, inserted, moved, mixed with other
files of the kind. *forged*: the values changed, and written again canonically, with a right digest.
Where the change gave the same or another true file ({sum(same.values()):,}), nothing is counted.

{common.table(["file, way", "tried", "accepted"], rows)}
"""
    common.write("audit", "Forged and changed proofs", body + "".join(f"\n- {line}" for line in accepted[:50]))
    return 1 if accepted else 0


if __name__ == "__main__":
    sys.exit(main())
