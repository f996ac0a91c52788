"""Receipts: what a search was asked and what it answered, and what can be shown of that later (spec/receipts.md).

Rule 1  Everything here is checked against a checkpoint that the caller trusts, without a store and without a disk.
Rule 2  A level shows what it shows and no more: each verdict says what is left open.
Rule 3  Distances here are plain integers, as the page defines them; no kernel decides about an answer's proof.

Asking a store again (R2) is for whoever has one: ``detmem.checking``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from struct import Struct, iter_unpack, pack, unpack
from typing import Any, ClassVar, NamedTuple

import numpy as np

from detmem.errors import CorruptionError, RangeError, UsageError
from detmem.machine import contents, encoding, filters, fixed
from detmem.machine.commands import SALT_BYTES, Definition
from detmem.machine.commitment import collection_leaf, commit, prefixed
from detmem.proof.checkpoint import Checkpoint
from detmem.proof.merkle import (
    HASH_BYTES,
    BadProof,
    bucket_of,
    fold_subtree,
    hashes_of,
    subtree_rows,
)
from detmem.proof.proofs import (
    Anchor,
    ConsistencyProof,
    ProofFile,
    StatePart,
    Verdict,
    check_anchor,
    check_bytes,
    check_trusted,
    checkpoint_of,
    fields_of,
    given_checkpoint,
    in_order,
    items_of,
    key_of,
    record_leaf_of,
    verdict_of,
)

__all__ = ["LEVELS", "SUBTREES", "Named", "Receipt", "Refutation", "Row", "Subtree", "list_hash", "plain_where"]

LEVELS = ("R0", "R1", "R2", "R3")
SUBTREES = 256

_DIGEST = b"\x20"
_LIST = b"\x21"
_LIST_NODE = b"\x22"
_INT64 = Struct("<q")
_MAX_SUBTREE_BYTES = 256 << 20

_QUESTION = "the question (query, k, filter, ids, max_distance)"
_DISTANCES = "the distances"
_COMPLETE = "that no nearer record is missing"


class Named(NamedTuple):
    """One record of an answer, as ordered: by (raw, id)."""

    raw: int
    id: str
    leaf: bytes


class Row(NamedTuple):
    """One record with all that its leaf commits to; an absent salt is empty."""

    id: str
    vector: bytes
    content: bytes
    vector_salt: bytes = b""
    content_salt: bytes = b""

    def leaf(self, collection: str) -> bytes:
        """Its state leaf, from the bytes."""
        commitments = commit(self.vector_salt + self.vector) + commit(self.content_salt + self.content)
        return record_leaf_of(collection, self.id, commitments)


@dataclass(frozen=True)
class Receipt(ProofFile):
    """What collection ``collection`` answered at ``seq``: ``results`` in the order (raw, id).

    ``query`` is raw, int32 little-endian; ``where``, ``ids`` and ``max_distance`` as they were asked, None for not at
    all.  ``level``: what the receipt was made for; ``part`` holds the proof of R1, ``subtrees`` the list hashes of R3.
    """

    kind: ClassVar[str] = "detmem/receipt/v1"

    checkpoint: Checkpoint
    collection: str
    definition: Definition
    seq: int
    query: bytes
    k: int
    where: Mapping[str, Any] | None
    ids: tuple[str, ...] | None
    max_distance: float | None
    level: str
    results: tuple[Named, ...]
    part: StatePart | None
    subtrees: bytes | None

    @property
    def semantics(self) -> str:
        """By which rules the answer was found."""
        return f"detmem/search/v1 {self.definition.metric} {self.definition.format} raw,id"

    @property
    def subtree_root(self) -> str | None:
        """Root over the 256 local lists, in hex; None below R3."""
        if self.subtrees is None:
            return None
        row = hashes_of(self.subtrees)
        while len(row) > 1:
            pairs = zip(row[::2], row[1::2], strict=True)
            row = [sha256(_LIST_NODE + left + right).digest() for left, right in pairs]
        return row[0].hex()

    def encode(self) -> bytes:
        """The file's bytes, their digest included."""
        body = super().encode()
        return body + sha256(_DIGEST + body).digest()

    @classmethod
    def decode(cls, data: bytes) -> Receipt:
        """Inverse of ``encode``; ``CorruptionError`` for anything else."""
        check_bytes(data)
        body, digest = data[:-HASH_BYTES], data[-HASH_BYTES:]
        if len(data) > cls.max_bytes + HASH_BYTES or sha256(_DIGEST + body).digest() != digest:
            raise CorruptionError("not a receipt, or one that was changed: its digest is wrong")
        return super().decode(body)

    # -- what it shows

    def verify(self, checkpoint: Checkpoint | str, *, consistency: ConsistencyProof | None = None) -> Verdict:
        """R1, offline: whether every result was live at ``seq``, under a checkpoint that the caller trusts.

        ``consistency`` leads from the receipt's checkpoint to a later one that is trusted.
        """
        trusted = given_checkpoint(checkpoint, "checkpoint")

        def check() -> Verdict:
            self.show(trusted, consistency)
            live = f"all {len(self.results)} results were live records of {self.collection!r} at seq {self.seq}"
            return Verdict(True, "R1", f"{live}, under the trusted checkpoint", (_QUESTION, _DISTANCES, _COMPLETE))

        return verdict_of(check)

    def show(self, trusted: Checkpoint, consistency: ConsistencyProof | None) -> None:
        """``BadProof`` unless R1 holds."""
        if self.part is None:
            raise BadProof(f"a receipt of level {self.level} has no proof")
        check_trusted(self.checkpoint, trusted, consistency)
        prefix, definition = prefixed(self.collection.encode()), commit(self.definition.encode())
        leaves: dict[bytes, bytes | None] = {key_of(self.collection, ""): collection_leaf(prefix, definition)}
        leaves.update((key_of(self.collection, one.id), one.leaf) for one in self.results)
        self.part.show(leaves, self.seq, self.checkpoint)

    def check_subtree(
        self, subtree: Subtree, checkpoint: Checkpoint | str, *, consistency: ConsistencyProof | None = None
    ) -> Verdict:
        """R3, one of 256 parts: whether the answer is right as far as this subtree goes."""
        trusted = given_checkpoint(checkpoint, "checkpoint")

        def check() -> Verdict:
            local = self._local(subtree, trusted, consistency)
            wrong = self._wrong_in(local, subtree.number)
            if wrong is not None:
                return Verdict(False, None, wrong)
            reason = f"subtree {subtree.number} of {SUBTREES}: the answer has each of its records that belongs there"
            return Verdict(True, "R3", reason, (f"the same of the other {SUBTREES - 1} subtrees",))

        return verdict_of(check)

    def refute(
        self, subtree: Subtree, checkpoint: Checkpoint | str, *, consistency: ConsistencyProof | None = None
    ) -> Refutation | None:
        """One record of the subtree that the answer should have named, with its proof; None when there is none.

        ``BadProof`` (a ``CorruptionError``) when receipt or subtree do not hold under the checkpoint themselves.
        """
        trusted = given_checkpoint(checkpoint, "checkpoint")
        local = self._local(subtree, trusted, consistency)
        missing = next((one for one in local if self._should_name(one)), None)
        if missing is None:
            return None
        row = next(row for row in subtree.records if row.id == missing.id)
        part = subtree.part_of(row)
        return Refutation(subtree.checkpoint, self.seq, bytes.fromhex(self.sha256), row, part)

    def candidates(self, rows: Iterable[Row]) -> list[Named]:
        """The first k of some records by (raw, id), of those that may answer: what a local list holds.

        A salt has 32 bytes where the collection is erasable, and else there is none: with a salt of a free size, other
        bytes could be opened from the same commitment.
        """
        query = unpack(f"<{self.definition.dim}i", self.query)
        chosen, rows = filters.parse(self.where), list(rows)
        salt = SALT_BYTES if self.definition.erasable else 0
        for row in rows:
            if not len(row.vector_salt) == len(row.content_salt) == salt:
                raise BadProof(
                    f"the salts of {row.id!r}: expected {salt} bytes each, "
                    f"found {len(row.vector_salt)} and {len(row.content_salt)}"
                )
        metadatas = [contents.decode(row.content)[0] for row in rows]
        allowed = None if self.ids is None else dict.fromkeys(self.ids)
        found = []
        for row, matches in zip(rows, chosen.select(metadatas).tolist(), strict=True):
            if not matches or (allowed is not None and row.id not in allowed):
                continue
            if len(row.vector) != len(self.query):
                raise BadProof(f"the vector of {row.id!r} has {len(row.vector)} bytes, the query {len(self.query)}")
            try:
                fixed.check_admitted(np.frombuffer(row.vector, fixed.RAW)[None])
            except RangeError as error:
                raise BadProof(f"the vector of {row.id!r}: {error}") from None
            raw = _raw_distance(self.definition.metric, unpack(f"<{len(query)}i", row.vector), query)
            if self.may_answer(raw):
                found.append(Named(raw, row.id, row.leaf(self.collection)))
        return sorted(found)[: self.k]

    def may_answer(self, raw: int) -> bool:
        """Whether a distance is within ``max_distance``."""
        if self.max_distance is None:
            return True
        shown = fixed.distances_to_float(np.array([raw], np.int64), self.definition.metric, self.definition.format)
        return float(shown[0]) <= self.max_distance

    def _local(self, subtree: Subtree, trusted: Checkpoint, consistency: ConsistencyProof | None) -> list[Named]:
        """The local list of a subtree, all of which holds."""
        self.show(trusted, consistency)
        if (subtree.seq, subtree.collection) != (self.seq, self.collection):
            raise BadProof(
                f"the subtree is of {subtree.collection!r} at seq {subtree.seq}, "
                f"the receipt of {self.collection!r} at {self.seq}"
            )
        subtree.show(trusted, consistency)
        try:
            return self.candidates(subtree.records)
        except UsageError as error:
            raise BadProof(f"subtree {subtree.number}: no search can have answered this: {error}") from None

    def _wrong_in(self, local: Sequence[Named], number: int) -> str | None:
        for one in local:
            if self._should_name(one):
                return f"subtree {number}: {one.id!r} at raw distance {one.raw} should be in the answer, and is not"
        for one in self.results:
            if key_of(self.collection, one.id)[0] == number and one not in local:
                return f"subtree {number}: the answer names {one.id!r}, which does not belong there"
        if self.subtrees is not None:
            claimed = hashes_of(self.subtrees)[number]
            found = list_hash(number, local)
            if claimed != found:
                return f"subtree {number}: the receipt has local list {claimed.hex()}, found {found.hex()}"
        return None

    def _should_name(self, one: Named) -> bool:
        """Whether a record that may answer is missing, or stands there with another distance."""
        if one in self.results:
            return False
        named = any(result.id == one.id for result in self.results)
        return named or len(self.results) < self.k or one[:2] < self.results[-1][:2]

    # -- as a file

    def _fields(self) -> dict[str, Any]:
        return {
            "checkpoint": str(self.checkpoint),
            "collection": self.collection,
            "definition": self.definition.encode(),
            "ids": None if self.ids is None else list(self.ids),
            "k": self.k,
            "level": self.level,
            "max_distance": self.max_distance,
            "proof": None if self.part is None else self.part.fields(),
            "query": self.query,
            "result_ids": [one.id for one in self.results],
            "result_leaves": b"".join([one.leaf for one in self.results]),
            "result_raws": b"".join([_INT64.pack(one.raw) for one in self.results]),
            "semantics": self.semantics,
            "seq": self.seq,
            "subtrees": self.subtrees,
            "where": None if self.where is None else encoding.encode(plain_where(self.where), "where"),
        }

    @classmethod
    def _read(cls, fields: dict[str, Any]) -> Receipt:
        found = fields_of(fields, **_RECEIPT_TYPES)
        names, leaves, raws = found["result_ids"], hashes_of(found["result_leaves"]), found["result_raws"]
        if found["k"] < 1:
            raise CorruptionError(f"k must be at least 1, found {found['k']}")
        if not (len(names) == len(leaves) <= found["k"] and len(raws) == _INT64.size * len(names)):
            raise CorruptionError(f"{len(names)} results, {len(leaves)} leaves, {len(raws)} bytes of distances")
        _check_texts(names)
        distances = [raw for (raw,) in iter_unpack(_INT64.format, raws)]
        results = tuple(map(Named, distances, names, leaves))
        if not in_order([one[:2] for one in results]) or len(set(names)) < len(names):
            raise CorruptionError("results that are not in the order of (raw, id), each once")
        where: Any = None
        if found["where"] is not None:
            where = encoding.decode(found["where"], max_bytes=cls.max_bytes)
            if filters.parse(where).is_all:
                raise CorruptionError("a filter that is none")
        ids = found["ids"]
        if ids is not None:
            _check_texts(ids)
            if not in_order(ids):
                raise CorruptionError("ids that are not in ascending order, each once")
        part = None if found["proof"] is None else StatePart.read(found["proof"])
        receipt = cls(
            checkpoint_of(found["checkpoint"]),
            encoding.check_name(found["collection"], "collection"),
            Definition.decode(found["definition"]),
            found["seq"],
            found["query"],
            found["k"],
            where,
            None if ids is None else tuple(ids),
            found["max_distance"],
            found["level"],
            results,
            part,
            found["subtrees"],
        )
        level, query = receipt.level, receipt.query
        if not 1 <= receipt.seq <= receipt.checkpoint.seq or len(query) != 4 * receipt.definition.dim:
            raise CorruptionError(f"seq {receipt.seq}, or a query of {len(query)} bytes, cannot be")
        if level not in LEVELS or (level == "R0") != (part is None) or found["semantics"] != receipt.semantics:
            raise CorruptionError(f"level {level!r} with or without a proof, or semantics {found['semantics']!r}")
        size = None if receipt.subtrees is None else len(receipt.subtrees)
        if size != (SUBTREES * HASH_BYTES if level == "R3" else None):
            raise CorruptionError(f"level {level} with {size} bytes of subtrees")
        fixed.check_admitted(np.frombuffer(query, fixed.RAW)[None])
        return receipt


