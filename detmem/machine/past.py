"""A moment of the past, as readers of a state ask for it: collections and links, and nothing that can change.

It is a mask over what the state still holds (``State.holds``): rows born at or before the seq and not dead by then.
Rows are not copied, and what is published later does not show.
"""

from __future__ import annotations

from collections.abc import Iterable

from detmem.machine.commands import Link
from detmem.machine.links import Links, Node
from detmem.machine.records import Records, View
from detmem.machine.state import State

__all__ = ["Moment", "PastRecords"]


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

    def all_links(self) -> set[Link] | None:
        """Every link, or None when the state has let go of those that died since."""
        return None if self.seq < self._links.kept_from else self._links.all_at(self.seq)

    def links(self, node: Node, incoming: bool) -> list[Link] | None:
        """Links from, or to, a record; None when the state has let go of those that died since."""
        if self.seq < self._links.kept_from:
            return None
        return self._links.near_at(node, incoming, self.seq)
