"""The imperative shell: check -> stage -> append -> sync -> publish.

Rule 1  One writer; a write call holds the writer's lock from its checks to its publication.
Rule 2  Readers in other threads hold ``_moment`` only to take a view; the answer is then of one seq.
Rule 3  Nothing is published that the journal has not taken; after a failure the staged change is dropped.
"""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakSet

import numpy as np

from detmem import arguments, graph
from detmem.errors import (
    Archived,
    CorruptionError,
    Divergence,
    Erased,
    LockedError,
    NotFoundError,
    ReadOnlyError,
    SnapshotDamaged,
    StoreExistsError,
    StorePoisoned,
    UsageError,
    shown,
)
from detmem.finder import Finder
from detmem.journal import archive, audit, keys
from detmem.journal.copies import backup
from detmem.journal.disk import AnyPath, Disk, File, OsDisk, call_after_fork, check_apart, path_text
from detmem.journal.erasure import WRITES, check_explained, singles, unexplained
from detmem.journal.files import frames
from detmem.journal.frame import Frame
from detmem.journal.head import newest_head
from detmem.journal.log import Journal
from detmem.journal.past import Position, state_at
from detmem.journal.recovery import Opened, Recovery, follow
from detmem.machine import commands, encoding, fixed
from detmem.machine.commands import Definition, Link, Operation
from detmem.machine.commitment import StateTree
from detmem.machine.links import Node
from detmem.machine.past import Moment, PastRecords
from detmem.machine.records import Records, View
from detmem.machine.runs import Operations, Run
from detmem.machine.stage import Change, Request, Stage
from detmem.machine.state import State
from detmem.progress import Progress, reporter
from detmem.proof.checkpoint import Checkpoint
from detmem.proof.note import SignerKey
from detmem.proof.proofs import ConsistencyProof, RecordProof, given_checkpoint
from detmem.proof.receipt import Receipt, Subtree
from detmem.prover import Prover
from detmem.results import ArchiveInfo, Commit, Entry, Report, SnapshotInfo

if TYPE_CHECKING:
    from detmem.collection import Collection
    from detmem.past import Past

__all__ = ["MEMORY", "Batch", "Database", "Standing", "standing", "verify_disk"]

MEMORY = ":memory:"
_LEVELS = ("chain", "replay")
_ROOT = re.compile(r"[0-9a-fA-F]{64}")
_COPYINGS = 10  # that a backup begins beside a writer of another process before it gives up
_KEPT_FOLDS = 2


class Batch:
    """The handle of ``with db.batch() as batch``: ``commit`` is set once the block has ended well."""

    def __init__(self) -> None:
        self.commit: Commit | None = None