_NONE = type(None)
_RECEIPT_TYPES: dict[str, Any] = {
    "checkpoint": str,
    "collection": str,
    "definition": bytes,
    "ids": (list, _NONE),
    "k": int,
    "level": str,
    "max_distance": (float, _NONE),
    "proof": (dict, _NONE),
    "query": bytes,
    "result_ids": list,
    "result_leaves": bytes,
    "result_raws": bytes,
    "semantics": str,
    "seq": int,
    "subtrees": (bytes, _NONE),
    "where": (bytes, _NONE),
}


@dataclass(frozen=True)
class Subtree(ProofFile):
    """All that is live at ``seq`` in one of 256 parts of the state: the records of one collection with their bytes, the
    rest (``others``) as key and leaf."""

    kind: ClassVar[str] = "detmem/subtree/v1"
    max_bytes: ClassVar[int] = _MAX_SUBTREE_BYTES

    checkpoint: Checkpoint
    seq: int
    collection: str
    number: int
    records: tuple[Row, ...]
    others: bytes
    siblings: bytes
    anchor: Anchor | None

    def entries(self) -> bytes:
        """``key | leaf`` of all, by key."""
        ours = [key_of(self.collection, row.id) + row.leaf(self.collection) for row in self.records]
        size = 2 * HASH_BYTES
        theirs = [self.others[at : at + size] for at in range(0, len(self.others), size)]
        return b"".join(sorted([*ours, *theirs]))

    def show(self, trusted: Checkpoint, consistency: ConsistencyProof | None) -> None:
        """``BadProof`` unless this is all of that part, under a trusted checkpoint."""
        check_trusted(self.checkpoint, trusted, consistency)
        _, rows = subtree_rows(self.entries(), self.number)
        root = fold_subtree(rows[-1][0], self.number, self.siblings)
        check_anchor(self.anchor, self.seq, root, self.checkpoint)

    def part_of(self, row: Row) -> StatePart:
        """The state part of one of its records alone."""
        key = key_of(self.collection, row.id)
        buckets, rows = subtree_rows(self.entries(), self.number)
        low = bucket_of(key) & 0xFF
        beside = [level[low >> height ^ 1] for height, level in enumerate(rows[:-1])]
        return StatePart(self.anchor, (buckets[low],), b"".join(beside) + self.siblings)

    def _fields(self) -> dict[str, Any]:
        return {
            "anchor": None if self.anchor is None else list(self.anchor),
            "checkpoint": str(self.checkpoint),
            "collection": self.collection,
            "number": self.number,
            "others": self.others,
            "records": [list(row) for row in self.records],
            "seq": self.seq,
            "siblings": self.siblings,
        }

    @classmethod
    def _read(cls, fields: dict[str, Any]) -> Subtree:
        found = fields_of(
            fields,
            anchor=(list, _NONE),
            checkpoint=str,
            collection=str,
            number=int,
            others=bytes,
            records=list,
            seq=int,
            siblings=bytes,
        )
        records = tuple(Row(*items_of(value, "record", str, bytes, bytes, bytes, bytes)) for value in found["records"])
        _check_texts([row.id for row in records])
        size = 2 * HASH_BYTES
        others = found["others"]
        if not in_order(row.id for row in records) or not in_order(
            others[at : at + HASH_BYTES] for at in range(0, len(others), size)
        ):
            raise CorruptionError("records or other entries that are not in ascending order")
        if not 0 <= found["number"] < SUBTREES or len(others) % size or found["seq"] < 0:
            raise CorruptionError(f"subtree {found['number']} with {len(others)} bytes of other entries")
        return cls(
            checkpoint_of(found["checkpoint"]),
            found["seq"],
            encoding.check_name(found["collection"], "collection"),
            found["number"],
            records,
            others,
            found["siblings"],
            Anchor.read(found["anchor"]),
        )


