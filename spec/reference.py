"""The naive twin: detmem once more, written from the pages of this folder and from nothing else.

Why it exists: two programs written apart from the same text agree only where the text is clear and both are right.  So this one
takes no short cut, shares no line with the package, and can be read aloud beside the page each part names.

Rule 1  Python integers and the standard library only; nothing of detmem is imported here, and no array library.
Rule 2  The plainest way to say it wins; a state is a dict of dicts, a search sorts everything, a tree is a recursion.
Rule 3  Whatever is not legal raises ``Refused`` with one word for the reason (the word stands in the vectors) and the place.

    numbers.md      quantise, normalise, admit, distance, nearest
    encoding.md     encode, decode, content
    filters.md      check_where, select
    commitments.md  commitments, keys and leaves, state_root, log_root, link, checkpoint
    log.md          operations, frames, seals, segment headers, HEAD slots
    snapshot.md     write_snapshot, read_snapshot
                    Memory: state = fold(apply, log), and the search over it
    accumulated.md  Stream, Draw: the commands and searches of the accumulated vector
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple


class Refused(Exception):
    """Something the spec does not allow: ``reason`` is one word, ``where`` says the place and the values."""

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(f"{reason}: {where}")
        self.reason = reason
        self.where = where


# --------------------------------------------------------------------------------------------------------------- numbers.md

FORMATS = {"Q16.16": 16, "Q8.24": 24, "Q4.28": 28}  # name -> f, the number of fraction bits
METRICS = ("l2", "ip", "cosine")
INT32 = range(-(2**31), 2**31)
INT64 = range(-(2**63), 2**63)
ADMITTED = 2**60  # the largest sum of squares
MOST_DIMENSIONS = 65536


def round_half_even(numerator: int, denominator: int) -> int:
    """The integer nearest to numerator / denominator (denominator > 0); of two that are equally near, the even one."""
    floor, remainder = divmod(numerator, denominator)
    if 2 * remainder > denominator or (2 * remainder == denominator and floor % 2 == 1):
        return floor + 1
    return floor


def ratio(x: float) -> tuple[int, int]:
    """The exact value of a finite float or int as numerator and power-of-two denominator."""
    try:
        return float(x).as_integer_ratio()
    except (OverflowError, ValueError) as error:  # an int beyond float64, an infinity, a NaN
        raise Refused("range", f"{x!r} is not finite") from error


def quantise(x: float, number_format: str) -> int:
    """raw = x * 2^f rounded half to even; refused when it does not fit an int32."""
    numerator, denominator = ratio(x)
    raw = round_half_even(numerator << FORMATS[number_format], denominator)
    if raw not in INT32:
        raise Refused("range", f"{x!r} in {number_format}")
    return raw


def admit(raw: list[int]) -> list[int]:
    """The vector itself, when each component is an int32 and the sum of squares is at most 2^60."""
    for position, component in enumerate(raw):
        if component not in INT32:
            raise Refused("range", f"component {position} is {component}")
    squares = sum(component * component for component in raw)
    if squares > ADMITTED:
        raise Refused("admission", f"sum of squares {squares}")
    return raw


def normalise(x: list[float], number_format: str) -> list[int]:
    """The unit vector along x, by integers: one exact scaling, one integer square root, one rounding for each component."""
    exact = [ratio(component) for component in x]
    largest = max(abs(float(component)) for component in x)
    if largest == 0.0:
        raise Refused("zero", "a zero vector has no direction")
    exponent = math.frexp(largest)[1]
    scaled = []
    for numerator, denominator in exact:
        shift = 31 - exponent
        if shift >= 0:
            scaled.append(round_half_even(numerator << shift, denominator))
        else:
            scaled.append(round_half_even(numerator, denominator << -shift))
    length = math.isqrt(sum(r * r for r in scaled) << 6)
    return [round_half_even(r << (FORMATS[number_format] + 3), length) for r in scaled]


def enter(x: list[float], metric: str, number_format: str) -> list[int]:
    """The way of a row or a query through the front door: cosine is normalised, the others are quantised; then admission."""
    if metric == "cosine":
        return admit(normalise(x, number_format))
    return admit([quantise(component, number_format) for component in x])


def distance(metric: str, x: list[int], q: list[int]) -> int:
    """The raw distance: smaller is better for every metric."""
    if metric == "ip":
        return -sum(a * b for a, b in zip(x, q, strict=True))
    return sum((a - b) ** 2 for a, b in zip(x, q, strict=True))


def shown_distance(metric: str, number_format: str, raw: int) -> float:
    """The distance for people: raw / 2^2f, and raw / 2^(2f+1) for cosine."""
    return float(raw) / float(2 ** (2 * FORMATS[number_format] + (1 if metric == "cosine" else 0)))


def nearest(metric: str, rows: dict[str, list[int]], query: list[int], k: int) -> list[tuple[str, int]]:
    """The first k of all rows in the order (raw distance, UTF-8 bytes of the id), as (id, raw)."""
    if k < 1:
        raise Refused("k", f"k is {k}")
    ranked = sorted((distance(metric, row, query), name.encode(), name) for name, row in rows.items())
    return [(name, raw) for raw, _, name in ranked[:k]]


# -------------------------------------------------------------------------------------------------------------- encoding.md

DEEPEST = 16


def utf8(text: str) -> bytes:
    """The UTF-8 bytes of a string; lone surrogates have none."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refused("utf8", repr(text)) from error


