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
library is imported, every byte format is read here, SHA-256 comes from hashlib.  Each part names its page, each
function the section of it that it carries out.

Trust: the caller's checkpoint (a text, or a signed note together with --key) and nothing else.  What a proof says of
itself is compared with it, never believed.  --via FILE names a consistency proof that leads from the proof's own, older
checkpoint to the trusted one.  Whatever is not exactly as the pages say is refused: exit code 1 and one line that says
what, where, expected and found.  Exit code 0 and ``ok`` mean that every check of the page was made and held.

To be read from the top: hashes and the two trees; the encoding; the log and what its operations do; whole stores;
snapshots; paths and state parts; filters and distances; the files that prove something; signatures; the command line.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import operator
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
    """Refuse, unless it holds."""
    if not holds:
        raise Refused(why)


def shown(value: Any) -> str:
    """A value as people read it, bytes in hex."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value))
    return value.hex() if isinstance(value, bytes) else str(value)


def same(what: str, expected: object, found: object) -> None:
    """Refuse, unless the two are equal."""
    if expected != found:
        raise Refused(f"{what}: expected {shown(expected)}, found {shown(found)}")


# ----------------------------------------------------------------------------- conventions of all pages, commitments.md

ZERO = bytes(32)


def sha256(*parts: bytes) -> bytes:
    """H of the joined parts (Conventions)."""
    return hashlib.sha256(b"".join(parts)).digest()


def u16(n: int) -> bytes:
    """Conventions: integers are little-endian."""
    return n.to_bytes(2, "little")


def u32(n: int) -> bytes:
    """Conventions, as u16."""
    return n.to_bytes(4, "little")


def u64(n: int) -> bytes:
    """Conventions, as u16."""
    return n.to_bytes(8, "little")


def lp(text: str) -> bytes:
    """A text behind its length (Conventions)."""
    return u16(len(text.encode())) + text.encode()


def commitment(data: bytes, salt: bytes = b"") -> bytes:
    """Of a vector, a content or a definition (Vector and content)."""
    return sha256(b"\x10", salt, data)


def state_key(collection: str, record_id: str = "") -> bytes:
    """Where a record, or the collection itself, stands (State tree)."""
    return sha256(b"\x13", lp(collection), lp(record_id))


def record_leaf(collection: str, record_id: str, of_vector: bytes, of_content: bytes) -> bytes:
    """What stands there for a record (State tree)."""
    return sha256(b"\x12", lp(collection), lp(record_id), of_vector, of_content)


def collection_leaf(collection: str, of_definition: bytes) -> bytes:
    """What stands there for a collection (State tree)."""
    return sha256(b"\x16", lp(collection), of_definition)


def bucket_of(key: bytes) -> int:
    """Number of the bucket that a key belongs to (State tree)."""
    return int.from_bytes(key[:2], "big")


def bucket_hash(entries: bytes) -> bytes:
    """Of key | leaf | key | leaf ... in order (State tree)."""
    return sha256(b"\x14", entries) if entries else ZERO


def state_node(left: bytes, right: bytes) -> bytes:
    """One level up (State tree)."""
    return ZERO if left == right == ZERO else sha256(b"\x15", left, right)


def log_node(left: bytes, right: bytes) -> bytes:
    """One level up (Log tree; RFC 9162)."""
    return sha256(b"\x01", left, right)


def commit_leaf(seq: int, count: int, state_root: bytes) -> bytes:
    """The leaf behind a commit's operations (Log tree)."""
    return sha256(b"\x00COMMIT", u64(seq), u32(count), state_root)


class StateTree:
    """State tree: 2^16 buckets; ``root`` hashes again what has changed."""

    def __init__(self) -> None:
        self.buckets: dict[int, dict[bytes, bytes]] = {}
        self.levels: list[dict[int, bytes]] = [{} for _ in range(17)]
        self.changed: set[int] = set()

    def put(self, key: bytes, leaf: bytes | None) -> None:
        """An entry, or with None no entry."""
        bucket = self.buckets.setdefault(bucket_of(key), {})
        if leaf is None:
            bucket.pop(key, None)
        else:
            bucket[key] = leaf
        self.changed.add(bucket_of(key))

    def root(self) -> bytes:
        """state_root."""
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
    """Log tree: its size and the roots of its complete subtrees, the largest first (the frontier of snapshot.md)."""

    def __init__(self) -> None:
        self.size = 0
        self.roots: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """A leaf more."""
        number = self.size
        while number & 1:
            leaf, number = log_node(self.roots.pop(), leaf), number >> 1
        self.roots.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """log_root."""
        if not self.roots:
            return sha256()
        root = self.roots[-1]
        for left in self.roots[-2::-1]:
            root = log_node(left, root)
        return root


class Checkpoint(NamedTuple):
    """Checkpoint."""

    seq: int
    log_size: int
    log_root: bytes
    state_root: bytes

    def text(self, origin: str = "detmem/v1") -> str:
        """Its five lines; those of a signed one begin with the signer's name (receipts.md)."""
        root = base64.b64encode(self.log_root).decode()
        return f"{origin}\n{self.log_size}\n{root}\nseq {self.seq}\nstate {self.state_root.hex()}\n"


def read_checkpoint(text: str, origin: str = "detmem/v1") -> Checkpoint:
    """The inverse of ``text``; nothing else is accepted, and of no commit but one (Checkpoint)."""
    number = "(0|[1-9][0-9]{0,18})"
    pattern = rf"{re.escape(origin)}\n{number}\n([A-Za-z0-9+/]{{43}}=)\nseq {number}\nstate ([0-9a-f]{{64}})\n"
    found = re.fullmatch(pattern, text)
    if found is None:
        raise Refused(f"expected the five lines of a checkpoint of {origin}, found {text[:100]!r}")
    root = base64.b64decode(found[2])
    checkpoint = Checkpoint(int(found[3]), int(found[1]), root, bytes.fromhex(found[4]))
    same("checkpoint", checkpoint.text(origin), text)
    if 0 in checkpoint[:2]:
        same("checkpoint of no commit", Checkpoint(0, 0, sha256(), ZERO), checkpoint)
    return checkpoint


# ---------------------------------------------------------------------------------------------------------- encoding.md

DEEPEST, MOST_ITEMS, MOST_FILE = 16, 1 << 17, 16 << 20
# head byte: bytes of the length behind it, and the least length that needs this form
LONG = {0xD9: (1, 32), 0xDA: (2, 256), 0xDB: (4, 65536), 0xC4: (1, 0), 0xC5: (2, 256), 0xC6: (4, 65536),
        0xDC: (2, 16), 0xDD: (4, 65536), 0xDE: (2, 16)}  # fmt: skip


