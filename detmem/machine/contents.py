"""Contents in a hurry: metadata and document to canonical bytes and back, the way that ordinary records take.

``encoding`` is the law and says what is wrong; this room only knows the plain case, where nothing can be wrong, and
hands everything else over: a subclass, a NumPy scalar, a lone surrogate, a map that may be too large.  So each fast
path ends in the bytes that ``encoding`` would have written, and never in an error of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Final, TypeAlias, cast

import msgpack

from detmem.machine import encoding
from detmem.machine.encoding import Metadata

__all__ = ["EMPTY", "Meaning", "check", "decode", "document_of", "encode", "encode_all", "metadata_of", "packer"]

EMPTY: Final = b"\x92\x80\xc0"
"""The content of a record with neither metadata nor document."""

_NO_DOCUMENT = EMPTY[-1:]
_MIN_INT, _MAX_INT = -(2**63), 2**63 - 1
_NOTHING: Final[Metadata] = {}  # shared by all records without metadata: what is handed out is a copy
_WORDS = frozenset((str, type(None)))
_PLAIN = frozenset((str, bool, type(None)))  # types whose every value is legal, but for lone surrogates: see ``encode``
_QUICK_BYTES = 4096  # at 230 bytes of memory for a byte of data (see encoding.MAX_ITEMS), this needs no scan

assert encoding.encode_content({}, None) == EMPTY
assert _QUICK_BYTES <= encoding.MAX_METADATA_BYTES

Pack = Callable[[object], bytes]
Meaning: TypeAlias = tuple[Metadata, "str | None"]
"""Metadata and document."""


def packer() -> Pack:
    """A function that packs in one spelling, for use by one caller at a time: making one is dearer than using it."""
    return cast(Pack, msgpack.Packer(strict_types=True).pack)


_shared = [packer()]  # taken and put back, so that no two callers hold the same


def encode(
    metadata: object, document: object, index: int, pack: Pack | None = None
) -> tuple[Metadata, str | None, bytes]:
    """What a caller handed in for record ``index``: plain metadata, document, and the canonical bytes of both.

    ``UsageError`` as from ``encoding.normalise_metadata`` and ``encoding.check_document``.
    """
    if metadata is None and document is None:
        return {}, None, EMPTY
    plain = _plain(metadata)
    if plain is not None and (document is None or (type(document) is str and len(document) <= _QUICK_BYTES)):
        try:
            data = _pack_shared([plain, document]) if pack is None else pack([plain, document])
        except ValueError:  # a lone surrogate, or text beyond 4 GiB: said below, with its place
            data = None
        if data is not None and len(data) <= encoding.MAX_METADATA_BYTES:  # then so is the map alone
            return plain, document, data
    plain = encoding.normalise_metadata(metadata, f"metadatas[{index}]")
    text = encoding.check_document(document, f"documents[{index}]")
    return plain, text, encoding.encode_content(plain, text)


def encode_all(
    metadatas: Sequence[object], documents: Sequence[object], start: int, pack: Pack
) -> tuple[list[Metadata], list[str | None], list[bytes]]:
    """``encode`` of each, by column; the first is record ``start``.  Ordinary records are seen in a few passes."""
    if {*map(type, metadatas), *map(type, documents)} == {type(None)}:
        return [{} for _ in metadatas], [None] * len(documents), [EMPTY] * len(documents)
    plain = [_plain(metadata) for metadata in metadatas]
    if None not in plain and _WORDS.issuperset(map(type, documents)):
        words = cast("list[str | None]", list(documents))
        try:
            bodies = [pack([one, word]) for one, word in zip(plain, words, strict=True)]
        except ValueError:  # as above
            bodies = []
        if bodies and max(map(len, bodies)) <= encoding.MAX_METADATA_BYTES:
            return cast("list[Metadata]", plain), words, bodies
    given = enumerate(zip(metadatas, documents, strict=True), start)
    made = [encode(metadata, document, index, pack) for index, (metadata, document) in given]
    return [one[0] for one in made], [one[1] for one in made], [one[2] for one in made]


def decode(data: bytes | memoryview, pack: Pack | None = None) -> tuple[Metadata, str | None]:
    """As ``encoding.decode_content``: the inverse of ``encode``, accepting nothing else; ``CorruptionError``."""
    if len(data) <= _QUICK_BYTES:
        if data == EMPTY:
            return _NOTHING, None
        try:
            pair = msgpack.unpackb(data)
        except (ValueError, TypeError, OverflowError):  # no msgpack at all: said below, with its place
            pair = None
        if (
            type(pair) is list
            and len(pair) == 2
            and type(pair[0]) is dict
            and (pair[1] is None or type(pair[1]) is str)
            and (plain := _plain(pair[0])) is not None
            and list(plain) == list(pair[0])
            and (_pack_shared(pair) if pack is None else pack(pair)) == data
        ):
            return plain, pair[1]
    return encoding.decode_content(data)


def metadata_of(data: bytes) -> Metadata:
    """The metadata in a content that has been checked."""
    return _NOTHING if data == EMPTY else cast(Metadata, msgpack.unpackb(data)[0])


def document_of(data: bytes) -> str | None:
    """The document in a content that has been checked; no text ends with the byte that stands for none."""
    return None if data[-1:] == _NO_DOCUMENT else cast(str, msgpack.unpackb(data)[1])


def check(strings: list[bytes], pack: Pack) -> None:
    """As ``decode`` of each, for whoever does not ask what they mean; ``CorruptionError``.

    Ordinary contents are seen in a few passes; ``strings`` should not be many more than 64 KiB together.
    """
    if {*strings} == {EMPTY} or _all_ordinary(strings, pack):
        return
    for one in strings:
        decode(one, pack)


def _all_ordinary(strings: list[bytes], pack: Pack) -> bool:
    """Whether all are contents beyond doubt."""
    if len(strings) >= 1 << 16 or sum(map(len, strings)) > encoding.MAX_METADATA_BYTES:
        return False
    try:
        pairs = msgpack.unpackb(b"\xdc" + len(strings).to_bytes(2, "big") + b"".join(strings))
        metadatas, documents = zip(*pairs, strict=True)
        values = [value for metadata in metadatas for value in dict.values(metadata)]
        if list in {*map(type, values)}:
            lists = [value for value in values if type(value) is list]
            values = [value for value in values if type(value) is not list] + list(chain.from_iterable(lists))
        return (
            {*map(type, pairs)} == {list}
            and _WORDS.issuperset(map(type, documents))
            and all(map(_is_plain, values))
            and all({*map(type, keys)} <= {str} and [*keys] == sorted(keys) for keys in {*map(tuple, metadatas)})
            and [*map(pack, pairs)] == strings
        )
    except (ValueError, TypeError, OverflowError):  # said by ``decode``, with its place
        return False


def _pack_shared(value: object) -> bytes:
    pack = _shared.pop() if _shared else packer()
    data = pack(value)
    if len(data) <= encoding.MAX_METADATA_BYTES:  # else its buffer has grown: let it go
        _shared.append(pack)
    return data


def _plain(metadata: object) -> Metadata | None:
    """A copy in canonical order of a plain dict whose values are legal beyond doubt; None where that takes a look."""
    if metadata is None:
        return {}
    if type(metadata) is not dict:
        return None
    lists = False
    for key, value in metadata.items():
        kind = type(value)
        if type(key) is not str:
            return None
        if kind in _PLAIN or (kind is int and _MIN_INT <= value <= _MAX_INT):
            continue
        if kind is list and all(map(_is_plain, value)):
            lists = True
        elif not (kind is float and math.isfinite(value)):
            return None
    if lists:
        keys = sorted(metadata)
        return {key: list(value) if type(value := metadata[key]) is list else value for key in keys}
    if len(metadata) < 2:
        return metadata.copy()
    return {key: metadata[key] for key in sorted(metadata)}  # code point order is UTF-8 order: see spec/encoding.md


def _is_plain(value: object) -> bool:
    kind = type(value)
    if kind is int:
        return _MIN_INT <= cast(int, value) <= _MAX_INT
    return kind in _PLAIN or (kind is float and math.isfinite(cast(float, value)))
