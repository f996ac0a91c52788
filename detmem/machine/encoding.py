"""Bytes with one spelling: the strict msgpack subset that everything logged, hashed or stored is written in.

Normative text: ``spec/encoding.md``.

Rule 1  Every value has exactly one spelling.  ``encode`` writes it; ``decode`` is the inverse of ``encode`` and
        accepts nothing else, so equal values have equal bytes, equal hashes and equal roots.
Rule 2  A hostile byte string costs bounded time and memory, and raises ``CorruptionError``, never anything else.
Rule 3  What a caller hands in (metadata, ids, names, documents) is brought into plain Python once, here, and is
        refused with the path to the wrong value.  Nothing is clipped, converted with loss, or dropped.

msgpack alone keeps neither of the first two rules: it reads six spellings of 5, takes duplicate keys and NaN, and
turns 1 MiB of 0x80 into 72 MiB of dicts.  So ``decode`` is: cap -> scan -> unpack -> encode again and compare.  The
scan bounds what the unpacking may cost; the comparison refuses every spelling that ``encode`` does not write.

This room knows no file, clock or vector.  The only floats are metadata values: data, never arithmetic.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, Final, TypeAlias, cast

import msgpack
import numpy as np

from detmem.errors import CorruptionError, UsageError, shown

__all__ = [
    "MAX_COLLECTION_BYTES",
    "MAX_CONTENT_BYTES",
    "MAX_DEPTH",
    "MAX_DOCUMENT_BYTES",
    "MAX_ID_BYTES",
    "MAX_ITEMS",
    "MAX_METADATA_BYTES",
    "Metadata",
    "MetadataValue",
    "Scalar",
    "Value",
    "check_document",
    "check_id",
    "check_ids",
    "check_name",
    "decode",
    "decode_content",
    "encode",
    "encode_content",
    "normalise_metadata",
    "normalise_scalar",
    "normalise_value",
    "whole_number",
]

Scalar: TypeAlias = bool | int | float | str | None
MetadataValue: TypeAlias = Scalar | list[Scalar]
Metadata: TypeAlias = dict[str, MetadataValue]
Value: TypeAlias = "bool | int | float | str | bytes | list[Value] | dict[str, Value] | None"

# --------------------------------------------------------------------------------------------------------------- limits

MAX_DEPTH: Final = 16
"""Arrays and maps that may stand inside one another; a scalar has depth 0, ``[]`` has depth 1."""

MAX_ITEMS: Final = 2**17
"""Values in one message, map keys and the outermost value counted.

Each item costs at least one byte, so no metadata within ``MAX_METADATA_BYTES`` can meet this limit.  The dearest
items are chained maps of one pair with an empty key: 3 bytes and 2 items each, some 230 bytes of CPython.  So one
hostile message costs 2^16 * 230 bytes = 15 MiB unpacked, and once more while it is encoded for the comparison,
whatever its length.
"""

MAX_METADATA_BYTES: Final = 64 * 1024
"""Encoded bytes of one record's metadata map."""

MAX_DOCUMENT_BYTES: Final = 8 * 1024 * 1024
"""UTF-8 bytes of one document."""

MAX_ID_BYTES: Final = 512
"""UTF-8 bytes of one record id (at least 1)."""

MAX_COLLECTION_BYTES: Final = 128
"""UTF-8 bytes of one collection name (at least 1)."""

MAX_CONTENT_BYTES: Final = 1 + MAX_METADATA_BYTES + 5 + MAX_DOCUMENT_BYTES
"""Encoded bytes of one content: the head of the pair, the metadata map, the head of the document, the document."""

_MIN_INT: Final = -(2**63)
_MAX_INT: Final = 2**63 - 1
_MAX_LENGTH: Final = 2**32 - 1  # the widest length that msgpack can spell

assert MAX_DEPTH >= 3, "content is [metadata map of lists, document]: three containers deep"
assert MAX_ITEMS >= MAX_METADATA_BYTES + 2, "all metadata within its own limit must fit, beside pair and document"
assert MAX_CONTENT_BYTES <= 9 * 2**20, "content must leave 7 MiB of a 16 MiB operation to vector and header"
assert MAX_COLLECTION_BYTES <= MAX_ID_BYTES < MAX_METADATA_BYTES < MAX_DOCUMENT_BYTES <= _MAX_LENGTH

