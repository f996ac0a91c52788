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
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from detmem.machine import contents, encoding
from detmem.machine.commands import SALT_BYTES, Definition
from detmem.machine.commitment import commit, prefixed, state_key
from detmem.machine.packed import Column, Packed
from detmem.machine.vectors import Rows, Vectors

__all__ = ["Record", "Records", "Restored", "View", "content_of"]

_STILL_ALIVE = np.iinfo(np.int64).max
_FIRST_CAPACITY = 64
_COMMITTED_COMPONENTS = 1 << 18  # of rows that are joined at once
_DEAD_KEPT = 1024  # below this many dead rows, compacting is not worth its copy
_NOTHING = np.zeros(0, dtype=np.int64)
_AT_ONCE = 256  # contents that are copied together

Content: TypeAlias = "bytes | contents.Meaning"


class Record(NamedTuple):
    """One record's parts: int32 little-endian bytes, its content, and the two commitments.

    ``content`` as it is at hand: in canonical bytes, or what these mean.  ``salts``: of the vector and of the content,
    joined; empty where the collection has none.  ``erased``: what it held is gone, and only its commitments are known.
    """

    vector: bytes | memoryview
    content: Content
    vector_commitment: bytes
    content_commitment: bytes
    salts: bytes = b""
    erased: bool = False

    @property
    def metadata(self) -> encoding.Metadata:
        """What the content says."""
        return self.meaning[0]

    @property
    def document(self) -> str | None:
        """What the content says beside."""
        return self.meaning[1]

    @property
    def meaning(self) -> contents.Meaning:
        """Metadata and document."""
        return contents.decode(self.content) if isinstance(self.content, bytes) else self.content


