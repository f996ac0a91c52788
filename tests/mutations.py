"""Mutation campaigns against the standalone verifier: what is not what was written must never be accepted as good.

Two kinds of forger: one who changes bytes at random, and one who knows the formats and mends what he can reach (CRCs,
commitments, links, digests) after he has changed something.  What is accepted is compared with the truth: a mutation
may be accepted only when everything that is then said is still true and, of a store, the same checkpoint is reached.

    python -m tests.mutations --seed 2      writes bench/results/mutations.md
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from zlib import crc32

import detmem
from tests.twin import TWIN

__all__ = ["VECTORS", "VERIFIER", "changes", "lived", "mutate_proofs", "mutate_store"]

ROOT = Path(__file__).resolve().parents[1]
VECTORS = ROOT / "spec" / "vectors" / "receipts.json"


def _verifier() -> ModuleType:
    """The one file, loaded as anybody would: without the package."""
    spec = importlib.util.spec_from_file_location("verifier_alone", ROOT / "detmem" / "verifier.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["verifier_alone"] = module
    spec.loader.exec_module(module)
    return module


VERIFIER: Any = _verifier()
Seen = Counter[str]


def lived(path: Path, *, snapshots: bool = True) -> detmem.Checkpoint:
    """A store with every operation in its log, in several segments; closed."""
    with detmem.open(path) as db:
        notes = db.collection("notes", dim=3)
        secret = db.collection("secret", dim=2, metric="l2", format="Q8.24", erasable=True)
        notes.add(["a", "b", "c"], [[1, 2, 3], [3, 4, 5], [0, 0, 1]], metadatas=[{"n": n} for n in range(3)])
        secret.add(["x", "y"], [[1, 0.5], [2, 0.25]], documents=["one", "two"], request_id="request 1")
        notes.link("a", "knows", "b")
        notes.link("b", "about", ("secret", "x"))
        db.record(bytes(range(32)), "an answer")
        if snapshots:
            db.snapshot()
        notes.update("a", documents="changed", metadatas={"n": None, "s": ["x", 1.5, None, True]})
        notes.upsert(["b", "d"], [[1, 0, 0], [0, 1, 0]])
        secret.update("x", vectors=[3, 3])
        secret.update("y", documents="three")
        notes.unlink("a", "knows", "b")
        if snapshots:
            db.snapshot()
        with db.batch():
            notes.delete("c")
            db.collection("scratch", dim=1, metric="ip").add(["s", "t"], [[1], [2]])
            db["scratch"].link("s", "to", ("notes", "a"))
        db.drop("scratch")
        erase = getattr(db, "erase", None)
        if erase is not None:
            erase("secret", ["y"])
        notes.add("é", [1, 1, 1], documents="end")
        return db.checkpoint()


# --------------------------------------------------------------------------------------------------------------- stores


def mutate_store(folder: Path, count: int, rng: random.Random) -> tuple[Seen, list[str]]:
    """Change a store ``count`` times; what was done, and a line for each change that was wrongly accepted."""
    checkpoint = lived(folder / "store")
    store = folder / "store"
    seen, accepted = Seen(), []
    for number, (how, removed) in enumerate(changes(store, count, rng)):
        verdict = _judge(store, str(checkpoint), how, removed)
        seen[f"{how}: {verdict}"] += 1
        if verdict.startswith("WRONG"):
            accepted.append(f"mutation {number}: {how}: {verdict}")
    assert str(checkpoint) == VERIFIER.verify_store(store).checkpoint.text()  # all was put back
    return seen, accepted


def changes(store: Path, count: int, rng: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Stand a closed store there as it is after each of ``count`` changes; yields how, and which files are gone."""
    files = {
        path.relative_to(store).as_posix(): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.parts[-2] in (store.name, "log", "snap") and path.name not in ("LOCK", "ARCHIVES")
    }
    for _ in range(count):
        how, changed = rng.choice(_STORE)(files, rng)
        differing = [name for name in files if changed.get(name) != files[name]]
        if not differing:
            continue
        for name in differing:
            _put(store / name, changed.get(name))
        yield how, sorted(files.keys() - changed.keys())
        for name in differing:
            _put(store / name, files[name])


