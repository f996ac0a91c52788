"""From a store to proofs: what stood in the state, where the log binds it, what a search was asked and answered.

Rule 1  What is live is proven from memory; so is a past moment that the state still holds, by putting back what has
        changed since, and any other from a replay up to it.  Nothing that a proof needs is kept for a proof's sake
        while the store is written or searched.
Rule 2  Every proof is verified before it is handed out, by what its receiver will use.  One that fails means stale
        tiles: they are made anew from the log, once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from detmem.errors import Divergence, Erased, NotFoundError, UsageError, shown
from detmem.journal.disk import Disk
from detmem.journal.files import frames
from detmem.journal.past import state_at
from detmem.journal.tiles import StaleTiles, Tiles
from detmem.machine import encoding, filters, fixed
from detmem.machine.commands import SALT_BYTES, Definition
from detmem.machine.commitment import LogTree, commit
from detmem.machine.past import Then
from detmem.machine.records import Record, View
from detmem.machine.state import State
from detmem.proof.checkpoint import Checkpoint
from detmem.proof.merkle import (
    BadProof,
    consistency_path,
    inclusion_path,
    log_root,
    prove_state,
    verify_consistency,
)
from detmem.proof.proofs import (
    Anchor,
    Claim,
    Closing,
    ConsistencyProof,
    RecordProof,
    StatePart,
    check_anchor,
    key_of,
)
from detmem.proof.receipt import LEVELS, SUBTREES, Named, Receipt, Row, Subtree, list_hash
from detmem.search import reference

__all__ = ["Prover", "Question"]

_STATE_ENTRY_BYTES = 64
_BUCKETS = 1 << 16
_COMPONENTS = 1 << 20  # of rows that are compared with a query at once

Made = TypeVar("Made")


class Question(NamedTuple):
    """What a search was asked: ``query`` int32 (dim,); the rest as in ``Receipt``."""

    collection: str
    definition: Definition
    query: NDArray[np.int32]
    k: int
    where: Mapping[str, Any] | None
    ids: tuple[str, ...] | None
    max_distance: float | None


@dataclass(frozen=True, slots=True)
class _Now:
    """Where the store stands: the checkpoint, and the tree under it."""

    checkpoint: Checkpoint
    log: LogTree


class Prover:
    """Makes the proofs of one open store.  ``moment()`` is a context in which nothing is published to ``state``."""

    def __init__(
        self, disk: Disk, state: State, moment: Callable[[], AbstractContextManager[object]], *, write: bool
    ) -> None:
        self._disk = disk
        self._state = state
        self._moment = moment
        self._tiles = Tiles(disk, write=write)
        self._using = threading.RLock()

    def after_fork(self) -> None:
        """In a forked child: the store's files stay with the parent, and the lock may have been held by a thread that
        is not here."""
        self._tiles.disown()
        self._using = threading.RLock()

    # -- proofs

    def record(self, collection: str, id: str, at: int | None = None) -> RecordProof:
        """That a record (or with ``id`` "" a collection) is live, or is not, now or ``at`` a seq."""
        key = key_of(collection, id)
        with self._standing(at) as (now, then):
            seq, root = then.seq, then.root
            buckets, nodes = prove_state(then.bucket, then.node, [key])
            view, opening = then.view(collection), None
            if view is not None and not id:
                opening = commit(view.definition.encode())
            elif view is not None and then.leaf(key) is not None:
                record = then.record(collection, id)
                opening = record.vector_commitment + record.content_commitment
        part = StatePart(self._anchor(now, seq, root, now.checkpoint), tuple(buckets), nodes)
        claim = Claim(collection, id, opening)
        part.show({key: claim.leaf}, seq, now.checkpoint)
        return RecordProof(now.checkpoint, seq, (claim,), part)

    def consistency(self, old: Checkpoint, new: Checkpoint | None = None) -> ConsistencyProof:
        """That the log, as it stands or stood at ``new``, begins with that of ``old``; ``Divergence`` when it does
        not."""
        with self._moment():
            now = self._now()
        return self._consistency(now, old, new or now.checkpoint)

    def checkpoint(self, seq: int, state_root: bytes) -> Checkpoint:
        """The checkpoint of a seq that has been, proven to be one of this log; ``state_root`` is what that commit
        logged."""
        with self._moment():
            now = self._now()
        if seq == 0:
            return Checkpoint.of(0, LogTree(), state_root)

        def make() -> Checkpoint:
            index, count = self._tiles.closing(seq)
            root = log_root(self._tiles.node, index + 1)
            found = Checkpoint(seq, index + 1, root.hex(), state_root.hex())
            check_anchor(
                Anchor(count, index, inclusion_path(self._tiles.node, index, index + 1)), seq, state_root, found
            )
            return found

        found = self._proven(now, make)
        self._consistency(now, found, now.checkpoint)
        return found

    def receipt(
        self,
        question: Question,
        results: Sequence[tuple[str, int]],
        seq: int,
        level: str,
        checkpoint: Checkpoint | str | None = None,
    ) -> Receipt:
        """The receipt of an answer (ids and raw distances) given at ``seq``, under ``checkpoint``, or where the store
        stands now."""
        if not isinstance(level, str) or level not in LEVELS:
            raise UsageError(f"level: expected one of {', '.join(LEVELS)}, found {shown(level)}")
        checkpoint = Checkpoint.read(checkpoint, "checkpoint")
        name = question.collection
        keys = [key_of(name, id) for id, _ in results]
        with self._standing(seq) as (now, then):
            view, root = then.view(name), then.root
            leaves = [then.leaf(key) for key in keys]
            buckets, nodes = prove_state(then.bucket, then.node, [key_of(name, ""), *keys])
        if view is None or view.definition != question.definition:
            raise NotFoundError(f"no collection {name!r} as it was asked at seq {seq}")
        if None in leaves:
            raise Divergence(f"a result that was no record of {name!r} at seq {seq}")
        if checkpoint is not None and checkpoint != now.checkpoint:
            self._consistency(now, checkpoint, now.checkpoint)
            if checkpoint.seq < seq:
                raise UsageError(f"checkpoint: expected one of seq {seq} or later, found {checkpoint.seq}")
        named = tuple(Named(raw, id, leaf or b"") for (id, raw), leaf in zip(results, leaves, strict=True))
        receipt = Receipt(
            checkpoint or now.checkpoint,
            name,
            question.definition,
            seq,
            question.query.astype(fixed.RAW).tobytes(),
            question.k,
            question.where,
            question.ids,
            question.max_distance,
            level,
            named,
            None,
            None,
        )
        if level != "R0":
            anchor = self._anchor(now, seq, root, receipt.checkpoint)
            receipt = replace(receipt, part=StatePart(anchor, tuple(buckets), nodes))
            receipt.show(receipt.checkpoint, None)
        if level == "R3":
            receipt = replace(receipt, subtrees=self._local_lists(receipt, view))
        return receipt

    def subtree(self, collection: str, number: int, seq: int | None = None) -> Subtree:
        """All that is live in one of the 256 parts of the state, at ``seq`` or now."""
        if not 0 <= number < SUBTREES:
            raise UsageError(f"number: expected 0..{SUBTREES - 1}, found {number}")
        with self._standing(seq) as (now, then):
            seq, root, view, rows = then.seq, then.root, then.view(collection), []
            if view is None:
                raise NotFoundError(f"no collection {collection!r} at seq {seq}")
            ids, others = {key_of(collection, id): id for id in view.slots}, []
            for bucket in range(number << 8, number + 1 << 8):
                entries = then.bucket(bucket)
                for at in range(0, len(entries), _STATE_ENTRY_BYTES):
                    entry = entries[at : at + _STATE_ENTRY_BYTES]
                    id = ids.get(entry[:32])
                    if id is None:
                        others.append(entry)
                    else:
                        rows.append(_row(id, then.record(collection, id)))
            top = _BUCKETS >> 8 | number
            siblings = b"".join([then.node(top >> height ^ 1) for height in range(8)])
        anchor = self._anchor(now, seq, root, now.checkpoint)
        subtree = Subtree(
            now.checkpoint, seq, collection, number, tuple(sorted(rows)), b"".join(others), siblings, anchor
        )
        subtree.show(now.checkpoint, None)
        return subtree

    def first_difference(self, other: Prover) -> int:
        """The first seq at which two stores part, found from the roots of their logs' subtrees, one for each level; one
        behind the shorter's end when it is the beginning of the other."""
        with self._moment():
            ours = self._now()
        with other._moment():
            theirs = other._now()
        first, second = sorted((self, other), key=id)  # in one order, so that two threads never wait for each other
        with first._using, second._using:
            self._tiles.follow(ours.checkpoint.seq, ours.log)
            other._tiles.follow(theirs.checkpoint.seq, theirs.log)
            for tiles, now in ((self._tiles, ours), (other._tiles, theirs)):
                try:
                    seq = self._parting(other, min(ours.log.size, theirs.log.size))
                    break
                except StaleTiles:
                    tiles.rebuild(now.checkpoint.seq, now.log)
            else:
                seq = self._parting(other, min(ours.log.size, theirs.log.size))
        return seq if seq is not None else min(ours.checkpoint.seq, theirs.checkpoint.seq) + 1

    def _parting(self, other: Prover, common: int) -> int | None:
        """The seq of the first leaf that differs, of the first ``common``."""
        equal = 0
        for level in reversed(range(common.bit_length())):
            if equal + (1 << level) <= common:
                ours, theirs = (prover._tiles.node(level, equal >> level) for prover in (self, other))
                equal += (1 << level) * (ours == theirs)
        if equal == common:
            return None
        seq = self._tiles.commit_with(equal)
        links = [[frame.link for _, frame in frames(one._disk, max(seq - 1, 1), seq + 1)] for one in (self, other)]
        if links[0][:-1] != links[1][:-1] or links[0][-1] == links[1][-1]:
            raise StaleTiles(f"tiles that part at seq {seq}, where the logs do not")
        return seq

    # -- inside

    def _now(self) -> _Now:
        """Under ``moment``."""
        state = self._state
        return _Now(Checkpoint.of(state.seq, state.log, state.root), state.log)

    @contextmanager
    def _standing(self, seq: int | None) -> Iterator[tuple[_Now, Then]]:
        """Where the store stands now, and its state at ``seq`` (None: now): out of memory, or else folded anew."""
        with self._moment():
            now = self._now()
            wanted = now.checkpoint.seq if seq is None else seq
            if not 0 <= wanted <= now.checkpoint.seq:
                raise UsageError(f"seq: expected 0..{now.checkpoint.seq}, found {wanted}")
            if self._state.holds(wanted) and self._state.links.kept_from <= wanted:
                yield now, Then(self._state, wanted)
                return
        yield now, Then(state_at(self._disk, wanted), wanted)

    def _proven(self, now: _Now, make: Callable[[], Made]) -> Made:
        """What ``make`` makes of the tiles and verifies; they are made anew if it is bad."""
        with self._using:
            self._tiles.follow(now.checkpoint.seq, now.log)
            try:
                return make()
            except (StaleTiles, BadProof):
                self._tiles.rebuild(now.checkpoint.seq, now.log)
            return make()

    def _anchor(self, now: _Now, seq: int, state_root: bytes, checkpoint: Checkpoint) -> Anchor | None:
        """What binds the state root of ``seq`` to ``checkpoint``, which is one of this log."""
        if seq == 0:
            return None

        def make() -> Anchor:
            index, count = self._tiles.closing(seq)
            anchor = Anchor(count, index, inclusion_path(self._tiles.node, index, checkpoint.log_size))
            check_anchor(anchor, seq, state_root, checkpoint)
            return anchor

        return self._proven(now, make)

    def _consistency(self, now: _Now, old: Checkpoint, new: Checkpoint) -> ConsistencyProof:
        node = self._tiles.node
        if old.seq > new.seq or old.log_size > new.log_size:
            raise Divergence(f"the log ends at seq {new.seq} with {new.log_size} leaves, it has not been at {old!r}")

        def make() -> tuple[bytes, str, list[Closing | None]]:
            path = consistency_path(node, old.log_size, new.log_size)
            root = log_root(node, old.log_size)
            verify_consistency(old.log_size, root, new.log_size, bytes.fromhex(new.log_root), path)
            closings = []
            for checkpoint in (old, new):
                index, count = self._tiles.closing(checkpoint.seq) if checkpoint.seq else (-1, 0)
                if index != checkpoint.log_size - 1:
                    raise Divergence(f"commit {checkpoint.seq} ends with leaf {index}, not as in {checkpoint!r}")
                closing = Closing(count, inclusion_path(node, index, checkpoint.log_size)) if checkpoint.seq else None
                closings.append(closing)
            return path, root.hex(), closings

        path, root, closings = self._proven(now, make)
        if root != old.log_root:
            raise Divergence(f"at {old.log_size} leaves the log has root {root}, not as in {old!r}")
        proof = ConsistencyProof(old, new, path, *closings)
        try:
            proof.show(old, new)
        except BadProof as error:
            raise Divergence(f"the log has not been at {old!r}: {error}") from None
        return proof

    def _local_lists(self, receipt: Receipt, view: View) -> bytes:
        """The hashes of the 256 local lists of an answer; ``view`` is the collection's at its seq."""
        if view.gone:
            raise Erased(f"{len(view.gone)} records that lived at seq {receipt.seq} have been erased since")
        name, query = receipt.collection, np.frombuffer(receipt.query, fixed.RAW).astype(np.int32)
        slots = view.live[filters.parse(receipt.where).select([view.metadatas[slot] for slot in view.live.tolist()])]
        if receipt.ids is not None:
            allowed = dict.fromkeys(receipt.ids)
            slots = slots[[view.ids[slot] in allowed for slot in slots.tolist()]]
        ids = [view.ids[slot] for slot in slots.tolist()]
        step = max(1, _COMPONENTS // view.definition.dim)
        raws = np.empty(len(slots), dtype=np.int64)
        for start in range(0, len(slots), step):
            rows = view.rows.take(slots[start : start + step])
            raws[start : start + step] = reference.distances(rows, query, receipt.definition.metric)
        keys = [key_of(name, id) for id in ids]
        parts = np.frombuffer(b"".join([key[:1] for key in keys]), np.uint8)
        chosen: list[list[int]] = []
        for number in range(SUBTREES):
            places = np.flatnonzero(parts == number)
            first, _ = reference.select(raws[places], [ids[place] for place in places.tolist()], receipt.k)
            found = places[first].tolist()
            chosen.append([place for place in found if receipt.may_answer(int(raws[place]))])
        with self._standing(receipt.seq) as (_, then):
            leaves = {place: then.leaf(keys[place]) or b"" for found in chosen for place in found}
        lists = [[Named(int(raws[place]), ids[place], leaves[place]) for place in found] for found in chosen]
        return b"".join([list_hash(number, entries) for number, entries in enumerate(lists)])


def _row(id: str, record: Record) -> Row:
    if record.erased:
        raise Erased(f"{id!r} was erased since: nobody can show what it held")
    content = encoding.encode_content(record.metadata, record.document)
    return Row(id, bytes(record.vector), content, record.salts[:SALT_BYTES], record.salts[SALT_BYTES:])
