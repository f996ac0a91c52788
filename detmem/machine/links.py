"""Links between live records, by both of their ends (spec/commitments.md, "State tree").

Rule 1  A link lives while both of its records do; deleting one takes the link away.
Rule 2  Each link knows when it was born and, for a while, when it died, so a moment of the near past can be answered.
Rule 3  No call costs more than the links it is about; a dropped collection's cost one look at every node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

from detmem.machine.commands import Link
from detmem.machine.commitment import link_key, link_leaf, prefixed

__all__ = ["LinkStage", "Links", "Node", "entry"]

Node: TypeAlias = tuple[str, str]  # collection, id

_DEAD_KEPT = 1024  # below this many dead links, dropping them is not worth it


class _Dead(NamedTuple):
    link: Link
    born: int
    died: int


def _ends(link: Link) -> tuple[Node, Node]:
    return (link.collection, link.source), (link.target_collection, link.target)


class Links:
    """All live links, and those that died at or after ``kept_from``."""

    def __init__(self) -> None:
        self.kept_from = 0
        self._born: dict[Link, int] = {}
        self._at: tuple[dict[Node, dict[Link, None]], dict[Node, dict[Link, None]]] = {}, {}  # by source, by target
        self._dead: list[_Dead] = []
        self._dead_at: tuple[dict[Node, list[_Dead]], dict[Node, list[_Dead]]] = {}, {}

    @classmethod
    def restored(cls, links: Iterable[tuple[Link, int]], seq: int) -> Links:
        """Links with the seq at which each was born, as a snapshot at ``seq`` holds them."""
        restored = cls()
        restored.kept_from = seq
        for link, born in links:
            restored._put(link, born)
        return restored

    def __len__(self) -> int:
        return len(self._born)

    def __contains__(self, link: Link) -> bool:
        return link in self._born

    def __iter__(self) -> Iterator[Link]:
        return iter(self._born)

    def items(self) -> Iterable[tuple[Link, int]]:
        """(link, born) of every live link."""
        return self._born.items()

    def near(self, node: Node, incoming: bool) -> list[Link]:
        """Live links from ``node``, or those to it."""
        return list(self._at[incoming].get(node, ()))

    def near_at(self, node: Node, incoming: bool, seq: int) -> list[Link]:
        """The same as it was at ``seq``, which is not before ``kept_from``."""
        assert seq >= self.kept_from
        found = [link for link in self._at[incoming].get(node, ()) if self._born[link] <= seq]
        found += [dead.link for dead in self._dead_at[incoming].get(node, ()) if dead.born <= seq < dead.died]
        return found

    def all_at(self, seq: int) -> set[Link]:
        """Every link of a moment that is not before ``kept_from``."""
        assert seq >= self.kept_from
        found = {link for link, born in self._born.items() if born <= seq}
        return found | {dead.link for dead in self._dead if dead.born <= seq < dead.died}

    def of_collection(self, name: str) -> Iterator[Link]:
        """Live links that begin or end in a collection."""
        return (link for link in self._born if name in (link.collection, link.target_collection))

    def publish(self, change: LinkStage, seq: int) -> None:
        """Store what a stage on this same object has gathered."""
        for link in change.removed:
            dead = _Dead(link, self._born.pop(link), seq)
            self._dead.append(dead)
            for incoming, node in enumerate(_ends(link)):
                there = self._at[incoming][node]
                del there[link]
                if not there:
                    del self._at[incoming][node]
                self._dead_at[incoming].setdefault(node, []).append(dead)
        for link in change.added:
            self._put(link, seq)
        if len(self._dead) > max(_DEAD_KEPT, len(self._born)):
            self._dead, self._dead_at, self.kept_from = [], ({}, {}), seq

    def _put(self, link: Link, born: int) -> None:
        self._born[link] = born
        for incoming, node in enumerate(_ends(link)):
            self._at[incoming].setdefault(node, {})[link] = None


class LinkStage:
    """Links added and removed on top of ``base``, unpublished.  A removed one may stand among the added as well."""

    def __init__(self, base: Links) -> None:
        self._base = base
        self.added: dict[Link, None] = {}
        self.removed: dict[Link, None] = {}
        self._added_at: dict[Node, dict[Link, None]] = {}

    def has(self, link: Link) -> bool:
        """Whether the link would be there."""
        return link in self.added or (link in self._base and link not in self.removed)

    def add(self, link: Link) -> None:
        """Add one that is not there."""
        self.added[link] = None
        for node in _ends(link):
            self._added_at.setdefault(node, {})[link] = None

    def remove(self, link: Link) -> None:
        """Remove one that is there."""
        if link in self.added:
            del self.added[link]
            for node in _ends(link):
                self._added_at[node].pop(link, None)
        else:
            self.removed[link] = None

    def isolate(self, node: Node) -> None:
        """Remove every link of a record."""
        if not self._base and not self.added:
            return
        standing = [*self._base.near(node, False), *self._base.near(node, True), *self._added_at.get(node, ())]
        for link in dict.fromkeys(standing):
            if self.has(link):
                self.remove(link)

    def isolate_collection(self, name: str) -> None:
        """Remove every link that begins or ends in a collection."""
        standing = [*self._base.of_collection(name), *self.added]
        for link in standing:
            if name in (link.collection, link.target_collection) and self.has(link):
                self.remove(link)

    def leaves(self) -> Iterator[tuple[bytes, bytes | None]]:
        """What changes in the state tree: (key, leaf or None)."""
        for link in self.removed:
            if link not in self.added:
                yield link_key(_names(link)), None
        for link in self.added:
            yield entry(link)


def entry(link: Link) -> tuple[bytes, bytes]:
    """A link's entry in the state tree: (key, leaf)."""
    names = _names(link)
    return link_key(names), link_leaf(names)


def _names(link: Link) -> bytes:
    return b"".join([prefixed(text.encode()) for text in link])