class Reader:
    """Bytes, taken from the front; whatever is refused is said with ``what`` they are."""

    def __init__(self, data: bytes, what: str) -> None:
        self.data, self.what, self.at, self.items = data, what, 0, 0

    def need(self, holds: object, why: str) -> None:
        """Refuse, unless it holds."""
        need(holds, f"{self.what}: {why}")

    def take(self, size: int) -> bytes:
        """The next bytes."""
        self.need(self.at + size <= len(self.data), f"ends at byte {len(self.data)}, inside what begins at {self.at}")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        """The next integer of so many bytes (commitments.md, Conventions)."""
        return int.from_bytes(self.take(size), "little")

    def text(self, size: int, most: int, least: int = 1) -> str:
        """The next bytes as UTF-8."""
        self.need(least <= size <= most, f"a text of {size} bytes, expected {least} to {most}")
        try:
            return self.take(size).decode("utf-8")
        except UnicodeDecodeError:
            raise Refused(f"{self.what}: a text that is not UTF-8, before byte {self.at}") from None

    def value(self, depth: int = 0) -> Any:
        """One value in its only spelling."""
        self.items += 1
        self.need(self.items <= MOST_ITEMS, f"more than {MOST_ITEMS} items")
        head = self.take(1)[0]
        if head < 0x80 or head >= 0xE0:
            return head if head < 0x80 else head - 256
        if head in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[head]
        if head == 0xCB:
            number = struct.unpack(">d", self.take(8))[0]
            self.need(abs(number) < float("inf"), "a float that is not finite")
            return number
        if 0xCC <= head <= 0xD3:
            size, signed = 1 << (head & 3), head >= 0xD0
            whole = int.from_bytes(self.take(size), "big", signed=signed)
            if signed:
                short = whole >= (-32 if size == 1 else -(1 << (4 * size - 1)))
            else:
                short = whole < (128 if size == 1 else 1 << (4 * size)) or whole >= 1 << 63
            self.need(not short, f"the number {whole} in a form that is not its own")
            return whole
        if head in LONG:
            bytes_of_length, least = LONG[head]
            length = int.from_bytes(self.take(bytes_of_length), "big")
            self.need(length >= least, f"a length of {length} in a longer form")
        else:
            self.need(head < 0xC0, f"the byte {head:02x} begins no value")
            length = head & (0x1F if head >= 0xA0 else 0x0F)
        if 0xA0 <= head < 0xC0 or 0xD9 <= head <= 0xDB:
            return self.text(length, len(self.data), 0)
        if 0xC4 <= head <= 0xC6:
            return self.take(length)
        self.need(depth < DEEPEST, f"deeper than {DEEPEST}")
        self.need(length <= len(self.data), f"{length} items in {len(self.data)} bytes")
        if 0x90 <= head < 0xA0 or head in (0xDC, 0xDD):
            return [self.value(depth + 1) for _ in range(length)]
        found: dict[str, Any] = {}
        last = None
        for _ in range(length):
            key = self.value(depth + 1)
            self.need(isinstance(key, str), "a key that is no text")
            self.need(last is None or last.encode() < key.encode(), "keys out of order")
            found[key], last = self.value(depth + 1), key
        return found

    def end(self) -> None:
        """Refuse, unless all has been taken."""
        self.need(self.at == len(self.data), f"{len(self.data) - self.at} bytes behind its end")


def decode(data: bytes, what: str = "value", most: int = MOST_FILE) -> Any:
    """The value that these bytes, and no others, mean."""
    need(0 < len(data) <= most, f"{what}: {len(data)} bytes, expected 1 to {most}")
    reader = Reader(bytes(data), what)
    value = reader.value()
    reader.end()
    return value


def read_content(data: bytes) -> tuple[dict[str, Any], str | None]:
    """Metadata and document of a record, as a caller could have stored them (Content)."""
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
    """What a collection is (commitments.md, Vector and content)."""

    dim: int
    metric: str
    format: str
    erasable: bool


def read_definition(data: bytes) -> Definition:
    """commitments.md, Vector and content; its limits: log.md, When an operation is legal."""
    value = decode(data, "definition", 256)
    names = ["dim", "erasable", "format", "metric"]
    need(isinstance(value, dict) and list(value) == names, "definition: not its four keys")
    dim, erasable, number_format, metric = value.values()
    need(type(dim) is int and 1 <= dim <= 65536 and type(erasable) is bool, "definition: dim or erasable")
    need(metric in ("l2", "ip", "cosine"), "definition: metric")
    need(number_format in ("Q16.16", "Q8.24", "Q4.28"), "definition: format")
    return Definition(dim, metric, number_format, erasable)


def read_vector(data: bytes, dim: int) -> tuple[int, ...]:
    """A vector that is admitted (numbers.md, Admission)."""
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
    """Operation."""

    type: int
    flags: int
    collection: str
    id: str
    vector_size: int
    of_vector: bytes
    of_content: bytes
    leaf: bytes
    vector: bytes | None
    content: bytes | None
    state: int  # 0 the payload is here, 1 it is erased, 2 it is archived


def read_operation(body: Reader) -> Operation:
    """Operation: the header's layout and table of types, the state byte, the payload and its commitments."""
    start = body.at
    kind, flags, name_size, id_size, zero, vector_size, content_size, of_vector, of_content = struct.unpack(
        "<BBHHHII32s32s", body.take(80)
    )
    where = f"operation at byte {start}"
    body.need(kind in FLAGS and flags in FLAGS[kind] and zero == 0, f"{where}: type {kind} with flags {flags}")
    body.need((vector_size > 0) == bool(flags & HAS_VECTOR), f"{where}: a vector that its flags do not name")
    body.need(vector_size % 4 == 0 and vector_size <= 4 * 65536, f"{where}: a vector of {vector_size} bytes")
    body.need((content_size > 0) == bool(flags & HAS_CONTENT), f"{where}: a content that its flags do not name")
    body.need(content_size <= MOST_CONTENT, f"{where}: a content of {content_size} bytes")
    collection = body.text(name_size, 0 if kind == RECORD else 128, 0 if kind == RECORD else 1)
    no_id = kind in (CREATE, DROP, RECORD)
    record_id = body.text(id_size, 0 if no_id else 512, 0 if no_id else 1)
    leaf = sha256(b"\x00", body.data[start : body.at])
    state = body.number(1)
    body.need(state == 0 or (state in (1, 2) and kind in WRITES), f"{where}: state byte {state:02x}")
    salt = body.take(32) if flags & SALTED and state == 0 else b""
    vector = body.take(vector_size) if vector_size and state == 0 else None
    content = body.take(content_size) if content_size and state == 0 else None
    body.need(body.at - start <= MOST_OPERATION, f"{where}: more than 16 MiB")
    where = f"{body.what}, {where}: commitment to the"
    if vector is not None or kind not in WRITES:
        found = ZERO if vector is None else commitment(vector, salt)
        same(f"{where} vector of {record_id!r}", of_vector, found)
    if content is not None or FLAGS[kind] == (0,):
        found = ZERO if content is None else commitment(content, salt)
        same(f"{where} content of {record_id!r}", of_content, found)
    return Operation(
        kind, flags, collection, record_id, vector_size, of_vector, of_content, leaf, vector, content, state
    )


class Frame(NamedTuple):
    """Frame: a good one, a commit with its operations, or a seal (operations None)."""

    seq: int
    durable_seq: int
    operations: list[Operation] | None
    state_root: bytes
    link: bytes
    closing: bytes
    end: int


def frame_header(data: bytes, at: int, seed: int) -> tuple[int, ...] | None:
    """Frame: kind, flags, version, length, seq, durable_seq of a header with the right magic and CRC, or None."""
    head = data[at : at + 32]
    if len(head) < 32 or head[:4] != b"DMF1" or zlib.crc32(head[:28], seed) != int.from_bytes(head[28:], "little"):
        return None
    return struct.unpack("<BBHIQQ", head[4:28])


