"""Frames, seals and segment headers: whole, cut at every byte, every bit flipped, with a tail, and in the wrong place.

What the bytes are is pinned by the vectors of spec/ (tests/test_vectors.py); here stands what else must never parse.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any
from zlib import crc32

import pytest

from detmem.errors import CorruptionError, DetmemError, FormatError, LogDamaged
from detmem.journal import frame
from detmem.journal.disk import File, MemoryDisk
from detmem.journal.frame import BadFrame, Frame, Seal, SegmentHeader, SegmentReader
from detmem.machine import commands
from detmem.machine.commands import Definition, Operation
from detmem.machine.commitment import LINK_ZERO, LogTree
from detmem.machine.stage import Change
from detmem.machine.state import State
from tests.journal.stores import contents, copy, last_segment, opened, small_store

STORE = bytes(range(16))
OTHER_STORE = bytes(range(1, 17))


def header_of(store_id: bytes = STORE, first_seq: int = 1) -> SegmentHeader:
    return SegmentHeader(store_id, first_seq, 0, LINK_ZERO, LogTree().root)


HEADER = header_of()


def file_of(data: bytes) -> File:
    file = MemoryDisk().open("file", create=True)
    file.pwrite(data, 0)
    return file


def two_changes() -> list[Change]:
    state = State()
    vector = (1).to_bytes(4, "little") + (2).to_bytes(4, "little")
    commits: list[list[Operation]] = [
        [commands.create("c", Definition(2, "l2", "Q16.16"))],
        [commands.write(commands.ADD, "c", "a", vector, ({"k": 1}, "text")), commands.delete("c", "a")],
    ]
    changes = []
    for operations in commits:
        change = state.apply(operations)
        state.publish(change)
        changes.append(change)
    return changes


CHANGES = two_changes()
FRAMES = [frame.encode_commit(change, change.seq - 1, HEADER.seed) for change in CHANGES]
SEAL = Seal(2, CHANGES[-1].log.size, CHANGES[-1].link, CHANGES[-1].log.root)


def read(data: bytes, header: SegmentHeader = HEADER) -> tuple[list[Frame], SegmentReader]:
    reader = SegmentReader(file_of(header.encode() + data), header)
    return list(reader), reader


def bit_flips(data: bytes) -> Iterator[bytes]:
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def readable_before_failing(data: bytes) -> int:
    """How many frames are good before the reader says no, or ends."""
    reader = SegmentReader(file_of(HEADER.encode() + data), HEADER)
    good = 0
    try:
        for _ in reader:
            good += 1
    except BadFrame:
        pass
    return good


def recrc(header: bytes, seed: int) -> bytes:
    """A frame's 32 header bytes with the CRC that their first 28 deserve."""
    return header[:28] + crc32(header[:28], seed).to_bytes(4, "little")


# -------------------------------------------------------------------------------------------------------------- commits


def test_what_was_encoded_is_read_back() -> None:
    found, reader = read(b"".join(FRAMES))
    for change, one in zip(CHANGES, found, strict=True):
        assert (one.seq, one.durable_seq) == (change.seq, change.seq - 1)
        assert (one.state_root, one.link) == (change.state_root, change.link)
        assert [operation.header for operation in one.operations] == [
            operation.header for operation in change.operations
        ]
    assert (reader.offset, reader.seq, reader.link) == (128 + sum(map(len, FRAMES)), 2, CHANGES[-1].link)
    assert reader.seal is None


def test_a_frame_cut_at_any_byte_is_bad_where_it_begins() -> None:
    for size in range(1, len(FRAMES[1])):
        with pytest.raises(BadFrame) as caught:
            read(FRAMES[0] + FRAMES[1][:size])
        assert caught.value.offset == 128 + len(FRAMES[0])


def test_a_frame_with_any_bit_flipped_is_bad() -> None:
    """The CRC covers the header, so that no bit at all passes."""
    assert sum(readable_before_failing(FRAMES[0] + changed) == 1 for changed in bit_flips(FRAMES[1])) == 8 * len(
        FRAMES[1]
    )


