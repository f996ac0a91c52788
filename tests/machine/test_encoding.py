"""Bytes with one spelling: the table of spec/encoding.md row by row, every broken neighbour, and strangers' bytes.

Expected bytes come from the spec's table (which is msgpack's), or from ``spell`` below, which reads like that table.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import os
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from detmem.errors import CorruptionError, UsageError
from detmem.machine import encoding
from detmem.machine.encoding import decode, encode

ROOMY = 2**24


def spell(value: object) -> bytes:
    """The spelling of spec/encoding.md, first fitting row of each kind."""
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        if -(2**5) <= value < 2**7:
            return bytes([value % 256])
        first, signed = (0xD0, True) if value < 0 else (0xCC, False)
        for power in range(4):
            try:
                return bytes([first + power]) + value.to_bytes(2**power, "big", signed=signed)
            except OverflowError:
                continue
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        text = value.encode()
        return head(len(text), 0xA0, 32, {1: 0xD9, 2: 0xDA, 4: 0xDB}) + text
    if isinstance(value, bytes):
        return head(len(value), 0, 0, {1: 0xC4, 2: 0xC5, 4: 0xC6}) + value
    if isinstance(value, list):
        return head(len(value), 0x90, 16, {2: 0xDC, 4: 0xDD}) + b"".join(map(spell, value))
    assert isinstance(value, dict)
    pairs = sorted((key.encode(), spell(key) + spell(element)) for key, element in value.items())
    return head(len(pairs), 0x80, 16, {2: 0xDE, 4: 0xDF}) + b"".join(pair for _, pair in pairs)


def head(length: int, short: int, below: int, widths: dict[int, int]) -> bytes:
    if length < below:
        return bytes([short + length])
    width = min(width for width in widths if length < 256**width)
    return bytes([widths[width]]) + length.to_bytes(width, "big")


def same(left: object, right: object) -> bool:
    """Equal in value and type, all the way down; -0.0 is not 0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack(">d", left) == struct.pack(">d", right)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return left == right


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(-300, 300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    scalars | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(texts, inner, max_size=20),
    max_leaves=40,
)
metadatas = st.dictionaries(texts, scalars | st.lists(scalars, max_size=5), max_size=8)

# --------------------------------------------------------------------------------------------------------- the table

SPELLINGS = [
    (None, "c0"),
    (False, "c2"),
    (True, "c3"),
    (0, "00"),
    (5, "05"),
    (127, "7f"),
    (-1, "ff"),
    (-32, "e0"),
    (128, "cc80"),
    (255, "ccff"),
    (256, "cd0100"),
    (65535, "cdffff"),
    (65536, "ce00010000"),
    (2**32 - 1, "ceffffffff"),
    (2**32, "cf0000000100000000"),
    (2**63 - 1, "cf7fffffffffffffff"),
    (-33, "d0df"),
    (-128, "d080"),
    (-129, "d1ff7f"),
    (-32768, "d18000"),
    (-32769, "d2ffff7fff"),
    (-(2**31), "d280000000"),
    (-(2**31) - 1, "d3ffffffff7fffffff"),
    (-(2**63), "d38000000000000000"),
    (1.5, "cb3ff8000000000000"),
    (1.0, "cb3ff0000000000000"),
    (-0.0, "cb8000000000000000"),
    (5e-324, "cb0000000000000001"),
    ("", "a0"),
    ("é", "a2c3a9"),
    ("\0", "a100"),
    ("a" * 31, "bf" + "61" * 31),
    ("a" * 32, "d920" + "61" * 32),
    ("a" * 256, "da0100" + "61" * 256),
    ("a" * 65536, "db00010000" + "61" * 65536),
    (b"", "c400"),
    (b"\xff", "c401ff"),
    (b"a" * 256, "c50100" + "61" * 256),
    (b"a" * 65536, "c600010000" + "61" * 65536),
    ([], "90"),
    ([1, None], "9201c0"),
    ([0] * 15, "9f" + "00" * 15),
    ([0] * 16, "dc0010" + "00" * 16),
    ([0] * 65536, "dd00010000" + "00" * 65536),
    ({}, "80"),
    ({"a": 1, "b": 2}, "82a16101a16202"),
    ({"": 0, "a": 1, "aa": 2, "b": 3}, "84a000a16101a2616102a16203"),
    ({chr(97 + index): 0 for index in range(16)}, "de0010" + "".join(f"a1{97 + index:02x}00" for index in range(16))),
]


