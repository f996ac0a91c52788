"""Copies of a store: a backup beside a live writer, and mending damaged segments from a copy.

Both verify what they write before they call it done.  Nothing is ever mended without being asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

from detmem.errors import CorruptionError, LogDamaged
from detmem.journal import snapshot
from detmem.journal.archive import has_archived, places
from detmem.journal.audit import verify
from detmem.journal.disk import Disk
from detmem.journal.erasure import Explained, check_explained, is_gone, singles, stripped
from detmem.journal.files import (
    ARCHIVES,
    KEYS,
    LOG,
    QUARANTINE,
    SNAPSHOTS,
    copy_bytes,
    copy_out,
    damaged,
    frames,
    open_if_there,
    read_header,
    segment_name,
    segment_seqs,
    snapshot_name,
    snapshot_seqs,
)
from detmem.journal.frame import Frame, Seal, SegmentHeader, SegmentReader, encode_commit, encode_seal, last_durable
from detmem.journal.head import HEAD, Head, HeadFile, newest_head
from detmem.journal.keys import KEY
from detmem.machine.commitment import LINK_ZERO, LogTree
from detmem.machine.links import Node

__all__ = ["Repaired", "backup", "repair"]


@dataclass(frozen=True, slots=True)
class Repaired:
    """Which segments were written anew from the copy, and where the damaged files went."""

    segments: tuple[str, ...]
    quarantined: tuple[str, ...]


def backup(source: Disk, dest: Disk, store_id: bytes, seq: int) -> None:
    """Copy the store as it stood at ``seq``: bytes before that place never change, so no lock is needed.

    ``dest`` is empty, or holds what an earlier call left.  HEAD is written last: an unfinished backup does not open.
    """
    for folder in ("", LOG, SNAPSHOTS, KEYS):
        for name in dest.list(folder):
            if folder or name in (HEAD, ARCHIVES):
                dest.remove(f"{folder}/{name}" if folder else name)
    for folder in (LOG, SNAPSHOTS, QUARANTINE, KEYS):
        dest.make_folder(folder)
    for name in (KEY, ARCHIVES):
        _copy(source, dest, name, None)
    head = Head(store_id, clean=True)
    snapshots = snapshot_seqs(source)  # before the segments: a live writer makes a segment first, then its snapshot
    firsts = [first for first in segment_seqs(source) if first <= seq + 1]
    for first in firsts:
        end, link = _end_of(source, first, seq) if first == firsts[-1] else (None, b"")
        _copy(source, dest, segment_name(first), end)
        if end is not None:
            head = replace(head, durable_seq=seq, segment=first, durable_offset=end, link=link)
    for number in snapshots:
        if number <= seq:
            name = snapshot_name(number)
            if not _copy(source, dest, name, None):  # the writer has newer ones, and let this one go
                continue
            file = dest.open(name)
            head = replace(head, snapshot_seq=number, snapshot_digest=snapshot.read_digest(file, name)[2])
            file.close()
    for folder in (LOG, SNAPSHOTS, KEYS, ""):
        dest.sync_folder(folder)
    HeadFile.create(dest, head).close()
    verdict = verify(dest, replay=False, watch=lambda position: None)
    if verdict.error is not None:
        raise verdict.error


def repair(disk: Disk, copy: Disk) -> Repaired:
    """Write each damaged or missing segment anew, from the commits of ``copy``.

    What the copy offers must continue the link before it, arrive at the link behind it where the next segment's header
    is good, and pass through HEAD's link: then it is the same history, whatever store it lies in.  What this log erases
    is left out, though the copy still holds it.  The damaged file goes to quarantine.  A torn tail is no damage: that
    is for opening.  ``LogDamaged`` when the copy cannot help.
    """
    head = newest_head(disk)
    if head is None:
        raise LogDamaged("HEAD is unreadable: open with accept_missing_head=True first, or start from the copy")
    disk.make_folder(LOG)  # it may be gone with all that was in it
    disk.sync_folder("")
    firsts = segment_seqs(disk)
    erased = _erasures(disk, copy, head, firsts)
    there, borders = set(firsts), sorted({*firsts, head.segment})
    mended: list[str] = []
    quarantined: list[str] = []
    border = SegmentHeader(head.store_id, 1, 0, LINK_ZERO, LogTree().root)
    log = LogTree()
    while True:
        first = border.first_seq
        at = bisect_right(borders, first)
        later = borders[at] if at < len(borders) else None
        last = later - 1 if later else max(head.durable_seq, _acknowledged(disk, border))
        named = first == head.segment and first not in there  # by HEAD, with nothing acknowledged in it
        if last < first and not named:
            break
        try:
            border, log = _walk(_good_frames(disk, border, last, first in there, later is not None), border, log)
        except CorruptionError as error:
            name = segment_name(first)
            temporary = f"{name}.tmp"
            following = _header_or_none(disk, later) if later in there else None
            try:
                after, log = _rewrite(copy, disk, temporary, border, log, last, erased)
                reaches = after.first_seq == last + 1
                joins = following.link == after.link if following else not later or _passes(copy, head)
                if not reaches or not joins or (first <= head.durable_seq <= last and not _passes(copy, head)):
                    why = (
                        "another history"
                        if reaches
                        else f"nothing behind seq {after.first_seq - 1}, or another history"
                    )
                    raise damaged(name, 0, f"{error}; the copy has {why}", first - 1, last) from None
            except CorruptionError:  # the copy's, or its being another's
                disk.remove(temporary)
                raise
            if first in there:  # a copy: at no moment is there no such segment
                file = disk.open(name)
                try:
                    quarantined.append(copy_out(disk, file, first, 0, file.size()))
                finally:
                    file.close()
            disk.rename(temporary, name)
            disk.sync_folder(LOG)
            there.add(first)
            border = after
            mended.append(name)
    return Repaired(tuple(mended), tuple(quarantined))


def _erasures(disk: Disk, copy: Disk, head: Head, firsts: list[int]) -> dict[Node, int]:
    """The last Erase of each record in this log: as it says itself, and where it is bad, as the copy does."""
    seen = Explained()
    last = head.durable_seq
    if firsts and firsts[-1] < 1 << 64:  # what no header can hold somebody else has named
        last = max(last, _acknowledged(disk, SegmentHeader(head.store_id, firsts[-1], 0, b"", b"")))
    reached = 0

    def take(source: Disk, stop: int) -> None:
        """From the commit behind ``reached`` on, as far as it goes; what is bad is mended or refused in its turn."""
        nonlocal reached
        try:
            with closing(frames(source, reached + 1, stop)) as found:  # so that no error of its end is lost
                for _, frame in found:
                    if frame.seq != reached + 1:  # a segment is missing
                        return
                    seen.take(frame)
                    reached = frame.seq
        except CorruptionError:
            return

    while reached < last:
        take(disk, last + 1)
        at = bisect_right(firsts, reached + 1)
        stop = firsts[at] if at < len(firsts) else last + 1
        take(copy, stop)
        reached = max(reached, stop - 1)
    return seen.erased


def _walk(source: Iterator[Frame], border: SegmentHeader, log: LogTree) -> tuple[SegmentHeader, LogTree]:
    """The border behind a segment's frames."""
    seq, link = border.first_seq - 1, border.link
    for frame in source:
        seq, link, log = frame.seq, frame.link, log.extended(frame.leaves)
    return SegmentHeader(border.store_id, seq + 1, log.size, link, log.root), log