@pytest.mark.parametrize("tail", [b"\0" * 40 + b"\1", bytes((1 << 20) + 9) + b"D", b"DMF1", b"D", FRAMES[0], FRAMES[1]])
def test_a_tail_is_bad_and_what_is_before_it_is_good(tail: bytes) -> None:
    assert readable_before_failing(b"".join(FRAMES) + tail) == 2
    with pytest.raises(BadFrame) as caught:
        read(b"".join(FRAMES) + tail)
    assert caught.value.offset == 128 + sum(map(len, FRAMES))


@pytest.mark.parametrize("count", [1, 31, 32, 33, 4096, (1 << 20) + 9])
def test_zeros_to_the_end_of_the_file_are_its_end(count: int) -> None:
    end = 128 + sum(map(len, FRAMES))
    file = file_of(HEADER.encode() + b"".join(FRAMES) + bytes(count))
    reader = SegmentReader(file, HEADER)
    assert [one.seq for one in reader] == [1, 2]
    assert (reader.offset, reader.seal) == (end, None)
    reader = SegmentReader(file, HEADER)
    reader.skip(9)
    assert (reader.offset, reader.seq) == (end, 2)
    assert frame.end_of_bytes(file, end) == end
    sealed = b"".join(FRAMES) + frame.encode_seal(SEAL, 1, HEADER.seed)
    with pytest.raises(BadFrame, match="behind a seal"):
        read(sealed + bytes(count))


def test_a_frame_over_zeros_torn_anywhere_is_bad_where_it_begins() -> None:
    """Only the first bytes of it are there, only the last, or a hole is in the middle."""
    whole, size = FRAMES[1], len(FRAMES[1])
    for cut in range(1, size):
        for torn in (whole[:cut] + bytes(size - cut), bytes(cut) + whole[cut:], whole[:cut] + b"\0" + whole[cut + 1 :]):
            if torn in (whole, bytes(size)):
                continue
            for behind in (b"", bytes(100)):
                with pytest.raises(BadFrame) as caught:
                    read(FRAMES[0] + torn + behind)
                assert caught.value.offset == 128 + len(FRAMES[0])


class _Arriving:
    """A file of zeros over which another process is writing: each look at it shows the next of these beginnings."""

    def __init__(self, *looks: bytes) -> None:
        self._looks = looks
        self.count = 0

    def size(self) -> int:
        return 5000

    def pread(self, size: int, offset: int) -> bytes:
        look = self._looks[min(self.count, len(self._looks) - 1)]
        self.count += 1
        return look.ljust(self.size(), b"\0")[offset : offset + size]


def test_a_frame_that_is_being_written_over_zeros_is_looked_at_again() -> None:
    """Its bytes were read before the last of them had come; what follows it would have made that damage."""
    before = HEADER.encode() + FRAMES[0]
    for cut in range(len(FRAMES[1])):
        file: Any = _Arriving(before + FRAMES[1][:cut], before + FRAMES[1])
        assert [one.seq for one in SegmentReader(file, HEADER)] == [1, 2]
        file = _Arriving(before + FRAMES[1][:cut])
        if cut == 0:
            assert [one.seq for one in SegmentReader(file, HEADER)] == [1]
            continue
        with pytest.raises(BadFrame):
            list(SegmentReader(file, HEADER))
        assert file.count < 4


@pytest.mark.parametrize("header", [header_of(store_id=OTHER_STORE), header_of(first_seq=2)])
def test_frames_of_another_store_or_segment_do_not_parse(header: SegmentHeader) -> None:
    for number, change in enumerate(CHANGES):
        foreign = frame.encode_commit(change, change.seq - 1, header.seed)
        before = b"".join(FRAMES[:number])
        with pytest.raises(BadFrame, match="CRC"):
            read(before + foreign)
        assert frame.last_durable(file_of(foreign), 0, HEADER.seed) == 0


