"""One page for an auditor: what a store holds, how it came to be, and whether it is what was written.

Rule 1  The page is one file and asks for nothing: no network, no font, no script but its own, and its policy says so.
Rule 2  Equal stores give equal pages: no clock, no path, no machine.
Rule 3  Whatever the store says is hostile text: it is escaped, and what a reader could not see is written out.
Rule 4  Documents, metadata and vectors stay out of it: they may be erased from the store one day, and a page that was
        sent around cannot be.
"""

from __future__ import annotations

from detmem.database import verify_disk
from detmem.errors import UsageError
from detmem.journal.disk import AnyPath, Disk
from detmem.journal.frame import Frame
from detmem.journal.past import Position
from detmem.machine import encoding
from detmem.opening import disk_for_reading
from detmem.progress import Progress
from detmem.proof.checkpoint import Checkpoint
from detmem.report.gather import Story
from detmem.report.page import render
from detmem.results import Report

__all__ = ["report"]


def report(
    path: AnyPath,
    *,
    level: str = "replay",
    expect: Checkpoint | str | None = None,
    start: int = 0,
    stop: int | None = None,
    progress: Progress = None,
) -> tuple[str, Report]:
    """The page as HTML text, and the verdict that it shows.

    The store need not be fit to open: what is told is what stands before the damage.  ``level`` and ``expect`` as in
    ``verify``; ``start`` and ``stop`` are the two seqs to compare, 0 and the end if not given.
    """
    start = encoding.whole_number(start, "start", 0)
    if stop is not None and encoding.whole_number(stop, "stop", 0) < start:
        raise UsageError(f"stop: expected a seq from {start} on, where the comparison starts, found {stop}")
    disk = disk_for_reading(path)
    found, story = _told(disk, level, expect, start, stop, None, progress)
    if story.seq > found.seq:  # what is behind the last good commit was read before it was seen to be bad
        _, story = _told(disk, "chain", None, start, stop, found.seq, None)
    return render(disk, story, found, level, expected=expect is not None), found


def _told(
    disk: Disk,
    level: str,
    expect: Checkpoint | str | None,
    start: int,
    stop: int | None,
    end: int | None,
    progress: Progress,
) -> tuple[Report, Story]:
    """The verdict, and the story of the good commits, up to ``end``."""
    story = Story(start, stop)

    def visit(file: str, frame: Frame, position: Position) -> None:
        nonlocal story
        if position.seq == 1:  # verification may begin again, beside a writer who erases
            story = Story(start, stop)
        if end is None or position.seq <= end:
            story.visit(file, frame, position)

    return verify_disk(disk, level, expect, visit=visit, progress=progress), story
