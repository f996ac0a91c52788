"""Runs: many writes of one type into one collection, by column, not one object each (spec/log.md, "Operation").

A bulk add is 100,000 operations that differ in nothing but their values.  A ``Run`` stands for them: the same bytes,
the same leaves, the same meaning, at a fraction of the cost.  Other operations that come in numbers, such as links and
deletes, are ``Several``: bytes, of which an operation is made when its turn comes.  ``Operations`` is what a commit
holds, in order; to a reader it is a sequence of operations and nothing else.

It does not know whether an operation is legal in some state (that is ``state``), and names no damage: where a body is
not what a writer writes, ``commands.decode`` says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from struct import Struct
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from detmem.machine import commands, contents, encoding
from detmem.machine.commands import HEADER, PRESENT, Operation
from detmem.machine.commitment import commit, commit_all
from detmem.machine.contents import Meaning
from detmem.machine.encoding import Metadata
from detmem.machine.packed import Packed

__all__ = ["SHORTEST", "Operations", "Run", "Several", "decode", "write"]

SHORTEST = 16  # fewer operations are not worth their columns
_REPORTED = 1000  # records between two reports of progress
_FRONT = Struct("<BBHHHI")  # of a header: type, flags, sizes of names and request, size of the vector
_SIZE = Struct("<I")
_START = Struct("I")  # where a header begins, as the machine has numbers
_LINE = Struct("<4sHHII64s")  # a header as far as it differs within a run
_PAIR = slice(HEADER.size - 64, HEADER.size)
_BOTH = commands.HAS_VECTOR | commands.HAS_CONTENT
_HASH_BYTES = 32
_CHECKED = 256  # contents that are looked at together
_COMMIT_PREFIX, _LEAF_PREFIX = b"\x10", b"\x00"
_NO_CONTENT = commit(contents.EMPTY)

assert _FRONT.size + _SIZE.size + 64 == _LINE.size == HEADER.size

Report = Callable[[int, int], object]


class Run(NamedTuple):
    """Adds or upserts, by column; all columns are of one length.

    ``matrix`` int32 little-endian (n, dim); ``headers`` with the state byte behind them; ``leaves`` joined;
    ``meanings`` metadata and documents, where the caller has given them.
    """

    type: int
    collection: str
    ids: list[str]
    matrix: NDArray[np.int32]
    contents: Packed
    headers: Sequence[bytes]
    leaves: bytes
    meanings: tuple[list[Metadata], list[str | None]] | None = None

    def operation(self, index: int) -> Operation:
        """The operation at ``index``, as if it stood alone."""
        pair = self.pair(index)
        return Operation(
            self.type,
            self.collection,
            self.ids[index],
            self.vector(index),
            self.contents[index],
            pair[:32],
            pair[32:],
            self.headers[index][:-1],
            self.leaves[_HASH_BYTES * index : _HASH_BYTES * (index + 1)],
            None if self.meanings is None else (self.meanings[0][index], self.meanings[1][index]),
        )

    def check_contents(self) -> None:
        """``CorruptionError`` when a content is not canonical."""
        if self.meanings is None:
            pack = contents.packer()
            for start in range(0, len(self.ids), _CHECKED):
                contents.check(self.contents[start : start + _CHECKED], pack)

    def content(self, index: int) -> Meaning | bytes:
        """What one record says, as it is at hand."""
        return self.contents[index] if self.meanings is None else (self.meanings[0][index], self.meanings[1][index])

    def pair(self, index: int) -> bytes:
        """The vector's and the content's commitment, joined."""
        return self.headers[index][_PAIR]

    def pairs(self, part: slice) -> list[bytes]:
        """``pair`` of each."""
        return [header[_PAIR] for header in self.headers[part]]

    def vector(self, index: int) -> bytes:
        """One row's bytes."""
        return bytes(self.matrix[index].data)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The operations' bytes, in pieces."""
        return chain.from_iterable(zip(self.headers, _row_bytes(self.matrix), self.contents, strict=True))

    @property
    def size_bytes(self) -> int:
        """Length of all pieces together."""
        return sum(map(len, self.headers)) + self.matrix.nbytes + sum(map(len, self.contents))


@dataclass(frozen=True, slots=True)
class Several:
    """Operations of any kind, one behind the other: their bytes, which have been checked, and their leaves, joined.

    ``plain``: each has its payload, and none is an Erase.
    """

    body: memoryview
    leaves: bytes
    plain: bool

    def __iter__(self) -> Iterator[Operation]:
        at = 0
        for start in range(0, len(self.leaves), _HASH_BYTES):
            operation, at = commands.decode_at(self.body, at, self.leaves[start : start + _HASH_BYTES])
            yield operation

    def pieces(self) -> tuple[memoryview]:
        """The operations' bytes, in one piece."""
        return (self.body,)


