"""Operations: what can happen to a memory, each with exactly one byte string (spec/log.md, "Operation").

``decode`` is the inverse of ``encode``, and accepts nothing else.  An operation is resolved: it carries whole
resulting values, so replaying it needs no older payload.  Its header carries names and commitments; the log tree and
the link cover the header, and the header's commitments cover the payload.

It does not know whether an operation is legal in some state: that is ``state``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from detmem.errors import CorruptionError, UsageError
from detmem.machine import contents, encoding, fixed
from detmem.machine.commitment import ZERO, commit, operation_leaf

__all__ = [
    "ADD",
    "CREATE",
    "DELETE",
    "DROP",
    "ERASE",
    "HAS_CONTENT",
    "HAS_VECTOR",
    "HEADER",
    "LINK",
    "MAX_NOTE_BYTES",
    "MAX_OPERATION_BYTES",
    "MAX_VECTOR_BYTES",
    "OPERATION_NAMES",
    "PRESENT",
    "RECORD",
    "REQUEST",
    "SALTED",
    "SALT_BYTES",
    "UNLINK",
    "UPDATE",
    "UPSERT",
    "Definition",
    "Link",
    "Operation",
    "archived",
    "check_size",
    "count",
    "create",
    "decode",
    "decode_at",
    "delete",
    "drop",
    "encode",
    "erase",
    "erased",
    "link",
    "record",
    "request",
    "unlink",
    "write",
    "write_encoded",
]

CREATE, DROP, ADD, UPSERT, UPDATE, DELETE, LINK, UNLINK, RECORD, ERASE, REQUEST = range(1, 12)
OPERATION_NAMES = {
    CREATE: "create_collection",
    DROP: "drop_collection",
    ADD: "add",
    UPSERT: "upsert",
    UPDATE: "update",
    DELETE: "delete",
    LINK: "link",
    UNLINK: "unlink",
    RECORD: "record",
    ERASE: "erase",
    REQUEST: "request",
}
MAX_OPERATION_BYTES = 16 * 1024 * 1024
MAX_NOTE_BYTES = 64 * 1024

HEADER = Struct("<BBHHHII32s32s")
HAS_VECTOR, HAS_CONTENT, SALTED = 1, 2, 4
PRESENT, _ERASED, _ARCHIVED = b"\x00", b"\x01", b"\x02"
_BARE = (_ERASED, _ARCHIVED)
SALT_BYTES = 32
MAX_VECTOR_BYTES = 4 * fixed.MAX_DIMENSION
_NAMES_BYTES = encoding.MAX_COLLECTION_BYTES + encoding.MAX_ID_BYTES
_LARGEST = HEADER.size + _NAMES_BYTES + len(PRESENT) + SALT_BYTES + MAX_VECTOR_BYTES + encoding.MAX_CONTENT_BYTES
_LINK_BYTES = 16 + encoding.MAX_COLLECTION_BYTES * 2 + encoding.MAX_ID_BYTES

assert HEADER.size == 80
assert _LARGEST <= MAX_OPERATION_BYTES, "what the limits of the parts admit must fit into one operation"


@dataclass(frozen=True, slots=True)
class Definition:
    """What a collection is: number of dimensions, metric and number format, for good."""

    dim: int
    metric: str
    format: str
    erasable: bool = False

    def encode(self) -> bytes:
        """Canonical bytes: the content of the operation that creates the collection."""
        value = {"dim": self.dim, "erasable": self.erasable, "format": self.format, "metric": self.metric}
        return encoding.encode(value)

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Definition:
        """Inverse of ``encode``; ``CorruptionError`` for anything else."""
        value = encoding.decode(data, max_bytes=256)
        if not isinstance(value, dict) or list(value) != ["dim", "erasable", "format", "metric"]:
            raise CorruptionError(f"expected a collection's definition, found {value!r}")
        dim, metric, number_format, erasable = value["dim"], value["metric"], value["format"], value["erasable"]
        if not isinstance(dim, int) or isinstance(dim, bool) or not 1 <= dim <= fixed.MAX_DIMENSION:
            raise CorruptionError(f"definition: dim must be 1..{fixed.MAX_DIMENSION}, found {dim!r}")
        if not isinstance(metric, str) or not isinstance(
            number_format, str
        ):  # before they are looked up: a map cannot be
            raise CorruptionError(f"definition: expected texts for metric and format, found {value!r}")
        if metric not in fixed.METRICS or number_format not in fixed.FORMATS or not isinstance(erasable, bool):
            raise CorruptionError(f"definition: unknown metric, format or kind in {value!r}")
        return cls(dim, metric, number_format, erasable)


class Link(NamedTuple):
    """A directed edge between two live records, perhaps of two collections."""

    collection: str
    source: str
    relation: str
    target_collection: str
    target: str

    def encode(self) -> bytes:
        """Canonical bytes of what the operation's header does not say."""
        return encoding.encode([self.relation, self.target_collection, self.target])

    @classmethod
    def decode(cls, collection: str, source: str, data: bytes | memoryview) -> Link:
        """Inverse of ``encode``; ``CorruptionError`` for anything else."""
        value = encoding.decode(data, max_bytes=_LINK_BYTES)
        if not isinstance(value, list) or len(value) != 3:
            raise CorruptionError(f"expected a link's relation and target, found {value!r}")
        relation, target_collection, target = value
        try:
            return cls(
                collection,
                source,
                encoding.check_name(relation, "relation"),
                encoding.check_name(target_collection, "target collection"),
                encoding.check_id(target, "target"),
            )
        except UsageError as error:
            raise CorruptionError(f"a link: {error}") from None


