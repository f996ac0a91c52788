#!/usr/bin/env python3
"""The standalone verifier: one file, to be copied to any machine with Python 3.9 or newer, and read in an hour.

    python verifier.py store PATH [--checkpoint FILE]              a whole store, replayed from its first byte
    python verifier.py log FILE [--checkpoint FILE]                an exported log
    python verifier.py receipt FILE --checkpoint FILE              what a search answered (R0, R1)
    python verifier.py subtree FILE --of RECEIPT --checkpoint FILE one of the 256 parts of an R3 receipt
    python verifier.py refutation FILE --of RECEIPT --checkpoint FILE
    python verifier.py state-proof FILE --checkpoint FILE          what was there at a seq, and what was not
    python verifier.py consistency FILE --old FILE --checkpoint FILE
    python verifier.py note FILE --key KEY                         a signed checkpoint

It is written from the pages in spec/ and shares nothing with the program that writes stores: nothing but Python's own
library is imported, every byte format is read here, SHA-256 comes from hashlib.  Each part names its page.

Trust: the caller's checkpoint (a text, or a signed note together with --key) and nothing else.  What a proof says of
itself is compared with it, never believed.  --via FILE names a consistency proof that leads from the proof's own, older
checkpoint to the trusted one.  Whatever is not exactly as the pages say is refused: exit code 1 and one line that says
what, where, expected and found.  Exit code 0 and ``ok`` mean that every check of the page was made and held.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
import stat
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "Checkpoint", "Refused", "check_consistency", "check_note", "check_receipt", "check_refutation",
    "check_state_proof", "check_subtree", "decode", "main", "read_checkpoint", "verify_log", "verify_store",
]  # fmt: skip


class Refused(Exception):
    """It does not hold."""


def need(holds: object, why: str) -> None:
    if not holds:
        raise Refused(why)


def same(what: str, expected: object, found: object) -> None:
    if expected != found:
        expected, found = (x.hex() if isinstance(x, bytes) else x for x in (expected, found))
        raise Refused(f"{what}: expected {expected}, found {found}")


# ----------------------------------------------------------------------------- conventions of all pages, commitments.md

ZERO = bytes(32)


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def u16(n: int) -> bytes:
    return n.to_bytes(2, "little")


def u32(n: int) -> bytes:
    return n.to_bytes(4, "little")


def u64(n: int) -> bytes:
    return n.to_bytes(8, "little")


def lp(text: str) -> bytes:
    return u16(len(text.encode())) + text.encode()


def commitment(data: bytes, salt: bytes = b"") -> bytes:
    return sha256(b"\x10", salt, data)


def state_key(collection: str, record_id: str = "") -> bytes:
    return sha256(b"\x13", lp(collection), lp(record_id))


def record_leaf(collection: str, record_id: str, of_vector: bytes, of_content: bytes) -> bytes:
    return sha256(b"\x12", lp(collection), lp(record_id), of_vector, of_content)


def collection_leaf(collection: str, of_definition: bytes) -> bytes:
    return sha256(b"\x16", lp(collection), of_definition)


def bucket_of(key: bytes) -> int:
    return int.from_bytes(key[:2], "big")


def bucket_hash(entries: bytes) -> bytes:
    return sha256(b"\x14", entries) if entries else ZERO


def state_node(left: bytes, right: bytes) -> bytes:
    return ZERO if left == right == ZERO else sha256(b"\x15", left, right)


def log_node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01", left, right)


def commit_leaf(seq: int, count: int, state_root: bytes) -> bytes:
    return sha256(b"\x00COMMIT", u64(seq), u32(count), state_root)


class StateTree:
    """The state tree, 2^16 buckets; ``root`` hashes again what has changed."""

    def __init__(self) -> None:
        self.buckets: dict[int, dict[bytes, bytes]] = {}
        self.levels: list[dict[int, bytes]] = [{} for _ in range(17)]
        self.changed: set[int] = set()

    def put(self, key: bytes, leaf: bytes | None) -> None:
        bucket = self.buckets.setdefault(bucket_of(key), {})
        if leaf is None:
            bucket.pop(key, None)
        else:
            bucket[key] = leaf
        self.changed.add(bucket_of(key))

    def root(self) -> bytes:
        for number in self.changed:
            entries = sorted(self.buckets[number].items())
            self.levels[0][number] = bucket_hash(b"".join(key + leaf for key, leaf in entries))
        dirty, self.changed = self.changed, set()
        for below, level in zip(self.levels, self.levels[1:]):
            dirty = {number >> 1 for number in dirty}
            for number in dirty:
                level[number] = state_node(below.get(2 * number, ZERO), below.get(2 * number + 1, ZERO))
        return self.levels[16].get(0, ZERO)


class LogTree:
    """The log tree (RFC 9162): its size and the roots of its complete subtrees, the largest first."""

    def __init__(self, size: int = 0, roots: tuple[bytes, ...] = ()) -> None:
        self.size, self.roots = size, list(roots)

    def append(self, leaf: bytes) -> None:
        number = self.size
        while number & 1:
            leaf, number = log_node(self.roots.pop(), leaf), number >> 1
        self.roots.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        if not self.roots:
            return sha256()
        root = self.roots[-1]
        for left in self.roots[-2::-1]:
            root = log_node(left, root)
        return root


class Checkpoint(NamedTuple):
    seq: int
    log_size: int
    log_root: bytes
    state_root: bytes

    def text(self, origin: str = "detmem/v1") -> str:
        root = base64.b64encode(self.log_root).decode()
        return f"{origin}\n{self.log_size}\n{root}\nseq {self.seq}\nstate {self.state_root.hex()}\n"


def read_checkpoint(text: str, origin: str = "detmem/v1") -> Checkpoint:
    """The inverse of ``text``; nothing else is accepted."""
    number = "(0|[1-9][0-9]{0,18})"
    pattern = rf"{re.escape(origin)}\n{number}\n([A-Za-z0-9+/]{{43}}=)\nseq {number}\nstate ([0-9a-f]{{64}})\n"
    found = re.fullmatch(pattern, text)
    if found is None:
        raise Refused(f"expected the five lines of a checkpoint of {origin}, found {text[:100]!r}")
    root = base64.b64decode(found[2])
    checkpoint = Checkpoint(int(found[3]), int(found[1]), root, bytes.fromhex(found[4]))
    same("checkpoint", checkpoint.text(origin), text)
    return checkpoint


# ---------------------------------------------------------------------------------------------------------- encoding.md

DEEPEST, MOST_ITEMS, MOST_FILE = 16, 1 << 17, 16 << 20
# head byte: bytes of the length behind it, and the least length that needs this form
_LONG = {0xD9: (1, 32), 0xDA: (2, 256), 0xDB: (4, 65536), 0xC4: (1, 0), 0xC5: (2, 256), 0xC6: (4, 65536),
         0xDC: (2, 16), 0xDD: (4, 65536), 0xDE: (2, 16)}  # fmt: skip


class Reader:
    """Bytes, taken from the front."""

    def __init__(self, data: bytes, what: str) -> None:
        self.data, self.what, self.at, self.items = data, what, 0, 0

    def take(self, size: int) -> bytes:
        need(
            self.at + size <= len(self.data),
            f"{self.what}: ends at byte {len(self.data)} inside what begins at {self.at}",
        )
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self, size: int, most: int, least: int = 1) -> str:
        need(least <= size <= most, f"{self.what}: a text of {size} bytes, expected {least} to {most}")
        try:
            return self.take(size).decode("utf-8")
        except UnicodeDecodeError:
            raise Refused(f"{self.what}: a text that is not UTF-8, before byte {self.at}") from None

    def value(self, depth: int = 0) -> Any:
        """One value in its only spelling."""
        self.items += 1
        need(self.items <= MOST_ITEMS, f"{self.what}: more than {MOST_ITEMS} items")
        head = self.take(1)[0]
        if head < 0x80 or head >= 0xE0:
            return head if head < 0x80 else head - 256
        if head in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[head]
        if head == 0xCB:
            number = struct.unpack(">d", self.take(8))[0]
            need(abs(number) < float("inf"), f"{self.what}: a float that is not finite")
            return number
        if 0xCC <= head <= 0xD3:
            size, signed = 1 << (head & 3), head >= 0xD0
            whole = int.from_bytes(self.take(size), "big", signed=signed)
            if signed:
                short = whole >= (-32 if size == 1 else -(1 << (4 * size - 1)))
            else:
                short = whole < (128 if size == 1 else 1 << (4 * size)) or whole >= 1 << 63
            need(not short, f"{self.what}: the number {whole} in a form that is not its own")
            return whole
        if head in _LONG:
            bytes_of_length, least = _LONG[head]
            length = int.from_bytes(self.take(bytes_of_length), "big")
            need(length >= least, f"{self.what}: a length of {length} in a longer form")
        else:
            need(head < 0xC0, f"{self.what}: the byte {head:02x} begins no value")
            length = head & (0x1F if head >= 0xA0 else 0x0F)
        if 0xA0 <= head < 0xC0 or 0xD9 <= head <= 0xDB:
            return self.text(length, len(self.data), 0)
        if 0xC4 <= head <= 0xC6:
            return self.take(length)
        need(depth < DEEPEST, f"{self.what}: deeper than {DEEPEST}")
        need(length <= len(self.data), f"{self.what}: {length} items in {len(self.data)} bytes")
        if 0x90 <= head < 0xA0 or head in (0xDC, 0xDD):
            return [self.value(depth + 1) for _ in range(length)]
        found: dict[str, Any] = {}
        last = None
        for _ in range(length):
            key = self.value(depth + 1)
            need(isinstance(key, str), f"{self.what}: a key that is no text")
            need(last is None or last.encode() < key.encode(), f"{self.what}: keys out of order")
            found[key], last = self.value(depth + 1), key
        return found

    def end(self) -> None:
        need(self.at == len(self.data), f"{self.what}: {len(self.data) - self.at} bytes behind its end")


def decode(data: bytes, what: str = "value", most: int = MOST_FILE) -> Any:
    need(0 < len(data) <= most, f"{what}: {len(data)} bytes, expected 1 to {most}")
    reader = Reader(bytes(data), what)
    value = reader.value()
    reader.end()
    return value


def read_content(data: bytes) -> tuple[dict[str, Any], str | None]:
    """Metadata and document of a record, as a caller could have stored them."""
    need(data[:1] == b"\x92", "content: expected a pair")
    reader = Reader(bytes(data), "content")
    reader.at = reader.items = 1
    metadata = reader.value(1)
    need(isinstance(metadata, dict) and reader.at - 1 <= 65536, "metadata: expected a map of at most 64 KiB")
    for value in metadata.values():
        for part in value if isinstance(value, list) else [value]:
            need(not isinstance(part, (bytes, list, dict)), "metadata: a value that is not flat")
    document = reader.value(1)
    reader.end()
    need(document is None or isinstance(document, str), "content: a document that is no text")
    need(len((document or "").encode()) <= 8 << 20, "content: a document above 8 MiB")
    return metadata, document


class Definition(NamedTuple):
    dim: int
    metric: str
    format: str
    erasable: bool


def read_definition(data: bytes) -> Definition:
    value = decode(data, "definition", 256)
    need(
        isinstance(value, dict) and list(value) == ["dim", "erasable", "format", "metric"],
        "definition: not its four keys",
    )
    dim, erasable, number_format, metric = value.values()
    need(type(dim) is int and 1 <= dim <= 65536 and type(erasable) is bool, "definition: dim or erasable")
    need(
        metric in ("l2", "ip", "cosine") and number_format in ("Q16.16", "Q8.24", "Q4.28"),
        "definition: metric or format",
    )
    return Definition(dim, metric, number_format, erasable)


def read_vector(data: bytes, dim: int) -> tuple[int, ...]:
    same("bytes of a vector", 4 * dim, len(data))
    vector = struct.unpack(f"<{dim}i", data)
    need(sum(x * x for x in vector) <= 1 << 60, "a vector that is not admitted (numbers.md)")
    return vector


# --------------------------------------------------------------------------------------------------------------- log.md

CREATE, DROP, ADD, UPSERT, UPDATE, DELETE, LINK, UNLINK, RECORD, ERASE, REQUEST = range(1, 12)
HAS_VECTOR, HAS_CONTENT, SALTED = 1, 2, 4
WRITES = (ADD, UPSERT, UPDATE)
FLAGS = {CREATE: (2,), DROP: (0,), ADD: (3, 7), UPSERT: (3, 7), UPDATE: (1, 2, 3, 5, 6, 7), DELETE: (0,),
         LINK: (2,), UNLINK: (2,), RECORD: (2,), ERASE: (0,), REQUEST: (2,)}  # fmt: skip
VERSION = 2
MOST_OPERATION, MOST_BODY, MOST_CONTENT = 16 << 20, 1 << 30, 8_454_150
FIRST_LINK = sha256(b"\x11detmem/v1")
Edge = tuple[str, str, str, str, str]  # collection, source, relation, target's collection, target


class Operation(NamedTuple):
    type: int
    flags: int
    collection: str
    id: str
    vector_size: int
    of_vector: bytes
    of_content: bytes
    leaf: bytes
    salt: bytes
    vector: bytes | None
    content: bytes | None
    erased: bool  # there is no payload here
    archived: bool  # and it is kept elsewhere


def read_operation(body: Reader) -> Operation:
    start = body.at
    kind, flags, name_size, id_size, zero, vector_size, content_size, of_vector, of_content = struct.unpack(
        "<BBHHHII32s32s", body.take(80)
    )
    where = f"{body.what}, operation at byte {start}"
    need(kind in FLAGS and flags in FLAGS[kind] and zero == 0, f"{where}: type {kind} with flags {flags}")
    need(
        (vector_size > 0) == bool(flags & HAS_VECTOR) and vector_size % 4 == 0 and vector_size <= 4 * 65536,
        f"{where}: vector size",
    )
    need((content_size > 0) == bool(flags & HAS_CONTENT) and content_size <= MOST_CONTENT, f"{where}: content size")
    collection = body.text(name_size, 0 if kind == RECORD else 128, 0 if kind == RECORD else 1)
    no_id = kind in (CREATE, DROP, RECORD)
    record_id = body.text(id_size, 0 if no_id else 512, 0 if no_id else 1)
    leaf = sha256(b"\x00", body.data[start : body.at])
    state = body.take(1)
    archived = state == b"\x02" and kind in WRITES
    erased = archived or (state == b"\x01" and kind in WRITES)
    need(erased or state == b"\x00", f"{where}: state byte {state.hex()}")
    salt = body.take(32) if flags & SALTED and not erased else b""
    vector = body.take(vector_size) if vector_size and not erased else None
    content = body.take(content_size) if content_size and not erased else None
    need(body.at - start <= MOST_OPERATION, f"{where}: more than 16 MiB")
    if vector is not None or kind not in WRITES:
        same(
            f"{where}: commitment to the vector of {record_id!r}",
            of_vector,
            ZERO if vector is None else commitment(vector, salt),
        )
    if content is not None or FLAGS[kind] == (0,):
        same(
            f"{where}: commitment to the content of {record_id!r}",
            of_content,
            ZERO if content is None else commitment(content, salt),
        )
    return Operation(
        kind, flags, collection, record_id, vector_size, of_vector, of_content, leaf, salt, vector, content, erased,
        archived,
    )  # fmt: skip


class Frame(NamedTuple):
    """A good frame: a commit with its operations, or a seal (operations None)."""

    seq: int
    durable_seq: int
    operations: list[Operation] | None
    state_root: bytes
    link: bytes
    closing: bytes
    end: int


def frame_header(data: bytes, at: int, seed: int) -> tuple[int, ...] | None:
    """kind, flags, version, length, seq, durable_seq of a header with the right magic and CRC, or None."""
    head = data[at : at + 32]
    if len(head) < 32 or head[:4] != b"DMF1" or zlib.crc32(head[:28], seed) != int.from_bytes(head[28:], "little"):
        return None
    return struct.unpack("<BBHIQQ", head[4:28])


def read_frame(data: bytes, at: int, seed: int, first_seq: int, seq: int, link: bytes, log: LogTree) -> Frame:
    """The good frame at an offset, behind commit ``seq`` with ``link``; it is added to ``log``."""
    header = frame_header(data, at, seed)
    if header is None:
        raise Refused("magic or CRC of a frame's header")
    kind, flags, version, length, its_seq, durable = header
    need(
        kind in (1, 2) and flags == 0 and version == VERSION and length <= MOST_BODY,
        f"a frame of kind {kind}, flags {flags}, version {version}, length {length}",
    )
    end = at + 32 + length + (64 if kind == 1 else 32)
    need(end <= len(data), f"a frame up to byte {end} in a file of {len(data)}")
    body = data[at + 32 : at + 32 + length]
    if kind == 2:
        same("length of a seal", 80, length)
        same("seq of a seal", (seq, seq), (its_seq, durable))
        same("body of a seal", u64(seq - first_seq + 1) + u64(log.size) + link + log.root(), body)
        same("digest of a seal", sha256(b"\x18", u64(first_seq), body), data[end - 32 : end])
        return Frame(seq, durable, None, b"", link, b"", end)
    same("seq", seq + 1, its_seq)
    need(durable < its_seq, f"durable seq {durable} in the frame of seq {its_seq}")
    reader, operations = Reader(body, "frame"), []
    while reader.at < length:
        operations.append(read_operation(reader))
    need(operations, "a frame without operations")
    state_root, stored = data[end - 64 : end - 32], data[end - 32 : end]
    leaves = [operation.leaf for operation in operations]
    closing = commit_leaf(its_seq, len(leaves), state_root)
    head = struct.pack("<BBHQI", kind, flags, version, its_seq, len(leaves))
    same("link", stored, sha256(b"\x11", link, head, *leaves, closing))
    return Frame(its_seq, durable, operations, state_root, stored, closing, end)


class Record(NamedTuple):
    of_vector: bytes
    of_content: bytes
    born: int


class Memory:
    """state = fold(apply, log): what each operation does, and when it is legal."""

    def __init__(self) -> None:
        self.definitions: dict[str, Definition] = {}
        self.records: dict[str, dict[str, Record]] = {}
        self.links: dict[Edge, int] = {}
        self.ends: dict[tuple[str, str], set[Edge]] = {}
        self.requests: dict[str, tuple[int, bytes, bytes]] = {}  # seq, digest, state root; the oldest first
        self.erased: dict[tuple[str, str], int] = {}
        self.missing: set[tuple[str, str]] = set()  # payloads that are gone, and no erasure says why yet
        self.payloads: dict[tuple[str, str], int] = {}  # that are there, of every version of a record
        self.archived = 0  # payloads that are kept elsewhere: only their commitments were seen
        self.remaining = 0  # payloads that are there, though an erasure names them
        self.tree = StateTree()

    def apply(self, frame: Frame) -> None:
        operations, seq, at = frame.operations or [], frame.seq, 0
        asked: dict[str, bytes] = {}
        for at, one in enumerate(operations, 1):
            if one.type != REQUEST:
                self.step(one, seq)
                continue
            count = decode(one.content or b"", "request", 9)
            need(type(count) is int and count >= 1, "a request without a count")
            need(
                one.collection in self.records and one.id not in self.requests and one.id not in asked,
                f"request {one.id!r}",
            )
            behind = operations[at : at + count]
            need(
                len(behind) == count
                and all(x.type in (ADD, UPSERT) and x.collection == one.collection for x in behind),
                f"request {one.id!r} does not stand before {count} writes",
            )
            asked[one.id] = sha256(b"\x1c", *(x.leaf for x in behind))
        same(f"state root after seq {seq}", frame.state_root, self.tree.root())
        for request_id, digest in asked.items():
            self.requests[request_id] = (seq, digest, frame.state_root)
        for old in list(self.requests)[: max(0, len(self.requests) - 65536)]:
            del self.requests[old]

    def step(self, one: Operation, seq: int) -> None:
        name, record_id, node = one.collection, one.id, (one.collection, one.id)
        what = f"seq {seq}, operation {one.type} on {record_id!r} in {name!r}"
        content = one.content or b""
        if one.type == CREATE:
            need(name not in self.records, f"{what}: it exists")
            self.definitions[name], self.records[name] = read_definition(content), {}
            self.tree.put(state_key(name), collection_leaf(name, one.of_content))
            return
        if one.type == RECORD:
            value = decode(content, "recorded hash", 64 + 65536)
            need(isinstance(value, list) and len(value) == 2, f"{what}: not [hash, note]")
            need(isinstance(value[0], bytes) and len(value[0]) == 32, f"{what}: no hash of 32 bytes")
            need(
                value[1] is None or (isinstance(value[1], str) and len(value[1].encode()) <= 65536), f"{what}: the note"
            )
            return
        if one.type == ERASE:
            if record_id in self.records.get(name, {}):
                self.delete(name, record_id)
            self.erased[node] = seq
            self.missing.discard(node)
            self.remaining += self.payloads.pop(node, 0)
            return
        need(name in self.records, f"{what}: no such collection")
        records, definition = self.records[name], self.definitions[name]
        if one.type == DROP:
            for each in list(records):
                self.delete(name, each)
            del self.records[name], self.definitions[name]
            self.tree.put(state_key(name), None)
            return
        standing = records.get(record_id)
        need(not (one.type == ADD and standing), f"{what}: it exists")
        need(one.type in (ADD, UPSERT) or standing, f"{what}: no such record")
        if one.type == DELETE:
            self.delete(name, record_id)
        elif one.type in (LINK, UNLINK):
            value = decode(content, "link", 16 + 2 * 128 + 512)
            need(
                isinstance(value, list) and len(value) == 3 and all(isinstance(x, str) for x in value),
                f"{what}: no link",
            )
            need(
                all(1 <= len(x.encode()) <= most for x, most in zip(value, (128, 128, 512))), f"{what}: size of a name"
            )
            edge: Edge = (name, record_id, value[0], value[1], value[2])
            need((edge in self.links) == (one.type == UNLINK), f"{what}: the link is there already, or not there")
            need(value[2] in self.records.get(value[1], {}), f"{what}: no record {value[2]!r} in {value[1]!r}")
            self.connect(edge, seq if one.type == LINK else None)
        else:
            need(bool(one.flags & SALTED) == definition.erasable, f"{what}: salted exactly where erasable")
            if one.flags & HAS_VECTOR:
                same(f"{what}: bytes of the vector", 4 * definition.dim, one.vector_size)
            else:
                same(f"{what}: standing commitment to the vector", standing and standing.of_vector, one.of_vector)
            if not one.flags & HAS_CONTENT:
                same(f"{what}: standing commitment to the content", standing and standing.of_content, one.of_content)
            if one.archived:
                self.archived += 1
            elif one.erased:
                self.missing.add(node)
            else:
                self.payloads[node] = self.payloads.get(node, 0) + 1
            if one.vector is not None:
                read_vector(one.vector, definition.dim)
            if one.content is not None:
                read_content(one.content)
            records[record_id] = Record(one.of_vector, one.of_content, seq)
            self.tree.put(state_key(name, record_id), record_leaf(name, record_id, one.of_vector, one.of_content))

    def delete(self, name: str, record_id: str) -> None:
        del self.records[name][record_id]
        self.tree.put(state_key(name, record_id), None)
        for edge in list(self.ends.get((name, record_id), ())):
            self.connect(edge, None)

    def connect(self, edge: Edge, born: int | None) -> None:
        """A link and its entry in the state tree; ``born`` None takes it away."""
        names = b"".join(map(lp, edge))
        self.tree.put(sha256(b"\x17", names), None if born is None else sha256(b"\x1b", names))
        for end in (edge[:2], edge[3:]):
            if born is None:
                self.ends[end].discard(edge)
            else:
                self.ends.setdefault(end, set()).add(edge)
        if born is None:
            del self.links[edge]
        else:
            self.links[edge] = born


class Verified(NamedTuple):
    checkpoint: Checkpoint
    notes: list[str]  # what is not as a closed store leaves it, though nothing acknowledged is touched


class Log:
    """One pass over the segments of a log."""

    def __init__(self, wanted: Checkpoint | None) -> None:
        self.memory, self.log, self.seq, self.link, self.durable = Memory(), LogTree(), 0, FIRST_LINK, 0
        self.wanted = wanted
        self.met = False
        self.arrived()

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.seq, self.log.size, self.log.root(), self.memory.tree.root())

    def arrived(self) -> None:
        if self.wanted is not None and self.seq == self.wanted.seq:
            same(f"checkpoint at seq {self.seq}", self.wanted, self.checkpoint())
            self.met = True

    def segment(self, name: str, data: bytes, store_id: bytes, last: bool, visit: Any = None) -> tuple[int, str] | None:
        """Read one segment.  Returns where and why the last one has a bad frame, None when all are good."""
        magic, version, flags, size, its_store, first, log_size, link, log_root = struct.unpack(
            "<8sHHI16sQQ32s32s", data[:112]
        )
        need(
            magic == b"DETMEMSG" and version == VERSION and (flags, size) == (0, 128),
            f"{name}: header of another format",
        )
        same(f"{name}: CRC and zeros of the header", bytes(12) + u32(zlib.crc32(data[:124])), data[112:128])
        same(
            f"{name}: border in the header",
            (store_id, self.seq + 1, self.log.size, self.link, self.log.root()),
            (its_store, first, log_size, link, log_root),
        )
        seed, at, sealed = zlib.crc32(store_id + u64(first)), 128, False
        while at < len(data) and not sealed:
            try:
                frame = read_frame(data, at, seed, first, self.seq, self.link, self.log)
            except Refused as bad:
                need(last, f"{name}, offset {at}, seq {self.seq + 1}: {bad}")
                behind = data.find(b"DMF1", at)
                while behind >= 0:  # any header behind it says what had been acknowledged when it was written
                    header = frame_header(data, behind, seed)
                    self.durable = max(self.durable, header[5] if header else 0)
                    behind = data.find(b"DMF1", behind + 1)
                return at, str(bad)
            sealed = frame.operations is None
            self.durable = max(self.durable, frame.durable_seq)
            if not sealed:
                try:
                    self.memory.apply(frame)
                except Refused as bad:
                    raise Refused(f"{name}, offset {at}: {bad}") from None
                for leaf in [*(one.leaf for one in frame.operations or []), frame.closing]:
                    self.log.append(leaf)
                self.seq, self.link = frame.seq, frame.link
                self.arrived()
                if visit is not None:
                    visit(self)
            at = frame.end
        same(f"{name}: bytes behind the seal", 0, len(data) - at)
        need(sealed or last, f"{name}: no seal, and segments behind it")
        return None

    def finish(self, notes: list[str]) -> Verified:
        need(not self.memory.missing, f"a payload is erased that no erasure names: {sorted(self.memory.missing)[:3]}")
        need(
            self.wanted is None or self.met,
            f"the log ends at seq {self.seq}, before the checkpoint's {self.wanted and self.wanted.seq}",
        )
        if self.memory.remaining:
            notes.append(f"an erasure is unfinished: {self.memory.remaining} payloads that it names are still there")
        if self.memory.archived:
            notes.append(f"{self.memory.archived} payloads are archived elsewhere: verified by their commitments only")
        return Verified(self.checkpoint(), notes)


def file_of(path: Path) -> bytes:
    """A file of a store; a link, a FIFO or a folder in its place is refused unread."""
    need(stat.S_ISREG(path.lstat().st_mode), f"{path.name}: expected a regular file")
    return path.read_bytes()


def verify_log(path: Path, wanted: Checkpoint | None = None) -> Verified:
    """An exported log: one sealed segment of nobody's store (exchange.md)."""
    data, log = path.read_bytes(), Log(wanted)
    need(len(data) >= 128, "shorter than a segment's header")
    bad = log.segment(path.name, data, bytes(16), True)
    need(bad is None, f"offset and reason {bad}")
    need(len(data) == 128 or frame_header(data, len(data) - 144, zlib.crc32(bytes(16) + u64(1))), "the seal is missing")
    return log.finish([])


