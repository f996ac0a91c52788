"""Writes the test vectors of this folder from the naive twin; ``--check`` only compares.

    python spec/generate.py            writes spec/vectors/*.json
    python spec/generate.py --check    makes them again in memory; exit 1 names each file that differs

Rule 1  An expected value is computed by reference.py, which was written from the pages; where the world has published
        values (the RFC 6962 tree) they stand here as constants and the twin must meet them.
Rule 2  Each case says why it is there.  For each valid case there are broken neighbours, with one word for the refusal.
Rule 3  Nothing is lost on paper: bytes in hex, floats as float.hex, values as ``to_json`` writes them.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import reference as twin

VECTORS = Path(__file__).parent / "vectors"
Case = dict[str, Any]


def outcome(name: str, function: Callable[..., Any], *arguments: Any) -> Case:
    """{name: result}, or {"refused": reason}."""
    try:
        return {name: function(*arguments)}
    except twin.Refused as refused:
        return {"refused": refused.reason}


def refused(function: Callable[..., Any], *arguments: Any, **named: Any) -> Case:
    """{"refused": reason} of a call that has to be refused."""
    try:
        function(*arguments, **named)
    except twin.Refused as refusal:
        return {"refused": refusal.reason}
    raise AssertionError(f"accepted, but it is invalid: {arguments!r:.300}")


# --------------------------------------------------------------------------------------------------------- numbers.json


def numbers() -> Case:
    quantise = []
    for name, bits in twin.FORMATS.items():
        ulp = 2.0**-bits
        for why, x in [
            ("zero", 0.0),
            ("negative zero is zero", -0.0),
            ("one", 1.0),
            ("a half between 0 and 1 goes to 0", 0.5 * ulp),
            ("just below a half", math.nextafter(0.5 * ulp, 0)),
            ("just above a half", math.nextafter(0.5 * ulp, 1)),
            ("a half between 1 and 2 goes to 2", 1.5 * ulp),
            ("a half between 2 and 3 goes to 2", 2.5 * ulp),
            ("a half between -1 and 0 goes to 0", -0.5 * ulp),
            ("just above minus a half", math.nextafter(-0.5 * ulp, 0)),
            ("just below minus a half", math.nextafter(-0.5 * ulp, -1)),
            ("a half between -2 and -1 goes to -2", -1.5 * ulp),
            ("a half between -3 and -2 goes to -2", -2.5 * ulp),
            ("0.1 is no binary fraction", 0.1),
            ("the smallest subnormal", 5e-324),
            ("the largest int32", (2**31 - 1) * ulp),
            ("just below the half over the largest int32", math.nextafter((2**31 - 0.5) * ulp, 0)),
            ("the half over the largest int32 goes to 2^31, which is even and no int32", (2**31 - 0.5) * ulp),
            ("2^31", 2.0**31 * ulp),
            ("the smallest int32", -(2.0**31) * ulp),
            ("the half under the smallest int32 goes back to it", -(2**31 + 0.5) * ulp),
            ("just below the half under the smallest int32", math.nextafter(-(2**31 + 0.5) * ulp, -math.inf)),
            ("one below the smallest int32", -(2**31 + 1) * ulp),
            ("far out of range", 1e300),
            ("NaN", math.nan),
            ("infinity", math.inf),
            ("minus infinity", -math.inf),
        ]:
            case = {"why": why, "format": name, "x": float(x).hex()}
            quantise.append(case | outcome("raw", twin.quantise, x, name))
    cosine = []
    for name in twin.FORMATS:
        for why, x in [
            ("an axis", [1.0, 0.0, 0.0]),
            ("an axis, backwards", [0.0, -2.5]),
            ("3-4-5", [3.0, 4.0]),
            ("the page's example", [3.0, -4.0]),
            ("the page's example, 10^300 times as long: the same", [3e300, -4e300]),
            ("one dimension", [-7.25]),
            ("a diagonal", [1.0] * 4),
            ("a diagonal that does not come out even", [1.0, 1.0, 1.0]),
            ("0.1, 0.2, 0.3", [0.1, 0.2, 0.3]),
            ("the smallest subnormal alone", [5e-324]),
            ("subnormals", [5e-324, -1e-323, 3e-320]),
            ("the largest float", [1.7976931348623157e308, 1.7976931348623157e308]),
            ("1e300", [1e300, -1e300, 1e299]),
            ("1e300 beside 1e-300: the small one vanishes", [1e300, 1e-300]),
            ("a component that rounds on the half at 2^31", [0.5, 2.0**-33, 1.5 * 2.0**-32]),
            ("float16 values", [0.333251953125, -65504.0, 6.103515625e-05]),
            ("zero", [0.0]),
            ("zeros and a negative zero", [0.0, -0.0, 0.0]),
            ("NaN", [1.0, math.nan]),
            ("infinity", [math.inf, 1.0]),
        ]:
            case = {"why": why, "format": name, "x": [component.hex() for component in x]}
            cosine.append(case | outcome("raw", twin.normalise, x, name))
    integers = []
    for why, whole in [
        ("integers are taken exactly", [3, -4]),
        ("2^53 + 2 is a float64", [2**53 + 2, 1]),
        ("2^63 - 1024 is a float64", [2**63 - 1024, 2**62]),
        ("2^53 + 1 is none", [2**53 + 1, 1]),
        ("2^63 - 1 is none", [2**63 - 1, 1]),
        ("zeros", [0, 0]),
    ]:
        case = {"why": why, "format": "Q16.16", "x": [str(component) for component in whole]}
        integers.append(case | outcome("raw", twin.normalise, whole, "Q16.16"))
    admission = []
    for why, raw in [
        ("zero is admitted: only cosine's front door refuses it", [0, 0]),
        ("2^60 exactly, in one component", [2**30]),
        ("2^60 exactly, negative", [-(2**30)]),
        ("2^60 and one", [2**30, 1]),
        ("one component too large", [2**30 + 1]),
        ("2^60 exactly, in four", [2**29, -(2**29), 2**29, -(2**29)]),
        ("2^60 and one, in five", [2**29, -(2**29), 2**29, -(2**29), -1]),
        ("the largest int32 is not admitted", [2**31 - 1]),
        ("the smallest int32 is not admitted", [-(2**31)]),
        ("four times -2^31: the sum of squares is 2^64, which is 0 in 64 bits", [-(2**31)] * 4),
        ("five times 2^31 - 1: the sum of squares passes 2^64", [2**31 - 1] * 5),
        ("2^31 is no int32", [2**31]),
        ("-2^31 - 1 is no int32", [-(2**31) - 1]),
    ]:
        admission.append(
            {"why": why, "raw": raw} | outcome("squares", lambda r: sum(c * c for c in twin.admit(r)), raw)
        )
    distances = []
    for why, x, q in [
        ("the same vector", [1, -2, 3], [1, -2, 3]),
        ("small numbers", [1, 2, 3], [-4, 5, 6]),
        ("opposite corners: squared l2 is 2^62, the largest there is", [2**30], [-(2**30)]),
        ("the largest dot product, 2^60", [2**29] * 4, [2**29] * 4),
        ("the smallest dot product, -2^60", [2**29] * 4, [-(2**29)] * 4),
        ("products that cancel", [2**29, 2**29], [2**29, -(2**29)]),
        ("an odd result above 2^53, which no float64 holds", [2**27 + 1, 1], [-(2**27), 0]),
    ]:
        for metric in twin.METRICS:
            raw = twin.distance(metric, x, q)
            shown = {name: twin.shown_distance(metric, name, raw).hex() for name in twin.FORMATS}
            distances.append({"why": why, "metric": metric, "x": x, "q": q, "raw": raw, "distance": shown})
    return {
        "page": "numbers.md",
        "quantise": quantise,
        "cosine": cosine,
        "cosine_integers": integers,
        "admission": admission,
        "distances": distances,
    }


# -------------------------------------------------------------------------------------------------------- encoding.json


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def encoding() -> Case:
    valid = []
    borders = [0, 5, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63 - 1]
    borders += [-1, -32, -33, -128, -129, -32768, -32769, -(2**31), -(2**31) - 1, -(2**63)]
    values: list[tuple[str, Any]] = [("nil", None), ("false", False), ("true", True)]
    values += [("an int at the border of a form", number) for number in borders]
    values += [("a float", x) for x in (0.0, -0.0, 1.0, 1.5, -2.25, 5e-324, 1.7976931348623157e308, 0.1)]
    values += [(f"a string of {n} bytes", "x" * n) for n in (0, 1, 31, 32, 255, 256)]
    values += [("text", text) for text in ("é", "e\u0301", "\u0000", "\uff5e", "\U0001f600", "\U0010ffff")]
    values += [(f"{n} bytes", b"\xff" * n) for n in (0, 1, 255, 256)]
    values += [(f"an array of {n}", [n] * n) for n in (0, 1, 2, 15, 16, 17)]
    values += [(f"a map of {n}", {f"k{i:02}": i for i in range(n)}) for n in (0, 1, 15, 16)]
    values += [
        ("keys ascend by UTF-8 bytes", {"b": 1, "a": 2, "ab": 3, "": 4}),
        ("U+FF5E before U+1F600: not the order of UTF-16", {"\U0001f600": 1, "\uff5e": 2}),
        ("inside one another", {"a": [{"b": [None, True, {}]}], "c": []}),
        ("depth 16, the deepest", nested(16)),
    ]
    for why, value in values:
        valid.append({"why": why, "value": twin.to_json(value), "bytes": twin.encode(value).hex()})
    invalid = []
    for why, data in [
        ("no bytes", ""),
        ("5 as u8", "cc05"),
        ("127 as u8", "cc7f"),
        ("5 as i8", "d005"),
        ("5 as u16", "cd0005"),
        ("255 as u16", "cd00ff"),
        ("5 as u32", "ce00000005"),
        ("65535 as u32", "ce0000ffff"),
        ("5 as u64", "cf0000000000000005"),
        ("2^32 - 1 as u64", "cf00000000ffffffff"),
        ("-1 as i8", "d0ff"),
        ("-32 as i8", "d0e0"),
        ("128 as i16: a number that is not negative in a signed form", "d10080"),
        ("-128 as i16", "d1ff80"),
        ("-32768 as i32", "d2ffff8000"),
        ("-2^31 as i64", "d3ffffffff80000000"),
        ("2^63 is no int64", "cf8000000000000000"),
        ("2^64 - 1 is no int64", "cfffffffffffffffff"),
        ("float32", "ca3fc00000"),
        ("NaN", "cb7ff8000000000000"),
        ("a signalling NaN", "cb7ff0000000000001"),
        ("infinity", "cb7ff0000000000000"),
        ("minus infinity", "cbfff0000000000000"),
        ("the byte that msgpack never uses", "c1"),
        ("an extension", "d40100"),
        ("a timestamp", "d6ff00000000"),
        ("ext 8", "c70100ff"),
        ("a short string as str 8", "d90161"),
        ("a short string as str 16", "da000161"),
        ("a short string as str 32", "db0000000161"),
        ("no bytes as bin 16", "c50000"),
        ("no bytes as bin 32", "c600000000"),
        ("an empty array as array 16", "dc0000"),
        ("an empty array as array 32", "dd00000000"),
        ("an empty map as map 16", "de0000"),
        ("an empty map as map 32", "df00000000"),
        ("overlong UTF-8", "a2c080"),
        ("a surrogate in UTF-8", "a3eda080"),
        ("a code point above U+10FFFF", "a4f4908080"),
        ("a cut UTF-8 sequence", "a1c3"),
        ("a lone continuation byte", "a180"),
        ("a key that is an int", "810102"),
        ("a key that is bytes", "81c4016102"),
        ("a key that is nil", "81c002"),
        ("keys out of order", "82a16201a16102"),
        ("a key twice", "82a16101a16102"),
        ("a longer key before its prefix", "82a2616101a16102"),
        ("keys in the order of UTF-16", "82a4f09f988001a3efbd9e02"),
        ("an int cut off", "cd01"),
        ("a float cut off", "cb3ff80000000000"),
        ("a string cut off", "a26f"),
        ("bytes cut off", "c402ff"),
        ("an array cut off", "9201"),
        ("a map without its value", "81a161"),
        ("an array of 2^32 - 1 promised", "ddffffffff"),
        ("a map of 2^32 - 1 promised", "dfffffffff"),
        ("a string of 2^32 - 1 promised", "dbffffffff"),
        ("two values", "0505"),
        ("a value and a tail", "c0c0"),
        ("depth 17", "91" * 16 + "90"),
        ("depth 200", "91" * 199 + "90"),
    ]:
        invalid.append({"why": why, "bytes": data} | refused(twin.decode, bytes.fromhex(data)))
    contents = []
    for why, metadata, document in [
        ("nothing", None, None),
        ("an empty map is nothing", {}, None),
        ("an empty document is something", None, ""),
        ("both", {"a": 1}, "x"),
        (
            "every kind of metadata",
            {"n": None, "b": True, "i": -1, "f": 1.5, "s": "é", "l": ["x", 1, None, 0.5, False]},
            "d",
        ),
        ("the empty key is a key", {"": 0}, None),
    ]:
        written = twin.to_json(metadata)
        contents.append(
            {"why": why, "metadata": written, "document": document, "bytes": twin.content(metadata, document).hex()}
        )
    no_contents = []
    for why, data in [
        ("no array", "c0"),
        ("one part", "9180"),
        ("three parts", "9380c0c0"),
        ("metadata is nil", "92c0c0"),
        ("metadata is an array", "9290c0"),
        ("the document is an int", "928001"),
        ("the document is bytes", "9280c400"),
        ("a list inside a list", "9281a1619190c0"),
        ("a map inside the map", "9281a16180c0"),
        ("bytes inside the map", "9281a161c400c0"),
        ("bytes inside a list", "9281a16191c400c0"),
    ]:
        no_contents.append({"why": why, "bytes": data} | refused(twin.read_content, bytes.fromhex(data)))
    return {
        "page": "encoding.md",
        "valid": valid,
        "invalid": invalid,
        "content": contents,
        "invalid_content": no_contents,
    }


# --------------------------------------------------------------------------------------------------------- filters.json


def filters() -> Case:
    example = {"kind": "a", "year": 2024, "tags": ["x", 1], "seen": None}
    stored: list[Any] = [None, False, True, 0, 1, 2, -0.0, 1.0, 1.5, 2**53, 2**53 + 1, float(2**53), 2**63 - 1]
    stored += ["", "a", "ab", "b", "\uff5e", "\U0001f600", [], ["a"], ["a", 1], [1.0], [True], [None], [0]]
    metadatas: list[dict[str, Any]] = [{}, *({"f": value} for value in stored)]
    numbers_only = [m for m in metadatas if not isinstance(m.get("f"), str)]
    strings_only = [m for m in metadatas if not twin.is_number(m.get("f"))]
    rows = [example, {"kind": "b", "year": 1999.5}, {}]
    edges: list[Any] = [-(2**63), -(2**63) + 1, -(2**53) - 1, -(2**53), -129, -128, -1, 127, 128, 2**53 + 2]
    edges += [2**63 - 1024, 2**63 - 1, -(2.0**63), -(2.0**53) - 2, -128.5, -5e-324, 0.0, 5e-324, 127.5, 2.0**53 + 2]
    edges += [2.0**63 - 1024, 2.0**63, -1e308, 1e308, True, None]
    lists: list[Any] = [[], [0], [-0.0], [False], [1], [True], [2**53 + 1], [float(2**53)], [None], ["ab"], ["a", "b"]]
    lists += [["b", "a"], ["a", "b", "a"], [1.0, None, "a", True], "a", "", 1, True, None]
    sets = {
        "everything": metadatas,
        "numbers at the edges": [{}, *({"f": value} for value in edges)],
        "lists, and what is none": [{}, *({"f": value} for value in lists)],
        "no strings": numbers_only,
        "no numbers": strings_only,
        "a number and a string": [{"f": 1.5}, {"f": "a"}],
        "the page's example": rows,
    }
    tables = []

    def table(why: str, metadatas: list[dict[str, Any]], where: Any) -> None:
        (name,) = (name for name, some in sets.items() if some is metadatas)
        case = {"why": why, "metadatas": name, "where": twin.to_json(where)}
        tables.append(case | outcome("matches", twin.choose, metadatas, where))

    values: list[Any] = [
        None,
        True,
        False,
        0,
        1,
        1.0,
        2**53 + 1,
        float(2**53),
        "a",
        "",
        [],
        ["a"],
        ["a", 1.0],
        [True],
        [1],
    ]
    for value in values:
        table("a plain value", metadatas, {"f": value})
        table("$ne is not $eq", metadatas, {"f": {"$ne": value}})
    for values_in in ([], [None], [1, "a"], [True], [["a", 1], 0], [1.5, "b", None]):
        table("$in", metadatas, {"f": {"$in": values_in}})
        table("$nin", metadatas, {"f": {"$nin": values_in}})
    for value in ("a", "", "b", 1, 1.0, True, None, 0):
        table("$contains", metadatas, {"f": {"$contains": value}})
    for flag in (True, False):
        table("$exists", metadatas, {"f": {"$exists": flag}})
    for operator in twin.ORDERS:
        for number in (1, 1.0, 0, -0.0, 2**53, float(2**53), 1e300, -(2**63)):
            table("an order of numbers", numbers_only, {"f": {operator: number}})
        for text in ("", "a", "ab", "\uff5e", "\U0001f600"):
            table("an order of strings", strings_only, {"f": {operator: text}})
        table("a number against a stored string", sets["a number and a string"], {"f": {operator: 1}})
        table("a string against a stored number", sets["a number and a string"], {"f": {operator: "a"}})
    at_the_edges = sets["numbers at the edges"]
    bounds: list[Any] = [-(2**63), -(2.0**63), -(2**53) - 1, -(2.0**53), -128, -128.5, -129.0, -5e-324, 127, 127.5, 128]
    bounds += [2**53 + 1, 2.0**53 + 2, 2**63 - 1024, 2**63 - 1, 2.0**63 - 1024, 2.0**63, -1e308, 1e308]
    for bound in bounds:
        for operator in (*twin.ORDERS, "$eq"):
            table("a number near the edge of its type", at_the_edges, {"f": {operator: bound}})
    table("$in with ints and floats", at_the_edges, {"f": {"$in": [*bounds, True]}})
    table("$nin with ints and floats", at_the_edges, {"f": {"$nin": [*bounds, None]}})
    some_lists = sets["lists, and what is none"]
    for value in (0, -0.0, False, 1, True, 1.0, 2**53 + 1, float(2**53), None, "a", "", "ab", "c"):
        table("$contains: an element, by equality", some_lists, {"f": {"$contains": value}})
    for value in (
        [],
        [0.0],
        [False],
        [1.0],
        [True],
        [float(2**53)],
        ["a", "b"],
        ["b", "a"],
        ["a"],
        [1, None, "a", True],
    ):
        table("a whole list", some_lists, {"f": value})
        table("not a whole list", some_lists, {"f": {"$ne": value}})
    table("$in with lists", some_lists, {"f": {"$in": [["b", "a"], [True], [], "a", 1.0]}})
    table("$nin with lists", some_lists, {"f": {"$nin": [["b", "a"], [True], [], "a", 1.0]}})
    for why, where in [
        ("None means all", None),
        ("{} means all", {}),
        ("not all is nothing", {"$not": {}}),
        ("several conditions mean and", {"kind": "a", "year": {"$gte": 2020, "$lt": 2025}}),
        ("$and of one empty map", {"$and": [{}]}),
        ("$or", {"$or": [{"kind": "b"}, {"seen": None}]}),
        ("$or with an empty map", {"$or": [{"kind": "zzz"}, {}]}),
        ("inside one another", {"$not": {"$and": [{"kind": "a"}, {"$or": [{"year": 1}, {"year": 2024.0}]}]}}),
        ("the whole list", {"tags": ["x", 1.0]}),
        ("a list is not its element", {"tags": "x"}),
        ("a missing field equals nothing", {"absent": None}),
        ("several operators of one field", {"year": {"$gte": 1999, "$lt": 2024, "$ne": 2000}}),
        ("not of a missing field", {"$not": {"absent": 1}}),
        ("exists under $not", {"$not": {"seen": {"$exists": True}}}),
        ("a conflict behind a clause that matches", {"$or": [{"kind": "a"}, {"kind": {"$gt": 5}}]}),
        ("a conflict behind a clause that fails", {"kind": "zzz", "year": {"$lt": "2020"}}),
        ("a conflict under $not", {"$not": {"year": {"$lt": "x"}}}),
        ("no record has the field: no conflict", {"absent": {"$gt": 5}}),
        ("two levels of maps, 15 times $not: depth 16", twin.from_json(deep_not(15))),
        ("16 times $not: depth 17", twin.from_json(deep_not(16))),
        ("1,000 clauses", {"$or": [{"year": i} for i in range(1000)]}),
        ("1,001 clauses", {"$or": [{"year": i} for i in range(1001)]}),
        ("1,001 empty maps", {"$and": [{}] * 1001}),
        ("no map", ["kind"]),
        ("a string", "kind"),
        ("$and without a list", {"$and": {"kind": "a"}}),
        ("$or of nothing", {"$or": []}),
        ("$and of nothing", {"$and": []}),
        ("$or of a string", {"$or": ["kind"]}),
        ("$or of None", {"$or": [None]}),
        ("$not of None", {"$not": None}),
        ("$not of a list", {"$not": [{}]}),
        ("an unknown operator", {"kind": {"$like": "a"}}),
        ("an unknown operator at the top", {"$nor": [{}]}),
        ("a field operator in the place of a field", {"$gt": 5}),
        ("a field without operators", {"kind": {}}),
        ("an operator and a plain key", {"kind": {"$eq": "a", "x": 1}}),
        ("$not as an operator of a field", {"kind": {"$not": {"$eq": "a"}}}),
        ("$in of a string", {"kind": {"$in": "abc"}}),
        ("$nin of a map", {"kind": {"$nin": {}}}),
        ("$in of a list with a map", {"kind": {"$in": [{}]}}),
        ("$exists of 1", {"kind": {"$exists": 1}}),
        ("$contains of a list", {"tags": {"$contains": ["x"]}}),
        ("an order of None", {"year": {"$gt": None}}),
        ("an order of a bool", {"year": {"$gt": True}}),
        ("an order of a list", {"year": {"$gt": [1]}}),
        ("an order of NaN", {"year": {"$gt": math.nan}}),
        ("a NaN", {"year": math.nan}),
        ("an infinity in a list", {"year": [math.inf]}),
        ("an int beyond int64", {"year": 2**63}),
        ("bytes", {"year": b"x"}),
        ("a list in a list", {"tags": [["x"]]}),
    ]:
        table(why, rows, where)
    return {
        "page": "filters.md",
        "metadatas": {name: twin.to_json(some) for name, some in sets.items()},
        "cases": tables,
    }


def deep_not(times: int) -> Any:
    where: Any = {"map": [["kind", "zzz"]]}
    for _ in range(times):
        where = {"map": [["$not", where]]}
    return where


# ----------------------------------------------------------------------------------------------------- commitments.json

# The eight inputs of the Certificate Transparency test tree (RFC 6962, the reference implementation's), and its roots.
CT_INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def commitments() -> Case:
    ct_leaves = [twin.log_leaf(bytes.fromhex(data)) for data in CT_INPUTS]
    for size, published in enumerate(CT_ROOTS):
        assert twin.log_root(ct_leaves[:size]).hex() == published, "the twin misses a published root"
    leaves = [twin.log_leaf(bytes([i])) for i in range(17)]
    log_roots = [
        {
            "size": size,
            "root": twin.log_root(leaves[:size]).hex(),
            "frontier": [root.hex() for root in twin.frontier(leaves[:size])],
        }
        for size in range(18)
    ]
    vectors = [
        {"why": why, "raw": raw, "commitment": twin.commitment(twin.vector_bytes(raw)).hex()}
        for why, raw in [("one component", [1]), ("little-endian, two's complement", [-1, 65536]), ("zeros", [0, 0, 0])]
    ]
    contents = [
        {"why": why, "bytes": twin.content(m, d).hex(), "commitment": twin.commitment(twin.content(m, d)).hex()}
        for why, m, d in [("nothing", None, None), ("an empty document", None, ""), ("both", {"a": 1}, "x")]
    ]
    contents.append(
        {
            "why": "a definition",
            "bytes": twin.definition(3, "l2", "Q16.16").hex(),
            "commitment": twin.commitment(twin.definition(3, "l2", "Q16.16")).hex(),
        }
    )
    keys = []
    for why, name, record_id in [
        ("a collection's own entry", "notes", ""),
        ("a record", "notes", "a"),
        ("the border between name and id cannot move", "note", "sa"),
        ("not ASCII", "größe", "\U0001f600"),
        ("the longest", "n" * 128, "i" * 512),
    ]:
        one, two = twin.commitment(b"vector"), twin.commitment(b"content")
        leaf = twin.record_leaf(name, record_id, one, two) if record_id else twin.collection_leaf(name, two)
        key = twin.state_key(name, record_id)
        keys.append(
            {
                "why": why,
                "collection": name,
                "id": record_id,
                "vector_commitment": one.hex() if record_id else None,
                "content_commitment": two.hex(),
                "key": key.hex(),
                "bucket": int.from_bytes(key[:2], "big"),
                "leaf": leaf.hex(),
            }
        )

    def entry(first: str, fill: str) -> tuple[bytes, bytes]:
        key = bytes.fromhex(first).ljust(32, bytes.fromhex(fill))
        return key, twin.sha256(key)

    trees = []
    for why, entries in [
        ("empty", []),
        ("one entry, the first bucket", [entry("0000", "00")]),
        ("one entry, the last bucket", [entry("ffff", "ff")]),
        ("two entries of one bucket", [entry("1234", "01"), entry("1234", "02")]),
        ("the same, written the other way round: the same root", [entry("1234", "02"), entry("1234", "01")]),
        ("two neighbours under one node", [entry("0002", "00"), entry("0003", "00")]),
        ("two halves of the tree", [entry("7fff", "00"), entry("8000", "00")]),
        ("sixty", [(twin.state_key("c", f"{i}"), twin.sha256(b"%d" % i)) for i in range(60)]),
        (
            "sixty, backwards: the same root",
            [(twin.state_key("c", f"{i}"), twin.sha256(b"%d" % i)) for i in range(59, -1, -1)],
        ),
    ]:
        tree = twin.StateTree()
        for key, leaf in entries:
            tree.change(key, leaf)
        assert tree.root() == twin.state_root(dict(entries))
        pairs = [[key.hex(), leaf.hex()] for key, leaf in entries]
        trees.append({"why": why, "entries": pairs, "root": tree.root().hex()})
    histories = []
    a, b = ("a", [1, 2], {"x": 1}, None), ("b", [3, 4], None, "text")
    for why, commands in [
        ("a, then b", [("add", "c", [a]), ("add", "c", [b])]),
        ("b, then a", [("add", "c", [b]), ("add", "c", [a])]),
        ("both at once", [("add", "c", [a, b])]),
        ("with a detour", [("add", "c", [("a", [9, 9], None, ""), b]), ("delete", "c", ["a"]), ("upsert", "c", [a])]),
    ]:
        memory = twin.Memory()
        memory.write(("create", "c", 2, "l2", "Q16.16"))
        for command in commands:
            memory.write(command)
        histories.append(
            {
                "why": why,
                "commands": twin.to_json([("create", "c", 2, "l2", "Q16.16"), *commands]),
                "state_root": memory.state_root().hex(),
                "log_root": memory.log_root().hex(),
                "link": memory.link.hex(),
            }
        )
    assert len({history["state_root"] for history in histories}) == 1
    assert len({history["log_root"] for history in histories}) == len(histories)
    one, two = bytes(range(32)), bytes(range(32, 64))
    text = twin.checkpoint_text(2, 3, one, two)
    checkpoints = [
        {"why": "as the page shows it", "text": text},
        {"why": "nothing yet", "text": twin.Memory().checkpoint()},
    ]
    for case in checkpoints:
        seq, size, log_root, state_root = twin.read_checkpoint(case["text"])
        case |= {"seq": seq, "log_size": size, "log_root": log_root.hex(), "state_root": state_root.hex()}
    lines = text.split("\n")
    no_checkpoints = []
    for why, broken in [
        ("nothing", ""),
        ("no last newline", text[:-1]),
        ("a line more", text + "\n"),
        ("a line less", "\n".join(lines[:4]) + "\n"),
        ("another origin", text.replace("v1", "v2")),
        ("carriage returns", text.replace("\n", "\r\n")),
        ("a leading zero", text.replace("\n3\n", "\n03\n")),
        ("a plus sign", text.replace("\n3\n", "\n+3\n")),
        ("a negative size", text.replace("\n3\n", "\n-3\n")),
        ("a size of 2^64", text.replace("\n3\n", f"\n{2**64}\n")),
        ("an underscore", text.replace("\n3\n", "\n1_0\n")),
        ("digits of another script", text.replace("\n3\n", "\n\u0663\n")),
        ("a space behind seq's number", text.replace("seq 2\n", "seq 2 \n")),
        ("seq without its word", text.replace("seq 2", "2")),
        ("base64 cut", text.replace(lines[2], lines[2][:-4])),
        ("base64 without padding", text.replace(lines[2], lines[2][:-1])),
        ("base64 with set bits behind its end", text.replace(lines[2], lines[2][:-2] + "9=")),
        ("base64 of 33 bytes", text.replace(lines[2], lines[2][:-1] + "A")),
        ("hex in capitals", text.replace(lines[4], "state " + lines[4][6:].upper())),
        ("hex cut", text.replace(lines[4], lines[4][:-2])),
        ("leaves, and no commit", twin.checkpoint_text(0, 3, one, two)),
        ("a commit, and no leaves", twin.checkpoint_text(2, 0, twin.log_root([]), two)),
        ("no leaves, and a root of some", twin.checkpoint_text(0, 0, one, bytes(32))),
        ("no commit, and a state", twin.checkpoint_text(0, 0, twin.log_root([]), two)),
        ("hex with a space", text.replace(lines[4], "state " + lines[4][6:8] + " " + lines[4][8:])),
    ]:
        no_checkpoints.append({"why": why, "text": broken} | refused(twin.read_checkpoint, broken))
    return {
        "page": "commitments.md",
        "vectors": vectors,
        "contents": contents,
        "entries": keys,
        "state_trees": trees,
        "histories": histories,
        "published_tree": {"why": "RFC 6962's test tree", "inputs": CT_INPUTS, "roots": CT_ROOTS},
        "log_trees": {"why": "leaf i is H(00 | u8 i)", "sizes": log_roots},
        "first_link": twin.FIRST_LINK.hex(),
        "checkpoints": checkpoints,
        "invalid_checkpoints": no_checkpoints,
    }


# ------------------------------------------------------------------------------------------------------------- log.json

STORE_ID = bytes(range(0x30, 0x40))
SMALL_STORE: list[tuple[Any, ...]] = [
    ("create", "notes", 2, "l2", "Q16.16"),
    ("add", "notes", [("a", [1, -2], {"kind": "x"}, "text")]),
    (
        "batch",
        [
            ("upsert", "notes", [("b", [3, 4], None, None), ("\U0001f600", [5, 6], {"n": 1.5}, "")]),
            ("update", "notes", [("a", [7, 8], None, None)]),
            ("update", "notes", [("b", None, {"kind": None, "y": [1, "z"]}, "é")]),
        ],
    ),
    ("create", "é", 1, "cosine", "Q4.28"),
    ("delete", "notes", ["b"]),
    ("add", "é", [("only", [2**28], None, None)]),
    ("create", "gone", 1, "ip", "Q8.24"),
    ("drop", "gone"),
]
# Links within a collection and across, requests, recorded hashes, salts and erasures.
RICH_STORE: list[tuple[Any, ...]] = [
    ("create", "people", 2, "l2", "Q16.16", True),
    ("create", "notes", 1, "ip", "Q16.16"),
    ("request", "r-1", ("add", "people", [("ann", [1, 2], {"age": 44}, "Ann"), ("bob", [3, 4], None, None)])),
    ("request", "r-2", ("upsert", "notes", [("n", [5], None, "about both")])),
    ("link", "notes", "n", "about", "people", "ann"),
    ("link", "notes", "n", "about", "people", "bob"),
    ("link", "people", "ann", "knows", "people", "bob"),
    ("update", "people", [("bob", None, {"age": 45}, None)]),
    ("update", "people", [("ann", [-1, 7], None, None)]),
    ("record", bytes(range(32)), "what was read"),
    ("record", bytes(32), None),
    ("unlink", "people", "ann", "knows", "people", "bob"),
    ("link", "people", "bob", "knows", "people", "bob"),
    ("erase", "people", ["ann"]),
    ("batch", [("add", "people", [("ann", [0, 0], None, "another")]), ("erase", "people", ["cat"])]),
]


def written(commands: list[tuple[Any, ...]]) -> tuple[twin.Memory, list[twin.Commit]]:
    memory = twin.Memory()
    commits = [memory.write(command) for command in commands]
    return memory, [commit for commit in commits if commit is not None]


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def log() -> Case:
    _, commits = written(SMALL_STORE)
    _, rich = written(RICH_STORE)
    operations = []
    for commit in [*commits, *rich]:
        for o, leaf in zip(commit.operations, commit.leaves, strict=False):
            data = twin.encode_operation(o)
            assert twin.decode_operation(data) == (o, len(data))
            operations.append(
                {
                    "why": f"{twin.NAMES[o.type]}, seq {commit.seq}",
                    "type": o.type,
                    "collection": o.collection,
                    "id": o.id,
                    "vector": None if o.vector is None else twin.read_vector(o.vector),
                    "content": None if o.content is None else o.content.hex(),
                    "header": twin.operation_header(o).hex(),
                    "leaf": leaf.hex(),
                    "salt": o.salt.hex(),
                    "bytes": data.hex(),
                    "erased": twin.encode_operation(twin.without_payload(o)).hex() if o.type in twin.WRITES else None,
                    "archived": twin.encode_operation(twin.without_payload(o, archived=True)).hex()
                    if o.type in twin.WRITES
                    else None,
                }
            )
    add = twin.encode_operation(commits[1].operations[0])  # collection "notes" at 80, id "a" at 85, state at 86
    delete = twin.encode_operation(commits[4].operations[0])
    create = twin.encode_operation(commits[0].operations[0])
    link = twin.encode_operation(rich[4].operations[0])
    salted = twin.encode_operation(rich[2].operations[1])
    record = twin.encode_operation(rich[9].operations[0])
    erase = twin.encode_operation(rich[13].operations[0])
    no_operations = [
        {"why": why, "bytes": data.hex()} | refused(twin.decode_operation, data)
        for why, data in [
            ("a header cut", add[:79]),
            ("strings cut", add[:85]),
            ("no state byte", add[:86]),
            ("payload cut", add[:-1]),
            ("type 0", patched(add, 0, b"\x00")),
            ("type 12", patched(add, 0, b"\x0c")),
            ("an add that says it is a link", patched(add, 0, b"\x07")),
            ("an add without a vector's flag", patched(add, 1, b"\x02")),
            ("an add that says it is salted", patched(add, 1, b"\x07")),
            ("a salted add that says it is not", patched(salted, 1, b"\x03")),
            ("a salt that was changed", patched(salted, 80 + len("people") + len("ann") + 1, bytes(32))),
            ("an unknown flag", patched(add, 1, b"\x0b")),
            ("a link with a vector's flag", patched(link, 1, b"\x03")),
            ("a link to another record", patched(link, len(link) - 1, b"N")),
            ("a link whose payload was erased", patched(link, 80 + len("notes") + len("n"), b"\x01")),
            ("a recorded hash that was changed", patched(record, 90, b"\xff")),
            ("an erasure that says it has a collection of 0 bytes", patched(erase, 2, bytes(2))),
            ("a delete with a content's flag", patched(delete, 1, b"\x02")),
            ("an update that changes nothing", patched(delete, 0, b"\x05")),
            ("a reserved field that is not 0", patched(add, 6, b"\x01\x00")),
            ("a vector's flag with size 0", patched(add, 8, bytes(4))),
            ("a vector of 7 bytes", patched(add, 8, b"\x07\x00\x00\x00")),
            ("a content's flag with size 0", patched(add, 12, bytes(4))),
            ("a content of 4 GiB", patched(add, 12, b"\xff\xff\xff\xff")),
            ("an add without an id", patched(add, 4, bytes(2))),
            ("a delete with an id of 513 bytes", patched(delete, 4, twin.u16(513)) + bytes(512)),
            ("a collection without a name", patched(create, 2, bytes(2))),
            ("a name that is not UTF-8", patched(add, 80, b"\xff")),
            ("an id that is not UTF-8", patched(add, 85, b"\x80")),
            ("state 3", patched(add, 86, b"\x03")),
            ("a vector that was changed", patched(add, 87, b"\x02")),
            ("a content that was changed", patched(add, len(add) - 1, b"T")),
            ("a vector commitment that was changed", patched(add, 16, bytes(32))),
            ("a content commitment that was changed", patched(add, 48, bytes(32))),
            ("a delete with a vector commitment", patched(delete, 16, b"\x01")),
            ("a delete with a content commitment", patched(delete, 48, b"\x01")),
            ("a create with a vector commitment", patched(create, 16, b"\x01")),
        ]
    ]

    def setting(commit: twin.Commit) -> dict[str, Any]:
        before = commits[commit.seq - 2].link if commit.seq > 1 else twin.FIRST_LINK
        return {"store_id": STORE_ID, "first_seq": 1, "seq_before": commit.seq - 1, "link_before": before}

    def shown(some: dict[str, Any]) -> Case:
        return {key: value.hex() if isinstance(value, bytes) else value for key, value in some.items()}

    def framed(commit: twin.Commit) -> bytes:
        data = twin.commit_frame(commit, commit.seq // 2, STORE_ID, 1)
        assert twin.read_frame(data, 0, **setting(commit)) == (commit, len(data))
        return data

    frames = []
    for commit in commits:
        data = framed(commit)
        frames.append(
            {
                "why": f"seq {commit.seq}: {len(commit.operations)} operations, durable to {commit.seq // 2}",
                **shown(setting(commit)),
                "durable_seq": commit.seq // 2,
                "commit_leaf": commit.leaves[-1].hex(),
                "state_root": commit.state_root.hex(),
                "link": commit.link.hex(),
                "bytes": data.hex(),
            }
        )
    second = commits[1]
    good = twin.commit_frame(second, 0, STORE_ID, 1)

    def headed(at: int, new: bytes, data: bytes = good) -> bytes:
        """A header with other bytes and a right CRC."""
        data = patched(data, at, new)
        return patched(data, 28, twin.u32(twin.header_crc(data[:28], STORE_ID, 1)))

    def relinked(body: bytes, count: int) -> bytes:
        """A frame with another body that nevertheless ends in some trailer."""
        header = twin.frame_header(1, len(body), 2, 0, STORE_ID, 1)
        empty = twin.link(commits[0].link, 2, [], twin.commit_leaf(2, count, second.state_root))
        return header + body + second.state_root + empty

    body = good[32:-64]
    no_frames = []
    for why, data, other in [
        ("nothing", b"", {}),
        ("a header cut", good[:31], {}),
        ("a body cut", good[:60], {}),
        ("a trailer cut", good[:-1], {}),
        ("another magic", patched(good, 0, b"DMF2"), {}),
        *((f"byte {at} of the header changed", patched(good, at, bytes([good[at] ^ 1])), {}) for at in range(4, 32, 3)),
        ("kind 0", headed(4, b"\x00"), {}),
        ("kind 3", headed(4, b"\x03"), {}),
        ("flags 1", headed(5, b"\x01"), {}),
        ("version 3", headed(6, b"\x03\x00"), {}),
        ("version 1", headed(6, b"\x01\x00"), {}),
        ("a length one too long, a byte behind it", headed(8, twin.u32(len(body) + 1)) + b"\x00", {}),
        ("a length one too short", headed(8, twin.u32(len(body) - 1)), {}),
        ("a length of 4 GiB", headed(8, b"\xff\xff\xff\xff"), {}),
        ("seq 3 after 1", headed(12, twin.u64(3)), {}),
        ("seq 1 after 1", headed(12, twin.u64(1)), {}),
        ("a durable seq that is not below the seq", headed(20, twin.u64(2)), {}),
        ("a frame without operations", relinked(b"", 0), {}),
        ("the operation's type changed to upsert: the leaf is another", patched(good, 32, b"\x04"), {}),
        ("the operation twice", relinked(body + body, 2), {}),
        ("another state root", patched(good, len(good) - 64, bytes(32)), {}),
        ("another link", patched(good, len(good) - 32, bytes(32)), {}),
        ("the payload changed", patched(good, 32 + 87, b"\x09"), {}),
        ("after another link", good, {"link_before": bytes(32)}),
        ("in another store", good, {"store_id": bytes(16)}),
        ("in another segment", good, {"first_seq": 2}),
        ("after another seq", good, {"seq_before": 2}),
    ]:
        setup = setting(second) | other
        no_frames.append({"why": why, **shown(setup), "bytes": data.hex()} | refused(twin.read_frame, data, 0, **setup))

    leaves = [leaf for commit in commits for leaf in commit.leaves]
    root, last = twin.log_root(leaves), commits[-1]
    seal = twin.seal_frame(last.seq, last.seq, len(commits), len(leaves), last.link, root, STORE_ID, 1)
    setup = {"store_id": STORE_ID, "first_seq": 1, "seq_before": last.seq, "link_before": last.link}
    expected = twin.Seal(last.seq, last.seq, len(commits), len(leaves), last.link, root)
    assert twin.read_frame(seal, 0, **setup) == (expected, len(seal))
    seals = [{"why": "of the whole small store", **shown(setup), **shown(expected._asdict()), "bytes": seal.hex()}]
    no_seals = [
        {"why": why, **shown(setup), "bytes": data.hex()} | refused(twin.read_frame, data, 0, **setup)
        for why, data in [
            ("a seal cut", seal[:-1]),
            ("another count", patched(seal, 32, twin.u64(7))),
            ("another log size", patched(seal, 40, twin.u64(7))),
            ("another link", patched(seal, 48, bytes(32))),
            ("another log root", patched(seal, 80, bytes(32))),
            ("another digest", patched(seal, len(seal) - 32, bytes(32))),
            ("another seq", headed(12, twin.u64(last.seq + 1), seal)),
            ("a durable seq that is not the seq", headed(20, twin.u64(last.seq - 1), seal)),
            ("a body that is too long", headed(8, twin.u32(81), seal) + b"\x00"),
            (
                "a right digest over another count",
                twin.seal_frame(last.seq, last.seq, 7, len(leaves), last.link, root, STORE_ID, 1),
            ),
            (
                "a right digest over another link",
                twin.seal_frame(last.seq, last.seq, len(commits), len(leaves), bytes(32), root, STORE_ID, 1),
            ),
        ]
    ]

    segments, no_segments = [], []
    for why, segment in [
        ("the first segment", twin.Segment(STORE_ID, 1, 0, twin.FIRST_LINK, twin.sha256(b""))),
        ("the segment behind the small store", twin.Segment(STORE_ID, last.seq + 1, len(leaves), last.link, root)),
    ]:
        data = twin.segment_header(segment)
        assert twin.read_segment_header(data) == segment
        segments.append({"why": why, **shown(segment._asdict()), "bytes": data.hex()})

    def summed(data: bytes, at: int, new: bytes) -> bytes:
        """Other bytes under a right CRC, which stands at the end."""
        data = patched(data, at, new)
        return data[:-4] + twin.u32(zlib.crc32(data[:-4]))

    for why, broken in [
        ("cut", data[:-1]),
        ("nothing", b""),
        ("another magic", summed(data, 0, b"DETMEMSN")),
        ("version 3", summed(data, 8, b"\x03")),
        ("flags 1", summed(data, 10, b"\x01")),
        ("size 127", summed(data, 12, b"\x7f")),
        ("a byte where zeros belong", summed(data, 112, b"\x01")),
        *((f"byte {at} changed", patched(data, at, bytes([data[at] ^ 0x80]))) for at in range(8, 128, 11)),
    ]:
        no_segments.append({"why": why, "bytes": broken.hex()} | refused(twin.read_segment_header, broken))

    heads, no_heads = [], []
    for why, head in [
        ("a new store", twin.Head(False, 1, STORE_ID, 0, 0, 0, twin.FIRST_LINK, 0, bytes(32))),
        ("closed", twin.Head(True, 9, STORE_ID, last.seq, 1, 4321, last.link, 0, bytes(32))),
        (
            "with a snapshot",
            twin.Head(False, 10, STORE_ID, last.seq, 9, 128, last.link, last.seq, twin.sha256(b"snap")),
        ),
    ]:
        data = twin.head_slot(head)
        assert len(data) == 140
        assert twin.read_head_slot(data) == head
        heads.append({"why": why, **shown(head._asdict()), "bytes": data.hex()})
    for why, broken in [
        ("cut", data[:-1]),
        ("zeros", bytes(140)),
        ("another magic", summed(data, 0, b"DETMEMSG")),
        ("version 3", summed(data, 8, b"\x03")),
        ("flags 2", summed(data, 10, b"\x02")),
        ("a byte where zeros belong", summed(data, 12, b"\x01")),
        *((f"byte {at} changed", patched(data, at, bytes([data[at] ^ 0x80]))) for at in range(8, 140, 11)),
    ]:
        no_heads.append({"why": why, "bytes": broken.hex()} | refused(twin.read_head_slot, broken))
    return {
        "page": "log.md",
        "commands": twin.to_json(SMALL_STORE),
        "rich_commands": twin.to_json(RICH_STORE),
        "operations": operations,
        "invalid_operations": no_operations,
        "frames": frames,
        "invalid_frames": no_frames,
        "seals": seals,
        "invalid_seals": no_seals,
        "segments": segments,
        "invalid_segments": no_segments,
        "head_slots": heads,
        "invalid_head_slots": no_heads,
    }


# -------------------------------------------------------------------------------------------------------- snapshot.json


def snapshot() -> Case:
    good = []
    for why, commands in [
        ("an empty store: no chunk at all", []),
        ("one empty collection", SMALL_STORE[:1]),
        ("one record", SMALL_STORE[:2]),
        ("links, requests and salts", RICH_STORE[:-2]),
        ("erasures", RICH_STORE),
        ("the small store", SMALL_STORE),
    ]:
        memory, _ = written(commands)
        data = twin.write_snapshot(memory)
        assert twin.write_snapshot(twin.read_snapshot(data)) == data
        good.append(
            {
                "why": why,
                "commands": twin.to_json(commands),
                "checkpoint": memory.checkpoint(),
                "sha256": hashlib.sha256(data).hexdigest(),
                "digest": twin.snapshot_digest(data).hex(),
                "bytes": data.hex(),
            }
        )
    header_size = twin.SNAPSHOT_HEADER.size + 32 * len(memory.frontier)
    header, stream = data[:header_size], twin.snapshot_stream(memory.state)

    def assembled(new_stream: bytes = stream, at: int = 0, new: bytes = b"", base: bytes = header) -> bytes:
        """A file with every hash of its chunks right around another stream or header."""
        return twin.assemble_snapshot(patched(base, at, new), new_stream)

    rich, _ = written(RICH_STORE[:-1])
    rich_header = twin.write_snapshot(rich)[: twin.SNAPSHOT_HEADER.size + 32 * len(rich.frontier)]
    rich_stream = twin.snapshot_stream(rich.state)

    def rewritten(old: bytes, new: bytes) -> bytes:
        """The rich store's snapshot with other bytes at one place of the stream, all hashes of chunks right."""
        assert rich_stream.count(old) == 1, (old, rich_stream.count(old))
        return assembled(rich_stream.replace(old, new), base=rich_header)

    requests = [twin.lp(i) + twin.u64(r.seq) + r.digest + r.state_root for i, r in rich.state.requests.items()]
    [to_bob, to_self] = [
        b"".join(map(twin.lp, edge)) + twin.u64(born) for edge, born in sorted(rich.state.links.items())
    ]
    erasure = twin.lp("people") + twin.lp("ann") + twin.u64(14)

    def replaced(old: bytes, new: bytes) -> bytes:
        assert stream.count(old) == 1, (old, stream.count(old))
        return assembled(stream.replace(old, new))

    one = memory.state["notes"].records["a"]
    grin = memory.state["notes"].records["\U0001f600"]
    first_chunk = header_size + 32
    bad = []
    for why, broken in [
        ("nothing", b""),
        ("the header cut", data[:100]),
        ("the header's hash cut", data[: header_size + 31]),
        ("a chunk cut", data[: first_chunk + 50]),
        ("the footer cut", data[:-1]),
        ("a byte behind the footer", data + b"\x00"),
        ("another magic", assembled(at=0, new=b"DETMEMSG")),
        ("version 1", assembled(at=8, new=b"\x01")),
        ("flags 1", assembled(at=10, new=b"\x01")),
        ("another chunk size", assembled(at=12, new=twin.u32(4096))),
        ("seq changed under a wrong hash", patched(data, 16, b"\x07")),
        ("the link changed under a wrong hash", patched(data, 32, b"\x00\x00")),
        ("another state root", assembled(at=64, new=bytes(32))),
        ("another log root", assembled(at=96, new=bytes(32))),
        ("another log size: the frontier has other counts", assembled(at=24, new=twin.u64(memory.log_size + 1))),
        ("another frontier", assembled(at=header_size - 32, new=bytes(32))),
        ("a collection too many", assembled(at=132, new=twin.u32(3))),
        ("a collection too few", assembled(at=132, new=twin.u32(1))),
        ("a chunk of another hash", patched(data, first_chunk + 4, bytes(32))),
        ("a byte of a chunk changed", patched(data, first_chunk + 40, b"X")),
        ("a chunk size over the limit", patched(data, first_chunk, twin.u32(twin.CHUNK + 1))),
        ("a chunk count changed", patched(data, len(data) - 48, twin.u64(2))),
        ("a stream size changed", patched(data, len(data) - 40, twin.u64(len(stream) + 1))),
        ("another digest", patched(data, len(data) - 32, bytes(32))),
        ("two small chunks instead of one", split_chunks(header, stream)),
        ("bytes behind the last section", assembled(stream + b"\x00")),
        ("a salt changed", rewritten(rich.state["people"].records["bob"].salts[0], bytes(32))),
        ("a link to nobody", rewritten(to_bob, to_bob.replace(b"bob", b"rob"))),
        ("a link that is not there", rewritten(to_self, to_self.replace(b"knows", b"owes!"))),
        ("links out of order", rewritten(to_bob + to_self, to_self + to_bob)),
        ("a link twice", rewritten(to_bob + to_self, to_bob + to_bob)),
        ("a link born at 0", rewritten(to_bob, to_bob[:-8] + twin.u64(0))),
        ("a link born behind seq", rewritten(to_bob, to_bob[:-8] + twin.u64(15))),
        ("a request twice", rewritten(requests[1], requests[0])),
        ("requests out of order", rewritten(requests[0] + requests[1], requests[1] + requests[0])),
        ("a request behind seq", rewritten(requests[1], requests[1].replace(twin.u64(4), twin.u64(15)))),
        ("more requests than are kept", rewritten(twin.u64(2) + requests[0], twin.u64(65_537) + requests[0])),
        ("an erasure at 0", rewritten(erasure, erasure[:-8] + twin.u64(0))),
        ("an erasure twice", rewritten(twin.u64(1) + erasure, twin.u64(2) + erasure + erasure)),
        ("an erasure too many", rewritten(twin.u64(1) + erasure, twin.u64(2) + erasure)),
        ("the stream cut", assembled(stream[:-1])),
        (
            "ids out of order",
            replaced(twin.lp("a") + twin.lp("\U0001f600"), twin.lp("\U0001f600") + twin.lp("a")),
        ),
        ("an id twice", replaced(twin.lp("a") + twin.lp("\U0001f600"), twin.lp("aaaa") + twin.lp("a"))),
        ("an id that is not UTF-8", replaced(twin.lp("\U0001f600"), twin.u16(4) + b"\xf0\x9f\x98\xff")),
        ("an empty id", replaced(twin.lp("a") + twin.lp("\U0001f600"), twin.lp("") + twin.lp("\U0001f600") + b"a")),
        ("a count of 2^63", replaced(twin.u64(2) + twin.lp("a"), twin.u64(2**63) + twin.lp("a"))),
        ("born at 0", replaced(twin.u64(one.born) + twin.u64(grin.born), twin.u64(0) + twin.u64(grin.born))),
        (
            "born behind seq",
            replaced(twin.u64(one.born) + twin.u64(grin.born), twin.u64(memory.seq + 1) + twin.u64(grin.born)),
        ),
        ("a vector changed", replaced(twin.vector_bytes([7, 8]), twin.vector_bytes([7, 9]))),
        ("a vector that is not admitted", replaced(twin.vector_bytes([7, 8]), twin.vector_bytes([2**31 - 1, 8]))),
        ("a document changed", replaced(b"text", b"Text")),
        ("a content that is not canonical", replaced(b"\xa4text", b"\xd9\x03ext")),
        ("a collection's metric changed", replaced(b"\xa2l2", b"\xa2ip")),
        ("an unknown metric", replaced(b"\xa2l2", b"\xa2l3")),
        ("another dimension", replaced(b"dim\x02", b"dim\x03")),
    ]:
        bad.append({"why": why, "bytes": broken.hex()} | refused(twin.read_snapshot, broken))
    large_commands: list[tuple[Any, ...]] = [("create", "large", 1, "l2", "Q16.16")]
    large_commands.append(("add", "large", [(f"{i}", [i], None, f"{i}" * 700_000) for i in range(4)]))
    memory, _ = written(large_commands)
    data = twin.write_snapshot(memory)
    assert twin.write_snapshot(twin.read_snapshot(data)) == data
    large = {
        "why": "three chunks: create large (1, l2, Q16.16), one add of ids 0..3, raw [i], 700,000 times the digit",
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "digest": twin.snapshot_digest(data).hex(),
    }
    return {"page": "snapshot.md", "valid": good, "large": large, "invalid": bad}


