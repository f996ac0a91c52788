"""What lies in a store's folder: names, listings, and reading the log's frames in order.

It reads and moves; what a finding means is decided in ``recovery``.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Generator
from dataclasses import dataclass

from detmem.errors import CorruptionError, LogDamaged, StorageError
from detmem.journal.disk import LOCK_WORD, Disk, File
from detmem.journal.frame import BadFrame, Frame, Seal, SegmentHeader, SegmentReader
from detmem.journal.head import HEAD, head_size_is_right, read_heads

__all__ = [
    "ARCHIVES",
    "KEYS",
    "LOCK",
    "LOG",
    "QUARANTINE",
    "SNAPSHOTS",
    "TILES",
    "Segment",
    "copy_bytes",
    "copy_out",
    "damaged",
    "frames",
    "holds_store",
    "open_if_there",
    "quarantine_name",
    "read_header",
    "remove_temporaries",
    "segment_name",
    "segment_seqs",
    "snapshot_name",
    "snapshot_seqs",
]

LOCK, LOG, SNAPSHOTS, QUARANTINE, KEYS, TILES = "LOCK", "log", "snap", "quarantine", "keys", "tiles"
ARCHIVES = "ARCHIVES"
_OUR_NAMES = {HEAD, f"{HEAD}.tmp", LOCK, LOG, SNAPSHOTS, QUARANTINE, KEYS, TILES, ARCHIVES, f"{ARCHIVES}.tmp"}
_NAME = re.compile(r"([0-9]{20})\.(seg|snap)")
_COPY_BYTES = 1 << 20
_NO_END = 1 << 63


@dataclass(slots=True)
class Segment:
    """One segment file: its header, and its seal unless it is the last."""

    header: SegmentHeader
    seal: Seal | None = None

    @property
    def first_seq(self) -> int:
        return self.header.first_seq

    @property
    def name(self) -> str:
        return segment_name(self.first_seq)


def segment_name(first_seq: int) -> str:
    """File of the segment that starts at ``first_seq``."""
    return f"{LOG}/{first_seq:020d}.seg"


def snapshot_name(seq: int) -> str:
    """File of the snapshot at ``seq``."""
    return f"{SNAPSHOTS}/{seq:020d}.snap"


def segment_seqs(disk: Disk) -> list[int]:
    """The first seqs of the segment files, ascending."""
    return _numbers(disk, LOG, "seg")


def snapshot_seqs(disk: Disk) -> list[int]:
    """The seqs of the snapshot files, ascending."""
    return _numbers(disk, SNAPSHOTS, "snap")


def holds_store(disk: Disk) -> bool | None:
    """True for a store, None for nothing yet, False for something that is not ours."""
    names = set(disk.list(""))
    if names & {HEAD, LOG, SNAPSHOTS}:
        if segment_seqs(disk) or snapshot_seqs(disk):
            return True
        if HEAD in names:  # other programs keep files of this name, git for one
            known = any(head is not None for head in read_heads(disk))
            return known or (names <= _OUR_NAMES and head_size_is_right(disk))
        if any(not name.endswith(".tmp") for folder in (LOG, SNAPSHOTS) for name in disk.list(folder)):
            return False
    return None if names <= _OUR_NAMES and (LOCK not in names or _is_our_lock(disk)) else False


def _is_our_lock(disk: Disk) -> bool:
    """Whether LOCK is empty or says what ours say: a file of that name may be anybody's."""
    word = LOCK_WORD.encode("ascii")
    file = disk.open(LOCK)
    text = file.pread(len(word), 0)
    file.close()
    return text in (b"", word)


