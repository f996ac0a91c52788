"""The memory itself: a pure state machine.  state = fold(apply, log).

Rule 1  ``Stage.check`` raises and nothing has changed.  ``Stage.finish`` computes the change and both roots,
        unpublished.  ``State.publish`` stores it, and cannot fail.
Rule 2  No command costs O(N): writes append rows and mark dead ones; dead rows leave once they outnumber the live.
Rule 3  A ``View`` is a moment: what it shows does not change under a reader while later changes are published.  (Rows,
        ids and contents are only appended to, or replaced as whole arrays; which rows live is the view's own copy.)

It knows no file, clock, thread or float.  The shell serialises ``publish`` against ``view``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detmem.errors import CorruptionError, DetmemError, DimensionError, DuplicateIdError, NotFoundError, UsageError
from detmem.machine import commands, encoding, fixed
from detmem.machine.commands import Definition, Operation
from detmem.machine.commitment import (
    LINK_ZERO,
    LogTree,
    StateTree,
    TreeChange,
    collection_leaf,
    commit,
    commit_leaf,
    link,
    prefixed,
    record_leaf,
    state_key,
)

__all__ = ["COMMIT_KIND", "VERSION", "Change", "Record", "Records", "Stage", "State", "View"]

COMMIT_KIND = 1
VERSION = 1

_STILL_ALIVE = np.iinfo(np.int64).max
_FIRST_CAPACITY = 64
_DEAD_KEPT = 1024  # below this many dead rows, compacting is not worth its copy
_NO_ID = prefixed(b"")


class Record(NamedTuple):
    """One record's parts: int32 little-endian bytes, their meaning, and the two commitments."""

    vector: bytes | memoryview
    metadata: encoding.Metadata
    document: str | None
    vector_commitment: bytes
    content_commitment: bytes


class View:
    """One collection at one seq, for reading: rows (live and dead) by slot, and which of them live.

    ``rows`` int32 (n, dim), ``alive`` bool (n,); ``ids``, ``metadatas``, ``documents`` by slot, the first n of them.
    """

    def __init__(self, records: Records) -> None:
        used = records.used
        self.name = records.name
        self.definition = records.definition
        self.rows: NDArray[np.int32] = records.rows[:used]
        self.ids: list[str] = records.ids
        self.metadatas: list[encoding.Metadata] = records.metadatas
        self.documents: list[str | None] = records.documents
        self.alive: NDArray[np.bool_] = records.died[:used] == _STILL_ALIVE
        self.count = len(records.slots)

    @cached_property
    def live(self) -> NDArray[np.int64]:
        """Slots of live records, ascending."""
        return np.flatnonzero(self.alive).astype(np.int64)

    @cached_property
    def in_id_order(self) -> list[int]:
        """Slots of live records, by id.  Order by code points is order by UTF-8 bytes."""
        ids = self.ids
        return sorted(self.live.tolist(), key=lambda slot: ids[slot])

    @property
    def whole(self) -> bool:
        """Whether no row is dead."""
        return self.count == len(self.rows)


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
        self.rows = np.zeros((capacity, definition.dim), dtype=np.int32)
        self.born = np.zeros(capacity, dtype=np.int64)
        self.died = np.zeros(capacity, dtype=np.int64)
        self._view: View | None = None

    @property
    def used(self) -> int:
        """Number of slots in use, dead ones included."""
        return len(self.ids)

    def view(self) -> View:
        """What is live now.  The same object until the collection changes, so what it caches stays warm."""
        if self._view is None:
            self._view = View(self)
        return self._view

    def vector_bytes(self, slot: int) -> bytes:
        """The row as it is committed to."""
        return bytes(self.rows[slot].astype("<i4").data)

    def commitments(self, slot: int) -> tuple[bytes, bytes]:
        """The record's vector and content commitment."""
        content = encoding.encode_content(self.metadatas[slot], self.documents[slot])
        return commit(self.vector_bytes(slot)), commit(content)

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
        if stop > len(self.rows):
            self._resize(max(stop, 2 * len(self.rows)))
        self.rows[start:stop] = vectors
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
        self.rows, self.born, self.died = self.rows[kept], self.born[kept], self.died[kept]
        self.slots = {id: slot for slot, id in enumerate(self.ids)}
        self._view = None

    def _resize(self, capacity: int) -> None:
        """New arrays, so that views keep theirs."""
        used = self.used
        for name in ("rows", "born", "died"):
            old = getattr(self, name)
            new = np.empty((capacity, *old.shape[1:]), dtype=old.dtype)
            new[:used] = old[:used]
            setattr(self, name, new)


@dataclass(slots=True)
class _Pending:
    """A collection as a stage sees it: what stands (``base``, None when created here), and what changed on top."""

    definition: Definition
    base: Records | None
    changed: dict[str, Record | None]

    def has(self, id: str) -> bool:
        if id in self.changed:
            return self.changed[id] is not None
        return self.base is not None and id in self.base.slots


