"""The naive twin: detmem once more, written from the pages of this folder and from nothing else.

Why it exists: two programs written apart from the same text agree only where the text is clear and both are right.  So
this one takes no short cut, shares no line with the package, and can be read aloud beside the page each part names.

Rule 1  Python integers and the standard library only; nothing of detmem is imported here, and no array library.
Rule 2  The plainest way to say it wins; a state is a dict of dicts, a search sorts everything, a tree is a recursion.
Rule 3  Whatever is not legal raises ``Refused`` with one word for the reason (it stands in the vectors) and the place.

    numbers.md      quantise, normalise, admit, distance, nearest
    encoding.md     encode, decode, content
    filters.md      check_where, select
    commitments.md  commitments, keys and leaves, state_root, log_root, link, checkpoint
    log.md          operations, frames, seals, segment headers, HEAD slots; step: what each operation does
    snapshot.md     write_snapshot, read_snapshot
                    Memory: state = fold(apply, log), and the search over it
    receipts.md     proofs of both trees, receipts, subtrees, refutations, signed notes
    accumulated.md  Stream, Draw: the commands and searches of the accumulated vector
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
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


# ----------------------------------------------------------------------------------------------------------- numbers.md

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
        exact = float(x).as_integer_ratio()
    except (OverflowError, ValueError) as error:  # an int beyond float64, an infinity, a NaN
        raise Refused("range", f"{x!r} is not finite") from error
    if isinstance(x, int) and exact != (x, 1):
        raise Refused("range", f"{x} is an integer that float64 cannot hold")
    return exact


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
    """The unit vector along x, by integers: one exact scaling, one integer square root, one rounding a component."""
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
    """A row or query through the front door: cosine is normalised, the others are quantised; then admission."""
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


# ---------------------------------------------------------------------------------------------------------- encoding.md

DEEPEST = 16
MOST_ITEMS = 2**17


def utf8(text: str) -> bytes:
    """The UTF-8 bytes of a string; lone surrogates have none."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refused("utf8", repr(text)) from error


def sized(count: int, *spellings: tuple[int, int, int]) -> bytes:
    """The shortest head for a count: spellings are (largest count, first byte, bytes of count), shortest first."""
    for largest, first, width in spellings:
        if count <= largest:
            return bytes([first | count]) if width == 0 else bytes([first]) + count.to_bytes(width, "big")
    raise Refused("size", f"{count}")


def count_items(value: Any) -> int:
    """The value itself and everything inside it, keys of maps included."""
    if isinstance(value, list):
        return 1 + sum(count_items(item) for item in value)
    if isinstance(value, dict):
        return 1 + sum(1 + count_items(item) for item in value.values())
    return 1


def encode(value: Any, depth: int = 1) -> bytes:
    """The one spelling of a value: the shortest msgpack form, keys of a map ascending by their UTF-8 bytes."""
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
    if isinstance(value, (list, dict)) and depth > DEEPEST:
        raise Refused("depth", f"deeper than {DEEPEST}")
    if depth == 1 and count_items(value) > MOST_ITEMS:
        raise Refused("items", f"{count_items(value)}")
    if isinstance(value, list):
        head = sized(len(value), (15, 0x90, 0), (2**16 - 1, 0xDC, 2), (2**32 - 1, 0xDD, 4))
        return head + b"".join(encode(item, depth + 1) for item in value)
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise Refused("key", "a key is not a string")
        head = sized(len(value), (15, 0x80, 0), (2**16 - 1, 0xDE, 2), (2**32 - 1, 0xDF, 4))
        return head + b"".join(encode(key) + encode(value[key], depth + 1) for key in sorted(value, key=utf8))
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


def definition(dim: int, metric: str, number_format: str, erasable: bool = False) -> bytes:
    if not 1 <= dim <= MOST_DIMENSIONS or metric not in METRICS or number_format not in FORMATS:
        raise Refused("definition", f"{dim} {metric} {number_format}")
    return encode({"dim": dim, "erasable": erasable, "format": number_format, "metric": metric})


def read_definition(data: bytes) -> tuple[int, str, str, bool]:
    value = decode(data)
    if not isinstance(value, dict) or sorted(value) != ["dim", "erasable", "format", "metric"]:
        raise Refused("definition", "not the four keys")
    if type(value["dim"]) is not int or not isinstance(value["erasable"], bool):
        raise Refused("definition", f"{value}")
    if not isinstance(value["metric"], str) or not isinstance(value["format"], str):
        raise Refused("definition", f"{value}")
    definition(value["dim"], value["metric"], value["format"])
    return value["dim"], value["metric"], value["format"], value["erasable"]


# ----------------------------------------------------------------------------------------------------------- filters.md

ORDERS = ("$gt", "$gte", "$lt", "$lte")
FIELD_OPERATORS = ("$eq", "$ne", *ORDERS, "$in", "$nin", "$exists", "$contains")
MOST_CLAUSES = 1000
MISSING = object()  # the record has no such field


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def equal(stored: Any, value: Any) -> bool:
    """Equality by the table: True is not 1, 1 is 1.0, lists element by element, and what is missing equals nothing."""
    if is_number(stored) and is_number(value):
        return bool(stored == value)  # Python compares int with float by their mathematical values
    if isinstance(stored, list) and isinstance(value, list):
        return len(stored) == len(value) and all(equal(a, b) for a, b in zip(stored, value, strict=True))
    if isinstance(stored, (bool, str)) and isinstance(value, (bool, str)):
        return type(stored) is type(value) and stored == value
    return stored is None and value is None


def _is_value(value: Any) -> bool:
    return _is_storable(value) or (isinstance(value, list) and all(_is_storable(item) for item in value))


def _is_storable(value: Any) -> bool:
    if isinstance(value, str):
        utf8(value)
    return _is_scalar(value)


def check_where(where: Any, depth: int = 1) -> int:
    """How many clauses a filter has; one that is not of the grammar is refused."""
    if where is None and depth == 1:
        return 0
    if not isinstance(where, dict):
        raise Refused("where", f"{where!r} is no map")
    if depth > DEEPEST:
        raise Refused("where_depth", f"deeper than {DEEPEST}")
    clauses = 0 if where else 1
    for key, part in where.items():
        if not isinstance(key, str):
            raise Refused("where_key", f"{key!r}")
        utf8(key)
        if key in ("$and", "$or"):
            if not isinstance(part, list) or not part:
                raise Refused("where", f"{key} wants a list that is not empty")
            for inner in part:
                clauses += check_where(inner, depth + 1)
        elif key == "$not":
            clauses += check_where(part, depth + 1)
        elif key.startswith("$"):
            raise Refused("where_operator", key)
        else:
            operators = part if isinstance(part, dict) else {"$eq": part}
            if not operators:
                raise Refused("where_operator", f"{key!r} has none")
            for operator, operand in operators.items():
                _check_operand(operator, operand)
                clauses += 1
    if clauses > MOST_CLAUSES:
        raise Refused("where_clauses", f"{clauses}")
    return clauses


def _check_operand(operator: Any, operand: Any) -> None:
    if operator not in FIELD_OPERATORS:
        raise Refused("where_operator", f"{operator!r}")
    if operator in ("$eq", "$ne"):
        legal = _is_value(operand)
    elif operator in ("$in", "$nin"):
        legal = isinstance(operand, (list, tuple)) and all(_is_value(item) for item in operand)
    elif operator == "$exists":
        legal = isinstance(operand, bool)
    elif operator == "$contains":
        legal = _is_storable(operand)
    else:
        legal = _is_storable(operand) and (is_number(operand) or isinstance(operand, str))
    if not legal:
        raise Refused("where_operand", f"{operator}: {operand!r}")


