"""Opening a store: torn or damaged is decided, never guessed (spec/log.md, "Recovery").

Steps in order; within a step exactly one row applies.  What was done is said in ``Recovery``; what cannot be done
without losing acknowledged data is refused with file, offset and seq.  A reader runs the same steps and writes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from detmem.errors import Archived, CorruptionError, Divergence, FormatError, LogDamaged, SnapshotDamaged
from detmem.journal import snapshot
from detmem.journal.archive import has_archived, places
from detmem.journal.disk import Disk, File, random_bytes
from detmem.journal.erasure import check_explained
from detmem.journal.files import (
    LOG,
    QUARANTINE,
    Segment,
    copy_out,
    damaged,
    open_if_there,
    quarantine_name,
    read_header,
    remove_temporaries,
    segment_name,
    segment_seqs,
    snapshot_name,
    snapshot_seqs,
)
from detmem.journal.frame import BadFrame, Frame, SegmentHeader, SegmentReader, end_of_bytes, read_seal
from detmem.journal.head import HEAD, Head, HeadFile, newest_head, read_heads
from detmem.machine.commitment import LINK_ZERO, LogTree
from detmem.machine.stage import Change
from detmem.machine.state import State

__all__ = ["Opened", "Recovery", "advance", "check_place", "follow", "read_segments", "recover"]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening had to do: one sentence an action, and the quarantined files by name."""

    actions: tuple[str, ...]
    quarantined: tuple[str, ...] = ()


@dataclass(slots=True)
class Opened:
    """A recovered store.  ``end`` is where the last segment's good part ends (bytes), ``place`` where the state stands:
    a segment and the offset behind the state's last commit, or None at the border to the segment behind it.
    ``replayed_from``: the seq of the snapshot that was used, 0 without one."""

    state: State
    head: Head
    head_file: HeadFile | None = None
    segments: list[Segment] = field(default_factory=list)
    end: int = 0
    place: tuple[Segment, int] | None = None
    recovery: Recovery | None = None
    replayed_from: int = 0

    @property
    def unfinished_erasure(self) -> int:
        """The seq of an Erase that no snapshot has behind it, so that its files may not all be written anew; else 0."""
        last = max(self.state.erased.values(), default=0)
        return last if last > self.replayed_from else 0


def advance(state: State, segment: Segment, frame: Frame, publish: Callable[[Change], None] | None = None) -> None:
    """Apply one logged commit, and see that it has the root that was logged with it.

    ``publish`` takes the checked change in the state's place, for a state that others are reading.
    """
    place = f"{segment.name}, offset {frame.offset}, seq {frame.seq}"
    try:
        change = state.apply(frame.operations)
    except CorruptionError as error:
        raise damaged(segment.name, frame.offset, str(error), frame.seq - 1, frame.seq) from None
    if change.state_root != frame.state_root:
        raise Divergence(
            f"{place}: the log says state root {frame.state_root.hex()}, applying it gives {change.state_root.hex()}"
        )
    assert change.link == frame.link
    (publish or state.publish)(change)


def recover(disk: Disk, *, write: bool, accept_missing_head: bool = False) -> Opened:
    """Run the steps.  A store that does not exist yet is created when ``write``."""
    before = newest_head(disk)
    while True:
        try:
            opened = _run_steps(disk, write, accept_missing_head)
        except _BareError:  # a reader beside a writer that has just moved payloads missed the snapshot behind them
            now = newest_head(disk)
            if write or now == before:
                raise
            before = now
            continue
        # A reader beside a writer that has just erased reads files written anew, and stops before the Erase.
        if not _outrun(disk, opened.head, opened.state):
            return opened


class _BareError(LogDamaged):
    """Payloads that are needed lie in an archive."""


def check_not_archived(disk: Disk, segment: Segment, frame: Frame, durable: int) -> None:
    """``LogDamaged`` when payloads of this commit lie elsewhere: a snapshot should stand in for it."""
    if has_archived(frame):
        raise _BareError(
            f"{segment.name}, offset {frame.offset}: the payloads of seq {frame.seq} lie in an archive "
            f"({', '.join(places(disk)) or 'nobody knows where'}), and no good snapshot behind them stands in; "
            "put the archive's segments back into log/",
            segment=segment.name,
            offset=frame.offset,
            first_lost_seq=frame.seq,
            last_known_seq=durable,
        )