@dataclass(frozen=True, slots=True)
class Change:
    """A commit, computed and not yet published."""

    seq: int
    operations: list[Operation]
    state_root: bytes
    log: LogTree
    link: bytes
    tree: TreeChange
    collections: dict[str, _Pending | None]


class State:
    """Everything that is live, and the roots over it.  Starts empty, at seq 0."""

    def __init__(self) -> None:
        self.seq = 0
        self.link = LINK_ZERO
        self.log = LogTree()
        self.collections: dict[str, Records] = {}
        self._tree = StateTree()

    @classmethod
    def restored(cls, seq: int, link: bytes, log: LogTree, collections: Iterable[Records]) -> State:
        """A state from a snapshot's parts.  The root is computed from the records, never taken over."""
        state = cls()
        state.seq, state.link, state.log = seq, link, log
        leaves: dict[bytes, bytes | None] = {}
        for records in collections:
            state.collections[records.name] = records
            leaves[state_key(records.prefix, _NO_ID)] = _definition_leaf(records.prefix, records.definition)
            for id, slot in records.slots.items():
                record = prefixed(id.encode())
                leaf = record_leaf(records.prefix, record, *records.commitments(slot))
                leaves[state_key(records.prefix, record)] = leaf
        state._tree.publish(state._tree.stage(leaves))
        return state

    @property
    def root(self) -> bytes:
        """The state root: of what is live now."""
        return self._tree.root

    def names(self) -> list[str]:
        """Collection names in UTF-8 order."""
        return sorted(self.collections)

    def stage(self) -> Stage:
        """An empty change on top of this state."""
        return Stage(self)

    def apply(self, operations: Iterable[Operation]) -> Change:
        """Check and stage a logged commit.  ``CorruptionError`` when it is not legal here."""
        stage = Stage(self)
        try:
            for operation in operations:
                stage.check(operation)
                stage.put(operation)
            _check_norms(stage.operations)
        except CorruptionError:
            raise
        except DetmemError as error:
            raise CorruptionError(f"an operation that is not legal here: {error}") from None
        if not stage.operations:
            raise CorruptionError("a commit without operations")
        return stage.finish()

    def publish(self, change: Change) -> None:
        """Store a staged change.  Total: everything that can fail has been done by ``finish``."""
        assert change.seq == self.seq + 1, "a change is published on the state it was staged on"
        for name, pending in change.collections.items():
            if pending is None:
                self.collections.pop(name, None)
                continue
            records = pending.base
            if records is None:
                records = self.collections[name] = Records(name, pending.definition)
            if not pending.changed:
                continue
            records.bury([id for id in pending.changed if id in records.slots], change.seq)
            fresh = {id: record for id, record in pending.changed.items() if record is not None}
            if fresh:
                parts = fresh.values()
                vectors = np.frombuffer(b"".join([part.vector for part in parts]), dtype="<i4").reshape(len(fresh), -1)
                metadatas = [part.metadata for part in parts]
                records.extend(list(fresh), vectors, metadatas, [part.document for part in parts], change.seq)
            records.compact()
        self._tree.publish(change.tree)
        self.seq, self.link, self.log = change.seq, change.link, change.log