def _judge(store: Path, checkpoint: str, how: str, removed: list[str]) -> str:
    try:
        found = VERIFIER.verify_store(store)
    except VERIFIER.Refused:
        return "refused"
    except Exception as error:  # noqa: BLE001 - the campaign's question
        return f"WRONG, {type(error).__name__} {error}"
    if found.checkpoint.text() != checkpoint:
        return f"WRONG, accepted with another checkpoint: {found.checkpoint}"
    old = all(name.startswith("snap/") for name in removed or ["log/"])  # an old snapshot may go
    if not found.notes and not old and not how.startswith("a header changed"):  # much of HEAD says nothing of memory
        return "WRONG, accepted without a word"
    return "the whole store, and a note"


def _put(path: Path, data: bytes | None) -> None:
    if data is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(data)


Files = dict[str, bytes]


def _bytes_changed(files: Files, rng: random.Random) -> tuple[str, Files]:
    name = rng.choice(sorted(files))
    how, data = scrambled(files[name], rng)
    return f"{name.split('/')[0]}, {how}", {**files, name: data}


def _files_moved(files: Files, rng: random.Random) -> tuple[str, Files]:
    one, two = rng.sample(sorted(files), 2)
    if rng.random() < 0.5:
        return "two files swapped", {**files, one: files[two], two: files[one]}
    return "a file removed", {name: data for name, data in files.items() if name != one}


def _frame_mended(files: Files, rng: random.Random) -> tuple[str, Files]:
    """Change an operation of one frame and mend: its commitments; its own link; every link behind it, and HEAD."""
    names = sorted(name for name in files if name.startswith("log/"))
    frames = [(name, at) for name in names for at in _frames(files[name])]
    target = rng.choice(frames)
    depth = rng.randrange(3)
    link, out = VERIFIER.FIRST_LINK, dict(files)
    log = VERIFIER.LogTree()
    for name in names:
        data = files[name]
        head = bytearray(data[:128])
        if depth == 2:
            head[40:112] = struct.pack("<Q32s32s", log.size, link, log.root())
            head[124:128] = crc32(head[:124]).to_bytes(4, "little")
        seed = crc32(head[16:40])
        parts = [bytes(head)]
        for at in _frames(data):
            kind, _, _, length, seq, _ = VERIFIER.frame_header(data, at, seed)
            body = data[at + 32 : at + 32 + length]
            if kind == 2:
                body = struct.pack("<QQ32s32s", int.from_bytes(body[:8], "little"), log.size, link, log.root())
                digest = VERIFIER.sha256(b"\x18", head[32:40], body)
                parts += [data[at : at + 32], body, digest] if depth == 2 else [data[at : at + 112 + 32]]
                continue
            root, stored = data[at + 32 + length : at + 64 + length], data[at + 64 + length : at + 96 + length]
            if (name, at) == target:
                if rng.random() < 0.2:
                    root = scrambled(root, rng, same_size=True)[1]
                else:
                    body = _operation_changed(body, rng)
            leaves = _leaves(body)
            closing = VERIFIER.commit_leaf(seq, len(leaves), root)
            mended = VERIFIER.sha256(b"\x11", link, struct.pack("<BBHQI", 1, 0, 2, seq, len(leaves)), *leaves, closing)
            link = mended if depth == 2 or (depth == 1 and (name, at) == target) else stored
            parts += [data[at : at + 32], body, root, link]
            for leaf in [*leaves, closing]:
                log.append(leaf)
        out[name] = b"".join(parts)
    if depth == 2:
        slots = bytearray(files["HEAD"])
        for at in (0, 4096):
            slots[at + 64 : at + 96] = link
            slots[at + 136 : at + 140] = crc32(slots[at : at + 136]).to_bytes(4, "little")
        out["HEAD"] = bytes(slots)
    return f"a frame changed, mended: {('commitments', 'and its link', 'and all links, seals and HEAD')[depth]}", out


