"""Operations and their one spelling, byte for byte from spec/log.md ("Operation"), and every broken neighbour."""

from __future__ import annotations

import struct
from hashlib import sha256

import pytest

from detmem.errors import CorruptionError, UsageError
from detmem.machine import commands
from detmem.machine.commands import Definition, Operation

VECTOR = struct.pack("<2i", 65536, -1)
CONTENT = b"\x92\x81\xa1k\x01\xa1x"  # [{"k": 1}, "x"] in MessagePack
CREATED = b"\x84\xa3dim\x02\xa8erasable\xc2\xa6format\xa6Q16.16\xa6metric\xa2l2"
ZERO = bytes(32)


def committed(data: bytes) -> bytes:
    return sha256(b"\x10" + data).digest()


def spelled(
    type: int, flags: int, name: bytes, id: bytes, vector: bytes, content: bytes, of_vector: bytes, of_content: bytes
) -> bytes:
    """An operation by the table of the spec."""
    head = struct.pack("<BBHHHII", type, flags, len(name), len(id), 0, len(vector), len(content))
    return head + of_vector + of_content + name + id + b"\0" + vector + content


CASES: list[tuple[Operation, bytes]] = [
    (
        commands.create("c", Definition(2, "l2", "Q16.16")),
        spelled(1, 2, b"c", b"", b"", CREATED, ZERO, committed(CREATED)),
    ),
    (commands.drop("c"), spelled(2, 0, b"c", b"", b"", b"", ZERO, ZERO)),
    (
        commands.write(commands.ADD, "c", "é", VECTOR, ({"k": 1}, "x")),
        spelled(3, 3, b"c", b"\xc3\xa9", VECTOR, CONTENT, committed(VECTOR), committed(CONTENT)),
    ),
    (
        commands.write(commands.UPSERT, "c", "a", VECTOR, ({}, None)),
        spelled(4, 3, b"c", b"a", VECTOR, b"\x92\x80\xc0", committed(VECTOR), committed(b"\x92\x80\xc0")),
    ),
    (
        commands.write(commands.UPDATE, "c", "a", None, ({"k": 1}, "x"), standing=(b"v" * 32, b"c" * 32)),
        spelled(5, 2, b"c", b"a", b"", CONTENT, b"v" * 32, committed(CONTENT)),
    ),
    (
        commands.write(commands.UPDATE, "c", "a", VECTOR, None, standing=(b"v" * 32, b"c" * 32)),
        spelled(5, 1, b"c", b"a", VECTOR, b"", committed(VECTOR), b"c" * 32),
    ),
    (commands.delete("c", "a"), spelled(6, 0, b"c", b"a", b"", b"", ZERO, ZERO)),
]


NAMES = ["create", "drop", "add", "upsert", "update of content", "update of vector", "delete"]


@pytest.mark.parametrize("operation, data", CASES, ids=NAMES)
def test_each_operation_has_the_bytes_of_the_spec(operation: Operation, data: bytes) -> None:
    assert commands.encode([operation], 1 << 20) == data
    assert operation.leaf == sha256(b"\0" + data[: 80 + data[2] + data[4]]).digest()  # the header, never the payload
    (decoded,) = commands.decode(memoryview(data))
    assert commands.encode([decoded], 1 << 20) == data
    assert (decoded.type, decoded.collection, decoded.id) == (operation.type, operation.collection, operation.id)
    assert decoded.header == operation.header
    if operation.type in (commands.ADD, commands.UPSERT):
        assert decoded.meaning() == operation.meaning()


def test_a_body_is_its_operations_in_order() -> None:
    body = b"".join(data for _, data in CASES)
    assert commands.encode([operation for operation, _ in CASES], 1 << 20) == body
    assert [one.header for one in commands.decode(memoryview(body))] == [operation.header for operation, _ in CASES]
    assert list(commands.decode(memoryview(b""))) == []


@pytest.mark.parametrize("data", [data for _, data in CASES], ids=NAMES)
def test_a_cut_a_flipped_bit_and_a_tail_are_refused(data: bytes) -> None:
    for size in range(1, len(data)):
        with pytest.raises(CorruptionError):
            list(commands.decode(memoryview(data[:size])))
    for tail in (b"\0", data[:1], data[:-1]):
        with pytest.raises(CorruptionError):
            list(commands.decode(memoryview(data + tail)))
    accepted = []
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            found = list(commands.decode(memoryview(bytes(flipped))))
        except CorruptionError:
            continue
        # What still reads is another legal operation, with its own header: never the same one from other bytes.
        assert commands.encode(found, 1 << 20) == flipped
        accepted.append(found[0].header)
    assert len(set(accepted)) == len(accepted)
    assert data[: len(data)] not in accepted