@pytest.mark.parametrize("value,spelling", SPELLINGS, ids=[spelling[:18] for _, spelling in SPELLINGS])
def test_each_row_of_the_table_is_written_and_read(value: object, spelling: str) -> None:
    assert encode(value).hex() == spelling
    assert same(decode(bytes.fromhex(spelling), max_bytes=ROOMY), value)


def test_the_order_of_a_dict_does_not_show() -> None:
    assert encode({"b": 2, "a": {"d": 4, "c": 3}}).hex() == "82" + "a161" + "82a16303a16404" + "a16202"


def test_a_map_of_65535_pairs_is_the_largest() -> None:
    wide = {f"{index:05d}": None for index in range(65536)}
    with pytest.raises(UsageError, match="131073 items"):  # 1 + 2 * 65536: the item limit comes first
        encode(wide)
    del wide["65535"]
    assert encode(wide)[:3] == b"\xde\xff\xff"


def test_keys_stand_in_utf8_order_not_in_utf16_order() -> None:
    # U+FF5E is ef bd 9e, U+1F600 is f0 9f 98 80; in UTF-16 the latter begins with d8 3d and would come first
    assert encode({"\U0001f600": 1, "\uff5e": 2}).hex() == "82" + "a3efbd9e" + "02" + "a4f09f9880" + "01"


@given(values)
def test_the_spelling_is_that_of_the_table(value: object) -> None:
    assert encode(value) == spell(value)


@given(values)
def test_decode_is_the_inverse_of_encode(value: object) -> None:
    data = encode(value)
    again = decode(data, max_bytes=len(data))
    assert encode(again) == data
    assert decode(memoryview(data), max_bytes=len(data)) == again == decode(bytearray(data), max_bytes=len(data))
    with pytest.raises(CorruptionError, match=f"found {len(data)} bytes, expected at most {len(data) - 1}"):
        decode(data, max_bytes=len(data) - 1)


@given(values)
def test_a_spelling_cut_anywhere_or_with_a_tail_is_refused(value: object) -> None:
    data = encode(value)
    for length in range(len(data)):
        with pytest.raises(CorruptionError):
            decode(data[:length], max_bytes=ROOMY)
    for tail in (b"\0", b"\xc0", data):
        with pytest.raises(CorruptionError, match=f"offset {len(data)}: expected the end"):
            decode(data + tail, max_bytes=ROOMY)