class Operations(Sequence[Operation]):
    """What a commit holds, in order, as it is ``held``."""

    __slots__ = ("_count", "held")

    def __init__(self, held: Sequence[Operation | Run | Several]) -> None:
        self.held = held
        self._count = sum([1 if isinstance(part, Operation) else len(part.leaves) // _HASH_BYTES for part in held])

    def __len__(self) -> int:
        return self._count

    def parts(self) -> Iterator[Operation | Run]:
        """Runs and single operations."""
        for part in self.held:
            if isinstance(part, Several):
                yield from part
            else:
                yield part

    def __iter__(self) -> Iterator[Operation]:
        for part in self.parts():
            if isinstance(part, Run):
                yield from map(part.operation, range(len(part.ids)))
            else:
                yield part

    @overload
    def __getitem__(self, index: int) -> Operation: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Operation]: ...
    def __getitem__(self, index: int | slice) -> Operation | Sequence[Operation]:
        return list(self)[index]

    @property
    def leaves(self) -> bytes:
        """Leaf hashes in the log tree, joined."""
        return b"".join([part.leaf if isinstance(part, Operation) else part.leaves for part in self.held])

    @property
    def size_bytes(self) -> int:
        """Length of the body."""
        return sum([part.size_bytes if isinstance(part, Run) else sum(map(len, part.pieces())) for part in self.held])

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The body's bytes, in pieces."""
        for part in self.held:
            yield from part.pieces()


def write(
    type: int,
    collection: str,
    ids: list[str],
    matrix: NDArray[np.int32],
    metadatas: Sequence[object],
    documents: Sequence[object],
    report: Report,
) -> Run:
    """A run of adds or upserts of what a caller handed in: checked ids, admitted vectors, and contents to be checked.

    ``report`` is told (done, total) as it goes; what it raises ends the call.  ``UsageError`` as from
    ``contents.encode``.
    """
    matrix = np.ascontiguousarray(matrix, dtype="<i4")
    name = collection.encode()
    fronts, sizes = _Fronts(type, len(name), 4 * matrix.shape[1]), _Sizes()
    pack = contents.packer()
    plain: list[Metadata] = []
    words: list[str | None] = []
    bodies, headers, leaves = Packed(len(ids)), Packed(len(ids)), bytearray()
    for start in range(0, len(ids), _REPORTED):  # one step for all of a part: the loops stay short, the rows in cache
        part = slice(start, start + _REPORTED)
        understood, said, some = contents.encode_all(metadatas[part], documents[part], start, pack)
        of_vectors = commit_all(_row_bytes(matrix[part]))
        both = [of_vector + _content_commitment(body) for of_vector, body in zip(of_vectors, some, strict=True)]
        heads = [
            b"".join((fronts[len(text)], sizes[len(body)], pair, name, text, PRESENT))
            for text, body, pair in zip(map(str.encode, ids[part]), some, both, strict=True)
        ]
        plain += understood
        words += said
        bodies.append(some)
        headers.append(heads)
        leaves += b"".join([sha256(_LEAF_PREFIX + head[:-1]).digest() for head in heads])
        report(len(headers), len(ids))
    return Run(type, collection, ids, matrix, bodies, headers, bytes(leaves), (plain, words))


def _content_commitment(content: bytes) -> bytes:
    """``commit``, and at once for the content that many records share."""
    return _NO_CONTENT if content == contents.EMPTY else sha256(_COMMIT_PREFIX + content).digest()


def decode(body: memoryview) -> Operations:
    """The operations of a frame's body, as ``commands.decode``, with what can be a run as one."""
    held: list[Operation | Run | Several] = []
    gathered = _Single(body, held)
    at = 0
    while at < len(body):
        run, end = _run_at(body, at)
        if run is not None:
            gathered.end(at)
            held.append(run)
            at = end
            continue
        at = gathered.take(at)  # one at least; then those that were too few for a run
        while at < end:
            at = gathered.take(at)
    gathered.end(at)
    return Operations(held)


class _Single:
    """Gathers operations that are no part of a run into ``held``: many as ``Several``, few as they are."""

    def __init__(self, body: memoryview, held: list[Operation | Run | Several]) -> None:
        self._body = body
        self._held = held
        self._few: list[Operation] = []
        self._start = 0
        self._leaves = bytearray()
        self._plain = True

    def take(self, at: int) -> int:
        """Decode the operation at ``at``; returns where it ends."""
        operation, end = commands.decode_at(self._body, at)
        if not self._few and not self._leaves:
            self._start = at
        if not self._leaves and len(self._few) < SHORTEST:
            self._few.append(operation)
            return end
        for one in (*self._few, operation):
            self._leaves += one.leaf
            self._plain = self._plain and not one.erased and one.type != commands.ERASE
        self._few.clear()
        return end

    def end(self, at: int) -> None:
        """What follows at ``at`` is a run, or nothing."""
        if self._leaves:
            self._held.append(Several(self._body[self._start : at], bytes(self._leaves), self._plain))
        self._held.extend(self._few)
        self._few, self._leaves, self._plain = [], bytearray(), True


def _run_at(body: memoryview, at: int) -> tuple[Run | None, int]:
    """The longest run at ``at``, and where it ends: before anything strange.  None for one that is too short."""
    if len(body) - at < HEADER.size:
        return None, at
    type, flags, name_size, _, request_size, vector_size = _FRONT.unpack_from(body, at)
    if (
        type not in (commands.ADD, commands.UPSERT)
        or flags != _BOTH
        or request_size
        or not 1 <= name_size <= encoding.MAX_COLLECTION_BYTES
        or not 4 <= vector_size <= commands.MAX_VECTOR_BYTES
        or vector_size % 4
        or len(body) - at < SHORTEST * (HEADER.size + name_size + 1 + len(PRESENT) + vector_size + 1)
    ):
        return None, at
    start, names = bytes(body[at : at + 4]), HEADER.size + name_size
    name = bytes(body[at + HEADER.size : at + names])
    new, end = sha256(_COMMIT_PREFIX).copy, len(body)
    ids: list[str] = []
    vectors = bytearray()
    bodies, some = Packed(), list[bytes]()
    starts, leaves = bytearray(), bytearray()
    while end - at >= HEADER.size:
        begins, id_size, request_size, row_size, content_size, pair = _LINE.unpack_from(body, at)
        vector_at = at + names + id_size + 1
        content_at = vector_at + vector_size
        if (
            begins != start
            or not 1 <= id_size <= encoding.MAX_ID_BYTES
            or request_size
            or row_size != vector_size
            or not 1 <= content_size <= encoding.MAX_CONTENT_BYTES
            or content_at + content_size > end
        ):
            break
        header = bytes(body[at:vector_at])
        if header[-1:] != PRESENT or header[HEADER.size : names] != name:
            break
        vector, content = body[vector_at:content_at], bytes(body[content_at : content_at + content_size])
        hashed = new()
        hashed.update(vector)
        if hashed.digest() + sha256(_COMMIT_PREFIX + content).digest() != pair:
            break
        try:
            ids.append(header[names:-1].decode())
        except UnicodeDecodeError:  # said by commands.decode_at, who comes next
            break
        starts += _START.pack(at)
        at = content_at + content_size
        vectors += vector
        some.append(content)
        if len(some) == _CHECKED:
            bodies.append(some)
            some = []
        leaves += sha256(_LEAF_PREFIX + header[:-1]).digest()
    bodies.append(some)
    if len(ids) < SHORTEST:
        return None, at
    try:
        collection = name.decode()
    except UnicodeDecodeError:  # likewise
        return None, at
    matrix = np.frombuffer(vectors, dtype="<i4").reshape(len(ids), vector_size // 4)
    return Run(
        type, collection, ids, matrix, bodies, _Headers(body, memoryview(starts).cast("I"), names), bytes(leaves)
    ), at


class _Headers(Sequence[bytes]):
    """Headers with the state byte behind them, where they stand in a body."""

    __slots__ = ("_body", "_names", "_starts")

    def __init__(self, body: memoryview, starts: memoryview, names: int) -> None:
        self._body = body
        self._starts = starts
        self._names = names  # bytes before the id

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        return self._at(self._starts[index]) if isinstance(index, int) else list(map(self._at, self._starts[index]))

    def __iter__(self) -> Iterator[bytes]:
        return map(self._at, self._starts)

    def _at(self, start: int) -> bytes:
        _, id_size, *_ = _LINE.unpack_from(self._body, start)
        return bytes(self._body[start : start + self._names + id_size + len(PRESENT)])


class _Fronts(dict[int, bytes]):
    """The first 12 bytes of a run's headers, by the size of the id: everything else in them is the same."""

    def __init__(self, type: int, name_size: int, vector_size: int) -> None:
        self._fields = type, _BOTH, name_size
        self._vector_size = vector_size

    def __missing__(self, id_size: int) -> bytes:
        front = self[id_size] = _FRONT.pack(*self._fields, id_size, 0, self._vector_size)
        return front


class _Sizes(dict[int, bytes]):
    """Sizes in their four bytes."""

    def __missing__(self, size: int) -> bytes:
        data = self[size] = _SIZE.pack(size)
        return data


def _row_bytes(matrix: NDArray[np.int32]) -> Iterator[memoryview]:
    """The bytes of each row, in place."""
    size = 4 * matrix.shape[1]
    data = matrix.data.cast("B")
    return (data[at : at + size] for at in range(0, len(data), size))
