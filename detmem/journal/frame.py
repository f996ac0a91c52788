"""Bytes of the log: frames, seals, segment headers (spec/log.md).

``encode_*`` and their readers are inverse; a reader accepts nothing else and says at which offset and why.  Whether a
bad frame is the torn end of the log or damage is not decided here: that is ``recovery``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import chain, islice
from struct import Struct
from zlib import crc32

from detmem.errors import CorruptionError, FormatError
from detmem.journal.disk import File
from detmem.machine import commands, runs
from detmem.machine.commitment import commit_leaf, link
from detmem.machine.runs import Operations
from detmem.machine.stage import COMMIT_KIND, VERSION, Change

__all__ = [
    "MAX_FRAME_BYTES",
    "BadFrame",
    "Frame",
    "Seal",
    "SegmentHeader",
    "SegmentReader",
    "commit_blocks",
    "encode_commit",
    "encode_seal",
    "end_of_bytes",
    "last_durable",
    "read_seal",
]

MAX_FRAME_BYTES = 1 << 30

_MAGIC = b"DMF1"
_HEADER = Struct("<4sBBHIQQI")
_CRC_BYTES = 4
_SEAL_KIND = 2
_TRAILER = {COMMIT_KIND: 64, _SEAL_KIND: 32}
_SEAL_BODY = Struct("<QQ32s32s")
_SEAL_BYTES = _HEADER.size + _SEAL_BODY.size + 32
_SEGMENT_MAGIC = b"DETMEMSG"
_SEGMENT = Struct("<8sHHI16sQQ32s32s12xI")
_WINDOW_BYTES = 1 << 20  # read at once while scanning
_BLOCK_BYTES = 1 << 20  # written at once, about: it stays in the cache between joining and writing
# So many operations of less than so many bytes each take several times the file's bytes as objects: of a body larger
# than this they are kept only once the link has been found right.
_LARGE_BODY_BYTES = 8 << 20
_MANY_OPERATIONS = 1 << 10
_SMALL_OPERATION_BYTES = 1 << 10

assert _HEADER.size == 32
assert _SEGMENT.size == 128
assert commands.MAX_OPERATION_BYTES <= MAX_FRAME_BYTES


class BadFrame(CorruptionError):  # noqa: N818 - a place in the log, not yet a verdict
    """No good frame stands at ``offset``."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"offset {offset}: {reason}")
        self.offset = offset
        self.reason = reason


class _CutFrame(BadFrame):
    """The file does not hold the frame whole."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One good commit frame, at ``offset`` of its segment, ``size`` bytes long; ``leaves`` of the log tree, joined."""

    seq: int
    durable_seq: int
    operations: Operations
    state_root: bytes
    link: bytes
    leaves: bytes
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Seal:
    """The end of a finished segment: its number of commits, and the log's size, link and root there."""

    count: int
    log_size: int
    link: bytes
    log_root: bytes


@dataclass(frozen=True)
class SegmentHeader:
    """Whose segment it is, and where the log stood before its first commit."""

    store_id: bytes
    first_seq: int
    log_size: int
    link: bytes
    log_root: bytes

    size_bytes = _SEGMENT.size

    @cached_property
    def seed(self) -> int:
        """Starts the CRC of each frame header, so that a foreign or stale frame does not parse as one of ours."""
        return crc32(self.store_id + self.first_seq.to_bytes(8, "little"))

    def encode(self) -> bytes:
        """128 bytes; ``decode`` is the inverse."""
        fields = (self.store_id, self.first_seq, self.log_size, self.link, self.log_root)
        head = _SEGMENT.pack(_SEGMENT_MAGIC, VERSION, 0, _SEGMENT.size, *fields, 0)[:-_CRC_BYTES]
        return head + crc32(head).to_bytes(_CRC_BYTES, "little")

    @classmethod
    def decode(cls, data: bytes) -> SegmentHeader:
        """``CorruptionError`` for a short or bad header, ``FormatError`` for another format."""
        if len(data) < _SEGMENT.size:
            raise CorruptionError(f"a segment header has {_SEGMENT.size} bytes, found {len(data)}")
        magic, version, flags, size, store_id, first_seq, log_size, before, root, crc = _SEGMENT.unpack(
            data[: _SEGMENT.size]
        )
        if magic != _SEGMENT_MAGIC or crc != crc32(data[: _SEGMENT.size - _CRC_BYTES]):
            raise CorruptionError("a segment header whose magic or CRC is wrong")
        if version != VERSION:
            raise FormatError(f"the log has format {version}, this version of detmem reads format {VERSION}")
        header = cls(store_id, first_seq, log_size, before, root)
        if header.encode() != data[: _SEGMENT.size]:
            raise CorruptionError(
                f"a segment header with unknown fields: version {version}, flags {flags}, size {size}"
            )
        return header


