"""The fast way of contents is the way of ``encoding``, in values, bytes and refusals."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from detmem.errors import CorruptionError, UsageError
from detmem.machine import contents, encoding


class Text(str):
    """A subclass, to be made plain."""


texts = st.text(st.characters(exclude_categories=()), max_size=6)  # lone surrogates included
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**64), 2**64), st.floats(), texts, st.builds(Text, st.just("sub")),
    st.just(np.int32(7)), st.just(np.float32(0.5)), st.just(b"bytes"),
)  # fmt: skip
metadatas = st.one_of(
    st.none(),
    st.dictionaries(st.one_of(texts, st.just(Text("k")), st.integers(0, 1)), scalars | st.lists(scalars, max_size=3)),
    st.just([1]),
)
documents = st.one_of(st.none(), texts, st.just("long " * 2000), st.just(Text("sub")), st.just(7))


def slowly(metadata: object, document: object, index: int) -> tuple[Any, Any, bytes]:
    plain = encoding.normalise_metadata(metadata, f"metadatas[{index}]")
    text = encoding.check_document(document, f"documents[{index}]")
    return plain, text, encoding.encode_content(plain, text)


def told(call: Any, *arguments: object) -> object:
    """What a call gives, in a form in which 1, 1.0 and True differ; or what it says."""
    try:
        return repr(call(*arguments))
    except (UsageError, CorruptionError) as error:
        return type(error), str(error)


@given(metadatas, documents, st.integers(0, 9))
@example({"b": 1, "a": [1, "x"]}, "text", 0)
@example({"a": "x" * 70_000}, None, 3)
@example({"a": "\ud800"}, None, 3)
@example({"a": 1}, "\ud800", 4)
@example({"a": 2**63}, None, 1)
@example({"a": float("nan")}, None, 1)
def test_encoding_is_the_same_either_way(metadata: object, document: object, index: int) -> None:
    assert told(contents.encode, metadata, document, index) == told(slowly, metadata, document, index)
    assert told(contents.encode, metadata, document, index, contents.packer()) == told(
        slowly, metadata, document, index
    )


@given(st.lists(st.tuples(metadatas, documents), min_size=1, max_size=4), st.integers(0, 9))
@example([({"a": 1}, "x"), (None, None), ({"b": 1, "a": [1]}, None)], 5)
@example([({"a": 1}, "x"), ({"a": "\ud800"}, None)], 5)
@example([({"a": 1}, "x"), ({"a": 1}, "x" * 70_000)], 5)
def test_encoding_by_column_is_the_same(records: list[tuple[object, object]], start: int) -> None:
    columns = [list(column) for column in zip(*records, strict=True)]
    singly = told(lambda: [slowly(*one, index) for index, one in enumerate(records, start)])
    assert told(lambda: list(zip(*contents.encode_all(*columns, start, contents.packer()), strict=True))) == singly


def test_the_callers_map_is_never_the_stored_one() -> None:
    given_map: dict[str, Any] = {"a": [1, 2], "b": 1}
    stored, _, _ = contents.encode(given_map, None, 0)
    given_map["a"].append(3)
    given_map["b"] = 2
    assert stored == {"a": [1, 2], "b": 1}
    assert contents.encode(None, None, 0)[0] is not contents.encode(None, None, 0)[0]


@given(st.one_of(st.binary(max_size=40), st.builds(msgpack.packb, st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=3) | st.just(b"b"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3), max_leaves=8,
))))  # fmt: skip
@example(b"\x92\x82\xa1b\x01\xa1a\x02\xc0")  # keys out of order
@example(b"\x92\x81\xa1a\xcc\x01\xc0")  # a longer form than needed
@example(b"\x92\x82\xa1a\x01\xa1a\x01\xc0")  # a key twice
@example(b"\x92\x80\xd6\xff\x00\x00\x00\x00")  # a timestamp
@example(b"\x91" * 2000)
@example(b"\x92\x81\xa1a\xc4\x01x\xc0")  # bytes
def test_decoding_is_the_same_either_way(data: bytes) -> None:
    assert told(contents.decode, data) == told(encoding.decode_content, data)
    assert told(contents.decode, memoryview(data)) == told(encoding.decode_content, data)


@given(metadatas, documents)
def test_decoding_is_the_inverse(metadata: object, document: object) -> None:
    try:
        plain, text, data = contents.encode(metadata, document, 0)
    except UsageError:
        return
    assert repr(contents.decode(data)) == repr((plain, text))
    for cut in range(min(len(data), 50)):
        with pytest.raises(CorruptionError):
            contents.decode(data[:cut])
    with pytest.raises(CorruptionError):
        contents.decode(data + b"\0")