@given(values, st.data())
def test_a_flipped_bit_is_refused_or_spells_another_value(value: object, data: st.DataObject) -> None:
    spelling = bytearray(encode(value))
    bit = data.draw(st.integers(0, 8 * len(spelling) - 1))
    spelling[bit // 8] ^= 1 << bit % 8
    try:
        other = decode(spelling, max_bytes=ROOMY)
    except CorruptionError:
        return
    assert encode(other) == spelling
    assert not same(other, value)


# ------------------------------------------------------------------------------------------------- strangers' bytes

REFUSED = [
    ("", 0, "the data end"),
    ("c1", 0, "begins no value"),
    ("ca3fc00000", 0, "begins no value"),  # float32
    ("d40100", 0, "begins no value"),  # extension
    ("d6ff00000000", 0, "begins no value"),  # timestamp
    ("c7010000", 0, "begins no value"),
    ("cc05", 0, "one spelling"),
    ("d005", 0, "one spelling"),
    ("cd0005", 0, "one spelling"),
    ("d10005", 0, "one spelling"),
    ("ce00000005", 0, "one spelling"),
    ("d200000005", 0, "one spelling"),
    ("cf0000000000000005", 0, "one spelling"),
    ("d30000000000000005", 0, "one spelling"),
    ("d10080", 0, "one spelling"),
    ("cf8000000000000000", 0, "2\\*\\*63 or more"),
    ("cfffffffffffffffff", 0, "2\\*\\*63 or more"),
    ("cb7ff8000000000000", 0, "NaN or infinity"),
    ("cbfff0000000000001", 0, "NaN or infinity"),
    ("cb7ff0000000000000", 0, "NaN or infinity"),
    ("cbfff0000000000000", 0, "NaN or infinity"),
    ("cb7ff00000000000", 0, "needs 8 more bytes, found 7"),
    ("d90161", 0, "one spelling"),
    ("da000161", 0, "one spelling"),
    ("c50000", 0, "one spelling"),
    ("dc0000", 0, "one spelling"),
    ("dd00000000", 0, "one spelling"),
    ("de0000", 0, "one spelling"),
    ("df00000000", 0, "one spelling"),
    ("9201cc05", 2, "one spelling"),
    ("a161ff", 2, "expected the end"),
    ("a261", 0, "announces 2 bytes, found 1"),
    ("dbffffffff61", 0, "announces 4294967295 bytes, found 1"),
    ("c6ffffffff61", 0, "announces 4294967295 bytes, found 1"),
    ("ddffffffff", 0, "announces 4294967295 items, found 0 bytes"),
    ("dfffffffff", 0, "announces 8589934590 items, found 0 bytes"),
    ("9201", 0, "announces 2 items, found 1 bytes"),
    ("92a161", 3, "the data end"),
    ("91a1c3", 2, "not UTF-8"),
    ("a2c080", 1, "not UTF-8"),  # overlong NUL
    ("a3eda080", 1, "not UTF-8"),  # surrogate
    ("a4f4908080", 1, "not UTF-8"),  # above U+10FFFF
    ("810101", 1, "expected a text key, found first byte 0x01"),
    ("81c4016101", 1, "expected a text key"),
    ("818001", 1, "expected a text key"),
    ("82a16101c001", 4, "expected a text key"),
    ("82a16201a16102", 2, "out of order"),
    ("82a16101a16101", 0, "repeated"),
    ("82a16101a16102", 0, "repeated"),
    ("91" * 16 + "90", 16, "deeper than 16"),
    ("81a0" * 16 + "80", 32, "deeper than 16"),
]


@pytest.mark.parametrize("data,offset,reason", REFUSED, ids=[data[:20] or "empty" for data, _, _ in REFUSED])
def test_each_other_spelling_is_refused_with_offset_and_reason(data: str, offset: int, reason: str) -> None:
    with pytest.raises(CorruptionError, match=f"offset {offset}: .*{reason}"):
        decode(bytes.fromhex(data), max_bytes=ROOMY)


def test_sixteen_levels_are_read_and_written_and_seventeen_are_not() -> None:
    data = b"\x91" * 15 + b"\x90"
    assert encode(decode(data, max_bytes=16)) == data
    with pytest.raises(UsageError, match=r"^value(\[0\]){16}: nested deeper than 16"):
        encode([decode(data, max_bytes=16)])


def test_the_last_item_that_fits_fits() -> None:
    full: list[object] = [None] * (encoding.MAX_ITEMS - 1)
    assert len(decode(encode(full), max_bytes=ROOMY)) == encoding.MAX_ITEMS - 1  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="131073 items, expected at most 131072"):
        encode([*full, None])
    with pytest.raises(CorruptionError, match="at most 131072 items, found 131073"):
        decode(spell([*full, None]), max_bytes=ROOMY)
    assert decode(encode("x" * 2**18), max_bytes=ROOMY) == "x" * 2**18  # long, but one item


HOSTILE = {
    "a mebibyte of empty maps behind one map": b"\x80" * 2**20,
    "a mebibyte of empty maps in one array": b"\xdd" + (2**20).to_bytes(4, "big") + b"\x80" * 2**20,
    "as many empty maps as the item limit allows": b"\xdd" + (2**17 - 1).to_bytes(4, "big") + b"\x80" * (2**17 - 1),
    "as many chained maps as the item limit allows": b"\xdc\x11\xa7" + (b"\x81\xa0" * 14 + b"\x80") * 4519,
    "a million nested arrays": b"\x91" * 10**6,
    "a million nested maps": b"\x81\xa0" * 10**6,
    "nested arrays that each announce four billion": b"\xdd\xff\xff\xff\xff" * 10**5,
    "nested arrays that each announce what may just fit": b"\xdc\xff\xff" * 10**5,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_cost_no_more_than_a_few_times_the_item_limit(name: str) -> None:
    data = HOSTILE[name]
    tracemalloc.start()
    try:
        decode(data, max_bytes=len(data))
    except CorruptionError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 40 * 2**20


@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from(b"\x80\x81\x90\x91\x92\xa0\xa1a\xc0\xcc\xcb\xd9\xdc\xde\x01"), max_size=40)
)
@example(b"\x82\xa0\xc0\xa0\xc0")
def test_random_bytes_are_the_one_spelling_of_a_value_or_corrupt(data: bytes | list[int]) -> None:
    data = bytes(data)
    try:
        value = decode(data, max_bytes=ROOMY)
    except CorruptionError:
        pass
    else:
        assert spell(value) == data
    try:
        metadata, document = encoding.decode_content(data)
    except CorruptionError:
        return
    assert spell([metadata, document]) == data


