"""What ``where`` means: the tables of spec/filters.md row by row, an oracle to read aloud, every invalid neighbour."""

from __future__ import annotations

import datetime
import random
from collections.abc import Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detmem.errors import UsageError
from detmem.machine import filters
from detmem.machine.filters import parse


def matching(where: object, *records: Mapping[str, Any] | None) -> list[bool]:
    mask = parse(where).select(records)
    assert mask.dtype == np.bool_
    assert mask.shape == (len(records),)
    return mask.tolist()


def matches(where: object, record: Mapping[str, Any]) -> bool:
    return matching(where, record)[0]


# --------------------------------------------------------------------------------------------- the oracle


class ConflictError(Exception):
    """An order met the other ordered type."""


def equal(stored: Any, operand: Any) -> bool:
    if isinstance(stored, list) and isinstance(operand, list):
        return len(stored) == len(operand) and all(
            equal(left, right) for left, right in zip(stored, operand, strict=True)
        )
    if kind(stored) != kind(operand):
        return False
    if kind(stored) == "number":
        return Fraction(stored) == Fraction(operand)
    return stored == operand


def kind(value: object) -> str:
    for name, types in {"bool": bool, "number": (int, float), "str": str, "list": list}.items():
        if isinstance(value, types):
            return name
    return "none"


def holds(record: Mapping[str, Any], field: str, operator: str, operand: Any) -> bool:
    here = field in record
    stored = record.get(field)
    if operator == "$eq":
        return here and equal(stored, operand)
    if operator == "$in":
        return any(holds(record, field, "$eq", element) for element in operand)
    if operator in ("$ne", "$nin"):
        return not holds(record, field, {"$ne": "$eq", "$nin": "$in"}[operator], operand)
    if operator == "$exists":
        return here == operand
    if operator == "$contains":
        if kind(stored) == "list":
            return any(equal(element, operand) for element in stored)
        return kind(stored) == "str" and kind(operand) == "str" and operand in stored
    if not here or kind(stored) not in ("number", "str"):
        return False
    if kind(stored) != kind(operand):
        raise ConflictError
    if kind(stored) == "str":
        left, right = stored.encode(), operand.encode()
    else:
        left, right = Fraction(stored), Fraction(operand)
    return {"$gt": left > right, "$gte": left >= right, "$lt": left < right, "$lte": left <= right}[operator]


def meant(where: Mapping[str, Any] | None, record: Mapping[str, Any]) -> bool:
    """Evaluates every part, so every conflict shows."""
    verdicts = []
    for key, condition in (where or {}).items():
        if key in ("$and", "$or"):
            parts = [meant(part, record) for part in condition]
            verdicts.append(all(parts) if key == "$and" else any(parts))
        elif key == "$not":
            verdicts.append(not meant(condition, record))
        elif isinstance(condition, dict):
            verdicts.extend([holds(record, key, operator, operand) for operator, operand in condition.items()])
        else:
            verdicts.append(holds(record, key, "$eq", condition))
    return all(verdicts)


numbers = st.sampled_from(
    [0, 1, -1, 2, 2**53, 2**53 + 1, 2**63 - 1, 0.0, -0.0, 1.0, 0.5, 2.0**53, -(2.0**63), 1e308, 5e-324]
)
words = st.sampled_from(["", "a", "ab", "b", "é", "\uff5e", "\U0001f600"])
scalars = st.none() | st.booleans() | numbers | words
lists = st.lists(scalars, max_size=3)
plain = scalars | lists
fields = st.sampled_from(["f", "g", "h"])
records = st.dictionaries(fields, plain, max_size=3)
operators = (
    st.fixed_dictionaries({}, optional={"$eq": plain, "$ne": plain, "$contains": scalars, "$exists": st.booleans()})
    | st.fixed_dictionaries({}, optional={"$in": st.lists(plain, max_size=4), "$nin": st.lists(plain, max_size=4)})
    | st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), numbers | words, min_size=1, max_size=2)
).map(lambda asked: asked or {"$ne": None})  # an empty map of operators is no filter
tests_of_fields = st.dictionaries(fields, plain | operators, max_size=2)
wheres = st.recursive(
    tests_of_fields,
    lambda inner: st.builds(
        lambda tests, logic: {**tests, **logic},
        tests_of_fields,
        st.fixed_dictionaries(
            {},
            optional={
                "$and": st.lists(inner, min_size=1, max_size=3),
                "$or": st.lists(inner, min_size=1, max_size=3),
                "$not": inner,
            },
        ),
    ),
    max_leaves=6,
)