def read_frame(data: bytes, at: int, seed: int, first_seq: int, seq: int, link: bytes, log: LogTree) -> Frame:
    """Frame: the good one at an offset, behind commit ``seq`` with ``link`` and the ``log`` so far."""
    header = frame_header(data, at, seed)
    if header is None:
        raise Refused("magic or CRC of a frame's header")
    kind, flags, version, length, its_seq, durable = header
    known = kind in (1, 2) and flags == 0 and version == VERSION and length <= MOST_BODY
    need(known, f"a frame of kind {kind}, flags {flags}, version {version}, length {length}")
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
    head = struct.pack("<BBHQI", kind, flags, version, its_seq, len(leaves))  # commitments.md, Link
    same("link", stored, sha256(b"\x11", link, head, *leaves, closing))
    return Frame(its_seq, durable, operations, state_root, stored, closing, end)


class Record(NamedTuple):
    """A live record: its two commitments, and the seq that wrote it as it is."""

    of_vector: bytes
    of_content: bytes
    born: int


class Contents:
    """What a state is: all that a snapshot holds (What history remembers; snapshot.md, Stream)."""

    def __init__(self) -> None:
        self.definitions: dict[str, Definition] = {}
        self.records: dict[str, dict[str, Record]] = {}
        self.links: dict[Edge, int] = {}
        self.requests: dict[str, tuple[int, bytes, bytes]] = {}  # seq, digest, state root; the oldest first
        self.erased: dict[tuple[str, str], int] = {}


