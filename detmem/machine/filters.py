"""``where``: which records a filter means.  Normative text: ``spec/filters.md``.

Rule 1  ``parse`` settles everything that does not depend on records: a filter that parses has one meaning, and
        nothing in it is ignored.  What it refuses, it refuses with the place (``where['$or'][1]['year']['$gt']``).
Rule 2  ``Filter.select`` is a pure function of the live records.  Row order, the other clauses and short circuits
        cannot show, neither in the mask nor in the error: order comparisons are checked against all records before
        any record is decided.
Rule 3  Numbers compare exactly, int with float included (Python's own comparison is exact); a bool is no number.
Rule 4  ``Filter.select_columns`` gives the same from columns, in a few passes over arrays.  Each operator stands here
        once: the test of a value, which is what it means, beside the question to a column.

The filter compiles once into closures.  This room knows no vector, id or distance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import ge, gt, le, lt
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from detmem.errors import UsageError
from detmem.machine.columns import NUMBERS, TEXT, Column, Compare, Mask
from detmem.machine.encoding import MetadataValue, normalise_scalar, normalise_value

__all__ = ["MAX_CLAUSES", "MAX_FILTER_DEPTH", "Filter", "parse"]

MAX_FILTER_DEPTH: Final = 16
"""``where`` maps that may stand inside one another through ``$and``, ``$or`` and ``$not``, the outermost counted."""

MAX_CLAUSES: Final = 1000
"""Tests in one filter: every field operator, and every empty map under ``$and``, ``$or``, ``$not``, is one."""

Record: TypeAlias = Mapping[str, MetadataValue]
_ValueTest: TypeAlias = Callable[[object], bool]  # of a stored value, or of _MISSING
_RecordTest: TypeAlias = Callable[[Record], bool]
_ColumnsTest: TypeAlias = Callable[["_Moment"], Mask]

_MISSING: Final = object()


class _Moment(NamedTuple):
    """The columns of so many rows, by field."""

    columns: Mapping[str, Column]
    rows: int


class _Condition(NamedTuple):
    """An operator with its operand."""

    of_value: _ValueTest
    of_column: Callable[[Column], Mask]


class _Test(NamedTuple):
    """A part of a filter."""

    of_record: _RecordTest
    of_columns: _ColumnsTest


class Filter:
    """A parsed ``where``.  Immutable; made by ``parse``.

    Attributes: ``is_all``: True for ``None`` and ``{}``, the filters that name no condition.  ``fields``: those that
    it asks for, each once.
    """

    __slots__ = ("_orders", "_test", "fields", "is_all")

    def __init__(self, test: _Test, orders: tuple[_Order, ...], fields: tuple[str, ...], is_all: bool) -> None:
        self._test = test
        self._orders = orders
        self.fields = fields
        self.is_all = is_all

    def select(self, metadatas: Sequence[Record | None]) -> Mask:
        """Which entries match: a bool array of shape ``(len(metadatas),)``.

        ``metadatas`` holds the normalised metadata of *all* live records of the collection; an entry None is no live
        record: it is False and takes no part in type conflicts.

        Raises ``UsageError`` when an order operator meets a record whose field has the other ordered type (number or
        str).
        """
        for order in self._orders:
            order.check(metadatas)
        if self.is_all:
            chosen = (record is not None for record in metadatas)
        else:
            matches = self._test.of_record
            chosen = (record is not None and matches(record) for record in metadatas)
        return np.fromiter(chosen, dtype=np.bool_, count=len(metadatas))

    def select_columns(self, columns: Mapping[str, Column], live: Mask) -> Mask:
        """``select`` for records that lie in columns, those of ``fields``; ``live`` bool (n,) says which rows are any.

        Raises ``UsageError`` as ``select``.
        """
        for order in self._orders:
            if columns[order.field].stores(order.foreign, live):
                raise order.conflict()
        chosen = self._test.of_columns(_Moment(columns, len(live)))
        chosen &= live
        return chosen


def parse(where: object) -> Filter:
    """The filter that ``where`` means; ``None`` and ``{}`` match every record.

    Raises ``UsageError``, naming the place, for anything that is not a filter: an unknown operator or ``$``-key, an
    operand of the wrong type, a key that is no str, a map nested deeper than ``MAX_FILTER_DEPTH``, more than
    ``MAX_CLAUSES`` tests.
    """
    if where is None:
        return _EVERYTHING
    parser = _Parser()
    test = parser.where(where, "where", 1)
    is_all = isinstance(where, Mapping) and not where
    return Filter(test, tuple(parser.orders), tuple(parser.fields), is_all)


class _Order(NamedTuple):
    """One order comparison, remembered for the check against all records."""

    field: str
    operator: str
    operand_is_text: bool

    @property
    def foreign(self) -> tuple[int, ...]:
        """The kinds of column values that it conflicts with."""
        return NUMBERS if self.operand_is_text else (TEXT,)

    def check(self, metadatas: Sequence[Record | None]) -> None:
        """Refuse records whose field has the other ordered type."""
        field = self.field
        foreign: tuple[type, ...] = (int, float) if self.operand_is_text else (str,)
        for record in metadatas:
            if record is not None and type(record.get(field)) in foreign:  # type(), because a bool is no number
                raise self.conflict()

    def conflict(self) -> UsageError:
        """It names no record and says "number" for int and float alike, so it does not depend on row order either."""
        operand, stored = ("str", "number") if self.operand_is_text else ("number", "str")
        return UsageError(
            f"field {self.field!r:.80}: {self.operator} compares with a {operand}, "
            f"but some record stores a {stored} there; numbers order with numbers and str with str"
        )


class _Parser:
    """One walk over a ``where``: checks, counts, compiles.  ``place`` is the path that messages name."""

    def __init__(self) -> None:
        self.orders: list[_Order] = []
        self.fields: dict[str, None] = {}
        self.clauses = 0

    def where(self, where: object, place: str, depth: int) -> _Test:
        if not isinstance(where, Mapping):
            raise UsageError(f"{place}: expected a map of conditions, found {type(where).__name__}")
        if depth > MAX_FILTER_DEPTH:
            raise UsageError(f"{place}: maps nested deeper than {MAX_FILTER_DEPTH}")
        if not where:
            self.count(place)
            return _ALWAYS
        tests: list[_Test] = []
        for key, condition in where.items():
            if not isinstance(key, str):
                raise UsageError(
                    f"{place}: expected field names or $and, $or, $not, found the {type(key).__name__} {key!r}"
                )
            name = str(normalise_scalar(key, f"{place}: field name"))
            inner = f"{place}[{name!r:.80}]"
            if name == "$and" or name == "$or":
                parts = self.several(condition, inner, depth)
                tests.append(_every(parts) if name == "$and" else _some(parts))
            elif name == "$not":
                tests.append(_negated(self.where(condition, inner, depth + 1)))
            elif name.startswith("$"):
                raise UsageError(f"{inner}: expected $and, $or or $not beside field names, found {name!r:.80}")
            else:
                self.fields[name] = None
                tests.extend(_of_field(name, asked) for asked in self.conditions(name, condition, inner))
        return _every(tests)

    def several(self, parts: object, place: str, depth: int) -> list[_Test]:
        if not isinstance(parts, list):
            raise UsageError(f"{place}: expected a list of maps, found {type(parts).__name__}")
        if not parts:
            raise UsageError(f"{place}: expected at least one map, found an empty list")
        return [self.where(part, f"{place}[{index}]", depth + 1) for index, part in enumerate(parts)]

    def conditions(self, field: str, condition: object, place: str) -> list[_Condition]:
        """What is asked of one field: a plain value means ``$eq``, a map holds operators and nothing else."""
        if not isinstance(condition, Mapping):
            self.count(place)
            return [_eq(condition, place)]
        if not condition:
            raise UsageError(f"{place}: expected a value or a map of operators, found an empty map")
        tests = []
        for operator, operand in condition.items():
            if not isinstance(operator, str) or operator not in _OPERATORS:
                known = " ".join(_OPERATORS)
                raise UsageError(
                    f"{place}: expected operators ({known}), found the {type(operator).__name__} {operator!r}"
                )
            inner = f"{place}[{str(operator)!r}]"
            self.count(inner)
            tests.append(_OPERATORS[operator](operand, inner))
            if operator in _ORDERS:
                self.orders.append(_Order(field, str(operator), isinstance(operand, str)))
        return tests

    def count(self, place: str) -> None:
        self.clauses += 1
        if self.clauses > MAX_CLAUSES:
            raise UsageError(f"{place}: more than {MAX_CLAUSES} clauses in one filter")


# ---------------------------------------------------------------------------------------------- tests of a whole record


_ALWAYS: Final = _Test(lambda record: True, lambda moment: np.ones(moment.rows, dtype=np.bool_))
_EVERYTHING: Final = Filter(_ALWAYS, (), (), is_all=True)


def _of_field(field: str, condition: _Condition) -> _Test:
    of_value, of_column = condition
    return _Test(
        lambda record: of_value(record.get(field, _MISSING)),
        lambda moment: of_column(moment.columns[field]),
    )


def _negated(test: _Test) -> _Test:
    of_record, of_columns = test
    return _Test(lambda record: not of_record(record), lambda moment: ~of_columns(moment))


def _every(tests: list[_Test]) -> _Test:
    if len(tests) == 1:
        return tests[0]
    of_record, of_columns = zip(*tests, strict=True)

    def every(record: Record) -> bool:
        for test in of_record:  # noqa: SIM110 - a plain loop is twice as quick as all() over a generator
            if not test(record):
                return False
        return True

    return _Test(every, lambda moment: _joined(np.logical_and, of_columns, moment))


def _some(tests: list[_Test]) -> _Test:
    if len(tests) == 1:
        return tests[0]
    of_record, of_columns = zip(*tests, strict=True)

    def some(record: Record) -> bool:
        for test in of_record:  # noqa: SIM110 - as above
            if test(record):
                return True
        return False

    return _Test(some, lambda moment: _joined(np.logical_or, of_columns, moment))


def _joined(join: np.ufunc, tests: Sequence[_ColumnsTest], moment: _Moment) -> Mask:
    chosen = tests[0](moment)
    for test in tests[1:]:
        join(chosen, test(moment), out=chosen)
    return chosen


# ---------------------------------------------------------------------------------------------- tests of a stored value


def _equal(stored: object, operand: object) -> bool:
    """Equality of two metadata values: a bool equals bools only, numbers compare exactly, lists element by element."""
    if type(stored) is list and type(operand) is list:
        return len(stored) == len(operand) and all(map(_equal, stored, operand))
    return (type(stored) is bool) == (type(operand) is bool) and stored == operand


def _equal_to(operand: MetadataValue) -> _ValueTest:
    """``_equal`` with the operand's type settled once."""
    if operand is None or operand is True or operand is False:
        return lambda stored: stored is operand
    if type(operand) is str:
        return lambda stored: stored == operand
    if type(operand) is list:
        return lambda stored: _equal(stored, operand)
    return lambda stored: stored == operand and type(stored) is not bool