def verify_store(path: Path, wanted: Checkpoint | None = None) -> Verified:
    """A whole store: HEAD, every segment and frame, every state root by replaying, every snapshot."""
    need(
        (path / "HEAD").is_symlink() or (path / "HEAD").exists(),
        "HEAD is missing: nobody can say how much had been acknowledged",
    )
    head_bytes, notes = file_of(path / "HEAD"), []
    same("size of HEAD", 8192, len(head_bytes))
    heads = [read_head_slot(head_bytes[at : at + 140]) for at in (0, 4096)]
    if None in heads:
        notes.append("a slot of HEAD is unreadable; the other was used")
    if any(head_bytes[140:4096]) or any(head_bytes[4236:]):
        notes.append("HEAD holds bytes where zeros are written")
    good = [head for head in heads if head is not None]
    need(good, "HEAD has no readable slot")
    head = max(good, key=lambda one: one.generation)
    segments = numbered(path / "log", "seg")
    snapshots = {seq: read_snapshot(path / "snap" / f"{seq:020d}.snap", seq) for seq in numbered(path / "snap", "snap")}
    log = Log(wanted)
    log.durable = head.durable_seq

    def visit(now: Log) -> None:
        if now.seq == head.durable_seq:
            same(f"HEAD: link at seq {now.seq}", head.link, now.link)
        if now.seq in snapshots:
            snapshots.pop(now.seq).compare(now, head)

    if head.snapshot_seq and head.snapshot_seq not in snapshots:
        notes.append(f"HEAD names a snapshot of seq {head.snapshot_seq}, which is absent; the log has it all")
    visit(log)
    need(head.segment == 0 or head.segment in segments, f"HEAD names segment {head.segment}, which is absent")
    bad = None
    for number in segments:
        name, last = f"log/{number:020d}.seg", number == segments[-1]
        data = file_of(path / name)
        if (
            last
            and number != head.segment
            and (len(data) < 128 or zlib.crc32(data[:124]) != int.from_bytes(data[124:128], "little"))
        ):
            notes.append(f"{name}: a segment that was being made, which HEAD does not name yet")
            break
        need(len(data) >= 128, f"{name}: shorter than its header")
        same(f"{name}: first seq", log.seq + 1, number)
        bad = log.segment(name, data, head.store_id, last, visit)
    lost = f"the log ends at seq {log.seq}, and {log.durable} had been acknowledged"
    need(log.durable <= log.seq, lost if bad is None else f"{name}, offset {bad[0]}: {bad[1]}; {lost}")
    if bad is not None:
        notes.append(f"{name}, offset {bad[0]}: a torn tail; nothing of it had been acknowledged")
    need(not snapshots, f"snapshots of seqs that the log does not have: {sorted(snapshots)}")
    return log.finish(notes)


