"""Moments of the past, as databases that are read and not written."""

from __future__ import annotations

import threading
from functools import cached_property

from detmem.database import Database, Standing
from detmem.errors import ReadOnlyError, UsageError
from detmem.journal.disk import AnyPath
from detmem.journal.erasure import check_explained, unexplained
from detmem.journal.past import roots_at
from detmem.machine import encoding
from detmem.machine.commands import Definition, Link
from detmem.machine.links import Node
from detmem.machine.past import Moment
from detmem.machine.stage import Stage
from detmem.proof.checkpoint import Checkpoint
from detmem.proof.proofs import ConsistencyProof, RecordProof, given_checkpoint
from detmem.proof.receipt import Subtree
from detmem.results import SnapshotInfo

__all__ = ["Past"]


class Past(Database):
    """A store as it was at ``seq``: every answer is the one that was given then, bit for bit.

    It lives as long as the database that it was taken from; closing it closes nothing else.
    """

    def __init__(self, origin: Database, seq: int, without_erased: bool) -> None:
        self._origin = origin
        self._without_erased = without_erased
        self._seq = seq
        self._disk, self._opened, self._finder, self._prover = (
            origin._disk,
            origin._opened,
            origin._finder,
            origin._prover,
        )
        self._journal = self._lock = self._batch = self._batch_thread = None
        self._closed = self._torn = False
        self._share()
        self._erasure_count = origin._erasure_count
        with self._moment:
            origin._check_whole()
            held = Moment(origin._state, seq, without_erased) if origin._state.holds(seq) else None
        self._held = held or self._folded()

    @property
    def _reading(self) -> Moment:
        return self._held

    @property
    def _erasures(self) -> dict[Node, int]:
        return self._origin._state.erased

    def _share(self) -> None:
        """Locks are the origin's, and after a fork its new ones."""
        self._writer: threading.RLock = self._origin._writer
        self._moment = self._origin._moment

    def _folded(self) -> Moment:
        state = self._origin._fold(self._seq)
        unknown = {node: seq for node, seq in state.missing.items() if self._erasures.get(node, 0) <= self._seq}
        if unknown:  # erased by another process, behind where this reader stands; or damage
            check_explained(unexplained(self._disk, self._seq, unknown))
        with self._moment:  # the fold is shared: two views must not settle its rows at once
            for (name, id), seq in self._erasures.items():  # the files may not say so yet
                records = state.collections.get(name)
                slot = None if records is None or seq <= self._seq else records.slots.get(id)
                if records is not None and slot is not None and slot not in records.erased:
                    records.give_up(slot)
            return Moment(state, self._seq, self._without_erased, folded=True)

    def close(self) -> None:
        """Let go of this view; the database that it was taken from stays open."""
        self._closed = True

    @property
    def seq(self) -> int:
        """The moment's seq."""
        return self._seq

    @property
    def state_root(self) -> str:
        """Root over everything that was live, in hex, as the commit of that seq logged it."""
        return self._logged[0].hex()

    @property
    def head(self) -> str:
        """The link of that seq, in hex."""
        return self._logged[1].hex()

    @property
    def log_root(self) -> str:
        """Root over everything that had happened by then, in hex."""
        return self._checkpoint.log_root

    def checkpoint(self) -> Checkpoint:
        """The checkpoint of that seq, read from the log."""
        self._check_open()
        return self._checkpoint

    def prove(self, collection: str, id: str) -> RecordProof:
        """That the record was live at that seq, or was not, under the checkpoint that the store stands at."""
        self._check_open()
        name, id = encoding.check_name(collection, "collection"), encoding.check_id(id, "id")
        return self._prover.record(name, id, self._seq)

    def prove_consistency(self, old: Checkpoint | str) -> ConsistencyProof:
        """That the log up to that seq begins with that of ``old``.  ``Divergence`` when it does not."""
        self._check_open()
        return self._prover.consistency(given_checkpoint(old, "old"), self.checkpoint())

    def subtree(self, collection: str, number: int) -> Subtree:
        """All that was live in one of the 256 parts of the state."""
        self._check_open()
        name, number = encoding.check_name(collection, "collection"), encoding.whole_number(number, "number", 0)
        return self._prover.subtree(name, number, self._seq)

    def refresh(self) -> int:
        """A moment of the past does not move."""
        self._check_open()
        return self._seq

    def snapshot(self) -> SnapshotInfo:
        """``ReadOnlyError``."""
        raise self._read_only()

    def backup(self, dest: AnyPath) -> Checkpoint:
        """``UsageError``: ``replay(store, dest, until=seq)`` makes a store that ends there."""
        raise UsageError(
            "a moment of the past has no files of its own: replay(store, dest, until=seq) makes a store of it"
        )

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return self._prover.checkpoint(self._seq, self._logged[0])

    @cached_property
    def _logged(self) -> tuple[bytes, bytes]:
        """(state root, link) as the commit of that seq logged them."""
        return roots_at(self._disk, self._seq)

    def _past(self, seq: int, without_erased: bool) -> Past:
        return self._origin._past(seq, without_erased)

    def _begin(self) -> Stage:
        self._check_open()
        raise self._read_only()

    def _read_only(self) -> ReadOnlyError:
        return ReadOnlyError(f"this is the store as it was at seq {self._seq}: the past cannot be written")

    def _check_open(self) -> None:
        super()._check_open()
        self._origin._check_open()
        known = self._origin._erasure_count
        if known != self._erasure_count:  # what is held may be what has been erased
            self._held, self._erasure_count = self._folded(), known

    def _definition(self, name: str) -> Definition | None:
        self._check_open()
        records = self._held.collections.get(name)
        return None if records is None else records.definition

    def _hold_links(self) -> None:
        with self._moment:
            lost = self._held.all_links() is None
        if lost:
            self._held = self._folded()

    def _stand(self) -> Standing | None:
        views = {name: view for name, (_, view) in self._views().items()}
        links = self._held.all_links()
        if links is None:  # let go of since _hold_links
            return None
        return Standing(self._seq, views, links, self._held.tree)

    def _near(self, node: Node, incoming: bool, seq: int) -> list[Link]:
        assert seq == self._seq
        with self._moment:
            links = self._held.links(node, incoming)
        if links is None:
            self._held = self._folded()
            links = self._held.links(node, incoming)
            assert links is not None
        return links