@pytest.mark.parametrize(
    "what, data",
    [
        ("unknown type 0", spelled(0, 0, b"c", b"a", b"", b"", ZERO, ZERO)),
        ("reserved type 7", spelled(7, 0, b"c", b"a", b"", b"", ZERO, ZERO)),
        ("an add without content", spelled(3, 1, b"c", b"a", VECTOR, b"", committed(VECTOR), ZERO)),
        ("an add without vector", spelled(3, 2, b"c", b"a", b"", CONTENT, ZERO, committed(CONTENT))),
        ("an update of nothing", spelled(5, 0, b"c", b"a", b"", b"", ZERO, ZERO)),
        ("a delete with a vector", spelled(6, 1, b"c", b"a", VECTOR, b"", committed(VECTOR), ZERO)),
        ("a delete with a commitment", spelled(6, 0, b"c", b"a", b"", b"", committed(VECTOR), ZERO)),
        ("a drop with an id", spelled(2, 0, b"c", b"a", b"", b"", ZERO, ZERO)),
        ("a delete without id", spelled(6, 0, b"c", b"", b"", b"", ZERO, ZERO)),
        ("a create with an id", spelled(1, 2, b"c", b"a", b"", CREATED, ZERO, committed(CREATED))),
        ("no collection", spelled(6, 0, b"", b"a", b"", b"", ZERO, ZERO)),
        ("a long collection name", spelled(6, 0, b"c" * 129, b"a", b"", b"", ZERO, ZERO)),
        ("a long id", spelled(6, 0, b"c", b"a" * 513, b"", b"", ZERO, ZERO)),
        ("an id that is no UTF-8", spelled(6, 0, b"c", b"\xff", b"", b"", ZERO, ZERO)),
        ("a surrogate in a name", spelled(6, 0, b"\xed\xa0\x80", b"a", b"", b"", ZERO, ZERO)),
        (
            "a vector of 7 bytes",
            spelled(3, 3, b"c", b"a", b"1234567", CONTENT, committed(b"1234567"), committed(CONTENT)),
        ),
        ("another vector", spelled(3, 3, b"c", b"a", VECTOR, CONTENT, committed(CONTENT), committed(CONTENT))),
        ("another content", spelled(3, 3, b"c", b"a", VECTOR, CONTENT, committed(VECTOR), committed(VECTOR))),
    ],
)
def test_what_no_writer_writes_is_refused(what: str, data: bytes) -> None:
    with pytest.raises(CorruptionError, match="operation at byte 0"):
        list(commands.decode(memoryview(data)))


def test_a_request_id_and_a_state_byte_of_later_versions_are_refused() -> None:
    _, good = CASES[2]
    with_request = bytearray(good)
    with_request[6] = 1  # request_size, the u16 behind type, flags, name_size and id_size
    erased = bytearray(good)
    erased[80 + 1 + 2] = 1  # the state byte behind header, name and id
    for data in (with_request, erased):
        with pytest.raises(CorruptionError):
            list(commands.decode(memoryview(bytes(data))))


def test_a_commit_that_is_too_large_is_refused_before_it_is_built() -> None:
    operation, data = CASES[2]
    assert commands.encode([operation], len(data)) == data
    with pytest.raises(UsageError, match=f"at most {len(data) - 1} bytes, found {len(data)}"):
        commands.encode([operation], len(data) - 1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc0",
        CREATED + b"\0",
        CREATED.replace(b"\x02\xa8", b"\x00\xa8"),  # dim 0
        CREATED.replace(b"\x02\xa8", b"\xc3\xa8"),  # dim True
        CREATED.replace(b"\x02\xa8", b"\xce\x00\x01\x00\x01\xa8"),  # dim 65537
        CREATED.replace(b"\x02\xa8", b"\xcc\x02\xa8"),  # dim 2 in two bytes
        CREATED.replace(b"\xc2", b"\xc0"),  # erasable: nil
        CREATED.replace(b"Q16", b"Q17"),
        CREATED.replace(b"\xa2l2", b"\xa2l1"),
        CREATED.replace(b"\x84", b"\x83", 1),
    ],
    ids=range(11),
)
def test_a_definition_has_one_spelling(content: bytes) -> None:
    assert Definition.decode(CREATED) == Definition(2, "l2", "Q16.16")
    assert Definition(2, "l2", "Q16.16").encode() == CREATED
    with pytest.raises(CorruptionError):
        Definition.decode(content)