class Stage:
    """Operations on top of a state, checked one by one, unpublished: readers of the state see none of them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._pending: dict[str, _Pending | None] = {}
        self.operations: list[Operation] = []

    def definition(self, collection: str) -> Definition | None:
        """The definition that an operation would meet, or None."""
        pending = self._collection(collection)
        return None if pending is None else pending.definition

    def has(self, collection: str, id: str) -> bool:
        """Whether the record would be there."""
        pending = self._collection(collection)
        return pending is not None and pending.has(id)

    def record(self, collection: str, id: str) -> Record:
        """The record that an operation would meet; ``NotFoundError``."""
        pending = self._existing(collection)
        if id in pending.changed:
            record = pending.changed[id]
            if record is not None:
                return record
        elif pending.base is not None and id in pending.base.slots:
            base, slot = pending.base, pending.base.slots[id]
            return Record(base.vector_bytes(slot), base.metadatas[slot], base.documents[slot], *base.commitments(slot))
        raise _no_record(collection, id)

    def contents(self, collection: str) -> dict[str, encoding.Metadata]:
        """Metadata by id of every record that would be live."""
        pending = self._existing(collection)
        found = (
            {} if pending.base is None else {id: pending.base.metadatas[at] for id, at in pending.base.slots.items()}
        )
        for id, record in pending.changed.items():
            if record is None:
                found.pop(id, None)
            else:
                found[id] = record.metadata
        return found

    def check(self, operation: Operation) -> None:
        """Raise what is wrong with ``operation`` on top of what was put before; change nothing.

        What the operation says by itself (a definition, a content, a norm) was checked where it was made; for a logged
        operation that is ``put`` and ``State.apply``, whose stage is thrown away when it fails.
        """
        name, id = operation.collection, operation.id
        if operation.type == commands.CREATE:
            if self._collection(name) is not None:
                raise UsageError(f"collection {name!r} exists already")
            return
        pending = self._existing(name)
        if operation.type == commands.DROP:
            return
        if operation.type == commands.ADD and pending.has(id):
            raise DuplicateIdError(f"id {id!r} exists already in collection {name!r}; nothing was written")
        if operation.type in (commands.UPDATE, commands.DELETE) and not pending.has(id):
            raise _no_record(name, id)
        if operation.type == commands.UPDATE:
            self._check_unchanged(operation)
        dim = pending.definition.dim
        if operation.vector is not None and len(operation.vector) != 4 * dim:
            raise DimensionError(f"vector of {id!r} has {len(operation.vector) // 4} dimensions, {name!r} has {dim}")

    def put(self, operation: Operation) -> None:
        """Take a checked operation into the change."""
        name, id = operation.collection, operation.id
        if operation.type == commands.CREATE:
            assert operation.content is not None
            self._pending[name] = _Pending(Definition.decode(operation.content), None, {})
        elif operation.type == commands.DROP:
            self._pending[name] = None
        else:
            pending = self._touched(name)
            if operation.type == commands.DELETE:
                pending.changed.pop(id, None)  # so that a record added again later stands behind the others
                pending.changed[id] = None
            else:
                pending.changed[id] = self._resulting(operation)
        self.operations.append(operation)

    def finish(self) -> Change:
        """Compute the change and the roots after it; nothing is published."""
        assert self.operations
        state = self._state
        leaves: dict[bytes, bytes | None] = {}
        for name, pending in self._pending.items():
            standing = state.collections.get(name)
            if standing is not None and (pending is None or pending.base is not standing):
                leaves[state_key(standing.prefix, _NO_ID)] = None
                leaves.update((standing.key(id), None) for id in standing.slots)
            if pending is None:
                continue
            prefix = prefixed(name.encode())
            if pending.base is None:
                leaves[state_key(prefix, _NO_ID)] = _definition_leaf(prefix, pending.definition)
            for id, record in pending.changed.items():
                text = prefixed(id.encode())
                leaf = (
                    None
                    if record is None
                    else record_leaf(prefix, text, record.vector_commitment, record.content_commitment)
                )
                leaves[state_key(prefix, text)] = leaf
        tree = state._tree.stage(leaves)
        seq = state.seq + 1
        operation_leaves = [operation.leaf for operation in self.operations]
        closing = commit_leaf(seq, len(operation_leaves), tree.root)
        after = link(state.link, COMMIT_KIND, 0, VERSION, seq, operation_leaves, closing)
        log = state.log.extended([*operation_leaves, closing])
        return Change(seq, self.operations, tree.root, log, after, tree, self._pending)

    def _collection(self, name: str) -> _Pending | None:
        if name in self._pending:
            return self._pending[name]
        records = self._state.collections.get(name)
        return None if records is None else _Pending(records.definition, records, {})

    def _existing(self, name: str) -> _Pending:
        pending = self._collection(name)
        if pending is None:
            raise NotFoundError(f"no collection {name!r}")
        return pending

    def _touched(self, name: str) -> _Pending:
        pending = self._existing(name)
        self._pending[name] = pending
        return pending

    def _check_unchanged(self, operation: Operation) -> None:
        record = self.record(operation.collection, operation.id)
        for part, given, standing, resulting in (
            ("vector", operation.vector, record.vector_commitment, operation.vector_commitment),
            ("content", operation.content, record.content_commitment, operation.content_commitment),
        ):
            if given is None and standing != resulting:
                raise CorruptionError(f"update of {operation.id!r}: an unchanged {part} with another commitment")

    def _resulting(self, operation: Operation) -> Record:
        vector, content = operation.vector, operation.content
        before = self.record(operation.collection, operation.id) if vector is None or content is None else None
        if vector is None:
            assert before is not None
            vector = before.vector
        if content is None:
            assert before is not None
            metadata, document = before.metadata, before.document
        else:
            metadata, document = operation.meaning()
        return Record(vector, metadata, document, operation.vector_commitment, operation.content_commitment)


def _definition_leaf(prefix: bytes, definition: Definition) -> bytes:
    return collection_leaf(prefix, commit(definition.encode()))


def _check_norms(operations: Iterable[Operation]) -> None:
    """Logged vectors obey what was checked when they came in; all of one size at once, for speed."""
    by_size: dict[int, list[bytes | memoryview]] = {}
    for operation in operations:
        if operation.vector is not None:
            by_size.setdefault(len(operation.vector), []).append(operation.vector)
    for size, vectors in by_size.items():
        matrix = np.frombuffer(b"".join(vectors), dtype="<i4").reshape(len(vectors), size // 4)
        fixed.admit_raw(matrix, dimension=size // 4, collection="of the log")


def _no_record(collection: str, id: str) -> NotFoundError:
    return NotFoundError(f"no record {id!r} in collection {collection!r}")