def split_chunks(header: bytes, stream: bytes) -> bytes:
    chunks = [stream[:10], stream[10:]]
    hashes = [twin.sha256(b"\x19", twin.u64(i), chunk) for i, chunk in enumerate(chunks)]
    parts = [twin.u32(len(chunk)) + chunk_hash + chunk for chunk, chunk_hash in zip(chunks, hashes, strict=True)]
    digest = twin.sha256(b"\x1a", twin.sha256(header), *hashes)
    return b"".join([header, twin.sha256(header), *parts, twin.u32(0), twin.u64(2), twin.u64(len(stream)), digest])


# ---------------------------------------------------------------------------------------------------------- search.json


def search() -> Case:
    cases = []
    big, half = 2**30, 2**29
    tied = {"b": [1, 0], "a": [0, 1], "\uff5e": [-1, 0], "\U0001f600": [0, -1], "é": [1, 0], "": [0, 0]}
    tied.pop("")
    stored: list[tuple[str, int, dict[str, list[int]], list[int]]] = [
        ("four ties: ids decide, by UTF-8 bytes", 2, tied, [0, 0]),
        ("the page's example", 2, {"a": [0, 0], "b": [2, 0], "c": [0, 2], "aa": [2, 0]}, [1, 0]),
        ("duplicates of the query", 2, {"x": [5, 5], "w": [5, 5], "z": [5, 6]}, [5, 5]),
        ("corners of the admitted range", 1, {"far": [-big], "near": [big - 1], "same": [big]}, [big]),
        (
            "corners, four dimensions",
            4,
            {"p": [half] * 4, "m": [-half] * 4, "mixed": [half, -half, half, -half]},
            [half] * 4,
        ),
        ("neighbours that no float64 tells apart", 1, {"a": [big], "b": [big - 1], "c": [big - 2]}, [-big]),
        ("nothing stored", 3, {}, [1, 2, 3]),
        ("a zero query", 2, {"a": [3, 4], "b": [0, 0]}, [0, 0]),
    ]
    for why, dim, rows, query in stored:
        for metric in twin.METRICS:
            commands = [("create", "c", dim, metric, "Q16.16")]
            commands += [("add", "c", [(i, raw, {"n": n, "s": "even" if n % 2 == 0 else "odd"}, None)])
                         for n, (i, raw) in enumerate(rows.items())]  # fmt: skip
            memory, _ = written(commands)
            for k, where, ids in [
                (1, None, None),
                (2, None, None),
                (10, None, None),
                (2, {"s": "even"}, None),
                (3, {"n": {"$gte": 1}}, None),
                (5, None, ["a", "b", "w", "same", "absent"]),
                (5, {"n": {"$lt": "x"}}, None),
                (0, None, None),
            ]:
                cases.append(
                    {
                        "why": why,
                        "metric": metric,
                        "dim": dim,
                        "commands": twin.to_json(commands),
                        "query": query,
                        "k": k,
                        "where": twin.to_json(where),
                        "ids": ids,
                    }
                    | outcome("hits", memory.search, "c", query, k, where, ids)
                )
    memory, _ = written([("create", "c", 2, "l2", "Q16.16"), ("add", "c", [("a", [1, 2], None, None)])])
    for why, query in [
        ("a query of another dimension", [1]),
        ("an empty query", []),
        ("a query that is not admitted", [big, 1]),
        ("a query beyond int32", [2**31, 0]),
    ]:
        base = {"why": why, "metric": "l2", "dim": 2, "query": query, "k": 1, "where": None, "ids": None}
        commands = [("create", "c", 2, "l2", "Q16.16"), ("add", "c", [("a", [1, 2], None, None)])]
        cases.append(base | {"commands": twin.to_json(commands)} | refused(memory.search, "c", query, 1))
    return {"page": "search.md", "cases": cases}


