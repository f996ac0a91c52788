"""A store that somebody edited: every byte of what it holds, and edits that are covered up, one layer after the other.

Each layer that a forger mends is caught by the next; who mends them all has made another store, and only a checkpoint
that was kept elsewhere tells it from the old one.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from detmem.database import verify_disk
from detmem.journal.disk import MemoryDisk
from detmem.journal.frame import Frame, Seal, SegmentHeader, encode_commit, encode_seal
from detmem.machine import commands
from detmem.machine.commands import Operation
from detmem.machine.commitment import LINK_ZERO, LogTree, commit_leaf
from detmem.machine.commitment import link as link_of
from detmem.machine.runs import Operations
from detmem.machine.stage import COMMIT_KIND, VERSION
from detmem.machine.state import State
from tests.journal.stores import copy, frames_of, names, newest_head, opened, set_heads, small_store

LEVELS = ("chain", "replay")
COMMITS, SNAPSHOT = 8, 5
LAYERS = ("payload", "commitment", "link", "all links", "HEAD", "roots", "snapshots")


def written() -> MemoryDisk:
    """Seven records, one commit each, in segments of some three commits; a snapshot in the middle."""
    return small_store(commits=COMMITS, snapshots=(SNAPSHOT,))


def parts(disk: MemoryDisk, name: str, frame: Frame) -> dict[str, range]:
    """Where in its file a record's vector, metadata and document lie: the parts of the payload, by their bytes."""
    (operation,) = frame.operations
    vector, content = bytes(operation.vector or b""), bytes(operation.content or b"")
    data = bytes(disk.files[name])
    at = data.index(vector + content, frame.offset)
    middle = at + len(vector) + 1  # behind the head of the pair [metadata, document]
    document = at + len(vector) + content.rindex(b"d") - 1  # with the head of its text
    return {
        "vector": range(at, at + len(vector)),
        "metadata": range(middle, document),
        "document": range(document, at + len(vector) + len(content)),
    }


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("part", ["vector", "metadata", "document"])
def test_an_edit_of_any_byte_of_a_record_is_named_by_seq_file_and_offset(part: str, level: str) -> None:
    disk = written()
    edited = 0
    for name in names(disk, "log"):
        for frame in frames_of(disk, name):
            if frame.seq == 1:  # makes the collection
                continue
            for at in parts(disk, name, frame)[part]:
                other = copy(disk)
                other.files[name][at] ^= 1 << at % 8
                report = verify_disk(other, level, None)
                assert (report.ok, report.seq, report.first_bad_seq) == (False, frame.seq - 1, frame.seq)
                assert (report.file, report.offset) == (name, frame.offset)
                edited += 1
    assert edited >= 7 * {"vector": 8, "metadata": 4, "document": 3}[part]


@pytest.mark.parametrize("level", LEVELS)
def test_an_edit_of_any_byte_of_a_link_or_a_note_is_named(level: str) -> None:
    disk = written()
    with opened(disk) as database:
        database["c"].link("id2", "follows", "id3")
        database.record(bytes(range(32)), "a note")
        database["c"].unlink("id2", "follows", "id3")
    edited = set()
    for name in names(disk, "log"):
        for frame in frames_of(disk, name):
            if frame.seq <= COMMITS:
                continue
            for at in range(frame.offset, frame.offset + frame.size):
                other = copy(disk)
                other.files[name][at] ^= 1 << at % 8
                report = verify_disk(other, level, None)
                assert (report.ok, report.first_bad_seq, report.file) == (False, frame.seq, name)
                assert report.offset == frame.offset
                edited.add(frame.seq)
    assert edited == {COMMITS + 1, COMMITS + 2, COMMITS + 3}