def frames(
    disk: Disk, start: int, stop: int | None, acknowledged: int = 0
) -> Generator[tuple[Segment, Frame], None, None]:
    """Good frames with start <= seq < stop (None: to the end), read from disk.  ``LogDamaged`` at one that is not; how
    much had been ``acknowledged`` it knows from the caller, and from what stands behind.

    Frames before ``start`` are passed over by their headers; the first one read must follow the link before it.
    """
    stop = _NO_END if stop is None else stop
    firsts = segment_seqs(disk)
    for first, following in zip(firsts, [*firsts[1:], stop], strict=False):  # no segment: nothing, not even a stop
        if following <= start or first >= stop or start >= stop:
            continue
        known = max(acknowledged, 0 if following >= _NO_END else min(stop, following) - 1)
        try:
            segment = Segment(read_header(disk, first))
        except CorruptionError as error:
            raise damaged(segment_name(first), 0, str(error), first - 1, max(known, first - 1)) from None
        file = disk.open(segment.name)
        reader = SegmentReader(file, segment.header)
        try:
            reader.skip(start)
            for frame in reader:
                yield segment, frame
                if frame.seq + 1 >= stop:  # before the next is looked at: it may be torn, or being written
                    break
        except BadFrame as bad:
            known = max(known, reader.seq, reader.durable_behind)
            raise damaged(segment_name(first), bad.offset, bad.reason, reader.seq, known) from None
        finally:
            file.close()


def read_header(disk: Disk, first_seq: int) -> SegmentHeader:
    """The header of a segment file; ``CorruptionError`` when it is bad or another's."""
    file = disk.open(segment_name(first_seq))
    try:
        header = SegmentHeader.decode(file.pread(SegmentHeader.size_bytes, 0))
    finally:
        file.close()
    if header.first_seq != first_seq:
        raise CorruptionError(f"the file's name says seq {first_seq}, its header {header.first_seq}")
    return header


def damaged(name: str, offset: int, reason: str, last_good: int, last_known: int) -> LogDamaged:
    """A refusal that says where, from which seq on something is lost, and how much before it is intact."""
    return LogDamaged(
        f"{name}, offset {offset}: {reason}; {last_good} commits before it are intact; acknowledged were {last_known}",
        segment=name,
        offset=offset,
        first_lost_seq=last_good + 1,
        last_known_seq=last_known,
    )


def _numbers(disk: Disk, folder: str, ending: str) -> list[int]:
    matches = [_NAME.fullmatch(name) for name in disk.list(folder)]
    return sorted(int(match[1]) for match in matches if match and match[2] == ending)


def open_if_there(disk: Disk, name: str) -> File | None:
    """A file opened for reading, or None when it is gone."""
    try:
        return disk.open(name)
    except StorageError as error:
        if error.errno == errno.ENOENT:
            return None
        raise


def remove_temporaries(disk: Disk) -> None:
    """Remove what a crash left half made."""
    for folder in ("", LOG, SNAPSHOTS, QUARANTINE, KEYS):
        for name in disk.list(folder):
            if name.endswith(".tmp"):
                disk.remove(f"{folder}/{name}" if folder else name)


def quarantine_name(disk: Disk, first_seq: int, offset: int) -> str:
    """A free name in quarantine for what stood in a segment at ``offset``."""
    disk.make_folder(QUARANTINE)
    disk.sync_folder("")
    taken = disk.list(QUARANTINE)
    stem = f"{first_seq:020d}-{offset}"
    names = (f"{stem}.{number}" for number in range(len(taken) + 1))
    return f"{QUARANTINE}/{next(name for name in names if name not in taken)}"


def copy_bytes(old: File, new: File, start: int, stop: int) -> None:
    """Bytes [start, stop) of one file, to the beginning of another."""
    for at in range(start, stop, _COPY_BYTES):
        new.pwrite(old.pread(min(_COPY_BYTES, stop - at), at), at - start)


def copy_out(disk: Disk, file: File, first_seq: int, start: int, stop: int) -> str:
    """Copy bytes [start, stop) of a segment to quarantine, synced, before they are cut off."""
    name = quarantine_name(disk, first_seq, start)
    temporary = f"{name}.tmp"
    copy = disk.open(temporary, create=True)
    try:
        copy_bytes(file, copy, start, stop)
        copy.sync()
    finally:
        copy.close()
    disk.rename(temporary, name)
    disk.sync_folder(QUARANTINE)
    return name