def encode_commit(change: Change | Frame, durable_seq: int, seed: int) -> bytes:
    """The frame of a commit, staged or read.  ``UsageError`` when it is too large."""
    return b"".join(commit_blocks(change, durable_seq, seed))


def commit_blocks(change: Change | Frame, durable_seq: int, seed: int) -> Iterator[bytes]:
    """The same in blocks of about a MiB, so that a large frame never stands in memory twice.

    What is too large raises before the first block.
    """
    size = change.operations.size_bytes
    commands.check_size(size, MAX_FRAME_BYTES)
    header = _encode_header(COMMIT_KIND, size, change.seq, durable_seq, seed)
    if size <= _BLOCK_BYTES:
        return iter((b"".join((header, *change.operations.pieces(), change.state_root, change.link)),))
    pieces = chain((header,), change.operations.pieces(), (change.state_root, change.link))
    # An operation has about three pieces; how many make a block on the average is all that matters.
    return _blocks(pieces, max(1, _BLOCK_BYTES * 3 * len(change.operations) // size))


def _blocks(pieces: Iterator[bytes | memoryview], count: int) -> Iterator[bytes]:
    while some := list(islice(pieces, count)):
        yield b"".join(some)


def encode_seal(seal: Seal, first_seq: int, seed: int) -> bytes:
    """The frame that closes the segment starting at ``first_seq``."""
    seq = first_seq + seal.count - 1
    body = _SEAL_BODY.pack(seal.count, seal.log_size, seal.link, seal.log_root)
    return _encode_header(_SEAL_KIND, len(body), seq, seq, seed) + body + _seal_digest(first_seq, body)


def read_seal(file: File, header: SegmentHeader) -> tuple[Seal, int]:
    """The seal at a finished segment's end and its offset, without reading what is before; ``BadFrame``."""
    offset = max(file.size() - _SEAL_BYTES, SegmentHeader.size_bytes)
    data = memoryview(file.pread(_SEAL_BYTES, offset))
    kind, _, seq, _ = _read_header(data, offset, header.seed)
    if kind != _SEAL_KIND:
        raise BadFrame(offset, "expected a seal, found a commit")
    seal = _read_seal(data[_HEADER.size :], offset, header.first_seq)
    if seq != header.first_seq + seal.count - 1:
        raise BadFrame(offset, f"a seal of {seal.count} commits from {header.first_seq} cannot carry seq {seq}")
    return seal, offset


def last_durable(file: File, offset: int, seed: int) -> int:
    """The highest ``durable_seq`` of any frame header with a right CRC at or behind ``offset``; 0 without one."""
    best, overlap = 0, _HEADER.size - 1
    size = file.size()
    while offset < size:
        window = file.pread(_WINDOW_BYTES + overlap, offset)
        at = window.find(_MAGIC)
        while at >= 0:
            header = window[at : at + _HEADER.size]
            if len(header) == _HEADER.size:
                *_, durable_seq, crc = _HEADER.unpack(header)
                best = max(best, durable_seq) if crc == crc32(header[:-_CRC_BYTES], seed) else best
            at = window.find(_MAGIC, at + 1)
        offset += _WINDOW_BYTES
    return best


def end_of_bytes(file: File, offset: int) -> int:
    """Where, at or behind ``offset``, nothing but zeros follows."""
    end, size = offset, file.size()
    while offset < size:
        window = file.pread(_WINDOW_BYTES, offset)
        kept = len(window.rstrip(b"\0"))
        end = offset + kept if kept else end
        offset += _WINDOW_BYTES
    return end


class SegmentReader:
    """Reads one segment from its start: iterate for its commit frames, in order.

    Stops at the seal (then ``seal`` is set) or at a clean end, be it of the file or of what stands before zeros; raises
    ``BadFrame`` at the first frame that is not good; ``durable_behind`` is then what ``last_durable`` says of the rest.
    ``offset`` and ``link`` are where the good part ends and the link there; ``seq`` the last good seq.
    """

    def __init__(self, file: File, header: SegmentHeader, resume: tuple[int, int, bytes] | None = None) -> None:
        """``resume`` is where an earlier reader of this segment stood: (offset, seq, link).

        An erasure may have written the segment anew since: the seq is then looked for from the start.
        """
        self._file = file
        self._header = header
        self._window = memoryview(b"")
        self._window_offset = 0
        self._size = file.size()
        self._resume = resume
        self.offset, self.seq, self.link = resume or (header.size_bytes, header.first_seq - 1, header.link)
        self.seal: Seal | None = None
        self.durable_behind = 0

    def __iter__(self) -> Iterator[Frame]:
        self._settle()
        while self.offset < self._size:
            try:
                frame = self._next()
            except BadFrame as bad:
                # Before looking again: a writer beside has a frame whole before it writes the next one's header.
                self.durable_behind = last_durable(self._file, bad.offset, self._header.seed)
                if self._was_written_on(isinstance(bad, _CutFrame)):
                    continue
                raise
            if frame is None:
                return
            yield frame
            del frame  # before the next is read: each may be as large as the file

    def skip(self, seq: int, passed: Callable[[memoryview], None] | None = None) -> None:
        """Stand before the commit ``seq``, or where this segment ends before it; of those passed over only the headers
        and the links are read, and the bodies, unverified, if somebody wants them.  ``BadFrame`` at a header that is
        not good."""
        self._settle()
        while self.seq + 1 < seq and self.offset < self._size:
            header = memoryview(self._file.pread(_HEADER.size, self.offset))
            if self._ends_in_zeros(header):
                return
            kind, length, found, _ = _read_header(header, self.offset, self._header.seed)
            if kind == _SEAL_KIND:
                return
            end = self.offset + _HEADER.size + length + _TRAILER[kind]
            if found != self.seq + 1 or end > self._size:
                raise BadFrame(self.offset, f"expected seq {self.seq + 1} whole, found seq {found}")
            if passed is not None:
                passed(memoryview(self._file.pread(length, self.offset + _HEADER.size)))
            self.link = self._file.pread(32, end - 32)
            self.offset, self.seq = end, found

    def _settle(self) -> None:
        """Stand where an earlier reader stood, though the segment may have been written anew."""
        resume, self._resume = self._resume, None
        if resume is None or self._leads_on():
            return
        _, seq, link = resume
        header, self._window, self._window_offset = self._header, memoryview(b""), 0
        self.offset, self.seq, self.link = header.size_bytes, header.first_seq - 1, header.link
        self.skip(seq + 1)
        if (self.seq, self.link) != (seq, link):
            raise BadFrame(self.offset, f"expected commit {seq} with link {link.hex()}, found {self.seq}")

    def _leads_on(self) -> bool:
        """Whether the next commit, or the seal, begins at ``offset``."""
        try:
            kind, _, seq, _ = _read_header(self._read(self.offset, _HEADER.size), self.offset, self._header.seed)
        except BadFrame:
            return False
        return seq == (self.seq + 1 if kind == COMMIT_KIND else self.seq)

    def _next(self) -> Frame | None:
        offset = self.offset
        header = self._read(offset, _HEADER.size)
        if self._ends_in_zeros(header):
            return None
        kind, length, seq, durable_seq = _read_header(header, offset, self._header.seed)
        size = _HEADER.size + length + _TRAILER[kind]
        if offset + size > self._size:
            raise _CutFrame(offset, f"a frame of {size} bytes, of which the file holds {self._size - offset}")
        data = self._read(offset, size)[_HEADER.size :]
        if kind == _SEAL_KIND:
            self._end(data, offset, seq, durable_seq, size)
            return None
        if seq != self.seq + 1 or durable_seq >= seq:
            raise BadFrame(offset, f"expected seq {self.seq + 1}, found {seq} with durable seq {durable_seq}")
        body = data[:length]
        state_root, stored = bytes(data[length : length + 32]), bytes(data[length + 32 :])
        try:
            if _is_crowded(body):
                self._check_link(offset, seq, b"".join(one.leaf for one in commands.decode(body)), state_root, stored)
            operations = runs.decode(body)
        except BadFrame:
            raise
        except CorruptionError as error:
            raise BadFrame(offset, str(error)) from None
        leaves = operations.leaves
        closing = self._check_link(offset, seq, leaves, state_root, stored)
        if size > _WINDOW_BYTES:  # no other frame stands in there, and it may be most of the file
            self._window = memoryview(b"")
        self.offset, self.seq, self.link = offset + size, seq, stored
        return Frame(seq, durable_seq, operations, state_root, stored, leaves + closing, offset, size)

    def _ends_in_zeros(self, header: memoryview) -> bool:
        """Whether here, before this header, a writer's zeros begin that no commit has been written over yet."""
        return not any(header) and end_of_bytes(self._file, self.offset) == self.offset

    def _was_written_on(self, cut: bool) -> bool:
        """Whether a writer beside has gone on since the bytes at ``offset`` were read; they are then read again.

        A frame can be met half written: what follows it in the file may be there when it is looked at.  That the file
        has grown says something only of a frame that was ``cut`` by its end: else a bad frame would be read again for
        as long as somebody writes behind it.
        """
        size, self._size = self._size, self._file.size()
        before = self._window[self.offset - self._window_offset :][:_WINDOW_BYTES]
        self._window, self._window_offset = memoryview(self._file.pread(_WINDOW_BYTES, self.offset)), self.offset
        return self._window[: len(before)] != before or (cut and self._size > size)

    def _check_link(self, offset: int, seq: int, leaves: bytes, state_root: bytes, stored: bytes) -> bytes:
        """The commit leaf of a frame with these leaves, whose link is the stored one."""
        closing = commit_leaf(seq, len(leaves) // 32, state_root)
        computed = link(self.link, COMMIT_KIND, 0, VERSION, seq, leaves, closing)
        if not leaves or computed != stored:
            raise BadFrame(offset, f"expected link {computed.hex()}, found {stored.hex()}")
        return closing

    def _end(self, data: memoryview, offset: int, seq: int, durable_seq: int, size: int) -> None:
        seal = _read_seal(data, offset, self._header.first_seq)
        count = self.seq - self._header.first_seq + 1
        if seal.count != count or not seq == durable_seq == self.seq or seal.link != self.link:
            raise BadFrame(offset, f"a seal of {seal.count} commits behind {count}, or with another link")
        self._size = self._file.size()  # a writer beside has cut its zeros off since, or had yet to write this
        if offset + size != self._size:
            raise BadFrame(offset + size, f"{self._size - offset - size} bytes behind a seal")
        self.offset, self.seal = offset + size, seal

    def _read(self, offset: int, size: int) -> memoryview:
        start = offset - self._window_offset
        if start + size > len(self._window):
            self._window = memoryview(self._file.pread(max(size, _WINDOW_BYTES), offset))
            self._window_offset, start = offset, 0
        return self._window[start : start + size]


def _is_crowded(body: memoryview) -> bool:
    """Whether a large body begins with many small operations.  ``CorruptionError`` as in ``decode``."""
    if len(body) <= _LARGE_BODY_BYTES:
        return False
    first = list(islice(commands.decode(body), _MANY_OPERATIONS))
    sizes = (len(one.header) + len(one.vector or b"") + len(one.content or b"") for one in first)
    return sum(sizes) < _SMALL_OPERATION_BYTES * len(first)


def _encode_header(kind: int, length: int, seq: int, durable_seq: int, seed: int) -> bytes:
    head = _HEADER.pack(_MAGIC, kind, 0, VERSION, length, seq, durable_seq, 0)[:-_CRC_BYTES]
    return head + crc32(head, seed).to_bytes(_CRC_BYTES, "little")


def _read_header(data: memoryview, offset: int, seed: int) -> tuple[int, int, int, int]:
    if len(data) < _HEADER.size:
        raise _CutFrame(offset, f"a frame header has {_HEADER.size} bytes, found {len(data)}")
    magic, kind, flags, version, length, seq, durable_seq, crc = _HEADER.unpack_from(data)
    computed = crc32(data[: _HEADER.size - _CRC_BYTES], seed)
    if magic != _MAGIC or crc != computed:
        expected = f"expected {_MAGIC!r} and {computed:08x}, found {magic!r} and {crc:08x}"
        raise BadFrame(offset, f"the magic or the CRC of a frame header is wrong: {expected}")
    if kind not in _TRAILER or flags or version != VERSION:
        raise BadFrame(offset, f"a frame of unknown kind {kind}, flags {flags} or version {version}")
    if length > MAX_FRAME_BYTES or (kind == _SEAL_KIND and length != _SEAL_BODY.size):
        raise BadFrame(offset, f"a frame of illegal length {length}")
    return kind, length, seq, durable_seq


def _read_seal(data: memoryview, offset: int, first_seq: int) -> Seal:
    body = bytes(data[: _SEAL_BODY.size])
    if bytes(data[_SEAL_BODY.size :]) != _seal_digest(first_seq, body):
        raise BadFrame(offset, "the digest of a seal is wrong")
    return Seal(*_SEAL_BODY.unpack(body))


def _seal_digest(first_seq: int, body: bytes) -> bytes:
    return sha256(b"\x18" + first_seq.to_bytes(8, "little") + body).digest()