class Memory(Contents):
    """state = fold(apply, log): what each operation does, and when it is legal."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: dict[tuple[str, str], set[Edge]] = {}
        self.tree = StateTree()
        # Erasure, Archive: what has been seen of payloads, of every version of a record
        self.missing: set[tuple[str, str]] = set()  # gone, and no erasure says why yet
        self.there: dict[tuple[str, str], int] = {}
        self.remaining = 0  # there, though an erasure names them
        self.archived = 0  # kept elsewhere: only their commitments were seen
        self.last_archived = 0  # the seq of the last of these

    def apply(self, frame: Frame) -> None:
        """One commit: its operations in order, its requests, its state root (When an operation is legal)."""
        operations, seq = frame.operations or [], frame.seq
        asked: dict[str, bytes] = {}
        for at, one in enumerate(operations, 1):
            if one.type != REQUEST:
                self.step(one, seq)
                continue
            what = f"seq {seq}, request {one.id!r}"
            count = decode(one.content or b"", what, 9)
            need(type(count) is int and count >= 1, f"{what}: no count")
            need(one.collection in self.records, f"{what}: no such collection")
            need(one.id not in self.requests and one.id not in asked, f"{what}: it was used before")
            behind = operations[at : at + count]
            writes = all(x.type in (ADD, UPSERT) and x.collection == one.collection for x in behind)
            need(len(behind) == count and writes, f"{what}: it does not stand before {count} writes")
            asked[one.id] = sha256(b"\x1c", *(x.leaf for x in behind))
        same(f"state root after seq {seq}", frame.state_root, self.tree.root())
        for request_id, digest in asked.items():
            self.requests[request_id] = (seq, digest, frame.state_root)
        for old in list(self.requests)[: max(0, len(self.requests) - 65536)]:
            del self.requests[old]

    def step(self, one: Operation, seq: int) -> None:
        """One operation (When an operation is legal)."""
        name, record_id, content = one.collection, one.id, one.content or b""
        what = f"seq {seq}, operation {one.type} on {record_id!r} in {name!r}"
        standing = self.records.get(name, {}).get(record_id)
        if one.type == CREATE:
            need(name not in self.records, f"{what}: it exists")
            self.definitions[name], self.records[name] = read_definition(content), {}
            self.tree.put(state_key(name), collection_leaf(name, one.of_content))
        elif one.type == RECORD:
            value = decode(content, what, 64 + 65536)
            need(isinstance(value, list) and len(value) == 2, f"{what}: not [hash, note]")
            digest, note = value
            need(isinstance(digest, bytes) and len(digest) == 32, f"{what}: no hash of 32 bytes")
            need(note is None or (isinstance(note, str) and len(note.encode()) <= 65536), f"{what}: the note")
        elif one.type == ERASE:
            if standing:
                self.delete(name, record_id)
            self.erased[name, record_id] = seq
            self.missing.discard((name, record_id))
            self.remaining += self.there.pop((name, record_id), 0)
        else:
            need(name in self.records, f"{what}: no such collection")
            if one.type == DROP:
                for each in list(self.records[name]):
                    self.delete(name, each)
                del self.records[name], self.definitions[name]
                self.tree.put(state_key(name), None)
                return
            need(one.type == UPSERT or bool(standing) == (one.type != ADD), f"{what}: it exists, or does not")
            if one.type == DELETE:
                self.delete(name, record_id)
            elif one.type in (LINK, UNLINK):
                edge = read_link(name, record_id, content, what)
                need((edge in self.links) == (one.type == UNLINK), f"{what}: the link is there already, or not there")
                need(edge[4] in self.records.get(edge[3], {}), f"{what}: no record {edge[4]!r} in {edge[3]!r}")
                self.connect(edge, seq if one.type == LINK else None)
            else:
                self.write(one, seq, standing, what)

    def write(self, one: Operation, seq: int, standing: Record | None, what: str) -> None:
        """An add, upsert or update; its payload may be gone (When an operation is legal; Erasure; Archive)."""
        node, definition = (one.collection, one.id), self.definitions[one.collection]
        need(bool(one.flags & SALTED) == definition.erasable, f"{what}: salted exactly where erasable")
        if one.flags & HAS_VECTOR:
            same(f"{what}: bytes of the vector", 4 * definition.dim, one.vector_size)
        else:
            same(f"{what}: standing commitment to the vector", standing and standing.of_vector, one.of_vector)
        if not one.flags & HAS_CONTENT:
            same(f"{what}: standing commitment to the content", standing and standing.of_content, one.of_content)
        if one.state == 2:
            self.archived, self.last_archived = self.archived + 1, seq
        elif one.state == 1:
            self.missing.add(node)
        else:
            self.there[node] = self.there.get(node, 0) + 1
        if one.vector is not None:
            read_vector(one.vector, definition.dim)
        if one.content is not None:
            read_content(one.content)
        self.records[one.collection][one.id] = Record(one.of_vector, one.of_content, seq)
        self.tree.put(state_key(*node), record_leaf(*node, one.of_vector, one.of_content))

    def delete(self, name: str, record_id: str) -> None:
        """A record and its links (When an operation is legal)."""
        del self.records[name][record_id]
        self.tree.put(state_key(name, record_id), None)
        for edge in list(self.ends.get((name, record_id), ())):
            self.connect(edge, None)

    def connect(self, edge: Edge, born: int | None) -> None:
        """A link and its entry in the state tree; ``born`` None takes it away (commitments.md, State tree)."""
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


def read_link(name: str, record_id: str, content: bytes, what: str) -> Edge:
    """Operation: the content of a link or an unlink."""
    value = decode(content, what, 16 + 2 * 128 + 512)
    need(isinstance(value, list) and len(value) == 3, f"{what}: no link")
    need(all(isinstance(x, str) for x in value), f"{what}: names that are no texts")
    need(all(1 <= len(x.encode()) <= most for x, most in zip(value, (128, 128, 512))), f"{what}: size of a name")
    return name, record_id, value[0], value[1], value[2]


class Head(NamedTuple):
    """HEAD, one slot of it."""

    generation: int
    store_id: bytes
    durable_seq: int
    segment: int
    durable_offset: int
    link: bytes
    snapshot_seq: int
    snapshot_digest: bytes


def read_head_slot(data: bytes) -> Head | None:
    """HEAD: a good slot, or None."""
    if data[:8] != b"DETMEMHD" or len(data) < 140 or zlib.crc32(data[:136]) != int.from_bytes(data[136:], "little"):
        return None
    version, flags, zero, *fields = struct.unpack("<HHIQ16sQQQ32sQ32s", data[8:136])
    same("HEAD: version", VERSION, version)
    return Head(*fields) if flags in (0, 1) and zero == 0 and fields[0] < 1 << 63 else None


def read_segment_header(data: bytes, number: int) -> tuple[Any, ...] | None:
    """Segment: store_id, first_seq, log_size, link and log_root; None where the header is short or bad."""
    if data[:8] != b"DETMEMSG" or len(data) < 128 or zlib.crc32(data[:124]) != int.from_bytes(data[124:128], "little"):
        return None
    version, flags, size, *border, zeros = struct.unpack("<HHI16sQQ32s32s12s", data[8:124])
    same("segment: version", VERSION, version)
    return tuple(border) if (flags, size, zeros, border[1]) == (0, 128, bytes(12), number) else None


class Verified(NamedTuple):
    """Where a log ends."""

    checkpoint: Checkpoint
    notes: list[str]  # what is not as a closed store leaves it, though nothing acknowledged is touched


class Log:
    """One pass over the segments of a log, which must pass through a checkpoint, HEAD's link, and every snapshot."""

    def __init__(self, wanted: Checkpoint | None, head: Head | None, snapshots: dict[int, Snapshot]) -> None:
        self.wanted, self.head, self.snapshots = wanted, head, snapshots
        self.memory, self.log, self.seq, self.link = Memory(), LogTree(), 0, FIRST_LINK
        self.met = False  # the wanted checkpoint
        self.durable = 0 if head is None else head.durable_seq  # the highest that anything says was acknowledged
        self.covered = 0  # the last snapshot's seq
        self.sealed = True  # the segment that was read last
        self.ahead = 0  # zeros at its end
        self.place: int | None = None  # where in it the commit ends that HEAD calls durable
        self.named: tuple[int, bool, int | None] = (0, False, 0)  # last seq, seal and place of the one that HEAD names
        self.arrived(0)

    def checkpoint(self) -> Checkpoint:
        """Where it stands (commitments.md, Checkpoint)."""
        return Checkpoint(self.seq, self.log.size, self.log.root(), self.memory.tree.root())

    def arrived(self, end: int) -> None:
        """The commit ``seq`` was applied, which ends at an offset: is it what everybody says of it? (Recovery)"""
        if self.wanted is not None and self.seq == self.wanted.seq:
            same(f"checkpoint at seq {self.seq}", self.wanted, self.checkpoint())
            self.met = True
        if self.head is not None and self.seq == self.head.durable_seq:
            same(f"HEAD: link at seq {self.seq}", self.head.link, self.link)
            self.place = end
        if self.seq in self.snapshots:
            self.snapshots.pop(self.seq).compare(self)
            self.covered = self.seq

    def segment(self, name: str, data: bytes, header: Any, store_id: bytes, last: bool) -> str | None:
        """Segment, Recovery: read one.  Returns where and why the last has a bad frame, None when all are good."""
        first = self.seq + 1
        need(header, f"{name}: its header is short or bad")
        same(f"{name}: border in the header", (store_id, first, self.log.size, self.link, self.log.root()), header)
        seed, at, self.sealed = zlib.crc32(store_id + u64(first)), 128, False
        self.place = at if self.head is not None and self.seq == self.head.durable_seq else None
        torn = None
        while at < len(data) and not self.sealed:
            if last and self.head and not any(data[at : at + 32]) and data.count(0, at) == len(data) - at:
                self.ahead = len(data) - at
                break
            try:
                frame = read_frame(data, at, seed, first, self.seq, self.link, self.log)
                need(frame.operations or frame.end == len(data), "bytes behind a seal")
            except Refused as bad:
                need(last, f"{name}, offset {at}, seq {self.seq + 1}: {bad}")
                behind = data.find(b"DMF1", at)
                while behind >= 0:  # any header behind it says what had been acknowledged when it was written
                    found = frame_header(data, behind, seed)
                    self.durable = max(self.durable, found[5] if found else 0)
                    behind = data.find(b"DMF1", behind + 1)
                torn = f"{name}, offset {at}: {bad}"
                break
            self.sealed, start, at = frame.operations is None, at, frame.end
            self.durable = max(self.durable, frame.durable_seq)
            if not self.sealed:
                need(self.head or not frame.durable_seq, f"{name}: durable seq {frame.durable_seq} in an exported log")
                try:
                    self.memory.apply(frame)
                except Refused as bad:
                    raise Refused(f"{name}, offset {start}: {bad}") from None
                for leaf in [*(one.leaf for one in frame.operations or []), frame.closing]:
                    self.log.append(leaf)
                self.seq, self.link = frame.seq, frame.link
                self.arrived(at)
        need(self.sealed or last, f"{name}: the seal is missing")
        if self.head is not None and first == self.head.segment:
            self.named = self.seq, self.sealed, self.place
        return torn

    def finish(self, notes: list[str]) -> Verified:
        """What can be said only at the end of a log (HEAD, Recovery, Erasure, Archive)."""
        memory, wanted, head = self.memory, self.wanted, self.head
        if head is not None:
            end, sealed, place = self.named
            what = f"HEAD names seq {head.durable_seq}, offset {head.durable_offset} in segment {head.segment}"
            need(max(head.segment, 1) - 1 <= head.durable_seq <= end, f"{what}, which ends with seq {end}")
            need(sealed or place == head.durable_offset, f"{what}, where that seq ends at {place}")
        need(not self.snapshots, f"snapshots of seqs that the log does not have: {sorted(self.snapshots)}")
        need(not memory.missing, f"a payload is erased that no erasure names: {sorted(memory.missing)[:3]}")
        lost = f"payloads up to seq {memory.last_archived} are archived, and no snapshot stands in for them"
        need(memory.last_archived <= self.covered, lost)
        ends = f"the log ends at seq {self.seq}, before the checkpoint's {wanted and wanted.seq}"
        need(wanted is None or self.met, ends)
        if memory.remaining:
            notes.append(f"an erasure is unfinished: {memory.remaining} payloads that it names are still there")
        if memory.archived:
            notes.append(f"{memory.archived} payloads are archived elsewhere: verified by their commitments only")
        return Verified(self.checkpoint(), notes)


def verify_log(path: Path, wanted: Checkpoint | None = None) -> Verified:
    """An exported log: one sealed segment of nobody's store (exchange.md, The exported log)."""
    data, log = path.read_bytes(), Log(wanted, None, {})
    log.segment(path.name, data, read_segment_header(data, 1), bytes(16), len(data) == 128)
    need(log.seq or not log.sealed, "a seal, and no commit before it")
    return log.finish([])