def _good_frames(disk: Disk, expected: SegmentHeader, last: int, there: bool, sealed: bool) -> Iterator[Frame]:
    """A segment's frames up to seq ``last``; ``CorruptionError`` as soon as it is seen not to be what it should be."""
    if not there:
        raise CorruptionError("the segment is missing")
    if read_header(disk, expected.first_seq) != expected:
        raise CorruptionError("the segment's header is not the border of the one before it")
    file = disk.open(segment_name(expected.first_seq))
    reader = SegmentReader(file, expected)
    try:
        for frame in reader:
            yield frame
            if not sealed and frame.seq == last:  # what lies behind, torn or not, nobody has been promised
                return
    finally:
        file.close()
    if sealed and reader.seal is None:
        raise CorruptionError("the seal is missing")
    if reader.seal is not None and reader.seal.count == 0:
        raise CorruptionError("a seal, and no commit before it")
    if reader.seal is None and reader.seq != last:
        raise CorruptionError(f"the segment ends at seq {reader.seq}, and {last} had been acknowledged")


def _acknowledged(disk: Disk, border: SegmentHeader) -> int:
    """The highest seq that a frame of the last segment, good or not, says had been acknowledged; 0 without one."""
    file = open_if_there(disk, segment_name(border.first_seq))
    if file is None:
        return 0
    try:
        return last_durable(file, border.size_bytes, border.seed)
    finally:
        file.close()


