"""Whole stores at once: verify one, replay one into another, compare two."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from detmem import graph
from detmem.database import MEMORY, Database, Standing, standing, verify_disk
from detmem.errors import CorruptionError, UsageError
from detmem.journal.copies import Repaired
from detmem.journal.copies import repair as mend
from detmem.journal.disk import AnyPath, Disk, OsDisk, check_apart, path_text
from detmem.journal.files import LOCK, damaged, frames
from detmem.journal.head import newest_head
from detmem.machine import commands, encoding
from detmem.machine.commands import Definition
from detmem.machine.commitment import prefixed, state_key
from detmem.opening import disk_for_reading, open
from detmem.progress import Progress
from detmem.proof.checkpoint import Checkpoint
from detmem.results import Diff, Report

__all__ = ["Salvaged", "diff", "repair", "replay", "salvage", "verify"]


def verify(
    path: AnyPath,
    *,
    level: str = "replay",
    expect: Checkpoint | str | None = None,
    progress: Progress = None,
) -> Report:
    """Read a whole store, which need not be fit to open, and say whether it is what was written.

    ``level``: ``chain`` checks every byte against the links, ``replay`` also that applying each commit gives its root.
    ``expect``: a checkpoint, or its text, that the log must pass through, or the state root (hex) that it must end in.
    ``progress``: True, or called with (done, total) bytes of the log.  Writes nothing, takes no lock.

    ``StoreNotFoundError`` and ``FormatError`` where there is no store; damage is in the report.
    """
    return verify_disk(disk_for_reading(path), level, expect, progress=progress)


def replay(source: AnyPath | Database, dest: AnyPath, *, until: int | None = None) -> Checkpoint:
    """Apply a store's commands, up to and including seq ``until``, to a new store at ``dest``.

    Every link and every root is computed anew and compared.  ``Divergence`` (or ``LogDamaged``) when one differs;
    ``dest`` then holds the commits before it.  ``StoreExistsError`` when ``dest`` exists, ``UsageError`` when it lies
    in the source.  Returns the new store's checkpoint.  ``Erased`` when a record written up to ``until`` has been
    erased behind it: a store that ends there would have to hold what it held.
    """
    with ExitStack() as stack:
        old = source if isinstance(source, Database) else stack.enter_context(open(source, "r"))
        old._check_open()
        last = old.seq if until is None else encoding.whole_number(until, "until", 0)
        if last > old.seq:
            raise UsageError(f"until: expected at most {old.seq}, the last seq of the source, found {last}")
        old._check_payloads(last)
        new = stack.enter_context(_new_store(dest, old._disk))
        for segment, frame in frames(old._disk, 1, last + 1):
            new._apply(frame.operations, frame.link, frame.state_root, f"{segment.name}, seq {frame.seq}")
        old._check_gone(last, new._state.missing)
        new._finish_erasures()
        return new.checkpoint()


def _new_store(dest: AnyPath, source: Disk) -> Database:
    """``StoreExistsError`` when ``dest`` exists, ``UsageError`` when it would lie in the source."""
    place = path_text(dest)
    if place != MEMORY and not OsDisk(place).exists():
        check_apart(source, OsDisk(place))
    return open(dest, "x", durability="os")


_AT_ONCE = 4096  # records whose commitments are compared together


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What ``salvage`` could take over, and what it could not.

    ``reason`` is None when nothing is lost; without HEAD nobody can say that.
    """

    checkpoint: Checkpoint
    last_known_seq: int
    reason: str | None