def orders_in(where: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Each (field, operator, operand) of a checked filter that compares by order, in the order of the filter."""
    for key, part in where.items():
        if key in ("$and", "$or"):
            for inner in part:
                yield from orders_in(inner)
        elif key == "$not":
            yield from orders_in(part)
        elif isinstance(part, dict):
            for operator, operand in part.items():
                if operator in ORDERS:
                    yield key, operator, operand


def holds(stored: Any, operator: str, operand: Any) -> bool:
    """Whether one operator holds for what is stored (MISSING for nothing)."""
    if operator == "$eq":
        return equal(stored, operand)
    if operator == "$ne":
        return not equal(stored, operand)
    if operator == "$in":
        return any(equal(stored, item) for item in operand)
    if operator == "$nin":
        return not any(equal(stored, item) for item in operand)
    if operator == "$exists":
        return (stored is not MISSING) == operand
    if operator == "$contains":
        if isinstance(stored, list):
            return any(equal(item, operand) for item in stored)
        return isinstance(stored, str) and isinstance(operand, str) and operand in stored
    comparable = (is_number(stored) and is_number(operand)) or (isinstance(stored, str) and isinstance(operand, str))
    if not comparable:
        return False
    if operator == "$gt":
        return bool(stored > operand)
    if operator == "$gte":
        return bool(stored >= operand)
    if operator == "$lt":
        return bool(stored < operand)
    return bool(stored <= operand)


def matches(metadata: dict[str, Any], where: dict[str, Any]) -> bool:
    """Whether one record's metadata matches a checked filter."""
    for key, part in where.items():
        if key == "$and":
            good = all(matches(metadata, inner) for inner in part)
        elif key == "$or":
            good = any(matches(metadata, inner) for inner in part)
        elif key == "$not":
            good = not matches(metadata, part)
        else:
            operators = part if isinstance(part, dict) else {"$eq": part}
            stored = metadata.get(key, MISSING)
            good = all(holds(stored, operator, operand) for operator, operand in operators.items())
        if not good:
            return False
    return True


def choose(metadatas: list[dict[str, Any]], where: dict[str, Any] | None) -> list[bool]:
    """For each live record's metadata whether it matches; a conflict of ordered types with any of them is refused."""
    check_where(where)
    for field, operator, operand in orders_in(where or {}):
        for metadata in metadatas:
            stored = metadata.get(field)
            if (isinstance(stored, str) and is_number(operand)) or (is_number(stored) and isinstance(operand, str)):
                raise Refused("where_conflict", f"{field!r} {operator} {operand!r}, stored is {stored!r}")
    return [matches(metadata, where or {}) for metadata in metadatas]


def select(records: dict[str, Record], where: dict[str, Any] | None) -> list[str]:
    """The ids of the records that match, in id order."""
    chosen = choose([record.metadata for record in records.values()], where)
    return sorted((i for i, good in zip(records, chosen, strict=True) if good), key=utf8)


# ------------------------------------------------------------------------------------------------------- commitments.md

ZERO = bytes(32)


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def u8(value: int) -> bytes:
    return value.to_bytes(1, "little")


def u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def lp(text: str) -> bytes:
    return u16(len(utf8(text))) + utf8(text)


def vector_bytes(raw: list[int]) -> bytes:
    return b"".join(component.to_bytes(4, "little", signed=True) for component in raw)


def read_vector(data: bytes) -> list[int]:
    return [int.from_bytes(data[i : i + 4], "little", signed=True) for i in range(0, len(data), 4)]


def commitment(data: bytes, salt: bytes = b"") -> bytes:
    return sha256(b"\x10", salt, data)


def state_key(collection: str, record_id: str = "") -> bytes:
    return sha256(b"\x13", lp(collection), lp(record_id))


def link_key(names: Link) -> bytes:
    return sha256(b"\x17", *map(lp, names))


def link_leaf(names: Link) -> bytes:
    return sha256(b"\x1b", *map(lp, names))


def request_digest(leaves: list[bytes]) -> bytes:
    return sha256(b"\x1c", *leaves)


def salt_of(key: bytes, collection: str, record_id: str, payload: bytes) -> bytes:
    """What goes before a vector and a content in their commitments, where a collection is erasable."""
    return hmac.digest(key, lp(collection) + lp(record_id) + payload, "sha256")


def record_leaf(collection: str, record_id: str, vector_commitment: bytes, content_commitment: bytes) -> bytes:
    return sha256(b"\x12", lp(collection), lp(record_id), vector_commitment, content_commitment)


def collection_leaf(collection: str, definition_commitment: bytes) -> bytes:
    return sha256(b"\x16", lp(collection), definition_commitment)


def bucket_hash(entries: list[tuple[bytes, bytes]] | tuple[tuple[bytes, bytes], ...]) -> bytes:
    """A bucket's hash; the entries (key, leaf) may come in any order."""
    if not entries:
        return ZERO
    return sha256(b"\x14", *(key + leaf for key, leaf in sorted(entries)))


def state_node(left: bytes, right: bytes) -> bytes:
    return ZERO if left == right == ZERO else sha256(b"\x15", left, right)


def state_root(entries: dict[bytes, bytes]) -> bytes:
    """The root over key -> leaf: all 2^16 buckets in a row, then sixteen times the pairs.  Empty ones are skipped."""
    buckets: dict[int, list[tuple[bytes, bytes]]] = {}
    for key, leaf in entries.items():
        buckets.setdefault(int.from_bytes(key[:2], "big"), []).append((key, leaf))
    row = {number: bucket_hash(bucket) for number, bucket in buckets.items()}
    for _ in range(16):
        parents = {number // 2 for number in row}
        row = {p: state_node(row.get(2 * p, ZERO), row.get(2 * p + 1, ZERO)) for p in parents}
    return row.get(0, ZERO)


class StateTree:
    """The same root after every change, quickly: only the nodes above a changed entry are hashed again.

    Generating the vectors compares it with ``state_root`` over and over.
    """

    def __init__(self) -> None:
        self.buckets: dict[int, dict[bytes, bytes]] = {}
        self.nodes: dict[tuple[int, int], bytes] = {}  # (height, number) -> hash; height 0 is the buckets

    def change(self, key: bytes, leaf: bytes | None) -> None:
        """Set the leaf of a key, or take the entry out (None)."""
        number = int.from_bytes(key[:2], "big")
        bucket = self.buckets.setdefault(number, {})
        if leaf is None:
            del bucket[key]
        else:
            bucket[key] = leaf
        self.nodes[0, number] = bucket_hash(list(bucket.items()))
        for height in range(1, 17):
            number //= 2
            left = self.nodes.get((height - 1, 2 * number), ZERO)
            self.nodes[height, number] = state_node(left, self.nodes.get((height - 1, 2 * number + 1), ZERO))

    def root(self) -> bytes:
        return self.nodes.get((16, 0), ZERO)


def log_leaf(data: bytes) -> bytes:
    return sha256(b"\x00", data)


def log_node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01", left, right)


def commit_leaf(seq: int, count: int, state_root_after: bytes) -> bytes:
    return log_leaf(b"COMMIT" + u64(seq) + u32(count) + state_root_after)


def log_root(leaves: list[bytes]) -> bytes:
    """RFC 9162, 2.1.1, over leaf hashes: split at the largest power of two smaller than the size."""
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return log_node(log_root(leaves[:split]), log_root(leaves[split:]))


def frontier(leaves: list[bytes]) -> list[bytes]:
    """The roots of the complete subtrees, largest first: one for each bit that is set in the size."""
    roots = []
    at = 0
    for bit in reversed(range(len(leaves).bit_length())):
        if len(leaves) >> bit & 1:
            roots.append(log_root(leaves[at : at + (1 << bit)]))
            at += 1 << bit
    return roots


def extend_frontier(roots: list[bytes], size: int, leaf: bytes) -> list[bytes]:
    """The frontier of size + 1 leaves: the new leaf joins the complete subtrees of its own size, as in a carry."""
    roots = list(roots)
    while size & 1:
        leaf = log_node(roots.pop(), leaf)
        size >>= 1
    return [*roots, leaf]


def fold_frontier(roots: list[bytes]) -> bytes:
    if not roots:
        return sha256(b"")
    root = roots[-1]
    for left in reversed(roots[:-1]):
        root = log_node(left, root)
    return root


FIRST_LINK = sha256(b"\x11", b"detmem/v1")
COMMIT, SEAL, VERSION = 1, 2, 2


def link(before: bytes, seq: int, leaves: list[bytes], commit: bytes) -> bytes:
    """link_n from link_{n-1}: ``leaves`` are those of the operations, ``commit`` is the commit leaf."""
    return sha256(b"\x11", before, u8(COMMIT), u8(0), u16(VERSION), u64(seq), u32(len(leaves)), *leaves, commit)


def checkpoint_text(seq: int, log_size: int, root_of_log: bytes, root_of_state: bytes) -> str:
    root64 = base64.b64encode(root_of_log).decode()
    return f"detmem/v1\n{log_size}\n{root64}\nseq {seq}\nstate {root_of_state.hex()}\n"


def read_checkpoint(text: str) -> tuple[int, int, bytes, bytes]:
    """(seq, log_size, log_root, state_root) of exactly such a text."""
    lines = text.split("\n")
    if len(lines) != 6 or lines[5] != "" or lines[0] != "detmem/v1":
        raise Refused("checkpoint", "not five lines, each ended, the first of them detmem/v1")
    try:
        if not lines[3].startswith("seq ") or not lines[4].startswith("state "):
            raise ValueError("extension lines")
        values = (
            int(lines[3][4:]),
            int(lines[1]),
            base64.b64decode(lines[2], validate=True),
            bytes.fromhex(lines[4][6:]),
        )
    except (ValueError, binascii.Error) as error:
        raise Refused("checkpoint", str(error)) from error
    if not all(0 <= value < 2**64 for value in values[:2]) or len(values[2]) != 32 or len(values[3]) != 32:
        raise Refused("checkpoint", "a value of the wrong size")
    if checkpoint_text(*values) != text:
        raise Refused("checkpoint", "not the one spelling")
    if 0 in values[:2] and values != (0, 0, log_root([]), ZERO):
        raise Refused("checkpoint", "of no commit")
    return values


# --------------------------------------------------------------------------------------------------------------- log.md

CREATE, DROP, ADD, UPSERT, UPDATE, DELETE, LINK, UNLINK, RECORD, ERASE, REQUEST = range(1, 12)
NAMES = dict(
    enumerate(
        ["create", "drop", "add", "upsert", "update", "delete", "link", "unlink", "record", "erase", "request"],
        start=1,
    )
)
HAS_VECTOR, HAS_CONTENT, SALTED = 1, 2, 4
LEGAL_FLAGS = {
    **dict.fromkeys((DROP, DELETE, ERASE), (0,)),
    **dict.fromkeys((CREATE, LINK, UNLINK, RECORD, REQUEST), (2,)),
    **dict.fromkeys((ADD, UPSERT), (3, 7)),
    UPDATE: (1, 2, 3, 5, 6, 7),
}
WRITES = (ADD, UPSERT, UPDATE)
PRESENT, ERASED, ARCHIVED = b"\x00", b"\x01", b"\x02"
MOST_REQUESTS = 65_536
MOST_OPERATION = 16 * 1024 * 1024
MOST_BODY = 1024 * 1024 * 1024
MOST_CONTENT = 8_454_150  # encoding.md
MOST_NOTE = 65_536
MOST_NAME = 128
MOST_ID = 512
OPERATION_HEADER = struct.Struct("<BBHHHII32s32s")
assert OPERATION_HEADER.size == 80


class Operation(NamedTuple):
    """One resolved operation: an absent payload part is None, its commitment stands all the same."""

    type: int
    collection: str
    id: str
    vector: bytes | None
    content: bytes | None
    vector_commitment: bytes
    content_commitment: bytes
    salt: bytes = b""
    gone: tuple[int, int, int] | None = None  # flags and the two sizes of a payload that is not here any more
    archived: bool = False  # it is not erased, but lies elsewhere


def plain(kind: int, collection: str, record_id: str, body: bytes | None = None) -> Operation:
    """An operation without a vector; its content, if it has one, is no record's."""
    return Operation(kind, collection, record_id, None, body, ZERO, ZERO if body is None else commitment(body))


def without_payload(o: Operation, archived: bool = False) -> Operation:
    return o._replace(vector=None, content=None, salt=b"", gone=(flags_of(o), *sizes_of(o)), archived=archived)


def check_operation(o: Operation) -> Operation:
    """The operation itself, when its type, strings, sizes and commitments are those of the table in log.md."""
    if o.type not in NAMES:
        raise Refused("type", f"{o.type}")
    if o.type == RECORD:
        if o.collection:
            raise Refused("collection", "a recorded hash has none")
    elif not 1 <= len(utf8(o.collection)) <= MOST_NAME:
        raise Refused("collection", f"{len(utf8(o.collection))} bytes")
    if o.type in (CREATE, DROP, RECORD):
        if o.id:
            raise Refused("id", f"{NAMES[o.type]} has none")
    elif not 1 <= len(utf8(o.id)) <= MOST_ID:
        raise Refused("id", f"{len(utf8(o.id))} bytes")
    if flags_of(o) not in LEGAL_FLAGS[o.type]:
        raise Refused("flags", f"{flags_of(o)} for {NAMES[o.type]}")
    if o.vector is not None and (len(o.vector) % 4 or not 4 <= len(o.vector) <= 4 * MOST_DIMENSIONS):
        raise Refused("vector_size", f"{len(o.vector)}")
    if o.content == b"":
        raise Refused("content_size", "0 with its flag set")
    if o.gone is not None and (o.gone[1] % 4 or o.gone[1] > 4 * MOST_DIMENSIONS or o.gone[2] > MOST_CONTENT):
        raise Refused("erased_size", f"{o.gone}")
    if len(encode_operation(o)) > MOST_OPERATION:
        raise Refused("operation_size", "more than 16 MiB")
    wanted_vector = o.vector_commitment if o.type in WRITES else ZERO
    wanted_content = ZERO if LEGAL_FLAGS[o.type] == (0,) else o.content_commitment
    if o.vector is not None:
        wanted_vector = commitment(o.vector, o.salt)
    if o.content is not None:
        wanted_content = commitment(o.content, o.salt)
    if o.vector_commitment != wanted_vector:
        raise Refused("vector_commitment", f"{o.vector_commitment.hex()} stored, {wanted_vector.hex()} computed")
    if o.content_commitment != wanted_content:
        raise Refused("content_commitment", f"{o.content_commitment.hex()} stored, {wanted_content.hex()} computed")
    return o


def flags_of(o: Operation) -> int:
    if o.gone is not None:
        return o.gone[0]
    parts = (HAS_VECTOR if o.vector is not None else 0) | (HAS_CONTENT if o.content is not None else 0)
    return parts | (SALTED if o.salt else 0)


def sizes_of(o: Operation) -> tuple[int, int]:
    return o.gone[1:] if o.gone is not None else (len(o.vector or b""), len(o.content or b""))


def operation_header(o: Operation) -> bytes:
    name, record_id = utf8(o.collection), utf8(o.id)
    fixed = OPERATION_HEADER.pack(
        o.type, flags_of(o), len(name), len(record_id), 0, *sizes_of(o), o.vector_commitment, o.content_commitment
    )
    return fixed + name + record_id


def encode_operation(o: Operation) -> bytes:
    if o.gone is not None:
        return operation_header(o) + (ARCHIVED if o.archived else ERASED)
    return operation_header(o) + PRESENT + o.salt + (o.vector or b"") + (o.content or b"")


def decode_operation(data: bytes, at: int = 0) -> tuple[Operation, int]:
    """The operation at an offset, and the offset behind it."""

    def take(size: int) -> bytes:
        nonlocal at
        if size > len(data) - at:
            raise Refused("short", f"{size} bytes wanted at {at}, {len(data) - at} there")
        at += size
        return data[at - size : at]

    def text(size: int, what: str) -> str:
        try:
            return take(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused(what, "not UTF-8") from error

    fields = OPERATION_HEADER.unpack(take(80))
    kind, flags, name_size, id_size, reserved, vector_size, content_size, vector_c, content_c = fields
    if kind not in NAMES:
        raise Refused("type", f"{kind}")
    if flags not in LEGAL_FLAGS[kind]:
        raise Refused("flags", f"{flags} for {NAMES[kind]}")
    if reserved != 0:
        raise Refused("reserved", f"{reserved}")
    if bool(vector_size) != bool(flags & HAS_VECTOR):
        raise Refused("vector_size", f"{vector_size} with flags {flags}")
    if bool(content_size) != bool(flags & HAS_CONTENT):
        raise Refused("content_size", f"{content_size} with flags {flags}")
    name, record_id = text(name_size, "collection"), text(id_size, "id")
    state = take(1)
    if state in (ERASED, ARCHIVED) and kind in WRITES:
        gone = flags, vector_size, content_size
        parts = None, None, vector_c, content_c, b"", gone, state == ARCHIVED
        return check_operation(Operation(kind, name, record_id, *parts)), at
    if state != PRESENT:
        raise Refused("state", state.hex())
    salt = take(32) if flags & SALTED else b""
    vector = take(vector_size) if vector_size else None
    body = take(content_size) if content_size else None
    return check_operation(Operation(kind, name, record_id, vector, body, vector_c, content_c, salt)), at


FRAME_MAGIC = b"DMF1"


def header_crc(first_28: bytes, store_id: bytes, first_seq: int) -> int:
    return zlib.crc32(first_28, zlib.crc32(store_id + u64(first_seq)))


def frame_header(kind: int, length: int, seq: int, durable_seq: int, store_id: bytes, first_seq: int) -> bytes:
    header = FRAME_MAGIC + u8(kind) + u8(0) + u16(VERSION) + u32(length) + u64(seq) + u64(durable_seq)
    return header + u32(header_crc(header, store_id, first_seq))


class Commit(NamedTuple):
    """What one commit did: everything of it that is logged or remembered."""

    seq: int
    operations: tuple[Operation, ...]
    leaves: tuple[bytes, ...]  # of the operations, then the commit leaf
    state_root: bytes
    link: bytes


def make_commit(operations: list[Operation], seq: int, state_root_after: bytes, link_before: bytes) -> Commit:
    if not operations:
        raise Refused("count", "a commit without operations")
    leaves = [log_leaf(operation_header(check_operation(o))) for o in operations]
    last = commit_leaf(seq, len(leaves), state_root_after)
    return Commit(seq, tuple(operations), (*leaves, last), state_root_after, link(link_before, seq, leaves, last))


def commit_frame(commit: Commit, durable_seq: int, store_id: bytes, first_seq: int) -> bytes:
    body = b"".join(encode_operation(o) for o in commit.operations)
    header = frame_header(COMMIT, len(body), commit.seq, durable_seq, store_id, first_seq)
    return header + body + commit.state_root + commit.link


def seal_frame(
    seq: int,
    durable_seq: int,
    count: int,
    log_size: int,
    last_link: bytes,
    root: bytes,
    store_id: bytes,
    first_seq: int,
) -> bytes:
    body = u64(count) + u64(log_size) + last_link + root
    header = frame_header(SEAL, len(body), seq, durable_seq, store_id, first_seq)
    return header + body + sha256(b"\x18", u64(first_seq), body)


class Seal(NamedTuple):
    seq: int
    durable_seq: int
    count: int
    log_size: int
    link: bytes
    log_root: bytes


def read_frame(
    data: bytes, at: int, *, store_id: bytes, first_seq: int, seq_before: int, link_before: bytes
) -> tuple[Commit | Seal, int]:
    """The good frame at an offset, and the offset behind it."""
    header = data[at : at + 32]
    if len(header) < 32:
        raise Refused("short", "header")
    if header[:4] != FRAME_MAGIC:
        raise Refused("magic", header[:4].hex())
    if int.from_bytes(header[28:], "little") != header_crc(header[:28], store_id, first_seq):
        raise Refused("header_crc", header[28:].hex())
    kind, flags, version, length, seq, durable_seq = struct.unpack("<BBHIQQ", header[4:28])
    if kind not in (COMMIT, SEAL):
        raise Refused("kind", f"{kind}")
    if flags != 0:
        raise Refused("frame_flags", f"{flags}")
    if version != VERSION:
        raise Refused("version", f"{version}")
    if length > MOST_BODY:
        raise Refused("length", f"{length}")
    trailer_size = 64 if kind == COMMIT else 32
    end = at + 32 + length + trailer_size
    if end > len(data):
        raise Refused("short", f"the frame ends at {end}, the file at {len(data)}")
    body, trailer = data[at + 32 : at + 32 + length], data[at + 32 + length : end]
    if kind == SEAL:
        if length != 80:
            raise Refused("length", f"{length}")
        if not seq == durable_seq == seq_before:
            raise Refused("seq", f"{seq}, durable {durable_seq}, after {seq_before}")
        if trailer != sha256(b"\x18", u64(first_seq), body):
            raise Refused("digest", trailer.hex())
        if body[16:48] != link_before:
            raise Refused("link", body[16:48].hex())
        if seq - first_seq + 1 != int.from_bytes(body[:8], "little"):
            raise Refused("count", body[:8].hex())
        return Seal(seq, durable_seq, *struct.unpack("<QQ32s32s", body)), end
    if seq != seq_before + 1:
        raise Refused("seq", f"{seq} after {seq_before}")
    if durable_seq >= seq:
        raise Refused("durable_seq", f"{durable_seq} at {seq}")
    operations = []
    position = 0
    while position < length:
        operation, position = decode_operation(body, position)
        operations.append(operation)
    commit = make_commit(operations, seq, trailer[:32], link_before)
    if commit.link != trailer[32:]:
        raise Refused("link", f"{trailer[32:].hex()} stored, {commit.link.hex()} computed")
    return commit, end


SEGMENT_MAGIC = b"DETMEMSG"
SEGMENT_HEADER = struct.Struct("<8sHHI16sQQ32s32s12s")
assert SEGMENT_HEADER.size == 124


class Segment(NamedTuple):
    store_id: bytes
    first_seq: int
    log_size: int
    link: bytes
    log_root: bytes


def segment_header(s: Segment) -> bytes:
    header = SEGMENT_HEADER.pack(SEGMENT_MAGIC, VERSION, 0, 128, *s, bytes(12))
    return header + u32(zlib.crc32(header))


def read_segment_header(data: bytes) -> Segment:
    if len(data) < 128:
        raise Refused("short", f"{len(data)} bytes")
    magic, version, flags, size, *fields, zeros = SEGMENT_HEADER.unpack(data[:124])
    if magic != SEGMENT_MAGIC:
        raise Refused("magic", magic.hex())
    if int.from_bytes(data[124:128], "little") != zlib.crc32(data[:124]):
        raise Refused("crc", data[124:128].hex())
    if version != VERSION:
        raise Refused("version", f"{version}")
    if flags != 0:
        raise Refused("flags", f"{flags}")
    if size != 128:
        raise Refused("size", f"{size}")
    if zeros != bytes(12):
        raise Refused("zeros", zeros.hex())
    return Segment(*fields)


HEAD_MAGIC = b"DETMEMHD"
HEAD_SLOT = struct.Struct("<8sHHIQ16sQQQ32sQ32s")
assert HEAD_SLOT.size == 136


class Head(NamedTuple):
    clean: bool
    generation: int
    store_id: bytes
    durable_seq: int
    segment: int
    durable_offset: int
    link: bytes
    snapshot_seq: int
    snapshot_digest: bytes


def head_slot(h: Head) -> bytes:
    slot = HEAD_SLOT.pack(HEAD_MAGIC, VERSION, 1 if h.clean else 0, 0, *h[1:])
    return slot + u32(zlib.crc32(slot))


def read_head_slot(data: bytes) -> Head:
    if len(data) < 140:
        raise Refused("short", f"{len(data)} bytes")
    magic, version, flags, zero, *fields = HEAD_SLOT.unpack(data[:136])
    if magic != HEAD_MAGIC:
        raise Refused("magic", magic.hex())
    if int.from_bytes(data[136:140], "little") != zlib.crc32(data[:136]):
        raise Refused("crc", data[136:140].hex())
    if version != VERSION:
        raise Refused("version", f"{version}")
    if flags not in (0, 1):
        raise Refused("flags", f"{flags}")
    if zero != 0:
        raise Refused("zeros", f"{zero}")
    if fields[0] >= 1 << 63:
        raise Refused("generation", f"{fields[0]}")
    return Head(flags == 1, *fields)


# ------------------------------------------------------------------------------------------- the memory itself (log.md)


class Record(NamedTuple):
    vector: list[int]
    metadata: dict[str, Any]
    document: str | None
    vector_commitment: bytes
    content_commitment: bytes
    born: int
    salts: tuple[bytes, bytes] = (b"", b"")  # the vector's and the content's
    erased: bool = False


class Collection(NamedTuple):
    dim: int
    metric: str
    format: str
    erasable: bool
    records: dict[str, Record]


Link = tuple[str, str, str, str, str]  # collection, source, relation, target's collection, target


class Request(NamedTuple):
    seq: int
    digest: bytes
    state_root: bytes


class State(dict[str, Collection]):
    """The collections by name, and what else a memory holds or must remember."""

    def __init__(self, collections: dict[str, Collection] | None = None) -> None:
        super().__init__(collections or {})
        self.links: dict[Link, int] = {}  # and when each was made
        self.requests: dict[str, Request] = {}  # the oldest first
        self.erased: dict[tuple[str, str], int] = {}  # when last
        self.missing: set[tuple[str, str]] = set()  # payloads that are gone, and no erasure says why yet


def copy_of(state: State) -> State:
    copy = State({name: c._replace(records=dict(c.records)) for name, c in state.items()})
    copy.links, copy.requests = dict(state.links), dict(state.requests)
    copy.erased, copy.missing = dict(state.erased), set(state.missing)
    return copy


def read_link(o: Operation) -> Link:
    value = decode(o.content or b"")
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(part, str) for part in value):
        raise Refused("link", "not [relation, collection, id]")
    relation, collection, target = value
    if not 1 <= len(utf8(relation)) <= MOST_NAME or not 1 <= len(utf8(collection)) <= MOST_NAME:
        raise Refused("link", "the size of a name")
    if not 1 <= len(utf8(target)) <= MOST_ID:
        raise Refused("link", "the size of an id")
    return o.collection, o.id, relation, collection, target


def read_count(o: Operation) -> int:
    count = decode(o.content or b"")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise Refused("request", "not a count")
    return count


def read_recorded(o: Operation) -> tuple[bytes, str | None]:
    value = decode(o.content or b"")
    if not isinstance(value, list) or len(value) != 2:
        raise Refused("record", "not [hash, note]")
    digest, note = value
    if not isinstance(digest, bytes) or len(digest) != 32 or not (note is None or isinstance(note, str)):
        raise Refused("record", "not [hash, note]")
    if note is not None and len(utf8(note)) > MOST_NOTE:
        raise Refused("record", f"a note of {len(utf8(note))} bytes")
    return digest, note


def isolate(state: State, name: str, record_id: str | None = None) -> None:
    """Take away the links of a record, or of all records of a collection."""
    for edge in list(state.links):
        ends = (edge[0], edge[1]), (edge[3], edge[4])
        if any(end[0] == name and record_id in (None, end[1]) for end in ends):
            del state.links[edge]


def step(state: State, o: Operation, seq: int) -> None:
    """One legal operation changes the state (in place); an illegal one is refused."""
    check_operation(o)
    if o.type == CREATE:
        if o.collection in state:
            raise Refused("exists", f"collection {o.collection!r}")
        assert o.content is not None
        state[o.collection] = Collection(*read_definition(o.content), {})
        return
    if o.type == RECORD:
        read_recorded(o)
        return
    if o.type == ERASE:
        if o.collection in state and o.id in state[o.collection].records:
            del state[o.collection].records[o.id]
            isolate(state, o.collection, o.id)
        state.erased[o.collection, o.id] = seq
        state.missing.discard((o.collection, o.id))
        return
    if o.collection not in state:
        raise Refused("absent", f"collection {o.collection!r}")
    collection = state[o.collection]
    if o.type == DROP:
        del state[o.collection]
        isolate(state, o.collection)
        return
    if o.type == REQUEST:
        read_count(o)
        if o.id in state.requests:
            raise Refused("request", f"{o.id!r} was used")
        return
    standing = collection.records.get(o.id)
    if o.type == ADD and standing is not None:
        raise Refused("exists", f"{o.id!r} in {o.collection!r}")
    if o.type in (UPDATE, DELETE, LINK, UNLINK) and standing is None:
        raise Refused("absent", f"{o.id!r} in {o.collection!r}")
    if o.type == DELETE:
        del collection.records[o.id]
        isolate(state, o.collection, o.id)
        return
    if o.type in (LINK, UNLINK):
        edge = read_link(o)
        if (edge in state.links) != (o.type == UNLINK):
            raise Refused("link", "is there already, or is not there")
        if o.type == UNLINK:
            del state.links[edge]
            return
        if edge[3] not in state or edge[4] not in state[edge[3]].records:
            raise Refused("absent", f"{edge[4]!r} in {edge[3]!r}")
        state.links[edge] = seq
        return
    if bool(flags_of(o) & SALTED) != collection.erasable:
        raise Refused("salt", "exactly where the collection is erasable")
    vector_size, _ = sizes_of(o)
    if flags_of(o) & HAS_VECTOR:
        if vector_size != 4 * collection.dim:
            raise Refused("dimension", f"{vector_size // 4}, the collection has {collection.dim}")
    elif standing is None or o.vector_commitment != standing.vector_commitment:
        raise Refused("standing_commitment", "the vector's")
    if not flags_of(o) & HAS_CONTENT and (standing is None or o.content_commitment != standing.content_commitment):
        raise Refused("standing_commitment", "the content's")
    if o.gone is not None:
        if not o.archived:
            state.missing.add((o.collection, o.id))
        nothing = Record([0] * collection.dim, {}, None, o.vector_commitment, o.content_commitment, seq, erased=True)
        collection.records[o.id] = nothing
        return
    parts = standing or Record([], {}, None, ZERO, ZERO, 0)
    vector, (metadata, document), salts = parts.vector, (parts.metadata, parts.document), parts.salts
    if o.vector is not None:
        vector, salts = admit(read_vector(o.vector)), (o.salt, salts[1])
    if o.content is not None:
        (metadata, document), salts = read_content(o.content), (salts[0], o.salt)
    erased = flags_of(o) & 3 != 3 and parts.erased
    commitments = o.vector_commitment, o.content_commitment
    collection.records[o.id] = Record(vector, metadata, document, *commitments, seq, salts, erased)


def steps(state: State, operations: list[Operation], seq: int) -> dict[str, bytes]:
    """All operations of a commit, in order; what its request ids stand for."""
    requests: dict[str, bytes] = {}
    at = 0
    while at < len(operations):
        o = operations[at]
        step(state, o, seq)
        at += 1
        if o.type != REQUEST:
            continue
        behind = operations[at : at + read_count(o)]
        if len(behind) < read_count(o) or any(x.type not in (ADD, UPSERT) for x in behind):
            raise Refused("request", "fewer writes than it says")
        if any(x.collection != o.collection for x in behind) or o.id in requests:
            raise Refused("request", "another collection, or the same id twice")
        requests[o.id] = request_digest([log_leaf(operation_header(x)) for x in behind])
    return requests


def take_requests(state: State, requests: dict[str, bytes], seq: int, root: bytes) -> None:
    """Remember what request ids stand for, and forget the oldest beyond 65,536."""
    for request_id, digest in requests.items():
        state.requests[request_id] = Request(seq, digest, root)
    for request_id in list(state.requests)[: max(0, len(state.requests) - MOST_REQUESTS)]:
        del state.requests[request_id]


def record_entry(name: str, record_id: str, r: Record) -> tuple[bytes, bytes]:
    """A record's entry in the state tree, computed anew from its values, where they are known."""
    vector_c, content_c = r.vector_commitment, r.content_commitment
    if not r.erased:
        vector_c = commitment(vector_bytes(r.vector), r.salts[0])
        content_c = commitment(content(r.metadata, r.document), r.salts[1])
    return state_key(name, record_id), record_leaf(name, record_id, vector_c, content_c)


def entries_of(state: State) -> dict[bytes, bytes]:
    """Every entry of the state tree."""
    entries = {link_key(edge): link_leaf(edge) for edge in state.links}
    for name, c in state.items():
        entries[state_key(name)] = collection_leaf(name, commitment(definition(*c[:4])))
        entries.update(record_entry(name, record_id, r) for record_id, r in c.records.items())
    return entries


def resolve(state: State, command: tuple[Any, ...]) -> list[Operation]:
    """The operations that a command (its shapes stand at ``Draw``) comes to in a state, before any is applied."""
    kind, name, *rest = command
    if kind == "create":
        return [plain(CREATE, name, "", definition(*rest))]
    if kind == "record":
        return [plain(RECORD, "", "", encode([name, *rest]))]
    if kind == "request":
        request_id, call = name, rest[0]
        operations = resolve(state, call)
        digest = request_digest([log_leaf(operation_header(o)) for o in operations])
        if request_id in state.requests:
            if state.requests[request_id].digest != digest:
                raise Refused("request", f"{request_id!r} was another command")
            return []
        return [plain(REQUEST, call[1], request_id, encode(len(operations))), *operations]
    if kind == "erase":
        return [plain(ERASE, name, record_id) for record_id in rest[0]]
    if name not in state:
        raise Refused("absent", f"collection {name!r}")
    if kind == "drop":
        return [plain(DROP, name, "")]
    if kind in ("link", "unlink"):
        source, *other = rest
        if ((name, source, *other) in state.links) == (kind == "link"):
            return []
        return [plain(LINK if kind == "link" else UNLINK, name, source, encode(other))]
    records = state[name].records
    if kind == "delete":
        return [plain(DELETE, name, i) for i in rest[0] if i in records]
    if kind == "delete_where":
        return [plain(DELETE, name, i) for i in select(records, rest[0])]
    operations = []
    seen = set()
    for record_id, raw, metadata, document in rest[0]:
        if record_id in seen:
            raise Refused("twice", f"{record_id!r} in one call")
        seen.add(record_id)
        if kind == "update" and record_id not in records:
            raise Refused("absent", f"{record_id!r} in {name!r}")
        if kind == "update" and raw is None and metadata is None and document is None:
            continue  # a record of which nothing is named stays as it is
        if kind in ("add", "upsert"):
            vector, body = vector_bytes(admit(raw)), content(metadata, document)
            kind_number = ADD if kind == "add" else UPSERT
            salt = salt_of(KEY, name, record_id, vector + body) if state[name].erasable else b""
            parts = (vector, body, commitment(vector, salt), commitment(body, salt), salt)
            operations.append(Operation(kind_number, name, record_id, *parts))
            continue
        assert kind == "update"
        standing = records[record_id]
        new_vector, new_content = None, None
        vector_c, content_c = standing.vector_commitment, standing.content_commitment
        if raw is not None:
            new_vector = vector_bytes(admit(raw))
        if metadata is not None or document is not None:
            merged = {
                key: value
                for key, value in {**standing.metadata, **(metadata or {})}.items()
                if value is not None or key not in (metadata or {})
            }
            new_content = content(merged, standing.document if document is None else document)
        payload = (new_vector or b"") + (new_content or b"")
        salt = salt_of(KEY, name, record_id, payload) if state[name].erasable else b""
        if new_vector is not None:
            vector_c = commitment(new_vector, salt)
        if new_content is not None:
            content_c = commitment(new_content, salt)
        operations.append(Operation(UPDATE, name, record_id, new_vector, new_content, vector_c, content_c, salt))
    return operations


KEY = bytes(range(32))  # the store's key, which salts are made with


class Memory:
    """state = fold(apply, log): the state, the two trees and the chain, moved one commit at a time."""

    def __init__(self) -> None:
        self.state = State()
        self.tree = StateTree()
        self.seq = 0
        self.link = FIRST_LINK
        self.log_size = 0
        self.frontier: list[bytes] = []

    def state_root(self) -> bytes:
        return self.tree.root()

    def log_root(self) -> bytes:
        return fold_frontier(self.frontier)

    def checkpoint(self) -> str:
        return checkpoint_text(self.seq, self.log_size, self.log_root(), self.state_root())

    def write(self, command: tuple[Any, ...]) -> Commit | None:
        """One call of the API, or ("batch", [calls]): one commit, or None when nothing changes."""
        staged = copy_of(self.state)
        operations = []
        for call in command[1] if command[0] == "batch" else [command]:
            some = resolve(staged, call)
            for request_id, digest in steps(staged, some, self.seq + 1).items():
                staged.requests[request_id] = Request(self.seq + 1, digest, ZERO)  # for the calls behind it
            operations += some
        return self.apply(operations) if operations else None

    def apply(self, operations: list[Operation]) -> Commit:
        """Resolved operations as one commit."""
        staged = copy_of(self.state)
        requests = steps(staged, operations, self.seq + 1)
        return self._publish(operations, staged, requests)

    def replay(self, commit: Commit) -> None:
        """One commit read from a log: the same operations must come to the same root and the same link."""
        staged = copy_of(self.state)
        requests = steps(staged, list(commit.operations), self.seq + 1)
        if state_root(entries_of(staged)) != commit.state_root:
            raise Refused("state_root", f"seq {commit.seq}")
        if self._publish(list(commit.operations), staged, requests) != commit:
            raise Refused("link", f"seq {commit.seq}")

    def _publish(self, operations: list[Operation], staged: State, requests: dict[str, bytes]) -> Commit:
        touched: set[tuple[str, str]] = set()
        for o in operations:
            touched.add((o.collection, o.id))
            if o.type == DROP:  # its records go with it: those of the state before, and any that this commit wrote
                before = self.state[o.collection].records if o.collection in self.state else {}
                touched |= {(o.collection, record_id) for record_id in before}
        changes: dict[bytes, bytes | None] = {}
        for name, record_id in sorted(touched):
            key = state_key(name, record_id)
            changes[key] = None
            if name in staged and record_id == "":
                changes[key] = collection_leaf(name, commitment(definition(*staged[name][:4])))
            elif name in staged and record_id in staged[name].records:
                r = staged[name].records[record_id]
                changes[key] = record_leaf(name, record_id, r.vector_commitment, r.content_commitment)
        for edge in sorted(self.state.links.keys() ^ staged.links.keys()):
            changes[link_key(edge)] = link_leaf(edge) if edge in staged.links else None
        for key, leaf in changes.items():
            there = key in self.tree.buckets.get(int.from_bytes(key[:2], "big"), {})
            if leaf is not None or there:
                self.tree.change(key, leaf)
        commit = make_commit(operations, self.seq + 1, self.tree.root(), self.link)
        for leaf in commit.leaves:
            self.frontier = extend_frontier(self.frontier, self.log_size, leaf)
            self.log_size += 1
        take_requests(staged, requests, commit.seq, commit.state_root)
        self.state, self.seq, self.link = staged, commit.seq, commit.link
        return commit

    def search(
        self, name: str, query: list[int], k: int, where: dict[str, Any] | None = None, ids: list[str] | None = None
    ) -> list[tuple[str, int]]:
        """The first k of the records that pass, by (raw distance, id); the query is raw, as after ``enter``."""
        if name not in self.state:
            raise Refused("absent", f"collection {name!r}")
        collection = self.state[name]
        if len(query) != collection.dim:
            raise Refused("dimension", f"{len(query)}, the collection has {collection.dim}")
        passing = select(collection.records, where)
        rows = {i: collection.records[i].vector for i in passing if ids is None or i in ids}
        return nearest(collection.metric, rows, admit(query), k)


# ---------------------------------------------------------------------------------------------------------- snapshot.md

SNAPSHOT_MAGIC = b"DETMEMSN"
SNAPSHOT_HEADER = struct.Struct("<8sHHIQQ32s32s32sII")
CHUNK = 1048576


def snapshot_stream(state: State) -> bytes:
    parts = []
    for name in sorted(state, key=utf8):
        c = state[name]
        ids = sorted(c.records, key=utf8)
        body = definition(*c[:4])
        parts += [lp(name), u32(len(body)), body, u64(len(ids))]
        parts += [lp(i) for i in ids]
        parts += [u64(c.records[i].born) for i in ids]
        parts += [vector_bytes(c.records[i].vector) for i in ids]
        for i in ids:
            body = content(c.records[i].metadata, c.records[i].document)
            parts += [u32(len(body)), body]
        parts += [salt for i in ids for salt in c.records[i].salts]
    parts.append(u64(len(state.links)))
    for edge in sorted(state.links, key=lambda edge: tuple(map(utf8, edge))):
        parts += [*map(lp, edge), u64(state.links[edge])]
    parts.append(u64(len(state.requests)))
    for request_id, r in state.requests.items():
        parts += [lp(request_id), u64(r.seq), r.digest, r.state_root]
    parts.append(u64(len(state.erased)))
    for name, record_id in sorted(state.erased, key=lambda node: tuple(map(utf8, node))):
        parts += [lp(name), lp(record_id), u64(state.erased[name, record_id])]
    return b"".join(parts)


def write_snapshot(m: Memory) -> bytes:
    counts = len(m.frontier), len(m.state)
    fixed = (CHUNK, m.seq, m.log_size, m.link, m.state_root(), m.log_root(), *counts)
    header = SNAPSHOT_HEADER.pack(SNAPSHOT_MAGIC, VERSION, 0, *fixed) + b"".join(m.frontier)
    return assemble_snapshot(header, snapshot_stream(m.state))


def assemble_snapshot(header: bytes, stream: bytes) -> bytes:
    """Header (without its hash), chunks and footer around a stream."""
    parts = [header, sha256(header)]
    hashes = []
    for i, at in enumerate(range(0, len(stream), CHUNK)):
        chunk = stream[at : at + CHUNK]
        hashes.append(sha256(b"\x19", u64(i), chunk))
        parts += [u32(len(chunk)), hashes[-1], chunk]
    digest = sha256(b"\x1a", sha256(header), *hashes)
    return b"".join([*parts, u32(0), u64(len(hashes)), u64(len(stream)), digest])


def snapshot_digest(data: bytes) -> bytes:
    return data[-32:]


def read_snapshot(data: bytes) -> Memory:
    """The memory that wrote these bytes, and nothing else."""

    def taker(source: bytes) -> Any:
        at = 0

        def take(size: int) -> bytes:
            nonlocal at
            if size > len(source) - at:
                raise Refused("short", f"{size} bytes wanted at {at}, {len(source) - at} there")
            at += size
            return source[at - size : at]

        return take

    def number(some: bytes) -> int:
        return int.from_bytes(some, "little")

    take = taker(data)
    fixed = take(SNAPSHOT_HEADER.size)
    magic, version, flags, chunk_size, seq, log_size, last_link, root, root_of_log, frontier_count, collection_count = (
        SNAPSHOT_HEADER.unpack(fixed)
    )
    if magic != SNAPSHOT_MAGIC:
        raise Refused("magic", magic.hex())
    if version != VERSION:
        raise Refused("version", f"{version}")
    if flags != 0:
        raise Refused("flags", f"{flags}")
    if chunk_size != CHUNK:
        raise Refused("chunk_size", f"{chunk_size}")
    if seq >= 2**63 - 1:
        raise Refused("seq", f"{seq}")
    if frontier_count != log_size.bit_count():
        raise Refused("frontier", f"{frontier_count} roots for {log_size} leaves")
    header = fixed + take(32 * frontier_count)
    if take(32) != sha256(header):
        raise Refused("header_hash", "")
    m = Memory()
    m.seq, m.log_size, m.link = seq, log_size, last_link
    m.frontier = [header[i : i + 32] for i in range(len(fixed), len(header), 32)]
    if m.log_root() != root_of_log:
        raise Refused("frontier", "does not fold to log_root")
    chunks: list[bytes] = []
    hashes = []
    while size := number(take(4)):
        if size > CHUNK or (chunks and len(chunks[-1]) != CHUNK):
            raise Refused("chunk", f"size {size} of chunk {len(chunks)}")
        stored = take(32)
        chunk = take(size)
        if stored != sha256(b"\x19", u64(len(chunks)), chunk):
            raise Refused("chunk_hash", f"chunk {len(chunks)}")
        chunks.append(chunk)
        hashes.append(stored)
    stream = b"".join(chunks)
    if number(take(8)) != len(chunks) or number(take(8)) != len(stream):
        raise Refused("footer", "counts")
    if take(32) != sha256(b"\x1a", sha256(header), *hashes):
        raise Refused("digest", "")
    if take(0) != b"" or write_length(header, stream) != len(data):
        raise Refused("tail", "bytes behind the footer")

    take = taker(stream)

    def text(most: int, what: str) -> str:
        size = number(take(2))
        if not 1 <= size <= most:
            raise Refused(what, f"{size} bytes")
        try:
            return str(take(size), "utf-8")
        except UnicodeDecodeError as error:
            raise Refused(what, "not UTF-8") from error

    for _ in range(collection_count):
        name = text(MOST_NAME, "collection")
        if m.state and utf8(name) <= max(map(utf8, m.state)):
            raise Refused("order", f"collection {name!r}")
        dim, metric, number_format, erasable = read_definition(take(number(take(4))))
        count = number(take(8))
        ids = []
        for _ in range(count):
            ids.append(text(MOST_ID, "id"))
            if len(ids) > 1 and utf8(ids[-1]) <= utf8(ids[-2]):
                raise Refused("order", f"id {ids[-1]!r}")
        born = [number(take(8)) for _ in ids]
        if not all(1 <= b <= seq for b in born):
            raise Refused("born", f"{born}")
        vectors = [admit(read_vector(take(4 * dim))) for _ in ids]
        bodies = [take(number(take(4))) for _ in ids]
        salts = [(take(32), take(32)) if erasable else (b"", b"") for _ in ids]
        records = {}
        for i, b, vector, body, (one, two) in zip(ids, born, vectors, bodies, salts, strict=True):
            commitments = commitment(vector_bytes(vector), one), commitment(body, two)
            records[i] = Record(vector, *read_content(body), *commitments, b, (one, two))
        m.state[name] = Collection(dim, metric, number_format, erasable, records)
    links: list[Link] = []
    for _ in range(number(take(8))):
        links.append(tuple(text(most, "link") for most in (MOST_NAME, MOST_ID, MOST_NAME, MOST_NAME, MOST_ID)))
        for name, record_id in (links[-1][:2], links[-1][3:]):
            if name not in m.state or record_id not in m.state[name].records:
                raise Refused("link", f"no {record_id!r} in {name!r}")
        m.state.links[links[-1]] = number(take(8))
    for _ in range(number(take(8))):
        request_id = text(MOST_ID, "request")
        if request_id in m.state.requests:
            raise Refused("request", f"{request_id!r} twice")
        m.state.requests[request_id] = Request(number(take(8)), take(32), take(32))
    for _ in range(number(take(8))):
        name, record_id = text(MOST_NAME, "erased"), text(MOST_ID, "erased")
        m.state.erased[name, record_id] = number(take(8))
    seqs = [r.seq for r in m.state.requests.values()]
    if seqs != sorted(seqs) or len(seqs) > MOST_REQUESTS:
        raise Refused("request", "out of order, or too many")
    if not all(1 <= s <= seq for s in [*m.state.links.values(), *seqs, *m.state.erased.values()]):
        raise Refused("born", "a link, a request or an erasure")
    if snapshot_stream(m.state) != stream:
        raise Refused("stream", "out of order, twice, or bytes behind the last erasure")
    for key, leaf in entries_of(m.state).items():
        m.tree.change(key, leaf)
    if m.state_root() != root:
        raise Refused("state_root", m.state_root().hex())
    return m


def write_length(header: bytes, stream: bytes) -> int:
    """How long the file around a stream is."""
    return len(header) + 32 + 36 * -(-len(stream) // CHUNK) + len(stream) + 4 + 8 + 8 + 32


# ---------------------------------------------------------------------------------------------------------- receipts.md

BIGGEST = 16 * 1024 * 1024


def split(size: int) -> int:
    """RFC 9162: the largest power of two smaller than the size."""
    return 1 << (size - 1).bit_length() - 1


def inclusion_path(leaves: list[bytes], index: int) -> list[bytes]:
    """PATH(m, D[n]) of RFC 9162, 2.1.3.1, as it stands there."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*inclusion_path(leaves[:k], index), log_root(leaves[k:])]
    return [*inclusion_path(leaves[k:], index - k), log_root(leaves[:k])]


def consistency_path(leaves: list[bytes], old: int) -> list[bytes]:
    """PROOF(m, D[n]) of RFC 9162, 2.1.4.1."""

    def subproof(m: int, d: list[bytes], whole: bool) -> list[bytes]:
        if m == len(d):
            return [] if whole else [log_root(d)]
        k = split(len(d))
        if m <= k:
            return [*subproof(m, d[:k], whole), log_root(d[k:])]
        return [*subproof(m - k, d[k:], False), log_root(d[:k])]

    return subproof(old, leaves, True) if old else []


def root_from(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root that an inclusion path leads to: the recursion of PATH, read the other way."""
    if not 0 <= index < size:
        raise Refused("index", f"leaf {index} of {size}")
    if size == 1:
        if path:
            raise Refused("path", "too long")
        return leaf
    if not path:
        raise Refused("path", "too short")
    k = split(size)
    if index < k:
        return log_node(root_from(leaf, index, k, path[:-1]), path[-1])
    return log_node(path[-1], root_from(leaf, index - k, size - k, path[:-1]))


def check_consistency(old: int, old_root: bytes, new: int, new_root: bytes, path: list[bytes]) -> None:
    """The recursion of PROOF, read the other way."""

    def roots(m: int, n: int, rest: list[bytes], whole: bool) -> tuple[bytes, bytes]:
        if m == n:
            if whole and not rest:
                return old_root, old_root
            if not whole and len(rest) == 1:
                return rest[0], rest[0]
            raise Refused("path", "of another length")
        if not rest:
            raise Refused("path", "too short")
        k = split(n)
        if m <= k:
            before, after = roots(m, k, rest[:-1], whole)
            return before, log_node(after, rest[-1])
        before, after = roots(m - k, n - k, rest[:-1], False)
        return log_node(rest[-1], before), log_node(rest[-1], after)

    if old > new:
        raise Refused("size", f"{old} is more than {new}")
    if old == new == 0 and old_root != new_root:
        raise Refused("root", "two empty logs with other roots")
    if old == 0:
        if path or old_root != log_root([]):
            raise Refused("path", "nothing comes before everything, without a path")
        return
    if roots(old, new, path, True) != (old_root, new_root):
        raise Refused("root", "the path leads elsewhere")


def hashes(data: bytes) -> list[bytes]:
    if len(data) % 32:
        raise Refused("hashes", f"{len(data)} bytes")
    return [data[i : i + 32] for i in range(0, len(data), 32)]


class Told:
    """A memory whose commits are kept, so that proofs can be made of it."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.leaves: list[bytes] = []
        self.ends = [0]  # log sizes after each seq
        self.trees: list[dict[bytes, bytes]] = [{}]  # the entries at each seq
        self.states: list[State] = [State()]
        self.checkpoints = [self.memory.checkpoint()]

    def write(self, command: tuple[Any, ...]) -> None:
        commit = self.memory.write(command)
        assert commit is not None
        self.leaves += commit.leaves
        self.ends.append(len(self.leaves))
        buckets = self.memory.tree.buckets.values()
        self.trees.append({key: leaf for bucket in buckets for key, leaf in bucket.items()})
        self.states.append(self.memory.state)
        self.checkpoints.append(self.memory.checkpoint())

    def anchor(self, seq: int, at: int) -> list[Any] | None:
        """What binds the state root of ``seq`` to the checkpoint of seq ``at``."""
        if seq == 0:
            return None
        index = self.ends[seq] - 1
        path = inclusion_path(self.leaves[: self.ends[at]], index)
        return [self.ends[seq] - self.ends[seq - 1] - 1, index, b"".join(path)]


def state_rows(entries: dict[bytes, bytes]) -> list[dict[int, bytes]]:
    """The nodes of a state tree by level, buckets first; what is not there is zero."""
    buckets: dict[int, list[tuple[bytes, bytes]]] = {}
    for key, leaf in entries.items():
        buckets.setdefault(int.from_bytes(key[:2], "big"), []).append((key, leaf))
    rows = [{number: bucket_hash(bucket) for number, bucket in buckets.items()}]
    for _ in range(16):
        row = rows[-1]
        parents = {number // 2 for number in row}
        rows.append({p: state_node(row.get(2 * p, ZERO), row.get(2 * p + 1, ZERO)) for p in parents})
    return rows


def state_part(entries: dict[bytes, bytes], keys: list[bytes], anchor: list[Any] | None) -> dict[str, Any]:
    rows = state_rows(entries)
    known = sorted({int.from_bytes(key[:2], "big") for key in keys})
    buckets = [
        b"".join(key + entries[key] for key in sorted(entries) if int.from_bytes(key[:2], "big") == number)
        for number in known
    ]
    nodes = []
    for row in rows[:16]:
        nodes += [row.get(number ^ 1, ZERO) for number in known if number ^ 1 not in known]
        known = sorted({number // 2 for number in known})
    return {"anchor": anchor, "buckets": buckets, "nodes": b"".join(nodes)}


def check_part(part: Any, wanted: dict[bytes, bytes | None], seq: int, checkpoint: str) -> None:
    """A state part shows these leaves (None: nothing) at ``seq``, under a checkpoint that is trusted."""
    fields(part, {"anchor": (list, None), "buckets": (list,), "nodes": (bytes,)})
    numbers = sorted({int.from_bytes(key[:2], "big") for key in wanted})
    if len(part["buckets"]) != len(numbers):
        raise Refused("buckets", f"{len(part['buckets'])}, expected {len(numbers)}")
    level, entries = {}, {}
    for number, bucket in zip(numbers, part["buckets"], strict=False):
        pairs = hashes(bucket)
        if len(pairs) % 2 or pairs[::2] != sorted(set(pairs[::2])):
            raise Refused("bucket", "not pairs in ascending order")
        if any(int.from_bytes(key[:2], "big") != number for key in pairs[::2]):
            raise Refused("bucket", "a key of another bucket")
        entries |= dict(zip(pairs[::2], pairs[1::2], strict=False))
        level[number] = bucket_hash(list(zip(pairs[::2], pairs[1::2], strict=False)))
    nodes = hashes(part["nodes"])
    for _ in range(16):
        for number in sorted(level):
            if number ^ 1 not in level:
                if not nodes:
                    raise Refused("nodes", "too few")
                level[number ^ 1] = nodes.pop(0)
        level = {n // 2: state_node(level[n], level[n + 1]) for n in level if n % 2 == 0}
    if nodes:
        raise Refused("nodes", "too many")
    for key, leaf in wanted.items():
        if entries.get(key) != leaf:
            raise Refused("leaf", key.hex())
    check_anchor(part["anchor"], seq, level[0], checkpoint)


def check_anchor(anchor: Any, seq: int, root: bytes, checkpoint: str) -> None:
    last, size, root_of_log, root_of_state = read_checkpoint(checkpoint)
    if not 0 <= seq <= last:
        raise Refused("seq", f"{seq} of {last}")
    if seq == 0:
        if anchor is not None or root != ZERO:
            raise Refused("anchor", "before the first commit there is nothing")
        return
    if anchor is None:
        raise Refused("anchor", "absent")
    array(anchor, (int, int, bytes))
    count, index, path = anchor
    if not 1 <= count < 2**32:
        raise Refused("count", str(count))
    if root_from(commit_leaf(seq, count, root), index, size, hashes(path)) != root_of_log:
        raise Refused("anchor", "the path leads elsewhere")
    if seq == last and (index != size - 1 or root != root_of_state):
        raise Refused("anchor", "not what the checkpoint says")


def fields(value: Any, types: dict[str, tuple[Any, ...]]) -> None:
    if not isinstance(value, dict) or sorted(value) != sorted(types):
        raise Refused("fields", "not exactly the keys of the page")
    for name, wanted in types.items():
        if type(value[name]) not in [type(None) if one is None else one for one in wanted]:
            raise Refused("type", name)


def array(value: Any, types: tuple[Any, ...]) -> None:
    if not isinstance(value, list) or len(value) != len(types):
        raise Refused("array", "of another length")
    if any(type(one) is not wanted for one, wanted in zip(value, types, strict=False)):
        raise Refused("type", "in an array")


def read_proof_file(data: bytes, kind: str, most: int = BIGGEST) -> Any:
    if len(data) > most:
        raise Refused("size", str(len(data)))
    value = decode(data)
    if not isinstance(value, list) or len(value) != 2 or value[0] != kind:
        raise Refused("kind", f"not {kind}")
    return value[1]


def write_state_proof(told: Told, seq: int, at: int, names: list[tuple[str, str]]) -> bytes:
    entries, claims = told.trees[seq], []
    for name, record_id in sorted(names, key=lambda pair: (utf8(pair[0]), utf8(pair[1]))):
        opening = None
        if state_key(name, record_id) in entries:
            c = told.states[seq][name]
            opening = commitment(definition(*c[:4]))
            if record_id:
                r = c.records[record_id]
                opening = r.vector_commitment + r.content_commitment
        claims.append([name, record_id, opening])
    part = state_part(entries, [state_key(*pair) for pair in names], told.anchor(seq, at))
    body = {"checkpoint": told.checkpoints[at], "claims": claims, "proof": part, "seq": seq}
    return encode(["detmem/state-proof/v1", body])


def check_state_proof(data: bytes, trusted: str) -> list[tuple[str, str, bool]]:
    """What it shows under a trusted checkpoint: (collection, id, whether it is there)."""
    value = read_proof_file(data, "detmem/state-proof/v1")
    fields(value, {"checkpoint": (str,), "claims": (list,), "proof": (dict,), "seq": (int,)})
    read_checkpoint(value["checkpoint"])
    names, wanted = [], {}
    for claim in value["claims"]:
        array(claim, (str, str, type(claim[2]) if len(claim) == 3 else bytes))
        name, record_id, opening = claim
        names.append((utf8(name), utf8(record_id)))
        if not 1 <= len(names[-1][0]) <= 128 or len(names[-1][1]) > 512:
            raise Refused("name", "too long or too short")
        if opening is None:
            leaf = None
        elif not isinstance(opening, bytes) or len(opening) != (64 if record_id else 32):
            raise Refused("opening", "of another size")
        else:
            leaf = (
                record_leaf(name, record_id, opening[:32], opening[32:])
                if record_id
                else collection_leaf(name, opening)
            )
        wanted[state_key(name, record_id)] = leaf
    if not names or names != sorted(set(names)):
        raise Refused("claims", "none, or not in order")
    if value["checkpoint"] != trusted:
        raise Refused("trust", "another checkpoint")
    check_part(value["proof"], wanted, value["seq"], trusted)
    return [(name, record_id, opening is not None) for name, record_id, opening in value["claims"]]


def write_consistency(told: Told, old: int, new: int) -> bytes:
    closings = [None if seq == 0 else [told.anchor(seq, seq)[0], told.anchor(seq, seq)[2]] for seq in (old, new)]
    path = consistency_path(told.leaves[: told.ends[new]], told.ends[old])
    body = {
        "new": told.checkpoints[new],
        "new_closing": closings[1],
        "old": told.checkpoints[old],
        "old_closing": closings[0],
        "path": b"".join(path),
    }
    return encode(["detmem/consistency/v1", body])


def check_consistency_file(data: bytes, old: str, new: str) -> None:
    value = read_proof_file(data, "detmem/consistency/v1")
    closing = (list, None)
    fields(value, {"new": (str,), "new_closing": closing, "old": (str,), "old_closing": closing, "path": (bytes,)})
    for text in (value["old"], value["new"]):
        read_checkpoint(text)
    if (value["old"], value["new"]) != (old, new):
        raise Refused("trust", "other checkpoints")
    (old_seq, old_size, old_root, _), (new_seq, new_size, new_root, _) = read_checkpoint(old), read_checkpoint(new)
    if old_seq > new_seq:
        raise Refused("seq", "backwards")
    check_consistency(old_size, old_root, new_size, new_root, hashes(value["path"]))
    for text, one in ((old, value["old_closing"]), (new, value["new_closing"])):
        seq, size, _, root = read_checkpoint(text)
        anchor = None
        if one is not None:
            array(one, (int, bytes))
            anchor = [one[0], size - 1, one[1]]
        check_anchor(anchor, seq, root, text)


def local_list(number: int, entries: list[tuple[int, str, bytes]]) -> bytes:
    parts = [raw.to_bytes(8, "little", signed=True) + lp(record_id) + leaf for raw, record_id, leaf in entries]
    return sha256(b"\x21", u8(number), u32(len(entries)), *parts)


def ranked(
    told: Told, seq: int, name: str, query: list[int], where: Any, ids: list[str] | None
) -> list[tuple[int, str, bytes]]:
    """Every record that may answer, in order: (raw, id, leaf)."""
    c = told.states[seq][name]
    passing = [i for i in select(c.records, where) if ids is None or i in ids]
    rows = [(distance(c.metric, c.records[i].vector, query), utf8(i), i) for i in passing]
    return [(raw, i, told.trees[seq][state_key(name, i)]) for raw, _, i in sorted(rows)]


def write_receipt(
    told: Told, seq: int, at: int, level: str, name: str, query: list[int], k: int, where: Any, ids: list[str] | None
) -> bytes:
    everything = ranked(told, seq, name, query, where, ids)
    results, c = everything[:k], told.states[seq][name]
    keys = [state_key(name), *(state_key(name, record_id) for _, record_id, _ in results)]
    subtrees = b""
    for number in range(256):
        local = [entry for entry in everything if state_key(name, entry[1])[0] == number]
        subtrees += local_list(number, local[:k])
    body = {
        "checkpoint": told.checkpoints[at],
        "collection": name,
        "definition": definition(*c[:4]),
        "ids": None if ids is None else sorted(set(ids), key=utf8),
        "k": k,
        "level": level,
        "max_distance": None,
        "proof": None if level == "R0" else state_part(told.trees[seq], keys, told.anchor(seq, at)),
        "query": vector_bytes(query),
        "result_ids": [record_id for _, record_id, _ in results],
        "result_leaves": b"".join(leaf for _, _, leaf in results),
        "result_raws": b"".join(raw.to_bytes(8, "little", signed=True) for raw, _, _ in results),
        "semantics": f"detmem/search/v1 {c.metric} {c.format} raw,id",
        "seq": seq,
        "subtrees": subtrees if level == "R3" else None,
        "where": encode(where) if where else None,
    }
    return sealed_receipt(body)


def sealed_receipt(body: dict[str, Any]) -> bytes:
    data = encode(["detmem/receipt/v1", body])
    return data + sha256(b"\x20", data)


def read_receipt(data: bytes) -> Any:
    """A receipt's map, well-formed."""
    if sha256(b"\x20", data[:-32]) != data[-32:]:
        raise Refused("digest", "of a receipt")
    value = read_proof_file(data[:-32], "detmem/receipt/v1")
    fields(
        value,
        {
            **dict.fromkeys(["checkpoint", "collection", "level", "semantics"], (str,)),
            **dict.fromkeys(["definition", "query", "result_leaves", "result_raws"], (bytes,)),
            **dict.fromkeys(["k", "seq"], (int,)),
            "ids": (list, None),
            "max_distance": (float, None),
            "proof": (dict, None),
            "result_ids": (list,),
            "subtrees": (bytes, None),
            "where": (bytes, None),
        },
    )
    read_checkpoint(value["checkpoint"])
    dim, metric, number_format, _ = read_definition(value["definition"])
    for text in [value["collection"], *value["result_ids"], *(value["ids"] or [])]:
        if not isinstance(text, str) or not 1 <= len(utf8(text)) <= (128 if text is value["collection"] else 512):
            raise Refused("name", "not a name")
    ids, leaves = value["result_ids"], hashes(value["result_leaves"])
    raws = value["result_raws"]
    distances = [int.from_bytes(raws[i : i + 8], "little", signed=True) for i in range(0, len(raws), 8)]
    order = list(zip(distances, map(utf8, ids), strict=False))
    if len(raws) != 8 * len(ids) or len(leaves) != len(ids) or len(set(ids)) != len(ids) or len(ids) > value["k"]:
        raise Refused("results", "not one of each")
    if order != sorted(order):
        raise Refused("results", "not in order")
    if value["ids"] is not None and value["ids"] != sorted(set(value["ids"]), key=utf8):
        raise Refused("ids", "not in order")
    if not 1 <= value["seq"] <= read_checkpoint(value["checkpoint"])[0] or value["k"] < 1:
        raise Refused("seq", "or k out of range")
    if len(value["query"]) != 4 * dim:
        raise Refused("query", "of another dimension")
    admit(read_vector(value["query"]))
    if value["semantics"] != f"detmem/search/v1 {metric} {number_format} raw,id":
        raise Refused("semantics", value["semantics"])
    if value["level"] not in ("R0", "R1", "R2", "R3") or (value["level"] == "R0") != (value["proof"] is None):
        raise Refused("level", value["level"])
    if (len(value["subtrees"]) if value["subtrees"] is not None else 0) != (8192 if value["level"] == "R3" else 0):
        raise Refused("subtrees", "of another size")
    if (value["subtrees"] is None) != (value["level"] != "R3"):
        raise Refused("subtrees", "of another level")
    if value["where"] is not None:
        where = decode(value["where"])
        if not isinstance(where, dict) or not where:
            raise Refused("where", "no filter")
        check_where(where)
    return value


def check_receipt(data: bytes, trusted: str) -> Any:
    """R1; the receipt's map."""
    value = read_receipt(data)
    if value["proof"] is None:
        raise Refused("level", "R0 shows nothing here")
    if value["checkpoint"] != trusted:
        raise Refused("trust", "another checkpoint")
    name = value["collection"]
    wanted: dict[bytes, bytes | None] = {state_key(name): collection_leaf(name, commitment(value["definition"]))}
    for record_id, leaf in zip(value["result_ids"], hashes(value["result_leaves"]), strict=False):
        wanted[state_key(name, record_id)] = leaf
    check_part(value["proof"], wanted, value["seq"], trusted)
    return value


def write_subtree(told: Told, seq: int, at: int, name: str, number: int) -> bytes:
    entries = {key: leaf for key, leaf in told.trees[seq].items() if key[0] == number}
    records = []
    for record_id, r in told.states[seq][name].records.items():
        if state_key(name, record_id) in entries:
            records.append([record_id, vector_bytes(r.vector), content(r.metadata, r.document), *r.salts])
            del entries[state_key(name, record_id)]
    rows = state_rows(told.trees[seq])
    siblings = [rows[8 + height].get(number >> height ^ 1, ZERO) for height in range(8)]
    body = {
        "anchor": told.anchor(seq, at),
        "checkpoint": told.checkpoints[at],
        "collection": name,
        "number": number,
        "others": b"".join(key + entries[key] for key in sorted(entries)),
        "records": sorted(records, key=lambda record: utf8(record[0])),
        "seq": seq,
        "siblings": b"".join(siblings),
    }
    return encode(["detmem/subtree/v1", body])


def check_subtree(data: bytes, receipt: bytes, trusted: str) -> str | None:
    """What is wrong with an R3 receipt as far as this subtree goes: None, or a word."""
    asked = check_receipt(receipt, trusted)
    value = read_proof_file(data, "detmem/subtree/v1", 16 * BIGGEST)
    fields(
        value,
        {
            "anchor": (list, None),
            "checkpoint": (str,),
            "collection": (str,),
            "number": (int,),
            "others": (bytes,),
            "records": (list,),
            "seq": (int,),
            "siblings": (bytes,),
        },
    )
    if (value["checkpoint"], value["seq"], value["collection"]) != (trusted, asked["seq"], asked["collection"]):
        raise Refused("trust", "another checkpoint, seq or collection")
    name, number = value["collection"], value["number"]
    others = hashes(value["others"])
    entries = dict(zip(others[::2], others[1::2], strict=False))
    records: dict[str, Record] = {}
    for record in value["records"]:
        array(record, (str, bytes, bytes, bytes, bytes))
        record_id, vector, body, vector_salt, content_salt = record
        commitments = open_commitments(asked, vector, body, vector_salt, content_salt)
        key = state_key(name, record_id)
        if key in entries:
            raise Refused("entries", "twice")
        entries[key] = record_leaf(name, record_id, *commitments)
        records[record_id] = Record(admit(read_vector(vector)), *read_content(body), *commitments, 0)
    if len(others) % 2 or others[::2] != sorted(set(others[::2])) or list(records) != sorted(records, key=utf8):
        raise Refused("entries", "not in order")
    if not 0 <= number <= 255 or any(key[0] != number for key in entries):
        raise Refused("entries", "of another subtree")
    node = state_rows(entries)[8].get(number, ZERO)
    siblings = hashes(value["siblings"])
    if len(siblings) != 8:
        raise Refused("siblings", str(len(siblings)))
    for sibling in siblings:
        node = state_node(sibling, node) if number % 2 else state_node(node, sibling)
        number //= 2
    check_anchor(value["anchor"], value["seq"], node, trusted)
    local = [entry for entry in may_answer(asked, records) if state_key(name, entry[1])[0] == value["number"]]
    named = named_by(asked)
    if any(should_name(asked, entry) for entry in local[: asked["k"]]):
        return "missing"
    if any(entry not in local for entry in named if state_key(name, entry[1])[0] == value["number"]):
        return "stranger"
    listed = local_list(value["number"], local[: asked["k"]])
    if asked["subtrees"] is not None and hashes(asked["subtrees"])[value["number"]] != listed:
        return "list"
    return None


def open_commitments(
    asked: Any, vector: bytes, body: bytes, vector_salt: bytes, content_salt: bytes
) -> tuple[bytes, bytes]:
    """Commitments of a record's bytes, with salts of the one size that the receipt's definition gives them."""
    _, _, _, erasable = read_definition(asked["definition"])
    size = 32 if erasable else 0
    if (len(vector_salt), len(content_salt)) != (size, size):
        raise Refused("record", "salts of another size")
    return commitment(vector, vector_salt), commitment(body, content_salt)


def may_answer(asked: Any, records: dict[str, Record]) -> list[tuple[int, str, bytes]]:
    """Of some records those that a receipt's question admits, in order: (raw, id, leaf)."""
    _, metric, number_format, _ = read_definition(asked["definition"])
    query, found = read_vector(asked["query"]), []
    for record_id in select(records, decode(asked["where"]) if asked["where"] is not None else None):
        if asked["ids"] is None or record_id in asked["ids"]:
            r = records[record_id]
            raw = distance(metric, r.vector, query)
            if asked["max_distance"] is None or shown_distance(metric, number_format, raw) <= asked["max_distance"]:
                leaf = record_leaf(asked["collection"], record_id, r.vector_commitment, r.content_commitment)
                found.append((raw, utf8(record_id), record_id, leaf))
    return [(raw, record_id, leaf) for raw, _, record_id, leaf in sorted(found)]


def named_by(asked: Any) -> list[tuple[int, str, bytes]]:
    raws = asked["result_raws"]
    distances = [int.from_bytes(raws[i : i + 8], "little", signed=True) for i in range(0, len(raws), 8)]
    return list(zip(distances, asked["result_ids"], hashes(asked["result_leaves"]), strict=False))


def should_name(asked: Any, entry: tuple[int, str, bytes]) -> bool:
    """Whether a record that may answer is missing in an answer, or stands there otherwise."""
    named = named_by(asked)
    if entry in named:
        return False
    if entry[1] in asked["result_ids"] or len(named) < asked["k"]:
        return True
    return (entry[0], utf8(entry[1])) < (named[-1][0], utf8(named[-1][1]))


def write_refutation(told: Told, receipt: bytes, at: int, record_id: str) -> bytes:
    asked = read_receipt(receipt)
    seq, name = asked["seq"], asked["collection"]
    r = told.states[seq][name].records[record_id]
    body = {
        "checkpoint": told.checkpoints[at],
        "content": content(r.metadata, r.document),
        "content_salt": r.salts[1],
        "id": record_id,
        "proof": state_part(told.trees[seq], [state_key(name, record_id)], told.anchor(seq, at)),
        "receipt": sha256(receipt),
        "seq": seq,
        "vector": vector_bytes(r.vector),
        "vector_salt": r.salts[0],
    }
    return encode(["detmem/refutation/v1", body])


def check_refutation(data: bytes, receipt: bytes, trusted: str) -> None:
    """Passes when the refutation shows that the receipt's answer is false."""
    asked = check_receipt(receipt, trusted)
    value = read_proof_file(data, "detmem/refutation/v1")
    kinds = dict.fromkeys(["content", "content_salt", "receipt", "vector", "vector_salt"], (bytes,))
    fields(value, {**kinds, "checkpoint": (str,), "id": (str,), "proof": (dict,), "seq": (int,)})
    if (value["receipt"], value["seq"], value["checkpoint"]) != (sha256(receipt), asked["seq"], trusted):
        raise Refused("trust", "about another receipt, seq or checkpoint")
    commitments = open_commitments(asked, *(value[n] for n in ("vector", "content", "vector_salt", "content_salt")))
    leaf = record_leaf(asked["collection"], value["id"], *commitments)
    check_part(value["proof"], {state_key(asked["collection"], value["id"]): leaf}, value["seq"], trusted)
    record = Record(admit(read_vector(value["vector"])), *read_content(value["content"]), *commitments, 0)
    entries = may_answer(asked, {value["id"]: record})
    if not entries or not should_name(asked, entries[0]):
        raise Refused("refutation", "the record does not belong into the answer, or is there")


# ---- signed notes: Ed25519 of RFC 8032, 5.1, and C2SP signed-note

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
Point = tuple[int, int]


def point_sum(a: Point, b: Point) -> Point:
    product = D * a[0] * b[0] * a[1] * b[1] % P
    x = (a[0] * b[1] + a[1] * b[0]) * pow(1 + product, P - 2, P)
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, P - 2, P)
    return x % P, y % P


def point_times(a: Point, scalar: int) -> Point:
    total = (0, 1)
    while scalar:
        if scalar & 1:
            total = point_sum(total, a)
        a, scalar = point_sum(a, a), scalar >> 1
    return total


def point_x(y: int, sign: int) -> int:
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P or (x == 0 and sign):
        raise Refused("point", "not on the curve")
    return P - x if x % 2 != sign else x


BASE = (point_x(4 * pow(5, P - 2, P) % P, 0), 4 * pow(5, P - 2, P) % P)


def point_bytes(a: Point) -> bytes:
    return (a[1] | (a[0] & 1) << 255).to_bytes(32, "little")


def read_point(data: bytes) -> Point:
    number = int.from_bytes(data, "little")
    y = number & (1 << 255) - 1
    if y >= P:
        raise Refused("point", "not reduced")
    return point_x(y, number >> 255), y


def sha512_number(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little")


def secret_scalar(seed: bytes) -> tuple[int, bytes]:
    digest = hashlib.sha512(seed).digest()
    return int.from_bytes(digest[:32], "little") & (1 << 254) - 8 | 1 << 254, digest[32:]


def public_key(seed: bytes) -> bytes:
    return point_bytes(point_times(BASE, secret_scalar(seed)[0]))


def ed25519_sign(seed: bytes, message: bytes) -> bytes:
    scalar, prefix = secret_scalar(seed)
    nonce = sha512_number(prefix, message) % ORDER
    first = point_bytes(point_times(BASE, nonce))
    challenge = sha512_number(first, public_key(seed), message) % ORDER
    return first + ((nonce + challenge * scalar) % ORDER).to_bytes(32, "little")


def ed25519_check(public: bytes, message: bytes, signature: bytes) -> None:
    if len(signature) != 64 or int.from_bytes(signature[32:], "little") >= ORDER:
        raise Refused("signature", "of another size, or not reduced")
    challenge = sha512_number(signature[:32], public, message) % ORDER
    left = point_times(BASE, int.from_bytes(signature[32:], "little"))
    if left != point_sum(read_point(signature[:32]), point_times(read_point(public), challenge)):
        raise Refused("signature", "not of this text by this key")


def key_hash(name: str, public: bytes) -> bytes:
    return sha256(utf8(name), b"\n\x01", public)[:4]


def verifier_key(name: str, public: bytes) -> str:
    return f"{name}+{key_hash(name, public).hex()}+{base64.b64encode(bytes([1]) + public).decode()}"


def signer_key(name: str, seed: bytes) -> str:
    number = key_hash(name, public_key(seed)).hex()
    return f"PRIVATE+KEY+{name}+{number}+{base64.b64encode(bytes([1]) + seed).decode()}"


def read_verifier_key(text: str) -> tuple[str, bytes]:
    parts = text.split("+", 2)
    try:
        data = base64.b64decode(parts[2], validate=True) if len(parts) == 3 else b""
    except binascii.Error as error:
        raise Refused("key", str(error)) from error
    if len(data) != 33 or data[0] != 1 or verifier_key(parts[0], data[1:]) != text or not good_name(parts[0]):
        raise Refused("key", "not the one spelling of a verifier key")
    return parts[0], data[1:]


def good_name(name: str) -> bool:
    return name != "" and "+" not in name and not any(letter.isspace() or letter < " " for letter in name)


def sign_note(text: str, name: str, seed: bytes) -> str:
    signature = key_hash(name, public_key(seed)) + ed25519_sign(seed, utf8(text))
    return f"{text}\n\u2014 {name} {base64.b64encode(signature).decode()}\n"


def sign_checkpoint(checkpoint: str, name: str, seed: bytes) -> str:
    return sign_note(name + checkpoint.removeprefix("detmem/v1"), name, seed)


def open_note(note: str, name: str, public: bytes) -> str:
    """The text of a note that this key has signed."""
    if len(utf8(note)) > 1 << 20:
        raise Refused("note", "more than 1 MiB")
    at = note.rfind("\n\n")
    lines = note[at + 2 :].split("\n")
    if at < 0 or lines[-1] != "" or not 1 <= len(lines) - 1 <= 100:
        raise Refused("note", "no text, empty line and signatures")
    text, found = note[: at + 1], []
    for line in lines[:-1]:
        parts = line.split(" ")
        if len(parts) != 3 or parts[0] != "\u2014" or not good_name(parts[1]):
            raise Refused("note", "not a signature line")
        try:
            data = base64.b64decode(parts[2], validate=True)
        except binascii.Error as error:
            raise Refused("note", str(error)) from error
        if base64.b64encode(data).decode() != parts[2] or len(data) < 5:
            raise Refused("note", "not a signature")
        if parts[1] == name and data[:4] == key_hash(name, public):
            found.append(data[4:])
    if not found:
        raise Refused("unsigned", "not by this key")
    if len(found) > 1:
        raise Refused("signature", "twice")
    ed25519_check(public, utf8(text), found[0])
    return text


def open_checkpoint(note: str, name: str, public: bytes) -> str:
    """The checkpoint (as detmem/v1) of a good note."""
    text = open_note(note, name, public)
    if not text.startswith(f"{name}\n"):
        raise Refused("origin", "not the key's name")
    checkpoint = "detmem/v1" + text[len(name) :]
    read_checkpoint(checkpoint)
    return checkpoint


# ------------------------------------------------------------------------------------------------------- accumulated.md

SEED = b"detmem accumulated vector v1"
ROUNDS = 10_000
ID_COUNT = 64
LETTERS = ("a", "\u00e9", "\uff5e", "\U0001f600")
DRAWN_COLLECTIONS = (
    ("square", 3, "l2", "Q16.16"),
    ("inner", 5, "ip", "Q8.24"),
    ("angle \u00e9", 8, "cosine", "Q4.28"),
)


class Stream:
    """The bytes of SHAKE-128 of a seed, from the first on, read as integers."""

    def __init__(self, seed: bytes) -> None:
        self._shake = hashlib.shake_128(seed)
        self._bytes = self._shake.digest(1 << 16)
        self._at = 0

    def below(self, bound: int) -> int:
        """The next four bytes as a little-endian integer, modulo the bound."""
        if self._at == len(self._bytes):
            self._bytes = self._shake.digest(2 * len(self._bytes))
        self._at += 4
        return int.from_bytes(self._bytes[self._at - 4 : self._at], "little") % bound

    def pick(self, values: tuple[Any, ...]) -> Any:
        return values[self.below(len(values))]


class Draw:
    """Alternately a command and a search, as plain values; how they are drawn stands in accumulated.md.

    Commands: ("create", name, dim, metric, format), ("drop", name), ("add" | "upsert" | "update", name, records),
    ("delete", name, ids), ("delete_where", name, where), ("batch", commands).  A record is (id, raw, metadata,
    document); in an update a None part stays as it is, and all its records have a vector or none has.  Some adds
    name an id that lives already: they are to be refused whole.
    Searches: ("search", name, raw query, k, where); some filters are to be refused.
    """

    def __init__(self, seed: bytes = SEED) -> None:
        self.stream = Stream(seed)
        self.live: dict[int, dict[str, int | None]] = {}  # collection number -> id -> the "n" that it stores
        self.record_number = 0

    def rounds(self, count: int = ROUNDS) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
        for _ in range(count):
            command = self.command()
            yield command, self.search()

    def command(self) -> tuple[Any, ...]:
        c = self.stream.below(3)
        if c not in self.live:
            self.live[c] = {}
            return ("create", *DRAWN_COLLECTIONS[c])
        chance = self.stream.below(1000)
        if chance < 3 and len(self.live) == 3:
            del self.live[c]
            return ("drop", DRAWN_COLLECTIONS[c][0])
        if chance < 150:
            return ("batch", [self.call(self.existing(), 94) for _ in range(2 + self.stream.below(3))])
        return self.call(c, 100)

    def existing(self) -> int:
        c = self.stream.below(3)
        while c not in self.live:
            c = (c + 1) % 3
        return c

    def call(self, c: int, chances: int) -> tuple[Any, ...]:
        name, dim = DRAWN_COLLECTIONS[c][:2]
        live = self.live[c]
        chance = self.stream.below(chances)
        if chance >= 98:
            n = self.stream.below(20) - 10
            self.live[c] = {i: stored for i, stored in live.items() if stored != n}
            return ("delete_where", name, {"n": n})
        if chance >= 94:  # an add that is refused if one of the two lives
            ids = self.ids(2)
            records = [self.record(i, dim) for i in ids]
            if not any(i in live for i in ids):
                live.update({i: (metadata or {}).get("n") for i, _, metadata, _ in records})
            return ("add", name, records)
        ids = self.ids(self.stream.pick((1, 1, 1, 2, 3)))
        if chance < 20:
            for i in ids:
                live.pop(i, None)
            return ("delete", name, ids)
        kind = "upsert"
        if chance < 45 and any(i in live for i in ids):
            kind, ids = "update", [i for i in ids if i in live]
        elif 45 <= chance < 70 and any(i not in live for i in ids):
            kind, ids = "add", [i for i in ids if i not in live]
        if kind != "update":
            records = [self.record(i, dim) for i in ids]
            live.update({i: (metadata or {}).get("n") for i, _, metadata, _ in records})
            return (kind, name, records)
        parts = self.stream.below(3)
        records = [self.change(i, dim, parts) for i in ids]
        live.update({i: metadata["n"] for i, _, metadata, _ in records if metadata is not None})
        return ("update", name, records)

    def ids(self, count: int) -> list[str]:
        first = self.stream.below(ID_COUNT)
        numbers = [(first + 7 * i) % ID_COUNT for i in range(count)]
        return [f"{LETTERS[number % 4]}{number}" for number in numbers]

    def record(self, record_id: str, dim: int) -> tuple[str, list[int], dict[str, Any] | None, str | None]:
        self.record_number += 1
        raw = self.vector(dim)
        metadata = None if self.stream.below(8) == 0 else self.metadata()
        return record_id, raw, metadata, self.document()

    def change(
        self, record_id: str, dim: int, parts: int
    ) -> tuple[str, list[int] | None, dict[str, Any] | None, str | None]:
        """An update of the vector (parts 0), the content (1) or both (2) that always changes what it names."""
        self.record_number += 1
        raw = None if parts == 1 else [*self.vector(dim)[:-1], self.record_number]
        if parts == 0:
            return record_id, raw, None, None
        metadata = {**self.metadata(), "step": self.record_number}
        return record_id, raw, metadata, self.document()

    def vector(self, dim: int) -> list[int]:
        style = self.stream.below(4)
        bound = (2, 2, 65536, math.isqrt(ADMITTED // dim))[style]
        return [self.stream.below(2 * bound + 1) - bound for _ in range(dim)]

    def metadata(self) -> dict[str, Any]:
        below, pick = self.stream.below, self.stream.pick
        metadata: dict[str, Any] = {"n": below(20) - 10}
        if below(2):
            metadata["kind"] = pick(("red", "green", "blue", None))
        if below(2):
            metadata["flag"] = below(2) == 1
        weight = below(3)
        if weight == 1:
            metadata["weight"] = below(9) - 4
        if weight == 2:
            metadata["weight"] = (below(9) - 4) / 2
        if below(2):
            metadata["tags"] = [pick(("x", "y", 1, 1.5, True, None)) for _ in range(below(4))]
        return metadata

    def document(self) -> str | None:
        choice = self.stream.below(4)
        return (None, None, "", f"document {self.record_number} \u00e9")[choice]

    def search(self) -> tuple[Any, ...]:
        c = self.existing()
        query = self.vector(DRAWN_COLLECTIONS[c][1])
        k = 1 + self.stream.below(10)
        where = self.where() if self.stream.below(4) == 0 else None
        return ("search", DRAWN_COLLECTIONS[c][0], query, k, where)

    def where(self) -> dict[str, Any]:
        below, pick = self.stream.below, self.stream.pick
        form = below(8)
        if form == 0:
            return {"kind": pick(("red", "green", "blue", None))}
        if form == 1:
            least = below(20) - 10
            return {"n": {"$gte": least, "$lt": least + below(10)}}
        if form == 2:
            return {"weight": {"$lte": (below(9) - 4) / 2}}
        if form == 3:
            return {"$or": [{"flag": below(2) == 1}, {"tags": {"$contains": pick(("x", 1, True, None))}}]}
        if form == 4:
            return {"kind": {"$nin": ["red", None]}}
        if form == 5:
            return {"$not": {"weight": {"$exists": True}}}
        if form == 6:
            return {"weight": {"$gt": "x"}}
        return {"step": {"$exists": True}, "tags": {"$ne": []}}


def answer_bytes(seq: int, hits: list[tuple[str, int]] | None) -> bytes:
    """What is hashed of one answer: seq u64, count u32, then lp(id) and raw i64 of each hit; refused: ffffffff."""
    if hits is None:
        return u64(seq) + u32(0xFFFFFFFF)
    return u64(seq) + u32(len(hits)) + b"".join(lp(i) + raw.to_bytes(8, "little", signed=True) for i, raw in hits)


# ------------------------------------------------------------------------------- how the vector files write down values


def to_json(value: Any) -> Any:
    """A value in JSON that loses nothing: {"int": "5"}, {"float": hex}, {"bytes": hex}, {"map": pairs}, or itself."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return {"int": str(value)}
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return {"map": [[key, to_json(item)] for key, item in value.items()]}


def from_json(written: Any) -> Any:
    """The value that ``to_json`` wrote (a tuple comes back as a list)."""
    if isinstance(written, list):
        return [from_json(item) for item in written]
    if not isinstance(written, dict):
        return written
    ((kind, text),) = written.items()
    if kind == "int":
        return int(text)
    if kind == "float":
        return float.fromhex(text)
    if kind == "bytes":
        return bytes.fromhex(text)
    return {key: from_json(item) for key, item in text}