def numbered(folder: Path, ending: str) -> list[int]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name[:20]) for name in names if re.fullmatch(r"[0-9]{20}\." + ending, name))


class Head(NamedTuple):
    generation: int
    store_id: bytes
    durable_seq: int
    segment: int
    durable_offset: int
    link: bytes
    snapshot_seq: int
    snapshot_digest: bytes


def read_head_slot(data: bytes) -> Head | None:
    magic, version, flags, zero, *fields = struct.unpack("<8sHHIQ16sQQQ32sQ32s", data[:136])
    good = magic == b"DETMEMHD" and version == VERSION and flags in (0, 1) and zero == 0 and fields[0] < 1 << 63
    return Head(*fields) if good and zlib.crc32(data[:136]) == int.from_bytes(data[136:], "little") else None


# ---------------------------------------------------------------------------------------------------------- snapshot.md


class Snapshot(NamedTuple):
    name: str
    header: tuple[Any, ...]  # seq, log_size, link, state_root, log_root
    log: LogTree
    digest: bytes
    definitions: dict[str, Definition]
    records: dict[str, dict[str, Record]]
    links: dict[Edge, int]
    requests: dict[str, tuple[int, bytes, bytes]]
    erased: dict[tuple[str, str], int]

    def compare(self, now: Log, head: Head) -> None:
        """Everything in it is what replaying the log up to its seq gives."""
        memory = now.memory
        expected = (now.seq, now.log.size, now.link, memory.tree.root(), now.log.root())
        same(f"{self.name}: header", expected, self.header)
        same(f"{self.name}: frontier", now.log.roots, self.log.roots)
        for part in ("definitions", "records", "links", "erased"):
            need(getattr(memory, part) == getattr(self, part), f"{self.name}: {part} other than those of the log")
        need(
            list(memory.requests.items()) == list(self.requests.items()), f"{self.name}: requests other than the log's"
        )
        if head.snapshot_seq == now.seq:
            same(f"{self.name}: digest in HEAD", head.snapshot_digest, self.digest)


