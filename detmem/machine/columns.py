"""A collection's metadata by field instead of by record: what a filter reads when the records are many.

Rule 1  Columns are caches of fields that filters have asked for.  They are never logged, hashed or saved, and cannot
        show: what an operator means is said in ``filters``, value by value, and a column gives the same verdicts.
Rule 2  Columns follow the rows: ``follow`` reads the metadata of those that were appended since, and no other.
Rule 3  What ``follow`` hands out is a moment: later rows may fill the places behind it, and nothing else changes there.
        The caller sees to it that one thread at a time is inside ``follow``.

A row has a kind and a number in each column: the bool or int itself, the 64 bits of the float, the number of the text
among the distinct ones, or of the list among all.  So equality of scalars is equality of numbers, the two zeros aside.
This room knows no operator by name, and not who lives.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, repeat
from operator import contains, ge, gt, le, lt
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from detmem.machine.encoding import Metadata, MetadataValue, Scalar

__all__ = ["NUMBERS", "TEXT", "Column", "Columns", "Compare", "Mask"]

Mask: TypeAlias = NDArray[np.bool_]
Compare: TypeAlias = Callable[[Any, Any], Any]  # gt, ge, lt or le of operator

_MISSING, _NONE, _BOOL, _INT, _FLOAT, TEXT, _LIST = range(7)
NUMBERS: Final = (_INT, _FLOAT)
_KINDS: Final[dict[type, int]] = {
    type(...): _MISSING,
    type(None): _NONE,
    bool: _BOOL,
    int: _INT,
    float: _FLOAT,
    str: TEXT,
    list: _LIST,
}

_ROWS_AT_ONCE = 1 << 16  # whose values stand in one Python list
_FIRST_CAPACITY = 64
_KEPT = 64  # columns; the one that was asked for longest ago goes
_ONE_BY_ONE = 64  # numbers that are sought one after the other; for more, sorting is quicker
_FEW_SHOWN = 16  # numbers in a table that are better sought so than looked up
_COMPARED_BEFORE = 16  # times that each text has been compared before sorting is worth its time
_INT64 = np.dtype(np.int64)
_LEAST, _MOST = -(2**63), 2**63 - 1
_WIDTHS = tuple(np.iinfo(kind) for kind in (np.int8, np.int16, np.int32, np.int64))


class Column:
    """One field of the rows of a moment: ``kinds`` uint8 (n,), ``numbers`` int8 ... int64 (n,)."""

    __slots__ = ("_kinds", "_lists", "_met", "_numbers", "_texts")

    def __init__(self, growing: _Growing, count: int) -> None:
        self._met = growing.met
        self._kinds = growing.kinds.first(count)
        self._numbers = growing.numbers.first(count)
        self._texts = growing.texts
        self._lists = growing.lists.moment()

    def exists(self) -> Mask:
        """Rows that have the field."""
        return np.asarray(self._kinds != _MISSING)

    def stores(self, kinds: Iterable[int], live: Mask) -> bool:
        """Whether some row of ``live`` has a value of one of these kinds."""
        return any(bool(((self._kinds == kind) & live).any()) for kind in kinds if kind in self._met)

    def among(self, operands: Iterable[MetadataValue]) -> Mask:
        """Rows whose value equals one of ``operands``."""
        sought: dict[int, list[int]] = {}
        parts = []
        for operand in operands:
            if isinstance(operand, list):
                if _LIST in self._met:
                    parts.append(self._numbered(_LIST, self._lists.equal(operand)))
            else:
                for kind, number in self._spellings(operand):
                    sought.setdefault(kind, []).append(number)
        parts += [
            self._of_kind(kind, _among(self._numbers, numbers)) for kind, numbers in sought.items() if kind in self._met
        ]
        return self._any(parts)

    def ordered(self, compare: Compare, bound: int | float | str) -> Mask:
        """Rows whose value is of the type of ``bound`` and stands so to it."""
        parts = []
        if isinstance(bound, str):
            if TEXT in self._met:
                parts.append(self._numbered(TEXT, self._texts.ordered(compare, bound)))
        else:
            if _INT in self._met:
                parts.append(self._of_kind(_INT, _compared_ints(self._numbers, compare, bound)))
            if _FLOAT in self._met:
                floats = self._numbers.view(np.float64)
                parts.append(self._of_kind(_FLOAT, _compared_floats(floats, compare, bound)))
        return self._any(parts)

    def containing(self, element: Scalar) -> Mask:
        """Rows with a list that has ``element``, or a text that it is a part of."""
        parts = []
        if isinstance(element, str) and TEXT in self._met:
            parts.append(self._numbered(TEXT, _each(contains, self._texts.keys, element)))
        if _LIST in self._met:
            parts.append(self._numbered(_LIST, self._lists.containing(element)))
        return self._any(parts)

    def _spellings(self, operand: Scalar) -> Iterator[tuple[int, int]]:
        """(kind, number) of each way that a value equal to ``operand`` is stored."""
        if operand is None:
            yield _NONE, 0
        elif isinstance(operand, bool):
            yield _BOOL, int(operand)
        elif isinstance(operand, str):
            if operand in self._texts.numbers:
                yield TEXT, self._texts.numbers[operand]
        else:
            whole, near = int(operand), float(operand)
            if whole == operand and _LEAST <= whole <= _MOST:
                yield _INT, whole
            if near == operand:
                bits = int(np.float64(near).view(np.int64))
                yield _FLOAT, bits
                if near == 0:
                    yield _FLOAT, bits ^ _LEAST  # the other zero

    def _numbered(self, kind: int, table: Mask) -> Mask:
        """Rows of a kind whose number ``table`` shows."""
        shown = np.flatnonzero(table)
        if len(shown) <= _FEW_SHOWN:
            return self._of_kind(kind, _among(self._numbers, shown.tolist()))
        places = self._numbers.astype(np.intp, copy=False)
        return self._of_kind(kind, table.take(places, mode="clip"))  # rows of other kinds have any number

    def _of_kind(self, kind: int, verdicts: Mask) -> Mask:
        """``verdicts``, a fresh array, for rows of a kind; False for others."""
        if len(self._met) > 1:
            verdicts &= self._kinds == kind
        return verdicts

    def _any(self, parts: list[Mask]) -> Mask:
        """Rows in one of ``parts``, fresh arrays."""
        if not parts:
            return np.zeros(len(self._kinds), dtype=np.bool_)
        chosen = parts[0]
        for part in parts[1:]:
            chosen |= part
        return chosen


class Columns:
    """The columns of one collection's rows."""

    def __init__(self) -> None:
        self._growing: dict[str, _Growing] = {}  # the one that was asked for last stands last

    def follow(self, metadatas: Sequence[Metadata], count: int, fields: Sequence[str]) -> dict[str, Column]:
        """The columns of ``fields`` for the first ``count`` rows; ``metadatas`` are those of earlier calls and more."""
        moment = {}
        for field in fields:
            growing = self._growing.pop(field, None) or _Growing()  # out, so that an interrupt leaves none half grown
            growing.follow(metadatas, count, field)
            self._growing[field] = growing
            moment[field] = Column(growing, count)
        for field in list(self._growing)[: -max(_KEPT, len(fields))]:
            del self._growing[field]
        return moment