def _header_mended(files: Files, rng: random.Random) -> tuple[str, Files]:
    """Another value in a slot of HEAD or in both, in a segment's header, or in a frame's; its CRC is right."""
    what = rng.choice(["HEAD", "segment", "frame"])
    name = "HEAD" if what == "HEAD" else rng.choice(sorted(name for name in files if name.startswith("log/")))
    data = bytearray(files[name])
    if what == "HEAD":
        starts, size, at = rng.choice([(0,), (4096,), (0, 4096)]), 136, rng.choice([16, 40, 48, 56, 96])
    elif what == "segment":
        starts, size, at = (0,), 124, rng.choice([32, 40])
    else:
        starts, size, at = tuple(rng.sample(_frames(files[name]), 1)), 28, rng.choice([12, 20])
    value = rng.choice([0, 1, 2, 128, 1 << 63, (1 << 64) - 1, rng.randrange(64), rng.randrange(len(data))])
    bit = rng.randrange(32 if what == "frame" else 0, 8 * size) if rng.random() < 0.5 else None
    for start in starts:
        if bit is None:
            data[start + at : start + at + 8] = value.to_bytes(8, "little")
        else:
            data[start + bit // 8] ^= 1 << bit % 8
        seed = crc32(bytes(data[16:40])) if what == "frame" else 0
        data[start + size : start + size + 4] = crc32(data[start : start + size], seed).to_bytes(4, "little")
    return f"a header changed, its CRC mended: {what}", {**files, name: bytes(data)}


def _snapshot_mended(files: Files, rng: random.Random) -> tuple[str, Files]:
    """Something else in a snapshot, every hash of it right, and HEAD as well."""
    name = rng.choice(sorted(name for name in files if name.startswith("snap/")))
    data, at = files[name], 168 + 32 * int.from_bytes(files[name][128:132], "little")
    header, chunks = data[: at - 32], []
    while size := int.from_bytes(data[at : at + 4], "little"):
        chunks.append(data[at + 36 : at + 36 + size])
        at += 36 + size
    if rng.random() < 0.2:
        header = header[:8] + scrambled(header[8:], rng, same_size=True)[1]
    else:
        number = rng.randrange(len(chunks))
        chunks[number] = scrambled(chunks[number], rng)[1]
    hashes, parts = [VERIFIER.sha256(header)], [header, VERIFIER.sha256(header)]
    for number, chunk in enumerate(chunk for chunk in chunks if chunk):
        hashes.append(VERIFIER.sha256(b"\x19", VERIFIER.u64(number), chunk))
        parts += [VERIFIER.u32(len(chunk)), hashes[-1], chunk]
    digest = VERIFIER.sha256(b"\x1a", *hashes)
    footer = bytes(4) + VERIFIER.u64(len(hashes) - 1) + VERIFIER.u64(sum(map(len, chunks))) + digest
    head = bytearray(files["HEAD"])
    for at in (0, 4096):
        if int.from_bytes(head[at + 96 : at + 104], "little") == int(name[5:25]):
            head[at + 104 : at + 136] = digest
            head[at + 136 : at + 140] = crc32(head[at : at + 136]).to_bytes(4, "little")
    return "a snapshot changed, its hashes and HEAD mended", {
        **files,
        name: b"".join(parts) + footer,
        "HEAD": bytes(head),
    }


def _frames(data: bytes) -> list[int]:
    found, at = [], 128
    while at < len(data):
        found.append(at)
        at += 32 + int.from_bytes(data[at + 8 : at + 12], "little") + (64 if data[at + 4] == 1 else 32)
    return found


def _spans(body: bytes) -> list[tuple[int, int, int, int, int]]:
    """Where each operation begins, its state byte, vector, content and end stand."""
    found, at = [], 0
    while at < len(body):
        flags, name, record_id = body[at + 1], body[at + 2 : at + 4], body[at + 4 : at + 6]
        vector, content = struct.unpack_from("<II", body, at + 8)
        state = at + 80 + int.from_bytes(name, "little") + int.from_bytes(record_id, "little")
        gone = body[state] != 0
        first = state + 1 + (32 if flags & 4 and not gone else 0)
        second = first + (0 if gone else vector)
        found.append((at, state, first, second, second + (0 if gone else content)))
        at = found[-1][-1]
    return found


def _leaves(body: bytes) -> list[bytes]:
    return [VERIFIER.sha256(b"\x00", body[at:state]) for at, state, *_ in _spans(body)]


def _operation_changed(body: bytes, rng: random.Random) -> bytes:
    """One byte of an operation is another, no size is, and its commitments fit its payload again."""
    spans = _spans(body)
    at, state, first, second, end = rng.choice(spans)
    data = bytearray(body)
    places = [at, at + 1, *range(at + 16, end)]
    place = rng.choice(places)
    data[place] ^= 1 << rng.randrange(8)
    salt = bytes(data[state + 1 : first])
    if place > state:
        if second > first:
            data[at + 16 : at + 48] = VERIFIER.commitment(bytes(data[first:second]), salt)
        if end > second:
            data[at + 48 : at + 80] = VERIFIER.commitment(bytes(data[second:end]), salt)
    return bytes(data) if [span[-1] for span in _spans_or_none(data)] == [span[-1] for span in spans] else body


def _spans_or_none(data: bytearray) -> list[tuple[int, int, int, int, int]]:
    try:
        return _spans(bytes(data))
    except (IndexError, struct.error):
        return []


_STORE: list[Callable[[Files, random.Random], tuple[str, Files]]] = [
    _bytes_changed, _bytes_changed, _bytes_changed, _files_moved, _frame_mended, _frame_mended, _frame_mended,
    _header_mended, _snapshot_mended,
]  # fmt: skip


def scrambled(data: bytes, rng: random.Random, *, same_size: bool = False) -> tuple[str, bytes]:
    """Bytes that are no longer what they were, and in which way."""
    at = rng.randrange(len(data)) if data else 0
    to = min(len(data), at + rng.choice([1, 4, 32, 512]))
    other = rng.randrange(len(data)) if data else 0
    ways = [
        ("a bit flipped", data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :] if data else b"x"),
        ("a byte replaced", data[:at] + rng.randbytes(1) + data[at + 1 :]),
        ("zeros", data[:at] + bytes(to - at) + data[to:]),
        ("bytes copied over", (data[:at] + data[other : other + to - at] + data[to:])[: len(data)]),
        ("cut", data[:at]),
        ("bytes removed", data[:at] + data[to:]),
        ("bytes twice", data[:to] + data[at:]),
        ("bytes added", data[:at] + rng.randbytes(rng.choice([1, 32, 100])) + data[at:]),
        ("a tail", data + rng.randbytes(rng.choice([1, 32, 100]))),
    ]  # fmt: skip
    return rng.choice(ways[:4] if same_size else ways)


