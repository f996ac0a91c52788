"""Snapshots: the state at one seq, as bytes that are a pure function of the log (spec/snapshot.md).

Written and read chunk by chunk.  ``load`` takes nothing on trust: the state it returns has been hashed anew and has
the root that the header claims.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from struct import Struct
from typing import TypeVar

import numpy as np

from detmem.errors import DetmemError, FormatError, SnapshotDamaged, StorageError
from detmem.journal.disk import File
from detmem.machine import contents, encoding, fixed
from detmem.machine.commands import SALT_BYTES, Definition, Link
from detmem.machine.commitment import LogTree, commit, prefixed
from detmem.machine.records import Records
from detmem.machine.stage import VERSION, Request
from detmem.machine.state import MAX_REQUESTS, State
from detmem.machine.vectors import Vectors

__all__ = ["load", "read_digest", "write"]

_MAGIC = b"DETMEMSN"
_HEADER = Struct("<8sHHIQQ32s32s32sII")
_FOOTER = Struct("<IQQ32s")
_CHUNK_BYTES = 1 << 20
_CHUNK_HEAD_BYTES = 4 + 32
_ROWS_AT_ONCE_BYTES = 1 << 20
_MAX_SEQ = 2**63 - 1


Item = TypeVar("Item")


@dataclass(slots=True)
class _Header:
    seq: int
    log: LogTree
    link: bytes
    state_root: bytes
    collection_count: int
    digest: bytes


def write(state: State, file: File) -> bytes:
    """Write ``state`` to an empty file; returns the digest that binds every byte of it."""
    assert not any(records.erased for records in state.collections.values()), "a moment before an erasure"
    frontier = state.log.frontier
    roots = (state.link, state.root, state.log.root)
    sizes = (_CHUNK_BYTES, state.seq, state.log.size)
    head = _HEADER.pack(_MAGIC, VERSION, 0, *sizes, *roots, len(frontier), len(state.collections))
    head += b"".join(frontier)
    header_hash = sha256(head).digest()
    file.pwrite(head + header_hash, 0)
    at, count, total = len(head) + 32, 0, 0
    hashes = sha256(b"\x1a" + header_hash)
    for chunk in _chunks(_stream(state)):
        digest = _chunk_hash(count, chunk)
        hashes.update(digest)
        file.pwrite(len(chunk).to_bytes(4, "little") + digest + chunk, at)
        at, count, total = at + _CHUNK_HEAD_BYTES + len(chunk), count + 1, total + len(chunk)
    file.pwrite(_FOOTER.pack(0, count, total, hashes.digest()), at)
    return hashes.digest()


def read_digest(file: File, name: str) -> tuple[int, bytes, bytes]:
    """(seq, link, digest) after checking every hash of the file, without building a state; ``SnapshotDamaged``."""
    reader = _Reader(file, name)
    for _ in reader.chunks():
        pass
    return reader.header.seq, reader.header.link, reader.digest


def load(file: File, name: str) -> tuple[State, bytes]:
    """The state and the file's digest; ``SnapshotDamaged`` when one byte, one bound or one root is not right."""
    reader = _Reader(file, name)
    try:
        collections = list(_read_collections(reader))
        history = _read_links(reader), _read_requests(reader), _read_erasures(reader)
        reader.finish()
        header = reader.header
        state = State.restored(header.seq, header.link, header.log, _handed_over(collections), *history)
    except (SnapshotDamaged, StorageError):  # a disk that cannot be read says nothing about what was written
        raise
    except DetmemError as error:
        raise reader.damaged(str(error)) from None
    if state.root != header.state_root:
        raise reader.damaged(f"expected state root {header.state_root.hex()}, found {state.root.hex()}")
    return state, reader.digest


def _handed_over(items: list[Item]) -> Iterator[Item]:
    """The items, in order, which the list lets go of: their memory is their receiver's to free."""
    items.reverse()
    while items:
        yield items.pop()