class _Growing:
    """One field of all rows so far."""

    def __init__(self) -> None:
        self.met: frozenset[int] = frozenset()  # kinds
        self.kinds = _Array(np.uint8)
        self.numbers = _Array(np.int8)
        self.texts = _Texts()
        self.lists = _Lists()

    def follow(self, metadatas: Sequence[Metadata], count: int, field: str) -> None:
        """Read the rows that are new."""
        for start in range(self.kinds.count, count, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, count)
            self._take([metadata.get(field, ...) for metadata in metadatas[start:stop]])

    def _take(self, values: list[Any]) -> None:
        kinds = np.fromiter(map(_KINDS.__getitem__, map(type, values)), dtype=np.uint8, count=len(values))
        numbers = np.zeros(len(values), dtype=np.int64)
        met = np.flatnonzero(np.bincount(kinds)).tolist()
        for kind in met:
            if kind not in (_MISSING, _NONE):
                here = np.flatnonzero(kinds == kind)
                some = values if len(here) == len(values) else [values[at] for at in here.tolist()]
                numbers[here] = self._numbered(kind, some)
        self.met |= frozenset(met)
        self.kinds.extend(kinds)
        self.numbers.extend(numbers)

    def _numbered(self, kind: int, values: list[Any]) -> NDArray[np.int64]:
        if kind == _FLOAT:
            self.numbers.widen(_INT64)  # else zeros alone would leave it narrow, and it is viewed as floats
            return np.array(values, dtype=np.float64).view(np.int64)
        if kind == TEXT:
            values = self.texts.numbered(values)
        elif kind == _LIST:
            return self.lists.numbered(values)
        return np.array(values, dtype=np.int64)


