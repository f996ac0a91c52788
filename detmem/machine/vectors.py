"""A collection's exact rows, held split: a coarse byte and a residual for each component (spec/search.md, "Split").

    raw = coarse * 2^shift + residual        one shift a row, the smallest that keeps every coarse in [-127, 127]

A search reads the coarse bytes of many rows and the residuals of few, so the two lie apart; together they are the row,
bit for bit, in 3 bytes a component instead of 4.

Rule 1  A slot is written once and never again.  So a ``Rows``, which is a moment, needs no copy.
Rule 2  Adding a row touches that row.  Rows lie in chunks; a full chunk is never copied or moved.
Rule 3  Rows that are not yet asked for wait unsplit in a small tail: a write pays for one copy, a reader for the split.
        The shell serialises ``append`` against ``moment`` and ``take``.

Coarse bytes lie in blocks of 16 rows, 4 dimensions side by side: [block][dimension / 4][row][4], one cache line a step;
rows and dimensions that are not there are zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK", "LANE", "Piece", "Rows", "Vectors", "steps_of"]

BLOCK = 16  # rows whose coarse bytes lie together
LANE = 4  # dimensions whose coarse bytes lie together
_COARSE_MAX = 127
_NARROW_SHIFT = 16  # up to here a residual, in [-2^(shift-1), 2^(shift-1)), fits int16
_FIRST_ROWS = 64
_GROWING_ROWS = (
    1 << 12
)  # a chunk doubles up to here, then takes its whole size: memory that is not touched costs nothing
_CHUNK_ROWS = 1 << 17
_CHUNK_COMPONENTS = 1 << 26
_TAIL_ROWS = 256
_SPLIT_COMPONENTS = 1 << 17  # split at once: the temporaries stay in the cache

# _LIMITS[s] is the largest magnitude that shift s holds: round(m / 2^s) <= 127.
_LIMITS = np.array([_COARSE_MAX, *(255 * 2 ** (s - 1) - 1 for s in range(1, 25))], dtype=np.int64)

assert _CHUNK_ROWS % BLOCK == 0
assert _FIRST_ROWS % BLOCK == 0
assert _LIMITS[-1] >= 1 << 30, "an admitted component is at most 2^30"

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]


def steps_of(dimension: int) -> int:
    """Groups of ``LANE`` dimensions, the last one padded."""
    return -(-dimension // LANE)


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows that lie together, as they stood: ``count`` of them, the first of which is slot ``first``.

    ``coarse`` int8 (blocks, steps, 16, 4) · ``residual`` int16 or int32 (capacity, dim) · ``shift`` uint8 (capacity,).
    """

    first: int
    count: int
    coarse: NDArray[np.int8]
    residual: NDArray[np.int16] | NDArray[np.int32]
    shift: NDArray[np.uint8]

    def take(self, places: Int64) -> Int32:
        """The exact rows at places in this piece, int32 (n, dim)."""
        places = places.astype(np.int64, copy=False)  # a 32-bit machine's own int NumPy 1.24 divides wrongly on i386
        words = self.coarse.view(np.int32)[places // BLOCK, :, places % BLOCK, 0]
        return _joined(words, self.residual[places], self.shift[places])

    def between(self, start: int, stop: int) -> Int32:
        """The exact rows at places start..stop, int32 (n, dim); quicker than ``take``."""
        first, blocks = start // BLOCK, slice(start // BLOCK, -(-stop // BLOCK))
        words = self.coarse.view(np.int32)[blocks, :, :, 0].transpose(0, 2, 1)
        words = np.ascontiguousarray(words).reshape(-1, words.shape[2])[start - first * BLOCK : stop - first * BLOCK]
        return _joined(words, self.residual[start:stop], self.shift[start:stop])


class _Chunk:
    """Where rows are put.  Growing puts larger arrays in its place; who holds the old ones holds what was there."""

    __slots__ = ("coarse", "count", "first", "residual", "shift")

    def __init__(self, first: int, capacity: int, dimension: int, wide: bool) -> None:
        self.first = first
        self.count = 0
        self.coarse = np.zeros((capacity // BLOCK, steps_of(dimension), BLOCK, LANE), dtype=np.int8)
        self.residual = np.empty((capacity, dimension), dtype=np.int32 if wide else np.int16)
        self.shift = np.zeros(capacity, dtype=np.uint8)

    @property
    def capacity(self) -> int:
        """Rows that fit without growing."""
        return len(self.shift)

    @property
    def wide(self) -> bool:
        """Whether it takes rows of any shift."""
        return bool(self.residual.dtype == np.int32)

    def piece(self) -> Piece:
        """Its rows as they stand."""
        return Piece(self.first, self.count, self.coarse, self.residual, self.shift)

    def grow(self, capacity: int) -> None:
        """Larger arrays with the same rows."""
        grown = _Chunk(self.first, capacity, self.residual.shape[1], self.wide)
        blocks = -(-self.count // BLOCK)
        grown.coarse[:blocks] = self.coarse[:blocks]
        grown.residual[: self.count] = self.residual[: self.count]
        grown.shift[: self.count] = self.shift[: self.count]
        self.coarse, self.residual, self.shift = grown.coarse, grown.residual, grown.shift

    def put(self, coarse: NDArray[np.int8], residual: Int32, shift: NDArray[np.uint8]) -> None:
        """Append rows that fit; ``coarse`` int8 (n, 4 * steps)."""
        start, stop = self.count, self.count + len(shift)
        self.residual[start:stop] = residual
        self.shift[start:stop] = shift
        words = self.coarse.view(np.int32)[..., 0]  # 4 bytes are moved as one; what they mean as a number is not asked
        given = coarse.view(np.int32)
        head = min(-start % BLOCK, len(shift))
        whole = head + (len(shift) - head) // BLOCK * BLOCK
        for rows in (slice(0, head), slice(whole, len(shift))):
            places = np.arange(start + rows.start, start + rows.stop, dtype=np.int64)
            words[places // BLOCK, :, places % BLOCK] = given[rows]
        block, count = (start + head) // BLOCK, (whole - head) // BLOCK
        words[block : block + count] = given[head:whole].reshape(count, BLOCK, given.shape[1]).transpose(0, 2, 1)
        self.count = stop


class Rows:
    """The rows of a moment: the first ``count`` slots of ``owner``, whatever is appended later."""

    __slots__ = ("count", "dimension", "owner", "pieces")

    def __init__(self, owner: Vectors, pieces: list[Piece]) -> None:
        self.owner = owner
        self.dimension = owner.dimension
        self.count = owner.count
        self.pieces = pieces

    def take(self, slots: Int64) -> Int32:
        """The exact rows at ``slots``, int32 (n, dim)."""
        return _take(self.pieces, slots, self.dimension)

    def parts(self, components: int, start: int = 0) -> Iterator[tuple[int, Int32]]:
        """(first slot, exact rows) of all slots from ``start`` on, in order, about ``components`` at a time."""
        step = -(-components // self.dimension // BLOCK) * BLOCK
        for piece in self.pieces:
            for at in range(max(0, start - piece.first), piece.count, step):
                yield piece.first + at, piece.between(at, min(at + step, piece.count))


class _Tail(NamedTuple):
    """Rows that wait unsplit: those from slot ``first`` on."""

    first: int
    parts: list[Int32]


_NO_TAIL = _Tail(0, [])


class Vectors:
    """Rows by slot, appended only."""

    __slots__ = ("__weakref__", "_chunk_rows", "_chunks", "_tail", "count", "dimension")

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.count = 0
        self._chunks: list[_Chunk] = []
        self._tail = _NO_TAIL
        rows = min(_CHUNK_ROWS, max(BLOCK, _CHUNK_COMPONENTS // dimension))
        self._chunk_rows = rows // BLOCK * BLOCK

    def append(self, rows: Int32) -> None:
        """Take admitted rows, int32 of any byte order (n, dim), behind the others; they are copied."""
        assert (rows.dtype.kind, rows.dtype.itemsize) == ("i", 4)
        assert rows.shape[1:] == (self.dimension,)
        after = self.count + len(rows)
        if after - self._tail.first <= _TAIL_ROWS:
            first, parts = self._tail
            if parts:
                parts.append(rows.astype(np.int32))
            else:
                self._tail = _Tail(first, [rows.astype(np.int32)])
        else:
            self._settle()
            self._split(rows.astype(np.int32, copy=False))
            self._tail = _Tail(after, [])
        self.count = after

    def moment(self) -> Rows:
        """The rows as they stand."""
        self._settle()
        return Rows(self, self._pieces())

    def take(self, slots: Int64) -> Int32:
        """The exact rows at ``slots``, int32 (n, dim); another thread may be in ``moment``."""
        first, parts = self._tail  # once: what is settled meanwhile stands in both places
        if not parts:
            return _take(self._pieces(), slots, self.dimension)
        rows = np.empty((len(slots), self.dimension), dtype=np.int32)
        waiting = slots >= first
        rows[waiting] = np.concatenate(parts)[slots[waiting] - first]
        rows[~waiting] = _take(self._pieces(), slots[~waiting], self.dimension)
        return rows

    def kept(self, slots: Int64) -> Vectors:
        """New rows: those at ``slots``, in that order."""
        fresh = Vectors(self.dimension)
        step = max(1, _SPLIT_COMPONENTS // self.dimension)
        for start in range(0, len(slots), step):
            fresh.append(self.take(slots[start : start + step]))
        return fresh

    def _pieces(self) -> list[Piece]:
        return [chunk.piece() for chunk in self._chunks]

    def _settle(self) -> None:
        parts = self._tail.parts
        if parts:
            self._split(parts[0] if len(parts) == 1 else np.concatenate(parts))
            self._tail = _Tail(self.count, [])

    def _split(self, rows: Int32) -> None:
        step = max(1, _SPLIT_COMPONENTS // self.dimension)
        for start in range(0, len(rows), step):
            coarse, residual, shift = _split(rows[start : start + step])
            while len(shift):
                chunk, free = self._room(len(shift), bool(shift[0] > _NARROW_SHIFT))
                if not chunk.wide:  # rows of a large shift wait for a chunk that holds them
                    large = np.flatnonzero(shift[:free] > _NARROW_SHIFT)
                    free = int(large[0]) if len(large) else free
                chunk.put(coarse[:free], residual[:free], shift[:free])
                coarse, residual, shift = coarse[free:], residual[free:], shift[free:]

    def _room(self, count: int, wide: bool) -> tuple[_Chunk, int]:
        """The chunk that the next row goes into, and how many of ``count`` rows fit there."""
        if self._chunks:
            last = self._chunks[-1]
            if last.count < self._chunk_rows and (last.wide or not wide):
                wanted = self._capacity(last.count + count)
                if wanted > last.capacity:
                    last.grow(wanted)
                return last, min(count, last.capacity - last.count)
        first = self._chunks[-1].first + self._chunks[-1].count if self._chunks else 0
        chunk = _Chunk(first, self._capacity(count), self.dimension, wide)
        self._chunks.append(chunk)
        return chunk, min(count, chunk.capacity)

    def _capacity(self, wanted: int) -> int:
        capacity = _FIRST_ROWS
        while capacity < wanted:
            capacity *= 2
        return min(capacity if capacity <= _GROWING_ROWS else self._chunk_rows, self._chunk_rows)


def _split(rows: Int32) -> tuple[NDArray[np.int8], Int32, NDArray[np.uint8]]:
    """Coarse int8 (n, 4 * steps), residual int32 (n, dim), shift uint8 (n,) of admitted rows."""
    count, dimension = rows.shape
    magnitude = np.maximum(rows.max(axis=1), -rows.min(axis=1)).astype(np.int64)
    shift = np.searchsorted(_LIMITS, magnitude).astype(np.int32)
    wide = shift[:, None]
    rounded = rows + ((np.int32(1) << wide) >> 1)  # at most 2^30 + 2^23
    rounded >>= wide
    coarse = np.zeros((count, LANE * steps_of(dimension)), dtype=np.int8)
    coarse[:, :dimension] = rounded
    rounded <<= wide
    return coarse, np.subtract(rows, rounded, out=rounded), shift.astype(np.uint8)


def _joined(words: Int32, residual: NDArray[np.int16] | Int32, shift: NDArray[np.uint8]) -> Int32:
    """coarse * 2^shift + residual, the coarse bytes given four to a word."""
    rows: Int32 = words.view(np.int8)[:, : residual.shape[1]].astype(np.int32)
    rows <<= shift.astype(np.int32)[:, None]
    rows += residual
    return rows


def _take(pieces: list[Piece], slots: Int64, dimension: int) -> Int32:
    if len(pieces) == 1:
        return pieces[0].take(slots)
    rows = np.empty((len(slots), dimension), dtype=np.int32)
    firsts = [piece.first for piece in pieces]
    numbers = np.searchsorted(np.array(firsts, dtype=np.int64), slots, side="right") - 1
    for number in np.unique(numbers).tolist():
        here = np.flatnonzero(numbers == number)
        rows[here] = pieces[number].take(slots[here] - firsts[number])
    return rows