# --------------------------------------------------------------------------------------------------------------- proofs


def mutate_proofs(count: int, rng: random.Random) -> tuple[Seen, list[str]]:
    """Change the proofs of ``vectors/receipts.json``: what was done, and a line for each that was wrongly accepted."""
    cases = _cases(json.loads(VECTORS.read_text(encoding="ascii")))
    seen, accepted = Seen(), []
    for number in range(count):
        kind, data, check, truth, still_true = rng.choice(cases)
        how, other = _proof_changed(kind, data, rng)
        if other == data:
            continue
        try:
            said = check(other)
        except VERIFIER.Refused:
            seen[f"{kind}, {how}: refused"] += 1
            continue
        except Exception as error:  # noqa: BLE001 - the campaign's question
            accepted.append(f"mutation {number}: {kind}, {how}: {type(error).__name__} {error}: {other.hex()}")
            continue
        good = still_true(said, truth)
        seen[f"{kind}, {how}: {'still true' if good else 'WRONG'}"] += 1
        if not good:
            accepted.append(f"mutation {number}: {kind}, {how}: says {said!r}, bytes {other.hex()}")
    return seen, accepted


Case = tuple[str, bytes, Callable[[bytes], Any], Any, Callable[[Any, Any], bool]]


def _cases(vectors: dict[str, Any]) -> list[Case]:
    """(kind, bytes, check, what it says, whether something else that it says is still true)."""
    read, unhex = VERIFIER.read_checkpoint, bytes.fromhex
    trusted = read(vectors["signed_checkpoint"])
    cases: list[Case] = []

    def case(kind: str, data: bytes, check: Callable[[bytes], Any], still_true: Callable[[Any, Any], bool]) -> None:
        cases.append((kind, data, check, check(data), still_true))

    def never(said: Any, truth: Any) -> bool:
        return False

    there: dict[int, set[tuple[str, str]]] = {}  # by seq; at seq 0 nothing was
    for one in vectors["state_proofs"]:
        there.setdefault(one["seq"], set()).update((name, id) for name, id, present in one["shows"] if present)

    def none_is_false(said: Any, truth: Any) -> bool:
        shown, seq = said
        return all(present == (names in there.get(seq, set())) for names, present in shown.items())

    for one in vectors["state_proofs"]:
        its = read(one["checkpoint"])
        case("state proof", unhex(one["bytes"]), lambda data, its=its: (
            VERIFIER.check_state_proof(data, its), VERIFIER.decode(data)[1]["seq"]), none_is_false)  # fmt: skip
    for one in vectors["consistency_proofs"]:
        ends = read(one["old"]), read(one["new"])
        case("consistency", unhex(one["bytes"]), lambda data, ends=ends: VERIFIER.check_consistency(data, *ends), never)
    for one in vectors["receipts"]:
        its, level = read(one["checkpoint"]), one["level"]

        def check(data: bytes, its: Any = its, level: str = level) -> Any:
            receipt = VERIFIER.check_receipt(data, its)
            VERIFIER.need(receipt.level != "R0" or level == "R0", "taken down to a level that shows nothing")
            leaves = {name: leaf for name, (_, leaf) in receipt.results.items()}
            return receipt.collection, receipt.of_definition, receipt.seq, leaves

        # what R1 shows is that results are live: a subset of them is shown as well; query, k and filter it cannot show
        case(f"receipt {level}", unhex(one["bytes"]), check, lambda said, truth, level=level: level == "R0" or (
            said[:3] == truth[:3] and said[3].items() <= truth[3].items()))  # fmt: skip
    whole = VERIFIER.check_receipt(unhex(vectors["receipts"][-1]["bytes"]), trusted)
    false = VERIFIER.check_receipt(unhex(vectors["false_receipt"]["bytes"]), trusted)
    for one in vectors["subtrees"]:
        if one["wrong"] is None:  # two empty ones may have the same siblings; this receipt is right about each
            case("subtree", unhex(one["bytes"]), lambda data: VERIFIER.check_subtree(data, whole, trusted),
                 lambda said, truth: said != truth)  # fmt: skip
        else:  # it shows that the false receipt is false, and no change of it may show that it is not
            cases.append(("a false subtree", unhex(one["bytes"]), lambda data: VERIFIER.check_subtree(
                data, false, trusted), None, lambda said, truth, number=one["number"]: said != number))  # fmt: skip
    refutation = unhex(vectors["refutation"]["bytes"])
    case("refutation", refutation, lambda data: VERIFIER.check_refutation(data, false, trusted), never)
    key = vectors["signer"]["verifier_key"]
    for one in vectors["notes"]:

        def check_note(data: bytes) -> Any:
            try:
                return VERIFIER.check_note(data.decode(), key)
            except UnicodeDecodeError as error:
                raise VERIFIER.Refused("not UTF-8") from error

        case("note", one["note"].encode(), check_note, lambda said, truth: said == truth)
    return cases