# ------------------------------------------------------------------------------------- what encode cannot spell


class Name(str):
    """A subclass with a spelling of its own, to be stepped past."""

    def __str__(self) -> str:
        return "not this"


class Colour(enum.IntEnum):
    RED = 7


FOREIGN = [
    (2**63, "one of 64 bits"),
    (-(2**63) - 1, "one of 64 bits"),
    (float("nan"), "finite"),
    (float("inf"), "finite"),
    (float("-inf"), "finite"),
    ("a\ud800", r"lone surrogate U\+D800 at 1"),
    ((1, 2), "found tuple"),
    ({1}, "found set"),
    (bytearray(b"a"), "found bytearray"),
    (Name("a"), "found Name"),
    (Colour.RED, "found Colour"),
    (np.int64(1), "found int64"),
    (np.float64(1), "found float64"),
    (np.bool_(True), "found bool"),
    (np.zeros(2), "found ndarray"),
    (1j, "found complex"),
    (datetime.datetime(2024, 1, 1), "found datetime"),
    (object(), "found object"),
]


@pytest.mark.parametrize("value,reason", FOREIGN, ids=[reason for _, reason in FOREIGN])
def test_encode_refuses_with_the_path_to_the_value(value: object, reason: str) -> None:
    with pytest.raises(UsageError, match=f"^value: .*{reason}"):
        encode(value)
    with pytest.raises(UsageError, match=rf"^metadata\['a'\]\[3\]: .*{reason}"):
        encode({"b": 1, "a": [0, 1, 2, value]}, "metadata")


@pytest.mark.parametrize("key", [1, None, b"a", Name("a"), np.str_("a"), "\udfff"])
def test_encode_refuses_keys_that_are_no_text(key: object) -> None:
    with pytest.raises(UsageError, match=r"^value\[0\]"):
        encode([{key: 1}])


def test_a_list_that_holds_itself_is_too_deep() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(UsageError, match="deeper"):
        encode(loop)


# ------------------------------------------------------------------------------------------------------- metadata


def normalise(metadata: object) -> encoding.Metadata:
    return encoding.normalise_metadata(metadata, "metadata")


@given(metadatas)
def test_plain_metadata_stays_what_it_is_but_fresh_and_in_order(metadata: encoding.Metadata) -> None:
    plain = normalise(metadata)
    assert list(plain) == sorted(metadata, key=str.encode)
    assert all(same(plain[key], metadata[key]) for key in metadata)
    assert plain is not metadata
    assert all(plain[key] is not value for key, value in metadata.items() if isinstance(value, list))
    assert spell([plain, None]) == encoding.encode_content(plain, None)


def test_no_metadata_is_the_empty_map() -> None:
    assert normalise(None) == {}
    assert normalise({}) == {}


NUMPY = [
    (np.bool_(True), True),
    (np.int8(-5), -5),
    (np.uint64(2**63 - 1), 2**63 - 1),
    (np.int64(-(2**63)), -(2**63)),
    (np.float16(0.1), 1638 / 16384),  # 0x2e66: 1.6005859375 * 2^-4
    (np.float32(0.1), 13421773 / 2**27),
    (np.float64(0.1), 0.1),
    (np.float64(-0.0), -0.0),
    (np.str_("é"), "é"),
    (Name("a"), "a"),
    (Colour.RED, 7),
]


@pytest.mark.parametrize("given_value,plain", NUMPY, ids=lambda value: type(value).__name__)
def test_numpy_scalars_and_subclasses_become_the_plain_value_they_hold(given_value: object, plain: object) -> None:
    assert same(normalise({"a": given_value}), {"a": plain})
    assert same(normalise({"a": [given_value]}), {"a": [plain]})
    assert same(encoding.normalise_scalar(given_value, "operand"), plain)


def test_keys_that_are_subclasses_become_plain_str() -> None:
    (key,) = normalise({np.str_("a"): 1})
    assert type(key) is str
    (key,) = normalise({Name("b"): 1})
    assert key == "b"