def read_snapshot(path: Path, seq: int) -> Snapshot:
    name, data = f"snap/{path.name}", file_of(path)
    outer = Reader(data, name)
    magic, version, flags, chunk_size, its_seq, *rest, roots, collections = struct.unpack(
        "<8sHHIQQ32s32s32sII", outer.take(136)
    )
    need(magic == b"DETMEMSN" and version == VERSION and (flags, chunk_size) == (0, 1 << 20), f"{name}: another format")
    same(f"{name}: seq", seq, its_seq)
    need(roots <= 64, f"{name}: a frontier of {roots}")
    frontier = [outer.take(32) for _ in range(roots)]
    hashes = [sha256(data[: outer.at])]
    same(f"{name}: hash of the header", hashes[0], outer.take(32))
    parts: list[bytes] = []
    while True:
        size = outer.number(4)
        if size == 0:
            break
        need(size <= chunk_size and all(len(part) == chunk_size for part in parts), f"{name}: a chunk of {size} bytes")
        stored, chunk = outer.take(32), outer.take(size)
        same(f"{name}: hash of chunk {len(parts)}", stored, sha256(b"\x19", u64(len(parts)), chunk))
        parts.append(chunk)
        hashes.append(stored)
    stream = Reader(b"".join(parts), name)
    same(f"{name}: footer", u64(len(parts)) + u64(len(stream.data)) + sha256(b"\x1a", *hashes), outer.take(48))
    outer.end()
    found = Snapshot(name, (its_seq, *rest), LogTree(rest[0], tuple(frontier)), outer.data[-32:], {}, {}, {}, {}, {})

    def text(most: int) -> str:
        return stream.text(stream.number(2), most)

    def ascending(before: Any, after: Any) -> None:
        need(before is None or before < after, f"{name}: out of order before byte {stream.at} of the stream")

    last: Any = None
    for _ in range(collections):
        collection = text(128)
        ascending(last, collection.encode())
        last = collection.encode()
        definition = found.definitions[collection] = read_definition(stream.take(stream.number(4)))
        count = stream.number(8)
        need(count <= len(stream.data), f"{name}: {count} records")
        ids = [text(512) for _ in range(count)]
        for before, after in zip(ids, ids[1:]):
            ascending(before.encode(), after.encode())
        born = [stream.number(8) for _ in ids]
        vectors = [stream.take(4 * definition.dim) for _ in ids]
        contents = [stream.take(stream.number(4)) for _ in ids]
        salts = [(stream.take(32), stream.take(32)) if definition.erasable else (b"", b"") for _ in ids]
        found.records[collection] = {
            record_id: Record(commitment(vector, one), commitment(content, two), when)
            for record_id, vector, content, (one, two), when in zip(ids, vectors, contents, salts, born)
        }
    last = None
    for _ in range(stream.number(8)):
        edge: Edge = (text(128), text(512), text(128), text(128), text(512))
        ascending(last, tuple(part.encode() for part in edge))
        last = tuple(part.encode() for part in edge)
        found.links[edge] = stream.number(8)
    for _ in range(stream.number(8)):
        request_id = text(512)
        need(request_id not in found.requests, f"{name}: a request twice")
        found.requests[request_id] = (stream.number(8), stream.take(32), stream.take(32))
    last = None
    for _ in range(stream.number(8)):
        node = (text(128), text(512))
        ascending(last, tuple(part.encode() for part in node))
        last = tuple(part.encode() for part in node)
        found.erased[node] = stream.number(8)
    stream.end()
    return found