# ---------------------------------------------------------------------------------------------------- encode and decode


def encode(value: object, what: str = "value") -> bytes:
    """The only bytes of ``value``: None, bool, int64, finite float, str, bytes, list, or dict with str keys.

    Types must be exact (a subclass or a NumPy scalar is foreign here).  Map keys are written in ascending UTF-8 order
    whatever order the dict has.  ``what`` names the value in messages.

    Raises ``UsageError`` with the path to what cannot be spelled (``metadata['a'][3]``): a foreign type, NaN or
    infinity, an int outside int64, a lone surrogate, more than ``MAX_DEPTH`` levels or ``MAX_ITEMS`` items.
    """
    try:
        ordered = _ordered(value, 0)
    except _RefusedError as refused:
        raise refused.as_usage(what) from None
    data = _pack(ordered)
    # Every item takes at least one byte, so only longer messages need counting.
    if len(data) > MAX_ITEMS and (items := _count_items(ordered)) > MAX_ITEMS:
        raise UsageError(f"{what}: {items} items, expected at most {MAX_ITEMS}")
    return data


def decode(data: bytes | bytearray | memoryview, *, max_bytes: int) -> Value:
    """The value that ``encode`` wrote as ``data``; the inverse of ``encode``, accepting nothing else.

    Raises ``CorruptionError`` with offset and reason for any other bytes, at a cost that grows with ``len(data)``,
    never with the lengths that the bytes claim; data longer than ``max_bytes`` are not looked at.
    """
    if len(data) > max_bytes:
        raise _corrupt(max_bytes, f"found {len(data)} bytes, expected at most {max_bytes}")
    data = bytes(data)
    _scan(data)
    value = cast(Value, msgpack.unpackb(data))
    _compare(data, encode(value))
    return value


def _pack(value: object) -> bytes:
    """msgpack's shortest forms.  ``strict_types``: a subclass that slipped through is an error, not a guess."""
    return cast(bytes, msgpack.packb(value, strict_types=True))


class _RefusedError(Exception):
    """A value that the format cannot hold; never leaves this room.  It gathers the path while it travels up."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = ""

    def under(self, step: object) -> _RefusedError:
        self.path = f"[{shown(step)}]{self.path}"
        return self

    def as_usage(self, what: str) -> UsageError:
        return UsageError(f"{what}{self.path}: {self.reason}")


def _ordered(value: object, depth: int) -> Value:
    """A copy of ``value`` in canonical key order, holding nothing but exact plain types."""
    kind = type(value)
    if value is None or kind is bool:
        return cast("bool | None", value)
    if kind is str:
        text = cast(str, value)
        if _utf8_length(text) > _MAX_LENGTH:
            raise _RefusedError(f"text of more than {_MAX_LENGTH} UTF-8 bytes")
        return text
    if kind is int:
        return _int64(cast(int, value))
    if kind is float:
        return _finite(cast(float, value))
    if kind is bytes:
        if len(cast(bytes, value)) > _MAX_LENGTH:
            raise _RefusedError(f"more than {_MAX_LENGTH} bytes")
        return cast(bytes, value)
    if kind is not list and kind is not dict:
        raise _RefusedError(f"expected None, bool, int, float, str, bytes, list or dict, found {kind.__name__}")
    if depth == MAX_DEPTH:
        raise _RefusedError(f"nested deeper than {MAX_DEPTH} levels")
    if kind is list:
        elements: list[Value] = []
        for index, element in enumerate(cast("list[object]", value)):
            try:
                elements.append(_ordered(element, depth + 1))
            except _RefusedError as refused:
                raise refused.under(index) from None
        return elements
    table = cast("dict[object, object]", value)
    for key in table:
        if type(key) is not str:
            raise _RefusedError(f"expected str keys, found the {type(key).__name__} {shown(key)}")
        try:
            _utf8_length(key)
        except _RefusedError as refused:
            raise refused.under(key) from None
    entries: dict[str, Value] = {}
    for key in sorted(cast("dict[str, object]", table)):  # code point order is UTF-8 order: see spec/encoding.md
        try:
            entries[key] = _ordered(table[key], depth + 1)
        except _RefusedError as refused:
            raise refused.under(key) from None
    return entries


def _count_items(value: Value) -> int:
    if isinstance(value, list):
        return 1 + sum(_count_items(element) for element in value)
    if isinstance(value, dict):
        return 1 + sum(1 + _count_items(element) for element in value.values())
    return 1


def _utf8_length(text: str) -> int:
    """UTF-8 bytes of ``text``; a lone surrogate has none."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        surrogate = ord(text[error.start])
        raise _RefusedError(
            f"expected valid UTF-8, found the lone surrogate U+{surrogate:04X} at {error.start}"
        ) from None