def sized(count: int, *spellings: tuple[int, int, int]) -> bytes:
    """The shortest head for a count: spellings are (largest count, first byte, bytes of count behind it), shortest first."""
    for largest, first, width in spellings:
        if count <= largest:
            return bytes([first | count]) if width == 0 else bytes([first]) + count.to_bytes(width, "big")
    raise Refused("size", f"{count}")


def encode(value: Any, depth: int = 1) -> bytes:
    """The one spelling of a value: the shortest msgpack form, the keys of a map in ascending order of their UTF-8 bytes."""
    if value is None:
        return b"\xc0"
    if value is False:
        return b"\xc2"
    if value is True:
        return b"\xc3"
    if isinstance(value, int):
        if value not in INT64:
            raise Refused("range", f"{value} is not an int64")
        for smallest, largest, first, width in (
            (-32, 127, None, 1),
            (0, 2**8 - 1, 0xCC, 1),
            (0, 2**16 - 1, 0xCD, 2),
            (0, 2**32 - 1, 0xCE, 4),
            (0, 2**63 - 1, 0xCF, 8),
            (-(2**7), -1, 0xD0, 1),
            (-(2**15), -1, 0xD1, 2),
            (-(2**31), -1, 0xD2, 4),
            (-(2**63), -1, 0xD3, 8),
        ):
            if smallest <= value <= largest:
                head = b"" if first is None else bytes([first])
                return head + value.to_bytes(width, "big", signed=value < 0)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Refused("float", f"{value!r} is not finite")
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        text = utf8(value)
        return sized(len(text), (31, 0xA0, 0), (2**8 - 1, 0xD9, 1), (2**16 - 1, 0xDA, 2), (2**32 - 1, 0xDB, 4)) + text
    if isinstance(value, bytes):
        return sized(len(value), (2**8 - 1, 0xC4, 1), (2**16 - 1, 0xC5, 2), (2**32 - 1, 0xC6, 4)) + value
    if isinstance(value, (list, tuple, dict)) and depth > DEEPEST:
        raise Refused("depth", f"deeper than {DEEPEST}")
    if isinstance(value, (list, tuple)):
        head = sized(len(value), (15, 0x90, 0), (2**16 - 1, 0xDC, 2), (2**32 - 1, 0xDD, 4))
        return head + b"".join(encode(item, depth + 1) for item in value)
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise Refused("key", "a key is not a string")
        head = sized(len(value), (15, 0x80, 0), (2**16 - 1, 0xDE, 2), (2**32 - 1, 0xDF, 4))
        pairs = sorted((utf8(key), key, item) for key, item in value.items()) if len(value) < 2 else sorted(
            ((utf8(key), key, item) for key, item in value.items()), key=lambda pair: pair[0]
        )
        return head + b"".join(encode(key) + encode(item, depth + 1) for _, key, item in pairs)
    raise Refused("type", f"{type(value).__name__}")


def decode(data: bytes) -> Any:
    """The inverse of encode: the value whose one spelling is these bytes, and nothing else."""
    value, end = _decode(data, 0, 1)
    if end != len(data):
        raise Refused("tail", f"{len(data) - end} bytes behind the value")
    if encode(value) != data:
        raise Refused("spelling", "not the canonical spelling")
    return value