class _Distinct:
    """Keys by number, in the order in which they were first met."""

    __slots__ = ("keys", "numbers")

    def __init__(self) -> None:
        self.keys: list[Any] = []
        self.numbers: dict[Any, int] = {}

    def numbered(self, keys: Sequence[Any]) -> list[int]:
        """The number of each key."""
        known = self.numbers
        numbers = [known.setdefault(key, len(known)) for key in keys]
        fresh = list(islice(reversed(known), len(known) - len(self.keys)))
        self.keys.extend(reversed(fresh))
        return numbers


class _Texts(_Distinct):
    """Distinct texts, put in order once they have been compared so often that sorting them is worth its time.

    Readers may do that side by side: whatever part of the texts they sort, the answers are the same.
    """

    __slots__ = ("_compared", "_sorted")

    def __init__(self) -> None:
        super().__init__()
        self._compared = 0
        self._sorted: tuple[list[str], NDArray[np.int32]] = [], np.empty(0, dtype=np.int32)

    def ordered(self, compare: Compare, bound: str) -> Mask:
        """Which texts stand so to ``bound``."""
        self._compared += len(self.keys) - len(self._sorted[0])
        if self._compared > _COMPARED_BEFORE * len(self.keys):
            self._sort(len(self.keys))
        texts, ranks = self._sorted
        turn = bisect_left(texts, bound) if compare in (ge, lt) else bisect_right(texts, bound)
        verdicts = ranks >= turn if compare in (ge, gt) else ranks < turn
        return np.concatenate((verdicts, _each(compare, self.keys[len(ranks) :], bound)))

    def _sort(self, count: int) -> None:
        order = sorted(range(count), key=self.keys.__getitem__)
        ranks = np.empty(count, dtype=np.int32)
        ranks[order] = np.arange(count, dtype=np.int32)
        self._sorted = [self.keys[number] for number in order], ranks
        self._compared = 0


class _ListsMoment(NamedTuple):
    """Lists as they stood: where in ``parts`` each begins, its size, and for each part its list and its number."""

    starts: NDArray[Any]
    sizes: NDArray[Any]
    owners: NDArray[Any]
    parts: NDArray[Any]
    elements: _Distinct

    def containing(self, element: Scalar) -> Mask:
        """Lists that have ``element``."""
        table = np.zeros(len(self.sizes), dtype=np.bool_)
        number = self.elements.numbers.get(_key(element))
        if number is not None:
            table[self.owners[_among(self.parts, [number])]] = True
        return table

    def equal(self, values: list[Scalar]) -> Mask:
        """Lists of these elements, in this order."""
        table = _among(self.sizes, [len(values)])
        for place, value in enumerate(values):
            here = np.flatnonzero(table)
            number = self.elements.numbers.get(_key(value), -1)
            table[here] = _among(self.parts[self.starts[here].astype(np.intp) + place], [number])
        return table


