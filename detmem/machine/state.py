"""The memory itself: a pure state machine.  state = fold(apply, log).

Rule 1  ``Stage.check`` raises and nothing has changed.  ``Stage.finish`` computes the change and both roots,
        unpublished.  ``State.publish`` stores it, and cannot fail.
Rule 2  No command costs O(N).

It knows no file, clock, thread or float.  The shell serialises ``publish`` against ``view``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

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
    prefixed_all,
    record_leaf,
    record_leaves,
    state_key,
    state_keys,
)
from detmem.machine.records import Record, Records
from detmem.machine.runs import Operations, Run

__all__ = ["COMMIT_KIND", "VERSION", "Change", "Stage", "State"]

COMMIT_KIND = 1
VERSION = 1

_NO_ID = prefixed(b"")


Changed: TypeAlias = Record | int | None


@dataclass(slots=True)
class _Pending:
    """A collection as a stage sees it: what stands (``base``, None when created here), and what changed on top.

    ``changed`` holds a record, None for a deleted one, or, for a record of a run, its number among the rows of all
    ``runs`` together: numbers are cheap.  ``starts`` has the number of each run's first row.
    """

    definition: Definition
    base: Records | None
    changed: dict[str, Changed] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    rows: int = 0
    mixed: bool = False

    def has(self, id: str) -> bool:
        if id in self.changed:
            return self.changed[id] is not None
        return self.base is not None and id in self.base.slots

    def has_none(self, ids: list[str]) -> bool:
        """Whether no id is there, as far as can be seen at once; False may be wrong for one that was deleted here."""
        standing = {} if self.base is None else self.base.slots
        return standing.keys().isdisjoint(ids) and self.changed.keys().isdisjoint(ids)

    def take(self, run: Run) -> None:
        """Put the records of a run whose contents are understood."""
        self.runs.append(run)
        self.starts.append(self.rows)
        start, self.rows = self.rows, self.rows + len(run.ids)
        self.changed.update(zip(run.ids, range(start, self.rows), strict=True))

    def record(self, changed: Record | int) -> Record:
        """The record that a value of ``changed`` stands for."""
        if isinstance(changed, Record):
            return changed
        number = bisect_right(self.starts, changed) - 1
        run, row = self.runs[number], changed - self.starts[number]
        assert run.meanings is not None
        metadatas, documents = run.meanings
        pair = run.pairs[row]
        return Record(run.vector(row), metadatas[row], documents[row], pair[:32], pair[32:])

    @property
    def only_runs(self) -> bool:
        """Whether the change is just the rows of ``runs``, in order: no id twice, and nothing else."""
        return not self.mixed and len(self.changed) == self.rows


@dataclass(frozen=True, slots=True)
class Change:
    """A commit, computed and not yet published."""

    seq: int
    operations: Operations
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
    def restored(cls, seq: int, link: bytes, log: LogTree, collections: Iterable[tuple[Records, list[bytes]]]) -> State:
        """A state from a snapshot's parts: records with what ``Records.all_commitments`` says of them.

        The root is computed, never taken over.
        """
        state = cls()
        state.seq, state.link, state.log = seq, link, log
        leaves: dict[bytes, bytes | None] = {}
        for records, pairs in collections:
            state.collections[records.name] = records
            leaves[state_key(records.prefix, _NO_ID)] = _definition_leaf(records.prefix, records.definition)
            texts = prefixed_all([id.encode() for id in records.slots])
            keys = state_keys(records.prefix, texts)
            leaves.update(zip(keys, record_leaves(records.prefix, texts, pairs), strict=True))
        state._tree.publish(state._tree.stage(leaves))
        return state

    @property
    def root(self) -> bytes:
        """The state root: of what is live now."""
        return self._tree.root

    @property
    def tree(self) -> StateTree:
        """The tree under that root, for proofs: read only."""
        return self._tree

    def names(self) -> list[str]:
        """Collection names in UTF-8 order."""
        return sorted(self.collections)

    def stage(self) -> Stage:
        """An empty change on top of this state."""
        return Stage(self)

    def apply(self, operations: Iterable[Operation]) -> Change:
        """Check and stage a logged commit.  ``CorruptionError`` when it is not legal here."""
        held = operations if isinstance(operations, Operations) else Operations(list(operations))
        try:
            return self._applied(held.parts)
        except DetmemError:
            if len(held.parts) == len(held):  # no runs
                raise
        return self._applied(list(held))  # one by one, so that the first that is not legal is named

    def _applied(self, parts: Sequence[Operation | Run]) -> Change:
        stage = Stage(self)
        try:
            for part in parts:
                stage.check(part)
                stage.put(part)
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
            if pending.changed:
                _store(records, pending, change.seq)
        self._tree.publish(change.tree)
        self.seq, self.link, self.log = change.seq, change.link, change.log


def _store(records: Records, pending: _Pending, seq: int) -> None:
    """Let go of what a change replaces or deletes, and append what it brings."""
    replaced = [id for id in pending.changed if id in records.slots]
    if replaced:
        records.bury(replaced, seq)
    if pending.only_runs:
        for run in pending.runs:
            assert run.meanings is not None
            records.extend(run.ids, run.matrix, *run.meanings, seq)
    else:
        fresh = [(id, pending.record(changed)) for id, changed in pending.changed.items() if changed is not None]
        if len(fresh) == 1:  # what most commits are
            ((id, record),) = fresh
            vectors = np.frombuffer(record.vector, dtype=fixed.RAW)[None]
            records.extend((id,), vectors, (record.metadata,), (record.document,), seq)
        elif fresh:
            ids, parts = zip(*fresh, strict=True)
            vectors = np.frombuffer(b"".join([part.vector for part in parts]), dtype=fixed.RAW).reshape(len(ids), -1)
            records.extend(ids, vectors, [part.metadata for part in parts], [part.document for part in parts], seq)
    records.compact()


class Stage:
    """Operations on top of a state, checked one by one, unpublished: readers of the state see none of them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._pending: dict[str, _Pending | None] = {}
        self._seen: dict[str, _Pending] = {}  # asked for and not yet touched
        self.operations: list[Operation | Run] = []

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
            changed = pending.changed[id]
            if changed is not None:
                return pending.record(changed)
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
        for id, changed in pending.changed.items():
            if changed is None:
                found.pop(id, None)
            else:
                found[id] = pending.record(changed).metadata
        return found

    def check(self, operation: Operation | Run) -> None:
        """Raise what is wrong with ``operation`` on top of what was put before; change nothing.

        What the operation says by itself (a definition, a content, a norm) was checked where it was made; for a logged
        operation that is ``put`` and ``State.apply``, whose stage is thrown away when it fails.
        """
        if isinstance(operation, Run):
            self._check_run(operation)
            return
        name, id = operation.collection, operation.id
        if operation.type == commands.CREATE:
            if self._collection(name) is not None:
                raise UsageError(f"collection {name!r} exists already")
            return
        pending = self._existing(name)
        if operation.type == commands.DROP:
            return
        if operation.type == commands.ADD and pending.has(id):
            raise _exists(name, id)
        if operation.type in (commands.UPDATE, commands.DELETE) and not pending.has(id):
            raise _no_record(name, id)
        if operation.type == commands.UPDATE:
            self._check_unchanged(operation)
        dim = pending.definition.dim
        if operation.vector is not None and len(operation.vector) != 4 * dim:
            raise _other_dimension(id, len(operation.vector) // 4, name, dim)

    def _check_run(self, run: Run) -> None:
        """As ``check`` of its operations, one after the other."""
        name, pending = run.collection, self._existing(run.collection)
        if run.type == commands.ADD and not (len(set(run.ids)) == len(run.ids) and pending.has_none(run.ids)):
            seen: set[str] = set()
            for id in run.ids:
                if id in seen or pending.has(id):
                    raise _exists(name, id)
                seen.add(id)
        if run.matrix.shape[1] != pending.definition.dim:
            raise _other_dimension(run.ids[0], run.matrix.shape[1], name, pending.definition.dim)

    def put(self, operation: Operation | Run) -> None:
        """Take a checked operation into the change."""
        if isinstance(operation, Run):
            run = operation.understood()
            self._touched(run.collection).take(run)
            self.operations.append(run)
            return
        name, id = operation.collection, operation.id
        if operation.type == commands.CREATE:
            assert operation.content is not None
            self._pending[name] = _Pending(Definition.decode(operation.content), None)
        elif operation.type == commands.DROP:
            self._pending[name] = None
        else:
            pending = self._touched(name)
            pending.mixed = True
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
            prefix = prefixed(name.encode()) if pending.base is None else pending.base.prefix
            if pending.base is None:
                leaves[state_key(prefix, _NO_ID)] = _definition_leaf(prefix, pending.definition)
            if pending.only_runs:
                for run in pending.runs:
                    texts = prefixed_all(run.texts)
                    leaves.update(zip(state_keys(prefix, texts), record_leaves(prefix, texts, run.pairs), strict=True))
                continue
            for id, changed in pending.changed.items():
                text = prefixed(id.encode())
                leaf = None
                if changed is not None:
                    record = pending.record(changed)
                    leaf = record_leaf(prefix, text, record.vector_commitment, record.content_commitment)
                leaves[state_key(prefix, text)] = leaf
        tree = state._tree.stage(leaves)
        seq = state.seq + 1
        operations = Operations(self.operations)
        operation_leaves = operations.leaves
        closing = commit_leaf(seq, len(operation_leaves), tree.root)
        after = link(state.link, COMMIT_KIND, 0, VERSION, seq, operation_leaves, closing)
        log = state.log.extended([*operation_leaves, closing])
        return Change(seq, operations, tree.root, log, after, tree, self._pending)

    def _collection(self, name: str) -> _Pending | None:
        if name in self._pending:
            return self._pending[name]
        if name in self._seen:
            return self._seen[name]
        records = self._state.collections.get(name)
        if records is None:
            return None
        pending = self._seen[name] = _Pending(records.definition, records)
        return pending

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


def _check_norms(operations: Iterable[Operation | Run]) -> None:
    """Logged vectors obey what was checked when they came in; all of one size at once, for speed."""
    by_size: dict[int, list[bytes | memoryview]] = {}
    for operation in operations:
        if isinstance(operation, Run):
            fixed.check_admitted(operation.matrix)
        elif operation.vector is not None:
            by_size.setdefault(len(operation.vector), []).append(operation.vector)
    for size, vectors in by_size.items():
        fixed.check_admitted(np.frombuffer(b"".join(vectors), dtype="<i4").reshape(len(vectors), size // 4))


def _exists(collection: str, id: str) -> DuplicateIdError:
    return DuplicateIdError(f"id {id!r} exists already in collection {collection!r}; nothing was written")


def _other_dimension(id: str, found: int, collection: str, expected: int) -> DimensionError:
    return DimensionError(f"vector of {id!r} has {found} dimensions, {collection!r} has {expected}")


def _no_record(collection: str, id: str) -> NotFoundError:
    return NotFoundError(f"no record {id!r} in collection {collection!r}")
