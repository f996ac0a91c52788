"""Giving payloads up: which operations an erasure names, and every file of a store written anew without them.

Rule 1  An operation without its payload is believed only if a later Erase of the log names its record.
Rule 2  Headers, leaves, links, seals and roots stay: nothing that was ever committed to changes.
Rule 3  The Erase is durable, and its segment sealed, before the first file changes; the snapshot that ends an erasure
        is written after the last has.  So an Erase behind the snapshot that an open begins with may be unfinished, and
        doing it again does no harm.

What ends with a rename is what other programs see.  What the file system, a disk or a backup keeps below or beside
these files is not ours to erase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from detmem.errors import Divergence, LogDamaged
from detmem.journal.disk import Disk, File
from detmem.journal.files import (
    LOG,
    QUARANTINE,
    damaged,
    frames,
    read_header,
    remove_temporaries,
    segment_name,
    segment_seqs,
)
from detmem.journal.frame import BadFrame, Frame, SegmentHeader, SegmentReader, commit_blocks, encode_seal
from detmem.journal.head import newest_head
from detmem.machine import commands
from detmem.machine.commands import Operation
from detmem.machine.links import Node
from detmem.machine.packed import Packed
from detmem.machine.runs import Operations, Run, Several

__all__ = [
    "WRITES",
    "Explained",
    "changes",
    "check_explained",
    "is_gone",
    "payloads_to_go",
    "rewrite",
    "sealed",
    "singles",
    "stripped",
    "sweep",
    "unexplained",
]

WRITES = (commands.ADD, commands.UPSERT, commands.UPDATE)


def singles(frame: Frame) -> Iterator[Operation]:
    """Operations of a frame among which are every Erase and every one without payload, and few others."""
    for part in frame.operations.held:
        if isinstance(part, Operation):
            yield part
        elif isinstance(part, Several) and not part.plain:
            yield from part


@dataclass(slots=True)
class Explained:
    """Walks over a log, and knows what was ``erased`` (the last seq for each record) and what is ``missing``: records
    of which a payload is gone and that no later Erase has named so far, with the seq of the first such payload."""

    erased: dict[Node, int] = field(default_factory=dict)
    missing: dict[Node, int] = field(default_factory=dict)

    def take(self, frame: Frame) -> None:
        """The next commit."""
        for one in singles(frame):
            node = one.collection, one.id
            if one.type == commands.ERASE:
                self.erased[node] = frame.seq
                self.missing.pop(node, None)
            elif one.erased and not one.archived:
                self.missing.setdefault(node, frame.seq)


def check_explained(missing: Mapping[Node, int]) -> None:
    """``LogDamaged`` unless every payload that is gone has been explained."""
    if not missing:
        return
    seq = min(missing.values())
    collection, id = min(node for node, first in missing.items() if first == seq)
    raise LogDamaged(
        f"seq {seq}: the payload of {id!r} in {collection!r} is gone, and no later commit erases that record; "
        f"{seq - 1} commits before it are intact",
        first_lost_seq=seq,
        last_known_seq=seq,
    )


def unexplained(disk: Disk, seq: int, missing: dict[Node, int]) -> dict[Node, int]:
    """What of ``missing``, up to ``seq``, no commit behind it erases."""
    if not missing:
        return {}
    seen = Explained(missing=dict(missing))
    head = newest_head(disk)
    for _, frame in frames(disk, seq + 1, seq + 1 if head is None else head.durable_seq + 1):
        seen.take(frame)
    return {node: first for node, first in seen.missing.items() if node in missing}


def _without_payloads(frame: Frame, erased: Mapping[Node, int]) -> Operations | None:
    """The frame's operations without the payloads that an Erase behind them names; None when none is left to go."""
    named: dict[Node, int] = {}  # by an Erase of this commit: the place of the last
    for place, part in enumerate(frame.operations.parts()):
        if isinstance(part, Operation) and part.type == commands.ERASE:
            named[part.collection, part.id] = place

    def goes(node: Node, place: int) -> bool:
        seq = erased.get(node, 0)
        return seq > frame.seq or (seq == frame.seq and named.get(node, 0) > place)

    def went() -> Iterator[tuple[Operation | Run, list[int]]]:
        """Each part, with the rows of it that go; a single operation is its row 0."""
        for place, part in enumerate(frame.operations.parts()):
            if isinstance(part, Run):
                yield part, [row for row, id in enumerate(part.ids) if goes((part.collection, id), place)]
            else:
                held = part.type in WRITES and (part.archived or not part.erased)
                yield part, [0] if held and goes((part.collection, part.id), place) else []

    if not any(rows for _, rows in went()):
        return None
    parts: list[Operation | Run] = []
    for part, rows in went():
        if isinstance(part, Run):
            parts += _cut(part, rows)
        else:
            parts.append(commands.erased(part) if rows else part)
    return Operations(parts)