def _eq(operand: object, place: str) -> _Condition:
    value = normalise_value(operand, place)
    return _Condition(_equal_to(value), lambda column: column.among([value]))


def _ne(operand: object, place: str) -> _Condition:
    return _not(_eq(operand, place))


def _in(operand: object, place: str) -> _Condition:
    """Membership by ``_equal``.  Scalars go into sets, where 1 and 1.0 are one element, as they must; bools apart."""
    if not isinstance(operand, list | tuple):
        raise UsageError(f"{place}: expected a list of values, found {type(operand).__name__}")
    values = [normalise_value(element, f"{place}[{index}]") for index, element in enumerate(operand)]
    bools = frozenset(value for value in values if isinstance(value, bool))
    scalars = frozenset(value for value in values if not isinstance(value, bool | list))
    lists = [value for value in values if isinstance(value, list)]

    def among(stored: object) -> bool:
        if type(stored) is list:
            return any(_equal(stored, value) for value in lists)
        return stored in (bools if type(stored) is bool else scalars)

    return _Condition(among, lambda column: column.among(values))


def _nin(operand: object, place: str) -> _Condition:
    return _not(_in(operand, place))


def _not(condition: _Condition) -> _Condition:
    of_value, of_column = condition
    return _Condition(lambda stored: not of_value(stored), lambda column: ~of_column(column))