@given(wheres, st.lists(st.none() | records, max_size=8), st.randoms(use_true_random=False))
def test_the_filter_means_what_the_oracle_reads_in_any_row_order(
    where: dict[str, object], rows: list[Any], order: random.Random
) -> None:
    chosen = parse(where)
    shuffled = list(range(len(rows)))
    order.shuffle(shuffled)
    try:
        expected = [row is not None and meant(where, row) for row in rows]
    except ConflictError:
        with pytest.raises(UsageError) as first:
            chosen.select(rows)
        with pytest.raises(UsageError) as second:
            chosen.select([rows[index] for index in shuffled])
        assert str(first.value) == str(second.value)
        return
    assert chosen.select(rows).tolist() == expected
    assert chosen.select([rows[index] for index in shuffled]).tolist() == [expected[index] for index in shuffled]


# ---------------------------------------------------------------------------------------- the tables of the spec

EXAMPLE = {"kind": "a", "year": 2024, "tags": ["x", 1], "seen": None}


@pytest.mark.parametrize(
    "where,expected",
    [
        ({"kind": "a", "year": {"$gte": 2020, "$lt": 2025}}, True),
        ({"kind": "b", "year": {"$gte": 2020, "$lt": 2025}}, False),
        ({"year": {"$gte": 2020, "$lt": 2024}}, False),
        ({"year": 2024.0}, True),
        ({"year": True}, False),
        ({"seen": None}, True),
        ({"seen": {"$exists": True}}, True),
        ({"absent": None}, False),
        ({"absent": {"$ne": 1}}, True),
        ({"tags": ["x", 1.0]}, True),
        ({"tags": ["x", True]}, False),
        ({"tags": ["x"]}, False),
        ({"tags": {"$contains": "x"}}, True),
        ({"tags": {"$contains": True}}, False),
        ({"tags": {"$in": [["x", 1], None]}}, True),
        ({"seen": {"$lt": 5}}, False),
        ({"$not": {"kind": "b"}}, True),
        ({"$not": {}}, False),
        ({"$and": [{}]}, True),
        ({"$or": [{"kind": "b"}, {}]}, True),
        ({"$or": [{"kind": "b"}, {"kind": "c"}]}, False),
        ({"kind": "a", "$not": {"year": 2024}}, False),
    ],
)
def test_the_examples_of_the_spec(where: object, expected: bool) -> None:
    assert matches(where, EXAMPLE) is expected


@pytest.mark.parametrize("where", [{"kind": {"$gt": 5}}, {"$or": [{"kind": "a"}, {"kind": {"$gt": 5}}]}])
def test_the_conflicts_of_the_spec(where: object) -> None:
    with pytest.raises(UsageError, match=r"field 'kind': \$gt compares with a number, but some record stores a str"):
        matches(where, EXAMPLE)


STORED = [
    {},
    {"f": None},
    {"f": True},
    {"f": False},
    {"f": 1},
    {"f": 0.0},
    {"f": "ab"},
    {"f": []},
    {"f": [1, "a", None]},
]


@pytest.mark.parametrize(
    "condition,expected",
    [
        # columns: missing None True False 1 0.0 "ab" [] [1, "a", None]
        ({"$eq": None}, ".x......."),
        ({"$eq": True}, "..x......"),
        ({"$eq": 1}, "....x...."),
        ({"$eq": 1.0}, "....x...."),
        ({"$eq": -0.0}, ".....x..."),
        ({"$eq": "ab"}, "......x.."),
        ({"$eq": []}, ".......x."),
        ({"$eq": [1.0, "a", None]}, "........x"),
        ({"$eq": [True, "a", None]}, "........."),
        ({"$ne": None}, "x.xxxxxxx"),
        ({"$ne": 1}, "xxxx.xxxx"),
        ({"$in": []}, "........."),
        ({"$in": [None, 0, True]}, ".xx..x..."),
        ({"$in": (1, False, "ab")}, "...xx.x.."),
        ({"$in": [[], [1, "a", None]]}, ".......xx"),
        ({"$nin": []}, "xxxxxxxxx"),
        ({"$nin": [None, 0, True]}, "x..xx.xxx"),
        ({"$exists": True}, ".xxxxxxxx"),
        ({"$exists": np.bool_(False)}, "x........"),
        ({"$contains": 1}, "........x"),
        ({"$contains": True}, "........."),
        ({"$contains": None}, "........x"),
        ({"$contains": "a"}, "......x.x"),
        ({"$contains": ""}, "......x.."),
        ({"$contains": "ba"}, "........."),
    ],
)
def test_the_truth_table_of_each_operator(condition: dict[str, object], expected: str) -> None:
    assert matching({"f": condition}, *STORED) == [mark == "x" for mark in expected]


