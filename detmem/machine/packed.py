"""Values by slot as a snapshot holds them: bytes, joined, and read when somebody asks.

A million small objects take a hundred bytes each, and a second to make; joined they take what they hold and four bytes
more.  So what a store was opened with stays as it came, and what was asked for is kept as it was read.

It does not know what a value means: the caller says how it is read.  Any thread may ask; one at a time appends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Generic, TypeVar, overload

import numpy as np

__all__ = ["Column", "Packed"]

T = TypeVar("T")

_AT_ONCE = 4096


class Packed(Sequence[bytes]):
    """``count`` strings of bytes, once all have been appended; ``room`` is what they can take together at most."""

    def __init__(self, count: int, room: int) -> None:
        self._data = bytearray()
        self._starts = np.zeros(count + 1, dtype=np.uint32 if room < 1 << 32 else np.uint64)
        self._start = self._starts.data  # whose items are ints of Python's
        self._appended = 0

    def append(self, strings: list[bytes]) -> None:
        """Put some behind the others."""
        start, stop = self._appended, self._appended + len(strings)
        ends = np.cumsum(np.fromiter(map(len, strings), dtype=np.int64, count=len(strings)))
        self._starts[start + 1 : stop + 1] = ends + len(self._data)
        self._data += b"".join(strings)
        self._appended = stop

    def __len__(self) -> int:
        return len(self._start) - 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            first, stop, _ = index.indices(len(self))
            borders = self._starts[first : max(first, stop) + 1].tolist()
            data = bytes(memoryview(self._data)[borders[0] : borders[-1]])
            return [data[start - borders[0] : end - borders[0]] for start, end in pairwise(borders)]
        return bytes(memoryview(self._data)[self._start[index] : self._start[index + 1]])


class Column(Sequence[T], Generic[T]):
    """Values of which the first stand in ``packed`` until somebody asks; others are appended as they are."""

    __slots__ = ("_count", "_fresh", "_known", "_packed", "_read", "_whole")

    def __init__(self, packed: Packed, read: Callable[[bytes], T]) -> None:
        self._packed: Packed | None = packed
        self._read = read
        self._count = len(packed)
        self._known: dict[int, T] | list[T] = {}
        self._whole: list[list[T]] = []  # of those who read all at once, the first
        self._fresh: list[T] = []

    def __len__(self) -> int:
        return self._count + len(self._fresh)

    @overload
    def __getitem__(self, slot: int) -> T: ...
    @overload
    def __getitem__(self, slot: slice) -> list[T]: ...
    def __getitem__(self, slot: int | slice) -> T | list[T]:
        if isinstance(slot, slice):
            start, stop, _ = slot.indices(len(self))
            count = self._count
            return self._all()[start:stop] + self._fresh[max(0, start - count) : max(0, stop - count)]
        if slot >= self._count:
            return self._fresh[slot - self._count]
        known = self._known
        try:
            return known[slot]
        except KeyError:
            packed = self._packed
            if packed is None:  # another thread has just read all
                return self._known[slot]
            value = known[slot] = self._read(packed[slot])
            return value

    def __setitem__(self, slot: int, value: T) -> None:
        if slot >= self._count:
            self._fresh[slot - self._count] = value
        else:  # into what everybody has: what is only read meanwhile must not take its place
            self._all()[slot] = value

    def __iter__(self) -> Iterator[T]:
        return chain(self._all(), self._fresh)

    def extend(self, values: Iterable[T]) -> None:
        """Put some behind the others."""
        self._fresh.extend(values)

    def _all(self) -> list[T]:
        """The first: who asks for several at once asks for all of them."""
        packed = self._packed
        if packed is not None:
            starts = range(0, self._count, _AT_ONCE)
            self._whole.append([self._read(one) for start in starts for one in packed[start : start + _AT_ONCE]])
            self._known, self._packed = self._whole[0], None
        return self._whole[0]
