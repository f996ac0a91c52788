"""The log, open for writing: commits go in, a sync comes back, HEAD follows.

Rule 1  A commit is acknowledged when ``append`` returns, never before; what it got is said by ``durable``.
Rule 2  After a failed write, sync or close this handle writes no more (``StorePoisoned``).  There is no retry: what the
        disk holds now is for recovery to decide, on reopening.
Rule 3  Create is: ``.tmp``, sync, rename, sync of the folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from detmem.errors import Divergence, StorePoisoned, UsageError
from detmem.journal import snapshot
from detmem.journal.disk import Disk, File
from detmem.journal.files import LOG, QUARANTINE, SNAPSHOTS, segment_name, snapshot_name, snapshot_seqs
from detmem.journal.frame import Seal, SegmentHeader, encode_commit, encode_seal
from detmem.journal.recovery import Opened
from detmem.machine.state import Change, State

__all__ = ["DURABILITIES", "SEGMENT_BYTES", "Journal", "check_durability"]

SEGMENT_BYTES = 64 * 1024 * 1024
DURABILITIES = ("always", "os")
_KEPT_SNAPSHOTS = 2


def check_durability(durability: object) -> str:
    """``durability`` itself, when it names a policy; ``UsageError`` else."""
    if not isinstance(durability, str) or durability not in DURABILITIES:
        raise UsageError(f"durability: expected one of {', '.join(DURABILITIES)}, found {durability!r}")
    return str(durability)


class Journal:
    """Appends to a recovered store.  The caller holds the lock and calls from one thread at a time."""

    def __init__(self, disk: Disk, opened: Opened, durability: str, segment_bytes: int = SEGMENT_BYTES) -> None:
        assert opened.head_file is not None
        self._disk = disk
        self._head = opened.head_file
        self._sync_each = durability == "always"
        self._segment_bytes = segment_bytes
        self._failure: BaseException | None = None
        self._seq, self._link, self._log = opened.state.seq, opened.state.link, opened.state.log
        self._durable_seq = self._seq  # recovery synced what it kept
        self._file: File | None = None
        self._end = opened.end
        with self._guarded():
            self._head.write(sync=True, clean=False)  # before anything else changes
            for folder in (LOG, SNAPSHOTS, QUARANTINE):
                disk.make_folder(folder)
            disk.sync_folder("")
            last = opened.segments[-1] if opened.segments else None
            if last is None or last.seal is not None:
                self._start_segment()
            else:
                self._header = last.header
                self._file = disk.open(last.name, write=True)
                self._file.sync()
                self._write_head(sync=True)

    def append(self, change: Change) -> bool:
        """Write one commit; returns whether it has reached the disk.  ``StorageError`` poisons this handle."""
        if self._end >= self._segment_bytes and self._seq >= self._header.first_seq:
            with self._guarded():
                self._rotate()
        data = encode_commit(change, self._durable_seq, self._header.seed)  # too large: nothing has been written
        with self._guarded():
            file = self._open_file()
            file.pwrite(data, self._end)
            if self._sync_each:
                file.sync()
            self._end += len(data)
            self._seq, self._link, self._log = change.seq, change.link, change.log
            if self._sync_each:
                self._durable_seq = change.seq
                self._write_head(sync=False)
        return self._sync_each and self._disk.durable

    def snapshot(self, state: State) -> str:
        """Write the snapshot of ``state``, which stands where the log ends; returns its name on the disk."""
        assert state.seq == self._seq
        with self._guarded():
            if self._seq >= self._header.first_seq:
                self._rotate()
            name = snapshot_name(self._seq)
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
            self._write_head(sync=True, snapshot_seq=self._seq, snapshot_digest=digest)
            for seq in snapshot_seqs(self._disk)[:-_KEPT_SNAPSHOTS]:
                self._disk.remove(snapshot_name(seq))
        return name

    def close(self) -> None:
        """Sync everything and leave HEAD clean.  A poisoned handle only lets go."""
        try:
            if self._failure is None:
                with self._guarded():
                    self._open_file().sync()
                    self._durable_seq = self._seq
                    self._write_head(sync=True, clean=True)
        finally:
            if self._file is not None:
                self._file.close()
            self._head.close()

    def check_usable(self, seq: int) -> None:
        """``StorePoisoned`` after a failed or interrupted write: the state, at ``seq``, is not where the log is."""
        if self._failure is not None or seq != self._seq:
            reason = repr(self._failure) if self._failure is not None else "it was interrupted"
            raise StorePoisoned(f"an earlier write failed ({reason}); reopen the store to recover")

    @property
    def durable(self) -> bool:
        """Whether the last commit has reached the disk."""
        return self._durable_seq == self._seq and self._disk.durable

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        assert self._failure is None
        try:
            yield
        except BaseException as error:  # an interrupt as well: nobody knows how far the write went
            self._failure = error
            raise

    def _open_file(self) -> File:
        assert self._file is not None
        return self._file

    def _rotate(self) -> None:
        file = self._open_file()
        count = self._seq - self._header.first_seq + 1
        seal = Seal(count, self._log.size, self._link, self._log.root)
        file.sync()  # first the commits, so that a seal says they have arrived
        file.pwrite(encode_seal(seal, self._header.first_seq, self._header.seed), self._end)
        file.sync()
        file.close()
        self._durable_seq = self._seq
        self._start_segment()

    def _start_segment(self) -> None:
        head = self._head.head
        self._header = SegmentHeader(head.store_id, self._seq + 1, self._log.size, self._link, self._log.root)
        name = segment_name(self._header.first_seq)
        temporary = f"{name}.tmp"
        file = self._disk.open(temporary, create=True)
        file.pwrite(self._header.encode(), 0)
        file.sync()
        file.close()
        self._disk.rename(temporary, name)
        self._disk.sync_folder(LOG)
        self._file = self._disk.open(name, write=True)
        self._end = self._header.size_bytes
        self._write_head(sync=True)

    def _write_head(self, *, sync: bool, **changes: object) -> None:
        """HEAD as of the last durable commit; ``durable_offset`` is the end of what was synced in this segment."""
        if self._durable_seq == self._seq:
            changes |= {
                "durable_seq": self._seq,
                "segment": self._header.first_seq,
                "durable_offset": self._end,
                "link": self._link,
            }
        self._head.write(sync=sync, **changes)