@pytest.mark.parametrize("operator,expected", [("$gt", "..x"), ("$gte", ".xx"), ("$lt", "x.."), ("$lte", "xx.")])
def test_the_orders_on_numbers_and_on_text(operator: str, expected: str) -> None:
    marks = [mark == "x" for mark in expected]
    assert matching({"f": {operator: 1}}, {"f": 0.5}, {"f": 1.0}, {"f": 2}) == marks
    assert matching({"f": {operator: np.float32(0.5)}}, {"f": 0}, {"f": 0.5}, {"f": 1}) == marks
    assert matching({"f": {operator: "b"}}, {"f": "ab"}, {"f": "b"}, {"f": "ba"}) == marks
    unordered = [{}, {"f": None}, {"f": True}, {"f": False}, {"f": []}, {"f": [1]}]
    assert not any(matching({"f": {operator: 1}}, *unordered))
    assert not any(matching({"f": {operator: "b"}}, *unordered))


def test_text_is_ordered_by_utf8_bytes() -> None:
    assert matches({"f": {"$lt": "\U0001f600"}}, {"f": "\uff5e"})  # ef.. before f0..; UTF-16 would say otherwise


def test_numbers_compare_exactly_where_floats_are_sparse() -> None:
    above = {"f": 2**53 + 1}
    assert not matches({"f": float(2**53)}, above)
    assert matches({"f": {"$gt": float(2**53)}}, above)
    assert not matches({"f": {"$in": [float(2**53)]}}, above)
    assert not matches({"f": {"$contains": float(2**53)}}, {"f": [2**53 + 1]})
    assert matches({"f": {"$lt": 2.0**63}}, {"f": 2**63 - 1})


def test_none_and_the_empty_map_match_every_live_record() -> None:
    for where in (None, {}):
        assert parse(where).is_all
        assert matching(where, {}, None, {"f": 1}) == [True, False, True]
        assert matching(where) == []
    for where in ({"f": 1}, {"$not": {}}):
        assert not parse(where).is_all


def test_an_entry_without_a_live_record_never_matches_and_never_conflicts() -> None:
    assert matching({"f": {"$ne": 1}}, None, {}) == [False, True]
    assert matching({"f": {"$gt": 1}}, None, {"f": 2}) == [False, True]


@pytest.mark.parametrize(
    "where",
    [
        {"f": {"$lt": 5}},
        {"g": 2, "f": {"$lt": 5}},
        {"f": {"$exists": False, "$lt": 5}},
        {"$or": [{}, {"f": {"$lt": 5}}]},
        {"$and": [{"$not": {}}, {"f": {"$lt": 5}}]},
        {"$not": {"g": 2, "f": {"$lt": 5}}},
    ],
)
@pytest.mark.parametrize("rows", [[{"f": "a", "g": 1}, {"f": 1}], [{"f": 1}, {"f": "a", "g": 1}], [{}, {"f": ""}]])
def test_a_conflict_shows_in_every_row_order_and_behind_every_short_circuit(
    where: object, rows: Sequence[Mapping[str, object]]
) -> None:
    with pytest.raises(UsageError, match=r"field 'f': \$lt compares with a number, but some record stores a str"):
        matching(where, *rows)


@pytest.mark.parametrize("number", [1, 1.5])
def test_a_text_operand_meets_numbers(number: float) -> None:
    with pytest.raises(UsageError, match=r"field 'f': \$gte compares with a str, but some record stores a number"):
        matching({"f": {"$gte": "a"}}, {"f": "a"}, {"f": number})