@pytest.mark.parametrize(
    "at, size, value, what",
    [
        (4, 1, 0, "kind"),
        (4, 1, 3, "kind"),
        (4, 1, 255, "kind"),
        (5, 1, 1, "flags"),
        (6, 2, 0, "version"),
        (6, 2, 1, "version"),
        (8, 4, (1 << 30) + 1, "length"),
        (8, 4, (1 << 31), "length"),
        (8, 4, (1 << 32) - 1, "length"),
        (8, 4, 1 << 30, "of which the file holds"),
        (8, 4, 0, "link"),
        (12, 8, 0, "seq"),
        (12, 8, 3, "seq"),
        (12, 8, (1 << 64) - 1, "seq"),
        (20, 8, 2, "durable"),
        (20, 8, (1 << 64) - 1, "durable"),
    ],
)
def test_a_frame_with_an_illegal_field_and_a_right_crc_is_bad(at: int, size: int, value: int, what: str) -> None:
    head = bytearray(FRAMES[1][:32])
    head[at : at + size] = value.to_bytes(size, "little")
    with pytest.raises(BadFrame, match=what):
        read(FRAMES[0] + recrc(bytes(head), HEADER.seed) + FRAMES[1][32:])


def test_a_body_that_grows_by_a_byte_is_bad() -> None:
    head = bytearray(FRAMES[0][:32])
    length = int.from_bytes(head[8:12], "little")
    head[8:12] = (length + 1).to_bytes(4, "little")
    grown = recrc(bytes(head), HEADER.seed) + FRAMES[0][32 : 32 + length] + b"\0" + FRAMES[0][32 + length :]
    with pytest.raises(BadFrame):
        read(grown)


def test_frames_in_another_order_repeated_or_left_out_are_bad() -> None:
    for data in (FRAMES[1], FRAMES[0] + FRAMES[0], FRAMES[1] + FRAMES[0], FRAMES[0] + FRAMES[1] + FRAMES[1]):
        with pytest.raises(BadFrame, match="expected seq"):
            read(data)


# ------------------------------------------------------------------------------------------------ the durable watermark


def test_the_watermark_is_the_highest_of_every_header_behind_the_damage() -> None:
    data = b"garbage" + FRAMES[1] + b"DMF1 and more" + FRAMES[0]
    assert frame.last_durable(file_of(data), 0, HEADER.seed) == 1
    assert frame.last_durable(file_of(data), 8, HEADER.seed) == 0  # behind the first byte of the only one that says 1


def test_the_watermark_is_found_across_the_border_of_two_windows() -> None:
    """A header may begin in the last byte of what is read at once (1 MiB)."""
    for start in ((1 << 20) - 32, (1 << 20) - 31, (1 << 20) - 1, 1 << 20):
        assert frame.last_durable(file_of(bytes(start) + FRAMES[1]), 0, HEADER.seed) == 1


def test_a_file_full_of_magics_is_scanned_once() -> None:
    assert frame.last_durable(file_of(b"DMF1" * 100_000), 0, HEADER.seed) == 0


def test_frames_inside_documents_cause_nothing() -> None:
    """A log kept as a document in its own store: its frames have the right seed, and must not be taken for ours.

    Not even when the commit that carries them is torn at any byte: what they say had been acknowledged, we have.
    """
    disk = small_store(commits=3, snapshots=())
    own_log = disk.files[last_segment(disk)].decode("latin-1")
    with opened(disk, segment_bytes=1 << 20) as database:
        before = contents(database)
        clean = copy(disk)
        database["c"].add("log", raw=[7, 7], documents=own_log, metadatas={"log": own_log})
        after = contents(database)
    name = last_segment(disk)
    with opened(copy(disk)) as database:
        assert contents(database) == after
        assert database.recovery is None
    whole, intact = bytes(disk.files[name]), len(clean.files[name])
    cuts = range(intact + 1, len(whole), 7)
    for size in cuts:
        torn = copy(clean)
        torn.files[name] += whole[intact:size]
        with opened(torn) as database:
            assert contents(database) == before
    assert len(cuts) > 100


# ---------------------------------------------------------------------------------------------------------------- seals


def sealed(seal: Seal = SEAL) -> bytes:
    return b"".join(FRAMES) + frame.encode_seal(seal, 1, HEADER.seed)


def test_a_seal_is_read_from_the_front_and_from_the_back() -> None:
    found, reader = read(sealed())
    assert len(found) == 2
    assert reader.seal == SEAL
    assert frame.read_seal(file_of(HEADER.encode() + sealed()), HEADER) == (SEAL, 128 + sum(map(len, FRAMES)))


