"""Packed columns say what a list would, whatever is asked, put or appended in which order; and contents are checked
together as they are one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detmem.errors import CorruptionError
from detmem.machine import contents, encoding
from detmem.machine.packed import Column, Packed

STRINGS = st.lists(st.binary(max_size=9), max_size=12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("one"), st.integers(0, 30)),
        st.tuples(st.just("some"), st.integers(0, 30), st.integers(0, 30)),
        st.tuples(st.just("put"), st.integers(0, 30), st.binary(max_size=3)),
        st.tuples(st.just("append"), st.lists(st.binary(max_size=3), max_size=3)),
        st.tuples(st.just("all")),
    ),
    max_size=20,
)


def packed(strings: list[bytes], at_once: int) -> Packed:
    made = Packed(len(strings))
    for start in range(0, len(strings), at_once):
        made.append(strings[start : start + at_once])
    return made


@given(STRINGS, st.integers(1, 5), STEPS)
def test_a_column_is_a_list_of_what_was_read(strings, at_once, steps):
    column, plain = Column(packed(strings, at_once), bytes.hex), [one.hex() for one in strings]
    for name, *rest in steps:
        if name == "append":
            more = [one.hex() for one in rest[0]]
            column.extend(more)
            plain.extend(more)
        elif name == "some":
            assert column[min(rest) : max(rest)] == plain[min(rest) : max(rest)]
        elif name == "all":
            assert list(column) == plain
        elif rest[0] < len(plain):
            if name == "put":
                column[rest[0]] = plain[rest[0]] = rest[1].hex()
            assert column[rest[0]] == plain[rest[0]]
        assert len(column) == len(plain)


@pytest.mark.parametrize("others", [lambda column: None, list])
@pytest.mark.parametrize("reader", [lambda column: column[1], list, lambda column: column[0:2]])
def test_what_is_put_while_somebody_reads_stays(reader, others):
    """A record is given up while a search reads: what it held came back when the reader stored what it had read."""

    def read(one: bytes) -> str:
        if not done:  # what other threads do meanwhile
            done.append(True)
            others(column)
            column[1] = "put"
        return one.hex()

    done: list[bool] = []
    column = Column(packed([b"a", b"b", b"c"], 2), read)
    reader(column)
    assert (column[1], list(column)) == ("put", ["61", "put", "63"])


@given(st.lists(STRINGS, max_size=5), st.integers(0, 30), st.integers(0, 30))
def test_a_column_grows_with_what_is_packed(parts, one, other):
    """A reader that follows a writer, and a log that is applied: contents come one commit after the other."""
    packed, plain = Packed(), list[str]()
    column = Column(packed, bytes.hex)
    for part in parts:
        packed.append(part)
        column.grow()
        plain += [string.hex() for string in part]
        if one < len(plain):
            assert column[one] == plain[one]
        assert column[min(one, other) : max(one, other)] == plain[min(one, other) : max(one, other)]
    column.extend(["fresh"])
    assert [*column] == [*plain, "fresh"]
    assert [*packed] == [bytes.fromhex(text) for text in plain]


def test_strings_of_four_gib_together_have_wider_starts(monkeypatch):
    monkeypatch.setattr("detmem.machine.packed._NARROW_BYTES", 10)
    made, strings = Packed(1), [b"abcd", b"", b"efgh", b"ijkl", b"m"]
    for string in strings:
        made.append([string])
    assert [*made] == strings
    assert made._starts.dtype == np.uint64


def test_what_was_read_one_by_one_is_kept_for_a_while_only(monkeypatch):
    """All that was ever asked for stayed: reading a store record by record took what its objects take."""
    monkeypatch.setattr("detmem.machine.packed._KEPT_BYTES", 1_000)
    column = Column(packed([bytes([number]) for number in range(100)], 7), bytes.hex)
    assert [column[number] for number in range(100)] == [f"{number:02x}" for number in range(100)]
    assert len(column._known) < 20
    assert column[3] is column[3]


@given(STRINGS, st.integers(1, 5), st.integers(0, 12), st.integers(0, 12))
def test_packed_strings_come_back_one_by_one_and_together(strings, at_once, start, stop):
    made = packed(strings, at_once)
    assert [made[place] for place in range(len(made))] == strings
    assert made[start:stop] == strings[start:stop]


VALUES = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=4))
CONTENT = st.builds(
    lambda metadata, document: encoding.encode_content(encoding.normalise_metadata(metadata, "metadata"), document),
    st.dictionaries(st.text(min_size=1, max_size=3), st.one_of(VALUES, st.lists(VALUES, max_size=3)), max_size=3),
    st.none() | st.text(max_size=5),
)


@given(st.lists(CONTENT, min_size=1, max_size=6), st.data())
def test_contents_together_are_refused_where_one_of_them_is(strings, data):
    """Also where bytes of one string, cut elsewhere, would make sound contents with the next."""
    pack = contents.packer()
    contents.check(strings, pack)
    whole = bytearray(b"".join(strings))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    ends = [0, *data.draw(st.sampled_from([cuts, [sum(map(len, strings[:n])) for n in range(1, len(strings))]]))]
    changed = [bytes(whole[start:stop]) for start, stop in zip(ends, [*ends[1:], len(whole)], strict=True)]

    def sound(one: bytes) -> bool:
        try:
            contents.decode(one, pack)
        except CorruptionError:
            return False
        return True

    if all(map(sound, changed)):
        contents.check(changed, pack)
    else:
        with pytest.raises(CorruptionError):
            contents.check(changed, pack)
