"""A moment of the past, as readers of a state ask for it: collections and links, and nothing that can change.

It is a mask over what the state still holds (``State.holds``): rows born at or before the seq and not dead by then.
Rows are not copied, and what is published later does not show.  ``Then`` has the tree of such a moment, for proofs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from detmem.machine.commands import Link
from detmem.machine.commitment import prefixed, record_leaf, state_key
from detmem.machine.links import Links, Node, entry
from detmem.machine.records import Record, Records, View
from detmem.machine.stage import NO_ID
from detmem.machine.state import State

__all__ = ["Moment", "PastRecords", "Then"]

_ENTRY_BYTES = 64  # key and leaf


class PastRecords:
    """One collection of a moment, with the doors of ``Records`` that readers use."""

    def __init__(self, records: Records, seq: int, without_erased: bool) -> None:
        self.name = records.name
        self.definition = records.definition
        self._view = records.past(seq, without_erased)

    def view(self, seq: int) -> View:
        """The moment's only view."""
        assert seq == self._view.seq
        return self._view

    def find(self, view: View, ids: Iterable[str]) -> list[int | None]:
        """The slots of records, None for those that were not there."""
        assert view is self._view
        return [view.slots.get(id) for id in ids]


class Moment:
    """``state`` as it was at ``seq``.  ``without_erased``: records whose payload is gone are left out."""

    def __init__(self, state: State, seq: int, without_erased: bool, *, folded: bool = False) -> None:
        assert state.holds(seq)
        self.seq = seq
        self.collections = {
            name: PastRecords(records, seq, without_erased)
            for name, records in state.collections.items()
            if records.created <= seq
        }
        self.tree = state.tree if folded else None
        self._links: Links = state.links

    def names(self) -> list[str]:
        """Collection names in UTF-8 order."""
        return sorted(self.collections)

    def all_links(self) -> set[bytes] | None:
        """Every link, or None when the state has let go of those that died since."""
        return None if self.seq < self._links.kept_from else self._links.all_at(self.seq)

    def links(self, node: Node, incoming: bool) -> list[Link] | None:
        """Links from, or to, a record; None when the state has let go of those that died since."""
        if self.seq < self._links.kept_from:
            return None
        return self._links.near_at(node, incoming, self.seq)


class Then:
    """A state as it was at a seq that it holds: its tree, with what has changed since put back, and its records.

    Asked while nothing is published, unless the state is nobody else's.
    """

    def __init__(self, state: State, seq: int) -> None:
        self.seq = seq
        self._state = state
        self._views: dict[str, View | None] = {}
        self._buckets: dict[int, bytes] = {}
        self._nodes: dict[int, bytes] = {}
        self.root = state.root
        if seq < state.seq:
            change = state.tree.stage(dict(self._undone()))
            self.root = change.root
            self._buckets, self._nodes = change.buckets, change.all_nodes()

    def bucket(self, number: int) -> bytes:
        """As ``StateTree.bucket``."""
        return self._buckets[number] if number in self._buckets else self._state.tree.bucket(number)

    def node(self, number: int) -> bytes:
        """As ``StateTree.node``."""
        return self._nodes[number] if number in self._nodes else self._state.tree.node(number)

    def leaf(self, key: bytes) -> bytes | None:
        """The leaf under ``key``, or None."""
        data = self.bucket(key[0] << 8 | key[1])
        for at in range(0, len(data), _ENTRY_BYTES):
            if data.startswith(key, at):
                return data[at + len(key) : at + _ENTRY_BYTES]
        return None

    def view(self, name: str) -> View | None:
        """A collection at that seq, or None."""
        if name not in self._views:
            records = self._state.collections.get(name)
            if records is None or records.created > self.seq:
                self._views[name] = None
            else:
                now = self.seq == self._state.seq
                self._views[name] = records.view(self.seq) if now else records.past(self.seq)
        return self._views[name]

    def record(self, name: str, id: str) -> Record:
        """A record that was there."""
        records, view = self._state.collections[name], self.view(name)
        assert view is not None
        return records.record(records.slots[id] if self.seq == self._state.seq else view.slots[id])

    def _undone(self) -> Iterator[tuple[bytes, bytes | None]]:
        """The entries that have changed since, as they were: first what is there now and was not, then what was."""
        state, seq = self._state, self.seq
        links, then = set(state.links.born), state.links.all_at(seq)
        for names in sorted(links - then):
            yield entry(names)[0], None
        for names in sorted(then - links):
            yield entry(names)
        for records in state.collections.values():
            born, died = records.born[: records.used], records.died[: records.used]
            if records.created > seq:
                yield state_key(records.prefix, NO_ID), None
            for slot in np.flatnonzero((born > seq) & (died > state.seq)).tolist():
                yield records.key(records.ids[slot]), None
            for slot in np.flatnonzero((born <= seq) & (died > seq) & (died <= state.seq)).tolist():
                record, id = records.record(slot), records.ids[slot]
                commitments = record.vector_commitment, record.content_commitment
                yield records.key(id), record_leaf(records.prefix, prefixed(id.encode()), *commitments)