def forged(disk: MemoryDisk, seq: int, layers: tuple[str, ...]) -> MemoryDisk:
    """The document of commit ``seq`` is another, and what is named in ``layers`` has been made to fit."""
    other = copy(disk)
    state, log, before = State(), LogTree(), LINK_ZERO
    for name in names(disk, "log"):
        header = SegmentHeader.decode(bytes(disk.files[name][: SegmentHeader.size_bytes]))
        sealed = name != names(disk, "log")[-1]
        frames = frames_of(disk, name)
        if "all links" in layers:
            header = replace(header, log_size=log.size, link=before, log_root=log.root)
        out = bytearray(header.encode())
        for frame in frames:
            operations = list(frame.operations)
            if frame.seq == seq:
                operations = [reworded(operations[0], whole="commitment" in layers)]
            root = frame.state_root
            if "roots" in layers:
                change = state.apply(operations)
                state.publish(change)
                root = change.state_root
            joined = b"".join(one.leaf for one in operations)
            closing = commit_leaf(frame.seq, len(operations), root)
            mended = "all links" in layers or (frame.seq == seq and "link" in layers)
            link = link_of(before, COMMIT_KIND, 0, VERSION, frame.seq, joined, closing) if mended else frame.link
            one = replace(frame, operations=Operations(operations), state_root=root, link=link)
            out += encode_commit(one, frame.durable_seq, header.seed)
            before, log = link, log.extended(joined + closing)
        if sealed:
            seal = Seal(len(frames), log.size, before, log.root)
            out += encode_seal(seal, header.first_seq, header.seed)
        other.files[name] = out
    head = newest_head(other)
    if "HEAD" in layers:
        head = replace(head, link=before)
    if "snapshots" in layers:
        head = replace(head, snapshot_seq=0)
        for name in names(other, "snap"):
            other.remove(name)
    set_heads(other, head, head)
    return other


def reworded(operation: Operation, *, whole: bool) -> Operation:
    """The same record with another document; not ``whole``: with the commitments of the old one."""
    metadata, document = operation.meaning()
    assert document is not None
    vector = bytes(operation.vector or b"")
    other = commands.write(operation.type, operation.collection, operation.id, vector, (metadata, document.upper()))
    return other if whole else operation._replace(content=other.content)


@pytest.mark.parametrize("seq", [2, SNAPSHOT - 1, SNAPSHOT + 1, COMMITS - 1])
def test_what_a_forger_covers_up_is_caught_one_layer_further(seq: int) -> None:
    disk = written()
    with opened(disk, write=False) as database:
        kept = database.checkpoint()

    def found(*layers: str, level: str, expect: bool = False) -> tuple[bool, int, int | None, str]:
        report = verify_disk(forged(disk, seq, layers), level, kept if expect else None)
        return report.ok, report.seq, report.first_bad_seq, report.reason or ""

    here, next_one, end = (False, seq - 1, seq), (False, seq, seq + 1), (False, COMMITS - 1, COMMITS)
    for level in LEVELS:
        *place, why = found(level=level)
        assert (*place, "commitment" in why) == (*here, True)
        *place, why = found("commitment", level=level)
        assert (*place, "expected link" in why) == (*here, True)
    assert found(*LAYERS[1:3], level="chain")[:3] == next_one
    assert found(*LAYERS[1:3], level="replay")[:3] == here
    *place, why = found(*LAYERS[1:4], level="chain")
    assert (*place, "HEAD acknowledged" in why) == (*end, True)
    assert found(*LAYERS[1:4], level="replay")[:3] == here
    chain = found(*LAYERS[1:5], level="chain")
    assert chain[0] or "snap/" in chain[3]  # a snapshot holds the link of its seq
    *place, why = found(*LAYERS[1:5], level="replay")
    assert (*place, "the log says state root" in why) == (*here, True)
    ok, reached, first_bad, why = found(*LAYERS[1:6], level="replay")
    assert (ok, reached, first_bad, "snap/" in why) == (
        (True, COMMITS, None, False) if seq > SNAPSHOT else (False, COMMITS, None, True)
    )
    for level in LEVELS:
        assert found(*LAYERS[1:], level=level)[0]  # another store, whole in itself
        *place, why = found(*LAYERS[1:], level=level, expect=True)
        assert (*place, "pass through" in why) == (*end, True)


def test_the_forgers_tools_are_right() -> None:
    """Nothing edited and everything mended is the store as it was."""
    disk = written()
    same = forged(disk, 0, LAYERS[:4])
    assert {name: bytes(data) for name, data in same.files.items()} == {
        name: bytes(data) for name, data in disk.files.items() if name != "HEAD"
    } | {"HEAD": bytes(same.files["HEAD"])}