def _int64(number: int) -> int:
    if not _MIN_INT <= number <= _MAX_INT:
        raise _RefusedError(f"expected an integer in [-2**63, 2**63 - 1], found one of {number.bit_length()} bits")
    return number


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise _RefusedError(f"expected a finite number, found {number}")
    return number


# ---------------------------------------------------------------------------------------------------- reading strangers

_SCALAR, _TEXT, _BINARY, _ARRAY, _MAP, _FOREIGN = range(6)


def _forms() -> tuple[tuple[int, int, int], ...]:
    """What each first byte announces: kind, bytes that follow it (payload or length field), length in itself."""
    table: list[tuple[int, int, int]] = [(_FOREIGN, 0, 0)] * 256  # c1, ext c7..c9 and d4..d8, float32 ca
    for low in range(128):
        table[low] = (_SCALAR, 0, 0)
    for low in range(32):
        table[0xE0 + low] = (_SCALAR, 0, 0)
        table[0xA0 + low] = (_TEXT, 0, low)
    for low in range(16):
        table[0x80 + low] = (_MAP, 0, low)
        table[0x90 + low] = (_ARRAY, 0, low)
    for first in (0xC0, 0xC2, 0xC3):
        table[first] = (_SCALAR, 0, 0)
    for power, width in enumerate((1, 2, 4)):
        table[0xC4 + power] = (_BINARY, width, 0)
        table[0xD9 + power] = (_TEXT, width, 0)
    for power, width in enumerate((1, 2, 4, 8)):
        table[0xCC + power] = (_SCALAR, width, 0)
        table[0xD0 + power] = (_SCALAR, width, 0)
    table[0xCB] = (_SCALAR, 8, 0)
    for power, width in enumerate((2, 4)):
        table[0xDC + power] = (_ARRAY, width, 0)
        table[0xDE + power] = (_MAP, width, 0)
    return tuple(table)


_FORMS: Final = _forms()


def _corrupt(offset: int, reason: str) -> CorruptionError:
    return CorruptionError(f"encoded value, offset {offset}: {reason}")


def _scan(data: bytes) -> None:
    """Walk the heads of ``data`` without building anything, and refuse what unpacking must not meet.

    Afterwards: one value fills ``data`` exactly, every length lies inside it, depth and items are within their
    limits, keys are text, text is UTF-8, ints are int64, floats are finite, there is no extension, so unpacking
    cannot fail.  Left to the comparison: shortest forms, key order, repeated keys.

    Time is one step per item present; memory is ``MAX_DEPTH`` entries.
    """
    end = len(data)
    position = 0
    items = 1
    enclosing: list[tuple[int, bool]] = []  # of each container around the innermost one: items to come, is it a map
    left, in_map = 1, False
    while True:
        while left == 0:
            if not enclosing:
                if position != end:
                    raise _corrupt(position, f"expected the end, found {end - position} more bytes")
                return
            left, in_map = enclosing.pop()
        if position == end:
            raise _corrupt(position, "the data end where an item must begin")
        first = data[position]
        kind, width, length = _FORMS[first]
        if in_map and left % 2 == 0 and kind != _TEXT:  # keys stand where an even number of items is to come
            raise _corrupt(position, f"expected a text key, found first byte 0x{first:02x}")
        left -= 1
        body = position + 1 + width
        if body > end:
            raise _corrupt(position, f"item 0x{first:02x} needs {width} more bytes, found {end - position - 1}")
        if kind == _SCALAR:
            if first == 0xCB and data[position + 1] & 0x7F == 0x7F and data[position + 2] >= 0xF0:
                raise _corrupt(position, "expected a finite float, found NaN or infinity")
            if first == 0xCF and data[position + 1] >= 0x80:
                raise _corrupt(position, "expected an int64, found an integer of 2**63 or more")
            position = body
            continue
        if kind == _FOREIGN:
            raise _corrupt(position, f"first byte 0x{first:02x} begins no value of this format")
        if width:
            length = int.from_bytes(data[position + 1 : body], "big")
        if kind in (_TEXT, _BINARY):
            if length > end - body:
                raise _corrupt(position, f"announces {length} bytes, found {end - body}")
            if kind == _TEXT:
                try:
                    data[body : body + length].decode()
                except UnicodeDecodeError as error:
                    raise _corrupt(body + error.start, f"text is not UTF-8: {error.reason}") from None
            position = body + length
            continue
        announced = 2 * length if kind == _MAP else length
        if announced > end - body:
            raise _corrupt(position, f"announces {announced} items, found {end - body} bytes")
        items += announced
        if items > MAX_ITEMS:
            raise _corrupt(position, f"expected at most {MAX_ITEMS} items, found {items} or more")
        enclosing.append((left, in_map))
        if len(enclosing) > MAX_DEPTH:
            raise _corrupt(position, f"nested deeper than {MAX_DEPTH} levels")
        left, in_map = announced, kind == _MAP
        position = body