def payloads_to_go(frame: Frame, erased: Mapping[Node, int]) -> int:
    """How many payloads an Erase names and the frame still holds."""
    left = _without_payloads(frame, erased)
    return 0 if left is None else sum(map(is_gone, left)) - sum(map(is_gone, singles(frame)))


def is_gone(operation: Operation) -> bool:
    """Whether there was a payload that nobody has any more."""
    return operation.erased and not operation.archived


def stripped(frame: Frame, erased: Mapping[Node, int]) -> Frame:
    """The frame without the payloads that an Erase behind them names."""
    left = _without_payloads(frame, erased)
    return frame if left is None else replace(frame, operations=left)


def sweep(disk: Disk, erased: Mapping[Node, int], archives: Sequence[Disk]) -> None:
    """Write every sealed segment that holds a payload it should not hold anew, first in the archives, and empty
    quarantine.  The last segment of the store is the writer's and is left alone."""
    for one in (disk, *archives):
        remove_temporaries(one)

    def change(frame: Frame) -> Operations | None:
        return _without_payloads(frame, erased)

    for side, firsts in [*((one, segment_seqs(one)) for one in archives), (disk, segment_seqs(disk)[:-1])]:
        for first in firsts:
            if changes(side, first, change):
                rewrite(side, first, change)
    for one in archives:
        one.make_folder(LOG)  # it may be a new one, in the place of one in which nothing was
        one.sync_folder(LOG)
    for name in disk.list(QUARANTINE):  # torn and damaged bytes: nobody can say what they hold
        disk.remove(f"{QUARANTINE}/{name}")
    disk.sync_folder(QUARANTINE)  # and so that no temporary comes back


Change = Callable[[Frame], "Operations | None"]
"""The operations that a frame shall have instead; None: it is as it should be."""


def changes(disk: Disk, first: int, change: Change) -> bool:
    """Whether any frame of a sealed segment is not as it should be.  ``LogDamaged`` for anything that is not one."""
    file = disk.open(segment_name(first))
    try:
        reader = SegmentReader(file, read_header(disk, first))
        return any(change(frame) is not None for frame in sealed(reader, first))
    finally:
        file.close()


def sealed(reader: SegmentReader, first: int) -> Iterator[Frame]:
    """The frames of a sealed segment.  ``LogDamaged`` for anything else."""
    name = segment_name(first)
    try:
        yield from reader
    except BadFrame as bad:
        raise damaged(name, bad.offset, bad.reason, reader.seq, reader.seq + 1) from None
    if reader.seal is None:
        raise damaged(name, reader.offset, "the seal is missing", reader.seq, reader.seq + 1)


def rewrite(disk: Disk, first: int, change: Change) -> None:
    """A sealed segment anew; what was written is read again before it takes the place."""
    name, header = segment_name(first), read_header(disk, first)
    temporary = f"{name}.tmp"
    old = disk.open(name)
    try:
        new = disk.open(temporary, create=True)
        try:
            reader = SegmentReader(old, header)
            _write(new, header, reader, change)
            new.sync()
            again = SegmentReader(new, header)
            left = any(change(frame) is not None for frame in sealed(again, first))
            if left or again.seal != reader.seal:
                raise Divergence(f"{temporary}: expected {reader.seal} without payloads, read back {again.seal}")
        finally:
            new.close()
    finally:
        old.close()
    disk.rename(temporary, name)
    disk.sync_folder(LOG)


# -------------------------------------------------------------------------------------------------------------- inside


def _cut(run: Run, rows: list[int]) -> Iterator[Operation | Run]:
    """The run in pieces, where the given rows stand alone, without payload."""
    start = 0
    for row in [*rows, len(run.ids)]:
        if start < row:
            yield run if row - start == len(run.ids) else _part(run, slice(start, row))
        if row < len(run.ids):
            yield commands.erased(run.operation(row))
        start = row + 1


def _part(run: Run, rows: slice) -> Run:
    return Run(
        run.type,
        run.collection,
        run.ids[rows],
        run.matrix[rows],
        Packed.of(run.contents[rows]),
        run.headers[rows],
        run.leaves[32 * rows.start : 32 * rows.stop],
    )


def _write(new: File, header: SegmentHeader, reader: SegmentReader, change: Change) -> None:
    new.pwrite(header.encode(), 0)
    end = header.size_bytes
    for frame in sealed(reader, header.first_seq):
        changed = change(frame)
        kept = frame if changed is None else replace(frame, operations=changed)
        end = _put(new, end, commit_blocks(kept, frame.durable_seq, header.seed))
    assert reader.seal is not None
    _put(new, end, [encode_seal(reader.seal, header.first_seq, header.seed)])


def _put(file: File, offset: int, blocks: Iterable[bytes]) -> int:
    """Write at ``offset``; returns where that ends."""
    for block in blocks:
        file.pwrite(block, offset)
        offset += len(block)
    return offset
