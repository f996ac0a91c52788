"""Values by slot as a file holds them: bytes, joined, and read when somebody asks.

A million small objects take a hundred bytes each, and a second to make; joined they take what they hold and four bytes
more.  So what a store was opened with stays as it came, and of what was asked for the last is kept as it was read.

It does not know what a value means: the caller says how it is read.  Any thread may ask; one at a time appends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Generic, TypeVar, overload

import numpy as np

__all__ = ["Column", "Packed"]

T = TypeVar("T")

_AT_ONCE = 256
_KEPT_BYTES = 1 << 20  # of what was read one by one, its objects not counted
_OBJECT_BYTES = 64  # that each of these takes at least
_NARROW_BYTES = 1 << 32


class Packed(Sequence[bytes]):
    """Strings of bytes, appended only; there is room for the starts of ``count``, and more is made.

    Readers copy out of the buffer in one step, for nobody may hold on to it while it grows.
    """

    __slots__ = ("_count", "_data", "_start", "_starts")

    def __init__(self, count: int = 0) -> None:
        self._data = bytearray()
        self._starts = np.zeros(count + 1, dtype=np.uint32)
        self._start = self._starts.data  # whose items are ints of Python's
        self._count = 0

    @classmethod
    def of(cls, strings: list[bytes]) -> Packed:
        """These strings."""
        made = cls(len(strings))
        made.append(strings)
        return made

    def append(self, strings: Sequence[bytes]) -> None:
        """Put some behind the others."""
        first, stop, start = self._count, self._count + len(strings), len(self._data)
        joined = strings[0] if len(strings) == 1 else b"".join(strings)
        end = start + len(joined)
        if stop >= len(self._starts) or end >= _NARROW_BYTES:
            self._widen(stop, end)
        if len(strings) == 1:
            self._start[stop] = end
        else:
            sizes = np.fromiter(map(len, strings), dtype=np.int64, count=len(strings))
            self._starts[first + 1 : stop + 1] = np.cumsum(sizes, dtype=np.int64) + start
        self._data += joined
        self._count = stop

    def _widen(self, count: int, end: int) -> None:
        """Other starts in the place of these: of ``count`` strings at least, and for ``end`` bytes."""
        kind = np.uint64 if end >= _NARROW_BYTES else self._starts.dtype
        size = max(count + 1, 2 * len(self._starts)) if count >= len(self._starts) else len(self._starts)
        starts = np.zeros(size, dtype=kind)
        starts[: self._count + 1] = self._starts[: self._count + 1]
        self._starts, self._start = starts, starts.data

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        starts = self._start
        if isinstance(index, slice):
            first, stop, _ = index.indices(self._count)
            borders = starts[first : max(first, stop) + 1].tolist()
            data = bytes(self._data[borders[0] : borders[-1]])
            return [data[start - borders[0] : end - borders[0]] for start, end in pairwise(borders)]
        return bytes(self._data[starts[index] : starts[index + 1]])

    def __iter__(self) -> Iterator[bytes]:
        return chain.from_iterable(self[at : at + _AT_ONCE] for at in range(0, self._count, _AT_ONCE))


class Column(Sequence[T], Generic[T]):
    """Values of which the first stand in ``packed`` until somebody asks; others are appended as they are."""

    __slots__ = ("_count", "_fresh", "_known", "_known_bytes", "_packed", "_put", "_read", "_whole")

    def __init__(self, packed: Packed, read: Callable[[bytes], T]) -> None:
        self._packed = packed
        self._read = read
        self._count = len(packed)
        self._known: dict[int, T] = {}
        self._known_bytes = 0
        self._put: dict[int, T] = {}  # what was put over packed ones: looked for first, so no reader can undo it
        self._whole: list[T] = []  # what somebody read who asked for several
        self._fresh: list[T] = []

    def __len__(self) -> int:
        return self._count + len(self._fresh)

    @overload
    def __getitem__(self, slot: int) -> T: ...
    @overload
    def __getitem__(self, slot: slice) -> list[T]: ...
    def __getitem__(self, slot: int | slice) -> T | list[T]:
        count = self._count
        if isinstance(slot, slice):
            start, stop, _ = slot.indices(len(self))
            values = self._all()[start : min(stop, count)] if start < count else []
            for place in self._put.keys() & range(start, start + len(values)) if self._put else ():
                values[place - start] = self._put[place]
            return values + self._fresh[max(0, start - count) : max(0, stop - count)]
        if slot >= count:
            return self._fresh[slot - count]
        if self._put and slot in self._put:
            return self._put[slot]
        whole, known = self._whole, self._known
        if slot < len(whole):
            return whole[slot]
        try:
            return known[slot]
        except KeyError:
            data = self._packed[slot]
            if self._known_bytes > _KEPT_BYTES:
                known = self._known = {}
                self._known_bytes = 0
            self._known_bytes += _OBJECT_BYTES + len(data)
            value = known[slot] = self._read(data)
            return value

    def __setitem__(self, slot: int, value: T) -> None:
        if slot >= self._count:
            self._fresh[slot - self._count] = value
        else:
            self._put[slot] = value

    def __iter__(self) -> Iterator[T]:
        return iter(self[:])

    def extend(self, values: Iterable[T]) -> None:
        """Put some behind the others."""
        self._fresh.extend(values)

    def grow(self) -> None:
        """Take what has been appended to ``packed`` since; nothing else has been."""
        assert not self._fresh
        self._count = len(self._packed)

    def _all(self) -> list[T]:
        """The first: who asks for several at once asks for all of them."""
        whole, count, packed = self._whole, self._count, self._packed
        if len(whole) < count:
            starts = range(len(whole), count, _AT_ONCE)
            rest = [self._read(one) for start in starts for one in packed[start : min(start + _AT_ONCE, count)]]
            whole = self._whole = whole + rest
            self._known = {}
        return whole
