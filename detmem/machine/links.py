"""Links between live records, by both of their ends (spec/commitments.md, "State tree").

Rule 1  A link lives while both of its records do; deleting one takes the link away.
Rule 2  Each link knows when it was born and, for a while, when it died, so a moment of the near past can be answered.
Rule 3  No call costs more than the links it is about; a dropped collection's cost one look at every node.

A link is held as one string of bytes: its five names, each behind its length, as they are hashed.  So it takes a fifth
of what a tuple of five texts does.  Where many are asked for they come like that, and ``link_of`` says what they mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from detmem.machine.commands import Link
from detmem.machine.commitment import link_key, link_leaf, prefixed

__all__ = ["LinkStage", "Links", "Node", "entry", "link_of", "names_of"]

Node: TypeAlias = tuple[str, str]  # collection, id

_DEAD_KEPT = 1024  # below this many dead links, dropping them is not worth it


class _Dead(NamedTuple):
    names: bytes
    born: int
    died: int


class _Ends:
    """Links by a node at one of their ends; most nodes have one, which stands there as it is."""

    def __init__(self) -> None:
        self._at: dict[bytes, bytes | dict[bytes, None]] = {}

    def at(self, node: bytes) -> tuple[bytes, ...]:
        """All links of a node, in the order in which they came."""
        standing = self._at.get(node, ())
        return (standing,) if isinstance(standing, bytes) else tuple(standing)

    def put(self, node: bytes, names: bytes) -> None:
        """One that is not there."""
        standing = self._at.setdefault(node, names)
        if standing is names:
            return
        if isinstance(standing, bytes):
            standing = self._at[node] = {standing: None}
        standing[names] = None

    def take(self, node: bytes, names: bytes) -> None:
        """Remove one that is there."""
        standing = self._at[node]
        if not isinstance(standing, bytes):
            del standing[names]
        if isinstance(standing, bytes) or not standing:
            del self._at[node]


class Links:
    """All live links, and those that died at or after ``kept_from``."""

    def __init__(self) -> None:
        self.kept_from = 0
        self._born: dict[bytes, int] = {}
        self._at = _Ends(), _Ends()  # by source, by target
        self._dead: list[_Dead] = []
        self._dead_at: tuple[dict[bytes, list[_Dead]], dict[bytes, list[_Dead]]] = {}, {}

    @classmethod
    def restored(cls, links: Iterable[tuple[bytes, int]], seq: int) -> Links:
        """Links with the seq at which each was born, as a snapshot at ``seq`` holds them."""
        restored = cls()
        restored.kept_from = seq
        for names, born in links:
            restored._put(names, born)
        return restored

    def __len__(self) -> int:
        return len(self._born)

    def __contains__(self, link: Link) -> bool:
        return names_of(link) in self._born

    @property
    def born(self) -> Mapping[bytes, int]:
        """Every live link, and at which seq it was born."""
        return self._born

    def near_at(self, node: Node, incoming: bool, seq: int) -> list[Link]:
        """Links from ``node``, or those to it, as they were at ``seq``, which is not before ``kept_from``."""
        assert seq >= self.kept_from
        place = _node(*node)
        found = [names for names in self._at[incoming].at(place) if self._born[names] <= seq]
        found += [dead.names for dead in self._dead_at[incoming].get(place, ()) if dead.born <= seq < dead.died]
        return list(map(link_of, found))

    def all_at(self, seq: int) -> set[bytes]:
        """Every link of a moment that is not before ``kept_from``."""
        assert seq >= self.kept_from
        found = {names for names, born in self._born.items() if born <= seq}
        return found | {dead.names for dead in self._dead if dead.born <= seq < dead.died}

    def publish(self, change: LinkStage, seq: int) -> None:
        """Store what a stage on this same object has gathered."""
        for names in change.removed:
            dead = _Dead(names, self._born.pop(names), seq)
            self._dead.append(dead)
            for incoming, node in enumerate(_ends(names)):
                self._at[incoming].take(node, names)
                self._dead_at[incoming].setdefault(node, []).append(dead)
        for names in change.added:
            self._put(names, seq)
        if len(self._dead) > max(_DEAD_KEPT, len(self._born)):
            self._dead, self._dead_at, self.kept_from = [], ({}, {}), seq

    def _put(self, names: bytes, born: int) -> None:
        self._born[names] = born
        for incoming, node in enumerate(_ends(names)):
            self._at[incoming].put(node, names)


class LinkStage:
    """Links added and removed on top of ``base``, unpublished.  A removed one may stand among the added as well."""

    def __init__(self, base: Links) -> None:
        self._base = base
        self.added: dict[bytes, None] = {}
        self.removed: dict[bytes, None] = {}
        self._added_at: _Ends | None = None  # of the added, by both ends, once somebody has asked

    def has(self, link: Link) -> bool:
        """Whether the link would be there."""
        return self._has(names_of(link))

    def _has(self, names: bytes) -> bool:
        return names in self.added or (names in self._base._born and names not in self.removed)

    def add(self, link: Link) -> None:
        """Add one that is not there."""
        names = names_of(link)
        self.added[names] = None
        if self._added_at is not None:
            self._index(self._added_at, names)

    def remove(self, link: Link) -> None:
        """Remove one that is there."""
        self._remove(names_of(link))

    def _remove(self, names: bytes) -> None:
        if names in self.added:
            del self.added[names]
            if self._added_at is not None:
                for node in dict.fromkeys(_ends(names)):
                    self._added_at.take(node, names)
        else:
            self.removed[names] = None

    def isolate(self, node: Node) -> None:
        """Remove every link of a record."""
        if not self._base and not self.added:
            return
        if self._added_at is None:
            self._added_at = _Ends()
            for names in self.added:
                self._index(self._added_at, names)
        place = _node(*node)
        standing = [*self._base._at[False].at(place), *self._base._at[True].at(place), *self._added_at.at(place)]
        for names in dict.fromkeys(standing):
            if self._has(names):
                self._remove(names)

    def _index(self, ends: _Ends, names: bytes) -> None:
        for node in dict.fromkeys(_ends(names)):  # a record may be linked to itself
            ends.put(node, names)

    def isolate_collection(self, name: str) -> None:
        """Remove every link that begins or ends in a collection."""
        text = prefixed(name.encode())
        for names in [*self._base._born, *self.added]:
            if any(node.startswith(text) for node in _ends(names)) and self._has(names):
                self._remove(names)

    def leaves(self) -> Iterator[tuple[bytes, bytes | None]]:
        """What changes in the state tree: (key, leaf or None)."""
        for names in self.removed:
            if names not in self.added:
                yield link_key(names), None
        for names in self.added:
            yield entry(names)


def entry(names: bytes) -> tuple[bytes, bytes]:
    """A link's entry in the state tree: (key, leaf)."""
    return link_key(names), link_leaf(names)


def _node(collection: str, id: str) -> bytes:
    return prefixed(collection.encode()) + prefixed(id.encode())


def names_of(link: Link) -> bytes:
    """A link as it is held, and hashed."""
    return b"".join([prefixed(text.encode()) for text in link])


def _borders(names: bytes) -> list[int]:
    """Where each name ends."""
    at, borders = 0, []
    while at < len(names):
        at += 2 + int.from_bytes(names[at : at + 2], "little")
        borders.append(at)
    return borders


def _ends(names: bytes) -> tuple[bytes, bytes]:
    """The nodes at both ends."""
    borders = _borders(names)
    return names[: borders[1]], names[borders[2] :]


def link_of(names: bytes) -> Link:
    """The inverse of ``names_of``."""
    borders = _borders(names)
    return Link(*[names[start + 2 : end].decode() for start, end in zip([0, *borders], borders, strict=False)])