class Operation(NamedTuple):
    """One thing that happened.

    ``vector`` is int32 little-endian, ``content`` canonical; None where the payload has no such part.  ``leaf`` is the
    leaf hash in the log tree.  ``salt`` goes before both parts in their commitments, empty in most collections.
    ``erased``: there was a payload, and it is gone; ``archived``: gone from here, and kept elsewhere.  ``decoded`` is
    what ``content`` means, for a caller who has just encoded it: (metadata, document).
    """

    type: int
    collection: str
    id: str
    vector: bytes | memoryview | None
    content: bytes | memoryview | None
    vector_commitment: bytes
    content_commitment: bytes
    header: bytes
    leaf: bytes
    decoded: tuple[encoding.Metadata, str | None] | None = None
    salt: bytes = b""
    erased: bool = False
    archived: bool = False

    @property
    def name(self) -> str:
        """The operation's type in words."""
        return OPERATION_NAMES[self.type]

    def meaning(self) -> tuple[encoding.Metadata, str | None]:
        """(metadata, document) of a record's content; ``CorruptionError`` when it is not canonical."""
        assert self.content is not None
        return self.decoded if self.decoded is not None else contents.decode(self.content)

    def told(self) -> contents.Meaning | bytes:
        """The same as it is at hand: in canonical bytes, or decoded."""
        if self.decoded is not None:
            return self.decoded
        assert self.content is not None
        contents.decode(self.content)
        return bytes(self.content)

    def pieces(self) -> tuple[bytes | memoryview, ...]:
        """The operation's bytes, in pieces."""
        if self.erased:
            return self.header, _ARCHIVED if self.archived else _ERASED
        if self.salt:
            return self.header, PRESENT, self.salt, self.vector or b"", self.content or b""
        return self.header, PRESENT, self.vector or b"", self.content or b""

    def has(self, part: int) -> bool:
        """Whether the payload carries, or carried, HAS_VECTOR or HAS_CONTENT."""
        return self.header[1] & part != 0

    @property
    def vector_size(self) -> int:
        """Bytes of the vector that the payload carries, or carried."""
        return int(HEADER.unpack_from(self.header)[5])

    def link(self) -> Link:
        """The link that a LINK or UNLINK is about.  ``CorruptionError`` when its content is none."""
        assert self.content is not None
        return Link.decode(self.collection, self.id, self.content)

    def requested(self) -> int:
        """Of how many operations a REQUEST speaks.  ``CorruptionError`` when its content is no count."""
        assert self.content is not None
        count = encoding.decode(self.content, max_bytes=9)
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise CorruptionError(f"a request: expected a count of operations, found {count!r}")
        return count

    def recorded(self) -> tuple[bytes, str | None]:
        """(hash, note) of a RECORD.  ``CorruptionError`` when its content is no such pair."""
        assert self.content is not None
        value = encoding.decode(self.content, max_bytes=64 + MAX_NOTE_BYTES)
        if isinstance(value, list) and len(value) == 2:
            digest, note = value
            if (
                isinstance(digest, bytes)
                and len(digest) == 32
                and (note is None or (isinstance(note, str) and len(note.encode()) <= MAX_NOTE_BYTES))
            ):
                return digest, note
        raise CorruptionError(f"expected a recorded hash and a note, found {value!r:.80}")