def _passes(copy: Disk, head: Head) -> bool:
    """Whether the copy has been where HEAD was."""
    found = [frame.link for _, frame in frames(copy, head.durable_seq, head.durable_seq + 1)]
    return head.durable_seq == 0 or found == [head.link]


def _rewrite(
    copy: Disk,
    disk: Disk,
    name: str,
    border: SegmentHeader,
    log: LogTree,
    last: int,
    erased: dict[Node, int],
) -> tuple[SegmentHeader, LogTree]:
    """A segment from ``border`` up to seq ``last``, made of the copy's commits under this store's header, without what
    this store has ``erased``.  Sealed where it has a commit: HEAD's offset may be that of longer frames."""
    file = disk.open(name, create=True)
    try:
        file.pwrite(border.encode(), 0)
        end = border.size_bytes

        def written() -> Iterator[Frame]:
            nonlocal end
            for _, found in frames(copy, border.first_seq, last + 1):
                frame = stripped(found, erased)
                if has_archived(frame) and not places(disk):
                    raise damaged(name, 0, "the copy has moved payloads to an archive", frame.seq - 1, last)
                bare = [(one.collection, one.id) for one in singles(frame) if is_gone(one)]
                check_explained({node: frame.seq for node in bare if erased.get(node, 0) < frame.seq})
                data = encode_commit(frame, frame.seq - 1, border.seed)
                file.pwrite(data, end)
                end += len(data)
                yield frame

        after, log = _walk(written(), border, log)
        if after.first_seq > border.first_seq:
            seal = Seal(after.first_seq - border.first_seq, log.size, after.link, log.root)
            file.pwrite(encode_seal(seal, border.first_seq, border.seed), end)
        file.sync()
    finally:
        file.close()
    return after, log


def _header_or_none(disk: Disk, first: int) -> SegmentHeader | None:
    """None for one that is bad, as for one that is missing: it is mended in its turn, and until then HEAD says where
    the one before ends."""
    try:
        return read_header(disk, first)
    except CorruptionError:
        return None


def _end_of(disk: Disk, first: int, seq: int) -> tuple[int, bytes]:
    """Where in a segment the commit ``seq`` ends, and its link."""
    file = disk.open(segment_name(first))
    try:
        header = read_header(disk, first)
        end, link = header.size_bytes, header.link
        if first <= seq:
            for frame in SegmentReader(file, header):
                end, link = frame.offset + frame.size, frame.link
                if frame.seq == seq:  # before the next is looked at: it may be torn, or being written
                    break
        return end, link
    finally:
        file.close()


def _copy(source: Disk, dest: Disk, name: str, size: int | None) -> bool:
    """The first ``size`` bytes of a file, or all, synced; False when the file is gone."""
    old = open_if_there(source, name)
    if old is None:
        return False
    new = dest.open(name, create=True)
    try:
        copy_bytes(old, new, 0, old.size() if size is None else size)
        new.sync()
    finally:
        old.close()
        new.close()
    return True