def file_of(path: Path) -> bytes:
    """A file of a store; a link, a FIFO or a folder in its place is refused unread (What hostile bytes may cost)."""
    try:
        regular = stat.S_ISREG(path.lstat().st_mode)
    except OSError as error:
        raise Refused(f"{path.name} is missing, or cannot be looked at: {error}") from None
    need(regular, f"{path.name}: expected a regular file")
    return path.read_bytes()


def numbered(folder: Path, ending: str) -> list[int]:
    """The seqs in the names of a folder's files, ascending (Segment; snapshot.md, File)."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name[:20]) for name in names if re.fullmatch(r"[0-9]{20}\." + ending, name))


def verify_store(path: Path, wanted: Checkpoint | None = None) -> Verified:
    """A whole store: HEAD, every segment and frame, every state root by replaying, every snapshot (Recovery)."""
    head_bytes, notes = file_of(path / "HEAD"), []
    slots = [read_head_slot(head_bytes[at : at + 140]) for at in (0, 4096)]
    heads = [slot for slot in slots if slot is not None]
    need(heads, "HEAD has no readable slot")
    if len(heads) < 2:
        notes.append("a slot of HEAD is unreadable; the other was used")
    if any(head_bytes[140:4096]) or any(head_bytes[4236:]) or len(head_bytes) != 8192:
        notes.append("HEAD is not 8192 bytes, zeros but for its slots")
    head = max(heads, key=lambda one: one.generation)
    segments = numbered(path / "log", "seg")
    snapshots = {seq: read_snapshot(path / "snap" / f"{seq:020d}.snap", seq) for seq in numbered(path / "snap", "snap")}
    if head.snapshot_seq and head.snapshot_seq not in snapshots:
        notes.append(f"HEAD names a snapshot of seq {head.snapshot_seq}, which is absent; the log has it all")
    need(head.segment == 0 or head.segment in segments, f"HEAD names segment {head.segment}, which is absent")
    log, bad = Log(wanted, head, snapshots), None
    for number in segments:
        name, last = f"log/{number:020d}.seg", number == segments[-1]
        data = file_of(path / name)
        header = read_segment_header(data, number)
        if last and number != head.segment and header is None:
            notes.append(f"{name}: a segment that was being made, which HEAD does not name yet")
            break
        bad = log.segment(name, data, header, head.store_id, last)
    lost = f"the log ends at seq {log.seq}, and {log.durable} had been acknowledged"
    need(log.durable <= log.seq, lost if bad is None else f"{bad}; {lost}")
    if bad is not None:
        notes.append(f"{bad}: a torn tail; nothing of it had been acknowledged")
    if log.ahead:
        notes.append(f"{log.ahead} zeros that a writer had written ahead of the log, which was not closed")
    return log.finish(notes)


# ---------------------------------------------------------------------------------------------------------- snapshot.md


class Snapshot(Contents):
    """A snapshot file, read."""

    def __init__(self, name: str, header: tuple[Any, ...], frontier: list[bytes], digest: bytes) -> None:
        super().__init__()
        self.name, self.header, self.frontier, self.digest = name, header, frontier, digest

    def compare(self, now: Log) -> None:
        """Everything in it is what replaying the log up to its seq gives (Reading)."""
        memory, head = now.memory, now.head
        expected = (now.seq, now.log.size, now.link, memory.tree.root(), now.log.root(), now.log.roots)
        same(f"{self.name}: header and frontier", expected, (*self.header, self.frontier))
        for part in vars(Contents()):
            need(getattr(memory, part) == getattr(self, part), f"{self.name}: {part} other than those of the log")
        need(list(memory.requests) == list(self.requests), f"{self.name}: requests in another order")
        if head is not None and head.snapshot_seq == now.seq > 0:
            same(f"{self.name}: digest in HEAD", head.snapshot_digest, self.digest)


def read_snapshot(path: Path, seq: int) -> Snapshot:
    """File: the header, the chunks and the footer, every hash; then the stream that the chunks give."""
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
        need(size <= chunk_size and all(len(part) == chunk_size for part in parts[-1:]), f"{name}: a chunk of {size}")
        stored, chunk = outer.take(32), outer.take(size)
        same(f"{name}: hash of chunk {len(parts)}", stored, sha256(b"\x19", u64(len(parts)), chunk))
        parts.append(chunk)
        hashes.append(stored)
    stream = Reader(b"".join(parts), name)
    same(f"{name}: footer", u64(len(parts)) + u64(len(stream.data)) + sha256(b"\x1a", *hashes), outer.take(48))
    outer.end()
    found = Snapshot(name, (its_seq, *rest), frontier, data[-32:])
    read_stream(stream, collections, found)
    return found


def read_stream(stream: Reader, collections: int, found: Snapshot) -> None:
    """Stream: what the snapshot holds, in order, to the last byte."""

    def text(most: int) -> str:
        return stream.text(stream.number(2), most)

    def in_order(names: list[Any], what: str) -> None:
        keys = [[part.encode() for part in (name if isinstance(name, tuple) else (name,))] for name in names]
        stream.need(all(a < b for a, b in zip(keys, keys[1:])), f"{what} out of order")

    names = []
    for _ in range(collections):
        names.append(text(128))
        definition = found.definitions[names[-1]] = read_definition(stream.take(stream.number(4)))
        count = stream.number(8)
        stream.need(count <= len(stream.data), f"{count} records")
        ids = [text(512) for _ in range(count)]
        in_order(ids, "ids")
        born = [stream.number(8) for _ in ids]
        vectors = [stream.take(4 * definition.dim) for _ in ids]
        contents = [stream.take(stream.number(4)) for _ in ids]
        salts = [(stream.take(32), stream.take(32)) if definition.erasable else (b"", b"") for _ in ids]
        for vector, content in zip(vectors, contents):
            read_vector(vector, definition.dim)
            read_content(content)
        found.records[names[-1]] = {
            record_id: Record(commitment(vector, one), commitment(content, two), when)
            for record_id, vector, content, (one, two), when in zip(ids, vectors, contents, salts, born)
        }
    in_order(names, "collections")
    edges: list[Edge] = []
    for _ in range(stream.number(8)):
        edges.append((text(128), text(512), text(128), text(128), text(512)))
        found.links[edges[-1]] = stream.number(8)
    in_order(edges, "links")
    for _ in range(stream.number(8)):
        request_id = text(512)
        stream.need(request_id not in found.requests, "a request twice")
        found.requests[request_id] = (stream.number(8), stream.take(32), stream.take(32))
    nodes = []
    for _ in range(stream.number(8)):
        nodes.append((text(128), text(512)))
        found.erased[nodes[-1]] = stream.number(8)
    in_order(nodes, "erasures")
    stream.end()


# ----------------------------------------------------------------------------------------- receipts.md: paths and parts


def split(data: Any, what: str) -> list[bytes]:
    """A *hashes* value (Conventions)."""
    need(isinstance(data, bytes) and len(data) % 32 == 0, f"{what}: expected hashes of 32 bytes")
    return [data[at : at + 32] for at in range(0, len(data), 32)]


def check_inclusion(leaf: bytes, index: int, size: int, path: list[bytes], root: bytes) -> None:
    """Log proofs: inclusion."""
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
    """Log proofs: consistency."""
    need(old_size <= new_size, f"consistency: from {old_size} to {new_size} leaves")
    if old_size in (0, new_size):
        need(not path, "consistency: a path between equal sizes, or from the empty log")
        same("consistency: old root", new_root if old_size == new_size else sha256(), old_root)
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


def check_anchor(anchor: Any, state_root: bytes, seq: Any, trusted: Checkpoint) -> None:
    """Anchor: a state root of seq is bound by the trusted checkpoint."""
    need(type(seq) is int and 0 <= seq <= trusted.seq, f"anchor: seq {seq}, the checkpoint is of {trusted.seq}")
    if seq == 0:
        need(anchor is None, "anchor: seq 0 has none")
        same("anchor: state root of seq 0", ZERO, state_root)
        return
    need(isinstance(anchor, list) and len(anchor) == 3, "anchor: not [count, index, path]")
    count, index, path = anchor
    need(type(count) is int and type(index) is int and 1 <= count < 1 << 32, "anchor: count or index")
    leaf = commit_leaf(seq, count, state_root)
    check_inclusion(leaf, index, trusted.log_size, split(path, "anchor"), trusted.log_root)
    if seq == trusted.seq:
        same("anchor: index of the last commit", trusted.log_size - 1, index)
        same("anchor: state root of the checkpoint", trusted.state_root, state_root)


def fields(value: Any, kind: str, names: str) -> list[Any]:
    """Conventions: the values of ``[kind, map]`` whose map has exactly these keys, in their order."""
    need(isinstance(value, list) and len(value) == 2 and value[0] == kind, f"expected a file of kind {kind}")
    need(isinstance(value[1], dict) and list(value[1]) == names.split(), f"{kind}: expected the keys {names}")
    return list(value[1].values())


def check_state_part(part: Any, leaves: dict[bytes, bytes | None], seq: Any, trusted: Checkpoint) -> None:
    """State proofs: under each key stands its leaf, or nothing where that is None."""
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
        wrong = f"expected {leaf and leaf.hex()}, found {found and found.hex()}"
        need(found == leaf, f"state part: under key {key.hex()} {wrong}")


def checkpoint_in(text: Any) -> Checkpoint:
    """Conventions: a checkpoint that stands in a file."""
    need(isinstance(text, str), "a checkpoint that is no text")
    return read_checkpoint(text)


def trust(text: Any, trusted: Checkpoint, via: bytes | None) -> Checkpoint:
    """Conventions: a file's checkpoint is the trusted one, or a consistency proof leads from it to that."""
    its = checkpoint_in(text)
    if its != trusted:
        need(via is not None, f"its checkpoint is of seq {its.seq}, and is not the trusted one of seq {trusted.seq}")
        check_consistency(via or b"", its, trusted)
    return its


