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

import numpy as np

from detmem.errors import DetmemError, FormatError, SnapshotDamaged, StorageError
from detmem.journal.disk import File
from detmem.machine import contents, encoding, fixed
from detmem.machine.commands import SALT_BYTES, Definition, Link
from detmem.machine.commitment import LogTree, commit, commit_all, prefixed
from detmem.machine.links import Links, link_of, names_of
from detmem.machine.packed import Packed
from detmem.machine.records import Records, Restored, content_of
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
_RECORDS_AT_ONCE = 1 << 12
_MAX_SEQ = 2**63 - 1
_STRINGS_BYTES = 1 << 16  # cut up at once: few small objects at a time
_SIZES = {2: Struct("<H"), 4: Struct("<I")}


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
        entries = bytearray()
        collections = list(_read_collections(reader, entries))
        links = Links.restored(_read_links(reader), reader.header.seq)
        history = links, _read_requests(reader), _read_erasures(reader)
        reader.finish()
        header = reader.header
        state = State.restored(header.seq, header.link, header.log, collections, entries, *history)
    except (SnapshotDamaged, StorageError):  # a disk that cannot be read says nothing about what was written
        raise
    except DetmemError as error:
        raise reader.damaged(str(error)) from None
    if state.root != header.state_root:
        raise reader.damaged(f"expected state root {header.state_root.hex()}, found {state.root.hex()}")
    return state, reader.digest


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
            content = content_of(view, slot)
            yield len(content).to_bytes(4, "little") + content
        if records.definition.erasable:
            yield from (records.salts[slot] for slot in slots)
    yield len(state.links).to_bytes(8, "little")
    for names in sorted(state.links.born, key=link_of):
        yield names + state.links.born[names].to_bytes(8, "little")
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

    def strings(self, count: int, width: int, most: int) -> Iterator[list[bytes]]:
        """The next ``count`` strings, each behind its size in ``width`` bytes, at most ``most``; some at a time."""
        size_at = _SIZES[width].unpack_from
        while count:
            data = bytes(memoryview(self._pending)[self._taken : self._taken + _STRINGS_BYTES])
            some: list[bytes] = []
            at, last = 0, len(data) - width
            while at <= last and len(some) < count:
                end = at + width + size_at(data, at)[0]
                if end > len(data):
                    break
                some.append(data[at + width : end])
                at = end
            self._taken += at
            if not some:  # seldom: it does not end where these bytes do
                largest = self.number(width)
                if largest <= most:
                    some.append(self.read(largest))
            else:
                largest = max(map(len, some))
            if largest > most:
                raise self.damaged(f"{largest} bytes where at most {most} are legal")
            count -= len(some)
            yield some

    def number(self, size: int) -> int:
        """The next unsigned integer of ``size`` bytes."""
        return int.from_bytes(self.read(size), "little")

    @property
    def left(self) -> int:
        """More bytes than this the rest of the file cannot hold."""
        return self._size - self._offset + len(self._pending) - self._taken

    def check_count(self, count: int, bytes_each: int) -> None:
        """Refuse a count that the rest of the file cannot hold, before anything is allocated for it."""
        if count * bytes_each > self.left:
            raise self.damaged(f"{count} records of at least {bytes_each} bytes, but {self.left} bytes are left")

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


def _read_collections(reader: _Reader, pairs: bytearray) -> Iterator[Records]:
    """Each collection's records; ``pairs`` takes the vector's and the content's commitment of each, joined."""
    before = ""
    for _ in range(reader.header.collection_count):
        name = _name(reader, encoding.MAX_COLLECTION_BYTES)
        if name <= before:
            raise reader.damaged(f"collection {name!r} behind {before!r}")
        before = name
        size = reader.number(4)
        reader.check_count(1, size)
        definition = Definition.decode(reader.read(size))
        yield _read_records(reader, name, definition, pairs)


