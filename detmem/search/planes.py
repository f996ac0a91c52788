"""What a search reads before it reads rows: planes of bytes, and what bounds their error (spec/search.md).

Rule 1  Planes follow the rows: ``follow`` measures those that were appended since the last search, and no other.
Rule 2  Planes are caches.  They are never logged, hashed or saved, and cannot show in an answer.
Rule 3  What ``follow`` hands out is a moment: later rows may fill the places behind it, and nothing else changes there.
        The caller sees to it that one thread at a time is inside ``follow``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detmem.machine.vectors import BLOCK, Piece, Rows, steps_of
from detmem.search import front
from detmem.search.front import Errors, Front

__all__ = ["Moment", "Plain", "Planes", "Segment"]

_LINE = 64
_PART = 1 << 17  # components joined at once
_FRONT_ROWS = 1 << 12  # fewer are read as quickly without one
_WORK_BEFORE = 1 << 22  # rows times queries that have been asked for before learning is worth its time
_RELEARNED = 8  # times as many rows as were learned from: the data may be others by now
_SAMPLE_ROWS = 1 << 12
_BUILT_PER_QUERY = 1 << 13  # rows that enter the front for each query: some 30 ms once, then nothing
_BUILT_AT_ONCE = 1 << 7
_ABSENT = 1 << 61  # base of a row that is not there: no threshold reaches it

Plane = tuple[Any, ...]


class Segment(NamedTuple):
    """Blocks start..stop of a chunk, to be scanned by ``plane``; with ``two_planes`` survivors meet ``rest`` and
    ``coarse`` next.

    ``rest`` = (the coordinates of the front that are not scanned, int8 (rows, n, 64); rho, one, two with all of them).
    ``exact`` = (coarse bytes, residual, shift).  The first row of the chunk is slot ``first``; ``used`` rows are there.
    """

    first: int
    used: int
    start: int
    stop: int
    plane: Plane
    rest: Plane
    coarse: Plane
    exact: Plane
    two_planes: bool

    @property
    def block_bytes(self) -> int:
        """What scanning a block reads of its plane."""
        return int(self.plane[0].shape[1]) * _LINE

    def without_front(self) -> Segment:
        """The same rows by their coarse plane."""
        return self._replace(plane=self.coarse, rest=_NO_REST, two_planes=False)


_NO_REST: Plane = (
    np.empty((0, 0, _LINE), dtype=np.int8), np.empty(0, dtype=np.int32),
    np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64),
)  # fmt: skip


class Moment(NamedTuple):
    """The planes of some rows: segments in slot order, and the front of those that have one."""

    segments: list[Segment]
    front: Front | None
    steps: int


class _Measured:
    """The planes of a chunk's rows, grown and filled behind them."""

    def __init__(self) -> None:
        self.rows = 0
        self.base = np.empty(0, dtype=np.int64)
        self.rho = np.empty(0, dtype=np.int32)
        self.one = np.empty(0, dtype=np.int64)
        self.front: _FrontPlane | None = None

    def follow(self, piece: Piece, kernels: Any, metric_is_ip: bool) -> bool:
        """Measure the rows that are new; returns whether there were any."""
        capacity = len(piece.shift)
        if len(self.base) < capacity:
            self.base = _grown(self.base, capacity, _ABSENT)
            self.rho = _grown(self.rho, capacity, 0)
            self.one = _grown(self.one, capacity // BLOCK, 0)
        if piece.count > self.rows:
            coarse, residual, shift = _exact(piece)
            kernels.measure(
                coarse, residual, shift, self.rows, piece.count, metric_is_ip, self.base, self.rho, self.one
            )
            self.rows = piece.count
            return True
        return False

    def segments(self, piece: Piece, learned: Front | None) -> list[Segment]:
        """The part of a piece that has a front, and the rest."""
        exact = _exact(piece)
        coarse = (exact[0], exact[2], self.rho, self.one, self.one, self.base)
        blocks = -(-piece.count // BLOCK)
        split = 0
        segments = []
        if self.front is not None and self.front.learned is learned:
            split = blocks if self.front.rows >= piece.count else self.front.rows // BLOCK
            plane, rest = self.front.planes(self.base)
            segments.append(Segment(piece.first, piece.count, 0, split, plane, rest, coarse, exact, True))
        segments.append(Segment(piece.first, piece.count, split, blocks, coarse, _NO_REST, coarse, exact, False))
        return [segment for segment in segments if segment.start < segment.stop]


class _FrontPlane:
    """The front of a chunk's first rows."""

    def __init__(self, learned: Front) -> None:
        self.learned = learned
        self.rows = 0
        self.data = np.empty((0, steps_of(learned.width), _LINE), dtype=np.int8)
        self.rest = np.empty((0, learned.lines_of_rest, _LINE), dtype=np.int8)
        self.shift = np.empty(0, dtype=np.uint8)
        self.near, self.all = _BlockErrors(), _BlockErrors()

    def extend(self, piece: Piece, count: int) -> int:
        """Take in rows up to ``count``; returns how many."""
        capacity = len(piece.shift)
        if len(self.shift) < capacity:
            self.data = _grown(self.data, capacity // BLOCK, 0)
            self.rest, self.shift = _grown(self.rest, capacity, 0), _grown(self.shift, capacity, 0)
            self.near.grow(capacity)
            self.all.grow(capacity)
        start = self.rows
        for at in range(start, count, _BUILT_AT_ONCE):
            self._put(piece, at, min(at + _BUILT_AT_ONCE, count))
        self.rows = max(start, count)
        return self.rows - start

    def _put(self, piece: Piece, start: int, stop: int) -> None:
        encoded = front.encode(self.learned, piece.between(start, stop))
        width, steps = self.learned.width, self.data.shape[1]
        rows = np.arange(start, stop, dtype=np.int64)
        padded = np.zeros((stop - start, 4 * steps), dtype=np.int8)
        padded[:, :width] = encoded.z[:, :width]
        self.data.reshape(-1, steps, BLOCK, 4)[rows // BLOCK, :, rows % BLOCK] = padded.reshape(-1, steps, 4)
        self.rest.reshape(len(self.rest), -1)[start:stop, : encoded.z.shape[1] - width] = encoded.z[:, width:]
        self.shift[start:stop] = encoded.shift
        self.near.put(start, encoded.near)
        self.all.put(start, encoded.all)

    def planes(self, base: NDArray[np.int64]) -> tuple[Plane, Plane]:
        """What is scanned, and what is looked up, as the kernels take them; the norms are those of the exact rows."""
        near, all = self.near, self.all
        return (self.data, self.shift, near.rho, near.one, near.two, base), (self.rest, all.rho, all.one, all.two)


class _BlockErrors:
    """``Errors`` by row (rho), and the largest of each block (eps as one, length as two)."""

    def __init__(self) -> None:
        self.rho = np.empty(0, dtype=np.int32)
        self.one = np.empty(0, dtype=np.int64)
        self.two = np.empty(0, dtype=np.int64)

    def grow(self, capacity: int) -> None:
        self.rho = _grown(self.rho, capacity, 0)
        self.one, self.two = _grown(self.one, capacity // BLOCK, 0), _grown(self.two, capacity // BLOCK, 0)

    def put(self, start: int, errors: Errors) -> None:
        """Those of rows that begin at ``start``."""
        if start % BLOCK:  # who has scanned the block already, by a moment's largest, takes the same off again
            self.one, self.two = self.one.copy(), self.two.copy()
        rows = np.arange(start, start + len(errors.rho), dtype=np.int64)
        self.rho[rows] = errors.rho
        np.maximum.at(self.one, rows // BLOCK, errors.eps)
        np.maximum.at(self.two, rows // BLOCK, errors.length)


class Planes:
    """The planes of one collection's rows."""

    def __init__(self, metric_is_ip: bool, kernels: Any) -> None:
        self._metric_is_ip = metric_is_ip
        self._kernels = kernels
        self._measured: list[_Measured] = []  # by piece
        self._asked = 0
        self._learned: Front | None = None
        self._learned_rows = 0

    def follow(self, rows: Rows, queries: int) -> Moment:
        """The planes of ``rows``, brought up to date; ``queries`` are about to be answered from them."""
        while len(self._measured) < len(rows.pieces):
            self._measured.append(_Measured())
        self._asked += queries * rows.count
        if self._asked >= _WORK_BEFORE and rows.count >= max(_FRONT_ROWS, _RELEARNED * self._learned_rows):
            self._learn(rows)
        budget = _BUILT_PER_QUERY * queries
        segments: list[Segment] = []
        for measured, piece in zip(self._measured, rows.pieces, strict=False):
            grew = measured.follow(piece, self._kernels, self._metric_is_ip)
            if self._learned is not None:
                if measured.front is None or measured.front.learned is not self._learned:
                    measured.front = _FrontPlane(self._learned)
                # the rows of a block that is still filling wait for a search that finds nothing new
                ready = piece.count // BLOCK * BLOCK if grew else piece.count
                budget -= measured.front.extend(piece, min(ready, measured.front.rows + budget))
            segments.extend(measured.segments(piece, self._learned))
        return Moment(segments, self._learned, steps_of(rows.dimension))

    def _learn(self, rows: Rows) -> None:
        self._learned_rows = rows.count
        self._learned = front.learn(_Sample(rows), rows.count)


class _Sample:
    """Rows that stand evenly among all, taken when they are asked for: together they would be some MB."""

    def __init__(self, rows: Rows) -> None:
        size = min(rows.count, _SAMPLE_ROWS)
        self._rows = rows
        self._places = np.arange(size, dtype=np.int64) * rows.count // size

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, part: slice, /) -> NDArray[np.int32]:
        return self._rows.take(self._places[part])


class Plain:
    """The exact rows as one matrix, for a collection so small that nothing else pays."""

    def __init__(self, dimension: int) -> None:
        self._rows = np.empty((0, dimension), dtype=np.int32)
        self._count = 0

    def follow(self, rows: Rows) -> NDArray[np.int32]:
        """``rows`` as int32 (n, dim)."""
        if rows.count > self._count:
            if rows.count > len(self._rows):
                larger = np.empty((max(rows.count, 2 * len(self._rows)), rows.dimension), dtype=np.int32)
                larger[: self._count] = self._rows[: self._count]
                self._rows = larger
            for first, part in rows.parts(_PART, self._count):
                self._rows[first : first + len(part)] = part
            self._count = rows.count
        return self._rows[: rows.count]


def _exact(piece: Piece) -> Plane:
    """(coarse, residual, shift) as the kernels take them."""
    return piece.coarse.reshape(*piece.coarse.shape[:2], _LINE), piece.residual, piece.shift


def _grown(array: NDArray[Any], capacity: int, filler: int) -> NDArray[Any]:
    shape = (capacity, *array.shape[1:])
    grown = np.full(shape, filler, dtype=array.dtype) if filler else np.zeros(shape, dtype=array.dtype)  # not touched
    grown[: len(array)] = array
    return grown