class _Lists:
    """All lists, one after the other."""

    def __init__(self) -> None:
        self._starts, self._sizes, self._owners, self._parts = (_Array(np.int8) for _ in range(4))
        self._elements = _Distinct()

    def numbered(self, lists: list[list[Scalar]]) -> NDArray[np.int64]:
        """Append ``lists``; the number of each."""
        sizes = np.array([len(values) for values in lists], dtype=np.int64)
        numbers = np.arange(self._sizes.count, self._sizes.count + len(lists), dtype=np.int64)
        parts = self._elements.numbered([_key(value) for values in lists for value in values])
        self._starts.extend(self._parts.count + np.cumsum(sizes, dtype=np.int64) - sizes)
        self._sizes.extend(sizes)
        self._owners.extend(np.repeat(numbers, sizes.astype(np.intp)))
        self._parts.extend(np.array(parts, dtype=np.int64))
        return numbers

    def moment(self) -> _ListsMoment:
        """As they stand."""
        starts, sizes, owners, parts = (
            array.first(array.count) for array in (self._starts, self._sizes, self._owners, self._parts)
        )
        return _ListsMoment(starts, sizes, owners, parts, self._elements)


class _Array:
    """Integers, appended only, no wider than they need.  Growing puts a larger array in the place of the old."""

    __slots__ = ("_data", "count")

    def __init__(self, kind: type[np.integer[Any]]) -> None:
        self._data: NDArray[Any] = np.empty(_FIRST_CAPACITY, dtype=kind)
        self.count = 0

    def first(self, count: int) -> NDArray[Any]:
        """The first ``count``, as they will stay."""
        return self._data[:count]

    def widen(self, kind: np.dtype[Any]) -> None:
        """Make room for wider numbers."""
        if kind.itemsize > self._data.dtype.itemsize:
            self._data = self._data.astype(kind)

    def extend(self, part: NDArray[Any]) -> None:
        """Append ``part``."""
        if len(part) and part.dtype != self._data.dtype:
            least, most = int(part.min()), int(part.max())
            self.widen(next(info.dtype for info in _WIDTHS if info.min <= least and most <= info.max))
        stop = self.count + len(part)
        if stop > len(self._data):
            larger = np.empty(max(stop, 2 * len(self._data)), dtype=self._data.dtype)
            larger[: self.count] = self._data[: self.count]
            self._data = larger
        self._data[self.count : stop] = part
        self.count = stop


# ---------------------------------------------------------------------------------------------------------- arithmetic


def _key(scalar: Any) -> Any:
    """Equal for equal scalars, and for no others: Python takes True for 1."""
    return (scalar,) if type(scalar) is bool else scalar


def _each(compare: Compare, texts: list[str], operand: str) -> Mask:
    return np.fromiter(map(compare, texts, repeat(operand)), dtype=np.bool_, count=len(texts))


def _among(numbers: NDArray[Any], sought: Iterable[int]) -> Mask:
    """Which of ``numbers`` are one of ``sought``."""
    info = np.iinfo(numbers.dtype)
    sought = [number for number in sought if info.min <= number <= info.max]
    if len(sought) > _ONE_BY_ONE:
        return np.isin(numbers.astype(np.int64), np.array(sought, dtype=np.int64))
    chosen = np.zeros(len(numbers), dtype=np.bool_)
    for number in sought:
        chosen |= numbers == numbers.dtype.type(number)
    return chosen


def _compared_ints(numbers: NDArray[Any], compare: Compare, bound: int | float) -> Mask:
    """``compare(number, bound)`` by value: an int is above a bound if it is above its floor, and so on."""
    whole = math.floor(bound) if compare in (gt, le) else math.ceil(bound)
    info = np.iinfo(numbers.dtype)
    if info.min <= whole <= info.max:
        return np.asarray(compare(numbers, numbers.dtype.type(whole)), dtype=np.bool_)
    return np.full(len(numbers), compare(0, whole), dtype=np.bool_)


def _compared_floats(numbers: NDArray[np.float64], compare: Compare, bound: int | float) -> Mask:
    """``compare(number, bound)`` by value: between an int and the float that is nearest to it, there is no float."""
    near = float(bound)
    if near > bound:
        compare = ge if compare in (gt, ge) else lt
    elif near < bound:
        compare = gt if compare in (gt, ge) else le
    with np.errstate(invalid="ignore"):  # rows of other kinds have any bits
        return np.asarray(compare(numbers, near), dtype=np.bool_)