def _read_records(reader: _Reader, name: str, definition: Definition, pairs: bytearray) -> Records:
    dim = definition.dim
    count = reader.counted(2 + 8 + 4 * dim + 4)
    if not count:
        empty = Records(name, definition)
        empty.kept_from = reader.header.seq
        return empty
    ids = _read_ids(reader, count)
    born = np.empty(count, dtype=np.uint32 if reader.header.seq < 1 << 32 else np.int64)
    for start in range(0, count, _RECORDS_AT_ONCE):
        seqs = np.frombuffer(reader.read(8 * min(_RECORDS_AT_ONCE, count - start)), dtype="<u8")
        if not 1 <= seqs.min() <= seqs.max() <= reader.header.seq:
            raise reader.damaged(f"a record born outside 1..{reader.header.seq}")
        born[start : start + len(seqs)] = seqs
    first = len(pairs)
    vectors = Vectors(dim)
    step = min(max(1, _ROWS_AT_ONCE_BYTES // (4 * dim)), _RECORDS_AT_ONCE)
    for start in range(0, count, step):
        data = memoryview(reader.read(4 * dim * min(step, count - start)))
        block = np.frombuffer(data, dtype="<i4").reshape(-1, dim)
        vectors.append(fixed.admit_raw(block, dimension=dim, collection=name))
        some = np.zeros((len(block), 2, 32), dtype=np.uint8)
        if not definition.erasable:
            hashes = b"".join(commit_all(data[at : at + 4 * dim] for at in range(0, len(data), 4 * dim)))
            some[:, 0] = np.frombuffer(hashes, dtype=np.uint8).reshape(-1, 32)
        pairs += some.data
    both = np.frombuffer(pairs, dtype=np.uint8, offset=first).reshape(-1, 2, 32)
    packed = Packed(count)
    pack, at = contents.packer(), 0
    for strings in reader.strings(count, 4, encoding.MAX_CONTENT_BYTES):
        contents.check(strings, pack)
        packed.append(strings)
        if not definition.erasable:
            hashes = b"".join(commit_all(strings))
            both[at : at + len(strings), 1] = np.frombuffer(hashes, dtype=np.uint8).reshape(-1, 32)
        at += len(strings)
    if not definition.erasable:
        return Restored(name, definition, ids, born, vectors, packed, None, reader.header.seq)
    size = 2 * SALT_BYTES
    reader.check_count(count, size)
    salts = Packed(count)
    for start in range(0, count, step):
        rows = vectors.take(np.arange(start, min(start + step, count), dtype=np.int64)).astype("<i4", copy=False)
        own = [reader.read(size) for _ in rows]
        salts.append(own)
        hashes = b"".join(
            [
                commit(row.data, salt[:SALT_BYTES]) + commit(content, salt[SALT_BYTES:])
                for row, content, salt in zip(rows, packed[start : start + step], own, strict=True)
            ]
        )
        both[start : start + len(own)] = np.frombuffer(hashes, dtype=np.uint8).reshape(-1, 2, 32)
    return Restored(name, definition, ids, born, vectors, packed, salts, reader.header.seq)


def _read_ids(reader: _Reader, count: int) -> Packed:
    ids = Packed(count)
    before = b""
    for some in reader.strings(count, 2, encoding.MAX_ID_BYTES):
        _check_names(reader, some, encoding.MAX_ID_BYTES)
        for one, id in pairwise((before, *some)):
            if id <= one:
                raise reader.damaged(f"id {id.decode()!r} behind {one.decode()!r}")
        before = some[-1]
        ids.append(some)
    return ids


_LINK_LIMITS = (
    encoding.MAX_COLLECTION_BYTES,
    encoding.MAX_ID_BYTES,
    encoding.MAX_COLLECTION_BYTES,
    encoding.MAX_COLLECTION_BYTES,
    encoding.MAX_ID_BYTES,
)


def _read_links(reader: _Reader) -> Iterator[tuple[bytes, int]]:
    before, born = None, 0
    for _ in range(reader.counted(5 * 3 + 8)):
        link = Link(*[_name(reader, most) for most in _LINK_LIMITS])
        if before is not None and link <= before:
            raise reader.damaged(f"{link} behind {before}")
        seq = reader.seq()
        born, before = born if seq == born else seq, link  # one object for the many of one commit
        yield names_of(link), born


def _read_requests(reader: _Reader) -> dict[str, Request]:
    requests: dict[str, Request] = {}
    count, before = reader.counted(3 + 8 + 64), 1
    if count > MAX_REQUESTS:
        raise reader.damaged(f"{count} request ids, expected at most {MAX_REQUESTS}")
    for _ in range(count):
        id = _name(reader, encoding.MAX_ID_BYTES)
        request = Request(reader.seq(), reader.read(32), reader.read(32))
        if id in requests or request.seq < before:
            raise reader.damaged(f"request id {id!r} stands twice, or behind a later one")
        requests[id], before = request, request.seq
    return requests


def _read_erasures(reader: _Reader) -> dict[tuple[str, str], int]:
    erased: dict[tuple[str, str], int] = {}
    before = ("", "")
    for _ in range(reader.counted(2 * 3 + 8)):
        name = _name(reader, encoding.MAX_COLLECTION_BYTES)
        id = _name(reader, encoding.MAX_ID_BYTES)
        if (name, id) <= before:
            raise reader.damaged(f"erasure of {(name, id)} behind that of {before}")
        before = name, id
        erased[before] = reader.seq()
    return erased


def _name(reader: _Reader, most: int) -> str:
    [[data]] = reader.strings(1, 2, most)
    _check_names(reader, [data], most)
    return data.decode()


def _check_names(reader: _Reader, names: list[bytes], most: int) -> None:
    if not all(names):
        raise reader.damaged(f"a name of 0 bytes, expected 1..{most}")
    if not b"".join(names).isascii():
        try:
            for name in names:
                name.decode()
        except UnicodeDecodeError as error:
            raise reader.damaged(f"a name is not UTF-8: {error.reason}") from None