# ------------------------------------------------------------------------------------------------------- receipts.json

# Published with the Certificate Transparency test tree: (leaf, size, path) and (old size, new size, path).
CT_INCLUSION = [
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
CT_CONSISTENCY = [
    (1, 1, []),
    (1, 8, CT_INCLUSION[1][2]),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]


def told() -> twin.Told:
    """A small life: seq 5 of its six commits is what the receipts are about."""
    story = twin.Told()
    story.write(("create", "notes", 2, "l2", "Q16.16"))
    records = [(f"n{i}", [i, i * i - 20], {"kind": "even" if i % 2 == 0 else "odd"}, f"text {i}") for i in range(12)]
    story.write(("add", "notes", records))
    story.write(("delete", "notes", ["n3"]))
    story.write(("create", "other", 3, "ip", "Q8.24"))
    story.write(("batch", [("add", "other", [("\u00e9", [1, 2, 3], None, None)]), ("upsert", "notes", records[4:5])]))
    story.write(("update", "notes", [("n5", None, {"kind": "changed"}, None)]))
    return story


def changed(data: bytes, change: Callable[[Any], object], sealed: bool = False) -> bytes:
    """A file whose map was changed, canonical again (and with a right digest)."""
    value = twin.decode(data[:-32] if sealed else data)
    change(value[1])
    return twin.sealed_receipt(value[1]) if sealed else twin.encode(value)


def setter(*steps: Any) -> Callable[[Any], None]:
    """Puts the last of ``steps`` at the place that the others lead to."""

    def change(value: Any) -> None:
        for step in steps[:-2]:
            value = value[step]
        value[steps[-2]] = steps[-1]

    return change


def receipts() -> Case:
    ct = [twin.log_leaf(bytes.fromhex(data)) for data in CT_INPUTS]
    for index, size, path in CT_INCLUSION:
        assert [one.hex() for one in twin.inclusion_path(ct[:size], index)] == path, "the twin misses a published path"
    for old, size, path in CT_CONSISTENCY:
        assert [one.hex() for one in twin.consistency_path(ct[:size], old)] == path, "the twin misses a published path"
    leaves = [twin.log_leaf(bytes([i])) for i in range(20)]
    inclusions, consistencies = [], []
    for size in [*range(1, 10), 16, 17, 20]:
        root = twin.log_root(leaves[:size])
        for index in range(size):
            path = twin.inclusion_path(leaves[:size], index)
            assert twin.root_from(leaves[index], index, size, path) == root
            joined = b"".join(path).hex()
            inclusions.append(
                {"size": size, "index": index, "leaf": leaves[index].hex(), "path": joined, "root": root.hex()}
            )
        for old in range(size + 1):
            path = twin.consistency_path(leaves[:size], old)
            old_root = twin.log_root(leaves[:old])
            twin.check_consistency(old, old_root, size, root, path)
            roots_of = {"old_root": old_root.hex(), "new_root": root.hex()}
            consistencies.append({"old": old, "new": size, **roots_of, "path": b"".join(path).hex()})

    def key(first: str) -> bytes:
        return bytes.fromhex(first).ljust(32, b"\x07")

    parts = []
    three = {key(first): twin.sha256(key(first)) for first in ("0004", "0005", "0007")}
    many = {twin.state_key("c", f"{i}"): twin.sha256(b"%d" % i) for i in range(300)}
    for why, entries, keys in [
        ("the example of the page: 15 nodes", three, list(three)),
        ("one of three", three, [key("0005")]),
        ("absent, from a bucket that is empty", three, [key("8000")]),
        ("absent, from a bucket that is not", three, [key("0004")[:-1] + b"\x08"]),
        ("nothing is there at all", {}, [key("0004")]),
        ("there and not there, far apart", many, [*sorted(many)[::60], key("0000"), key("ffff")]),
    ]:
        part = twin.state_part(entries, keys, None)
        asked = [[one.hex(), entries[one].hex() if one in entries else None] for one in sorted(keys)]
        parts.append(
            {
                "why": why,
                "keys": asked,
                "buckets": [bucket.hex() for bucket in part["buckets"]],
                "nodes": part["nodes"].hex(),
                "root": twin.state_root(entries).hex(),
            }
        )

    story = told()
    last = story.memory.seq
    trusted = story.checkpoints[last]
    proofs, no_proofs = [], []
    for why, seq, at, names in [
        ("one record, now", last, last, [("notes", "n7")]),
        ("one that is not there", last, last, [("notes", "n3")]),
        ("it was there before", 2, last, [("notes", "n3")]),
        ("its collection is not there", last, last, [("nothing", "n1")]),
        ("a collection itself", last, last, [("other", "")]),
        ("before the first commit, under a later checkpoint", 0, last, [("notes", "n1")]),
        ("before the first commit", 0, 0, [("notes", "n1")]),
        ("many at once", 5, last, [("notes", f"n{i}") for i in range(14)] + [("other", "\u00e9"), ("notes", "")]),
    ]:
        data = twin.write_state_proof(story, seq, at, names)
        shown = [list(claim) for claim in twin.check_state_proof(data, story.checkpoints[at])]
        proofs.append(
            {"why": why, "checkpoint": story.checkpoints[at], "seq": seq, "shows": shown, "bytes": data.hex()}
        )
    good = bytes.fromhex(proofs[0]["bytes"])
    part = twin.decode(good)[1]["proof"]
    claim = twin.decode(good)[1]["claims"][0]
    for why, change in [
        ("said to be of another seq", setter("seq", last - 1)),
        ("of a seq behind the checkpoint", setter("seq", last + 1)),
        ("of a negative seq", setter("seq", -1)),
        ("an id that is not the one proven", setter("claims", 0, 1, "n8")),
        ("a collection that is not the one proven", setter("claims", 0, 0, "other")),
        ("said to be absent", setter("claims", 0, 2, None)),
        ("another content", setter("claims", 0, 2, claim[2][:32] + bytes(32))),
        ("an opening of a collection's size", setter("claims", 0, 2, claim[2][:32])),
        ("no claims", setter("claims", [])),
        ("a claim twice", setter("claims", [claim, claim])),
        ("a name that is too long", setter("claims", 0, 1, "n" * 513)),
        ("another count of operations", setter("proof", "anchor", 0, 2)),
        ("a count of 2^32 and the right one", setter("proof", "anchor", 0, part["anchor"][0] + 2**32)),
        ("a negative count", setter("proof", "anchor", 0, -1)),
        ("another index", setter("proof", "anchor", 1, part["anchor"][1] - 1)),
        ("an index behind the log", setter("proof", "anchor", 1, part["anchor"][1] + 1)),
        ("a path that is cut", setter("proof", "anchor", 2, part["anchor"][2][:-32])),
        ("a path with one hash more", setter("proof", "anchor", 2, part["anchor"][2] + bytes(32))),
        ("a path with one byte more", setter("proof", "anchor", 2, part["anchor"][2] + b"\0")),
        ("no anchor", setter("proof", "anchor", None)),
        ("an anchor of two", setter("proof", "anchor", part["anchor"][:2])),
        ("no bucket", setter("proof", "buckets", [])),
        ("an empty bucket", setter("proof", "buckets", [b""])),
        ("two buckets", setter("proof", "buckets", part["buckets"] * 2)),
        ("a bucket with a byte more", setter("proof", "buckets", [part["buckets"][0] + b"\0"])),
        ("a node less", setter("proof", "nodes", part["nodes"][:-32])),
        ("a node more", setter("proof", "nodes", part["nodes"] + bytes(32))),
        ("nodes in another order", setter("proof", "nodes", part["nodes"][-32:] + part["nodes"][:-32])),
        ("another checkpoint's text", setter("checkpoint", story.checkpoints[last - 1])),
        ("a field too many", setter("more", None)),
        ("a float where an int stands", setter("seq", float(last))),
        ("true where an int stands", setter("seq", True)),
    ]:
        broken = changed(good, change)
        no_proofs.append({"why": why, "bytes": broken.hex()} | refused(twin.check_state_proof, broken, trusted))
    for why, broken in [
        ("cut", good[:-1]),
        ("a byte more", good + b"\0"),
        ("nothing", b""),
        ("another kind", twin.encode(["detmem/consistency/v1", twin.decode(good)[1]])),
        ("another version", twin.encode(["detmem/state-proof/v2", twin.decode(good)[1]])),
        ("a map alone", twin.encode(twin.decode(good)[1])),
    ]:
        no_proofs.append({"why": why, "bytes": broken.hex()} | refused(twin.check_state_proof, broken, trusted))

    chains, no_chains = [], []
    for old, new in [(0, 0), (0, last), (1, 2), (2, last), (5, last), (last, last)]:
        data = twin.write_consistency(story, old, new)
        twin.check_consistency_file(data, story.checkpoints[old], story.checkpoints[new])
        pair = {"old": story.checkpoints[old], "new": story.checkpoints[new]}
        chains.append({"why": f"from seq {old} to {new}", **pair, "bytes": data.hex()})
    good = bytes.fromhex(chains[3]["bytes"])
    pair = story.checkpoints[2], trusted
    value = twin.decode(good)[1]
    forged = twin.checkpoint_text(2, story.ends[2], twin.log_root(story.leaves[: story.ends[2]]), bytes(32))
    for why, change, asked in [
        ("the other way round", lambda v: v.update(old=v["new"], new=v["old"]), pair[::-1]),
        ("asked about others", lambda v: None, (story.checkpoints[1], trusted)),
        ("an old state root that its log does not bind", setter("old", forged), (forged, trusted)),
        ("no closing", setter("new_closing", None), pair),
        ("another count", setter("old_closing", 0, 1), pair),
        ("a path that is cut", setter("path", value["path"][:-32]), pair),
        ("a path with one hash more", setter("path", value["path"] + bytes(32)), pair),
        ("a path of other hashes", setter("path", bytes(len(value["path"]))), pair),
    ]:
        broken = changed(good, change)
        case = {"why": why, "old": asked[0], "new": asked[1], "bytes": broken.hex()}
        no_chains.append(case | refused(twin.check_consistency_file, broken, *asked))

    answers, no_answers = [], []
    for why, level, seq, at, name, query, k, where, ids in [
        ("R0", "R0", last, last, "notes", [4, 4], 3, None, None),
        ("R1", "R1", last, last, "notes", [4, 4], 3, None, None),
        ("R1 of a moment before", "R1", 2, last, "notes", [4, 4], 3, None, None),
        ("with a filter", "R1", last, last, "notes", [4, 4], 3, {"kind": {"$in": ["odd", "changed"]}}, None),
        ("with ids, given in another order", "R1", last, last, "notes", [4, 4], 9, None, ["n9", "n1", "zz"]),
        ("no results", "R2", last, last, "notes", [4, 4], 2, {"kind": "none"}, None),
        ("another metric", "R2", last, last, "other", [1, -1, 7], 2, None, None),
        ("R3", "R3", 5, last, "notes", [0, -20], 4, None, None),
    ]:
        data = twin.write_receipt(story, seq, at, level, name, query, k, where, ids)
        value = twin.read_receipt(data)
        if level != "R0":
            twin.check_receipt(data, trusted)
        asked = {"collection": name, "seq": seq, "query": query, "k": k, "where": twin.to_json(where), "ids": ids}
        found = [[record_id, raw] for raw, record_id, _ in twin.named_by(value)]
        case = {"why": why, "level": level, "checkpoint": trusted, **asked, "results": found}
        answers.append(case | {"sha256": twin.sha256(data).hex(), "bytes": data.hex()})
    good = bytes.fromhex(answers[1]["bytes"])
    value = twin.decode(good[:-32])[1]
    for why, change in [
        ("a result less: its proof has a bucket too many", lambda v: drop_result(v, 1)),
        ("another id", setter("result_ids", ["n0", *value["result_ids"][1:]])),
        ("results in another order", setter("result_ids", value["result_ids"][::-1])),
        ("another leaf", setter("result_leaves", bytes(32) + value["result_leaves"][32:])),
        ("a leaf less", setter("result_leaves", value["result_leaves"][32:])),
        ("more results than k", setter("k", 2)),
        ("k of none", setter("k", 0)),
        ("another collection", setter("collection", "other")),
        ("a collection without a name", setter("collection", "")),
        ("another metric in the definition", setter("definition", twin.definition(2, "ip", "Q16.16"))),
        ("another metric in the semantics", setter("semantics", "detmem/search/v1 ip Q16.16 raw,id")),
        ("another dimension", setter("query", value["query"] + bytes(4))),
        ("a query that is not admitted", setter("query", twin.vector_bytes([2**31 - 1, 2**31 - 1]))),
        ("another seq", setter("seq", last - 1)),
        ("a level that is none", setter("level", "R4")),
        ("R0 with a proof", setter("level", "R0")),
        ("R3 without subtrees", setter("level", "R3")),
        ("R1 with subtrees", setter("subtrees", bytes(8192))),
        ("no proof", setter("proof", None)),
        ("the empty filter", setter("where", twin.encode({}))),
        ("a filter that is none", setter("where", twin.encode({"a": {"$near": 1}}))),
        ("ids in another order", setter("ids", ["b", "a"])),
        ("ids that are none", setter("ids", [1])),
        ("a distance of an int", setter("max_distance", 1)),
        ("a field too many", setter("more", None)),
        ("another checkpoint", setter("checkpoint", story.checkpoints[last - 1])),
    ]:
        broken = changed(good, change, sealed=True)
        no_answers.append({"why": why, "bytes": broken.hex()} | refused(twin.check_receipt, broken, trusted))
    for why, broken in [
        ("one bit", good[:100] + bytes([good[100] ^ 1]) + good[101:]),
        ("the digest's last bit", good[:-1] + bytes([good[-1] ^ 1])),
        ("cut", good[:-1]),
        ("nothing", b""),
    ]:
        no_answers.append({"why": why, "bytes": broken.hex()} | refused(twin.check_receipt, broken, trusted))

    whole = bytes.fromhex(answers[-1]["bytes"])
    missing = twin.named_by(twin.read_receipt(whole))[1][1]
    lying = twin.write_receipt(story, 5, last, "R3", "notes", [0, -20], 5, None, None)
    for change in (setter("k", 4), lambda v: drop_result(v, 1), reproven(story, 5, last, "notes")):
        lying = changed(lying, change, sealed=True)  # R1 holds, the answer is false
    numbers = sorted({twin.state_key("notes", f"n{i}")[0] for i in range(12)} | {twin.state_key("notes")[0], 0})
    subtrees = []
    for number in numbers:
        data = twin.write_subtree(story, 5, last, "notes", number)
        assert twin.check_subtree(data, whole, trusted) is None
        case = {"why": f"subtree {number}", "number": number, "wrong": twin.check_subtree(data, lying, trusted)}
        subtrees.append(case | {"bytes": data.hex()})
    assert [case["number"] for case in subtrees if case["wrong"] == "missing"] == [twin.state_key("notes", missing)[0]]
    data = bytes.fromhex(subtrees[1]["bytes"])
    value = twin.decode(data)[1]
    no_subtrees = []
    for why, change in [
        ("said to be another", setter("number", (value["number"] + 1) % 256)),
        ("of another seq", setter("seq", last)),
        ("siblings cut", setter("siblings", value["siblings"][:-32])),
        ("other siblings", setter("siblings", bytes(256))),
        ("a record less", setter("records", value["records"][1:])),
        ("an entry more", setter("others", value["others"] + bytes([value["number"]]) * 64)),
        ("no anchor", setter("anchor", None)),
        ("a number that is none", setter("number", 256)),
    ]:
        broken = changed(data, change)
        no_subtrees.append({"why": why, "bytes": broken.hex()} | refused(twin.check_subtree, broken, whole, trusted))
    refutation = twin.write_refutation(story, lying, last, missing)
    twin.check_refutation(refutation, lying, trusted)
    no_refutations = []
    for why, broken in [
        ("of the true receipt", changed(refutation, setter("receipt", twin.sha256(whole)))),
        ("another vector", changed(refutation, setter("vector", bytes(8)))),
        ("another content", changed(refutation, setter("content", twin.content(None, None)))),
        ("a salt", changed(refutation, setter("vector_salt", b"\0"))),
        ("another id", changed(refutation, setter("id", "n11"))),
        ("a record that is no nearer", twin.write_refutation(story, lying, last, "n11")),
        (
            "a record that the answer names",
            twin.write_refutation(story, lying, last, twin.read_receipt(lying)["result_ids"][0]),
        ),
    ]:
        against = whole if why == "of the true receipt" else lying
        no_refutations.append(
            {"why": why, "bytes": broken.hex()} | refused(twin.check_refutation, broken, against, trusted)
        )

    return {
        "page": "receipts.md",
        "published": {"why": "paths of RFC 6962's test tree", "inclusion": CT_INCLUSION, "consistency": CT_CONSISTENCY},
        "inclusion_paths": inclusions,
        "consistency_paths": consistencies,
        "state_parts": parts,
        "state_proofs": proofs,
        "invalid_state_proofs": no_proofs,
        "consistency_proofs": chains,
        "invalid_consistency_proofs": no_chains,
        "receipts": answers,
        "invalid_receipts": no_answers,
        "false_receipt": {"why": "R1 holds, and one record is missing", "missing": missing, "bytes": lying.hex()},
        "subtrees": subtrees,
        "invalid_subtrees": no_subtrees,
        "refutation": {"why": "of the false receipt", "bytes": refutation.hex()},
        "invalid_refutations": no_refutations,
        **notes(trusted),
    }


def drop_result(value: Any, rank: int) -> None:
    """Takes a result out of a receipt's map; the proof stays as it is."""
    del value["result_ids"][rank]
    for name, size in (("result_leaves", 32), ("result_raws", 8)):
        value[name] = value[name][: rank * size] + value[name][(rank + 1) * size :]


def reproven(story: twin.Told, seq: int, at: int, name: str) -> Callable[[Any], None]:
    """Gives a receipt's map the proof of the results that it names."""

    def change(value: Any) -> None:
        keys = [twin.state_key(name), *(twin.state_key(name, record_id) for record_id in value["result_ids"])]
        value["proof"] = twin.state_part(story.trees[seq], keys, story.anchor(seq, at))

    return change


def notes(checkpoint: str) -> Case:
    """RFC 8032, 7.1, test 1; the key and note of the C2SP page's kind; and the checkpoint, signed."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    signature = (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    assert twin.public_key(seed).hex() == public, "the twin misses RFC 8032"
    assert twin.ed25519_sign(seed, b"").hex() == signature, "the twin misses RFC 8032"
    name, other = "example.org/memory", "witness.example"
    key = twin.public_key(seed)
    other_seed = bytes(range(32))
    note = twin.sign_checkpoint(checkpoint, name, seed)
    text = name + checkpoint.removeprefix("detmem/v1")
    second = twin.sign_note(text, other, other_seed).split("\n\n")[1]
    good = [
        {"why": "signed", "note": note},
        {"why": "and by a witness that the reader does not know", "note": note + second},
        {"why": "the witness first", "note": note.replace("\n\n", "\n\n" + second)},
    ]
    for case in good:
        assert twin.open_checkpoint(case["note"], name, key) == checkpoint
    line = note.split("\n\n")[1]
    bad = []
    for why, broken in [
        ("nothing", ""),
        ("no signature", text),
        ("no signature behind the empty line", text + "\n"),
        ("by the witness alone", text + "\n" + second),
        ("another size", note.replace("\nseq 6\n", "\nseq 7\n")),
        ("another name in the text", note.replace(name, other, 1)),
        ("the constant origin", twin.sign_note(checkpoint, name, seed)),
        ("a text that is no checkpoint", twin.sign_note(f"{name}\nhello\n", name, seed)),
        ("no last newline", note[:-1]),
        ("a hyphen for the dash", note.replace("\u2014", "-")),
        ("two spaces", note.replace("\u2014 ", "\u2014  ")),
        ("twice", note + line),
        ("another key's hash", note[:-92] + "AAAA" + note[-88:]),
        ("base64 without padding", note.replace("=\n", "\n") if line.endswith("=\n") else note[:-5] + "\n"),
        ("one bit of the signature", twin.sign_note(text, name, seed)[:-20] + "AAAA" + note[-16:]),
        ("an empty line more", note + "\n"),
        ("101 signatures", text + "\n" + second * 100 + line),
    ]:
        bad.append({"why": why, "note": broken} | refused(twin.open_checkpoint, broken, name, key))
    return {
        "signer": {
            "name": name,
            "seed": seed.hex(),
            "public": public,
            "verifier_key": twin.verifier_key(name, key),
            "signer_key": twin.signer_key(name, seed),
        },
        "signed_checkpoint": checkpoint,
        "notes": good,
        "invalid_notes": bad,
    }


# ----------------------------------------------------------------------------------------------------- accumulated.json


def accumulated() -> Case:
    memory, answers, stops = twin.Memory(), hashlib.sha256(), []
    leaves: list[bytes] = []
    writes = searches = 0
    for number, (command, question) in enumerate(twin.Draw().rounds(), start=1):
        try:
            commit = memory.write(command)
            leaves += commit.leaves if commit else []
        except twin.Refused:
            writes += 1
        try:
            hits = memory.search(*question[1:])
        except twin.Refused:
            hits = None
            searches += 1
        answers.update(twin.answer_bytes(memory.seq, hits))
        if number % 500 == 0:  # the quick trees against the plain recursions
            assert memory.state_root() == twin.state_root(twin.entries_of(memory.state))
            assert memory.log_root() == twin.log_root(leaves)
        if number % 1000 == 0:
            stops.append({"rounds": number, **roots(memory), "answers": answers.hexdigest()})
    assert twin.read_snapshot(twin.write_snapshot(memory)).checkpoint() == memory.checkpoint()
    return {
        "page": "accumulated.md",
        "seed": twin.SEED.decode(),
        "rounds": twin.ROUNDS,
        "refused_commands": writes,
        "refused_searches": searches,
        "log_root": memory.log_root().hex(),
        "state_root": memory.state_root().hex(),
        "answers": answers.hexdigest(),
        "link": memory.link.hex(),
        "snapshot_sha256": hashlib.sha256(twin.write_snapshot(memory)).hexdigest(),
        "on_the_way": stops,
    }


def roots(memory: twin.Memory) -> Case:
    return {"seq": memory.seq, "log_root": memory.log_root().hex(), "state_root": memory.state_root().hex()}


# ------------------------------------------------------------------------------------------------------------- the desk

MAKERS = {
    "numbers": numbers,
    "encoding": encoding,
    "filters": filters,
    "commitments": commitments,
    "log": log,
    "snapshot": snapshot,
    "search": search,
    "receipts": receipts,
    "accumulated": accumulated,
}


GOLDEN = VECTORS / "golden"


def golden() -> dict[str, bytes]:
    """A whole store, byte by byte as the pages say, and its checkpoint: every later version opens it."""
    first: list[tuple[Any, ...]] = [
        ("create", "notes", 3, "cosine", "Q16.16"),
        ("create", "sketches", 2, "l2", "Q4.28"),
        ("add", "notes", [("a", twin.enter([1.0, 2.0, 2.0], "cosine", "Q16.16"), {"kind": "episodic", "n": 1}, "one")]),
        ("add", "notes", [("\u00e9", twin.enter([0.0, -1.0, 0.5], "cosine", "Q16.16"), {"tags": ["x", None]}, "")]),
        ("create", "people", 1, "ip", "Q16.16", True),
        ("request", "r", ("add", "people", [("ann", [1], {"age": 44}, "Ann"), ("bob", [2], None, "Bob")])),
        ("link", "notes", "\u00e9", "about", "people", "ann"),
        ("link", "notes", "\u00e9", "about", "people", "bob"),
        ("erase", "people", ["ann"]),
    ]
    second = [
        ("add", "sketches", [("s", twin.enter([1.5, -0.25], "l2", "Q4.28"), None, None)]),
        ("batch", [("delete", "notes", ["a"]), ("add", "notes", [("b", [3, 4, 5], {"kind": "semantic"}, None)])]),
    ]
    store_id = bytes(range(16))
    memory = twin.Memory()
    border = twin.Segment(store_id, 1, 0, memory.link, memory.log_root())
    commits = [memory.write(command) for command in first]
    sealed = twin.segment_header(border) + _frames(commits, border)
    count = len(commits)
    sealed += twin.seal_frame(count, count, count, memory.log_size, memory.link, memory.log_root(), store_id, 1)
    snapshot_bytes = twin.write_snapshot(memory)
    border = twin.Segment(store_id, memory.seq + 1, memory.log_size, memory.link, memory.log_root())
    commits = [memory.write(command) for command in second]
    live = twin.segment_header(border) + _frames(commits, border)
    place = (memory.seq, border.first_seq, len(live), memory.link, count, twin.snapshot_digest(snapshot_bytes))
    slots = [twin.head_slot(twin.Head(True, generation, store_id, *place)) for generation in (7, 8)]
    return {
        "store-2/HEAD": b"".join(slot.ljust(4096, b"\0") for slot in slots),
        "store-2/log/00000000000000000001.seg": sealed,
        f"store-2/log/{border.first_seq:020d}.seg": live,
        f"store-2/snap/{count:020d}.snap": snapshot_bytes,
        "store-2.checkpoint": memory.checkpoint().encode("ascii"),
    }


def _frames(commits: list[twin.Commit | None], segment: twin.Segment) -> bytes:
    """Their frames, as they stand once "ann" has been erased."""
    commits = [
        c and c._replace(operations=tuple(twin.without_payload(o) if o.vector and o.id == "ann" else o for o in c[1]))
        for c in commits
    ]
    frames = (twin.commit_frame(c, c.seq - 1, segment.store_id, segment.first_seq) for c in commits if c is not None)
    return b"".join(frames)


def laid_out(vectors: Case) -> str:
    """JSON with one case a line, so that a difference between two versions can be read."""
    parts = []
    for name, value in vectors.items():
        if isinstance(value, list) and value:
            lines = ",\n".join(f"  {json.dumps(item)}" for item in value)
            parts.append(f" {json.dumps(name)}: [\n{lines}\n ]")
        else:
            parts.append(f" {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: generate.py [--check]", file=sys.stderr)
        return 2
    differing = []
    for name, make in MAKERS.items():
        text = laid_out(make())
        path = VECTORS / f"{name}.json"
        if not arguments:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="ascii", newline="\n")
        elif not path.is_file() or path.read_text(encoding="ascii") != text:
            differing.append(path.name)
    for name, data in golden().items():
        path = GOLDEN / name
        if not arguments:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        elif not path.is_file() or path.read_bytes() != data:
            differing.append(f"golden/{name}")
    ours = {f"{name}.json" for name in MAKERS} | {f"golden/{name}" for name in golden()}
    strange = {path.relative_to(VECTORS).as_posix() for path in VECTORS.rglob("*") if path.is_file()} - ours
    differing += sorted(strange) if arguments else []
    for name in differing:
        print(f"spec/vectors/{name} is not what the twin makes", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
