"""Reading a whole log, from its first byte: is it what was written, and does it pass through a given checkpoint?

Unlike ``recovery`` this trusts no snapshot and repairs nothing: it is for the auditor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from detmem.errors import CorruptionError, Divergence, LogDamaged, SnapshotDamaged
from detmem.journal import snapshot
from detmem.journal.disk import Disk
from detmem.journal.erasure import Explained, check_explained, is_gone, payloads_to_go, singles, unexplained
from detmem.journal.files import (
    Segment,
    damaged,
    frames,
    open_if_there,
    read_header,
    segment_name,
    segment_seqs,
    snapshot_name,
    snapshot_seqs,
)
from detmem.journal.frame import BadFrame, Frame, SegmentHeader, SegmentReader
from detmem.journal.head import HEAD, Head, newest_head
from detmem.journal.past import Position
from detmem.journal.recovery import advance, check_place, read_segments
from detmem.machine.commitment import LINK_ZERO
from detmem.machine.links import Node
from detmem.machine.state import State

__all__ = ["Verdict", "verify"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """``position`` is the last good one; ``error`` is None when everything is good, else it was seen in ``file`` at
    ``offset`` (None: the file as a whole).

    ``operations`` were verified by hash; of ``erased`` of them the payload is gone, as the log explains; ``remaining``
    should have none and have it: an erasure is unfinished; of ``archived`` it lies elsewhere.
    """

    position: Position
    error: CorruptionError | None
    file: str | None = None
    offset: int | None = None
    operations: int = 0
    erased: int = 0
    remaining: int = 0
    archived: int = 0


@dataclass(slots=True)
class _Payloads:
    """What a walk has seen of payloads; ``before`` has, by seq, the position before each commit of which one is gone,
    and where it stands."""

    operations: int = 0
    gone: int = 0
    archived: int = 0
    last_archived: tuple[int, str, int] = 0, "", 0  # the seq of the last commit with such payloads, and its place
    explained: Explained = field(default_factory=Explained)
    before: dict[int, tuple[Position, str, int]] = field(default_factory=dict)

    def take(self, before: Position, file: str, frame: Frame) -> None:
        self.operations += len(frame.operations)
        gone, archived = sum(map(is_gone, singles(frame))), sum(one.archived for one in singles(frame))
        self.gone += gone
        self.archived += archived
        if archived:
            self.last_archived = frame.seq, file, frame.offset
        self.explained.take(frame)
        if gone:
            self.before[frame.seq] = before, file, frame.offset


class _Walk:
    """One pass over the log; ``position`` is as far as it was good, ``file`` and ``offset`` are what is looked at."""

    def __init__(
        self,
        disk: Disk,
        replay: bool,
        watch: Callable[[Position], None],
        visit: Callable[[str, Frame, Position], None],
        progress: Callable[[int, int], object],
    ) -> None:
        self.position = Position()
        self.file: str | None = None
        self.offset: int | None = None
        self._disk = disk
        self._state = State() if replay else None
        self._watch = watch
        self.payloads = _Payloads()
        self._visit = visit
        self._progress = progress
        self._read_bytes = self._all_bytes = 0
        self.snapshots = set(snapshot_seqs(disk))
        self.snapshot_error: SnapshotDamaged | None = None
        self.snapshot_file: str | None = None
        self.covered = 0  # the seq of the last good snapshot
        self.open_end: tuple[Head, Segment, int | None] | None = None  # what ``check_place`` asks, without a seal

    def run(self) -> None:
        head = newest_head(self._disk)
        if head is None:
            self._walk_what_is_intact()
            self.file, self.offset = HEAD, None
            raise LogDamaged("HEAD is missing or unreadable: nobody can say how much had been acknowledged")
        try:
            segments, _ = read_segments(self._disk, head)
        except CorruptionError:
            self._walk_what_is_intact(head.durable_seq)
            raise
        self._all_bytes = sum(self._size(segment) for segment in segments)
        durable = head.durable_seq
        self._arrived(self.position, LINK_ZERO, head)
        for segment in segments:
            durable = max(durable, self._segment(segment, segment is segments[-1], head, durable))
        self._progress(self._all_bytes, self._all_bytes)  # seals, and zeros written ahead, are no frames
        if not segments and durable > 0:
            raise damaged(segment_name(1), 0, "the log is missing", 0, durable)
        beyond = sorted(seq for seq in self.snapshots if seq > self.position.seq)
        if beyond:
            self.file, self.offset = snapshot_name(beyond[0]), None
            raise SnapshotDamaged(f"{self.file} lies behind the end of the log at {self.position.seq}")

    def _walk_what_is_intact(self, acknowledged: int = 0) -> None:
        """Bring ``position`` to where the damage begins; a wrong header or seal has been found, it does not say how far
        the frames are good."""
        link = LINK_ZERO
        for first in segment_seqs(self._disk):
            try:
                header = read_header(self._disk, first)
            except CorruptionError:
                return  # what ``read_segments`` has found
            if (header.first_seq, header.link) != (self.position.seq + 1, link):
                return
            file = self._disk.open(segment_name(first))
            try:
                for frame in SegmentReader(file, header):
                    position = self._advance(Segment(header), frame)
                    self._watch(position)
                    self._took(position, frame)
                    link = frame.link
            except BadFrame as bad:
                seq = self.position.seq
                raise damaged(segment_name(first), bad.offset, bad.reason, seq, max(acknowledged, seq + 1)) from None
            finally:
                file.close()

    def _size(self, segment: Segment) -> int:
        file = self._disk.open(segment.name)
        size = file.size()
        file.close()
        return size

    def _segment(self, segment: Segment, last: bool, head: Head, durable: int) -> int:
        file = self._disk.open(segment.name)
        reader = SegmentReader(file, segment.header)
        bad: BadFrame | None = None
        end = None  # of the frame that HEAD names
        try:
            self.file, self.offset = segment.name, 0
            self._check_border(segment.header)
            for frame in reader:
                position = self._advance(segment, frame)
                durable = max(durable, frame.durable_seq)
                end = frame.offset + frame.size if frame.seq == head.durable_seq else end
                self.payloads.take(self.position, segment.name, frame)
                self._arrived(position, frame.link, head)
                self._took(position, frame)
                self._progress(self._read_bytes + frame.offset, self._all_bytes)
        except BadFrame as error:
            bad = error
            durable = max(durable, reader.durable_behind)
        finally:
            file.close()
        self._read_bytes += reader.offset
        if reader.seal is not None:
            durable = max(durable, reader.seq)
            log = self.position.log
            if (reader.seal.log_size, reader.seal.log_root) != (log.size, log.root):
                raise damaged(segment.name, reader.offset, "the seal names another log root", reader.seq, durable)
        if (last and durable > reader.seq) or (reader.seal is None and not last):
            reason = bad.reason if bad is not None else "the log ends here, and more had been acknowledged"
            raise damaged(segment.name, reader.offset, reason, reader.seq, max(durable, reader.seq + 1))
        if reader.seal is None:
            self.open_end = head, segment, end
        return durable

    def _advance(self, segment: Segment, frame: Frame) -> Position:
        """Where a good frame leads; with a state, by applying it."""
        self.file, self.offset = segment.name, frame.offset
        if self._state is not None:
            advance(self._state, segment, frame)
        return self.position.after(frame)

    def _took(self, position: Position, frame: Frame) -> None:
        assert self.file is not None
        self._visit(self.file, frame, position)
        self.position = position

    def _check_border(self, header: SegmentHeader) -> None:
        log = self.position.log
        if (header.log_size, header.log_root) != (log.size, log.root):
            name, seq = segment_name(header.first_seq), self.position.seq
            raise damaged(name, 0, "the segment's header names another log root", seq, seq + 1)

    def _arrived(self, position: Position, link: bytes, head: Head) -> None:
        """``position`` has been reached with ``link``: is it what HEAD, snapshots and whoever watches say?"""
        if position.seq == head.durable_seq and link != head.link:
            raise Divergence(
                f"HEAD acknowledged link {head.link.hex()} at seq {position.seq}, the log has {link.hex()}"
            )
        if position.seq in self.snapshots:
            try:
                self._check_snapshot(position, link, head)
            except SnapshotDamaged as error:  # a cache: the log is read on
                if self.snapshot_error is None:
                    self.snapshot_error, self.snapshot_file = error, snapshot_name(position.seq)
        self._watch(position)

    def _check_snapshot(self, position: Position, link: bytes, head: Head) -> None:
        name = snapshot_name(position.seq)
        file = open_if_there(self._disk, name)
        if file is None:  # a live writer has newer ones, and let this one go since it was listed
            return
        try:
            if self._state is None:
                seq, found, digest = snapshot.read_digest(file, name)
            else:
                state, digest = snapshot.load(file, name)
                seq, found = state.seq, state.link
                if state.root != position.state_root or state.log.root != position.log.root:
                    raise SnapshotDamaged(f"{name}: other roots than the log at seq {position.seq}")
                if not _same_history(state, self._state):
                    raise SnapshotDamaged(f"{name}: other requests, erasures or births than the log up to {seq}")
        finally:
            file.close()
        if seq != position.seq or found != link:
            raise SnapshotDamaged(f"{name}: holds seq {seq} with link {found.hex()}, the log has {link.hex()}")
        if head.snapshot_seq == seq > 0 and head.snapshot_digest != digest:  # 0: HEAD names none
            raise SnapshotDamaged(f"{name}: HEAD names digest {head.snapshot_digest.hex()}, found {digest.hex()}")
        self.covered = seq


def verify(
    disk: Disk,
    *,
    replay: bool,
    watch: Callable[[Position], None],
    visit: Callable[[str, Frame, Position], None] = lambda file, frame, position: None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Verdict:
    """Check HEAD, every segment, frame, seal and snapshot; with ``replay`` also that applying gives each logged root.

    ``watch`` sees every position in order (seq 0 included), and may raise a ``CorruptionError`` of its own; ``visit``
    sees every good frame, with the file it stands in and where it leads; ``progress`` is told (done, total) bytes of
    the log.
    """
    walk = _Walk(disk, replay, watch, visit, progress)
    seen = walk.payloads

    def failed(error: CorruptionError, position: Position, file: str | None, offset: int | None) -> Verdict:
        return Verdict(position, error, file, offset, seen.operations, seen.gone, 0, seen.archived)

    try:
        walk.run()
    except LogDamaged as error:
        place = (error.segment, error.offset) if error.segment else (walk.file, walk.offset)
        return failed(error, walk.position, *place)
    except CorruptionError as error:
        return failed(error, walk.position, walk.file, walk.offset)
    missing = seen.explained.missing
    seq, name, at = seen.last_archived
    try:  # a writer may have erased meanwhile, behind where this walk ended
        check_explained(unexplained(disk, walk.position.seq, missing))
    except CorruptionError as error:
        return failed(error, *seen.before[min(missing.values())])
    try:
        if walk.open_end is not None:
            check_place(*walk.open_end)
    except LogDamaged as error:
        return failed(error, walk.position, error.segment, None)
    newer = [one for one in snapshot_seqs(disk) if one not in walk.snapshots]  # written since the walk began
    if seq > max([walk.covered, *newer]) and walk.snapshot_error is None:
        lost = damaged(name, at, "its payloads lie in an archive, and no snapshot stands in for them", seq - 1, seq)
        return failed(lost, walk.position, name, at)
    counts = seen.operations, seen.gone, _remaining(disk, seen.explained.erased), seen.archived
    return Verdict(walk.position, walk.snapshot_error, walk.snapshot_file, None, *counts)


def _same_history(one: State, other: State) -> bool:
    """Whether two states with the same root agree in what a snapshot holds and no root of it covers."""
    if one.erased != other.erased or list(one.requests.items()) != list(other.requests.items()):
        return False
    if one.links.born != other.links.born:
        return False
    return all(np.array_equal(_born(one, name), _born(other, name)) for name in one.collections)


def _born(state: State, name: str) -> NDArray[np.int64]:
    """When each live record of a collection was written as it is, by id."""
    records = state.collections[name]
    return records.born[np.array(records.view(state.seq).in_id_order, dtype=np.int64)]


def _remaining(disk: Disk, erased: dict[Node, int]) -> int:
    """Payloads that an Erase names and that are still there."""
    last = max(erased.values(), default=0)
    return sum(payloads_to_go(frame, erased) for _, frame in frames(disk, 1, last + 1)) if last else 0