def _proof_changed(kind: str, data: bytes, rng: random.Random) -> tuple[str, bytes]:
    if kind == "note" or rng.random() < 0.5:
        return scrambled(data, rng)
    receipt = kind.startswith("receipt")
    value = TWIN.decode(data[:-32] if receipt else data)
    how, changed = _value_changed(value, rng)
    try:
        body = TWIN.encode(changed)
    except (TWIN.Refused, AttributeError, TypeError):
        return "nothing", data
    return how, body + TWIN.sha256(b"\x20", body) if receipt else body


def _value_changed(value: Any, rng: random.Random) -> tuple[str, Any]:
    """The value with one thing in it changed, wherever it stands, in its right spelling."""
    if isinstance(value, dict) and value:
        key = rng.choice(sorted(value))
        if rng.random() < 0.05:
            return "a key removed", {name: part for name, part in value.items() if name != key}
        how, part = _value_changed(value[key], rng)
        return how, {**value, key: part}
    if isinstance(value, list) and value:
        at = rng.randrange(len(value))
        way = rng.random()
        if way < 0.08:
            return "an element removed", value[:at] + value[at + 1 :]
        if way < 0.16:
            return "an element twice", value[: at + 1] + value[at:]
        if way < 0.24:
            other = rng.randrange(len(value))
            swapped = list(value)
            swapped[at], swapped[other] = swapped[other], swapped[at]
            return "two elements swapped", swapped
        how, part = _value_changed(value[at], rng)
        return how, [*value[:at], part, *value[at + 1 :]]
    if isinstance(value, bool) or value is None:
        return "another kind", rng.choice([0, "", b"", [], {}, not value])
    if isinstance(value, int):
        return "another number", rng.choice([value + 1, value - 1, -value, 0, 1 << 62, value ^ 1 << rng.randrange(40)])
    if isinstance(value, float):
        return "another number", rng.choice([value + 1, -value, 0.0])
    if isinstance(value, bytes):
        if value and rng.random() < 0.3:  # a hash taken out, doubled, or moved
            at = rng.randrange(0, len(value), 32)
            piece, rest = value[at : at + 32], value[:at] + value[at + 32 :]
            to = rng.randrange(0, len(rest) + 1, 32)
            return "hashes moved", rng.choice([rest, value + piece, rest[:to] + piece + rest[to:]])
        return f"bin, {(changed := scrambled(value, rng))[0]}", changed[1]
    if isinstance(value, str):
        return "another text", rng.choice([value + "x", value[1:], value[::-1], "", value.upper()])
    return "another kind", rng.choice([None, 0, b"", "x"])


