"""The log, open for writing: commits go in, a sync comes back, HEAD follows.

Rule 1  A commit is acknowledged when its policy says so, never before; what it got is said by ``append``.
Rule 2  After a failed or interrupted write, sync or close this handle writes no more (``StorePoisoned``).  There is no
        retry: what the disk holds now is for recovery to decide, on reopening.
Rule 3  Create is: ``.tmp``, sync, rename, sync of the folder.
Rule 4  One thread at a time appends (the caller sees to it); syncing may happen beside it, in a waiting writer's thread
        or in the background.  Whoever syncs or rotates holds ``_syncing``: HEAD and the file change under it,
        and a failure is known before it is let go.
Rule 5  Small commits that are waited for are written over zeros: those follow an earlier commit into the file, which
        then has its length already, so a sync has no length to commit.  Nothing at rest has zeros behind its end.
"""

from __future__ import annotations

import errno
import threading
import weakref
from functools import partial
from types import TracebackType
from typing import NamedTuple

from detmem.errors import Divergence, StorageError, StorePoisoned
from detmem.journal import archive, erasure, snapshot
from detmem.journal.disk import Disk, File
from detmem.journal.files import LOG, QUARANTINE, SNAPSHOTS, segment_name, snapshot_name, snapshot_seqs
from detmem.journal.frame import Seal, SegmentHeader, commit_blocks, encode_seal
from detmem.journal.policy import Policy
from detmem.journal.recovery import Opened, Recovery
from detmem.machine.stage import Change
from detmem.machine.state import State

__all__ = ["SEGMENT_BYTES", "Journal"]

SEGMENT_BYTES = 64 * 1024 * 1024
_KEPT_SNAPSHOTS = 2
_AHEAD_BYTES = 1 << 20  # of zeros at once, at most
_SMALL_BYTES = 1 << 16  # a commit larger than this takes so long that nothing is gained
_NO_SPACE = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))

assert _SMALL_BYTES < _AHEAD_BYTES


class _Place(NamedTuple):
    """The end of a commit: its seq and link, and the offset behind it in the segment that starts at ``segment``."""

    seq: int
    link: bytes
    segment: int
    offset: int