def test_a_map_whose_keys_become_equal_is_refused_not_shortened() -> None:
    class Other(str):
        def __eq__(self, other: object) -> bool:
            return self is other

        def __hash__(self) -> int:
            return 1

    with pytest.raises(UsageError, match="stands twice"):
        normalise({"a": 1, Other("a"): 2})


NOT_METADATA = [
    (2**63, "64 bits"),
    (np.uint64(2**63), "64 bits"),
    (float("nan"), "finite"),
    (np.float32("inf"), "finite"),
    (np.float16("nan"), "finite"),
    (np.longdouble(1), "longdouble|float128|float96"),
    ("\udc80", "lone surrogate"),
    (b"a", "bytes"),
    (np.bytes_(b"a"), "bytes_"),
    ((1,), "tuple"),
    ({1}, "set"),
    ({"b": 1}, "dict"),
    (np.array(1), "ndarray"),
    (np.array([1]), "ndarray"),
    (np.datetime64("2024-01-01"), "datetime64"),
    (np.timedelta64(1, "s"), "timedelta64"),
    (np.complex64(1), "complex64"),
    (datetime.date(2024, 1, 1), "date"),
    (decimal.Decimal(1), "Decimal"),
    (1j, "complex"),
]


@pytest.mark.parametrize("value,reason", NOT_METADATA, ids=[reason for _, reason in NOT_METADATA])
def test_what_metadata_cannot_hold_is_refused_with_its_path(value: object, reason: str) -> None:
    with pytest.raises(UsageError, match=rf"^metadata of record 'r'\['a'\]: .*({reason})"):
        encoding.normalise_metadata({"ok": 1, "a": value}, "metadata of record 'r'")
    with pytest.raises(UsageError, match=rf"^metadata\['a'\]\[1\]: .*({reason})"):
        normalise({"a": [0, value]})
    with pytest.raises(UsageError, match=rf"^operand: .*({reason})"):
        encoding.normalise_scalar(value, "operand")


def test_a_list_in_a_list_and_a_list_for_a_scalar_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^metadata\['a'\]\[0\]: .*found list"):
        normalise({"a": [[1]]})
    with pytest.raises(UsageError, match=r"^operand: .*found list"):
        encoding.normalise_scalar([1], "operand")
    assert encoding.normalise_value([1, np.int8(2)], "operand") == [1, 2]


@pytest.mark.parametrize("metadata", [[("a", 1)], "a", 1, b"a", {"a"}, np.zeros(1)])
def test_metadata_that_is_no_map_is_refused(metadata: object) -> None:
    with pytest.raises(UsageError, match="expected a map"):
        normalise(metadata)


@pytest.mark.parametrize("key", [1, None, b"a", ("a",), "\ud800"])
def test_a_metadata_key_that_is_no_text_is_refused(key: object) -> None:
    with pytest.raises(UsageError):
        normalise({key: 1})


def test_metadata_of_64_kib_fits_and_one_byte_more_does_not() -> None:
    # 81 a1 61 da hh hh: six bytes beside the text
    assert len(normalise({"a": "x" * (65536 - 7)})) == 1
    edge = "x" * 65529 + "x"  # da reaches 65535 bytes, so the map is 6 + 65530 = 65536
    assert len(encode(normalise({"a": edge}))) == 65536
    with pytest.raises(UsageError, match="found 65537 bytes encoded, expected at most 65536"):
        normalise({"a": edge + "x"})


# --------------------------------------------------------------------------------------- ids, names and documents