def _outrun(disk: Disk, head: Head, state: State) -> bool:
    """Whether HEAD has moved on and may explain what is missing.  ``LogDamaged`` when something is and it has not."""
    if not state.missing:
        return False
    now = newest_head(disk)
    if now is not None and now.durable_seq > head.durable_seq:
        return True
    check_explained(state.missing)
    return False


def _run_steps(disk: Disk, write: bool, accept_missing_head: bool) -> Opened:
    actions: list[str] = []
    quarantined: list[str] = []
    if write:
        remove_temporaries(disk)
    head, slot = _step_head(disk, write, accept_missing_head, actions)
    snapshots = snapshot_seqs(disk)  # before the segments: a live writer makes a segment first, then its snapshot
    segments = _step_segments(disk, head, write, actions, quarantined)
    state = _step_snapshot(disk, head, snapshots, segments, actions)
    opened = Opened(state, head, segments=segments, replayed_from=state.seq)
    _step_tail(disk, opened, write, actions, quarantined)
    if write:  # last: an open that refuses leaves no HEAD behind that would let the next one pass
        opened.head_file = HeadFile.create(disk, head) if slot is None else HeadFile(disk, head, slot)
    opened.recovery = Recovery(tuple(actions), tuple(quarantined)) if actions else None
    return opened


def follow(disk: Disk, opened: Opened, publish: Callable[[Change], None]) -> None:
    """A reader moves on, to what has become durable since.  Each commit is verified as when opening."""
    while True:
        head = newest_head(disk)
        if head is None or head.store_id != opened.head.store_id:
            raise LogDamaged("HEAD is unreadable or belongs to another store: this store was replaced under its reader")
        _follow(disk, opened, head, publish)
        if not _outrun(disk, head, opened.state):
            return


def _follow(disk: Disk, opened: Opened, head: Head, publish: Callable[[Change], None]) -> None:
    state = opened.state
    while state.seq < head.durable_seq:
        if opened.place is None:
            header = read_header(disk, state.seq + 1)
            if (header.store_id, header.link, header.log_size) != (head.store_id, state.link, state.log.size):
                raise damaged(segment_name(state.seq + 1), 0, "another link or store", state.seq, head.durable_seq)
            opened.place = Segment(header), header.size_bytes
        segment, offset = opened.place
        file = disk.open(segment.name)
        reader = SegmentReader(file, segment.header, (offset, state.seq, state.link))
        try:
            for frame in reader:
                if frame.seq > head.durable_seq:
                    break
                if has_archived(frame):
                    raise Archived(
                        f"the writer has moved the payloads of seq {frame.seq} to {', '.join(places(disk))} before "
                        "this reader came there: open the store again, which begins at a snapshot"
                    )
                advance(state, segment, frame, publish)
                opened.place = segment, frame.offset + frame.size
        except BadFrame as bad:
            if state.seq < head.durable_seq:  # else it is the writer's, still on its way
                raise damaged(segment.name, bad.offset, bad.reason, state.seq, head.durable_seq) from None
        finally:
            file.close()
        if reader.seal is not None:
            opened.place = None
        elif state.seq < head.durable_seq:
            reason = "the log ends here, and more had been acknowledged"
            raise damaged(segment.name, reader.offset, reason, state.seq, head.durable_seq)


# ------------------------------------------------------------------------------------------------------- step 1: HEAD


