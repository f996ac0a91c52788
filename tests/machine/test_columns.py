"""Columns say what the tests of values say: over every operator and mix of types, while rows are added and die."""

from __future__ import annotations

import itertools
import operator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detmem.errors import UsageError
from detmem.machine import columns
from detmem.machine.columns import Column, Columns
from detmem.machine.filters import Filter, parse
from tests.machine.test_filters import records, wheres

# ------------------------------------------------------------------------------------------- against the row-wise tests

shortcuts = st.fixed_dictionaries(
    {
        "_COMPARED_BEFORE": st.sampled_from([0, 10**9]),  # texts are sorted at once, or never
        "_ONE_BY_ONE": st.sampled_from([0, 64]),
        "_FEW_SHOWN": st.sampled_from([0, 16]),
        "_ROWS_AT_ONCE": st.sampled_from([1, 3, 1 << 16]),
        "_KEPT": st.sampled_from([1, 64]),
    }
)


def verdict(where: Filter, rows: list[Any], live: list[bool]) -> list[bool] | str:
    """By rows: which match, or the error."""
    try:
        return where.select([row if alive else None for row, alive in zip(rows, live, strict=True)]).tolist()
    except UsageError as error:
        return str(error)


def verdict_of_columns(where: Filter, moment: dict[str, Column], live: list[bool]) -> list[bool] | str:
    try:
        chosen = where.select_columns(moment, np.array(live, dtype=np.bool_))
    except UsageError as error:
        return str(error)
    assert chosen.dtype == np.bool_
    return chosen.tolist()


