"""What stood at an earlier seq, from the disk: its roots out of the frames, its state out of a snapshot and the frames
behind it.

A snapshot is used when the log passes through it, as in recovery; each frame is verified as it is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from detmem.errors import Archived, CorruptionError, SnapshotDamaged
from detmem.journal import snapshot
from detmem.journal.archive import has_archived, places
from detmem.journal.disk import Disk
from detmem.journal.files import (
    damaged,
    frames,
    open_if_there,
    read_header,
    segment_seqs,
    snapshot_name,
    snapshot_seqs,
)
from detmem.journal.frame import Frame
from detmem.journal.recovery import advance
from detmem.machine.commitment import LINK_ZERO, ZERO, LogTree
from detmem.machine.state import State

__all__ = ["Position", "position_at", "roots_at", "state_at"]


@dataclass(frozen=True, slots=True)
class Position:
    """Where a log stands after ``seq``."""

    seq: int = 0
    state_root: bytes = ZERO
    log: LogTree = field(default_factory=LogTree)
    link: bytes = LINK_ZERO

    def after(self, frame: Frame) -> Position:
        """Where it stands one commit later."""
        return Position(frame.seq, frame.state_root, self.log.extended(frame.leaves), frame.link)


def position_at(disk: Disk, seq: int) -> Position:
    """Where the log stood after ``seq``.  ``LogDamaged`` when it does not get there."""
    position = Position()
    for _, frame in frames(disk, 1, seq + 1):
        position = position.after(frame)
    if position.seq != seq:
        raise damaged("log", 0, f"the log ends at seq {position.seq}", position.seq, seq)
    return position


def roots_at(disk: Disk, seq: int) -> tuple[bytes, bytes]:
    """(state root, link) after ``seq``, out of its frame alone.  ``LogDamaged`` when the log does not get there."""
    if seq == 0:
        return ZERO, LINK_ZERO
    for _, frame in frames(disk, seq, seq + 1):
        return frame.state_root, frame.link
    raise damaged("log", 0, f"the log ends before seq {seq}", seq - 1, seq)


def state_at(disk: Disk, seq: int) -> State:
    """The state after ``seq``, folded anew.  ``LogDamaged`` when the log does not get there."""
    state = _newest_snapshot(disk, seq) or State()
    for segment, frame in frames(disk, state.seq + 1, seq + 1):
        if has_archived(frame):
            raise Archived(
                f"what seq {frame.seq} wrote lies in an archive ({', '.join(places(disk))}): seq {seq} cannot be asked "
                "here; put the archive's segments back into log/ of a copy of the store, and ask there"
            )
        advance(state, segment, frame)
    if state.seq != seq:
        raise damaged("log", 0, f"the log ends at seq {state.seq}", state.seq, seq)
    return state


def _newest_snapshot(disk: Disk, seq: int) -> State | None:
    """The state of the newest good snapshot at or before ``seq``: a segment begins behind it with its roots."""
    firsts = segment_seqs(disk)
    for at in reversed([one for one in snapshot_seqs(disk) if one <= seq and one + 1 in firsts]):
        name = snapshot_name(at)
        file = open_if_there(disk, name)
        if file is None:
            continue
        try:
            state, _ = snapshot.load(file, name)
            header = read_header(disk, at + 1)
        except (SnapshotDamaged, CorruptionError):  # a cache: there is an older one, and the log
            continue
        finally:
            file.close()
        if (header.link, header.log_root) == (state.link, state.log.root):
            return state
    return None