# ----------------------------------------------------------------------------------------- receipts.md: paths and parts


def split(data: Any, what: str) -> list[bytes]:
    need(isinstance(data, bytes) and len(data) % 32 == 0, f"{what}: expected hashes of 32 bytes")
    return [data[at : at + 32] for at in range(0, len(data), 32)]


def check_inclusion(leaf: bytes, index: int, size: int, path: list[bytes], root: bytes) -> None:
    need(0 <= index < size, f"inclusion: leaf {index} of {size}")
    fn, sn, r = index, size - 1, leaf
    for p in path:
        need(sn != 0, "inclusion: the path is too long")
        if fn & 1 or fn == sn:
            r = log_node(p, r)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = log_node(r, p)
        fn, sn = fn >> 1, sn >> 1
    need(sn == 0, "inclusion: the path is too short")
    same("inclusion: root", root, r)


def check_growth(old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: list[bytes]) -> None:
    if old_size == new_size:
        need(not path, "consistency: a path between equal sizes")
        same("consistency: equal sizes, root", old_root, new_root)
        return
    need(old_size < new_size, f"consistency: from {old_size} to {new_size} leaves")
    if old_size == 0:
        need(not path, "consistency: a path from the empty log")
        same("consistency: root of the empty log", sha256(), old_root)
        return
    need(path, "consistency: the path is empty")
    if old_size & (old_size - 1) == 0:
        path = [old_root, *path]
    fn, sn = old_size - 1, new_size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        need(sn != 0, "consistency: the path is too long")
        if fn & 1 or fn == sn:
            fr, sr = log_node(c, fr), log_node(c, sr)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = log_node(sr, c)
        fn, sn = fn >> 1, sn >> 1
    need(sn == 0, "consistency: the path is too short")
    same("consistency: old root", old_root, fr)
    same("consistency: new root", new_root, sr)


def check_anchor(anchor: Any, state_root: bytes, seq: int, trusted: Checkpoint) -> None:
    """A state root of seq is bound by the trusted checkpoint."""
    need(type(seq) is int and 0 <= seq <= trusted.seq, f"anchor: seq {seq}, the checkpoint is of {trusted.seq}")
    if seq == 0:
        need(anchor is None, "anchor: seq 0 has none")
        same("anchor: state root of seq 0", ZERO, state_root)
        return
    need(isinstance(anchor, list) and len(anchor) == 3, "anchor: not [count, index, path]")
    count, index, path = anchor
    need(type(count) is int and type(index) is int and 1 <= count < 1 << 32, "anchor: count or index")
    check_inclusion(
        commit_leaf(seq, count, state_root), index, trusted.log_size, split(path, "anchor"), trusted.log_root
    )
    if seq == trusted.seq:
        same("anchor: index of the last commit", trusted.log_size - 1, index)
        same("anchor: state root of the checkpoint", trusted.state_root, state_root)


def fields(value: Any, kind: str, names: str) -> list[Any]:
    """The values of ``[kind, map]`` whose map has exactly these keys, in their order."""
    need(isinstance(value, list) and len(value) == 2 and value[0] == kind, f"expected a file of kind {kind}")
    need(isinstance(value[1], dict) and list(value[1]) == names.split(), f"{kind}: expected the keys {names}")
    return list(value[1].values())


def check_state_part(part: Any, leaves: dict[bytes, bytes | None], seq: int, trusted: Checkpoint) -> None:
    """Under each key stands its leaf, or nothing where that is None."""
    need(isinstance(part, dict) and list(part) == ["anchor", "buckets", "nodes"], "state part: its three keys")
    numbers, buckets = sorted({bucket_of(key) for key in leaves}), part["buckets"]
    need(isinstance(buckets, list) and len(buckets) == len(numbers), f"state part: expected {len(numbers)} buckets")
    known: dict[int, bytes] = {}
    entries: dict[bytes, bytes] = {}
    for number, bucket in zip(numbers, buckets):
        hashes = split(bucket, "bucket")
        need(len(hashes) % 2 == 0, "bucket: a key without a leaf")
        keys = hashes[::2]
        need(all(bucket_of(key) == number for key in keys), "bucket: a key of another bucket")
        need(all(a < b for a, b in zip(keys, keys[1:])), "bucket: keys out of order")
        entries.update(zip(keys, hashes[1::2]))
        known[number] = bucket_hash(bucket)
    rest = iter(split(part["nodes"], "nodes"))
    for _ in range(16):
        above = {}
        for number in sorted(known):
            other = known.get(number ^ 1)
            if other is None:
                other = next(rest, None)
                need(other is not None, "state part: too few nodes")
            pair = (other, known[number]) if number & 1 else (known[number], other)
            above[number >> 1] = state_node(*pair)
        known = above
    need(next(rest, None) is None, "state part: too many nodes")
    check_anchor(part["anchor"], known[0], seq, trusted)
    for key, leaf in leaves.items():
        found = entries.get(key)
        need(
            found == leaf,
            f"state part: under key {key.hex()} expected {leaf and leaf.hex()}, found {found and found.hex()}",
        )