@given(
    st.lists(wheres.map(parse), min_size=1, max_size=4),
    st.lists(st.tuples(records, st.booleans()), max_size=24),
    st.lists(st.integers(0, 24), max_size=4),
    shortcuts,
)
def test_columns_say_what_rows_say_while_rows_are_added_and_die(
    filters: list[Filter], rows: list[tuple[dict[str, Any], bool]], stops: list[int], shortcut: dict[str, int]
) -> None:
    """Each moment is asked again at the end, when its columns have long gone on."""
    metadatas: list[dict[str, Any]] = []
    followed = Columns()
    asked: list[tuple[Filter, dict[str, Column], list[bool], Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in shortcut.items():
            patch.setattr(columns, name, value)
        for stop in [*sorted(min(stop, len(rows)) for stop in stops), len(rows)]:
            metadatas += [row for row, _ in rows[len(metadatas) : stop]]
            for live in ([alive for _, alive in rows[:stop]], [True] * stop):  # those that died, before they did
                for where in filters:
                    expected = verdict(where, metadatas, live)
                    moment = followed.follow(metadatas, stop, where.fields)
                    assert verdict_of_columns(where, moment, live) == expected
                    asked.append((where, moment, live, expected))
        for where, moment, live, expected in asked:
            assert verdict_of_columns(where, moment, live) == expected


POOL: list[Any] = [
    ..., None, True, False, 0, 1, 2, -1, 0.0, -0.0, 1.0, 0.5, 2**53, 2.0**53, 2**53 + 1, -(2**63),
    "", "a", "ab", "b", "0", *map(str, range(100, 130)),
    [], [0], [1], [True], [1.0], [None], ["a"], ["a", "b"], ["b", "a"], [1, "a", None, False],
]  # fmt: skip


def test_a_crowd_of_all_types_in_one_field() -> None:
    """Every operator with every operand; no number of one kind is taken for a number of another."""
    random = np.random.default_rng(5)
    values = [POOL[place] for place in random.integers(0, len(POOL), 1500).tolist()]
    rows: list[dict[str, Any]] = [{} if value is ... else {"f": value} for value in values]
    operands = POOL[1:]
    wheres = [{"f": {name: value}} for value in operands for name in ("$eq", "$ne")]
    wheres += [{"f": {name: operands[start::step]}} for name in ("$in", "$nin") for start in (0, 1) for step in (2, 7)]
    wheres += [{"f": {"$contains": value}} for value in operands if not isinstance(value, list)]
    wheres += [{"f": {"$exists": flag}} for flag in (True, False)]
    for where in wheres:
        followed, chosen = Columns(), parse(where)
        for count in (7, 700, len(rows)):
            moment = followed.follow(rows, count, ["f"])
        assert verdict_of_columns(chosen, moment, [True] * len(rows)) == chosen.select(rows).tolist(), where
    for foreign, some in ((str, [1, 0.5, -(2**63)]), ((int, float), ["", "a", "ab", "110"])):
        live = [type(value) is bool or not isinstance(value, foreign) for value in values]
        for name, bound in itertools.product(["$gt", "$gte", "$lt", "$lte"], some):
            assert matching({"f": {name: bound}}, rows, live) == verdict(parse({"f": {name: bound}}), rows, live)


def matching(where: object, rows: list[dict[str, Any]], live: list[bool] | None = None) -> list[bool]:
    chosen = parse(where)
    moment = Columns().follow(rows, len(rows), chosen.fields)
    return chosen.select_columns(moment, np.array(live or [True] * len(rows), dtype=np.bool_)).tolist()


@pytest.mark.parametrize("where", [None, {}, {"$and": [{}]}, {"$not": {}}, {"absent": 1}, {"absent": {"$ne": 1}}])
@pytest.mark.parametrize("rows", [[], [{}], [{"f": 1}, {"f": None}]])
def test_filters_that_ask_little_of_few_rows(where: object, rows: list[dict[str, Any]]) -> None:
    assert matching(where, rows) == parse(where).select(rows).tolist()


# ------------------------------------------------------------------------------------------------------- exact numbers

TURNS = (0, 127, 128, 2**15, 2**31, 2**53, 2**62, 2**63)
INTS = sorted(
    number
    for number in {sign * (turn + step) for turn in TURNS for step in (-1, 0, 1, 2) for sign in (1, -1)}
    if -(2**63) <= number < 2**63
)
FLOATS = [
    *(float(number) for number in INTS),
    2.0**63, -(2.0**64), 1e308, -1e308, 5e-324, -5e-324, 0.5, 127.5, -128.5, 0.0, -0.0,
    *(float(np.nextafter(sign * 2.0**53, sign * 1e300)) for sign in (1, -1)),
]  # fmt: skip


@pytest.mark.parametrize("name", ["$gt", "$gte", "$lt", "$lte", "$eq", "$in"])
@pytest.mark.parametrize("stored", [INTS, FLOATS, [*INTS, *FLOATS]], ids=["ints", "floats", "both"])
def test_numbers_compare_by_their_mathematical_values(name: str, stored: list[int | float]) -> None:
    compare = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}.get(name, operator.eq)
    rows = [{"f": number} for number in stored]
    for bound in [*INTS, *FLOATS]:
        operand = [bound] if name == "$in" else bound
        expected = [compare(Fraction(number), Fraction(bound)) for number in stored]
        assert matching({"f": {name: operand}}, rows) == expected, bound


@pytest.mark.parametrize("most", [100, 30_000, 2**31 - 1, 2**62])
def test_a_column_of_narrow_integers_meets_bounds_beyond_its_width(most: int) -> None:
    rows = [{"f": number} for number in (-most, 0, most)]
    for bound in (most, most + 1, 2 * most, -most, -most - 1, -2 * most):
        if -(2**63) <= bound < 2**63:
            for compare in ("$gt", "$gte", "$lt", "$lte", "$eq"):
                assert matching({"f": {compare: bound}}, rows) == parse({"f": {compare: bound}}).select(rows).tolist()


def test_widths_grow_with_what_is_met() -> None:
    """int8 first, then wider; what was read before keeps its value."""
    rows: list[dict[str, Any]] = []
    followed = Columns()
    for number in (1, -128, -129, 128, -(2**15) - 1, 2**31 - 1, -(2**31) - 1, 0.0, -(2**63), 0.5):
        rows.append({"f": number})
        for row in rows:
            chosen = parse(row)
            moment = followed.follow(rows, len(rows), chosen.fields)
            expected = [other["f"] == row["f"] for other in rows]
            assert chosen.select_columns(moment, np.ones(len(rows), dtype=np.bool_)).tolist() == expected


@pytest.mark.parametrize("stored", [0.0, -0.0])
def test_a_column_of_zeros_is_one_of_floats(stored: float) -> None:
    assert matching({"f": {"$gte": 0}}, [{"f": stored}, {}]) == [True, False]
    assert matching({"f": {"$lt": 0.5}}, [{"f": stored}, {"f": -1}]) == [True, True]
    assert matching({"f": {"$gt": 0}}, [{"f": stored}, {"f": 1}]) == [False, True]


def test_bits_of_ints_are_no_floats() -> None:
    """Beside floats an int is held in the same eight bytes; as a float it would be a NaN, an infinity, 1.5."""
    ints = [0x7FF0000000000001, 0x7FF0000000000000, -1, int(np.float64(1.5).view(np.int64))]
    rows: list[dict[str, Any]] = [*({"f": number} for number in ints), {"f": 1.5}]
    with np.errstate(all="raise"):
        for where in ({"f": 1.5}, {"f": {"$lte": 1.5}}, {"f": {"$gt": 1e300}}, {"f": {"$in": [1.5, -1]}}):
            assert matching(where, rows) == parse(where).select(rows).tolist()


# ------------------------------------------------------------------------------------------------------ texts and lists


@pytest.mark.parametrize("compared", [0, 10**9], ids=["sorted", "unsorted"])
def test_texts_are_ordered_by_utf8_bytes_while_more_are_met(compared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_COMPARED_BEFORE", compared)
    alphabet = ["", "a", "\x00", "\x7f", "é", "\uff5e", "\U0001f600"]
    texts = ["".join(pair) for pair in itertools.product(alphabet, repeat=2)]
    followed, rows = Columns(), [{"f": text} for text in texts]
    for count in (1, 20, 21, len(rows)):
        for name, compare in (("$gt", operator.gt), ("$gte", operator.ge), ("$lt", operator.lt), ("$lte", operator.le)):
            for bound in texts:
                moment = followed.follow(rows, count, ["f"])
                found = parse({"f": {name: bound}}).select_columns(moment, np.ones(count, dtype=np.bool_))
                assert found.tolist() == [compare(text.encode(), bound.encode()) for text in texts[:count]]


@pytest.mark.parametrize("count", [42, 43, 44, 127, 128, 400])
def test_many_lists_of_many_elements(count: int) -> None:
    """Places of elements and numbers of lists outgrow a byte, each at its time."""
    rows = [{"f": [number, number + 1, str(number)]} for number in range(count)]
    for number in (0, 1, count - 3, count - 2, count - 1):
        expected = [number in row["f"] for row in rows]
        assert matching({"f": {"$contains": number}}, rows) == expected
        for asked in (rows[number]["f"], rows[number]["f"][:2], [number, number + 1, number]):
            assert matching({"f": asked}, rows) == [row["f"] == asked for row in rows]


@pytest.mark.parametrize("count", [2, 63, 64, 65, 300])
def test_in_with_few_and_with_many_values(count: int) -> None:
    rows = [{"f": value} for number in range(400) for value in (number, str(number), number + 0.5)]
    sought = [*range(0, count, 2), *map(str, range(1, count, 2)), 7.5]
    assert matching({"f": {"$in": sought}}, rows) == [row["f"] in sought for row in rows]


# ------------------------------------------------------------------------------------------------------------ conflicts


@pytest.mark.parametrize("operand,foreign", [(1, "a"), ("a", 1), ("a", 1.5)])
def test_only_a_live_record_conflicts(operand: Any, foreign: Any) -> None:
    rows = [{"f": operand}, {"f": foreign}, {}]
    assert matching({"f": {"$gte": operand}}, rows, [True, False, True]) == [True, False, False]
    with pytest.raises(UsageError, match=r"field 'f': \$gte compares with a"):
        matching({"f": {"$gte": operand}}, rows, [False, True, False])


def test_a_conflict_of_later_rows_does_not_show_in_an_earlier_moment() -> None:
    rows: list[dict[str, Any]] = [{"f": 1}, {"f": "a"}]
    followed = Columns()
    followed.follow(rows, 2, ["f"])
    earlier = followed.follow(rows, 1, ["f"])
    chosen = parse({"f": {"$gt": 0}})
    assert chosen.select_columns(earlier, np.array([True])).tolist() == [True]


# ------------------------------------------------------------------------------------------------------------ following


class _Read(dict[str, Any]):
    """A row that counts how often it was read."""

    reads = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.reads += 1
        return super().get(key, default)


def test_a_row_is_read_once_for_each_field() -> None:
    rows = [_Read(f=1) for _ in range(100)]
    followed = Columns()
    for count in (0, 10, 10, 11, 100, 50):
        followed.follow(rows, count, ["f"])
    assert [row.reads for row in rows] == [1] * 100
    followed.follow(rows, 100, ["f", "g"])
    assert [row.reads for row in rows] == [2] * 100


def test_columns_that_nobody_asks_for_go() -> None:
    rows = [_Read()]
    followed = Columns()
    for number in range(columns._KEPT + 1):
        followed.follow(rows, 1, ["f", str(number)])
    before = rows[0].reads
    followed.follow(rows, 1, ["f", str(columns._KEPT)])
    assert rows[0].reads == before, "what was asked for lately is kept"
    followed.follow(rows, 1, ["0"])
    assert rows[0].reads == before + 1, "what was asked for longest ago has gone"


def test_a_filter_may_ask_for_more_fields_than_are_kept() -> None:
    fields = [str(number) for number in range(3 * columns._KEPT)]
    rows = [{field: 1} for field in fields]
    assert matching({"$or": [{field: 1} for field in fields]}, rows) == [True] * len(rows)


@pytest.mark.parametrize("call", range(12))
def test_an_interrupt_leaves_no_column_half_read(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of a column's arrays is just being extended."""
    rows: list[dict[str, Any]] = [{"f": [number, "a"]} for number in range(4)]
    followed, calls, extend = Columns(), itertools.count(), columns._Array.extend

    def interrupted(array: Any, part: Any) -> None:
        if next(calls) == call:
            raise KeyboardInterrupt
        extend(array, part)

    with monkeypatch.context() as patch:
        patch.setattr(columns._Array, "extend", interrupted)
        with pytest.raises(KeyboardInterrupt):
            for count in (2, 4):
                followed.follow(rows, count, ["f"])
    moment = followed.follow(rows, 4, ["f"])
    for where in ({"f": [3, "a"]}, {"f": {"$contains": 1}}):
        chosen = parse(where)
        assert chosen.select_columns(moment, np.ones(4, dtype=np.bool_)).tolist() == chosen.select(rows).tolist()
