"""The memory itself: a pure state machine.  state = fold(apply, log).

Rule 1  ``Stage.check`` raises and nothing has changed.  ``Stage.finish`` computes the change and both roots,
        unpublished.  ``State.publish`` stores it, and cannot fail.
Rule 2  No command costs O(N); an erasure, which has every file of the store written anew, is the exception.
Rule 3  What is held of the past (``past``) is a cache: older moments are folded anew from the log.

It knows no file, clock, thread or float.  The shell serialises ``publish`` against ``view``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np

from detmem.errors import CorruptionError, DetmemError
from detmem.machine import fixed
from detmem.machine.commands import Operation
from detmem.machine.commitment import (
    LINK_ZERO,
    LogTree,
    StateTree,
    prefixed_all,
    record_leaves,
    state_key,
    state_keys,
)
from detmem.machine.encoding import Metadata
from detmem.machine.links import Links, Node, entry, link_of
from detmem.machine.records import Record, Records, Restored
from detmem.machine.runs import Operations, Run
from detmem.machine.stage import NO_ID, Beside, Change, Pending, Request, Stage, definition_leaf

__all__ = ["MAX_REQUESTS", "State"]

MAX_REQUESTS = 65_536
"""Request ids that are remembered; the oldest is forgotten first."""

_AT_ONCE = 4096  # records whose leaves are hashed together


class State:
    """Everything that is live, and the roots over it.  Starts empty, at seq 0.

    And what history must remember: ``requests`` by id, oldest first; ``erased``: the seq of each record's last erasure;
    ``missing``: records whose payload was found gone, with the seq, until the log says that they were erased.
    """

    def __init__(self) -> None:
        self.seq = 0
        self.link = LINK_ZERO
        self.log = LogTree()
        self.collections: dict[str, Records] = {}
        self.links = Links()
        self.requests: dict[str, Request] = {}
        self.erased: dict[Node, int] = {}
        self.missing: dict[Node, int] = {}
        self._kept_from = 0
        self._tree = StateTree()

    @classmethod
    def restored(
        cls,
        seq: int,
        link: bytes,
        log: LogTree,
        collections: Iterable[Records],
        entries: bytearray,
        links: Links,
        requests: dict[str, Request],
        erased: dict[Node, int],
    ) -> State:
        """A state from a snapshot's parts: records; in ``entries``, which are taken over, both commitments of each of
        them, joined.  The root is computed, never taken over.  ``CorruptionError``:
        a link without its ends.
        """
        state = cls()
        state.seq, state.link, state.log = seq, link, log
        state.requests, state.erased, state._kept_from = requests, erased, seq
        at, rest = 0, bytearray()
        for records in collections:
            state.collections[records.name] = records
            rest += state_key(records.prefix, NO_ID) + definition_leaf(records.prefix, records.definition)
            for start in range(0, records.count, _AT_ONCE):  # few small objects at a time
                assert isinstance(records, Restored)
                texts = prefixed_all(records.texts[start : start + _AT_ONCE])
                end = at + 64 * len(texts)
                data = bytes(memoryview(entries)[at:end])
                pairs = [data[place : place + 64] for place in range(0, len(data), 64)]
                keys, leaves = state_keys(records.prefix, texts), record_leaves(records.prefix, texts, pairs)
                entries[at:end] = b"".join(chain.from_iterable(zip(keys, leaves, strict=True)))
                at = end
        state.links = links
        for names in links.born:
            edge = link_of(names)
            for name, id in ((edge.collection, edge.source), (edge.target_collection, edge.target)):
                if name not in state.collections or id not in state.collections[name].slots:
                    raise CorruptionError(f"a link {edge} with an end that is not there")
            rest += b"".join(entry(names))
        entries += rest
        state._tree = StateTree.of(entries)
        return state

    @property
    def root(self) -> bytes:
        """The state root: of what is live now."""
        return self._tree.root

    @property
    def tree(self) -> StateTree:
        """The tree under that root, for proofs: read only."""
        return self._tree

    def holds(self, seq: int) -> bool:
        """Whether the records of a past moment are still here: ``Records.past`` may be asked, of those made by then."""
        return self._kept_from <= seq <= self.seq and all(
            records.kept_from <= seq for records in self.collections.values() if records.created <= seq
        )

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
            return self._applied(held, held.parts())
        except DetmemError:
            if not any(isinstance(part, Run) for part in held.held):
                raise
        return self._applied(held, held)  # one by one, so that the first that is not legal is named

    def _applied(self, operations: Operations, parts: Iterable[Operation | Run]) -> Change:
        stage, norms = Stage(self), _Norms()
        try:
            for part in parts:
                stage.check(part)
                stage.take(part)
                norms.take(part)
            norms.check()
        except CorruptionError:
            raise
        except DetmemError as error:
            raise CorruptionError(f"an operation that is not legal here: {error}") from None
        if not len(operations):
            raise CorruptionError("a commit without operations")
        return stage.finish(operations)

    def publish(self, change: Change) -> None:
        """Store a staged change.  Total: everything that can fail has been done by ``finish``."""
        assert change.seq == self.seq + 1, "a change is published on the state it was staged on"
        seq = change.seq
        for name, pending in change.collections.items():
            standing = self.collections.get(name)
            if standing is not None and (pending is None or pending.base is not standing):
                self._kept_from = seq  # what a dropped collection held is not
            if pending is None:
                self.collections.pop(name, None)
                continue
            records = pending.base
            if records is None:
                records = self.collections[name] = Records(name, pending.definition)
                records.created = seq
            if pending.changed or pending.rows:
                _store(records, pending, seq)
            if pending.forget:
                records.forget(seq)
        if change.beside is not None:
            self._publish_beside(change.beside, change)
        self._tree.publish(change.tree)
        self.seq, self.link, self.log = change.seq, change.link, change.log

    def _publish_beside(self, beside: Beside, change: Change) -> None:
        seq = change.seq
        if beside.links.added or beside.links.removed:
            self.links.publish(beside.links, seq)
        for id, digest in beside.requests.items():
            self.requests[id] = Request(seq, digest, change.state_root)
        while len(self.requests) > MAX_REQUESTS:
            del self.requests[next(iter(self.requests))]
        for node in beside.erased:
            self.erased[node] = seq
            self.missing.pop(node, None)
        for node in beside.missing:
            self.missing.setdefault(node, seq)


def _store(records: Records, pending: Pending, seq: int) -> None:
    """Let go of what a change replaces or deletes, and append what it brings."""
    touched = pending.changed or chain.from_iterable([run.ids for run in pending.runs])
    replaced = [id for id in touched if id in records.slots]
    if replaced:
        records.bury(replaced, seq)
    if not pending.changed:
        for run in pending.runs:
            records.extend(run.ids, run.matrix, run.meanings or run.contents, seq)
    else:
        fresh = [(id, pending.record(changed)) for id, changed in pending.changed.items() if changed is not None]
        salted = pending.definition.erasable
        if len(fresh) == 1:  # what most commits are
            ((id, record),) = fresh
            vectors = np.frombuffer(record.vector, dtype=fixed.RAW)[None]
            content = record.content
            held = [content] if isinstance(content, bytes) else ((content[0],), (content[1],))
            records.extend((id,), vectors, held, seq, (record.salts,) if salted else ())
        elif fresh:
            ids, parts = zip(*fresh, strict=True)
            vectors = np.frombuffer(b"".join([part.vector for part in parts]), dtype=fixed.RAW).reshape(len(ids), -1)
            records.extend(ids, vectors, _held(parts), seq, [part.salts for part in parts] if salted else ())
        for id, record in fresh:
            if record.erased:
                records.erased[records.slots[id]] = record.vector_commitment + record.content_commitment
    records.compact(seq)


def _held(parts: Sequence[Record]) -> list[bytes] | tuple[list[Metadata], list[str | None]]:
    """The contents of records, as ``Records.extend`` takes them."""
    packed = [part.content for part in parts if isinstance(part.content, bytes)]
    if len(packed) == len(parts):
        return packed
    meanings = [part.meaning for part in parts]
    return [one[0] for one in meanings], [one[1] for one in meanings]


class _Norms:
    """Logged vectors obey what was checked when they came in; all of one size are looked at at once, for speed."""

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self._by_size: dict[int, bytearray] = {}

    def take(self, part: Operation | Run) -> None:
        """The next part of a commit."""
        if isinstance(part, Run):
            self._runs.append(part)
        elif part.vector is not None:
            self._by_size.setdefault(len(part.vector), bytearray()).extend(part.vector)

    def check(self) -> None:
        """``CorruptionError`` when one is not as it could have been admitted."""
        for run in self._runs:
            fixed.check_admitted(run.matrix)
        for size, vectors in self._by_size.items():
            fixed.check_admitted(np.frombuffer(vectors, dtype="<i4").reshape(-1, size // 4))