def main() -> int:
    from bench import common  # for this alone: tests need none of it

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", type=int, default=20_000)
    parser.add_argument("--proofs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="detmem-mutations-") as folder:
        seen, accepted = mutate_store(Path(folder), asked.stores, random.Random(asked.seed))
    proofs, wrong = mutate_proofs(asked.proofs, random.Random(asked.seed))
    seconds = time.perf_counter() - began
    tried: dict[str, list[int]] = {}
    grouped = [(f"proofs, {how.split(',')[0]}{how[how.rindex(':') :]}", count) for how, count in proofs.items()]
    for how, count in [*seen.items(), *grouped]:
        row = tried.setdefault(how.rpartition(": ")[0], [0, 0, 0])
        row[0 if how.endswith("refused") else 2 if "WRONG" in how else 1] += count
    rows = [[how, *(f"{count:,}" for count in counts)] for how, counts in sorted(tried.items())]
    command = f"python -m tests.mutations --stores {asked.stores} --proofs {asked.proofs} --seed {asked.seed}"
    body = f"""`{command}`, {seconds:.0f} s.

A store with every operation in its log, in several segments with snapshots, and the proofs of
`spec/vectors/receipts.json`, changed, and shown to `detmem/verifier.py`. *Harmless*: everything that is then said is
still true; of a store the same checkpoint, and a note of what is not as it was left (one slot of HEAD, a torn tail, a
snapshot that is gone; much of HEAD, and a frame's durable seq, say nothing of the memory). *Changed, mended*: by
somebody who knows the format, and mends what is named.

{common.table(["what, how", "refused", "harmless", "wrongly accepted"], rows)}
"""
    accepted += wrong
    common.write(
        "mutations", "The standalone verifier and forgers", body + "".join(f"\n- {one}" for one in accepted[:50])
    )
    return 1 if accepted else 0


if __name__ == "__main__":
    sys.exit(main())