def _stream(state: State) -> Iterator[bytes]:
    for name in state.names():
        records = state.collections[name]
        view = records.view(state.seq)
        definition = records.definition.encode()
        slots = view.in_id_order
        yield records.prefix + len(definition).to_bytes(4, "little") + definition + len(slots).to_bytes(8, "little")
        for slot in slots:
            yield prefixed(view.ids[slot].encode())
        order = np.array(slots, dtype=np.int64)
        yield records.born[order].astype("<u8").tobytes()
        step = max(1, _ROWS_AT_ONCE_BYTES // (4 * records.definition.dim))
        for start in range(0, len(order), step):
            yield view.rows.take(order[start : start + step]).astype("<i4", copy=False).tobytes()
        for slot in slots:
            content = encoding.encode_content(view.metadatas[slot], view.documents[slot])
            yield len(content).to_bytes(4, "little") + content
        if records.definition.erasable:
            yield from (records.salts[slot] for slot in slots)
    yield len(state.links).to_bytes(8, "little")
    for link, born in sorted(state.links.items()):
        yield b"".join([prefixed(text.encode()) for text in link]) + born.to_bytes(8, "little")
    yield len(state.requests).to_bytes(8, "little")
    for id, request in state.requests.items():
        yield prefixed(id.encode()) + request.seq.to_bytes(8, "little") + request.digest + request.state_root
    yield len(state.erased).to_bytes(8, "little")
    for (name, id), seq in sorted(state.erased.items()):
        yield prefixed(name.encode()) + prefixed(id.encode()) + seq.to_bytes(8, "little")


def _chunks(parts: Iterable[bytes]) -> Iterator[bytes]:
    pending = bytearray()
    for part in parts:
        pending += part
        whole = len(pending) - len(pending) % _CHUNK_BYTES
        for start in range(0, whole, _CHUNK_BYTES):
            yield bytes(pending[start : start + _CHUNK_BYTES])
        del pending[:whole]
    if pending:
        yield bytes(pending)


def _chunk_hash(index: int, chunk: bytes) -> bytes:
    return sha256(b"\x19" + index.to_bytes(8, "little") + chunk).digest()


class _Reader:
    """A snapshot as one stream of verified bytes."""

    def __init__(self, file: File, name: str) -> None:
        self._file = file
        self._name = name
        self._size = file.size()
        self._offset = 0
        self._pending = bytearray()
        self._taken = 0
        self.header = self._read_header()
        self._hashes = sha256(b"\x1a" + self.header.digest)
        self.digest = b""
        self._source = self.chunks()

    def damaged(self, reason: str) -> SnapshotDamaged:
        return SnapshotDamaged(f"snapshot {self._name}, offset {self._offset}: {reason}")

    def chunks(self) -> Iterator[bytes]:
        """Each chunk, its hash checked; at the end the footer."""
        count = total = 0
        size = _CHUNK_BYTES
        while True:
            head = self._pread(_CHUNK_HEAD_BYTES)
            before, size = size, int.from_bytes(head[:4], "little")
            if size == 0:
                break
            if size > _CHUNK_BYTES or before != _CHUNK_BYTES:
                raise self.damaged(f"a chunk of {size} bytes behind one of {before}")
            chunk = self._pread(size, _CHUNK_HEAD_BYTES)
            if _chunk_hash(count, chunk) != head[4:]:
                raise self.damaged(f"the hash of chunk {count} is wrong")
            self._hashes.update(head[4:])
            self._offset += len(head) + size
            count, total = count + 1, total + size
            yield chunk
        self.digest = self._hashes.digest()
        if self._pread(_FOOTER.size) != _FOOTER.pack(0, count, total, self.digest):
            raise self.damaged("the footer does not match the chunks before it")
        if self._offset + _FOOTER.size != self._size:
            raise self.damaged(
                f"expected the end of the file, found {self._size - self._offset - _FOOTER.size} more bytes"
            )

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes of the stream."""
        while len(self._pending) - self._taken < size:
            chunk = next(self._source, None)
            if chunk is None:
                raise self.damaged(f"expected {size} more bytes of stream")
            del self._pending[: self._taken]
            self._taken = 0
            self._pending += chunk
        start, self._taken = self._taken, self._taken + size
        return bytes(memoryview(self._pending)[start : self._taken])

    def sized(self, count: int, width: int, most: int) -> Iterator[bytes]:
        """The next ``count`` strings of bytes, each behind its size in ``width`` bytes, at most ``most``."""
        for _ in range(count):
            size = int.from_bytes(self._pending[self._taken : self._taken + width], "little")
            end = self._taken + width + size
            if end > len(self._pending):  # seldom: a chunk holds many
                size = self.number(width)
                if size > most:
                    raise self.damaged(f"{size} bytes where at most {most} are legal")
                yield self.read(size)
                continue
            if size > most:
                raise self.damaged(f"{size} bytes where at most {most} are legal")
            yield bytes(self._pending[self._taken + width : end])
            self._taken = end

    def number(self, size: int) -> int:
        """The next unsigned integer of ``size`` bytes."""
        return int.from_bytes(self.read(size), "little")

    def check_count(self, count: int, bytes_each: int) -> None:
        """Refuse a count that the rest of the file cannot hold, before anything is allocated for it."""
        left = self._size - self._offset + len(self._pending) - self._taken
        if count * bytes_each > left:
            raise self.damaged(f"{count} records of at least {bytes_each} bytes, but {left} bytes are left")

    def seq(self) -> int:
        """The next seq: one that had been by the time of this snapshot."""
        seq = self.number(8)
        if not 1 <= seq <= self.header.seq:
            raise self.damaged(f"seq {seq}, expected 1..{self.header.seq}")
        return seq

    def counted(self, bytes_each: int) -> int:
        """The next count, of things of at least so many bytes."""
        count = self.number(8)
        self.check_count(count, bytes_each)
        return count

    def finish(self) -> None:
        """The stream ends here."""
        if self._taken != len(self._pending) or next(self._source, None) is not None:
            raise self.damaged("bytes behind the last erasure")

    def _read_header(self) -> _Header:
        head = self._pread(_HEADER.size)
        magic, version, flags, chunk_size, seq, log_size, *roots, frontier_count, collection_count = _HEADER.unpack(
            head
        )
        if magic != _MAGIC:
            raise self.damaged(f"expected the magic {_MAGIC!r}, found {magic!r}")
        if frontier_count != log_size.bit_count():
            raise self.damaged(f"a log of {log_size} leaves with {frontier_count} subtrees")
        whole = self._pread(_HEADER.size + 32 * (frontier_count + 1))
        if sha256(whole[:-32]).digest() != whole[-32:]:
            raise self.damaged("the hash of the header is wrong")
        if version != VERSION:
            raise FormatError(f"snapshot {self._name} has format {version}, expected {VERSION}")
        if flags or chunk_size != _CHUNK_BYTES:
            raise self.damaged(f"unknown flags {flags} or chunk size {chunk_size}")
        if seq >= _MAX_SEQ:  # records count their lives in int64
            raise self.damaged(f"seq {seq}, expected below 2^63 - 1")
        frontier = [whole[at : at + 32] for at in range(_HEADER.size, len(whole) - 32, 32)]
        log = LogTree(log_size, frontier)
        link, state_root, log_root = roots
        if log.root != log_root:
            raise self.damaged(f"expected log root {log_root.hex()}, found {log.root.hex()}")
        self._offset = len(whole)
        return _Header(seq, log, link, state_root, collection_count, whole[-32:])

    def _pread(self, size: int, ahead: int = 0) -> bytes:
        data = self._file.pread(size, self._offset + ahead)
        if len(data) != size:
            raise self.damaged(f"expected {size} bytes, found {len(data)}")
        return data


def _read_collections(reader: _Reader) -> Iterator[tuple[Records, bytes]]:
    """Each collection's records, and their commitments as ``Records.all_commitments`` would give them, joined."""
    before = ""
    for _ in range(reader.header.collection_count):
        [name] = _names(reader, 1, encoding.MAX_COLLECTION_BYTES)
        if name <= before:
            raise reader.damaged(f"collection {name!r} behind {before!r}")
        before = name
        size = reader.number(4)
        reader.check_count(1, size)
        definition = Definition.decode(reader.read(size))
        yield _read_records(reader, name, definition)


def _read_records(reader: _Reader, name: str, definition: Definition) -> tuple[Records, bytes]:
    dim = definition.dim
    count = reader.counted(2 + 8 + 4 * dim + 4)
    ids = _names(reader, count, encoding.MAX_ID_BYTES)
    for before, id in pairwise(ids):
        if id <= before:
            raise reader.damaged(f"id {id!r} behind {before!r}")
    born = np.frombuffer(reader.read(8 * count), dtype="<u8").astype(np.int64)
    if count and not 1 <= born.min() <= born.max() <= reader.header.seq:
        raise reader.damaged(f"a record born outside 1..{reader.header.seq}")
    vectors = Vectors(dim)
    of_vectors = bytearray()
    step = max(1, _ROWS_AT_ONCE_BYTES // (4 * dim))
    for start in range(0, count, step):
        data = memoryview(reader.read(4 * dim * min(step, count - start)))
        block = np.frombuffer(data, dtype="<i4").reshape(-1, dim)
        vectors.append(fixed.admit_raw(block, dimension=dim, collection=name))
        if not definition.erasable:
            of_vectors += b"".join([commit(data[at : at + 4 * dim]) for at in range(0, len(data), 4 * dim)])
    pack = contents.packer()
    metadatas: list[encoding.Metadata] = []
    documents: list[str | None] = []
    of_contents = bytearray()
    for content in reader.sized(count, 4, encoding.MAX_CONTENT_BYTES):
        metadata, document = contents.decode(content, pack)
        metadatas.append(metadata)
        documents.append(document)
        if not definition.erasable:
            of_contents += commit(content)
    size = 2 * SALT_BYTES * definition.erasable
    reader.check_count(count, size)
    salts = [reader.read(size) for _ in range(count)] if size else []
    seq = reader.header.seq
    records = Records.restored(name, definition, ids, vectors, metadatas, documents, born, salts, seq)
    if definition.erasable:  # the salts stand behind what they go before
        return records, b"".join(records.all_commitments())
    both = np.frombuffer(of_vectors, dtype=np.uint8).reshape(-1, 32), np.frombuffer(of_contents, dtype=np.uint8)
    return records, np.concatenate((both[0], both[1].reshape(-1, 32)), axis=1).tobytes()


_LINK_LIMITS = (
    encoding.MAX_COLLECTION_BYTES,
    encoding.MAX_ID_BYTES,
    encoding.MAX_COLLECTION_BYTES,
    encoding.MAX_COLLECTION_BYTES,
    encoding.MAX_ID_BYTES,
)


def _read_links(reader: _Reader) -> list[tuple[Link, int]]:
    links: list[tuple[Link, int]] = []
    for _ in range(reader.counted(5 * 3 + 8)):
        link = Link(*[_names(reader, 1, most)[0] for most in _LINK_LIMITS])
        if links and link <= links[-1][0]:
            raise reader.damaged(f"{link} behind {links[-1][0]}")
        links.append((link, reader.seq()))
    return links


def _read_requests(reader: _Reader) -> dict[str, Request]:
    requests: dict[str, Request] = {}
    count, before = reader.counted(3 + 8 + 64), 1
    if count > MAX_REQUESTS:
        raise reader.damaged(f"{count} request ids, expected at most {MAX_REQUESTS}")
    for _ in range(count):
        [id] = _names(reader, 1, encoding.MAX_ID_BYTES)
        request = Request(reader.seq(), reader.read(32), reader.read(32))
        if id in requests or request.seq < before:
            raise reader.damaged(f"request id {id!r} stands twice, or behind a later one")
        requests[id], before = request, request.seq
    return requests


def _read_erasures(reader: _Reader) -> dict[tuple[str, str], int]:
    erased: dict[tuple[str, str], int] = {}
    before = ("", "")
    for _ in range(reader.counted(2 * 3 + 8)):
        [name] = _names(reader, 1, encoding.MAX_COLLECTION_BYTES)
        [id] = _names(reader, 1, encoding.MAX_ID_BYTES)
        if (name, id) <= before:
            raise reader.damaged(f"erasure of {(name, id)} behind that of {before}")
        before = name, id
        erased[before] = reader.seq()
    return erased


def _names(reader: _Reader, count: int, most: int) -> list[str]:
    names = []
    for data in reader.sized(count, 2, most):
        if not data:
            raise reader.damaged(f"a name of 0 bytes, expected 1..{most}")
        try:
            names.append(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise reader.damaged(f"a name is not UTF-8: {error.reason}") from None
    return names