def create(name: str, definition: Definition) -> Operation:
    """Create a collection."""
    content = definition.encode()
    return _operation(CREATE, name, "", None, content, ZERO, commit(content))


def drop(name: str) -> Operation:
    """Drop a collection and all its records."""
    return _operation(DROP, name, "", None, None, ZERO, ZERO)


def write(
    type: int,
    collection: str,
    id: str,
    vector: bytes | memoryview | None,
    content: tuple[encoding.Metadata, str | None] | None,
    *,
    standing: tuple[bytes, bytes] = (ZERO, ZERO),
    salt: bytes = b"",
) -> Operation:
    """Add, upsert or update one record.  A part that an update leaves alone is None and keeps its ``standing``
    commitment."""
    encoded = None if content is None else encoding.encode_content(*content)
    return write_encoded(type, collection, id, vector, content, encoded, standing=standing, salt=salt)


def write_encoded(
    type: int,
    collection: str,
    id: str,
    vector: bytes | memoryview | None,
    content: tuple[encoding.Metadata, str | None] | None,
    encoded: bytes | None,
    *,
    standing: tuple[bytes, bytes] = (ZERO, ZERO),
    salt: bytes = b"",
) -> Operation:
    """As ``write``, for a caller who has the content's bytes already."""
    vector_commitment = standing[0] if vector is None else commit(vector, salt)
    content_commitment = standing[1] if encoded is None else commit(encoded, salt)
    return _operation(type, collection, id, vector, encoded, vector_commitment, content_commitment, content, salt)


def delete(collection: str, id: str) -> Operation:
    """Delete one record, and its links."""
    return _operation(DELETE, collection, id, None, None, ZERO, ZERO)


def link(edge: Link) -> Operation:
    """Link two live records."""
    return _about(LINK, edge.collection, edge.source, edge.encode())


def unlink(edge: Link) -> Operation:
    """Take a link away."""
    return _about(UNLINK, edge.collection, edge.source, edge.encode())


def record(digest: bytes, note: str | None) -> Operation:
    """Put the hash (32 bytes) of something that was read or decided into the log.  It changes no state."""
    return _about(RECORD, "", "", encoding.encode([digest, note]))


def erase(collection: str, id: str) -> Operation:
    """Delete a record if it lives, and give up the payload of every operation before this one that wrote it."""
    return _operation(ERASE, collection, id, None, None, ZERO, ZERO)


def request(collection: str, id: str, count: int) -> Operation:
    """Say that the next ``count`` operations are one command, known as ``id``."""
    return _about(REQUEST, collection, id, encoding.encode(count))


def erased(operation: Operation) -> Operation:
    """The same operation without its payload: what it is after an erasure."""
    return operation._replace(vector=None, content=None, decoded=None, salt=b"", erased=True, archived=False)


def archived(operation: Operation) -> Operation:
    """The same operation without its payload, which is kept elsewhere."""
    return erased(operation)._replace(archived=True)


def encode(operations: Iterable[Operation], max_bytes: int) -> bytes:
    """The body of a frame.  ``UsageError`` when it would exceed ``max_bytes``."""
    parts = [piece for operation in operations for piece in operation.pieces()]
    check_size(sum(map(len, parts)), max_bytes)
    return b"".join(parts)