def trust(text: Any, trusted: Checkpoint, via: bytes | None) -> Checkpoint:
    """The checkpoint of a file: the trusted one, or one that a consistency proof leads from to it."""
    need(isinstance(text, str), "a checkpoint that is no text")
    its = read_checkpoint(text)
    if its != trusted:
        need(via is not None, f"its checkpoint is of seq {its.seq}, and is not the trusted one of seq {trusted.seq}")
        check_consistency(via or b"", its, trusted)
    return its


def check_consistency(data: bytes, old: Checkpoint, new: Checkpoint) -> None:
    """The log of ``new`` is that of ``old`` and what came behind it."""
    names = "new new_closing old old_closing path"
    new_text, new_closing, old_text, old_closing, path = fields(decode(data, "proof"), "detmem/consistency/v1", names)
    need(isinstance(new_text, str) and isinstance(old_text, str), "consistency: a checkpoint that is no text")
    same("consistency: old checkpoint", old, read_checkpoint(old_text))
    same("consistency: new checkpoint", new, read_checkpoint(new_text))
    need(old.seq <= new.seq, "consistency: seqs go backwards")
    for one, closing in ((old, old_closing), (new, new_closing)):
        if one.log_size == 0:
            same("consistency: closing of an empty log", (None, Checkpoint(0, 0, sha256(), ZERO)), (closing, one))
            continue
        need(isinstance(closing, list) and len(closing) == 2 and type(closing[0]) is int, "closing: not [count, path]")
        need(1 <= closing[0] < 1 << 32, "closing: count")
        leaf = commit_leaf(one.seq, closing[0], one.state_root)
        check_inclusion(leaf, one.log_size - 1, one.log_size, split(closing[1], "closing"), one.log_root)
    check_growth(old.log_size, old.log_root, new.log_size, new.log_root, split(path, "path"))


def check_state_proof(data: bytes, trusted: Checkpoint, via: bytes | None = None) -> dict[tuple[str, str], bool]:
    """For each (collection, id) that it speaks of, whether it is there at its seq."""
    text, claims, part, seq = fields(decode(data, "proof"), "detmem/state-proof/v1", "checkpoint claims proof seq")
    need(isinstance(claims, list) and claims, "state proof: no claims")
    need(type(seq) is int, "state proof: seq")
    leaves: dict[bytes, bytes | None] = {}
    shown: dict[tuple[str, str], bool] = {}
    for claim in claims:
        need(isinstance(claim, list) and len(claim) == 3, "claim: not [collection, id, opening]")
        name, record_id, opening = claim
        need(isinstance(name, str) and isinstance(record_id, str), "claim: names that are no texts")
        need(1 <= len(name.encode()) <= 128 and len(record_id.encode()) <= 512, "claim: size of a name")
        before = list(shown)[-1:]
        need(
            not before or [part.encode() for part in before[0]] < [name.encode(), record_id.encode()],
            "claims out of order",
        )
        need(
            opening is None or (isinstance(opening, bytes) and len(opening) == (64 if record_id else 32)),
            "claim: opening",
        )
        leaf = None
        if opening is not None:
            leaf = (
                record_leaf(name, record_id, opening[:32], opening[32:])
                if record_id
                else collection_leaf(name, opening)
            )
        leaves[state_key(name, record_id)] = leaf
        shown[name, record_id] = opening is not None
    check_state_part(part, leaves, seq, trust(text, trusted, via))
    return shown


# ----------------------------------------------------------------------------------------------- filters.md, numbers.md

ORDERS = {
    "$gt": lambda a, b: a > b,
    "$gte": lambda a, b: a >= b,
    "$lt": lambda a, b: a < b,
    "$lte": lambda a, b: a <= b,
}
FIELD_OPERATORS = ("$eq", "$ne", "$in", "$nin", "$exists", "$contains", *ORDERS)
MISSING = object()


def kind_of(value: Any) -> str:
    """What can be compared with one another: a number is no bool."""
    return "number" if type(value) in (int, float) else type(value).__name__


def equal(stored: Any, value: Any) -> bool:
    if isinstance(stored, list) and isinstance(value, list):
        return len(stored) == len(value) and all(equal(a, b) for a, b in zip(stored, value))
    return kind_of(stored) == kind_of(value) and bool(stored == value)


def check_where(where: Any, depth: int = 1) -> int:
    """How many clauses a filter of the grammar has."""
    need(isinstance(where, dict) and depth <= 16, "where: no map, or too deep")
    clauses = 0 if where else 1
    for key, part in where.items():
        if key in ("$and", "$or"):
            need(isinstance(part, list) and part, f"where: {key} wants a list")
            clauses += sum(check_where(inner, depth + 1) for inner in part)
        elif key == "$not":
            clauses += check_where(part, depth + 1)
        else:
            need(not key.startswith("$"), f"where: unknown operator {key}")
            operators = part if isinstance(part, dict) else {"$eq": part}
            need(operators, f"where: no operator for {key!r}")
            for operator, operand in operators.items():
                flat = kind_of(operand) in ("number", "str", "bool", "NoneType")
                whole = isinstance(operand, list) and all(
                    kind_of(x) in ("number", "str", "bool", "NoneType") for x in operand
                )
                many = isinstance(operand, list) and all(
                    kind_of(x) in ("number", "str", "bool", "NoneType")
                    or (isinstance(x, list) and not any(isinstance(y, (list, dict, bytes)) for y in x))
                    for x in operand
                )
                good = {"$eq": flat or whole, "$ne": flat or whole, "$in": many, "$nin": many, "$contains": flat,
                        "$exists": isinstance(operand, bool)}  # fmt: skip
                orders = operator in ORDERS and kind_of(operand) in ("number", "str")
                need(operator in FIELD_OPERATORS and good.get(operator, orders), f"where: {operator} with {operand!r}")
                clauses += 1
    need(clauses <= 1000, "where: more than 1,000 clauses")
    return clauses


def holds(stored: Any, operator: str, operand: Any) -> bool:
    if operator in ("$ne", "$nin"):
        return not holds(stored, {"$ne": "$eq", "$nin": "$in"}[operator], operand)
    if operator == "$exists":
        return bool((stored is not MISSING) == operand)
    if operator == "$eq":
        return equal(stored, operand)
    if operator == "$in":
        return any(equal(stored, one) for one in operand)
    if operator == "$contains":
        if isinstance(stored, list):
            return any(equal(one, operand) for one in stored)
        return isinstance(stored, str) and isinstance(operand, str) and operand in stored
    pair = {kind_of(stored), kind_of(operand)}
    need(pair != {"number", "str"}, f"where: {operator} {operand!r} against {stored!r}: such a search is refused")
    return len(pair) == 1 and pair <= {"number", "str"} and bool(ORDERS[operator](stored, operand))


def matches(metadata: dict[str, Any], where: dict[str, Any]) -> bool:
    """Every clause is looked at, so that a conflict of types shows whatever the others say."""
    results = [True]
    for key, part in where.items():
        if key in ("$and", "$or"):
            inner = [matches(metadata, one) for one in part]
            results.append(all(inner) if key == "$and" else any(inner))
        elif key == "$not":
            results.append(not matches(metadata, part))
        else:
            stored = metadata.get(key, MISSING)
            operators = part if isinstance(part, dict) else {"$eq": part}
            results += [holds(stored, operator, operand) for operator, operand in operators.items()]
    return all(results)


def distance(metric: str, row: tuple[int, ...], query: tuple[int, ...]) -> int:
    if metric == "ip":
        return -sum(a * b for a, b in zip(row, query))
    return sum((a - b) ** 2 for a, b in zip(row, query))


def shown_distance(definition: Definition, raw: int) -> float:
    bits = {"Q16.16": 16, "Q8.24": 24, "Q4.28": 28}[definition.format]
    return float(raw) / float(2 ** (2 * bits + (1 if definition.metric == "cosine" else 0)))


