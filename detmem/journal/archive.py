"""Payloads moved out of a store: the segments go to an archive whole, their headers stay.

Rule 1  What is moved is read again where it went, every payload against its commitment, before it is let go of here.
Rule 2  Here stay all headers, commitments, leaves, links, seals and roots: the chain, every root and every proof can be
        computed without the archive.  What needs the payloads (a past moment, a replay) says where they are.
Rule 3  ``ARCHIVES`` names the places, one a line, before anything is let go of.  An erasure goes there too, and is
        refused while one cannot be reached.

The files of an archive are segments of this store: put back into ``log/`` of a closed store they are what they were.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from detmem.errors import CorruptionError, Divergence, LogDamaged, StorageError, UsageError
from detmem.journal.disk import Disk, File, OsDisk
from detmem.journal.erasure import WRITES, changes, is_gone, rewrite, sealed, singles
from detmem.journal.files import ARCHIVES, LOG, copy_bytes, open_if_there, read_header, segment_name, segment_seqs
from detmem.journal.frame import BadFrame, Frame, SegmentHeader, SegmentReader, read_seal
from detmem.machine import commands
from detmem.machine.commands import Operation
from detmem.machine.runs import Operations, Run

__all__ = ["check_whole", "has_archived", "move", "places", "reached"]


def has_archived(frame: Frame) -> bool:
    """Whether payloads of this commit lie elsewhere."""
    return any(one.archived for one in singles(frame))


def places(disk: Disk) -> list[str]:
    """Where payloads of this store have been moved to."""
    file = open_if_there(disk, ARCHIVES)
    if file is None:
        return []
    data = file.pread(file.size(), 0)
    file.close()
    lines = data.decode("utf-8", "surrogateescape").split("\n")  # and not at what else may end a line: paths hold it
    return [line for line in lines if line]


def reached(disk: Disk) -> list[Disk]:
    """The archives of this store, all of them, with every segment that was moved; ``StorageError`` otherwise."""
    found: list[Disk] = []
    for place in places(disk):
        archive = OsDisk(place)
        if not archive.is_folder():
            raise StorageError(errno.ENOENT, "an archive of this store is not there, and may hold what shall go", place)
        found.append(archive)
    there = [(archive, set(segment_seqs(archive))) for archive in found]
    for first in segment_seqs(disk):
        if _is_moved(disk, first) and not any(
            first in firsts and _begins_alike(archive, disk, first) for archive, firsts in there
        ):
            name = segment_name(first)
            raise StorageError(
                errno.ENOENT, "no archive of this store holds this segment, which was moved to one", name
            )
    return found


def check_whole(archives: Sequence[Disk]) -> None:
    """``LogDamaged`` unless every segment in them can be written anew: an erasure that met one later could neither go
    on nor back, nor could the next open for writing."""
    for archive in archives:
        for first in segment_seqs(archive):
            try:
                changes(archive, first, lambda frame: None)
            except CorruptionError as error:
                raise _damaged(archive, first, error) from None


def _damaged(archive: Disk, first: int, error: CorruptionError) -> LogDamaged:
    return LogDamaged(f"{archive.path(segment_name(first))!r}, in an archive of this store, is damaged: {error}")


def _is_moved(disk: Disk, first: int) -> bool:
    """Whether a segment's payloads lie elsewhere: the first one that was not erased says so."""
    file = disk.open(segment_name(first))
    try:
        for frame in SegmentReader(file, read_header(disk, first)):
            for part in frame.operations.parts():
                if isinstance(part, Run) or (part.type in WRITES and not part.erased):
                    return False
                if part.archived:
                    return True
    finally:
        file.close()
    return False


def _begins_alike(archive: Disk, disk: Disk, first: int) -> bool:
    try:
        header = read_header(archive, first)
    except CorruptionError as error:
        raise _damaged(archive, first, error) from None
    return header == read_header(disk, first)