def _step_head(disk: Disk, write: bool, accept_missing_head: bool, actions: list[str]) -> tuple[Head, int | None]:
    """The head, and its slot; None when HEAD has yet to be made."""
    # Before HEAD is read: a writer beside may be making the store, and makes HEAD first.
    firsts, snapshots, there = segment_seqs(disk), snapshot_seqs(disk), HEAD in disk.list("")
    heads = read_heads(disk)
    good = [head for head in heads if head is not None]
    if good:
        head = max(good, key=lambda one: one.generation)
        if len(good) < len(heads):
            actions.append(
                "one slot of HEAD was bad; the other was used" + (" and the bad one rewritten" if write else "")
            )
        return head, heads.index(head)
    if not firsts and not snapshots and (accept_missing_head or not there):
        if not write:
            raise FormatError("expected a store, found none: HEAD, log and snapshots are missing")
        if there:
            actions.append("HEAD was unreadable and nothing else was there; a new store was made, as asked")
        return Head(random_bytes(16)), None
    if not accept_missing_head:
        raise LogDamaged(
            "HEAD is missing or unreadable, so nobody can say how much had been acknowledged; "
            "open with accept_missing_head=True to go on with what the log holds",
            segment=HEAD,
        )
    if not firsts:
        raise LogDamaged("HEAD and the log are missing; only snapshots are left")
    actions.append("HEAD was missing or unreadable; going on with what the log holds, as asked")
    return Head(read_header(disk, firsts[0]).store_id), None


# ------------------------------------------------------------------------------------------------------ step 2: files


def read_segments(disk: Disk, head: Head) -> tuple[list[Segment], int | None]:
    """All segments, checked by header and seal, and the first seq of a last one that rotation left unfinished."""
    segments: list[Segment] = []
    unfinished = None
    firsts = segment_seqs(disk)
    for first in firsts:
        last = first == firsts[-1]
        expected = _border(segments[-1]) if segments else SegmentHeader(head.store_id, 1, 0, LINK_ZERO, LogTree().root)
        intact = expected.first_seq - 1
        try:
            header = read_header(disk, first)
        except CorruptionError as error:
            if last and head.segment != first:
                unfinished = first
                break
            raise damaged(segment_name(first), 0, str(error), intact, head.durable_seq) from None
        if header.store_id != head.store_id:
            reason = "this segment belongs to another store"
            raise damaged(segment_name(first), 0, reason, intact, head.durable_seq)
        if header != expected:
            reason = f"expected the segment {_where_it_begins(expected)}, found one {_where_it_begins(header)}"
            raise damaged(segment_name(first), 0, reason, intact, max(head.durable_seq, first - 1))
        segments.append(Segment(header))
        if not last:
            _read_seal_of(disk, segments[-1], head)
    if unfinished is not None and segments:
        _read_seal_of(disk, segments[-1], head)
    named = next((segment for segment in segments if segment.first_seq == head.segment), None)
    if head.segment and named is None:
        reason, intact = "HEAD names this segment, and it is not there", 0
        if segments:
            if segments[-1].seal is None and segments[-1].first_seq < head.segment:
                _read_seal_of(disk, segments[-1], head)
            intact = (segments[-1] if segments[-1].seal is None else _border(segments[-1])).first_seq - 1
        raise damaged(segment_name(head.segment), 0, reason, intact, head.durable_seq)
    first, end = max(head.segment, 1), head.durable_seq  # without a seal: how far it goes is seen when it is read
    if head.segment == 0:
        end = 0
    elif named is not None and named.seal is not None:
        end = _border(named).first_seq - 1
    if not first - 1 <= head.durable_seq <= end or (head.segment == 0 and head.durable_offset):
        raise LogDamaged(
            f"HEAD names seq {head.durable_seq} and offset {head.durable_offset} in segment {head.segment}, "
            f"which holds seqs {first}..{end}",
            segment=HEAD,
            last_known_seq=head.durable_seq,
        )
    return segments, unfinished


def check_place(head: Head, segment: Segment, end: int | None) -> None:
    """``LogDamaged`` unless HEAD's offset in a segment without a seal is ``end``, where the frame of its durable seq
    ends.  A sealed one may have been written anew since, by an erasure."""
    if end is None and head.durable_seq == segment.first_seq - 1:
        end = segment.header.size_bytes
    if head.segment == segment.first_seq and head.durable_offset != end:
        raise LogDamaged(
            f"HEAD has seq {head.durable_seq} end at offset {head.durable_offset} of {segment.name}, found {end}",
            segment=HEAD,
            last_known_seq=head.durable_seq,
        )