def test_a_seal_has_the_digest_of_the_spec() -> None:
    body = b"".join(
        (
            (2).to_bytes(8, "little"),
            SEAL.log_size.to_bytes(8, "little"),
            SEAL.link,
            SEAL.log_root,
        )
    )
    assert sealed().endswith(body + sha256(b"\x18" + (1).to_bytes(8, "little") + body).digest())


def test_a_seal_with_any_bit_flipped_is_bad_from_both_sides() -> None:
    start = sum(map(len, FRAMES))
    whole = sealed()
    for changed in bit_flips(whole[start:]):
        with pytest.raises(BadFrame):
            read(whole[:start] + changed)
        with pytest.raises(BadFrame):
            frame.read_seal(file_of(HEADER.encode() + whole[:start] + changed), HEADER)


def test_a_seal_cut_or_followed_by_a_byte_is_bad() -> None:
    start, whole = sum(map(len, FRAMES)), sealed()
    for data in [whole[:size] for size in range(start + 1, len(whole))] + [whole + b"\0", whole + FRAMES[0]]:
        with pytest.raises(BadFrame):
            read(data)
        with pytest.raises(BadFrame):
            frame.read_seal(file_of(HEADER.encode() + data), HEADER)


@pytest.mark.parametrize(
    "seal",
    [
        Seal(1, SEAL.log_size, SEAL.link, SEAL.log_root),
        Seal(3, SEAL.log_size, SEAL.link, SEAL.log_root),
        Seal(2, SEAL.log_size, LINK_ZERO, SEAL.log_root),
    ],
)
def test_a_seal_that_says_something_else_than_the_commits_before_it_is_bad(seal: Seal) -> None:
    with pytest.raises(BadFrame, match="seal"):
        read(sealed(seal))


def test_a_commit_where_the_seal_should_be_is_not_a_seal() -> None:
    with pytest.raises(BadFrame):
        frame.read_seal(file_of(HEADER.encode() + b"".join(FRAMES)), HEADER)
    with pytest.raises(BadFrame):
        frame.read_seal(file_of(HEADER.encode()), HEADER)


# ------------------------------------------------------------------------------------------------------ segment headers


def test_a_segment_header_is_read_back_cut_and_flipped() -> None:
    data = SegmentHeader(STORE, 5, 12, CHANGES[0].link, CHANGES[0].log.root).encode()
    assert SegmentHeader.decode(data).encode() == data
    for broken in [data[:size] for size in range(len(data))] + list(bit_flips(data)):
        with pytest.raises(CorruptionError):
            SegmentHeader.decode(broken)


@pytest.mark.parametrize(
    "at, value, error",
    [
        (8, 1, FormatError),
        (8, 0xFFFF, FormatError),
        (8, 0, FormatError),
        (10, 1, CorruptionError),
        (12, 127, CorruptionError),
        (112, 1, CorruptionError),
        (122, 1, CorruptionError),
    ],
)
def test_a_segment_header_with_an_unknown_field_and_a_right_crc(at: int, value: int, error: type[DetmemError]) -> None:
    data = bytearray(HEADER.encode())
    data[at : at + 2] = value.to_bytes(2, "little")
    data[124:] = crc32(data[:124]).to_bytes(4, "little")
    with pytest.raises(error) as caught:
        SegmentHeader.decode(bytes(data))
    assert isinstance(caught.value, FormatError) == (error is FormatError)


def test_a_log_of_a_newer_format_is_neither_damage_nor_a_crash_in_rotation() -> None:
    disk = small_store()
    data = disk.files[last_segment(disk)]
    data[8:10] = (3).to_bytes(2, "little")
    data[124:128] = crc32(data[:124]).to_bytes(4, "little")
    before = {name: bytes(content) for name, content in disk.files.items()}
    with pytest.raises(FormatError, match="format 3"):
        opened(disk)
    assert {name: bytes(content) for name, content in disk.files.items()} == before


def test_damage_is_no_bad_frame_outside_the_journal() -> None:
    """``BadFrame`` is a place; the verdict that callers see is ``LogDamaged``."""
    disk = small_store()
    disk.files[last_segment(disk)][200] ^= 1
    with pytest.raises(LogDamaged):
        opened(disk)