def _exists(operand: object, place: str) -> _Condition:
    if not isinstance(operand, bool | np.bool_):
        raise UsageError(f"{place}: expected True or False, found {type(operand).__name__}")
    there = _Condition(lambda stored: stored is not _MISSING, lambda column: column.exists())
    return there if operand else _not(there)


def _contains(operand: object, place: str) -> _Condition:
    element = normalise_scalar(operand, place)
    equal = _equal_to(element)

    def contains(stored: object) -> bool:
        if type(stored) is list:
            return any(map(equal, stored))
        return type(stored) is str and type(element) is str and element in stored

    return _Condition(contains, lambda column: column.containing(element))


def _order(compare: Compare) -> Callable[[object, str], _Condition]:
    """An order operator; ``type()`` keeps bools from being numbers."""

    def condition(operand: object, place: str) -> _Condition:
        bound = normalise_scalar(operand, place)
        if bound is None or isinstance(bound, bool):
            raise UsageError(f"{place}: expected an int, float or str, found {type(operand).__name__}")
        kinds = (str,) if isinstance(bound, str) else (int, float)

        def stands(stored: object) -> bool:
            return type(stored) in kinds and compare(stored, bound)

        return _Condition(stands, lambda column: column.ordered(compare, bound))

    return condition


_ORDERS: Final = {"$gt": gt, "$gte": ge, "$lt": lt, "$lte": le}

_OPERATORS: Final[dict[str, Callable[[object, str], _Condition]]] = {
    "$eq": _eq,
    "$ne": _ne,
    **{name: _order(compare) for name, compare in _ORDERS.items()},
    "$in": _in,
    "$nin": _nin,
    "$exists": _exists,
    "$contains": _contains,
}