def test_the_first_conflict_of_the_filter_is_named_whatever_the_rows() -> None:
    where = {"a": {"$gt": 1}, "b": {"$lt": "x"}}
    for rows in ([{"a": "s"}, {"b": 2}], [{"b": 2}, {"a": "s"}]):
        with pytest.raises(UsageError, match="field 'a'"):
            matching(where, *rows)


def test_a_filter_keeps_nothing_of_the_callers_map() -> None:
    operand: list[object] = [1]
    where = {"f": {"$in": operand}, "g": operand}
    chosen = parse(where)
    operand.append(2)
    where.clear()
    assert chosen.select([{"f": 2, "g": [1]}, {"f": 1, "g": [1]}]).tolist() == [False, True]


def test_any_map_and_numpy_scalars_will_do() -> None:
    where = MappingProxyType({np.str_("f"): MappingProxyType({np.str_("$in"): [np.int8(1), np.str_("a")]})})
    assert matching(where, {"f": 1}, {"f": "a"}, {"f": 2}) == [True, True, False]
    assert matches({"f": np.bool_(True)}, {"f": True})
    assert matches({"f": np.float16(0.5)}, {"f": 0.5})


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "where,place",
    [
        (1, "where: expected a map"),
        ("f", "where: expected a map"),
        ([{"f": 1}], "where: expected a map"),
        ({1: 2}, "where: expected field names"),
        ({None: 2}, "where: expected field names"),
        ({"\ud800": 2}, "where: field name: .*surrogate"),
        ({"$nor": [{}]}, r"where\['\$nor'\]: expected \$and, \$or or \$not"),
        ({"$gt": 1}, r"where\['\$gt'\]: expected"),
        ({"$": 1}, r"where\['\$'\]: expected"),
        ({"$and": []}, r"where\['\$and'\]: expected at least one"),
        ({"$or": []}, r"where\['\$or'\]: expected at least one"),
        ({"$and": {"f": 1}}, r"where\['\$and'\]: expected a list"),
        ({"$or": ({"f": 1},)}, r"where\['\$or'\]: expected a list"),
        ({"$or": None}, r"where\['\$or'\]: expected a list"),
        ({"$and": [{"f": 1}, 2]}, r"where\['\$and'\]\[1\]: expected a map"),
        ({"$and": [None]}, r"where\['\$and'\]\[0\]: expected a map"),
        ({"$not": [{"f": 1}]}, r"where\['\$not'\]: expected a map"),
        ({"$not": None}, r"where\['\$not'\]: expected a map"),
        ({"f": {}}, r"where\['f'\]: .*empty map"),
        ({"f": {"a": 1}}, r"where\['f'\]: expected operators .*'a'"),
        ({"f": {"$gt": 1, "a": 1}}, r"where\['f'\]: expected operators .*'a'"),
        ({"f": {"$regex": "a"}}, r"where\['f'\]: expected operators .*'\$regex'"),
        ({"f": {"$not": {"$gt": 1}}}, r"where\['f'\]: expected operators .*'\$not'"),
        ({"f": {1: 1}}, r"where\['f'\]: expected operators .*int 1"),
        ({"f": {"$gt": None}}, r"where\['f'\]\['\$gt'\]: expected an int, float or str, found NoneType"),
        ({"f": {"$gte": True}}, r"where\['f'\]\['\$gte'\]: expected an int, float or str, found bool"),
        ({"f": {"$lt": np.bool_(True)}}, r"where\['f'\]\['\$lt'\]: expected"),
        ({"f": {"$lte": [1]}}, r"where\['f'\]\['\$lte'\]: expected .* found list"),
        ({"f": {"$lte": float("nan")}}, r"where\['f'\]\['\$lte'\]: expected a finite"),
        ({"f": {"$lte": float("inf")}}, r"where\['f'\]\['\$lte'\]: expected a finite"),
        ({"f": {"$lte": 2**63}}, r"where\['f'\]\['\$lte'\]: expected an integer"),
        ({"f": {"$in": 1}}, r"where\['f'\]\['\$in'\]: expected a list"),
        ({"f": {"$in": "ab"}}, r"where\['f'\]\['\$in'\]: expected a list"),
        ({"f": {"$in": {1}}}, r"where\['f'\]\['\$in'\]: expected a list"),
        ({"f": {"$nin": None}}, r"where\['f'\]\['\$nin'\]: expected a list"),
        ({"f": {"$nin": np.array([1])}}, r"where\['f'\]\['\$nin'\]: expected a list"),
        ({"f": {"$in": [1, (2,)]}}, r"where\['f'\]\['\$in'\]\[1\]: .*tuple"),
        ({"f": {"$in": [[1, [2]]]}}, r"where\['f'\]\['\$in'\]\[0\]\[1\]: .*list"),
        ({"f": {"$exists": 1}}, r"where\['f'\]\['\$exists'\]: expected True or False"),
        ({"f": {"$exists": None}}, r"where\['f'\]\['\$exists'\]: expected True or False"),
        ({"f": {"$contains": [1]}}, r"where\['f'\]\['\$contains'\]: .*list"),
        ({"f": {"$contains": {"a": 1}}}, r"where\['f'\]\['\$contains'\]: .*dict"),
        ({"f": {"$eq": {"a": 1}}}, r"where\['f'\]\['\$eq'\]: .*dict"),
        ({"f": {"$ne": (1,)}}, r"where\['f'\]\['\$ne'\]: .*tuple"),
        ({"f": float("nan")}, r"where\['f'\]: .*finite"),
        ({"f": 2**63}, r"where\['f'\]: .*64 bits"),
        ({"f": b"a"}, r"where\['f'\]: .*bytes"),
        ({"f": (1, 2)}, r"where\['f'\]: .*tuple"),
        ({"f": {1}}, r"where\['f'\]: .*set"),
        ({"f": np.array([1])}, r"where\['f'\]: .*ndarray"),
        ({"f": datetime.date(2024, 1, 1)}, r"where\['f'\]: .*date"),
        ({"f": [1, [2]]}, r"where\['f'\]\[1\]: .*list"),
        ({"f": [{"$gt": 1}]}, r"where\['f'\]\[0\]: .*dict"),
        ({"$or": [{"f": 1}, {"g": {"$gt": None}}]}, r"where\['\$or'\]\[1\]\['g'\]\['\$gt'\]: "),
        ({"$not": {"$and": [{"g": b""}]}}, r"where\['\$not'\]\['\$and'\]\[0\]\['g'\]: "),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_each_invalid_neighbour_is_refused_with_its_place(where: object, place: str) -> None:
    with pytest.raises(UsageError, match=f"^{place}"):
        parse(where)


def nested(depth: int) -> dict[str, object]:
    where: dict[str, object] = {"f": 1}
    for _ in range(depth - 1):
        where = {"$not": where}
    return where


def test_sixteen_maps_inside_one_another_are_read_and_seventeen_are_not() -> None:
    assert matches(nested(16), {"f": 2})  # fifteen times not
    assert matches(nested(15), {"f": 1})
    with pytest.raises(UsageError, match="deeper than 16"):
        parse(nested(17))
    loop: dict[str, object] = {}
    loop["$and"] = [loop]
    with pytest.raises(UsageError, match="deeper than 16"):
        parse(loop)


def test_a_thousand_clauses_are_read_and_one_more_is_not() -> None:
    most = filters.MAX_CLAUSES
    for many in (
        lambda count: {"$or": [{"f": index} for index in range(count)]},
        lambda count: {"$and": [{}] * count},
        lambda count: {str(index): index for index in range(count)},
        lambda count: {"$or": [{"f": {"$ne": 1, "$gt": 0}}] * (count // 2) + [{"f": 1}] * (count % 2)},
    ):
        parse(many(most))
        with pytest.raises(UsageError, match="more than 1000 clauses"):
            parse(many(most + 1))
    assert matches({"f": {"$in": list(range(10_000))}}, {"f": 9_999})  # a long list is one clause


anything = st.recursive(
    scalars | st.sampled_from([float("nan"), 2**63, b"", (), {1}, 1j]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["f", "$and", "$or", "$not", "$eq", "$gt", "$in", "$exists", "$contains", "$x", 1]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(anything)
def test_whatever_is_given_parses_or_is_a_usage_error(where: object) -> None:
    try:
        chosen = parse(where)
    except UsageError:
        return
    assert chosen.select([{}, None]).shape == (2,)