def check_size(size: int, max_bytes: int) -> None:
    """``UsageError`` when a body of ``size`` bytes is too large for a frame."""
    if size > max_bytes:
        raise UsageError(f"one commit holds at most {max_bytes} bytes, found {size}: write in several commits")


def decode(body: memoryview) -> Iterator[Operation]:
    """The operations of a frame's body, each with its payload checked against its commitments.

    ``CorruptionError`` (with the offset in the body) for anything that ``encode`` cannot have written.  Vectors and
    contents are views into ``body``, unless they are small.
    """
    at = 0
    while at < len(body):
        operation, at = decode_at(body, at)
        yield operation


def decode_at(body: memoryview, at: int, leaf: bytes | None = None) -> tuple[Operation, int]:
    """The operation at byte ``at`` of a body, as ``decode``, and where the next one begins.

    ``leaf``: its own, where it has been decoded before; its payload is not hashed again then.
    """
    try:
        return _decode_one(body, at, leaf)
    except CorruptionError as error:
        raise CorruptionError(f"operation at byte {at} of the body: {error}") from None


def count(body: memoryview) -> int:
    """How many operations a body holds, by their sizes alone.  ``CorruptionError`` when these do not fill it."""
    number = at = 0
    while at < len(body):
        if len(body) - at < HEADER.size:
            raise CorruptionError(f"operation at byte {at} of the body: cut off")
        _, flags, name_size, id_size, _, vector_size, content_size, _, _ = HEADER.unpack_from(body, at)
        at += HEADER.size + name_size + id_size
        payload = 0 if body[at : at + 1] in _BARE else SALT_BYTES * (flags & SALTED != 0) + vector_size + content_size
        at += 1 + payload
        number += 1
    if at != len(body):
        raise CorruptionError(f"operation {number} of the body: cut off")
    return number


def _operation(
    type: int,
    collection: str,
    id: str,
    vector: bytes | memoryview | None,
    content: bytes | None,
    vector_commitment: bytes,
    content_commitment: bytes,
    decoded: tuple[encoding.Metadata, str | None] | None = None,
    salt: bytes = b"",
) -> Operation:
    name, record = collection.encode(), id.encode()
    flags = HAS_VECTOR * (vector is not None) | HAS_CONTENT * (content is not None) | SALTED * (salt != b"")
    vector_size, content_size = 0 if vector is None else len(vector), 0 if content is None else len(content)
    head = HEADER.pack(
        type, flags, len(name), len(record), 0, vector_size, content_size, vector_commitment, content_commitment
    )
    header = head + name + record
    leaf = operation_leaf(header)
    return Operation(
        type, collection, id, vector, content, vector_commitment, content_commitment, header, leaf, decoded, salt
    )


def _about(type: int, collection: str, id: str, content: bytes) -> Operation:
    """An operation whose payload is a content that is no record's."""
    return _operation(type, collection, id, None, content, ZERO, commit(content))


_FEW_BYTES = 128
_BOTH = HAS_VECTOR | HAS_CONTENT
_WRITES = (ADD, UPSERT, UPDATE)
# For each type: has a collection, has an id, the flags it may carry, and whether its two commitments are zero.
_SHAPES = {
    CREATE: (True, False, (HAS_CONTENT,), True, False),
    DROP: (True, False, (0,), True, True),
    ADD: (True, True, (_BOTH, _BOTH | SALTED), False, False),
    UPSERT: (True, True, (_BOTH, _BOTH | SALTED), False, False),
    UPDATE: (
        True,
        True,
        tuple(parts | salted for parts in (HAS_VECTOR, HAS_CONTENT, _BOTH) for salted in (0, SALTED)),
        False,
        False,
    ),
    DELETE: (True, True, (0,), True, True),
    LINK: (True, True, (HAS_CONTENT,), True, False),
    UNLINK: (True, True, (HAS_CONTENT,), True, False),
    RECORD: (False, False, (HAS_CONTENT,), True, False),
    ERASE: (True, True, (0,), True, True),
    REQUEST: (True, True, (HAS_CONTENT,), True, False),
}


