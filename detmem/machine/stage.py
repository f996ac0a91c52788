"""A change in the making: operations on top of a state, checked one by one, unpublished.

``check`` raises and nothing has changed; ``put`` takes what was checked; ``finish`` computes the roots after it.  What
it gathers is a ``Change``, which ``State.publish`` stores.  Readers of the state see none of it.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from detmem.errors import CorruptionError, DimensionError, DuplicateIdError, NotFoundError, UsageError
from detmem.machine import commands, contents, encoding
from detmem.machine.commands import Definition, Link, Operation
from detmem.machine.commitment import (
    LogTree,
    TreeChange,
    collection_leaf,
    commit,
    commit_leaf,
    link,
    pour,
    prefixed,
    prefixed_all,
    record_leaf,
    record_leaves,
    request_digest,
    state_key,
    state_keys,
)
from detmem.machine.links import LinkStage, Node
from detmem.machine.records import Record, Records
from detmem.machine.runs import Operations, Run

if TYPE_CHECKING:
    from detmem.machine.state import State

__all__ = ["COMMIT_KIND", "NO_ID", "VERSION", "Beside", "Change", "Pending", "Request", "Stage", "definition_leaf"]

COMMIT_KIND = 1
VERSION = 2

NO_ID = prefixed(b"")

Changed: TypeAlias = Record | int | None


@dataclass(slots=True)
class Pending:
    """A collection as a stage sees it: what stands (``base``, None when created here), and what changed on top.

    ``changed`` holds a record, None for a deleted one, or, for a record of a run, its number among the rows of all
    ``runs`` together: numbers are cheap.  ``starts`` has the number of each run's first row.  Once a change is finished
    that is ``only_runs``, nothing stands in ``changed``.  ``forget``: dead rows go, whatever they cost.
    """

    definition: Definition
    base: Records | None
    changed: dict[str, Changed] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    rows: int = 0
    mixed: bool = False
    forget: bool = False

    def has(self, id: str) -> bool:
        if id in self.changed:
            return self.changed[id] is not None
        return self.base is not None and id in self.base.slots

    def has_none(self, ids: list[str]) -> bool:
        """Whether no id is there, as far as can be seen at once; False may be wrong for one that was deleted here."""
        standing = {} if self.base is None else self.base.slots
        return standing.keys().isdisjoint(ids) and self.changed.keys().isdisjoint(ids)

    def take(self, run: Run) -> None:
        """Put the records of a run whose contents have been checked."""
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
        pair = run.pair(row)
        return Record(run.vector(row), run.content(row), pair[:32], pair[32:])

    @property
    def only_runs(self) -> bool:
        """Whether the change is just the rows of ``runs``, in order: no id twice, and nothing else."""
        return not self.mixed and len(self.changed) == self.rows


_PUTS = (commands.ADD, commands.UPSERT)
_WRITES = (*_PUTS, commands.UPDATE)
_ON_RECORD = (commands.UPDATE, commands.DELETE, commands.LINK, commands.UNLINK)
_AT_ONCE = 4096  # records whose leaves are hashed together
_NO_SALTS = bytes(2 * commands.SALT_BYTES)


class Request(NamedTuple):
    """A command that came with an id: the seq that took it, what it was, and the state root after it."""

    seq: int
    digest: bytes
    state_root: bytes


@dataclass(frozen=True, slots=True)
class Beside:
    """What a change brings beside records, as few do: links, request ids and what they stand for, records whose payload
    was found gone, and those that it erases."""

    links: LinkStage
    requests: dict[str, bytes] = field(default_factory=dict)
    missing: dict[Node, None] = field(default_factory=dict)
    erased: dict[Node, None] = field(default_factory=dict)


class Change(NamedTuple):
    """A commit, computed and not yet published."""

    seq: int
    operations: Operations
    state_root: bytes
    log: LogTree
    link: bytes
    tree: TreeChange
    collections: dict[str, Pending | None]
    beside: Beside | None


class Stage:
    """Operations on top of a state, checked one by one, unpublished: readers of the state see none of them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._pending: dict[str, Pending | None] = {}
        self._seen: dict[str, Pending] = {}  # asked for and not yet touched
        self._beside: Beside | None = None
        self._open: tuple[str, str, int, bytearray] | None = None  # a request: collection, id, count, leaves so far
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
            return pending.base.record(pending.base.slots[id])
        raise _no_record(collection, id)

    def has_link(self, edge: Link) -> bool:
        """Whether the link would be there."""
        return edge in self._state.links if self._beside is None else self._beside.links.has(edge)

    def request(self, id: str) -> tuple[Request | None, bytes] | None:
        """What a request id stands for: (what it did, None while that is in this stage; its digest), or None."""
        if self._beside is not None and id in self._beside.requests:
            return None, self._beside.requests[id]
        standing = self._state.requests.get(id)
        return None if standing is None else (standing, standing.digest)

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
        name, id, type = operation.collection, operation.id, operation.type
        if type in _PUTS:
            pending = self._existing(name)
            if type == commands.ADD and pending.has(id):
                raise _exists(name, id)
            _check_payload(operation, pending.definition)
        elif type == commands.CREATE:
            if self._collection(name) is not None:
                raise UsageError(f"collection {name!r} exists already")
        elif type == commands.DROP:
            self._existing(name)
        elif type == commands.REQUEST:
            self._existing(name)
            if self.request(id) is not None:
                raise UsageError(f"request id {id!r} has been used")
        elif type in _ON_RECORD:
            pending = self._existing(name)
            if not pending.has(id):
                raise _no_record(name, id)
            if type == commands.UPDATE:
                self._check_unchanged(operation)
                _check_payload(operation, pending.definition)
            elif type != commands.DELETE:
                self._check_link(operation)

    def _check_link(self, operation: Operation) -> None:
        edge = operation.link()
        if operation.type == commands.UNLINK:
            if not self.has_link(edge):
                raise NotFoundError(f"no link {edge.relation!r} from {edge.source!r} to {edge.target!r}")
            return
        if not self._existing(edge.target_collection).has(edge.target):
            raise _no_record(edge.target_collection, edge.target)
        if self.has_link(edge):
            raise UsageError(f"the link {edge.relation!r} from {edge.source!r} to {edge.target!r} exists already")

    def _check_run(self, run: Run) -> None:
        """As ``check`` of its operations, one after the other."""
        name, pending = run.collection, self._existing(run.collection)
        if pending.definition.erasable:
            raise CorruptionError(f"records without salt in {name!r}, which is erasable")
        if run.type == commands.ADD and not (len(set(run.ids)) == len(run.ids) and pending.has_none(run.ids)):
            seen: set[str] = set()
            for id in run.ids:
                if id in seen or pending.has(id):
                    raise _exists(name, id)
                seen.add(id)
        if run.matrix.shape[1] != pending.definition.dim:
            raise _other_dimension(run.ids[0], run.matrix.shape[1], name, pending.definition.dim)

    def put(self, operation: Operation | Run) -> None:
        """Take a checked operation into the change, and keep it for the log."""
        self.take(operation)
        self.operations.append(operation)

    def take(self, operation: Operation | Run) -> None:
        """Take a checked operation into the change; the caller keeps it."""
        if self._open is not None:
            self._count_request(operation)
        if isinstance(operation, Run):
            operation.check_contents()
            self._touched(operation.collection).take(operation)
            return
        name, id, type = operation.collection, operation.id, operation.type
        if type in _WRITES:
            pending = self._touched(name)
            pending.mixed = True
            pending.changed[id] = self._resulting(operation)
            if operation.erased and not operation.archived:
                self._aside().missing[name, id] = None
        elif type == commands.DELETE:
            self._remove(name, id)
        elif type == commands.CREATE:
            assert operation.content is not None
            self._pending[name] = Pending(Definition.decode(operation.content), None)
        elif type == commands.DROP:
            if self._has_links:
                self._aside().links.isolate_collection(name)
            self._pending[name] = None
        elif type == commands.RECORD:
            operation.recorded()
        elif type == commands.REQUEST:
            self._open = name, id, operation.requested(), bytearray()
        elif type == commands.LINK:
            self._aside().links.add(operation.link())
        elif type == commands.UNLINK:
            self._aside().links.remove(operation.link())
        else:
            assert type == commands.ERASE
            self._erase(name, id)

    @property
    def _has_links(self) -> bool:
        return self._beside is not None or len(self._state.links) > 0

    def _aside(self) -> Beside:
        if self._beside is None:
            self._beside = Beside(LinkStage(self._state.links))
        return self._beside

    def _remove(self, name: str, id: str) -> None:
        pending = self._touched(name)
        pending.mixed = True
        pending.changed.pop(id, None)  # so that a record added again later stands behind the others
        pending.changed[id] = None
        if self._has_links:
            self._aside().links.isolate((name, id))

    def _erase(self, name: str, id: str) -> None:
        if self.has(name, id):
            self._remove(name, id)
        if self._collection(name) is not None:
            pending = self._touched(name)
            pending.mixed = pending.forget = True
        self._aside().missing.pop((name, id), None)
        self._aside().erased[name, id] = None

    def _count_request(self, operation: Operation | Run) -> None:
        """Take the leaves of an operation into the request that it belongs to."""
        assert self._open is not None
        collection, id, count, leaves = self._open
        left = count - len(leaves) // 32
        if operation.collection != collection or operation.type not in _PUTS:
            raise CorruptionError(f"request {id!r}: expected {left} more writes into {collection!r}")
        leaves += operation.leaves[: 32 * left] if isinstance(operation, Run) else operation.leaf
        if len(leaves) == 32 * count:
            self._aside().requests[id] = request_digest(leaves)
            self._open = None

    def finish(self, operations: Operations | None = None) -> Change:
        """Compute the change and the roots after it; nothing is published.

        ``operations``: all that was taken, where the caller has kept them.
        """
        operations = Operations(self.operations) if operations is None else operations
        count = len(operations)
        assert count
        if self._open is not None:
            raise CorruptionError(f"request {self._open[1]!r}: the commit ends before its writes do")
        state = self._state
        leaves: dict[bytes, bytes | None] = {}
        entries, gone = bytearray(), bytearray()
        if self._beside is not None:
            for key, leaf in self._beside.links.leaves():
                leaves[key] = leaf
                if len(leaves) == _AT_ONCE:  # as one dict they would take three times what they hold
                    pour(leaves, entries, gone)
                    leaves.clear()
        for name, pending in self._pending.items():
            standing = state.collections.get(name)
            if standing is not None and (pending is None or pending.base is not standing):
                gone += state_key(standing.prefix, NO_ID)
                for id in standing.slots:
                    gone += standing.key(id)
            if pending is None:
                continue
            prefix = prefixed(name.encode()) if pending.base is None else pending.base.prefix
            if pending.base is None:
                leaves[state_key(prefix, NO_ID)] = definition_leaf(prefix, pending.definition)
            if pending.only_runs:
                pending.changed = {}
                for run in pending.runs:
                    for start in range(0, len(run.ids), _AT_ONCE):
                        part = slice(start, start + _AT_ONCE)
                        texts = prefixed_all(map(str.encode, run.ids[part]))
                        both = zip(
                            state_keys(prefix, texts), record_leaves(prefix, texts, run.pairs(part)), strict=True
                        )
                        entries += b"".join(chain.from_iterable(both))
                continue
            for id, changed in pending.changed.items():
                text = prefixed(id.encode())
                leaf = None
                if changed is not None:
                    record = pending.record(changed)
                    leaf = record_leaf(prefix, text, record.vector_commitment, record.content_commitment)
                leaves[state_key(prefix, text)] = leaf
                if len(leaves) == _AT_ONCE:
                    pour(leaves, entries, gone)
                    leaves.clear()
        tree = state._tree.stage(leaves, entries, gone)
        seq = state.seq + 1
        operation_leaves = operations.leaves
        closing = commit_leaf(seq, count, tree.root)
        after = link(state.link, COMMIT_KIND, 0, VERSION, seq, operation_leaves, closing)
        log = state.log.extended(operation_leaves + closing)
        return Change(seq, operations, tree.root, log, after, tree, self._pending, self._beside)

    def _collection(self, name: str) -> Pending | None:
        if name in self._pending:
            return self._pending[name]
        if name in self._seen:
            return self._seen[name]
        records = self._state.collections.get(name)
        if records is None:
            return None
        pending = self._seen[name] = Pending(records.definition, records)
        return pending

    def _existing(self, name: str) -> Pending:
        pending = self._collection(name)
        if pending is None:
            raise NotFoundError(f"no collection {name!r}")
        return pending

    def _touched(self, name: str) -> Pending:
        pending = self._pending[name] = self._existing(name)
        return pending

    def _check_unchanged(self, operation: Operation) -> None:
        record = self.record(operation.collection, operation.id)
        for part, standing, resulting in (
            (commands.HAS_VECTOR, record.vector_commitment, operation.vector_commitment),
            (commands.HAS_CONTENT, record.content_commitment, operation.content_commitment),
        ):
            if not operation.has(part) and standing != resulting:
                raise CorruptionError(f"update of {operation.id!r}: an unchanged part with another commitment")

    def _resulting(self, operation: Operation) -> Record:
        vector, salt = operation.vector, operation.salt
        if vector is not None and operation.content is not None:
            return Record(
                vector, operation.told(), operation.vector_commitment, operation.content_commitment, salt + salt
            )
        partial = not (operation.has(commands.HAS_VECTOR) and operation.has(commands.HAS_CONTENT))
        before = self.record(operation.collection, operation.id) if partial else None
        if operation.erased:
            zeros = bytes(4 * self._existing(operation.collection).definition.dim)
            salts = _NO_SALTS if operation.has(commands.SALTED) else b""
            return Record(zeros, contents.EMPTY, operation.vector_commitment, operation.content_commitment, salts, True)
        assert before is not None
        content = operation.told() if vector is None else before.content
        salts = before.salts[: len(salt)] + salt if vector is None else salt + before.salts[len(salt) :]
        commitments = operation.vector_commitment, operation.content_commitment
        return Record(vector or before.vector, content, *commitments, salts, before.erased)


def _check_payload(operation: Operation, definition: Definition) -> None:
    vector = operation.vector
    size = operation.vector_size if vector is None else len(vector)
    if size not in (0, 4 * definition.dim):
        raise _other_dimension(operation.id, size // 4, operation.collection, definition.dim)
    if (operation.header[1] & commands.SALTED != 0) != definition.erasable:
        raise CorruptionError(
            f"{operation.id!r}: expected {'a' if definition.erasable else 'no'} salt in {operation.collection!r}"
        )


def definition_leaf(prefix: bytes, definition: Definition) -> bytes:
    return collection_leaf(prefix, commit(definition.encode()))


def _exists(collection: str, id: str) -> DuplicateIdError:
    return DuplicateIdError(f"id {id!r} exists already in collection {collection!r}; nothing was written")


def _other_dimension(id: str, found: int, collection: str, expected: int) -> DimensionError:
    return DimensionError(f"vector of {id!r} has {found} dimensions, {collection!r} has {expected}")


def _no_record(collection: str, id: str) -> NotFoundError:
    return NotFoundError(f"no record {id!r} in collection {collection!r}")