def _decode(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    def take(size: int) -> bytes:
        nonlocal at
        if size > len(data) - at:
            raise Refused("short", f"{size} bytes wanted at {at}, {len(data) - at} there")
        at += size
        return data[at - size : at]

    def number(size: int, signed: bool = False) -> int:
        return int.from_bytes(take(size), "big", signed=signed)

    first = number(1)
    if first <= 0x7F or first >= 0xE0:
        return (first if first <= 0x7F else first - 256), at
    if first in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[first], at
    if 0xCC <= first <= 0xCF:
        value = number(1 << (first - 0xCC))
        if value not in INT64:
            raise Refused("range", f"{value} is not an int64")
        return value, at
    if 0xD0 <= first <= 0xD3:
        return number(1 << (first - 0xD0), signed=True), at
    if first == 0xCB:
        return struct.unpack(">d", take(8))[0], at
    if first in (0xC4, 0xC5, 0xC6):
        return take(number(1 << (first - 0xC4))), at
    if 0xA0 <= first <= 0xBF or first in (0xD9, 0xDA, 0xDB):
        size = first - 0xA0 if first <= 0xBF else number(1 << (first - 0xD9))
        try:
            return take(size).decode("utf-8"), at
        except UnicodeDecodeError as error:
            raise Refused("utf8", f"at {at - size}") from error
    is_array = 0x90 <= first <= 0x9F or first in (0xDC, 0xDD)
    is_map = 0x80 <= first <= 0x8F or first in (0xDE, 0xDF)
    if not is_array and not is_map:
        raise Refused("type", f"byte {first:02x}")
    if depth > DEEPEST:
        raise Refused("depth", f"deeper than {DEEPEST}")
    count = first & 0x0F if first <= 0x9F else number(2 if first in (0xDC, 0xDE) else 4)
    if count * (2 if is_map else 1) > len(data) - at:  # each item has a byte at least
        raise Refused("short", f"{count} items promised")
    if is_array:
        items = []
        for _ in range(count):
            item, at = _decode(data, at, depth + 1)
            items.append(item)
        return items, at
    pairs: dict[str, Any] = {}
    before: bytes | None = None
    for _ in range(count):
        key, at = _decode(data, at, depth + 1)
        if not isinstance(key, str):
            raise Refused("key", f"a key is a {type(key).__name__}")
        if before is not None and key.encode() <= before:
            raise Refused("order", f"key {key!r}")
        before = key.encode()
        pairs[key], at = _decode(data, at, depth + 1)
    return pairs, at


# ---- what a record's content may be

MOST_METADATA = 64 * 1024
MOST_DOCUMENT = 8 * 1024 * 1024


def _is_scalar(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (bool, str)) or (isinstance(value, int) and value in INT64)


def content(metadata: dict[str, Any] | None, document: str | None) -> bytes:
    """The canonical [metadata, document or nil]; absent metadata is the empty map."""
    metadata = metadata or {}
    for key, value in metadata.items():
        if not isinstance(key, str):
            raise Refused("metadata", "a key is not a string")
        if not _is_scalar(value) and not (isinstance(value, list) and all(_is_scalar(item) for item in value)):
            raise Refused("metadata", f"{key!r} is {value!r}")
    if len(encode(metadata)) > MOST_METADATA:
        raise Refused("metadata", f"{len(encode(metadata))} bytes")
    if document is not None and len(utf8(document)) > MOST_DOCUMENT:
        raise Refused("document", f"{len(utf8(document))} bytes")
    return encode([metadata, document])


def read_content(data: bytes) -> tuple[dict[str, Any], str | None]:
    value = decode(data)
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], dict):
        raise Refused("content", "not [metadata, document]")
    if value[1] is not None and not isinstance(value[1], str):
        raise Refused("content", "the document is no string")
    content(value[0], value[1])
    return value[0], value[1]


def definition(dim: int, metric: str, number_format: str) -> bytes:
    if not 1 <= dim <= MOST_DIMENSIONS or metric not in METRICS or number_format not in FORMATS:
        raise Refused("definition", f"{dim} {metric} {number_format}")
    return encode({"dim": dim, "erasable": False, "format": number_format, "metric": metric})


def read_definition(data: bytes) -> tuple[int, str, str]:
    value = decode(data)
    if not isinstance(value, dict) or sorted(value) != ["dim", "erasable", "format", "metric"]:
        raise Refused("definition", "not the four keys")
    if type(value["dim"]) is not int or value["erasable"] is not False:
        raise Refused("definition", f"{value}")
    if not isinstance(value["metric"], str) or not isinstance(value["format"], str):
        raise Refused("definition", f"{value}")
    definition(value["dim"], value["metric"], value["format"])
    return value["dim"], value["metric"], value["format"]