@dataclass(frozen=True)
class Refutation(ProofFile):
    """One record that a receipt should have named: a proof that its answer is false."""

    kind: ClassVar[str] = "detmem/refutation/v1"

    checkpoint: Checkpoint
    seq: int
    receipt: bytes
    row: Row
    part: StatePart

    def verify(
        self, receipt: Receipt, checkpoint: Checkpoint | str, *, consistency: ConsistencyProof | None = None
    ) -> Verdict:
        """Whether it refutes this receipt: ``ok`` means that the receipt's answer is false."""
        trusted = given_checkpoint(checkpoint, "checkpoint")

        def check() -> Verdict:
            if (self.receipt.hex(), self.seq) != (receipt.sha256, receipt.seq):
                raise BadProof(f"it is about receipt {self.receipt.hex()}, not {receipt.sha256}")
            receipt.show(trusted, consistency)
            check_trusted(self.checkpoint, trusted, consistency)
            leaves = {key_of(receipt.collection, self.row.id): self.row.leaf(receipt.collection)}
            self.part.show(leaves, self.seq, self.checkpoint)
            try:
                found = receipt.candidates([self.row])
            except UsageError as error:
                raise BadProof(f"the filter cannot be asked of this record: {error}") from None
            if not found or not receipt._should_name(found[0]):
                raise BadProof(f"{self.row.id!r} does not belong into the answer, or stands there")
            reason = f"{self.row.id!r} at raw distance {found[0].raw} belongs into the answer, which has it not"
            return Verdict(True, None, reason)

        return verdict_of(check)

    def _fields(self) -> dict[str, Any]:
        return {
            "checkpoint": str(self.checkpoint),
            "content": self.row.content,
            "content_salt": self.row.content_salt,
            "id": self.row.id,
            "proof": self.part.fields(),
            "receipt": self.receipt,
            "seq": self.seq,
            "vector": self.row.vector,
            "vector_salt": self.row.vector_salt,
        }

    @classmethod
    def _read(cls, fields: dict[str, Any]) -> Refutation:
        found = fields_of(
            fields,
            checkpoint=str,
            content=bytes,
            content_salt=bytes,
            id=str,
            proof=dict,
            receipt=bytes,
            seq=int,
            vector=bytes,
            vector_salt=bytes,
        )
        _check_texts([found["id"]])
        row = Row(found["id"], found["vector"], found["content"], found["vector_salt"], found["content_salt"])
        if len(found["receipt"]) != HASH_BYTES or found["seq"] < 1:
            raise CorruptionError("a refutation of no receipt")
        checkpoint, part = checkpoint_of(found["checkpoint"]), StatePart.read(found["proof"])
        return cls(checkpoint, found["seq"], found["receipt"], row, part)


def list_hash(number: int, entries: Sequence[Named]) -> bytes:
    """The hash of a subtree's local list."""
    parts = [_LIST, pack("<BI", number, len(entries))]
    for one in entries:
        parts += [_INT64.pack(one.raw), prefixed(one.id.encode()), one.leaf]
    return sha256(b"".join(parts)).digest()


def plain_where(where: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a filter that parses, in plain Python: the caller may change his own afterwards."""
    plain = _plain(where)
    assert isinstance(plain, dict)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return encoding.normalise_scalar(value, "where")


def _raw_distance(metric: str, row: Sequence[int], query: Sequence[int]) -> int:
    if metric == "ip":
        return -sum(x * q for x, q in zip(row, query, strict=True))
    return sum((x - q) * (x - q) for x, q in zip(row, query, strict=True))


def _check_texts(ids: list[Any]) -> None:
    for id in ids:
        encoding.check_id(id, "id")