def check_consistency(data: bytes, old: Checkpoint, new: Checkpoint) -> None:
    """File: consistency proof.  The log of ``new`` is that of ``old`` and what came behind it."""
    names = "new new_closing old old_closing path"
    new_text, new_closing, old_text, old_closing, path = fields(decode(data, "proof"), "detmem/consistency/v1", names)
    same("consistency: old checkpoint", old, checkpoint_in(old_text))
    same("consistency: new checkpoint", new, checkpoint_in(new_text))
    need(old.seq <= new.seq, "consistency: seqs go backwards")
    for one, closing in ((old, old_closing), (new, new_closing)):
        need(closing is None or (isinstance(closing, list) and len(closing) == 2), "closing: not [count, path]")
        anchor = None if closing is None else [closing[0], one.log_size - 1, closing[1]]
        check_anchor(anchor, one.state_root, one.seq, one)
    check_growth(old.log_size, old.log_root, new.log_size, new.log_root, split(path, "path"))


def check_state_proof(data: bytes, trusted: Checkpoint, via: bytes | None = None) -> dict[tuple[str, str], bool]:
    """File: state proof.  For each (collection, id) that it speaks of, whether it is there at its seq."""
    text, claims, part, seq = fields(decode(data, "proof"), "detmem/state-proof/v1", "checkpoint claims proof seq")
    need(isinstance(claims, list) and claims, "state proof: no claims")
    leaves: dict[bytes, bytes | None] = {}
    said: dict[tuple[str, str], bool] = {}
    last: list[bytes] = []
    for claim in claims:
        need(isinstance(claim, list) and len(claim) == 3, "claim: not [collection, id, opening]")
        name, record_id, opening = claim
        need(isinstance(name, str) and isinstance(record_id, str), "claim: names that are no texts")
        need(1 <= len(name.encode()) <= 128 and len(record_id.encode()) <= 512, "claim: size of a name")
        need(last < [name.encode(), record_id.encode()], "claims out of order")
        last = [name.encode(), record_id.encode()]
        size = 64 if record_id else 32
        need(opening is None or (isinstance(opening, bytes) and len(opening) == size), "claim: opening")
        leaf = None
        if opening is not None and record_id:
            leaf = record_leaf(name, record_id, opening[:32], opening[32:])
        elif opening is not None:
            leaf = collection_leaf(name, opening)
        leaves[state_key(name, record_id)] = leaf
        said[name, record_id] = opening is not None
    check_state_part(part, leaves, seq, trust(text, trusted, via))
    return said


# ----------------------------------------------------------------------------------------------- filters.md, numbers.md

ORDERS = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}
MISSING = object()


def kind_of(value: Any) -> str:
    """What can be compared with one another: a number is no bool (Equality)."""
    return "number" if type(value) in (int, float) else type(value).__name__


def is_scalar(value: Any) -> bool:
    """Grammar: a value that is no list."""
    return kind_of(value) in ("number", "str", "bool", "NoneType")


def is_value(value: Any) -> bool:
    """Grammar: a scalar, or a list of them."""
    return is_scalar(value) or (isinstance(value, list) and all(map(is_scalar, value)))


def equal(stored: Any, value: Any) -> bool:
    """Equality."""
    if isinstance(stored, list) and isinstance(value, list):
        return len(stored) == len(value) and all(equal(a, b) for a, b in zip(stored, value))
    return kind_of(stored) == kind_of(value) and bool(stored == value)


def is_operand(operator: str, operand: Any) -> bool:
    """Operators: what may stand behind each."""
    if operator in ("$eq", "$ne"):
        return is_value(operand)
    if operator in ("$in", "$nin"):
        return isinstance(operand, list) and all(map(is_value, operand))
    if operator == "$contains":
        return is_scalar(operand)
    if operator == "$exists":
        return isinstance(operand, bool)
    return operator in ORDERS and kind_of(operand) in ("number", "str")


def holds(stored: Any, operator: str, operand: Any) -> bool:
    """Operators: one of them on one stored value."""
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


def matches(metadata: dict[str, Any], where: Any, depth: int = 1) -> bool:
    """Grammar, Operators: every clause is looked at, so that a wrong one shows whatever the others say."""
    need(isinstance(where, dict) and depth <= 16, "where: no map, or too deep")
    results = [True]
    for key, part in where.items():
        if key in ("$and", "$or"):
            need(isinstance(part, list) and part, f"where: {key} wants a list")
            inner = [matches(metadata, one, depth + 1) for one in part]
            results.append(all(inner) if key == "$and" else any(inner))
        elif key == "$not":
            results.append(not matches(metadata, part, depth + 1))
        else:
            operators = part if isinstance(part, dict) else {"$eq": part}
            need(operators and not key.startswith("$"), f"where: an unknown operator, or none: {key!r}")
            for name, operand in operators.items():
                need(is_operand(name, operand), f"where: {name} with {operand!r}")
                results.append(holds(metadata.get(key, MISSING), name, operand))
    return all(results)