class View:
    """One collection at one seq, for reading: rows (live and dead) by slot, and which of them live.

    ``rows`` holds the exact vectors; ``ids``, ``metadatas``, ``documents`` by slot, the first ``rows.count`` of them.
    ``died`` int64 (n,): at which seq a row dies; a row of this moment lives if that is behind ``seq``.  ``born``
    likewise; None for a view of the present, where every row has been born.  ``erased``: slots of which only the
    commitments are known; ``without_erased`` leaves them out of what lives.
    """

    def __init__(self, records: Records, seq: int, *, past: bool = False, without_erased: bool = False) -> None:
        self.seq = seq
        self.died: NDArray[np.int64] = records.died[: records.used]
        self.born: NDArray[np.int64] | None = records.born[: records.used] if past else None
        self.erased = dict(records.erased)
        self._salts = records.salts
        self.packed = records.packed
        self.without_erased = without_erased
        self.name = records.name
        self.definition = records.definition
        self.rows: Rows = records.vectors.moment()
        self.ids: Sequence[str] = records.ids
        self.metadatas: Sequence[encoding.Metadata] = records.metadatas
        self.documents: Sequence[str | None] = records.documents
        self._count = records.count

    @property
    def count(self) -> int:
        """The number of live records."""
        return len(self.live) if self.is_masked else self._count

    @property
    def is_masked(self) -> bool:
        """Whether some rows are hidden that have not died."""
        return self.born is not None or (self.without_erased and bool(self.erased))

    @cached_property
    def alive(self) -> NDArray[np.bool_]:
        """Which slots live, bool (n,).  A row that dies later dies at a later seq, so this may be asked for late."""
        alive: NDArray[np.bool_] = self.died > self.seq
        if self.born is not None:
            alive &= self.born <= self.seq
        if self.without_erased:
            alive[list(self.erased)] = False
        return alive

    def commitments(self, slots: NDArray[np.int64]) -> list[bytes]:
        """Vector and content commitment, joined, of the records at ``slots``."""
        step = max(1, _COMMITTED_COMPONENTS // self.definition.dim)
        pairs: list[bytes] = []
        for start in range(0, len(slots), step):
            some = slots[start : start + step]
            rows = self.rows.take(some).astype("<i4", copy=False)
            for row, slot in zip(rows, some.tolist(), strict=True):
                salts = self._salts[slot] if self._salts else b""
                pairs.append(self.erased.get(slot) or _pair(row.data, content_of(self, slot), salts))
        return pairs

    @cached_property
    def gone(self) -> list[int]:
        """Slots of records that lived at this moment, and of which only the commitments are known."""
        born = self.born if self.born is not None else np.zeros(len(self.died), dtype=np.int64)
        return [slot for slot in self.erased if born[slot] <= self.seq < self.died[slot]]

    @cached_property
    def slots(self) -> dict[str, int]:
        """The slots of live records by id; ``Records.find`` is quicker while nothing has changed."""
        return {self.ids[slot]: slot for slot in self.live.tolist()}

    @cached_property
    def live(self) -> NDArray[np.int64]:
        """Slots of live records, ascending."""
        return np.flatnonzero(self.alive).astype(np.int64)

    @cached_property
    def in_id_order(self) -> list[int]:
        """Slots of live records, by id.  Order by code points is order by UTF-8 bytes."""
        ids = list(self.ids)
        return sorted(self.live.tolist(), key=ids.__getitem__)


class Records:
    """One collection's records, by slot; a slot is written once, when its record is born.

    ``born`` and ``died`` (int64, by slot) say at which seq.  ``slots`` maps the ids of the ``count`` live records.
    ``salts`` by slot, where the definition says erasable.  ``packed``: the canonical contents of the first slots, where
    they are at hand.  ``erased`` has the joined commitments of slots whose payload is gone.
    ``created``: the seq that made the collection, where known; ``kept_from``: rows that died at or before it are gone.
    """

    def __init__(self, name: str, definition: Definition) -> None:
        self.name = name
        self.definition = definition
        self.prefix = prefixed(name.encode())
        self.slots: dict[str, int] = {}
        self.count = 0
        self.ids: list[str] | Column[str] = []
        self.metadatas: list[encoding.Metadata] | Column[encoding.Metadata] = []
        self.documents: list[str | None] | Column[str | None] = []
        self.packed: Sequence[bytes] = ()
        self.vectors = Vectors(definition.dim)
        self.born = self.died = _NOTHING
        self.salts: list[bytes] | Column[bytes] = []
        self.erased: dict[int, bytes] = {}
        self.created = 0
        self.kept_from = 0
        self._view: View | None = None

    @property
    def used(self) -> int:
        """Number of slots in use, dead ones included."""
        return len(self.ids)

    def view(self, seq: int) -> View:
        """What is live at ``seq``, which is now; the same object until the collection changes, so caches stay warm."""
        if self._view is not None:
            return self._view
        view = View(self, seq)
        if self.ids:  # else there is nothing to keep warm, and there may be many such collections
            self._view = view
        return view

    def past(self, seq: int, without_erased: bool = False) -> View:
        """What was live at ``seq``, which is not before ``kept_from``."""
        assert seq >= self.kept_from
        return View(self, seq, past=True, without_erased=without_erased)

    def find(self, view: View, ids: Iterable[str]) -> list[int | None]:
        """The slots of records in a view of this collection, None for those that were not there.

        While nothing has changed since, that is a look into ``slots``.
        """
        slots = self.slots if view is self._view else view.slots
        return [slots.get(id) for id in ids]

    def vector_bytes(self, slot: int) -> bytes:
        """The row as it is committed to."""
        return self.vectors.take(np.array([slot], dtype=np.int64)).astype("<i4", copy=False).tobytes()

    def record(self, slot: int) -> Record:
        """Everything about one record."""
        vector, pair = self.vector_bytes(slot), self.erased.get(slot)
        salts = self.salts[slot] if self.salts else b""
        if pair is None:
            pair = _pair(vector, content_of(self, slot), salts)
        erased = slot in self.erased
        packed = slot < len(self.packed) and not erased
        content = self.packed[slot] if packed else (self.metadatas[slot], self.documents[slot])
        return Record(vector, content, pair[:32], pair[32:], salts, erased)

    def key(self, id: str) -> bytes:
        """The record's key in the state tree."""
        return state_key(self.prefix, prefixed(id.encode()))

    def bury(self, ids: Iterable[str], seq: int) -> None:
        """Mark live records as dead."""
        for id in ids:
            self.died[self.slots.pop(id)] = seq
        self.count = len(self.slots)
        self._view = None

    def extend(
        self,
        ids: Sequence[str],
        vectors: NDArray[np.int32],
        held: Sequence[bytes] | tuple[Iterable[encoding.Metadata], Iterable[str | None]],
        born: int,
        salts: Sequence[bytes] = (),
    ) -> None:
        """Append live records; the caller has seen that none of the ids is live.

        ``held``: their contents, in canonical bytes, or metadata and documents of each.
        """
        start = self.used
        stop = start + len(ids)
        if stop > len(self.born):
            self._resize(max(stop, 2 * len(self.born), _FIRST_CAPACITY))
        self.vectors.append(vectors)
        self.born[start:stop] = born
        self.died[start:stop] = _STILL_ALIVE
        if isinstance(held, tuple):
            self.metadatas.extend(held[0])
            self.documents.extend(held[1])
        else:
            self._pack(held, start)
        if salts:
            self.salts.extend(salts)
        self.ids.extend(ids)
        self.slots.update(zip(ids, range(start, stop), strict=True))
        self.count = len(self.slots)
        self._view = None

    def _pack(self, strings: Sequence[bytes], start: int) -> None:
        """Append contents as they are, or, behind others that are not packed, what they mean."""
        if len(self.packed) < start:
            meanings = [contents.decode(one) for one in strings]
            self.metadatas.extend([one[0] for one in meanings])
            self.documents.extend([one[1] for one in meanings])
            return
        if not isinstance(self.packed, Packed):
            self._hold(Packed(len(strings)))
        assert isinstance(self.packed, Packed)
        for at in range(0, len(strings), _AT_ONCE):
            self.packed.append(strings[at : at + _AT_ONCE])
        for column in (self.metadatas, self.documents):
            assert isinstance(column, Column)
            column.grow()

    def _hold(self, packed: Packed) -> None:
        """Read contents from ``packed`` when somebody asks."""
        self.packed = packed
        self.metadatas, self.documents = Column(packed, contents.metadata_of), Column(packed, contents.document_of)

    def give_up(self, slot: int) -> None:
        """Keep the commitments of a record and nothing else of it: it has been erased since."""
        record = self.record(slot)
        self.erased[slot] = record.vector_commitment + record.content_commitment
        self.metadatas[slot], self.documents[slot] = {}, None
        self._view = None

    def compact(self, seq: int) -> None:
        """Let dead rows go, once they outnumber the live: amortised O(1) for each write."""
        if self.used - self.count > max(_DEAD_KEPT, self.count):
            self.forget(seq)

    def forget(self, seq: int) -> None:
        """Let all dead rows go; moments before ``seq``, which is now, are no longer held."""
        kept = np.flatnonzero(self.died[: self.used] == _STILL_ALIVE)
        slots = kept.tolist()
        self.ids = [self.ids[slot] for slot in slots]
        border = int(np.searchsorted(kept, len(self.packed)))  # up to which contents are packed
        metadatas = [self.metadatas[slot] for slot in slots[border:]]
        documents = [self.documents[slot] for slot in slots[border:]]
        if border:
            packed = Packed(border)
            for at in range(0, border, _AT_ONCE):
                some = slots[at : min(at + _AT_ONCE, border)]
                packed.append([contents.EMPTY if slot in self.erased else self.packed[slot] for slot in some])
            self._hold(packed)
            self.metadatas.extend(metadatas)
            self.documents.extend(documents)
        else:
            self.packed, self.metadatas, self.documents = (), metadatas, documents
        self.salts = [self.salts[slot] for slot in slots] if self.salts else []
        self.erased = {new: self.erased[old] for new, old in enumerate(slots) if old in self.erased}
        self.vectors = self.vectors.kept(kept)
        self.born, self.died = self.born[kept], self.died[kept]
        self.slots = {id: slot for slot, id in enumerate(self.ids)}
        self.kept_from = seq
        self._view = None

    def _resize(self, capacity: int) -> None:
        """New arrays, so that views keep theirs."""
        used = self.used
        for name in ("born", "died"):
            old = getattr(self, name)
            new = np.empty(capacity, dtype=old.dtype)
            new[:used] = old[:used]
            setattr(self, name, new)


class Restored(Records):
    """Live records at ``seq``, packed as a snapshot holds them; in id order, and no id stands twice.

    What finds them by id, and what says when they die, is made when somebody asks for it; ``births`` (integers of any
    kind) are made what ``born`` is.
    """

    def __init__(
        self,
        name: str,
        definition: Definition,
        ids: Packed,
        births: NDArray[Any],
        vectors: Vectors,
        packed: Packed,
        salts: Packed | None,
        seq: int,
    ) -> None:
        assert len(ids) == len(births) == vectors.count == len(packed)
        super().__init__(name, definition)
        del self.slots, self.born, self.died
        self.count = len(ids)
        self.texts = ids
        self.ids = Column(ids, bytes.decode)
        self.vectors = vectors
        self._births = births
        self._hold(packed)
        if salts is not None:
            self.salts = Column(salts, bytes)
        self.kept_from = seq

    @cached_property
    def slots(self) -> dict[str, int]:  # type: ignore[override]  # an attribute there, a property here
        return dict(zip(self.ids, range(len(self.ids)), strict=True))

    @cached_property
    def born(self) -> NDArray[np.int64]:  # type: ignore[override]  # likewise
        return self._births.astype(np.int64)

    @cached_property
    def died(self) -> NDArray[np.int64]:  # type: ignore[override]  # likewise
        return np.full(len(self.born), _STILL_ALIVE, dtype=np.int64)


def content_of(held: View | Records, slot: int) -> bytes:
    """The canonical bytes of a record's metadata and document."""
    if slot < len(held.packed):
        return held.packed[slot]
    return encoding.encode_content(held.metadatas[slot], held.documents[slot])


def _pair(vector: bytes | memoryview, content: bytes, salts: bytes) -> bytes:
    """Both commitments, joined."""
    return commit(vector, salts[:SALT_BYTES]) + commit(content, salts[SALT_BYTES:])