class Journal:
    """Appends to a recovered store.  The caller has taken the store's ``lock``."""

    def __init__(
        self,
        disk: Disk,
        opened: Opened,
        policy: Policy,
        segment_bytes: int = SEGMENT_BYTES,
        lock: File | None = None,
    ) -> None:
        assert opened.head_file is not None
        self._disk = disk
        self._lock = lock  # only kept: it must not go before the last that may write
        self._head = opened.head_file
        self._policy = policy
        self._segment_bytes = segment_bytes
        self._begun = self._filled = 0  # where this handle began to append, and how far the file may go
        self._fills = policy.acknowledges_durable and disk.durable
        self._failure: BaseException | None = None
        self._untold = False  # whether it came in the background, and nobody knows yet
        self._syncing = threading.RLock()
        self._waiting = threading.Condition()
        self._leading = False
        self._stopping = threading.Event()
        self._background: threading.Thread | None = None
        self._log = opened.state.log
        self._file: File | None = None
        self._written = self._durable = _Place(
            opened.state.seq, opened.state.link, 0, 0
        )  # recovery synced what it kept
        try:
            self._begin(opened)
        except BaseException:  # whoever keeps the error must not keep the files open
            self._let_go()
            raise
        if policy.kind == "interval":
            work = partial(_sync_repeatedly, weakref.ref(self), self._stopping, policy.seconds)
            self._background = threading.Thread(target=work, name="detmem interval", daemon=True)
            self._background.start()

    # -- writing

    def append(self, change: Change) -> bool:
        """Write one commit, synced if the policy asks for that before it is published.

        Returns whether it will have reached the disk when the caller's call returns.  ``StorageError`` poisons this
        handle.
        """
        if self._written.offset >= self._segment_bytes and self._written.seq >= self._header.first_seq:
            with self._syncing, self._guarded():
                self._rotate()
        # Too large raises here, with nothing written and nothing poisoned.
        blocks = commit_blocks(change, self._durable.seq, self._header.seed)
        with self._guarded():
            file, offset = self._open_file(), self._written.offset
            for block in blocks:
                file.pwrite(block, offset)
                offset += len(block)
            if offset > self._filled:
                self._filled = offset
                if self._fills and offset - self._written.offset <= _SMALL_BYTES:
                    self._fill_ahead(file)
            self._log = change.log
            self._written = _Place(change.seq, change.link, self._header.first_seq, offset)
            if self._policy.before_publishing:
                self._sync()
        return self._policy.acknowledges_durable and self._disk.durable

    def wait(self) -> None:
        """Under ``group``: return once everything written so far has been synced, by this thread or by another.

        The first to wait leads: it gives the others the policy's time to come along, then syncs for all.
        """
        if self._policy.kind != "group":
            return
        wanted = self._written.seq
        with self._waiting:
            while self._leading and self._durable.seq < wanted and self._failure is None:
                self._waiting.wait()
            if self._durable.seq >= wanted:
                return
            if self._failure is not None:
                raise self._poisoned()
            self._leading = True
        try:
            self._stopping.wait(self._policy.seconds)
            with self._guarded():
                self._sync()
        finally:
            with self._waiting:
                self._leading = False
                self._waiting.notify_all()

    def snapshot(self, state: State) -> str:
        """Write the snapshot of ``state``, which stands where the log ends; returns its name on the disk."""
        assert state.seq == self._written.seq
        with self._syncing, self._guarded():
            if state.seq >= self._header.first_seq:
                self._rotate()
            name = snapshot_name(state.seq)
            temporary = f"{name}.tmp"
            file = self._disk.open(temporary, create=True)
            try:
                digest = snapshot.write(state, file)
                file.sync()
                _, _, found = snapshot.read_digest(file, temporary)
            finally:
                file.close()
            if found != digest:
                raise Divergence(f"{temporary}: wrote digest {digest.hex()}, read back {found.hex()}")
            self._disk.rename(temporary, name)
            self._disk.sync_folder(SNAPSHOTS)
            self._head.write(sync=True, snapshot_seq=state.seq, snapshot_digest=digest)
            for seq in snapshot_seqs(self._disk)[:-_KEPT_SNAPSHOTS]:
                self._disk.remove(snapshot_name(seq))
        return name

    def erase(self, state: State) -> None:
        """Give up all payloads that the Erases of ``state``, which stands where the log ends, name; see ``erasure``.

        Whatever the policy, the disk has it when this returns.  A failure poisons this handle; reopening goes on.
        """
        assert state.seq == self._written.seq
        with self._syncing, self._guarded():
            if state.seq >= self._header.first_seq:
                self._rotate()  # from here on HEAD and a seal know of the Erase, and only sealed segments hold payloads
            erasure.sweep(self._disk, state.erased, archive.reached(self._disk))
            self.snapshot(state)
            self._remove_snapshots(state.seq)

    def _remove_snapshots(self, before: int) -> None:
        """Snapshots older than the last erasure may hold what it gave up."""
        for seq in snapshot_seqs(self._disk):
            if seq < before:
                self._disk.remove(snapshot_name(seq))
        self._disk.sync_folder(SNAPSHOTS)  # though there is none: one that another removed may not be gone for good

    def close(self) -> None:
        """Sync everything and leave HEAD clean.  A poisoned handle, or a forked copy of one, only lets go; but a
        failure in the background that no write has raised is raised here."""
        self._stopping.set()
        if self._background is not None:
            self._background.join()
        try:
            if self._failure is None:
                with self._syncing, self._guarded():
                    self._sync()
                    if self._cut_zeros():
                        self._open_file().sync()
                    for _ in range(2):  # both slots: if one goes bad, the other says as much
                        self._head.write(sync=True, clean=True, **self._durable_fields())
            elif self._untold:
                raise self._poisoned()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        try:
            if self._file is not None:
                self._file.close()
        finally:
            self._head.close()

    def disown(self) -> None:
        """In a forked child: the parent writes on, so this copy writes no more.  Its threads and locks are not ours."""
        self._failure = StorePoisoned("this process was forked from the one that opened the store: open it again here")
        self._background, self._untold = None, False
        self._syncing, self._waiting = threading.RLock(), threading.Condition()

    # -- where it stands

    def check_usable(self, seq: int) -> None:
        """``StorePoisoned`` after a failed or interrupted write: the state, at ``seq``, is not where the log is."""
        if self._failure is not None or seq != self._written.seq:
            raise self._poisoned()

    @property
    def durable(self) -> bool:
        """Whether the last commit has reached the disk."""
        return self.has(self._written.seq)

    def has(self, seq: int) -> bool:
        """Whether a commit has reached the disk."""
        return seq <= self._durable.seq and self._disk.durable

    # -- inside

    def _begin(self, opened: Opened) -> None:
        """HEAD says that a writer is at work; a segment is there to append to; what a crash left of an erasure goes."""
        with self._guarded():
            self._head.write(sync=True, clean=False)  # before anything else changes
            for folder in (LOG, SNAPSHOTS, QUARANTINE):
                self._disk.make_folder(folder)
            self._disk.sync_folder("")
            last = opened.segments[-1] if opened.segments else None
            if last is None or last.seal is not None:
                self._start_segment()
            else:
                self._header = last.header
                self._file = self._disk.open(last.name, write=True)
                self._file.sync()
                # A writer killed behind its rename has not: HEAD would name what is not there.
                self._disk.sync_folder(LOG)
                self._arrived_at(opened.end)
        unfinished = opened.unfinished_erasure
        if unfinished:
            self.erase(opened.state)
            done = () if opened.recovery is None else opened.recovery.actions
            opened.recovery = Recovery((*done, f"the erasure of seq {unfinished} was finished"))
        elif opened.state.erased:
            with self._guarded():
                self._remove_snapshots(max(opened.state.erased.values()))

    def _poisoned(self) -> StorePoisoned:
        self._untold = False
        if isinstance(self._failure, StorePoisoned):
            return StorePoisoned(str(self._failure))
        reason = "it was interrupted"
        if self._failure is not None:
            reason = f"{type(self._failure).__name__}: {self._failure}"
        return StorePoisoned(f"an earlier write failed ({reason}); reopen the store to recover")

    def _guarded(self) -> _Guard:
        return _Guard(self)

    def _sync(self) -> None:
        """Everything written so far is durable, and HEAD says so (lazily, but for ``paranoid``)."""
        # The guard stands inside: who waited here for one whose sync then failed must not sync again and be believed.
        with self._syncing, self._guarded():
            place = self._written
            if place.seq == self._durable.seq:
                return
            self._open_file().sync()
            self._durable = place
            self._head.write(sync=self._policy.kind == "paranoid", **self._durable_fields())

    def _open_file(self) -> File:
        assert self._file is not None
        return self._file

    def _fill_ahead(self, file: File) -> None:
        """Zeros behind the commit just written, as many as this handle had appended before: the same sync takes them.

        A disk that is too full for them is not too full for the commit.
        """
        start = self._filled
        count = min(self._written.offset - self._begun, _AHEAD_BYTES, self._segment_bytes - start)
        if count <= 0:
            return
        self._filled = start + count  # and if not all arrive: it says what may be there
        try:
            file.pwrite(bytes(count), start)
        except StorageError as error:
            if error.errno not in _NO_SPACE:
                raise
            self._fills = False

    def _cut_zeros(self) -> bool:
        """Cut off what was written ahead and not used; returns whether there was anything.  Not synced."""
        end = self._written.offset
        if self._filled <= end:
            return False
        self._open_file().truncate(end)
        self._filled = end
        return True

    def _rotate(self) -> None:
        file, last = self._open_file(), self._written
        count = last.seq - self._header.first_seq + 1
        seal = Seal(count, self._log.size, last.link, self._log.root)
        self._cut_zeros()
        file.sync()  # first the commits, so that a seal says they have arrived
        file.pwrite(encode_seal(seal, self._header.first_seq, self._header.seed), last.offset)
        file.sync()
        file.close()
        self._start_segment()

    def _start_segment(self) -> None:
        last = self._written
        self._header = SegmentHeader(self._head.head.store_id, last.seq + 1, self._log.size, last.link, self._log.root)
        name = segment_name(self._header.first_seq)
        temporary = f"{name}.tmp"
        file = self._disk.open(temporary, create=True)
        try:  # a poisoned handle keeps its failure, and with it this frame: the file must not stay open for that
            file.pwrite(self._header.encode(), 0)
            file.sync()
        finally:
            file.close()
        self._disk.rename(temporary, name)
        self._disk.sync_folder(LOG)
        self._file = self._disk.open(name, write=True)
        self._arrived_at(self._header.size_bytes)

    def _arrived_at(self, offset: int) -> None:
        """The segment is synced up to ``offset``, and HEAD names it."""
        self._written = self._written._replace(segment=self._header.first_seq, offset=offset)
        self._durable = self._written
        self._begun = self._filled = offset
        self._head.write(sync=True, **self._durable_fields())

    def _durable_fields(self) -> dict[str, object]:
        place = self._durable
        return {
            "durable_seq": place.seq,
            "link": place.link,
            "segment": place.segment,
            "durable_offset": place.offset,
        }


def _sync_repeatedly(journal: weakref.ref[Journal], stopping: threading.Event, seconds: float) -> None:
    """Under ``interval``, in the background.  A handle that was dropped unclosed is not kept by this: its lock would be
    gone, and HEAD another writer's."""
    while not stopping.wait(seconds):
        alive = journal()
        if alive is None:
            return
        try:
            with alive._guarded():
                alive._sync()
        except StorageError as error:  # kept in _failure, and raised by the next write, or by ``close``
            alive._untold = error is alive._failure
            return
        del alive


class _Guard:
    """A context whose failure poisons the journal.  A class, for it stands on the way of every commit."""

    __slots__ = ("_journal",)

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __enter__(self) -> None:
        if self._journal._failure is not None:
            raise self._journal._poisoned()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # an interrupt as well: nobody knows how far the write went; the first failure is the one that tells
        if error is not None and self._journal._failure is None:
            self._journal._failure = error
