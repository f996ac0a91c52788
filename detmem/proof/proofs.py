"""Proofs as files: of a record (there, or not), and that one checkpoint continues another (spec/receipts.md).

Rule 1  Who verifies brings the checkpoint that he trusts and the names that he asks about; what a file says of itself
        is only compared with these.
Rule 2  ``encode`` and ``decode`` are inverse, and ``decode`` accepts nothing else (``CorruptionError``).
Rule 3  ``verify`` gives a ``Verdict`` that says what was shown and what was not; a bad proof raises nothing there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from detmem.errors import CorruptionError, StorageError, UsageError, shown
from detmem.machine import encoding
from detmem.machine.commitment import (
    ZERO,
    collection_leaf,
    commit_leaf,
    prefixed,
    record_leaf,
    state_key,
)
from detmem.proof.checkpoint import Checkpoint
from detmem.proof.merkle import (
    HASH_BYTES,
    BadProof,
    verify_consistency,
    verify_inclusion,
    verify_state,
)

__all__ = [
    "Anchor",
    "Claim",
    "ConsistencyProof",
    "Proof",
    "ProofFile",
    "RecordProof",
    "StatePart",
    "Verdict",
    "check_anchor",
    "check_bytes",
    "check_trusted",
    "checkpoint_of",
    "fields_of",
    "given_checkpoint",
    "in_order",
    "items_of",
    "key_of",
    "record_leaf_of",
    "verdict_of",
]

_MAX_FILE_BYTES = 16 << 20

File = TypeVar("File", bound="ProofFile")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check has shown.

    ``ok``: whether everything that could be checked holds, and something trusted was there to check it against.
    ``level``: the highest of R0 to R3 that was shown; None for a proof, or when nothing was.  ``reason``: a sentence.
    ``not_shown``: what nobody should read into it.  ``rank``: where two answers part, counted from 1.
    """

    ok: bool
    level: str | None
    reason: str
    not_shown: tuple[str, ...] = ()
    rank: int | None = None


def verdict_of(check: Callable[[], Verdict]) -> Verdict:
    """The verdict of a check; a bad proof in it is a verdict as well."""
    try:
        return check()
    except CorruptionError as error:
        return Verdict(False, None, str(error))


# ----------------------------------------------------------------------------------------------------- files, and names


