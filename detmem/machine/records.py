"""One collection's records, by slot, and the views that readers get of them.

Rule 1  A slot is written once, when its record is born; a later version of the record is another slot.
Rule 2  A ``View`` is a moment: what it shows does not change under a reader while later changes are published.  (Rows,
        ids and contents are only appended to, or replaced as whole arrays; a row that dies later dies at a later seq.)
Rule 3  Dead rows leave once they outnumber the live: amortised O(1) for each write.

It does not know commits or roots; ``state`` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detmem.machine import encoding
from detmem.machine.commands import Definition
from detmem.machine.commitment import commit, prefixed, state_key
from detmem.machine.vectors import Rows, Vectors

__all__ = ["Record", "Records", "View"]

_STILL_ALIVE = np.iinfo(np.int64).max
_FIRST_CAPACITY = 64
_COMMITTED_COMPONENTS = 1 << 18  # of rows that are joined at once
_DEAD_KEPT = 1024  # below this many dead rows, compacting is not worth its copy


class Record(NamedTuple):
    """One record's parts: int32 little-endian bytes, their meaning, and the two commitments."""

    vector: bytes | memoryview
    metadata: encoding.Metadata
    document: str | None
    vector_commitment: bytes
    content_commitment: bytes


class View:
    """One collection at one seq, for reading: rows (live and dead) by slot, and which of them live.

    ``rows`` holds the exact vectors; ``ids``, ``metadatas``, ``documents`` by slot, the first ``rows.count`` of them.
    ``died`` int64 (n,): at which seq a row dies; a row of this moment lives if that is behind ``seq``.
    """

    def __init__(self, records: Records, seq: int) -> None:
        self.seq = seq
        self.died: NDArray[np.int64] = records.died[: records.used]
        self.name = records.name
        self.definition = records.definition
        self.rows: Rows = records.vectors.moment()
        self.ids: list[str] = records.ids
        self.metadatas: list[encoding.Metadata] = records.metadatas
        self.documents: list[str | None] = records.documents
        self.count = len(records.slots)

    @cached_property
    def alive(self) -> NDArray[np.bool_]:
        """Which slots live, bool (n,).  A row that dies later dies at a later seq, so this may be asked for late."""
        return self.died > self.seq

    @cached_property
    def live(self) -> NDArray[np.int64]:
        """Slots of live records, ascending."""
        return np.flatnonzero(self.alive).astype(np.int64)

    @cached_property
    def in_id_order(self) -> list[int]:
        """Slots of live records, by id.  Order by code points is order by UTF-8 bytes."""
        ids = self.ids
        return sorted(self.live.tolist(), key=lambda slot: ids[slot])


class Records:
    """One collection's records, by slot; a slot is written once, when its record is born.

    ``born`` and ``died`` (int64, by slot) say at which seq.  ``slots`` maps the ids of live records.
    """

    def __init__(self, name: str, definition: Definition, capacity: int = _FIRST_CAPACITY) -> None:
        self.name = name
        self.definition = definition
        self.prefix = prefixed(name.encode())
        self.slots: dict[str, int] = {}
        self.ids: list[str] = []
        self.metadatas: list[encoding.Metadata] = []
        self.documents: list[str | None] = []
        self.vectors = Vectors(definition.dim)
        self.born = np.zeros(capacity, dtype=np.int64)
        self.died = np.zeros(capacity, dtype=np.int64)
        self._view: View | None = None

    @classmethod
    def restored(
        cls,
        name: str,
        definition: Definition,
        ids: list[str],
        vectors: Vectors,
        metadatas: list[encoding.Metadata],
        documents: list[str | None],
        born: NDArray[np.int64],
    ) -> Records:
        """Live records from their columns, which are taken over; no id stands twice."""
        assert len(ids) == vectors.count == len(metadatas) == len(documents) == len(born)
        records = cls(name, definition, max(len(ids), 1))
        records.vectors = vectors
        records.ids, records.metadatas, records.documents = ids, metadatas, documents
        records.born[: len(ids)], records.died[: len(ids)] = born, _STILL_ALIVE
        records.slots = dict(zip(ids, range(len(ids)), strict=True))
        return records

    @property
    def used(self) -> int:
        """Number of slots in use, dead ones included."""
        return len(self.ids)

    def view(self, seq: int) -> View:
        """What is live at ``seq``, which is now; the same object until the collection changes, so caches stay warm."""
        if self._view is None:
            self._view = View(self, seq)
        return self._view

    def vector_bytes(self, slot: int) -> bytes:
        """The row as it is committed to."""
        return self.vectors.take(np.array([slot], dtype=np.int64)).astype("<i4", copy=False).tobytes()

    def commitments(self, slot: int) -> tuple[bytes, bytes]:
        """The record's vector and content commitment."""
        content = encoding.encode_content(self.metadatas[slot], self.documents[slot])
        return commit(self.vector_bytes(slot)), commit(content)

    def all_commitments(self) -> list[bytes]:
        """Vector and content commitment, joined, of every live record, in the order of ``slots``."""
        slots = np.fromiter(self.slots.values(), dtype=np.int64, count=len(self.slots))
        step = max(1, _COMMITTED_COMPONENTS // self.definition.dim)
        pairs: list[bytes] = []
        for start in range(0, len(slots), step):
            some = slots[start : start + step]
            rows = self.vectors.take(some).astype("<i4", copy=False)
            for row, slot in zip(rows, some.tolist(), strict=True):
                content = encoding.encode_content(self.metadatas[slot], self.documents[slot])
                pairs.append(commit(row.data) + commit(content))
        return pairs

    def key(self, id: str) -> bytes:
        """The record's key in the state tree."""
        return state_key(self.prefix, prefixed(id.encode()))

    def bury(self, ids: Iterable[str], seq: int) -> None:
        """Mark live records as dead."""
        for id in ids:
            self.died[self.slots.pop(id)] = seq
        self._view = None

    def extend(
        self,
        ids: Sequence[str],
        vectors: NDArray[np.int32],
        metadatas: Iterable[encoding.Metadata],
        documents: Iterable[str | None],
        born: int | NDArray[np.int64],
    ) -> None:
        """Append live records; the caller has seen that none of the ids is live."""
        start, stop = self.used, self.used + len(ids)
        if stop > len(self.born):
            self._resize(max(stop, 2 * len(self.born)))
        self.vectors.append(vectors)
        self.born[start:stop] = born
        self.died[start:stop] = _STILL_ALIVE
        self.metadatas.extend(metadatas)
        self.documents.extend(documents)
        self.ids.extend(ids)
        self.slots.update(zip(ids, range(start, stop), strict=True))
        self._view = None

    def compact(self) -> None:
        """Let dead rows go, once they outnumber the live: amortised O(1) for each write."""
        dead = self.used - len(self.slots)
        if dead <= max(_DEAD_KEPT, len(self.slots)):
            return
        kept = np.flatnonzero(self.died[: self.used] == _STILL_ALIVE)
        slots = kept.tolist()
        self.ids = [self.ids[slot] for slot in slots]
        self.metadatas = [self.metadatas[slot] for slot in slots]
        self.documents = [self.documents[slot] for slot in slots]
        self.vectors = self.vectors.kept(kept)
        self.born, self.died = self.born[kept], self.died[kept]
        self.slots = {id: slot for slot, id in enumerate(self.ids)}
        self._view = None

    def _resize(self, capacity: int) -> None:
        """New arrays, so that views keep theirs."""
        used = self.used
        for name in ("born", "died"):
            old = getattr(self, name)
            new = np.empty(capacity, dtype=old.dtype)
            new[:used] = old[:used]
            setattr(self, name, new)