def salvage(source: AnyPath, dest: AnyPath) -> Salvaged:
    """Take the longest good prefix of a damaged log over to a new store; the source stays as it is.

    It needs neither HEAD nor snapshots.  What is lost is said, never guessed.  Where a payload was erased and the Erase
    is lost, it is logged again, as one more commit: a payload that is gone needs one.
    """
    disk = disk_for_reading(source)
    head = newest_head(disk)
    known = 0 if head is None else head.durable_seq
    reason = None
    with _new_store(dest, disk) as new:
        try:
            for segment, frame in frames(disk, 1, None, known):
                if frame.seq != new.seq + 1:
                    raise damaged(segment.name, frame.offset, "a segment is missing before this", new.seq, frame.seq)
                new._apply(frame.operations, frame.link, frame.state_root, f"{segment.name}, seq {frame.seq}")
        except CorruptionError as error:
            reason = str(error)
        reached = new.seq
        if new._state.missing:
            with new._writing() as stage:
                new._write(stage, [commands.erase(*node) for node in sorted(new._state.missing)])
            reason = f"{reason or 'the log ends here'}; erasures behind seq {reached} were logged again at {new.seq}"
        new._finish_erasures()
        checkpoint = new.checkpoint()
    if reason is None and known > reached:
        reason = f"the log ends at seq {reached}, and HEAD says that {known} had been acknowledged"
    if reason is None and head is None:
        reason = f"the log ends at seq {reached}, and HEAD is missing or unreadable: nobody can say whether it went on"
    return Salvaged(checkpoint, max(known, reached), reason)


def repair(path: AnyPath, copy: AnyPath) -> Repaired:
    """Write the damaged segments of a store anew from a copy of the same history (a backup, or a replayed store).

    ``LogDamaged`` when the copy does not fit, ``LockedError`` when the store is being written.
    """
    disk = disk_for_reading(path)
    lock = disk.lock(LOCK, 0.0)
    try:
        return mend(disk, disk_for_reading(copy))
    finally:
        lock.close()


def diff(a: AnyPath | Database, b: AnyPath | Database) -> Diff:
    """What changed from store ``a`` to store ``b``: records added, removed, changed, and their common history."""
    with ExitStack() as stack:
        first, second = (
            side if isinstance(side, Database) else stack.enter_context(open(side, "r")) for side in (a, b)
        )
        one, two, keys = standing(first, second)
        found = Diff(min(one.seq, two.seq), [], [], [])
        for name in sorted(one.views.keys() | two.views.keys()):
            _compare(one, two, name, keys, found)
        ours, theirs = one.links, two.links
        del one, two, keys  # each as large as what was found
        found.linked.extend(graph.all_between(theirs - ours))
        ours -= theirs
        found.unlinked.extend(graph.all_between(ours))
        del ours, theirs
        common = first._prover.first_difference(second._prover) - 1
    return replace(found, common_seq=min(common, found.common_seq))


def _compare(one: Standing, two: Standing, name: str, keys: set[bytes] | None, found: Diff) -> None:
    """Put what differs in one collection behind what was found in others."""
    ours, theirs = _candidates(one, two, name, keys), _candidates(two, one, name, keys)
    found.added.extend((name, id) for id in sorted(theirs.keys() - ours.keys()))
    found.removed.extend((name, id) for id in sorted(ours.keys() - theirs.keys()))
    both = sorted(ours.keys() & theirs.keys())
    for start in range(0, len(both), _AT_ONCE):
        ids = both[start : start + _AT_ONCE]
        before, after = (
            side.views[name].commitments(np.array([slots[id] for id in ids], dtype=np.int64))
            for side, slots in ((one, ours), (two, theirs))
        )
        found.changed.extend((name, id) for id, old, new in zip(ids, before, after, strict=True) if old != new)
    if _definition(one, name) != _definition(two, name):
        found.collections.append(name)


def _candidates(side: Standing, other: Standing, name: str, keys: set[bytes] | None) -> dict[str, int]:
    """The slots by id of the records that may differ from those of ``other``.

    ``keys``: the state keys that differ, where both have a tree.  Two moments of one life share their rows, and the
    same row is the same record.
    """
    view = side.views.get(name)
    if view is None or (keys is not None and not keys):
        return {}
    live = view.live
    if keys is None and name in other.views and other.views[name].rows.owner is view.rows.owner:
        live = np.setdiff1d(live, other.views[name].live)
    slots = {view.ids[slot]: slot for slot in live.tolist()} if keys is None else {}
    if keys is not None:
        prefix = prefixed(name.encode())
        for slot in live.tolist():
            id = view.ids[slot]
            if state_key(prefix, prefixed(id.encode())) in keys:
                slots[id] = slot
    return slots


def _definition(side: Standing, name: str) -> Definition | None:
    return side.views[name].definition if name in side.views else None