@pytest.mark.parametrize("check,most", [(encoding.check_id, 512), (encoding.check_name, 128)])
def test_ids_and_names_are_counted_in_utf8_bytes(check: object, most: int) -> None:
    assert callable(check)
    assert check("a", "id 0") == "a"
    assert check("x" * most, "id 0") == "x" * most
    assert check("é" * (most // 2), "id 0") == "é" * (most // 2)
    assert type(check(np.str_("a"), "id 0")) is str
    assert check(Name("a"), "id 0") == "a"
    for value, found in [("", 0), ("x" * (most + 1), most + 1), ("é" * (most // 2) + "x", most + 1)]:
        with pytest.raises(UsageError, match=f"^id 0: expected 1..{most} UTF-8 bytes, found {found}$"):
            check(value, "id 0")
    for value in (None, 1, b"a", ["a"]):
        with pytest.raises(UsageError, match=f"^id 0: expected str, found {type(value).__name__}"):
            check(value, "id 0")
    with pytest.raises(UsageError, match="lone surrogate"):
        check("\ud800", "id 0")


def test_documents_are_counted_in_utf8_bytes_and_may_be_absent_or_empty() -> None:
    assert encoding.check_document(None, "document 0") is None
    assert encoding.check_document("", "document 0") == ""
    assert type(encoding.check_document(np.str_("a"), "document 0")) is str
    edge = "é" * (encoding.MAX_DOCUMENT_BYTES // 2)
    assert encoding.check_document(edge, "document 0") == edge
    with pytest.raises(UsageError, match=r"^document 0: found 8388609 UTF-8 bytes, expected at most 8388608"):
        encoding.check_document(edge + "x", "document 0")
    with pytest.raises(UsageError, match="lone surrogate"):
        encoding.check_document("a\udfff", "document 0")
    with pytest.raises(UsageError, match="expected str or None, found bytes"):
        encoding.check_document(b"a", "document 0")


# -------------------------------------------------------------------------------------------------------- content


@pytest.mark.parametrize(
    "metadata,document,data",
    [({}, None, "9280c0"), ({}, "", "9280a0"), ({"a": 1}, "x", "9281a16101a178")],
)
def test_the_contents_of_the_spec(metadata: encoding.Metadata, document: str | None, data: str) -> None:
    assert encoding.encode_content(metadata, document).hex() == data
    assert encoding.decode_content(bytes.fromhex(data)) == (metadata, document)


@given(metadatas, st.none() | texts)
def test_content_comes_back(metadata: encoding.Metadata, document: str | None) -> None:
    plain = normalise(metadata)
    data = encoding.encode_content(plain, document)
    assert data == encode([plain, document])
    assert same(list(encoding.decode_content(data)), [plain, document])


def test_the_largest_content_fits() -> None:
    metadata = normalise({"a": "x" * 65530})
    document = "x" * encoding.MAX_DOCUMENT_BYTES
    data = encoding.encode_content(metadata, document)
    assert len(data) == encoding.MAX_CONTENT_BYTES == 8454150
    assert encoding.decode_content(data) == (metadata, document)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [],
        [{}],
        [{}, None, None],
        [None, None],
        [[], None],
        [{}, 1],
        [{}, b"a"],
        [{}, {}],
        [{"a": b""}, None],
        [{"a": {}}, None],
        [{"a": [[]]}, None],
        [{"a": [{}]}, None],
        [{"a": "x" * 65531}, None],
        [{}, "x" * (8 * 1024 * 1024 + 1)],
    ],
    ids=lambda value: repr(value)[:30],
)
def test_well_spelled_bytes_that_are_no_content_are_corrupt(value: object) -> None:
    with pytest.raises(CorruptionError):
        encoding.decode_content(spell(value))


@pytest.mark.parametrize(
    "data", ["92dc0000c0", "9280d900", "9282a16201a16101c0", "9282a16101a16101c0", "9280c0c0", "9280"]
)
def test_content_spelled_otherwise_is_corrupt(data: str) -> None:
    with pytest.raises(CorruptionError):
        encoding.decode_content(bytes.fromhex(data))


# -------------------------------------------------------------------------------------------- the other msgpack

CHILD = """
import sys, msgpack
from detmem.machine import encoding
from detmem.errors import CorruptionError
assert msgpack.Packer.__module__ == "msgpack.fallback", msgpack.Packer.__module__
for line in sys.stdin:
    data = bytes.fromhex(line)
    try:
        print(encoding.encode(encoding.decode(data, max_bytes=2**24)).hex())
    except CorruptionError as error:
        print(error)
"""


def test_msgpack_without_its_c_extension_gives_equal_bytes_and_equal_refusals() -> None:
    lines = [data for data, _, _ in REFUSED if data] + [spelling for _, spelling in SPELLINGS]
    lines += [data.hex() for data in HOSTILE.values() if len(data) < 10**6]
    expected = []
    for line in lines:
        try:
            expected.append(encode(decode(bytes.fromhex(line), max_bytes=2**24)).hex())
        except CorruptionError as error:
            expected.append(str(error))
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        input="\n".join(lines),
        env={**os.environ, "MSGPACK_PUREPYTHON": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.stderr == ""
    assert child.stdout.splitlines() == expected