class Database:
    """An open store.  Use it as a context manager, or call ``close``, which may be called again.

    One process writes, from any of its threads; any number of threads read beside it, each answer being of one seq.
    """

    def __init__(
        self,
        disk: Disk,
        opened: Opened,
        journal: Journal | None,
        lock: File | None,
        finder: Finder,
    ) -> None:
        self._disk = disk
        self._opened = opened
        self._state = opened.state
        self._journal = journal
        self._lock = lock
        self._finder = finder
        self._writer = threading.RLock()
        self._moment = threading.Lock()
        self._batch: Stage | None = None
        self._batch_thread: int | None = None
        self._closed = False
        self._torn = False
        self._pasts: WeakSet[Past] = WeakSet()
        self._salting: bytes | None = None
        self._folds: dict[int, State] = {}
        self._erasure_count = 0
        self._erasing = threading.Lock()  # a copy of the files is not taken meanwhile
        self._prover = Prover(disk, self._state, self._whole_moment, write=journal is not None)
        call_after_fork(self._after_fork)

    # -- lifetime

    def close(self) -> None:
        """Sync, leave HEAD clean, and let go of the lock.  Calling it again does nothing.

        ``StorageError`` when that fails, or when a sync in the background failed and no write has said so yet; the lock
        is let go all the same.
        """
        with self._writer:
            if self._closed:
                return
            if self._batch is not None:
                raise UsageError("close() inside a batch: leave the with block first")
            self._closed = True
            try:
                if self._journal is not None:
                    self._journal.close()
            finally:
                self._finder.close()
                if self._lock is not None:
                    self._lock.close()

    def __enter__(self) -> Database:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = self._disk.path("") or MEMORY
        return f"<detmem.{type(self).__name__} {where} seq={self.seq}{' closed' if self._closed else ''}>"

    # -- collections

    def collection(
        self,
        name: str,
        *,
        dim: int | None = None,
        metric: str | None = None,
        format: str | None = None,
        erasable: bool | None = None,
    ) -> Collection:
        """Get a collection, or create it when it is absent and ``dim`` is given.

        ``dim`` 1..65536; ``metric`` "cosine" (default), "ip" or "l2"; ``format`` "Q16.16" (default), "Q8.24" or
        "Q4.28".  ``erasable`` (default False): what is committed to is salted with the store's key, so that after an
        erasure nobody without that key can confirm a guess of what was erased.

        ``NotFoundError``: absent, and no ``dim``.  ``UsageError``: present, and not as asked for (the message says
        both).
        """
        name = encoding.check_name(name, "collection name")
        asked: dict[str, object] = {}
        if dim is not None:
            asked["dim"] = _dimension(dim)
        if metric is not None:
            asked["metric"] = fixed.canonical_metric(metric)
        if format is not None:
            fixed.fraction_bits(format)
            asked["format"] = format
        if erasable is not None:
            if not isinstance(erasable, (bool, np.bool_)):
                raise UsageError(f"erasable: expected True or False, found {shown(erasable)}")
            asked["erasable"] = bool(erasable)
        standing = self._definition(name)
        if standing is None:
            if dim is None:
                hint = "" if self._journal is None else "; give dim= to create it"
                raise NotFoundError(f"no collection {name!r}{hint}")
            definition = Definition(
                _dimension(dim),
                fixed.canonical_metric(metric if metric is not None else "cosine"),
                format or "Q16.16",
                bool(erasable),
            )
            with self._writing() as stage:
                if stage.definition(name) is None:  # else another thread was first
                    self._write(stage, [commands.create(name, definition)])
            return self.collection(name, dim=dim, metric=metric, format=format, erasable=erasable)
        for field, value in asked.items():
            if getattr(standing, field) != value:
                raise UsageError(f"collection {name!r} has {field} {getattr(standing, field)!r}, asked for {value!r}")
        from detmem.collection import Collection

        return Collection(self, name, standing)

    def __getitem__(self, name: str) -> Collection:
        return self.collection(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.collections()

    def collections(self) -> list[str]:
        """The names of all collections, in UTF-8 order."""
        self._check_open()
        with self._moment:
            return self._reading.names()

    def drop(self, name: str) -> Commit | None:
        """Drop a collection and all its records.  ``NotFoundError`` when it is absent."""
        name = encoding.check_name(name, "collection name")
        with self._writing() as stage:
            return self._write(stage, [commands.drop(name)])

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Everything written inside is one atomic commit, or nothing when the block raises.

        Writes inside return None; their checks see the writes before them, reads see the committed state.  Other
        threads' writes wait.
        """
        handle = Batch()
        with self._writing() as stage:
            if self._batch is not None:
                raise UsageError("a batch inside a batch")
            self._batch, self._batch_thread = stage, threading.get_ident()
            try:
                yield handle
            finally:
                self._batch = self._batch_thread = None
            commit = self._commit(stage) if stage.operations else self._standing()
        handle.commit = commit  # here: under ``group`` its sync has been waited for

    # -- where it stands

    @property
    def seq(self) -> int:
        """The number of commits so far."""
        return self._state.seq

    @property
    def state_root(self) -> str:
        """Root over everything that is live, in hex."""
        return self._state.root.hex()

    @property
    def log_root(self) -> str:
        """Root over everything that happened, in hex."""
        return self._state.log.root.hex()

    @property
    def head(self) -> str:
        """The last link of the log's chain, in hex."""
        return self._state.link.hex()

    @property
    def recovery(self) -> Recovery | None:
        """What opening had to do, or None."""
        return self._opened.recovery

    def checkpoint(self) -> Checkpoint:
        """What two machines compare."""
        self._check_open()
        with self._moment:
            return Checkpoint.of(self._state.seq, self._state.log, self._state.root)

    def refresh(self) -> int:
        """Move a reader on to what has become durable since it was opened or refreshed; returns its seq.

        A writer is always where it stands: nothing happens.  ``LogDamaged`` as in ``open``.
        """
        with self._writer:
            self._check_open()
            if self._journal is None:
                follow(self._disk, self._opened, self._publish)
            return self._state.seq

    # -- history and audit

    def at(self, seq: int, *, erased: str = "raise") -> Database:
        """The store as it was after commit ``seq``, read only: each answer is the one that was given then.

        0 is the empty store.  The near past is a mask over what is in memory, the farther one is folded anew from a
        snapshot and the log.  ``erased``: what becomes of records that lived then and were erased since: "raise" an
        ``Erased`` error when an answer could touch one, or "omit" them and list them in the ``Result``.

        ``UsageError``: a seq that has not been.
        """
        self._check_open()
        seq = encoding.whole_number(seq, "seq", 0)
        if seq > self.seq:
            raise UsageError(f"seq: expected 0..{self.seq}, found {seq}")
        if not isinstance(erased, str) or erased not in ("raise", "omit"):
            raise UsageError(f"erased: expected 'raise' or 'omit', found {shown(erased)}")
        return self._past(seq, erased == "omit")

    def log(
        self, start: int = 1, stop: int | None = None, *, collection: str | None = None, id: str | None = None
    ) -> Iterator[Entry]:
        """What happened from seq ``start`` up to, not including, ``stop``; of one collection or one id if asked.

        One ``Entry`` for each kind of operation and collection of a commit, in order.
        """
        self._check_open()
        start = encoding.whole_number(start, "start", 1)
        end = self.seq + 1
        stop = end if stop is None else min(end, encoding.whole_number(stop, "stop", 0))
        if collection is not None:
            collection = encoding.check_name(collection, "collection")
        if id is not None:
            id = encoding.check_id(id, "id")
        return self._entries(start, stop, collection, id)

    def snapshot(self) -> SnapshotInfo:
        """Write a snapshot, so that the next open need not replay what is before it."""
        with self._writing():
            if self._batch is not None:
                raise UsageError("snapshot() inside a batch: leave the with block first")
            assert self._journal is not None
            self._settle()
            name = self._journal.snapshot(self._state)
            return SnapshotInfo(self._state.seq, self.state_root, self._disk.path(name))

    def backup(self, dest: AnyPath) -> Checkpoint:
        """Copy the store as it stands to a new directory, beside a live writer; the copy is verified.

        The store's key goes with it.  A reader beside a writer that erases meanwhile moves on and copies again.

        ``StoreExistsError`` when ``dest`` exists, ``UsageError`` when it lies in the store, ``LockedError`` when a
        writer of another process erased during each of ten copyings, ``Archived`` when one has moved payloads that a
        reader needs who stands before it: open anew.  Returns the copy's checkpoint.
        """
        self._check_open()
        target = OsDisk(path_text(dest))
        if target.exists():
            raise StoreExistsError(f"{dest!r} exists already, and a backup needs a new directory")
        check_apart(self._disk, target)
        with self._erasing:
            target.make_root(new=True)
            for left in reversed(range(_COPYINGS)):
                checkpoint, head = self._moment_to_copy(), newest_head(self._disk)
                try:
                    backup(self._disk, target, self._opened.head.store_id, checkpoint.seq)
                    break
                except CorruptionError:
                    # Another process may have erased or archived meanwhile: what was copied is partly from before that.
                    stands = self.refresh() == checkpoint.seq and newest_head(self._disk) == head
                    if self._journal is not None or stands:
                        raise
                    if not left:
                        raise LockedError(
                            errno.EBUSY,
                            f"a writer erased or archived during each of {_COPYINGS} copyings: back up in its process, "
                            "or when it rests",
                            self._disk.path(""),
                        ) from None
            return checkpoint

    def _moment_to_copy(self) -> Checkpoint:
        with self._moment:
            self._check_whole()
            return Checkpoint.of(self._state.seq, self._state.log, self._state.root)

    def record(self, receipt: Receipt | bytes, note: str | None = None) -> Commit | None:
        """Put what was read into the audit trail: the hash of a ``receipt`` (or any SHA-256, 32 bytes), and a note of
        at most 64 KiB.

        It changes no state root; the log root covers it.
        """
        if isinstance(receipt, Receipt):
            receipt = bytes.fromhex(receipt.sha256)
        if not isinstance(receipt, bytes) or len(receipt) != 32:
            raise UsageError(f"receipt: expected a Receipt or a hash of 32 bytes, found {shown(receipt)}")
        text = encoding.check_document(note, "note")
        if text is not None and len(text.encode()) > commands.MAX_NOTE_BYTES:
            raise UsageError(f"note: expected at most {commands.MAX_NOTE_BYTES} bytes, found {len(text.encode())}")
        with self._writing() as stage:
            return self._write(stage, [commands.record(receipt, text)])

    def erase(self, collection: str, ids: str | Sequence[str]) -> Commit:
        """Delete records, and give up what every version of them held: vectors, metadata, documents, salts.

        ``ids``: one, or a list.  Records that were deleted long ago, or whose collection was dropped, can be erased as
        well; one that is written again later is a new one.  All roots, links and proofs stay; ids, links' names and
        recorded receipts are not erased.  Every file of the store that held a payload is written anew, quarantine is
        emptied, and the disk has it all when this returns.  It costs reading the whole log.  An error on the way
        poisons this handle, and the next open for writing finishes.  Erasing again what has not been written since
        logs nothing, and looks through all files again.

        ``NotFoundError``: an id that has never been.  ``UsageError`` inside a batch.
        """

        name = encoding.check_name(collection, "collection")
        wanted = [(name, id) for id in arguments.id_list(ids, empty=True)[0]]
        with self._writing() as stage:
            if self._batch is not None:
                raise UsageError("erase() inside a batch: leave the with block first")
            assert self._journal is not None
            archive.check_whole(archive.reached(self._disk))
            written = self._last_written(frozenset(wanted))
            for node in wanted:
                if node not in written:
                    raise NotFoundError(
                        f"no record {node[1]!r} has ever been in collection {name!r}; nothing was erased"
                    )
            erased = self._state.erased
            due = [commands.erase(*node) for node in wanted if written[node] > erased.get(node, 0)]
            with self._erasing:
                self._write(stage, due)
                self._settle()
                self._journal.erase(self._state)
            with self._moment:
                self._folds = {}  # what was folded meanwhile may be from before
                self._erasure_count += 1
            return self._standing()

    def archive(self, dest: AnyPath) -> ArchiveInfo:
        """Move the payloads of everything up to now to ``dest``: a new folder, or an archive of this store.

        A snapshot is written, so the store opens and answers as before.  Every segment goes to ``dest`` whole and is
        verified there; its headers and commitments stay here, so links, roots and proofs can still be computed.  A past
        moment before the snapshot and a replay then raise ``Archived``, which says where the payloads are; a segment's
        file put back into ``log/`` of a closed store brings them back.  An erasure reaches archives too, and is refused
        while one of them is not there.

        ``UsageError``: inside a batch, or ``dest`` holds anything else, or lies in the store.
        """
        target = OsDisk(path_text(dest))
        check_apart(self._disk, target)
        with self._writing():
            if self._batch is not None:
                raise UsageError("archive() inside a batch: leave the with block first")
            assert self._journal is not None
            if target.exists() and not target.is_folder():
                raise StoreExistsError(f"{dest!r} exists already, and is no folder")
            with self._erasing:
                target.make_root()
                self._settle()
                self._journal.snapshot(self._state)
                moved = archive.move(self._disk, target)
            return ArchiveInfo(self._state.seq, moved, target.path(""))

    def _settle(self) -> None:
        """Under the writer's lock: views of all that stands are made, so that a snapshot makes none beside readers."""
        with self._moment:
            self._views()

    def _last_written(self, wanted: Container[Node]) -> dict[Node, int]:
        """The seq that wrote each of the wanted records last, as the whole log says; ``LogDamaged``."""
        found: dict[Node, int] = {}
        for _, frame in frames(self._disk, 1, self._state.seq + 1):
            for part in frame.operations.parts():
                if isinstance(part, Run):
                    found.update(
                        {(part.collection, id): frame.seq for id in part.ids if (part.collection, id) in wanted}
                    )
                elif part.type in WRITES and (part.collection, part.id) in wanted:
                    found[part.collection, part.id] = frame.seq
        return found

    def verify(self, level: str = "replay", *, progress: Progress = None) -> Report:
        """Read the whole log again: ``chain`` checks every byte against the links, ``replay`` also every state root.

        ``progress``: True, or called with (done, total) bytes of the log.
        """
        self._check_open()
        with self._writer:
            return verify_disk(self._disk, level, None, progress=progress)

    # -- proofs

    def prove(self, collection: str, id: str) -> RecordProof:
        """That the record is live now, or is not: for whoever trusts a checkpoint, and has no store."""
        name, id = encoding.check_name(collection, "collection"), encoding.check_id(id, "id")
        return self._prover.record(name, id)

    def prove_consistency(self, old: Checkpoint | str) -> ConsistencyProof:
        """That this log begins with that of ``old``.  ``Divergence`` when it does not."""
        return self._prover.consistency(given_checkpoint(old, "old"))

    def sign(self, key: SignerKey, last: Checkpoint | str | None = None) -> str:
        """The checkpoint as it stands, as a signed note (extra ``sign``).

        ``last``: what this key signed last for this store, a checkpoint or the note; the caller keeps it.
        ``Divergence`` when the log has not been there: two histories are never signed.
        """
        if not isinstance(key, SignerKey):
            raise UsageError(f"key: expected a SignerKey, found {type(key).__name__}")
        before = key.last_signed(last)
        if before is None:
            return key.sign(self.checkpoint())
        proof = self.prove_consistency(before)
        return key.sign(proof.new, before, proof)

    def subtree(self, collection: str, number: int) -> Subtree:
        """All that is live in one of the 256 parts of the state (0..255), for checking receipts of level R3."""
        name, number = encoding.check_name(collection, "collection"), encoding.whole_number(number, "number", 0)
        return self._prover.subtree(name, number)

    # -- for Collection

    def _writing(self) -> _Writing:
        """A context with the stage that a write call works on, under the writer's lock."""
        return _Writing(self)

    def _begin(self) -> Stage:
        self._check_open()
        if self._journal is None:
            raise ReadOnlyError("this store was opened with mode 'r': it cannot be written")
        self._journal.check_usable(self._state.seq)
        return self._batch if self._batch is not None else self._state.stage()

    def _write(self, stage: Stage, operations: Sequence[Operation | Run]) -> Commit | None:
        """Check all operations of a call, then take all; commit them unless a batch is open."""
        for operation in operations:
            stage.check(operation)
        for operation in operations:
            stage.put(operation)
        if stage is self._batch:
            return None
        return self._commit(stage) if operations else self._standing()

    def _records(self, name: str, definition: Definition) -> tuple[int, Records | PastRecords]:
        """Under ``_moment``: one collection at one seq; nothing is published meanwhile, so take what you need."""
        self._check_whole()
        reading = self._reading
        records = reading.collections.get(name)
        if records is None or (records.definition is not definition and records.definition != definition):
            raise NotFoundError(f"no collection {name!r} as this handle knows it: dropped, or in a batch still open")
        return reading.seq, records

    def _past(self, seq: int, without_erased: bool) -> Past:
        from detmem.past import Past

        past = Past(self, seq, without_erased)
        self._pasts.add(past)
        return past

    def _fold(self, seq: int) -> State:
        """The state at a seq that is no longer held, folded anew; the last few are kept."""
        with self._moment:
            folds = self._folds
            if seq in folds:
                return folds[seq]
        state = state_at(self._disk, seq)
        with self._moment:
            folds[seq] = state
            while len(folds) > _KEPT_FOLDS:
                del folds[next(iter(folds))]
        return state

    def _views(self) -> dict[str, tuple[Records | PastRecords, View]]:
        """Under ``_moment``: every collection with its view."""
        reading = self._reading
        return {name: (records, records.view(reading.seq)) for name, records in reading.collections.items()}

    def _hold_links(self) -> None:
        """See to it that ``_stand`` can tell the links."""

    def _stand(self) -> Standing | None:
        """Under ``_moment``: everything that a comparison asks for, of one seq; None to be asked again."""
        self._check_whole()
        views = {name: view for name, (_, view) in self._views().items()}
        return Standing(self._state.seq, views, set(self._state.links.born), self._state.tree)

    def _find(self, records: Records | PastRecords, view: View, ids: Iterable[str]) -> list[int | None]:
        """Slots in a view that was taken earlier."""
        with self._moment:
            return records.find(view, ids)

    def _near(self, node: Node, incoming: bool, seq: int) -> list[Link]:
        """Links from, or to, a record as they were at ``seq``, which has just been."""
        with self._moment:
            links = self._state.links
            if links.kept_from <= seq:
                return links.near_at(node, incoming, seq)
        return self.at(seq)._near(node, incoming, seq)

    @property
    def _reading(self) -> State | Moment:
        """What readers see; under ``_moment``."""
        return self._state

    @contextmanager
    def _whole_moment(self) -> Iterator[None]:
        """A moment in which nothing is published."""
        self._check_open()
        with self._moment:
            self._check_whole()
            yield

    # -- inside

    def _commit(self, stage: Stage) -> Commit:
        assert self._journal is not None
        change = stage.finish()
        durable = self._journal.append(change)
        self._publish(change)
        return Commit(change.seq, change.state_root.hex(), durable)

    def _apply(self, operations: Operations, link: bytes, state_root: bytes, where: str) -> None:
        """Commit operations that were logged elsewhere, with this link and root; ``Divergence`` before anything is
        written."""
        with self._writing():
            assert self._journal is not None
            if any(isinstance(part, Operation) and part.archived for part in operations.parts()):
                raise Archived(f"{where}: its payloads lie in an archive; put them back first")
            change = self._state.apply(operations)
            if (change.link, change.state_root) != (link, state_root):
                raise Divergence(
                    f"{where}: the source says state root {state_root.hex()} and link {link.hex()}, "
                    f"replaying gives {change.state_root.hex()} and {change.link.hex()}"
                )
            self._journal.append(change)
            self._publish(change)

    @property
    def _erasures(self) -> dict[Node, int]:
        """The last erasure of each record, by seq."""
        return self._state.erased

    def _finish_erasures(self) -> None:
        """After commits that were logged elsewhere: what they erase is gone from here as well."""
        with self._writing():
            assert self._journal is not None
            check_explained(self._state.missing)
            if self._state.erased:
                self._journal.erase(self._state)

    def _check_payloads(self, last: int) -> None:
        """``Erased`` when the log up to ``last`` lacks a payload that is only erased behind it, ``Archived`` when one
        lies elsewhere."""
        later, places = {node: seq for node, seq in self._erasures.items() if seq > last}, archive.places(self._disk)
        for _, frame in frames(self._disk, 1, last + 1) if later or places else ():
            for one in singles(frame):
                if one.archived:
                    raise Archived(
                        f"what seq {frame.seq} wrote lies in an archive ({', '.join(places)}): put its segments back "
                        "into log/ of this store, or of a copy, first"
                    )
                seq = later.get((one.collection, one.id))
                if one.erased and seq is not None:
                    raise Erased(
                        f"{one.id!r} in {one.collection!r}, written at seq {frame.seq}, was erased at {seq}: no store "
                        f"can end at {last} without what it held; go on to {seq}, or ask at({last})"
                    )

    def _check_gone(self, last: int, missing: dict[Node, int]) -> None:
        """The same of what was ``missing`` when the log up to ``last`` was read: another process, or another thread
        meanwhile, may have erased it.  ``LogDamaged`` when no commit explains it."""
        check_explained(unexplained(self._disk, last, missing))
        if missing:
            (name, id), seq = min(missing.items(), key=lambda item: (item[1], item[0]))
            raise Erased(
                f"{id!r} in {name!r}, written at seq {seq}, has been erased behind {last} by now: no store can end at "
                f"{last} without what it held; refresh, and go on to its erasure"
            )

    def _publish(self, change: Change) -> None:
        with self._moment:
            self._torn = True  # an interrupt (Ctrl-C) in the next line would leave half a change in memory
            self._state.publish(change)
            self._torn = False
            if change.beside is not None and change.beside.erased:
                self._folds = {}  # they hold what has been erased
                self._erasure_count += 1

    def _repeated(self, stage: Stage, id: str, standing: tuple[Request | None, bytes], digest: bytes) -> Commit | None:
        """The commit that a request id stands for; ``UsageError`` when it was for something else."""
        assert self._journal is not None
        first, known = standing
        if known != digest:
            where = "earlier in this batch" if first is None else f"at seq {first.seq}"
            raise UsageError(f"request_id {id!r} was used {where} for another call; nothing was written")
        if first is None or stage is self._batch:
            return None
        return Commit(first.seq, first.state_root.hex(), self._journal.has(first.seq))

    def _key(self) -> bytes:
        """The store's key, made when it is first asked for."""
        with self._writer:
            self._begin()
            if self._salting is None:
                self._salting = keys.store_key(self._disk)
            return self._salting

    def _standing(self) -> Commit:
        assert self._journal is not None
        return Commit(self._state.seq, self.state_root, self._journal.durable)

    def _definition(self, name: str) -> Definition | None:
        """The definition that a write would meet: inside a batch, in the thread that holds it, the pending one."""
        self._check_open()
        if self._batch is not None and self._batch_thread == threading.get_ident():
            return self._batch.definition(name)
        with self._moment:
            records = self._state.collections.get(name)
            return None if records is None else records.definition

    def _entries(self, start: int, stop: int, collection: str | None, id: str | None) -> Iterator[Entry]:
        for _, frame in frames(self._disk, start, stop):
            self._check_open()
            entries: dict[tuple[str, str], Entry] = {}
            known = graph.Nodes()
            for operation in frame.operations:
                if operation.type == commands.REQUEST:  # says how the writes behind it came, and is none itself
                    continue
                link = operation.link() if operation.type in (commands.LINK, commands.UNLINK) else None
                nodes = [known[operation.collection, operation.id] if link else (operation.collection, operation.id)]
                if link is not None:
                    nodes.append((link.target_collection, link.target))
                if not any(collection in (None, where) and id in (None, one) for where, one in nodes):
                    continue
                place = operation.name, operation.collection
                entry = entries.setdefault(place, Entry(frame.seq, *place, [], frame.link.hex()))
                if operation.id:
                    entry.ids.append(nodes[0][1])
                if link is not None:
                    entry.links.append(graph.between(link, known))
                if operation.type == commands.RECORD:
                    digest, note = operation.recorded()
                    entry.recorded.append((digest.hex(), note))
            yield from entries.values()

    def _after_fork(self) -> None:
        """In the child: reading goes on, writing and the store's lock stay with the parent."""
        self._writer, self._moment = threading.RLock(), threading.Lock()
        self._batch = self._batch_thread = None
        self._erasing = threading.Lock()
        self._finder.after_fork()
        self._prover.after_fork()
        if self._journal is not None:
            self._journal.disown()
        if self._lock is not None:
            self._lock.close()
        for past in self._pasts:
            past._share()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("the database is closed")

    def _check_whole(self) -> None:
        """Under ``_moment``: no commit was interrupted on its way into memory."""
        if self._torn:
            raise StorePoisoned("a commit was interrupted while it was taken into memory; reopen the store")


class _Writing:
    """The context of ``Database._writing``.  A class, for a generator costs more than all of its work."""

    __slots__ = ("_database", "_lock")

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = database._writer  # this one, though a fork inside would give the database another

    def __enter__(self) -> Stage:
        self._lock.acquire()
        try:
            return self._database._begin()
        except BaseException:
            self._lock.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()
        journal = self._database._journal
        if kind is None and journal is not None:
            journal.wait()


def verify_disk(
    disk: Disk,
    level: str,
    expect: Checkpoint | str | None,
    *,
    visit: Callable[[str, Frame, Position], None] = lambda file, frame, position: None,
    progress: Progress = None,
) -> Report:
    """``verify`` (see ``history``) for a store that may not even open.  ``visit`` as in ``audit.verify``."""
    if not isinstance(level, str) or level not in _LEVELS:
        raise UsageError(f"level: expected one of {', '.join(_LEVELS)}, found {shown(level)}")
    root = expect.lower() if isinstance(expect, str) and _ROOT.fullmatch(expect) else None
    wanted = Checkpoint.read(expect, "expect") if root is None else None
    told = reporter(progress, "bytes of the log")

    def watch(position: Position) -> None:
        if wanted is not None and position.seq == wanted.seq:
            found = Checkpoint.of(position.seq, position.log, position.state_root)
            if found != wanted:
                raise Divergence(f"expected the log to pass through {wanted!r}, found {found!r}")

    verdict = audit.verify(disk, replay=level == "replay", watch=watch, visit=visit, progress=told)
    seq, state_root, error = verdict.position.seq, verdict.position.state_root.hex(), verdict.error
    first_bad = None if error is None or isinstance(error, SnapshotDamaged) else seq + 1  # the log may be whole
    if error is None and wanted is not None and wanted.seq > seq:
        error, first_bad = Divergence(f"expected a log of at least {wanted.seq} commits, this one has {seq}"), seq + 1
    if error is None and root not in (None, state_root):
        error = Divergence(f"expected to end in state root {root}, found {state_root}")
    counts = verdict.operations, verdict.erased, verdict.remaining, verdict.archived
    if error is None:
        return Report(True, seq, state_root, None, None, None, None, *counts)
    return Report(False, seq, state_root, first_bad, str(error), verdict.file, verdict.offset, *counts)


def _dimension(dim: object) -> int:
    number = encoding.whole_number(dim, "dim", 1)
    if number > fixed.MAX_DIMENSION:
        raise UsageError(f"dim: expected 1..{fixed.MAX_DIMENSION}, found {number}")
    return number


class Standing(NamedTuple):
    """A database at one seq: the views of its collections, its links, and its state tree if it has one."""

    seq: int
    views: dict[str, View]
    links: set[bytes]
    tree: StateTree | None


def standing(a: Database, b: Database) -> tuple[Standing, Standing, set[bytes] | None]:
    """Two databases at one moment, and the state keys in which they differ, where both have a tree."""
    while True:
        for side in (a, b):
            side._check_open()
            side._hold_links()
        locks = {id(side._moment): side._moment for side in (a, b)}
        with ExitStack() as stack:
            for _, lock in sorted(locks.items(), key=lambda item: item[0]):  # in one order: nobody waits for the other
                stack.enter_context(lock)
            one, two = a._stand(), b._stand()
            if one is not None and two is not None:
                keys = None if one.tree is None or two.tree is None else one.tree.differing(two.tree)
                return one, two, keys