def _decode_one(body: memoryview, at: int, known: bytes | None) -> tuple[Operation, int]:
    if len(body) - at < HEADER.size:
        raise CorruptionError(f"expected a header of {HEADER.size} bytes, found {len(body) - at}")
    type, flags, name_size, id_size, reserved, vector_size, content_size, of_vector, of_content = HEADER.unpack_from(
        body, at
    )
    if type not in _SHAPES:
        raise CorruptionError(f"unknown operation type {type}")
    has_collection, has_id, legal_flags, no_vector, no_content = _SHAPES[type]
    if flags not in legal_flags or reserved:
        raise CorruptionError(f"{OPERATION_NAMES[type]} cannot carry flags {flags} and the reserved field {reserved}")
    if (
        name_size > encoding.MAX_COLLECTION_BYTES
        or has_collection != (name_size > 0)
        or id_size > encoding.MAX_ID_BYTES
        or has_id != (id_size > 0)
    ):
        raise CorruptionError(f"illegal sizes: collection name {name_size} bytes, id {id_size} bytes")
    if (flags & HAS_VECTOR != 0) != (vector_size > 0) or (flags & HAS_CONTENT != 0) != (content_size > 0):
        raise CorruptionError(f"flags {flags} do not fit sizes {vector_size} and {content_size}")
    if vector_size > MAX_VECTOR_BYTES or vector_size % 4 or content_size > encoding.MAX_CONTENT_BYTES:
        raise CorruptionError(f"illegal sizes: vector {vector_size} bytes, content {content_size} bytes")
    if (no_vector and of_vector != ZERO) or (no_content and of_content != ZERO):
        raise CorruptionError("a commitment stands where there is nothing to commit to")
    of_vector, of_content = ZERO if no_vector else of_vector, ZERO if no_content else of_content  # one object for all
    names = at + HEADER.size
    state = names + name_size + id_size
    if state >= len(body):
        raise CorruptionError(f"expected at least {state + 1 - at} bytes, found {len(body) - at}")
    stands = bytes(body[state : state + 1])
    gone = stands in _BARE and type in _WRITES
    if not gone and body[state] != 0:
        raise CorruptionError(f"{OPERATION_NAMES[type]} with the state byte {body[state]}")
    vector_at = state + 1 + SALT_BYTES * (flags & SALTED != 0)
    content_at = vector_at + vector_size
    end = state + 1 if gone else content_at + content_size
    if end > len(body):
        raise CorruptionError(f"expected {end - at} bytes, found {len(body) - at}")
    try:
        collection = str(body[names : names + name_size], "utf-8")
        id = str(body[names + name_size : state], "utf-8")
    except UnicodeDecodeError as error:
        raise CorruptionError(f"a name is not UTF-8: {error.reason}") from None
    header = bytes(body[at:state])
    leaf = operation_leaf(header) if known is None else known
    if gone:
        archived = stands == _ARCHIVED
        operation = Operation(
            type, collection, id, None, None, of_vector, of_content, header, leaf, erased=True, archived=archived
        )
        return operation, end
    salt = bytes(body[state + 1 : vector_at])
    vector = _part(body, vector_at, content_at) if vector_size else None
    content = _part(body, content_at, end) if content_size else None
    if known is None and vector is not None and commit(vector, salt) != of_vector:
        raise CorruptionError(_other(f"the vector of {id!r}", of_vector, vector, salt))
    if known is None and content is not None and commit(content, salt) != of_content:
        raise CorruptionError(_other(f"the content of {id or collection!r}", of_content, content, salt))
    return Operation(type, collection, id, vector, content, of_vector, of_content, header, leaf, salt=salt), end


def _part(body: memoryview, start: int, stop: int) -> bytes | memoryview:
    """Bytes of a body; few are copied, for a view is larger than they are."""
    return bytes(body[start:stop]) if stop - start <= _FEW_BYTES else body[start:stop]


def _other(what: str, expected: bytes, data: bytes | memoryview, salt: bytes) -> str:
    return f"{what} does not match its commitment: expected {expected.hex()}, found {commit(data, salt).hex()}"