def clauses(where: dict[str, Any]) -> int:
    """Limits: how many a filter of the grammar has."""
    count = 0
    for key, part in where.items():
        inner = part if key in ("$and", "$or") else [part] if key == "$not" else []
        count += sum(map(clauses, inner)) if inner else len(part) if isinstance(part, dict) else 1
    return max(count, 1)


def check_where(where: Any) -> None:
    """Grammar, Limits: it is a filter, whatever it is asked of."""
    matches({}, where)
    need(clauses(where) <= 1000, "where: more than 1,000 clauses")


def distance(metric: str, row: tuple[int, ...], query: tuple[int, ...]) -> int:
    """numbers.md, Metrics: the raw distance."""
    if metric == "ip":
        return -sum(a * b for a, b in zip(row, query))
    return sum((a - b) ** 2 for a, b in zip(row, query))


def shown_distance(definition: Definition, raw: int) -> float:
    """numbers.md, Metrics: the distance for people."""
    bits = {"Q16.16": 16, "Q8.24": 24, "Q4.28": 28}[definition.format]
    return float(raw) / float(2 ** (2 * bits + (1 if definition.metric == "cosine" else 0)))


# --------------------------------------------------------------------------------------------------- receipts.md: files

RECEIPT_KEYS = (
    "checkpoint collection definition ids k level max_distance proof query result_ids result_leaves result_raws "
    "semantics seq subtrees where"
)
NOT_SHOWN = "the question (query, k, filter, ids, max_distance), the distances, that none is missing"


class Receipt(NamedTuple):
    """Receipt: one that has been read."""

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

    def open(self, record_id: Any, opening: Any) -> tuple[int, bytes, bool]:
        """File: subtree, refutation: raw distance and leaf of a record that is shown in full, and if it may answer."""
        need(isinstance(record_id, str) and 1 <= len(record_id.encode()) <= 512, "a shown record: size of an id")
        need(all(isinstance(part, bytes) for part in opening), "a shown record: its bytes")
        vector, content, one, two = opening
        need(len(one) == len(two) == (32 if self.definition.erasable else 0), "a shown record: size of a salt")
        leaf = record_leaf(self.collection, record_id, commitment(vector, one), commitment(content, two))
        raw = distance(self.definition.metric, read_vector(vector, self.definition.dim), self.query)
        near = self.max_distance is None or shown_distance(self.definition, raw) <= self.max_distance
        chosen = matches(read_content(content)[0], self.where)
        return raw, leaf, chosen and near and (self.ids is None or record_id in self.ids)

    def wants(self, raw: int, record_id: str) -> bool:
        """R3: whether a record that may answer, at this place in the order, belongs to the first k."""
        if len(self.results) < self.k:
            return True
        name, (last, _) = list(self.results.items())[-1]
        return (raw, record_id.encode()) < (last, name.encode())


def texts(value: Any, what: str) -> list[str]:
    """Receipt: an array of ids."""
    need(isinstance(value, list) and all(isinstance(one, str) for one in value), f"{what}: expected texts")
    need(all(1 <= len(one.encode()) <= 512 for one in value), f"{what}: size of an id")
    return list(value)


def read_receipt(data: bytes) -> Receipt:
    """Receipt, R0: the file is one that the page describes, and whole."""
    need(32 < len(data) <= MOST_FILE, f"receipt: {len(data)} bytes")
    body, digest = data[:-32], data[-32:]
    same("receipt: digest", digest, sha256(b"\x20", body))
    values = fields(decode(body, "receipt"), "detmem/receipt/v1", RECEIPT_KEYS)
    checkpoint, collection, definition_bytes, ids, k, level, max_distance, proof, *values = values
    query, result_ids, result_leaves, result_raws, semantics, seq, subtrees, where = values
    need(isinstance(collection, str) and 1 <= len(collection.encode()) <= 128, "receipt: name of the collection")
    need(all(isinstance(part, bytes) for part in (definition_bytes, query, result_raws)), "receipt: bytes")
    definition = read_definition(definition_bytes)
    same("receipt: semantics", f"detmem/search/v1 {definition.metric} {definition.format} raw,id", semantics)
    if ids is not None:
        allowed = [one.encode() for one in texts(ids, "ids")]
        need(all(a < b for a, b in zip(allowed, allowed[1:])), "receipt: ids out of order")
        ids = set(ids)
    need(type(k) is int and k >= 1 and type(seq) is int and seq >= 1, "receipt: k or seq")
    need(seq <= checkpoint_in(checkpoint).seq, "receipt: made before its seq")
    need(level in ("R0", "R1", "R2", "R3"), f"receipt: level {level!r}")
    need(max_distance is None or isinstance(max_distance, float), "receipt: max_distance")
    need((proof is None) == (level == "R0"), "receipt: R0 has no proof, every other has one")
    need((subtrees is None) == (level != "R3"), "receipt: R3 has subtrees, no other has")
    lists = None if subtrees is None else split(subtrees, "subtrees")
    need(lists is None or len(lists) == 256, "receipt: expected 256 subtrees")
    names, leaves = texts(result_ids, "result_ids"), split(result_leaves, "result_leaves")
    fit = len(names) <= k and len(names) == len(leaves) and len(result_raws) == 8 * len(names)
    need(fit, "receipt: sizes of the results")
    raws = struct.unpack(f"<{len(names)}q", result_raws)
    order = [(raw, name.encode()) for raw, name in zip(raws, names)]
    need(all(a < b for a, b in zip(order, order[1:])), "receipt: results out of order")
    need(len(set(names)) == len(names), "receipt: a result twice")
    need(where is None or isinstance(where, bytes), "receipt: where")
    chosen = {} if where is None else decode(where, "where")
    need(where is None or chosen != {}, "receipt: an empty filter")
    check_where(chosen)
    vector, results = read_vector(query, definition.dim), dict(zip(names, zip(raws, leaves)))
    asked = (checkpoint, collection, commitment(definition_bytes), definition, ids, k, level, max_distance)
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
    """R3, File: subtree.  In this one of 256 nothing is missing from the answer.  Returns its number."""
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
        need(isinstance(record, list) and len(record) == 5, "subtree: a record")
        record_id, *opening = record
        raw, leaf, may_answer = receipt.open(record_id, opening)
        need(last < record_id.encode(), "subtree: records out of order")
        last, key = record_id.encode(), state_key(collection, record_id)
        need(key not in entries, "subtree: an entry twice")
        entries[key] = leaf
        if may_answer:
            found.append((raw, record_id.encode(), record_id, leaf))
    need(all(key[0] == number for key in entries), "subtree: an entry of another one")
    buckets: list[list[bytes]] = [[] for _ in range(256)]
    for key in sorted(entries):
        buckets[key[1]].append(key + entries[key])
    level = [bucket_hash(b"".join(bucket)) for bucket in buckets]
    while len(level) > 1:
        level = [state_node(left, right) for left, right in zip(level[::2], level[1::2])]
    root, place, beside = level[0], number, split(siblings, "siblings")
    same("subtree: siblings", 8, len(beside))
    for other in beside:
        root, place = state_node(other, root) if place & 1 else state_node(root, other), place >> 1
    check_anchor(anchor, root, seq, trust(text, trusted, via))
    first = sorted(found)[: receipt.k]
    body = b"".join(struct.pack("<q", raw) + lp(name) + leaf for raw, _, name, leaf in first)
    if receipt.subtrees is not None:
        local = sha256(b"\x21", bytes([number]), u32(len(first)), body)
        same(f"subtree {number}: local list", receipt.subtrees[number], local)
    listed = {name: (raw, leaf) for raw, _, name, leaf in first}
    for name, pair in receipt.results.items():
        here = state_key(collection, name)[0] == number
        need(not here or listed.get(name) == pair, f"subtree {number}: the result {name!r} is not what stands there")
    for name, (raw, _) in listed.items():
        left_out = name not in receipt.results and receipt.wants(raw, name)
        need(not left_out, f"subtree {number}: the answer has left out {name!r}")
    return int(number)