def _compare(data: bytes, canonical: bytes) -> None:
    """Refuse ``data`` unless it is the canonical spelling.  Halving finds the first difference in some 23 compares."""
    if data == canonical:
        return
    shared = min(len(data), len(canonical))
    offset = bisect_left(range(shared), True, key=lambda index: data[: index + 1] != canonical[: index + 1])
    raise _corrupt(offset, "not the one spelling: a longer form than needed, or keys repeated or out of order")


# --------------------------------------------------------------------------------------------- what callers hand in


def normalise_metadata(metadata: object, what: str) -> Metadata:
    """The caller's map (None is the empty map) as a fresh dict of plain Python values, keys in ascending UTF-8 order.

    Values: str, int64, finite float64, bool, None, or a flat list of these.  NumPy scalars (bool, integers,
    float16/32/64, str) and subclasses of str, int and float become the plain value; -0.0 stays.  ``what`` names the
    map in messages.

    Raises ``UsageError`` with path and type for anything else (tuple, set, bytes, nested list, nested map, array,
    datetime, NaN, 2**63), and with both sizes when the encoded map exceeds ``MAX_METADATA_BYTES``.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise UsageError(f"{what}: expected a map of str to values, found {type(metadata).__name__}")
    plain: Metadata = {}
    for key, value in metadata.items():
        if not isinstance(key, str):
            raise UsageError(f"{what}: expected str keys, found the {type(key).__name__} {shown(key)}")
        try:
            name = _text(key)
            if name in plain:
                raise _RefusedError("the key stands twice")
            plain[name] = _value(value)
        except _RefusedError as refused:
            raise refused.under(key).as_usage(what) from None
    if len(plain) > 1:
        plain = {key: plain[key] for key in sorted(plain)}  # code point order is UTF-8 order: see spec/encoding.md
    size = len(_pack(plain))
    if size > MAX_METADATA_BYTES:
        raise UsageError(f"{what}: found {size} bytes encoded, expected at most {MAX_METADATA_BYTES}")
    return plain


def normalise_value(value: object, what: str) -> MetadataValue:
    """One value by the rules of ``normalise_metadata``: a scalar or a fresh flat list.  Raises ``UsageError``."""
    try:
        return _value(value)
    except _RefusedError as refused:
        raise refused.as_usage(what) from None


def normalise_scalar(value: object, what: str) -> Scalar:
    """One scalar, by the rules of ``normalise_metadata``; lists are refused.  Raises ``UsageError``."""
    try:
        return _scalar(value)
    except _RefusedError as refused:
        raise refused.as_usage(what) from None


def check_id(id: object, what: str) -> str:
    """A record id as a plain str: 1..``MAX_ID_BYTES`` UTF-8 bytes.  Raises ``UsageError``."""
    return _short_text(id, what, MAX_ID_BYTES)


def check_ids(ids: list[Any], what: str) -> list[str]:
    """``check_id`` of each, named ``what[index]`` in messages; the ordinary case is seen in a few passes."""
    if ids and set(map(type, ids)) == {str} and "".join(ids).isascii():
        sizes = set(map(len, ids))
        if min(sizes) > 0 and max(sizes) <= MAX_ID_BYTES:
            return ids
    return [check_id(id, f"{what}[{index}]") for index, id in enumerate(ids)]


def check_name(name: object, what: str) -> str:
    """A collection name as a plain str: 1..``MAX_COLLECTION_BYTES`` UTF-8 bytes.  Raises ``UsageError``."""
    return _short_text(name, what, MAX_COLLECTION_BYTES)


def whole_number(value: object, what: str, least: int) -> int:
    """An int of at least ``least`` (NumPy integers count, bool does not).  Raises ``UsageError``."""
    try:
        number = _scalar(value)
    except _RefusedError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise UsageError(f"{what}: expected an int of at least {least} (and below 2^63), found {shown(value)}")
    return number


def check_document(document: object, what: str) -> str | None:
    """A document as a plain str of at most ``MAX_DOCUMENT_BYTES`` UTF-8 bytes, or None.  Raises ``UsageError``."""
    if document is None:
        return None
    if not isinstance(document, str):
        raise UsageError(f"{what}: expected str or None, found {type(document).__name__}")
    try:
        size = _utf8_length(document)
    except _RefusedError as refused:
        raise refused.as_usage(what) from None
    if size > MAX_DOCUMENT_BYTES:
        raise UsageError(f"{what}: found {size} UTF-8 bytes, expected at most {MAX_DOCUMENT_BYTES}")
    return str.__str__(document)


def _short_text(value: object, what: str, most: int) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{what}: expected str, found {type(value).__name__}")
    try:
        size = _utf8_length(value)
    except _RefusedError as refused:
        raise refused.as_usage(what) from None
    if not 1 <= size <= most:
        raise UsageError(f"{what}: expected 1..{most} UTF-8 bytes, found {size}")
    return str.__str__(value)


def _text(text: str) -> str:
    """The plain str of a str or subclass, past any ``__str__`` of its own."""
    _utf8_length(text)
    return str.__str__(text)


def _value(value: object) -> MetadataValue:
    if not isinstance(value, list):
        return _scalar(value, "None, bool, int, float, str or a flat list of these")
    elements: list[Scalar] = []
    for index, element in enumerate(value):
        try:
            elements.append(_scalar(element))
        except _RefusedError as refused:
            raise refused.under(index) from None
    return elements


def _scalar(value: object, expected: str = "None, bool, int, float or str") -> Scalar:
    """The plain Python scalar that ``value`` is exactly.  The base types' own conversions step past overridden ones."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return _int64(int.__int__(value))
    if isinstance(value, float):  # np.float64 included
        return _finite(float.__float__(value))
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.integer) and value.dtype.kind in "iu":  # NumPy counts durations (kind "m") as integers
        return _int64(int(value))
    if isinstance(value, (np.float16, np.float32)):  # both widen exactly; a long double would not
        return _finite(float(value))
    raise _RefusedError(f"expected {expected}, found {type(value).__name__}")