@dataclass(frozen=True)
class ProofFile:
    """What all files of spec/receipts.md have in common.  ``decode`` of a class reads the files of its own kinds."""

    kind: ClassVar[str]
    max_bytes: ClassVar[int] = _MAX_FILE_BYTES

    def _fields(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def _read(cls: type[File], fields: dict[str, Any]) -> File:
        raise NotImplementedError

    def encode(self) -> bytes:
        """The file's bytes.  ``UsageError`` when it would be larger than a file may be."""
        data = encoding.encode([self.kind, self._fields()], self.kind)
        if len(data) > self.max_bytes:
            raise UsageError(f"{self.kind}: at most {self.max_bytes} bytes, found {len(data)}")
        return data

    @classmethod
    def decode(cls: type[File], data: bytes) -> File:
        """Inverse of ``encode``; ``CorruptionError`` for anything else."""
        check_bytes(data)
        value = encoding.decode(data, max_bytes=cls.max_bytes)
        kinds = {one.kind: one for one in [cls, *cls.__subclasses__()] if hasattr(one, "kind")}
        if not (isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and value[0] in kinds):
            raise CorruptionError(f"expected a file of kind {' or '.join(kinds)}, found {value!s:.80}")
        fields = value[1]
        if not isinstance(fields, dict):
            raise CorruptionError(f"{value[0]}: expected a map of fields")
        try:
            return kinds[value[0]]._read(fields)
        except UsageError as error:  # what a caller may not hand in, a file may not hold either
            raise CorruptionError(f"{value[0]}: {error}") from None

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, in hex: its name elsewhere."""
        return sha256(self.encode()).hexdigest()

    def save(self, path: Any) -> None:
        """Write the file, over what stands there."""
        data = self.encode()
        try:
            Path(path).write_bytes(data)
        except (TypeError, ValueError):
            raise _no_path(path) from None
        except OSError as error:
            raise StorageError(error.errno, f"write failed: {error.strerror}", str(path)) from error

    @classmethod
    def load(cls: type[File], path: Any) -> File:
        """Read a file that ``save`` wrote.  ``CorruptionError`` for anything else, ``StorageError`` for no file."""
        try:
            with Path(path).open("rb") as file:  # which takes no number for a file descriptor
                data = file.read(cls.max_bytes + 1)
        except (TypeError, ValueError):
            raise _no_path(path) from None
        except OSError as error:
            raise StorageError(error.errno, f"read failed: {error.strerror}", str(path)) from error
        return cls.decode(data)


def check_bytes(data: object) -> None:
    """``UsageError`` for what is no bytes at all."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise UsageError(f"data: expected bytes, found {type(data).__name__}")


def _no_path(path: object) -> UsageError:
    return UsageError(f"path: expected a str or PathLike without NUL, found {type(path).__name__} {shown(path)}")


def fields_of(fields: Mapping[str, Any], **types: type | tuple[type, ...]) -> dict[str, Any]:
    """The values of exactly these fields, each of one of its types; ``CorruptionError``."""
    if sorted(fields) != sorted(types):
        raise CorruptionError(f"expected the fields {', '.join(sorted(types))}, found {', '.join(sorted(fields)):.200}")
    for name, wanted in types.items():
        if type(fields[name]) not in (wanted if isinstance(wanted, tuple) else (wanted,)):
            raise CorruptionError(f"{name}: found a {type(fields[name]).__name__}")
    return dict(fields)


def items_of(value: Any, what: str, *types: type | tuple[type, ...]) -> list[Any]:
    """The items of an array of exactly these types."""
    good = isinstance(value, list) and len(value) == len(types)
    if not good or any(type(one) not in (t if isinstance(t, tuple) else (t,)) for one, t in zip(value, types)):  # noqa: B905
        raise CorruptionError(f"{what}: found {value!s:.80}")
    return list(value)


def checkpoint_of(text: str) -> Checkpoint:
    """A checkpoint that stands in a file."""
    try:
        return Checkpoint.parse(text)
    except UsageError as error:
        raise CorruptionError(str(error)) from None


def given_checkpoint(value: Any, what: str) -> Checkpoint:
    """A checkpoint that a caller hands in, or its text."""
    checkpoint = Checkpoint.read(value, what)
    if checkpoint is None:
        raise UsageError(f"{what}: expected a Checkpoint or its text, found None")
    return checkpoint


def key_of(collection: str, id: str) -> bytes:
    """The state key of a record, or with ``id`` "" of the collection."""
    return state_key(prefixed(collection.encode()), prefixed(id.encode()))


def record_leaf_of(collection: str, id: str, commitments: bytes) -> bytes:
    """The state leaf of a record; ``commitments``: of vector and content, joined."""
    return record_leaf(
        prefixed(collection.encode()), prefixed(id.encode()), commitments[:HASH_BYTES], commitments[HASH_BYTES:]
    )


def check_trusted(own: Checkpoint, trusted: Checkpoint, consistency: ConsistencyProof | None) -> None:
    """``BadProof`` unless a file's checkpoint is the trusted one, or is shown to lead to it."""
    if own == trusted:
        return
    if consistency is None:
        raise BadProof(
            f"the checkpoint is that of seq {own.seq} with log root {own.log_root}, trusted is seq {trusted.seq} with "
            f"{trusted.log_root}: where the trusted one is the later, give the consistency proof between them"
        )
    consistency.show(own, trusted)


# ------------------------------------------------------------------------------------------------------------ the parts


class Anchor(NamedTuple):
    """Where in the log the leaf stands that binds a state root: the commit's number of operations, and the way up."""

    operations: int
    leaf: int
    path: bytes

    @classmethod
    def read(cls, value: Any) -> Anchor | None:
        """From a file's value."""
        if value is None:
            return None
        count, index, path = items_of(value, "anchor", int, int, bytes)
        if count < 1:
            raise CorruptionError(f"expected the number of a commit's operations, found {count}")
        return cls(_count(count), _count(index), path)


def _count(value: int) -> int:
    if value < 0:
        raise CorruptionError(f"expected a count, found {value}")
    return value


def check_anchor(anchor: Anchor | None, seq: int, state_root: bytes, checkpoint: Checkpoint) -> None:
    """``BadProof`` unless the log of ``checkpoint`` binds ``state_root`` at ``seq``."""
    if not 0 <= seq <= checkpoint.seq:
        raise BadProof(f"seq {seq} lies behind the checkpoint at {checkpoint.seq}")
    if anchor is None or seq == 0:
        if anchor is not None or seq or state_root != ZERO:
            raise BadProof(f"nothing binds state root {state_root.hex()} at seq {seq}")
        return
    last = seq == checkpoint.seq
    if last and (anchor.leaf != checkpoint.log_size - 1 or state_root.hex() != checkpoint.state_root):
        raise BadProof(f"at seq {seq} the checkpoint has state root {checkpoint.state_root}, found {state_root.hex()}")
    if anchor.operations >= 1 << 32:
        raise BadProof(f"a commit of {anchor.operations} operations")
    closing = commit_leaf(seq, anchor.operations, state_root)
    verify_inclusion(closing, anchor.leaf, checkpoint.log_size, anchor.path, bytes.fromhex(checkpoint.log_root))


class StatePart(NamedTuple):
    """What stands under some keys at one seq, and the anchor of the state root that this leads to."""

    anchor: Anchor | None
    buckets: tuple[bytes, ...]
    nodes: bytes

    def fields(self) -> dict[str, Any]:
        """As a file's value."""
        anchor = None if self.anchor is None else list(self.anchor)
        return {"anchor": anchor, "buckets": list(self.buckets), "nodes": self.nodes}

    @classmethod
    def read(cls, value: Any) -> StatePart:
        """Inverse of ``fields``."""
        if not isinstance(value, dict):
            raise CorruptionError("expected a state part")
        fields = fields_of(value, anchor=(list, type(None)), buckets=list, nodes=bytes)
        if any(type(bucket) is not bytes for bucket in fields["buckets"]):
            raise CorruptionError("a bucket that is not bytes")
        return cls(Anchor.read(fields["anchor"]), tuple(fields["buckets"]), fields["nodes"])

    def show(self, leaves: Mapping[bytes, bytes | None], seq: int, checkpoint: Checkpoint) -> None:
        """``BadProof`` unless under a trusted checkpoint, at ``seq``, each key has this leaf, or none."""
        root, entries = verify_state(self.buckets, self.nodes, leaves)
        for key, leaf in leaves.items():
            if entries.get(key) != leaf:
                found = "nothing" if key not in entries else f"leaf {entries[key].hex()}"
                wanted = "nothing" if leaf is None else leaf.hex()
                raise BadProof(f"under key {key.hex()} stands {found}, expected {wanted}")
        check_anchor(self.anchor, seq, root, checkpoint)


class Claim(NamedTuple):
    """What a proof says of one name: ``opening`` is None (absent), the vector's and the content's commitment (64
    bytes), or, of a collection itself (id ""), that of its definition (32 bytes)."""

    collection: str
    id: str
    opening: bytes | None

    @property
    def leaf(self) -> bytes | None:
        if self.opening is None:
            return None
        if not self.id:
            return collection_leaf(prefixed(self.collection.encode()), self.opening)
        return record_leaf_of(self.collection, self.id, self.opening)

    @classmethod
    def read(cls, value: Any) -> Claim:
        collection, id, opening = items_of(value, "claim", str, str, (bytes, type(None)))
        encoding.check_name(collection, "claim")
        if id:
            encoding.check_id(id, "claim")
        if opening is not None and len(opening) != (2 * HASH_BYTES if id else HASH_BYTES):
            raise CorruptionError(f"claim of {id!r}: an opening of {len(opening)} bytes")
        return cls(collection, id, opening)


# ------------------------------------------------------------------------------------------------------------ the files


@dataclass(frozen=True)
class Proof(ProofFile):
    """A ``RecordProof`` or a ``ConsistencyProof``: ``Proof.decode`` and ``Proof.load`` read either."""


@dataclass(frozen=True)
class RecordProof(Proof):
    """What stands at ``seq`` under some names: made by ``Database.prove``, for one name."""

    kind: ClassVar[str] = "detmem/state-proof/v1"

    checkpoint: Checkpoint
    seq: int
    claims: tuple[Claim, ...]
    part: StatePart

    @property
    def present(self) -> bool:
        """Whether all of the names are there."""
        return all(claim.opening is not None for claim in self.claims)

    def verify(
        self,
        checkpoint: Checkpoint | str,
        collection: str | None = None,
        id: str | None = None,
        *,
        consistency: ConsistencyProof | None = None,
    ) -> Verdict:
        """Whether it holds under a checkpoint that the caller trusts, for the name that he asks about.

        Without a name: for whatever names it has; then read ``claims``.  ``consistency`` leads from the proof's
        checkpoint to a later one that is trusted.
        """
        trusted = given_checkpoint(checkpoint, "checkpoint")
        return verdict_of(lambda: self._verify(trusted, collection, id, consistency))

    def _verify(
        self, trusted: Checkpoint, collection: str | None, id: str | None, consistency: ConsistencyProof | None
    ) -> Verdict:
        for claim in self.claims:
            if collection not in (None, claim.collection) or id not in (None, claim.id):
                raise BadProof(f"it is about {claim.id!r} of {claim.collection!r}, asked was {id!r} of {collection!r}")
        check_trusted(self.checkpoint, trusted, consistency)
        leaves = {key_of(claim.collection, claim.id): claim.leaf for claim in self.claims}
        self.part.show(leaves, self.seq, self.checkpoint)
        said = [
            f"{claim.id!r} of {claim.collection!r} is {'absent' if claim.opening is None else 'live'}"
            for claim in self.claims
        ]
        return Verdict(True, None, f"at seq {self.seq} {', '.join(said)}")

    def _fields(self) -> dict[str, Any]:
        claims = [list(claim) for claim in self.claims]
        return {"checkpoint": str(self.checkpoint), "claims": claims, "proof": self.part.fields(), "seq": self.seq}

    @classmethod
    def _read(cls, fields: dict[str, Any]) -> RecordProof:
        found = fields_of(fields, checkpoint=str, claims=list, proof=dict, seq=int)
        claims = tuple(Claim.read(value) for value in found["claims"])
        names = [claim[:2] for claim in claims]
        if not claims or not in_order(names):
            raise CorruptionError("expected claims in ascending order, at least one")
        return cls(checkpoint_of(found["checkpoint"]), _count(found["seq"]), claims, StatePart.read(found["proof"]))


class Closing(NamedTuple):
    """The last leaf of a log is its last commit's: that commit's number of operations, and the way up."""

    operations: int
    path: bytes


@dataclass(frozen=True)
class ConsistencyProof(Proof):
    """That a log of the checkpoint ``new`` begins with that of ``old``; made by ``Database.prove_consistency``."""

    kind: ClassVar[str] = "detmem/consistency/v1"

    old: Checkpoint
    new: Checkpoint
    path: bytes
    old_closing: Closing | None
    new_closing: Closing | None

    def verify(self, old: Checkpoint | str, new: Checkpoint | str) -> Verdict:
        """Whether it holds between these two checkpoints."""
        first, second = given_checkpoint(old, "old"), given_checkpoint(new, "new")

        def check() -> Verdict:
            self.show(first, second)
            return Verdict(True, None, f"the log at seq {second.seq} continues that at seq {first.seq}")

        return verdict_of(check)

    def show(self, old: Checkpoint, new: Checkpoint) -> None:
        """``BadProof`` unless it leads from the one to the other."""
        if (self.old, self.new) != (old, new):
            raise BadProof(
                f"the consistency proof leads from seq {self.old.seq} to {self.new.seq}, or is of other roots; "
                f"asked was from seq {old.seq} to {new.seq}"
            )
        if old.seq > new.seq:
            raise BadProof(f"seq {new.seq} cannot continue seq {old.seq}")
        roots = bytes.fromhex(old.log_root), bytes.fromhex(new.log_root)
        verify_consistency(old.log_size, roots[0], new.log_size, roots[1], self.path)
        for checkpoint, closing in ((old, self.old_closing), (new, self.new_closing)):
            anchor = None if closing is None else Anchor(closing.operations, checkpoint.log_size - 1, closing.path)
            check_anchor(anchor, checkpoint.seq, bytes.fromhex(checkpoint.state_root), checkpoint)

    def _fields(self) -> dict[str, Any]:
        closings = [None if one is None else list(one) for one in (self.old_closing, self.new_closing)]
        return {
            "new": str(self.new),
            "new_closing": closings[1],
            "old": str(self.old),
            "old_closing": closings[0],
            "path": self.path,
        }

    @classmethod
    def _read(cls, fields: dict[str, Any]) -> ConsistencyProof:
        closing = (list, type(None))
        found = fields_of(fields, new=str, new_closing=closing, old=str, old_closing=closing, path=bytes)
        closings = [
            None if value is None else Closing(*items_of(value, "closing", int, bytes))
            for value in (found["old_closing"], found["new_closing"])
        ]
        for one in closings:
            _count(0 if one is None else one.operations)
        return cls(checkpoint_of(found["old"]), checkpoint_of(found["new"]), found["path"], *closings)


def in_order(values: Iterable[Any]) -> bool:
    """Whether values are strictly ascending."""
    return all(a < b for a, b in pairwise(values))