def _step_segments(disk: Disk, head: Head, write: bool, actions: list[str], quarantined: list[str]) -> list[Segment]:
    segments, unfinished = read_segments(disk, head)
    if unfinished is not None:
        actions.append(f"{segment_name(unfinished)} was left unfinished by a crash in rotation")
        if write:
            moved = quarantine_name(disk, unfinished, 0)
            disk.rename(segment_name(unfinished), moved)
            disk.sync_folder(QUARANTINE)
            disk.sync_folder(LOG)
            quarantined.append(moved)
    return segments


def _step_snapshot(disk: Disk, head: Head, seqs: list[int], segments: list[Segment], actions: list[str]) -> State:
    """The newest good snapshot's state, else the empty one."""
    borders = {segment.first_seq - 1: segment.header for segment in segments}
    if segments and segments[-1].seal is not None:  # rotation stopped between the seal and the next segment
        end = _border(segments[-1])
        borders[end.first_seq - 1] = end
    for seq in reversed(seqs):
        name = snapshot_name(seq)
        file = open_if_there(disk, name)
        if file is None:  # a live writer has newer ones, and let this one go since it was listed
            continue
        try:
            state, digest = snapshot.load(file, name)
        except SnapshotDamaged as error:
            actions.append(f"{error}; an older snapshot or the log was used")
            continue
        finally:
            file.close()
        border = borders.get(seq)
        found = (state.seq, state.link, state.log.size, state.log.root)
        if border is None or found != (seq, border.link, border.log_size, border.log_root):
            raise LogDamaged(
                f"{name} holds seq {state.seq} with link {state.link.hex()}, and the log does not pass through it",
                segment=name,
                last_known_seq=seq,
            )
        if 0 < seq == head.snapshot_seq and digest != head.snapshot_digest:  # 0: HEAD names none
            found_digest = f"HEAD names digest {head.snapshot_digest.hex()}, the file has {digest.hex()}"
            actions.append(f"snapshot {name}: {found_digest}; an older snapshot or the log was used")
            continue
        return state
    return State()


# ------------------------------------------------------------------------------------------------------- step 3: tail


def _step_tail(disk: Disk, opened: Opened, write: bool, actions: list[str], quarantined: list[str]) -> None:
    """Replay what the snapshot does not hold, then decide about the end.  A reader applies only what is durable."""
    state, head = opened.state, opened.head
    durable = head.durable_seq
    _check_head_link(head, state.seq, state.link)
    waiting: deque[tuple[Segment, Frame]] = deque()

    def apply_next() -> None:
        segment, frame = waiting.popleft()
        advance(state, segment, frame)
        opened.place = segment, frame.offset + frame.size

    for segment in opened.segments:
        if segment.seal is not None and segment.first_seq + segment.seal.count - 1 <= state.seq:
            continue
        last = segment is opened.segments[-1]
        file = disk.open(segment.name, write=write and last)
        reader = SegmentReader(file, segment.header)
        bad: BadFrame | None = None
        end = None  # of the frame that HEAD names
        try:
            for frame in reader:
                _check_head_link(head, frame.seq, frame.link)
                end = frame.offset + frame.size if frame.seq == head.durable_seq else end
                durable = max(durable, frame.durable_seq)
                check_not_archived(disk, segment, frame, durable)
                waiting.append((segment, frame))
                del frame  # as in the reader: before the next is read
                while waiting and (write or waiting[0][1].seq <= durable):
                    apply_next()
        except BadFrame as error:
            bad = error
            durable = max(durable, reader.durable_behind)
        else:
            if reader.seal is not None:  # a seal is written when its segment has been synced
                durable = max(durable, reader.seq)
                segment.seal = reader.seal
        try:
            if not last and reader.seal is None:
                reason = "the seal is missing" if bad is None else bad.reason
                raise damaged(segment.name, reader.offset, reason, reader.seq, max(durable, reader.seq + 1))
            if last:
                opened.end = reader.offset
                _decide_end(disk, segment, file, head, reader, bad, durable, end, write, actions, quarantined, state)
        finally:
            file.close()
    if not opened.segments and durable > 0:
        raise damaged(segment_name(1), 0, "the log is missing", 0, durable)
    while waiting and waiting[0][1].seq <= durable:
        apply_next()