# -------------------------------------------------------------------------------------------------------------- content


def encode_content(metadata: Metadata, document: str | None) -> bytes:
    """The canonical array ``[metadata map, document or nil]``.

    Both come from ``normalise_metadata`` and ``check_document``, so nothing is checked twice here: this runs once per
    record.
    """
    keys = list(metadata)
    assert keys == sorted(keys), "metadata has not passed through normalise_metadata"
    return _pack([metadata, document])


def decode_content(data: bytes | bytearray | memoryview) -> tuple[Metadata, str | None]:
    """Metadata and document of ``encode_content``'s bytes; the inverse of it, accepting nothing else.

    Raises ``CorruptionError`` for bytes that are no such pair, or whose parts a caller could not have stored.
    """
    if len(data) > MAX_CONTENT_BYTES:
        raise _corrupt(MAX_CONTENT_BYTES, f"found {len(data)} bytes, expected at most {MAX_CONTENT_BYTES}")
    data = bytes(data)
    _scan(data)
    pair = msgpack.unpackb(data)
    if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], dict):
        raise _corrupt(0, "expected the content [metadata map, document or nil], found another value")
    try:
        metadata = normalise_metadata(pair[0], "metadata")
        document = check_document(pair[1], "document")
    except UsageError as error:
        raise CorruptionError(f"encoded content: {error}") from None
    _compare(data, encode_content(metadata, document))
    return metadata, document