# --------------------------------------------------------------------------------------------------- receipts.md: files

RECEIPT_KEYS = (
    "checkpoint collection definition ids k level max_distance proof query result_ids result_leaves result_raws "
    "semantics seq subtrees where"
)


class Receipt(NamedTuple):
    checkpoint: str
    collection: str
    of_definition: bytes
    definition: Definition
    ids: set[str] | None
    k: int
    level: str
    max_distance: float | None
    proof: Any
    query: tuple[int, ...]
    results: dict[str, tuple[int, bytes]]  # id: raw distance, record leaf; in order
    seq: int
    subtrees: list[bytes] | None
    where: dict[str, Any]
    sha256: bytes

    def may_answer(self, record_id: str, metadata: dict[str, Any], raw: int) -> bool:
        near = self.max_distance is None or shown_distance(self.definition, raw) <= self.max_distance
        return matches(metadata, self.where) and (self.ids is None or record_id in self.ids) and near


def texts(value: Any, what: str) -> list[str]:
    need(isinstance(value, list) and all(isinstance(one, str) for one in value), f"{what}: expected texts")
    need(all(1 <= len(one.encode()) <= 512 for one in value), f"{what}: size of an id")
    return list(value)


def read_receipt(data: bytes) -> Receipt:
    """R0: the file is one that the page describes, and whole."""
    need(32 < len(data) <= MOST_FILE, f"receipt: {len(data)} bytes")
    body, digest = data[:-32], data[-32:]
    same("receipt: digest", digest, sha256(b"\x20", body))
    values = fields(decode(body, "receipt"), "detmem/receipt/v1", RECEIPT_KEYS)
    checkpoint, collection, definition_bytes, ids, k, level, max_distance, proof, *values = values
    query, result_ids, result_leaves, result_raws, semantics, seq, subtrees, where = values
    need(isinstance(checkpoint, str) and isinstance(collection, str), "receipt: checkpoint or collection")
    need(1 <= len(collection.encode()) <= 128, "receipt: name of the collection")
    need(all(isinstance(part, bytes) for part in (definition_bytes, query, result_raws)), "receipt: bytes")
    definition = read_definition(definition_bytes)
    same("receipt: semantics", f"detmem/search/v1 {definition.metric} {definition.format} raw,id", semantics)
    if ids is not None:
        ids = [one.encode() for one in texts(ids, "ids")]
        need(all(a < b for a, b in zip(ids, ids[1:])), "receipt: ids out of order")
        ids = {one.decode() for one in ids}
    need(type(k) is int and k >= 1 and type(seq) is int and seq >= 1, "receipt: k or seq")
    need(level in ("R0", "R1", "R2", "R3"), f"receipt: level {level!r}")
    need(max_distance is None or isinstance(max_distance, float), "receipt: max_distance")
    need((proof is None) == (level == "R0"), "receipt: R0 has no proof, every other has one")
    need((subtrees is None) == (level != "R3"), "receipt: R3 has subtrees, no other has")
    names, leaves = texts(result_ids, "result_ids"), split(result_leaves, "result_leaves")
    need(
        len(names) <= k and len(names) == len(leaves) and len(result_raws) == 8 * len(names),
        "receipt: sizes of the results",
    )
    raws = struct.unpack(f"<{len(names)}q", result_raws)
    order = [(raw, name.encode()) for raw, name in zip(raws, names)]
    need(
        all(a < b for a, b in zip(order, order[1:])) and len(set(names)) == len(names), "receipt: results out of order"
    )
    lists = None if subtrees is None else split(subtrees, "subtrees")
    need(lists is None or len(lists) == 256, "receipt: expected 256 subtrees")
    need(where is None or isinstance(where, bytes), "receipt: where")
    chosen = {} if where is None else decode(where, "where")
    need(where is None or chosen != {}, "receipt: an empty filter")
    check_where(chosen)
    results = dict(zip(names, zip(raws, leaves)))
    need(seq <= read_checkpoint(checkpoint).seq, "receipt: made before its seq")
    vector, of_definition = read_vector(query, definition.dim), commitment(definition_bytes)
    asked = (checkpoint, collection, of_definition, definition, ids, k, level, max_distance)
    return Receipt(*asked, proof, vector, results, seq, lists, chosen, sha256(data))


def check_receipt(data: bytes, trusted: Checkpoint, via: bytes | None = None) -> Receipt:
    """R1: each result was a live record at its seq, in a collection with this definition.  (R0 shows nothing of it.)"""
    receipt = read_receipt(data)
    its = trust(receipt.checkpoint, trusted, via)
    if receipt.level != "R0":
        name = receipt.collection
        leaves: dict[bytes, bytes | None] = {state_key(name): collection_leaf(name, receipt.of_definition)}
        leaves.update((state_key(name, one), leaf) for one, (_, leaf) in receipt.results.items())
        check_state_part(receipt.proof, leaves, receipt.seq, its)
    return receipt


def check_subtree(data: bytes, receipt: Receipt, trusted: Checkpoint, via: bytes | None = None) -> int:
    """R3: in this one of 256 subtrees nothing is missing from the answer.  Returns its number."""
    need(receipt.level != "R0", "a receipt of level R0 has no proof")
    names = "anchor checkpoint collection number others records seq siblings"
    anchor, text, collection, number, others, records, seq, siblings = fields(
        decode(data, "subtree", 256 << 20), "detmem/subtree/v1", names
    )
    need(type(number) is int and 0 <= number <= 255, "subtree: number")
    same("subtree: collection and seq", (receipt.collection, receipt.seq), (collection, seq))
    hashes = split(others, "others")
    need(len(hashes) % 2 == 0 and all(a < b for a, b in zip(hashes[::2], hashes[2::2])), "subtree: others out of order")
    entries = dict(zip(hashes[::2], hashes[1::2]))
    last, found = b"", []
    need(isinstance(records, list), "subtree: records")
    for record in records:
        need(isinstance(record, list) and len(record) == 5 and isinstance(record[0], str), "subtree: a record")
        record_id, vector, content, one, two = record
        need(1 <= len(record_id.encode()) <= 512, "subtree: size of an id")
        need(all(isinstance(part, bytes) for part in record[1:]), "subtree: a record's bytes")
        need(len(one) == len(two) == (32 if receipt.definition.erasable else 0), "subtree: size of a salt")
        need(last < record_id.encode(), "subtree: records out of order")
        last, key = record_id.encode(), state_key(collection, record_id)
        need(key not in entries, "subtree: an entry twice")
        leaf = entries[key] = record_leaf(collection, record_id, commitment(vector, one), commitment(content, two))
        raw = distance(receipt.definition.metric, read_vector(vector, receipt.definition.dim), receipt.query)
        if receipt.may_answer(record_id, read_content(content)[0], raw):
            found.append((raw, record_id.encode(), record_id, leaf))
    need(all(key[0] == number for key in entries), "subtree: an entry of another one")
    level = []
    for bucket in range(256):
        inside = sorted(key for key in entries if key[1] == bucket)
        level.append(bucket_hash(b"".join(key + entries[key] for key in inside)))
    while len(level) > 1:
        level = [state_node(left, right) for left, right in zip(level[::2], level[1::2])]
    root, place, beside = level[0], number, split(siblings, "siblings")
    same("subtree: siblings", 8, len(beside))
    for other in beside:
        root, place = state_node(other, root) if place & 1 else state_node(root, other), place >> 1
    check_anchor(anchor, root, seq, trust(text, trusted, via))
    found.sort()
    first = found[: receipt.k]
    body = b"".join(struct.pack("<q", raw) + lp(name) + leaf for raw, _, name, leaf in first)
    if receipt.subtrees is not None:
        same(
            f"subtree {number}: local list",
            receipt.subtrees[number],
            sha256(b"\x21", bytes([number]), u32(len(first)), body),
        )
    results = {name: pair for name, pair in receipt.results.items() if state_key(collection, name)[0] == number}
    listed = {name: (raw, leaf) for raw, _, name, leaf in first}
    for name, pair in results.items():
        need(listed.get(name) == pair, f"subtree {number}: the result {name!r} is not what stands there")
    for raw, key, name, _ in first:
        need(
            name in results or not comes_into(receipt, raw, key), f"subtree {number}: the answer has left out {name!r}"
        )
    return int(number)