def move(disk: Disk, archive: OsDisk) -> list[str]:
    """Move the payloads of all sealed segments; returns the names of these segments.

    The caller has written a snapshot behind them.  Cut off anywhere it leaves a whole store, and can be called again.
    """
    place = archive.path("")
    if "\n" in place or "\r" in place:
        raise UsageError(f"an archive's path must be one line, found {place!r}")
    if set(archive.list("")) - {LOG}:
        raise UsageError(f"{place!r} holds other things than an archive does")
    ours = read_header(disk, segment_seqs(disk)[0]).store_id
    there = set(segment_seqs(archive))
    for first in sorted(there):  # an erasure here would go through all of them
        if read_header(archive, first).store_id != ours:
            raise UsageError(f"{archive.path(segment_name(first))!r} belongs to another store")
    firsts = [first for first in segment_seqs(disk)[:-1] if changes(disk, first, _bare)]
    for first in there.intersection(firsts):
        _check_replaceable(disk, archive, read_header(disk, first))
    archive.make_folder(LOG)
    archive.sync_folder("")
    _name_place(disk, place)  # before anything is there that an erasure would have to reach
    for first in firsts:
        _copy_segment(disk, archive, first)
    for first in firsts:
        rewrite(disk, first, _bare)
    return [segment_name(first) for first in firsts]


def _bare(frame: Frame) -> Operations | None:
    parts: list[Operation | Run] = []
    changed = False
    for part in frame.operations.parts():
        if isinstance(part, Run):
            parts += [commands.archived(part.operation(row)) for row in range(len(part.ids))]
            changed = True
        elif part.type in WRITES and not part.erased:
            parts.append(commands.archived(part))
            changed = True
        else:
            parts.append(part)
    return Operations(parts) if changed else None


def _copy_segment(disk: Disk, archive: Disk, first: int) -> None:
    name, header = segment_name(first), read_header(disk, first)
    temporary = f"{name}.tmp"
    old = disk.open(name)
    try:
        new = archive.open(temporary, create=True)
        try:
            copy_bytes(old, new, 0, old.size())
            new.sync()
            reader, again = SegmentReader(old, header), SegmentReader(new, header)
            same = sum(1 for _ in sealed(reader, first)) == sum(1 for _ in sealed(again, first))
            if not same or reader.seal != again.seal:
                raise Divergence(f"{archive.path(temporary)}: expected {reader.seal}, read back {again.seal}")
        finally:
            new.close()
    finally:
        old.close()
    archive.rename(temporary, name)
    archive.sync_folder(LOG)


def _check_replaceable(disk: Disk, archive: Disk, header: SegmentHeader) -> None:
    """``UsageError`` unless the archive's segment is the store's own, from before or damaged: a copy of a store goes
    its own way, and the segment in which they part begins alike; nor may what the other has erased come back."""
    name = segment_name(header.first_seq)
    ours, theirs = disk.open(name), archive.open(name)
    try:
        seal, _ = read_seal(ours, header)
        if read_header(archive, header.first_seq) != header or read_seal(theirs, header)[0] != seal:
            raise UsageError(f"{name} of the archive belongs to another store or another history")
        returned = _gone(theirs, header) - _gone(ours, header)
        if returned:
            _, collection, id = min(returned)
            raise UsageError(
                f"{id!r} in {collection!r} has been erased from {name} of the archive, and not from this copy of its "
                "store: erase the same here first, or choose another place"
            )
    except BadFrame:
        return
    finally:
        ours.close()
        theirs.close()


def _gone(file: File, header: SegmentHeader) -> set[tuple[int, str, str]]:
    """What has been erased from a segment."""
    return {
        (frame.seq, one.collection, one.id)
        for frame in SegmentReader(file, header)
        for one in singles(frame)
        if is_gone(one)
    }


def _name_place(disk: Disk, place: str) -> None:
    known = places(disk)
    if place in known:
        return
    temporary = f"{ARCHIVES}.tmp"
    file = disk.open(temporary, create=True)
    file.pwrite("".join(f"{one}\n" for one in [*known, place]).encode("utf-8", "surrogateescape"), 0)
    file.sync()
    file.close()
    disk.rename(temporary, ARCHIVES)
    disk.sync_folder("")
