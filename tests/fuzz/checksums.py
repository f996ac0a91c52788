"""Right checksums around wrong contents: without them a fuzzer never gets past the first CRC.

Each function takes bytes that a fuzzer has changed and mends what a hostile writer would have got right: CRCs, digests,
commitments and links.  Bytes that are too broken to be mended stay as they are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import NamedTuple
from zlib import crc32

from detmem.machine import commands
from detmem.machine.commitment import LINK_ZERO, commit, commit_leaf, link, operation_leaf
from detmem.machine.stage import COMMIT_KIND, VERSION
from tests.fuzz.targets import STORE_ID

__all__ = ["MENDED"]

_SEED = crc32(STORE_ID + (1).to_bytes(8, "little"))
_OPERATION_BYTES = 80


class _Operation(NamedTuple):
    """Where one lies: its header, the state byte behind that, and its parts; a payload that is gone has none."""

    at: int
    state: int
    salt: slice
    vector: slice
    content: slice
    flags: int

    @classmethod
    def each(cls, body: bytes | bytearray) -> Iterator[_Operation]:
        """Every one that fits."""
        at = 0
        while at + _OPERATION_BYTES <= len(body):
            _, flags, name, id, _, vector, content = struct.unpack_from("<BBHHHII", body, at)
            state = at + _OPERATION_BYTES + name + id
            if state >= len(body):
                return
            if body[state : state + 1] != commands.PRESENT:
                vector = content = flags = 0
            start = state + 1
            salted = start + commands.SALT_BYTES * bool(flags & commands.SALTED)
            end = salted + vector + content
            if end > len(body):
                return
            parts = slice(start, salted), slice(salted, salted + vector), slice(salted + vector, end)
            yield cls(at, state, *parts, flags)
            at = end


def _operations(data: bytes) -> bytes:
    """Commitments of every operation that fits."""
    body = bytearray(data)
    for one in _Operation.each(body):
        for flag, where, part in ((commands.HAS_VECTOR, 16, one.vector), (commands.HAS_CONTENT, 48, one.content)):
            if one.flags & flag:
                at = one.at + where
                body[at : at + 32] = commit(bytes(body[part]), bytes(body[one.salt]))
    return bytes(body)


def _leaves(body: bytes) -> list[bytes]:
    return [operation_leaf(body[one.at : one.state]) for one in _Operation.each(body)]


def _frames(data: bytes) -> bytes:
    """Header CRCs, commitments and links of every frame that fits, and the digest of a seal."""
    out = bytearray(data)
    at, before = 0, LINK_ZERO
    while at + 32 <= len(out):
        kind, length = out[at + 4], struct.unpack_from("<I", out, at + 8)[0]
        out[at + 28 : at + 32] = struct.pack("<I", crc32(bytes(out[at : at + 28]), _SEED))
        body, end = at + 32, at + 32 + length
        if kind == 2 and end + 32 <= len(out):
            out[end : end + 32] = sha256(b"\x18" + (1).to_bytes(8, "little") + bytes(out[body:end])).digest()
            at = end + 32
            continue
        if end + 64 > len(out):
            break
        out[body:end] = _operations(bytes(out[body:end]))
        leaves = _leaves(bytes(out[body:end]))
        seq = struct.unpack_from("<Q", out, at + 12)[0]
        closing = commit_leaf(seq, len(leaves), bytes(out[end : end + 32]))
        before = link(before, COMMIT_KIND, 0, VERSION, seq, b"".join(leaves), closing)
        out[end + 32 : end + 64] = before
        at = end + 64
    return bytes(out)


def _snapshot(data: bytes) -> bytes:
    """The header's hash, the chunks' and the footer's."""
    out = bytearray(data)
    if len(out) < 136:
        return data
    subtrees = struct.unpack_from("<I", out, 128)[0]
    end = 136 + 32 * subtrees
    if subtrees > 64 or end + 32 > len(out):
        return data
    header = sha256(bytes(out[:end])).digest()
    out[end : end + 32] = header
    hashes = sha256(b"\x1a" + header)
    at, count, total = end + 32, 0, 0
    while at + 36 <= len(out):
        size = struct.unpack_from("<I", out, at)[0]
        if size == 0 or at + 36 + size > len(out):
            break
        digest = sha256(b"\x19" + count.to_bytes(8, "little") + bytes(out[at + 36 : at + 36 + size])).digest()
        out[at + 4 : at + 36] = digest
        hashes.update(digest)
        at, count, total = at + 36 + size, count + 1, total + size
    out[at : at + 52] = struct.pack("<IQQ32s", 0, count, total, hashes.digest())
    return bytes(out)


def _head(data: bytes) -> bytes:
    """The CRC of a slot, and of a segment's header, whichever the length says."""
    out = bytearray(data)
    if data.startswith(b"DETMEMHD") and len(out) >= 140:
        out[136:140] = struct.pack("<I", crc32(bytes(out[:136])))
    elif len(out) >= 128:
        out[124:128] = struct.pack("<I", crc32(bytes(out[:124])))
    return bytes(out)


def _proofs(data: bytes) -> bytes:
    """The digest of a receipt."""
    if b"detmem/receipt/v1" not in data[:32]:
        return data
    return data[:-32] + sha256(b"\x20" + data[:-32]).digest()


MENDED: dict[str, Callable[[bytes], bytes]] = {
    "encoding": lambda data: data,
    "operations": _operations,
    "frame": _frames,
    "snapshot": _snapshot,
    "head": _head,
    "proofs": _proofs,
}