def comes_into(receipt: Receipt, raw: int, key: bytes) -> bool:
    """Whether a record that may answer, at this place in the order, belongs to the first k."""
    if len(receipt.results) < receipt.k:
        return True
    name, (last, _) = list(receipt.results.items())[-1]
    return (raw, key) < (last, name.encode())


def check_refutation(data: bytes, receipt: Receipt, trusted: Checkpoint, via: bytes | None = None) -> str:
    """The receipt is false: the record that it should have named.  ``receipt`` has passed R1."""
    names = "checkpoint content content_salt id proof receipt seq vector vector_salt"
    text, content, two, record_id, part, of_receipt, seq, vector, one = fields(
        decode(data, "refutation"), "detmem/refutation/v1", names
    )
    same("refutation: of the receipt", receipt.sha256, of_receipt)
    same("refutation: seq", receipt.seq, seq)
    need(
        isinstance(record_id, str) and all(isinstance(x, bytes) for x in (content, two, vector, one)),
        "refutation: its values",
    )
    need(1 <= len(record_id.encode()) <= 512, "refutation: size of the id")
    need(receipt.level != "R0", "a receipt of level R0 has no proof")
    need(len(one) == len(two) == (32 if receipt.definition.erasable else 0), "refutation: size of a salt")
    leaf = record_leaf(receipt.collection, record_id, commitment(vector, one), commitment(content, two))
    check_state_part(part, {state_key(receipt.collection, record_id): leaf}, seq, trust(text, trusted, via))
    raw = distance(receipt.definition.metric, read_vector(vector, receipt.definition.dim), receipt.query)
    need(receipt.may_answer(record_id, read_content(content)[0], raw), "refutation: the record may not answer")
    named = receipt.results.get(record_id)
    need(named is None or named[0] != raw, "refutation: the receipt names the record")
    need(
        named is not None or comes_into(receipt, raw, record_id.encode()),
        "refutation: the record comes behind the answer",
    )
    return str(record_id)


# ---------------------------------------------------------------------------------- signed notes; Ed25519, RFC 8032 5.1

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT = pow(2, (P - 1) // 4, P)
Point = tuple[int, int, int, int]  # extended coordinates X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z


def point_add(p: Point, q: Point) -> Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def point_times(scalar: int, p: Point) -> Point:
    total: Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            total = point_add(total, p)
        p, scalar = point_add(p, p), scalar >> 1
    return total


def point_from(data: bytes) -> Point:
    y, sign = int.from_bytes(data, "little") & (1 << 255) - 1, data[31] >> 7
    need(y < P, "signature: a point above the field")
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if x * x % P == square else x * ROOT % P
    need(x * x % P == square and not (x == 0 and sign), "signature: no point of the curve")
    x = x if x & 1 == sign else P - x
    return x, y, 1, x * y % P


def check_signature(public: bytes, message: bytes, signature: bytes) -> None:
    same("signature: bytes", (32, 64), (len(public), len(signature)))
    s = int.from_bytes(signature[32:], "little")
    need(s < ORDER, "signature: s is not below the order")
    challenge = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % ORDER
    base = point_from(bytes([0x58] + [0x66] * 31))
    left, right = (
        point_times(s, base),
        point_add(point_from(signature[:32]), point_times(challenge, point_from(public))),
    )
    good = (left[0] * right[2] - right[0] * left[2]) % P == 0 and (left[1] * right[2] - right[1] * left[2]) % P == 0
    need(good, "signature: it does not verify")


def unbase64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise Refused(f"not base64: {text[:80]!r}") from None
    same("base64", base64.b64encode(data).decode(), text)
    return data


def check_note(text: str, verifier_key: str) -> Checkpoint:
    """A signed checkpoint: the signature of this key (NAME+HASH+BASE64) is there and right."""
    found = re.fullmatch(r"([^\s+\x00-\x1f]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)", verifier_key.strip())
    need(found, "expected a verifier key, NAME+HASH+BASE64")
    assert found is not None
    name, key = found[1], unbase64(found[3])
    need(len(key) == 33 and key[0] == 1, "verifier key: not of Ed25519")
    key_hash = sha256(name.encode(), b"\n", key)[:4]
    same("verifier key: hash", key_hash.hex(), found[2])
    need(not re.search("[\ud800-\udfff]", text), "note: not UTF-8")
    need(len(text.encode()) <= 1 << 20, "note: larger than 1 MiB")
    body, _, signatures = text.rpartition("\n\n")
    need(signatures.endswith("\n"), "note: expected signatures behind an empty line")
    lines = signatures[:-1].split("\n")
    need(len(lines) <= 100, "note: more than 100 signatures")
    good = 0
    for line in lines:
        parts = re.fullmatch(r"— ([^\s+]+) ([A-Za-z0-9+/=]+)", line)
        need(parts, f"note: not a signature line: {line[:80]!r}")
        assert parts is not None
        signature = unbase64(parts[2])
        need(len(signature) > 4, "note: a short signature")
        if (parts[1], signature[:4]) == (name, key_hash):
            check_signature(key[1:], (body + "\n").encode(), signature[4:])
            good += 1
    need(good == 1, f"note: {good} signatures of {name}")
    return read_checkpoint(body + "\n", name)


# ----------------------------------------------------------------------------------------------------- the command line


def read_text(path: str) -> str:
    return Path(path).read_bytes().decode("utf-8")


def trusted_from(path: str | None, key: str | None) -> Checkpoint | None:
    if path is None:
        return None
    return read_checkpoint(read_text(path)) if key is None else check_note(read_text(path), key)


def plain(line: str) -> str:
    return line.encode("ascii", "backslashreplace").decode()


def answer(asked: argparse.Namespace) -> Iterator[str]:
    """Check, then say what was shown."""
    trusted = trusted_from(asked.checkpoint, asked.key)
    path = Path(asked.file)
    if asked.what in ("store", "log"):
        found = verify_store(path, trusted) if asked.what == "store" else verify_log(path, trusted)
        yield from (f"note: {note}" for note in found.notes)
        reached = found.checkpoint
        yield f"ok {f'1..{reached.seq}' if reached.seq else 'empty'} state {reached.state_root.hex()}"
        yield reached.text().rstrip("\n")
        return
    if asked.what == "note":
        need(asked.key is not None, "--key is needed: the verifier key, NAME+HASH+BASE64")
        yield "ok, signed:\n" + check_note(read_text(asked.file), asked.key).text().rstrip("\n")
        return
    need(trusted is not None, "--checkpoint is needed: what you trust")
    assert trusted is not None
    data, via = path.read_bytes(), None if asked.via is None else Path(asked.via).read_bytes()
    if asked.what == "consistency":
        need(asked.old is not None, "--old is needed: the older checkpoint")
        check_consistency(data, read_checkpoint(read_text(asked.old)), trusted)
        yield "ok, the newer log begins with the older one"
    elif asked.what == "state-proof":
        for (collection, record_id), there in check_state_proof(data, trusted, via).items():
            yield f"ok {'present' if there else 'absent'} {collection!a} {record_id!a}"
    elif asked.what == "receipt":
        receipt = check_receipt(data, trusted, via)
        shows = "was said; nothing of the memory is shown" if receipt.level == "R0" else "were live records at that seq"
        yield f"ok seq {receipt.seq}: {len(receipt.results)} results {shows}; sha256 {receipt.sha256.hex()}"
    else:
        need(asked.of is not None, "--of is needed: the receipt")
        of = check_receipt(Path(asked.of).read_bytes(), trusted, via)
        if asked.what == "subtree":
            yield f"ok, nothing is missing from subtree {check_subtree(data, of, trusted, via)}"
        else:
            yield f"ok, the receipt is false: it should have named {check_refutation(data, of, trusted, via)!a}"


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    kinds = ("store", "log", "receipt", "subtree", "refutation", "state-proof", "consistency", "note")
    parser.add_argument("what", choices=kinds)
    parser.add_argument("file")
    for name in ("checkpoint", "old", "via", "of", "key"):
        parser.add_argument(f"--{name}")
    try:
        for line in answer(parser.parse_args(words)):
            print(plain(line))
    except (Refused, OSError, UnicodeDecodeError) as error:
        print(plain(f"REFUSED: {error}"), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