def check_refutation(data: bytes, receipt: Receipt, trusted: Checkpoint, via: bytes | None = None) -> str:
    """File: refutation.  The receipt, which has passed R1, is false: the record that it should have named."""
    need(receipt.level != "R0", "a receipt of level R0 has no proof")
    names = "checkpoint content content_salt id proof receipt seq vector vector_salt"
    text, content, two, record_id, part, of_receipt, seq, vector, one = fields(
        decode(data, "refutation"), "detmem/refutation/v1", names
    )
    same("refutation: of the receipt", receipt.sha256, of_receipt)
    same("refutation: seq", receipt.seq, seq)
    raw, leaf, may_answer = receipt.open(record_id, (vector, content, one, two))
    check_state_part(part, {state_key(receipt.collection, record_id): leaf}, seq, trust(text, trusted, via))
    need(may_answer, "refutation: the record may not answer")
    named = receipt.results.get(record_id)
    need(named is None or named[0] != raw, "refutation: the receipt names the record")
    behind = named is None and not receipt.wants(raw, record_id)
    need(not behind, "refutation: the record comes behind the answer")
    return str(record_id)


# ------------------------------------------------------------------------- receipts.md, Signed checkpoint; RFC 8032 5.1

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT = pow(2, (P - 1) // 4, P)
Point = tuple[int, int, int, int]  # extended coordinates X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z


def point_add(p: Point, q: Point) -> Point:
    """RFC 8032, 5.1.4."""
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def point_times(scalar: int, p: Point) -> Point:
    """RFC 8032, 5.1.4: by doubling and adding."""
    total: Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            total = point_add(total, p)
        p, scalar = point_add(p, p), scalar >> 1
    return total


def point_from(data: bytes) -> Point:
    """RFC 8032, 5.1.3."""
    y, sign = int.from_bytes(data, "little") & (1 << 255) - 1, data[31] >> 7
    need(y < P, "signature: a point above the field")
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if x * x % P == square else x * ROOT % P
    need(x * x % P == square and not (x == 0 and sign), "signature: no point of the curve")
    x = x if x & 1 == sign else P - x
    return x, y, 1, x * y % P


def check_signature(public: bytes, message: bytes, signature: bytes) -> None:
    """RFC 8032, 5.1.7."""
    same("signature: bytes", (32, 64), (len(public), len(signature)))
    s = int.from_bytes(signature[32:], "little")
    need(s < ORDER, "signature: s is not below the order")
    challenge = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % ORDER
    left = point_times(s, point_from(bytes([0x58] + [0x66] * 31)))
    right = point_add(point_from(signature[:32]), point_times(challenge, point_from(public)))
    good = (left[0] * right[2] - right[0] * left[2]) % P == 0 and (left[1] * right[2] - right[1] * left[2]) % P == 0
    need(good, "signature: it does not verify")


def unbase64(text: str) -> bytes:
    """Padded and canonical base64."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise Refused(f"not base64: {text[:80]!r}") from None
    same("base64", base64.b64encode(data).decode(), text)
    return data


def check_note(text: str, verifier_key: str) -> Checkpoint:
    """The signature of this key (NAME+HASH+BASE64) is there and right, under a checkpoint of its name."""
    found = re.fullmatch(r"([^\s+\x00-\x1f]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)", verifier_key.strip())
    if found is None:
        raise Refused("expected a verifier key, NAME+HASH+BASE64")
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
        if parts is None:
            raise Refused(f"note: not a signature line: {line[:80]!r}")
        signature = unbase64(parts[2])
        need(len(signature) > 4, "note: a short signature")
        if (parts[1], signature[:4]) == (name, key_hash):
            check_signature(key[1:], (body + "\n").encode(), signature[4:])
            good += 1
    need(good == 1, f"note: {good} signatures of {name}")
    return read_checkpoint(body + "\n", name)


# ----------------------------------------------------------------------------------------------------- the command line


def read_text(path: str) -> str:
    """A file that is UTF-8."""
    return Path(path).read_bytes().decode("utf-8")


def printed(path: str) -> str:
    """The text of a checkpoint in a file: print() leaves an empty line behind it."""
    return read_text(path).rstrip("\n") + "\n"


def plain(line: str) -> str:
    """For any terminal."""
    return line.encode("ascii", "backslashreplace").decode()


def answer(asked: argparse.Namespace) -> Iterator[str]:
    """Check, then say what was shown."""
    trusted = None
    if asked.what == "note":
        need(asked.key is not None, "--key is needed: the verifier key, NAME+HASH+BASE64")
        yield "ok, signed:\n" + check_note(read_text(asked.file), asked.key).text().rstrip("\n")
        return
    if asked.checkpoint is not None:
        text = printed(asked.checkpoint)
        trusted = read_checkpoint(text) if asked.key is None else check_note(text, asked.key)
    path = Path(asked.file)
    if asked.what in ("store", "log"):
        reached, notes = verify_store(path, trusted) if asked.what == "store" else verify_log(path, trusted)
        yield from (f"note: {note}" for note in notes)
        yield f"ok {f'1..{reached.seq}' if reached.seq else 'empty'} state {reached.state_root.hex()}"
        yield reached.text().rstrip("\n")
        return
    if trusted is None:
        raise Refused("--checkpoint is needed: what you trust")
    data, via = path.read_bytes(), None if asked.via is None else Path(asked.via).read_bytes()
    if asked.what == "consistency":
        need(asked.old is not None, "--old is needed: the older checkpoint")
        check_consistency(data, read_checkpoint(printed(asked.old)), trusted)
        yield "ok, the newer log begins with the older one"
    elif asked.what == "state-proof":
        for (collection, record_id), there in check_state_proof(data, trusted, via).items():
            yield f"ok {'present' if there else 'absent'} {collection!a} {record_id!a}"
    elif asked.what == "receipt":
        receipt = check_receipt(data, trusted, via)
        shows = f"were live records at that seq; not shown: {NOT_SHOWN}"
        if receipt.level == "R0":
            shows = "was said; nothing of the memory is shown"
        yield f"ok seq {receipt.seq}: {len(receipt.results)} results {shows}; sha256 {receipt.sha256.hex()}"
    else:
        need(asked.of is not None, "--of is needed: the receipt")
        of = check_receipt(Path(asked.of).read_bytes(), trusted, via)
        if asked.what == "subtree":
            yield f"ok, nothing is missing from subtree {check_subtree(data, of, trusted, via)}"
        else:
            yield f"ok, the receipt is false: it should have named {check_refutation(data, of, trusted, via)!a}"


def main(words: list[str] | None = None) -> int:
    """Returns the exit code."""
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