def _decide_end(
    disk: Disk,
    segment: Segment,
    file: File,
    head: Head,
    reader: SegmentReader,
    bad: BadFrame | None,
    durable: int,
    end: int | None,
    write: bool,
    actions: list[str],
    quarantined: list[str],
    state: State,
) -> None:
    """Exactly one of five rows: refused when more was acknowledged, be there a bad frame or not; else a bad frame,
    zeros, or the end of the file.

    ``end``: where the frame ends that HEAD calls durable, None when it is not in this segment.
    """
    if durable > reader.seq:
        reason = bad.reason if bad is not None else "the log ends here, and more had been acknowledged"
        raise damaged(segment.name, reader.offset, reason, reader.seq, durable)
    if write:  # who only reads may have stopped before the Erase
        check_explained(state.missing)
    if reader.seal is None:
        check_place(head, segment, end)
    size, stop = file.size(), end_of_bytes(file, reader.offset)
    cut = f"; {size - stop} zeros behind it were cut off" if write and size > stop else ""
    if bad is not None:
        torn = f"{stop - reader.offset} bytes of an unfinished commit behind seq {reader.seq}"
        why = bad.reason if write else "a writer is at work, or was stopped in the middle"
        actions.append(f"{segment.name}: {torn} ({why}){cut}")
        if write:
            quarantined.append(copy_out(disk, file, segment.first_seq, reader.offset, stop))
    elif cut and head.clean:
        actions.append(f"{segment.name}: the log is whole{cut}")
    if write and not head.clean:
        start = max(segment.header.size_bytes, head.durable_offset if head.segment == segment.first_seq else 0)
        start = min(start, reader.offset)  # a sealed segment may be shorter than it was
        # A kernel that failed a sync has marked those pages clean: only writing them again makes a sync mean something.
        # So with a cut, which the zero makes another one: what it took would come back, behind a seal by then.
        rest = file.pread(reader.offset - start, start)
        file.pwrite(rest, start)
        if reader.seal is None:
            file.truncate(reader.offset)  # before the zero: an interrupted open leaves what is torn as it was
            file.pwrite(b"\0", reader.offset)
        if bad is None:
            again = f"; its last {len(rest)} bytes were written again and synced" if rest else ""
            actions.append(f"{segment.name}: the last close was not clean, the log is whole{again}{cut}")
    if write and (size > reader.offset or not head.clean):
        file.truncate(reader.offset)
        file.sync()


# ------------------------------------------------------------------------------------------------------------- helpers


def _check_head_link(head: Head, seq: int, link: bytes) -> None:
    if seq == head.durable_seq and link != head.link:
        raise LogDamaged(
            f"HEAD acknowledged link {head.link.hex()} at seq {seq}, the log has {link.hex()}: not the same history",
            first_lost_seq=1,
            last_known_seq=seq,
        )


def _border(segment: Segment) -> SegmentHeader:
    """The header that the segment behind a sealed one must have."""
    assert segment.seal is not None
    seal = segment.seal
    return SegmentHeader(
        segment.header.store_id, segment.first_seq + seal.count, seal.log_size, seal.link, seal.log_root
    )


def _where_it_begins(header: SegmentHeader) -> str:
    return f"from seq {header.first_seq} at log size {header.log_size}, link {header.link.hex()}"


def _read_seal_of(disk: Disk, segment: Segment, head: Head) -> None:
    file = disk.open(segment.name)
    try:
        segment.seal, _ = read_seal(file, segment.header)
    except BadFrame as bad:
        raise damaged(segment.name, bad.offset, bad.reason, segment.first_seq - 1, head.durable_seq) from None
    finally:
        file.close()
